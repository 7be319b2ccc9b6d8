//! Opens the queues that are somewhere else.
//!
//! Their connections live on a runtime of their own: they are there before any listener, and no request's thread has to
//! wait for another's.

use super::queue::{
    Abilities, Delivery, Enqueued, Event, Inspect, Queue, QueueError, Receipt, Settlement, Stats, Want,
};
use super::rabbitmq::RabbitQueue;
use super::seen::Token;
use super::sqs::SqsQueue;
use super::{rabbitmq, sqs};
use crate::request::Now;
use async_trait::async_trait;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Runtime;

/// Threads for connections to brokers.
const THREADS: usize = 2;

/// A queue at RabbitMQ. Waits for the connection as long as one may take. Blocks: for start-up, outside of any runtime.
///
/// # Errors
/// When no thread can be had.
pub fn open_rabbitmq(settings: rabbitmq::Settings) -> Result<Arc<dyn Queue>, String> {
    Ok(Arc::new(run(RabbitQueue::start(settings))?))
}

/// A queue in SQS. Waits for the first answer as long as a call may take. Blocks: for start-up, outside of any runtime.
///
/// # Errors
/// When no thread can be had, or the settings cannot be used.
pub fn open_sqs(settings: sqs::Settings) -> Result<Arc<dyn Queue>, String> {
    Ok(Arc::new(run(SqsQueue::start(settings))??))
}

fn run<T: Send + 'static>(start: impl Future<Output = T> + Send + 'static) -> Result<T, String> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let builder = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("brokers")
            .enable_all()
            .build();
        builder.map_err(|error| format!("cannot start threads: {error}"))
    });
    let (sender, receiver) = std::sync::mpsc::channel();
    runtime.as_ref().map_err(Clone::clone)?.spawn(async move {
        let _ = sender.send(start.await);
    });
    receiver.recv().map_err(|_| "it ended while it started".into())
}

/// A queue whose largest events go to another one.
pub struct Spilling {
    queue: Arc<dyn Queue>,
    large: Arc<dyn Queue>,
}

/// What a receipt of the other queue begins with. No engine's tags do.
const OTHER: &str = "large ";

impl Spilling {
    /// `large` has its own workers.
    pub fn new(queue: Arc<dyn Queue>, large: Arc<dyn Queue>) -> Self {
        Self { queue, large }
    }

    /// Whose receipt is it?
    fn owner(&self, receipt: &Receipt) -> (&dyn Queue, Receipt) {
        match receipt.tag.strip_prefix(OTHER) {
            Some(tag) => (&*self.large, Receipt { uid: receipt.uid, tag: tag.into() }),
            None => (&*self.queue, receipt.clone()),
        }
    }
}

#[async_trait]
impl Queue for Spilling {
    async fn enqueue(
        &self,
        event: &Event,
        claim: Option<&Token>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError> {
        match self.queue.enqueue(event, claim, hold, now).await {
            Err(QueueError::TooLarge(_)) => match self.large.enqueue(event, claim, hold, now).await? {
                Enqueued::Stored { receipt: Some(receipt), remembered } => {
                    let tag = format!("{OTHER}{}", receipt.tag).into();
                    Ok(Enqueued::Stored { receipt: Some(Receipt { uid: receipt.uid, tag }), remembered })
                }
                other => Ok(other),
            },
            other => other,
        }
    }

    async fn receive(&self, want: Want<'_>, now: Now) -> Result<Vec<Delivery>, QueueError> {
        self.queue.receive(want, now).await
    }

    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError> {
        let (queue, receipt) = self.owner(receipt);
        queue.extend(&receipt, lease, now).await
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let (queue, receipt) = self.owner(&receipt);
        queue.settle(receipt, settlement, now).await
    }

    async fn stats(&self, now: Now) -> Result<Stats, QueueError> {
        self.queue.stats(now).await
    }

    fn trouble(&self) -> Option<String> {
        self.queue.trouble()
    }

    fn abilities(&self) -> Abilities {
        self.queue.abilities()
    }

    async fn maintain(&self, now: Now) {
        self.queue.maintain(now).await;
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        self.queue.inspect()
    }
}
