//! A small, strict HTTP/1.1 client for backends.
//!
//! One request at a time on a connection. The request is already whole, so its framing is always Content-Length. The
//! answer is read while the request is still being written: a backend that refuses a large upload early is heard.
//! A request of a method that is not idempotent is never sent twice once a byte of it went out: an unused connection is
//! checked before it is used, and what remains of the race (the backend closes at that very moment) is a 502, after
//! which the claim on the event is given back and the sender comes again.

mod conn;
pub(crate) mod response;

use super::buffer::Buffer;
use super::http1::Broken;
use super::http1::body::{BodyDecoder, Step};
pub(crate) use super::timer::Timer;
use crate::policy::{Upstream, UpstreamAddress};
use arc_swap::ArcSwap;
use conn::{Outgoing, Socket, Tls};
use parking_lot::Mutex;
use pingora_rustls::TlsConnector;
use response::ResponseHead;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use std::cell::Cell;
use std::fmt::Display;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::time::Instant;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// Nothing was sent.
    #[error("cannot connect to upstream {0}: {1}")]
    Unreachable(Arc<str>, String),
    /// It is not known what the backend did.
    #[error("upstream {0}: {1}")]
    Broken(Arc<str>, String),
    /// It is not known what the backend did.
    #[error("upstream {0}: no {1} in time")]
    Timeout(Arc<str>, &'static str),
}

/// A backend with its pool of connections.
pub(crate) struct Client {
    upstream: Arc<Upstream>,
    tls: Option<Tls>,
    /// What the name resolved to last; fixed for addresses.
    addresses: ArcSwap<Vec<SocketAddr>>,
    /// By thread: a connection belongs to the reactor that it was made in.
    idle: [Mutex<Vec<Idle>>; POOLS],
}

struct Idle {
    socket: Socket,
    since: Instant,
}

/// Threads that have a pool of their own; more of them share.
const POOLS: usize = 64;

/// The pool of this thread.
fn pool_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.get().unwrap_or_else(|| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % POOLS;
        NUMBER.set(Some(number));
        number
    })
}

impl Client {
    /// Prepares a backend. Fails when its CA file cannot be read.
    pub(crate) fn new(upstream: Arc<Upstream>) -> Result<Self, String> {
        let tls = upstream.tls.as_ref().map(|tls| tls_of(&upstream.name, tls)).transpose()?;
        let addresses = match &upstream.address {
            UpstreamAddress::Socket(address) => vec![*address],
            // At start only, before any request; afterwards `resolve` keeps it up to date.
            UpstreamAddress::Name(name, port) => match std::net::ToSocketAddrs::to_socket_addrs(&(&**name, *port)) {
                Ok(found) => ipv4_first(found.collect()),
                Err(error) => {
                    tracing::warn!(target: "hookmoat", upstream = &*upstream.name, %error, "cannot resolve {name} yet");
                    Vec::new()
                }
            },
            UpstreamAddress::Unix(_) => Vec::new(),
        };
        Ok(Self {
            upstream,
            tls,
            addresses: ArcSwap::from_pointee(addresses),
            idle: std::array::from_fn(|_| Mutex::default()),
        })
    }

    /// Would a new client for these settings be the same? One with a CA file of its own never is: the file may have
    /// changed.
    pub(crate) fn serves(&self, upstream: &Upstream) -> bool {
        *self.upstream == *upstream && upstream.tls.as_ref().is_none_or(|tls| tls.ca.is_none())
    }

    /// The backend's settings.
    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// Resolves the upstream's name; keeps the last answer when that fails. Never called on the path of a request.
    pub(crate) async fn resolve(&self) -> Result<(), String> {
        let UpstreamAddress::Name(name, port) = &self.upstream.address else { return Ok(()) };
        let found = tokio::net::lookup_host((&**name, *port)).await;
        let found = ipv4_first(found.map_err(|error| format!("cannot resolve {name}: {error}"))?.collect());
        if found.is_empty() {
            return Err(format!("cannot resolve {name}: no address"));
        }
        self.addresses.store(Arc::new(found));
        Ok(())
    }

