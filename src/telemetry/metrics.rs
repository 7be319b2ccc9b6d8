//! The counters, in a registry of their own. Every label value comes from the configuration or from an enum, never
//! from a request, so that a sender cannot make a series.

use crate::check::event_type::{Pattern, Patterns};
use crate::pipeline::How;
use crate::policy::{Observable, Policy};
use crate::reject::Reason;
use crate::telemetry::connections::ConnectionMetrics;
use crate::telemetry::fetch::FetchMetrics;
use crate::telemetry::openmetrics::{self, Exemplar};
use crate::telemetry::state::StateMetrics;
use crate::telemetry::trace::TraceMetrics;
use parking_lot::{Mutex, RwLock};
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// The `route` label of requests that no route was found for.
const NO_ROUTE: &str = "";

/// Upper bounds of the latency histograms, in seconds.
pub(super) const LATENCY: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Values of the `outcome` label of reloads.
const OUTCOMES: [&str; 2] = ["applied", "refused"];

/// Values of the `stage` label, in the order of [`Stage`].
const STAGES: [&str; 4] = ["body", "checks", "backend", "total"];
/// The histogram of a request's stages.
const DURATION: &str = "hookmoat_request_duration_seconds";

/// A stage of a request, for the duration histogram.
#[derive(Clone, Copy, Debug)]
pub enum Stage {
    /// From the end of the head to the end of the body: the sender's and the network's time.
    Body,
    /// All checks, the waiting for the sender left out.
    Checks,
    /// From the first byte to the backend to the end of its answer.
    Backend,
    /// From the end of the head to the end of the answer.
    Total,
}

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Of queues and background delivery.
    pub queues: super::queues::QueueMetrics,
    requests: IntCounterVec,
    observed: IntCounterVec,
    events: IntCounterVec,
    backend: IntCounterVec,
    duration: HistogramVec,
    bytes: IntCounterVec,
    route_ready: IntGaugeVec,
    route_info: IntGaugeVec,
    config_info: IntGaugeVec,
    config_reloads: IntCounterVec,
    config_reload_ok: IntGauge,
    certificate_reloads: IntCounterVec,
    certificate_not_after: GaugeVec,
    carried: [IntCounter; 2],
    /// Requests between the end of their head and the end of their answer.
    pub in_flight: IntGauge,
    /// Bytes of request bodies held at this moment.
    pub body_memory: IntGauge,
    /// Keys in the memory of events.
    pub seen_ids: IntGauge,
    /// Rate-limit buckets.
    pub buckets: IntGauge,
    /// Deliveries whose lease ended before the backend's answer.
    pub claims_lost: IntCounter,
    /// The store of seen IDs and limits.
    pub state: Arc<StateMetrics>,
    /// When the configuration in force was loaded.
    pub config_loaded: Gauge,
    /// What is fetched over the network.
    pub fetch: FetchMetrics,
    /// Spans of traces.
    pub traces: TraceMetrics,
    /// Of connections before they are requests.
    pub connections: ConnectionMetrics,
    routes: RwLock<HashMap<Arc<str>, Arc<RouteMetrics>, ahash::RandomState>>,
    none: std::sync::OnceLock<Arc<RouteMetrics>>,
}

/// The counters of one route, looked up once.
pub struct RouteMetrics {
    refused: Vec<IntCounter>,
    forwarded: IntCounter,
    answered: [IntCounter; 3],
    /// One for each type that the route wants.
    events: Vec<IntCounter>,
    backend: [IntCounter; 4],
    durations: [Histogram; 4],
    /// The last request of each stage that is recorded in a trace.
    exemplars: [Mutex<Option<Exemplar>>; 4],
    bytes: IntCounter,
}

const OBSERVABLE: [(Observable, &str); 6] = [
    (Observable::Https, "https"),
    (Observable::Allow, "allow"),
    (Observable::RateLimit, "rate_limit"),
    (Observable::Shape, "shape"),
    (Observable::Signature, "signature"),
    (Observable::Duplicates, "duplicates"),
];

/// The name of a check, as in `observe:` and the `check` label.
pub fn check_name(check: Observable) -> &'static str {
    OBSERVABLE.iter().find(|(known, _)| *known == check).map_or("", |(_, name)| name)
}

