//! Where requests say what they miss and wait for it, and where a sender that forges what it misses runs into a wall.
//!
//! Whoever asks starts at most one fetch, which all who miss the same wait for. Only so many may wait at a time, only so
//! many fetches are started for askers in a while, and for hosts that were never right fewer than for those that were.

use crate::check::signature::fetched::Name;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Different single keys that are asked for at a time.
const MAX_ASKED: usize = 16;

/// The desk of one shelf.
pub(super) struct Desk {
    /// Somebody asked.
    pub(super) asked: Notify,
    /// Moves on with every fetch that ended.
    rounds: watch::Sender<u64>,
    state: Mutex<State>,
}

struct State {
    /// A set is being fetched.
    running: bool,
    single: Vec<Name>,
    budget: Bucket,
    /// For hosts that a good key came from.
    trusted: Bucket,
}

/// So many at once, and one more each time that the interval has passed.
#[derive(Debug)]
pub(super) struct Bucket {
    left: u32,
    most: u32,
    interval: Duration,
    since: Instant,
}

impl Bucket {
    pub(super) fn new(most: u32, interval: Duration) -> Self {
        Self { left: most, most, interval, since: Instant::now() }
    }

    pub(super) fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - self.since).as_millis() / self.interval.as_millis().max(1);
        if gained > 0 {
            self.left = self.left.saturating_add(u32::try_from(gained).unwrap_or(u32::MAX)).min(self.most);
            self.since = now;
        }
        let got = self.left > 0;
        self.left = self.left.saturating_sub(1);
        got
    }
}

impl Desk {
    pub(super) fn new() -> Self {
        let state = State {
            running: false,
            single: Vec::new(),
            budget: Bucket::new(8, Duration::from_secs(10)),
            trusted: Bucket::new(4, Duration::from_secs(10)),
        };
        Self { asked: Notify::new(), rounds: watch::Sender::new(0), state: Mutex::new(state) }
    }

    /// Asks for the set, or joins those who did. `None`: not now.
    pub(super) fn ask_for_set(&self) -> Option<watch::Receiver<u64>> {
        let rounds = self.rounds.subscribe();
        let mut state = self.state.lock();
        if !state.running {
            if !state.budget.take() {
                return None;
            }
            self.asked.notify_one();
        }
        Some(rounds)
    }

    /// Asks for a key or certificate, or joins those who did. `None`: not now.
    pub(super) fn ask_for(&self, name: &Name, known_host: bool) -> Option<watch::Receiver<u64>> {
        let rounds = self.rounds.subscribe();
        let mut state = self.state.lock();
        if !state.single.contains(name) {
            let full = state.single.len() >= MAX_ASKED;
            if full || !(known_host && state.trusted.take() || state.budget.take()) {
                return None;
            }
            state.single.push(name.clone());
            self.asked.notify_one();
        }
        Some(rounds)
    }

    /// The single keys that somebody waits for. They stay asked for until [`Desk::ended`].
    pub(super) fn single(&self) -> Vec<Name> {
        self.state.lock().single.clone()
    }

    /// A fetch of the set begins.
    pub(super) fn begins(&self) {
        self.state.lock().running = true;
    }

    /// A fetch ended, well or not.
    pub(super) fn ended(&self, name: Option<&Name>) {
        let mut state = self.state.lock();
        match name {
            None => state.running = false,
            Some(name) => state.single.retain(|asked| asked != name),
        }
        drop(state);
        self.rounds.send_modify(|round| *round = round.wrapping_add(1));
    }
}
