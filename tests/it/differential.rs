//! The same bytes to both ways through the program: the lean way's verdict is the complete one's or stricter, and what
//! reaches the backend is identical. The requests are made from a few good ones by mutation, from a fixed seed.

use crate::support::{Backend, Connection, LEAN, Proxy, sign};
use std::fmt::Write as _;

pub const SECRET: &str = "a-secret-of-some-length";
pub const CASES: usize = 700;

pub fn config(way: &str) -> String {
    format!(
        "workers: 1\nfast_path: {way}\ntimeouts: {{ header: 3s, body: 3s, idle: 3s }}\nroutes:\n  - name: github\n    \
         path: /hook\n    methods: [POST, PUT, GET, HEAD]\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    \
         duplicates: off\n    max_body: 4KiB\n    to: app\n  - name: open\n    path: /open/*\n    methods: [POST, GET, HEAD]\n    \
         signature: none\n    duplicates: off\n    max_body: 4KiB\n    to: app\n"
    )
}

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64)).expect("small")
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

const LINES: &[&str] = &[
    "Content-Length: 2",
    "Content-Length: 3",
    "Content-Length: +2",
    "Content-Length: 2, 2",
    "Content-Length:",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding : chunked",
    "transfer-encoding: Chunked",
    "Connection: close",
    "Connection: keep-alive, X-A",
    "Connection: X-Hub-Signature-256",
    "Expect: 100-continue",
    "Expect: later",
    "Host: other.example",
    "X-Forwarded-For: 192.0.2.1",
    "X-Http-Method-Override: DELETE",
    "X_A: 1",
    "X-A: 1",
    "X-A: \t 2 \t",
    "X-A:",
    "X-A: \u{e9}",
    "Upgrade: websocket",
    "TE: trailers",
    "Content-Type: text/plain",
    "Content-Encoding: gzip",
    " folded: 1",
    "no colon",
    ": nameless",
];

const TARGETS: &[&str] = &[
    "/hook",
    "/hook?a=b",
    "/hook?",
    "/hook/",
    "/hook#a",
    "//hook",
    "/open/a/b?c",
    "/open/%2e%2e/a",
    "/open/../a",
    "/open/a b",
    "/open/\"{}|^",
    "http://localhost/hook",
    "http://localhost/open/x?y",
    "http://else.where/hook",
    "https://localhost",
    "*",
    "hook",
    "localhost:1",
];

const BODIES: &[(&str, &str)] = &[
    ("Content-Length: 2\r\n", "{}"),
    ("", ""),
    ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "1;a=b\r\n{\r\n1 \r\n}\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\r\n{}\r\n0\r\nX-A: 1\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\n{}\n0\n\n"),
    ("Transfer-Encoding: chunked\r\n", "02\r\n{}\r\n00\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\r\n{}0\r\n\r\n"),
    ("Content-Length: 2\r\n", "{"),
];

/// A request that is good, or nearly.
pub fn made(random: &mut Random) -> Vec<u8> {
    let often = |random: &mut Random, usual: &'static str, choices: &[&'static str]| {
        if random.below(3) > 0 { usual } else { *random.of(choices) }
    };
    let method = often(random, "POST", &["GET", "HEAD", "PUT", "post", "CONNECT", "TRACE", "P@ST", "", "DELETE"]);
    let target = often(random, "/hook", TARGETS);
    let version = often(random, "HTTP/1.1", &["HTTP/1.0", "HTTP/1.1", "HTTP/1.2", "HTTP/2.0", "http/1.1", ""]);
    let (framing, body) = if random.below(3) > 0 { BODIES[0] } else { *random.of(BODIES) };
    let signature = if random.below(8) > 0 { sign::github(SECRET, b"{}") } else { sign::github("another", b"{}") };
    let mut text =
        format!("{method} {target} {version}\r\nHost: localhost\r\nX-Hub-Signature-256: {signature}\r\n{framing}");
    for _ in 0..random.below(3) {
        let _ = write!(text, "{}\r\n", random.of(LINES));
    }
    text.push_str("\r\n");
    text.push_str(body);
    let mut bytes = text.into_bytes();
    if random.below(3) == 0 {
        for _ in 0..=random.below(2) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = *random.of(b"\r\n\0 :;\t\x7f\x80aZ9"),
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, *random.of(b"\r\n\0 :;\t\x7f\x80aZ9")),
                _ => bytes.truncate(at),
            }
        }
    }
    if random.below(4) == 0 {
        // And another behind it.
        bytes.extend_from_slice(b"GET /open/next HTTP/1.1\r\nHost: localhost\r\n\r\n");
    }
    bytes
}

/// What the sender saw: the statuses of all answers until the end.
fn ask(proxy: &Proxy, bytes: &[u8]) -> Vec<u16> {
    let mut connection = Connection::open(proxy.http);
    connection.send(bytes).end();
    let mut statuses = Vec::new();
    while let Some(answer) = connection.try_answer() {
        statuses.push(answer.status);
    }
    statuses
}

type Seen = Vec<(String, String, Vec<(String, String)>, Vec<u8>)>;

/// What the backend got, but for the name of the request, since the last look.
fn seen(backend: &Backend, from: &mut usize) -> Seen {
    let all = backend.requests();
    let new = all[*from..].iter().map(|request| {
        let headers = request.headers.iter().filter(|(name, _)| name != "x-request-id").cloned().collect();
        (request.method.clone(), request.target.clone(), headers, request.body.clone())
    });
    let new = new.collect();
    *from = all.len();
    new
}

#[test]
fn the_lean_way_is_the_complete_one_or_stricter_and_forwards_the_same() {
    const { assert!(LEAN) };
    let (lean_backend, complete_backend) = (Backend::ok(), Backend::ok());
    let lean = Proxy::start(lean_backend.address, &config("auto"));
    let complete = Proxy::start(complete_backend.address, &config("off"));
    let (mut lean_from, mut complete_from) = (0, 0);
    let mut random = Random(20_260_101);
    let (mut forwarded, mut refused, mut stricter) = (0, 0, Vec::new());
    for _ in 0..CASES {
        let bytes = made(&mut random);
        let (left, right) = (ask(&lean, &bytes), ask(&complete, &bytes));
        let (left_seen, right_seen) =
            (seen(&lean_backend, &mut lean_from), seen(&complete_backend, &mut complete_from));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(lean.metric("hookmoat_carried_total{path=\"complete\"}"), 0.0);
        // Field order and spelling are the sender's on the lean way; a map's on the complete one.
        let sorted = |seen: &Seen| {
            let mut seen = seen.clone();
            seen.iter_mut().for_each(|request| request.2.sort());
            seen
        };
        if left == right {
            assert_eq!(sorted(&left_seen), sorted(&right_seen), "{text}");
            if left_seen.is_empty() {
                refused += 1
            } else {
                forwarded += 1
            }
            continue;
        }
        // Stricter: answers up to some point are the same, and the next is a refusal with which the connection ends.
        let same = left.iter().zip(&right).take_while(|(left, right)| left == right).count();
        assert!(left.len() <= same + 1, "{left:?} {right:?}\n{text}");
        assert!(left.get(same).is_none_or(|status| (400..500).contains(status)), "{left:?} {right:?}\n{text}");
        assert!(sorted(&right_seen).starts_with(&sorted(&left_seen)), "{left_seen:?} {right_seen:?}\n{text}");
        stricter.push((left, right, text.into_owned()));
    }
    assert!(forwarded > CASES / 8 && refused > CASES / 8, "{forwarded} {refused}");
    assert!(stricter.len() < CASES / 5, "{}: {stricter:#?}", stricter.len());
}
