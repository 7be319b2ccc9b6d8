//! The only file that computes with secrets: keyed MACs, plain digests with the secret inside, and comparison.
//!
//! Everything secret is compared with `subtle`, over the full length, without leaving early: neither the length of a
//! shared token nor the number of right bytes shows in the time taken.

#![expect(clippy::disallowed_methods, reason = "this is the place where secrets are compared")]

use crate::secret::SecretBytes;
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::fmt;
use subtle::{Choice, ConstantTimeEq, ConstantTimeGreater};

/// The longest MAC of any algorithm.
pub(crate) const MAX_TAG: usize = 64;

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// Broken. For senders that have nothing better, and inside the texts that some sign.
    Md5,
    /// For old senders. As HMAC still sound.
    Sha1,
    /// The usual one.
    Sha256,
    /// SHA-2, 48 bytes.
    Sha384,
    /// SHA-2, 64 bytes.
    Sha512,
}

impl Hash {
    /// Length of the digest and of the HMAC in bytes.
    pub const fn output_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of one text.
    pub fn digest(self, text: &[u8]) -> Tag {
        match self {
            Self::Md5 => Tag::new(&Md5::digest(text)),
            Self::Sha1 => Tag::new(&Sha1::digest(text)),
            Self::Sha256 => Tag::new(&Sha256::digest(text)),
            Self::Sha384 => Tag::new(&Sha384::digest(text)),
            Self::Sha512 => Tag::new(&Sha512::digest(text)),
        }
    }
}

/// As the configuration names it: `sha256`.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        })
    }
}

/// A MAC or digest, received or computed.
#[derive(Clone, Copy)]
pub struct Tag {
    len: u8,
    bytes: [u8; MAX_TAG],
}

impl Tag {
    /// Takes at most [`MAX_TAG`] bytes.
    pub(crate) fn new(from: &[u8]) -> Self {
        let len = from.len().min(MAX_TAG);
        let mut bytes = [0; MAX_TAG];
        bytes[..len].copy_from_slice(&from[..len]);
        Self { len: len as u8, bytes }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The first 32 bytes, zero padded: what the replay guard remembers.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut print = [0; 32];
        print.copy_from_slice(&self.bytes[..32]);
        print
    }

    fn matches(&self, other: &Self) -> Choice {
        self.len.ct_eq(&other.len) & self.bytes.ct_eq(&other.bytes)
    }
}

/// An expected MAC is as good as a secret: not printed.
impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} bytes]", self.len)
    }
}

/// Does any expected MAC equal any received one? Looks at all pairs, whichever match.
pub(crate) fn any_match(expected: &[Tag], received: &[Tag]) -> bool {
    let mut any = Choice::from(0);
    for expected in expected {
        for received in received {
            any |= expected.matches(received);
        }
    }
    any.into()
}

/// Does a text stand before a secret in the order of their bytes? Takes as long wherever they part.
fn is_before(text: &[u8], secret: &[u8]) -> Choice {
    let letter = |from: &[u8], at: usize| from.get(at).map_or(0, |byte| u16::from(*byte) + 1);
    let (mut before, mut decided) = (Choice::from(0), Choice::from(0));
    for at in 0..text.len().max(secret.len()) {
        let (left, right) = (letter(text, at), letter(secret, at));
        before |= right.ct_gt(&left) & !decided;
        decided |= !left.ct_eq(&right);
    }
    before
}

