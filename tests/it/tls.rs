//! Certificates by name, certificates of senders, and versions of TLS.

use crate::support::client::Anything;
use crate::support::{Answer, Backend, Connection, Moat, post};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData, SanType};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer(name: &str) -> Issuer {
    let mut params = CertificateParams::new(vec![]).expect("no names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root")
}

/// A certificate with its key.
struct Shown {
    der: CertificateDer<'static>,
    key: KeyPair,
    pem: String,
}

fn issue(issuer: Option<&Issuer>, common_name: &str, names: &[&str]) -> Shown {
    let mut params = CertificateParams::new(vec![]).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    for name in names {
        let name = name.to_string();
        params.subject_alt_names.push(match name.split_once(':') {
            Some(("plain uri", name)) => SanType::URI(name.to_owned().try_into().expect("ASCII")),
            Some(_) => SanType::URI(name.try_into().expect("ASCII")),
            None => SanType::DnsName(name.try_into().expect("ASCII")),
        });
    }
    let key = KeyPair::generate().expect("a key");
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let certificate = certificate.expect("a certificate");
    Shown { der: certificate.der().clone(), pem: certificate.pem(), key }
}

fn write_pair(folder: &Path, name: &str, pair: &Shown) {
    std::fs::write(folder.join(format!("{name}.crt")), &pair.pem).expect("a file");
    std::fs::write(folder.join(format!("{name}.key")), pair.key.serialize_pem()).expect("a file");
}

/// What a client says of itself.
#[derive(Clone, Copy)]
struct Client<'a> {
    name: &'a str,
    shown: Option<&'a Shown>,
    only_tls12: bool,
}

const CLIENT: Client<'static> = Client { name: "localhost", shown: None, only_tls12: false };

/// What a client remembers of its sessions is in there.
fn remembering(client: Client<'_>) -> Arc<rustls::ClientConfig> {
    let versions: &[_] = if client.only_tls12 { &[&rustls::version::TLS12] } else { rustls::ALL_VERSIONS };
    let builder = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(versions)
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(Arc::new(rustls::crypto::ring::default_provider()))));
    Arc::new(match client.shown {
        Some(shown) => {
            let key = PrivateKeyDer::try_from(shown.key.serialize_der()).expect("a key");
            builder.with_client_auth_cert(vec![shown.der.clone()], key).expect("a pair")
        }
        None => builder.with_no_client_auth(),
    })
}

/// The server's certificate and the answer to one request; an error where the handshake or the connection failed.
fn ask(address: SocketAddr, client: Client<'_>, request: &[u8]) -> std::io::Result<(Vec<u8>, String)> {
    let (shown, text, _) = ask_again(address, &remembering(client), client.name, request)?;
    Ok((shown, text))
}

/// The same by a client that has been there before; and whether its session was taken up again.
fn ask_again(
    address: SocketAddr,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
    request: &[u8],
) -> std::io::Result<(Vec<u8>, String, bool)> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let session = rustls::ClientConnection::new(config.clone(), name).expect("a session");
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut stream = rustls::StreamOwned::new(session, socket);
    stream.write_all(request)?;
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    if text.is_empty() {
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    let shown = stream.conn.peer_certificates().and_then(|chain| chain.first()).expect("a certificate").to_vec();
    let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok((shown, String::from_utf8_lossy(&text).into_owned(), resumed))
}

fn request(path: &str) -> Vec<u8> {
    post(path, &[("Connection", "close")], b"{}")
}

fn routes(tls: &str, lines: &str) -> String {
    format!(
        "listen:\n  - address: {{http}}\n  - address: {{https}}\n    tls: {tls}\nroutes:\n  - name: open\n    path: /open\n    \
         signature: none\n    duplicates: off\n    to: app\n{lines}"
    )
}

