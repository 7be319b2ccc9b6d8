//! Was the request signed by somebody who knows the secret, over these exact bytes, recently?
//!
//! Everything that the head decides is decided before the body is read: which alternative of the scheme counts, that
//! the signature stands there in its one form, that the time is in the window, a shared token. The body is hashed while
//! it arrives where the signed text allows. The body is bytes, never text.

pub mod asked;
pub(crate) mod chain;
mod explain;
pub mod fetched;
mod header;
mod json;
pub mod keys;
mod mac;
pub(crate) mod message;
pub(crate) mod primitives;
pub(crate) mod scheme;
mod sign;
mod standard;
pub(crate) mod template;
mod timestamp;
pub(crate) mod token;
mod url;

pub use explain::Step;
pub use header::{Encoding, List, MAX_SIGNATURES, Place};
pub use json::Order;
pub use mac::{Hash, Tag};
pub use scheme::Scheme;
pub use sign::{SignError, SignOptions, Signing, UnsignedRequest};
pub use standard::StandardKey;
pub use template::{Part, Template};
pub use timestamp::{TimestampPlace, TimestampRule, Unit};
pub use token::FixedClaim;
pub use url::UrlForm;

use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::{Head, HeaderName, Now};
use crate::secret::Secret;
use fetched::{Ask, Sets, Shelf, Wanted};
use header::Signatures;
use keys::{KeySet, KeySource, PrivateKey, PublicKey};
use mac::{HmacKeys, Key, State};
use message::{MessageKind, MessageRules, MessageSignature};
use scheme::{Algorithm, Alternative, Derivation, KeyForm, KeyOrigin, Must, Proof, Requirement, Signed};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use template::{Inputs, Piece};
use token::{Claims, Token, TokenKey, TokenKind, TokenRules};
use url::PublicUrl;

/// Keys shorter than this deserve a warning: they can be guessed offline from one captured request.
const SHORT_KEY: usize = 16;

/// A scheme with the secrets and public keys of one route.
#[derive(Debug)]
pub struct SignatureCheck {
    scheme: Scheme,
    /// For each alternative, one for each secret and public key of the route; `None`: it has no use there. An HMAC never
    /// sees a public key, which anybody may know.
    keys: Vec<Vec<Option<Credential>>>,
    validity: Vec<Validity>,
    public_url: Option<PublicUrl>,
    claims: Vec<FixedClaim>,
    headers: Vec<HeaderName>,
    warnings: Vec<String>,
}

/// What a route knows of its sender.
#[derive(Debug, Default)]
pub struct Credentials<'a> {
    /// Shared secrets.
    pub secrets: Vec<Secret>,
    /// Public keys of the sender.
    pub public_keys: Vec<PublicKeys>,
    /// The URL as the sender knows it.
    pub public_url: Option<&'a str>,
    /// What claims of a token must hold, beyond what the scheme says: one of these texts.
    pub claims: Vec<FixedClaim>,
    /// What else goes into the signed text: the ID of a subscription.
    pub settings: BTreeMap<Box<str>, Box<str>>,
}

/// Public keys of one place, with the time in which they count.
#[derive(Clone, Debug)]
pub struct PublicKeys {
    /// The keys.
    pub keys: KeySource,
    /// Not valid before, in seconds since 1970.
    pub from: Option<i64>,
    /// Not valid at or after, in seconds since 1970.
    pub until: Option<i64>,
    /// Where they came from (`file key.pem`).
    pub origin: Box<str>,
}

impl PublicKeys {
    /// Keys as text, see [`KeySet::parse`]. The error follows `public key from …`.
    pub fn parse(text: &[u8], origin: &str) -> Result<Self, String> {
        let keys = KeySource::Fixed(Arc::new(KeySet::parse(text)?));
        Ok(Self { keys, from: None, until: None, origin: origin.into() })
    }

    /// The same keys under the name that the sender uses for them.
    #[must_use]
    pub fn named(self, id: &str) -> Self {
        match self.keys {
            KeySource::Fixed(keys) => {
                let keys = KeySource::Fixed(Arc::new((*keys).clone().named(id)));
                Self { keys, ..self }
            }
            // A published set has its own names.
            KeySource::Fetched(_) => self,
        }
    }
}

/// A secret or a public key, made ready for one alternative.
#[derive(Debug)]
enum Credential {
    Secret(Key),
    Token(HmacKeys),
    Public(KeySource),
    /// A key that comes with the message, in a certificate that the scheme judges.
    Brought,
    /// Both halves follow from the secret.
    Seeded(Arc<KeySet>, Box<PrivateKey>),
}

impl Credential {
    /// The public keys as they are now.
    fn public(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::Public(keys) => Some(keys.snapshot()),
            Self::Seeded(keys, _) => Some(keys.clone()),
            Self::Secret(_) | Self::Token(_) | Self::Brought => None,
        }
    }
}

/// When a secret counts, and what it is called.
#[derive(Debug)]
struct Validity {
    from: Option<i64>,
    until: Option<i64>,
    origin: Box<str>,
}

impl Validity {
    fn active(&self, unix: i64) -> bool {
        self.from.is_none_or(|from| unix >= from) && self.until.is_none_or(|until| unix < until)
    }
}

/// A verification under way: begun with the head, fed while the body arrives, finished when it is whole.
/// Owns what it read from the head.
#[derive(Debug)]
pub struct Verification<'c> {
    check: &'c SignatureCheck,
    progress: Progress<'c>,
}

