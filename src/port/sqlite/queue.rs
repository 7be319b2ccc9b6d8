//! The embedded queue: events in a SQLite file, for one process.
//!
//! * An event is two rows: a small one that says where it is on its way, which is all that scans touch, and one with the
//!   request. Totals are kept by triggers, so that a bound costs a row and not a count.
//! * Taking is written down too: an event that kills the process counts its attempts. Since the file has one owner,
//!   whatever a new owner finds taken is nobody's, and due again at once.
//! * Events with an order key are parked behind the first of their key, and each that ends wakes the next: `receive`
//!   never walks over what it may not hand out.
//! * Times are the wall clock's, since they outlive the process. A clock that jumps forward makes retries due early, one
//!   that jumps back makes them late; neither loses an event.

use super::Finish;
use super::db::{Database, DbError, OpenError, Schema};
use crate::port::inspect::{Action, EventState, Filter, Inspect, Listing, Progress, Reach, Summary, Sweep};
use crate::port::queue::{
    Abilities, Delivery, Enqueued, Event, EventUid, Failure, Queue, QueueError, Receipt, Routes, Settlement, Stats,
    Want, lane_of,
};
use crate::port::seen::Token;
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params, params_from_iter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// The tables. `state`: 0 waits until `due`, 1 taken until `due`, 2 dead since `due`. Times in milliseconds since 1970.
pub const SCHEMA: Schema = Schema {
    name: "queue",
    steps: &[
        "
    CREATE TABLE queue_events (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid BLOB NOT NULL UNIQUE,
        claim BLOB,
        route TEXT NOT NULL,
        provider TEXT,
        event_id TEXT,
        event_type TEXT,
        received INTEGER NOT NULL,
        order_key TEXT,
        state INTEGER NOT NULL,
        due INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        tag INTEGER NOT NULL,
        status INTEGER,
        message TEXT,
        dead TEXT,
        body_bytes INTEGER NOT NULL,
        bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE queue_requests (
        id INTEGER PRIMARY KEY,
        request_id TEXT NOT NULL,
        client TEXT,
        secure INTEGER NOT NULL,
        verified INTEGER NOT NULL,
        method TEXT NOT NULL,
        path TEXT NOT NULL,
        query TEXT,
        host TEXT NOT NULL,
        headers BLOB NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX queue_claim ON queue_events (claim) WHERE claim IS NOT NULL;
    CREATE INDEX queue_due ON queue_events (route, due) WHERE state < 2;
    CREATE INDEX queue_age ON queue_events (received) WHERE state < 2;
    CREATE INDEX queue_order ON queue_events (route, order_key, id) WHERE order_key IS NOT NULL AND state < 2;
    CREATE TABLE queue_totals (state INTEGER PRIMARY KEY, events INTEGER NOT NULL, bytes INTEGER NOT NULL) STRICT;
    INSERT INTO queue_totals VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0);
    CREATE TRIGGER queue_in AFTER INSERT ON queue_events BEGIN
        UPDATE queue_totals SET events = events + 1, bytes = bytes + new.bytes WHERE state = new.state;
    END;
    CREATE TRIGGER queue_out AFTER DELETE ON queue_events BEGIN
        UPDATE queue_totals SET events = events - 1, bytes = bytes - old.bytes WHERE state = old.state;
        DELETE FROM queue_requests WHERE id = old.id;
    END;
    CREATE TRIGGER queue_move AFTER UPDATE OF state ON queue_events WHEN old.state <> new.state BEGIN
        UPDATE queue_totals SET events = events - 1, bytes = bytes - old.bytes WHERE state = old.state;
        UPDATE queue_totals SET events = events + 1, bytes = bytes + new.bytes WHERE state = new.state;
    END;
    ",
        "
    ALTER TABLE queue_events ADD COLUMN lane TEXT;
    DROP INDEX queue_due;
    CREATE INDEX queue_due ON queue_events (ifnull(lane, route), due) WHERE state < 2;
    ",
    ],
};

/// Due never: behind another event with the same order key.
const PARKED: i64 = i64::MAX;
/// What a row costs beside the request's bytes, roughly.
const ROW_BYTES: usize = 300;
/// `hookmoat queue` changes the file from another process and cannot wake us.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Events that are moved in one transaction, by those who look into the queue.
const PORTION: usize = 500;
/// `state` of an event that somebody delivers.
const TAKEN: i64 = 1;
/// Pages given back to the file system at a time.
const GIVE_BACK: i64 = 512;

/// Bounds of a queue. Dead letters count: they take room until somebody replays or purges them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub max_events: u64,
    /// Their bytes, roughly.
    pub max_bytes: u64,
}

/// A queue in a SQLite file.
pub struct SqliteQueue {
    database: Arc<Database>,
    bounds: Bounds,
    seen: Option<Arc<dyn Finish>>,
    wake: Arc<Notify>,
    tags: AtomicU64,
    turn: AtomicUsize,
    /// Why it is full, at the last look.
    full: Mutex<Option<String>>,
}

