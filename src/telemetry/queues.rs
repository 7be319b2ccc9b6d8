//! Metrics and log lines of queues and background delivery.

use crate::delivery::plan::Met;
use crate::policy::LogRequests;
use crate::port::inspect::EventState;
use crate::port::queue::{DeadReason, Event, Settlement, Stats};
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use std::time::Duration;

/// Upper bounds of the time that making an event durable takes, in seconds.
const ENQUEUE: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
/// Upper bounds of the time from arrival to the backend's 2xx, in seconds.
const DELIVERY: &[f64] = &[0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// What is counted of queues and deliveries.
pub struct QueueMetrics {
    events: IntGaugeVec,
    bytes: IntGaugeVec,
    oldest: GaugeVec,
    up: IntGaugeVec,
    enqueue: HistogramVec,
    attempts: IntCounterVec,
    attempt_duration: HistogramVec,
    delivered: HistogramVec,
    retries: IntCounterVec,
    dead: IntCounterVec,
    circuit: IntGaugeVec,
    /// Attempts whose end could not be written down in time: such events may be delivered once more.
    pub unsettled: IntCounter,
    late: IntCounterVec,
    /// Attempts that run now.
    pub running: IntGauge,
}

impl QueueMetrics {
    pub(super) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let seconds = |name, help, bounds: &[f64]| HistogramOpts::new(name, help).buckets(bounds.to_vec());
        Ok(Self {
            events: register!(IntGaugeVec::new(
                Opts::new("hookmoat_queue_events", "Events in a queue by state: ready, scheduled, in_flight, dead."),
                &["queue", "state"]
            )),
            bytes: register!(IntGaugeVec::new(
                Opts::new("hookmoat_queue_bytes", "Bytes of the events in a queue."),
                &["queue"]
            )),
            oldest: register!(GaugeVec::new(
                Opts::new(
                    "hookmoat_queue_oldest_seconds",
                    "Age of the oldest event that is neither delivered nor dead."
                ),
                &["queue"]
            )),
            up: register!(IntGaugeVec::new(
                Opts::new("hookmoat_queue_up", "1 while a queue can make events durable, else 0."),
                &["queue"]
            )),
            enqueue: register!(HistogramVec::new(
                seconds("hookmoat_enqueue_duration_seconds", "Time until an event was durable.", ENQUEUE),
                &["queue"]
            )),
            attempts: register!(IntCounterVec::new(
                Opts::new(
                    "hookmoat_delivery_attempts_total",
                    "Attempts of background delivery by what they met: 2xx, 3xx, 4xx, 5xx, unreachable, broken, timeout."
                ),
                &["route", "result"]
            )),
            attempt_duration: register!(HistogramVec::new(
                seconds("hookmoat_delivery_attempt_duration_seconds", "Time of one attempt.", super::metrics::LATENCY),
                &["route"]
            )),
            delivered: register!(HistogramVec::new(
                seconds("hookmoat_delivered_seconds", "Time from an event's arrival to the backend's 2xx.", DELIVERY),
                &["route"]
            )),
            retries: register!(IntCounterVec::new(
                Opts::new("hookmoat_delivery_retries_total", "Attempts that failed and will be followed by another."),
                &["route"]
            )),
            dead: register!(IntCounterVec::new(
                Opts::new(
                    "hookmoat_dead_letters_total",
                    "Events given up by reason: max_attempts, max_age, rejected, no_route, malformed."
                ),
                &["route", "reason"]
            )),
            circuit: register!(IntGaugeVec::new(
                Opts::new("hookmoat_upstream_down", "1 while a backend counts as down and is only probed."),
                &["upstream"]
            )),
            unsettled: register!(IntCounter::new(
                "hookmoat_deliveries_unsettled_total",
                "Attempts whose end could not be written down: such events may be delivered once more."
            )),
            late: register!(IntCounterVec::new(
                Opts::new(
                    "hookmoat_deadline_queued_total",
                    "Events that were queued because the backend did not answer by the sender's deadline."
                ),
                &["route"]
            )),
            running: register!(IntGauge::new(
                "hookmoat_deliveries_running",
                "Attempts of background delivery under way."
            )),
        })
    }

    /// Shows what a queue holds.
    pub(crate) fn show(&self, queue: &str, stats: &Stats, up: bool) {
        let number = |n: Option<u64>| n.map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        let states = [
            (EventState::Ready, stats.ready),
            (EventState::Scheduled, stats.scheduled),
            (EventState::InFlight, stats.in_flight),
            (EventState::Dead, stats.dead),
        ];
        for (state, count) in states {
            if let Some(count) = number(count) {
                self.events.with_label_values(&[queue, state.label()]).set(count);
            }
        }
        if let Some(bytes) = number(stats.bytes) {
            self.bytes.with_label_values(&[queue]).set(bytes);
        }
        self.oldest.with_label_values(&[queue]).set(stats.oldest.unwrap_or_default().as_secs_f64());
        self.up(queue, up);
    }

    /// Can it store events?
    pub(crate) fn up(&self, queue: &str, up: bool) {
        self.up.with_label_values(&[queue]).set(i64::from(up));
    }

    /// Is a backend down?
    pub(crate) fn circuit(&self, upstream: &str, down: bool) {
        self.circuit.with_label_values(&[upstream]).set(i64::from(down));
    }

    /// Counts an event that was queued because its backend is slow.
    pub(crate) fn late(&self, route: &str) {
        self.late.with_label_values(&[route]).inc();
    }

    /// Notes how long it took until an event was durable.
    pub(crate) fn enqueued(&self, queue: &str, took: Duration) {
        self.enqueue.with_label_values(&[queue]).observe(took.as_secs_f64());
    }

    fn dead(&self, route: &str, reason: DeadReason) {
        self.dead.with_label_values(&[route, reason.label()]).inc();
    }
}

