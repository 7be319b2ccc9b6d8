//! Was it signed recently?
//!
//! Digits only, checked arithmetic, a limit in both directions: several official libraries accept a time a day ahead,
//! which turns a captured request into one that can be replayed for a day.

use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::Now;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::{Rfc2822, Rfc3339};

/// How a sender writes the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Seconds since 1970: 1 to 11 ASCII digits.
    Seconds,
    /// Milliseconds since 1970: 1 to 14 ASCII digits.
    Milliseconds,
    /// Either of them: 1 to 11 digits are seconds, 13 are milliseconds.
    SecondsOrMilliseconds,
    /// `2026-01-31T12:00:00Z`, with or without fractions, with any offset.
    Rfc3339,
    /// `2026-01-31T12:00:00.123` or `2026-01-31 12:00:00` without an offset, in UTC.
    Utc,
    /// `Sat, 31 Jan 2026 12:00:00 GMT` (RFC 9110, section 5.6.7; no older form).
    Http,
}

/// Where the time stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimestampPlace {
    /// In a header, parameter, field or member of its own.
    Source(Source),
    /// In the signature's list, under this name (`t` in `t=1,v1=…`).
    Field(Box<str>),
}

/// The signed time, and how far it may be off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampRule {
    /// Where it stands.
    pub place: TimestampPlace,
    /// How it is written.
    pub unit: Unit,
    /// The oldest that is accepted.
    pub past: Duration,
    /// The furthest ahead that is accepted.
    pub future: Duration,
    /// A request without a time is not refused for that.
    pub optional: bool,
}

