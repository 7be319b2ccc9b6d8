//! Events at a RabbitMQ broker, for more than one machine's worth of them.
//!
//! * `enqueue` publishes persistently, as mandatory, into a quorum queue, and returns when the broker confirmed: a
//!   majority has it on disk. No confirmation in time, a negative one, a returned message, a broker that blocks: nobody
//!   hears a 2xx. What was sent and is not confirmed is bounded in bytes, and goes on counting after its caller gave up.
//! * A taken event is a message that is not acknowledged. The broker gives it to somebody else when the connection ends;
//!   leases are kept here, for workers of this process that do not come back.
//! * A retry is the same message in a queue whose messages go back when their time is over, a dead letter one in another
//!   queue ([`topology`]). Both are published and confirmed before the first one is acknowledged: a crash in between
//!   makes a second copy, never none.
//! * What a lost connection makes of an acknowledgement nobody knows. Events that were done are remembered for a while,
//!   and acknowledged again when the broker brings them again.
//! * Every failed connection is tried again, with a pause that grows. Callers see [`QueueError::Unavailable`] meanwhile.
//!
//! An attempt that ends without a word counts once, however often the broker redelivers: what lay in the buffer of a
//! connection that broke was never attempted. A message that kills the process again and again is given up by the
//! broker, after [`Bounds::delivery_limit`] deliveries.

mod dead;
mod link;
mod topology;
pub(crate) mod wire;

pub use topology::Bounds;

use crate::port::inspect::Inspect;
use crate::port::queue::{
    Abilities, DeadReason, Delivery, Enqueued, Event, EventUid, Failure, Queue, QueueError, Receipt, Settlement, Stats,
    Want,
};
use crate::port::seen::Token;
use crate::port::tls::TlsFiles;
use crate::request::Now;
use crate::secret::SecretBytes;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use link::{Link, Role, Up};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use topology::Names;
use wire::Marks;

/// Room that a frame has beside the properties.
const FRAME_SLACK: usize = 64;
/// A publisher's permit stands for so many bytes.
const PERMIT: usize = 1024;
/// Between two looks at leases.
const TICK: Duration = Duration::from_millis(50);
/// Events that were done and may come again.
const FINISHED: usize = 16_384;
/// What nobody took for so long goes back, well before the broker loses its patience (half an hour by default).
const STALE: Duration = Duration::from_secs(600);
/// A settlement that waits for its message to come back, after its hold ended.
const SETTLED_STAYS: Duration = Duration::from_secs(120);
/// A confirmation that is so late will never come: the connection is of no use.
const STALLED: u32 = 10;

/// How to reach a broker, and what to do there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The queue's name in the configuration, for logs.
    pub name: Box<str>,
    /// Hosts and ports of the cluster, tried in turn.
    pub nodes: Vec<(Box<str>, u16)>,
    /// Virtual host.
    pub vhost: Box<str>,
    /// Who we are.
    pub credentials: Credentials,
    /// TLS, and with which files.
    pub tls: Option<TlsFiles>,
    /// The name that the broker's certificate must have, if it is not the host's.
    pub server_name: Option<Box<str>>,
    /// The queue's name at the broker; the others begin with it. At most 200 bytes.
    pub queue: Box<str>,
    /// Make the queues? Otherwise they have to be there.
    pub declare: bool,
    /// Bounds of the queue, where we make it.
    pub bounds: Bounds,
    /// Do workers here take the events out? Otherwise they stay for others.
    pub consume: bool,
    /// Messages that the broker sends ahead of their being taken, together with those that are taken.
    pub prefetch: u16,
    /// For a confirmation.
    pub timeout: Duration,
    /// For a connection, up to its being ready.
    pub connect_timeout: Duration,
    /// Between signs of life.
    pub heartbeat: Duration,
    /// The largest body.
    pub max_event: usize,
    /// Bytes that are sent and not yet confirmed.
    pub max_unconfirmed: usize,
}

/// Who we are at the broker.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// User and password.
    Plain {
        /// The user.
        username: Box<str>,
        /// The password.
        password: SecretBytes,
    },
    /// What our certificate says (SASL EXTERNAL).
    External,
    /// The password is not there, and this is what is missing.
    Missing(Box<str>),
}

