//! Where events go, by their type, and what is set on the way.

use super::compile::{Around, Compiler};
use super::place::Place;
use super::problem::{nearest, one_of};
use super::raw;
use super::secrets::{Found, Origin};
use super::upstreams::is_authority;
use crate::check::duplicate::EventId;
use crate::check::event_type::{EventTypes, Pattern, Patterns};
use crate::policy::{Branch, Forward, HostHeader};
use crate::provider::Provider;
use crate::request::HeaderName;
use crate::secret::SecretBytes;
use http::HeaderValue;
use std::collections::BTreeMap;

/// Fields of one hop, which Hookmoat writes itself: nobody may set or keep them.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Fields that Hookmoat sets for the backend.
const OWN: [&str; 6] =
    ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id", "content-length"];

impl Compiler<'_> {
    /// Where types stand and which are wanted. `branches`: what a `to` without a rest takes.
    pub(super) fn event_types(
        &mut self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        branches: Option<Vec<Pattern>>,
        at: &Place,
    ) -> EventTypes {
        let type_at = at.key("event_type");
        let sources = match &raw.event_type {
            None => provider.map(|provider| provider.event_type.clone()).unwrap_or_default(),
            Some(written) => match self.event_id(written, &type_at) {
                EventId::Sources(sources) => sources,
                EventId::BodyDigest => {
                    self.wrong(&type_at, "a digest is no type", "name a place, for instance {header: X-Event}");
                    Vec::new()
                }
            },
        };
        let events_at = at.key("events");
        let mut wanted = raw.events.as_ref().map(|events| self.patterns(events, &events_at));
        if sources.is_empty() && (wanted.is_some() || branches.is_some()) && raw.event_type.is_none() {
            let help = "add `event_type: {header: …}` or `event_type: {json: /…}`";
            self.wrong(&type_at, "missing: nothing says where the event's type stands", help);
        }
        // What no branch takes is not wanted.
        if let Some(branches) = branches {
            wanted.get_or_insert(branches);
        }
        EventTypes { sources, wanted: wanted.map(Patterns::new) }
    }

    fn patterns(&mut self, written: &[String], at: &Place) -> Vec<Pattern> {
        if written.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no event would be wanted", "name types, or leave the key out for all");
        }
        let mut patterns = Vec::new();
        for (i, text) in written.iter().enumerate() {
            match Pattern::parse(text) {
                Ok(pattern) if patterns.contains(&pattern) => self.wrong(&at.index(i), "stands twice", "keep one"),
                Ok(pattern) => patterns.push(pattern),
                Err(what) => self.wrong(&at.index(i), what, "write for instance push or pull_request.*"),
            }
        }
        patterns
    }

    /// Where events go.
    pub(super) fn destinations(
        &mut self,
        to: Option<&raw::OneOrMany<raw::To>>,
        around: &Around<'_>,
        queue: Option<&str>,
        at: &Place,
    ) -> Option<Destinations> {
        let Some(to) = to.filter(|to| !to.items.is_empty()) else {
            let help =
                "add `to: …` with the name of an upstream, or `deliver: {queue: …, to: …}` to acknowledge at once";
            self.wrong(at, "missing: where do clean requests go?", help);
            return None;
        };
        let (mut rest, mut branches, mut whole) = (None, Vec::new(), true);
        let mut rest_queue = None;
        for (i, one) in to.items.iter().enumerate() {
            let at = if to.list { at.index(i) } else { at.clone() };
            let own_queue = match (&one.map.queue, queue) {
                (None, _) => None,
                (Some(name), Some(_)) if to.list => self.queue_index(name, around, &at.key("queue")),
                (Some(_), _) => {
                    let help = "it belongs into a list below `deliver`: {queue: …, to: [{events: […], queue: …}, …]}";
                    self.wrong(&at.key("queue"), "no place for a queue", help);
                    None
                }
            };
            let stays = one.map.queue.as_deref().or(queue).is_some_and(|name| !self.hands_out(name, around));
            let forward = match &one.map.upstream {
                Some(_) if stays => {
                    let help = "remove it, or let the queue deliver: `consume: true`";
                    self.wrong(&at, "events of this queue are not delivered from here", help);
                    None
                }
                None if stays => Some(Forward::nowhere()),
                None => {
                    self.wrong(&at.key("upstream"), "missing: where do these go?", "add the name of an upstream");
                    None
                }
                Some(upstream) => self.forward(one, upstream, around, &at),
            };
            let events = one.map.events.as_ref().map(|events| self.patterns(events, &at.key("events")));
            match (events, forward) {
                (Some(_), _) if !to.list => {
                    let help = "write `events` beside `to`, or make `to` a list";
                    self.wrong(&at.key("events"), "only one of several has types of its own", help);
                    whole = false;
                }
                (None, _) if i + 1 < to.items.len() => {
                    let help = "add `events: […]`; only the last may take the rest";
                    self.wrong(&at.key("events"), "missing: nothing would ever reach those behind it", help);
                    whole = false;
                }
                (None, forward) => (rest, rest_queue) = (forward, own_queue),
                (Some(events), Some(forward)) => {
                    branches.push(Branch { events: Patterns::new(events), forward, queue: own_queue });
                }
                (Some(_), None) => whole = false,
            }
        }
        let closed = to.items.last().is_some_and(|to| to.map.events.is_some());
        let taken = closed.then(|| branches.iter().flat_map(|branch| branch.events.iter().cloned()).collect());
        let forward = rest.or_else(|| branches.last().map(|branch| branch.forward.clone()))?;
        whole.then_some(Destinations { forward, branches, rest_queue, wanted: taken })
    }

    fn forward(&mut self, to: &raw::To, upstream: &str, around: &Around<'_>, at: &Place) -> Option<Forward> {
        let map = &to.map;
        let upstream = self.upstream_index(upstream, around, &if to.bare { at.clone() } else { at.key("upstream") });
        if let Some(path) = &map.path {
            let plain =
                path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&b));
            if !plain {
                self.wrong(
                    &at.key("path"),
                    "not a path",
                    "begin with a slash, write other characters as %XX, and leave the query out",
                );
            }
        }
        let host = match map.host.as_deref() {
            None | Some("keep") => HostHeader::Keep,
            Some("upstream") => HostHeader::Upstream,
            Some(name) => match HeaderValue::from_str(name) {
                Ok(value) if is_authority(name) => HostHeader::Fixed(value),
                _ => {
                    self.wrong(&at.key("host"), "not a host", "write keep, upstream, or a name with or without a port");
                    HostHeader::Keep
                }
            },
        };
        let set_headers = self.set_headers(&map.headers, &at.key("headers"));
        let remove_at = at.key("remove_headers");
        let remove_headers = self.header_names(&map.remove_headers, &remove_at);
        for (i, name) in map.remove_headers.iter().enumerate() {
            let name = name.to_ascii_lowercase();
            if is_reserved(&name) {
                self.wrong(&remove_at.index(i), "a header that Hookmoat sets itself", "remove it from the list");
            } else if map.headers.keys().any(|set| set.eq_ignore_ascii_case(&name)) {
                let help = "`headers` already takes the place of what came: remove it here";
                self.wrong(&remove_at.index(i), "both set and removed", help);
            }
        }
        let path = map.path.as_deref().map(Into::into);
        Some(Forward { upstream: upstream?, path, host, set_headers, remove_headers, pass_gone: map.pass_gone })
    }

    fn upstream_index(&mut self, name: &str, around: &Around<'_>, at: &Place) -> Option<usize> {
        if let Some(index) = around.upstreams.get(name) {
            return Some(*index);
        }
        // As written: an upstream with a problem of its own is still one that exists.
        let root = Place::default().key("upstreams");
        let known = self.document.keys(&root);
        if !known.contains(&name) && !self.document.is_damaged(&root) {
            let help = match (nearest(name, &known), known.is_empty()) {
                (Some(meant), _) => format!("did you mean `{meant}`?"),
                (None, true) => format!("add it: upstreams: {{{name}: http://127.0.0.1:3000}}"),
                (None, false) => format!("known: {}; or add it under `upstreams`", one_of(&known)),
            };
            self.wrong(at, "no upstream has this name", help);
        }
        None
    }

    pub(super) fn set_headers(
        &mut self,
        headers: &BTreeMap<String, raw::HeaderSource>,
        at: &Place,
    ) -> Vec<(HeaderName, SecretBytes)> {
        let mut set: Vec<(HeaderName, SecretBytes)> = Vec::new();
        for (name, source) in headers {
            let at = at.key(name);
            let Some(header) = self.header_name(name, &at) else { continue };
            if header == http::header::HOST {
                self.wrong(&at, "Host has a key of its own", "write `host: …` beside `headers`");
            } else if is_reserved(header.as_str()) {
                self.wrong(&at, "a header that Hookmoat sets itself", "use another name");
            }
            if set.iter().any(|(other, _)| *other == header) {
                self.wrong(&at, "the header stands twice, in another case", "keep one of the two");
            }
            let literal = source.value.as_ref().map(|value| value.0.as_str());
            if literal.is_some() && looks_secret(header.as_str()) {
                let help = "if it is one, take {env: NAME} or {file: PATH} instead";
                self.warn(&at, "the value looks like a secret and stands in the configuration", help);
            }
            // What is missing is told by whoever needs it.
            let Some(Ok(bytes)) = self.plain(source, &at) else { continue };
            if HeaderValue::from_bytes(&bytes).is_err() || bytes != bytes.trim_ascii() {
                let help = "no line ends, control characters or white space at the ends";
                self.wrong(&at, "not a value that a header can have", help);
            }
            set.push((header, SecretBytes::new(bytes)));
        }
        set
    }

    /// A value that may stand in the file itself. `Err`: it is missing; `None`: a problem.
    pub(super) fn plain(&mut self, source: &raw::HeaderSource, at: &Place) -> Option<Result<Vec<u8>, String>> {
        let origin = Origin { env: source.env.as_deref(), file: source.file.as_deref(), literal: None };
        match (&source.value, source.env.is_some() || source.file.is_some()) {
            (Some(_), true) => {
                self.wrong(at, "says twice where the value is", "keep one of env, file and value");
                None
            }
            (Some(value), false) => Some(Ok(value.0.as_bytes().to_vec())),
            (None, _) => self.find(origin, at).map(|found| found.map(|(bytes, _)| bytes)),
        }
    }

    /// Without a secret that the backend expects, requests would fail there: the route says so itself.
    pub(super) fn missing_header_secrets(&mut self, raw: &raw::Route, at: &Place) -> Option<String> {
        let mut missing = Vec::new();
        let to = raw.to.as_ref().or(raw.deliver.as_ref().and_then(|deliver| deliver.to.as_ref()));
        let list = to.is_some_and(|to| to.list);
        let headers = to.iter().flat_map(|to| &to.items).enumerate();
        let headers = headers.flat_map(|(i, to)| to.map.headers.iter().map(move |header| (i, header)));
        for (i, (name, source)) in headers {
            let origin = Origin { env: source.env.as_deref(), file: source.file.as_deref(), literal: None };
            if source.value.is_some() {
                continue;
            }
            if let Ok(Found::Missing(what)) = origin.find(self.world) {
                let help = "the route answers 503 and the process is not ready until a restart or reload finds it";
                let to = if raw.to.is_some() { at.key("to") } else { at.key("deliver").key("to") };
                let to = if list { to.index(i) } else { to };
                self.warn(&to.key("headers").key(name), &what, help);
                missing.push(format!("header {name} for the backend: {what}"));
            }
        }
        (!missing.is_empty()).then(|| missing.join("; "))
    }
}

