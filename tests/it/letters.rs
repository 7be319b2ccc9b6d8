//! Dead letters are looked at, replayed and purged in every engine while the proxy runs, by its operator alone.

use crate::support::proxy::program;
use crate::support::{Backend, PATIENCE, Proxy, Rabbit, Reply, Sqs, post, request, sign, within};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const SECRET: &str = "a-secret-of-some-length";

fn event(id: &str) -> Vec<u8> {
    let body = format!("{{\"event\":\"{id}\"}}");
    let signature = sign::github(SECRET, body.as_bytes());
    let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id), ("X-GitHub-Event", "push")];
    post("/hook", &headers, body.as_bytes())
}

/// A proxy whose backend takes nothing for good until it is told to.
struct Desk {
    proxy: Proxy,
    backend: Backend,
    up: Arc<AtomicBool>,
}

impl Desk {
    fn new(queue: &str, env: &[(&str, &str)]) -> Self {
        let up = Arc::new(AtomicBool::new(false));
        let working = up.clone();
        let backend =
            Backend::with(move |_, _| Reply::Status(if working.load(Ordering::SeqCst) { 200 } else { 410 }, ""));
        let text = format!(
            "queues:\n  inbox: {queue}\nroutes:\n  - name: github\n    path: /hook\n    provider: github\n    \
             secrets: [{{ insecure_literal: {SECRET} }}]\n    deliver: {{ queue: inbox, to: app }}\n"
        );
        let proxy = Proxy::start_with(backend.address, &text, env);
        proxy.wait_for_queues();
        Self { proxy, backend, up }
    }

    /// Two events that the backend refused.
    fn with_two_dead(queue: &str, env: &[(&str, &str)]) -> Self {
        let desk = Self::new(queue, env);
        for (count, id) in ["one", "two"].into_iter().enumerate() {
            let status = desk.proxy.send(&event(id)).status;
            assert_eq!(status, 200, "{}", desk.proxy.log());
            desk.eventually("given up", || desk.json(&["stats"])["dead"] == count + 1);
        }
        desk
    }

    #[track_caller]
    fn eventually(&self, case: &str, holds: impl FnMut() -> bool) {
        assert!(within(PATIENCE, holds), "{case}: never came true\n{}", self.proxy.log());
    }

