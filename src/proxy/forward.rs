//! The request as the backend gets it: written anew from what was parsed and judged, never passed through.

use crate::pipeline::Trail;
use crate::policy::{Authentication, HostHeader, Route, Upstream};
use crate::request::Head;
use http::HeaderName;
use std::io::Write as _;

/// Fields that a backend may take for the truth about who sent a request, or for another method or path than the
/// judged one. They are only ever ours.
const SPOOFABLE: &[&str] = &[
    "forwarded",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-protocol",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-original-forwarded-for",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-appengine-user-ip",
    "x-azure-clientip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-connecting-ipv6",
    "fastly-client-ip",
    "fly-client-ip",
    "client-ip",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-url-scheme",
    "front-end-https",
    "proxy",
    "x-request-id",
];

/// Fields of one connection or of the framing that is ours to write.
const NOT_FORWARDED: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "proxy-authorization",
    "proxy-authenticate",
    "content-length",
    "expect",
    "host",
];

const REQUEST_ID: &str = "x-request-id";

/// What is told beside the request itself.
pub(crate) struct Told<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) verified: bool,
    pub(crate) body_length: usize,
    /// Fields of our own, in place of any that came with the request. Names in lower case.
    pub(crate) own: &'a [(&'static str, &'a str)],
}

/// Appends the head, with its empty line.
pub(crate) fn head(
    out: &mut Vec<u8>,
    head: &Head<'_>,
    route: &Route,
    upstream: &Upstream,
    trail: &Trail,
    told: &Told<'_>,
) {
    let forward = route.forward(trail.branch);
    out.extend_from_slice(head.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(forward.path.as_deref().unwrap_or(head.path).as_bytes());
    if let Some(query) = head.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let host = match &forward.host {
        HostHeader::Keep => head.host.as_bytes(),
        HostHeader::Upstream => upstream.authority.as_bytes(),
        HostHeader::Fixed(host) => host.as_bytes(),
    };
    field(out, "host", host);
    // Some senders sign their own X-Request-Id; then it goes on as it came, or the backend could not verify again.
    let id_is_signed =
        matches!(&route.authentication, Authentication::Signature(check) if is_named(check.headers(), REQUEST_ID));
    for (name, value) in head.headers.iter() {
        let kept = id_is_signed && name.eq_ignore_ascii_case(REQUEST_ID);
        if (is_dropped(name) && !kept) || is_named(&forward.remove_headers, name) {
            continue;
        }
        if forward.set_headers.iter().any(|(set, _)| name.eq_ignore_ascii_case(set.as_str())) {
            continue;
        }
        if told.own.iter().any(|(own, _)| name.eq_ignore_ascii_case(own)) {
            continue;
        }
        field(out, name, value);
    }
    let client = trail.client.map(|client| client.ip().to_string()).unwrap_or_default();
    if !client.is_empty() {
        field(out, "x-forwarded-for", client.as_bytes());
    }
    field(out, "x-forwarded-proto", if trail.secure { b"https" } else { b"http" });
    field(out, "x-forwarded-host", head.host.as_bytes());
    field(out, if id_is_signed { "hookmoat-request-id" } else { REQUEST_ID }, told.request_id.as_bytes());
    field(out, "hookmoat-route", route.name.as_bytes());
    field(out, "hookmoat-verified", if told.verified { b"true" } else { b"false" });
    if let Some(provider) = &route.provider {
        field(out, "hookmoat-provider", provider.as_bytes());
    }
    if let Some(id) = &trail.event_id {
        field(out, "hookmoat-event-id", id.as_bytes());
    }
    if let Some(kind) = &trail.event_type {
        field(out, "hookmoat-event-type", kind.as_bytes());
    }
    for (name, value) in told.own {
        field(out, name, value.as_bytes());
    }
    for (name, value) in &forward.set_headers {
        field(out, name.as_str(), value.expose());
    }
    let _ = write!(out, "content-length: {}\r\n\r\n", told.body_length);
}

fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn is_named(names: &[HeaderName], name: &str) -> bool {
    names.iter().any(|known| known.as_str().eq_ignore_ascii_case(name))
}

/// Dropped on the way, whoever sent it. Underscores: CGI and WSGI backends cannot tell `X_Real_Ip` from `X-Real-Ip`.
fn is_dropped(name: &str) -> bool {
    let starts = |prefix: &str| {
        name.len() >= prefix.len() && name.as_bytes()[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes())
    };
    let among = |list: &[&str]| list.iter().any(|known| known.eq_ignore_ascii_case(name));
    match name.as_bytes().first().map(u8::to_ascii_lowercase) {
        Some(b'h') if starts("hookmoat-") => true,
        Some(b'x' | b'f' | b'c' | b't' | b'p') if among(SPOOFABLE) => true,
        Some(b'c' | b'k' | b'p' | b't' | b'u' | b'h' | b'e') if among(NOT_FORWARDED) => true,
        _ => name.contains('_'),
    }
}

/// May this be sent again when it is not known whether it arrived? (RFC 9110 section 9.2.2)
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}
