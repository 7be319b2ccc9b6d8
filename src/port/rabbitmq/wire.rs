//! How an event stands in a RabbitMQ message. `config/QUEUES.md` tells it to those who read the queue themselves.
//!
//! The message's body is the request's body, byte for byte. What the checks found out and how the request came stands in
//! headers that begin with `hookmoat-`; the properties that consumers look at first (`content_type`, `type`,
//! `message_id`, `timestamp`) are filled as well. Fields are only ever added: `hookmoat-version` counts breaks.

use crate::port::inspect::Summary;
use crate::port::queue::{DeadReason, Event, EventUid, Failure};
use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString};
use std::time::Duration;

const VERSION: i64 = 1;
/// AMQP's `basic.properties.delivery-mode`: kept on disk.
const PERSISTENT: u8 = 2;
/// The longest short string of AMQP 0-9-1.
const SHORT: usize = 255;

/// What stands beside an event: where it is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// Attempts that ended.
    pub(super) attempts: u32,
    /// Not before, milliseconds since 1970. A message waits in several steps.
    pub(super) due: Option<u64>,
}

/// The message for an event.
pub(super) fn encode(event: &Event, marks: Marks) -> BasicProperties {
    let mut table = FieldTable::default();
    let mut put = |name: &str, value: AMQPValue| {
        table.insert(name.into(), value);
    };
    put("hookmoat-version", AMQPValue::LongLongInt(VERSION));
    put("hookmoat-route", text(&event.route));
    let optional = [
        ("hookmoat-provider", &event.provider),
        ("hookmoat-event-id", &event.event_id),
        ("hookmoat-event-type", &event.event_type),
        ("hookmoat-order", &event.order),
        ("hookmoat-query", &event.query),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            put(name, text(value));
        }
    }
    put("hookmoat-received", AMQPValue::LongLongInt(millis(event.received)));
    put("hookmoat-request-id", text(&event.request_id));
    if let Some(client) = event.client {
        put("hookmoat-client", text(&client.to_string()));
    }
    put("hookmoat-secure", AMQPValue::Boolean(event.secure));
    put("hookmoat-verified", AMQPValue::Boolean(event.verified));
    put("hookmoat-method", text(&event.method));
    put("hookmoat-path", text(&event.path));
    put("hookmoat-host", text(&event.host));
    let headers = event.headers.iter().map(|(name, value)| {
        AMQPValue::FieldArray(vec![text(name), AMQPValue::LongString(LongString::from(&value[..]))].into())
    });
    put("hookmoat-headers", AMQPValue::FieldArray(FieldArray::from(headers.collect::<Vec<_>>())));
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_message_id(short(&event.uid.to_string()).unwrap_or_default())
        .with_timestamp(event.received.as_secs())
        .with_app_id("hookmoat".into());
    if let Some(kind) = content_type(event).and_then(short) {
        properties = properties.with_content_type(kind);
    }
    if let Some(kind) = event.event_type.as_deref().and_then(short) {
        properties = properties.with_type(kind);
    }
    remark(properties.with_headers(table), marks)
}

/// The same message with other marks.
pub(super) fn remark(properties: BasicProperties, marks: Marks) -> BasicProperties {
    edit(
        properties,
        |table| {
            table.insert("hookmoat-attempts".into(), AMQPValue::LongLongInt(marks.attempts.into()));
            if let Some(due) = marks.due {
                let due = i64::try_from(due).unwrap_or(i64::MAX);
                table.insert("hookmoat-due".into(), AMQPValue::LongLongInt(due));
            }
        },
        &["hookmoat-due"],
    )
}

/// The same message with what the last attempt met.
pub(super) fn with_failure(properties: BasicProperties, failure: &Failure) -> BasicProperties {
    edit(
        properties,
        |table| {
            if let Some(status) = failure.status {
                table.insert("hookmoat-last-status".into(), AMQPValue::LongLongInt(status.into()));
            }
            table.insert("hookmoat-last-failure".into(), text(&failure.message));
        },
        &["hookmoat-last-status", "hookmoat-last-failure"],
    )
}

