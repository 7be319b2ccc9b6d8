//! JSON Web Tokens (RFC 7519) and detached JSON Web Signatures (RFC 7515, RFC 7797) as proof.
//!
//! Which algorithms count is the scheme's matter, never the token's: a token's `alg` only chooses among those that the
//! scheme names, which are all of one sort, so that a public key can never be taken for an HMAC's secret. `none` is not
//! among the names that exist here. What a token does not say is not assumed: times and claims that the scheme asks for
//! must stand in it.

use super::chain::{ChainRule, MAX_BROUGHT, MAX_CERTIFICATE};
use super::keys::{EcdsaForm, KeySet, MAX_SIGNATURE, PublicAlgorithm};
use super::mac::{self, Hash, HmacKeys};
use super::url::{PublicUrl, UrlForm};
use super::{Encoding, Place};
use crate::check::source::{Inner, Source};
use crate::reject::{Reason, Reject};
use crate::request::{Head, Now};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// Claims that a scheme may ask for, and claims that a route may fix.
pub(crate) const MAX_CLAIMS: usize = 32;
/// The longest header of a token, in bytes of base64url.
const MAX_HEADER: usize = 16 << 10;

/// An algorithm of JWS, by the name that tokens use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenAlgorithm {
    pub(crate) name: &'static str,
    pub(crate) kind: TokenKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenKind {
    Hmac(Hash),
    Public(PublicAlgorithm),
}

impl TokenAlgorithm {
    /// All that exist here (RFC 7518, RFC 8037, RFC 9864).
    pub(crate) const ALL: &'static [Self] = &[
        Self { name: "HS256", kind: TokenKind::Hmac(Hash::Sha256) },
        Self { name: "HS384", kind: TokenKind::Hmac(Hash::Sha384) },
        Self { name: "HS512", kind: TokenKind::Hmac(Hash::Sha512) },
        Self { name: "RS256", kind: TokenKind::Public(PublicAlgorithm::RsaPkcs1(Hash::Sha256)) },
        Self { name: "RS384", kind: TokenKind::Public(PublicAlgorithm::RsaPkcs1(Hash::Sha384)) },
        Self { name: "RS512", kind: TokenKind::Public(PublicAlgorithm::RsaPkcs1(Hash::Sha512)) },
        Self { name: "PS256", kind: TokenKind::Public(PublicAlgorithm::RsaPss(Hash::Sha256)) },
        Self { name: "PS384", kind: TokenKind::Public(PublicAlgorithm::RsaPss(Hash::Sha384)) },
        Self { name: "PS512", kind: TokenKind::Public(PublicAlgorithm::RsaPss(Hash::Sha512)) },
        Self { name: "ES256", kind: TokenKind::Public(PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Raw)) },
        Self { name: "ES384", kind: TokenKind::Public(PublicAlgorithm::P384(EcdsaForm::Raw)) },
        Self { name: "ES256K", kind: TokenKind::Public(PublicAlgorithm::Secp256k1(EcdsaForm::Raw)) },
        Self { name: "EdDSA", kind: TokenKind::Public(PublicAlgorithm::Ed25519) },
        Self { name: "Ed25519", kind: TokenKind::Public(PublicAlgorithm::Ed25519) },
    ];
}

/// What a token must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRules {
    /// Where it stands; `None`: it is the body. The place's encoding has no meaning here.
    pub(crate) from: Option<Place>,
    /// All HMACs, or all public-key algorithms.
    pub(crate) algorithms: Box<[TokenAlgorithm]>,
    /// How the HMACs' key is made of the secret.
    pub(crate) key: super::scheme::KeyForm,
    pub(crate) payload: Payload,
    /// Claims that must stand, whatever they hold.
    pub(crate) present: Box<[Box<str>]>,
    pub(crate) claims: Box<[Claim]>,
    /// Claims that the route must fix: `aud`.
    pub(crate) configured: Box<[Box<str>]>,
    /// For how long after `exp` and before `nbf` or `iat` a token still counts.
    pub(crate) leeway: Duration,
    /// The oldest time of making that is accepted, which must stand then.
    pub(crate) max_age: Option<Duration>,
    /// The claim that says when it was made, in place of `iat`, and how many of its units are a second.
    pub(crate) made_at: Option<(Box<str>, u32)>,
    /// Where claims stand that are not members of the payload itself: the first place that is there counts.
    pub(crate) places: Box<[ClaimPlaces]>,
    /// The key comes with the token, in a chain of certificates (`x5c`) that this rule judges.
    pub(crate) chain: Option<ChainRule>,
}

/// Where a claim stands that is no member of the payload itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimPlaces {
    pub(crate) name: Box<str>,
    /// JSON Pointers.
    pub(crate) at: Box<[Box<str>]>,
}

/// What a token is made over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    /// Claims, in the token itself.
    Claims,
    /// The body, in place of the token's own part, which is left empty: base64url of it, or as it is (`b64: false`).
    Body { encoded: bool },
}

/// What a claim must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) name: Box<str>,
    pub(crate) must: ClaimMust,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClaimMust {
    /// One of these texts; of an array (`aud`) one element.
    OneOf(Box<[Box<str>]>),
    /// The digest of the body. With `unless_empty` it is left out exactly where there is no body.
    BodyDigest { hash: Hash, encoding: Encoding, unless_empty: bool },
    /// The digest of the URL as the sender called it.
    UrlDigest { hash: Hash, encoding: Encoding },
    /// The URL as the sender called it.
    Url,
    /// What also stands at this place of the request.
    SameAs(Source),
}

