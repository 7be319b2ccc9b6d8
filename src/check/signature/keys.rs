//! Public keys: read from what senders publish and people paste, and verified with. Computes with nothing secret.
//!
//! A key is only as good as its form is strict: RSA of at least 2048 bits with a sane exponent, points that are on their
//! curve, `use`, `key_ops` and `alg` of a JWK respected, private and symmetric keys refused where a public one belongs.
//! A key never says by itself what it is used for: the scheme names the algorithm, and a key of another kind is passed
//! over.

use super::fetched::Shelf;
use super::mac::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey as ParsedKey;
use x509_parser::x509::SubjectPublicKeyInfo;

/// The longest text that keys are read from, in bytes. Published sets with certificates in them have some 50 KiB.
pub const MAX_KEY_TEXT: usize = 256 << 10;
/// Keys of one set.
pub const MAX_KEYS: usize = 64;
/// Keys that are tried where the message does not say which one it was made with.
pub const MAX_TRIED: usize = 8;
/// The longest name of a key, in bytes.
const MAX_ID: usize = 256;
/// The longest signature: RSA with 8192 bits.
pub const MAX_SIGNATURE: usize = 1024;
/// The least and the most bits of an RSA modulus.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// How an ECDSA signature is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EcdsaForm {
    /// ASN.1 DER, as OpenSSL writes it.
    #[default]
    Der,
    /// `r` and `s` one behind the other, each as long as the curve's order (IEEE P1363, JWS).
    Raw,
}

/// A public-key signature algorithm with all its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicAlgorithm {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256. SHA-1 or SHA-256.
    P256(Hash, EcdsaForm),
    /// ECDSA on P-384 with SHA-384.
    P384(EcdsaForm),
    /// ECDSA on secp256k1 with SHA-256.
    Secp256k1(EcdsaForm),
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS with a salt as long as the hash, MGF1 with the same hash. Not with SHA-1.
    RsaPss(Hash),
}

impl fmt::Display for PublicAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("ed25519"),
            Self::P256(hash, _) => write!(f, "ecdsa-p256-{hash}"),
            Self::P384(_) => f.write_str("ecdsa-p384-sha384"),
            Self::Secp256k1(_) => f.write_str("ecdsa-secp256k1-sha256"),
            Self::RsaPkcs1(hash) => write!(f, "rsa-{hash}"),
            Self::RsaPss(hash) => write!(f, "rsa-pss-{hash}"),
        }
    }
}

/// A public key, checked.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: Option<Box<str>>,
    /// What its JWK says that it is for, as JWS calls it: `RS256`. `None`: anything that its kind can do.
    only: Option<Box<str>>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Ed25519([u8; 32]),
    /// Uncompressed points.
    P256(Box<[u8; 65]>),
    P384(Box<[u8; 97]>),
    Secp256k1(Box<[u8; 65]>),
    /// Modulus and exponent without leading zeros.
    Rsa(Box<[u8]>, Box<[u8]>),
}

/// An immutable set of public keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<PublicKey>,
}

/// Where the public keys of a scheme are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In the configuration.
    Fixed(Arc<KeySet>),
    /// Where the sender publishes them.
    Fetched(Arc<Shelf>),
}

impl KeySource {
    /// The keys that are at hand, for showing how a request is judged. None of a certificate that a message names.
    pub fn snapshot(&self) -> Arc<KeySet> {
        match self {
            Self::Fixed(keys) => keys.clone(),
            Self::Fetched(shelf) => shelf.held().map(|held| held.keys).unwrap_or_default(),
        }
    }
}

/// What is no secret is still long: shown by its kind.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "{} {id:?}", self.kind()),
            None => f.write_str(&self.kind()),
        }
    }
}

impl PublicKey {
    /// What the key is called, where it has a name.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The key under another name.
    #[must_use]
    pub fn named(self, id: &str) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// Its kind and size: `RSA with 2048 bits`.
    pub fn kind(&self) -> String {
        match &self.material {
            Material::Ed25519(_) => "Ed25519".into(),
            Material::P256(_) => "P-256".into(),
            Material::P384(_) => "P-384".into(),
            Material::Secp256k1(_) => "secp256k1".into(),
            Material::Rsa(modulus, _) => format!("RSA with {} bits", bits(modulus)),
        }
    }

