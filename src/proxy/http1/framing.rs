//! Everything that decides where a request begins and ends, in one place, without I/O.
//!
//! The rule: a request that two readers could see differently is refused, whatever the standard allows one to make of
//! it, and the connection ends with it. So a head is lines that end with CRLF, each `name: value`; its framing is one
//! Content-Length of plain digits, or one Transfer-Encoding that is exactly `chunked` in HTTP/1.1, or neither (then there
//! is no body), never both; there is one Host, and an absolute target names the same.
//!
//! What is found is where things stand in the bytes; nothing is copied. `check::shape` judges the same head once more,
//! with everything else that a head must be.

use super::Broken;
use super::body::Framing;
use crate::policy::Limits;
use crate::request::{Field, Head, Headers, Span};
use std::mem::MaybeUninit;

/// Fields for which there is room on the stack. More are taken where the configuration allows more.
const USUAL_FIELDS: usize = 128;

/// Why a head cannot be used at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is no HTTP/1.
    Malformed(&'static str),
    /// More or longer fields than may be.
    TooLarge,
    /// The target alone is longer than may be.
    UriTooLong,
}

/// A head, by the places of its parts.
#[derive(Debug)]
pub(crate) struct RequestHead {
    /// Bytes that the head takes, its empty line included.
    pub(crate) length: usize,
    /// HTTP/1.1, or else HTTP/1.0.
    pub(crate) is_11: bool,
    /// How the body ends; or what is ambiguous or broken, for the log.
    pub(crate) framing: Result<Framing, Broken>,
    /// May another request follow?
    pub(crate) keep_alive: bool,
    method: Span,
    path: Span,
    query: Option<Span>,
    host: Span,
}

impl RequestHead {
    /// The method alone.
    pub(crate) fn method<'a>(&self, bytes: &'a [u8]) -> &'a str {
        self.method.text(bytes)
    }

    /// The head as checks see it. `bytes` and `fields` are those that it was found in and with.
    pub(crate) fn view<'a>(&self, bytes: &'a [u8], fields: &'a [Field]) -> Head<'a> {
        Head {
            method: self.method.text(bytes),
            path: self.path.text(bytes),
            query: self.query.map(|query| query.text(bytes)),
            host: self.host.text(bytes),
            headers: Headers::Raw(bytes, fields),
        }
    }
}

/// Looks for the end of a head, from `scanned` on, and says how long it is. Every byte is looked at once, however slowly
/// they come, and what cannot become a head is refused before it is whole.
pub(crate) fn end_of_head(bytes: &[u8], scanned: &mut usize, limits: &Limits) -> Result<Option<usize>, Fault> {
    match bytes.first() {
        Some(byte) if !byte.is_ascii_alphabetic() => return Err(Fault::Malformed("does not begin with a method")),
        _ => {}
    }
    // `scanned` is always the beginning of a line.
    while let Some(length) = bytes.get(*scanned..).and_then(|rest| memchr::memchr(b'\n', rest)) {
        let end = *scanned + length;
        if length == 0 || bytes.get(end - 1) != Some(&b'\r') {
            return Err(Fault::Malformed("bare LF in the head"));
        }
        let first = *scanned == 0;
        *scanned = end + 1;
        if first && end > limits.uri_bytes + REQUEST_LINE_SLACK {
            return Err(Fault::UriTooLong);
        }
        if length == 1 {
            return if first { Err(Fault::Malformed("empty line before the request")) } else { Ok(Some(end + 1)) };
        }
    }
    if *scanned == 0 && bytes.len() > limits.uri_bytes + REQUEST_LINE_SLACK {
        return Err(Fault::UriTooLong);
    }
    if bytes.len() > max_head(limits) { Err(Fault::TooLarge) } else { Ok(None) }
}

/// Room for a method, the version, and a target that is only just too long: that one is refused with its route's name.
const REQUEST_LINE_SLACK: usize = 4096;

