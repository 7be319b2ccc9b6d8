//! Is it the sender asking whether this is really our endpoint? Then what does it want to hear?
//!
//! Before a sender trusts a URL it asks: echo this challenge, compute something with the shared secret, answer 401 to a
//! wrong signature. Such an [`Exchange`] is data of a preset and is answered here, on routes that ask for it, so that an
//! endpoint can be registered while its backend is still to be built, and stays registered while it is down. The backend
//! hears nothing of it.
//!
//! Where the sender signs what it asks, the signature is checked first. Where it does not, anybody may ask: so nothing
//! is ever given away but what was asked for, and nothing is ever computed with a secret over a text that could be an
//! event (X signs bodies with the very MAC that its challenge asks for: whoever may choose the challenge freely can sign
//! events). An answer holds what was asked for ([`Text`] bounds a challenge to a short line of printable ASCII without
//! `<` and `>`, in a type that no browser runs) and what the sender could compute itself.

mod compute;
mod text;

pub use compute::{Cipher, Computed, KeyOf, Operation};
pub use text::{JsonForm, Part, Text};

use crate::answer::Answer;
use crate::check::signature::primitives::same_bytes;
use crate::check::source::Source;
use crate::fetch::target::{Pin, Target};
use crate::reject::{Reason, Reject};
use crate::request::{Head, HeaderName, Now};
use crate::secret::{Secret, SecretBytes};
use bytes::Bytes;
use std::path::PathBuf;
use text::Inputs;

/// The largest body of a request that may be answered although nothing proves where it is from.
pub const MAX_UNSIGNED_BODY: usize = 16 << 10;

/// The longest value that is kept for the operator.
const MAX_HANDED: usize = 4096;

/// The exchanges that one route answers, with what they are answered from.
#[derive(Debug)]
pub struct Handshakes {
    /// The first that a request fits counts.
    pub exchanges: Vec<Exchange>,
    /// The route's secrets. The first that is valid now computes.
    pub secrets: Vec<Secret>,
    /// What else the operator was asked for.
    pub settings: Settings,
    /// The URL that the sender was given.
    pub public_url: Option<Box<str>>,
    /// Where what the sender hands over is written to.
    pub keep: Option<PathBuf>,
}

/// Secrets of handshakes that are not the ones of signatures.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// By [`Setting`].
    values: [Option<SecretBytes>; 4],
    /// Verify tokens that are accepted besides the one that answers are computed with.
    other_tokens: Vec<SecretBytes>,
}

/// A value that a handshake may need beside the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Setting {
    /// A token that the sender repeats, chosen when the URL was registered.
    VerifyToken = 0,
    /// The key that messages are encrypted with.
    EncryptionKey = 1,
    /// The ID of the app, bot or company.
    AppId = 2,
    /// The public half of a pair of keys.
    PublicKey = 3,
}

/// One exchange between the sender and its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// For the log.
    pub name: Box<str>,
    /// The methods that the sender asks with.
    pub methods: Box<[Box<str>]>,
    /// All of them hold, or the request is none of this kind.
    pub when: Box<[Condition]>,
    /// What proves that it is the sender who asks.
    pub proof: Proof,
    /// What the answer is computed from, by index.
    pub values: Box<[Computed]>,
    /// What the sender hands over for the operator: the secret of what follows, a code.
    pub hands_over: Box<[Source]>,
    /// A URL that the sender wants visited before it sends anything.
    pub visit: Option<Visit>,
    /// What the sender wants to hear.
    pub answer: Form,
}

/// A URL that the sender wants visited: only at places that are its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Where the message names it.
    pub url: Source,
    /// The URLs that count.
    pub pins: Box<[Pin]>,
    /// It is the operator who visits it: it is handed over.
    pub by_hand: bool,
}

/// What proves that it is the sender who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The signature of the route's scheme.
    Signature,
    /// Nothing: the answer tells no secret.
    None,
    /// [`Setting::VerifyToken`] stands there. Anything else gets this status.
    Token(Place, u16),
}