    /// A `SubjectPublicKeyInfo` (RFC 5280), DER. What follows it is an error.
    pub fn from_spki(der: &[u8]) -> Result<Self, String> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "is no public key in DER".to_owned())?;
        if !rest.is_empty() {
            return Err("has something behind the public key".into());
        }
        Self::from_info(&info)
    }

    /// The key of a certificate (X.509, DER). The certificate itself is not checked: whoever configures it trusts it.
    pub fn from_certificate(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der)
            .map_err(|_| "is no certificate in DER".to_owned())?;
        Self::from_info(certificate.public_key())
    }

    fn from_info(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, String> {
        // RFC 8410, RFC 5480, RFC 8017.
        const ED25519: &str = "1.3.101.112";
        const EC: &str = "1.2.840.10045.2.1";
        const RSA: &str = "1.2.840.113549.1.1.1";
        let bytes: &[u8] = &info.subject_public_key.data;
        if info.subject_public_key.unused_bits != 0 {
            return Err("is not made of whole bytes".into());
        }
        let material = match info.algorithm.algorithm.to_id_string().as_str() {
            ED25519 => Material::ed25519(bytes)?,
            EC => {
                let curve = info.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
                match curve.map(|curve| curve.to_id_string()).as_deref() {
                    Some("1.2.840.10045.3.1.7") => Material::p256(bytes)?,
                    Some("1.3.132.0.34") => Material::p384(bytes)?,
                    Some("1.3.132.0.10") => Material::secp256k1(bytes)?,
                    _ => return Err("is on a curve that is not known here".into()),
                }
            }
            RSA => match info.parsed() {
                Ok(ParsedKey::RSA(key)) => Material::rsa(key.modulus, key.exponent)?,
                _ => return Err("is no RSA key in DER".into()),
            },
            _ => return Err("is of a kind that is not known here".into()),
        };
        Ok(Self { id: None, only: None, material })
    }

    /// The 32 bytes of an Ed25519 key.
    pub fn from_ed25519(bytes: &[u8]) -> Result<Self, String> {
        Ok(Self { id: None, only: None, material: Material::ed25519(bytes)? })
    }

    /// The Ed25519 key that belongs to a seed.
    pub(crate) fn from_ed25519_seed(seed: &[u8; 32]) -> Result<Self, String> {
        use ring::signature::KeyPair as _;
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| "is no seed".to_owned())?;
        Self::from_ed25519(pair.public_key().as_ref())
    }

    /// Does the signature hold over the text? False for a key of another kind.
    pub fn verifies(&self, algorithm: PublicAlgorithm, text: &[u8], signature: &[u8]) -> bool {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(text, signature).is_ok()
        };
        match (&self.material, algorithm) {
            (Material::Ed25519(key), PublicAlgorithm::Ed25519) => with(&signature::ED25519, key),
            (Material::P256(key), PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Der)) => {
                with(&signature::ECDSA_P256_SHA256_ASN1, &**key)
            }
            (Material::P256(key), PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Raw)) => {
                with(&signature::ECDSA_P256_SHA256_FIXED, &**key)
            }
            (Material::P256(key), PublicAlgorithm::P256(Hash::Sha1, form)) => {
                use p256::ecdsa::signature::hazmat::PrehashVerifier as _;
                let signature = match form {
                    EcdsaForm::Der => p256::ecdsa::Signature::from_der(signature),
                    EcdsaForm::Raw => p256::ecdsa::Signature::from_slice(signature),
                };
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&**key);
                let digest = Hash::Sha1.digest(text);
                matches!((key, signature), (Ok(key), Ok(signature))
                    if key.verify_prehash(digest.as_bytes(), &signature).is_ok())
            }
            (Material::P384(key), PublicAlgorithm::P384(EcdsaForm::Der)) => {
                with(&signature::ECDSA_P384_SHA384_ASN1, &**key)
            }
            (Material::P384(key), PublicAlgorithm::P384(EcdsaForm::Raw)) => {
                with(&signature::ECDSA_P384_SHA384_FIXED, &**key)
            }
            (Material::Secp256k1(key), PublicAlgorithm::Secp256k1(form)) => {
                use k256::ecdsa::signature::hazmat::PrehashVerifier as _;
                let signature = match form {
                    EcdsaForm::Der => k256::ecdsa::Signature::from_der(signature),
                    EcdsaForm::Raw => k256::ecdsa::Signature::from_slice(signature),
                };
                let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(&**key);
                let digest = Hash::Sha256.digest(text);
                // Outside of Bitcoin nobody keeps `s` low, so both of the two values count.
                matches!((key, signature), (Ok(key), Ok(signature))
                    if key.verify_prehash(digest.as_bytes(), &signature.normalize_s()).is_ok())
            }
            (Material::Rsa(n, e), PublicAlgorithm::RsaPkcs1(hash)) => {
                let parameters = match hash {
                    Hash::Md5 => return false,
                    Hash::Sha1 => &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
                    Hash::Sha256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, text, signature).is_ok()
            }
            (Material::Rsa(n, e), PublicAlgorithm::RsaPss(hash)) => {
                let parameters = match hash {
                    Hash::Md5 | Hash::Sha1 => return false,
                    Hash::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Hash::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Hash::Sha512 => &signature::RSA_PSS_2048_8192_SHA512,
                };
                RsaPublicKeyComponents { n, e }.verify(parameters, text, signature).is_ok()
            }
            _ => false,
        }
    }

    /// Could it have made such a signature?
    fn fits(&self, algorithm: PublicAlgorithm) -> bool {
        let kind = matches!(
            (&self.material, algorithm),
            (Material::Ed25519(_), PublicAlgorithm::Ed25519)
                | (Material::P256(_), PublicAlgorithm::P256(..))
                | (Material::P384(_), PublicAlgorithm::P384(_))
                | (Material::Secp256k1(_), PublicAlgorithm::Secp256k1(_))
                | (Material::Rsa(..), PublicAlgorithm::RsaPkcs1(_) | PublicAlgorithm::RsaPss(_))
        );
        kind && self.only.as_deref().is_none_or(|only| jws_names(algorithm).contains(&only))
    }
}

/// What JWS calls an algorithm (RFC 7518, RFC 8037, RFC 8812, RFC 9864).
fn jws_names(algorithm: PublicAlgorithm) -> &'static [&'static str] {
    match algorithm {
        PublicAlgorithm::Ed25519 => &["EdDSA", "Ed25519"],
        PublicAlgorithm::P256(Hash::Sha256, _) => &["ES256"],
        PublicAlgorithm::P384(_) => &["ES384"],
        PublicAlgorithm::Secp256k1(_) => &["ES256K"],
        PublicAlgorithm::RsaPkcs1(Hash::Sha256) => &["RS256"],
        PublicAlgorithm::RsaPkcs1(Hash::Sha384) => &["RS384"],
        PublicAlgorithm::RsaPkcs1(Hash::Sha512) => &["RS512"],
        PublicAlgorithm::RsaPss(Hash::Sha256) => &["PS256"],
        PublicAlgorithm::RsaPss(Hash::Sha384) => &["PS384"],
        PublicAlgorithm::RsaPss(Hash::Sha512) => &["PS512"],
        PublicAlgorithm::P256(..) | PublicAlgorithm::RsaPkcs1(_) | PublicAlgorithm::RsaPss(_) => &[],
    }
}

