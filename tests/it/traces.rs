//! Traces: the sender's context goes to the backend, spans go to the collector, and no request waits for it. That a
//! collector can read the spans is tried by `make test-k8s`.

use crate::support::backend::Recorded;
use crate::support::{Backend, Connection, Moat, PATIENCE, Reply, post, request, sign, within};

const SECRET: &str = "a-secret-of-some-length";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn routes(top: &str) -> String {
    format!(
        "{top}\nqueues: {{ inbox: {{ sqlite: {{ path: data/inbox.db }} }} }}\nroutes:\n  - {{ name: direct, path: /direct, \
         provider: github, secrets: [{{ insecure_literal: {SECRET} }}], to: app }}\n  - {{ name: later, path: /later, \
         provider: github, secrets: [{{ insecure_literal: {SECRET} }}], deliver: {{ queue: inbox, to: app, retry: {{ \
         first: 50ms }} }} }}\n"
    )
}

fn tracing(collector: &Backend, more: &str) -> String {
    routes(&format!("tracing: {{ otlp: {{ url: \"http://{}\", timeout: 1s }}{more} }}", collector.address))
}

fn event(path: &str, id: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let body = format!("{{\"id\":\"{id}\"}}");
    let signature = sign::github(SECRET, body.as_bytes());
    let own = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id)];
    post(path, &own.iter().chain(headers).copied().collect::<Vec<_>>(), body.as_bytes())
}

/// Do the bytes hold this?
fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn span_of(request: &Recorded) -> String {
    let value = request.header("traceparent").expect("a traceparent");
    let parts: Vec<&str> = value.split('-').collect();
    assert_eq!((parts[0], parts[1].len(), parts[2].len(), parts[3]), ("00", 32, 16, "01"), "{value}");
    parts[2].to_string()
}

/// Everything that the collector got, once it holds all of this.
fn collected(moat: &Moat, collector: &Backend, parts: &[&[u8]]) -> Vec<u8> {
    let all = || collector.requests().iter().flat_map(|request| request.body.clone()).collect::<Vec<_>>();
    moat.wait_until("spans", || parts.iter().all(|part| holds(&all(), part)));
    all()
}

#[test]
fn without_export_a_context_goes_to_the_backend_as_it_came() {
    let moat = Moat::new(&routes(""));
    let odd = "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01, what";
    for (number, value) in [parent("01"), parent("00"), odd.to_string()].iter().enumerate() {
        let headers = [("traceparent", &**value), ("tracestate", "vendor=t61rcWkgMzE, other=1")];
        let got = moat.accepts("passed", &event("/direct", &number.to_string(), &headers));
        assert_eq!(got.header("traceparent"), Some(&**value));
        assert_eq!(got.header("tracestate"), Some("vendor=t61rcWkgMzE, other=1"));
    }
    let got = moat.accepts("none", &event("/direct", "none", &[]));
    assert_eq!((got.header("traceparent"), got.header("tracestate")), (None, None));
}

#[test]
fn a_trace_goes_from_the_sender_through_to_the_backend_and_to_the_collector() {
    let collector = Backend::ok();
    let moat = Moat::new(&tracing(
        &collector,
        ", service: front, attributes: { deployment.environment.name: { value: test } }",
    ));
    let headers = [("traceparent", &*parent("01")), ("tracestate", "vendor=x")];
    let got = moat.accepts("traced", &event("/direct", "evt-1", &headers));
    let span = span_of(&got);
    assert!(got.header("traceparent").expect("one").contains(TRACE) && span != SPAN);
    assert_eq!(got.header("tracestate"), Some("vendor=x"));
    let trace = hex::decode(TRACE).expect("hex");
    let names: [&[u8]; 9] = [
        b"POST direct",
        b"screen",
        b"body",
        b"verify",
        b"claim",
        b"forward",
        b"evt-1",
        b"front",
        b"deployment.environment.name",
    ];
    let spans = collected(&moat, &collector, &names);
    assert!(holds(&spans, &trace) && holds(&spans, &hex::decode(SPAN).expect("hex")));
    assert!(holds(&spans, &hex::decode(&span).expect("hex")), "the backend's parent is one of our spans");
    assert!(!holds(&spans, SECRET.as_bytes()));
    let asked = collector.requests();
    assert_eq!((asked[0].method.as_str(), asked[0].target.as_str()), ("POST", "/v1/traces"));
    assert_eq!(asked[0].header("content-type"), Some("application/x-protobuf"));
    assert_eq!(moat.proxy.wait_for_event("forwarded")["trace_id"], TRACE);
    moat.wait_until("counted", || moat.proxy.metric("hookmoat_spans_exported_total") == 6.0);
}

