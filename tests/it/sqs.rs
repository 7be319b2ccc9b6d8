//! Events in SQS, at a real server of its protocol.

use crate::support::{Backend, Cable, Connection, Load, Reply, Sqs, request};
use async_trait::async_trait;
use hookmoat::port::queue::{Queue, QueueError};
use hookmoat::port::queue_contract::{self, Harness, event};
use hookmoat::port::sqs::{Settings, SqsQueue};
use hookmoat::request::Now;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
        timeout: Duration::from_secs(5),
        max_unconfirmed: 64 << 20,
    }
}

struct Service {
    kind: &'static str,
    last: parking_lot::Mutex<Option<Settings>>,
}

async fn start(settings: Settings) -> Arc<SqsQueue> {
    Arc::new(SqsQueue::start(settings).await.expect("settings that can be used"))
}

#[async_trait]
impl Harness for Service {
    async fn fresh(&self) -> Arc<dyn Queue> {
        let settings = settings(Sqs::shared().address, self.kind);
        *self.last.lock() = Some(settings.clone());
        start(settings).await
    }

    /// SQS has room for everybody.
    async fn bounded(&self, _: u64) -> Option<Arc<dyn Queue>> {
        None
    }

    async fn restarted(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        drop(queue);
        let settings = self.last.lock().clone().expect("a queue before");
        start(settings).await
    }

    fn now(&self) -> Now {
        Now::read()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn unit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(300)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds() {
    queue_contract::all(&Service { kind: "", last: parking_lot::Mutex::new(None) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds_for_a_fifo_queue() {
    queue_contract::all(&Service { kind: ".fifo", last: parking_lot::Mutex::new(None) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_service_suffers() {
    let cable = Cable::to(Sqs::shared().address);
    let mut settings = settings(cable.address, "");
    settings.timeout = Duration::from_secs(1);
    let queue = start(settings).await;
    let load = Load::on(queue.clone());
    load.flows("at the beginning").await;

    cable.cut();
    load.refuses("cut").await;
    assert!(queue.trouble().is_some());
    cable.mend();
    load.flows("after a cut").await;

    cable.delay(Duration::from_millis(100));
    load.flows("slow").await;
    cable.mend();

    cable.stick();
    load.refuses("stuck").await;
    cable.mend();
    load.flows("after nothing moved").await;

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
