//! What the backend gets beside the body, and what becomes of backends that fail, lie or hang.

use super::support::backend::read_request;
use super::support::client::{Http2, http2, http2_connect, http2_send};
use super::support::{Backend, Connection, PATIENCE, Proxy, Reply, request, sign, within};
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";

/// One worker, since each has connections of its own to the backend.
fn config(upstream: &str, to: &str, more: &str) -> String {
    format!(
        "workers: 1\nupstreams: {{ app: {upstream} }}\nroutes:\n  - name: github\n    path: /hook\n    methods: [POST, GET, HEAD]\n    provider: github\n    \
         secrets: [{{ insecure_literal: {SECRET} }}]\n    max_body: 25MiB\n    to: {to}\n{more}"
    )
}

fn start(backend: &Backend) -> Proxy {
    Proxy::start(backend.address, &config("\"http://{backend}\"", "app", ""))
}

/// A deadline short enough to wait for.
fn start_impatient(backend: &Backend) -> Proxy {
    let upstream = "{ url: \"http://{backend}\", timeout: 2s, connect_timeout: 2s, read_timeout: 1500ms }";
    Proxy::start(backend.address, &config(upstream, "app", ""))
}

fn signed_with(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let signature = sign::github(SECRET, body);
    let mut all = vec![("X-Hub-Signature-256", &*signature)];
    all.extend(headers);
    request(method, target, &all, body)
}

/// An event that never came before.
fn fresh() -> Vec<u8> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let id = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
    signed_with("POST", "/hook", &[("X-GitHub-Delivery", &id)], id.as_bytes())
}

