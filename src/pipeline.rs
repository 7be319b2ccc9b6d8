//! The order of the checks, as plain code, and the evidence that a request went through them.
//!
//! ```text
//! screen   head shape → route → HTTPS → client address → allowlist → client certificate → rate (before) → handshakes
//!          without a signature → route's shape → size → signature header and timestamp   nothing of the body is read
//! verify   signature over the whole body → handshakes → event type → rate (after)   nobody was told of the body
//! admit    claim of the event's ID                                 only now may the backend hear of it
//! settle   done on the backend's 2xx, given back on anything else
//! ```
//!
//! Cheap before dear, and nothing that an unauthenticated sender does may spend an honest sender's budget or touch the
//! memory of IDs. The only maker of an [`Admitted`] is this file, and only an `Admitted` can be forwarded or
//! queued.

use crate::answer::Answer;
use crate::check::client_certificate;
use crate::check::client_ip::client_ip;
use crate::check::duplicate::{EventId, NamedKeys};
use crate::check::handshake::{Handshakes, MAX_UNSIGNED_BODY, Reply};
use crate::check::https::is_secure;
use crate::check::ramp;
use crate::check::rate_limit::Limit;
use crate::check::shape::{self, Declared};
use crate::check::signature::fetched::Wanted;
use crate::check::signature::{SignatureCheck, Verification, Verified};
use crate::fetch::target::Target;
use crate::policy::{Authentication, DuplicateFailure, Https, Observable, Policy, RateLimitFailure, Route};
use crate::port::queue::{Enqueued, Event, Queue, QueueError, Receipt};
use crate::port::redis::{Bucket, RedisState};
use crate::port::seen::{Claim, Hold, Keys, Outcome, SeenIds, Terms, Token};
use crate::reject::{Reason, Reject};
use crate::request::{ClientIp, Head, Now, Peer};
use crate::runtime::State;
use crate::secret::SecretBytes;
use crate::telemetry::state::{Decision, Kind};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What happened so far, for the answer, the log line and the counters. Filled in as far as a request gets.
#[derive(Debug, Default)]
pub struct Trail {
    /// The route, once one was found.
    pub route: Option<Arc<Route>>,
    /// The client's address, once it is known.
    pub client: Option<ClientIp>,
    /// Did the sender use https all the way?
    pub secure: bool,
    /// For a 405: the methods that the path has.
    pub allowed_methods: Vec<String>,
    /// For checks that refuse only some requests.
    pub draw: u8,
    /// Checks that would have refused but only observe.
    pub observed: Vec<(Observable, Reject)>,
    /// The event's ID, as text that is safe to log.
    pub event_id: Option<Box<str>>,
    /// Why the signature was refused, where the route asks for it.
    pub diagnosed: Option<Box<Diagnosed>>,
    /// The event's type, as text that is safe to log.
    pub event_type: Option<Box<str>>,
    /// Which of the types that the route wants it is, for the counter.
    pub wanted: Option<usize>,
    /// Which of the route's branches it takes; `None`: the route's own `forward`.
    pub branch: Option<usize>,
}

/// What was found out about a refused signature. Fit for the log: no secret, no signature, no body.
#[derive(Debug)]
pub struct Diagnosed {
    /// What would have made it verify.
    pub diagnosis: String,
    /// What the request looked like.
    pub capture: String,
}

impl Trail {
    /// Lets an observed check pass, with a note; everything else stays a refusal.
    fn judge<T>(&mut self, route: &Route, check: Observable, result: Result<T, Reject>) -> Result<Option<T>, Reject> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(reject) if route.observed.lets_pass(check, self.draw) => {
                self.observed.push((check, reject));
                Ok(None)
            }
            Err(reject) => Err(reject),
        }
    }
}

/// Why a request goes no further.
#[derive(Debug)]
pub enum Stop {
    /// It is refused.
    Refused(Reject),
    /// It is answered here, and that is all that the sender wants.
    Answered(Box<Answered>),
}

