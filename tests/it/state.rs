//! Event IDs and rate limits that several processes share through Redis: what holds while all is well, and what each
//! kind of outage gets.

use crate::support::proxy::free_addresses;
use crate::support::redis::{Way, ask};
use crate::support::{Answer, Backend, Connection, PATIENCE, Proxy, Redis, Reply, post, sign, within};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-of-some-length";

/// Short in every run; `make soak` asks for the long form.
fn scaled(short: usize, long: usize) -> usize {
    if std::env::var_os("HOOKMOAT_SOAK").is_some() { long } else { short }
}

/// A route whose IDs the signature does not cover, one whose IDs it does, and more keys for both.
fn routes(more: &str) -> String {
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "routes:\n  - name: github\n    path: /github\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    \
         to: app\n{more}  - name: own\n    path: /own\n    signature:\n      algorithm: hmac-sha256\n      from: {{ header: X-Signature, prefix: \"sha256=\", encoding: hex }}\n      \
         signed: \"{{header:X-Event-Id}}.{{body}}\"\n    event_id: {{ header: X-Event-Id }}\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    to: app\n{more}"
    )
}

fn redis_at(url: &str, more: &str) -> String {
    format!("state: {{ redis: {{ url: \"{url}\"{more} }} }}\n")
}

fn github(id: &str) -> Vec<u8> {
    let body = format!("{{\"event\":\"{id}\"}}");
    let signature = sign::github(SECRET, body.as_bytes());
    post("/github", &[("X-GitHub-Delivery", id), ("X-Hub-Signature-256", &signature)], body.as_bytes())
}

fn own(id: &str) -> Vec<u8> {
    let signature = sign::github(SECRET, format!("{id}.x").as_bytes());
    post("/own", &[("X-Event-Id", id), ("X-Signature", &signature)], b"x")
}

fn is_copy(answer: &Answer) -> bool {
    answer.header("hookmoat-duplicate") == Some("true")
}

/// The event's ID as the backend saw it, with how often it was answered 2xx.
#[derive(Default)]
struct Tally(std::sync::Mutex<HashMap<String, usize>>);

impl Tally {
    fn count(&self, request: &crate::support::backend::Recorded) {
        let id = request.header("hookmoat-event-id").expect("an ID").to_owned();
        *self.0.lock().expect("no panic").entry(id).or_default() += 1;
    }

    #[track_caller]
    fn is_once_for_each(&self, events: usize) {
        let counts = self.0.lock().expect("no panic");
        let more: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
        assert!(more.is_empty(), "delivered more than once: {more:?}");
        assert_eq!(counts.len(), events);
    }
}

/// Sends until the event is taken, as senders do, on a connection that is opened anew when it breaks.
#[track_caller]
fn until_taken(connection: &mut Option<Connection>, address: SocketAddr, bytes: &[u8]) -> Answer {
    let begun = Instant::now();
    loop {
        let open = connection.get_or_insert_with(|| Connection::open(address));
        match open.send(bytes).try_answer() {
            Some(answer) if answer.status < 300 => return answer,
            Some(answer) if answer.header("connection") != Some("close") => {}
            _ => *connection = None,
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "never taken");
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// Every event to all processes at the same moment, by some threads, until each copy was told a 2xx.
fn to_all_at_once(proxies: &[Proxy], events: usize, event: impl Fn(usize) -> Vec<u8> + Sync) {
    const THREADS: usize = 6;
    let next = AtomicUsize::new(0);
    let addresses: Vec<SocketAddr> = proxies.iter().map(|proxy| proxy.http).collect();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut connections: Vec<Option<Connection>> = addresses.iter().map(|_| None).collect();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= events {
                        return;
                    }
                    let bytes = event(number);
                    // All are written before one is read.
                    for (connection, address) in connections.iter_mut().zip(&addresses) {
                        connection.get_or_insert_with(|| Connection::open(*address)).send(&bytes);
                    }
                    for (connection, address) in connections.iter_mut().zip(&addresses) {
                        let answer = connection.as_mut().and_then(Connection::try_answer);
                        if answer.is_none_or(|answer| answer.status >= 300) {
                            *connection = None;
                            until_taken(connection, *address, &bytes);
                        }
                    }
                }
            });
        }
    });
}

fn three(backend: &Backend, config: &str) -> Vec<Proxy> {
    (0..3).map(|_| Proxy::start(backend.address, config)).collect()
}

fn lost(proxies: &[Proxy]) -> f64 {
    proxies.iter().map(|proxy| proxy.metric("hookmoat_claims_lost_total")).sum()
}

