//! Who may read on the admin port, what is shown to a backend that asks for a certificate, and checks that refuse a part.

use crate::support::proxy::{free_addresses, program};
use crate::support::{Answer, Backend, Connection, Moat, PATIENCE, Proxy, post, request, sign, within};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

const SECRET: &str = "a-secret-of-some-length";
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

const ROUTES: &str = "routes:\n  - { name: open, path: /open, signature: none, duplicates: off, to: app }\n";

fn get(address: SocketAddr, path: &str, authorization: Option<&str>) -> Answer {
    let mut headers = vec![("Connection", "close")];
    headers.extend(authorization.map(|value| ("Authorization", value)));
    Connection::open(address).send(&request("GET", path, &headers, b"")).answer()
}

#[test]
fn the_admin_port_asks_for_its_token_but_probes_need_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).expect("a file");
    let backend = Backend::ok();
    let admin = format!("admin: {{ address: \"{{admin}}\", token: {{ file: {} }} }}\n", file.display());
    let proxy = Proxy::start(backend.address, &format!("{admin}{ROUTES}"));
    let ask = |path: &str, shown: Option<&str>| get(proxy.admin, path, shown).status;
    let bearer = format!("Bearer {TOKEN}");
    let basic = format!("Basic {}", BASE64_STANDARD.encode(format!("prometheus:{TOKEN}")));
    for path in ["/healthz", "/readyz"] {
        assert_eq!((ask(path, None), ask(path, Some("Bearer x"))), (200, 200), "{path}");
    }
    for path in ["/metrics", "/", "/nothing"] {
        for shown in [None, Some("Bearer x"), Some("Bearer"), Some(""), Some(TOKEN), Some(&bearer[..bearer.len() - 1])]
        {
            let answer = get(proxy.admin, path, shown);
            assert_eq!(answer.status, 401, "{path} {shown:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer, Basic realm=\"hookmoat\""));
            assert!(!answer.text().contains("hookmoat_"));
        }
    }
    assert_eq!(
        [ask("/metrics", Some(&bearer)), ask("/metrics", Some(&basic)), ask("/nothing", Some(&bearer))],
        [200, 200, 404]
    );
    // `hookmoat health` has no token.
    let health = program().args(["health", "--config"]).arg(proxy.config()).output().expect("it runs");
    assert!(health.status.success(), "{health:?}");
    // `hookmoat queue` is told the token, and says what is missing.
    let queue = |token: Option<&str>| {
        let mut command = program();
        command.args(["queue", "stats", "--admin", &format!("http://{}", proxy.admin)]);
        token.map(|token| command.env("HOOKMOAT_ADMIN_TOKEN", token));
        let output = command.output().expect("it runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert!(queue(None).contains("set HOOKMOAT_ADMIN_TOKEN"), "{}", queue(None));
    assert!(queue(Some(TOKEN)).contains("there is no queue"), "{}", queue(Some(TOKEN)));
    // Another token takes its place while the process runs.
    std::fs::write(&file, "another-token-of-some-length").expect("a file");
    let renewed = || ask("/metrics", Some("Bearer another-token-of-some-length")) == 200;
    assert!(within(PATIENCE, renewed), "{}", proxy.log());
    assert_eq!(ask("/metrics", Some(&bearer)), 401);
    assert!(!proxy.log().contains(TOKEN) && !proxy.log().contains("another-token"));
}

#[test]
fn without_the_token_itself_nobody_reads() {
    let backend = Backend::ok();
    let admin = "admin: { address: \"{admin}\", token: { env: HOOKMOAT_TEST_NOT_SET } }\n";
    let proxy = Proxy::start(backend.address, &format!("{admin}{ROUTES}"));
    for shown in [None, Some("Bearer "), Some("Bearer HOOKMOAT_TEST_NOT_SET")] {
        assert_eq!(get(proxy.admin, "/metrics", shown).status, 503, "{shown:?}");
    }
    assert_eq!(get(proxy.admin, "/readyz", None).status, 200);
    assert!(proxy.log().contains("HOOKMOAT_TEST_NOT_SET is not set"), "{}", proxy.log());
}

#[test]
fn the_admin_port_speaks_tls_and_health_and_queue_do_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a pair");
    std::fs::write(folder.path().join("tls.crt"), pair.cert.pem()).expect("a file");
    std::fs::write(folder.path().join("tls.key"), pair.signing_key.serialize_pem()).expect("a file");
    let [http, admin] = free_addresses();
    let path = folder.path().join("hookmoat.yaml");
    let sqlite = "sqlite: { path: inbox.db }";
    let config = format!(
        "listen: [{{ address: \"{http}\" }}]\nadmin: {{ address: \"{admin}\", tls: {{ certificate: tls.crt, private_key: tls.key }}, \
         token: {{ env: TOKEN }} }}\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:9\" }}\n\
         queues: {{ inbox: {{ {sqlite} }} }}\nroutes:\n  - {{ name: open, path: /open, signature: none, duplicates: off, \
         deliver: {{ queue: inbox, to: app }} }}\n"
    );
    std::fs::write(&path, &config).expect("a file");
    // The same with a queue for which the process has to be asked, with its certificate and with a stranger's.
    let broker = "rabbitmq: { url: \"amqp://127.0.0.1:9\", username: guest, password: { env: TOKEN }, queue: inbox }";
    let asking = config.replace(sqlite, broker);
    let elsewhere = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("asking.yaml"), &asking).expect("a file");
    std::fs::write(elsewhere.path().join("asking.yaml"), &asking).expect("a file");
    let other = rcgen::generate_simple_self_signed(["localhost".to_string()]).expect("a pair");
    std::fs::write(elsewhere.path().join("tls.crt"), other.cert.pem()).expect("a file");
    std::fs::write(elsewhere.path().join("tls.key"), other.signing_key.serialize_pem()).expect("a file");
    let mut command = program();
    command.args(["run", "--config"]).arg(&path).env("TOKEN", TOKEN).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it starts");
    let healthy =
        || program().args(["health", "--config"]).arg(&path).output().is_ok_and(|output| output.status.success());
    let up = within(PATIENCE, healthy);
    let bearer = format!("Bearer {TOKEN}");
    let asked = request("GET", "/metrics", &[("Authorization", &bearer), ("Connection", "close")], b"");
    let over_tls = up.then(|| Connection::open_tls(admin).send(&asked).answer());
    let plain = up.then(|| Connection::open(admin).send(&asked).try_answer());
    let url = format!("https://localhost:{}", admin.port());
    let queue = |folder: &tempfile::TempDir, more: &[&str]| {
        let mut command = program();
        command.args(["queue", "stats"]).args(more).current_dir(folder.path());
        let output = command.env("TOKEN", TOKEN).env("HOOKMOAT_ADMIN_TOKEN", TOKEN).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let file = ["--config", "asking.yaml"];
    let asked = [
        (queue(&folder, &file), Some(0), "dead "),
        (queue(&elsewhere, &file), Some(2), "does not show the certificate of"),
        (queue(&elsewhere, &["--config", "asking.yaml", "-k"]), Some(0), "dead "),
        (queue(&folder, &["--admin", &url]), Some(2), "trust its certificate with --ca FILE"),
        (queue(&folder, &["--admin", &url, "--ca", "tls.crt"]), Some(0), "dead "),
        (queue(&folder, &["--admin", &url, "--insecure"]), Some(0), "dead "),
    ];
    let _ = child.kill();
    let _ = child.wait();
    assert!(up, "it does not become healthy");
    for ((code, said), expected, word) in asked {
        assert_eq!(code, expected, "{said}");
        assert!(said.contains(word), "{said}");
    }
    let text = over_tls.expect("healthy").text();
    assert!(text.contains(&format!("hookmoat_certificate_not_after_seconds{{listener=\"{admin}\"}}")), "{text}");
    assert!(plain.flatten().is_none(), "plain text got an answer");
}

