//! Durations and sizes as people write them: `250ms`, `5m`, `7d`; `64KiB`, `25MB`.
//!
//! A plain number is refused: whoever reads `timeout: 10` has to guess the unit, and half of them guess wrong.

use super::problem::custom;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A length of time, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes, written with its unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// A part of a whole, written in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u8);

const SHARE_HELP: &str = "write a whole number from 0 to 100 and a percent sign, for instance 10%";

const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SPAN_HELP: &str = "write a whole number and one of ms, s, m, h, d, for instance 250ms, 5s or 10m";

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];
const SIZE_HELP: &str = "write a whole number and one of B, KiB, MiB, GiB, kB, MB, GB, for instance 64KiB or 1MiB";

impl Span {
    pub(super) const fn millis(count: u64) -> Self {
        Self(Duration::from_millis(count))
    }

    pub(super) const fn secs(count: u64) -> Self {
        Self(Duration::from_secs(count))
    }

    /// Reads `250ms`, `5m`, `7d`; `None` for everything else.
    pub fn parse(text: &str) -> Option<Self> {
        scaled(text, &SPANS).map(Self::millis)
    }
}

impl Size {
    pub(super) fn parse(text: &str) -> Option<Self> {
        scaled(text, &SIZES).and_then(|bytes| usize::try_from(bytes).ok()).map(Self)
    }
}

impl Share {
    pub(super) fn parse(text: &str) -> Option<Self> {
        scaled(text, &[("%", 1)])
            .and_then(|percent| u8::try_from(percent).ok())
            .filter(|percent| *percent <= 100)
            .map(Self)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&duration(self.0))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&in_largest(self.0 as u64, &SIZES))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit { parse: Span::parse, what: "a duration", help: SPAN_HELP })
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit { parse: Size::parse, what: "a size", help: SIZE_HELP })
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Unit { parse: Share::parse, what: "a percentage", help: SHARE_HELP })
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "percentage".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(100|[0-9]{1,2})%$",
            "description": "A whole number from 0 to 100 and a percent sign.",
            "examples": ["1%", "10%", "100%"],
        })
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h|d)$",
            "description": "A whole number and its unit: ms, s, m, h or d.",
            "examples": ["250ms", "5s", "10m", "4h", "7d"],
        })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(B|KiB|MiB|GiB|kB|MB|GB)$",
            "description": "A whole number and its unit: B, KiB, MiB, GiB (powers of 1024), kB, MB or GB (powers of 1000).",
            "examples": ["64KiB", "1MiB", "25MB"],
        })
    }
}

struct Unit<T> {
    parse: fn(&str) -> Option<T>,
    what: &'static str,
    help: &'static str,
}

impl<'de, T> Visitor<'de> for Unit<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with its unit\u{1f}{}", self.what, self.help)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| custom(format!("not {} with its unit", self.what), self.help))
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<T, E> {
        Err(custom("a number without a unit", self.help))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<T, E> {
        Err(custom("a number without a unit", self.help))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<T, E> {
        Err(custom("a number without a unit", self.help))
    }
}

/// A duration the way the configuration writes it, for messages.
pub(super) fn duration(value: Duration) -> String {
    in_largest(u64::try_from(value.as_millis()).unwrap_or(u64::MAX), &SPANS)
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

/// Exact: the largest unit that leaves no rest. Of equally exact ones the earlier in the table wins.
fn in_largest(value: u64, units: &[(&str, u64)]) -> String {
    let mut best = units[0];
    for unit in units {
        if value != 0 && value.is_multiple_of(unit.1) && unit.1 > best.1 {
            best = *unit;
        }
    }
    if value == 0 { format!("0{}", units[1.min(units.len() - 1)].0) } else { format!("{}{}", value / best.1, best.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_exact() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("4h", 14_400_000), ("7d", 604_800_000)]
        {
            assert_eq!(Span::parse(text), Some(Span::millis(millis)), "{text}");
            assert_eq!(Span::millis(millis).to_string(), text);
        }
        for (text, bytes) in [("64KiB", 65_536), ("1MiB", 1 << 20), ("25MB", 25_000_000), ("17B", 17)] {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
            assert_eq!(Size(bytes).to_string(), text);
        }
    }

    #[test]
    fn what_is_not_a_number_with_a_unit_is_refused() {
        for text in ["", "5", "s", "5 s", "5S", "-5s", "5.5s", "5min", "99999999999999999999s", "1h30m", "1e3s", "٣s"]
        {
            assert_eq!(Span::parse(text), None, "{text}");
        }
        for text in ["", "5", "MiB", "1mib", "1 MiB", "1M", "99999999999999999999GiB", "99999999999GiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_part_is_a_whole_number_of_percent() {
        for (text, expected) in
            [("0%", Some(0)), ("10%", Some(10)), ("100%", Some(100)), ("101%", None), ("1.5%", None), ("-1%", None)]
        {
            assert_eq!(Share::parse(text), expected.map(Share), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis: u32, bytes: u32) {
            let (span, size) = (Span::millis(millis.into()), Size(bytes as usize));
            prop_assert_eq!(Span::parse(&span.to_string()), Some(span));
            prop_assert_eq!(Size::parse(&size.to_string()), Some(size));
        }
    }
}
