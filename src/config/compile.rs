//! From what people write to what we run on: defaults filled in, impossible and dangerous combinations refused.
//!
//! The only bridge between the two. It never stops at the first problem, and it never panics: whatever passed the raw
//! types gets an answer.

use super::destinations::destinations;
use super::load::Document;
use super::place::Place;
use super::problem::{Problem, nearest, one_of};
use super::raw;
use super::secrets::{Found, Origin, World};
use super::units::{Size, Span, duration};
use crate::check::allowlist::{NetSet, parse_list, parse_net};
use crate::check::path::RouteTable;
use crate::check::ranges::Ranges;
use crate::diagnose::Subject;
use crate::policy::{Limits, Log, LogFormat, LogRequests, Policy, Shutdown, Timeouts, Tracing};
use ipnet::IpNet;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// Where metrics are unless the configuration says otherwise: for this machine only.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// Requests that the status page remembers unless the configuration says otherwise.
const HISTORY: usize = 1000;

/// The grace period that Kubernetes gives by default.
const KUBERNETES_GRACE: Duration = Duration::from_secs(30);

/// A file of networks is smaller than this.
const MAX_LIST: usize = 64 << 20;

/// The policy of a configuration, if nothing is wrong with it; problems go to the document, warnings to the policy.
pub(super) fn compile(
    config: &raw::Config,
    document: &mut Document,
    version: String,
    world: &dyn World,
) -> Option<Policy> {
    let mut compiler = Compiler {
        world,
        document,
        problems: Vec::new(),
        warnings: Vec::new(),
        subject: None,
        asks_for_certificates: false,
        ranges: Vec::new(),
    };
    let policy = compiler.policy(config, version);
    let (problems, mut warnings) = (compiler.problems, compiler.warnings);
    document.problems.extend(problems);
    if !document.problems.is_empty() {
        return None;
    }
    warnings.sort_by_key(|warning| warning.line);
    let lines = warnings.iter().map(|warning| match warning.line {
        Some(line) => format!("line {line}: {} ({})", warning.summary(), warning.help),
        None => format!("{} ({})", warning.summary(), warning.help),
    });
    Some(Policy { warnings: lines.collect(), ..policy })
}

pub(super) const DAY: Duration = Duration::from_secs(86_400);

pub(super) struct Compiler<'a> {
    pub(super) world: &'a dyn World,
    pub(super) document: &'a Document,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Of the route at hand, where it asks for diagnoses.
    pub(super) subject: Option<Box<Subject>>,
    /// Does a listener ask senders for a certificate?
    pub(super) asks_for_certificates: bool,
    /// Published lists, one for all routes that need it.
    pub(super) ranges: Vec<Arc<Ranges>>,
}

/// What the parts of a route need to know of the rest.
pub(super) struct Around<'a> {
    pub(super) config: &'a raw::Config,
    pub(super) timeouts: Timeouts,
    /// Index of each upstream that is whole.
    pub(super) upstreams: HashMap<&'a str, usize>,
    /// Index of each queue that is whole.
    pub(super) queues: HashMap<&'a str, usize>,
    /// Of each upstream.
    pub(super) exchange_timeouts: Vec<Duration>,
}

impl Around<'_> {
    pub(super) fn upstream_timeout(&self, index: usize) -> Option<Duration> {
        self.exchange_timeouts.get(index).copied()
    }
}