#[test]
fn a_backend_that_asks_gets_the_certificate_and_a_changed_one_is_taken_over() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut params = CertificateParams::new(vec![]).expect("no names");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
    let issue = |name: &str| {
        let key = KeyPair::generate().expect("a key");
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).expect("a name").signed_by(&key, &ca).expect("a certificate");
        (certificate, key)
    };
    let write = |name: &str| {
        let (certificate, key) = issue("proxy.internal");
        std::fs::write(folder.path().join(format!("{name}.crt")), certificate.pem()).expect("a file");
        std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).expect("a file");
    };
    std::fs::write(folder.path().join("ca.crt"), ca.pem()).expect("a file");
    let (certificate, key) = issue("localhost");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.der().to_vec())).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.expect("a verifier"))
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
        .expect("a pair");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let upstream = |client: &str| {
        format!(
            "upstreams:\n  app:\n    url: https://{{backend}}\n    tls: {{ ca: {}, server_name: localhost{client} }}\n{ROUTES}",
            at("ca.crt")
        )
    };
    let nobody = Moat::with_backend(Backend::tls(config.clone()), &upstream(""));
    assert_eq!(nobody.proxy.send(&post("/open", &[], b"{}")).status, 502);
    // A certificate of nobody's at first.
    let stranger = rcgen::generate_simple_self_signed(["proxy.internal".to_string()]).expect("a pair");
    std::fs::write(folder.path().join("client.crt"), stranger.cert.pem()).expect("a file");
    std::fs::write(folder.path().join("client.key"), stranger.signing_key.serialize_pem()).expect("a file");
    let client = format!(", client_certificate: {}, client_key: {}", at("client.crt"), at("client.key"));
    let moat = Moat::with_backend(Backend::tls(config), &upstream(&client));
    assert_eq!(moat.proxy.send(&post("/open", &[], b"{}")).status, 502);
    write("client");
    moat.wait_until("the new certificate", || moat.proxy.send(&post("/open", &[], b"{}")).status == 200);
    assert_eq!(moat.backend.requests()[0].body, b"{}");
}

