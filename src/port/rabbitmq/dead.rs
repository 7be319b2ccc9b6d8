//! Looking at dead letters at a broker that only hands out.
//!
//! They are taken one by one and not acknowledged; in the end all that are still there go back, to where they were. Who
//! else looks meanwhile finds fewer, and a process that ends in between loses nothing: the broker takes back what a
//! channel had. A replay publishes, waits for the confirmation, and then acknowledges: a crash in between makes a second
//! copy, never none. What dies again meanwhile comes once more, and stays.

use super::{Inner, Place, RabbitQueue, wire};
use crate::port::inspect::{
    Action, EventState, Filter, Inspect, LOOKED_AT, Listing, Page, Progress, Reach, Summary, Sweep,
};
use crate::port::queue::{Event, EventUid, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use bytes::Bytes;
use lapin::options::{BasicGetOptions, BasicNackOptions};
use lapin::{BasicProperties, Channel};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, timeout};

/// A list ends after this time, with what it found.
const LISTING: Duration = Duration::from_secs(30);

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
        let mut page = Page::new(after, limit);
        let mut letters = Letters::take(&self.inner).await?;
        let until = Instant::now() + LISTING;
        let found = loop {
            match letters.next().await {
                Ok(Some(letter)) if filter.fits(&letter.summary, now) => page.add(letter.summary),
                Ok(Some(_)) => {}
                Ok(None) => break Ok(true),
                Err(error) => break Err(error),
            }
            if letters.held >= LOOKED_AT || Instant::now() > until {
                break Ok(false);
            }
        };
        letters.give_back().await;
        found.map(|complete| page.listing(complete))
    }

    async fn show(&self, uid: EventUid, _: Now) -> Result<Option<(Summary, Event)>, QueueError> {
        let mut letters = Letters::take(&self.inner).await?;
        let found = loop {
            match letters.next().await {
                Ok(Some(letter)) if letter.summary.uid == uid => break Ok(Some((letter.summary, letter.event))),
                Ok(Some(_)) if letters.held < LOOKED_AT => {}
                Ok(_) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        letters.give_back().await;
        found
    }

    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
        REACH.only_dead(&sweep.filter)?;
        let mut letters = Letters::take(&self.inner).await?;
        let ended = self.inner.sweep(&mut letters, sweep, progress, now).await;
        letters.give_back().await;
        ended
    }
}

impl Inner {
    async fn sweep(
        &self,
        letters: &mut Letters<'_>,
        sweep: &Sweep,
        progress: &Progress,
        now: Now,
    ) -> Result<(), QueueError> {
        let mut moved = HashSet::new();
        while let Some(letter) = letters.next().await? {
            let uid = letter.summary.uid;
            // What is not ours would come back as a dead letter at once.
            let fits = sweep.filter.fits(&letter.summary, now)
                && (letter.ours || sweep.action == Action::Purge)
                && !moved.contains(&uid);
            if fits && !sweep.dry_run {
                if sweep.action == Action::Replay {
                    self.publish(&self.names.main, wire::revived(letter.properties), letter.event.body).await?;
                }
                if !letter.place.acknowledge().await {
                    return Err(QueueError::Unavailable("the connection ended in the middle".into()));
                }
                letters.held -= 1;
                moved.insert(uid);
            }
            progress.add(1, u64::from(fits));
            if letters.held >= LOOKED_AT {
                let why =
                    format!("stopped behind {LOOKED_AT} dead letters that do not fit: replay or purge these first");
                return Err(QueueError::Unavailable(why));
            }
        }
        Ok(())
    }
}

/// Dead letters that are taken, one after the other.
struct Letters<'q> {
    inner: &'q Inner,
    channel: Channel,
    held: usize,
    _one_at_a_time: MutexGuard<'q, ()>,
}

struct Letter {
    place: Place,
    properties: BasicProperties,
    summary: Summary,
    /// Without a route when it is not ours.
    event: Event,
    ours: bool,
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

    async fn next(&mut self) -> Result<Option<Letter>, QueueError> {
        let got = self.channel.basic_get((&*self.inner.names.dead).into(), BasicGetOptions::default());
        let got = self.inner.in_time(got).await?.map_err(|error| QueueError::Unavailable(error.to_string()))?;
        let Some(message) = got else { return Ok(None) };
        self.held += 1;
        let message = message.delivery;
        let place = Place { channel: self.channel.clone(), tag: message.delivery_tag };
        let (summary, event, ours) = wire::dead_letter(&message.properties, &Bytes::from(message.data));
        Ok(Some(Letter { place, properties: message.properties, summary, event, ours }))
    }

    /// Back to where they were. A channel that is gone has given back everything.
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