/// By the user alone: passwords are not compared.
impl PartialEq for Credentials {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain { username, .. }, Self::Plain { username: other, .. }) => username == other,
            (Self::External, Self::External) => true,
            (Self::Missing(what), Self::Missing(other)) => what == other,
            _ => false,
        }
    }
}

impl Eq for Credentials {}

/// A queue at a RabbitMQ broker. Its connections end when it is dropped.
pub struct RabbitQueue {
    inner: Arc<Inner>,
    /// They end with it, and the connections with them.
    _tasks: JoinSet<()>,
}

struct Inner {
    settings: Settings,
    names: Names,
    publisher: Link,
    consumer: Link,
    unconfirmed: Arc<Semaphore>,
    room: u32,
    taking: Mutex<Taking>,
    /// The buffer has something.
    arrived: Notify,
    tags: AtomicU64,
    /// When retries were last counted, and which of their queues there are.
    steps: Mutex<(Option<Instant>, Vec<u64>)>,
    /// Whoever looks at the dead letters has them meanwhile.
    looking: tokio::sync::Mutex<()>,
}

/// What is here of the broker's messages.
#[derive(Default)]
struct Taking {
    buffer: VecDeque<Message>,
    taken: HashMap<u64, Taken>,
    /// Held events by name, for the moment when their message comes back.
    held: HashMap<EventUid, u64>,
    /// Done, in the order of their end.
    finished: HashSet<EventUid>,
    order: VecDeque<EventUid>,
}

/// A message that is not acknowledged.
struct Message {
    place: Place,
    properties: BasicProperties,
    event: Event,
    attempt: u32,
    arrived: Instant,
}

/// Where a message can be acknowledged.
#[derive(Clone)]
struct Place {
    channel: Channel,
    tag: u64,
}

struct Taken {
    uid: EventUid,
    ends: Instant,
    attempt: u32,
    properties: BasicProperties,
    body: Bytes,
    /// Nowhere yet: a held event whose message is still on its way back.
    place: Option<Place>,
    /// What to do with it when it comes.
    settled: Option<Settlement>,
}

struct Publishes(Arc<Inner>);
struct Consumes(Arc<Inner>);

