//! The strictness of the lean way over HTTP/1 on the complete way. pingora 0.9.1 takes an empty chunk size for the last
//! chunk, bare line feeds in chunk extensions, targets that it rewrites, and more: each makes two parties see two
//! different messages. So the parsers of the lean way read along. Where they find a fault the request is refused,
//! whatever pingora made of it, and where they see the last request of a connection it is the last one.

use super::http1::body::{BodyDecoder, Step};
use super::http1::framing::{self, Fault};
use crate::policy::Limits;
use crate::reject::{Reason, Reject};
use crate::request::Field;

/// What the parsers made of a connection's bytes so far. Requests are counted from 1.
#[derive(Debug)]
pub(super) struct Oversight {
    limits: Limits,
    /// The part of a head that is there.
    head: Vec<u8>,
    scanned: usize,
    fields: Vec<Field>,
    /// Within a body.
    body: Option<BodyDecoder>,
    /// Heads that are whole.
    heads: u64,
    /// Requests that were begun on.
    begun: u64,
    /// Nothing behind this request is one.
    last: Option<u64>,
    fault: Option<(u64, Fault)>,
}

impl Oversight {
    pub(super) fn new(limits: Limits) -> Self {
        let (head, fields) = (Vec::new(), Vec::new());
        Self { limits, head, scanned: 0, fields, body: None, heads: 0, begun: 0, last: None, fault: None }
    }

    /// The next request is looked for: its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Did some of this request's head come, and not all of it?
    pub(super) fn is_within_head(&self, number: u64) -> bool {
        self.heads + 1 == number && self.body.is_none() && !self.head.is_empty()
    }

    /// What is wrong with this request, or with one before it, as far as it came.
    pub(super) fn verdict(&self, number: u64) -> Result<(), Reject> {
        match self.fault {
            Some((at, fault)) if at <= number => Err(fault.reject()),
            _ => Ok(()),
        }
    }

    /// May another request follow this one?
    pub(super) fn goes_on_after(&self, number: u64) -> bool {
        self.fault.is_none() && self.last.is_none_or(|last| last > number)
    }

    /// Takes what came.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while self.fault.is_none() {
            let result = match &mut self.body {
                Some(body) => match body.step(bytes, &mut at) {
                    Ok(Step::Data(_)) => Ok(()),
                    Ok(Step::More) => return,
                    Ok(Step::End) => {
                        self.body = None;
                        Ok(())
                    }
                    Err(broken) => Err((self.heads, Fault::Malformed(broken.0))),
                },
                None if at == bytes.len() || self.last.is_some() => return,
                None => self.read_head(bytes, &mut at).map_err(|fault| (self.heads + 1, fault)),
            };
            self.fault = result.err();
        }
        self.head = Vec::new();
    }

    fn read_head(&mut self, bytes: &[u8], at: &mut usize) -> Result<(), Fault> {
        let before = self.head.len();
        self.head.extend_from_slice(bytes.get(*at..).unwrap_or_default());
        let Some(length) = framing::end_of_head(&self.head, &mut self.scanned, &self.limits)? else {
            *at = bytes.len();
            return Ok(());
        };
        self.head.truncate(length);
        let head = framing::parse(&self.head, &self.limits, &mut self.fields)?;
        let framing = head.framing.map_err(|broken| Fault::Malformed(broken.0))?;
        *at += length - before;
        self.heads += 1;
        if !head.keep_alive {
            self.last = Some(self.heads);
        }
        self.body = Some(BodyDecoder::of_request(framing));
        self.head.clear();
        self.scanned = 0;
        Ok(())
    }
}

impl Fault {
    /// What the sender gets for it.
    pub(super) fn reject(self) -> Reject {
        match self {
            Self::Malformed(why) => Reason::Malformed.because(why),
            Self::TooLarge => Reason::HeadersTooLarge.because("the head has no end within the limits"),
            Self::UriTooLong => Reason::UriTooLong.because("the request line has no end within the limits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { headers: 100, header_bytes: 32 << 10, uri_bytes: 8 << 10, body_memory: 1 << 20 };

    fn after(wire: &str, cut: usize) -> Oversight {
        let mut oversight = Oversight::new(LIMITS);
        wire.as_bytes().chunks(cut).for_each(|part| oversight.read(part));
        oversight
    }

    #[test]
    fn each_request_has_its_own_verdict_however_it_arrives() {
        const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        const TWO: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
        const LAST: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n";
        // The bytes, how many requests are fine, and whether another may follow the last of those.
        for (parts, fine, goes_on) in [
            (&[GET, GET][..], 2, true),
            (&[TWO, "{}", CHUNKED, "2;a=b\r\n{}\r\n0;c\r\n\r\n", GET], 3, true),
            (&[GET, CHUNKED, "2\r\n{}\r\n0\r\nX: y\r\n\r\n", GET], 1, false),
            (&[LAST, "anything\n"], 1, false),
            (&[GET, "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"], 1, false),
            (&[GET, "GET /?a b HTTP/1.1\r\nHost: a\r\n\r\n"], 1, false),
            (&[GET, "GET / HTTP/1.1\nHost: a\n\n"], 1, false),
            (&[CHUNKED, "\r\n\r\n"], 0, false),
            (&[CHUNKED, ";x\r\n\r\n"], 0, false),
            (&[GET, CHUNKED, "3;a\nb\r\nabc\r\n0\r\n\r\n"], 1, false),
            (&[GET, CHUNKED, "0;a\n\r\n"], 1, false),
            (&[TWO, "{}", "\r\n", GET], 1, false),
        ] {
            let wire = parts.concat();
            for cut in [1, 7, 1000] {
                let oversight = after(&wire, cut);
                let seen: Vec<_> = (1..=3).map(|number| oversight.verdict(number).is_ok()).collect();
                let whole = oversight.fault.is_none();
                let expected: Vec<_> = (1..=3).map(|number| whole || number <= fine).collect();
                assert_eq!((seen, oversight.goes_on_after(fine.max(1))), (expected, goes_on), "{wire:?}");
                assert!(oversight.heads >= fine, "{wire:?}");
            }
        }
    }

    #[test]
    fn a_head_that_is_begun_is_told_from_none() {
        let mut oversight = after("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 100);
        assert_eq!(oversight.begin(), 1);
        assert!(!oversight.is_within_head(1) && !oversight.is_within_head(2));
        oversight.read(b"GET / HT");
        assert!(oversight.is_within_head(2));
        assert_eq!(oversight.begin(), 2);
    }
}
