//! Load on a queue, for as long as a test makes its life hard.

use super::Cable;
use super::PATIENCE;
use hookmoat::port::queue::{EventUid, Queue, QueueError, Routes, Settlement, Want};
use hookmoat::port::queue_contract::event;
use hookmoat::request::Now;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Senders and workers on one queue, until they are told to end.
pub struct Load {
    queue: Arc<dyn Queue>,
    stop: AtomicBool,
    /// Senders were told that these are safe.
    stored: parking_lot::Mutex<Vec<EventUid>>,
    refused: AtomicU64,
    /// How often each was taken and settled.
    done: parking_lot::Mutex<HashMap<EventUid, u32>>,
    tasks: parking_lot::Mutex<Vec<JoinHandle<()>>>,
}

impl Load {
    /// Eight senders and two workers.
    pub fn on(queue: Arc<dyn Queue>) -> Arc<Self> {
        let load = Arc::new(Self {
            queue,
            stop: AtomicBool::new(false),
            stored: parking_lot::Mutex::default(),
            refused: AtomicU64::new(0),
            done: parking_lot::Mutex::default(),
            tasks: parking_lot::Mutex::default(),
        });
        let mut tasks: Vec<_> = (0..8).map(|_| tokio::spawn(load.clone().send())).collect();
        tasks.extend((0..2).map(|_| tokio::spawn(load.clone().work())));
        *load.tasks.lock() = tasks;
        load
    }

    /// Events flow before and after each thing that can happen to the cable, and are refused as long as nothing passes it.
    pub async fn outlives(&self, cable: &Cable) {
        self.flows("at the beginning").await;

        cable.cut();
        self.refuses("cut").await;
        assert!(self.queue.trouble().is_some());
        cable.mend();
        self.flows("after a cut").await;

        cable.delay(Duration::from_millis(100));
        self.flows("slow").await;
        cable.mend();

        cable.stick();
        self.refuses("stuck").await;
        cable.mend();
        self.flows("after nothing moved").await;
    }

    /// Ends the senders, and waits until the workers had everything that was stored.
    pub async fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut begun, mut before) = (Instant::now(), usize::MAX);
        while self.missing() > 0 {
            let (missing, stored) = (self.missing(), self.stored.lock().len());
            if missing < before {
                (begun, before) = (Instant::now(), missing);
            }
            assert!(begun.elapsed() < PATIENCE, "{missing} of {stored} lost");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let tasks = std::mem::take(&mut *self.tasks.lock());
        for task in tasks {
            task.await.expect("a sender or a worker");
        }
    }

    async fn send(self: Arc<Self>) {
        while !self.stop.load(Ordering::Relaxed) {
            let event = event("r", Now::read());
            match self.queue.enqueue(&event, None, None, Now::read()).await {
                Ok(_) => self.stored.lock().push(event.uid),
                Err(QueueError::Unavailable(_)) => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn work(self: Arc<Self>) {
        while !(self.stop.load(Ordering::Relaxed) && self.missing() == 0) {
            let (lease, patience) = (Duration::from_secs(30), Duration::from_millis(200));
            let want = Want { max: 20, lease, patience, routes: Routes::All };
            let Ok(found) = self.queue.receive(want, Now::read()).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            for delivery in found {
                *self.done.lock().entry(delivery.event.uid).or_default() += 1;
                let _ = self.queue.settle(delivery.receipt, Settlement::Done, Now::read()).await;
            }
        }
    }

    fn missing(&self) -> usize {
        let done = self.done.lock();
        self.stored.lock().iter().filter(|uid| !done.contains_key(uid)).count()
    }

    /// Waits until the next event is stored.
    pub async fn flows(&self, what: &str) {
        let (before, begun) = (self.stored.lock().len(), Instant::now());
        while self.stored.lock().len() < before + 20 {
            let trouble = self.queue.trouble();
            assert!(begun.elapsed() < PATIENCE, "{what}: nothing is stored any more: {trouble:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.queue.trouble(), None, "{what}");
    }

    /// Waits until an event is refused.
    pub async fn refuses(&self, what: &str) {
        let (before, begun) = (self.refused.load(Ordering::Relaxed), Instant::now());
        while self.refused.load(Ordering::Relaxed) < before + 20 {
            assert!(begun.elapsed() < PATIENCE, "{what}: still stored");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
