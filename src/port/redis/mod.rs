//! Seen IDs and rate limits in Redis or Valkey, shared by all replicas.
//!
//! * **One step, one round trip.** A claim, a settlement and all limits of a request are one script each ([`scripts`]). All
//!   requests share one connection and their commands go out together.
//! * **One event, one slot.** In a cluster, keys of one event that has several are kept in one slot by the route's
//!   [`Group`](crate::port::seen::Group); an event with one key goes wherever its key does. The buckets of a route are in
//!   one slot as well.
//! * **Never in the way.** Every command has a deadline; a server that is away is known to be ([`link`]) and costs nothing.
//! * **Nothing stays behind.** A claim whose answer was never read is given back, and what could not be settled is told as
//!   soon as the server is there again, up to `PENDING` of them.
//!
//! Leases and remembered IDs end by the server's clock, buckets are counted by it; this process only says how long.

mod connect;
mod link;
mod scripts;
#[cfg(test)]
mod tests;

use crate::policy::{Evicting, Redis};
use crate::port::seen::{Claim, Group, Hold, Key, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use crate::telemetry::state::{Operation, StateMetrics};
use ahash::RandomState;
use async_trait::async_trait;
use connect::Connection;
use link::{Link, Memory, Returning, run_script};
use parking_lot::Mutex;
use redis::{Cmd, Value};
use scripts::Scripts;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Settlements kept for a server that is away, at about 200 bytes each. Beyond, claims are left to their lease.
const PENDING: usize = 10_000;
/// How long an outcome is worth telling.
const WORTH: Duration = Duration::from_secs(3600);
/// Settlements told at once when a server is back.
const AT_ONCE: usize = 64;
/// Between two looks at who is in flight elsewhere: the first and the longest pause.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Between two looks at which leases are to be renewed.
const RENEWING: Duration = Duration::from_millis(200);
/// Keeps the deadline of a wait from overflowing.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Bells for those who wait for a settlement of this process.
const BELLS: usize = 64;

/// The store. Its connection lives on a thread of its own until the store is dropped.
pub struct RedisState {
    inner: Arc<Inner>,
    runtime: tokio::runtime::Handle,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for RedisState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedisState")
    }
}

struct Inner {
    link: Arc<Link>,
    scripts: Scripts,
    prefix: Box<str>,
    nonces: AtomicU64,
    seed: u64,
    pending: Mutex<VecDeque<Pending>>,
    held: Arc<Mutex<HashMap<u64, Held>>>,
    bells: [Notify; BELLS],
    hasher: RandomState,
}

/// An outcome that the server does not know yet.
struct Pending {
    token: Token,
    outcome: Outcome,
    until: tokio::time::Instant,
}

/// A claim whose owner is alive.
struct Held {
    keys: Keys,
    lease: Duration,
    due: tokio::time::Instant,
}

/// Ends with its claim.
struct Release {
    held: Arc<Mutex<HashMap<u64, Held>>>,
    nonce: u64,
}

impl Drop for Release {
    fn drop(&mut self) {
        self.held.lock().remove(&self.nonce);
    }
}

/// One bucket that a request is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name, the same in every process.
    pub name: [u8; 16],
    /// Time that one request takes up.
    pub interval: Duration,
    /// Requests that may come at once.
    pub burst: u32,
}

