//! Events in an AWS SQS queue, or at a server that speaks its protocol.
//!
//! * `enqueue` returns when SQS answered that it has the message, redundantly stored. Several go in one request when
//!   there are many.
//! * A taken event is a message that is invisible for the time of its lease; a retry makes it invisible for longer, which
//!   SQS allows for twelve hours at most. SQS counts how often a message was taken, and that is the attempt.
//! * A dead letter is sent to the other queue, with the reason, before the message is deleted: a crash in between makes a
//!   second copy, never none. The queue's own redrive policy stays as the last resort.
//! * SQS may bring a message twice. Those that were done here a short while ago are deleted again, not delivered.
//! * A held event is a message with a delay, which nobody can take back: its holder's word is remembered here, and obeyed
//!   when the message comes. When another process gets it first, the event is delivered once more.
//! * FIFO queues (`….fifo`): a group for each order key, one event of a group at a time. They know no delay for one
//!   message, so they hold nothing.

mod batch;
mod dead;
pub(crate) mod wire;

use crate::port::inspect::Inspect;
use crate::port::queue::{
    Abilities, Delivery, Enqueued, Event, EventUid, Failure, Queue, QueueError, Receipt, Settlement, Stats, Want,
};
use crate::port::seen::Token;
use crate::request::Now;
use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::Region;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName,
    SendMessageBatchRequestEntry,
};
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore, rustls_provider::CryptoMode};
use batch::{Fault, Item};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The largest message, and the largest request (since August 2025). The queue's own limit may be lower.
const LARGEST: usize = 1 << 20;
/// The longest that a message can be invisible, counted from its being taken.
const LONGEST_INVISIBLE: Duration = Duration::from_secs(12 * 3600);
/// The longest delay of a message.
const LONGEST_DELAY: Duration = Duration::from_secs(900);
/// The longest that SQS waits for a message.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// The longest that SQS keeps a message.
const RETENTION: u64 = 14 * 86_400;
/// The most receives that a redrive policy takes.
const RECEIVES: u32 = 1000;
/// Requests of one kind under way.
const AT_ONCE: usize = 16;
/// Messages that wait for a request.
const WAITING: usize = 1024;
/// A permit stands for so many bytes.
const PERMIT: usize = 1024;
/// So many failures in a row, and nothing is sent any more until the queue answers again.
const FAILURES: u32 = 3;
/// Between two looks at a queue that does not answer, and at one that does.
const LOOK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Between two looks for messages where SQS does not wait.
const POLL: Duration = Duration::from_millis(100);
/// Events that were done and may come again; takings that do not count.
const REMEMBERED: usize = 16_384;

/// Which queue, and how to reach it. Credentials come from where AWS's own tools take them: the environment, the profile,
/// a web identity token, the container's or the machine's role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The queue's name in the configuration, for logs.
    pub name: Box<str>,
    /// The queue's name or URL.
    pub queue: Box<str>,
    /// The dead letters' queue, name or URL.
    pub dead_letters: Box<str>,
    /// Make the queues where they are missing?
    pub create: bool,
    /// Region, if the environment does not say.
    pub region: Option<Box<str>>,
    /// Profile, if it is not the default one.
    pub profile: Option<Box<str>>,
    /// AWS's credentials file, if it is not where AWS's tools look for it.
    pub credentials_file: Option<PathBuf>,
    /// Another server, or a private endpoint.
    pub endpoint: Option<Box<str>>,
    /// Roots to trust instead of the machine's, PEM.
    pub ca: Option<PathBuf>,
    /// Do workers here take the events out? Otherwise they stay for others.
    pub consume: bool,
    /// For one call, tries included.
    pub timeout: Duration,
    /// Bytes that are sent and not yet answered.
    pub max_unconfirmed: usize,
}

/// A queue in SQS.
pub struct SqsQueue {
    inner: Arc<Inner>,
    sends: mpsc::Sender<Item<Outgoing>>,
    deletes: mpsc::Sender<Item<String>>,
    /// They end with it.
    _tasks: JoinSet<()>,
}

struct Inner {
    settings: Settings,
    fifo: bool,
    /// With a deadline for everything but waiting for messages.
    client: Client,
    waiting: Client,
    state: Mutex<Result<Arc<Up>, String>>,
    /// The last failure, while failures follow one another.
    failing: Mutex<Option<String>>,
    failures: AtomicU32,
    suspect: Notify,
    unconfirmed: Arc<Semaphore>,
    room: u32,
    taking: Mutex<Taking>,
    tags: AtomicU64,
    /// Whoever looks at the dead letters has them meanwhile.
    looking: tokio::sync::Mutex<()>,
}

