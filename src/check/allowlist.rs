//! Is the client's address one that this route accepts?
//!
//! Networks are kept as sorted, merged address ranges, IPv4 and IPv6 apart: a published list of 100,000 networks costs
//! two binary-search steps more than one of 25,000, and not a byte more than its ranges need. Addresses and networks
//! written as IPv4-mapped IPv6 (`::ffff:192.0.2.1`) count as the IPv4 they stand for, on both sides of the comparison.

use super::ranges::Ranges;
use crate::reject::{Reason, Reject};
use crate::request::ClientIp;
use ipnet::{IpNet, Ipv4Net};
use std::net::IpAddr;
use std::sync::Arc;

/// A set of networks, fast with 100,000 of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetSet {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

/// Networks a route accepts.
#[derive(Clone, Debug)]
pub enum Allowlist {
    /// No list was configured.
    Anyone,
    /// Only these. An empty set refuses everybody; it never means `Anyone`.
    Only(NetSet),
    /// These, and those that senders publish. A list that is not there yet accepts nobody.
    Published(NetSet, Box<[Arc<Ranges>]>),
}

impl NetSet {
    /// A set of these networks. Overlapping and adjacent ones become one range.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for net in nets {
            match unmapped(net) {
                IpNet::V4(net) => v4.push((u32::from(net.network()), u32::from(net.broadcast()))),
                IpNet::V6(net) => v6.push((u128::from(net.network()), u128::from(net.broadcast()))),
            }
        }
        Self { v4: merged(v4, |end| end.checked_add(1)), v6: merged(v6, |end| end.checked_add(1)) }
    }

    /// Is the address in one of them? IPv4-mapped addresses are unmapped first.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => covers(&self.v4, u32::from(address)),
            IpAddr::V6(address) => covers(&self.v6, u128::from(address)),
        }
    }

    /// Is there no network at all?
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Ranges that neither overlap nor touch.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// IPv4 addresses, and IPv6 networks of 64 bits, that it covers. A part of a network counts as one.
    pub fn covered(&self) -> (u64, u64) {
        let v4 = self.v4.iter().map(|(start, end)| u64::from(end - start) + 1).sum();
        let v6 =
            self.v6.iter().map(|(start, end)| u64::try_from((end - start) >> 64).unwrap_or(u64::MAX).saturating_add(1));
        (v4, v6.fold(0, u64::saturating_add))
    }

    /// How many of its ranges lie wholly within the other's.
    pub fn within(&self, other: &Self) -> usize {
        let v4 = self.v4.iter().filter(|(start, end)| spans(&other.v4, *start, *end)).count();
        v4 + self.v6.iter().filter(|(start, end)| spans(&other.v6, *start, *end)).count()
    }
}

impl Allowlist {
    /// Refuses a client outside the list.
    pub fn check(&self, client: ClientIp) -> Result<(), Reject> {
        match self {
            Self::Anyone => Ok(()),
            Self::Only(nets) if nets.contains(client.ip()) => Ok(()),
            Self::Published(nets, _) if nets.contains(client.ip()) => Ok(()),
            Self::Published(_, lists) => {
                let mut unknown = None;
                for list in lists {
                    match &*list.current() {
                        Some(current) if current.nets.contains(client.ip()) => return Ok(()),
                        Some(_) => {}
                        None => unknown = Some(&list.name),
                    }
                }
                Err(match unknown {
                    // It may well be one of the sender's: it is asked to come again.
                    Some(name) => Reason::RangesUnavailable.because(format!("client {client}; no list of {name} yet")),
                    None => Reason::AddressNotAllowed.because(format!("client {client}")),
                })
            }
            Self::Only(_) => Err(Reason::AddressNotAllowed.because(format!("client {client}"))),
        }
    }

    /// The published lists that the route needs.
    pub fn published(&self) -> &[Arc<Ranges>] {
        if let Self::Published(_, lists) = self { lists } else { &[] }
    }
}

/// One network or bare address as people write it. Octal, shortened and zoned spellings are refused, and so are set
/// host bits: `10.0.0.1/8` is either a typing error or a misunderstanding, and both open more than was meant.
pub fn parse_net(text: &str) -> Result<IpNet, String> {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("`{text}` is not an IPv4 or IPv6 address or network (like 192.0.2.0/24)"))?;
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        Some(digits) => Some(digits)
            .filter(|digits| {
                digits.bytes().all(|byte| byte.is_ascii_digit()) && !(digits.len() > 1 && digits.starts_with('0'))
            })
            .and_then(|digits| digits.parse().ok())
            .filter(|prefix| *prefix <= bits)
            .ok_or_else(|| format!("`{text}`: the prefix length `{digits}` is not a number from 0 to {bits}"))?,
    };
    let net = IpNet::new(address, prefix).map_err(|error| format!("`{text}`: {error}"))?;
    if net.trunc() != net {
        return Err(format!(
            "`{text}` has bits set after its prefix; the network is {}, one address is {address}",
            net.trunc()
        ));
    }
    Ok(net)
}