impl TokenRules {
    /// Is the body bound to the token?
    pub(crate) fn covers_body(&self) -> bool {
        matches!(self.payload, Payload::Body { .. })
            || self.claims.iter().any(|claim| matches!(claim.must, ClaimMust::BodyDigest { .. }))
            || self.from.is_none()
    }

    /// Is it a claim of the very token that is verified?
    pub(crate) fn claims_stand_in(&self, source: &Source) -> bool {
        let Source::Inside(outer, Inner::Claim(_)) = source else { return false };
        let plain = self.from.as_ref().is_some_and(|place| place.source == **outer && place.prefix.is_empty());
        plain && self.payload == Payload::Claims
    }

    pub(crate) fn source(&self) -> Option<&Source> {
        self.from.as_ref().map(|place| &place.source)
    }

    /// What holds the token.
    pub(crate) fn read<'a>(&self, head: &Head<'a>, body: &'a [u8]) -> Result<Cow<'a, [u8]>, Reject> {
        match self.source() {
            Some(source) => super::present(source, head, body),
            None if body.is_empty() => Err(Reason::SignatureMissing.because("the body is empty")),
            None => Ok(Cow::Borrowed(body)),
        }
    }

    /// For people: `header authorization`.
    pub(crate) fn place(&self) -> String {
        self.source().map_or_else(|| "the body".to_owned(), ToString::to_string)
    }

    /// Can it only be looked at once the body is whole?
    pub(crate) fn needs_body(&self) -> bool {
        matches!(self.payload, Payload::Body { .. }) || self.source().is_none_or(Source::needs_body)
    }

    pub(crate) fn covers_url(&self) -> bool {
        self.claims.iter().any(|claim| matches!(claim.must, ClaimMust::UrlDigest { .. } | ClaimMust::Url))
    }

    pub(crate) fn hashes(&self) -> impl Iterator<Item = Hash> {
        self.algorithms.iter().filter_map(|algorithm| match algorithm.kind {
            TokenKind::Hmac(hash) => Some(hash),
            TokenKind::Public(_) => None,
        })
    }

    /// Does it take a secret, rather than public keys?
    pub(crate) fn is_symmetric(&self) -> bool {
        self.hashes().next().is_some()
    }
}

/// What a route says that a claim must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedClaim {
    /// The claim: `aud`.
    pub name: Box<str>,
    /// One of these.
    pub texts: Box<[Box<str>]>,
}

/// What a token is verified with.
pub(crate) enum TokenKey<'k> {
    Secret(&'k HmacKeys),
    Public(Arc<KeySet>),
}

/// A token taken apart, nothing of it believed.
#[derive(Debug)]
pub(crate) struct Token<'t> {
    header_text: &'t str,
    payload_text: &'t str,
    algorithm: TokenAlgorithm,
    key_id: Option<String>,
    signature: Vec<u8>,
    /// Certificates of its header, where the scheme asks for them.
    brought: Vec<Vec<u8>>,
}

/// What a good token says.
#[derive(Debug)]
pub(crate) struct Claims(Value);

fn malformed(what: impl Into<String>) -> Reject {
    Reason::SignatureMalformed.because(what.into())
}

fn mismatch(what: impl Into<String>) -> Reject {
    Reason::SignatureMismatch.because(what.into())
}

/// A JSON object out of base64url. Says nothing of what is in it.
fn object(text: &str, what: &str) -> Result<Map<String, Value>, Reject> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| malformed(format!("the token's {what} is no base64url")))?;
    serde_json::from_slice(&bytes).map_err(|_| malformed(format!("the token's {what} is no JSON object")))
}

/// The certificates of a header's `x5c` (RFC 7515, 4.1.6).
fn certificates(chain: Option<&Value>) -> Option<Vec<Vec<u8>>> {
    let chain = chain?.as_array().filter(|chain| (1..=MAX_BROUGHT).contains(&chain.len()))?;
    let der = |certificate: &Value| {
        let text = certificate.as_str().filter(|text| text.len() <= MAX_CERTIFICATE)?;
        STANDARD.decode(text).ok()
    };
    chain.iter().map(der).collect()
}