#[test]
fn what_could_deceive_a_backend_is_replaced_and_the_rest_arrives_as_it_was() {
    let backend = Backend::ok();
    let proxy =
        Proxy::start(backend.address, &config("\"http://{backend}\"", "app", "    content_encodings: [gzip]\n"));
    let kept = [
        ("X-GitHub-Event", "push"),
        ("X-Hub-Signature", "sha1=00"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Content-Encoding", "gzip"),
        ("User-Agent", "GitHub-Hookshot/1"),
        ("Authorization", "Basic eDp5"),
        ("Cookie", "a=1; b=2"),
        ("Accept", "*/*"),
        ("X-Odd", "caf\u{e9}"),
    ];
    let replaced = [
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Request-Id",
        "Hookmoat-Route",
        "Hookmoat-Verified",
        "Hookmoat-Provider",
        "Hookmoat-Event-Id",
    ];
    let dropped = [
        "Forwarded",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Forwarded-Ssl",
        "X-Real-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "X-Original-URL",
        "Client-Cert",
        "Client-Cert-Chain",
        "DO-Connecting-IP",
        "X-NF-Client-Connection-IP",
        "X-Custom-IP-Authorization",
        "X-ARR-ClientCert",
        "X-Amzn-Mtls-Clientcert-Subject",
        "X-Client-Verify",
        "X-Override-URL",
        "X-Rewrite-URL",
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Host",
        "Front-End-Https",
        "Proxy",
        "Hookmoat-Anything",
        "X_Remote_User",
        "X_Custom",
        "Keep-Alive",
        "Proxy-Connection",
        "Proxy-Authorization",
        "Trailer",
    ];
    let mut headers = kept.to_vec();
    headers.extend(replaced.iter().chain(&dropped).map(|name| (*name, "203.0.113.66")));
    headers.extend([("Connection", "keep-alive"), ("TE", "trailers"), ("Host", "Hooks.Example.com:8080")]);
    for (count, (id, proto)) in [("event-1", "http"), ("event-2", "https")].into_iter().enumerate() {
        let mut headers = headers.clone();
        headers.push(("X-GitHub-Delivery", id));
        let bytes = signed_with("POST", "/hook?a=%20b&a=1&&c", &headers, proto.as_bytes());
        let answer = if proto == "http" { proxy.send(&bytes) } else { proxy.send_tls(&bytes) };
        assert_eq!(answer.status, 200, "{}", proxy.log());
        let got = &backend.requests()[count];
        assert_eq!((&*got.method, &*got.target), ("POST", "/hook?a=%20b&a=1&&c"));
        for (name, value) in &kept {
            let name = name.to_ascii_lowercase();
            assert_eq!((got.header(&name), got.count(&name)), (Some(*value), 1), "{name}");
        }
        for name in dropped.iter().chain(&["Transfer-Encoding", "TE", "Expect", "Upgrade", "Connection"]) {
            assert_eq!(got.header(&name.to_ascii_lowercase()), None, "{name}");
        }
        for (name, value) in [
            ("host", "Hooks.Example.com:8080"),
            ("content-length", &proto.len().to_string()),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", proto),
            ("x-forwarded-host", "Hooks.Example.com:8080"),
            ("x-request-id", answer.header("x-request-id").expect("an ID")),
            ("hookmoat-route", "github"),
            ("hookmoat-verified", "true"),
            ("hookmoat-provider", "github"),
            ("hookmoat-event-id", id),
            ("x-github-delivery", id),
            ("x-hub-signature-256", &sign::github(SECRET, proto.as_bytes())),
        ] {
            assert_eq!((got.header(name), got.count(name)), (Some(value), 1), "{name}");
        }
    }
}

#[test]
fn framing_is_ours_however_the_body_came() {
    let backend = Backend::ok();
    let proxy = start(&backend);
    let signature = sign::github(SECRET, b"hello");
    let chunked = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nX-Hub-Signature-256: {signature}\r\nX-GitHub-Delivery: chunked\r\n\
         Transfer-Encoding: chunked\r\nExpect: 100-continue\r\nTrailer: X-Real-Ip\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    assert_eq!(proxy.send(chunked.as_bytes()).status, 200);
    let got = backend.only();
    assert_eq!((got.header("content-length"), &*got.body), (Some("5"), &b"hello"[..]));
    for name in ["transfer-encoding", "expect", "trailer", "x-real-ip"] {
        assert!(got.headers.iter().all(|(known, _)| known != name), "{name}");
    }
}

#[tokio::test]
async fn over_http2_the_backend_gets_the_same() {
    let backend = Backend::ok();
    let proxy = start(&backend);
    let signature = sign::github(SECRET, b"{}");
    let headers = [
        (":authority", "hooks.example.com"),
        ("x-hub-signature-256", &*signature),
        ("x-github-delivery", "h2"),
        ("x-forwarded-for", "203.0.113.66"),
        ("te", "trailers"),
    ];
    assert_eq!(http2(proxy.https, "POST", "/hook?x=1", &headers, b"{}".to_vec()).await.status, 200);
    let got = backend.only();
    assert_eq!(got.target, "/hook?x=1");
    for (name, value) in [
        ("host", "hooks.example.com"),
        ("x-forwarded-host", "hooks.example.com"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-proto", "https"),
        ("x-hub-signature-256", &signature),
        ("content-length", "2"),
    ] {
        assert_eq!((got.header(name), got.count(name)), (Some(value), 1), "{name}");
    }
    assert_eq!(got.header("te"), None);
}

#[tokio::test]
async fn trailers_over_http2_end_their_own_request_alone() {
    let backend = Backend::ok();
    let proxy = start(&backend);
    let headers = |id: &'static str| {
        [("x-hub-signature-256", sign::github(SECRET, id.as_bytes())), ("x-github-delivery", id.to_owned())]
    };
    let ask = async |sender: &mut Http2, id: &'static str| {
        let headers = headers(id);
        let headers = headers.each_ref().map(|(name, value)| (*name, &**value));
        http2_send(sender, "POST", "/hook", &headers, id.into()).await.expect("an answer").status
    };
    let (mut sender, driver) = http2_connect(proxy.https).await;
    let driver = tokio::spawn(driver);
    let mut request = http::Request::post("https://localhost/hook");
    for (name, value) in headers("trailed") {
        request = request.header(name, value);
    }
    let (response, mut stream) = sender.send_request(request.body(()).expect("a request"), false).expect("sent");
    stream.send_data("trailed".into(), false).expect("sent");
    assert_eq!(ask(&mut sender, "before").await, 200);
    stream
        .send_trailers([("x-trailer".parse().expect("a name"), "1".parse().expect("a value"))].into_iter().collect())
        .expect("sent");
    let refused = response.await.expect_err("no answer");
    assert_eq!((refused.is_reset(), refused.reason()), (true, Some(h2::Reason::PROTOCOL_ERROR)), "{refused}");
    let event = proxy.wait_for_event("malformed");
    assert!(event["detail"].as_str().is_some_and(|detail| detail.contains("trailer fields")), "{event}");
    assert_eq!(proxy.metric("hookmoat_http2_streams_reset_total"), 1.0);
    assert_eq!(ask(&mut sender, "after").await, 200);
    let ids: Vec<_> = backend.requests().iter().map(|got| got.header("x-github-delivery").map(str::to_owned)).collect();
    assert_eq!(ids, [Some("before".into()), Some("after".into())]);
    driver.abort();
}

