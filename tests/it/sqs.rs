//! Events in SQS, at a real server of its protocol.

use crate::support::{
    Backend, Cable, Connection, Engine, Load, PATIENCE, Proxy, Reply, Sqs, post, request, sign, within,
};
use futures_util::FutureExt as _;
use hookmoat::port::queue::{Queue, QueueError, Routes, Want};
use hookmoat::port::queue_contract::{self, event};
use hookmoat::port::sqs::{Settings, SqsQueue};
use hookmoat::request::Now;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A queue that no other test has.
fn settings(address: SocketAddr, kind: &str) -> Settings {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Settings {
        name: "inbox".into(),
        queue: format!("test-{}-{count}{kind}", std::process::id()).into(),
        dead_letters: format!("test-{}-{count}-dead{kind}", std::process::id()).into(),
        create: true,
        region: Some("eu-central-1".into()),
        profile: None,
        credentials_file: Some(Sqs::shared().credentials()),
        endpoint: Some(format!("http://{address}").into()),
        ca: None,
        consume: true,
        timeout: Duration::from_secs(30),
        max_unconfirmed: 64 << 20,
    }
}

async fn start(settings: Settings) -> Arc<SqsQueue> {
    Arc::new(SqsQueue::start(settings).await.expect("settings that can be used"))
}

