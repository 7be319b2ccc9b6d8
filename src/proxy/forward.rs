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
    // HTTP/2 may cut them into pieces, which HTTP/1 has to have in one line (RFC 9113 section 8.2.3).
    let mut cookies: Option<Vec<&[u8]>> = None;
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
        if is_cookie(name) {
            cookies.get_or_insert_with(Vec::new).push(value);
            continue;
        }
        field(out, name, value);
    }
    if let Some(cookies) = cookies {
        field(out, b"cookie", &cookies.join(&b"; "[..]));
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

fn is_cookie(name: &[u8]) -> bool {
    name.len() == 6 && name.eq_ignore_ascii_case(b"cookie")
}

fn is_named(names: &[HeaderName], name: &[u8]) -> bool {
    names.iter().any(|known| known.as_str().as_bytes().eq_ignore_ascii_case(name))
}

/// Dropped on the way, whoever sent it: what is only ever ours, what belongs to one connection, and names with
/// underscores, since CGI and WSGI backends cannot tell `X_Real_Ip` from `X-Real-Ip`.
fn is_dropped(name: &[u8]) -> bool {
    let mut start = [0; LONGEST_DROPPED];
    start.iter_mut().zip(name).for_each(|(to, from)| *to = from.to_ascii_lowercase());
    let start = start.get(..name.len().min(LONGEST_DROPPED)).unwrap_or_default();
    let whole = start.len() == name.len();
    (whole && (is_spoofable(start) || is_of_connection(start)))
        || is_of_spoofable_family(start)
        || memchr::memchr(b'_', name).is_some()
}

/// Letters of the longest name below.
const LONGEST_DROPPED: usize = 25;

/// Fields that a backend may take for the truth about who sent a request, or for another method or path than the
/// judged one. They are only ever ours.
fn is_spoofable(lower: &[u8]) -> bool {
    matches!(
        lower,
        b"forwarded"
            | b"x-forwarded"
            | b"x-rewrite-url"
            | b"x-host"
            | b"x-http-host-override"
            | b"x-http-destinationurl"
            | b"x-real-ip"
            | b"x-client-ip"
            | b"x-cluster-client-ip"
            | b"x-appengine-user-ip"
            | b"x-azure-clientip"
            | b"x-azure-socketip"
            | b"x-originating-ip"
            | b"x-proxyuser-ip"
            | b"proxy-client-ip"
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
            | b"x-scheme"
            | b"cf-visitor"
            | b"remote-user"
            | b"remote-addr"
            | b"front-end-https"
            | b"proxy"
            | b"x-request-id"
            | b"forwarded-for"
            | b"do-connecting-ip"
            | b"incap-client-ip"
            | b"x-nf-client-connection-ip"
            | b"x-true-ip"
            | b"x-true-client-ip"
            | b"x-real-client-ip"
            | b"x-client-real-ip"
            | b"x-custom-ip-authorization"
            | b"x-override-url"
            | b"base-url"
            | b"request-uri"
            | b"client-cert"
            | b"client-cert-chain"
            | b"x-client-verify"
            | b"x-client-dn"
            | b"x-ssl-cert"
            | b"x-tls-client-cert"
            | b"x-webauth-user"
            | b"x-authenticated-user"
    )
}

/// The same by the beginning of their names: what proxies, balancers and gateways that authenticate say to those behind
/// them, and what is only ever ours.
fn is_of_spoofable_family(lower: &[u8]) -> bool {
    // Most names are told apart by a letter or two.
    match lower {
        [b'x', b'-', rest @ ..] => match rest.first() {
            Some(b'f') => rest.starts_with(b"forwarded-"),
            Some(b'o') => rest.starts_with(b"original-"),
            Some(b'e') => rest.starts_with(b"envoy-"),
            Some(b'r') => rest.starts_with(b"remote-"),
            Some(b's') => rest.starts_with(b"ssl-client"),
            Some(b'c') => rest.starts_with(b"client-cert"),
            Some(b'v') => rest.starts_with(b"vercel-forwarded-"),
            Some(b'a') => {
                rest.starts_with(b"auth-request-")
                    || rest.starts_with(b"amzn-oidc-")
                    || rest.starts_with(b"amzn-mtls-")
                    || rest.starts_with(b"arr-")
            }
            Some(b'g') => rest.starts_with(b"goog-authenticated-") || rest.starts_with(b"goog-iap-"),
            Some(b'm') => rest.starts_with(b"ms-client-principal"),
            _ => false,
        },
        [b'h', ..] => lower.starts_with(b"hookmoat-"),
        [b's', ..] => lower.starts_with(b"ssl-client-"),
        [b'c', ..] => lower.starts_with(b"cloudfront-"),
        [b'w', ..] => lower.starts_with(b"wl-proxy-"),
        _ => false,
    }
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
