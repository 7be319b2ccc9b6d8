//! Routes: what belongs to one, which requests it takes, and what it answers. The larger parts of a route have files of their own.

use super::compile::{Around, Compiler, is_host, is_name};
use super::destinations::{Destinations, is_token};
use super::place::Place;
use super::problem::nearest;
use super::raw;
use crate::check::allowlist::Allowlist;
use crate::check::client_certificate::Rule;
use crate::check::handshake::Exchange;
use crate::check::path::{Matcher, PathPattern};
use crate::policy::{Answers, Authentication, Https, Route};
use crate::port::seen::Group;
use crate::provider::{self, Provider};
use crate::request::HeaderName;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

impl Compiler<'_> {
    pub(super) fn routes(&mut self, raw: &[raw::Route], around: &Around<'_>) -> Vec<(Matcher, Arc<Route>)> {
        let root = Place::default().key("routes");
        if raw.is_empty() && !self.document.has_damage(&root) {
            self.wrong(&root, "no route", "add one: a name, a path, a provider, its secrets and where it goes (`to`)");
        }
        let mut names: HashMap<&str, Place> = HashMap::new();
        let mut matchers: Vec<(Place, Matcher)> = Vec::new();
        let mut routes = Vec::new();
        for (i, one) in raw.iter().enumerate() {
            let at = root.index(i);
            let name = self.name(one.name.as_deref(), &at.key("name"), &mut names);
            let provider = self.provider(one, &at);
            let mut matcher = self.matcher(one, provider, &at);
            let exchanges = self.exchanges(one, provider, &at.key("handshake"));
            // Those of other requests, where handshakes come with more.
            let mut own_methods = None;
            if let Some(matcher) = &mut matcher {
                for method in exchanges.iter().flat_map(|exchange| &exchange.methods) {
                    if !matcher.methods.contains(method) {
                        own_methods.get_or_insert_with(|| matcher.methods.clone());
                        matcher.methods.push(method.clone());
                    }
                }
            }
            if let Some(matcher) = &matcher {
                let conflict = matchers.iter().find(|(_, other)| other.conflicts(matcher));
                if let Some((place, _)) = conflict {
                    let line = self.document.line(place).map(|line| format!(" on line {line}")).unwrap_or_default();
                    let what = format!("{place}{line} has the same host, path and method");
                    self.wrong(&at.key("path"), what, "change one of the two, or join them");
                }
                matchers.push((at.clone(), matcher.clone()));
            }
            let route = self.route(one, name, provider, (exchanges, own_methods), around, &at);
            if let (Some(matcher), Some(route)) = (matcher, route) {
                routes.push((matcher, Arc::new(route)));
            }
        }
        routes
    }

    fn name<'r>(&mut self, name: Option<&'r str>, at: &Place, names: &mut HashMap<&'r str, Place>) -> Arc<str> {
        let Some(name) = name else {
            self.wrong(at, "missing", "add `name: …`, a unique name for metrics and logs");
            return "".into();
        };
        if !is_name(name) {
            self.wrong(at, "not a name", "use letters, digits, `-`, `_` and `.`, at most 64");
        }
        match names.get(name) {
            Some(other) => {
                let line = self.document.line(other).map(|line| format!(" on line {line}")).unwrap_or_default();
                self.wrong(at, format!("a name that {other}{line} has already"), "give each route a name of its own");
            }
            None => {
                names.insert(name, at.clone());
            }
        }
        name.into()
    }

    fn provider(&mut self, raw: &raw::Route, at: &Place) -> Option<&'static Provider> {
        let written = raw.provider.as_deref()?;
        let found = provider::find(written);
        if found.is_none() {
            let ids: Vec<_> = provider::all().iter().map(|provider| provider.id).collect();
            let help = match nearest(written, &ids) {
                Some(meant) => format!("did you mean `{meant}`? `hookmoat providers` lists all"),
                None => "`hookmoat providers` lists all; a scheme of your own goes into `signature`".into(),
            };
            self.wrong(&at.key("provider"), "no preset has this name", help);
        }
        found
    }

    fn matcher(&mut self, raw: &raw::Route, provider: Option<&Provider>, at: &Place) -> Option<Matcher> {
        let host = raw.host.as_ref().map(|host| host.to_ascii_lowercase());
        if host.as_ref().is_some_and(|host| !is_host(host)) {
            self.wrong(&at.key("host"), "not a host name", "write the name alone, without scheme, port, path or `*`");
        }
        let path = match raw.path.as_deref() {
            None => {
                self.wrong(&at.key("path"), "missing", "add `path: …`, for instance /webhooks/github or /webhooks/*");
                None
            }
            Some(path) => match PathPattern::parse(path) {
                Ok(path) => Some(path),
                Err(what) => {
                    let help =
                        "write the path as it stands in a plain URL, for instance /webhooks/github or /webhooks/*";
                    self.told(&at.key("path"), what, help);
                    None
                }
            },
        };
        let methods = match &raw.methods {
            None => provider.map(|provider| boxed(&provider.methods)).filter(|methods| !methods.is_empty()),
            Some(written) => Some(self.methods(written, &at.key("methods"))),
        };
        let methods = methods.unwrap_or_else(|| vec!["POST".into()]);
        Some(Matcher { host: host.map(Into::into), path: path?, methods })
    }

    fn methods(&mut self, written: &[String], at: &Place) -> Vec<Box<str>> {
        if written.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no method would be accepted", "name one, or leave the key out for POST");
        }
        for (i, method) in written.iter().enumerate() {
            let upper = method.to_ascii_uppercase();
            if method.is_empty() || !method.bytes().all(is_token) {
                self.wrong(&at.index(i), "not a method", "write for instance POST");
            } else if matches!(upper.as_str(), "CONNECT" | "TRACE") {
                self.wrong(&at.index(i), "a method that is never forwarded", "remove it");
            } else if *method != upper {
                self.wrong(&at.index(i), "methods are written in upper case", format!("write {upper}"));
            }
        }
        let unique: BTreeSet<_> = written.iter().map(String::as_str).collect();
        unique.into_iter().map(Into::into).collect()
    }

    fn route(
        &mut self,
        raw: &raw::Route,
        name: Arc<str>,
        provider: Option<&'static Provider>,
        (exchanges, methods): (Vec<Exchange>, Option<Vec<Box<str>>>),
        around: &Around<'_>,
        at: &Place,
    ) -> Option<Route> {
        let mut missing = self.missing_header_secrets(raw, at).or_else(|| self.missing_sign_key(raw, at));
        self.subject = None;
        let (authentication, scheme, secrets) = self.authentication(raw, provider, at);
        let handshakes = match exchanges.is_empty() {
            true => None,
            false => self.handshakes(exchanges, raw, secrets, &mut missing, &at.key("handshake")),
        };
        let duplicates = self.duplicates(raw, provider, scheme.as_ref(), around, at);
        let max_body = raw.max_body.unwrap_or(around.config.limits.max_body);
        if let Some(max) = raw.max_body {
            self.max_body(max, around.config.limits.body_memory, &at.key("max_body"));
        }
        let observed = self.observed(&raw.observe, &raw.enforce, at);
        let https = match raw.https.or(around.config.https).unwrap_or(raw::Https::Reject) {
            raw::Https::Reject => Https::Reject,
            raw::Https::Redirect => Https::Redirect,
            raw::Https::Allow => Https::Allow,
        };
        let allow = match &raw.allow {
            None => Allowlist::Anyone,
            Some(networks) => {
                let at = at.key("allow");
                if networks.is_empty() && !self.document.has_damage(&at) {
                    self.wrong(
                        &at,
                        "nobody would be allowed",
                        "list networks, or leave the key out to let anyone send",
                    );
                }
                self.allow(networks, provider, &at)
            }
        };
        let limits_before = self.rate_limits(raw.rate_limit.as_ref(), &name, "rate_limit", at);
        let limits_after = self.rate_limits(raw.rate_limit_verified.as_ref(), &name, "rate_limit_verified", at);
        let content_types = match &raw.content_types {
            None => provider.map(|provider| boxed(&provider.content_types)).unwrap_or_default(),
            Some(types) => self.content_types(types, &at.key("content_types")),
        };
        let content_encodings = match (raw.content_encodings.as_slice(), provider) {
            ([], Some(provider)) => boxed(&provider.content_encodings),
            (written, _) => self.content_encodings(written, &at.key("content_encodings")),
        };
        let client_certificates = self.certificate_rules(&raw.client_certificates, &at.key("client_certificates"));
        let required_at = at.key("required_headers");
        let required = raw.required_headers.iter().enumerate();
        let required_headers = required.filter_map(|(i, name)| self.incoming(name, &required_at.index(i))).collect();
        let answers = self.answers(&raw.answers, provider, &at.key("answers"));
        self.lost_events(answers, provider, &at.key("answers"));
        let (Destinations { forward, branches, wanted, .. }, deliver) = self.destination(raw, provider, around, at)?;
        let event_types = self.event_types(raw, provider, wanted, at);
        if let Some(weakness) = provider.and_then(|provider| provider.weakness.as_deref())
            && matches!(allow, Allowlist::Anyone)
            && raw.client_certificates.is_empty()
        {
            let help = "list the sender's networks in `allow`, or ask for its client certificate";
            self.warn(&at.key("provider"), weakness, help);
        }
        Some(Route {
            group: group(&name),
            name,
            provider: provider.map(|provider| provider.id.into()),
            https,
            methods,
            allow,
            limits_before,
            limits_after,
            content_types,
            content_encodings,
            client_certificates,
            required_headers,
            max_body: max_body.0,
            authentication: match missing {
                Some(what) => Authentication::NoSecret(what.into()),
                None => authentication?,
            },
            handshakes,
            event_types,
            duplicates,
            on_failure: self.on_failure(raw.on_failure.as_ref(), &around.config.state.0, &at.key("on_failure")),
            forward,
            branches,
            deliver,
            observed,
            answers,
            subject: self.subject.take(),
            manners: provider.map(|provider| provider.manners.clone()).unwrap_or_default(),
        })
    }

    fn certificate_rules(&mut self, rules: &[raw::ClientCertificateRule], at: &Place) -> Vec<Rule> {
        if !rules.is_empty() && !self.asks_for_certificates {
            let help = "set `client_ca` on a listener's `tls`, or leave the rules out: nobody could ever send here";
            self.told(at, "no listener asks senders for a certificate", help);
        }
        let mut read = Vec::new();
        for (i, rule) in rules.iter().enumerate() {
            let at = at.index(i);
            match (&rule.name, &rule.subject, &rule.spki_sha256) {
                (Some(name), None, None) if !name.is_empty() => {
                    // DNS names are compared in lower case; in the others a letter's case may count.
                    let is_dns = !name.contains([':', '/', '@']);
                    read.push(Rule::Name(if is_dns { name.to_ascii_lowercase() } else { name.clone() }.into()));
                }
                (None, Some(subject), None) if !subject.is_empty() => read.push(Rule::Subject(subject.as_str().into())),
                (None, None, Some(digest)) => {
                    let mut key = [0; 32];
                    match hex::decode_to_slice(digest, &mut key) {
                        Ok(()) => read.push(Rule::Key(key)),
                        Err(_) => {
                            let help = "write 64 hex digits; the log shows them for a refused certificate";
                            self.wrong(&at.key("spki_sha256"), "not a SHA-256 in hex", help);
                        }
                    }
                }
                _ => self.told(&at, "not exactly one rule", "write exactly one of `name`, `subject` and `spki_sha256`"),
            }
        }
        read
    }

    fn content_types(&mut self, types: &[String], at: &Place) -> Vec<Box<str>> {
        for (i, one) in types.iter().enumerate() {
            let parts = one.split_once('/');
            let plain = parts.is_some_and(|(a, b)| [a, b].iter().all(|p| !p.is_empty() && p.bytes().all(is_token)));
            let help = if one.contains(';') {
                "leave the parameters out: any are accepted".to_owned()
            } else if one.contains('*') {
                "name each type; to accept all leave the key out".to_owned()
            } else {
                "write type/subtype, for instance application/json".to_owned()
            };
            if !plain || one.contains('*') {
                self.wrong(&at.index(i), "not a media type", help);
            }
        }
        types.iter().map(|one| one.to_ascii_lowercase().into()).collect()
    }

    fn content_encodings(&mut self, encodings: &[String], at: &Place) -> Vec<Box<str>> {
        for (i, one) in encodings.iter().enumerate() {
            if one.is_empty() || !one.bytes().all(is_token) {
                self.wrong(&at.index(i), "not a content coding", "write for instance gzip");
            } else if one.eq_ignore_ascii_case("identity") {
                self.wrong(
                    &at.index(i),
                    "`identity` is no encoding",
                    "remove it: bodies without an encoding are always accepted",
                );
            }
        }
        encodings.iter().map(|one| one.to_ascii_lowercase().into()).collect()
    }

    pub(super) fn header_names(&mut self, names: &[String], at: &Place) -> Vec<HeaderName> {
        names.iter().enumerate().filter_map(|(i, name)| self.header_name(name, &at.index(i))).collect()
    }

    /// A header of the request. The carriers let no name with an underscore pass.
    pub(super) fn incoming(&mut self, name: &str, at: &Place) -> Option<HeaderName> {
        let name = self.header_name(name, at)?;
        if name.as_str().contains('_') {
            self.wrong(at, "headers with an underscore do not pass", "use a header with hyphens");
            return None;
        }
        Some(name)
    }

    pub(super) fn header_name(&mut self, name: &str, at: &Place) -> Option<HeaderName> {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Some(name),
            Err(_) => {
                self.wrong(at, "not a header name", "write the name alone, for instance X-Event-Id");
                None
            }
        }
    }

    fn answers(&mut self, raw: &raw::Answers, provider: Option<&Provider>, at: &Place) -> Answers {
        let (preset, usual) = (provider.map(|provider| &provider.answers), Answers::default());
        let preset = preset.cloned().unwrap_or_default();
        let mut status = |key: &str, written: Option<u16>, preset: Option<u16>, usual: u16, allowed: &[u16]| {
            if written.is_some_and(|status| !allowed.contains(&status)) {
                let allowed: Vec<_> = allowed.iter().map(u16::to_string).collect();
                let help = format!("write one of {}", allowed.join(", "));
                self.wrong(&at.key(key), "not a status that senders understand here", help);
            }
            written.or(preset).unwrap_or(usual)
        };
        Answers {
            unauthorized: status(
                "unauthorized",
                raw.unauthorized,
                preset.unauthorized,
                usual.unauthorized,
                &[400, 401, 403, 404],
            ),
            duplicate: status("duplicate", raw.duplicate, preset.duplicate, usual.duplicate, &[200, 202, 204, 409]),
            busy: status("busy", raw.busy, preset.busy, usual.busy, &[409, 425, 429, 503]),
            rate_limited: status(
                "rate_limited",
                raw.rate_limited,
                preset.rate_limited,
                usual.rate_limited,
                &[429, 503],
            ),
            overload: status("overload", raw.overload, preset.overload, usual.overload, &[429, 503]),
            accepted: status("accepted", raw.accepted, preset.accepted, usual.accepted, &[200, 202, 204]),
        }
    }

    /// Statuses with which this sender drops an event that it should send again.
    fn lost_events(&mut self, answers: Answers, provider: Option<&Provider>, at: &Place) {
        let Some(provider) = provider else { return };
        for (key, status) in
            [("busy", answers.busy), ("rate_limited", answers.rate_limited), ("overload", answers.overload)]
        {
            if provider.retries.is_lost_on(status) {
                let what = format!("{} does not send an event again that it was answered {status} for", provider.name);
                self.warn(&at.key(key), what, "take another status, or accept that such events are lost");
            }
        }
    }
}

/// The same in every process: eight characters of base64url.
fn group(route: &str) -> Group {
    use base64::Engine;
    let digest = Sha256::digest(format!("group\n{route}"));
    let mut group = [b'_'; 8];
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
    group.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    Group(group)
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
}