/// Something that holds for a request of an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Of what.
    pub place: Place,
    /// What.
    pub must: Must,
}

/// What a [`Condition`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Must {
    /// It stands there, and holds something.
    Stand,
    /// It does not.
    BeAbsent,
    /// It holds this text.
    Be(Box<str>),
    /// It stands there and holds nothing but such characters, so many at most.
    HoldOnly(Charset, usize),
}

/// Characters of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charset {
    /// `0-9a-fA-F`.
    Hex,
    /// Letters, digits, `-` and `_`.
    Word,
    /// Those of base64, both alphabets, and `.` and `~`.
    Token,
}

impl Charset {
    /// Does the text hold nothing else?
    pub fn holds(self, text: &[u8]) -> bool {
        text.iter().all(|byte| match self {
            Self::Hex => byte.is_ascii_hexdigit(),
            Self::Word => byte.is_ascii_alphanumeric() || b"-_".contains(byte),
            Self::Token => byte.is_ascii_alphanumeric() || b"-_+/=.~".contains(byte),
        })
    }
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the request.
    Request(Source),
    /// A computed value, by index; with a source, something inside it.
    Value(usize, Option<Source>),
}

impl Place {
    fn needs_body(&self, values: &[Computed]) -> bool {
        match self {
            Self::Request(source) => source.needs_body(),
            Self::Value(index, _) => values.get(*index).is_some_and(|value| value.needs_body(values)),
        }
    }
}

/// The form of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The status.
    pub status: u16,
    /// Headers besides the usual ones.
    pub headers: Box<[(HeaderName, Text)]>,
    /// The body.
    pub body: Body,
}

/// The form of an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// None.
    Empty,
    /// None, but with a type, which some senders look at all the same.
    EmptyOf(Box<str>),
    /// Text of this type.
    Text(Box<str>, Text),
    /// JSON.
    Json(JsonForm),
}

/// What the sender is answered, with the name of the exchange.
#[derive(Debug)]
pub struct Reply {
    /// Which exchange it was.
    pub exchange: Box<str>,
    /// Ready to be written.
    pub answer: Answer,
    /// To be written to the route's `keep` before the answer goes out: what it is, and its value.
    pub handed: Vec<(String, SecretBytes)>,
    /// To be visited before the answer goes out.
    pub visit: Option<Target>,
}

impl Setting {
    /// All, in order.
    pub const ALL: [Self; 4] = [Self::VerifyToken, Self::EncryptionKey, Self::AppId, Self::PublicKey];

    /// As it is called in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::VerifyToken => "verify_token",
            Self::EncryptionKey => "encryption_key",
            Self::AppId => "app_id",
            Self::PublicKey => "public_key",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|setting| setting.name() == name)
    }
}

impl Settings {
    /// The value, if it was given.
    pub fn get(&self, setting: Setting) -> Option<&SecretBytes> {
        self.values.get(setting as usize).and_then(Option::as_ref)
    }

    /// Sets a value.
    pub fn set(&mut self, setting: Setting, value: SecretBytes) {
        if let Some(slot) = self.values.get_mut(setting as usize) {
            *slot = Some(value);
        }
    }

    /// Accepts another verify token as well, while one takes the other's place.
    pub fn also_accept(&mut self, token: SecretBytes) {
        self.other_tokens.push(token);
    }
}

impl Handshakes {
    /// Answers what the head alone decides and brings the very secret that is missing.
    pub fn of_first_head(&self, head: &Head<'_>, now: Now) -> Result<Option<Reply>, Reject> {
        self.first(head, &[], now, |exchange| {
            exchange.proof == Proof::None && !exchange.needs_body() && !exchange.hands_over.is_empty()
        })
    }

    /// Answers what the head alone decides, before any signature is looked at.
    pub fn of_head(&self, head: &Head<'_>, now: Now) -> Result<Option<Reply>, Reject> {
        self.first(head, &[], now, |exchange| exchange.proof != Proof::Signature && !exchange.needs_body())
    }

