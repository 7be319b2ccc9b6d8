//! Handshakes as people write them, in presets and in routes alike.
//!
//! ```yaml
//! - name: endpoint.url_validation
//!   when: { json: /event, is: endpoint.url_validation }
//!   values:
//!     token: { hmac: sha256, key: secret, over: "{json:/payload/plainToken}", encoding: hex }
//!   answer:
//!     json: { plainToken: "{json:/payload/plainToken}", encryptedToken: "{value:token}" }
//! ```

use super::scheme::{Problem, RawEncoding, RawHash};
use crate::check::handshake::{
    Body, Charset, Cipher, Computed, Condition, Exchange, Form, JsonForm, KeyOf, Must, Operation, Place, Proof,
    Setting, Text, Visit,
};
use crate::check::source::Source;
use crate::fetch::target::Pin;
use crate::request::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request with which a sender asks whether the URL is its receiver's, and the answer that it wants.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawExchange {
    /// For the log.
    pub name: String,
    /// The method of such a request; one or several. POST unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<OneOrList<String>>,
    /// What tells such a request from others; all of it holds.
    #[serde(default)]
    pub when: OneOrList<RawCondition>,
    /// What proves that the sender asks: `signature` (the route's, unless said otherwise) or `none`.
    #[serde(default)]
    pub proof: RawProof,
    /// Instead of `proof`: where the token stands that the route's `handshake: {verify_token: …}` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The status for a wrong token. 403 unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong: Option<u16>,
    /// Values that the answer is made from, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<RawValue>,
    /// What the sender hands over for the operator, written to the file that the route's `handshake: {keep: …}` names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hands_over: Vec<String>,
    /// A URL that the sender wants visited before it sends anything. The route says what becomes of it: `handshake:
    /// {confirm: true}` has it visited, `handshake: {keep: FILE}` has it written there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visit: Option<RawVisit>,
    /// What the sender wants to hear.
    pub answer: RawForm,
}

/// A URL to visit.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawVisit {
    /// Where the message names it: `json:/SubscribeURL`.
    pub url: String,
    /// The URLs that count. `*` stands for one label of the host, for letters, digits, `-` and `_` in the path, and for
    /// anything in the query.
    pub pins: Vec<String>,
}

impl RawVisit {
    fn compile(&self) -> Result<Visit, String> {
        let pins = self.pins.iter().map(|pin| Pin::parse(pin).map_err(|what| format!("the pattern {pin} {what}")));
        let pins = pins.collect::<Result<Box<_>, _>>()?;
        if pins.is_empty() {
            return Err("`pins` is empty: no URL would count".into());
        }
        Ok(Visit { url: Source::parse(&self.url)?, pins, by_hand: false })
    }
}

/// One or several.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrList<T> {
    /// One.
    One(T),
    /// Several.
    List(Vec<T>),
}

impl<T> Default for OneOrList<T> {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl<T> OneOrList<T> {
    fn items(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::List(list) => list,
        }
    }
}

/// Something that holds. One of `header`, `query`, `json`, `form`, `xml` for a place in the request, or `value` for a
/// computed one (with `json` or `xml`: for something inside it). Alone: it stands there and is not empty.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawCondition {
    /// A header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Pointer to a JSON member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// A form field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Path to an XML element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xml: Option<String>,
    /// Name of a computed value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The text that stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// It does not stand there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub absent: bool,
    /// It holds nothing but such characters: `hex`, `word` (letters, digits, `-`, `_`) or `token` (base64, `.`, `~`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<RawCharset>,
    /// With `only`: this many characters at most. 256 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
}

/// Characters of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawCharset {
    /// `0-9a-fA-F`.
    Hex,
    /// Letters, digits, `-` and `_`.
    Word,
    /// Those of base64, and `.` and `~`.
    Token,
}

/// What proves that the sender asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawProof {
    /// The signature of the route's scheme.
    #[default]
    Signature,
    /// Nothing.
    None,
}

