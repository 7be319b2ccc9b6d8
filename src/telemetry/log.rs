//! Where log lines go: standard error, as JSON for machines or as text for people.

use super::json::Json;
use crate::policy::{Log, LogFormat};
use std::fmt;
use std::io::IsTerminal as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// What the libraries below say that only repeats our own events, or is any scanner's doing.
const QUIET: &str = "pingora_core::services::listening=off,pingora_core::apps=off,pingora_core::protocols=off,\
                     pingora_core::server=warn,rustls=off,h2=off";

/// Starts logging. May be called once for each process; later calls change nothing.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", log.level)).unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = match log.format {
        LogFormat::Json => subscriber.with_ansi(false).event_format(Json).try_init(),
        LogFormat::Pretty => subscriber.with_ansi(std::io::stderr().is_terminal()).event_format(Pretty).try_init(),
    };
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
        self.put(field, format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.escape_debug().to_string());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "status" { self.status = Some(value) } else { self.put(field, value.to_string()) }
    }
}

impl Fields {
    fn put(&mut self, field: &Field, value: String) {
        match field.name() {
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
}

impl<S, N> FormatEvent<S, N> for Pretty
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let level = *event.metadata().level();
        let outcome = fields.outcome.as_deref();
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
        let (on, dim, off) = if writer.has_ansi_escapes() { (colour, "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
        let now = time::OffsetDateTime::now_utc();
        write!(writer, "{:02}:{:02}:{:02} ", now.hour(), now.minute(), now.second())?;
        match (&fields.outcome, fields.status) {
            (Some(outcome), Some(status)) => {
                let sign = match outcome.as_str() {
                    _ if delivered => '✓',
                    _ if known => '=',
                    _ => '✗',
                };
                let route = fields.route.as_deref().unwrap_or("-");
                write!(writer, "{on}{sign} {status} {outcome:<18}{off} {route:<10}")?;
                if let Some(detail) = &fields.detail {
                    write!(writer, " {detail}")?;
                }
                // Needed only to find the request elsewhere.
                fields.rest.sort_by_key(|(name, _)| *name == "request_id");
            }
            _ => write!(writer, "{on}{level:<5}{off} {}", fields.message)?,
        }
        write!(writer, "{dim}")?;
        for (name, value) in &fields.rest {
            write!(writer, " {name}={value}")?;
        }
        write!(writer, "{off}")?;
        writeln!(writer)
    }
}
