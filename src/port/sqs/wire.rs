//! How an event stands in an SQS message: a JSON object, since SQS carries text alone. `config/QUEUES.md` tells it to
//! those who read the queue themselves.
//!
//! Bytes are a string where they are text, else `{"base64": "…"}`; the shorter of the two wins. Reading the JSON gives
//! back the exact bytes in both cases. Fields are only ever added: `hookmoat` counts breaks.

use crate::port::queue::{Event, EventUid};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    hookmoat: u32,
    uid: Cow<'a, str>,
    route: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_type: Option<Cow<'a, str>>,
    received: u64,
    request_id: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Cow<'a, str>>,
    secure: bool,
    verified: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<Cow<'a, str>>,
    method: Cow<'a, str>,
    path: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query: Option<Cow<'a, str>>,
    host: Cow<'a, str>,
    headers: Vec<(Cow<'a, str>, Octets<'a>)>,
    body: Octets<'a>,
}

/// Bytes in JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Octets<'a> {
    Text(Cow<'a, str>),
    Base64 { base64: String },
}

impl<'a> Octets<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) if is_text(text) && escaped(text) <= bytes.len().div_ceil(3) * 4 => Self::Text(text.into()),
            _ => Self::Base64 { base64: STANDARD.encode(bytes) },
        }
    }

    fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.into_owned().into_bytes()),
            Self::Base64 { base64 } => STANDARD.decode(base64).ok(),
        }
    }
}

/// The message's body for an event.
pub(super) fn encode(event: &Event) -> Result<String, serde_json::Error> {
    let some = |text: &'_ Option<Box<str>>| text.as_deref().map(|text| Cow::Owned(text.to_owned()));
    let envelope = Envelope {
        hookmoat: VERSION,
        uid: event.uid.to_string().into(),
        route: (&*event.route).into(),
        provider: some(&event.provider),
        event_id: some(&event.event_id),
        event_type: some(&event.event_type),
        received: u64::try_from(event.received.as_millis()).unwrap_or(u64::MAX),
        request_id: (&*event.request_id).into(),
        client: event.client.map(|client| client.to_string().into()),
        secure: event.secure,
        verified: event.verified,
        order: some(&event.order),
        method: (&*event.method).into(),
        path: (&*event.path).into(),
        query: some(&event.query),
        host: (&*event.host).into(),
        headers: event.headers.iter().map(|(name, value)| ((&**name).into(), Octets::of(value))).collect(),
        body: Octets::of(&event.body),
    };
    serde_json::to_string(&envelope)
}

/// Reads a message's body back. An error says what is wrong: somebody else put it there.
pub(crate) fn decode(body: &str) -> Result<Event, String> {
    let envelope: Envelope<'_> = serde_json::from_str(body).map_err(|error| error.to_string())?;
    if envelope.hookmoat != VERSION {
        return Err(format!("version {}", envelope.hookmoat));
    }
    let boxed = |text: Option<Cow<'_, str>>| text.map(|text| Box::from(&*text));
    let mut headers = Vec::with_capacity(envelope.headers.len());
    for (name, value) in envelope.headers {
        headers.push((Box::from(&*name), value.bytes().ok_or("headers")?.into_boxed_slice()));
    }
    Ok(Event {
        uid: EventUid::parse(&envelope.uid).ok_or("uid")?,
        route: Box::from(&*envelope.route),
        provider: boxed(envelope.provider),
        event_id: boxed(envelope.event_id),
        event_type: boxed(envelope.event_type),
        received: Duration::from_millis(envelope.received),
        request_id: Box::from(&*envelope.request_id),
        client: envelope.client.and_then(|client| client.parse().ok()),
        secure: envelope.secure,
        verified: envelope.verified,
        order: boxed(envelope.order),
        lane: None,
        method: Box::from(&*envelope.method),
        path: Box::from(&*envelope.path),
        query: boxed(envelope.query),
        host: Box::from(&*envelope.host),
        headers,
        body: envelope.body.bytes().ok_or("body")?.into(),
    })
}

/// May it stand in an SQS message? Control characters are escaped by JSON; two others are no characters of XML.
fn is_text(text: &str) -> bool {
    !text.contains(['\u{fffe}', '\u{ffff}'])
}

/// May it stand there as it is, as an attribute's value?
pub(super) fn is_plain(text: &str) -> bool {
    !text.is_empty() && is_text(text) && !text.contains(|c: char| c < ' ' && !matches!(c, '\t' | '\n' | '\r'))
}

/// Length of a text in JSON, without its quotes.
fn escaped(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
            0..=0x1f => 6,
            _ => 1,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::queue_contract::event;
    use crate::request::Now;
    use proptest::prelude::*;

    #[test]
    fn an_event_comes_back_as_it_went() {
        let mut event = event("r", Now::at_unix(1_700_000_000));
        event.order = Some("customer-7".into());
        let text = encode(&event).expect("JSON");
        assert_eq!(decode(&text), Ok(event.clone()));
        // The body is there to be read.
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["body"].as_str().map(str::as_bytes), Some(&event.body[..]));
        assert_eq!(json["headers"][2], serde_json::json!(["X-Twice", {"base64": "dMOpIHR3byD/"}]));
    }

    #[test]
    fn foreign_messages_are_told_from_ours() {
        for text in ["", "{}", "[]", "{\"hookmoat\":2}"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(body: Vec<u8>, text: String) {
            let mut event = event("r", Now::at_unix(1_700_000_000));
            for bytes in [body, text.into_bytes(), "\u{ffff}".into(), vec![0, 1, b'"', b'\\']] {
                event.body = bytes.into();
                let message = encode(&event).expect("JSON");
                prop_assert!(is_plain(&message));
                prop_assert_eq!(decode(&message).map(|event| event.body), Ok(event.body.clone()));
            }
        }

        #[test]
        fn the_length_is_known_before(text: String) {
            prop_assert_eq!(serde_json::to_string(&text).expect("JSON").len(), escaped(&text) + 2);
        }
    }
}
