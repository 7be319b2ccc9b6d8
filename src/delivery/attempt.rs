//! One attempt to deliver one event, by its route's policy of this moment.

use super::circuit::Leave;
use super::plan::{self, Met, Trouble};
use super::queues::{OpenQueue, Target};
use crate::check::{path, shape};
use crate::pipeline::Trail;
use crate::policy::{Limits, Retry, Route, UnknownRoutes, Upstream};
use crate::port::queue::{DeadReason, Delivery, Event, Failure, Queue, Receipt, Settlement};
use crate::proxy::Shared;
use crate::proxy::forward::{self, Told};
use crate::proxy::live::Live;
use crate::proxy::timer::Timer;
use crate::proxy::upstream::{Client, ExchangeError, Response};
use crate::request::{ClientIp, Head, Headers, Now};
use crate::telemetry::queues::DeliveryEvent;
use crate::telemetry::trace::Context;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What a lease is longer than an attempt: for its turn, and for settling.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(60);
/// How long an event that was taken waits for its turn at the backend before it goes back to the queue.
const TURN: Duration = Duration::from_secs(30);
/// How long an event of a route that is gone is left alone before it is looked at again.
const ORPHAN: Duration = Duration::from_secs(60);
/// Bytes of an answer's body that are read so that the connection can be used again. Nobody looks at them.
const ANSWER: usize = 1 << 20;

/// Attempts a delivery and settles it, whatever comes.
pub(super) async fn attempt(shared: &Shared, queue: &OpenQueue, delivery: Delivery) {
    let live = shared.live();
    let Delivery { event, attempt, receipt } = delivery;
    let (settlement, met) = match live.route(&event.route) {
        None => (without_route(queue), None),
        Some(route) => by_route(shared, &live, &route, &event, attempt).await,
    };
    finish(shared, &live, queue, &event, attempt, receipt, settlement, met).await;
}

/// What is known once an event's attempt is over: writes it down and tells it.
#[expect(clippy::too_many_arguments, reason = "it is the end of two ways that share nothing else")]
pub(crate) async fn finish(
    shared: &Shared,
    live: &Live,
    queue: &OpenQueue,
    event: &Event,
    attempt: u32,
    receipt: Receipt,
    settlement: Settlement,
    met: Option<(Met, Duration)>,
) {
    let settled = settle(&*queue.queue, receipt, &settlement).await;
    if let Err(why) = settled {
        shared.metrics().queues.unsettled.inc();
        tracing::error!(
            target: "hookmoat", queue = &*queue.name, uid = %event.uid, why,
            "the end of an attempt could not be written down; the event may be delivered once more"
        );
    }
    let route = live.route(&event.route);
    let trace_id = shared.tracer().and_then(|_| Context::of_event(event)).map(|context| context.trace_id());
    DeliveryEvent {
        trace_id: trace_id.as_deref(),
        event,
        route: route.as_ref().map(|route| &*route.name),
        queue: &queue.name,
        attempt,
        met: met.as_ref().map(|(met, took)| (met, *took)),
        settlement: &settlement,
        age: Now::read().unix.saturating_sub(event.received),
    }
    .emit(&shared.metrics().queues, live.log.requests);
}

fn without_route(queue: &OpenQueue) -> Settlement {
    match queue.unknown_routes {
        UnknownRoutes::Dead => Settlement::Dead { reason: DeadReason::NoRoute, failure: None },
        UnknownRoutes::Keep => Settlement::Release { after: ORPHAN },
    }
}

async fn by_route(
    shared: &Shared,
    live: &Live,
    route: &Route,
    event: &Event,
    attempt: u32,
) -> (Settlement, Option<(Met, Duration)>) {
    let later = |after| (Settlement::Release { after }, None);
    let default = Retry::default();
    let retry = route.deliver.as_ref().map_or(&default, |deliver| &deliver.retry);
    if Now::read().unix.saturating_sub(event.received) >= retry.max_age {
        return (Settlement::Dead { reason: DeadReason::MaxAge, failure: None }, None);
    }
    if let Some(fault) = fault(event) {
        let failure = Failure { status: None, message: fault.into() };
        return (Settlement::Dead { reason: DeadReason::Malformed, failure: Some(failure) }, None);
    }
    let branch = route.branch_of(event.event_type.as_deref());
    let forward = route.forward(branch);
    let Some(client) = live.upstream(forward.upstream) else { return later(ORPHAN) };
    let target = shared.queues().target(client.upstream());
    let Ok(Ok(_turn)) = timeout(TURN, target.permits.clone().acquire_owned()).await else {
        return later(Duration::ZERO);
    };
    if let Leave::Wait(after) = target.circuit.lock().ask(Now::read().instant) {
        return later(after);
    }
    let began = Instant::now();
    let trace = shared.tracer().and_then(|tracer| Some((tracer, tracer.attempt(event)?)));
    let head = head_of(event, route, branch, client.upstream(), attempt, trace.as_ref().map(|(_, trace)| trace.text()));
    let met = exchange(client, &head, &event.body, retry.timeout).await;
    let took = began.elapsed();
    if let Some((tracer, trace)) = &trace {
        tracer.finish_attempt(trace, event, &client.upstream().name, attempt, &met);
    }
    note(&target, &met);
    let age = Now::read().unix.saturating_sub(event.received);
    (plan::settlement(&met, retry, attempt, age, chance()), Some((met, took)))
}

