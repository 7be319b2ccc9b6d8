//! Hot parts, a given number of times, for an instruction counter: `counts PART TIMES`. `counts.sh` compares with the
//! stored counts. Times are of no interest here, and of a machine; counts repeat.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a fixed program that is run by a script")]

use hookmoat::config;
use hookmoat::pipeline::{self, Trail};
use hookmoat::policy::{Limits, Policy};
use hookmoat::port::seen::Outcome;
use hookmoat::proxy::parts;
use hookmoat::request::{Field, Head, Now, Peer};
use hookmoat::runtime::State;
use hookmoat::telemetry::metrics::Metrics;
use std::fmt::Write as _;
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";
const NOW: u64 = 1_760_000_000;

const CONFIG: &str = "listen: [{ address: 127.0.0.1:1 }]\nadmin: off\nhttps: allow\nupstreams: { app: \"http://127.0.0.1:2\" }\n\
    routes:\n  - name: github\n    path: /webhooks/github\n    provider: github\n    secrets: [{ env: SECRET }]\n    \
    allow: [192.0.2.0/24, 198.51.100.0/24, 2001:db8::/32]\n    \
    rate_limit: { per: client_ip, requests: 1000000, every: 1s }\n    duplicates: { remember: 1h }\n    to: app\n";

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: x\r\nContent-Type: application/json\r\n\
    Content-Length: 2\r\nConnection: keep-alive\r\n\r\n{}";

fn policy() -> Policy {
    config::parse(CONFIG, std::path::Path::new("."), &|_| Some(SECRET.into())).unwrap()
}

fn request(body: &[u8], id: usize) -> Vec<u8> {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    let mut wire = String::new();
    let _ = write!(
        wire,
        "POST /webhooks/github HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: GitHub-Hookshot/0000000\r\nAccept: */*\r\n\
         Content-Type: application/json\r\nX-GitHub-Event: push\r\nX-GitHub-Delivery: {id:032x}\r\n\
         X-Hub-Signature-256: sha256={}\r\nContent-Length: {}\r\n\r\n",
        hex::encode(mac.finalize().into_bytes()),
        body.len()
    );
    wire.into_bytes()
}

/// All checks of a good request, from its bytes to its settled claim.
fn checks(times: usize, size: usize) {
    let (policy, now) = (policy(), Now::at_unix(NOW));
    let state = State::in_memory(100_000, 10_000, Metrics::new().unwrap().state.clone(), now.instant);
    let mut body = vec![b'x'; size];
    let peer = Peer { address: Some("192.0.2.7".parse().unwrap()), tls: false, identity: None };
    let mut fields = Vec::<Field>::with_capacity(32);
    let mut wires = Vec::new();
    for id in 0..times.min(64) {
        body[..8].copy_from_slice(&(id as u64).to_be_bytes());
        wires.push((request(&body, id), body.clone()));
    }
    for round in 0..times {
        let (wire, body) = &wires[round % wires.len()];
        let parsed = parts::request_head(wire, &policy.limits, &mut fields, |head| {
            ready(check(&policy, &state, head, &peer, body, now));
        });
        assert!(parsed);
    }
}

async fn check(policy: &Policy, state: &State, head: &Head<'_>, peer: &Peer, body: &[u8], now: Now) {
    let mut trail = Trail::default();
    let mut screened = pipeline::screen(policy, state, head, peer, now, &mut trail).await.unwrap();
    screened.update(body);
    let authentic = screened.verify(state, head, body, now, &mut trail).await.unwrap();
    let keys = authentic.keys(head, body, &mut trail).unwrap();
    let admitted = authentic.admit(state, keys, Duration::ZERO, now, &mut trail).await.unwrap();
    // Failed, so that the next round finds the ID free again.
    black_box(admitted.settle(Outcome::Failed, now.instant).await);
}

/// The memory of this process never lets anybody wait.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => unreachable!("a store in memory answers at once"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, part, times, ..] = &arguments[..] else {
        eprintln!("usage: counts PART TIMES");
        return;
    };
    // `cargo bench` runs every bench with an argument of its own.
    let Ok(times) = times.parse::<usize>() else { return };
    let mut fields = Vec::<Field>::with_capacity(32);
    match &**part {
        "request_head" => {
            let (wire, limits) = (
                request(b"{}", 1),
                Limits { headers: 100, header_bytes: 32 << 10, uri_bytes: 8 << 10, body_memory: 1 << 20 },
            );
            for _ in 0..times {
                assert!(parts::request_head(black_box(&wire), &limits, &mut fields, |head| {
                    black_box(head.path);
                }));
            }
        }
        "response_head" => {
            (0..times).for_each(|_| assert_eq!(parts::response_head(black_box(ANSWER), &mut fields), 200))
        }
        "chunked_16k" => {
            let mut wire = Vec::new();
            for _ in 0..4 {
                wire.extend_from_slice(b"1000\r\n");
                wire.extend_from_slice(&[b'x'; 4096]);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n\r\n");
            (0..times).for_each(|_| assert_eq!(parts::chunked_body(black_box(&wire)), 16384));
        }
        "checks_1k" => checks(times, 1 << 10),
        "checks_16k" => checks(times, 16 << 10),
        other => eprintln!("no part {other}"),
    }
}
