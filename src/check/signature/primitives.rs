//! Computing with secrets outside of signatures: what handshakes answer with.

#![expect(clippy::disallowed_methods, reason = "this is a place where secrets are compared")]

use super::mac::Hash;
use aes::Aes256;
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockDecryptMut, BlockEncryptMut, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;
use ring::signature::Ed25519KeyPair;
use sha1::Sha1;
use sha2::{Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Are they the same? Takes as long wherever they differ; lengths do not show either.
pub(crate) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    Hash::Sha256.digest(one).as_bytes().ct_eq(Hash::Sha256.digest(other).as_bytes()).into()
}

/// An HMAC over one text.
pub(crate) fn hmac(hash: Hash, key: &[u8], text: &[u8]) -> Vec<u8> {
    macro_rules! with {
        ($hash:ty) => {
            // HMAC takes keys of every length.
            <Hmac<$hash>>::new_from_slice(key).map_or_else(
                |_| Vec::new(),
                |mut mac| {
                    mac.update(text);
                    mac.finalize().into_bytes().to_vec()
                },
            )
        };
    }
    match hash {
        Hash::Md5 => with!(Md5),
        Hash::Sha1 => with!(Sha1),
        Hash::Sha256 => with!(Sha256),
        Hash::Sha384 => with!(Sha384),
        Hash::Sha512 => with!(Sha512),
    }
}

/// An Ed25519 signature with the key whose seed is this secret, repeated to 32 bytes. `None` for an empty secret.
pub(crate) fn sign_ed25519_repeated(secret: &[u8], text: &[u8]) -> Option<Vec<u8>> {
    if secret.is_empty() {
        return None;
    }
    let seed: Zeroizing<Vec<u8>> = Zeroizing::new(secret.iter().copied().cycle().take(32).collect());
    Some(Ed25519KeyPair::from_seed_unchecked(&seed).ok()?.sign(text).as_ref().to_vec())
}

/// AES-256-CBC with PKCS#7 padding to `block` bytes. `None`: wrong key, length or padding.
pub(crate) fn decrypt_cbc(key: &[u8], iv: &[u8], message: &[u8], block: usize) -> Option<Vec<u8>> {
    let cipher = cbc::Decryptor::<Aes256>::new_from_slices(key, iv).ok()?;
    let mut plain = cipher.decrypt_padded_vec_mut::<NoPadding>(message).ok()?;
    let padding = usize::from(*plain.last()?);
    if !(1..=block).contains(&padding) || padding > plain.len() {
        return None;
    }
    let end = plain.len() - padding;
    let padded = plain.get(end..)?.iter().all(|byte| usize::from(*byte) == padding);
    plain.truncate(end);
    padded.then_some(plain)
}

/// The same the other way.
pub(crate) fn encrypt_cbc(key: &[u8], iv: &[u8], plain: &[u8], block: usize) -> Option<Vec<u8>> {
    let cipher = cbc::Encryptor::<Aes256>::new_from_slices(key, iv).ok()?;
    let padding = block - plain.len() % block;
    let mut padded = plain.to_vec();
    padded.resize(plain.len() + padding, u8::try_from(padding).ok()?);
    Some(cipher.encrypt_padded_vec_mut::<NoPadding>(&padded))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2, and `openssl enc -aes-256-cbc`.
    #[test]
    fn they_are_those_of_others() {
        let mac = hmac(Hash::Sha256, b"Jefe", b"what do ya want for nothing?");
        assert_eq!(hex::encode(mac), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let (key, iv) = ([7u8; 32], [9u8; 16]);
        for block in [16, 32] {
            for length in 0..70 {
                let plain = vec![b'x'; length];
                let secret = encrypt_cbc(&key, &iv, &plain, block).unwrap();
                assert_eq!(secret.len() % block, 0);
                assert_eq!(decrypt_cbc(&key, &iv, &secret, block), Some(plain));
            }
        }
        for (last, block, fine) in
            [(0, 32, false), (1, 32, true), (32, 32, false), (33, 32, false), (17, 16, false), (255, 32, false)]
        {
            let mut plain = [1; 32];
            plain[31] = last;
            let cipher = cbc::Encryptor::<Aes256>::new_from_slices(&key, &iv).unwrap();
            let secret = cipher.encrypt_padded_vec_mut::<NoPadding>(&plain);
            assert_eq!(decrypt_cbc(&key, &iv, &secret, block).is_some(), fine, "{last}");
        }
        assert_eq!(decrypt_cbc(&key, &iv, &[0; 15], 16), None);
        assert_eq!(decrypt_cbc(&key, &iv, &[], 16), None);
        assert_eq!(decrypt_cbc(&key[1..], &iv, &[0; 16], 16), None);
    }

    #[test]
    fn comparing_takes_all_of_both() {
        assert!(same_bytes(b"", b"") && same_bytes(b"ab", b"ab"));
        assert!(!same_bytes(b"ab", b"abc") && !same_bytes(b"", b"a") && !same_bytes(b"ab", b"aB"));
    }
}
