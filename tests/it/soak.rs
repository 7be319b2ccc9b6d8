//! A long night: honest and hostile senders at the same time, while the configuration and the certificate are exchanged
//! every few seconds and the backend comes and goes. No honest request is dropped, none is delivered twice, memory and
//! file descriptors stay what they are.
//!
//! Short here; `make soak` runs thirty minutes (`HOOKMOAT_SOAK=N`: N minutes).

use crate::support::{Backend, Connection, Proxy, Reply, post, sign};
use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-of-some-length";

fn signed(id: &str, lines: &[(&str, &str)]) -> Vec<u8> {
    let body = format!("{{\"event\":\"{id}\",\"text\":\"{}\"}}", "x".repeat(900));
    let signature = sign::github(SECRET, body.as_bytes());
    let own = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id)];
    post("/hook", &[&own[..], lines].concat(), body.as_bytes())
}

fn exchange(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(beside, path).expect("a rename");
}

/// A new certificate and its key, as cert-manager puts them: both at once, by the exchange of a link to a folder.
fn exchange_certificate(folder: &Path, number: usize) {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let data = folder.join(format!("..{number}"));
    std::fs::create_dir_all(&data).expect("a folder");
    std::fs::write(data.join("tls.crt"), pair.cert.pem()).expect("a file");
    std::fs::write(data.join("tls.key"), pair.signing_key.serialize_pem()).expect("a file");
    let link = folder.join("..data_tmp");
    std::os::unix::fs::symlink(&data, &link).expect("a link");
    std::fs::rename(link, folder.join("..data")).expect("a rename");
    if number > 1 {
        let _ = std::fs::remove_dir_all(folder.join(format!("..{}", number - 2)));
    }
}

/// What all threads share.
struct Night {
    over: AtomicBool,
    /// Events that the sender was told are delivered.
    told: AtomicU64,
    /// Answers 502, 503 and 504, after which the event was sent again.
    again: AtomicU64,
    hostile: AtomicU64,
}

impl Night {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Sends events until the night is over, each until it was taken.
    fn honest(&self, name: &str, open: impl Fn() -> Connection, each: usize, pause: Duration) {
        let mut connection = open();
        for number in 0.. {
            if !self.goes_on() {
                return;
            }
            let bytes = signed(&format!("{name}-{number}"), &[]);
            let mut tries = 0;
            loop {
                let answer = connection.send(&bytes).try_answer();
                let answer = answer.unwrap_or_else(|| panic!("{name}-{number}: dropped without an answer"));
                match answer.status {
                    200 => break,
                    502..=504 => self.again.fetch_add(1, Ordering::Relaxed),
                    other => panic!("{name}-{number}: {other} {}", answer.text()),
                };
                tries += 1;
                assert!(tries < 200, "{name}-{number} never got through");
                std::thread::sleep(Duration::from_millis(100));
                if answer.header("connection") == Some("close") {
                    connection = open();
                }
            }
            self.told.fetch_add(1, Ordering::Relaxed);
            if number % each == each - 1 {
                connection = open();
            }
            std::thread::sleep(pause);
        }
    }

