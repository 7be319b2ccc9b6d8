//! A queue of verified events: what is stored here was acknowledged, and ends delivered or among the dead letters.
//!
//! * `enqueue`: returns once the event is durable, and not before; an error means that nothing was stored, or that it is
//!   not known, so the sender gets no 2xx. The caller holds the claim on the event's ID. An engine that shares its file
//!   with the memory of IDs makes the claim final in the same transaction and says so ([`Enqueued::Stored`]); for the
//!   others the caller settles it afterwards.
//! * `receive`: takes events that are due, each for the time of a lease. A lease that ends makes its event due again: a
//!   crashed worker delays a delivery no longer than that.
//! * `settle`: by the receipt's owner only. `Done` forgets the event, `Retry` makes it due later, `Dead` moves it to the
//!   dead letters with the reason, `Release` gives it back as if it had never been taken.
//! * nothing is dropped for want of room: a full queue says so before anybody was told a 2xx.
//!
//! `port::queue_contract` tells the same in tests; every engine runs them.

use crate::port::inspect::Inspect;
use crate::port::seen::Token;
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;

/// Names one stored event: unique, and in the order of arrival when compared (48 bits of milliseconds, then chance).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// The upstream, where it is not the one that most events of the route go to. Engines that cannot choose need not
    /// keep it.
    pub lane: Option<Box<str>>,
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

/// The answer to `enqueue`.
#[derive(Debug, PartialEq, Eq)]
pub enum Enqueued {
    /// Durable.
    Stored {
        /// With a hold: the right to settle it.
        receipt: Option<Receipt>,
        /// The claim was made final in the same transaction.
        remembered: bool,
    },
    /// The event with this claim's ID waits here already; nothing was stored. Engines that cannot know store it again.
    Duplicate,
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
        /// Why it is given up.
        reason: DeadReason,
        /// What happened now; `None`: there was no attempt, what is stored of the last one stays.
        failure: Option<Failure>,
    },
    /// Not attempted: the taking does not count.
    Release {
        /// Due again after this time; an engine that cannot delay for free may make it due at once.
        after: Duration,
    },
}

/// Why an event is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadReason {
    /// As many attempts as the route allows.
    MaxAttempts,
    /// Older than the route allows.
    MaxAge,
    /// The backend's answer says that it will never take it.
    Rejected,
    /// Its route is not in the configuration any more, or does not deliver.
    NoRoute,
    /// It is no request that could have come in: somebody else wrote it into the queue, or changed it there.
    Malformed,
}

impl DeadReason {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::MaxAttempts, Self::MaxAge, Self::Rejected, Self::NoRoute, Self::Malformed];

    /// As stored, shown and counted. Stable.
    pub const fn label(self) -> &'static str {
        match self {
            Self::MaxAttempts => "max_attempts",
            Self::MaxAge => "max_age",
            Self::Rejected => "rejected",
            Self::NoRoute => "no_route",
            Self::Malformed => "malformed",
        }
    }
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
    /// The engine cannot do that, ever.
    #[error("{0}")]
    Unsupported(String),
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

/// Which events a worker can use at the moment.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    /// At most so many.
    pub max: usize,
    /// How long they are the worker's, from the moment they are taken.
    pub lease: Duration,
    /// How long the first one is waited for.
    pub patience: Duration,
    /// Of these routes. An engine that cannot choose ([`Abilities::selects`]) hands out what comes next.
    pub routes: Routes<'a>,
}

/// A choice of routes by name; events with a lane have a name of their own ([`lane_of`]).
#[derive(Clone, Copy, Debug)]
pub enum Routes<'a> {
    /// Every one, known or not.
    All,
    /// One of these.
    Of(&'a [Box<str>]),
    /// Any but these.
    Except(&'a [Box<str>]),
}

/// What an engine can do beyond keeping events safe. The configuration is checked against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// `receive` hands out only events of the routes that are wanted: a slow backend does not keep others waiting.
    pub selects: bool,
    /// Events of one route with the same order key are handed out one after the other, in the order of arrival.
    pub orders: bool,
    /// `enqueue` can hold an event for its caller.
    pub holds: bool,
    /// `receive` hands out events. Otherwise they stay for the users' own consumers.
    pub hands_out: bool,
}

/// A durable queue. Connects at start, recovers inside: callers never see a connection.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Makes an event durable. With `hold`, nobody else takes it for this long, and the caller gets a receipt; it counts
    /// as the first attempt. `claim` is the caller's claim on the event's ID, if its route remembers IDs.
    async fn enqueue(
        &self,
        event: &Event,
        claim: Option<&Token>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError>;

    /// Takes events that are due. Empty when none became due in time.
    async fn receive(&self, want: Want<'_>, now: Now) -> Result<Vec<Delivery>, QueueError>;

    /// Lengthens a lease, counted from now. False: it had ended, and the event may be somebody else's.
    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError>;

    /// Ends a taking. False: its lease had ended, and nothing was changed.
    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError>;

    /// What it holds.
    async fn stats(&self, now: Now) -> Result<Stats, QueueError>;

    /// Why it cannot store anything at this moment, for readiness. Answers at once, from what is known.
    fn trouble(&self) -> Option<String>;

    /// What it can do.
    fn abilities(&self) -> Abilities {
        Abilities::default()
    }

    /// Housekeeping, called every few seconds.
    async fn maintain(&self, _now: Now) {}

    /// Events of lanes that are not among these, after a reload, go with most of their route.
    async fn keep_lanes(&self, _lanes: &[Box<str>]) {}

    /// For people who look into it, where the engine can be looked into.
    fn inspect(&self) -> Option<&dyn Inspect> {
        None
    }
}

/// The name by which [`Routes`] chooses events of a route that go to another upstream than most. No name of a route or
/// upstream has a slash.
pub fn lane_of(route: &str, upstream: &str) -> Box<str> {
    format!("{route}/{upstream}").into()
}

impl EventUid {
    /// A new name for an event that arrives now.
    pub fn new(now: Now) -> Self {
        let millis = u64::try_from(now.unix.as_millis()).unwrap_or(u64::MAX);
        let mut bytes = [0; 16];
        // Without chance there are no names: zeros would meet the uniqueness of the store and be refused there.
        let _ = getrandom::fill(&mut bytes);
        for (to, from) in bytes.iter_mut().zip(millis.to_be_bytes().iter().skip(2)) {
            *to = *from;
        }
        Self(bytes)
    }

    /// Reads what [`std::fmt::Display`] wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl std::fmt::Display for EventUid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_the_order_of_arrival_and_can_be_read_back() {
        let (early, late) = (EventUid::new(Now::at_unix(1_000)), EventUid::new(Now::at_unix(1_001)));
        assert!(early < late);
        assert_ne!(EventUid::new(Now::at_unix(1_000)), early);
        assert_eq!(EventUid::parse(&early.to_string()), Some(early));
        assert_eq!(EventUid::parse("12"), None);
    }
}
