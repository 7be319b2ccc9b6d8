//! The complete way: pingora's HTTP/1 and HTTP/2 towards senders, as a carrier of exchanges.

use super::answer::REQUEST_ID;
use super::body::{self, Held};
use super::carrier::{AnswerHead, BodyTerms, Carrier, Http, Length, Way, WriteFailed};
use super::edge::{Activity, Watched};
use super::exchange::{Exchange, Next, Scratch};
use super::oversight::Oversight;
use super::timer::Timer;
use super::tls::Handshake;
use super::{Shared, wire};
use crate::policy::{Policy, Timeouts};
use crate::reject::{Reason, Reject};
use crate::request::{Head, Headers, Peer};
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use parking_lot::MutexGuard;
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
use tokio::time::{Instant, sleep_until};

/// HTTP/2 windows: the default of 64 KiB makes a megabyte wait for many round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Streams that were reset and are still remembered, and those that were reset before they were looked at. More than
/// [`super::http2`] lets pass at once: what ends there is counted and told.
const RESET_STREAMS: usize = 128;
/// Streams that had to be reset because their sender broke the rules; one more ends the connection.
const BROKEN_STREAMS: usize = 50;

/// A header list of HTTP/2 counts 32 bytes more for each field (RFC 9113 section 6.5.2). Our own limits are a part of it,
/// so that what is over them gets our answer; pingora's default is the least.
fn header_list(bytes: usize, fields: usize) -> u32 {
    u32::try_from(bytes.saturating_add(fields.saturating_mul(32)).saturating_mul(2)).unwrap_or(u32::MAX).max(64 * 1024)
}

/// The application of every public listener.
pub(super) struct Gate {
    pub(super) shared: Arc<Shared>,
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
        // Requests that came early wait in the buffer for their turn; without this they are dropped with the connection.
        session.set_pipelining_enabled(true);
        let timeouts = self.shared.live.load().timeouts;
        let overseen = Overseen::next_of(&session);
        let read = read_head(&mut session, &overseen, timeouts).await;
        // What is in force now, not what was when the connection began to wait.
        let policy = self.shared.live.load_full();
        let mut scratch = Scratch::default();
        let mut carrier = Session { session, overseen, body: Bytes::new() };
        match read {
            HeadRead::Whole => {}
            HeadRead::Nothing => {
                carrier.session.shutdown().await;
                return None;
            }
            HeadRead::Refused(reject) => {
                Exchange::new(&self.shared, &policy, &mut scratch).refuse_unread(&mut carrier, reject).await;
                carrier.session.shutdown().await;
                return None;
            }
        }
        if *shutdown.borrow() || self.shared.is_leaving() || !carrier.overseen.goes_on() {
            carrier.session.set_keepalive(None);
        } else if carrier.session.get_keepalive().is_some() {
            // Only ever shortened: pingora has switched it off where the connection must not be used again.
            carrier.session.set_keepalive(Some(policy.timeouts.idle.as_secs().max(1)));
        }
        match Exchange::new(&self.shared, &policy, &mut scratch).run(&mut carrier).await {
            Next::Reuse => finish(carrier.session).await,
            Next::Abort => {
                carrier.session.set_keepalive(None);
                carrier.session.shutdown().await;
                None
            }
        }
    }

    fn h2_options(&self) -> Option<H2Options> {
        let live = self.shared.live.load();
        let limits = &live.limits;
        let mut options = default_h2_options();
        options
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(live.connections.http2_streams)
            .max_header_list_size(header_list(limits.header_bytes, limits.headers))
            .max_concurrent_reset_streams(RESET_STREAMS)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(Some(BROKEN_STREAMS));
        Some(options)
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }
}

/// The first request of a connection whose bytes are all there, before anything is made of it.
#[cfg(any(test, feature = "fuzz"))]
pub(super) async fn first(stream: pingora::protocols::Stream, policy: &Policy) -> Option<impl Carrier> {
    let until = Instant::now() + policy.timeouts.header;
    let watched = Watched::new(stream, until, None).overseen(Some(policy.limits));
    let mut session = ServerSession::new_http1(Box::new(watched));
    session.set_pipelining_enabled(true);
    let overseen = Overseen::next_of(&session);
    let read = read_head(&mut session, &overseen, policy.timeouts).await;
    matches!(read, HeadRead::Whole).then_some(Session { session, overseen, body: Bytes::new() })
}

