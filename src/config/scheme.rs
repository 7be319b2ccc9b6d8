//! The scheme language as people write it, in presets and in routes alike.
//!
//! ```yaml
//! signature:
//!   algorithm: hmac-sha256
//!   from: { header: X-Signature, prefix: "sha256=", encoding: hex }
//!   signed: "{header:X-Timestamp}.{body}"
//!   timestamp: { header: X-Timestamp, unit: seconds, past: 5m, future: 1m }
//! ```
//!
//! [`RawScheme::compile`] turns it into a [`Scheme`] and reports every problem with the path of its field.

use crate::check::signature::asked::{KeyQuestion, TokenQuestion};
use crate::check::signature::chain::ChainRule;
use crate::check::signature::fetched::{CertificateRule, KeysAt};
use crate::check::signature::keys::{EcdsaForm, PublicAlgorithm};
use crate::check::signature::message::{MessageAlgorithm, MessageKind, MessageRules};
use crate::check::signature::scheme::{
    Algorithm, AlgorithmBy, Alternative, Derivation, KeyForm, KeyOrigin, Must, Proof, Requirement, Signed, When,
};
use crate::check::signature::template::{NamedIn, SignedHeaders};
use crate::check::signature::token::{
    Claim, ClaimMust, ClaimPlaces, MAX_CLAIMS, Payload, TokenAlgorithm, TokenKind, TokenRules,
};
use crate::check::signature::{
    Encoding, Hash, List, Part, Place, Scheme, Template, TimestampPlace, TimestampRule, Unit,
};
use crate::check::source::Source;
use crate::fetch::target::{Pin, Target};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Something wrong with a configuration: where, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `routes[2].signature.from.header`.
    pub path: String,
    /// What is wrong and, where that helps, what to write.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// How a sender proves where a request is from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawScheme {
    /// Several schemes of one sender. The first whose `when` holds counts; one without `when` comes last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any_of: Option<Vec<RawScheme>>,
    /// What people call this alternative: `v3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What makes this alternative count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<RawWhen>,
    /// It counts only on routes that name it under `variants`: nothing in a request tells it from the others.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_choice: bool,
    /// How the proof is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<RawAlgorithm>,
    /// Where the message says which public-key algorithm it was signed with, of those that are listed here. They are of
    /// one sort with `algorithm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm_by: Option<RawAlgorithmBy>,
    /// How the key is made of the secret. The secret's text, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<RawKey>,
    /// Where the signature stands and how it is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<RawPlace>,
    /// Where the request says which public key it was signed with. Keys that have a name count only for requests that
    /// say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<RawKeyId>,
    /// Where the sender publishes its public keys, to be fetched. Not set: each route names them under `public_keys`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<RawKeysAt>,
    /// What a token must be like. Goes with the algorithm `jwt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<RawToken>,
    /// What a signed HTTP message must be like. Goes with the algorithm `http-message-signature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<RawMessage>,
    /// What is signed: `{header:X-Timestamp}.{body}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<String>,
    /// Headers that the request itself names as signed; stands for `{signed_headers}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_headers: Option<RawSignedHeaders>,
    /// A JSON pointer with `*`: each item that it leads to has a signature of its own, and all must hold. Pointers of the
    /// scheme then start at the item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each: Option<String>,
    /// The signed time and how far it may be off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<RawTimestamp>,
    /// What must hold besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<RawRequirement>,
}

/// How a proof is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RawAlgorithm {
    /// HMAC with SHA-1.
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC with SHA-256.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-384.
    #[serde(rename = "hmac-sha384")]
    HmacSha384,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    /// HMAC with MD5. For senders that have nothing better.
    #[serde(rename = "hmac-md5")]
    HmacMd5,
    /// A plain MD5 over a text that holds `{secret}`. Very weak; for senders that have nothing better.
    #[serde(rename = "md5")]
    Md5,
    /// A plain SHA-1 over a text that holds `{secret}`. Weak; for senders that have nothing better.
    #[serde(rename = "sha1")]
    Sha1,
    /// A plain SHA-256 over a text that holds `{secret}`.
    #[serde(rename = "sha256")]
    Sha256,
    /// A plain SHA-512 over a text that holds `{secret}`.
    #[serde(rename = "sha512")]
    Sha512,
    /// Ed25519 (RFC 8032), verified with a public key.
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on P-256 with SHA-1, verified with a public key.
    #[serde(rename = "ecdsa-p256-sha1")]
    P256Sha1,
    /// ECDSA on P-256 with SHA-256, verified with a public key.
    #[serde(rename = "ecdsa-p256-sha256")]
    P256Sha256,
    /// ECDSA on P-384 with SHA-384, verified with a public key.
    #[serde(rename = "ecdsa-p384-sha384")]
    P384Sha384,
    /// ECDSA on secp256k1 with SHA-256, verified with a public key.
    #[serde(rename = "ecdsa-secp256k1-sha256")]
    Secp256k1Sha256,
    /// RSA (PKCS#1 v1.5) with SHA-1, verified with a public key. For old senders.
    #[serde(rename = "rsa-sha1")]
    RsaSha1,
    /// RSA (PKCS#1 v1.5) with SHA-256, verified with a public key.
    #[serde(rename = "rsa-sha256")]
    RsaSha256,
    /// RSA (PKCS#1 v1.5) with SHA-384, verified with a public key.
    #[serde(rename = "rsa-sha384")]
    RsaSha384,
    /// RSA (PKCS#1 v1.5) with SHA-512, verified with a public key.
    #[serde(rename = "rsa-sha512")]
    RsaSha512,
    /// RSA-PSS with SHA-256, verified with a public key.
    #[serde(rename = "rsa-pss-sha256")]
    RsaPssSha256,
    /// RSA-PSS with SHA-384, verified with a public key.
    #[serde(rename = "rsa-pss-sha384")]
    RsaPssSha384,
    /// RSA-PSS with SHA-512, verified with a public key.
    #[serde(rename = "rsa-pss-sha512")]
    RsaPssSha512,
    /// An HTTP Message Signature (RFC 9421); see `message`.
    #[serde(rename = "http-message-signature")]
    Message,
    /// A JSON Web Token, or a detached JSON Web Signature over the body; see `token`.
    #[serde(rename = "jwt")]
    Jwt,
    /// The secret itself stands in the request.
    #[serde(rename = "token")]
    Token,
    /// HTTP Basic authentication; the secret is `user:password`.
    #[serde(rename = "basic")]
    Basic,
}

/// How the key is made of the secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKey {
    /// How the secret is written. `text`: its bytes are the key.
    pub encoding: RawEncoding,
    /// Removed from the secret if it stands there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strip_prefix: Option<String>,
    /// Put behind the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub append: Option<String>,
    /// The secret's text is brought into Unicode's normal form NFKD first: `é` becomes `e` and an accent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub nfkd: bool,
    /// The key is this digest of the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<RawHash>,
    /// The secret, repeated until 32 bytes are full, is the seed of the sender's Ed25519 key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ed25519_seed: bool,
}

/// Headers that a request itself names as signed. One of `header`, `field`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawSignedHeaders {
    /// Name of the header that names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of the item in the signature's list that names them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The character between two names.
    pub separator: String,
    /// What stands between two of them in the signed text.
    pub join: String,
    /// `name:value` instead of the value alone, sorted by name.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub with_names: bool,
    /// Headers that must be among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
}

/// What a signed HTTP message must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawMessage {
    /// The one algorithm that counts, by its name in RFC 9421: `ed25519`.
    pub algorithm: String,
    /// Components that must be covered: `["@method", "@target-uri", "content-digest"]`. Only with `content-digest` among
    /// them the body is protected.
    pub require: Vec<String>,
    /// Only the signature of this label. Any, unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The `tag` that the signature must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The oldest `created` that is accepted. 5m unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub past: Option<String>,
    /// The furthest ahead that is accepted. As `past` unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub future: Option<String>,
    /// The signature must name its key.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub key_id: bool,
}

/// Algorithms that a message chooses among.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawAlgorithmBy {
    /// Where the message names it.
    pub source: RawSource,
    /// What may stand there, and what it means: `{ "1": rsa-sha1, "2": rsa-sha256 }`.
    pub values: std::collections::BTreeMap<String, RawAlgorithm>,
}

/// Where a sender publishes its public keys. One of `jwks`, `openid`, `certificate`, `by_id`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKeysAt {
    /// The URL of a set of keys (JWKS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The URL of an OpenID provider's metadata. The set of keys that they name must be at the same host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub openid: Option<String>,
    /// A certificate whose URL the message names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<RawCertificate>,
    /// A key by the name that the message gives, for those who have credentials with the sender. A route gives these, or
    /// the keys, under `public_keys`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_id: Option<RawKeyById>,
}