#[test]
fn three_processes_deliver_each_event_once_and_after_failures_exactly_one_success() {
    let redis = Redis::start();
    let events = scaled(250, 20_000);
    for failing in [false, true] {
        let tally = std::sync::Arc::new(Tally::default());
        let counting = tally.clone();
        let backend = Backend::with(move |request, count| {
            // Fails without a pattern that senders could fall in step with.
            if failing && count.wrapping_mul(2_654_435_761) >> 7 & 3 == 0 {
                return match count & 3 {
                    0 => Reply::Close,
                    1 => Reply::Status(503, "later"),
                    _ => Reply::Status(500, "no"),
                };
            }
            counting.count(request);
            Reply::Status(200, "ok")
        });
        let config = redis_at(&redis.url(), &format!(", prefix: failing-{failing}")) + "replicas: 3\n" + &routes("");
        let proxies = three(&backend, &config);
        to_all_at_once(&proxies, events, |n| if n % 2 == 0 { github(&n.to_string()) } else { own(&n.to_string()) });
        tally.is_once_for_each(events);
        assert!(failing || backend.requests().len() == events);
        assert!(!failing || backend.requests().len() > events);
        assert_eq!(lost(&proxies), 0.0);
        // A captured request under a fresh ID is recognised by another process.
        let replayed = github("0");
        let text = String::from_utf8(replayed).expect("text").replace("X-GitHub-Delivery: 0", "X-GitHub-Delivery: new");
        assert!(is_copy(&proxies[2].send(text.as_bytes())));
        // What is remembered ends by itself.
        let keys = redis.ask(&["KEYS", &format!("failing-{failing}:*")]);
        assert!(keys.lines().count() >= events, "{keys}");
        for key in ["EVAL", "for _, k in ipairs(redis.call('KEYS', '*')) do if redis.call('PTTL', k) < 0 then return k end end return 'none'", "0"].chunks(3) {
            assert_eq!(redis.ask(key), "none");
        }
    }
}

#[test]
fn a_redis_that_is_stopped_and_comes_back_empty_gets_what_the_route_says() {
    let mut redis = Redis::start();
    let backend = Backend::ok();
    let config = |policy: &str| {
        redis_at(&redis.url(), "") + &routes(&format!("rate_limit: {{ requests: 5, every: 1h }}\non_failure: {policy}"))
    };
    let proxies: Vec<Proxy> =
        ["{}", "{ duplicates: allow, rate_limit: allow }", "{ duplicates: local }", "{ rate_limit: reject }"]
            .map(|policy| Proxy::start(backend.address, &config(policy)))
            .into();
    let [reject, allow, local, limit] = &proxies[..] else { unreachable!() };
    assert_eq!(reject.send(&own("a")).status, 200);
    assert!(is_copy(&local.send(&own("a"))));
    redis.kill();
    for proxy in &proxies {
        // The server closed the connection: that is known without a request.
        assert!(within(PATIENCE, || proxy.metric("hookmoat_state_up") == 0.0), "{}", proxy.log());
    }
    let errors = |proxy: &Proxy| {
        let text = proxy.admin("/metrics").text();
        let lines =
            text.lines().filter(|line| line.starts_with("hookmoat_state_errors_total") && !line.contains("probe"));
        lines.map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum::<f64>()
    };
    let asked: Vec<f64> = proxies.iter().map(errors).collect();
    let degraded = |proxy: &Proxy, check: &str, decision: &str| {
        let series =
            format!("hookmoat_state_degraded_total{{check=\"{check}\",decision=\"{decision}\",route=\"own\"}}");
        proxy.metric(&series)
    };

    // Duplicates: refused with 503, so that the sender comes again. The limits of each process go on.
    let refused = reject.send(&own("b"));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(degraded(reject, "duplicates", "reject"), 1.0);
    for _ in 0..4 {
        assert_eq!(reject.send(&own("b")).status, 503);
    }
    assert_eq!(reject.send(&own("b")).status, 429);
    assert_eq!(degraded(reject, "rate_limit", "local"), 6.0);
    // Signatures have nothing to do with it: the sixth of another route is forged.
    let forged = String::from_utf8(github("b")).expect("text").replace("{\"event\":\"b\"}", "{\"event\":\"c\"}");
    assert_eq!(reject.send(forged.as_bytes()).status, 401);
    assert_eq!(backend.requests().len(), 1);

    // Allowed: copies get through, nothing is counted against a limit.
    for _ in 0..7 {
        let answer = allow.send(&own("b"));
        assert!(answer.status == 200 && !is_copy(&answer), "{answer:?}");
    }
    assert_eq!((degraded(allow, "duplicates", "allow"), degraded(allow, "rate_limit", "allow")), (7.0, 7.0));
    assert_eq!(backend.requests().len(), 8);

    // Local: this process remembers for itself.
    assert!(!is_copy(&local.send(&own("c"))));
    assert!(is_copy(&local.send(&own("c"))));
    assert_eq!(backend.requests().len(), 9);

    // Limits: refused, if that is wanted.
    assert_eq!(limit.send(&own("d")).status, 503);
    assert_eq!(degraded(limit, "rate_limit", "reject"), 1.0);

    // While the breaker is open nothing is asked, so nothing is waited for.
    assert_eq!(proxies.iter().map(errors).collect::<Vec<_>>(), asked);

    redis.run();
    for proxy in &proxies {
        assert!(within(PATIENCE, || proxy.metric("hookmoat_state_up") == 1.0), "{}", proxy.log());
    }
    // It came back empty: what it knew is forgotten, what was delivered meanwhile and remembered here is told to it.
    assert!(is_copy(&allow.send(&own("c"))), "{}", local.log());
    let answer = allow.send(&own("e"));
    assert!(answer.status == 200 && !is_copy(&answer));
    for proxy in &proxies {
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    }
}

