//! The acceptance table of threats: one test by name for each row that this version touches. For every refusal the
//! helper looks at the status, at the counter, at the backend (untouched) and at the connection.

use super::support::client::{http2_connect, http2_send};
use super::support::frames::{END_HEADERS, END_STREAM, Frames};
use super::support::{
    Backend, Connection, Moat, PATIENCE, Refusal, Reply, post, proxy::program, refusal, refusal_and_close, request,
    sign, within,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SECRET: &str = "a-secret-of-some-length";
const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

const ROUTES: &str = r#"
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    to: app
  - name: other
    path: /webhooks/other
    provider: github
    secrets: [{ insecure_literal: "another-secret-of-some-length" }]
    duplicates: off
    to: app
  - name: stripe
    path: /webhooks/stripe
    provider: stripe
    secrets: [{ insecure_literal: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }]
    duplicates: off
    to: app
  - name: standard
    path: /webhooks/standard
    provider: standard-webhooks
    secrets: [{ insecure_literal: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" }]
    duplicates: off
    to: app
  - name: own
    path: /webhooks/own
    signature: { algorithm: hmac-sha256, from: { header: X-Signature, encoding: base64 }, signed: "{body}" }
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    to: app
"#;

const MALFORMED: Refusal = refusal_and_close(400, "", "malformed");
const FORGED: Refusal = refusal(401, "github", "signature_");
const TIME: Refusal = refusal(401, "stripe", "timestamp_");

/// A request for the github route: these header lines after a right signature over `signed`, then these bytes.
fn raw(signed: &[u8], lines: &str, rest: &[u8]) -> Vec<u8> {
    let signature = sign::github(SECRET, signed);
    let mut bytes = format!(
        "POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nX-Hub-Signature-256: {signature}\r\n{lines}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend_from_slice(rest);
    bytes
}

fn genuine(headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    to("/webhooks/github", headers, body)
}

/// Signed as GitHub does with [`SECRET`].
fn to(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let signature = sign::github(SECRET, body);
    let headers: Vec<_> = [("X-Hub-Signature-256", &*signature)].iter().chain(headers).copied().collect();
    post(path, &headers, body)
}

fn forged(body: &[u8]) -> Vec<u8> {
    post("/webhooks/github", &[("X-Hub-Signature-256", &format!("sha256={:064}", 0))], body)
}

fn unix() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()).expect("fits")
}

fn base64_sha256(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    use hmac::{KeyInit as _, Mac as _};
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret).expect("any key");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

// ---- framing ----------------------------------------------------------------------------------------------------------

/// Row 1.
#[test]
fn smuggling_by_two_framings_is_400_and_the_connection_ends() {
    let moat = Moat::new(ROUTES);
    // Read one way this is the signed `{}`, read the other way a second request follows.
    let rest = b"2\r\n{}\r\n0\r\n\r\nPOST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    for lines in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 2",
        "Content-Length: 2\r\ntransfer-encoding: chunked",
        "Content-Length: 2\r\nTransfer-Encoding:\tchunked",
        "Content-Length: 2\r\nTransfer-Encoding: Chunked",
        "Content-Length: 2\r\nTransfer-Encoding:",
        "Content-Length: 2\r\nTransfer-Encoding: identity",
        "Content-Length: 2\r\nTransfer-Encoding: xchunked",
        "Content-Length: 2\r\nTransfer-Encoding : chunked",
        "Content-Length: 2\r\nTransfer-Encoding\t: chunked",
        "Content-Length: 2\r\n Transfer-Encoding: chunked",
        "Content-Length: 2\r\nX: x\r\n\tTransfer-Encoding: chunked",
        "Content-Length: 2\r\nX: x\nTransfer-Encoding: chunked",
        "Content-Length: 2\r\nX: x\rTransfer-Encoding: chunked",
        "Content-Length: 2\r\nTransfer-Encoding:\r\n chunked",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding: chunked\r\nTransfer_Encoding: identity",
    ] {
        moat.refuses(lines, &raw(b"{}", lines, rest), MALFORMED);
    }
    // The same bytes in one framing are fine.
    moat.accepts("chunked", &raw(b"{}", "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n"));
}

/// Row 2.
#[test]
fn a_transfer_encoding_that_is_not_chunked_is_never_ignored() {
    let moat = Moat::new(ROUTES);
    for coding in [
        "",
        "identity",
        "gzip",
        "deflate",
        "xchunked",
        "chunkedx",
        "chunk",
        "cow",
        "chunked gzip",
        "'chunked'",
        "\u{7f}",
    ] {
        let lines = format!("Transfer-Encoding: {coding}");
        moat.refuses(coding, &raw(b"{}", &lines, b"2\r\n{}\r\n0\r\n\r\n"), MALFORMED);
    }
}

/// Row 3.
#[test]
fn a_content_length_that_is_not_one_plain_number_is_400() {
    let moat = Moat::new(ROUTES);
    for lines in [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 2",
        "Content-Length: 2,3",
        "Content-Length: +2",
        "Content-Length: -2",
        "Content-Length: 0x2",
        "Content-Length: 2.0",
        "Content-Length: 2e0",
        "Content-Length: 2 2",
        "Content-Length: \u{b}2",
        "Content-Length:",
        "Content-Length: ٢",
        "Content-Length: 18446744073709551618",
        "Content-Length: 340282366920938463463374607431768211458",
        "Content-Length : 2",
        "Content-Length: 2\r\n 2",
        "Content-Length: 2\r\nContent_Length: 3",
    ] {
        moat.refuses(lines, &raw(b"{}", lines, b"{}"), MALFORMED);
    }
    moat.accepts("plain", &raw(b"{}", "Content-Length: 2", b"{}"));
}

/// Row 4.
#[test]
fn broken_chunks_and_trailers_are_400_and_not_forwarded() {
    let moat = Moat::new(ROUTES);
    for body in [
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2\0\r\n{}\r\n0\r\n\r\n",
        "2,\r\n{}\r\n0\r\n\r\n",
        "g\r\n{}\r\n0\r\n\r\n",
        "2\n{}\n0\n\n",
        "2\n{}\r\n0\r\n\r\n",
        "2\r\n{}0\r\n\r\n",
        "2\r\n{}xx0\r\n\r\n",
        "2\r\n{}\n0\r\n\r\n",
        "3\r\n{}\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\n{}\r\n0\r\n\r\n",
        "10000000000000002\r\n{}\r\n0\r\n\r\n",
        "8000000000000000\r\n{}\r\n0\r\n\r\n",
        // Ends too early.
        "",
        "2",
        "2\r\n",
        "2\r\n{}",
        "2\r\n{}\r\n",
        "2\r\n{}\r\n0\r\n",
    ] {
        // One way knows the route already when it sees this.
        let (connections, before) = (moat.backend.connections(), moat.sum(&[]));
        let mut connection = Connection::open(moat.proxy.http);
        let answer = connection.send(&raw(b"{}", "Transfer-Encoding: chunked", body.as_bytes())).end().try_answer();
        assert!(answer.is_none_or(|answer| matches!(answer.status, 400 | 413)), "{body:?}");
        moat.wait_until(body, || moat.sum(&[]) == before + 1.0);
        assert!(connection.is_closed(), "{body:?}");
        assert_eq!(moat.backend.connections(), connections, "{body:?}: the backend heard of it");
    }
    let refused = ["malformed", "client_gone", "body_too_large"].map(|outcome| format!("outcome=\"{outcome}\""));
    assert_eq!(refused.iter().map(|outcome| moat.sum(&[outcome])).sum::<f64>(), 22.0);
    // Signed over what somebody might take each of these for.
    for (signed, body) in [
        (&b""[..], "\r\n\r\n"),
        (b"", ";x\r\n\r\n"),
        (b"", "\r\n7\r\nabcdefg\r\n0\r\n\r\n"),
        (b"{}", "2;a\nb\r\n{}\r\n0\r\n\r\n"),
        (b"{}", "2;\0\r\n{}\r\n0\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0;a\n\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0\r\nGET / HTTP/1.1\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0\r\n X: y\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0\r\n: y\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0\r\nX-Trailer: 1\r\n\r\n"),
        (b"{}", "2\r\n{}\r\n0\r\nX-Trailer:\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"),
    ] {
        let refused = || moat.sum(&["outcome=\"malformed\""]);
        let (connections, before) = (moat.backend.connections(), refused());
        let mut connection = Connection::open(moat.proxy.http);
        let answer = connection.send(&raw(signed, "Transfer-Encoding: chunked", body.as_bytes())).answer();
        assert_eq!(answer.status, 400, "{body:?}");
        moat.wait_until(body, || refused() == before + 1.0);
        assert!(connection.is_closed(), "{body:?}");
        assert_eq!(moat.backend.connections(), connections, "{body:?}: the backend heard of it");
    }
}

/// Row 5.
#[test]
fn chunk_extensions_are_dropped_and_no_trailer_counts() {
    let moat = Moat::new(ROUTES);
    let body = b"1;a=b\r\n{\r\n1;c=\"d\"\r\n}\r\n0;last\r\n\r\n";
    let seen = moat.accepts("extensions", &raw(b"{}", "Transfer-Encoding: chunked\r\nTrailer: X-Trailer", body));
    assert_eq!((&*seen.body, seen.header("content-length")), (&b"{}"[..], Some("2")));
    assert_eq!([seen.header("x-trailer"), seen.header("trailer"), seen.header("transfer-encoding")], [None; 3]);
    // A signature that only comes as a trailer is none: one way says so when it has the head.
    let late = format!("2\r\n{{}}\r\n0\r\nX-Hub-Signature-256: {}\r\n\r\n", sign::github(SECRET, b"{}"));
    let late = format!("POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{late}");
    let connections = moat.backend.connections();
    let answer = Connection::open(moat.proxy.http).send(late.as_bytes()).answer();
    assert!(matches!(answer.status, 400 | 401), "{answer:?}");
    assert_eq!(moat.backend.connections(), connections, "the backend heard of it");
    // Neither is read without end.
    for part in ["2;{}\r\n{}\r\n0\r\n\r\n", "2\r\n{}\r\n0\r\nX: {}\r\n\r\n"] {
        let (head, tail) = part.split_once("{}").expect("a place");
        let endless = [head.as_bytes(), &vec![b'a'; 4 << 20], tail.as_bytes()].concat();
        let connections = moat.backend.connections();
        let mut connection = Connection::open(moat.proxy.http);
        let answer = connection.send(&raw(b"{}", "Transfer-Encoding: chunked", &endless)).try_answer();
        assert!(answer.is_none_or(|answer| answer.status >= 400), "{part}");
        assert_eq!(moat.backend.connections(), connections, "{part}");
    }
}

/// Row 6.
#[test]
fn what_is_forwarded_has_one_length_one_host_and_nothing_of_the_connection() {
    let moat = Moat::new(ROUTES);
    let lines = "Transfer-Encoding: chunked\r\nConnection: keep-alive, TE\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                 Proxy-Connection: keep-alive\r\nExpect: 100-continue\r\nX-Kept: 1";
    let seen = moat.accepts("chunked", &raw(b"{}", lines, b"2\r\n{}\r\n0\r\n\r\n"));
    assert_eq!((&*seen.method, &*seen.target, &*seen.body), ("POST", "/webhooks/github", &b"{}"[..]));
    for (name, count) in [
        ("content-length", 1),
        ("host", 1),
        ("x-kept", 1),
        ("transfer-encoding", 0),
        ("connection", 0),
        ("keep-alive", 0),
        ("te", 0),
        ("proxy-connection", 0),
        ("expect", 0),
    ] {
        assert_eq!(seen.count(name), count, "{name}");
    }
}

/// Row 7.
#[test]
fn other_versions_in_the_request_line_are_refused() {
    let moat = Moat::new(ROUTES);
    for line in [
        "POST /webhooks/github HTTP/0.9",
        "POST /webhooks/github HTTP/1.2",
        "POST /webhooks/github HTTP/1.10",
        "POST /webhooks/github HTTP/2.0",
        "POST /webhooks/github HTTP/3",
        "POST /webhooks/github http/1.1",
        "POST /webhooks/github HTTP/1.1 x",
        "POST /webhooks/github",
        "POST",
        "",
        " POST /webhooks/github HTTP/1.1",
    ] {
        let bytes = raw(b"{}", "Content-Length: 2", b"{}");
        let rest = bytes.iter().position(|byte| *byte == b'\n').expect("a line");
        let bytes = [line.as_bytes(), b"\r\n", &bytes[rest + 1..]].concat();
        moat.refuses(line, &bytes, MALFORMED);
    }
    // What pingora would rewrite before anybody looks.
    for target in [
        " /webhooks/github",
        "/webhooks/github#x",
        "/webhooks/github?a b",
        "/webhooks/github?\u{1}",
        "/webhooks/github?\u{7f}",
    ] {
        let line = format!("POST {target} ");
        let bytes = String::from_utf8(genuine(&[], b"{}")).expect("text").replace("POST /webhooks/github ", &line);
        moat.refuses(target, bytes.as_bytes(), MALFORMED);
    }
    let ftp = String::from_utf8(genuine(&[], b"{}")).expect("text").replace("POST ", "POST ftp://localhost");
    moat.refuses("another scheme", ftp.as_bytes(), MALFORMED);
    for target in ["ht?y", "x", "http://localhost", "localhost:80"] {
        let line = format!("POST {target} ");
        let bytes = String::from_utf8(genuine(&[], b"{}")).expect("text").replace("POST /webhooks/github ", &line);
        moat.refuses(target, bytes.as_bytes(), MALFORMED);
    }
    let old = raw(b"{}", "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n");
    let old = String::from_utf8(old).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    moat.refuses("HTTP/1.0 with chunks", old.as_bytes(), MALFORMED);
}

/// Row 8.
#[test]
fn pipelined_requests_are_each_judged_alone_and_answered_in_order() {
    let moat = Moat::new(ROUTES);
    let mut connection = Connection::open(moat.proxy.http);
    connection.send(&[genuine(&[], b"{}"), forged(b"{}"), genuine(&[], b"{\"a\":2}")].concat());
    assert_eq!([(); 3].map(|()| connection.answer().status), [200, 401, 200]);
    let bodies: Vec<_> = moat.backend.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies, [&b"{}"[..], b"{\"a\":2}"]);
}