#[test]
fn the_address_told_is_the_one_behind_the_trusted_proxies() {
    let backend = Backend::ok();
    let text = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]\n".to_owned() + &config("\"http://{backend}\"", "app", "");
    let proxy = Proxy::start(backend.address, &text);
    let headers = [
        ("X-GitHub-Delivery", "1"),
        ("X-Forwarded-For", "192.0.2.66, 203.0.113.7"),
        ("X-Forwarded-For", "10.1.2.3"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "elsewhere"),
    ];
    assert_eq!(proxy.send(&signed_with("POST", "/hook", &headers, b"")).status, 200);
    let got = backend.only();
    for (name, value) in
        [("x-forwarded-for", "203.0.113.7"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "localhost")]
    {
        assert_eq!((got.header(name), got.count(name)), (Some(value), 1), "{name}");
    }
}

#[test]
fn a_legacy_backend_gets_the_path_host_and_headers_that_it_expects() {
    for (host, expected) in [("keep", "localhost"), ("upstream", "{backend}"), ("old.internal", "old.internal")] {
        let backend = Backend::ok();
        let to = format!(
            "{{ upstream: app, path: /old/hook.php, host: {host}, headers: {{ X-Api-Key: {{ env: HOOKMOAT_TEST_KEY }}, X-From: {{ value: \
             hookmoat }} }}, remove_headers: [Cookie, X-Internal] }}"
        );
        let text = config("\"http://{backend}\"", &to, "");
        let proxy = Proxy::start_with(backend.address, &text, &[("HOOKMOAT_TEST_KEY", "k3y-of-the-old-backend")]);
        let headers = [
            ("X-GitHub-Delivery", "1"),
            ("x-api-key", "forged"),
            ("X-Internal", "1"),
            ("cookie", "a=1"),
            ("X-Other", "2"),
        ];
        assert_eq!(proxy.send(&signed_with("POST", "/hook?q=%2F1", &headers, b"{}")).status, 200);
        let got = backend.only();
        assert_eq!(got.target, "/old/hook.php?q=%2F1");
        for (name, value) in [
            ("host", &*expected.replace("{backend}", &backend.address.to_string())),
            ("x-api-key", "k3y-of-the-old-backend"),
            ("x-from", "hookmoat"),
            ("x-other", "2"),
            ("x-hub-signature-256", &sign::github(SECRET, b"{}")),
        ] {
            assert_eq!((got.header(name), got.count(name)), (Some(value), 1), "{name}");
        }
        assert_eq!((got.count("cookie"), got.count("x-internal")), (0, 0));
        proxy.wait_for_event("forwarded");
        assert!(!proxy.log().contains("k3y-of"), "a secret in the log");
    }
}

