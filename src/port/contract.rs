//! What every [`SeenIds`] must do, as one suite that every implementation runs.
//!
//! An implementation brings a [`Harness`] of some twenty lines and calls [`all`]. Stores whose clock can be set
//! (`is_virtual`) are put through every interleaving of leases that end; the others wait in real time, and through
//! fewer.
#![expect(
    clippy::panic,
    reason = "a test suite fails by panicking; it is here, and not in a test, so that all can use it"
)]

use crate::port::seen::{Claim, Group, Key, Keys, Outcome, SeenIds, Terms, Token};
use async_trait::async_trait;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an implementation gives the suite.
#[async_trait]
pub trait Harness: Sync {
    /// An empty store with ample room.
    async fn fresh(&self) -> Arc<dyn SeenIds>;

    /// An empty store with room for so many keys, where the implementation has such a limit of its own.
    async fn bounded(&self, max_keys: usize) -> Option<Arc<dyn SeenIds>>;

    /// The store's time; never before the real one.
    fn now(&self) -> Instant;

    /// Lets time pass: by turning the clock, or by waiting.
    async fn pass(&self, time: Duration);

    /// The step that times of the suite are multiples of; more than eight times what the store may be late by.
    fn unit(&self) -> Duration;

    /// Does `pass` return at once?
    fn is_virtual(&self) -> bool;

    /// Is an operation so cheap that a million of them are no matter?
    fn is_cheap(&self) -> bool;

    /// What can happen to the store.
    fn disasters(&self) -> &[Disaster];

    /// Lets it happen to a store; answers with the one that is there afterwards.
    async fn strike(&self, store: Arc<dyn SeenIds>, disaster: Disaster) -> Arc<dyn SeenIds>;
}

/// What a disaster leaves of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disaster {
    /// The process ends, and all claims with it; nothing is left.
    EndsWithNothing,
    /// The process ends, and all claims with it; what was delivered is still known.
    EndsWithDone,
    /// The store loses everything; the processes go on.
    Forgets,
}

/// The whole suite. Needs a runtime with several threads and timers.
pub async fn all(harness: &impl Harness) {
    a_delivered_event_is_a_duplicate_until_it_is_forgotten(harness).await;
    a_failed_event_may_come_again(harness).await;
    an_abandoned_event_may_come_again(harness).await;
    a_lease_ends(harness).await;
    only_the_owner_settles(harness).await;
    a_late_success_takes_nothing_from_anybody(harness).await;
    a_held_claim_outlives_its_lease(harness).await;
    signed_content_is_not_delivered_under_another_id(harness).await;
    all_keys_are_claimed_or_none(harness).await;
    a_full_store_says_so_and_forgets_nothing(harness).await;
    one_of_many_at_once_is_new(harness).await;
    a_waiter_wakes_when_the_event_is_settled(harness).await;
    a_waiter_wakes_when_the_lease_ends_or_its_patience_does(harness).await;
    of_many_waiters_on_a_failed_event_one_goes_next(harness).await;
    every_order_of_deliveries_agrees_with_the_model(harness).await;
    random_histories_agree_with_the_model(harness).await;
}

const LEASE: u32 = 3;
const REMEMBER: u32 = 6;

fn terms(harness: &impl Harness) -> Terms {
    Terms { lease: harness.unit() * LEASE, remember: harness.unit() * REMEMBER }
}

/// A key that no other call made, in this process or before.
fn key() -> Key {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    // What differs stands in the middle: a store must not look at one end only.
    let mut key = [0xa5; 16];
    for (to, from) in key.iter_mut().skip(4).zip(count.to_be_bytes()) {
        *to = from;
    }
    Key(key)
}

fn keys() -> Keys {
    with_content(key(), &[])
}

fn with_content(id: Key, content: &[Key]) -> Keys {
    Keys { group: Some(Group(*b"contract")), id, content: content.to_vec() }
}

async fn claim(harness: &impl Harness, store: &dyn SeenIds, keys: &Keys) -> Claim {
    match store.claim(keys, terms(harness), harness.now()).await {
        Ok(claim) => claim,
        Err(error) => panic!("claim: {error}"),
    }
}

async fn new(harness: &impl Harness, store: &dyn SeenIds, keys: &Keys) -> Token {
    match claim(harness, store, keys).await {
        Claim::New(token) => {
            assert_eq!(&token.keys, keys);
            token
        }
        other => panic!("expected a new event, got {other:?}"),
    }
}

