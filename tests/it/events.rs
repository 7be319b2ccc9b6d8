//! Types of events: what a route does not want is acknowledged and dropped, and types go to different backends.

use crate::support::{Backend, Moat, PATIENCE, Proxy, request, sign, within};

const SECRET: &str = "It's a Secret to Everybody";

fn push(path: &str, kind: Option<&str>, body: &str) -> Vec<u8> {
    let signature = sign::github(SECRET, body.as_bytes());
    let mut headers = vec![("X-Hub-Signature-256", &*signature), ("Content-Type", "application/json")];
    headers.extend(kind.map(|kind| ("X-GitHub-Event", kind)));
    request("POST", path, &headers, body.as_bytes())
}

#[test]
fn what_is_not_wanted_is_acknowledged_and_goes_no_further() {
    let config = "routes:
  - name: github
    path: /github
    provider: github
    secrets: [{ insecure_literal: \"It's a Secret to Everybody\" }]
    events: [push, \"pull_request*\"]
    to: app
";
    let moat = Moat::new(config);
    for (at, (kind, wanted)) in [
        (Some("push"), true),
        (Some("pull_request"), true),
        (Some("pull_request_review"), true),
        (Some("issues"), false),
        (Some("PUSH"), false),
        (None, false),
    ]
    .into_iter()
    .enumerate()
    {
        let before = moat.backend.requests().len();
        let answer = moat.proxy.send(&push("/github", kind, &format!("{{\"n\":{at}}}")));
        assert_eq!(answer.status, 200, "{kind:?}");
        assert_eq!(moat.backend.requests().len() - before, usize::from(wanted), "{kind:?}");
        if wanted {
            assert_eq!(moat.backend.requests()[before].header("hookmoat-event-type"), kind);
        } else {
            assert_eq!(answer.text(), "");
        }
    }
    moat.wait_until("counted", || moat.count("github", "ignored") == 3.0 && moat.count("github", "forwarded") == 3.0);
    let series = |event: &str| format!("hookmoat_events_total{{event=\"{event}\",route=\"github\"}}");
    assert_eq!(moat.proxy.metric(&series("push")), 1.0);
    assert_eq!(moat.proxy.metric(&series("pull_request*")), 2.0);
    // What a sender calls its types never becomes a label.
    assert!(!moat.proxy.admin("/metrics").text().contains("issues"));
    let told = |event: serde_json::Value| event["event_type"] == "issues" && event["level"] == "INFO";
    moat.wait_until("told", || moat.proxy.events().into_iter().any(told));
    // A forger learns nothing of what is wanted.
    let forged = request("POST", "/github", &[("X-Hub-Signature-256", "sha256=00"), ("X-GitHub-Event", "issues")], b"");
    assert_eq!(moat.proxy.send(&forged).status, 401);
}

#[test]
fn a_type_that_could_be_read_in_two_ways_is_refused_where_it_matters() {
    let config = "routes:
  - name: types
    path: /types
    provider: stripe
    secrets: [{ insecure_literal: \"It's a Secret to Everybody\" }]
    observe: [signature]
    events: [\"payment.*\"]
    to: app
";
    let moat = Moat::new(config);
    let body = br#"{"id":"evt_1","type":"payment.x","type":"charge.x"}"#;
    let answer = moat.proxy.send(&request("POST", "/types", &[], body));
    assert_eq!(answer.status, 400);
    moat.wait_until("counted", || moat.count("types", "event_type_invalid") == 1.0);
    assert_eq!(moat.backend.connections(), 0);
}

#[test]
fn types_go_to_different_backends() {
    let (one, other) = (Backend::ok(), Backend::ok());
    let config = format!(
        "upstreams:
  one: http://{}
  other: http://{}
routes:
  - name: github
    path: /github
    provider: github
    secrets: [{{ insecure_literal: \"It's a Secret to Everybody\" }}]
    to:
      - {{ events: [push], upstream: one, path: /pushed }}
      - {{ upstream: other }}
  - name: closed
    path: /closed
    provider: github
    secrets: [{{ insecure_literal: \"It's a Secret to Everybody\" }}]
    to:
      - {{ events: [push], upstream: one }}
      - {{ events: [\"pull_*\"], upstream: other }}
",
        one.address, other.address
    );
    let proxy = Proxy::start(one.address, &config);
    for (path, kind, body, at_one, at_other) in [
        ("/github", Some("push"), "1", 1, 0),
        ("/github", Some("issues"), "2", 1, 1),
        ("/github", None, "3", 1, 2),
        ("/closed", Some("push"), "4", 2, 2),
        ("/closed", Some("pull_request"), "5", 2, 3),
        ("/closed", Some("issues"), "6", 2, 3),
        ("/closed", None, "7", 2, 3),
    ] {
        assert_eq!(proxy.send(&push(path, kind, body)).status, 200, "{path} {kind:?}");
        assert_eq!((one.requests().len(), other.requests().len()), (at_one, at_other), "{path} {kind:?}");
    }
    assert_eq!(one.requests()[0].target, "/pushed");
    let ignored = "hookmoat_requests_total{outcome=\"ignored\",route=\"closed\"}";
    assert!(within(PATIENCE, || proxy.metric(ignored) == 2.0));
}

#[test]
fn senders_hear_it_in_their_own_words() {
    let config = "routes:
  - name: slack
    path: /slack
    provider: slack
    secrets: [{ insecure_literal: 8f742231b10e8888abcd99yyyzzz85a5 }]
    observe: [signature]
    max_body: 100B
    to: app
  - name: github
    path: /github
    provider: github
    secrets: [{ insecure_literal: \"It's a Secret to Everybody\" }]
    events: [push]
    max_body: 100B
    answers: { accepted: 202 }
    to: app
";
    let moat = Moat::new(config);
    // Too large now, too large the next time.
    let answer = moat.proxy.send(&request("POST", "/slack", &[], &[b'x'; 101]));
    assert_eq!((answer.status, answer.header("x-slack-no-retry")), (413, Some("1")));
    let answer = moat.proxy.send(&request("POST", "/github", &[], &[b'x'; 101]));
    assert_eq!((answer.status, answer.header("x-slack-no-retry")), (413, None));
    assert_eq!(moat.proxy.send(&push("/github", Some("issues"), "{}")).status, 202);
}

#[test]
fn salesforce_gets_its_soap_answer_for_what_the_backend_does_not_see() {
    let config = "routes:
  - name: salesforce
    path: /salesforce
    provider: salesforce
    secrets: [{ insecure_literal: 00D000000000062EAA }]
    allow: [127.0.0.0/8]
    events: [Lead]
    to: app
";
    let moat = Moat::new(config);
    let message = |kind: &str, ids: &[&str]| {
        let notification = |id: &&str| {
            format!(
                "<Notification><Id>{id}</Id><sObject xsi:type=\"sf:{kind}\"><sf:Id>1</sf:Id></sObject></Notification>"
            )
        };
        let all: String = ids.iter().map(notification).collect();
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><e:Envelope><e:Body><notifications><OrganizationId>00D000000000062EAA\
             </OrganizationId>{all}</notifications></e:Body></e:Envelope>"
        )
    };
    let send = |body: &str| {
        let headers = [("Content-Type", "text/xml; charset=utf-8"), ("SOAPAction", "\"\"")];
        moat.proxy.send(&request("POST", "/salesforce", &headers, body.as_bytes()))
    };
    assert_eq!(send(&message("Lead", &["04l1", "04l2"])).text(), "ok");
    let got = &moat.backend.requests()[0];
    assert_eq!(got.header("hookmoat-event-id"), Some("04l1,04l2"));
    assert_eq!(got.header("hookmoat-event-type"), Some("Lead"));
    // Again, and of a type that nobody wants: both are acknowledged in SOAP.
    for (body, duplicate) in [(message("Lead", &["04l1", "04l2"]), true), (message("Account", &["04l3"]), false)] {
        let answer = send(&body);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/xml")), "{answer:?}");
        assert!(answer.text().contains("<Ack>true</Ack>"), "{}", answer.text());
        assert_eq!(answer.header("hookmoat-duplicate").is_some(), duplicate);
    }
    // A batch with one that is new is a new one.
    assert_eq!(send(&message("Lead", &["04l1", "04l4"])).text(), "ok");
    assert_eq!(moat.backend.requests().len(), 2);
    assert_eq!(send(&message("Lead", &["04l5"]).replace("062EAA", "063EAA")).status, 401);
}
