//! One request from the end of its head to its event, whatever carries it: lets the pipeline judge, has the body read,
//! hands what was admitted to the backend, settles the claim, answers.

use super::body::Held;
use super::carrier::{AnswerHead, BodyTerms, Carrier, Fields, Http, Length, Way};
use super::live::Live;
use super::timer::Timer;
use super::upstream::{ExchangeError, Response};
use super::{RequestId, Shared, answer, forward, keep};
use crate::answer::Answer;
use crate::check::client_ip::client_ip;
use crate::delivery::circuit::Leave;
use crate::delivery::plan::{self, Met, Trouble};
use crate::delivery::queues::{OpenQueue, Running};
use crate::delivery::{self, attempt};
use crate::pipeline::{self, Admitted, Answered, How, Stop, Trail};
use crate::policy::{DeliverMode, Https, Retry, Route};
use crate::port::queue::{Event, Receipt};
use crate::port::seen::Outcome;
use crate::reject::{Reason, Reject};
use crate::request::{Headers, Now};
use crate::telemetry::event::{Ending, RequestEvent};
use crate::telemetry::trace::{Recording, Stage};
use bytes::Bytes;
use http::{StatusCode, header};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// An early answer to a sender that is still uploading: how long and how much is read on, so that the answer is not
/// lost to a connection reset.
const DRAIN_TIME: Duration = Duration::from_millis(500);
const DRAIN_BYTES: usize = 2 << 20;
/// What a sender gets to take our answer in, even where `timeouts.total` is used up.
const LAST_WORD: Duration = Duration::from_secs(5);

/// A body of so many bytes is copied behind its head: one buffer is written with less effort than two.
const COPIED: usize = 4 * 1024;

/// Bytes of an answer that are put together before they are passed on.
const PART: usize = 16 * 1024;
/// What a queued event is held back longer than the attempt that goes on.
const LATE_MARGIN: Duration = Duration::from_secs(60);

/// What becomes of the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The answer is whole; what is on the wire behind it may be the next request.
    Reuse,
    /// The answer is cut or could not be written: nothing more may look like a part of it.
    Abort,
}

/// What one exchange after the other uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) timer: Timer,
    /// The head for the backend.
    pub(super) head: Vec<u8>,
    /// A part of the backend's answer that was not passed on yet.
    pub(super) part: Vec<u8>,
    /// Was one of the requests a verified one, which came for the first time?
    pub(super) verified: bool,
}

/// One request with its answer.
pub(super) struct Exchange<'s> {
    shared: &'s Shared,
    policy: &'s Live,
    scratch: &'s mut Scratch,
    id: RequestId,
    now: Now,
    started: Instant,
    trail: Trail,
    bytes: u64,
    /// Was the body read to its end?
    whole: bool,
    body: Duration,
    backend: Option<Duration>,
    /// When the answer was out, where more is done after it.
    ended: Option<Duration>,
    /// Was the sender told to go on (`100 Continue`)?
    continued: bool,
    /// Where traces are recorded.
    trace: Option<Box<Recording>>,
    _in_flight: InFlight<'s>,
}

/// Counts a request for the drain at shutdown, whatever way it ends.
struct InFlight<'s>(&'s Shared);

impl<'s> InFlight<'s> {
    fn new(shared: &'s Shared) -> Self {
        shared.in_flight.fetch_add(1, Ordering::Relaxed);
        shared.metrics.in_flight.inc();
        Self(shared)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.metrics.in_flight.dec();
    }
}

/// A request that may be delivered, with what its body holds of the memory for bodies.
struct Clean<'s> {
    admitted: Admitted<'s>,
    route: Arc<Route>,
    held: Held<'s>,
}

impl<'s> Exchange<'s> {
    pub(super) fn new(shared: &'s Shared, policy: &'s Live, scratch: &'s mut Scratch) -> Self {
        let now = Now::read();
        Self {
            shared,
            policy,
            scratch,
            id: shared.request_ids.next(),
            now,
            started: Instant::from_std(now.instant),
            trail: Trail::default(),
            bytes: 0,
            whole: false,
            body: Duration::ZERO,
            backend: None,
            ended: None,
            continued: false,
            trace: None,
            _in_flight: InFlight::new(shared),
        }
    }