/// Bytes of a head that is not refused unread: what the limits allow, with the punctuation, and some more, so that what
/// is only just too large is refused by the check, which says by how much.
fn max_head(limits: &Limits) -> usize {
    limits.uri_bytes + REQUEST_LINE_SLACK + limits.header_bytes + 4 * limits.headers + 16 * 1024
}

/// Takes a whole head apart: `bytes` ends with its empty line. `fields` is filled.
pub(crate) fn parse(bytes: &[u8], limits: &Limits, fields: &mut Vec<Field>) -> Result<RequestHead, Fault> {
    let mut request = httparse::Request::new(&mut []);
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
    match request.parse_with_uninit_headers(bytes, &mut usual) {
        Err(httparse::Error::TooManyHeaders) if limits.headers >= USUAL_FIELDS => {
            let mut many = vec![httparse::EMPTY_HEADER; limits.headers + 1];
            let mut request = httparse::Request::new(&mut many);
            let result = request.parse(bytes);
            found(bytes, result, &request, fields)
        }
        result => found(bytes, result, &request, fields),
    }
}

fn found(
    bytes: &[u8],
    result: httparse::Result<usize>,
    request: &httparse::Request<'_, '_>,
    fields: &mut Vec<Field>,
) -> Result<RequestHead, Fault> {
    match result {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Fault::Malformed("the head ends elsewhere")),
        Err(httparse::Error::TooManyHeaders) => return Err(Fault::TooLarge),
        Err(_) => return Err(Fault::Malformed("head cannot be parsed")),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Fault::Malformed("the request line is not whole"));
    };
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(Fault::Malformed("the target has a byte that must be percent-encoded"));
    }
    let is_11 = version == 1;
    fields.clear();
    let (mut host, mut length, mut chunked) = (None, None, false);
    let (mut close, mut keep_alive) = (false, false);
    let mut fault = None;
    for field in request.headers.iter() {
        fields.push(Field::of(field.name.as_bytes(), field.value, bytes));
        // The length tells most fields apart before any letter is compared.
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        match field.name.len() {
            4 if is("host") && host.replace(field.value).is_some() => fault = Some(Broken("Host stands twice")),
            14 if is("content-length") => match (length, digits(field.value)) {
                (None, Some(value)) => length = Some(value),
                (Some(_), _) => fault = Some(Broken("several Content-Length lines")),
                (None, None) => fault = Some(Broken("Content-Length is not a number")),
            },
            17 if is("transfer-encoding") => {
                if chunked || field.value != b"chunked" {
                    fault = Some(Broken("Transfer-Encoding is not exactly one `chunked`"));
                }
                chunked = true;
            }
            10 if is("connection") => {
                for token in field.value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                    close |= token.eq_ignore_ascii_case(b"close");
                    keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
                }
            }
            _ => {}
        }
    }
    if chunked && length.is_some() {
        fault = Some(Broken("Content-Length beside Transfer-Encoding"));
    }
    if chunked && !is_11 {
        fault = Some(Broken("Transfer-Encoding in HTTP/1.0"));
    }
    let (authority, target) = split_target(target);
    // RFC 9112 section 3.2. What is neither has no route here, but somebody might find a path in it. CONNECT names an
    // authority and is refused for its method.
    if !(target.starts_with('/') || target == "*" || method == "CONNECT") {
        fault = Some(Broken("the target is neither a path nor a URL with one"));
    }
    // To the letter: no honest sender writes one name in two ways.
    if authority.is_some_and(|authority| host != Some(authority.as_bytes())) {
        fault = Some(Broken("the target's authority is not the Host"));
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::None,
    };
    let span = |part: &[u8]| Span::of(part, bytes);
    Ok(RequestHead {
        length: bytes.len(),
        is_11,
        // What is not understood is not followed by anything.
        keep_alive: fault.is_none() && !close && (is_11 || keep_alive),
        framing: fault.map_or(Ok(framing), Err),
        method: span(method.as_bytes()),
        path: span(path.as_bytes()),
        query: query.map(|query| span(query.as_bytes())),
        host: span(host.unwrap_or_default()),
    })
}

