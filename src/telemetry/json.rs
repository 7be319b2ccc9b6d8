//! Lines of the log as JSON, one object a line: time, level, the fields, the target. Written straight into the line, since
//! with every request logged this is a good part of what a request costs.

use super::log::{Line, REQUESTS, milliseconds};
use crate::request::Now;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::time::Duration;
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The line of a request.
pub(super) fn request(out: &mut String, at: Duration, level: Level, fields: impl FnOnce(&mut dyn Line)) {
    // A string takes whatever is written.
    let _ = begin(out, at, level);
    fields(out);
    let _ = end(out, REQUESTS);
}

impl Line for String {
    fn text(&mut self, name: &'static str, value: &str) {
        let _ = put(self, name, |out| quoted(out, |text| text.write_str(value)));
    }

    fn number(&mut self, name: &'static str, value: u64) {
        let _ = put(self, name, |out| out.write_str(itoa::Buffer::new().format(value)));
    }

    fn milliseconds(&mut self, name: &'static str, value: Duration) {
        let _ = put(self, name, |out| {
            milliseconds(out, value);
            Ok(())
        });
    }

    fn yes(&mut self, name: &'static str) {
        let _ = put(self, name, |out| out.write_str("true"));
    }
}

/// See the module: of everything that is no request.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        begin(&mut writer, Now::read().unix, *metadata.level())?;
        let mut fields = Fields { writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        end(&mut writer, metadata.target())
    }
}

fn begin(out: &mut impl fmt::Write, at: Duration, level: Level) -> fmt::Result {
    out.write_str("{\"timestamp\":\"")?;
    timestamp(out, at)?;
    out.write_str("\",\"level\":\"")?;
    out.write_str(level.as_str())?;
    out.write_char('"')
}

fn put<W: fmt::Write>(out: &mut W, name: &str, value: impl FnOnce(&mut W) -> fmt::Result) -> fmt::Result {
    out.write_str(",\"")?;
    out.write_str(name)?;
    out.write_str("\":")?;
    value(out)
}

fn quoted<W: fmt::Write>(out: &mut W, text: impl FnOnce(&mut Escaped<'_, W>) -> fmt::Result) -> fmt::Result {
    out.write_char('"')?;
    text(&mut Escaped(out))?;
    out.write_char('"')
}

fn end(out: &mut impl fmt::Write, target: &str) -> fmt::Result {
    out.write_str(",\"target\":\"")?;
    Escaped(out).write_str(target)?;
    out.write_str("\"}\n")
}

/// RFC 3339 with microseconds.
fn timestamp(writer: &mut impl fmt::Write, at: Duration) -> fmt::Result {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((u64::MAX, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        let unix = at.as_secs();
        if *second != unix {
            let now = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
            let now = now.unwrap_or(OffsetDateTime::UNIX_EPOCH);
            text.clear();
            let (date, month) = (now.date(), u8::from(now.month()));
            let _ = write!(text, "{:04}-{month:02}-{:02}T", date.year(), date.day());
            let _ = write!(text, "{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second());
            *second = unix;
        }
        writer.write_str(text)
    })?;
    let mut part = *b".000000Z";
    let mut left = at.subsec_micros();
    for digit in part.iter_mut().skip(1).take(6).rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    writer.write_str(std::str::from_utf8(&part).unwrap_or_default())
}

struct Fields<'w, 'b> {
    writer: &'w mut Writer<'b>,
    result: fmt::Result,
}

impl Fields<'_, '_> {
    fn put(&mut self, field: &Field, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        // Where a record of the `log` crate comes from is said by its target.
        if self.result.is_err() || field.name().starts_with("log.") {
            return;
        }
        let name = field.name().strip_prefix("r#").unwrap_or(field.name());
        self.result = put(self.writer, name, value);
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, |writer| quoted(writer, |text| write!(text, "{value:?}")));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |writer| quoted(writer, |text| text.write_str(value)));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, |writer| write!(writer, "{value}"));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, |writer| write!(writer, "{value}"));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, |writer| write!(writer, "{value}"));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, |writer| if value.is_finite() { write!(writer, "{value}") } else { writer.write_str("null") });
    }
}

/// Bytes that do not stand for themselves in a JSON string. (DEL would, but terminals take it for a command.)
static ESCAPED: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0);
    while byte < b' ' {
        table[byte as usize] = true;
        byte += 1;
    }
    (table[b'"' as usize], table[b'\\' as usize], table[0x7f]) = (true, true, true);
    table
};

/// Inside a JSON string.
struct Escaped<'w, W>(&'w mut W);

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if !ESCAPED.get(usize::from(byte)).is_some_and(|escaped| *escaped) {
                continue;
            }
            self.0.write_str(text.get(plain..at).unwrap_or_default())?;
            plain = at + 1;
            match byte {
                b'"' => self.0.write_str("\\\"")?,
                b'\\' => self.0.write_str("\\\\")?,
                b'\n' => self.0.write_str("\\n")?,
                _ => write!(self.0, "\\u{byte:04x}")?,
            }
        }
        self.0.write_str(text.get(plain..).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(event: impl FnOnce()) -> serde_json::Value {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::fmt().event_format(Json).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, event);
        let bytes = sink.0.lock().unwrap().clone();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1, "one line");
        serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
    }

    #[test]
    fn an_event_is_one_object_on_one_line() {
        let line = written(|| {
            tracing::warn!(target: "a", text = "q\"b\\n\n\u{7f}é", none = None::<u8>, yes = true, number = -3, many = 7u64,
                part = 0.125, nan = f64::NAN, shown = ?Some("x\n"), "said {}", 1);
        });
        let time = line["timestamp"].as_str().unwrap().to_owned();
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        let expected = serde_json::json!({
            "timestamp": time, "level": "WARN", "message": "said 1", "text": "q\"b\\n\n\u{7f}é", "yes": true, "number": -3,
            "many": 7, "part": 0.125, "nan": null, "shown": "Some(\"x\\n\")", "target": "a",
        });
        assert_eq!(line, expected);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in "\\PC{0,20}|[\\x00-\\x7f]{0,20}") {
            let line = written(|| tracing::info!(target: "a", text = text.as_str()));
            prop_assert_eq!(line["text"].as_str(), Some(text.as_str()));
        }
    }

    #[test]
    fn a_request_is_one_object_on_one_line() {
        let mut out = String::new();
        request(&mut out, Duration::new(1_709_164_800, 42_000), Level::WARN, |line| {
            line.text("text", "q\"b\\n\n\u{1}\u{7f}é");
            line.number("number", u64::MAX);
            for (name, nanos) in [("none", 499), ("little", 500), ("some", 1_500_000), ("long", 3_000_020_000)] {
                line.milliseconds(name, Duration::from_nanos(nanos));
            }
            line.yes("yes");
        });
        assert_eq!(out.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&out).unwrap();
        let expected = serde_json::json!({
            "timestamp": "2024-02-29T00:00:00.000042Z", "level": "WARN", "text": "q\"b\\n\n\u{1}\u{7f}é", "number": u64::MAX, "none": 0, "little": 0.001, "some": 1.5, "long": 3000.02, "yes": true,
            "target": "hookmoat::request",
        });
        assert_eq!(read, expected);
    }
}