#[test]
fn readiness_asks_for_redis_only_where_that_is_wanted() {
    let [nowhere] = free_addresses();
    let backend = Backend::ok();
    for (readiness, status) in [("ignore", 200), ("require", 503)] {
        let config = redis_at(&format!("redis://{nowhere}"), &format!(", readiness: {readiness}")) + &routes("");
        let proxy = Proxy::start(backend.address, &config);
        let answer = proxy.admin("/readyz");
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(proxy.send(&own("a")).status, 503);
        if status == 503 {
            assert!(answer.text().contains("redis is away"), "{}", answer.text());
            let _redis = Redis::at(nowhere, &[]);
            assert!(within(PATIENCE, || proxy.admin("/readyz").status == 200), "{}", proxy.log());
            assert_eq!(proxy.send(&own("a")).status, 200);
        }
    }
}

#[test]
fn a_slow_redis_is_waited_for_as_long_as_the_configuration_says_and_no_longer() {
    let redis = Redis::start();
    let way = Way::to(redis.address);
    let backend = Backend::ok();
    let config = redis_at(&format!("redis://{}", way.address), ", timeout: 1s") + &routes("duplicates: { lease: 3s }");
    let proxy = Proxy::start(backend.address, &config);
    way.slow(Duration::from_millis(100));
    for id in ["a", "b", "c"] {
        assert!(!is_copy(&proxy.send(&own(id))));
        assert!(is_copy(&proxy.send(&own(id))));
    }
    assert_eq!(proxy.metric("hookmoat_state_up"), 1.0);
    // Answers that take longer than they may: five are waited for, then nobody waits any more.
    way.slow(Duration::from_secs(5));
    let mut connection = None;
    for n in 0..60 {
        let open = connection.get_or_insert_with(|| Connection::open(proxy.http));
        let answer = open.send(&own(&format!("slow-{n}"))).answer();
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    assert_eq!(proxy.metric("hookmoat_state_up"), 0.0);
    let claims = proxy.metric("hookmoat_state_errors_total{operation=\"claim\"}");
    assert!((1.0..30.0).contains(&claims), "{claims}");
    assert_eq!(backend.requests().len(), 3);
    way.slow(Duration::ZERO);
    way.cut();
    // Their claims may have reached the server: none of them holds its event for longer than the lease.
    for n in [0, 1, 2, 3, 4, 5, 59] {
        until_taken(&mut connection, proxy.http, &own(&format!("slow-{n}")));
    }
    assert_eq!(backend.requests().len(), 10);
    assert_eq!(proxy.metric("hookmoat_state_up"), 1.0);
    assert_eq!(proxy.metric("hookmoat_claims_lost_total"), 0.0);
}

#[test]
fn errors_of_redis_in_the_middle_of_load_lose_nothing_and_double_nothing() {
    let redis = Redis::start();
    let way = Way::to(redis.address);
    let tally = std::sync::Arc::new(Tally::default());
    let counting = tally.clone();
    let backend = Backend::with(move |request, _| {
        counting.count(request);
        Reply::Status(200, "ok")
    });
    let config =
        redis_at(&format!("redis://{}", way.address), "") + "replicas: 2\n" + &routes("duplicates: { lease: 5s }");
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::start(backend.address, &config)).collect();
    let done = AtomicBool::new(false);
    let events = scaled(300, 6_000);
    let troubles = std::thread::scope(|scope| {
        let trouble = scope.spawn(|| {
            let mut count = 0;
            while !done.load(Ordering::SeqCst) {
                match count % 5 {
                    0 => drop(redis.ask(&["SCRIPT", "FLUSH"])),
                    1 => way.cut(),
                    // Full: every write is refused.
                    2 => drop(redis.ask(&["CONFIG", "SET", "maxmemory", "1"])),
                    3 => drop(redis.ask(&["CONFIG", "SET", "maxmemory", "0"])),
                    _ => {
                        redis.ask(&["CLIENT", "PAUSE", "600", "ALL"]);
                    }
                }
                count += 1;
                std::thread::sleep(Duration::from_millis(250));
            }
            redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
            count
        });
        // The trouble ends once there was enough of it, so that the load ends too.
        let ender = scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(scaled(4, 60) as u64));
            done.store(true, Ordering::SeqCst);
        });
        to_all_at_once(&proxies, events, |n| if n % 2 == 0 { github(&n.to_string()) } else { own(&n.to_string()) });
        ender.join().expect("no panic");
        trouble.join().expect("no panic")
    });
    assert!(troubles >= 10);
    // After a success whose settlement could not be told at once, a copy waits: none is delivered twice unless a lease
    // ended before, which is counted.
    let doubles = tally.0.lock().expect("no panic").values().filter(|count| **count > 1).count();
    assert!(doubles as f64 <= lost(&proxies), "{doubles} doubles, {} counted", lost(&proxies));
    assert_eq!(tally.0.lock().expect("no panic").len(), events);
    for proxy in &proxies {
        assert!(!proxy.log().contains("panicked"), "{}", proxy.log());
    }
}