    /// Closes connections that were not used for long.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        for pool in &self.idle {
            pool.lock().retain_mut(|idle| {
                now.duration_since(idle.since) < self.upstream.idle_timeout && idle.socket.is_quiet()
            });
        }
    }

    fn pooled(&self, now: Instant) -> Option<Socket> {
        let mut pool = self.idle.get(pool_number())?.lock();
        while let Some(mut idle) = pool.pop() {
            if now.duration_since(idle.since) < self.upstream.idle_timeout && idle.socket.is_quiet() {
                return Some(idle.socket);
            }
        }
        None
    }

    async fn connect(&self, timer: &mut Timer, deadline: Instant) -> Result<Socket, ExchangeError> {
        let unreachable = |why: String| ExchangeError::Unreachable(self.upstream.name.clone(), why);
        let addresses = self.addresses.load_full();
        if addresses.is_empty() && matches!(self.upstream.address, UpstreamAddress::Name(..)) {
            return Err(unreachable("its name has not been resolved".into()));
        }
        let until = deadline.min(Instant::now() + self.upstream.connect_timeout);
        match timer.within(until, Socket::connect(&self.upstream, &addresses, self.tls.as_ref())).await {
            Ok(Ok(socket)) => Ok(socket),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no connection within {:?}", self.upstream.connect_timeout))),
        }
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// `head` is complete, with its empty line. `idempotent` allows one more attempt where a reused connection turned
    /// out to be dead before any byte of an answer came.
    pub(crate) async fn exchange(
        self: &Arc<Self>,
        head: &[u8],
        body: &[u8],
        to_head_request: bool,
        idempotent: bool,
        timer: &mut Timer,
        deadline: Instant,
    ) -> Result<Response, ExchangeError> {
        let now = Instant::now();
        let deadline = deadline.min(now + self.upstream.timeout);
        loop {
            let (mut socket, reused) = match self.pooled(now) {
                Some(socket) => (socket, true),
                None => (self.connect(timer, deadline).await?, false),
            };
            let (mut buffer, mut at) = (Buffer::default(), 0);
            let mut outgoing = Outgoing::new(head, body);
            let talking = self.write_and_read(&mut socket, &mut buffer, &mut at, &mut outgoing, to_head_request);
            let result = timer.within(deadline, talking).await;
            let name = || self.upstream.name.clone();
            return match result {
                Err(_) if !outgoing.done => Err(ExchangeError::Timeout(name(), "end of the request's upload")),
                Err(_) => Err(ExchangeError::Timeout(name(), "answer")),
                Ok(Err(Failure::Io(_) | Failure::Closed)) if reused && buffer.is_empty() && idempotent => continue,
                // Nothing of the request left this process: any method may go again.
                Ok(Err(Failure::Io(_))) if reused && !outgoing.sent => continue,
                Ok(Err(Failure::Io(error))) => Err(ExchangeError::Broken(name(), error.to_string())),
                Ok(Err(Failure::Closed)) => {
                    Err(ExchangeError::Broken(name(), "connection closed before the answer's head was whole".into()))
                }
                Ok(Err(Failure::Protocol(Broken(why)))) => Err(ExchangeError::Broken(name(), why.into())),
                Ok(Ok(head)) => {
                    let reusable = head.keep_alive && outgoing.done;
                    let body = BodyDecoder::of_answer(head.framing);
                    let client = self.clone();
                    let socket = Some(socket);
                    Ok(Response { head, body, buffer, head_end: at, at, reads: 0, reusable, deadline, socket, client })
                }
            };
        }
    }

    /// Writes the request and reads the head of the answer, both at once.
    async fn write_and_read(
        &self,
        socket: &mut Socket,
        buffer: &mut Buffer,
        at: &mut usize,
        outgoing: &mut Outgoing<'_>,
        to_head_request: bool,
    ) -> Result<ResponseHead, Failure> {
        let mut write_error = None;
        loop {
            // Until the head is there, only the total deadline counts.
            let filled = poll_fn(|context| {
                if write_error.is_none()
                    && !outgoing.done
                    && let Poll::Ready(Err(error)) = outgoing.poll_write(socket, context)
                {
                    // The backend may have answered before it closed; its answer counts.
                    write_error = Some(error);
                }
                buffer.poll_fill(socket, context, usize::MAX)
            });
            match filled.await {
                Ok(0) => return Err(write_error.take().map_or(Failure::Closed, Failure::Io)),
                Ok(count) => {
                    // A head ends with a line end: without one there is no need to look again.
                    let came = buffer.len() - count;
                    if came > 0
                        && !buffer.get(came..).is_some_and(|came| came.contains(&b'\n'))
                        && buffer.len() < response::MAX_HEAD
                    {
                        continue;
                    }
                    let (bytes, fields) = buffer.parts();
                    let head = response::take_head(bytes, at, to_head_request, fields).map_err(Failure::Protocol)?;
                    if let Some(head) = head {
                        if head.status.is_success() && !outgoing.done && write_error.is_none() {
                            finish_upload(socket, buffer, outgoing).await;
                        }
                        return Ok(head);
                    }
                    // What lies before it were interim answers.
                    if *at > response::MAX_HEAD {
                        return Err(Failure::Protocol(Broken("too many interim answers")));
                    }
                }
                Err(error) => return Err(Failure::Io(write_error.take().unwrap_or(error))),
            }
        }
    }

    fn give_back(&self, socket: Socket) {
        let Some(pool) = self.idle.get(pool_number()) else { return };
        let mut pool = pool.lock();
        if pool.len() < self.upstream.max_idle {
            pool.push(Idle { socket, since: Instant::now() });
        }
    }
}

