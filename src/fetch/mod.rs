//! What comes over the network besides requests: the networks and the public keys that senders publish.
//!
//! ```text
//! target.rs   which URLs: fixed ones, and patterns for those that a message names
//! address.rs  which addresses: public ones, unless the configuration says otherwise
//! client.rs   one GET: TLS, no redirect, one deadline, a limit for everything
//! course.rs   when: freshness, retries that wait longer each time, what is told of it
//! disk.rs     the last good copies
//! ranges.rs   published networks
//! ```
//!
//! Checks never fetch. They read what is in force from a cell (`check::ranges`); this room fills the cells, in the
//! background, and a request waits for it only where a key is missing that its sender may just have begun to use.
//! Nothing that a request carries can make this process speak to any other place than those that the configuration and
//! the presets pin.

pub(crate) mod address;
pub mod client;
mod course;
mod disk;
mod ranges;
pub(crate) mod roots;
pub mod target;

use crate::check::ranges::Ranges;
use crate::policy::{FetchSettings, Policy};
use crate::request::Now;
use crate::telemetry::fetch::{FetchMetrics, Kind};
use client::{Client, FetchError, Fetched};
use course::Course;
use http::HeaderValue;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use target::Target;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Fetches what the policy in force needs. Outlives a reload, and so does what it has fetched.
pub struct Fetching {
    metrics: FetchMetrics,
    work: watch::Sender<Arc<Work>>,
    courses: Mutex<HashMap<(Kind, String), SharedCourse>>,
}

/// Held by the one task that follows the source.
type SharedCourse = Arc<tokio::sync::Mutex<Course>>;

/// What one policy needs.
struct Work {
    settings: FetchSettings,
    client: Result<Client, String>,
    ranges: Vec<Arc<Ranges>>,
}

impl Work {
    async fn get(&self, target: &Target, limit: usize, etag: Option<&HeaderValue>) -> Result<Fetched, FetchError> {
        match &self.client {
            Ok(client) => client.get(target, limit, etag).await,
            Err(why) => Err(FetchError::Connect(why.clone())),
        }
    }
}

impl Fetching {
    /// For this policy. Nothing is fetched before [`Fetching::run`].
    pub fn new(policy: &Policy, metrics: FetchMetrics) -> Self {
        let fetching =
            Self { metrics, work: watch::Sender::new(Arc::new(Work::of(policy))), courses: Mutex::default() };
        fetching.begin(&fetching.work.borrow());
        fetching
    }

    /// For another policy: what was fetched for the one before stays in force where both need it.
    pub fn adopt(&self, policy: &Policy) {
        let work = Work::of(policy);
        let before = self.work.borrow().clone();
        for new in &work.ranges {
            let same =
                before.ranges.iter().find(|old| old.name == new.name && old.url == new.url && old.pick == new.pick);
            if let Some(old) = same {
                new.continue_from(old);
            }
        }
        self.begin(&work);
        self.work.send_replace(Arc::new(work));
    }

    /// Takes the copies on disk and makes the series.
    fn begin(&self, work: &Work) {
        for ranges in &work.ranges {
            self.metrics.source(Kind::Ranges, &ranges.name);
            ranges::take_kept(work, ranges);
        }
    }

    /// Fetches for as long as it is polled.
    pub async fn run(&self) {
        let mut changes = self.work.subscribe();
        loop {
            let work = changes.borrow_and_update().clone();
            let mut tasks = JoinSet::new();
            for ranges in &work.ranges {
                let Some(url) = &ranges.url else { continue };
                let course = self.course(Kind::Ranges, format!("{} {url}", ranges.name));
                tasks.spawn(ranges::follow(work.clone(), ranges.clone(), course, self.metrics.clone()));
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn course(&self, kind: Kind, source: String) -> SharedCourse {
        self.courses.lock().entry((kind, source)).or_default().clone()
    }

    /// Sets the gauges to what is in force now.
    pub fn observe(&self, now: Now) {
        for ranges in &self.work.borrow().ranges {
            let current = ranges.current();
            let age = current.as_ref().and_then(|list| Some((now.unix_seconds() - list.as_of?) as f64));
            let entries = current.as_ref().map_or(0, |list| list.nets.len());
            self.metrics.in_force(Kind::Ranges, &ranges.name, entries, age);
        }
    }
}

impl Work {
    fn of(policy: &Policy) -> Self {
        let settings = policy.fetch.clone();
        let mut ranges: Vec<Arc<Ranges>> = Vec::new();
        for (_, route) in policy.routes.iter() {
            for list in route.allow.published() {
                if !ranges.iter().any(|known| Arc::ptr_eq(known, list)) {
                    ranges.push(list.clone());
                }
            }
        }
        // Roots are read only where something is fetched.
        let client = match ranges.iter().any(|ranges| ranges.url.is_some()) {
            true => Client::new(&settings),
            false => Err("nothing to fetch".into()),
        };
        Self { settings, client, ranges }
    }
}
