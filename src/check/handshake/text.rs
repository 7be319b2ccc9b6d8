//! The texts of answers, put together from what was asked and what was computed.
//!
//! | Part | Stands for |
//! |---|---|
//! | `{query:N}` `{header:N}` `{json:/p}` `{form:N}` `{xml:/p}` | one value of the request |
//! | `{value:NAME}` | a computed value |
//! | `{value:NAME:/p}` | a member of a computed value that is JSON |
//! | `{setting:NAME}` | a value of the route's `handshake`, such as `verify_token` |
//! | `{secret}` | the route's secret; only in what is computed, never in an answer |
//! | `{public_url}` | the URL that the sender was given |
//! | `{{` `}}` | the braces themselves |

use super::{Exchange, Handshakes, Place, Proof, Setting};
use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::{Head, Now};
use crate::secret::SecretBytes;
use serde_json::Value;
use std::borrow::Cow;

/// The longest value that is repeated to whoever asks.
const MAX_ECHO: usize = 1024;

/// A text with parts of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    parts: Box<[Part]>,
}

/// A part of a [`Text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Fixed text.
    Literal(Box<str>),
    /// A value.
    Place(Place),
    /// A value from the configuration.
    Setting(Setting),
    /// The route's secret.
    Secret,
    /// The URL that the sender was given.
    PublicUrl,
}

/// JSON whose strings are texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonForm {
    /// As it stands.
    Fixed(Value),
    /// A string.
    Text(Text),
    /// Members in order.
    Object(Vec<(String, JsonForm)>),
}

impl Text {
    /// Reads the written form. `names` are the computed values that stand before. The error says what is wrong.
    pub fn parse(text: &str, names: &[&str]) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            literal.push_str(before);
            let (brace, behind) = from.split_at(1);
            if let Some(behind) = behind.strip_prefix(brace) {
                literal.push_str(brace);
                rest = behind;
                continue;
            }
            let name = behind.split_once('}').filter(|_| brace == "{");
            let (name, behind) = name.ok_or("a brace stands alone: a literal brace is written twice")?;
            rest = behind;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(part(name, names)?);
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts: parts.into() })
    }

    /// Its parts.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.parts.iter().filter_map(|part| if let Part::Place(place) = part { Some(place) } else { None })
    }
}

fn part(name: &str, names: &[&str]) -> Result<Part, String> {
    let value = |name: &str| {
        names.iter().position(|known| *known == name).ok_or_else(|| format!("no value is called `{name}`"))
    };
    Ok(match name.split_once(':') {
        None if name == "secret" => Part::Secret,
        None if name == "public_url" => Part::PublicUrl,
        Some(("setting", name)) => {
            Part::Setting(Setting::named(name).ok_or_else(|| format!("there is no setting `{name}`"))?)
        }
        Some(("value", name)) => match name.split_once(':') {
            None => Part::Place(Place::Value(value(name)?, None)),
            Some((name, pointer)) => Part::Place(Place::Value(value(name)?, Some(Source::json(pointer)?))),
        },
        Some(("header" | "query" | "form" | "json" | "xml", _)) => Part::Place(Place::Request(Source::parse(name)?)),
        _ => {
            return Err(format!(
                "{{{name}}} is not a part: there are query:N, header:N, json:/P, form:N, xml:/P, value:N, value:N:/P, \
                 setting:N, secret, public_url"
            ));
        }
    })
}

impl JsonForm {
    /// Every text inside.
    pub fn texts(&self) -> impl Iterator<Item = &Text> {
        let mut texts = Vec::new();
        self.collect(&mut texts);
        texts.into_iter()
    }

    fn collect<'f>(&'f self, texts: &mut Vec<&'f Text>) {
        match self {
            Self::Fixed(_) => {}
            Self::Text(text) => texts.push(text),
            Self::Object(members) => members.iter().for_each(|(_, member)| member.collect(texts)),
        }
    }
}

