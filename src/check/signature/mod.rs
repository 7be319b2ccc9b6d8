//! Was the request signed by somebody who knows the secret, over these exact bytes, recently?
//!
//! Everything that the head decides is decided before the body is read: which alternative of the scheme counts, that
//! the signature stands there in its one form, that the time is in the window, a shared token. The body is hashed while
//! it arrives where the signed text allows. The body is bytes, never text.

mod explain;
mod header;
mod mac;
pub(crate) mod primitives;
pub(crate) mod scheme;
mod sign;
mod template;
mod timestamp;
mod url;

pub use explain::Step;
pub use header::{Encoding, List, MAX_SIGNATURES, Place};
pub use mac::{Hash, Tag};
pub use scheme::Scheme;
pub use sign::{SignError, SignOptions, Signing, UnsignedRequest};
pub use template::{Part, Template};
pub use timestamp::{TimestampPlace, TimestampRule, Unit};
pub use url::UrlForm;

use crate::check::source::Source;
use crate::reject::{Reason, Reject};
use crate::request::{Head, HeaderName, Now};
use crate::secret::Secret;
use header::Signatures;
use mac::{Key, State};
use scheme::{Algorithm, Alternative, KeyForm, Must, Proof, Requirement, Signed};
use std::time::Duration;
use template::{Inputs, Piece};
use url::PublicUrl;

/// Keys shorter than this deserve a warning: they can be guessed offline from one captured request.
const SHORT_KEY: usize = 16;

/// A scheme with the secrets of one route.
#[derive(Debug)]
pub struct SignatureCheck {
    scheme: Scheme,
    /// For each alternative, one key for each secret.
    keys: Vec<Vec<Key>>,
    validity: Vec<Validity>,
    public_url: Option<PublicUrl>,
    headers: Vec<HeaderName>,
    warnings: Vec<String>,
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
    Shared { place: &'c Place, keys: Vec<&'c Key> },
    /// A signature.
    Signed(Box<Running<'c>>),
}

#[derive(Debug)]
struct Running<'c> {
    scheme: &'c Signed,
    /// `None`: the signature stands in the body.
    signatures: Option<Signatures>,
    /// One for each active secret, and of each one for each spelling of the signed text.
    states: Vec<State<'c>>,
    /// The text before the body is hashed already, and so is what arrived of the body.
    streams_at: Option<usize>,
    fed: usize,
}

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
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        if secrets.is_empty() {
            errors.push("no secret is configured".to_owned());
        }
        for secret in &secrets {
            if let Err(what) = usable(secret.bytes.expose()) {
                errors.push(format!("secret from {} {what}", secret.origin));
            } else if secret.bytes.expose().trim_ascii() != secret.bytes.expose() {
                warnings.push(format!("secret from {} starts or ends with white space", secret.origin));
            }
        }
        let mut keys = Vec::new();
        if errors.is_empty() {
            for alternative in &scheme.alternatives {
                let mut made = Vec::new();
                for secret in &secrets {
                    match alternative.proof.key(secret.bytes.expose()) {
                        Ok((key, len)) => {
                            if len < SHORT_KEY {
                                warnings
                                    .push(format!("secret from {} is shorter than {SHORT_KEY} bytes", secret.origin));
                            }
                            made.push(key);
                        }
                        Err(what) => errors.push(format!("secret from {} {what}", secret.origin)),
                    }
                }
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
        let validity = secrets
            .into_iter()
            .map(|secret| Validity { from: secret.from, until: secret.until, origin: secret.origin })
            .collect();
        let headers = scheme.headers();
        Ok(Self { scheme, keys, validity, public_url, headers, warnings })
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

    /// Is there a secret that counts now?
    pub fn has_active_secret(&self, now: Now) -> bool {
        self.active(now).next().is_some()
    }

    /// The time that a request claims to be signed at, for tests of recorded requests. `None` if the scheme has none or
    /// it cannot be read.
    pub fn claimed_time(&self, head: &Head<'_>, body: &[u8]) -> Option<Duration> {
        let (_, alternative) = self.choose(head).ok()?;
        let Proof::Signed(scheme) = &alternative.proof else { return None };
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
        let mut active = self.active(now).peekable();
        if active.peek().is_none() {
            return Err(Reason::SecretMissing.because("no secret of this route is valid now"));
        }
        let keys = active.filter_map(|secret| self.keys.get(index)?.get(secret));
        let progress = match &alternative.proof {
            Proof::Shared(place) if place.source.needs_body() => Progress::Shared { place, keys: keys.collect() },
            Proof::Shared(place) => {
                shared(place, keys, head, &[])?;
                Progress::Proved
            }
            Proof::Signed(scheme) => Progress::Signed(Box::new(self.begin_signed(scheme, keys, head, now)?)),
        };
        Ok(Verification { check: self, progress })
    }

    fn begin_signed<'c>(
        &'c self,
        scheme: &'c Signed,
        keys: impl Iterator<Item = &'c Key>,
        head: &Head<'_>,
        now: Now,
    ) -> Result<Running<'c>, Reject> {
        let in_body = scheme.from.source.needs_body();
        let (value, signatures) = match in_body {
            true => Default::default(),
            false => received(scheme, head, &[]).map(|(value, signatures)| (value, Some(signatures)))?,
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
        let streams_at = if in_body || (late_time && scheme.signed.has(&Part::Timestamp)) {
            None
        } else {
            scheme.signed.streams_at()
        };
        let variants = scheme.signed.variants();
        let mut states = Vec::with_capacity(variants);
        for key in keys {
            for variant in 0..variants {
                let mut state = key.start();
                if let Some(body_at) = streams_at {
                    feed(scheme, 0..body_at, &inputs, variant, &mut state)?;
                }
                states.push(state);
            }
        }
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
        Ok(Running { scheme, signatures, states, streams_at, fed: 0 })
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
            running.states.iter_mut().for_each(|state| state.update(chunk));
        }
    }

    /// The verdict over the whole body. The head is the one that the verification began with.
    pub fn finish(self, head: &Head<'_>, body: &[u8], now: Now) -> Result<Verified, Reject> {
        let running = match self.progress {
            Progress::Proved => return Ok(Verified { content: Vec::new() }),
            Progress::Shared { place, keys } => {
                return shared(place, keys.into_iter(), head, body).map(|()| Verified { content: Vec::new() });
            }
            Progress::Signed(running) => *running,
        };
        let Running { scheme, signatures, mut states, streams_at, fed } = running;
        // Without a body in the head's way this reads the header again; its fields may be part of what follows.
        let (value, signatures) = match signatures {
            Some(signatures) if scheme.from.list.is_none() => (std::borrow::Cow::Borrowed(&b""[..]), signatures),
            _ => received(scheme, head, body)?,
        };
        let inputs = self.check.inputs(head, body, scheme, &value);
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
        for (at, state) in states.iter_mut().enumerate() {
            feed(scheme, from..usize::MAX, &inputs, at % variants, state)?;
        }
        let expected: Vec<Tag> = states.into_iter().map(State::finish).collect();
        if !mac::any_match(&expected, signatures.as_slice()) {
            let detail = format!("no signature matches over a body of {} bytes", body.len());
            return Err(Reason::SignatureMismatch.because(detail));
        }
        Ok(Verified {
            content: expected
                .iter()
                .skip(scheme.signed.canonical_variant())
                .step_by(variants)
                .map(Tag::fingerprint)
                .collect(),
        })
    }
}