#[test]
fn a_server_that_became_a_replica_is_not_written_to() {
    let redis = Redis::start();
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &(redis_at(&redis.url(), "") + &routes("")));
    assert_eq!(proxy.send(&own("a")).status, 200);
    redis.ask(&["REPLICAOF", "127.0.0.1", "1"]);
    let answers: Vec<u16> = (0..20).map(|n| proxy.send(&own(&format!("b{n}"))).status).collect();
    assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
    redis.ask(&["REPLICAOF", "NO", "ONE"]);
    until_taken(&mut None, proxy.http, &own("b0"));
    assert!(is_copy(&proxy.send(&own("a"))));
}

#[test]
fn a_killed_process_holds_an_event_no_longer_than_its_lease_and_a_living_one_for_as_long_as_it_works() {
    let redis = Redis::start();
    let held = std::sync::Arc::new(AtomicBool::new(true));
    let holding = held.clone();
    let backend = Backend::with(move |request, _| {
        if request.header("hookmoat-event-id") == Some("long") {
            return Reply::After(Duration::from_secs(4), Box::new(Reply::Status(200, "ok")));
        }
        if holding.load(Ordering::SeqCst) { Reply::Hang } else { Reply::Status(200, "ok") }
    });
    let config =
        redis_at(&redis.url(), "") + "timeouts: { duplicate_wait: 0s }\n" + &routes("duplicates: { lease: 1s }");
    let [mut first, second] = [(); 2].map(|()| Proxy::start(backend.address, &config));
    // Four leases long: its owner is alive, so nobody else gets it.
    let answer = std::thread::scope(|scope| {
        let sender = scope.spawn(|| second.send(&own("long")));
        backend.wait_for(1);
        while !sender.is_finished() {
            let copy = first.send(&own("long"));
            assert!(copy.status == 503 || is_copy(&copy), "{copy:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        sender.join().expect("no panic")
    });
    assert_eq!((answer.status, is_copy(&answer)), (200, false));
    assert!(is_copy(&first.send(&own("long"))));
    assert_eq!((backend.requests().len(), lost(std::slice::from_ref(&second))), (1, 0.0));

    // Killed in the middle: the claim ends with its lease.
    Connection::open(first.http).send(&own("killed"));
    backend.wait_for(2);
    assert_eq!(second.send(&own("killed")).status, 503);
    first.signal("KILL");
    first.wait();
    held.store(false, Ordering::SeqCst);
    until_taken(&mut None, second.http, &own("killed"));
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_claim_that_is_lost_while_its_owner_works_is_counted() {
    let redis = Redis::start();
    let backend = Backend::with(|_, _| Reply::After(Duration::from_secs(3), Box::new(Reply::Status(200, "ok"))));
    let config =
        redis_at(&redis.url(), "") + "timeouts: { duplicate_wait: 0s }\n" + &routes("duplicates: { lease: 1s }");
    let [first, second] = [(); 2].map(|()| Proxy::start(backend.address, &config));
    std::thread::scope(|scope| {
        let frozen = scope.spawn(|| first.send(&own("a")));
        backend.wait_for(1);
        // Stopped, it cannot say that it is alive.
        first.signal("STOP");
        let taken = until_taken(&mut None, second.http, &own("a"));
        assert!(!is_copy(&taken));
        first.signal("CONT");
        assert_eq!(frozen.join().expect("no panic").status, 200);
    });
    assert_eq!(backend.requests().len(), 2);
    assert_eq!((lost(&[first]), lost(&[second])), (1.0, 0.0));
}

#[test]
fn a_forgetful_redis_is_told_again_by_a_living_owner() {
    let redis = Redis::start();
    let held = std::sync::Arc::new(AtomicBool::new(true));
    let holding = held.clone();
    let backend = Backend::with(move |_, _| {
        within(PATIENCE, || !holding.load(Ordering::SeqCst));
        Reply::Status(200, "ok")
    });
    let config =
        redis_at(&redis.url(), "") + "timeouts: { duplicate_wait: 0s }\n" + &routes("duplicates: { lease: 3s }");
    let [first, second] = [(); 2].map(|()| Proxy::start(backend.address, &config));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| first.send(&own("a")));
        backend.wait_for(1);
        redis.ask(&["FLUSHALL"]);
        // Within a third of the lease the claim is made anew.
        assert!(within(PATIENCE, || !redis.ask(&["KEYS", "hookmoat:?*"]).lines().all(|key| key.contains("probe"))));
        assert_eq!(second.send(&own("a")).status, 503);
        held.store(false, Ordering::SeqCst);
        assert_eq!(sender.join().expect("no panic").status, 200);
    });
    assert!(is_copy(&second.send(&own("a"))));
    assert_eq!((backend.requests().len(), lost(&[first])), (1, 0.0));
}

