//! Limits of a route's rate.

use super::compile::{Compiler, DAY};
use super::place::Place;
use super::raw;
use crate::check::rate_limit::{Limit, LimitKey};
use sha2::{Digest, Sha256};
use std::time::Duration;

impl Compiler<'_> {
    pub(super) fn rate_limits(
        &mut self,
        limits: Option<&raw::OneOrMany<raw::RateLimit>>,
        route: &str,
        key: &str,
        at: &Place,
    ) -> Vec<Limit> {
        let Some(limits) = limits else { return Vec::new() };
        let at = at.key(key);
        let mut compiled = Vec::new();
        for (i, limit) in limits.items.iter().enumerate() {
            let at = if limits.list { at.index(i) } else { at.clone() };
            // The id keeps buckets alive over a reload: it may depend on nothing but name and place.
            let digest = Sha256::digest(format!("{route}\n{key}\n{i}"));
            let id = digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
            compiled.extend(self.rate_limit(limit, id, &at));
        }
        compiled
    }

    fn rate_limit(&mut self, raw: &raw::RateLimit, id: u64, at: &Place) -> Option<Limit> {
        let key = match &raw.per {
            raw::Per::ClientIp => LimitKey::ClientIp,
            raw::Per::Route => LimitKey::Route,
            raw::Per::Header(name) => LimitKey::Header(self.incoming(name, &at.key("per").key("header"))?),
        };
        let requests = usize::try_from(raw.requests).unwrap_or(usize::MAX);
        self.number(requests, 1, 1_000_000_000, &at.key("requests"));
        self.within(raw.every, Duration::from_millis(1), 31 * DAY, &at.key("every"));
        let burst = raw.burst.unwrap_or(raw.requests);
        if let Some(burst) = raw.burst {
            self.number(usize::try_from(burst).unwrap_or(usize::MAX), 1, 1_000_000_000, &at.key("burst"));
        }
        let interval = raw.every.0.as_nanos().checked_div(u128::from(raw.requests))?;
        let interval = Duration::from_nanos(u64::try_from(interval).ok()?);
        let burst = u32::try_from(burst).ok().filter(|burst| *burst > 0)?;
        if interval.is_zero() {
            if raw.every.0.is_zero() {
                return None;
            }
            self.wrong(
                &at.key("requests"),
                "more than one request a nanosecond",
                "write fewer requests or a longer `every`",
            );
            return None;
        }
        let whole = interval.checked_mul(burst).filter(|whole| *whole <= 400 * DAY);
        if whole.is_none() {
            let help = "it would take more than a year until the burst is there again: make `burst` smaller";
            self.wrong(&at.key("burst"), "too large for this rate", help);
            return None;
        }
        Some(Limit { key, interval, burst, id })
    }
}
