//! Where connections come in: an accept loop for each listener of each worker, and what a connection has to pass before
//! anything speaks HTTP with it.
//!
//! ```text
//! deny list → connections in total → of its address → PROXY header → (deny list, address) → TLS → edge
//! ```
//!
//! Who is denied or one too many is closed before a byte of it is read. All that comes before the first byte of HTTP has
//! one deadline together, `timeouts.handshake`. Pingora's own loop has neither caps nor a deadline of ours, and takes
//! no PROXY header on plain listeners.
//!
//! Without file descriptors the system gives no connection, and says so again at once: the loop waits a moment then, so
//! that the connections there are can end.

use super::Shared;
use super::edge::Edge;
use super::proxy_protocol::{self, MAX_HEADER, Read};
use super::socket::Socket;
use crate::policy::Policy;
use crate::request::Now;
use crate::telemetry::connections::Closed;
use async_trait::async_trait;
use pingora::listeners::tls::Acceptor;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Connections that the system keeps for us until they are taken; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// Wait after the system gave no connection.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// How long a closing listener must have nothing to give before it is closed, and the longest wait for that.
const LAST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOKS: Duration = Duration::from_millis(500);
/// Room for the headers that load balancers send.
const FIRST_ROOM: usize = 512;

/// The listeners of one worker, as a service of pingora's server.
pub(super) struct Door {
    name: String,
    listeners: Vec<Listening>,
    edge: Arc<Edge>,
}

/// One listener of one worker.
pub(super) struct Listening {
    /// Its place in the configuration.
    pub(super) index: usize,
    /// Bound already.
    pub(super) socket: TcpListener,
    /// Own TLS.
    pub(super) tls: Option<Arc<Acceptor>>,
}

/// A listening socket. The first of an address is opened `alone`, so that one that another process has is not shared with
/// it; those of other workers stand beside it, and the system spreads connections among them.
pub(super) fn open(address: SocketAddr, alone: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, !alone)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket.into())
}

impl Door {
    pub(super) fn new(name: String, listeners: Vec<Listening>, edge: Arc<Edge>) -> Self {
        Self { name, listeners, edge }
    }
}

#[async_trait]
impl Service for Door {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let begin = |Listening { index, socket, tls }: Listening| {
            let side = Side { index, tls, edge: self.edge.clone(), shutdown: shutdown.clone() };
            tokio::spawn(Arc::new(side).accept(socket))
        };
        let loops: Vec<_> = self.listeners.drain(..).map(begin).collect();
        for one in loops {
            let _ = one.await;
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(1)
    }
}

/// What the connections of one listener share.
struct Side {
    index: usize,
    tls: Option<Arc<Acceptor>>,
    edge: Arc<Edge>,
    shutdown: ShutdownWatch,
}

