//! Who may connect: the PROXY protocol, bounds of connections, the deny list.

use super::compile::Compiler;
use super::place::Place;
use super::raw;
use crate::check::allowlist::NetSet;
use crate::policy::Connections;

/// More is a typing error.
const MOST: usize = 10_000_000;

impl Compiler<'_> {
    pub(super) fn proxy_protocol(&mut self, raw: &raw::ProxyProtocol, at: &Place) -> NetSet {
        let at = at.key("from");
        if raw.from.is_empty() {
            let help = "list the networks of the load balancers in front, for instance [10.0.0.0/8]";
            self.wrong(&at, "nobody could connect", help);
        }
        for (i, network) in raw.from.iter().enumerate() {
            if matches!(network, raw::Network::Cidr(text) if text.ends_with("/0")) {
                let help =
                    "list only the addresses of your own load balancers: everybody else could forge client addresses";
                self.warn(&at.index(i), "everybody is believed", help);
            }
        }
        NetSet::new(self.networks(&raw.from, &at))
    }

    pub(super) fn connections(&mut self, raw: &raw::Connections) -> Connections {
        let at = Place::default().key("connections");
        self.number(raw.max, 1, MOST, &at.key("max"));
        if let Some(max) = raw.max_per_address {
            self.number(max, 1, MOST, &at.key("max_per_address"));
        }
        for (key, value, most) in
            [("http2_streams", raw.http2_streams, 10_000), ("http2_requests", raw.http2_requests, 1_000_000)]
        {
            self.number(usize::try_from(value).unwrap_or(usize::MAX), 1, most, &at.key(key));
        }
        let deny = NetSet::new(self.networks(&raw.deny, &at.key("deny")));
        Connections {
            max: raw.max,
            max_per_address: raw.max_per_address,
            deny,
            http2_streams: raw.http2_streams,
            http2_requests: raw.http2_requests.max(1),
        }
    }
}
