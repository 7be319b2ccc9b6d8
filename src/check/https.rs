//! Did the request travel encrypted all the way?

use crate::check::allowlist::NetSet;
use crate::request::{Headers, Peer};

/// True over own TLS, or when a trusted proxy says so with exactly `https` in every value of X-Forwarded-Proto.
pub fn is_secure(peer: &Peer, headers: &Headers<'_>, trusted: &NetSet) -> bool {
    let _ = (peer, headers, trusted);
    unimplemented!()
}
