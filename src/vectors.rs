//! Recorded requests that must pass or fail, as data: published by senders, or our own.
//!
//! ```yaml
//! - provider: github
//!   source: https://docs.github.com/…
//!   secrets: ["It's a Secret to Everybody"]
//!   request:
//!     method: POST
//!     url: null
//!     headers: { X-Hub-Signature-256: sha256=757107ea… }
//!     body: Hello, World!
//!   expect: accept
//! ```
//!
//! A vector without `at` is judged at the time that it claims itself. Its `url` is what the sender signed.

use crate::check::handshake::{Body, Handshakes, Reply, Setting, Settings};
use crate::check::signature::keys::PrivateKey;
use crate::check::signature::{
    Credentials, FixedClaim, PublicKeys, Scheme, SignOptions, SignatureCheck, UnsignedRequest,
};
use crate::config::scheme::{RawAlgorithm, RawEncoding, RawHash, RawPlace, RawScheme};
use crate::provider::{self, Provider};
use crate::reject::Reject;
use crate::request::{Head, Now};
use crate::secret::{Secret, SecretBytes};
use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A recorded request with the verdict that it must get.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Vector {
    /// ID of a preset. Left out in the preset's own file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// In place of a preset: the scheme, as a route's own `signature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<RawScheme>,
    /// Only this alternative of the preset's scheme.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Where it is from; `own` for ours.
    #[serde(default)]
    pub source: String,
    /// What it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Secrets of the receiving route.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// The sender's public key, in any form that a route's `public_keys` may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// Its other half, PEM: a test's own key, so that the request can be signed anew for the present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// What claims of a token must hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// What else the sender signs and only the receiver knows.
    #[serde(default, alias = "config", skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// What the sender calls the key, where a header names it. Which secret counts is the route's matter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// When it is judged, in seconds since 1970; a date of RFC 3339 is read as well.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    pub at: Option<u64>,
    /// The request.
    pub request: VectorRequest,
    /// The verdict.
    pub expect: Expect,
    /// What the sender must be answered, where the request is one of its questions: JSON, or the text as a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<serde_json::Value>,
    /// `NAME_challenge`: the request is a question of the sender, `accept` means that it is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Parameters that stand in the query besides those of `request.url`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub query: BTreeMap<String, String>,
    /// Where the sender lets its accounts choose: what of the preset's scheme is otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme_override: Option<SchemeOverride>,
    /// With it: the signed text, in the language of schemes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_payload_override: Option<String>,
    /// Fields that are not understood. They fail the vector, not its file.
    #[serde(flatten, skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, serde_yaml::Value>,
}

/// What of a preset's scheme is otherwise in a vector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SchemeOverride {
    /// The hash of the HMAC or digest.
    pub hash: RawHash,
    /// One plain signature in place of what the preset says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<PlainSignature>,
}

/// One plain signature.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlainSignature {
    /// `header`.
    #[serde(rename = "in")]
    pub place: String,
    /// The header's name.
    pub name: String,
    /// `plain`.
    pub format: String,
    /// How it is written.
    pub encoding: RawEncoding,
}

