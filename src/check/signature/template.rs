//! What is signed: a text put together from parts of the request.
//!
//! ```text
//! v0:{header:X-Slack-Request-Timestamp}:{body}
//! ```
//!
//! | Part | Stands for |
//! |---|---|
//! | `{body}` | the body, byte for byte |
//! | `{body_digest:sha256:raw}` | a digest of the body: md5, sha1, sha256, sha384 or sha512; raw, hex, base64 or base64url |
//! | `{method}` `{path}` `{query}` `{host}` | of the request, as sent |
//! | `{url}` | `public_url` with the request's query |
//! | `{url:twilio}` | the same in the spellings that Twilio signs; any may match |
//! | `{url:hubspot-v3}` | the same with twelve escapes decoded |
//! | `{url:plivo-v3}` | the same with the query sorted, and behind it the fields of a form, sorted |
//! | `{public_url}` | `public_url` exactly as configured |
//! | `{header:N}` `{query:N}` `{form:N}` `{json:/p}` | one value |
//! | `{timestamp}` | the timestamp as sent |
//! | `{field:N}` | a named item of the signature's list |
//! | `{form_sorted}` | all form fields, sorted by name, name and value joined, equal pairs once |
//! | `{secret}` | the secret, for plain digests |
//! | `{sorted:secret,query:a,query:b}` | these parts in the order of their bytes, joined |
//! | `{{` `}}` | the braces themselves |

use super::header::Encoding;
use super::mac::Hash;
use super::scheme::Signed;
use super::timestamp::TimestampPlace;
use super::url::{PublicUrl, UrlForm};
use crate::check::source::{Source, decode_component, raw_pairs};
use crate::reject::{Reason, Reject};
use crate::request::Head;
use std::borrow::Cow;

/// A signed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub(crate) parts: Box<[Part]>,
}

/// A part of a signed text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Fixed text.
    Literal(Box<str>),
    /// The body, byte for byte.
    Body,
    /// A digest of the body; `None`: its bytes as they are.
    BodyDigest(Hash, Option<Encoding>),
    /// The method as sent.
    Method,
    /// The path as sent.
    Path,
    /// The query as sent, without `?`; empty if there is none.
    Query,
    /// `Host` or `:authority` as sent.
    Host,
    /// The URL that the sender called.
    Url(UrlForm),
    /// `public_url` exactly as configured.
    PublicUrl,
    /// One value of the request.
    Value(Source),
    /// The timestamp as sent.
    Timestamp,
    /// An item of the signature's list.
    Field(Box<str>),
    /// All form fields in order of their names.
    FormSorted,
    /// The secret.
    Secret,
    /// Values and the secret in the order of their bytes.
    Sorted(Box<[Part]>),
}

impl Part {
    /// Can it only be read once the body is whole?
    pub(crate) fn needs_body(&self) -> bool {
        match self {
            Self::Body | Self::BodyDigest(..) | Self::FormSorted | Self::Url(UrlForm::PlivoV3) => true,
            Self::Value(source) => source.needs_body(),
            Self::Sorted(parts) => parts.iter().any(Self::needs_body),
            _ => false,
        }
    }

    /// The part itself, or those inside it.
    pub(crate) fn leaves(&self) -> &[Self] {
        match self {
            Self::Sorted(parts) => parts,
            _ => std::slice::from_ref(self),
        }
    }
}

/// A piece of a signed text, in order.
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    Secret,
    /// These and the secret, in the order of their bytes.
    Sorted(Vec<Cow<'a, [u8]>>),
}

/// What parts are read from.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) head: &'a Head<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) public_url: Option<&'a PublicUrl>,
    pub(crate) scheme: &'a Signed,
    /// The value that holds the signature, for its fields.
    pub(crate) signature: &'a [u8],
}