/// The authority of an absolute target, and its path with the query. Any other form is its own path.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let scheme = |name: &str| {
        target.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name)).and_then(|_| target.get(name.len()..))
    };
    match scheme("http://").or_else(|| scheme("https://")) {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            (Some(authority), path)
        }
        None => (None, target),
    }
}

/// One to nineteen digits, which always fit, and nothing else.
pub(crate) fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { headers: 100, header_bytes: 32 << 10, uri_bytes: 8 << 10, body_memory: 1 << 20 }
    }

    /// As a connection does: until the head is whole, then apart.
    fn read(wire: &[u8], cut: usize) -> Result<Option<(RequestHead, Vec<Field>)>, Fault> {
        let (mut scanned, mut fields) = (0, Vec::new());
        for end in (cut..wire.len()).step_by(cut).chain([wire.len()]) {
            if let Some(length) = end_of_head(&wire[..end], &mut scanned, &limits())? {
                return parse(&wire[..length], &limits(), &mut fields).map(|head| Some((head, fields)));
            }
        }
        Ok(None)
    }

    #[test]
    fn a_head_is_taken_apart_where_it_stands() {
        let wire = b"POST /a/b?c=d HTTP/1.1\r\nHost: Example.com\r\nX-A:  1 \r\nContent-Length: 12\r\n\r\nbody";
        for cut in [1, 2, 7, 100] {
            let (head, fields) = read(wire, cut).unwrap().unwrap();
            let view = head.view(wire, &fields);
            assert_eq!((view.method, view.path, view.query, view.host), ("POST", "/a/b", Some("c=d"), "Example.com"));
            let seen: Vec<_> = view.headers.iter().collect();
            assert_eq!(seen, [("Host", &b"Example.com"[..]), ("X-A", b"1"), ("Content-Length", b"12")]);
            assert_eq!((head.length, head.framing, head.keep_alive), (wire.len() - 4, Ok(Framing::Length(12)), true));
        }
    }

    #[test]
    fn framing_has_one_reading_or_none() {
        for (lines, framing) in [
            ("", Some(Framing::None)),
            ("Content-Length: 0\r\n", Some(Framing::Length(0))),
            ("Content-Length: 007\r\n", Some(Framing::Length(7))),
            ("Transfer-Encoding: chunked\r\n", Some(Framing::Chunked)),
            ("Content-Length: 1\r\nContent-Length: 1\r\n", None),
            ("Content-Length: 1, 1\r\n", None),
            ("Content-Length: +1\r\n", None),
            ("Content-Length: 0x1\r\n", None),
            ("Content-Length: 1 1\r\n", None),
            ("Content-Length:\r\n", None),
            ("Content-Length: 99999999999999999999\r\n", None),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: chunked\r\ncontent-length: 1\r\n", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: Chunked\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
            ("Transfer-Encoding: identity\r\n", None),
            ("Transfer-Encoding:\r\n", None),
            ("Host: b\r\n", None),
        ] {
            let wire = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
            let (head, _) = read(wire.as_bytes(), 1000).unwrap().unwrap();
            assert_eq!(head.framing.ok(), framing, "{lines:?}");
            assert_eq!(head.keep_alive, framing.is_some(), "{lines:?}");
        }
        let (head, _) = read(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 1000).unwrap().unwrap();
        assert!(head.framing.is_err());
    }

    #[test]
    fn what_is_no_head_is_refused_as_soon_as_that_is_seen() {
        for wire in [
            "\r\n",
            "\n",
            " POST",
            "\u{16}\u{3}\u{1}",
            "POST / HTTP/1.1\n",
            "POST / HTTP/1.1\r\nHost: a\n",
            "POST / HTTP/1.1\r\nHost: a\r\n\n",
            "POST /\r\n\r\n",
            "POST / HTTP/1.2\r\n\r\n",
            "POST / HTTP/2.0\r\n\r\n",
            "POST / HTTP/1.10\r\n\r\n",
            "POST  / HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1 \r\n\r\n",
            "POST\t/ HTTP/1.1\r\n\r\n",
            "POST /\u{e9} HTTP/1.1\r\n\r\n",
            "POST /#a HTTP/1.1\r\n\r\n",
            "POST / HTTP/1.1\r\nA : b\r\n\r\n",
            "POST / HTTP/1.1\r\n A: b\r\n\r\n",
            "POST / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            "POST / HTTP/1.1\r\nA: b\rc\r\n\r\n",
            "POST / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            "POST / HTTP/1.1\r\nA\r\n\r\n",
            "POST / HTTP/1.1\r\n: b\r\n\r\n",
        ] {
            for cut in [1, 1000] {
                assert!(matches!(read(wire.as_bytes(), cut), Err(Fault::Malformed(_))), "{wire:?}");
            }
        }
        let long = format!("POST /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
        assert_eq!(read(long.as_bytes(), 1000).err(), Some(Fault::UriTooLong));
        assert_eq!(read(&long.as_bytes()[..15_000], 1000).err(), Some(Fault::UriTooLong));
        let large = format!("POST / HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(200_000));
        assert_eq!(read(large.as_bytes(), 1000).err(), Some(Fault::TooLarge));
        let many = format!("POST / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200));
        assert_eq!(read(many.as_bytes(), 1000).err(), Some(Fault::TooLarge));
    }

    #[test]
    fn an_absolute_target_names_the_host() {
        for (target, host, fine) in [
            ("http://a/x?y", "a", true),
            ("HTTPS://a/x?y", "a", true),
            ("http://A/x?y", "a", false),
            ("http://b/x?y", "a", false),
            ("http://a:80/x?y", "a", false),
            ("http:///x?y", "a", false),
        ] {
            let wire = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let (head, fields) = read(wire.as_bytes(), 1000).unwrap().unwrap();
            assert_eq!(head.framing.is_ok(), fine, "{target}");
            let view = head.view(wire.as_bytes(), &fields);
            assert_eq!((view.path, view.query), ("/x", Some("y")));
        }
        for (target, fine) in [
            ("ftp://a/x?y", false),
            ("a:/x?y", false),
            ("/x:/y://z", true),
            ("/x?y=ftp://a/", true),
            ("ht?y", false),
            ("x", false),
            ("http://a", false),
            ("http://a?y", false),
            ("a:80", false),
            ("*", true),
        ] {
            let wire = format!("POST {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            let (head, _) = read(wire.as_bytes(), 1000).unwrap().unwrap();
            assert_eq!(head.framing.is_ok(), fine, "{target}");
        }
    }

    #[test]
    fn more_fields_than_usual_are_taken_where_they_are_allowed() {
        let wire = format!("POST / HTTP/1.1\r\nHost: a\r\n{}\r\n", "A: b\r\n".repeat(299));
        let limits = Limits { headers: 300, ..limits() };
        let mut fields = Vec::new();
        assert!(parse(wire.as_bytes(), &limits, &mut fields).is_ok());
        assert_eq!(fields.len(), 300);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 1usize..50) {
            let _ = read(&bytes, cut);
        }

        #[test]
        fn nothing_that_looks_like_a_head_panics_and_cuts_do_not_matter(
            text in "(GET|POST|Q) [/a-c?#%:]{0,9} HTTP/1.[0-2]\r\n((Host|Content-Length|Transfer-Encoding|Connection|A|\\PC{0,3})[: ]{1,3}[0-9a-z, \t\n]{0,9}\r\n){0,5}\r?\n?",
            cut in 1usize..50,
        ) {
            let whole = read(text.as_bytes(), 10_000).map(|found| found.map(|(head, fields)| (format!("{head:?}"), fields)));
            let parts = read(text.as_bytes(), cut).map(|found| found.map(|(head, fields)| (format!("{head:?}"), fields)));
            prop_assert_eq!(whole, parts);
        }
    }
}
