//! Traces: one span for each request, with a child for each stage and for each attempt to deliver its event.
//!
//! Nothing here waits. A request that is recorded leaves its spans, already in the form that goes over the wire, in a
//! buffer of bounded size that the exporter empties; what does not fit is dropped and counted. Without `tracing` in the
//! configuration there is no [`Tracer`], requests carry nothing, and `traceparent` and `tracestate` go to the backend as
//! they came.
//!
//! Whose word counts: a sender that says in its `traceparent` whether it records the trace is believed once its signature
//! has been verified, and not before. Everything else is recorded as often as `tracing.sample` says. So a stranger can
//! fill no buffer that others want to use. A request that is not recorded leaves the sender's `traceparent` as it is.
//!
//! An event that waits in a queue keeps its context in its stored `traceparent` field, whatever the queue's engine.

mod context;
pub(crate) mod otlp;

pub(crate) use context::Context;
use context::{SpanId, TRACEPARENT, TRACESTATE};
use otlp::{Any, Kind, Span};

use super::event::{Ending, RequestEvent};
use crate::delivery::plan::Met;
use crate::policy::{Authentication, Route};
use crate::port::queue::Event;
use crate::request::{Head, Headers, Now};
use parking_lot::Mutex;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Bytes of spans that wait for the exporter at most.
const BUFFER: usize = 4 << 20;
/// Bytes from which on the exporter is woken early.
const WAKE: usize = 256 << 10;

/// What is counted of traces.
#[derive(Clone, Debug)]
pub struct TraceMetrics {
    exported: IntCounter,
    dropped: IntCounterVec,
}

impl TraceMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let exported =
            register!(IntCounter::new("hookmoat_spans_exported_total", "Spans that the collector of traces took."));
        let dropped = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_spans_dropped_total",
                "Spans that were lost: buffer (more than the exporter could take away), export (the collector did not take them)."
            ),
            &["reason"]
        ));
        for reason in ["buffer", "export"] {
            dropped.with_label_values(&[reason]);
        }
        Ok(Self { exported, dropped })
    }
}

/// Makes spans, and holds them for the exporter.
pub(crate) struct Tracer {
    /// One request in so many is recorded.
    sample: u64,
    pending: Mutex<Batch>,
    wake: Notify,
    /// Has the exporter spans in its hands?
    busy: AtomicBool,
    metrics: TraceMetrics,
}

/// Spans on their way.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) spans: Vec<u8>,
    pub(crate) count: u64,
}

/// A part of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// What the head alone decides.
    Screen,
    /// Waiting for the body.
    Body,
    /// Signature, handshakes, types, limits.
    Verify,
    /// Of the event's ID.
    Claim,
    /// Until the event is durable.
    Enqueue,
    /// The backend.
    Forward,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Screen => "screen",
            Self::Body => "body",
            Self::Verify => "verify",
            Self::Claim => "claim",
            Self::Enqueue => "enqueue",
            Self::Forward => "forward",
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Self::Enqueue => Kind::Producer,
            Self::Forward => Kind::Client,
            _ => Kind::Internal,
        }
    }
}

/// A request that may be recorded.
pub(crate) struct Recording {
    /// Where the sender stands, if it said so.
    parent: Option<Context>,
    /// Of this request, in a trace of its own if the sender has none.
    own: Context,
    /// Came a `tracestate` whose `traceparent` does not count?
    orphaned_state: bool,
    /// By chance?
    chosen: bool,
    /// Was the sender's signature verified?
    pub(crate) verified: bool,
    begun: Now,
    stages: Vec<(Stage, Instant)>,
}

impl Recording {
    /// From here on it is in this stage.
    #[expect(clippy::disallowed_methods, reason = "how long a stage takes is measured here and nowhere else")]
    pub(crate) fn enter(&mut self, stage: Stage) {
        self.stages.push((stage, Instant::now()));
    }

    /// See the module.
    pub(crate) fn is_recorded(&self) -> bool {
        match &self.parent {
            Some(parent) if self.verified => parent.sampled,
            _ => self.chosen,
        }
    }