impl RedisState {
    /// Starts to connect and returns at once.
    pub fn start(policy: &Redis, metrics: Arc<StateMetrics>) -> std::io::Result<Self> {
        let link = Arc::new(Link::new(policy.timeout, metrics));
        let inner = Arc::new(Inner {
            link: link.clone(),
            scripts: Scripts::new(),
            prefix: policy.prefix.clone(),
            nonces: AtomicU64::new(0),
            seed: getrandom::u64().map_err(|error| std::io::Error::other(error.to_string()))?,
            pending: Mutex::default(),
            held: Arc::default(),
            bells: [const { Notify::const_new() }; BELLS],
            hasher: RandomState::new(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = watch::channel(false);
        let (policy, working) = (policy.clone(), inner.clone());
        std::thread::Builder::new().name("redis".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = link::keep(link, policy, working.clone(), stopped) => {}
                    () = working.renew() => {}
                }
            });
        })?;
        Ok(Self { inner, runtime: handle, stop })
    }

    /// Waits for the first connection, or for the first failure to make one. An error is a reason not to start.
    pub fn first(&self, policy: &Redis) -> Result<(), String> {
        let mut first = self.inner.link.first();
        // The keeper gives up each attempt in time.
        let found = self.runtime.block_on(async {
            let found = first.wait_for(Option::is_some).await;
            found.map(|found| found.clone()).unwrap_or_default()
        });
        match found {
            Some(Ok(Memory::Evicts(name))) if policy.evicting == Evicting::Refuse => Err(format!(
                "state.redis: the server throws keys away when its memory is full (maxmemory-policy {name}), so that \
                 delivered events could be forgotten early; set it to noeviction, or write `evicting: warn`"
            )),
            _ => Ok(()),
        }
    }

    /// Why requests do without the server at this moment.
    pub fn trouble(&self) -> Option<String> {
        self.inner.link.trouble()
    }

    /// Counts one request in each bucket, in their order. For each that was asked the time after which one more would
    /// fit, zero if it fitted. After the first that is full the others are only asked with `go_on`.
    pub async fn take(&self, group: Group, buckets: &[Bucket], go_on: bool) -> Result<Vec<Duration>, StoreError> {
        self.inner.take(group, buckets, go_on, None).await
    }

    /// Remembers what was delivered while the server was away, once it is back.
    pub fn remember_later(&self, token: Token) {
        self.inner.later(token, Outcome::Done);
    }
}

impl Drop for RedisState {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

#[async_trait]
impl SeenIds for RedisState {
    async fn claim(&self, keys: &Keys, terms: Terms, _now: Instant) -> Result<Claim, StoreError> {
        let inner = &self.inner;
        if inner.link.is_open() {
            return Err(link::away());
        }
        let token = Token { keys: keys.clone(), nonce: inner.nonce(), remember: terms.remember };
        let names = inner.names(keys);
        // Whoever goes away, or is not answered in time, may have claimed: then it is given back.
        let mut doubt = Doubt { inner, unknown: Some((token, Outcome::Failed)) };
        let args = |token: &Token| [token.nonce, millis(terms.lease)];
        let Some((token, _)) = &doubt.unknown else { return Err(strange()) };
        let answer = inner.link.script(Operation::Claim, &inner.scripts.claim, &names, &args(token)).await?;
        let Some((token, _)) = doubt.unknown.take() else { return Err(strange()) };
        match answer {
            Value::Int(0) => Ok(Claim::New(token)),
            Value::Int(1) => Ok(Claim::Duplicate),
            Value::Int(2) => Ok(Claim::Replayed),
            Value::Int(3) => Ok(Claim::InFlight),
            _ => Err(strange()),
        }
    }

    async fn settle(&self, token: Token, outcome: Outcome, _now: Instant) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let names = inner.names(&token.keys);
        let mut doubt = Doubt { inner, unknown: Some((token, outcome)) };
        let Some((token, _)) = &doubt.unknown else { return Err(strange()) };
        let args = settling(token, outcome);
        match inner.link.script(Operation::Settle, &inner.scripts.settle, &names, &args).await {
            Ok(answer) => {
                if let Some((token, _)) = doubt.unknown.take() {
                    inner.ring(&token.keys);
                }
                Ok(answer == Value::Int(1))
            }
            Err(error) => {
                let taken_over = doubt.unknown.take().is_none_or(|(token, outcome)| inner.later(token, outcome));
                if taken_over { Ok(true) } else { Err(error) }
            }
        }
    }

    fn abandon(&self, token: Token) {
        if self.inner.link.is_open() {
            self.inner.later(token, Outcome::Failed);
            return;
        }
        let inner = self.inner.clone();
        self.runtime.spawn(async move {
            let names = inner.names(&token.keys);
            let args = settling(&token, Outcome::Failed);
            match inner.link.script(Operation::Settle, &inner.scripts.settle, &names, &args).await {
                Ok(_) => inner.ring(&token.keys),
                Err(_) => {
                    inner.later(token, Outcome::Failed);
                }
            }
        });
    }