    /// May the body turn this request, which no signature proves, into one that is answered? One whose length is not said
    /// before is then read up to [`MAX_UNSIGNED_BODY`].
    pub fn may_follow(&self, head: &Head<'_>, declared: Option<u64>) -> bool {
        declared.is_none_or(|length| length <= MAX_UNSIGNED_BODY as u64)
            && self
                .exchanges
                .iter()
                .any(|exchange| exchange.proof != Proof::Signature && exchange.needs_body() && exchange.takes(head))
    }

    /// Is there an exchange with the head's method, which the route may not take otherwise, still to come?
    pub fn may_follow_signed(&self, head: &Head<'_>) -> bool {
        self.exchanges.iter().any(|exchange| exchange.takes(head) && exchange.proof == Proof::Signature)
    }

    /// Answers what needs the body but no signature.
    pub fn of_unsigned(&self, head: &Head<'_>, body: &[u8], now: Now) -> Result<Option<Reply>, Reject> {
        if body.len() > MAX_UNSIGNED_BODY {
            return Ok(None);
        }
        self.first(head, body, now, |exchange| exchange.proof != Proof::Signature && exchange.needs_body())
    }

    /// Answers a request whose signature verified.
    pub fn of_verified(&self, head: &Head<'_>, body: &[u8], now: Now) -> Result<Option<Reply>, Reject> {
        self.first(head, body, now, |_| true)
    }

    fn first(
        &self,
        head: &Head<'_>,
        body: &[u8],
        now: Now,
        among: impl Fn(&Exchange) -> bool,
    ) -> Result<Option<Reply>, Reject> {
        for exchange in self.exchanges.iter().filter(|exchange| exchange.takes(head) && among(exchange)) {
            let inputs = Inputs::new(self, exchange, head, body, now);
            // A value that cannot be read is none that a sender would have asked with.
            if exchange.when.iter().all(|condition| condition.holds(&inputs)) {
                return exchange.reply(&inputs).map(Some);
            }
        }
        Ok(None)
    }
}

impl Condition {
    fn holds(&self, inputs: &Inputs<'_>) -> bool {
        match (inputs.read(&self.place), &self.must) {
            (Ok(value), Must::BeAbsent) => value.is_none(),
            (Ok(Some(value)), Must::Stand) => !value.is_empty(),
            (Ok(Some(value)), Must::Be(text)) => *value == *text.as_bytes(),
            (Ok(Some(value)), Must::HoldOnly(charset, most)) => {
                (1..=*most).contains(&value.len()) && charset.holds(&value)
            }
            (Ok(None) | Err(_), _) => false,
        }
    }
}

impl Exchange {
    fn takes(&self, head: &Head<'_>) -> bool {
        self.methods.iter().any(|method| **method == *head.method)
    }

    /// Must the body be there?
    pub fn needs_body(&self) -> bool {
        let place = |place: &Place| place.needs_body(&self.values);
        let text = |text: &Text| text.places().any(place);
        self.when.iter().any(|condition| place(&condition.place))
            || self.hands_over.iter().any(Source::needs_body)
            || self.visit.as_ref().is_some_and(|visit| visit.url.needs_body())
            || matches!(&self.proof, Proof::Token(token, _) if place(token))
            || self.answer.headers.iter().any(|(_, value)| text(value))
            || match &self.answer.body {
                Body::Empty | Body::EmptyOf(_) => false,
                Body::Text(_, body) => text(body),
                Body::Json(body) => body.texts().any(text),
            }
    }

