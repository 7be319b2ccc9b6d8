//! Where a body ends, in both directions, without I/O.
//!
//! Chunks are read byte for byte by a small automaton that never needs a byte twice, so that it does not matter how
//! they arrive. A size is one to sixteen hexadecimal digits and nothing else; a line ends with CRLF and nothing else.
//! Extensions and trailer fields are read over and count towards a bound: they are never kept or passed on. A trailer line
//! begins with a name and a colon all the same, or else somebody behind might see a request in it. A request with trailer
//! fields is refused: nobody checks what stands in them.

use super::Broken;
use crate::check::client_ip::is_token_byte;
use std::ops::Range;

/// Bytes of all chunk extensions and trailer fields of one body.
const MAX_OVERHEAD: usize = 16 * 1024;
/// Digits of a chunk size: what they say just fits into an u64.
const MAX_DIGITS: u8 = 16;

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// At the end of the connection; answers only.
    Close,
}

/// Where a body is.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    state: State,
    overhead: usize,
    trailers: Trailers,
}

/// Trailer fields (RFC 9110 section 6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailers {
    /// An answer's are left out.
    Dropped,
    /// A request has none so far.
    None,
    /// A request has some. It is refused when they are whole: one that is slow or too large gets the answer for that.
    Some,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Length(u64),
    Size {
        size: u64,
        digits: u8,
    },
    /// Blanks behind a size: only an extension or the end of the line may follow.
    SizeBlank(u64),
    Extension(u64),
    SizeLf(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    TrailerStart,
    TrailerName,
    Trailer,
    TrailerLf,
    LastLf,
    Close,
    Done,
}

/// One step of a decoder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Bytes of the body, by their place in what was given.
    Data(Range<usize>),
    /// More has to be read.
    More,
    /// The body is whole. What follows in what was given does not belong to it.
    End,
}

impl BodyDecoder {
    /// For the body of an answer.
    pub(crate) fn of_answer(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
            Framing::Close => State::Close,
        };
        Self { state, overhead: 0, trailers: Trailers::Dropped }
    }

    /// For the body of a request, which must not have trailer fields.
    pub(crate) fn of_request(framing: Framing) -> Self {
        Self { trailers: Trailers::None, ..Self::of_answer(framing) }
    }

    /// May the end of the connection be the end of the body?
    pub(crate) fn ends_with_connection(&self) -> bool {
        self.state == State::Close
    }

    /// Bytes that the present chunk has still to give.
    pub(crate) fn announced(&self) -> u64 {
        if let State::Chunk(left) = self.state { left } else { 0 }
    }

    /// Takes what it can of `bytes` from `at` on, and moves `at` behind it.
    pub(crate) fn step(&mut self, bytes: &[u8], at: &mut usize) -> Result<Step, Broken> {
        loop {
            match self.state {
                State::Done => return Ok(Step::End),
                State::Length(left) => {
                    let (data, left) = take(bytes, at, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(data);
                }
                State::Chunk(left) => {
                    let (data, left) = take(bytes, at, left);
                    self.state = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                    return Ok(data);
                }
                State::Close => return Ok(take(bytes, at, u64::MAX).0),
                _ => {}
            }
            let Some(byte) = bytes.get(*at) else { return Ok(Step::More) };
            *at += 1;
            self.state = self.after(*byte)?;
        }
    }

    /// One byte of what is not data.
    fn after(&mut self, byte: u8) -> Result<State, Broken> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                if digits == MAX_DIGITS {
                    return Err(Broken("chunk size too long"));
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(Broken("malformed chunk size")),
            (State::Size { size, .. } | State::SizeBlank(size), b';') => State::Extension(size),
            (State::Size { size, .. } | State::SizeBlank(size), b' ' | b'\t') => {
                self.count()?;
                State::SizeBlank(size)
            }
            (State::Size { size, .. } | State::SizeBlank(size) | State::Extension(size), b'\r') => State::SizeLf(size),
            (State::Extension(size), _) if is_text(byte) => {
                self.count()?;
                State::Extension(size)
            }
            (State::SizeLf(0), b'\n') => State::TrailerStart,
            (State::SizeLf(size), b'\n') => State::Chunk(size),
            (State::ChunkCr, b'\r') => State::ChunkLf,
            (State::ChunkLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::LastLf,
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerStart | State::TrailerName, _) if is_token_byte(byte) => {
                self.count()?;
                State::TrailerName
            }
            (State::TrailerName, b':') => State::Trailer,
            (State::Trailer, _) if is_text(byte) => {
                self.count()?;
                State::Trailer
            }
            (State::TrailerLf, b'\n') => {
                if self.trailers == Trailers::None {
                    self.trailers = Trailers::Some;
                }
                State::TrailerStart
            }
            (State::LastLf, b'\n') if self.trailers == Trailers::Some => return Err(Broken("trailer fields")),
            (State::LastLf, b'\n') => State::Done,
            (State::ChunkCr | State::ChunkLf, _) => return Err(Broken("chunk not ended by CRLF")),
            _ => return Err(Broken("malformed chunk")),
        })
    }

    fn count(&mut self) -> Result<(), Broken> {
        self.overhead += 1;
        if self.overhead > MAX_OVERHEAD { Err(Broken("chunk extensions or trailers too large")) } else { Ok(()) }
    }
}