macro_rules! keyed {
    ($($variant:ident($hash:ty)),+) => {
        /// HMAC with the key already taken in, so that a request costs a copy instead of two hash blocks.
        #[derive(Clone)]
        enum Keyed { $($variant(Hmac<$hash>),)+ }

        impl Keyed {
            fn new(hash: Hash, key: &[u8]) -> Option<Self> {
                match hash {
                    $(Hash::$variant => <Hmac<$hash>>::new_from_slice(key).ok().map(Self::$variant),)+
                }
            }

            fn update(&mut self, bytes: &[u8]) {
                match self { $(Self::$variant(mac) => mac.update(bytes),)+ }
            }

            fn finish(self) -> Tag {
                match self { $(Self::$variant(mac) => Tag::new(&mac.finalize().into_bytes()),)+ }
            }
        }

        /// A plain digest under way.
        #[derive(Clone)]
        enum Plain { $($variant($hash),)+ }

        impl Plain {
            fn new(hash: Hash) -> Self {
                match hash { $(Hash::$variant => Self::$variant(<$hash>::new()),)+ }
            }

            fn update(&mut self, bytes: &[u8]) {
                match self { $(Self::$variant(digest) => Digest::update(digest, bytes),)+ }
            }

            fn finish(self) -> Tag {
                match self { $(Self::$variant(digest) => Tag::new(&digest.finalize()),)+ }
            }
        }
    };
}

keyed!(Md5(Md5), Sha1(Sha1), Sha256(Sha256), Sha384(Sha384), Sha512(Sha512));

/// A secret made ready for one scheme.
#[derive(Clone)]
pub(crate) struct Key(Kind);

#[derive(Clone)]
enum Kind {
    /// With the secret where it stands in the text as well.
    Hmac(Box<Keyed>, Option<SecretBytes>),
    Digest(Hash, SecretBytes),
    Shared {
        digest: Tag,
        secret: SecretBytes,
    },
}

impl Key {
    /// For an HMAC. `None` if the key is refused, which HMAC never does.
    pub(crate) fn hmac(hash: Hash, key: &[u8]) -> Option<Self> {
        Keyed::new(hash, key).map(|keyed| Self(Kind::Hmac(Box::new(keyed), None)))
    }

    /// For an HMAC over a text that holds its own key.
    pub(crate) fn hmac_over_itself(hash: Hash, key: &[u8]) -> Option<Self> {
        let secret = SecretBytes::new(key.to_vec());
        Keyed::new(hash, key).map(|keyed| Self(Kind::Hmac(Box::new(keyed), Some(secret))))
    }

    /// For a plain digest over a text that holds the secret.
    pub(crate) fn digest(hash: Hash, key: Vec<u8>) -> Self {
        Self(Kind::Digest(hash, SecretBytes::new(key)))
    }

    /// For comparing with what the request holds.
    pub(crate) fn shared(secret: Vec<u8>) -> Self {
        Self(Kind::Shared { digest: Hash::Sha256.digest(&secret), secret: SecretBytes::new(secret) })
    }

    /// Starts a MAC.
    pub(crate) fn start(&self) -> State<'_> {
        match &self.0 {
            Kind::Hmac(keyed, secret) => State {
                secret: secret.as_ref().map(SecretBytes::expose).unwrap_or_default(),
                running: Running::Hmac((**keyed).clone()),
            },
            Kind::Digest(hash, secret) => {
                State { secret: secret.expose(), running: Running::Digest(Plain::new(*hash)) }
            }
            Kind::Shared { secret, .. } => {
                State { secret: secret.expose(), running: Running::Digest(Plain::new(Hash::Sha256)) }
            }
        }
    }

    /// Is what the request holds the shared secret? Digests are compared, so that the length does not show.
    pub(crate) fn is_shared(&self, received: &[u8]) -> bool {
        match &self.0 {
            Kind::Shared { digest, .. } => digest.matches(&Hash::Sha256.digest(received)).into(),
            Kind::Hmac(..) | Kind::Digest(..) => false,
        }
    }

    /// The secret itself, for signing as a sender of a shared secret does.
    pub(crate) fn expose_shared(&self) -> &[u8] {
        match &self.0 {
            Kind::Shared { secret, .. } => secret.expose(),
            Kind::Hmac(..) | Kind::Digest(..) => &[],
        }
    }
}

/// A secret made ready for HMACs whose hash the message names, out of these.
#[derive(Clone)]
pub(crate) struct HmacKeys(Box<[(Hash, Keyed)]>);

