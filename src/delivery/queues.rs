//! The queues of the configuration, opened at start.

use super::circuit::Circuit;
use crate::policy::{Policy, QueueEngine, Route, UnknownRoutes, Upstream};
use crate::port::queue::Queue;
use crate::port::rabbitmq::RabbitQueue;
use crate::port::sqlite::Finish;
use crate::port::sqlite::db::{Databases, IfCorrupt, OpenError, Options};
use crate::port::sqlite::queue::{Bounds, SqliteQueue};
use crate::port::sqs::SqsQueue;
use crate::request::Now;
use crate::runtime::State;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;

/// All that background delivery holds for the life of the process.
pub(crate) struct Queues {
    open: Vec<Arc<OpenQueue>>,
    targets: Mutex<HashMap<Arc<str>, Arc<Target>>>,
    running: Arc<AtomicUsize>,
    /// Attempts that go on after their sender was told.
    pub(crate) late: Arc<Semaphore>,
    /// Where connections to brokers live: they are older than the services' own runtimes, and stay until the process ends.
    _brokers: ManuallyDrop<Option<Runtime>>,
}

/// Threads for all brokers together: they wait, and hash nothing.
const BROKER_THREADS: usize = 2;

fn runtime(brokers: &mut Option<Runtime>) -> std::io::Result<&Runtime> {
    let runtime = match brokers.take() {
        Some(runtime) => runtime,
        None => {
            Builder::new_multi_thread().worker_threads(BROKER_THREADS).thread_name("brokers").enable_all().build()?
        }
    };
    Ok(brokers.insert(runtime))
}

/// Such attempts at once at most.
const LATE: usize = 256;

/// A queue that is open.
pub(crate) struct OpenQueue {
    pub(crate) name: Arc<str>,
    /// The queue for events that are too large for this one.
    pub(crate) too_large: Option<Arc<str>>,
    pub(crate) unknown_routes: UnknownRoutes,
    pub(crate) fails_readiness: bool,
    pub(crate) queue: Arc<dyn Queue>,
}

/// What deliveries to one backend share.
pub(crate) struct Target {
    pub(crate) concurrency: usize,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) circuit: Mutex<Circuit>,
}

impl Queues {
    /// Opens every queue of the policy. Blocks: for start-up.
    pub(crate) fn open(policy: &Policy, state: &State, databases: &Databases, now: Now) -> Result<Self, String> {
        let mut open = Vec::new();
        let mut brokers = None;
        for queue in &policy.queues {
            let failed = |error: &dyn std::fmt::Display| format!("queue {}: {error}", queue.name);
            let opened: Arc<dyn Queue> = match &queue.engine {
                QueueEngine::Sqlite(file) => {
                    let if_corrupt = if file.set_aside { IfCorrupt::SetAside } else { IfCorrupt::Refuse };
                    let options = Options { if_corrupt, min_free: file.min_free };
                    let refused = |error: OpenError| failed(&format_args!("{error}{}", error.remedy_of_queues()));
                    let database = databases.open(&file.path, options, now.unix).map_err(refused)?;
                    let seen = state.in_file(&file.path).map(|seen| seen as Arc<dyn Finish>);
                    let bounds = Bounds { max_events: file.max_events, max_bytes: file.max_bytes };
                    let queue = SqliteQueue::open(database, bounds, seen, now).map_err(refused)?;
                    Arc::new(queue)
                }
                QueueEngine::RabbitMq(settings) => Arc::new(
                    runtime(&mut brokers).map_err(|e| failed(&e))?.block_on(RabbitQueue::start((**settings).clone())),
                ),
                QueueEngine::Sqs(settings) => {
                    let started =
                        runtime(&mut brokers).map_err(|e| failed(&e))?.block_on(SqsQueue::start((**settings).clone()));
                    Arc::new(started.map_err(|error| failed(&error))?)
                }
            };
            open.push(Arc::new(OpenQueue {
                name: queue.name.clone(),
                too_large: queue.too_large.clone(),
                unknown_routes: queue.unknown_routes,
                fails_readiness: queue.fails_readiness,
                queue: opened,
            }));
        }
        Ok(Self {
            open,
            targets: Mutex::default(),
            running: Arc::default(),
            late: Arc::new(Semaphore::new(LATE)),
            _brokers: ManuallyDrop::new(brokers),
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Arc<OpenQueue>] {
        &self.open
    }

    /// A queue by its name.
    pub(crate) fn by_name(&self, name: &str) -> Option<&Arc<OpenQueue>> {
        self.open.iter().find(|queue| *queue.name == *name)
    }

    /// The queue of a route's events that go by this branch. `None`: a reload brought one that is not open.
    pub(crate) fn of(&self, policy: &Policy, route: &Route, branch: Option<usize>) -> Option<&Arc<OpenQueue>> {
        self.by_name(&policy.queues.get(route.queue(branch)?)?.name)
    }

    /// What deliveries to this backend share; made anew when a reload changed how many there may be.
    pub(crate) fn target(&self, upstream: &Upstream) -> Arc<Target> {
        let mut targets = self.targets.lock();
        match targets.get(&upstream.name) {
            Some(target) if target.concurrency == upstream.concurrency => target.clone(),
            _ => {
                let target = Arc::new(Target {
                    concurrency: upstream.concurrency,
                    permits: Arc::new(Semaphore::new(upstream.concurrency)),
                    circuit: Mutex::default(),
                });
                targets.insert(upstream.name.clone(), target.clone());
                target
            }
        }
    }

    /// Backends that deliveries went to, and whether they are down.
    pub(crate) fn circuits(&self) -> Vec<(Arc<str>, bool)> {
        self.targets.lock().iter().map(|(name, target)| (name.clone(), target.circuit.lock().is_down())).collect()
    }

    /// Counts an attempt for the drain at shutdown, until it is dropped.
    pub(crate) fn start(&self) -> Running {
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(self.running.clone())
    }

    /// Attempts that run now.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Acquire)
    }

    /// Why the process should not be ready: what queues say that were declared to matter.
    pub(crate) fn trouble(&self) -> Vec<String> {
        let matters = self.open.iter().filter(|queue| queue.fails_readiness);
        matters.filter_map(|queue| Some(format!("queue {}: {}", queue.name, queue.queue.trouble()?))).collect()
    }
}

/// See [`Queues::start`].
pub(crate) struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