async fn keeps_the_contract(settings: fn() -> Settings) {
    let start = |settings| async { start(settings).await as Arc<dyn Queue> }.boxed();
    queue_contract::all(&Engine::new(settings, start, Duration::from_secs(2))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds() {
    keeps_the_contract(|| settings(Sqs::shared().address, "")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_for_a_fifo_queue() {
    keeps_the_contract(|| settings(Sqs::shared().address, ".fifo")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_service_suffers() {
    let cable = Cable::to(Sqs::shared().address);
    let mut settings = settings(cable.address, "");
    settings.timeout = Duration::from_secs(3);
    let queue = start(settings).await;
    let load = Load::on(queue.clone());
    load.outlives(&cable).await;

    let throttled = r#"{"__type":"com.amazonaws.sqs#RequestThrottled","message":"too fast"}"#;
    for reply in [Reply::Status(500, "oops"), Reply::Status(503, "busy"), Reply::Status(400, throttled)] {
        let backend = Backend::with(move |_, _| reply.clone());
        cable.lead_to(backend.address);
        load.refuses("errors").await;
        cable.lead_to(Sqs::shared().address);
        load.flows("after errors").await;
    }
    load.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_is_said_to_be() {
    let queue = start(settings(Sqs::shared().address, "")).await;
    let (mut large, now) = (event("r", Now::read()), Now::read());
    large.body = vec![0xff; 1 << 20].into();
    let refused = queue.enqueue(&large, None, None, now).await;
    assert!(matches!(refused, Err(QueueError::TooLarge(_))), "{refused:?}");
    large.body = vec![0xff; 180 << 10].into();
    queue.enqueue(&large, None, None, now).await.expect("a message of 240 KiB");
}

/// AWS has its price for each request, also for one that finds nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_queue_is_asked_rarely() {
    let relay = Backend::with(|recorded, _| {
        let headers = recorded.headers.iter().filter(|(name, _)| !["host", "content-length"].contains(&&**name));
        let headers: Vec<(&str, &str)> = headers.map(|(name, value)| (&**name, &**value)).collect();
        let sent = request("POST", "/", &headers, &recorded.body);
        let answer = Connection::open(Sqs::shared().address).send(&sent).answer();
        let mut head = format!("HTTP/1.1 {} Relayed\r\n", answer.status);
        for (name, value) in answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        Reply::RawClose([head.as_bytes(), b"\r\n", &answer.body].concat())
    });
    let queue = start(settings(relay.address, "")).await;
    let asked = || {
        let target = |request: &crate::support::backend::Recorded| request.header("x-amz-target") == Some(RECEIVE);
        relay.requests().iter().filter(|request| target(request)).count()
    };
    const RECEIVE: &str = "AmazonSQS.ReceiveMessage";
    let want = Want { max: 10, lease: Duration::from_secs(30), patience: Duration::from_secs(2), routes: Routes::All };
    while queue.trouble().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let found = queue.receive(want, Now::read()).await.expect("a queue that answers");
    assert!(found.is_empty());
    assert!((1..=2).contains(&asked()), "{} requests in two seconds", asked());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_the_users_own_find_a_json_object() {
    let sqs = Sqs::shared();
    let mut settings = settings(sqs.address, "");
    settings.consume = false;
    let queue = start(settings.clone()).await;
    let event = event("shop", Now::read());
    queue.enqueue(&event, None, None, Now::read()).await.expect("stored");

    // As any client would: the protocol itself, without our library.
    let call = |action: &str, body: serde_json::Value| {
        let target = format!("AmazonSQS.{action}");
        let credential =
            "AWS4-HMAC-SHA256 Credential=test/20260101/eu-central-1/sqs/aws4_request, SignedHeaders=host, Signature=0";
        let headers = [
            ("Content-Type", "application/x-amz-json-1.0"),
            ("X-Amz-Target", &target),
            ("Authorization", credential),
            ("Connection", "close"),
        ];
        let request = request("POST", "/", &headers, body.to_string().as_bytes());
        let answer = Connection::open(sqs.address).send(&request).answer();
        serde_json::from_slice::<serde_json::Value>(&answer.body).expect("JSON")
    };
    let url = call("GetQueueUrl", serde_json::json!({"QueueName": &*settings.queue}))["QueueUrl"].clone();
    let wanted = serde_json::json!({"QueueUrl": url, "MessageAttributeNames": ["All"]});
    let message = call("ReceiveMessage", wanted)["Messages"][0].clone();
    let json: serde_json::Value = serde_json::from_str(message["Body"].as_str().expect("text")).expect("JSON");
    assert_eq!(json["hookmoat"], 1);
    assert_eq!(json["uid"], event.uid.to_string());
    assert_eq!(json["route"], "shop");
    assert_eq!(json["body"].as_str().map(str::as_bytes), Some(&event.body[..]));
    assert_eq!(json["headers"][0], serde_json::json!(["content-type", "application/json"]));
    assert_eq!(message["MessageAttributes"]["hookmoat-event-type"]["StringValue"], "push");
}

const SECRET: &str = "a-secret-of-some-length";

fn signed(id: &str, body: &[u8]) -> Vec<u8> {
    let signature = sign::github(SECRET, body);
    let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id), ("X-GitHub-Event", "push")];
    post("/hook", &headers, body)
}

/// The built program with a queue and a route through it.
fn proxy(backend: &Backend, queue: &str, more_queues: &str, deliver: &str) -> Proxy {
    let text = format!(
        "queues:\n  inbox: {queue}\n{more_queues}routes:\n  - name: github\n    path: /hook\n    provider: github\n    \
         secrets: [{{ insecure_literal: {SECRET} }}]\n    max_body: 4MiB\n    deliver: {{ queue: inbox{deliver} }}\n"
    );
    let proxy = Proxy::start(backend.address, &text);
    proxy.wait_for_queues();
    proxy
}

fn came(backend: &Backend) -> Vec<String> {
    let id = |request: &crate::support::backend::Recorded| request.header("hookmoat-event-id").map(str::to_owned);
    backend.requests().iter().filter_map(id).collect()
}

#[test]
fn a_route_delivers_through_a_standard_queue_and_what_was_taken_survives_a_kill() {
    let queue = Sqs::shared().queue("standard", "");
    let up = Arc::new(AtomicBool::new(false));
    let working = up.clone();
    let backend = Backend::with(move |_, _| match working.load(Ordering::SeqCst) {
        true => Reply::Status(200, ""),
        false => Reply::Status(500, ""),
    });
    let mut proxy = proxy(&backend, &queue, "", ", to: app, retry: { first: 1s, longest: 1s, timeout: 1s }");
    for id in ["a", "b", "c"] {
        let body = format!("{{\"id\":\"{id}\"}}");
        assert_eq!(proxy.send(&signed(id, body.as_bytes())).status, 200, "{}", proxy.log());
    }
    backend.wait_for(1);
    up.store(true, Ordering::SeqCst);
    proxy.signal("TERM");
    assert!(proxy.wait().success(), "{}", proxy.log());
    proxy.start_again();
    let all = || ["a", "b", "c"].iter().all(|id| came(&backend).iter().any(|known| known == id));
    assert!(within(PATIENCE, all), "{:?}\n{}", came(&backend), proxy.log());
}

#[test]
fn a_route_delivers_through_a_fifo_queue_in_the_order_of_each_key() {
    let queue = Sqs::shared().queue("ordered", ".fifo");
    let backend = Backend::with(|request, n| match (n % 4, request.header("hookmoat-attempt")) {
        (1, Some("1")) => Reply::Status(503, ""),
        _ => Reply::Status(200, ""),
    });
    let proxy = proxy(&backend, &queue, "", ", to: app, order: \"json:/customer\", retry: { first: 1s, longest: 1s }");
    for n in 0..9 {
        let body = format!("{{\"customer\":{},\"n\":{n}}}", n % 3);
        assert_eq!(proxy.send(&signed(&format!("e{n}"), body.as_bytes())).status, 200, "{}", proxy.log());
    }
    // The sender's copy is told as one, and stored once.
    assert_eq!(proxy.send(&signed("e3", b"{\"customer\":0,\"n\":3}")).header("hookmoat-duplicate"), Some("true"));
    let done = || proxy.metric("hookmoat_delivered_seconds_count{route=\"github\"}");
    assert!(within(PATIENCE, || done() == 9.0), "{}\n{}", done(), proxy.log());
    let mut last = [0; 3];
    for request in backend.requests() {
        let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
        let (customer, n) = (body["customer"].as_u64().expect("a number"), body["n"].as_u64().expect("a number"));
        let last = &mut last[usize::try_from(customer).expect("small")];
        assert!(*last <= n, "customer {customer}: {n} came behind {last}");
        *last = n;
    }
}

#[test]
fn what_sqs_cannot_hold_gets_413_or_goes_to_the_queue_for_it() {
    let queue = Sqs::shared().queue("narrow", "");
    let backend = Backend::ok();
    let large = vec![b'x'; 3 << 20];
    {
        let mut proxy = proxy(&backend, &queue, "", ", to: app");
        let refused = proxy.send(&signed("large", &large));
        assert_eq!(refused.status, 413, "{refused:?}\n{}", proxy.log());
        // Not remembered as taken: it comes through below.
        assert_eq!(proxy.send(&signed("large", &large)).status, 413);
        // Killed, it would leave a request behind that takes the next message for the time of its lease.
        proxy.signal("TERM");
        assert!(proxy.wait().success(), "{}", proxy.log());
    }
    let queue = queue.replacen("{ sqs", "{ too_large: big, sqs", 1);
    let other = "  big: { sqlite: { path: data/big.db, min_free: 1MiB } }\n";
    let proxy = proxy(&backend, &queue, other, ", to: app");
    for (id, body) in [("large", &large[..]), ("small", b"{}")] {
        assert_eq!(proxy.send(&signed(id, body)).status, 200, "{}", proxy.log());
    }
    assert!(within(PATIENCE, || came(&backend).len() == 2), "{:?}\n{}", came(&backend), proxy.log());
    let large_one = backend.requests().into_iter().find(|request| request.header("hookmoat-event-id") == Some("large"));
    assert!(large_one.expect("it came").body == large, "byte for byte");
}

/// AWS's own library, as a consumer of the user's has it; the format is the one of config/QUEUES.md.
#[test]
fn consumers_read_what_was_published_with_aws_s_own_library() {
    let queue = Sqs::shared().queue("published", "");
    let queue = queue.replacen("create: true", "create: true, consume: false", 1);
    let backend = Backend::ok();
    let proxy = proxy(&backend, &queue, "", "");
    let body = b"{\"text\":\"caf\xc3\xa9 \\\"quoted\\\"\"}";
    let answer = proxy.send(&signed("one", body));
    assert_eq!(answer.status, 200, "{}", proxy.log());
    assert_eq!(proxy.send(&signed("one", body)).header("hookmoat-duplicate"), Some("true"));
    let odd = [0xff, 0, b'x', 0xfe];
    assert_eq!(proxy.send(&signed("two", &odd)).status, 200);
    let name = format!("published-{}", std::process::id());
    let script = r#"
import base64, boto3, json, sys
sqs = boto3.client("sqs", endpoint_url=sys.argv[1])
url = sqs.get_queue_url(QueueName=sys.argv[2])["QueueUrl"]
found, tries = [], 0
while len(found) < 2 and tries < 20:
    tries += 1
    got = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"])
    for message in got.get("Messages", []):
        event = json.loads(message["Body"])
        body = event["body"]
        raw = base64.b64decode(body["base64"]) if isinstance(body, dict) else body.encode()
        attributes = {name: value["StringValue"] for name, value in message["MessageAttributes"].items()}
        headers = {name.lower(): value for name, value in event["headers"] if isinstance(value, str)}
        found.append({"event": event, "hex": raw.hex(), "attributes": attributes, "headers": headers})
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
print(json.dumps(found))
"#;
    let mut found: Vec<serde_json::Value> = serde_json::from_str(&Sqs::shared().boto3(script, &[&name])).expect("JSON");
    found.sort_by_key(|one| one["event"]["event_id"].to_string());
    let [one, two] = &found[..] else { panic!("two messages, not {found:?}") };
    assert_eq!((&one["hex"], &two["hex"]), (&hex::encode(body).into(), &hex::encode(odd).into()));
    let fields = [
        ("hookmoat", serde_json::json!(1)),
        ("route", "github".into()),
        ("provider", "github".into()),
        ("event_id", "one".into()),
        ("event_type", "push".into()),
        ("client", "127.0.0.1".into()),
        ("secure", false.into()),
        ("verified", true.into()),
        ("method", "POST".into()),
        ("path", "/hook".into()),
    ];
    for (name, value) in fields {
        assert_eq!(one["event"][name], value, "{name}: {one}");
    }
    assert_eq!(one["headers"]["x-hub-signature-256"].as_str(), Some(&*sign::github(SECRET, body)), "{one}");
    assert_eq!(one["attributes"]["hookmoat-event-type"], "push", "{one}");
    assert_eq!(backend.requests().len(), 0);
}