impl Template {
    /// Reads the written form. The error says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            literal.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            rest = &rest[at + 1..];
            if let Some(behind) = rest.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            if brace == "}" {
                return Err("a `}` stands alone: a literal brace is written twice".into());
            }
            let Some((name, behind)) = rest.split_once('}') else {
                return Err("a `{` is not closed: a literal brace is written twice".into());
            };
            rest = behind;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(part(name)?);
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        if parts.is_empty() {
            return Err("nothing is signed".into());
        }
        Ok(Self { parts: parts.into() })
    }

    pub(crate) fn has(&self, part: &Part) -> bool {
        self.leaves().any(|leaf| leaf == part)
    }

    /// All parts, those inside others too.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flat_map(Part::leaves)
    }

    /// Is every byte of the body part of the text, itself or as a digest?
    pub(crate) fn has_body(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Body | Part::BodyDigest(..)))
    }

    /// Where `{body}` stands, if everything else is known from the head: such a text is hashed while the body arrives.
    pub(crate) fn streams_at(&self) -> Option<usize> {
        let mut needing = self.parts.iter().enumerate().filter(|(_, part)| part.needs_body());
        match (needing.next(), needing.next()) {
            (Some((at, Part::Body)), None) => Some(at),
            _ => None,
        }
    }

    /// In how many spellings the text is tried.
    pub(crate) fn variants(&self) -> usize {
        self.url_form().map_or(1, UrlForm::variants)
    }

    /// Which of the spellings stands for the request in the memory of replays.
    pub(crate) fn canonical_variant(&self) -> usize {
        self.url_form().map_or(0, UrlForm::canonical)
    }

    /// How the URL is spelled; a scheme holds it at most once.
    fn url_form(&self) -> Option<UrlForm> {
        self.parts.iter().find_map(|part| if let Part::Url(form) = part { Some(*form) } else { None })
    }

    /// Hands out the text piece by piece. The parts are `range`; a value that is missing or unfit is a refusal.
    pub(crate) fn feed(
        &self,
        range: std::ops::Range<usize>,
        inputs: &Inputs<'_>,
        variant: usize,
        sink: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), Reject> {
        let head = inputs.head;
        for at in range {
            let Some(part) = self.parts.get(at) else { break };
            let mut bytes = |bytes: &[u8]| sink(Piece::Bytes(bytes));
            match part {
                Part::Literal(text) => bytes(text.as_bytes()),
                Part::Body => bytes(inputs.body),
                Part::BodyDigest(hash, encoding) => {
                    let digest = hash.digest(inputs.body);
                    match encoding {
                        None => bytes(digest.as_bytes()),
                        Some(encoding) => bytes(encoding.encode(digest.as_bytes()).as_bytes()),
                    }
                }
                Part::Method => bytes(head.method.as_bytes()),
                Part::Path => bytes(head.path.as_bytes()),
                Part::Query => bytes(head.query.unwrap_or_default().as_bytes()),
                Part::Host => bytes(head.host.as_bytes()),
                Part::Url(form) => {
                    let url = inputs.public_url.ok_or(Reason::Internal)?.called(head, *form, variant);
                    if *form == UrlForm::PlivoV3 {
                        let broken = || Reason::SignatureMalformed.because("query or form hold a broken escape");
                        bytes(&super::url::plivo(&url, inputs.body).ok_or_else(broken)?);
                    } else {
                        bytes(url.as_bytes());
                    }
                }
                Part::PublicUrl => bytes(inputs.public_url.ok_or(Reason::Internal)?.registered().as_bytes()),
                Part::Value(source) => {
                    let value = read(source, inputs)?.ok_or_else(|| missing(source))?;
                    if !inputs.scheme.is_time(|place| matches!(place, TimestampPlace::Source(time) if time == source)) {
                        self.no_separator_in(at, &value, source)?;
                    }
                    bytes(&value);
                }
                // Its form was checked: it holds nothing but a time, and a shorter or longer one is another time.
                Part::Timestamp => bytes(&timestamp(inputs)?),
                Part::Field(name) => {
                    let value = field(inputs, name)?;
                    if !inputs.scheme.is_time(|place| matches!(place, TimestampPlace::Field(time) if time == name)) {
                        self.no_separator_in(at, value, name)?;
                    }
                    bytes(value);
                }
                Part::FormSorted => feed_form_sorted(inputs.body, &mut bytes)?,
                Part::Secret => sink(Piece::Secret),
                Part::Sorted(parts) => {
                    let mut values = Vec::new();
                    for part in parts {
                        if let Part::Value(source) = part {
                            values.push(read(source, inputs)?.ok_or_else(|| missing(source))?);
                        }
                    }
                    sink(Piece::Sorted(values));
                }
            }
        }
        Ok(())
    }

    /// A value followed by a literal must not hold that literal's first character, or the border between the value
    /// and what follows could be moved: with `{header:webhook-id}.{body}` the ID `a.b` and the body `c` sign the same
    /// text as the ID `a` and the body `b.c`. Standard Webhooks demands it for its dots. Not asked of the timestamp:
    /// its form was checked, and an RFC 3339 time may hold a dot.
    /// Behind the body, a form or a URL, whose end is known by nothing else, it must not hold the last character of the
    /// literal before it either.
    fn no_separator_in(&self, at: usize, value: &[u8], what: &dyn std::fmt::Display) -> Result<(), Reject> {
        let literal = |part: Option<&Part>| match part {
            Some(Part::Literal(text)) => Some(text.as_bytes().to_vec()),
            _ => None,
        };
        let next = literal(self.parts.get(at + 1)).and_then(|text| text.first().copied());
        let open = at.checked_sub(2).and_then(|before| self.parts.get(before));
        let open = matches!(open, Some(Part::Body | Part::FormSorted | Part::Url(_)));
        let before = at.checked_sub(1).filter(|_| open).and_then(|before| literal(self.parts.get(before)));
        let before = before.and_then(|text| text.last().copied());
        let Some(separator) = [next, before].into_iter().flatten().find(|byte| memchr::memchr(*byte, value).is_some())
        else {
            return Ok(());
        };
        let detail =
            format!("{what} holds `{}`, which parts the signed values", char::from(separator).escape_default());
        Err(Reason::SignatureMalformed.because(detail))
    }
}

