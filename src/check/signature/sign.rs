//! Signing as a sender does, for trying a configuration out and for tests.
//!
//! Fills in what a sender would send along and the scheme reads: signature, time, an ID. What already stands in the
//! request is left as it is, but for the signature.

use super::keys::{PrivateKey, PublicAlgorithm};
use super::message::{MessageKind, MessageRules};
use super::scheme::{Algorithm, Must, Proof, Signed};
use super::template::{Inputs, NamedIn, Part};
use super::token::{ClaimMust, Payload, TokenKind, TokenRules};
use super::url::UrlForm;
use super::{Credential, Encoding, SignatureCheck, TimestampPlace, feed, mac, text};
use crate::check::multipart;
use crate::check::source::{Inner, Source, decode_component, raw_pairs};
use crate::request::{Head, HeaderName, Headers, Now};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
use std::sync::Arc;

/// A request before it is signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnsignedRequest {
    /// Upper case.
    pub method: String,
    /// Absolute, as it is called: `http://127.0.0.1:8080/webhooks/crm?x=1`.
    pub url: String,
    /// Names in any case.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Any bytes.
    pub body: Vec<u8>,
}

/// How to sign.
#[derive(Clone, Debug, Default)]
pub struct SignOptions {
    /// The alternative of the scheme, by name. `None`: the one that the request calls for, else the first.
    pub variant: Option<String>,
    /// What stands where the scheme signs an ID. `None`: made up from the time and the body.
    pub id: Option<String>,
    /// The sender's private key, for schemes that are verified with its public one.
    pub private_key: Option<Arc<PrivateKey>>,
    /// What the sender calls that key.
    pub key_id: Option<String>,
}

/// The request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SignError(pub String);

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// Where the secret came from.
    pub secret: String,
    /// What was filled in, in order: `header x-signature`.
    pub filled: Vec<String>,
}

