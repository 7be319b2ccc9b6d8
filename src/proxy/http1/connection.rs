//! The lean way: one HTTP/1.1 connection, read from and written to directly, as a carrier of exchanges.
//!
//! One request at a time. Its head is parsed where it was read to, and answers are written anew from parsed fields with
//! framing of our own. Anything that is not understood ends the connection with the answer. Requests that came early
//! wait in the buffer. A connection between two requests holds no buffer, and once it is quiet for a while nothing else
//! that only a request needs.
//!
//! The sender is not listened to while the backend works: one that hangs up then has sent a whole, verified event, and
//! gets its result with the next try.

use super::super::Shared;
use super::super::answer::REQUEST_ID;
use super::super::body::Held;
use super::super::buffer::{Buffer, Large};
use super::super::carrier::{AnswerHead, BodyTerms, Carrier, Http, Length, Way, WriteFailed};
use super::super::exchange::{Exchange, Next, Scratch};
use super::super::live::Live;
use super::super::quiet::{SILENCE, Shed};
use super::super::timer::Timer;
use super::body::{BodyDecoder, Framing, Step};
use super::date;
use super::framing::{self, Fault, RequestHead};
use crate::policy::Policy;
use crate::reject::{Reason, Reject};
use crate::request::{Head, Headers, Now, Peer};
use crate::telemetry::connections::Closed;
use arc_swap::{ArcSwap, Cache};
use http::StatusCode;
use pingora::server::ShutdownWatch;
use std::future::poll_fn;
use std::io::{self, ErrorKind, IoSlice, Write as _};
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// Room made for a body at first, whatever its declared length: nobody gets memory for an announcement.
const FIRST_ROOM: usize = 64 * 1024;
/// Bytes of a body that are read at once: they are hashed while they are near.
const AT_ONCE: usize = 128 * 1024;
/// A part of an answer that is copied behind its head rather than handed over beside it.
const COPIED: usize = 8 * 1024;
/// What a connection keeps of each kind of memory while it waits for its next request.
const KEPT: usize = 8 * 1024;
/// What a sender gets to see that we close.
const CLOSING: Duration = Duration::from_secs(1);
/// Bytes read on behind a head that could not be read.
const DRAIN_BYTES: usize = 256 * 1024;
const DRAIN_TIME: Duration = Duration::from_millis(200);

/// The policy in force, looked up without cost where it is still the same.
type Policies<'s> = Cache<&'s ArcSwap<Live>, Arc<Live>>;

