//! Acknowledged means safe: what a route with `deliver` takes is delivered at least once or among the dead letters,
//! whatever ends, breaks or fills up in between.

use crate::support::proxy::{SMALL_DISK, free_addresses, on_small_disk, program};
use crate::support::{Backend, Connection, PATIENCE, Proxy, Reply, post, sign, within};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";

/// A queue and a route that delivers through it. Event IDs are kept where `state` says.
fn config(deliver: &str, more: &str) -> String {
    format!(
        "queues:\n  inbox: {{ sqlite: {{ path: data/inbox.db, min_free: 1MiB }} }}\nroutes:\n  - name: github\n    \
         path: /hook\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    \
         deliver: {{ queue: inbox, to: app, retry: {{ first: 20ms, longest: 100ms, max_attempts: 50 }}{deliver} }}\n{more}"
    )
}

fn event(id: &str) -> Vec<u8> {
    event_with(id, &format!("{{\"event\":\"{id}\"}}"))
}

fn event_with(id: &str, body: &str) -> Vec<u8> {
    let signature = sign::github(SECRET, body.as_bytes());
    let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id), ("X-GitHub-Event", "push")];
    post("/hook", &headers, body.as_bytes())
}

#[track_caller]
fn eventually(proxy: &Proxy, case: &str, holds: impl FnMut() -> bool) {
    assert!(within(PATIENCE, holds), "{case}: never came true\n{}", proxy.log());
}

/// A backend that answers with this status until it is told to be up, and 200 from then on.
fn answering_until_up(status: u16) -> (Arc<AtomicBool>, Backend) {
    let up = Arc::new(AtomicBool::new(false));
    let working = up.clone();
    let backend =
        Backend::with(move |_, _| Reply::Status(if working.load(Ordering::SeqCst) { 200 } else { status }, ""));
    (up, backend)
}

/// How often each event reached the backend.
fn arrivals(backend: &Backend) -> HashMap<String, usize> {
    let mut arrivals = HashMap::new();
    for request in backend.requests() {
        *arrivals.entry(request.header("hookmoat-event-id").unwrap_or_default().to_owned()).or_default() += 1;
    }
    arrivals
}

fn held(proxy: &Proxy, state: &str) -> f64 {
    proxy.metric(&format!("hookmoat_queue_events{{queue=\"inbox\",state=\"{state}\"}}"))
}

/// Starts a process that is expected to refuse: its exit code and what it said.
fn refusal_to_start(config: &Path) -> (Option<i32>, String) {
    let mut command = program();
    command.args(["run", "--config"]).arg(config);
    refusal_of(command, config)
}

fn refusal_of(mut command: std::process::Command, config: &Path) -> (Option<i32>, String) {
    let log = config.with_extension("refusal");
    let file = std::fs::File::create(&log).expect("a file");
    let mut child = command.stderr(file).spawn().expect("the program starts");
    if !within(PATIENCE, || child.try_wait().expect("a status").is_some()) {
        let _ = child.kill();
    }
    let status = child.wait().expect("a status");
    (status.code(), std::fs::read_to_string(log).unwrap_or_default())
}

