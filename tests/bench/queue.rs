//! How many events a second become durable and are handed out again: the embedded queue beside what the disk's own fsync
//! allows, and beside Redis and RabbitMQ on the same machine and the same disk.
//!
//! `cargo bench --bench queue`, with `-- --write` into the README's table, with `-- --seconds 3` for each figure.
//! Everything is in a folder of `TMPDIR` or `/tmp`: a tmpfs there has no fsync worth the name. Redis appends each event to
//! a stream with `appendfsync always`; RabbitMQ holds it in a quorum queue and confirms it. A server that is not
//! installed has no line.
#![expect(
    clippy::print_stderr,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a bench measures, prints its findings and may panic"
)]
#![allow(unreachable_pub, dead_code, missing_docs, reason = "shared with the tests, which use more of it")]

#[path = "../it/support/ports.rs"]
mod ports;
#[path = "../it/support/rabbit.rs"]
mod rabbit;

use hookmoat::port::queue::{Event, Queue, Routes, Settlement, Want};
use hookmoat::port::queue_contract::event;
use hookmoat::port::rabbitmq::{self, Credentials, RabbitQueue};
use hookmoat::port::sqlite::db::{Database, Options};
use hookmoat::port::sqlite::queue::{Bounds, SqliteQueue};
use hookmoat::request::Now;
use hookmoat::secret::SecretBytes;
use rabbit::Rabbit;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const SENDERS: [usize; 3] = [1, 16, 128];
const BODY: usize = 1024;

/// Events a second for each number of senders, and out again.
struct Line {
    name: String,
    durable: [f64; 3],
    out: Option<f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let seconds =
        arguments.iter().position(|one| one == "--seconds").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(3.0));
    let folder = tempfile::tempdir().expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let fsyncs = fsyncs(folder.path(), time);
    eprintln!("the disk: {fsyncs:.0} fsyncs a second");
    let mut lines = Vec::new();
    let sqlite = runtime.block_on(sqlite(folder.path(), time));
    lines.push(sqlite.0);
    if let Some(server) = redis_server(folder.path()) {
        lines.push(runtime.block_on(redis(&server, time)));
    }
    if Path::new(rabbit::SERVER).exists() {
        lines.push(runtime.block_on(rabbitmq(time)));
    }
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let build = if cfg!(debug_assertions) { "a development build" } else { "a release build" };
    let mut table = format!(
        "Events of 1 KiB a second, on {cores} cores shared with the senders ({build}; the disk does {fsyncs:.0} fsyncs a \
         second, and one transaction took {:.1}, {:.1} and {:.1} events):\n\n\
         | | 1 sender | 16 | 128 | out again |\n|---|---:|---:|---:|---:|\n",
        sqlite.1[0], sqlite.1[1], sqlite.1[2]
    );
    for Line { name, durable: [a, b, c], out } in &lines {
        let out = out.map_or("–".into(), whole);
        table += &format!("| {name} | {} | {} | {} | {out} |\n", whole(*a), whole(*b), whole(*c));
    }
    eprintln!("\n{table}");
    if arguments.iter().any(|one| one == "--write") {
        write("README.md", &table);
    }
}

/// With commas between thousands.
fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn write(path: &str, table: &str) {
    let (begin, end) = ("<!-- bench:queue -->\n", "<!-- /bench:queue -->");
    let text = std::fs::read_to_string(path).expect("the README");
    let (before, rest) = text.split_once(begin).expect("a place for the table");
    let (_, after) = rest.split_once(end).expect("its end");
    std::fs::write(path, format!("{before}{begin}\n{table}\n{end}{after}")).expect("the README");
}

fn instant() -> Instant {
    Instant::now()
}