/// A request that is answered here.
#[derive(Debug)]
pub struct Answered {
    /// What the sender gets.
    pub answer: Answer,
    /// For the counter.
    pub how: How,
    /// For the log.
    pub detail: Cow<'static, str>,
    /// To be kept for the operator before the sender hears anything.
    pub handed: Vec<(String, SecretBytes)>,
    /// To be visited before the sender hears anything.
    pub visit: Option<Target>,
}

/// Why a request is answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The sender asked whether the URL is right.
    Handshake,
    /// An event of a type that the route does not want.
    Ignored,
    /// An event that is durable in a queue.
    Queued,
}

impl How {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Handshake, Self::Ignored, Self::Queued];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Handshake => "handshake",
            Self::Ignored => "ignored",
            Self::Queued => "queued",
        }
    }
}

impl From<Reject> for Stop {
    fn from(reject: Reject) -> Self {
        Self::Refused(reject)
    }
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        let Reply { exchange, answer, handed, visit } = reply;
        let detail = String::from(exchange).into();
        Self::Answered(Box::new(Answered { answer, how: How::Handshake, detail, handed, visit }))
    }
}

/// Evidence: the head may send a body.
#[derive(Debug)]
pub struct Screened<'p> {
    /// The request's route.
    pub route: &'p Route,
    /// What the head says of the body.
    pub declared: Declared,
    client: ClientIp,
    verification: Option<Verification<'p>>,
    /// No signature stands there, and only a handshake that needs none could save the request.
    unsigned: Option<Reject>,
}

/// Everything that the head alone decides.
///
/// On plain HTTP where the route wants a redirect, the refusal is `https_required` and the caller looks at the route.
pub async fn screen<'p>(
    policy: &'p Policy,
    state: &State,
    head: &Head<'_>,
    peer: &Peer,
    now: Now,
    trail: &mut Trail,
) -> Result<Screened<'p>, Stop> {
    // Not judged yet, but the log names whoever is refused.
    let client = client_ip(peer, &head.headers, &policy.trusted_proxies);
    trail.client = client.as_ref().ok().copied();
    // Whoever connects is asked this at the door. The list may have changed since.
    if peer.address.is_some_and(|address| policy.connections.deny.contains(address)) {
        return Err(Reject::from(Reason::AddressDenied).into());
    }
    // What cannot be read in exactly one way is not looked at any further.
    let declared = shape::head(head, &policy.limits)?;
    // The route names the rules; nothing else is known about a request without one.
    let route = match policy.routes.find(head) {
        Ok(route) => route,
        Err((reject, methods)) => {
            trail.allowed_methods = methods.into_iter().map(String::from).collect();
            return Err(reject.into());
        }
    };
    trail.route = Some(route.clone());
    if route.observed.is_ramped() {
        trail.draw = ramp::draw(route, head, trail.client);
    }
    // Before anything of the sender is believed: is somebody reading along?
    trail.secure = is_secure(peer, &head.headers, &policy.trusted_proxies);
    if !trail.secure && route.https != Https::Allow {
        trail.judge::<()>(route, Observable::Https, Err(Reason::HttpsRequired.into()))?;
    }
    // Who is it? Needed by the allowlist, the limits and the log.
    let client = client?;
    // Cheaper than a bucket, and a stranger must not make one.
    trail.judge(route, Observable::Allow, route.allow.check(client))?;
    // The other proof of who the sender is: it was made before the request, and costs a comparison.
    let shown = client_certificate::check(&route.client_certificates, peer.identity.as_deref());
    trail.judge(route, Observable::Allow, shown)?;
    // Before any of the sender's bytes are held or hashed.
    take(&route.limits_before, state, route, client, head, now, trail).await?;
    // Unsigned questions of the sender have forms of their own. While a secret is missing they are not answered, since
    // the sender would begin to send what nobody can verify; unless it is the secret that they bring.
    if let Some(handshakes) = route.handshakes.as_deref()
        && let Some(reply) = match &route.authentication {
            Authentication::NoSecret(_) => handshakes.of_first_head(head, now)?,
            _ => handshakes.of_head(head, now)?,
        }
    {
        return Err(reply.into());
    }
    if let Some(methods) = &route.methods
        && !methods.iter().any(|method| **method == *head.method)
        && !route.handshakes.as_deref().is_some_and(|handshakes| handshakes.may_follow_signed(head))
    {
        trail.allowed_methods = methods.iter().map(|method| method.to_string()).collect();
        return Err(Reject::from(Reason::MethodNotAllowed).into());
    }
    // Nobody would check what came behind it. Where nothing is verified, it is left out.
    if declared.upgrades && !matches!(route.authentication, Authentication::None) {
        let why = "the sender asks for another protocol (Upgrade); let it speak plain HTTP/1.1, or HTTP/2 over TLS";
        return Err(Reason::Malformed.because(why).into());
    }
    trail.judge(route, Observable::Shape, shape::of_route(head, route))?;
    shape::size(&declared, route)?;
    // What the head says of the signature and its time, so that a forger's body is not even read.
    let mut unsigned = None;
    let verification = match &route.authentication {
        Authentication::Signature(check) => {
            let begun = check.begin(head, trail.secure, now);
            let could_ask = |handshakes: &Handshakes| handshakes.may_follow(head, declared.length);
            match begun {
                Err(reject) if route.handshakes.as_deref().is_some_and(could_ask) => {
                    unsigned = Some(reject);
                    None
                }
                begun => trail.judge(route, Observable::Signature, begun)?,
            }
        }
        Authentication::NoSecret(missing) => return Err(Reason::SecretMissing.because(missing.to_string()).into()),
        Authentication::None => None,
    };
    Ok(Screened { route, declared, client, verification, unsigned })
}

