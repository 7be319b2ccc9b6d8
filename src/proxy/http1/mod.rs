//! HTTP/1.1, lean and strict.

pub(crate) mod body;
pub(super) mod connection;
mod date;
pub(crate) mod framing;

/// The other side broke HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) &'static str);