impl Metrics {
    /// A fresh registry.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let requests = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_requests_total",
                "Requests by route and outcome: forwarded, queued, handshake, ignored, or the reason of the refusal. Empty route: none was found."
            ),
            &["route", "outcome"]
        ));
        let observed = register!(IntCounterVec::new(
            Opts::new("hookmoat_observed_total", "Requests that a check in observe mode would have refused."),
            &["route", "check", "reason"]
        ));
        let events = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_events_total",
                "Authentic events by the entry of the route's `events` that they fit. Routes without the list have none."
            ),
            &["route", "event"]
        ));
        let backend = register!(IntCounterVec::new(
            Opts::new("hookmoat_backend_responses_total", "Answers of the backend by class of status."),
            &["route", "code"]
        ));
        let duration = register!(HistogramVec::new(
            HistogramOpts::new(
                "hookmoat_request_duration_seconds",
                "Time of a request by stage: body (waiting for the sender), checks, backend, total."
            )
            .buckets(LATENCY.to_vec()),
            &["route", "stage"]
        ));
        let bytes = register!(IntCounterVec::new(
            Opts::new("hookmoat_request_body_bytes_total", "Bytes of request bodies read."),
            &["route"]
        ));
        let route_ready = register!(IntGaugeVec::new(
            Opts::new(
                "hookmoat_route_ready",
                "1 when the route has what it needs to judge requests: a usable secret, the sender's published networks; else 0."
            ),
            &["route"]
        ));
        let route_info = register!(IntGaugeVec::new(
            Opts::new("hookmoat_route_info", "1 for each route; the preset that it has is in the label."),
            &["route", "provider"]
        ));
        let config_info = register!(IntGaugeVec::new(
            Opts::new("hookmoat_config_info", "1 for the configuration in force; version is a digest of its text."),
            &["version"]
        ));
        let config_reloads = register!(IntCounterVec::new(
            Opts::new("hookmoat_config_reloads_total", "Reloads of the configuration by outcome: applied or refused."),
            &["outcome"]
        ));
        for outcome in OUTCOMES {
            config_reloads.with_label_values(&[outcome]);
        }
        let config_reload_ok = register!(IntGauge::new(
            "hookmoat_config_last_reload_successful",
            "0 while the files on disk hold a configuration that was refused, else 1."
        ));
        config_reload_ok.set(1);
        let certificate_reloads = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_certificate_reloads_total",
                "Exchanges of a listener's certificate by outcome: applied or refused."
            ),
            &["listener", "outcome"]
        ));
        let certificate_not_after = register!(GaugeVec::new(
            Opts::new(
                "hookmoat_certificate_not_after_seconds",
                "End of validity of a listener's certificate, in seconds since 1970."
            ),
            &["listener"]
        ));
        let build_info = register!(IntGaugeVec::new(
            Opts::new("hookmoat_build_info", "1; the version of the program is in the label."),
            &["version"]
        ));
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let carried = register!(IntCounterVec::new(
            Opts::new("hookmoat_carried_total", "Requests by the way they took through the program: lean or complete."),
            &["path"]
        ));
        let carried = [carried.with_label_values(&["complete"]), carried.with_label_values(&["lean"])];
        let in_flight = register!(IntGauge::new("hookmoat_requests_in_flight", "Requests being worked on."));
        let body_memory =
            register!(IntGauge::new("hookmoat_body_memory_bytes", "Bytes of request bodies held at this moment."));
        let seen_ids = register!(IntGauge::new(
            "hookmoat_seen_ids",
            "Keys held in the memory of events, in flight ones included."
        ));
        let buckets = register!(IntGauge::new("hookmoat_rate_limit_buckets", "Rate-limit buckets held."));
        let claims_lost = register!(IntCounter::new(
            "hookmoat_claims_lost_total",
            "Deliveries whose lease had ended before the backend's answer, so that a copy may have been delivered too."
        ));
        let state = Arc::new(StateMetrics::new(&registry, claims_lost.clone())?);
        let config_loaded = register!(Gauge::new(
            "hookmoat_config_loaded_timestamp_seconds",
            "When the configuration in force was loaded, in seconds since 1970."
        ));
        let fetch = FetchMetrics::new(&registry)?;
        let connections = ConnectionMetrics::new(&registry)?;
        let queues = super::queues::QueueMetrics::new(&registry)?;
        let traces = TraceMetrics::new(&registry)?;
        Ok(Self {
            queues,
            connections,
            fetch,
            traces,
            registry,
            requests,
            observed,
            events,
            backend,
            duration,
            bytes,
            route_ready,
            route_info,
            config_info,
            config_reloads,
            config_reload_ok,
            certificate_reloads,
            certificate_not_after,
            carried,
            in_flight,
            body_memory,
            seen_ids,
            buckets,
            claims_lost,
            state,
            config_loaded,
            routes: RwLock::default(),
            none: std::sync::OnceLock::new(),
        })
    }

    fn make<'t>(&self, route: &str, types: impl Iterator<Item = &'t Pattern>) -> RouteMetrics {
        let stage = |stage| self.duration.with_label_values(&[route, stage]);
        let code = |code| self.backend.with_label_values(&[route, code]);
        RouteMetrics {
            refused: Reason::ALL
                .iter()
                .map(|reason| self.requests.with_label_values(&[route, reason.label()]))
                .collect(),
            forwarded: self.requests.with_label_values(&[route, "forwarded"]),
            answered: How::ALL.map(|how| self.requests.with_label_values(&[route, how.label()])),
            events: types.map(|kind| self.events.with_label_values(&[route, kind.text()])).collect(),
            backend: [code("2xx"), code("3xx"), code("4xx"), code("5xx")],
            durations: STAGES.map(stage),
            exemplars: Default::default(),
            bytes: self.bytes.with_label_values(&[route]),
        }
    }

    /// Makes the series of a policy's routes, and its gauges.
    pub fn install(&self, policy: &Policy, unix_seconds: f64) {
        self.config_info.reset();
        self.config_info.with_label_values(&[&policy.version]).set(1);
        self.config_loaded.set(unix_seconds);
        self.route_info.reset();
        let mut routes = self.routes.write();
        for (_, route) in policy.routes.iter() {
            let provider = route.provider.as_deref().unwrap_or_default();
            self.route_info.with_label_values(&[&route.name, provider]).set(1);
            let types = || route.event_types.wanted.iter().flat_map(Patterns::iter);
            let count = types().count();
            // A route whose types have changed gets other counters; the series stay.
            if routes.get(&route.name).is_none_or(|known| known.events.len() != count || count > 0) {
                routes.insert(route.name.clone(), Arc::new(self.make(&route.name, types())));
            }
        }
    }

    /// Notes which routes there are, and whether each has a secret that counts now, or needs none. Routes that a reload
    /// took away must not look ready any more.
    pub fn ready<'r>(&self, routes: impl Iterator<Item = (&'r str, bool)>) {
        self.route_ready.reset();
        for (route, ready) in routes {
            self.route_ready.with_label_values(&[route]).set(i64::from(ready));
        }
    }

    /// The counters of a route; those of "no route" for an unknown name.
    pub fn route(&self, name: Option<&str>) -> Arc<RouteMetrics> {
        name.and_then(|name| self.routes.read().get(name).cloned())
            .unwrap_or_else(|| self.none.get_or_init(|| Arc::new(self.make(NO_ROUTE, std::iter::empty()))).clone())
    }

    /// Counts a reload: was the new configuration taken over?
    pub fn reloaded(&self, applied: bool) {
        self.config_reloads.with_label_values(&[OUTCOMES[usize::from(!applied)]]).inc();
        self.config_reload_ok.set(i64::from(applied));
    }

    /// Counts an attempt to exchange a listener's certificate.
    pub fn certificate_renewed(&self, listener: &str, applied: bool) {
        self.certificate_reloads.with_label_values(&[listener, OUTCOMES[usize::from(!applied)]]).inc();
    }

    /// Notes the end of validity of a listener's certificate.
    pub fn certificate(&self, listener: &str, not_after_unix: f64) {
        self.certificate_not_after.with_label_values(&[listener]).set(not_after_unix);
    }

    /// Counts what a check in observe mode would have refused.
    pub fn observed(&self, route: &str, check: Observable, reason: Reason) {
        self.observed.with_label_values(&[route, check_name(check), reason.label()]).inc();
    }

    /// Counts a request by the way it takes.
    pub fn carried(&self, lean: bool) {
        self.carried[usize::from(lean)].inc();
    }

    /// All series at this moment.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// The same in the format that knows exemplars.
    pub fn render_openmetrics(&self, families: &[MetricFamily]) -> String {
        openmetrics::render(families, &|name, metric| {
            let label =
                |wanted: &str| metric.get_label().iter().find(|pair| pair.name() == wanted).map(|pair| pair.value());
            let stage = STAGES.iter().position(|stage| Some(*stage) == label("stage")).filter(|_| name == DURATION)?;
            let route = label("route").filter(|route| !route.is_empty());
            self.route(route).exemplars.get(stage)?.lock().clone()
        })
    }

    /// The text exposition format.
    pub fn render(families: &[MetricFamily]) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(families, &mut out) {
            tracing::error!(target: "hookmoat", %error, "metrics cannot be written");
        }
        out
    }
}