impl Material {
    fn ed25519(bytes: &[u8]) -> Result<Self, String> {
        let key: [u8; 32] = bytes.try_into().map_err(|_| "is not the 32 bytes of an Ed25519 key".to_owned())?;
        // Small-order points verify anything: the eight of them, and the spellings of these that are not canonical.
        const SMALL: [&str; 8] = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "efffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let mut unsigned = key;
        unsigned[31] &= 0x7f;
        if SMALL.contains(&hex::encode(unsigned).as_str()) {
            return Err("is a weak Ed25519 key: anything would verify".into());
        }
        Ok(Self::Ed25519(key))
    }

    fn p256(bytes: &[u8]) -> Result<Self, String> {
        let wrong = || "is no point on P-256".to_owned();
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).map_err(|_| wrong())?;
        let point = key.to_sec1_point(false);
        Ok(Self::P256(Box::new(point.as_bytes().try_into().map_err(|_| wrong())?)))
    }

    fn p384(bytes: &[u8]) -> Result<Self, String> {
        let wrong = || "is no uncompressed point on P-384".to_owned();
        let point: [u8; 97] = bytes.try_into().map_err(|_| wrong())?;
        // ring looks at the curve whenever it verifies; here it is asked once with a signature that cannot hold, and
        // cannot tell the two failures apart. The form is what can be checked now.
        if point[0] != 4 { Err(wrong()) } else { Ok(Self::P384(Box::new(point))) }
    }

    fn secp256k1(bytes: &[u8]) -> Result<Self, String> {
        let wrong = || "is no point on secp256k1".to_owned();
        let key = k256::ecdsa::VerifyingKey::from_sec1_bytes(bytes).map_err(|_| wrong())?;
        let point = key.to_sec1_point(false);
        Ok(Self::Secp256k1(Box::new(point.as_bytes().try_into().map_err(|_| wrong())?)))
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, String> {
        let (modulus, exponent) = (without_zeros(modulus), without_zeros(exponent));
        let size = bits(modulus);
        if !RSA_BITS.contains(&size) {
            return Err(format!(
                "is an RSA key with {size} bits; {} to {} are wanted",
                RSA_BITS.start(),
                RSA_BITS.end()
            ));
        }
        let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
        // Up to 33 bits, as ring takes them; 1 would let anything verify.
        if !odd(modulus) || !odd(exponent) || exponent == [1] || bits(exponent) > 33 {
            return Err("is an RSA key with an unsound modulus or exponent".into());
        }
        Ok(Self::Rsa(modulus.into(), exponent.into()))
    }
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let at = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    &number[at..]
}

/// The length of a number without leading zeros.
fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

impl KeySet {
    /// Reads keys as people have them: PEM blocks (`PUBLIC KEY`, `RSA PUBLIC KEY`, `CERTIFICATE`), a JWK, a JWKS, the
    /// base64 of a DER key, or the hex or base64 of the 32 bytes of an Ed25519 key. The error follows `… from file x`.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.len() > MAX_KEY_TEXT {
            return Err(format!("is longer than {MAX_KEY_TEXT} bytes"));
        }
        let text = std::str::from_utf8(text).map_err(|_| "is not text: write PEM, JWK, JWKS, base64 or hex")?.trim();
        if text.starts_with('{') {
            return Self::from_json(text.as_bytes());
        }
        if text.contains("-----BEGIN ") {
            return Self::from_pem(text);
        }
        // As Standard Webhooks writes them.
        let text = text.strip_prefix("whpk_").unwrap_or(text);
        let digits = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bytes = if digits { hex::decode(text).ok() } else { decode_base64(text) };
        let bytes = bytes.ok_or("is neither PEM, JWK, JWKS, base64 nor hex")?;
        let key = if bytes.len() == 32 { PublicKey::from_ed25519(&bytes)? } else { PublicKey::from_spki(&bytes)? };
        Ok(Self { keys: vec![key] })
    }

    fn from_pem(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some((_, begun)) = rest.split_once("-----BEGIN ") {
            let (label, begun) = begun.split_once("-----").ok_or("has a PEM block without a name")?;
            let (inside, after) =
                begun.split_once(&format!("-----END {label}-----")).ok_or("has a PEM block without an end")?;
            rest = after;
            if label.contains("PRIVATE KEY") {
                return Err("is a private key: only the public one belongs here".into());
            }
            let inside: String = inside.split_ascii_whitespace().collect();
            let der = decode_base64(&inside).ok_or("has a PEM block that is no base64")?;
            keys.push(match label {
                "CERTIFICATE" => PublicKey::from_certificate(&der)?,
                "PUBLIC KEY" => PublicKey::from_spki(&der)?,
                // Some senders write this name above either form.
                "RSA PUBLIC KEY" => PublicKey::from_spki(&der).or_else(|_| from_pkcs1(&der))?,
                _ => return Err(format!("has a PEM block `{}`", label.escape_debug())),
            });
        }
        Self::bounded(keys)
    }

    /// A JWK, or a JWKS (RFC 7517). Keys of a set that are of another kind or for another use are passed over; a set
    /// without a key that can be used is an error.
    pub fn from_json(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        if text.len() > MAX_KEY_TEXT {
            return Err(format!("is longer than {MAX_KEY_TEXT} bytes"));
        }
        // Errors of serde_json quote nothing of the text but a position.
        let wrong = |error: serde_json::Error| format!("is no JWK and no JWKS in JSON ({:?})", error.classify());
        let value: serde_json::Value = serde_json::from_slice(text).map_err(wrong)?;
        if value.get("keys").is_none() {
            let key = serde_json::from_value::<Jwk>(value).map_err(wrong)?.key()?;
            return Ok(Self { keys: vec![key] });
        }
        let set = serde_json::from_value::<Set>(value).map_err(wrong)?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("holds more than {MAX_KEYS} keys"));
        }
        let (mut keys, mut why) = (Vec::new(), None);
        for value in set.keys {
            match serde_json::from_value::<Jwk>(value).map_err(wrong).and_then(|jwk| jwk.key()) {
                Ok(key) => keys.push(key),
                Err(what) => why = Some(what),
            }
        }
        match (keys.is_empty(), why) {
            (true, Some(what)) => Err(format!("holds no key that can be used; the last one {what}")),
            _ => Self::bounded(keys),
        }
    }

    fn bounded(keys: Vec<PublicKey>) -> Result<Self, String> {
        match keys.len() {
            0 => Err("holds no key".into()),
            1..=MAX_KEYS => Ok(Self { keys }),
            _ => Err(format!("holds more than {MAX_KEYS} keys")),
        }
    }

    /// These keys.
    pub fn new(keys: Vec<PublicKey>) -> Result<Self, String> {
        Self::bounded(keys)
    }

    /// The same keys, all under one name.
    #[must_use]
    pub fn named(self, id: &str) -> Self {
        Self { keys: self.keys.into_iter().map(|key| key.named(id)).collect() }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All keys.
    pub fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.keys.iter()
    }

    /// Is there a key with this name, or one without a name that any message may be verified with?
    pub fn has(&self, algorithm: PublicAlgorithm, id: Option<&str>) -> bool {
        self.candidates(algorithm, id).next().is_some()
    }

    /// The keys that a message with this key name may be verified with: those of that name, and those without one,
    /// which whoever configured them meant for all. Without a name in the message all that fit, up to a bound.
    pub fn candidates(&self, algorithm: PublicAlgorithm, id: Option<&str>) -> impl Iterator<Item = &PublicKey> {
        let named = move |key: &&PublicKey| match (id, key.id()) {
            (Some(wanted), Some(known)) => wanted == known,
            _ => true,
        };
        self.keys.iter().filter(move |key| key.fits(algorithm)).filter(named).take(MAX_TRIED)
    }

    /// Does any of the keys that may have made it verify the signature?
    pub fn verifies(&self, algorithm: PublicAlgorithm, id: Option<&str>, text: &[u8], signature: &[u8]) -> bool {
        signature.len() <= MAX_SIGNATURE
            && self.candidates(algorithm, id).any(|key| key.verifies(algorithm, text, signature))
    }
}