#[test]
fn a_check_can_refuse_a_part_and_an_event_is_always_on_the_same_side() {
    let config = |percent: u8| {
        format!(
            "routes:\n  - name: github\n    path: /hook\n    provider: github\n    secrets: [{{ insecure_literal: \"{SECRET}\" }}]\n    \
             enforce: {{ signature: {percent}% }}\n    to: app\n"
        )
    };
    let forged = |id: &str| {
        let wrong = format!("sha256={:064}", 0);
        post("/hook", &[("X-Hub-Signature-256", &wrong), ("X-GitHub-Delivery", id)], b"{}")
    };
    let ids: Vec<String> = (0..40).map(|number| format!("evt-{number}")).collect();
    let refused = |percent: u8| -> Vec<bool> {
        let moat = Moat::new(&config(percent));
        let statuses: Vec<u16> = ids.iter().map(|id| moat.proxy.send(&forged(id)).status).collect();
        // A retry meets the same judgement.
        let again: Vec<u16> = ids.iter().map(|id| moat.proxy.send(&forged(id)).status).collect();
        assert_eq!(statuses, again, "{percent}%");
        assert!(statuses.iter().all(|status| matches!(status, 200 | 401)), "{statuses:?}");
        let passed = statuses.iter().filter(|status| **status == 200).count();
        let observed = "hookmoat_observed_total{check=\"signature\",reason=\"signature_mismatch\",route=\"github\"}";
        moat.wait_until("counted", || moat.proxy.metric(observed) == (2 * passed) as f64);
        let refused = (2 * (ids.len() - passed)) as f64;
        moat.wait_until("counted", || moat.count("github", "signature_mismatch") == refused);
        assert_eq!(moat.backend.requests().len(), 2 * passed);
        // The honest are not concerned.
        let signature = sign::github(SECRET, b"{\"a\":1}");
        let genuine = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", "genuine")];
        assert_eq!(moat.proxy.send(&post("/hook", &genuine, b"{\"a\":1}")).status, 200);
        statuses.iter().map(|status| *status == 401).collect()
    };
    let (tenth, half) = (refused(10), refused(50));
    assert!(refused(0).iter().all(|refused| !refused) && refused(100).iter().all(|refused| *refused));
    let count = |these: &[bool]| these.iter().filter(|refused| **refused).count();
    assert!(0 < count(&half) && count(&half) < ids.len() && count(&tenth) < count(&half), "{tenth:?} {half:?}");
    assert!(tenth.iter().zip(&half).all(|(tenth, half)| !tenth || *half), "who is in the tenth is in the half");
}