impl HmacKeys {
    pub(crate) fn new(hashes: impl Iterator<Item = Hash>, key: &[u8]) -> Option<Self> {
        let keyed = |hash: Hash| Keyed::new(hash, key).map(|keyed| (hash, keyed));
        hashes.map(keyed).collect::<Option<_>>().map(Self)
    }

    /// The HMAC of a text with one of these hashes. `None` for another one.
    pub(crate) fn mac(&self, hash: Hash, text: &[u8]) -> Option<Tag> {
        let mut keyed = self.0.iter().find(|(known, _)| *known == hash)?.1.clone();
        keyed.update(text);
        Some(keyed.finish())
    }
}

impl fmt::Debug for HmacKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A MAC or digest under way with one secret.
#[derive(Clone)]
pub(crate) struct State<'k> {
    secret: &'k [u8],
    running: Running,
}

#[derive(Clone)]
enum Running {
    Hmac(Keyed),
    Digest(Plain),
}

impl State<'_> {
    /// The next bytes of the signed text.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match &mut self.running {
            Running::Hmac(mac) => mac.update(bytes),
            Running::Digest(digest) => digest.update(bytes),
        }
    }

    /// The secret stands here in the signed text.
    pub(crate) fn update_secret(&mut self) {
        self.update(self.secret);
    }

    /// These values and the secret stand here in the order of their bytes.
    pub(crate) fn update_sorted(&mut self, mut values: Vec<std::borrow::Cow<'_, [u8]>>) {
        values.sort_unstable();
        let (before, after): (Vec<_>, Vec<_>) =
            values.into_iter().partition(|value| is_before(value, self.secret).into());
        before.iter().for_each(|value| self.update(value));
        self.update_secret();
        after.iter().for_each(|value| self.update(value));
    }

    pub(crate) fn finish(self) -> Tag {
        match self.running {
            Running::Hmac(mac) => mac.finish(),
            Running::Digest(digest) => digest.finish(),
        }
    }
}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 2202 and RFC 4231, test case 2.
    #[test]
    fn hmacs_are_those_of_the_rfcs() {
        for (hash, expected) in [
            (Hash::Sha1, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
            (Hash::Sha256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                Hash::Sha384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                Hash::Sha512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let key = Key::hmac(hash, b"Jefe").unwrap();
            let mut state = key.start();
            state.update(b"what do ya want ");
            state.update(b"for nothing?");
            let tag = state.finish();
            assert_eq!(hex::encode(tag.as_bytes()), expected);
            assert_eq!(tag.as_bytes().len(), hash.output_len());
        }
    }

    #[test]
    fn texts_are_ordered_as_bytes_are() {
        let texts: [&[u8]; 7] = [b"", b"a", b"ab", b"b", b"B", b"\0", b"\xff\xff"];
        for left in texts {
            for right in texts {
                assert_eq!(bool::from(is_before(left, right)), left < right, "{left:?} {right:?}");
            }
        }
        // The order is the one that WeChat sorts in: digits, capitals, small letters.
        let key = Key::digest(Hash::Sha1, b"token".to_vec());
        let mut state = key.start();
        state.update_sorted(vec![b"zebra"[..].into(), b"17"[..].into(), b"Apple"[..].into()]);
        assert_eq!(state.finish().as_bytes(), Hash::Sha1.digest(b"17Appletokenzebra").as_bytes());
    }

    #[test]
    fn tags_of_different_length_never_match() {
        assert!(any_match(&[Tag::new(&[0; 20])], &[Tag::new(&[1; 20]), Tag::new(&[0; 20])]));
        assert!(!any_match(&[Tag::new(&[0; 20])], &[Tag::new(&[0; 32]), Tag::new(&[])]));
        assert!(!any_match(&[Tag::new(&[0; 20])], &[]));
    }

    #[test]
    fn debug_output_holds_no_key_and_no_mac() {
        let key = Key::shared(b"topsecret".to_vec());
        assert_eq!(format!("{key:?} {:?} {:?}", key.start(), Tag::new(b"mac")), "[redacted] [redacted] [3 bytes]");
    }
}
