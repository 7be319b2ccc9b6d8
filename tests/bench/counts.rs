//! Hot parts, a given number of times, for an instruction counter: `counts PART TIMES`; or `counts program TIMES`, which
//! sends so many good requests through the built program (`HOOKMOAT`) under valgrind and prints what they took.
//! `counts.sh` compares with the stored counts. Times are of no interest here, and of a machine; counts repeat.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "a fixed program that is run by a script"
)]

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
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::pin::pin;
use std::process::{Command, Stdio};
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

/// A backend that answers every request of 1 KiB with the same.
fn backend(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let (mut stream, mut bytes, mut buffer) = (stream, Vec::new(), [0; 8192]);
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..count]);
                while let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n").map(|at| at + 4 + BODY) {
                    if bytes.len() < end || stream.write_all(ANSWER).is_err() {
                        break;
                    }
                    bytes.drain(..end);
                }
            }
        });
    }
}

/// Bytes of the body of a whole request.
const BODY: usize = 1024;

/// The whole program, lean way, one request after the other on one connection. The instructions of start and end are
/// among those printed.
fn program(times: usize) {
    let hookmoat = std::env::var("HOOKMOAT").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let backend_at = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = CONFIG
        .replace("listen: [{ address: 127.0.0.1:1 }]", &format!("listen: [{{ address: {address} }}]\nworkers: 1"))
        .replace("allow: [", "allow: [127.0.0.0/8, ")
        .replace("127.0.0.1:2", &backend_at.local_addr().unwrap().to_string());
    // In a folder of its own, since that is watched for changes.
    let path = folder.path().join("config/hookmoat.yaml");
    std::fs::create_dir(folder.path().join("config")).unwrap();
    std::fs::write(&path, config).unwrap();
    std::thread::spawn(move || backend(&backend_at));
    let log = folder.path().join("valgrind.log");
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .args([&hookmoat, "run", "--config"])
        .arg(path)
        .env("SECRET", SECRET)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = loop {
        match TcpStream::connect(address) {
            Ok(stream) => break stream,
            Err(_) => assert!(child.try_wait().unwrap().is_none(), "the program ended"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut buffer = [0; 8192];
    for id in 0..times {
        let mut body = vec![b'x'; BODY];
        body[..8].copy_from_slice(&(id as u64).to_be_bytes());
        stream.write_all(&[request(&body, id), body].concat()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{}") {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "no answer");
            answer.extend_from_slice(&buffer[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
    }
    drop(stream);
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    child.wait().unwrap();
    let told = std::fs::read_to_string(log).unwrap();
    let count = told.lines().find_map(|line| line.split("Collected : ").nth(1));
    println!("{}", count.unwrap_or_else(|| panic!("valgrind said:\n{told}")));
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
        // Hardly a body: valgrind has no instructions for SHA-2, and what stands in for them would hide the rest.
        "checks" => checks(times, 16),
        "program" => program(times),
        other => eprintln!("no part {other}"),
    }
}