/// What the disk does by itself: a page appended and synced, one after the other.
fn fsyncs(folder: &Path, time: Duration) -> f64 {
    let mut file = std::fs::File::create(folder.join("probe")).expect("a file");
    let (begun, mut count) = (instant(), 0u32);
    while begun.elapsed() < time {
        file.write_all(&[7; 4096]).expect("a page");
        file.sync_data().expect("a sync");
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

fn fresh() -> Event {
    let mut event = event("bench", Now::read());
    event.body = vec![b'x'; BODY].into();
    event
}

/// So many at once do one thing after the other: how many a second.
async fn rate<F: Future<Output = ()> + Send>(
    senders: usize,
    time: Duration,
    send: impl Fn(usize) -> F + Clone + Send + 'static,
) -> f64 {
    let count = Arc::new(AtomicUsize::new(0));
    let begun = instant();
    let sending: Vec<_> = (0..senders)
        .map(|sender| {
            let (send, count) = (send.clone(), count.clone());
            tokio::spawn(async move {
                while begun.elapsed() < time {
                    send(sender).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for one in sending {
        one.await.expect("a sender");
    }
    count.load(Ordering::Relaxed) as f64 / begun.elapsed().as_secs_f64()
}

async fn enqueue(queue: Arc<dyn Queue>, senders: usize, time: Duration) -> f64 {
    rate(senders, time, move |_| {
        let queue = queue.clone();
        async move {
            queue.enqueue(&fresh(), None, None, Now::read()).await.expect("durable");
        }
    })
    .await
}

/// Taken and settled, as long as there are some.
async fn drain(queue: &dyn Queue, time: Duration) -> f64 {
    let (begun, mut count) = (instant(), 0usize);
    while begun.elapsed() < time {
        let (lease, patience) = (Duration::from_secs(60), Duration::from_millis(20));
        let taken = queue.receive(Want { max: 64, lease, patience, routes: Routes::All }, Now::read()).await;
        let taken = taken.expect("events");
        if taken.is_empty() {
            break;
        }
        count += taken.len();
        let settling = taken.into_iter().map(|taken| queue.settle(taken.receipt, Settlement::Done, Now::read()));
        futures_util::future::join_all(settling).await;
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// And how many events each transaction had.
async fn sqlite(folder: &Path, time: Duration) -> (Line, [f64; 3]) {
    let now = Now::read();
    let options = Options { min_free: 0, ..Options::default() };
    let database = Database::open(&folder.join("queue.db"), options, now.unix).expect("a file");
    let bounds = Bounds { max_events: u64::MAX, max_bytes: u64::MAX };
    let queue = Arc::new(SqliteQueue::open(database, bounds, None, now).expect("tables"));
    let (mut durable, mut each) = ([0.0; 3], [0.0; 3]);
    for (index, senders) in SENDERS.into_iter().enumerate() {
        let counted = || {
            let counters = queue.database().counters();
            (counters.jobs.load(Ordering::Relaxed), counters.commits.load(Ordering::Relaxed))
        };
        let (jobs, commits) = counted();
        durable[index] = enqueue(queue.clone(), senders, time).await;
        let (jobs, commits) = (counted().0 - jobs, counted().1 - commits);
        each[index] = jobs as f64 / commits.max(1) as f64;
        eprintln!(
            "sqlite, {senders} senders: {:.0} events a second, {:.1} in each commit",
            durable[index], each[index]
        );
    }
    let out = Some(drain(&*queue, time).await);
    (Line { name: "**Hookmoat, SQLite**".into(), durable, out }, each)
}

/// A server that is ended when it is dropped.
struct Server(Child, u16);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn redis_server(folder: &Path) -> Option<Server> {
    let [address] = ports::free_addresses();
    let child = Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let server = Server(child, address.port());
    let begun = instant();
    while std::net::TcpStream::connect(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "Redis does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(server)
}

async fn redis(server: &Server, time: Duration) -> Line {
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.1)).expect("a URL");
    let mut durable = [0.0; 3];
    let body = vec![b'x'; BODY];
    for (index, senders) in SENDERS.into_iter().enumerate() {
        // A connection each, as that many processes have.
        let mut connections = Vec::new();
        for _ in 0..senders {
            connections.push(client.get_multiplexed_async_connection().await.expect("a connection"));
        }
        let (connections, body) = (Arc::new(connections), body.clone());
        durable[index] = rate(senders, time, move |sender| {
            let (connections, body) = (connections.clone(), body.clone());
            async move {
                let mut connection = connections.get(sender).expect("one for each").clone();
                let mut add = redis::cmd("XADD");
                add.arg("events").arg("*").arg("body").arg(body);
                add.query_async::<String>(&mut connection).await.expect("stored");
            }
        })
        .await;
        eprintln!("redis, {senders} senders: {:.0} events a second", durable[index]);
    }
    Line { name: "Redis stream, `appendfsync always`".into(), durable, out: None }
}

async fn rabbitmq(time: Duration) -> Line {
    let node = tokio::task::spawn_blocking(Rabbit::start).await.expect("a node");
    let queue: Arc<dyn Queue> = Arc::new(
        RabbitQueue::start(rabbitmq::Settings {
            name: "bench".into(),
            nodes: vec![(node.address.ip().to_string().into(), node.address.port())],
            vhost: "/".into(),
            credentials: Credentials::Plain { username: "guest".into(), password: SecretBytes::new(b"guest".to_vec()) },
            tls: None,
            server_name: None,
            queue: "bench".into(),
            declare: true,
            bounds: rabbitmq::Bounds { max_events: None, max_bytes: None, delivery_limit: 100 },
            consume: true,
            prefetch: 100,
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(30),
            max_event: 1 << 20,
            max_unconfirmed: 64 << 20,
        })
        .await,
    );
    let mut durable = [0.0; 3];
    for (index, senders) in SENDERS.into_iter().enumerate() {
        durable[index] = enqueue(queue.clone(), senders, time).await;
        eprintln!("rabbitmq, {senders} senders: {:.0} events a second", durable[index]);
    }
    let out = Some(drain(&*queue, time).await);
    drop(queue);
    tokio::task::spawn_blocking(move || drop(node)).await.expect("it ends");
    Line { name: "**Hookmoat, RabbitMQ** (one node, quorum queue, confirms)".into(), durable, out }
}