impl Compiler<'_> {
    /// Not told where the value in question could not even be read.
    pub(super) fn wrong(&mut self, place: &Place, what: impl AsRef<str>, help: impl AsRef<str>) {
        if !self.document.is_damaged(place) {
            self.problems.push(self.document.describe(place, what.as_ref(), help.as_ref()));
        }
    }

    /// The same for what another module says, which names the value itself.
    pub(super) fn told(&mut self, place: &Place, what: impl AsRef<str>, help: impl AsRef<str>) {
        if !self.document.is_damaged(place) {
            let problem = self.document.describe(place, what.as_ref(), help.as_ref());
            self.problems.push(Problem { value: None, ..problem });
        }
    }

    pub(super) fn is_damaged(&self, place: &Place) -> bool {
        self.document.is_damaged(place)
    }

    pub(super) fn has_damage(&self, place: &Place) -> bool {
        self.document.has_damage(place)
    }

    pub(super) fn warn(&mut self, place: &Place, what: impl AsRef<str>, help: impl AsRef<str>) {
        self.warnings.push(self.document.describe(place, what.as_ref(), help.as_ref()));
    }

    fn policy(&mut self, config: &raw::Config, version: String) -> Policy {
        let root = Place::default();
        let listeners = self.listeners(&config.listen);
        self.asks_for_certificates =
            listeners.iter().any(|(_, one)| one.tls.as_ref().is_some_and(|tls| tls.clients.is_some()));
        let (admin, admin_access) = self.admin(config.admin.as_ref(), &listeners);
        let history = self.history(config.admin.as_ref());
        let trusted = self.networks(&config.trusted_proxies, &root.key("trusted_proxies"));
        for (i, network) in config.trusted_proxies.iter().enumerate() {
            if matches!(network, raw::Network::Cidr(text) if text.ends_with("/0")) {
                let help = "list only the addresses of your own proxies: everybody else could forge client addresses and https";
                self.warn(&root.key("trusted_proxies").index(i), "every address is trusted as a proxy", help);
            }
        }
        let timeouts = self.timeouts(&config.timeouts);
        let limits = self.limits(&config.limits);
        let connections = self.connections(&config.connections);
        let fetch = self.fetch(&config.fetch);
        let (upstreams, names) = self.upstreams(&config.upstreams, timeouts);
        let (queues, queue_names) = self.queues(&config.queues);
        let exchange_timeouts = upstreams.iter().map(|upstream| upstream.timeout).collect();
        let around = Around { config, timeouts, upstreams: names, queues: queue_names, exchange_timeouts };
        let routes = self.routes(&config.routes, &around);
        let state = self.state(&config.state.0);
        let remembers = routes.iter().any(|(_, route)| route.duplicates.is_some());
        let counts = routes.iter().any(|(_, route)| !route.limits_before.is_empty() || !route.limits_after.is_empty());
        self.replicas(config, remembers, counts);
        self.https(config, &listeners, &trusted);
        self.unused(config);
        self.unused_queues(config);
        Policy {
            version: version.into(),
            listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
            admin,
            history,
            admin_access,
            trusted_proxies: NetSet::new(trusted),
            timeouts,
            limits,
            connections,
            fetch,
            shutdown: self.shutdown(&config.shutdown),
            state,
            upstreams,
            queues,
            routes: RouteTable::new(routes),
            workers: self.workers(config.workers),
            fast_path: config.fast_path != Some(raw::FastPath::Off),
            tracing: config.tracing.as_ref().and_then(|tracing| self.tracing(tracing, timeouts)).map(Arc::new),
            log: self.log(&config.log),
            warnings: Vec::new(),
        }
    }

    fn history(&mut self, admin: Option<&raw::Admin>) -> usize {
        match admin {
            Some(raw::Admin::Off) => 0,
            Some(raw::Admin::Full(raw::AdminAddress { history: Some(history), .. })) => {
                self.number(*history, 0, 100_000, &Place::default().key("admin").key("history"));
                *history
            }
            _ => HISTORY,
        }
    }

    fn timeouts(&mut self, raw: &raw::Timeouts) -> Timeouts {
        let root = Place::default().key("timeouts");
        let hour = Duration::from_secs(3600);
        for (key, span) in [
            ("handshake", raw.handshake),
            ("header", raw.header),
            ("body", raw.body),
            ("idle", raw.idle),
            ("total", raw.total),
        ] {
            self.within(span, Duration::from_millis(10), hour, &root.key(key));
        }
        let times = Timeouts {
            handshake: raw.handshake.0,
            header: raw.header.0,
            body: raw.body.0,
            idle: raw.idle.0,
            total: raw.total.0,
            duplicate_wait: raw.duplicate_wait.0,
        };
        if times.total < times.header.saturating_add(times.body) {
            let sum = duration(times.header.saturating_add(times.body));
            let what = format!("the whole is shorter than its parts: header and body may take {sum}");
            let at = if self.document.keys(&root).contains(&"total") { root.key("total") } else { root.clone() };
            self.wrong(&at, what, format!("set total to more than {sum}, or make header or body shorter"));
        }
        if times.duplicate_wait >= times.total {
            let help = format!("wait less than `timeouts.total`, {}", raw.total);
            self.wrong(&root.key("duplicate_wait"), "longer than a request may take", help);
        }
        times
    }

    pub(super) fn within(&mut self, span: Span, least: Duration, most: Duration, at: &Place) {
        if span.0 < least || span.0 > most {
            let what = if span.0 < least { "too short" } else { "too long" };
            let help = format!("write something from {} to {}", duration(least), duration(most));
            self.wrong(at, what, help);
        }
    }

    pub(super) fn number(&mut self, value: usize, least: usize, most: usize, at: &Place) {
        if value < least || value > most {
            let what = if value < least { "too small" } else { "too large" };
            self.wrong(at, what, format!("write something from {least} to {most}"));
        }
    }

    pub(super) fn size(&mut self, value: Size, least: Size, most: Size, at: &Place) {
        if value < least || value > most {
            let what = if value < least { "too small" } else { "too large" };
            self.wrong(at, what, format!("write something from {least} to {most}"));
        }
    }

    fn limits(&mut self, raw: &raw::Limits) -> Limits {
        let root = Place::default().key("limits");
        self.number(raw.headers, 10, 10_000, &root.key("headers"));
        self.size(raw.header_bytes, Size(1 << 10), Size(1 << 20), &root.key("header_bytes"));
        self.size(raw.uri_bytes, Size(64), Size(64 << 10), &root.key("uri_bytes"));
        self.size(raw.body_memory, Size(1), Size(1 << 40), &root.key("body_memory"));
        self.max_body(raw.max_body, raw.body_memory, &root.key("max_body"));
        Limits {
            headers: raw.headers,
            header_bytes: raw.header_bytes.0,
            uri_bytes: raw.uri_bytes.0,
            body_memory: raw.body_memory.0,
        }
    }

    pub(super) fn max_body(&mut self, max: Size, memory: Size, at: &Place) {
        if max.0 == 0 {
            self.wrong(at, "no body would be accepted", "write a size, for instance 1MiB");
        } else if max > memory && !self.document.is_damaged(&Place::default().key("limits").key("body_memory")) {
            let help =
                format!("one such body would need more than `limits.body_memory`, {memory}: change one of the two");
            self.wrong(at, "larger than the memory for all bodies together", help);
        }
    }

    fn shutdown(&mut self, raw: &raw::Shutdown) -> Shutdown {
        let root = Place::default().key("shutdown");
        let hour = Duration::from_secs(3600);
        self.within(raw.pre_stop, Duration::ZERO, hour, &root.key("pre_stop"));
        self.within(raw.grace, Duration::ZERO, hour, &root.key("grace"));
        let whole = raw.pre_stop.0.saturating_add(raw.grace.0);
        if whole >= KUBERNETES_GRACE {
            let what = format!("stopping takes up to {}", duration(whole));
            self.warn(&root, what, "Kubernetes kills after 30s unless terminationGracePeriodSeconds is longer");
        }
        Shutdown { pre_stop: raw.pre_stop.0, grace: raw.grace.0 }
    }

    fn workers(&mut self, workers: Option<u32>) -> Option<usize> {
        let workers = usize::try_from(workers?).unwrap_or(usize::MAX);
        self.number(workers, 1, 1024, &Place::default().key("workers"));
        Some(workers)
    }

    fn tracing(&mut self, raw: &raw::Tracing, timeouts: Timeouts) -> Option<Tracing> {
        let at = Place::default().key("tracing");
        self.number(usize::try_from(raw.sample).unwrap_or(usize::MAX), 1, 1_000_000, &at.key("sample"));
        let mut resource = vec![("service.name".to_owned(), raw.service.clone().unwrap_or_else(|| "hookmoat".into()))];
        resource.push(("service.version".into(), env!("CARGO_PKG_VERSION").into()));
        for (name, source) in &raw.attributes {
            let at = at.key("attributes").key(name);
            match self.plain(source, &at) {
                Some(Ok(bytes)) => resource.push((name.clone(), String::from_utf8_lossy(&bytes).into_owned())),
                // Spans without it are better than none.
                Some(Err(what)) => self.warn(&at, what, "spans go without this attribute"),
                None => {}
            }
        }
        let at = at.key("otlp");
        let headers = self.set_headers(&raw.otlp.headers, &at.key("headers"));
        for (name, source) in &raw.otlp.headers {
            let origin = Origin { env: source.env.as_deref(), file: source.file.as_deref(), literal: None };
            if source.value.is_none()
                && let Ok(Found::Missing(what)) = origin.find(self.world)
            {
                self.warn(&at.key("headers").key(name), what, "spans go without this header");
            }
        }
        if raw.otlp.url.parse::<http::Uri>().is_ok_and(|url| url.scheme().is_some() && url.path() != "/") {
            self.wrong(
                &at.key("url"),
                "more than scheme, host and port",
                "write the path as `path`, /v1/traces by default",
            );
            return None;
        }
        let path = raw.otlp.path.as_deref().unwrap_or("/v1/traces");
        if !path.starts_with('/') || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            self.wrong(&at.key("path"), "not a path", "write one that begins with /, for instance /v1/traces");
        }
        let map = raw::UpstreamMap {
            url: raw.otlp.url.clone(),
            timeout: raw.otlp.timeout,
            connect_timeout: None,
            read_timeout: None,
            idle_timeout: None,
            max_idle: Some(1),
            concurrency: None,
            tls: raw.otlp.tls.clone(),
        };
        let collector = self.upstream("otlp", &raw::Upstream { map, bare: false }, &at, timeouts)?;
        Some(Tracing {
            collector: Arc::new(collector),
            path: path.into(),
            headers,
            sample: raw.sample.max(1),
            resource,
        })
    }

    fn log(&mut self, raw: &raw::Log) -> Log {
        const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
        // The filter takes any lone word for the name of a module: `inf` would switch nearly everything off.
        let lone = !raw.level.contains(['=', ',', ':', '[']);
        let known = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(&raw.level));
        if (lone && !known) || tracing_subscriber::EnvFilter::try_new(&raw.level).is_err() {
            let help = match nearest(&raw.level, &LEVELS) {
                Some(meant) if lone => format!("did you mean `{meant}`?"),
                _ => format!("write {}, or a filter such as info,hookmoat=debug", one_of(&LEVELS)),
            };
            self.wrong(&Place::default().key("log").key("level"), "not a log level or filter", help);
        }
        self.number(
            usize::try_from(raw.sample).unwrap_or(usize::MAX),
            1,
            1_000_000,
            &Place::default().key("log").key("sample"),
        );
        Log {
            format: match raw.format {
                raw::LogFormat::Json => LogFormat::Json,
                raw::LogFormat::Pretty => LogFormat::Pretty,
                raw::LogFormat::Auto if self.world.is_interactive() => LogFormat::Pretty,
                raw::LogFormat::Auto => LogFormat::Json,
            },
            requests: match raw.requests {
                raw::LogRequests::All => LogRequests::All,
                raw::LogRequests::Refused => LogRequests::Refused,
                raw::LogRequests::Off => LogRequests::Off,
            },
            sample: raw.sample.max(1),
            level: raw.level.as_str().into(),
        }
    }

    pub(super) fn networks(&mut self, networks: &[raw::Network], at: &Place) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for (i, network) in networks.iter().enumerate() {
            let at = at.index(i);
            match network {
                raw::Network::Cidr(text) if text == "provider" => {
                    let help = "list the networks of your own proxies, or name a file of them";
                    self.wrong(&at, "`provider` means nothing here", help);
                }
                raw::Network::Cidr(text) => match parse_net(text) {
                    Ok(net) => nets.push(net),
                    Err(what) => self.told(&at, what, "write a network such as 203.0.113.0/24 or a single address"),
                },
                raw::Network::List(list) => match (&list.file, &list.url) {
                    (Some(file), None) => nets.extend(self.network_file(file, &at.key("file"))),
                    (None, Some(_)) => {
                        let help = "only a route's `allow` takes published lists: name a file here";
                        self.wrong(&at.key("url"), "not here", help);
                    }
                    _ => self.not_one_list(&at),
                },
            }
        }
        nets
    }

    pub(super) fn network_file(&mut self, file: &str, at: &Place) -> Vec<IpNet> {
        const SHOWN: usize = 10;
        let path = self.world.resolve(file);
        let text = self.world.read(&path, MAX_LIST).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not text in UTF-8"))
        });
        match text.as_deref().map(parse_list) {
            Ok(Ok(nets)) => {
                if nets.is_empty() {
                    self.warn(at, "the file holds no network", "write one network a line");
                }
                return nets;
            }
            Ok(Err(lines)) => {
                for (line, what) in lines.iter().take(SHOWN) {
                    let what = format!("line {line} of the file: {what}");
                    self.wrong(at, what, "write one network a line, for instance 203.0.113.0/24; `#` begins a comment");
                }
                if lines.len() > SHOWN {
                    self.wrong(
                        at,
                        format!("{} more lines of the file are wrong", lines.len() - SHOWN),
                        "correct these first",
                    );
                }
            }
            Err(error) => {
                let what = format!("cannot be read ({})", super::secrets::plain(error));
                self.wrong(at, what, format!("put the file there: {}", path.display()));
            }
        }
        Vec::new()
    }

    fn unused(&mut self, config: &raw::Config) {
        if self.document.has_damage(&Place::default().key("routes")) {
            return;
        }
        for name in config.upstreams.keys() {
            if !config.routes.iter().any(|route| destinations(route).any(|to| to.map.upstream.as_deref() == Some(name)))
            {
                self.warn(
                    &Place::default().key("upstreams").key(name),
                    "no route goes there",
                    "remove it, or name it in a route's `to` or `deliver`",
                );
            }
        }
    }
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

pub(super) fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    host.len() <= 253 && host.split('.').all(label)
}
