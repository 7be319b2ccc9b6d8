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
//! | `{path_and_query}` | both, with the `?` where a query stands |
//! | `{path_and_query:contentful}` | the same, the query escaped once more and then all of it |
//! | `{url}` | `public_url` with the request's query |
//! | `{url:twilio}` | the same in the spellings that Twilio signs; any may match |
//! | `{url:hubspot-v3}` | the same with twelve escapes decoded |
//! | `{url:plivo-v3}` | the same with the query sorted, and behind it the fields of a form, sorted |
//! | `{public_url}` | `public_url` exactly as configured |
//! | `{header:N}` `{query:N}` `{form:N}` `{json:/p}` | one value; with `?` behind it (`{json:/p?}`) nothing where it is missing |
//! | `{open:json:/p}` `{open:json:/p?}` | the same, and it may hold what parts the signed values; one of a text at most, and those behind it then hold none |
//! | `{any_case:query:N}` | one value as it stands, or in lower case: either counts |
//! | `{timestamp}` | the timestamp as sent |
//! | `{field:N}` | a named item of the signature's list |
//! | `{setting:N}` | what the route says under `settings` |
//! | `{json_lines:A,B?}` | for each of these members of the JSON body its name and its value, each with a line end behind it; with `?` nothing where it is missing |
//! | `{signed_headers}` | the headers that the request names, see `signed_headers` of a scheme |
//! | `{query_sorted}` | the query's pairs in order of their names, otherwise as sent |
//! | `{form_pairs:-sign,-type?}` | form fields but those named, sorted, `name=value` decoded, joined by `&`; those with `?` are signed or left out, either counts |
//! | `{form_listed:-sig}` | the same, each with a `&` before it, and `&` and `=` in values replaced by `_` |
//! | `{body_crc32}` | the CRC-32 of the body as a decimal number |
//! | `{inflated_body}` | the body, decompressed where `Content-Encoding` is gzip |
//! | `{body_as_json_string}` | the body as a string of JSON, as `JSON.stringify` writes it |
//! | `{json_compact}` `{json_sorted}` | the JSON body as `JSON.stringify` writes it, its members as they came or sorted by name |
//! | `{form_sorted}` | all form fields, sorted by name, name and value joined, equal pairs once |
//! | `{secret}` | the secret, for plain digests |
//! | `{sorted:secret,query:a,query:b}` | these parts in the order of their bytes, joined |
//! | `{{` `}}` | the braces themselves |

