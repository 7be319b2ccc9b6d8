//! One request from its first byte to its event: reads the head, lets the pipeline judge, reads the body, and hands
//! what was admitted to the backend. The only place where pingora's session and our pipeline meet.

use super::answer::{self, Answer};
use super::body::{self, Held};
use super::edge::{Activity, Watched};
use super::upstream::{ExchangeError, Response};
use super::{Shared, forward, wire};
use crate::pipeline::{self, Admitted, Trail};
use crate::policy::{Https, Policy, Route};
use crate::port::seen::Outcome;
use crate::reject::{Reason, Reject};
use crate::request::{Head, Headers, Now, Peer};
use crate::telemetry::event::{Ending, RequestEvent};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use pingora::ErrorType;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora::server::ShutdownWatch;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout_at};

/// An early answer to a sender that is still uploading: how long and how much is read on, so that the answer is not
/// lost to a connection reset.
const DRAIN_TIME: Duration = Duration::from_millis(500);
const DRAIN_BYTES: usize = 2 << 20;
/// What a sender gets to take our answer in, even where `timeouts.total` is used up.
const LAST_WORD: Duration = Duration::from_secs(5);
/// HTTP/2 windows: the default of 64 KiB makes a megabyte wait for many round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// The application of every public listener.
pub(super) struct Gate {
    shared: Arc<Shared>,
    options: HttpServerOptions,
}

impl Gate {
    pub(super) fn new(shared: Arc<Shared>, policy: &Policy) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(policy.timeouts.idle);
        Self { shared, options }
    }
}

#[async_trait]
impl HttpServerApp for Gate {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let policy = self.shared.policy.load_full();
        // Requests that came early wait in the buffer for their turn; without this they are dropped with the connection.
        session.set_pipelining_enabled(true);
        match read_head(&mut session, &policy).await {
            HeadRead::Whole => {}
            HeadRead::Nothing => {
                session.shutdown().await;
                return None;
            }
            HeadRead::Refused(reject) => {
                Exchange::new(&self.shared, &policy).refuse_unread(&mut session, reject).await;
                session.shutdown().await;
                return None;
            }
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        } else if session.get_keepalive().is_some() {
            // Only ever shortened: pingora has switched it off where the connection must not be used again.
            session.set_keepalive(Some(policy.timeouts.idle.as_secs().max(1)));
        }
        match Exchange::new(&self.shared, &policy).run(&mut session).await {
            Next::Reuse => finish(session).await,
            Next::Abort => {
                session.set_keepalive(None);
                session.shutdown().await;
                None
            }
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options();
        options.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

enum HeadRead {
    Whole,
    /// Nothing worth an answer: closed, idle for too long, shutting down.
    Nothing,
    Refused(Reject),
}

/// Reads a head: `timeouts.idle` until its first byte, `timeouts.header` from there to its end.
///
/// A shutdown is not waited for here: connections without a request do not hold the process, which ends once nothing is
/// in flight, and listening for it would cost every request.
async fn read_head(session: &mut ServerSession, policy: &Policy) -> HeadRead {
    // The head of an HTTP/2 request is already there.
    let activity: Option<Activity> = session.stream().and_then(Watched::activity_of);
    let begun_with = activity.as_ref().map_or(0, |activity| activity.load(Ordering::Relaxed));
    let timeouts = policy.timeouts;
    let mut read = pin!(session.read_request());
    let mut timer = None;
    let mut begun = false;
    let result = poll_fn(|context| {
        if let Poll::Ready(result) = read.as_mut().poll(context) {
            return Poll::Ready(Some(result));
        }
        if !begun && activity.as_ref().is_some_and(|activity| activity.load(Ordering::Relaxed) != begun_with) {
            begun = true;
            timer = Some(Box::pin(sleep_until(Instant::now() + timeouts.header)));
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + timeouts.idle)));
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await;
    match result {
        Some(Ok(true)) => HeadRead::Whole,
        Some(Err(error)) if matches!(error.etype(), ErrorType::InvalidHTTPHeader) => {
            HeadRead::Refused(Reason::Malformed.because("head cannot be parsed"))
        }
        None if begun => HeadRead::Refused(Reason::ClientTimeout.because("head")),
        _ => HeadRead::Nothing,
    }
}

/// What becomes of the connection.
enum Next {
    /// The answer is whole; what is on the wire behind it may be the next request.
    Reuse,
    /// The answer is cut or could not be written: nothing more may look like a part of it.
    Abort,
}

/// One request with its answer.
struct Exchange<'s> {
    shared: &'s Arc<Shared>,
    policy: &'s Policy,
    id: String,
    now: Now,
    started: Instant,
    trail: Trail,
    bytes: u64,
    body: Duration,
    backend: Option<Duration>,
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

/// What the body phase left.
struct Read<'s> {
    body: Bytes,
    _held: Held<'s>,
}

impl<'s> Exchange<'s> {
    fn new(shared: &'s Arc<Shared>, policy: &'s Policy) -> Self {
        let now = Now::read();
        Self {
            shared,
            policy,
            id: shared.request_ids.next(),
            now,
            started: Instant::from_std(now.instant),
            trail: Trail::default(),
            bytes: 0,
            body: Duration::ZERO,
            backend: None,
            _in_flight: InFlight::new(shared),
        }
    }