    /// From the end of the head to the event.
    pub(super) async fn run<C: Carrier>(mut self, carrier: &mut C) -> Next {
        self.shared.metrics.carried(C::WAY == Way::Lean);
        if let Some(tracer) = &self.shared.tracer {
            self.trace = Some(Box::new(tracer.begin(&carrier.head(), self.now, self.id.number)));
        }
        match self.judge(carrier).await {
            Ok(clean) => {
                self.scratch.verified |= clean.admitted.verified;
                self.deliver(carrier, clean).await
            }
            Err(Stop::Answered(answered)) => self.answer(carrier, *answered).await,
            Err(Stop::Refused(reject)) => self.refuse(carrier, reject).await,
        }
    }

    /// Everything before the backend.
    async fn judge<C: Carrier>(&mut self, carrier: &mut C) -> Result<Clean<'s>, Stop> {
        let (shared, policy) = (self.shared, self.policy);
        carrier.strict()?;
        let mut screened =
            pipeline::screen(policy, &shared.state, &carrier.head(), &carrier.peer(), self.now, &mut self.trail)
                .await?;
        let route = self.trail.route.clone().ok_or_else(|| Reject::from(Reason::Internal))?;
        // Only HTTP/1.1: an HTTP/1.0 sender would take the 100 for the answer (RFC 9110 section 10.1.1).
        if screened.declared.expects_continue && carrier.http() == Http::V11 {
            let until = self.patience();
            let told = carrier.go_on(&mut self.scratch.timer, until).await;
            told.map_err(|_| Reason::ClientGone.because("while answering 100 Continue"))?;
            self.continued = true;
        }
        self.enter(Stage::Body);
        let begun = Instant::now();
        let terms = BodyTerms {
            declared: screened.declared.length,
            max: screened.max_body(),
            max_held: policy.limits.body_memory,
            until: begun + policy.timeouts.body,
        };
        let mut held = shared.body_memory.hold();
        let timer = &mut self.scratch.timer;
        let read = carrier.read_body(terms, &mut held, timer, |chunk| screened.update(chunk)).await;
        // Not the time of the request, which is older by what the body took: what is claimed is claimed from now on.
        let now = Instant::now();
        self.body = now - begun;
        read.map_err(|reject| screened.unread(reject))?;
        self.bytes = carrier.body().len() as u64;
        self.whole = true;
        self.enter(Stage::Verify);
        let (authentic, keys) = {
            let (head, body) = (carrier.head(), carrier.body());
            if let Some(wanted) = screened.wanted(&head, body, self.now) {
                // Whether it came is seen by whoever judges next.
                shared.fetching.obtain(wanted).await;
            }
            let authentic = screened.verify(&shared.state, &head, body, self.now, &mut self.trail).await?;
            if let Some(trace) = &mut self.trace {
                trace.verified = authentic.is_verified();
            }
            let keys = authentic.keys(&head, body, &mut self.trail)?;
            (authentic, keys)
        };
        let now = Now { instant: now.into_std(), unix: self.now.unix };
        let patience = policy.timeouts.duplicate_wait;
        if keys.is_some() {
            self.enter(Stage::Claim);
        }
        let admitted = authentic.admit(&shared.state, keys, patience, now, &mut self.trail).await?;
        Ok(Clean { admitted, route, held })
    }

    /// What becomes of a clean request. Where it is not the backend that answers (a queue that took it, an event that
    /// is acknowledged and dropped), the claim is settled here and [`Exchange::say`] ends the exchange.
    async fn deliver<C: Carrier>(&mut self, carrier: &mut C, clean: Clean<'s>) -> Next {
        match clean.route.deliver.as_ref().map(|deliver| deliver.mode) {
            None => self.forward(carrier, clean).await,
            Some(DeliverMode::Queue) => self.enqueue(carrier, clean).await,
            Some(DeliverMode::Deadline(wait)) => self.forward_in_time(carrier, clean, wait).await,
        }
    }

    /// The sender is told as soon as its event is durable; the backend hears of it in the background.
    async fn enqueue<C: Carrier>(&mut self, carrier: &mut C, mut clean: Clean<'s>) -> Next {
        let body = Bytes::copy_from_slice(carrier.body());
        carrier.drop_body();
        let event = self.event_of(carrier, &clean, body);
        match self.store(&mut clean, &event, None).await {
            Ok(_) => self.acknowledge(carrier, &clean.route).await,
            Err(reject) => self.refuse(carrier, reject).await,
        }
    }

    fn event_of<C: Carrier>(&self, carrier: &C, clean: &Clean<'_>, body: Bytes) -> Event {
        let (verified, route) = (clean.admitted.verified, &clean.route);
        let head = carrier.head();
        let mut event = delivery::event_of(&head, body, route, &self.trail, self.id.as_str(), verified, self.now);
        let upstream = route.forward(self.trail.branch).upstream;
        if upstream != route.forward.upstream {
            event.lane = self.policy.upstreams.get(upstream).map(|upstream| (&*upstream.name).into());
        }
        if let Some(trace) = &self.trace {
            trace.mark(&mut event, route);
        }
        event
    }

    /// Makes an event durable.
    async fn store(
        &mut self,
        clean: &mut Clean<'s>,
        event: &Event,
        hold: Option<Duration>,
    ) -> Result<Option<(Receipt, Arc<OpenQueue>)>, Reject> {
        let Some(open) = self.shared.queues.of(self.policy, &clean.route, self.trail.branch) else {
            return Err(Reason::QueueUnavailable.because("the queue is not open"));
        };
        self.enter(Stage::Enqueue);
        let begun = Instant::now();
        let stored = clean.admitted.enqueue(&*open.queue, event, hold, Now::read()).await;
        self.shared.metrics.queues.enqueued(&open.name, begun.elapsed());
        let other = open.too_large.as_ref().and_then(|name| self.shared.queues.by_name(name));
        match (stored, other) {
            (Err(reject), Some(other)) if reject.reason == Reason::BodyTooLarge => {
                // Without a hold: an attempt that runs could not find it there. It is made once more in the background.
                let begun = Instant::now();
                let stored = clean.admitted.enqueue(&*other.queue, event, None, Now::read()).await;
                self.shared.metrics.queues.enqueued(&other.name, begun.elapsed());
                stored.map(|_| None)
            }
            (stored, _) => stored.map(|receipt| receipt.map(|receipt| (receipt, open.clone()))),
        }
    }

    async fn acknowledge<C: Carrier>(&mut self, carrier: &mut C, route: &Route) -> Next {
        let answer = route.manners.acknowledge(route.answers.accepted);
        let (how, status, detail) = (How::Queued, answer.status, "".into());
        self.say(carrier, &answer, |complete| Ending::Answered { how, status, detail, complete }).await
    }

    /// The backend answers, if it does so within `wait`. Otherwise the event is made durable, the sender told, and the
    /// attempt that runs may still settle it.
    async fn forward_in_time<C: Carrier>(&mut self, carrier: &mut C, mut clean: Clean<'s>, wait: Duration) -> Next {
        let (shared, live) = (self.shared, self.policy);
        let route = clean.route.clone();
        let retry = route.deliver.as_ref().map(|deliver| deliver.retry.clone()).unwrap_or_default();
        let Some(client) = live.upstream(route.forward(self.trail.branch).upstream).cloned() else {
            return self.refuse(carrier, Reason::Internal.because("route without upstream")).await;
        };
        let target = shared.queues.target(client.upstream());
        // A backend that is down is probed in the background, not by every sender.
        if target.circuit.lock().look(self.now.instant) != Leave::Go {
            return self.enqueue(carrier, clean).await;
        }
        self.enter(Stage::Forward);
        let begun = Instant::now();
        let body = Bytes::copy_from_slice(carrier.body());
        carrier.drop_body();
        let traced = self.traced(&route);
        let mut own = vec![("hookmoat-attempt", "1")];
        own.extend(traced.iter().map(|(name, value)| (*name, value.as_str())));
        let mut bytes = Vec::with_capacity(2048);
        let (is_head, idempotent) = {
            let head = carrier.head();
            let told = forward::Told {
                request_id: self.id.as_str(),
                verified: clean.admitted.verified,
                body_length: body.len(),
                own: &own,
            };
            forward::head(&mut bytes, &head, &route, client.upstream(), &self.trail, &told);
            (head.method == "HEAD", forward::is_idempotent(head.method))
        };
        let longest = retry.timeout.min(client.upstream().timeout);
        let running = shared.queues.start();
        // On its own, so that it goes on when the sender has been told.
        let mut exchange = tokio::spawn({
            let body = body.clone();
            async move {
                let mut timer = Timer::default();
                let until = begun + longest;
                (client.exchange(&bytes, &body, is_head, idempotent, &mut timer, until).await, running)
            }
        });
        let until = self.started + wait;
        let mut answered = self.scratch.timer.within(until, &mut exchange).await;
        if answered.is_err() {
            let event = self.event_of(carrier, &clean, body.clone());
            // As many of them as this may go on at once. What each holds of the memory for bodies it takes along.
            let place = shared.queues.late.clone().try_acquire_owned().ok();
            let hold = place.as_ref().map(|_| longest + LATE_MARGIN);
            match self.store(&mut clean, &event, hold).await {
                Ok(receipt) => {
                    shared.metrics.queues.late(&route.name);
                    match (receipt, place, shared.arc()) {
                        (Some(receipt), Some(place), Some(shared)) => {
                            let none = self.shared.body_memory.hold();
                            let bytes = std::mem::replace(&mut clean.held, none).keep();
                            let kept = Kept { shared: shared.clone(), bytes };
                            tokio::spawn(late(shared, event, retry, receipt, exchange, begun, (place, kept)));
                        }
                        _ => exchange.abort(),
                    }
                    return self.acknowledge(carrier, &route).await;
                }
                // A copy has been stored before: the sender is told so, and needs this attempt no more than that one.
                Err(reject) if reject.reason == Reason::Duplicate => {
                    exchange.abort();
                    return self.refuse(carrier, reject).await;
                }
                // Nothing is safe: all that is left is the backend's answer, for as long as a request may take.
                Err(reject) => {
                    let until = self.started + self.policy.timeouts.total;
                    answered = self.scratch.timer.within(until, &mut exchange).await;
                    if answered.is_err() {
                        exchange.abort();
                        clean.admitted.settle(Outcome::Failed, Instant::now().into_std()).await;
                        return self.refuse(carrier, reject).await;
                    }
                }
            }
        }
        match answered {
            Ok(Ok((Ok(response), running))) => {
                let met = Met::Answer(response.head.status.as_u16(), None);
                attempt::note(&target, &met);
                let next = self.relay(carrier, clean.admitted, response, &route, begun).await;
                drop(running);
                next
            }
            Ok(Ok((Err(error), running))) => {
                drop(running);
                attempt::note(&target, &attempt::met(&error));
                self.backend = Some(begun.elapsed());
                // No answer, and time left: the event is as safe in the queue as if the backend had been slow.
                let event = self.event_of(carrier, &clean, body);
                match self.store(&mut clean, &event, None).await {
                    Ok(_) => self.acknowledge(carrier, &route).await,
                    Err(reject) if reject.reason == Reason::Duplicate => self.refuse(carrier, reject).await,
                    Err(_) => {
                        clean.admitted.settle(Outcome::Failed, Instant::now().into_std()).await;
                        self.refuse(carrier, reject_of(&error)).await
                    }
                }
            }
            Ok(Err(_)) | Err(_) => self.refuse(carrier, Reason::Internal.because("the attempt vanished")).await,
        }
    }

    async fn forward<C: Carrier>(&mut self, carrier: &mut C, clean: Clean<'s>) -> Next {
        let Clean { admitted, route, held } = clean;
        self.enter(Stage::Forward);
        let traced = self.traced(&route);
        let begun = Instant::now();
        let deadline = self.started + self.policy.timeouts.total;
        let Some(client) = self.policy.upstream(route.forward(self.trail.branch).upstream) else {
            return self.refuse(carrier, Reason::Internal.because("route without upstream")).await;
        };
        let Scratch { timer, head: bytes, .. } = &mut *self.scratch;
        let (is_head, idempotent) = {
            let (head, body_length) = (carrier.head(), carrier.body().len());
            let own: Vec<_> = traced.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let told =
                forward::Told { request_id: self.id.as_str(), verified: admitted.verified, body_length, own: &own };
            bytes.clear();
            forward::head(bytes, &head, &route, client.upstream(), &self.trail, &told);
            (head.method == "HEAD", forward::is_idempotent(head.method))
        };
        let mut body = carrier.body();
        if body.len() <= COPIED {
            bytes.extend_from_slice(body);
            body = &[];
        }
        let answered = client.exchange(bytes, body, is_head, idempotent, timer, deadline).await;
        carrier.drop_body();
        drop(held);
        match answered {
            Ok(response) => self.relay(carrier, admitted, response, &route, begun).await,
            Err(error) => {
                let now = Instant::now();
                self.backend = Some(now - begun);
                admitted.settle(Outcome::Failed, now.into_std()).await;
                self.refuse(carrier, reject_of(&error)).await
            }
        }
    }

    /// Passes the backend's answer on. The claim is settled before the last byte goes out, so that a sender that comes
    /// back at once meets the result.
    async fn relay<C: Carrier>(
        &mut self,
        carrier: &mut C,
        admitted: Admitted<'s>,
        mut response: Response,
        route: &Route,
        begun: Instant,
    ) -> Next {
        let id = self.id;
        let status = response.head.status;
        let gone = status == StatusCode::GONE && !route.forward(self.trail.branch).pass_gone;
        let to_head = carrier.method() == "HEAD";
        let (mut head_written, mut sender_there) = (false, true);
        let mut reads = 0;
        self.scratch.part.clear();
        let failure = loop {
            match response.next(&mut self.scratch.timer).await {
                Ok(Some(_)) if gone => {}
                Ok(Some(part)) => {
                    let waited = std::mem::replace(&mut reads, response.reads()) != response.reads();
                    if !self.scratch.part.is_empty() && (waited || self.scratch.part.len() >= PART) {
                        // The answer comes in parts, and so it goes on.
                        let head = (!head_written).then(|| backend_head(&response, &id, streamed(&response)));
                        head_written = true;
                        let until = self.patience();
                        let Scratch { timer, part, .. } = &mut *self.scratch;
                        sender_there = sender_there && carrier.write(head, part, false, timer, until).await.is_ok();
                        part.clear();
                    }
                    self.scratch.part.extend_from_slice(response.part(part));
                }
                Ok(None) => break None,
                Err(error) => break Some(error),
            }
        };
        let now = Instant::now();
        self.backend = Some(now - begun);
        let outcome = if status.is_success() && failure.is_none() { Outcome::Done } else { Outcome::Failed };
        if !admitted.settle(outcome, now.into_std()).await && outcome == Outcome::Done {
            self.shared.metrics.claims_lost.inc();
        }
        let backend = status.as_u16();
        match failure {
            // Nothing went out yet: the sender gets a clean 502 or 504.
            Some(error) if !head_written => return self.refuse(carrier, reject_of(&error)).await,
            // Cut: the sender must see that the answer is not whole.
            Some(error) => {
                tracing::debug!(target: "hookmoat", %error, "answer cut");
                self.tell(carrier, Ending::Forwarded { backend, sent: backend, complete: false });
                return Next::Abort;
            }
            None if gone => {
                let reject = Reason::BackendBroken.because("backend answered 410 Gone; pass_gone is off");
                let answer = answer::to_refusal(&reject, Some(route), self.id.as_str(), &[], None);
                let sent = answer.status;
                return self.say(carrier, &answer, |complete| Ending::Forwarded { backend, sent, complete }).await;
            }
            None => {}
        }
        let until = self.patience_from(now);
        let Scratch { timer, part, .. } = &mut *self.scratch;
        let length = match status.as_u16() {
            204 | 304 => Length::Untold,
            _ if to_head => response.head.declared.map_or(Length::Untold, Length::Known),
            _ => Length::Known(part.len() as u64),
        };
        let head = (!head_written).then(|| backend_head(&response, &id, length));
        let complete = sender_there && carrier.write(head, part, true, timer, until).await.is_ok();
        self.tell(carrier, Ending::Forwarded { backend, sent: backend, complete });
        if complete { Next::Reuse } else { Next::Abort }
    }

    /// Gives the answer that the pipeline made: to a handshake, or to an event that nobody wants.
    async fn answer<C: Carrier>(&mut self, carrier: &mut C, answered: Answered) -> Next {
        let Answered { answer, how, detail, handed, visit } = answered;
        if !handed.is_empty()
            && let Err(reject) = keep::keep(&self.trail, &detail, handed, self.now).await
        {
            return self.refuse(carrier, reject).await;
        }
        if let Some(url) = visit
            && let Err(error) = self.shared.fetching.visit(&url).await
        {
            let detail = format!("{detail}: {} was not visited: {error}", url.host());
            return self.refuse(carrier, Reason::ConfirmationFailed.because(detail)).await;
        }
        let unread = !carrier.is_read();
        let waits = carrier.head().headers.has(&header::EXPECT) && !self.continued && carrier.http() != Http::V2;
        if unread {
            carrier.close_after();
        }
        let status = answer.status;
        let next = self.say(carrier, &answer, |complete| Ending::Answered { how, status, detail, complete }).await;
        if next == Next::Reuse && unread && !waits {
            carrier.drain(DRAIN_BYTES, &mut self.scratch.timer, Instant::now() + DRAIN_TIME).await;
        }
        next
    }

    /// Answers a refusal whose request was parsed.
    async fn refuse<C: Carrier>(&mut self, carrier: &mut C, reject: Reject) -> Next {
        let unread = !carrier.is_read();
        let route = self.trail.route.as_deref();
        let head = carrier.head();
        let location = match route {
            Some(route) if reject.reason == Reason::HttpsRequired && route.https == Https::Redirect => {
                let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
                Some(format!("https://{}{}{query}", without_port(head.host), head.path))
            }
            _ => None,
        };
        // Such a sender has not begun with its body, and will not.
        let waits = head.headers.has(&header::EXPECT) && !self.continued && carrier.http() != Http::V2;
        let over = matches!(
            reject.reason,
            Reason::Malformed | Reason::ClientTimeout | Reason::ClientGone | Reason::AddressDenied
        );
        if unread || over {
            carrier.close_after();
        }
        let answer = answer::to_refusal(&reject, route, self.id.as_str(), &self.trail.allowed_methods, location);
        let status = answer.status;
        let to_head = carrier.method() == "HEAD";
        let complete = self.write(carrier, &answer, to_head).await;
        if let Some(route) = self.trail.route.as_ref().filter(|route| route.subject.is_some()) {
            self.ended = Some(self.started.elapsed());
            let body = self.whole.then(|| carrier.body());
            let diagnoses = &self.shared.diagnoses;
            let made = diagnoses.of(route, reject.reason, self.trail.client, &carrier.head(), body, self.now).await;
            self.trail.diagnosed = made;
        }
        self.tell(carrier, Ending::Refused { reject, status });
        let next = if complete { Next::Reuse } else { Next::Abort };
        if next == Next::Reuse && unread && !over && !waits {
            carrier.drain(DRAIN_BYTES, &mut self.scratch.timer, Instant::now() + DRAIN_TIME).await;
        }
        next
    }

    /// Answers a refusal whose head could not even be parsed.
    pub(super) async fn refuse_unread<C: Carrier>(mut self, carrier: &mut C, reject: Reject) {
        self.shared.metrics.carried(C::WAY == Way::Lean);
        carrier.close_after();
        self.trail.client = client_ip(&carrier.peer(), &Headers::List(&[]), &self.policy.trusted_proxies).ok();
        let answer = answer::to_refusal(&reject, None, self.id.as_str(), &[], None);
        let status = answer.status;
        let _ = self.write(carrier, &answer, false).await;
        self.event("OTHER", "1", Ending::Refused { reject, status });
    }

    /// Gives an answer of our own, with the exchange's event.
    async fn say<C: Carrier>(
        &mut self,
        carrier: &mut C,
        answer: &Answer,
        ending: impl FnOnce(bool) -> Ending + Send,
    ) -> Next {
        let to_head = carrier.method() == "HEAD";
        let complete = self.write(carrier, answer, to_head).await;
        self.tell(carrier, ending(complete));
        if complete { Next::Reuse } else { Next::Abort }
    }

    /// Writes an answer of our own; false: the sender does not take it.
    async fn write<C: Carrier>(&mut self, carrier: &mut C, answer: &Answer, to_head: bool) -> bool {
        let length = match answer.status {
            204 | 304 => Length::Untold,
            _ => Length::Known(answer.body.len() as u64),
        };
        let until = self.patience();
        let fields = Fields::Ours(&answer.fields);
        let head = AnswerHead { status: answer.status, fields, length, request_id: self.id.as_str() };
        let body = if to_head || length == Length::Untold { &[][..] } else { &answer.body };
        carrier.write(Some(head), body, true, &mut self.scratch.timer, until).await.is_ok()
    }

    /// A stage begins, for the trace.
    fn enter(&mut self, stage: Stage) {
        if let Some(trace) = &mut self.trace {
            trace.enter(stage);
        }
    }

    /// Fields for the backend that name its place in the trace.
    fn traced(&self, route: &Route) -> Vec<(&'static str, String)> {
        self.trace.as_ref().map(|trace| trace.fields(Stage::Forward, route)).unwrap_or_default()
    }

    /// Until when the sender may take in what we write. Neither version of HTTP bounds that below us.
    fn patience(&self) -> Instant {
        self.patience_from(Instant::now())
    }

    fn patience_from(&self, now: Instant) -> Instant {
        (self.started + self.policy.timeouts.total).max(now + LAST_WORD)
    }

    fn tell<C: Carrier>(&self, carrier: &C, ending: Ending) {
        let method = match carrier.method() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT" | "TRACE") => known,
            _ => "OTHER",
        };
        self.event(method, carrier.http().name(), ending);
    }

    fn event(&self, method: &str, http: &'static str, ending: Ending) {
        let total = self.ended.unwrap_or_else(|| self.started.elapsed());
        let trace_id = self.trace.as_ref().and_then(|trace| trace.trace_id());
        let event = RequestEvent {
            id: self.id.as_str(),
            arrived: self.now.unix,
            trace_id: trace_id.as_deref(),
            recorded: self.trace.as_ref().is_some_and(|trace| trace.is_recorded()),
            method,
            http,
            trail: &self.trail,
            ending,
            bytes: self.bytes,
            body: self.body,
            backend: self.backend,
            total,
            at: self.now.unix + total,
        };
        event.emit(&self.shared.metrics, self.policy.log.requests_of(self.id.number));
        if let Some(recent) = &self.shared.recent {
            recent.note(&event);
        }
        if let (Some(tracer), Some(trace)) = (&self.shared.tracer, &self.trace) {
            tracer.finish(trace, &event);
        }
    }
}