impl SqliteQueue {
    /// The queue of the file's owner. Blocks: for start-up. What the process before had taken is due again.
    ///
    /// `seen` is the memory of IDs in the same file, if that is where routes remember.
    pub fn open(
        database: Arc<Database>,
        bounds: Bounds,
        seen: Option<Arc<dyn Finish>>,
        now: Now,
    ) -> Result<Self, OpenError> {
        database.migrate(SCHEMA)?;
        let now = millis(now.unix);
        let released = database.write_blocking(move |connection| {
            connection.execute("UPDATE queue_events SET state = 0, due = ?1, tag = 0 WHERE state = 1", [now])
        });
        match released {
            Ok(0) => {}
            Ok(events) => tracing::info!(
                target: "hookmoat", events, path = %database.path().display(),
                "events were being delivered when the last process ended; they are due again"
            ),
            Err(error) => {
                return Err(OpenError::Unusable { path: database.path().into(), why: error.to_string() });
            }
        }
        Ok(Self::on(database, bounds, seen))
    }

    /// The queue of a file whose owner may be at work, for a tool.
    pub fn visit(database: Arc<Database>) -> Result<Self, OpenError> {
        database.check_version(SCHEMA)?;
        Ok(Self::on(database, Bounds { max_events: u64::MAX, max_bytes: u64::MAX }, None))
    }

    fn on(database: Arc<Database>, bounds: Bounds, seen: Option<Arc<dyn Finish>>) -> Self {
        let tags = AtomicU64::new(getrandom::u64().unwrap_or(1) >> 2);
        Self { database, bounds, seen, wake: Arc::default(), tags, turn: AtomicUsize::new(0), full: Mutex::default() }
    }

    /// The file.
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    fn tag(&self) -> i64 {
        // Two bits were shifted away: it stays positive for longer than anything runs.
        self.tags.fetch_add(1, Ordering::Relaxed) as i64 & i64::MAX
    }

    /// Changes the events of a list of IDs in one transaction.
    async fn change(
        &self,
        ids: Vec<i64>,
        change: impl Fn(&Connection, i64) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), QueueError> {
        self.database.write(move |connection| ids.into_iter().try_for_each(|id| change(connection, id))).await?;
        self.wake.notify_waiters();
        Ok(())
    }
}

