//! HTTP Message Signatures (RFC 9421) with digests of the body (RFC 9530).
//!
//! The message says which of its parts are signed; the scheme says which of them must be, with which algorithms, and how
//! old the signature may be. A signature that covers less is refused, however right it is, and so is one that names
//! another algorithm than the scheme. Where the digest of the body is covered, it is computed anew over the bytes as they
//! came; where the scheme does not ask for it, the body is not protected, and the configuration is told so.
//!
//! Of the grammar of structured fields (RFC 8941) exactly what these two headers need is read.

use super::keys::{EcdsaForm, PublicAlgorithm};
use super::mac::Hash;
use super::url::{PublicUrl, UrlForm};
use crate::check::source::raw_pairs;
use crate::reject::{Reason, Reject};
use crate::request::{Head, HeaderName, Now};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::time::Duration;

/// Components that a signature may cover.
const MAX_COMPONENTS: usize = 32;
/// Signatures of one message that are looked at.
const MAX_LABELS: usize = 8;

/// An algorithm by its name in the registry of RFC 9421.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MessageAlgorithm {
    pub(crate) name: &'static str,
    pub(crate) kind: MessageKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Hmac(Hash),
    Public(PublicAlgorithm),
}

impl MessageAlgorithm {
    /// Section 3.3.
    pub(crate) const ALL: &'static [Self] = &[
        Self { name: "hmac-sha256", kind: MessageKind::Hmac(Hash::Sha256) },
        Self { name: "ed25519", kind: MessageKind::Public(PublicAlgorithm::Ed25519) },
        Self {
            name: "ecdsa-p256-sha256",
            kind: MessageKind::Public(PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Raw)),
        },
        Self { name: "ecdsa-p384-sha384", kind: MessageKind::Public(PublicAlgorithm::P384(EcdsaForm::Raw)) },
        Self { name: "rsa-pss-sha512", kind: MessageKind::Public(PublicAlgorithm::RsaPss(Hash::Sha512)) },
        Self { name: "rsa-v1_5-sha256", kind: MessageKind::Public(PublicAlgorithm::RsaPkcs1(Hash::Sha256)) },
    ];
}

/// What a signed message must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MessageRules {
    pub(crate) algorithm: MessageAlgorithm,
    pub(crate) key: super::scheme::KeyForm,
    /// Only the signature of this label. `None`: any that meets the rules.
    pub(crate) label: Option<Box<str>>,
    /// What must be covered, as it is written in a signature base: `@method`, `content-digest`.
    pub(crate) require: Box<[Box<str>]>,
    /// The `tag` that the signature must have.
    pub(crate) tag: Option<Box<str>>,
    /// How long ago and how far ahead `created` may be; it must stand.
    pub(crate) past: Duration,
    pub(crate) future: Duration,
    /// Must `keyid` stand?
    pub(crate) require_key_id: bool,
}

impl MessageRules {
    /// Is the digest of the body always covered?
    pub(crate) fn covers_body(&self) -> bool {
        self.require.iter().any(|component| **component == *"content-digest")
    }

    pub(crate) fn covers_header(&self, name: &HeaderName) -> bool {
        self.require.iter().any(|component| **component == *name.as_str())
    }

    pub(crate) fn covers_query(&self) -> bool {
        let whole = ["@query", "@target-uri", "@request-target"];
        self.require.iter().any(|component| whole.contains(&&**component))
    }

    /// Is the URL as the sender knows it a part of what must be signed?
    pub(crate) fn needs_public_url(&self) -> bool {
        let url = ["@target-uri", "@authority", "@scheme"];
        self.require.iter().any(|component| url.contains(&&**component))
    }
}

/// A signature of a message, read and not yet verified.
#[derive(Debug)]
pub(crate) struct MessageSignature {
    pub(crate) base: Vec<u8>,
    pub(crate) signature: Vec<u8>,
    pub(crate) key_id: Option<String>,
    pub(crate) created: i64,
    covers_digest: bool,
}

fn malformed(what: impl Into<String>) -> Reject {
    Reason::SignatureMalformed.because(what.into())
}

/// The signatures that meet the rules, but for the key. Everything that the head alone decides is decided here.
pub(crate) fn read(
    rules: &MessageRules,
    head: &Head<'_>,
    public_url: Option<&PublicUrl>,
    now: Option<Now>,
) -> Result<Vec<MessageSignature>, Reject> {
    let field =
        |name: &str| joined(head, name)?.ok_or_else(|| Reason::SignatureMissing.because(format!("no header {name}")));
    let (inputs, signatures) = (field("signature-input")?, field("signature")?);
    let inputs = dictionary(&inputs).ok_or_else(|| malformed("header signature-input is no dictionary"))?;
    let signatures = dictionary(&signatures).ok_or_else(|| malformed("header signature is no dictionary"))?;
    let (mut found, mut why) = (Vec::new(), None);
    for (label, input) in inputs.iter().take(MAX_LABELS) {
        if rules.label.as_ref().is_some_and(|wanted| **wanted != **label) {
            continue;
        }
        let value = signatures.iter().find(|(known, _)| known == label).map(|(_, value)| *value);
        let read = value
            .and_then(binary)
            .ok_or_else(|| malformed("a signature has no value, or one that is no byte sequence"))
            .and_then(|signature| one(rules, head, public_url, now, input, signature));
        match read {
            Ok(signature) => found.push(signature),
            Err(reject) => why = Some(reject),
        }
    }
    match (found.is_empty(), why) {
        (false, _) => Ok(found),
        (true, Some(reject)) => Err(reject),
        (true, None) => Err(Reason::SignatureMissing.because("no signature has the label that the scheme names")),
    }
}