#[test]
fn a_backend_over_tls_must_prove_who_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let make = |name: &str| {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        std::fs::write(folder.path().join(name), made.cert.pem()).expect("a file");
        made
    };
    let (ours, _) = (make("backend.test"), make("stranger.test"));
    let key = rustls_pki_types::PrivateKeyDer::try_from(ours.signing_key.serialize_der()).expect("a key");
    let server = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![ours.cert.der().clone()], key)
        .expect("a pair");
    let backend = Backend::tls(server);
    let tls = |ca: &str, name: &str| format!("{{ ca: {:?}, server_name: {name} }}", folder.path().join(ca));
    for (tls, status) in [
        (tls("backend.test", "backend.test"), 200),
        (tls("backend.test", "stranger.test"), 502),
        (tls("stranger.test", "backend.test"), 502),
        ("{ insecure_skip_verify: true }".into(), 200),
    ] {
        let before = (backend.connections(), backend.requests().len());
        let upstream = format!("{{ url: \"https://{{backend}}\", tls: {tls} }}");
        let proxy = Proxy::start(backend.address, &config(&upstream, "app", ""));
        for _ in 0..3 {
            assert_eq!(proxy.send(&fresh()).status, status, "{tls}\n{}", proxy.log());
        }
        let after = (backend.connections() - before.0, backend.requests().len() - before.1);
        // One connection for all where it is good, one for each attempt where it is not.
        assert_eq!(after, if status == 200 { (1, 3) } else { (3, 0) }, "{tls}");
        if status == 502 {
            assert_eq!(proxy.wait_for_event("backend_unreachable")["status"], 502);
        }
    }
}

#[test]
fn a_backend_behind_a_unix_socket_is_reached() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("app.sock");
    let backend = Backend::unix(&path);
    let upstream = format!("\"unix:{}\"", path.display());
    let proxy = Proxy::start(backend.address, &config(&upstream, "app", ""));
    for count in 1..=3 {
        assert_eq!(proxy.send(&fresh()).status, 200, "{}", proxy.log());
        assert_eq!(backend.requests().len(), count);
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_backend_is_reached_by_name() {
    let backend = Backend::ok();
    let upstream = format!("\"http://localhost:{}\"", backend.address.port());
    let proxy = Proxy::start(backend.address, &config(&upstream, "{ upstream: app, host: upstream }", ""));
    assert_eq!(proxy.send(&fresh()).status, 200);
    assert_eq!(backend.only().header("host"), Some(&*format!("localhost:{}", backend.address.port())));
}

#[test]
fn a_name_that_nobody_has_is_a_502_and_not_the_end() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &config("\"http://nobody.invalid:1\"", "app", ""));
    assert_eq!(proxy.send(&fresh()).status, 502);
    assert_eq!(proxy.wait_for_event("backend_unreachable")["status"], 502);
}

#[test]
fn connections_are_used_again() {
    let backend = Backend::ok();
    let proxy = start(&backend);
    for _ in 0..10 {
        assert_eq!(proxy.send(&fresh()).status, 200);
    }
    assert_eq!((backend.connections(), backend.requests().len()), (1, 10));
}

