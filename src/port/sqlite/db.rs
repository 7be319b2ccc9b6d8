//! A SQLite file: opened by one process at a time, checked, brought to today's tables, and written by one thread.
//!
//! * **One fsync for many.** Closures given to [`Database::write`] wait in line; the writer runs all that are there in one
//!   transaction (each in a savepoint of its own, so that one that fails takes back only what it did itself), commits
//!   with `synchronous=FULL`, and only then tells each of them. While the disk is busy with one commit the next one
//!   fills: the more callers, the fewer fsyncs an event costs.
//! * **One owner.** A lock on `<file>.lock` keeps a second process out. It also holds the file's own name for itself: a
//!   database that is missing, or empty because it was truncated, is noticed instead of silently begun anew.
//!   [`Database::visit`] is for tools that look at a file while its owner works.
//! * **Nothing is trusted.** At open: SQLite's recovery of an unfinished write, `quick_check`, our own mark and version.
//!   What is broken is refused, or set aside where that was asked for; never deleted.
//!
//! Wants a local disk: locks and the shared memory of WAL do not work on network file systems.

use super::spare::Spare;
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use rustix::fs::{FlockOperation, flock, statvfs};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// "HkMt": marks a database as ours (SQLite's `application_id`).
const APPLICATION_ID: i32 = 0x486b_4d74;
/// Closures that wait for the writer at most; whoever comes then waits for a place.
const LINE: usize = 4096;
/// Closures in one transaction at most, so that the first of them is not told too late.
const BATCH: usize = 1024;
/// How long another process's short write (`hookmoat queue`) is waited for.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for its commit. A disk that is slower than that is as good as gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// The write-ahead log is cut back to this after a spike, in bytes.
const KEPT_LOG: i64 = 16 << 20;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What is done with a file that is broken.
    pub if_corrupt: IfCorrupt,
    /// Writes that ask for room ([`Database::has_room`]) are refused when the file system has less than this, in bytes.
    pub min_free: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { if_corrupt: IfCorrupt::Refuse, min_free: 64 << 20 }
    }
}

/// What is done with a file that is broken. It may hold acknowledged events, so nobody deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IfCorrupt {
    /// Do not start.
    Refuse,
    /// Rename it to `<file>.corrupt-<unix time>` and begin with an empty one.
    SetAside,
}

/// Why a file cannot be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or file cannot be made, opened or written.
    #[error("cannot use {path}: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said, and the remedy where it is known.
        why: String,
    },
    /// Another process has it.
    #[error(
        "{path} is in use by another hookmoat (it holds {path}.lock); every process needs a file of its own, and replicas share state through Redis and a broker instead"
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Broken: not SQLite, damaged, cut off.
    #[error(
        "{path} is damaged: {why}; it may hold acknowledged events, so it was not touched: restore a backup, or rescue what can be read with `sqlite3 {path} .recover`, then move it (with -wal, -shm and .lock) away"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A database of something else.
    #[error("{path} is a database of another program (application_id {found:#x}); choose another path")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Its mark.
        found: i32,
    },
    /// Written by a later version of this program.
    #[error(
        "{path} was written by a newer hookmoat: its {schema} tables have version {found}, this one knows {known}; start the newer version"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Whose tables.
        schema: &'static str,
        /// Version in the file.
        found: usize,
        /// Version known here.
        known: usize,
    },
}

impl OpenError {
    /// What a queue's configuration can do about it, to be said behind the error. Nobody else has this setting.
    pub fn remedy_of_queues(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "; or set `if_corrupt: set_aside` to have that done at start",
            _ => "",
        }
    }
}

/// Why a closure's work did not become durable.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DbError {
    /// No room: the disk, or the file system's `min_free`.
    #[error("disk full: {0}")]
    Full(String),
    /// The file is damaged. Nothing more is written.
    #[error("database damaged: {0}")]
    Corrupt(String),
    /// Anything else that SQLite or the disk said. The work was undone.
    #[error("{0}")]
    Failed(String),
    /// Not known whether it became durable: no answer in time.
    #[error("the disk did not finish a write within {} s", PATIENCE.as_secs())]
    Timeout,
    /// The writer is gone: shutting down.
    #[error("the database is closed")]
    Closed,
}