impl From<DbError> for QueueError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Full(why) => Self::Full(why),
            other => Self::Unavailable(other.to_string()),
        }
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn enqueue(
        &self,
        event: &Event,
        claim: Option<&Token>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError> {
        self.database.has_room()?;
        let (event, bounds) = (event.clone(), self.bounds);
        let hold = hold.map(|hold| (later(now, hold), self.tag()));
        let token = claim.map(|token| Token { keys: token.keys.clone(), nonce: token.nonce, remember: token.remember });
        let (key, finish) = (token.as_ref().map(|token| token.keys.id.0), self.seen.clone().zip(token));
        let stored = self
            .database
            .write(move |connection| {
                if let Some(full) = is_full(connection, bounds)? {
                    return Ok(Stored::Full(full));
                }
                let Some(id) = insert(connection, &event, key, hold, now)? else { return Ok(Stored::Duplicate) };
                let remembered = match &finish {
                    Some((seen, token)) => seen.finish(connection, token, now)?,
                    None => false,
                };
                let receipt = hold.map(|(_, tag)| receipt(event.uid, id, tag));
                Ok(Stored::New { receipt, finish: finish.filter(|_| remembered) })
            })
            .await?;
        match stored {
            Stored::Full(why) => Err(QueueError::Full(why)),
            Stored::Duplicate => Ok(Enqueued::Duplicate),
            Stored::New { receipt, finish } => {
                let remembered = finish.is_some();
                if let Some((seen, token)) = finish {
                    seen.finished(token);
                }
                if receipt.is_none() {
                    self.wake.notify_waiters();
                }
                Ok(Enqueued::Stored { receipt, remembered })
            }
        }
    }

    async fn receive(&self, want: Want<'_>, now: Now) -> Result<Vec<Delivery>, QueueError> {
        if want.max == 0 {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        let routes = Choice::from(want.routes);
        loop {
            // Before looking: what is stored from here on wakes us.
            let woken = self.wake.notified();
            let passed = begun.elapsed();
            let unix = now.unix + passed;
            let choice = routes.clone();
            let next = self.database.read(move |connection| next_due(connection, &choice)).await?;
            let until_due = next.map(|due| Duration::from_millis(u64::try_from(due - millis(unix)).unwrap_or(0)));
            if until_due.is_some_and(|wait| wait.is_zero()) {
                let (choice, tag, turn) = (routes.clone(), self.tag(), self.turn.fetch_add(1, Ordering::Relaxed));
                let (max, until) = (want.max, millis(unix + want.lease));
                let taken = self
                    .database
                    .write(move |connection| take(connection, &choice, max, turn, millis(unix), until, tag))
                    .await?;
                if !taken.is_empty() {
                    return Ok(taken);
                }
            }
            let left = want.patience.saturating_sub(passed);
            if left.is_zero() {
                return Ok(Vec::new());
            }
            let wait = until_due.filter(|wait| !wait.is_zero()).unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN).min(left);
            let _ = timeout(wait, woken).await;
        }
    }

    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError> {
        let Some((id, tag)) = parts(receipt) else { return Ok(false) };
        let until = later(now, lease);
        Ok(self
            .database
            .write(move |connection| {
                let mut extend = connection
                    .prepare_cached("UPDATE queue_events SET due = ?3 WHERE id = ?1 AND tag = ?2 AND state = 1")?;
                Ok(extend.execute((id, tag, until))? > 0)
            })
            .await?)
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let Some((id, tag)) = parts(&receipt) else { return Ok(false) };
        let wakes = matches!(settlement, Settlement::Release { .. } | Settlement::Retry { .. });
        let (settled, woke) =
            self.database.write(move |connection| settle(connection, id, tag, &settlement, now)).await?;
        if wakes || woke {
            self.wake.notify_waiters();
        }
        Ok(settled)
    }

    async fn stats(&self, now: Now) -> Result<Stats, QueueError> {
        let (now, bounds) = (millis(now.unix), self.bounds);
        let look = move |connection: &Connection| Ok((stats(connection, now)?, is_full(connection, bounds)?));
        let (stats, full) = self.database.read(look).await?;
        *self.full.lock() = full;
        Ok(stats)
    }

    /// That it is full is known since the last look at its numbers.
    fn trouble(&self) -> Option<String> {
        let no_room = || self.database.has_room().err().map(|error| error.to_string());
        self.database.trouble().or_else(no_room).or_else(|| self.full.lock().clone())
    }

    fn abilities(&self) -> Abilities {
        Abilities { selects: true, orders: true, holds: true, hands_out: true }
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn keep_lanes(&self, lanes: &[Box<str>]) {
        let lanes: Arc<[Box<str>]> = lanes.into();
        let names = move |connection: &Connection| Choice::Except(lanes.clone()).names(connection);
        let lanes_gone = self.database.read(move |connection| {
            Ok(names(connection)?.iter().filter(|name| name.contains('/')).cloned().collect::<Vec<_>>())
        });
        let gone = lanes_gone.await.unwrap_or_default();
        for lane in gone {
            let moved = self.database.write(move |connection| {
                let sql = "UPDATE queue_events SET lane = NULL WHERE state < 2 AND ifnull(lane, route) = ?1";
                connection.prepare_cached(sql)?.execute([lane])
            });
            if let Err(error) = moved.await {
                tracing::debug!(target: "hookmoat", %error, "events stay in a lane that is gone");
            }
        }
    }

    async fn maintain(&self, _now: Now) {
        // New events are refused until there is room: every page that was emptied counts.
        let pressed = self.database.has_room().is_err();
        for _ in 0..if pressed { 32 } else { 1 } {
            let given_back = self.database.write(move |connection| {
                let (free, all) = (pragma(connection, "freelist_count")?, pragma(connection, "page_count")?);
                // What was needed once may be needed again soon: a quarter stays, unless room is short.
                let wanted = free > GIVE_BACK && free > all / 4 || pressed && free > 0;
                if wanted {
                    let mut vacuum = connection.prepare(&format!("PRAGMA incremental_vacuum({GIVE_BACK})"))?;
                    let mut rows = vacuum.query([])?;
                    while rows.next()?.is_some() {}
                }
                Ok(wanted)
            });
            match given_back.await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::debug!(target: "hookmoat", %error, "no pages given back");
                    break;
                }
            }
        }
        if pressed {
            let database = self.database.clone();
            let _ = tokio::task::spawn_blocking(move || database.checkpoint_blocking()).await;
        }
    }
}

#[async_trait]
impl Inspect for SqliteQueue {
    fn reach(&self) -> Reach {
        Reach {
            engine: "sqlite",
            states: EventState::ALL,
            cannot: &["delivered events are not kept, so they can be neither listed nor replayed"],
        }
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<EventUid>,
        limit: usize,
        now: Now,
    ) -> Result<Listing, QueueError> {
        let (sql, values) = selection(SUMMARY, filter, after, limit, now);
        let now = millis(now.unix);
        let events = self
            .database
            .read(move |connection| {
                connection.prepare_cached(&sql)?.query_map(params_from_iter(values), |row| summary(row, now))?.collect()
            })
            .await?;
        Ok(Listing { events, complete: true })
    }

    async fn show(&self, uid: EventUid, now: Now) -> Result<Option<(Summary, Event)>, QueueError> {
        let now = millis(now.unix);
        Ok(self
            .database
            .read(move |connection| {
                let mut find =
                    connection.prepare_cached(&format!("SELECT {SUMMARY} FROM queue_events WHERE uid = ?1"))?;
                let Some(summary) = find.query_row([uid.0], |row| summary(row, now)).optional()? else {
                    return Ok(None);
                };
                let event = connection
                    .prepare_cached(&format!("{EVENT} WHERE e.uid = ?1"))?
                    .query_row([uid.0], |row| event(row).map(|(_, event)| event))
                    .optional()?;
                Ok(event.map(|event| (summary, event)))
            })
            .await?)
    }