/// What may stand in an extension or a trailer line.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn take(bytes: &[u8], at: &mut usize, left: u64) -> (Step, u64) {
    let here = bytes.len().saturating_sub(*at);
    let now = usize::try_from(left).unwrap_or(usize::MAX).min(here);
    if now == 0 {
        return (Step::More, left);
    }
    let start = *at;
    *at += now;
    (Step::Data(start..*at), left - now as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The body, whether it was whole, and what was left over.
    fn decode(framing: Framing, wire: &[u8], cut: usize) -> Result<(Vec<u8>, bool, usize), Broken> {
        let (mut decoder, mut buffer, mut at, mut body) = (BodyDecoder::of_answer(framing), Vec::new(), 0, Vec::new());
        for part in wire.chunks(cut.max(1)) {
            buffer.extend_from_slice(part);
            loop {
                match decoder.step(&buffer, &mut at)? {
                    Step::Data(data) => body.extend_from_slice(&buffer[data]),
                    Step::More => break,
                    Step::End => return Ok((body, true, wire.len() - at)),
                }
            }
            assert_eq!(at, buffer.len(), "nothing is left lying");
        }
        Ok((body, false, 0))
    }

    #[test]
    fn broken_chunks_are_refused() {
        for wire in [
            "+5\r\nhello\r\n0\r\n\r\n",
            "-5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\rhello\r\n0\r\n\r\n",
            "5;a\nhello\r\n0\r\n\r\n",
            "5;\0\r\nhello\r\n0\r\n\r\n",
            "5\r\nhelloXX0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "\r\nhello",
            ";\r\nhello",
            "5\0\r\nhello\r\n0\r\n\r\n",
            "0\r\nX: 1\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\nGET / HTTP/1.1\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX : 1\r\n\r\n",
            "0\r\n X: 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\n\n",
            "0\n\r\n",
            "fffffffffffffffff\r\n",
            "00000000000000000\r\n\r\n",
            "g\r\n",
        ] {
            for cut in [1, 3, 1000] {
                let decoded = decode(Framing::Chunked, wire.as_bytes(), cut);
                assert!(decoded.is_err(), "{wire:?}: {decoded:?}");
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_read_over_within_a_bound() {
        let wire = "5 ; a=\"b;c\"\r\nhello\r\n000\r\nX-Trailer: 1\r\nY: 2\r\n\r\nGET / ";
        for cut in [1, 2, 7, 1000] {
            let (body, whole, _) = decode(Framing::Chunked, wire.as_bytes(), cut).unwrap();
            assert_eq!((&*body, whole), (&b"hello"[..], true));
        }
        assert_eq!(decode(Framing::Chunked, wire.as_bytes(), 1000).unwrap().2, "GET / ".len());
        for long in
            [format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(20_000)), format!("0\r\n{}", "a: b\r\n".repeat(8000))]
        {
            assert!(decode(Framing::Chunked, long.as_bytes(), 100).is_err());
        }
    }

    #[test]
    fn a_request_with_trailer_fields_is_refused_when_they_are_whole() {
        let wire = b"2\r\n{}\r\n0\r\nX: 1\r\nY: 2\r\n\r\n";
        let mut decoder = BodyDecoder::of_request(Framing::Chunked);
        let (mut at, whole) = (0, wire.len() - 1);
        assert_eq!(decoder.step(wire, &mut at), Ok(Step::Data(3..5)));
        assert_eq!((decoder.step(&wire[..whole], &mut at), at), (Ok(Step::More), whole));
        assert_eq!(decoder.step(wire, &mut at), Err(Broken("trailer fields")));
    }

    proptest! {
        #[test]
        fn bodies_decode_the_same_however_they_arrive(
            body in prop::collection::vec(any::<u8>(), 0..300), size in 1usize..50, cut in 1usize..40, extra in "[a-z]{0,9}",
        ) {
            let mut wire = Vec::new();
            for chunk in body.chunks(size) {
                wire.extend_from_slice(format!("{:X};ext=1\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\nX-Trailer: 1\r\n\r\n");
            let end = wire.len();
            wire.extend_from_slice(extra.as_bytes());
            let (decoded, whole, left) = decode(Framing::Chunked, &wire, cut).unwrap();
            prop_assert_eq!((&decoded, whole), (&body, true));
            prop_assert!(left <= wire.len() - end + cut);
            let length = body.len() as u64;
            let (decoded, whole, _) = decode(Framing::Length(length), &[&body[..], extra.as_bytes()].concat(), cut).unwrap();
            prop_assert_eq!((&decoded, whole || length == 0), (&body, true));
        }

        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 1usize..30) {
            let _ = decode(Framing::Chunked, &bytes, cut);
        }

        #[test]
        fn nothing_chunk_like_panics_or_gives_more_than_came(wire in "[0-9a-f;\r\n xX:]{0,80}", cut in 1usize..9) {
            if let Ok((body, _, _)) = decode(Framing::Chunked, wire.as_bytes(), cut) {
                prop_assert!(body.len() <= wire.len());
            }
        }
    }
}