async fn settle(harness: &impl Harness, store: &dyn SeenIds, token: Token, outcome: Outcome) -> bool {
    match store.settle(token, outcome, harness.now()).await {
        Ok(owned) => owned,
        Err(error) => panic!("settle: {error}"),
    }
}

async fn waited(store: &dyn SeenIds, keys: &Keys, patience: Duration) -> bool {
    match store.wait(keys, patience).await {
        Ok(settled) => settled,
        Err(error) => panic!("wait: {error}"),
    }
}

/// Where a store knows how many keys it holds, it holds so many.
#[track_caller]
fn holds(store: &dyn SeenIds, count: usize) {
    if let Some(held) = store.held() {
        assert_eq!(held, count);
    }
}

/// The token's twin, as a process that lost its claim would still hold it.
fn copy(token: &Token) -> Token {
    Token { keys: token.keys.clone(), nonce: token.nonce, remember: token.remember }
}

async fn a_delivered_event_is_a_duplicate_until_it_is_forgotten(harness: &impl Harness) {
    let (store, event, other) = (harness.fresh().await, keys(), keys());
    holds(&*store, 0);
    let token = new(harness, &*store, &event).await;
    assert_eq!(claim(harness, &*store, &event).await, Claim::InFlight);
    harness.pass(harness.unit()).await;
    assert!(settle(harness, &*store, token, Outcome::Done).await);
    assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
    holds(&*store, 1);
    // Counted from the settlement, longer than the lease would have been, and not prolonged by asking.
    harness.pass(harness.unit() * (REMEMBER - 1)).await;
    assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
    let _ = new(harness, &*store, &other).await;
    harness.pass(harness.unit() * 2).await;
    let _ = new(harness, &*store, &event).await;
}

async fn a_failed_event_may_come_again(harness: &impl Harness) {
    let (store, event) = (harness.fresh().await, keys());
    for _ in 0..3 {
        let token = new(harness, &*store, &event).await;
        assert!(settle(harness, &*store, token, Outcome::Failed).await);
    }
    let token = new(harness, &*store, &event).await;
    assert!(settle(harness, &*store, token, Outcome::Done).await);
    assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
}

async fn an_abandoned_event_may_come_again(harness: &impl Harness) {
    let (store, event) = (harness.fresh().await, keys());
    let token = new(harness, &*store, &event).await;
    let late = copy(&token);
    store.abandon(token);
    // A store may do it in the background.
    assert!(waited(&*store, &event, Duration::from_secs(5)).await);
    let second = new(harness, &*store, &event).await;
    store.abandon(late);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(claim(harness, &*store, &event).await, Claim::InFlight);
    assert!(settle(harness, &*store, second, Outcome::Done).await);
}

async fn a_lease_ends(harness: &impl Harness) {
    let (store, event) = (harness.fresh().await, keys());
    let lost = new(harness, &*store, &event).await;
    harness.pass(harness.unit() * (LEASE - 1)).await;
    assert_eq!(claim(harness, &*store, &event).await, Claim::InFlight);
    harness.pass(harness.unit() * 2).await;
    let second = new(harness, &*store, &event).await;
    assert!(!settle(harness, &*store, lost, Outcome::Done).await);
    assert_eq!(claim(harness, &*store, &event).await, Claim::InFlight);
    assert!(settle(harness, &*store, second, Outcome::Done).await);
    assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
}

async fn only_the_owner_settles(harness: &impl Harness) {
    let store = harness.fresh().await;
    for outcome in [Outcome::Done, Outcome::Failed] {
        let event = with_content(key(), &[key(), key()]);
        let token = new(harness, &*store, &event).await;
        let forged = Token { nonce: token.nonce.wrapping_add(1), ..copy(&token) };
        assert!(!settle(harness, &*store, forged, outcome).await);
        assert_eq!(claim(harness, &*store, &event).await, Claim::InFlight);
        let twice = copy(&token);
        assert!(settle(harness, &*store, token, Outcome::Done).await);
        assert!(!settle(harness, &*store, twice, outcome).await);
        assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
        // Nobody's claim: after a lease that ended there is nothing to settle. What was delivered is remembered all the
        // same.
        let late = new(harness, &*store, &keys()).await;
        harness.pass(harness.unit() * (LEASE + 1)).await;
        let event = late.keys.clone();
        assert!(!settle(harness, &*store, late, outcome).await);
        match outcome {
            Outcome::Done => assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate),
            Outcome::Failed => drop(new(harness, &*store, &event).await),
        }
    }
}