#[test]
fn sentinels_name_the_next_master() {
    let master = Redis::start();
    let port = master.address.port().to_string();
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    let [sentinel] = free_addresses();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sentinel.conf");
    let text = format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 3000\n"
    );
    std::fs::write(&file, text).expect("a file");
    let sentinel = Redis::at(sentinel, &[file.to_str().expect("a path"), "--sentinel"]);
    let ready = || {
        let info = replica.ask(&["INFO", "replication"]);
        info.contains("master_link_status:up") && sentinel.ask(&["INFO", "sentinel"]).contains("slaves=1")
    };
    assert!(within(PATIENCE, ready));

    let backend = Backend::ok();
    let config = redis_at(&format!("redis-sentinel://{}/main", sentinel.address), "") + &routes("");
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::start(backend.address, &config)).collect();
    for (n, proxy) in proxies.iter().enumerate() {
        assert_eq!(proxy.send(&own(&format!("before-{n}"))).status, 200, "{}", proxy.log());
    }
    // The replica has all of it.
    assert!(within(PATIENCE, || {
        replica.ask(&["KEYS", "hookmoat:*"]).lines().filter(|key| !key.contains("probe")).count() == 2
    }));
    let mut master = master;
    master.kill();
    for (n, proxy) in proxies.iter().enumerate() {
        until_taken(&mut None, proxy.http, &own(&format!("after-{n}")));
    }
    for (n, proxy) in proxies.iter().rev().enumerate() {
        assert!(is_copy(&proxy.send(&own(&format!("before-{n}")))));
        assert!(is_copy(&proxy.send(&own(&format!("after-{n}")))));
    }
    assert_eq!(backend.requests().len(), 4);
}

