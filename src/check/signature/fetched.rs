//! Public keys that senders publish, as they are known at this moment.
//!
//! A shelf holds what was fetched for one place: a set of keys, certificates by their URL, or keys by their name. The
//! room that fetches fills it; a check reads it, says what it misses ([`Shelf::wanted`]), and judges with what is there.
//! A URL in a message chooses among the places that its scheme pins, and is looked at by nobody where it does not fit;
//! so does the name of a key.

use super::asked::Asking;
use super::keys::{KeySet, PublicAlgorithm};
use crate::check::source::Source;
use crate::fetch::target::{Pin, Target};
use crate::reject::{Reason, Reject};
use crate::request::{Head, Now};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long a set is used after the last time that it could be fetched: a key that its sender took back must not count
/// for ever because somebody is in the way.
pub(crate) const KEEP: Duration = Duration::from_secs(72 * 3600);
/// A key that was not in the set so short a while ago does not exist.
const FRESH: Duration = Duration::from_secs(60);
/// Single keys, and names that led to none, that one shelf holds.
const MAX_GOOD: usize = 64;
const MAX_BAD: usize = 256;

/// Where public keys are published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysAt {
    /// A set of keys (RFC 7517).
    Jwks(Target),
    /// The metadata of an OpenID provider, which say where its set of keys is: at the same host.
    OpenId(Target),
    /// A certificate whose URL the message names.
    Certificate(CertificateRule),
    /// A key that is given out by the name that the message gives.
    Asked(Box<Asking>),
}

/// Which certificates count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// Where the message names the URL.
    pub url: Source,
    /// The URLs that count.
    pub pins: Box<[Pin]>,
    /// Names of which the certificate must have one: `sns.amazonaws.com`. A star stands for a part of a label.
    pub names: Box<[Box<str>]>,
    /// Must it lead to one of the roots that TLS trusts? Some senders publish it without what is between.
    pub chain: bool,
}

/// What was fetched for one place.
pub struct Shelf {
    /// A metric label: host and path, or the pattern. No two shelves have the same.
    pub name: Box<str>,
    /// The place.
    pub at: KeysAt,
    set: ArcSwapOption<Held>,
    single: ArcSwap<HashMap<Name, Known>>,
}

/// Which of the keys that are fetched one by one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// Where it is.
    pub url: Target,
    /// What the message calls it, where that is not the URL.
    pub id: Option<Box<str>>,
}

/// A set in force.
#[derive(Clone, Debug)]
pub struct Held {
    /// The keys.
    pub keys: Arc<KeySet>,
    /// When it was last fetched, in seconds since 1970.
    pub fetched: i64,
}

/// What is known of one name.
#[derive(Clone, Debug)]
pub enum Known {
    /// Its key, and the time in which it counts, in seconds since 1970.
    Good(Arc<KeySet>, std::ops::RangeInclusive<i64>),
    /// It led to something that is no good, or to nothing; not asked for again until then.
    Refused(Instant),
    /// It could not be fetched; not asked for again until then.
    Failed(Instant),
}

/// What a request asks a shelf for.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    /// The name of the key that the request says it was signed with.
    pub(crate) id: Option<&'a str>,
    pub(crate) algorithm: PublicAlgorithm,
    pub(crate) head: &'a Head<'a>,
    pub(crate) body: &'a [u8],
    pub(crate) now: Now,
}

/// Something that has to be fetched before a request can be judged.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where it belongs.
    pub shelf: Arc<Shelf>,
    /// `None`: the set, which has not the key that the request names. Else a key of its own.
    pub single: Option<Name>,
}

impl Shelf {
    /// The one shelf of a place. All routes share it, and so do the policies before and after a reload.
    pub fn of(at: &KeysAt) -> Arc<Self> {
        static ALL: Mutex<Vec<Weak<Shelf>>> = Mutex::new(Vec::new());
        let mut all = ALL.lock();
        all.retain(|shelf| shelf.strong_count() > 0);
        if let Some(shelf) = all.iter().filter_map(Weak::upgrade).find(|shelf| shelf.at == *at) {
            return shelf;
        }
        let name = match at {
            KeysAt::Jwks(target) | KeysAt::OpenId(target) => format!("{}{}", target.authority(), target.path()),
            KeysAt::Certificate(rule) => rule.pins.first().map(Pin::to_string).unwrap_or_default(),
            KeysAt::Asked(asking) => asking.label(),
        };
        let name = name.strip_prefix("https://").unwrap_or(&name);
        let taken = |name: &str| all.iter().filter_map(Weak::upgrade).any(|shelf| *shelf.name == *name);
        // The same place, asked with other credentials or otherwise.
        let mut numbers = (2..).map(|number| format!("{name} ({number})"));
        let name = if taken(name) { numbers.find(|name| !taken(name)) } else { Some(name.to_owned()) };
        let name = name.unwrap_or_default().into();
        let shelf = Self { name, at: at.clone(), set: ArcSwapOption::empty(), single: ArcSwap::default() };
        let shelf = Arc::new(shelf);
        all.push(Arc::downgrade(&shelf));
        shelf
    }