async fn a_late_success_takes_nothing_from_anybody(harness: &impl Harness) {
    let store = harness.fresh().await;
    let (shared, event) = (key(), key());
    let late = new(harness, &*store, &with_content(event, &[shared])).await;
    harness.pass(harness.unit() * (LEASE + 1)).await;
    // Another event with the same content is on its way by now.
    let other = new(harness, &*store, &with_content(key(), &[shared])).await;
    let others = other.keys.clone();
    assert!(!settle(harness, &*store, late, Outcome::Done).await);
    assert_eq!(claim(harness, &*store, &with_content(event, &[])).await, Claim::Duplicate);
    assert_eq!(claim(harness, &*store, &others).await, Claim::InFlight);
    assert!(settle(harness, &*store, other, Outcome::Failed).await);
    drop(new(harness, &*store, &others).await);
}

async fn a_held_claim_outlives_its_lease(harness: &impl Harness) {
    let store = harness.fresh().await;
    let event = with_content(key(), &[key()]);
    let terms = Terms { lease: Duration::from_millis(900), remember: Duration::from_secs(60) };
    let Ok(Claim::New(token)) = store.claim(&event, terms, real_now()).await else { panic!("expected a new event") };
    let Some(hold) = store.hold(&token, terms.lease) else { return };
    tokio::time::sleep(terms.lease * 3).await;
    assert!(matches!(store.claim(&event, terms, real_now()).await, Ok(Claim::InFlight)));
    drop(hold);
    tokio::time::sleep(terms.lease + Duration::from_millis(100)).await;
    assert!(matches!(store.claim(&event, terms, real_now()).await, Ok(Claim::New(_))));
    drop(token);
}

async fn signed_content_is_not_delivered_under_another_id(harness: &impl Harness) {
    let (store, content) = (harness.fresh().await, [key(), key()]);
    let event = with_content(key(), &content);
    let again = |n: usize| with_content(key(), &content[n..=n]);
    let token = new(harness, &*store, &event).await;
    holds(&*store, 3);
    for n in [0, 1] {
        assert_eq!(claim(harness, &*store, &again(n)).await, Claim::InFlight);
    }
    assert!(settle(harness, &*store, token, Outcome::Failed).await);
    holds(&*store, 0);
    let token = new(harness, &*store, &again(1)).await;
    assert!(settle(harness, &*store, token, Outcome::Failed).await);
    let token = new(harness, &*store, &event).await;
    assert!(settle(harness, &*store, token, Outcome::Done).await);
    for n in [0, 1] {
        assert_eq!(claim(harness, &*store, &again(n)).await, Claim::Replayed);
        // Content in the place of an ID (an event without one) meets it as well.
        assert_eq!(claim(harness, &*store, &with_content(content[n], &[])).await, Claim::Duplicate);
    }
    assert_eq!(claim(harness, &*store, &event).await, Claim::Duplicate);
    assert_eq!(claim(harness, &*store, &with_content(event.id, &[key()])).await, Claim::Duplicate);
    // Final answers come before provisional ones, wherever they stand.
    let flying = keys();
    let token = new(harness, &*store, &flying).await;
    assert_eq!(claim(harness, &*store, &with_content(flying.id, &content)).await, Claim::Replayed);
    assert_eq!(claim(harness, &*store, &with_content(event.id, &[flying.id])).await, Claim::Duplicate);
    assert_eq!(claim(harness, &*store, &with_content(key(), &[flying.id, content[0]])).await, Claim::Replayed);
    assert!(settle(harness, &*store, token, Outcome::Done).await);
}

async fn all_keys_are_claimed_or_none(harness: &impl Harness) {
    let store = harness.fresh().await;
    let (taken, free) = (keys(), (key(), key()));
    let token = new(harness, &*store, &taken).await;
    assert_eq!(claim(harness, &*store, &with_content(free.0, &[free.1, taken.id])).await, Claim::InFlight);
    assert_eq!(claim(harness, &*store, &with_content(taken.id, &[free.0, free.1])).await, Claim::InFlight);
    holds(&*store, 1);
    let _ = new(harness, &*store, &with_content(free.0, &[free.1])).await;
    assert!(settle(harness, &*store, token, Outcome::Done).await);
}

