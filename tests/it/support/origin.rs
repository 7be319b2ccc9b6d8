//! An HTTPS server of a sender: publishes lists and keys, or fails, lies and changes, as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What it does with a request.
#[derive(Clone, Debug)]
pub enum Says {
    /// 200 with this body, and these header lines.
    Body(Vec<u8>, String),
    /// This status, this header line, no body.
    Status(u16, String),
    /// These bytes exactly, then the end.
    Raw(Vec<u8>),
    /// A head, and then a byte now and again for ever.
    Drip,
    /// Nothing, for ever.
    Hang,
}

/// A request that it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `Host`.
    pub host: String,
    pub target: String,
    pub etag: Option<String>,
    pub authorization: Option<String>,
    /// What was posted; `None`: it was a GET.
    pub body: Option<String>,
}

type Script = dyn Fn(&Asked) -> Says + Send + Sync;

/// The server, with a certification authority of its own.
pub struct Origin {
    pub address: SocketAddr,
    folder: tempfile::TempDir,
    shared: Arc<Shared>,
    authority: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

struct Shared {
    connections: AtomicUsize,
    asked: Mutex<Vec<Asked>>,
    script: Mutex<Arc<Script>>,
}

/// A body of JSON.
pub fn json(value: &serde_json::Value) -> Says {
    Says::Body(value.to_string().into_bytes(), String::new())
}

impl Origin {
    /// Has a certificate for these names; says what the closure says.
    pub fn start(names: &[&str], script: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Self {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "Test Root");
        let key = rcgen::KeyPair::generate().expect("a key");
        let authority = rcgen::CertifiedIssuer::self_signed(params, key).expect("a root");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("a file");
        let (leaf, leaf_key) = issue(&authority, names);
        let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).expect("a key"),
            )
            .expect("a pair");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            connections: AtomicUsize::new(0),
            asked: Mutex::default(),
            script: Mutex::new(Arc::new(script)),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let (serving, config) = (serving.clone(), config.clone());
                std::thread::spawn(move || {
                    let session = rustls::ServerConnection::new(config).expect("a session");
                    serving.serve(rustls::StreamOwned::new(session, stream));
                });
            }
        });
        Self { address, folder, shared, authority }
    }

    /// From now on it says something else.
    pub fn script(&self, script: impl Fn(&Asked) -> Says + Send + Sync + 'static) {
        *self.shared.script.lock().expect("no panic under the lock") = Arc::new(script);
    }

    /// From now on it always says this.
    pub fn say(&self, says: Says) {
        self.script(move |_| says.clone());
    }

    /// Its authority's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate of its authority for these names.
    pub fn issue(&self, names: &[&str]) -> (rcgen::Certificate, rcgen::KeyPair) {
        issue(&self.authority, names)
    }

    /// A certificate of its authority, PEM, for these names and a key that is there already.
    pub fn certify(&self, names: &[&str], private_key: &str) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = rcgen::KeyPair::from_pem(private_key).expect("a key");
        let params = rcgen::CertificateParams::new(names).expect("parameters");
        params.signed_by(&key, &self.authority).expect("a certificate").pem()
    }

    /// `fetch:` of a configuration that finds these hosts here. Nothing is given up early unless `more` says when.
    pub fn fetch(&self, hosts: &[&str], more: &str) -> String {
        let hosts: Vec<_> = hosts.iter().map(|host| format!("{host}: [\"{}\"]", self.address)).collect();
        let patient = [("  wait:", "  wait: 20s\n"), ("  timeout:", "  timeout: 30s\n")];
        let patient: String = patient.iter().filter(|(key, _)| !more.contains(key)).map(|(_, line)| *line).collect();
        format!(
            "fetch:\n  ca: {:?}\n  refresh: 100ms\n  allow_private: [127.0.0.0/8]\n  hosts: {{ {} }}\n{patient}{more}",
            self.ca(),
            hosts.join(", ")
        )
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic under the lock").clone()
    }
}

fn issue(
    authority: &rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
    names: &[&str],
) -> (rcgen::Certificate, rcgen::KeyPair) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(names).expect("parameters");
    (params.signed_by(&key, authority).expect("a certificate"), key)
}

impl Shared {
    fn serve(&self, stream: impl std::io::Read + Write) {
        let mut reader = BufReader::new(stream);
        let Some(asked) = read(&mut reader) else { return };
        let script = self.script.lock().expect("no panic under the lock").clone();
        self.asked.lock().expect("no panic under the lock").push(asked.clone());
        let bytes = match script(&asked) {
            Says::Body(body, headers) => {
                let mut bytes =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len()).into_bytes();
                bytes.extend(body);
                bytes
            }
            Says::Status(status, header) => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n{header}\r\n").into(),
            Says::Raw(bytes) => bytes,
            Says::Drip => {
                let stream = reader.get_mut();
                let mut bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[".to_vec();
                while stream.write_all(&bytes).and_then(|()| stream.flush()).is_ok() {
                    bytes = b" ".to_vec();
                    std::thread::sleep(Duration::from_millis(50));
                }
                return;
            }
            Says::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
        };
        let stream = reader.get_mut();
        let _ = stream.write_all(&bytes).and_then(|()| stream.flush());
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let method = words.next()?.to_owned();
    assert!(["GET", "POST"].contains(&method.as_str()), "nothing else is ever asked");
    let target = words.next()?.to_owned();
    let mut asked = Asked { host: String::new(), target, etag: None, authorization: None, body: None };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "host" => value.clone_into(&mut asked.host),
            "if-none-match" => asked.etag = Some(value.to_owned()),
            "authorization" => asked.authorization = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    if method == "POST" {
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        asked.body = String::from_utf8(body).ok();
    }
    Some(asked)
}
