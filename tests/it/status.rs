//! The status page and its data. What a browser makes of the page is tried by `make test-k8s`.

use crate::support::{Answer, Connection, Moat, post, request, sign};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const SECRET: &str = "a-secret-of-some-length";

fn config() -> String {
    format!(
        "routes:\n  - {{ name: github, path: /webhooks/github, provider: github, to: app, \
         secrets: [{{ insecure_literal: {SECRET} }}] }}\n"
    )
}

fn event(id: &str, signature: Option<&str>) -> Vec<u8> {
    let own = sign::github(SECRET, b"{}");
    post("/webhooks/github", &[("X-Hub-Signature-256", signature.unwrap_or(&own)), ("X-GitHub-Delivery", id)], b"{}")
}

fn ask(moat: &Moat, path: &str, host: &str) -> Answer {
    Connection::open(moat.proxy.admin)
        .send(&request("GET", path, &[("Host", host), ("Connection", "close")], b""))
        .answer()
}

fn status(moat: &Moat, query: &str) -> Value {
    let answer = ask(moat, &format!("/status.json{query}"), "localhost:9901");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    serde_json::from_slice(&answer.body).expect("JSON")
}

/// Waits until so many requests were noted: that is done after the answer.
fn noted(moat: &Moat, count: u64) -> Value {
    let all = |seen: &Value| {
        seen["requests"].as_array().is_some_and(|list| list.first().is_some_and(|one| one["number"] == count))
    };
    moat.wait_until("noted", || all(&status(moat, "")));
    status(moat, "")
}

#[test]
fn decisions_are_shown_with_their_reason_the_newest_first() {
    let moat = Moat::new(&config());
    let forged = format!("sha256={:064}", 0);
    let sent = [
        (event("evt-1", None), 200),
        (event("evt-1", None), 200),
        (event("evt-2", Some(&forged)), 401),
        (post("/nowhere", &[], b""), 404),
    ];
    for (number, (bytes, status)) in (1..).zip(&sent) {
        assert_eq!(moat.proxy.send(bytes).status, *status);
        noted(&moat, number);
    }
    let seen = status(&moat, "");
    let requests = seen["requests"].as_array().expect("a list");
    let told = |key: &str| requests.iter().map(|one| one[key].clone()).collect::<Vec<_>>();
    assert_eq!(told("number"), [4, 3, 2, 1]);
    assert_eq!(told("outcome"), ["no_route", "signature_mismatch", "duplicate", "forwarded"]);
    assert_eq!(told("verdict"), ["refused", "refused", "dropped", "accepted"]);
    assert_eq!(told("status"), [404, 401, 200, 200]);
    assert_eq!(told("route"), [json!(null), json!("github"), json!("github"), json!("github")]);
    assert_eq!(told("event_id")[2..], [json!("evt-1"), json!("evt-1")]);
    assert!(requests.iter().all(|one| one["client"] == "127.0.0.1" || one["route"].is_null()), "{requests:?}");
    let detail = requests[1]["detail"].as_str().expect("a detail");
    assert!(detail.contains("no signature matches") && !detail.contains(SECRET), "{detail}");
    // A reader that has the first three.
    let later = status(&moat, "?after=3");
    assert_eq!(later["requests"].as_array().map(Vec::len), Some(1));
    assert_eq!(status(&moat, "?after=4")["requests"], json!([]));

    let route = &seen["routes"][0];
    assert_eq!(
        (&route["name"], &route["provider"], &route["lacks"]),
        (&json!("github"), &json!("github"), &json!(null))
    );
    assert_eq!(route["verdicts"], json!({ "accepted": 1.0, "dropped": 1.0, "refused": 1.0, "failed": 0.0 }));
    assert_eq!(route["backend"], json!({ "2xx": 1.0 }));
    assert_eq!(seen["no_route"]["refused"], json!(1.0));
    assert_eq!((&seen["ready"], &seen["not_ready"]), (&json!(true), &json!(null)));
    assert_eq!(seen["upstreams"][0]["address"], json!(moat.backend.address.to_string()));
    assert_eq!(seen["certificates"][0]["listener"], json!(moat.proxy.https.to_string()));
    assert!(seen["certificates"][0]["not_after"].as_f64() > seen["now"].as_f64().map(|now| now / 1000.0));
}

#[test]
fn the_history_is_as_long_as_it_was_made_and_may_be_none() {
    assert_eq!(status(&Moat::new(&config()), "")["history"], 1000);
    for history in [3, 0] {
        let mut moat = Moat::new(&config());
        let (own, admin) = (moat.proxy.config(), moat.proxy.admin);
        let text = std::fs::read_to_string(&own).expect("a file");
        let long = format!("admin: {{ address: \"{admin}\", history: {history} }}\n");
        std::fs::write(&own, text.replace(&format!("admin: {admin}\n"), &long)).expect("a file");
        moat.proxy.kill_and_start();
        for id in 0..5 {
            assert_eq!(moat.proxy.send(&event(&format!("evt-{history}-{id}"), None)).status, 200);
        }
        match history {
            1.. => {
                let seen = noted(&moat, 5);
                let numbers =
                    seen["requests"].as_array().map(|list| list.iter().map(|one| one["number"].clone()).collect());
                assert_eq!(numbers, Some(vec![json!(5), json!(4), json!(3)]));
            }
            _ => {
                for path in ["/", "/status", "/status.json"] {
                    assert_eq!(ask(&moat, path, "localhost").status, 404, "{path}");
                }
                assert_eq!(ask(&moat, "/metrics", "localhost").status, 200);
            }
        }
    }
}

#[test]
fn the_page_lets_nothing_run_but_its_own_script() {
    let moat = Moat::new(&config());
    let answer = ask(&moat, "/status", "127.0.0.1:9901");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = answer.header("content-security-policy").expect("a policy");
    let text = answer.text();
    for tag in ["script", "style"] {
        let inside = text.split(&format!("<{tag}>")).nth(1).and_then(|rest| rest.split(&format!("</{tag}>")).next());
        let digest = Sha256::digest(inside.expect("one").as_bytes());
        let hash = base64::engine::general_purpose::STANDARD.encode(digest);
        assert!(policy.contains(&format!("{tag}-src 'sha256-{hash}';")), "{policy}");
    }
    assert!(policy.starts_with("default-src 'none';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(ask(&moat, "/", "localhost").header("location"), Some("/status"));
}

#[test]
fn a_name_of_the_web_that_leads_here_shows_nothing() {
    let moat = Moat::new(&config());
    for path in ["/status", "/status.json"] {
        for host in ["attacker.example", "attacker.example:9901", "localhost.attacker.example"] {
            assert_eq!(ask(&moat, path, host).status, 403, "{path} {host}");
        }
        for host in ["localhost:9901", "127.0.0.1", "[::1]:9901"] {
            assert_eq!(ask(&moat, path, host).status, 200, "{path} {host}");
        }
    }
    // It is only ever read.
    for method in ["POST", "PUT", "DELETE"] {
        let asked = request(method, "/status.json", &[("Host", "localhost"), ("Connection", "close")], b"");
        let answer = Connection::open(moat.proxy.admin).send(&asked).answer();
        assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    }
}