/// A value with a name: one of `hmac`, `digest`, `sorted_digest`, `ed25519_repeated`, `decrypt`, `encrypt`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawValue {
    /// What texts call it.
    pub name: String,
    /// HMAC with this hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hmac: Option<RawHash>,
    /// A digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<RawHash>,
    /// A digest of the texts in `over` in the order of their bytes, joined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sorted_digest: Option<RawHash>,
    /// Ed25519 with the key whose seed is the text of `key`, repeated to 32 bytes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ed25519_repeated: bool,
    /// Decrypts base64 as this sender does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decrypt: Option<RawCipher>,
    /// Encrypts as this sender does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypt: Option<RawCipher>,
    /// `secret`, `encryption_key`, or the digest of one of them: `sha1(secret)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Of what; a text with parts, or several.
    pub over: OneOrList<String>,
    /// How the bytes are written. As they are unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<RawEncoding>,
}

/// A way to encrypt messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawCipher {
    /// Lark, Feishu.
    Lark,
    /// WeCom, WeChat, DingTalk.
    Wechat,
}

/// An answer: `text`, `json` or neither.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawForm {
    /// 200 unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// A body of text with parts, `text/plain` unless `type` says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A body of JSON, whose strings are texts with parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "BTreeMap<String, String>")]
    pub json: Option<serde_json::Value>,
    /// The media type of `text`, or of an empty body.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Headers, whose values are texts with parts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// Types in which a browser runs nothing, whatever they hold.
const HARMLESS: &[&str] =
    &["text/plain", "text/plain; charset=utf-8", "text/xml", "text/xml; charset=utf-8", "application/json"];

/// Statuses that make sense for an answer.
const ANSWERS: std::ops::RangeInclusive<u16> = 200..=204;

impl RawExchange {
    /// The compiled exchange; problems go to the list with the path of their field.
    pub fn compile(&self, path: &str, problems: &mut Vec<Problem>) -> Option<Exchange> {
        let before = problems.len();
        let mut report =
            |field: &str, message: String| problems.push(Problem { path: format!("{path}.{field}"), message });
        let methods: Vec<Box<str>> = match &self.method {
            None => vec!["POST".into()],
            Some(methods) => methods.items().iter().map(|method| method.as_str().into()).collect(),
        };
        const METHODS: [&str; 4] = ["GET", "POST", "HEAD", "OPTIONS"];
        if methods.is_empty() || methods.iter().any(|method| !METHODS.contains(&&**method)) {
            report("method", "write GET, POST, HEAD or OPTIONS".into());
        }
        let mut values: Vec<Computed> = Vec::new();
        for (at, raw) in self.values.iter().enumerate() {
            let names: Vec<&str> = values.iter().map(|value| &*value.name).collect();
            match raw.compile(&names) {
                Ok(value) => values.push(value),
                Err(message) => report(&format!("values[{at}]"), message),
            }
        }
        let names: Vec<&str> = values.iter().map(|value| &*value.name).collect();
        let mut when = Vec::new();
        for (at, raw) in self.when.items().iter().enumerate() {
            match raw.compile(&names) {
                Ok(condition) => when.push(condition),
                Err(message) => report(&format!("when[{at}]"), message),
            }
        }
        if when.is_empty() && methods.iter().any(|method| &**method == "POST") {
            report("when", "is missing: every request would be taken for one of these".into());
        }
        let proof = match (&self.token, self.proof) {
            (None, RawProof::Signature) => Some(Proof::Signature),
            (None, RawProof::None) => Some(Proof::None),
            (Some(_), RawProof::None) => {
                report("token", "does not go with `proof`".into());
                None
            }
            (Some(place), RawProof::Signature) => match Source::parse(place) {
                Ok(source) => Some(Proof::Token(Place::Request(source), self.wrong.unwrap_or(403))),
                Err(message) => {
                    report("token", message);
                    None
                }
            },
        };
        if self.wrong.is_some_and(|status| !matches!(status, 400 | 401 | 403 | 404)) {
            report("wrong", "write 400, 401, 403 or 404".into());
        }
        if self.wrong.is_some() && self.token.is_none() {
            report("wrong", "goes with `token`".into());
        }
        let mut hands_over = Vec::new();
        for (at, place) in self.hands_over.iter().enumerate() {
            match Source::parse(place) {
                Ok(source) => hands_over.push(source),
                Err(message) => report(&format!("hands_over[{at}]"), message),
            }
        }
        let visit = match self.visit.as_ref().map(RawVisit::compile).transpose() {
            Ok(visit) => visit,
            Err(message) => {
                report("visit", message);
                None
            }
        };
        // Whoever may choose the URL freely could have any topic of the sender's confirmed.
        if visit.is_some() && proof != Some(Proof::Signature) {
            report("visit", "goes with the proof `signature` only: nobody else may say what is visited".into());
        }
        let answer = self.answer.compile(&names, &mut |field, message| report(&format!("answer.{field}"), message));
        let exchange = Exchange {
            name: self.name.as_str().into(),
            methods: methods.into(),
            when: when.into(),
            proof: proof?,
            values: values.into(),
            hands_over: hands_over.into(),
            visit,
            answer: answer?,
        };
        // Without a proof only what the sender knows or sent may be told.
        if exchange.answer.tells_secrets() {
            report("answer", "a secret must not stand in an answer: compute something with it in `values`".into());
        }
        (problems.len() == before).then_some(exchange)
    }
}