impl From<rusqlite::Error> for DbError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// Tables of one owner in the file, as steps from nothing to today. A step is never changed once it was released.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Names the owner: `queue`, `seen`.
    pub name: &'static str,
    /// SQL of each step.
    pub steps: &'static [&'static str],
}

/// What the writer did so far, for metrics and measurements.
#[derive(Debug, Default)]
pub struct Counters {
    /// Transactions that were committed, each with its fsync.
    pub commits: AtomicU64,
    /// Closures in them.
    pub jobs: AtomicU64,
    /// Microseconds that the commits took altogether.
    pub commit_micros: AtomicU64,
}

/// A file and its threads. Dropped with the last user; what was told durable is on the disk whatever happens.
pub struct Database {
    path: PathBuf,
    options: Options,
    writer: mpsc::Sender<Job>,
    reader: mpsc::Sender<Job>,
    counters: Arc<Counters>,
    trouble: Arc<Mutex<Option<String>>>,
    /// Room for delivering on a full disk. `None` for a visitor.
    spare: Option<Arc<Spare>>,
    /// Held as long as the process has the file. `None` for a visitor.
    _lock: Option<File>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Runs on a connection in a transaction; without one there is only its refusal to be told.
type Job = Box<dyn FnOnce(Option<&Connection>) -> Told + Send>;
type Told = Box<dyn FnOnce(Option<&DbError>) + Send>;

impl Database {
    /// Opens or makes the file, as its only owner.
    ///
    /// Blocks: for start-up. `unix` is the time since 1970, for the name of a file that is set aside.
    pub fn open(path: &Path, options: Options, unix: Duration) -> Result<Arc<Self>, OpenError> {
        let mut lock = lock(path)?;
        let (writer, name) = match open_owned(path, &mut lock) {
            Ok(opened) => opened,
            Err(OpenError::Corrupt { why, .. }) if options.if_corrupt == IfCorrupt::SetAside => {
                let aside = set_aside(path, unix)?;
                tracing::error!(
                    target: "hookmoat", path = %path.display(), aside = %aside.display(), why,
                    "a damaged database was set aside; events in it are not delivered until somebody looks at it"
                );
                lock.set_len(0).map_err(|error| unusable(path, error))?;
                open_owned(path, &mut lock)?
            }
            Err(error) => return Err(error),
        };
        tracing::debug!(target: "hookmoat", path = %path.display(), name, "database open");
        Self::start(path, options, writer, Some(lock))
    }

    /// Opens a file that may have an owner at work, for a tool. Never makes, checks or changes it by itself.
    pub fn visit(path: &Path) -> Result<Arc<Self>, OpenError> {
        if !path.exists() {
            return Err(OpenError::Unusable { path: path.into(), why: "there is no such file".into() });
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let failed = |error| open_error(path, error);
        let writer = Connection::open_with_flags(path, flags).map_err(failed)?;
        writer.busy_timeout(BUSY).map_err(failed)?;
        match mark_of(&writer).map_err(failed)? {
            APPLICATION_ID => {}
            found => return Err(OpenError::Foreign { path: path.into(), found }),
        }
        settle_in(&writer).map_err(failed)?;
        Self::start(path, Options::default(), writer, None)
    }

    fn start(path: &Path, options: Options, writer: Connection, lock: Option<File>) -> Result<Arc<Self>, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(path, flags)
            .and_then(|reader| {
                settle_in(&reader)?;
                reader.pragma_update(None, "query_only", true)?;
                Ok(reader)
            })
            .map_err(|error| open_error(path, error))?;
        let counters = Arc::new(Counters::default());
        let trouble = Arc::new(Mutex::new(None));
        let (to_writer, jobs) = mpsc::channel(LINE);
        let (to_reader, reads) = mpsc::channel(LINE);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(|error| unusable(path, error))
        };
        let spare = lock.is_some().then(|| Arc::new(Spare::beside(path)));
        let state = (counters.clone(), trouble.clone(), spare.clone());
        spawn("db-writer", Box::new(move || write_on(&writer, jobs, &state.0, &state.1, state.2.as_deref())))?;
        spawn("db-reader", Box::new(move || read_on(&reader, reads)))?;
        Ok(Arc::new(Self {
            path: path.into(),
            options,
            writer: to_writer,
            reader: to_reader,
            counters,
            trouble,
            spare,
            _lock: lock,
        }))
    }