#[derive(Debug)]
enum Progress<'c> {
    /// A shared secret in the head: proved already.
    Proved,
    /// A shared secret in the body.
    Shared { place: &'c Place, keys: Vec<&'c Credential> },
    /// A signature.
    Signed(Box<Running<'c>>),
    /// A signed message, proved already but for the digest of the body.
    Message { rules: &'c MessageRules, signature: MessageSignature },
    /// A token in the head, proved already but for what it says of the body.
    Claimed { rules: &'c TokenRules, claims: Claims },
    /// A token that is made over the body or stands in it.
    Token { rules: &'c TokenRules, keys: Vec<&'c Credential> },
}

#[derive(Debug)]
struct Running<'c> {
    scheme: &'c Signed,
    /// `None`: the signature stands in the body.
    received: Option<Received>,
    verifier: Verifier<'c>,
    /// The text before the body is hashed already, and so is what arrived of the body.
    streams_at: Option<usize>,
    fed: usize,
}

/// The signatures of a request.
#[derive(Debug)]
enum Received {
    /// MACs and digests, of the algorithm's length.
    Tags(Signatures),
    /// Public-key signatures, of any length.
    Public(Vec<Vec<u8>>),
}

/// What the signed text goes into.
#[derive(Debug)]
enum Verifier<'c> {
    /// One for each active secret, and of each one for each spelling of the signed text.
    Macs(Vec<State<'c>>),
    /// The active public keys. These algorithms want the text as a whole.
    Keys { sets: Sets, id: Option<String> },
    /// For items that are signed one by one, each begun anew.
    Each(Vec<&'c Credential>),
}

/// Items of one body that are signed one by one.
const MAX_ITEMS: usize = 100;

/// Evidence: the signature holds. Made by [`Verification::finish`] only.
#[derive(Debug)]
pub struct Verified {
    content: Vec<[u8; 32]>,
}

impl Verified {
    /// MACs over what was signed, one for each secret active now; what the replay guard remembers.
    /// Empty for schemes that sign nothing (tokens).
    pub fn content(&self) -> &[[u8; 32]] {
        &self.content
    }
}

impl SignatureCheck {
    /// Binds a scheme to a route's secrets. Errors name what is wrong with a secret or the missing public URL.
    pub fn new(scheme: Scheme, secrets: Vec<Secret>, public_url: Option<&str>) -> Result<Self, Vec<String>> {
        Self::bind(scheme, Credentials { secrets, public_url, ..Credentials::default() })
    }

    /// Binds a scheme to what a route knows of its sender. Errors name what is wrong or missing.
    pub fn bind(scheme: Scheme, credentials: Credentials<'_>) -> Result<Self, Vec<String>> {
        let scheme = scheme.without_choices();
        let Credentials { secrets, public_keys, public_url, claims, settings } = credentials;
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        if secrets.is_empty() && scheme.needs_secrets() {
            errors.push("no secret is configured".to_owned());
        }
        if public_keys.is_empty() && scheme.needs_public_keys() {
            errors.push("no public key is configured".to_owned());
        }
        for secret in &secrets {
            if let Err(what) = usable(secret.bytes.expose()) {
                errors.push(format!("secret from {} {what}", secret.origin));
            } else if secret.bytes.expose().trim_ascii() != secret.bytes.expose() {
                warnings.push(format!("secret from {} starts or ends with white space", secret.origin));
            }
        }
        for name in scheme.configured_claims() {
            if !claims.iter().any(|claim| *claim.name == *name && !claim.texts.is_empty()) {
                errors.push(format!("claim `{name}` is not configured: only you know what it must hold"));
            }
        }
        for name in scheme.settings() {
            if settings.get(name).is_none_or(|text| text.trim().is_empty()) {
                errors.push(format!("setting `{name}` is not configured: only you know what it must hold"));
            }
        }
        let scheme = scheme.with_settings(&settings);
        let mut keys = Vec::new();
        if errors.is_empty() {
            for alternative in &scheme.alternatives {
                let mut made = Vec::new();
                for secret in &secrets {
                    let key = match alternative.keys {
                        KeyOrigin::Secrets => alternative.proof.credential(secret.bytes.expose()),
                        KeyOrigin::PublicKeys | KeyOrigin::Asked(_) | KeyOrigin::Fetched(_) | KeyOrigin::Brought => {
                            made.push(None);
                            continue;
                        }
                    };
                    match key {
                        Ok((key, len)) => {
                            if len < SHORT_KEY {
                                warnings
                                    .push(format!("secret from {} is shorter than {SHORT_KEY} bytes", secret.origin));
                            }
                            made.push(Some(key));
                        }
                        Err(what) => errors.push(format!("secret from {} {what}", secret.origin)),
                    }
                }
                let wanted = alternative.keys != KeyOrigin::Secrets;
                made.extend(public_keys.iter().map(|public| wanted.then(|| Credential::Public(public.keys.clone()))));
                // Keys that the route gives take the place of those that the sender publishes.
                made.push(match &alternative.keys {
                    KeyOrigin::Fetched(at) if public_keys.is_empty() => {
                        Some(Credential::Public(KeySource::Fetched(Shelf::of(at))))
                    }
                    KeyOrigin::Brought if public_keys.is_empty() => Some(Credential::Brought),
                    _ => None,
                });
                keys.push(made);
            }
        }
        warnings.sort();
        warnings.dedup();
        errors.sort();
        errors.dedup();
        let public_url = match public_url.map(PublicUrl::parse).transpose() {
            Ok(url) => url,
            Err(what) => {
                errors.push(what);
                None
            }
        };
        if public_url.is_none()
            && scheme.needs_public_url()
            && !errors.iter().any(|error| error.starts_with("public_url"))
        {
            errors.push("public_url is missing: the sender signs the URL as it knows it".to_owned());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let secrets = secrets.into_iter().map(|secret| (secret.from, secret.until, secret.origin));
        let public = public_keys.into_iter().map(|public| (public.from, public.until, public.origin));
        // What is fetched or brought has no end of its own, but stands last where there is any.
        let fetched =
            keys.iter().any(|made| matches!(made.last(), Some(Some(_)))).then(|| (None, None, "the sender".into()));
        let validity = secrets
            .chain(public)
            .chain(fetched)
            .map(|(from, until, origin)| Validity { from, until, origin })
            .collect();
        let headers = scheme.headers();
        Ok(Self { scheme, keys, validity, public_url, claims, headers, warnings })
    }

    /// Things that are allowed but deserve a line at start: short secrets.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Does the signature break when this value changes?
    pub fn covers(&self, source: &Source) -> bool {
        self.scheme.covers(source)
    }

    /// Does the signature break when any byte of the body changes?
    pub fn covers_body(&self) -> bool {
        self.scheme.covers_body()
    }

    /// Does the sender sign the URL?
    pub fn needs_public_url(&self) -> bool {
        self.scheme.needs_public_url()
    }

    /// How long a captured request can be sent again; `None`: for ever.
    pub fn replay_window(&self) -> Option<Duration> {
        self.scheme.replay_window()
    }

    /// Every header that the scheme reads. They go to the backend as they came, so that it can verify again.
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// What has to be fetched for it.
    pub fn shelves(&self) -> impl Iterator<Item = &Arc<Shelf>> {
        self.keys.iter().flatten().filter_map(|credential| match credential {
            Some(Credential::Public(KeySource::Fetched(shelf))) => Some(shelf),
            _ => None,
        })
    }

    /// Is there a secret that counts now?
    pub fn has_active_secret(&self, now: Now) -> bool {
        self.active(now).next().is_some()
    }

    /// The time that a request claims to be signed at, for tests of recorded requests. `None` if the scheme has none or
    /// it cannot be read.
    pub fn claimed_time(&self, head: &Head<'_>, body: &[u8]) -> Option<Duration> {
        let (_, alternative) = self.choose(head).ok()?;
        let scheme = match &alternative.proof {
            Proof::Signed(scheme) => scheme,
            Proof::Shared(_) => return None,
            Proof::Message(rules) => {
                let all = message::read(rules, head, self.public_url.as_ref(), None).ok()?;
                return Some(Duration::from_secs(u64::try_from(all.first()?.created).ok()?));
            }
            Proof::Token(rules) => {
                let value = rules.read(head, body).ok()?;
                let made = Token::parse(&value, rules).ok()?.claims(rules).ok()?.made_at(rules)?;
                return Some(Duration::from_secs(made as u64));
            }
        };
        let rule = scheme.timestamp.as_ref()?;
        let signature = scheme.from.source.read(head, body).ok().flatten().unwrap_or_default();
        let written = template::timestamp(&self.inputs(head, body, scheme, &signature)).ok()?;
        rule.unit.parse(&written).ok().and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis)
    }

    /// Everything that the head alone decides: signature present and well formed, timestamp in the window, a shared
    /// secret in a header. `secure` is whether the sender used https; it is not looked at, since no scheme builds the
    /// URL from what arrived.
    pub fn begin(&self, head: &Head<'_>, secure: bool, now: Now) -> Result<Verification<'_>, Reject> {
        let _ = secure;
        let (index, alternative) = self.choose(head)?;
        let mut keys = self.active(now).filter_map(|at| self.keys.get(index)?.get(at)?.as_ref()).peekable();
        if keys.peek().is_none() {
            return Err(Reason::SecretMissing.because("no secret or public key of this route is valid now"));
        }
        let progress = match &alternative.proof {
            Proof::Shared(place) if place.source.needs_body() => Progress::Shared { place, keys: keys.collect() },
            Proof::Shared(place) => {
                shared(place, keys, head, &[])?;
                Progress::Proved
            }
            Proof::Signed(scheme) => Progress::Signed(Box::new(self.begin_signed(scheme, keys, head, now)?)),
            Proof::Message(rules) => {
                let signature = self.message(rules, keys, head, now)?;
                Progress::Message { rules, signature }
            }
            Proof::Token(rules) if rules.needs_body() => Progress::Token { rules, keys: keys.collect() },
            Proof::Token(rules) => {
                let keys: Vec<_> = keys.collect();
                match self.token_wants(rules, &keys, head, &[], now) {
                    // Its key is not there yet: it is judged once the body is, and the key perhaps too.
                    Some(_) => Progress::Token { rules, keys },
                    None => {
                        let claims = self.token(rules, keys.into_iter(), head, &[], now)?;
                        Progress::Claimed { rules, claims }
                    }
                }
            }
        };
        Ok(Verification { check: self, progress })
    }

    /// The first signature of a message that meets the rules and holds.
    fn message<'k>(
        &self,
        rules: &MessageRules,
        keys: impl Iterator<Item = &'k Credential>,
        head: &Head<'_>,
        now: Now,
    ) -> Result<MessageSignature, Reject> {
        let signatures = message::read(rules, head, self.public_url.as_ref(), Some(now))?;
        let keys: Vec<_> = keys.collect();
        let holds = |signature: &MessageSignature| keys.iter().any(|key| message_holds(rules, key, signature));
        let found = signatures.into_iter().find(holds);
        found.ok_or_else(|| Reason::SignatureMismatch.because("no signature of the message holds"))
    }

    /// The claims of a token that holds, checked but for what they say of the body.
    fn token<'k>(
        &self,
        rules: &TokenRules,
        keys: impl Iterator<Item = &'k Credential>,
        head: &Head<'_>,
        body: &[u8],
        now: Now,
    ) -> Result<Claims, Reject> {
        let value = rules.read(head, body)?;
        let token = Token::parse(&value, rules)?;
        let keys: Vec<_> = keys.collect();
        let secrets = keys.iter().filter_map(|key| match key {
            Credential::Token(secret) => Some(TokenKey::Secret(secret)),
            _ => None,
        });
        let mut usable: Vec<_> = secrets.collect();
        if let TokenKind::Public(algorithm) = token.algorithm().kind {
            let ask = Ask { id: token.key_id(), algorithm, head, body, now };
            let brought = keys.iter().any(|key| matches!(key, Credential::Brought));
            match key_sets(keys.into_iter()).all(&ask) {
                Ok(sets) => usable.extend(sets.into_iter().map(TokenKey::Public)),
                Err(lacking) => {
                    // Who would be refused with any key need not come again for one.
                    let claims = token.claims(rules)?;
                    claims.check(rules, &self.claims, self.public_url.as_ref(), head, now)?;
                    return Err(lacking);
                }
            }
            if brought {
                usable.push(TokenKey::Public(Arc::new(token.brought(rules, now)?)));
            }
        }
        token.verify(rules, body, usable.into_iter())?;
        let claims = token.claims(rules)?;
        claims.check(rules, &self.claims, self.public_url.as_ref(), head, now)?;
        Ok(claims)
    }

    /// The key that a token was made with, where it has to be fetched first. Nothing is fetched for a token that would
    /// be refused with any key.
    fn token_wants(
        &self,
        rules: &TokenRules,
        keys: &[&Credential],
        head: &Head<'_>,
        body: &[u8],
        now: Now,
    ) -> Option<Wanted> {
        let sets = key_sets(keys.iter().copied());
        if sets.shelves.is_empty() {
            return None;
        }
        let value = rules.read(head, body).ok()?;
        let token = Token::parse(&value, rules).ok()?;
        let TokenKind::Public(algorithm) = token.algorithm().kind else { return None };
        let claims = token.claims(rules).ok()?;
        claims.check(rules, &self.claims, self.public_url.as_ref(), head, now).ok()?;
        sets.wanted(&Ask { id: token.key_id(), algorithm, head, body, now })
    }

    fn begin_signed<'c>(
        &'c self,
        scheme: &'c Signed,
        keys: impl Iterator<Item = &'c Credential>,
        head: &Head<'_>,
        now: Now,
    ) -> Result<Running<'c>, Reject> {
        let in_body = scheme.from.source.needs_body();
        if scheme.each.is_some() {
            let verifier = Verifier::Each(keys.collect());
            return Ok(Running { scheme, received: None, verifier, streams_at: None, fed: 0 });
        }
        let (value, received) = match in_body {
            true => Default::default(),
            false => received(scheme, head, &[]).map(|(value, received)| (value, Some(received)))?,
        };
        let inputs = self.inputs(head, &[], scheme, &value);
        if let Some(rule) = scheme.timestamp.as_ref().filter(|rule| !time_needs_body(rule, in_body))
            && !template::lacks_optional_time(&inputs)
        {
            rule.check(&template::timestamp(&inputs)?, now)?;
        }
        for requirement in scheme.require.iter().filter(|requirement| !requirement.needs_body()) {
            requirement.check(head, &[])?;
        }
        let late_time = scheme.timestamp.as_ref().is_some_and(|rule| time_needs_body(rule, in_body));
        let public = matches!(scheme.algorithm, Algorithm::Public(_));
        let streams_at = if in_body || public || (late_time && scheme.signed.has(&Part::Timestamp)) {
            None
        } else {
            scheme.signed.streams_at()
        };
        let verifier = self.verifier(scheme, keys, &inputs, streams_at)?;
        match streams_at {
            // What follows the body is hashed at the end, but what is missing is refused now.
            Some(body_at) => scheme.signed.feed(body_at + 1..usize::MAX, &inputs, 0, &mut |_| ())?,
            None if !in_body => {
                for (at, part) in scheme.signed.parts.iter().enumerate() {
                    let late = part.needs_body() || (late_time && *part == Part::Timestamp);
                    if !late {
                        scheme.signed.feed(at..at + 1, &inputs, 0, &mut |_| ())?;
                    }
                }
            }
            None => {}
        }
        Ok(Running { scheme, received, verifier, streams_at, fed: 0 })
    }

    fn verifier<'c>(
        &'c self,
        scheme: &'c Signed,
        keys: impl Iterator<Item = &'c Credential>,
        inputs: &Inputs<'_>,
        streams_at: Option<usize>,
    ) -> Result<Verifier<'c>, Reject> {
        Ok(match scheme.algorithm {
            Algorithm::Public(_) => Verifier::Keys { sets: key_sets(keys), id: key_id(scheme, inputs.head)? },
            Algorithm::Hmac(_) | Algorithm::Digest(_) => Verifier::Macs(self.states(scheme, keys, inputs, streams_at)?),
        })
    }

    /// A MAC under way for each secret and spelling, over what stands before the body.
    fn states<'c>(
        &'c self,
        scheme: &'c Signed,
        keys: impl Iterator<Item = &'c Credential>,
        inputs: &Inputs<'_>,
        streams_at: Option<usize>,
    ) -> Result<Vec<State<'c>>, Reject> {
        let variants = scheme.signed.variants();
        let mut states = Vec::with_capacity(variants);
        for key in keys {
            let Credential::Secret(key) = key else { continue };
            states.extend((0..variants).map(|_| key.start()));
        }
        if let Some(body_at) = streams_at {
            feed_all(scheme, 0..body_at, inputs, &mut states)?;
        }
        Ok(states)
    }

    /// The first alternative that the head calls for.
    fn choose(&self, head: &Head<'_>) -> Result<(usize, &Alternative), Reject> {
        for (index, alternative) in self.scheme.alternatives.iter().enumerate() {
            let Some(when) = &alternative.when else { return Ok((index, alternative)) };
            if when.holds(head).map_err(|what| Reason::SignatureMalformed.because(what))? {
                return Ok((index, alternative));
            }
        }
        let mut detail = "nothing calls for a known scheme:".to_owned();
        for when in self.scheme.alternatives.iter().filter_map(|alternative| alternative.when.as_ref()) {
            detail.push_str(&format!(" no {}", when.source));
            if let Some(is) = &when.is {
                detail.push_str(&format!(" that is {is}"));
            }
            detail.push(',');
        }
        Err(Reason::SignatureMissing.because(detail.trim_end_matches(',').to_owned()))
    }

    fn active(&self, now: Now) -> impl Iterator<Item = usize> {
        let unix = now.unix_seconds();
        self.validity.iter().enumerate().filter(move |(_, secret)| secret.active(unix)).map(|(index, _)| index)
    }

    fn inputs<'a>(&'a self, head: &'a Head<'a>, body: &'a [u8], scheme: &'a Signed, signature: &'a [u8]) -> Inputs<'a> {
        Inputs { head, body, public_url: self.public_url.as_ref(), scheme, signature }
    }
}