    /// In short transactions, so that it keeps nobody waiting, in the order of arrival: what fails again meanwhile is
    /// behind it.
    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
        let mut filter = sweep.filter.clone();
        if sweep.action == Action::Replay {
            match filter.state.replace(EventState::Dead) {
                None | Some(EventState::Dead) => {}
                Some(state) => {
                    let why = format!("only dead letters can be replayed, not events that are {}", state.label());
                    return Err(QueueError::Unsupported(why));
                }
            }
        }
        let due = millis(now.unix);
        let mut after = None;
        loop {
            let found = self.portion(&filter, after, now).await?;
            let ids: Vec<i64> = found.iter().filter(|(_, _, state)| *state != TAKEN).map(|(id, ..)| *id).collect();
            let matched = ids.len() as u64;
            match sweep.action {
                _ if sweep.dry_run || ids.is_empty() => {}
                Action::Replay => self.change(ids, move |connection, id| replay(connection, id, due)).await?,
                Action::Purge => self.change(ids, move |connection, id| purge(connection, id, due)).await?,
            }
            progress.add(found.len() as u64, matched);
            match found.last() {
                Some((_, uid, _)) if found.len() >= PORTION => after = Some(EventUid(*uid)),
                _ => return Ok(()),
            }
        }
    }
}

impl SqliteQueue {
    /// The next events that fit: row, UID and state.
    async fn portion(
        &self,
        filter: &Filter,
        after: Option<EventUid>,
        now: Now,
    ) -> Result<Vec<(i64, [u8; 16], i64)>, QueueError> {
        let (sql, values) = selection("id, uid, state", filter, after, PORTION, now);
        Ok(self
            .database
            .read(move |connection| {
                connection
                    .prepare_cached(&sql)?
                    .query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                    .collect()
            })
            .await?)
    }
}

fn replay(connection: &Connection, id: i64, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE queue_events SET state = 0, due = ?2, attempts = 0, tag = 0, dead = NULL
             WHERE id = ?1 AND state = 2",
        )?
        .execute((id, now))
        .map(drop)
}

fn purge(connection: &Connection, id: i64, now: i64) -> rusqlite::Result<()> {
    let ordered = order_of(connection, id)?;
    let mut purge = connection.prepare_cached("DELETE FROM queue_events WHERE id = ?1 AND state <> 1")?;
    if purge.execute([id])? > 0
        && let Some((route, key)) = ordered
    {
        wake_next(connection, &route, &key, now)?;
    }
    Ok(())
}

enum Stored {
    New { receipt: Option<Receipt>, finish: Option<(Arc<dyn Finish>, Token)> },
    Duplicate,
    Full(String),
}

/// [`Routes`], for another thread.
#[derive(Clone)]
enum Choice {
    Of(Arc<[Box<str>]>),
    Except(Arc<[Box<str>]>),
}

impl From<Routes<'_>> for Choice {
    fn from(routes: Routes<'_>) -> Self {
        match routes {
            Routes::All => Self::Except(Arc::new([])),
            Routes::Of(names) => Self::Of(names.into()),
            Routes::Except(names) => Self::Except(names.into()),
        }
    }
}

impl Choice {
    /// The routes' names, as far as they are given or have events that are not dead.
    fn names(&self, connection: &Connection) -> rusqlite::Result<Arc<[Box<str>]>> {
        let except = match self {
            Self::Of(names) => return Ok(names.clone()),
            Self::Except(names) => names,
        };
        // From one name to the next through the index, however many events each has.
        let mut next = connection.prepare_cached(
            "SELECT ifnull(lane, route) FROM queue_events WHERE state < 2 AND ifnull(lane, route) > ?1
                 ORDER BY ifnull(lane, route) LIMIT 1",
        )?;
        let (mut names, mut last) = (Vec::new(), String::new());
        while let Some(name) = next.query_row([&last], |row| row.get::<_, String>(0)).optional()? {
            if !except.iter().any(|known| **known == *name) {
                names.push(name.as_str().into());
            }
            last = name;
        }
        Ok(names.into())
    }
}

fn millis(time: Duration) -> i64 {
    // Rounded up: what is due in half a millisecond is not due yet.
    i64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(PARKED - 1).min(PARKED - 1)
}

