//! `queues: {…: {rabbitmq: …}}` and `{sqs: …}`: queues that more than one machine shares.

use super::compile::Compiler;
use super::place::Place;
use super::secrets::Origin;
use super::state::Password;
use super::units::{Size, Span};
use crate::port::rabbitmq::{self, Bounds, Credentials};
use crate::port::sqs;
use crate::port::tls::TlsFiles;
use crate::secret::SecretBytes;
use schemars::JsonSchema;
use serde::Deserialize as De;
use std::path::PathBuf;
use std::time::Duration;

/// A queue at a RabbitMQ broker (3.10 or newer): quorum queues, publisher confirms.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "RabbitMq")]
pub struct RabbitMqMap {
    /// `amqp://host:5672/vhost`, or `amqps://…` for TLS. Several hosts of a cluster: `amqps://a:5671,b:5671/vhost`. No
    /// user or password in here. Without a vhost: `/`.
    pub url: String,
    /// User. Without one, the certificate in `tls` says who we are (SASL EXTERNAL).
    pub username: Option<String>,
    /// The user's password.
    pub password: Option<Password>,
    /// The queue's name at the broker; the names of those for retries and dead letters begin with it.
    #[schemars(extend("x-default" = "hookmoat. and the name here"))]
    pub queue: Option<String>,
    /// Make the queues when they are missing. Off: they have to be there, as config/QUEUES.md says.
    #[serde(default = "yes")]
    pub declare: bool,
    /// Deliver the events from here. Off: they stay at the broker for consumers of your own, in the format of
    /// config/QUEUES.md.
    #[serde(default = "yes")]
    pub consume: bool,
    /// Events that wait at most. Over it, senders get 503 and come again. An argument of the queue at the broker.
    #[schemars(range(min = 1))]
    pub max_events: Option<u64>,
    /// Bytes of their bodies at most. An argument of the queue at the broker.
    pub max_bytes: Option<Size>,
    /// Deliveries that end without a word (a crash, a lost connection) before the broker moves an event to the dead
    /// letters. An argument of the queue at the broker.
    #[serde(default = "delivery_limit")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub delivery_limit: u32,
    /// Events that the broker sends ahead, together with those that are being delivered.
    #[serde(default = "prefetch")]
    #[schemars(range(min = 1, max = 65_535))]
    pub prefetch: u16,
    /// For the broker's confirmation. A broker that is slower counts as away: the sender gets 503.
    #[serde(default = "three")]
    pub timeout: Span,
    /// For a connection, TLS and login included.
    #[serde(default = "five")]
    pub connect_timeout: Span,
    /// Between signs of life on an idle connection. A peer that is silent for twice as long is gone.
    #[serde(default = "ten")]
    pub heartbeat: Span,
    /// Largest body of an event; a larger one gets 413. Not above the broker's `max_message_size`.
    #[serde(default = "max_event")]
    pub max_event: Size,
    /// Bytes sent and not yet confirmed, at most. Over it, senders get 503.
    #[serde(default = "max_unconfirmed")]
    pub max_unconfirmed: Size,
    /// Certificates for TLS. Only with an `amqps` URL.
    pub tls: Option<RabbitMqTlsMap>,
}

/// Certificates for TLS towards RabbitMQ, PEM files. Read at each connection.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "RabbitMqTls")]
pub struct RabbitMqTlsMap {
    /// Roots to trust instead of the machine's.
    pub ca: Option<String>,
    /// Certificate of this client, where the broker asks for one. With `private_key`.
    pub certificate: Option<String>,
    /// Its key.
    pub private_key: Option<String>,
    /// The name that the broker's certificate must have. Default: the host of the URL.
    pub server_name: Option<String>,
}

