//! What is counted of the store of seen IDs and rate limits.

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::time::Duration;

/// Upper bounds of the latency histogram, in seconds: a store in the same rack up to one that is lost.
const LATENCY: &[f64] = &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// What a store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// For an event's ID.
    Claim,
    /// To end a claim.
    Settle,
    /// Whether a claim was settled.
    Wait,
    /// To let a claim live on.
    Renew,
    /// For the rate limits of a request.
    Limit,
    /// Whether it is there.
    Probe,
}

const OPERATIONS: [&str; 6] = ["claim", "settle", "wait", "renew", "limit", "probe"];

/// What was done without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Refused with 503.
    Reject,
    /// Passed.
    Allow,
    /// Decided by the memory of this process.
    Local,
}

impl Decision {
    fn label(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Allow => "allow",
            Self::Local => "local",
        }
    }
}

/// Which check had to do without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rate limits.
    RateLimit,
    /// Event IDs.
    Duplicates,
}

/// The counters of the store.
#[derive(Debug)]
pub struct StateMetrics {
    durations: [Histogram; 6],
    errors: [IntCounter; 6],
    degraded: IntCounterVec,
    /// 1 while the store is used, 0 while requests do without it.
    pub up: IntGauge,
    /// 1 while the server may throw keys away.
    pub evicting: IntGauge,
    /// Settlements that wait for the store to come back.
    pub pending: IntGauge,
    /// Deliveries whose claim was lost before it could be settled.
    pub claims_lost: IntCounter,
}

impl StateMetrics {
    /// Registers them.
    pub fn new(registry: &Registry, claims_lost: IntCounter) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let durations = register!(HistogramVec::new(
            HistogramOpts::new("hookmoat_state_duration_seconds", "Time that the store took to answer, by operation.")
                .buckets(LATENCY.to_vec()),
            &["operation"]
        ));
        let errors = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_state_errors_total",
                "Operations that the store did not answer, or answered with an error. While the breaker is open nothing is asked."
            ),
            &["operation"]
        ));
        let degraded = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_state_degraded_total",
                "Decisions made without the store, by route, check (rate_limit, duplicates) and what `on_failure` says: reject, allow or local."
            ),
            &["route", "check", "decision"]
        ));
        let up = register!(IntGauge::new(
            "hookmoat_state_up",
            "1 while the store of event IDs and limits is used; 0 while the breaker is open and requests do without it."
        ));
        let evicting = register!(IntGauge::new(
            "hookmoat_state_evicting",
            "1 when the server's maxmemory-policy lets it throw keys away, so that events may be forgotten early."
        ));
        let pending = register!(IntGauge::new(
            "hookmoat_state_pending_settlements",
            "Outcomes of deliveries that wait for the store to come back."
        ));
        // The memory of the process is always there.
        up.set(1);
        Ok(Self {
            durations: OPERATIONS.map(|operation| durations.with_label_values(&[operation])),
            errors: OPERATIONS.map(|operation| errors.with_label_values(&[operation])),
            degraded,
            up,
            evicting,
            pending,
            claims_lost,
        })
    }

    /// Notes an answer.
    pub fn took(&self, operation: Operation, time: Duration) {
        if let Some(histogram) = self.durations.get(operation as usize) {
            histogram.observe(time.as_secs_f64());
        }
    }

    /// Notes a failure.
    pub fn failed(&self, operation: Operation) {
        if let Some(counter) = self.errors.get(operation as usize) {
            counter.inc();
        }
    }

    /// Notes a decision without the store.
    pub fn degraded(&self, route: &str, kind: Kind, decision: Decision) {
        let check = match kind {
            Kind::RateLimit => "rate_limit",
            Kind::Duplicates => "duplicates",
        };
        self.degraded.with_label_values(&[route, check, decision.label()]).inc();
    }
}

#[cfg(any(test, feature = "fuzz"))]
impl StateMetrics {
    /// In a registry that nobody reads.
    #[allow(clippy::unwrap_used, reason = "for tests and fuzz targets")]
    pub(crate) fn unread() -> std::sync::Arc<Self> {
        let lost = IntCounter::new("lost", "lost").unwrap();
        std::sync::Arc::new(Self::new(&Registry::new(), lost).unwrap())
    }
}
