//! What a handshake's answer is computed from.

use super::text::{Inputs, Text};
use super::{Charset, Place, Setting};
use crate::check::signature::primitives::{self, decrypt_cbc, encrypt_cbc, sign_ed25519_repeated};
use crate::check::signature::{Encoding, Hash};
use base64::engine::general_purpose::{self, GeneralPurpose};
use base64::{Engine as _, alphabet};
use zeroize::Zeroizing;

/// A value with a name, made from the request and the route's secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Computed {
    /// What texts call it.
    pub name: Box<str>,
    /// How it is made.
    pub operation: Operation,
    /// With which key, where one is needed.
    pub key: Option<KeyOf>,
    /// Of what; several for [`Operation::SortedDigest`].
    pub over: Box<[Text]>,
    /// How its bytes are written; `None`: as they are.
    pub encoding: Option<Encoding>,
}

/// How a value is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// HMAC with the key.
    Hmac(Hash),
    /// A plain digest.
    Digest(Hash),
    /// A plain digest of texts in the order of their bytes, joined (WeChat and its kin).
    SortedDigest(Hash),
    /// Ed25519 with the key that the secret stands for, repeated to 32 bytes (QQ).
    Ed25519Repeated,
    /// Base64 of a message that was encrypted like this.
    Decrypt(Cipher),
    /// Encrypts like this.
    Encrypt(Cipher),
}

/// The ways in which senders encrypt messages. Both are AES-256-CBC with PKCS#7.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// The key is the SHA-256 of a text; the first 16 bytes are the IV (Lark).
    Lark,
    /// The key is 43 letters of base64, the IV its first 16 bytes; inside stand 16 random bytes, a length, the message
    /// and the receiver's ID, which has to be `app_id` (WeCom, WeChat, DingTalk).
    Wechat,
}

/// Which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// The route's secret.
    Secret,
    /// A value from the configuration.
    Setting(Setting),
    /// The digest of another.
    Digest(Hash, Box<KeyOf>),
}

impl KeyOf {
    fn needs(&self, setting: Setting) -> bool {
        match self {
            Self::Secret => false,
            Self::Setting(known) => *known == setting,
            Self::Digest(_, inner) => inner.needs(setting),
        }
    }

    fn bytes(&self, inputs: &Inputs<'_>) -> Result<Zeroizing<Vec<u8>>, String> {
        Ok(match self {
            Self::Secret => Zeroizing::new(inputs.secret()?.to_vec()),
            Self::Setting(setting) => {
                Zeroizing::new(inputs.setting(*setting).map_err(|_| "a setting is missing")?.to_vec())
            }
            Self::Digest(hash, inner) => Zeroizing::new(hash.digest(&inner.bytes(inputs)?).as_bytes().to_vec()),
        })
    }
}

impl Computed {
    pub(super) fn needs_body(&self, values: &[Self]) -> bool {
        self.over.iter().flat_map(Text::places).any(|place| match place {
            // A value is only made of those before it.
            Place::Value(index, _) if values.get(*index).is_some_and(|other| other.name == self.name) => false,
            place => place.needs_body(values),
        })
    }

    pub(super) fn needs(&self, setting: Setting) -> bool {
        use super::Part;
        self.key.as_ref().is_some_and(|key| key.needs(setting))
            || self.over.iter().any(|text| text.parts().contains(&Part::Setting(setting)))
            || (setting == Setting::AppId
                && matches!(self.operation, Operation::Decrypt(Cipher::Wechat) | Operation::Encrypt(Cipher::Wechat)))
    }

    pub(super) fn texts(&self) -> &[Text] {
        &self.over
    }

