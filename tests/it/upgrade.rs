//! A next program takes the place of a running one: nobody is refused meanwhile.

use crate::support::proxy::program;
use crate::support::{Answer, Backend, Connection, PATIENCE, Proxy, post, within};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const ROUTES: &str =
    "workers: 3\nroutes:\n  - { name: open, path: /open, signature: none, duplicates: off, to: app }\n";

fn start_next(proxy: &Proxy, socket: &Path) -> Child {
    let log = std::fs::File::create(proxy.path().join("next.log")).expect("a log file");
    let mut command = program();
    command.args(["run", "--config"]).arg(proxy.config()).arg("--take-over").arg(socket);
    command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts")
}

#[test]
fn a_file_that_belongs_to_one_process_is_not_taken_over() {
    let backend = Backend::ok();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("next.sock");
    let queue = "queues: { inbox: { sqlite: { path: inbox.db } } }\n";
    let route =
        "routes: [{ name: open, path: /open, signature: none, duplicates: off, deliver: { queue: inbox, to: app } }]\n";
    for (file, config) in [
        ("seen.db", format!("state: {{ sqlite: {{ path: seen.db }} }}\n{ROUTES}")),
        ("inbox.db", format!("{queue}{route}")),
    ] {
        let take_over = path.display().to_string();
        let mut proxy = Proxy::start_with(backend.address, &config, &[("HOOKMOAT_TAKE_OVER", &take_over)]);
        assert!(within(PATIENCE, || path.exists()), "{file}: nobody gives");
        let before = proxy.send(&post("/open", &[], b"{}")).status;
        assert!((200..300).contains(&before), "{file}: {before}");
        let mut next = start_next(&proxy, &path);
        assert!(within(PATIENCE, || next.try_wait().expect("a status").is_some()), "{file}: it goes on");
        assert_eq!(next.wait().expect("a status").code(), Some(2), "{file}\n{}", proxy.log());
        let log = std::fs::read_to_string(proxy.path().join("next.log")).expect("a log file");
        assert!(log.contains(&format!("{file} is in use by another hookmoat")), "{log}");
        // The first one serves on, over sockets that are still its own.
        assert!(within(PATIENCE, || proxy.log().contains("a next process did not take over")));
        for _ in 0..20 {
            assert_eq!(proxy.send(&post("/open", &[], b"{}")).status, before, "{file}");
        }
        assert_eq!(proxy.admin("/readyz").status, 200, "{file}");
        // What the documents say: stop it, then start the next.
        proxy.signal("TERM");
        assert_eq!(proxy.wait().code(), Some(0), "{file}");
        let mut next = start_next(&proxy, &path);
        let serves = || match Connection::try_open(proxy.http) {
            Some(mut connection) => {
                connection.send(&post("/open", &[], b"{}")).try_answer().map(|answer| answer.status)
            }
            None => None,
        };
        assert!(within(PATIENCE, || serves() == Some(before)), "{file}\n{}", proxy.log());
        let _ = next.kill();
        let _ = next.wait();
        let _ = std::fs::remove_file(&path);
    }
}

#[test]
fn a_file_where_a_socket_belongs_is_left_alone_and_ends_the_start() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    let path = proxy.path().join("precious.txt");
    std::fs::write(&path, "precious").expect("a file");
    let mut next = start_next(&proxy, &path);
    assert!(within(PATIENCE, || next.try_wait().expect("a status").is_some()), "it goes on");
    assert_eq!(next.wait().expect("a status").code(), Some(2));
    let log = std::fs::read_to_string(proxy.path().join("next.log")).expect("a log file");
    assert!(log.contains(&path.display().to_string()) && log.contains("no socket"), "{log}");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), "precious");
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
            within(PATIENCE, || done.load(Ordering::Relaxed) >= before + count)
        };
        let mut fine = more(50);
        for _ in 0..2 {
            let child = start_next(&proxy, &path);
            let ended = match next.last_mut() {
                None => within(PATIENCE, || !proxy.is_running()),
                Some(before) => within(PATIENCE, || Child::try_wait(before).expect("a status").is_some()),
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

/// Who takes over lets nobody in before it is ready, and the one before serves as long as that takes.
#[test]
fn a_process_that_does_not_become_ready_takes_nothing_over() {
    let backend = Backend::ok();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("next.sock");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a-secret-of-some-length").expect("a file");
    let route = format!(
        "routes:\n  - {{ name: open, path: /open, signature: none, duplicates: off, to: app }}\n  - {{ name: github, path: \
         /github, provider: github, secret: {{ file: {secret:?} }}, to: app }}\n"
    );
    let mut proxy = Proxy::start_with(backend.address, &route, &[("HOOKMOAT_TAKE_OVER", &path.display().to_string())]);
    assert!(within(PATIENCE, || path.exists()), "nobody gives");
    let text = std::fs::read_to_string(proxy.config()).expect("the file");
    let other = proxy.path().join("next.yaml");
    std::fs::write(&other, text.replace(&format!("{secret:?}"), "no-such-file")).expect("a file");
    let log = std::fs::File::create(proxy.path().join("next.log")).expect("a log file");
    let mut command = program();
    command.args(["run", "--config"]).arg(&other).arg("--take-over").arg(&path);
    let mut next = command.stdout(Stdio::null()).stderr(log).spawn().expect("the program starts");
    let told = || std::fs::read_to_string(proxy.path().join("next.log")).unwrap_or_default();
    assert!(within(PATIENCE, || told().contains("not ready: the process before goes on")), "{}", told());
    for n in 0..40 {
        assert_eq!(proxy.send(&post("/open", &[("Connection", "close")], b"{}")).status, 200, "{n}");
        assert_eq!(proxy.admin("/readyz").status, 200, "{n}");
    }
    assert!(proxy.is_running() && next.try_wait().expect("a status").is_none());
    let _ = next.kill();
    let _ = next.wait();
    assert_eq!(proxy.send(&post("/open", &[], b"{}")).status, 200);
}