    async fn run(mut self, session: &mut ServerSession) -> Next {
        match self.judge(session).await {
            Ok((admitted, read, route)) => self.forward(session, admitted, read, &route).await,
            Err(reject) => self.refuse(session, reject).await,
        }
    }

    /// Everything before the backend.
    async fn judge(&mut self, session: &mut ServerSession) -> Result<(Admitted<'s>, Read<'s>, Arc<Route>), Reject> {
        let shared: &'s Shared = self.shared;
        if let Some(http1) = session.as_http1() {
            wire::strict(&http1.get_headers_raw_bytes()).map_err(|why| Reason::Malformed.because(why))?;
        }
        let peer = peer_of(session);
        let mut screened = {
            let head = head_of(session)?;
            pipeline::screen(self.policy, &shared.state, &head, &peer, self.now, &mut self.trail)?
        };
        let route = self.trail.route.clone().ok_or_else(|| Reject::from(Reason::Internal))?;
        // Only HTTP/1.1: an HTTP/1.0 sender would take the 100 for the answer (RFC 9110 section 10.1.1).
        if screened.declared.expects_continue && session.req_header().version == Version::HTTP_11 {
            // Writing the 100 switches keep-alive off: pingora takes it for an early answer.
            let keepalive = session.get_keepalive();
            session
                .write_continue_response()
                .await
                .map_err(|_| Reason::ClientGone.because("while answering 100 Continue"))?;
            session.set_keepalive(keepalive);
        }
        let begun = Instant::now();
        let mut held = shared.body_memory.hold();
        let length = screened.declared.length;
        let reading = body::read(session, length, route.max_body, &mut held, self.policy.limits.body_memory, |chunk| {
            screened.update(chunk);
        });
        let body = timeout_at(begun + self.policy.timeouts.body, reading)
            .await
            .unwrap_or_else(|_| Err(Reason::ClientTimeout.because("body")));
        self.body = begun.elapsed();
        let body = match body {
            Ok(body) => body,
            Err(reject) => {
                // After a broken body the position in the stream is unknown: nothing on it may be taken for a request.
                session.set_keepalive(None);
                return Err(reject);
            }
        };
        self.bytes = body.len() as u64;
        let (authentic, keys) = {
            let head = head_of(session)?;
            let authentic = screened.verify(&shared.state, &head, &body, self.now, &mut self.trail)?;
            let keys = authentic.keys(&head, &body, &mut self.trail)?;
            (authentic, keys)
        };
        let patience = self.policy.timeouts.duplicate_wait;
        // The body took its time: what is claimed now is claimed from now on.
        let now = Now { instant: Instant::now().into_std(), unix: self.now.unix };
        let admitted = authentic.admit(&shared.state, keys, patience, now, &mut self.trail).await?;
        Ok((admitted, Read { body, _held: held }, route))
    }

    async fn forward(
        &mut self,
        session: &mut ServerSession,
        admitted: Admitted<'s>,
        read: Read<'s>,
        route: &Route,
    ) -> Next {
        let begun = Instant::now();
        let deadline = self.started + self.policy.timeouts.total;
        let Some(client) = self.shared.upstreams.get(route.forward.upstream) else {
            return self.refuse(session, Reason::Internal.because("route without upstream")).await;
        };
        let answered = {
            let head = match head_of(session) {
                Ok(head) => head,
                Err(reject) => return self.refuse(session, reject).await,
            };
            let told =
                forward::Told { request_id: &self.id, verified: admitted.verified, body_length: read.body.len() };
            let bytes = forward::head(&head, route, client.upstream(), &self.trail, &told);
            let (is_head, idempotent) = (head.method == "HEAD", forward::is_idempotent(head.method));
            client.exchange(&bytes, &read.body, is_head, idempotent, deadline).await
        };
        drop(read);
        match answered {
            Ok(response) => self.relay(session, admitted, response, route, begun).await,
            Err(error) => {
                let now = Instant::now();
                self.backend = Some(now - begun);
                admitted.settle(Outcome::Failed, now.into_std()).await;
                self.refuse(session, reject_of(&error)).await
            }
        }
    }