/// The backend reads the second request of every connection and closes: nobody can know what it did with it.
#[test]
fn a_post_is_never_sent_twice() {
    let counts: Mutex<HashMap<usize, usize>> = Mutex::default();
    let backend = Backend::with(move |request, _| {
        let mut counts = counts.lock().expect("no panic under the lock");
        let count = counts.entry(request.connection).or_default();
        *count += 1;
        if *count == 2 { Reply::Close } else { Reply::Status(200, "ok") }
    });
    let proxy = start(&backend);
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(proxy.send(&fresh()).status);
    }
    assert_eq!(statuses, [200, 502].repeat(10));
    let mut bodies: Vec<_> = backend.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 20);
    bodies.dedup();
    assert_eq!(bodies.len(), 20, "an event came twice");
    // What may be sent twice is: the sender of a GET never sees the closed connection.
    let before = backend.requests().len();
    for id in ["a", "b", "c"] {
        let get = signed_with("GET", "/hook", &[("X-GitHub-Delivery", id)], id.as_bytes());
        assert_eq!(proxy.send(&get).status, 200, "{id}");
    }
    assert!(backend.requests().len() > before + 3);
}

/// A connection that the backend closed, or spoke on unasked, while nobody used it is not used again.
#[test]
fn a_connection_that_died_in_the_pool_costs_nobody_anything() {
    for unasked in
        ["", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", "HTTP/1.1 408 Timeout\r\nContent-Length: 0\r\n\r\n"]
    {
        let backend = Backend::raw(move |stream, _| {
            let mut reader = BufReader::new(stream);
            if read_request(&mut reader, 0).is_some() {
                let stream = reader.get_mut();
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                std::thread::sleep(Duration::from_millis(30));
                let _ = stream.write_all(unasked.as_bytes());
                if !unasked.is_empty() {
                    std::thread::sleep(Duration::from_secs(5));
                }
            }
        });
        let proxy = start(&backend);
        for count in 1..=5 {
            let answer = proxy.send(&fresh());
            assert_eq!((answer.status, answer.text()), (200, "ok".into()), "{unasked:?}");
            assert_eq!(backend.connections(), count, "{unasked:?}");
            std::thread::sleep(Duration::from_millis(150));
        }
    }
}

#[test]
fn interim_answers_are_not_passed_on() {
    let backend = Backend::with(|_, _| {
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
        Reply::Raw(format!("{interim}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").into_bytes())
    });
    let proxy = start(&backend);
    for _ in 0..2 {
        let answer = Connection::open(proxy.http).send(&fresh()).any_answer().expect("an answer");
        assert_eq!((answer.status, answer.header("link"), answer.text()), (200, None, "ok".into()));
    }
    assert_eq!(backend.connections(), 1);
}

#[test]
fn broken_answers_are_a_502_and_their_connection_is_not_used_again() {
    let large = format!("HTTP/1.1 200 OK\r\nX-Large: {}\r\nContent-Length: 2\r\n\r\nok", "x".repeat(3 << 20));
    let many = format!("HTTP/1.1 200 OK\r\n{}Content-Length: 2\r\n\r\nok", "X-Many: 1\r\n".repeat(5000));
    let ok = "HTTP/1.1 200 OK\r\n";
    let cases = [
        "complete nonsense\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        "\0\0\0\u{12}\u{4}\0\0\0\0\0".to_owned(),
        "HTTP/2 200\r\n\r\n".to_owned(),
        "HTTP/1.1 99 Odd\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_owned(),
        format!("{ok}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        format!("{ok}Content-Length: 2\r\nContent-Length: 2\r\n\r\nok"),
        format!("{ok}Content-Length: 2, 2\r\n\r\nok"),
        format!("{ok}Content-Length: -2\r\n\r\nok"),
        format!("{ok}Content-Length: 99999999999999999999\r\n\r\nok"),
        format!("{ok}Content-Length : 2\r\n\r\nok"),
        format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n0\r\n\r\n"),
        format!("{ok}X-Split: a\rb\r\nContent-Length: 2\r\n\r\nok"),
        format!("{ok}X-Null: a\0b\r\nContent-Length: 2\r\n\r\nok"),
        format!("{ok}X-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nok"),
        large,
        many,
    ];
    let replies: Vec<Reply> = cases.iter().map(|text| Reply::Raw(text.clone().into_bytes())).collect();
    let backend = Backend::with(move |_, count| replies[count].clone());
    let proxy = start(&backend);
    for (count, case) in cases.iter().enumerate() {
        let answer = proxy.send(&fresh());
        let what = &case[..case.len().min(120)];
        assert_eq!((answer.status, answer.header("content-type")), (502, Some("application/problem+json")), "{what:?}");
        assert_eq!(backend.connections(), count + 1, "{what:?}");
        assert!(!answer.text().contains("ok"), "{what:?}");
    }
    assert!(within(PATIENCE, || proxy.events().len() == cases.len()), "{}", proxy.log());
    assert!(proxy.events().iter().all(|event| event["outcome"] == "backend_broken"), "{}", proxy.log());
}

#[test]
fn an_answer_that_ends_early_is_never_taken_for_a_whole_one() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsho",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
    ] {
        let backend = Backend::with(|_, _| Reply::RawClose(text.as_bytes().to_vec()));
        assert_eq!(start(&backend).send(&fresh()).status, 502, "{text:?}");
    }
    // Too long to be held back: the sender sees that it was cut, and its retry is delivered.
    let cut = [b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n".to_vec(), vec![b'x'; 8_000_000]].concat();
    let backend = Backend::with(move |_, count| match count {
        0 => Reply::RawClose(cut.clone()),
        _ => Reply::Status(200, "ok"),
    });
    let proxy = start(&backend);
    let bytes = fresh();
    assert!(Connection::open(proxy.http).send(&bytes).try_answer().is_none());
    assert_eq!(proxy.wait_for_event("forwarded")["truncated"], true);
    let again = proxy.send(&bytes);
    assert_eq!((again.text(), again.header("hookmoat-duplicate")), ("ok".into(), None));
}

#[test]
fn a_flood_of_interim_answers_is_ended() {
    let backend = Backend::raw(|mut stream, _| {
        let _ = stream.read(&mut [0; 4096]);
        let flood = "HTTP/1.1 102 Processing\r\nX: y\r\n\r\n".repeat(1000);
        while stream.write_all(flood.as_bytes()).is_ok() {}
    });
    let proxy = start(&backend);
    assert_eq!(proxy.send(&fresh()).status, 502);
    assert_eq!(proxy.wait_for_event("backend_broken")["status"], 502);
}

#[test]
fn a_backend_that_hangs_is_a_504() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n";
    let half = format!("{head}half");
    std::thread::scope(|scope| {
        for text in ["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nConte", head, &half] {
            scope.spawn(move || {
                let reply = Reply::Raw(text.as_bytes().to_vec());
                let backend = Backend::with(move |_, _| reply.clone());
                let proxy = start_impatient(&backend);
                for count in 1..=2 {
                    assert_eq!(proxy.send(&fresh()).status, 504, "{text:?}");
                    assert_eq!(backend.connections(), count, "{text:?}: one in the middle of something was used again");
                }
                assert_eq!(proxy.wait_for_event("backend_timeout")["status"], 504);
            });
        }
    });
}

