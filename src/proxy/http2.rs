//! What an HTTP/2 connection may do besides making requests.
//!
//! The library below bounds what it holds for a connection (header lists and CONTINUATION frames, streams, streams that
//! were reset before anybody looked at them, streams that it had to reset itself, empty DATA frames). It does not bound
//! how often it is made to work: a peer may ping, set, prioritise, open windows and cancel requests as fast as it can
//! write. So the frames that come in are counted here, on their way, without being looked into.
//!
//! Requests over the rate wait, and with them all that comes behind. Anything else over its rate ends the connection: no
//! client has a reason for it. A request's head has a deadline from its first frame to its last.
//!
//! The library reads trailer fields and gives them to whoever asks; nobody would check them. A request that has some is
//! broken here, so that its stream is reset like any other malformed one.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// A rate with a burst.
#[derive(Clone, Copy, Debug)]
struct Rate {
    each_second: f64,
    burst: f64,
}

/// PING, SETTINGS, PRIORITY, CONTINUATION, empty DATA, and frames of unknown types. A client pings a few times a minute,
/// and some send one or two such frames beside each request.
const CONTROL: Rate = Rate { each_second: 50.0, burst: 500.0 };
const CONTROL_FOR_REQUEST: f64 = 2.0;
/// Requests that the client itself cancels: one that gives up does so now and then.
const CANCELLED: Rate = Rate { each_second: 10.0, burst: 100.0 };
/// WINDOW_UPDATE: clients send one or two for some kilobytes of an answer.
const UPDATES: Rate = Rate { each_second: 50.0, burst: 500.0 };
const UPDATES_FOR_BYTE: f64 = 2.0 / 1024.0;

// Types and flags of RFC 9113 section 6.
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub(super) const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes before the first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;

/// Why a connection ends.
pub(super) type Flood = &'static str;

/// What the library ends, by its code (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection, with a GOAWAY.
    Connection(u32),
    /// One request, with a RST_STREAM.
    Stream(u32),
}

/// The frames that go out, for those that say that the library gives something up.
#[derive(Debug)]
pub(super) struct Sent {
    /// The head of a frame and, of a GOAWAY, the last stream and the code, of a RST_STREAM the code (RFC 9113 sections 6.4
    /// and 6.8).
    head: [u8; 17],
    have: usize,
    skip: usize,
}

impl Sent {
    pub(super) fn new() -> Self {
        Self { head: [0; 17], have: 0, skip: 0 }
    }

    /// May another frame begin here?
    pub(super) fn is_between_frames(&self) -> bool {
        self.have == 0 && self.skip == 0
    }

    /// Tells of what ends with the bytes that go out.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut tell: impl FnMut(End)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((byte, rest)) = bytes.split_first() else { return };
            bytes = rest;
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            let [a, b, c, kind, _, _, _, _, _, first @ .., w, x, y, z] = self.head;
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let inside = match (kind, length) {
                (RST_STREAM, 4) => 4,
                (GOAWAY, 8..) => 8,
                _ => 0,
            };
            if self.have >= 9 && self.have == 9 + inside {
                (self.have, self.skip) = (0, length - inside);
                match inside {
                    4 => tell(End::Stream(u32::from_be_bytes(first))),
                    8 => tell(End::Connection(u32::from_be_bytes([w, x, y, z]))),
                    _ => {}
                }
            }
        }
    }
}

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    /// Of the frame that is coming in: its head as far as it is there, and bytes that follow it.
    head: [u8; 9],
    have: usize,
    skip: usize,
    requests: Bucket,
    control: Bucket,
    cancelled: Bucket,
    updates: Bucket,
    header_timeout: Duration,
    /// When the head of a request that has begun must be whole, and whether this frame is its last.
    head_until: Option<Instant>,
    is_last: bool,
    /// The newest stream that the client opened.
    stream: u32,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: f64,
    at: Instant,
}

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self { rate, left: rate.burst, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at);
        self.at = now;
        self.give(since.as_secs_f64() * self.rate.each_second);
    }

    fn give(&mut self, more: f64) {
        self.left = (self.left + more).min(self.rate.burst);
    }

    /// Takes one; false: there was none.
    fn take(&mut self) -> bool {
        self.left -= 1.0;
        self.left >= 0.0
    }
}

impl Frames {
    /// For a connection that begins now and may begin so many requests a second.
    pub(super) fn new(requests: u32, header_timeout: Duration, now: Instant) -> Self {
        let requests = f64::from(requests);
        Self {
            head: [0; 9],
            have: 0,
            skip: PREFACE,
            requests: Bucket::new(Rate { each_second: requests, burst: requests }, now),
            control: Bucket::new(CONTROL, now),
            cancelled: Bucket::new(CANCELLED, now),
            updates: Bucket::new(UPDATES, now),
            header_timeout,
            head_until: None,
            is_last: false,
            stream: 0,
            timer: None,
        }
    }