    /// The set in force.
    pub fn held(&self) -> Option<Held> {
        self.set.load().as_deref().cloned()
    }

    /// Puts a set in force.
    pub fn put(&self, held: Held) {
        self.set.store(Some(Arc::new(held)));
    }

    /// Notes what a name led to. Good keys are kept before others; what does not fit is not remembered.
    pub fn note(&self, name: Name, found: Known, now: Now) {
        self.single.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.retain(|_, one| one.counts(now));
            let others = known.iter().filter(|(known, _)| **known != name);
            let (good, bad): (Vec<_>, Vec<_>) = others.partition(|(_, one)| one.is_good());
            let room = if found.is_good() { good.len() < MAX_GOOD } else { bad.len() < MAX_BAD };
            if room {
                known.insert(name.clone(), found.clone());
            }
            known
        });
    }

    /// What is known of a name and still counts.
    pub fn known(&self, name: &Name, now: Now) -> Option<Known> {
        self.single.load().get(name).filter(|known| known.counts(now)).cloned()
    }

    /// The names of the single keys in force.
    pub fn names(&self, now: Now) -> Vec<Name> {
        let good = |known: &Known| known.is_good() && known.counts(now);
        self.single.load().iter().filter(|(_, known)| good(known)).map(|(name, _)| name.clone()).collect()
    }

    /// Keys in force.
    pub fn len(&self) -> usize {
        self.set.load().as_ref().map_or(0, |held| held.keys.len())
            + self.single.load().values().filter(|known| known.is_good()).count()
    }

    /// Is nothing in force?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Is a key in force that came from this host?
    pub fn knows_host(&self, host: &str) -> bool {
        self.single.load().iter().any(|(name, known)| name.url.host() == host && known.is_good())
    }

    /// Nothing can be verified before the first fetch. Single keys are fetched when the first message names one.
    pub fn lacks(&self, now: Now) -> bool {
        matches!(self.at, KeysAt::Jwks(_) | KeysAt::OpenId(_)) && self.usable(now).is_none()
    }

    fn usable(&self, now: Now) -> Option<Held> {
        self.held().filter(|held| now.unix_seconds().saturating_sub(held.fetched) < KEEP.as_secs() as i64)
    }

    /// The URL that a message names, if it is one of the pinned. What it holds instead is not quoted.
    fn url(&self, rule: &CertificateRule, ask: &Ask<'_>) -> Result<Target, Reject> {
        let source = &rule.url;
        let value = source.read(ask.head, ask.body).map_err(|error| Reason::SignatureMalformed.because(error.0))?;
        let value = value.ok_or_else(|| Reason::SignatureMissing.because(format!("no {source}")))?;
        let url = std::str::from_utf8(&value).unwrap_or_default();
        let mut why = "is not at a host that the sender uses".to_owned();
        for pin in &rule.pins {
            match pin.target(url) {
                Ok(target) => return Ok(target),
                Err(what) => why = what,
            }
        }
        Err(Reason::SignatureMismatch.because(format!("the URL in {source} {why}")))
    }

    /// The single key that a message names, if it may.
    fn name(&self, ask: &Ask<'_>) -> Result<Option<Name>, Reject> {
        match &self.at {
            KeysAt::Jwks(_) | KeysAt::OpenId(_) => Ok(None),
            KeysAt::Certificate(rule) => Ok(Some(Name { url: self.url(rule, ask)?, id: None })),
            KeysAt::Asked(asking) => {
                let id = ask.id.ok_or_else(|| Reason::SignatureMalformed.because("the message names no key"))?;
                let none =
                    || Reason::SignatureMismatch.because("the message names its key in a way that no sender does");
                Ok(Some(Name { url: asking.target(id).ok_or_else(none)?, id: Some(id.into()) }))
            }
        }
    }

    /// What has to be fetched before the request can be judged, if anything.
    pub(crate) fn wanted(self: &Arc<Self>, ask: &Ask<'_>) -> Option<Wanted> {
        let single = match &self.at {
            KeysAt::Certificate(_) | KeysAt::Asked(_) => {
                let name = self.name(ask).ok()??;
                if self.known(&name, ask.now).is_some() {
                    return None;
                }
                Some(name)
            }
            KeysAt::Jwks(_) | KeysAt::OpenId(_) => match self.usable(ask.now) {
                Some(held) if held.keys.has(ask.algorithm, ask.id) => return None,
                _ => None,
            },
        };
        Some(Wanted { shelf: self.clone(), single })
    }

    /// The keys for a request.
    pub(crate) fn keys(&self, ask: &Ask<'_>) -> Result<Arc<KeySet>, Reject> {
        match self.name(ask)? {
            Some(name) => match self.known(&name, ask.now) {
                Some(Known::Good(keys, _)) => Ok(keys),
                Some(Known::Refused(_)) => Err(Reason::SignatureMismatch
                    .because("the key or certificate that the message names is not the sender's")),
                Some(Known::Failed(_)) | None => Err(Reason::KeysUnavailable
                    .because("the key or certificate that the message names could not be fetched")),
            },
            None => {
                let Some(held) = self.usable(ask.now) else {
                    return Err(Reason::KeysUnavailable.because(format!("no keys of {}", self.name)));
                };
                let age = ask.now.unix_seconds().saturating_sub(held.fetched);
                if !held.keys.has(ask.algorithm, ask.id) && age >= FRESH.as_secs() as i64 {
                    return Err(Reason::KeysUnavailable.because("a key that is not among those fetched last"));
                }
                Ok(held.keys)
            }
        }
    }
}

