//! Is this sender within its rate? GCRA: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm
//!
//! A bucket is one number: the time at which it will be idle again (its *debt*). A request adds one interval to it and
//! fits as long as the debt stays within `burst` intervals from now. A refused request adds nothing, so that a sender
//! that keeps knocking is not kept out for longer.
//!
//! The table is bounded. An idle bucket holds nothing, and forgetting it changes nothing; so those go first. When that
//! frees too little, the buckets nearest to being idle are forgotten: a flood of invented senders then pushes out
//! itself (each with a debt of one request) before it pushes out anyone who is at his limit.

use crate::reject::{Reason, Reject};
use crate::request::{ClientIp, Head, HeaderName};
use ahash::RandomState;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What requests are counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitKey {
    /// One bucket for each client address (IPv6: each /64).
    ClientIp,
    /// One bucket for the route.
    Route,
    /// One bucket for each value of a header; requests without it share one.
    Header(HeaderName),
}

/// One limit of a route.
#[derive(Clone, Debug)]
pub struct Limit {
    /// What requests are counted together.
    pub key: LimitKey,
    /// Time that one request takes up: `every / requests`.
    pub interval: Duration,
    /// Requests that may come at once. Zero counts as one.
    pub burst: u32,
    /// Stable over reloads: made from the route's name and the limit's place.
    pub id: u64,
}

impl Limit {
    /// What a request over the limit gets; `wait` is the time after which it would fit.
    pub fn refuse(&self, client: ClientIp, wait: Duration) -> Reject {
        let detail = match &self.key {
            LimitKey::ClientIp => format!("client {client}: more than {} at once", self.burst),
            LimitKey::Route => format!("route: more than {} at once", self.burst),
            LimitKey::Header(name) => format!("one value of header {name}: more than {} at once", self.burst),
        };
        Reason::RateLimited.because(detail).retry_after(wait)
    }

    /// The name of the request's bucket, the same in every process: for a store that several of them share.
    pub fn shared_name(&self, client: ClientIp, head: &Head<'_>) -> [u8; 16] {
        let mut parts = Parts(Sha256::new());
        name(&mut parts, self, client, head);
        let digest: [u8; 32] = parts.0.finalize().into();
        let mut half = [0; 16];
        half.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        half
    }
}

/// A hash that is the same everywhere and that nobody can aim at.
struct Parts(Sha256);

impl Hasher for Parts {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    // Numbers are written in one order on every machine.
    fn write_u32(&mut self, number: u32) {
        self.0.update(number.to_be_bytes());
    }

    fn write_u64(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    fn write_u128(&mut self, number: u128) {
        self.0.update(number.to_be_bytes());
    }

    fn write_usize(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }
}

/// All buckets of the process. Bounded: never more than the `max` it was made with, at about 60 bytes each.
#[derive(Debug)]
pub struct Buckets {
    start: Instant,
    /// A power of two.
    shards: Box<[Mutex<Shard>]>,
    /// Buckets held in one shard at most.
    room: usize,
    /// Two independent secret hashes make the 128-bit name of a bucket: an attacker can neither aim at a shard nor
    /// share a bucket with somebody else, and the length of a header value does not matter.
    hashers: [RandomState; 2],
}

/// The shard is chosen with the name's first half.
type Name = [u64; 2];

/// When each bucket will be idle, in nanoseconds since the start of the table.
#[derive(Debug)]
struct Shard(HashMap<Name, u64, AlreadyHashed>);

impl Buckets {
    /// Room for this many buckets. The table is kept in up to 64 parts which fill up almost evenly, so that the
    /// first bucket may be pushed out a little before all room is taken.
    pub fn new(max: usize, now: Instant) -> Self {
        let shards = 1usize << (max / 1024).clamp(1, 64).ilog2();
        Self {
            start: now,
            shards: (0..shards).map(|_| Mutex::new(Shard(HashMap::default()))).collect(),
            room: (max / shards).max(1),
            hashers: [RandomState::new(), RandomState::new()],
        }
    }

    /// Counts one request, or refuses it with the time after which it would fit.
    pub fn take(&self, limit: &Limit, client: ClientIp, head: &Head<'_>, now: Instant) -> Result<(), Reject> {
        let name = self.hashers.each_ref().map(|hasher| {
            let mut hasher = hasher.build_hasher();
            name(&mut hasher, limit, client, head);
            hasher.finish()
        });
        let now = nanos(now.saturating_duration_since(self.start));
        let shard = usize::try_from(name[0]).unwrap_or(usize::MAX) & (self.shards.len() - 1);
        let Some(shard) = self.shards.get(shard) else { return Ok(()) };
        let taken = shard.lock().take(name, limit, now, self.room);
        taken.map_err(|wait| limit.refuse(client, Duration::from_nanos(wait)))
    }