#[test]
fn a_cluster_holds_the_events_of_several_processes() {
    let nodes: Vec<Redis> = (0..3)
        .map(|_| {
            let [bus] = free_addresses();
            let bus = bus.port().to_string();
            Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &bus, "--cluster-node-timeout", "2000"])
        })
        .collect();
    for (node, (from, to)) in nodes.iter().zip([("0", "5460"), ("5461", "10922"), ("10923", "16383")]) {
        assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", from, to]), "+OK");
    }
    for node in &nodes[1..] {
        let bus = node.ask(&["CONFIG", "GET", "cluster-port"]);
        let bus = bus.lines().nth(1).expect("a port").to_owned();
        let port = node.address.port().to_string();
        assert_eq!(nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]), "+OK");
    }
    let formed = || nodes.iter().all(|node| node.ask(&["CLUSTER", "INFO"]).contains("cluster_state:ok"));
    assert!(within(PATIENCE, formed), "{}", nodes[0].ask(&["CLUSTER", "INFO"]));

    let tally = std::sync::Arc::new(Tally::default());
    let counting = tally.clone();
    let backend = Backend::with(move |request, _| {
        counting.count(request);
        Reply::Status(200, "ok")
    });
    let urls: Vec<String> = nodes[..2].iter().map(|node| node.address.to_string()).collect();
    let config = redis_at(&format!("redis-cluster://{}", urls.join(",")), ", timeout: 2s")
        + &routes("rate_limit: [{ requests: 100000, every: 1s }, { per: route, requests: 100000, every: 1s }]");
    let proxies: Vec<Proxy> = (0..2).map(|_| Proxy::start(backend.address, &config)).collect();
    to_all_at_once(&proxies, 120, |n| if n % 2 == 0 { github(&n.to_string()) } else { own(&n.to_string()) });
    tally.is_once_for_each(120);
    assert_eq!(lost(&proxies), 0.0);
    // Events with one key are spread; those of the other route, which have two, are together.
    let held = |node: &Redis, what: &str| {
        node.ask(&["KEYS", "hookmoat:*"]).lines().filter(|key| key.starts_with("hookmoat:{") == (what == "{")).count()
    };
    assert!(
        nodes.iter().all(|node| held(node, "") > 5),
        "{:?}",
        nodes.iter().map(|node| held(node, "")).collect::<Vec<_>>()
    );
    let together: Vec<usize> = nodes.iter().map(|node| held(node, "{")).filter(|count| *count > 0).collect();
    assert_eq!(together, [120]);
}

#[test]
fn a_server_that_may_throw_events_away_is_refused_unless_that_is_accepted() {
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "volatile-lru"]);
    let backend = Backend::ok();
    let started = std::panic::catch_unwind(|| {
        Proxy::start(backend.address, &(redis_at(&redis.url(), "") + &routes("")));
    });
    let said = started.expect_err("no start").downcast::<String>().expect("a message");
    assert!(said.contains("maxmemory-policy volatile-lru") && said.contains("evicting: warn"), "{said}");
    let proxy = Proxy::start(backend.address, &(redis_at(&redis.url(), ", evicting: warn") + &routes("")));
    assert_eq!(proxy.send(&own("a")).status, 200);
    assert_eq!(proxy.metric("hookmoat_state_evicting"), 1.0);
    assert!(proxy.log().contains("may throw keys away"));
}