impl UnsignedRequest {
    /// Looks at the request as a check does.
    pub fn with_head<R>(&self, look: impl FnOnce(&Head<'_>) -> R) -> Result<R, SignError> {
        let (_, rest) =
            self.url.split_once("://").ok_or_else(|| SignError(format!("`{}` is not an absolute url", self.url)))?;
        let rest = rest.split('#').next().unwrap_or_default();
        let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        Ok(look(&Head {
            method: &self.method,
            path: if path.is_empty() { "/" } else { path },
            query,
            host: host.rsplit('@').next().unwrap_or_default(),
            headers: Headers::List(&headers),
        }))
    }

    /// Reads a value of the request.
    pub fn read(&self, source: &Source) -> Result<Option<Vec<u8>>, SignError> {
        self.with_head(|head| source.read(head, &self.body).map(|value| value.map(std::borrow::Cow::into_owned)))?
            .map_err(|error| SignError(error.0))
    }

    /// Where a field of a multipart form stands. `None`: the body is no such form.
    fn multipart(&self, name: &str) -> Result<Option<std::ops::Range<usize>>, SignError> {
        let found = self.with_head(|head| {
            let boundary = multipart::boundary(head, &self.body)?;
            Some(multipart::field(&self.body, boundary, name))
        })?;
        match found {
            None => Ok(None),
            Some(Ok(Some(range))) => Ok(Some(range)),
            Some(Ok(None)) => Err(SignError(format!("form field {name} must stand in the body"))),
            Some(Err(what)) => Err(SignError(format!("form field {name}: {what}"))),
        }
    }

    /// Puts a value where a source will find it, in place of one that stands there.
    pub fn put(&mut self, source: &Source, value: &[u8]) -> Result<(), SignError> {
        match source {
            Source::Header(name) => {
                self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
                self.headers.push((name.to_string(), value.to_vec()));
            }
            Source::Query(name) => {
                let (base, query) = self.url.split_once('?').unwrap_or((&self.url, ""));
                let query = with_pair(query.as_bytes(), name, value);
                self.url = format!("{base}?{}", String::from_utf8_lossy(&query));
            }
            Source::Form(name) => match self.multipart(name)? {
                None => self.body = with_pair(&self.body, name, value),
                Some(range) => drop(self.body.splice(range, value.iter().copied())),
            },
            Source::Inside(outer, inner) => {
                let value = match inner {
                    Inner::Base64 => STANDARD.encode(value).into_bytes(),
                    Inner::Json(pointer) => {
                        let text = self.read(outer)?.unwrap_or_else(|| b"{}".to_vec());
                        with_member(&text, pointer, value)?
                    }
                    Inner::Claim(_) => {
                        return Err(SignError(format!("{source} stands in a token: it cannot be changed")));
                    }
                };
                self.put(outer, &value)?;
            }
            Source::Xml(path) => {
                let wrong = || SignError(format!("{source} has no place in the body"));
                self.body = path.put(&self.body, &String::from_utf8_lossy(value)).ok_or_else(wrong)?;
            }
            // A batch of one.
            Source::Json(pointer) if pointer.contains("/*") => {
                return self.put(&Source::Json(pointer.replace("/*", "/0").into()), value);
            }
            Source::Json(pointer) if pointer[1..].contains('/') || self.read(source)?.is_some() => {
                self.body = with_member(&self.body, pointer, value)?;
            }
            Source::Json(pointer) => {
                let name = pointer.trim_start_matches('/').replace("~1", "/").replace("~0", "~");
                let Some(at) = self.body.iter().position(|byte| *byte == b'{') else {
                    return Err(SignError(format!("{source} must stand in the body")));
                };
                let empty = self.body[at + 1..].trim_ascii_start().starts_with(b"}");
                let value = json_value(value);
                let member = format!("{}:{value}{}", serde_json::Value::from(name), if empty { "" } else { "," });
                self.body.splice(at + 1..at + 1, member.into_bytes());
            }
        }
        Ok(())
    }
}

/// A value as senders write it: digits are a number.
fn json_value(value: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(value);
    let digits = value.len() < 19 && value.iter().all(u8::is_ascii_digit);
    digits.then(|| text.parse::<u64>().ok()).flatten().map_or_else(|| (&*text).into(), Into::into)
}

/// A JSON body with one more member, deep inside; what it stands in is made where it is missing.
fn with_member(body: &[u8], pointer: &str, value: &[u8]) -> Result<Vec<u8>, SignError> {
    use serde_json::Value;
    let wrong = || SignError(format!("json member {pointer} has no place in the body"));
    let mut root: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
    let mut at = &mut root;
    for name in pointer.split('/').skip(1) {
        if at.is_null() {
            *at = if name == "0" { Value::Array(Vec::new()) } else { Value::Object(serde_json::Map::new()) };
        }
        at = match at {
            Value::Object(members) => members.entry(name.replace("~1", "/").replace("~0", "~")).or_insert(Value::Null),
            Value::Array(items) => {
                let index: usize = name.parse().map_err(|_| wrong())?;
                if index == items.len() {
                    items.push(Value::Null);
                }
                items.get_mut(index).ok_or_else(wrong)?
            }
            _ => return Err(wrong()),
        };
    }
    *at = json_value(value);
    Ok(root.to_string().into_bytes())
}

/// A query or form with one more pair, in place of one of the same name.
fn with_pair(text: &[u8], name: &str, value: &[u8]) -> Vec<u8> {
    let mut pairs: Vec<Vec<u8>> = raw_pairs(text)
        .filter(|(key, _)| decode_component(key).is_none_or(|key| *key != *name.as_bytes()))
        .map(|(key, value)| [key, b"=", value].concat())
        .collect();
    let encode = |bytes: &[u8]| percent_encode(bytes, NON_ALPHANUMERIC).to_string();
    // Names are mostly plain; `bodySHA256` and `data.id` read better as they are.
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    let name = if plain { name.to_owned() } else { encode(name.as_bytes()) };
    pairs.push(format!("{name}={}", encode(value)).into_bytes());
    pairs.join(&b'&')
}

impl SignatureCheck {
    /// Signs as a sender would, with the first secret that is valid now.
    pub fn sign(&self, request: &mut UnsignedRequest, now: Now, options: &SignOptions) -> Result<Signing, SignError> {
        let alternatives = &self.scheme.alternatives;
        let index = match &options.variant {
            Some(name) => {
                alternatives.iter().position(|known| known.name.as_deref() == Some(name)).ok_or_else(|| {
                    let known: Vec<&str> = self.scheme.variants().collect();
                    SignError(format!("the scheme has no variant `{name}`; it has: {}", known.join(", ")))
                })?
            }
            None => request.with_head(|head| self.choose(head).map_or(0, |(index, _)| index))?,
        };
        let credential = |at: usize| self.keys.get(index)?.get(at)?.as_ref().map(|key| (at, key));
        let found = self.active(now).find_map(credential);
        let (Some(alternative), Some((secret, credential))) = (alternatives.get(index), found) else {
            return Err(SignError("no secret is valid now".into()));
        };
        let public =
            || SignError("only the sender can sign: its private key is needed, the public one is for verifying".into());
        let mut filled = Vec::new();
        if let Some(when) = &alternative.when
            && let Some(is) = &when.is
        {
            request.put(&when.source, is.as_bytes())?;
            filled.push(when.source.to_string());
        }
        match &alternative.proof {
            Proof::Shared(place) => {
                let Credential::Secret(key) = credential else { return Err(public()) };
                let value = place.encoding.encode(key.expose_shared());
                request.put(&place.source, &[&place.prefix, value.as_bytes()].concat())?;
                filled.push(place.source.to_string());
            }
            Proof::Signed(scheme) => {
                let maker = match (credential, scheme.algorithm) {
                    (Credential::Secret(key), Algorithm::Hmac(_) | Algorithm::Digest(_)) => Maker::Mac(key),
                    (Credential::Seeded(_, private), Algorithm::Public(algorithm)) => {
                        Maker::Private(private, algorithm)
                    }
                    (_, Algorithm::Public(algorithm)) => {
                        Maker::Private(options.private_key.as_deref().ok_or_else(public)?, algorithm)
                    }
                    _ => return Err(public()),
                };
                self.sign_signed(scheme, &maker, request, now, options, &mut filled)?;
            }
            Proof::Message(rules) => self.sign_message(rules, credential, request, now, options, &mut filled)?,
            Proof::Token(rules) => {
                let secret = match credential {
                    Credential::Token(secret) => Some(secret),
                    _ => None,
                };
                if secret.is_none() && options.private_key.is_none() {
                    return Err(public());
                }
                self.sign_token(rules, secret, request, now, options)?;
                filled.push(rules.place());
            }
        }
        let secret = self.validity.get(secret).map(|secret| secret.origin.to_string()).unwrap_or_default();
        Ok(Signing { secret, filled })
    }