/// The same message as a dead letter.
pub(super) fn dead(properties: BasicProperties, reason: &str, died: Duration) -> BasicProperties {
    edit(
        properties,
        |table| {
            table.insert("hookmoat-dead".into(), text(reason));
            table.insert("hookmoat-died".into(), AMQPValue::LongLongInt(millis(died)));
        },
        &[],
    )
}

/// A dead letter as an event that nobody attempted yet. What the broker noted on its way goes, too: to it, this is a
/// message like any other.
pub(super) fn revived(properties: BasicProperties) -> BasicProperties {
    let without = [
        "hookmoat-attempts",
        "hookmoat-due",
        "hookmoat-dead",
        "hookmoat-died",
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-delivery-count",
    ];
    remark(edit(properties, |_| {}, &without), Marks::default())
}

/// A dead letter as it is shown, and is it ours? What is not has a name made up, no route, and all of its bytes as body.
pub(super) fn dead_letter(properties: &BasicProperties, body: &Bytes) -> (Summary, Event, bool) {
    let none = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&none);
    let (event, marks, ours) = match decode(properties, body) {
        Ok((event, marks)) => (event, marks, true),
        Err(_) => (foreign(properties, body), Marks::default(), false),
    };
    let failure = string(table, "hookmoat-last-failure").map(|message| Failure {
        status: number(table, "hookmoat-last-status").and_then(|status| u16::try_from(status).ok()),
        message,
    });
    let died = number(table, "hookmoat-died").and_then(|millis| u64::try_from(millis).ok()).unwrap_or(0);
    // The broker's own reason stands there where it gave the event up: too many deliveries without a word.
    let dead = string(table, "hookmoat-dead").or_else(|| string(table, "x-first-death-reason"));
    let died = Duration::from_millis(died);
    (Summary::dead(&event, died, marks.attempts, failure, dead), event, ours)
}

fn foreign(properties: &BasicProperties, body: &Bytes) -> Event {
    let received = Duration::from_secs(properties.timestamp().unwrap_or(0));
    let id = properties.message_id().as_ref().map(|id| id.as_str().as_bytes()).unwrap_or_default();
    Event::foreign(&[id, body], received, body.clone())
}

/// The label of a reason; `unreadable` is the engine's own.
pub(super) fn label(reason: Option<DeadReason>) -> &'static str {
    reason.map_or("unreadable", DeadReason::label)
}

/// Reads a message back. An error says what it lacks: somebody else put it there.
pub(super) fn decode(properties: &BasicProperties, body: &Bytes) -> Result<(Event, Marks), &'static str> {
    let none = FieldTable::default();
    let table = properties.headers().as_ref().unwrap_or(&none);
    if number(table, "hookmoat-version") != Some(VERSION) {
        return Err("no message of this version's format");
    }
    let needed = |name: &'static str| string(table, name).ok_or(name);
    let uid = properties.message_id().as_ref().and_then(|id| EventUid::parse(id.as_str())).ok_or("message_id")?;
    let received = number(table, "hookmoat-received").and_then(|millis| u64::try_from(millis).ok());
    let event = Event {
        uid,
        route: needed("hookmoat-route")?,
        provider: string(table, "hookmoat-provider"),
        event_id: string(table, "hookmoat-event-id"),
        event_type: string(table, "hookmoat-event-type"),
        received: Duration::from_millis(received.ok_or("hookmoat-received")?),
        request_id: needed("hookmoat-request-id")?,
        client: string(table, "hookmoat-client").and_then(|client| client.parse().ok()),
        secure: flag(table, "hookmoat-secure"),
        verified: flag(table, "hookmoat-verified"),
        order: string(table, "hookmoat-order"),
        lane: None,
        method: needed("hookmoat-method")?,
        path: needed("hookmoat-path")?,
        query: string(table, "hookmoat-query"),
        host: needed("hookmoat-host")?,
        headers: headers(table).ok_or("hookmoat-headers")?,
        body: body.clone(),
    };
    let marks = Marks {
        attempts: number(table, "hookmoat-attempts").and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
        due: number(table, "hookmoat-due").and_then(|due| u64::try_from(due).ok()),
    };
    Ok((event, marks))
}