use super::header::Encoding;
use super::json::{self, Order};
use super::mac::Hash;
use super::scheme::Signed;
use super::timestamp::TimestampPlace;
use super::url::{PublicUrl, UrlForm};
use crate::check::source::{Pair, Source, raw_pairs, sorted_pairs};
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
    /// Path and query as sent.
    PathAndQuery,
    /// The same, escaped once more.
    EscapedPathAndQuery,
    /// `Host` or `:authority` as sent.
    Host,
    /// The URL that the sender called.
    Url(UrlForm),
    /// `public_url` exactly as configured.
    PublicUrl,
    /// One value of the request.
    Value(Source),
    /// The same; nothing where it is missing.
    Optional(Source),
    /// One value, as it stands or in lower case.
    AnyCase(Source),
    /// A value that may hold what parts it from the next; true: nothing where it is missing.
    Open(Source, bool),
    /// The headers that the request names.
    SignedHeaders,
    /// The query's pairs in order of their names.
    QuerySorted,
    /// Form fields but these, `name=value`, in order. The second list is left out in one of two spellings.
    FormPairs(Box<[Box<str>]>, Box<[Box<str>]>),
    /// The same with a `&` before each, and `_` for `&` and `=` in values.
    /// <https://developer.vonage.com/en/getting-started/concepts/signing-messages>
    FormListed(Box<[Box<str>]>),
    /// The CRC-32 of the body, decimal.
    BodyCrc32,
    /// The body, decompressed where the request says that it is compressed.
    InflatedBody,
    /// The body as a string of JSON.
    BodyAsJsonString,
    /// The JSON body as JavaScript writes it.
    Json(Order),
    /// The timestamp as sent.
    Timestamp,
    /// An item of the signature's list.
    Field(Box<str>),
    /// All form fields in order of their names.
    FormSorted,
    /// Something that only the receiver and the sender know of, without being a secret. A literal once a scheme is bound.
    Setting(Box<str>),
    /// Members of the JSON body, name and value each on a line; true: it may be missing.
    JsonLines(Box<[(Source, Box<str>, bool)]>),
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
            Self::FormPairs(..) | Self::FormListed(_) | Self::Json(_) | Self::JsonLines(_) => true,
            Self::BodyCrc32 | Self::InflatedBody | Self::BodyAsJsonString => true,
            Self::Value(source) | Self::Optional(source) | Self::AnyCase(source) | Self::Open(source, _) => {
                source.needs_body()
            }
            Self::Sorted(parts) => parts.iter().any(Self::needs_body),
            _ => false,
        }
    }

    /// May it be spelled in several ways?
    fn has_spellings(&self) -> bool {
        match self {
            Self::Url(form) => form.variants() > 1,
            Self::FormPairs(_, either) => !either.is_empty(),
            Self::AnyCase(_) => true,
            _ => false,
        }
    }

    /// Is its end known by nothing that it holds itself?
    fn is_open(&self) -> bool {
        matches!(self, Self::Body | Self::FormSorted | Self::Url(_) | Self::Open(..))
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
#[derive(Clone)]
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
        if parts.iter().any(|part| matches!(part, Part::Open(..)))
            && parts.iter().filter(|part| part.is_open()).count() > 1
        {
            return Err(
                "{open:…} stands once, and neither body, form nor URL beside it: the border could be moved".into()
            );
        }
        let in_ways = |part: &Part| match part {
            Part::Url(_) => Some(0),
            Part::FormPairs(_, either) if !either.is_empty() => Some(1),
            Part::AnyCase(_) => Some(2),
            _ => None,
        };
        let mut ways = parts.iter().filter_map(in_ways);
        if ways.next().is_some_and(|first| ways.any(|other| other != first)) {
            return Err("of url, any_case and fields with `?` one is enough: each is tried in several spellings".into());
        }
        Ok(Self { parts: parts.into() })
    }

    pub(crate) fn has(&self, part: &Part) -> bool {
        self.leaves().any(|leaf| leaf == part)
    }

    /// Does this value stand in it as an open one?
    pub(crate) fn has_open(&self, source: &Source) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Open(known, _) if known == source))
    }

    /// All parts, those inside others too.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().flat_map(Part::leaves)
    }

    /// Is every byte of the body part of the text, itself or as a digest? A CRC-32 is none: for any of them another body
    /// is found in a moment. Nor is what was decompressed or written anew: many bodies lead to one text.
    pub(crate) fn has_body(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Body | Part::BodyDigest(..) | Part::BodyAsJsonString))
    }

    /// Is every member of a JSON body part of the text?
    pub(crate) fn has_json(&self) -> bool {
        self.has_body() || self.parts.iter().any(|part| matches!(part, Part::Json(_)))
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
        match self.url_form() {
            Some(form) => form.variants(),
            None if self.parts.iter().any(Part::has_spellings) => 2,
            None => 1,
        }
    }

    /// In how many spellings the part that stands there is tried. One: it is the same in all spellings of the text.
    pub(crate) fn variants_at(&self, at: usize) -> usize {
        if self.parts.get(at).is_some_and(Part::has_spellings) { self.variants() } else { 1 }
    }

    /// Which of the spellings stands for the request in the memory of replays.
    pub(crate) fn canonical_variant(&self) -> usize {
        let any_case = self.parts.iter().any(|part| matches!(part, Part::AnyCase(_)));
        // In lower case all spellings that one signature fits are one. Of a field that may be left out nothing is known.
        self.url_form().map_or(usize::from(any_case), UrlForm::canonical)
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
                Part::EscapedPathAndQuery => bytes(super::url::escaped(head.path, head.query).as_bytes()),
                Part::PathAndQuery => {
                    bytes(head.path.as_bytes());
                    if let Some(query) = head.query {
                        bytes(b"?");
                        bytes(query.as_bytes());
                    }
                }
                Part::Host => bytes(head.host.as_bytes()),
                Part::Url(form) => {
                    let url = inputs.public_url.ok_or(Reason::Internal)?.called(head, *form, variant);
                    if *form == UrlForm::PlivoV3 {
                        let broken = |what| Reason::SignatureMalformed.because(format!("query or form hold {what}"));
                        bytes(&super::url::plivo(&url, inputs.body).map_err(broken)?);
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
                Part::Optional(source) => {
                    if let Some(value) = read(source, inputs)? {
                        self.no_separator_in(at, &value, source)?;
                        bytes(&value);
                    }
                }
                Part::AnyCase(source) => {
                    let value = read(source, inputs)?.ok_or_else(|| missing(source))?;
                    self.no_separator_in(at, &value, source)?;
                    if variant == 0 { bytes(&value) } else { bytes(&value.to_ascii_lowercase()) }
                }
                Part::Open(source, optional) => match read(source, inputs)? {
                    Some(value) => bytes(&value),
                    None if *optional => {}
                    None => return Err(missing(source)),
                },
                Part::Setting(_) => return Err(Reason::Internal.because("a setting that was not bound")),
                Part::JsonLines(members) => {
                    for (source, name, optional) in members {
                        match read(source, inputs)? {
                            Some(value) => {
                                bytes(name.as_bytes());
                                bytes(b"\n");
                                bytes(&value);
                                bytes(b"\n");
                            }
                            None if *optional => {}
                            None => return Err(missing(source)),
                        }
                    }
                }
                Part::SignedHeaders => {
                    let headers = inputs.scheme.headers.as_ref().ok_or(Reason::Internal)?;
                    bytes(&headers.text(inputs)?);
                }
                Part::QuerySorted => {
                    let mut pairs: Vec<_> = raw_pairs(head.query.unwrap_or_default().as_bytes()).collect();
                    pairs.sort_by_key(|(name, _)| *name);
                    for (at, (name, value)) in pairs.into_iter().enumerate() {
                        bytes(if at == 0 { b"" } else { b"&" });
                        bytes(name);
                        bytes(b"=");
                        bytes(value);
                    }
                }
                Part::FormPairs(but, either) => {
                    let either = if variant == 0 { &**either } else { &[] };
                    for (at, (name, value)) in form_pairs(inputs.body, but, either)?.into_iter().enumerate() {
                        bytes(if at == 0 { b"" } else { b"&" });
                        bytes(&name);
                        bytes(b"=");
                        bytes(&value);
                    }
                }
                Part::FormListed(but) => {
                    for (name, value) in form_pairs(inputs.body, but, &[])? {
                        bytes(b"&");
                        bytes(&name);
                        bytes(b"=");
                        let plain = |byte: &u8| if b"&=".contains(byte) { b'_' } else { *byte };
                        bytes(&value.iter().map(plain).collect::<Vec<u8>>());
                    }
                }
                Part::BodyCrc32 => bytes(crc32fast::hash(inputs.body).to_string().as_bytes()),
                Part::InflatedBody => inflate(inputs, &mut bytes)?,
                Part::BodyAsJsonString => {
                    let text = std::str::from_utf8(inputs.body);
                    let text = text.map_err(|_| Reason::SignatureMalformed.because("the body is not UTF-8"))?;
                    let mut quoted = String::with_capacity(text.len() + 2);
                    json::quote(text, &mut quoted);
                    bytes(quoted.as_bytes());
                }
                Part::Json(order) => {
                    let node = json::parse(inputs.body);
                    let broken = |what| Reason::SignatureMalformed.because(format!("the JSON body {what}"));
                    let mut written = String::with_capacity(inputs.body.len());
                    node.map_err(broken)?.write(*order, &mut written);
                    bytes(written.as_bytes());
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
    /// Behind a part whose end is known by nothing else (the body, a form, a URL, `{open:…}`) no value may hold the last
    /// character of the literal before it either: read from the end, every border is then where it was.
    fn no_separator_in(&self, at: usize, value: &[u8], what: &dyn std::fmt::Display) -> Result<(), Reject> {
        let literal = |part: Option<&Part>| match part {
            Some(Part::Literal(text)) => Some(text.as_bytes().to_vec()),
            _ => None,
        };
        let next = literal(self.parts.get(at + 1)).and_then(|text| text.first().copied());
        let open = self.parts.iter().take(at).any(Part::is_open);
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
        "path_and_query" => Part::PathAndQuery,
        "path_and_query:contentful" => Part::EscapedPathAndQuery,
        "host" => Part::Host,
        "url" => Part::Url(UrlForm::AsCalled),
        "url:twilio" => Part::Url(UrlForm::Twilio),
        "url:hubspot-v3" => Part::Url(UrlForm::HubspotV3),
        "url:plivo-v3" => Part::Url(UrlForm::PlivoV3),
        "public_url" => Part::PublicUrl,
        "timestamp" => Part::Timestamp,
        "form_sorted" => Part::FormSorted,
        "signed_headers" => Part::SignedHeaders,
        "query_sorted" => Part::QuerySorted,
        "form_pairs" => Part::FormPairs(Box::default(), Box::default()),
        "form_listed" => Part::FormListed(Box::default()),
        "body_crc32" => Part::BodyCrc32,
        "inflated_body" => Part::InflatedBody,
        "body_as_json_string" => Part::BodyAsJsonString,
        "json_compact" => Part::Json(Order::AsSent),
        "json_sorted" => Part::Json(Order::Sorted),
        "secret" => Part::Secret,
        _ => match name.split_once(':') {
            Some(("field", "")) => return Err("{field:} names no field".into()),
            Some(("field", field)) => Part::Field(field.into()),
            Some(("setting", name)) if !name.is_empty() => Part::Setting(name.into()),
            Some(("json_lines", list)) => {
                let member = |item: &str| {
                    let (name, optional) = item.strip_suffix('?').map_or((item, false), |name| (name, true));
                    Source::json(&format!("/{name}")).map(|source| (source, name.into(), optional))
                };
                Part::JsonLines(list.split(',').map(member).collect::<Result<_, _>>()?)
            }
            Some(("body_digest", form)) => body_digest(form)?,
            Some(("sorted", list)) => sorted(list)?,
            Some(("form_pairs", list)) => {
                let (either, always): (Vec<&str>, Vec<&str>) = list.split(',').partition(|item| item.ends_with('?'));
                let names = |items: &[&str]| match items {
                    [] => Ok(Box::default()),
                    items => left_out(&items.join(",")),
                };
                let either: Vec<&str> = either.iter().map(|item| item.trim_end_matches('?')).collect();
                Part::FormPairs(names(&always)?, names(&either)?)
            }
            Some(("any_case", place)) => Part::AnyCase(Source::parse(place)?),
            Some(("open", place)) => {
                let optional = place.ends_with('?');
                Part::Open(Source::parse(place.trim_end_matches('?'))?, optional)
            }
            Some(("form_listed", list)) => Part::FormListed(left_out(list)?),
            Some(("header" | "query" | "form" | "json" | "xml", source)) if source.ends_with('?') => {
                Part::Optional(Source::parse(name.trim_end_matches('?'))?)
            }
            Some(("header" | "query" | "form" | "json" | "xml", _)) => Part::Value(Source::parse(name)?),
            _ => {
                return Err(format!(
                    "{{{name}}} is not a part: there are body, body_digest:HASH:FORM, method, path, query, path_and_query, path_and_query:contentful, host, url, url:twilio, \
                     url:hubspot-v3, url:plivo-v3, public_url, timestamp, form_sorted, form_pairs:-N, form_listed:-N, query_sorted, \
                     signed_headers, body_crc32, inflated_body, body_as_json_string, json_compact, json_sorted, secret, sorted:P,P, header:N, query:N, form:N, \
                     json:/P, \
                     xml:/P, open:PLACE, any_case:PLACE, field:N, setting:N, json_lines:A,B?"
                ));
            }
        },
    })
}

/// `-sign,-sign_type`: the fields that are left out.
fn left_out(list: &str) -> Result<Box<[Box<str>]>, String> {
    let name = |item: &str| item.strip_prefix('-').filter(|name| !name.is_empty()).map(Into::into);
    let names: Option<_> = list.split(',').map(name).collect();
    names.ok_or_else(|| format!("`{list}` is no list of fields to leave out: write for instance -sign,-sign_type"))
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

/// The fields of a form, decoded, in order of their names.
fn form_sorted(body: &[u8]) -> Result<Vec<Pair<'_>>, Reject> {
    sorted_pairs(body).map_err(|what| Reason::SignatureMalformed.because(format!("the form holds {what}")))
}

/// The same without these. A name that stands twice is refused: which of the two the sender signed first is anybody's
/// guess.
fn form_pairs<'b>(body: &'b [u8], but: &[Box<str>], nor: &[Box<str>]) -> Result<Vec<Pair<'b>>, Reject> {
    let mut pairs = form_sorted(body)?;
    pairs.retain(|(name, _)| !but.iter().chain(nor).any(|known| *known.as_bytes() == **name));
    if pairs.windows(2).any(|pair| matches!(pair, [(a, _), (b, _)] if a == b)) {
        return Err(Reason::SignatureMalformed.because("the form holds a field twice"));
    }
    Ok(pairs)
}

