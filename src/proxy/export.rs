//! Takes finished spans to the collector: OTLP over HTTP, protobuf, a POST for each batch.
//!
//! One batch at a time. A collector that is busy or away is tried again for a while; meanwhile spans gather up to the
//! tracer's bound. Requests never wait for any of this.

use super::timer::Timer;
use super::upstream::Client;
use crate::delivery::attempt;
use crate::delivery::plan::Met;
use crate::policy::Tracing;
use crate::telemetry::trace::{Tracer, otlp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long spans gather before they go.
const EVERY: Duration = Duration::from_secs(1);
/// Waits between attempts to bring one batch; then it is given up.
const PAUSES: [u64; 4] = [1, 2, 4, 8];

/// Exports for the life of the process.
pub(super) async fn run(tracer: &Tracer, settings: &Tracing, client: Arc<Client>) {
    let mut failing = false;
    loop {
        let batch = tracer.take(EVERY).await;
        if batch.count == 0 {
            continue;
        }
        let result = bring(settings, &client, &batch.spans).await;
        tracer.exported(batch.count, result.is_ok());
        match &result {
            Err(why) if !failing => {
                tracing::warn!(target: "hookmoat", spans = batch.count, why, "the collector of traces does not take spans");
            }
            Ok(()) if failing => tracing::info!(target: "hookmoat", "the collector of traces takes spans again"),
            _ => {}
        }
        failing = result.is_err();
    }
}

async fn bring(settings: &Tracing, client: &Arc<Client>, spans: &[u8]) -> Result<(), String> {
    let resource: Vec<(&str, &str)> =
        settings.resource.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let body = otlp::batch(&resource, spans);
    let mut head = format!(
        "POST {} HTTP/1.1\r\ncontent-type: application/x-protobuf\r\nuser-agent: hookmoat/{}\r\ncontent-length: {}\r\n",
        settings.path,
        env!("CARGO_PKG_VERSION"),
        body.len()
    )
    .into_bytes();
    let authority = ("host", client.upstream().authority.as_bytes());
    let own = settings.headers.iter().map(|(name, value)| (name.as_str(), value.expose()));
    for (name, value) in std::iter::once(authority).chain(own) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    let mut pauses = PAUSES.iter();
    loop {
        let mut timer = Timer::default();
        let until = Instant::now() + client.upstream().timeout;
        // Spans are named: one that comes twice is the same.
        let met = match client.exchange(&head, &body, false, true, &mut timer, until).await {
            Ok(response) => attempt::read(response, &mut timer).await,
            Err(error) => attempt::met(&error),
        };
        // What may be tried again is said by the protocol (OTLP 1.x, section "Retryable Response Codes").
        let (why, again) = match met {
            Met::Answer(200..=299, _) => return Ok(()),
            Met::Answer(status, _) => (format!("it answered {status}"), matches!(status, 429 | 502 | 503 | 504)),
            Met::Nothing(_, why) => (why.into(), true),
        };
        match pauses.next() {
            Some(seconds) if again => {
                // Its name may lead elsewhere by now.
                let _ = client.resolve().await;
                sleep(Duration::from_secs(*seconds)).await;
            }
            _ => return Err(why),
        }
    }
}