impl Verification<'_> {
    /// The next bytes of the body, in order. Hashes them at once where the scheme allows.
    pub fn update(&mut self, chunk: &[u8]) {
        if let Progress::Signed(running) = &mut self.progress
            && running.streams_at.is_some()
        {
            running.fed = running.fed.saturating_add(chunk.len());
            if let Verifier::Macs(states) = &mut running.verifier {
                states.iter_mut().for_each(|state| state.update(chunk));
            }
        }
    }

    /// The key that has to be fetched before [`Verification::finish`], if any. Nothing is fetched for a request that
    /// would be refused with any key.
    pub fn wanted(&self, head: &Head<'_>, body: &[u8], now: Now) -> Option<Wanted> {
        match &self.progress {
            Progress::Token { rules, keys } => self.check.token_wants(rules, keys, head, body, now),
            Progress::Signed(running) => {
                let Verifier::Keys { sets, id } = &running.verifier else { return None };
                if sets.shelves.is_empty() {
                    return None;
                }
                let algorithm = running.scheme.public_algorithm(head, body).ok()?;
                let wanted = sets.wanted(&Ask { id: id.as_deref(), algorithm, head, body, now })?;
                self.check.could_hold(running.scheme, head, body, now).then_some(wanted)
            }
            _ => None,
        }
    }

    /// The verdict over the whole body. The head is the one that the verification began with.
    pub fn finish(self, head: &Head<'_>, body: &[u8], now: Now) -> Result<Verified, Reject> {
        let running = match self.progress {
            Progress::Proved => return Ok(Verified { content: Vec::new() }),
            Progress::Shared { place, keys } => {
                return shared(place, keys.into_iter(), head, body).map(|()| Verified { content: Vec::new() });
            }
            Progress::Message { rules, signature } => {
                signature.check_body(head, body)?;
                // Without the body in it, a signature may rightly come with many.
                let print = || mac::Hash::Sha256.digest(&signature.base).fingerprint();
                return Ok(Verified { content: rules.covers_body().then(print).into_iter().collect() });
            }
            Progress::Claimed { rules, claims } => return self.check.claimed(rules, &claims, head, body),
            Progress::Token { rules, keys } => {
                let claims = self.check.token(rules, keys.into_iter(), head, body, now)?;
                return self.check.claimed(rules, &claims, head, body);
            }
            Progress::Signed(running) => *running,
        };
        self.check.finish_signed(running, head, body, now)
    }
}