/// How a sender is asked for the key of a name. `{key_id}` is that name, of letters, digits, `-` and `_`; `{token}` what
/// `oauth` gave; any other `{name}` a credential that a route gives under `public_keys[].ask`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawKeyById {
    /// `https://{host}/keys/{key_id}`.
    pub url: String,
    /// The hosts of which a route may name one. Default of a route: the first.
    pub hosts: Vec<String>,
    /// Headers of the question.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub headers: std::collections::BTreeMap<String, String>,
    /// Members of a JSON object that is posted. Not set: the question is a GET.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<std::collections::BTreeMap<String, String>>,
    /// Where the key stands in the answer, a JSON pointer: as a text in any form that keys have, or as a JWK.
    pub key: String,
    /// Where it says when the key ends, in seconds since 1970. `null`, or nothing there: not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Where a token for the question is from: OAuth 2.0, client credentials, with `client_id` and `client_secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oauth: Option<RawOauth>,
}

/// Where a token for a sender's API is from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawOauth {
    /// `https://{host}/oauth2/token`.
    pub url: String,
    /// What the token is to be good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
}

impl RawKeyById {
    fn compile(&self) -> Result<KeyQuestion, String> {
        let token = self
            .oauth
            .as_ref()
            .map(|raw| TokenQuestion { url: raw.url.as_str().into(), scope: raw.scope.as_deref().map(Into::into) });
        let (json, expires) = (self.json.as_ref(), self.expires.as_deref());
        KeyQuestion::new(&self.url, &self.hosts, &self.headers, json, &self.key, expires, token)
            .map_err(|(field, what)| format!("`by_id.{field}`: {what}"))
    }
}

/// A certificate whose URL the message names.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawCertificate {
    /// Where the message names the URL.
    pub url: RawSource,
    /// The URLs that count. `*` stands for one label of the host, or for letters, digits, `-` and `_` in the path.
    pub pins: Vec<String>,
    /// Names of which the certificate must have one. `*` stands for letters, digits and `-`.
    pub names: Vec<String>,
    /// Must it lead to a root that is trusted? For senders that publish what is between as well.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub chain: bool,
}

fn yes() -> bool {
    true
}

impl RawKeysAt {
    /// The compiled place, or what is wrong with it.
    fn compile(&self) -> Result<KeyOrigin, String> {
        let at = match (&self.jwks, &self.openid, &self.certificate, &self.by_id) {
            (Some(url), None, None, None) => {
                KeysAt::Jwks(Target::parse(url).map_err(|what| format!("the URL {what}"))?)
            }
            (None, Some(url), None, None) => {
                KeysAt::OpenId(Target::parse(url).map_err(|what| format!("the URL {what}"))?)
            }
            (None, None, None, Some(raw)) => return Ok(KeyOrigin::Asked(Box::new(raw.compile()?))),
            (None, None, Some(raw), None) => {
                let pins =
                    raw.pins.iter().map(|pin| Pin::parse(pin).map_err(|what| format!("the pattern {pin} {what}")));
                let pins = pins.collect::<Result<Box<_>, _>>()?;
                if pins.is_empty() {
                    return Err("`pins` is empty: no URL would count".into());
                }
                let url = raw.url.compile("url").map_err(|problem| problem.message)?;
                if raw.names.is_empty() || raw.names.iter().any(|name| !name.contains('.')) {
                    return Err("`names` must hold the names that the sender's certificates have".into());
                }
                let names = raw.names.iter().map(|name| name.to_ascii_lowercase().into()).collect();
                KeysAt::Certificate(CertificateRule { url, pins, names, chain: raw.chain })
            }
            _ => return Err("exactly one of jwks, openid, certificate, by_id is needed".into()),
        };
        Ok(KeyOrigin::Fetched(at))
    }
}

/// What a JSON Web Token must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawToken {
    /// The algorithms that count, by their names in JWS: `[RS256]`. All with a secret (HS…) or all with public keys.
    pub algorithms: Vec<String>,
    /// What the token is made over: its own claims, or the body.
    #[serde(skip_serializing_if = "RawPayload::is_claims")]
    pub payload: RawPayload,
    /// Claims that must stand, whatever they hold: `[exp, iat]`. Times are checked wherever they stand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub require: Vec<String>,
    /// What claims must hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<RawClaim>,
    /// Claims that each route must fix under `claims`, since only its operator knows what they hold: `[aud]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configured: Vec<String>,
    /// How far clocks may differ. 1m unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leeway: Option<String>,
    /// The oldest `iat` that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age: Option<String>,
    /// The claim that says when the token was made, where that is not `iat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_at: Option<RawMadeAt>,
    /// Where claims stand that are no members of the token itself; of several places (JSON Pointers) the first that is
    /// there counts: `{ bundleId: [/data/bundleId, /summary/bundleId] }`.
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub places: std::collections::BTreeMap<String, Vec<String>>,
    /// The key comes with the token, in a chain of certificates (`x5c`) that must lead to one of these roots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x5c: Option<RawChain>,
}

/// The claim that says when a token was made.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMadeAt {
    /// The claim.
    pub claim: String,
    /// How it is written: `seconds` or `milliseconds`.
    pub unit: RawUnit,
}

/// Which chains of certificates count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawChain {
    /// The roots, PEM.
    pub roots: String,
    /// Extensions that the first certificate must have, as dotted numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaf_marks: Vec<String>,
    /// Extensions that its issuer must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuer_marks: Vec<String>,
}

/// What a token is made over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RawPayload {
    /// Its own claims.
    #[default]
    Claims,
    /// The body in base64url; the token is detached (RFC 7515, appendix F).
    Body,
    /// The body as it is; the token is detached and says `b64: false` (RFC 7797).
    BodyUnencoded,
}

impl RawPayload {
    fn is_claims(&self) -> bool {
        *self == Self::Claims
    }
}

/// What a claim must hold. One of `is`, `body_digest`, `url_digest`, `url`, `same_as`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawClaim {
    /// The claim.
    pub name: String,
    /// One of these texts; of a claim that is a list one element.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub is: Vec<String>,
    /// The body's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<RawDigest>,
    /// With `body_digest`: the claim is left out where there is no body.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unless_empty: bool,
    /// The digest of the URL as the sender called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_digest: Option<RawDigest>,
    /// The URL as the sender called it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub url: bool,
    /// What also stands at this place of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub same_as: Option<RawSource>,
}

/// How bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RawEncoding {
    /// As it stands.
    #[default]
    #[serde(rename = "text")]
    Text,
    /// Both cases.
    #[serde(rename = "hex")]
    Hex,
    /// Padded.
    #[serde(rename = "base64")]
    Base64,
    /// With `-` and `_`, not padded.
    #[serde(rename = "base64url")]
    Base64Url,
    /// With `-` and `_`, padded.
    #[serde(rename = "base64url-padded")]
    Base64UrlPadded,
}

/// Where a signature or token stands. One of `header`, `query`, `json`, `form`, `xml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawPlace {
    /// Name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Pointer to a JSON member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Name of a form field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Path to an XML element or attribute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xml: Option<String>,
    /// A token is the whole body. Goes with the algorithm `jwt`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub body: bool,
    /// What stands before the signature: `sha256=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// How the signature is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<RawEncoding>,
    /// How an ECDSA signature is written: `der` unless said otherwise, or `raw` (`r` and `s` one behind the other).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ecdsa: Option<RawEcdsa>,
    /// A list of named values, as in `t=1,v1=ab,v1=cd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<RawList>,
    /// Further headers that may hold a signature of the same kind, made with another key. One good one is enough.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
}

/// How an ECDSA signature is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawEcdsa {
    /// ASN.1 DER.
    Der,
    /// `r` and `s` one behind the other.
    Raw,
}

/// A list of named values.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawList {
    /// The character between two items: `,`. With a space behind it (`, `) one may follow it.
    pub pairs: String,
    /// What the first items are, where these have no names: `[t]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub first: Vec<String>,
    /// The character between name and value of an item: `=`. Left out where items have no names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assign: Option<String>,
    /// The name that signatures have: `v1`. Items of other versions never count. Goes with `assign`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// In place of `key`: names are those of keys, and every item is a signature.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub any_key: bool,
}