fn one(
    rules: &MessageRules,
    head: &Head<'_>,
    public_url: Option<&PublicUrl>,
    now: Option<Now>,
    input: &str,
    signature: Vec<u8>,
) -> Result<MessageSignature, Reject> {
    let (items, parameters) = inner_list(input).ok_or_else(|| malformed("the covered components are no list"))?;
    let mut base = String::new();
    let mut covered: Vec<&str> = Vec::new();
    for item in &items {
        if covered.contains(&item.written) || covered.len() == MAX_COMPONENTS {
            return Err(malformed("a component is covered twice, or there are too many"));
        }
        covered.push(item.written);
        let value = component(item, head, public_url)?;
        base.push_str(item.written);
        base.push_str(": ");
        base.push_str(&value);
        base.push('\n');
    }
    for wanted in &rules.require {
        if !items.iter().any(|item| item.parameters.is_empty() && *item.name == **wanted) {
            return Err(malformed(format!("the signature does not cover {wanted}")));
        }
    }
    base.push_str("\"@signature-params\": ");
    base.push_str(input);
    let parameter = |name: &str| parameters.iter().find(|(known, _)| *known == name).map(|(_, value)| value);
    let time = |name: &str| match parameter(name) {
        None => Ok(None),
        Some(Bare::Integer(time)) => Ok(Some(*time)),
        Some(_) => Err(Reason::TimestampInvalid.because(format!("the signature's {name} is no time"))),
    };
    let text = |name: &str| match parameter(name) {
        None => Ok(None),
        Some(Bare::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(malformed(format!("the signature's {name} is no text"))),
    };
    let created = time("created")?.ok_or_else(|| malformed("the signature does not say when it was created"))?;
    if let Some(now) = now {
        let age = now.unix_seconds().saturating_sub(created);
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        if age > seconds(rules.past) {
            let detail = format!("signed {age} s ago, accepted are {} s", rules.past.as_secs());
            return Err(Reason::TimestampTooOld.because(detail));
        }
        if age < -seconds(rules.future) {
            let detail = format!("signed {} s ahead of this clock, accepted are {} s", -age, rules.future.as_secs());
            return Err(Reason::TimestampInFuture.because(detail));
        }
        if let Some(expires) = time("expires")?
            && now.unix_seconds() >= expires
        {
            return Err(Reason::TimestampTooOld.because("the signature has expired"));
        }
    }
    // Only a confirmation: the scheme chose the algorithm.
    if text("alg")?.is_some_and(|name| name != rules.algorithm.name) {
        return Err(malformed("the signature names another algorithm than the scheme"));
    }
    if let Some(wanted) = &rules.tag
        && text("tag")?.is_none_or(|tag| *tag != **wanted)
    {
        return Err(malformed("the signature has another tag than the scheme"));
    }
    let key_id = text("keyid")?;
    if rules.require_key_id && key_id.is_none() {
        return Err(malformed("the signature names no key"));
    }
    let covers_digest = items.iter().any(|item| item.name == "content-digest");
    Ok(MessageSignature { base: base.into_bytes(), signature, key_id, created, covers_digest })
}

impl MessageSignature {
    /// Where the signature covers `Content-Digest`, is that the digest of the body (RFC 9530)? All digests that are known
    /// here must hold, and one of them must stand.
    pub(crate) fn check_body(&self, head: &Head<'_>, body: &[u8]) -> Result<(), Reject> {
        if !self.covers_digest {
            return Ok(());
        }
        let value = joined(head, "content-digest")?.ok_or_else(|| malformed("header content-digest is missing"))?;
        let digests = dictionary(&value).ok_or_else(|| malformed("header content-digest is no dictionary"))?;
        let mut known = 0;
        for (name, value) in digests {
            let hash = match name {
                "sha-256" => Hash::Sha256,
                "sha-512" => Hash::Sha512,
                // MD5, SHA-1, CRCs and sums prove nothing.
                _ => continue,
            };
            known += 1;
            // No secret: both sides follow from the request.
            if binary(value).is_none_or(|digest| digest != hash.digest(body).as_bytes()) {
                return Err(Reason::SignatureMismatch.because("header content-digest is not the digest of the body"));
            }
        }
        if known == 0 { Err(malformed("header content-digest has neither sha-256 nor sha-512")) } else { Ok(()) }
    }
}

/// All values of a field, as one (RFC 9421, section 2.1).
fn joined(head: &Head<'_>, name: &str) -> Result<Option<String>, Reject> {
    let not_text = || malformed(format!("header {name} is no text"));
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| malformed("a covered header has no name"))?;
    let mut whole: Option<String> = None;
    for value in head.headers.all(&name) {
        let value = std::str::from_utf8(value).ok().filter(|value| value.is_ascii()).ok_or_else(not_text)?;
        let value = value.trim_matches([' ', '\t']);
        match &mut whole {
            None => whole = Some(value.to_owned()),
            Some(whole) => {
                whole.push_str(", ");
                whole.push_str(value);
            }
        }
    }
    Ok(whole)
}

/// The value of a component (section 2.2).
fn component(item: &Item<'_>, head: &Head<'_>, public_url: Option<&PublicUrl>) -> Result<String, Reject> {
    let unknown = || malformed(format!("the covered component {} is not known here", item.written.escape_debug()));
    let url = || {
        let url = public_url.ok_or_else(|| malformed("public_url is missing: the sender signs the URL"))?;
        Ok::<_, Reject>(url.called(head, UrlForm::AsCalled, 0).into_owned())
    };
    let scheme_and_authority = || {
        let url = url()?;
        let (scheme, rest) = url.split_once("://").ok_or_else(unknown)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default().to_ascii_lowercase();
        let port = if scheme == "https" { ":443" } else { ":80" };
        Ok::<_, Reject>((scheme.to_ascii_lowercase(), authority.strip_suffix(port).unwrap_or(&authority).to_owned()))
    };
    let query = head.query.map_or(String::new(), |query| format!("?{query}"));
    if let ("@query-param", [("name", Bare::Text(name))]) = (item.name, &*item.parameters) {
        return query_parameter(head.query.unwrap_or_default(), name).ok_or_else(|| {
            malformed(format!("the covered query parameter {} does not stand exactly once", name.escape_debug()))
        });
    }
    // Parameters change what is meant: none of the others is read here.
    if !item.parameters.is_empty() {
        return Err(unknown());
    }
    match item.name {
        "@method" => Ok(head.method.to_owned()),
        "@path" => Ok(head.path.to_owned()),
        "@query" => Ok(if query.is_empty() { "?".to_owned() } else { query }),
        "@request-target" => Ok(format!("{}{query}", head.path)),
        "@target-uri" => url(),
        "@authority" => scheme_and_authority().map(|(_, authority)| authority),
        "@scheme" => scheme_and_authority().map(|(scheme, _)| scheme),
        name if name.starts_with('@') => Err(unknown()),
        name => joined(head, name)?.ok_or_else(|| malformed(format!("header {name} is missing, which is signed"))),
    }
}

/// A query parameter as the form decoder reads it and percent-encodes it again (section 2.2.8).
fn query_parameter(query: &str, name: &str) -> Option<String> {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'*').remove(b'-').remove(b'.').remove(b'_');
    let encode = |text: &[u8]| {
        let text = crate::check::source::decode_component(text)?;
        Some(percent_encode(&text, ENCODED).to_string())
    };
    let mut found = None;
    for (key, value) in raw_pairs(query.as_bytes()) {
        if encode(key)? == name && found.replace(encode(value)?).is_some() {
            return None;
        }
    }
    found
}

