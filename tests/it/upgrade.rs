//! A next program takes the place of a running one: nobody is refused meanwhile.

use crate::support::proxy::program;
use crate::support::{Answer, Backend, Connection, Proxy, post, within};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const ROUTES: &str =
    "workers: 3\nroutes:\n  - { name: open, path: /open, signature: none, duplicates: off, to: app }\n";

fn start_next(proxy: &Proxy, socket: &Path) -> Child {
    let log = std::fs::OpenOptions::new().append(true).open(proxy.path().join("log")).expect("a log file");
    let mut command = program();
    command.args(["run", "--config"]).arg(proxy.config()).arg("--take-over").arg(socket);
    command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
}

/// Asks again and again, on connections of one request each or of many. The first failure ends it.
fn load(address: SocketAddr, tls: bool, keep: bool, stop: &AtomicBool, done: &AtomicUsize) -> Result<(), String> {
    let open = || if tls { Connection::open_tls(address) } else { Connection::open(address) };
    let mut connection: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let headers: &[(&str, &str)] = if keep { &[] } else { &[("Connection", "close")] };
        let current = connection.get_or_insert_with(open);
        let answer: Option<Answer> = current.send(&post("/open", headers, b"{}")).try_answer();
        match answer {
            Some(answer) if answer.status == 200 => {
                done.fetch_add(1, Ordering::Relaxed);
                if answer.header("connection") == Some("close") {
                    connection = None;
                }
            }
            other => return Err(format!("TLS {tls}, kept {keep}: {other:?}")),
        }
    }
    Ok(())
}

#[test]
fn no_request_fails_while_one_process_takes_over_from_another_and_another() {
    let backend = Backend::ok();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("next.sock");
    let mut proxy = Proxy::start_with(backend.address, ROUTES, &[("HOOKMOAT_TAKE_OVER", &path.display().to_string())]);
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut next = Vec::new();
    std::thread::scope(|scope| {
        let kinds = [(false, false), (false, false), (false, true), (true, false), (true, true)];
        let load = |(tls, keep): (bool, bool)| {
            let address = if tls { proxy.https } else { proxy.http };
            let (stop, done) = (&stop, &done);
            scope.spawn(move || load(address, tls, keep, stop, done))
        };
        let loads = kinds.map(load);
        let more = |count: usize| {
            let before = done.load(Ordering::Relaxed);
            within(Duration::from_secs(30), || done.load(Ordering::Relaxed) >= before + count)
        };
        let mut fine = more(50);
        for _ in 0..2 {
            let child = start_next(&proxy, &path);
            let ended = match next.last_mut() {
                None => within(Duration::from_secs(40), || !proxy.is_running()),
                Some(before) => {
                    within(Duration::from_secs(40), || Child::try_wait(before).expect("a status").is_some())
                }
            };
            next.push(child);
            fine &= ended && more(50);
        }
        stop.store(true, Ordering::Relaxed);
        for load in loads {
            load.join().expect("no panic").unwrap_or_else(|failed| panic!("{failed}\n{}", proxy.log()));
        }
        assert!(fine, "it did not end, or nothing went on\n{}", proxy.log());
    });
    assert_eq!(proxy.wait().code(), Some(0));
    assert_eq!(next[0].wait().expect("a status").code(), Some(0));
    assert!(next[1].try_wait().expect("a status").is_none(), "the last one runs");
    assert_eq!(backend.requests().len(), done.load(Ordering::Relaxed));
    assert!(proxy.log().contains("a next process has taken over"));
    let _ = next[1].kill();
    let _ = next[1].wait();
}
