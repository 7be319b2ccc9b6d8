//! Seen IDs that survive a restart and a crash: a memory of this process, with what was delivered in a file.
//!
//! Claims are asked of the memory alone, so a request that is refused or fails costs no disk. A success is written, and
//! durable, before its claim is settled and before the sender hears of it; many successes share one fsync. At start the
//! file's IDs are read into memory again. Claims in flight are nowhere but in memory: a crash frees them, and no lease of
//! a dead process holds anybody up.
//!
//! Times: the memory goes by the monotonic clock, the file by the wall clock, which alone means something to the next
//! process. A wall clock that jumps has no effect on a running process; what it does to the next one is that IDs are
//! forgotten early (forward) or late (back), and never later than the longest time that a route asks for.
//!
//! While the disk fails, nothing new is claimed: what could not be remembered is not delivered.

use super::Finish;
use super::db::{Database, DbError, OpenError, Schema};
use crate::port::memory::MemorySeen;
use crate::port::seen::{Claim, Key, Keys, Outcome, SeenIds, StoreError, Terms, Token};
use crate::request::Now;
use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SCHEMA: Schema = Schema {
    name: "seen",
    steps: &["
        CREATE TABLE seen_ids (key BLOB PRIMARY KEY, expires INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        CREATE INDEX seen_ids_expires ON seen_ids (expires);
    "],
};

/// Expired rows looked at in one write.
const SWEPT: usize = 2_000;

/// The store.
pub struct SqliteSeen {
    shared: Arc<Shared>,
}

struct Shared {
    memory: MemorySeen,
    database: Arc<Database>,
    /// Both clocks at one moment, read anew by every sweep.
    clocks: Mutex<Now>,
    /// Is a sweep of the file waiting for its turn?
    sweeping: AtomicBool,
}

impl std::fmt::Debug for SqliteSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteSeen").field("database", &self.shared.database).finish()
    }
}

impl SqliteSeen {
    /// Reads what was delivered before. Blocks: for start-up. `longest` is the longest time that a route remembers.
    pub fn open(database: Arc<Database>, max_ids: usize, longest: Duration, now: Now) -> Result<Self, OpenError> {
        database.migrate(SCHEMA)?;
        let unusable = |why: String| OpenError::Unusable { path: database.path().into(), why };
        let memory = MemorySeen::new(max_ids, now.instant);
        let at = millis(now.unix);
        let read = database.write_blocking(move |connection| {
            let mut kept = connection.prepare("SELECT key, expires FROM seen_ids WHERE expires > ?1")?;
            let rows = kept.query_map([at], |row| Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, i64>(1)?)))?;
            let (mut fit, mut beyond) = (0u64, 0u64);
            for row in rows {
                let (key, expires) = row?;
                let left = Duration::from_millis(u64::try_from(expires.saturating_sub(at)).unwrap_or(0));
                if memory.restore(Key(key), left.min(longest), now.instant) { fit += 1 } else { beyond += 1 }
            }
            Ok((memory, fit, beyond))
        });
        let (memory, ids, beyond) = read.map_err(|error| unusable(error.to_string()))?;
        if beyond > 0 {
            return Err(unusable(format!(
                "it holds {} event IDs that may not be forgotten yet, more than there is room for: raise state.memory.max_ids",
                ids + beyond
            )));
        }
        tracing::info!(target: "hookmoat", ids, path = %database.path().display(), "event IDs of earlier processes read");
        let clocks = Mutex::new(now);
        Ok(Self { shared: Arc::new(Shared { memory, database, clocks, sweeping: AtomicBool::new(false) }) })
    }

    /// Forgets what has expired, in memory and, some at a time, in the file. Also finds out whether a disk that failed
    /// can be written again: the database tries that with any write.
    pub fn sweep(&self, now: Now) {
        *self.shared.clocks.lock() = now;
        self.shared.memory.sweep(now.instant);
        if self.shared.sweeping.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = self.shared.clone();
        let waiting = self.shared.database.write_soon(move |connection| {
            shared.sweeping.store(false, Ordering::Relaxed);
            shared.sweep_file(connection, now)
        });
        if !waiting {
            self.shared.sweeping.store(false, Ordering::Relaxed);
        }
    }

    /// Why nothing can be remembered at this moment.
    pub fn trouble(&self) -> Option<String> {
        self.shared.database.trouble()
    }
}

