//! An accepted connection, as far as bytes go.
//!
//! Holds what was read before its time (what came behind a PROXY header), its place among the open connections, and the
//! address that counts as its peer's. Under TLS it reads ahead: TLS takes a few kilobytes at a time, and a large body
//! would cost four times as many system calls. The memory for that is the worker's, one piece for all of its connections;
//! a connection keeps a piece only while bytes wait in it, an unused one holds none.

use super::places::Place;
use async_trait::async_trait;
use pingora::protocols::l4::socket::SocketAddr as PeerAddress;
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest, UniqueID,
    UniqueIDType,
};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read ahead at once.
const AHEAD: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Option<Box<[u8]>>> = const { Cell::new(None) };
}

/// See the module. Fields are dropped in this order: the place is free when the descriptor is.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    early: Early,
    read_ahead: bool,
    digest: Arc<SocketDigest>,
    place: Place,
}

/// Bytes that came and were not yet taken: those from `taken` to `filled`.
#[derive(Debug, Default)]
struct Early {
    bytes: Box<[u8]>,
    taken: usize,
    filled: usize,
}

impl Socket {
    /// The peer is who connected, until [`Socket::set_peer`] says otherwise.
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, place: Place) -> Self {
        // Answers are written whole; nothing is gained by waiting for more.
        let _ = stream.set_nodelay(true);
        let digest = digest(&stream, peer);
        Self { stream, early: Early::default(), read_ahead: false, digest, place }
    }

    /// Somebody trusted said whose connection it is.
    pub(super) fn set_peer(&mut self, peer: SocketAddr) {
        self.digest = digest(&self.stream, peer);
    }

    /// Its place among the open connections.
    pub(super) fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// Reads in larger pieces than it is asked for.
    pub(super) fn read_ahead(&mut self) {
        self.read_ahead = true;
    }

    /// Reads some bytes from the connection itself, past what is held.
    pub(super) async fn read_some(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer).await
    }

    /// Waits for a first byte, or the end. Looks itself: a connection that is new is said to be readable before it is.
    pub(super) async fn readable(&self) -> io::Result<()> {
        if self.early.is_empty() { self.stream.peek(&mut [0]).await.map(drop) } else { Ok(()) }
    }

    /// Gives bytes back that were read too early.
    pub(super) fn give_back(&mut self, bytes: &[u8]) {
        self.early = Early { bytes: bytes.into(), taken: 0, filled: bytes.len() };
    }
}

fn digest(stream: &TcpStream, peer: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    let _ = digest.peer_addr.set(Some(PeerAddress::Inet(peer)));
    Arc::new(digest)
}

impl Early {
    fn is_empty(&self) -> bool {
        self.taken == self.filled
    }

    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let waiting = self.bytes.get(self.taken..self.filled).unwrap_or_default();
        let part = waiting.get(..waiting.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(part);
        self.taken += part.len();
        if self.is_empty() {
            let bytes = std::mem::take(self).bytes;
            if bytes.len() == AHEAD {
                SPARE.set(Some(bytes));
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if me.early.is_empty() {
            if !me.read_ahead || buf.remaining() >= AHEAD {
                return Pin::new(&mut me.stream).poll_read(cx, buf);
            }
            let mut bytes = SPARE.take().unwrap_or_else(|| vec![0; AHEAD].into());
            let mut ahead = ReadBuf::new(&mut bytes);
            let result = Pin::new(&mut me.stream).poll_read(cx, &mut ahead);
            let filled = ahead.filled().len();
            if filled == 0 {
                SPARE.set(Some(bytes));
                return result;
            }
            ready!(result)?;
            me.early = Early { bytes, taken: 0, filled };
        }
        me.early.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
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
impl Shutdown for Socket {
    async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }
}

impl UniqueID for Socket {
    fn id(&self) -> UniqueIDType {
        self.stream.as_raw_fd()
    }
}

impl Ssl for Socket {}

impl GetTimingDigest for Socket {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Socket {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Socket {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.digest.clone())
    }
}

impl Peek for Socket {}
