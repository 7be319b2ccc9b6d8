//! What every [`Queue`] must do, as one suite that every engine runs.
//!
//! An engine brings a [`Harness`] of some twenty lines and calls [`all`]. Where the clock is an argument alone the
//! harness turns it; engines whose broker has a clock of its own wait in real time.
#![expect(
    clippy::panic,
    reason = "a test suite fails by panicking; it is here, and not in a test, so that all can use it"
)]

use crate::port::inspect::{Action, EventState, Filter, Inspect, Progress, Sweep};
use crate::port::queue::{
    DeadReason, Delivery, Enqueued, Event, EventUid, Failure, Queue, QueueError, Receipt, Routes, Settlement, Stats,
    Want, lane_of,
};
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What an engine gives the suite.
#[async_trait]
pub trait Harness: Sync {
    /// An empty queue with ample room.
    async fn fresh(&self) -> Arc<dyn Queue>;

    /// An empty queue with room for so many events, where the engine has such a limit of its own.
    async fn bounded(&self, max_events: u64) -> Option<Arc<dyn Queue>>;

    /// The same queue as a process finds it that starts after the last one ended without a word. `queue` is the only
    /// handle that is left.
    async fn restarted(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue>;

    /// The queue's time; never before the real one.
    fn now(&self) -> Now;

    /// Lets time pass: by turning the clock, or by waiting.
    async fn pass(&self, time: Duration);

    /// The step that times of the suite are multiples of; more than four times what the engine may be late by.
    fn unit(&self) -> Duration;

    /// How long an event that is due may take to come out of `receive`.
    fn patience(&self) -> Duration;
}

/// The whole suite. Needs a runtime with several threads and timers.
pub async fn all(harness: &impl Harness) {
    what_was_stored_comes_out_whole(harness).await;
    a_taken_event_is_nobody_elses(harness).await;
    a_lease_ends_and_its_owner_settles_nothing_any_more(harness).await;
    a_lease_can_be_lengthened(harness).await;
    a_retry_comes_later_and_counts(harness).await;
    a_release_does_not_count(harness).await;
    a_dead_letter_is_not_handed_out(harness).await;
    a_held_event_waits_for_its_holder(harness).await;
    only_wanted_routes_are_handed_out(harness).await;
    events_with_one_order_key_go_one_by_one(harness).await;
    a_full_queue_says_so_and_keeps_what_it_has(harness).await;
    a_waiting_worker_wakes(harness).await;
    everything_survives_a_restart(harness).await;
    many_workers_take_each_event_once(harness).await;
    a_queue_can_be_looked_into(harness).await;
}

const LEASE: u32 = 4;

/// After this time what is due does not come any more.
const AT_LAST: Duration = Duration::from_secs(20);

/// An event that no other call made, in this process or before.
pub fn event(route: &str, now: Now) -> Event {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Event {
        uid: EventUid::new(now),
        route: route.into(),
        provider: Some("github".into()),
        event_id: Some(format!("id-{count}").into()),
        event_type: Some("push".into()),
        received: Duration::from_millis(u64::try_from(now.unix.as_millis()).unwrap_or(u64::MAX)),
        request_id: format!("{count:016x}").into(),
        client: Some(std::net::Ipv6Addr::LOCALHOST.into()),
        secure: true,
        verified: true,
        order: None,
        lane: None,
        method: "POST".into(),
        path: "/hooks/a%20b".into(),
        query: Some("x=1&y=%2F".into()),
        host: "hooks.example.com:8443".into(),
        headers: vec![
            ("content-type".into(), b"application/json".as_slice().into()),
            ("x-twice".into(), b"one".as_slice().into()),
            ("X-Twice".into(), b"t\xc3\xa9 two \xff".as_slice().into()),
            ("x-empty".into(), b"".as_slice().into()),
        ],
        body: Bytes::from(format!("{{\"count\":{count}}}")),
    }
}

fn failure() -> Failure {
    Failure { status: Some(503), message: "backend answered 503".into() }
}

fn ok<T>(what: &str, result: Result<T, QueueError>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Compares, and says what for.
fn same<T: PartialEq + Debug>(what: &str, found: T, expected: T) {
    assert!(found == expected, "{what}: expected {expected:?}, found {found:?}");
}

async fn put(harness: &impl Harness, queue: &dyn Queue, event: &Event) {
    match ok("enqueue", queue.enqueue(event, None, None, harness.now()).await) {
        Enqueued::Stored { receipt: None, remembered: false } => {}
        other => panic!("enqueue without claim and hold answered {other:?}"),
    }
}

async fn put_new(harness: &impl Harness, queue: &dyn Queue, route: &str) -> Event {
    let event = event(route, harness.now());
    put(harness, queue, &event).await;
    event
}

/// What `receive` gives at once, or within the time that an event that is due may take.
async fn receive(harness: &impl Harness, queue: &dyn Queue, max: usize, routes: Routes<'_>) -> Vec<Delivery> {
    receive_within(harness, queue, harness.patience(), max, routes).await
}

async fn receive_within(
    harness: &impl Harness,
    queue: &dyn Queue,
    patience: Duration,
    max: usize,
    routes: Routes<'_>,
) -> Vec<Delivery> {
    let want = Want { max, lease: harness.unit() * LEASE, patience, routes };
    ok("receive", queue.receive(want, harness.now()).await)
}

/// All that is due, which should be so many: brokers bring them in several parts, and on a busy machine late.
async fn take(harness: &impl Harness, queue: &dyn Queue, count: usize, routes: Routes<'_>) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let more = receive_within(harness, queue, AT_LAST, 10, routes).await;
        if more.is_empty() {
            return taken;
        }
        taken.extend(more);
    }
    taken.extend(receive(harness, queue, 10, routes).await);
    taken
}

async fn take_one(harness: &impl Harness, queue: &dyn Queue, what: &str) -> Delivery {
    let mut taken = receive_within(harness, queue, AT_LAST, 1, Routes::All).await;
    match (taken.pop(), taken.pop()) {
        (Some(delivery), None) => delivery,
        other => panic!("{what}: expected one event, got {other:?}"),
    }
}

async fn nothing(harness: &impl Harness, queue: &dyn Queue, what: &str) {
    let taken = receive(harness, queue, 10, Routes::All).await;
    assert!(taken.is_empty(), "{what}: nothing is due, got {taken:?}");
}

async fn settle(harness: &impl Harness, queue: &dyn Queue, receipt: Receipt, settlement: Settlement) -> bool {
    ok("settle", queue.settle(receipt, settlement, harness.now()).await)
}

async fn stats(harness: &impl Harness, queue: &dyn Queue) -> Stats {
    ok("stats", queue.stats(harness.now()).await)
}

async fn what_was_stored_comes_out_whole(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let mut bare = event("bare", harness.now());
    (bare.provider, bare.event_id, bare.event_type, bare.client, bare.query) = (None, None, None, None, None);
    (bare.secure, bare.verified, bare.headers, bare.body) = (false, false, Vec::new(), Bytes::new());
    let mut large = event("large", harness.now());
    large.body = (0..150_000u32).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
    large.order = Some("customer-7".into());
    let mut binary = event("binary", harness.now());
    binary.body = (0..=255u8).collect::<Vec<_>>().into();
    let events = [bare, large, binary, event("plain", harness.now())];
    for event in &events {
        put(harness, &*queue, event).await;
    }
    let mut found = Vec::new();
    for _ in &events {
        let delivery = take_one(harness, &*queue, "each of them").await;
        same("attempt", delivery.attempt, 1);
        same("receipt", delivery.receipt.uid, delivery.event.uid);
        found.push(delivery.event);
        assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await, "its owner settles");
    }
    found.sort_by_key(|event| events.iter().position(|known| known.uid == event.uid));
    for (found, expected) in found.iter().zip(&events) {
        same("event", found, expected);
    }
    nothing(harness, &*queue, "all were done").await;
}