pub(super) enum HeadRead {
    Whole,
    /// Nothing worth an answer: closed, idle for too long, shutting down.
    Nothing,
    Refused(Reject),
}

/// Reads a head: `timeouts.idle` until its first byte, `timeouts.header` from there to its end.
///
/// A shutdown is not waited for here: connections without a request do not hold the process, which ends once nothing is
/// in flight, and listening for it would cost every request.
pub(super) async fn read_head(session: &mut ServerSession, overseen: &Overseen, timeouts: Timeouts) -> HeadRead {
    // The head of an HTTP/2 request is already there.
    let activity = overseen.activity.as_deref();
    let begun_with = activity.map_or(0, |activity| activity.reads.load(Ordering::Relaxed));
    let mut read = pin!(session.read_request());
    let mut timer = None;
    // Some of it may have come together with the request before.
    let mut begun = overseen.oversight().is_some_and(|oversight| oversight.is_within_head(overseen.number));
    if begun {
        timer = Some(Box::pin(sleep_until(Instant::now() + timeouts.header)));
    }
    let result = poll_fn(|context| {
        if let Poll::Ready(result) = read.as_mut().poll(context) {
            return Poll::Ready(Some(result));
        }
        if !begun && activity.is_some_and(|activity| activity.reads.load(Ordering::Relaxed) != begun_with) {
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
            let known = overseen.verdict().err();
            HeadRead::Refused(known.unwrap_or_else(|| Reason::Malformed.because("head cannot be parsed")))
        }
        None if begun => HeadRead::Refused(Reason::ClientTimeout.because("head")),
        _ => HeadRead::Nothing,
    }
}

pub(super) async fn finish(session: ServerSession) -> Option<ReusedHttpStream> {
    let settings = HttpPersistentSettings::for_session(&session);
    let reusable = session.finish().await.ok().flatten()?;
    Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
}

/// The number of a request on its connection, for what the strict parsers say of it.
pub(super) struct Overseen {
    activity: Option<Arc<Activity>>,
    number: u64,
}

impl Overseen {
    /// The next request of a connection.
    pub(super) fn next_of(session: &ServerSession) -> Self {
        let mut overseen = Self { activity: session.stream().and_then(Watched::activity_of), number: 0 };
        overseen.number = overseen.oversight().map_or(0, |mut oversight| oversight.begin());
        overseen
    }

    fn oversight(&self) -> Option<MutexGuard<'_, Oversight>> {
        Some(self.activity.as_ref()?.oversight.as_ref()?.lock())
    }

    fn verdict(&self) -> Result<(), Reject> {
        self.oversight().map_or(Ok(()), |oversight| oversight.verdict(self.number))
    }

    fn goes_on(&self) -> bool {
        self.oversight().is_none_or(|oversight| oversight.goes_on_after(self.number))
    }
}

/// Pingora's session as a carrier.
struct Session {
    session: ServerSession,
    overseen: Overseen,
    body: Bytes,
}

impl Carrier for Session {
    const WAY: Way = Way::Complete;