/// The queues as they were found.
struct Up {
    url: String,
    dead: String,
    largest: usize,
}

/// A message to be sent.
struct Outgoing {
    body: String,
    attributes: HashMap<String, MessageAttributeValue>,
    delay: Duration,
    group: Option<String>,
    dedup: Option<String>,
}

#[derive(Default)]
struct Taking {
    taken: HashMap<u64, Taken>,
    held: HashMap<EventUid, Held>,
    /// Messages, not events: a dead letter that is sent again is another one.
    finished: Recent<()>,
    /// Takings that do not count, where the message stays the same.
    uncounted: Recent<u32>,
}

struct Taken {
    event: Event,
    /// SQS's name of the message.
    message: Box<str>,
    handle: String,
    since: Instant,
    ends: Instant,
    attempt: u32,
}

struct Held {
    tag: u64,
    ends: Instant,
    settled: Option<Settlement>,
}

/// The last so many, with something about each.
struct Recent<T> {
    known: HashMap<Box<str>, T>,
    order: VecDeque<Box<str>>,
}

impl SqsQueue {
    /// Finds the queues, and waits for that as long as a call may take. A service that is away is no error: it is asked
    /// again and again, and [`Queue::trouble`] says so. Needs a runtime with timers, and stays on it.
    ///
    /// # Errors
    /// When the roots of `ca` cannot be read.
    pub async fn start(settings: Settings) -> Result<Self, String> {
        let (client, waiting) = clients(&settings).await?;
        let room = u32::try_from(settings.max_unconfirmed / PERMIT).unwrap_or(u32::MAX).max(1);
        let inner = Arc::new(Inner {
            fifo: settings.queue.ends_with(".fifo"),
            client,
            waiting,
            state: Mutex::new(Err("the queue was not found yet".into())),
            failing: Mutex::new(None),
            failures: AtomicU32::new(0),
            suspect: Notify::new(),
            unconfirmed: Arc::new(Semaphore::new(room as usize)),
            room,
            taking: Mutex::default(),
            // They are part of what SQS knows copies by, for five minutes: not the same after a restart.
            tags: AtomicU64::new(getrandom::u64().unwrap_or(1) >> 1),
            looking: tokio::sync::Mutex::default(),
            settings,
        });
        let _ = timeout(inner.settings.timeout, inner.look()).await;
        let mut tasks = JoinSet::new();
        let watching = inner.clone();
        tasks.spawn(async move { watching.watch().await });
        let (sends, items) = mpsc::channel(WAITING);
        let sending = inner.clone();
        tasks.spawn(batch::run(items, LARGEST, AT_ONCE, move |group| {
            let inner = sending.clone();
            async move { inner.send_group(group).await }
        }));
        let (deletes, items) = mpsc::channel(WAITING);
        let deleting = inner.clone();
        tasks.spawn(batch::run(items, usize::MAX, AT_ONCE, move |group| {
            let inner = deleting.clone();
            async move { inner.delete_group(group).await }
        }));
        Ok(Self { inner, sends, deletes, _tasks: tasks })
    }