    /// Passes the backend's answer on. The claim is settled before the last byte goes out, so that a sender that comes
    /// back at once meets the result.
    async fn relay(
        &mut self,
        session: &mut ServerSession,
        admitted: Admitted<'s>,
        mut response: Response,
        route: &Route,
        begun: Instant,
    ) -> Next {
        let status = response.head.status;
        let gone = status == StatusCode::GONE && !route.forward.pass_gone;
        let mut header = Some(response_header(&mut response, &self.id));
        let mut pending: Option<Bytes> = None;
        let mut sender_there = true;
        let failure = loop {
            match response.chunk().await {
                Ok(Some(_)) if gone => {}
                Ok(Some(chunk)) => {
                    if let Some(earlier) = pending.replace(chunk) {
                        // More than one part: the head goes out with its own framing, the rest streams.
                        sender_there = sender_there && self.write(session, header.take(), earlier, false).await.is_ok();
                    }
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
        let (sent, header, last) = match (failure, header) {
            // Nothing went out yet: the sender gets a clean 502 or 504.
            (Some(error), Some(_)) => return self.refuse(session, reject_of(&error)).await,
            // Cut: the sender must see that the answer is not whole.
            (Some(error), None) => {
                tracing::debug!(target: "hookmoat", %error, "answer cut");
                self.tell(session, Ending::Forwarded { backend, sent: backend, complete: false });
                return Next::Abort;
            }
            (None, _) if gone => {
                let reject = Reason::BackendBroken.because("backend answered 410 Gone; pass_gone is off");
                match answer::to_refusal(&reject, Some(route), &self.id, &[], None) {
                    Ok(answer) => (answer.status, Some(Ok(answer.header)), answer.body),
                    Err(_) => return Next::Abort,
                }
            }
            (None, header) => {
                let last = pending.unwrap_or_default();
                let header = header.map(|header| header.map(|header| whole(header, session, status, last.len())));
                (backend, header, last)
            }
        };
        let complete = sender_there && self.write(session, header, last, true).await.is_ok();
        self.tell(session, Ending::Forwarded { backend, sent, complete });
        if complete { Next::Reuse } else { Next::Abort }
    }

    /// Answers a refusal whose request was parsed.
    async fn refuse(&mut self, session: &mut ServerSession, reject: Reject) -> Next {
        let route = self.trail.route.as_deref();
        let location = match route {
            Some(route) if reject.reason == Reason::HttpsRequired && route.https == Https::Redirect => {
                head_of(session).ok().map(|head| {
                    let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
                    format!("https://{}{}{query}", without_port(head.host), head.path)
                })
            }
            _ => None,
        };
        let waiting_for_continue =
            !session.is_http2() && session.get_header(header::EXPECT).is_some() && session.response_written().is_none();
        let unread = !session.is_body_done();
        let broken = matches!(reject.reason, Reason::Malformed | Reason::ClientTimeout | Reason::ClientGone);
        if unread || broken {
            session.set_keepalive(None);
        }
        let answer = answer::to_refusal(&reject, route, &self.id, &self.trail.allowed_methods, location);
        let Ok(Answer { status, header, mut body }) = answer else { return Next::Abort };
        if session.req_header().method == http::Method::HEAD {
            body = Bytes::new();
        }
        let written = self.write(session, Some(Ok(header)), body, true).await.is_ok();
        self.tell(session, Ending::Refused { reject, status });
        if !written {
            return Next::Abort;
        }
        if unread && !broken && !waiting_for_continue {
            drain(session).await;
        }
        Next::Reuse
    }

    /// Answers a refusal whose head could not even be parsed.
    async fn refuse_unread(&mut self, session: &mut ServerSession, reject: Reject) {
        session.set_keepalive(None);
        if let Ok(answer) = answer::to_refusal(&reject, None, &self.id, &[], None) {
            let status = answer.status;
            let _ = self.write(session, Some(Ok(answer.header)), answer.body, true).await;
            self.event("OTHER", "1", Ending::Refused { reject, status });
        }
    }

    /// Writes a part of the answer, for as long as the request may take. Neither version of HTTP bounds that below us.
    async fn write(
        &self,
        session: &mut ServerSession,
        header: Option<pingora::Result<Box<ResponseHeader>>>,
        body: Bytes,
        end: bool,
    ) -> pingora::Result<()> {
        let until = (self.started + self.policy.timeouts.total).max(Instant::now() + LAST_WORD);
        timeout_at(until, write(session, header, body, end)).await.unwrap_or_else(|_| {
            pingora::Error::e_explain(ErrorType::WriteTimedout, "the sender does not take its answer")
        })
    }

    fn tell(&self, session: &ServerSession, ending: Ending) {
        let request = session.req_header();
        let method = match request.method.as_str() {
            known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "CONNECT" | "TRACE") => known,
            _ => "OTHER",
        };
        let http = match request.version {
            Version::HTTP_2 => "2",
            Version::HTTP_10 => "1.0",
            _ => "1.1",
        };
        self.event(method, http, ending);
    }

    fn event(&self, method: &str, http: &'static str, ending: Ending) {
        RequestEvent {
            id: &self.id,
            method,
            http,
            trail: &self.trail,
            ending,
            bytes: self.bytes,
            body: self.body,
            backend: self.backend,
            total: self.started.elapsed(),
        }
        .emit(&self.shared.metrics, self.policy.log.requests);
    }
}

fn peer_of(session: &ServerSession) -> Peer {
    let address =
        session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical());
    Peer { address, tls: session.digest().is_some_and(|digest| digest.ssl_digest.is_some()) }
}

/// The head as checks see it. What is verified, routed and forwarded is this one.
fn head_of(session: &ServerSession) -> Result<Head<'_>, Reject> {
    let request = session.req_header();
    let host = match request.uri.authority() {
        Some(authority) if session.is_http2() => authority.as_str(),
        _ => match request.headers.get(header::HOST).map(HeaderValue::to_str) {
            Some(Ok(host)) => host,
            Some(Err(_)) => return Err(Reason::Malformed.because("Host is not ASCII")),
            None => "",
        },
    };
    Ok(Head {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        host,
        headers: Headers::Map(&request.headers),
    })
}

fn reject_of(error: &ExchangeError) -> Reject {
    let reason = match error {
        ExchangeError::Unreachable(..) => Reason::BackendUnreachable,
        ExchangeError::Broken(..) => Reason::BackendBroken,
        ExchangeError::Timeout(..) => Reason::BackendTimeout,
    };
    reason.because(error.to_string())
}

/// The backend's head for the sender, without framing.
fn response_header(response: &mut Response, id: &str) -> pingora::Result<Box<ResponseHeader>> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = response.head.status;
    parts.headers = std::mem::take(&mut response.head.headers);
    let mut header = Box::new(ResponseHeader::from(parts));
    header.insert_header(answer::REQUEST_ID, id)?;
    Ok(header)
}