    fn sign_signed(
        &self,
        scheme: &Signed,
        maker: &Maker<'_>,
        request: &mut UnsignedRequest,
        now: Now,
        options: &SignOptions,
        filled: &mut Vec<String>,
    ) -> Result<(), SignError> {
        if scheme.each.is_some() {
            return Err(SignError("each item of the body has a signature of its own: it cannot be made here".into()));
        }
        let mut fields: Vec<(&str, String)> = Vec::new();
        if let Some(rule) = &scheme.timestamp {
            let written = rule.unit.write(now.unix);
            match &rule.place {
                TimestampPlace::Field(name) => fields.push((name, written)),
                TimestampPlace::Source(source) => fill(request, source, written.as_bytes(), filled)?,
            }
        }
        let id = made_id(request, now, options);
        if let Some(source) = &scheme.key_id {
            let id = options.key_id.as_deref().unwrap_or("key-1");
            fill(request, source, id.as_bytes(), filled)?;
        }
        for part in scheme.signed.leaves() {
            match part {
                Part::Value(source) | Part::AnyCase(source) => fill(request, source, id.as_bytes(), filled)?,
                Part::JsonLines(members) => {
                    for (source, _, optional) in members {
                        let is_time =
                            scheme.is_time(|place| matches!(place, TimestampPlace::Source(time) if time == source));
                        if !optional && !is_time {
                            fill(request, source, id.as_bytes(), filled)?;
                        }
                    }
                }
                Part::Field(name) if fields.iter().all(|(known, _)| **known != **name) => {
                    fields.push((name, id.clone()))
                }
                _ => {}
            }
        }
        if let Some(by) = &scheme.algorithm_by {
            let ours = by.values.iter().find(|(_, algorithm)| Algorithm::Public(*algorithm) == scheme.algorithm);
            if let Some((value, _)) = ours {
                request.put(&by.source, value.as_bytes())?;
                filled.push(by.source.to_string());
            }
        }
        for requirement in &scheme.require {
            let value = match &requirement.must {
                Must::Equal(text) => text.to_string(),
                Must::Setting(_) => continue,
                Must::BodyDigest(hash, encoding) => encoding.encode(hash.digest(&request.body).as_bytes()),
            };
            request.put(&requirement.source, value.as_bytes())?;
            filled.push(requirement.source.to_string());
        }
        if let Some(headers) = &scheme.headers {
            let separator = char::from(headers.separator).to_string();
            let names: Vec<&str> = headers.require.iter().map(HeaderName::as_str).collect();
            for name in &headers.require {
                fill(request, &Source::Header(name.clone()), id.as_bytes(), filled)?;
            }
            match &headers.named_in {
                NamedIn::Field(name) => {
                    fields.retain(|(known, _)| **known != **name);
                    fields.push((name, names.join(&separator)));
                }
                NamedIn::Header(name) => {
                    request.put(&Source::Header(name.clone()), names.join(&separator).as_bytes())?;
                }
            }
        }
        let list = scheme.from.list.as_ref();
        let listed = list.map(|list| list.write(&fields, b"")).unwrap_or_default();
        let made = request.with_head(|head| {
            let inputs =
                Inputs { head, body: &request.body, public_url: self.public_url.as_ref(), scheme, signature: &listed };
            maker.make(scheme, &inputs)
        })??;
        if scheme.from.source.needs_body() && scheme.covers(&scheme.from.source) {
            return Err(SignError(format!("{} stands in the body that it signs", scheme.from.source)));
        }
        let signature = scheme.from.encoding.encode(&made);
        let signature = [&scheme.from.prefix, signature.as_bytes()].concat();
        let value = match list {
            None => signature,
            Some(list) => list.write(&fields, &signature),
        };
        for source in &scheme.also {
            // What stands there was made over another request.
            if let Source::Header(name) = source {
                request.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_str()));
            }
        }
        request.put(&scheme.from.source, &value)?;
        filled.push(scheme.from.source.to_string());
        Ok(())
    }
}

