//! Queues, and how their events are delivered.

use crate::check::signature::StandardKey;
use crate::check::source::Source;
use crate::port::{rabbitmq, sqs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A durable queue. Fixed for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// As configured; a metric label.
    pub name: Arc<str>,
    /// Where events are kept.
    pub engine: QueueEngine,
    /// The name of the queue for events that are too large for this one.
    pub too_large: Option<Arc<str>>,
    /// What becomes of events whose route is gone.
    pub unknown_routes: UnknownRoutes,
    /// Is the process unready while this queue cannot store anything?
    pub fails_readiness: bool,
}

/// Where events are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueEngine {
    /// In a file.
    Sqlite(SqliteFile),
    /// At a RabbitMQ broker.
    RabbitMq(Box<rabbitmq::Settings>),
    /// In AWS SQS.
    Sqs(Box<sqs::Settings>),
}

/// A queue in a SQLite file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqliteFile {
    /// The file.
    pub path: PathBuf,
    /// Events held at most, dead letters included.
    pub max_events: u64,
    /// Their bytes.
    pub max_bytes: u64,
    /// Bytes that stay free on the file system.
    pub min_free: u64,
    /// Move a broken file out of the way instead of refusing to start.
    pub set_aside: bool,
}

/// What becomes of events whose route is not in the configuration any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownRoutes {
    /// They become dead letters.
    Dead,
    /// They wait for their route to come back.
    Keep,
}

/// A route's events are acknowledged once they are durable, and delivered in the background.
#[derive(Debug)]
pub struct Deliver {
    /// Index into [`super::Policy::queues`]; some branches have another.
    pub queue: usize,
    /// When the sender is answered.
    pub mode: DeliverMode,
    /// What events are delivered one after the other by.
    pub order: Option<OrderKey>,
    /// How attempts follow each other, and when they end.
    pub retry: Retry,
    /// Signs attempts anew, so that the backend verifies one scheme whatever the sender's is.
    pub sign: Option<StandardKey>,
}

/// When the sender is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliverMode {
    /// As soon as its event is durable.
    Queue,
    /// By the backend, unless that takes longer than this; then as soon as the event is durable.
    Deadline(Duration),
}

/// What events are delivered one after the other by.
#[derive(Clone, Debug)]
pub enum OrderKey {
    /// All of the route.
    Route,
    /// Those with the same value there. Without one: in no order.
    Value(Source),
}

/// How attempts follow each other, and when they end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// For one attempt, all of the exchange.
    pub timeout: Duration,
    /// Wait after the first failure; it doubles with each one.
    pub first: Duration,
    /// Longest wait.
    pub longest: Duration,
    /// A backend's Retry-After counts up to here.
    pub retry_after: Duration,
    /// Attempts altogether.
    pub max_attempts: u32,
    /// Age of an event, from its arrival, after which it is given up.
    pub max_age: Duration,
    /// Statuses that say that the backend will never take it.
    pub give_up: Statuses,
}

impl Default for Retry {
    fn default() -> Self {
        let hour = Duration::from_secs(3600);
        Self {
            timeout: Duration::from_secs(30),
            first: Duration::from_secs(2),
            longest: hour,
            retry_after: hour,
            max_attempts: 100,
            max_age: hour * 72,
            give_up: Statuses(vec![(410, 410), (413, 413), (415, 415), (422, 422)]),
        }
    }
}

/// A set of statuses, as ranges with both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(pub Vec<(u16, u16)>);

impl Statuses {
    /// Is it one of them?
    pub fn has(&self, status: u16) -> bool {
        self.0.iter().any(|(from, to)| (*from..=*to).contains(&status))
    }
}
