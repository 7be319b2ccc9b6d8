//! Signatures made without the product's code, for tests that need one of their own.

use hmac::{Hmac, KeyInit, Mac};

/// Hex HMAC-SHA256.
pub fn hex_sha256(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("any key");
    for part in parts {
        mac.update(part);
    }
    hex::encode(mac.finalize().into_bytes())
}

/// Base64 HMAC-SHA256.
pub fn base64_sha256(secret: &str, parts: &[&[u8]]) -> String {
    use base64::Engine as _;
    let bytes = hex::decode(hex_sha256(secret, parts)).expect("hex");
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Hex HMAC-SHA1.
pub fn hex_sha1(secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).expect("any key");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The value of `X-Hub-Signature-256`.
pub fn github(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex_sha256(secret, &[body]))
}

/// The value of `webhook-signature` for a text `{id}.{timestamp}.{body}` (Standard Webhooks).
pub fn standard(key: &str, signed: &[u8]) -> String {
    use base64::Engine as _;
    let base64 = base64::engine::general_purpose::STANDARD;
    let key = base64.decode(key.trim_start_matches("whsec_")).expect("base64");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).expect("any key");
    mac.update(signed);
    format!("v1,{}", base64.encode(mac.finalize().into_bytes()))
}