async fn a_full_store_says_so_and_forgets_nothing(harness: &impl Harness) {
    let Some(store) = harness.bounded(4).await else { return };
    let (one, two, flying) = (keys(), with_content(key(), &[key()]), keys());
    for event in [&one, &two] {
        let token = new(harness, &*store, event).await;
        assert!(settle(harness, &*store, token, Outcome::Done).await);
    }
    assert_eq!(claim(harness, &*store, &with_content(key(), &[key()])).await, Claim::Full);
    let token = new(harness, &*store, &flying).await;
    assert_eq!(claim(harness, &*store, &keys()).await, Claim::Full);
    for (event, expected) in [(&one, Claim::Duplicate), (&two, Claim::Duplicate), (&flying, Claim::InFlight)] {
        assert_eq!(claim(harness, &*store, event).await, expected);
    }
    holds(&*store, 4);
    assert!(settle(harness, &*store, token, Outcome::Failed).await);
    let _ = new(harness, &*store, &keys()).await;
    harness.pass(harness.unit() * (REMEMBER + 1)).await;
    for _ in 0..4 {
        let _ = new(harness, &*store, &keys()).await;
    }
    assert_eq!(claim(harness, &*store, &keys()).await, Claim::Full);
}

async fn one_of_many_at_once_is_new(harness: &impl Harness) {
    let store = harness.fresh().await;
    for shared in [with_content(key(), &[]), with_content(key(), &[key(), key()])] {
        let now = harness.now();
        // Nobody may settle, and no lease may end, while they are at it.
        let terms = Terms { lease: Duration::from_secs(3600), ..terms(harness) };
        let tasks: Vec<_> = (0..200)
            .map(|n| {
                let (store, mut keys) = (Arc::clone(&store), shared.clone());
                // Half of them come with the content in another order, so that locks taken in turn would block.
                if n % 2 == 0 {
                    keys.content.reverse();
                }
                tokio::spawn(async move { store.claim(&keys, terms, now).await })
            })
            .collect();
        let mut tokens = Vec::new();
        for task in tasks {
            match task.await {
                Ok(Ok(Claim::New(token))) => tokens.push(token),
                Ok(Ok(Claim::InFlight)) => {}
                other => panic!("expected a new event or one in flight, got {other:?}"),
            }
        }
        assert_eq!(tokens.len(), 1);
        for token in tokens {
            assert!(settle(harness, &*store, token, Outcome::Done).await);
        }
    }
}

async fn a_waiter_wakes_when_the_event_is_settled(harness: &impl Harness) {
    let store = harness.fresh().await;
    assert!(waited(&*store, &keys(), Duration::from_secs(5)).await);
    for outcome in [Outcome::Done, Outcome::Failed] {
        for patience in [Duration::from_secs(5), Duration::MAX] {
            let event = with_content(key(), &[key(), key()]);
            let token = new(harness, &*store, &event).await;
            let (theirs, keys) = (Arc::clone(&store), with_content(key(), &event.content[1..]));
            let waiter = tokio::spawn(async move { theirs.wait(&keys, patience).await });
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!waiter.is_finished());
            assert!(settle(harness, &*store, token, outcome).await);
            match tokio::time::timeout(Duration::from_secs(4), waiter).await {
                Ok(Ok(Ok(true))) => {}
                other => panic!("expected a settled event, got {other:?}"),
            }
        }
    }
}

async fn a_waiter_wakes_when_the_lease_ends_or_its_patience_does(harness: &impl Harness) {
    let store = harness.fresh().await;
    let event = keys();
    let now = real_now();
    let terms = Terms { lease: Duration::from_millis(500), remember: Duration::from_secs(60) };
    match store.claim(&event, terms, now).await {
        Ok(Claim::New(token)) => drop(token),
        other => panic!("expected a new event, got {other:?}"),
    }
    assert!(!waited(&*store, &event, Duration::from_millis(30)).await);
    assert!(waited(&*store, &event, Duration::from_secs(10)).await);
    let taken = real_now().duration_since(now);
    assert!((Duration::from_millis(500)..Duration::from_secs(5)).contains(&taken), "{taken:?}");
}