impl SchemeOverride {
    /// The preset's scheme with the changes made.
    fn apply(&self, scheme: &RawScheme, signed: Option<&str>) -> Result<Scheme, String> {
        let change = |one: &RawScheme| -> Result<RawScheme, String> {
            use RawAlgorithm::{HmacMd5, HmacSha1, HmacSha256, HmacSha384, HmacSha512, Md5, Sha1, Sha256, Sha512};
            let algorithm = match (one.algorithm, self.hash) {
                (Some(Md5 | Sha1 | Sha256 | Sha512), RawHash::Md5) => Md5,
                (Some(Md5 | Sha1 | Sha256 | Sha512), RawHash::Sha1) => Sha1,
                (Some(Md5 | Sha1 | Sha256 | Sha512), RawHash::Sha256) => Sha256,
                (Some(Md5 | Sha1 | Sha256 | Sha512), RawHash::Sha512) => Sha512,
                (Some(HmacMd5 | HmacSha1 | HmacSha256 | HmacSha384 | HmacSha512), hash) => match hash {
                    RawHash::Md5 => HmacMd5,
                    RawHash::Sha1 => HmacSha1,
                    RawHash::Sha256 => HmacSha256,
                    RawHash::Sha384 => HmacSha384,
                    RawHash::Sha512 => HmacSha512,
                },
                _ => return Err("scheme_override goes with HMACs and digests only".into()),
            };
            let mut one = RawScheme { algorithm: Some(algorithm), when: None, by_choice: false, ..one.clone() };
            if let Some(plain) = &self.signature {
                if plain.place != "header" || plain.format != "plain" {
                    return Err("scheme_override.signature is no plain header".into());
                }
                let header = Some(plain.name.clone());
                one.from = Some(RawPlace { header, encoding: Some(plain.encoding), ..RawPlace::default() });
            }
            if let Some(signed) = signed {
                one.signed = Some(signed.into());
                one.timestamp = one.timestamp.filter(|_| signed.contains("{timestamp}"));
            }
            Ok(one)
        };
        // The first that can be changed like this: an override tells of one way alone.
        let alternatives = scheme.any_of.as_deref().unwrap_or(std::slice::from_ref(scheme));
        let first = alternatives.first().ok_or("the preset has no scheme")?;
        let compiled = change(first)?.compile("scheme_override");
        compiled.map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

/// A question of a sender with the answer that it must get.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct HandshakeVector {
    /// Name of the exchange.
    pub exchange: String,
    /// Where it is from; `own` for ours.
    pub source: String,
    /// What it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Secrets of the receiving route.
    #[serde(default)]
    pub secrets: Vec<String>,
    /// Public key of the receiving route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_key: Option<String>,
    /// The private half, to sign with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<String>,
    /// What claims of a token must hold.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, String>,
    /// Further values of its `handshake`, and what else the sender signs and only the receiver knows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// When it is judged, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    pub at: Option<u64>,
    /// The request stands here without a signature and is signed when it is sent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub sign: bool,
    /// The request.
    pub request: VectorRequest,
    /// What it must get.
    pub answer: ExpectedAnswer,
}

/// What a question must be answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ExpectedAnswer {
    /// The status.
    pub status: u16,
    /// It is a refusal; only the status is looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
    /// `Content-Type`; `null` for none.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// The body; JSON is compared as such. Left out: not looked at.
    #[serde(default)]
    pub body: Option<String>,
    /// Headers that stand in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// The request of a vector.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VectorRequest {
    /// As sent.
    pub method: String,
    /// As the sender signed it; `null` where no scheme of the sender signs it.
    #[serde(default)]
    pub url: Option<String>,
    /// By name; a list for a header that stands several times.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderValues>,
    /// As text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// A text, many times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_repeat: Option<Repeat>,
}

/// One value of a header or several.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum HeaderValues {
    /// Stands once.
    One(String),
    /// Stands several times.
    Several(Vec<String>),
}

/// A text, many times.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Repeat {
    /// The text.
    pub text: String,
    /// How often.
    pub count: usize,
}

/// The verdict of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// It verifies.
    Accept,
    /// It does not.
    Reject,
    /// It is a question of the sender, and gets `response`.
    Handshake,
    /// Something else. It fails the vector, not its file.
    #[serde(other)]
    Other,
}

/// What stands in a query as it is (RFC 3986, section 2.3); all else is escaped.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Bodies of vectors stay below this, whatever `body_repeat` says.
const MAX_BODY: usize = 64 << 20;

/// Reads a vector file: a list, or a mapping with the list under `vectors`.
pub fn parse(text: &str) -> Result<Vec<Vector>, String> {
    parse_each(text)?.into_iter().collect()
}

/// The same, where a record that cannot be read does not spoil the others.
pub fn parse_each(text: &str) -> Result<Vec<Result<Vector, String>>, String> {
    let value: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    let list = match value {
        serde_yaml::Value::Mapping(mut file) => file.remove("vectors"),
        value => Some(value),
    };
    let Some(serde_yaml::Value::Sequence(list)) = list else {
        return Err("a vector file is a list, or has one under `vectors`".into());
    };
    let read = |(index, record): (usize, serde_yaml::Value)| {
        serde_path_to_error::deserialize(record).map_err(|error| match error.path().iter().next() {
            Some(_) => format!("vectors[{index}].{}: {}", error.path(), error.inner()),
            None => format!("vectors[{index}]: {}", error.inner()),
        })
    };
    Ok(list.into_iter().enumerate().map(read).collect())
}

