//! `state:` and `on_failure:`: where event IDs and rate limits are kept, and what happens while that place is away.

use super::compile::Compiler;
use super::place::Place;
use super::raw::{self, Memory};
use super::secrets::Origin;
use super::units::Span;
use crate::policy::{
    DuplicateFailure, Evicting, OnFailure, RateLimitFailure, Readiness, Redis, RedisAddress, RedisTls, Servers, Sqlite,
    State, Store,
};
use crate::secret::SecretBytes;
use schemars::JsonSchema;
use serde::Deserialize as De;
use std::time::Duration;

/// Where event IDs and rate limits are kept.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "State")]
pub struct StateMap {
    /// Bounds of what this process keeps in its memory. On its own: event IDs and rate limits are forgotten at a
    /// restart and not shared with other replicas.
    pub memory: Memory,
    /// Delivered event IDs in a file as well, so that they survive a restart and a crash. For one process.
    pub sqlite: Option<SqliteMap>,
    /// Event IDs and rate limits of all replicas in Redis or Valkey.
    pub redis: Option<RedisMap>,
}

/// Event IDs in a SQLite file.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteMap {
    /// The file, on a local disk; made when missing, with its folder. A queue may use the same one. Relative to the
    /// configuration file.
    pub path: String,
}

/// Event IDs and rate limits in Redis or Valkey.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedisMap {
    /// `redis://host:6379/0`, `redis-sentinel://host:26379,host:26379/master-name/0`, `redis-cluster://host:6379,host:6379`
    /// or `unix:/path/to/socket`. `rediss`, `rediss-sentinel` and `rediss-cluster` for TLS. No user or password in here.
    pub url: String,
    /// ACL user. Default: the server's default user.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Password>,
    /// ACL user of the Sentinels.
    pub sentinel_username: Option<String>,
    /// Password of the Sentinels.
    pub sentinel_password: Option<Password>,
    /// Certificates for TLS. Only with a `rediss` URL.
    pub tls: Option<RedisTlsMap>,
    /// For one command. A server that is slower counts as away.
    #[serde(default = "command")]
    pub timeout: Span,
    /// For a connection, TLS and login included.
    #[serde(default = "connection")]
    pub connect_timeout: Span,
    /// What every key begins with. One for each set of replicas that share a server.
    #[serde(default = "prefix")]
    #[schemars(regex(pattern = r"^[A-Za-z0-9_.:-]{1,32}$"))]
    pub prefix: String,
    /// What happens when the server may throw keys away for want of memory (`maxmemory-policy` other than `noeviction`),
    /// so that delivered events could be forgotten early: `refuse` to start, or `warn`.
    #[serde(default = "refuse")]
    pub evicting: raw::Evicting,
    /// Is the process ready while the server is away? `ignore`: yes, `on_failure` says what requests get. `require`: no.
    #[serde(default = "ignore")]
    pub readiness: raw::Readiness,
}

/// A password: exactly one of `env` and `file`.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A file. One line end at its end is not part of the password. Relative to the configuration file.
    pub file: Option<String>,
}

/// Certificates for TLS towards Redis, PEM files.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RedisTlsMap {
    /// Roots to trust instead of the machine's.
    pub ca: Option<String>,
    /// Certificate of this client, where the server asks for one. With `private_key`.
    pub certificate: Option<String>,
    /// Its key.
    pub private_key: Option<String>,
}

/// What requests of a route get while the store is away. Signatures and allowlists do not depend on it.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "OnFailure")]
pub struct OnFailureMap {
    /// Rate limits: `local` (each process counts for itself), `allow` (nothing is counted) or `reject` (503).
    #[schemars(extend("default" = "local"))]
    pub rate_limit: Option<raw::LimitFailure>,
    /// Event IDs: `reject` (503, so that the sender comes again), `allow` (copies may get through) or `local` (each
    /// process remembers for itself).
    #[schemars(extend("default" = "reject"))]
    pub duplicates: Option<raw::DuplicateFailure>,
}

fn command() -> Span {
    Span::millis(250)
}

