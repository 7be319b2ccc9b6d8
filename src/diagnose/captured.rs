//! A request as it arrived, owned, so that changes can be tried on it.

use crate::check::signature::Hash;
use crate::request::{Head, Headers};
use bytes::Bytes;

/// A request of its own.
#[derive(Clone, PartialEq, Eq)]
pub struct Captured {
    /// As sent.
    pub method: String,
    /// Up to the `?`.
    pub path: String,
    /// Behind the `?`.
    pub query: Option<String>,
    /// `Host` or `:authority`.
    pub host: String,
    /// Fields in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The whole body. `None`: it was refused before its body was read.
    pub body: Option<Bytes>,
}

impl Captured {
    /// A copy of a request.
    pub fn of(head: &Head<'_>, body: Option<Bytes>) -> Self {
        Self {
            method: head.method.to_owned(),
            path: head.path.to_owned(),
            query: head.query.map(str::to_owned),
            host: head.host.to_owned(),
            headers: head.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
            body,
        }
    }

    /// Looks at it as a check does.
    pub fn with_head<R>(&self, look: impl FnOnce(&Head<'_>) -> R) -> R {
        let headers: Vec<(&str, &[u8])> = self.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        look(&Head {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref(),
            host: &self.host,
            headers: Headers::List(&headers),
        })
    }

    /// The only value of a header.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut values = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = values.next().map(|(_, value)| &**value);
        if values.next().is_some() { None } else { first }
    }
}

/// Headers whose values may be logged: none of them proves or names anything.
const PLAIN: [&str; 8] =
    ["content-type", "content-length", "content-encoding", "transfer-encoding", "user-agent", "accept", "via", "date"];

/// Fields, and bytes of a value, that a summary shows.
const MAX_FIELDS: usize = 40;
const MAX_VALUE: usize = 80;

impl Captured {
    /// Length and SHA-256 of the body, never the body.
    pub fn body_summary(&self) -> String {
        match &self.body {
            Some(body) => format!("body of {} bytes, sha256 {}", body.len(), digest(body)),
            None => "body not read".to_owned(),
        }
    }

    /// For the log: the method, which headers stood, of most only how long, and the body's digest. Bounded.
    pub fn summary(&self) -> String {
        let mut text: String = self.method.chars().take(16).collect();
        if let Some(query) = &self.query {
            text += &format!(" with a query of {} bytes", query.len());
        }
        for (at, (name, value)) in self.headers.iter().take(MAX_FIELDS).enumerate() {
            let name: String = name.chars().take(MAX_VALUE).collect::<String>().to_ascii_lowercase();
            text += if at == 0 { "; " } else { ", " };
            if PLAIN.contains(&&*name) {
                let value = value.get(..MAX_VALUE).unwrap_or(value);
                text += &format!("{name}: {}", value.escape_ascii());
            } else {
                text += &format!("{}: [{} bytes]", name.escape_debug(), value.len());
            }
        }
        if self.headers.len() > MAX_FIELDS {
            text += &format!(" and {} more", self.headers.len() - MAX_FIELDS);
        }
        format!("{text}; {}", self.body_summary())
    }
}

/// SHA-256 in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Hash::Sha256.digest(bytes).as_bytes())
}

/// Headers hold signatures, and bodies what people write to each other: neither is printed by accident.
impl std::fmt::Debug for Captured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} with {} headers]", self.method, self.headers.len())
    }
}