/// The signed time. One of `header`, `query`, `json`, `form`, `field`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawTimestamp {
    /// Name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Pointer to a JSON member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Name of a form field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// Name of an item in the signature's list: `t`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// How it is written.
    pub unit: RawUnit,
    /// The oldest that is accepted. 5m unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub past: Option<String>,
    /// The furthest ahead that is accepted. As `past` unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub future: Option<String>,
    /// Some requests of the sender hold no time. Nobody can take it out: it is signed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// How a time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawUnit {
    /// Since 1970.
    #[default]
    Seconds,
    /// Since 1970.
    Milliseconds,
    /// Since 1970: up to 11 digits are seconds, 13 are milliseconds.
    #[serde(rename = "seconds-or-milliseconds")]
    SecondsOrMilliseconds,
    /// Date and time with offset.
    Rfc3339,
    /// Date and time without an offset, in UTC.
    Utc,
    /// As in HTTP's `Date`.
    Http,
}

/// Something that must hold besides the signature. One of `header`, `query`, `json`, `form`, and one of `is`,
/// `body_digest`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawRequirement {
    /// Name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Pointer to a JSON member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Name of a form field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub form: Option<String>,
    /// The text that it holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// It holds what the route says under `settings` by this name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_setting: Option<String>,
    /// It holds the body's digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_digest: Option<RawDigest>,
}

/// A digest of the body.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawDigest {
    /// Which.
    pub hash: RawHash,
    /// How it is written.
    pub encoding: RawEncoding,
}

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RawHash {
    /// MD5. Broken; for senders that have nothing better.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// What makes an alternative count. One of `header`, `query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawWhen {
    /// Name of a header that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a query parameter that stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The text that it holds; any if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// What the text starts with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts_with: Option<String>,
}

/// Where a key is named. One of `header`, `query`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RawKeyId {
    /// Name of a header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// Name of a query parameter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
}

/// A place in a request: `header:X-Event-Id`, `query:id`, `form:MessageSid`, `json:/event_id`, `xml:/xml/MsgId`, or the
/// same as `{ header: X-Event-Id }`. Behind a `|` follows what stands inside: `form:data|json:/id`,
/// `header:X-Sig|base64|json:/kid`, `json:/payload|jwt:/id`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawSource {
    kind: String,
    name: String,
}

impl RawSource {
    /// The compiled place.
    pub fn compile(&self, path: &str) -> Result<Source, Problem> {
        let written = if self.kind.is_empty() { self.name.clone() } else { format!("{}:{}", self.kind, self.name) };
        Source::parse(&written).map_err(|message| Problem { path: path.into(), message })
    }
}

impl Serialize for RawSource {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}:{}", self.kind, self.name))
    }
}

impl<'de> Deserialize<'de> for RawSource {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> serde::de::Visitor<'de> for Written {
            type Value = RawSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a place such as `header:X-Event-Id` or `{ header: X-Event-Id }`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawSource, E> {
                // What the text says is judged in `compile`, so that all problems are reported together.
                let (kind, name) = text.split_once(':').unwrap_or(("", text));
                Ok(RawSource { kind: kind.into(), name: name.into() })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<RawSource, A::Error> {
                use serde::de::Error as _;
                let one = "a place has exactly one of header, query, form, json, xml";
                let (kind, name) = map.next_entry::<String, String>()?.ok_or_else(|| A::Error::custom(one))?;
                if !matches!(&*kind, "header" | "query" | "form" | "json" | "xml") {
                    return Err(A::Error::unknown_field(&kind, &["header", "query", "form", "json", "xml"]));
                }
                match map.next_key::<String>()? {
                    Some(_) => Err(A::Error::custom(one)),
                    None => Ok(RawSource { kind, name }),
                }
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl JsonSchema for RawSource {
    fn schema_name() -> Cow<'static, str> {
        "Source".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A place in a request: `header:X-Event-Id`, `query:id`, `form:MessageSid`, `json:/event_id`, `xml:/xml/MsgId`, or the same as a mapping. Behind a `|` follows what stands inside: `form:data|json:/id`, `header:X-Sig|base64|json:/kid`, `json:/payload|jwt:/id`.",
            "oneOf": [
                { "type": "string", "pattern": "^(header|query|form|json|xml):.+$" },
                {
                    "type": "object",
                    "properties": {
                        "header": { "type": "string", "description": "A header." },
                        "query": { "type": "string", "description": "A query parameter." },
                        "form": { "type": "string", "description": "A field of a form body." },
                        "json": { "type": "string", "description": "A member of a JSON body (JSON Pointer)." },
                        "xml": { "type": "string", "description": "An element of an XML body." },
                    },
                    "additionalProperties": false, "minProperties": 1, "maxProperties": 1,
                },
            ],
        })
    }
}

/// One place or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum RawSources {
    /// One.
    One(RawSource),
    /// The first that stands counts.
    FirstOf(Vec<RawSource>),
}

impl Default for RawSources {
    fn default() -> Self {
        Self::FirstOf(Vec::new())
    }
}

impl<'de> Deserialize<'de> for RawSources {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written;
        impl<'de> serde::de::Visitor<'de> for Written {
            type Value = RawSources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a place such as `header:X-Event-Id`, or a list of places")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RawSources, E> {
                RawSource::deserialize(serde::de::value::StrDeserializer::new(text)).map(RawSources::One)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RawSources, A::Error> {
                RawSource::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(RawSources::One)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, seq: A) -> Result<RawSources, A::Error> {
                Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(seq)).map(RawSources::FirstOf)
            }
        }
        deserializer.deserialize_any(Written)
    }
}

impl RawSources {
    /// The compiled places, in order.
    pub fn compile(&self, path: &str, problems: &mut Vec<Problem>) -> Vec<Source> {
        let compiled = match self {
            Self::One(source) => vec![source.compile(path)],
            Self::FirstOf(list) => {
                list.iter().enumerate().map(|(at, source)| source.compile(&format!("{path}[{at}]"))).collect()
            }
        };
        compiled.into_iter().filter_map(|source| source.map_err(|problem| problems.push(problem)).ok()).collect()
    }
}

/// Reads `90s`, `5m`, `96h`, `3d`, `250ms`; a bare `0` too.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let wrong = || format!("`{text}` is not a duration: write 250ms, 30s, 5m, 96h or 3d");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let (factor, millis) = match unit {
        "ms" => (1, true),
        "s" => (1, false),
        "m" => (60, false),
        "h" => (3600, false),
        "d" => (86400, false),
        "" if number == 0 => (1, false),
        _ => return Err(wrong()),
    };
    if millis {
        return Ok(Duration::from_millis(number));
    }
    number.checked_mul(factor).map(Duration::from_secs).ok_or_else(wrong)
}

/// Collects problems under a path.
struct Report<'r> {
    path: String,
    problems: &'r mut Vec<Problem>,
}

impl Report<'_> {
    fn add(&mut self, field: &str, message: impl Into<String>) {
        let path = if field.is_empty() { self.path.clone() } else { format!("{}.{field}", self.path) };
        self.problems.push(Problem { path, message: message.into() });
    }

    fn ok<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.add(field, message)).ok()
    }

    /// Exactly one of several places.
    fn source(&mut self, field: &str, places: &[(&str, &Option<String>)]) -> Option<Source> {
        let mut set = places.iter().filter_map(|(kind, name)| name.as_deref().map(|name| (*kind, name)));
        let names: Vec<&str> = places.iter().map(|(kind, _)| *kind).collect();
        match (set.next(), set.next()) {
            (Some((kind, name)), None) => self.ok(&format!("{field}.{kind}"), Source::parse(&format!("{kind}:{name}"))),
            _ => {
                self.add(field, format!("exactly one of {} is needed", names.join(", ")));
                None
            }
        }
    }
}

