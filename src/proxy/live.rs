//! A policy with the backends that it names: what one request runs on from its first byte to its log line, and what a
//! reload exchanges in one step.

use super::upstream::Client;
use crate::policy::{Policy, Route, Upstream};
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

/// See the module. Everything of the policy can be read through it.
pub(crate) struct Live {
    policy: Policy,
    /// By the index that the policy's routes hold.
    upstreams: Vec<Arc<Client>>,
    names: HashMap<Arc<str>, Arc<Route>>,
}

impl Live {
    /// Prepares the backends. Those that did not change keep their connections and resolved addresses.
    pub(crate) fn new(policy: Policy, before: Option<&Self>) -> Result<Self, String> {
        let known = before.map_or(&[][..], |before| &before.upstreams);
        let client = |upstream: &Arc<Upstream>| match known.iter().find(|client| client.serves(upstream)) {
            Some(client) => Ok(client.clone()),
            None => Client::new(upstream.clone()).map(Arc::new),
        };
        let upstreams = policy.upstreams.iter().map(client).collect::<Result<_, _>>()?;
        let names = policy.routes.iter().map(|(_, route)| (route.name.clone(), route.clone())).collect();
        Ok(Self { policy, upstreams, names })
    }

    /// The backend of a route.
    pub(crate) fn upstream(&self, index: usize) -> Option<&Arc<Client>> {
        self.upstreams.get(index)
    }

    /// A route by its name.
    pub(crate) fn route(&self, name: &str) -> Option<Arc<Route>> {
        self.names.get(name).cloned()
    }

    /// All backends.
    pub(crate) fn upstreams(&self) -> &[Arc<Client>] {
        &self.upstreams
    }
}

impl Deref for Live {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}