/// An answer that goes out before all of it is there: the length where the backend told it, else parts.
fn streamed(response: &Response) -> Length {
    response.head.declared.map_or(Length::Streamed, Length::Known)
}

/// Memory for the body of a request that was answered, while its attempt goes on.
struct Kept {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.shared.body_memory.give_back(self.bytes);
    }
}

/// The end of an attempt whose event was queued in the middle of it.
async fn late(
    shared: Arc<Shared>,
    event: Event,
    retry: Retry,
    (receipt, queue): (Receipt, Arc<OpenQueue>),
    exchange: JoinHandle<(Result<Response, ExchangeError>, Running)>,
    begun: Instant,
    place: (OwnedSemaphorePermit, Kept),
) {
    let live = shared.live();
    let (met, running) = match exchange.await {
        Ok((Ok(response), running)) => (attempt::read(response, &mut Timer::default()).await, Some(running)),
        Ok((Err(error), running)) => (attempt::met(&error), Some(running)),
        Err(_) => (Met::Nothing(Trouble::Broken, "the attempt vanished".into()), None),
    };
    let route = live.route(&event.route);
    let upstream = |route: &Arc<Route>| {
        let forward = route.forward(route.branch_of(event.event_type.as_deref()));
        live.upstreams.get(forward.upstream).cloned()
    };
    if let Some(upstream) = &route.as_ref().and_then(upstream) {
        attempt::note(&shared.queues.target(upstream), &met);
    }
    let age = Now::read().unix.saturating_sub(event.received);
    let settlement = plan::settlement(&met, &retry, 1, age, attempt::chance());
    attempt::finish(&shared, &live, &queue, &event, 1, receipt, settlement, Some((met, begun.elapsed()))).await;
    drop((place, running));
}

fn backend_head<'a>(response: &'a Response, id: &'a RequestId, length: Length) -> AnswerHead<'a> {
    AnswerHead {
        status: response.head.status.as_u16(),
        fields: Fields::Backend(response),
        length,
        request_id: id.as_str(),
    }
}

fn reject_of(error: &ExchangeError) -> Reject {
    let reason = match error {
        ExchangeError::Unreachable(..) => Reason::BackendUnreachable,
        ExchangeError::Broken(..) => Reason::BackendBroken,
        ExchangeError::Timeout(..) => Reason::BackendTimeout,
    };
    reason.because(error.to_string())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}