/// A list file: one network or bare address a line, `#` starts a comment. All errors at once, with line numbers from 1.
/// A list without any network is returned as it is; whether that is an error, the caller has to say.
pub fn parse_list(text: &str) -> Result<Vec<IpNet>, Vec<(usize, String)>> {
    let (mut nets, mut errors) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        match parse_net(entry) {
            _ if entry.is_empty() => {}
            Ok(net) => nets.push(net),
            Err(error) => errors.push((index + 1, error)),
        }
    }
    if errors.is_empty() { Ok(nets) } else { Err(errors) }
}

/// The IPv4 network that a network inside `::ffff:0:0/96` stands for.
fn unmapped(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    let mapped = v6.network().to_ipv4_mapped().filter(|_| v6.prefix_len() >= 96);
    match mapped.and_then(|address| Ipv4Net::new(address, v6.prefix_len() - 96).ok()) {
        Some(v4) => IpNet::V4(v4),
        None => net,
    }
}

/// Sorted ranges that neither overlap nor touch.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>, next: impl Fn(T) -> Option<T>) -> Box<[(T, T)]> {
    ranges.sort_unstable();
    let mut out: Vec<(T, T)> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match out.last_mut() {
            // No address after the last range's end: it reaches to the top and covers whatever starts later.
            Some(last) if next(last.1).is_none_or(|after| start <= after) => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out.into_boxed_slice()
}

fn covers<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    spans(ranges, address, address)
}

