//! How many events a second the embedded queue makes durable and hands out, beside what the disk's own fsync allows.
//!
//! `cargo bench --bench queue`. The folder is `TMPDIR` or `/tmp`: a tmpfs there has no fsync worth the name.
#![expect(clippy::print_stderr, clippy::expect_used, reason = "a bench prints its findings and may panic")]

use hookmoat::port::queue::{Queue, Routes, Settlement, Want};
use hookmoat::port::queue_contract::event;
use hookmoat::port::sqlite::db::{Database, Options};
use hookmoat::port::sqlite::queue::{Bounds, SqliteQueue};
use hookmoat::request::Now;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// For each measurement.
const TIME: Duration = Duration::from_secs(3);

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    fsyncs(folder.path());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let now = Now::read();
        let options = Options { min_free: 0, ..Options::default() };
        let database = Database::open(&folder.path().join("queue.db"), options, now.unix).expect("a file");
        let bounds = Bounds { max_events: u64::MAX, max_bytes: u64::MAX };
        let queue = Arc::new(SqliteQueue::open(database, bounds, None, now).expect("tables"));
        for senders in [1, 16, 128] {
            enqueue(&queue, senders).await;
        }
        drain(&queue).await;
    });
}

#[expect(clippy::disallowed_methods, reason = "a bench measures")]
fn instant() -> Instant {
    Instant::now()
}

/// What the disk does by itself: a page appended and synced, one after the other.
fn fsyncs(folder: &std::path::Path) {
    let mut file = std::fs::File::create(folder.join("probe")).expect("a file");
    let (begun, mut count) = (instant(), 0u32);
    while begun.elapsed() < TIME {
        file.write_all(&[7; 4096]).expect("a page");
        file.sync_data().expect("a sync");
        count += 1;
    }
    eprintln!("the disk: {:.0} fsyncs a second", f64::from(count) / begun.elapsed().as_secs_f64());
}

async fn enqueue(queue: &Arc<SqliteQueue>, senders: usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let commits = queue.database().counters().commits.load(Ordering::Relaxed);
    let begun = instant();
    let sending = (0..senders).map(|_| {
        let (queue, count) = (queue.clone(), count.clone());
        tokio::spawn(async move {
            while begun.elapsed() < TIME {
                let now = Now::read();
                let mut event = event("bench", now);
                event.body = vec![b'x'; 1024].into();
                queue.enqueue(&event, None, None, now).await.expect("durable");
                count.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    futures_util::future::join_all(sending.collect::<Vec<_>>()).await;
    let (count, seconds) = (count.load(Ordering::Relaxed), begun.elapsed().as_secs_f64());
    let commits = queue.database().counters().commits.load(Ordering::Relaxed) - commits;
    eprintln!(
        "{senders:>4} senders: {:.0} events of 1 KiB a second durable, {:.0} commits a second, {:.1} events each",
        count as f64 / seconds,
        commits as f64 / seconds,
        count as f64 / commits as f64
    );
}

async fn drain(queue: &Arc<SqliteQueue>) {
    let (begun, mut count) = (instant(), 0usize);
    while begun.elapsed() < TIME {
        let want = Want { max: 64, lease: Duration::from_secs(60), patience: Duration::ZERO, routes: Routes::All };
        let taken = queue.receive(want, Now::read()).await.expect("events");
        if taken.is_empty() {
            break;
        }
        count += taken.len();
        let settling = taken.into_iter().map(|taken| queue.settle(taken.receipt, Settlement::Done, Now::read()));
        futures_util::future::join_all(settling).await;
    }
    eprintln!("drained: {:.0} events a second taken and settled", count as f64 / begun.elapsed().as_secs_f64());
}
