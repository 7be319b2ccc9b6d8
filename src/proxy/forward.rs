//! The request as the backend gets it: written anew from what was parsed and judged, never passed through.

use crate::pipeline::Trail;
use crate::policy::{Authentication, HostHeader, Route, Upstream};
use crate::request::Head;
use http::HeaderName;

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
    field(out, b"host", host);
    // Some senders sign their own X-Request-Id; then it goes on as it came, or the backend could not verify again.
    let id_is_signed = matches!(&route.authentication, Authentication::Signature(check) if is_named(check.headers(), REQUEST_ID.as_bytes()));
    for (name, value) in head.headers.fields() {
        let kept = id_is_signed && name.eq_ignore_ascii_case(REQUEST_ID.as_bytes());
        if (is_dropped(name) && !kept) || is_named(&forward.remove_headers, name) {
            continue;
        }
        if forward.set_headers.iter().any(|(set, _)| name.eq_ignore_ascii_case(set.as_str().as_bytes())) {
            continue;
        }
        if told.own.iter().any(|(own, _)| name.eq_ignore_ascii_case(own.as_bytes())) {
            continue;
        }
        field(out, name, value);
    }
    if let Some(client) = trail.client {
        field(out, b"x-forwarded-for", client.text().as_str().as_bytes());
    }
    field(out, b"x-forwarded-proto", if trail.secure { b"https" } else { b"http" });
    field(out, b"x-forwarded-host", head.host.as_bytes());
    field(out, if id_is_signed { "hookmoat-request-id" } else { REQUEST_ID }.as_bytes(), told.request_id.as_bytes());
    field(out, b"hookmoat-route", route.name.as_bytes());
    field(out, b"hookmoat-verified", if told.verified { b"true" } else { b"false" });
    if let Some(provider) = &route.provider {
        field(out, b"hookmoat-provider", provider.as_bytes());
    }
    if let Some(id) = &trail.event_id {
        field(out, b"hookmoat-event-id", id.as_bytes());
    }
    if let Some(kind) = &trail.event_type {
        field(out, b"hookmoat-event-type", kind.as_bytes());
    }
    for (name, value) in told.own {
        field(out, name.as_bytes(), value.as_bytes());
    }
    for (name, value) in &forward.set_headers {
        field(out, name.as_str().as_bytes(), value.expose());
    }
    field(out, b"content-length", itoa::Buffer::new().format(told.body_length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn is_named(names: &[HeaderName], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name))
}

/// Dropped on the way, whoever sent it: what is only ever ours, what belongs to one connection, and names with
/// underscores, since CGI and WSGI backends cannot tell `X_Real_Ip` from `X-Real-Ip`.
fn is_dropped(name: &[u8]) -> bool {
    let mut lower = [0; LONGEST_DROPPED];
    let known = lower.get_mut(..name.len()).is_some_and(|lower| {
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        is_spoofable(lower) || is_of_connection(lower)
    });
    let ours = || name.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"hookmoat-"));
    known || ours() || memchr::memchr(b'_', name).is_some()
}

/// Letters of the longest name below.
const LONGEST_DROPPED: usize = 24;

/// Fields that a backend may take for the truth about who sent a request, or for another method or path than the
/// judged one. They are only ever ours.
fn is_spoofable(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"forwarded"
            | b"x-forwarded"
            | b"x-forwarded-for"
            | b"x-forwarded-host"
            | b"x-forwarded-port"
            | b"x-forwarded-prefix"
            | b"x-forwarded-proto"
            | b"x-forwarded-protocol"
            | b"x-forwarded-scheme"
            | b"x-forwarded-server"
            | b"x-forwarded-ssl"
            | b"x-original-forwarded-for"
            | b"x-original-host"
            | b"x-original-url"
            | b"x-rewrite-url"
            | b"x-real-ip"
            | b"x-client-ip"
            | b"x-cluster-client-ip"
            | b"x-envoy-external-address"
            | b"x-appengine-user-ip"
            | b"x-azure-clientip"
            | b"true-client-ip"
            | b"cf-connecting-ip"
            | b"cf-connecting-ipv6"
            | b"fastly-client-ip"
            | b"fly-client-ip"
            | b"client-ip"
            | b"x-http-method"
            | b"x-http-method-override"
            | b"x-method-override"
            | b"x-url-scheme"
            | b"front-end-https"
            | b"proxy"
            | b"x-request-id"
    )
}

/// Fields of one connection, or of the framing that is ours to write.
fn is_of_connection(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"connection"
            | b"keep-alive"
            | b"proxy-connection"
            | b"te"
            | b"trailer"
            | b"transfer-encoding"
            | b"upgrade"
            | b"http2-settings"
            | b"proxy-authorization"
            | b"proxy-authenticate"
            | b"content-length"
            | b"expect"
            | b"host"
    )
}

/// May this be sent again when it is not known whether it arrived? (RFC 9110 section 9.2.2)
pub(super) fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE")
}
