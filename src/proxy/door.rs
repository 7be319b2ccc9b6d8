//! Where connections come in: an accept loop for each listener of each worker, and what a connection has to pass before
//! anything speaks HTTP with it.
//!
//! ```text
//! deny list → connections in total → of its address → PROXY header → (deny list, address) → a first byte → TLS → edge
//! ```
//!
//! Who is denied or one too many is closed before a byte of it is read. Where all places are taken, one that only waits
//! makes room; see `quiet`. What speaks TLS or HTTP is made once there is something to be heard: a connection that says
//! nothing is small. All that comes before the first byte of HTTP has one deadline together, `timeouts.handshake`.
//! Pingora's own loop has neither caps nor a deadline of ours, and takes no PROXY header on plain listeners.
//!
//! Without file descriptors the system gives no connection, and says so again at once: the loop waits a moment then, so
//! that the connections there are can end.

use super::Shared;
use super::admin::Admin;
use super::edge::{Edge, Watched};
use super::places::{Place, Places};
use super::proxy_protocol::{self, MAX_HEADER, Read};
use super::quiet::{Quiet, SILENCE, Shed};
use super::socket::Socket;
use crate::policy::Policy;
use crate::request::Now;
use crate::telemetry::connections::Closed;
use async_trait::async_trait;
use pingora::apps::ServerApp as _;
use pingora::listeners::tls::Acceptor;
use pingora::protocols::IO;
use pingora::server::{ListenFds, ShutdownWatch};
use pingora::services::Service;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use std::borrow::Cow;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Connections that the system keeps for us until they are taken; it lowers this to its own limit.
const BACKLOG: i32 = 4096;
/// Wait after the system gave no connection.
const EXHAUSTED: Duration = Duration::from_millis(50);
/// How long a closing listener must have nothing to give before it is closed, and the longest wait for that.
const LAST_LOOK: Duration = Duration::from_millis(20);
const LAST_LOOKS: Duration = Duration::from_millis(500);
/// Connections more than `connections.max` that are open, at most, while those that make room for them end.
const MAKING_ROOM: usize = 32;
/// Connections of the admin port that are open at once, and of one address among them: many more than tools need, and
/// no crowd yet.
const ADMIN_MOST: usize = 256;
const ADMIN_MOST_OF_ONE: usize = 32;
/// Room for the headers that load balancers send.
const FIRST_ROOM: usize = 512;

/// The listeners of one worker, as a service of pingora's server.
pub(super) struct Door {
    name: String,
    listeners: Vec<Listening>,
    behind: Behind,
}

/// Who speaks HTTP with what comes in.
#[derive(Clone)]
pub(super) enum Behind {
    /// Senders, under `connections`.
    Edge(Arc<Edge>),
    /// The operator and his tools, under bounds of their own: neither can keep the other out.
    Admin(Arc<Admin>),
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
/// it; those of other workers stand beside it, and the system spreads connections among them: among those that listen
/// `already`, while the others wait for [`Shared::opened`].
pub(super) fn open(address: SocketAddr, alone: bool, already: bool) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, !alone)?;
    bind(&socket, &address)?;
    if already {
        listen(&socket, BACKLOG)?;
    }
    sockopt::set_socket_reuseport(&socket, true)?;
    Ok(socket.into())
}

impl Door {
    pub(super) fn new(name: String, listeners: Vec<Listening>, behind: Behind) -> Self {
        Self { name, listeners, behind }
    }
}

#[async_trait]
impl Service for Door {
    async fn start_service(&mut self, _: Option<ListenFds>, shutdown: ShutdownWatch, _: usize) {
        let begin = |Listening { index, socket, tls }: Listening| {
            let side = Side { index, tls, behind: self.behind.clone(), shutdown: shutdown.clone() };
            tokio::spawn(Arc::new(side).accept(socket))
        };
        let loops: Vec<_> = self.listeners.drain(..).map(begin).collect();
        self.behind.shared().listening.store(true, Ordering::Relaxed);
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
    behind: Behind,
    shutdown: ShutdownWatch,
}

impl Behind {
    fn shared(&self) -> &Shared {
        match self {
            Self::Edge(edge) => &edge.gate.shared,
            Self::Admin(admin) => &admin.0,
        }
    }
}

impl Side {
    /// Takes connections until the shutdown, and then those that the system has already made.
    async fn accept(self: Arc<Self>, socket: TcpListener) {
        let mut shutdown = self.shutdown.clone();
        let mut closing = pin!(shutdown.wait_for(|stopping| *stopping));
        let mut opened = self.shared().opened.subscribe();
        tokio::select! {
            _ = opened.wait_for(|open| *open) => {}
            _ = &mut closing => return,
        }
        let listener = listen(&socket, BACKLOG).map_err(io::Error::from);
        let listener = match listener.and_then(|()| tokio::net::TcpListener::from_std(socket)) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(target: "hookmoat", %error, "a listener cannot be used"),
        };
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
        self.behind.shared()
    }