    fn head(&self) -> Head<'_> {
        let request = self.session.req_header();
        let host = match request.uri.authority() {
            Some(authority) if self.session.is_http2() => authority.as_str(),
            // One that is not ASCII is as good as none, and refused like that.
            _ => request.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        };
        Head {
            method: request.method.as_str(),
            path: request.uri.path(),
            query: request.uri.query(),
            host,
            headers: Headers::Map(&request.headers),
        }
    }

    fn method(&self) -> &str {
        self.session.req_header().method.as_str()
    }

    fn http(&self) -> Http {
        match self.session.req_header().version {
            Version::HTTP_2 => Http::V2,
            Version::HTTP_10 => Http::V10,
            _ => Http::V11,
        }
    }

    fn peer(&self) -> Peer {
        let address = self.session.client_addr().and_then(|address| address.as_inet());
        let tls = self.session.digest().and_then(|digest| digest.ssl_digest.as_ref());
        let identity = tls.and_then(|tls| tls.extension.get::<Handshake>()?.identity.clone());
        Peer { address: address.map(|address| address.ip().to_canonical()), tls: tls.is_some(), identity }
    }

    fn strict(&self) -> Result<(), Reject> {
        if let Some(http1) = self.session.as_http1() {
            wire::strict(&http1.get_headers_raw_bytes()).map_err(|why| Reason::Malformed.because(why))?;
            self.overseen.verdict()?;
            return Ok(());
        }
        let head = self.session.req_header();
        if !matches!(head.uri.scheme_str(), Some("https" | "http")) {
            return Err(Reason::Malformed.because("the :scheme is not HTTP's"));
        }
        // RFC 9113 section 8.2.1. Over HTTP/1 they are no part of the value, and so whoever is behind us leaves them out.
        if head.headers.values().any(|value| value.as_bytes().trim_ascii().len() != value.len()) {
            return Err(Reason::Malformed.because("a field begins or ends with a blank"));
        }
        Ok(())
    }

    async fn go_on(&mut self, timer: &mut Timer, until: Instant) -> Result<(), WriteFailed> {
        // Writing the 100 switches keep-alive off: pingora takes it for an early answer.
        let keepalive = self.session.get_keepalive();
        match timer.within(until, self.session.write_continue_response()).await {
            Ok(Ok(())) => {
                self.session.set_keepalive(keepalive);
                Ok(())
            }
            _ => Err(WriteFailed),
        }
    }

    async fn read_body(
        &mut self,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        seen: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Reject> {
        let reading = body::read(&mut self.session, terms, held, seen);
        let read =
            timer.within(terms.until, reading).await.unwrap_or_else(|_| Err(Reason::ClientTimeout.because("body")));
        // What pingora takes for a body, or for something else, may be neither.
        match self.overseen.verdict().and(read) {
            Ok(body) => {
                self.body = body;
                Ok(())
            }
            Err(reject) => {
                // The position in the stream is unknown: nothing on it may be taken for a request.
                self.session.set_keepalive(None);
                Err(reject)
            }
        }
    }

    fn body(&self) -> &[u8] {
        &self.body
    }

    fn drop_body(&mut self) {
        self.body = Bytes::new();
    }

    fn is_read(&mut self) -> bool {
        self.session.is_body_done()
    }

    fn close_after(&mut self) {
        self.session.set_keepalive(None);
    }

    async fn write(
        &mut self,
        head: Option<AnswerHead<'_>>,
        body: &[u8],
        end: bool,
        timer: &mut Timer,
        until: Instant,
    ) -> Result<(), WriteFailed> {
        let body = Bytes::copy_from_slice(body);
        let writing = async {
            if let Some(head) = head {
                // Asked only then: the answer may be to a head that could not be read.
                let chunked = head.length == Length::Streamed && self.http() == Http::V11;
                let header = response_header(&head, chunked)?;
                self.session.write_response_header(header).await?;
            }
            self.session.write_response_body(body, end).await
        };
        match timer.within(until, writing).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(WriteFailed),
        }
    }

    async fn drain(&mut self, bytes: usize, timer: &mut Timer, until: Instant) {
        let mut left = bytes;
        let reading = async {
            while let Ok(Some(chunk)) = self.session.read_request_body().await {
                left = left.saturating_sub(chunk.len());
                if left == 0 {
                    break;
                }
            }
        };
        let _ = timer.within(until, reading).await;
    }
}

fn response_header(head: &AnswerHead<'_>, chunked: bool) -> pingora::Result<Box<ResponseHeader>> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    head.fields.each(|name, value| {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            parts.headers.append(name, value);
        }
    });
    let mut header = Box::new(ResponseHeader::from(parts));
    header.insert_header(REQUEST_ID, head.request_id)?;
    match head.length {
        Length::Known(length) => header.insert_header(header::CONTENT_LENGTH, length)?,
        Length::Streamed if chunked => header.insert_header(header::TRANSFER_ENCODING, "chunked")?,
        Length::Streamed | Length::Untold => {}
    }
    Ok(header)
}