/// Counts the request in the buckets of these limits: in those of all replicas where there are such.
async fn take(
    limits: &[Limit],
    state: &State,
    route: &Route,
    client: ClientIp,
    head: &Head<'_>,
    now: Now,
    trail: &mut Trail,
) -> Result<(), Reject> {
    if limits.is_empty() {
        return Ok(());
    }
    match &state.shared {
        None => take_here(limits, state, route, client, head, now, trail),
        // In memory of its own: every request would copy the room for it, on whatever state.
        Some(shared) => Box::pin(take_shared(shared, limits, state, route, client, head, now, trail)).await,
    }
}

/// In the buckets of all replicas, in one step.
#[expect(clippy::too_many_arguments, reason = "all that a limit goes by")]
async fn take_shared(
    shared: &RedisState,
    limits: &[Limit],
    state: &State,
    route: &Route,
    client: ClientIp,
    head: &Head<'_>,
    now: Now,
    trail: &mut Trail,
) -> Result<(), Reject> {
    let bucket =
        |limit: &Limit| Bucket { name: limit.shared_name(client, head), interval: limit.interval, burst: limit.burst };
    let buckets: Vec<Bucket> = limits.iter().map(bucket).collect();
    let go_on = route.observed.lets_pass(Observable::RateLimit, trail.draw);
    match shared.take(route.group, &buckets, go_on).await {
        Ok(waits) => {
            for (limit, wait) in limits.iter().zip(waits) {
                let taken = if wait.is_zero() { Ok(()) } else { Err(limit.refuse(client, wait)) };
                trail.judge(route, Observable::RateLimit, taken)?;
            }
            Ok(())
        }
        Err(error) => {
            let degraded = |decision| state.metrics.degraded(&route.name, Kind::RateLimit, decision);
            match route.on_failure.rate_limit {
                RateLimitFailure::Local => {
                    degraded(Decision::Local);
                    take_here(limits, state, route, client, head, now, trail)
                }
                RateLimitFailure::Allow => {
                    degraded(Decision::Allow);
                    Ok(())
                }
                RateLimitFailure::Reject => {
                    degraded(Decision::Reject);
                    let reject = Reason::StateUnavailable.because(error.0).retry_after(BUSY_RETRY);
                    trail.judge::<()>(route, Observable::RateLimit, Err(reject)).map(drop)
                }
            }
        }
    }
}

fn take_here(
    limits: &[Limit],
    state: &State,
    route: &Route,
    client: ClientIp,
    head: &Head<'_>,
    now: Now,
    trail: &mut Trail,
) -> Result<(), Reject> {
    for limit in limits {
        trail.judge(route, Observable::RateLimit, state.buckets.take(limit, client, head, now.instant))?;
    }
    Ok(())
}