fn part(name: &str) -> Result<Part, String> {
    Ok(match name {
        "body" => Part::Body,
        "method" => Part::Method,
        "path" => Part::Path,
        "query" => Part::Query,
        "host" => Part::Host,
        "url" => Part::Url(UrlForm::AsCalled),
        "url:twilio" => Part::Url(UrlForm::Twilio),
        "url:hubspot-v3" => Part::Url(UrlForm::HubspotV3),
        "url:plivo-v3" => Part::Url(UrlForm::PlivoV3),
        "public_url" => Part::PublicUrl,
        "timestamp" => Part::Timestamp,
        "form_sorted" => Part::FormSorted,
        "secret" => Part::Secret,
        _ => match name.split_once(':') {
            Some(("field", "")) => return Err("{field:} names no field".into()),
            Some(("field", field)) => Part::Field(field.into()),
            Some(("body_digest", form)) => body_digest(form)?,
            Some(("sorted", list)) => sorted(list)?,
            Some(("header" | "query" | "form" | "json" | "xml", _)) => Part::Value(Source::parse(name)?),
            _ => {
                return Err(format!(
                    "{{{name}}} is not a part: there are body, body_digest:HASH:FORM, method, path, query, host, url, url:twilio, \
                     url:hubspot-v3, url:plivo-v3, public_url, timestamp, form_sorted, secret, sorted:P,P, header:N, query:N, form:N, \
                     json:/P, \
                     xml:/P, field:N"
                ));
            }
        },
    })
}

fn body_digest(form: &str) -> Result<Part, String> {
    let wrong = || format!("{{body_digest:{form}}} is not a digest: write for instance {{body_digest:sha256:hex}}");
    let (hash, encoding) = form.split_once(':').ok_or_else(wrong)?;
    let hash = match hash {
        "md5" => Hash::Md5,
        "sha1" => Hash::Sha1,
        "sha256" => Hash::Sha256,
        "sha384" => Hash::Sha384,
        "sha512" => Hash::Sha512,
        _ => return Err(wrong()),
    };
    let encoding = match encoding {
        "raw" => None,
        "hex" => Some(Encoding::Hex),
        "base64" => Some(Encoding::Base64),
        "base64url" => Some(Encoding::Base64Url),
        _ => return Err(wrong()),
    };
    Ok(Part::BodyDigest(hash, encoding))
}

fn sorted(list: &str) -> Result<Part, String> {
    let parts: Box<[Part]> = list.split(',').map(part).collect::<Result<_, _>>()?;
    let secrets = parts.iter().filter(|part| **part == Part::Secret).count();
    if secrets != 1 || parts.len() < 2 || !parts.iter().all(|part| matches!(part, Part::Secret | Part::Value(_))) {
        return Err(format!(
            "{{sorted:{list}}} wants the secret once and values besides: {{sorted:secret,query:nonce}}"
        ));
    }
    Ok(Part::Sorted(parts))
}

fn missing(source: &Source) -> Reject {
    Reason::SignatureMalformed.because(format!("{source} is missing, which is part of what is signed"))
}

/// Reads a value that belongs to the signature.
pub(crate) fn read<'a>(source: &Source, inputs: &Inputs<'a>) -> Result<Option<Cow<'a, [u8]>>, Reject> {
    source.read(inputs.head, inputs.body).map_err(|error| Reason::SignatureMalformed.because(error.0))
}

fn field<'a>(inputs: &Inputs<'a>, name: &str) -> Result<&'a [u8], Reject> {
    let list = inputs.scheme.from.list.as_ref().ok_or(Reason::Internal)?;
    list.field(inputs.signature, name).map_err(|what| Reason::SignatureMalformed.because(what))
}

