//! Is the event one of the kinds that the route wants?
//!
//! The type stands where the preset or the route says. A route that lists types gets only those; the rest is
//! acknowledged, so that the sender is content, and goes no further. Asked only after the signature verified.

use super::duplicate::visible;
use super::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::Head;

/// The longest type, in bytes.
const MAX_TYPE_BYTES: usize = 256;

/// The types of events that a route knows.
#[derive(Clone, Debug, Default)]
pub struct EventTypes {
    /// Where the type stands; the first that is there counts.
    pub sources: Vec<Source>,
    /// What the route wants. `None`: everything.
    pub wanted: Option<Patterns>,
}

/// Types as people write them, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patterns(Box<[Pattern]>);

/// A type, or several: `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Reads the written form; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > MAX_TYPE_BYTES {
            return Err("a type has 1 to 256 bytes");
        }
        if text.matches('*').count() > 4 {
            return Err("`*` stands more than four times");
        }
        if text.chars().any(char::is_control) {
            return Err("a type holds no control characters");
        }
        Ok(Self(text.into()))
    }

    /// As written; the only form that becomes a metric label.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Is this type one of them?
    pub fn matches(&self, kind: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| kind.strip_prefix(first)) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        // The earliest place of each part leaves the most for the next.
        for part in parts {
            match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

impl Patterns {
    /// These types.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns.into())
    }

    /// In their order.
    pub fn iter(&self) -> impl Iterator<Item = &Pattern> {
        self.0.iter()
    }

    /// Which one has this type, if any. An event without a type is only in a list that has a lone `*`.
    pub fn find(&self, kind: Option<&str>) -> Option<usize> {
        self.0.iter().position(|pattern| match kind {
            Some(kind) => pattern.matches(kind),
            None => &*pattern.0 == "*",
        })
    }
}

impl EventTypes {
    /// The event's type as text that fits a header, a log line and a pattern: `%` and whatever is not visible ASCII is
    /// percent-encoded. `None`: it has none. Where the route goes by types, one that could be read in two ways is a
    /// refusal; elsewhere it counts as none.
    pub fn read(&self, head: &Head<'_>, body: &[u8], matters: bool) -> Result<Option<Box<str>>, Reject> {
        for source in &self.sources {
            let unfit = match source.read(head, body) {
                Ok(None) => continue,
                Ok(Some(value)) if value.is_empty() => continue,
                Ok(Some(value)) if value.len() <= MAX_TYPE_BYTES => return Ok(Some(visible(&value))),
                Ok(Some(value)) => format!("the event type has {} bytes, at most {MAX_TYPE_BYTES}", value.len()),
                Err(error) => error.0,
            };
            return if matters { Err(Reason::EventTypeInvalid.because(unfit)) } else { Ok(None) };
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;
    use proptest::prelude::*;

    #[test]
    fn a_star_stands_for_any_text() {
        for (pattern, yes, no) in [
            ("push", &["push"][..], &["", "pus", "push2", "PUSH"][..]),
            ("pull_request.*", &["pull_request.", "pull_request.opened"], &["pull_request", "xpull_request.a"]),
            ("*", &["", "anything"], &[]),
            ("*.created", &["a.created", ".created"], &["created", "a.created.b"]),
            ("a*b*c", &["abc", "axbxc", "abbcc", "abcbc"], &["ab", "ac", "abcx", "cba"]),
            ("a**b", &["ab", "axb"], &["a", "b"]),
            ("aa*aa", &["aaaa", "aaxaa"], &["aa", "aaa"]),
        ] {
            let pattern = Pattern::parse(pattern).unwrap();
            for kind in yes {
                assert!(pattern.matches(kind), "{} {kind}", pattern.text());
            }
            for kind in no {
                assert!(!pattern.matches(kind), "{} {kind}", pattern.text());
            }
        }
        for bad in ["", "a\nb", "*****", &"a".repeat(257)] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
        for good in ["a", "****", &"a".repeat(256)] {
            assert_eq!(Pattern::parse(good).unwrap().text(), good);
        }
    }

    #[test]
    fn the_first_pattern_that_fits_counts() {
        let list = |texts: &[&str]| Patterns::new(texts.iter().map(|text| Pattern::parse(text).unwrap()).collect());
        let types = list(&["push", "pull_*", "*"]);
        assert_eq!(
            [Some("push"), Some("pull_request"), Some("x"), None].map(|kind| types.find(kind)),
            [Some(0), Some(1), Some(2), Some(2)]
        );
        assert_eq!([Some("x"), None].map(|kind| list(&["push", "p*"]).find(kind)), [None, None]);
    }

    #[test]
    fn a_type_is_read_where_it_stands_and_never_read_in_two_ways() {
        let types = EventTypes {
            sources: vec![Source::header("X-Event").unwrap(), Source::json("/type").unwrap()],
            wanted: None,
        };
        let read = |headers: &[(&str, &[u8])], body: &[u8], matters| {
            let head = Head { method: "POST", path: "/", query: None, host: "h", headers: Headers::List(headers) };
            types.read(&head, body, matters).map(|kind| kind.map(String::from)).map_err(|reject| reject.reason)
        };
        let json = &br#"{"type":"a"}"#[..];
        for (headers, body, expected) in [
            (&[("X-Event", &b"push"[..])][..], json, Some("push")),
            (&[], json, Some("a")),
            (&[("X-Event", b"")], json, Some("a")),
            (&[], br#"{"type":"a b%\n"}"#, Some("a%20b%25%0A")),
            (&[], b"{}", None),
            (&[], b"", None),
        ] {
            assert_eq!(read(headers, body, true), Ok(expected.map(str::to_owned)));
        }
        for (headers, body) in [
            (&[("X-Event", &b"a"[..]), ("x-event", b"b")][..], json),
            (&[], br#"{"type":"a","type":"b"}"#),
            (&[], br#"{"type":{}}"#),
            (&[("X-Event", &[b'x'; 257])], json),
        ] {
            assert_eq!(read(headers, body, true), Err(Reason::EventTypeInvalid));
            assert_eq!(read(headers, body, false), Ok(None));
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_stars_is_the_type_itself(pattern in "[a-c.]{1,6}", kind in "[a-c.]{0,6}") {
            prop_assert_eq!(Pattern::parse(&pattern).unwrap().matches(&kind), pattern == kind);
        }

        #[test]
        fn stars_match_what_they_replace(parts in prop::collection::vec("[a-c]{0,3}", 2..5), fill in "[a-c]{0,5}") {
            let pattern = Pattern::parse(&parts.join("*")).unwrap();
            prop_assert!(pattern.matches(&parts.join(&fill)));
        }
    }
}
