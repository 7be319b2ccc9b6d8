//! Was the request signed by somebody who knows the secret, over these exact bytes, recently?

use crate::reject::Reject;
use crate::request::{Head, Now};
use crate::secret::Secret;

/// A compiled scheme.
#[derive(Debug)]
pub struct Scheme {}

/// A scheme with the secrets of one route.
#[derive(Debug)]
pub struct SignatureCheck {}

/// A verification under way: begun with the head, fed while the body arrives, finished when it is whole.
/// Owns what it read from the head.
#[derive(Debug)]
pub struct Verification<'c> {
    check: &'c SignatureCheck,
}

/// Evidence: the signature holds. Made by [`Verification::finish`] only.
#[derive(Debug)]
pub struct Verified {
    /// MACs over what was signed, one for each secret active now; what the replay guard remembers.
    /// Empty for schemes that sign nothing (tokens).
    pub content: Vec<[u8; 32]>,
}

impl SignatureCheck {
    /// Binds a scheme to a route's secrets. Errors name what is wrong with a secret or the missing public URL.
    pub fn new(scheme: Scheme, secrets: Vec<Secret>, public_url: Option<&str>) -> Result<Self, Vec<String>> {
        let _ = (scheme, secrets, public_url);
        unimplemented!()
    }

    /// Everything that the head alone decides: signature present and well formed, timestamp in the window.
    /// `secure` is whether the sender used https (for schemes that sign the URL without `public_url`).
    pub fn begin(&self, head: &Head<'_>, secure: bool, now: Now) -> Result<Verification<'_>, Reject> {
        let _ = (head, secure, now);
        unimplemented!()
    }
}

impl Verification<'_> {
    /// The next bytes of the body, in order. Hashes them at once where the scheme allows.
    pub fn update(&mut self, chunk: &[u8]) {
        let _ = chunk;
        unimplemented!()
    }

    /// The verdict over the whole body.
    pub fn finish(self, head: &Head<'_>, body: &[u8], now: Now) -> Result<Verified, Reject> {
        let _ = (head, body, now, self.check);
        unimplemented!()
    }
}
