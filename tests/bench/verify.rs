//! What verification costs: begin, hash while the body arrives in reads of 64 KiB, compare.
#![allow(clippy::unwrap_used, reason = "a benchmark of fixed inputs")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hookmoat::check::signature::{SignOptions, SignatureCheck, UnsignedRequest};
use hookmoat::provider;
use hookmoat::request::Now;
use hookmoat::secret::Secret;
use std::hint::black_box;

/// What one read of a socket gives at most.
const READ: usize = 64 * 1024;

fn verify(c: &mut Criterion) {
    let mut group = c.benchmark_group("verify");
    for id in ["github", "stripe", "standard-webhooks"] {
        let secret = if id == "standard-webhooks" {
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
        } else {
            "a-secret-of-some-length"
        };
        let secrets = vec![Secret::always(secret.into(), "bench")];
        let check = SignatureCheck::new(provider::find(id).unwrap().scheme.clone(), secrets, None).unwrap();
        for size in [1 << 10, 16 << 10, 1 << 20] {
            let now = Now::read();
            let mut request = UnsignedRequest {
                method: "POST".into(),
                url: "https://hooks.example.com/webhooks/x".into(),
                body: vec![b'x'; size],
                ..Default::default()
            };
            check.sign(&mut request, now, &SignOptions::default()).unwrap();
            group.throughput(Throughput::Bytes(size as u64));
            group.bench_function(BenchmarkId::new(id, size), |bench| {
                request
                    .with_head(|head| {
                        bench.iter(|| {
                            let mut verification = check.begin(head, true, now).unwrap();
                            for chunk in request.body.chunks(READ) {
                                verification.update(chunk);
                            }
                            black_box(verification.finish(head, &request.body, now).unwrap())
                        });
                    })
                    .unwrap();
            });
        }
    }
    group.finish();
}

criterion_group!(benches, verify);
criterion_main!(benches);
