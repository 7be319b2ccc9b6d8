//! Events at a real RabbitMQ.

use crate::support::{Backend, Cable, Engine, Load, PATIENCE, Proxy, Rabbit, request, sign, within};
use futures_util::FutureExt as _;
use hookmoat::port::queue::{Delivery, Enqueued, Queue, QueueError, Receipt, Routes, Settlement, Want};
use hookmoat::port::queue_contract::{self, event};
use hookmoat::port::rabbitmq::{Bounds, Credentials, RabbitQueue, Settings};
use hookmoat::port::tls::TlsFiles;
use hookmoat::request::Now;
use hookmoat::secret::SecretBytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A queue that no other test has.
fn settings(address: SocketAddr) -> Settings {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    Settings {
        name: "inbox".into(),
        nodes: vec![(address.ip().to_string().into(), address.port())],
        vhost: "/".into(),
        credentials: Credentials::Plain { username: "guest".into(), password: SecretBytes::new(b"guest".to_vec()) },
        tls: None,
        server_name: None,
        queue: format!("test.{}.{count}", std::process::id()).into(),
        declare: true,
        bounds: Bounds { max_events: None, max_bytes: None, delivery_limit: 100 },
        consume: true,
        prefetch: 100,
        timeout: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(30),
        heartbeat: Duration::from_secs(10),
        max_event: 16 << 20,
        max_unconfirmed: 64 << 20,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds() {
    let engine = Engine::new(
        || settings(Rabbit::shared().address),
        |settings| async { Arc::new(RabbitQueue::start(settings).await) as Arc<dyn Queue> }.boxed(),
        Duration::from_millis(1500),
    );
    queue_contract::all(&engine).await;
}

async fn take(queue: &RabbitQueue, max: usize) -> Vec<Delivery> {
    let (lease, patience) = (Duration::from_secs(30), Duration::from_secs(5));
    queue.receive(Want { max, lease, patience, routes: Routes::All }, Now::read()).await.expect("receive")
}

async fn settle(queue: &RabbitQueue, receipt: Receipt, settlement: Settlement) -> bool {
    queue.settle(receipt, settlement, Now::read()).await.expect("settle")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_refuses() {
    let mut settings = settings(Rabbit::shared().address);
    settings.bounds.max_events = Some(20);
    settings.prefetch = 1;
    let queue = RabbitQueue::start(settings).await;
    let mut stored = 0;
    let refused = loop {
        match queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "a bound of 20 is no bound");
    };
    assert!(matches!(refused, QueueError::Full(_)), "{refused}");
    assert!(stored >= 20, "{stored}");
    for _ in 0..stored {
        let delivery = take(&queue, 1).await.pop().expect("what was stored");
        assert!(settle(&queue, delivery.receipt, Settlement::Done).await);
    }
    queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await.expect("there is room again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_the_broker_suffers() {
    let mut node = Rabbit::start();
    let cable = Cable::to(node.address);
    let mut settings = settings(cable.address);
    settings.timeout = Duration::from_secs(3);
    settings.heartbeat = Duration::from_secs(4);
    let queue = Arc::new(RabbitQueue::start(settings.clone()).await);
    let load = Load::on(queue.clone());
    load.outlives(&cable).await;

    node.control(&["set_vm_memory_high_watermark", "absolute", "1MB"]);
    load.refuses("out of memory").await;
    assert!(queue.trouble().is_some_and(|why| why.contains("takes no messages")), "{:?}", queue.trouble());
    node.control(&["set_vm_memory_high_watermark", "absolute", "1GB"]);
    load.flows("with memory again").await;

    node.kill();
    load.refuses("killed").await;
    node.boot();
    load.flows("after a crash of the broker").await;

    load.end().await;

    // Without a queue the broker returns what is sent. It is made again, and what it takes then comes out.
    node.control(&["delete_queue", &settings.queue]);
    let begun = Instant::now();
    let last = event("r", Now::read());
    while let Err(error) = queue.enqueue(&last, None, None, Now::read()).await {
        assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
        assert!(begun.elapsed() < PATIENCE, "{:?}", queue.trouble());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until("stored after all", async || take(&queue, 10).await.iter().any(|found| found.event.uid == last.uid)).await;
}

/// A channel of the test's own, as a consumer of the user's would have one.
async fn channel(address: SocketAddr) -> (lapin::Connection, lapin::Channel) {
    let uri = format!("amqp://guest:guest@{address}/%2f");
    let connection = lapin::Connection::connect(&uri, lapin::ConnectionProperties::default()).await.expect("AMQP");
    let channel = connection.create_channel().await.expect("a channel");
    (connection, channel)
}

/// Waits until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: never came true");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_of_the_users_own_find_the_exact_body_and_all_about_it() {
    let node = Rabbit::shared();
    let mut settings = settings(node.address);
    settings.consume = false;
    let queue = RabbitQueue::start(settings.clone()).await;
    assert!(!queue.abilities().hands_out && !queue.abilities().holds);
    let mut event = event("shop", Now::read());
    event.body = (0..=255u8).cycle().take(300_000).collect::<Vec<_>>().into();
    queue.enqueue(&event, None, None, Now::read()).await.expect("stored");
    let want =
        Want { max: 1, lease: Duration::from_secs(1), patience: Duration::from_millis(100), routes: Routes::All };
    assert!(queue.receive(want, Now::read()).await.expect("receive").is_empty());

    let (_connection, channel) = channel(node.address).await;
    let name = (&*settings.queue).into();
    let found = channel.basic_get(name, lapin::options::BasicGetOptions { no_ack: true }).await.expect("get");
    let message = found.expect("a message").delivery;
    assert_eq!(message.data, &event.body[..]);
    let properties = &message.properties;
    assert_eq!(properties.content_type().as_ref().map(|text| text.as_str()), Some("application/json"));
    assert_eq!(properties.message_id().as_ref().map(|text| text.as_str()), Some(&*event.uid.to_string()));
    assert_eq!(properties.delivery_mode(), &Some(2));
    let headers = properties.headers().as_ref().expect("headers").inner();
    for (name, value) in [
        ("hookmoat-route", "shop"),
        ("hookmoat-provider", "github"),
        ("hookmoat-event-type", "push"),
        ("hookmoat-event-id", event.event_id.as_deref().expect("an ID")),
        ("hookmoat-path", "/hooks/a%20b"),
    ] {
        let found = headers.get(name).and_then(|value| value.as_long_string());
        assert_eq!(found.map(|text| text.as_bytes()), Some(value.as_bytes()), "{name}");
    }
    let all = headers.get("hookmoat-headers").and_then(|value| value.as_array()).expect("an array").as_slice().len();
    assert_eq!(all, event.headers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_not_ours_goes_to_the_dead_letters() {
    let node = Rabbit::shared();
    let settings = settings(node.address);
    let queue = RabbitQueue::start(settings.clone()).await;
    let (_connection, channel) = channel(node.address).await;
    let options = lapin::options::BasicPublishOptions::default();
    let properties = lapin::BasicProperties::default();
    channel.basic_publish("".into(), (&*settings.queue).into(), options, b"what?", properties).await.expect("sent");
    until("it is a dead letter", async || queue.stats(Now::read()).await.is_ok_and(|stats| stats.dead == Some(1)))
        .await;
    queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await.expect("stored");
    let delivery = take(&queue, 1).await.pop().expect("ours comes through");
    assert!(settle(&queue, delivery.receipt, Settlement::Done).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_at_the_broker_is_said_and_mended_without_a_restart() {
    let node = Rabbit::shared();
    let known = settings(node.address);
    drop(RabbitQueue::start(known.clone()).await);
    let mut other = known.clone();
    other.bounds.max_events = Some(7);
    other.connect_timeout = Duration::from_secs(2);
    let queue = RabbitQueue::start(other).await;
    let trouble = queue.trouble().expect("trouble");
    assert!(trouble.contains(&*known.queue) && trouble.contains("other arguments"), "{trouble}");
    let refused = queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await;
    assert!(matches!(refused, Err(QueueError::Unavailable(_))), "{refused:?}");

    let mut stranger = settings(node.address);
    stranger.connect_timeout = Duration::from_secs(2);
    stranger.credentials =
        Credentials::Plain { username: "guest".into(), password: SecretBytes::new(b"hunter2".to_vec()) };
    let trouble = RabbitQueue::start(stranger).await.trouble().expect("trouble");
    assert!(!trouble.contains("hunter2"), "{trouble}");

    let mut missing = settings(node.address);
    missing.declare = false;
    missing.connect_timeout = Duration::from_secs(2);
    let queue = RabbitQueue::start(missing.clone()).await;
    assert!(queue.trouble().is_some_and(|why| why.contains("there is no queue")), "{:?}", queue.trouble());
    missing.declare = true;
    drop(RabbitQueue::start(missing).await);
    until("the queue is there now", async || queue.trouble().is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_held_event_is_not_given_to_another_process() {
    let settings = settings(Rabbit::shared().address);
    let (holder, other) = tokio::join!(RabbitQueue::start(settings.clone()), RabbitQueue::start(settings));
    let hold = Duration::from_secs(2);
    let mut receipts = Vec::new();
    for _ in 0..2 {
        let stored = holder.enqueue(&event("r", Now::read()), None, Some(hold), Now::read()).await.expect("stored");
        let Enqueued::Stored { receipt: Some(receipt), .. } = stored else { panic!("no receipt: {stored:?}") };
        receipts.push(receipt);
    }
    let done = receipts.pop().expect("a receipt");
    let left = receipts.pop().expect("a receipt");
    assert!(settle(&holder, done, Settlement::Done).await);
    let want = Want { max: 9, lease: hold, patience: Duration::from_secs(1), routes: Routes::All };
    assert!(other.receive(want, Now::read()).await.expect("receive").is_empty(), "held");
    // Nobody settles the other one: whoever is there gets it, once.
    let mut found = Vec::new();
    until("it comes", async || {
        for queue in [&holder, &other] {
            let want = Want { patience: Duration::from_millis(50), lease: Duration::from_secs(30), ..want };
            found.extend(queue.receive(want, Now::read()).await.expect("receive"));
        }
        !found.is_empty()
    })
    .await;
    assert_eq!(
        found.iter().map(|delivery| (delivery.event.uid, delivery.attempt)).collect::<Vec<_>>(),
        [(left.uid, 2)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_a_private_root_and_a_certificate_of_our_own() {
    let node = Rabbit::shared();
    let mut settings = settings(node.tls);
    settings.tls = Some(TlsFiles { ca: Some(node.file("ca.pem")), identity: None });
    settings.connect_timeout = Duration::from_secs(3);
    let nobody = RabbitQueue::start(settings.clone()).await;
    assert!(nobody.trouble().is_some(), "the broker asks for a certificate");
    settings.tls = Some(TlsFiles {
        ca: Some(node.file("ca.pem")),
        identity: Some((node.file("client.pem"), node.file("client.key"))),
    });
    let queue = RabbitQueue::start(settings.clone()).await;
    assert_eq!(queue.trouble(), None);
    queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await.expect("stored");
    assert_eq!(take(&queue, 1).await.len(), 1);
    // Another name is not the broker's.
    settings.server_name = Some("elsewhere.example".into());
    let trouble = RabbitQueue::start(settings.clone()).await.trouble().expect("trouble");
    assert!(trouble.contains("certificate"), "{trouble}");
    // The machine's roots do not know it.
    settings.server_name = None;
    settings.tls = Some(TlsFiles { ca: None, ..settings.tls.unwrap_or_default() });
    assert!(RabbitQueue::start(settings).await.trouble().is_some());
}

/// Signed events through the built program, to a backend that hears of them from the broker alone.
#[test]
fn a_route_delivers_through_the_broker_and_answers_503_while_it_is_away() {
    let cable = Cable::to(Rabbit::shared().address);
    let backend = Backend::ok();
    let name = format!("binary.{}", std::process::id());
    let config = format!(
        "queues:\n  inbox:\n    rabbitmq: {{ url: \"amqp://{}\", username: guest, password: {{ env: P }}, queue: {name}, \
         timeout: 1s, connect_timeout: 2s }}\nroutes:\n  - {{ name: r, path: /r, provider: github, secret: {{ env: S }}, \
         deliver: {{ queue: inbox, to: app }} }}\n",
        cable.address
    );
    let proxy = Proxy::start_with(backend.address, &config, &[("S", "secret"), ("P", "guest")]);
    let send = |id: &str| {
        let body = format!("{{\"id\":\"{id}\"}}");
        let signature = sign::github("secret", body.as_bytes());
        let headers = [
            ("X-Hub-Signature-256", &*signature),
            ("X-GitHub-Delivery", id),
            ("X-GitHub-Event", "push"),
            ("Content-Type", "application/json"),
            ("Connection", "close"),
        ];
        proxy.send(&request("POST", "/r", &headers, body.as_bytes())).status
    };
    let came = |id: &str| {
        backend.requests().iter().filter(|request| request.body == format!("{{\"id\":\"{id}\"}}").as_bytes()).count()
    };
    let first = send("one");
    assert!((200..300).contains(&first), "{first}\n{}", proxy.log());
    assert!(within(PATIENCE, || came("one") == 1), "{}", proxy.log());
    cable.cut();
    assert!(within(PATIENCE, || send("two") == 503), "{}", proxy.log());
    let refused = came("two");
    cable.mend();
    assert!(within(PATIENCE, || send("three") < 300), "{}", proxy.log());
    assert!(within(PATIENCE, || came("three") >= 1), "{}", proxy.log());
    assert!(refused <= 1);
    assert!(!proxy.log().contains("guest@"), "{}", proxy.log());
}
