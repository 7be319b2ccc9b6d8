//! What becomes of an event after an attempt: the whole of the retry policy, without I/O or clock.

use crate::policy::Retry;
use crate::port::queue::{DeadReason, Failure, Settlement};
use std::time::Duration;

/// What an attempt met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// A whole answer of the backend, with its Retry-After.
    Answer(u16, Option<Duration>),
    /// No whole answer; says why. The first word is for the counter.
    Nothing(Trouble, Box<str>),
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// No connection: the backend heard nothing.
    Unreachable,
    /// It broke off, or broke HTTP.
    Broken,
    /// It took too long.
    Timeout,
}

impl Met {
    /// The counter's label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Answer(200..=299, _) => "2xx",
            Self::Answer(..=399, _) => "3xx",
            Self::Answer(..=499, _) => "4xx",
            Self::Answer(..) => "5xx",
            Self::Nothing(Trouble::Unreachable, _) => "unreachable",
            Self::Nothing(Trouble::Broken, _) => "broken",
            Self::Nothing(Trouble::Timeout, _) => "timeout",
        }
    }

    /// Does it say that the backend works?
    pub(crate) fn is_alive(&self) -> bool {
        matches!(self, Self::Answer(..=499, _))
    }

    /// A pause that the backend asks for on behalf of everything that is sent to it.
    pub(crate) fn wants_pause(&self) -> Option<Duration> {
        match self {
            Self::Answer(429 | 503, after) => *after,
            _ => None,
        }
    }
}

/// What becomes of an event of this age after its `attempt`-th attempt. `chance` is from 0 to 1.
pub(crate) fn settlement(met: &Met, retry: &Retry, attempt: u32, age: Duration, chance: f64) -> Settlement {
    let (status, asked, message) = match met {
        Met::Answer(200..=299, _) => return Settlement::Done,
        Met::Answer(status, asked) => (Some(*status), *asked, format!("backend answered {status}").into()),
        Met::Nothing(_, why) => (None, None, why.clone()),
    };
    let failure = Failure { status, message };
    let dead = |reason| Settlement::Dead { reason, failure: Some(failure.clone()) };
    if status.is_some_and(|status| retry.give_up.has(status)) {
        return dead(DeadReason::Rejected);
    }
    if attempt >= retry.max_attempts {
        return dead(DeadReason::MaxAttempts);
    }
    let after = wait(retry, attempt, chance).max(asked.unwrap_or_default().min(retry.retry_after));
    // The next attempt would come too late: the last one was this.
    if age.saturating_add(after) >= retry.max_age {
        return dead(DeadReason::MaxAge);
    }
    Settlement::Retry { after, failure }
}

/// Doubles from attempt to attempt; chance takes up to a half off, so that what failed together does not come together.
fn wait(retry: &Retry, attempt: u32, chance: f64) -> Duration {
    let doubled = 1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    let whole = retry.first.saturating_mul(doubled).min(retry.longest);
    whole.mul_f64(1.0 - 0.5 * chance.clamp(0.0, 1.0))
}

/// Reads a Retry-After: seconds, or a date as `now` sees it (RFC 9110 section 10.2.3).
pub(crate) fn retry_after(value: &[u8], unix: Duration) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    // `Rfc2822` wants a numeric zone where HTTP dates say GMT.
    let text = text.strip_suffix("GMT")?;
    let date = time::OffsetDateTime::parse(&format!("{text}+0000"), &time::format_description::well_known::Rfc2822);
    let at = u64::try_from(date.ok()?.unix_timestamp()).ok()?;
    Some(Duration::from_secs(at).saturating_sub(unix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Statuses;

    fn retry() -> Retry {
        Retry {
            first: Duration::from_secs(2),
            longest: Duration::from_secs(60),
            retry_after: Duration::from_secs(600),
            max_attempts: 10,
            max_age: Duration::from_secs(3600),
            give_up: Statuses(vec![(410, 410)]),
            ..Retry::default()
        }
    }

    fn after(met: &Met, attempt: u32, chance: f64) -> Option<u64> {
        match settlement(met, &retry(), attempt, Duration::ZERO, chance) {
            Settlement::Retry { after, .. } => Some(after.as_secs()),
            _ => None,
        }
    }

    fn dead(met: &Met, attempt: u32, age: u64) -> Option<DeadReason> {
        match settlement(met, &retry(), attempt, Duration::from_secs(age), 0.0) {
            Settlement::Dead { reason, failure } => {
                assert!(failure.is_some());
                Some(reason)
            }
            _ => None,
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_chance_takes_off_up_to_a_half() {
        let down = Met::Nothing(Trouble::Unreachable, "connection refused".into());
        let waits: Vec<_> = (1..=8).map(|attempt| after(&down, attempt, 0.0)).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60].map(Some));
        assert_eq!(after(&down, 3, 1.0), Some(4));
        let whole = settlement(&down, &Retry { max_attempts: 100_000, ..retry() }, 90_000, Duration::ZERO, 0.0);
        assert!(matches!(whole, Settlement::Retry { after, .. } if after == Duration::from_secs(60)), "{whole:?}");
    }

    #[test]
    fn only_a_2xx_ends_it() {
        for status in [200, 202, 204, 299] {
            assert_eq!(settlement(&Met::Answer(status, None), &retry(), 1, Duration::ZERO, 0.5), Settlement::Done);
        }
        for status in [301, 400, 401, 404, 408, 429, 500, 503] {
            assert!(after(&Met::Answer(status, None), 1, 0.0).is_some(), "{status}");
        }
    }

    #[test]
    fn retry_after_is_honoured_up_to_its_bound() {
        let asked = |seconds| Met::Answer(503, Some(Duration::from_secs(seconds)));
        assert_eq!([1, 90, 9000].map(|seconds| after(&asked(seconds), 1, 0.0)), [Some(2), Some(90), Some(600)]);
        assert_eq!(asked(7).wants_pause(), Some(Duration::from_secs(7)));
        assert_eq!(Met::Answer(500, Some(Duration::from_secs(7))).wants_pause(), None);
    }

    #[test]
    fn an_event_is_given_up_for_one_reason() {
        let failed = Met::Answer(500, None);
        assert_eq!(dead(&Met::Answer(410, None), 1, 0), Some(DeadReason::Rejected));
        assert_eq!(dead(&failed, 9, 0), None);
        assert_eq!(dead(&failed, 10, 0), Some(DeadReason::MaxAttempts));
        assert_eq!(dead(&failed, 1, 3597), None);
        assert_eq!(dead(&failed, 1, 3598), Some(DeadReason::MaxAge));
    }

    #[test]
    fn both_forms_of_retry_after_are_read() {
        let unix = Duration::from_secs(1_445_412_480);
        let read = |text: &str| retry_after(text.as_bytes(), unix).map(|after| after.as_secs());
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Wed, 21 Oct 2015 07:28:30 GMT"), Some(30));
        assert_eq!(read("Wed, 21 Oct 2015 07:20:00 GMT"), Some(0));
        for wrong in ["", "soon", "-1", "1.5", "Wed, 21 Oct 2015 07:28:30"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
