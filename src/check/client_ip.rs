//! Which address does a request count for?
//!
//! The socket's peer, unless that is one of `trusted_proxies`. Then what it appended to X-Forwarded-For (or Forwarded,
//! RFC 7239) counts, read from the right: the right-most hop that is not itself trusted. What stands further left was
//! written by the sender and is never believed. Where every hop is trusted, the request began inside, and the
//! left-most (furthest) hop counts.
//!
//! Fail closed: a hop that has to be looked at and is no plain address (`unknown`, `_hidden`, `010.0.0.1`,
//! `fe80::1%eth0`, an empty element) makes the address unknown. So does a request that carries both headers with
//! different answers, since one of the two then came past the proxy untouched.

use crate::check::allowlist::NetSet;
use crate::reject::{Reason, Reject};
use crate::request::{ClientIp, HeaderName, Headers, Peer};
use http::header::FORWARDED;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hops looked at in one header. Real chains have a handful.
const MAX_HOPS: usize = 64;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Are this peer's forwarding headers believed? A unix-socket peer counts as trusted: who may open the socket is
/// decided by the file's mode.
pub fn is_trusted(peer: &Peer, trusted: &NetSet) -> bool {
    peer.address.is_none_or(|address| trusted.contains(address))
}

/// The socket's peer, or behind trusted proxies the right-most hop that is not one of them.
/// A unix-socket peer counts as trusted.
pub fn client_ip(peer: &Peer, headers: &Headers<'_>, trusted: &NetSet) -> Result<ClientIp, Reject> {
    if let Some(address) = peer.address.filter(|_| !is_trusted(peer, trusted)) {
        return Ok(ClientIp::new(address));
    }
    let listed = from_x_forwarded_for(headers, trusted)?;
    let forwarded = from_forwarded(headers, trusted)?;
    let said = match (listed, forwarded) {
        (Some(listed), Some(forwarded)) if listed != forwarded => {
            return Err(unknown(format!("X-Forwarded-For says {listed}, Forwarded says {forwarded}")));
        }
        (listed, forwarded) => listed.or(forwarded),
    };
    match said.or(peer.address) {
        Some(address) => Ok(ClientIp::new(address)),
        None => Err(unknown("the peer is a unix socket and sent neither X-Forwarded-For nor Forwarded")),
    }
}

/// One element of a Forwarded header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forwarded<'a> {
    pub(super) node: Option<&'a [u8]>,
    pub(super) proto: Option<&'a [u8]>,
}

/// The elements of one Forwarded field line, strictly by the grammar of RFC 7239 section 4. `None` ends the walk at
/// the first fault. The whole line is read, not only its end: a quote opened on the left could otherwise swallow
/// what the proxy appended.
pub(super) fn forwarded(line: &[u8]) -> impl Iterator<Item = Option<Forwarded<'_>>> {
    let mut rest = Some(line);
    std::iter::from_fn(move || match element(rest.take()?) {
        Some((element, after)) => {
            rest = after;
            Some(Some(element))
        }
        None => Some(None),
    })
}

fn element(mut text: &[u8]) -> Option<(Forwarded<'_>, Option<&[u8]>)> {
    let mut out = Forwarded::default();
    text = skip_blanks(text);
    loop {
        let (name, after) = token(text)?;
        let (value, after) = value(after.strip_prefix(b"=")?)?;
        let place = match name {
            name if name.eq_ignore_ascii_case(b"for") => Some(&mut out.node),
            name if name.eq_ignore_ascii_case(b"proto") => Some(&mut out.proto),
            _ => None,
        };
        if place.is_some_and(|place| place.replace(value).is_some()) {
            return None;
        }
        let after = skip_blanks(after);
        match after.split_first() {
            None => return Some((out, None)),
            Some((b',', after)) => return Some((out, Some(after))),
            Some((b';', after)) => text = skip_blanks(after),
            Some(_) => return None,
        }
    }
}

fn token(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| !is_token_byte(*byte)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A token, or the inside of a quoted string. Escapes are left as they stand: no address or scheme has any.
fn value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else { return token(text) };
    let mut escaped = false;
    for (index, byte) in quoted.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((quoted.get(..index)?, quoted.get(index + 1..)?)),
            _ => {}
        }
    }
    None
}