/// The same with the framing of a body that is whole. The length of an answer to HEAD stays the backend's.
fn whole(
    mut header: Box<ResponseHeader>,
    session: &ServerSession,
    status: StatusCode,
    length: usize,
) -> Box<ResponseHeader> {
    let bodiless = session.req_header().method == http::Method::HEAD
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        let _ = header.insert_header(header::CONTENT_LENGTH, length);
    }
    header
}

/// Writes the head, if it is still to be written, and a part of the body.
async fn write(
    session: &mut ServerSession,
    header: Option<pingora::Result<Box<ResponseHeader>>>,
    body: Bytes,
    end: bool,
) -> pingora::Result<()> {
    if let Some(header) = header {
        let mut header = header?;
        if !end && !session.is_http2() && session.req_header().version == Version::HTTP_11 {
            header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        session.write_response_header(header).await?;
    }
    session.write_response_body(body, end).await
}

/// Reads on for a bounded time and size, and throws it away.
async fn drain(session: &mut ServerSession) {
    let mut left = DRAIN_BYTES;
    let reading = async {
        while let Ok(Some(chunk)) = session.read_request_body().await {
            left = left.saturating_sub(chunk.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = timeout_at(Instant::now() + DRAIN_TIME, reading).await;
}

async fn finish(session: ServerSession) -> Option<ReusedHttpStream> {
    let settings = HttpPersistentSettings::for_session(&session);
    let reusable = session.finish().await.ok().flatten()?;
    Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}