/// What a signature is made with.
enum Maker<'k> {
    Mac(&'k mac::Key),
    Private(&'k PrivateKey, PublicAlgorithm),
}

impl Maker<'_> {
    fn make(&self, scheme: &Signed, inputs: &Inputs<'_>) -> Result<Vec<u8>, SignError> {
        let refused = |reject: crate::reject::Reject| SignError(reject.to_string());
        match self {
            Self::Mac(key) => {
                let mut state = key.start();
                feed(scheme, 0..usize::MAX, inputs, 0, &mut state).map_err(refused)?;
                Ok(state.finish().as_bytes().to_vec())
            }
            Self::Private(key, algorithm) => {
                let text = text(scheme, inputs, 0).map_err(refused)?;
                let unfit = || SignError(format!("the private key does not make signatures of the kind {algorithm}"));
                key.sign(*algorithm, &text).ok_or_else(unfit)
            }
        }
    }
}

fn made_id(request: &UnsignedRequest, now: Now, options: &SignOptions) -> String {
    options.id.clone().unwrap_or_else(|| {
        let seed = [&now.unix.as_nanos().to_be_bytes()[..], &request.body].concat();
        format!("msg_{}", hex::encode(&mac::Hash::Sha256.digest(&seed).as_bytes()[..12]))
    })
}