/// A sender's private key, for trying a configuration out. Checks never see one.
pub struct PrivateKey(Pair);

enum Pair {
    Ed25519(signature::Ed25519KeyPair),
    P256(Box<p256::ecdsa::SigningKey>),
    /// PKCS#8: ring wants to know the signature's form when it reads the key.
    P384(zeroize::Zeroizing<Vec<u8>>),
    Secp256k1(Box<k256::ecdsa::SigningKey>),
    Rsa(Box<signature::RsaKeyPair>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PrivateKey {
    /// PEM: `PRIVATE KEY` (PKCS#8), `RSA PRIVATE KEY` or `EC PRIVATE KEY`. The error follows `the private key …`.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let none = || "is no PEM block `PRIVATE KEY`, `RSA PRIVATE KEY` or `EC PRIVATE KEY`".to_owned();
        let text = std::str::from_utf8(text).map_err(|_| none())?;
        for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            let block = text.split_once(&format!("-----BEGIN {label}-----"));
            let block = block.and_then(|(_, rest)| rest.split_once(&format!("-----END {label}-----")));
            let Some((inside, _)) = block else { continue };
            let der = zeroize::Zeroizing::new(decode_base64(inside).ok_or("is no base64")?);
            return match label {
                "RSA PRIVATE KEY" => {
                    let pair = signature::RsaKeyPair::from_der(&der).map_err(|error| format!("is unfit: {error}"))?;
                    Ok(Self(Pair::Rsa(Box::new(pair))))
                }
                "EC PRIVATE KEY" => Self::from_sec1(&der, None).ok_or_else(|| "is no EC key".into()),
                _ => Self::from_pkcs8(&der),
            };
        }
        Err(none())
    }