    async fn send(&self, send: Outgoing) -> Result<(), QueueError> {
        let inner = &self.inner;
        let up = inner.up()?;
        let bytes = send.bytes();
        if bytes > up.largest {
            return Err(QueueError::TooLarge(format!("{bytes} bytes as a message, the queue takes {}", up.largest)));
        }
        let permits = u32::try_from((bytes + 4096) / PERMIT).unwrap_or(u32::MAX).min(inner.room);
        let (answer, answered) = oneshot::channel();
        let sent = async {
            let permit = inner.unconfirmed.clone().acquire_many_owned(permits).await;
            let item = Item { what: send, bytes, answer };
            let queued = self.sends.send(item).await;
            let answered = if queued.is_ok() { answered.await.ok() } else { None };
            drop(permit);
            answered
        };
        // The call has its own deadline; this one is for waiting in line.
        match timeout(inner.settings.timeout * 2, sent).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(fault))) if fault.final_ => Err(QueueError::TooLarge(fault.why)),
            Ok(Some(Err(fault))) => Err(QueueError::Unavailable(fault.why)),
            Ok(None) => Err(QueueError::Unavailable("the queue is being closed".into())),
            Err(_) => Err(QueueError::Unavailable("no answer in time".into())),
        }
    }

    /// Deletes a message, together with others.
    async fn delete(&self, handle: &str) -> Result<(), QueueError> {
        let (answer, answered) = oneshot::channel();
        let item = Item { what: handle.to_owned(), bytes: 0, answer };
        let deleted = async {
            self.deletes.send(item).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.inner.settings.timeout * 2, deleted).await {
            Ok(Some(Ok(()))) => Ok(()),
            Ok(Some(Err(fault))) => Err(QueueError::Unavailable(fault.why)),
            Ok(None) => Err(QueueError::Unavailable("the queue is being closed".into())),
            Err(_) => Err(QueueError::Unavailable("no answer in time".into())),
        }
    }

    /// Does with a message what was decided.
    async fn apply(&self, taken: &Taken, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let inner = &self.inner;
        match settlement {
            Settlement::Done => {
                // First: if deleting fails it comes again, and is done already.
                inner.taking.lock().finished.put(&taken.message, ());
                self.delete(&taken.handle).await?;
                Ok(true)
            }
            Settlement::Retry { after, .. } => inner.hide(taken, after, now).await,
            Settlement::Release { after } if inner.fifo => {
                inner.taking.lock().uncounted.change(&taken.message, 0, |count| *count += 1);
                inner.hide(taken, after, now).await
            }
            Settlement::Release { after } => {
                self.send(inner.message(&taken.event, taken.attempt.saturating_sub(1), after, None)?).await?;
                self.delete(&taken.handle).await?;
                Ok(true)
            }
            Settlement::Dead { reason, failure } => {
                let attempts = if failure.is_some() { taken.attempt } else { taken.attempt.saturating_sub(1) };
                let send = inner.message(&taken.event, attempts, Duration::ZERO, None)?;
                inner.bury(send, reason.label(), failure).await?;
                inner.taking.lock().finished.put(&taken.message, ());
                self.delete(&taken.handle).await?;
                Ok(true)
            }
        }
    }

    /// Makes a delivery of a message; `None`: it was dealt with.
    async fn arrive(&self, message: Message, lease: Duration) -> Option<Delivery> {
        let inner = &self.inner;
        let now = Now::read();
        let handle = message.receipt_handle()?.to_owned();
        let event = match wire::decode(message.body().unwrap_or_default()) {
            Ok(event) => event,
            Err(why) => {
                tracing::warn!(
                    target: "hookmoat", queue = &*inner.settings.name, why,
                    "a message that is not ours goes to the dead letters"
                );
                let group = inner.fifo.then(|| "unreadable".to_owned());
                let dedup = inner.fifo.then(|| message.message_id().unwrap_or_default().to_owned());
                let body = message.body().unwrap_or_default().to_owned();
                let send = Outgoing { body, attributes: HashMap::new(), delay: Duration::ZERO, group, dedup };
                if inner.bury(send, "unreadable", None).await.is_ok() {
                    let _ = self.delete(&handle).await;
                }
                return None;
            }
        };
        let before = attribute(&message, "hookmoat-attempts");
        let receives = message.attributes().and_then(|all| {
            all.get(&MessageSystemAttributeName::ApproximateReceiveCount).and_then(|count| count.parse().ok())
        });
        let uid = event.uid;
        let name = message.message_id().unwrap_or_default();
        let tag = inner.tags.fetch_add(1, Ordering::Relaxed);
        let (held, finished, uncounted) = {
            let mut taking = inner.taking.lock();
            let held = taking.held.remove(&uid);
            let uncounted = taking.uncounted.known.get(name).copied().unwrap_or(0);
            (held, taking.finished.known.contains_key(name), uncounted)
        };
        let attempt = before.unwrap_or(0) + receives.unwrap_or(1u32).saturating_sub(uncounted).max(1);
        let taken =
            Taken { event, message: name.into(), handle, since: now.instant, ends: now.instant + lease, attempt };
        match held {
            Some(Held { settled: Some(settlement), .. }) => {
                if let Err(error) = self.apply(&taken, settlement, now).await {
                    tracing::warn!(
                        target: "hookmoat", queue = &*inner.settings.name, %error, "a settled event comes again"
                    );
                }
                return None;
            }
            Some(held) if held.ends > now.instant => {
                // Too early by the clock of SQS.
                let left = held.ends - now.instant;
                inner.taking.lock().held.insert(uid, held);
                let _ = inner.hide(&taken, left, now).await;
                return None;
            }
            _ if finished => {
                let _ = self.delete(&taken.handle).await;
                return None;
            }
            _ => {}
        }
        let delivery =
            Delivery { event: taken.event.clone(), attempt, receipt: Receipt { uid, tag: tag.to_string().into() } };
        inner.taking.lock().taken.insert(tag, taken);
        Some(delivery)
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn enqueue(
        &self,
        event: &Event,
        claim: Option<&Token>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError> {
        let inner = &self.inner;
        let hold = hold.filter(|_| self.abilities().holds);
        let dedup = claim.map(|claim| hex::encode(claim.keys.id.0));
        let attempts = u32::from(hold.is_some());
        let message = inner.message(event, attempts, hold.unwrap_or_default(), dedup)?;
        let Some(hold) = hold else {
            self.send(message).await?;
            return Ok(Enqueued::Stored { receipt: None, remembered: false });
        };
        let tag = inner.tags.fetch_add(1, Ordering::Relaxed);
        let held = Held { tag, ends: now.instant + hold, settled: None };
        inner.taking.lock().held.insert(event.uid, held);
        if let Err(error) = self.send(message).await {
            inner.taking.lock().held.remove(&event.uid);
            return Err(error);
        }
        let receipt = Receipt { uid: event.uid, tag: tag.to_string().into() };
        Ok(Enqueued::Stored { receipt: Some(receipt), remembered: false })
    }

    async fn receive(&self, want: Want<'_>, _: Now) -> Result<Vec<Delivery>, QueueError> {
        let inner = &self.inner;
        if !inner.settings.consume {
            sleep(want.patience).await;
            return Ok(Vec::new());
        }
        let until = tokio::time::Instant::now() + want.patience;
        let mut found = Vec::new();
        loop {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let up = match inner.up() {
                Ok(up) => up,
                Err(error) if left.is_zero() => return Err(error),
                Err(_) => {
                    sleep(left.min(POLL)).await;
                    continue;
                }
            };
            let wait = if found.is_empty() { long_poll(left) } else { Duration::ZERO };
            // Several of a group would come at once, to be worked on side by side.
            let most = if inner.fifo { 1 } else { want.max.saturating_sub(found.len()).clamp(1, 10) };
            let messages = inner
                .waiting
                .receive_message()
                .queue_url(&up.url)
                .max_number_of_messages(i32::try_from(most).unwrap_or(1))
                .visibility_timeout(seconds(want.lease))
                .wait_time_seconds(i32::try_from(wait.as_secs()).unwrap_or(0))
                .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
                .message_attribute_names("hookmoat-attempts")
                .send()
                .await
                .map_err(|error| inner.failed(&error));
            let messages = match messages {
                Ok(answer) => answer.messages.unwrap_or_default(),
                // What was taken before must not wait for its lease's end.
                Err(_) if !found.is_empty() => return Ok(found),
                Err(error) => return Err(error),
            };
            inner.succeeded();
            let came = messages.len();
            for message in messages {
                found.extend(self.arrive(message, want.lease).await);
            }
            if found.len() >= want.max || (!found.is_empty() && (came == 0 || !inner.fifo)) {
                return Ok(found);
            }
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return Ok(found);
            }
            if came == 0 && wait.is_zero() {
                sleep(left.min(POLL)).await;
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let Ok(tag) = receipt.tag.parse::<u64>() else { return Ok(false) };
        let handle = {
            let mut taking = inner.taking.lock();
            if let Some(held) = taking.held.get_mut(&receipt.uid).filter(|held| held.tag == tag) {
                if held.ends <= now.instant || held.settled.is_some() {
                    return Ok(false);
                }
                // The message comes when its delay ends, and is then hidden for the rest.
                held.ends = now.instant + lease;
                return Ok(true);
            }
            let Some(taken) = taking.owned(receipt, now.instant) else { return Ok(false) };
            taken.handle.clone()
        };
        if !inner.set_visibility(&handle, lease).await? {
            return Ok(false);
        }
        if let Some(taken) = inner.taking.lock().taken.get_mut(&tag) {
            taken.ends = now.instant + lease;
        }
        Ok(true)
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let Ok(tag) = receipt.tag.parse::<u64>() else { return Ok(false) };
        let taken = {
            let mut taking = inner.taking.lock();
            if let Some(held) = taking.held.get_mut(&receipt.uid).filter(|held| held.tag == tag) {
                if held.ends <= now.instant || held.settled.is_some() {
                    return Ok(false);
                }
                held.settled = Some(settlement);
                return Ok(true);
            }
            if taking.owned(&receipt, now.instant).is_none() {
                taking.taken.remove(&tag);
                return Ok(false);
            }
            taking.taken.remove(&tag)
        };
        let Some(taken) = taken else { return Ok(false) };
        match self.apply(&taken, settlement, now).await {
            Ok(owned) => Ok(owned),
            Err(error) => {
                inner.taking.lock().taken.insert(tag, taken);
                Err(error)
            }
        }
    }

    async fn stats(&self, _: Now) -> Result<Stats, QueueError> {
        let inner = &self.inner;
        let up = inner.up()?;
        use QueueAttributeName::{
            ApproximateNumberOfMessages as Ready, ApproximateNumberOfMessagesDelayed as Delayed,
            ApproximateNumberOfMessagesNotVisible as Hidden,
        };
        let count = async |url: &str| {
            let asked = inner.client.get_queue_attributes().queue_url(url);
            let asked = asked.attribute_names(Ready).attribute_names(Delayed).attribute_names(Hidden);
            let answer = asked.send().await.map_err(|error| inner.failed(&error))?;
            let all = answer.attributes.unwrap_or_default();
            Ok::<_, QueueError>(
                [Ready, Delayed, Hidden].map(|name| all.get(&name).and_then(|count| count.parse::<u64>().ok())),
            )
        };
        let [ready, scheduled, in_flight] = count(&up.url).await?;
        let [dead, ..] = count(&up.dead).await?;
        Ok(Stats { ready, scheduled, in_flight, dead, ..Stats::default() })
    }

    fn trouble(&self) -> Option<String> {
        self.inner.up().err().map(|error| match error {
            QueueError::Unavailable(why) => why,
            other => other.to_string(),
        })
    }

    fn abilities(&self) -> Abilities {
        let (fifo, consume) = (self.inner.fifo, self.inner.settings.consume);
        Abilities { orders: fifo, holds: !fifo && consume, hands_out: consume, ..Abilities::default() }
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    async fn maintain(&self, now: Now) {
        // What nobody settled and nobody brought back.
        let mut taking = self.inner.taking.lock();
        taking.taken.retain(|_, taken| taken.ends + LONGEST_DELAY > now.instant);
        taking.held.retain(|_, held| held.ends + LONGEST_INVISIBLE > now.instant);
    }
}

impl Inner {
    /// The queues, unless they do not answer.
    fn up(&self) -> Result<Arc<Up>, QueueError> {
        if let Some(why) = &*self.failing.lock() {
            return Err(QueueError::Unavailable(why.clone()));
        }
        self.state.lock().clone().map_err(QueueError::Unavailable)
    }

    fn message(
        &self,
        event: &Event,
        attempts: u32,
        delay: Duration,
        dedup: Option<String>,
    ) -> Result<Outgoing, QueueError> {
        let body = wire::encode(event).map_err(|error| QueueError::Unavailable(error.to_string()))?;
        let mut attributes = HashMap::new();
        let fields = [
            ("hookmoat-route", Some(&event.route)),
            ("hookmoat-provider", event.provider.as_ref()),
            ("hookmoat-event-id", event.event_id.as_ref()),
            ("hookmoat-event-type", event.event_type.as_ref()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                string(&mut attributes, name, value);
            }
        }
        typed(&mut attributes, "hookmoat-attempts", "Number", &attempts.to_string());
        let (mut group, mut dedup) = (None, dedup);
        if self.fifo {
            let mut hash = Sha256::new();
            hash.update(event.route.as_bytes());
            hash.update([0]);
            match &event.order {
                Some(order) => hash.update(order.as_bytes()),
                None => hash.update(event.uid.0),
            }
            group = Some(hex::encode(hash.finalize()));
            // The sender's own copy within five minutes, which SQS then stores once; else every message is another one.
            dedup = dedup.or_else(|| Some(format!("{}-{}", event.uid, self.tags.fetch_add(1, Ordering::Relaxed))));
        } else {
            dedup = None;
        }
        Ok(Outgoing { body, attributes, delay: delay.min(LONGEST_DELAY), group, dedup })
    }

    async fn send_group(&self, group: Vec<Item<Outgoing>>) {
        let Ok(up) = self.up() else {
            return answer_all(group, &Fault { why: "the queue does not answer".into(), final_: false });
        };
        let mut entries = Vec::with_capacity(group.len());
        for (index, item) in group.iter().enumerate() {
            let send = &item.what;
            let entry = SendMessageBatchRequestEntry::builder()
                .id(index.to_string())
                .message_body(&send.body)
                .set_message_attributes(Some(send.attributes.clone()))
                .set_delay_seconds((!send.delay.is_zero()).then(|| seconds(send.delay)))
                .set_message_group_id(send.group.clone())
                .set_message_deduplication_id(send.dedup.clone())
                .build();
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => return answer_all(group, &Fault { why: error.to_string(), final_: false }),
            }
        }
        match self.client.send_message_batch().queue_url(&up.url).set_entries(Some(entries)).send().await {
            Err(error) => {
                let _ = self.failed(&error);
                answer_all(group, &Fault { why: tell(&error), final_: false });
            }
            Ok(answer) => {
                self.succeeded();
                let stored = answer.successful.iter().map(|one| one.id.clone()).collect();
                answer_each(group, &stored, &answer.failed);
            }
        }
    }

    async fn delete_group(&self, group: Vec<Item<String>>) {
        let Ok(up) = self.up() else {
            return answer_all(group, &Fault { why: "the queue does not answer".into(), final_: false });
        };
        let mut entries = Vec::with_capacity(group.len());
        for (index, item) in group.iter().enumerate() {
            let entry = DeleteMessageBatchRequestEntry::builder().id(index.to_string()).receipt_handle(&item.what);
            match entry.build() {
                Ok(entry) => entries.push(entry),
                Err(error) => return answer_all(group, &Fault { why: error.to_string(), final_: false }),
            }
        }
        match self.client.delete_message_batch().queue_url(&up.url).set_entries(Some(entries)).send().await {
            Err(error) => {
                let _ = self.failed(&error);
                answer_all(group, &Fault { why: tell(&error), final_: false });
            }
            Ok(answer) => {
                self.succeeded();
                let deleted = answer.successful.iter().map(|one| one.id.clone()).collect();
                answer_each(group, &deleted, &answer.failed);
            }
        }
    }

    /// Sends a message to the dead letters.
    async fn bury(&self, mut send: Outgoing, reason: &str, failure: Option<Failure>) -> Result<(), QueueError> {
        let up = self.up()?;
        string(&mut send.attributes, "hookmoat-dead", reason);
        if let Some(failure) = failure {
            if let Some(status) = failure.status {
                typed(&mut send.attributes, "hookmoat-last-status", "Number", &status.to_string());
            }
            string(&mut send.attributes, "hookmoat-last-failure", &failure.message);
        }
        let sent = self
            .client
            .send_message()
            .queue_url(&up.dead)
            .message_body(send.body)
            .set_message_attributes(Some(send.attributes))
            .set_message_group_id(send.group)
            .set_message_deduplication_id(send.dedup)
            .send()
            .await;
        sent.map(drop).map_err(|error| self.failed(&error))
    }

    /// Makes a taken message visible again after a while. False: somebody else may have it.
    async fn hide(&self, taken: &Taken, after: Duration, now: Now) -> Result<bool, QueueError> {
        let left = LONGEST_INVISIBLE.saturating_sub(now.instant.saturating_duration_since(taken.since));
        self.set_visibility(&taken.handle, after.min(left)).await
    }

    async fn set_visibility(&self, handle: &str, time: Duration) -> Result<bool, QueueError> {
        let up = self.up()?;
        let call = self.client.change_message_visibility().queue_url(&up.url).receipt_handle(handle);
        match call.visibility_timeout(seconds(time)).send().await {
            Ok(_) => Ok(true),
            Err(error) if error.as_service_error().is_some_and(is_lost) => Ok(false),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Finds the queues, and what they allow.
    async fn look(&self) -> Result<(), String> {
        let dead = self.find(&self.settings.dead_letters, None).await?;
        let url = self.find(&self.settings.queue, Some(&dead)).await?;
        let asked = self.client.get_queue_attributes().queue_url(&url);
        let answer = asked.attribute_names(QueueAttributeName::All).send().await.map_err(|error| tell(&error))?;
        let all = answer.attributes.unwrap_or_default();
        let number = |name| all.get(&name).and_then(|text| text.parse::<u64>().ok());
        let largest = number(QueueAttributeName::MaximumMessageSize).and_then(|size| usize::try_from(size).ok());
        let first = self.state.lock().is_err();
        if first {
            if let Some(kept) = number(QueueAttributeName::MessageRetentionPeriod).filter(|kept| *kept < RETENTION) {
                tracing::warn!(
                    target: "hookmoat", queue = &*self.settings.name, seconds = kept,
                    "SQS deletes events that are older than this: set the queue's MessageRetentionPeriod to {RETENTION}"
                );
            }
            tracing::info!(target: "hookmoat", queue = &*self.settings.name, url, "queue found");
        }
        *self.state.lock() = Ok(Arc::new(Up { url, dead, largest: largest.unwrap_or(LARGEST).min(LARGEST) }));
        self.succeeded();
        Ok(())
    }

    /// The URL of a queue by its name; makes it where that is wanted.
    async fn find(&self, queue: &str, dead: Option<&str>) -> Result<String, String> {
        if queue.starts_with("http://") || queue.starts_with("https://") {
            return Ok(queue.to_owned());
        }
        match self.client.get_queue_url().queue_name(queue).send().await {
            Ok(found) => found.queue_url.ok_or_else(|| "SQS answered without a URL".into()),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_queue_does_not_exist()) => {
                if !self.settings.create {
                    return Err(format!("there is no queue {queue}; make it, or set `create: true`"));
                }
                self.make(queue, dead).await
            }
            Err(error) => Err(tell(&error)),
        }
    }

    async fn make(&self, queue: &str, dead: Option<&str>) -> Result<String, String> {
        let mut call = self
            .client
            .create_queue()
            .queue_name(queue)
            .attributes(QueueAttributeName::MessageRetentionPeriod, RETENTION.to_string());
        if queue.ends_with(".fifo") {
            call = call.attributes(QueueAttributeName::FifoQueue, "true");
        }
        if let Some(dead) = dead {
            let asked = self.client.get_queue_attributes().queue_url(dead);
            let asked = asked.attribute_names(QueueAttributeName::QueueArn).send().await;
            let all = asked.map_err(|error| tell(&error))?.attributes.unwrap_or_default();
            if let Some(arn) = all.get(&QueueAttributeName::QueueArn) {
                let policy = serde_json::json!({"deadLetterTargetArn": arn, "maxReceiveCount": RECEIVES});
                call = call.attributes(QueueAttributeName::RedrivePolicy, policy.to_string());
            }
        }
        let made = call.send().await.map_err(|error| tell(&error))?;
        made.queue_url.ok_or_else(|| "SQS answered without a URL".into())
    }

    /// Looks now and then, often while something is wrong.
    async fn watch(&self) {
        loop {
            let well = self.state.lock().is_ok() && self.failing.lock().is_none();
            let pause = sleep(if well { LOOK.1 } else { LOOK.0 });
            tokio::select! {
                () = pause => {}
                () = self.suspect.notified() => {}
            }
            if let Err(why) = self.look().await {
                let mut failing = self.failing.lock();
                if failing.is_none() {
                    tracing::warn!(target: "hookmoat", queue = &*self.settings.name, why, "SQS away");
                }
                *failing = Some(why);
            }
        }
    }

    fn failed<E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static, R: std::fmt::Debug>(
        &self,
        error: &SdkError<E, R>,
    ) -> QueueError {
        let why = tell(error);
        // Too many requests is no sign that the next one fails.
        let busy = error.code().is_some_and(|code| code.contains("Throttl"));
        if !busy && self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
            let mut failing = self.failing.lock();
            if failing.is_none() {
                tracing::warn!(target: "hookmoat", queue = &*self.settings.name, why, "SQS away");
                *failing = Some(why.clone());
                self.suspect.notify_one();
            }
        }
        QueueError::Unavailable(why)
    }

    fn succeeded(&self) {
        self.failures.store(0, Ordering::Relaxed);
        if self.failing.lock().take().is_some() {
            tracing::info!(target: "hookmoat", queue = &*self.settings.name, "SQS answers again");
        }
    }
}

impl Outgoing {
    /// As SQS counts: the body, and names, types and values of the attributes.
    fn bytes(&self) -> usize {
        let attribute = |(name, value): (&String, &MessageAttributeValue)| {
            name.len() + value.data_type().len() + value.string_value().map_or(0, str::len)
        };
        self.body.len() + self.attributes.iter().map(attribute).sum::<usize>()
    }
}

impl Taking {
    fn owned(&mut self, receipt: &Receipt, now: Instant) -> Option<&mut Taken> {
        let taken = self.taken.get_mut(&receipt.tag.parse().ok()?)?;
        (taken.event.uid == receipt.uid && taken.ends > now).then_some(taken)
    }
}

impl<T> Recent<T> {
    fn put(&mut self, message: &str, what: T) {
        if self.known.insert(message.into(), what).is_none() {
            self.order.push_back(message.into());
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    fn change(&mut self, message: &str, first: T, change: impl FnOnce(&mut T)) {
        if !self.known.contains_key(message) {
            self.put(message, first);
        }
        if let Some(known) = self.known.get_mut(message) {
            change(known);
        }
    }
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

#[expect(deprecated, reason = "the names that replace them are of a crate that we do not depend on")]
async fn clients(settings: &Settings) -> Result<(Client, Client), String> {
    let mut roots = TrustStore::empty().with_native_roots(settings.ca.is_none());
    if let Some(path) = &settings.ca {
        let pem = std::fs::read(path).map_err(|error| format!("cannot read CA {}: {error}", path.display()))?;
        roots.add_pem_certificate(pem);
    }
    let context = TlsContext::builder().with_trust_store(roots).build().map_err(|error| error.to_string())?;
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(context)
        .build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(http);
    if let Some(region) = &settings.region {
        loader = loader.region(Region::new(region.to_string()));
    }
    if let Some(profile) = &settings.profile {
        loader = loader.profile_name(&**profile);
    }
    if let Some(path) = &settings.credentials_file {
        use aws_config::profile::profile_file::{ProfileFileKind, ProfileFiles};
        let files = ProfileFiles::builder().include_default_config_file(true);
        loader = loader.profile_files(files.with_file(ProfileFileKind::Credentials, path).build());
    }
    if let Some(endpoint) = &settings.endpoint {
        loader = loader.endpoint_url(&**endpoint);
    }
    let shared = loader.load().await;
    let with = |timeouts: TimeoutConfig| {
        Client::from_conf(aws_sdk_sqs::config::Builder::from(&shared).timeout_config(timeouts).build())
    };
    let connect = settings.timeout.min(Duration::from_secs(3));
    let base = || TimeoutConfig::builder().connect_timeout(connect);
    let brief = base().operation_timeout(settings.timeout).build();
    let patient = base().operation_attempt_timeout(LONGEST_WAIT + settings.timeout).build();
    Ok((with(brief), with(patient)))
}

/// An error in few words: the service's code and message, or what happened on the way.
fn tell<E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static, R: std::fmt::Debug>(
    error: &SdkError<E, R>,
) -> String {
    if let Some(code) = error.code() {
        return format!("SQS answered {code}: {}", error.message().unwrap_or("no message"));
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text.chars().take(300).collect()
}

fn is_lost(error: &aws_sdk_sqs::operation::change_message_visibility::ChangeMessageVisibilityError) -> bool {
    error.is_message_not_inflight()
        || error.is_receipt_handle_is_invalid()
        || error.code() == Some("InvalidParameterValue")
}

fn answer_all<T>(group: Vec<Item<T>>, fault: &Fault) {
    for item in group {
        let _ = item.answer.send(Err(fault.clone()));
    }
}

/// Who is in neither list got no answer, and none is a failure.
fn answer_each<T>(group: Vec<Item<T>>, well: &HashSet<String>, failed: &[aws_sdk_sqs::types::BatchResultErrorEntry]) {
    for (index, item) in group.into_iter().enumerate() {
        let id = index.to_string();
        let answer = if well.contains(&id) {
            Ok(())
        } else {
            let fault = failed.iter().find(|one| one.id == id);
            let (code, words) = fault.map_or(("no answer", ""), |one| (&*one.code, one.message().unwrap_or("")));
            let final_ = code.contains("TooLong") || code.contains("MessageContents");
            Err(Fault { why: format!("SQS answered {code}: {words}"), final_ })
        };
        let _ = item.answer.send(answer);
    }
}

fn string(attributes: &mut HashMap<String, MessageAttributeValue>, name: &str, value: &str) {
    if wire::is_plain(value) {
        typed(attributes, name, "String", value);
    }
}

fn typed(attributes: &mut HashMap<String, MessageAttributeValue>, name: &str, kind: &str, value: &str) {
    if let Ok(value) = MessageAttributeValue::builder().data_type(kind).string_value(value).build() {
        attributes.insert(name.to_owned(), value);
    }
}

fn attribute(message: &Message, name: &str) -> Option<u32> {
    text(message, name)?.parse().ok()
}

fn text<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    message.message_attributes()?.get(name)?.string_value()
}

/// How long SQS waits for a message, in whole seconds, to the nearest. Rounded down, two that have just begun would be one,
/// and then ten looks that are paid for.
fn long_poll(left: Duration) -> Duration {
    match left.min(LONGEST_WAIT) {
        short if short.as_secs() == 0 => Duration::ZERO,
        long => Duration::from_secs_f64(long.as_secs_f64().round()),
    }
}

/// Whole seconds, rounded up: SQS knows no others, and nothing may be due too early.
fn seconds(time: Duration) -> i32 {
    let up = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(up).unwrap_or(i32::MAX)
}