async fn a_taken_event_is_nobody_elses(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let stored = put_new(harness, &*queue, "r").await;
    let delivery = take_one(harness, &*queue, "stored").await;
    same("event", &delivery.event, &stored);
    nothing(harness, &*queue, "taken").await;
    let twin = delivery.receipt.clone();
    assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
    assert!(!settle(harness, &*queue, twin, Settlement::Done).await, "settled twice");
    nothing(harness, &*queue, "done").await;
}

async fn a_lease_ends_and_its_owner_settles_nothing_any_more(harness: &impl Harness) {
    let queue = harness.fresh().await;
    put_new(harness, &*queue, "r").await;
    let lost = take_one(harness, &*queue, "stored").await;
    harness.pass(harness.unit() * (LEASE + 2)).await;
    let second = take_one(harness, &*queue, "its lease ended").await;
    same("attempt", second.attempt, 2);
    for settlement in [Settlement::Done, Settlement::Retry { after: Duration::ZERO, failure: failure() }] {
        assert!(!settle(harness, &*queue, lost.receipt.clone(), settlement).await, "not its owner any more");
    }
    assert!(!ok("extend", queue.extend(&lost.receipt, harness.unit(), harness.now()).await));
    assert!(settle(harness, &*queue, second.receipt, Settlement::Done).await);
}

