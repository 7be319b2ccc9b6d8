//! One GET over TLS, or the POST of a question, and everything that can go wrong with it.
//!
//! The answer is believed to nothing: no redirect is followed, no encoding is undone, no more is read than was asked
//! for, and all of it has to come within one deadline, however slowly it drips.

use super::address;
use super::target::Target;
use crate::policy::FetchSettings;
use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

/// Fetches at a time.
const AT_ONCE: usize = 8;
/// What one address of several gets to take the connection.
const CONNECT: Duration = Duration::from_secs(3);
/// Head of an answer, in bytes and fields.
const HEAD: usize = 32 << 10;
const FIELDS: usize = 100;
/// The longest ETag that is kept.
const MAX_ETAG: usize = 256;

/// Finds the addresses of a name. A test gives its own.
pub type Lookup = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// Why nothing was fetched. For the log; names neither keys nor tokens.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The name does not lead to a place that may be spoken to.
    #[error("{0}")]
    Address(String),
    /// No connection, or no TLS with the right name.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// Another answer than 200.
    #[error("answered {0}{1}")]
    Status(u16, &'static str),
    /// An answer that breaks off, is too long, or is not HTTP.
    #[error("{0}")]
    Answer(String),
    /// Not all of it came in time.
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// An answer that does not hold what it should.
    #[error("{0}")]
    Content(String),
}

/// What is asked.
pub struct Question<'q> {
    /// Where.
    pub target: &'q Target,
    /// Besides those that every question has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Posted. `None`: a GET.
    pub body: Option<Bytes>,
}

/// What was fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// `None`: what the caller has is still the newest.
    pub body: Option<Bytes>,
    /// For asking the next time.
    pub etag: Option<HeaderValue>,
    /// How long the sender says that it holds.
    pub max_age: Option<Duration>,
}

/// Fetches over TLS.
pub struct Client {
    settings: FetchSettings,
    connector: TlsConnector,
    lookup: Box<Lookup>,
    permits: Semaphore,
}

impl Client {
    /// Reads the roots. Fails when there are none.
    pub fn new(settings: &FetchSettings) -> Result<Self, String> {
        Self::with_lookup(
            settings,
            Box::new(|host, port| Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })),
        )
    }

    /// The same with another way to find addresses.
    pub fn with_lookup(settings: &FetchSettings, lookup: Box<Lookup>) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(super::roots::store(settings.ca.as_deref())?)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        Ok(Self { settings: settings.clone(), connector, lookup, permits: Semaphore::new(AT_ONCE) })
    }

    /// Fetches at most `limit` bytes within `fetch.timeout`.
    pub async fn get(&self, target: &Target, limit: usize, etag: Option<&HeaderValue>) -> Result<Fetched, FetchError> {
        let headers = etag.map(|etag| (header::IF_NONE_MATCH, etag.clone()));
        self.ask(Question { target, headers: headers.into_iter().collect(), body: None }, limit).await
    }

    /// The same for a question that holds more than a URL.
    pub async fn ask(&self, question: Question<'_>, limit: usize) -> Result<Fetched, FetchError> {
        let all = async {
            let _permit = self.permits.acquire().await;
            self.exchange(question, limit).await
        };
        timeout(self.settings.timeout, all).await.unwrap_or(Err(FetchError::Timeout(self.settings.timeout)))
    }

    async fn exchange(&self, question: Question<'_>, limit: usize) -> Result<Fetched, FetchError> {
        let Question { target, headers: more, body } = question;
        let asked = more.iter().any(|(name, _)| *name == header::IF_NONE_MATCH);
        let stream = self.connect(target).await?;
        let name = ServerName::try_from(target.host().to_owned())
            .map_err(|_| FetchError::Connect("not a name that a certificate can have".into()))?;
        let stream =
            self.connector.connect(name, stream).await.map_err(|error| FetchError::Connect(error.to_string()))?;
        let broken = |error: hyper::Error| FetchError::Answer(plain(&error));
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD)
            .max_headers(FIELDS)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let body = Full::new(body.unwrap_or_default());
        let mut request = Request::builder().method(method).uri(target.path()).body(body);
        if let Ok(request) = &mut request {
            let headers = request.headers_mut();
            if let Ok(host) = HeaderValue::from_str(&target.authority()) {
                headers.insert(header::HOST, host);
            }
            headers
                .insert(header::USER_AGENT, HeaderValue::from_static(concat!("hookmoat/", env!("CARGO_PKG_VERSION"))));
            headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            headers.extend(more);
        }
        let request = request.map_err(|error| FetchError::Answer(error.to_string()))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            read(answer, limit, asked).await
        };
        let mut answer = std::pin::pin!(answer);
        // The connection lives no longer than its one answer.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            ended = connection => match (answer.await, ended) {
                // The reader only knows that the connection is gone.
                (Err(FetchError::Answer(_)), Err(error)) => Err(FetchError::Answer(plain(&error))),
                (answer, _) => answer,
            },
        }
    }

    async fn connect(&self, target: &Target) -> Result<TcpStream, FetchError> {
        if let Some(proxy) = &self.settings.proxy {
            return self.through(proxy, target).await;
        }
        let addresses = match self.settings.hosts.get(target.host()) {
            Some(addresses) => {
                addresses.iter().map(|(ip, port)| SocketAddr::new(*ip, port.unwrap_or(target.port()))).collect()
            }
            None => (self.lookup)(target.host().to_owned(), target.port())
                .await
                .map_err(|error| FetchError::Connect(format!("cannot resolve {}: {error}", target.host())))?,
        };
        address::judge(&addresses, &self.settings.allow_private).map_err(FetchError::Address)?;
        dial(addresses).await
    }

    /// A tunnel through the configured proxy, which then is who finds and judges addresses.
    async fn through(&self, proxy: &(Box<str>, u16), target: &Target) -> Result<TcpStream, FetchError> {
        let failed = |what: String| FetchError::Connect(format!("through the proxy: {what}"));
        let addresses = (self.lookup)(proxy.0.to_string(), proxy.1).await.map_err(|error| failed(error.to_string()))?;
        let mut stream = dial(addresses).await?;
        let place = format!("{}:{}", target.host(), target.port());
        let request = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|error| failed(error.to_string()))?;
        let status = tunnel_status(&mut stream).await.map_err(|error| failed(error.to_string()))?;
        match status {
            200..=299 => Ok(stream),
            _ => Err(failed(format!("it answered {status}"))),
        }
    }
}