    /// The name of its trace for the log; none where nobody has such a trace.
    pub(crate) fn trace_id(&self) -> Option<String> {
        (self.parent.is_some() || self.is_recorded()).then(|| hex::encode(self.own.trace))
    }

    /// The span of a stage that hands the request on.
    fn span_of(&self, stage: Stage) -> SpanId {
        child(self.own.span, stage as u64 + 1)
    }

    /// Fields for whoever gets the request next, in place of the sender's; none where those go on as they came.
    pub(crate) fn fields(&self, stage: Stage, route: &Route) -> Vec<(&'static str, String)> {
        // What the sender signed has to be verifiable once more.
        let is_signed =
            matches!(&route.authentication, Authentication::Signature(check) if check.headers().contains(&TRACEPARENT));
        if !self.is_recorded() || is_signed {
            return Vec::new();
        }
        let mut fields = vec![("traceparent", Context { span: self.span_of(stage), ..self.own }.text())];
        if self.orphaned_state {
            // An empty list says as much as none.
            fields.push(("tracestate", String::new()));
        }
        fields
    }

    /// Puts them into a stored event, for its attempts.
    pub(crate) fn mark(&self, event: &mut Event, route: &Route) {
        for (name, value) in self.fields(Stage::Enqueue, route) {
            event.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
            event.headers.push((name.into(), value.into_bytes().into()));
        }
    }
}

/// An attempt to deliver a stored event.
pub(crate) struct Attempt {
    parent: Context,
    own: SpanId,
    begun: Now,
}

impl Attempt {
    /// The `traceparent` for the backend.
    pub(crate) fn text(&self) -> String {
        Context { span: self.own, ..self.parent }.text()
    }
}

impl Tracer {
    pub(crate) fn new(sample: u32, metrics: TraceMetrics) -> Self {
        Self {
            sample: u64::from(sample.max(1)),
            pending: Mutex::default(),
            wake: Notify::new(),
            busy: AtomicBool::new(false),
            metrics,
        }
    }

    /// Begins with a request whose name is this number, drawn by chance.
    pub(crate) fn begin(&self, head: &Head<'_>, now: Now, number: u64) -> Recording {
        let parent = Context::of(&head.headers);
        let mut ids = [0; 24];
        let _ = getrandom::fill(&mut ids);
        let mut own = Context { trace: [0; 16], span: [0; 8], sampled: true };
        let (trace, span) = ids.split_at(16);
        own.trace.copy_from_slice(trace);
        own.span.copy_from_slice(span);
        // Zeros are no names, and there is no chance without the system's.
        own.span[0] |= 1;
        own.trace[0] |= 1;
        if let Some(parent) = &parent {
            own.trace = parent.trace;
        }
        Recording {
            orphaned_state: parent.is_none() && head.headers.has(&TRACESTATE),
            parent,
            own,
            chosen: number.is_multiple_of(self.sample),
            verified: false,
            begun: now,
            stages: vec![(Stage::Screen, now.instant)],
        }
    }

