//! The memory of events that were delivered, and of those on their way.
//!
//! An event is named by [`Keys`]: its ID and, where the ID is not covered by the signature, digests of what was signed.
//! Every key is in one of three states, and only these moves exist:
//!
//! ```text
//!              claim (anybody, all keys absent)          settle(Done) (owner)
//!   ┌────────┐ ───────────────────────────────► ┌───────────┐ ───────────► ┌──────┐
//!   │ absent │                                  │ in flight │              │ done │
//!   └────────┘ ◄─────────────────────────────── └───────────┘              └──────┘
//!     ▲    │     settle(Failed), abandon (owner);  the lease ends              ▲  │
//!     │    └───────────────────────────────────────────────────────────────────┘  │
//!     │           settle(Done) of an owner whose claim was lost meanwhile          │
//!     └────────────────────────────────────────────────────────────────────────────┘
//!                          the time to remember is over
//! ```
//!
//! * `claim`: all keys absent → all in flight, one token. Otherwise nothing changes and the answer says why: first what is
//!   final (the ID delivered: `Duplicate`; any content delivered: `Replayed`), then `InFlight`, then `Full`.
//! * `settle(Done)`: by the token's owner; all its keys are remembered from now on. An owner whose claim was lost (its
//!   lease ended, or the store forgot it) is told so (`false`): a copy may have been delivered as well. Those of its
//!   keys that nobody else has are remembered all the same, since the event was delivered; another's claim is never
//!   touched.
//! * `settle(Failed)`: by the owner only; all its keys are absent again, so that a retry goes through (promise 4).
//! * a lease that ends makes its keys absent: a crashed owner blocks an event no longer than that. A lease is longer than
//!   the longest delivery, or it is renewed while the owner is alive ([`SeenIds::hold`]).
//! * nothing is ever forgotten early for want of room: a store that is full says so.
//!
//! `port::contract` tells the same in tests; every implementation runs them. What each kind of crash leaves behind is
//! told to operators in `config/STATE.md`.

use async_trait::async_trait;
use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

/// One namespaced, hashed name of an event. Made by `check::duplicate`; equal only for the same route and value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub [u8; 16]);

/// What a store that is spread over several servers must keep together: the names of events that may meet under more
/// than one of them. Made of a route's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(pub [u8; 8]);

/// The names of one event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Set for all events of a route whose events have content keys, or may have.
    pub group: Option<Group>,
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
pub struct StoreError(pub Cow<'static, str>);

/// While it is there, the store is told that a claim's owner is alive, so that a short lease does not end under a long
/// delivery. Made by [`SeenIds::hold`].
#[must_use]
pub struct Hold(pub Box<dyn Any + Send + Sync>);

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}

/// A memory of events. Time is an argument, so that every implementation can be tested without waiting.
#[async_trait]
pub trait SeenIds: Send + Sync + 'static {
    /// Claims all keys or none.
    async fn claim(&self, keys: &Keys, terms: Terms, now: Instant) -> Result<Claim, StoreError>;

    /// Ends a claim; says whether the token still owned all its keys. If not, `Failed` changes nothing, and `Done` only
    /// has those keys remembered that are absent.
    ///
    /// A store that is away for a moment may take the settlement over and tell it later; it then answers `true`, and
    /// counts by itself what turns out to be lost.
    async fn settle(&self, token: Token, outcome: Outcome, now: Instant) -> Result<bool, StoreError>;

    /// Gives a claim back without waiting for an answer: for a dropped request or a panic. Callable outside a runtime;
    /// a store that cannot do it at once does it soon, or leaves it to the lease.
    fn abandon(&self, token: Token);

    /// Waits until none of the keys is in flight any more (settled, abandoned, or its lease at an end), or until
    /// `patience` is over. True in the first case. Several may wake at once; a new `claim` then decides who goes next.
    async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError>;

    /// Keeps the lease of a claim from ending while its owner works. `None`: leases of this store are not renewed and
    /// have to be longer than any delivery.
    fn hold(&self, _token: &Token, _lease: Duration) -> Option<Hold> {
        None
    }

    /// How many keys are held, for the gauge, where that is known. May count expired ones that were not swept yet.
    fn held(&self) -> Option<usize>;
}