#[test]
fn an_event_is_acknowledged_at_once_and_delivered_whole() {
    let gate = Arc::new(AtomicBool::new(false));
    let open = gate.clone();
    let backend = Backend::with(move |_, _| {
        while !open.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Reply::Status(200, "ok")
    });
    let proxy = Proxy::start(backend.address, &config("", ""));
    let body = "{\"n\":1,\"text\":\"\u{e9}\"}";
    let answer = proxy.send(&event_with("one", body));
    assert_eq!((answer.status, answer.body.len()), (200, 0), "{answer:?}");
    // The backend has not answered anybody yet.
    let copy = proxy.send(&event_with("one", body));
    assert_eq!((copy.status, copy.header("hookmoat-duplicate")), (200, Some("true")));
    gate.store(true, Ordering::SeqCst);
    backend.wait_for(1);
    let delivered = backend.only();
    assert_eq!((&*delivered.method, &*delivered.target, &*delivered.body), ("POST", "/hook", body.as_bytes()));
    let expected = [
        ("hookmoat-attempt", "1"),
        ("hookmoat-event-id", "one"),
        ("idempotency-key", "one"),
        ("hookmoat-verified", "true"),
        ("hookmoat-route", "github"),
        ("x-github-event", "push"),
        ("x-forwarded-for", "127.0.0.1"),
    ];
    for (name, value) in expected {
        assert_eq!(delivered.header(name), Some(value), "{name}");
        assert_eq!(delivered.count(name), 1, "{name}");
    }
    assert_eq!(delivered.header("x-hub-signature-256"), Some(&*sign::github(SECRET, body.as_bytes())));
    eventually(&proxy, "delivered", || {
        proxy.metric("hookmoat_delivery_attempts_total{result=\"2xx\",route=\"github\"}") == 1.0
    });
    eventually(&proxy, "counted", || {
        proxy.metric("hookmoat_requests_total{outcome=\"queued\",route=\"github\"}") == 1.0
    });
    assert_eq!(proxy.wait_for_event("queued")["event_id"], "one");
}

#[test]
fn a_failing_backend_is_tried_again_until_it_takes_the_event() {
    let backend = Backend::with(|_, n| match n {
        0 => Reply::Status(500, ""),
        1 => Reply::Close,
        2 => Reply::Raw(b"HTTP/1.1 503 X\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n".to_vec()),
        3 => Reply::Status(404, ""),
        _ => Reply::Status(204, ""),
    });
    let proxy = Proxy::start(backend.address, &config("", ""));
    assert_eq!(proxy.send(&event("one")).status, 200);
    backend.wait_for(5);
    let attempts: Vec<_> = backend
        .requests()
        .iter()
        .map(|request| request.header("hookmoat-attempt").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(attempts, ["1", "2", "3", "4", "5"]);
    eventually(&proxy, "settled", || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}") == 1.0);
    assert_eq!(proxy.metric("hookmoat_delivery_retries_total{route=\"github\"}"), 4.0);
    assert_eq!(backend.requests().len(), 5);
    assert_eq!(proxy.send(&event("one")).header("hookmoat-duplicate"), Some("true"));
}

#[test]
fn what_cannot_be_delivered_becomes_a_dead_letter_with_its_reason() {
    let backend = Backend::with(|request, _| match request.header("hookmoat-event-id") {
        Some("gone") => Reply::Status(410, ""),
        _ => Reply::Status(500, ""),
    });
    let routes = config("", "").replace("max_attempts: 50", "max_attempts: 3");
    let proxy = Proxy::start(backend.address, &routes);
    assert_eq!(proxy.send(&event("gone")).status, 200);
    assert_eq!(proxy.send(&event("tried")).status, 200);
    for (reason, count) in [("rejected", 1.0), ("max_attempts", 1.0)] {
        let series = format!("hookmoat_dead_letters_total{{reason=\"{reason}\",route=\"github\"}}");
        eventually(&proxy, reason, || proxy.metric(&series) == count);
    }
    assert_eq!(arrivals(&backend), HashMap::from([("gone".into(), 1), ("tried".into(), 3)]));
}

#[test]
fn events_survive_a_kill_and_their_copies_are_still_known() {
    let up = Arc::new(AtomicBool::new(false));
    let working = up.clone();
    let backend = Backend::with(move |_, _| match working.load(Ordering::SeqCst) {
        true => Reply::Status(200, ""),
        false => Reply::Close,
    });
    let mut proxy = Proxy::start(backend.address, &config("", ""));
    for n in 0..20 {
        assert_eq!(proxy.send(&event(&format!("e{n}"))).status, 200);
    }
    proxy.kill_and_start();
    let copy = proxy.send(&event("e7"));
    assert_eq!((copy.status, copy.header("hookmoat-duplicate")), (200, Some("true")), "{copy:?}");
    up.store(true, Ordering::SeqCst);
    let delivered = || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}");
    eventually(&proxy, "all delivered", || delivered() == 20.0);
    let taken = arrivals(&backend);
    assert_eq!(taken.len(), 20);
}

