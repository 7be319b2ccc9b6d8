//! Bodies of every size by every way in, and answers of every size and framing back: exact bytes, and connections that
//! live on.

use super::support::client::{http2, http2_connect, http2_send};
use super::support::{Answer, Backend, Connection, Proxy, Reply, post, request, sign};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SIZES: [usize; 7] = [0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, MIB, 25 * MIB];

fn route(max_body: &str, more: &str) -> String {
    format!(
        "{more}\nroutes:\n  - name: github\n    path: /hook\n    methods: [POST, GET, HEAD]\n    provider: github\n    \
         secrets: [{{ insecure_literal: {SECRET} }}]\n    max_body: {max_body}\n    to: app\n"
    )
}

/// Bytes that are no text, and never the same twice.
fn body(size: usize) -> Vec<u8> {
    static SEED: AtomicUsize = AtomicUsize::new(1);
    let mut x = SEED.fetch_add(1, Ordering::Relaxed) as u64 + 0x9e37_79b9_7f4a_7c15;
    let mut bytes = vec![0xff; size];
    for part in bytes.chunks_mut(8) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        part.copy_from_slice(&x.to_le_bytes()[..part.len()]);
    }
    bytes
}

fn delivery() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("delivery-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Length,
    Chunked,
    Expect,
    ExpectChunked,
}

fn head(more: &str, signature: &str) -> Vec<u8> {
    let id = delivery();
    format!("POST /hook HTTP/1.1\r\nHost: localhost\r\nX-GitHub-Delivery: {id}\r\nX-Hub-Signature-256: {signature}\r\n{more}\r\n")
        .into_bytes()
}

/// In chunks of odd sizes, each with an extension.
fn chunked(body: &[u8], end: bool) -> Vec<u8> {
    let mut wire = Vec::with_capacity(body.len() + body.len() / 64 + 64);
    let mut sizes = [1, 7, 333, 8191, 65_537, 100_003].into_iter().cycle();
    let mut left = body;
    while !left.is_empty() {
        let (chunk, rest) = left.split_at(sizes.next().unwrap_or(1).min(left.len()));
        wire.extend_from_slice(format!("{:x};x=1\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        left = rest;
    }
    if end {
        wire.extend_from_slice(b"0;x\r\n\r\n");
    }
    wire
}

#[track_caller]
fn send(connection: &mut Connection, way: Way, signature: &str, body: &[u8]) -> Answer {
    let framing = match way {
        Way::Length | Way::Expect => format!("Content-Length: {}\r\n", body.len()),
        Way::Chunked | Way::ExpectChunked => "Transfer-Encoding: chunked\r\n".into(),
    };
    let waits = matches!(way, Way::Expect | Way::ExpectChunked);
    let expect = if waits { "Expect: 100-continue\r\n" } else { "" };
    connection.send(&head(&(framing + expect), signature));
    if waits {
        assert_eq!(connection.any_answer().expect("an answer").status, 100);
    }
    match way {
        Way::Length | Way::Expect => connection.send(body),
        Way::Chunked | Way::ExpectChunked => connection.send(&chunked(body, true)),
    };
    connection.any_answer().expect("an answer")
}

/// All sizes one after the other on one connection, a refused one among them: what was read is what arrives, and the
/// connection stays good.
#[track_caller]
fn arrives(way: Way, open: impl Fn(&Proxy) -> Connection) {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("25MiB", ""));
    let mut connection = open(&proxy);
    for (count, size) in SIZES.into_iter().chain([3, 70_000]).enumerate() {
        let body = body(size);
        let answer = send(&mut connection, way, &sign::github(SECRET, &body), &body);
        assert_eq!((answer.status, answer.text()), (200, "ok".into()), "{way:?} {size}");
        let requests = backend.requests();
        assert_eq!(requests.len(), count + 1);
        assert!(requests[count].body == body, "{way:?} {size}: other bytes");
        assert_eq!(requests[count].header("content-length"), Some(&*size.to_string()));
        let refused = send(&mut connection, way, &sign::github("another", &body), &body[..size.min(70_000)]);
        assert_eq!(refused.status, 401, "{way:?} {size}");
    }
    assert_eq!(backend.requests().len(), SIZES.len() + 2);
}

#[test]
fn bodies_with_a_length_arrive_exactly() {
    arrives(Way::Length, |proxy| Connection::open(proxy.http));
}

#[test]
fn chunked_bodies_arrive_exactly() {
    arrives(Way::Chunked, |proxy| Connection::open(proxy.http));
}

#[test]
fn bodies_after_100_continue_arrive_exactly() {
    arrives(Way::Expect, |proxy| Connection::open(proxy.http));
}

#[test]
fn chunked_bodies_after_100_continue_arrive_exactly_over_tls() {
    arrives(Way::ExpectChunked, |proxy| Connection::open_tls(proxy.https));
}

#[test]
fn bodies_over_tls_arrive_exactly() {
    arrives(Way::Length, |proxy| Connection::open_tls(proxy.https));
}

#[tokio::test]
async fn bodies_over_http2_arrive_exactly() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("25MiB", ""));
    let (mut sender, driver) = http2_connect(proxy.https).await;
    tokio::spawn(driver);
    for (count, size) in SIZES.into_iter().chain([3]).enumerate() {
        let body = body(size);
        let (id, length) = (delivery(), size.to_string());
        for (secret, status) in [("another", 401), (SECRET, 200)] {
            let signature = sign::github(secret, &body);
            let mut headers = vec![("x-github-delivery", &*id), ("x-hub-signature-256", &*signature)];
            // With a length and without.
            if count % 2 == 0 {
                headers.push(("content-length", &*length));
            }
            let answer = http2_send(&mut sender, "POST", "/hook", &headers, body.clone()).await.expect("an answer");
            assert_eq!(answer.status, status, "{size}");
        }
        let requests = backend.requests();
        assert_eq!(requests.len(), count + 1);
        assert!(requests[count].body == body, "{size}: other bytes");
    }
}