/// A message from text, for fuzzing: its ID, then a line for each field (`name=value`, `>name:value` for a header of the
/// request), an empty line, the body.
#[cfg(any(test, feature = "fuzz"))]
pub(crate) fn from_text(text: &[u8]) -> Option<Event> {
    let (head, body) = match memchr::memmem::find(text, b"\n\n") {
        Some(at) => (text.get(..at)?, text.get(at + 2..)?),
        None => (text, &[][..]),
    };
    let mut lines = head.split(|byte| *byte == b'\n');
    let id = ShortString::try_new(std::str::from_utf8(lines.next()?).ok()?).ok()?;
    let (mut table, mut headers) = (FieldTable::default(), Vec::new());
    let long = |bytes: &[u8]| AMQPValue::LongString(LongString::from(bytes));
    for line in lines {
        let (mark, header) = match line.strip_prefix(b">") {
            Some(header) => (b':', header),
            None => (b'=', line),
        };
        let at = header.iter().position(|byte| *byte == mark)?;
        let (name, value) = (header.get(..at)?, header.get(at + 1..)?);
        // Line ends are escaped, so that they can be in there.
        let value = value.iter().map(|byte| if *byte == b'|' { b'\n' } else { *byte }).collect::<Vec<u8>>();
        if mark == b':' {
            headers.push(AMQPValue::FieldArray(vec![long(name), long(&value)].into()));
            continue;
        }
        let name = ShortString::try_new(std::str::from_utf8(name).ok()?).ok()?;
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let value = match (number, &*value) {
            (Some(number), _) => AMQPValue::LongLongInt(number),
            (None, b"true") => AMQPValue::Boolean(true),
            _ => long(&value),
        };
        table.insert(name, value);
    }
    table.insert("hookmoat-headers".into(), AMQPValue::FieldArray(headers.into()));
    let properties = BasicProperties::default().with_message_id(id).with_headers(table);
    let body = Bytes::copy_from_slice(body);
    let (_, shown, ours) = dead_letter(&properties, &body);
    assert!(ours || shown.body == body, "a letter of others is shown whole");
    Some(decode(&properties, &body).ok()?.0)
}

/// Bytes of the frame that carries the properties, from above. A frame has a largest size, and unlike a body, properties
/// cannot be cut.
pub(super) fn header_frame(event: &Event) -> usize {
    // Every field has a name of less than 24 bytes, a type and a length; the properties take less than 1 KiB.
    let fields = [&event.route, &event.request_id, &event.method, &event.path, &event.host];
    let optional = [&event.provider, &event.event_id, &event.event_type, &event.order, &event.query];
    let strings = fields.iter().map(|text| text.len()).sum::<usize>()
        + optional.iter().map(|text| text.as_ref().map_or(0, |text| text.len())).sum::<usize>();
    let headers = event.headers.iter().map(|(name, value)| name.len() + value.len() + 15).sum::<usize>();
    2_048 + 24 * 32 + strings + headers
}

fn content_type(event: &Event) -> Option<&str> {
    let (_, value) = event.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type"))?;
    std::str::from_utf8(value).ok()
}

fn edit(mut properties: BasicProperties, change: impl FnOnce(&mut FieldTable), without: &[&str]) -> BasicProperties {
    // A table only takes insertions.
    let mut kept = FieldTable::default();
    if let Some(table) = properties.headers() {
        for (name, value) in table.inner() {
            if !without.contains(&name.as_str()) {
                kept.insert(name.clone(), value.clone());
            }
        }
    }
    change(&mut kept);
    properties = properties.with_headers(kept);
    properties
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text.as_bytes()))
}

