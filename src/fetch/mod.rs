//! What comes over the network besides requests: the networks and the public keys that senders publish.
//!
//! ```text
//! target.rs   which URLs: fixed ones, and patterns for those that a message names
//! address.rs  which addresses: public ones, unless the configuration says otherwise
//! client.rs   one GET: TLS, no redirect, one deadline, a limit for everything
//! course.rs   when: freshness, retries that wait longer each time, what is told of it
//! disk.rs     the last good copies
//! ranges.rs   published networks
//! keys.rs     public keys: sets, and keys and certificates that messages name; certificate.rs says which of these count
//! api.rs      the questions for keys that take credentials
//! desk.rs     where requests wait for a key
//! ```
//!
//! Checks never fetch. They read what is in force from a cell (`check::ranges`); this room fills the cells, in the
//! background, and a request waits for it only where a key is missing that its sender may just have begun to use.
//! Nothing that a request carries can make this process speak to any other place than those that the configuration and
//! the presets pin.

pub(crate) mod address;
mod api;
mod certificate;
pub mod client;
mod course;
mod desk;
mod disk;
mod keys;
mod ranges;
pub(crate) mod roots;
pub mod target;

use crate::check::ranges::Ranges;
use crate::check::signature::fetched::{KeysAt, Shelf, Wanted};
use crate::policy::{Authentication, FetchSettings, Policy};
use crate::request::Now;
use crate::telemetry::fetch::{FetchMetrics, Kind};
use certificate::Signers;
use client::{Client, FetchError, Fetched, Question};
use course::Course;
use desk::{Bucket, Desk};
use http::HeaderValue;
use parking_lot::Mutex;
use rustls_pki_types::TrustAnchor;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use target::Target;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Fetches what the policy in force needs. Outlives a reload, and so does what it has fetched.
pub struct Fetching {
    metrics: FetchMetrics,
    work: watch::Sender<Arc<Work>>,
    courses: Mutex<HashMap<(Kind, String), SharedCourse>>,
    desks: Mutex<HashMap<Box<str>, Arc<Desk>>>,
    /// Requests that wait for a key.
    waiting: AtomicUsize,
    visits: Mutex<Bucket>,
}

/// Held by the one task that follows the source.
type SharedCourse = Arc<tokio::sync::Mutex<Course>>;

/// What one policy needs.
struct Work {
    settings: FetchSettings,
    /// Made when something is to be fetched: only then roots are needed.
    client: OnceLock<Result<Client, String>>,
    roots: OnceLock<Vec<TrustAnchor<'static>>>,
    ranges: Vec<Arc<Ranges>>,
    shelves: Vec<Arc<Shelf>>,
}

/// Requests that may wait for keys at a time.
const MAX_WAITING: usize = 256;

impl Work {
    async fn get(&self, target: &Target, limit: usize, etag: Option<&HeaderValue>) -> Result<Fetched, FetchError> {
        match self.client.get_or_init(|| Client::new(&self.settings)) {
            Ok(client) => client.get(target, limit, etag).await,
            Err(why) => Err(FetchError::Connect(why.clone())),
        }
    }

    async fn ask(&self, question: Question<'_>, limit: usize) -> Result<Fetched, FetchError> {
        match self.client.get_or_init(|| Client::new(&self.settings)) {
            Ok(client) => client.ask(question, limit).await,
            Err(why) => Err(FetchError::Connect(why.clone())),
        }
    }

    /// What chains of signers' certificates have to lead to. None where there are none: then no chain does.
    fn signers(&self) -> Signers<'_> {
        let named = self.settings.signer_ca.as_deref();
        let read = || roots::store(named.or(self.settings.ca.as_deref())).map(|store| store.roots).unwrap_or_default();
        Signers { roots: self.roots.get_or_init(read), all: named.is_some() }
    }
}

