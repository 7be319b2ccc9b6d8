//! Events at a real RabbitMQ.

use crate::support::{Cable, Load, Rabbit};
use async_trait::async_trait;
use hookmoat::port::queue::{Delivery, Queue, QueueError, Receipt, Routes, Settlement, Want};
use hookmoat::port::queue_contract::{self, Harness, event};
use hookmoat::port::rabbitmq::{Bounds, Credentials, RabbitQueue, Settings};
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
        timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(10),
        heartbeat: Duration::from_secs(10),
        max_event: 16 << 20,
        max_unconfirmed: 64 << 20,
    }
}

struct Broker {
    last: parking_lot::Mutex<Option<Settings>>,
}

#[async_trait]
impl Harness for Broker {
    async fn fresh(&self) -> Arc<dyn Queue> {
        let settings = settings(Rabbit::shared().address);
        *self.last.lock() = Some(settings.clone());
        Arc::new(RabbitQueue::start(settings).await)
    }

    /// A quorum queue may exceed its limit by what is on its way: see `a_full_queue_refuses`.
    async fn bounded(&self, _: u64) -> Option<Arc<dyn Queue>> {
        None
    }

    async fn restarted(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        drop(queue);
        let settings = self.last.lock().clone().expect("a queue before");
        Arc::new(RabbitQueue::start(settings).await)
    }

    fn now(&self) -> Now {
        Now::read()
    }

    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    fn unit(&self) -> Duration {
        Duration::from_millis(600)
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(300)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_contract_holds() {
    queue_contract::all(&Broker { last: parking_lot::Mutex::new(None) }).await;
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
    settings.timeout = Duration::from_secs(1);
    settings.heartbeat = Duration::from_secs(2);
    let queue = Arc::new(RabbitQueue::start(settings.clone()).await);
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

    // Without a queue the broker returns what is sent. It is made again.
    node.control(&["delete_queue", &settings.queue]);
    let begun = Instant::now();
    let mut unavailable = 0;
    loop {
        match queue.enqueue(&event("r", Now::read()), None, None, Now::read()).await {
            Ok(_) if unavailable > 0 => break,
            Ok(_) => {}
            Err(QueueError::Unavailable(_)) => unavailable += 1,
            Err(error) => panic!("{error}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", queue.trouble());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
