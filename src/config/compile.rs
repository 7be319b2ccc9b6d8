//! From what people write to what we run on: defaults filled in, impossible and dangerous combinations refused.
//!
//! The only bridge between the two. It never stops at the first problem, and it never panics: whatever passed the raw
//! types gets an answer.

use super::load::Document;
use super::place::Place;
use super::problem::{Problem, nearest, one_of};
use super::raw;
use super::scheme::RawScheme;
use super::secrets::{Found, Origin, World};
use super::units::{Size, Span, duration};
use crate::check::allowlist::{Allowlist, NetSet, parse_list, parse_net};
use crate::check::client_certificate::Rule;
use crate::check::duplicate::{Duplicates, EventId, MissingId};
use crate::check::event_type::{EventTypes, Pattern, Patterns};
use crate::check::handshake::{Exchange, Handshakes, Setting, Settings};
use crate::check::path::{Matcher, PathPattern, RouteTable};
use crate::check::ranges::Ranges;
use crate::check::rate_limit::{Limit, LimitKey};
use crate::check::signature::{Credentials, FixedClaim, PublicKeys, Scheme, SignatureCheck};
use crate::check::source::Source;
use crate::diagnose::Subject;
use crate::policy::{
    Answers, Authentication, Branch, ClientCertificates, Forward, HostHeader, Https, Limits, Listener, Log, LogFormat,
    LogRequests, PairFiles, Policy, Route, Shutdown, Timeouts, TlsFiles, Tracing, Upstream, UpstreamAddress,
    UpstreamTls,
};
use crate::port::seen::Group;
use crate::provider::{self, Provider};
use crate::request::HeaderName;
use crate::secret::{Secret, SecretBytes};
use http::HeaderValue;
use ipnet::IpNet;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Where metrics are unless the configuration says otherwise: for this machine only.
pub(super) const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9901);
/// Requests that the status page remembers unless the configuration says otherwise.
const HISTORY: usize = 1000;

/// How long an upstream may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a delivered event is remembered if neither route nor preset says.
const REMEMBER: Duration = Duration::from_secs(72 * 3600);

/// A claim must outlive its request; this much is left for settling it.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// A claim that is renewed while its owner is alive blocks an event for so long once the owner is not.
const RENEWED_LEASE: Duration = Duration::from_secs(30);

/// The grace period that Kubernetes gives by default.
const KUBERNETES_GRACE: Duration = Duration::from_secs(30);

/// A file of networks is smaller than this.
const MAX_LIST: usize = 64 << 20;

const DAY: Duration = Duration::from_secs(86_400);

const PUBLIC_URL_HELP: &str =
    "write the URL exactly as the sender was given it, for instance https://hooks.example.com/webhooks/crm";

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

pub(super) struct Compiler<'a> {
    pub(super) world: &'a dyn World,
    document: &'a Document,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// Of the route at hand, where it asks for diagnoses.
    subject: Option<Box<Subject>>,
    /// Does a listener ask senders for a certificate?
    asks_for_certificates: bool,
    /// Published lists, one for all routes that need it.
    pub(super) ranges: Vec<Arc<Ranges>>,
}