    pub(super) fn compute(&self, inputs: &Inputs<'_>) -> Result<Vec<u8>, String> {
        let key = self.key.as_ref().map(|key| key.bytes(inputs)).transpose()?.unwrap_or_default();
        if !matches!(self.operation, Operation::Decrypt(_)) && inputs.is_unproved() {
            for place in self.over.iter().flat_map(Text::places) {
                let value = inputs.read(place)?.unwrap_or_default();
                if matches!(place, Place::Request(_)) && (value.len() > MAX_CHALLENGE || !Charset::Token.holds(&value))
                {
                    return Err(
                        "nobody has proved who asks, and the challenge could be something that is signed".into()
                    );
                }
            }
        }
        let mut over: Vec<Vec<u8>> = self.over.iter().map(|text| inputs.bytes(text)).collect::<Result<_, _>>()?;
        if matches!(self.operation, Operation::SortedDigest(_)) {
            over.sort_unstable();
        }
        let over = Zeroizing::new(over.concat());
        let made = match self.operation {
            Operation::Hmac(hash) => primitives::hmac(hash, &key, &over),
            Operation::Digest(hash) | Operation::SortedDigest(hash) => hash.digest(&over).as_bytes().to_vec(),
            Operation::Ed25519Repeated => sign_ed25519_repeated(&key, &over).ok_or("the secret is empty")?,
            Operation::Decrypt(cipher) => cipher.decrypt(&key, &over, inputs)?,
            Operation::Encrypt(cipher) => cipher.encrypt(&key, &over, inputs)?,
        };
        Ok(match self.encoding {
            None => made,
            Some(encoding) => encoding.encode(&made).into_bytes(),
        })
    }
}

/// The longest challenge of somebody who has proved nothing.
const MAX_CHALLENGE: usize = 256;

/// All ways to fail look alike: whoever sends ciphertexts of his own learns nothing from the answers.
const BROKEN: &str = "the message cannot be decrypted";

impl Cipher {
    fn decrypt(self, key: &[u8], message: &[u8], inputs: &Inputs<'_>) -> Result<Vec<u8>, String> {
        let message = Encoding::Base64.decode_all(message).ok_or(BROKEN)?;
        match self {
            Self::Lark => {
                let (iv, message) = message.split_at_checked(16).ok_or(BROKEN)?;
                Ok(decrypt_cbc(key, iv, message, 16).ok_or(BROKEN)?)
            }
            Self::Wechat => {
                let key = wechat_key(key)?;
                let plain = decrypt_cbc(&key, key.get(..16).ok_or(BROKEN)?, &message, 32).ok_or(BROKEN)?;
                let (length, rest) = plain.get(16..).and_then(|rest| rest.split_at_checked(4)).ok_or(BROKEN)?;
                let length = length.try_into().map(u32::from_be_bytes).map_err(|_| BROKEN)?;
                let (text, receiver) = rest.split_at_checked(length as usize).ok_or(BROKEN)?;
                let expected = inputs.setting(Setting::AppId).map_err(|_| "app_id is missing")?;
                if !primitives::same_bytes(receiver, expected) {
                    return Err(BROKEN.into());
                }
                Ok(text.to_vec())
            }
        }
    }

    fn encrypt(self, key: &[u8], text: &[u8], inputs: &Inputs<'_>) -> Result<Vec<u8>, String> {
        match self {
            Self::Lark => Err("Lark is never answered with a message of ours".into()),
            Self::Wechat => {
                let key = wechat_key(key)?;
                let app_id = inputs.setting(Setting::AppId).map_err(|_| "app_id is missing")?;
                let length = u32::try_from(text.len()).map_err(|_| "too long")?;
                // The sender repeats these bytes to nobody; that they depend on the time keeps answers from repeating.
                let salt = primitives::hmac(Hash::Sha256, &key, &inputs.now().unix.as_nanos().to_be_bytes());
                let salt = salt.get(..16).ok_or(BROKEN)?;
                let plain = [salt, &length.to_be_bytes()[..], text, app_id].concat();
                Ok(encrypt_cbc(&key, key.get(..16).ok_or(BROKEN)?, &plain, 32).ok_or(BROKEN)?)
            }
        }
    }
}

/// 43 letters of base64 are 32 bytes and two bits. The senders choose their letters without care for those.
fn wechat_key(written: &[u8]) -> Result<Zeroizing<Vec<u8>>, String> {
    const LOOSE: GeneralPurpose =
        GeneralPurpose::new(&alphabet::STANDARD, general_purpose::NO_PAD.with_decode_allow_trailing_bits(true));
    let key = LOOSE.decode(written).ok().map(Zeroizing::new);
    key.filter(|key| key.len() == 32).ok_or_else(|| "the encryption key is not 43 letters of base64".into())
}