    async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError> {
        let inner = &self.inner;
        let deadline = tokio::time::Instant::now() + patience.min(LONGEST_WAIT);
        let mut command = Cmd::new();
        command.arg("MGET");
        for name in inner.names(keys) {
            command.arg(name);
        }
        let mut pause = POLL.0;
        loop {
            let rung = inner.bell(&keys.id).notified();
            if !is_flying(inner.link.command(Operation::Wait, &command).await?) {
                return Ok(true);
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                return Ok(false);
            }
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep_until(deadline.min(now + pause)) => pause = (pause * 2).min(POLL.1),
            }
        }
    }

    fn hold(&self, token: &Token, lease: Duration) -> Option<Hold> {
        let due = tokio::time::Instant::now() + lease / 3;
        let held = Held { keys: token.keys.clone(), lease, due };
        self.inner.held.lock().insert(token.nonce, held);
        Some(Hold(Box::new(Release { held: self.inner.held.clone(), nonce: token.nonce })))
    }

    fn held(&self) -> Option<usize> {
        None
    }
}

/// An answer that was not read: tells the outcome later.
struct Doubt<'a> {
    inner: &'a Inner,
    unknown: Option<(Token, Outcome)>,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some((token, outcome)) = self.unknown.take()
            && !self.inner.later(token, outcome)
        {
            self.inner.lost(outcome);
        }
    }
}

impl Inner {
    /// Positive, larger than one, and not given twice by this process; that another process gives it too is as likely as
    /// two random numbers of 62 bits being one.
    fn nonce(&self) -> u64 {
        let count = self.nonces.fetch_add(1, Ordering::Relaxed);
        // splitmix64 is a bijection: no two counts give one number.
        let mut x = self.seed.wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // What fits a signed number is kept in less room.
        ((x ^ (x >> 31)) >> 2) + 2
    }

    fn name(&self, kind: &[u8], group: Option<Group>, name: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(self.prefix.len() + 32);
        text.extend_from_slice(self.prefix.as_bytes());
        text.extend_from_slice(kind);
        if let Some(Group(group)) = group {
            text.push(b'{');
            text.extend_from_slice(&group);
            text.push(b'}');
        }
        text.extend_from_slice(name);
        text
    }

    fn names(&self, keys: &Keys) -> Vec<Vec<u8>> {
        std::iter::once(&keys.id).chain(&keys.content).map(|key| self.name(b":", keys.group, &key.0)).collect()
    }