fn time(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn later(now: Now, after: Duration) -> i64 {
    millis(now.unix.saturating_add(after))
}

fn receipt(uid: EventUid, id: i64, tag: i64) -> Receipt {
    Receipt { uid, tag: format!("{id}.{tag}").into() }
}

fn parts(receipt: &Receipt) -> Option<(i64, i64)> {
    let (id, tag) = receipt.tag.split_once('.')?;
    Some((id.parse().ok()?, tag.parse().ok()?))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<i64> {
    connection.prepare_cached(&format!("PRAGMA {name}"))?.query_row([], |row| row.get(0))
}

fn is_full(connection: &Connection, bounds: Bounds) -> rusqlite::Result<Option<String>> {
    let (events, bytes): (i64, i64) = connection
        .prepare_cached("SELECT sum(events), sum(bytes) FROM queue_totals")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (events, bytes) = (u64::try_from(events).unwrap_or(0), u64::try_from(bytes).unwrap_or(0));
    Ok(if events >= bounds.max_events {
        Some(format!("{events} events are stored, dead letters included, as many as max_events allows"))
    } else if bytes >= bounds.max_bytes {
        Some(format!("{bytes} bytes are stored, dead letters included, as many as max_bytes allows"))
    } else {
        None
    })
}

/// Stores an event; `None`: its claim's ID is here already.
fn insert(
    connection: &Connection,
    event: &Event,
    claim: Option<[u8; 16]>,
    hold: Option<(i64, i64)>,
    now: Now,
) -> rusqlite::Result<Option<i64>> {
    let headers = encode_headers(&event.headers);
    let bytes = event.body.len() + headers.len() + event.path.len() + ROW_BYTES;
    let is_behind = match &event.order {
        Some(key) => connection
            .prepare_cached("SELECT 1 FROM queue_events WHERE route = ?1 AND order_key = ?2 AND state < 2 LIMIT 1")?
            .exists((&event.route, key))?,
        None => false,
    };
    let (state, due, attempts, tag) = match hold {
        Some((until, tag)) => (1, until, 1, tag),
        None if is_behind => (0, PARKED, 0, 0),
        None => (0, millis(now.unix), 0, 0),
    };
    let added = connection
        .prepare_cached(
            "INSERT INTO queue_events (uid, claim, route, provider, event_id, event_type, received, order_key,
                                       state, due, attempts, tag, body_bytes, bytes, lane)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (claim) WHERE claim IS NOT NULL DO NOTHING",
        )?
        .execute(params![
            event.uid.0,
            claim,
            event.route,
            event.provider,
            event.event_id,
            event.event_type,
            millis(event.received),
            event.order,
            state,
            due,
            attempts,
            tag,
            event.body.len() as i64,
            bytes as i64,
            event.lane.as_ref().map(|upstream| lane_of(&event.route, upstream)),
        ])?;
    if added == 0 {
        return Ok(None);
    }
    let id = connection.last_insert_rowid();
    connection
        .prepare_cached(
            "INSERT INTO queue_requests (id, request_id, client, secure, verified, method, path, query, host, headers, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            id,
            event.request_id,
            event.client.map(|client| client.to_string()),
            event.secure,
            event.verified,
            event.method,
            event.path,
            event.query,
            event.host,
            headers,
            &*event.body,
        ])?;
    Ok(Some(id))
}

/// When the next event of these routes is due.
fn next_due(connection: &Connection, routes: &Choice) -> rusqlite::Result<Option<i64>> {
    let mut next = connection.prepare_cached(
        "SELECT min(due) FROM queue_events WHERE state < 2 AND ifnull(lane, route) = ?1 AND due < ?2",
    )?;
    let mut earliest: Option<i64> = None;
    for route in routes.names(connection)?.iter() {
        let due: Option<i64> = next.query_row((route, PARKED), |row| row.get(0))?;
        earliest = [earliest, due].into_iter().flatten().min();
    }
    Ok(earliest)
}