#[test]
fn sixteen_at_once_do_not_mix() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("25MiB", ""));
    let mut sent: Vec<Vec<u8>> = (0..16).map(|n| body([2, 5000, 64 * KIB, 300_001, 2 * MIB][n % 5])).collect();
    std::thread::scope(|scope| {
        for (n, body) in sent.iter().enumerate() {
            let proxy = &proxy;
            scope.spawn(move || {
                let way = [Way::Length, Way::Chunked, Way::Expect][n % 3];
                let mut connection =
                    if n % 2 == 0 { Connection::open(proxy.http) } else { Connection::open_tls(proxy.https) };
                assert_eq!(send(&mut connection, way, &sign::github(SECRET, body), body).status, 200);
            });
        }
    });
    let mut got: Vec<Vec<u8>> = backend.requests().into_iter().map(|request| request.body).collect();
    sent.sort();
    got.sort();
    assert!(got == sent, "bodies were lost, doubled or mixed");
}

/// Head, what follows without an end, and the answer that does not wait for one.
#[test]
fn a_body_over_the_limit_is_refused_at_once() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("64KiB", ""));
    let signature = sign::github(SECRET, b"");
    let over = vec![b'x'; 64 * KIB + 1];
    let chunk = |size: &str| [size.as_bytes(), b"\r\n", &over].concat();
    for (framing, then, status) in [
        ("Content-Length: 65537\r\n", Vec::new(), 413),
        ("Content-Length: 65537\r\nExpect: 100-continue\r\n", Vec::new(), 413),
        ("Content-Length: 9000000000000000000\r\n", Vec::new(), 413),
        ("Content-Length: 99999999999999999999999\r\n", Vec::new(), 400),
        ("Transfer-Encoding: chunked\r\n", chunked(&over, false), 413),
        ("Transfer-Encoding: chunked\r\n", chunk("7ffffffffffffff"), 413),
    ] {
        let mut connection = Connection::open(proxy.http);
        let answer = connection.send(&head(framing, &signature)).send(&then).any_answer().expect("an answer");
        assert_eq!(answer.status, status, "{framing}");
        assert!(connection.is_closed(), "{framing}");
    }
    assert_eq!(backend.connections(), 0);
    let body = body(64 * KIB);
    assert_eq!(send(&mut Connection::open(proxy.http), Way::Chunked, &sign::github(SECRET, &body), &body).status, 200);
    assert!(proxy.metric("hookmoat_body_memory_bytes") < 1.0, "{}", proxy.admin("/metrics").text());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_over_http2() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("64KiB", ""));
    let body = body(64 * KIB + 1);
    let signature = sign::github(SECRET, &body);
    for length in [None, Some(("content-length", "65537"))] {
        let mut headers = vec![("x-github-delivery", "1"), ("x-hub-signature-256", &*signature)];
        headers.extend(length);
        assert_eq!(http2(proxy.https, "POST", "/hook", &headers, body.clone()).await.status, 413, "{length:?}");
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_refused_head_is_never_asked_for_its_body() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("64KiB", ""));
    let signature = sign::github(SECRET, b"{}");
    let signed = ("X-Hub-Signature-256", &*signature);
    for (path, method, headers, status) in [
        ("/hook", "POST", vec![("Expect", "100-continue")], 401),
        ("/hook", "POST", vec![("Expect", "100-continue"), ("X-Hub-Signature-256", "sha256=abc")], 401),
        ("/other", "POST", vec![("Expect", "100-continue"), signed], 404),
        ("/hook", "PUT", vec![("Expect", "100-continue"), signed], 405),
        ("/hook", "POST", vec![("Expect", "200-ok"), signed], 417),
    ] {
        let mut head = request(method, path, &headers, b"{}");
        head.truncate(head.len() - 2);
        let mut connection = Connection::open(proxy.http);
        let answer = connection.send(&head).any_answer().expect("an answer");
        assert_eq!(answer.status, status, "{method} {path} {headers:?}");
    }
    assert_eq!(backend.connections(), 0);
}

