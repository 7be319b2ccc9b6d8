//! The way of a captured request through a route, as far as it can be known from the capture.

use super::Captured;
use crate::check::allowlist::Allowlist;
use crate::check::client_ip::client_ip;
use crate::check::duplicate::{EventId, MissingId};
use crate::check::handshake::Reply;
use crate::check::https::is_secure;
use crate::check::shape;
use crate::policy::{Authentication, Https, Observable, Policy, Route};
use crate::reject::Reject;
use crate::request::{Head, Now, Peer};
use serde::Serialize;
use std::net::IpAddr;

/// Steps that stand behind the signature, or instead of it.
pub const HANDSHAKE: &str = "handshake";
/// See [`HANDSHAKE`].
pub const EVENT_TYPE: &str = "event type";

/// Does a check hold?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Holds {
    /// It lets the request pass.
    Yes,
    /// It refuses the request.
    No,
    /// A capture does not tell.
    Unknown,
}

/// One check and what it makes of the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check.
    pub step: &'static str,
    /// Its verdict.
    pub holds: Holds,
    /// Why.
    pub detail: String,
}

struct Findings<'r> {
    route: &'r Route,
    list: Vec<Finding>,
}

impl Findings<'_> {
    fn add(&mut self, step: &'static str, holds: Holds, detail: impl Into<String>) {
        self.list.push(Finding { step, holds, detail: detail.into() });
    }

    fn refused(&mut self, step: &'static str, check: Option<Observable>, reject: &Reject) {
        let help = reject.reason.row().help;
        if check.is_some_and(|check| self.route.observed.has(check)) {
            self.add(step, Holds::Yes, format!("{reject}, but this check only observes"));
        } else {
            self.add(step, Holds::No, format!("{reject} ({help})"));
        }
    }
}

/// Every check before the signature, and the event's ID, in the order of the pipeline.
///
/// `from` is the address of the socket's peer and `tls` whether the request came over Hookmoat's own TLS, where that is
/// known. What depends on earlier requests (limits, seen IDs) is not known.
pub fn walk(
    policy: &Policy,
    route: &Route,
    request: &Captured,
    from: Option<IpAddr>,
    tls: Option<bool>,
    now: Now,
) -> Vec<Finding> {
    let mut findings = Findings { route, list: Vec::new() };
    request.with_head(|head| {
        let declared = match shape::head(head, &policy.limits) {
            Ok(declared) => {
                findings.add("request", Holds::Yes, "one reading only, within `limits`");
                Some(declared)
            }
            Err(reject) => {
                findings.refused("request", None, &reject);
                None
            }
        };
        match policy.routes.find(head) {
            Ok(found) if found.name == route.name => {
                findings.add("route", Holds::Yes, format!("{} {} goes to {}", head.method, head.path, route.name));
            }
            Ok(found) => {
                let detail =
                    format!("{} {} goes to route {}, not to {}", head.method, head.path, found.name, route.name);
                findings.add("route", Holds::No, detail);
            }
            Err((reject, methods)) if methods.is_empty() => findings.refused("route", None, &reject),
            Err((reject, methods)) => {
                findings.refused("route", None, &reject.reason.because(format!("it takes {}", methods.join(", "))));
            }
        }
        https(&mut findings, policy, head, from, tls);
        address(&mut findings, policy, head, from, tls);
        if !route.client_certificates.is_empty() {
            findings.add("certificate", Holds::Unknown, "the route asks for a client certificate; a capture has none");
        }
        let limits = route.limits_before.len() + route.limits_after.len();
        if limits > 0 {
            let detail =
                format!("{limits} of them; what was used up when the request came is not known from a capture");
            findings.add("limits", Holds::Unknown, detail);
        }
        handshake(&mut findings, head, request.body.as_deref().unwrap_or_default(), now);
        if let Some(methods) = &route.methods
            && !methods.iter().any(|method| **method == *head.method)
        {
            let detail =
                format!("{} is for questions of the sender only; events come with {}", head.method, methods.join(", "));
            findings.add("method", Holds::Unknown, detail);
        }
        match shape::of_route(head, route) {
            Ok(()) => findings.add("shape", Holds::Yes, "media type, encoding and required headers are as wanted"),
            Err(reject) => findings.refused("shape", Some(Observable::Shape), &reject),
        }
        let length = request.body.as_ref().map_or(0, bytes::Bytes::len);
        match declared.map(|declared| shape::size(&declared, route)) {
            Some(Err(reject)) => findings.refused("size", None, &reject),
            _ if length > route.max_body => {
                findings.add("size", Holds::No, format!("{length} bytes, and `max_body` is {}", route.max_body));
            }
            _ => findings.add("size", Holds::Yes, format!("{length} bytes of at most {}", route.max_body)),
        }
        if let Authentication::NoSecret(what) = &route.authentication {
            findings.add("secrets", Holds::No, format!("the route has no usable secret, so it answers 503: {what}"));
        }
        event_type(&mut findings, head, request.body.as_deref().unwrap_or_default());
        event_id(&mut findings, head, request.body.as_deref().unwrap_or_default());
    });
    findings.list
}

