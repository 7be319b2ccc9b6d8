//! Events as JSON, one object a line: time, level, the event's fields, its target. Written straight into the line, since
//! with every request logged this is a good part of what a request costs.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use time::OffsetDateTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// See the module.
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        writer.write_str("{\"timestamp\":\"")?;
        timestamp(&mut writer, OffsetDateTime::now_utc())?;
        write!(writer, "\",\"level\":\"{}\"", metadata.level())?;
        let mut fields = Fields { writer: &mut writer, result: Ok(()) };
        event.record(&mut fields);
        fields.result?;
        writer.write_str(",\"target\":\"")?;
        Escaped(&mut writer).write_str(metadata.target())?;
        writer.write_str("\"}\n")
    }
}

/// RFC 3339 with microseconds.
fn timestamp(writer: &mut impl fmt::Write, now: OffsetDateTime) -> fmt::Result {
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    LAST.with_borrow_mut(|(second, text)| {
        let unix = now.unix_timestamp();
        if *second != unix {
            text.clear();
            let (date, month) = (now.date(), u8::from(now.month()));
            let _ = write!(text, "{:04}-{month:02}-{:02}T", date.year(), date.day());
            let _ = write!(text, "{:02}:{:02}:{:02}", now.hour(), now.minute(), now.second());
            *second = unix;
        }
        writer.write_str(text)
    })?;
    write!(writer, ".{:06}Z", now.microsecond())
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
        self.result = write!(self.writer, ",\"{name}\":").and_then(|()| value(self.writer));
    }

    fn text(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        self.put(field, |writer| {
            writer.write_char('"')?;
            Escaped(writer).write_fmt(value)?;
            writer.write_char('"')
        });
    }
}

impl Visit for Fields<'_, '_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, format_args!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |writer| {
            writer.write_char('"')?;
            Escaped(writer).write_str(value)?;
            writer.write_char('"')
        });
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

/// Inside a JSON string.
struct Escaped<'w, W>(&'w mut W);

impl<W: fmt::Write> fmt::Write for Escaped<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            if byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 0x7f {
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
}