    async fn take(
        &self,
        group: Group,
        buckets: &[Bucket],
        go_on: bool,
        at: Option<Duration>,
    ) -> Result<Vec<Duration>, StoreError> {
        let names: Vec<_> = buckets.iter().map(|bucket| self.name(b":limit:", Some(group), &bucket.name)).collect();
        let mut args = Vec::with_capacity(2 * buckets.len() + 3);
        args.push(u64::from(go_on));
        for bucket in buckets {
            let interval = nanos(bucket.interval);
            args.push(interval);
            args.push(interval.saturating_mul(u64::from(bucket.burst.max(1))));
        }
        if let Some(at) = at {
            args.push(at.as_secs());
            args.push(u64::from(at.subsec_nanos()));
        }
        let answer = self.link.script(Operation::Limit, &self.scripts.limit, &names, &args).await?;
        let Value::Array(waits) = answer else { return Err(strange()) };
        waits
            .into_iter()
            .map(|wait| match wait {
                Value::Int(nanos) => Ok(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))),
                _ => Err(strange()),
            })
            .collect()
    }

    fn bell(&self, key: &Key) -> &Notify {
        let [first, ..] = &self.bells;
        let at = usize::try_from(self.hasher.hash_one(key.0) % BELLS as u64).unwrap_or(0);
        self.bells.get(at).unwrap_or(first)
    }

    fn ring(&self, keys: &Keys) {
        self.bell(&keys.id).notify_waiters();
    }

    /// Keeps an outcome for when the server is back. False: there is no room. Successes have twice the room of failures,
    /// which the lease ends as well.
    fn later(&self, token: Token, outcome: Outcome) -> bool {
        let mut pending = self.pending.lock();
        let room = if outcome == Outcome::Done { PENDING } else { PENDING / 2 };
        if pending.len() >= room {
            return false;
        }
        pending.push_back(Pending { token, outcome, until: tokio::time::Instant::now() + WORTH });
        self.link.metrics.pending.set(i64::try_from(pending.len()).unwrap_or(i64::MAX));
        true
    }

    fn lost(&self, outcome: Outcome) {
        if outcome == Outcome::Done {
            self.link.metrics.claims_lost.inc();
            tracing::warn!(target: "hookmoat", "a delivered event could not be remembered in time: a copy may have been delivered as well");
        }
    }

    /// Renews leases whose owners are at work.
    async fn renew(&self) {
        loop {
            tokio::time::sleep(RENEWING).await;
            let now = tokio::time::Instant::now();
            let mut due = Vec::new();
            for (nonce, held) in self.held.lock().iter_mut().filter(|(_, held)| held.due <= now) {
                held.due = now + held.lease / 3;
                due.push((*nonce, held.keys.clone(), held.lease));
            }
            for some in due.chunks(AT_ONCE) {
                let renewing = some.iter().map(|(nonce, keys, lease)| async move {
                    let names = self.names(keys);
                    let args = [*nonce, millis(*lease)];
                    // What fails is tried again at the next turn, or has ended.
                    let answer = self.link.script(Operation::Renew, &self.scripts.renew, &names, &args).await;
                    // Settled while it was being renewed: the renewal made it anew, so it is taken back.
                    if matches!(answer, Ok(Value::Int(1))) && !self.held.lock().contains_key(nonce) {
                        let token = Token { keys: keys.clone(), nonce: *nonce, remember: Duration::ZERO };
                        self.later(token, Outcome::Failed);
                    }
                });
                futures_util::future::join_all(renewing).await;
            }
        }
    }
}

#[async_trait]
impl Returning for Inner {
    async fn catch_up(&self, connection: &mut Connection) {
        loop {
            let some: Vec<Pending> = {
                let mut pending = self.pending.lock();
                let count = pending.len().min(AT_ONCE);
                pending.drain(..count).collect()
            };
            if some.is_empty() {
                return;
            }
            let telling = some.into_iter().map(|one| {
                let mut connection = connection.clone();
                async move {
                    let names = self.names(&one.token.keys);
                    let args = settling(&one.token, one.outcome);
                    let told = run_script(&mut connection, &self.scripts.settle, &names, &args);
                    let told = tokio::time::timeout(self.link.timeout, told).await;
                    (one, told.is_ok_and(|told| told.is_ok()))
                }
            });
            let mut failed = false;
            for (one, told) in futures_util::future::join_all(telling).await {
                if told {
                    self.ring(&one.token.keys);
                } else if tokio::time::Instant::now() >= one.until {
                    self.lost(one.outcome);
                } else {
                    failed = true;
                    self.pending.lock().push_back(one);
                }
            }
            self.link.metrics.pending.set(i64::try_from(self.pending.lock().len()).unwrap_or(i64::MAX));
            if failed {
                return;
            }
        }
    }
}

fn settling(token: &Token, outcome: Outcome) -> [u64; 2] {
    let remember = match outcome {
        Outcome::Done => millis(token.remember).max(1),
        Outcome::Failed => 0,
    };
    [token.nonce, remember]
}

/// Does one of these values belong to a claim?
fn is_flying(values: Value) -> bool {
    let Value::Array(values) = values else { return false };
    values.iter().any(|value| match value {
        Value::BulkString(bytes) => bytes != b"1",
        Value::Int(number) => *number != 1,
        _ => false,
    })
}

fn strange() -> StoreError {
    StoreError("redis gave an answer that was not asked for".into())
}

/// Rounded up: nothing ends early.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(1 << 52)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
