//! Seen IDs in the memory of this process: nothing to set up, nothing survives a restart.
//!
//! The table is made for a million IDs in well under 100 MiB and for a hot path that neither awaits nor allocates
//! ([`MemorySeen::claim_now`]): up to 64 shards, each a mutex around an open-addressing table of 24-byte slots. There is
//! no second index by time. An expired key counts as absent wherever it is met; what is never met again is swept out a
//! few slots at a time by every claim, all at once when a shard is full, and by [`MemorySeen::sweep`].
//!
//! Room is bounded for good: a full shard answers [`Claim::Full`] and forgets nothing early (promise 4). Keys are
//! placed by a hash with a secret of this process, so nobody can fill one shard or build a long chain on purpose.
//!
//! Times are kept in sixteenths of a second, rounded up: nothing ends early, and at most that much late.

use crate::port::seen::{Claim, Key, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use ahash::RandomState;
use async_trait::async_trait;
use parking_lot::{Mutex, MutexGuard};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The in-memory store.
#[derive(Debug)]
pub struct MemorySeen {
    start: Instant,
    hasher: RandomState,
    /// A power of two.
    shards: Box<[Shard]>,
    nonces: AtomicU64,
}

/// On a cache line of its own: neighbours' locks are taken by other threads.
#[derive(Debug)]
#[repr(align(64))]
struct Shard {
    table: Mutex<Table>,
    /// Rung whenever keys of the shard stop being in flight.
    settled: Notify,
}

/// Open addressing with linear probing and backward-shift deletion: no tombstones, so a table that lives for years
/// under constant insertion and expiry never has to be rebuilt.
#[derive(Debug)]
struct Table {
    slots: Vec<Slot>,
    held: usize,
    /// Keys held at most.
    room: usize,
    /// Where the next few slots are swept.
    cursor: usize,
    /// No key expires before this tick: a full table is only searched for expired keys when there can be one.
    earliest: u32,
    hasher: RandomState,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    key: [u8; 16],
    /// The tick from which on the key counts as absent. Zero: the slot is free.
    expires: u32,
    /// Zero: delivered. Otherwise in flight, and who claimed it (the low half of the nonce).
    owner: u32,
}

/// A shard's index and its table.
type Locked<'a> = (usize, MutexGuard<'a, Table>);

/// A key with where it lives.
#[derive(Clone, Copy)]
struct Place {
    shard: usize,
    hash: u32,
    key: [u8; 16],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    InFlight { owner: u32, expires: u32 },
    Done,
}

const FREE: Slot = Slot { key: [0; 16], expires: 0, owner: 0 };
const TICKS_PER_SECOND: u64 = 16;
const TICK_NANOS: u32 = 62_500_000;
/// Slots swept by every claim in the shards it locks.
const SWEPT: usize = 8;
const FIRST_SLOTS: usize = 16;
/// Keeps the deadline of a wait from overflowing.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

impl MemorySeen {
    /// Room for this many keys at most; an event takes one, or more where the replay guard holds. A shard may be full
    /// when about 98 in 100 of a large room are taken, since shards fill up almost evenly.
    pub fn new(max_keys: usize, now: Instant) -> Self {
        let shards = 1usize << (max_keys / 1024).clamp(1, 64).ilog2();
        let hasher = RandomState::new();
        let table = || Table::new(max_keys / shards, hasher.clone());
        let shard = || Shard { table: Mutex::new(table()), settled: Notify::new() };
        Self {
            start: now,
            hasher: hasher.clone(),
            shards: std::iter::repeat_with(shard).take(shards).collect(),
            nonces: AtomicU64::new(0),
        }
    }

    /// [`SeenIds::claim`] without a future. With one key it allocates nothing but what the token owns.
    pub fn claim_now(&self, keys: &Keys, terms: Terms, now: Instant) -> Claim {
        let tick = self.tick(now);
        let nonce = self.nonces.fetch_add(1, Ordering::Relaxed);
        let entry = (self.tick_after(now, terms.lease), owner(nonce));
        let refused = self.with_tables(keys, |tables, places| claim_all(tables, places, entry, tick));
        refused.unwrap_or_else(|| Claim::New(Token { keys: keys.clone(), nonce, remember: terms.remember }))
    }

