//! What outlives a reload: the memory of events, buckets, connections, counters.

use crate::check::rate_limit::Buckets;
use crate::policy::Policy;
use crate::port::memory::MemorySeen;
use crate::port::seen::{Claim, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The memory of events and the buckets.
#[derive(Debug)]
pub struct State {
    /// Seen IDs.
    pub seen: Seen,
    /// Rate-limit buckets, in this process.
    pub buckets: Buckets,
}

impl State {
    /// Empty state of the size that the policy asks for.
    pub fn new(policy: &Policy, now: Instant) -> Self {
        Self {
            seen: Seen::Memory(MemorySeen::new(policy.state.max_ids, now)),
            buckets: Buckets::new(policy.state.max_buckets, now),
        }
    }
}

/// Where seen IDs are kept. The memory of this process is asked directly: no box, no await.
pub enum Seen {
    /// In this process.
    Memory(MemorySeen),
    /// Anywhere else.
    Store(Arc<dyn SeenIds>),
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Store(_) => "Store",
        })
    }
}

impl Seen {
    /// See [`SeenIds::claim`].
    pub async fn claim(&self, keys: &Keys, terms: Terms, now: Instant) -> Result<Claim, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.claim_now(keys, terms, now)),
            Self::Store(store) => store.claim(keys, terms, now).await,
        }
    }

    /// See [`SeenIds::settle`].
    pub async fn settle(&self, token: Token, outcome: Outcome, now: Instant) -> Result<bool, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.settle_now(token, outcome, now)),
            Self::Store(store) => store.settle(token, outcome, now).await,
        }
    }

    /// See [`SeenIds::abandon`].
    pub fn abandon(&self, token: Token) {
        match self {
            Self::Memory(memory) => memory.abandon(token),
            Self::Store(store) => store.abandon(token),
        }
    }

    /// See [`SeenIds::wait`].
    pub async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Memory(memory) => memory.wait(keys, patience).await,
            Self::Store(store) => store.wait(keys, patience).await,
        }
    }

    /// See [`SeenIds::len`].
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.len(),
            Self::Store(store) => store.len(),
        }
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
