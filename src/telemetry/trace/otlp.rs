//! Spans in the form of OTLP: protobuf, as `opentelemetry/proto/collector/trace/v1/trace_service.proto` and its
//! neighbours define it. Only what we send; field numbers stand beside their names.
//!
//! Written by hand: the official crates bring a second HTTP client or gRPC, and a batch of a dozen message types needs
//! eighty lines.

use super::context::{SpanId, TraceId};
use std::time::Duration;

/// What a span is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
}

/// A value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Any<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
}

/// Something that took time.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    pub(crate) trace: TraceId,
    pub(crate) id: SpanId,
    /// The span that caused it.
    pub(crate) parent: Option<SpanId>,
    /// Is that one in another process?
    pub(crate) remote: bool,
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    /// Since 1970.
    pub(crate) start: Duration,
    pub(crate) end: Duration,
    pub(crate) attributes: &'a [(&'a str, Any<'a>)],
    /// What went wrong, if anything did.
    pub(crate) error: Option<&'a str>,
}

/// Longest text of an attribute, in bytes. What is longer is cut.
const TEXT: usize = 512;

impl Span<'_> {
    /// Appends it as a member of `ScopeSpans.spans` (2).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        message(out, 2, |span| {
            bytes(span, 1, &self.trace);
            bytes(span, 2, &self.id);
            if let Some(parent) = &self.parent {
                bytes(span, 4, parent);
            }
            bytes(span, 5, self.name.as_bytes());
            number(span, 6, self.kind as u64);
            fixed64(span, 7, nanoseconds(self.start));
            fixed64(span, 8, nanoseconds(self.end.max(self.start)));
            for (name, value) in self.attributes {
                attribute(span, 9, name, *value);
            }
            if let Some(why) = self.error {
                message(span, 15, |status| {
                    bytes(status, 2, cut(why).as_bytes());
                    number(status, 3, 2);
                });
            }
            // Sampled; known whether the parent is in another process; whether it is.
            fixed32(span, 16, 1 | 0x100 | if self.remote { 0x200 } else { 0 });
        });
    }
}

/// The whole request with these spans, which [`Span::encode`] wrote.
pub(crate) fn batch(resource: &[(&str, &str)], spans: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(spans.len() + 512);
    message(&mut out, 1, |resource_spans| {
        message(resource_spans, 1, |inside| {
            for (name, value) in resource {
                attribute(inside, 1, name, Any::Text(value));
            }
        });
        message(resource_spans, 2, |scope_spans| {
            message(scope_spans, 1, |scope| {
                bytes(scope, 1, b"hookmoat");
                bytes(scope, 2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            scope_spans.extend_from_slice(spans);
        });
    });
    out
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

fn attribute(out: &mut Vec<u8>, field: u32, name: &str, value: Any<'_>) {
    message(out, field, |pair| {
        bytes(pair, 1, name.as_bytes());
        message(pair, 2, |any| match value {
            Any::Text(text) => bytes(any, 1, cut(text).as_bytes()),
            Any::Flag(flag) => number(any, 2, u64::from(flag)),
            Any::Number(value) => number(any, 3, value),
        });
    });
}

// The wire format: a key (field number and type), then the value.

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn key(out: &mut Vec<u8>, field: u32, kind: u32) {
    varint(out, u64::from(field << 3 | kind));
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 0);
    varint(out, value);
}

fn fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn fixed32(out: &mut Vec<u8>, field: u32, value: u32) {
    key(out, field, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let mut inside = Vec::new();
    write(&mut inside);
    bytes(out, field, &inside);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_groups_of_seven_bits() {
        for (value, expected) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (u64::MAX, &[255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
        ] {
            let mut out = Vec::new();
            varint(&mut out, value);
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut(&"é".repeat(400)).len(), 512);
        assert_eq!(cut(&format!("x{}", "é".repeat(400))).len(), 511);
        assert_eq!(cut("short"), "short");
    }
}