/// Evidence: the whole body is authentic, or the route does not ask, or only observes.
#[derive(Debug)]
pub struct Authentic<'p> {
    route: &'p Route,
    verified: Option<Verified>,
}

impl<'p> Screened<'p> {
    /// The next bytes of the body, in order.
    pub fn update(&mut self, chunk: &[u8]) {
        if let Some(verification) = &mut self.verification {
            verification.update(chunk);
        }
    }

    /// Bytes of the body that are worth reading: of one that no signature proves only what a question may have.
    pub fn max_body(&self) -> usize {
        let max = self.route.max_body;
        if self.unsigned.is_some() { max.min(MAX_UNSIGNED_BODY) } else { max }
    }

    /// What a body is refused for that could not be read: one that is larger than an unsigned question is none.
    pub fn unread(&mut self, reject: Reject) -> Reject {
        self.unsigned.take_if(|_| reject.reason == Reason::BodyTooLarge).unwrap_or(reject)
    }

    /// The sender's public key, where it has to be fetched before [`Screened::verify`].
    pub fn wanted(&self, head: &Head<'_>, body: &[u8], now: Now) -> Option<Wanted> {
        self.verification.as_ref()?.wanted(head, body, now)
    }

    /// The verdict over the whole body, and the limits that only authentic requests count for.
    pub async fn verify(
        self,
        state: &State,
        head: &Head<'_>,
        body: &[u8],
        now: Now,
        trail: &mut Trail,
    ) -> Result<Authentic<'p>, Stop> {
        let route = self.route;
        let handshakes = route.handshakes.as_deref();
        let finished = match (self.verification, self.unsigned) {
            (Some(verification), _) => verification.finish(head, body, now).map(Some),
            (None, Some(reject)) => Err(reject),
            (None, None) => Ok(None),
        };
        // Some senders ask before they know the secret.
        if let (Some(handshakes), Err(_)) = (handshakes, &finished)
            && let Some(reply) = handshakes.of_unsigned(head, body, now)?
        {
            return Err(reply.into());
        }
        let verified = trail.judge(route, Observable::Signature, finished)?.flatten();
        // An unverified request under an observed signature is nobody's question.
        if let Some(handshakes) = handshakes
            && (verified.is_some() || matches!(route.authentication, Authentication::None))
            && let Some(reply) = handshakes.of_verified(head, body, now)?
        {
            return Err(reply.into());
        }
        if let Some(methods) = &route.methods
            && !methods.iter().any(|method| **method == *head.method)
        {
            trail.allowed_methods = methods.iter().map(|method| method.to_string()).collect();
            return Err(Reject::from(Reason::MethodNotAllowed).into());
        }
        classify(route, head, body, trail)?;
        // A forger behind an observed signature must not spend the honest sender's budget.
        if verified.is_some() || matches!(self.route.authentication, Authentication::None) {
            take(&self.route.limits_after, state, self.route, self.client, head, now, trail).await?;
        }
        Ok(Authentic { route: self.route, verified })
    }
}

/// What kind of event is it, does the route want it, and where does it go?
fn classify(route: &Route, head: &Head<'_>, body: &[u8], trail: &mut Trail) -> Result<(), Stop> {
    let types = &route.event_types;
    let matters = types.wanted.is_some() || !route.branches.is_empty();
    trail.event_type = types.read(head, body, matters)?;
    let kind = trail.event_type.as_deref();
    if let Some(wanted) = &types.wanted {
        trail.wanted = wanted.find(kind);
        if trail.wanted.is_none() {
            let detail = kind.map_or("the event has no type".into(), |kind| format!("event type {kind}").into());
            let answer = route.manners.acknowledge(route.answers.accepted);
            return Err(Stop::Answered(Box::new(Answered {
                answer,
                how: How::Ignored,
                detail,
                handed: Vec::new(),
                visit: None,
            })));
        }
    }
    trail.branch = route.branch_of(kind);
    Ok(())
}

