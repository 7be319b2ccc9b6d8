//! An event reaches the backend once: however many copies come, in whatever order things fail, and never a copy less.

use super::support::client::{http2, http2_connect, http2_send};
use super::support::{Answer, Backend, Connection, PATIENCE, Proxy, Reply, post, request, sign};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-of-some-length";

fn route(more: &str) -> String {
    format!(
        "routes:\n  - name: github\n    path: /hook\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    \
         to: app\n{more}"
    )
}

/// A GitHub delivery with more headers.
fn with(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let signature = sign::github(SECRET, body);
    let mut all = vec![("X-Hub-Signature-256", &*signature)];
    all.extend(headers);
    post("/hook", &all, body)
}

fn event(id: &str) -> Vec<u8> {
    with(&[("X-GitHub-Delivery", id)], format!("{{\"event\":\"{id}\"}}").as_bytes())
}

fn is_copy(answer: &Answer) -> bool {
    answer.header("hookmoat-duplicate") == Some("true")
}

/// Tries again, as senders do, until it is told that the event was taken.
#[track_caller]
fn until_taken(proxy: &Proxy, bytes: &[u8]) -> Answer {
    let begun = Instant::now();
    loop {
        match Connection::open(proxy.http).send(bytes).try_answer() {
            Some(answer) if answer.status < 300 => return answer,
            _ => assert!(begun.elapsed() < PATIENCE, "never taken\n{}", proxy.log()),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn two_hundred_copies_at_once_are_delivered_once_and_none_is_told_too_early() {
    for (wait, busy) in [("2s", false), ("0s", true)] {
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        let backend = Backend::with(move |_, _| {
            std::thread::sleep(Duration::from_millis(1200));
            finished.store(true, Ordering::SeqCst);
            Reply::Status(200, "ok")
        });
        let proxy = Proxy::start(backend.address, &(format!("timeouts: {{ duplicate_wait: {wait} }}\n") + &route("")));
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let copy = || {
                let answer = proxy.send(&event("one"));
                match answer.status {
                    200 => assert!(done.load(Ordering::SeqCst), "told 200 before the backend had it"),
                    503 => assert_eq!(answer.header("retry-after"), Some("1")),
                    other => panic!("{other}"),
                }
                answer
            };
            let senders: Vec<_> = (0..200).map(|_| scope.spawn(copy)).collect();
            senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
        });
        assert_eq!(backend.requests().len(), 1);
        assert_eq!(answers.iter().filter(|answer| answer.status == 200 && !is_copy(answer)).count(), 1);
        if busy {
            assert!(answers.iter().any(|answer| answer.status == 503));
        }
        assert!(is_copy(&proxy.send(&event("one"))));
        assert_eq!(backend.requests().len(), 1);
    }
}

#[test]
fn copies_in_flight_over_http2_are_delivered_once() {
    let backend = Backend::with(|_, _| Reply::After(Duration::from_millis(300), Box::new(Reply::Status(200, "ok"))));
    let proxy = Proxy::start(backend.address, &route(""));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let copies = runtime.block_on(async {
        let (sender, driver) = http2_connect(proxy.https).await;
        tokio::spawn(driver);
        let copies: Vec<_> = (0..50)
            .map(|_| {
                let mut sender = sender.clone();
                tokio::spawn(async move {
                    let signature = sign::github(SECRET, b"{}");
                    let headers = [("x-github-delivery", "one"), ("x-hub-signature-256", &*signature)];
                    let answer =
                        http2_send(&mut sender, "POST", "/hook", &headers, b"{}".to_vec()).await.expect("an answer");
                    assert_eq!(answer.status, 200);
                    is_copy(&answer)
                })
            })
            .collect();
        let mut told = 0;
        for copy in copies {
            told += usize::from(copy.await.expect("a sender"));
        }
        told
    });
    assert_eq!((copies, backend.requests().len()), (49, 1));
}

#[test]
fn a_backend_that_fails_at_first_takes_the_event_exactly_once_and_no_copy_is_lost() {
    let failures = [
        Reply::Status(500, "no"),
        Reply::Close,
        Reply::After(Duration::from_secs(6), Box::new(Reply::Close)),
        Reply::RawClose(b"nonsense\r\n\r\n".to_vec()),
        Reply::Status(429, "later"),
        Reply::RawClose(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut".to_vec()),
        Reply::Status(302, ""),
    ];
    let (failing, taken) = (failures.len(), Arc::new(AtomicUsize::new(0)));
    let count_taken = taken.clone();
    let backend = Backend::with(move |_, count| {
        failures.get(count).cloned().unwrap_or_else(|| {
            count_taken.fetch_add(1, Ordering::SeqCst);
            Reply::Status(201, "ok")
        })
    });
    let upstream = "upstreams: { app: { url: \"http://{backend}\", timeout: 3s, connect_timeout: 3s } }\n";
    let proxy = Proxy::start(backend.address, &(upstream.to_owned() + &route("")));
    let first: usize = std::thread::scope(|scope| {
        let sender = || usize::from(!is_copy(&until_taken(&proxy, &event("one"))));
        let senders: Vec<_> = (0..40).map(|_| scope.spawn(sender)).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender")).sum()
    });
    assert_eq!((taken.load(Ordering::SeqCst), backend.requests().len(), first), (1, failing + 1, 1));
}

/// Whatever went wrong, the next attempt is a first one.
#[test]
fn a_failed_delivery_is_forgotten() {
    let raw = |text: &str| Reply::RawClose(text.as_bytes().to_vec());
    let cases = [
        (Reply::Status(400, "no"), 400),
        (Reply::Status(404, "no"), 404),
        (Reply::Status(409, "no"), 409),
        (Reply::Status(410, "gone"), 502),
        (Reply::Status(500, "no"), 500),
        (Reply::Status(503, "no"), 503),
        (raw("HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n"), 302),
        (Reply::Close, 502),
        (raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut"), 502),
        (raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncut\r\n"), 502),
        (raw("HTTP/1.1 101 Switching Protocols\r\n\r\n"), 502),
        (Reply::Hang, 504),
    ];
    let replies: Vec<Reply> = cases.iter().map(|(reply, _)| reply.clone()).collect();
    let backend = Backend::with(move |_, count| match count % 2 {
        0 => replies[count / 2].clone(),
        _ => Reply::Status(200, "ok"),
    });
    let upstream = "upstreams: { app: { url: \"http://{backend}\", timeout: 3s, connect_timeout: 3s } }\n";
    let proxy = Proxy::start(backend.address, &(upstream.to_owned() + &route("")));
    for (count, (reply, status)) in cases.iter().enumerate() {
        let bytes = event(&format!("event-{count}"));
        assert_eq!(proxy.send(&bytes).status, *status, "{reply:?}");
        let again = proxy.send(&bytes);
        assert_eq!((again.status, is_copy(&again)), (200, false), "{reply:?}");
        let copy = proxy.send(&bytes);
        assert_eq!((copy.status, is_copy(&copy)), (200, true), "{reply:?}");
        assert_eq!(backend.requests().len(), 2 * (count + 1), "{reply:?}");
    }
}

#[test]
fn an_unreachable_backend_leaves_nothing_behind() {
    let [nobody] = super::support::proxy::free_addresses();
    let proxy = Proxy::start(nobody, &route(""));
    for _ in 0..3 {
        assert_eq!(proxy.send(&event("one")).status, 502);
    }
    assert!(proxy.metric("hookmoat_seen_ids") < 1.0);
}

/// The sender has gone before the backend answered: its retry is answered as a copy of what was delivered, or is
/// delivered itself; never lost, never twice.
#[test]
fn a_sender_that_goes_away_loses_nothing_and_doubles_nothing() {
    for fails in [false, true] {
        let backend = Backend::with(move |_, count| {
            let status = if fails && count % 2 == 0 { 500 } else { 200 };
            Reply::After(Duration::from_millis(400), Box::new(Reply::Status(status, "x")))
        });
        let proxy = Proxy::start(backend.address, &route(""));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for (count, kind) in ["http", "tls", "http2"].into_iter().enumerate() {
            let bytes = event(kind);
            let deliveries = if fails { 2 } else { 1 };
            match kind {
                "http2" => runtime.block_on(async {
                    let body = format!("{{\"event\":\"{kind}\"}}");
                    let signature = sign::github(SECRET, body.as_bytes());
                    let headers = [("x-github-delivery", kind), ("x-hub-signature-256", &*signature)];
                    let sending = http2(proxy.https, "POST", "/hook", &headers, body.into_bytes());
                    let mut sending = std::pin::pin!(sending);
                    // Dropped with its connection as soon as the backend has the request.
                    while backend.requests().len() <= count * deliveries {
                        let _ = tokio::time::timeout(Duration::from_millis(5), &mut sending).await;
                    }
                }),
                _ => {
                    let mut connection =
                        if kind == "tls" { Connection::open_tls(proxy.https) } else { Connection::open(proxy.http) };
                    connection.send(&bytes);
                    backend.wait_for(count * deliveries + 1);
                    connection.abort();
                }
            }
            let answer = until_taken(&proxy, &bytes);
            assert_eq!(is_copy(&answer), !fails, "{kind}");
            assert_eq!(backend.requests().len(), (count + 1) * deliveries, "{kind}");
        }
    }
}

#[test]
fn nothing_unauthentic_is_remembered() {
    let backend = Backend::ok();
    let proxy = Proxy::start(
        backend.address,
        &("trusted_proxies: [127.0.0.0/8]\n".to_owned()
            + &route(
                "    allow: [203.0.113.0/24]\n    max_body: 1KiB\n    required_headers: [X-GitHub-Event]\n    \
                 rate_limit: { per: { header: X-Rate }, requests: 1, every: 1h }\n",
            )),
    );
    let body = b"{}";
    let signature = sign::github(SECRET, body);
    let forged = sign::github("another", body);
    let large = vec![b' '; 1025];
    let large_signature = sign::github(SECRET, &large);
    let send = |method: &str, address: &str, rate: &str, signature: &str, kind: &[(&str, &str)], body: &[u8]| {
        let mut headers = vec![
            ("X-GitHub-Delivery", "one"),
            ("X-Hub-Signature-256", signature),
            ("X-Forwarded-For", address),
            ("X-Rate", rate),
        ];
        headers.extend(kind);
        proxy.send(&request(method, "/hook", &headers, body))
    };
    let push = [("X-GitHub-Event", "push")];
    for (method, address, rate, signature, kind, body, status) in [
        ("POST", "203.0.113.7", "a", &*forged, &push[..], &body[..], 401),
        ("PUT", "203.0.113.7", "b", &signature, &push, body, 405),
        ("POST", "203.0.113.7", "c", &large_signature, &push, &large, 413),
        ("POST", "198.51.100.1", "d", &signature, &push, body, 403),
        ("POST", "203.0.113.7", "e", &signature, &[], body, 400),
        ("POST", "203.0.113.7", "a", &signature, &push, body, 429),
    ] {
        assert_eq!(send(method, address, rate, signature, kind, body).status, status);
        assert!(proxy.metric("hookmoat_seen_ids") < 1.0, "{status}");
    }
    assert_eq!(backend.connections(), 0);
    let genuine = send("POST", "203.0.113.7", "f", &signature, &push, body);
    assert_eq!((genuine.status, is_copy(&genuine)), (200, false));
    assert!(proxy.metric("hookmoat_seen_ids") > 0.0, "the series that was watched is the right one");
}

#[test]
fn a_verified_request_over_its_limit_does_not_burn_its_id() {
    let backend = Backend::ok();
    let proxy =
        Proxy::start(backend.address, &route("    rate_limit_verified: { per: route, requests: 1, every: 2s }\n"));
    assert_eq!(proxy.send(&event("one")).status, 200);
    assert_eq!(proxy.send(&event("two")).status, 429);
    let answer = until_taken(&proxy, &event("two"));
    assert!(!is_copy(&answer));
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn routes_do_not_share_their_ids() {
    let backend = Backend::ok();
    let other = route("").replace("name: github", "name: other").replace("/hook", "/other").replace("routes:\n", "");
    let proxy = Proxy::start(backend.address, &(route("") + &other));
    for path in ["/hook", "/other"] {
        let bytes = String::from_utf8(event("one")).expect("text").replace("/hook", path);
        assert!(!is_copy(&proxy.send(bytes.as_bytes())), "{path}");
        assert!(is_copy(&proxy.send(bytes.as_bytes())), "{path}");
    }
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn a_captured_request_under_a_fresh_unsigned_id_is_told_as_replayed() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route(""));
    assert!(!is_copy(&proxy.send(&with(&[("X-GitHub-Delivery", "one")], b"{}"))));
    let again = proxy.send(&with(&[("X-GitHub-Delivery", "two")], b"{}"));
    assert_eq!((again.status, is_copy(&again), again.body.len()), (200, true, 0));
    assert_eq!(proxy.wait_for_event("replayed")["status"], 200);
    assert_eq!(backend.requests().len(), 1);

    let off = Proxy::start(backend.address, &route("    duplicates: { replay_guard: false }\n"));
    for id in ["one", "two"] {
        assert!(!is_copy(&off.send(&with(&[("X-GitHub-Delivery", id)], b"{}"))));
    }
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_copy_in_another_wrapping_is_still_a_copy() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route(""));
    let body = b"{\"a\":1}";
    let signature = sign::github(SECRET, body);
    assert!(!is_copy(&proxy.send(&with(&[("X-GitHub-Delivery", "one")], body))));
    let chunked = format!(
        "POST /hook HTTP/1.1\r\nHost: localhost\r\nx-hub-signature-256: {signature}\r\nX-GITHUB-DELIVERY: one\r\n\
         Transfer-Encoding: chunked\r\n\r\n3\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\n\r\n"
    );
    let query =
        String::from_utf8(with(&[("X-GitHub-Delivery", "one")], body)).expect("text").replace("/hook", "/hook?x=1");
    for copy in [
        with(&[("X-GitHub-Delivery", "one"), ("Content-Type", "text/plain")], body),
        with(&[("X-GitHub-Delivery", "one"), ("X-Hub-Signature", "sha1=00")], body),
        with(&[("X-GitHub-Delivery", "one"), ("Connection", "close")], body),
        chunked.into_bytes(),
        query.into_bytes(),
    ] {
        for answer in [proxy.send(&copy), proxy.send_tls(&copy)] {
            assert_eq!((answer.status, is_copy(&answer)), (200, true), "{}", String::from_utf8_lossy(&copy));
        }
    }
    assert_eq!(backend.requests().len(), 1);
}

/// An ID as it stands in a request: more of the path, headers, body.
type At<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

fn at(place: At<'_>) -> Vec<u8> {
    let (query, headers, body) = place;
    let bytes = with(headers, body.as_bytes());
    [b"POST /hook", query.as_bytes(), &bytes[b"POST /hook".len()..]].concat()
}

/// Two events with one ID are one event; two with different IDs are two.
#[test]
fn the_id_is_read_where_the_route_says() {
    let cases: &[(&str, [At<'_>; 3])] = &[
        ("{ header: X-Id }", [("", &[("X-Id", "1")], "a"), ("", &[("x-id", "1")], "b"), ("", &[("X-Id", "2")], "a")]),
        ("{ query: id }", [("?id=a%20b", &[], "a"), ("?x=1&id=a+b", &[], "b"), ("?id=b", &[], "a")]),
        (
            "{ json: /id }",
            [("", &[], r#"{"id":"e","a":1}"#), ("", &[], r#"{"a":2,"id":"\u0065"}"#), ("", &[], r#"{"id":"E"}"#)],
        ),
        (
            "{ json: /a/0/id }",
            [
                ("", &[], r#"{"a":[{"id":7}]}"#),
                ("", &[], r#"{"a":[{"id":7},{"id":8}]}"#),
                ("", &[], r#"{"id":7,"a":[{"id":8}]}"#),
            ],
        ),
        ("{ form: Id }", [("", &[], "Id=a%2Bb&x=1"), ("", &[], "y=2&Id=a%2bb"), ("", &[], "Id=a+b&id=a%2Bb")]),
        ("body", [("", &[("X-Id", "1")], "a"), ("", &[("X-Id", "2")], "a"), ("", &[("X-Id", "1")], "b")]),
        (
            "[{ header: X-Id }, { json: /id }]",
            [
                ("", &[], r#"{"id":"e"}"#),
                ("", &[("X-Id", "e")], r#"{"id":"f"}"#),
                ("", &[("X-Id", "f")], r#"{"id":"e"}"#),
            ],
        ),
    ];
    for (event_id, [first, same, other]) in cases {
        let backend = Backend::ok();
        let guard = if *event_id == "body" { "" } else { "    duplicates: { replay_guard: false }\n" };
        let proxy = Proxy::start(backend.address, &route(&format!("    event_id: {event_id}\n{guard}")));
        for (place, copy) in [(first, false), (same, true), (other, false), (first, true)] {
            let answer = proxy.send(&at(*place));
            assert_eq!((answer.status, is_copy(&answer)), (200, copy), "{event_id}: {place:?}");
        }
        assert_eq!(backend.requests().len(), 2);
        assert!(backend.requests()[0].header("hookmoat-event-id").is_some(), "{event_id}");
    }
}

#[test]
fn an_id_that_is_no_id_is_refused() {
    let long = "x".repeat(1025);
    let long_json = format!("{{\"id\":\"{long}\"}}");
    let bad_headers: [&[(&str, &str)]; 4] = [&[], &[("X-Id", "")], &[("X-Id", "1"), ("X-Id", "1")], &[("X-Id", &long)]];
    let bad_json: [&str; 15] = [
        "{}",
        "",
        "text",
        "[]",
        r#"{"id":""}"#,
        r#"{"id":null}"#,
        r#"{"id":{"id":"1"}}"#,
        r#"{"id":["1"]}"#,
        r#"{"id":1.5}"#,
        r#"{"id":"1","id":"1"}"#,
        r#"{"id":"1","\u0069d":"2"}"#,
        r#"{"a":{"id":"1"}}"#,
        r#"{"ID":"1"}"#,
        r#"{"id":"a\r\nb"}"#,
        &long_json,
    ];
    let backend = Backend::ok();
    let header = Proxy::start(backend.address, &route("    event_id: { header: X-Id }\n"));
    for headers in bad_headers {
        assert_eq!(header.send(&with(headers, b"{}")).status, 400, "{headers:?}");
    }
    let json = Proxy::start(backend.address, &route("    event_id: { json: /id }\n"));
    for body in bad_json {
        assert_eq!(json.send(&with(&[], body.as_bytes())).status, 400, "{body}");
    }
    for proxy in [&header, &json] {
        assert_eq!(proxy.wait_for_event("event_id_invalid")["status"], 400);
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn an_event_without_an_id_may_be_let_pass_but_never_shares_one() {
    let backend = Backend::ok();
    let skip = "    event_id: { header: X-Id }\n    duplicates: { missing: skip, replay_guard: false }\n";
    let proxy = Proxy::start(backend.address, &route(skip));
    for headers in [&[][..], &[], &[("X-Id", "")], &[("X-Id", "")]] {
        assert!(!is_copy(&proxy.send(&with(headers, b"{}"))), "{headers:?}");
    }
    assert_eq!(proxy.send(&with(&[("X-Id", "1"), ("X-Id", "2")], b"{}")).status, 400);
    assert_eq!(backend.requests().len(), 4);
    // With the replay guard what was signed takes the ID's place.
    let guarded = Proxy::start(backend.address, &route(&skip.replace("replay_guard: false", "replay_guard: true")));
    for (body, copy) in [("a", false), ("b", false), ("a", true)] {
        assert_eq!(is_copy(&guarded.send(&with(&[], body.as_bytes()))), copy, "{body}");
    }
}

#[test]
fn ids_that_look_alike_are_different() {
    let (long, longer) = ("x".repeat(255), "x".repeat(1000));
    let ids = [
        "a",
        "A",
        "aa",
        "a:b",
        "a/b",
        "a|b",
        "a,b",
        "a*",
        "a?",
        "a%2A",
        "a.b",
        "a\tb",
        "a b",
        "github:a",
        "content:a",
        "0",
        "00",
        "a\u{e9}",
        "ae",
        &long,
        &(long.clone() + "y"),
        &(long.clone() + "z"),
        &longer,
        &(longer.clone() + "y"),
    ];
    let backend = Backend::ok();
    let proxy = Proxy::start(
        backend.address,
        &route("    event_id: { header: X-Id }\n    duplicates: { replay_guard: false }\n"),
    );
    for copy in [false, true] {
        for id in ids {
            let answer = proxy.send(&with(&[("X-Id", id)], b"{}"));
            assert_eq!((answer.status, is_copy(&answer)), (200, copy), "{id:?}");
        }
    }
    assert_eq!(backend.requests().len(), ids.len());
}

#[test]
fn an_event_passes_again_once_it_is_forgotten() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("    duplicates: { remember: 1s }\n"));
    assert!(!is_copy(&proxy.send(&event("one"))));
    let begun = Instant::now();
    while is_copy(&proxy.send(&event("one"))) {
        assert!(begun.elapsed() < PATIENCE, "never forgotten");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(begun.elapsed() >= Duration::from_millis(500), "forgotten at once");
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn the_statuses_for_copies_are_the_routes() {
    let backend = Backend::with(|_, _| Reply::After(Duration::from_millis(500), Box::new(Reply::Status(200, "ok"))));
    let text = "timeouts: { duplicate_wait: 0s }\n".to_owned() + &route("    answers: { duplicate: 409, busy: 425 }\n");
    let proxy = Proxy::start(backend.address, &text);
    let mut first = Connection::open(proxy.http);
    first.send(&event("one"));
    backend.wait_for(1);
    let busy = proxy.send(&event("one"));
    assert_eq!((busy.status, is_copy(&busy)), (425, false));
    assert_eq!(first.answer().status, 200);
    let copy = proxy.send(&event("one"));
    assert_eq!((copy.status, is_copy(&copy)), (409, true));
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn duplicates_off_means_off() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &route("    duplicates: off\n"));
    for _ in 0..2 {
        assert!(!is_copy(&proxy.send(&event("one"))));
    }
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn a_full_store_says_so_and_forgets_nothing() {
    let backend = Backend::ok();
    let text =
        "state: { memory: { max_ids: 1000 } }\n".to_owned() + &route("    duplicates: { replay_guard: false }\n");
    let proxy = Proxy::start(backend.address, &text);
    let mut connection = Connection::open(proxy.http);
    let full = (0..=1000).find(|n| connection.send(&event(&n.to_string())).answer().status == 503);
    let full = full.expect("a limit");
    let answer = connection.send(&event("one more")).answer();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(backend.requests().len(), full);
    assert!(full > 900, "{full}");
    for n in [0, full / 2, full - 1] {
        assert!(is_copy(&connection.send(&event(&n.to_string())).answer()), "{n}");
    }
    assert_eq!(proxy.wait_for_event("seen_ids_full")["status"], 503);
}

#[test]
fn killed_in_flight_and_started_again_the_retry_is_delivered() {
    let backend = Backend::with(|_, count| if count == 0 { Reply::Hang } else { Reply::Status(200, "ok") });
    let mut killed = Proxy::start(backend.address, &route(""));
    let mut connection = Connection::open(killed.http);
    connection.send(&event("one"));
    backend.wait_for(1);
    killed.signal("KILL");
    killed.wait();
    assert!(connection.try_answer().is_none(), "nobody was told anything");
    let again = Proxy::start(backend.address, &route(""));
    assert!(!is_copy(&again.send(&event("one"))));
    assert_eq!(backend.requests().len(), 2);
}

#[test]
fn told_to_end_in_flight_it_finishes_first() {
    let backend = Backend::with(|_, _| Reply::After(Duration::from_millis(800), Box::new(Reply::Status(200, "ok"))));
    let mut proxy = Proxy::start(backend.address, &route(""));
    let (mut plain, mut tls) = (Connection::open(proxy.http), Connection::open_tls(proxy.https));
    plain.send(&event("one"));
    tls.send(&event("two"));
    let https = proxy.https;
    let second = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let signature = sign::github(SECRET, b"{}");
        let headers = [("x-github-delivery", "three"), ("x-hub-signature-256", &*signature)];
        runtime.block_on(http2(https, "POST", "/hook", &headers, b"{}".to_vec()))
    });
    backend.wait_for(3);
    proxy.signal("TERM");
    for answer in [plain.answer(), tls.answer(), second.join().expect("a sender")] {
        assert_eq!((answer.status, answer.text()), (200, "ok".into()));
    }
    assert_eq!(proxy.wait().code(), Some(0));
}