    /// [`SeenIds::settle`] without a future.
    pub fn settle_now(&self, token: Token, outcome: Outcome, now: Instant) -> bool {
        self.end(&token, outcome, self.tick(now), self.tick_after(now, token.remember))
    }

    /// Remembers a delivered key that another process had. False: there is no room.
    pub(crate) fn restore(&self, key: Key, left: Duration, now: Instant) -> bool {
        let (tick, expires) = (self.tick(now), self.tick_after(now, left));
        let place = self.place(&key);
        let Some(shard) = self.shards.get(place.shard) else { return false };
        let mut table = shard.table.lock();
        let fits = table.find(&place).is_some() || table.has_room_for(1, tick);
        if fits {
            table.put(place, (expires, 0), tick);
        }
        fits
    }

    /// For how long a delivered key is still remembered.
    pub(crate) fn remaining(&self, key: Key, now: Instant) -> Option<Duration> {
        let place = self.place(&key);
        let table = self.shards.get(place.shard)?.table.lock();
        let slot = table.find(&place).and_then(|at| table.slots.get(at))?;
        let left = slot.expires.checked_sub(self.tick(now)).filter(|left| *left > 0 && slot.owner == 0)?;
        Some(Duration::from_nanos(u64::from(left) * u64::from(TICK_NANOS)))
    }

    /// Does the token still own all its keys?
    pub(crate) fn owns(&self, token: &Token, now: Instant) -> bool {
        let (tick, by) = (self.tick(now), owner(token.nonce));
        self.with_tables(&token.keys, |tables, places| {
            places.iter().all(|place| {
                table_of(tables, place).is_some_and(
                    |table| matches!(table.state(place, tick), State::InFlight { owner, .. } if owner == by),
                )
            })
        })
    }

    /// The keys that a success of the token would have remembered: its own, and nobody's.
    pub(crate) fn settles(&self, token: &Token, now: Instant) -> Vec<Key> {
        let (tick, by) = (self.tick(now), owner(token.nonce));
        self.with_tables(&token.keys, |tables, places| {
            let settles = places.iter().filter(|place| {
                table_of(tables, place).is_some_and(|table| match table.state(place, tick) {
                    State::InFlight { owner, .. } => owner == by,
                    State::Absent => true,
                    State::Done => false,
                })
            });
            settles.map(|place| Key(place.key)).collect()
        })
    }

    /// Forgets every expired key. Correct without ever being called; a task that calls it now and then lets the gauge
    /// and the memory follow quiet times.
    pub fn sweep(&self, now: Instant) {
        let tick = self.tick(now);
        for shard in &self.shards {
            let mut table = shard.table.lock();
            table.sweep_all(tick);
            table.shrink();
        }
    }

    /// Keys held, expired ones that were not swept yet included.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.table.lock().held).sum()
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of the tables now, without what a token or a waiting request holds.
    pub fn table_bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|shard| shard.table.lock().slots.capacity()).sum();
        slots * size_of::<Slot>() + self.shards.len() * size_of::<Shard>()
    }
}

#[async_trait]
impl SeenIds for MemorySeen {
    async fn claim(&self, keys: &Keys, terms: Terms, now: Instant) -> Result<Claim, StoreError> {
        Ok(self.claim_now(keys, terms, now))
    }

    async fn settle(&self, token: Token, outcome: Outcome, now: Instant) -> Result<bool, StoreError> {
        Ok(self.settle_now(token, outcome, now))
    }

    fn abandon(&self, token: Token) {
        // Without a clock: an own claim is removed whether or not its lease has ended, which comes to the same.
        self.end(&token, Outcome::Failed, 0, 0);
    }

    async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError> {
        // The only wait in this store, so the clock of the timer is the right one, not a request's.
        let deadline = tokio::time::Instant::now() + patience.min(LONGEST_WAIT);
        loop {
            let Some((shard, _)) = self.blocker(keys) else { return Ok(true) };
            // Listening starts before the second look: what is settled in between cannot be missed.
            let settled = shard.settled.notified();
            let Some((second, lease)) = self.blocker(keys) else { return Ok(true) };
            if !std::ptr::eq(shard, second) {
                continue;
            }
            let wake = deadline.min(lease);
            tokio::select! {
                () = settled => {}
                () = tokio::time::sleep_until(wake) => {}
            }
            if tokio::time::Instant::now() >= deadline {
                return Ok(self.blocker(keys).is_none());
            }
        }
    }

