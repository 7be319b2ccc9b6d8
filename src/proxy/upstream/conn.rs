//! A connection to a backend: plain TCP, TLS over TCP, or a unix socket.

use crate::policy::{Upstream, UpstreamAddress};
use bytes::Buf;
use pingora_rustls::{ClientTlsStream, TlsConnector};
use rustls_pki_types::ServerName;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// The socket under a connection.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<ClientTlsStream<TcpStream>>),
}

/// TLS settings of an upstream, made once.
#[derive(Clone)]
pub(super) struct Tls {
    pub(super) connector: TlsConnector,
    pub(super) name: ServerName<'static>,
}

impl Socket {
    /// Connects. `addresses` are what the background resolver last found; tried in order.
    pub(super) async fn connect(upstream: &Upstream, addresses: &[SocketAddr], tls: Option<&Tls>) -> io::Result<Self> {
        if let UpstreamAddress::Unix(path) = &upstream.address {
            return Ok(Self::Unix(UnixStream::connect(path).await?));
        }
        let mut last = io::Error::new(ErrorKind::NotFound, "the name has not been resolved");
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return match tls {
                        None => Ok(Self::Tcp(stream)),
                        Some(tls) => {
                            let stream = tls.connector.connect(tls.name.clone(), stream).await?;
                            Ok(Self::Tls(Box::new(stream)))
                        }
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Is an unused connection still what it was: open, and silent? Costs no system call for plain sockets, since the
    /// reactor has already noted any FIN, RST or unasked byte.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(&mut context).is_pending(),
            Self::Unix(socket) => socket.poll_read_ready(&mut context).is_pending(),
            Self::Tls(socket) => {
                let mut byte = [0; 1];
                Pin::new(socket.as_mut()).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
            }
        }
    }
}

/// What is still to be written of a request: head, then body.
pub(super) struct Outgoing<'a> {
    pub(super) head: &'a [u8],
    pub(super) body: &'a [u8],
    /// Has any byte been handed to the socket?
    pub(super) sent: bool,
    /// Is everything written and flushed?
    pub(super) done: bool,
}

impl<'a> Outgoing<'a> {
    pub(super) fn new(head: &'a [u8], body: &'a [u8]) -> Self {
        Self { head, body, sent: false, done: false }
    }

    /// Writes as much as goes.
    pub(super) fn poll_write(&mut self, socket: &mut Socket, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.head.is_empty() || !self.body.is_empty() {
            let pinned = Pin::new(&mut *socket);
            let written = match (self.head, self.body) {
                (head, []) => pinned.poll_write(context, head),
                ([], body) => pinned.poll_write(context, body),
                (head, body) => pinned.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(body)]),
            };
            let mut written = std::task::ready!(written)?;
            if written == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.sent = true;
            let of_head = written.min(self.head.len());
            self.head.advance(of_head);
            written -= of_head;
            self.body.advance(written);
        }
        std::task::ready!(Pin::new(socket).poll_flush(context))?;
        self.done = true;
        Poll::Ready(Ok(()))
    }
}

macro_rules! each {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self.get_mut() {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
            Socket::Tls($socket) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write(cx, buf))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, socket => Pin::new(socket).poll_write_vectored(cx, bufs))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, socket => Pin::new(socket).poll_shutdown(cx))
    }
}