// Structured fields -----------------------------------------------------------------------------------------------

/// A bare item of the kinds that parameters have here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Bare {
    Integer(i64),
    Text(String),
    /// A token, a byte sequence or a boolean: its value is of no interest.
    Other,
}

/// A covered component.
#[derive(Debug)]
struct Item<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Bare)>,
    /// With its parameters, as it stands.
    written: &'a str,
}

/// Members of a dictionary, each with its value as it stands, up to the comma behind it.
fn dictionary(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut members: Vec<(&str, &str)> = Vec::new();
    let mut rest = text.trim_matches([' ', '\t']);
    while !rest.is_empty() {
        let (key, after) = key(rest)?;
        let value_at = after.strip_prefix('=')?;
        let length = value_length(value_at)?;
        let (value, after) = value_at.split_at_checked(length)?;
        // A later one of the same name would win elsewhere: which one was meant is not for us to choose.
        if members.iter().any(|(known, _)| *known == key) || members.len() == 2 * MAX_LABELS {
            return None;
        }
        members.push((key, value));
        rest = after.trim_start_matches([' ', '\t']);
        if let Some(next) = rest.strip_prefix(',') {
            rest = next.trim_start_matches([' ', '\t']);
            if rest.is_empty() {
                return None;
            }
        } else if !rest.is_empty() {
            return None;
        }
    }
    (!members.is_empty()).then_some(members)
}

/// `key = ( lcalpha / "*" ) *( lcalpha / DIGIT / "_" / "-" / "." / "*" )`
fn key(text: &str) -> Option<(&str, &str)> {
    let first = text.as_bytes().first()?;
    if !(first.is_ascii_lowercase() || *first == b'*') {
        return None;
    }
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte);
    let end = text.bytes().position(|byte| !inside(byte)).unwrap_or(text.len());
    text.split_at_checked(end)
}

/// Up to where a member's value goes: an inner list or an item, with parameters.
fn value_length(text: &str) -> Option<usize> {
    let rest = match text.strip_prefix('(') {
        Some(_) => {
            let mut rest = text.get(1..)?;
            loop {
                rest = rest.trim_start_matches(' ');
                if let Some(after) = rest.strip_prefix(')') {
                    break after;
                }
                let (_, after) = string(rest)?;
                let (_, after) = parameters(after)?;
                if !(after.starts_with(' ') || after.starts_with(')')) {
                    return None;
                }
                rest = after;
            }
        }
        None => bare(text)?.1,
    };
    let (_, rest) = parameters(rest)?;
    Some(text.len() - rest.len())
}

/// The components of an inner list and the parameters behind it.
#[expect(clippy::type_complexity, reason = "names and values, used once")]
fn inner_list(text: &str) -> Option<(Vec<Item<'_>>, Vec<(&str, Bare)>)> {
    let mut rest = text.strip_prefix('(')?;
    let mut items = Vec::new();
    loop {
        rest = rest.trim_start_matches(' ');
        if let Some(after) = rest.strip_prefix(')') {
            let (parameters, rest) = parameters(after)?;
            return rest.is_empty().then_some((items, parameters));
        }
        let (_, after) = string(rest)?;
        let quoted = rest.get(..rest.len() - after.len())?;
        let name = quoted.get(1..quoted.len().checked_sub(1)?)?;
        // Names of fields are in small letters and hold nothing to escape.
        if name.contains(['\\', '"']) || name.bytes().any(|byte| byte.is_ascii_uppercase()) || name.is_empty() {
            return None;
        }
        let (parameters, behind) = parameters(after)?;
        let written = rest.get(..rest.len() - behind.len())?;
        items.push(Item { name, parameters, written });
        rest = behind;
    }
}

/// `;name=value` as often as it stands; without a value it is true.
fn parameters(mut text: &str) -> Option<(Vec<(&str, Bare)>, &str)> {
    let mut all: Vec<(&str, Bare)> = Vec::new();
    while let Some(after) = text.strip_prefix(';') {
        let (name, after) = key(after.trim_start_matches(' '))?;
        let (value, after) = match after.strip_prefix('=') {
            Some(after) => bare(after)?,
            None => (Bare::Other, after),
        };
        if all.iter().any(|(known, _)| *known == name) {
            return None;
        }
        all.push((name, value));
        text = after;
    }
    Some((all, text))
}

fn bare(text: &str) -> Option<(Bare, &str)> {
    match text.as_bytes().first()? {
        b'"' => string(text).map(|(text, rest)| (Bare::Text(text), rest)),
        b':' => {
            let end = text.get(1..)?.find(':')? + 2;
            text.split_at_checked(end).map(|(_, rest)| (Bare::Other, rest))
        }
        b'?' => text
            .split_at_checked(2)
            .filter(|(flag, _)| ["?0", "?1"].contains(flag))
            .map(|(_, rest)| (Bare::Other, rest)),
        b'-' | b'0'..=b'9' => {
            let end = text.bytes().skip(1).position(|byte| !byte.is_ascii_digit()).map_or(text.len(), |at| at + 1);
            let (digits, rest) = text.split_at_checked(end)?;
            // At most 15 digits; no decimals where times stand.
            let number = (digits.len() <= 16 && !rest.starts_with('.')).then(|| digits.parse().ok()).flatten()?;
            Some((Bare::Integer(number), rest))
        }
        b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
            let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte);
            let end = text.bytes().position(|byte| !inside(byte)).unwrap_or(text.len());
            text.split_at_checked(end).map(|(_, rest)| (Bare::Other, rest))
        }
        _ => None,
    }
}

/// A quoted string; only `"` and `\` are escaped.
fn string(text: &str) -> Option<(String, &str)> {
    let mut letters = text.strip_prefix('"')?.char_indices();
    let mut inside = String::new();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((inside, text.get(at + 2..)?)),
            '\\' => match letters.next()?.1 {
                escaped @ ('"' | '\\') => inside.push(escaped),
                _ => return None,
            },
            ' '..='~' => inside.push(letter),
            _ => return None,
        }
    }
    None
}