fn short(text: &str) -> Option<ShortString> {
    if text.len() > SHORT { None } else { ShortString::try_new(text).ok() }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn bytes(value: &AMQPValue) -> Option<&[u8]> {
    match value {
        AMQPValue::LongString(text) => Some(text.as_bytes()),
        AMQPValue::ShortString(text) => Some(text.as_str().as_bytes()),
        AMQPValue::ByteArray(bytes) => Some(bytes.as_slice()),
        _ => None,
    }
}

fn string(table: &FieldTable, name: &str) -> Option<Box<str>> {
    let value = bytes(table.inner().get(name)?)?;
    Some(std::str::from_utf8(value).ok()?.into())
}

fn number(table: &FieldTable, name: &str) -> Option<i64> {
    // A consumer's library that writes a message back may choose another width.
    match table.inner().get(name)? {
        AMQPValue::LongLongInt(number) => Some(*number),
        AMQPValue::LongInt(number) => Some((*number).into()),
        AMQPValue::LongUInt(number) => Some((*number).into()),
        AMQPValue::ShortInt(number) => Some((*number).into()),
        AMQPValue::ShortUInt(number) => Some((*number).into()),
        AMQPValue::ShortShortInt(number) => Some((*number).into()),
        AMQPValue::ShortShortUInt(number) => Some((*number).into()),
        _ => None,
    }
}

fn flag(table: &FieldTable, name: &str) -> bool {
    matches!(table.inner().get(name), Some(AMQPValue::Boolean(true)))
}

type Fields = Vec<(Box<str>, Box<[u8]>)>;

fn headers(table: &FieldTable) -> Option<Fields> {
    let Some(AMQPValue::FieldArray(fields)) = table.inner().get("hookmoat-headers") else { return None };
    let pair = |field: &AMQPValue| {
        let AMQPValue::FieldArray(pair) = field else { return None };
        let [name, value] = pair.as_slice() else { return None };
        Some((std::str::from_utf8(bytes(name)?).ok()?.into(), bytes(value)?.into()))
    };
    fields.as_slice().iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::queue_contract::event;
    use crate::request::Now;

    #[test]
    fn an_event_comes_back_as_it_went() {
        let mut event = event("r", Now::at_unix(1_700_000_000));
        event.order = Some("customer-7".into());
        let marks = Marks { attempts: 3, due: Some(1_700_000_000_123) };
        let properties = encode(&event, marks);
        assert_eq!(decode(&properties, &event.body), Ok((event.clone(), marks)));
        let failed = with_failure(properties, &Failure { status: Some(503), message: "backend answered 503".into() });
        let again = remark(failed.clone(), Marks { attempts: 4, due: None });
        assert_eq!(decode(&again, &event.body), Ok((event.clone(), Marks { attempts: 4, due: None })));
        let dead = dead(again, label(Some(DeadReason::MaxAge)), Duration::from_secs(9));
        let table = dead.headers().as_ref().expect("headers");
        assert_eq!(string(table, "hookmoat-dead").as_deref(), Some("max_age"));
        assert_eq!(string(table, "hookmoat-last-failure").as_deref(), Some("backend answered 503"));
        assert_eq!(number(table, "hookmoat-last-status"), Some(503));
        // The next failure has no status: the old one does not stay beside it.
        let other = with_failure(failed, &Failure { status: None, message: "connection refused".into() });
        assert_eq!(number(other.headers().as_ref().expect("headers"), "hookmoat-last-status"), None);
    }

    #[test]
    fn what_consumers_look_at_first_is_filled() {
        let event = event("r", Now::at_unix(1_700_000_000));
        let properties = encode(&event, Marks::default());
        assert_eq!(properties.content_type().as_ref().map(ShortString::as_str), Some("application/json"));
        assert_eq!(properties.kind().as_ref().map(ShortString::as_str), Some("push"));
        assert_eq!(properties.timestamp(), &Some(1_700_000_000));
        assert_eq!(properties.delivery_mode(), &Some(PERSISTENT));
    }

    #[test]
    fn foreign_messages_are_told_from_ours() {
        let event = event("r", Now::at_unix(1_700_000_000));
        assert!(decode(&BasicProperties::default(), &Bytes::new()).is_err());
        let without_id = BasicProperties::default()
            .with_headers(encode(&event, Marks::default()).headers().clone().expect("headers"));
        assert_eq!(decode(&without_id, &Bytes::new()), Err("message_id"));
    }
}
