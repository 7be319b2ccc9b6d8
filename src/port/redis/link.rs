//! The connection to Redis, and the breaker in front of it.
//!
//! Requests use a connection that is there; they never make one, and they never find out by themselves that a server is
//! back. That is the keeper's work, one task on a thread of its own: it connects, probes once a second with a write, opens
//! and closes the breaker. While the breaker is open a request is told so at once, without a word on the wire.
//!
//! The breaker opens when a connection breaks, or when `FAILURES` answers in a row were errors or did not come in time.
//! It closes when a probe was answered in time, and what had to wait (`pending`) was told.

use super::connect::{Connection, Connector};
use super::scripts::Script;
use crate::policy::Redis;
use crate::port::seen::StoreError;
use crate::telemetry::state::{Operation, StateMetrics};
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;
/// Between two probes of a server that answers.
const PROBE: Duration = Duration::from_secs(1);
/// Between two attempts at one that does not: the first and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Probes in a row without an answer after which a connection is given up.
const SILENT: u32 = 2;
/// How long a probe's key lives in Redis, in ms.
const PROBE_LIFE: u32 = 1000;
/// Between two looks at the server's memory policy.
const LOOK: Duration = Duration::from_secs(60);

/// What a keeper does when a server is back, before requests may use it.
#[async_trait::async_trait]
pub(super) trait Returning: Send + Sync {
    /// Tells the server what could not be told while it was away.
    async fn catch_up(&self, connection: &mut Connection);
}

/// The shared part: what requests see.
pub(super) struct Link {
    connection: ArcSwapOption<Connection>,
    open: AtomicBool,
    failures: AtomicU32,
    /// Why the breaker is open.
    why: Mutex<String>,
    wake: Notify,
    pub(super) timeout: Duration,
    pub(super) metrics: Arc<StateMetrics>,
    /// What the first attempt to connect came to.
    first: watch::Sender<Option<Result<Memory, String>>>,
}

/// What a server does when its memory is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// It refuses writes, or has no limit.
    Keeps,
    /// It throws keys away; the name of its policy.
    Evicts(String),
    /// It does not say.
    Unknown,
}

impl Link {
    pub(super) fn new(timeout: Duration, metrics: Arc<StateMetrics>) -> Self {
        metrics.up.set(0);
        Self {
            connection: ArcSwapOption::empty(),
            open: AtomicBool::new(true),
            failures: AtomicU32::new(0),
            why: Mutex::new("not connected yet".into()),
            wake: Notify::new(),
            timeout,
            metrics,
            first: watch::Sender::new(None),
        }
    }

    /// Do requests do without the server at this moment?
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Why requests do without the server at this moment.
    pub(super) fn trouble(&self) -> Option<String> {
        self.open.load(Ordering::Relaxed).then(|| self.why.lock().clone())
    }

    /// What the first attempt to connect came to, once it is known.
    pub(super) fn first(&self) -> watch::Receiver<Option<Result<Memory, String>>> {
        self.first.subscribe()
    }

    /// Runs a script with the connection that is there. `args` come after the keys.
    pub(super) async fn script(
        &self,
        operation: Operation,
        script: &Script,
        keys: &[Vec<u8>],
        args: &[u64],
    ) -> Result<Value, StoreError> {
        let Some(mut connection) = self.ready() else { return Err(away()) };
        self.judged(operation, run_script(&mut connection, script, keys, args)).await
    }

    /// Runs a command with the connection that is there.
    pub(super) async fn command(&self, operation: Operation, command: &Cmd) -> Result<Value, StoreError> {
        let Some(mut connection) = self.ready() else { return Err(away()) };
        self.judged(operation, connection.run(command)).await
    }

    fn ready(&self) -> Option<Connection> {
        if self.open.load(Ordering::Relaxed) {
            return None;
        }
        self.connection.load().as_deref().cloned()
    }

