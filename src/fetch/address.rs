//! Which addresses may be spoken to: public ones, unless the configuration says otherwise.
//!
//! A name is resolved once, every address it has is judged, and the connection goes to one of those very addresses, so
//! that a name which answers differently the second time gains nothing. One address that may not be spoken to is enough
//! to refuse the name: no honest sender publishes such a one beside its own.

use crate::check::allowlist::NetSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why a name's addresses are refused, or nothing.
pub(crate) fn judge(addresses: &[SocketAddr], also: &NetSet) -> Result<(), String> {
    if addresses.is_empty() {
        return Err("the name has no address".into());
    }
    match addresses.iter().find(|address| !is_public(address.ip()) && !also.contains(address.ip())) {
        None => Ok(()),
        Some(address) => Err(format!(
            "the name leads to {}, which is not a public address; `fetch.allow_private` can allow it",
            address.ip()
        )),
    }
}

/// Is it an address of the public internet? By the special-purpose registries of IANA (RFC 6890 and its successors).
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !matches!(
        (a, b, c),
        (0 | 10 | 127, ..)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
            | (224.., ..)
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    // NAT64 and 6to4 hold an IPv4 address, and that is where the packet goes.
    let octets = address.octets();
    let embedded = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    if octets[..12] == [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0] {
        return is_public_v4(embedded(12));
    }
    match (a, b) {
        (0x2002, _) => is_public_v4(embedded(2)),
        // Protocol assignments (Teredo among them), documentation, SRv6.
        (0x2001, 0..=0x01ff) | (0x2001, 0x0db8) | (0x3fff, 0..=0x0fff) => false,
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        for (address, public) in [
            ("8.8.8.8", true),
            ("140.82.112.3", true),
            ("172.15.0.1", true),
            ("172.32.0.1", true),
            ("100.63.0.1", true),
            ("100.128.0.1", true),
            ("0.0.0.0", false),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("192.0.0.192", false),
            ("192.168.1.1", false),
            ("198.18.0.1", false),
            ("203.0.113.9", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("2606:50c0::153", true),
            ("2a00:1450:4001::200e", true),
            ("2620:fe::fe", true),
            ("::", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("::127.0.0.1", false),
            ("fc00::1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("2001::1", false),
            ("2001:db8::1", false),
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b:1::1", false),
            ("2002:7f00:1::", false),
            ("2002:808:808::", true),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn one_private_address_spoils_a_name() {
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 443);
        let also = NetSet::new(["10.0.0.0/8".parse().unwrap()]);
        assert!(judge(&[at("8.8.8.8"), at("10.0.0.1")], &also).is_ok());
        assert!(judge(&[at("8.8.8.8"), at("127.0.0.1")], &also).unwrap_err().contains("127.0.0.1"));
        assert!(judge(&[], &also).is_err());
    }
}
