//! Looking into a queue: what waits, what was given up; giving it another chance, or forgetting it.
//!
//! SQLite shows everything. Brokers show their dead letters alone, and count the rest: a queue at a broker hands out, it
//! is no table. [`Reach`] says so in words.

use super::queue::{Event, EventUid, Failure, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Dead letters of a broker that are looked at in one go at most; whatever is looked at is held until the end.
pub const LOOKED_AT: usize = 20_000;

/// Which stored events are meant: those that fit every field that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// This one alone.
    pub uid: Option<EventUid>,
    /// Of this route.
    pub route: Option<Box<str>>,
    /// From this preset.
    pub provider: Option<Box<str>>,
    /// Of this type, as the sender calls it.
    pub event_type: Option<Box<str>>,
    /// With this sender's ID.
    pub event_id: Option<Box<str>>,
    /// In this state.
    pub state: Option<EventState>,
    /// Accepted at least so long ago.
    pub older_than: Option<Duration>,
    /// Accepted at most so long ago.
    pub newer_than: Option<Duration>,
}

/// Where a stored event is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Due now.
    Ready,
    /// Waits for its time.
    Scheduled,
    /// Taken by a worker.
    InFlight,
    /// Given up.
    Dead,
}

/// A stored event as it stands in a list. Times are since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its name. Messages that somebody else put into a broker's queue have one made up.
    pub uid: EventUid,
    /// Its route.
    pub route: Box<str>,
    /// The route's preset.
    pub provider: Option<Box<str>>,
    /// The sender's ID for it.
    pub event_id: Option<Box<str>>,
    /// The sender's word for what happened.
    pub event_type: Option<Box<str>>,
    /// Where it is.
    pub state: EventState,
    /// When it was accepted.
    pub received: Duration,
    /// When it is due; when its lease ends; when it was given up.
    pub due: Duration,
    /// Attempts so far.
    pub attempts: u32,
    /// Length of the body in bytes.
    pub body_bytes: u64,
    /// What the last attempt met.
    pub failure: Option<Failure>,
    /// Why it was given up: a [`DeadReason::label`](super::queue::DeadReason::label), or the broker's own word.
    pub dead: Option<Box<str>>,
}

/// Events that fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Oldest first.
    pub events: Vec<Summary>,
    /// Was everything looked at? A broker's dead letters are, up to [`LOOKED_AT`].
    pub complete: bool,
}

/// What can be seen and done in an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The engine, as the configuration calls it.
    pub engine: &'static str,
    /// States whose events can be listed.
    pub states: &'static [EventState],
    /// What cannot be done, in words.
    pub cannot: &'static [&'static str],
}

/// What is done to the events that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// What.
    pub action: Action,
    /// To which.
    pub filter: Filter,
    /// Only count them.
    pub dry_run: bool,
}

/// See [`Sweep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Dead letters become due now, with a fresh count of attempts. They keep their IDs, and nobody refuses them as
    /// duplicates: they come from the queue, not from a sender.
    Replay,
    /// Events that nobody is delivering are forgotten.
    Purge,
}

/// How far a sweep is. Read while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    looked: AtomicU64,
    matched: AtomicU64,
}

/// Looking into a queue and moving what is there.
#[async_trait]
pub trait Inspect: Send + Sync {
    /// What it can do.
    fn reach(&self) -> Reach;

    /// Events that fit, in the order of arrival, at most `limit`, behind `after`.
    async fn list(
        &self,
        filter: &Filter,
        after: Option<EventUid>,
        limit: usize,
        now: Now,
    ) -> Result<Listing, QueueError>;

    /// All of one event.
    async fn show(&self, uid: EventUid, now: Now) -> Result<Option<(Summary, Event)>, QueueError>;

    /// Does something to all events that fit. May end at any moment, by an error or with its process: what was moved by
    /// then is moved, nothing is lost, and at a broker the event it was at may be there twice.
    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError>;
}

impl EventState {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Ready, Self::Scheduled, Self::InFlight, Self::Dead];

    /// As shown and given on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Scheduled => "scheduled",
            Self::InFlight => "in_flight",
            Self::Dead => "dead",
        }
    }
}

impl Action {
    /// As given on the command line and in a path.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Purge => "purge",
        }
    }
}

impl Filter {
    /// For engines that cannot search by themselves.
    pub fn fits(&self, summary: &Summary, now: Now) -> bool {
        let same = |wanted: &Option<Box<str>>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        let age = now.unix.saturating_sub(summary.received);
        self.uid.is_none_or(|uid| uid == summary.uid)
            && same(&self.route, Some(&summary.route))
            && same(&self.provider, summary.provider.as_deref())
            && same(&self.event_type, summary.event_type.as_deref())
            && same(&self.event_id, summary.event_id.as_deref())
            && self.state.is_none_or(|state| state == summary.state)
            && self.older_than.is_none_or(|least| age >= least)
            && self.newer_than.is_none_or(|most| age <= most)
    }
}