/// Evidence: a clean request, seen for the first time. It alone can be forwarded.
///
/// Dropping it without [`Admitted::settle`] gives the claim back: a cancelled request, a panic and a shutdown leave
/// nothing behind that would refuse the sender's retry.
#[derive(Debug)]
pub struct Admitted<'s> {
    /// Was a signature verified (not merely observed, not switched off)?
    pub verified: bool,
    claim: Option<Claimed>,
    state: &'s State,
}

/// What an admitted request has claimed, and where.
#[derive(Debug)]
enum Claimed {
    /// In the store. The hold lets the claim live as long as the request.
    Kept(Token, Option<Hold>),
    /// In the memory of this process, while the store is away.
    Here(Token),
}

impl Authentic<'_> {
    /// Was a signature verified (not merely observed, not switched off)?
    pub fn is_verified(&self) -> bool {
        self.verified.is_some()
    }

    /// Claims the event's ID. Waits a short while for the result of a copy that is on its way.
    pub async fn admit<'s>(
        self,
        state: &'s State,
        keys: Option<NamedKeys>,
        patience: Duration,
        now: Now,
        trail: &mut Trail,
    ) -> Result<Admitted<'s>, Reject> {
        let verified = self.is_verified();
        let mut admitted = Admitted { verified, claim: None, state };
        let (Some(keys), Some(duplicates)) = (keys, &self.route.duplicates) else { return Ok(admitted) };
        let terms = Terms { lease: duplicates.lease, remember: duplicates.remember };
        let give_up = now.instant + patience;
        let mut at = now.instant;
        let mut here = false;
        loop {
            let claim = match here {
                false => state.seen.claim(&keys.keys, terms, at).await,
                true => Ok(state.fallback.claim_now(&keys.keys, terms, at)),
            };
            let reason = match claim {
                Ok(Claim::New(token)) => {
                    admitted.claim = Some(match here {
                        false => {
                            let hold = state.seen.hold(&token, terms.lease);
                            Claimed::Kept(token, hold)
                        }
                        true => Claimed::Here(token),
                    });
                    return Ok(admitted);
                }
                Ok(Claim::Duplicate) => Reason::Duplicate,
                Ok(Claim::Replayed) => Reason::Replayed,
                Ok(Claim::Full) => Reason::SeenIdsFull,
                Ok(Claim::InFlight) => {
                    let left = give_up.saturating_duration_since(at);
                    let waited = match here {
                        _ if left.is_zero() => Ok(false),
                        false => state.seen.wait(&keys.keys, left).await,
                        true => state.fallback.wait(&keys.keys, left).await,
                    };
                    if waited.unwrap_or(false) {
                        at = Now::read().instant;
                        continue;
                    }
                    Reason::DuplicateInFlight
                }
                Err(error) => {
                    let degraded = |decision| state.metrics.degraded(&self.route.name, Kind::Duplicates, decision);
                    match self.route.on_failure.duplicates {
                        DuplicateFailure::Reject => {
                            degraded(Decision::Reject);
                            let reject = Reason::StateUnavailable.because(error.0).retry_after(BUSY_RETRY);
                            return trail
                                .judge(self.route, Observable::Duplicates, Err(reject))
                                .map(|_: Option<()>| admitted);
                        }
                        DuplicateFailure::Allow => {
                            degraded(Decision::Allow);
                            return Ok(admitted);
                        }
                        DuplicateFailure::Local => {
                            degraded(Decision::Local);
                            here = true;
                            continue;
                        }
                    }
                }
            };
            let reject = Reason::because(reason, "");
            let reject = if reason.status() == 503 { reject.retry_after(BUSY_RETRY) } else { reject };
            return trail.judge(self.route, Observable::Duplicates, Err(reject)).map(|_: Option<()>| admitted);
        }
    }

    /// The names of the event, if the route remembers events and this one is authentic enough to be remembered: under
    /// an observed signature that failed, an ID may be anybody's and must not poison the memory.
    pub fn keys(&self, head: &Head<'_>, body: &[u8], trail: &mut Trail) -> Result<Option<NamedKeys>, Reject> {
        let Some(duplicates) = &self.route.duplicates else { return Ok(None) };
        let (content, covered) = match (&self.route.authentication, &self.verified) {
            (Authentication::Signature(check), Some(verified)) => {
                (verified.content(), is_covered(&duplicates.id, check))
            }
            (Authentication::None, None) => (&[][..], true),
            _ => return Ok(None),
        };
        let keys = duplicates.keys(&self.route.name, head, body, content, covered);
        let keys = trail.judge(self.route, Observable::Duplicates, keys)?.flatten();
        // Events that can meet under more than one name are kept together.
        let together = duplicates.replay_guard && !covered;
        let keys = keys.map(|named| {
            let group = together.then_some(self.route.group);
            NamedKeys { keys: Keys { group, ..named.keys }, ..named }
        });
        trail.event_id = keys.as_ref().and_then(|keys| keys.id.clone());
        Ok(keys)
    }
}