/// HTTP/1.0 knows no interim answers: it would take the 100 for the answer (RFC 9110 section 10.1.1).
#[test]
fn an_http_1_0_sender_never_gets_a_100() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("64KiB", ""));
    let wire = head("Content-Length: 2\r\nExpect: 100-continue\r\n", &sign::github(SECRET, b"{}"));
    let wire = String::from_utf8(wire).expect("text").replace("HTTP/1.1", "HTTP/1.0") + "{}";
    let answer = Connection::open(proxy.http).send(wire.as_bytes()).any_answer().expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, "ok".into()));
}

#[test]
fn a_slow_sender_is_cut_off() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("1MiB", "timeouts: { header: 300ms, body: 300ms, idle: 1s }"));
    let signature = sign::github(SECRET, b"");
    let silent = [
        (b"POST /hook HTTP/1.1\r\nHost: loc".to_vec(), ""),
        (head("Content-Length: 10\r\n", &signature), "half"),
        (head("Transfer-Encoding: chunked\r\n", &signature), "5\r\nhel"),
        (head("Transfer-Encoding: chunked\r\n", &signature), "5\r\nhello\r\n0\r\nX-Trail"),
    ];
    std::thread::scope(|scope| {
        for (bytes, then) in &silent {
            for open in
                [|proxy: &Proxy| Connection::open(proxy.http), |proxy: &Proxy| Connection::open_tls(proxy.https)]
            {
                let mut connection = open(&proxy);
                scope.spawn(move || {
                    connection.send(bytes).send(then.as_bytes());
                    assert_eq!(connection.answer().status, 408, "{then:?}");
                    assert!(connection.is_closed(), "{then:?}");
                });
            }
        }
    });
    // One that drips does not live longer than one that is silent.
    let mut connection = Connection::open(proxy.http);
    connection.send(&head("Content-Length: 100000\r\n", &signature));
    for _ in 0..60 {
        connection.send(b"x");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(connection.answer().status, 408);
    // One that says nothing gets nothing.
    assert!(Connection::open(proxy.http).is_closed());
    assert_eq!(backend.connections(), 0);
    assert_eq!(proxy.wait_for_event("client_timeout")["status"], 408);
}