fn spans<T: Ord + Copy>(ranges: &[(T, T)], first: T, last: T) -> bool {
    let after = ranges.partition_point(|(start, _)| *start <= first);
    after.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, end)| last <= *end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(nets: &[&str]) -> NetSet {
        NetSet::new(nets.iter().map(|net| parse_net(net).unwrap()))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_compared_unmapped_on_both_sides() {
        for (nets, address, inside) in [
            (&["192.0.2.0/24"][..], "192.0.2.255", true),
            (&["192.0.2.0/24"], "192.0.3.0", false),
            (&["192.0.2.0/24"], "::ffff:192.0.2.7", true),
            (&["::ffff:192.0.2.0/120"], "192.0.2.7", true),
            (&["::ffff:192.0.2.0/120"], "192.0.3.0", false),
            (&["::ffff:192.0.2.0/120"], "8.8.8.8", false),
            (&["::ffff:0:0/96"], "8.8.8.8", true),
            (&["::/0"], "8.8.8.8", false),
            (&["::/0"], "::1", true),
            (&["0.0.0.0/0"], "255.255.255.255", true),
            (&["0.0.0.0/0"], "::1", false),
            (&["2001:db8::/32"], "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true),
            (&["2001:db8::/32"], "2001:db9::", false),
            (&["::192.0.2.0/120"], "192.0.2.1", false),
            (&["64:ff9b::/96"], "192.0.2.1", false),
            (&["10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8"], "10.200.0.1", true),
            (&["255.255.255.255", "255.0.0.0/8"], "255.1.2.3", true),
            (&[], "127.0.0.1", false),
        ] {
            assert_eq!(set(nets).contains(ip(address)), inside, "{address} in {nets:?}");
        }
    }

    #[test]
    fn touching_networks_become_one_range() {
        assert_eq!(set(&["10.0.0.0/9", "10.128.0.0/9", "10.3.0.0/16"]), set(&["10.0.0.0/8"]));
    }

    #[test]
    fn sets_are_counted_over_both_kinds_of_addresses() {
        for (nets, ranges, covered) in [
            (&[][..], 0, (0, 0)),
            (&["10.0.0.0/24"], 1, (256, 0)),
            (&["10.0.0.0/24", "10.0.2.0/25"], 2, (384, 0)),
            (&["0.0.0.0/0"], 1, (1 << 32, 0)),
            (&["2001:db8::/48"], 1, (0, 1 << 16)),
            (&["2001:db8::1", "2001:db8:1::/64"], 2, (0, 2)),
            (&["2001:db8::/63"], 1, (0, 2)),
            (&["::/0"], 1, (0, u64::MAX)),
            (&["10.0.0.1", "2001:db8::1"], 2, (1, 1)),
        ] {
            let set = set(nets);
            assert_eq!((set.len(), set.is_empty(), set.covered()), (ranges, ranges == 0, covered), "{nets:?}");
        }
        let both = set(&["10.0.0.0/24", "192.0.2.0/24", "2001:db8::/48", "2001:db9::/48"]);
        for (nets, within) in [
            (&["10.0.0.0/8"][..], 1),
            (&["10.0.0.0/25"], 0),
            (&["2001:db8::/32", "10.0.0.0/8"], 2),
            (&["::/0"], 2),
            (&[], 0),
        ] {
            assert_eq!(both.within(&set(nets)), within, "{nets:?}");
        }
    }

    #[test]
    fn published_lists_count_as_far_as_they_are_there() {
        use crate::check::ranges::{List, Origin, Pick};
        let cell = |nets: Option<&[&str]>| {
            let list = nets.map(|nets| List { nets: set(nets), as_of: None, origin: Origin::Fetched });
            Arc::new(Ranges::new("sender".into(), None, Pick::Lines, list))
        };
        let asked = |lists: Vec<Arc<Ranges>>, address: &str| {
            let list = Allowlist::Published(set(&["192.0.2.0/24"]), lists.into());
            list.check(ClientIp::new(ip(address))).map_err(|reject| reject.reason)
        };
        let (one, two, none) = (cell(Some(&["10.0.0.0/8"])), cell(Some(&["2001:db8::/32"])), cell(None));
        let (no, unknown) = (Err(Reason::AddressNotAllowed), Err(Reason::RangesUnavailable));
        for (lists, address, verdict) in [
            (vec![&one, &two], "192.0.2.1", Ok(())),
            (vec![&one, &two], "10.1.2.3", Ok(())),
            (vec![&one, &two], "2001:db8::1", Ok(())),
            (vec![&one, &two], "203.0.113.1", no),
            (vec![&none], "192.0.2.1", Ok(())),
            (vec![&none], "203.0.113.1", unknown),
            (vec![&one, &none], "10.1.2.3", Ok(())),
            (vec![&none, &one], "10.1.2.3", Ok(())),
            (vec![&none, &one], "203.0.113.1", unknown),
            (vec![], "203.0.113.1", no),
        ] {
            assert_eq!(asked(lists.iter().copied().cloned().collect(), address), verdict, "{address}");
        }
        let nets = || set(&["192.0.2.0/24"]);
        let inside = ClientIp::new(ip("192.0.2.1"));
        assert!(Allowlist::Only(nets()).check(inside).is_ok());
        assert!(Allowlist::Only(nets()).check(ClientIp::new(ip("192.0.3.1"))).is_err());
        assert_eq!(Allowlist::Published(nets(), [one, two].into()).published().len(), 2);
        assert!(Allowlist::Only(nets()).published().is_empty() && Allowlist::Anyone.published().is_empty());
    }

    #[test]
    fn an_empty_list_refuses_everybody() {
        let client = ClientIp::new(ip("192.0.2.1"));
        assert!(Allowlist::Anyone.check(client).is_ok());
        let reject = Allowlist::Only(NetSet::default()).check(client).unwrap_err();
        assert_eq!((reject.reason, &*reject.detail), (Reason::AddressNotAllowed, "client 192.0.2.1"));
    }

    #[test]
    fn spellings_that_could_mean_another_network_are_refused() {
        for (text, hint) in [
            ("10.0.0.1/8", "the network is 10.0.0.0/8"),
            ("2001:db8::1/32", "the network is 2001:db8::/32"),
            ("010.0.0.0/8", "not an IPv4"),
            ("10.0/16", "not an IPv4"),
            ("167772160", "not an IPv4"),
            ("fe80::1%eth0", "not an IPv4"),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/08", "`08`"),
            ("10.0.0.0/+8", "`+8`"),
            ("10.0.0.0/", "``"),
            ("10.0.0.0/8/8", "`8/8`"),
            ("example.com", "not an IPv4"),
            ("", "not an IPv4"),
        ] {
            let error = parse_net(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    #[test]
    fn a_list_file_reports_every_bad_line() {
        let nets = parse_list("# GitHub\n192.30.252.0/22 # hooks\n\r\n  2606:50c0::/32\r\n203.0.113.9\n").unwrap();
        assert_eq!(nets, ["192.30.252.0/22", "2606:50c0::/32", "203.0.113.9/32"].map(|net| net.parse().unwrap()));
        let errors = parse_list("10.0.0.0/8\nten\n\n10.0.0.1/8").unwrap_err();
        assert_eq!(errors.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(parse_list("# nothing yet\n"), Ok(vec![]));
    }

    #[test]
    fn a_hundred_thousand_networks_are_compact() {
        let set = NetSet::new((0..100_000u32).map(|n| IpNet::new(IpAddr::from((n * 512).to_be_bytes()), 24).unwrap()));
        assert_eq!(set.v4.len(), 100_000);
        assert!(set.contains(ip("0.0.0.9")) && !set.contains(ip("0.0.1.9")) && set.contains(ip("3.12.80.1")));
    }

    proptest! {
        #[test]
        fn a_set_contains_what_its_networks_contain(
            nets in prop::collection::vec((any::<u32>(), 0u8..=32, any::<bool>()), 0..20),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            let nets: Vec<IpNet> = nets.into_iter().map(|(address, prefix, v6)| {
                // Few distinct high bits, so that networks touch and overlap.
                let address = address & 0x0f0f_00ff;
                let net = if v6 {
                    IpNet::new(IpAddr::from((u128::from(address) << 96).to_be_bytes()), prefix)
                } else {
                    IpNet::new(IpAddr::from(address.to_be_bytes()), prefix)
                };
                net.unwrap().trunc()
            }).collect();
            let set = NetSet::new(nets.iter().copied());
            let edges = nets.iter().flat_map(|net| [net.network(), net.broadcast()]);
            let probes = probes.into_iter().map(|probe| IpAddr::from((probe & 0x0f0f_00ff).to_be_bytes()));
            for address in edges.chain(probes) {
                prop_assert_eq!(set.contains(address), nets.iter().any(|net| net.contains(&address)), "{}", address);
            }
        }
    }
}