fn time<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Time {
        Seconds(u64),
        Date(String),
    }
    let date = match Option::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Time::Seconds(seconds)) => return Ok(Some(seconds)),
        Some(Time::Date(date)) => date,
    };
    let format = &time::format_description::well_known::Rfc3339;
    let parsed = time::OffsetDateTime::parse(&date, format).ok();
    parsed
        .and_then(|date| u64::try_from(date.unix_timestamp()).ok())
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom("expected seconds since 1970 or a time like 2026-01-31T12:00:00Z"))
}

impl Vector {
    /// The request, ready to be looked at.
    pub fn request(&self) -> Result<UnsignedRequest, String> {
        let raw = &self.request;
        let body = match (&raw.body, &raw.body_base64, &raw.body_repeat) {
            (_, None, Some(repeat)) => {
                let len = repeat.text.len().checked_mul(repeat.count).filter(|len| *len <= MAX_BODY);
                len.ok_or("body_repeat is larger than 64 MiB")?;
                repeat.text.repeat(repeat.count).into_bytes()
            }
            (None, Some(text), None) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| format!("body_base64: {error}"))?,
            (body, None, None) => body.clone().unwrap_or_default().into_bytes(),
            _ => return Err("exactly one of body, body_base64, body_repeat is needed".into()),
        };
        let headers = raw.headers.iter().flat_map(|(name, values)| {
            let values = match values {
                HeaderValues::One(value) => std::slice::from_ref(value),
                HeaderValues::Several(values) => values,
            };
            values.iter().map(move |value| (name.clone(), value.clone().into_bytes()))
        });
        let mut url = raw.url.clone().unwrap_or_else(|| "https://hooks.example.com/".into());
        for (name, value) in &self.query {
            let encoded = |text| utf8_percent_encode(text, UNRESERVED);
            url.push(if url.contains('?') { '&' } else { '?' });
            url += &format!("{}={}", encoded(name), encoded(value));
        }
        Ok(UnsignedRequest { method: raw.method.clone(), url, headers: headers.collect(), body })
    }

    /// The check of a route that has this vector's secrets and URL.
    pub fn check(&self, provider: &Provider) -> Result<SignatureCheck, String> {
        let mut scheme = match &self.scheme_override {
            None => provider.scheme.clone(),
            Some(changes) => changes.apply(&provider.signature, self.signed_payload_override.as_deref())?,
        };
        if let Some(variant) = &self.variant
            && scheme.variants().any(|known| known == variant)
        {
            scheme = scheme.only(&[variant]).map_err(|name| format!("the preset has no variant {name}"))?;
        }
        self.bind(scheme)
    }

    fn bind(&self, scheme: Scheme) -> Result<SignatureCheck, String> {
        let secret =
            |(at, text): (usize, &String)| Secret::always(text.clone().into_bytes(), &format!("secrets[{at}]"));
        let secrets = self.secrets.iter().enumerate().map(secret).collect();
        let public_keys = match &self.public_key {
            None => Vec::new(),
            Some(text) => {
                let keys = PublicKeys::parse(text.as_bytes(), "public_key");
                let keys = keys.map_err(|what| format!("public_key {what}"))?;
                vec![match &self.key_id {
                    Some(id) => keys.named(id),
                    None => keys,
                }]
            }
        };
        let one = |(name, text): (&String, &String)| FixedClaim {
            name: name.as_str().into(),
            texts: [text.as_str().into()].into(),
        };
        let claims = self.claims.iter().map(one).collect();
        let settings = self.settings.iter().map(|(name, text)| (name.as_str().into(), text.as_str().into())).collect();
        let credentials =
            Credentials { secrets, public_keys, public_url: self.request.url.as_deref(), claims, settings };
        SignatureCheck::bind(scheme, credentials).map_err(|errors| errors.join("; "))
    }
}

