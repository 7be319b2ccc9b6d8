//! Which route does a request belong to?

use crate::policy::Route;
use crate::reject::Reject;
use crate::request::Head;
use std::sync::Arc;

/// How a route's path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// Byte for byte.
    Exact(Box<str>),
    /// The path itself and everything below it; written `/hooks/*`, kept as `/hooks/`.
    Prefix(Box<str>),
}

/// What one route answers to.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// Lower case, without port. `None`: any host.
    pub host: Option<Box<str>>,
    /// Its path.
    pub path: PathPattern,
    /// Upper case. Never empty.
    pub methods: Vec<Box<str>>,
}

/// All routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Matcher, Arc<Route>)>,
}

impl RouteTable {
    /// A table of these routes. Conflicts were refused by `config::compile` with [`Matcher::conflicts`].
    pub fn new(routes: Vec<(Matcher, Arc<Route>)>) -> Self {
        Self { routes }
    }

    /// The routes in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &(Matcher, Arc<Route>)> {
        self.routes.iter()
    }

    /// The route of a request: exact before prefix, longer prefix first, named host before any.
    /// Ambiguous spellings (`//`, dot segments, `%2e`, `%2F`, `%5c`, `\`, `;`, control bytes …) are refused as malformed.
    /// On a wrong method, the second value lists the methods of the routes that have the path, for `Allow`.
    pub fn find(&self, head: &Head<'_>) -> Result<&Arc<Route>, (Reject, Vec<&str>)> {
        let _ = head;
        unimplemented!()
    }
}