    fn quiet(&self) -> &Quiet {
        match self.behind {
            Behind::Edge(_) => &self.shared().quiet,
            Behind::Admin(_) => &self.shared().admin_quiet,
        }
    }

    /// A place among so many, where need be of one that only waits.
    fn place(&self, places: &Arc<Places>, most: usize) -> Option<Place> {
        let making_room = || {
            let room = places.open() < most + MAKING_ROOM && self.quiet().shed();
            room.then(|| places.take(most + MAKING_ROOM)).flatten()
        };
        places.take(most).or_else(making_room)
    }

    /// Everything that needs no byte of the connection.
    fn admit(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let (shared, live) = (self.shared(), self.shared().live.load());
        let address = peer.ip().to_canonical();
        if matches!(self.behind, Behind::Admin(_)) {
            return self.admit_admin(stream, peer, Instant::now() + live.timeouts.handshake);
        }
        if live.connections.deny.contains(address) {
            return self.closed(Closed::Denied, address, &"");
        }
        let most = live.connections.max.min(shared.most_connections);
        let Some(place) = self.place(&shared.places, most) else {
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

    /// The operator's tools come from this machine, or from few others.
    fn admit_admin(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, until: Instant) {
        let address = peer.ip().to_canonical();
        let Some(place) = self.place(&self.shared().admin_places, ADMIN_MOST) else {
            return self.closed(Closed::AdminFull, address, &format_args!("{ADMIN_MOST} are open"));
        };
        let mut socket = Socket::new(stream, peer, place);
        if !address.is_loopback() && !socket.place().count_for(address, ADMIN_MOST_OF_ONE) {
            return self.closed(
                Closed::AdminFull,
                address,
                &format_args!("{ADMIN_MOST_OF_ONE} are open of one address"),
            );
        }
        tokio::spawn(self.clone().serve(socket, address, false, until));
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
        match self.first_byte(&socket, until).await {
            Ok(true) => {}
            Ok(false) if self.tls.is_none() => return,
            Ok(false) => return self.closed(Closed::HandshakeTimeout, address, &""),
            Err(Shed) => return self.closed(Closed::Shed, address, &""),
        }
        let Some(tls) = &self.tls else {
            return self.speak(socket, |socket| socket, address, until).await;
        };
        socket.read_ahead();
        match Box::pin(timeout_at(until, tls.tls_handshake(socket))).await {
            Ok(Ok(stream)) => self.speak(stream, Box::new, address, until).await,
            Ok(Err(error)) => self.closed(Closed::Handshake, address, &error),
            Err(_) => self.closed(Closed::HandshakeTimeout, address, &""),
        }
    }

    /// HTTP, by whoever is behind this door.
    fn speak<'s, S: IO + 'static, H>(
        &'s self,
        stream: S,
        hold: impl FnOnce(S) -> H,
        address: IpAddr,
        until: Instant,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 's>>
    where
        H: AsyncRead + AsyncWrite + Unpin + Send + Sync + 's,
    {
        match &self.behind {
            Behind::Edge(edge) => edge.serve(stream, hold, address, until, &self.shutdown),
            Behind::Admin(admin) => {
                let watched = Box::new(Watched::new(Box::new(stream), until, None));
                Box::pin(async move { _ = admin.process_new(watched, &self.shutdown).await })
            }
        }
    }

    /// Waits until there is something to be read; false: it took too long.
    async fn first_byte(&self, socket: &Socket, until: Instant) -> Result<bool, Shed> {
        let soon = until.min(Instant::now() + SILENCE);
        if timeout_at(soon, socket.readable()).await.is_ok() {
            return Ok(true);
        }
        self.quiet().wait(timeout_at(until, socket.readable())).await.map(|came| came.is_ok())
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
