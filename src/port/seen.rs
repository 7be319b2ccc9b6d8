//! The memory of events that were delivered, and of those on their way.
//!
//! An event is named by [`Keys`]: its ID and, where the ID is not covered by the signature, digests of what was signed.
//! Every key is in one of three states: absent, in flight (claimed, with a lease), done (remembered until it expires).
//!
//! * `claim`: all keys absent → all in flight, one token. Otherwise nothing changes and the answer says why: first what is
//!   final (the ID delivered: `Duplicate`; any content delivered: `Replayed`), then `InFlight`, then `Full`.
//! * `settle(Done)`: by the token's owner only; all its keys are remembered from now on.
//! * `settle(Failed)`: by the owner only; all its keys are absent again, so that a retry goes through (promise 4).
//! * a lease that ends makes its keys absent: a crashed owner blocks an event no longer than that. An owner that comes
//!   back later settles nothing, so a lease must be longer than the longest delivery.
//! * nothing is ever forgotten early for want of room: a store that is full says so.
//!
//! `port::contract` tells the same in tests; every implementation runs them.

use async_trait::async_trait;
use std::time::{Duration, Instant};

/// One namespaced, hashed name of an event. Made by `check::duplicate`; equal only for the same route and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 16]);

/// The names of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// From the event ID (or the body's digest where that is the ID).
    pub id: Key,
    /// From what was signed; empty where the signature covers the ID.
    pub content: Vec<Key>,
}

/// How long things last.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long an unsettled claim holds.
    pub lease: Duration,
    /// How long a delivered event is remembered, counted from its settlement.
    pub remember: Duration,
}

/// The right to deliver an event, until it is settled or its lease ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Token {
    /// What was claimed.
    pub keys: Keys,
    /// Tells this claim from any other of the same keys.
    pub nonce: u64,
    /// As given to `claim`.
    pub remember: Duration,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody had it: deliver and settle.
    New(Token),
    /// The ID was delivered before.
    Duplicate,
    /// The same signed content was delivered before, under another ID.
    Replayed,
    /// Somebody is delivering it now; ask [`SeenIds::wait`].
    InFlight,
    /// No room, and nothing may be forgotten yet.
    Full,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend took it.
    Done,
    /// Anything else.
    Failed,
}

/// The store cannot answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A memory of events. Time is an argument, so that every implementation can be tested without waiting.
#[async_trait]
pub trait SeenIds: Send + Sync + 'static {
    /// Claims all keys or none.
    async fn claim(&self, keys: &Keys, terms: Terms, now: Instant) -> Result<Claim, StoreError>;

    /// Ends a claim. Has no effect unless the token still owns its keys; says whether it did.
    async fn settle(&self, token: Token, outcome: Outcome, now: Instant) -> Result<bool, StoreError>;

    /// Gives a claim back without waiting for an answer: for a dropped request or a panic. Callable outside a runtime;
    /// a store that cannot do it at once does it soon, or leaves it to the lease.
    fn abandon(&self, token: Token);

    /// Waits until none of the keys is in flight any more (settled, abandoned, or its lease at an end), or until
    /// `patience` is over. True in the first case. Several may wake at once; a new `claim` then decides who goes next.
    async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError>;

    /// How many keys are held, for the gauge. May count expired ones that were not swept yet.
    fn len(&self) -> usize;

    /// Is nothing held?
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
