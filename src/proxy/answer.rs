//! What senders get from us: RFC 9457 problems that say no more than their row in the table.

use crate::answer::Answer;
use crate::policy::{Answers, Https, Route};
use crate::reject::{Reason, Reject};
use bytes::Bytes;

/// The header that names a request in answers, logs and at the backend.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// Is it one of the failures of a signature, which all look alike?
fn is_signature(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::SignatureMissing
            | Reason::SignatureMalformed
            | Reason::SignatureMismatch
            | Reason::TimestampInvalid
            | Reason::TimestampTooOld
            | Reason::TimestampInFuture
    )
}

/// The status of a refusal on this route.
pub(super) fn status(reason: Reason, route: Option<&Route>) -> u16 {
    let answers = route.map_or_else(Answers::default, |route| route.answers);
    match reason {
        reason if is_signature(reason) => answers.unauthorized,
        Reason::Duplicate | Reason::Replayed => answers.duplicate,
        Reason::DuplicateInFlight => answers.busy,
        Reason::RateLimited => answers.rate_limited,
        Reason::HttpsRequired if route.is_some_and(|route| route.https == Https::Redirect) => 308,
        other if other.status() == 503 && other != Reason::SecretMissing => answers.overload,
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
) -> Answer {
    let mut status = reject.status.unwrap_or_else(|| status(reject.reason, route));
    if status == 308 && location.is_none() {
        status = reject.reason.status();
    }
    let manners = route.map(|route| &route.manners);
    let mut answer = match (manners, reject.reason) {
        (Some(manners), Reason::Duplicate | Reason::Replayed) if status < 300 => manners.acknowledge(status),
        _ => Answer::new(status),
    };
    if status >= 400 && !(is_signature(reject.reason) && manners.is_some_and(|manners| manners.empty_unauthorized)) {
        let title = reject.reason.row().title;
        answer.body = Bytes::from(format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"request_id\":\"{request_id}\"}}\n"
        ));
        answer = answer.with("content-type", "application/problem+json").with("cache-control", "no-store");
    }
    if let Some(manners) = manners
        && reject.reason.is_permanent()
    {
        for (name, value) in &manners.no_retry {
            answer = answer.with(name.to_string(), value.to_string());
        }
    }
    if matches!(reject.reason, Reason::Duplicate | Reason::Replayed) {
        answer = answer.with("hookmoat-duplicate", "true");
    }
    if reject.reason == Reason::MethodNotAllowed {
        answer = answer.with("allow", allow.join(", "));
    }
    if let (308, Some(location)) = (status, location) {
        answer = answer.with("location", location);
    }
    if matches!(status, 429 | 503) {
        // Whole seconds, rounded up: a sender that comes back exactly then must find room.
        let seconds = reject.retry_after.map_or(1, |after| after.as_secs_f64().ceil().max(1.0) as u64);
        answer = answer.with("retry-after", seconds.to_string());
    }
    answer
}