/// A queue in AWS SQS. Credentials come from where AWS's own tools take them: the environment, the profile, a web identity
/// token, the container's or the machine's role.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Sqs")]
pub struct SqsMap {
    /// The queue's name or URL. A name that ends with `.fifo` keeps the order of events with one `order` key.
    pub queue: String,
    /// Name or URL of the queue for dead letters, of the same kind.
    #[schemars(extend("x-default" = "the queue's name and -dead"))]
    pub dead_letters: Option<String>,
    /// Make the queues when they are missing.
    #[serde(default)]
    pub create: bool,
    /// Region, when the environment or the profile does not say.
    pub region: Option<String>,
    /// Profile in AWS's files, if it is not the default one.
    pub profile: Option<String>,
    /// AWS's credentials file, if it is not in its usual place. Relative to the configuration file.
    pub credentials_file: Option<String>,
    /// Another server, or a private endpoint: `https://host` or `http://host:port`.
    pub endpoint: Option<String>,
    /// Roots to trust instead of the machine's, a PEM file.
    pub ca: Option<String>,
    /// Deliver the events from here. Off: they stay in the queue for consumers of your own, in the format of
    /// config/QUEUES.md.
    #[serde(default = "yes")]
    pub consume: bool,
    /// For one call, tries included. A service that is slower counts as away: the sender gets 503.
    #[serde(default = "three")]
    pub timeout: Span,
    /// Bytes sent and not yet answered, at most. Over it, senders get 503.
    #[serde(default = "max_unconfirmed")]
    pub max_unconfirmed: Size,
}

fn yes() -> bool {
    true
}

fn delivery_limit() -> u32 {
    100
}

fn prefetch() -> u16 {
    100
}

fn three() -> Span {
    Span::secs(3)
}

fn five() -> Span {
    Span::secs(5)
}

fn ten() -> Span {
    Span::secs(10)
}

fn max_event() -> Size {
    Size(16 << 20)
}

fn max_unconfirmed() -> Size {
    Size(64 << 20)
}

const URL_HELP: &str =
    "write amqp://host:5672/vhost or amqps://host:5671/vhost; several hosts with commas between them";
/// AMQP's names have 255 bytes; those that begin with the queue's need some.
const LONGEST_NAME: usize = 200;

