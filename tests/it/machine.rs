//! What a machine does to a process: the clock jumps, the disk does not keep what it was given.

use super::support::ill::Ill;
use super::support::{Answer, Backend, Moat, Proxy, post, sign};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const KEY: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const SECRET: &str = "a-secret-of-some-length";
const DAY: i64 = 24 * 60 * 60;

fn ill_moat(ill: &Ill, config: &str) -> Moat {
    let backend = Backend::ok();
    let proxy = Proxy::start_with(backend.address, config, &ill.env());
    Moat { backend, proxy }
}

/// A request of Standard Webhooks, signed by a sender whose clock is so many seconds ahead of the true time.
fn stamped(path: &str, id: &str, ahead: i64) -> Vec<u8> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs().cast_signed() + ahead;
    let (now, body) = (now.to_string(), format!("{{\"n\":\"{id}\"}}"));
    let signature = sign::standard(KEY, format!("{id}.{now}.{body}").as_bytes());
    let headers = [("webhook-id", id), ("webhook-timestamp", &now), ("webhook-signature", &signature)];
    post(path, &headers, body.as_bytes())
}

/// Status and: was it answered as a copy?
fn told(answer: &Answer) -> (u16, bool) {
    (answer.status, answer.header("hookmoat-duplicate").is_some())
}

#[test]
fn a_wall_clock_that_jumps_forgets_no_event_and_lends_no_requests() {
    let ill = Ill::new();
    let route = |name: &str, more: &str| {
        format!(
            "  - name: {name}\n    path: /{name}\n    provider: standard-webhooks\n    to: app\n    \
             secrets: [{{ insecure_literal: {KEY} }}]\n{more}"
        )
    };
    let limited = route("limited", "    rate_limit: { requests: 2, every: 1h }\n");
    let moat = ill_moat(&ill, &format!("routes:\n{}{limited}", route("hook", "")));
    let send = |path: &str, id: &str, ahead: i64| told(&moat.proxy.send(&stamped(path, id, ahead)));
    assert_eq!(send("/hook", "a", 0), (200, false));
    assert_eq!((send("/limited", "r1", 0), send("/limited", "r2", 0)), ((200, false), (200, false)));
    assert_eq!(send("/limited", "r3", 0).0, 429);
    // Further than any ID is kept, there and back; the second one is behind the start of the process.
    for (n, jump) in [30 * DAY, -30 * DAY, 0].into_iter().enumerate() {
        ill.clock(jump);
        let new = format!("new-{n}");
        assert_eq!(send("/hook", "a", jump), (200, true), "{jump}: remembered");
        assert_eq!(send("/hook", &new, jump), (200, false), "{jump}: the clock that it has now counts");
        assert_eq!(send("/hook", &new, jump + 2 * DAY).0, 401, "{jump}: from the future");
        assert_eq!(send("/hook", &new, jump - 2 * DAY).0, 401, "{jump}: too old");
        assert_eq!(send("/limited", &new, jump).0, 429, "{jump}: not a request more");
        assert_eq!(moat.proxy.admin("/readyz").status, 200, "{jump}");
    }
    assert_eq!(moat.backend.requests().len(), 6);
}

fn github(id: &str) -> Vec<u8> {
    let body = format!("{{\"n\":\"{id}\"}}");
    let signature = sign::github(SECRET, body.as_bytes());
    post("/hook", &[("X-Hub-Signature-256", &signature), ("X-GitHub-Delivery", id)], body.as_bytes())
}

fn github_route(more: &str) -> String {
    format!(
        "routes:\n  - name: github\n    path: /hook\n    provider: github\n    to: app\n    \
         secrets: [{{ insecure_literal: {SECRET} }}]\n{more}"
    )
}

#[test]
fn a_disk_that_makes_nothing_durable_acknowledges_nothing_and_recovers_by_itself() {
    let ill = Ill::new();
    let queue = "queues:\n  inbox: { sqlite: { path: data/inbox.db, min_free: 1MiB } }\n";
    let deliver = "deliver: { queue: inbox, to: app, retry: { first: 20ms, longest: 100ms, max_attempts: 50 } }";
    let mut moat = ill_moat(&ill, &(queue.to_owned() + &github_route("").replace("to: app", deliver)));
    assert_eq!(told(&moat.proxy.send(&github("before"))), (200, false));
    moat.backend.wait_for(1);
    ill.sync_fails(true);
    for n in 0..5 {
        let answer = moat.proxy.send(&github(&format!("during-{n}")));
        assert_eq!(answer.status, 503, "{answer:?}\n{}", moat.proxy.log());
        assert!(answer.header("retry-after").is_some());
    }
    moat.wait_until("counted", || moat.count("github", "queue_unavailable") == 5.0);
    // What the queue does by itself every five seconds changes nothing, and proves nothing about the disk.
    std::thread::sleep(Duration::from_secs(6));
    assert!(!moat.proxy.log().contains("can be written again"), "{}", moat.proxy.log());
    ill.sync_fails(false);
    // The sender tries again, as it was asked to.
    let taken = |id: &str| moat.proxy.send(&github(id)).status == 200;
    for n in 0..5 {
        moat.wait_until("taken again", || taken(&format!("during-{n}")));
    }
    moat.wait_until("delivered", || moat.backend.requests().len() >= 6);
    // What was acknowledged after the failure is on the disk: the process is killed right after the answer.
    assert_eq!(moat.proxy.send(&github("after")).status, 200);
    moat.proxy.kill_and_start();
    moat.wait_until("delivered after the kill", || {
        moat.backend.requests().iter().any(|request| request.header("hookmoat-event-id") == Some("after"))
    });
}

#[test]
fn while_ids_cannot_be_made_durable_no_new_event_goes_through() {
    let ill = Ill::new();
    let moat = ill_moat(&ill, &("state: { sqlite: { path: state.db } }\n".to_owned() + &github_route("")));
    assert_eq!(told(&moat.proxy.send(&github("before"))), (200, false));
    ill.sync_fails(true);
    // The first one finds out, when the backend has it already: its answer goes to the sender, and this process remembers.
    assert_eq!(told(&moat.proxy.send(&github("first"))), (200, false));
    assert_eq!(told(&moat.proxy.send(&github("first"))), (200, true));
    moat.wait_until("counted", || moat.proxy.metric("hookmoat_claims_lost_total") == 1.0);
    for _ in 0..3 {
        assert_eq!(moat.proxy.send(&github("during")).status, 503);
    }
    ill.sync_fails(false);
    moat.wait_until("taken again", || moat.proxy.send(&github("during")).status == 200);
    assert_eq!(told(&moat.proxy.send(&github("before"))), (200, true), "it is still remembered");
    assert_eq!(told(&moat.proxy.send(&github("during"))), (200, true));
    assert_eq!(moat.backend.requests().len(), 3);
}
