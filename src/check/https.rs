//! Did the request travel encrypted all the way?
//!
//! What a trusted proxy says is decisive even over our own TLS: the sender spoke with the proxy, and if that heard it in
//! plain, re-encrypting the last hop does not help. X-Forwarded-Ssl, Front-End-Https and their kin are not looked at.

use crate::check::allowlist::NetSet;
use crate::check::client_ip::{forwarded, is_trusted};
use crate::request::{HeaderName, Headers, Peer};
use http::header::FORWARDED;

static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// True over own TLS, or when a trusted proxy says so with exactly `https` in every value of X-Forwarded-Proto
/// (and in every element of Forwarded, if those have a `proto`). False when a trusted proxy says anything else.
pub fn is_secure(peer: &Peer, headers: &Headers<'_>, trusted: &NetSet) -> bool {
    if !is_trusted(peer, trusted) {
        return peer.tls;
    }
    match (by_x_forwarded_proto(headers), by_forwarded(headers)) {
        (None, None) => peer.tls,
        // Both, or the one that is there. A proxy sets one of the two, so the other may be the sender's own.
        (one, other) => one.unwrap_or(true) && other.unwrap_or(true),
    }
}

/// `None` where the header does not stand.
fn by_x_forwarded_proto(headers: &Headers<'_>) -> Option<bool> {
    headers
        .all(&X_FORWARDED_PROTO)
        .flat_map(|line| line.split(|byte| *byte == b','))
        .map(|value| value.trim_ascii() == b"https")
        .reduce(|all, this| all && this)
}

/// `None` where no element has a `proto`. Once one has, each must: the nearest proxy may be the one that is silent.
fn by_forwarded(headers: &Headers<'_>) -> Option<bool> {
    let (mut any, mut all) = (false, true);
    for element in headers.all(&FORWARDED).flat_map(forwarded) {
        let Some(element) = element else { return Some(false) };
        any |= element.proto.is_some();
        all &= element.proto.is_some_and(|proto| proto.eq_ignore_ascii_case(b"https"));
    }
    any.then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::allowlist::parse_net;

    fn secure(peer: Option<&str>, tls: bool, headers: &[(&str, &str)]) -> bool {
        let trusted = NetSet::new([parse_net("10.0.0.0/8").unwrap()]);
        let list: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        is_secure(
            &Peer { address: peer.map(|ip| ip.parse().unwrap()), tls, identity: None },
            &Headers::List(&list),
            &trusted,
        )
    }

    #[test]
    fn an_untrusted_peer_is_judged_by_its_own_connection() {
        for headers in [&[][..], &[("X-Forwarded-Proto", "https")], &[("X-Forwarded-Proto", "http")]] {
            assert!(secure(Some("192.0.2.1"), true, headers) && !secure(Some("192.0.2.1"), false, headers));
        }
    }

    #[test]
    fn a_trusted_proxy_decides_with_every_value() {
        for (headers, expected) in [
            (&[("X-Forwarded-Proto", "https")][..], true),
            (&[("x-forwarded-proto", "https , https")], true),
            (&[("x-forwarded-proto", "HTTPS")], false),
            (&[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "https")], true),
            (&[("Forwarded", "for=192.0.2.1;proto=https")], true),
            (&[("Forwarded", "proto=\"https\", for=192.0.2.1; proto=HTTPS")], true),
            (&[("Forwarded", "for=192.0.2.1;proto=https"), ("X-Forwarded-Proto", "https")], true),
            (&[("Forwarded", "for=192.0.2.1"), ("X-Forwarded-Proto", "https")], true),
            (&[("X-Forwarded-Proto", "http")], false),
            (&[("X-Forwarded-Proto", "")], false),
            (&[("X-Forwarded-Proto", "https,")], false),
            (&[("X-Forwarded-Proto", "https, http")], false),
            (&[("X-Forwarded-Proto", "http, https")], false),
            (&[("X-Forwarded-Proto", "https"), ("X-Forwarded-Proto", "http")], false),
            (&[("X-Forwarded-Proto", "https://")], false),
            (&[("X-Forwarded-Proto", "https;q=1")], false),
            (&[("X-Forwarded-Proto", "wss")], false),
            (&[("X-Forwarded-Proto", "\"https\"")], false),
            (&[("Forwarded", "proto=https, for=192.0.2.1")], false),
            (&[("Forwarded", "proto=http")], false),
            (&[("Forwarded", "proto=https;proto=https")], false),
            (&[("Forwarded", "rubbish"), ("X-Forwarded-Proto", "https")], false),
            (&[("Forwarded", "proto=http"), ("X-Forwarded-Proto", "https")], false),
        ] {
            for tls in [true, false] {
                assert_eq!(secure(Some("10.0.0.1"), tls, headers), expected, "{headers:?}");
                assert_eq!(secure(None, tls, headers), expected, "{headers:?}");
            }
        }
    }

    #[test]
    fn a_silent_proxy_leaves_it_to_the_connection() {
        for headers in [
            &[][..],
            &[("Forwarded", "for=192.0.2.1")],
            &[
                ("X-Forwarded-Ssl", "on"),
                ("Front-End-Https", "on"),
                ("X-Forwarded-Scheme", "https"),
                ("X-Scheme", "https"),
            ],
        ] {
            assert!(secure(Some("10.0.0.1"), true, headers) && !secure(Some("10.0.0.1"), false, headers));
        }
    }
}