/// Judges a vector by a preset. The error says why it failed.
pub fn run(vector: &Vector, provider: &Provider) -> Result<(), String> {
    if let Some(field) = vector.other.keys().next() {
        return Err(format!("the field `{field}` is not understood"));
    }
    if vector.expect == Expect::Other {
        return Err("`expect` is neither accept, reject nor handshake, so it cannot be judged".into());
    }
    match vector.check.as_deref() {
        None if vector.expect == Expect::Handshake => return answer(vector, provider),
        None => {}
        Some(check) if check.ends_with("_challenge") => {
            let answered = answer(vector, provider);
            return if vector.expect == Expect::Handshake { answered } else { verdict(vector.expect, answered) };
        }
        Some(check) => return Err(format!("the check `{check}` is not understood")),
    }
    judge(vector, vector.check(provider))
}

/// Does the check say what the vector wants?
fn judge(vector: &Vector, check: Result<SignatureCheck, String>) -> Result<(), String> {
    let request = vector.request()?;
    let check = match check {
        Ok(check) => check,
        Err(why) => return verdict(vector.expect, Err(why)),
    };
    let judged = request.with_head(|head| {
        let claimed = || check.claimed_time(head, &request.body).unwrap_or_default();
        let mut now = Now::at_unix(0);
        now.unix = vector.at.map_or_else(claimed, Duration::from_secs);
        let mut verification = check.begin(head, true, now)?;
        verification.update(&request.body);
        verification.finish(head, &request.body, now)
    });
    verdict(vector.expect, judged.map_err(|error| error.0)?.map(drop).map_err(|reject| reject.to_string()))
}

/// Is a question of the sender answered as it should be?
fn answer(vector: &Vector, provider: &Provider) -> Result<(), String> {
    if vector.response.is_none() && vector.check.is_none() {
        return Err("`response` is missing: what the sender must get".into());
    }
    let mut request = vector.request.clone();
    if !vector.query.is_empty() {
        request.url = Some(vector.request()?.url);
    }
    let mut why = "the preset knows no questions".to_owned();
    for exchange in &provider.handshakes {
        let question = HandshakeVector {
            exchange: exchange.name.to_string(),
            source: vector.source.clone(),
            note: None,
            secrets: vector.secrets.clone(),
            public_key: vector.public_key.clone(),
            private_key: None,
            claims: vector.claims.clone(),
            settings: vector.settings.clone(),
            at: vector.at,
            sign: false,
            request: request.clone(),
            answer: ExpectedAnswer {
                status: exchange.answer.status,
                refused: false,
                kind: match &exchange.answer.body {
                    Body::Empty => None,
                    Body::EmptyOf(kind) | Body::Text(kind, _) => Some(kind.to_string()),
                    Body::Json(_) => Some("application/json".into()),
                },
                body: vector.response.as_ref().map(|response| match (response, &exchange.answer.body) {
                    (serde_json::Value::String(text), Body::Text(..)) => text.clone(),
                    _ => response.to_string(),
                }),
                headers: BTreeMap::new(),
            },
        };
        match question.run(provider) {
            Ok(()) => return Ok(()),
            Err(reason) => why = format!("{}: {reason}", exchange.name),
        }
    }
    Err(why)
}

impl HandshakeVector {
    /// The same request as a vector of the signature, which need not have one.
    fn as_vector(&self) -> Vector {
        Vector {
            provider: None,
            signature: None,
            variant: None,
            source: String::new(),
            note: None,
            secrets: self.secrets.clone(),
            key_id: None,
            public_key: self.public_key.clone(),
            private_key: None,
            claims: self.claims.clone(),
            settings: self.settings.clone().into_iter().filter(|(name, _)| Setting::named(name).is_none()).collect(),
            at: self.at,
            request: self.request.clone(),
            expect: Expect::Other,
            response: None,
            check: None,
            query: BTreeMap::new(),
            scheme_override: None,
            signed_payload_override: None,
            other: BTreeMap::new(),
        }
    }