/// Does the request leave out a time that may be left out?
pub(crate) fn lacks_optional_time(inputs: &Inputs<'_>) -> bool {
    inputs.scheme.timestamp.as_ref().is_some_and(|rule| match &rule.place {
        TimestampPlace::Source(source) => rule.optional && matches!(source.read(inputs.head, inputs.body), Ok(None)),
        TimestampPlace::Field(_) => false,
    })
}

/// The timestamp as written.
pub(crate) fn timestamp<'a>(inputs: &Inputs<'a>) -> Result<Cow<'a, [u8]>, Reject> {
    let rule = inputs.scheme.timestamp.as_ref().ok_or(Reason::Internal)?;
    match &rule.place {
        TimestampPlace::Source(source) => source
            .read(inputs.head, inputs.body)
            .map_err(|error| Reason::TimestampInvalid.because(error.0))?
            .ok_or_else(|| Reason::TimestampInvalid.because(format!("{source} is missing"))),
        TimestampPlace::Field(name) => {
            field(inputs, name).map(Cow::Borrowed).map_err(|reject| Reason::TimestampInvalid.because(reject.detail))
        }
    }
}

/// Twilio: for each field in order of its name, name and value without anything between; a pair that stands twice
/// counts once. <https://www.twilio.com/docs/usage/webhooks/webhooks-security>
fn feed_form_sorted(body: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), Reject> {
    let mut pairs = Vec::new();
    for (name, value) in raw_pairs(body) {
        match (decode_component(name), decode_component(value)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            _ => return Err(Reason::SignatureMalformed.because("the form holds a broken escape")),
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    for (name, value) in pairs {
        sink(&name);
        sink(&value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_written_form_becomes_parts() {
        let parts = |text: &str| Template::parse(text).map(|template| template.parts.into_vec());
        assert_eq!(parts("{body}"), Ok(vec![Part::Body]));
        assert_eq!(
            parts("v0:{header:X-T}:{body}"),
            Ok(vec![
                Part::Literal("v0:".into()),
                Part::Value(Source::header("X-T").unwrap()),
                Part::Literal(":".into()),
                Part::Body
            ])
        );
        assert_eq!(parts("{{x}}{body}"), Ok(vec![Part::Literal("{x}".into()), Part::Body]));
        assert_eq!(parts("{body_digest:sha256:raw}"), Ok(vec![Part::BodyDigest(Hash::Sha256, None)]));
        assert_eq!(parts("{body_digest:sha1:hex}"), Ok(vec![Part::BodyDigest(Hash::Sha1, Some(Encoding::Hex))]));
        for bad in [
            "{body_digest}",
            "{body_digest:}",
            "{body_digest:md4:hex}",
            "{body_digest:sha256}",
            "{body_digest:sha256:text}",
        ] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        for bad in ["", "{", "}", "{body", "body}", "{nope}", "{field:}", "{header:}", "{json:x}", "{{body}", "{}"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_with_one_body_and_nothing_else_of_it_are_hashed_as_they_arrive() {
        for (text, at) in [
            ("{body}", Some(0)),
            ("{header:a}.{body}", Some(2)),
            ("{method}{url}{body}{timestamp}", Some(2)),
            ("{url}{form_sorted}", None),
            ("{json:/a}{body}", None),
            ("{body}{body}", None),
            ("{header:a}", None),
            ("{header:a}{body_digest:sha256:raw}", None),
        ] {
            assert_eq!(Template::parse(text).unwrap().streams_at(), at, "{text}");
        }
    }

    #[test]
    fn form_fields_are_sorted_decoded_and_equal_pairs_count_once() {
        for (body, expected) in
            [("b=2&a=1", "a1b2"), ("a=2&a=1&a=2", "a1a2"), ("a=%2B1+x", "a+1 x"), ("a&b=", "ab"), ("", "")]
        {
            let mut text = Vec::new();
            feed_form_sorted(body.as_bytes(), &mut |bytes| text.extend_from_slice(bytes)).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected, "{body}");
        }
        assert!(feed_form_sorted(b"a=%zz", &mut |_| ()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_panic(text in "\\PC{0,60}") {
            let _ = Template::parse(&text);
        }

        #[test]
        fn template_like_text_is_parsed_without_panic(text in "[{}a-z:/._]{0,60}") {
            let _ = Template::parse(&text);
        }

        #[test]
        fn forms_are_fed_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = feed_form_sorted(&body, &mut |_| ());
        }
    }
}