#[test]
fn a_full_queue_refuses_before_it_acknowledges() {
    let backend = Backend::with(|_, _| Reply::Status(500, ""));
    let routes = config("", "").replace("min_free: 1MiB", "min_free: 1MiB, max_events: 3");
    let proxy = Proxy::start(backend.address, &routes);
    for n in 0..3 {
        assert_eq!(proxy.send(&event(&format!("e{n}"))).status, 200);
    }
    let refused = proxy.send(&event("e3"));
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").is_some());
    let counted = || proxy.metric("hookmoat_requests_total{outcome=\"queue_full\",route=\"github\"}");
    eventually(&proxy, "counted", || counted() == 1.0);
    // Not remembered: the sender's next try is no duplicate.
    assert_eq!(proxy.send(&event("e3")).status, 503);
    assert_eq!(proxy.send(&event("e0")).header("hookmoat-duplicate"), Some("true"));
    // Who watches sees it, and why.
    eventually(&proxy, "told", || proxy.metric("hookmoat_queue_up{queue=\"inbox\"}") == 0.0);
    assert!(
        proxy.admin("/queues").text().contains("as many as max_events allows"),
        "{}",
        proxy.admin("/queues").text()
    );
}

#[test]
fn in_deadline_mode_a_fast_backend_answers_itself_and_a_slow_one_costs_no_event() {
    let backend = Backend::with(|request, _| {
        let reply = Reply::Status(201, "its own words");
        match request.header("hookmoat-event-id") {
            Some("slow") => Reply::After(Duration::from_millis(1500), Box::new(reply)),
            Some("never") if request.header("hookmoat-attempt") == Some("1") => Reply::Hang,
            Some("broken") if request.header("hookmoat-attempt") == Some("1") => Reply::Close,
            Some("refused") => Reply::Status(500, "no"),
            _ => reply,
        }
    });
    let proxy = Proxy::start(
        backend.address,
        &config(", mode: deadline, deadline: 500ms, margin: 200ms", "")
            .replace("first: 20ms", "timeout: 3s, first: 20ms"),
    );
    let fast = proxy.send(&event("fast"));
    assert_eq!((fast.status, fast.text()), (201, "its own words".into()));
    // Its own answer, as if nobody were in between: the sender comes again by itself.
    assert_eq!(proxy.send(&event("refused")).status, 500);
    for id in ["slow", "never", "broken"] {
        let answer = proxy.send(&event(id));
        assert_eq!((answer.status, answer.text()), (200, String::new()), "{id}");
    }
    eventually(&proxy, "all settled", || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}") == 3.0);
    let arrivals = arrivals(&backend);
    // The attempt that ran settled the queued copy.
    assert_eq!(arrivals.get("slow"), Some(&1));
    assert_eq!((arrivals.get("never"), arrivals.get("fast")), (Some(&2), Some(&1)));
    assert_eq!(proxy.metric("hookmoat_deadline_queued_total{route=\"github\"}"), 2.0);
    assert_eq!(proxy.send(&event("slow")).header("hookmoat-duplicate"), Some("true"));
    eventually(&proxy, "nothing left", || held(&proxy, "ready") + held(&proxy, "in_flight") == 0.0);
}

#[test]
fn a_backend_that_is_down_is_probed_and_gets_everything_once_it_is_back() {
    let up = Arc::new(AtomicBool::new(false));
    let hits = Arc::new(AtomicUsize::new(0));
    let (working, counted) = (up.clone(), hits.clone());
    let backend = Backend::with(move |_, _| {
        counted.fetch_add(1, Ordering::SeqCst);
        Reply::Status(if working.load(Ordering::SeqCst) { 200 } else { 503 }, "")
    });
    let proxy = Proxy::start(backend.address, &config("", ""));
    let mut connection = Connection::open(proxy.http);
    for n in 0..200 {
        assert_eq!(connection.send(&event(&format!("e{n}"))).answer().status, 200);
    }
    eventually(&proxy, "down", || proxy.metric("hookmoat_upstream_down{upstream=\"app\"}") == 1.0);
    let before = hits.load(Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(600));
    let probes = hits.load(Ordering::SeqCst) - before;
    // Two hundred events that are due every tenth of a second would be a thousand attempts.
    assert!(probes <= 20, "{probes} attempts at a backend that is down");
    up.store(true, Ordering::SeqCst);
    let delivered = || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}");
    eventually(&proxy, "all delivered", || delivered() == 200.0);
}

