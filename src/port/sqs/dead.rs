//! Looking at dead letters in SQS, which only hands out.
//!
//! They are received until none comes any more, and made visible again in the end; a process that ends in between leaves
//! them hidden for [`HIDDEN`]. SQS tells no order and may keep some back, so a list is of what was found. Of a FIFO queue
//! SQS hands out no more than ten of a group at a time. A replay is sent before the letter is deleted: a crash in between
//! makes a second copy, never none.

use super::{SqsQueue, Up, attribute, seconds, text, wire};
use crate::port::inspect::{Action, EventState, Filter, Inspect, LOOKED_AT, Listing, Progress, Reach, Summary, Sweep};
use crate::port::letters::{self, Letter};
use crate::port::queue::{Event, EventUid, Failure, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;

/// Longer than a look takes.
const HIDDEN: Duration = Duration::from_secs(600);
/// With a wait SQS asks all of its machines, not some.
const WAIT: i32 = 1;
const REACH: Reach = Reach {
    engine: "sqs",
    states: &[EventState::Dead],
    cannot: &[
        "events that wait, are scheduled or in flight can be counted, not listed or purged: SQS hands out and does not show",
        "a list is of the dead letters that SQS handed out; of a FIFO queue no more than ten of each order key",
        "delivered events are not kept, so they can be neither listed nor replayed",
    ],
};

#[async_trait]
impl Inspect for SqsQueue {
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
        letters::list(Letters::take(self).await?, filter, after, limit, now).await
    }

    async fn show(&self, uid: EventUid, _: Now) -> Result<Option<(Summary, Event)>, QueueError> {
        letters::show(Letters::take(self).await?, uid).await
    }

    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
        REACH.only_dead(&sweep.filter)?;
        letters::sweep(Letters::take(self).await?, sweep, progress, now).await
    }
}

/// Dead letters that are hidden from everybody else, one after the other.
struct Letters<'q> {
    queue: &'q SqsQueue,
    up: Arc<Up>,
    waiting: VecDeque<Message>,
    seen: HashSet<String>,
    /// To be made visible again.
    kept: Vec<String>,
    _one_at_a_time: MutexGuard<'q, ()>,
}

impl<'q> Letters<'q> {
    async fn take(queue: &'q SqsQueue) -> Result<Self, QueueError> {
        let one_at_a_time = queue.inner.looking.lock().await;
        Ok(Self {
            queue,
            up: queue.inner.up()?,
            waiting: VecDeque::new(),
            seen: HashSet::new(),
            kept: Vec::new(),
            _one_at_a_time: one_at_a_time,
        })
    }
}

#[async_trait]
impl letters::Letters for Letters<'_> {
    /// SQS' receipt handle.
    type Handle = String;

    async fn next(&mut self) -> Result<Option<Letter<String>>, QueueError> {
        let inner = &self.queue.inner;
        loop {
            while let Some(message) = self.waiting.pop_front() {
                let Some(handle) = message.receipt_handle().map(str::to_owned) else { continue };
                let is_new = self.seen.insert(message.message_id().unwrap_or_default().to_owned());
                let sent = system(&message, &MessageSystemAttributeName::SentTimestamp).map(Duration::from_millis);
                if !is_new {
                    self.kept.push(handle);
                    continue;
                }
                return Ok(Some(letter(&message, handle, sent.unwrap_or_default())));
            }
            let received = inner
                .waiting
                .receive_message()
                .queue_url(&self.up.dead)
                .max_number_of_messages(10)
                .visibility_timeout(seconds(HIDDEN))
                .wait_time_seconds(WAIT)
                .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
                .message_attribute_names("All")
                .send()
                .await
                .map_err(|error| inner.failed(&error))?;
            self.waiting = received.messages.unwrap_or_default().into();
            if self.waiting.is_empty() || self.kept.len() >= LOOKED_AT {
                return Ok(None);
            }
        }
    }

    fn keep(&mut self, letter: Letter<String>) {
        self.kept.push(letter.handle);
    }

    fn held(&self) -> usize {
        self.kept.len()
    }

    async fn take_away(&mut self, letter: Letter<String>, action: Action) -> Result<(), QueueError> {
        let inner = &self.queue.inner;
        if action == Action::Replay {
            let again = inner.message(&letter.event, 0, Duration::ZERO, None)?;
            self.queue.send(again).await?;
        }
        let call = inner.client.delete_message().queue_url(&self.up.dead).receipt_handle(letter.handle);
        call.send().await.map(drop).map_err(|error| inner.failed(&error))
    }

    async fn give_back(mut self) {
        let left = self.waiting.iter().filter_map(|message| message.receipt_handle().map(str::to_owned));
        self.kept.extend(left);
        for group in self.kept.chunks(10) {
            let entry = |(index, handle): (usize, &String)| {
                let entry = ChangeMessageVisibilityBatchRequestEntry::builder().id(index.to_string());
                entry.receipt_handle(handle).visibility_timeout(0).build().ok()
            };
            let entries = group.iter().enumerate().filter_map(entry).collect();
            let call = self.queue.inner.client.change_message_visibility_batch().queue_url(&self.up.dead);
            // Those come back by themselves, later.
            if let Err(error) = call.set_entries(Some(entries)).send().await {
                tracing::debug!(target: "hookmoat", error = super::tell(&error), "dead letters stay hidden for a while");
            }
        }
    }
}

fn letter(message: &Message, handle: String, died: Duration) -> Letter<String> {
    let body = message.body().unwrap_or_default();
    let (event, ours) = match wire::decode(body) {
        Ok(event) => (event, true),
        Err(_) => {
            let id = message.message_id().unwrap_or_default().as_bytes();
            (Event::foreign(&[id], died, body.as_bytes().to_vec().into()), false)
        }
    };
    let failure = text(message, "hookmoat-last-failure").map(|failure| Failure {
        status: attribute(message, "hookmoat-last-status").and_then(|status| u16::try_from(status).ok()),
        message: failure.into(),
    });
    let attempts = attribute(message, "hookmoat-attempts").unwrap_or(0);
    let dead = text(message, "hookmoat-dead").map(Into::into);
    Letter { handle, summary: Summary::dead(&event, died, attempts, failure, dead), event, ours }
}

fn system(message: &Message, name: &MessageSystemAttributeName) -> Option<u64> {
    message.attributes()?.get(name)?.parse().ok()
}