/// `tchar` of RFC 9110.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    TOKEN.get(usize::from(byte)).is_some_and(|token| *token)
}

/// Every byte of every field's name is looked up.
static TOKEN: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0u8);
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

fn skip_blanks(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

/// The walk from right to left, done in one pass from left to right so that nothing has to be collected: every hop
/// that is untrusted or unreadable replaces what was found further left; a trusted one only counts when it is first.
struct Walk<'s> {
    trusted: &'s NetSet,
    hops: usize,
    found: Option<Result<IpAddr, Reject>>,
}

impl<'s> Walk<'s> {
    fn new(trusted: &'s NetSet) -> Self {
        Self { trusted, hops: 0, found: None }
    }

    fn hop(&mut self, header: &'static str, address: Option<IpAddr>) -> Result<(), Reject> {
        self.hops += 1;
        if self.hops > MAX_HOPS {
            return Err(unknown(format!("{header} has more than {MAX_HOPS} hops")));
        }
        match address {
            Some(address) if self.found.is_some() && self.trusted.contains(address) => {}
            Some(address) => self.found = Some(Ok(address)),
            None => self.found = Some(Err(unknown(format!("hop {} of {header} is not an address", self.hops)))),
        }
        Ok(())
    }

    fn end(self) -> Result<Option<IpAddr>, Reject> {
        self.found.transpose()
    }
}

fn from_x_forwarded_for(headers: &Headers<'_>, trusted: &NetSet) -> Result<Option<IpAddr>, Reject> {
    let mut walk = Walk::new(trusted);
    for line in headers.all(&X_FORWARDED_FOR) {
        for entry in line.split(|byte| *byte == b',') {
            walk.hop("X-Forwarded-For", listed_address(entry.trim_ascii()))?;
        }
    }
    walk.end()
}