#[test]
fn events_with_one_order_key_arrive_in_order_though_some_fail() {
    let backend = Backend::with(|request, n| match (n % 3, request.header("hookmoat-attempt")) {
        (0, Some("1")) => Reply::Status(500, ""),
        _ => Reply::Status(200, ""),
    });
    let proxy = Proxy::start(backend.address, &config(", order: json:/customer", ""));
    let mut connection = Connection::open(proxy.http);
    for n in 0..30 {
        let body = format!("{{\"customer\":{},\"n\":{n}}}", n % 3);
        assert_eq!(connection.send(&event_with(&format!("e{n}"), &body)).answer().status, 200);
    }
    let delivered = || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}");
    eventually(&proxy, "all delivered", || delivered() == 30.0);
    let mut last: HashMap<u64, u64> = HashMap::new();
    for request in backend.requests() {
        let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        let (customer, n) = (body["customer"].as_u64().expect("a number"), body["n"].as_u64().expect("a number"));
        // A repetition is the same event; what follows is never an earlier one.
        assert!(last.insert(customer, n).unwrap_or(0) <= n, "customer {customer}: {n} came late");
    }
}

#[test]
fn attempts_are_signed_with_the_backend_s_own_key() {
    let backend = Backend::ok();
    let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let routes = config(", sign: { secret: { file: key } }", "");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key");
    std::fs::write(&file, key).expect("a key");
    let proxy = Proxy::start(backend.address, &routes.replace("file: key", &format!("file: {}", file.display())));
    assert_eq!(proxy.send(&event("one")).status, 200);
    backend.wait_for(1);
    let request = backend.only();
    let id = request.header("webhook-id").expect("webhook-id");
    let seconds = request.header("webhook-timestamp").expect("webhook-timestamp");
    let signed = format!("{id}.{seconds}.{}", String::from_utf8_lossy(&request.body));
    assert_eq!(id, "one");
    assert_eq!(request.header("webhook-signature"), Some(&*sign::standard(key, signed.as_bytes())));
    assert!(!proxy.log().contains("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"));
}

#[test]
fn sigterm_lets_attempts_finish_and_leaves_the_rest_for_the_next_start() {
    let backend = Backend::with(|_, n| match n {
        0 => Reply::After(Duration::from_millis(700), Box::new(Reply::Status(200, ""))),
        _ => Reply::Status(200, ""),
    });
    let text = config("", "upstreams:\n  app: { url: \"http://{backend}\", concurrency: 1 }\n");
    let mut proxy = Proxy::start(backend.address, &text);
    for n in 0..5 {
        assert_eq!(proxy.send(&event(&format!("e{n}"))).status, 200);
    }
    backend.wait_for(1);
    proxy.signal("TERM");
    assert!(proxy.wait().success(), "{}", proxy.log());
    let before = arrivals(&backend);
    assert_eq!(before.get("e0"), Some(&1), "{before:?}");
    proxy.start_again();
    eventually(&proxy, "all of them", || arrivals(&backend).len() == 5);
    // The first one's end was written down before the process ended.
    assert_eq!(arrivals(&backend).get("e0"), Some(&1));
}

