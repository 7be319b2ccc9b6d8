//! The contract of queues, kept by engines whose clock is the real one.

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use hookmoat::port::queue::Queue;
use hookmoat::port::queue_contract::Harness;
use hookmoat::request::Now;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Queues at a server, each made from settings of its own.
pub struct Engine<S> {
    settings: fn() -> S,
    start: fn(S) -> BoxFuture<'static, Arc<dyn Queue>>,
    unit: Duration,
    last: Mutex<Option<S>>,
}

impl<S> Engine<S> {
    /// `unit` is more than four times what the server may be late by.
    pub fn new(settings: fn() -> S, start: fn(S) -> BoxFuture<'static, Arc<dyn Queue>>, unit: Duration) -> Self {
        Self { settings, start, unit, last: Mutex::new(None) }
    }
}

#[async_trait]
impl<S: Clone + Send> Harness for Engine<S> {
    async fn fresh(&self) -> Arc<dyn Queue> {
        let settings = (self.settings)();
        *self.last.lock() = Some(settings.clone());
        (self.start)(settings).await
    }

    /// Servers have room for everybody, or a limit that what is on its way may exceed.
    async fn bounded(&self, _: u64) -> Option<Arc<dyn Queue>> {
        None
    }

    async fn restarted(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        drop(queue);
        let settings = self.last.lock().clone().expect("a queue before");
        (self.start)(settings).await
    }

    fn now(&self) -> Now {
        Now::read()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn unit(&self) -> Duration {
        self.unit
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(300)
    }
}