impl Known {
    /// Is it a key?
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Good(..))
    }

    fn counts(&self, now: Now) -> bool {
        match self {
            Self::Good(_, valid) => valid.contains(&now.unix_seconds()),
            Self::Refused(until) | Self::Failed(until) => now.instant < *until,
        }
    }
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shelf({})", self.name)
    }
}

/// The keys that a request is verified with: some at hand, some on shelves.
#[derive(Debug, Default)]
pub(super) struct Sets {
    pub(super) fixed: Vec<Arc<KeySet>>,
    pub(super) shelves: Vec<Arc<Shelf>>,
}

impl Sets {
    pub(super) fn wanted(&self, ask: &Ask<'_>) -> Option<Wanted> {
        let at_hand = ask.id.is_some() && self.fixed.iter().any(|keys| keys.has(ask.algorithm, ask.id));
        if at_hand { None } else { self.shelves.iter().find_map(|shelf| shelf.wanted(ask)) }
    }

    /// All of them. What a shelf lacks is an error only where none of the others fits.
    pub(super) fn all(self, ask: &Ask<'_>) -> Result<Vec<Arc<KeySet>>, Reject> {
        let (mut sets, mut lacking) = (self.fixed, None);
        for shelf in self.shelves {
            match shelf.keys(ask) {
                Ok(keys) => sets.push(keys),
                Err(reject) => lacking = Some(reject),
            }
        }
        match lacking {
            Some(reject) if !sets.iter().any(|keys| keys.has(ask.algorithm, ask.id)) => Err(reject),
            _ => Ok(sets),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;

    /// RFC 8037, under two names.
    const SET: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    const NOW: u64 = 1_700_000_000;

    fn target(url: &str) -> Target {
        Target::parse(url).unwrap()
    }

    fn set() -> Arc<KeySet> {
        Arc::new(KeySet::parse(SET.as_bytes()).unwrap())
    }

    fn jwks(url: &str) -> KeysAt {
        KeysAt::Jwks(target(url))
    }

    fn ask(id: Option<&str>, now: Now) -> Ask<'_> {
        const HEAD: Head<'static> =
            Head { method: "POST", path: "/", query: None, host: "h", headers: Headers::List(&[]) };
        Ask { id, algorithm: PublicAlgorithm::Ed25519, head: &HEAD, body: b"", now }
    }

    fn age(seconds: u64) -> Held {
        Held { keys: set(), fetched: i64::try_from(NOW - seconds).unwrap() }
    }

    #[test]
    fn a_place_has_one_shelf_with_a_name_of_its_own() {
        let (one, two) = (jwks("https://shelf.example/keys"), KeysAt::OpenId(target("https://shelf.example/keys")));
        let first = Shelf::of(&one);
        assert!(Arc::ptr_eq(&first, &Shelf::of(&one)));
        let second = Shelf::of(&two);
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!((&*first.name, &*second.name), ("shelf.example/keys", "shelf.example/keys (2)"));
        assert_eq!(format!("{first:?}"), "Shelf(shelf.example/keys)");
        drop((first, second));
        // Nothing of it is left when nobody needs it any more.
        assert_eq!(&*Shelf::of(&two).name, "shelf.example/keys");
    }

    #[test]
    fn a_set_counts_for_three_days_after_it_was_fetched() {
        let shelf = Shelf::of(&jwks("https://age.example/keys"));
        let now = Now::at_unix(NOW);
        assert!(shelf.lacks(now) && shelf.is_empty());
        for (seconds, counts) in [(0, true), (3 * 24 * 3600 - 1, true), (3 * 24 * 3600, false)] {
            shelf.put(age(seconds));
            assert_eq!((shelf.lacks(now), shelf.keys(&ask(Some("a"), now)).is_ok()), (!counts, counts), "{seconds}");
            assert_eq!((shelf.len(), shelf.is_empty()), (1, false));
        }
        shelf.put(Held { fetched: i64::MAX, ..age(0) });
        assert!(!shelf.lacks(now));
    }

    #[test]
    fn a_key_that_is_missing_is_fetched_but_not_again_and_again() {
        let shelf = Shelf::of(&jwks("https://missing.example/keys"));
        let now = Now::at_unix(NOW);
        let reason = |id| shelf.keys(&ask(id, now)).err().map(|reject| reject.reason);
        for (seconds, id, wanted, refused) in [
            (59, Some("a"), false, None),
            (59, Some("b"), true, None),
            (60, Some("b"), true, Some(Reason::KeysUnavailable)),
            (60, Some("a"), false, None),
            (60, None, false, None),
        ] {
            shelf.put(age(seconds));
            assert_eq!(shelf.wanted(&ask(id, now)).is_some(), wanted, "{seconds} {id:?}");
            assert_eq!(reason(id), refused, "{seconds} {id:?}");
        }
        // What the route knows by itself is used whatever a shelf lacks.
        let empty = || vec![Shelf::of(&jwks("https://empty.example/keys"))];
        for (fixed, id, wanted, fine) in [
            (vec![], Some("a"), true, false),
            (vec![set()], Some("a"), false, true),
            (vec![set()], Some("b"), true, false),
            (vec![set()], None, true, true),
        ] {
            let sets = Sets { fixed, shelves: empty() };
            assert_eq!(sets.wanted(&ask(id, now)).is_some(), wanted, "{id:?}");
            assert_eq!(sets.all(&ask(id, now)).is_ok(), fine, "{id:?}");
        }
    }

    #[test]
    fn single_keys_are_bounded_and_end() {
        let shelf = Shelf::of(&jwks("https://single.example/keys"));
        let name = |at: usize| Name { url: target(&format!("https://single.example/{at}")), id: None };
        let now = Now::at_unix(NOW);
        let good = || Known::Good(set(), 0..=i64::try_from(NOW).unwrap());
        let bad = || Known::Refused(now.instant + Duration::from_secs(1));
        (0..MAX_GOOD + 1).for_each(|at| shelf.note(name(at), good(), now));
        (1000..1000 + MAX_BAD + 1).for_each(|at| shelf.note(name(at), bad(), now));
        let counts = |at: usize| shelf.known(&name(at), now).is_some();
        assert_eq!((shelf.names(now).len(), shelf.len()), (MAX_GOOD, MAX_GOOD));
        assert!(counts(MAX_GOOD - 1) && !counts(MAX_GOOD) && counts(1000 + MAX_BAD - 1) && !counts(1000 + MAX_BAD));
        // A full shelf still learns more of what stands there.
        shelf.note(name(0), bad(), now);
        assert_eq!(shelf.names(now).len(), MAX_GOOD);
        shelf.note(name(0), Known::Good(set(), 0..=7), now);
        assert!(!counts(0));
        shelf.note(name(0), good(), now);
        assert!(counts(0) && shelf.knows_host("single.example") && !shelf.knows_host("other.example"));
        // Each to its end, and not beyond.
        let later =
            |seconds: u64| Now { instant: now.instant + Duration::from_secs(seconds), ..Now::at_unix(NOW + seconds) };
        assert!(shelf.known(&name(1), later(1)).is_none() && shelf.known(&name(1000), later(1)).is_none());
        assert!(shelf.names(later(1)).is_empty());
        let none = Shelf::of(&jwks("https://none.example/keys"));
        none.note(name(1), bad(), now);
        assert!(none.is_empty() && none.names(now).is_empty() && !none.knows_host("single.example"));
    }
}