    /// The request, and signed for `now` where it has to be. A vector that stands here with its signature is judged at
    /// the time that it claims.
    pub fn request(&self, provider: &Provider, now: Now) -> Result<(UnsignedRequest, Now), String> {
        let mut request = self.as_vector().request()?;
        let check = self.as_vector().check(provider)?;
        if self.sign {
            let private = self.private_key.as_deref().map(|text| PrivateKey::parse(text.as_bytes())).transpose()?;
            let options = SignOptions { private_key: private.map(Arc::new), ..SignOptions::default() };
            check.sign(&mut request, now, &options).map_err(|error| error.0)?;
            return Ok((request, now));
        }
        let claimed = request.with_head(|head| check.claimed_time(head, &request.body)).map_err(|error| error.0)?;
        let claimed = self.at.map(Duration::from_secs).or(claimed);
        Ok((request, Now { unix: claimed.unwrap_or(now.unix), ..now }))
    }

    /// Asks the preset's exchanges, in the pipeline's order. The error says what differs.
    pub fn run(&self, provider: &Provider) -> Result<(), String> {
        let (request, now) = self.request(provider, Now::at_unix(1_700_000_000))?;
        let check = self.as_vector().check(provider)?;
        let mut settings = Settings::default();
        for (name, value) in &self.settings {
            let Some(setting) = Setting::named(name) else { continue };
            settings.set(setting, SecretBytes::new(value.clone().into_bytes()));
        }
        let secret = |text: &String| Secret::always(text.clone().into_bytes(), "vector");
        let public_url = self.request.url.as_deref().map(|url| url.split('?').next().unwrap_or(url).into());
        let handshakes = Handshakes {
            exchanges: provider.handshakes.clone(),
            secrets: self.secrets.iter().map(secret).collect(),
            settings,
            public_url,
            keep: None,
        };
        let body = &request.body;
        let ask = |head: &Head<'_>| -> Result<Option<Reply>, Reject> {
            if let Some(reply) = handshakes.of_head(head, now)? {
                return Ok(Some(reply));
            }
            let verified = check.begin(head, true, now).and_then(|begun| begun.finish(head, body, now));
            if verified.is_err()
                && handshakes.may_follow(head, Some(body.len() as u64))
                && let Some(reply) = handshakes.of_unsigned(head, body, now)?
            {
                return Ok(Some(reply));
            }
            verified?;
            handshakes.of_verified(head, body, now)
        };
        match request.with_head(ask).map_err(|error| error.0)? {
            Ok(Some(reply)) if *reply.exchange == *self.exchange => {
                let fields = reply.answer.fields.iter().map(|(name, value)| (&**name, &**value));
                self.answer.compare(reply.answer.status, &fields.collect::<Vec<_>>(), &reply.answer.body)
            }
            Ok(Some(reply)) => Err(format!("was taken for {}", reply.exchange)),
            Ok(None) => Err("was taken for an event".into()),
            Err(reject) => {
                let status = reject.status.or(provider.answers.unauthorized).unwrap_or(reject.reason.status());
                match status == self.answer.status && self.answer.refused {
                    true => Ok(()),
                    false => Err(format!("was refused with {status}: {reject}")),
                }
            }
        }
    }
}

impl ExpectedAnswer {
    /// Is this answer the expected one? Names of fields are in lower case.
    pub fn compare(&self, status: u16, fields: &[(&str, &str)], body: &[u8]) -> Result<(), String> {
        if status != self.status {
            return Err(format!("got {status} instead of {}", self.status));
        }
        let field = |name: &str| fields.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        if !self.refused && field("content-type") != self.kind.as_deref() {
            return Err(format!("got the type {:?} instead of {:?}", field("content-type"), self.kind));
        }
        for (name, value) in &self.headers {
            if field(&name.to_lowercase()) != Some(value) {
                return Err(format!("got {:?} as {name} instead of {value}", field(&name.to_lowercase())));
            }
        }
        let Some(expected) = &self.body else { return Ok(()) };
        let json = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).ok();
        let same = match self.kind.as_deref() {
            Some("application/json") => json(body).is_some() && json(body) == json(expected.as_bytes()),
            _ => body == expected.as_bytes(),
        };
        if same { Ok(()) } else { Err(format!("got {:?} instead of {expected:?}", String::from_utf8_lossy(body))) }
    }
}