async fn a_lease_can_be_lengthened(harness: &impl Harness) {
    let queue = harness.fresh().await;
    put_new(harness, &*queue, "r").await;
    let delivery = take_one(harness, &*queue, "stored").await;
    harness.pass(harness.unit() * (LEASE - 2)).await;
    assert!(ok("extend", queue.extend(&delivery.receipt, harness.unit() * (LEASE + 2), harness.now()).await));
    harness.pass(harness.unit() * LEASE).await;
    nothing(harness, &*queue, "its lease was lengthened").await;
    assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
}

async fn a_retry_comes_later_and_counts(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let stored = put_new(harness, &*queue, "r").await;
    for attempt in 1..=3 {
        let delivery = take_one(harness, &*queue, "due").await;
        same("attempt", delivery.attempt, attempt);
        same("event", &delivery.event, &stored);
        let settlement = Settlement::Retry { after: harness.unit() * 3, failure: failure() };
        assert!(settle(harness, &*queue, delivery.receipt, settlement).await);
        nothing(harness, &*queue, "not due yet").await;
        harness.pass(harness.unit() * 4).await;
    }
    let delivery = take_one(harness, &*queue, "due").await;
    assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
}

async fn a_release_does_not_count(harness: &impl Harness) {
    let queue = harness.fresh().await;
    put_new(harness, &*queue, "r").await;
    for _ in 0..3 {
        let delivery = take_one(harness, &*queue, "due").await;
        same("attempt", delivery.attempt, 1);
        assert!(settle(harness, &*queue, delivery.receipt, Settlement::Release { after: Duration::ZERO }).await);
    }
    let delivery = take_one(harness, &*queue, "due").await;
    assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
}

async fn a_dead_letter_is_not_handed_out(harness: &impl Harness) {
    let queue = harness.fresh().await;
    for reason in DeadReason::ALL {
        put_new(harness, &*queue, "r").await;
        let delivery = take_one(harness, &*queue, "stored").await;
        let settlement = Settlement::Dead { reason: *reason, failure: Some(failure()) };
        assert!(settle(harness, &*queue, delivery.receipt, settlement).await);
    }
    harness.pass(harness.unit() * (LEASE + 2)).await;
    nothing(harness, &*queue, "all are dead").await;
    let stats = stats(harness, &*queue).await;
    let all = DeadReason::ALL.len() as u64;
    assert!(stats.dead.is_none_or(|dead| dead == all), "{stats:?}");
    assert!(matches!(stats.ready, None | Some(0)), "{stats:?}");
}

