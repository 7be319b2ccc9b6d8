//! The queues at the broker, and how they lead to one another.
//!
//! ```text
//!  enqueue ──────► NAME ──────────► workers ──► NAME.dead
//!                   ▲                  │
//!                   └── NAME.wait.MS ◄─┘   retries: a queue for each step of time, whose messages go back when it is over
//!                   └── NAME.hold.X  ◄── enqueue with a hold: this process's own; what it leaves behind goes back
//! ```
//!
//! All are quorum queues. Messages go back by dead lettering at least once, which needs `x-overflow: reject-publish`: with
//! the broker's default a message that expires while its target is full or away would be dropped.

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{Channel, Connection};
use std::time::Duration;

/// Steps that a wait is made of, in milliseconds. A longer wait takes several; the rest below the smallest is slept.
pub(super) const STEPS: [u64; 17] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 60_000, 120_000, 300_000, 600_000, 1_200_000, 3_600_000,
    7_200_000, 21_600_000, 86_400_000,
];
/// How long a held message that nobody holds lies before it goes back.
const HOLD_TTL: Duration = Duration::from_secs(60);
/// A process's own queue is deleted when nobody used it for so long. Far longer than its messages stay.
const HOLD_EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// As good as never; every version takes it, unlike the -1 of RabbitMQ 4.
const DEAD_DELIVERY_LIMIT: u64 = 1_000_000_000;

/// The largest step that is not longer than this.
pub(super) fn step(wait: Duration) -> Option<u64> {
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    STEPS.into_iter().rev().find(|step| *step <= wait)
}

/// Names of the queues.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) main: Box<str>,
    pub(super) dead: Box<str>,
    pub(super) hold: Box<str>,
}

impl Names {
    pub(super) fn new(main: &str, instance: &str) -> Self {
        Self { main: main.into(), dead: format!("{main}.dead").into(), hold: format!("{main}.hold.{instance}").into() }
    }

    pub(super) fn wait(&self, step: u64) -> String {
        format!("{}.wait.{step}", self.main)
    }
}

/// Bounds of the main queue, kept by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Events.
    pub max_events: Option<u64>,
    /// Bytes of their bodies.
    pub max_bytes: Option<u64>,
    /// Deliveries that end without a word (a crash, a lost connection) before the broker itself gives an event up.
    pub delivery_limit: u32,
}

/// The queue that workers read.
pub(super) fn main(names: &Names, bounds: Bounds) -> FieldTable {
    let mut table = back_to(&names.dead);
    insert(&mut table, "x-delivery-limit", u64::from(bounds.delivery_limit));
    if let Some(max) = bounds.max_events {
        insert(&mut table, "x-max-length", max);
    }
    if let Some(max) = bounds.max_bytes {
        insert(&mut table, "x-max-length-bytes", max);
    }
    table
}

/// Dead letters. Looking at one gives it back, which the broker counts: without a limit of our own, RabbitMQ 4 would drop
/// a letter that was looked at twenty times.
pub(super) fn dead() -> FieldTable {
    let mut table = quorum();
    insert(&mut table, "x-delivery-limit", DEAD_DELIVERY_LIMIT);
    table
}

/// A step of waiting.
pub(super) fn wait(names: &Names, step: u64) -> FieldTable {
    let mut table = back_to(&names.main);
    insert(&mut table, "x-message-ttl", step);
    table
}

/// What this process holds back.
pub(super) fn hold(names: &Names) -> FieldTable {
    let mut table = back_to(&names.main);
    insert(&mut table, "x-message-ttl", u64::try_from(HOLD_TTL.as_millis()).unwrap_or(60_000));
    insert(&mut table, "x-expires", u64::try_from(HOLD_EXPIRES.as_millis()).unwrap_or(86_400_000));
    table
}

/// Makes a queue, or finds it with the same arguments.
pub(super) async fn declare(channel: &Channel, name: &str, arguments: FieldTable) -> Result<(), String> {
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(name.into(), options, arguments).await;
    declared.map(drop).map_err(|error| {
        let error = error.to_string();
        if error.contains("PRECONDITION") {
            format!(
                "queue {name} is there with other arguments than these settings need ({error}): delete it, rename \
                 `queue`, or set `declare: false`"
            )
        } else {
            format!("cannot declare queue {name}: {error}")
        }
    })
}

/// How many messages wait in a queue; `None`: there is no such queue. On a channel of its own, since the broker closes it
/// with the answer.
pub(super) async fn count(connection: &Connection, name: &str) -> lapin::Result<Option<u64>> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(name.into(), options, FieldTable::default()).await {
        Ok(queue) => {
            let _ = channel.close(200, "bye".into()).await;
            Ok(Some(queue.message_count().into()))
        }
        Err(error) if error.is_amqp_soft_error() && error.to_string().contains("NOT") => Ok(None),
        Err(error) => Err(error),
    }
}

fn quorum() -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), string("quorum"));
    table
}

fn back_to(name: &str) -> FieldTable {
    let mut table = quorum();
    table.insert("x-dead-letter-exchange".into(), string(""));
    table.insert("x-dead-letter-routing-key".into(), string(name));
    table.insert("x-dead-letter-strategy".into(), string("at-least-once"));
    table.insert("x-overflow".into(), string("reject-publish"));
    table
}

fn string(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text.as_bytes()))
}

fn insert(table: &mut FieldTable, name: &str, value: u64) {
    table.insert(name.into(), AMQPValue::LongLongInt(i64::try_from(value).unwrap_or(i64::MAX)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_made_of_steps_that_are_never_too_long() {
        for (millis, expected) in [(0, None), (99, None), (100, Some(100)), (999, Some(500)), (1_000, Some(1_000))] {
            assert_eq!(step(Duration::from_millis(millis)), expected, "{millis}");
        }
        assert_eq!(step(Duration::from_secs(3 * 86_400)), Some(86_400_000));
        assert!(STEPS.is_sorted());
    }
}