impl RawScheme {
    /// The compiled scheme, or every problem with the path of its field. `path` is where the scheme stands.
    pub fn compile(&self, path: &str) -> Result<Scheme, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut alternatives = Vec::new();
        match &self.any_of {
            None => {
                if self.by_choice {
                    problems.push(Problem {
                        path: format!("{path}.by_choice"),
                        message: "only an alternative of `any_of` is chosen".into(),
                    });
                }
                if self.when.is_some() {
                    problems.push(Problem {
                        path: format!("{path}.when"),
                        message: "only an alternative of `any_of` has a `when`".into(),
                    });
                }
                alternatives.extend(self.alternative(path, &mut problems));
            }
            Some(list) => {
                if *self != (Self { any_of: self.any_of.clone(), ..Self::default() }) {
                    let message = "beside `any_of` nothing else may stand: put it into each alternative".into();
                    problems.push(Problem { path: path.into(), message });
                }
                if list.is_empty() {
                    problems.push(Problem { path: format!("{path}.any_of"), message: "the list is empty".into() });
                }
                for (at, one) in list.iter().enumerate() {
                    let path = format!("{path}.any_of[{at}]");
                    if one.any_of.is_some() {
                        problems.push(Problem {
                            path: format!("{path}.any_of"),
                            message: "alternatives do not nest".into(),
                        });
                        continue;
                    }
                    if one.by_choice && one.name.is_none() {
                        let message = "by_choice needs a name that routes can choose".into();
                        problems.push(Problem { path: path.clone(), message });
                    }
                    let last = list.iter().rposition(|one| !one.by_choice);
                    if one.when.is_none() && !one.by_choice && Some(at) != last {
                        let message = "without `when` it always counts, so only the last may lack it".into();
                        problems.push(Problem { path: path.clone(), message });
                    }
                    if one.name.is_some() && list[..at].iter().any(|other| other.name == one.name) {
                        problems.push(Problem { path: format!("{path}.name"), message: "stands twice".into() });
                    }
                    alternatives.extend(one.alternative(&path, &mut problems));
                }
            }
        }
        if problems.is_empty() { Ok(Scheme { alternatives }) } else { Err(problems) }
    }

    fn alternative(&self, path: &str, problems: &mut Vec<Problem>) -> Option<Alternative> {
        let mut report = Report { path: path.to_owned(), problems };
        let when = self.when.as_ref().map(|when| {
            let source = report.source("when", &[("header", &when.header), ("query", &when.query)])?;
            let starts_with = when.starts_with.as_deref().map(Into::into);
            Some(When { source, is: when.is.as_deref().map(Into::into), starts_with })
        });
        let proof = match self.algorithm {
            None => {
                report.add("algorithm", "is missing: write for instance hmac-sha256");
                None
            }
            Some(RawAlgorithm::Token) => self.shared(false, &mut report).map(Proof::Shared),
            Some(RawAlgorithm::Basic) => self.shared(true, &mut report).map(Proof::Shared),
            Some(RawAlgorithm::Jwt) => self.token(&mut report).map(|rules| Proof::Token(Box::new(rules))),
            Some(RawAlgorithm::Message) => self.message(&mut report).map(|rules| Proof::Message(Box::new(rules))),
            Some(other) => self.signed(other.compile(self.ecdsa()), &mut report),
        };
        if self.token.is_some() && self.algorithm != Some(RawAlgorithm::Jwt) {
            report.add("token", "goes with the algorithm jwt only");
        }
        if self.message.is_some() && self.algorithm != Some(RawAlgorithm::Message) {
            report.add("message", "goes with the algorithm http-message-signature only");
        }
        let keys = match &proof {
            Some(Proof::Message(rules)) if matches!(rules.algorithm.kind, MessageKind::Public(_)) => {
                KeyOrigin::PublicKeys
            }
            Some(Proof::Signed(signed)) if matches!(signed.algorithm, Algorithm::Public(_)) => {
                if signed.key.derive == Some(Derivation::Ed25519Seed) {
                    KeyOrigin::Secrets
                } else {
                    KeyOrigin::PublicKeys
                }
            }
            Some(Proof::Token(rules)) if rules.chain.is_some() => KeyOrigin::Brought,
            Some(Proof::Token(rules)) if !rules.is_symmetric() => KeyOrigin::PublicKeys,
            _ => KeyOrigin::Secrets,
        };
        let keys = match self.keys.as_ref().map(RawKeysAt::compile) {
            None => keys,
            Some(_) if keys == KeyOrigin::Secrets => {
                report.add("keys", "goes with algorithms that are verified with public keys");
                keys
            }
            Some(_) if keys == KeyOrigin::Brought => {
                report.add("keys", "the key comes with the token: see `token.x5c`");
                keys
            }
            Some(at) => {
                let keys = report.ok("keys", at).unwrap_or(keys);
                if matches!((&keys, &proof), (KeyOrigin::Asked(_), Some(Proof::Signed(signed))) if signed.key_id.is_none())
                {
                    report.add("key_id", "is missing: nothing says which key is to be asked for");
                }
                keys
            }
        };
        let name = self.name.as_deref().map(Into::into);
        let by_choice = self.by_choice;
        match (when, proof) {
            (None, Some(proof)) => Some(Alternative { name, when: None, proof, keys, by_choice }),
            (Some(Some(when)), Some(proof)) => Some(Alternative { name, when: Some(when), proof, keys, by_choice }),
            _ => None,
        }
    }

    fn ecdsa(&self) -> EcdsaForm {
        match self.from.as_ref().and_then(|from| from.ecdsa) {
            None | Some(RawEcdsa::Der) => EcdsaForm::Der,
            Some(RawEcdsa::Raw) => EcdsaForm::Raw,
        }
    }

    fn message(&self, report: &mut Report<'_>) -> Option<MessageRules> {
        for (field, set) in [
            ("from", self.from.is_some()),
            ("signed", self.signed.is_some()),
            ("signed_headers", self.signed_headers.is_some()),
            ("each", self.each.is_some()),
            ("timestamp", self.timestamp.is_some()),
            ("require", !self.require.is_empty()),
            ("key_id", self.key_id.is_some()),
        ] {
            if set {
                report.add(field, "has no meaning here: a signed message has its own places; see `message`");
            }
        }
        let Some(raw) = &self.message else {
            report.add("message", "is missing: write for instance { algorithm: ed25519, require: [content-digest] }");
            return None;
        };
        let algorithm = MessageAlgorithm::ALL.iter().find(|known| known.name == raw.algorithm);
        if algorithm.is_none() {
            let known: Vec<_> = MessageAlgorithm::ALL.iter().map(|known| known.name).collect();
            report.add("message.algorithm", format!("`{}` is none of {}", raw.algorithm, known.join(", ")));
        }
        if algorithm.is_some_and(|algorithm| matches!(algorithm.kind, MessageKind::Public(_))) && self.key.is_some() {
            report.add("key", "has no meaning here: public keys are read in whatever form they have");
        }
        if raw.require.is_empty() {
            report.add("message.require", "is empty: a signature over nothing would do");
        }
        let derived = ["@method", "@path", "@query", "@request-target", "@target-uri", "@authority", "@scheme"];
        for (at, name) in raw.require.iter().enumerate() {
            let known = match name.starts_with('@') {
                true => derived.contains(&name.as_str()),
                false => Source::header(name).is_ok() && !name.bytes().any(|byte| byte.is_ascii_uppercase()),
            };
            if !known {
                let what = format!("`{name}` is neither a header in small letters nor one of {}", derived.join(", "));
                report.add(&format!("message.require[{at}]"), what);
            }
        }
        let default = Duration::from_secs(300);
        let past = report.ok("message.past", raw.past.as_deref().map_or(Ok(default), parse_duration));
        let future = match &raw.future {
            None => past,
            Some(text) => report.ok("message.future", parse_duration(text)),
        };
        Some(MessageRules {
            algorithm: *algorithm?,
            key: self.key_form(report),
            label: raw.label.as_deref().map(Into::into),
            require: raw.require.iter().map(|name| name.as_str().into()).collect(),
            tag: raw.tag.as_deref().map(Into::into),
            past: past?,
            future: future?,
            require_key_id: raw.key_id,
        })
    }

    fn token(&self, report: &mut Report<'_>) -> Option<TokenRules> {
        for (field, set) in [
            ("signed", self.signed.is_some()),
            ("signed_headers", self.signed_headers.is_some()),
            ("each", self.each.is_some()),
            ("timestamp", self.timestamp.is_some()),
            ("require", !self.require.is_empty()),
            ("key_id", self.key_id.is_some()),
        ] {
            if set {
                report.add(field, "has no meaning here: a token says by itself what is signed");
            }
        }
        let Some(raw) = &self.token else {
            report.add("token", "is missing: write for instance { algorithms: [HS256] }");
            return None;
        };
        let whole_body = self.from.as_ref().is_some_and(|from| *from == RawPlace { body: true, ..RawPlace::default() });
        let from = if whole_body { None } else { Some(self.place(RawEncoding::Text, report)) };
        if self.from.as_ref().is_some_and(|from| {
            from.encoding.is_some() || from.list.is_some() || from.ecdsa.is_some() || !from.also.is_empty()
        }) {
            report.add("from", "a token has its own encoding and stands alone");
        }
        let from = match from {
            None => None,
            Some(place) => {
                let place = place?;
                Some(Place { any_case: place.prefix.eq_ignore_ascii_case(b"bearer "), ..place })
            }
        };
        let mut algorithms = Vec::new();
        for (at, name) in raw.algorithms.iter().enumerate() {
            match TokenAlgorithm::ALL.iter().find(|known| known.name == name) {
                Some(known) => algorithms.push(*known),
                None => {
                    let known: Vec<_> = TokenAlgorithm::ALL.iter().map(|known| known.name).collect();
                    report.add(
                        &format!("token.algorithms[{at}]"),
                        format!("`{name}` is no algorithm for tokens: there are {}", known.join(", ")),
                    );
                }
            }
        }
        let symmetric = algorithms.iter().filter(|algorithm| matches!(algorithm.kind, TokenKind::Hmac(_))).count();
        if algorithms.is_empty() && raw.algorithms.is_empty() {
            report.add("token.algorithms", "is empty: name those that count, for instance [RS256]");
        } else if symmetric != 0 && symmetric != algorithms.len() {
            report.add("token.algorithms", "HS… takes a secret and the others public keys: never both in one scheme");
        }
        let claims: Vec<_> = raw.claims.iter().enumerate().map(|(at, claim)| claim.compile(at, report)).collect();
        for (field, names) in [("token.require", &raw.require), ("token.configured", &raw.configured)] {
            if names.iter().any(String::is_empty) {
                report.add(field, "names no claim");
            }
        }
        if raw.claims.len() + raw.require.len() + raw.configured.len() > MAX_CLAIMS {
            report.add("token", format!("asks for more than {MAX_CLAIMS} claims"));
        }
        let payload = match raw.payload {
            RawPayload::Claims => Payload::Claims,
            RawPayload::Body => Payload::Body { encoded: true },
            RawPayload::BodyUnencoded => Payload::Body { encoded: false },
        };
        if payload != Payload::Claims
            && (!raw.claims.is_empty()
                || !raw.require.is_empty()
                || !raw.configured.is_empty()
                || raw.max_age.is_some())
        {
            report.add("token.payload", "a token over the body has no claims of its own");
        }
        let leeway =
            report.ok("token.leeway", raw.leeway.as_deref().map_or(Ok(Duration::from_secs(60)), parse_duration));
        let max_age = report.ok("token.max_age", raw.max_age.as_deref().map(parse_duration).transpose());
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        let made_at = raw.made_at.as_ref().and_then(|made| match made.unit {
            RawUnit::Seconds => Some((made.claim.as_str().into(), 1)),
            RawUnit::Milliseconds => Some((made.claim.as_str().into(), 1000)),
            RawUnit::SecondsOrMilliseconds | RawUnit::Rfc3339 | RawUnit::Utc | RawUnit::Http => {
                report.add("token.made_at.unit", "write seconds or milliseconds");
                None
            }
        });
        for (name, places) in &raw.places {
            if places.is_empty() || places.iter().any(|place| Source::json(place).is_err()) {
                report.add(&format!("token.places.{name}"), "write JSON Pointers, such as /data/id");
            }
        }
        let chain = match &raw.x5c {
            None => None,
            Some(_) if symmetric != 0 => {
                report.add("token.x5c", "goes with algorithms that are verified with public keys");
                None
            }
            Some(raw) => {
                report.ok("token.x5c", ChainRule::new(&raw.roots, &raw.leaf_marks, &raw.issuer_marks)).map(Some)?
            }
        };
        Some(TokenRules {
            from,
            algorithms: algorithms.into(),
            key: self.key_form(report),
            payload,
            present: boxed(&raw.require),
            claims: claims.into_iter().collect::<Option<_>>()?,
            configured: boxed(&raw.configured),
            leeway: leeway?,
            max_age: max_age?,
            made_at,
            places: raw
                .places
                .iter()
                .map(|(name, at)| ClaimPlaces { name: name.as_str().into(), at: boxed(at) })
                .collect(),
            chain,
        })
    }

    fn key_form(&self, report: &mut Report<'_>) -> KeyForm {
        let key = self.key.clone().unwrap_or_default();
        if key.digest.is_some() && key.ed25519_seed {
            report.add("key", "is made of the secret in one way: `digest` or `ed25519_seed`");
        }
        let seed = key.ed25519_seed.then_some(Derivation::Ed25519Seed);
        KeyForm {
            encoding: key.encoding.compile(),
            strip_prefix: key.strip_prefix.unwrap_or_default().into(),
            append: key.append.unwrap_or_default().into(),
            nfkd: key.nfkd,
            derive: key.digest.map(|hash| Derivation::Digest(hash.compile())).or(seed),
        }
    }

    fn shared(&self, basic: bool, report: &mut Report<'_>) -> Option<Place> {
        for (field, set) in [
            ("key", self.key.is_some()),
            ("key_id", self.key_id.is_some()),
            ("signed", self.signed.is_some()),
            ("signed_headers", self.signed_headers.is_some()),
            ("each", self.each.is_some()),
            ("timestamp", self.timestamp.is_some()),
            ("require", !self.require.is_empty()),
        ] {
            if set {
                report.add(field, "has no meaning here: a shared secret signs nothing");
            }
        }
        if basic {
            let from = self.from.clone().unwrap_or_default();
            if from.prefix.is_some() || from.encoding.is_some() || from.list.is_some() {
                report.add("from", "basic authentication has its own prefix and encoding");
            }
            if from.query.is_some() || from.json.is_some() || from.form.is_some() {
                report.add("from", "basic authentication stands in a header");
            }
            let header = from.header.as_deref().unwrap_or("authorization");
            let source = report.ok("from.header", Source::header(header))?;
            return Some(Place {
                source,
                prefix: b"Basic ".as_slice().into(),
                any_case: true,
                encoding: Encoding::Base64,
                list: None,
            });
        }
        let place = self.place(RawEncoding::Text, report)?;
        if place.list.is_some() {
            report.add("from.list", "a token stands alone");
        }
        if self.from.as_ref().is_some_and(|from| !from.also.is_empty()) {
            report.add("from.also", "a token stands alone");
        }
        let any_case = place.prefix.eq_ignore_ascii_case(b"bearer ");
        Some(Place { any_case, ..place })
    }

    fn algorithm_by(&self, raw: &RawAlgorithmBy, algorithm: Algorithm, report: &mut Report<'_>) -> Option<AlgorithmBy> {
        // One sort of keys, so that a message can never have a key used for what it was not made for.
        let sort = |algorithm: &PublicAlgorithm| match algorithm {
            PublicAlgorithm::RsaPkcs1(_) => 1,
            PublicAlgorithm::RsaPss(_) => 2,
            PublicAlgorithm::P256(..) => 3,
            PublicAlgorithm::P384(_) => 4,
            PublicAlgorithm::Secp256k1(_) => 5,
            PublicAlgorithm::Ed25519 => 6,
        };
        let mut values = Vec::new();
        for (value, one) in &raw.values {
            match (one.compile(self.ecdsa()), algorithm) {
                (Algorithm::Public(one), Algorithm::Public(algorithm)) if sort(&one) == sort(&algorithm) => {
                    values.push((value.as_str().into(), one));
                }
                _ => report.add("algorithm_by.values", format!("`{value}` is of another sort than `algorithm`")),
            }
        }
        if raw.values.is_empty() {
            report.add("algorithm_by.values", "is empty: no algorithm would count");
        }
        let source = raw.source.compile("source").map_err(|problem| problem.message);
        Some(AlgorithmBy { source: report.ok("algorithm_by.source", source)?, values: values.into() })
    }

    fn signed(&self, algorithm: Algorithm, report: &mut Report<'_>) -> Option<Proof> {
        let from = self.place(RawEncoding::Hex, report);
        if self.from.as_ref().is_some_and(|from| from.encoding == Some(RawEncoding::Text)) {
            report.add("from.encoding", "a signature is written as hex, base64 or base64url");
        }
        let signed = match &self.signed {
            None => {
                report.add("signed", "is missing: write for instance \"{body}\"");
                None
            }
            Some(text) => report.ok("signed", Template::parse(text)),
        };
        let named = |list: &RawList| list.assign.is_some() || !list.first.is_empty();
        let has_list = self.from.as_ref().is_some_and(|from| from.list.as_ref().is_some_and(named));
        if let Some(signed) = &signed {
            match algorithm {
                Algorithm::Digest(_) if !signed.has(&Part::Secret) => {
                    report.add("signed", "a plain digest proves nothing without {secret}");
                }
                // As key and as text, where a sender wants it so; in the sorted part it could only be meant for a digest.
                Algorithm::Hmac(_) if signed.parts.iter().any(|part| matches!(part, Part::Sorted(_))) => {
                    report.add("signed", "an hmac has its secret as key: {sorted:…} is for plain digests");
                }
                Algorithm::Public(_) if signed.has(&Part::Secret) => {
                    report.add("signed", "public keys verify without a secret: {secret} is for plain digests");
                }
                _ => {}
            }
            if signed.has(&Part::Timestamp) && self.timestamp.is_none() {
                report.add("signed", "holds {timestamp}, but there is no `timestamp`");
            }
            let urls = signed.parts.iter().filter(|part| matches!(part, Part::Url(_))).count();
            if urls > 1 {
                report.add("signed", "holds the url more than once");
            }
            if signed.has(&Part::SignedHeaders) != self.signed_headers.is_some() {
                report.add("signed_headers", "goes with {signed_headers} in the signed text");
            }
            if !has_list && signed.parts.iter().any(|part| matches!(part, Part::Field(_))) {
                report.add("signed", "holds {field:…}, but the signature is no list with names: see from.list");
            }
        }
        let algorithm_by = match &self.algorithm_by {
            None => None,
            Some(raw) => Some(self.algorithm_by(raw, algorithm, report)?),
        };
        let timestamp = self.timestamp.as_ref().map(|raw| raw.compile(has_list, report));
        let require: Vec<_> = self.require.iter().enumerate().map(|(at, raw)| raw.compile(at, report)).collect();
        let key = self.key_form(report);
        let public = matches!(algorithm, Algorithm::Public(_));
        let seed = key.derive == Some(Derivation::Ed25519Seed);
        if public && self.key.is_some() && !seed {
            report.add("key", "has no meaning here: public keys are read in whatever form they have");
        }
        if seed && algorithm != Algorithm::Public(PublicAlgorithm::Ed25519) {
            report.add("key.ed25519_seed", "goes with the algorithm ed25519 only");
        }
        if self.key_id.is_some() && !public {
            report.add("key_id", "goes with public keys only: of secrets all that are valid are tried");
        }
        let ecdsa = matches!(
            algorithm,
            Algorithm::Public(PublicAlgorithm::P256(..) | PublicAlgorithm::P384(_) | PublicAlgorithm::Secp256k1(_))
        );
        if self.from.as_ref().is_some_and(|from| from.ecdsa.is_some()) && !ecdsa {
            report.add("from.ecdsa", "goes with the ecdsa algorithms only");
        }
        let key_id = match &self.key_id {
            None => None,
            Some(key) => Some(report.source("key_id", &[("header", &key.header), ("query", &key.query)])?),
        };
        let timestamp = match timestamp {
            None => None,
            Some(rule) => Some(rule?),
        };
        let require = require.into_iter().collect::<Option<_>>()?;
        let also = self.from.as_ref().map(|from| from.also.as_slice()).unwrap_or_default();
        if !also.is_empty() && (has_list || self.from.as_ref().is_some_and(|from| from.header.is_none())) {
            report.add("from.also", "goes with a header that holds signatures without names");
        }
        let also: Vec<_> = also.iter().map(|name| report.ok("from.also", Source::header(name))).collect();
        let also = also.into_iter().collect::<Option<_>>()?;
        let headers = match &self.signed_headers {
            None => None,
            Some(raw) => Some(raw.compile(has_list, report)?),
        };
        let each = match &self.each {
            None => None,
            Some(pointer) => {
                report.ok("each", Source::json(pointer))?;
                if !pointer.contains("/*") {
                    report.add("each", "leads to one place: an item of a list is written `*`, as in /items/*");
                }
                Some(pointer.as_str().into())
            }
        };
        let compiled = Signed {
            algorithm,
            key,
            from: from?,
            also,
            key_id,
            signed: signed?,
            headers,
            each,
            timestamp,
            require,
            algorithm_by,
        };
        if compiled.each.is_some() && !compiled.from.source.needs_body() {
            report.add("each", "items have their signatures inside: `from` stands in the body");
        }
        if !compiled.signs_its_time() {
            report.add("timestamp", "is not part of what is signed: an old request would pass with a new time");
        }
        if compiled.from.source.needs_body() && compiled.signed.has_body() {
            report.add("from", "the signature cannot stand in the body that is signed");
        }
        Some(Proof::Signed(Box::new(compiled)))
    }

    fn place(&self, default: RawEncoding, report: &mut Report<'_>) -> Option<Place> {
        let Some(raw) = &self.from else {
            report.add("from", "is missing: write for instance { header: X-Signature }");
            return None;
        };
        if raw.body {
            report.add("from.body", "goes with the algorithm jwt, and stands alone");
        }
        let source = report.source(
            "from",
            &[
                ("header", &raw.header),
                ("query", &raw.query),
                ("json", &raw.json),
                ("form", &raw.form),
                ("xml", &raw.xml),
            ],
        );
        if raw.list.as_ref().is_some_and(|list| list.first.iter().any(String::is_empty)) {
            report.add("from.list.first", "names no item");
        }
        let list = raw.list.as_ref().map(|list| {
            let mut one = |field: &str, text: &str| match text.as_bytes() {
                [byte] if byte.is_ascii_punctuation() || *byte == b' ' => Some(*byte),
                _ => {
                    report.add(
                        &format!("from.list.{field}"),
                        format!("`{text}` is not one punctuation character or space"),
                    );
                    None
                }
            };
            // A space behind the character is not worth a second one to every item.
            let spaced = list.pairs.len() == 2 && list.pairs.ends_with(' ');
            let pairs = one("pairs", if spaced { &list.pairs[..1] } else { &list.pairs });
            let assign = list.assign.as_ref().map(|assign| one("assign", assign));
            match (&list.assign, &list.key) {
                (Some(_), None) if list.any_key => {}
                (_, _) if list.any_key => report.add("from.list.any_key", "goes with `assign` and without `key`"),
                (Some(_), None) => report.add("from.list.key", "is missing"),
                (None, Some(_)) => report.add("from.list.assign", "is missing"),
                (Some(_), Some(key)) if key.is_empty() => report.add("from.list.key", "is empty"),
                _ => {}
            }
            if pairs.is_some() && assign == Some(pairs) {
                report.add("from.list.assign", "is the same as `pairs`");
            }
            let assign = match assign {
                None => None,
                Some(assign) => Some(assign?),
            };
            let first = list.first.iter().map(|name| name.as_str().into()).collect();
            let key = list.key.as_deref().unwrap_or_default().into();
            Some(List { pairs: pairs?, spaced, first, assign, key, any_key: list.any_key })
        });
        let list = match list {
            None => None,
            Some(list) => Some(list?),
        };
        Some(Place {
            source: source?,
            prefix: raw.prefix.as_deref().unwrap_or_default().as_bytes().into(),
            any_case: false,
            encoding: raw.encoding.unwrap_or(default).compile(),
            list,
        })
    }
}