impl SignatureCheck {
    /// Every item has to hold; what is remembered of them is one name for all.
    fn finish_each<'c>(
        &'c self,
        scheme: &'c Signed,
        each: &str,
        keys: &[&'c Credential],
        head: &Head<'_>,
        body: &[u8],
        now: Now,
    ) -> Result<Verified, Reject> {
        let malformed = |what: String| Reason::SignatureMalformed.because(what);
        let node = json::parse(body).map_err(|what| malformed(format!("the JSON body {what}")))?;
        let items = node.find(each, MAX_ITEMS).map_err(|what| malformed(format!("the body {what}")))?;
        // One that is not where the others are would be forwarded without having been looked at.
        if items.is_empty() || items.len() != node.count(each) {
            return Err(malformed(format!("the body does not hold its items at {each}")));
        }
        let mut all: Vec<Vec<u8>> = Vec::new();
        for item in items {
            let inputs = self.inputs(head, item.span, scheme, &[]);
            let verifier = self.verifier(scheme, keys.iter().copied(), &inputs, None)?;
            let running = Running { scheme, received: None, verifier, streams_at: None, fed: 0 };
            let verified = self.finish_signed(running, head, item.span, now)?;
            all.resize(all.len().max(verified.content.len()), Vec::new());
            all.iter_mut().zip(&verified.content).for_each(|(text, print)| text.extend_from_slice(print));
        }
        Ok(Verified { content: all.iter().map(|text| mac::Hash::Sha256.digest(text).fingerprint()).collect() })
    }