/// Judges a vector of a file by the preset that it names, or by the scheme that it brings.
pub fn run_named(vector: &Vector) -> Result<(), String> {
    if let Some(raw) = &vector.signature {
        if let Some(field) = vector.other.keys().next() {
            return Err(format!("the field `{field}` is not understood"));
        }
        if vector.check.is_some() || vector.scheme_override.is_some() {
            return Err("with `signature`, a scheme of its own, goes neither `check` nor `scheme_override`".into());
        }
        let words = |problems: Vec<_>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        return judge(vector, vector.bind(raw.compile("signature").map_err(words)?));
    }
    let id = vector.provider.as_deref();
    let id = id.ok_or("names no provider; add `provider: ID`, `hookmoat providers` lists them")?;
    run(vector, provider::find(id).ok_or_else(|| format!("`{id}` is not a known provider"))?)
}

fn verdict(expect: Expect, judged: Result<(), String>) -> Result<(), String> {
    match (expect, judged) {
        (Expect::Accept, Ok(())) | (Expect::Reject, Err(_)) => Ok(()),
        (Expect::Accept, Err(why)) => Err(format!("was to be accepted: {why}")),
        (Expect::Reject, Ok(())) => Err("was to be rejected, but verified".into()),
        (Expect::Handshake | Expect::Other, _) => Err("cannot be judged".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
vectors:
- provider: github
  source: own
  secrets: [secret]
  request: { method: POST, url: null, headers: { X-Hub-Signature-256: sha256=1b2c16b75bd2a870c114153ccda5bcfca63314bc722fa160d690de133ccbb9db }, body: data }
  expect: accept
- provider: github
  secrets: [secret]
  request: { method: POST, url: null, headers: { X-Hub-Signature-256: [sha256=1b2c16b75bd2a870c114153ccda5bcfca63314bc722fa160d690de133ccbb9db, x] }, body_base64: ZGF0YQ== }
  expect: reject
"#;

    #[test]
    fn both_forms_of_a_file_are_read_and_judged() {
        let vectors = parse(FILE).unwrap();
        assert_eq!(vectors.len(), 2);
        assert_eq!(vectors, parse(FILE.trim_start().trim_start_matches("vectors:")).unwrap());
        for vector in &vectors {
            assert_eq!(run_named(vector), Ok(()));
        }
    }

    #[test]
    fn a_failed_vector_says_why() {
        let mut vectors = parse(FILE).unwrap();
        vectors[0].request.body = Some("other".into());
        assert!(run_named(&vectors[0]).unwrap_err().contains("signature_mismatch"));
        vectors[1].request.headers.clear();
        vectors[1].expect = Expect::Accept;
        assert!(run_named(&vectors[1]).unwrap_err().contains("signature_missing"));
        vectors[1].at =
            parse("- { request: { method: GET }, expect: accept, at: 1970-01-02T01:00:00+01:00 }").unwrap()[0].at;
        assert_eq!(vectors[1].at, Some(86_400));
        vectors[1].expect = serde_yaml::from_str("perhaps").unwrap();
        assert!(run_named(&vectors[1]).unwrap_err().contains("neither accept, reject nor handshake"));
        vectors[1].provider = Some("nobody".into());
        assert!(run_named(&vectors[1]).unwrap_err().contains("nobody"));
    }

    /// X's challenge and Convoy's choice of algorithms, as their code bases have them.
    #[test]
    fn questions_and_schemes_that_accounts_choose_are_judged() {
        let text = r#"
- provider: x-twitter
  secrets: [Convoy]
  request: { method: GET, url: "https://example.com/webhook?crc_token=uzwcfYtzr9" }
  response: { response_token: "sha256=HXvxTdsfShG6k2zC9NVANwFquJBdOugRYHax2vNiiOo=" }
  expect: handshake
- provider: braintree
  secrets: [integration_private_key]
  config: { public_key: integration_public_key }
  query: { bt_challenge: 20f9f8ed05f77439fe955c977e4c8a53 }
  check: braintree_challenge
  request: { method: GET, url: null, headers: {}, body: "" }
  response: integration_public_key|d9b899556c966b3f06945ec21311865d35df3ce4
  expect: accept
- provider: convoy
  secrets: [convoy-webhook-secret]
  scheme_override: { hash: sha256, signature: { encoding: base64, format: plain, in: header, name: X-Convoy-Signature } }
  signed_payload_override: "{body}"
  request:
    method: POST
    headers: { X-Convoy-Signature: JERJt/SMvCcJBgydzcKzqkenj1QEMFeQFcV5+xLe+7Q= }
    body: '{"event":"charge.success","amount":1000,"currency":"NGN"}'
  expect: accept
"#;
        for mut vector in parse(text).unwrap() {
            assert_eq!(run_named(&vector), Ok(()), "{vector:?}");
            vector.secrets = vec!["another".into()];
            assert!(run_named(&vector).is_err(), "{vector:?}");
        }
    }

    /// RFC 9421, appendix B.2.6, and a scheme that demands more than that signature covers.
    #[test]
    fn a_vector_may_bring_its_scheme() {
        let text = r#"
- signature: { algorithm: http-message-signature, message: { algorithm: ed25519, require: ["@method", "@path", "@authority"] } }
  public_key: |
    -----BEGIN PUBLIC KEY-----
    MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
    -----END PUBLIC KEY-----
  request:
    method: POST
    url: https://example.com/foo?param=Value&Pet=dog
    headers:
      Date: Tue, 20 Apr 2021 02:07:55 GMT
      Content-Type: application/json
      Content-Length: '18'
      Signature-Input: sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519"
      Signature: "sig-b26=:wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==:"
    body: '{"hello": "world"}'
  expect: accept
"#;
        let mut vector = parse(text).unwrap().remove(0);
        assert_eq!(run_named(&vector), Ok(()));
        vector.request.method = "PUT".into();
        assert!(run_named(&vector).unwrap_err().contains("signature_mismatch"));
        let scheme = vector.signature.as_mut().and_then(|scheme| scheme.message.as_mut()).unwrap();
        scheme.require.push("content-digest".into());
        assert!(run_named(&vector).unwrap_err().contains("does not cover content-digest"));
        vector.expect = Expect::Reject;
        assert_eq!(run_named(&vector), Ok(()));
        vector.check = Some("x_challenge".into());
        assert!(run_named(&vector).is_err());
    }

    /// A question need not say what it is answered; it may say that it must not be.
    #[test]
    fn a_question_may_be_judged_by_whether_it_is_answered() {
        let text = r#"
- provider: braintree
  secrets: [integration_private_key]
  config: { public_key: integration_public_key }
  query: { bt_challenge: 20f9f8ed05f77439fe955c977e4c8a53 }
  check: braintree_challenge
  request: { method: GET }
  expect: accept
- provider: braintree
  secrets: [integration_private_key]
  config: { public_key: integration_public_key }
  query: { bt_challenge: <script> }
  check: braintree_challenge
  request: { method: GET, url: "https://hooks.example.com/b?a=b" }
  expect: reject
"#;
        let vectors = parse(text).unwrap();
        assert_eq!(vectors[1].request().unwrap().url, "https://hooks.example.com/b?a=b&bt_challenge=%3Cscript%3E");
        for mut vector in vectors {
            assert_eq!(run_named(&vector), Ok(()), "{vector:?}");
            vector.expect = if vector.expect == Expect::Accept { Expect::Reject } else { Expect::Accept };
            assert!(run_named(&vector).is_err(), "{vector:?}");
            vector.check = Some("something".into());
            assert!(run_named(&vector).unwrap_err().contains("is not understood"));
        }
    }

    #[test]
    fn files_that_cannot_be_read_name_the_place() {
        assert!(parse("x: 1").is_err());
        assert!(parse("- provider: github\n  nope: 2").unwrap_err().contains("[0]"));
        let each = parse_each(&format!("{FILE}- at: tomorrow\n")).unwrap();
        assert_eq!(each.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false]);
    }
}