    /// The Ed25519 key that belongs to a seed.
    pub(crate) fn from_ed25519_seed(seed: &[u8; 32]) -> Result<Self, String> {
        let pair = signature::Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| "is no seed".to_owned())?;
        Ok(Self(Pair::Ed25519(pair)))
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, String> {
        if let Ok(pair) = signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Ok(Self(Pair::Ed25519(pair)));
        }
        if let Ok(pair) = signature::RsaKeyPair::from_pkcs8(der) {
            return Ok(Self(Pair::Rsa(Box::new(pair))));
        }
        let random = ring::rand::SystemRandom::new();
        let p384 = &signature::ECDSA_P384_SHA384_ASN1_SIGNING;
        if signature::EcdsaKeyPair::from_pkcs8(p384, der, &random).is_ok() {
            return Ok(Self(Pair::P384(zeroize::Zeroizing::new(der.to_vec()))));
        }
        // PrivateKeyInfo of RFC 5208: version, algorithm with curve, the key of RFC 5915 in an octet string.
        let elliptic = || {
            let (_, inside, _) = element(der)?;
            let (_, _, rest) = element(inside)?;
            let (_, algorithm, rest) = element(rest)?;
            let (_, _, parameters) = element(algorithm)?;
            let (_, curve, _) = element(parameters)?;
            let (_, key, _) = element(rest)?;
            Self::from_sec1(key, Some(curve))
        };
        elliptic().ok_or_else(|| "is of a kind that is not known here".into())
    }

    /// `ECPrivateKey` of RFC 5915: version, the number, perhaps the curve.
    fn from_sec1(der: &[u8], curve: Option<&[u8]>) -> Option<Self> {
        const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        const SECP256K1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x0a];
        let (_, inside, _) = element(der)?;
        let (_, _, rest) = element(inside)?;
        let (_, number, rest) = element(rest)?;
        let curve = match curve {
            Some(curve) => curve,
            None => element(element(rest)?.1)?.1,
        };
        match curve {
            P256 => p256::ecdsa::SigningKey::from_slice(number).ok().map(|key| Self(Pair::P256(Box::new(key)))),
            SECP256K1 => {
                k256::ecdsa::SigningKey::from_slice(number).ok().map(|key| Self(Pair::Secp256k1(Box::new(key))))
            }
            _ => None,
        }
    }

    /// Signs as a sender does. `None`: a key of another kind, or an algorithm that nobody should sign with any more.
    pub fn sign(&self, algorithm: PublicAlgorithm, text: &[u8]) -> Option<Vec<u8>> {
        let random = ring::rand::SystemRandom::new();
        match (&self.0, algorithm) {
            (Pair::Ed25519(pair), PublicAlgorithm::Ed25519) => Some(pair.sign(text).as_ref().to_vec()),
            (Pair::P256(key), PublicAlgorithm::P256(hash, form)) => {
                use p256::ecdsa::signature::hazmat::PrehashSigner as _;
                let signature: p256::ecdsa::Signature = key.sign_prehash(hash.digest(text).as_bytes()).ok()?;
                Some(match form {
                    EcdsaForm::Der => signature.to_der().as_bytes().to_vec(),
                    EcdsaForm::Raw => signature.to_bytes().to_vec(),
                })
            }
            (Pair::Secp256k1(key), PublicAlgorithm::Secp256k1(form)) => {
                use k256::ecdsa::signature::hazmat::PrehashSigner as _;
                let signature: k256::ecdsa::Signature = key.sign_prehash(Hash::Sha256.digest(text).as_bytes()).ok()?;
                Some(match form {
                    EcdsaForm::Der => signature.to_der().as_bytes().to_vec(),
                    EcdsaForm::Raw => signature.to_bytes().to_vec(),
                })
            }
            (Pair::P384(der), PublicAlgorithm::P384(form)) => {
                let form = match form {
                    EcdsaForm::Der => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
                    EcdsaForm::Raw => &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
                };
                let pair = signature::EcdsaKeyPair::from_pkcs8(form, der, &random).ok()?;
                Some(pair.sign(&random, text).ok()?.as_ref().to_vec())
            }
            (Pair::Rsa(pair), PublicAlgorithm::RsaPkcs1(_) | PublicAlgorithm::RsaPss(_)) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    PublicAlgorithm::RsaPkcs1(Hash::Sha256) => &signature::RSA_PKCS1_SHA256,
                    PublicAlgorithm::RsaPkcs1(Hash::Sha384) => &signature::RSA_PKCS1_SHA384,
                    PublicAlgorithm::RsaPkcs1(Hash::Sha512) => &signature::RSA_PKCS1_SHA512,
                    PublicAlgorithm::RsaPss(Hash::Sha256) => &signature::RSA_PSS_SHA256,
                    PublicAlgorithm::RsaPss(Hash::Sha384) => &signature::RSA_PSS_SHA384,
                    PublicAlgorithm::RsaPss(Hash::Sha512) => &signature::RSA_PSS_SHA512,
                    _ => return None,
                };
                let mut made = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, text, &mut made).ok()?;
                Some(made)
            }
            _ => None,
        }
    }
}

/// The first element of a DER text: its tag, its content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(len, rest)| (usize::from(u16::from_be_bytes(*len)), rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

/// A JWK as written (RFC 7517). Members that are not known are allowed there.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    #[serde(default)]
    d: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    k: Option<serde::de::IgnoredAny>,
}

impl Jwk {
    fn key(self) -> Result<PublicKey, String> {
        if self.d.is_some() || self.k.is_some() || self.kty == "oct" {
            return Err("is a private or symmetric key: only a public one belongs here".into());
        }
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err("is not for signatures (`use`)".into());
        }
        if self.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
            return Err("is not for verifying (`key_ops`)".into());
        }
        if self.kid.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID) {
            return Err(format!("has a `kid` that is empty or longer than {MAX_ID} bytes"));
        }
        let number = |name: &str, text: &Option<String>| {
            let text = text.as_deref().ok_or_else(|| format!("has no `{name}`"))?;
            // Some issuers pad, against the letter of the RFC.
            URL_SAFE_NO_PAD
                .decode(text.trim_end_matches('='))
                .map_err(|_| format!("has an `{name}` that is no base64url"))
        };
        let point = |len: usize| {
            let (x, y) = (number("x", &self.x)?, number("y", &self.y)?);
            if x.len() != len || y.len() != len {
                return Err(format!("has coordinates that are not {len} bytes long"));
            }
            Ok([&[4][..], &x, &y].concat())
        };
        let material = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Material::rsa(&number("n", &self.n)?, &number("e", &self.e)?)?,
            ("EC", Some("P-256")) => Material::p256(&point(32)?)?,
            ("EC", Some("P-384")) => Material::p384(&point(48)?)?,
            ("EC", Some("secp256k1")) => Material::secp256k1(&point(32)?)?,
            ("OKP", Some("Ed25519")) => Material::ed25519(&number("x", &self.x)?)?,
            _ => return Err("is of a kind that is not known here".into()),
        };
        Ok(PublicKey { id: self.kid.map(Into::into), only: self.alg.map(Into::into), material })
    }
}

/// `RSAPublicKey` of RFC 8017: a sequence of two integers.
fn from_pkcs1(der: &[u8]) -> Result<PublicKey, String> {
    let (rest, key) =
        x509_parser::public_key::RSAPublicKey::from_der(der).map_err(|_| "is no RSA key in DER".to_owned())?;
    if !rest.is_empty() {
        return Err("has something behind the public key".into());
    }
    Ok(PublicKey { id: None, only: None, material: Material::rsa(key.modulus, key.exponent)? })
}

