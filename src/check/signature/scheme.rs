//! How a sender proves where a request is from, compiled and without secrets.
//!
//! A [`Scheme`] is one or more [`Alternative`]s; the head decides which one counts, in order, so that a request that
//! carries the better proof is never judged by the weaker one. A further kind of proof is a further [`Algorithm`] or
//! [`Proof`] variant; places, templates and timestamps stay as they are.

use super::asked::KeyQuestion;
use super::fetched::KeysAt;
use super::header::{Encoding, Place};
use super::keys::PublicAlgorithm;
use super::mac::Hash;
use super::message::MessageRules;
use super::template::{NamedIn, Part, SignedHeaders, Template};
use super::timestamp::{TimestampPlace, TimestampRule};
use super::token::TokenRules;
use super::url::UrlForm;
use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::{Head, HeaderName};
use std::collections::BTreeMap;
use std::time::Duration;

/// A compiled scheme. Made by [`crate::config::scheme::RawScheme::compile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheme {
    pub(crate) alternatives: Vec<Alternative>,
}

/// One way to prove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alternative {
    /// What people call it: `v3`.
    pub(crate) name: Option<Box<str>>,
    /// When it counts. `None`: whenever no earlier one did.
    pub(crate) when: Option<When>,
    pub(crate) proof: Proof,
    pub(crate) keys: KeyOrigin,
    /// It counts only where a route names it: nothing in the request tells it from the others.
    pub(crate) by_choice: bool,
}

/// What a proof is verified with, and where that is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyOrigin {
    /// Secrets of the route.
    Secrets,
    /// Public keys of the route.
    PublicKeys,
    /// Public keys of the route, or credentials of the route with which the sender is asked for them.
    Asked(Box<KeyQuestion>),
    /// Public keys that the sender publishes; the route's own where it has some.
    Fetched(KeysAt),
    /// A public key that comes with each message, in a chain of certificates; the route's own keys where it has some.
    Brought,
}

/// What of the head makes an alternative count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct When {
    /// A header or query parameter that stands.
    pub(crate) source: Source,
    /// The value it has; `None`: any.
    pub(crate) is: Option<Box<str>>,
    /// What the value starts with.
    pub(crate) starts_with: Option<Box<str>>,
}

/// The kinds of proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Something computed over parts of the request.
    Signed(Box<Signed>),
    /// The secret itself stands in the request.
    Shared(Place),
    /// A JSON Web Token or a detached JSON Web Signature.
    Token(Box<TokenRules>),
    /// An HTTP Message Signature.
    Message(Box<MessageRules>),
}

/// A signature over parts of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: KeyForm,
    pub(crate) from: Place,
    /// Further headers that may hold a signature of the same form, made with another key.
    pub(crate) also: Box<[Source]>,
    /// Where the request says which public key it was signed with.
    pub(crate) key_id: Option<Source>,
    pub(crate) signed: Template,
    /// What `{signed_headers}` stands for.
    pub(crate) headers: Option<SignedHeaders>,
    /// Every item of the JSON body that this pointer leads to is signed by itself, and is the body for all sources.
    pub(crate) each: Option<Box<str>>,
    pub(crate) timestamp: Option<TimestampRule>,
    pub(crate) require: Vec<Requirement>,
    /// The message says which of these algorithms it was signed with. All are of one sort.
    pub(crate) algorithm_by: Option<AlgorithmBy>,
}

/// Algorithms that a message chooses among.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AlgorithmBy {
    pub(crate) source: Source,
    pub(crate) values: Box<[(Box<str>, PublicAlgorithm)]>,
}

/// How a signature is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    Hmac(Hash),
    /// A plain digest over a text that holds the secret.
    Digest(Hash),
    /// A public-key signature.
    Public(PublicAlgorithm),
}

impl std::fmt::Display for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hmac(hash) => write!(f, "hmac-{hash}"),
            Self::Digest(hash) => write!(f, "{hash}"),
            Self::Public(algorithm) => write!(f, "{algorithm}"),
        }
    }
}

