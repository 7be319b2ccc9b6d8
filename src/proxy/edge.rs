//! Between a connection and what speaks HTTP on it. For the complete way it tells when a request's first byte came, so
//! that the time between requests and the time within a head can have two different deadlines, and cuts off who does not
//! begin (pingora 0.9.1 has no deadline for the HTTP/2 preface).

use super::Shared;
use super::gate::Gate;
use super::http1::connection;
use super::http2::{End, Frames, GOAWAY, Sent};
use super::oversight::Oversight;
use super::tls::Handshake;
use crate::policy::Limits;
use crate::request::{Now, Peer};
use crate::telemetry::connections::Closed;
use async_trait::async_trait;
use parking_lot::Mutex;
use pingora::apps::ServerApp as _;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, IO, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a session knows of its connection below.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Reads that gave bytes.
    pub(super) reads: AtomicU64,
    /// Of HTTP/1.
    pub(super) oversight: Option<Mutex<Oversight>>,
}

/// Decides which way a connection goes.
pub(super) struct Edge {
    pub(super) gate: Arc<Gate>,
    /// May HTTP/1.1 take the lean way?
    pub(super) lean: bool,
}

impl Edge {
    /// Serves a connection to its end. Its first byte of HTTP (HTTP/2: the whole preface) has to come by `until`. What is
    /// large is held in memory of its own (`hold`) rather than moved from one to the next.
    pub(super) fn serve<'e, S: IO + 'static, H>(
        &'e self,
        stream: S,
        hold: impl FnOnce(S) -> H,
        address: IpAddr,
        until: Instant,
        shutdown: &'e ShutdownWatch,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'e>>
    where
        H: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'e,
    {
        let tls = stream.get_ssl_digest();
        let handshake = tls.as_ref().and_then(|tls| tls.extension.get::<Handshake>());
        let is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        let shared = &self.gate.shared;
        if self.lean && !is_http2 {
            let identity = handshake.and_then(|left| left.identity.clone());
            let peer = Peer { address: Some(address), tls: tls.is_some(), identity };
            return Box::pin(connection::serve(hold(stream), peer, until, shared, shutdown));
        }
        let frames = is_http2.then(|| {
            let live = shared.live.load();
            let frames = Frames::new(live.connections.http2_requests, live.timeouts.header, Instant::now());
            Box::new(Counted { frames, sent: Sent::new(), shared: shared.clone(), address })
        });
        let limits = (!is_http2).then(|| shared.live.load().limits);
        let watched = Watched::new(Box::new(stream), until, frames).overseen(limits);
        Box::pin(async move { _ = self.gate.process_new(Box::new(watched), shutdown).await })
    }
}

/// A stream that notes when bytes come.
#[derive(Debug)]
pub(super) struct Watched {
    /// Head and body of an answer leave together.
    stream: BufWriter<Stream>,
    activity: Arc<Activity>,
    /// Until enough came for a beginning.
    begin: Option<Begin>,
    /// Of an HTTP/2 connection.
    frames: Option<Box<Counted>>,
}

/// The frames of a connection, and who is told of too many.
pub(super) struct Counted {
    frames: Frames,
    sent: Sent,
    shared: Arc<Shared>,
    address: IpAddr,
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.frames.fmt(f)
    }
}

impl Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.frames.read(bytes, Instant::now()).map_err(|flood| {
            self.shared.metrics.connections.closed(Closed::Http2Flood, self.address, &flood, Now::read());
            io::ErrorKind::ConnectionAborted.into()
        })
    }

    /// The frame that says why the connection ends, where one may be written.
    fn farewell(&self) -> Option<[u8; 17]> {
        self.sent.is_between_frames().then(|| {
            let [a, b, c, d] = self.frames.newest_stream().to_be_bytes();
            [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, CALM]
        })
    }

    fn wrote(&mut self, bytes: &[u8]) {
        self.frames.wrote(bytes.len());
        let (metrics, address) = (&self.shared.metrics.connections, self.address);
        self.sent.read(bytes, |end| match end {
            End::Connection(NO_ERROR) | End::Stream(NO_ERROR | INTERNAL_ERROR | CANCEL) => {}
            End::Connection(code) => {
                let why = if code == ENHANCE_YOUR_CALM { Closed::Http2Flood } else { Closed::Http2Error };
                metrics.closed(why, address, &format_args!("GOAWAY with code {code}"), Now::read());
            }
            End::Stream(code) => metrics.stream_reset(address, code, Now::read()),
        });
    }
}