/// Row 9.
#[test]
fn an_unread_body_is_never_read_as_a_request() {
    let moat = Moat::new(&format!("limits: {{ max_body: 1KiB }}\n{ROUTES}"));
    let inner = genuine(&[], b"{}");
    // Filled up with genuine requests: at whatever byte the reading began again, one would be found.
    let body = |size: usize| inner.iter().copied().cycle().take(size).collect::<Vec<u8>>();
    for (size, path, expected) in [
        (900, "/webhooks/nowhere", refusal(404, "", "no_route")),
        (200 << 10, "/webhooks/nowhere", refusal(404, "", "no_route")),
        (1 << 20, "/webhooks/nowhere", refusal_and_close(404, "", "no_route")),
        (900, "/webhooks/github", refusal(401, "github", "signature_missing")),
        (1 << 20, "/webhooks/github", refusal_and_close(413, "github", "body_too_large")),
    ] {
        moat.refuses(&format!("{path} {size}"), &post(path, &[], &body(size)), expected);
    }
    // Declared and never sent: the answer does not wait for it.
    let bytes = "POST /webhooks/nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n";
    let mut connection = Connection::open(moat.proxy.http);
    assert_eq!(connection.send(bytes.as_bytes()).answer().status, 404);
    assert!(connection.is_closed());
}

/// Row 10.
#[test]
fn an_upgrade_is_not_forwarded_and_a_101_is_502() {
    let open = "  - { name: open, path: /open, signature: none, duplicates: off, to: app }\n";
    let routes = format!("{}\n{open}", ROUTES.trim_end());
    let moat = Moat::new(&routes);
    for fields in [
        &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")][..],
        &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
    ] {
        moat.refuses("upgrade", &genuine(fields, b"{}"), refusal_and_close(400, "github", "malformed"));
        // Where nothing is verified it is left out.
        let seen = moat.accepts("upgrade of what is open", &post("/open", fields, b"{}"));
        assert_eq!([seen.header("connection"), seen.header("upgrade"), seen.header("http2-settings")], [None; 3]);
    }
    let tunnel = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nSECRET";
    let moat = Moat::answering(&routes, || Reply::Raw(tunnel.to_vec()));
    // Asked for where it is left out, and not asked for at all.
    let asked = post("/open", &[("Connection", "Upgrade"), ("Upgrade", "websocket")], b"{}");
    for (route, request) in [("open", asked), ("github", genuine(&[], b"{}"))] {
        let answer = Connection::open(moat.proxy.http).send(&request).answer();
        assert_eq!(answer.status, 502, "{route}");
        assert!(!answer.text().contains("SECRET"), "{route}");
        moat.wait_until("counted", || moat.count(route, "backend_broken") == 1.0);
    }
}

/// Row 11.
#[test]
fn connect_trace_and_pri_are_refused() {
    let moat = Moat::new(ROUTES);
    for (line, status, outcome) in [
        ("TRACE /webhooks/github", 405, "method_not_allowed"),
        ("trace /webhooks/github", 405, "method_not_allowed"),
        ("TRACK /webhooks/github", 405, "method_not_allowed"),
        ("CONNECT localhost:80", 405, "method_not_allowed"),
        ("CONNECT /webhooks/github", 405, "method_not_allowed"),
        ("OPTIONS *", 400, "malformed"),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 0\r\n\r\n");
        moat.refuses(line, bytes.as_bytes(), refusal(status, "", outcome));
    }
    for method in ["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "post", "POST2"] {
        let answer = moat.proxy.send(&request(method, "/webhooks/github", &[], b""));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(moat.backend.connections(), 0);
}

/// Row 12.
#[test]
fn connection_cannot_name_an_end_to_end_header() {
    let moat = Moat::new(ROUTES);
    for token in [
        "X-Hub-Signature-256",
        "close, x-hub-signature-256",
        "Content-Length",
        "Host",
        "Content-Type",
        "Authorization",
        "X-Forwarded-For",
    ] {
        moat.refuses(token, &genuine(&[("Connection", token)], b"{}"), MALFORMED);
    }
}

/// Row 13.
#[test]
fn expect_gets_100_after_the_head_checks_and_only_then() {
    let moat = Moat::new(ROUTES);
    let expecting =
        |signed: &[u8], length: usize| raw(signed, &format!("Expect: 100-continue\r\nContent-Length: {length}"), b"");
    let mut connection = Connection::open(moat.proxy.http);
    let interim = connection.send(&expecting(b"{}", 2)).any_answer().map(|answer| answer.status);
    assert_eq!(interim, Some(100));
    assert_eq!(moat.backend.connections(), 0);
    assert_eq!(connection.send(b"{}").answer().status, 200);
    // Refused by its head: the final status at once, and the end.
    for (case, bytes, expected) in [
        ("too large", expecting(b"{}", 2 << 20), refusal_and_close(413, "github", "body_too_large")),
        (
            "not signed",
            b"POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
                .to_vec(),
            refusal_and_close(401, "github", "signature_missing"),
        ),
        (
            "no route",
            b"POST /x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".to_vec(),
            refusal_and_close(404, "", "no_route"),
        ),
    ] {
        let mut connection = Connection::open(moat.proxy.http);
        let first = connection.send(&bytes).any_answer().map(|answer| answer.status);
        assert_eq!(first, Some(expected.status), "{case}");
        assert!(connection.is_closed(), "{case}");
        moat.refuses(case, &bytes, expected);
    }
    for odd in ["200-ok", "100-continue, 100-continue", "x", ""] {
        moat.refuses(odd, &genuine(&[("Expect", odd)], b"{}"), refusal(417, "", "expectation_failed"));
    }
}

/// Row 14.
#[test]
fn control_bytes_folds_and_bare_line_ends_are_400() {
    let moat = Moat::new(ROUTES);
    for lines in [
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\0",
        "X: a\u{1}",
        "X: a\u{7f}",
        "X: a\u{1b}[31m",
        "X : a",
        "X\t: a",
        "X Y: a",
        ": a",
        "no colon",
        "X\0: a",
        "X(y): a",
        "\u{e9}: a",
    ] {
        moat.refuses(lines, &raw(b"{}", &format!("{lines}\r\nContent-Length: 2"), b"{}"), MALFORMED);
    }
    let bare = String::from_utf8(genuine(&[], b"{}")).expect("text").replace("\r\n", "\n");
    moat.refuses("bare LF everywhere", bare.as_bytes(), MALFORMED);
}

/// Row 15.
#[test]
fn there_is_one_host_and_an_absolute_form_agrees_with_it() {
    let moat = Moat::new(ROUTES);
    let signature = sign::github(SECRET, b"{}");
    let asked = |target: &str, hosts: &str| {
        format!("POST {target} HTTP/1.1\r\n{hosts}X-Hub-Signature-256: {signature}\r\nContent-Length: 2\r\n\r\n{{}}")
            .into_bytes()
    };
    for (target, hosts) in [
        ("/webhooks/github", ""),
        ("/webhooks/github", "Host:\r\n"),
        ("/webhooks/github", "Host: a\r\nHost: a\r\n"),
        ("/webhooks/github", "Host: a\r\nHost: b\r\n"),
        ("/webhooks/github", "Host: a, b\r\n"),
        ("/webhooks/github", "Host: a b\r\n"),
        ("/webhooks/github", "Host: a@b\r\n"),
        ("/webhooks/github", "Host: a/b\r\n"),
        ("/webhooks/github", "Host: a:b\r\n"),
        ("/webhooks/github", "Host: a:99999\r\n"),
        ("/webhooks/github", "Host: [::1\r\n"),
        ("/webhooks/github", "Host: \u{e9}\r\n"),
        ("http://b/webhooks/github", "Host: a\r\n"),
        ("http://a@b/webhooks/github", "Host: b\r\n"),
        ("http://a:b@c/webhooks/github", "Host: c\r\n"),
        ("http:///webhooks/github", "Host: a\r\n"),
        ("http://a/webhooks/github", ""),
    ] {
        moat.refuses(&format!("{target} {hosts}"), &asked(target, hosts), MALFORMED);
    }
    let seen =
        moat.accepts("absolute form", &asked("http://hooks.example/webhooks/github?a=b", "Host: hooks.example\r\n"));
    assert_eq!(
        (&*seen.target, seen.header("host"), seen.count("host")),
        ("/webhooks/github?a=b", Some("hooks.example"), 1)
    );
}

/// Row 16.
#[test]
fn too_many_or_too_large_headers_and_long_urls_are_refused() {
    let moat = Moat::new(ROUTES);
    let many: Vec<(String, String)> = (0..120).map(|index| (format!("X-{index}"), "1".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    moat.refuses("120 fields", &genuine(&many, b"{}"), refusal(431, "", "headers_too_large"));
    moat.refuses("40 KiB", &genuine(&[("X", &"a".repeat(40 << 10))], b"{}"), refusal(431, "", "headers_too_large"));
    moat.refuses("long path", &to(&format!("/{}", "a".repeat(9 << 10)), &[], b"{}"), refusal(414, "", "uri_too_long"));
    moat.refuses(
        "long query",
        &to(&format!("/webhooks/github?{}", "a".repeat(9 << 10)), &[], b"{}"),
        refusal(414, "", "uri_too_long"),
    );
    let before = moat.proxy.rss();
    for (case, fields, bytes) in [("1,000 fields", 1000, 10), ("4 MiB", 40, 100 << 10)] {
        let lines: Vec<String> = (0..fields).map(|index| format!("X-{index}: {}", "a".repeat(bytes))).collect();
        let mut connection = Connection::open(moat.proxy.http);
        let answer = connection.send(&raw(b"{}", &lines.join("\r\n"), b"{}")).try_answer();
        assert!(answer.is_none_or(|answer| matches!(answer.status, 400 | 431)), "{case}");
        assert!(connection.is_closed(), "{case}");
    }
    assert!(moat.proxy.rss() < before + (16 << 20), "memory is bounded");
    assert_eq!(moat.backend.connections(), 0);
}

/// Row 17.
#[test]
fn tls_on_the_plain_port_plain_on_the_tls_port_and_junk_are_closed() {
    let moat = Moat::new(ROUTES);
    let hello = [&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0][..], &[0; 200], b"\r\n\r\n"].concat();
    let mut lines = 0;
    for round in 0..20 {
        for (address, bytes) in [
            (moat.proxy.http, &hello[..]),
            (moat.proxy.http, b"\0\0\0\0\r\n\r\n"),
            (moat.proxy.https, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            (moat.proxy.https, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        ] {
            let mut connection = Connection::open(address);
            connection.send(bytes).end();
            let said = connection.read_raw(12);
            assert!(!said.starts_with(b"HTTP/1.1 2") && !said.starts_with(b"HTTP/1.1 3"), "{said:?}");
            assert!(connection.read_raw(1 << 20).len() < 4096 && connection.is_closed());
        }
        if round == 0 {
            moat.wait_until("both told", || moat.proxy.events().len() == 2);
            lines = moat.proxy.log().lines().count();
        }
    }
    assert_eq!(moat.proxy.send(&genuine(&[], b"{}")).status, 200);
    moat.proxy.wait_for_event("forwarded");
    // Not more than the one event for each connection that came as far as HTTP.
    let flood = moat.proxy.log().lines().count() - lines;
    assert!(flood <= 19 * 2 + 1, "{flood} lines:\n{}", moat.proxy.log());
}

/// Row 18.
#[test]
fn old_tls_gets_an_alert() {
    let moat = Moat::new(ROUTES);
    // TLS_RSA_WITH_AES_128_CBC_SHA, RC4, 3DES, NULL: all that old clients had.
    for (version, ciphers) in [([3, 1], [0, 0x2f, 0, 5]), ([3, 2], [0, 0x2f, 0, 0x0a]), ([3, 3], [0, 5, 0, 1])] {
        let mut hello = vec![version[0], version[1]];
        hello.extend_from_slice(&[7; 32]);
        hello.extend_from_slice(&[0, 0, 4]);
        hello.extend_from_slice(&ciphers);
        hello.extend_from_slice(&[1, 0]);
        let length = u8::try_from(hello.len()).expect("short");
        let record = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length], &hello[..]].concat();
        let mut connection = Connection::open(moat.proxy.https);
        let said = connection.send(&record).read_raw(64);
        // An alert (21) of level fatal (2), then the end.
        assert_eq!((said.first(), said.get(5)), (Some(&21), Some(&2)), "{version:?}: {said:?}");
        assert!(connection.is_closed());
    }
}

// ---- HTTP/2 -----------------------------------------------------------------------------------------------------------

/// What a hand-made HTTP/2 request got.
#[derive(Debug, PartialEq)]
enum Http2 {
    Accepted,
    Refused,
    Reset,
    Nothing,
}

/// What one stream with these fields and this body gets.
fn http2_raw(moat: &Moat, fields: &[(&[u8], &[u8])], body: &[u8]) -> Http2 {
    let mut bytes = Frames::new(&[]);
    bytes.head(END_HEADERS, fields);
    bytes.frame(0, END_STREAM, 1, body);
    let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
    connection.send(&bytes.0);
    loop {
        let head = connection.read_raw(9);
        let [a, b, c, kind, _, _, _, _, stream] = head[..] else { return Http2::Nothing };
        let payload = connection.read_raw(usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c));
        match (kind, stream) {
            // An indexed `:status: 200`.
            (1, 1) if payload.first() == Some(&0x88) => return Http2::Accepted,
            (1, 1) => return Http2::Refused,
            (3, 1) | (7, _) => return Http2::Reset,
            _ => {}
        }
    }
}

/// Header fields of a hand-made request.
type Fields<'a> = &'a [(&'a [u8], &'a [u8])];

fn http2_refuses(plain: Fields<'_>, cases: &[(Fields<'_>, &[&[u8]])]) {
    let moat = Moat::new(ROUTES);
    let signature = sign::github(SECRET, b"{}");
    let plain: Vec<_> = plain.iter().copied().chain([(&b"x-hub-signature-256"[..], signature.as_bytes())]).collect();
    for (added, without) in cases {
        let mut fields: Vec<_> =
            plain.iter().filter(|(name, _)| !without.contains(name)).chain(*added).copied().collect();
        // In the order that they must have: nothing here is refused for that.
        fields.sort_by_key(|(name, _)| !name.starts_with(b":"));
        let got = http2_raw(&moat, &fields, b"{}");
        let shown: Vec<_> =
            added.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
        assert!(matches!(got, Http2::Refused | Http2::Reset), "{shown:?} without {without:?}: {got:?}");
        assert_eq!(moat.backend.connections(), 0, "{shown:?}");
    }
    assert_eq!(http2_raw(&moat, &plain, b"{}"), Http2::Accepted);
    assert_eq!(moat.backend.only().body, b"{}");
}

