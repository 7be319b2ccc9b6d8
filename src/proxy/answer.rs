//! What senders get from us: RFC 9457 problems that say no more than their row in the table.

use crate::policy::{Answers, Https, Route};
use crate::reject::{Reason, Reject};
use bytes::Bytes;
use http::{HeaderName, header};
use pingora::http::ResponseHeader;

const DUPLICATE: HeaderName = HeaderName::from_static("hookmoat-duplicate");
/// The header that names a request in answers, logs and at the backend.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An answer of our own.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) header: Box<ResponseHeader>,
    pub(super) body: Bytes,
}

/// The status of a refusal on this route.
pub(super) fn status(reason: Reason, route: Option<&Route>) -> u16 {
    let answers = route.map_or_else(Answers::default, |route| route.answers);
    match reason {
        Reason::SignatureMissing
        | Reason::SignatureMalformed
        | Reason::SignatureMismatch
        | Reason::TimestampInvalid
        | Reason::TimestampTooOld
        | Reason::TimestampInFuture => answers.unauthorized,
        Reason::Duplicate | Reason::Replayed => answers.duplicate,
        Reason::DuplicateInFlight => answers.busy,
        Reason::RateLimited => answers.rate_limited,
        Reason::HttpsRequired if route.is_some_and(|route| route.https == Https::Redirect) => 308,
        other => other.status(),
    }
}

/// Builds the answer to a refusal.
pub(super) fn to_refusal(
    reject: &Reject,
    route: Option<&Route>,
    request_id: &str,
    allow: &[String],
    location: Option<String>,
) -> pingora::Result<Answer> {
    let mut status = status(reject.reason, route);
    if status == 308 && location.is_none() {
        status = reject.reason.status();
    }
    let duplicate = matches!(reject.reason, Reason::Duplicate | Reason::Replayed);
    let empty = status < 400;
    let body = if empty {
        Bytes::new()
    } else {
        let title = reject.reason.row().title;
        Bytes::from(format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"request_id\":\"{request_id}\"}}\n"
        ))
    };
    let mut header = Box::new(ResponseHeader::build(status, Some(8))?);
    if status != 204 {
        header.insert_header(header::CONTENT_LENGTH, body.len())?;
    }
    header.insert_header(REQUEST_ID, request_id)?;
    if !empty {
        header.insert_header(header::CONTENT_TYPE, "application/problem+json")?;
        header.insert_header(header::CACHE_CONTROL, "no-store")?;
    }
    if duplicate {
        header.insert_header(DUPLICATE, "true")?;
    }
    if reject.reason == Reason::MethodNotAllowed {
        header.insert_header(header::ALLOW, allow.join(", "))?;
    }
    if let (308, Some(location)) = (status, location) {
        header.insert_header(header::LOCATION, location)?;
    }
    if matches!(status, 429 | 503) {
        // Whole seconds, rounded up: a sender that comes back exactly then must find room.
        let seconds = reject.retry_after.map_or(1, |after| after.as_secs_f64().ceil().max(1.0) as u64);
        header.insert_header(header::RETRY_AFTER, seconds)?;
    }
    Ok(Answer { status, header, body })
}