impl<'t> Token<'t> {
    /// Takes a token apart and looks at its header, which chooses one of the algorithms that the scheme names.
    pub(crate) fn parse(value: &'t [u8], rules: &TokenRules) -> Result<Self, Reject> {
        let place = rules.place();
        let text = rules.from.as_ref().map_or(Some(value), |place| place.strip(value));
        let text = text.and_then(|text| std::str::from_utf8(text).ok());
        let text = text.ok_or_else(|| malformed(format!("{place} does not have the scheme's form")))?;
        let mut parts = text.split('.');
        let (Some(header_text), Some(payload_text), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(malformed(format!("{place} is no token: three parts with dots between")));
        };
        let inside = matches!(rules.payload, Payload::Claims);
        if inside == payload_text.is_empty() {
            return Err(malformed(if inside { "the token is empty" } else { "the token is not detached" }));
        }
        if header_text.len() > MAX_HEADER {
            return Err(malformed(format!("the token's header is longer than {MAX_HEADER} bytes")));
        }
        let header = object(header_text, "header")?;
        let name = header.get("alg").and_then(Value::as_str).unwrap_or_default();
        let algorithm = rules.algorithms.iter().find(|algorithm| algorithm.name == name);
        let Some(algorithm) = algorithm else {
            return Err(malformed("the token's algorithm is none of those that the scheme accepts"));
        };
        // Extensions that must be understood: only `b64` is, and only where the scheme says so.
        let unencoded = rules.payload == Payload::Body { encoded: false };
        let b64 = header.get("b64").map(|b64| b64.as_bool());
        let critical = match header.get("crit") {
            None => false,
            Some(Value::Array(names)) if names.len() == 1 && names[0] == "b64" => true,
            Some(_) => return Err(malformed("the token has extensions that are not known here (crit)")),
        };
        if (unencoded && !(critical && b64 == Some(Some(false)))) || (!unencoded && (critical || b64.is_some())) {
            return Err(malformed("the token's b64 is not what the scheme says"));
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(malformed("the token's kid is no text")),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).ok().filter(|bytes| bytes.len() <= MAX_SIGNATURE);
        let signature = signature.ok_or_else(|| malformed("the token's signature is no base64url"))?;
        // Without one the token can still be verified with a key that the route gives.
        let brought = rules.chain.as_ref().and_then(|_| certificates(header.get("x5c"))).unwrap_or_default();
        Ok(Self { header_text, payload_text, algorithm: *algorithm, key_id, signature, brought })
    }

    /// The key that it brings, if its chain of certificates is the sender's at the time that the token says it was made
    /// at: a message that waited is still good when a certificate has ended meanwhile.
    pub(crate) fn brought(&self, rules: &TokenRules, now: Now) -> Result<KeySet, Reject> {
        let rule = rules.chain.as_ref().ok_or(Reason::Internal)?;
        let made = self.claims(rules)?.made_at(rules);
        let at = made.map_or(now.unix, |made| Duration::from_secs(made as u64));
        rule.key(&self.brought, at).map_err(|what| mismatch(format!("the token's certificate {what}")))
    }

    /// The name of the key that it says it was made with.
    pub(crate) fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The algorithm that it says it was made with, one of the scheme's.
    pub(crate) fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// What is signed.
    pub(crate) fn signing_input(&self, rules: &TokenRules, body: &[u8]) -> Vec<u8> {
        let payload = match rules.payload {
            Payload::Claims => self.payload_text.as_bytes().into(),
            Payload::Body { encoded: true } => std::borrow::Cow::Owned(URL_SAFE_NO_PAD.encode(body).into_bytes()),
            Payload::Body { encoded: false } => std::borrow::Cow::Borrowed(body),
        };
        [self.header_text.as_bytes(), b".", &*payload].concat()
    }

    /// Does the signature hold with any of the keys?
    pub(crate) fn verify<'k>(
        &self,
        rules: &TokenRules,
        body: &[u8],
        keys: impl Iterator<Item = TokenKey<'k>>,
    ) -> Result<(), Reject> {
        let input = self.signing_input(rules, body);
        let mut holds = false;
        for key in keys {
            holds |= match (self.algorithm.kind, key) {
                (TokenKind::Hmac(hash), TokenKey::Secret(secret)) => {
                    let received = mac::Tag::new(&self.signature);
                    let exact = self.signature.len() == hash.output_len();
                    secret.mac(hash, &input).is_some_and(|expected| exact && mac::any_match(&[expected], &[received]))
                }
                (TokenKind::Public(algorithm), TokenKey::Public(keys)) => {
                    keys.verifies(algorithm, self.key_id(), &input, &self.signature)
                }
                _ => false,
            };
        }
        if holds { Ok(()) } else { Err(mismatch("no key verifies the token")) }
    }

    /// What it says. To be asked for after [`Token::verify`] only.
    pub(crate) fn claims(&self, rules: &TokenRules) -> Result<Claims, Reject> {
        match rules.payload {
            Payload::Claims => object(self.payload_text, "payload").map(|claims| Claims(claims.into())),
            Payload::Body { .. } => Ok(Claims(Map::new().into())),
        }
    }
}

impl Claims {
    /// Everything that the head alone decides: times, texts, the URL.
    pub(crate) fn check(
        &self,
        rules: &TokenRules,
        fixed: &[FixedClaim],
        public_url: Option<&PublicUrl>,
        head: &Head<'_>,
        now: Now,
    ) -> Result<(), Reject> {
        for name in &rules.present {
            if self.get(rules, name).is_none_or(Value::is_null) {
                return Err(malformed(format!("the token has no claim {name}")));
            }
        }
        self.check_times(rules, now)?;
        for claim in fixed {
            self.one_of(rules, &claim.name, &claim.texts)?;
        }
        for claim in &rules.claims {
            match &claim.must {
                ClaimMust::OneOf(texts) => self.one_of(rules, &claim.name, texts)?,
                ClaimMust::UrlDigest { hash, encoding } => {
                    let url = public_url.ok_or(Reason::Internal)?.called(head, UrlForm::AsCalled, 0);
                    self.digest(rules, &claim.name, *encoding, &hash.digest(url.as_bytes()), "the URL")?;
                }
                ClaimMust::Url => {
                    let url = public_url.ok_or(Reason::Internal)?.called(head, UrlForm::AsCalled, 0);
                    self.one_of(rules, &claim.name, &[url.as_ref().into()])?;
                }
                ClaimMust::BodyDigest { .. } | ClaimMust::SameAs(_) => {}
            }
        }
        Ok(())
    }

