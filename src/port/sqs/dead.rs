//! Looking at dead letters in SQS, which only hands out.
//!
//! They are received until none comes any more, and made visible again in the end; a process that ends in between leaves
//! them hidden for [`HIDDEN`]. SQS tells no order and may keep some back, so a list is of what was found. Of a FIFO queue
//! SQS hands out no more than ten of a group at a time. A replay is sent before the letter is deleted: a crash in between
//! makes a second copy, never none.

use super::{Inner, Outgoing, SqsQueue, Up, attribute, seconds, text, wire};
use crate::port::inspect::{
    Action, EventState, Filter, Inspect, LOOKED_AT, Listing, Page, Progress, Reach, Summary, Sweep,
};
use crate::port::queue::{Event, EventUid, Failure, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use aws_sdk_sqs::types::{ChangeMessageVisibilityBatchRequestEntry, Message, MessageSystemAttributeName};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

/// Longer than a look takes.
const HIDDEN: Duration = Duration::from_secs(600);
/// With a wait SQS asks all of its machines, not some.
const WAIT: i32 = 1;
/// A list ends after this time, with what it found.
const LISTING: Duration = Duration::from_secs(30);

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
        let mut page = Page::new(after, limit);
        let mut letters = Letters::take(&self.inner).await?;
        let until = Instant::now() + LISTING;
        let found = loop {
            match letters.next().await {
                Ok(Some(letter)) => {
                    if filter.fits(&letter.summary, now) {
                        page.add(letter.summary.clone());
                    }
                    letters.keep(letter);
                }
                Ok(None) => break Ok(true),
                Err(error) => break Err(error),
            }
            if letters.kept.len() >= LOOKED_AT || Instant::now() > until {
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
                Ok(Some(letter)) => {
                    let found = (letter.summary.uid == uid).then(|| (letter.summary.clone(), letter.event.clone()));
                    letters.keep(letter);
                    if found.is_some() || letters.kept.len() >= LOOKED_AT {
                        break Ok(found);
                    }
                }
                Ok(None) => break Ok(None),
                Err(error) => break Err(error),
            }
        };
        letters.give_back().await;
        found
    }

    async fn sweep(&self, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
        REACH.only_dead(&sweep.filter)?;
        let mut letters = Letters::take(&self.inner).await?;
        let ended = self.sweep_all(&mut letters, sweep, progress, now).await;
        letters.give_back().await;
        ended
    }
}

impl SqsQueue {
    async fn sweep_all(
        &self,
        letters: &mut Letters<'_>,
        sweep: &Sweep,
        progress: &Progress,
        now: Now,
    ) -> Result<(), QueueError> {
        let mut moved = HashSet::new();
        while let Some(letter) = letters.next().await? {
            let uid = letter.summary.uid;
            // What is not ours would come back as a dead letter at once; what was moved and came back stays.
            let fits = sweep.filter.fits(&letter.summary, now)
                && (letter.ours || sweep.action == Action::Purge)
                && !moved.contains(&uid);
            if fits && !sweep.dry_run {
                if sweep.action == Action::Replay {
                    let again: Outgoing = self.inner.message(&letter.event, 0, Duration::ZERO, None)?;
                    self.send(again).await?;
                }
                letters.delete(&letter).await?;
                moved.insert(uid);
            } else {
                letters.keep(letter);
            }
            progress.add(1, u64::from(fits));
            if letters.kept.len() >= LOOKED_AT {
                let why =
                    format!("stopped behind {LOOKED_AT} dead letters that do not fit: replay or purge these first");
                return Err(QueueError::Unavailable(why));
            }
        }
        Ok(())
    }
}

/// Dead letters that are hidden from everybody else, one after the other.
struct Letters<'q> {
    inner: &'q Inner,
    up: Arc<Up>,
    waiting: VecDeque<Message>,
    seen: HashSet<String>,
    /// To be made visible again.
    kept: Vec<String>,
    _one_at_a_time: MutexGuard<'q, ()>,
}

struct Letter {
    handle: String,
    summary: Summary,
    /// Without a route when it is not ours.
    event: Event,
    ours: bool,
}

impl<'q> Letters<'q> {
    async fn take(inner: &'q Inner) -> Result<Self, QueueError> {
        let one_at_a_time = inner.looking.lock().await;
        Ok(Self {
            inner,
            up: inner.up()?,
            waiting: VecDeque::new(),
            seen: HashSet::new(),
            kept: Vec::new(),
            _one_at_a_time: one_at_a_time,
        })
    }

    async fn next(&mut self) -> Result<Option<Letter>, QueueError> {
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
            let received = self
                .inner
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
                .map_err(|error| self.inner.failed(&error))?;
            self.waiting = received.messages.unwrap_or_default().into();
            if self.waiting.is_empty() || self.kept.len() >= LOOKED_AT {
                return Ok(None);
            }
        }
    }

    fn keep(&mut self, letter: Letter) {
        self.kept.push(letter.handle);
    }

    async fn delete(&self, letter: &Letter) -> Result<(), QueueError> {
        let call = self.inner.client.delete_message().queue_url(&self.up.dead).receipt_handle(&letter.handle);
        call.send().await.map(drop).map_err(|error| self.inner.failed(&error))
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
            let call = self.inner.client.change_message_visibility_batch().queue_url(&self.up.dead);
            // Those come back by themselves, later.
            if let Err(error) = call.set_entries(Some(entries)).send().await {
                tracing::debug!(target: "hookmoat", error = super::tell(&error), "dead letters stay hidden for a while");
            }
        }
    }
}

fn letter(message: &Message, handle: String, died: Duration) -> Letter {
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