/// Takes events that are due, in turn from each route, so that a flood of one does not keep the others waiting.
fn take(
    connection: &Connection,
    routes: &Choice,
    max: usize,
    turn: usize,
    now: i64,
    until: i64,
    tag: i64,
) -> rusqlite::Result<Vec<Delivery>> {
    let names = routes.names(connection)?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut due = connection.prepare_cached(
        "SELECT id FROM queue_events WHERE state < 2 AND ifnull(lane, route) = ?1 AND due <= ?2 ORDER BY due, id LIMIT ?3",
    )?;
    let mut taking = connection.prepare_cached(
        "UPDATE queue_events SET state = 1, due = ?2, tag = ?3, attempts = attempts + 1 WHERE id = ?1",
    )?;
    let mut reading = connection.prepare_cached(&format!("{EVENT} WHERE e.id = ?1"))?;
    let mut taken = Vec::with_capacity(max.min(64));
    // First everybody's share, then whatever is left.
    for share in [max.div_ceil(names.len()), max] {
        let start = turn % names.len();
        for name in names.iter().cycle().skip(start).take(names.len()) {
            let limit = share.min(max - taken.len());
            if limit == 0 {
                continue;
            }
            let ids: Vec<i64> =
                due.query_map((name, now, limit as i64), |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            for id in ids {
                taking.execute((id, until, tag))?;
                let (attempt, event) = reading.query_row([id], event)?;
                taken.push(Delivery { attempt, receipt: receipt(event.uid, id, tag), event });
            }
        }
        if names.len() == 1 {
            break;
        }
    }
    Ok(taken)
}

/// Ends a taking. The second answer: another event became due by it.
fn settle(
    connection: &Connection,
    id: i64,
    tag: i64,
    settlement: &Settlement,
    now: Now,
) -> rusqlite::Result<(bool, bool)> {
    let ordered = match settlement {
        Settlement::Done | Settlement::Dead { .. } => order_of(connection, id)?,
        Settlement::Retry { .. } | Settlement::Release { .. } => None,
    };
    let changed = match settlement {
        Settlement::Done => connection
            .prepare_cached("DELETE FROM queue_events WHERE id = ?1 AND tag = ?2 AND state = 1")?
            .execute((id, tag))?,
        Settlement::Retry { after, failure } => connection
            .prepare_cached(
                "UPDATE queue_events SET state = 0, due = ?3, tag = 0, status = ?4, message = ?5
                 WHERE id = ?1 AND tag = ?2 AND state = 1",
            )?
            .execute(params![id, tag, later(now, *after), failure.status, failure.message])?,
        Settlement::Dead { reason, failure } => connection
            .prepare_cached(
                "UPDATE queue_events SET state = 2, due = ?3, tag = 0, dead = ?4,
                        attempts = attempts - ?7,
                        status = iif(?7, status, ?5), message = iif(?7, message, ?6)
                 WHERE id = ?1 AND tag = ?2 AND state = 1",
            )?
            .execute(params![
                id,
                tag,
                millis(now.unix),
                reason.label(),
                failure.as_ref().and_then(|failure| failure.status),
                failure.as_ref().map(|failure| &failure.message),
                failure.is_none(),
            ])?,
        Settlement::Release { after } => connection
            .prepare_cached(
                "UPDATE queue_events SET state = 0, due = ?3, tag = 0, attempts = attempts - 1
                 WHERE id = ?1 AND tag = ?2 AND state = 1",
            )?
            .execute((id, tag, later(now, *after)))?,
    };
    let woke = match ordered {
        Some((route, key)) if changed > 0 => wake_next(connection, &route, &key, millis(now.unix))?,
        _ => false,
    };
    Ok((changed > 0, woke))
}

fn order_of(connection: &Connection, id: i64) -> rusqlite::Result<Option<(String, String)>> {
    connection
        .prepare_cached("SELECT route, order_key FROM queue_events WHERE id = ?1 AND order_key IS NOT NULL")?
        .query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// Makes the next event of an order key due, if it was parked.
fn wake_next(connection: &Connection, route: &str, key: &str, now: i64) -> rusqlite::Result<bool> {
    let woken = connection
        .prepare_cached(
            "UPDATE queue_events SET due = ?3
             WHERE due = ?4 AND state = 0 AND id = (
                 SELECT min(id) FROM queue_events WHERE route = ?1 AND order_key = ?2 AND state < 2)",
        )?
        .execute((route, key, now, PARKED))?;
    Ok(woken > 0)
}

fn stats(connection: &Connection, now: i64) -> rusqlite::Result<Stats> {
    let total = |state: i64| -> rusqlite::Result<(i64, i64)> {
        connection
            .prepare_cached("SELECT events, bytes FROM queue_totals WHERE state = ?1")?
            .query_row([state], |row| Ok((row.get(0)?, row.get(1)?)))
    };
    let ((waiting, a), (taken, b), (dead, c)) = (total(0)?, total(1)?, total(2)?);
    let mut due = 0;
    let routes = Choice::Except(Arc::new([])).names(connection)?;
    let mut counting = connection.prepare_cached(
        "SELECT count(*) FROM queue_events WHERE state < 2 AND ifnull(lane, route) = ?1 AND due <= ?2",
    )?;
    for route in routes.iter() {
        due += counting.query_row((route, now), |row| row.get::<_, i64>(0))?;
    }
    let oldest: Option<i64> = connection
        .prepare_cached("SELECT min(received) FROM queue_events WHERE state < 2")?
        .query_row([], |row| row.get(0))?;
    let count = |n: i64| Some(u64::try_from(n).unwrap_or(0));
    // Taken ones whose lease is over are among the due.
    let ready = due.min(waiting + taken);
    Ok(Stats {
        ready: count(ready),
        scheduled: count((waiting - ready).max(0)),
        in_flight: count(taken),
        dead: count(dead),
        bytes: count(a + b + c),
        oldest: oldest.map(|received| time(now - received)),
    })
}

const SUMMARY: &str =
    "uid, route, provider, event_id, event_type, state, received, due, attempts, body_bytes, status, message, dead";

fn summary(row: &Row<'_>, now: i64) -> rusqlite::Result<Summary> {
    let due: i64 = row.get(7)?;
    let message: Option<Box<str>> = row.get(11)?;
    let status: Option<u16> = row.get(10)?;
    Ok(Summary {
        uid: EventUid(row.get(0)?),
        route: row.get(1)?,
        provider: row.get(2)?,
        event_id: row.get(3)?,
        event_type: row.get(4)?,
        state: match row.get(5)? {
            0i64 if due <= now => EventState::Ready,
            0 => EventState::Scheduled,
            1 => EventState::InFlight,
            _ => EventState::Dead,
        },
        received: time(row.get(6)?),
        due: time(due),
        attempts: row.get(8)?,
        body_bytes: row.get::<_, i64>(9)?.try_into().unwrap_or(0),
        failure: message.map(|message| Failure { status, message }),
        dead: row.get(12)?,
    })
}

const EVENT: &str = "SELECT e.uid, e.route, e.provider, e.event_id, e.event_type, e.received, e.order_key, e.attempts,
        r.request_id, r.client, r.secure, r.verified, r.method, r.path, r.query, r.host, r.headers, r.body, e.lane
    FROM queue_events e JOIN queue_requests r ON r.id = e.id";

fn event(row: &Row<'_>) -> rusqlite::Result<(u32, Event)> {
    let client: Option<String> = row.get(9)?;
    let lane: Option<String> = row.get(18)?;
    let event = Event {
        uid: EventUid(row.get(0)?),
        route: row.get(1)?,
        provider: row.get(2)?,
        event_id: row.get(3)?,
        event_type: row.get(4)?,
        received: time(row.get(5)?),
        order: row.get(6)?,
        lane: lane.and_then(|lane| lane.split_once('/').map(|(_, upstream)| upstream.into())),
        request_id: row.get(8)?,
        client: client.and_then(|client| client.parse().ok()),
        secure: row.get(10)?,
        verified: row.get(11)?,
        method: row.get(12)?,
        path: row.get(13)?,
        query: row.get(14)?,
        host: row.get(15)?,
        headers: decode_headers(row.get_ref(16)?.as_blob()?),
        body: Bytes::from(row.get::<_, Vec<u8>>(17)?),
    };
    Ok((row.get(7)?, event))
}

/// Name and value, each behind its length in four bytes.
fn encode_headers(headers: &[(Box<str>, Box<[u8]>)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum());
    let mut put = |bytes: &[u8]| {
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    for (name, value) in headers {
        put(name.as_bytes());
        put(value);
    }
    out
}

fn decode_headers(mut bytes: &[u8]) -> Vec<(Box<str>, Box<[u8]>)> {
    let mut next = || {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        bytes = rest;
        Some(value)
    };
    let mut headers = Vec::new();
    while let (Some(name), Some(value)) = (next(), next()) {
        if let Ok(name) = std::str::from_utf8(name) {
            headers.push((name.into(), value.into()));
        }
    }
    headers
}

/// A query for the events that fit, in the order of arrival.
fn selection(columns: &str, filter: &Filter, after: Option<EventUid>, limit: usize, now: Now) -> (String, Vec<Value>) {
    let mut sql = format!("SELECT {columns} FROM queue_events WHERE 1");
    let mut values = Vec::new();
    let mut and = |condition: &str, value: Value| {
        values.push(value);
        sql.push_str(&format!(" AND {condition} ?{}", values.len()));
    };
    if let Some(EventUid(uid)) = filter.uid {
        and("uid =", Value::Blob(uid.into()));
    }
    if let Some(EventUid(uid)) = after {
        and("uid >", Value::Blob(uid.into()));
    }
    let texts = [
        ("route =", &filter.route),
        ("provider =", &filter.provider),
        ("event_type =", &filter.event_type),
        ("event_id =", &filter.event_id),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            and(condition, Value::Text(text.to_string()));
        }
    }
    if let Some(age) = filter.older_than {
        and("received <=", Value::Integer(millis(now.unix.saturating_sub(age))));
    }
    if let Some(age) = filter.newer_than {
        and("received >=", Value::Integer(millis(now.unix.saturating_sub(age))));
    }
    match filter.state {
        Some(EventState::Ready) => and("state = 0 AND due <=", Value::Integer(millis(now.unix))),
        Some(EventState::Scheduled) => and("state = 0 AND due >", Value::Integer(millis(now.unix))),
        Some(EventState::InFlight) => and("state =", Value::Integer(1)),
        Some(EventState::Dead) => and("state =", Value::Integer(2)),
        None => {}
    }
    values.push(Value::Integer(i64::try_from(limit).unwrap_or(i64::MAX)));
    sql.push_str(&format!(" ORDER BY uid LIMIT ?{}", values.len()));
    (sql, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::queue::DeadReason;
    use crate::port::queue_contract::{self, Harness, event};
    use crate::port::seen::{Key, Keys};
    use crate::port::sqlite::db::Options;
    use tempfile::TempDir;

    /// Files in one folder, under a clock that is turned.
    struct Files {
        folder: TempDir,
        clock: Mutex<Now>,
        count: AtomicU64,
    }

    impl Files {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            Self { folder, clock: Mutex::new(Now::read()), count: AtomicU64::new(0) }
        }

        fn open(&self, number: u64, max_events: u64) -> SqliteQueue {
            let path = self.folder.path().join(format!("{number}.db"));
            let now = *self.clock.lock();
            let database = Database::open(&path, Options::default(), now.unix).expect("open");
            let bounds = Bounds { max_events, max_bytes: 1 << 30 };
            SqliteQueue::open(database, bounds, None, now).expect("tables")
        }
    }

    #[async_trait]
    impl Harness for Files {
        async fn fresh(&self) -> Arc<dyn Queue> {
            Arc::new(self.open(self.count.fetch_add(1, Ordering::Relaxed), 100_000))
        }

        async fn bounded(&self, max_events: u64) -> Option<Arc<dyn Queue>> {
            Some(Arc::new(self.open(self.count.fetch_add(1, Ordering::Relaxed), max_events)))
        }

        async fn restarted(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
            drop(queue);
            Arc::new(self.open(self.count.load(Ordering::Relaxed) - 1, 100_000))
        }

        fn now(&self) -> Now {
            *self.clock.lock()
        }

        async fn pass(&self, time: Duration) {
            let mut clock = self.clock.lock();
            *clock = Now { instant: clock.instant + time, unix: clock.unix + time };
        }

        fn unit(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn patience(&self) -> Duration {
            Duration::ZERO
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keeps_the_contract() {
        queue_contract::all(&Files::new()).await;
    }

    fn token(n: u8) -> Token {
        Token {
            keys: Keys { group: None, id: Key([n; 16]), content: Vec::new() },
            nonce: 0,
            remember: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn an_id_that_waits_here_is_not_stored_again() {
        let files = Files::new();
        let queue = files.fresh().await;
        let now = files.now();
        let stored = Enqueued::Stored { receipt: None, remembered: false };
        for (claim, expected) in [(1, &stored), (2, &stored), (1, &Enqueued::Duplicate)] {
            let found = queue.enqueue(&event("r", now), Some(&token(claim)), None, now).await.expect("enqueue");
            assert_eq!(&found, expected);
        }
        let want = Want { max: 10, lease: Duration::from_secs(9), patience: Duration::ZERO, routes: Routes::All };
        let taken = queue.receive(want, now).await.expect("receive");
        assert_eq!(taken.len(), 2);
        for delivery in taken {
            queue.settle(delivery.receipt, Settlement::Done, now).await.expect("settle");
        }
        // What the memory of IDs says from here on is its own affair.
        assert_eq!(queue.enqueue(&event("r", now), Some(&token(1)), None, now).await.expect("enqueue"), stored);
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_the_totals_right_after_every_move() {
        let files = Files::new();
        let path = files.folder.path().join("small.db");
        let now = files.now();
        let database = Database::open(&path, Options::default(), now.unix).expect("open");
        let queue = SqliteQueue::open(database, Bounds { max_events: 100, max_bytes: 5_000 }, None, now).expect("open");
        let mut large = event("r", now);
        large.body = vec![b'x'; 6_000].into();
        queue.enqueue(&large, None, None, now).await.expect("below the bound before it");
        let full = queue.enqueue(&event("r", now), None, None, now).await;
        assert!(matches!(&full, Err(QueueError::Full(why)) if why.contains("max_bytes")), "{full:?}");
        let want = Want { max: 10, lease: Duration::from_secs(9), patience: Duration::ZERO, routes: Routes::All };
        let taken = queue.receive(want, now).await.expect("receive").pop().expect("one");
        let counted = queue.stats(now).await.expect("stats");
        assert_eq!((counted.ready, counted.in_flight, counted.dead), (Some(0), Some(1), Some(0)));
        assert!(counted.bytes >= Some(6_000), "{counted:?}");
        queue.settle(taken.receipt, Settlement::Done, now).await.expect("settle");
        let counted = queue.stats(now).await.expect("stats");
        let nothing = Stats {
            ready: Some(0),
            scheduled: Some(0),
            in_flight: Some(0),
            dead: Some(0),
            bytes: Some(0),
            oldest: None,
        };
        assert_eq!(counted, nothing);
        let left: i64 = queue
            .database
            .read(|connection| connection.query_row("SELECT count(*) FROM queue_requests", [], |row| row.get(0)))
            .await
            .expect("read");
        assert_eq!(left, 0);
    }

    #[tokio::test]
    async fn a_visitor_replays_while_the_owner_works() {
        let files = Files::new();
        let (queue, now) = (files.open(0, 100), files.now());
        queue.enqueue(&event("r", now), None, None, now).await.expect("enqueue");
        let want =
            Want { max: 1, lease: Duration::from_secs(9), patience: Duration::from_secs(20), routes: Routes::All };
        let taken = queue.receive(want, now).await.expect("receive").pop().expect("one");
        let dead = Settlement::Dead { reason: DeadReason::Rejected, failure: None };
        queue.settle(taken.receipt, dead, now).await.expect("settle");
        let visitor = Database::visit(&files.folder.path().join("0.db")).expect("visit");
        let visitor = SqliteQueue::visit(visitor).expect("tables");
        let progress = Progress::default();
        let (woken, replayed) = tokio::join!(queue.receive(want, now), async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let sweep = Sweep { action: Action::Replay, filter: Filter::default(), dry_run: false };
            visitor.sweep(&sweep, &progress, now).await
        });
        replayed.expect("replay");
        assert_eq!((progress.looked(), progress.matched()), (1, 1));
        assert_eq!(woken.expect("receive").len(), 1);
    }

    #[test]
    fn headers_of_any_bytes_come_back() {
        let headers: Vec<(Box<str>, Box<[u8]>)> =
            vec![("a".into(), (0..=255).collect()), ("b".into(), Box::default()), ("a".into(), b"x".as_slice().into())];
        assert_eq!(decode_headers(&encode_headers(&headers)), headers);
        assert!(decode_headers(&[0, 0, 0, 9, 1]).is_empty());
    }
}
