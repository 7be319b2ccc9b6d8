//! What a claim in the memory store costs, and what a million remembered IDs take.
#![expect(clippy::print_stderr, clippy::expect_used, reason = "a bench prints its findings and may panic")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use hookmoat::port::memory::MemorySeen;
use hookmoat::port::seen::{Claim, Key, Keys, Outcome, Terms};
use hookmoat::request::Now;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const IDS: u64 = 1_000_000;
const TERMS: Terms = Terms { lease: Duration::from_secs(30), remember: Duration::from_secs(4 * 24 * 3600) };

fn event(n: u64, with_content: bool) -> Keys {
    let key = |half: u64| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&n.to_be_bytes());
        key[8..].copy_from_slice(&half.to_be_bytes());
        Key(key)
    };
    Keys { group: None, id: key(0), content: if with_content { vec![key(1)] } else { Vec::new() } }
}

fn deliver(seen: &MemorySeen, keys: &Keys, now: Instant) -> bool {
    match seen.claim_now(keys, TERMS, now) {
        Claim::New(token) => seen.settle_now(token, Outcome::Done, now),
        _ => false,
    }
}

/// Resident memory of this process in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("needs /proc");
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}

fn memory(now: Instant) -> MemorySeen {
    let before = resident();
    let (mut worst, mut peak) = (0, 0);
    let seen = MemorySeen::new(64_000_000, now);
    for n in 0..IDS {
        assert!(deliver(&seen, &event(n, false), now));
        if n % 10_000 == 9_999 {
            let taken = resident() - before;
            peak = peak.max(taken);
            if n > 100_000 {
                worst = worst.max(taken / n);
            }
        }
    }
    eprintln!(
        "{IDS} IDs: {} KiB resident, peak {} KiB, {} bytes each at worst; tables {} KiB",
        (resident() - before) / 1024,
        peak / 1024,
        worst,
        seen.table_bytes() / 1024
    );
    seen
}

fn seen_ids(criterion: &mut Criterion) {
    let now = Now::read().instant;
    let seen = memory(now);
    let next = AtomicU64::new(IDS);
    criterion.bench_function("duplicate of a delivered ID, one million held", |bench| {
        let mut n = 0;
        bench.iter_batched(
            || {
                n = (n + 7_919) % IDS;
                event(n, false)
            },
            |keys| black_box(seen.claim_now(&keys, TERMS, now)),
            BatchSize::SmallInput,
        );
    });
    for (name, with_content, outcome) in [
        ("claim and release", false, Outcome::Failed),
        ("claim and release, ID and content", true, Outcome::Failed),
        ("claim and remember", false, Outcome::Done),
    ] {
        criterion.bench_function(name, |bench| {
            bench.iter_batched(
                || event(next.fetch_add(1, Ordering::Relaxed), with_content),
                |keys| match seen.claim_now(&keys, TERMS, now) {
                    Claim::New(token) => seen.settle_now(token, outcome, now),
                    _ => false,
                },
                BatchSize::SmallInput,
            );
        });
    }
    drop(seen);
    // Every shard full: ten times as many as fit.
    let full = MemorySeen::new(100_000, now);
    let mut n = 0;
    while n < 1_000_000 {
        deliver(&full, &event(n, false), now);
        n += 1;
    }
    criterion.bench_function("refused by a full store", |bench| {
        bench.iter_batched(
            || {
                n += 1;
                event(n, false)
            },
            |keys| black_box(full.claim_now(&keys, TERMS, now)),
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, seen_ids);
criterion_main!(benches);