    /// Ends a request.
    pub(crate) fn finish(&self, recording: &Recording, event: &RequestEvent<'_>) {
        if !recording.is_recorded() {
            return;
        }
        let at = |instant: Instant| recording.begun.unix + instant.saturating_duration_since(recording.begun.instant);
        let end = recording.begun.unix + event.total;
        let mut batch = Batch::default();
        let trail = event.trail;
        let (outcome, status, detail) = event.ending.told();
        let route = trail.route.as_deref();
        let name = format!("{} {}", event.method, route.map_or("-", |route| &route.name));
        let client = trail.client.map(|client| client.to_string());
        let mut attributes = vec![
            ("http.request.method", Any::Text(event.method)),
            ("http.response.status_code", Any::Number(status.into())),
            ("http.request.body.size", Any::Number(event.bytes)),
            ("network.protocol.version", Any::Text(event.http)),
            ("hookmoat.outcome", Any::Text(outcome)),
            ("hookmoat.request_id", Any::Text(event.id)),
            ("hookmoat.verified", Any::Flag(recording.verified)),
        ];
        let texts = [
            ("hookmoat.route", route.map(|route| &*route.name)),
            ("hookmoat.provider", route.and_then(|route| route.provider.as_deref())),
            ("hookmoat.event_id", trail.event_id.as_deref()),
            ("hookmoat.event_type", trail.event_type.as_deref()),
            ("hookmoat.detail", Some(detail).filter(|detail| !detail.is_empty())),
            ("client.address", client.as_deref()),
        ];
        attributes.extend(texts.iter().filter_map(|(name, text)| Some((*name, Any::Text((*text)?)))));
        batch.add(&Span {
            trace: recording.own.trace,
            id: recording.own.span,
            parent: recording.parent.map(|parent| parent.span),
            remote: recording.parent.is_some(),
            name: &name,
            kind: Kind::Server,
            start: recording.begun.unix,
            end,
            attributes: &attributes,
            error: (status >= 500).then_some(outcome),
        });
        for (i, (stage, began)) in recording.stages.iter().enumerate() {
            let next = recording.stages.get(i + 1).map_or(end, |(_, next)| at(*next));
            let (backend, error) = match (&event.ending, stage) {
                (Ending::Forwarded { backend, .. }, Stage::Forward) => {
                    (Some(*backend), (*backend >= 400).then_some("the backend's answer"))
                }
                (Ending::Refused { reject, .. }, _) if i + 1 == recording.stages.len() => {
                    (None, Some(reject.reason.label()))
                }
                _ => (None, None),
            };
            let mut attributes = Vec::new();
            if let Some(backend) = backend {
                attributes.push(("http.response.status_code", Any::Number(backend.into())));
                attributes.push(("hookmoat.attempt", Any::Number(1)));
            }
            batch.add(&Span {
                trace: recording.own.trace,
                id: recording.span_of(*stage),
                parent: Some(recording.own.span),
                remote: false,
                name: stage.name(),
                kind: stage.kind(),
                start: at(*began),
                end: next,
                attributes: &attributes,
                error,
            });
        }
        self.put(batch);
    }

    /// Begins with an attempt, where the event's request was recorded.
    pub(crate) fn attempt(&self, event: &Event) -> Option<Attempt> {
        let parent = Context::of_event(event).filter(|context| context.sampled)?;
        let mut own = [0; 8];
        let _ = getrandom::fill(&mut own);
        own[0] |= 1;
        Some(Attempt { parent, own, begun: Now::read() })
    }

    /// Ends an attempt.
    pub(crate) fn finish_attempt(&self, attempt: &Attempt, event: &Event, upstream: &str, number: u32, met: &Met) {
        let (status, error) = match met {
            Met::Answer(status, _) => (Some(*status), (*status >= 400).then_some("the backend's answer")),
            Met::Nothing(_, why) => (None, Some(&**why)),
        };
        let mut attributes = vec![
            ("hookmoat.attempt", Any::Number(number.into())),
            ("hookmoat.route", Any::Text(&event.route)),
            ("hookmoat.upstream", Any::Text(upstream)),
            ("hookmoat.request_id", Any::Text(&event.request_id)),
        ];
        attributes.extend(status.map(|status| ("http.response.status_code", Any::Number(status.into()))));
        attributes.extend(event.event_id.as_deref().map(|id| ("hookmoat.event_id", Any::Text(id))));
        let mut batch = Batch::default();
        batch.add(&Span {
            trace: attempt.parent.trace,
            id: attempt.own,
            parent: Some(attempt.parent.span),
            remote: true,
            name: "attempt",
            kind: Kind::Client,
            start: attempt.begun.unix,
            end: Now::read().unix,
            attributes: &attributes,
            error,
        });
        self.put(batch);
    }

    fn put(&self, batch: Batch) {
        let mut pending = self.pending.lock();
        if pending.spans.len() + batch.spans.len() > BUFFER {
            drop(pending);
            self.metrics.dropped.with_label_values(&["buffer"]).inc_by(batch.count);
            return;
        }
        let before = pending.spans.len();
        pending.spans.extend_from_slice(&batch.spans);
        pending.count += batch.count;
        if before < WAKE && pending.spans.len() >= WAKE {
            self.wake.notify_one();
        }
    }

