//! The table of refusals: every way a request can fail to reach the backend, one row each.
//!
//! A check answers with a [`Reject`]: a [`Reason`] from the table and a private detail for the log. What the sender
//! gets is decided by the row alone, so that a detail can never leak into an answer. All signature failures share one
//! public text and one status: a forger learns nothing (promise 7).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// How loudly a refusal is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Expected traffic: duplicates.
    Info,
    /// Somebody should look when it repeats.
    Warn,
    /// Something on this side is broken.
    Error,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The value of the `reason` label and of the log's `reason` field. Stable.
    pub label: &'static str,
    /// The status unless a route or preset says otherwise.
    pub status: u16,
    /// The `title` of the answer (RFC 9457). The same for all failures of a signature.
    pub title: &'static str,
    /// Log level of the event.
    pub level: Level,
    /// For the operator: what it means and what to do.
    pub help: &'static str,
}

macro_rules! reasons {
    ($($variant:ident, $label:literal, $status:literal, $title:literal, $level:ident, $help:literal;)+) => {
        /// Why a request was refused. [`Reason::row`] has what the sender and the operator get to see.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $help] $variant,)+ }

        impl Reason {
            /// All reasons, in the order of the table.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)+];

            /// The row of this reason.
            pub const fn row(self) -> &'static Row {
                match self {
                    $(Reason::$variant => &Row {
                        label: $label, status: $status, title: $title, level: Level::$level, help: $help,
                    },)+
                }
            }
        }
    };
}

reasons! {
    Malformed, "malformed", 400, "Bad Request", Warn,
        "the request is ambiguous or broken HTTP: framing, Host, characters, path spelling; a proxy in front that rewrites requests is the usual innocent cause";
    NoRoute, "no_route", 404, "Not Found", Info,
        "no route has this host and path; compare with `routes` in the configuration";
    MethodNotAllowed, "method_not_allowed", 405, "Method Not Allowed", Info,
        "the route does not accept this method; see `methods`";
    HttpsRequired, "https_required", 403, "HTTPS Required", Warn,
        "the request came over plain HTTP; if a proxy in front ends TLS, list its address in `trusted_proxies` and let it send X-Forwarded-Proto";
    AddressDenied, "address_denied", 403, "Forbidden", Info,
        "the peer is one of `connections.deny`, and its connection was open before it was; new ones are closed at once";
    AddressUnknown, "address_unknown", 403, "Forbidden", Warn,
        "a trusted proxy sent an X-Forwarded-For or Forwarded that cannot be read, so no client address is known";
    AddressNotAllowed, "address_not_allowed", 403, "Forbidden", Warn,
        "the client address is in none of the route's `allow` networks; if it is your load balancer's, set `trusted_proxies`";
    ClientCertificate, "client_certificate", 403, "Forbidden", Warn,
        "the sender showed no client certificate, or one that is none of the route's `client_certificates`; the log says whose it was";
    RangesUnavailable, "ranges_unavailable", 503, "Service Unavailable", Error,
        "the route allows the sender's published addresses and no list of them is there yet: see the log for why it cannot be fetched; the service is not ready";
    RateLimited, "rate_limited", 429, "Too Many Requests", Warn,
        "over the route's `rate_limit`; Retry-After says when one more request fits";
    HeadersTooLarge, "headers_too_large", 431, "Request Header Fields Too Large", Warn,
        "more or longer header fields than `limits.headers` and `limits.header_bytes` allow";
    UriTooLong, "uri_too_long", 414, "URI Too Long", Warn,
        "the request target is longer than `limits.uri_bytes`";
    ExpectationFailed, "expectation_failed", 417, "Expectation Failed", Warn,
        "Expect holds something other than 100-continue";
    ContentTypeNotAllowed, "content_type_not_allowed", 415, "Unsupported Media Type", Warn,
        "the Content-Type is not in the route's `content_types`";
    ContentEncodingNotAllowed, "content_encoding_not_allowed", 415, "Unsupported Media Type", Warn,
        "the Content-Encoding is not in the route's `content_encodings`";
    HeaderMissing, "header_missing", 400, "Bad Request", Warn,
        "a header that the route requires is missing";
    BodyTooLarge, "body_too_large", 413, "Content Too Large", Warn,
        "the declared or counted body is larger than `max_body`";
    ClientTimeout, "client_timeout", 408, "Request Timeout", Warn,
        "the sender did not deliver its headers or body within `timeouts.header` or `timeouts.body`";
    ClientGone, "client_gone", 400, "Bad Request", Info,
        "the sender closed the connection before its request was complete";
    Overload, "overload", 503, "Service Unavailable", Error,
        "the process holds as many body bytes as `limits.body_memory` allows";
    SignatureMissing, "signature_missing", 401, "Unauthorized", Warn,
        "the signature header (query parameter, member) is not there: not the sender, or another scheme";
    SignatureMalformed, "signature_malformed", 401, "Unauthorized", Warn,
        "the signature stands there but does not have the scheme's form (prefix, encoding, length, repeated header)";
    SignatureMismatch, "signature_mismatch", 401, "Unauthorized", Warn,
        "no signature matches any active secret over these exact bytes: wrong secret, wrong `public_url`, or a body that was changed on the way";
    TimestampInvalid, "timestamp_invalid", 401, "Unauthorized", Warn,
        "the signed timestamp is missing or is not a number or date of the scheme's unit";
    TimestampTooOld, "timestamp_too_old", 401, "Unauthorized", Warn,
        "the signed timestamp is further in the past than the scheme allows: a replay, a slow queue, or a wrong clock here";
    TimestampInFuture, "timestamp_in_future", 401, "Unauthorized", Warn,
        "the signed timestamp is further in the future than the scheme allows: check this machine's clock";
    KeysUnavailable, "keys_unavailable", 503, "Service Unavailable", Error,
        "the sender's public key has to be fetched first and could not be in time: see the log for why; the sender comes again";
    SecretMissing, "secret_missing", 503, "Service Unavailable", Error,
        "the route has no usable secret (unset, empty, or none valid now), so nothing can be verified; the service is not ready";
    HandshakeRefused, "handshake_refused", 403, "Forbidden", Warn,
        "somebody asked as the sender does before it trusts a URL, with another `handshake.verify_token` or with a challenge that is none";
    ConfirmationFailed, "confirmation_failed", 503, "Service Unavailable", Error,
        "the sender wants a URL of its own visited before it sends anything, and it could not be: see the log for why; the sender asks again";
    EventIdInvalid, "event_id_invalid", 400, "Bad Request", Warn,
        "the event ID is missing, empty, repeated, too long or not text where the route says it is; `duplicates.missing: skip` lets such events pass unremembered";
    EventTypeInvalid, "event_type_invalid", 400, "Bad Request", Warn,
        "the event's type is repeated, too long or not text where the route says it stands, and the route goes by types";
    Duplicate, "duplicate", 200, "OK", Info,
        "an event with this ID was already delivered";
    Replayed, "replayed", 200, "OK", Warn,
        "the signed content was already delivered under another, unsigned ID: a captured request under a fresh ID, or a sender that repeats itself; see `duplicates.replay_guard`";
    DuplicateInFlight, "duplicate_in_flight", 503, "Service Unavailable", Info,
        "an event with this ID is still on its way to the backend; the sender is asked to come again";
    SeenIdsFull, "seen_ids_full", 503, "Service Unavailable", Error,
        "the memory of event IDs is full of IDs that may not be forgotten yet; raise `state.memory.max_ids` or shorten `duplicates.remember`";
    StateUnavailable, "state_unavailable", 503, "Service Unavailable", Error,
        "the store of seen IDs or limits does not answer";
    QueueFull, "queue_full", 503, "Service Unavailable", Error,
        "the queue holds as much as `max_events`, `max_bytes` or `min_free` allow; look at what does not get through (`hookmoat queue stats`), replay or purge dead letters, or give it more room";
    QueueUnavailable, "queue_unavailable", 503, "Service Unavailable", Error,
        "the queue cannot make events durable at the moment: the disk or the broker fails; nothing was acknowledged";
    BackendUnreachable, "backend_unreachable", 502, "Bad Gateway", Error,
        "no connection to the backend: address, port, name resolution, TLS";
    BackendBroken, "backend_broken", 502, "Bad Gateway", Error,
        "the backend closed the connection or sent something that is not a valid HTTP/1.1 answer";
    BackendTimeout, "backend_timeout", 504, "Gateway Timeout", Error,
        "the backend did not answer within the upstream's `timeout`";
    Internal, "internal", 500, "Internal Server Error", Error,
        "a fault in Hookmoat itself; please report it with the log line";
}