#[test]
fn a_user_with_a_password_and_only_these_commands_is_enough_over_tls_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, key);
    let own_key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).expect("parameters").signed_by(&own_key, &issuer).expect("signed");
    for (name, text) in [("ca.pem", ca.pem()), ("crt.pem", leaf.pem()), ("key.pem", own_key.serialize_pem())] {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let path = |name: &str| folder.path().join(name).to_str().expect("text").to_owned();
    let [secure] = free_addresses();
    let redis = Redis::with(&[
        "--tls-port",
        &secure.port().to_string(),
        "--tls-auth-clients",
        "no",
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-cert-file",
        &path("crt.pem"),
        "--tls-key-file",
        &path("key.pem"),
    ]);
    let allowed = "~hm:* +evalsha +eval +get +set +del +mget +time +info +hello +client +ping +select";
    let mut words = vec!["ACL", "SETUSER", "moat", "on", ">pass word"];
    words.extend(allowed.split(' '));
    assert_eq!(redis.ask(&words), "+OK");
    redis.ask(&["ACL", "SETUSER", "default", "off"]);
    let backend = Backend::ok();
    let routes = routes("rate_limit: { requests: 100, every: 1s }");
    for (url, more) in [
        (redis.url(), String::new()),
        (format!("rediss://localhost:{}", secure.port()), format!(", tls: {{ ca: \"{}\" }}", path("ca.pem"))),
    ] {
        let more = format!("{more}, username: moat, password: {{ env: REDIS_PASSWORD }}, prefix: hm");
        let config = redis_at(&url, &more) + &routes;
        let proxy = Proxy::start_with(backend.address, &config, &[("REDIS_PASSWORD", "pass word")]);
        until_taken(&mut None, proxy.http, &own("a"));
        assert!(is_copy(&proxy.send(&own("a"))), "{}", proxy.log());
        assert_eq!(proxy.metric("hookmoat_state_up"), 1.0);
        // With a wrong one nothing opens, and the password stands nowhere.
        let wrong = Proxy::start_with(backend.address, &config, &[("REDIS_PASSWORD", "wrong-pass")]);
        assert_eq!(wrong.send(&own("b")).status, 503);
        assert!(
            !wrong.log().contains("wrong-pass") && wrong.log().contains("redis cannot be reached"),
            "{}",
            wrong.log()
        );
    }
    // An authority that is not trusted.
    let url = format!("rediss://localhost:{}", secure.port());
    let config = redis_at(&url, ", username: moat, password: { env: REDIS_PASSWORD }, prefix: hm") + &routes;
    let proxy = Proxy::start_with(backend.address, &config, &[("REDIS_PASSWORD", "pass word")]);
    assert_eq!(proxy.send(&own("c")).status, 503);
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn three_processes_keep_one_rate() {
    let redis = Redis::start();
    let backend = Backend::ok();
    let keys = scaled(8, 100);
    let (rate, burst, seconds) = (4.0, 10.0, scaled(5, 60) as u64);
    let config = redis_at(&redis.url(), ", timeout: 5s")
        + "log: { requests: off }\nroutes:\n  - { name: open, path: /open, signature: none, to: app, rate_limit: { per: { header: X-Key }, requests: 4, every: 1s, burst: 10 } }\n";
    let proxies = three(&backend, &config);
    let until = Instant::now() + Duration::from_secs(seconds);
    let accepted: Vec<(usize, usize, f64)> = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..keys)
            .map(|key| {
                let proxies = &proxies;
                scope.spawn(move || {
                    let key = format!("key-{key}");
                    let bytes = post("/open", &[("X-Key", &key)], b"{}");
                    let begun = Instant::now();
                    let (mut count, mut last) = (0, begun);
                    // What a bucket would give that hears of each request when it is sent.
                    let (mut ideal, mut tokens, mut filled) = (0, burst, begun);
                    while Instant::now() < until {
                        // Five times what is allowed, by way of all three in turn.
                        for proxy in proxies {
                            let now = Instant::now();
                            tokens = (tokens + rate * now.duration_since(filled).as_secs_f64()).min(burst);
                            filled = now;
                            if tokens >= 1.0 {
                                (ideal, tokens) = (ideal + 1, tokens - 1.0);
                            }
                            let answer = proxy.send(&bytes);
                            match answer.status {
                                200 => count += 1,
                                429 => assert!(answer.header("retry-after").is_some()),
                                other => panic!("{other}"),
                            }
                            last = Instant::now();
                        }
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    (count, ideal, last.duration_since(begun).as_secs_f64())
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join().expect("no panic")).collect()
    });
    let (mut sum, mut expected) = (0.0, 0.0);
    for (count, ideal, time) in &accepted {
        // One more or less at either end, since nobody asks at the very moment.
        let right = burst + rate * time;
        assert!((*count as f64) <= right + 1.0, "{count} in {time} s");
        (sum, expected) = (sum + *count as f64, expected + *ideal as f64);
    }
    println!("accepted {sum} of {expected:.1} allowed, {:+.2} %", (sum / expected - 1.0) * 100.0);
    // Each may have come a little later than it was sent: about one request for each key, or one in a hundred.
    assert!(sum >= (expected * 0.99).min(expected - 2.0 * keys as f64), "{sum} of {expected}");
    assert_eq!(proxies.iter().map(|proxy| proxy.metric("hookmoat_state_degraded_total")).sum::<f64>(), 0.0);
    assert_eq!(ask(redis.address, &["PING"]), "+PONG");
}

fn in_file(more: &str) -> String {
    "state: { sqlite: { path: state.db } }\n".to_owned() + &routes(more)
}

#[test]
fn ids_in_a_file_survive_a_restart_and_a_kill() {
    let backend = Backend::with(|request, _| {
        Reply::Status(if request.header("hookmoat-event-id") == Some("failed") { 500 } else { 200 }, "x")
    });
    let mut proxy = Proxy::start(backend.address, &in_file(""));
    for id in ["a", "b"] {
        assert!(!is_copy(&proxy.send(&github(id))));
        assert!(is_copy(&proxy.send(&github(id))));
    }
    assert_eq!(proxy.send(&github("failed")).status, 500);
    for (signal, id) in [("KILL", "c"), ("TERM", "d")] {
        proxy.signal(signal);
        proxy.wait();
        proxy = proxy.again();
        for id in ["a", "b"] {
            assert!(is_copy(&proxy.send(&github(id))));
        }
        // Captured, under a fresh ID.
        let text =
            String::from_utf8(github("a")).expect("text").replace("X-GitHub-Delivery: a", "X-GitHub-Delivery: new");
        assert!(is_copy(&proxy.send(text.as_bytes())));
        assert_eq!(proxy.send(&github("failed")).status, 500);
        assert!(!is_copy(&proxy.send(&github(id))));
        assert!(is_copy(&proxy.send(&github(id))));
    }
    assert_eq!(proxy.metric("hookmoat_seen_ids"), 8.0);
    // A second process on the same file does not start.
    let second = crate::support::proxy::program()
        .args(["run", "--config"])
        .arg(proxy.config())
        .current_dir(proxy.path())
        .output()
        .expect("it runs");
    assert_ne!(second.status.code(), Some(0));
}

/// Kills at moments without a pattern, under load, with a backend that fails every third time.
#[test]
fn killed_at_any_moment_a_file_forgets_no_finished_id_and_keeps_no_failed_one() {
    let kills = scaled(4, 50);
    let successes = std::sync::Arc::new(Tally::default());
    let counting = successes.clone();
    let backend = Backend::with(move |request, count| {
        if count.wrapping_mul(2_654_435_761) >> 9 & 3 == 0 {
            return Reply::Status(500, "no");
        }
        counting.count(request);
        Reply::Status(200, "ok")
    });
    let mut proxy = Proxy::start(backend.address, &in_file("duplicates: { lease: 90s }"));
    let (mut told, mut failed): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    for kill in 0..kills {
        let next = AtomicUsize::new(0);
        let results: Vec<(String, Option<u16>)> = std::thread::scope(|scope| {
            let senders: Vec<_> = (0..8)
                .map(|_| {
                    let (proxy, next) = (&proxy, &next);
                    scope.spawn(move || {
                        let mut results = Vec::new();
                        while let Some(mut connection) = Connection::try_open(proxy.http) {
                            let id = format!("{kill}-{}", next.fetch_add(1, Ordering::SeqCst));
                            let status = connection.send(&github(&id)).try_answer().map(|answer| answer.status);
                            results.push((id, status));
                            if status.is_none() {
                                break;
                            }
                        }
                        results
                    })
                })
                .collect();
            // At some moment, when there is something to forget.
            assert!(within(PATIENCE, || next.load(Ordering::SeqCst) > 40), "{}", proxy.log());
            std::thread::sleep(Duration::from_millis(37 * (kill as u64 % 11)));
            proxy.signal("KILL");
            senders.into_iter().flat_map(|sender| sender.join().expect("no panic")).collect()
        });
        proxy.wait();
        proxy = proxy.again();
        for (id, status) in results {
            match status {
                Some(200) => told.push(id),
                Some(500) => failed.push(id),
                // Not answered: may have been delivered, but nobody was told.
                None => {}
                Some(other) => panic!("{other}: {}", proxy.log()),
            }
        }
    }
    assert!(told.len() > kills * 5 && failed.len() > kills, "{} told, {} failed", told.len(), failed.len());
    let mut connection = Connection::open(proxy.http);
    for id in &told {
        let answer = connection.send(&github(id)).answer();
        assert!(is_copy(&answer), "{id} was forgotten: {answer:?}");
    }
    let counts = successes.0.lock().expect("no panic").clone();
    assert!(told.iter().all(|id| counts.get(id) == Some(&1)));
    for id in &failed {
        let answer = connection.send(&github(id)).answer();
        assert!(!is_copy(&answer) && matches!(answer.status, 200 | 500), "{id} was kept: {answer:?}");
    }
}

#[test]
fn a_file_that_cannot_be_written_takes_no_new_events_and_recovers() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &in_file(""));
    assert_eq!(proxy.send(&own("a")).status, 200);
    // Somebody else holds the file's write lock: to the writer the disk is gone.
    let other = rusqlite::Connection::open(proxy.path().join("state.db")).expect("the file");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    // Delivered, but not durable: the sender hears the backend's answer, and it is counted.
    assert_eq!(proxy.send(&own("b")).status, 200);
    assert_eq!(proxy.metric("hookmoat_claims_lost_total"), 1.0);
    let refused = proxy.send(&own("c"));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert!(is_copy(&proxy.send(&own("a"))) && is_copy(&proxy.send(&own("b"))));
    assert_eq!(backend.requests().len(), 2);
    other.execute_batch("ROLLBACK").expect("no lock");
    until_taken(&mut None, proxy.http, &own("c"));
    assert_eq!(backend.requests().len(), 3);
}