/// Can nobody change the ID without breaking the signature? All places count: a request without the covered one could
/// carry another.
fn is_covered(id: &EventId, check: &SignatureCheck) -> bool {
    match id {
        EventId::BodyDigest => check.covers_body(),
        EventId::Sources(sources) => sources.iter().all(|source| check.covers(source)),
    }
}

/// What a copy of an event in flight, or a sender at a full store, is told to wait.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// What a sender at a full or unreachable queue is told to wait.
const FULL_RETRY: Duration = Duration::from_secs(5);

impl Admitted<'_> {
    /// Makes the event durable in a queue, and the claim final: from here on it is safe, and nobody takes a copy for
    /// new. Fails with the sender's answer; then nothing was stored, or it is not known, and the claim is still held.
    pub async fn enqueue(
        &mut self,
        queue: &dyn Queue,
        event: &Event,
        hold: Option<Duration>,
        now: Now,
    ) -> Result<Option<Receipt>, Reject> {
        let claim = match &self.claim {
            Some(Claimed::Kept(token, _)) => Some(token),
            Some(Claimed::Here(_)) | None => None,
        };
        let enqueued = queue.enqueue(event, claim, hold, now).await;
        let (answer, remembered) = match enqueued {
            Ok(Enqueued::Stored { receipt, remembered }) => (Ok(receipt), remembered),
            // Stored by an earlier request whose claim was forgotten: with the memory of a process that ended.
            Ok(Enqueued::Duplicate) => (Err(Reason::Duplicate.because("it waits in the queue")), false),
            Err(QueueError::Full(why)) => return Err(Reason::QueueFull.because(why).retry_after(FULL_RETRY)),
            Err(QueueError::TooLarge(why)) => return Err(Reason::BodyTooLarge.because(why)),
            Err(QueueError::Unavailable(why) | QueueError::Unsupported(why)) => {
                return Err(Reason::QueueUnavailable.because(why).retry_after(FULL_RETRY));
            }
        };
        let token = self.claim.take();
        if !remembered && token.is_some() {
            Admitted { verified: self.verified, claim: token, state: self.state }
                .settle(Outcome::Done, now.instant)
                .await;
        }
        answer
    }

    /// Ends the claim: remembered on `Done`, given back on `Failed`. False: the lease had ended before, so that a copy
    /// may have been delivered as well.
    pub async fn settle(mut self, outcome: Outcome, now: Instant) -> bool {
        match self.claim.take() {
            None => true,
            Some(Claimed::Kept(token, hold)) => {
                // First, so that nothing is renewed that was settled.
                drop(hold);
                self.state.seen.settle(token, outcome, now).await.unwrap_or_else(|error| {
                    tracing::error!(target: "hookmoat", %error, "an event's claim could not be settled");
                    false
                })
            }
            Some(Claimed::Here(token)) => {
                if let (Outcome::Done, Some(shared)) = (outcome, &self.state.shared) {
                    shared.remember_later(Token { keys: token.keys.clone(), ..token });
                }
                self.state.fallback.settle_now(token, outcome, now)
            }
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        match self.claim.take() {
            None => {}
            Some(Claimed::Kept(token, hold)) => {
                drop(hold);
                self.state.seen.abandon(token);
            }
            Some(Claimed::Here(token)) => self.state.fallback.abandon(token),
        }
    }
}

#[cfg(test)]
mod tests;
