//! What an exchange needs of the connection that a request came on, whatever speaks HTTP there.

use super::body::Held;
use super::timer::Timer;
use super::upstream::Response;
use crate::reject::Reject;
use crate::request::{Head, Peer};
use std::borrow::Cow;
use tokio::time::Instant;

/// Version of HTTP towards the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    V10,
    V11,
    V2,
}

impl Http {
    /// As in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V10 => "1.0",
            Self::V11 => "1.1",
            Self::V2 => "2",
        }
    }
}

/// Which way requests of a connection go, for one metric label and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Lean,
    Complete,
}

/// Bounds of one body.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyTerms {
    /// The Content-Length.
    pub(super) declared: Option<u64>,
    /// Bytes that the route takes.
    pub(super) max: usize,
    /// Bytes that all bodies of the process may hold together.
    pub(super) max_held: usize,
    /// When all of it must be there.
    pub(super) until: Instant,
}

/// The head of an answer. A carrier adds framing, connection fields and the request's ID.
#[derive(Clone, Copy)]
pub(super) struct AnswerHead<'a> {
    pub(super) status: u16,
    pub(super) fields: Fields<'a>,
    pub(super) length: Length,
    pub(super) request_id: &'a str,
}

/// Fields of an answer: end-to-end ones only.
#[derive(Clone, Copy)]
pub(super) enum Fields<'a> {
    Ours(&'a [(Cow<'static, str>, Cow<'static, str>)]),
    Backend(&'a Response),
}

impl Fields<'_> {
    /// Shows every field.
    pub(super) fn each(&self, mut field: impl FnMut(&str, &[u8])) {
        match self {
            Self::Ours(fields) => fields.iter().for_each(|(name, value)| field(name, value.as_bytes())),
            Self::Backend(response) => response.fields().for_each(|(name, value)| field(name, value)),
        }
    }
}

/// What an answer says of its body's length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// So many bytes, even where none are sent (HEAD).
    Known(u64),
    /// The parts say themselves where they end.
    Streamed,
    /// Nothing of ours: 204, 304, and HEAD, where the backend's own field stands among the fields.
    Untold,
}

/// The sender did not take it, or not in time.
#[derive(Debug)]
pub(super) struct WriteFailed;

/// One request on a connection, from its whole head to the end of its answer. All waiting is bounded by the given
/// deadlines.
pub(super) trait Carrier: Send + Sync {
    const WAY: Way;

    /// The head as checks see it. What is verified, routed and forwarded is this one.
    fn head(&self) -> Head<'_>;

    /// The method alone, where nothing else of the head is asked for.
    fn method(&self) -> &str;

    fn http(&self) -> Http;

    fn peer(&self) -> Peer;

    /// Is the head's framing one that every party reads the same? For what the parser below lets through.
    fn strict(&self) -> Result<(), Reject>;

    /// Writes `100 Continue`.
    fn go_on(&mut self, timer: &mut Timer, until: Instant) -> impl Future<Output = Result<(), WriteFailed>> + Send;

    /// Reads the body to its end and shows every part to `seen` while it is hot. On an error nothing more on this
    /// connection is taken for a request.
    fn read_body(
        &mut self,
        terms: BodyTerms,
        held: &mut Held<'_>,
        timer: &mut Timer,
        seen: impl FnMut(&[u8]) + Send,
    ) -> impl Future<Output = Result<(), Reject>> + Send;

    /// The body that was read.
    fn body(&self) -> &[u8];

    /// Gives its memory back.
    fn drop_body(&mut self);

    /// Has all of the request been taken from the connection?
    fn is_read(&mut self) -> bool;

    /// No other request on this connection.
    fn close_after(&mut self);

    /// Writes the head, if it is still to be written, and a part of the body; flushed with the last one.
    fn write(
        &mut self,
        head: Option<AnswerHead<'_>>,
        body: &[u8],
        end: bool,
        timer: &mut Timer,
        until: Instant,
    ) -> impl Future<Output = Result<(), WriteFailed>> + Send;

    /// Reads on for a bounded time and size, and throws it away: else an answer may be lost to a connection reset.
    fn drain(&mut self, bytes: usize, timer: &mut Timer, until: Instant) -> impl Future<Output = ()> + Send;
}