/// How the key is made of the configured secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyForm {
    pub(crate) encoding: Encoding,
    /// Removed if it stands there: `whsec_`.
    pub(crate) strip_prefix: Box<str>,
    /// Put behind it.
    pub(crate) append: Box<str>,
    /// It is brought into Unicode's NFKD first.
    pub(crate) nfkd: bool,
    pub(crate) derive: Option<Derivation>,
}

/// What else becomes of a secret before it is a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Derivation {
    /// The key is its digest.
    Digest(Hash),
    /// It is repeated until 32 bytes are full, which are the seed of an Ed25519 key.
    /// <https://bot.q.qq.com/wiki/develop/api-v2/dev-prepare/interface-framework/sign.html>
    Ed25519Seed,
}

/// Something that must hold besides the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    pub(crate) source: Source,
    pub(crate) must: Must,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Must {
    /// Hold this text.
    Equal(Box<str>),
    /// Hold what the route says under `settings`. A text once a scheme is bound.
    Setting(Box<str>),
    /// Hold the digest of the body.
    BodyDigest(Hash, Encoding),
}

impl Requirement {
    pub(crate) fn needs_body(&self) -> bool {
        self.source.needs_body() || matches!(self.must, Must::BodyDigest(..))
    }
}

impl When {
    /// Does the alternative count? A value that stands twice is an error: which one decides is not for us to choose.
    pub(crate) fn holds(&self, head: &Head<'_>) -> Result<bool, String> {
        let value = self.source.read(head, &[]).map_err(|error| error.0)?;
        let Some(value) = value else { return Ok(false) };
        Ok(self.is.as_ref().is_none_or(|is| *value == *is.as_bytes())
            && self.starts_with.as_ref().is_none_or(|start| value.starts_with(start.as_bytes())))
    }
}

impl Signed {
    /// The public-key algorithm that a message was signed with: one of those that the scheme names.
    pub(crate) fn public_algorithm(&self, head: &Head<'_>, body: &[u8]) -> Result<PublicAlgorithm, Reject> {
        let Some(by) = &self.algorithm_by else {
            return match self.algorithm {
                Algorithm::Public(algorithm) => Ok(algorithm),
                Algorithm::Hmac(_) | Algorithm::Digest(_) => Err(Reason::Internal.into()),
            };
        };
        let malformed = |what: String| Reason::SignatureMalformed.because(what);
        let value = by.source.read(head, body).map_err(|error| malformed(error.0))?;
        let value = value.ok_or_else(|| malformed(format!("{} is missing", by.source)))?;
        let chosen = by.values.iter().find(|(known, _)| known.as_bytes() == &*value);
        chosen
            .map(|(_, algorithm)| *algorithm)
            .ok_or_else(|| malformed(format!("{} names no algorithm that the scheme accepts", by.source)))
    }

    /// Is the timestamp the one that `place` describes?
    pub(crate) fn is_time(&self, place: impl FnOnce(&TimestampPlace) -> bool) -> bool {
        self.timestamp.as_ref().is_some_and(|rule| place(&rule.place))
    }