/// Answer bytes kept while the rest of a request is written.
const KEPT_WHILE_WRITING: usize = 1 << 20;

/// A backend that says yes before it has read the request still gets the whole of it: a server that answers from the
/// first bytes and works on the rest would otherwise lose the end of an event that nobody sends again. One that closes
/// instead wants no more, and its answer counts.
async fn finish_upload(socket: &mut Socket, buffer: &mut Buffer, outgoing: &mut Outgoing<'_>) {
    poll_fn(|context| {
        if outgoing.poll_write(socket, context).is_ready() {
            return Poll::Ready(());
        }
        while buffer.len() < KEPT_WHILE_WRITING {
            match buffer.poll_fill(socket, context, usize::MAX) {
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
        }
        Poll::Pending
    })
    .await;
}

enum Failure {
    Io(std::io::Error),
    Closed,
    Protocol(Broken),
}

/// An answer whose head has been read.
pub(crate) struct Response {
    pub(crate) head: ResponseHead,
    body: BodyDecoder,
    /// The head, and behind it what came of the body and was not taken yet, from `at` on.
    buffer: Buffer,
    head_end: usize,
    at: usize,
    reads: usize,
    reusable: bool,
    deadline: Instant,
    socket: Option<Socket>,
    client: Arc<Client>,
}

impl Response {
    /// The end-to-end fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        let (bytes, fields) = self.buffer.seen();
        fields.iter().map(|field| field.pair(bytes))
    }

    /// The next part of the body; `None` once it is whole, after which the connection is free for the next request.
    pub(crate) async fn chunk(&mut self, timer: &mut Timer) -> Result<Option<&[u8]>, ExchangeError> {
        let part = self.next(timer).await?;
        Ok(part.map(|part| self.part(part)))
    }

    /// The same by its place, which is good until the next call.
    pub(crate) async fn next(&mut self, timer: &mut Timer) -> Result<Option<Range<usize>>, ExchangeError> {
        let name = &self.client.upstream.name;
        loop {
            match self.body.step(&self.buffer, &mut self.at) {
                Err(Broken(why)) => return Err(ExchangeError::Broken(name.clone(), why.into())),
                Ok(Step::Data(data)) => return Ok(Some(data)),
                Ok(Step::End) => {
                    self.release();
                    return Ok(None);
                }
                Ok(Step::More) => {}
            }
            let Some(socket) = self.socket.as_mut() else { return Ok(None) };
            let until = self.deadline.min(Instant::now() + self.client.upstream.read_timeout);
            // All of it was taken, but the head is still of use.
            self.buffer.truncate(self.head_end);
            self.at = self.head_end;
            self.reads += 1;
            let buffer = &mut self.buffer;
            match timer.within(until, poll_fn(|context| buffer.poll_fill(socket, context, usize::MAX))).await {
                Err(_) => return Err(ExchangeError::Timeout(name.clone(), "rest of the answer")),
                Ok(Err(error)) => return Err(ExchangeError::Broken(name.clone(), error.to_string())),
                Ok(Ok(0)) if self.body.ends_with_connection() => {
                    self.socket = None;
                    return Ok(None);
                }
                Ok(Ok(0)) => {
                    return Err(ExchangeError::Broken(
                        name.clone(),
                        "connection closed within the answer's body".into(),
                    ));
                }
                Ok(Ok(_)) => {}
            }
        }
    }

    /// The bytes of a part.
    pub(crate) fn part(&self, part: Range<usize>) -> &[u8] {
        self.buffer.get(part).unwrap_or_default()
    }

    /// How often the body had to be waited for.
    pub(crate) fn reads(&self) -> usize {
        self.reads
    }

    /// A connection is used again only when the answer ended exactly where the bytes did.
    fn release(&mut self) {
        if let Some(socket) = self.socket.take()
            && self.reusable
            && self.at == self.buffer.len()
        {
            self.client.give_back(socket);
        }
    }
}

