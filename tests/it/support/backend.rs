//! A backend that counts connections, records every request byte for byte, and answers as it is told.

use super::PATIENCE;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    pub target: String,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// On which connection, counted from 0.
    pub connection: usize,
}

impl Recorded {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn count(&self, name: &str) -> usize {
        self.headers.iter().filter(|(known, _)| known == name).count()
    }
}

/// What to do with a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer with this status and body.
    Status(u16, &'static str),
    /// These bytes exactly; then the connection stays open.
    Raw(Vec<u8>),
    /// These bytes exactly; then the connection is closed.
    RawClose(Vec<u8>),
    /// Close without a word.
    Close,
    /// Answer after a while.
    After(Duration, Box<Reply>),
    /// Never answer.
    Hang,
}

type Handler = dyn Fn(&Recorded, usize) -> Reply + Send + Sync;

/// A recording backend. Stops listening when dropped.
pub struct Backend {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    connections: AtomicUsize,
    requests: Mutex<Vec<Recorded>>,
    count: AtomicUsize,
    record: bool,
    handler: Box<Handler>,
}

impl Backend {
    /// Answers 200 to everything.
    pub fn ok() -> Self {
        Self::with(|_, _| Reply::Status(200, "ok"))
    }

    /// Answers as the closure says; its second argument counts requests from 0.
    pub fn with(handler: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(handler, |shared, stream, connection| shared.serve(stream, connection))
    }

    /// The same, but keeps no requests: for very many of them.
    pub fn unrecorded(handler: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen_with(false, handler, |shared, stream, connection| shared.serve(stream, connection))
    }

    /// Answers 200 over TLS.
    pub fn tls(config: rustls::ServerConfig) -> Self {
        let config = Arc::new(config);
        Self::listen(
            |_, _| Reply::Status(200, "ok"),
            move |shared, stream, connection| {
                let session = rustls::ServerConnection::new(config.clone()).expect("a session");
                shared.serve(rustls::StreamOwned::new(session, stream), connection);
            },
        )
    }

    /// Answers 200 on a unix socket; the address means nothing then.
    pub fn unix(path: &Path) -> Self {
        let listener = UnixListener::bind(path).expect("a socket");
        let shared = Shared::new(true, |_, _| Reply::Status(200, "ok"));
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serving, connection) = (serving.clone(), serving.connect());
                std::thread::spawn(move || serving.serve(stream, connection));
            }
        });
        Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), shared }
    }

    /// Does with each connection what the closure does; nothing is recorded but their number.
    pub fn raw(serve: impl Fn(TcpStream, usize) + Send + Sync + 'static) -> Self {
        Self::listen(|_, _| Reply::Close, move |_, stream, connection| serve(stream, connection))
    }

    fn listen(
        handler: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static,
        serve: impl Fn(&Shared, TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        Self::listen_with(true, handler, serve)
    }

    fn listen_with(
        record: bool,
        handler: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static,
        serve: impl Fn(&Shared, TcpStream, usize) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Shared::new(record, handler);
        let (serving, serve) = (shared.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (serving, serve, connection) = (serving.clone(), serve.clone(), serving.connect());
                std::thread::spawn(move || serve(&serving, stream, connection));
            }
        });
        Self { address, shared }
    }

    /// Connections accepted so far. "Refused means untouched" is this number staying what it was.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Requests read to their end so far.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().expect("no panic under the lock").clone()
    }

    /// The only request so far.
    #[track_caller]
    pub fn only(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        requests.into_iter().next().expect("one")
    }

    /// Waits until so many requests were read. A failure after a minute, not a measure of time.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        let begun = Instant::now();
        while self.requests().len() < count {
            assert!(begun.elapsed() < PATIENCE, "{} of {count} requests came", self.requests().len());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Shared {
    fn new(record: bool, handler: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static) -> Arc<Self> {
        let (connections, requests) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        Arc::new(Self { connections, requests, count: AtomicUsize::new(0), record, handler: Box::new(handler) })
    }

    fn connect(&self) -> usize {
        self.connections.fetch_add(1, Ordering::SeqCst)
    }

    fn serve(&self, stream: impl Read + Write, connection: usize) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader, connection) {
            if self.record {
                self.requests.lock().expect("no panic under the lock").push(request.clone());
            }
            let count = self.count.fetch_add(1, Ordering::SeqCst);
            let mut reply = (self.handler)(&request, count);
            while let Reply::After(time, then) = reply {
                std::thread::sleep(time);
                reply = *then;
            }
            let (bytes, close) = match reply {
                Reply::Status(status, body) => {
                    (format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes(), false)
                }
                Reply::Raw(bytes) => (bytes, false),
                Reply::RawClose(bytes) => (bytes, true),
                Reply::Close => (Vec::new(), true),
                Reply::Hang => loop {
                    std::thread::sleep(Duration::from_secs(3600));
                },
                Reply::After(..) => unreachable!("unwrapped above"),
            };
            let stream = reader.get_mut();
            if stream.write_all(&bytes).and_then(|()| stream.flush()).is_err() || close {
                return;
            }
        }
    }
}

/// Reads a request as we write them: one Content-Length, nothing else.
pub fn read_request(reader: &mut impl BufRead, connection: usize) -> Option<Recorded> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = Vec::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_string();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        headers.push((name.to_ascii_lowercase(), value.to_string()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Recorded { method, target, headers, body, connection })
}
