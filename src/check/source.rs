//! Where a value stands in a request: a header, a query parameter, a form field, a JSON member, an XML element, or
//! something inside the value of such a place.
//!
//! Used by the signature schemes (signatures, timestamps, parts of the signed text) and for event IDs. A value counts
//! only when there is exactly one of it: two parsers that disagree about which of two wins are how a check and a
//! backend come to read different requests.

use super::multipart;
use super::xml::XmlPath;
use crate::request::{Head, HeaderName, Repeated};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt;

/// The deepest member that a JSON pointer may name.
const MAX_DEPTH: usize = 64;
/// Values inside each other.
const MAX_INSIDE: usize = 4;

/// The most fields of a form that are put in order to see whether its signature holds. Signed forms have tens of them, and
/// common frameworks read no more than a thousand either (PHP's `max_input_vars`, Django's
/// `DATA_UPLOAD_MAX_NUMBER_FIELDS`). Without a bound a megabyte of `a&` from anybody costs a hundred times as much as
/// its MAC.
pub(crate) const MAX_FIELDS: usize = 1000;

/// A place in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The value of a header that may stand once.
    Header(HeaderName),
    /// A query parameter, percent-decoded.
    Query(Box<str>),
    /// A field of an `application/x-www-form-urlencoded` body, decoded, or of a `multipart/form-data` one.
    Form(Box<str>),
    /// A string, number or boolean of a JSON body, by JSON Pointer (RFC 6901). `*` stands for every element of an
    /// array: the values of a batch.
    Json(Box<str>),
    /// A text or attribute of an XML body.
    Xml(XmlPath),
    /// Something inside the value of another place.
    Inside(Box<Source>, Inner),
}

/// How one gets inside a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inner {
    /// It is JSON: the member that the pointer leads to, as in [`Source::Json`].
    Json(Box<str>),
    /// It is base64, padded: what it says.
    Base64,
    /// It is a token (JWT, compact JWS): the claim that the pointer leads to. Read, not verified.
    Claim(Box<str>),
}

/// The value is there, but not readable as one value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

