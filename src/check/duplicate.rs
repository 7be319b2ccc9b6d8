//! Which events count as the same?
//!
//! An event is named by its ID and, where the signature does not cover the ID, by what was signed: somebody who has
//! captured one signed request could otherwise send it again under any number of fresh IDs (GitHub signs the body, not
//! `X-GitHub-Delivery`). Names are hashes over length-prefixed parts with the route's name among them, so that neither
//! another route nor any trick with separators, case or length makes two events meet. They are the same in every
//! process, since several may share one store.
//!
//! Only to be asked after the signature verified: an ID from an unauthenticated sender must never reach a store.

use crate::check::source::{Source, SourceError};
use crate::port::seen::{Key, Keys};
use crate::reject::{Reason, Reject};
use crate::request::Head;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

/// The longest ID, in bytes. Those of real senders have up to about a hundred.
pub const MAX_ID_BYTES: usize = 1024;

/// What a route remembers of its events.
#[derive(Debug)]
pub struct Duplicates {
    /// Where the event's ID stands; the first that is there counts.
    pub id: EventId,
    /// Different events may carry the same ID: it is told to the backend, and what was signed names the event.
    pub id_repeats: bool,
    /// What happens when none is there.
    pub missing: MissingId,
    /// How long a delivered event is remembered.
    pub remember: Duration,
    /// How long a claim holds without being settled.
    pub lease: Duration,
    /// Remember what was signed as well, where the signature does not cover the ID.
    pub replay_guard: bool,
}

/// Where an event's ID stands.
#[derive(Debug)]
pub enum EventId {
    /// The first of these that is there.
    Sources(Vec<Source>),
    /// SHA-256 of the body.
    BodyDigest,
}

/// What happens to an event without an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingId {
    /// Refused with `event_id_invalid`.
    Reject,
    /// Passes and is not remembered under an ID (the replay guard still holds).
    Skip,
}

/// The names of one event, and its ID for people and for the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedKeys {
    /// What to claim.
    pub keys: Keys,
    /// The ID as visible ASCII: `%` and whatever is not visible ASCII is percent-encoded, so that it fits a header and
    /// a log line and no two IDs look alike. The digest in hex for [`EventId::BodyDigest`]; `None` for an event
    /// without an ID.
    pub id: Option<Box<str>>,
}

impl Duplicates {
    /// The names of a verified event. `Ok(None)`: it has none and may pass ([`MissingId::Skip`]).
    ///
    /// `verified_content` is what [`Verified::content`](crate::check::signature::Verified) holds, `id_is_covered`
    /// whether the signature covers the ID. An event without an ID that may pass is still held by the replay guard:
    /// what was signed then takes the ID's place (same key as the content key, so that it also meets a copy that
    /// carries an ID).
    ///
    /// An empty ID counts as a missing one. One that is repeated, too long or holds CR, LF or NUL is always refused.
    pub fn keys(
        &self,
        route_name: &str,
        head: &Head<'_>,
        body: &[u8],
        verified_content: &[[u8; 32]],
        id_is_covered: bool,
    ) -> Result<Option<NamedKeys>, Reject> {
        let id = match &self.id {
            EventId::BodyDigest => Some(Id::Digest(Sha256::digest(body).into())),
            EventId::Sources(sources) => first(sources.iter().map(|source| source.read(head, body)))?,
        };
        self.named(route_name, id, verified_content, id_is_covered)
    }

    fn named(
        &self,
        route_name: &str,
        id: Option<Id<'_>>,
        verified_content: &[[u8; 32]],
        id_is_covered: bool,
    ) -> Result<Option<NamedKeys>, Reject> {
        let mut content = Vec::new();
        // A signature that covers the place of an ID says nothing of an event that has none there.
        let is_covered = id_is_covered && id.is_some();
        if self.id_repeats || (self.replay_guard && !is_covered) {
            for value in verified_content {
                // Two secrets may be the same one, listed twice.
                let key = key("content", route_name, value);
                if !content.contains(&key) {
                    content.push(key);
                }
            }
        }
        let (id, text) = match id {
            Some(Id::Given(value)) if self.id_repeats && !content.is_empty() => {
                (content.remove(0), Some(visible(&value)))
            }
            Some(Id::Given(value)) => (key("id", route_name, &value), Some(visible(&value))),
            Some(Id::Digest(digest)) => (key("id", route_name, &digest), Some(hex::encode(digest).into())),
            None if self.missing == MissingId::Reject => {
                return Err(Reason::EventIdInvalid.because("the event has no ID, or an empty one"));
            }
            None if content.is_empty() => return Ok(None),
            None => (content.remove(0), None),
        };
        Ok(Some(NamedKeys { keys: Keys { group: None, id, content }, id: text }))
    }
}