    fn held(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl MemorySeen {
    /// Ticks start at one: zero marks a free slot.
    fn tick(&self, now: Instant) -> u32 {
        ticks(now.saturating_duration_since(self.start), false)
    }

    /// The first tick that lies wholly after `time` from now.
    fn tick_after(&self, now: Instant, time: Duration) -> u32 {
        ticks(now.saturating_duration_since(self.start).saturating_add(time), true)
    }

    fn place(&self, key: &Key) -> Place {
        let hash = self.hasher.hash_one(key.0);
        // The shard from the high half, the slot from the low one.
        Place { shard: (hash >> 32) as usize & (self.shards.len() - 1), hash: hash as u32, key: key.0 }
    }

    /// Does something with the tables of these keys, locked in one order for everybody. Nothing is allocated for an
    /// event with one key.
    fn with_tables<T>(&self, keys: &Keys, act: impl FnOnce(&mut [Locked<'_>], &[Place]) -> T) -> T {
        let id = self.place(&keys.id);
        if keys.content.is_empty() {
            return match self.shards.get(id.shard) {
                Some(shard) => act(&mut [(id.shard, shard.table.lock())], &[id]),
                None => act(&mut [], &[id]),
            };
        }
        let places: Vec<Place> = std::iter::once(id).chain(keys.content.iter().map(|key| self.place(key))).collect();
        let mut shards: Vec<usize> = places.iter().map(|place| place.shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut tables: Vec<Locked<'_>> =
            shards.into_iter().filter_map(|index| Some((index, self.shards.get(index)?.table.lock()))).collect();
        act(&mut tables, &places)
    }

    /// Ends a claim if it still holds all its keys; `tick` zero asks for no lease.
    fn end(&self, token: &Token, outcome: Outcome, tick: u32, expires: u32) -> bool {
        let owned = self.with_tables(&token.keys, |tables, places| {
            let by = owner(token.nonce);
            let owned = places.iter().all(|place| {
                table_of(tables, place).is_some_and(
                    |table| matches!(table.state(place, tick), State::InFlight { owner, .. } if owner == by),
                )
            });
            for place in places {
                let Some(table) = table_of(tables, place) else { continue };
                match outcome {
                    Outcome::Failed if owned => table.remove(place),
                    Outcome::Failed => {}
                    Outcome::Done if owned => table.put(*place, (expires, 0), tick),
                    // Delivered all the same: remembered where that is nobody else's claim, and where there is room.
                    Outcome::Done => match table.state(place, tick) {
                        State::InFlight { owner, .. } if owner == by => table.put(*place, (expires, 0), tick),
                        State::Absent if table.has_room_for(1, tick) => table.put(*place, (expires, 0), tick),
                        _ => {}
                    },
                }
            }
            owned
        });
        if owned {
            for key in std::iter::once(&token.keys.id).chain(&token.keys.content) {
                if let Some(shard) = self.shards.get(self.place(key).shard) {
                    shard.settled.notify_waiters();
                }
            }
        }
        owned
    }

    /// The first shard where one of the keys is in flight, and until when at most.
    fn blocker(&self, keys: &Keys) -> Option<(&Shard, tokio::time::Instant)> {
        let tick = self.tick(tokio::time::Instant::now().into_std());
        std::iter::once(&keys.id).chain(&keys.content).find_map(|key| {
            let place = self.place(key);
            let shard = self.shards.get(place.shard)?;
            match shard.table.lock().state(&place, tick) {
                State::InFlight { expires, .. } => {
                    let nanos = u64::from(expires - 1) * u64::from(TICK_NANOS);
                    let end = self.start.checked_add(Duration::from_nanos(nanos))?;
                    Some((shard, tokio::time::Instant::from_std(end)))
                }
                State::Absent | State::Done => None,
            }
        })
    }
}

/// Eight and a half years fit; what lies beyond lasts until then.
fn ticks(time: Duration, up: bool) -> u32 {
    let nanos = if up { time.subsec_nanos().div_ceil(TICK_NANOS) } else { time.subsec_nanos() / TICK_NANOS };
    let ticks = time.as_secs().saturating_mul(TICKS_PER_SECOND).saturating_add(u64::from(nanos) + 1);
    u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Never zero, which means delivered. Two claims share one only when four thousand million claims lie between them,
/// and then the first one's lease has long ended.
fn owner(nonce: u64) -> u32 {
    u32::try_from(nonce % u64::from(u32::MAX)).map_or(1, |low| low + 1)
}

fn table_of<'t>(tables: &'t mut [Locked<'_>], place: &Place) -> Option<&'t mut Table> {
    tables.iter_mut().find(|(shard, _)| *shard == place.shard).map(|(_, table)| &mut **table)
}

/// All keys or none; `None`: claimed. Final answers come before provisional ones.
fn claim_all(tables: &mut [Locked<'_>], places: &[Place], entry: (u32, u32), tick: u32) -> Option<Claim> {
    let mut refused = None;
    for (index, place) in places.iter().enumerate() {
        // Every place has its table; were one missing, the claim could not be kept.
        let Some(table) = table_of(tables, place) else { return Some(Claim::Full) };
        match table.state(place, tick) {
            State::Done if index == 0 => return Some(Claim::Duplicate),
            State::Done => refused = Some(Claim::Replayed),
            State::InFlight { .. } => refused = refused.or(Some(Claim::InFlight)),
            State::Absent => {}
        }
    }
    if refused.is_some() {
        return refused;
    }
    for (shard, table) in tables.iter_mut() {
        table.sweep_some(tick);
        let wanted = places.iter().filter(|place| place.shard == *shard).count();
        if !table.has_room_for(wanted, tick) {
            return Some(Claim::Full);
        }
    }
    for place in places {
        if let Some(table) = table_of(tables, place) {
            table.put(*place, entry, tick);
        }
    }
    None
}

impl Table {
    fn new(room: usize, hasher: RandomState) -> Self {
        Self { slots: Vec::new(), held: 0, room, cursor: 0, earliest: u32::MAX, hasher }
    }

    fn state(&self, place: &Place, tick: u32) -> State {
        match self.find(place).and_then(|at| self.slots.get(at)) {
            Some(slot) if slot.expires <= tick => State::Absent,
            Some(Slot { owner: 0, .. }) => State::Done,
            Some(slot) => State::InFlight { owner: slot.owner, expires: slot.expires },
            None => State::Absent,
        }
    }

    /// Call [`Table::has_room_for`] first, unless the key is there.
    fn put(&mut self, place: Place, (expires, owner): (u32, u32), tick: u32) {
        let slot = Slot { key: place.key, expires: expires.max(1), owner };
        self.earliest = self.earliest.min(slot.expires);
        if let Some(old) = self.find(&place).and_then(|at| self.slots.get_mut(at)) {
            *old = slot;
            return;
        }
        if (self.held + 1) * 5 > self.slots.len() * 4 {
            // Rather than growing around rubbish, take it out.
            self.sweep_all(tick);
            if (self.held + 1) * 5 > self.slots.len() * 7 / 2 {
                self.resize((self.slots.len() * 3 / 2).max(FIRST_SLOTS));
            }
        }
        self.insert(slot, place.hash);
        self.held += 1;
    }

    fn remove(&mut self, place: &Place) {
        if let Some(at) = self.find(place) {
            self.remove_at(at);
        }
    }

    fn has_room_for(&mut self, more: usize, tick: u32) -> bool {
        if self.held + more > self.room && self.earliest <= tick {
            self.sweep_all(tick);
        }
        self.held + more <= self.room
    }

    fn find(&self, place: &Place) -> Option<usize> {
        let mut at = self.home(place.hash);
        loop {
            match self.slots.get(at) {
                None | Some(Slot { expires: 0, .. }) => return None,
                Some(slot) if slot.key == place.key => return Some(at),
                Some(_) => at = self.after(at),
            }
        }
    }

    fn insert(&mut self, new: Slot, hash: u32) {
        let mut at = self.home(hash);
        while let Some(slot) = self.slots.get_mut(at) {
            if slot.expires == 0 {
                *slot = new;
                return;
            }
            at = self.after(at);
        }
    }

    /// Frees a slot and moves later ones up, so that no search ends too early.
    fn remove_at(&mut self, mut hole: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            match self.slots.get(at).copied() {
                None | Some(Slot { expires: 0, .. }) => break,
                Some(slot) => {
                    let home = self.home(self.hasher.hash_one(slot.key) as u32);
                    // It may move up unless that would put it before its home, seen around the ring.
                    let stays = if hole <= at { hole < home && home <= at } else { hole < home || home <= at };
                    if !stays {
                        if let Some(free) = self.slots.get_mut(hole) {
                            *free = slot;
                        }
                        hole = at;
                    }
                }
            }
        }
        if let Some(free) = self.slots.get_mut(hole) {
            *free = FREE;
            self.held -= 1;
        }
    }

    fn sweep_some(&mut self, tick: u32) {
        for _ in 0..SWEPT {
            self.cursor = if self.cursor + 1 < self.slots.len() { self.cursor + 1 } else { 0 };
            if self.slots.get(self.cursor).is_some_and(|slot| slot.expires != 0 && slot.expires <= tick) {
                self.remove_at(self.cursor);
            }
        }
    }

    fn sweep_all(&mut self, tick: u32) {
        if self.earliest > tick {
            return;
        }
        // What a removal moves up is looked at next; what it moves over the end of the ring was looked at before.
        let mut at = 0;
        while let Some(slot) = self.slots.get(at) {
            if slot.expires != 0 && slot.expires <= tick { self.remove_at(at) } else { at += 1 }
        }
        self.earliest =
            self.slots.iter().map(|slot| slot.expires).filter(|expires| *expires != 0).min().unwrap_or(u32::MAX);
    }

    /// Gives memory back when only an eighth is in use.
    fn shrink(&mut self) {
        if self.slots.len() > FIRST_SLOTS && self.held * 8 < self.slots.len() {
            self.resize((self.held * 2).max(FIRST_SLOTS));
        }
    }

    /// Never larger than a full shard needs at a load of four fifths.
    fn resize(&mut self, slots: usize) {
        let needed = (self.room + 1) * 5 / 4 + 2;
        let old = std::mem::replace(&mut self.slots, vec![FREE; slots.min(needed)]);
        self.cursor = 0;
        for slot in old.into_iter().filter(|slot| slot.expires != 0) {
            let hash = self.hasher.hash_one(slot.key) as u32;
            self.insert(slot, hash);
        }
    }

    /// Scales the hash to the number of slots, which is no power of two so that growth can be by half.
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.slots.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.slots.len() { at + 1 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::contract::{self, Disaster, Harness};
    use crate::request::Now;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::Arc;

    struct Memory {
        passed: Mutex<Instant>,
    }

    #[async_trait]
    impl Harness for Memory {
        async fn fresh(&self) -> Arc<dyn SeenIds> {
            // From the real time on, which never lies after the harness's: one case waits in real time.
            Arc::new(MemorySeen::new(1_000_000, Now::read().instant))
        }

        async fn bounded(&self, max_keys: usize) -> Option<Arc<dyn SeenIds>> {
            Some(Arc::new(MemorySeen::new(max_keys, Now::read().instant)))
        }

        fn now(&self) -> Instant {
            *self.passed.lock()
        }

        async fn pass(&self, time: Duration) {
            *self.passed.lock() += time;
        }

        fn unit(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn is_virtual(&self) -> bool {
            true
        }

        fn is_cheap(&self) -> bool {
            true
        }

        fn disasters(&self) -> &[Disaster] {
            &[Disaster::EndsWithNothing]
        }

        async fn strike(&self, _: Arc<dyn SeenIds>, _: Disaster) -> Arc<dyn SeenIds> {
            self.fresh().await
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn memory_keeps_the_contract() {
        contract::all(&Memory { passed: Mutex::new(Now::read().instant) }).await;
    }

    fn key(n: u64) -> Keys {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_be_bytes());
        Keys { group: None, id: Key(key), content: Vec::new() }
    }

    fn terms(lease: u64, remember: u64) -> Terms {
        Terms { lease: Duration::from_secs(lease), remember: Duration::from_secs(remember) }
    }

    fn deliver(seen: &MemorySeen, n: u64, terms: Terms, now: Instant) -> bool {
        match seen.claim_now(&key(n), terms, now) {
            Claim::New(token) => seen.settle_now(token, Outcome::Done, now),
            _ => false,
        }
    }

    #[test]
    fn a_million_ids_take_less_than_100_mib_and_48_bytes_each() {
        let now = Now::read().instant;
        let seen = MemorySeen::new(2_000_000, now);
        let mut worst = 0;
        for n in 0..1_000_000u64 {
            assert!(deliver(&seen, n, terms(30, 3600), now));
            if n > 100_000 && n % 1000 == 0 {
                worst = worst.max(seen.table_bytes() as u64 * 100 / n);
            }
        }
        assert_eq!(seen.len(), 1_000_000);
        assert!(worst <= 4800, "{worst} hundredths of a byte for each ID");
        assert!(seen.table_bytes() < 100 << 20);
        assert!((0..1_000_000).step_by(997).all(|n| seen.claim_now(&key(n), terms(1, 1), now) == Claim::Duplicate));
    }

    #[test]
    fn a_full_store_has_room_again_once_something_expired() {
        let now = Now::read().instant;
        let seen = MemorySeen::new(100_000, now);
        let taken = (0..110_000).filter(|n| deliver(&seen, *n, terms(30, 60), now)).count();
        assert!((95_000..=100_000).contains(&taken), "{taken}");
        let later = now + Duration::from_secs(61);
        let taken = (200_000..300_000).filter(|n| deliver(&seen, *n, terms(30, 60), later)).count();
        assert!(taken >= 95_000 && seen.len() <= 100_000, "{taken}");
    }

    #[test]
    fn expired_ids_are_swept_by_the_claims_that_follow() {
        let start = Now::read().instant;
        let seen = MemorySeen::new(1_000_000, start);
        let mut most = 0;
        for n in 0..400_000u64 {
            // A thousand a second, each remembered for ten seconds: ten thousand at any time.
            assert!(deliver(&seen, n, terms(30, 10), start + Duration::from_millis(n)));
            if n % 1000 == 0 {
                most = most.max(seen.len());
            }
        }
        assert!(most < 20_000, "{most}");
        seen.sweep(start + Duration::from_secs(1000));
        assert!(seen.is_empty() && seen.table_bytes() < 64 << 10, "{}", seen.table_bytes());
    }

    #[test]
    fn nothing_is_forgotten_before_its_time_and_little_after() {
        let start = Now::read().instant;
        for offset in [0u64, 1, 31, 62, 63, 500, 999] {
            let seen = MemorySeen::new(10, start);
            let now = start + Duration::from_millis(offset);
            let terms = Terms { lease: Duration::from_millis(1001), remember: Duration::from_millis(2001) };
            let token = seen.claim_now(&key(1), terms, now);
            assert_eq!(seen.claim_now(&key(1), terms, now + Duration::from_millis(1000)), Claim::InFlight);
            drop(token);
            let now = now + Duration::from_millis(1001 + 63);
            assert!(deliver(&seen, 1, terms, now));
            assert_eq!(seen.claim_now(&key(1), terms, now + Duration::from_millis(2000)), Claim::Duplicate);
            assert!(deliver(&seen, 1, terms, now + Duration::from_millis(2001 + 63)));
        }
    }

    proptest! {
        /// A table this small is always nearly full, so that removals move slots around the end of the ring.
        #[test]
        fn the_table_agrees_with_a_map(
            steps in prop::collection::vec((0u8..4, 0u8..24, 1u32..40), 1..300), pace in 1u32..5,
        ) {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            let mut table = Table::new(20, hasher.clone());
            let mut model: HashMap<[u8; 16], u32> = HashMap::new();
            let mut tick = 1;
            for (step, key, time) in steps {
                let key = [key; 16];
                let place = Place { shard: 0, hash: hasher.hash_one(key) as u32, key };
                match step {
                    0 | 1 if table.state(&place, tick) == State::Absent => {
                        let fits = table.has_room_for(1, tick);
                        if fits {
                            table.put(place, (tick + time, 7), tick);
                            model.insert(key, tick + time);
                        }
                        let live = model.values().filter(|expires| **expires > tick).count();
                        prop_assert!(fits || live >= 20);
                    }
                    2 => { table.remove(&place); model.remove(&key); }
                    _ => { tick += time / pace; table.sweep_some(tick); }
                }
                for key in (0..24).map(|key| [key; 16]) {
                    let place = Place { shard: 0, hash: hasher.hash_one(key) as u32, key };
                    let live = model.get(&key).is_some_and(|expires| *expires > tick);
                    prop_assert_eq!(table.state(&place, tick) != State::Absent, live, "{:?}", key);
                }
                prop_assert_eq!(table.held, table.slots.iter().filter(|slot| slot.expires != 0).count());
            }
        }
    }
}