impl Fetching {
    /// For this policy. Nothing is fetched before [`Fetching::run`].
    pub fn new(policy: &Policy, metrics: FetchMetrics) -> Self {
        let fetching = Self {
            metrics,
            work: watch::Sender::new(Arc::new(Work::of(policy))),
            courses: Mutex::default(),
            desks: Mutex::default(),
            waiting: AtomicUsize::new(0),
            visits: Mutex::new(Bucket::new(8, Duration::from_secs(10))),
        };
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
        for shelf in &work.shelves {
            self.metrics.source(Kind::Keys, &shelf.name);
            keys::take_kept(work, shelf, Now::read());
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
            for shelf in &work.shelves {
                let (work, shelf, desk) = (work.clone(), shelf.clone(), self.desk(shelf));
                let (course, metrics) = (self.course(Kind::Keys, shelf.name.to_string()), self.metrics.clone());
                match shelf.at {
                    KeysAt::Certificate(_) | KeysAt::Asked(_) => {
                        tasks.spawn(keys::follow_single(work, shelf, desk, course, metrics))
                    }
                    KeysAt::Jwks(_) | KeysAt::OpenId(_) => {
                        tasks.spawn(keys::follow_set(work, shelf, desk, course, metrics))
                    }
                };
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn course(&self, kind: Kind, source: String) -> SharedCourse {
        self.courses.lock().entry((kind, source)).or_default().clone()
    }

    fn desk(&self, shelf: &Shelf) -> Arc<Desk> {
        let new = || Arc::new(Desk::new());
        self.desks.lock().entry(shelf.name.clone()).or_insert_with(new).clone()
    }

    /// Has a key fetched that a request was signed with, and waits for it, for `fetch.wait` at most. Whether it came is
    /// seen on the shelf.
    pub async fn obtain(&self, wanted: Wanted) {
        /// One place of those who wait, given back however the waiting ends.
        struct Place<'f>(&'f AtomicUsize);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.waiting);
        if before >= MAX_WAITING {
            return;
        }
        let until = Instant::now() + self.work.borrow().settings.wait;
        let desk = self.desk(&wanted.shelf);
        let rounds = match &wanted.single {
            None => desk.ask_for_set(),
            Some(name) => desk.ask_for(name, wanted.shelf.knows_host(name.url.host())),
        };
        let Some(mut rounds) = rounds else { return };
        while let Ok(Ok(())) = timeout_at(until, rounds.changed()).await {
            match &wanted.single {
                Some(name) if wanted.shelf.known(name, Now::read()).is_none() => {}
                _ => return,
            }
        }
    }

    /// Asks for a URL that a message named and its sender pins, and looks at nothing but the status: for senders that
    /// want a URL visited. Few at a time.
    pub async fn visit(&self, url: &Target) -> Result<(), FetchError> {
        const LIMIT: usize = 64 << 10;
        if !self.visits.lock().take() {
            return Err(FetchError::Address("more URLs than are visited in so short a time".into()));
        }
        let work = self.work.borrow().clone();
        work.get(url, LIMIT, None).await?;
        tracing::info!(target: "hookmoat::fetch", host = url.host(), "visited a URL that a sender named");
        Ok(())
    }

    /// Sets the gauges to what is in force now.
    pub fn observe(&self, now: Now) {
        for ranges in &self.work.borrow().ranges {
            let current = ranges.current();
            let age = current.as_ref().and_then(|list| Some((now.unix_seconds() - list.as_of?) as f64));
            let entries = current.as_ref().map_or(0, |list| list.nets.len());
            self.metrics.in_force(Kind::Ranges, &ranges.name, entries, age);
        }
        for shelf in &self.work.borrow().shelves {
            let age = shelf.held().map(|held| (now.unix_seconds() - held.fetched) as f64);
            self.metrics.in_force(Kind::Keys, &shelf.name, shelf.len(), age);
        }
    }
}

impl Work {
    fn of(policy: &Policy) -> Self {
        let settings = policy.fetch.clone();
        let (mut ranges, mut shelves): (Vec<Arc<Ranges>>, Vec<Arc<Shelf>>) = Default::default();
        for (_, route) in policy.routes.iter() {
            for list in route.allow.published() {
                if !ranges.iter().any(|known| Arc::ptr_eq(known, list)) {
                    ranges.push(list.clone());
                }
            }
            let Authentication::Signature(check) = &route.authentication else { continue };
            for shelf in check.shelves() {
                if !shelves.iter().any(|known| Arc::ptr_eq(known, shelf)) {
                    shelves.push(shelf.clone());
                }
            }
        }
        Self { settings, client: OnceLock::new(), roots: OnceLock::new(), ranges, shelves }
    }
}
