//! The one event that every request ends with.

use crate::pipeline::{How, Trail};
use crate::policy::{LogRequests, Observable};
use crate::reject::{Level, Reject};
use crate::telemetry::log;
use crate::telemetry::metrics::{Metrics, Stage, check_name};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

/// What became of a request.
#[derive(Debug)]
pub enum Ending {
    /// The backend answered with this status. The sender got `sent`, which differs for a 410.
    Forwarded {
        /// The backend's status.
        backend: u16,
        /// What the sender got.
        sent: u16,
        /// Was the answer passed on to its end?
        complete: bool,
    },
    /// Answered here, as the sender wants it.
    Answered {
        /// Why.
        how: How,
        /// What the sender got.
        status: u16,
        /// For the log.
        detail: Cow<'static, str>,
        /// Was the answer written to its end?
        complete: bool,
    },
    /// Refused with this status.
    Refused {
        /// Why.
        reject: Reject,
        /// What the sender got.
        status: u16,
    },
}

/// Everything worth telling about one request.
#[derive(Debug)]
pub struct RequestEvent<'a> {
    /// Sent to the backend and back as `X-Request-Id`.
    pub id: &'a str,
    /// When it arrived, since 1970.
    pub arrived: Duration,
    /// The trace that it belongs to, where traces are recorded.
    pub trace_id: Option<&'a str>,
    /// Is it itself recorded in that trace?
    pub recorded: bool,
    /// The method, if it is a known one; else `OTHER`.
    pub method: &'a str,
    /// `1.0`, `1.1` or `2`.
    pub http: &'static str,
    /// As far as the request got.
    pub trail: &'a Trail,
    /// How it ended.
    pub ending: Ending,
    /// Body bytes read.
    pub bytes: u64,
    /// Waiting for the body.
    pub body: Duration,
    /// The backend's part.
    pub backend: Option<Duration>,
    /// From the end of the head to the end of the answer.
    pub total: Duration,
    /// When it ended, since 1970.
    pub at: Duration,
}

impl RequestEvent<'_> {
    /// Moves the counters and writes the line.
    pub fn emit(&self, metrics: &Metrics, log: LogRequests) {
        let route = self.trail.route.as_deref();
        let name = route.map(|route| &*route.name);
        let counters = metrics.route(name);
        counters.bytes(self.bytes);
        counters.took(Stage::Body, self.body);
        counters.took(Stage::Total, self.total);
        if let Some(backend) = self.backend {
            counters.took(Stage::Backend, backend);
        }
        let checks = self.total.saturating_sub(self.body).saturating_sub(self.backend.unwrap_or_default());
        counters.took(Stage::Checks, checks);
        if let Some(trace_id) = self.trace_id.filter(|_| self.recorded) {
            let times = [Some(self.body), Some(checks), self.backend, Some(self.total)];
            counters.exemplify(times, trace_id, self.arrived);
        }
        match &self.ending {
            Ending::Forwarded { backend, .. } => counters.forwarded(*backend),
            Ending::Answered { how, .. } => counters.answered(*how),
            Ending::Refused { reject, .. } => counters.refused(reject.reason),
        }
        counters.event(self.trail.wanted);
        for (check, reject) in &self.trail.observed {
            metrics.observed(name.unwrap_or_default(), *check, reject.reason);
        }
        let wanted = match log {
            LogRequests::All => true,
            LogRequests::Refused => !self.ending.is_delivery() || !self.trail.observed.is_empty(),
            LogRequests::Off => false,
        };
        if wanted {
            self.write();
        }
    }

    fn write(&self) {
        let (outcome, status, detail) = self.ending.told();
        let (level, complete) = match &self.ending {
            Ending::Forwarded { complete, .. } if self.ending.is_delivery() => (Level::Info, *complete),
            Ending::Forwarded { complete, .. } => (Level::Warn, *complete),
            Ending::Answered { complete, .. } => (Level::Info, *complete),
            Ending::Refused { reject, .. } => (reject.reason.row().level, true),
        };
        let level = match level {
            Level::Info => tracing::Level::INFO,
            Level::Warn => tracing::Level::WARN,
            Level::Error => tracing::Level::ERROR,
        };
        let Trail { route, client, event_id, event_type, diagnosed, observed, .. } = self.trail;
        log::request(self.at, level, |line| {
            line.text("request_id", self.id);
            if let Some(trace_id) = self.trace_id {
                line.text("trace_id", trace_id);
            }
            line.text("outcome", outcome);
            line.number("status", status.into());
            if let Some(route) = route {
                line.text("route", &route.name);
                if let Some(provider) = &route.provider {
                    line.text("provider", provider);
                }
            }
            if let Some(client) = client {
                line.text("client", client.text().as_str());
            }
            line.text("method", self.method);
            line.text("http", self.http);
            if let Some(id) = event_id {
                line.text("event_id", id);
            }
            if let Some(kind) = event_type {
                line.text("event_type", kind);
            }
            line.number("bytes", self.bytes);
            line.milliseconds("body_ms", self.body);
            if let Some(backend) = self.backend {
                line.milliseconds("backend_ms", backend);
            }
            line.milliseconds("total_ms", self.total);
            if !detail.is_empty() {
                line.text("detail", detail);
            }
            if !complete {
                line.yes("truncated");
            }
            if let Some(diagnosed) = diagnosed {
                line.text("diagnosis", &diagnosed.diagnosis);
                line.text("capture", &diagnosed.capture);
            }
            if !observed.is_empty() {
                line.text("observed", &would_refuse(observed));
            }
        });
    }
}

fn would_refuse(observed: &[(Observable, Reject)]) -> String {
    let mut text = String::new();
    for (check, reject) in observed {
        let separator = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{separator}{} would refuse: {reject}", check_name(*check));
    }
    text
}

impl Ending {
    /// The value of the `outcome` label, what the sender got, and the private detail.
    pub fn told(&self) -> (&'static str, u16, &str) {
        match self {
            Self::Forwarded { sent, .. } => ("forwarded", *sent, ""),
            Self::Answered { how, status, detail, .. } => (how.label(), *status, detail),
            Self::Refused { reject, status } => (reject.reason.label(), *status, &reject.detail),
        }
    }

    /// Did the event get where it belongs, and did the sender hear of it?
    pub fn is_delivery(&self) -> bool {
        matches!(
            self,
            Self::Forwarded { backend: 200..=299, complete: true, .. } | Self::Answered { complete: true, .. }
        )
    }
}
