//! The connection before HTTP: tells when a request's first byte came, so that the time between requests and the time
//! within a head can have two different deadlines, and cuts off a TLS peer that chose HTTP/2 and does not finish its
//! preface (pingora 0.9.1 has no deadline for the HTTP/2 preface).

use super::gate::Gate;
use super::http1::connection;
use super::tls::Handshake;
use crate::request::Peer;
use async_trait::async_trait;
use pingora::apps::ServerApp;
use pingora::protocols::l4::stream::Stream as L4;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::tls::SslDigest;
use pingora::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream, TimingDigest,
    UniqueID, UniqueIDType,
};
use pingora::server::ShutdownWatch;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Counts the reads of a connection that gave bytes. Shared with the session that runs on it.
pub(super) type Activity = Arc<AtomicU64>;

/// Wraps every connection of a listener.
pub(super) struct Edge {
    pub(super) gate: Arc<Gate>,
    pub(super) preface_timeout: Duration,
    /// May HTTP/1.1 take the lean way?
    pub(super) lean: bool,
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let handshake = stream.get_ssl_digest();
        if handshake.is_some_and(|tls| tls.extension.get::<Handshake>().is_some_and(|left| left.too_old)) {
            return None;
        }
        if self.lean && !matches!(stream.selected_alpn_proto(), Some(ALPN::H2)) {
            self.serve_lean(stream, shutdown).await;
            return None;
        }
        let preface = matches!(stream.selected_alpn_proto(), Some(ALPN::H2))
            .then(|| Preface { missing: PREFACE_BYTES, timer: Box::pin(tokio::time::sleep(self.preface_timeout)) });
        let watched = Watched { stream, activity: Activity::default(), preface };
        self.gate.process_new(Box::new(watched), shutdown).await
    }

    async fn cleanup(&self) {
        self.gate.cleanup().await;
    }
}

impl Edge {
    async fn serve_lean(&self, mut stream: Stream, shutdown: &ShutdownWatch) {
        let address = stream.get_socket_digest();
        let address = address.as_deref().and_then(SocketDigest::peer_addr).and_then(|address| address.as_inet());
        let tls = stream.get_ssl_digest();
        let identity = tls.as_ref().and_then(|tls| tls.extension.get::<Handshake>()?.identity.clone());
        let peer = Peer { address: address.map(|address| address.ip().to_canonical()), tls: tls.is_some(), identity };
        let shared = &self.gate.shared;
        if stream.as_any().is::<L4>() {
            // The same without a look into a table for every read and write.
            let plain = stream.into_any().downcast::<L4>().ok();
            if let Some(mut stream) = plain {
                connection::serve(&mut *stream, peer, shared, shutdown).await;
            }
        } else {
            connection::serve(&mut stream, peer, shared, shutdown).await;
        }
    }
}

/// A stream that notes when bytes come.
#[derive(Debug)]
pub(super) struct Watched {
    stream: Stream,
    activity: Activity,
    /// Until the preface of an HTTP/2 connection is whole.
    preface: Option<Preface>,
}

/// `PRI * HTTP/2.0`, an empty line, `SM`, an empty line (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// One deadline for all of the preface: a part of it stops nothing.
#[derive(Debug)]
struct Preface {
    missing: usize,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Watched {
    /// The counter of a session's connection.
    pub(super) fn activity_of(stream: &Stream) -> Option<Activity> {
        stream.as_any().downcast_ref::<Self>().map(|watched| watched.activity.clone())
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut me.stream).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        if count > 0 {
            me.activity.fetch_add(1, Ordering::Relaxed);
            if let Some(preface) = &mut me.preface {
                preface.missing = preface.missing.saturating_sub(count);
            }
            me.preface.take_if(|preface| preface.missing == 0);
        } else if result.is_pending()
            && let Some(preface) = &mut me.preface
            && preface.timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        result
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Watched {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

#[async_trait]
impl Peek for Watched {
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(buf).await
    }
}