impl Shared {
    /// Only what the memory has forgotten as well goes: a wall clock that was put forward must not forget for it.
    fn sweep_file(&self, connection: &Connection, now: Now) -> rusqlite::Result<()> {
        let at = millis(now.unix);
        let expired: Vec<[u8; 16]> = connection
            .prepare_cached("SELECT key FROM seen_ids WHERE expires <= ?1 ORDER BY expires LIMIT ?2")?
            .query_map((at, SWEPT as i64), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for key in expired {
            match self.memory.remaining(Key(key), now.instant) {
                Some(left) => {
                    let sql = "UPDATE seen_ids SET expires = ?2 WHERE key = ?1";
                    connection.prepare_cached(sql)?.execute((key, at.saturating_add(millis(left))))?;
                }
                None => {
                    connection.prepare_cached("DELETE FROM seen_ids WHERE key = ?1")?.execute([key])?;
                }
            }
        }
        Ok(())
    }

    /// The wall clock at that instant, since 1970.
    fn unix(&self, at: Instant) -> Duration {
        let clocks = self.clocks.lock();
        clocks.unix + at.saturating_duration_since(clocks.instant)
    }
}

fn write(connection: &Connection, keys: &[Key], expires: i64) -> rusqlite::Result<()> {
    let sql = "INSERT INTO seen_ids (key, expires) VALUES (?1, ?2)
               ON CONFLICT (key) DO UPDATE SET expires = max(expires, excluded.expires)";
    let mut insert = connection.prepare_cached(sql)?;
    for key in keys {
        insert.execute((key.0, expires))?;
    }
    Ok(())
}

#[async_trait]
impl SeenIds for SqliteSeen {
    async fn claim(&self, keys: &Keys, terms: Terms, now: Instant) -> Result<Claim, StoreError> {
        match self.shared.memory.claim_now(keys, terms, now) {
            Claim::New(token) => match self.trouble() {
                None => Ok(Claim::New(token)),
                Some(why) => {
                    self.shared.memory.abandon(token);
                    Err(StoreError(format!("event IDs cannot be written: {why}").into()))
                }
            },
            known => Ok(known),
        }
    }

    async fn settle(&self, token: Token, outcome: Outcome, now: Instant) -> Result<bool, StoreError> {
        if outcome == Outcome::Failed {
            return Ok(self.shared.memory.settle_now(token, outcome, now));
        }
        let keys = self.shared.memory.settles(&token, now);
        let expires = millis(self.shared.unix(now).saturating_add(token.remember));
        // It was delivered: whatever becomes of the write or of the one who waits for it, this process knows.
        let mut delivered = Delivered { shared: &self.shared, token: Some(token), now };
        let written = self.shared.database.write(move |connection| write(connection, &keys, expires)).await;
        let owned = delivered.end();
        match written {
            Ok(()) => Ok(owned),
            Err(error) => Err(not_durable(&error)),
        }
    }

    fn abandon(&self, token: Token) {
        self.shared.memory.abandon(token);
    }

    async fn wait(&self, keys: &Keys, patience: Duration) -> Result<bool, StoreError> {
        self.shared.memory.wait(keys, patience).await
    }

    fn held(&self) -> Option<usize> {
        self.shared.memory.held()
    }
}

struct Delivered<'a> {
    shared: &'a Shared,
    token: Option<Token>,
    now: Instant,
}

impl Delivered<'_> {
    fn end(&mut self) -> bool {
        self.token.take().is_some_and(|token| self.shared.memory.settle_now(token, Outcome::Done, self.now))
    }
}

impl Drop for Delivered<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn not_durable(error: &DbError) -> StoreError {
    StoreError(format!("delivered, but remembered only until this process ends: {error}").into())
}

impl Finish for SqliteSeen {
    fn finish(&self, connection: &Connection, token: &Token, now: Now) -> rusqlite::Result<bool> {
        if !self.shared.memory.owns(token, now.instant) {
            return Ok(false);
        }
        let keys: Vec<Key> = std::iter::once(token.keys.id).chain(token.keys.content.iter().copied()).collect();
        write(connection, &keys, millis(now.unix.saturating_add(token.remember)))?;
        Ok(true)
    }