impl RawAlgorithm {
    /// The algorithm of a signature over parts of the request.
    fn compile(self, form: EcdsaForm) -> Algorithm {
        use PublicAlgorithm::{Ed25519, P256, P384, RsaPkcs1, RsaPss, Secp256k1};
        match self {
            Self::HmacMd5 => Algorithm::Hmac(Hash::Md5),
            Self::HmacSha1 => Algorithm::Hmac(Hash::Sha1),
            Self::HmacSha256 => Algorithm::Hmac(Hash::Sha256),
            Self::HmacSha384 => Algorithm::Hmac(Hash::Sha384),
            Self::HmacSha512 => Algorithm::Hmac(Hash::Sha512),
            Self::Md5 => Algorithm::Digest(Hash::Md5),
            Self::Sha1 => Algorithm::Digest(Hash::Sha1),
            // The last four have their own ways.
            Self::Sha256 | Self::Token | Self::Basic | Self::Jwt | Self::Message => Algorithm::Digest(Hash::Sha256),
            Self::Sha512 => Algorithm::Digest(Hash::Sha512),
            Self::Ed25519 => Algorithm::Public(Ed25519),
            Self::P256Sha1 => Algorithm::Public(P256(Hash::Sha1, form)),
            Self::P256Sha256 => Algorithm::Public(P256(Hash::Sha256, form)),
            Self::P384Sha384 => Algorithm::Public(P384(form)),
            Self::Secp256k1Sha256 => Algorithm::Public(Secp256k1(form)),
            Self::RsaSha1 => Algorithm::Public(RsaPkcs1(Hash::Sha1)),
            Self::RsaSha256 => Algorithm::Public(RsaPkcs1(Hash::Sha256)),
            Self::RsaSha384 => Algorithm::Public(RsaPkcs1(Hash::Sha384)),
            Self::RsaSha512 => Algorithm::Public(RsaPkcs1(Hash::Sha512)),
            Self::RsaPssSha256 => Algorithm::Public(RsaPss(Hash::Sha256)),
            Self::RsaPssSha384 => Algorithm::Public(RsaPss(Hash::Sha384)),
            Self::RsaPssSha512 => Algorithm::Public(RsaPss(Hash::Sha512)),
        }
    }
}