/// Serves a connection to its end. Its first byte has to come by `first_until`.
///
/// What serving a request takes (some 5 KiB) is there from the end of a head on, from one request to the next, and given
/// back when the connection is quiet: a connection that waits is small.
pub(in crate::proxy) async fn serve<S>(
    stream: S,
    peer: Peer,
    first_until: Instant,
    shared: &Shared,
    shutdown: &ShutdownWatch,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync,
{
    let mut policies = Cache::new(&shared.live);
    let mut scratch = Scratch::default();
    let mut connection = Connection::new(stream, peer);
    let mut first = Some(first_until);
    loop {
        let read = connection.read_head(policies.load(), first.take(), None, &mut scratch.timer).await;
        let serving = Box::pin(serve_requests(&mut connection, read, &mut policies, &mut scratch, shared, shutdown));
        let Some(until) = serving.await else { break };
        if !connection.rest(until, &mut scratch, shared).await {
            break;
        }
    }
    let closing = poll_fn(|context| Pin::new(&mut connection.stream).poll_shutdown(context));
    let _ = scratch.timer.within(Instant::now() + CLOSING, closing).await;
}

/// From one request to the next, until the connection is quiet: then, until when it may be so. `None`: it is to be closed.
async fn serve_requests<S>(
    connection: &mut Connection<S>,
    mut read: HeadRead,
    policies: &mut Policies<'_>,
    scratch: &mut Scratch,
    shared: &Shared,
    shutdown: &ShutdownWatch,
) -> Option<Instant>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync,
{
    loop {
        // What is in force now, not what was when the connection began to wait.
        let policy: &Live = policies.load();
        match read {
            HeadRead::Whole => {}
            HeadRead::Nothing => return None,
            HeadRead::Quiet(until) => return Some(until),
            HeadRead::Refused(reject) => {
                Exchange::new(shared, policy, scratch).refuse_unread(connection, reject).await;
                connection.drain(DRAIN_BYTES, &mut scratch.timer, Instant::now() + DRAIN_TIME).await;
                return None;
            }
        }
        if *shutdown.borrow() || shared.is_leaving() {
            connection.close_after();
        }
        let next = Exchange::new(shared, policy, scratch).run(connection).await;
        if next == Next::Abort || !connection.next() {
            return None;
        }
        for used in [&mut scratch.head, &mut scratch.part] {
            if used.capacity() > KEPT {
                *used = Vec::new();
            }
        }
        read = connection.read_head(policies.load(), None, Some(SILENCE), &mut scratch.timer).await;
    }
}

/// The first request of a connection whose bytes are all there, before anything is made of it.
#[cfg(any(test, feature = "fuzz"))]
pub(in crate::proxy) async fn first<S>(stream: S, policy: &Policy) -> Option<impl Carrier>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + Sync,
{
    let local = Peer { address: None, tls: false, identity: None };
    let mut connection = Connection::new(stream, local);
    let read = connection.read_head(policy, None, None, &mut Timer::default()).await;
    matches!(read, HeadRead::Whole).then_some(connection)
}

enum HeadRead {
    Whole,
    /// Nothing worth an answer: closed, or idle for too long.
    Nothing,
    /// Nothing for a while, and until when it may stay so.
    Quiet(Instant),
    Refused(Reject),
}

struct Connection<S> {
    stream: S,
    peer: Peer,
    /// The head, its body if there is room, and what came behind.
    buffer: Buffer,
    /// How much of it was looked through for the end of the head.
    scanned: usize,
    head: Option<RequestHead>,
    body: Body,
    /// Bytes of the buffer that belong to the request.
    taken: usize,
    /// Is the request whole?
    is_read: bool,
    keep_alive: bool,
    /// Is the answer's body written in chunks?
    chunked: bool,
    /// Of an answer, what is to be written at once.
    out: Vec<u8>,
}

#[derive(Debug, Default)]
enum Body {
    #[default]
    None,
    /// Beside the head.
    Here(Range<usize>),
    Large(Large),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S, peer: Peer) -> Self {
        Self {
            stream,
            peer,
            buffer: Buffer::default(),
            scanned: 0,
            head: None,
            body: Body::None,
            taken: 0,
            is_read: false,
            keep_alive: true,
            chunked: false,
            out: Vec::new(),
        }
    }

    /// Makes ready for the next request; false: there may be none.
    fn next(&mut self) -> bool {
        self.buffer.consume(self.taken);
        (self.scanned, self.taken, self.is_read, self.chunked) = (0, 0, false, false);
        (self.head, self.body) = (None, Body::None);
        if self.out.capacity() > KEPT {
            self.out = Vec::new();
        }
        self.keep_alive
    }

    /// Waits for a next request without what serving one needs; false: none will come.
    async fn rest(&mut self, until: Instant, scratch: &mut Scratch, shared: &Shared) -> bool {
        (scratch.head, scratch.part, self.out) = Default::default();
        let filling = fill(&mut self.stream, &mut self.buffer, &mut scratch.timer, until);
        if scratch.verified {
            return matches!(filling.await, Ok(1..));
        }
        match shared.quiet.wait(filling).await {
            Ok(filled) => matches!(filled, Ok(1..)),
            Err(Shed) => {
                if let Some(address) = self.peer.address {
                    shared.metrics.connections.closed(Closed::Shed, address, &"", Now::read());
                }
                false
            }
        }
    }

    /// Reads a head: until its first byte `timeouts.idle`, unless said otherwise; `timeouts.header` from there to its end.
    /// Looks up when nothing comes for so long, where that is said.
    ///
    /// A shutdown is not waited for here: connections without a request do not hold the process.
    async fn read_head(
        &mut self,
        policy: &Policy,
        idle_until: Option<Instant>,
        silence: Option<Duration>,
        timer: &mut Timer,
    ) -> HeadRead {
        let begun = Instant::now();
        let idle_until = idle_until.unwrap_or_else(|| begun + policy.timeouts.idle);
        let look_up = silence.map_or(idle_until, |silence| idle_until.min(begun + silence));
        let mut head_until = None;
        loop {
            if !self.buffer.is_empty() {
                match self.find_head(policy) {
                    Ok(true) => return HeadRead::Whole,
                    Ok(false) => {}
                    Err(reject) => return HeadRead::Refused(reject),
                }
                head_until.get_or_insert_with(|| Instant::now() + policy.timeouts.header);
            }
            let until = head_until.unwrap_or(look_up);
            match fill(&mut self.stream, &mut self.buffer, timer, until).await {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut && head_until.is_some() => {
                    return HeadRead::Refused(Reason::ClientTimeout.because("head"));
                }
                Err(error) if error.kind() == ErrorKind::TimedOut && look_up < idle_until => {
                    return HeadRead::Quiet(idle_until);
                }
                _ => return HeadRead::Nothing,
            }
        }
    }

    /// Takes the head apart once it is whole.
    fn find_head(&mut self, policy: &Policy) -> Result<bool, Reject> {
        let (bytes, fields) = self.buffer.parts();
        let Some(end) = framing::end_of_head(bytes, &mut self.scanned, &policy.limits).map_err(Fault::reject)? else {
            return Ok(false);
        };
        let head =
            framing::parse(bytes.get(..end).unwrap_or_default(), &policy.limits, fields).map_err(Fault::reject)?;
        self.taken = head.length;
        self.is_read = matches!(head.framing, Ok(Framing::None | Framing::Length(0)));
        self.keep_alive &= head.keep_alive;
        self.head = Some(head);
        Ok(true)
    }

    async fn read(
        &mut self,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        seen: impl FnMut(&[u8]),
    ) -> Result<(), Reject> {
        let framing = match &self.head {
            Some(RequestHead { framing: Ok(framing), .. }) => *framing,
            _ => return Err(Reason::Malformed.because("body framing")),
        };
        match framing {
            Framing::None | Framing::Length(0) => Ok(()),
            Framing::Length(length) => {
                let length = usize::try_from(length).ok().filter(|length| *length <= terms.max);
                let length = length.ok_or_else(|| too_large(terms.max))?;
                if Buffer::fits(self.taken + length) {
                    self.read_here(length, terms, held, timer, seen).await
                } else {
                    self.read_large(length, terms, held, timer, seen).await
                }
            }
            Framing::Chunked => self.read_chunks(terms, held, timer, seen).await,
            Framing::Close => Err(Reason::Malformed.because("a request without an end")),
        }
    }

    /// A body that fits beside its head.
    async fn read_here(
        &mut self,
        length: usize,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), Reject> {
        let (start, end) = (self.taken, self.taken + length);
        let mut at = start;
        loop {
            let here = self.buffer.len().min(end);
            if here > at {
                held.grow(here - at, terms.max_held)?;
                seen(self.buffer.get(at..here).unwrap_or_default());
                at = here;
            }
            if at == end {
                (self.body, self.taken) = (Body::Here(start..end), end);
                return Ok(());
            }
            came(fill(&mut self.stream, &mut self.buffer, timer, terms.until).await)?;
        }
    }

    /// A body that has memory of its own, and is read to where it stays.
    async fn read_large(
        &mut self,
        length: usize,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), Reject> {
        let mut body = Large::default();
        body.reserve(length.min(FIRST_ROOM));
        let end = self.buffer.len().min(self.taken + length);
        let first = self.buffer.get(self.taken..end).unwrap_or_default();
        held.grow(first.len(), terms.max_held)?;
        seen(first);
        body.append(first);
        self.taken = end;
        while body.len() < length {
            let (have, left) = (body.len(), length - body.len());
            if body.room() < left.min(AT_ONCE) {
                // Once as much as that has really come, the rest is made room for at once instead of grown into.
                body.reserve(if have < FIRST_ROOM { left.min(FIRST_ROOM) } else { left });
            }
            let stream = &mut self.stream;
            let reading = poll_fn(|context| body.poll_fill(stream, context, left.min(AT_ONCE)));
            came(timer.within(terms.until, reading).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())))?;
            held.grow(body.len() - have, terms.max_held)?;
            seen(body.get(have..).unwrap_or_default());
        }
        self.body = Body::Large(body);
        Ok(())
    }

    async fn read_chunks(
        &mut self,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<(), Reject> {
        let mut decoder = BodyDecoder::of_request(Framing::Chunked);
        let mut body = Large::default();
        let head_end = self.taken;
        loop {
            match decoder.step(&self.buffer, &mut self.taken).map_err(|broken| Reason::Malformed.because(broken.0))? {
                Step::Data(part) => {
                    let part = self.buffer.get(part).unwrap_or_default();
                    if body.len() + part.len() > terms.max {
                        return Err(too_large(terms.max));
                    }
                    held.grow(part.len(), terms.max_held)?;
                    seen(part);
                    body.append(part);
                }
                Step::More => {
                    // Neither does an announcement get memory, nor does one that is too large get time.
                    let most = u64::try_from(terms.max - body.len()).unwrap_or(u64::MAX);
                    if decoder.announced() > most {
                        return Err(too_large(terms.max));
                    }
                    // All that came was taken; the head is still of use.
                    self.buffer.truncate(head_end);
                    self.taken = head_end;
                    came(fill(&mut self.stream, &mut self.buffer, timer, terms.until).await)?;
                }
                Step::End => {
                    self.body = Body::Large(body);
                    return Ok(());
                }
            }
        }
    }

    /// Puts a part of an answer together: all of it that is not the body itself, in front of it and behind it.
    fn compose(&mut self, head: Option<AnswerHead<'_>>, body: usize, end: bool) -> &'static [u8] {
        self.out.clear();
        if let Some(head) = head {
            let is_11 = self.head.as_ref().is_none_or(|head| head.is_11);
            self.chunked = head.length == Length::Streamed && is_11;
            if head.length == Length::Streamed && !is_11 {
                // An old client knows no chunks: the end of the connection is the end of the answer.
                self.keep_alive = false;
            }
            write_head(&mut self.out, &head, is_11, self.chunked, self.keep_alive);
        }
        match (self.chunked, body, end) {
            (false, ..) => b"",
            (true, 0, false) => b"",
            (true, 0, true) => b"0\r\n\r\n",
            (true, ..) => {
                let _ = write!(self.out, "{body:x}\r\n");
                if end { b"\r\n0\r\n\r\n" } else { b"\r\n" }
            }
        }
    }
}

fn write_head(out: &mut Vec<u8>, head: &AnswerHead<'_>, is_11: bool, chunked: bool, keep_alive: bool) {
    let status = StatusCode::from_u16(head.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
    let mut dated = false;
    let mut field = |name: &str, value: &[u8]| {
        dated |= name.eq_ignore_ascii_case("date");
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    head.fields.each(|name, value| {
        if !name.eq_ignore_ascii_case(REQUEST_ID) {
            field(name, value);
        }
    });
    field(REQUEST_ID, head.request_id.as_bytes());
    if chunked {
        field("transfer-encoding", b"chunked");
    }
    if !keep_alive {
        field("connection", b"close");
    } else if !is_11 {
        field("connection", b"keep-alive");
    }
    if !dated {
        out.extend_from_slice(b"date: ");
        date::append(out);
        out.extend_from_slice(b"\r\n");
    }
    if let Length::Known(length) = head.length {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Carrier for Connection<S> {
    const WAY: Way = Way::Lean;

    fn head(&self) -> Head<'_> {
        let (bytes, fields) = self.buffer.seen();
        match &self.head {
            Some(head) => head.view(bytes, fields),
            None => Head { method: "", path: "", query: None, host: "", headers: Headers::List(&[]) },
        }
    }

    fn method(&self) -> &str {
        self.head.as_ref().map_or("", |head| head.method(&self.buffer))
    }

    fn http(&self) -> Http {
        if self.head.as_ref().is_none_or(|head| head.is_11) { Http::V11 } else { Http::V10 }
    }

    fn peer(&self) -> Peer {
        self.peer.clone()
    }

    fn strict(&self) -> Result<(), Reject> {
        match &self.head {
            Some(RequestHead { framing: Ok(_), .. }) => Ok(()),
            Some(RequestHead { framing: Err(broken), .. }) => Err(Reason::Malformed.because(broken.0)),
            None => Err(Reason::Internal.into()),
        }
    }

    async fn go_on(&mut self, timer: &mut Timer, until: Instant) -> Result<(), WriteFailed> {
        send(&mut self.stream, [b"HTTP/1.1 100 Continue\r\n\r\n", b"", b""], timer, until).await
    }

    async fn read_body(
        &mut self,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        seen: impl FnMut(&[u8]) + Send,
    ) -> Result<(), Reject> {
        let read = self.read(terms, held, timer, seen).await;
        self.is_read = read.is_ok();
        self.keep_alive &= read.is_ok();
        read
    }

    fn body(&self) -> &[u8] {
        match &self.body {
            Body::None => &[],
            Body::Here(place) => self.buffer.get(place.clone()).unwrap_or_default(),
            Body::Large(body) => body,
        }
    }

    fn drop_body(&mut self) {
        self.body = Body::None;
    }

    fn is_read(&mut self) -> bool {
        self.is_read
    }

    fn close_after(&mut self) {
        self.keep_alive = false;
    }

    async fn write(
        &mut self,
        head: Option<AnswerHead<'_>>,
        body: &[u8],
        end: bool,
        timer: &mut Timer,
        until: Instant,
    ) -> Result<(), WriteFailed> {
        let tail = self.compose(head, body.len(), end);
        let parts = if body.len() <= COPIED {
            self.out.extend_from_slice(body);
            self.out.extend_from_slice(tail);
            [&*self.out, b"", b""]
        } else {
            [&*self.out, body, tail]
        };
        send(&mut self.stream, parts, timer, until).await
    }

    async fn drain(&mut self, bytes: usize, timer: &mut Timer, until: Instant) {
        let mut left = bytes;
        while left > 0 {
            let mut buffer = Buffer::default();
            match fill(&mut self.stream, &mut buffer, timer, until).await {
                Ok(count @ 1..) => left = left.saturating_sub(count),
                _ => return,
            }
        }
    }
}

fn too_large(max: usize) -> Reject {
    Reason::BodyTooLarge.because(format!("more than {max} bytes"))
}

/// A read within a body.
fn came(read: io::Result<usize>) -> Result<(), Reject> {
    match read {
        Ok(1..) => Ok(()),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(Reason::ClientTimeout.because("body")),
        _ => Err(Reason::ClientGone.because("connection ended within the body")),
    }
}

/// Reads once. 0: the end of the stream.
async fn fill(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Buffer,
    timer: &mut Timer,
    until: Instant,
) -> io::Result<usize> {
    let reading = poll_fn(|context| buffer.poll_fill(stream, context, usize::MAX));
    timer.within(until, reading).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Writes these one after the other, in as few system calls as possible.
async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    mut parts: [&[u8]; 3],
    timer: &mut Timer,
    until: Instant,
) -> Result<(), WriteFailed> {
    let writing = poll_fn(|context| {
        while parts.iter().any(|part| !part.is_empty()) {
            let [first, second, third] = parts;
            let written = if second.is_empty() && third.is_empty() {
                Pin::new(&mut *stream).poll_write(context, first)
            } else {
                let slices = [IoSlice::new(first), IoSlice::new(second), IoSlice::new(third)];
                Pin::new(&mut *stream).poll_write_vectored(context, &slices)
            };
            let mut written = std::task::ready!(written)?;
            if written == 0 {
                return std::task::Poll::Ready(Err(io::Error::from(ErrorKind::WriteZero)));
            }
            for part in &mut parts {
                let of_part = written.min(part.len());
                *part = part.get(of_part..).unwrap_or_default();
                written -= of_part;
            }
        }
        // Costs nothing where nothing is buffered; under TLS a part would else wait for the next.
        Pin::new(&mut *stream).poll_flush(context)
    });
    match timer.within(until, writing).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(WriteFailed),
    }
}