#[test]
fn damaged_files_and_folders_that_cannot_be_written_are_refused_with_a_remedy() {
    let backend = Backend::ok();
    let mut proxy = Proxy::start(backend.address, &config("", ""));
    assert_eq!(proxy.send(&event("one")).status, 200);
    backend.wait_for(1);
    proxy.signal("TERM");
    proxy.wait();
    let file = proxy.path().join("data/inbox.db");
    let log = std::fs::metadata(proxy.path().join("data/inbox.db-wal")).map_or(0, |log| log.len());
    assert_eq!(log, 0, "nothing is left to be replayed after a clean end");
    let whole = std::fs::read(&file).expect("the file");
    std::fs::write(&file, &whole[..whole.len() / 2]).expect("write");
    let (code, said) = refusal_to_start(&proxy.config());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("queue inbox") && said.contains("is damaged") && said.contains("set_aside"), "{said}");
    std::fs::write(&file, b"").expect("write");
    let (code, said) = refusal_to_start(&proxy.config());
    assert!(code == Some(2) && said.contains("missing or empty"), "{said}");
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    std::fs::write(proxy.config(), text.replace("min_free: 1MiB", "min_free: 1MiB, if_corrupt: set_aside"))
        .expect("write");
    proxy.start_again();
    assert_eq!(proxy.send(&event("two")).status, 200);
    assert!(proxy.log().contains("set aside"), "{}", proxy.log());
    // A second process on the same file would deliver everything twice.
    let [http, https, admin] = free_addresses::<3>();
    let text = std::fs::read_to_string(proxy.config()).expect("the configuration");
    let other = [(proxy.http, http), (proxy.https, https), (proxy.admin, admin)]
        .iter()
        .fold(text, |text, (old, new)| text.replace(&old.to_string(), &new.to_string()));
    let path = proxy.path().join("other.yaml");
    std::fs::write(&path, other).expect("write");
    let (code, said) = refusal_to_start(&path);
    assert!(code == Some(2) && said.contains("in use by another hookmoat"), "{said}");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused_with_what_to_do() {
    let mut proxy = Proxy::start(Backend::ok().address, &config("", ""));
    proxy.signal("TERM");
    proxy.wait();
    let data = proxy.path().join("data");
    // A read-only mount, as of a container's root.
    std::fs::remove_dir_all(&data).expect("an empty queue");
    let mounted = on_small_disk(&data, "1m,ro", &proxy.config());
    let (code, said) = refusal_of(mounted, &proxy.config());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("queue inbox: cannot use") && said.contains("mount a volume"), "{said}");
    // A folder of somebody else's. Root may write everywhere, unless it gives that up.
    let mut strange = std::process::Command::new("setpriv");
    strange.args(["--bounding-set", "-dac_override,-dac_read_search,-fowner"]).arg(env!("CARGO_BIN_EXE_hookmoat"));
    let is_root = rustix::process::geteuid().is_root();
    let mut command = if is_root { strange } else { program() };
    command.args(["run", "--config"]).arg(proxy.config());
    let mode = |mode| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).expect("its mode")
    };
    mode(0o555);
    let (code, said) = refusal_of(command, &proxy.config());
    mode(0o755);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("queue inbox: cannot use") && said.contains("must be writable for the user"), "{said}");
    assert_eq!(std::fs::read_dir(&data).expect("the folder").count(), 0, "nothing was written");
    proxy.start_again();
    assert_eq!(proxy.send(&event("one")).status, 200);
}

/// Sends so many events with so many bytes each, until the disk is full and beyond; the IDs of those acknowledged.
fn filled(proxy: &Proxy, events: usize, bytes: usize) -> Vec<String> {
    let filling = "x".repeat(bytes);
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for n in 0..events {
        let id = format!("e{n}");
        match proxy.send(&event_with(&id, &format!("{{\"id\":\"{id}\",\"filling\":\"{filling}\"}}"))).status {
            200 => acknowledged.push(id),
            503 => refused += 1,
            other => panic!("{other}\n{}", proxy.log()),
        }
    }
    assert!(refused > 0, "the disk was not filled: {} acknowledged", acknowledged.len());
    acknowledged
}