impl Source {
    /// Reads the short form of the configuration: `header:X-Event-Id`, `query:sig`, `form:MessageSid`,
    /// `json:/event_id`, `xml:/Envelope/Body/Id`. Behind a `|` follows what is looked for inside: `form:data|json:/id`,
    /// `header:X-Sig|base64|json:/kid`, `json:/payload|jwt:/id`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((outer, inner)) = text.rsplit_once('|')
            && let Some(inner) = Inner::parse(inner)
        {
            let outer = Self::parse(outer)?;
            if outer.depth() >= MAX_INSIDE {
                return Err(format!("`{text}` goes deeper than {MAX_INSIDE} values inside each other"));
            }
            return Ok(Self::Inside(Box::new(outer), inner?));
        }
        let (kind, name) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` names no place: write header:NAME, query:NAME, form:NAME, json:/POINTER or xml:/PATH")
        })?;
        match kind {
            "header" => Self::header(name),
            "query" => Self::query(name),
            "form" => Self::form(name),
            "json" => Self::json(name),
            "xml" => Self::xml(name),
            _ => Err(format!(
                "`{kind}` is not a place: write header:NAME, query:NAME, form:NAME, json:/POINTER or xml:/PATH"
            )),
        }
    }

    /// A header by name.
    pub fn header(name: &str) -> Result<Self, String> {
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("`{name}` is not a header name"))?;
        // Carriers drop such fields or refuse them, since CGI-like backends cannot tell `_` from `-`.
        if name.contains('_') {
            return Err(format!("`{name}` holds an underscore: such headers do not pass"));
        }
        Ok(Self::Header(parsed))
    }

    /// A query parameter by its decoded name.
    pub fn query(name: &str) -> Result<Self, String> {
        if name.is_empty() { Err("the query parameter has no name".into()) } else { Ok(Self::Query(name.into())) }
    }

    /// A form field by its decoded name.
    pub fn form(name: &str) -> Result<Self, String> {
        if name.is_empty() { Err("the form field has no name".into()) } else { Ok(Self::Form(name.into())) }
    }

    /// A JSON member by pointer (RFC 6901), at most 64 levels deep.
    pub fn json(pointer: &str) -> Result<Self, String> {
        if !pointer.starts_with('/') {
            return Err(format!("`{pointer}` is not a JSON pointer: it starts with `/`, as in /data/id"));
        }
        if pointer.matches('/').count() > MAX_DEPTH {
            return Err(format!("`{pointer}` goes deeper than {MAX_DEPTH} levels"));
        }
        let mut rest = pointer;
        while let Some(at) = rest.find('~') {
            if !matches!(rest.as_bytes().get(at + 1), Some(b'0' | b'1')) {
                return Err(format!("`{pointer}` is not a JSON pointer: `~` is written `~0` and `/` is written `~1`"));
            }
            rest = &rest[at + 2..];
        }
        Ok(Self::Json(pointer.into()))
    }

    /// An element or attribute of XML by its path.
    pub fn xml(path: &str) -> Result<Self, String> {
        XmlPath::parse(path).map(Self::Xml)
    }

    /// Can the value only be read once the body is whole?
    pub fn needs_body(&self) -> bool {
        matches!(self.outermost(), Self::Form(_) | Self::Json(_) | Self::Xml(_))
    }

    /// The place in the request itself.
    pub fn outermost(&self) -> &Self {
        match self {
            Self::Inside(outer, _) => outer.outermost(),
            place => place,
        }
    }

    fn depth(&self) -> usize {
        match self {
            Self::Inside(outer, _) => 1 + outer.depth(),
            _ => 0,
        }
    }

    /// Reads the value. `Ok(None)`: it does not stand there. An error: repeated, malformed, or not a plain value.
    ///
    /// A JSON string is decoded; an integer keeps its digits, so that 64-bit IDs stay exact; a float, an object or an
    /// array is an error, and `null` counts as absent. The body is walked, not built: members off the path are
    /// skipped without recursion. A body that is no JSON object or array at all, a form for instance, has no members.
    pub fn read<'a>(&self, head: &Head<'a>, body: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, SourceError> {
        match self {
            Self::Header(name) => match head.headers.one(name) {
                Ok(value) => Ok(value.map(Cow::Borrowed)),
                Err(Repeated) => Err(self.repeated()),
            },
            Self::Query(name) => self.parameter(head.query.unwrap_or_default().as_bytes(), name),
            Self::Form(name) => match multipart::boundary(head, body) {
                None => self.parameter(body, name),
                Some(boundary) => match multipart::field(body, boundary, name) {
                    Ok(found) => Ok(found.and_then(|range| body.get(range)).map(Cow::Borrowed)),
                    Err(what) => Err(SourceError(format!("{self}: {what}"))),
                },
            },
            Self::Json(pointer) => json_value(pointer, body).map_err(|error| SourceError(format!("{self}: {error}"))),
            Self::Xml(path) => match path.read(body) {
                Ok(value) => Ok(value.map(|value| Cow::Owned(value.into_bytes()))),
                Err(error) => Err(SourceError(format!("{self}: {error}"))),
            },
            Self::Inside(outer, inner) => match outer.read(head, body)? {
                None => Ok(None),
                Some(value) => match inner.read(&value) {
                    Ok(found) => Ok(found.map(Cow::Owned)),
                    Err(what) => Err(SourceError(format!("{self}: {what}"))),
                },
            },
        }
    }

    fn parameter<'a>(&self, text: &'a [u8], name: &str) -> Result<Option<Cow<'a, [u8]>>, SourceError> {
        let mut found = None;
        // No escape is shorter than what it stands for: what is shorter than the name is passed over without a look.
        for (key, value) in raw_pairs_from(text, name.len().max(1)) {
            // A name that does not decode is not ours; a value of ours that does not is refused.
            if !decodes_to(key, name.as_bytes()) {
                continue;
            }
            if found.is_some() {
                return Err(self.repeated());
            }
            found = Some(decode_component(value).ok_or_else(|| SourceError(format!("{self} holds a broken escape")))?);
        }
        Ok(found)
    }

    fn repeated(&self) -> SourceError {
        SourceError(format!("{self} stands more than once"))
    }
}

impl Inner {
    /// `None`: this is no step, but part of a name.
    fn parse(text: &str) -> Option<Result<Self, String>> {
        let pointer = |pointer: &str| match Source::json(pointer)? {
            Source::Json(pointer) => Ok(pointer),
            _ => Err(format!("`{pointer}` is not a JSON pointer")),
        };
        match text.split_once(':') {
            None if text == "base64" => Some(Ok(Self::Base64)),
            Some(("json", rest)) => Some(pointer(rest).map(Self::Json)),
            Some(("jwt", rest)) => Some(pointer(rest).map(Self::Claim)),
            _ => None,
        }
    }

    /// What stands inside. The error never quotes the value.
    fn read(&self, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Json(pointer) => Ok(json_value(pointer, value)?.map(Cow::into_owned)),
            Self::Base64 => STANDARD.decode(value).map(Some).map_err(|_| "it is no base64".into()),
            Self::Claim(pointer) => {
                let mut parts = value.split(|byte| *byte == b'.');
                let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
                else {
                    return Err("it is no token".into());
                };
                let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| "the token is no base64url")?;
                Ok(json_value(pointer, &claims)?.map(Cow::into_owned))
            }
        }
    }
}

/// As one would say it: `header X-Signature`.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query parameter {name}"),
            Self::Form(name) => write!(f, "form field {name}"),
            Self::Json(pointer) => write!(f, "json member {pointer}"),
            Self::Xml(path) => write!(f, "xml element {path}"),
            Self::Inside(outer, Inner::Json(pointer)) => write!(f, "{outer}, json member {pointer}"),
            Self::Inside(outer, Inner::Base64) => write!(f, "{outer}, base64"),
            Self::Inside(outer, Inner::Claim(pointer)) => write!(f, "{outer}, claim {pointer}"),
        }
    }
}

/// The `name=value` pairs of a query or form, still encoded. Empty pairs are left out, as every decoder does.
pub(crate) fn raw_pairs(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    raw_pairs_from(text, 1)
}

/// Those of at least so many bytes.
fn raw_pairs_from(text: &[u8], length: usize) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == b'&').filter(move |pair| pair.len() >= length).map(|pair| {
        match memchr::memchr(b'=', pair) {
            Some(at) => (&pair[..at], &pair[at + 1..]),
            None => (pair, &pair[pair.len()..]),
        }
    })
}

/// Name and value, decoded.
pub(crate) type Pair<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>);

/// All pairs of a query or form, decoded, in order of their names and then their values. The error says what it holds
/// that it may not hold; more than [`MAX_FIELDS`] are told before they are collected.
pub(crate) fn sorted_pairs(text: &[u8]) -> Result<Vec<Pair<'_>>, &'static str> {
    let mut pairs = Vec::new();
    for (name, value) in raw_pairs(text) {
        if pairs.len() == MAX_FIELDS {
            return Err("more than 1000 fields");
        }
        match (decode_component(name), decode_component(value)) {
            (Some(name), Some(value)) => pairs.push((name, value)),
            _ => return Err("a broken escape"),
        }
    }
    pairs.sort_unstable();
    Ok(pairs)
}

/// The values of a batch as one, the missing ones as nothing: `a,b,,d`. `None` if there is none at all. A comma within a
/// value is escaped, so that no two batches meet; a long list becomes its first value, its count and its digest.
pub(crate) fn join(values: Vec<String>) -> Option<String> {
    /// An ID has at most 1024 bytes.
    const MOST: usize = 512;
    if values.iter().all(String::is_empty) {
        return None;
    }
    let escaped = |value: &String| match value.contains([',', '%']) {
        true => value.replace('%', "%25").replace(',', "%2C"),
        false => value.clone(),
    };
    let joined = values.iter().map(escaped).collect::<Vec<_>>().join(",");
    if joined.len() <= MOST {
        return Some(joined);
    }
    let first: String = joined.split(',').next().unwrap_or_default().chars().take(100).collect();
    Some(format!("{first},+{},sha256={}", values.len() - 1, hex::encode(Sha256::digest(joined))))
}

/// `application/x-www-form-urlencoded`: `+` is a space, `%41` is `A`. `None` where a `%` starts no escape.
pub(crate) fn decode_component(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if memchr::memchr2(b'+', b'%', text).is_none() {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while !bytes.as_slice().is_empty() {
        decoded.push(decoded_byte(&mut bytes)?);
    }
    Some(Cow::Owned(decoded))
}

/// Does a component stand for these bytes? It is not decoded further than to the first that is another one.
fn decodes_to(text: &[u8], name: &[u8]) -> bool {
    let mut bytes = text.iter();
    name.iter().all(|byte| decoded_byte(&mut bytes) == Some(*byte)) && bytes.as_slice().is_empty()
}

/// The next byte that a component stands for. `None` at its end, and where a `%` starts no escape.
fn decoded_byte(bytes: &mut std::slice::Iter<'_, u8>) -> Option<u8> {
    Some(match bytes.next()? {
        b'+' => b' ',
        b'%' => {
            let (high, low) = (hex_digit(*bytes.next()?)?, hex_digit(*bytes.next()?)?);
            high << 4 | low
        }
        other => *other,
    })
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn json_value<'a>(pointer: &str, body: &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, String> {
    if pointer.matches('/').count() > MAX_DEPTH {
        return Err(format!("deeper than {MAX_DEPTH} levels"));
    }
    // Judged by the body, which is signed, and not by Content-Type, which is not.
    if !matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Ok(None);
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let found = Walk { pointer }.deserialize(&mut json).map_err(|error| error.to_string())?;
    json.end().map_err(|error| error.to_string())?;
    Ok(found.map(|text| match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }))
}

/// Walks what is left of a pointer; empty: the value is here.
#[derive(Clone, Copy)]
struct Walk<'p> {
    pointer: &'p str,
}

impl<'p> Walk<'p> {
    /// The next member's name as written in the pointer, and the walk below it. `None`: the value is here.
    fn step(self) -> Option<(&'p str, Self)> {
        let rest = self.pointer.strip_prefix('/')?;
        let end = rest.find('/').unwrap_or(rest.len());
        Some((&rest[..end], Walk { pointer: &rest[end..] }))
    }

    fn plain<'de, E>(self, text: Cow<'de, str>) -> Result<Option<Cow<'de, str>>, E> {
        Ok(self.pointer.is_empty().then_some(text))
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<Cow<'de, str>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

// Every kind is handled, so that no error of serde's own quotes the value.
impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Cow<'de, str>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        self.plain(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        self.plain(Cow::Owned(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
        self.plain(Cow::Owned(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
        self.plain(Cow::Owned(number.to_string()))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        // A float has many spellings and loses digits: no use as an ID, a time or a part of a signed text.
        if self.pointer.is_empty() { Err(E::custom("the number is not a 64-bit integer")) } else { Ok(None) }
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        self.plain(Cow::Borrowed(if value { "true" } else { "false" }))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some((name, below)) = self.step() else {
            return Err(A::Error::custom("an object stands where a plain value was expected"));
        };
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(NameIs(name))? {
            if !is_it {
                map.next_value::<IgnoredAny>()?;
            } else if found.is_some() {
                return Err(A::Error::custom("the member stands more than once"));
            } else {
                found = Some(map.next_value_seed(below)?);
            }
        }
        Ok(found.flatten())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Some((name, below)) = self.step() else {
            return Err(A::Error::custom("an array stands where a plain value was expected"));
        };
        if name == "*" {
            let mut values = Vec::new();
            while let Some(value) = seq.next_element_seed(below)? {
                values.push(value.map(Cow::into_owned).unwrap_or_default());
            }
            return Ok(join(values).map(Cow::Owned));
        }
        // RFC 6901: digits without leading zeros.
        let canonical = name == "0" || (!name.starts_with('0') && name.bytes().all(|byte| byte.is_ascii_digit()));
        let index: Option<u64> = if canonical { name.parse().ok() } else { None };
        let (mut at, mut found) = (0, None);
        loop {
            if Some(at) == index {
                match seq.next_element_seed(below)? {
                    Some(value) => found = value,
                    None => break,
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                break;
            }
            at += 1;
        }
        Ok(found)
    }
}

/// Is a member's name the one that the pointer asks for?
struct NameIs<'p>(&'p str);

impl<'de> DeserializeSeed<'de> for NameIs<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameIs<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        if !self.0.contains('~') {
            return Ok(self.0 == name);
        }
        Ok(self.0.replace("~1", "/").replace("~0", "~") == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;
    use proptest::prelude::*;

    fn read(
        source: &str,
        query: Option<&str>,
        headers: &[(&str, &[u8])],
        body: &[u8],
    ) -> Result<Option<String>, String> {
        let head = Head { method: "POST", path: "/", query, host: "h", headers: Headers::List(headers) };
        Source::parse(source)
            .unwrap()
            .read(&head, body)
            .map(|value| value.map(|value| String::from_utf8_lossy(&value).into_owned()))
            .map_err(|error| error.0)
    }

    fn json(pointer: &str, body: &str) -> Result<Option<String>, String> {
        read(&format!("json:{pointer}"), None, &[], body.as_bytes())
    }

    #[test]
    fn a_header_counts_in_any_case_but_only_once() {
        let one: &[(&str, &[u8])] = &[("x-id", b"7")];
        let two: &[(&str, &[u8])] = &[("x-id", b"7"), ("X-ID", b"7")];
        assert_eq!(read("header:X-Id", None, one, b""), Ok(Some("7".into())));
        assert_eq!(read("header:X-Other", None, one, b""), Ok(None));
        assert!(read("header:X-Id", None, two, b"").unwrap_err().contains("more than once"));
    }

    #[test]
    fn query_and_form_values_are_decoded_and_may_stand_once() {
        for (text, expected) in [
            ("a=1&id=x", Ok(Some("x"))),
            ("id=a+b%2Fc", Ok(Some("a b/c"))),
            ("i%64=x", Ok(Some("x"))),
            ("id", Ok(Some(""))),
            ("ID=x", Ok(None)),
            ("", Ok(None)),
            ("id=1&id=1", Err(())),
            ("id=1&i%64=2", Err(())),
            ("id=%zz", Err(())),
            ("id=%4", Err(())),
            ("%zz=1&id=x", Ok(Some("x"))),
            ("id%zz=1&id=x", Ok(Some("x"))),
            ("id%=1&i%6=1&id=x", Ok(Some("x"))),
            ("id+=1&idx=1&i=1&id=x", Ok(Some("x"))),
            ("%69%64=x", Ok(Some("x"))),
        ] {
            let expected = expected.map(|value| value.map(str::to_owned));
            assert_eq!(read("query:id", Some(text), &[], b"").map_err(drop), expected, "query {text}");
            assert_eq!(read("form:id", None, &[], text.as_bytes()).map_err(drop), expected, "form {text}");
        }
    }

    #[test]
    fn pairs_are_put_in_order_up_to_a_bound() {
        let many = |pair: &str, count: usize| vec![pair; count].join("&");
        for (text, expected) in [
            (many("a", MAX_FIELDS), Ok(MAX_FIELDS)),
            (many("a", MAX_FIELDS + 1), Err("more than 1000 fields")),
            (many("a", 500_000), Err("more than 1000 fields")),
            // Empty pairs are none.
            ("&".repeat(2 * MAX_FIELDS) + &many("a=1&", MAX_FIELDS), Ok(MAX_FIELDS)),
            ("a=%zz".into(), Err("a broken escape")),
            (many("a", MAX_FIELDS - 1) + "&%zz", Err("a broken escape")),
            (many("a", MAX_FIELDS) + "&%zz", Err("more than 1000 fields")),
            (String::new(), Ok(0)),
        ] {
            let start = &text[..text.len().min(40)];
            assert_eq!(sorted_pairs(text.as_bytes()).map(|pairs| pairs.len()), expected, "{start}");
        }
        assert_eq!(MAX_FIELDS, 1000, "the refusal names it");
        // One field is found among any number: nothing is collected for it.
        assert_eq!(read("form:id", None, &[], (many("a", 500_000) + "&id=x").as_bytes()), Ok(Some("x".into())));
    }

    #[test]
    fn json_members_are_found_by_pointer_and_keep_their_exact_text() {
        for (pointer, body, expected) in [
            ("/id", r#"{"id":"evt"}"#, Some("evt")),
            ("/id", r#"{"id":"\u0065vt"}"#, Some("evt")),
            ("/id", r#"{"\u0069d":"evt"}"#, Some("evt")),
            ("/id", r#"{"id":18446744073709551615}"#, Some("18446744073709551615")),
            ("/id", r#"{"id":-9223372036854775808}"#, Some("-9223372036854775808")),
            ("/id", r#"{"id":true}"#, Some("true")),
            ("/id", r#"{"id":null}"#, None),
            ("/id", r#"{"ID":"x"}"#, None),
            ("/id", r#"{"a":{"id":"nested"}}"#, None),
            ("/a/b", r#"{"a":{"b":"x"},"b":1.5}"#, Some("x")),
            ("/a/b", r#"{"a":"scalar"}"#, None),
            ("/a/b", r#"{"a":1.5}"#, None),
            ("/a/1/id", r#"{"a":[{"id":1},{"id":2}]}"#, Some("2")),
            ("/a/01/id", r#"{"a":[{"id":1},{"id":2}]}"#, None),
            ("/a/2/id", r#"{"a":[{"id":1},{"id":2}]}"#, None),
            ("/a/*/id", r#"{"a":[{"id":1},{"id":"b"}]}"#, Some("1,b")),
            ("/a/*/id", r#"{"a":[{"id":"a,b"},{},{"id":"%"}]}"#, Some("a%2Cb,,%25")),
            ("/*/id", r#"[{"id":1}]"#, Some("1")),
            ("/a/*/b/*", r#"{"a":[{"b":[1,2]},{"b":[3]}]}"#, Some("1%2C2,3")),
            ("/a/*/id", r#"{"a":[]}"#, None),
            ("/a/*/id", r#"{"a":[{},{}]}"#, None),
            ("/a/*/id", r#"{"a":{"*":{"id":1}}}"#, Some("1")),
            ("/0", r#"["x"]"#, Some("x")),
            ("/a~1b/c~0d", r#"{"a/b":{"c~d":1}}"#, Some("1")),
            ("/", r#"{"":"empty name"}"#, Some("empty name")),
            ("/id", "", None),
            ("/id", "id=1&a=2", None),
            ("/id", "\u{feff}{\"id\":1}", None),
            ("/id", " \n{\"id\":1}\n", Some("1")),
        ] {
            assert_eq!(json(pointer, body), Ok(expected.map(str::to_owned)), "{pointer} in {body}");
        }
    }

    #[test]
    fn json_that_could_be_read_two_ways_is_refused() {
        for (pointer, body) in [
            ("/id", r#"{"id":1,"id":1}"#),
            ("/id", r#"{"id":null,"id":1}"#),
            ("/id", r#"{"id":1,"\u0069d":2}"#),
            ("/a/id", r#"{"a":{"id":1},"a":{"id":2}}"#),
            ("/id", r#"{"id":1.0}"#),
            ("/id", r#"{"id":1e3}"#),
            ("/id", r#"{"id":18446744073709551616}"#),
            ("/id", r#"{"id":{}}"#),
            ("/id", r#"{"id":[1]}"#),
            ("/id", r#"{"id":1} x"#),
            ("/id", r#"{"id":1"#),
            ("/id", r#"{'id':1}"#),
            ("/id", r#"{"id":"\ud800"}"#),
            ("/id", "{"),
            ("/id", "[}"),
        ] {
            assert!(json(pointer, body).is_err(), "{pointer} in {body}");
        }
        assert!(read("json:/id", None, &[], b"{\"id\":\"\xff\"}").is_err());
    }

    #[test]
    fn json_200000_deep_is_skipped_without_recursion() {
        let deep = format!("{{\"a\":{}{},\"id\":1}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(json("/id", &deep), Ok(Some("1".into())));
        assert!(json("/a", &deep).is_err());
        let pointer = "/0".repeat(64);
        assert_eq!(json(&pointer, &format!("{}1{}", "[".repeat(64), "]".repeat(64))), Ok(Some("1".into())));
        assert!(Source::json(&"/0".repeat(65)).is_err());
    }

    #[test]
    fn a_long_list_of_values_becomes_a_short_one_that_is_its_own() {
        let list = |count: usize, last: &str| {
            let mut ids: Vec<String> = (0..count).map(|at| format!("04l{at:015}")).collect();
            ids.push(last.into());
            join(ids).unwrap()
        };
        assert_eq!(list(1, "x"), "04l000000000000000,x");
        let long = list(99, "x");
        assert!(long.starts_with("04l000000000000000,+99,sha256=") && long.len() < 200, "{long}");
        assert_ne!(long, list(99, "y"));
        assert_eq!(join(vec![]), None);
    }

    #[test]
    fn values_inside_values_are_found() {
        let token = "e30.eyJpZCI6Im4xIiwiZGF0YSI6eyJhIjp0cnVlfX0.c2ln";
        let sealed = "eyJraWQiOiJhIiwic2lnbmF0dXJlIjoiYmMifQ==";
        let headers: &[(&str, &[u8])] = &[("x-sig", sealed.as_bytes()), ("x-bad", b"!")];
        for (source, body, expected) in [
            ("form:data|json:/id", "data=%7B%22id%22%3A%22x%7Cy%22%7D&a=1", Ok(Some("x|y"))),
            ("form:data|json:/no", "data=%7B%22id%22%3A1%7D", Ok(None)),
            ("form:other|json:/id", "data=%7B%22id%22%3A1%7D", Ok(None)),
            ("form:data|json:/id", "data=%7B%22id%22%3A1%2C%22id%22%3A2%7D", Err("more than once")),
            ("form:data|json:/id", "data=1&data=2", Err("more than once")),
            ("header:X-Sig|base64|json:/kid", "", Ok(Some("a"))),
            ("header:X-Sig|base64|json:/none", "", Ok(None)),
            ("header:X-Bad|base64|json:/kid", "", Err("no base64")),
            ("header:X-None|base64|json:/kid", "", Ok(None)),
            ("json:/t|jwt:/id", &format!("{{\"t\":\"{token}\"}}"), Ok(Some("n1"))),
            ("json:/t|jwt:/data/a", &format!("{{\"t\":\"{token}\"}}"), Ok(Some("true"))),
            ("json:/t|jwt:/id", "{\"t\":\"a.b\"}", Err("no token")),
            ("json:/t|jwt:/id", "{\"t\":\"a.!.c\"}", Err("no base64url")),
            // A bar is part of a name where nothing that is known follows.
            ("json:/a|b", "{\"a|b\":1}", Ok(Some("1"))),
            ("query:a|b", "", Ok(None)),
        ] {
            match (read(source, None, headers, body.as_bytes()), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found.as_deref(), expected, "{source} in {body}"),
                (Err(what), Err(hint)) => assert!(what.contains(hint), "{source}: {what}"),
                (found, _) => panic!("{source} in {body}: {found:?}"),
            }
        }
        let source = Source::parse("header:X-Sig|base64|json:/kid").unwrap();
        assert_eq!(source.to_string(), "header x-sig, base64, json member /kid");
        assert!(!source.needs_body() && Source::parse("form:data|json:/id").unwrap().needs_body());
        for bad in
            ["form:data|json:id", "form:|json:/id", "data|json:/id", "header:a|base64|base64|base64|base64|base64"]
        {
            assert!(Source::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_never_quote_the_body() {
        for body in
            [r#"{"id":{"topsecret":1}}"#, r#"{"id":["topsecret"]}"#, r#"{"id":topsecret}"#, r#"{"id":1} topsecret"#]
        {
            assert!(!json("/id", body).unwrap_err().contains("topsecret"), "{body}");
        }
    }

    #[test]
    fn places_that_cannot_be_are_refused_when_parsed() {
        for text in [
            "X-Id",
            "cookie:a",
            "header:",
            "header:a b",
            "header:X_Id",
            "query:",
            "form:",
            "json:id",
            "json:",
            "json:/a~2",
        ] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200), query in "\\PC{0,60}") {
            for source in ["query:a", "form:a", "json:/a", "json:/0/a", "form:a|base64|json:/a", "query:a|jwt:/a"] {
                let head = Head { method: "POST", path: "/", query: Some(&query), host: "h", headers: Headers::List(&[]) };
                let _ = Source::parse(source).unwrap().read(&head, &body);
            }
        }

        #[test]
        fn a_component_decodes_to_what_it_is_compared_with(text in "[ab%+61&]{0,8}", name in "[ab a]{0,3}") {
            let decoded = decode_component(text.as_bytes());
            prop_assert_eq!(decodes_to(text.as_bytes(), name.as_bytes()), decoded.as_deref() == Some(name.as_bytes()));
            if let Some(decoded) = decoded {
                prop_assert!(decodes_to(text.as_bytes(), &decoded));
            }
        }

        #[test]
        fn json_like_text_never_panics(body in r#"[\[\]{}:,"a\\u0-9e.\-]{0,80}"#) {
            let _ = json("/a", &body);
            let _ = json("/0", &body);
        }

        #[test]
        fn parsing_a_place_never_panics(text in "\\PC{0,40}") {
            let _ = Source::parse(&text);
        }
    }
}