/// Connects to the first that takes the connection: these very addresses were judged.
async fn dial(mut addresses: Vec<SocketAddr>) -> Result<TcpStream, FetchError> {
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let mut last = FetchError::Connect("no address".into());
    for address in addresses {
        let failed = |what: String| FetchError::Connect(format!("{address}: {what}"));
        match timeout_at(Instant::now() + CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = failed(error.to_string()),
            Err(_) => last = failed(format!("no connection within {CONNECT:?}")),
        }
    }
    Err(last)
}

/// The status of a proxy's answer to CONNECT. Reads byte by byte: what follows the head belongs to TLS.
async fn tunnel_status(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<u16> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= 4096 {
            return Err(io::Error::other("its answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut answer = httparse::Response::new(&mut headers);
    answer.parse(&head).map_err(io::Error::other)?;
    answer.code.ok_or_else(|| io::Error::other("it did not answer with HTTP"))
}

async fn read(answer: http::Response<hyper::body::Incoming>, limit: usize, asked: bool) -> Result<Fetched, FetchError> {
    let (head, mut body) = answer.into_parts();
    let etag = head.headers.get(header::ETAG).filter(|etag| etag.len() <= MAX_ETAG).cloned();
    let max_age = max_age(&head.headers);
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if asked => return Ok(Fetched { body: None, etag, max_age }),
        status => {
            let note = if status.is_redirection() { "; redirects are not followed" } else { "" };
            return Err(FetchError::Status(status.as_u16(), note));
        }
    }
    let encoding = head.headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(FetchError::Answer("the answer is encoded, which was not asked for".into()));
    }
    let too_long = || FetchError::Answer(format!("the answer is longer than {limit} bytes"));
    if hyper::body::Body::size_hint(&body).lower() > limit as u64 {
        return Err(too_long());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Answer(plain(&error)))?;
        if let Some(data) = frame.data_ref() {
            if whole.len() + data.len() > limit {
                return Err(too_long());
            }
            whole.extend_from_slice(data);
        }
    }
    Ok(Fetched { body: Some(whole.freeze()), etag, max_age })
}

/// `max-age` of Cache-Control; zero where nothing may be kept.
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let mut found = None;
    for value in headers.get_all(header::CACHE_CONTROL) {
        for directive in value.to_str().ok()?.split(',') {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            match name.trim().to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" => return Some(Duration::ZERO),
                "max-age" if found.is_none() => {
                    found = value.trim().trim_matches('"').parse().ok().map(Duration::from_secs);
                }
                _ => {}
            }
        }
    }
    found
}

/// An error with what is behind it.
fn plain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::allowlist::NetSet;
    use parking_lot::Mutex;
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::net::TcpListener;

    /// Counts the connections that a place gets, and ends each.
    async fn listening(at: &str) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counting = count.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        (address, count)
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_gains_nothing() {
        let (allowed, seen) = listening("127.0.0.2").await;
        let (inside, untouched) = listening("127.0.0.1").await;
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let made = rcgen::generate_simple_self_signed(vec!["keys.example.com".into()]).unwrap();
        std::fs::write(&ca, made.cert.pem()).unwrap();
        let settings = FetchSettings {
            timeout: Duration::from_secs(5),
            refresh: Duration::from_secs(3600),
            wait: Duration::from_secs(1),
            cache: None,
            ca: Some(ca),
            signer_ca: None,
            proxy: None,
            allow_private: NetSet::new(vec!["127.0.0.2/32".parse().unwrap()]),
            hosts: BTreeMap::new(),
        };
        // What the name leads to, one answer after the other.
        let answers = [vec![allowed], vec![inside], vec![allowed, inside], vec![inside, allowed], vec![allowed]];
        let asked = Arc::new(AtomicUsize::new(0));
        let (counting, answers) = (asked.clone(), Mutex::new(answers.into_iter()));
        let lookup = move |host: String, port: u16| -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
            assert_eq!((host.as_str(), port), ("keys.example.com", 443));
            counting.fetch_add(1, Ordering::SeqCst);
            let answer = answers.lock().next().unwrap();
            Box::pin(async move { Ok(answer) })
        };
        let client = Client::with_lookup(&settings, Box::new(lookup)).unwrap();
        let target = Target::parse("https://keys.example.com/jwks").unwrap();
        for (count, connects) in [true, false, false, false, true].into_iter().enumerate() {
            let got = client.get(&target, 1000, None).await.unwrap_err();
            // Nobody there speaks TLS: that far it came, or not even to a connection.
            assert_eq!(matches!(got, FetchError::Connect(_)), connects, "{got}");
            assert_eq!(matches!(got, FetchError::Address(_)), !connects, "{got}");
            // The name is asked for once a fetch, and the connection goes to what was judged then.
            assert_eq!(asked.load(Ordering::SeqCst), count + 1);
        }
        assert_eq!((seen.load(Ordering::SeqCst), untouched.load(Ordering::SeqCst)), (2, 0));
    }
}
