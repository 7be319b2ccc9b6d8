//! Clients that say exactly what they are told: raw HTTP/1.1 over TCP or TLS, and HTTP/2 over TLS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection that is read answer by answer.
pub struct Connection {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("the proxy listens")
    }

    /// `None` where nobody listens.
    pub fn try_open(address: SocketAddr) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        socket.set_nodelay(true).expect("nodelay");
        let stream = Box::new(socket.try_clone().expect("a second handle"));
        Some(Self { stream, socket, buffer: Vec::new() })
    }

    /// TLS without a look at the certificate.
    pub fn open_tls(address: SocketAddr) -> Self {
        Self::open_tls_as(address, b"http/1.1")
    }

    /// The same for another protocol, whose bytes are then the caller's.
    pub fn open_tls_as(address: SocketAddr, alpn: &[u8]) -> Self {
        Self::open_tls_behind(address, alpn, b"")
    }

    /// From another loopback address.
    pub fn open_from(from: [u8; 4], address: SocketAddr) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::from((from, 0))).expect("an address of this machine");
        connect(&socket, &address).expect("the proxy listens");
        let socket = TcpStream::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let stream = Box::new(socket.try_clone().expect("a second handle"));
        Self { stream, socket, buffer: Vec::new() }
    }

    /// TLS after these bytes.
    pub fn open_tls_behind(address: SocketAddr, alpn: &[u8], first: &[u8]) -> Self {
        let mut socket = TcpStream::connect(address).expect("the proxy listens");
        socket.write_all(first).expect("a few bytes");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        socket.set_nodelay(true).expect("nodelay");
        let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
        let config = Arc::new(tls_config(&[alpn]));
        let session = rustls::ClientConnection::new(config, name).expect("a session");
        let stream = rustls::StreamOwned::new(session, socket.try_clone().expect("a second handle"));
        Self { stream: Box::new(stream), socket, buffer: Vec::new() }
    }

    /// The certificate that a TLS listener shows.
    pub fn certificate(address: SocketAddr) -> Vec<u8> {
        let mut socket = TcpStream::connect(address).expect("the proxy listens");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
        let mut session = rustls::ClientConnection::new(Arc::new(tls_config(&[b"http/1.1"])), name).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut socket).expect("a handshake");
        }
        session.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec()
    }

    pub fn send(&mut self, bytes: &[u8]) -> &mut Self {
        // A proxy that has already refused may have closed: the answer is what counts.
        let _ = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        self
    }

    /// The next answer, interim ones skipped.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        self.try_answer().expect("an answer")
    }

    /// The next answer to a request with this method: to HEAD none has a body.
    #[track_caller]
    pub fn answer_to(&mut self, method: &str) -> Answer {
        if method == "HEAD" { self.head().expect("an answer") } else { self.answer() }
    }

    /// The next answer, or `None` when the connection ends first.
    pub fn try_answer(&mut self) -> Option<Answer> {
        loop {
            let answer = self.any_answer()?;
            if answer.status >= 200 {
                return Some(answer);
            }
        }
    }

    /// The next answer's head, interim ones included.
    pub fn head(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let mut lines = head.trim_end().split("\r\n");
        let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
            .collect();
        Some(Answer { status, headers, body: Vec::new() })
    }

    /// The next answer, interim ones included.
    pub fn any_answer(&mut self) -> Option<Answer> {
        let mut answer = self.head()?;
        let status = answer.status;
        if status < 200 || status == 204 || status == 304 {
            return Some(answer);
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let line = self.line()?;
                let size = usize::from_str_radix(line.trim(), 16).ok()?;
                let mut chunk = self.take(size + 2)?;
                chunk.truncate(size);
                if size == 0 {
                    return Some(answer);
                }
                answer.body.extend_from_slice(&chunk);
            }
        }
        match answer.header("content-length").map(str::to_string) {
            Some(length) => answer.body = self.take(length.parse().ok()?)?,
            None => {
                while self.fill().is_some() {}
                answer.body = std::mem::take(&mut self.buffer);
            }
        }
        Some(answer)
    }

    /// Does the other side close (it has the read timeout for it), with nothing more said?
    pub fn is_closed(&mut self) -> bool {
        use std::io::ErrorKind::{TimedOut, WouldBlock};
        self.buffer.is_empty()
            && match self.stream.read(&mut [0; 1]) {
                Ok(count) => count == 0,
                Err(error) => !matches!(error.kind(), WouldBlock | TimedOut),
            }
    }

    /// Sends these bytes unless the other side has closed by now, and keeps what it said. Does not wait.
    pub fn is_shut(&mut self, bytes: &[u8]) -> bool {
        let _ = self.socket.set_read_timeout(Some(Duration::from_millis(1)));
        let mut room = [0; 4096];
        let shut = match self.stream.read(&mut room) {
            Ok(count) => {
                self.buffer.extend_from_slice(&room[..count]);
                count == 0
            }
            Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
        };
        let _ = self.socket.set_read_timeout(Some(Duration::from_secs(30)));
        shut || (!bytes.is_empty() && self.stream.write_all(bytes).is_err())
    }

    /// Says that nothing more comes from our side.
    pub fn end(&mut self) -> &mut Self {
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        self
    }

    /// So many bytes as they come, or fewer at the end.
    pub fn read_raw(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.fill().is_some() {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Closes our side hard.
    pub fn abort(self) {
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            self.fill()?;
        }
    }

    fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill()?;
        }
        let rest = self.buffer.split_off(count);
        Some(std::mem::replace(&mut self.buffer, rest))
    }

    fn fill(&mut self) -> Option<()> {
        let mut room = [0; 64 * 1024];
        match self.stream.read(&mut room) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.buffer.extend_from_slice(&room[..count]);
                Some(())
            }
        }
    }
}

