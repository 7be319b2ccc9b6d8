//! What a backend answers: head and framing, without I/O.
//!
//! Strict where laxity could make two parties see two messages: one Content-Length at most, Transfer-Encoding exactly
//! `chunked` or absent, never both (RFC 9112 section 6.3). A violation makes the whole answer a 502 and the connection
//! is not used again. Interim answers are dropped; 101 is a violation since no upgrade is ever asked for.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

/// Header fields accepted from a backend.
const MAX_HEADERS: usize = 128;
/// Bytes of a backend's head, interim answers included.
pub(crate) const MAX_HEAD: usize = 64 * 1024;
/// Bytes of one chunk-size line or of all trailer fields.
const MAX_CHUNK_LINE: usize = 8 * 1024;

/// The backend broke HTTP.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Broken(pub(crate) &'static str);

/// How the body of an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body: HEAD, 204, 304.
    None,
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked,
    /// At the end of the connection.
    Close,
}

/// A final answer's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    /// 200 to 599.
    pub(crate) status: StatusCode,
    /// End-to-end fields only; framing fields are gone.
    headers: HeaderMap,
    /// How the body ends.
    pub(crate) framing: Framing,
    /// May the connection be used again once the body is read to its end?
    pub(crate) keep_alive: bool,
}

impl ResponseHead {
    /// The fields, in order of the names' first occurrence.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
    }
}

/// Takes a final head from the front of `buffer`, dropping interim ones. `None`: more bytes are needed.
pub(crate) fn take_head(buffer: &mut BytesMut, to_head_request: bool) -> Result<Option<ResponseHead>, Broken> {
    loop {
        if buffer.is_empty() {
            return Ok(None);
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if buffer.len() >= MAX_HEAD => return Err(Broken("head too large")),
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(Broken("too many header fields")),
            Err(_) => return Err(Broken("not an HTTP/1 response head")),
        };
        if length > MAX_HEAD {
            return Err(Broken("head too large"));
        }
        let status = parsed.code.unwrap_or(0);
        match status {
            101 => return Err(Broken("101 Switching Protocols without an upgrade asked for")),
            100..=199 => {
                buffer.advance(length);
                continue;
            }
            200..=599 => {}
            _ => return Err(Broken("status out of range")),
        }
        let version_11 = parsed.version == Some(1);
        // The head's bytes are shared with the values below instead of copied; offsets survive the split.
        let base = buffer.as_ptr() as usize;
        let spans: Vec<(HeaderName, usize, usize)> = parsed
            .headers
            .iter()
            .map(|field| {
                let name =
                    HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Broken("malformed header name"))?;
                Ok((name, field.value.as_ptr() as usize - base, field.value.len()))
            })
            .collect::<Result<_, Broken>>()?;
        let raw = buffer.split_to(length).freeze();
        return head(status, version_11, spans, &raw, to_head_request).map(Some);
    }
}

fn head(
    status: u16,
    version_11: bool,
    fields: Vec<(HeaderName, usize, usize)>,
    raw: &Bytes,
    to_head_request: bool,
) -> Result<ResponseHead, Broken> {
    let status = StatusCode::from_u16(status).map_err(|_| Broken("status out of range"))?;
    let mut headers = HeaderMap::with_capacity(fields.len());
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut connection: Vec<Bytes> = Vec::new();
    for (name, start, len) in fields {
        let value = raw.slice(start..start + len);
        if name == header::CONTENT_LENGTH {
            if length.is_some() {
                return Err(Broken("several Content-Length fields"));
            }
            length = Some(digits(&value).ok_or(Broken("malformed Content-Length"))?);
        } else if name == header::TRANSFER_ENCODING {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") || !version_11 {
                return Err(Broken("Transfer-Encoding other than exactly chunked"));
            }
            chunked = true;
        } else if name == header::CONNECTION {
            connection.push(value);
        } else if !is_hop_by_hop(&name) {
            let value = HeaderValue::from_maybe_shared(value).map_err(|_| Broken("malformed header value"))?;
            headers.append(name, value);
        }
    }
    if chunked && length.is_some() {
        return Err(Broken("Content-Length beside Transfer-Encoding"));
    }
    let mut keep_alive = version_11;
    for token in connection.iter().flat_map(|value| value.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii) {
        if token.eq_ignore_ascii_case(b"close") {
            keep_alive = false;
        } else if let Ok(nominated) = HeaderName::from_bytes(token) {
            headers.remove(nominated);
        }
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
    if to_head_request && let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(ResponseHead { status, headers, framing, keep_alive })
}

/// Fields that belong to one connection (RFC 9110 section 7.6.1, and `Proxy-Connection` and `Keep-Alive` of old).
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "proxy-authenticate"
            | "proxy-authorization"
    )
}

fn digits(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// Where a body is.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers(usize),
    Close,
    Done,
}

/// One step of a decoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes of the body.
    Data(Bytes),
    /// More has to be read.
    More,
    /// The body is whole. What is left in the buffer does not belong to it.
    End,
}