    /// Does a change of this value break the signature?
    pub(crate) fn covers(&self, source: &Source) -> bool {
        let parts = &self.signed.parts;
        if let Some(each) = &self.each {
            // The items are the bodies that sources are read from.
            let inside = match source {
                Source::Json(pointer) => pointer.strip_prefix(&**each).filter(|rest| rest.starts_with('/')),
                _ => None,
            };
            return inside.is_some_and(|inside| {
                self.signed.has(&Part::Value(Source::Json(inside.into())))
                    || self.signed.has(&Part::Optional(Source::Json(inside.into())))
                    || self.signed.has_open(&Source::Json(inside.into()))
            });
        }
        let in_lines =
            |part: &Part| matches!(part, Part::JsonLines(members) if members.iter().any(|member| member.0 == *source));
        let as_value = self.signed.has(&Part::Value(source.clone()))
            || parts.iter().any(in_lines)
            || self.signed.has(&Part::Optional(source.clone()))
            || self.signed.has_open(source)
            || self.signed.has(&Part::AnyCase(source.clone()))
            || matches!((source, &self.headers), (Source::Header(name), Some(headers)) if headers.require.contains(name));
        let as_time = self.signed.has(&Part::Timestamp)
            && self.is_time(|place| matches!(place, TimestampPlace::Source(time) if time == source));
        let as_whole = match source {
            Source::Header(_) => false,
            Source::Query(_) => parts.iter().any(|part| {
                matches!(
                    part,
                    Part::Url(_) | Part::Query | Part::PathAndQuery | Part::EscapedPathAndQuery | Part::QuerySorted
                )
            }),
            Source::Form(_) => {
                self.signed.has_body()
                    || self.signed.has(&Part::FormSorted)
                    || parts.iter().any(|part| match part {
                        Part::FormPairs(but, either) => {
                            !matches!(source, Source::Form(name) if but.contains(name) || either.contains(name))
                        }
                        Part::FormListed(but) => !matches!(source, Source::Form(name) if but.contains(name)),
                        _ => false,
                    })
                    || self.signed.has(&Part::Url(UrlForm::PlivoV3))
            }
            Source::Json(_) => self.signed.has_json(),
            Source::Xml(_) => self.signed.has_body(),
            Source::Inside(..) => false,
        };
        let as_outer = matches!(source, Source::Inside(outer, _) if self.covers(outer));
        as_value || as_time || as_whole || as_outer || (source.needs_body() && self.digest_covers_body())
    }

    /// Does a signed value hold the digest of the body?
    fn digest_covers_body(&self) -> bool {
        self.require.iter().any(|requirement| {
            matches!(requirement.must, Must::BodyDigest(..))
                && !requirement.source.needs_body()
                && self.covers(&requirement.source)
        })
    }

    /// Is the text nothing but a time? Then it names no event.
    pub(crate) fn is_only_a_time(&self) -> bool {
        let time = |part: &Part| match part {
            Part::Literal(_) | Part::Timestamp | Part::Secret => true,
            Part::Value(source) => {
                self.is_time(|place| matches!(place, TimestampPlace::Source(time) if time == source))
            }
            _ => false,
        };
        self.timestamp.is_some() && self.signed.parts.iter().all(time)
    }

    /// Is the time part of what is signed? Otherwise an old body replays under a fresh time.
    pub(crate) fn signs_its_time(&self) -> bool {
        match self.timestamp.as_ref().map(|rule| &rule.place) {
            None => true,
            Some(_) if self.signed.has(&Part::Timestamp) => true,
            Some(TimestampPlace::Field(name)) => self.signed.has(&Part::Field(name.clone())),
            Some(TimestampPlace::Source(source)) => self.covers(source),
        }
    }
}

impl Scheme {
    fn signed(&self) -> impl Iterator<Item = &Signed> {
        self.alternatives.iter().filter_map(|alternative| match &alternative.proof {
            Proof::Signed(signed) => Some(&**signed),
            Proof::Shared(_) | Proof::Token(_) | Proof::Message(_) => None,
        })
    }

    fn tokens(&self) -> impl Iterator<Item = &TokenRules> {
        self.alternatives.iter().filter_map(|alternative| match &alternative.proof {
            Proof::Token(rules) => Some(&**rules),
            Proof::Shared(_) | Proof::Signed(_) | Proof::Message(_) => None,
        })
    }

    fn messages(&self) -> impl Iterator<Item = &MessageRules> {
        self.alternatives.iter().filter_map(|alternative| match &alternative.proof {
            Proof::Message(rules) => Some(&**rules),
            _ => None,
        })
    }

