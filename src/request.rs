//! What a check may look at: a borrowed request head, free of any HTTP library's session.
//!
//! A carrier (the code that speaks HTTP with the sender) builds a [`Head`] over what it has parsed; checks read it
//! and nothing else. Two kinds of header storage are offered, so that a carrier never has to copy headers into a map
//! only to have them looked at.

use crate::check::client_certificate::Identity;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use http::HeaderName;

/// The moment a request is judged at. Read once per request by the carrier; checks take it as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic, for limits, leases and how long an ID is remembered.
    pub instant: Instant,
    /// Wall clock since 1970-01-01T00:00:00Z, for senders' timestamps and validity windows of secrets.
    pub unix: Duration,
}

impl Now {
    /// Reads both clocks.
    #[expect(clippy::disallowed_methods, reason = "the one place where a request's clock is read")]
    pub fn read() -> Self {
        Self { instant: Instant::now(), unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() }
    }

    /// A given wall-clock time in seconds since 1970, for vectors and `--at`.
    #[expect(clippy::disallowed_methods, reason = "only the wall clock is of interest here")]
    pub fn at_unix(seconds: u64) -> Self {
        Self { instant: Instant::now(), unix: Duration::from_secs(seconds) }
    }

    /// Seconds since 1970.
    pub fn unix_seconds(&self) -> i64 {
        i64::try_from(self.unix.as_secs()).unwrap_or(i64::MAX)
    }
}

/// The headers of a request, in whichever form the carrier holds them. Order of repeated fields is kept.
#[derive(Clone, Copy)]
pub enum Headers<'a> {
    /// A parsed map.
    Map(&'a http::HeaderMap),
    /// Fields as they came: name in any case, value as bytes.
    List(&'a [(&'a str, &'a [u8])]),
}

/// A header that may stand once stood several times. Never resolved by taking one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

impl<'a> Headers<'a> {
    /// Every value of the field, in order.
    pub fn all(&self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let (map, list): (_, &'a [(&'a str, &'a [u8])]) = match *self {
            Headers::Map(map) => (Some(map.get_all(name)), &[]),
            Headers::List(list) => (None, list),
        };
        let name = name.as_str();
        map.into_iter()
            .flat_map(|values| values.iter().map(http::HeaderValue::as_bytes))
            .chain(list.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| *value))
    }

    /// The value of a field that may stand at most once.
    pub fn one(&self, name: &HeaderName) -> Result<Option<&'a [u8]>, Repeated> {
        match *self {
            Headers::Map(map) => {
                let mut values = map.get_all(name).iter();
                let first = values.next().map(http::HeaderValue::as_bytes);
                if values.next().is_some() { Err(Repeated) } else { Ok(first) }
            }
            Headers::List(list) => {
                let mut values = list.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name.as_str()));
                let first = values.next().map(|(_, value)| *value);
                if values.next().is_some() { Err(Repeated) } else { Ok(first) }
            }
        }
    }

    /// Does the field stand at all?
    pub fn has(&self, name: &HeaderName) -> bool {
        match *self {
            Headers::Map(map) => map.contains_key(name),
            Headers::List(list) => list.iter().any(|(n, _)| n.eq_ignore_ascii_case(name.as_str())),
        }
    }

    /// All fields, names in whatever case the carrier keeps them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let (map, list): (_, &'a [(&'a str, &'a [u8])]) = match *self {
            Headers::Map(map) => (Some(map), &[]),
            Headers::List(list) => (None, list),
        };
        map.into_iter()
            .flat_map(|map| map.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
            .chain(list.iter().copied())
    }
}

/// The head of one request.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// As sent: upper-case for every method of RFC 9110.
    pub method: &'a str,
    /// The path exactly as it stood in the request line or `:path`, up to the `?`. Starts with `/`.
    pub path: &'a str,
    /// What follows the first `?`, exactly as sent. `Some("")` for a bare `?`.
    pub query: Option<&'a str>,
    /// `Host` or `:authority`, as sent.
    pub host: &'a str,
    /// All header fields.
    pub headers: Headers<'a>,
}

/// Who is at the other end of the socket, and how.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The address of the socket's peer, IPv4-mapped addresses already unmapped. `None` for a unix socket.
    pub address: Option<IpAddr>,
    /// Did the request arrive over this process's own TLS?
    pub tls: bool,
    /// Whose client certificate the TLS handshake verified.
    pub identity: Option<Arc<Identity>>,
}

/// The address a request counts for: the socket's peer, or what a trusted proxy says. Only `check::client_ip` makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientIp(IpAddr);

impl ClientIp {
    pub(crate) fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }

    /// The address, never an IPv4-mapped IPv6 one.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl std::fmt::Display for ClientIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