async fn a_held_event_waits_for_its_holder(harness: &impl Harness) {
    let queue = harness.fresh().await;
    if !queue.abilities().holds {
        return;
    }
    let hold = Some(harness.unit() * LEASE);
    let mut receipts = Vec::new();
    for _ in 0..2 {
        match ok("enqueue", queue.enqueue(&event("r", harness.now()), None, hold, harness.now()).await) {
            Enqueued::Stored { receipt: Some(receipt), .. } => receipts.push(receipt),
            other => panic!("enqueue with a hold answered {other:?}"),
        }
    }
    nothing(harness, &*queue, "held").await;
    let (Some(kept), Some(done)) = (receipts.pop(), receipts.pop()) else { panic!("two receipts") };
    assert!(settle(harness, &*queue, done, Settlement::Done).await, "the holder settles");
    harness.pass(harness.unit() * (LEASE + 2)).await;
    let delivery = take_one(harness, &*queue, "its hold ended").await;
    same("event", delivery.event.uid, kept.uid);
    same("attempt", delivery.attempt, 2);
    assert!(!settle(harness, &*queue, kept, Settlement::Done).await, "the hold ended");
    assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
    nothing(harness, &*queue, "both were done").await;
}

async fn only_wanted_routes_are_handed_out(harness: &impl Harness) {
    let queue = harness.fresh().await;
    if !queue.abilities().selects {
        return;
    }
    for route in ["a", "b", "c", "a"] {
        put_new(harness, &*queue, route).await;
    }
    let names = |found: Vec<Delivery>| {
        let mut names: Vec<String> = found.into_iter().map(|delivery| delivery.event.route.into_string()).collect();
        names.sort_unstable();
        names
    };
    same("none of them", names(receive(harness, &*queue, 10, Routes::Of(&["d".into()])).await), Vec::new());
    same("of two", names(take(harness, &*queue, 1, Routes::Of(&["b".into(), "d".into()])).await), vec!["b".into()]);
    same("any but", names(take(harness, &*queue, 1, Routes::Except(&["a".into()])).await), vec!["c".into()]);
    same("the rest", names(take(harness, &*queue, 2, Routes::All).await), vec!["a".into(), "a".into()]);
    // Events of one route that go elsewhere are chosen by a name of their own.
    for lane in [Some("u"), None, Some("v")] {
        let mut event = event("l", harness.now());
        event.lane = lane.map(Into::into);
        put(harness, &*queue, &event).await;
    }
    let lanes = |found: Vec<Delivery>| found.into_iter().map(|delivery| delivery.event.lane).collect::<Vec<_>>();
    let to_u = [lane_of("l", "u")];
    same("a lane", lanes(take(harness, &*queue, 1, Routes::Of(&to_u)).await), vec![Some("u".into())]);
    same("the route's own", lanes(take(harness, &*queue, 1, Routes::Of(&["l".into()])).await), vec![None]);
    queue.keep_lanes(&to_u).await;
    same("a lane that is gone", lanes(take(harness, &*queue, 1, Routes::Of(&["l".into()])).await), vec![None]);
}

