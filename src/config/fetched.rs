//! What comes over the network, compiled: how it is fetched, and which published lists routes need.

use super::compile::{Compiler, is_host};
use super::place::Place;
use super::raw;
use crate::check::allowlist::{Allowlist, NetSet, parse_net};
use crate::check::ranges::{JsonPath, Pick, Ranges};
use crate::check::signature::asked::Asking;
use crate::check::signature::fetched::{KeysAt, Shelf};
use crate::check::signature::keys::KeySource;
use crate::check::signature::{PublicKeys, Scheme};
use crate::fetch::target::Target;
use crate::policy::FetchSettings;
use crate::provider::Provider;
use crate::secret::SecretBytes;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

const PROXY: &str = "write http://host:port";

impl Compiler<'_> {
    pub(super) fn fetch(&mut self, raw: &raw::Fetch) -> FetchSettings {
        let root = Place::default().key("fetch");
        let day = Duration::from_secs(24 * 3600);
        self.within(raw.refresh, Duration::from_millis(100), 30 * day, &root.key("refresh"));
        self.within(raw.timeout, Duration::from_millis(10), Duration::from_secs(120), &root.key("timeout"));
        self.within(raw.wait, Duration::ZERO, Duration::from_secs(60), &root.key("wait"));
        let [ca, signer_ca] = [("ca", &raw.ca), ("signer_ca", &raw.signer_ca)].map(|(key, file)| {
            let path = file.as_ref().map(|file| self.world.resolve(file));
            if let Some(path) = path.as_ref().filter(|path| !self.world.is_file(path)) {
                let what = self.world.no_file(path);
                self.wrong(&root.key(key), what, "put the PEM file of the authorities there");
            }
            path
        });
        let proxy = raw.proxy.as_deref().and_then(|url| self.fetch_proxy(url, &root.key("proxy")));
        let private = root.key("allow_private");
        let mut allow_private = Vec::new();
        for (i, text) in raw.allow_private.iter().enumerate() {
            match parse_net(text) {
                Ok(net) => allow_private.push(net),
                Err(what) => self.told(&private.index(i), what, "write a network such as 10.0.0.0/8"),
            }
        }
        let mut hosts = BTreeMap::new();
        for (host, addresses) in &raw.hosts {
            let at = root.key("hosts").key(host);
            if !is_host(host) {
                self.wrong(&at, "not a host name", "write the name alone, without scheme, port or path");
            }
            let mut list = Vec::new();
            for (i, text) in addresses.iter().enumerate() {
                let bare = text.parse::<IpAddr>().map(|ip| (ip, None));
                let full = text.parse::<SocketAddr>().map(|address| (address.ip(), Some(address.port())));
                match bare.or(full) {
                    Ok(address) => list.push(address),
                    Err(_) => self.wrong(&at.index(i), "not an address", "write an IP address, with or without a port"),
                }
            }
            hosts.insert(host.to_ascii_lowercase().into(), list);
        }
        FetchSettings {
            timeout: raw.timeout.0,
            refresh: raw.refresh.0,
            wait: raw.wait.0,
            cache: raw.cache.as_ref().map(|folder| self.world.output(folder)),
            ca,
            signer_ca,
            proxy,
            allow_private: NetSet::new(allow_private),
            hosts,
        }
    }

    fn fetch_proxy(&mut self, url: &str, at: &Place) -> Option<(Box<str>, u16)> {
        let place = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let parts = place.and_then(|place| place.rsplit_once(':'));
        let port = |port: &str| port.parse().ok().filter(|port| *port > 0);
        match parts.and_then(|(host, digits)| Some((host, port(digits)?))) {
            Some((host, port)) if is_host(host) => {
                Some((host.trim_start_matches('[').trim_end_matches(']').into(), port))
            }
            _ => {
                self.wrong(at, "not the URL of a proxy", PROXY);
                None
            }
        }
    }

    /// Who may send to a route.
    pub(super) fn allow(&mut self, networks: &[raw::Network], provider: Option<&Provider>, at: &Place) -> Allowlist {
        let (mut nets, mut lists) = (Vec::new(), Vec::new());
        for (i, network) in networks.iter().enumerate() {
            let at = at.index(i);
            match network {
                raw::Network::Cidr(text) if text == "provider" => lists.extend(self.provider_ranges(provider, &at)),
                raw::Network::Cidr(text) => match parse_net(text) {
                    Ok(net) => nets.push(net),
                    Err(what) => {
                        let help = "write a network such as 203.0.113.0/24, a single address, or `provider`";
                        self.told(&at, what, help);
                    }
                },
                raw::Network::List(list) => match (&list.file, &list.url) {
                    (Some(file), None) => {
                        if list.json_path.is_some() {
                            let help = "files hold one network a line: remove it";
                            self.wrong(&at.key("json_path"), "only for a `url`", help);
                        }
                        nets.extend(self.network_file(file, &at.key("file")));
                    }
                    (None, Some(url)) => lists.extend(self.own_ranges(url, list.json_path.as_deref(), &at)),
                    _ => self.not_one_list(&at),
                },
            }
        }
        let nets = NetSet::new(nets);
        if lists.is_empty() { Allowlist::Only(nets) } else { Allowlist::Published(nets, lists.into()) }
    }

    pub(super) fn not_one_list(&mut self, at: &Place) {
        if !self.has_damage(at) {
            self.wrong(at, "not exactly one of `file` and `url`", "keep one of the two");
        }
    }

    fn provider_ranges(&mut self, provider: Option<&Provider>, at: &Place) -> Option<Arc<Ranges>> {
        let Some(provider) = provider else {
            let help = "name the sender with `provider: …`, or list its networks";
            self.wrong(at, "`provider` without a preset", help);
            return None;
        };
        let made = provider.ranges.as_ref().and_then(|ranges| ranges.compile(provider.id).ok().flatten());
        let Some(made) = made else {
            let docs = provider.ranges.as_ref().and_then(|ranges| ranges.docs.as_deref());
            let help = match docs {
                Some(docs) => format!("list them here: they are described at {docs}"),
                None => "list the networks that you see it send from, or leave `allow` out".into(),
            };
            self.told(at, format!("{} publishes no list that can be read", provider.name), help);
            return None;
        };
        if made.url.is_none() && made.current().as_ref().is_some_and(|list| list.as_of.is_none()) {
            let docs =
                provider.ranges.as_ref().and_then(|ranges| ranges.docs.as_deref()).unwrap_or("the sender's pages");
            let what = format!("the list of {} ships without a date and is never refreshed", provider.name);
            self.warn(at, what, format!("compare it with {docs}; `hookmoat providers {}` shows it", provider.id));
        }
        Some(self.shared(made))
    }

    fn own_ranges(&mut self, url: &str, json_path: Option<&str>, at: &Place) -> Option<Arc<Ranges>> {
        let target = Target::parse(url).map_err(|what| {
            self.wrong(&at.key("url"), what, "write the https:// URL of the list, with the name of its host");
        });
        let pick = json_path.map_or(Ok(Pick::Lines), |path| {
            JsonPath::parse(path).map(|path| Pick::Json([path].into())).map_err(|what| {
                self.wrong(&at.key("json_path"), what, "write for instance /prefixes/*/ip_prefix");
            })
        });
        let (Ok(target), Ok(pick)) = (target, pick) else { return None };
        let name = format!("{}{}", target.authority(), target.path());
        Some(self.shared(Ranges::new(name.into(), Some(target), pick, None)))
    }

    /// Keys that a route says are published.
    pub(super) fn published_keys(&mut self, source: &raw::PublicKeySource, at: &Place) -> Option<PublicKeys> {
        let others = [&source.env, &source.file, &source.value, &source.id, &source.host];
        let (key, url) = match (&source.jwks, &source.openid) {
            (Some(url), None) => ("jwks", url),
            (None, Some(url)) => ("openid", url),
            _ => {
                self.wrong(at, "says twice where the keys are", "keep one of jwks and openid");
                return None;
            }
        };
        if source.ask.is_some() || others.iter().any(|other| other.is_some()) {
            let help = "a published set has its own names: leave env, file, value and id out, or put them into an entry of their own";
            self.wrong(at, "says twice where the keys are", help);
            return None;
        }
        match Target::parse(url) {
            Ok(target) => {
                let place = if key == "jwks" { KeysAt::Jwks(target) } else { KeysAt::OpenId(target) };
                let keys = KeySource::Fetched(Shelf::of(&place));
                Some(PublicKeys { keys, from: None, until: None, origin: url.as_str().into() })
            }
            Err(what) => {
                self.wrong(&at.key(key), what, "write the https:// URL, with the name of its host");
                None
            }
        }
    }

    /// Keys that the sender gives out to those with credentials. `Err`: what is missing; `None`: a problem.
    pub(super) fn asked_keys(
        &mut self,
        source: &raw::PublicKeySource,
        scheme: Option<&Scheme>,
        at: &Place,
    ) -> Option<Result<PublicKeys, String>> {
        let Some(written) = &source.ask else {
            self.wrong(&at.key("host"), "nobody is asked", "add `ask` with the credentials, or remove it");
            return None;
        };
        let others = [&source.env, &source.file, &source.value, &source.id];
        if others.iter().any(|other| other.is_some()) {
            let help =
                "keys that are asked for have their own names: put env, file, value and id into an entry of their own";
            self.wrong(at, "says twice where the keys are", help);
            return None;
        }
        let ask = at.key("ask");
        let question = match scheme {
            Some(scheme) => scheme.key_question().cloned(),
            None => return None,
        };
        let Some(question) = question else {
            self.wrong(&ask, "this sender cannot be asked for keys", "write the key itself, with file, env or value");
            return None;
        };
        let (mut credentials, mut missing, mut whole) = (BTreeMap::new(), Vec::new(), true);
        let known = question.credentials();
        for (name, value) in written {
            if !known.contains(name) {
                let help = format!("write {}", known.join(" and "));
                self.wrong(&ask.key(name), "the sender is not asked with this", help);
                whole = false;
                continue;
            }
            match self.plain(value, &ask.key(name)) {
                Some(Ok(bytes)) => drop(credentials.insert(name.as_str().into(), SecretBytes::new(bytes))),
                Some(Err(what)) => missing.push(what),
                None => whole = false,
            }
        }
        if !whole {
            return None;
        }
        if !missing.is_empty() {
            return Some(Err(missing.join("; ")));
        }
        match Asking::new(&question, source.host.as_deref(), credentials) {
            Ok(asking) => {
                let origin = asking.label().into();
                let keys = KeySource::Fetched(Shelf::of(&KeysAt::Asked(Box::new(asking))));
                Some(Ok(PublicKeys { keys, from: None, until: None, origin }))
            }
            Err(what) => {
                let hosts: Vec<_> = question.hosts().collect();
                let help = format!("it takes {}; its hosts are {}", known.join(" and "), hosts.join(", "));
                self.told(&ask, what, help);
                None
            }
        }
    }

    /// What the route says of the rest of the signed text; a scheme may need some of it.
    pub(super) fn settings(
        &mut self,
        raw: &raw::Route,
        scheme: &Scheme,
        at: &Place,
    ) -> Option<BTreeMap<Box<str>, Box<str>>> {
        let at = at.key("settings");
        let known = scheme.settings();
        let mut whole = true;
        for (name, text) in &raw.settings {
            if !known.contains(&name.as_str()) {
                self.wrong(&at.key(name), "the sender signs nothing of this name", "remove it");
                whole = false;
            } else if text.trim().is_empty() {
                self.wrong(&at.key(name), "is empty", "write what the sender signs there");
                whole = false;
            }
        }
        for name in known.into_iter().filter(|name| !raw.settings.contains_key(*name)) {
            let help = format!("add `settings: {{ {name}: … }}`: the sender signs it, and only you know it");
            self.wrong(&at.key(name), "missing", help);
            whole = false;
        }
        let pairs = raw.settings.iter().map(|(name, text)| (name.as_str().into(), text.as_str().into()));
        whole.then(|| pairs.collect())
    }

    fn shared(&mut self, made: Ranges) -> Arc<Ranges> {
        let same = |known: &&Arc<Ranges>| known.name == made.name && known.url == made.url && known.pick == made.pick;
        if let Some(known) = self.ranges.iter().find(same) {
            return known.clone();
        }
        let made = Arc::new(made);
        self.ranges.push(made.clone());
        made
    }
}
