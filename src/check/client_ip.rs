//! Which address does a request count for?

use crate::check::allowlist::NetSet;
use crate::reject::Reject;
use crate::request::{ClientIp, Headers, Peer};

/// The socket's peer, or behind trusted proxies the right-most hop that is not one of them.
/// A unix-socket peer counts as trusted.
pub fn client_ip(peer: &Peer, headers: &Headers<'_>, trusted: &NetSet) -> Result<ClientIp, Reject> {
    let _ = (peer, headers, trusted);
    unimplemented!()
}