impl SignatureCheck {
    /// Signs what the rules ask for, under the label `sig1`.
    fn sign_message(
        &self,
        rules: &MessageRules,
        credential: &Credential,
        request: &mut UnsignedRequest,
        now: Now,
        options: &SignOptions,
        filled: &mut Vec<String>,
    ) -> Result<(), SignError> {
        let id = made_id(request, now, options);
        let header = |name: &str| Source::header(name).map_err(SignError);
        if rules.covers_body() {
            let digest = Encoding::Base64.encode(mac::Hash::Sha256.digest(&request.body).as_bytes());
            request.put(&header("content-digest")?, format!("sha-256=:{digest}:").as_bytes())?;
        }
        for name in rules.require.iter().filter(|name| !name.starts_with('@')) {
            fill(request, &header(name)?, id.as_bytes(), filled)?;
        }
        let components: Vec<String> = rules.require.iter().map(|name| format!("{name:?}")).collect();
        let mut input = format!("({});created={}", components.join(" "), now.unix.as_secs());
        if let Some(tag) = &rules.tag {
            input += &format!(";tag={tag:?}");
        }
        if options.key_id.is_some() || rules.require_key_id {
            input += &format!(";keyid={:?}", options.key_id.as_deref().unwrap_or("key-1"));
        }
        let label = rules.label.as_deref().unwrap_or("sig1");
        request.put(&header("signature-input")?, format!("{label}={input}").as_bytes())?;
        request.put(&header("signature")?, format!("{label}=:AAAA:").as_bytes())?;
        let read = request.with_head(|head| super::message::read(rules, head, self.public_url.as_ref(), Some(now)))?;
        let read = read.map_err(|reject| SignError(reject.to_string()))?;
        let base = read.first().map(|signature| signature.base.as_slice()).unwrap_or_default();
        let made = match (rules.algorithm.kind, credential, &options.private_key) {
            (MessageKind::Hmac(hash), Credential::Token(secret), _) => {
                secret.mac(hash, base).map(|mac| mac.as_bytes().to_vec())
            }
            (MessageKind::Public(algorithm), _, Some(private)) => private.sign(algorithm, base),
            (MessageKind::Public(_), _, None) => {
                let what = "only the sender can sign: its private key is needed, the public one is for verifying";
                return Err(SignError(what.into()));
            }
            _ => None,
        };
        let made = made.ok_or_else(|| SignError("the private key is of another kind than the scheme's".into()))?;
        request.put(&header("signature")?, format!("{label}=:{}:", Encoding::Base64.encode(&made)).as_bytes())?;
        filled.extend(["header signature-input".to_owned(), "header signature".to_owned()]);
        Ok(())
    }