    /// Waits for an answer as long as one may take, and lets the breaker know.
    async fn judged(
        &self,
        operation: Operation,
        asked: impl Future<Output = RedisResult<Value>>,
    ) -> Result<Value, StoreError> {
        let begun = Instant::now();
        let answer = timeout(self.timeout, asked).await;
        self.metrics.took(operation, begun.elapsed());
        match answer {
            Ok(Ok(value)) => {
                if self.failures.load(Ordering::Relaxed) != 0 {
                    self.failures.store(0, Ordering::Relaxed);
                }
                Ok(value)
            }
            Ok(Err(error)) => {
                self.metrics.failed(operation);
                let what = error.to_string();
                self.failed(&what, breaks_at_once(&error));
                Err(StoreError(what.into()))
            }
            Err(_) => {
                self.metrics.failed(operation);
                self.failed("no answer in time", false);
                Err(StoreError("no answer in time".into()))
            }
        }
    }

    fn failed(&self, why: &str, at_once: bool) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if at_once || failures >= FAILURES {
            self.open(why);
        }
    }

    fn open(&self, why: &str) {
        if !self.open.swap(true, Ordering::Relaxed) {
            *self.why.lock() = why.into();
            self.metrics.up.set(0);
            tracing::error!(target: "hookmoat", why, "redis is away: requests go on as `on_failure` says");
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.open.swap(false, Ordering::Relaxed) {
            self.metrics.up.set(1);
            tracing::info!(target: "hookmoat", "redis is there");
        }
    }
}

/// The script by its digest; by its text where the server has forgotten it.
pub(super) async fn run_script(
    connection: &mut Connection,
    script: &Script,
    keys: &[Vec<u8>],
    args: &[u64],
) -> RedisResult<Value> {
    let command = |name: &str, what: &str| {
        let mut command = Cmd::new();
        command.arg(name).arg(what).arg(keys.len());
        for key in keys {
            command.arg(key.as_slice());
        }
        for arg in args {
            command.arg(arg);
        }
        command
    };
    match connection.run(&command("EVALSHA", &script.digest)).await.and_then(Value::extract_error) {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.run(&command("EVAL", script.text)).await.and_then(Value::extract_error)
        }
        other => other,
    }
}

pub(super) fn away() -> StoreError {
    StoreError("redis is away".into())
}

/// Is it clear from one such failure that the next request fails too?
fn breaks_at_once(error: &RedisError) -> bool {
    error.is_connection_dropped()
        || error.is_unrecoverable_error()
        || matches!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::BusyLoading | ServerErrorKind::MasterDown)
        )
}