    /// Everything that nobody should send, one thing after the other.
    fn hostile(&self, http: SocketAddr, https: SocketAddr) {
        let mut kept: Vec<TcpStream> = Vec::new();
        let mut connect = |to: SocketAddr, bytes: &[u8], keep: bool| {
            let Ok(mut socket) = TcpStream::connect(to) else { return };
            let _ = socket.write_all(bytes);
            if keep {
                kept.push(socket);
                if kept.len() > 50 {
                    kept.remove(0);
                }
            }
        };
        let forged = String::from_utf8(signed("forged", &[])).expect("text").replace("\"event\"", "\"Event\"");
        let good = signed("copy", &[]);
        while self.goes_on() {
            let answer = Connection::open(http).send(forged.as_bytes()).try_answer();
            assert_eq!(answer.map(|answer| answer.status), Some(401));
            let answer = Connection::open(http).send(&good).try_answer();
            assert!(answer.is_some_and(|answer| matches!(answer.status, 200 | 502..=504)));
            for (bytes, keep) in [
                (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], true),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nX-A: ", true),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", true),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf", false),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n", false),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n", false),
                (b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", false),
                (b"\0\0\0\0\0\0\0\0\r\n\r\n", false),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x01\x01\xff\0\0\0\x01\x80", true),
                (b"", true),
            ] {
                connect(http, bytes, keep);
                connect(https, bytes, keep);
                self.hostile.fetch_add(2, Ordering::Relaxed);
            }
            // A large body that is broken off.
            if let Ok(mut socket) = TcpStream::connect(http) {
                let _ = socket.write_all(b"POST /hook HTTP/1.1\r\nHost: a\r\nContent-Length: 16000\r\n\r\n");
                let _ = socket.write_all(&[b'x'; 8000]);
                let _ = socket.shutdown(Shutdown::Both);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process").count()
}

#[test]
fn a_long_night_of_honest_and_hostile_senders_reloads_and_a_backend_that_comes_and_goes() {
    let long = std::env::var("HOOKMOAT_SOAK").ok().map(|minutes| minutes.parse().ok().filter(|n| *n > 1).unwrap_or(30));
    let (length, every) = match long {
        Some(minutes) => (Duration::from_secs(60 * minutes), Duration::from_secs(10)),
        None => (Duration::from_secs(6), Duration::from_secs(1)),
    };
    let away = Arc::new(AtomicBool::new(false));
    let taken: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let backend = Backend::unrecorded({
        let (away, taken) = (away.clone(), taken.clone());
        move |request, _| {
            if away.load(Ordering::Relaxed) {
                return Reply::Close;
            }
            let id = request.header("hookmoat-event-id").unwrap_or_default().to_owned();
            *taken.lock().expect("no panic under the lock").entry(id).or_default() += 1;
            Reply::Status(200, "ok")
        }
    });
    let certificates = tempfile::tempdir().expect("a folder");
    exchange_certificate(certificates.path(), 0);
    let at = certificates.path().display();
    let text = format!(
        "listen:\n  - address: {{http}}\n  - address: {{https}}\n    tls: {{ certificate: {at}/..data/tls.crt, private_key: \
         {at}/..data/tls.key }}\nhttps: allow\nlog: {{ format: json, requests: off }}\ntimeouts: {{ header: 2s, body: 2s, idle: 20s }}\nroutes:\n  \
         - name: github\n    path: /hook\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    duplicates: {{ \
         remember: 1m }}\n    max_body: 16KiB\n    to: app\n"
    );
    let proxy = Proxy::start(backend.address, &text);
    let night = Night {
        over: AtomicBool::new(false),
        told: AtomicU64::new(0),
        again: AtomicU64::new(0),
        hostile: AtomicU64::new(0),
    };
    let mut samples = Vec::new();
    std::thread::scope(|scope| {
        let night = &night;
        let (http, https) = (proxy.http, proxy.https);
        let pause = Duration::from_millis(20);
        let mut senders = vec![
            scope.spawn(move || night.honest("kept", || Connection::open(http), usize::MAX, pause)),
            scope.spawn(move || night.honest("plain", || Connection::open(http), 1, pause)),
            scope.spawn(move || night.honest("tls", || Connection::open_tls(https), 10, pause)),
            scope.spawn(move || night.honest("kept-tls", || Connection::open_tls(https), usize::MAX, pause)),
        ];
        senders.push(scope.spawn(move || night.hostile(http, https)));
        let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
        let begun = Instant::now();
        for round in 1.. {
            std::thread::sleep(every);
            exchange(
                &proxy.config(),
                &text.replace("max_body: 16KiB", ["max_body: 16KiB", "max_body: 32KiB"][round % 2]),
            );
            exchange_certificate(certificates.path(), round);
            if round % 3 == 0 {
                proxy.signal("HUP");
            }
            away.store(round % 5 == 4, Ordering::Relaxed);
            samples.push((proxy.rss() >> 10, descriptors(proxy.pid())));
            // A sender that found something wrong ends the night.
            if begun.elapsed() >= length || senders.iter().any(|sender| sender.is_finished()) {
                break;
            }
        }
        away.store(false, Ordering::Relaxed);
        night.over.store(true, Ordering::Relaxed);
    });
    let (told, again) = (night.told.into_inner(), night.again.into_inner());
    let applied = proxy.metric("hookmoat_config_reloads_total{outcome=\"applied\"}");
    println!(
        "{} rounds: {told} events delivered, {again} sent again, {} hostile connections, {applied} reloads",
        samples.len(),
        night.hostile.into_inner()
    );
    println!("resident KiB and descriptors: {samples:?}");
    let taken = taken.lock().expect("no panic under the lock");
    // `copy` is the event that the hostile sender repeats.
    let twice: Vec<_> = taken.iter().filter(|(id, count)| **count > 1 && *id != "copy").collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert_eq!(taken.len() as u64 - u64::from(taken.contains_key("copy")), told);
    assert!(applied >= samples.len() as f64 / 2.0, "{applied}\n{}", proxy.log());
    assert_eq!(proxy.metric("hookmoat_config_reloads_total{outcome=\"refused\"}"), 0.0, "{}", proxy.log());
    assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    if long.is_some() {
        let third = samples.len() / 3;
        let middle = |part: &[(u64, usize)], what: fn(&(u64, usize)) -> u64| {
            let mut values: Vec<u64> = part.iter().map(what).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        let (warm, late) = (&samples[third..2 * third], &samples[2 * third..]);
        let rss = (middle(warm, |sample| sample.0), middle(late, |sample| sample.0));
        assert!(rss.1 <= rss.0 + rss.0 / 10 + 2048, "memory grows: {rss:?} KiB");
        let open = (middle(warm, |sample| sample.1 as u64), middle(late, |sample| sample.1 as u64));
        assert!(open.1 <= open.0 + 20, "descriptors grow: {open:?}");
    }
}