/// Where a route's events go.
pub(super) struct Destinations {
    /// Those of no branch.
    pub(super) forward: Forward,
    /// Those of some types.
    pub(super) branches: Vec<Branch>,
    /// The queue of those of no branch, if it is not the route's.
    pub(super) rest_queue: Option<usize>,
    /// The types of all branches, where there is nothing for the rest.
    pub(super) wanted: Option<Vec<Pattern>>,
}

impl Destinations {
    /// Events stay in their queue.
    pub(super) fn nowhere() -> Self {
        Self { forward: Forward::nowhere(), branches: Vec::new(), rest_queue: None, wanted: None }
    }
}

/// Every place that a route's events go to.
pub(super) fn destinations(route: &raw::Route) -> impl Iterator<Item = &raw::To> {
    let through = route.deliver.as_ref().and_then(|deliver| deliver.to.as_ref());
    route.to.iter().chain(through).flat_map(|to| &to.items)
}

/// tchar of RFC 9110.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Lower case.
fn is_reserved(name: &str) -> bool {
    name == "host" || name.starts_with("hookmoat-") || HOP_BY_HOP.contains(&name) || OWN.contains(&name)
}

/// Lower case.
fn looks_secret(name: &str) -> bool {
    ["authorization", "cookie", "key", "token", "secret", "password"].iter().any(|word| name.contains(word))
}