/// Keeps the link until `stop` says so.
pub(super) async fn keep(
    link: Arc<Link>,
    policy: Redis,
    returning: Arc<dyn Returning>,
    mut stop: watch::Receiver<bool>,
) {
    let keeping = async {
        let mut connector = Connector::new(&policy);
        let mut pause = PAUSE.0;
        let mut told = String::new();
        loop {
            match connector.connect(policy.connect_timeout).await {
                Ok(mut connection) => {
                    let memory = memory_of(&mut connection, policy.connect_timeout).await;
                    say(&link, &memory);
                    if link.first.borrow().is_none() {
                        link.first.send_replace(Some(Ok(memory)));
                    }
                    told.clear();
                    // A server that takes connections and then nothing else is not asked all the time.
                    if with(&link, connection, &policy.prefix, &*returning).await {
                        pause = PAUSE.0;
                    }
                }
                Err(why) => {
                    *link.why.lock() = why.clone();
                    if link.first.borrow().is_none() {
                        link.first.send_replace(Some(Err(why.clone())));
                    }
                    if why != told {
                        tracing::error!(target: "hookmoat", why, "redis cannot be reached, trying again and again");
                        told = why;
                    }
                }
            }
            link.connection.store(None);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    };
    tokio::select! {
        () = keeping => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// Uses a connection until it is of no more use. Was it of any?
async fn with(link: &Link, mut connection: Connection, prefix: &str, returning: &dyn Returning) -> bool {
    let mut pause = PAUSE.0;
    let mut silent = 0;
    let mut useful = false;
    let mut looked = Instant::now();
    loop {
        let begun = Instant::now();
        let answer = timeout(link.timeout, connection.run(&probe(prefix))).await;
        link.metrics.took(Operation::Probe, begun.elapsed());
        let closed = !link.open.load(Ordering::Relaxed);
        match answer.map(|answer| answer.and_then(Value::extract_error)) {
            Ok(Ok(_)) => {
                silent = 0;
                useful = true;
                pause = PAUSE.0;
                returning.catch_up(&mut connection).await;
                if !closed {
                    link.connection.store(Some(Arc::new(connection.clone())));
                    link.close();
                }
                if looked.elapsed() >= LOOK {
                    looked = Instant::now();
                    let memory = memory_of(&mut connection, link.timeout).await;
                    say(link, &memory);
                }
            }
            Ok(Err(error)) => {
                link.metrics.failed(Operation::Probe);
                *link.why.lock() = error.to_string();
                link.failed(&error.to_string(), breaks_at_once(&error));
                // Another server may be the master now.
                if breaks_at_once(&error) {
                    return useful;
                }
            }
            Err(_) => {
                link.metrics.failed(Operation::Probe);
                link.failed("no answer in time", false);
                silent += 1;
                if silent >= SILENT && link.open.load(Ordering::Relaxed) {
                    return useful;
                }
            }
        }
        let rest = if link.open.load(Ordering::Relaxed) {
            pause = (pause * 2).min(PAUSE.1);
            pause
        } else {
            PROBE
        };
        tokio::select! {
            () = sleep(rest) => {}
            () = link.wake.notified() => {}
        }
    }
}

/// A write, so that a full or read-only server does not pass for a good one. In a cluster each probe asks some node.
fn probe(prefix: &str) -> Cmd {
    let chance = getrandom::u32().unwrap_or_default();
    let mut command = redis::cmd("SET");
    command.arg(format!("{prefix}:probe:{chance:08x}")).arg(1).arg("PX").arg(PROBE_LIFE);
    command
}

/// What the server does when its memory is full. Servers that others run often do not let CONFIG be read; INFO says it
/// too.
async fn memory_of(connection: &mut Connection, within: Duration) -> Memory {
    let mut command = redis::cmd("INFO");
    command.arg("memory");
    let answer = timeout(within, connection.run(&command)).await;
    let texts = match answer {
        Ok(Ok(value)) => texts_of(value),
        _ => return Memory::Unknown,
    };
    let mut known = false;
    for text in &texts {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
        let (Some(most), Some(policy)) = (field("maxmemory"), field("maxmemory_policy")) else { continue };
        known = true;
        if most != "0" && policy != "noeviction" {
            return Memory::Evicts(policy.to_owned());
        }
    }
    if known { Memory::Keeps } else { Memory::Unknown }
}

/// One text, or one for each node of a cluster.
fn texts_of(value: Value) -> Vec<String> {
    match value {
        Value::BulkString(bytes) => vec![String::from_utf8_lossy(&bytes).into_owned()],
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => vec![text],
        Value::Map(nodes) => nodes.into_iter().flat_map(|(_, text)| texts_of(text)).collect(),
        Value::Array(texts) => texts.into_iter().flat_map(texts_of).collect(),
        _ => Vec::new(),
    }
}

fn say(link: &Link, memory: &Memory) {
    let evicts = matches!(memory, Memory::Evicts(_));
    let before = link.metrics.evicting.get() == 1;
    link.metrics.evicting.set(i64::from(evicts));
    if let Memory::Evicts(policy) = memory
        && !before
    {
        tracing::warn!(
            target: "hookmoat", policy,
            "redis may throw keys away when its memory is full: delivered events could be forgotten early; set maxmemory-policy to noeviction"
        );
    }
}