/// All that was acknowledged arrives, and then there is room for more.
fn empties(proxy: &Proxy, backend: &Backend, acknowledged: &[String]) {
    eventually(proxy, "all acknowledged ones", || {
        let arrivals = arrivals(backend);
        acknowledged.iter().all(|id| arrivals.contains_key(id))
    });
    eventually(proxy, "there is room again", || proxy.send(&event("after")).status == 200);
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_does_not_stop_deliveries() {
    let (up, backend) = answering_until_up(500);
    let text = config("", "").replace("min_free: 1MiB", "min_free: 0B");
    let proxy = Proxy::start_with(backend.address, &text, &[(SMALL_DISK, "48m")]);
    let acknowledged = filled(&proxy, 160, 400_000);
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    assert!(proxy.log().contains("what was kept free goes to delivering"), "{}", proxy.log());
    up.store(true, Ordering::SeqCst);
    empties(&proxy, &backend, &acknowledged);
}

#[test]
fn a_slow_backend_of_some_types_keeps_nobody_else_s_events_waiting() {
    let slow = Backend::with(|_, _| Reply::After(Duration::from_secs(60), Box::new(Reply::Status(200, ""))));
    let fast = Backend::ok();
    let text = config("", "").replace("to: app", "to: [{ events: [slow], upstream: other }, app]")
        + &format!(
            "upstreams:\n  app: {{ url: \"http://{{backend}}\", concurrency: 2 }}\n  other: {{ url: \"http://{}\", \
         concurrency: 2, timeout: 90s }}\n",
            slow.address
        );
    let text = text.replace("retry: { first", "retry: { timeout: 10s, first");
    let proxy = Proxy::start(fast.address, &text);
    let typed = |id: &str, kind: &str| {
        let body = format!("{{\"event\":\"{id}\"}}");
        let signature = sign::github(SECRET, body.as_bytes());
        let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id), ("X-GitHub-Event", kind)];
        post("/hook", &headers, body.as_bytes())
    };
    // More than both backends together take at once.
    for n in 0..20 {
        assert_eq!(proxy.send(&typed(&format!("s{n}"), "slow")).status, 200, "{}", proxy.log());
    }
    slow.wait_for(2);
    for n in 0..20 {
        assert_eq!(proxy.send(&typed(&format!("f{n}"), "push")).status, 200, "{}", proxy.log());
    }
    fast.wait_for(20);
    assert_eq!(arrivals(&fast).len(), 20);
    assert!(arrivals(&fast).keys().all(|id| id.starts_with('f')));
    assert_eq!(slow.requests().len(), 2, "as many at once as it is given");
}

#[test]
fn a_disk_that_runs_full_refuses_what_it_cannot_keep_and_loses_nothing() {
    let (up, backend) = answering_until_up(500);
    let text = config("", "").replace("min_free: 1MiB", "min_free: 16MiB");
    let proxy = Proxy::start_with(backend.address, &text, &[(SMALL_DISK, "32m")]);
    let acknowledged = filled(&proxy, 320, 60_000);
    assert!(acknowledged.len() > 10, "{}", acknowledged.len());
    up.store(true, Ordering::SeqCst);
    empties(&proxy, &backend, &acknowledged);
}

#[test]
fn a_request_that_was_changed_in_the_queue_is_given_up_and_never_becomes_another_one() {
    let (up, backend) = answering_until_up(500);
    let proxy = Proxy::start(backend.address, &config("", "").replace("longest: 100ms", "longest: 3s"));
    let changes = [
        ("path", "'/hook HTTP/1.1' || char(13, 10) || 'X-Evil: 1' || char(13, 10)"),
        ("path", "'hook'"),
        ("path", "'/hook/../admin'"),
        ("query", "'a b'"),
        ("host", "'app' || char(10) || 'X-Evil: 1'"),
        ("method", "'GET /admin HTTP/1.1' || char(13, 10)"),
        ("method", "'CONNECT'"),
        ("request_id", "'r' || char(13, 10) || 'X-Evil: 1'"),
        ("headers", "replace(hex(headers), hex('push'), '0D0A4141')"),
        ("headers", "replace(hex(headers), hex('X-GitHub-Event'), hex('X-GitHub-Event'))"),
        ("event_id", "'i' || char(13, 10) || 'X-Evil: 1'"),
        ("event_type", "'t' || char(10) || 'X-Evil: 1'"),
    ];
    for n in 0..=changes.len() {
        assert_eq!(proxy.send(&event(&format!("e{n}"))).status, 200);
    }
    backend.wait_for(1);
    let file = rusqlite::Connection::open(proxy.path().join("data/inbox.db")).expect("the file");
    file.busy_timeout(Duration::from_secs(5)).expect("a bound");
    for (n, (column, value)) in changes.into_iter().enumerate() {
        let table = if column.starts_with("event_") { "queue_events" } else { "queue_requests" };
        let value = if column == "headers" { format!("unhex({value})") } else { value.into() };
        let sql = format!("UPDATE {table} SET {column} = {value} WHERE id = (SELECT min(id) + {n} FROM queue_events)");
        assert_eq!(file.execute(&sql, []).expect(&sql), 1);
    }
    let failed = backend.requests().len();
    up.store(true, Ordering::SeqCst);
    // One of the changes writes what stood there.
    eventually(&proxy, "the rest is delivered", || held(&proxy, "ready") == 0.0 && held(&proxy, "scheduled") == 0.0);
    eventually(&proxy, "given up", || {
        proxy.metric("hookmoat_dead_letters_total{reason=\"malformed\",route=\"github\"}") == changes.len() as f64 - 1.0
    });
    let requests = backend.requests();
    for request in &requests {
        assert_eq!((&*request.method, &*request.target, request.header("x-evil")), ("POST", "/hook", None));
    }
    let taken: Vec<_> = requests[failed..].iter().filter_map(|request| request.header("hookmoat-event-id")).collect();
    assert!(taken.contains(&"e9") && taken.contains(&"e12"), "{taken:?}");
}