const PSEUDO: &[(&[u8], &[u8])] =
    &[(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/webhooks/github"), (b":authority", b"localhost")];

/// Row 19.
#[test]
fn http2_with_connection_headers_or_a_wrong_length_is_not_forwarded() {
    http2_refuses(
        PSEUDO,
        &[
            (&[(b"content-length", b"0")], &[]),
            (&[(b"content-length", b"1")], &[]),
            (&[(b"content-length", b"3")], &[]),
            (&[(b"content-length", b"2"), (b"content-length", b"2")], &[]),
            (&[(b"content-length", b"+2")], &[]),
            (&[(b"content-length", b"2, 2")], &[]),
            (&[(b"transfer-encoding", b"chunked")], &[]),
            (&[(b"transfer-encoding", b"identity")], &[]),
            (&[(b"connection", b"close")], &[]),
            (&[(b"connection", b"x-hub-signature-256")], &[]),
            (&[(b"keep-alive", b"timeout=5")], &[]),
            (&[(b"proxy-connection", b"keep-alive")], &[]),
            (&[(b"upgrade", b"h2c")], &[]),
            (&[(b"te", b"gzip")], &[]),
        ],
    );
}

/// Row 20.
#[test]
fn http2_fields_that_http1_could_not_carry_are_not_forwarded() {
    http2_refuses(
        PSEUDO,
        &[
            (&[(b"x", b"a\r\ntransfer-encoding: chunked")], &[]),
            (&[(b"x", b"a\nb: c")], &[]),
            (&[(b"x", b"a\rb")], &[]),
            (&[(b"x", b"a\0b")], &[]),
            (&[(b"x\r\ny", b"a")], &[]),
            (&[(b"x: y", b"a")], &[]),
            (&[(b"x y", b"a")], &[]),
            (&[(b"x\0", b"a")], &[]),
            (&[(b"X-Upper", b"a")], &[]),
            (&[(b"", b"a")], &[]),
            (&[(b":method", b"POST / HTTP/1.1\r\nx: y")], &[b":method"]),
            (&[(b":method", b"POST x")], &[b":method"]),
            (&[(b":method", b"")], &[b":method"]),
            (&[(b":path", b"/webhooks/github HTTP/1.1\r\nx: y")], &[b":path"]),
            (&[(b":path", b"/webhooks/github x")], &[b":path"]),
            (&[(b":path", b"/webhooks/github?a b")], &[b":path"]),
            (&[(b":authority", b"a\r\nx: y")], &[b":authority"]),
            (&[(b":authority", b"a b")], &[b":authority"]),
            (&[(b":authority", b"a@b")], &[b":authority"]),
            (&[(b":scheme", b"https\r\nx")], &[b":scheme"]),
        ],
    );
}

/// Row 21.
#[test]
fn http2_with_two_readings_of_its_target_is_not_forwarded() {
    http2_refuses(
        PSEUDO,
        &[
            (&[(b"host", b"other")], &[]),
            (&[(b"host", b"localhost"), (b"host", b"localhost")], &[]),
            (&[], &[b":authority"]),
            (&[(b":path", b"https://localhost/webhooks/github")], &[b":path"]),
            (&[(b":path", b"webhooks/github")], &[b":path"]),
            (&[(b":path", b"*")], &[b":path"]),
            (&[(b":path", b"")], &[b":path"]),
            (&[], &[b":path"]),
            (&[], &[b":method"]),
            (&[], &[b":scheme"]),
            (&[(b":path", b"/webhooks/github")], &[]),
            (&[(b":method", b"POST")], &[]),
            (&[(b":authority", b"localhost")], &[]),
            (&[(b":status", b"200")], &[]),
            (&[(b":unknown", b"x")], &[]),
            (&[(b":protocol", b"websocket")], &[]),
            (&[(b":method", b"CONNECT")], &[b":method"]),
        ],
    );
}

/// A fragment is no part of a target (RFC 9113 section 8.3.1). h2 takes it off before anybody sees it: what is judged and
/// what is forwarded is one and the same all the same.
#[test]
fn http2_without_its_fragment_is_what_is_judged_and_forwarded() {
    let moat = Moat::new(ROUTES);
    let signature = sign::github(SECRET, b"{}");
    for (path, accepted) in [
        (&b"/webhooks/github?a=b"[..], true),
        (b"/webhooks/github?a=b#x", true),
        (b"/webhooks/github?a=b#/../x", true),
        (b"/webhooks/other#/../github", false),
        (b"#/webhooks/github", false),
    ] {
        let fields: Vec<_> = PSEUDO
            .iter()
            .map(|(name, value)| (*name, if *name == b":path" { path } else { *value }))
            .chain([(&b"x-hub-signature-256"[..], signature.as_bytes())])
            .collect();
        let (before, got) = (moat.backend.requests().len(), http2_raw(&moat, &fields, b"{}"));
        assert_eq!(got == Http2::Accepted, accepted, "{}: {got:?}", path.escape_ascii());
        let requests = moat.backend.requests();
        assert!(requests[before..].iter().all(|request| request.target == "/webhooks/github?a=b"), "{requests:?}");
        assert_eq!(requests.len() - before, usize::from(accepted), "{}", path.escape_ascii());
    }
}

/// Row 23.
#[tokio::test]
async fn an_http2_body_that_does_not_end_is_cut_off() {
    let moat = Moat::new(&format!("timeouts: {{ body: 1s }}\n{ROUTES}"));
    let (sender, driver) = http2_connect(moat.proxy.https).await;
    let driver = tokio::spawn(driver);
    let asked = http::Request::post("https://localhost/webhooks/github")
        .header("x-hub-signature-256", sign::github(SECRET, b"{}"));
    let (answer, mut stream) =
        sender.clone().ready().await.unwrap().send_request(asked.body(()).unwrap(), false).unwrap();
    stream.send_data("{".into(), false).unwrap();
    let got = tokio::time::timeout(Duration::from_secs(20), answer).await.expect("a deadline");
    assert!(got.is_err() || got.is_ok_and(|answer| answer.status() == 408));
    moat.wait_until("counted", || moat.count("github", "client_timeout") == 1.0);
    assert_eq!(moat.backend.connections(), 0);
    // The connection and its other streams go on.
    let mut sender = sender;
    let signature = sign::github(SECRET, b"{}");
    let headers = [("x-hub-signature-256", &*signature)];
    let genuine = http2_send(&mut sender, "POST", "/webhooks/github", &headers, b"{}".to_vec()).await;
    assert_eq!(genuine.unwrap().status, 200);
    driver.abort();
}

/// Row 23.
#[test]
fn http2_that_takes_no_answer_says_nothing_or_never_ends_its_head_ends() {
    let moat = Moat::new(&format!("timeouts: {{ header: 1s, body: 1s, idle: 2s, total: 3s }}\n{ROUTES}"));
    let signature = sign::github(SECRET, b"{}");
    let fields: Vec<_> = PSEUDO.iter().copied().chain([(&b"x-hub-signature-256"[..], signature.as_bytes())]).collect();
    // SETTINGS_INITIAL_WINDOW_SIZE 0: not one byte of a body may be sent.
    let mut deaf = Frames::new(&[0, 4, 0, 0, 0, 0]);
    deaf.head(END_HEADERS, &fields);
    deaf.frame(0, END_STREAM, 1, b"{}");
    let mut endless = Frames::new(&[]);
    endless.head(0, &fields);
    let idle = Frames::new(&[]);
    let mut connections = [("deaf", deaf), ("endless head", endless), ("idle", idle)].map(|(case, bytes)| {
        let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
        connection.send(&bytes.0);
        (case, connection)
    });
    moat.backend.wait_for(1);
    assert!(within(PATIENCE, || moat.proxy.metric("hookmoat_requests_in_flight") == 0.0), "still in flight");
    for (case, connection) in &mut connections {
        // Settings and a farewell may come first.
        assert!(connection.read_raw(1 << 20).len() < 1000 && connection.is_closed(), "{case}");
    }
}

/// Row 24.
#[test]
fn http2_on_the_plain_port_is_refused() {
    let moat = Moat::new(&format!("https: reject\n{ROUTES}"));
    let mut connection = Connection::open(moat.proxy.http);
    let said = connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").end().read_raw(64 << 10);
    assert!(said.starts_with(b"HTTP/1.1 4") || said.is_empty(), "{}", said.escape_ascii());
    let upgrade =
        [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    moat.refuses("h2c upgrade", &genuine(&upgrade, b"{}"), refusal(403, "github", "https_required"));
    assert_eq!(moat.backend.connections(), 0);
}

// ---- signature --------------------------------------------------------------------------------------------------------

fn signed_as(value: &str, body: &[u8]) -> Vec<u8> {
    post("/webhooks/github", &[("X-Hub-Signature-256", value)], body)
}

/// Row 25.
#[test]
fn a_signature_that_is_missing_empty_truncated_extended_or_not_hex_is_401() {
    let moat = Moat::new(ROUTES);
    let right = sign::hex_sha256(SECRET, &[b"{}"]);
    moat.refuses("missing", &post("/webhooks/github", &[], b"{}"), FORGED);
    let truncated = (0..64).map(|length| format!("sha256={}", &right[..length]));
    let odd = [
        String::new(),
        "sha256".into(),
        right.clone(),
        format!("sha256={right}0"),
        format!("sha256={right}00"),
        format!("sha256={right}{right}"),
        format!("sha256={right},sha256={right}"),
        format!("sha256= {right}"),
        format!("sha256=0x{right}"),
        format!("sha256={}g", &right[..63]),
        format!("sha256={}\u{ff10}", &right[..63]),
        format!("sha256={}", "é".repeat(32)),
        format!("sha256=sha256={right}"),
        format!("\"sha256={right}\""),
        format!("sha256={}{}", &right[2..], &right[..2]),
    ];
    for value in truncated.chain(odd) {
        let answer = moat.refuses(&value, &signed_as(&value, b"{}"), FORGED);
        assert!(!answer.text().contains(&right) && !answer.text().contains("signature"), "{}", answer.text());
    }
}

/// Row 26.
#[test]
fn the_case_of_hex_does_not_matter() {
    let moat = Moat::new(ROUTES);
    let right = sign::hex_sha256(SECRET, &[b"{}"]);
    moat.accepts("lower", &signed_as(&format!("sha256={right}"), b"{}"));
    moat.accepts("upper", &signed_as(&format!("sha256={}", right.to_uppercase()), b"{}"));
    moat.refuses("prefix in upper case", &signed_as(&format!("SHA256={right}"), b"{}"), FORGED);
}

/// Row 27.
#[test]
fn base64_has_one_spelling() {
    let moat = Moat::new(ROUTES);
    // A body whose signature has `+` or `/` in it and ends with bits that could be written otherwise.
    let body = (0..).map(|number| format!("{{\"n\":{number}}}").into_bytes());
    let signed = body.map(|body| (base64_sha256(SECRET.as_bytes(), &[&body]), body));
    let (tag, body) =
        signed.into_iter().find(|(tag, _)| BASE64_STANDARD.encode(tag).contains(['+', '/'])).expect("one");
    let right = BASE64_STANDARD.encode(&tag);
    let asked = |value: &str| post("/webhooks/own", &[("X-Signature", value)], &body);
    moat.accepts("canonical", &asked(&right));
    // 32 bytes are 42 characters, one with two bits to spare, and a `=`.
    let mut bits = right.clone().into_bytes();
    bits[42] += 1;
    for value in [
        BASE64_STANDARD_NO_PAD.encode(&tag),
        BASE64_URL_SAFE.encode(&tag),
        format!("{right}="),
        format!("{right}===="),
        String::from_utf8(bits).expect("text"),
        format!("{} {}", &right[..20], &right[20..]),
        hex::encode(&tag),
        format!("sha256={right}"),
    ] {
        moat.refuses(&value, &asked(&value), refusal(401, "own", "signature_"));
    }
}

/// Row 28.
#[test]
fn only_the_configured_algorithm_is_ever_looked_at() {
    use hmac::{KeyInit as _, Mac as _};
    let moat = Moat::new(ROUTES);
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(SECRET.as_bytes()).expect("any key");
    mac.update(b"{}");
    let sha1 = hex::encode(mac.finalize().into_bytes());
    let mut mac = hmac::Hmac::<sha2::Sha512>::new_from_slice(SECRET.as_bytes()).expect("any key");
    mac.update(b"{}");
    let sha512 = hex::encode(mac.finalize().into_bytes());
    let right = sign::hex_sha256(SECRET, &[b"{}"]);
    for (name, value) in [
        ("X-Hub-Signature", format!("sha1={sha1}")),
        ("X-Hub-Signature-256", format!("sha1={sha1}")),
        ("X-Hub-Signature-256", format!("sha256={sha1}")),
        ("X-Hub-Signature-256", format!("sha512={sha512}")),
        ("X-Hub-Signature-256", format!("sha256={sha512}")),
        ("X-Hub-Signature-256", "none".into()),
        ("X-Hub-Signature-256", "none=".into()),
        ("X-Hub-Signature-256", format!("md5={right}")),
        ("X-Hub-Signature-512", format!("sha256={right}")),
    ] {
        moat.refuses(&format!("{name}: {value}"), &post("/webhooks/github", &[(name, &value)], b"{}"), FORGED);
    }
    let now = unix();
    let stripe = sign::hex_sha256(STANDARD_SECRET, &[format!("{now}.{{}}").as_bytes()]);
    for version in ["v0", "v2", "V1", "v1a", ""] {
        let value = format!("t={now},{version}={stripe}");
        moat.refuses(
            &value,
            &post("/webhooks/stripe", &[("Stripe-Signature", &value)], b"{}"),
            refusal(401, "stripe", "signature_"),
        );
    }
}

/// Row 29.
#[test]
fn a_signature_id_or_timestamp_that_stands_twice_is_refused_whichever_is_good() {
    let moat = Moat::new(ROUTES);
    let right = sign::github(SECRET, b"{}");
    let wrong = format!("sha256={:064}", 0);
    for (one, other) in [(&right, &wrong), (&wrong, &right), (&right, &right)] {
        let bytes = post("/webhooks/github", &[("X-Hub-Signature-256", one), ("x-hub-signature-256", other)], b"{}");
        moat.refuses("signature", &bytes, FORGED);
    }
    let now = unix().to_string();
    let right = standard_signature("msg_1", &now, b"{}");
    let plain = [("webhook-id", "msg_1"), ("webhook-timestamp", &*now), ("webhook-signature", &*right)];
    moat.accepts("once", &post("/webhooks/standard", &plain, b"{}"));
    for again in
        [("webhook-id", "msg_2"), ("webhook-id", "msg_1"), ("webhook-timestamp", &*now), ("webhook-timestamp", "1")]
    {
        for fields in [[&plain[..], &[again]].concat(), [&[again], &plain[..]].concat()] {
            moat.refuses(again.0, &post("/webhooks/standard", &fields, b"{}"), refusal(401, "standard", ""));
        }
    }
}

fn standard_signature(id: &str, timestamp: &str, body: &[u8]) -> String {
    let key = BASE64_STANDARD.decode(&STANDARD_SECRET[6..]).expect("base64");
    let tag = base64_sha256(&key, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]);
    format!("v1,{}", BASE64_STANDARD.encode(tag))
}

fn standard(id: &str, timestamp: &str, signature: &str) -> Vec<u8> {
    let headers = [("webhook-id", id), ("webhook-timestamp", timestamp), ("webhook-signature", signature)];
    post("/webhooks/standard", &headers, b"{}")
}

/// Row 30.
#[test]
fn of_several_signatures_in_one_value_any_may_match_up_to_sixteen() {
    let moat = Moat::new(ROUTES);
    let now = unix().to_string();
    let right = standard_signature("msg_1", &now, b"{}");
    let wrong = format!("v1,{}", BASE64_STANDARD.encode([7; 32]));
    let many = |count: usize| [vec![&*wrong; count], vec![&*right]].concat().join(" ");
    for value in
        [&right, &format!("{wrong} {right}"), &format!("{right} {wrong}"), &format!("v1a,AAAA {right}"), &many(15)]
    {
        moat.accepts(value, &standard("msg_1", &now, value));
    }
    for value in [
        &many(16),
        &many(100),
        &wrong,
        &format!("{wrong} {wrong}"),
        &right.replace("v1,", "v2,"),
        &right.replace("v1,", ""),
    ] {
        moat.refuses(value, &standard("msg_1", &now, value), refusal(401, "standard", "signature_"));
    }
}

/// Row 31.
#[test]
fn a_signature_in_another_place_does_not_count() {
    let moat = Moat::new(ROUTES);
    let right = sign::github(SECRET, b"{}");
    for name in [
        "X_Hub_Signature_256",
        "X-Hub_Signature-256",
        "X.Hub.Signature.256",
        "X-Hub-Signature-256x",
        "Authorization",
        "Signature",
    ] {
        moat.refuses(name, &post("/webhooks/github", &[(name, &right)], b"{}"), FORGED);
    }
    moat.refuses(
        "cookie",
        &post("/webhooks/github", &[("Cookie", &format!("X-Hub-Signature-256={right}"))], b"{}"),
        FORGED,
    );
    moat.refuses("query", &post(&format!("/webhooks/github?X-Hub-Signature-256={right}"), &[], b"{}"), FORGED);
    // Beside the right one, an underscore twin makes two readings.
    moat.refuses("twin", &genuine(&[("X_Hub_Signature_256", &right)], b"{}"), MALFORMED);
    let seen = moat.accepts("underscores are dropped", &genuine(&[("X_Other", "1")], b"{}"));
    assert_eq!(seen.header("x_other"), None);
}

/// Row 32.
#[test]
fn a_secret_that_cannot_be_meant_is_a_config_error_that_does_not_show_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("template"), "${HOOK_SECRET_VALUE}\n").expect("a file");
    std::fs::write(at("huge"), "h00k-secret-value".repeat(10_000)).expect("a file");
    for (source, field) in [
        ("{ env: PLACEHOLDER }", "secrets[0].env"),
        ("{ env: MUSTACHE }", "secrets[0].env"),
        ("{ file: template }", "secrets[0].file"),
        ("{ file: huge }", "secrets[0].file"),
        ("{ env: \"h00k-secret-value\" }", "secrets[0].env"),
        ("h00k-secret-value", "secrets[0]"),
        ("{ literal: h00k-secret-value }", "secrets[0]"),
        ("{ env: A, insecure_literal: h00k-secret-value }", "secrets[0]"),
        ("{ insecure_literal: [h00k-secret-value] }", "secrets[0].insecure_literal"),
    ] {
        let config = format!(
            "listen: [{{ address: \"127.0.0.1:1\" }}]\nadmin: off\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:3\" }}\n\
             routes:\n  - name: github\n    path: /x\n    provider: github\n    to: app\n    secrets:\n      - {source}\n"
        );
        std::fs::write(at("hookmoat.yaml"), config).expect("a file");
        for command in ["check", "run"] {
            let mut program = program();
            program.env("PLACEHOLDER", "${HOOK_SECRET_VALUE}").env("MUSTACHE", "{{ h00k-secret-value }}");
            let done = program.args([command, "--config"]).arg(at("hookmoat.yaml")).output().expect("it runs");
            let said = [done.stdout, done.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert_eq!(done.status.code(), Some(2), "{command} {source}: {said}");
            assert!(said.contains(field), "{command} {source}: {said}");
            assert!(
                !said.contains("h00k-secret-value") && !said.contains("HOOK_SECRET_VALUE"),
                "{command} {source}: {said}"
            );
        }
    }
}

/// Row 33.
#[test]
fn whsec_is_part_of_stripes_key_and_not_of_standard_webhooks() {
    let moat = Moat::new(ROUTES);
    let now = unix().to_string();
    moat.accepts("standard", &standard("msg_1", &now, &standard_signature("msg_1", &now, b"{}")));
    let text = base64_sha256(STANDARD_SECRET.as_bytes(), &[b"msg_1.", now.as_bytes(), b".{}"]);
    let text = format!("v1,{}", BASE64_STANDARD.encode(text));
    moat.refuses(
        "standard, key as text",
        &standard("msg_1", &now, &text),
        refusal(401, "standard", "signature_mismatch"),
    );
    moat.accepts("stripe", &stripe(&now, STANDARD_SECRET));
    moat.refuses(
        "stripe, prefix stripped",
        &stripe(&now, &STANDARD_SECRET[6..]),
        refusal(401, "stripe", "signature_mismatch"),
    );
}

/// An event of Stripe's whose time is written so.
fn stripe(time: &str, secret: &str) -> Vec<u8> {
    let signature = sign::hex_sha256(secret, &[time.as_bytes(), b".{}"]);
    post("/webhooks/stripe", &[("Stripe-Signature", &format!("t={time},v1={signature}"))], b"{}")
}

/// Row 34.
#[test]
fn another_tenants_secret_does_not_count() {
    let moat = Moat::new(ROUTES);
    moat.refuses("other route", &to("/webhooks/other", &[], b"{}"), refusal(401, "other", "signature_mismatch"));
    let theirs = sign::github("another-secret-of-some-length", b"{}");
    moat.refuses("this route", &signed_as(&theirs, b"{}"), FORGED);
    moat.accepts("theirs", &post("/webhooks/other", &[("X-Hub-Signature-256", &theirs)], b"{}"));
}

/// Row 35.
#[test]
fn a_body_changed_by_one_byte_is_401() {
    let moat = Moat::new(ROUTES);
    let body = br#"{"a": "\u00e9", "b": 1.0}"#;
    let signature = sign::github(SECRET, body);
    for changed in [
        &br#"{"a": "\u00e9", "b": 1.1}"#[..],
        br#"{"a":"\u00e9","b":1.0}"#,
        "{\"a\": \"é\", \"b\": 1.0}".as_bytes(),
        b"{\"a\": \"\\u00e9\", \"b\": 1.0}\n",
        b"\xef\xbb\xbf{\"a\": \"\\u00e9\", \"b\": 1.0}",
        b"",
    ] {
        moat.refuses(&String::from_utf8_lossy(changed), &signed_as(&signature, changed), FORGED);
    }
    for index in 0..body.len() {
        let mut changed = body.to_vec();
        changed[index] ^= 1;
        moat.refuses(&format!("byte {index}"), &signed_as(&signature, &changed), FORGED);
    }
    assert_eq!(moat.accepts("as it was", &signed_as(&signature, body)).body, body);
}

/// Row 36.
#[test]
fn a_compressed_body_is_verified_and_forwarded_as_it_came() {
    let moat = Moat::new(&ROUTES.replacen("to: app", "to: app\n    content_encodings: [gzip]", 1));
    // Not even valid gzip: nobody looks.
    let body = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xff\xff{}\x80";
    let seen = moat.accepts("gzip", &genuine(&[("Content-Encoding", "gzip")], body));
    assert_eq!((&*seen.body, seen.header("content-encoding")), (&body[..], Some("gzip")));
    moat.refuses(
        "br",
        &genuine(&[("Content-Encoding", "br")], body),
        refusal(415, "github", "content_encoding_not_allowed"),
    );
    moat.refuses(
        "gzip over gzip over br",
        &genuine(&[("Content-Encoding", "gzip, br")], body),
        refusal(415, "github", "content_encoding_not_allowed"),
    );
}

/// Row 37.
#[test]
fn a_timestamp_is_one_to_eleven_digits_within_the_window_both_ways() {
    let moat = Moat::new(ROUTES);
    let now = unix();
    for time in [now, now - 200, now + 200] {
        moat.accepts("in the window", &stripe(&time.to_string(), STANDARD_SECRET));
    }
    for time in [
        (now - 400).to_string(),
        (now + 400).to_string(),
        "0".into(),
        format!("-{now}"),
        format!("+{now}"),
        format!("{now}000"),
        format!("{now}000000"),
        format!("{now}.0"),
        format!("{now}.5"),
        format!("{now}e0"),
        format!("{:e}", now as f64),
        format!("0x{now:x}"),
        format!("{now:x}"),
        format!(" {now}"),
        format!("{now} "),
        format!("00{now}"),
        "9223372036854775807".into(),
        "9223372036854775808".into(),
        "18446744073709551616".into(),
        "99999999999".into(),
        "NaN".into(),
        "inf".into(),
        String::new(),
        now.to_string().chars().map(|digit| char::from_u32(0x660 + u32::from(digit) - 48).expect("a digit")).collect(),
        now.to_string().chars().map(|digit| char::from_u32(0xff10 + u32::from(digit) - 48).expect("a digit")).collect(),
    ] {
        let refused = moat.count("stripe", "timestamp_") + moat.count("stripe", "signature_malformed");
        let answer = moat.proxy.send(&stripe(&time, STANDARD_SECRET));
        assert_eq!(answer.status, 401, "{time}");
        moat.wait_until(&time, || {
            moat.count("stripe", "timestamp_") + moat.count("stripe", "signature_malformed") == refused + 1.0
        });
    }
    let signature = sign::hex_sha256(STANDARD_SECRET, &[format!("{now}.{{}}").as_bytes()]);
    for value in [
        format!("v1={signature}"),
        format!("t={now},t={now},v1={signature}"),
        format!("t=1,t={now},v1={signature}"),
        format!("T={now},v1={signature}"),
        format!("t=,v1={signature}"),
    ] {
        let answer = moat.refuses(
            &value,
            &post("/webhooks/stripe", &[("Stripe-Signature", &value)], b"{}"),
            Refusal { outcome: "", ..TIME },
        );
        assert!(!answer.text().contains("time"), "{}", answer.text());
    }
    assert_eq!(moat.backend.requests().len(), 3);
}

/// Row 38.
#[test]
fn a_dot_in_a_webhook_id_is_refused() {
    let moat = Moat::new(ROUTES);
    let now = unix().to_string();
    for id in ["msg.1", "msg_1.", ".msg", &*format!("msg_1.{now}")] {
        let answer = standard(id, &now, &standard_signature(id, &now, b"{}"));
        moat.refuses(id, &answer, refusal(401, "standard", "signature_"));
    }
}

// ---- replays and event IDs --------------------------------------------------------------------------------------------

/// Routes that remember: by a JSON member, by GitHub's unsigned header.
const REMEMBERING: &str = r#"
routes:
  - name: json
    path: /webhooks/json
    signature: { algorithm: hmac-sha256, from: { header: X-Hub-Signature-256, prefix: "sha256=", encoding: hex }, signed: "{body}" }
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    event_id: { json: /id }
    to: app
  - name: nested
    path: /webhooks/nested
    signature: { algorithm: hmac-sha256, from: { header: X-Hub-Signature-256, prefix: "sha256=", encoding: hex }, signed: "{body}" }
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    event_id: { json: /event/id }
    to: app
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: { missing: reject }
    to: app
  - name: below
    path: /below/*
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    to: app
"#;

impl Moat {
    /// A copy: 200, marked, and the backend hears nothing of it.
    #[track_caller]
    fn repeats(&self, case: &str, bytes: &[u8], outcome: &str) {
        let (before, counted) = (
            self.backend.requests().len(),
            self.count("", outcome) + self.count("github", outcome) + self.count("json", outcome),
        );
        let answer = self.proxy.send(bytes);
        assert_eq!((answer.status, answer.header("hookmoat-duplicate")), (200, Some("true")), "{case}");
        assert!(answer.body.is_empty(), "{case}");
        assert_eq!(self.backend.requests().len(), before, "{case}");
        self.wait_until(case, || self.count("github", outcome) + self.count("json", outcome) == counted + 1.0);
    }
}

/// Row 46.
#[test]
fn an_event_without_a_usable_id_is_400_and_makes_no_shared_key() {
    let moat = Moat::new(REMEMBERING);
    let refused = refusal(400, "json", "event_id_invalid");
    for body in [
        r#"{}"#,
        r#"{"id":""}"#,
        r#"{"id":null}"#,
        r#"{"id":[]}"#,
        r#"{"id":["a"]}"#,
        r#"{"id":{}}"#,
        r#"{"id":1.5}"#,
        r#"{"ID":"a"}"#,
        r#"{"a":{"id":"a"}}"#,
        r#"["id"]"#,
        r#""id""#,
        r#"{"id":"a""#,
        r#"{"id":"a"} x"#,
        r#"{id:"a"}"#,
        "",
    ] {
        for round in 0..2 {
            moat.refuses(&format!("{body} {round}"), &to("/webhooks/json", &[], body.as_bytes()), refused);
        }
    }
    let missing = refusal(400, "github", "event_id_invalid");
    moat.refuses("no header", &genuine(&[], b"{}"), missing);
    moat.refuses("empty header", &genuine(&[("X-GitHub-Delivery", "")], b"{}"), missing);
    moat.refuses("two headers", &genuine(&[("X-GitHub-Delivery", "1"), ("X-GitHub-Delivery", "2")], b"{}"), missing);
    moat.refuses("long", &genuine(&[("X-GitHub-Delivery", &"1".repeat(2000))], b"{}"), missing);
    assert_eq!(moat.proxy.metric("hookmoat_seen_ids"), 0.0);
}

/// Row 47.
#[test]
fn ids_that_are_alike_never_collide() {
    let moat = Moat::new(REMEMBERING);
    let long = "x".repeat(1000);
    let ids = [
        "a",
        "A",
        "a ",
        " a",
        "a:b",
        "a/b",
        "a|b",
        "a\\\\b",
        "a*",
        "a?",
        "[a]",
        "json:a",
        "id",
        "é",
        "e\u{301}",
        "%41",
        "a%00",
        "*",
        "1",
        "01",
        "a\\u0009b",
        "nil",
        "null",
        &long,
        &format!("{long}y"),
        &format!("{}y", &long[..999]),
        &long[..255],
        &format!("{}y", &long[..254]),
    ];
    for id in ids {
        moat.accepts(id, &to("/webhooks/json", &[], format!(r#"{{"id":"{id}"}}"#).as_bytes()));
    }
    for id in ids {
        moat.repeats(id, &to("/webhooks/json", &[], format!(r#"{{"id":"{id}"}}"#).as_bytes()), "duplicate");
    }
    for id in ["a\\r\\nb", "a\\u0000b"] {
        let body = format!(r#"{{"id":"{id}"}}"#);
        moat.refuses(id, &to("/webhooks/json", &[], body.as_bytes()), refusal(400, "json", "event_id_invalid"));
    }
    // Another route's memory is another one.
    moat.accepts("other route", &to("/webhooks/nested", &[], br#"{"event":{"id":"a"}}"#));
}

/// Row 48.
#[test]
fn a_captured_request_under_a_fresh_unsigned_id_is_a_replay() {
    let moat = Moat::new(REMEMBERING);
    moat.accepts("first", &genuine(&[("X-GitHub-Delivery", "1")], b"{}"));
    for id in ["2", "3", "1 "] {
        moat.repeats(
            id,
            &genuine(&[("X-GitHub-Delivery", id)], b"{}"),
            if id == "1 " { "duplicate" } else { "replayed" },
        );
    }
    moat.accepts("another body", &genuine(&[("X-GitHub-Delivery", "4")], b"{ }"));
}

/// Row 49.
#[test]
fn a_replay_in_another_dress_is_the_same_event() {
    let moat = Moat::new(REMEMBERING);
    let body = br#"{"id":"e1"}"#;
    moat.accepts("first", &to("/webhooks/json", &[], body));
    for fields in [
        &[("Content-Type", "text/plain")][..],
        &[("content-type", "application/json; charset=utf-8")],
        &[("X-Extra", "1")],
        &[("X-Event-Id", "e2")],
        &[("X-Hub-Signature", "sha1=00")],
        &[("Host", "other.example")],
    ] {
        moat.repeats(fields[0].0, &to("/webhooks/json", fields, body), "duplicate");
    }
    moat.repeats("query", &to("/webhooks/json?x=1&id=e2", &[], body), "duplicate");
    moat.repeats("absolute form", &to("http://localhost/webhooks/json", &[], body), "duplicate");
    let signature = sign::github(SECRET, body);
    let head = format!("POST /webhooks/json HTTP/1.1\r\nHOST: localhost\r\nx-hUB-signature-256: {signature}\r\n");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\n{{\"i\r\n8\r\nd\":\"e1\"}}\r\n0\r\n\r\n");
    moat.repeats("chunked", chunked.as_bytes(), "duplicate");
    let upper = format!("{head}Content-Length: 11\r\n\r\n{}", String::from_utf8_lossy(body))
        .replace(&signature[7..], &signature[7..].to_uppercase());
    moat.repeats("hex in upper case", upper.as_bytes(), "duplicate");
    let tls = moat.proxy.send_tls(&to("/webhooks/json", &[], body));
    assert_eq!((tls.status, tls.header("hookmoat-duplicate")), (200, Some("true")), "other listener");
    moat.refuses("path spelling", &to("/webhooks//json", &[], body), MALFORMED);
    // Under a prefix route the path is not signed: the same signed content is a replay there, too.
    moat.accepts("below", &to("/below/a", &[("X-GitHub-Delivery", "1")], b"{}"));
    let below = moat.proxy.send(&to("/below/b", &[("X-GitHub-Delivery", "2")], b"{}"));
    assert_eq!((below.status, below.header("hookmoat-duplicate")), (200, Some("true")), "other path of one route");
    assert_eq!(moat.backend.requests().len(), 2);
}

/// Row 50.
#[test]
fn json_ids_are_decoded_compared_whole_and_never_ambiguous() {
    let moat = Moat::new(REMEMBERING);
    let refused = refusal(400, "json", "event_id_invalid");
    for body in
        [r#"{"id":"a","id":"b"}"#, r#"{"id":"a","id":"a"}"#, r#"{"id":"a","\u0069d":"b"}"#, r#"{"id":"a","id":null}"#]
    {
        moat.refuses(body, &to("/webhooks/json", &[], body.as_bytes()), refused);
    }
    moat.accepts("plain", &to("/webhooks/json", &[], br#"{"id":"abc"}"#));
    moat.repeats("escaped value", &to("/webhooks/json", &[], br#"{"id":"\u0061bc"}"#), "duplicate");
    moat.repeats("escaped name", &to("/webhooks/json", &[], br#"{"\u0069d":"abc"}"#), "duplicate");
    moat.repeats("more members", &to("/webhooks/json", &[], br#"{"x":{"id":"z"},"ID":"y","id":"abc"}"#), "duplicate");
    moat.accepts("nested", &to("/webhooks/nested", &[], br#"{"id":"abc","event":{"id":"1"}}"#));
    let twice = br#"{"event":{"id":"2"},"event":{"id":"3"}}"#;
    moat.refuses(
        "member of the way twice",
        &to("/webhooks/nested", &[], twice),
        refusal(400, "nested", "event_id_invalid"),
    );
}

// ---- address and scheme -----------------------------------------------------------------------------------------------

/// `github` for one network, `open` for everybody.
fn addressed(top: &str) -> String {
    format!(
        r#"{top}
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{{ insecure_literal: "a-secret-of-some-length" }}]
    duplicates: off
    allow: [203.0.113.0/24, "2001:db8::/32"]
    to: app
  - name: open
    path: /webhooks/open
    provider: github
    secrets: [{{ insecure_literal: "a-secret-of-some-length" }}]
    duplicates: off
    to: app
"#
    )
}

/// Row 57.
#[test]
fn an_outsiders_forwarding_headers_are_ignored_and_replaced() {
    let moat = Moat::new(&addressed(""));
    let refused = refusal(403, "github", "address_not_allowed");
    for (name, value) in [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-For", "203.0.113.7, 127.0.0.1"),
        ("X-Real-IP", "203.0.113.7"),
        ("X-Client-IP", "203.0.113.7"),
        ("X-Cluster-Client-IP", "203.0.113.7"),
        ("X-Original-Forwarded-For", "203.0.113.7"),
        ("X-Envoy-External-Address", "203.0.113.7"),
        ("X-Azure-ClientIP", "203.0.113.7"),
        ("X-Appengine-User-IP", "203.0.113.7"),
        ("Forwarded", "for=203.0.113.7"),
        ("Forwarded", "for=203.0.113.7;proto=https;host=x"),
        ("True-Client-IP", "203.0.113.7"),
        ("CF-Connecting-IP", "203.0.113.7"),
        ("CF-Connecting-IPv6", "2001:db8::7"),
        ("Fastly-Client-IP", "203.0.113.7"),
        ("Fly-Client-IP", "203.0.113.7"),
        ("Client-IP", "203.0.113.7"),
        ("X-Forwarded", "for=203.0.113.7"),
    ] {
        moat.refuses(name, &genuine(&[(name, value)], b"{}"), refused);
        let seen = moat.accepts(name, &to("/webhooks/open", &[(name, value)], b"{}"));
        assert_eq!((seen.header("x-forwarded-for"), seen.count("x-forwarded-for")), (Some("127.0.0.1"), 1), "{name}");
        let told =
            seen.headers.iter().find(|(_, value)| value.contains("203.0.113.7") || value.contains("2001:db8::7"));
        assert_eq!(told, None, "{name}");
    }
}

/// Rows 58 and 60.
#[test]
fn behind_a_trusted_proxy_the_right_most_untrusted_hop_counts() {
    let moat = Moat::new(&addressed("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]"));
    for (fields, client) in [
        (&[("X-Forwarded-For", "203.0.113.7")][..], "203.0.113.7"),
        (&[("X-Forwarded-For", "198.51.100.1, 203.0.113.7")], "203.0.113.7"),
        (&[("X-Forwarded-For", "198.51.100.1,203.0.113.7, 10.1.2.3 ,10.0.0.1")], "203.0.113.7"),
        (
            &[("X-Forwarded-For", "198.51.100.1"), ("X-Forwarded-For", "203.0.113.7"), ("x-forwarded-for", "10.0.0.1")],
            "203.0.113.7",
        ),
        (&[("X-Forwarded-For", "rubbish, 203.0.113.7")], "203.0.113.7"),
        (&[("X-Forwarded-For", "203.0.113.7:4711")], "203.0.113.7"),
        (&[("X-Forwarded-For", "::ffff:203.0.113.7")], "203.0.113.7"),
        (&[("X-Forwarded-For", "203.0.113.7, ::ffff:10.0.0.1")], "203.0.113.7"),
        (&[("X-Forwarded-For", "[2001:db8::7]:443")], "2001:db8::7"),
        (&[("Forwarded", "for=198.51.100.1, for=203.0.113.7;proto=https")], "203.0.113.7"),
        (&[("Forwarded", "for=\"[2001:db8::7]:443\"")], "2001:db8::7"),
        (&[("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
    ] {
        let seen = moat.accepts(&format!("{fields:?}"), &genuine(fields, b"{}"));
        assert_eq!((seen.header("x-forwarded-for"), seen.header("forwarded")), (Some(client), None), "{fields:?}");
    }
    for fields in [
        &[][..],
        &[("X-Forwarded-For", "203.0.113.7, 198.51.100.1")],
        &[("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "198.51.100.1")],
        &[("X-Forwarded-For", "203.0.113.7, 198.51.100.1, 10.0.0.1")],
        &[("X-Forwarded-For", "10.0.0.2, 10.0.0.1")],
        &[("X-Forwarded-For", "::ffff:198.51.100.1")],
        &[("X-Real-IP", "203.0.113.7")],
    ] {
        moat.refuses(&format!("{fields:?}"), &genuine(fields, b"{}"), refusal(403, "github", "address_not_allowed"));
    }
}

/// Row 59.
#[test]
fn an_unreadable_hop_fails_closed() {
    let moat = Moat::new(&addressed("trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]"));
    for value in [
        "",
        ",",
        "203.0.113.7,",
        "unknown",
        "_hidden",
        "localhost",
        "203.0.113",
        "203.0.113.7.1",
        "0313.0.0161.07",
        "203.0.113.007",
        "3405803783",
        "0xcb007107",
        "203.0.113.7/24",
        "203.0.113.7:port",
        "203.0.113.7:99999",
        "203.0.113.7 203.0.113.8",
        "2001:db8::7%eth0",
        "[2001:db8::7",
        "2001:db8::7]:1",
        "::203.0.113.7",
        "64:ff9b::203.0.113.7",
        "\"203.0.113.7\"",
        "２０３.0.113.7",
        "203.0.113.7, unknown, 10.0.0.1",
    ] {
        let answer =
            moat.refuses(value, &genuine(&[("X-Forwarded-For", value)], b"{}"), refusal(403, "github", "address_"));
        assert!(!answer.text().contains("203.0."));
    }
    for value in [
        "for=203.0.113.7;for=203.0.113.8",
        "for=2001:db8::7",
        "for=\"203.0.113.7",
        "203.0.113.7",
        "for",
        "for=unknown",
        "for=203.0.113.7,",
    ] {
        moat.refuses(value, &genuine(&[("Forwarded", value)], b"{}"), refusal(403, "github", "address_"));
    }
    let both = [("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "203.0.113.8")];
    moat.refuses("two that differ", &genuine(&both, b"{}"), refusal(403, "github", "address_unknown"));
    let endless = vec!["10.0.0.1"; 1000].join(",");
    moat.refuses(
        "1,000 hops",
        &genuine(&[("X-Forwarded-For", &format!("203.0.113.7,{endless}"))], b"{}"),
        refusal(403, "github", "address_unknown"),
    );
}

/// Row 61.
#[test]
fn x_forwarded_proto_counts_from_a_trusted_peer_and_only_as_https_throughout() {
    let refused = refusal(403, "github", "https_required");
    let outsider = Moat::new(&format!("https: reject\n{ROUTES}"));
    let trusted = Moat::new(&format!("https: reject\ntrusted_proxies: [127.0.0.1]\n{ROUTES}"));
    for fields in [
        &[("X-Forwarded-Proto", "https")][..],
        &[("Forwarded", "for=192.0.2.1;proto=https")],
        &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")],
    ] {
        outsider.refuses(&format!("{fields:?}"), &genuine(fields, b"{}"), refused);
        let seen = trusted.accepts(&format!("{fields:?}"), &genuine(fields, b"{}"));
        assert_eq!((seen.header("x-forwarded-proto"), seen.count("x-forwarded-proto")), (Some("https"), 1));
    }
    for fields in [
        &[][..],
        &[("X-Forwarded-Proto", "http")],
        &[("X-Forwarded-Proto", "")],
        &[("X-Forwarded-Proto", "https, http")],
        &[("X-Forwarded-Proto", "http, https")],
        &[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")],
        &[("X-Forwarded-Proto", "httpsx")],
        &[("X-Forwarded-Proto", "https://")],
        &[("X-Forwarded-Proto", "wss")],
        &[("X-Forwarded-Ssl", "on")],
        &[("X-Forwarded-Protocol", "https")],
        &[("X-Forwarded-Scheme", "https")],
        &[("X-Url-Scheme", "https")],
        &[("X-Forwarded-Port", "443")],
        &[("Front-End-Https", "on")],
        &[("CloudFront-Forwarded-Proto", "https")],
        &[("Forwarded", "proto=http"), ("X-Forwarded-Proto", "https")],
    ] {
        trusted.refuses(&format!("{fields:?}"), &genuine(fields, b"{}"), refused);
    }
    // Over our own TLS, a trusted proxy that heard it in plain still says no.
    let connection = Connection::open_tls(trusted.proxy.https);
    trusted.refuses_on("own TLS", connection, &genuine(&[("X-Forwarded-Proto", "http")], b"{}"), refused);
    assert_eq!(outsider.proxy.send_tls(&genuine(&[("X-Forwarded-Proto", "http")], b"{}")).status, 200);
}

/// Row 62.
#[test]
fn plain_http_is_refused_and_not_redirected() {
    let moat = Moat::new(&format!("https: reject\n{ROUTES}"));
    for bytes in [genuine(&[], b"{}"), forged(b"{}")] {
        let answer = moat.refuses("plain", &bytes, refusal(403, "github", "https_required"));
        assert_eq!(answer.header("location"), None);
    }
    assert_eq!(moat.proxy.send_tls(&genuine(&[], b"{}")).status, 200);
}

/// Row 64. The /64 of IPv6 and the bound of the table are the business of the unit tests of `check::rate_limit`.
#[test]
fn over_the_rate_is_429_with_retry_after_by_true_client_and_burns_no_id() {
    let moat = Moat::new(
        r#"
trusted_proxies: [127.0.0.1]
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    rate_limit: { per: client_ip, requests: 2, every: 1h }
    to: app
"#,
    );
    let event = |number: u32, client: &str| {
        genuine(
            &[("X-GitHub-Delivery", &number.to_string()), ("X-Forwarded-For", client)],
            format!("{{\"n\":{number}}}").as_bytes(),
        )
    };
    moat.accepts("first", &event(1, "192.0.2.1"));
    moat.accepts("second", &event(2, "192.0.2.1"));
    for spoofed in ["192.0.2.1", "198.51.100.9, 192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:80"] {
        let answer = moat.refuses(spoofed, &event(3, spoofed), refusal(429, "github", "rate_limited"));
        let seconds: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        assert!((1..=3600).contains(&seconds), "{seconds}");
    }
    // Nobody else is kept out, and the refused event was not remembered.
    moat.accepts("the refused event from elsewhere", &event(3, "192.0.2.2"));
}

// ---- paths ------------------------------------------------------------------------------------------------------------

/// Row 65.
#[test]
fn another_spelling_of_a_path_is_another_path_or_refused() {
    let moat = Moat::new(REMEMBERING);
    for path in [
        "//webhooks/github",
        "/webhooks//github",
        "/webhooks/github/",
        "/webhooks/github//",
        "/./webhooks/github",
        "/webhooks/./github",
        "/webhooks/x/../github",
        "/../webhooks/github",
        "/webhooks/github/.",
        "/webhooks/github/..",
        "/webhooks/..%2fwebhooks/github",
        "/%2e/webhooks/github",
        "/%2e%2e/webhooks/github",
        "/webhooks/.%2e/webhooks/github",
        "/webhooks%2fgithub",
        "/webhooks%2Fgithub",
        "/webhooks%5cgithub",
        "/webhooks\\github",
        "\\webhooks\\github",
        "/webhooks/github;",
        "/webhooks/github;x=1",
        "/webhooks;x/github",
        "/webhooks/github%3b",
        "/webhooks/github%00",
        "/webhooks/github%00.json",
        "/webhooks/github%0a",
        "/webhooks/github%0d%0aX:1",
        "/webhooks/github%20",
        "/webhooks/github%23",
        "/webhooks/github%3f",
        "/webhooks/github%3Fa",
        "/webhooks/%67ithub",
        "/%77ebhooks/github",
        "/webhooks/github%",
        "/webhooks/github%4",
        "/webhooks/github%zz",
        "/webhooks/%2567ithub",
        "/webhooks/%u0067ithub",
        "/Webhooks/github",
        "/webhooks/GITHUB",
        "/WEBHOOKS/GITHUB",
        "/webhooks/githu",
        "/webhooks/githubx",
        "/webhooks/github.json",
        "/webhooks/github,x",
        "/webhooks/%c0%afgithub",
        "/webhooks/%e0%80%afgithub",
        "/webhooks/%ef%bc%8fgithub",
        "/webhooks/git%c2%adhub",
        "/webhooks/g\u{131}thub",
        "/webhooks/github*",
        "/webhooks",
        "/webhooks/",
        "/",
        "webhooks/github",
        "*",
        "/webhooks/github/x",
        "/webhooks/github:80",
        "/below/../webhooks/github",
        "/below/%2e%2e/webhooks/github",
        "/below//x",
        "/below/x/..;/y",
        "/below/a%2fb",
        "/belowx",
    ] {
        let before = moat.count("", "malformed") + moat.count("", "no_route");
        let answer = moat.proxy.send(&to(path, &[("X-GitHub-Delivery", "1")], b"{}"));
        assert!(matches!(answer.status, 400 | 404), "{path}: {}", answer.status);
        moat.wait_until(path, || moat.count("", "malformed") + moat.count("", "no_route") == before + 1.0);
        assert_eq!(moat.backend.connections(), 0, "{path}");
    }
    for (path, delivery) in [
        ("/webhooks/github", "1"),
        ("/webhooks/github?", "2"),
        ("/webhooks/github?../x=//&%2e;\\", "3"),
        ("/below/a/b", "4"),
        ("/below", "5"),
    ] {
        let seen = moat.accepts(path, &to(path, &[("X-GitHub-Delivery", delivery)], delivery.as_bytes()));
        assert_eq!(seen.target, path);
    }
}

/// Row 66.
#[test]
fn headers_that_name_another_method_or_path_are_stripped() {
    let moat = Moat::new(ROUTES);
    for (name, value) in [
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-HTTP-Method", "DELETE"),
        ("X-Method-Override", "DELETE"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-Forwarded-Prefix", "/admin"),
        ("X-Original-Host", "admin"),
        ("X-Forwarded-Host", "admin"),
        ("X-Forwarded-Server", "admin"),
        ("Proxy", "http://admin"),
        ("Hookmoat-Verified", "admin"),
        ("Hookmoat-Provider", "admin"),
        ("Hookmoat-Event-Id", "admin"),
        ("hookmoat-anything", "admin"),
        ("X_Original_URL", "/admin"),
        ("X-Request-Id", "admin"),
    ] {
        let seen = moat.accepts(name, &genuine(&[(name, value)], b"{}"));
        assert_eq!((&*seen.method, &*seen.target), ("POST", "/webhooks/github"), "{name}");
        assert_eq!(seen.headers.iter().find(|(_, seen)| seen.contains("admin") || seen == "DELETE"), None, "{name}");
        assert_eq!(
            (seen.header("hookmoat-verified"), seen.header("hookmoat-provider")),
            (Some("true"), Some("github"))
        );
    }
}

/// Row 67.
#[test]
fn the_admin_pages_are_not_on_the_public_ports() {
    let moat = Moat::new(ROUTES);
    for path in ["/metrics", "/healthz", "/readyz", "/admin", "/", "/debug/pprof", "/.env", "/status"] {
        moat.refuses(path, &request("GET", path, &[], b""), refusal(404, "", "no_route"));
        let host = moat.proxy.admin.to_string();
        moat.refuses(path, &request("GET", path, &[("Host", &host)], b""), refusal(404, "", "no_route"));
        let tls = Connection::open_tls(moat.proxy.https);
        moat.refuses_on(path, tls, &request("GET", path, &[], b""), refusal(404, "", "no_route"));
    }
}

// ---- slow and exhausting ----------------------------------------------------------------------------------------------

/// Row 68. What comes before the first byte of HTTP has a deadline of its own, `handshake`.
#[test]
fn a_slow_head_meets_a_deadline_for_all_of_it() {
    let moat = Moat::new(&format!("timeouts: {{ handshake: 1s, header: 1s, idle: 2s }}\n{ROUTES}"));
    let half = &genuine(&[], b"{}")[..60];
    let slow = [
        ("request line", Connection::open(moat.proxy.http), &b"POST /web"[..]),
        ("header", Connection::open(moat.proxy.http), half),
        ("header over TLS", Connection::open_tls(moat.proxy.https), half),
        ("second request", second_request(&moat), half),
    ];
    for (case, mut connection, part) in slow {
        let answer = connection.send(part);
        // A byte now and then does not help.
        let mut gone = false;
        for _ in 0..200 {
            answer.send(b"x");
            std::thread::sleep(Duration::from_millis(50));
            if moat.count("", "client_timeout") > 0.0
                && moat.proxy.events().iter().any(|event| event["outcome"] == "client_timeout")
            {
                gone = true;
                break;
            }
        }
        assert!(gone, "{case}");
        assert!(answer.try_answer().is_none_or(|answer| answer.status == 408), "{case}");
        assert!(answer.is_closed(), "{case}");
    }
    assert!(Connection::open(moat.proxy.http).is_closed(), "silent");
    let mut preface = Connection::open_tls_as(moat.proxy.https, b"h2");
    // The server's own settings may come first.
    assert!(preface.send(b"PRI * HT").read_raw(1 << 20).len() < 1000 && preface.is_closed(), "half a preface");
    let mut idle = second_request(&moat);
    assert!(idle.is_closed(), "idle after a request");
    assert_eq!(moat.proxy.send(&genuine(&[], b"{}")).status, 200);
}

/// Row 68.
#[test]
fn half_a_tls_hello_meets_a_deadline() {
    let moat = Moat::new(&format!("timeouts: {{ handshake: 1s }}\n{ROUTES}"));
    let mut silent = Connection::open(moat.proxy.https);
    let mut half = Connection::open(moat.proxy.https);
    half.send(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);
    for (case, connection) in [("silent", &mut silent), ("half a hello", &mut half)] {
        assert!(connection.is_closed(), "{case}");
    }
    let counted = || moat.proxy.metric("hookmoat_connections_closed_total{reason=\"handshake_timeout\"}");
    moat.wait_until("counted", || counted() == 2.0);
}

/// A connection that has had its first answer.
fn second_request(moat: &Moat) -> Connection {
    let mut connection = Connection::open(moat.proxy.http);
    assert_eq!(connection.send(&genuine(&[], b"{}")).answer().status, 200);
    connection
}

/// Row 69.
#[test]
fn a_slow_body_meets_a_deadline_for_all_of_it() {
    let moat = Moat::new(&format!("timeouts: {{ body: 1s }}\n{ROUTES}"));
    for (case, lines, first, drip) in [
        ("nothing", "Content-Length: 1000", &b""[..], &b""[..]),
        ("a byte now and then", "Content-Length: 1000", b"{", b"x"),
        ("chunks of one byte", "Transfer-Encoding: chunked", b"", b"1\r\nx\r\n"),
        ("chunk extension", "Transfer-Encoding: chunked", b"2;x=", b"x"),
        ("zeros of a chunk size", "Transfer-Encoding: chunked", b"", b"0"),
        ("trailers", "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n", b"X: x\r\n"),
    ] {
        let before = moat.count("github", "");
        let mut connection = Connection::open(moat.proxy.http);
        connection.send(&raw(b"{}", lines, first));
        let ended = within(PATIENCE, || {
            connection.send(drip);
            std::thread::sleep(Duration::from_millis(50));
            moat.count("github", "") == before + 1.0
        });
        assert!(ended, "{case}");
        assert!(connection.try_answer().is_none_or(|answer| matches!(answer.status, 400 | 408)), "{case}");
        assert!(connection.is_closed(), "{case}");
        assert_eq!(moat.backend.connections(), 0, "{case}");
    }
    assert!(moat.count("github", "client_timeout") >= 4.0);
}

/// Row 70.
#[test]
fn an_answer_that_nobody_reads_is_held_back_and_ends() {
    const SIZE: usize = 64 << 20;
    let moat = Moat::answering(&format!("timeouts: {{ header: 3s, body: 3s, total: 8s }}\n{ROUTES}"), || {
        Reply::Raw(
            [format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n").into_bytes(), vec![b'x'; SIZE]].concat(),
        )
    });
    let before = moat.proxy.rss();
    let mut deaf = Connection::open(moat.proxy.http);
    deaf.send(&genuine(&[], b"{}"));
    moat.backend.wait_for(1);
    let ended = within(PATIENCE, || !moat.proxy.events().is_empty());
    assert!(ended, "still waiting");
    assert_eq!(moat.proxy.events()[0]["truncated"], true, "{}", moat.proxy.log());
    assert!(moat.proxy.rss() < before + (24 << 20), "{} MiB", moat.proxy.rss() >> 20);
}

/// Row 71; the limits of connections are tried in `transport.rs`.
#[test]
fn slow_and_idle_connections_do_not_keep_genuine_requests_out() {
    let moat = Moat::new(ROUTES);
    let mut crowd: Vec<Connection> = (0..150).map(|_| Connection::open(moat.proxy.http)).collect();
    for (index, connection) in crowd.iter_mut().enumerate() {
        match index % 3 {
            0 => {}
            1 => _ = connection.send(b"POST /webhooks/github HTTP/1.1\r\nHost: "),
            _ => _ = connection.send(&raw(b"{}", "Content-Length: 2", b"{")),
        }
    }
    for number in 0..10 {
        moat.accepts(&number.to_string(), &genuine(&[], b"{}"));
    }
    assert_eq!(moat.proxy.send_tls(&genuine(&[], b"{}")).status, 200);
    drop(crowd);
}

/// Row 72.
#[test]
fn a_body_over_the_limit_is_413_at_its_head_or_at_the_limit() {
    let moat = Moat::new(&format!("limits: {{ max_body: 64KiB }}\n{ROUTES}"));
    let refused = refusal_and_close(413, "github", "body_too_large");
    for length in ["65537", "1000000000", "9000000000000000000"] {
        moat.refuses(length, &raw(b"{}", &format!("Content-Length: {length}"), b"{}"), refused);
    }
    let chunked = [format!("{:x}\r\n", 70_000).into_bytes(), vec![b'x'; 70_000], b"\r\n0\r\n\r\n".to_vec()].concat();
    moat.refuses("chunked", &raw(b"{}", "Transfer-Encoding: chunked", &chunked), refused);
    let small = b"1\r\nx\r\n".repeat(70_000);
    moat.refuses("small chunks", &raw(b"{}", "Transfer-Encoding: chunked", &small), refused);
    let huge = [b"7fffffffffffffff\r\n".to_vec(), vec![b'x'; 100_000]].concat();
    moat.refuses("a chunk of 8 EB", &raw(b"{}", "Transfer-Encoding: chunked", &huge), refused);
    moat.accepts("at the limit", &genuine(&[], &vec![b'x'; 64 << 10]));
    assert!(moat.proxy.rss() < 200 << 20);
}

/// Row 73.
#[test]
fn bodies_share_one_budget_and_over_it_is_503_until_they_are_gone() {
    let moat = Moat::new(&format!("limits: {{ max_body: 1MiB, body_memory: 2MiB }}\n{ROUTES}"));
    let held = || moat.proxy.metric("hookmoat_body_memory_bytes");
    let mut slow: Vec<Connection> = (0..2).map(|_| Connection::open(moat.proxy.http)).collect();
    for connection in &mut slow {
        connection.send(&raw(b"{}", "Content-Length: 1048576", &vec![b'x'; (1 << 20) - 1]));
    }
    moat.wait_until("held", || held() >= f64::from((2 << 20) - 2));
    let answer = moat.refuses("over the budget", &genuine(&[], &[b'x'; 1000]), refusal(503, "github", "overload"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(moat.proxy.metric("hookmoat_requests_in_flight"), 2.0);
    // One ends forged, the other goes away: either gives its part back.
    assert_eq!(slow[0].send(b"x").answer().status, 401);
    slow.pop().expect("two").abort();
    moat.wait_until("released", || held() == 0.0);
    moat.accepts("afterwards", &genuine(&[], &vec![b'x'; 1 << 20]));
}

/// Row 74.
#[test]
fn json_of_any_depth_or_width_is_walked_without_harm() {
    let moat = Moat::new(&format!("limits: {{ max_body: 8MiB }}\n{REMEMBERING}"));
    let before = moat.proxy.rss();
    let deep = |id: &str| format!(r#"{{"x":{}{},"id":"{id}"}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let objects = format!(r#"{{"id":"objects","x":{}1{}}}"#, r#"{"a":"#.repeat(200_000), "}".repeat(200_000));
    let wide: String = (0..60_000).map(|number| format!("\"k{number}\":{number},")).collect();
    for (case, body) in [("deep", deep("deep")), ("objects", objects), ("wide", format!(r#"{{{wide}"id":"wide"}}"#))] {
        let connections = moat.backend.connections();
        let answer = moat.proxy.send(&to("/webhooks/json", &[], body.as_bytes()));
        assert!(matches!(answer.status, 200 | 400), "{case}: {}", answer.status);
        assert!(answer.status == 200 || moat.backend.connections() == connections, "{case}");
    }
    for broken in
        ["[".repeat(1_000_000), r#"{"id":"#.repeat(1_000_000), format!(r#"{{"id":"{}"#, "\\u0061".repeat(100_000))]
    {
        moat.refuses(
            &broken[..20],
            &to("/webhooks/json", &[], broken.as_bytes()),
            refusal(400, "json", "event_id_invalid"),
        );
    }
    assert!(moat.proxy.rss() < before + (64 << 20));
    moat.accepts("still there", &to("/webhooks/json", &[], br#"{"id":"1"}"#));
}

/// Row 76.
#[test]
fn hostile_text_stays_within_its_log_line_and_makes_no_label() {
    let moat = Moat::new(REMEMBERING);
    let hostile = r#"","outcome":"forwarded","x":"</script>${jndi:ldap://evil}%0a%0d{{evil}}"#;
    let bytes = [&b"evil\xff\xfe\xc3\x28"[..], "\u{202e}\u{2028}evil".as_bytes()].concat();
    let signature = sign::github(SECRET, b"{}");
    let with_bytes = [
        format!("POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nX-Hub-Signature-256: {signature}\r\nContent-Length: 2\r\nX-GitHub-Delivery: ").as_bytes(),
        &bytes,
        b"\r\n\r\n{}",
    ]
    .concat();
    let asked = [
        genuine(&[("X-GitHub-Delivery", hostile), ("X-Request-Id", hostile), ("User-Agent", hostile)], b"1"),
        with_bytes,
        to("/webhooks/json", &[], br#"{"id":"evil\",\"outcome\":\"forwarded\u001b[31m\u2028\ud83d\ude00"}"#),
        to("/evil%0a%0d%22", &[], b"{}"),
        to("/webhooks/github?evil=%0a", &[], b"{}"),
        genuine(&[("Host", "evil\"x")], b"{}"),
        genuine(&[("Content-Type", hostile), ("Expect", hostile)], b"{}"),
        genuine(&[("Transfer-Encoding", hostile)], b"{}"),
        genuine(&[("X-Forwarded-For", hostile)], b"{}"),
        signed_as(hostile, b"{}"),
        request("EVIL", "/webhooks/github", &[], b""),
        b"EVIL\x1b[31m / HTTP/1.1\r\n\r\n".to_vec(),
        b"POST /\r\nevil: 1 HTTP/1.1\r\n\r\n".to_vec(),
    ];
    for bytes in &asked {
        let _ = Connection::open(moat.proxy.http).send(bytes).try_answer();
    }
    moat.wait_until("all told", || moat.proxy.events().len() == asked.len());
    let log = moat.proxy.log();
    let first = log.find("\"request_id\"").map_or(0, |at| log[..at].rfind('\n').expect("an earlier line") + 1);
    for line in log[first..].lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(!line.contains(['\u{1b}', '\u{2028}', '\u{202e}', '\0']), "{line}");
        assert_eq!(event.get("x"), None, "{line}");
    }
    let metrics = moat.proxy.admin("/metrics").text();
    assert!(!metrics.to_lowercase().contains("evil"), "{metrics}");
    for line in metrics.lines() {
        let Some((_, route)) = line.split_once("route=\"") else { continue };
        let route = route.split('"').next().expect("a value");
        assert!(["", "json", "nested", "github", "below"].contains(&route), "{line}");
    }
}

/// Row 77. Whether a process is dumpable shows in who owns its files in /proc; to root, they look alike.
#[test]
fn secrets_are_in_no_log_metric_answer_command_line_or_core() {
    use std::os::unix::fs::MetadataExt as _;
    const KEY: &str = "k3y-for-the-backend";
    let config = r#"
log: { format: json, level: trace }
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ env: TEST_SECRET }]
    to: { upstream: app, headers: { X-Api-Key: { env: TEST_KEY } } }
"#;
    let backend = Backend::ok();
    let secret = "s3cret-of-some-length";
    let proxy =
        super::support::Proxy::start_with(backend.address, config, &[("TEST_SECRET", secret), ("TEST_KEY", KEY)]);
    let signature = sign::github(secret, b"{\"b0dy\":1}");
    let genuine = post(
        "/webhooks/github",
        &[
            ("X-Hub-Signature-256", &signature),
            ("X-GitHub-Delivery", "1"),
            ("Cookie", "c00kie"),
            ("Authorization", "Bearer t0ken"),
        ],
        b"{\"b0dy\":1}",
    );
    let mut answers = vec![proxy.send(&genuine), proxy.send_tls(&genuine)];
    answers.push(proxy.send(&forged(b"{\"b0dy\":2}")));
    answers.push(proxy.send(&signed_as(&signature[..40], b"{\"b0dy\":2}")));
    answers.push(proxy.send(&post("/webhooks/github", &[("X-Hub-Signature-256", secret)], b"{}")));
    assert_eq!(answers.iter().map(|answer| answer.status).collect::<Vec<_>>(), [200, 200, 401, 401, 401]);
    assert_eq!(backend.only().header("x-api-key"), Some(KEY));
    let answered: String = answers.iter().map(|answer| format!("{answer:?} {}", answer.text())).collect();
    let command = std::fs::read(format!("/proc/{}/cmdline", proxy.pid())).expect("a live process");
    let told = [
        proxy.log(),
        proxy.admin("/metrics").text(),
        proxy.admin("/readyz").text(),
        answered,
        String::from_utf8_lossy(&command).into_owned(),
    ];
    for (place, text) in ["log", "metrics", "readyz", "answers", "command line"].iter().zip(&told) {
        for private in [secret, KEY, &signature[7..], &hex::encode(secret), "b0dy", "c00kie", "t0ken"] {
            assert!(!text.contains(private), "{private} in {place}:\n{text}");
        }
    }
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", proxy.pid())).expect("a live process");
    let core: Vec<&str> = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .expect("the line")
        .split_whitespace()
        .collect();
    assert_eq!(core[4..6], ["0", "0"]);
    let owner = std::fs::metadata(format!("/proc/{}/environ", proxy.pid())).expect("a live process").uid();
    assert_eq!(owner, 0);
}

// ---- operations -------------------------------------------------------------------------------------------------------

/// Row 88.
#[test]
fn the_admin_port_takes_no_webhooks_and_no_harm() {
    let moat = Moat::new(ROUTES);
    let admin = |bytes: &[u8]| Connection::open(moat.proxy.admin).send(bytes).try_answer().map(|answer| answer.status);
    assert_eq!(admin(&genuine(&[], b"{}")), Some(405));
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
        assert_eq!(admin(&request(method, "/metrics", &[], b"")), Some(405), "{method}");
    }
    // A browser is led to the page for people.
    assert_eq!(admin(&request("GET", "/", &[], b"")), Some(303));
    for path in
        ["/webhooks/github", "/../etc/passwd", "/metrics/", "//metrics", "/%6detrics", "/metrics;x", "/favicon.ico"]
    {
        assert_eq!(admin(&request("GET", path, &[], b"")), Some(404), "{path}");
    }
    for junk in [
        &b"\0\0\0\0\r\n\r\n"[..],
        b"GET /metrics HTTP/9.9\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        &[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0],
        &[b'a'; 2 << 20],
    ] {
        let mut connection = Connection::open(moat.proxy.admin);
        connection.send(junk).end();
        assert!(connection.try_answer().is_none_or(|answer| answer.status != 500), "{}", junk[..10].escape_ascii());
    }
    let crowd: Vec<Connection> = (0..100).map(|_| Connection::open(moat.proxy.admin)).collect();
    assert_eq!(admin(&request("GET", "/healthz", &[], b"")), Some(200));
    drop(crowd);
    assert_eq!(moat.backend.connections(), 0);
    // Others than this machine only where the file says so.
    let config = std::fs::read_to_string(moat.proxy.config()).expect("the file");
    let public = moat.proxy.path().join("public.yaml");
    std::fs::write(&public, config.replace(&format!("admin: {}", moat.proxy.admin), "admin: 0.0.0.0:9901"))
        .expect("a file");
    let done = program().args(["check", "--config"]).arg(&public).output().expect("it runs");
    assert_eq!(done.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&done.stdout).contains("allow_public"));
}