impl BodyDecoder {
    pub(crate) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize,
            Framing::Close => State::Close,
        };
        Self { state }
    }

    /// May the end of the connection be the end of the body?
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::Close
    }

    /// Takes what it can from the front of `buffer`.
    pub(crate) fn step(&mut self, buffer: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match self.state {
                State::Done => return Ok(Step::End),
                _ if buffer.is_empty() => return Ok(Step::More),
                State::Close => return Ok(Step::Data(buffer.split().freeze())),
                State::Length(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Step::Data(data));
                }
                State::Chunk(left) => {
                    let (data, left) = take(buffer, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Step::Data(data));
                }
                State::ChunkEnd => {
                    if buffer.len() < 2 {
                        return if buffer[0] == b'\r' {
                            Ok(Step::More)
                        } else {
                            Err(Broken("chunk not ended by CRLF"))
                        };
                    }
                    if &buffer[..2] != b"\r\n" {
                        return Err(Broken("chunk not ended by CRLF"));
                    }
                    buffer.advance(2);
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => {
                    let Some(line) = line(buffer, MAX_CHUNK_LINE)? else { return Ok(Step::More) };
                    let size = chunk_size(&line)?;
                    self.state = if size == 0 { State::Trailers(0) } else { State::Chunk(size) };
                }
                State::Trailers(seen) => {
                    let Some(line) = line(buffer, MAX_CHUNK_LINE)? else { return Ok(Step::More) };
                    let seen = seen + line.len() + 2;
                    if seen > MAX_CHUNK_LINE {
                        return Err(Broken("trailers too large"));
                    }
                    self.state = if line.is_empty() { State::Done } else { State::Trailers(seen) };
                }
            }
        }
    }
}

fn take(buffer: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    (buffer.split_to(now).freeze(), left - now as u64)
}

/// A line without its CRLF; a bare LF is refused.
fn line(buffer: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, Broken> {
    match memchr::memchr(b'\n', buffer) {
        Some(0) => Err(Broken("bare LF in chunked body")),
        Some(end) if buffer[end - 1] != b'\r' => Err(Broken("bare LF in chunked body")),
        Some(end) if end > max => Err(Broken("chunk line too long")),
        Some(end) => {
            let mut line = buffer.split_to(end + 1);
            line.truncate(end - 1);
            Ok(Some(line))
        }
        None if buffer.len() > max => Err(Broken("chunk line too long")),
        None => Ok(None),
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, Broken> {
    let end = memchr::memchr(b';', line).unwrap_or(line.len());
    let hex = line[..end].trim_ascii_end();
    if hex.is_empty() || hex.len() > 15 {
        return Err(Broken("malformed chunk size"));
    }
    hex.iter().try_fold(0u64, |sum, byte| {
        let digit = char::from(*byte).to_digit(16).ok_or(Broken("malformed chunk size"))?;
        Ok(sum << 4 | u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Option<ResponseHead>, Broken> {
        take_head(&mut BytesMut::from(text), false)
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
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", false, Framing::Length(1), false),
            ("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\n", false, Framing::Length(1), false),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
                false,
                Framing::Length(3),
                true,
            ),
        ] {
            let parsed = take_head(&mut BytesMut::from(head), to_head).unwrap().unwrap();
            assert_eq!((parsed.framing, parsed.keep_alive), (framing, keep), "{head:?}");
        }
    }

    #[test]
    fn hop_by_hop_and_nominated_fields_do_not_pass() {
        let parsed = parse(
            "HTTP/1.1 200 OK\r\nConnection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nX-Ok: 1\r\nContent-Length: 0\r\n\r\n",
        );
        let names: Vec<_> = parsed.unwrap().unwrap().headers.keys().map(|name| name.to_string()).collect();
        assert_eq!(names, ["x-ok"]);
    }

    fn decode(framing: Framing, wire: &[u8], cut: usize) -> Result<(Vec<u8>, bool), Broken> {
        let (mut decoder, mut buffer, mut body) = (BodyDecoder::new(framing), BytesMut::new(), Vec::new());
        for part in wire.chunks(cut.max(1)) {
            buffer.extend_from_slice(part);
            loop {
                match decoder.step(&mut buffer)? {
                    Step::Data(data) => body.extend_from_slice(&data),
                    Step::More => break,
                    Step::End => return Ok((body, true)),
                }
            }
        }
        Ok((body, false))
    }

    #[test]
    fn broken_chunks_are_refused() {
        for wire in [
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "\r\nhello",
            "ffffffffffffffffff\r\n",
            "5\0\r\nhello\r\n0\r\n\r\n",
        ] {
            assert!(decode(Framing::Chunked, wire.as_bytes(), 1000).is_err(), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn chunks_decode_the_same_however_they_arrive(body in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50, cut in 1usize..40) {
            let mut wire = Vec::new();
            for chunk in body.chunks(size) {
                wire.extend_from_slice(format!("{:X};ext=1\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
            prop_assert_eq!(decode(Framing::Chunked, &wire, cut).unwrap(), (body, true));
        }

        #[test]
        fn nothing_a_backend_sends_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..30) {
            let _ = take_head(&mut BytesMut::from(&bytes[..]), false);
            let _ = decode(Framing::Chunked, &bytes, cut);
        }
    }
}