    /// The settings that it cannot do without.
    pub fn needs(&self) -> impl Iterator<Item = Setting> + '_ {
        Setting::ALL.into_iter().filter(|setting| {
            (*setting == Setting::VerifyToken && matches!(self.proof, Proof::Token(..)))
                || self.values.iter().any(|value| value.needs(*setting))
                || self.answer.texts().any(|text| text.parts().contains(&Part::Setting(*setting)))
        })
    }

    /// Is the route's own URL part of the answer?
    pub fn needs_public_url(&self) -> bool {
        let texts = self.answer.texts().chain(self.values.iter().flat_map(Computed::texts));
        texts.into_iter().any(|text| text.parts().contains(&Part::PublicUrl))
    }

    fn reply(&self, inputs: &Inputs<'_>) -> Result<Reply, Reject> {
        if let Proof::Token(place, status) = &self.proof {
            let given = inputs.read(place).ok().flatten().unwrap_or_default();
            let token = inputs.setting(Setting::VerifyToken)?;
            // All of them, so that the time says nothing of which one it was.
            let others = inputs.other_tokens().iter();
            let known =
                others.fold(same_bytes(&given, token), |known, other| known | same_bytes(&given, other.expose()));
            if !known {
                let detail = format!("{}: the verify token is another one", self.name);
                return Err(Reason::HandshakeRefused.because(detail).with_status(*status));
            }
        }
        let unfit = |what: String| Reason::HandshakeRefused.because(format!("{}: {what}", self.name));
        let (kind, body) = match &self.answer.body {
            Body::Empty => (None, Bytes::new()),
            Body::EmptyOf(kind) => (Some(&**kind), Bytes::new()),
            Body::Text(kind, body) => (Some(&**kind), inputs.text(body).map_err(unfit)?.into()),
            Body::Json(body) => (Some("application/json"), inputs.json(body).map_err(unfit)?.to_string().into()),
        };
        let mut answer = Answer { body, ..Answer::new(self.answer.status) };
        if let Some(kind) = kind {
            answer = answer.with("content-type", kind.to_owned()).with("x-content-type-options", "nosniff");
        }
        answer = answer.with("cache-control", "no-store");
        for (name, value) in &self.answer.headers {
            answer = answer.with(name.as_str().to_owned(), inputs.text(value).map_err(unfit)?);
        }
        let mut handed = Vec::new();
        for source in &self.hands_over {
            let value = inputs.read(&Place::Request(source.clone())).map_err(unfit)?.unwrap_or_default();
            if value.is_empty() || value.len() > MAX_HANDED || std::str::from_utf8(&value).is_err() {
                return Err(unfit(format!("{source} holds no text of 1 to {MAX_HANDED} bytes")));
            }
            handed.push((source.to_string(), SecretBytes::new(value.into_owned())));
        }
        let mut visit = None;
        if let Some(wanted) = &self.visit {
            let target = wanted.target(inputs).map_err(unfit)?;
            match wanted.by_hand {
                true => handed.push((wanted.url.to_string(), SecretBytes::new(target.to_string().into_bytes()))),
                false => visit = Some(target),
            }
        }
        Ok(Reply { exchange: self.name.clone(), answer, handed, visit })
    }
}

impl Visit {
    /// The URL, if it is one of the sender's. The error never quotes it.
    fn target(&self, inputs: &Inputs<'_>) -> Result<Target, String> {
        let url = inputs.read(&Place::Request(self.url.clone()))?.unwrap_or_default();
        let url = std::str::from_utf8(&url).unwrap_or_default();
        let mut why = "is not at a host that the sender uses".to_owned();
        for pin in &self.pins {
            match pin.target(url) {
                Ok(target) => return Ok(target),
                Err(what) => why = what,
            }
        }
        Err(format!("the URL in {} {why}", self.url))
    }
}

impl Form {
    /// Does a secret of the route stand in it as it is?
    pub fn tells_secrets(&self) -> bool {
        let told = |part: &Part| match part {
            Part::Secret => true,
            Part::Setting(setting) => *setting != Setting::PublicKey,
            _ => false,
        };
        self.texts().any(|text| text.parts().iter().any(told))
    }

    /// Every text of it.
    fn texts(&self) -> impl Iterator<Item = &Text> {
        let (body, json) = match &self.body {
            Body::Text(_, body) => (Some(body), None),
            Body::Json(json) => (None, Some(json)),
            Body::Empty | Body::EmptyOf(_) => (None, None),
        };
        self.headers.iter().map(|(_, value)| value).chain(body).chain(json.into_iter().flat_map(JsonForm::texts))
    }
}

#[cfg(test)]
mod tests;