/// Tells the circuit what a backend did.
pub(crate) fn note(target: &Target, met: &Met) {
    let now = Now::read().instant;
    let mut circuit = target.circuit.lock();
    match met {
        _ if met.is_alive() => circuit.answered(),
        _ => circuit.failed(now, chance()),
    }
    if let Some(pause) = met.wants_pause() {
        circuit.pause(now, pause);
    }
}

/// From 0 to 1.
pub(crate) fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX)
}

/// Why an event is no request that could have come in, if it is not. Who can write into a queue is not held back by any
/// check of the proxy: a line end in a path or header would be another request to the backend.
pub(crate) fn fault(event: &Event) -> Option<Cow<'static, str>> {
    // Bounds held when it came, and may be others by now.
    let bounds =
        Limits { headers: usize::MAX, header_bytes: usize::MAX, uri_bytes: usize::MAX, body_memory: usize::MAX };
    let headers = headers_of(event);
    if let Err(reject) = shape::head(&request_of(event, &headers), &bounds) {
        return Some(reject.detail);
    }
    if let Some(fault) = path::ambiguity(&event.path) {
        return Some(fault.into());
    }
    // Text of our own or of a checked body, which goes into header fields.
    let texts = [Some(&event.request_id), event.event_id.as_ref(), event.event_type.as_ref()];
    let in_field = |text: &str| !text.bytes().any(|byte| byte < b' ' || byte == 0x7f);
    texts.into_iter().flatten().any(|text| !in_field(text)).then_some(Cow::Borrowed("an ID or type has a control byte"))
}

fn headers_of(event: &Event) -> Vec<(&str, &[u8])> {
    event.headers.iter().map(|(name, value)| (&**name, &**value)).collect()
}

fn request_of<'a>(event: &'a Event, headers: &'a [(&'a str, &'a [u8])]) -> Head<'a> {
    Head {
        method: &event.method,
        path: &event.path,
        query: event.query.as_deref(),
        host: &event.host,
        headers: Headers::List(headers),
    }
}

/// The request as the backend gets it: what came, what the proxy says about it, and which attempt this is.
pub(crate) fn head_of(
    event: &Event,
    route: &Route,
    branch: Option<usize>,
    upstream: &Upstream,
    attempt: u32,
    traceparent: Option<String>,
) -> Vec<u8> {
    let headers = headers_of(event);
    let head = request_of(event, &headers);
    let trail = Trail {
        client: event.client.map(ClientIp::new),
        secure: event.secure,
        event_id: event.event_id.clone(),
        event_type: event.event_type.clone(),
        branch,
        ..Trail::default()
    };
    let number = attempt.to_string();
    let uid = event.uid.to_string();
    let key = event.event_id.as_deref().unwrap_or(&uid);
    let mut own = vec![("hookmoat-attempt", number.as_str()), ("idempotency-key", key)];
    own.extend(traceparent.as_deref().map(|value| ("traceparent", value)));
    let now = Now::read().unix.as_secs();
    let (seconds, signature);
    if let Some(sign) = route.deliver.as_ref().and_then(|deliver| deliver.sign.as_ref()) {
        seconds = now.to_string();
        signature = sign.sign(key, now, &event.body);
        own.extend([
            ("webhook-id", key),
            ("webhook-timestamp", seconds.as_str()),
            ("webhook-signature", signature.as_str()),
        ]);
    }
    let told =
        Told { request_id: &event.request_id, verified: event.verified, body_length: event.body.len(), own: &own };
    let mut out = Vec::with_capacity(2048);
    forward::head(&mut out, &head, route, upstream, &trail, &told);
    out
}

async fn exchange(client: &Arc<Client>, head: &[u8], body: &[u8], time: Duration) -> Met {
    let mut timer = Timer::default();
    // Not sent again by itself on a connection that turned out dead: that would be an attempt nobody counts.
    let answered = client.exchange(head, body, false, false, &mut timer, Instant::now() + time).await;
    match answered {
        Ok(response) => read(response, &mut timer).await,
        Err(error) => met(&error),
    }
}

/// Reads an answer to its end: a 2xx that broke off may be the backend's death in the middle.
pub(crate) async fn read(mut response: Response, timer: &mut Timer) -> Met {
    let status = response.head.status.as_u16();
    let now = Now::read().unix;
    let mut fields = response.fields();
    let asked = fields.find(|(name, _)| *name == "retry-after").and_then(|(_, value)| plan::retry_after(value, now));
    drop(fields);
    let mut length = 0;
    loop {
        match response.chunk(timer).await {
            Ok(Some(chunk)) => length += chunk.len(),
            Ok(None) => return Met::Answer(status, asked),
            Err(error) => return met(&error),
        }
        // Long enough to be taken at its word.
        if length > ANSWER {
            return Met::Answer(status, asked);
        }
    }
}

pub(crate) fn met(error: &ExchangeError) -> Met {
    let trouble = match error {
        ExchangeError::Unreachable(..) => Trouble::Unreachable,
        ExchangeError::Broken(..) => Trouble::Broken,
        ExchangeError::Timeout(..) => Trouble::Timeout,
    };
    Met::Nothing(trouble, error.to_string().into())
}

/// Writes down what became of an event. Tries for as long as the lease's margin: a success that is forgotten is a
/// delivery made twice.
async fn settle(queue: &dyn Queue, receipt: Receipt, settlement: &Settlement) -> Result<(), String> {
    let until = Instant::now() + LEASE_MARGIN / 2;
    let mut pause = Duration::from_millis(50);
    loop {
        match queue.settle(receipt.clone(), settlement.clone(), Now::read()).await {
            Ok(true) => return Ok(()),
            Ok(false) => return Err("its lease had ended".into()),
            Err(error) if Instant::now() + pause >= until => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