/// The first value that is there, if it is fit to be an ID. `None` also for an empty one: what stands behind it is not
/// asked, or whoever can blank an unsigned ID could choose among the others.
fn first<'a>(
    values: impl Iterator<Item = Result<Option<Cow<'a, [u8]>>, SourceError>>,
) -> Result<Option<Id<'a>>, Reject> {
    for value in values {
        let Some(value) = value.map_err(|error| Reason::EventIdInvalid.because(error.0))? else { continue };
        if value.len() > MAX_ID_BYTES {
            let detail = format!("the event ID has {} bytes, at most {MAX_ID_BYTES}", value.len());
            return Err(Reason::EventIdInvalid.because(detail));
        }
        if value.iter().any(|byte| b"\r\n\0".contains(byte)) {
            return Err(Reason::EventIdInvalid.because("the event ID has a CR, LF or NUL"));
        }
        // Two events in a row would have the same one.
        if matches!(&*value, b"true" | b"false") {
            return Err(Reason::EventIdInvalid.because("the event ID is `true` or `false`"));
        }
        return Ok((!value.is_empty()).then_some(Id::Given(value)));
    }
    Ok(None)
}

enum Id<'a> {
    Given(Cow<'a, [u8]>),
    Digest([u8; 32]),
}

/// The first half of a SHA-256 over length-prefixed parts: 2^64 tries for any two that collide, and nothing to gain.
fn key(domain: &str, route_name: &str, value: &[u8]) -> Key {
    let mut hash = Sha256::new();
    for part in [b"hookmoat", domain.as_bytes(), route_name.as_bytes(), value] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    Key(half)
}