impl Reach {
    /// Brokers: dead letters and nothing else.
    pub(super) fn only_dead(&self, filter: &Filter) -> Result<(), QueueError> {
        match filter.state {
            None | Some(EventState::Dead) => Ok(()),
            Some(state) => Err(QueueError::Unsupported(format!(
                "{} shows dead letters alone: events that are {} can be counted (`stats`), not listed or purged",
                self.engine,
                state.label()
            ))),
        }
    }
}

impl Summary {
    /// Of a broker's dead letter.
    pub(super) fn dead(
        event: &Event,
        died: Duration,
        attempts: u32,
        failure: Option<Failure>,
        dead: Option<Box<str>>,
    ) -> Self {
        Self {
            uid: event.uid,
            route: event.route.clone(),
            provider: event.provider.clone(),
            event_id: event.event_id.clone(),
            event_type: event.event_type.clone(),
            state: EventState::Dead,
            received: event.received,
            due: died,
            attempts,
            body_bytes: event.body.len() as u64,
            failure,
            dead,
        }
    }
}

impl Event {
    /// A message of a broker that is not ours, to be shown. Its name comes from the parts given, so that it is the same
    /// whenever it is looked at.
    pub(super) fn foreign(parts: &[&[u8]], received: Duration, body: Bytes) -> Self {
        let mut hash = Sha256::new();
        parts.iter().for_each(|part| hash.update(part));
        let mut uid = EventUid::default();
        uid.0.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self {
            uid,
            route: "".into(),
            provider: None,
            event_id: None,
            event_type: None,
            received,
            request_id: "".into(),
            client: None,
            secure: false,
            verified: false,
            order: None,
            lane: None,
            method: "".into(),
            path: "".into(),
            query: None,
            host: "".into(),
            headers: Vec::new(),
            body,
        }
    }
}

impl Progress {
    /// Events looked at so far.
    pub fn looked(&self) -> u64 {
        self.looked.load(Ordering::Relaxed)
    }

    /// Those that fitted, and were changed unless it is a dry run.
    pub fn matched(&self) -> u64 {
        self.matched.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, looked: u64, matched: u64) {
        self.looked.fetch_add(looked, Ordering::Relaxed);
        self.matched.fetch_add(matched, Ordering::Relaxed);
    }
}

/// The first events behind a certain one, out of many that come in any order.
pub(super) struct Page {
    after: Option<EventUid>,
    limit: usize,
    found: BTreeMap<EventUid, Summary>,
}

impl Page {
    pub(super) fn new(after: Option<EventUid>, limit: usize) -> Self {
        Self { after, limit, found: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, summary: Summary) {
        if self.after.is_none_or(|after| summary.uid > after) {
            self.found.insert(summary.uid, summary);
            if self.found.len() > self.limit {
                self.found.pop_last();
            }
        }
    }

    pub(super) fn listing(self, complete: bool) -> Listing {
        Listing { events: self.found.into_values().collect(), complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(uid: u8) -> Summary {
        Summary {
            uid: EventUid([uid; 16]),
            route: "r".into(),
            provider: Some("github".into()),
            event_id: Some("e".into()),
            event_type: None,
            state: EventState::Dead,
            received: Duration::from_secs(1_000),
            due: Duration::from_secs(1_100),
            attempts: 3,
            body_bytes: 7,
            failure: None,
            dead: Some("rejected".into()),
        }
    }

    #[test]
    fn an_event_fits_when_every_field_does() {
        let now = Now::at_unix(1_060);
        let minute = Duration::from_secs(60);
        let fits = |filter: Filter| filter.fits(&summary(1), now);
        assert!(fits(Filter::default()));
        assert!(fits(Filter { route: Some("r".into()), state: Some(EventState::Dead), ..Filter::default() }));
        assert!(fits(Filter { older_than: Some(minute), newer_than: Some(minute), ..Filter::default() }));
        let second = Duration::from_secs(1);
        for other in [
            Filter { uid: Some(EventUid([2; 16])), ..Filter::default() },
            Filter { route: Some("s".into()), ..Filter::default() },
            Filter { provider: Some("gitlab".into()), ..Filter::default() },
            Filter { event_type: Some("push".into()), ..Filter::default() },
            Filter { event_id: Some("f".into()), ..Filter::default() },
            Filter { state: Some(EventState::Ready), ..Filter::default() },
            Filter { older_than: Some(minute + second), ..Filter::default() },
            Filter { newer_than: Some(minute - second), ..Filter::default() },
        ] {
            assert!(!fits(other.clone()), "{other:?}");
        }
    }

    #[test]
    fn a_page_holds_the_oldest_behind_the_one_before() {
        let mut page = Page::new(Some(EventUid([2; 16])), 2);
        [9, 1, 5, 2, 3].into_iter().for_each(|uid| page.add(summary(uid)));
        let found: Vec<_> = page.listing(true).events.iter().map(|summary| summary.uid.0[0]).collect();
        assert_eq!(found, [3, 5]);
    }
}