#[tokio::test]
async fn a_slow_sender_is_cut_off_over_http2() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("1MiB", "timeouts: { header: 2s, body: 2s }"));
    let (mut sender, driver) = http2_connect(proxy.https).await;
    tokio::spawn(driver);
    let signature = sign::github(SECRET, b"");
    let request = http::Request::post("https://localhost/hook").header("x-hub-signature-256", &signature);
    let request = request.header("x-github-delivery", "1").body(()).expect("a request");
    let (answer, mut stream) = sender.send_request(request, false).expect("a stream");
    stream.send_data("half".into(), false).expect("data");
    assert_eq!(answer.await.expect("an answer").status(), 408);
    // The other streams of the connection go on.
    let headers = [("x-github-delivery", "2"), ("x-hub-signature-256", &*signature)];
    assert_eq!(http2_send(&mut sender, "POST", "/hook", &headers, Vec::new()).await.expect("an answer").status, 200);
}

/// A body and an end of the connection: what was not whole goes nowhere.
#[test]
fn a_body_that_ends_early_goes_nowhere() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("1MiB", ""));
    let signature = sign::github(SECRET, b"half");
    for (framing, then) in [("Content-Length: 10\r\n", "half"), ("Transfer-Encoding: chunked\r\n", "4\r\nhalf\r\n")] {
        let mut connection = Connection::open(proxy.http);
        connection.send(&head(framing, &signature)).send(then.as_bytes());
        connection.abort();
        assert_eq!(proxy.wait_for_event("client_gone")["bytes"], 0);
    }
    assert_eq!(backend.connections(), 0);
}

fn signed(method: &str, body: &[u8]) -> Vec<u8> {
    let (id, signature) = (delivery(), sign::github(SECRET, body));
    request(method, "/hook", &[("X-GitHub-Delivery", &id), ("X-Hub-Signature-256", &signature)], body)
}

fn big_answer(kind: &str, body: &[u8]) -> Reply {
    let start = |framing: &str| format!("HTTP/1.1 200 OK\r\nX-Kind: {kind}\r\n{framing}\r\n").into_bytes();
    match kind {
        "length" => Reply::Raw([start(&format!("Content-Length: {}\r\n", body.len())), body.to_vec()].concat()),
        "chunked" => Reply::Raw([start("Transfer-Encoding: chunked\r\n"), chunked(body, true)].concat()),
        _ => Reply::RawClose([start(""), body.to_vec()].concat()),
    }
}

