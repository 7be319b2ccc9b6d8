//! Where log lines go: standard error, as JSON for machines or as text for people.
//!
//! What happens beside requests is logged with `tracing`. The line of a request goes the same way without it: it is
//! written once for each request, from fields that stand ready.

use super::json::{self, Json};
use super::lines::{self, AtOnce};
use crate::policy::{Log, LogFormat};
use std::cell::RefCell;
use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What the libraries below say that only repeats our own events, or is any scanner's doing.
const QUIET: &str = "pingora_core::services::listening=off,pingora_core::apps=off,pingora_core::protocols=off,\
                     pingora_core::server=warn,rustls=off,h2=off";

/// The target of requests' lines, for filters.
pub(super) const REQUESTS: &str = "hookmoat::request";

/// How lines look, once logging has started.
struct Look {
    format: LogFormat,
    ansi: bool,
    /// May lines of requests wait for each other?
    waits: bool,
}

static LOOK: OnceLock<Look> = OnceLock::new();

/// Starts logging. May be called once for each process; later calls change nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let ansi = log.format == LogFormat::Pretty && std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| AtOnce).with_ansi(ansi);
    let started = match log.format {
        LogFormat::Json => subscriber.event_format(Json).try_init(),
        LogFormat::Pretty => subscriber.event_format(Pretty).try_init(),
    };
    if started.is_ok() {
        LOOK.get_or_init(|| Look { format: log.format, ansi, waits: lines::start() });
    }
}

/// Writes what still waits to be written. For the end of the process.
pub fn flush() {
    lines::flush();
}

/// What takes the fields of a request's line.
pub(super) trait Line {
    fn text(&mut self, name: &'static str, value: &str);
    fn number(&mut self, name: &'static str, value: u64);
    fn milliseconds(&mut self, name: &'static str, value: Duration);
    fn yes(&mut self, name: &'static str);
}

/// Writes the line of a request that ended at this time, since 1970.
pub(super) fn request(at: Duration, level: Level, fields: impl FnOnce(&mut dyn Line)) {
    thread_local! {
        static LINE: RefCell<String> = const { RefCell::new(String::new()) };
    }
    let wanted = match level {
        Level::ERROR => tracing::enabled!(target: REQUESTS, Level::ERROR),
        Level::WARN => tracing::enabled!(target: REQUESTS, Level::WARN),
        _ => tracing::enabled!(target: REQUESTS, Level::INFO),
    };
    let Some(look) = LOOK.get().filter(|_| wanted) else { return };
    LINE.with_borrow_mut(|line| {
        line.clear();
        match look.format {
            LogFormat::Json => json::request(line, at, level, fields),
            LogFormat::Pretty => {
                let mut seen = Fields::default();
                fields(&mut seen);
                let _ = seen.write(line, look.ansi, level);
            }
        }
        lines::add(line.as_bytes());
        if !look.waits {
            lines::flush();
        }
    });
}

/// Milliseconds, to the microsecond, without idle digits.
pub(super) fn milliseconds(out: &mut String, time: Duration) {
    let micros = (time.as_nanos() + 500) / 1000;
    let (whole, part) = (micros / 1000, micros % 1000);
    out.push_str(itoa::Buffer::new().format(whole));
    if part != 0 {
        let digits = [part / 100, part / 10 % 10, part % 10].map(|digit| char::from(b'0' + digit as u8));
        let needed = if part.is_multiple_of(100) {
            1
        } else if part.is_multiple_of(10) {
            2
        } else {
            3
        };
        out.push('.');
        out.extend(digits.into_iter().take(needed));
    }
}

/// One line for each event: time, what happened, then the rest as `key=value`.
struct Pretty;

#[derive(Default)]
struct Fields {
    message: String,
    outcome: Option<String>,
    status: Option<u64>,
    route: Option<String>,
    detail: Option<String>,
    rest: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.escape_debug().to_string());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.to_string());
    }
}

impl Fields {
    fn put(&mut self, name: &'static str, value: String) {
        match name {
            "message" => self.message = value,
            "outcome" => self.outcome = Some(value),
            "route" => self.route = Some(value),
            // Present in the JSON form; noise for somebody who reads along.
            "http" | "provider" | "body_ms" | "log.target" | "log.module_path" | "log.file" | "log.line" => {}
            "detail" => self.detail = Some(value),
            "method" if value == "POST" => {}
            name => self.rest.push((name, value)),
        }
    }

    /// One line.
    fn write(mut self, out: &mut impl fmt::Write, ansi: bool, level: Level) -> fmt::Result {
        let outcome = self.outcome.as_deref();
        // At warning level the backend answered, but did not take it.
        let delivered = matches!(outcome, Some("forwarded" | "handshake")) && level == Level::INFO;
        let known = matches!(outcome, Some("duplicate" | "replayed" | "ignored"));
        let colour = match level {
            Level::ERROR => "\x1b[31m",
            _ if delivered => "\x1b[32m",
            _ if known => "\x1b[36m",
            Level::WARN => "\x1b[33m",
            _ if outcome.is_some() => "\x1b[33m",
            _ => "\x1b[36m",
        };
        let (on, dim, off) = if ansi { (colour, "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let now = time::OffsetDateTime::now_utc();
        write!(out, "{:02}:{:02}:{:02} ", now.hour(), now.minute(), now.second())?;
        match (&self.outcome, self.status) {
            (Some(outcome), Some(status)) => {
                let sign = match outcome.as_str() {
                    _ if delivered => '✓',
                    _ if known => '=',
                    _ => '✗',
                };
                let route = self.route.as_deref().unwrap_or("-");
                write!(out, "{on}{sign} {status} {outcome:<18}{off} {route:<10}")?;
                if let Some(detail) = &self.detail {
                    write!(out, " {detail}")?;
                }
                // Needed only to find the request elsewhere.
                self.rest.sort_by_key(|(name, _)| *name == "request_id");
            }
            _ => write!(out, "{on}{level:<5}{off} {}", self.message)?,
        }
        write!(out, "{dim}")?;
        for (name, value) in &self.rest {
            write!(out, " {name}={value}")?;
        }
        write!(out, "{off}")?;
        out.write_char('\n')
    }
}

impl Line for Fields {
    fn text(&mut self, name: &'static str, value: &str) {
        self.put(name, value.escape_debug().to_string());
    }

    fn number(&mut self, name: &'static str, value: u64) {
        if name == "status" { self.status = Some(value) } else { self.put(name, value.to_string()) }
    }

    fn milliseconds(&mut self, name: &'static str, value: Duration) {
        let mut text = String::new();
        milliseconds(&mut text, value);
        self.put(name, text);
    }

    fn yes(&mut self, name: &'static str) {
        self.put(name, "true".into());
    }
}

impl<S, N> FormatEvent<S, N> for Pretty
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let ansi = writer.has_ansi_escapes();
        fields.write(&mut writer, ansi, *event.metadata().level())
    }
}