async fn events_with_one_order_key_go_one_by_one(harness: &impl Harness) {
    let queue = harness.fresh().await;
    if !queue.abilities().orders {
        return;
    }
    let mut first = Vec::new();
    for (route, key) in
        [("r", Some("x")), ("r", Some("x")), ("r", Some("y")), ("s", Some("x")), ("r", None), ("r", None)]
    {
        let mut event = event(route, harness.now());
        event.order = key.map(Into::into);
        put(harness, &*queue, &event).await;
        first.push(event.uid);
        harness.pass(Duration::from_millis(2)).await;
    }
    let second = first.remove(1);
    let mut taken = take(harness, &*queue, first.len(), Routes::All).await;
    let found: HashSet<_> = taken.iter().map(|delivery| delivery.event.uid).collect();
    same("the first of each key, and all without one", found, first.iter().copied().collect());
    // A failed one holds its followers back; one that is done, or dead, does not.
    let leader = taken.swap_remove(taken.iter().position(|found| Some(&found.event.uid) == first.first()).unwrap_or(0));
    let retry = Settlement::Retry { after: harness.unit() * 2, failure: failure() };
    assert!(settle(harness, &*queue, leader.receipt, retry).await);
    nothing(harness, &*queue, "the first of its key is not through").await;
    harness.pass(harness.unit() * 3).await;
    let leader = take_one(harness, &*queue, "the first again").await;
    same("order", Some(&leader.event.uid), first.first());
    let dead = Settlement::Dead { reason: DeadReason::Rejected, failure: Some(failure()) };
    assert!(settle(harness, &*queue, leader.receipt, dead).await);
    same("the second", take_one(harness, &*queue, "the second of its key").await.event.uid, second);
}

async fn a_full_queue_says_so_and_keeps_what_it_has(harness: &impl Harness) {
    let Some(queue) = harness.bounded(3).await else { return };
    for _ in 0..3 {
        put_new(harness, &*queue, "r").await;
    }
    for _ in 0..2 {
        match queue.enqueue(&event("r", harness.now()), None, None, harness.now()).await {
            Err(QueueError::Full(_)) => {}
            other => panic!("a full queue answered {other:?}"),
        }
    }
    let taken = take(harness, &*queue, 3, Routes::All).await;
    same("what it has", taken.len(), 3);
    for delivery in taken {
        assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
    }
    put_new(harness, &*queue, "r").await;
}

async fn a_waiting_worker_wakes(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let want = Want { max: 1, lease: harness.unit() * LEASE, patience: Duration::from_secs(30), routes: Routes::All };
    let (now, stored) = (harness.now(), event("r", harness.now()));
    let (taken, ()) = tokio::join!(queue.receive(want, now), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        put(harness, &*queue, &stored).await;
    });
    let taken = ok("receive", taken);
    same("what was waited for", taken.first().map(|delivery| &delivery.event), Some(&stored));
}

async fn everything_survives_a_restart(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let mut uids = HashSet::new();
    for fate in ["ready", "taken", "retried", "dead", "done"] {
        let event = put_new(harness, &*queue, fate).await;
        if fate != "dead" && fate != "done" {
            uids.insert(event.uid);
        }
        if fate == "ready" {
            // Out of the way of the others, by being later than they are.
            let delivery = take_one(harness, &*queue, fate).await;
            let release = Settlement::Retry { after: harness.unit() * (LEASE + 1), failure: failure() };
            assert!(settle(harness, &*queue, delivery.receipt, release).await);
            continue;
        }
        let delivery = take_one(harness, &*queue, fate).await;
        same("taken", delivery.event.uid, event.uid);
        let settlement = match fate {
            "retried" => Settlement::Retry { after: harness.unit() * (LEASE + 1), failure: failure() },
            "dead" => Settlement::Dead { reason: DeadReason::MaxAge, failure: None },
            "done" => Settlement::Done,
            _ => continue,
        };
        assert!(settle(harness, &*queue, delivery.receipt, settlement).await);
    }
    let queue = harness.restarted(queue).await;
    harness.pass(harness.unit() * (LEASE + 2)).await;
    let mut found = HashSet::new();
    for _ in 0..3 {
        let delivery = take_one(harness, &*queue, "what was stored before the restart").await;
        assert!(delivery.attempt > 1, "the attempt before the restart counts");
        found.insert(delivery.event.uid);
        assert!(settle(harness, &*queue, delivery.receipt, Settlement::Done).await);
    }
    same("after the restart", found, uids);
    nothing(harness, &*queue, "nothing else was left").await;
    let stats = stats(harness, &*queue).await;
    assert!(matches!(stats.dead, None | Some(1)), "{stats:?}");
}