    /// Brings tables to today's form. Blocks: for start-up.
    pub fn migrate(&self, schema: Schema) -> Result<(), OpenError> {
        let path = self.path.clone();
        let newer = Arc::new(AtomicU64::new(0));
        let found = newer.clone();
        let done = self.write_blocking(move |connection| {
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS hookmoat_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT",
            )?;
            let version: Option<i64> = connection
                .query_row("SELECT version FROM hookmoat_schema WHERE name = ?1", [schema.name], |row| row.get(0))
                .optional()?;
            let version = usize::try_from(version.unwrap_or(0)).unwrap_or(0);
            if version > schema.steps.len() {
                found.store(version as u64, Ordering::Relaxed);
                return Ok(());
            }
            for step in schema.steps.iter().skip(version) {
                connection.execute_batch(step)?;
            }
            connection.execute(
                "INSERT INTO hookmoat_schema (name, version) VALUES (?1, ?2)
                 ON CONFLICT (name) DO UPDATE SET version = excluded.version WHERE version <> excluded.version",
                (schema.name, schema.steps.len() as i64),
            )?;
            Ok(())
        });
        let found = newer.load(Ordering::Relaxed);
        if found > 0 {
            let known = schema.steps.len();
            return Err(OpenError::Newer { path, schema: schema.name, found: found as usize, known });
        }
        done.map_err(|error| match error {
            DbError::Corrupt(why) => OpenError::Corrupt { path, why },
            other => OpenError::Unusable { path, why: other.to_string() },
        })
    }

    /// Are the tables in today's form? For a visitor, who brings nothing to any form.
    pub fn check_version(&self, schema: Schema) -> Result<(), OpenError> {
        let (path, known) = (self.path.clone(), schema.steps.len());
        let found = self.write_blocking(move |connection| {
            let version: Option<i64> = connection
                .query_row("SELECT version FROM hookmoat_schema WHERE name = ?1", [schema.name], |row| row.get(0))
                .optional()?;
            Ok(usize::try_from(version.unwrap_or(0)).unwrap_or(0))
        });
        match found {
            Ok(found) if found == known => Ok(()),
            Ok(found) if found > known => Err(OpenError::Newer { path, schema: schema.name, found, known }),
            Ok(0) => Err(OpenError::Unusable { path, why: format!("it has no {} tables", schema.name) }),
            Ok(found) => Err(OpenError::Unusable {
                path,
                why: format!(
                    "its {} tables have version {found}, this hookmoat knows {known}: let it run on the file once",
                    schema.name
                ),
            }),
            Err(error) => Err(OpenError::Unusable { path, why: error.to_string() }),
        }
    }

    /// Runs a closure in the next transaction and answers once it is durable. An error means that nothing of the
    /// closure's work stays, or ([`DbError::Timeout`]) that it is not known.
    ///
    /// The closure must not begin or end transactions. Dropping the future before the closure began skips it.
    pub async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let (job, answer) = job(work, Savepoint::Own);
        ask(&self.writer, job, answer).await
    }

    /// The same without waiting: for a caller that may be in a hurry or in no runtime. False: the line is full or the
    /// writer gone, and nothing will happen.
    pub fn write_soon(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) -> bool {
        let job: Job = Box::new(move |connection| {
            let error = connection.and_then(|connection| in_savepoint(connection, work).err());
            Box::new(move |failed| {
                if let Some(error) = failed.cloned().or(error.map(DbError::from)) {
                    tracing::warn!(target: "hookmoat", %error, "a write in the background failed");
                }
            })
        });
        self.writer.try_send(job).is_ok()
    }

    /// The same for a thread without a runtime, at start-up or in a tool.
    pub fn write_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let (tell, told) = std::sync::mpsc::channel();
        let mut job: Option<Job> = Some(Box::new(move |connection| {
            let result = connection.map(|connection| in_savepoint(connection, work));
            Box::new(move |failed| {
                let _ = tell.send(outcome(result, failed));
            })
        }));
        // `blocking_send` must not be called in a runtime, and tests call this in one.
        while let Some(waiting) = job.take() {
            match self.writer.try_send(waiting) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(waiting)) => {
                    job = Some(waiting);
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(DbError::Closed),
            }
        }
        told.recv_timeout(PATIENCE).map_err(|_| DbError::Timeout)?
    }

    /// Runs a closure that only reads, beside the writer: it sees what is durable. Reads stand in a line of their own, so
    /// a closure must be short, or come in portions.
    pub async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, DbError> {
        let (job, answer) = job(work, Savepoint::None);
        ask(&self.reader, job, answer).await
    }

    /// Was the disk full, and is what was kept for that not to be had again yet?
    pub fn is_pressed(&self) -> bool {
        self.spare.as_ref().is_some_and(|spare| spare.is_spent())
    }

    /// Is there as much free room on the file system as the options ask for? The error says how much there is.
    pub fn has_room(&self) -> Result<(), DbError> {
        if self.is_pressed() {
            let path = self.path.display();
            return Err(DbError::Full(format!("the disk of {path} was full; what room there is goes to delivering")));
        }
        let free = free_bytes(&self.path);
        match free {
            Some(free) if free < self.options.min_free => {
                let (free, wanted) = (free >> 20, self.options.min_free >> 20);
                Err(DbError::Full(format!("{free} MiB free where {} is, {wanted} MiB wanted", self.path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Moves everything from the log into the file, so that the next start finds nothing to replay. For the end of a
    /// process; blocks for as long as the writer has something to do, within reason.
    pub fn checkpoint_blocking(&self) {
        let (tell, told) = std::sync::mpsc::channel();
        let job: Job = Box::new(move |_| {
            Box::new(move |_| {
                let _ = tell.send(());
            })
        });
        if self.writer.try_send(job).is_err() || told.recv_timeout(Duration::from_secs(2)).is_err() {
            return;
        }
        // A connection of its own: the writer's is the writer's.
        if let Ok(connection) = Connection::open_with_flags(&self.path, OpenFlags::SQLITE_OPEN_READ_WRITE) {
            let _ = connection.busy_timeout(Duration::from_secs(1));
            let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How it was opened.
    pub fn options(&self) -> Options {
        self.options
    }

    /// What the writer did so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Why the last transaction could not be committed, until one can.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }
}

/// The databases of a process by path: whoever names the same file gets the same one.
#[derive(Debug, Default)]
pub struct Databases(Mutex<HashMap<PathBuf, Arc<Database>>>);

impl Databases {
    /// Opens a file, or hands out the one that is open already; the first one's options count.
    pub fn open(&self, path: &Path, options: Options, unix: Duration) -> Result<Arc<Database>, OpenError> {
        let mut open = self.0.lock();
        let key = std::path::absolute(path).unwrap_or_else(|_| path.into());
        if let Some(database) = open.get(&key) {
            return Ok(database.clone());
        }
        let database = Database::open(&key, options, unix)?;
        open.insert(key, database.clone());
        Ok(database)
    }
}

impl Databases {
    /// For the end of the process: see [`Database::checkpoint_blocking`].
    pub fn checkpoint_blocking(&self) {
        let open: Vec<_> = self.0.lock().values().cloned().collect();
        open.iter().for_each(|database| database.checkpoint_blocking());
    }
}

/// Free bytes for an unprivileged process on the file system of a path.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = statvfs(folder).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[derive(Clone, Copy)]
enum Savepoint {
    Own,
    None,
}

fn job<T: Send + 'static>(
    work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    savepoint: Savepoint,
) -> (Job, oneshot::Receiver<Result<T, DbError>>) {
    let (tell, answer) = oneshot::channel();
    let job: Job = Box::new(move |connection| {
        if tell.is_closed() {
            return Box::new(|_| {});
        }
        let result = connection.map(|connection| match savepoint {
            Savepoint::Own => in_savepoint(connection, work),
            Savepoint::None => work(connection),
        });
        Box::new(move |failed| {
            let _ = tell.send(outcome(result, failed));
        })
    });
    (job, answer)
}

fn outcome<T>(result: Option<rusqlite::Result<T>>, failed: Option<&DbError>) -> Result<T, DbError> {
    match (failed, result) {
        (Some(error), _) => Err(error.clone()),
        (None, Some(result)) => result.map_err(DbError::from),
        (None, None) => Err(DbError::Closed),
    }
}

async fn ask<T>(
    line: &mpsc::Sender<Job>,
    job: Job,
    answer: oneshot::Receiver<Result<T, DbError>>,
) -> Result<T, DbError> {
    let asked = async {
        line.send(job).await.map_err(|_| DbError::Closed)?;
        answer.await.map_err(|_| DbError::Closed)?
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or(Err(DbError::Timeout))
}

/// Runs one closure so that its failure undoes its own work only.
fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(drop);
    run("SAVEPOINT job")?;
    let result = work(connection);
    // A full disk ends the whole transaction by itself; the writer looks.
    if result.is_err() && !connection.is_autocommit() {
        run("ROLLBACK TO job")?;
    }
    if !connection.is_autocommit() {
        run("RELEASE job")?;
    }
    result
}

/// The writer's life.
fn write_on(
    connection: &Connection,
    mut line: mpsc::Receiver<Job>,
    counters: &Counters,
    trouble: &Mutex<Option<String>>,
    spare: Option<&Spare>,
) {
    let mut told: Vec<Told> = Vec::with_capacity(BATCH);
    while let Some(first) = line.blocking_recv() {
        let probe = trouble.lock().is_some();
        let result = one_transaction(connection, first, &mut line, &mut told, counters, probe);
        match &result {
            Ok(()) => {
                counters.commits.fetch_add(1, Ordering::Relaxed);
                counters.jobs.fetch_add(told.len() as u64, Ordering::Relaxed);
                if trouble.lock().take().is_some() {
                    tracing::info!(target: "hookmoat", "the database can be written again");
                }
            }
            Err(error) => {
                if !connection.is_autocommit() {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                if matches!(error, DbError::Full(_)) && spare.is_some_and(Spare::spend) {
                    tracing::warn!(target: "hookmoat", "the disk is full; what was kept free goes to delivering");
                }
                if trouble.lock().replace(error.to_string()).is_none() {
                    tracing::error!(target: "hookmoat", %error, "the database cannot be written");
                }
            }
        }
        for tell in told.drain(..) {
            tell(result.as_ref().err());
        }
    }
    // The next start finds nothing to replay.
    let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
}

/// Runs what is there and commits it. The jobs' answers are left in `told`, to be given in either case. A `probe` writes
/// something in any case: jobs that change nothing say nothing about the disk.
fn one_transaction(
    connection: &Connection,
    first: Job,
    line: &mut mpsc::Receiver<Job>,
    told: &mut Vec<Told>,
    counters: &Counters,
    probe: bool,
) -> Result<(), DbError> {
    let run = |sql| connection.prepare_cached(sql)?.execute([]).map(drop);
    if let Err(error) = run("BEGIN IMMEDIATE") {
        told.push(first(None));
        return Err(error.into());
    }
    let mut next = Some(first);
    while let Some(job) = next {
        told.push(job(Some(connection)));
        if connection.is_autocommit() {
            return Err(DbError::Full("the disk is full, the transaction was undone".into()));
        }
        next = if told.len() < BATCH { line.try_recv().ok() } else { None };
    }
    if probe {
        // The page with the mark is written anew, whatever stands there already.
        connection.execute_batch(&format!("PRAGMA application_id = {APPLICATION_ID}"))?;
    }
    let begun = instant();
    run("COMMIT")?;
    let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    counters.commit_micros.fetch_add(micros, Ordering::Relaxed);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "measures the disk")]
fn instant() -> std::time::Instant {
    std::time::Instant::now()
}

fn read_on(connection: &Connection, mut line: mpsc::Receiver<Job>) {
    while let Some(job) = line.blocking_recv() {
        job(Some(connection))(None);
    }
}

fn unusable(path: &Path, error: std::io::Error) -> OpenError {
    let why = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            format!("{error}; it and its folder must be writable for the user that hookmoat runs as")
        }
        std::io::ErrorKind::ReadOnlyFilesystem => {
            format!("{error}; mount a volume that can be written there, or choose another path")
        }
        _ => error.to_string(),
    };
    OpenError::Unusable { path: path.into(), why }
}

fn open_error(path: &Path, error: rusqlite::Error) -> OpenError {
    match DbError::from(error) {
        DbError::Corrupt(why) => OpenError::Corrupt { path: path.into(), why },
        other => OpenError::Unusable { path: path.into(), why: other.to_string() },
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the folder and the lock file, and takes the lock for the life of the returned file.
fn lock(path: &Path) -> Result<File, OpenError> {
    let failed = |error| unusable(path, error);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = file.open(beside(path, ".lock")).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { path: path.into() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Opens the file and answers with the writer's connection and the file's name for itself.
fn open_owned(path: &Path, lock: &mut File) -> Result<(Connection, String), OpenError> {
    let failed = |error| unusable(path, error);
    let mut expected = String::new();
    lock.rewind().map_err(failed)?;
    lock.take(64).read_to_string(&mut expected).map_err(failed)?;
    let corrupt = |why: String| OpenError::Corrupt { path: path.into(), why };
    let is_new = std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0);
    if is_new && !expected.is_empty() {
        return Err(corrupt("it is missing or empty, though it was in use before".into()));
    }
    // Bodies are nobody else's business; -wal and -shm get the same mode.
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| open_error(path, error))?;
    if is_new {
        // To be said before the first table: freed pages can be given back to the disk.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(|error| open_error(path, error))?;
    }
    settle_in(&connection).map_err(|error| open_error(path, error))?;
    let check: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| open_error(path, error))?;
    if check != "ok" {
        return Err(corrupt(check));
    }
    let found = mark_of(&connection).map_err(|error| open_error(path, error))?;
    let name = match found {
        APPLICATION_ID => connection.query_row("SELECT name FROM hookmoat_file", [], |row| row.get(0)),
        0 if is_new => name_it(&connection),
        // Page 1 went back to a time before the first commit.
        0 if !expected.is_empty() => return Err(corrupt("it is empty, though it was in use before".into())),
        found => return Err(OpenError::Foreign { path: path.into(), found }),
    };
    let name = name.map_err(|error| open_error(path, error))?;
    if expected.trim() != name {
        // Somebody put a backup in its place, or the lock file was lost: the database counts.
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| lock.write_all(name.as_bytes())).map_err(failed)?;
        lock.sync_all().map_err(failed)?;
        // The names of new files have to reach the disk as well.
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)?;
        }
    }
    Ok((connection, name))
}

fn mark_of(connection: &Connection) -> rusqlite::Result<i32> {
    connection.query_row("PRAGMA application_id", [], |row| row.get(0))
}

fn name_it(connection: &Connection) -> rusqlite::Result<String> {
    let (high, low) = (getrandom::u64().unwrap_or_default(), getrandom::u64().unwrap_or_default());
    let name = format!("{high:016x}{low:016x}");
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE;
         CREATE TABLE hookmoat_file (name TEXT NOT NULL) STRICT;
         INSERT INTO hookmoat_file VALUES ('{name}');
         PRAGMA application_id = {APPLICATION_ID};
         COMMIT;"
    ))?;
    Ok(name)
}

/// Settings of every connection.
fn settle_in(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        let text = format!("this file system cannot do write-ahead logging (journal_mode is {mode}); use a local disk");
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(text),
        ));
    }
    // FULL: the log is synced at every commit. `fullfsync` goes through the drive's cache on macOS, elsewhere it is nothing.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "fullfsync", true)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "journal_size_limit", KEPT_LOG)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(())
}

/// Renames a broken file with what belongs to it.
fn set_aside(path: &Path, unix: Duration) -> Result<PathBuf, OpenError> {
    let suffix = format!(".corrupt-{}", unix.as_secs());
    let aside = beside(path, &suffix);
    for part in ["-wal", "-shm", ""] {
        let from = beside(path, part);
        if from.exists() {
            // `x.db.corrupt-1-wal`: SQLite finds the log of a renamed file only under the renamed name.
            std::fs::rename(&from, beside(&aside, part)).map_err(|error| unusable(path, error))?;
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests;