/// Waiting is in real time, whatever the harness does with the clock.
fn real_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn of_many_waiters_on_a_failed_event_one_goes_next(harness: &impl Harness) {
    let store = harness.fresh().await;
    let event = keys();
    let token = new(harness, &*store, &event).await;
    let now = harness.now();
    let terms = Terms { lease: Duration::from_secs(3600), ..terms(harness) };
    let waiters: Vec<_> = (0..50)
        .map(|_| {
            let (store, event) = (Arc::clone(&store), event.clone());
            tokio::spawn(async move {
                let settled = store.wait(&event, Duration::from_secs(5)).await;
                (settled, store.claim(&event, terms, now).await)
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(settle(harness, &*store, token, Outcome::Failed).await);
    let mut tokens = Vec::new();
    let mut late = 0;
    // Whoever only looks after the winner has claimed waits on until his patience ends; he gets nothing either.
    for waiter in waiters {
        match tokio::time::timeout(Duration::from_secs(8), waiter).await {
            Ok(Ok((Ok(_), Ok(Claim::New(token))))) => tokens.push(token),
            Ok(Ok((Ok(_), Ok(Claim::InFlight)))) => late += 1,
            other => panic!("expected a new event or one in flight, got {other:?}"),
        }
    }
    assert_eq!((tokens.len(), late), (1, 49));
}

/// What a store is, without everything that makes one useful.
#[derive(Default)]
struct Model {
    held: HashMap<[u8; 16], (State, u32)>,
    now: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    InFlight(usize),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    New,
    Duplicate,
    Replayed,
    InFlight,
}

impl Model {
    fn state(&self, key: &Key) -> Option<State> {
        self.held.get(&key.0).filter(|(_, until)| *until > self.now).map(|(state, _)| *state)
    }

    fn claim(&mut self, actor: usize, keys: &Keys) -> Answer {
        let states: Vec<_> = std::iter::once(&keys.id).chain(&keys.content).map(|key| self.state(key)).collect();
        if states.first() == Some(&Some(State::Done)) {
            Answer::Duplicate
        } else if states.contains(&Some(State::Done)) {
            Answer::Replayed
        } else if states.iter().any(Option::is_some) {
            Answer::InFlight
        } else {
            for key in std::iter::once(&keys.id).chain(&keys.content) {
                self.held.insert(key.0, (State::InFlight(actor), self.now + LEASE));
            }
            Answer::New
        }
    }

    fn settle(&mut self, actor: usize, keys: &Keys, outcome: Outcome) -> bool {
        let all = || std::iter::once(&keys.id).chain(&keys.content);
        let owned = all().all(|key| self.state(key) == Some(State::InFlight(actor)));
        for key in all() {
            match outcome {
                Outcome::Done if self.state(key).is_none_or(|state| state == State::InFlight(actor)) => {
                    self.held.insert(key.0, (State::Done, self.now + REMEMBER));
                }
                Outcome::Failed if owned => drop(self.held.remove(&key.0)),
                _ => {}
            }
        }
        owned
    }

    fn strike(&mut self, disaster: Disaster) {
        match disaster {
            Disaster::EndsWithNothing | Disaster::Forgets => self.held.clear(),
            Disaster::EndsWithDone => self.held.retain(|_, (state, _)| *state == State::Done),
        }
    }
}

fn answer(claim: Claim, tokens: &mut Vec<(usize, Token)>, actor: usize) -> Answer {
    match claim {
        Claim::New(token) => {
            tokens.push((actor, token));
            Answer::New
        }
        Claim::Duplicate => Answer::Duplicate,
        Claim::Replayed => Answer::Replayed,
        Claim::InFlight => Answer::InFlight,
        Claim::Full => panic!("a store with ample room is full"),
    }
}

/// Each of three deliveries (two, where an operation is dear) claims once and, if it got the event, settles once, or
/// crashes and does not; leases may end in between, and the store may be struck by each of its disasters. Besides what
/// the model says, this holds in every order: no success goes unnoticed, that is, of all successes whose owner was told
/// that he still had his claim there is one at most, unless the store forgot what it knew in between.
async fn every_order_of_deliveries_agrees_with_the_model(harness: &impl Harness) {
    for leases_end in [false, true] {
        for disaster in std::iter::once(None).chain(harness.disasters().iter().copied().map(Some)) {
            if leases_end && !harness.is_virtual() {
                continue;
            }
            let plain = !leases_end && disaster.is_none();
            let third = if harness.is_cheap() || plain { 2 } else { 0 };
            let mut counts = [2, 2, third, usize::from(leases_end), usize::from(disaster.is_some())];
            let mut orders = Vec::new();
            interleave(&mut counts, &mut Vec::new(), &mut orders);
            let mut store = harness.fresh().await;
            for order in &orders {
                for endings in 0..if third == 0 { 9 } else { 27 } {
                    store = one_order(harness, store, order, endings, disaster).await;
                }
            }
        }
    }
}

const LEASES_END: usize = 3;
const STRIKE: usize = 4;

/// One order of steps; the digits of `endings` to the base of three say how each delivery ends.
async fn one_order(
    harness: &impl Harness,
    mut store: Arc<dyn SeenIds>,
    order: &[usize],
    endings: usize,
    disaster: Option<Disaster>,
) -> Arc<dyn SeenIds> {
    // The first two name the event alike; the third has only its content in common.
    let (id, content) = (key(), key());
    let events = [with_content(id, &[content]), with_content(id, &[content]), with_content(key(), &[content])];
    let ending = |actor: usize| endings / 3usize.pow(actor as u32) % 3;
    let mut model = Model::default();
    let mut tokens = Vec::new();
    let mut claimed = [false; 3];
    let (mut noticed, mut forgot) = (0, false);
    for step in order {
        let context = || format!("step {step} of {order:?} with endings {endings} and {disaster:?}");
        match (*step, disaster) {
            (LEASES_END, _) => {
                turn(harness, LEASE).await;
                model.now += LEASE;
            }
            (STRIKE, Some(disaster)) => {
                store = harness.strike(store, disaster).await;
                model.strike(disaster);
                forgot |= disaster != Disaster::EndsWithDone;
                if disaster != Disaster::Forgets {
                    tokens.clear();
                }
            }
            (actor, _) => {
                let (Some(event), Some(claimed)) = (events.get(actor), claimed.get_mut(actor)) else { continue };
                if !std::mem::replace(claimed, true) {
                    let got = answer(claim(harness, &*store, event).await, &mut tokens, actor);
                    assert_eq!(got, model.claim(actor, event), "claim at {}", context());
                } else if let Some(at) = tokens.iter().position(|(owner, _)| *owner == actor) {
                    let (_, token) = tokens.swap_remove(at);
                    let outcome = match ending(actor) {
                        0 => Outcome::Done,
                        1 => Outcome::Failed,
                        // Crashed: never heard of again.
                        _ => continue,
                    };
                    let owned = settle(harness, &*store, token, outcome).await;
                    assert_eq!(owned, model.settle(actor, event, outcome), "settle at {}", context());
                    noticed += usize::from(owned && outcome == Outcome::Done);
                }
            }
        }
    }
    assert!(noticed <= 1 || forgot, "two successes went unnoticed in {order:?} with endings {endings}");
    store
}

/// All orders of so many steps of each actor.
fn interleave(counts: &mut [usize; 5], order: &mut Vec<usize>, orders: &mut Vec<Vec<usize>>) {
    if counts.iter().all(|count| *count == 0) {
        orders.push(order.clone());
    }
    for actor in 0..counts.len() {
        if counts[actor] > 0 {
            counts[actor] -= 1;
            order.push(actor);
            interleave(counts, order, orders);
            order.pop();
            counts[actor] += 1;
        }
    }
}

/// A little more than so many units: a store may be late. So little that at most five turns in a row, which is what a
/// memory lasts, do not add up to another unit.
async fn turn(harness: &impl Harness, units: u32) {
    harness.pass(harness.unit() * units + harness.unit() / 8).await;
}

async fn random_histories_agree_with_the_model(harness: &impl Harness) {
    let (histories, steps) = if harness.is_cheap() { (400, 80) } else { (20, 60) };
    for seed in 0..histories {
        let store = harness.fresh().await;
        let pool: Vec<Key> = (0..6).map(|_| key()).collect();
        let mut model = Model::default();
        let mut tokens: Vec<(usize, Token)> = Vec::new();
        let mut random = Random(seed);
        for step in 0..steps {
            let context = format!("step {step} of history {seed}");
            match random.below(10) {
                0..5 => {
                    let mut picked = pool.clone();
                    for at in 0..3 {
                        picked.swap(at, at + random.below(6 - at));
                    }
                    let event = with_content(picked[0], &picked[1..1 + random.below(3)]);
                    let got = answer(claim(harness, &*store, &event).await, &mut tokens, step);
                    assert_eq!(got, model.claim(step, &event), "{context}");
                }
                5..9 if !tokens.is_empty() => {
                    let (actor, token) = tokens.swap_remove(random.below(tokens.len()));
                    let outcome = if random.below(2) == 0 { Outcome::Done } else { Outcome::Failed };
                    let event = token.keys.clone();
                    let owned = settle(harness, &*store, token, outcome).await;
                    assert_eq!(owned, model.settle(actor, &event, outcome), "{context}");
                }
                9 if harness.is_virtual() => {
                    let units = 1 + random.below(3) as u32;
                    turn(harness, units).await;
                    model.now += units;
                }
                _ => {}
            }
        }
    }
}

/// Good enough to choose steps with, and the same in every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end as u64) as usize
    }
}