/// Standard or URL-safe, padded or not, white space left out before.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let text: String = text.split_ascii_whitespace().collect();
    let text = text.trim_end_matches('=');
    STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Deserialize)]
    struct Golden {
        text: String,
        good: Vec<Made>,
        wrong: Vec<Made>,
        small_rsa: String,
    }

    #[derive(Deserialize)]
    struct Made {
        #[serde(default)]
        what: String,
        algorithm: String,
        public_key: String,
        signature: String,
    }

    fn golden() -> Golden {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/public-keys.json"));
        serde_json::from_str(text).unwrap()
    }

    fn all() -> Vec<(String, PublicAlgorithm)> {
        let mut all = vec![PublicAlgorithm::Ed25519];
        for form in [EcdsaForm::Der, EcdsaForm::Raw] {
            all.extend([Hash::Sha1, Hash::Sha256].map(|hash| PublicAlgorithm::P256(hash, form)));
            all.extend([PublicAlgorithm::P384(form), PublicAlgorithm::Secp256k1(form)]);
        }
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha384, Hash::Sha512] {
            all.extend([PublicAlgorithm::RsaPkcs1(hash), PublicAlgorithm::RsaPss(hash)]);
        }
        all.into_iter()
            .map(|algorithm| {
                let form = match algorithm {
                    PublicAlgorithm::P256(_, form) | PublicAlgorithm::P384(form) | PublicAlgorithm::Secp256k1(form) => {
                        if form == EcdsaForm::Der {
                            " der"
                        } else {
                            " raw"
                        }
                    }
                    _ => "",
                };
                (format!("{algorithm}{form}"), algorithm)
            })
            .collect()
    }

    #[test]
    fn what_openssl_signs_verifies_with_its_own_algorithm_only() {
        let golden = golden();
        let text = hex::decode(&golden.text).unwrap();
        for made in &golden.good {
            let keys = KeySet::parse(made.public_key.as_bytes()).unwrap();
            let signature = hex::decode(&made.signature).unwrap();
            for (name, algorithm) in all() {
                let holds = keys.verifies(algorithm, None, &text, &signature);
                assert_eq!(holds, name == made.algorithm, "{name} for {}", made.algorithm);
            }
            let own = all().into_iter().find(|(name, _)| *name == made.algorithm).unwrap().1;
            for bit in 0..signature.len() * 8 {
                let mut changed = signature.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(!keys.verifies(own, None, &text, &changed), "{} bit {bit}", made.algorithm);
            }
            assert!(!keys.verifies(own, None, &text[1..], &signature));
            for other in &golden.good {
                let keys = KeySet::parse(other.public_key.as_bytes()).unwrap();
                let same = other.public_key == made.public_key;
                assert_eq!(keys.verifies(own, None, &text, &signature), same, "{}", other.algorithm);
            }
            for bad in [&signature[1..], &signature[..signature.len() - 1], &[signature.clone(), vec![0]].concat(), &[]]
            {
                assert!(!keys.verifies(own, None, &text, bad), "{}", made.algorithm);
            }
        }
    }

    #[test]
    fn other_salts_paddings_and_hashes_do_not_verify() {
        let golden = golden();
        let text = hex::decode(&golden.text).unwrap();
        for made in &golden.wrong {
            let keys = KeySet::parse(made.public_key.as_bytes()).unwrap();
            let algorithm = all().into_iter().find(|(name, _)| *name == made.algorithm).unwrap().1;
            assert!(!keys.verifies(algorithm, None, &text, &hex::decode(&made.signature).unwrap()), "{}", made.what);
        }
    }

    #[test]
    fn zeros_in_place_of_r_and_s_never_verify() {
        for made in &golden().good {
            let keys = KeySet::parse(made.public_key.as_bytes()).unwrap();
            for (_, algorithm) in all() {
                for signature in [
                    &[0; 64][..],
                    &[0; 96],
                    &hex::decode("3006020100020100").unwrap(),
                    &hex::decode("3006020101020101").unwrap(),
                    &[1; 64],
                    &[0; 256],
                    &[0xff; 256],
                ] {
                    assert!(!keys.verifies(algorithm, None, b"x", signature), "{algorithm} {}", made.algorithm);
                }
            }
        }
    }

    #[test]
    fn keys_that_are_weak_private_or_something_else_are_refused() {
        let pem = |label: &str, inside: &str| format!("-----BEGIN {label}-----\n{inside}\n-----END {label}-----\n");
        let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        let rsa = |n: &str, e: &str| format!(r#"{{"kty":"RSA","n":"{n}","e":"{e}"}}"#);
        assert!(KeySet::parse(rsa(&modulus(256), "AQAB").as_bytes()).is_ok());
        for (what, text) in [
            ("1024 bits", golden().small_rsa),
            ("2040 bits", rsa(&modulus(255), "AQAB")),
            ("16384 bits", rsa(&modulus(2048), "AQAB")),
            ("exponent 1", rsa(&modulus(256), "AQ")),
            ("even exponent", rsa(&modulus(256), "Ag")),
            ("exponent 0", rsa(&modulus(256), "AA")),
            ("huge exponent", rsa(&modulus(256), "__________8")),
            ("no modulus", r#"{"kty":"RSA","e":"AQAB"}"#.into()),
            ("a private key", r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.into()),
            ("a symmetric key", r#"{"kty":"oct","k":"AAAA"}"#.into()),
            ("another use", r#"{"kty":"OKP","crv":"Ed25519","use":"enc","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.into()),
            ("other operations", r#"{"kty":"OKP","crv":"Ed25519","key_ops":["sign"],"x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.into()),
            ("a point off the curve", r#"{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1"}"#.into()),
            ("another curve", r#"{"kty":"EC","crv":"P-521","x":"AA","y":"AA"}"#.into()),
            ("a twice named member", r#"{"kty":"OKP","kty":"oct","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.into()),
            ("a weak point", "0100000000000000000000000000000000000000000000000000000000000000".into()),
            ("31 bytes", "ab".repeat(31)),
            ("a PEM private key", pem("PRIVATE KEY", "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g")),
            ("PEM of another kind", pem("DH PARAMETERS", "AAAA")),
            ("PEM without an end", "-----BEGIN PUBLIC KEY-----\nAAAA".into()),
            ("PEM without a key", pem("PUBLIC KEY", "")),
            ("an empty set", r#"{"keys":[]}"#.into()),
            ("a set of unusable keys", r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#.into()),
            ("a huge set", format!(r#"{{"keys":[{}]}}"#, vec![r#"{"kty":"x"}"#; 65].join(","))),
            ("an empty kid", r#"{"kty":"OKP","crv":"Ed25519","kid":"","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#.into()),
            ("nothing", String::new()),
            ("words", "the public key".into()),
            ("a list", "[]".into()),
        ] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{what}");
        }
        assert!(KeySet::parse(&vec![b'a'; MAX_KEY_TEXT + 1]).is_err());
        assert!(KeySet::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn one_key_is_read_from_all_its_spellings() {
        let golden = golden();
        let of = |name: &str| golden.good.iter().find(|made| made.algorithm == name).unwrap().public_key.clone();
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let bytes = URL_SAFE_NO_PAD.decode(x).unwrap();
        let expected = PublicKey::from_ed25519(&bytes).unwrap();
        for text in [
            format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#),
            x.to_owned(),
            base64::engine::general_purpose::STANDARD.encode(&bytes),
            hex::encode(&bytes),
            hex::encode_upper(&bytes),
            format!("  {}\n", hex::encode(&bytes)),
        ] {
            assert_eq!(KeySet::parse(text.as_bytes()).unwrap().keys, std::slice::from_ref(&expected), "{text}");
        }
        for name in ["ed25519", "ecdsa-p256-sha256 der", "ecdsa-secp256k1-sha256 der", "rsa-sha256"] {
            let pem = of(name);
            let inside: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            let key = KeySet::parse(pem.as_bytes()).unwrap();
            assert_eq!(KeySet::parse(inside.as_bytes()).unwrap(), key, "{name}");
            assert_eq!(KeySet::parse(pem.replace('\n', "\r\n").as_bytes()).unwrap(), key, "{name}");
        }
        let two = [of("rsa-sha256"), of("ed25519")].concat();
        assert_eq!(KeySet::parse(two.as_bytes()).unwrap().iter().count(), 2);
    }

    #[test]
    fn what_a_private_key_of_any_spelling_signs_its_public_key_verifies() {
        #[derive(Deserialize)]
        struct Pairs {
            pairs: Vec<Vec<Pair>>,
        }
        #[derive(Deserialize)]
        struct Pair {
            private: String,
            public: String,
        }
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/public-keys.json"));
        let pairs: Pairs = serde_json::from_str(text).unwrap();
        let mut signed = Vec::new();
        for pair in pairs.pairs.iter().flatten() {
            let keys = KeySet::parse(pair.public.as_bytes()).unwrap();
            let private = PrivateKey::parse(pair.private.as_bytes()).unwrap();
            assert_eq!(format!("{private:?}"), "[redacted]");
            for (name, algorithm) in all() {
                let Some(signature) = private.sign(algorithm, b"text") else { continue };
                assert!(keys.verifies(algorithm, None, b"text", &signature), "{name}");
                assert!(!keys.verifies(algorithm, None, b"texu", &signature), "{name}");
                signed.push(name);
            }
            // The same number in the older forms.
            let inside: String = pair.private.lines().filter(|line| !line.starts_with('-')).collect();
            let der = decode_base64(&inside).unwrap();
            let (_, inside, _) = element(&der).unwrap();
            let (_, _, rest) = element(inside).unwrap();
            let (_, algorithm, rest) = element(rest).unwrap();
            let (_, key, _) = element(rest).unwrap();
            let (label, older) = match keys.keys[0].kind().get(..3) {
                Some("RSA") => ("RSA PRIVATE KEY", key.to_vec()),
                Some("P-2" | "sec") => {
                    // With the curve behind the number, as it stands where nothing else names it.
                    let (_, _, parameters) = element(algorithm).unwrap();
                    let (_, inside, _) = element(key).unwrap();
                    let (_, _, after_version) = element(inside).unwrap();
                    let (_, _, after_number) = element(after_version).unwrap();
                    let mut with_curve = inside[..inside.len() - after_number.len()].to_vec();
                    with_curve.extend([0xa0, u8::try_from(parameters.len()).unwrap()]);
                    with_curve.extend(parameters);
                    let mut sequence = vec![0x30, u8::try_from(with_curve.len()).unwrap()];
                    sequence.extend(with_curve);
                    ("EC PRIVATE KEY", sequence)
                }
                _ => continue,
            };
            let pem = format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD_NO_PAD.encode(older));
            let older = PrivateKey::parse(pem.as_bytes()).unwrap();
            for (name, algorithm) in all() {
                if let Some(signature) = older.sign(algorithm, b"text") {
                    assert!(keys.verifies(algorithm, None, b"text", &signature), "{label} {name}");
                }
            }
        }
        signed.sort_unstable();
        signed.dedup();
        // All but those that nobody should sign with any more, and the padding that does not exist.
        let all: Vec<String> = all().into_iter().map(|(name, _)| name).collect();
        let unsigned: Vec<&String> = all.iter().filter(|name| !signed.contains(name)).collect();
        assert_eq!(unsigned, ["rsa-sha1", "rsa-pss-sha1"]);
    }

    #[test]
    fn a_jwk_is_the_key_that_der_is() {
        let golden = golden();
        for (name, curve) in [
            ("ecdsa-p256-sha256 der", "P-256"),
            ("ecdsa-p384-sha384 der", "P-384"),
            ("ecdsa-secp256k1-sha256 der", "secp256k1"),
        ] {
            let made = golden.good.iter().find(|made| made.algorithm == name).unwrap();
            let key = KeySet::parse(made.public_key.as_bytes()).unwrap();
            let point = match &key.keys[0].material {
                Material::P256(point) | Material::Secp256k1(point) => point[1..].to_vec(),
                Material::P384(point) => point[1..].to_vec(),
                _ => unreachable!(),
            };
            let (x, y) = point.split_at(point.len() / 2);
            let jwk = |x: &[u8], y: &[u8]| {
                let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
                KeySet::parse(format!(r#"{{"kty":"EC","crv":"{curve}","x":"{x}","y":"{y}"}}"#).as_bytes())
            };
            assert_eq!(jwk(x, y), Ok(key), "{name}");
            assert!(jwk(&x[1..], &[&x[..1], y].concat()).is_err() && jwk(&x[1..], y).is_err(), "{name}");
        }
    }

    #[test]
    fn keys_are_bounded_and_shown_by_their_kind() {
        let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let padded = |length: usize| format!("{ed}{}", " ".repeat(length - ed.len()));
        for (length, fine) in [(MAX_KEY_TEXT, true), (MAX_KEY_TEXT + 1, false)] {
            assert_eq!(KeySet::parse(padded(length).as_bytes()).is_ok(), fine, "{length}");
            assert_eq!(KeySet::from_json(padded(length).as_bytes()).is_ok(), fine, "{length}");
        }
        for (count, fine) in [(1, true), (MAX_KEYS, true), (MAX_KEYS + 1, false)] {
            let set = KeySet::parse(format!(r#"{{"keys":[{}]}}"#, vec![ed; count].join(",")).as_bytes());
            assert_eq!(set.map(|set| set.len()).ok(), fine.then_some(count), "{count}");
        }
        for (length, fine) in [(1, true), (MAX_ID, true), (MAX_ID + 1, false)] {
            let named = ed.replace("{", &format!(r#"{{"kid":"{}","#, "k".repeat(length)));
            assert_eq!(KeySet::parse(named.as_bytes()).is_ok(), fine, "{length}");
        }
        let error = |text: &str| KeySet::parse(text.as_bytes()).unwrap_err();
        assert_eq!(error(r#"{"keys":[]}"#), "holds no key");
        assert!(error(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#).contains("the last one is a private or symmetric key"));
        // A modulus of 2041 bits in 256 bytes; exponents of 33 bits and of 34.
        let rsa = |first: u8, e: &str| {
            let modulus = URL_SAFE_NO_PAD.encode([&[first][..], &[0xff; 255]].concat());
            KeySet::parse(format!(r#"{{"kty":"RSA","n":"{modulus}","e":"{e}"}}"#).as_bytes())
        };
        assert!(rsa(0xff, "AQAAAAE").is_ok() && rsa(0xff, "AgAAAAE").is_err() && rsa(1, "AQAB").is_err());
        // 64 characters, and no hex.
        let spki = golden().good.into_iter().find(|made| made.algorithm == "ed25519").unwrap().public_key;
        let mut spki: String = spki.lines().filter(|line| !line.starts_with('-')).collect();
        [20, 40].into_iter().for_each(|at| spki.insert_str(at, "\r\n"));
        assert_eq!((spki.len(), KeySet::parse(spki.as_bytes()).is_ok()), (64, true));
        assert_eq!(format!("{:?}", KeySet::parse(ed.as_bytes()).unwrap().named("a").keys[0]), "Ed25519 \"a\"");
        assert_eq!(format!("{:?}", rsa(0xff, "AQAB").unwrap().keys[0]), "RSA with 2048 bits");
        assert!(KeySet::default().is_empty() && !rsa(0xff, "AQAB").unwrap().is_empty());
    }

    #[test]
    fn names_uses_and_algorithms_choose_the_key() {
        let set = KeySet::parse(
            br#"{"keys":[
                {"kty":"EC","crv":"P-256","kid":"a","use":"sig","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
                {"kty":"OKP","crv":"Ed25519","kid":"b","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
                {"kty":"EC","crv":"P-256","kid":"c","alg":"ECDH-ES","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
                {"kty":"oct","k":"AAAA","kid":"d"}
            ]}"#,
        )
        .unwrap();
        assert_eq!(set.iter().count(), 3);
        let es256 = PublicAlgorithm::P256(Hash::Sha256, EcdsaForm::Raw);
        for (algorithm, id, found) in [
            (es256, Some("a"), true),
            (es256, Some("b"), false),
            (es256, Some("c"), false),
            (es256, Some("d"), false),
            (es256, Some(""), false),
            (es256, None, true),
            (PublicAlgorithm::Ed25519, Some("b"), true),
            (PublicAlgorithm::RsaPkcs1(Hash::Sha256), None, false),
        ] {
            assert_eq!(set.has(algorithm, id), found, "{algorithm} {id:?}");
        }
        // A key without a name was meant for every message; one that was given a name counts for that alone.
        let alone = KeySet::parse(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert!(alone.has(PublicAlgorithm::Ed25519, Some("x")));
        assert!(!alone.clone().named("y").has(PublicAlgorithm::Ed25519, Some("x")));
        assert!(alone.named("y").has(PublicAlgorithm::Ed25519, Some("y")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = KeySet::parse(&text);
            let _ = KeySet::from_json(&text);
            let _ = PublicKey::from_spki(&text);
            let _ = PublicKey::from_certificate(&text);
        }

        #[test]
        fn damaged_keys_are_read_without_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), which in any::<prop::sample::Index>()) {
            let golden = golden();
            let made = &golden.good[which.index(golden.good.len())];
            let inside: String = made.public_key.lines().filter(|line| !line.starts_with('-')).collect();
            let mut der = decode_base64(&inside).unwrap();
            let at = at.index(der.len());
            der[at] = byte;
            if let Ok(key) = PublicKey::from_spki(&der) {
                for (_, algorithm) in all() {
                    let _ = key.verifies(algorithm, b"x", &hex::decode(&made.signature).unwrap());
                }
            }
        }

        #[test]
        fn jwk_like_text_is_read_without_panic(kty in "RSA|EC|OKP|oct", crv in "P-256|P-384|secp256k1|Ed25519|x", texts in prop::collection::vec("[A-Za-z0-9_=-]{0,90}", 4)) {
            let jwk = serde_json::json!({ "kty": kty, "crv": crv, "x": texts[0], "y": texts[1], "n": texts[2], "e": texts[3] });
            let _ = KeySet::parse(jwk.to_string().as_bytes());
            let _ = KeySet::parse(serde_json::json!({ "keys": [jwk] }).to_string().as_bytes());
        }
    }
}