/// A POST with Content-Length, as bytes.
pub fn post(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    request("POST", path, headers, body)
}

/// A request with `Host: localhost` (unless given) and Content-Length, as bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        text += "Host: localhost\r\n";
    }
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n", body.len());
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One HTTP/2 request over TLS on a connection of its own.
pub async fn http2(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
    let (mut sender, driver) = http2_connect(address).await;
    let driver = tokio::spawn(driver);
    let answer = http2_send(&mut sender, method, path, headers, body).await.expect("an answer");
    driver.abort();
    answer
}

pub type Http2 = h2::client::SendRequest<bytes::Bytes>;

/// An HTTP/2 connection over TLS, and the future that drives it.
pub async fn http2_connect(address: SocketAddr) -> (Http2, impl Future<Output = ()>) {
    let socket = tokio::net::TcpStream::connect(address).await.expect("the proxy listens");
    socket.set_nodelay(true).expect("nodelay");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_config(&[b"h2"])));
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let stream = connector.connect(name, socket).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.expect("an HTTP/2 handshake");
    (sender, async move {
        let _ = connection.await;
    })
}

/// One request on an HTTP/2 connection. `headers` may name `:authority`.
pub async fn http2_send(
    sender: &mut Http2,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<Answer, h2::Error> {
    let authority = headers.iter().find(|(name, _)| *name == ":authority").map_or("localhost", |(_, value)| value);
    let mut request = http::Request::builder().method(method).uri(format!("https://{authority}{path}"));
    for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with(':')) {
        request = request.header(*name, *value);
    }
    let request = request.body(()).expect("a request");
    let mut sender = sender.clone().ready().await?;
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    let mut left = bytes::Bytes::from(body);
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        match std::future::poll_fn(|context| stream.poll_capacity(context)).await {
            // The proxy has answered already and wants no more.
            None | Some(Err(_)) => break,
            Some(Ok(room)) => {
                let part = left.split_to(room.min(left.len()));
                if stream.send_data(part, left.is_empty()).is_err() {
                    break;
                }
            }
        }
    }
    let response = response.await?;
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let mut data = response.into_body();
    let mut body = Vec::new();
    while let Some(chunk) = data.data().await {
        let Ok(chunk) = chunk else { break };
        let _ = data.flow_control().release_capacity(chunk.len());
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body })
}

fn tls_config(alpn: &[&[u8]]) -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

#[derive(Debug)]
pub struct Anything(pub Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
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