#[test]
fn each_name_gets_its_certificate_and_everybody_else_the_first() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| format!("{:?}", folder.path().join(name));
    let [first, second, wild] = [
        issue(None, "first", &["localhost"]),
        issue(None, "second", &["two.example.com", "hooks.example.org"]),
        issue(None, "wild", &["*.example.net"]),
    ];
    for (name, pair) in [("first", &first), ("second", &second), ("wild", &wild)] {
        write_pair(folder.path(), name, pair);
    }
    let tls = format!(
        "{{ certificate: {}, private_key: {}, others: [{{ certificate: {}, private_key: {} }}, {{ certificate: {}, \
         private_key: {} }}] }}",
        at("first.crt"),
        at("first.key"),
        at("second.crt"),
        at("second.key"),
        at("wild.crt"),
        at("wild.key")
    );
    let moat = Moat::with_backend(Backend::ok(), &routes(&tls, ""));
    for (name, expected) in [
        ("localhost", &first),
        ("hooks.example.org", &second),
        ("HOOKS.Example.ORG", &second),
        ("a.example.net", &wild),
        ("a.b.example.net", &first),
        ("example.net", &first),
        ("unknown.test", &first),
    ] {
        let (shown, text) = ask(moat.proxy.https, Client { name, ..CLIENT }, &request("/open")).expect("an answer");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        assert_eq!(shown, expected.der.to_vec(), "{name}");
    }
    // One of several is exchanged.
    let renewed = issue(None, "second", &["hooks.example.org"]);
    write_pair(folder.path(), "second", &renewed);
    moat.wait_until("the new one", || {
        let client = Client { name: "hooks.example.org", ..CLIENT };
        ask(moat.proxy.https, client, &request("/open")).is_ok_and(|(shown, _)| shown == renewed.der.to_vec())
    });
}

fn refused(text: &std::io::Result<(Vec<u8>, String)>) -> bool {
    text.is_err()
}