/// The most that a compressed body may become, in bytes.
pub(super) const MAX_INFLATED: u64 = 16 << 20;

/// Hands out the body, decompressed piece by piece where the request says gzip. Nothing may follow the compressed data:
/// what is forwarded is the body as it came, and a backend could read that rest as a second member.
fn inflate(inputs: &Inputs<'_>, sink: &mut dyn FnMut(&[u8])) -> Result<(), Reject> {
    use std::io::Read as _;
    let encoding = inputs.head.headers.one(&http::header::CONTENT_ENCODING);
    let encoding = encoding.map_err(|_| Reason::SignatureMalformed.because("two headers content-encoding"))?;
    match encoding {
        None | Some(b"identity") => {
            sink(inputs.body);
            return Ok(());
        }
        Some(b"gzip") => {}
        Some(_) => return Err(Reason::SignatureMalformed.because("the body is compressed in another way than gzip")),
    }
    let mut left = inputs.body;
    let mut reader = flate2::bufread::GzDecoder::new(&mut left).take(MAX_INFLATED + 1);
    let (mut buffer, mut total) = ([0; 8 << 10], 0_u64);
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                total += count as u64;
                if total > MAX_INFLATED {
                    let detail = format!("the decompressed body is larger than {MAX_INFLATED} bytes");
                    return Err(Reason::SignatureMalformed.because(detail));
                }
                sink(buffer.get(..count).unwrap_or_default());
            }
            Err(_) => return Err(Reason::SignatureMalformed.because("the body is no gzip")),
        }
    }
    drop(reader);
    if left.is_empty() { Ok(()) } else { Err(Reason::SignatureMalformed.because("the body has more behind its gzip")) }
}