    fn finished(&self, token: Token) {
        let now = Now::read().instant;
        self.shared.memory.settle_now(token, Outcome::Done, now);
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::contract::{self, Disaster, Harness};
    use crate::port::sqlite::db::Options;
    use std::path::PathBuf;

    /// A clock of its own, from the real time on.
    struct OnDisk {
        folder: tempfile::TempDir,
        start: Now,
        passed: Mutex<Duration>,
        files: Mutex<usize>,
    }

    impl OnDisk {
        fn new() -> Self {
            // In memory, where there is such a place: what is tried here is what is written, not the disk.
            let shm = std::path::Path::new("/dev/shm");
            let folder = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
            Self { folder: folder.unwrap(), start: Now::read(), passed: Mutex::default(), files: Mutex::default() }
        }

        fn time(&self) -> Now {
            let passed = *self.passed.lock();
            Now { instant: self.start.instant + passed, unix: self.start.unix + passed }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join(format!("{}.db", self.files.lock()))
        }

        fn open(&self, max_ids: usize, now: Now) -> Arc<dyn SeenIds> {
            // The one before may be closing still.
            for _ in 0..200 {
                match Database::open(&self.path(), Options { min_free: 0, ..Options::default() }, now.unix) {
                    Ok(database) => return Arc::new(SqliteSeen::open(database, max_ids, LONGEST, now).unwrap()),
                    Err(OpenError::InUse { .. }) => std::thread::sleep(Duration::from_millis(5)),
                    Err(error) => panic!("{error}"),
                }
            }
            panic!("still in use");
        }
    }

    const LONGEST: Duration = Duration::from_secs(3600);

    #[async_trait]
    impl Harness for OnDisk {
        async fn fresh(&self) -> Arc<dyn SeenIds> {
            *self.files.lock() += 1;
            // From the real time on, which never lies after the harness's: one case waits in real time.
            self.open(1_000_000, Now::read())
        }

        async fn bounded(&self, max_keys: usize) -> Option<Arc<dyn SeenIds>> {
            *self.files.lock() += 1;
            Some(self.open(max_keys, Now::read()))
        }

        fn now(&self) -> Instant {
            self.time().instant
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
            false
        }

        fn disasters(&self) -> &[Disaster] {
            &[Disaster::EndsWithDone]
        }

        async fn strike(&self, store: Arc<dyn SeenIds>, _: Disaster) -> Arc<dyn SeenIds> {
            drop(store);
            self.open(1_000_000, self.time())
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn sqlite_keeps_the_contract() {
        contract::all(&OnDisk::new()).await;
    }

    fn key(n: u8) -> Keys {
        Keys { group: None, id: Key([n; 16]), content: vec![Key([n + 100; 16])] }
    }

    fn terms() -> Terms {
        Terms { lease: Duration::from_secs(60), remember: Duration::from_secs(600) }
    }

    fn open(path: &std::path::Path, max_ids: usize, now: Now) -> Result<SqliteSeen, OpenError> {
        let database = Database::open(path, Options { min_free: 0, ..Options::default() }, now.unix)?;
        SqliteSeen::open(database, max_ids, Duration::from_secs(600), now)
    }

    fn reopen(path: &std::path::Path, max_ids: usize, now: Now) -> Result<SqliteSeen, OpenError> {
        for _ in 0..200 {
            match open(path, max_ids, now) {
                Err(OpenError::InUse { .. }) => std::thread::sleep(Duration::from_millis(5)),
                other => return other,
            }
        }
        panic!("still in use");
    }

    fn later(now: Now, instant: u64, unix: i64) -> Now {
        let wall = i64::try_from(now.unix.as_secs()).unwrap() + unix;
        Now {
            instant: now.instant + Duration::from_secs(instant),
            unix: Duration::from_secs(u64::try_from(wall).unwrap()),
        }
    }

    async fn deliver(store: &SqliteSeen, keys: &Keys, now: Now) -> Claim {
        match store.claim(keys, terms(), now.instant).await.unwrap() {
            Claim::New(token) => {
                assert!(store.settle(token, Outcome::Done, now.instant).await.unwrap());
                Claim::Full
            }
            known => known,
        }
    }

    async fn rows(store: &SqliteSeen) -> i64 {
        let count =
            |connection: &Connection| connection.query_row("SELECT count(*) FROM seen_ids", [], |row| row.get(0));
        store.shared.database.write(count).await.unwrap()
    }

    #[tokio::test]
    async fn a_wall_clock_that_jumps_forgets_nothing_of_a_running_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen.db");
        let now = Now::read();
        let store = open(&path, 1000, now).unwrap();
        deliver(&store, &key(1), now).await;
        // A year ahead, and then most of it back.
        for unix in [31_536_000, 100] {
            let now = later(now, 10, unix);
            store.sweep(now);
            assert_eq!(rows(&store).await, 2);
            assert_eq!(deliver(&store, &key(1), now).await, Claim::Duplicate);
        }
        // Kept longer by the clock that was put back, it ends all the same when its time is over.
        drop(store);
        let store = reopen(&path, 1000, later(now, 20, 110)).unwrap();
        assert_eq!(deliver(&store, &key(1), later(now, 619, 119)).await, Claim::Duplicate);
        assert_eq!(deliver(&store, &key(1), later(now, 621, 121)).await, Claim::Full);
    }

    #[tokio::test]
    async fn expired_ids_leave_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let now = Now::read();
        let store = open(&folder.path().join("seen.db"), 1000, now).unwrap();
        for n in 0..5 {
            deliver(&store, &key(n), now).await;
        }
        deliver(&store, &key(50), later(now, 300, 300)).await;
        store.sweep(later(now, 601, 601));
        assert_eq!((rows(&store).await, store.held()), (2, Some(2)));
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_is_no_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seen.db");
        let now = Now::read();
        let store = open(&path, 1000, now).unwrap();
        for n in 0..10 {
            deliver(&store, &key(n), now).await;
        }
        drop(store);
        let error = reopen(&path, 10, now).unwrap_err().to_string();
        assert!(error.contains("20 event IDs") && error.contains("max_ids"), "{error}");
        assert!(reopen(&path, 1000, now).is_ok());
    }
}