/// One that sends a byte now and then does not live longer than its whole time.
#[test]
fn a_backend_that_drips_is_a_504() {
    for start_of_answer in ["HTTP/1.1 200 OK\r\nX-Drip: ", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;"] {
        let backend = Backend::raw(move |mut stream, _| {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(start_of_answer.as_bytes());
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        assert_eq!(start_impatient(&backend).send(&fresh()).status, 504, "{start_of_answer:?}");
    }
}

#[test]
fn redirects_are_passed_on_and_not_followed() {
    let elsewhere = Backend::ok();
    let location = format!("http://{}/hook", elsewhere.address);
    for status in [301, 302, 303, 307, 308] {
        let answer = format!("HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let backend = Backend::with(move |_, _| Reply::Raw(answer.clone().into_bytes()));
        let proxy = start(&backend);
        let got = proxy.send(&fresh());
        assert_eq!((got.status, got.header("location")), (status, Some(&*location)));
        assert_eq!(backend.requests().len(), 1);
    }
    assert_eq!(elsewhere.connections(), 0);
}

#[test]
fn a_410_does_not_make_the_sender_give_up_unless_it_may() {
    for (to, status) in [("app", 502), ("{ upstream: app, pass_gone: true }", 410)] {
        let backend = Backend::with(|_, _| Reply::Status(410, "gone"));
        let proxy = Proxy::start(backend.address, &config("\"http://{backend}\"", to, ""));
        let mut connection = Connection::open(proxy.http);
        for _ in 0..2 {
            let answer = connection.send(&fresh()).answer();
            assert_eq!((answer.status, answer.text() == "gone"), (status, status == 410));
        }
        assert_eq!(backend.connections(), 1, "it was a whole answer");
    }
}

/// An answer to HEAD has no body, ours neither: it would be read as the start of the next answer.
#[test]
fn a_410_to_a_head_request_leaves_the_connection_in_order() {
    let backend = Backend::with(|request, _| match &*request.method {
        "HEAD" => Reply::Raw(b"HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\n".to_vec()),
        _ => Reply::Status(200, "ok"),
    });
    let proxy = start(&backend);
    let mut connection = Connection::open(proxy.http);
    let head = signed_with("HEAD", "/hook", &[("X-GitHub-Delivery", "head")], b"head");
    assert_eq!(connection.send(&head).head().map(|answer| answer.status), Some(502));
    let next = connection.send(&fresh()).answer();
    assert_eq!((next.status, next.text()), (200, "ok".into()));
}

#[test]
fn a_second_answer_on_a_connection_reaches_nobody() {
    for first in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let two = format!("{first}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged");
        let backend = Backend::with(move |_, _| Reply::Raw(two.clone().into_bytes()));
        let proxy = start(&backend);
        let mut connection = Connection::open(proxy.http);
        for count in 1..=5 {
            assert_eq!(connection.send(&fresh()).answer().text(), "ok");
            assert_eq!(backend.connections(), count);
        }
    }
}

#[test]
fn what_belongs_to_the_backends_connection_stays_there() {
    let backend = Backend::with(|_, _| {
        let head = "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n";
        let rest =
            "X-Request-Id: theirs\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Ok: 1\r\nContent-Length: 2\r\n\r\nok";
        Reply::Raw([head, rest].concat().into_bytes())
    });
    let proxy = start(&backend);
    let answer = proxy.send(&fresh());
    for name in ["x-private", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    let cookies: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| &**value).collect();
    assert_eq!((answer.header("x-ok"), cookies), (Some("1"), vec!["a=1", "b=2"]));
    let sent = backend.only();
    assert_eq!(answer.header("x-request-id"), sent.header("x-request-id"));
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "x-request-id").count(), 1);
}

/// It says yes before it has read the request: it still gets the whole of it.
#[test]
fn a_backend_that_accepts_early_still_gets_the_whole_body() {
    let (told, hear) = std::sync::mpsc::channel();
    let told = Mutex::new(told);
    let backend = Backend::raw(move |stream, connection| {
        let mut reader = BufReader::new(stream);
        let mut start = [0; 16];
        if reader.read_exact(&mut start).is_err() {
            return;
        }
        let _ = reader.get_mut().write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok");
        let rest = std::io::Cursor::new(start).chain(reader);
        let length = read_request(&mut BufReader::new(rest), connection).map(|request| request.body.len());
        let _ = told.lock().expect("no panic under the lock").send(length);
    });
    let proxy = start(&backend);
    let body = vec![b'x'; 20 << 20];
    let answer = proxy.send(&signed_with("POST", "/hook", &[("X-GitHub-Delivery", "early")], &body));
    assert_eq!((answer.status, answer.text()), (202, "ok".into()));
    assert_eq!(hear.recv_timeout(Duration::from_secs(20)), Ok(Some(body.len())));
}