/// Codes of RFC 9113 section 7.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const CANCEL: u32 = 8;
const CALM: u8 = 11;
const ENHANCE_YOUR_CALM: u32 = CALM as u32;

/// Bytes of an answer that are gathered before they are written.
const WRITTEN_AT_ONCE: usize = 1460;

/// `PRI * HTTP/2.0`, an empty line, `SM`, an empty line (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// One deadline for all of it: a part stops nothing.
#[derive(Debug)]
struct Begin {
    missing: usize,
    timer: Pin<Box<Sleep>>,
}

impl Watched {
    /// Enough for a beginning has to come by `until`.
    pub(super) fn new(stream: Stream, until: Instant, frames: Option<Box<Counted>>) -> Self {
        let missing = if frames.is_some() { PREFACE_BYTES } else { 1 };
        let begin = Some(Begin { missing, timer: Box::pin(sleep_until(until)) });
        let stream = BufWriter::with_capacity(WRITTEN_AT_ONCE, stream);
        Self { stream, activity: Arc::default(), begin, frames }
    }

    /// HTTP/1 within these limits is read along.
    pub(super) fn overseen(self, limits: Option<Limits>) -> Self {
        let oversight = limits.map(|limits| Mutex::new(Oversight::new(limits)));
        Self { activity: Arc::new(Activity { oversight, ..Activity::default() }), ..self }
    }

    /// What is known of a session's connection.
    pub(super) fn activity_of(stream: &Stream) -> Option<Arc<Activity>> {
        stream.as_any().downcast_ref::<Self>().map(|watched| watched.activity.clone())
    }

    fn wrote(&mut self, bytes: &[u8]) {
        if let Some(counted) = &mut self.frames {
            counted.wrote(bytes);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if let Some(counted) = &mut me.frames {
            ready!(counted.frames.poll_may_read(cx));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut me.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            if let Some(counted) = &mut me.frames
                && let Err(error) = counted.read(buf.filled_mut().get_mut(before..).unwrap_or_default())
            {
                // As far as it goes without waiting: the peer may take nothing any more.
                if let Some(frame) = counted.farewell()
                    && Pin::new(&mut me.stream).poll_write(cx, &frame).is_ready()
                {
                    let _ = Pin::new(&mut me.stream).poll_flush(cx);
                }
                return Poll::Ready(Err(error));
            }
            if let Some(oversight) = &me.activity.oversight {
                oversight.lock().read(buf.filled().get(before..).unwrap_or_default());
            }
            me.activity.reads.fetch_add(1, Ordering::Relaxed);
            if let Some(begin) = &mut me.begin {
                begin.missing = begin.missing.saturating_sub(count);
            }
            me.begin.take_if(|begin| begin.missing == 0);
        } else if result.is_pending()
            && let Some(begin) = &mut me.begin
            && begin.timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        } else if result.is_pending()
            && let Some(counted) = &mut me.frames
            && counted.frames.poll_overdue(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = ready!(Pin::new(&mut me.stream).poll_write(cx, buf))?;
        me.wrote(buf.get(..written).unwrap_or_default());
        Poll::Ready(Ok(written))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        let written = ready!(Pin::new(&mut me.stream).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let part = buf.len().min(left);
            left -= part;
            me.wrote(buf.get(..part).unwrap_or_default());
        }
        Poll::Ready(Ok(written))
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        let _ = self.stream.flush().await;
        Shutdown::shutdown(&mut **self.stream.get_mut()).await;
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.stream.get_ref().id()
    }
}

impl Ssl for Watched {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ref().get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.get_ref().selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_ref().get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_ref().get_proxy_digest()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_ref().get_socket_digest()
    }
}

impl Peek for Watched {}
