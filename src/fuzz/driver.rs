//! A small deterministic engine for the targets: corpora in, mutations made, the same on every machine.
//!
//! It knows nothing of coverage; what it is good for is that it runs everywhere, with every test run, and that a change
//! which breaks a parser on something near to a known input is told at once. `HOOKMOAT_FUZZ_RUNS` sets the count of
//! runs for each target, `HOOKMOAT_FUZZ_SEED` where the random numbers begin.

use super::TARGETS;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Runs for each target unless the environment says otherwise: a second or so.
const RUNS: usize = 1500;
/// Inputs do not grow beyond this.
const MAX_INPUT: usize = 4096;

/// Pieces that grammars turn on.
const WORDS: &[&[u8]] = &[
    b"\0",
    b"=",
    b",",
    b";",
    b":",
    b" ",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"&",
    b"%",
    b"+",
    b"/",
    b"~0",
    b"~1",
    b"..",
    b"\r\n",
    b"\n",
    b"\t",
    b"\xef\xbb\xbf",
    b"\xff",
    b"\xc3\x28",
    b"%00",
    b"%zz",
    b"sha256=",
    b"v1=",
    b"t=",
    b"Bearer ",
    b"eyJhbGciOiJub25lIn0",
    b"alg",
    b"none",
    b"kid",
    b"null",
    b"true",
    b"-0",
    b"1e999",
    b"18446744073709551616",
    b"-----BEGIN PUBLIC KEY-----",
    b"-----END PUBLIC KEY-----",
    b"\"keys\":[",
    b"\"kty\":\"RSA\"",
    b"<a>",
    b"</a>",
    b"<!--",
    b"<![CDATA[",
    b"&#x0;",
    b"<!DOCTYPE",
    b"for=",
    b"proto=https",
    b"[::1]",
    b"unknown",
    b"routes:",
    b"- ",
    b"&a ",
    b"*a",
    b"!!binary",
    b"https://",
    b"@",
    b"{body}",
    b"{timestamp}",
    b"{header:",
    b"0.0.0.0/0",
    b"::/0",
    b"/*",
];

/// A small generator of random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap_or_default() % end.max(1)
    }
}

/// The corpus of a target, in the order of the names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn mutated(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        let until = (at + random.below(12)).min(input.len());
        match random.below(9) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..until)),
            3 => drop(input.splice(at..at, WORDS[random.below(WORDS.len())].iter().copied())),
            4 => drop(input.splice(at..until, WORDS[random.below(WORDS.len())].iter().copied())),
            // The same once more.
            5 => drop(input.splice(at..at, input[at..until].to_vec())),
            // Once more, many times: depth and length.
            6 => drop(input.splice(at..at, input[at..until].repeat(random.below(64)))),
            7 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.truncate(at),
        }
        input.truncate(MAX_INPUT);
    }
    input
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

fn drive(name: &str) {
    let target = TARGETS.iter().find(|(known, _)| *known == name).unwrap().1;
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus");
    let seed = number("HOOKMOAT_FUZZ_SEED", 1);
    let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed as u64).wrapping_mul(0x1000_0000_01b3));
    let runs = number("HOOKMOAT_FUZZ_RUNS", RUNS);
    let inputs = corpus.iter().cloned().chain(std::iter::repeat_with(|| mutated(&mut random, &corpus)).take(runs));
    for input in inputs {
        if catch_unwind(AssertUnwindSafe(|| target(&input))).is_err() {
            panic!("{name} fails on {} bytes: {}\nin hex: {}", input.len(), input.escape_ascii(), hex::encode(&input));
        }
    }
}

macro_rules! tests {
    ($($name:ident),+ $(,)?) => {
        $(#[test] fn $name() { drive(stringify!($name)); })+

        #[test]
        fn every_target_is_run_and_has_a_libfuzzer_binary() {
            let names = [$(stringify!($name)),+];
            let known: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names.as_slice(), known);
            let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml");
            let manifest = std::fs::read_to_string(manifest).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in tests/fuzz/Cargo.toml");
            }
        }
    };
}

tests![
    signature_lists,
    forwarding_headers,
    json_member,
    form_and_query,
    xml_member,
    token,
    signed_url,
    keys,
    config,
    scheme,
    networks_and_paths,
    explain,
    request_head,
    chunked_body,
    response_head,
    both_ways,
    whole_way,
    proxy_header,
    broker_message,
];