    /// `hookmoat queue …`, asking the running process.
    fn queue(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let admin = format!("http://{}", self.proxy.admin);
        let run = program().arg("queue").args(arguments).args(["--admin", &admin]).output().expect("it runs");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (run.status.code(), text(&run.stdout), text(&run.stderr))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (_, out, err) = self.queue(&[arguments, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|_| panic!("no JSON: {out}{err}"))
    }

    fn asks(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let headers = [headers, &[("Connection", "close")]].concat();
        let request = request(method, path, &headers, body.as_bytes());
        let answer = crate::support::Connection::open(self.proxy.admin).send(&request).answer();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// The whole of an operator's day, the same for every engine.
    fn day(&self, engine: &str) {
        let stats = self.json(&["stats"]);
        assert_eq!((&stats["engine"], &stats["dead"]), (&json!(engine), &json!(2)), "{stats}");
        let cannot = stats["cannot"].to_string();
        assert!(cannot.contains("delivered events are not kept"), "{stats}");
        let list = self.json(&["list", "--state", "dead", "--route", "github", "--type", "push", "--newer-than", "1h"]);
        assert_eq!(list.as_array().map(Vec::len), Some(2), "{list}");
        assert_eq!((&list[0]["event_id"], &list[1]["event_id"]), (&json!("one"), &json!("two")), "{list}");
        assert_eq!(
            (&list[0]["dead"], &list[0]["status"], &list[0]["attempts"]),
            (&json!("rejected"), &json!(410), &json!(1))
        );
        let uid = list[0]["uid"].as_str().expect("a UID");
        let page = self.json(&["list", "-n", "1", "--after", uid]);
        assert_eq!(page[0]["event_id"], "two", "{page}");
        let (code, shown, err) = self.queue(&["show", uid]);
        assert_eq!(code, Some(0), "{shown}{err}");
        for part in ["POST /hook", "x-github-event: push", "{\"event\":\"one\"}", "backend answered 410"] {
            assert!(shown.to_lowercase().contains(&part.to_lowercase()), "{part}: {shown}");
        }
        assert_eq!(self.queue(&["show", uid, "--body"]).1, "{\"event\":\"one\"}");
        assert_eq!(self.queue(&["show", &"0".repeat(32)]).0, Some(1));
        let (code, _, err) = self.queue(&["list", "--state", "ready"]);
        match engine {
            "sqlite" => assert_eq!(code, Some(1), "{err}"),
            _ => assert!(code == Some(2) && err.contains("dead letters alone"), "{err}"),
        }
        assert!(self.queue(&["list", "--state", "delivered"]).2.contains("not kept"));

        let (code, out, _) = self.queue(&["replay", "--route", "github", "--dry-run"]);
        assert_eq!((code, &*out), (Some(0), "2 would be replayed\n"));
        assert_eq!(self.queue(&["replay"]).0, Some(2), "everything has to be meant");
        assert_eq!(self.queue(&["replay", "--route", "other"]).0, Some(1));
        self.up.store(true, Ordering::SeqCst);
        let (code, out, err) = self.queue(&["replay", "--event-id", "one"]);
        assert_eq!((code, &*out), (Some(0), "1 replayed\n"), "{err}");
        // The memory of IDs knows it, and lets it pass.
        self.backend.wait_for(3);
        let replayed = self.backend.requests().pop().expect("one");
        assert_eq!(
            (replayed.header("hookmoat-event-id"), replayed.header("hookmoat-attempt")),
            (Some("one"), Some("1"))
        );
        assert_eq!(replayed.body, b"{\"event\":\"one\"}");
        assert_eq!(replayed.header("x-hub-signature-256"), Some(&*sign::github(SECRET, &replayed.body)));
        assert_eq!(self.proxy.send(&event("one")).header("hookmoat-duplicate"), Some("true"));
        self.eventually("only the other one is dead", || {
            let left = self.json(&["list", "--state", "dead"]);
            left.as_array().map(Vec::len) == Some(1) && left[0]["event_id"] == "two"
        });
        let (code, out, err) = self.queue(&["purge", "--state", "dead", "--older-than", "0s", "--json"]);
        assert_eq!(
            (code, serde_json::from_str::<Value>(&out).ok()),
            (Some(0), Some(json!({ "events": 1, "done": "purged" }))),
            "{err}"
        );
        self.eventually("none is dead", || self.json(&["stats"])["dead"] == 0);
        assert_eq!(self.backend.requests().len(), 3, "what was purged was not delivered");
    }
}

#[test]
fn of_a_queue_in_sqlite() {
    Desk::with_two_dead("{ sqlite: { path: data/inbox.db, min_free: 1MiB } }", &[]).day("sqlite");
}

#[test]
fn of_a_queue_at_rabbitmq() {
    let broker = Rabbit::shared().address;
    let queue = format!(
        "{{ rabbitmq: {{ url: \"amqp://{broker}\", username: guest, password: {{ env: P }}, queue: letters.{} }} }}",
        std::process::id()
    );
    let desk = Desk::with_two_dead(&queue, &[("P", "guest")]);
    // Without --admin the configuration says whom to ask.
    let run =
        program().args(["queue", "stats", "--json", "--config"]).arg(desk.proxy.config()).output().expect("it runs");
    let stats: Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!((&stats["name"], &stats["dead"]), (&json!("inbox"), &json!(2)), "{stats}");
    desk.day("rabbitmq");
}

#[test]
fn of_a_queue_in_sqs() {
    Desk::with_two_dead(&Sqs::shared().queue("letters", ""), &[]).day("sqs");
}

#[test]
fn by_nobody_but_the_operator() {
    let desk = Desk::with_two_dead("{ sqlite: { path: data/inbox.db, min_free: 1MiB } }", &[]);
    let json_type = ("Content-Type", "application/json");
    let all = "{\"all\":true}";
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16);
    let cases: &[Case<'_>] = &[
        ("a form of a page", "POST", &[("Content-Type", "text/plain")], all, 403),
        ("no type", "POST", &[], all, 403),
        ("a page's script", "POST", &[json_type, ("Origin", "http://evil.example")], all, 403),
        ("a page of this machine", "POST", &[json_type, ("Sec-Fetch-Site", "same-site")], all, 403),
        ("a name that leads here", "POST", &[json_type, ("Host", "evil.example")], all, 403),
        ("a link", "GET", &[], "", 405),
        ("another method", "PUT", &[json_type], all, 405),
        ("no filter", "POST", &[json_type], "{}", 400),
        ("a filter that is unknown", "POST", &[json_type], "{\"filter\":{\"rout\":\"x\"}}", 400),
        ("no JSON", "POST", &[json_type], "all", 400),
    ];
    for (case, method, headers, body, expected) in cases {
        for path in ["/queues/inbox/purge", "/queues/inbox/replay"] {
            let (status, told) = desk.asks(method, path, headers, body);
            assert_eq!(status, *expected, "{case}: {told}");
            assert!(told["error"].is_string(), "{case}: {told}");
        }
    }
    for (case, headers) in [("a page", ("Origin", "null")), ("a name", ("Host", "evil.example:80"))] {
        let (status, told) = desk.asks("GET", "/queues/inbox/events", &[headers], "");
        assert_eq!(status, 403, "{case}: {told}");
        assert!(!told.to_string().contains("push"), "{case}: {told}");
    }
    let (status, told) = desk.asks("GET", "/queues", &[], "");
    assert_eq!((status, &told["queues"][0]["dead"]), (200, &json!(2)), "{told}");
    for path in ["/queues/none", "/queues/inbox/jobs/1", "/queues/inbox/else", "/queuesque"] {
        assert_eq!(desk.asks("GET", path, &[], "").0, 404, "{path}");
    }
    assert_eq!(desk.asks("GET", "/queues/inbox/events?state=odd", &[], "").0, 400);
    assert_eq!(desk.backend.requests().len(), 2, "nothing was replayed");
}
