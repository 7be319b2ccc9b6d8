//! What a backend answers: its head, without I/O.
//!
//! Strict where laxity could make two parties see two messages: one Content-Length at most, Transfer-Encoding exactly
//! `chunked` or absent, never both (RFC 9112 section 6.3). A violation makes the whole answer a 502 and the connection
//! is not used again. Interim answers are dropped; 101 is a violation since no upgrade is ever asked for.

use super::super::http1::Broken;
use super::super::http1::body::Framing;
use super::super::http1::framing::digits;
use crate::request::{Field, Span};
use http::StatusCode;
use std::mem::MaybeUninit;

/// Header fields accepted from a backend.
const MAX_HEADERS: usize = 128;
/// Bytes of a backend's head, interim answers included.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// A final answer's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// 200 to 599.
    pub(crate) status: StatusCode,
    /// How the body ends.
    pub(crate) framing: Framing,
    /// What Content-Length says, also where there is no body (HEAD).
    pub(crate) declared: Option<u64>,
    /// May the connection be used again once the body is read to its end?
    pub(crate) keep_alive: bool,
}

/// Takes a final head from `bytes`, from `at` on, which is moved behind it and behind interim ones. `fields` is filled
/// with the end-to-end ones, without those of framing. `None`: more bytes are needed.
pub(crate) fn take_head(
    bytes: &[u8],
    at: &mut usize,
    to_head_request: bool,
    fields: &mut Vec<Field>,
) -> Result<Option<ResponseHead>, Broken> {
    loop {
        let rest = bytes.get(*at..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        let mut places = [const { MaybeUninit::uninit() }; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let length = match config.parse_response_with_uninit_headers(&mut parsed, rest, &mut places) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if rest.len() >= MAX_HEAD => return Err(Broken("head too large")),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Broken("too many header fields")),
            Err(_) => return Err(Broken("not an HTTP/1 response head")),
        };
        if length > MAX_HEAD {
            return Err(Broken("head too large"));
        }
        match parsed.code.unwrap_or(0) {
            101 => return Err(Broken("101 Switching Protocols without an upgrade asked for")),
            100..=199 => *at += length,
            200..=599 => {
                let head = head(&parsed, bytes, to_head_request, fields)?;
                *at += length;
                return Ok(Some(head));
            }
            _ => return Err(Broken("status out of range")),
        }
    }
}

fn head(
    parsed: &httparse::Response<'_, '_>,
    bytes: &[u8],
    to_head_request: bool,
    fields: &mut Vec<Field>,
) -> Result<ResponseHead, Broken> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Broken("status out of range"))?;
    let version_11 = parsed.version == Some(1);
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut keep_alive = version_11;
    let mut nominates = false;
    let mut ends = [false; 2];
    fields.clear();
    for field in parsed.headers.iter() {
        match Span::of(field.value, bytes).next(bytes) {
            Some(b'\r') => ends[0] = true,
            Some(b'\n') => ends[1] = true,
            _ => {}
        }
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if length.is_some() {
                return Err(Broken("several Content-Length fields"));
            }
            length = Some(digits(field.value).ok_or(Broken("malformed Content-Length"))?);
        } else if is("transfer-encoding") {
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") || !version_11 {
                return Err(Broken("Transfer-Encoding other than exactly chunked"));
            }
            chunked = true;
        } else if is("connection") {
            nominates = true;
            if tokens(field.value).any(|token| token.eq_ignore_ascii_case(b"close")) {
                keep_alive = false;
            }
        } else if !is_hop_by_hop(field.name) {
            fields.push(Field::of(field.name.as_bytes(), field.value, bytes));
        }
    }
    // Old backends end all lines with a bare LF (RFC 9112 section 2.2). One among others is somebody's value that became a
    // field.
    if ends == [true; 2] {
        return Err(Broken("bare LF among the lines of the head"));
    }
    if chunked && length.is_some() {
        return Err(Broken("Content-Length beside Transfer-Encoding"));
    }
    if nominates {
        let connection = || parsed.headers.iter().filter(|field| field.name.eq_ignore_ascii_case("connection"));
        fields.retain(|field| {
            let name = field.name(bytes);
            !connection().flat_map(|field| tokens(field.value)).any(|token| token.eq_ignore_ascii_case(name))
        });
    }
    let framing = if to_head_request || matches!(status.as_u16(), 204 | 304) {
        Framing::None
    } else if chunked {
        Framing::Chunked
    } else if let Some(length) = length {
        Framing::Length(length)
    } else {
        keep_alive = false;
        Framing::Close
    };
    Ok(ResponseHead { status, framing, declared: length, keep_alive })
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1, and `Proxy-Connection` and `Keep-Alive` of old).
fn is_hop_by_hop(name: &str) -> bool {
    let is = |known: &str| name.eq_ignore_ascii_case(known);
    match name.len() {
        2 => is("te"),
        7 => is("trailer") || is("upgrade"),
        10 => is("keep-alive"),
        16 => is("proxy-connection"),
        18 => is("proxy-authenticate"),
        19 => is("proxy-authorization"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<ResponseHead>, Broken> {
        take_head(text.as_bytes(), &mut 0, false, &mut Vec::new())
    }

    #[test]
    fn ambiguous_or_broken_heads_are_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "HTTP/1.1 999 Odd\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\nX: a\r\nContent-Length: 0\n\n",
            "SSH-2.0-OpenSSH\r\n",
        ] {
            assert!(parse(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn framing_follows_rfc_9112() {
        for (head, to_head, framing, keep) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", false, Framing::Length(12), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n", true, Framing::None, true),
            ("HTTP/1.1 204 No Content\r\n\r\n", false, Framing::None, true),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, Framing::None, true),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", false, Framing::Chunked, true),
            ("HTTP/1.1 200 OK\r\n\r\n", false, Framing::Close, false),
            ("HTTP/1.1 200 OK\nContent-Length: 12\n\n", false, Framing::Length(12), true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, Framing::Length(1), false),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\n", false, Framing::Length(1), false),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                false,
                Framing::Length(3),
                true,
            ),
        ] {
            let parsed = take_head(head.as_bytes(), &mut 0, to_head, &mut Vec::new()).unwrap().unwrap();
            assert_eq!((parsed.framing, parsed.keep_alive), (framing, keep), "{head:?}");
        }
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_do_not_pass() {
        let (mut fields, mut at) = (Vec::new(), 0);
        let wire = concat!(
            "HTTP/1.1 103 Early Hints\r\nX-Early: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-Ok: 1\r\nContent-Length: 0\r\n\r\n",
            "rest",
        );
        take_head(wire.as_bytes(), &mut at, false, &mut fields).unwrap().unwrap();
        let seen: Vec<_> = fields.iter().map(|field| field.pair(wire.as_bytes())).collect();
        assert_eq!((&*seen, &wire[at..]), (&[("X-Ok", &b"1"[..])][..], "rest"));
    }

    proptest! {
        #[test]
        fn nothing_a_backend_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = take_head(&bytes, &mut 0, false, &mut Vec::new());
        }
    }
}