/// A byte sequence: `:base64:`, with parameters behind it that nobody reads.
fn binary(text: &str) -> Option<Vec<u8>> {
    let (inside, rest) = text.strip_prefix(':')?.split_once(':')?;
    let (_, rest) = parameters(rest)?;
    if rest.is_empty() { STANDARD.decode(inside).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::signature::{Credentials, PublicKeys, SignOptions, SignatureCheck, UnsignedRequest};
    use crate::config::scheme::RawScheme;
    use crate::secret::Secret;
    use proptest::prelude::*;

    /// RFC 9421, appendix B.1.2 (RSA-PSS), B.1.4 (Ed25519) and B.1.5 (HMAC).
    const RSA: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAr4tmm3r20Wd/PbqvP1s2+QEtvpuRaV8Yq40gjUR8y2Rjxa6dpG2GXHbPfvMs8ct+Lh1GH45x28Rw3Ry53mm+oAXjyQ86OnDkZ5N8lYbggD4O3w6M6pAvLkhk95AndTrifbIFPNU8PPMO7OyrFAHqgDsznjPFmTOtCEcN2Z1FpWgchwuYLPL+Wokqltd11nqqzi+bJ9cvSKADYdUAAN5WUtzdpiy6LbTgSxP7ociU4Tn0g5I6aDZJ7A8Lzo0KSyZYoA485mqcO0GVAdVw9lq4aOT9v6d+nb4bnNkQVklLQ3fVAvJm+xdDOp9LCNCN48V2pnDOkFV6+U9nV5oyc6XI2wIDAQAB";
    const ED25519: &str = "MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=";
    const HMAC: &str = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";
    const CREATED: u64 = 1_618_884_473;

    /// The request of appendix B.2.
    fn request(input: &str, signature: &str) -> UnsignedRequest {
        let headers = [
            ("Host", "example.com"),
            ("Date", "Tue, 20 Apr 2021 02:07:55 GMT"),
            ("Content-Type", "application/json"),
            (
                "Content-Digest",
                "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
            ),
            ("Content-Length", "18"),
            ("Signature-Input", input),
            ("Signature", signature),
        ];
        UnsignedRequest {
            method: "POST".into(),
            url: "https://example.com/foo?param=Value&Pet=dog".into(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
            body: br#"{"hello": "world"}"#.to_vec(),
        }
    }

    const B22: (&str, &str) = (
        r#"sig-b22=("@authority" "content-digest" "@query-param";name="Pet");created=1618884473;keyid="test-key-rsa-pss";tag="header-example""#,
        "sig-b22=:LjbtqUbfmvjj5C5kr1Ugj4PmLYvx9wVjZvD9GsTT4F7GrcQEdJzgI9qHxICagShLRiLMlAJjtq6N4CDfKtjvuJyE5qH7KT8UCMkSowOB4+ECxCmT8rtAmj/0PIXxi0A0nxKyB09RNrCQibbUjsLS/2YyFYXEu4TRJQzRw1rLEuEfY17SARYhpTlaqwZVtR8NV7+4UKkjqpcAoFqWFQh62s7Cl+H2fjBSpqfZUJcsIk4N6wiKYd4je2U/lankenQ99PZfB4jY3I5rSV2DSBVkSFsURIjYErOs0tFTQosMTAoxk//0RoKUqiYY8Bh0aaUEb0rQl3/XaVe4bXTugEjHSw==:",
    );
    const B23: (&str, &str) = (
        r#"sig-b23=("date" "@method" "@path" "@query" "@authority" "content-type" "content-digest" "content-length");created=1618884473;keyid="test-key-rsa-pss""#,
        "sig-b23=:bbN8oArOxYoyylQQUU6QYwrTuaxLwjAC9fbY2F6SVWvh0yBiMIRGOnMYwZ/5MR6fb0Kh1rIRASVxFkeGt683+qRpRRU5p2voTp768ZrCUb38K0fUxN0O0iC59DzYx8DFll5GmydPxSmme9v6ULbMFkl+V5B1TP/yPViV7KsLNmvKiLJH1pFkh/aYA2HXXZzNBXmIkoQoLd7YfW91kE9o/CCoC1xMy7JA1ipwvKvfrs65ldmlu9bpG6A9BmzhuzF8Eim5f8ui9eH8LZH896+QIF61ka39VBrohr9iyMUJpvRX2Zbhl5ZJzSRxpJyoEZAFL2FUo5fTIztsDZKEgM4cUA==:",
    );
    const B25: (&str, &str) = (
        r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#,
        "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:",
    );
    const B26: (&str, &str) = (
        r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#,
        "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:",
    );

    fn check(message: &str, key: &str) -> SignatureCheck {
        let secret = if message.contains("hmac") { "key: { encoding: base64 }, " } else { "" };
        let yaml = format!("{{ algorithm: http-message-signature, {secret}message: {{ {message} }} }}");
        let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
        let scheme = raw.compile("signature").unwrap_or_else(|problems| panic!("{problems:?}"));
        let public = !message.contains("hmac");
        let credentials = Credentials {
            secrets: if public { Vec::new() } else { vec![Secret::always(key.into(), "env X")] },
            public_keys: public.then(|| PublicKeys::parse(key.as_bytes(), "x").unwrap()).into_iter().collect(),
            public_url: Some("https://example.com/foo"),
            ..Credentials::default()
        };
        SignatureCheck::bind(scheme, credentials).unwrap()
    }

    fn judge_at(check: &SignatureCheck, request: &UnsignedRequest, at: u64) -> Result<(), Reason> {
        request
            .with_head(|head| {
                let mut verification = check.begin(head, true, Now::at_unix(at))?;
                verification.update(&request.body);
                verification.finish(head, &request.body, Now::at_unix(at)).map(drop)
            })
            .unwrap()
            .map_err(|reject| reject.reason)
    }

    fn judge(check: &SignatureCheck, request: &UnsignedRequest) -> Result<(), Reason> {
        judge_at(check, request, CREATED + 10)
    }

    fn put(request: &mut UnsignedRequest, name: &str, value: &str) {
        let header = request.headers.iter_mut().find(|(known, _)| known == name).unwrap();
        header.1 = value.as_bytes().to_vec();
    }

    #[test]
    fn the_signatures_of_the_rfc_hold_and_every_changed_part_breaks_them() {
        for (message, key, (input, signature)) in [
            ("algorithm: rsa-pss-sha512, require: [\"@authority\", content-digest], tag: header-example", RSA, B22),
            ("algorithm: rsa-pss-sha512, require: [\"@method\", \"@path\", \"@query\", content-digest]", RSA, B23),
            ("algorithm: hmac-sha256, require: [\"@authority\", date]", HMAC, B25),
            ("algorithm: ed25519, require: [\"@method\", \"@path\"], label: sig-b26", ED25519, B26),
        ] {
            let check = check(message, key);
            let good = request(input, signature);
            assert_eq!(judge(&check, &good), Ok(()), "{message}");
            let covers = |name: &str| input.contains(&format!("{name:?}"));
            type Change<'a> = Box<dyn Fn(&mut UnsignedRequest) + 'a>;
            let mut changes: Vec<(&str, Change<'_>)> = vec![
                ("created", Box::new(|r| put(r, "Signature-Input", &input.replace("1618884473", "1618884474")))),
                ("keyid", Box::new(|r| put(r, "Signature-Input", &input.replace("test-", "best-")))),
                ("order", Box::new(|r| put(r, "Signature-Input", &input.replace("(\"", "(\"host\" \"")))),
                (
                    "signature",
                    Box::new(|r| put(r, "Signature", &signature.replacen("=:", "=:A", 1).replacen("A", "", 2))),
                ),
            ];
            if covers("date") {
                changes.push(("date", Box::new(|r| put(r, "Date", "Tue, 20 Apr 2021 02:07:56 GMT"))));
            }
            if covers("content-type") {
                changes.push(("type", Box::new(|r| put(r, "Content-Type", "text/plain"))));
            }
            if covers("content-digest") {
                changes.push(("body", Box::new(|r| r.body[3] ^= 1)));
                changes.push(("no digest", Box::new(|r| r.headers.retain(|(name, _)| name != "Content-Digest"))));
            }
            if covers("@method") {
                changes.push(("method", Box::new(|r| r.method = "PUT".into())));
                changes.push(("path", Box::new(|r| r.url = r.url.replace("/foo", "/bar"))));
            }
            if covers("@query") || input.contains("@query-param") {
                changes.push(("query", Box::new(|r| r.url = r.url.replace("dog", "cat"))));
                changes.push(("twice", Box::new(|r| r.url.push_str("&Pet=dog"))));
            }
            for (what, change) in changes {
                let mut changed = good.clone();
                change(&mut changed);
                assert!(judge(&check, &changed).is_err(), "{message}: {what}");
            }
            assert_eq!(judge_at(&check, &good, CREATED + 301), Err(Reason::TimestampTooOld));
            assert_eq!(judge_at(&check, &good, CREATED - 301), Err(Reason::TimestampInFuture));
        }
    }

    /// Appendix B.1.1 (RSA, PKCS#1) and B.1.3 (P-256).
    const RSA_V1_5: &str = "-----BEGIN RSA PUBLIC KEY-----MIIBCgKCAQEAhAKYdtoeoy8zcAcR874L8cnZxKzAGwd7v36APp7Pv6Q2jdsPBRrwWEBnez6d0UDKDwGbc6nxfEXAy5mbhgajzrw3MOEt8uA5txSKobBpKDeBLOsdJKFqMGmXCQvEG7YemcxDTRPxAleIAgYYRjTSd/QBwVW9OwNFhekro3RtlinV0a75jfZgkne/YiktSvLG34lw2zqXBDTC5NHROUqGTlML4PlNZS5Ri2U4aCNx2rUPRcKIlE0PuKxI4T+HIaFpv8+rdV6eUgOrB2xeI1dSFFn/nnv5OoZJEIB+VmuKn3DCUcCZSFlQPSXSfBDiUGhwOw76WuSSsf1D4b/vLoJ10wIDAQAB-----END RSA PUBLIC KEY-----";
    const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqIVYZVLCrPZHGHjP17CTW0/+D9Lfw0EkjqF7xB4FivAxzic30tMM4GF+hR6Dxh71Z50VGGdldkkDXZCnTNnoXQ==";

    /// A request of the RFC to this URL, with these headers one after the other.
    fn example(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> UnsignedRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        UnsignedRequest { method: method.into(), url: url.into(), headers, body: body.as_bytes().to_vec() }
    }

    fn check_at(message: &str, key: &str, public_url: &str) -> SignatureCheck {
        let yaml = format!("{{ algorithm: http-message-signature, message: {{ {message} }} }}");
        let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
        let scheme = raw.compile("signature").unwrap_or_else(|problems| panic!("{problems:?}"));
        let public_keys = vec![PublicKeys::parse(key.as_bytes(), "x").unwrap()];
        let credentials = Credentials { public_keys, public_url: Some(public_url), ..Credentials::default() };
        SignatureCheck::bind(scheme, credentials).unwrap()
    }

    /// Section 4.3: a proxy changed the authority and signed again, with another algorithm and an end.
    #[test]
    fn of_two_signatures_the_one_whose_label_key_and_authority_fit_counts() {
        let covered = r#"("@method" "@authority" "@path" "content-digest" "content-type" "content-length""#;
        let input = format!(
            r#"sig1={covered});created=1618884475;keyid="test-key-ecc-p256", proxy_sig={covered} "forwarded");created=1618884480;keyid="test-key-rsa";alg="rsa-v1_5-sha256";expires=1618884540"#
        );
        let signature = "sig1=:X5spyd6CFnAG5QnDyHfqoSNICd+BUP4LYMz2Q0JXlb//4Ijpzp+kve2w4NIyqeAuM7jTDX+sNalzA8ESSaHD3A==:, proxy_sig=:S6ZzPXSdAMOPjN/6KXfXWNO/f7V6cHm7BXYUh3YD/fRad4BCaRZxP+JH+8XY1I6+8Cy+CM5g92iHgxtRPz+MjniOaYmdkDcnL9cCpXJleXsOckpURl49GwiyUpZ10KHgOEe11sx3G2gxI8S0jnxQB+Pu68U9vVcasqOWAEObtNKKZd8tSFu7LB5YAv0RAGhB8tmpv7sFnIm9y+7X5kXQfi8NMaZaA8i2ZHwpBdg7a6CMfwnnrtflzvZdXAsD3LH2TwevU+/PBPv0B6NMNk93wUs/vfJvye+YuI87HU38lZHowtznbLVdp770I6VHR6WfgS9ddzirrswsE1w5o0LV/g==:";
        let headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", "18"),
            ("Forwarded", "for=192.0.2.123;host=example.com;proto=https"),
            (
                "Content-Digest",
                "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
            ),
            ("Signature-Input", &input),
            ("Signature", signature),
        ];
        let url = "https://origin.host.internal.example/foo?param=Value&Pet=dog";
        let sent = example("POST", url, &headers, r#"{"hello": "world"}"#);
        let (client, proxy) = ("https://example.com/foo", "https://origin.host.internal.example/foo");
        let required = "require: [\"@method\", \"@authority\", \"@path\", content-digest]";
        let p256 = format!("algorithm: ecdsa-p256-sha256, {required}");
        let rsa = format!("algorithm: rsa-v1_5-sha256, {required}");
        for (message, key, url, at, verdict) in [
            (&p256, P256, client, 1_618_884_475, Ok(())),
            (&p256, P256, proxy, 1_618_884_475, Err(Reason::SignatureMismatch)),
            (&rsa, RSA_V1_5, proxy, 1_618_884_480, Ok(())),
            (&format!("{rsa}, label: proxy_sig"), RSA_V1_5, proxy, 1_618_884_539, Ok(())),
            (&format!("{rsa}, label: proxy_sig"), RSA_V1_5, proxy, 1_618_884_540, Err(Reason::TimestampTooOld)),
            (&format!("{rsa}, label: sig1"), RSA_V1_5, proxy, 1_618_884_480, Err(Reason::SignatureMismatch)),
            (&rsa, RSA_V1_5, client, 1_618_884_480, Err(Reason::SignatureMismatch)),
        ] {
            assert_eq!(judge_at(&check_at(message, key, url), &sent, at), verdict, "{message} {url} {at}");
        }
    }

    /// Appendix B.3: a proxy signs a header that holds the client's certificate.
    #[test]
    fn a_header_with_a_byte_sequence_is_signed_as_it_stands() {
        let certificate = ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVkaWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8YnXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNVHSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYmRjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5XarmPk0wmuydBVoU4hBVZ1yhk=:";
        let headers = [
            ("Content-Type", "application/json"),
            ("Client-Cert", certificate),
            (
                "Signature-Input",
                r#"ttrp=("@path" "@query" "@method" "@authority" "client-cert");created=1618884473;keyid="test-key-ecc-p256""#,
            ),
            (
                "Signature",
                "ttrp=:xVMHVpawaAC/0SbHrKRs9i8I3eOs5RtTMGCWXm/9nvZzoHsIg6Mce9315T6xoklyy0yzhD9ah4JHRwMLOgmizw==:",
            ),
        ];
        let required = "algorithm: ecdsa-p256-sha256, require: [\"@path\", \"@query\", \"@authority\", client-cert]";
        let check = check_at(required, P256, "https://service.internal.example/foo");
        let sent = example("POST", "https://service.internal.example/foo?param=Value&Pet=dog", &headers, "{}");
        assert_eq!(judge(&check, &sent), Ok(()));
        let mut other = sent.clone();
        put(&mut other, "Client-Cert", &certificate.replace("MIIB", "MIIC"));
        assert_eq!(judge(&check, &other), Err(Reason::SignatureMismatch));
    }

    /// Appendix B.4: what others may do to a message on its way, and what not.
    #[test]
    fn a_signature_outlives_the_changes_that_http_allows() {
        let signed = [
            (
                "Signature-Input",
                r#"transform=("@method" "@path" "@authority" "accept");created=1618884473;keyid="test-key-ed25519""#,
            ),
            (
                "Signature",
                "transform=:ZT1kooQsEHpZ0I1IjCqtQppOmIqlJPeo7DHR3SoMn0s5JZ1eRGS0A+vyYP9t/LXlh5QMFFQ6cpLt2m0pmj3NDA==:",
            ),
        ];
        let (json, any) = (("Accept", "application/json"), ("Accept", "*/*"));
        let date = ("Date", "Fri, 15 Jul 2022 14:24:55 GMT");
        let query = "https://example.org/demo?name1=Value1&Name2=value2";
        let added = "https://example.org/demo?name1=Value1&Name2=value2&param=added";
        let message = "algorithm: ed25519, require: [\"@method\", \"@path\", \"@authority\", accept]";
        for (method, url, headers, known_as, holds) in [
            ("GET", query, vec![date, json, any], "https://example.org/demo", true),
            (
                "GET",
                added,
                vec![date, json, any, ("Accept-Language", "en-US,en;q=0.5")],
                "https://example.org/demo",
                true,
            ),
            ("GET", query, vec![("Accept", "application/json, */*")], "https://example.org/demo", true),
            ("GET", query, vec![json, any, date], "https://example.org/demo", true),
            ("POST", query, vec![date, json, any], "https://example.com/demo", false),
            ("POST", query, vec![date, json, any], "https://example.org/demo", false),
            ("GET", query, vec![date, json, any], "https://example.com/demo", false),
            ("GET", query, vec![date, any, json], "https://example.org/demo", false),
        ] {
            let headers: Vec<_> = headers.into_iter().chain(signed).collect();
            let check = check_at(message, ED25519, known_as);
            let judged = judge(&check, &example(method, url, &headers, ""));
            assert_eq!(judged.is_ok(), holds, "{method} {url} {headers:?} {known_as}");
        }
    }

    /// Appendix B.2.4 signs an answer, of which a receiver gets none: the algorithm alone is tried.
    #[test]
    fn p256_signs_as_in_the_rfc() {
        let base = concat!(
            "\"@status\": 200\n\"content-type\": application/json\n\"content-digest\": ",
            "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:\n",
            "\"content-length\": 23\n\"@signature-params\": (\"@status\" \"content-type\" \"content-digest\" ",
            "\"content-length\");created=1618884473;keyid=\"test-key-ecc-p256\""
        );
        let signature = STANDARD
            .decode("wNmSUAhwb5LxtOtOpNa6W5xj067m5hFrj0XQ4fvpaCLx0NKocgPquLgyahnzDnDAUy5eCdlYUEkLIj+32oiasw==")
            .unwrap();
        let keys = super::super::keys::KeySet::parse(P256.as_bytes()).unwrap();
        let raw = PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Raw);
        assert!(keys.verifies(raw, None, base.as_bytes(), &signature));
        assert!(!keys.verifies(raw, None, base.replace("200", "201").as_bytes(), &signature));
        assert!(!keys.verifies(PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Der), None, base.as_bytes(), &signature));
    }

    /// RFC 9530, appendix B, and the body of RFC 9421, appendix B.2. Its `Repr-Digest` is of what a PATCH leads to, which
    /// the message does not hold: it is no digest of a body.
    #[test]
    fn digests_of_the_rfc_are_digests_of_its_bodies() {
        for (digest, body) in [
            ("sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:", "{\"hello\": \"world\"}\n"),
            ("sha-256=:jjcgBDWNAtbYUXI37CVG3gRuGOAjaaDRGpIUFsdyepQ=:", "\"world\"}\n"),
            ("sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:", ""),
            (
                "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
                "{\"hello\": \"world\"}",
            ),
            (
                "sha-512=:mEWXIS7MaLRuGgxOBdODa3xqM1XdEvxoYhvlCFJ41QJgJc4GTsPp29l5oGX69wWdXymyU0rjJuahq4l5aGgfLQ==:",
                "{\"message\": \"good dog\"}",
            ),
        ] {
            let (base, signature) = Default::default();
            let proved = MessageSignature { base, signature, key_id: None, created: 0, covers_digest: true };
            for (name, holds) in [("Content-Digest", true), ("Repr-Digest", false)] {
                let sent = example("POST", "https://example.com/", &[(name, digest)], body);
                let judge = |body: &[u8]| sent.with_head(|head| proved.check_body(head, body).is_ok()).unwrap();
                assert_eq!(judge(body.as_bytes()), holds, "{name}: {digest}");
                assert!(!judge(format!("{body} ").as_bytes()), "{digest}");
            }
        }
    }

    #[test]
    fn a_signature_over_too_little_is_refused_however_right_it_is() {
        // B.2.1 covers nothing at all.
        let input = r#"sig-b21=();created=1618884473;keyid="test-key-rsa-pss";nonce="b3k2pp5k7z-50gnwp.yemd""#;
        let signature = "sig-b21=:d2pmTvmbncD3xQm8E9ZV2828BjQWGgiwAaw5bAkgibUopemLJcWDy/lkbbHAve4cRAtx31Iq786U7it++wgGxbtRxf8Udx7zFZsckzXaJMkA7ChG52eSkFxykJeNqsrWH5S+oxNFlD4dzVuwe8DhTSja8xxbR/Z2cOGdCbzR72rgFWhzx2VjBqJzsPLMIQKhO4DGezXehhWwE56YCE+O6c0mKZsfxVrogUvA4HELjVKWmAvtl6UnCh8jYzuVG5WSb/QEVPnP5TmcAnLH1g+s++v6d4s8m0gCw1fV5/SITLq9mhho8K3+7EPYTU8IU1bLhdxO5Nyt8C8ssinQ98Xw9Q==:";
        for require in ["content-digest", "\"@method\"", "date", "\"@query\""] {
            let check = check(&format!("algorithm: rsa-pss-sha512, require: [{require}]"), RSA);
            assert_eq!(judge(&check, &request(input, signature)), Err(Reason::SignatureMalformed), "{require}");
        }
        // A part of a component is not the component.
        let query = check("algorithm: rsa-pss-sha512, require: [\"@query\"]", RSA);
        assert_eq!(judge(&query, &request(B22.0, B22.1)), Err(Reason::SignatureMalformed));
        let raw: RawScheme =
            serde_yaml::from_str("{ algorithm: http-message-signature, message: { algorithm: ed25519, require: [] } }")
                .unwrap();
        assert!(raw.compile("signature").is_err());
    }

    #[test]
    fn algorithm_label_tag_expiry_and_grammar_are_held_to() {
        let check = check("algorithm: ed25519, require: [\"@method\"], key_id: true", ED25519);
        let (input, signature) = B26;
        assert_eq!(judge(&check, &request(input, signature)), Ok(()));
        for bad in [
            input.replace(";created", ";alg=\"rsa-pss-sha512\";created"),
            input.replace(";keyid=\"test-key-ed25519\"", ""),
            input.replace("created=1618884473", "created=1618884473.5"),
            input.replace("created=1618884473;", ""),
            input.replace("created=1618884473", "created=\"1618884473\""),
            input.replace("created=1618884473", "created=1618884473;created=1618884473"),
            input.replace(";created", ";expires=1618884480;created"),
            input.replace("\"@method\"", "\"@method\";req"),
            input.replace("\"@method\"", "\"@status\""),
            input.replace("\"@method\"", "\"@method\" \"@method\""),
            input.replace("\"date\"", "\"Date\""),
            input.replace("\"date\"", "date"),
            input.replace("(\"", "\""),
            format!("{input}, {input}"),
            format!("{input},"),
            input.replace("sig-b26", "SIG"),
            input.replace("sig-b26", "other"),
            String::new(),
        ] {
            assert!(judge(&check, &request(&bad, signature)).is_err(), "{bad}");
        }
        for bad in ["sig-b26=:AAAA:", "sig-b26=AAAA", "sig-b26=::", "sig-b26=:%%%%:", "other=:AAAA:", "sig-b26"] {
            assert!(judge(&check, &request(input, bad)).is_err(), "{bad}");
        }
        // Another signature beside it neither helps nor harms.
        let two = format!("proxy=();created=1618884473, {input}");
        assert_eq!(judge(&check, &request(&two, &format!("proxy=:AAAA:, {signature}"))), Ok(()));
    }

    /// Signs over what the request's `Signature-Input` says, as a careless sender would.
    fn sign_anew(check: &SignatureCheck, request: &mut UnsignedRequest) -> Result<(), Reason> {
        let rules = match &check.scheme.alternatives[0].proof {
            super::super::scheme::Proof::Message(rules) => rules,
            _ => unreachable!(),
        };
        put(request, "signature", "sig1=:AAAA:");
        let read = |head: &Head<'_>| Ok(read(rules, head, check.public_url.as_ref(), None)?[0].base.clone());
        let base = request.with_head(read).unwrap().map_err(|reject: Reject| reject.reason)?;
        let key = STANDARD.decode(HMAC).unwrap();
        let mac = super::super::mac::HmacKeys::new(std::iter::once(Hash::Sha256), &key).unwrap();
        let mac = mac.mac(Hash::Sha256, &base).unwrap();
        put(request, "signature", &format!("sig1=:{}:", STANDARD.encode(mac.as_bytes())));
        Ok(())
    }

    /// A request like the RFC's, whose signature covers this and holds.
    fn verdict(message: &str, url: &str, input: &str, at: u64) -> Result<(), Reason> {
        let check = check(&format!("algorithm: hmac-sha256, {message}"), HMAC);
        let mut request = request("x=()", "x=::");
        request.headers.iter_mut().for_each(|(name, _)| *name = name.to_lowercase());
        request.url = url.into();
        put(&mut request, "signature-input", &format!("sig1={input}"));
        sign_anew(&check, &mut request)?;
        judge_at(&check, &request, at)
    }

    #[test]
    fn the_grammar_of_covered_components_and_parameters_is_the_rfcs() {
        let many = |count: usize| (0..count).map(|at| format!("\"@query-param\";name=\"p{at}\" ")).collect::<String>();
        let query = (0..40).map(|at| format!("p{at}=v&")).collect::<String>();
        let url = format!("https://example.com/foo?{query}a=%22");
        for (fine, covered, parameters) in [
            (true, r#"("@method" "@path")"#.to_owned(), ""),
            (true, r#"( "@method"  "date" )"#.to_owned(), ""),
            (false, r#"("@method" "Date")"#.to_owned(), ""),
            (false, r#"("@method" "")"#.to_owned(), ""),
            (false, r#"("@method" "da\"te")"#.to_owned(), ""),
            (false, r#"("@method" "@nothing")"#.to_owned(), ""),
            (false, r#"("@method" "x-missing")"#.to_owned(), ""),
            (false, r#"("@method" "date" "date")"#.to_owned(), ""),
            (false, r#"("@method""date")"#.to_owned(), ""),
            (true, format!("(\"@method\" {})", many(31)), ""),
            (false, format!("(\"@method\" {})", many(32)), ""),
            (true, r#"("@method")"#.to_owned(), r#";nonce="a\"b\\c""#),
            (false, r#"("@method")"#.to_owned(), r#";nonce="a\b""#),
            (false, r#"("@method")"#.to_owned(), ";nonce=\"\u{e9}\""),
            (true, r#"("@method")"#.to_owned(), ";a;b=?0;c=?1;d=*tok/en:x;e=Token;f=:AAAA:;g=-1;h=123456789012345"),
            (false, r#"("@method")"#.to_owned(), ";b=?2"),
            (false, r#"("@method")"#.to_owned(), ";b=1.5"),
            (false, r#"("@method")"#.to_owned(), ";b=12345678901234567"),
            (false, r#"("@method")"#.to_owned(), ";b=(a)"),
            (false, r#"("@method")"#.to_owned(), ";1b=1"),
            (false, r#"("@method")"#.to_owned(), ";B=1"),
            (false, r#"("@method")"#.to_owned(), ";=1"),
            (true, r#"("@method")"#.to_owned(), ";*b-_.9=1"),
        ] {
            let input = format!("{covered};created={CREATED}{parameters}");
            assert_eq!(verdict("require: [\"@method\"]", &url, &input, CREATED).is_ok(), fine, "{input}");
        }
        // Labels: as many as a message may have, and no more.
        let labels = |count: usize| (0..count).map(|at| format!("l{at}=:AAAA:, ")).collect::<String>();
        for (count, fine) in [(2 * MAX_LABELS - 1, true), (2 * MAX_LABELS, false)] {
            assert_eq!(dictionary(&format!("{}z=1", labels(count))).is_some(), fine, "{count}");
        }
    }

    #[test]
    fn the_window_of_a_message_has_two_ends() {
        let input = format!("(\"@method\");created={CREATED}");
        let at = |at| verdict("require: [\"@method\"], past: 5m, future: 1m", "https://example.com/foo", &input, at);
        assert_eq!((at(CREATED + 300), at(CREATED + 301)), (Ok(()), Err(Reason::TimestampTooOld)));
        assert_eq!((at(CREATED - 60), at(CREATED - 61)), (Ok(()), Err(Reason::TimestampInFuture)));
    }

    #[test]
    fn the_port_of_a_scheme_is_no_part_of_the_authority() {
        let item = |name| Item { name, parameters: Vec::new(), written: name };
        let request = request("x=()", "x=::");
        for (url, authority) in [
            ("https://Example.com:443/foo", "example.com"),
            ("https://example.com:80/foo", "example.com:80"),
            ("http://example.com:80/foo", "example.com"),
            ("http://example.com:443/foo", "example.com:443"),
            ("https://example.com:8443", "example.com:8443"),
        ] {
            let public = PublicUrl::parse(url).unwrap();
            let value = request.with_head(|head| component(&item("@authority"), head, Some(&public))).unwrap();
            assert_eq!(value.unwrap(), authority, "{url}");
        }
    }

    #[test]
    fn what_a_message_must_cover_is_known() {
        let rules = |require: &str| match &check(&format!("algorithm: ed25519, require: [{require}]"), ED25519)
            .scheme
            .alternatives[0]
            .proof
        {
            super::super::scheme::Proof::Message(rules) => (**rules).clone(),
            _ => unreachable!(),
        };
        for (require, body, date, query, url) in [
            ("\"@method\"", false, false, false, false),
            ("content-digest", true, false, false, false),
            ("\"@method\", date", false, true, false, false),
            ("\"@query\"", false, false, true, false),
            ("\"@request-target\"", false, false, true, false),
            ("\"@target-uri\"", false, false, true, true),
            ("\"@authority\"", false, false, false, true),
            ("\"@scheme\"", false, false, false, true),
        ] {
            let rules = rules(require);
            let known = (
                rules.covers_body(),
                rules.covers_header(&HeaderName::from_static("date")),
                rules.covers_query(),
                rules.needs_public_url(),
            );
            assert_eq!(known, (body, date, query, url), "{require}");
        }
    }

    #[test]
    fn all_digests_of_the_body_that_are_known_must_hold() {
        let check = check("algorithm: hmac-sha256, require: [\"@method\", content-digest]", HMAC);
        let now = Now::at_unix(CREATED);
        let mut good = request("x=()", "x=::");
        check.sign(&mut good, now, &SignOptions::default()).unwrap();
        assert_eq!(judge(&check, &good), Ok(()));
        let digest =
            String::from_utf8(good.headers.iter().find(|(name, _)| name == "content-digest").unwrap().1.clone())
                .unwrap();
        for (value, holds) in [
            (format!("md5=:AAAA:, {digest}"), true),
            (format!("{digest}, sha-512=:AAAA:"), false),
            ("md5=:AAAA:".to_owned(), false),
            ("sha-256=::".to_owned(), false),
            ("sha-256=AAAA".to_owned(), false),
            (digest.replace("sha-256", "SHA-256"), false),
        ] {
            let mut signed = good.clone();
            put(&mut signed, "content-digest", &value);
            sign_anew(&check, &mut signed).unwrap();
            assert_eq!(judge(&check, &signed).is_ok(), holds, "{value}");
        }
    }

    proptest! {
        #[test]
        fn any_headers_are_read_without_panic(input in "\\PC{0,80}", signature in "\\PC{0,40}") {
            let check = check("algorithm: ed25519, require: [\"@method\"]", ED25519);
            prop_assert!(judge(&check, &request(&input, &signature)).is_err());
        }

        #[test]
        fn header_like_text_is_read_without_panic(input in r#"[a-z"@()=;:, 0-9\\.*-]{0,80}"#) {
            let check = check("algorithm: ed25519, require: [\"@method\"]", ED25519);
            prop_assert!(judge(&check, &request(&input, "sig=:AAAA:")).is_err());
            let labelled = format!("sig={input}");
            prop_assert!(judge(&check, &request(&labelled, "sig=:AAAA:")).is_err());
            let inside = format!("sig=(\"@method\" {input});created=1618884473");
            prop_assert!(judge(&check, &request(&inside, "sig=:AAAA:")).is_err());
        }
    }
}
