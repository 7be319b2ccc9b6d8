//! Is this sender within its rate? GCRA: https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm

use crate::reject::Reject;
use crate::request::{ClientIp, Head, HeaderName};
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
    /// Requests that may come at once.
    pub burst: u32,
    /// Stable over reloads: made from the route's name and the limit's place.
    pub id: u64,
}

/// All buckets of the process. Bounded.
#[derive(Debug)]
pub struct Buckets {}

impl Buckets {
    /// Room for this many buckets.
    pub fn new(max: usize, now: Instant) -> Self {
        let _ = (max, now);
        unimplemented!()
    }

    /// Counts one request, or refuses it with the time after which it would fit.
    pub fn take(&self, limit: &Limit, client: ClientIp, head: &Head<'_>, now: Instant) -> Result<(), Reject> {
        let _ = (limit, client, head, now);
        unimplemented!()
    }

    /// Buckets held.
    pub fn len(&self) -> usize {
        unimplemented!()
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