fn connection() -> Span {
    Span::secs(2)
}

fn prefix() -> String {
    "hookmoat".into()
}

fn refuse() -> raw::Evicting {
    raw::Evicting::Refuse
}

fn ignore() -> raw::Readiness {
    raw::Readiness::Ignore
}

const URL_HELP: &str = "write redis://host:6379, redis-sentinel://host:26379,host:26379/master-name, redis-cluster://host:6379,host:6379 or unix:/path; rediss… for TLS";

impl Compiler<'_> {
    pub(super) fn state(&mut self, raw: &StateMap) -> State {
        let root = Place::default().key("state");
        let at = root.key("memory");
        self.number(raw.memory.max_ids, 1_000, 200_000_000, &at.key("max_ids"));
        self.number(raw.memory.max_buckets, 100, 50_000_000, &at.key("max_buckets"));
        let store = match (&raw.sqlite, &raw.redis) {
            (None, None) => Store::Memory,
            (Some(sqlite), None) => self.sqlite(sqlite, &root.key("sqlite")),
            (None, Some(redis)) => {
                self.redis(redis, &root.key("redis")).map_or(Store::Memory, |redis| Store::Redis(Box::new(redis)))
            }
            (Some(sqlite), Some(redis)) => {
                self.sqlite(sqlite, &root.key("sqlite"));
                self.redis(redis, &root.key("redis"));
                self.wrong(&root, "two stores", "keep one of sqlite (one process) and redis (many)");
                Store::Memory
            }
        };
        State { max_ids: raw.memory.max_ids, max_buckets: raw.memory.max_buckets, store }
    }

    fn sqlite(&mut self, raw: &SqliteMap, at: &Place) -> Store {
        if raw.path.trim().is_empty() {
            self.wrong(&at.key("path"), "no file", "write a path, for instance data/state.db");
        }
        Store::Sqlite(Sqlite { path: self.world.output(&raw.path) })
    }

    fn redis(&mut self, raw: &RedisMap, at: &Place) -> Option<Redis> {
        self.within(raw.timeout, Duration::from_millis(5), Duration::from_secs(30), &at.key("timeout"));
        self.within(
            raw.connect_timeout,
            Duration::from_millis(50),
            Duration::from_secs(60),
            &at.key("connect_timeout"),
        );
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if raw.prefix.is_empty() || raw.prefix.len() > 32 || !raw.prefix.bytes().all(known) {
            self.wrong(&at.key("prefix"), "not a prefix", "write up to 32 of A-Z a-z 0-9 _ . : -");
        }
        let password = self.password(raw.password.as_ref(), &at.key("password"));
        let sentinel_password = self.password(raw.sentinel_password.as_ref(), &at.key("sentinel_password"));
        if raw.username.is_some() && raw.password.is_none() {
            self.wrong(&at.key("username"), "a user without a password", "add `password: {env: …}`");
        }
        let (servers, secure) = match parse_url(&raw.url) {
            Ok(found) => found,
            Err((what, help)) => {
                self.told(&at.key("url"), what, help);
                return None;
            }
        };
        let sentinels = matches!(servers, Servers::Sentinel { .. });
        if !sentinels && (raw.sentinel_username.is_some() || raw.sentinel_password.is_some()) {
            let key = if raw.sentinel_password.is_some() { "sentinel_password" } else { "sentinel_username" };
            self.wrong(&at.key(key), "there are no Sentinels in the URL", "remove it, or write a redis-sentinel URL");
        }
        let tls = self.redis_tls(raw.tls.as_ref(), secure, &at.key("tls"));
        Some(Redis {
            servers,
            username: raw.username.as_deref().map(Into::into),
            password,
            sentinel_username: raw.sentinel_username.as_deref().map(Into::into),
            sentinel_password,
            tls,
            timeout: raw.timeout.0,
            connect_timeout: raw.connect_timeout.0,
            prefix: raw.prefix.as_str().into(),
            evicting: match raw.evicting {
                raw::Evicting::Refuse => Evicting::Refuse,
                raw::Evicting::Warn => Evicting::Warn,
            },
            readiness: match raw.readiness {
                raw::Readiness::Ignore => Readiness::Ignore,
                raw::Readiness::Require => Readiness::Require,
            },
        })
    }

    /// A password that is not there is no mistake in the file: the store stays away and says so.
    fn password(&mut self, raw: Option<&Password>, at: &Place) -> Option<Result<SecretBytes, Box<str>>> {
        let raw = raw?;
        let origin = Origin { env: raw.env.as_deref(), file: raw.file.as_deref(), literal: None };
        match self.find(origin, at)? {
            Ok((bytes, _)) if std::str::from_utf8(&bytes).is_err() => {
                self.wrong(at, "not text in UTF-8", "a password of Redis is text");
                None
            }
            Ok((bytes, _)) => Some(Ok(SecretBytes::new(bytes))),
            Err(what) => {
                self.warn(at, &what, "the store is away until a restart finds the password");
                Some(Err(what.into()))
            }
        }
    }

    fn redis_tls(&mut self, raw: Option<&RedisTlsMap>, secure: bool, at: &Place) -> Option<RedisTls> {
        let none = RedisTlsMap::default();
        if raw.is_some() && !secure {
            self.wrong(at, "the URL speaks plain text", "write a URL that begins with rediss, or remove `tls`");
        }
        let raw = raw.unwrap_or(&none);
        if raw.certificate.is_some() != raw.private_key.is_some() {
            self.wrong(at, "half a pair", "write both of certificate and private_key");
        }
        let mut file = |path: &Option<String>, key: &str| {
            let path = self.world.resolve(path.as_deref()?);
            if !self.world.is_file(&path) {
                let what = self.world.no_file(&path);
                self.wrong(&at.key(key), what, "put the file there");
            }
            Some(path)
        };
        let ca = file(&raw.ca, "ca");
        let pair = file(&raw.certificate, "certificate").zip(file(&raw.private_key, "private_key"));
        secure.then_some(RedisTls { ca, pair })
    }

    pub(super) fn on_failure(&mut self, raw: Option<&OnFailureMap>, state: &StateMap, at: &Place) -> OnFailure {
        let Some(raw) = raw else { return OnFailure::default() };
        let usual = OnFailure::default();
        if state.redis.is_none() && (state.sqlite.is_none() || raw.rate_limit.is_some()) {
            let what = "nothing can fail here: the memory of this process does not go away";
            self.warn(at, what, "it has a meaning with `state: {redis: …}`; `duplicates` also with sqlite");
        }
        OnFailure {
            rate_limit: raw.rate_limit.map_or(usual.rate_limit, |word| match word {
                raw::LimitFailure::Local => RateLimitFailure::Local,
                raw::LimitFailure::Allow => RateLimitFailure::Allow,
                raw::LimitFailure::Reject => RateLimitFailure::Reject,
            }),
            duplicates: raw.duplicates.map_or(usual.duplicates, |word| match word {
                raw::DuplicateFailure::Reject => DuplicateFailure::Reject,
                raw::DuplicateFailure::Allow => DuplicateFailure::Allow,
                raw::DuplicateFailure::Local => DuplicateFailure::Local,
            }),
        }
    }

    /// Many replicas that each remember for themselves let a copy through for every one of them.
    pub(super) fn replicas(&mut self, config: &raw::Config, remembers: bool, limits: bool) {
        let at = Place::default().key("replicas");
        let Some(replicas) = config.replicas else { return };
        self.number(replicas, 1, 10_000, &at);
        let unread = self.has_damage(&Place::default().key("state"));
        if replicas < 2 || config.state.0.redis.is_some() || unread {
            return;
        }
        let help = "keep them in `state: {redis: {url: …}}`, which all replicas share";
        if remembers {
            let what =
                "each replica would remember event IDs for itself, so that a copy gets through at every one of them";
            self.wrong(&at, what, format!("{help}; or write `duplicates: off` on every route"));
        } else if limits {
            self.warn(
                &at,
                "each replica counts rate limits for itself: together they allow that many times as much",
                help,
            );
        }
    }
}

