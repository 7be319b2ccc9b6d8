//! The carrier: pingora's server, listeners, TLS and HTTP towards senders, and a small HTTP/1.1 client towards
//! backends. The only room that knows pingora.

mod admin;
mod admin_access;
mod answer;
mod body;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod both;
mod buffer;
mod carrier;
mod diagnoses;
mod door;
mod edge;
mod exchange;
mod export;
pub(crate) mod forward;
mod gate;
mod handover;
pub(crate) mod http1;
mod http2;
mod keep;
pub(crate) mod live;
mod operator;
mod oversight;
mod places;
pub(crate) mod proxy_protocol;
mod quiet;
mod reload;
mod server;
mod socket;
mod status;
pub(crate) mod timer;
mod tls;
pub(crate) mod upstream;
pub(crate) mod wire;

/// Parts of the hot path for the counting of instructions; no interface.
#[doc(hidden)]
pub mod parts;

pub use server::{ServeError, look_at_certificates, serve};

use crate::delivery::Queues;
use crate::delivery::desk::Desk;
use crate::fetch::Fetching;
use crate::policy::{Authentication, Route};
use crate::request::Now;
use crate::runtime::State;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::recent::Recent;
use crate::telemetry::trace::Tracer;
use arc_swap::ArcSwap;
use body::BodyMemory;
use live::Live;
use parking_lot::Mutex;
use prometheus::proto::MetricFamily;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// What all connections share. Outlives a reload.
pub struct Shared {
    me: Weak<Self>,
    live: ArcSwap<Live>,
    state: State,
    queues: Queues,
    desk: Desk,
    metrics: Metrics,
    fetching: Fetching,
    body_memory: BodyMemory,
    places: Arc<places::Places>,
    quiet: quiet::Quiet,
    /// The same of the admin port.
    admin_places: Arc<places::Places>,
    admin_quiet: quiet::Quiet,
    /// Connections that the limit of open files leaves room for.
    most_connections: usize,
    in_flight: AtomicUsize,
    listening: AtomicBool,
    /// Is anybody let in? Not while a process that is to be taken over from goes on.
    opened: tokio::sync::watch::Sender<bool>,
    draining: AtomicBool,
    /// A next process serves from the same sockets.
    taken_over: AtomicBool,
    /// The end is near for another reason than a signal.
    ending: tokio::sync::Notify,
    request_ids: RequestIds,
    diagnoses: diagnoses::Diagnoses,
    /// `None`: nothing is traced.
    tracer: Option<Tracer>,
    /// `None`: there is no status page.
    recent: Option<Recent>,
}

impl Shared {
    /// Itself, for what outlives a request.
    fn arc(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }

    /// The policy in force.
    pub(crate) fn live(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// The counters.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What makes spans, if anything does.
    pub(crate) fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// The queues, and what deliveries share.
    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Is the process on its way out, though it still serves? Then no connection is kept.
    fn is_leaving(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    fn not_ready(&self) -> Option<String> {
        if self.is_leaving() {
            return Some("draining".into());
        }
        if !self.listening.load(Ordering::Relaxed) {
            return Some("listeners are not up yet".into());
        }
        if let Some(why) = self.state.not_ready() {
            return Some(why);
        }
        let policy = self.live.load();
        let now = Now::read();
        let troubled = self.queues.trouble();
        let missing: Vec<String> = policy
            .routes
            .iter()
            .filter_map(|(_, route)| Some(format!("route {} {}", route.name, lacks(route, now)?)))
            .chain(troubled)
            .collect();
        (!missing.is_empty()).then(|| missing.join("\n"))
    }

    fn render_metrics(&self) -> Vec<u8> {
        Metrics::render(&self.gather())
    }

    fn render_openmetrics(&self) -> String {
        self.metrics.render_openmetrics(&self.gather())
    }

    /// All metrics at this moment.
    fn gather(&self) -> Vec<MetricFamily> {
        // One after the other: what one has forgotten another must not bring back.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock();
        let (now, live) = (Now::read(), self.live.load());
        self.metrics.ready(live.routes.iter().map(|(_, route)| (&*route.name, lacks(route, now).is_none())));
        self.fetching.observe(now);
        let gauge = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(held) = self.state.seen.held() {
            self.metrics.seen_ids.set(gauge(held));
        }
        self.metrics.connections.open.set(gauge(self.places.open()));
        self.metrics.connections.max.set(gauge(live.connections.max.min(self.most_connections)));
        self.metrics.buckets.set(gauge(self.state.buckets.len()));
        self.metrics.body_memory.set(gauge(self.body_memory.held()));
        self.metrics.queues.running.set(gauge(self.queues.running()));
        for (upstream, down) in self.queues.circuits() {
            self.metrics.queues.circuit(&upstream, down);
        }
        self.metrics.gather()
    }

    /// May somebody who asks for this host look at the status page?
    fn is_for(&self, host: &str) -> bool {
        self.live.load().admin.is_none_or(|admin| !admin.ip().is_loopback()) || status::is_local_name(host)
    }
}

/// What a route would need to judge requests, and has not. The text follows its name.
fn lacks(route: &Route, now: Now) -> Option<String> {
    if let Some(what) = missing_secret(route, now) {
        return Some(format!("has no secret: {what}"));
    }
    if let Authentication::Signature(check) = &route.authentication
        && let Some(shelf) = check.shelves().find(|shelf| shelf.lacks(now))
    {
        return Some(format!("has no keys of {} yet", shelf.name));
    }
    let list = route.allow.published().iter().find(|list| list.current().is_none())?;
    Some(format!("has no list of the published addresses of {} yet", list.name))
}

/// Why nothing can be verified on a route: its secrets were never there, or time has passed them by.
fn missing_secret(route: &Route, now: Now) -> Option<&str> {
    match &route.authentication {
        Authentication::NoSecret(what) => Some(what),
        Authentication::Signature(check) if !check.has_active_secret(now) => Some("none of them is valid now"),
        _ => None,
    }
}

/// Names of requests: unique, short, and telling nothing.
struct RequestIds {
    seed: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new() -> Self {
        let seed = getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()));
        Self { seed, count: AtomicU64::new(0) }
    }

    fn next(&self) -> RequestId {
        // splitmix64 is a bijection: no two counts give one ID.
        let mut x =
            self.seed.wrapping_add(self.count.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mut text = [0; 16];
        let number = x ^ (x >> 31);
        let _ = hex::encode_to_slice(number.to_be_bytes(), &mut text);
        RequestId { number, text }
    }
}

/// Sixteen hexadecimal digits.
#[derive(Clone, Copy)]
struct RequestId {
    /// Uniform, for choosing some of many.
    number: u64,
    text: [u8; 16],
}

impl RequestId {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}