impl RawCondition {
    fn compile(&self, names: &[&str]) -> Result<Condition, String> {
        let places = [
            ("header", &self.header),
            ("query", &self.query),
            ("json", &self.json),
            ("form", &self.form),
            ("xml", &self.xml),
        ];
        let mut set = places.iter().filter_map(|(kind, name)| Some((*kind, name.as_deref()?)));
        let source = match (set.next(), set.next()) {
            (first, None) => first.map(|(kind, name)| Source::parse(&format!("{kind}:{name}"))).transpose()?,
            _ => return Err("exactly one of header, query, json, form, xml is needed".into()),
        };
        let place = match (&self.value, source) {
            (None, None) => return Err("exactly one of header, query, json, form, xml, value is needed".into()),
            (None, Some(source)) => Place::Request(source),
            (Some(name), source) => {
                let index = names.iter().position(|known| known == name);
                let index = index.ok_or_else(|| format!("no value is called `{name}`"))?;
                if source.as_ref().is_some_and(|source| !source.needs_body()) {
                    return Err("inside a value there is only json, form or xml".into());
                }
                Place::Value(index, source)
            }
        };
        let must = match (&self.is, self.absent, self.only) {
            (Some(text), false, None) => Must::Be(text.as_str().into()),
            (None, true, None) => Must::BeAbsent,
            (None, false, None) => Must::Stand,
            (None, false, Some(charset)) => Must::HoldOnly(
                match charset {
                    RawCharset::Hex => Charset::Hex,
                    RawCharset::Word => Charset::Word,
                    RawCharset::Token => Charset::Token,
                },
                self.most.unwrap_or(256),
            ),
            _ => return Err("of `is`, `absent` and `only` one is enough".into()),
        };
        if self.most.is_some() && self.only.is_none() {
            return Err("`most` goes with `only`".into());
        }
        Ok(Condition { place, must })
    }
}

impl RawValue {
    fn compile(&self, names: &[&str]) -> Result<Computed, String> {
        if self.name.is_empty() || self.name.contains([':', '}', '{']) || names.contains(&&*self.name) {
            return Err("`name` is missing, stands twice or holds one of `:{}`".into());
        }
        let operations = [
            self.hmac.map(|hash| Operation::Hmac(hash.compile())),
            self.digest.map(|hash| Operation::Digest(hash.compile())),
            self.sorted_digest.map(|hash| Operation::SortedDigest(hash.compile())),
            self.ed25519_repeated.then_some(Operation::Ed25519Repeated),
            self.decrypt.map(|cipher| Operation::Decrypt(cipher.compile())),
            self.encrypt.map(|cipher| Operation::Encrypt(cipher.compile())),
        ];
        let mut set = operations.into_iter().flatten();
        let (Some(operation), None) = (set.next(), set.next()) else {
            return Err(
                "exactly one of hmac, digest, sorted_digest, ed25519_repeated, decrypt, encrypt is needed".into()
            );
        };
        let key = self.key.as_deref().map(key).transpose()?;
        let keyed = !matches!(operation, Operation::Digest(_) | Operation::SortedDigest(_));
        if keyed != key.is_some() {
            return Err(if keyed { "`key` is missing" } else { "a digest has no key: put {secret} into `over`" }.into());
        }
        let over: Vec<Text> =
            self.over.items().iter().map(|text| Text::parse(text, names)).collect::<Result<_, _>>()?;
        if over.is_empty() || (over.len() > 1 && !matches!(operation, Operation::SortedDigest(_))) {
            return Err("`over` is one text, and several for sorted_digest".into());
        }
        Ok(Computed {
            name: self.name.as_str().into(),
            operation,
            key,
            over: over.into(),
            encoding: self.encoding.map(RawEncoding::compile),
        })
    }
}

