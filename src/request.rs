//! What a check may look at: a borrowed request head, free of any HTTP library's session.
//!
//! A carrier (the code that speaks HTTP with the sender) builds a [`Head`] over what it has parsed; checks read it
//! and nothing else. Two kinds of header storage are offered, so that a carrier never has to copy headers into a map
//! only to have them looked at.

use crate::check::client_certificate::Identity;
use std::io::Write as _;
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
    /// Fields where they stand in the bytes that came.
    Raw(&'a [u8], &'a [Field]),
}

/// Where one field stands in the bytes of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    name: Span,
    value: Span,
}

/// A part of the bytes of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    length: u32,
}

impl Span {
    /// Where `part` stands in `whole`. An empty span at the start for what is no part of it.
    pub fn of(part: &[u8], whole: &[u8]) -> Self {
        let start = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
        match (u32::try_from(start), u32::try_from(part.len())) {
            (Ok(at), Ok(length)) if start + part.len() <= whole.len() => Self { start: at, length },
            _ => Self::default(),
        }
    }

    /// The bytes.
    pub fn bytes(self, whole: &[u8]) -> &[u8] {
        let start = self.start as usize;
        whole.get(start..start + self.length as usize).unwrap_or_default()
    }

    /// The byte behind it.
    pub fn next(self, whole: &[u8]) -> Option<u8> {
        whole.get(self.start as usize + self.length as usize).copied()
    }

    /// The bytes as text; nothing where they are none.
    pub fn text(self, whole: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(whole)).unwrap_or_default()
    }
}

impl Field {
    /// A field of `whole`.
    pub fn of(name: &[u8], value: &[u8], whole: &[u8]) -> Self {
        Self { name: Span::of(name, whole), value: Span::of(value, whole) }
    }

    /// Its name, in whatever case it came.
    pub fn name(self, whole: &[u8]) -> &[u8] {
        self.name.bytes(whole)
    }

    /// Its value.
    pub fn value(self, whole: &[u8]) -> &[u8] {
        self.value.bytes(whole)
    }

    /// Name, as text, and value.
    pub fn pair(self, whole: &[u8]) -> (&str, &[u8]) {
        (self.name.text(whole), self.value.bytes(whole))
    }

    fn length(self) -> usize {
        self.name.length as usize + self.value.length as usize
    }

    fn is(self, name: &HeaderName, whole: &[u8]) -> bool {
        let name = name.as_str();
        self.name.length as usize == name.len() && self.name(whole).eq_ignore_ascii_case(name.as_bytes())
    }
}

/// A header that may stand once stood several times. Never resolved by taking one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated;

impl<'a> Headers<'a> {
    /// Every value of the field, in order.
    pub fn all(&self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut fields = self.fields();
        std::iter::from_fn(move || match &mut fields {
            // The length tells most of them apart before any letter is looked up.
            Fields::Raw(bytes, fields) => fields.find(|field| field.is(name, bytes)).map(|field| field.value(bytes)),
            fields => {
                let is = |known: &[u8]| known.eq_ignore_ascii_case(name.as_str().as_bytes());
                fields.find(|(known, _)| is(known)).map(|(_, value)| value)
            }
        })
    }

    /// How many fields there are, and how many bytes their names and values have.
    pub fn extent(&self) -> (usize, usize) {
        let sum = |(count, bytes), more| (count + 1, bytes + more);
        match self {
            Headers::Raw(_, fields) => fields.iter().map(|field| field.length()).fold((0, 0), sum),
            _ => self.fields().map(|(name, value)| name.len() + value.len()).fold((0, 0), sum),
        }
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
            Headers::Raw(bytes, fields) => {
                let mut values = fields.iter().filter(|field| field.is(name, bytes));
                let first = values.next().map(|field| field.value(bytes));
                if values.next().is_some() { Err(Repeated) } else { Ok(first) }
            }
        }
    }

    /// Does the field stand at all?
    pub fn has(&self, name: &HeaderName) -> bool {
        match *self {
            Headers::Map(map) => map.contains_key(name),
            Headers::List(list) => list.iter().any(|(n, _)| n.eq_ignore_ascii_case(name.as_str())),
            Headers::Raw(bytes, fields) => fields.iter().any(|field| field.is(name, bytes)),
        }
    }

    /// All fields, names in whatever case the carrier keeps them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.fields().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value))
    }

    /// The same as bytes, for what looks at every field of every request.
    pub fn fields(&self) -> Fields<'a> {
        match *self {
            Headers::Map(map) => Fields::Map(map.iter()),
            Headers::List(list) => Fields::List(list.iter()),
            Headers::Raw(bytes, fields) => Fields::Raw(bytes, fields.iter()),
        }
    }
}

/// All fields of a head, in order: name and value.
pub enum Fields<'a> {
    /// Of a parsed map.
    Map(http::header::Iter<'a, http::HeaderValue>),
    /// Of a list.
    List(std::slice::Iter<'a, (&'a str, &'a [u8])>),
    /// Where they stand in the bytes that came.
    Raw(&'a [u8], std::slice::Iter<'a, Field>),
}

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Map(map) => map.next().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())),
            Self::List(list) => list.next().map(|(name, value)| (name.as_bytes(), *value)),
            Self::Raw(bytes, fields) => fields.next().map(|field| (field.name(bytes), field.value(bytes))),
        }
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

    /// As text.
    pub fn text(self) -> ClientText {
        let mut text = ClientText { bytes: [0; CLIENT_TEXT], length: 0 };
        match self.0 {
            // Written several times for every request: without the formatter.
            IpAddr::V4(address) => {
                for (at, part) in address.octets().into_iter().enumerate() {
                    text.push(if at == 0 { "" } else { "." });
                    text.push(itoa::Buffer::new().format(part));
                }
            }
            IpAddr::V6(_) => {
                let mut rest = &mut text.bytes[..];
                let _ = write!(rest, "{self}");
                text.length = CLIENT_TEXT - rest.len();
            }
        }
        text
    }
}

/// The longest IPv6 address.
const CLIENT_TEXT: usize = 39;

/// A client's address as text.
#[derive(Clone, Copy, Debug)]
pub struct ClientText {
    bytes: [u8; CLIENT_TEXT],
    length: usize,
}

impl ClientText {
    fn push(&mut self, part: &str) {
        let end = self.length + part.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(part.as_bytes());
            self.length = end;
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for ClientIp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