#[test]
fn a_sender_must_show_a_certificate_of_the_right_issuer_and_the_routes_sender() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| format!("{:?}", folder.path().join(name));
    write_pair(folder.path(), "server", &issue(None, "server", &["localhost"]));
    let (ours, theirs) = (issuer("ours"), issuer("theirs"));
    std::fs::write(folder.path().join("ca.crt"), ours.pem()).expect("a file");
    let sender = issue(Some(&ours), "sender", &["sender.example.com", "spiffe://example.com/sender"]);
    let other = issue(Some(&ours), "other", &["other.example.com"]);
    let stranger = issue(Some(&theirs), "sender", &["sender.example.com"]);
    let tricky = issue(Some(&ours), "nobody, O=x", &["plain uri:sender.example.com"]);
    let spki = {
        use sha2::Digest as _;
        hex::encode(sha2::Sha256::digest(other.key.subject_public_key_info()))
    };
    let lines = format!(
        "  - {{ name: named, path: /named, signature: none, duplicates: off, to: app, client_certificates: [{{ name: \
         Sender.example.com }}] }}\n  - {{ name: pinned, path: /pinned, signature: none, duplicates: off, to: app, \
         client_certificates: [{{ spki_sha256: {spki} }}, {{ subject: \"CN=nobody, O=x\" }}] }}\n  - {{ name: subject, path: \
         /subject, signature: none, duplicates: off, to: app, client_certificates: [{{ subject: CN=sender }}] }}\n  - {{ \
         name: uri, path: /uri, signature: none, duplicates: off, to: app, client_certificates: [{{ name: \
         \"spiffe://example.com/sender\" }}] }}\n"
    );
    for (mode, without) in [("required", None), ("optional", Some(403))] {
        let tls = format!(
            "{{ certificate: {}, private_key: {}, client_ca: {}, client_certificate: {mode} }}",
            at("server.crt"),
            at("server.key"),
            at("ca.crt")
        );
        let moat = Moat::with_backend(Backend::ok(), &routes(&tls, &lines));
        let status = |path: &str, shown: Option<&Shown>| {
            let answer = ask(moat.proxy.https, Client { shown, ..CLIENT }, &request(path)).ok()?.1;
            answer.get(9..12).and_then(|status| status.parse::<u16>().ok())
        };
        for (path, by_sender, by_other) in [
            ("/open", 200, 200),
            ("/named", 200, 403),
            ("/pinned", 403, 200),
            ("/subject", 200, 403),
            ("/uri", 200, 403),
        ] {
            let before = moat.backend.requests().len();
            assert_eq!(status(path, Some(&sender)), Some(by_sender), "{mode} {path}\n{}", moat.proxy.log());
            assert_eq!(status(path, Some(&other)), Some(by_other), "{mode} {path}\n{}", moat.proxy.log());
            let reached = [by_sender, by_other].iter().filter(|status| **status == 200).count();
            assert_eq!(moat.backend.requests().len(), before + reached, "{mode} {path}");
            if path != "/open" {
                assert_eq!(status(path, None), without, "{mode} {path}");
                // Plain HTTP shows nothing.
                assert_eq!(moat.proxy.send(&post(path, &[], b"{}")).status, 403);
            }
        }
        assert_eq!(status("/open", None), without.map(|_| 200));
        // One name that looks like two, and one that looks like another kind.
        assert_eq!(status("/pinned", Some(&tricky)), Some(403));
        assert_eq!(status("/named", Some(&tricky)), Some(403));
        let before = moat.backend.connections();
        assert!(refused(&ask(moat.proxy.https, Client { shown: Some(&stranger), ..CLIENT }, &request("/named"))));
        assert_eq!(moat.backend.connections(), before);
        let event = moat.proxy.wait_for_event("client_certificate");
        assert_eq!(event["status"], 403);
        assert!(moat.proxy.log().contains("subject CN=nobody\\\\, O=x, spki_sha256 "), "{}", moat.proxy.log());
        assert!(moat.proxy.log().contains("subject CN=other, name other.example.com, spki_sha256 "));
        let known = [false, true].map(|only_tls12| remembering(Client { shown: Some(&sender), only_tls12, ..CLIENT }));
        for known in &known {
            assert!(
                ask_again(moat.proxy.https, known, "localhost", &request("/named")).expect("known").1.contains(" 200 ")
            );
            let (_, text, resumed) =
                ask_again(moat.proxy.https, known, "localhost", &request("/named")).expect("known");
            assert!(text.contains(" 200 ") && !resumed);
        }
        // Another issuer takes its place: who was known is a stranger now, whatever is remembered.
        std::fs::write(folder.path().join("ca.crt"), theirs.pem()).expect("a file");
        moat.wait_until("the new issuer", || status("/named", Some(&stranger)) == Some(200));
        assert_eq!(status("/named", Some(&sender)), None);
        for known in &known {
            assert!(ask_again(moat.proxy.https, known, "localhost", &request("/named")).is_err());
        }
        std::fs::write(folder.path().join("ca.crt"), ours.pem()).expect("a file");
    }
}

#[test]
fn tls_1_2_can_be_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| format!("{:?}", folder.path().join(name));
    write_pair(folder.path(), "server", &issue(None, "server", &["localhost"]));
    for (line, taken) in [("", true), (", min_version: TLSv1.2", true), (", min_version: TLSv1.3", false)] {
        let tls = format!("{{ certificate: {}, private_key: {}{line} }}", at("server.crt"), at("server.key"));
        let moat = Moat::with_backend(Backend::ok(), &routes(&tls, ""));
        let old = ask(moat.proxy.https, Client { only_tls12: true, ..CLIENT }, &request("/open"));
        assert_eq!(old.is_ok(), taken, "{line}");
        if let Err(error) = old {
            assert!(error.to_string().contains("ProtocolVersion"), "not in the handshake: {error}");
        }
        // Where no sender shows a certificate a session may be taken up again.
        let known = remembering(CLIENT);
        for again in [false, true] {
            let (_, text, resumed) =
                ask_again(moat.proxy.https, &known, "localhost", &request("/open")).expect("TLS 1.3");
            assert!(text.contains(" 200 ") && resumed == again, "{line}");
        }
        let answer: Answer = Connection::open(moat.proxy.http).send(&post("/open", &[], b"{}")).answer();
        assert_eq!(answer.status, 200);
    }
}