impl Compiler<'_> {
    pub(super) fn rabbitmq(&mut self, name: &str, raw: &RabbitMqMap, at: &Place) -> Option<rabbitmq::Settings> {
        let (least, most) = (Duration::from_millis(50), Duration::from_secs(60));
        self.within(raw.timeout, least, most, &at.key("timeout"));
        self.within(raw.connect_timeout, least, most, &at.key("connect_timeout"));
        self.within(raw.heartbeat, Duration::from_secs(1), Duration::from_secs(600), &at.key("heartbeat"));
        self.size(raw.max_event, Size(1 << 10), Size(512 << 20), &at.key("max_event"));
        self.size(raw.max_unconfirmed, Size(1 << 20), Size(1 << 40), &at.key("max_unconfirmed"));
        self.number(raw.delivery_limit as usize, 1, 1_000_000, &at.key("delivery_limit"));
        self.number(raw.prefetch.into(), 1, 65_535, &at.key("prefetch"));
        if raw.max_events == Some(0) {
            self.wrong(&at.key("max_events"), "too small", "write at least 1");
        }
        if let Some(size) = raw.max_bytes {
            self.size(size, Size(1 << 20), Size(1 << 50), &at.key("max_bytes"));
        }
        let queue = raw.queue.clone().unwrap_or_else(|| format!("hookmoat.{name}"));
        if queue.is_empty() || queue.len() > LONGEST_NAME || queue.starts_with("amq.") {
            let help = format!("write up to {LONGEST_NAME} bytes that do not begin with `amq.`");
            self.wrong(&at.key("queue"), "not a queue's name", help);
        }
        let credentials = match (&raw.username, &raw.password) {
            (Some(username), Some(password)) => {
                let at = at.key("password");
                let origin = Origin { env: password.env.as_deref(), file: password.file.as_deref(), literal: None };
                match self.find(origin, &at) {
                    Some(Ok((bytes, _))) => Some(Credentials::Plain {
                        username: username.as_str().into(),
                        password: SecretBytes::new(bytes),
                    }),
                    Some(Err(what)) => {
                        self.warn(&at, &what, "the queue is away until a restart finds the password");
                        Some(Credentials::Missing(what.into()))
                    }
                    None => None,
                }
            }
            (None, None) if raw.tls.as_ref().is_some_and(|tls| tls.certificate.is_some()) => {
                Some(Credentials::External)
            }
            (None, None) => {
                let help = "add `username` and `password: {env: …}`, or a client certificate in `tls`";
                self.wrong(at, "says not who we are at the broker", help);
                None
            }
            (Some(_), None) => {
                self.wrong(&at.key("username"), "a user without a password", "add `password: {env: …}`");
                None
            }
            (None, Some(_)) => {
                self.wrong(&at.key("password"), "a password without a user", "add `username`");
                None
            }
        };
        let Some((secure, nodes, vhost)) = amqp(&raw.url) else {
            self.told(&at.key("url"), "not a broker's URL", URL_HELP);
            return None;
        };
        let tls = self.amqp_tls(raw.tls.as_ref(), secure, &at.key("tls"));
        Some(rabbitmq::Settings {
            name: name.into(),
            nodes,
            vhost,
            credentials: credentials?,
            server_name: raw.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).map(Into::into),
            tls,
            queue: queue.into(),
            declare: raw.declare,
            bounds: Bounds {
                max_events: raw.max_events,
                max_bytes: raw.max_bytes.map(|size| size.0 as u64),
                delivery_limit: raw.delivery_limit,
            },
            consume: raw.consume,
            prefetch: raw.prefetch,
            timeout: raw.timeout.0,
            connect_timeout: raw.connect_timeout.0,
            heartbeat: raw.heartbeat.0,
            max_event: raw.max_event.0,
            max_unconfirmed: raw.max_unconfirmed.0,
        })
    }

    fn amqp_tls(&mut self, raw: Option<&RabbitMqTlsMap>, secure: bool, at: &Place) -> Option<TlsFiles> {
        if raw.is_some() && !secure {
            self.wrong(at, "the URL speaks plain text", "write a URL that begins with amqps, or remove `tls`");
        }
        let none = RabbitMqTlsMap::default();
        let raw = raw.unwrap_or(&none);
        if raw.certificate.is_some() != raw.private_key.is_some() {
            self.wrong(at, "half a pair", "write both of certificate and private_key");
        }
        if let Some(name) = &raw.server_name
            && rustls_pki_types::ServerName::try_from(name.as_str()).is_err()
        {
            self.wrong(&at.key("server_name"), "not a name that a certificate can have", "write a host name");
        }
        let ca = self.file(raw.ca.as_deref(), &at.key("ca"));
        let certificate = self.file(raw.certificate.as_deref(), &at.key("certificate"));
        let private_key = self.file(raw.private_key.as_deref(), &at.key("private_key"));
        secure.then_some(TlsFiles { ca, identity: certificate.zip(private_key) })
    }

    fn file(&mut self, path: Option<&str>, at: &Place) -> Option<PathBuf> {
        let path = self.world.resolve(path?);
        if !self.world.is_file(&path) {
            let what = self.world.no_file(&path);
            self.wrong(at, what, "put the file there");
        }
        Some(path)
    }

    pub(super) fn sqs(&mut self, name: &str, raw: &SqsMap, at: &Place) -> sqs::Settings {
        let (least, most) = (Duration::from_millis(50), Duration::from_secs(60));
        self.within(raw.timeout, least, most, &at.key("timeout"));
        self.size(raw.max_unconfirmed, Size(1 << 20), Size(1 << 40), &at.key("max_unconfirmed"));
        const NAMES: &str =
            "write a queue's URL, or its name: up to 80 of A-Z a-z 0-9 - _, and .fifo at the end of a FIFO queue's";
        if !is_sqs(&raw.queue) {
            self.wrong(&at.key("queue"), "not a queue of SQS", NAMES);
        }
        let dead_letters = raw.dead_letters.clone().unwrap_or_else(|| match raw.queue.strip_suffix(".fifo") {
            Some(queue) => format!("{queue}-dead.fifo"),
            None => format!("{}-dead", raw.queue),
        });
        if raw.dead_letters.is_some() && !is_sqs(&dead_letters) {
            self.wrong(&at.key("dead_letters"), "not a queue of SQS", NAMES);
        } else if dead_letters == raw.queue {
            self.wrong(&at.key("dead_letters"), "the queue itself", "name another queue");
        } else if dead_letters.ends_with(".fifo") != raw.queue.ends_with(".fifo") {
            self.wrong(&at.key("dead_letters"), "not of the queue's kind", "both are FIFO queues, or none is");
        }
        if let Some(endpoint) = &raw.endpoint
            && !endpoint.parse::<http::Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
            })
        {
            self.told(&at.key("endpoint"), "not a server's URL", "write https://host or http://host:port");
        }
        let boxed = |text: &Option<String>| text.as_deref().map(Into::into);
        sqs::Settings {
            name: name.into(),
            queue: raw.queue.as_str().into(),
            dead_letters: dead_letters.into(),
            create: raw.create,
            region: boxed(&raw.region),
            profile: boxed(&raw.profile),
            credentials_file: self.file(raw.credentials_file.as_deref(), &at.key("credentials_file")),
            endpoint: boxed(&raw.endpoint),
            ca: self.file(raw.ca.as_deref(), &at.key("ca")),
            consume: raw.consume,
            timeout: raw.timeout.0,
            max_unconfirmed: raw.max_unconfirmed.0,
        }
    }
}