    /// For the exporter: all that is there after this time, or as soon as it is much.
    pub(crate) async fn take(&self, patience: Duration) -> Batch {
        let _ = tokio::time::timeout(patience, self.wake.notified()).await;
        let mut pending = self.pending.lock();
        self.busy.store(pending.count > 0, Ordering::Release);
        std::mem::take(&mut *pending)
    }

    /// For the exporter: what became of what it took.
    pub(crate) fn exported(&self, count: u64, taken: bool) {
        match taken {
            true => self.metrics.exported.inc_by(count),
            false => self.metrics.dropped.with_label_values(&["export"]).inc_by(count),
        }
        self.busy.store(false, Ordering::Release);
    }

    /// Has everything been exported? Wakes the exporter where not.
    pub(crate) fn is_empty(&self) -> bool {
        let empty = self.pending.lock().count == 0 && !self.busy.load(Ordering::Acquire);
        if !empty {
            self.wake.notify_one();
        }
        empty
    }
}

impl Batch {
    fn add(&mut self, span: &Span<'_>) {
        span.encode(&mut self.spans);
        self.count += 1;
    }
}

impl Context {
    /// Of a stored event.
    pub(crate) fn of_event(event: &Event) -> Option<Self> {
        let headers: Vec<(&str, &[u8])> = event.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        Self::of(&Headers::List(&headers))
    }

    /// The name of the trace, for the log.
    pub(crate) fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }
}

/// Another name in the same trace.
fn child(span: SpanId, number: u64) -> SpanId {
    let name = u64::from_be_bytes(span).wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Zero is no name.
    name.max(1).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn tracer(sample: u32) -> Tracer {
        Tracer::new(sample, TraceMetrics::new(&Registry::new()).unwrap())
    }

    fn begun(tracer: &Tracer, headers: &[(&str, &[u8])], number: u64) -> Recording {
        let head = Head { method: "POST", path: "/", query: None, host: "", headers: Headers::List(headers) };
        tracer.begin(&head, Now::at_unix(1), number)
    }

    #[test]
    fn a_sender_is_believed_once_it_is_known() {
        let tracer = tracer(1000);
        let sampled = [("traceparent", PARENT.as_bytes())];
        let unsampled = PARENT.replace("-01", "-00");
        let unsampled = [("traceparent", unsampled.as_bytes())];
        let with = |headers: &[(&str, &[u8])], number: u64, verified: bool| {
            let mut recording = begun(&tracer, headers, number);
            recording.verified = verified;
            recording.is_recorded()
        };
        assert!(with(&sampled, 1, true) && !with(&sampled, 1, false));
        assert!(!with(&unsampled, 0, true) && with(&unsampled, 0, false));
        assert!(with(&[], 2000, true) && !with(&[], 2001, true));
    }

    #[test]
    fn a_trace_goes_on_or_begins() {
        let tracer = tracer(1);
        let on = begun(&tracer, &[("traceparent", PARENT.as_bytes()), ("tracestate", b"a=b")], 0);
        assert_eq!(on.trace_id().as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
        assert!(!on.orphaned_state);
        let (one, other) = (begun(&tracer, &[("tracestate", b"a=b")], 0), begun(&tracer, &[], 0));
        assert!(one.orphaned_state && !other.orphaned_state);
        assert_ne!(one.own.trace, other.own.trace);
        assert_ne!(on.span_of(Stage::Forward), on.span_of(Stage::Enqueue));
        assert_ne!(on.span_of(Stage::Forward), on.own.span);
    }

    #[test]
    fn the_buffer_is_bounded_and_what_does_not_fit_is_counted() {
        let tracer = tracer(1);
        let size = 64 << 10;
        for _ in 0..200 {
            tracer.put(Batch { spans: vec![0; size], count: 2 });
        }
        let dropped = tracer.metrics.dropped.with_label_values(&["buffer"]).get();
        let held = tracer.pending.lock().count;
        assert_eq!((held, dropped), (2 * (BUFFER / size) as u64, 400 - held));
        assert!(!tracer.is_empty());
    }
}
