//! Signing for the backend: one Standard Webhooks key, so that it verifies one scheme whatever its senders use.

use super::mac::{Hash, Key};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// A key of <https://www.standardwebhooks.com/>: HMAC-SHA256 over `{id}.{timestamp}.{body}`.
pub struct StandardKey(Key);

impl fmt::Debug for StandardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandardKey([redacted])")
    }
}

impl StandardKey {
    /// Takes `whsec_` and base64, as libraries hand keys out. The specification wants 24 to 64 bytes.
    pub fn new(secret: &[u8]) -> Result<Self, &'static str> {
        const FORM: &str = "not a Standard Webhooks key: `whsec_` and the base64 of 24 to 64 random bytes";
        let encoded = secret.strip_prefix(b"whsec_").ok_or(FORM)?;
        let bytes = zeroize::Zeroizing::new(STANDARD.decode(encoded).map_err(|_| FORM)?);
        if !(24..=64).contains(&bytes.len()) {
            return Err(FORM);
        }
        Key::hmac(Hash::Sha256, &bytes).map(Self).ok_or(FORM)
    }

    /// The value of `webhook-signature`.
    pub fn sign(&self, id: &str, unix_seconds: u64, body: &[u8]) -> String {
        let mut mac = self.0.start();
        mac.update(id.as_bytes());
        mac.update(format!(".{unix_seconds}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finish().as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_as_the_specification_s_example() {
        // The example of the reference libraries.
        let key = StandardKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn refuses_what_is_no_key_and_shows_none() {
        for wrong in [&b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"[..], b"whsec_", b"whsec_c2hvcnQ=", b"whsec_!!", b""] {
            assert!(StandardKey::new(wrong).is_err(), "{wrong:?}");
        }
        let key = StandardKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        assert_eq!(format!("{key:?}"), "StandardKey([redacted])");
    }
}
