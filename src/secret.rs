//! Secret bytes: wiped when dropped, never printed, never compared except in constant time.

use std::fmt;
use zeroize::Zeroizing;

/// Bytes that must not appear in any log, metric, error or `Debug` output (promise 5).
#[derive(Clone)]
pub struct SecretBytes(Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes over; the caller's buffer is the one that is wiped later.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that computes with them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A secret of a route with the time in which it counts.
#[derive(Clone, Debug)]
pub struct Secret {
    /// As configured, a final line end of a file already removed.
    pub bytes: SecretBytes,
    /// Not valid before, in seconds since 1970.
    pub from: Option<i64>,
    /// Not valid at or after, in seconds since 1970.
    pub until: Option<i64>,
    /// Where it came from (`env GITHUB_SECRET`, `file /run/secrets/x`): safe to show.
    pub origin: Box<str>,
}

impl Secret {
    /// A secret without a validity window.
    pub fn always(bytes: Vec<u8>, origin: &str) -> Self {
        Self { bytes: SecretBytes::new(bytes), from: None, until: None, origin: origin.into() }
    }

    /// Does it count at this time (seconds since 1970)?
    pub fn active(&self, unix: i64) -> bool {
        self.from.is_none_or(|from| unix >= from) && self.until.is_none_or(|until| unix < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let secret = Secret::always(b"topsecret".to_vec(), "env X");
        assert!(!format!("{secret:?}").contains("topsecret"));
        assert!(!format!("{secret:?}").contains("116")); // 't' as a number
    }

    #[test]
    fn validity_includes_its_start_and_excludes_its_end() {
        let secret = Secret { from: Some(10), until: Some(20), ..Secret::always(vec![1], "env X") };
        assert_eq!([9, 10, 19, 20].map(|at| secret.active(at)), [false, true, true, false]);
    }
}