    fn finish_signed(&self, running: Running<'_>, head: &Head<'_>, body: &[u8], now: Now) -> Result<Verified, Reject> {
        if let (Verifier::Each(keys), Some(each)) = (&running.verifier, &running.scheme.each) {
            return self.finish_each(running.scheme, each, keys, head, body, now);
        }
        let Running { scheme, received: known, verifier, streams_at, fed } = running;
        // Without a body in the head's way this reads the header again; its fields may be part of what follows.
        let (value, received) = match known {
            Some(known) if scheme.from.list.is_none() => (Cow::Borrowed(&b""[..]), known),
            _ => received(scheme, head, body)?,
        };
        let inputs = self.inputs(head, body, scheme, &value);
        if let Some(rule) = scheme.timestamp.as_ref()
            && time_needs_body(rule, scheme.from.source.needs_body())
            && !template::lacks_optional_time(&inputs)
        {
            rule.check(&template::timestamp(&inputs)?, now)?;
        }
        for requirement in scheme.require.iter().filter(|requirement| requirement.needs_body()) {
            requirement.check(head, body)?;
        }
        let from = match streams_at {
            None => 0,
            Some(body_at) if fed == body.len() => body_at + 1,
            Some(body_at) if fed == 0 => body_at,
            // Other bytes would be forwarded than were hashed.
            Some(_) => return Err(Reason::Internal.because("the body that was hashed is not the one that is judged")),
        };
        let variants = scheme.signed.variants();
        let mismatch =
            || Reason::SignatureMismatch.because(format!("no signature matches over a body of {} bytes", body.len()));
        match (verifier, received) {
            (Verifier::Macs(mut states), Received::Tags(signatures)) => {
                feed_all(scheme, from..usize::MAX, &inputs, &mut states)?;
                let expected: Vec<Tag> = states.into_iter().map(State::finish).collect();
                if !mac::any_match(&expected, signatures.as_slice()) {
                    return Err(mismatch());
                }
                if scheme.is_only_a_time() {
                    return Ok(Verified { content: Vec::new() });
                }
                let canonical = expected.iter().skip(scheme.signed.canonical_variant()).step_by(variants);
                Ok(Verified { content: canonical.map(Tag::fingerprint).collect() })
            }
            (Verifier::Keys { sets, id }, Received::Public(signatures)) => {
                let algorithm = scheme.public_algorithm(head, body)?;
                let sets = sets.all(&Ask { id: id.as_deref(), algorithm, head, body, now })?;
                for variant in 0..variants {
                    let text = text(scheme, &inputs, variant)?;
                    let holds = |signature: &Vec<u8>| {
                        sets.iter().any(|keys| keys.verifies(algorithm, id.as_deref(), &text, signature))
                    };
                    if signatures.iter().any(holds) {
                        let text = match scheme.signed.canonical_variant() {
                            same if same == variant => text,
                            canonical => self::text(scheme, &inputs, canonical)?,
                        };
                        return Ok(Verified { content: vec![mac::Hash::Sha256.digest(&text).fingerprint()] });
                    }
                }
                Err(mismatch())
            }
            _ => Err(Reason::Internal.because("the signature is of another kind than its algorithm")),
        }
    }
}

