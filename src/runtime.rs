//! What outlives a reload: the memory of events, buckets, connections, counters.

use crate::check::rate_limit::Buckets;
use crate::policy::{Policy, QueueEngine, Readiness, Redis, SqliteFile, Store};
use crate::port::memory::MemorySeen;
use crate::port::redis::RedisState;
use crate::port::seen::{Claim, Hold, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use crate::port::sqlite::db::{Databases, IfCorrupt, OpenError, Options};
use crate::port::sqlite::seen::SqliteSeen;
use crate::request::Now;
use crate::telemetry::state::StateMetrics;
use std::path::{Path, PathBuf};
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
    /// Seen IDs in a file, and the file.
    file: Option<(PathBuf, Arc<SqliteSeen>)>,
    /// Seen IDs for when the store is away (`on_failure: {duplicates: local}`). Empty until then.
    pub fallback: MemorySeen,
    /// What is counted of the store.
    pub metrics: Arc<StateMetrics>,
    readiness: Readiness,
}

impl State {
    /// Opens what the policy asks for. An error is a reason not to start.
    pub fn open(policy: &Policy, databases: &Databases, metrics: Arc<StateMetrics>, now: Now) -> Result<Self, String> {
        let mut state = Self::in_memory(policy.state.max_ids, policy.state.max_buckets, metrics, now.instant);
        match &policy.state.store {
            Store::Memory => {}
            Store::Sqlite(sqlite) => {
                let remembered =
                    policy.routes.iter().filter_map(|(_, route)| Some(route.duplicates.as_ref()?.remember));
                let queue = queue_in(policy, &sqlite.path);
                let failed = |error: OpenError| {
                    let remedy = queue.map_or("", |_| error.remedy_of_queues());
                    format!("state.sqlite: {error}{remedy}")
                };
                let options = queue.map_or_else(Options::default, options_of);
                let database = databases.open(&sqlite.path, options, now.unix).map_err(failed)?;
                let longest = remembered.max().unwrap_or_default();
                let seen = SqliteSeen::open(database, policy.state.max_ids, longest, now).map_err(failed)?;
                let seen = Arc::new(seen);
                state.seen = Seen::Store(seen.clone());
                state.file = Some((sqlite.path.clone(), seen));
            }
            Store::Redis(redis) => {
                let shared = start_redis(redis, state.metrics.clone())?;
                state.seen = Seen::Store(shared.clone());
                state.shared = Some(shared);
                state.readiness = redis.readiness;
            }
        }
        Ok(state)
    }

    /// The memory of IDs in this file, if that is where they are: a queue there makes an event and its ID durable in one
    /// step.
    pub fn in_file(&self, path: &Path) -> Option<Arc<SqliteSeen>> {
        let (file, seen) = self.file.as_ref()?;
        is_same(file, path).then(|| seen.clone())
    }

    /// In the memory of this process, for measurements and tests.
    pub fn in_memory(max_ids: usize, max_buckets: usize, metrics: Arc<StateMetrics>, now: Instant) -> Self {
        Self {
            seen: Seen::Memory(MemorySeen::new(max_ids, now)),
            buckets: Buckets::new(max_buckets, now),
            shared: None,
            file: None,
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
    pub fn sweep(&self, now: Now) {
        if let Seen::Memory(memory) = &self.seen {
            memory.sweep(now.instant);
        }
        if let Some((_, seen)) = &self.file {
            seen.sweep(now);
            self.metrics.up.set(i64::from(seen.trouble().is_none()));
        }
        self.fallback.sweep(now.instant);
    }
}

fn is_same(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
    whole(a) == whole(b)
}

/// A queue in the same file has more to lose: it says how the file is opened.
fn queue_in<'a>(policy: &'a Policy, path: &Path) -> Option<&'a SqliteFile> {
    policy.queues.iter().find_map(|queue| match &queue.engine {
        QueueEngine::Sqlite(file) if is_same(&file.path, path) => Some(file),
        _ => None,
    })
}

fn options_of(file: &SqliteFile) -> Options {
    let if_corrupt = if file.set_aside { IfCorrupt::SetAside } else { IfCorrupt::Refuse };
    Options { if_corrupt, min_free: file.min_free }
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