/// What came of taking an event from its queue.
pub(crate) struct DeliveryEvent<'a> {
    /// The trace that it belongs to, where traces are recorded.
    pub(crate) trace_id: Option<&'a str>,
    pub(crate) event: &'a Event,
    /// The event's route, if it is one of the configuration.
    pub(crate) route: Option<&'a str>,
    pub(crate) queue: &'a str,
    pub(crate) attempt: u32,
    /// What the attempt met; `None`: there was none.
    pub(crate) met: Option<(&'a Met, Duration)>,
    pub(crate) settlement: &'a Settlement,
    /// From its arrival.
    pub(crate) age: Duration,
}

impl DeliveryEvent<'_> {
    /// Moves the counters and writes the line.
    pub(crate) fn emit(&self, metrics: &QueueMetrics, log: LogRequests) {
        let route = self.route.unwrap_or_default();
        if let Some((met, took)) = self.met {
            metrics.attempts.with_label_values(&[route, met.label()]).inc();
            metrics.attempt_duration.with_label_values(&[route]).observe(took.as_secs_f64());
        }
        let (outcome, reason, next, failure) = match self.settlement {
            Settlement::Done => {
                metrics.delivered.with_label_values(&[route]).observe(self.age.as_secs_f64());
                ("delivered", None, None, None)
            }
            Settlement::Retry { after, failure } => {
                metrics.retries.with_label_values(&[route]).inc();
                ("retry", None, Some(*after), Some(failure))
            }
            Settlement::Dead { reason, failure } => {
                metrics.dead(route, *reason);
                ("dead", Some(reason.label()), None, failure.as_ref())
            }
            // Nothing happened.
            Settlement::Release { .. } => return,
        };
        let wanted = match log {
            LogRequests::All => true,
            LogRequests::Refused => outcome != "delivered",
            LogRequests::Off => outcome == "dead",
        };
        if !wanted {
            return;
        }
        let status = match self.met {
            Some((Met::Answer(status, _), _)) => Some(*status),
            _ => None,
        };
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        macro_rules! write {
            ($level:expr) => {
                tracing::event!(
                    target: "hookmoat::delivery",
                    $level,
                    request_id = &*self.event.request_id,
                    trace_id = self.trace_id,
                    uid = %self.event.uid,
                    outcome,
                    reason,
                    status,
                    queue = self.queue,
                    route = &*self.event.route,
                    event_id = self.event.event_id.as_deref(),
                    attempt = self.attempt,
                    backend_ms = self.met.map(|(_, took)| milliseconds(took)),
                    age_ms = milliseconds(self.age),
                    next_ms = next.map(milliseconds),
                    detail = failure.map(|failure| &*failure.message),
                )
            };
        }
        match outcome {
            "delivered" => write!(tracing::Level::INFO),
            "retry" => write!(tracing::Level::WARN),
            _ => write!(tracing::Level::ERROR),
        }
    }
}