fn key(written: &str) -> Result<KeyOf, String> {
    if let Some((hash, inner)) = written.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
        let hash = match hash {
            "sha1" => RawHash::Sha1,
            "sha256" => RawHash::Sha256,
            _ => return Err(format!("`{hash}` is no digest for a key: write sha1 or sha256")),
        };
        return Ok(KeyOf::Digest(hash.compile(), Box::new(key(inner)?)));
    }
    match (written, Setting::named(written)) {
        ("secret", _) => Ok(KeyOf::Secret),
        (_, Some(setting)) => Ok(KeyOf::Setting(setting)),
        _ => Err(format!("`{written}` is no key: write secret, verify_token, encryption_key or sha1(secret)")),
    }
}

impl RawCipher {
    fn compile(self) -> Cipher {
        match self {
            Self::Lark => Cipher::Lark,
            Self::Wechat => Cipher::Wechat,
        }
    }
}

impl RawForm {
    fn compile(&self, names: &[&str], report: &mut dyn FnMut(&str, String)) -> Option<Form> {
        let status = self.status.unwrap_or(200);
        if !ANSWERS.contains(&status) {
            report("status", "write 200, 201, 202 or 204".into());
        }
        if self.kind.as_deref().is_some_and(|kind| !HARMLESS.contains(&kind)) {
            report("type", format!("write one of {}", HARMLESS.join(", ")));
        }
        let kind = self.kind.as_deref().map(Box::<str>::from);
        let body = match (&self.text, &self.json) {
            (None, None) => Some(kind.map_or(Body::Empty, Body::EmptyOf)),
            (Some(text), None) => match Text::parse(text, names) {
                Ok(text) => Some(Body::Text(kind.unwrap_or("text/plain".into()), text)),
                Err(message) => {
                    report("text", message);
                    None
                }
            },
            (None, Some(json)) => match json_form(json, names) {
                Ok(form) => Some(Body::Json(form)),
                Err(message) => {
                    report("json", message);
                    None
                }
            },
            (Some(_), Some(_)) => {
                report("json", "an answer has text or json, not both".into());
                None
            }
        };
        if status == 204 && !matches!(body, Some(Body::Empty | Body::EmptyOf(_))) {
            report("status", "a 204 has no body".into());
        }
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            match (HeaderName::from_bytes(name.as_bytes()), Text::parse(value, names)) {
                (Ok(name), Ok(text)) => headers.push((name, text)),
                (Err(_), _) => report("headers", format!("`{name}` is not a header name")),
                (_, Err(message)) => report("headers", message),
            }
        }
        Some(Form { status, headers: headers.into(), body: body? })
    }
}

fn json_form(json: &serde_json::Value, names: &[&str]) -> Result<JsonForm, String> {
    Ok(match json {
        serde_json::Value::String(text) => JsonForm::Text(Text::parse(text, names)?),
        serde_json::Value::Object(members) => JsonForm::Object(
            members
                .iter()
                .map(|(name, member)| Ok((name.clone(), json_form(member, names)?)))
                .collect::<Result<_, String>>()?,
        ),
        other => JsonForm::Fixed(other.clone()),
    })
}