#[test]
fn large_answers_come_back_exactly() {
    for kind in ["length", "chunked", "close"] {
        let big = body(9 * MIB);
        let answer = big_answer(kind, &big);
        let backend = Backend::with(move |_, _| answer.clone());
        let proxy = Proxy::start(backend.address, &route("1MiB", "timeouts: { total: 10m }"));
        let mut connection = Connection::open(proxy.http);
        for _ in 0..2 {
            let got = connection.send(&signed("POST", &body(10))).answer();
            assert_eq!((got.status, got.header("x-kind")), (200, Some(kind)));
            assert!(got.body == big, "{kind}: {} bytes", got.body.len());
        }
        let old = String::from_utf8_lossy(&signed("POST", b"old")).replace("HTTP/1.1", "HTTP/1.0");
        let got = Connection::open(proxy.http).send(old.as_bytes()).answer();
        assert_eq!(got.header("transfer-encoding"), None, "{kind}: an HTTP/1.0 client knows no chunks");
        assert!(got.body == big, "{kind} for HTTP/1.0: {} bytes", got.body.len());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let signature = sign::github(SECRET, b"h2");
        let headers = [("x-github-delivery", "h2"), ("x-hub-signature-256", &*signature)];
        let got = runtime.block_on(http2(proxy.https, "POST", "/hook", &headers, b"h2".to_vec()));
        assert!(got.body == big, "{kind} over HTTP/2: {} bytes", got.body.len());
    }
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    for (method, answer, status, length) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", 200, Some("12345")),
        ("HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        ("POST", "HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        ("GET", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n", 304, None),
        ("POST", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, Some("0")),
    ] {
        let backend = Backend::with(|_, _| Reply::Raw(answer.as_bytes().to_vec()));
        let proxy = Proxy::start(backend.address, &route("1MiB", ""));
        let mut connection = Connection::open(proxy.http);
        for count in 1..=3 {
            let got = connection.send(&signed(method, &count.to_string().into_bytes())).head().expect("an answer");
            assert_eq!((got.status, got.header("content-length")), (status, length), "{method} {answer}");
            assert_eq!(backend.requests().len(), count, "{method} {answer}");
        }
        assert_eq!(backend.connections(), 1, "{method} {answer}: the backend's connection was not used again");
        let signature = sign::github(SECRET, b"h2");
        let headers = [("x-github-delivery", "h2"), ("x-hub-signature-256", &*signature)];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let got = runtime.block_on(http2(proxy.https, method, "/hook", &headers, b"h2".to_vec()));
        assert_eq!((got.status, got.body.len()), (status, 0), "{method} {answer} over HTTP/2");
    }
}

#[test]
fn a_backend_that_refuses_a_large_upload_early_is_heard() {
    let backend = Backend::raw(|mut stream, _| {
        use std::io::{Read, Write};
        let mut some = [0; 100];
        let _ = stream.read(&mut some);
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nX-Backend: 1\r\nContent-Length: 4\r\n\r\nlate");
        std::thread::sleep(Duration::from_secs(20));
    });
    let proxy = Proxy::start(backend.address, &route("25MiB", ""));
    let answer = proxy.send(&signed("POST", &body(20 * MIB)));
    assert_eq!((answer.status, answer.header("x-backend"), answer.text()), (413, Some("1"), "late".into()));
    // What is left of the upload would be taken for another request: the connection is not used again.
    assert_eq!(proxy.send(&signed("POST", &body(20 * MIB))).status, 413);
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_backend_that_never_reads_is_given_up() {
    let backend = Backend::raw(|_stream, _| std::thread::sleep(Duration::from_secs(20)));
    let upstream = "upstreams: { app: { url: \"http://{backend}\", timeout: 2s, connect_timeout: 2s } }";
    let proxy = Proxy::start(backend.address, &route("25MiB", upstream));
    let mut connection = Connection::open(proxy.http);
    for size in [20 * MIB, 10] {
        assert_eq!(connection.send(&signed("POST", &body(size))).answer().status, 504, "{size}");
    }
    assert_eq!(proxy.wait_for_event("backend_timeout")["status"], 504);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let backend = Backend::with(|request, _| {
        Reply::Raw(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}",
                request.body.len(),
                String::from_utf8_lossy(&request.body)
            )
            .into_bytes(),
        )
    });
    let proxy = Proxy::start(backend.address, &route("1MiB", ""));
    let forged = post("/hook", &[("X-Hub-Signature-256", &sign::github("another", b"forged"))], b"forged");
    let mut all = Vec::new();
    for n in 0..20 {
        all.extend(signed("POST", format!("body {n}").as_bytes()));
        if n % 5 == 0 {
            all.extend_from_slice(&forged);
        }
    }
    let mut connection = Connection::open(proxy.http);
    connection.send(&all);
    for n in 0..20 {
        assert_eq!(connection.answer().text(), format!("body {n}"));
        if n % 5 == 0 {
            assert_eq!(connection.answer().status, 401);
        }
    }
    assert_eq!(backend.requests().len(), 20);
}