fn from_forwarded(headers: &Headers<'_>, trusted: &NetSet) -> Result<Option<IpAddr>, Reject> {
    let mut walk = Walk::new(trusted);
    for line in headers.all(&FORWARDED) {
        for element in forwarded(line) {
            let element = element.ok_or_else(|| unknown("Forwarded does not have the form of RFC 7239"))?;
            walk.hop("Forwarded", element.node.and_then(node_address))?;
        }
    }
    walk.end()
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:4711`.
fn listed_address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?;
    match text.parse::<Ipv6Addr>() {
        Ok(address) => Some(IpAddr::V6(address).to_canonical()),
        Err(_) => node_address(entry),
    }
}

/// A node of RFC 7239, where IPv6 stands in brackets.
fn node_address(node: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(node).ok()?;
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), after)
        }
        None => {
            let (address, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            (IpAddr::V4(address.parse::<Ipv4Addr>().ok()?), port)
        }
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then(|| address.to_canonical())
}

/// One to five digits that make a port number.
pub(super) fn is_port(text: &str) -> bool {
    (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok()
}

fn unknown(detail: impl Into<std::borrow::Cow<'static, str>>) -> Reject {
    Reason::AddressUnknown.because(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::allowlist::parse_net;
    use proptest::prelude::*;

    const PROXY: &str = "10.0.0.1";

    fn trusted() -> NetSet {
        NetSet::new(["10.0.0.0/8", "2001:db8:aaaa::/48"].map(|net| parse_net(net).unwrap()))
    }

    fn asked(peer: Option<&str>, headers: &[(&str, &str)]) -> Result<String, Reason> {
        let peer = Peer {
            address: peer.map(|peer| peer.parse::<IpAddr>().unwrap().to_canonical()),
            tls: false,
            identity: None,
        };
        let list: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        client_ip(&peer, &Headers::List(&list), &trusted()).map(|ip| ip.to_string()).map_err(|reject| reject.reason)
    }

    #[test]
    fn the_right_most_untrusted_hop_counts() {
        for (peer, headers, expected) in [
            // No proxy, or none that is trusted: the peer, whatever the headers say.
            (Some("192.0.2.1"), &[][..], "192.0.2.1"),
            (Some("192.0.2.1"), &[("X-Forwarded-For", "10.0.0.9"), ("Forwarded", "for=10.0.0.9")], "192.0.2.1"),
            (Some("192.0.2.1"), &[("X-Forwarded-For", "rubbish")], "192.0.2.1"),
            // A trusted one that says nothing.
            (Some(PROXY), &[("X-Real-IP", "192.0.2.1"), ("CF-Connecting-IP", "192.0.2.1")], PROXY),
            // What it appended.
            (Some(PROXY), &[("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
            (Some("::ffff:10.0.0.1"), &[("x-forwarded-for", "192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "198.51.100.7, 192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "198.51.100.7,\t192.0.2.1 , 10.1.1.1,10.0.0.2")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "unknown, , 192.0.2.1, 10.1.1.1")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "10.0.0.3")], "192.0.2.1"),
            // Every hop trusted: the furthest.
            (Some(PROXY), &[("X-Forwarded-For", "10.0.0.7, 10.0.0.8")], "10.0.0.7"),
            (None, &[("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
            // Spellings.
            (Some(PROXY), &[("X-Forwarded-For", "192.0.2.1:65535")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "2001:DB8::1")], "2001:db8::1"),
            (Some(PROXY), &[("X-Forwarded-For", "[2001:db8::1]")], "2001:db8::1"),
            (Some(PROXY), &[("X-Forwarded-For", "[2001:db8::1]:443")], "2001:db8::1"),
            (Some(PROXY), &[("X-Forwarded-For", "::ffff:192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "192.0.2.1, ::ffff:10.0.0.2")], "192.0.2.1"),
            (Some(PROXY), &[("X-Forwarded-For", "64:ff9b::192.0.2.1")], "64:ff9b::c000:201"),
            (Some(PROXY), &[("Forwarded", "for=192.0.2.1;proto=https")], "192.0.2.1"),
            (Some(PROXY), &[("Forwarded", "For=\"[2001:db8::1]:443\" ; by=_x, for=10.0.0.2")], "2001:db8::1"),
            (Some(PROXY), &[("Forwarded", "for=unknown, for=\"192.0.2.1:80\"")], "192.0.2.1"),
            (Some(PROXY), &[("Forwarded", "for=192.0.2.1;host=a;by=b;proto=https;host=c")], "192.0.2.1"),
            (Some(PROXY), &[("Forwarded", "x=\"a\\\"b\\\\\";for=192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("Forwarded", "for=1.1.1.1"), ("Forwarded", "for=192.0.2.1")], "192.0.2.1"),
            (Some(PROXY), &[("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "1.1.1.1, 192.0.2.1")], "192.0.2.1"),
        ] {
            assert_eq!(asked(peer, headers).as_deref(), Ok(expected), "{peer:?} {headers:?}");
        }
    }

    #[test]
    fn a_hop_that_cannot_be_read_makes_the_address_unknown() {
        let entries = [
            "",
            " ",
            "unknown",
            "_hidden",
            "0300.0.2.1",
            "192.0.02.1",
            "192.0.2",
            "3221225985",
            "0xC0000201",
            "192.0.2.1.",
            "192.0.2.256",
            "192.0.2.1:",
            "192.0.2.1:65536",
            "192.0.2.1:+80",
            "192.0.2.1:8080:1",
            "192.0.2.1/32",
            "fe80::1%eth0",
            "[fe80::1%25eth0]",
            "[192.0.2.1]",
            "[2001:db8::1",
            "2001:db8::1]",
            "[2001:db8::1]443",
            "[2001:db8::1]:",
            "2001:db8::1::",
            "::192.0.2.1.5",
            "\"192.0.2.1\"",
            "192.0.2.1 10.0.0.1",
            "example.com",
            "192.0.2.1;",
            "１９２.0.2.1",
        ];
        for entry in entries {
            for value in
                [entry.to_owned(), format!("198.51.100.7, {entry}"), format!("198.51.100.7, {entry}, 10.0.0.2")]
            {
                let answer = asked(Some(PROXY), &[("X-Forwarded-For", &value)]);
                assert_eq!(answer, Err(Reason::AddressUnknown), "X-Forwarded-For: {value}");
            }
        }
        for value in [
            "",
            "for",
            "for=",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1:80",
            "for=[2001:db8::1]",
            "for=\"2001:db8::1\"",
            "for=2001:db8::1",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=192.0.2.1;for=192.0.2.1",
            "for=192.0.2.1;",
            "for=192.0.2.1,",
            ",for=192.0.2.1",
            "for=192.0.2.1 proto=https",
            "proto=https",
            "for=unknown",
            "for=_x",
            "for=\"192\\.0.2.1\"",
            "for=192.0.2.1;=x",
            "for=192.0.2.1, x=\", for=\"10.0.0.2\"",
        ] {
            assert_eq!(asked(Some(PROXY), &[("Forwarded", value)]), Err(Reason::AddressUnknown), "Forwarded: {value}");
        }
    }

    #[test]
    fn headers_that_disagree_make_the_address_unknown() {
        let headers = [("Forwarded", "for=198.51.100.7"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(asked(Some(PROXY), &headers), Err(Reason::AddressUnknown));
        assert_eq!(asked(None, &[]), Err(Reason::AddressUnknown));
    }

    #[test]
    fn the_number_of_hops_is_bounded() {
        let hops = |count| vec!["10.0.0.2"; count].join(",");
        assert_eq!(asked(Some(PROXY), &[("X-Forwarded-For", &hops(64))]).as_deref(), Ok("10.0.0.2"));
        assert_eq!(asked(Some(PROXY), &[("X-Forwarded-For", &hops(65))]), Err(Reason::AddressUnknown));
    }

    fn hop() -> impl Strategy<Value = String> {
        prop_oneof![
            (0u8..4).prop_map(|n| format!("10.0.0.{n}")),
            (0u8..4).prop_map(|n| format!("192.0.2.{n}")),
            (0u8..4).prop_map(|n| format!("2001:db8:aaaa::{n}")),
            (0u8..4).prop_map(|n| format!("[2001:db8:bbbb::{n}]:80")),
        ]
    }

    proptest! {
        #[test]
        fn a_forged_left_part_never_counts(left in "\\PC{0,60}", right in prop::collection::vec(hop(), 0..4), client in 0u8..255) {
            let appended = std::iter::once(format!("198.51.100.{client}"))
                .chain(right.into_iter().filter(|hop| hop.starts_with("10.") || hop.contains("aaaa")))
                .collect::<Vec<_>>()
                .join(", ");
            prop_assume!(left.matches(',').count() < 50);
            let value = format!("{left}, {appended}");
            prop_assert_eq!(asked(Some(PROXY), &[("X-Forwarded-For", &value)]), Ok(format!("198.51.100.{client}")));
        }

        #[test]
        fn a_trusted_address_only_counts_when_no_hop_is_untrusted(hops in prop::collection::vec(hop(), 1..8)) {
            let found = asked(Some(PROXY), &[("X-Forwarded-For", &hops.join(","))]).unwrap();
            let addresses: Vec<IpAddr> = hops.iter().map(|hop| listed_address(hop.as_bytes()).unwrap()).collect();
            let expected = addresses.iter().rev().find(|ip| !trusted().contains(**ip)).unwrap_or(&addresses[0]);
            prop_assert_eq!(found, expected.to_string());
        }

        #[test]
        fn an_untrusted_peer_is_never_asked(value in "\\PC{0,80}", name in "(?i)x-forwarded-for|forwarded") {
            prop_assert_eq!(asked(Some("203.0.113.5"), &[(&name, &value)]), Ok("203.0.113.5".to_owned()));
        }

        #[test]
        fn a_quote_opened_on_the_left_never_hides_the_appended_element(left in "[a-z0-9=\";,.\\\\ ]{0,40}", port: u16) {
            let value = format!("{left}, for=\"[2001:db8::1]:{port}\";proto=https");
            let answer = asked(Some(PROXY), &[("Forwarded", &value)]);
            prop_assert!(matches!(answer.as_deref(), Ok("2001:db8::1") | Err(Reason::AddressUnknown)), "{:?}", answer);
        }
    }
}