impl SignatureCheck {
    /// Is everything right but the signature itself, of which nothing is known yet?
    fn could_hold(&self, scheme: &Signed, head: &Head<'_>, body: &[u8], now: Now) -> bool {
        let Ok((value, _)) = received(scheme, head, body) else { return false };
        let inputs = self.inputs(head, body, scheme, &value);
        let timely = scheme.timestamp.as_ref().is_none_or(|rule| {
            template::lacks_optional_time(&inputs)
                || template::timestamp(&inputs).and_then(|time| rule.check(&time, now)).is_ok()
        });
        timely
            && scheme.require.iter().all(|requirement| requirement.check(head, body).is_ok())
            && text(scheme, &inputs, 0).is_ok()
    }

    /// The last word on a token, with the whole body at hand.
    fn claimed(&self, rules: &TokenRules, claims: &Claims, head: &Head<'_>, body: &[u8]) -> Result<Verified, Reject> {
        claims.check_body(rules, head, body)?;
        // A token that says nothing of the body is a pass that is shown again and again: nothing to remember.
        if !rules.covers_body() {
            return Ok(Verified { content: Vec::new() });
        }
        let value = rules.read(head, body)?;
        let input = Token::parse(&value, rules)?.signing_input(rules, body);
        Ok(Verified { content: vec![mac::Hash::Sha256.digest(&input).fingerprint()] })
    }
}

fn message_holds(rules: &MessageRules, key: &Credential, signature: &MessageSignature) -> bool {
    match (rules.algorithm.kind, key) {
        (MessageKind::Hmac(hash), Credential::Token(secret)) => {
            let exact = signature.signature.len() == hash.output_len();
            let expected = secret.mac(hash, &signature.base);
            expected.is_some_and(|expected| exact && mac::any_match(&[expected], &[Tag::new(&signature.signature)]))
        }
        (MessageKind::Public(algorithm), key) => key.public().is_some_and(|keys| {
            keys.verifies(algorithm, signature.key_id.as_deref(), &signature.base, &signature.signature)
        }),
        _ => false,
    }
}