type Nodes = Vec<(Box<str>, u16)>;

/// TLS, hosts and ports, virtual host.
fn amqp(url: &str) -> Option<(bool, Nodes, Box<str>)> {
    let (secure, rest) = match url.split_once("://")? {
        ("amqp", rest) => (false, rest),
        ("amqps", rest) => (true, rest),
        _ => return None,
    };
    let (hosts, vhost) = match rest.split_once('/') {
        Some((hosts, "")) => (hosts, "/"),
        Some((hosts, vhost)) => (hosts, vhost),
        None => (rest, "/"),
    };
    // A user's name in a URL means a password in a file that others read.
    if hosts.contains('@') || vhost.contains(['/', '?', '#']) && vhost != "/" {
        return None;
    }
    let vhost = percent_encoding::percent_decode_str(vhost).decode_utf8().ok()?;
    let nodes = hosts.split(',').map(|node| {
        let node = node.trim();
        let (host, port) = match node.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']')?;
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port.strip_prefix(':').map(Some).or(port.is_empty().then_some(None))?)
            }
            None => node.split_once(':').map_or((node, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => {
                if secure {
                    5671
                } else {
                    5672
                }
            }
            Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        };
        let known = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b));
        known.then(|| (host.into(), port))
    });
    Some((secure, nodes.collect::<Option<Nodes>>()?, vhost.into()))
}

fn is_sqs(queue: &str) -> bool {
    if let Some(rest) = queue.strip_prefix("https://").or_else(|| queue.strip_prefix("http://")) {
        return rest.contains('/') && rest.bytes().all(|byte| byte.is_ascii_graphic());
    }
    let name = queue.strip_suffix(".fifo").unwrap_or(queue);
    !name.is_empty() && queue.len() <= 80 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_brokers() {
        let node = |host: &str, port| (Box::from(host), port);
        for (url, expected) in [
            ("amqp://a", Some((false, vec![node("a", 5672)], "/".into()))),
            ("amqps://a:7,b/x", Some((true, vec![node("a", 7), node("b", 5671)], "x".into()))),
            ("amqp://[::1]:5/%2f", Some((false, vec![node("::1", 5)], "/".into()))),
            ("amqp://u:p@a", None),
            ("amqp://a:0", None),
            ("amqp://a:x", None),
            ("amqp://", None),
            ("amqp://a,", None),
            ("amqp://a/x?heartbeat=1", None),
            ("http://a", None),
            ("a:5672", None),
        ] {
            assert_eq!(amqp(url), expected, "{url}");
        }
    }

    #[test]
    fn names_of_sqs_queues() {
        for queue in ["a", "a-B_9", "a.fifo", "https://sqs.eu-central-1.amazonaws.com/1/a"] {
            assert!(is_sqs(queue), "{queue}");
        }
        for queue in ["", ".fifo", "a.b", "a b", "https://x", "a.fifo.fifo", &"a".repeat(81)] {
            assert!(!is_sqs(queue), "{queue}");
        }
    }
}