impl RabbitQueue {
    /// Connects, and waits for that as long as a connection may take. A broker that is away is no error: it is tried
    /// again and again, and [`Queue::trouble`] says so. Needs a runtime with timers, and stays on it.
    pub async fn start(settings: Settings) -> Self {
        let mut instance = [0; 6];
        // Without chance two processes share a queue for what they hold: events then go round once more.
        let _ = getrandom::fill(&mut instance);
        let room = u32::try_from(settings.max_unconfirmed / PERMIT).unwrap_or(u32::MAX).max(1);
        let inner = Arc::new(Inner {
            names: Names::new(&settings.queue, &hex::encode(instance)),
            publisher: Link::new("publisher"),
            consumer: Link::new("consumer"),
            unconfirmed: Arc::new(Semaphore::new(room as usize)),
            room,
            taking: Mutex::default(),
            arrived: Notify::new(),
            tags: AtomicU64::new(1),
            steps: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            settings,
        });
        let mut tasks = JoinSet::new();
        let publishes = Publishes(inner.clone());
        tasks.spawn(async move {
            let inner = &publishes.0;
            link::supervise(&inner.publisher, &inner.settings, &publishes).await;
        });
        let patience = inner.settings.connect_timeout;
        inner.publisher.wait(patience).await;
        if inner.settings.consume {
            let consumes = Consumes(inner.clone());
            tasks.spawn(async move {
                let inner = &consumes.0;
                link::supervise(&inner.consumer, &inner.settings, &consumes).await;
            });
            let ticks = inner.clone();
            tasks.spawn(async move {
                loop {
                    sleep(TICK).await;
                    ticks.tick(Now::read().instant).await;
                }
            });
            if inner.publisher.up().is_ok() {
                inner.consumer.wait(patience).await;
            }
        }
        Self { inner, _tasks: tasks }
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    async fn enqueue(
        &self,
        event: &Event,
        _: Option<&Token>,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Enqueued, QueueError> {
        let inner = &self.inner;
        let up = inner.fits(event)?;
        let attempts = u32::from(hold.is_some());
        let properties = wire::encode(event, Marks { attempts, due: None });
        let Some(hold) = hold.filter(|_| inner.settings.consume) else {
            inner.publish(&inner.names.main, properties, event.body.clone()).await?;
            return Ok(Enqueued::Stored { receipt: None, remembered: false });
        };
        drop(up);
        inner.holding().await.map_err(QueueError::Unavailable)?;
        let tag = inner.tags.fetch_add(1, Ordering::Relaxed);
        let taken = Taken {
            uid: event.uid,
            ends: now.instant + hold,
            attempt: 1,
            properties: properties.clone(),
            body: event.body.clone(),
            place: None,
            settled: None,
        };
        // Before it is sent: it may be back before the confirmation.
        {
            let mut taking = inner.taking.lock();
            taking.taken.insert(tag, taken);
            taking.held.insert(event.uid, tag);
        }
        if let Err(error) = inner.publish(&inner.names.hold, properties, event.body.clone()).await {
            inner.taking.lock().forget(tag);
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
        loop {
            let arrived = inner.arrived.notified();
            let (found, again) = inner.take(want, Now::read().instant);
            for place in again {
                place.acknowledge().await;
            }
            if !found.is_empty() {
                return Ok(found);
            }
            if tokio::time::timeout_at(until, arrived).await.is_err() {
                return match inner.consumer.up() {
                    Ok(_) => Ok(Vec::new()),
                    Err(why) => Err(QueueError::Unavailable(why)),
                };
            }
        }
    }

    async fn extend(&self, receipt: &Receipt, lease: Duration, now: Now) -> Result<bool, QueueError> {
        let mut taking = self.inner.taking.lock();
        let Some(taken) = taking.owned(receipt, now.instant) else { return Ok(false) };
        taken.ends = now.instant + lease;
        Ok(true)
    }

    async fn settle(&self, receipt: Receipt, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let inner = &self.inner;
        let taken = {
            let mut taking = inner.taking.lock();
            let Some(taken) = taking.owned(&receipt, now.instant) else { return Ok(false) };
            if taken.place.is_none() {
                if matches!(settlement, Settlement::Done) {
                    taking.finish(receipt.uid);
                }
                // Unwrapped by nobody: `owned` has just found it.
                if let Some(taken) = taking.owned(&receipt, now.instant) {
                    taken.settled = Some(settlement);
                    taken.ends = now.instant + SETTLED_STAYS;
                }
                return Ok(true);
            }
            taking.remove(&receipt)
        };
        let Some((tag, taken)) = taken else { return Ok(false) };
        match inner.apply(&taken, settlement, now).await {
            Ok(owned) => Ok(owned),
            Err(error) => {
                // Still ours: the lease ends, or the connection does, and it is due again.
                inner.taking.lock().taken.insert(tag, taken);
                Err(error)
            }
        }
    }

    async fn stats(&self, _: Now) -> Result<Stats, QueueError> {
        let inner = &self.inner;
        let up = inner.publisher.up().map_err(QueueError::Unavailable)?;
        let count = async |name: &str| {
            let counted = timeout(inner.settings.timeout, topology::count(&up.connection, name)).await;
            match counted {
                Ok(Ok(count)) => Ok(count),
                Ok(Err(error)) => Err(QueueError::Unavailable(error.to_string())),
                Err(_) => Err(QueueError::Unavailable("the broker does not answer".into())),
            }
        };
        let ready = count(&inner.names.main).await?;
        let dead = count(&inner.names.dead).await?;
        let mut scheduled = None;
        if inner.settings.consume {
            let mut sum = 0;
            for step in inner.steps_to_count() {
                let found = count(&inner.names.wait(step)).await?;
                if found.is_none() {
                    inner.steps.lock().1.retain(|known| *known != step);
                }
                sum += found.unwrap_or(0);
            }
            scheduled = Some(sum);
        }
        // Prefetched messages are due all the same. What other processes took the broker does not tell.
        let buffered = inner.taking.lock().buffer.len() as u64;
        Ok(Stats { ready: ready.map(|ready| ready + buffered), scheduled, dead, ..Stats::default() })
    }

    fn trouble(&self) -> Option<String> {
        let inner = &self.inner;
        if let Err(why) = inner.publisher.up() {
            return Some(why);
        }
        inner.publisher.blocked().map(|why| format!("the broker takes no messages: {why}"))
    }

    fn abilities(&self) -> Abilities {
        Abilities { holds: self.inner.settings.consume, hands_out: self.inner.settings.consume, ..Abilities::default() }
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inner {
    /// Is there a connection, and can it carry this event?
    fn fits(&self, event: &Event) -> Result<Arc<Up>, QueueError> {
        let (size, largest) = (event.body.len(), self.settings.max_event);
        if size > largest {
            return Err(QueueError::TooLarge(format!("{size} bytes, `max_event` is {largest}")));
        }
        let up = self.publisher.up().map_err(QueueError::Unavailable)?;
        let frame = up.connection.configuration().frame_max() as usize;
        if wire::header_frame(event) + FRAME_SLACK > frame {
            return Err(QueueError::TooLarge(format!(
                "its headers need more than the broker's frame of {frame} bytes"
            )));
        }
        Ok(up)
    }

    /// Sends a message to a queue, and waits until the broker has it.
    async fn publish(&self, queue: &str, properties: BasicProperties, body: Bytes) -> Result<(), QueueError> {
        let unavailable = |why: String| Err(QueueError::Unavailable(why));
        let up = self.publisher.up().map_err(QueueError::Unavailable)?;
        if let Some(why) = self.publisher.blocked() {
            return unavailable(format!("the broker takes no messages: {why}"));
        }
        let patience = self.settings.timeout;
        let until = tokio::time::Instant::now() + patience;
        // Twice: the library copies the body.
        let permits = u32::try_from((2 * body.len() + 4096) / PERMIT).unwrap_or(u32::MAX).min(self.room);
        let permit = match tokio::time::timeout_at(until, self.unconfirmed.clone().acquire_many_owned(permits)).await {
            Ok(Ok(permit)) => permit,
            _ => return unavailable("too much is sent and not confirmed".into()),
        };
        let (name, channel) = (queue.to_owned(), up.channel.clone());
        // A task of its own: the bytes stay in memory until the broker took them, whether or not somebody waits.
        let sent = tokio::spawn(async move {
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            let confirmed = timeout(patience * STALLED, async {
                channel.basic_publish("".into(), name.into(), options, &body, properties).await?.await
            });
            let confirmed = confirmed.await;
            drop(permit);
            confirmed
        });
        let confirmed = match tokio::time::timeout_at(until, sent).await {
            Ok(Ok(Ok(confirmed))) => confirmed,
            Ok(Ok(Err(_))) | Err(_) => {
                self.publisher.suspect.notify_one();
                return unavailable(format!("no confirmation within {} ms", patience.as_millis()));
            }
            Ok(Err(error)) => return unavailable(error.to_string()),
        };
        match confirmed {
            Ok(Confirmation::Ack(None)) => Ok(()),
            Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => {
                // Somebody deleted the queue. A new connection makes it again, where we may.
                let _ = up.channel.close(200, "returned".into()).await;
                self.publisher.suspect.notify_one();
                unavailable(format!("the broker returned the message: there is no queue {queue}"))
            }
            Ok(Confirmation::Nack(None)) => Err(QueueError::Full("the broker refused the message".into())),
            Ok(Confirmation::NotRequested) => unavailable("the broker confirms nothing".into()),
            Err(error) => {
                self.publisher.suspect.notify_one();
                unavailable(error.to_string())
            }
        }
    }

    /// Does with a taken message what was decided. False: it is not ours any more.
    async fn apply(&self, taken: &Taken, settlement: Settlement, now: Now) -> Result<bool, QueueError> {
        let Some(place) = &taken.place else { return Ok(false) };
        let (properties, body) = (taken.properties.clone(), taken.body.clone());
        let again = |attempts| Marks { attempts, due: None };
        match settlement {
            Settlement::Done => {
                // Even when the connection is gone: the broker brings it again, and then it is done already.
                self.taking.lock().finish(taken.uid);
            }
            _ if !place.channel.status().connected() => return Ok(false),
            Settlement::Retry { after, failure } => {
                let properties = wire::with_failure(properties, &failure);
                self.later(properties, body, taken.attempt, after, now).await?;
            }
            Settlement::Release { after } if after.is_zero() => {
                let properties = wire::remark(properties, again(taken.attempt.saturating_sub(1)));
                self.publish(&self.names.main, properties, body).await?;
            }
            Settlement::Release { after } => {
                self.later(properties, body, taken.attempt.saturating_sub(1), after, now).await?;
            }
            Settlement::Dead { reason, failure } => {
                let attempts = if failure.is_some() { taken.attempt } else { taken.attempt.saturating_sub(1) };
                self.bury(wire::remark(properties, again(attempts)), body, Some(reason), failure, now).await?;
            }
        }
        Ok(place.acknowledge().await)
    }

    /// Publishes a message so that it is due after a while.
    async fn later(
        &self,
        properties: BasicProperties,
        body: Bytes,
        attempts: u32,
        after: Duration,
        now: Now,
    ) -> Result<(), QueueError> {
        let due = u64::try_from((now.unix + after).as_millis()).unwrap_or(u64::MAX);
        let properties = wire::remark(properties, Marks { attempts, due: Some(due) });
        self.step_on(properties, body, after).await
    }

    /// One step of a wait.
    async fn step_on(&self, properties: BasicProperties, body: Bytes, left: Duration) -> Result<(), QueueError> {
        let Some(step) = topology::step(left) else {
            return self.publish(&self.names.main, properties, body).await;
        };
        let name = self.names.wait(step);
        let up = self.publisher.up().map_err(QueueError::Unavailable)?;
        if self.settings.declare && !up.declared.lock().contains(&name) {
            let channel =
                up.connection.create_channel().await.map_err(|error| QueueError::Unavailable(error.to_string()))?;
            let declared = topology::declare(&channel, &name, topology::wait(&self.names, step)).await;
            declared.map_err(QueueError::Unavailable)?;
            let _ = channel.close(200, "bye".into()).await;
            up.declared.lock().insert(name.clone());
            let mut steps = self.steps.lock();
            if !steps.1.contains(&step) {
                steps.1.push(step);
            }
        }
        self.publish(&name, properties, body).await
    }

    /// Moves a message to the dead letters.
    async fn bury(
        &self,
        mut properties: BasicProperties,
        body: Bytes,
        reason: Option<DeadReason>,
        failure: Option<Failure>,
        now: Now,
    ) -> Result<(), QueueError> {
        if let Some(failure) = &failure {
            properties = wire::with_failure(properties, failure);
        }
        self.publish(&self.names.dead, wire::dead(properties, wire::label(reason), now.unix), body).await
    }

    /// Opens what is needed to hold events back, if it is not open.
    async fn holding(&self) -> Result<(), String> {
        let up = self.consumer.up()?;
        up.holding.get_or_try_init(|| self.hold(&up.connection)).await.map(drop)
    }

    async fn hold(&self, connection: &Connection) -> Result<Channel, String> {
        let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
        topology::declare(&channel, &self.names.hold, topology::hold(&self.names)).await?;
        Ok(channel)
    }

    /// Messages that wait in the buffer, as deliveries; and places of those that are done already.
    fn take(&self, want: Want<'_>, now: Instant) -> (Vec<Delivery>, Vec<Place>) {
        let mut taking = self.taking.lock();
        let (mut found, mut again) = (Vec::new(), Vec::new());
        while found.len() < want.max {
            let Some(message) = taking.buffer.pop_front() else { break };
            if !message.place.channel.status().connected() {
                continue; // The broker has given it to somebody else.
            }
            if taking.finished.contains(&message.event.uid) {
                again.push(message.place);
                continue;
            }
            let tag = self.tags.fetch_add(1, Ordering::Relaxed);
            let uid = message.event.uid;
            let taken = Taken {
                uid,
                ends: now + want.lease,
                attempt: message.attempt,
                properties: message.properties,
                body: message.event.body.clone(),
                place: Some(message.place),
                settled: None,
            };
            taking.taken.insert(tag, taken);
            let receipt = Receipt { uid, tag: tag.to_string().into() };
            found.push(Delivery { event: message.event, attempt: message.attempt, receipt });
        }
        if !taking.buffer.is_empty() {
            self.arrived.notify_one();
        }
        (found, again)
    }

    /// A message of the main queue.
    async fn arrive(self: &Arc<Self>, channel: &Channel, delivery: lapin::message::Delivery) {
        let place = Place { channel: channel.clone(), tag: delivery.delivery_tag };
        let body = Bytes::from(delivery.data);
        let now = Now::read();
        let (event, marks) = match wire::decode(&delivery.properties, &body) {
            Ok(read) => read,
            Err(lacks) => {
                tracing::warn!(
                    target: "hookmoat", queue = &*self.settings.name, lacks,
                    "a message that is not ours goes to the dead letters"
                );
                if self.bury(delivery.properties, body, None, None, now).await.is_ok() {
                    place.acknowledge().await;
                } else {
                    place.give_back().await;
                }
                return;
            }
        };
        let left = Duration::from_millis(marks.due.unwrap_or(0)).saturating_sub(now.unix);
        let message = Message {
            place,
            properties: delivery.properties,
            event,
            attempt: marks.attempts + 1 + u32::from(delivery.redelivered),
            arrived: now.instant,
        };
        if left.as_millis() == 0 {
            self.buffer(message);
            return;
        }
        let inner = self.clone();
        tokio::spawn(async move {
            if topology::step(left).is_none() {
                sleep(left).await;
                inner.buffer(message);
            } else if inner.step_on(message.properties, message.event.body, left).await.is_ok() {
                message.place.acknowledge().await;
            } else {
                sleep(TICK * 10).await;
                message.place.give_back().await;
            }
        });
    }

    fn buffer(&self, message: Message) {
        self.taking.lock().buffer.push_back(message);
        self.arrived.notify_one();
    }

    /// A message of this process's own queue: the one that an event is held by.
    async fn come_back(&self, channel: &Channel, delivery: lapin::message::Delivery) {
        let place = Place { channel: channel.clone(), tag: delivery.delivery_tag };
        let uid = delivery.properties.message_id().as_ref().and_then(|id| EventUid::parse(id.as_str()));
        let returned = self.taking.lock().returned(uid, &place);
        match returned {
            Returned::Kept => {}
            Returned::Finished => drop(place.acknowledge().await),
            Returned::Unknown => place.pass_on().await,
            Returned::Settled(taken, settlement) => {
                if self.apply(&taken, settlement, Now::read()).await.is_err() {
                    place.pass_on().await;
                }
            }
        }
    }

    /// Leases that ended, and messages that nobody takes.
    async fn tick(&self, now: Instant) {
        let mut back = Vec::new();
        {
            let mut taking = self.taking.lock();
            let ended: Vec<u64> =
                taking.taken.iter().filter(|(_, taken)| taken.ends <= now).map(|(tag, _)| *tag).collect();
            for tag in ended {
                let held = taking.taken.get(&tag).is_some_and(|taken| taking.held.get(&taken.uid) == Some(&tag));
                if let Some(Taken { place: Some(place), .. }) = taking.forget(tag) {
                    back.push((place, held));
                }
            }
            while taking.buffer.front().is_some_and(|message| message.arrived + STALE <= now) {
                if let Some(message) = taking.buffer.pop_front() {
                    back.push((message.place, false));
                }
            }
        }
        for (place, held) in back {
            if held {
                place.pass_on().await;
            } else {
                place.give_back().await;
            }
        }
    }

    /// Queues of waiting that are worth a question: all now and then, else those that were there.
    fn steps_to_count(&self) -> Vec<u64> {
        let mut steps = self.steps.lock();
        let now = Now::read().instant;
        if steps.0.is_none_or(|looked| looked + Duration::from_secs(60) <= now) {
            *steps = (Some(now), topology::STEPS.to_vec());
        }
        steps.1.clone()
    }

    async fn declare(&self, channel: &Channel) -> Result<(), String> {
        if self.settings.declare {
            topology::declare(channel, &self.names.dead, topology::dead()).await?;
            topology::declare(channel, &self.names.main, topology::main(&self.names, self.settings.bounds)).await
        } else {
            Ok(())
        }
    }
}

impl Role for Publishes {
    async fn setup(&self, connection: &Connection) -> Result<Channel, String> {
        let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
        self.0.declare(&channel).await?;
        if !self.0.settings.declare {
            let there = topology::count(connection, &self.0.names.main).await.map_err(|error| error.to_string())?;
            there.ok_or_else(|| format!("there is no queue {}, and `declare` is false", self.0.names.main))?;
        }
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(|error| error.to_string())?;
        Ok(channel)
    }

    async fn serve(&self, _: &Arc<Up>) -> String {
        std::future::pending().await
    }
}

impl Role for Consumes {
    async fn setup(&self, connection: &Connection) -> Result<Channel, String> {
        let channel = connection.create_channel().await.map_err(|error| error.to_string())?;
        self.0.declare(&channel).await?;
        let prefetch = channel.basic_qos(self.0.settings.prefetch, BasicQosOptions::default()).await;
        prefetch.map_err(|error| error.to_string())?;
        Ok(channel)
    }

    async fn serve(&self, up: &Arc<Up>) -> String {
        let inner = &self.0;
        let consume = |channel: Channel, name: Box<str>| async move {
            let options = BasicConsumeOptions::default();
            channel.basic_consume((&*name).into(), "".into(), options, FieldTable::default()).await
        };
        let mut main = match consume(up.channel.clone(), inner.names.main.clone()).await {
            Ok(consumer) => consumer,
            Err(error) => return format!("cannot consume: {error}"),
        };
        // What is held of an earlier connection has come back to this process's queue.
        let holds = !inner.taking.lock().held.is_empty();
        if holds && let Err(why) = inner.holding().await {
            return why;
        }
        let mut held = None;
        loop {
            if held.is_none()
                && let Some(channel) = up.holding.get()
            {
                match consume(channel.clone(), inner.names.hold.clone()).await {
                    Ok(consumer) => held = Some((consumer, channel.clone())),
                    Err(error) => return format!("cannot consume: {error}"),
                }
            }
            let holds = held.is_some();
            let back = async {
                match &mut held {
                    Some((consumer, channel)) => (consumer.next().await, channel.clone()),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = main.next() => match message {
                    Some(Ok(delivery)) => inner.arrive(&up.channel, delivery).await,
                    Some(Err(error)) => return error.to_string(),
                    None => return "the broker ended the consumer".into(),
                },
                (message, channel) = back => match message {
                    Some(Ok(delivery)) => inner.come_back(&channel, delivery).await,
                    Some(Err(error)) => return error.to_string(),
                    None => return "the broker ended the consumer".into(),
                },
                // Is there something to hold since?
                () = sleep(TICK), if !holds => {}
            }
        }
    }
}

impl Place {
    /// The message is through. False: the broker may bring it again.
    async fn acknowledge(&self) -> bool {
        self.channel.basic_ack(self.tag, BasicAckOptions::default()).await.is_ok()
    }

    /// Due again at once.
    async fn give_back(&self) {
        let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        // A channel that is closed has given back everything.
        let _ = self.channel.basic_nack(self.tag, options).await;
    }

    /// On along its queue's dead-letter route.
    async fn pass_on(&self) {
        let options = BasicNackOptions { requeue: false, ..BasicNackOptions::default() };
        let _ = self.channel.basic_nack(self.tag, options).await;
    }
}

/// What the message of a held event finds when it comes back.
enum Returned {
    /// Its holder works on it.
    Kept,
    /// It is done.
    Finished,
    /// Nobody here holds it any more.
    Unknown,
    /// Its holder has said what to do with it.
    Settled(Box<Taken>, Settlement),
}

impl Taking {
    fn returned(&mut self, uid: Option<EventUid>, place: &Place) -> Returned {
        let Some(uid) = uid else { return Returned::Unknown };
        let Some(tag) = self.held.get(&uid).copied() else {
            return if self.finished.contains(&uid) { Returned::Finished } else { Returned::Unknown };
        };
        match self.taken.get_mut(&tag) {
            Some(taken) => {
                taken.place = Some(place.clone());
                let Some(settlement) = taken.settled.take() else { return Returned::Kept };
                match self.forget(tag) {
                    Some(taken) => Returned::Settled(taken.into(), settlement),
                    None => Returned::Unknown,
                }
            }
            None => Returned::Unknown,
        }
    }

    fn owned(&mut self, receipt: &Receipt, now: Instant) -> Option<&mut Taken> {
        let taken = self.taken.get_mut(&receipt.tag.parse().ok()?)?;
        (taken.uid == receipt.uid && taken.ends > now && taken.settled.is_none()).then_some(taken)
    }

    fn remove(&mut self, receipt: &Receipt) -> Option<(u64, Taken)> {
        let tag = receipt.tag.parse().ok()?;
        Some((tag, self.forget(tag)?))
    }

    fn forget(&mut self, tag: u64) -> Option<Taken> {
        let taken = self.taken.remove(&tag)?;
        if self.held.get(&taken.uid) == Some(&tag) {
            self.held.remove(&taken.uid);
        }
        Some(taken)
    }

    fn finish(&mut self, uid: EventUid) {
        if self.finished.insert(uid) {
            self.order.push_back(uid);
            if self.order.len() > FINISHED
                && let Some(oldest) = self.order.pop_front()
            {
                self.finished.remove(&oldest);
            }
        }
    }
}