impl RouteMetrics {
    /// Counts a request that reached the backend and got its answer.
    pub fn forwarded(&self, status: u16) {
        self.forwarded.inc();
        self.backend(status);
    }

    /// Counts a request that was answered here.
    pub fn answered(&self, how: How) {
        if let Some(counter) = self.answered.get(how as usize) {
            counter.inc();
        }
    }

    /// Counts an event by its place in the route's list of types.
    pub fn event(&self, wanted: Option<usize>) {
        if let Some(counter) = wanted.and_then(|index| self.events.get(index)) {
            counter.inc();
        }
    }

    /// Counts an answer of the backend.
    pub fn backend(&self, status: u16) {
        let class = usize::from((status / 100).clamp(2, 5) - 2);
        self.backend[class].inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refused.get(reason as usize) {
            counter.inc();
        }
    }

    /// Counts body bytes read.
    pub fn bytes(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    /// Keeps a request that is recorded in a trace as the example of its stages, in their order.
    pub fn exemplify(&self, times: [Option<Duration>; 4], trace_id: &str, at: Duration) {
        for (exemplar, time) in self.exemplars.iter().zip(times) {
            if let Some(time) = time {
                *exemplar.lock() = Some(Exemplar { trace_id: trace_id.into(), value: time.as_secs_f64(), at });
            }
        }
    }

    /// Notes the time that a stage took.
    pub fn took(&self, stage: Stage, time: Duration) {
        self.durations[stage as usize].observe(time.as_secs_f64());
    }
}