pub(super) fn visible(value: &[u8]) -> Box<str> {
    // Only the odd one out is escaped.
    if let Ok(text) = std::str::from_utf8(value)
        && value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'%')
    {
        return text.into();
    }
    let mut text = String::with_capacity(value.len());
    for byte in value {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;

    const CONTENT: [[u8; 32]; 3] = [[1; 32], [2; 32], [1; 32]];

    fn by_body() -> Duplicates {
        Duplicates {
            id: EventId::BodyDigest,
            id_repeats: false,
            missing: MissingId::Reject,
            remember: Duration::from_secs(60),
            lease: Duration::from_secs(30),
            replay_guard: true,
        }
    }

    fn of_body(what: &Duplicates, route: &str, body: &[u8], content: &[[u8; 32]], covered: bool) -> NamedKeys {
        let head = Head { method: "POST", path: "/", query: None, host: "x", headers: Headers::List(&[]) };
        what.keys(route, &head, body, content, covered).unwrap().unwrap()
    }

    /// What the sources of an ID said, in their order.
    type Said<'a> = &'a [Result<Option<&'a [u8]>, &'a str>];

    fn of_sources(said: Said<'_>, missing: MissingId, content: &[[u8; 32]]) -> Result<Option<NamedKeys>, Reason> {
        let what = Duplicates { missing, ..by_body() };
        let values =
            said.iter().map(|value| value.map(|v| v.map(Cow::Borrowed)).map_err(|e| SourceError(e.to_owned())));
        first(values).and_then(|id| what.named("a", id, content, false)).map_err(|reject| reject.reason)
    }

    #[test]
    fn a_body_names_its_event_on_its_route() {
        let one = of_body(&by_body(), "a", b"body", &[], true);
        assert_eq!(one.id.as_deref(), Some("230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5"));
        assert_eq!(of_body(&by_body(), "a", b"body", &[], true), one);
        for (route, body) in [("a", &b"bodz"[..]), ("b", b"body"), ("ab", b"ody"), ("", b"abody"), ("a", b"")] {
            let other = of_body(&by_body(), route, body, &[], true);
            assert_ne!(other.keys.id, one.keys.id, "{route} {body:?}");
        }
    }

    #[test]
    fn keys_never_change_since_processes_share_them() {
        // printf '\0\0\0\0\0\0\0\x08hookmoat\0\0\0\0\0\0\0\x02id\0\0\0\0\0\0\0\x06github\0\0\0\0\0\0\0\x011' | sha256sum
        assert_eq!(hex::encode(key("id", "github", b"1").0), "ae1c5d9392a26f4f22d73571de5545e8");
        assert_ne!(key("id", "a", b"bc"), key("id", "ab", b"c"));
        assert_ne!(key("id", "a", b"x"), key("content", "a", b"x"));
    }

    #[test]
    fn what_was_signed_is_remembered_only_where_the_id_is_not_covered() {
        let keys = |guard, covered| {
            let what = Duplicates { replay_guard: guard, ..by_body() };
            of_body(&what, "a", b"body", &CONTENT, covered).keys.content
        };
        assert_eq!(keys(true, false), [key("content", "a", &[1; 32]), key("content", "a", &[2; 32])]);
        assert_eq!([keys(true, true), keys(false, false), keys(false, true)], [[]; 3]);
    }

    #[test]
    fn an_id_that_several_events_share_does_not_name_them() {
        let what = Duplicates { id_repeats: true, ..by_body() };
        let named = |id: &'static [u8], content: &[[u8; 32]], covered| {
            what.named("a", Some(Id::Given(Cow::Borrowed(id))), content, covered).unwrap().unwrap()
        };
        let [one, other] = [named(b"e1", &[[1; 32]], true), named(b"e1", &[[2; 32]], true)];
        assert_ne!(one.keys.id, other.keys.id);
        assert_eq!((one.id.as_deref(), other.id.as_deref()), (Some("e1"), Some("e1")));
        assert_eq!(one.keys, named(b"e1", &[[1; 32]], false).keys);
        // Where nothing is signed, there is nothing better than the ID.
        assert_eq!(named(b"e1", &[], true).keys.id, key("id", "a", b"e1"));
    }

    #[test]
    fn the_first_id_that_is_there_counts() {
        for said in [&[Ok(Some(&b"e1"[..]))][..], &[Ok(None), Ok(Some(b"e1")), Err("never read")]] {
            let named = of_sources(said, MissingId::Reject, &CONTENT).unwrap().unwrap();
            assert_eq!((named.keys.id, named.id.as_deref()), (key("id", "a", b"e1"), Some("e1")));
            assert_eq!(named.keys.content.len(), 2);
        }
        let longest = [b'x'; MAX_ID_BYTES];
        assert!(of_sources(&[Ok(Some(&longest))], MissingId::Reject, &[]).is_ok());
    }

    #[test]
    fn an_id_that_is_no_id_is_always_refused() {
        let too_long = [b'x'; MAX_ID_BYTES + 1];
        for said in [
            Err("repeated"),
            Ok(Some(&too_long[..])),
            Ok(Some(b"a\nb")),
            Ok(Some(b"a\rb")),
            Ok(Some(b"\0")),
            Ok(Some(b"true")),
            Ok(Some(b"false")),
        ] {
            for missing in [MissingId::Reject, MissingId::Skip] {
                assert_eq!(
                    of_sources(&[said, Ok(Some(b"e1"))], missing, &CONTENT),
                    Err(Reason::EventIdInvalid),
                    "{said:?}"
                );
            }
        }
    }

    #[test]
    fn an_event_without_an_id_is_refused_or_held_by_what_was_signed() {
        for said in [&[][..], &[Ok(None), Ok(None)], &[Ok(Some(&b""[..])), Ok(Some(b"e1"))]] {
            assert_eq!(of_sources(said, MissingId::Reject, &CONTENT), Err(Reason::EventIdInvalid), "{said:?}");
            assert_eq!(of_sources(said, MissingId::Skip, &[]), Ok(None), "{said:?}");
            let [first, second] = [1u8, 2].map(|n| key("content", "a", &[n; 32]));
            let expected = NamedKeys { keys: Keys { group: None, id: first, content: vec![second] }, id: None };
            assert_eq!(of_sources(said, MissingId::Skip, &CONTENT), Ok(Some(expected)), "{said:?}");
        }
    }

    #[test]
    fn what_was_signed_holds_an_event_without_an_id_also_where_the_signature_would_cover_one() {
        let what = Duplicates { missing: MissingId::Skip, ..by_body() };
        let named = what.named("a", None, &CONTENT[..1], true).unwrap().expect("a name");
        assert_eq!(named.keys.id, key("content", "a", &[1; 32]));
        let unguarded = Duplicates { replay_guard: false, ..what };
        assert_eq!(unguarded.named("a", None, &CONTENT, true).unwrap(), None);
    }

    #[test]
    fn ids_become_visible_ascii_without_meeting() {
        for (id, text) in [
            (&b"evt_1-2.3:4/5"[..], "evt_1-2.3:4/5"),
            (b"a b", "a%20b"),
            (b"a%20b", "a%2520b"),
            (b"%%", "%25%25"),
            (b"", ""),
            (b"\xc3\xa9\t\x7f", "%C3%A9%09%7F"),
        ] {
            assert_eq!(&*visible(id), text);
        }
    }
}