type Wrong = (String, String);

fn parse_url(url: &str) -> Result<(Servers, bool), Wrong> {
    let wrong = |what: &str| (what.to_owned(), URL_HELP.to_owned());
    if let Some(path) = url.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        if !path.starts_with('/') {
            return Err(wrong("not an absolute path of a socket"));
        }
        return Ok((Servers::Single { address: RedisAddress::Unix(path.into()), database: 0 }, false));
    }
    let Some((scheme, rest)) = url.split_once("://") else { return Err(wrong("not a URL")) };
    let (base, kind) = scheme.split_once('-').unwrap_or((scheme, ""));
    let secure = match base {
        "redis" | "valkey" => false,
        "rediss" | "valkeys" => true,
        _ => return Err(wrong("not a URL of Redis")),
    };
    if rest.contains('@') {
        let help = "write `username: …` and `password: {env: NAME}` beside the URL";
        return Err(("a user or password in the URL".to_owned(), help.to_owned()));
    }
    if rest.contains(['?', '#']) {
        return Err(wrong("a URL with parameters"));
    }
    let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = if kind == "sentinel" { 26_379 } else { 6_379 };
    let addresses: Vec<RedisAddress> = hosts.split(',').filter_map(|host| address(host, port)).collect();
    if addresses.is_empty() || addresses.len() != hosts.split(',').count() {
        return Err(wrong("a host that cannot be read"));
    }
    let database = |text: &str| match text {
        "" => Ok(0),
        _ => text.parse::<u16>().map_err(|_| wrong("not the number of a database")),
    };
    let servers = match kind {
        "" => match <[RedisAddress; 1]>::try_from(addresses) {
            Ok([address]) => Servers::Single { address, database: database(path)? },
            Err(_) => return Err(wrong("several hosts for one server")),
        },
        "sentinel" => {
            let (master, number) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() {
                return Err(wrong("Sentinels without the name of their master"));
            }
            Servers::Sentinel { sentinels: addresses, master: master.into(), database: database(number)? }
        }
        "cluster" if path.is_empty() || path == "0" => Servers::Cluster { nodes: addresses },
        "cluster" => return Err(wrong("a cluster has only database 0")),
        _ => return Err(wrong("not a URL of Redis")),
    };
    Ok((servers, secure))
}