async fn many_workers_take_each_event_once(harness: &impl Harness) {
    const EVENTS: usize = 120;
    let queue = harness.fresh().await;
    let puts = (0..EVENTS).map(|_| async { put_new(harness, &*queue, "r").await.uid });
    let left = AtomicUsize::new(EVENTS);
    let worker = |n: usize| {
        let (queue, left) = (&*queue, &left);
        async move {
            let (mut done, mut idle) = (Vec::new(), 0);
            while left.load(Ordering::Relaxed) > 0 && idle < 500 {
                // Nobody is slow enough to lose it.
                let (lease, patience) = (harness.unit() * 60, harness.patience());
                let want = Want { max: n, lease, patience, routes: Routes::All };
                let taken = ok("receive", queue.receive(want, harness.now()).await);
                if taken.is_empty() {
                    idle += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                for delivery in taken {
                    tokio::task::yield_now().await;
                    done.push(delivery.event.uid);
                    left.fetch_sub(1, Ordering::Relaxed);
                    assert!(settle(harness, queue, delivery.receipt, Settlement::Done).await);
                }
            }
            done
        }
    };
    let (stored, a, b, c) = tokio::join!(futures_util::future::join_all(puts), worker(1), worker(3), worker(10));
    let mut counts: HashMap<EventUid, usize> = HashMap::new();
    for uid in a.into_iter().chain(b).chain(c) {
        *counts.entry(uid).or_default() += 1;
    }
    same("events", counts.len(), EVENTS);
    for uid in stored {
        same("times delivered", counts.get(&uid), Some(&1));
    }
    nothing(harness, &*queue, "all were done").await;
}

async fn sweep(harness: &impl Harness, inspect: &dyn Inspect, action: Action, filter: &Filter, dry_run: bool) -> u64 {
    let progress = Progress::default();
    let sweep = Sweep { action, filter: filter.clone(), dry_run };
    ok("sweep", inspect.sweep(&sweep, &progress, harness.now()).await);
    assert!(progress.looked() >= progress.matched(), "{progress:?}");
    progress.matched()
}

async fn list(harness: &impl Harness, inspect: &dyn Inspect, filter: &Filter) -> Vec<EventUid> {
    let listing = ok("list", inspect.list(filter, None, 100, harness.now()).await);
    assert!(listing.complete, "all was looked at");
    listing.events.iter().map(|summary| summary.uid).collect()
}

/// Makes three dead letters, of the routes a, b and a.
async fn three_dead(harness: &impl Harness, queue: &dyn Queue) -> Vec<Event> {
    let mut dead = Vec::new();
    for route in ["a", "b", "a"] {
        let event = put_new(harness, queue, route).await;
        let delivery = take_one(harness, queue, route).await;
        let settlement = Settlement::Dead { reason: DeadReason::MaxAttempts, failure: Some(failure()) };
        assert!(settle(harness, queue, delivery.receipt, settlement).await);
        dead.push(event);
        harness.pass(Duration::from_millis(2)).await;
    }
    dead
}

async fn a_queue_can_be_looked_into(harness: &impl Harness) {
    let queue = harness.fresh().await;
    let Some(inspect) = queue.inspect() else { panic!("every engine can be looked into") };
    let dead = three_dead(harness, &*queue).await;
    let ready = put_new(harness, &*queue, "a").await;
    let sees_all = inspect.reach().states.contains(&EventState::Ready);
    let mut expected: Vec<_> = dead.iter().map(|event| event.uid).collect();
    if sees_all {
        expected.push(ready.uid);
    }
    let now = harness.now();
    // Twice: looking changes nothing.
    for _ in 0..2 {
        same("all, oldest first", list(harness, inspect, &Filter::default()).await, expected.clone());
    }
    let all = ok("list", inspect.list(&Filter::default(), None, 100, now).await).events;
    let Some(first) = all.first() else { panic!("a list") };
    same("state", first.state, EventState::Dead);
    same("reason", first.dead.as_deref(), Some(DeadReason::MaxAttempts.label()));
    same("failure", first.failure.as_ref(), Some(&failure()));
    same("attempts", first.attempts, 1);
    same("length", first.body_bytes, dead.first().map_or(0, |event| event.body.len() as u64));
    let page = ok("list", inspect.list(&Filter::default(), expected.get(1).copied(), 1, now).await).events;
    same("a page", page.first().map(|summary| summary.uid), expected.get(2).copied());
    let of_a = Filter { route: Some("a".into()), state: Some(EventState::Dead), ..Filter::default() };
    same("filtered", list(harness, inspect, &of_a).await, vec![dead[0].uid, dead[2].uid]);
    let waiting = Filter { state: Some(EventState::Ready), ..Filter::default() };
    match inspect.list(&waiting, None, 100, now).await {
        Ok(listing) if sees_all => same("what waits", listing.events.len(), 1),
        Err(QueueError::Unsupported(why)) if !sees_all => assert!(why.contains("dead letters alone"), "{why}"),
        other => panic!("what waits: {other:?}"),
    }
    let (summary, event) = ok("show", inspect.show(dead[0].uid, now).await).unwrap_or_else(|| panic!("shown"));
    same("shown", (&summary, &event), (first, &dead[0]));
    same("nobody", ok("show", inspect.show(EventUid([7; 16]), now).await), None);

    same("a dry run counts", sweep(harness, inspect, Action::Replay, &of_a, true).await, 2);
    same("and changes nothing", list(harness, inspect, &Filter::default()).await, expected.clone());
    same("replayed", sweep(harness, inspect, Action::Replay, &of_a, false).await, 2);
    let mut found = Vec::new();
    // A broker brings them one after the other.
    for _ in 0..10 {
        let taken = receive(harness, &*queue, 10, Routes::All).await;
        for delivery in taken {
            // Looking at a broker takes its time.
            assert!(ok("extend", queue.extend(&delivery.receipt, harness.unit() * 60, harness.now()).await));
            found.push((delivery.event.uid, delivery.attempt, delivery.receipt));
        }
        if found.len() >= 3 {
            break;
        }
    }
    found.sort_unstable_by_key(|(uid, ..)| *uid);
    let uids: Vec<_> = found.iter().map(|(uid, attempt, _)| (*uid, *attempt)).collect();
    same("replayed and ready", uids, vec![(dead[0].uid, 1), (dead[2].uid, 1), (ready.uid, 1)]);

    // One that dies again is a dead letter again, and one that was replayed is delivered whoever had it before.
    let (_, _, again) = found.remove(0);
    let settlement = Settlement::Dead { reason: DeadReason::Rejected, failure: None };
    assert!(settle(harness, &*queue, again, settlement).await);
    same("dead again", list(harness, inspect, &of_a).await, vec![dead[0].uid]);
    let one = Filter { uid: Some(dead[0].uid), ..Filter::default() };
    same("replayed again", sweep(harness, inspect, Action::Replay, &one, false).await, 1);
    let again = take_one(harness, &*queue, "replayed again").await;
    assert!(ok("extend", queue.extend(&again.receipt, harness.unit() * 60, harness.now()).await));
    same("it", (again.event.uid, again.attempt), (dead[0].uid, 1));

    // Of b one is dead; nothing that somebody delivers is purged.
    let everything = Filter::default();
    let counted = sweep(harness, inspect, Action::Purge, &everything, true).await;
    let purged = sweep(harness, inspect, Action::Purge, &everything, false).await;
    same("what nobody delivers is purged", (counted, purged), (1, 1));
    let left = Filter { state: Some(EventState::Dead), ..Filter::default() };
    same("no dead letter is left", list(harness, inspect, &left).await, Vec::new());
    for (_, _, receipt) in found {
        assert!(settle(harness, &*queue, receipt, Settlement::Done).await);
    }
    assert!(settle(harness, &*queue, again.receipt, Settlement::Done).await);
    nothing(harness, &*queue, "all were done or purged").await;
}