impl TimestampRule {
    /// Is the time as written inside the window?
    pub fn check(&self, written: &[u8], now: Now) -> Result<(), Reject> {
        let signed = self.unit.parse(written)?;
        let mut now = i128::try_from(now.unix.as_millis()).unwrap_or(i128::MAX);
        if self.unit.counts_seconds(written) {
            // A sender that counts in seconds has dropped its fraction; ours is dropped as well.
            now -= now % 1000;
        }
        let age = now.saturating_sub(i128::from(signed));
        if age > millis(self.past) {
            let detail = format!("signed {} s ago, accepted are {} s", age / 1000, self.past.as_secs());
            return Err(Reason::TimestampTooOld.because(detail));
        }
        if -age > millis(self.future) {
            let detail =
                format!("signed {} s ahead of this clock, accepted are {} s", -age / 1000, self.future.as_secs());
            return Err(Reason::TimestampInFuture.because(detail));
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> i128 {
    i128::try_from(duration.as_millis()).unwrap_or(i128::MAX)
}

impl Unit {
    /// Has the sender dropped the fraction of the second?
    fn counts_seconds(self, written: &[u8]) -> bool {
        match self {
            Self::Seconds | Self::Http => true,
            Self::SecondsOrMilliseconds => written.len() < 12,
            Self::Milliseconds | Self::Rfc3339 | Self::Utc => false,
        }
    }

    /// Milliseconds since 1970.
    pub fn parse(self, written: &[u8]) -> Result<i64, Reject> {
        let invalid = |what: &'static str| Reason::TimestampInvalid.because(what);
        match self {
            Self::Seconds => digits(written, 11)
                .and_then(|seconds| seconds.checked_mul(1000))
                .ok_or_else(|| invalid("the time is not 1 to 11 digits of seconds")),
            Self::Milliseconds => {
                digits(written, 14).ok_or_else(|| invalid("the time is not 1 to 14 digits of milliseconds"))
            }
            Self::SecondsOrMilliseconds => match written.len() {
                1..=11 => Self::Seconds.parse(written),
                13 => Self::Milliseconds.parse(written),
                _ => Err(invalid("the time is neither 1 to 11 digits of seconds nor 13 of milliseconds")),
            },
            Self::Http => {
                // One spelling: what stands behind a body must not be read with more or less of it.
                let text = std::str::from_utf8(written).ok().filter(|text| text.len() == 29);
                let parsed = text.and_then(|text| OffsetDateTime::parse(text, &Rfc2822).ok());
                let seconds = parsed.map(OffsetDateTime::unix_timestamp).filter(|seconds| *seconds >= 0);
                let same =
                    |seconds: &i64| self.write(Duration::from_secs(seconds.unsigned_abs())).as_bytes() == written;
                seconds
                    .filter(same)
                    .and_then(|seconds| seconds.checked_mul(1000))
                    .ok_or_else(|| invalid("the time is no date as HTTP writes it"))
            }
            Self::Rfc3339 => {
                let text = std::str::from_utf8(written).ok().filter(|text| text.len() <= 40);
                let parsed = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
                parsed
                    .and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok())
                    .ok_or_else(|| invalid("the time is not an RFC 3339 date and time"))
            }
            Self::Utc => {
                let zoneless = |text: &&str| {
                    text.len() <= 39 && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.T ".contains(&byte))
                };
                let text = std::str::from_utf8(written).ok().filter(zoneless);
                let text = text.map(|text| format!("{}Z", text.replacen(' ', "T", 1)));
                let parsed = text.and_then(|text| OffsetDateTime::parse(&text, &Rfc3339).ok());
                parsed
                    .and_then(|time| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok())
                    .ok_or_else(|| invalid("the time is no date and time without an offset"))
            }
        }
    }

    /// As a sender writes it.
    pub(crate) fn write(self, at: Duration) -> String {
        match self {
            Self::Seconds | Self::SecondsOrMilliseconds => at.as_secs().to_string(),
            Self::Http => i64::try_from(at.as_secs())
                .ok()
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
                .and_then(|time| time.format(&Rfc2822).ok())
                .map(|text| text.replace("+0000", "GMT"))
                .unwrap_or_default(),
            Self::Milliseconds => at.as_millis().to_string(),
            Self::Rfc3339 => i64::try_from(at.as_secs())
                .ok()
                .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
                .and_then(|time| time.format(&Rfc3339).ok())
                .unwrap_or_default(),
            Self::Utc => Self::Rfc3339.write(at).trim_end_matches('Z').to_owned(),
        }
    }
}

/// A number of at most `most` ASCII digits: no sign, no space, no fraction, no exponent.
fn digits(written: &[u8], most: usize) -> Option<i64> {
    if written.is_empty() || written.len() > most {
        return None;
    }
    written.iter().try_fold(0_i64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| i64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(unit: Unit) -> TimestampRule {
        TimestampRule {
            place: TimestampPlace::Field("t".into()),
            unit,
            past: Duration::from_secs(300),
            future: Duration::from_secs(60),
            optional: false,
        }
    }

    #[test]
    fn only_ascii_digits_of_the_right_length_are_a_number() {
        for (unit, good, bad) in [
            (
                Unit::Seconds,
                vec!["0", "1614265330", "99999999999"],
                vec![
                    "",
                    " 1614265330",
                    "1614265330 ",
                    "+1614265330",
                    "-1",
                    "1614265330.0",
                    "1e9",
                    "0x60379d72",
                    "123456789012",
                    "1614265330123",
                    "NaN",
                    "٣١٤",
                    "1_000",
                    "18446744073709551616",
                ],
            ),
            (Unit::Milliseconds, vec!["1614265330123", "99999999999999"], vec!["", "123456789012345", "1.5", "-1"]),
            (
                Unit::Rfc3339,
                vec!["2021-02-25T15:02:10Z", "2021-02-25T15:02:10.123456789Z", "2021-02-25T17:02:10+02:00"],
                vec!["", "1614265330", "2021-02-25", "2021-02-25T15:02:10", "2021-13-25T15:02:10Z", "x"],
            ),
            (
                Unit::SecondsOrMilliseconds,
                vec!["0", "1614265330", "99999999999", "1614265330123"],
                vec!["", "123456789012", "12345678901234", "1.5", "-1", "161426533012x"],
            ),
            (
                Unit::Http,
                vec!["Thu, 25 Feb 2021 15:02:10 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"],
                vec![
                    "",
                    "1614265330",
                    "Fri, 25 Feb 2021 15:02:10 GMT",
                    "Thu, 25 Feb 2021 15:02:10 UTC",
                    "Thu, 25 Feb 2021 15:02:10 +0000",
                    "thu, 25 feb 2021 15:02:10 GMT",
                    "Thu, 5 Feb 2021 15:02:10  GMT",
                    "Thursday, 25-Feb-21 15:02:10 GMT",
                    "Thu, 30 Feb 2021 15:02:10 GMT",
                ],
            ),
            (
                Unit::Utc,
                vec!["2021-02-25T15:02:10", "2021-02-25 15:02:10", "2021-02-25T15:02:10.551"],
                vec![
                    "",
                    "2021-02-25T15:02:10Z",
                    "2021-02-25t15:02:10",
                    "2021-02-25T15:02:10.00000000000000000000",
                    "2021-02-25T15:02:10+02:00",
                    "2021-02-25",
                    "1614265330",
                ],
            ),
        ] {
            for text in good {
                assert!(unit.parse(text.as_bytes()).is_ok(), "{unit:?} {text}");
            }
            for text in bad {
                assert_eq!(
                    unit.parse(text.as_bytes()).unwrap_err().reason,
                    Reason::TimestampInvalid,
                    "{unit:?} {text}"
                );
            }
        }
    }

    #[test]
    fn the_window_has_two_ends_and_includes_both() {
        let rule = rule(Unit::Seconds);
        let at = |seconds: u64| rule.check(b"1000000", Now::at_unix(seconds)).map_err(|reject| reject.reason);
        assert_eq!(at(1_000_300), Ok(()));
        assert_eq!(at(1_000_301), Err(Reason::TimestampTooOld));
        assert_eq!(at(999_940), Ok(()));
        assert_eq!(at(999_939), Err(Reason::TimestampInFuture));
    }

    #[test]
    fn a_sender_that_counts_in_seconds_has_the_whole_last_second() {
        let at = |unit: Unit, text: &str, millis: u64| {
            let now = Now { unix: Duration::from_millis(millis), ..Now::at_unix(0) };
            rule(unit).check(text.as_bytes(), now).map_err(|reject| reject.reason)
        };
        for (unit, text, oldest, earliest) in [
            (Unit::Seconds, "1000000", 1_000_300_999, 999_940_000),
            (Unit::Milliseconds, "1000000000", 1_000_300_000, 999_940_000),
            (Unit::SecondsOrMilliseconds, "1000000", 1_000_300_999, 999_940_000),
            (Unit::SecondsOrMilliseconds, "1000000000000", 1_000_000_300_000, 999_999_940_000),
        ] {
            assert_eq!(at(unit, text, oldest), Ok(()), "{unit:?}");
            assert_eq!(at(unit, text, oldest + 1), Err(Reason::TimestampTooOld), "{unit:?}");
            assert_eq!(at(unit, text, earliest), Ok(()), "{unit:?}");
            assert_eq!(at(unit, text, earliest - 1), Err(Reason::TimestampInFuture), "{unit:?}");
        }
    }

    #[test]
    fn extreme_times_neither_overflow_nor_pass() {
        for (unit, text) in
            [(Unit::Seconds, "99999999999"), (Unit::Seconds, "0"), (Unit::Milliseconds, "99999999999999")]
        {
            assert!(rule(unit).check(text.as_bytes(), Now::at_unix(1_700_000_000)).is_err());
        }
        let mut now = Now::at_unix(0);
        now.unix = Duration::MAX;
        assert!(rule(Unit::Seconds).check(b"1", now).is_err());
    }

    #[test]
    fn milliseconds_are_not_taken_for_seconds() {
        let now = Now::at_unix(1_614_265_330);
        assert!(rule(Unit::Seconds).check(b"1614265330123", now).is_err());
        assert!(rule(Unit::Milliseconds).check(b"1614265330", now).is_err());
        assert!(rule(Unit::Milliseconds).check(b"1614265330123", now).is_ok());
        for (text, holds) in [
            ("1614265330", true),
            ("1614265330123", true),
            ("1614265030", true),
            ("1614265029", false),
            ("1614264930000", false),
        ] {
            assert_eq!(rule(Unit::SecondsOrMilliseconds).check(text.as_bytes(), now).is_ok(), holds, "{text}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let at = Duration::from_secs(1_614_265_330);
        let units =
            [Unit::Seconds, Unit::Milliseconds, Unit::SecondsOrMilliseconds, Unit::Rfc3339, Unit::Utc, Unit::Http];
        for unit in units {
            assert_eq!(unit.parse(unit.write(at).as_bytes()).unwrap(), 1_614_265_330_000);
        }
    }
}