impl Side {
    /// Takes connections until the shutdown, and then those that the system has already made.
    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let listener = match tokio::net::TcpListener::from_std(socket) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(target: "hookmoat", %error, "a listener cannot be used"),
        };
        let mut shutdown = self.shutdown.clone();
        let mut closing = pin!(shutdown.wait_for(|stopping| *stopping));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = &mut closing => break,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    self.shared().metrics.connections.accept_failed(&error, Now::read());
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
        // A next process has the socket too: what waits there is its own.
        if self.shared().taken_over.load(Ordering::Relaxed) {
            return;
        }
        let last = Instant::now() + LAST_LOOKS;
        while let Ok(Ok((stream, peer))) = timeout_at(last.min(Instant::now() + LAST_LOOK), listener.accept()).await {
            self.admit(stream, peer);
        }
    }

    fn shared(&self) -> &Shared {
        &self.edge.gate.shared
    }

    /// Everything that needs no byte of the connection.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let (shared, live) = (self.shared(), self.shared().live.load());
        let address = peer.ip().to_canonical();
        if live.connections.deny.contains(address) {
            return self.closed(Closed::Denied, address, &"");
        }
        let most = live.connections.max.min(shared.most_connections);
        let Some(place) = shared.places.take(most) else {
            return self.closed(Closed::Full, address, &format_args!("{most} are open"));
        };
        let mut socket = Socket::new(stream, peer, place);
        let believed = live.listeners.get(self.index).and_then(|listener| listener.proxy_protocol.as_ref());
        if believed.is_some_and(|peers| !peers.contains(address)) {
            return self.closed(Closed::ProxyProtocol, address, &"the peer is none of `proxy_protocol.from`");
        }
        // Behind a load balancer it is not the balancer's connections that count.
        if believed.is_none() && !fits(&live, &mut socket, address) {
            return self.closed(Closed::FullForAddress, address, &"");
        }
        let until = Instant::now() + live.timeouts.handshake;
        tokio::spawn(self.clone().serve(socket, address, believed.is_some(), until));
    }

    async fn serve(self: Arc<Self>, mut socket: Socket, mut address: IpAddr, proxied: bool, until: Instant) {
        if proxied {
            let client = match timeout_at(until, header(&mut socket)).await {
                Ok(Ok(client)) => client,
                Ok(Err(why)) => return self.closed(Closed::ProxyProtocol, address, &why),
                Err(_) => return self.closed(Closed::ProxyProtocol, address, &"no whole header in time"),
            };
            if let Some(client) = client {
                socket.set_peer(client);
                address = client.ip().to_canonical();
                if let Err(why) = self.admit_named(&mut socket, address) {
                    return self.closed(why, address, &"named by the PROXY header");
                }
            }
        }
        let Some(tls) = &self.tls else {
            return self.edge.serve(socket, address, until, &self.shutdown).await;
        };
        socket.read_ahead();
        match timeout_at(until, tls.tls_handshake(socket)).await {
            Ok(Ok(stream)) => self.edge.serve(stream, address, until, &self.shutdown).await,
            Ok(Err(error)) => self.closed(Closed::Handshake, address, &error),
            Err(_) => self.closed(Closed::HandshakeTimeout, address, &""),
        }
    }

    /// What [`Side::admit`] asks of a peer, for the address that a PROXY header named.
    fn admit_named(&self, socket: &mut Socket, address: IpAddr) -> Result<(), Closed> {
        let live = self.shared().live.load();
        if live.connections.deny.contains(address) {
            return Err(Closed::Denied);
        }
        if fits(&live, socket, address) { Ok(()) } else { Err(Closed::FullForAddress) }
    }

    fn closed(&self, why: Closed, address: IpAddr, detail: &dyn Display) {
        self.shared().metrics.connections.closed(why, address, detail, Now::read());
    }
}

/// Has the address room for one more? Trusted proxies bring the connections of many.
fn fits(policy: &Policy, socket: &mut Socket, address: IpAddr) -> bool {
    let Some(max) = policy.connections.max_per_address else { return true };
    policy.trusted_proxies.contains(address) || socket.place().count_for(address, max)
}

/// Reads a PROXY header, and gives back what came behind it.
async fn header(socket: &mut Socket) -> Result<Option<SocketAddr>, Cow<'static, str>> {
    let (mut bytes, mut filled) = (vec![0; FIRST_ROOM], 0);
    loop {
        match socket.read_some(bytes.get_mut(filled..).unwrap_or_default()).await {
            Ok(0) if filled == bytes.len() => return Err("the header has no end".into()),
            Ok(0) => return Err("the peer closed before its header was whole".into()),
            Ok(count) => filled += count,
            Err(error) => return Err(error.to_string().into()),
        }
        let have = bytes.get(..filled).unwrap_or_default();
        match proxy_protocol::read(have).map_err(|broken| broken.0)? {
            Read::Whole { length, client } => {
                socket.give_back(have.get(length..).unwrap_or_default());
                return Ok(client);
            }
            Read::More if filled == bytes.len() => bytes.resize(MAX_HEADER, 0),
            Read::More => {}
        }
    }
}
