//! The acceptance table of threats: one test by name for each row that this version touches. For every refusal the
//! helper looks at the status, at the counter, at the backend (untouched) and at the connection.

use crate::support::client::{http2_connect, http2_send};
use crate::support::{
    Backend, Connection, Moat, Refusal, Reply, post, proxy::program, refusal, refusal_and_close, request, sign, within,
};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE};
use std::io::Write as _;
use std::net::TcpStream;
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
    let mut bytes = format!("POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nX-Hub-Signature-256: {signature}\r\n{lines}\r\n\r\n")
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
    for coding in ["", "identity", "gzip", "deflate", "xchunked", "chunkedx", "chunk", "cow", "chunked gzip", "'chunked'", "\u{7f}"] {
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
fn broken_chunks_are_400_and_not_forwarded() {
    let moat = Moat::new(ROUTES);
    for body in [
        "-2\r\n{}\r\n0\r\n\r\n",
        "+2\r\n{}\r\n0\r\n\r\n",
        "0x2\r\n{}\r\n0\r\n\r\n",
        " 2\r\n{}\r\n0\r\n\r\n",
        "2\0\r\n{}\r\n0\r\n\r\n",
        "2,\r\n{}\r\n0\r\n\r\n",
        "g\r\n{}\r\n0\r\n\r\n",
        "\r\n{}\r\n0\r\n\r\n",
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
        let (connections, before) = (moat.backend.connections(), moat.count("github", ""));
        let mut connection = Connection::open(moat.proxy.http);
        let answer = connection.send(&raw(b"{}", "Transfer-Encoding: chunked", body.as_bytes())).end().try_answer();
        assert!(answer.is_none_or(|answer| matches!(answer.status, 400 | 413)), "{body:?}");
        moat.wait_until(body, || moat.count("github", "") == before + 1.0);
        assert!(connection.is_closed(), "{body:?}");
        assert_eq!(moat.backend.connections(), connections, "{body:?}: the backend heard of it");
    }
    let refused: f64 = ["malformed", "client_gone", "body_too_large"].iter().map(|outcome| moat.count("github", outcome)).sum();
    assert_eq!(refused, 23.0);
}

/// Row 5.
#[test]
fn chunk_extensions_and_trailers_are_dropped() {
    let moat = Moat::new(ROUTES);
    let body = b"1;a=b\r\n{\r\n1;c=\"d\"\r\n}\r\n0;last\r\nX-Trailer: 1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let seen = moat.accepts("extensions", &raw(b"{}", "Transfer-Encoding: chunked\r\nTrailer: X-Trailer", body));
    assert_eq!((&*seen.body, seen.header("content-length")), (&b"{}"[..], Some("2")));
    assert_eq!([seen.header("x-trailer"), seen.header("trailer"), seen.header("transfer-encoding")], [None; 3]);
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    // A signature that only comes as a trailer is none.
    let late = format!("2\r\n{{}}\r\n0\r\nX-Hub-Signature-256: {}\r\n\r\n", sign::github(SECRET, b"{}"));
    let late = format!("POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{late}");
    moat.refuses("signature as a trailer", late.as_bytes(), FORGED);
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
        "POST  /webhooks/github HTTP/1.1",
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
    let old = raw(b"{}", "Transfer-Encoding: chunked", b"2\r\n{}\r\n0\r\n\r\n");
    let old = String::from_utf8(old).expect("text").replace("HTTP/1.1", "HTTP/1.0");
    moat.refuses("HTTP/1.0 with chunks", old.as_bytes(), MALFORMED);
}

/// Row 8. Of requests that are sent without waiting, the first is answered and the connection ends: what is behind it
/// is neither forwarded nor answered, and its sender has to ask again.
#[test]
fn of_pipelined_requests_the_first_alone_is_judged_and_answered() {
    let moat = Moat::new(ROUTES);
    let mut connection = Connection::open(moat.proxy.http);
    let answer = connection.send(&[genuine(&[], b"{}"), forged(b"{}"), genuine(&[], b"{\"a\":2}")].concat()).answer();
    assert_eq!(answer.status, 200);
    assert!(connection.is_closed());
    assert_eq!(moat.backend.only().body, b"{}");
    moat.refuses("evil before good", &[forged(b"{}"), genuine(&[], b"{}")].concat(), FORGED);
    assert_eq!(moat.backend.requests().len(), 1);
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
    let moat = Moat::new(ROUTES);
    for fields in [
        &[("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")][..],
        &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")],
    ] {
        let seen = moat.accepts("upgrade", &genuine(fields, b"{}"));
        assert_eq!([seen.header("connection"), seen.header("upgrade"), seen.header("http2-settings")], [None; 3]);
    }
    let tunnel = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nSECRET";
    let moat = Moat::answering(ROUTES, || Reply::Raw(tunnel.to_vec()));
    let mut connection = Connection::open(moat.proxy.http);
    let answer = connection.send(&genuine(&[("Connection", "Upgrade"), ("Upgrade", "websocket")], b"{}")).answer();
    assert_eq!(answer.status, 502);
    assert!(!answer.text().contains("SECRET"));
    moat.wait_until("counted", || moat.count("github", "backend_broken") == 1.0);
}

/// Row 11.
#[test]
fn connect_trace_and_pri_are_refused() {
    let moat = Moat::new(ROUTES);
    for (line, status, outcome) in [
        ("TRACE /webhooks/github", 405, "method_not_allowed"),
        ("trace /webhooks/github", 405, "method_not_allowed"),
        ("TRACK /webhooks/github", 405, "method_not_allowed"),
        ("CONNECT localhost:80", 400, "malformed"),
        ("CONNECT /webhooks/github", 400, "malformed"),
        ("OPTIONS *", 400, "malformed"),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\nHost: localhost:80\r\nContent-Length: 0\r\n\r\n");
        moat.refuses(line, bytes.as_bytes(), refusal(status, "", outcome));
    }
    for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "post", "POST2"] {
        let answer = moat.proxy.send(&request(method, "/webhooks/github", &[], b""));
        assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(moat.backend.connections(), 0);
}

/// Row 12.
#[test]
fn connection_cannot_name_an_end_to_end_header() {
    let moat = Moat::new(ROUTES);
    for token in ["X-Hub-Signature-256", "close, x-hub-signature-256", "Content-Length", "Host", "Content-Type", "Authorization", "X-Forwarded-For"] {
        moat.refuses(token, &genuine(&[("Connection", token)], b"{}"), MALFORMED);
    }
}

/// Row 13.
#[test]
fn expect_gets_100_after_the_head_checks_and_only_then() {
    let moat = Moat::new(ROUTES);
    let expecting = |signed: &[u8], length: usize| raw(signed, &format!("Expect: 100-continue\r\nContent-Length: {length}"), b"");
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
            b"POST /webhooks/github HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n".to_vec(),
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
        format!("POST {target} HTTP/1.1\r\n{hosts}X-Hub-Signature-256: {signature}\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes()
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
    let seen = moat.accepts("absolute form", &asked("http://hooks.example/webhooks/github?a=b", "Host: hooks.example\r\n"));
    assert_eq!((&*seen.target, seen.header("host"), seen.count("host")), ("/webhooks/github?a=b", Some("hooks.example"), 1));
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
    moat.refuses("long query", &to(&format!("/webhooks/github?{}", "a".repeat(9 << 10)), &[], b"{}"), refusal(414, "", "uri_too_long"));
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
            lines = moat.proxy.log().lines().count();
        }
    }
    assert_eq!(moat.proxy.send(&genuine(&[], b"{}")).status, 200);
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

/// One stream with these fields as they are: nothing is checked or put in order.
fn http2_raw(moat: &Moat, fields: &[(&[u8], &[u8])], body: &[u8]) -> Http2 {
    fn string(out: &mut Vec<u8>, text: &[u8]) {
        match text.len() {
            length @ 0..127 => out.push(u8::try_from(length).expect("short")),
            length => out.extend_from_slice(&[127, u8::try_from(length - 127).expect("short enough")]),
        }
        out.extend_from_slice(text);
    }
    fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        out.extend_from_slice(payload);
    }
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, 4, 0, 0, &[]);
    frame(&mut bytes, 1, 4, 1, &block);
    frame(&mut bytes, 0, 1, 1, body);
    let mut connection = Connection::open_tls_as(moat.proxy.https, b"h2");
    connection.send(&bytes);
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