/// `host`, `host:port`, `[::1]:port`.
fn address(text: &str, port: u16) -> Option<RedisAddress> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { port } else { rest.strip_prefix(':')?.parse().ok()? })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, port),
        },
    };
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    (port != 0 && !host.is_empty() && host.bytes().all(known)).then(|| RedisAddress::Host(host.into(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_servers() {
        let host = |name: &str, port| RedisAddress::Host(name.into(), port);
        let single = |address, database| Servers::Single { address, database };
        for (url, expected) in [
            ("redis://a", Some((single(host("a", 6379), 0), false))),
            ("rediss://a:7/3", Some((single(host("a", 7), 3), true))),
            ("valkey://[::1]:7", Some((single(host("::1", 7), 0), false))),
            ("unix:/run/redis.sock", Some((single(RedisAddress::Unix("/run/redis.sock".into()), 0), false))),
            (
                "redis-sentinel://a,b:7/main/2",
                Some((
                    Servers::Sentinel {
                        sentinels: vec![host("a", 26379), host("b", 7)],
                        master: "main".into(),
                        database: 2,
                    },
                    false,
                )),
            ),
            ("valkeys-cluster://a:1,b:2", Some((Servers::Cluster { nodes: vec![host("a", 1), host("b", 2)] }, true))),
            ("redis://a,b", None),
            ("redis://", None),
            ("redis://a:0", None),
            ("redis://a:x", None),
            ("redis://u:p@a", None),
            ("redis://a?x=1", None),
            ("redis://a/x", None),
            ("redis-cluster://a/1", None),
            ("redis-sentinel://a", None),
            ("http://a", None),
            ("localhost:6379", None),
            ("unix:relative", None),
        ] {
            assert_eq!(parse_url(url).ok(), expected, "{url}");
        }
    }
}
