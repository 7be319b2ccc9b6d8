//! The promise of the queue under the worst that can happen to a process: killed without a word, again and again, while
//! senders send and the backend fails.
//!
//! Short here; `make soak` runs the long form: 10,000 events and 2,000 copies through fifty kills.

use crate::support::{Backend, Connection, Proxy, Reply, post, sign, within};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const SECRET: &str = "a-secret-of-some-length";

/// As many attempts as the backend is given at once.
const CONCURRENCY: usize = 8;
/// What a process sent before it was killed is read this much later at most.
const STRAGGLER: Duration = Duration::from_secs(2);

/// The same on every run with the same seed.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn event(id: usize) -> Vec<u8> {
    let body = format!("{{\"event\":{id}}}");
    let signature = sign::github(SECRET, body.as_bytes());
    let headers =
        [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", &*format!("e{id}")), ("Connection", "close")];
    post("/hook", &headers, body.as_bytes())
}

#[test]
fn no_acknowledged_event_is_lost_however_often_the_process_is_killed() {
    let long = std::env::var_os("HOOKMOAT_SOAK").is_some();
    let (events, kills) = if long { (10_000, 50) } else { (400, 5) };
    // What the backend took, when, and as which attempt; and whether it is away.
    let taken: Arc<Mutex<HashMap<String, Vec<Took>>>> = Arc::default();
    let away = Arc::new(AtomicBool::new(false));
    let backend = Backend::with({
        let (taken, away) = (taken.clone(), away.clone());
        move |request, count| {
            if away.load(Ordering::SeqCst) {
                return Reply::Close;
            }
            if count % 5 == 4 {
                return Reply::Status(500, "");
            }
            let id = request.header("hookmoat-event-id").unwrap_or_default().to_owned();
            let attempt = request.header("hookmoat-attempt").unwrap_or_default().to_owned();
            let took = Took { at: Instant::now(), attempt };
            taken.lock().expect("no panic under the lock").entry(id).or_default().push(took);
            Reply::Status(200, "")
        }
    });
    let config = format!(
        "upstreams:\n  app: {{ url: \"http://{{backend}}\", concurrency: 8 }}\n\
         state: {{ sqlite: {{ path: data/inbox.db }} }}\n\
         queues:\n  inbox: {{ sqlite: {{ path: data/inbox.db, min_free: 1MiB }} }}\nroutes:\n  - name: github\n    \
         path: /hook\n    provider: github\n    secrets: [{{ insecure_literal: {SECRET} }}]\n    deliver: {{ queue: \
         inbox, to: app, retry: {{ first: 20ms, longest: 500ms, max_attempts: 100000 }} }}\nlog: {{ format: json, \
         requests: all }}\n"
    );
    let mut proxy = Proxy::start(backend.address, &config);
    let address = proxy.http;
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let sending = AtomicUsize::new(4);
    let begun = Instant::now();
    let mut moments = Vec::new();
    std::thread::scope(|scope| {
        for sender in 0..4u64 {
            let (next, acknowledged, sending) = (&next, &acknowledged, &sending);
            scope.spawn(move || {
                let mut chance = Chance(sender);
                loop {
                    let id = next.fetch_add(1, Ordering::SeqCst);
                    if id >= events {
                        break;
                    }
                    // A fifth of them comes once more, as senders do that lost the answer.
                    let copies = 1 + usize::from(chance.below(5) == 0);
                    for _ in 0..copies {
                        until_acknowledged(address, &event(id), begun);
                        acknowledged.lock().expect("no panic under the lock").insert(format!("e{id}"));
                    }
                }
                sending.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut chance = Chance(42);
        for kill in 0..kills {
            std::thread::sleep(Duration::from_millis(50 + chance.below(if long { 900 } else { 250 })));
            away.store(kill % 3 == 1, Ordering::SeqCst);
            // Every start opens what the kill left.
            moments.push(Instant::now());
            proxy.kill_and_start();
        }
        away.store(false, Ordering::SeqCst);
    });
    assert_eq!(sending.load(Ordering::SeqCst), 0);
    let acknowledged = acknowledged.into_inner().expect("no panic under the lock");
    assert_eq!(acknowledged.len(), events);
    let patience = Duration::from_secs(if long { 600 } else { 60 });
    let missing = || {
        let taken = taken.lock().expect("no panic under the lock");
        acknowledged.iter().filter(|id| !taken.contains_key(*id)).count()
    };
    assert!(within(patience, || missing() == 0), "{} acknowledged events never came\n{}", missing(), proxy.log());
    let left = |state: &str| proxy.metric(&format!("hookmoat_queue_events{{queue=\"inbox\",state=\"{state}\"}}"));
    assert!(within(patience, || ["ready", "scheduled", "in_flight"].iter().all(|state| left(state) == 0.0)));
    assert_eq!(left("dead"), 0.0);
    let taken = taken.lock().expect("no panic under the lock");
    let repeats = explain(&taken, &moments, &proxy.log());
    println!(
        "{events} events, {kills} kills, {} delivered once more, each cut by a kill: {repeats:?}, {:?}",
        repeats.iter().sum::<usize>(),
        begun.elapsed()
    );
}

/// An event that the backend took.
struct Took {
    at: Instant,
    attempt: String,
}

/// Every repetition has its kill: between the two deliveries, while nothing says yet that the first one was written down.
/// How many there are for each kill.
fn explain(taken: &HashMap<String, Vec<Took>>, kills: &[Instant], log: &str) -> Vec<usize> {
    // An attempt's end is told once it is durable.
    let told: HashSet<(String, u64)> = log
        .lines()
        .filter(|line| line.contains("\"outcome\":\"delivered\""))
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|line| Some((line["event_id"].as_str()?.to_owned(), line["attempt"].as_u64()?)))
        .collect();
    assert!(!log.contains("could not be written down"), "an end of an attempt was lost without a kill");
    assert!(!told.is_empty());
    let mut repeats = vec![0; kills.len()];
    for (id, took) in taken {
        for pair in took.windows(2) {
            let [first, second] = pair else { continue };
            let attempt = first.attempt.parse().expect("a number");
            assert!(!told.contains(&(id.clone(), attempt)), "{id}: attempt {attempt} was settled, and then repeated");
            assert_ne!(first.attempt, second.attempt, "{id}: the first attempt did not count");
            // The backend notes an event before it answers: the kill comes behind that, and before the next attempt.
            let between = |late: Duration| kills.iter().position(|kill| first.at <= *kill + late && *kill <= second.at);
            let kill = between(Duration::ZERO)
                .or_else(|| between(STRAGGLER))
                .unwrap_or_else(|| panic!("{id}: delivered twice, and no kill in between"));
            repeats[kill] += 1;
        }
    }
    // No more than were on their way at once.
    assert!(repeats.iter().sum::<usize>() <= kills.len() * CONCURRENCY, "{repeats:?}");
    repeats
}

fn until_acknowledged(address: std::net::SocketAddr, bytes: &[u8], begun: Instant) {
    loop {
        let answer = Connection::try_open(address).and_then(|mut connection| connection.send(bytes).try_answer());
        match answer {
            Some(answer) if answer.status == 200 => return,
            _ => assert!(begun.elapsed() < Duration::from_secs(900), "never acknowledged"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
