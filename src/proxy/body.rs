//! Holding request bodies: whole, bounded by route, by time and by what all requests together may hold.

use super::carrier::BodyTerms;
use crate::reject::{Reason, Reject};
use bytes::{Bytes, BytesMut};
use pingora::ErrorType;
use pingora::protocols::http::ServerSession;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Room made for a body at first, whatever its declared length: nobody gets memory for an announcement.
const FIRST_ROOM: usize = 64 * 1024;

/// What all requests together may hold.
#[derive(Debug, Default)]
pub(super) struct BodyMemory {
    held: AtomicUsize,
}

/// A part of it, given back when dropped.
#[derive(Debug)]
pub(super) struct Held<'m> {
    memory: &'m BodyMemory,
    bytes: usize,
}

impl BodyMemory {
    /// Bytes held now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn hold(&self) -> Held<'_> {
        Held { memory: self, bytes: 0 }
    }

    /// Ends what [`Held::keep`] began.
    pub(super) fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Held<'_> {
    /// Holds so many more, of at most `max` altogether.
    pub(super) fn grow(&mut self, bytes: usize, max: usize) -> Result<(), Reject> {
        let held = self.memory.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        if held > max {
            return Err(Reason::Overload.because(format!("{held} body bytes held, {max} allowed")));
        }
        Ok(())
    }

    /// For a body that outlives its request: goes on counting until these bytes are given back.
    pub(super) fn keep(mut self) -> usize {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

/// Did the HTTP/2 library itself end the stream (RFC 9113 section 8.1.1), and not the sender?
fn is_malformed_stream(error: &pingora::Error) -> bool {
    let cause = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && cause.reason() == Some(h2::Reason::PROTOCOL_ERROR))
}

/// Reads the body to its end and shows every part to `seen` while it is hot.
pub(super) async fn read(
    session: &mut ServerSession,
    terms: BodyTerms,
    held: &mut Held<'_>,
    mut seen: impl FnMut(&[u8]),
) -> Result<Bytes, Reject> {
    let BodyTerms { declared, max, max_held, .. } = terms;
    let mut whole = BytesMut::new();
    loop {
        let chunk = match session.read_request_body().await {
            Ok(Some(chunk)) if chunk.is_empty() => continue,
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => {
                return Err(match error.etype() {
                    _ if is_malformed_stream(&error) => Reason::Malformed.because(
                        "the HTTP/2 stream was reset: trailer fields, or a body of another length than declared",
                    ),
                    ErrorType::ReadError | ErrorType::ConnectionClosed | ErrorType::H2Error => {
                        Reason::ClientGone.because("connection ended within the body")
                    }
                    ErrorType::ReadTimedout => Reason::ClientTimeout.because("body"),
                    _ => Reason::Malformed.because("body framing"),
                });
            }
        };
        if whole.len() + chunk.len() > max {
            return Err(Reason::BodyTooLarge.because(format!("more than {max} bytes")));
        }
        held.grow(chunk.len(), max_held)?;
        seen(&chunk);
        if whole.is_empty() && declared == Some(chunk.len() as u64) {
            // The usual webhook: all of it in one read, and nothing is copied. One more read notes its end.
            whole = BytesMut::from(chunk);
            continue;
        }
        if whole.capacity() - whole.len() < chunk.len() {
            let announced = declared.and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            let left = announced.saturating_sub(whole.len());
            // Once as much as that has really come, the rest is made room for at once instead of grown into.
            let room = if whole.len() < FIRST_ROOM { left.min(FIRST_ROOM) } else { left };
            whole.reserve(room.max(chunk.len()));
        }
        whole.extend_from_slice(&chunk);
    }
    if declared.is_some_and(|length| length != whole.len() as u64) {
        return Err(Reason::ClientGone.because("body shorter than declared"));
    }
    Ok(whole.freeze())
}