impl RawSignedHeaders {
    fn compile(&self, has_list: bool, report: &mut Report<'_>) -> Option<SignedHeaders> {
        let name = |report: &mut Report<'_>, field: &str, name: &str| match Source::header(name) {
            Ok(Source::Header(name)) => Some(name),
            Ok(_) => None,
            Err(what) => {
                report.add(field, what);
                None
            }
        };
        let named_in = match (&self.header, &self.field) {
            (Some(header), None) => name(report, "signed_headers.header", header).map(NamedIn::Header),
            (None, Some(field)) if has_list => Some(NamedIn::Field(field.as_str().into())),
            (None, Some(_)) => {
                report.add("signed_headers.field", "the signature is no list with names: see from.list");
                None
            }
            _ => {
                report.add("signed_headers", "exactly one of header, field is needed");
                None
            }
        };
        let separator = match self.separator.as_bytes() {
            [byte] => Some(*byte),
            _ => {
                report.add("signed_headers.separator", "is not one character");
                None
            }
        };
        if self.join.is_empty() {
            report.add("signed_headers.join", "is missing: values without a border could be moved into each other");
        }
        if self.require.is_empty() {
            report.add("signed_headers.require", "is empty: a request could name no header at all");
        }
        let require: Vec<_> =
            self.require.iter().map(|header| name(report, "signed_headers.require", header)).collect();
        Some(SignedHeaders {
            named_in: named_in?,
            separator: separator?,
            join: self.join.as_str().into(),
            with_names: self.with_names,
            require: require.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl RawClaim {
    fn compile(&self, at: usize, report: &mut Report<'_>) -> Option<Claim> {
        let field = format!("token.claims[{at}]");
        if self.name.is_empty() {
            report.add(&format!("{field}.name"), "is missing");
        }
        if self.unless_empty && self.body_digest.is_none() {
            report.add(&format!("{field}.unless_empty"), "goes with body_digest");
        }
        let mut all = Vec::new();
        if !self.is.is_empty() {
            all.push(ClaimMust::OneOf(self.is.iter().map(|text| text.as_str().into()).collect()));
        }
        if let Some(digest) = &self.body_digest {
            let (hash, encoding) = (digest.hash.compile(), digest.encoding.compile());
            all.push(ClaimMust::BodyDigest { hash, encoding, unless_empty: self.unless_empty });
        }
        if let Some(digest) = &self.url_digest {
            all.push(ClaimMust::UrlDigest { hash: digest.hash.compile(), encoding: digest.encoding.compile() });
        }
        if self.url {
            all.push(ClaimMust::Url);
        }
        if let Some(source) = &self.same_as {
            let source = source.compile("same_as").map_err(|problem| problem.message);
            all.push(ClaimMust::SameAs(report.ok(&format!("{field}.same_as"), source)?));
        }
        match (all.pop(), all.is_empty()) {
            (Some(must), true) => Some(Claim { name: self.name.as_str().into(), must }),
            _ => {
                report.add(&field, "exactly one of is, body_digest, url_digest, url, same_as is needed");
                None
            }
        }
    }
}

impl RawTimestamp {
    fn compile(&self, has_list: bool, report: &mut Report<'_>) -> Option<TimestampRule> {
        let places = [("header", &self.header), ("query", &self.query), ("json", &self.json), ("form", &self.form)];
        let place = match &self.field {
            None => report.source("timestamp", &places).map(TimestampPlace::Source),
            Some(field) => {
                if places.iter().any(|(_, name)| name.is_some()) {
                    report.add("timestamp", "exactly one of header, query, json, form, field is needed");
                }
                if !has_list {
                    report.add("timestamp.field", "the signature is no list with names: see from.list");
                }
                Some(TimestampPlace::Field(field.as_str().into()))
            }
        };
        let past =
            report.ok("timestamp.past", self.past.as_deref().map_or(Ok(Duration::from_secs(300)), parse_duration));
        let future = match &self.future {
            None => past,
            Some(text) => report.ok("timestamp.future", parse_duration(text)),
        };
        let unit = match self.unit {
            RawUnit::Seconds => Unit::Seconds,
            RawUnit::Milliseconds => Unit::Milliseconds,
            RawUnit::Rfc3339 => Unit::Rfc3339,
            RawUnit::Utc => Unit::Utc,
            RawUnit::SecondsOrMilliseconds => Unit::SecondsOrMilliseconds,
            RawUnit::Http => Unit::Http,
        };
        Some(TimestampRule { place: place?, unit, past: past?, future: future?, optional: self.optional })
    }
}

impl RawRequirement {
    fn compile(&self, at: usize, report: &mut Report<'_>) -> Option<Requirement> {
        let field = format!("require[{at}]");
        let source = report.source(
            &field,
            &[("header", &self.header), ("query", &self.query), ("json", &self.json), ("form", &self.form)],
        );
        let must = match (&self.is, &self.is_setting, &self.body_digest) {
            (Some(text), None, None) => Some(Must::Equal(text.as_str().into())),
            (None, Some(name), None) => Some(Must::Setting(name.as_str().into())),
            (None, None, Some(digest)) => Some(Must::BodyDigest(digest.hash.compile(), digest.encoding.compile())),
            _ => {
                report.add(&field, "exactly one of is, is_setting, body_digest is needed");
                None
            }
        };
        Some(Requirement { source: source?, must: must? })
    }
}

impl RawEncoding {
    pub(super) fn compile(self) -> Encoding {
        match self {
            Self::Text => Encoding::Text,
            Self::Hex => Encoding::Hex,
            Self::Base64 => Encoding::Base64,
            Self::Base64Url => Encoding::Base64Url,
            Self::Base64UrlPadded => Encoding::Base64UrlPadded,
        }
    }
}

impl RawHash {
    pub(super) fn compile(self) -> Hash {
        match self {
            Self::Md5 => Hash::Md5,
            Self::Sha1 => Hash::Sha1,
            Self::Sha256 => Hash::Sha256,
            Self::Sha384 => Hash::Sha384,
            Self::Sha512 => Hash::Sha512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problems(yaml: &str) -> Vec<String> {
        let raw: RawScheme = serde_yaml::from_str(yaml).unwrap();
        raw.compile("signature").err().unwrap_or_default().iter().map(Problem::to_string).collect()
    }

    #[test]
    fn every_problem_is_reported_with_the_path_of_its_field() {
        let all = problems(
            r#"{ algorithm: hmac-sha256, from: { header: "x y", list: { pairs: ",,", assign: "=", key: "" } },
                 signed: "{bodi}", timestamp: { json: time, past: 5 minutes },
                 require: [ { header: x }, { is: y } ] }"#,
        );
        for path in [
            "signature.from.header: `x y`",
            "signature.from.list.pairs: `,,`",
            "signature.from.list.key: is empty",
            "signature.signed: {bodi}",
            "signature.timestamp.json: `time`",
            "signature.timestamp.past: `5 minutes`",
            "signature.require[0]: exactly one of is, is_setting, body_digest",
            "signature.require[1]: exactly one of header, query",
        ] {
            assert!(all.iter().any(|problem| problem.starts_with(path)), "{path} in {all:#?}");
        }
    }

    #[test]
    fn schemes_that_prove_nothing_are_refused() {
        for (yaml, what) in [
            ("{}", "signature.algorithm"),
            ("{ algorithm: hmac-sha256 }", "signature.from"),
            ("{ algorithm: hmac-sha256, from: { header: x } }", "signature.signed"),
            ("{ algorithm: hmac-sha256, from: { header: x, query: y }, signed: \"{body}\" }", "exactly one"),
            ("{ algorithm: sha256, from: { header: x }, signed: \"{body}\" }", "without {secret}"),
            ("{ algorithm: ed25519, from: { header: x }, signed: \"{secret}{body}\" }", "verify without a secret"),
            (
                "{ algorithm: ed25519, from: { header: x }, signed: \"{body}\", key: { encoding: hex } }",
                "signature.key",
            ),
            ("{ algorithm: hmac-sha256, from: { header: x }, signed: \"{body}\", key_id: { header: y } }", "key_id"),
            ("{ algorithm: rsa-sha256, from: { header: x, ecdsa: raw }, signed: \"{body}\" }", "from.ecdsa"),
            (
                "{ algorithm: hmac-sha256, from: { header: x }, signed: \"{body}\", token: { algorithms: [HS256] } }",
                "signature.token",
            ),
            ("{ algorithm: jwt, from: { header: x } }", "signature.token: is missing"),
            ("{ algorithm: jwt, from: { header: x }, token: {} }", "token.algorithms: is empty"),
            (
                "{ algorithm: jwt, from: { header: x }, token: { algorithms: [HS256] }, signed: \"{body}\" }",
                "signature.signed",
            ),
            (
                "{ algorithm: jwt, from: { header: x }, token: { algorithms: [HS256], claims: [{ name: a }] } }",
                "claims[0]",
            ),
            (
                "{ algorithm: jwt, from: { header: x }, token: { algorithms: [HS256], payload: body, max_age: 1m } }",
                "token.payload",
            ),
            ("{ algorithm: hmac-sha256, from: { header: x }, signed: \"{signed_headers}{body}\" }", "signed_headers"),
            (
                "{ algorithm: hmac-sha256, from: { header: x }, signed: \"{signed_headers}{body}\", \
                 signed_headers: { header: y, separator: \",\", join: \";\" } }",
                "signed_headers.require",
            ),
            ("{ algorithm: hmac-sha256, from: { json: /sig }, signed: \"{json:/a}\", each: /items }", "signature.each"),
            (
                "{ algorithm: hmac-sha256, from: { header: x }, signed: \"{json:/a}\", each: /items/* }",
                "stands in the body",
            ),
            ("{ algorithm: basic, by_choice: true }", "by_choice"),
            ("{ any_of: [ { algorithm: basic, by_choice: true } ] }", "by_choice needs a name"),
            ("{ algorithm: hmac-sha256, from: { header: x }, signed: \"{form_pairs:sign}\" }", "fields to leave out"),
            (
                "{ algorithm: hmac-sha256, from: { header: x }, signed: \"{sorted:secret,query:a}\" }",
                "has its secret as key: {sorted",
            ),
            ("{ algorithm: hmac-sha256, from: { header: x, encoding: text }, signed: \"{body}\" }", "from.encoding"),
            ("{ algorithm: hmac-sha256, from: { json: /sig }, signed: \"{body}\" }", "in the body that is signed"),
            ("{ algorithm: hmac-sha256, from: { header: x }, signed: \"{field:t}{body}\" }", "no list"),
            ("{ algorithm: hmac-sha256, from: { header: x }, signed: \"{timestamp}{body}\" }", "no `timestamp`"),
            ("{ algorithm: token, from: { header: x }, signed: \"{body}\" }", "signs nothing"),
            ("{ algorithm: token }", "signature.from"),
            ("{ algorithm: basic, from: { query: x } }", "stands in a header"),
            ("{ any_of: [] }", "list is empty"),
            ("{ any_of: [ { algorithm: basic }, { algorithm: basic } ] }", "signature.any_of[0]: without `when`"),
            ("{ any_of: [ { any_of: [] } ] }", "do not nest"),
            ("{ algorithm: basic, any_of: [ { algorithm: basic } ] }", "nothing else may stand"),
            ("{ algorithm: basic, when: { header: x } }", "signature.when"),
            (
                "{ algorithm: hmac-sha256, from: { header: x, list: { pairs: \",\", assign: \"=\" } }, signed: \"{body}\" }",
                "from.list.key: is missing",
            ),
            (
                "{ algorithm: hmac-sha256, from: { header: x, list: { pairs: \",\", key: v1 } }, signed: \"{body}\" }",
                "from.list.assign: is missing",
            ),
            (
                "{ algorithm: hmac-sha256, from: { header: x, list: { pairs: \",\" } }, signed: \"{field:t}{body}\" }",
                "no list with names",
            ),
            ("{ algorithm: token, from: { header: x, also: [y] } }", "signature.from.also: a token"),
            (
                "{ algorithm: hmac-sha256, from: { query: x, also: [y] }, signed: \"{body}\" }",
                "signature.from.also: goes",
            ),
            (
                "{ algorithm: hmac-sha256, from: { header: x, also: [\"y z\"] }, signed: \"{body}\" }",
                "signature.from.also: `y z`",
            ),
        ] {
            let all = problems(yaml);
            assert!(all.iter().any(|problem| problem.contains(what)), "{what} in {all:#?}");
        }
    }

    #[test]
    fn a_time_that_is_not_signed_is_refused() {
        for (signed, time, good) in [
            ("{body}", "header: x-time", false),
            ("{header:x-time}.{body}", "header: x-time", true),
            ("{timestamp}.{body}", "header: x-time", true),
            ("{header:x-other}.{body}", "header: x-time", false),
            ("{body}", "json: /time", true),
            ("{header:x}", "json: /time", false),
            ("{json:/time}", "json: /time", true),
            ("{body}", "query: time", false),
            ("{url}{body}", "query: time", true),
            ("{public_url}{body}", "query: time", false),
            ("{form_sorted}", "form: time", true),
            ("{body}", "field: t", false),
            ("{field:t}{body}", "field: t", true),
        ] {
            let list = if time.starts_with("field") { ", list: { pairs: \",\", assign: \"=\", key: v1 }" } else { "" };
            let yaml = format!(
                "{{ algorithm: hmac-sha256, from: {{ header: x-sig{list} }}, signed: \"{signed}\", timestamp: {{ {time} }} }}"
            );
            assert_eq!(problems(&yaml).is_empty(), good, "{signed} {time} {:?}", problems(&yaml));
        }
    }

    #[test]
    fn unknown_keys_and_words_are_refused() {
        for yaml in [
            "{ algoritm: token }",
            "{ algorithm: md4 }",
            "{ algorithm: none }",
            "{ from: { headr: x } }",
            "{ timestamp: { header: x, unit: days } }",
            "{ key: { encodin: hex } }",
        ] {
            assert!(serde_yaml::from_str::<RawScheme>(yaml).is_err(), "{yaml}");
        }
    }

    #[test]
    fn places_are_written_short_or_as_a_mapping() {
        let source = |yaml: &str| serde_yaml::from_str::<RawSource>(yaml).map(|raw| raw.compile("event_id"));
        assert_eq!(source("header:X-Id").unwrap(), Source::parse("header:X-Id").map_err(|_| unreachable!()));
        assert_eq!(source("{ json: /id }").unwrap().unwrap(), Source::Json("/id".into()));
        assert_eq!(source("json:id").unwrap().unwrap_err().path, "event_id");
        assert!(source("X-Id").unwrap().is_err());
        for bad in ["{}", "{ header: a, query: b }", "{ cookie: a }", "[a]", "7"] {
            assert!(source(bad).is_err(), "{bad}");
        }
        let list: RawSources = serde_yaml::from_str("[header:a, { json: /b }]").unwrap();
        assert_eq!(list.compile("event_id", &mut Vec::new()).len(), 2);
        let mut found = Vec::new();
        serde_yaml::from_str::<RawSources>("[header:a, b]").unwrap().compile("event_id", &mut found);
        assert_eq!(found[0].path, "event_id[1]");
    }

    #[test]
    fn durations_are_written_with_a_unit() {
        for (text, seconds) in [("0", 0), ("30s", 30), ("5m", 300), ("96h", 345_600), ("3d", 259_200)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)));
        }
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        for bad in ["", "5", "m", "-5m", "5 m", "1.5h", "5M", "99999999999999999999s", "18446744073709551615d", "٥m"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_schema_knows_every_key() {
        let schema = serde_json::to_string(&schemars::schema_for!(RawScheme)).unwrap();
        for key in ["any_of", "strip_prefix", "hmac-sha512", "base64url-padded", "rfc3339", "body_digest"] {
            assert!(schema.contains(&format!("\"{key}\"")), "{key}");
        }
    }

    proptest! {
        #[test]
        fn compiling_never_panics(
            algorithm in prop::sample::select(vec!["hmac-sha256", "sha256", "token", "basic"]),
            texts in prop::collection::vec("\\PC{0,12}", 8),
            signed in "[{}a-z:/]{0,30}",
        ) {
            let text = |at: usize| serde_json::json!(texts[at]);
            let value = serde_json::json!({
                "algorithm": algorithm, "signed": signed, "name": text(0),
                "from": { "header": text(1), "prefix": text(2), "list": { "pairs": text(3), "assign": text(4), "key": text(5) } },
                "timestamp": { "json": text(6), "past": text(7) },
            });
            let raw: RawScheme = serde_json::from_value(value).unwrap();
            let _ = raw.compile("signature");
        }
    }
}
