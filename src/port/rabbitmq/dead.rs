//! Looking at dead letters at a broker that only hands out.
//!
//! They are taken one by one and not acknowledged; in the end all that are still there go back, to where they were. Who
//! else looks meanwhile finds fewer, and a process that ends in between loses nothing: the broker takes back what a
//! channel had. A replay publishes, waits for the confirmation, and then acknowledges: a crash in between makes a second
//! copy, never none. What dies again meanwhile comes once more, and stays.

use super::{Inner, Place, RabbitQueue, wire};
use crate::port::inspect::{Action, EventState, Filter, Inspect, Listing, Progress, Reach, Summary, Sweep};
use crate::port::letters::{self, Letter};
use crate::port::queue::{Event, EventUid, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{BasicProperties, Channel};
use tokio::sync::MutexGuard;
use tokio::time::timeout;

const REACH: Reach = Reach {
    engine: "rabbitmq",
    states: &[EventState::Dead],
    cannot: &[
        "events that wait, are scheduled or in flight can be counted, not listed or purged: the broker hands out and does not show",
        "delivered events are not kept, so they can be neither listed nor replayed",
    ],
};

#[async_trait]
impl Inspect for RabbitQueue {
    fn reach(&self) -> Reach {
        REACH
    }

    async fn list(
        &self,
        filter: &Filter,
        after: Option<EventUid>,
        limit: usize,
        now: Now,
    ) -> Result<Listing, QueueError> {
        REACH.only_dead(filter)?;
        letters::list(Letters::take(&self.inner).await?, filter, after, limit, now).await
    }

    async fn show(&self, uid: EventUid, _: Now) -> Result<Option<(Summary, Event)>, QueueError> {
        letters::show(Letters::take(&self.inner).await?, uid).await
    }

    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
        REACH.only_dead(&sweep.filter)?;
        letters::sweep(Letters::take(&self.inner).await?, sweep, progress, now).await
    }
}

/// Dead letters that are taken, one after the other.
struct Letters<'q> {
    inner: &'q Inner,
    channel: Channel,
    held: usize,
    _one_at_a_time: MutexGuard<'q, ()>,
}

impl<'q> Letters<'q> {
    async fn take(inner: &'q Inner) -> Result<Self, QueueError> {
        let one_at_a_time = inner.looking.lock().await;
        // Not where events are published, if there is another: a broker that is short of memory reads nothing there.
        let up = inner.consumer.up().or_else(|_| inner.publisher.up()).map_err(QueueError::Unavailable)?;
        let opened = inner.in_time(up.connection.create_channel()).await?;
        let channel = opened.map_err(|error| QueueError::Unavailable(error.to_string()))?;
        Ok(Self { inner, channel, held: 0, _one_at_a_time: one_at_a_time })
    }
}

#[async_trait]
impl letters::Letters for Letters<'_> {
    type Handle = (Place, BasicProperties);

    async fn next(&mut self) -> Result<Option<Letter<Self::Handle>>, QueueError> {
        let got = self.channel.basic_get((&*self.inner.names.dead).into(), BasicGetOptions::default());
        let got = self.inner.in_time(got).await?.map_err(|error| QueueError::Unavailable(error.to_string()))?;
        let Some(message) = got else { return Ok(None) };
        self.held += 1;
        let message = message.delivery;
        let place = Place { channel: self.channel.clone(), tag: message.delivery_tag };
        let (summary, event, ours) = wire::dead_letter(&message.properties, &Bytes::from(message.data));
        Ok(Some(Letter { handle: (place, message.properties), summary, event, ours }))
    }

    /// It is held from the moment it was handed out.
    fn keep(&mut self, _: Letter<Self::Handle>) {}

    fn held(&self) -> usize {
        self.held
    }

    async fn take_away(&mut self, letter: Letter<Self::Handle>, action: Action) -> Result<(), QueueError> {
        let (place, properties) = letter.handle;
        if action == Action::Replay {
            self.inner.publish(&self.inner.names.main, wire::revived(properties), letter.event.body).await?;
        }
        if !place.acknowledge().await {
            return Err(QueueError::Unavailable("the connection ended in the middle".into()));
        }
        self.held -= 1;
        Ok(())
    }

    /// A channel that is gone has given back everything.
    async fn give_back(self) {
        let all = 0;
        let options = BasicNackOptions { multiple: true, requeue: true };
        let patience = self.inner.settings.timeout;
        if self.held > 0 {
            let _ = timeout(patience, self.channel.basic_nack(all, options)).await;
        }
        let _ = timeout(patience, self.channel.close(200, "bye".into())).await;
    }
}

impl Inner {
    async fn in_time<T>(&self, what: impl Future<Output = T> + Send) -> Result<T, QueueError> {
        let told = timeout(self.settings.timeout, what).await;
        told.map_err(|_| QueueError::Unavailable("the broker does not answer".into()))
    }
}