    /// What needs the whole body.
    pub(crate) fn check_body(&self, rules: &TokenRules, head: &Head<'_>, body: &[u8]) -> Result<(), Reject> {
        for claim in &rules.claims {
            if let ClaimMust::SameAs(source) = &claim.must {
                let value = source.read(head, body).map_err(|error| malformed(error.0))?;
                let value = value.ok_or_else(|| malformed(format!("{source} is missing")))?;
                if self.get(rules, &claim.name).and_then(Value::as_str).map(str::as_bytes) != Some(&*value) {
                    return Err(mismatch(format!("the token's {} is not what stands at {source}", claim.name)));
                }
            }
            if let ClaimMust::BodyDigest { hash, encoding, unless_empty } = claim.must {
                if unless_empty && body.is_empty() && self.get(rules, &claim.name).is_none() {
                    continue;
                }
                self.digest(rules, &claim.name, encoding, &hash.digest(body), "the body")?;
            }
        }
        Ok(())
    }

    fn check_times(&self, rules: &TokenRules, now: Now) -> Result<(), Reject> {
        let now = now.unix.as_secs_f64();
        let leeway = rules.leeway.as_secs_f64();
        if let Some(exp) = self.time("exp")?
            && now >= exp + leeway
        {
            return Err(Reason::TimestampTooOld.because(format!("the token expired {:.0} s ago", now - exp)));
        }
        for name in ["nbf", "iat"] {
            if let Some(time) = self.time(name)?
                && time > now + leeway
            {
                let detail = format!("the token's {name} is {:.0} s ahead of this clock", time - now);
                return Err(Reason::TimestampInFuture.because(detail));
            }
        }
        let (name, unit) = rules.made_at.as_ref().map_or(("iat", 1), |(name, unit)| (&**name, *unit));
        let made = self.time(name)?.map(|made| made / f64::from(unit));
        if let Some(made) = made.filter(|made| *made > now + leeway) {
            let detail = format!("the token's {name} is {:.0} s ahead of this clock", made - now);
            return Err(Reason::TimestampInFuture.because(detail));
        }
        if let Some(max_age) = rules.max_age {
            let made = made.ok_or_else(|| malformed(format!("the token has no claim {name}")))?;
            if now - made > max_age.as_secs_f64() + leeway {
                let detail = format!("the token is {:.0} s old, accepted are {} s", now - made, max_age.as_secs());
                return Err(Reason::TimestampTooOld.because(detail));
            }
        }
        Ok(())
    }