impl Proof {
    /// The key for a secret, and its length in bytes. The error follows `secret from …` and never quotes the secret.
    fn key(&self, secret: &[u8]) -> Result<(Key, usize), String> {
        match self {
            Self::Shared(_) => Ok((Key::shared(secret.to_vec()), secret.len())),
            Self::Signed(signed) => {
                let key = zeroize::Zeroizing::new(signed.key.make(secret)?);
                let len = key.len();
                let key = match signed.algorithm {
                    Algorithm::Hmac(hash) => Key::hmac(hash, &key).ok_or("is no key for the algorithm")?,
                    Algorithm::Digest(hash) => Key::digest(hash, key.to_vec()),
                };
                Ok((key, len))
            }
        }
    }
}

impl KeyForm {
    fn make(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        let text = secret.strip_prefix(self.strip_prefix.as_bytes()).unwrap_or(secret);
        let key = match self.encoding {
            Encoding::Text => Some(text.to_vec()),
            // Keys are pasted by people: padding may be left out.
            Encoding::Base64 | Encoding::Base64Url | Encoding::Base64UrlPadded => self.encoding.decode_key(text),
            Encoding::Hex => Encoding::Hex.decode_all(text),
        };
        match key {
            None => Err(format!("is not {}", self.encoding)),
            Some(key) if key.is_empty() => Err(format!("is empty behind `{}`", self.strip_prefix)),
            Some(key) => Ok(key),
        }
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
fn present<'a>(source: &Source, head: &Head<'a>, body: &'a [u8]) -> Result<std::borrow::Cow<'a, [u8]>, Reject> {
    source
        .read(head, body)
        .map_err(|error| Reason::SignatureMalformed.because(error.0))?
        .ok_or_else(|| Reason::SignatureMissing.because(format!("no {source}")))
}

/// The value that holds the signature, and the signatures of all places that may hold one.
fn received<'a>(
    scheme: &Signed,
    head: &Head<'a>,
    body: &'a [u8],
) -> Result<(std::borrow::Cow<'a, [u8]>, Signatures), Reject> {
    let read = |source: &Source| {
        let value = present(source, head, body)?;
        let signatures = scheme.from.signatures(&value, scheme.algorithm.len())?;
        Ok::<_, Reject>((value, signatures))
    };
    let mut found = read(&scheme.from.source);
    for source in &scheme.also {
        // One good signature is enough: the others are made with other keys.
        match (&mut found, read(source)) {
            (Ok((_, all)), Ok((_, more))) => all.extend(&more),
            (Err(_), Ok(more)) => found = Ok(more),
            (Err(first), Err(reject)) if first.reason == Reason::SignatureMissing => *first = reject,
            (_, Err(_)) => {}
        }
    }
    found
}

/// Does the request hold one of the shared secrets? All are compared.
fn shared<'k>(place: &Place, keys: impl Iterator<Item = &'k Key>, head: &Head<'_>, body: &[u8]) -> Result<(), Reject> {
    let value = present(&place.source, head, body)?;
    let malformed = || Reason::SignatureMalformed.because(format!("{} does not have the scheme's form", place.source));
    let text = place.strip(&value).ok_or_else(malformed)?;
    let decoded = place.encoding.decode_all(text).ok_or_else(malformed)?;
    if decoded.is_empty() {
        return Err(malformed());
    }
    let mut any = false;
    for key in keys {
        any |= key.is_shared(&decoded);
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
    scheme.signed.feed(parts, inputs, variant, &mut |piece| match piece {
        Piece::Bytes(bytes) => state.update(bytes),
        Piece::Secret => state.update_secret(),
        Piece::Sorted(values) => state.update_sorted(values),
    })
}

#[cfg(test)]
mod tests;