#[test]
fn dead_letters_are_looked_at_and_replayed_while_the_proxy_runs() {
    let (up, backend) = answering_until_up(410);
    let proxy = Proxy::start(backend.address, &config("", ""));
    for id in ["one", "two"] {
        assert_eq!(proxy.send(&event(id)).status, 200);
    }
    let queue = |arguments: &[&str]| {
        let run = program().arg("queue").args(arguments).arg("--config").arg(proxy.config()).output().expect("it runs");
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr))
    };
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&queue(&[arguments, &["--json"]].concat()).1).expect("JSON")
    };
    eventually(&proxy, "given up", || json(&["stats"])["dead"] == 2);
    let list = json(&["list", "--state", "dead", "--route", "github", "--type", "push", "--newer-than", "1h"]);
    assert_eq!(list.as_array().expect("a list").len(), 2, "{list}");
    assert_eq!((&list[0]["event_id"], &list[0]["dead"]), (&"one".into(), &"rejected".into()));
    assert_eq!((&list[0]["status"], &list[0]["attempts"]), (&410.into(), &1.into()));
    let uid = list[0]["uid"].as_str().expect("a UID");
    let (code, shown) = queue(&["show", uid]);
    assert_eq!(code, Some(0), "{shown}");
    for part in ["POST /hook", "x-github-event: push", "{\"event\":\"one\"}", "backend answered 410"] {
        assert!(shown.to_lowercase().contains(&part.to_lowercase()), "{part}: {shown}");
    }
    assert_eq!(queue(&["show", uid, "--body"]).1, "{\"event\":\"one\"}");
    assert_eq!(queue(&["replay", "--route", "github", "--dry-run"]), (Some(0), "2 would be replayed\n".into()));
    // Everything has to be meant.
    assert_eq!(queue(&["replay"]).0, Some(2));
    assert_eq!(queue(&["list", "--route", "other"]).0, Some(1));
    up.store(true, Ordering::SeqCst);
    assert_eq!(queue(&["replay", "--uid", uid]), (Some(0), "1 replayed\n".into()));
    // The memory of IDs knows it, and lets it pass.
    backend.wait_for(3);
    let replayed = backend.requests().pop().expect("one");
    assert_eq!(replayed.header("hookmoat-event-id"), Some("one"));
    assert_eq!(replayed.header("hookmoat-attempt"), Some("1"));
    assert_eq!(proxy.send(&event("one")).header("hookmoat-duplicate"), Some("true"));
    assert_eq!(queue(&["purge", "--state", "dead", "--older-than", "0s"]), (Some(0), "1 purged\n".into()));
    eventually(&proxy, "empty", || json(&["list"]).as_array().is_some_and(Vec::is_empty));
}
