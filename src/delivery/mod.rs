//! Background delivery: events that were acknowledged are brought to the backend, or end among the dead letters.
//!
//! ```text
//! sender ─► pipeline ─► Admitted::enqueue ─► queue ─► lane ─► attempt ─► backend
//!                         durable, then 2xx    ▲                │
//!                                              └── settle ◄── plan
//! ```
//!
//! * [`queues`] opens the queues of the configuration; they live as long as the process.
//! * [`worker`] has a lane for each queue and backend: a slow backend keeps only its own events waiting.
//! * [`attempt`] makes one attempt by the route's policy of that moment, and settles the event.
//! * [`desk`] answers those who look into the queues of a running process, in the words of [`view`].
//! * [`plan`] says what becomes of an event, [`circuit`] whether its backend may be asked. Neither does I/O.
//!
//! An event is settled as done only on a whole 2xx. Whatever ends a process in between leaves its event in the queue:
//! delivery is at least once, and `Idempotency-Key` tells the backend which attempts are the same event.

pub(crate) mod attempt;
pub(crate) mod circuit;
pub(crate) mod desk;
pub(crate) mod plan;
pub(crate) mod queues;
pub(crate) mod view;
pub(crate) mod worker;

pub(crate) use queues::Queues;

use crate::pipeline::Trail;
use crate::policy::{OrderKey, Route};
use crate::port::queue::{Event, EventUid};
use crate::request::{Head, Now};
use bytes::Bytes;

/// Order keys are cut here; longer ones that begin alike are delivered in one line, which is slower and never wrong.
const MAX_ORDER_KEY: usize = 256;

/// A verified request as the queue keeps it.
pub(crate) fn event_of(
    head: &Head<'_>,
    body: Bytes,
    route: &Route,
    trail: &Trail,
    request_id: &str,
    verified: bool,
    now: Now,
) -> Event {
    let headers = head.headers.iter().map(|(name, value)| (name.into(), value.into())).collect();
    Event {
        uid: EventUid::new(now),
        route: (&*route.name).into(),
        provider: route.provider.as_deref().map(Into::into),
        event_id: trail.event_id.clone(),
        event_type: trail.event_type.clone(),
        received: now.unix,
        request_id: request_id.into(),
        client: trail.client.map(|client| client.ip()),
        secure: trail.secure,
        verified,
        order: order_key(head, &body, route),
        lane: None,
        method: head.method.into(),
        path: head.path.into(),
        query: head.query.map(Into::into),
        host: head.host.into(),
        headers,
        body,
    }
}

fn order_key(head: &Head<'_>, body: &[u8], route: &Route) -> Option<Box<str>> {
    match route.deliver.as_ref()?.order.as_ref()? {
        OrderKey::Route => Some("".into()),
        OrderKey::Value(source) => {
            let value = source.read(head, body).ok().flatten()?;
            let value = value.get(..MAX_ORDER_KEY).unwrap_or(&value);
            Some(String::from_utf8_lossy(value).into())
        }
    }
}