    /// Buckets held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().0.len()).sum()
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Shard {
    /// Takes one, or says how many nanoseconds later it would fit.
    fn take(&mut self, name: Name, limit: &Limit, now: u64, room: usize) -> Result<(), u64> {
        let interval = nanos(limit.interval);
        let depth = interval.saturating_mul(u64::from(limit.burst.max(1)));
        let idle = self.0.get(&name).copied().unwrap_or(0).max(now);
        // An interval so long that the sum overflows is over any limit.
        let debt = idle.checked_add(interval).map(|idle| (idle, idle - now));
        match debt {
            Some((idle, debt)) if debt <= depth => {
                if !self.0.contains_key(&name) {
                    self.make_room(now, room);
                }
                self.0.insert(name, idle);
                Ok(())
            }
            Some((_, debt)) => Err(debt - depth),
            None => Err(u64::MAX - now),
        }
    }

    /// Room for one more bucket, found without growing where possible. Looks at every bucket, so each time at least
    /// one in 32 is freed or the table grows by half: spread over the insertions this is a constant.
    fn make_room(&mut self, now: u64, room: usize) {
        let held = self.0.len();
        if held < room && held < self.0.capacity() {
            return;
        }
        self.0.retain(|_, idle| *idle > now);
        let enough = held.div_ceil(32);
        let freed = held - self.0.len();
        if freed >= enough && freed > 0 {
            return;
        }
        if held < room {
            let more = (held / 2).max(16).min(room - held);
            self.0.reserve(more + freed);
            return;
        }
        let mut idle: Vec<u64> = self.0.values().copied().collect();
        let mut excess = enough.max(1) - freed;
        let (_, last, _) = idle.select_nth_unstable(excess - 1);
        let last = *last;
        self.0.retain(|_, idle| {
            let goes = excess > 0 && *idle <= last;
            excess -= usize::from(goes);
            !goes
        });
    }
}

fn name(hasher: &mut impl Hasher, limit: &Limit, client: ClientIp, head: &Head<'_>) {
    limit.id.hash(hasher);
    match &limit.key {
        LimitKey::ClientIp => match client.ip() {
            IpAddr::V4(address) => (4u8, u32::from(address)).hash(hasher),
            // The low half is the subscriber's own to choose.
            IpAddr::V6(address) => (6u8, u128::from(address) >> 64).hash(hasher),
        },
        LimitKey::Route => 0u8.hash(hasher),
        LimitKey::Header(name) => {
            // Slices hash with their length: two values never look like one.
            1u8.hash(hasher);
            head.headers.all(name).for_each(|value| value.hash(hasher));
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Names are hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct AlreadyHashed;

/// See [`AlreadyHashed`].
#[derive(Default)]
struct LastWord(u64);

impl BuildHasher for AlreadyHashed {
    type Hasher = LastWord;

    fn build_hasher(&self) -> LastWord {
        LastWord::default()
    }
}

impl Hasher for LastWord {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Arrays of numbers arrive as their bytes; the second half is the one that no shard was chosen with.
        self.0 = bytes.last_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
    }

    fn write_usize(&mut self, _length: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Headers, Now};
    use proptest::prelude::*;

    fn limit(interval: u64, burst: u32) -> Limit {
        Limit { key: LimitKey::ClientIp, interval: Duration::from_nanos(interval), burst, id: 7 }
    }

    struct Table {
        buckets: Buckets,
        start: Instant,
    }

    impl Table {
        fn new(max: usize) -> Self {
            let start = Now::read().instant;
            Self { buckets: Buckets::new(max, start), start }
        }

        /// `Err` holds the nanoseconds to wait.
        fn take(&self, limit: &Limit, client: &str, headers: &[(&str, &str)], at: u64) -> Result<(), u64> {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let head = Head { method: "POST", path: "/", query: None, host: "x", headers: Headers::List(&headers) };
            let now = self.start + Duration::from_nanos(at);
            let client = ClientIp::new(client.parse().unwrap());
            self.buckets.take(limit, client, &head, now).map_err(|reject| {
                assert_eq!(reject.reason, Reason::RateLimited);
                u64::try_from(reject.retry_after.unwrap().as_nanos()).unwrap()
            })
        }
    }

    #[test]
    fn a_burst_passes_and_then_one_request_an_interval() {
        let table = Table::new(100);
        let limit = limit(1000, 3);
        let answers: Vec<_> = [0, 0, 0, 0, 999, 1000, 1000, 2500, 10_000, 10_000, 10_000, 10_000]
            .map(|at| table.take(&limit, "192.0.2.1", &[], at))
            .into();
        let (ok, wait) = (Ok(()), Err);
        assert_eq!(answers, [ok, ok, ok, wait(1000), wait(1), ok, wait(1000), ok, ok, ok, ok, wait(1000)]);
    }

    #[test]
    fn shared_names_are_the_same_everywhere() {
        let limit = Limit { key: LimitKey::Header(HeaderName::from_static("x-a")), ..limit(1, 1) };
        let name = |limit: &Limit, client: &str, headers: &[(&str, &[u8])]| {
            let head = Head { method: "POST", path: "/", query: None, host: "x", headers: Headers::List(headers) };
            hex::encode(limit.shared_name(ClientIp::new(client.parse().unwrap()), &head))
        };
        // Other replicas may run another version: these must not change.
        let by_ip = Limit { key: LimitKey::ClientIp, ..limit.clone() };
        let route = Limit { key: LimitKey::Route, ..limit.clone() };
        let names = [
            name(&by_ip, "192.0.2.1", &[]),
            name(&by_ip, "2001:db8::1", &[]),
            name(&route, "192.0.2.1", &[]),
            name(&limit, "192.0.2.1", &[("x-a", b"one")]),
        ];
        assert_eq!(names.join(" "), NAMES);
        assert_eq!(name(&by_ip, "2001:db8::1", &[]), name(&by_ip, "2001:db8::ffff", &[]));
        assert_eq!(name(&route, "192.0.2.1", &[]), name(&route, "192.0.2.2", &[]));
        assert_ne!(
            name(&limit, "192.0.2.1", &[("x-a", b"one"), ("x-a", b"two")]),
            name(&limit, "192.0.2.1", &[("x-a", b"onetwo")])
        );
    }

    const NAMES: &str = "e432c29612143c3fb0b128d5de1d2ff3 49c37aee5984f8f38c19cfe144ade5e9 \
                         3dd33157299bbcb0fb88895b4d0c1f66 fc5a46f87104231a4bcbbd8906de7591";

    #[test]
    fn senders_and_limits_are_counted_apart() {
        let header = |name| LimitKey::Header(HeaderName::from_static(name));
        let long = "a".repeat(10_000);
        let longer = format!("{long}b");
        for (key, one, other, together) in [
            (LimitKey::ClientIp, ("192.0.2.1", &[][..]), ("192.0.2.1", &[][..]), true),
            (LimitKey::ClientIp, ("192.0.2.1", &[]), ("192.0.2.2", &[]), false),
            (LimitKey::ClientIp, ("192.0.2.1", &[]), ("::ffff:192.0.2.1", &[]), true),
            (LimitKey::ClientIp, ("2001:db8::1", &[]), ("2001:db8::ffff:0:0:2", &[]), true),
            (LimitKey::ClientIp, ("2001:db8::1", &[]), ("2001:db8:0:1::1", &[]), false),
            (LimitKey::Route, ("192.0.2.1", &[]), ("192.0.2.2", &[]), true),
            (header("x-a"), ("192.0.2.1", &[("X-A", "1")]), ("192.0.2.2", &[("x-a", "1")]), true),
            (header("x-a"), ("192.0.2.1", &[("X-A", "1")]), ("192.0.2.1", &[("X-A", "2")]), false),
            (header("x-a"), ("192.0.2.1", &[("X-A", &long)]), ("192.0.2.1", &[("X-A", &longer)]), false),
            (header("x-a"), ("192.0.2.1", &[("X-A", "12")]), ("192.0.2.1", &[("X-A", "1"), ("X-A", "2")]), false),
            (header("x-a"), ("192.0.2.1", &[]), ("192.0.2.2", &[("X-B", "1")]), true),
            (header("x-a"), ("192.0.2.1", &[]), ("192.0.2.1", &[("X-A", "")]), false),
        ] {
            let table = Table::new(100);
            let limit = Limit { key, ..limit(1000, 1) };
            assert_eq!(table.take(&limit, one.0, one.1, 0), Ok(()));
            let second = table.take(&limit, other.0, other.1, 0);
            assert_eq!(second.is_err(), together, "{limit:?} {one:?} {other:?}");
            assert_eq!(table.take(&Limit { id: 8, ..limit }, one.0, one.1, 0), Ok(()));
        }
    }

    #[test]
    fn a_flood_of_senders_stays_within_the_room_and_forgives_nobody_at_the_limit() {
        let table = Table::new(10_000);
        let limit = limit(1_000_000_000, 5);
        for _ in 0..5 {
            table.take(&limit, "192.0.2.1", &[], 0).unwrap();
        }
        for n in 0..1_000_000u32 {
            let client = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            let head = Head { method: "POST", path: "/", query: None, host: "x", headers: Headers::List(&[]) };
            let now = table.start + Duration::from_nanos(u64::from(n));
            table.buckets.take(&limit, ClientIp::new(client), &head, now).unwrap();
        }
        let held = table.buckets.len();
        assert!((9_000..=10_000).contains(&held), "{held}");
        assert!(table.take(&limit, "192.0.2.1", &[], 1_000_000).is_err());
    }

    #[test]
    fn idle_buckets_make_room_first() {
        let table = Table::new(64);
        let limit = limit(1000, 1);
        for n in 0..64 {
            table.take(&limit, &format!("10.0.0.{n}"), &[], n).unwrap();
        }
        assert_eq!(table.buckets.len(), 64);
        // At 1040 the first 41 owe nothing any more.
        table.take(&limit, "10.0.1.1", &[], 1040).unwrap();
        assert_eq!(table.buckets.len(), 24);
        assert!((41..64).all(|n| table.take(&limit, &format!("10.0.0.{n}"), &[], 1040).is_err()));
    }

    #[test]
    fn as_few_are_pushed_out_as_make_room_for_some_time() {
        let (slow, quick) = (limit(1_000_000, 1), limit(1, 1));
        for (idle, held) in [(0, 63), (1, 63), (2, 63), (3, 62)] {
            let table = Table::new(64);
            assert!(table.buckets.is_empty());
            for n in 0..64 {
                table.take(if n < idle { &quick } else { &slow }, &format!("10.0.0.{n}"), &[], 0).unwrap();
            }
            assert!(!table.buckets.is_empty());
            // All that are not idle will be so at the same moment: none of them is the first to go.
            table.take(&slow, "10.0.1.1", &[], 10).unwrap();
            assert_eq!(table.buckets.len(), held, "{idle}");
        }
    }

    #[test]
    fn absurd_numbers_refuse_rather_than_wrap() {
        assert_eq!(Table::new(0).take(&limit(u64::MAX, 1), "192.0.2.1", &[], 5), Err(u64::MAX - 5));
        let table = Table::new(0);
        for limit in [limit(u64::MAX, u32::MAX), limit(u64::MAX / 2, 4)] {
            let taken = (0..10).filter(|_| table.take(&limit, "192.0.2.1", &[], 5).is_ok()).count();
            assert!(taken <= 4, "{taken}");
        }
        assert!((0..10).all(|_| table.take(&limit(0, 0), "192.0.2.2", &[], 5).is_ok()));
        assert_eq!(table.buckets.len(), 1);
    }

    proptest! {
        #[test]
        fn no_window_ever_holds_more_than_its_burst_and_its_share(
            steps in prop::collection::vec(0u64..3000, 1..200), interval in 1u64..2000, burst in 1u32..10,
        ) {
            let table = Table::new(100);
            let limit = limit(interval, burst);
            let (mut at, mut taken) = (0, Vec::new());
            for step in steps {
                at += step;
                match table.take(&limit, "192.0.2.1", &[], at) {
                    Ok(()) => taken.push(at),
                    Err(wait) => {
                        // One nanosecond earlier it does not fit, and then it does.
                        prop_assert!(wait > 0);
                        prop_assert!(table.take(&limit, "192.0.2.1", &[], at + wait - 1).is_err());
                        at += wait;
                        prop_assert_eq!(table.take(&limit, "192.0.2.1", &[], at), Ok(()));
                        taken.push(at);
                    }
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let share = u64::from(burst) + (to - from) / interval;
                    prop_assert!((last - first + 1) as u64 <= share, "{} to {}: {:?}", from, to, taken);
                }
            }
        }
    }
}