/// Headers that the request itself names as signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SignedHeaders {
    /// Where they are named: in a header, or in a field of the signature's list.
    pub(crate) named_in: NamedIn,
    /// Between two names.
    pub(crate) separator: u8,
    /// Put between two of them in the text.
    pub(crate) join: Box<str>,
    /// `name:value` instead of the value alone, and in order of the names.
    pub(crate) with_names: bool,
    /// Those that must be among them: whoever sends the request must not choose to sign nothing.
    pub(crate) require: Box<[crate::request::HeaderName]>,
}

/// Where signed headers are named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedIn {
    Header(crate::request::HeaderName),
    Field(Box<str>),
}

/// Headers that a request may name as signed.
const MAX_SIGNED_HEADERS: usize = 32;

impl SignedHeaders {
    /// Names and values, as the sender put them together.
    fn text(&self, inputs: &Inputs<'_>) -> Result<Vec<u8>, Reject> {
        let malformed = |what: String| Reason::SignatureMalformed.because(what);
        let list = match &self.named_in {
            NamedIn::Field(name) => Cow::Borrowed(field(inputs, name)?),
            NamedIn::Header(name) => {
                let source = Source::Header(name.clone());
                read(&source, inputs)?.ok_or_else(|| missing(&source))?
            }
        };
        let mut names = Vec::new();
        for name in list.split(|byte| *byte == self.separator) {
            let name = crate::request::HeaderName::from_bytes(name.trim_ascii())
                .map_err(|_| malformed("the list of signed headers holds something else".into()))?;
            if names.contains(&name) || names.len() == MAX_SIGNED_HEADERS {
                return Err(malformed(format!("the list of signed headers names {name} twice or is too long")));
            }
            names.push(name);
        }
        if let Some(name) = self.require.iter().find(|name| !names.contains(name)) {
            return Err(malformed(format!("header {name} is not among the signed ones")));
        }
        if self.with_names {
            names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        }
        let mut text = Vec::new();
        for (at, name) in names.iter().enumerate() {
            let source = Source::Header(name.clone());
            let value = read(&source, inputs)?.ok_or_else(|| missing(&source))?;
            if memchr::memmem::find(&value, self.join.as_bytes()).is_some() && !self.with_names && at + 1 < names.len()
            {
                return Err(malformed(format!("header {name} holds `{}`, which parts the signed values", self.join)));
            }
            if at > 0 {
                text.extend_from_slice(self.join.as_bytes());
            }
            if self.with_names {
                text.extend_from_slice(name.as_str().as_bytes());
                text.push(b':');
            }
            text.extend_from_slice(value.trim_ascii());
        }
        Ok(text)
    }
}