/// A pod's loopback and most clusters' services are IPv4, and a dead IPv6 route costs a timeout.
fn ipv4_first(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

fn tls_of(upstream: &str, tls: &crate::policy::UpstreamTls) -> Result<Tls, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if tls.verify {
        let mut roots = rustls::RootCertStore::empty();
        match &tls.ca {
            Some(path) => {
                let certificates = rustls_pki_types::CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|error| format!("upstream {upstream}: cannot read {}: {error}", path.display()))?;
                roots.add_parsable_certificates(certificates);
            }
            None => {
                let native = pingora_rustls::load_native_certs().map_err(|error| error.to_string())?;
                roots.add_parsable_certificates(native);
            }
        }
        if roots.is_empty() {
            return Err(format!("upstream {upstream}: no root certificate to trust; set `tls.ca`"));
        }
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    };
    let mut config = match &tls.client {
        Some(pair) => {
            let bad = |path: &Path, error: &dyn Display| {
                format!("upstream {upstream}: cannot use {}: {error}", path.display())
            };
            let chain = rustls_pki_types::CertificateDer::pem_file_iter(&pair.certificate)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| bad(&pair.certificate, &error))?;
            let key =
                PrivateKeyDer::from_pem_file(&pair.private_key).map_err(|error| bad(&pair.private_key, &error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| bad(&pair.private_key, &error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(tls.server_name.to_string())
        .map_err(|_| format!("upstream {upstream}: {:?} is no server name", tls.server_name))?;
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
}

/// For `insecure_skip_verify` and `hookmoat send --insecure`, both said in words.
#[derive(Debug)]
pub(crate) struct AnyCertificate(pub(crate) Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls_pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How often names are resolved again, and unused connections are looked through.
pub(crate) const MAINTENANCE: Duration = Duration::from_secs(5);