/// The whole signed text, for algorithms that cannot take it in pieces. Not made where the body is all of it.
fn text<'b>(scheme: &Signed, inputs: &Inputs<'b>, variant: usize) -> Result<Cow<'b, [u8]>, Reject> {
    if matches!(*scheme.signed.parts, [Part::Body]) {
        return Ok(Cow::Borrowed(inputs.body));
    }
    let mut text = Vec::with_capacity(inputs.body.len() + 256);
    scheme.signed.feed(0..usize::MAX, inputs, variant, &mut |piece| match piece {
        Piece::Bytes(bytes) => text.extend_from_slice(bytes),
        // The configuration refuses secrets in a text that public keys verify.
        Piece::Secret | Piece::Sorted(_) => {}
    })?;
    Ok(Cow::Owned(text))
}

fn key_sets<'c>(keys: impl Iterator<Item = &'c Credential>) -> Sets {
    let mut sets = Sets::default();
    for key in keys {
        match key {
            Credential::Public(KeySource::Fixed(keys)) | Credential::Seeded(keys, _) => sets.fixed.push(keys.clone()),
            Credential::Public(KeySource::Fetched(shelf)) => sets.shelves.push(shelf.clone()),
            Credential::Secret(_) | Credential::Token(_) | Credential::Brought => {}
        }
    }
    sets
}

/// The key that the request says it was signed with.
fn key_id(scheme: &Signed, head: &Head<'_>) -> Result<Option<String>, Reject> {
    let Some(source) = &scheme.key_id else { return Ok(None) };
    let value = source.read(head, &[]).map_err(|error| Reason::SignatureMalformed.because(error.0))?;
    let value = value.ok_or_else(|| Reason::SignatureMalformed.because(format!("{source} is missing")))?;
    let id = String::from_utf8(value.into_owned());
    id.map(Some).map_err(|_| Reason::SignatureMalformed.because(format!("{source} is no text")))
}

impl Proof {
    /// What the proof is verified with, made of a secret, and the key's length in bytes. The error follows
    /// `secret from …` and never quotes the secret.
    fn credential(&self, secret: &[u8]) -> Result<(Credential, usize), String> {
        let form = match self {
            Self::Shared(_) => return Ok((Credential::Secret(Key::shared(secret.to_vec())), secret.len())),
            Self::Signed(signed) => &signed.key,
            Self::Token(rules) => &rules.key,
            Self::Message(rules) => &rules.key,
        };
        let key = zeroize::Zeroizing::new(form.make(secret)?);
        let unfit = "is no key for the algorithm";
        let credential = match self {
            Self::Message(rules) => {
                let MessageKind::Hmac(hash) = rules.algorithm.kind else { return Err(unfit.into()) };
                Credential::Token(HmacKeys::new(std::iter::once(hash), &key).ok_or(unfit)?)
            }
            Self::Token(rules) => Credential::Token(HmacKeys::new(rules.hashes(), &key).ok_or(unfit)?),
            Self::Signed(signed) => match signed.algorithm {
                Algorithm::Hmac(hash) if signed.signed.has(&Part::Secret) => {
                    Credential::Secret(Key::hmac_over_itself(hash, &key).ok_or(unfit)?)
                }
                Algorithm::Hmac(hash) => Credential::Secret(Key::hmac(hash, &key).ok_or(unfit)?),
                Algorithm::Digest(hash) => Credential::Secret(Key::digest(hash, key.to_vec())),
                Algorithm::Public(_) => {
                    let seed = key.as_slice().try_into().map_err(|_| unfit.to_owned())?;
                    let keys = KeySet::new(vec![PublicKey::from_ed25519_seed(seed)?])?;
                    Credential::Seeded(Arc::new(keys), Box::new(PrivateKey::from_ed25519_seed(seed)?))
                }
            },
            Self::Shared(_) => return Err(unfit.into()),
        };
        Ok((credential, if form.derive.is_some() { secret.len() } else { key.len() }))
    }
}

impl KeyForm {
    fn make(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        let normal = match self.nfkd {
            false => None,
            true => {
                let text = std::str::from_utf8(secret).map_err(|_| "is not UTF-8")?;
                let normalizer = icu_normalizer::DecomposingNormalizerBorrowed::new_nfkd();
                Some(zeroize::Zeroizing::new(normalizer.normalize(text).into_owned().into_bytes()))
            }
        };
        let secret = normal.as_deref().map_or(secret, Vec::as_slice);
        let text = secret.strip_prefix(self.strip_prefix.as_bytes()).unwrap_or(secret);
        let key = match self.encoding {
            Encoding::Text => Some(text.to_vec()),
            // Keys are pasted by people: padding may be left out.
            Encoding::Base64 | Encoding::Base64Url | Encoding::Base64UrlPadded => self.encoding.decode_key(text),
            Encoding::Hex => Encoding::Hex.decode_all(text),
        };
        let mut key = match key {
            None => return Err(format!("is not {}", self.encoding)),
            Some(key) if key.is_empty() => return Err(format!("is empty behind `{}`", self.strip_prefix)),
            Some(key) => key,
        };
        key.extend_from_slice(self.append.as_bytes());
        Ok(match self.derive {
            None => key,
            Some(Derivation::Digest(hash)) => hash.digest(&key).as_bytes().to_vec(),
            Some(Derivation::Ed25519Seed) => key.iter().copied().cycle().take(32).collect(),
        })
    }
}

