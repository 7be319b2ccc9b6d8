//! When a source is fetched again, and what is told of it.

use super::client::FetchError;
use crate::telemetry::fetch::{FetchMetrics, Kind, SourceEvent};
use http::HeaderValue;
use std::time::Duration;
use tokio::time::Instant;

/// The longest that a sender's word keeps something from being fetched again.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The first wait after a failure; each further one is twice as long.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest wait after failures.
const LAST_RETRY: Duration = Duration::from_secs(600);

/// What is remembered of a source from one fetch to the next.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// For asking whether anything is new.
    pub(super) etag: Option<HeaderValue>,
    /// A content that was refused for being much smaller, and since when the source gives it.
    pub(super) smaller: Option<([u8; 32], Instant)>,
    next: Option<Instant>,
    failures: u32,
}

impl Course {
    /// Waits until the source is due. At once before the first fetch.
    pub(super) async fn wait(&self) {
        if let Some(next) = self.next {
            tokio::time::sleep_until(next).await;
        }
    }

    /// The sender's word counts where it is longer than the configuration's, up to a day.
    pub(super) fn succeeded(&mut self, kind: Kind, source: &str, refresh: Duration, max_age: Option<Duration>) {
        if self.failures > 0 {
            SourceEvent::Recovered.emit(kind, source);
        }
        self.failures = 0;
        let wait = max_age.unwrap_or_default().min(LONGEST).max(refresh);
        // A little later rather than together with everybody else.
        self.next = Some(Instant::now() + wait + wait.mul_f64(random() * 0.1));
    }

    /// Counts, tells the first failure of a row, and waits longer each time.
    pub(super) fn failed(
        &mut self,
        kind: Kind,
        source: &str,
        refresh: Duration,
        error: &FetchError,
        using: &str,
        metrics: &FetchMetrics,
    ) {
        metrics.failure(kind, source);
        match self.failures {
            0 => SourceEvent::Failing { why: &error.to_string(), using }.emit(kind, source),
            _ => tracing::debug!(target: "hookmoat::fetch", kind = kind.label(), source, %error, "cannot be fetched"),
        }
        let wait = FIRST_RETRY.saturating_mul(1 << self.failures.min(10)).min(LAST_RETRY).min(refresh);
        self.failures = self.failures.saturating_add(1);
        self.next = Some(Instant::now() + wait.mul_f64(0.75 + random() * 0.5));
    }
}

/// From 0 to 1. Spreads load; nothing depends on it.
fn random() -> f64 {
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
}