    /// A `NumericDate`: seconds since 1970, possibly with a fraction.
    fn time(&self, name: &str) -> Result<Option<f64>, Reject> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let time = value.as_f64().filter(|time| time.is_finite() && *time >= 0.0 && *time < 1e15);
        time.map(Some).ok_or_else(|| Reason::TimestampInvalid.because(format!("the token's {name} is no time")))
    }

    /// A claim, wherever the scheme says that it stands.
    fn get(&self, rules: &TokenRules, name: &str) -> Option<&Value> {
        match rules.places.iter().find(|places| *places.name == *name) {
            Some(places) => places.at.iter().find_map(|place| self.0.pointer(place)),
            None => self.0.get(name),
        }
    }

    fn one_of(&self, rules: &TokenRules, name: &str, texts: &[Box<str>]) -> Result<(), Reject> {
        let is = |value: &Value| match value {
            Value::String(text) => texts.iter().any(|known| **known == **text),
            Value::Bool(flag) => texts.iter().any(|known| **known == *flag.to_string()),
            Value::Number(number) => texts.iter().any(|known| **known == *number.to_string()),
            _ => false,
        };
        match self.get(rules, name) {
            None => Err(malformed(format!("the token has no claim {name}"))),
            Some(Value::Array(list)) if list.iter().any(is) => Ok(()),
            Some(value) if is(value) => Ok(()),
            Some(_) => Err(mismatch(format!("the token's {name} is not the one that is accepted"))),
        }
    }

    fn digest(
        &self,
        rules: &TokenRules,
        name: &str,
        encoding: Encoding,
        expected: &mac::Tag,
        of: &str,
    ) -> Result<(), Reject> {
        let value = self.get(rules, name).and_then(Value::as_str);
        let value = value.ok_or_else(|| malformed(format!("the token has no claim {name}")))?;
        // No secret: both sides follow from the request.
        match encoding.decode_all(value.as_bytes()) {
            Some(bytes) if bytes == expected.as_bytes() => Ok(()),
            _ => Err(mismatch(format!("the token's {name} is not the digest of {of}"))),
        }
    }

    /// The time that it says it was made at, in seconds.
    pub(crate) fn made_at(&self, rules: &TokenRules) -> Option<f64> {
        match &rules.made_at {
            Some((name, unit)) => self.time(name).ok().flatten().map(|made| made / f64::from(*unit)),
            None => ["iat", "nbf"].iter().find_map(|name| self.time(name).ok().flatten()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::signature::{Credentials, PublicKeys, SignatureCheck, UnsignedRequest};
    use crate::config::scheme::RawScheme;
    use crate::secret::Secret;
    use proptest::prelude::*;

    /// RFC 7515, appendix A.1 and A.3, and RFC 8037, appendix A.4.
    const HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const HS256_KEY: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    const ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const ES256_KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;
    const EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    const EDDSA_KEY: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    /// Before the RFC's tokens expire.
    const NOW: u64 = 1_300_000_000;
    const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

    fn check(yaml: &str, secret: Option<&[u8]>, public: Option<&str>) -> SignatureCheck {
        let yaml = format!("{{ algorithm: jwt, from: {{ header: authorization, prefix: \"Bearer \" }}, {yaml} }}");
        let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
        let scheme = raw.compile("signature").unwrap_or_else(|problems| panic!("{problems:?}"));
        let credentials = Credentials {
            secrets: secret.map(|secret| Secret::always(secret.to_vec(), "env X")).into_iter().collect(),
            public_keys: public.map(|key| PublicKeys::parse(key.as_bytes(), "x").unwrap()).into_iter().collect(),
            public_url: Some("https://hooks.example.com/in"),
            ..Credentials::default()
        };
        SignatureCheck::bind(scheme, credentials).unwrap()
    }

    fn judge_at(check: &SignatureCheck, token: &str, body: &[u8], at: u64) -> Result<(), Reason> {
        let request = UnsignedRequest {
            method: "POST".into(),
            url: "https://hooks.example.com/in?x=1".into(),
            headers: vec![("Authorization".into(), format!("Bearer {token}").into_bytes())],
            body: body.to_vec(),
        };
        request
            .with_head(|head| {
                let mut verification = check.begin(head, true, Now::at_unix(at))?;
                verification.update(body);
                verification.finish(head, body, Now::at_unix(at)).map(drop)
            })
            .unwrap()
            .map_err(|reject| reject.reason)
    }

    fn judge(check: &SignatureCheck, token: &str) -> Result<(), Reason> {
        judge_at(check, token, b"", NOW)
    }

    fn b64(text: &str) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    /// A token as a sender makes it, with any header.
    fn hs256(header: &str, claims: &str, secret: &[u8]) -> String {
        let input = format!("{}.{}", b64(header), b64(claims));
        let mac = HmacKeys::new(std::iter::once(Hash::Sha256), secret).unwrap().mac(Hash::Sha256, input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.unwrap().as_bytes()))
    }

    #[test]
    fn tokens_of_the_rfcs_verify() {
        let secret = URL_SAFE_NO_PAD.decode(HS256_KEY).unwrap();
        let hs = check("token: { algorithms: [HS256] }", Some(&secret), None);
        assert_eq!(judge(&hs, HS256), Ok(()));
        assert_eq!(judge_at(&hs, HS256, b"", 1_300_819_380 + 61), Err(Reason::TimestampTooOld));
        let es = check("token: { algorithms: [ES256] }", None, Some(ES256_KEY));
        assert_eq!(judge(&es, ES256), Ok(()));
        let ed = check("token: { algorithms: [EdDSA] }", None, Some(EDDSA_KEY));
        // Its payload is text, no claims: that is as far as it gets.
        assert_eq!(judge(&ed, EDDSA), Err(Reason::SignatureMalformed));
        let rules = rules("token: { algorithms: [EdDSA] }");
        let value = format!("Bearer {EDDSA}");
        let token = Token::parse(value.as_bytes(), &rules).unwrap();
        let keys = Arc::new(KeySet::parse(EDDSA_KEY.as_bytes()).unwrap());
        assert!(token.verify(&rules, b"", std::iter::once(TokenKey::Public(keys))).is_ok());
        for (check, token) in [(&hs, HS256), (&es, ES256)] {
            for at in 0..token.len() {
                let mut changed = token.as_bytes().to_vec();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                assert!(judge(check, std::str::from_utf8(&changed).unwrap()).is_err(), "byte {at}");
            }
        }
    }

    fn rules(yaml: &str) -> TokenRules {
        let yaml = format!("{{ algorithm: jwt, from: {{ header: authorization, prefix: \"Bearer \" }}, {yaml} }}");
        let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
        let scheme = raw.compile("signature").unwrap();
        match &scheme.alternatives[0].proof {
            super::super::scheme::Proof::Token(rules) => (**rules).clone(),
            _ => unreachable!(),
        }
    }

    #[test]
    fn the_algorithm_is_the_configurations_matter() {
        let hs = check("token: { algorithms: [HS256] }", Some(SECRET), None);
        let good = hs256(r#"{"alg":"HS256"}"#, "{}", SECRET);
        assert_eq!(judge(&hs, &good), Ok(()));
        let payload = b64("{}");
        for header in [
            r#"{"alg":"none"}"#,
            r#"{"alg":"None"}"#,
            r#"{"alg":"NONE"}"#,
            r#"{"alg":""}"#,
            r#"{"alg":null}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{}"#,
            r#"{"alg":"hs256"}"#,
            r#"{"alg":"HS384"}"#,
            r#"{"alg":"RS256"}"#,
            r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
            r#"{"alg":"HS256","crit":[]}"#,
            r#"{"alg":"HS256","b64":false}"#,
            r#"{"alg":"HS256","b64":true}"#,
            r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
            r#"{"alg":"HS256","kid":7}"#,
            r#""HS256""#,
            "[]",
            "",
        ] {
            // Even with a MAC that would be right.
            assert_eq!(judge(&hs, &hs256(header, "{}", SECRET)), Err(Reason::SignatureMalformed), "{header}");
            assert!(judge(&hs, &format!("{}.{payload}.", b64(header))).is_err(), "{header}");
        }
        let (head, signature) = good.rsplit_once('.').unwrap();
        for bad in [
            format!("{head}."),
            format!("{head}.{signature}="),
            format!("{head}.{}", &signature[..signature.len() - 1]),
            format!("{head}.{signature}.x"),
            head.to_owned(),
            format!("{good} "),
            String::new(),
            "..".into(),
        ] {
            assert!(judge(&hs, &bad).is_err(), "{bad}");
        }
        assert_eq!(judge(&hs, &hs256(r#"{"alg":"HS256"}"#, "{}", &SECRET[1..])), Err(Reason::SignatureMismatch));
    }

    #[test]
    fn a_header_of_a_token_is_bounded() {
        let hs = check("token: { algorithms: [HS256] }", Some(SECRET), None);
        // Base64url of so many bytes fills the bound exactly.
        let most = MAX_HEADER / 4 * 3;
        for (length, verdict) in [(most, Ok(())), (most + 1, Err(Reason::SignatureMalformed))] {
            let header =
                format!(r#"{{"alg":"HS256","x":"{}"}}"#, "x".repeat(length - r#"{"alg":"HS256","x":""}"#.len()));
            assert_eq!(judge(&hs, &hs256(&header, "{}", SECRET)), verdict, "{length}");
        }
    }

    #[test]
    fn what_a_token_is_bound_to_is_known() {
        let digest = "{ name: d, body_digest: { hash: sha256, encoding: hex } }";
        let from = |from: &str, rest: &str| {
            let yaml = format!("{{ algorithm: jwt, from: {from}, token: {{ algorithms: [HS256], {rest} }} }}");
            let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
            let scheme = raw.compile("signature").unwrap_or_else(|problems| panic!("{problems:?}"));
            match &scheme.alternatives[0].proof {
                super::super::scheme::Proof::Token(rules) => (**rules).clone(),
                _ => unreachable!(),
            }
        };
        let header = "{ header: x-jwt }";
        for (rules, covers, late, claims) in [
            (from(header, ""), false, false, true),
            (from("{ header: x-jwt, prefix: \"Bearer \" }", ""), false, false, false),
            (from("{ header: x-other }", ""), false, false, false),
            (from(header, &format!("claims: [{digest}]")), true, false, true),
            (from(header, "payload: body"), true, true, false),
            (from("{ body: true }", ""), true, true, false),
            (from("{ json: /jwt }", ""), false, true, false),
        ] {
            let inside = Source::Inside(Box::new(Source::header("x-jwt").unwrap()), Inner::Claim("sub".into()));
            assert_eq!((rules.covers_body(), rules.needs_body()), (covers, late), "{rules:?}");
            assert_eq!(rules.claims_stand_in(&inside), claims, "{rules:?}");
            assert!(!rules.claims_stand_in(&Source::header("x-jwt").unwrap()));
        }
        let body = from("{ body: true }", "");
        let head =
            Head { method: "POST", path: "/", query: None, host: "h", headers: crate::request::Headers::List(&[]) };
        assert_eq!((body.place(), from(header, "").place()), ("the body".to_owned(), "header x-jwt".to_owned()));
        assert_eq!(body.read(&head, b"").unwrap_err().reason, Reason::SignatureMissing);
        assert_eq!(&*body.read(&head, b"x").unwrap(), b"x");
    }

    #[test]
    fn a_public_key_is_no_secret_for_an_hmac() {
        let es = check("token: { algorithms: [ES256] }", None, Some(ES256_KEY));
        for key in [ES256_KEY.as_bytes(), b""] {
            for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"ES256"}"#] {
                assert!(judge(&es, &hs256(header, "{}", key)).is_err(), "{header}");
            }
        }
        // Nor can a scheme be written that takes both.
        let yaml = "{ algorithm: jwt, from: { header: x }, token: { algorithms: [HS256, RS256] } }";
        let raw: RawScheme = serde_yaml::from_str(yaml).unwrap();
        assert!(raw.compile("signature").unwrap_err()[0].message.contains("never both"));
        for name in ["none", "None", "NONE", "", "hs256", "RS1", "HS1"] {
            let yaml = format!("{{ algorithm: jwt, from: {{ header: x }}, token: {{ algorithms: [\"{name}\"] }} }}");
            let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
            assert!(raw.compile("signature").is_err(), "{name}");
        }
    }

    #[test]
    fn a_public_key_of_a_route_is_never_its_secret() {
        // A sender with both kinds of proof: whoever knows the public key must not pass as one who knows the secret.
        let yaml = r#"
            any_of:
              - { when: { header: x-token }, algorithm: jwt, from: { header: x-token }, token: { algorithms: [HS256] } }
              - { when: { header: x-mac }, algorithm: hmac-sha256, from: { header: x-mac }, signed: "{body}" }
              - { algorithm: jwt, from: { header: authorization, prefix: "Bearer " }, token: { algorithms: [ES256] } }
        "#;
        let raw: RawScheme = serde_yaml::from_str(yaml).unwrap();
        let scheme = raw.compile("signature").unwrap();
        let check = SignatureCheck::bind(
            scheme.clone(),
            Credentials {
                secrets: vec![Secret::always(SECRET.to_vec(), "env X")],
                public_keys: vec![PublicKeys::parse(ES256_KEY.as_bytes(), "x").unwrap()],
                ..Credentials::default()
            },
        )
        .unwrap();
        let send = |name: &str, value: String| {
            let request = UnsignedRequest {
                method: "POST".into(),
                url: "https://a.example/".into(),
                headers: vec![(name.into(), value.into_bytes())],
                body: b"body".to_vec(),
            };
            request
                .with_head(|head| {
                    let verification = check.begin(head, true, Now::at_unix(NOW))?;
                    verification.finish(head, b"body", Now::at_unix(NOW)).map(drop)
                })
                .unwrap()
                .map_err(|reject| reject.reason)
        };
        let header = r#"{"alg":"HS256"}"#;
        assert_eq!(send("x-token", hs256(header, "{}", SECRET)), Ok(()));
        assert_eq!(send("authorization", format!("Bearer {ES256}")), Ok(()));
        assert_eq!(send("x-token", hs256(header, "{}", ES256_KEY.as_bytes())), Err(Reason::SignatureMismatch));
        assert_eq!(send("x-token", ES256.into()), Err(Reason::SignatureMalformed));
        let mac = |key: &[u8]| {
            let keys = HmacKeys::new(std::iter::once(Hash::Sha256), key).unwrap();
            hex::encode(keys.mac(Hash::Sha256, b"body").unwrap().as_bytes())
        };
        assert_eq!(send("x-mac", mac(SECRET)), Ok(()));
        assert_eq!(send("x-mac", mac(ES256_KEY.as_bytes())), Err(Reason::SignatureMismatch));
        // Each kind is asked for by itself.
        let lacks = |credentials| SignatureCheck::bind(scheme.clone(), credentials).unwrap_err().join(";");
        assert_eq!(lacks(Credentials::default()), "no public key is configured;no secret is configured");
    }

    #[test]
    fn claims_and_times_are_as_the_scheme_says() {
        let check = check(
            "token: { algorithms: [HS256], leeway: 10s, max_age: 100s, require: [exp, jti], claims: [
               { name: iss, is: [me, other] }, { name: count, is: [\"7\"] }, { name: flag, is: [\"true\"] }, { name: aud, is: [\"https://a.example\"] },
               { name: body_hash, body_digest: { hash: sha256, encoding: hex }, unless_empty: true },
               { name: url_hash, url_digest: { hash: sha256, encoding: hex } }, { name: link, url: true } ] }",
            Some(SECRET),
            None,
        );
        let body = b"the body";
        let digest = hex::encode(Hash::Sha256.digest(body).as_bytes());
        let url = "https://hooks.example.com/in?x=1";
        let url_digest = hex::encode(Hash::Sha256.digest(url.as_bytes()).as_bytes());
        let good = serde_json::json!({
            "iat": NOW, "nbf": NOW, "exp": NOW + 50, "jti": "1", "iss": "me", "aud": "https://a.example", "body_hash": digest,
            "url_hash": url_digest, "link": url, "count": 7, "flag": true,
        });
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            if claims[name] == "-" {
                claims.as_object_mut().unwrap().remove(name);
            }
            hs256(r#"{"alg":"HS256"}"#, &claims.to_string(), SECRET)
        };
        for (name, value, expected) in [
            ("jti", "2".into(), Ok(())),
            ("iss", "other".into(), Ok(())),
            ("iss", "-".into(), Err(Reason::SignatureMalformed)),
            ("iss", "you".into(), Err(Reason::SignatureMismatch)),
            ("iss", 7.into(), Err(Reason::SignatureMismatch)),
            ("iss", Value::Null, Err(Reason::SignatureMismatch)),
            ("count", 7.into(), Ok(())),
            ("count", "7".into(), Ok(())),
            ("count", 8.into(), Err(Reason::SignatureMismatch)),
            ("count", 7.5.into(), Err(Reason::SignatureMismatch)),
            ("flag", true.into(), Ok(())),
            ("flag", false.into(), Err(Reason::SignatureMismatch)),
            ("aud", serde_json::json!(["b", "https://a.example"]), Ok(())),
            ("aud", serde_json::json!(["b"]), Err(Reason::SignatureMismatch)),
            ("aud", serde_json::json!([]), Err(Reason::SignatureMismatch)),
            ("aud", "https://a.example/".into(), Err(Reason::SignatureMismatch)),
            ("jti", "-".into(), Err(Reason::SignatureMalformed)),
            ("jti", Value::Null, Err(Reason::SignatureMalformed)),
            ("exp", "-".into(), Err(Reason::SignatureMalformed)),
            ("exp", (NOW - 9).into(), Ok(())),
            ("exp", (NOW - 10).into(), Err(Reason::TimestampTooOld)),
            ("exp", 1300000000.5.into(), Ok(())),
            ("exp", "1300000050".into(), Err(Reason::TimestampInvalid)),
            ("exp", (-1).into(), Err(Reason::TimestampInvalid)),
            ("exp", 1e300.into(), Err(Reason::TimestampInvalid)),
            ("exp", 1e15.into(), Err(Reason::TimestampInvalid)),
            ("iat", "-".into(), Err(Reason::SignatureMalformed)),
            ("iat", (NOW - 110).into(), Ok(())),
            ("iat", (NOW - 111).into(), Err(Reason::TimestampTooOld)),
            ("iat", (NOW + 10).into(), Ok(())),
            ("iat", (NOW + 11).into(), Err(Reason::TimestampInFuture)),
            ("nbf", (NOW + 11).into(), Err(Reason::TimestampInFuture)),
            ("nbf", "-".into(), Ok(())),
            ("body_hash", "-".into(), Err(Reason::SignatureMalformed)),
            ("body_hash", url_digest.clone().into(), Err(Reason::SignatureMismatch)),
            ("body_hash", "".into(), Err(Reason::SignatureMismatch)),
            ("url_hash", digest.clone().into(), Err(Reason::SignatureMismatch)),
            ("url_hash", "-".into(), Err(Reason::SignatureMalformed)),
            ("link", "https://hooks.example.com/in".into(), Err(Reason::SignatureMismatch)),
        ] {
            assert_eq!(judge_at(&check, &with(name, value.clone()), body, NOW), expected, "{name} {value}");
        }
        let token = with("jti", "1".into());
        assert_eq!(judge_at(&check, &token, b"another body", NOW), Err(Reason::SignatureMismatch));
        assert_eq!(judge_at(&check, &token, b"", NOW), Err(Reason::SignatureMismatch));
        // No claim for no body, but no body for no claim either.
        assert_eq!(judge_at(&check, &with("body_hash", "-".into()), b"", NOW), Ok(()));
    }

    #[test]
    fn detached_tokens_are_made_over_the_body() {
        let keys = HmacKeys::new(std::iter::once(Hash::Sha256), SECRET).unwrap();
        let made = |header: &str, payload: &str| {
            let input = format!("{}.{payload}", b64(header));
            let mac = keys.mac(Hash::Sha256, input.as_bytes()).unwrap();
            format!("{}..{}", b64(header), URL_SAFE_NO_PAD.encode(mac.as_bytes()))
        };
        let encoded = check("token: { algorithms: [HS256], payload: body }", Some(SECRET), None);
        let plain = check("token: { algorithms: [HS256], payload: body-unencoded }", Some(SECRET), None);
        let body = r#"{"a":1}"#;
        let good = made(r#"{"alg":"HS256"}"#, &b64(body));
        let good_plain = made(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#, body);
        assert_eq!(judge_at(&encoded, &good, body.as_bytes(), NOW), Ok(()));
        assert_eq!(judge_at(&plain, &good_plain, body.as_bytes(), NOW), Ok(()));
        for (check, token) in [
            (&encoded, &good_plain),
            (&plain, &good),
            (&plain, &made(r#"{"alg":"HS256","b64":false}"#, body)),
            (&plain, &made(r#"{"alg":"HS256","b64":true,"crit":["b64"]}"#, body)),
            (&plain, &made(r#"{"alg":"HS256"}"#, body)),
            (&plain, &made(r#"{"alg":"HS256","b64":false,"crit":["exp"]}"#, body)),
            (&plain, &made(r#"{"alg":"HS256","b64":false,"crit":["b64","exp"]}"#, body)),
            (&plain, &made(r#"{"alg":"HS256","b64":false,"crit":"b64"}"#, body)),
            // Attached, so that somebody could take that payload for what was verified.
            (&encoded, &hs256(r#"{"alg":"HS256"}"#, body, SECRET)),
        ] {
            assert_eq!(judge_at(check, token, body.as_bytes(), NOW), Err(Reason::SignatureMalformed), "{token}");
        }
        assert_eq!(judge_at(&encoded, &good, b"{\"a\":2}", NOW), Err(Reason::SignatureMismatch));
        assert_eq!(judge_at(&plain, &good_plain, b"{\"a\":2}", NOW), Err(Reason::SignatureMismatch));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_apart_without_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let rules = rules("token: { algorithms: [HS256, HS512] }");
            let _ = Token::parse(&value, &rules);
            let _ = Token::parse(&[b"Bearer ", &value[..]].concat(), &rules);
        }

        #[test]
        fn token_like_text_never_verifies(header in "\\PC{0,40}", claims in "\\PC{0,40}", signature in "[A-Za-z0-9_-]{0,90}", alg in "HS256|HS512|none|RS256") {
            let check = check("token: { algorithms: [HS256, HS512] }", Some(SECRET), None);
            for header in [header, format!("{{\"alg\":\"{alg}\"}}")] {
                let token = format!("{}.{}.{signature}", b64(&header), b64(&claims));
                prop_assert!(judge(&check, &token).is_err());
            }
        }

        #[test]
        fn any_claims_are_judged_without_panic(value in prop_oneof![any::<f64>().prop_map(|n| serde_json::json!(n)), any::<i64>().prop_map(Value::from), "\\PC{0,20}".prop_map(Value::from), Just(Value::Null), Just(serde_json::json!([[]]))], name in "exp|iat|nbf|aud|iss") {
            let check = check("token: { algorithms: [HS256], max_age: 1m, claims: [{ name: aud, is: [x] }] }", Some(SECRET), None);
            let _ = judge(&check, &hs256(r#"{"alg":"HS256"}"#, &serde_json::json!({ name: value }).to_string(), SECRET));
        }
    }
}