    /// Does a route need secrets for it?
    pub fn needs_secrets(&self) -> bool {
        self.alternatives.iter().any(|alternative| alternative.keys == KeyOrigin::Secrets)
    }

    /// Does a route need public keys for it?
    pub fn needs_public_keys(&self) -> bool {
        let of_the_route = |keys: &KeyOrigin| matches!(keys, KeyOrigin::PublicKeys | KeyOrigin::Asked(_));
        self.alternatives.iter().any(|alternative| of_the_route(&alternative.keys))
    }

    /// How the sender is asked for keys by those who have credentials.
    pub fn key_question(&self) -> Option<&KeyQuestion> {
        self.alternatives.iter().find_map(|alternative| match &alternative.keys {
            KeyOrigin::Asked(question) => Some(&**question),
            _ => None,
        })
    }

    /// Does a message bring its own key, which only its sender could have certified?
    pub fn brings_keys(&self) -> bool {
        self.alternatives.iter().any(|alternative| alternative.keys == KeyOrigin::Brought)
    }

    /// Can public keys of a route be used for it?
    pub fn takes_public_keys(&self) -> bool {
        self.alternatives.iter().any(|alternative| alternative.keys != KeyOrigin::Secrets)
    }

    /// What a route has to say under `settings`.
    pub fn settings(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for signed in self.signed() {
            names.extend(signed.signed.parts.iter().filter_map(|part| match part {
                Part::Setting(name) => Some(&**name),
                _ => None,
            }));
            names.extend(signed.require.iter().filter_map(|requirement| match &requirement.must {
                Must::Setting(name) => Some(&**name),
                _ => None,
            }));
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The scheme with these settings in place.
    pub(crate) fn with_settings(mut self, settings: &BTreeMap<Box<str>, Box<str>>) -> Self {
        for alternative in &mut self.alternatives {
            let Proof::Signed(signed) = &mut alternative.proof else { continue };
            for part in &mut signed.signed.parts {
                if let Part::Setting(name) = part
                    && let Some(text) = settings.get(name)
                {
                    *part = Part::Literal(text.clone());
                }
            }
            for requirement in &mut signed.require {
                if let Must::Setting(name) = &requirement.must
                    && let Some(text) = settings.get(name)
                {
                    requirement.must = Must::Equal(text.clone());
                }
            }
        }
        self
    }

    /// Is a token among the proofs?
    pub fn has_token(&self) -> bool {
        self.tokens().next().is_some()
    }

    /// Claims that the route must fix, since only its operator knows them: `aud`.
    pub fn configured_claims(&self) -> Vec<&str> {
        let mut names: Vec<&str> =
            self.tokens().flat_map(|rules| rules.configured.iter().map(|name| &**name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Names of the alternatives, where they have one: `v3`, `v2`, `v1`.
    pub fn variants(&self) -> impl Iterator<Item = &str> {
        self.alternatives.iter().filter_map(|alternative| alternative.name.as_deref())
    }

    /// Only the alternatives with these names, for routes that refuse what the sender no longer needs. An unknown name
    /// is the error.
    pub fn only<'n>(mut self, names: &[&'n str]) -> Result<Self, &'n str> {
        if let Some(unknown) = names.iter().find(|name| !self.variants().any(|known| known == **name)) {
            return Err(unknown);
        }
        self.alternatives.retain(|alternative| alternative.name.as_deref().is_some_and(|name| names.contains(&name)));
        self.alternatives.iter_mut().for_each(|alternative| alternative.by_choice = false);
        Ok(self)
    }

    /// What counts on a route that names no variants.
    pub(crate) fn without_choices(mut self) -> Self {
        self.alternatives.retain(|alternative| !alternative.by_choice);
        self
    }

    /// Does the signature break when this value changes, whichever alternative counts?
    pub fn covers(&self, source: &Source) -> bool {
        self.alternatives.iter().all(|alternative| match &alternative.proof {
            Proof::Signed(signed) => signed.covers(source),
            Proof::Shared(_) => false,
            Proof::Message(rules) => match source.outermost() {
                Source::Header(name) => rules.covers_header(name),
                Source::Query(_) => rules.covers_query(),
                _ => rules.covers_body(),
            },
            Proof::Token(rules) => {
                rules.claims_stand_in(source)
                    || match source.outermost() {
                        Source::Header(_) => false,
                        Source::Query(_) => rules.covers_url(),
                        _ => rules.covers_body(),
                    }
            }
        })
    }

    /// Does the signature break when any byte of the body changes, whichever alternative counts?
    pub fn covers_body(&self) -> bool {
        self.alternatives.iter().all(|alternative| match &alternative.proof {
            Proof::Signed(signed) => signed.each.is_none() && (signed.signed.has_body() || signed.digest_covers_body()),
            Proof::Token(rules) => rules.covers_body(),
            Proof::Message(rules) => rules.covers_body(),
            Proof::Shared(_) => false,
        })
    }

    /// Does the sender sign the URL, so that the route must say how it is known outside?
    pub fn needs_public_url(&self) -> bool {
        self.signed()
            .any(|signed| signed.signed.parts.iter().any(|part| matches!(part, Part::Url(_) | Part::PublicUrl)))
            || self.tokens().any(TokenRules::covers_url)
            || self.messages().any(MessageRules::needs_public_url)
    }

    /// How long a captured request can be sent again: the whole window of the timestamp. `None`: for ever, since no
    /// time is signed.
    pub fn replay_window(&self) -> Option<Duration> {
        self.signed()
            .filter_map(|signed| signed.timestamp.as_ref())
            .map(|rule| rule.past.saturating_add(rule.future))
            .chain(self.messages().map(|rules| rules.past.saturating_add(rules.future)))
            .chain(self.tokens().filter_map(|rules| {
                // From a time ahead by the leeway to an age of as much more.
                Some(rules.max_age?.saturating_add(rules.leeway.saturating_mul(2)))
            }))
            .max()
    }

    /// Every header that the scheme reads.
    pub fn headers(&self) -> Vec<HeaderName> {
        let mut names = Vec::new();
        let mut add = |source: &Source| {
            if let Source::Header(name) = source.outermost()
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        };
        for alternative in &self.alternatives {
            alternative.when.iter().for_each(|when| add(&when.source));
            match &alternative.proof {
                Proof::Shared(place) => add(&place.source),
                Proof::Message(rules) => {
                    for name in ["signature-input", "signature", "content-digest"] {
                        add(&Source::Header(HeaderName::from_static(name)));
                    }
                    let named = rules.require.iter().filter(|component| !component.starts_with('@'));
                    for name in named.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()) {
                        add(&Source::Header(name));
                    }
                }
                Proof::Token(rules) => rules.source().into_iter().for_each(&mut add),
                Proof::Signed(signed) => {
                    add(&signed.from.source);
                    signed.also.iter().for_each(&mut add);
                    signed.key_id.iter().for_each(&mut add);
                    if let Some(TimestampRule { place: TimestampPlace::Source(source), .. }) = &signed.timestamp {
                        add(source);
                    }
                    signed.require.iter().for_each(|requirement| add(&requirement.source));
                    for part in signed.signed.leaves() {
                        match part {
                            Part::Value(source)
                            | Part::Optional(source)
                            | Part::AnyCase(source)
                            | Part::Open(source, _) => add(source),
                            Part::InflatedBody => add(&Source::Header(http::header::CONTENT_ENCODING)),
                            _ => {}
                        }
                    }
                    if let Some(headers) = &signed.headers {
                        if let NamedIn::Header(name) = &headers.named_in {
                            add(&Source::Header(name.clone()));
                        }
                        headers.require.iter().for_each(|name| add(&Source::Header(name.clone())));
                    }
                }
            }
        }
        names
    }
}