#[test]
fn a_scraper_that_asks_for_it_finds_traces_beside_the_buckets() {
    let collector = Backend::ok();
    let moat = Moat::new(&tracing(&collector, ""));
    moat.accepts("traced", &event("/direct", "evt-1", &[("traceparent", &parent("01"))]));
    let asked = |accept: &str| {
        let bytes = request("GET", "/metrics", &[("Accept", accept), ("Connection", "close")], b"");
        Connection::open(moat.proxy.admin).send(&bytes).answer()
    };
    let answer = asked("application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5");
    assert_eq!(answer.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    let text = answer.text();
    assert!(text.ends_with("\n# EOF\n"));
    for stage in ["body", "checks", "backend", "total"] {
        let bucket = format!("hookmoat_request_duration_seconds_bucket{{route=\"direct\",stage=\"{stage}\"");
        let found: Vec<&str> = text.lines().filter(|line| line.starts_with(&bucket) && line.contains(TRACE)).collect();
        assert_eq!(found.len(), 1, "{stage}: {text}");
    }
    // The older format says the same without them.
    let plain = asked("text/plain").text();
    let samples = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(!plain.contains(TRACE) && samples(&plain) == samples(&text));
}

#[test]
fn every_attempt_from_a_queue_is_a_span_of_the_same_trace() {
    let backend = Backend::with(|_, count| Reply::Status(if count == 0 { 500 } else { 200 }, "x"));
    let collector = Backend::ok();
    let moat = Moat::with_backend(backend, &tracing(&collector, ""));
    assert_eq!(moat.proxy.send(&event("/later", "evt-1", &[("traceparent", &parent("01"))])).status, 200);
    moat.backend.wait_for(2);
    let spans: Vec<String> = moat.backend.requests().iter().map(span_of).collect();
    assert_ne!(spans[0], spans[1]);
    for request in moat.backend.requests() {
        assert!(request.header("traceparent").expect("one").contains(TRACE));
        assert_eq!(request.count("traceparent"), 1);
    }
    let ids: Vec<Vec<u8>> = spans.iter().map(|span| hex::decode(span).expect("hex")).collect();
    collected(&moat, &collector, &[b"enqueue", b"attempt", &ids[0], &ids[1]]);
    let lines: Vec<String> =
        moat.proxy.log().lines().filter(|line| line.contains("hookmoat::delivery")).map(Into::into).collect();
    assert!(lines.len() >= 2 && lines.iter().all(|line| line.contains(TRACE)), "{lines:?}");
}

#[test]
fn only_a_known_sender_says_what_is_recorded() {
    let collector = Backend::ok();
    let moat = Moat::new(&tracing(&collector, ", sample: 1000000"));
    // Sampled, says somebody who cannot sign.
    let wrong = format!("sha256={:064}", 0);
    let headers = [("X-Hub-Signature-256", &*wrong), ("X-GitHub-Delivery", "a"), ("traceparent", &*parent("01"))];
    assert_eq!(moat.proxy.send(&post("/direct", &headers, b"{}")).status, 401);
    // Not sampled, says the sender: its context goes on as it came.
    let got = moat.accepts("not sampled", &event("/direct", "b", &[("traceparent", &parent("00"))]));
    assert_eq!(got.header("traceparent"), Some(&*parent("00")));
    let got = moat.accepts("sampled", &event("/direct", "c", &[("traceparent", &parent("01"))]));
    assert_ne!(span_of(&got), SPAN);
    let spans = collected(&moat, &collector, &[b"forward"]);
    assert!(!holds(&spans, b"signature_mismatch"));
    assert_eq!(moat.proxy.wait_for_event("signature_mismatch")["trace_id"], TRACE);
    moat.wait_until("counted", || moat.proxy.metric("hookmoat_spans_exported_total") == 6.0);
}

#[test]
fn a_collector_that_hangs_keeps_no_request_waiting() {
    let collector = Backend::with(|_, _| Reply::Hang);
    let moat = Moat::new(&tracing(&collector, ""));
    for id in 0..50 {
        moat.accepts("served", &event("/direct", &id.to_string(), &[]));
    }
    collector.wait_for(1);
    moat.accepts("served meanwhile", &event("/direct", "last", &[]));
    assert_eq!(moat.proxy.metric("hookmoat_spans_exported_total"), 0.0);
}

#[test]
fn the_last_spans_leave_before_the_process_does() {
    let collector = Backend::ok();
    let mut moat = Moat::new(&tracing(&collector, ""));
    moat.accepts("served", &event("/direct", "last-event", &[]));
    moat.proxy.signal("TERM");
    assert!(moat.proxy.wait().success());
    assert!(within(PATIENCE, || collector.requests().iter().any(|one| holds(&one.body, b"last-event"))));
}
