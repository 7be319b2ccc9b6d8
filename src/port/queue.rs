//! A queue of verified events: what is stored here was acknowledged, and ends delivered or among the dead letters.
//!
//! * `enqueue`: returns once the event is durable, and not before; an error means that nothing was stored, or that it is
//!   not known, so the sender gets no 2xx. An engine that shares its file with the memory of seen IDs claims the ID in
//!   the same transaction ([`Queue::remembers`]); for the others the pipeline claims first and settles after.
//! * `receive`: takes events that are due, each for the time of a lease. A lease that ends makes its event due again: a
//!   crashed worker delays a delivery no longer than that.
//! * `settle`: by the receipt's owner only. `Done` forgets the event, `Retry` makes it due later, `Dead` moves it to the
//!   dead letters with the reason, `Release` gives it back as if it had never been taken.
//! * nothing is dropped for want of room: a full queue says so before anybody was told a 2xx.
//!
//! `port::queue_contract` tells the same in tests; every engine runs them.

use crate::port::seen::{Keys, Terms};
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;

/// Names one stored event: unique, and in the order of arrival when compared (48 bits of milliseconds, then chance).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventUid(pub [u8; 16]);

/// A verified event as it waits for its delivery: the request as it came, and what the checks found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name in the queue.
    pub uid: EventUid,
    /// The route that took it. Its policy at the time of an attempt says how it is delivered.
    pub route: Box<str>,
    /// The route's preset.
    pub provider: Option<Box<str>>,
    /// The sender's ID for it, as text that is safe to log.
    pub event_id: Option<Box<str>>,
    /// The sender's word for what happened.
    pub event_type: Option<Box<str>>,
    /// When it was accepted, since 1970.
    pub received: Duration,
    /// Names the request in logs.
    pub request_id: Box<str>,
    /// Who sent it.
    pub client: Option<IpAddr>,
    /// Did it come over HTTPS?
    pub secure: bool,
    /// Was its signature verified (not merely observed, not switched off)?
    pub verified: bool,
    /// Events of one route with the same key are delivered one after the other, in the order of arrival.
    pub order: Option<Box<str>>,
    /// The request's method.
    pub method: Box<str>,
    /// Path as it came.
    pub path: Box<str>,
    /// Query as it came.
    pub query: Option<Box<str>>,
    /// Host as it came.
    pub host: Box<str>,
    /// Every header field, in order.
    pub headers: Vec<(Box<str>, Box<[u8]>)>,
    /// The exact bytes that were verified.
    pub body: Bytes,
}

/// The names under which an event is remembered in the step that stores it.
#[derive(Clone, Copy, Debug)]
pub struct Remember<'a> {
    /// Its names.
    pub keys: &'a Keys,
    /// For how long.
    pub terms: Terms,
}

/// The answer to `enqueue`.
#[derive(Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// Durable. With a hold: the right to settle it.
    Stored(Option<Receipt>),
    /// The ID is remembered; nothing was stored.
    Duplicate,
    /// The same signed content is remembered under another ID; nothing was stored.
    Replayed,
    /// A copy is being delivered now by somebody who did not store it; nothing was stored.
    InFlight,
    /// No room for the ID, and nothing may be forgotten yet; nothing was stored.
    SeenIdsFull,
}

/// The right to settle a delivery, until its lease ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Of this event.
    pub uid: EventUid,
    /// Tells this taking of the event from any other. Its meaning is the engine's.
    pub tag: Box<str>,
}

/// An event that was taken, to be attempted.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What is delivered.
    pub event: Event,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// For `settle` and `extend`.
    pub receipt: Receipt,
}

/// What the last attempt met, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Status of the backend's answer, if there was one.
    pub status: Option<u16>,
    /// In words, short, without secrets: `backend answered 503`, `connection refused`.
    pub message: Box<str>,
}

/// What becomes of a taken event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The backend took it: forget it.
    Done,
    /// Due again after this time.
    Retry {
        /// From now.
        after: Duration,
        /// What happened.
        failure: Failure,
    },
    /// To the dead letters.
    Dead {
        /// Closed set of words: `max_attempts`, `max_age`, `rejected`, `no_route`.
        reason: &'static str,
        /// What happened last.
        failure: Failure,
    },
    /// Never attempted: due at once, the attempt does not count.
    Release,
}

/// Why a queue did not do what it was asked. Nobody may be told a 2xx.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// A bound of rows, bytes or free disk is reached.
    #[error("queue full: {0}")]
    Full(String),
    /// This event is larger than the engine can hold.
    #[error("event too large for the queue: {0}")]
    TooLarge(String),
    /// Broker away, disk failing, time over.
    #[error("queue unavailable: {0}")]
    Unavailable(String),
}

/// What a queue holds, for gauges. A number that an engine cannot know is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Due now.
    pub ready: Option<u64>,
    /// Waiting for their time.
    pub scheduled: Option<u64>,
    /// Taken by a worker.
    pub in_flight: Option<u64>,
    /// Dead letters.
    pub dead: Option<u64>,
    /// Bytes of all of them.
    pub bytes: Option<u64>,
    /// Age of the oldest that is not dead.
    pub oldest: Option<Duration>,
}

/// A durable queue. Connects at start, recovers inside: callers never see a connection.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Makes an event durable. With `hold`, nobody else takes it for this long, and the caller gets a receipt.
    async fn enqueue(
        &self,
        event: &Event,
        remember: Option<Remember<'_>>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError>;

    /// Does `enqueue` claim and remember the ID in the same transaction, in the very store that the route's IDs are in?
    fn remembers(&self) -> bool {
        false
    }

    /// Takes up to `max` events that are due, each for `lease`. Waits up to `patience` for the first one.
    async fn receive(
        &self,
        max: usize,
        lease: Duration,
        patience: Duration,
        now: Now,
    ) -> Result<Vec<Delivery>, QueueError>;

    /// Lengthens a lease, counted from now. False: it had ended, and the event may be somebody else's.
    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError>;

    /// Ends a taking. False: its lease had ended, and nothing was changed.
    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError>;

    /// What it holds.
    async fn stats(&self, now: Now) -> Result<Stats, QueueError>;

    /// Why it cannot store anything at this moment, for readiness. Answers at once, from what is known.
    fn trouble(&self) -> Option<String>;
}