/// What an answer is made from.
pub(super) struct Inputs<'a> {
    handshakes: &'a Handshakes,
    exchange: &'a Exchange,
    head: &'a Head<'a>,
    body: &'a [u8],
    now: Now,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(
        handshakes: &'a Handshakes,
        exchange: &'a Exchange,
        head: &'a Head<'a>,
        body: &'a [u8],
        now: Now,
    ) -> Self {
        Self { handshakes, exchange, head, body, now }
    }

    /// A value as it stands.
    pub(super) fn read(&self, place: &Place) -> Result<Option<Cow<'a, [u8]>>, String> {
        match place {
            Place::Request(source) => source.read(self.head, self.body).map_err(|error| error.0),
            Place::Value(index, inside) => {
                let value = self.exchange.values.get(*index).ok_or("no such value")?.compute(self)?;
                match inside {
                    None => Ok(Some(Cow::Owned(value))),
                    Some(source) => {
                        let found = source.read(self.head, &value).map_err(|error| error.0)?;
                        Ok(found.map(|found| Cow::Owned(found.into_owned())))
                    }
                }
            }
        }
    }

    pub(super) fn setting(&self, setting: Setting) -> Result<&'a [u8], Reject> {
        let missing = || Reason::Internal.because(format!("handshake without {}", setting.name()));
        self.handshakes.settings.get(setting).map(|value| value.expose()).ok_or_else(missing)
    }

    /// Verify tokens that are accepted besides [`Setting::VerifyToken`].
    pub(super) fn other_tokens(&self) -> &'a [SecretBytes] {
        &self.handshakes.settings.other_tokens
    }

    /// The secret that counts: the first one that is valid now.
    pub(super) fn secret(&self) -> Result<&'a [u8], String> {
        let unix = self.now.unix_seconds();
        let secret = self.handshakes.secrets.iter().find(|secret| secret.active(unix));
        secret.map(|secret| secret.bytes.expose()).ok_or_else(|| "no secret of this route is valid now".into())
    }

    /// Has nobody proved that it is the sender who asks?
    pub(super) fn is_unproved(&self) -> bool {
        self.exchange.proof == Proof::None
    }

    pub(super) fn now(&self) -> Now {
        self.now
    }

    /// The bytes of a text, for computing with them.
    pub(super) fn bytes(&self, text: &Text) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        for part in text.parts() {
            match part {
                Part::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
                Part::Place(place) => {
                    let value = self.read(place)?.ok_or("a value that the answer needs is missing")?;
                    bytes.extend_from_slice(&value);
                }
                Part::Setting(setting) => {
                    bytes.extend_from_slice(self.setting(*setting).map_err(|_| "a setting is missing")?)
                }
                Part::Secret => bytes.extend_from_slice(self.secret()?),
                Part::PublicUrl => {
                    bytes.extend_from_slice(
                        self.handshakes.public_url.as_deref().ok_or("public_url is missing")?.as_bytes(),
                    );
                }
            }
        }
        Ok(bytes)
    }

    /// A text of an answer: what came with the request is short and harmless, or there is no answer.
    pub(super) fn text(&self, text: &Text) -> Result<String, String> {
        for place in text.places() {
            let value = self.read(place)?.ok_or("a value that the answer needs is missing")?;
            if value.is_empty() || value.len() > MAX_ECHO {
                return Err(format!("a value to be repeated has {} bytes, not 1 to {MAX_ECHO}", value.len()));
            }
            if !value.iter().all(|byte| matches!(byte, b' '..=b'~') && !b"<>".contains(byte)) {
                return Err("a value to be repeated holds other characters than plain ASCII".into());
            }
        }
        String::from_utf8(self.bytes(text)?).map_err(|_| "the answer would not be text".into())
    }

    pub(super) fn json(&self, form: &JsonForm) -> Result<Value, String> {
        Ok(match form {
            JsonForm::Fixed(value) => value.clone(),
            JsonForm::Text(text) => Value::String(self.text(text)?),
            JsonForm::Object(members) => {
                let members = members.iter().map(|(name, member)| Ok((name.clone(), self.json(member)?)));
                Value::Object(members.collect::<Result<_, String>>()?)
            }
        })
    }
}