fn http2_refuses(plain: &[(&[u8], &[u8])], cases: &[(&[(&[u8], &[u8])], &[&[u8]])]) {
    let moat = Moat::new(ROUTES);
    let signature = sign::github(SECRET, b"{}");
    let plain: Vec<_> = plain.iter().copied().chain([(&b"x-hub-signature-256"[..], signature.as_bytes())]).collect();
    for (added, without) in cases {
        let fields: Vec<_> =
            plain.iter().filter(|(name, _)| !without.contains(name)).chain(*added).copied().collect();
        let got = http2_raw(&moat, &fields, b"{}");
        let shown: Vec<_> = added.iter().map(|(name, value)| format!("{}: {}", name.escape_ascii(), value.escape_ascii())).collect();
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
            (&[(b":path", b"/webhooks/github#x")], &[b":path"]),
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

/// Row 23.
#[tokio::test]
async fn an_http2_body_that_does_not_end_is_cut_off() {
    let moat = Moat::new(&format!("timeouts: {{ body: 1s }}\n{ROUTES}"));
    let (sender, driver) = http2_connect(moat.proxy.https).await;
    let driver = tokio::spawn(driver);
    let asked = http::Request::post("https://localhost/webhooks/github").header("x-hub-signature-256", sign::github(SECRET, b"{}"));
    let (answer, mut stream) = sender.clone().ready().await.unwrap().send_request(asked.body(()).unwrap(), false).unwrap();
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

/// Row 24.
#[test]
fn http2_on_the_plain_port_is_refused() {
    let moat = Moat::new(&format!("https: reject\n{ROUTES}"));
    let mut connection = Connection::open(moat.proxy.http);
    let said = connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").end().read_raw(64 << 10);
    assert!(said.starts_with(b"HTTP/1.1 4") || said.is_empty(), "{}", said.escape_ascii());
    let upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")];
    moat.refuses("h2c upgrade", &genuine(&upgrade, b"{}"), refusal(403, "github", "https_required"));
    assert_eq!(moat.backend.connections(), 0);
}
