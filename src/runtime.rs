//! What outlives a reload: the memory of events, buckets, connections, counters.

use crate::check::rate_limit::Buckets;
use crate::policy::{Policy, Readiness, Redis, Store};
use crate::port::memory::MemorySeen;
use crate::port::redis::RedisState;
use crate::port::seen::{Claim, Hold, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use crate::telemetry::state::StateMetrics;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The memory of events and the buckets.
#[derive(Debug)]
pub struct State {
    /// Seen IDs.
    pub seen: Seen,
    /// Rate-limit buckets in this process: all there are, or those for when the shared ones are away.
    pub buckets: Buckets,
    /// Rate limits of all replicas together. `None`: this process counts alone.
    pub shared: Option<Arc<RedisState>>,
    /// Seen IDs for when the store is away (`on_failure: {duplicates: local}`). Empty until then.
    pub fallback: MemorySeen,
    /// What is counted of the store.
    pub metrics: Arc<StateMetrics>,
    readiness: Readiness,
}

impl State {
    /// Opens what the policy asks for. An error is a reason not to start.
    pub fn open(policy: &Policy, metrics: Arc<StateMetrics>, now: Instant) -> Result<Self, String> {
        let memory = || MemorySeen::new(policy.state.max_ids, now);
        let (seen, shared, readiness) = match &policy.state.store {
            Store::Memory => (Seen::Memory(memory()), None, Readiness::Ignore),
            Store::Sqlite(_) => return Err("state.sqlite: not in this version".into()),
            Store::Redis(redis) => {
                let state = start_redis(redis, metrics.clone())?;
                (Seen::Store(state.clone()), Some(state), redis.readiness)
            }
        };
        let buckets = Buckets::new(policy.state.max_buckets, now);
        Ok(Self { seen, buckets, shared, fallback: memory(), metrics, readiness })
    }

    /// In the memory of this process, for measurements and tests.
    pub fn in_memory(max_ids: usize, max_buckets: usize, metrics: Arc<StateMetrics>, now: Instant) -> Self {
        Self {
            seen: Seen::Memory(MemorySeen::new(max_ids, now)),
            buckets: Buckets::new(max_buckets, now),
            shared: None,
            fallback: MemorySeen::new(max_ids, now),
            metrics,
            readiness: Readiness::Ignore,
        }
    }

    /// Why the process is not ready, where the store has a say in it.
    pub fn not_ready(&self) -> Option<String> {
        let trouble = self.shared.as_ref()?.trouble()?;
        (self.readiness == Readiness::Require).then(|| format!("redis is away: {trouble}"))
    }

    /// Forgets what has expired, now and then.
    pub fn sweep(&self, now: Instant) {
        if let Seen::Memory(memory) = &self.seen {
            memory.sweep(now);
        }
        self.fallback.sweep(now);
    }
}

fn start_redis(redis: &Redis, metrics: Arc<StateMetrics>) -> Result<Arc<RedisState>, String> {
    let state = RedisState::start(redis, metrics).map_err(|error| format!("state.redis: {error}"))?;
    state.first(redis)?;
    Ok(Arc::new(state))
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

    /// See [`SeenIds::hold`].
    pub fn hold(&self, token: &Token, lease: Duration) -> Option<Hold> {
        match self {
            Self::Memory(_) => None,
            Self::Store(store) => store.hold(token, lease),
        }
    }

    /// See [`SeenIds::held`].
    pub fn held(&self) -> Option<usize> {
        match self {
            Self::Memory(memory) => Some(memory.len()),
            Self::Store(store) => store.held(),
        }
    }
}
