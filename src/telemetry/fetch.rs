//! What became of things fetched over the network: one line for each change of state, and figures for each source.
//! Sources are named by presets and routes, never by a message.

use prometheus::{GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The kinds of things that are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A sender's published networks.
    Ranges,
    /// A sender's public keys.
    Keys,
}

impl Kind {
    /// The value of the `kind` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ranges => "ranges",
            Self::Keys => "keys",
        }
    }
}

/// Something that happened to a source.
#[derive(Clone, Copy, Debug)]
pub enum SourceEvent<'a> {
    /// Another content than before is in force.
    Changed {
        /// Networks or keys before, if any were in force.
        before: Option<usize>,
        /// Networks or keys now.
        entries: usize,
    },
    /// The first failure after a success.
    Failing {
        /// Why.
        why: &'a str,
        /// What is used meanwhile: `nothing`, `the shipped copy`, …
        using: &'a str,
    },
    /// The first success after a failure.
    Recovered,
}

/// The counters and gauges. Clones are the same series.
#[derive(Clone, Debug)]
pub struct FetchMetrics {
    failures: IntCounterVec,
    last_success: GaugeVec,
    entries: IntGaugeVec,
    age: GaugeVec,
}

impl FetchMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let failures = register!(IntCounterVec::new(
            Opts::new("hookmoat_fetch_failures_total", "Fetches that failed, or brought something that was refused."),
            &["kind", "source"]
        ));
        let last_success = register!(GaugeVec::new(
            Opts::new(
                "hookmoat_fetch_last_success_timestamp_seconds",
                "When a source was last fetched, in seconds since 1970; 0: not since the start."
            ),
            &["kind", "source"]
        ));
        let entries = register!(IntGaugeVec::new(
            Opts::new("hookmoat_fetched_entries", "Networks or keys of a source in force; 0: the route refuses."),
            &["kind", "source"]
        ));
        let age = register!(GaugeVec::new(
            Opts::new(
                "hookmoat_fetched_age_seconds",
                "Time since what is in force was known to be what the sender publishes."
            ),
            &["kind", "source"]
        ));
        Ok(Self { failures, last_success, entries, age })
    }

    /// Makes a source's series, so that they stand there before anything happens.
    pub fn source(&self, kind: Kind, source: &str) {
        let labels = &[kind.label(), source];
        self.failures.with_label_values(labels);
        self.last_success.with_label_values(labels);
        self.entries.with_label_values(labels);
    }

    /// A fetch brought what is in force now, or told that it still holds.
    pub fn success(&self, kind: Kind, source: &str, unix_seconds: f64) {
        self.last_success.with_label_values(&[kind.label(), source]).set(unix_seconds);
    }

    /// A fetch brought nothing.
    pub fn failure(&self, kind: Kind, source: &str) {
        self.failures.with_label_values(&[kind.label(), source]).inc();
    }

    /// What is in force, and how old it is where that is known.
    pub fn in_force(&self, kind: Kind, source: &str, entries: usize, age_seconds: Option<f64>) {
        let labels = &[kind.label(), source];
        self.entries.with_label_values(labels).set(i64::try_from(entries).unwrap_or(i64::MAX));
        if let Some(age) = age_seconds {
            self.age.with_label_values(labels).set(age.max(0.0));
        }
    }
}

impl SourceEvent<'_> {
    /// Writes the line.
    pub fn emit(&self, kind: Kind, source: &str) {
        let kind = kind.label();
        match self {
            Self::Changed { before: Some(before), entries } => {
                tracing::info!(target: "hookmoat::fetch", kind, source, before, entries, "fetched: changed");
            }
            Self::Changed { before: None, entries } => {
                tracing::info!(target: "hookmoat::fetch", kind, source, entries, "fetched");
            }
            Self::Failing { why, using } => {
                tracing::warn!(target: "hookmoat::fetch", kind, source, why, using, "cannot be fetched");
            }
            Self::Recovered => tracing::info!(target: "hookmoat::fetch", kind, source, "fetched again"),
        }
    }
}