fn https(findings: &mut Findings<'_>, policy: &Policy, head: &Head<'_>, from: Option<IpAddr>, tls: Option<bool>) {
    if findings.route.https == Https::Allow {
        return findings.add("https", Holds::Yes, "plain HTTP is accepted here");
    }
    // Without the peer it is not known whose forwarding headers these are.
    let secure = match (from, tls) {
        (Some(address), tls) => {
            let peer = Peer { address: Some(address), tls: tls.unwrap_or(false), identity: None };
            let secure = is_secure(&peer, &head.headers, &policy.trusted_proxies);
            (secure || tls.is_some()).then_some(secure)
        }
        (None, tls) => tls.filter(|_| policy.trusted_proxies.is_empty()),
    };
    match secure {
        Some(true) => findings.add("https", Holds::Yes, "the sender used https"),
        Some(false) => {
            findings.refused("https", Some(Observable::Https), &crate::reject::Reason::HttpsRequired.into());
        }
        None => findings.add("https", Holds::Unknown, "not in a capture: --from ADDRESS with --tls or --plain says it"),
    }
}

fn address(findings: &mut Findings<'_>, policy: &Policy, head: &Head<'_>, from: Option<IpAddr>, tls: Option<bool>) {
    let Some(address) = from else {
        return match &findings.route.allow {
            Allowlist::Anyone => findings.add("address", Holds::Yes, "any address may send"),
            Allowlist::Only(_) | Allowlist::Published(..) => {
                findings.add("address", Holds::Unknown, "not in a capture: --from ADDRESS says who connected");
            }
        };
    };
    let peer = Peer { address: Some(address), tls: tls.unwrap_or(false), identity: None };
    match client_ip(&peer, &head.headers, &policy.trusted_proxies) {
        Err(reject) => findings.refused("address", None, &reject),
        Ok(client) => match findings.route.allow.check(client) {
            Ok(()) => findings.add("address", Holds::Yes, format!("client {client} may send")),
            Err(_) if !findings.route.allow.published().is_empty() => {
                let what =
                    "may send only if it is in the list that its sender publishes now, which is not fetched here";
                findings.add("address", Holds::Unknown, format!("client {client} {what}"));
            }
            Err(reject) => findings.refused("address", Some(Observable::Allow), &reject),
        },
    }
}

/// A question that needs no signature is answered before one is looked for.
fn handshake(findings: &mut Findings<'_>, head: &Head<'_>, body: &[u8], now: Now) {
    let Some(handshakes) = findings.route.handshakes.as_deref() else { return };
    let asked =
        handshakes.of_head(head, now).transpose().or_else(|| handshakes.of_unsigned(head, body, now).transpose());
    match asked {
        None => findings.add(HANDSHAKE, Holds::Unknown, "no question that is answered without a signature"),
        Some(Ok(Reply { exchange, answer, .. })) => {
            findings.add(HANDSHAKE, Holds::Yes, format!("answered here as {exchange}, with {}", answer.status));
        }
        Some(Err(reject)) => findings.refused(HANDSHAKE, None, &reject),
    }
}

fn event_type(findings: &mut Findings<'_>, head: &Head<'_>, body: &[u8]) {
    let (types, branches) = (&findings.route.event_types, &findings.route.branches);
    if types.wanted.is_none() && branches.is_empty() {
        return;
    }
    match types.read(head, body, true) {
        Err(reject) => findings.refused(EVENT_TYPE, None, &reject),
        Ok(kind) => {
            let shown = kind.as_deref().unwrap_or("none");
            match &types.wanted {
                Some(wanted) if wanted.find(kind.as_deref()).is_none() => {
                    let detail =
                        format!("{shown} is not among `events`: acknowledged, and the backend does not get it");
                    findings.add(EVENT_TYPE, Holds::No, detail);
                }
                _ => findings.add(EVENT_TYPE, Holds::Yes, shown),
            }
        }
    }
}

fn event_id(findings: &mut Findings<'_>, head: &Head<'_>, body: &[u8]) {
    let Some(duplicates) = &findings.route.duplicates else {
        return findings.add("event id", Holds::Yes, "duplicates are switched off");
    };
    let EventId::Sources(sources) = &duplicates.id else {
        return findings.add("event id", Holds::Unknown, "the body's digest; whether it was seen before is not known");
    };
    // The names of the keys do not matter here; what is asked is whether there is an ID.
    match duplicates.keys("", head, body, &[], true) {
        Ok(Some(keys)) => {
            let id = keys.id.unwrap_or_default();
            findings.add("event id", Holds::Unknown, format!("{id}; whether it was seen before is not known"));
        }
        Ok(None) => findings.add("event id", Holds::Yes, "none; such events pass and are not remembered by ID"),
        Err(reject) if duplicates.missing == MissingId::Reject => {
            let places: Vec<String> = sources.iter().map(ToString::to_string).collect();
            let reject = reject.reason.because(format!("{} (looked for in: {})", reject.detail, places.join(", ")));
            findings.refused("event id", Some(Observable::Duplicates), &reject);
        }
        Err(reject) => findings.refused("event id", Some(Observable::Duplicates), &reject),
    }
}