/// What the parts of a route need to know of the rest.
pub(super) struct Around<'a> {
    pub(super) config: &'a raw::Config,
    pub(super) timeouts: Timeouts,
    /// Index of each upstream that is whole.
    upstreams: HashMap<&'a str, usize>,
    /// Index of each queue that is whole.
    pub(super) queues: HashMap<&'a str, usize>,
    /// Of each upstream.
    exchange_timeouts: Vec<Duration>,
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

    // Listeners -----------------------------------------------------------------------------------------------------

    fn listeners(&mut self, listen: &[raw::Listen]) -> Vec<(Place, Listener)> {
        let root = Place::default().key("listen");
        let mut listeners: Vec<(Place, Listener)> = Vec::new();
        if listen.is_empty() && !self.document.has_damage(&root) {
            self.wrong(&root, "no listener", "add one, for instance `listen: [{address: 0.0.0.0:8080}]`");
        }
        for (i, one) in listen.iter().enumerate() {
            let at = root.index(i);
            let tls = one.tls.as_ref().map(|tls| self.listen_tls(tls, &at.key("tls")));
            let proxied = one.proxy_protocol.as_ref();
            let proxy_protocol = proxied.map(|proxied| self.proxy_protocol(proxied, &at.key("proxy_protocol")));
            let at = at.key("address");
            let Some(address) = self.address(&one.address, &at) else { continue };
            let other = listeners.iter().find(|(_, other)| overlap(other.address, address));
            if let Some((place, other)) = other {
                let what = format!("overlaps with {place}, {}", other.address);
                self.wrong(&at, what, "give each listener an address or port of its own");
            }
            listeners.push((at, Listener { address, tls, proxy_protocol }));
        }
        listeners
    }

    fn listen_tls(&mut self, tls: &raw::ListenTls, at: &Place) -> TlsFiles {
        let mut pairs = vec![self.pair(&tls.certificate, &tls.private_key, tls.self_signed_if_missing, at)];
        for (i, pair) in tls.others.iter().enumerate() {
            pairs.push(self.pair(&pair.certificate, &pair.private_key, false, &at.key("others").index(i)));
        }
        let clients = tls.client_ca.as_ref().map(|ca| {
            let ca = self.world.resolve(ca);
            if !self.world.is_file(&ca) {
                let what = format!("no such file ({})", ca.display());
                self.wrong(&at.key("client_ca"), what, "put the PEM file of the issuing roots there");
            }
            ClientCertificates { ca, required: tls.client_certificate != Some(raw::ClientCertificateMode::Optional) }
        });
        let only_tls13 = tls.min_version == Some(raw::TlsVersion::V13);
        TlsFiles { pairs, self_signed_if_missing: tls.self_signed_if_missing, only_tls13, clients }
    }

    pub(super) fn pair(&mut self, certificate: &str, private_key: &str, may_be_made: bool, at: &Place) -> PairFiles {
        let files =
            PairFiles { certificate: self.world.resolve(certificate), private_key: self.world.resolve(private_key) };
        let have = (self.world.is_file(&files.certificate), self.world.is_file(&files.private_key));
        // A pair is made only where there is nothing: half a pair is somebody's file.
        if !(may_be_made && have == (false, false)) {
            let help = if may_be_made {
                "one of the two files is there: add the other, or remove both to have a pair made"
            } else {
                "put the file there; for local play set `self_signed_if_missing: true`"
            };
            for (key, there, path) in
                [("certificate", have.0, &files.certificate), ("private_key", have.1, &files.private_key)]
            {
                if !there {
                    self.wrong(&at.key(key), format!("no such file ({})", path.display()), help);
                }
            }
        }
        if have.1 && self.world.is_readable_by_all(&files.private_key) {
            self.warn(&at.key("private_key"), "every user of this machine may read the private key", "chmod 600");
        }
        files
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

    pub(super) fn address(&mut self, text: &str, at: &Place) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                self.wrong(at, "port 0 is no fixed port", "name a port from 1 to 65535");
                None
            }
            Ok(address) => Some(address),
            Err(_) => {
                let help = match (text.strip_prefix(':'), text.split_once(':')) {
                    (Some(port), _) => format!("write 0.0.0.0:{port} for all addresses of this machine"),
                    (_, Some(("localhost", port))) => format!("write 127.0.0.1:{port}"),
                    (_, None) => "write an IP address and a port, for instance 0.0.0.0:8080".to_owned(),
                    _ => "write an IP address and a port, for instance 0.0.0.0:8080 or [::]:8080".to_owned(),
                };
                self.wrong(at, "not an IP address with a port", help);
                None
            }
        }
    }

    // Global settings -----------------------------------------------------------------------------------------------

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

    fn max_body(&mut self, max: Size, memory: Size, at: &Place) {
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

    /// Plain HTTP, where nothing can ever count as https.
    fn https(&mut self, config: &raw::Config, listeners: &[(Place, Listener)], trusted: &[IpNet]) {
        let root = Place::default();
        let unsure = ["listen", "trusted_proxies", "https"].iter().any(|key| self.document.has_damage(&root.key(*key)));
        if unsure || listeners.is_empty() || listeners.iter().any(|(_, listener)| listener.tls.is_some()) {
            return;
        }
        let global_place = if config.https.is_some() { root.key("https") } else { root.key("listen") };
        let mut told = BTreeSet::new();
        for (i, route) in config.routes.iter().enumerate() {
            let (https, place) = match route.https {
                Some(https) => (https, root.key("routes").index(i).key("https")),
                None => (config.https.unwrap_or(raw::Https::Reject), global_place.clone()),
            };
            if route.observe.contains(&raw::Observe::Https) || !told.insert(place.clone()) {
                continue;
            }
            match https {
                raw::Https::Reject if trusted.is_empty() => {
                    let what =
                        "every request would be refused: no listener has TLS, and no proxy is trusted to have ended it";
                    let help =
                        "give a listener `tls`; or list the proxy in front in `trusted_proxies`; or set `https: allow`";
                    self.wrong(&place, what, help);
                }
                raw::Https::Redirect => {
                    let what = "redirects to https, but no listener here has TLS";
                    self.warn(&place, what, "make sure that something in front of it answers https");
                }
                _ => {}
            }
        }
    }

    // Upstreams -----------------------------------------------------------------------------------------------------

    fn upstreams<'c>(
        &mut self,
        raw: &'c BTreeMap<String, raw::Upstream>,
        timeouts: Timeouts,
    ) -> (Vec<Arc<Upstream>>, HashMap<&'c str, usize>) {
        let (mut upstreams, mut names) = (Vec::new(), HashMap::new());
        for (name, one) in raw {
            let at = Place::default().key("upstreams").key(name);
            if !is_name(name) {
                self.wrong(&at, "not a name", "use letters, digits, `-`, `_` and `.`, at most 64");
            }
            if let Some(upstream) = self.upstream(name, one, &at, timeouts) {
                names.insert(name.as_str(), upstreams.len());
                upstreams.push(Arc::new(upstream));
            }
        }
        (upstreams, names)
    }

    fn upstream(&mut self, name: &str, raw: &raw::Upstream, at: &Place, timeouts: Timeouts) -> Option<Upstream> {
        let map = &raw.map;
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
        let timeout = map.timeout.map_or(UPSTREAM_TIMEOUT, |span| span.0);
        let times = [
            ("timeout", map.timeout, UPSTREAM_TIMEOUT),
            ("connect_timeout", map.connect_timeout, timeout.min(Duration::from_secs(2))),
            ("read_timeout", map.read_timeout, timeout),
        ]
        .map(|(key, span, default)| {
            if let Some(span) = span {
                self.within(span, least, most, &at.key(key));
                if span.0 > timeout {
                    let help =
                        format!("the whole exchange may take {}: raise `timeout` or shorten this", duration(timeout));
                    self.wrong(&at.key(key), "longer than `timeout`", help);
                }
            }
            span.map_or(default, |span| span.0)
        });
        if timeout > timeouts.total {
            let what = format!("longer than `timeouts.total`, {}", duration(timeouts.total));
            self.warn(&at.key("timeout"), what, "the request ends at the shorter of the two");
        }
        if let Some(span) = map.idle_timeout {
            self.within(span, Duration::ZERO, DAY, &at.key("idle_timeout"));
        }
        let max_idle = map.max_idle.unwrap_or(128);
        self.number(max_idle, 0, 100_000, &at.key("max_idle"));
        let concurrency = map.concurrency.unwrap_or(16);
        self.number(concurrency, 1, 10_000, &at.key("concurrency"));
        let url_at = if raw.bare { at.clone() } else { at.key("url") };
        let (address, authority, secure) = match self.url(&map.url) {
            Ok(parts) => parts,
            Err((what, help)) => {
                self.wrong(&url_at, what, help);
                return None;
            }
        };
        let tls = self.upstream_tls(map.tls.as_ref(), &address, secure, &at.key("tls"))?;
        Some(Upstream {
            name: name.into(),
            address,
            authority,
            tls,
            timeout: times[0],
            connect_timeout: times[1],
            read_timeout: times[2],
            idle_timeout: map.idle_timeout.map_or(Duration::from_secs(60), |span| span.0),
            max_idle,
            concurrency,
        })
    }

    /// Address, `Host`, and whether TLS is spoken.
    fn url(&self, url: &str) -> Result<(UpstreamAddress, HeaderValue, bool), (&'static str, &'static str)> {
        const FORM: &str = "write http://host:port, https://host:port or unix:/path/to/socket";
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // sun_path holds 108 bytes on Linux, the final zero included.
            if path.is_empty() || path.contains('\0') {
                return Err(("a unix socket without a path", FORM));
            }
            let path = self.world.resolve(path);
            if path.as_os_str().len() > 107 {
                return Err(("the path of a unix socket has at most 107 bytes", "move the socket to a shorter path"));
            }
            return Ok((UpstreamAddress::Unix(path), HeaderValue::from_static("localhost"), false));
        }
        let uri: http::Uri = url.parse().map_err(|_| ("not a URL", FORM))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(("neither http, https nor unix", FORM)),
        };
        let authority = uri.authority().ok_or(("a URL without a host", FORM))?;
        if authority.as_str().contains('@') {
            let help = "send it as a header: to: {upstream: …, headers: {Authorization: {env: …}}}";
            return Err(("user and password do not belong here", help));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
            return Err((
                "more than scheme, host and port",
                "leave the path out here; a route can set it: to: {upstream: …, path: …}",
            ));
        }
        let port = match (authority.port_u16(), authority.as_str().rsplit_once(':')) {
            (Some(0), _) => return Err(("port 0 is no port", FORM)),
            (Some(port), _) => port,
            // `host:` and `host:99999` have a colon and no port; the colons of an IPv6 address stand in brackets.
            (None, Some((_, tail))) if !tail.ends_with(']') => {
                return Err(("not a port", "name a port from 1 to 65535"));
            }
            (None, _) if secure => 443,
            (None, _) => 80,
        };
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = match bare.parse::<IpAddr>() {
            Ok(ip) => UpstreamAddress::Socket(SocketAddr::new(ip, port)),
            Err(_) if is_host(host) => UpstreamAddress::Name(host.to_ascii_lowercase().into(), port),
            Err(_) => return Err(("not a host name or IP address", FORM)),
        };
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| ("not a host name", FORM))?;
        Ok((address, value, secure))
    }

    fn upstream_tls(
        &mut self,
        raw: Option<&raw::UpstreamTls>,
        address: &UpstreamAddress,
        secure: bool,
        at: &Place,
    ) -> Option<Option<UpstreamTls>> {
        if !secure {
            if raw.is_some() {
                self.wrong(at, "the URL does not speak TLS", "write https:// in the URL, or remove `tls`");
            }
            return Some(None);
        }
        let host = match address {
            UpstreamAddress::Socket(address) => address.ip().to_string(),
            UpstreamAddress::Name(name, _) => name.to_string(),
            UpstreamAddress::Unix(_) => "localhost".into(),
        };
        let none = raw::UpstreamTls::default();
        let raw = raw.unwrap_or(&none);
        let server_name = raw.server_name.clone().unwrap_or(host);
        if rustls_pki_types::ServerName::try_from(server_name.as_str()).is_err() {
            self.wrong(&at.key("server_name"), "not a name that a certificate can have", "write a host name");
        }
        if raw.insecure_skip_verify {
            let help = "give the backend's roots as `ca` instead";
            self.warn(&at.key("insecure_skip_verify"), "the backend's certificate is not checked", help);
        }
        let (ca, client, files) = self.upstream_files(raw, at);
        let verify = !raw.insecure_skip_verify;
        Some(Some(UpstreamTls { server_name: server_name.into(), ca, verify, client, files }))
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

    // Routes --------------------------------------------------------------------------------------------------------

    fn routes(&mut self, raw: &[raw::Route], around: &Around<'_>) -> Vec<(Matcher, Arc<Route>)> {
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

    // Signature and secrets -----------------------------------------------------------------------------------------

    /// How the route's requests prove themselves. The scheme comes a second time, for what the event IDs need to know
    /// of it even where the secrets are missing.
    fn authentication(
        &mut self,
        raw: &raw::Route,
        provider: Option<&'static Provider>,
        at: &Place,
    ) -> (Option<Authentication>, Option<Scheme>, Vec<Secret>) {
        if raw.provider.is_some() && raw.signature.is_some() {
            let help = "a preset brings its own scheme: keep one of the two";
            self.wrong(&at.key("signature"), "both a provider and a signature", help);
        }
        let public_url = raw.public_url.as_deref().filter(|url| self.public_url(url, &at.key("public_url")));
        let scheme = match (provider, &raw.signature) {
            (_, Some(raw::Signature::None)) => {
                if raw.secrets.is_some() || raw.secret.is_some() {
                    let key = if raw.secrets.is_some() { "secrets" } else { "secret" };
                    let help = "remove the secrets, or say how they are used with `provider` or `signature`";
                    self.wrong(&at.key(key), "secrets without a signature to verify", help);
                }
                let help = "anybody who can reach this route is believed; allow only the networks of the sender";
                self.warn(&at.key("signature"), "nothing is verified", help);
                return (Some(Authentication::None), None, Vec::new());
            }
            (_, Some(raw::Signature::Own(scheme))) => self.own_scheme(scheme, &at.key("signature")),
            (Some(provider), None) => Some(provider.scheme.clone()),
            (None, None) => {
                let gone = raw.provider.is_some()
                    || ["provider", "signature"].iter().any(|key| self.document.is_damaged(&at.key(*key)));
                if !gone {
                    let help = "add `provider: …` (`hookmoat providers` lists them), a `signature`, or in words `signature: none`";
                    self.wrong(&at.key("provider"), "missing: nothing says how requests are verified", help);
                }
                None
            }
        };
        let scheme = scheme.and_then(|scheme| self.variants(raw.variants.as_deref(), scheme, &at.key("variants")));
        let Some(scheme) = scheme else {
            match raw.public_keys {
                Some(_) => drop(self.public_keys(raw, None, at)),
                None => drop(self.secrets(raw, at)),
            }
            return (None, None, Vec::new());
        };
        let secrets = match scheme.needs_secrets() || raw.secrets.is_some() || raw.secret.is_some() {
            true => self.secrets(raw, at),
            false => Some(Ok(Vec::new())),
        };
        let public_keys = match scheme.needs_public_keys() || raw.public_keys.is_some() {
            true => self.public_keys(raw, Some(&scheme), at),
            false => Some(Ok(Vec::new())),
        };
        if raw.public_keys.is_some() && !scheme.takes_public_keys() {
            let help = "this sender signs with a shared secret: remove them";
            self.warn(&at.key("public_keys"), "nothing is verified with public keys here", help);
        }
        let claims = self.claims(raw, &scheme, at);
        let settings = self.settings(raw, &scheme, at);
        if scheme.needs_public_url() && raw.public_url.is_none() {
            let help = "add `public_url: https://…`, the URL exactly as the sender was given it";
            self.wrong(&at.key("public_url"), "missing: this sender signs the URL", help);
            return (None, Some(scheme), Vec::new());
        }
        if raw.public_url.is_some() != public_url.is_some() {
            return (None, Some(scheme), Vec::new());
        }
        let kept = match &secrets {
            Some(Ok(secrets)) => secrets.clone(),
            _ => Vec::new(),
        };
        let authentication = match (secrets, public_keys, claims) {
            (Some(Ok(secrets)), Some(Ok(public_keys)), Some(claims)) if settings.is_some() => {
                let credentials =
                    Credentials { secrets, public_keys, public_url, claims, settings: settings.unwrap_or_default() };
                self.subject = self.subject_of(raw, provider, &credentials);
                self.bind(scheme.clone(), credentials, raw, at)
            }
            (Some(Err(missing)), Some(_), Some(_)) | (Some(_), Some(Err(missing)), Some(_)) => {
                Some(Authentication::NoSecret(missing.into()))
            }
            _ => None,
        };
        (authentication, Some(scheme), kept)
    }

    /// Secrets are kept a second time only where somebody asked for it.
    fn subject_of(
        &self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        credentials: &Credentials<'_>,
    ) -> Option<Box<Subject>> {
        if !raw.diagnose && !self.world.diagnoses() {
            return None;
        }
        let scheme = match (&raw.signature, provider) {
            (Some(raw::Signature::Own(scheme)), _) => (**scheme).clone(),
            (_, provider) => provider?.signature.clone(),
        };
        Some(Box::new(Subject {
            provider: provider.map(|provider| provider.id),
            scheme,
            variants: raw.variants.clone(),
            secrets: credentials.secrets.clone(),
            public_keys: credentials.public_keys.clone(),
            claims: credentials.claims.clone(),
            settings: credentials.settings.clone(),
            public_url: raw.public_url.clone(),
        }))
    }

    fn own_scheme(&mut self, scheme: &RawScheme, at: &Place) -> Option<Scheme> {
        match scheme.compile(&at.to_string()) {
            Ok(scheme) => Some(scheme),
            Err(problems) => {
                for problem in problems {
                    let place = Place::default().path(&problem.path);
                    self.told(&place, problem.message, "see `signature` in the configuration reference");
                }
                None
            }
        }
    }

    /// What a sender still offers for the sake of old receivers need not be accepted here.
    fn variants(&mut self, written: Option<&[String]>, scheme: Scheme, at: &Place) -> Option<Scheme> {
        let Some(written) = written else { return Some(scheme.without_choices()) };
        let known: Vec<_> = scheme.variants().map(str::to_owned).collect();
        if written.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no variant would be accepted", "name one, or leave the key out for all");
            return None;
        }
        let mut whole = true;
        for (i, name) in written.iter().enumerate().filter(|(_, name)| !known.contains(name)) {
            let help = match (nearest(name, &known), known.is_empty()) {
                (Some(meant), _) => format!("did you mean `{meant}`?"),
                (None, true) => "this scheme has only one: remove `variants`".into(),
                (None, false) => format!("write {}", one_of(&known)),
            };
            self.wrong(&at.index(i), "no variant has this name", help);
            whole = false;
        }
        let names: Vec<_> = written.iter().map(String::as_str).collect();
        scheme.only(&names).ok().filter(|_| whole)
    }

    fn bind(
        &mut self,
        scheme: Scheme,
        credentials: Credentials<'_>,
        raw: &raw::Route,
        at: &Place,
    ) -> Option<Authentication> {
        let secrets_at = at.key(if raw.secrets.is_some() { "secrets" } else { "secret" });
        match SignatureCheck::bind(scheme, credentials) {
            Ok(check) => {
                for warning in check.warnings() {
                    self.warn(&secrets_at, warning, "take the secret exactly as the sender shows it");
                }
                Some(Authentication::Signature(Box::new(check)))
            }
            Err(problems) => {
                for what in problems {
                    if what.starts_with("public_url") {
                        self.told(&at.key("public_url"), what, PUBLIC_URL_HELP);
                    } else {
                        self.told(&secrets_at, what, "take the secret exactly as the sender shows it");
                    }
                }
                None
            }
        }
    }

    /// The usable public keys of a route; as with [`Self::secrets`]. Without a scheme they are only looked through.
    fn public_keys(
        &mut self,
        raw: &raw::Route,
        scheme: Option<&Scheme>,
        at: &Place,
    ) -> Option<Result<Vec<PublicKeys>, String>> {
        let at = at.key("public_keys");
        let sources = raw.public_keys.as_deref().unwrap_or_default();
        if sources.is_empty() {
            if !self.document.has_damage(&at) {
                let help = match scheme.and_then(Scheme::key_question) {
                    Some(question) => {
                        let names = question.credentials().iter().map(|name| format!("{name}: …")).collect::<Vec<_>>();
                        format!("add `public_keys: [{{ask: {{{}}}}}]`, or the sender's public key", names.join(", "))
                    }
                    None => "add `public_keys: [{file: key.pem}]`, the sender's public key".into(),
                };
                self.wrong(&at, "missing: there is nothing to verify with", help);
            }
            return None;
        }
        let (mut keys, mut missing, mut whole) = (Vec::new(), Vec::new(), true);
        for (i, source) in sources.iter().enumerate() {
            let at = at.index(i);
            let from = source.from.as_deref().and_then(|text| self.moment(text, &at.key("from")));
            let until = source.until.as_deref().and_then(|text| self.moment(text, &at.key("until")));
            if let (Some(from), Some(until)) = (from, until)
                && from >= until
            {
                self.wrong(
                    &at.key("until"),
                    "not after `from`",
                    "the key would never be valid: correct one of the two",
                );
            }
            if source.jwks.is_some() || source.openid.is_some() {
                match self.published_keys(source, &at) {
                    Some(published) => keys.push(PublicKeys { from, until, ..published }),
                    None => whole = false,
                }
                continue;
            }
            if source.ask.is_some() || source.host.is_some() {
                match self.asked_keys(source, scheme, &at) {
                    Some(Ok(asked)) => keys.push(PublicKeys { from, until, ..asked }),
                    Some(Err(what)) => missing.push((at, what)),
                    None => whole = false,
                }
                continue;
            }
            let found = match (&source.value, &source.env, &source.file) {
                (Some(text), None, None) => Some(Ok((text.clone().into_bytes(), "value".to_owned()))),
                (Some(_), ..) => {
                    self.wrong(&at, "says twice where the key is", "keep one of env, file and value");
                    None
                }
                (None, env, file) => {
                    let origin = Origin { env: env.as_deref(), file: file.as_deref(), literal: None };
                    self.find_public(origin, &at)
                }
            };
            match found {
                Some(Ok((bytes, origin))) => match PublicKeys::parse(&bytes, &origin) {
                    Ok(mut public) => {
                        if let Some(id) = &source.id {
                            public = public.named(id);
                        }
                        keys.push(PublicKeys { from, until, ..public });
                    }
                    Err(what) => {
                        let help =
                            "write PEM, a JWK, a JWKS, the base64 of a DER key, or the hex or base64 of an Ed25519 key";
                        self.wrong(&at, format!("the key from {origin} {what}"), help);
                        whole = false;
                    }
                },
                Some(Err(what)) => missing.push((at, what)),
                None => whole = false,
            }
        }
        for (at, what) in &missing {
            let help = if keys.is_empty() {
                "the route answers 503 and the process is not ready until a restart or reload finds it"
            } else {
                "the other keys are used"
            };
            self.warn(at, what, help);
        }
        match (whole, keys.is_empty()) {
            (false, _) => None,
            (true, false) => Some(Ok(keys)),
            (true, true) => Some(Err(missing.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; "))),
        }
    }

    /// What the route says of a token's claims; a scheme may need some of them.
    fn claims(&mut self, raw: &raw::Route, scheme: &Scheme, at: &Place) -> Option<Vec<FixedClaim>> {
        let at = at.key("claims");
        let mut whole = true;
        if !raw.claims.is_empty() && !scheme.has_token() {
            self.wrong(&at, "the sender sends no token that could hold claims", "remove it");
            whole = false;
        }
        for (name, texts) in &raw.claims {
            if texts.items.iter().all(String::is_empty) {
                self.wrong(&at.key(name), "is empty", "write what the claim must hold");
                whole = false;
            }
        }
        for name in scheme.configured_claims().iter().filter(|name| !raw.claims.contains_key(**name)) {
            let help = format!("add `claims: {{ {name}: … }}`, what the sender writes there for you");
            self.wrong(&at.key(*name), "missing: anybody's token would do", help);
            whole = false;
        }
        let boxed = |texts: &raw::OneOrMany<String>| texts.items.iter().map(|text| text.as_str().into()).collect();
        let fixed = |(name, texts): (&String, _)| FixedClaim { name: name.as_str().into(), texts: boxed(texts) };
        whole.then(|| raw.claims.iter().map(fixed).collect())
    }

    /// As [`Self::find`], for what may be read by everybody.
    fn find_public(&mut self, origin: Origin<'_>, at: &Place) -> Option<Result<(Vec<u8>, String), String>> {
        match origin.find(self.world) {
            Ok(Found::Bytes(bytes, origin, _)) => Some(Ok((bytes, origin))),
            Ok(Found::Missing(what)) => Some(Err(what)),
            Err((key, what, help)) => {
                let gone = key.is_empty() && self.document.has_damage(at);
                if !gone {
                    self.wrong(&at.path(key), what, help);
                }
                None
            }
        }
    }

    /// The usable secrets of a route; `Err`: there should be some, but nothing usable was found; `None`: a problem.
    fn secrets(&mut self, raw: &raw::Route, at: &Place) -> Option<Result<Vec<Secret>, String>> {
        let mut sources: Vec<(Place, &raw::SecretSource)> = Vec::new();
        sources.extend(raw.secret.iter().map(|source| (at.key("secret"), source)));
        let list = raw.secrets.iter().flatten().enumerate();
        sources.extend(list.map(|(i, source)| (at.key("secrets").index(i), source)));
        if raw.secret.is_some() && raw.secrets.is_some() {
            self.wrong(&at.key("secret"), "both `secret` and `secrets`", "put all of them into `secrets`");
        }
        if sources.is_empty() {
            let gone = ["secret", "secrets"].iter().any(|key| self.document.has_damage(&at.key(*key)));
            if !gone {
                let help = "add `secrets: [{env: NAME}]` or `secrets: [{file: PATH}]`";
                self.wrong(&at.key("secrets"), "missing: there is nothing to verify with", help);
            }
            return None;
        }
        let (mut secrets, mut missing, mut whole) = (Vec::new(), Vec::new(), true);
        for (at, source) in sources {
            let from = source.from.as_deref().and_then(|text| self.moment(text, &at.key("from")));
            let until = source.until.as_deref().and_then(|text| self.moment(text, &at.key("until")));
            if let (Some(from), Some(until)) = (from, until)
                && from >= until
            {
                self.wrong(
                    &at.key("until"),
                    "not after `from`",
                    "the secret would never be valid: correct one of the two",
                );
            }
            let literal = source.insecure_literal.as_ref().map(|literal| literal.0.as_str());
            let origin = Origin { env: source.env.as_deref(), file: source.file.as_deref(), literal };
            match self.find(origin, &at) {
                Some(Ok((bytes, origin))) => {
                    secrets.push(Secret { bytes: SecretBytes::new(bytes), from, until, origin: origin.into() });
                }
                Some(Err(what)) => missing.push((at, what)),
                None => whole = false,
            }
        }
        for (at, what) in &missing {
            let help = if secrets.is_empty() {
                "the route answers 503 and the process is not ready until a restart or reload finds it"
            } else {
                "the other secrets are used"
            };
            self.warn(at, what, help);
        }
        match (whole, secrets.is_empty()) {
            (false, _) => None,
            (true, false) => Some(Ok(secrets)),
            (true, true) => Some(Err(missing.into_iter().map(|(_, what)| what).collect::<Vec<_>>().join("; "))),
        }
    }

    /// The bytes and their origin, or what is missing; `None`: a problem, told.
    pub(super) fn find(&mut self, origin: Origin<'_>, at: &Place) -> Option<Result<(Vec<u8>, String), String>> {
        match origin.find(self.world) {
            Ok(Found::Bytes(bytes, origin, warnings)) => {
                for (key, what, help) in warnings {
                    self.warn(&at.key(key), what, help);
                }
                Some(Ok((bytes, origin)))
            }
            Ok(Found::Missing(what)) => Some(Err(what)),
            Err((key, what, help)) => {
                let gone = key.is_empty() && self.document.has_damage(at);
                if !gone {
                    self.wrong(&at.path(key), what, help);
                }
                None
            }
        }
    }

    fn moment(&mut self, text: &str, at: &Place) -> Option<i64> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(moment) => Some(moment.unix_timestamp()),
            Err(_) => {
                self.wrong(at, "not a moment in RFC 3339", "write for instance 2026-12-31T00:00:00Z");
                None
            }
        }
    }

    fn public_url(&mut self, url: &str, at: &Place) -> bool {
        let what = match url.parse::<http::Uri>() {
            Ok(uri) if !matches!(uri.scheme_str(), Some("https" | "http")) => "neither http nor https",
            // User and password may stand there: Twilio signs them with the rest.
            Ok(uri) if uri.host().is_none_or(str::is_empty) => "a URL without a host",
            Ok(_) if url.contains('#') => "a URL with a fragment",
            Ok(_) => return true,
            Err(_) => "not a URL",
        };
        self.wrong(at, what, PUBLIC_URL_HELP);
        false
    }

    // Events --------------------------------------------------------------------------------------------------------

    fn duplicates(
        &mut self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        scheme: Option<&Scheme>,
        around: &Around<'_>,
        at: &Place,
    ) -> Option<Duplicates> {
        let id_at = at.key("event_id");
        let written = raw.event_id.as_ref().map(|written| self.event_id(written, &id_at));
        let unverified = matches!(raw.signature, Some(raw::Signature::None));
        let at = at.key("duplicates");
        let none = raw::DuplicatesMap::default();
        let map = match &raw.duplicates {
            Some(raw::Duplicates::Off) => {
                if raw.event_id.is_some() {
                    self.wrong(&id_at, "an event ID that nothing uses", "remove it, or remove `duplicates: off`");
                }
                return None;
            }
            Some(raw::Duplicates::On(map)) => map,
            // Whoever can send unverified requests could have IDs remembered before the real sender uses them.
            None if unverified && written.is_none() => return None,
            None => &none,
        };
        let own_id = written.is_none();
        let id = match (written, provider) {
            (Some(id), _) => id,
            (None, Some(provider)) => EventId::Sources(provider.event_id.clone()),
            (None, None) => EventId::Sources(Vec::new()),
        };
        let nothing = matches!(&id, EventId::Sources(sources) if sources.is_empty());
        let replay_guard = map.replay_guard.unwrap_or(!unverified);
        if replay_guard && unverified {
            let help = "without a signature there is nothing to remember but an ID: remove it";
            self.wrong(&at.key("replay_guard"), "nothing is signed", help);
        }
        if nothing && !self.document.has_damage(&id_at) {
            if unverified || !replay_guard {
                let help = "add `event_id: {header: …}` or `event_id: body`, or write `duplicates: off`";
                self.wrong(&id_at, "missing: nothing tells one event from another", help);
            } else if provider.is_none() {
                let help = "add `event_id: {header: …}`, or `event_id: body`";
                self.warn(&id_at, "missing: only exact copies of what was signed are recognised", help);
            }
        }
        let window = scheme.and_then(Scheme::replay_window);
        let horizon = provider.and_then(|provider| provider.retry_horizon);
        let remember = match map.remember {
            None => provider.map_or(REMEMBER, |provider| provider.remember).max(window.unwrap_or_default()),
            Some(Span(remember)) => {
                let at = at.key("remember");
                self.within(Span(remember), Duration::from_secs(1), 400 * DAY, &at);
                if let Some(window) = window.filter(|window| *window > remember) {
                    let window = duration(window);
                    let what = format!(
                        "forgotten sooner than a signature expires ({window}), so a captured request could be sent again"
                    );
                    self.wrong(&at, what, format!("remember for {window} or longer"));
                } else if let Some(horizon) = horizon.filter(|horizon| *horizon > remember) {
                    let what = format!("this sender tries again for {}", duration(horizon));
                    self.warn(&at, what, "a late retry of a delivered event would be delivered again: remember longer");
                }
                remember
            }
        };
        // Redis is told again and again that an owner is alive; elsewhere a lease has to outlive the whole request.
        let renewed = around.config.state.0.redis.is_some();
        let lease = match map.lease {
            None if renewed => RENEWED_LEASE,
            None => around.timeouts.total.saturating_add(LEASE_MARGIN),
            Some(Span(lease)) => {
                if lease <= around.timeouts.total && !renewed {
                    let help = format!("make it longer than `timeouts.total`, {}", duration(around.timeouts.total));
                    let what = "a copy could be delivered while the first one is still on its way";
                    self.wrong(&at.key("lease"), what, help);
                }
                self.within(Span(lease), Duration::from_secs(1), DAY, &at.key("lease"));
                lease
            }
        };
        let missing = match map.missing {
            Some(raw::Missing::Reject) => MissingId::Reject,
            Some(raw::Missing::Skip) => MissingId::Skip,
            // Presets name places that not all of a sender's requests have (handshakes have no event). Such a request
            // cannot be repeated either, since what was signed is remembered.
            None if nothing || (own_id && replay_guard) => MissingId::Skip,
            None => MissingId::Reject,
        };
        if nothing && map.missing == Some(raw::Missing::Reject) {
            self.wrong(
                &at.key("missing"),
                "every event would be refused: no `event_id` is known",
                "add `event_id`, or write skip",
            );
        }
        let id_repeats = own_id && provider.is_some_and(|provider| provider.ids_repeat);
        Some(Duplicates { id, id_repeats, missing, remember, lease, replay_guard })
    }

    fn event_id(&mut self, written: &raw::OneOrMany<raw::EventId>, at: &Place) -> EventId {
        if written.items.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no place to look at", "name one, or leave the key out");
        }
        let mut sources = Vec::new();
        for (i, one) in written.items.iter().enumerate() {
            let at = if written.list { at.index(i) } else { at.clone() };
            match one {
                raw::EventId::Body if written.items.len() == 1 => return EventId::BodyDigest,
                raw::EventId::Body => {
                    self.wrong(
                        &at,
                        "the body is always there, so other places make no sense",
                        "keep `body` alone, or remove it",
                    );
                }
                raw::EventId::At(place) => sources.extend(self.event_id_place(place, &at)),
            }
        }
        EventId::Sources(sources)
    }

    fn event_id_place(&mut self, place: &raw::EventIdPlace, at: &Place) -> Option<Source> {
        let named: Vec<_> = [
            ("header", &place.header),
            ("query", &place.query),
            ("form", &place.form),
            ("json", &place.json),
            ("xml", &place.xml),
        ]
        .into_iter()
        .filter_map(|(key, name)| Some((key, name.as_deref()?)))
        .collect();
        let [(key, name)] = named[..] else {
            if !self.document.has_damage(at) {
                self.wrong(
                    at,
                    "not exactly one place",
                    "write one of header, query, form, json and xml; for several use a list",
                );
            }
            return None;
        };
        match Source::parse(&format!("{key}:{name}")) {
            Ok(source) => Some(source),
            Err(what) => {
                self.told(
                    &at.key(key),
                    what,
                    "write for instance {header: X-Event-Id}, {query: id} or {json: /event/id}",
                );
                None
            }
        }
    }

    // Shape, limits, answers ----------------------------------------------------------------------------------------

    fn rate_limits(
        &mut self,
        limits: Option<&raw::OneOrMany<raw::RateLimit>>,
        route: &str,
        key: &str,
        at: &Place,
    ) -> Vec<Limit> {
        let Some(limits) = limits else { return Vec::new() };
        let at = at.key(key);
        let mut compiled = Vec::new();
        for (i, limit) in limits.items.iter().enumerate() {
            let at = if limits.list { at.index(i) } else { at.clone() };
            // The id keeps buckets alive over a reload: it may depend on nothing but name and place.
            let digest = Sha256::digest(format!("{route}\n{key}\n{i}"));
            let id = digest.iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
            compiled.extend(self.rate_limit(limit, id, &at));
        }
        compiled
    }

    fn rate_limit(&mut self, raw: &raw::RateLimit, id: u64, at: &Place) -> Option<Limit> {
        let key = match &raw.per {
            raw::Per::ClientIp => LimitKey::ClientIp,
            raw::Per::Route => LimitKey::Route,
            raw::Per::Header(name) => LimitKey::Header(self.incoming(name, &at.key("per").key("header"))?),
        };
        let requests = usize::try_from(raw.requests).unwrap_or(usize::MAX);
        self.number(requests, 1, 1_000_000_000, &at.key("requests"));
        self.within(raw.every, Duration::from_millis(1), 31 * DAY, &at.key("every"));
        let burst = raw.burst.unwrap_or(raw.requests);
        if let Some(burst) = raw.burst {
            self.number(usize::try_from(burst).unwrap_or(usize::MAX), 1, 1_000_000_000, &at.key("burst"));
        }
        let interval = raw.every.0.as_nanos().checked_div(u128::from(raw.requests))?;
        let interval = Duration::from_nanos(u64::try_from(interval).ok()?);
        let burst = u32::try_from(burst).ok().filter(|burst| *burst > 0)?;
        if interval.is_zero() {
            if raw.every.0.is_zero() {
                return None;
            }
            self.wrong(
                &at.key("requests"),
                "more than one request a nanosecond",
                "write fewer requests or a longer `every`",
            );
            return None;
        }
        let whole = interval.checked_mul(burst).filter(|whole| *whole <= 400 * DAY);
        if whole.is_none() {
            let help = "it would take more than a year until the burst is there again: make `burst` smaller";
            self.wrong(&at.key("burst"), "too large for this rate", help);
            return None;
        }
        Some(Limit { key, interval, burst, id })
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

    fn header_names(&mut self, names: &[String], at: &Place) -> Vec<HeaderName> {
        names.iter().enumerate().filter_map(|(i, name)| self.header_name(name, &at.index(i))).collect()
    }

    /// A header of the request. The carriers let no name with an underscore pass.
    fn incoming(&mut self, name: &str, at: &Place) -> Option<HeaderName> {
        let name = self.header_name(name, at)?;
        if name.as_str().contains('_') {
            self.wrong(at, "headers with an underscore do not pass", "use a header with hyphens");
            return None;
        }
        Some(name)
    }

    fn header_name(&mut self, name: &str, at: &Place) -> Option<HeaderName> {
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

    // Handshakes and types ------------------------------------------------------------------------------------------

    /// The questions of the sender that the route answers here.
    fn exchanges(&mut self, raw: &raw::Route, provider: Option<&Provider>, at: &Place) -> Vec<Exchange> {
        let written = match &raw.handshake {
            None | Some(raw::Handshake::Off) => return Vec::new(),
            Some(raw::Handshake::On) => None,
            Some(raw::Handshake::With(map)) => map.exchanges.as_deref(),
        };
        let mut exchanges = Vec::new();
        if let Some(written) = written {
            let mut problems = Vec::new();
            for (i, one) in written.iter().enumerate() {
                let path = at.key("exchanges").index(i).to_string();
                exchanges.extend(one.compile(&path, &mut problems));
            }
            for problem in problems {
                let place = Place::default().path(&problem.path);
                self.told(&place, problem.message, "see `handshakes` in the presets for examples");
            }
        }
        let known = provider.map(|provider| provider.handshakes.as_slice()).unwrap_or_default();
        exchanges.extend(known.iter().cloned());
        if exchanges.is_empty() && written.is_none_or(<[_]>::is_empty) && !self.document.has_damage(at) {
            let help = match provider {
                Some(provider) => format!("{} has no handshake that needs an answer: remove the key", provider.name),
                None => "describe it under `exchanges`, or remove the key".into(),
            };
            self.wrong(at, "nothing to answer", help);
        }
        exchanges
    }

    fn handshakes(
        &mut self,
        exchanges: Vec<Exchange>,
        raw: &raw::Route,
        secrets: Vec<Secret>,
        missing: &mut Option<String>,
        at: &Place,
    ) -> Option<Box<Handshakes>> {
        let none = raw::HandshakeMap::default();
        let map = match &raw.handshake {
            Some(raw::Handshake::With(map)) => map,
            _ => &none,
        };
        let mut settings = Settings::default();
        let secret = |source: Option<&raw::SecretSource>| {
            source.map(|source| {
                (
                    source.env.clone(),
                    source.file.clone(),
                    source.insecure_literal.as_ref().map(|it| it.0.clone()),
                    source.from.is_some() || source.until.is_some(),
                )
            })
        };
        let plain = |source: &Option<raw::HeaderSource>| {
            source.as_ref().map(|source| {
                (source.env.clone(), source.file.clone(), source.value.as_ref().map(|it| it.0.clone()), false)
            })
        };
        let written = [
            (Setting::EncryptionKey, secret(map.encryption_key.as_ref())),
            (Setting::AppId, plain(&map.app_id)),
            (Setting::PublicKey, plain(&map.public_key)),
        ];
        let written = written.into_iter().map(|(setting, source)| (setting, at.key(setting.name()), source));
        let at_tokens = at.key(Setting::VerifyToken.name());
        let list = map.verify_token.as_ref().is_some_and(|tokens| tokens.list);
        let tokens = map.verify_token.iter().flat_map(|tokens| &tokens.items).enumerate();
        let tokens =
            tokens.map(|(i, token)| (if list { at_tokens.index(i) } else { at_tokens.clone() }, secret(Some(token))));
        let mut tokens: Vec<_> = tokens.map(|(place, source)| (Setting::VerifyToken, place, source)).collect();
        if tokens.is_empty() {
            tokens.push((Setting::VerifyToken, at_tokens, None));
        }
        for (setting, place, source) in tokens.into_iter().chain(written) {
            let needed = exchanges.iter().any(|exchange| exchange.needs().any(|needed| needed == setting));
            match source {
                None if needed && !self.document.has_damage(&place) => {
                    let help = format!("add `handshake: {{{}: {{env: NAME}}}}`", setting.name());
                    self.wrong(&place, "missing: the sender's question cannot be answered without it", help);
                }
                None => {}
                Some(_) if !needed => {
                    self.wrong(&place, "nothing in this sender's handshake needs it", "remove it");
                }
                Some((env, file, literal, limited)) => {
                    if limited {
                        self.wrong(&place, "`from` and `until` have no meaning here", "remove them");
                    }
                    let origin = Origin { env: env.as_deref(), file: file.as_deref(), literal: literal.as_deref() };
                    match self.find(origin, &place) {
                        Some(Ok((bytes, _))) if bytes.is_empty() => self.wrong(&place, "empty", "write a value"),
                        Some(Ok((bytes, _))) if setting == Setting::VerifyToken && settings.get(setting).is_some() => {
                            settings.also_accept(SecretBytes::new(bytes));
                        }
                        Some(Ok((bytes, _))) => settings.set(setting, SecretBytes::new(bytes)),
                        Some(Err(what)) => {
                            let help =
                                "the route answers 503 and the process is not ready until a restart or reload finds it";
                            self.warn(&place, &what, help);
                            missing.get_or_insert(format!("handshake.{}: {what}", setting.name()));
                        }
                        None => {}
                    }
                }
            }
        }
        if exchanges.iter().any(Exchange::needs_public_url) && raw.public_url.is_none() {
            let help = "add `public_url: https://…` to the route, the URL exactly as the sender was given it";
            self.wrong(at, "the sender's question is about the URL, and there is no `public_url`", help);
        }
        let mut exchanges = exchanges;
        let visits = exchanges.iter().any(|exchange| exchange.visit.is_some());
        if map.confirm && !visits {
            self.wrong(&at.key("confirm"), "this sender wants nothing visited", "remove it");
        } else if visits && !map.confirm && map.keep.is_none() && !self.document.has_damage(at) {
            let help = "add `handshake: {confirm: true}` to have it visited, or `handshake: {keep: FILE}` to have it \
                        written down for you";
            self.wrong(at, "does not say what becomes of the URL that this sender wants visited", help);
            return None;
        }
        for visit in exchanges.iter_mut().filter_map(|exchange| exchange.visit.as_mut()) {
            visit.by_hand = !map.confirm;
        }
        let hands_over = (visits && !map.confirm) || exchanges.iter().any(|exchange| !exchange.hands_over.is_empty());
        if hands_over && map.keep.is_none() && !self.document.has_damage(at) {
            let help =
                "add `handshake: {keep: FILE}`: what this sender hands over (a secret, a code, a URL) is written there";
            self.wrong(&at.key("keep"), "missing: what the sender hands over would be lost", help);
        } else if !hands_over && map.keep.is_some() {
            self.wrong(&at.key("keep"), "this sender hands nothing over", "remove it");
        }
        let keep = map.keep.as_deref().map(|file| self.world.resolve(file));
        let public_url = raw.public_url.as_deref().map(Into::into);
        Some(Box::new(Handshakes { exchanges, secrets, settings, public_url, keep }))
    }

    /// Where types stand and which are wanted. `branches`: what a `to` without a rest takes.
    fn event_types(
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

    // Towards the backend -------------------------------------------------------------------------------------------

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

    fn set_headers(
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
    fn missing_header_secrets(&mut self, raw: &raw::Route, at: &Place) -> Option<String> {
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

/// The same in every process: eight characters of base64url.
fn group(route: &str) -> Group {
    use base64::Engine;
    let digest = Sha256::digest(format!("group\n{route}"));
    let mut group = [b'_'; 8];
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
    group.iter_mut().zip(text.bytes()).for_each(|(to, from)| *to = from);
    Group(group)
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
    wanted: Option<Vec<Pattern>>,
}

impl Destinations {
    /// Events stay in their queue.
    pub(super) fn nowhere() -> Self {
        Self { forward: Forward::nowhere(), branches: Vec::new(), rest_queue: None, wanted: None }
    }
}

/// Every place that a route's events go to.
fn destinations(route: &raw::Route) -> impl Iterator<Item = &raw::To> {
    let through = route.deliver.as_ref().and_then(|deliver| deliver.to.as_ref());
    route.to.iter().chain(through).flat_map(|to| &to.items)
}

/// Can both be bound at once? Not where one of them takes every address of the port.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port() && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn boxed(texts: &[String]) -> Vec<Box<str>> {
    texts.iter().map(|text| text.as_str().into()).collect()
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

fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// tchar of RFC 9110.
fn is_token(byte: u8) -> bool {
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