    /// A token that says everything the scheme asks for.
    fn sign_token(
        &self,
        rules: &TokenRules,
        secret: Option<&mac::HmacKeys>,
        request: &mut UnsignedRequest,
        now: Now,
        options: &SignOptions,
    ) -> Result<(), SignError> {
        let seconds = now.unix.as_secs();
        let id = made_id(request, now, options);
        for claim in &rules.claims {
            if let ClaimMust::SameAs(source) = &claim.must {
                fill(request, source, id.as_bytes(), &mut Vec::new())?;
            }
        }
        let called = || {
            let url = self.public_url.as_ref().ok_or_else(|| SignError("public_url is missing".into()))?;
            request.with_head(|head| url.called(head, UrlForm::AsCalled, 0).into_owned())
        };
        let mut claims = serde_json::Map::new();
        for name in ["iat", "nbf"] {
            claims.insert(name.into(), seconds.into());
        }
        claims.insert("exp".into(), (seconds + 60).into());
        claims.insert("jti".into(), id.clone().into());
        if let Some((name, unit)) = &rules.made_at {
            claims.insert(name.to_string(), (seconds * u64::from(*unit)).into());
        }
        for name in &rules.present {
            claims.entry(&**name).or_insert_with(|| id.clone().into());
        }
        for claim in &self.claims {
            claims.insert(claim.name.to_string(), claim.texts.first().map(|text| &**text).into());
        }
        for claim in &rules.claims {
            let value = match &claim.must {
                ClaimMust::OneOf(texts) => texts.first().map(ToString::to_string).unwrap_or_default(),
                ClaimMust::BodyDigest { unless_empty: true, .. } if request.body.is_empty() => continue,
                ClaimMust::BodyDigest { hash, encoding, .. } => encoding.encode(hash.digest(&request.body).as_bytes()),
                ClaimMust::UrlDigest { hash, encoding } => {
                    encoding.encode(hash.digest(called()?.as_bytes()).as_bytes())
                }
                ClaimMust::Url => called()?,
                ClaimMust::SameAs(source) => {
                    let value = request.read(source)?.unwrap_or_default();
                    String::from_utf8_lossy(&value).into_owned()
                }
            };
            claims.insert(claim.name.to_string(), value.into());
        }
        let mut payload = serde_json::Value::from(claims.clone()).to_string().into_bytes();
        for places in &rules.places {
            let value = claims.get(&*places.name).and_then(|value| value.as_str());
            if let (Some(place), Some(value)) = (places.at.first(), value) {
                payload = with_member(&payload, place, value.as_bytes())?;
            }
        }
        let unfit = || SignError("the key makes no signature of the kinds that the scheme accepts".into());
        for algorithm in &rules.algorithms {
            let mut header = serde_json::json!({ "alg": algorithm.name });
            if rules.payload == Payload::Claims {
                header["typ"] = "JWT".into();
            }
            if rules.payload == (Payload::Body { encoded: false }) {
                header["b64"] = false.into();
                header["crit"] = serde_json::json!(["b64"]);
            }
            if let Some(id) = &options.key_id {
                header["kid"] = id.as_str().into();
            }
            let encode = |text: &[u8]| Encoding::Base64Url.encode(text);
            let header = encode(header.to_string().as_bytes());
            let inside = match rules.payload {
                Payload::Claims => encode(&payload).into_bytes(),
                Payload::Body { encoded: true } => encode(&request.body).into_bytes(),
                Payload::Body { encoded: false } => request.body.clone(),
            };
            let input = [header.as_bytes(), b".", &inside].concat();
            let made = match (algorithm.kind, secret, &options.private_key) {
                (TokenKind::Hmac(hash), Some(secret), _) => secret.mac(hash, &input).map(|mac| mac.as_bytes().to_vec()),
                (TokenKind::Public(algorithm), _, Some(private)) => private.sign(algorithm, &input),
                _ => None,
            };
            let Some(made) = made else { continue };
            let shown = if rules.payload == Payload::Claims { String::from_utf8_lossy(&inside) } else { "".into() };
            let token = format!("{header}.{shown}.{}", encode(&made));
            match &rules.from {
                Some(place) => request.put(&place.source, &[&place.prefix, token.as_bytes()].concat())?,
                None => request.body = token.into_bytes(),
            }
            return Ok(());
        }
        Err(unfit())
    }
}

/// Puts a value where none stands.
fn fill(
    request: &mut UnsignedRequest,
    source: &Source,
    value: &[u8],
    filled: &mut Vec<String>,
) -> Result<(), SignError> {
    if request.read(source)?.is_none() {
        request.put(source, value)?;
        filled.push(source.to_string());
    }
    Ok(())
}