/// Twilio: for each field in order of its name, name and value without anything between; a pair that stands twice
/// counts once. <https://www.twilio.com/docs/usage/webhooks/webhooks-security>
fn feed_form_sorted(body: &[u8], sink: &mut dyn FnMut(&[u8])) -> Result<(), Reject> {
    let mut pairs = form_sorted(body)?;
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
            "{sorted:secret}",
            "{sorted:secret,secret}",
            "{sorted:query:a,query:b}",
            "{sorted:secret,body}",
            "{form_pairs:sign}",
            "{form_pairs:-}",
        ] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        assert_eq!(
            parts("{json:/a}:{open:json:/b?}:{json:/c}").unwrap()[2],
            Part::Open(Source::json("/b").unwrap(), true)
        );
        assert_eq!(
            parts("{form_pairs:-sign,-type?}"),
            Ok(vec![Part::FormPairs(["sign".into()].into(), ["type".into()].into())])
        );
        // Two borders of which either could be moved.
        for bad in
            ["{open:json:/a}:{open:json:/b}", "{body}:{open:json:/a}", "{open:header:x}.{url}", "{open:a}", "{open:}"]
        {
            assert!(parts(bad).is_err(), "{bad}");
        }
        assert!(parts("{url}{form_pairs:-a}").is_ok() && parts("{url}{form_pairs:-a?}").is_err());
        for bad in ["{any_case:query:a}{url}", "{any_case:query:a}{form_pairs:-a?}", "{any_case:a}"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        for bad in ["{form_pairs:sign}", "{form_pairs:-sign,?}", "{form_pairs:-sign?,}"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
        for bad in [
            "",
            "{",
            "}",
            "{body",
            "body}",
            "{nope}",
            "{field:}",
            "{setting:}",
            "{header:}",
            "{json:x}",
            "{{body}",
            "{}",
        ] {
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