    /// Bytes that came in.
    pub(super) fn read(&mut self, bytes: &mut [u8], now: Instant) -> Result<(), Flood> {
        for bucket in [&mut self.requests, &mut self.control, &mut self.cancelled, &mut self.updates] {
            bucket.refill(now);
        }
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            if self.skip == 0 && self.is_last {
                (self.head_until, self.is_last) = (None, false);
            }
            let Some(byte) = bytes.get(at) else { return Ok(()) };
            if let Some(place) = self.head.get_mut(self.have) {
                *place = *byte;
            }
            at += 1;
            self.have += 1;
            if self.have == self.head.len() {
                self.have = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.frame(kind, flags, now)?;
                if kind == HEADERS && !self.opens() && flags & END_STREAM != 0 {
                    // Trailer fields that do not end the stream are malformed (RFC 9113 section 8.1).
                    let place = at.checked_sub(5).and_then(|place| bytes.get_mut(place));
                    // The rest of this frame's head came later than its flags, which are passed on already.
                    *place.ok_or("trailer fields")? &= !END_STREAM;
                }
            }
        }
    }

    /// Does the frame whose head is there open a stream? Otherwise its fields are trailers.
    fn opens(&mut self) -> bool {
        let [_, _, _, _, _, stream @ ..] = self.head;
        let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
        let opens = stream > self.stream;
        self.stream = self.stream.max(stream);
        opens
    }

    /// A frame whose head is there.
    fn frame(&mut self, kind: u8, flags: u8, now: Instant) -> Result<(), Flood> {
        self.is_last = matches!(kind, 1 | 9) && flags & END_HEADERS != 0;
        let fits = |fits: bool, flood: Flood| if fits { Ok(()) } else { Err(flood) };
        match kind {
            0 if self.skip > 0 || flags & END_STREAM != 0 => Ok(()),
            HEADERS => {
                self.requests.take();
                self.control.give(CONTROL_FOR_REQUEST);
                self.head_until = Some(now + self.header_timeout);
                Ok(())
            }
            RST_STREAM => fits(self.cancelled.take(), "too many requests cancelled"),
            8 => fits(self.updates.take(), "too many window updates"),
            _ => fits(self.control.take(), "too many frames that ask for nothing"),
        }
    }

    /// The last stream that the client opened, 0 for none.
    pub(super) fn newest_stream(&self) -> u32 {
        self.stream
    }

    /// Bytes that went out: they will be answered with window updates.
    pub(super) fn wrote(&mut self, count: usize) {
        self.updates.give(count as f64 * UPDATES_FOR_BYTE);
    }

    /// Ready when more may be read.
    pub(super) fn poll_may_read(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.requests.left >= 0.0 {
            return Poll::Ready(());
        }
        self.requests.refill(Instant::now());
        if self.requests.left >= 0.0 {
            return Poll::Ready(());
        }
        let wait = Duration::from_secs_f64(-self.requests.left / self.requests.rate.each_second);
        let until = Instant::now() + wait;
        self.poll_at(until, cx).map(drop)
    }

    /// To be asked when there is nothing to read: ready when a head has taken too long.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.head_until {
            Some(until) => self.poll_at(until, cx),
            None => Poll::Pending,
        }
    }

    fn poll_at(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if timer.deadline() != until {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0; payload]].concat()
    }

    #[test]
    fn what_ends_is_found_wherever_the_bytes_are_cut() {
        let farewell = |code: u8| [&[0, 0, 10, 7, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0][..], &[code], b"ab"].concat();
        let reset = |code: u8| [0, 0, 4, 3, 0, 0, 0, 0, 5, 0, 0, 0, code].to_vec();
        for (sent, expected) in [
            ([frame(0, 0, 40), farewell(11), frame(1, 4, 3)].concat(), vec![End::Connection(11)]),
            ([frame(7, 0, 3), frame(4, 0, 0), farewell(0)].concat(), vec![End::Connection(0)]),
            (
                [reset(1), frame(6, 0, 8), reset(7), farewell(2)].concat(),
                vec![End::Stream(1), End::Stream(7), End::Connection(2)],
            ),
            ([frame(3, 0, 5), frame(3, 0, 3), frame(0, 0, 4), frame(4, 0, 12)].concat(), vec![]),
        ] {
            for cut in 1..sent.len() {
                let (mut frames, mut found) = (Sent::new(), Vec::new());
                sent.chunks(cut).for_each(|part| frames.read(part, |end| found.push(end)));
                assert_eq!(found, expected, "{cut}");
            }
        }
    }

    fn begun() -> (Frames, Instant) {
        let now = Instant::now();
        let mut frames = Frames::new(100, Duration::from_secs(5), now);
        frames.read(&mut [0; PREFACE], now).unwrap();
        (frames, now)
    }

    /// How many of them pass at once, up to a thousand.
    fn pass(frame: &[u8]) -> usize {
        let (mut frames, now) = begun();
        (0..1000).take_while(|_| frames.read(&mut frame.to_vec(), now).is_ok()).count()
    }

    #[tokio::test]
    async fn what_asks_for_nothing_ends_the_connection_soon() {
        for (case, bytes, expected) in [
            ("PING", frame(6, 0, 8), 500),
            ("SETTINGS", frame(4, 0, 6), 500),
            ("SETTINGS, acknowledged", frame(4, 1, 0), 500),
            ("PRIORITY", frame(2, 0, 5), 500),
            ("CONTINUATION", frame(9, 0, 10), 500),
            ("empty DATA", frame(0, 0, 0), 500),
            ("of an unknown type", frame(99, 0, 3), 500),
            ("RST_STREAM", frame(3, 0, 4), 100),
            ("WINDOW_UPDATE", frame(8, 0, 4), 500),
            ("DATA", frame(0, 0, 1), 1000),
            ("empty DATA at the end", frame(0, 1, 0), 1000),
            ("requests", frame(1, 5, 20), 1000),
        ] {
            assert_eq!(pass(&bytes), expected, "{case}");
        }
    }

    #[tokio::test]
    async fn frames_are_the_same_however_they_arrive() {
        let bytes = [frame(1, 4, 300), frame(6, 0, 8), frame(0, 0, 5), frame(3, 0, 4)].concat();
        for size in [1, 2, 9, 10, 100, bytes.len()] {
            let (mut frames, now) = begun();
            for part in bytes.clone().chunks_mut(size) {
                frames.read(part, now).unwrap();
            }
            assert_eq!((frames.have, frames.skip), (0, 0), "{size}");
            assert_eq!(
                (frames.requests.left, frames.control.left, frames.cancelled.left),
                (99.0, 499.0, 99.0),
                "{size}"
            );
        }
    }

    #[tokio::test]
    async fn trailer_fields_lose_what_would_make_them_right() {
        let on = |stream: u8, kind: u8, flags: u8| {
            let mut frame = frame(kind, flags, 7);
            frame[8] = stream;
            frame
        };
        let wire = [on(1, 1, 4), on(1, 0, 0), on(3, 1, 5), on(1, 1, 5), on(5, 1, 5), on(1, 9, 4), on(3, 1, 4)].concat();
        let flags = wire.chunks(16).position(|frame| frame == on(1, 1, 5)).expect("there") * 16 + 4;
        for cut in 0..wire.len() {
            let (mut frames, now) = begun();
            let mut read = wire.clone();
            let (one, two) = read.split_at_mut(cut);
            let result = frames.read(one, now).and_then(|()| frames.read(two, now));
            // Between the flags and the end of their frame's head.
            if (flags + 1..flags + 5).contains(&cut) {
                assert_eq!(result, Err("trailer fields"), "{cut}");
            } else {
                let mut expected = wire.clone();
                expected[flags] = 4;
                assert_eq!((result, read), (Ok(()), expected), "{cut}");
            }
        }
    }

    #[tokio::test]
    async fn requests_over_the_rate_wait_and_answers_bring_window_updates() {
        let (mut frames, now) = begun();
        for _ in 0..150 {
            frames.read(&mut frame(1, 5, 20), now).unwrap();
        }
        assert!(frames.requests.left < 0.0);
        frames.read(&mut [], now + Duration::from_millis(600)).unwrap();
        assert!(frames.requests.left >= 0.0);
        let (mut frames, now) = begun();
        for _ in 0..2000 {
            frames.wrote(1024);
            frames.read(&mut frame(8, 0, 4), now).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_is_not_ended_meets_its_deadline() {
        let (mut frames, now) = begun();
        frames.read(&mut frame(1, 0, 20), now).unwrap();
        frames.read(&mut frame(9, 0, 20), now).unwrap();
        let begun = Instant::now();
        std::future::poll_fn(|cx| frames.poll_overdue(cx)).await;
        assert!(begun.elapsed() >= Duration::from_secs(5));
        frames.read(&mut frame(9, 4, 20), now).unwrap();
        assert_eq!(frames.head_until, None);
        // So does one whose only frame does not come to its end.
        let mut half = frame(1, 5, 20);
        frames.read(&mut half[..15], now).unwrap();
        assert!(frames.head_until.is_some());
        frames.read(&mut half[15..], now).unwrap();
        assert_eq!(frames.head_until, None);
    }
}