impl Requirement {
    fn check(&self, head: &Head<'_>, body: &[u8]) -> Result<(), Reject> {
        let value = self
            .source
            .read(head, body)
            .map_err(|error| Reason::SignatureMalformed.because(error.0))?
            .ok_or_else(|| Reason::SignatureMalformed.because(format!("{} is missing", self.source)))?;
        let holds = match &self.must {
            Must::Equal(text) => *value == *text.as_bytes(),
            Must::Setting(_) => false,
            // Neither side is a secret: both follow from the request.
            Must::BodyDigest(hash, encoding) => {
                encoding.decode_all(&value).is_some_and(|received| received == hash.digest(body).as_bytes())
            }
        };
        if holds {
            return Ok(());
        }
        Err(Reason::SignatureMismatch.because(match &self.must {
            Must::Equal(text) => format!("{} is not {text}", self.source),
            Must::Setting(name) => format!("{} is not the setting {name}", self.source),
            Must::BodyDigest(..) => format!("{} is not the digest of the body", self.source),
        }))
    }
}

/// Secrets that cannot be meant: the text follows `secret from …`.
fn usable(secret: &[u8]) -> Result<(), &'static str> {
    let text = secret.trim_ascii();
    let between = |start: &[u8], end: &[u8]| text.starts_with(start) && text.ends_with(end);
    if secret.is_empty() {
        Err("is empty")
    } else if text.is_empty() {
        Err("is nothing but white space")
    } else if between(b"${", b"}") || between(b"$(", b")") || between(b"{{", b"}}") {
        Err("is a variable that was not substituted")
    } else {
        Ok(())
    }
}

fn time_needs_body(rule: &TimestampRule, signature_in_body: bool) -> bool {
    match &rule.place {
        TimestampPlace::Source(source) => source.needs_body(),
        TimestampPlace::Field(_) => signature_in_body,
    }
}

/// The value that holds the signature.
fn present<'a>(source: &Source, head: &Head<'a>, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Reject> {
    source
        .read(head, body)
        .map_err(|error| Reason::SignatureMalformed.because(error.0))?
        .ok_or_else(|| Reason::SignatureMissing.because(format!("no {source}")))
}

/// The value that holds the signature, and the signatures of all places that may hold one.
fn received<'a>(scheme: &Signed, head: &Head<'a>, body: &'a [u8]) -> Result<(Cow<'a, [u8]>, Received), Reject> {
    let read = |source: &Source| {
        let value = present(source, head, body)?;
        let signatures = match scheme.algorithm {
            Algorithm::Hmac(hash) | Algorithm::Digest(hash) => {
                Received::Tags(scheme.from.signatures(&value, hash.output_len())?)
            }
            Algorithm::Public(_) => Received::Public(scheme.from.public_signatures(&value)?),
        };
        Ok::<_, Reject>((value, signatures))
    };
    let mut found = read(&scheme.from.source);
    for source in &scheme.also {
        // One good signature is enough: the others are made with other keys.
        match (&mut found, read(source)) {
            (Ok((_, Received::Tags(all))), Ok((_, Received::Tags(more)))) => all.extend(&more),
            (Ok((_, Received::Public(all))), Ok((_, Received::Public(more)))) => {
                all.extend(more.into_iter().take(header::MAX_PUBLIC_SIGNATURES.saturating_sub(all.len())));
            }
            (Ok(_), _) => {}
            (Err(_), Ok(more)) => found = Ok(more),
            (Err(first), Err(reject)) if first.reason == Reason::SignatureMissing => *first = reject,
            (Err(_), Err(_)) => {}
        }
    }
    found
}

/// Does the request hold one of the shared secrets? All are compared.
fn shared<'k>(
    place: &Place,
    keys: impl Iterator<Item = &'k Credential>,
    head: &Head<'_>,
    body: &[u8],
) -> Result<(), Reject> {
    let value = present(&place.source, head, body)?;
    let malformed = || Reason::SignatureMalformed.because(format!("{} does not have the scheme's form", place.source));
    let text = place.strip(&value).ok_or_else(malformed)?;
    let decoded = place.encoding.decode_all(text).ok_or_else(malformed)?;
    if decoded.is_empty() {
        return Err(malformed());
    }
    let mut any = false;
    for key in keys {
        if let Credential::Secret(key) = key {
            any |= key.is_shared(&decoded);
        }
    }
    if any {
        Ok(())
    } else {
        Err(Reason::SignatureMismatch.because(format!("{} is none of the secrets", place.source)))
    }
}

fn feed(
    scheme: &Signed,
    parts: std::ops::Range<usize>,
    inputs: &Inputs<'_>,
    variant: usize,
    state: &mut State<'_>,
) -> Result<(), Reject> {
    scheme.signed.feed(parts, inputs, variant, &mut |piece| take(state, piece))
}

/// The same for the states of all secrets and spellings at once, which stand as [`SignatureCheck::states`] made them. What
/// does not depend on the spelling is read once and not for each of them: a form of a megabyte is taken apart and sorted
/// one time, however many secrets and spellings there are.
fn feed_all(
    scheme: &Signed,
    parts: std::ops::Range<usize>,
    inputs: &Inputs<'_>,
    states: &mut [State<'_>],
) -> Result<(), Reject> {
    for at in parts.start..parts.end.min(scheme.signed.parts.len()) {
        let variants = scheme.signed.variants_at(at);
        for variant in 0..variants {
            scheme.signed.feed(at..at + 1, inputs, variant, &mut |piece| {
                for state in states.iter_mut().skip(variant).step_by(variants) {
                    take(state, piece.clone());
                }
            })?;
        }
    }
    Ok(())
}

fn take(state: &mut State<'_>, piece: Piece<'_>) {
    match piece {
        Piece::Bytes(bytes) => state.update(bytes),
        Piece::Secret => state.update_secret(),
        Piece::Sorted(values) => state.update_sorted(values),
    }
}

#[cfg(test)]
pub(crate) use tests::another_public_key;

#[cfg(test)]
mod tests;