impl Reason {
    /// The status of the row.
    pub const fn status(self) -> u16 {
        self.row().status
    }

    /// The metric label of the row.
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// Is it the signature, or its time, that does not hold?
    pub const fn is_of_signature(self) -> bool {
        matches!(
            self,
            Self::SignatureMissing
                | Self::SignatureMalformed
                | Self::SignatureMismatch
                | Self::TimestampInvalid
                | Self::TimestampTooOld
                | Self::TimestampInFuture
        )
    }

    /// Will the same request be refused every time, whatever anybody does about it but its sender?
    pub const fn is_permanent(self) -> bool {
        matches!(
            self,
            Self::Malformed
                | Self::MethodNotAllowed
                | Self::HeadersTooLarge
                | Self::UriTooLong
                | Self::ExpectationFailed
                | Self::ContentTypeNotAllowed
                | Self::ContentEncodingNotAllowed
                | Self::HeaderMissing
                | Self::BodyTooLarge
                | Self::EventIdInvalid
                | Self::EventTypeInvalid
        )
    }

    /// A refusal for this reason with a detail for the log. The detail must never hold a secret or a body.
    pub fn because(self, detail: impl Into<Cow<'static, str>>) -> Reject {
        Reject { reason: self, detail: detail.into(), retry_after: None, status: None }
    }
}

impl From<Reason> for Reject {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: Cow::Borrowed(""), retry_after: None, status: None }
    }
}

/// A refused request: the row, and what only the log may know.
#[derive(Clone, Debug)]
#[must_use]
pub struct Reject {
    /// The row.
    pub reason: Reason,
    /// For the log only.
    pub detail: Cow<'static, str>,
    /// When the sender may come again, where that is known.
    pub retry_after: Option<Duration>,
    /// A status that this sender wants instead of the row's.
    pub status: Option<u16>,
}

impl Reject {
    /// The same refusal with a time to come again.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl Reject {
    /// The same refusal with another status.
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.label())?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, ": {}", self.detail) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique() {
        let mut labels: Vec<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Reason::ALL.len());
    }

    #[test]
    fn every_failure_of_a_signature_looks_the_same_to_the_sender() {
        use Reason::*;
        for reason in [SignatureMalformed, SignatureMismatch, TimestampInvalid, TimestampTooOld, TimestampInFuture] {
            assert_eq!(
                (reason.row().status, reason.row().title),
                (SignatureMissing.row().status, SignatureMissing.row().title)
            );
        }
    }
}
