//! What people write. The doc comments become the configuration reference and the texts that editors show.
//!
//! Nothing here is checked beyond its form; `compile` says what may stand together. Types that accept a word or a
//! mapping read themselves, since serde's untagged enums can only say that nothing matched.

use super::handshake::RawExchange;
use super::problem::{custom, nearest, one_of};
use super::queues::{DeliverMap, QueueMap};
use super::scheme::RawScheme;
use super::state::{OnFailureMap, StateMap};
use super::units::{Share, Size, Span};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize as De, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

/// The configuration of Hookmoat: who may send, how they prove it, and where clean requests go.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Public listeners: where senders connect. At least one. Fixed until the next start.
    pub listen: Vec<Listen>,
    /// Address of `/status`, `/metrics`, `/healthz`, `/readyz` and `/queues`, or `off`. An address that is not loopback
    /// needs the long form with a `token` or `allow_public: true`; `/queues` answers this machine alone. Fixed until the next start.
    #[schemars(extend("default" = "127.0.0.1:9901"))]
    pub admin: Option<Admin>,
    /// What plain HTTP gets: `reject` (403), `redirect` (308) or `allow`. Routes may differ.
    #[schemars(extend("default" = "reject"))]
    pub https: Option<Https>,
    /// Proxies in front whose `X-Forwarded-For`, `Forwarded` and `X-Forwarded-Proto` are believed. The right-most
    /// address that is not one of them is the client. Networks, or files with one network a line.
    pub trusted_proxies: Vec<Network>,
    /// Where remembered event IDs and rate limits are kept: `memory`, or a mapping with `memory`, `sqlite` or `redis`.
    /// Fixed until the next start.
    #[schemars(extend("default" = "memory"))]
    pub state: State,
    /// How many of these processes stand side by side. With more than one, event IDs have to be shared.
    #[schemars(range(min = 1, max = 10_000), extend("default" = 1))]
    pub replicas: Option<usize>,
    /// Deadlines towards senders, each for the whole of its phase.
    pub timeouts: Timeouts,
    /// Bounds of requests and of memory.
    pub limits: Limits,
    /// Who may connect at all, and how many connections may be open at once.
    pub connections: Connections,
    /// How the process ends after SIGTERM. Both together stay below 30s, the default grace period of Kubernetes.
    pub shutdown: Shutdown,
    /// Worker threads. Default: one for each core, or as many as the CPU limit of the container allows. Each has
    /// listeners and connections to the backends of its own. Fixed until the next start.
    #[schemars(range(min = 1, max = 1024))]
    pub workers: Option<u32>,
    /// Whether HTTP/1.1 takes the lean way, which costs less: `auto`, or `off` to send every request the complete way that
    /// HTTP/2 takes. Both check the same and answer the same. Fixed until the next start.
    #[schemars(extend("default" = "auto"))]
    pub fast_path: Option<FastPath>,
    /// What is logged, and how.
    pub log: Log,
    /// Where traces of requests go. Default: nothing is traced, and `traceparent` goes to the backend as it came. Fixed
    /// until the next start.
    pub tracing: Option<Tracing>,
    /// How the networks and keys that senders publish are fetched. Needed only to change something about it.
    pub fetch: Fetch,
    /// Backends by name. A value is a URL, or a mapping with a `url`.
    pub upstreams: BTreeMap<String, Upstream>,
    /// Durable queues by name, for routes that `deliver` in the background. Fixed until the next start.
    pub queues: BTreeMap<String, QueueMap>,
    /// What is accepted, and where it goes. At least one.
    pub routes: Vec<Route>,
}

/// A public listener.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// IP address and port, for instance `0.0.0.0:8443` or `[::]:8443`.
    pub address: String,
    /// Own TLS (1.2 or newer, HTTP/1.1 and HTTP/2). Without it the listener speaks plain HTTP.
    pub tls: Option<ListenTls>,
    /// Every connection begins with a PROXY protocol header (version 1 or 2), which says whose it is: for load balancers
    /// that pass connections on without looking into them. Whoever sends none is closed.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// Whose PROXY protocol headers are believed.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// Networks of the load balancers in front. Connections of everybody else are closed. Networks, or files with one
    /// network a line.
    pub from: Vec<Network>,
}

/// Certificate and key of a listener, PEM files.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// Certificate chain, leaf first. Relative to the configuration file.
    pub certificate: String,
    /// Private key: PKCS#8, SEC1 or PKCS#1. Relative to the configuration file.
    pub private_key: String,
    /// Make a self-signed pair when both files are missing. For local play.
    #[serde(default)]
    pub self_signed_if_missing: bool,
    /// Further pairs. Each is shown to whom asks for one of its names (SNI); the pair above to everybody else.
    #[serde(default)]
    pub others: Vec<CertificatePair>,
    /// PEM file of the roots that issue client certificates. Senders are then asked for one (mutual TLS).
    pub client_ca: Option<String>,
    /// With `client_ca`: `required` refuses the handshake without a certificate, `optional` leaves it to the routes.
    #[schemars(extend("default" = "required"))]
    pub client_certificate: Option<ClientCertificateMode>,
    /// Oldest version of TLS that is taken.
    #[schemars(extend("default" = "TLSv1.2"))]
    pub min_version: Option<TlsVersion>,
}

/// A certificate and its key, PEM files.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificatePair {
    /// Certificate chain, leaf first. Relative to the configuration file.
    pub certificate: String,
    /// Private key: PKCS#8, SEC1 or PKCS#1. Relative to the configuration file.
    pub private_key: String,
}

/// What a client certificate must have: exactly one of these.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificateRule {
    /// One of its alternative names: a DNS name, URI, mail address or IP address.
    pub name: Option<String>,
    /// Its whole subject, for instance `CN=hooks.example.com, O=Example`; the log shows it for a refused one. What separates
    /// is escaped within a value, as in RFC 4514: `O=Example\, Inc.`.
    pub subject: Option<String>,
    /// SHA-256 of its public key (SubjectPublicKeyInfo), 64 hex digits.
    pub spki_sha256: Option<String>,
}

/// Where the admin listener is.
#[derive(Debug)]
pub enum Admin {
    /// No admin listener.
    Off,
    /// An address.
    Address(String),
    /// An address with permission to be public.
    Full(AdminAddress),
}

/// The admin listener, long form.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminAddress {
    /// IP address and port.
    pub address: String,
    /// Yes, others than this machine may read the metrics, without a token.
    #[serde(default)]
    pub allow_public: bool,
    /// Requests that the status page (`/status`) remembers, about 400 bytes each. 0 switches the page off.
    /// Fixed until the next start.
    #[schemars(range(max = 100_000), extend("default" = 1000))]
    pub history: Option<usize>,
    /// Everything but `/healthz` and `/readyz` asks for this token: `Authorization: Bearer …`, or as the password of any
    /// user (Basic), for browsers. Another one is taken over while the process runs.
    pub token: Option<super::state::Password>,
    /// Own TLS.
    pub tls: Option<CertificatePair>,
}

/// Where seen IDs and buckets are kept.
#[derive(Debug, Default)]
pub struct State(pub StateMap);

/// Bounds of the memory store.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Keys of events remembered at most; an event takes one or two. When they are used up, new events get 503.
    #[schemars(range(min = 1))]
    pub max_ids: usize,
    /// Rate-limit buckets held at most.
    #[schemars(range(min = 1))]
    pub max_buckets: usize,
}

/// Deadlines towards senders.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// From the start of a connection to its first byte of HTTP: PROXY protocol header, TLS handshake, HTTP/2 preface.
    pub handshake: Span,
    /// From the first byte of a request to the end of its head.
    pub header: Span,
    /// From the end of the head to the end of the body.
    pub body: Span,
    /// Between two requests on one connection.
    pub idle: Span,
    /// For one request altogether, the backend's part included.
    pub total: Span,
    /// How long a copy of an event that is still on its way waits for the first one's result.
    pub duplicate_wait: Span,
}

/// Bounds of requests and of memory.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Number of header fields.
    #[schemars(range(min = 1))]
    pub headers: usize,
    /// Names and values of all header fields together.
    pub header_bytes: Size,
    /// Length of the request target.
    pub uri_bytes: Size,
    /// Largest body, unless the route says otherwise.
    pub max_body: Size,
    /// Body bytes held at once by all requests together. Over it, requests get 503.
    pub body_memory: Size,
}

/// Who may connect at all, and how many connections may be open at once.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// Connections of senders that may be open at once; one more takes the place of one that waits, or is closed. The
    /// limit of open files can mean fewer: an eighth of it, at least 64, is kept for backends and files.
    #[schemars(range(min = 1, max = 10_000_000), extend("default" = 20_000))]
    pub max: usize,
    /// The same for one address (IPv6: a /64); `trusted_proxies` are not counted. Behind PROXY protocol the address is the
    /// one that the header names. Default: no bound.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_per_address: Option<usize>,
    /// Requests at once on one HTTP/2 connection.
    #[schemars(range(min = 1, max = 10_000))]
    pub http2_streams: u32,
    /// Requests a second that one HTTP/2 connection may begin. What is over it is read when it is its turn.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub http2_requests: u32,
    /// Networks whose connections are closed before a byte of them is read. On one that was open before the
    /// list said so, no further request is served. Networks, or files with one network a line.
    pub deny: Vec<Network>,
}

/// How the process ends.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Shutdown {
    /// Not ready but still serving, so that load balancers notice.
    pub pre_stop: Span,
    /// The longest wait for requests in flight after that.
    pub grace: Span,
}

/// What is logged, and how.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// `json`, `pretty`, or `auto`: `pretty` on a terminal, else `json`. Fixed until the next start.
    pub format: LogFormat,
    /// Which requests get a line: `all`, `refused` (and failed), or `off`. Lines are gathered for 50 ms at most; the end
    /// of the process in order loses none, a kill loses those.
    pub requests: LogRequests,
    /// Of the requests that were delivered, one in so many gets a line; refused and failed ones all do.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sample: u32,
    /// The least level of any line: `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,hookmoat=debug`. Lines
    /// of requests have one too: `info` where they were delivered, `warn` or `info` where they were refused. Fixed until the next
    /// start.
    pub level: String,
}

/// Where traces of requests go: a span for each request, with a child for each stage and each attempt to deliver.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The collector, over OTLP: HTTP with protobuf.
    pub otlp: Otlp,
    /// One request in so many is recorded. A sender that says in its `traceparent` whether it records is believed once
    /// its signature is verified.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub sample: u32,
    /// `service.name` of the spans.
    #[schemars(extend("default" = "hookmoat"))]
    pub service: Option<String>,
    /// Further attributes of the process by name: `{k8s.pod.name: {env: POD_NAME}, deployment.environment.name: {value: production}}`.
    #[serde(default)]
    pub attributes: BTreeMap<String, HeaderSource>,
}

/// A collector that speaks OTLP.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otlp {
    /// `http://host:port`, `https://host:port` or `unix:/path/to/socket`. Port 4318 where the collector is as usual.
    pub url: String,
    /// Where it takes spans.
    #[schemars(extend("default" = "/v1/traces"))]
    pub path: Option<String>,
    /// Headers for it, for instance a token.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderSource>,
    /// For one batch.
    #[schemars(extend("default" = "10s"))]
    pub timeout: Option<Span>,
    /// TLS towards it. Only for `https://`.
    pub tls: Option<UpstreamTls>,
}

fn one() -> u32 {
    1
}

/// How published networks and keys are fetched: over https only, from the places that presets and routes name, from
/// public addresses.
#[derive(Clone, Debug, De, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fetch {
    /// Folder for the last good copies, used after a restart while a fetch fails. Only Hookmoat may be able to write
    /// there: who changes a copy chooses keys and networks. Default: copies are kept in memory only.
    pub cache: Option<String>,
    /// How often a source is asked for something new. Its `Cache-Control` may say later, up to a day.
    pub refresh: Span,
    /// For one fetch, from the look at the name to the last byte.
    pub timeout: Span,
    /// How long a request waits for a key that has to be fetched first. Then the sender gets 503 and comes again.
    pub wait: Span,
    /// PEM file of the roots to trust instead of the machine's, for the connection and for the certificates that
    /// messages are signed with.
    pub ca: Option<String>,
    /// PEM file of the authorities, roots or what is between, that the certificates which messages are signed with must
    /// lead to. With it also those of senders that publish them without a chain (SNS). Default: as for connections.
    pub signer_ca: Option<String>,
    /// An HTTP proxy that all fetches go through, `http://host:port`. It is the one who resolves names then.
    pub proxy: Option<String>,
    /// Networks that may be fetched from although they are not public: for mirrors of one's own.
    pub allow_private: Vec<String>,
    /// Addresses of hosts, in place of what their names resolve to: `{api.github.com: [10.0.0.5]}`, with or without a
    /// port. Certificates are still checked for the name.
    pub hosts: BTreeMap<String, Vec<String>>,
}

/// A backend: a URL, or this.
#[derive(Clone, Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Upstream")]
pub struct UpstreamMap {
    /// `http://host:port`, `https://host:port` or `unix:/path/to/socket`. Names are resolved in the background.
    pub url: String,
    /// For the whole exchange with the backend.
    #[schemars(extend("default" = "10s"))]
    pub timeout: Option<Span>,
    /// For the connection, TLS included.
    #[schemars(extend("x-default" = "2s, or `timeout` if that is shorter"))]
    pub connect_timeout: Option<Span>,
    /// Between two reads of an answer's body. Its head has to come within `timeout`.
    #[schemars(extend("x-default" = "as `timeout`"))]
    pub read_timeout: Option<Span>,
    /// How long an unused connection is kept.
    #[schemars(extend("default" = "60s"))]
    pub idle_timeout: Option<Span>,
    /// Unused connections kept at most by each worker.
    #[schemars(extend("default" = 128))]
    pub max_idle: Option<usize>,
    /// Background deliveries at once (routes that `deliver`).
    #[schemars(range(min = 1, max = 10_000), extend("default" = 16))]
    pub concurrency: Option<usize>,
    /// TLS towards the backend. Only for `https://`.
    pub tls: Option<UpstreamTls>,
}

/// A backend.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// All about it.
    pub map: UpstreamMap,
    /// Was it written as a bare URL?
    pub bare: bool,
}

/// TLS towards a backend.
#[derive(Clone, Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamTls {
    /// PEM file of the roots to trust instead of the machine's.
    pub ca: Option<String>,
    /// The name that the certificate must have. Default: the host of the URL.
    pub server_name: Option<String>,
    /// PEM file of the certificate that is shown to a backend that asks for one (mutual TLS), with its chain.
    pub client_certificate: Option<String>,
    /// Its key, PEM file.
    pub client_key: Option<String>,
    /// Accept any certificate. For local play: whoever is in the way can read and change everything.
    pub insecure_skip_verify: bool,
}

/// What is accepted under one path, and where it goes.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique. The value of the `route` label in metrics and logs.
    #[schemars(required, regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"))]
    pub name: Option<String>,
    /// Only requests for this host, without port. Default: any.
    pub host: Option<String>,
    /// Exactly this path, or `/x/*` for the path `/x` and everything below it.
    #[schemars(required)]
    pub path: Option<String>,
    /// Methods accepted. Default: the preset's, or POST.
    pub methods: Option<Vec<String>>,
    /// A preset by its id, for instance `github`; `hookmoat providers` lists them. Brings the signature scheme, the
    /// event ID and the answers that this sender understands.
    pub provider: Option<String>,
    /// Only these variants of the preset's scheme, for instance `[v3]` of `hubspot`. Default: all.
    pub variants: Option<Vec<String>>,
    /// A scheme of one's own instead of a preset, or the word `none`: nothing is verified.
    pub signature: Option<Signature>,
    /// Where the shared secrets are; several at once for a rotation.
    pub secrets: Option<Vec<SecretSource>>,
    /// The only secret, when there is just one.
    pub secret: Option<SecretSource>,
    /// Public keys of the sender, for schemes that sign with a private one. Several at once for a rotation.
    pub public_keys: Option<Vec<PublicKeySource>>,
    /// What claims of a token must hold, by name: a text or a list of which one is enough. Some presets need `aud`.
    #[serde(default)]
    pub claims: BTreeMap<String, OneOrMany<String>>,
    /// Other things that the sender puts into what it signs, by name. Some presets need one: `webhook_id` of `paypal`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// The URL that the sender was given. For senders that sign it (Twilio, HubSpot, Square).
    pub public_url: Option<String>,
    /// As the global `https`, for this route.
    #[schemars(extend("x-default" = "as the global `https`"))]
    pub https: Option<Https>,
    /// Networks that may send: networks, files with one network a line, the word `provider` for those that the preset's
    /// sender publishes, and URLs of published lists. Default: anyone.
    pub allow: Option<Vec<Network>>,
    /// Limits before the signature is checked: protect this process. One or several.
    pub rate_limit: Option<OneOrMany<RateLimit>>,
    /// Limits after it: only verified requests count, so strangers cannot use them up. One or several.
    pub rate_limit_verified: Option<OneOrMany<RateLimit>>,
    /// Largest body.
    #[schemars(extend("x-default" = "as `limits.max_body`"))]
    pub max_body: Option<Size>,
    /// Media types accepted, without parameters, for instance `application/json`. Default: the preset's, or any.
    pub content_types: Option<Vec<String>>,
    /// Content-Encodings accepted, for instance `gzip`. Bodies are forwarded as they came. Default: the preset's, or none.
    #[serde(default)]
    pub content_encodings: Vec<String>,
    /// Client certificates that may send, where a listener has `client_ca`; one rule has to hold.
    #[serde(default)]
    pub client_certificates: Vec<ClientCertificateRule>,
    /// Headers that must be there.
    #[serde(default)]
    pub required_headers: Vec<String>,
    /// Where the event's ID stands; of several places the first that is there counts. Default: the preset's.
    pub event_id: Option<OneOrMany<EventId>>,
    /// Where the event's type stands; of several places the first that is there counts. Default: the preset's.
    pub event_type: Option<OneOrMany<EventId>>,
    /// The types of events that the backend gets, `*` standing for any text: `[push, "pull_request.*"]`. The rest is
    /// acknowledged and dropped. Default: all.
    pub events: Option<Vec<String>>,
    /// Answer here when the sender asks whether this URL is right (challenges, pings, verification codes), also while the
    /// backend is down: `true`, or a mapping with what the sender's way needs. Default: the backend's matter.
    #[schemars(extend("default" = false))]
    pub handshake: Option<Handshake>,
    /// How long delivered events are remembered and how copies are told; or the word `off`.
    pub duplicates: Option<Duplicates>,
    /// What requests get while the store of `state` is away.
    pub on_failure: Option<OnFailureMap>,
    /// Checks of this route that only report what they would have refused.
    #[serde(default)]
    pub observe: Vec<Observe>,
    /// Checks of this route that refuse only a part of what they would refuse and let the rest pass like `observe`, so that
    /// a new check can be put in force step by step. An event, or a client where the head names no event, is always on
    /// the same side.
    #[serde(default)]
    pub enforce: Enforce,
    /// Try the usual mistakes on requests whose signature is refused, a few each minute, and log what would have made
    /// them verify. To the log only; `hookmoat explain` does the same by hand.
    #[serde(default)]
    pub diagnose: bool,
    /// Statuses, where the sender wants others than the usual ones. Default: the preset's.
    #[serde(default)]
    pub answers: Answers,
    /// The upstream that clean requests go to, which answers the sender: its name, or a mapping that also changes the
    /// request. Or a list of such mappings with `events`, of which the first that names the event's type counts. This or
    /// `deliver`.
    pub to: Option<OneOrMany<To>>,
    /// Acknowledge at once, deliver in the background: the sender gets its 2xx as soon as the event is durable in a
    /// queue. This or `to`.
    pub deliver: Option<DeliverMap>,
}

/// Are the sender's questions answered here?
#[derive(Debug)]
pub enum Handshake {
    /// No.
    Off,
    /// Yes.
    On,
    /// Yes, with this.
    With(Box<HandshakeMap>),
}

/// What answers to the sender's questions need besides the route's secrets.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "Handshake")]
pub struct HandshakeMap {
    /// The token that was given to the sender with the URL, and that it repeats (Meta, WebSub, Strava, Fitbit, eBay).
    /// Several while one takes the other's place: each is accepted, and where the answer is computed with it (eBay), the
    /// first counts.
    pub verify_token: Option<OneOrMany<SecretSource>>,
    /// The key that the sender encrypts with (WeCom, DingTalk).
    pub encryption_key: Option<SecretSource>,
    /// The ID of the receiving app or company (WeCom, DingTalk).
    pub app_id: Option<HeaderSource>,
    /// The public half of a pair of keys (Braintree).
    pub public_key: Option<HeaderSource>,
    /// A file that what the sender hands over is written to, a JSON object a line: the secret of a new webhook (Asana),
    /// a verification token (Notion), a URL to visit (SNS) unless `confirm` says otherwise. Relative to the configuration
    /// file, at most 64 KiB.
    pub keep: Option<String>,
    /// Visit the URL that the sender wants visited before it sends anything (SNS), once its signature holds: at the
    /// sender's own hosts alone, over TLS, without following redirects, within `fetch.timeout`.
    pub confirm: bool,
    /// Questions of a sender that has no preset, in the language of the presets. Each has `name`, `when`, `answer`.
    pub exchanges: Option<Vec<RawExchange>>,
}

/// `none`, or a scheme.
#[derive(Debug)]
pub enum Signature {
    /// Nothing is verified.
    None,
    /// A scheme of one's own.
    Own(Box<RawScheme>),
}

/// How much of what a check would refuse it refuses. Default: all.
#[derive(Clone, Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Enforce {
    /// HTTPS enforcement.
    pub https: Option<Share>,
    /// The IP allowlist, and client certificates.
    pub allow: Option<Share>,
    /// Both kinds of rate limit.
    pub rate_limit: Option<Share>,
    /// Content-Type, Content-Encoding, required headers.
    pub shape: Option<Share>,
    /// Signature and timestamp.
    pub signature: Option<Share>,
    /// Event IDs and replays.
    pub duplicates: Option<Share>,
}

/// Where a secret is: exactly one of `env`, `file` and `insecure_literal`.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretSource {
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A file. One line end at its end is not part of the secret. Relative to the configuration file.
    pub file: Option<String>,
    /// The secret itself. For local play: it is readable by everybody who can read this file.
    pub insecure_literal: Option<Hidden>,
    /// Not valid before this moment (RFC 3339).
    pub from: Option<String>,
    /// Not valid from this moment on (RFC 3339).
    pub until: Option<String>,
}

/// Where public keys are: exactly one of `env`, `file`, `value`, `jwks`, `openid` and `ask`. Read are PEM (public keys and certificates), JWK,
/// JWKS, the base64 of a DER key, and the hex or base64 of an Ed25519 key.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicKeySource {
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A file. Relative to the configuration file.
    pub file: Option<String>,
    /// The key itself: it is no secret.
    pub value: Option<String>,
    /// The `https://` URL of a set of keys (JWKS), fetched and kept fresh.
    pub jwks: Option<String>,
    /// The `https://` URL of an OpenID provider's metadata, which name a set of keys at the same host.
    pub openid: Option<String>,
    /// Ask the sender for the keys that its messages name, in the way that the preset says, with these credentials:
    /// `{client_id: {env: PLAID_CLIENT_ID}, secret: {env: PLAID_SECRET}}`.
    pub ask: Option<BTreeMap<String, HeaderSource>>,
    /// Which of the sender's hosts is asked, where it has several. Default: the one for production.
    pub host: Option<String>,
    /// What the sender calls the key, where a request says which one it was signed with.
    pub id: Option<String>,
    /// Not valid before this moment (RFC 3339).
    pub from: Option<String>,
    /// Not valid from this moment on (RFC 3339).
    pub until: Option<String>,
}

/// A text that no message may show.
pub struct Hidden(pub String);

/// A network in CIDR form or a single address, or many of them.
#[derive(Debug)]
pub enum Network {
    /// `203.0.113.0/24`.
    Cidr(String),
    /// Many.
    List(NetworkList),
}

/// Many networks: exactly one of `file` and `url`.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkList {
    /// A file with one network a line; `#` begins a comment. Relative to the configuration file.
    pub file: Option<String>,
    /// Where a list is published, `https://…`: fetched at the start and kept fresh. Only for a route's `allow`.
    pub url: Option<String>,
    /// Where the networks stand in the JSON there, for instance `/hooks/*`. Default: one network a line.
    pub json_path: Option<String>,
}

/// A rate limit: `requests` in `every`, of which `burst` may come at once.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// What is counted together: `client_ip` (IPv6: the /64), `route`, or `{header: X-Name}`.
    #[serde(default)]
    #[schemars(extend("default" = "client_ip"))]
    pub per: Per,
    /// Requests in `every`.
    #[schemars(range(min = 1))]
    pub requests: u64,
    /// The time that `requests` is counted over.
    pub every: Span,
    /// Requests that may come at once.
    #[schemars(range(min = 1), extend("x-default" = "as `requests`"))]
    pub burst: Option<u64>,
}

/// What a rate limit counts together.
#[derive(Debug, Default)]
pub enum Per {
    /// Each client address.
    #[default]
    ClientIp,
    /// The whole route.
    Route,
    /// Each value of a header.
    Header(String),
}

#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PerHeader {
    /// Name of the header.
    header: String,
}

/// Where an event's ID stands.
#[derive(Debug)]
pub enum EventId {
    /// The digest of the body is the ID.
    Body,
    /// A place in the request.
    At(EventIdPlace),
}

/// A place in a request: exactly one of these.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventIdPlace {
    /// A header.
    pub header: Option<String>,
    /// A query parameter.
    pub query: Option<String>,
    /// A field of a form body.
    pub form: Option<String>,
    /// A member of a JSON body, as a JSON Pointer (RFC 6901), for instance `/event/id`. `*` stands for every element of
    /// an array: `/events/*/id` names a batch by the IDs of all its events.
    pub json: Option<String>,
    /// An element or attribute of an XML body by its local names: `/Envelope/Body/Id`, `/a/b[1]/@type` of the first of
    /// several, `/a/b[*]/Id` of all of them.
    pub xml: Option<String>,
}

/// What is done about copies of an event.
#[derive(Debug)]
pub enum Duplicates {
    /// Nothing.
    Off,
    /// This.
    On(DuplicatesMap),
}

/// How copies of an event are told.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "Duplicates")]
pub struct DuplicatesMap {
    /// How long a delivered event is remembered. Must cover the signature's time window, and should cover the time in
    /// which the sender tries again.
    #[schemars(extend("x-default" = "the preset's, or 72h"))]
    pub remember: Option<Span>,
    /// How long an event may be on its way before a copy may take its place. With redis, a lease is renewed while its
    /// owner is alive: then this is how long a process that died holds an event.
    #[schemars(extend("x-default" = "`timeouts.total` and 30s more; 30s with redis"))]
    pub lease: Option<Span>,
    /// What happens to an event without an ID: `reject`, or `skip` (it passes and is not remembered by ID).
    #[schemars(extend("x-default" = "`skip` for a preset's own ID while `replay_guard` holds, else `reject`"))]
    pub missing: Option<Missing>,
    /// Where the signature does not cover the ID, remember what was signed as well, so that a captured request under
    /// a new ID is recognised.
    #[schemars(extend("default" = true))]
    pub replay_guard: Option<bool>,
}

/// Statuses that senders differ in.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// Failures of the signature: 400, 401, 403 or 404.
    #[schemars(extend("x-default" = "the preset's, or 401"))]
    pub unauthorized: Option<u16>,
    /// Copies of a delivered event: 200, 202, 204 or 409.
    #[schemars(extend("x-default" = "the preset's, or 200"))]
    pub duplicate: Option<u16>,
    /// Copies of an event that is still on its way: 409, 425, 429 or 503.
    #[schemars(extend("x-default" = "the preset's, or 503"))]
    pub busy: Option<u16>,
    /// Over a rate limit: 429 or 503.
    #[schemars(extend("x-default" = "the preset's, or 429"))]
    pub rate_limited: Option<u16>,
    /// Nothing can be taken now (memory, store or queue full or away): 429 or 503.
    #[schemars(extend("x-default" = "the preset's, or 503"))]
    pub overload: Option<u16>,
    /// Events that are taken without asking the backend: 200, 202 or 204.
    #[schemars(extend("x-default" = "the preset's, or 200"))]
    pub accepted: Option<u16>,
}

/// Where clean requests go.
#[derive(Debug)]
pub struct To {
    /// All about it.
    pub map: ToMap,
    /// Was it written as a bare name?
    pub bare: bool,
}

/// Where clean requests go, and what is changed for a backend that expects something else.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "To")]
pub struct ToMap {
    /// In a list: the types of events that go here. Left out in the last one, which takes the rest; without such a one
    /// the rest is acknowledged and dropped.
    pub events: Option<Vec<String>>,
    /// Name of the upstream. Left out where the events stay in a queue with `consume: false`.
    pub upstream: Option<String>,
    /// In a list below `deliver`: the name of another queue, for these events.
    pub queue: Option<String>,
    /// Path sent instead of the request's. The query is kept.
    pub path: Option<String>,
    /// What `Host` becomes: `keep`, `upstream` (its own), or this fixed name.
    #[schemars(extend("default" = "keep"))]
    pub host: Option<String>,
    /// Headers set for the backend, in place of any that came with the request.
    #[serde(default)]
    pub headers: BTreeMap<String, HeaderSource>,
    /// Headers not passed on.
    #[serde(default)]
    pub remove_headers: Vec<String>,
    /// Pass 410 on to the sender. Off, it becomes 502: senders take a 410 as "never again".
    #[serde(default)]
    pub pass_gone: bool,
}

/// Where the value of a header is: exactly one of these.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderSource {
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A file. One line end at its end is not part of the value. Relative to the configuration file.
    pub file: Option<String>,
    /// The value itself, for what is no secret.
    pub value: Option<Hidden>,
}

/// Enums that are written as a word.
macro_rules! words {
    ($($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ })+) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            const WORDS: &'static [&'static str] = &[$($word),+];
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match word(deserializer, Self::WORDS)? {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(custom("not a word that is known here", one_of(Self::WORDS))),
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match self { $(Self::$variant => $word,)+ })
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": Self::WORDS })
            }
        }
    )+};
}

words! {
    /// What plain HTTP gets.
    Https {
        /// 403.
        Reject = "reject",
        /// 308.
        Redirect = "redirect",
        /// Passes.
        Allow = "allow",
    }
    /// Whether HTTP/1.1 takes the lean way.
    FastPath {
        /// Where it can.
        Auto = "auto",
        /// Never.
        Off = "off",
    }
    /// Must a sender show a certificate?
    ClientCertificateMode {
        /// The handshake fails without.
        Required = "required",
        /// Routes decide.
        Optional = "optional",
    }
    /// Version of TLS.
    TlsVersion {
        /// 1.2 and newer.
        V12 = "TLSv1.2",
        /// 1.3.
        V13 = "TLSv1.3",
    }
    /// Form of the log.
    LogFormat {
        /// By where it goes.
        Auto = "auto",
        /// For people.
        Pretty = "pretty",
        /// For machines.
        Json = "json",
    }
    /// Which requests get a line.
    LogRequests {
        /// Every one.
        All = "all",
        /// Refused and failed ones.
        Refused = "refused",
        /// None.
        Off = "off",
    }
    /// What happens to an event without an ID.
    Missing {
        /// 400.
        Reject = "reject",
        /// Passes.
        Skip = "skip",
    }
    /// When a sender is answered.
    Mode {
        /// As soon as its event is durable.
        Queue = "queue",
        /// By the backend, if that is quick enough.
        Deadline = "deadline",
    }
    /// What becomes of events whose route is gone.
    UnknownRoutes {
        /// Dead letters.
        Dead = "dead",
        /// They wait.
        Keep = "keep",
    }
    /// What happens to a damaged file.
    IfCorrupt {
        /// No start.
        Refuse = "refuse",
        /// Renamed.
        SetAside = "set_aside",
    }
    /// What a server that throws keys away means.
    Evicting {
        /// No start.
        Refuse = "refuse",
        /// A warning.
        Warn = "warn",
    }
    /// Is readiness a matter of the store?
    Readiness {
        /// No.
        Ignore = "ignore",
        /// Yes.
        Require = "require",
    }
    /// Rate limits while the store is away.
    LimitFailure {
        /// Each process counts for itself.
        Local = "local",
        /// Nothing is counted.
        Allow = "allow",
        /// 503.
        Reject = "reject",
    }
    /// Event IDs while the store is away.
    DuplicateFailure {
        /// 503.
        Reject = "reject",
        /// Copies may get through.
        Allow = "allow",
        /// Each process remembers for itself.
        Local = "local",
    }
    /// A check that can be observed.
    Observe {
        /// HTTPS enforcement.
        Https = "https",
        /// The IP allowlist.
        Allow = "allow",
        /// Both kinds of rate limit.
        RateLimit = "rate_limit",
        /// Content-Type, Content-Encoding, required headers.
        Shape = "shape",
        /// Signature and timestamp.
        Signature = "signature",
        /// Event IDs and replays.
        Duplicates = "duplicates",
    }
}

/// Types that are written as a text or as a mapping.
macro_rules! text_or_map {
    ($($name:ident: $expected:literal, text $text:expr, map $map:ty => $from:expr, schema $schema:tt;)+) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Form;
                impl<'de> Visitor<'de> for Form {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        let read: fn(&str) -> Result<$name, (String, String)> = $text;
                        read(text).map_err(|(what, help)| custom(what, help))
                    }

                    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<$name, A::Error> {
                        let from: fn($map) -> $name = $from;
                        <$map>::deserialize(MapAccessDeserializer::new(map)).map(from)
                    }
                }
                deserializer.deserialize_any(Form)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                concat!(stringify!($name), "Form").into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let map = generator.subschema_for::<$map>();
                json_schema!({ "anyOf": [$schema, map] })
            }
        }
    )+};
}

text_or_map! {
    Admin: "an address, `off`, or a mapping with `address`",
        text |text| Ok(if text == "off" { Admin::Off } else { Admin::Address(text.to_owned()) }),
        map AdminAddress => Admin::Full,
        schema { "type": "string" };
    State: "the word `memory`, or a mapping with `memory`, `sqlite` or `redis`",
        text |text| match text {
            "memory" => Ok(State::default()),
            "sqlite" => Err(("a file without its path".into(), "write state: {sqlite: {path: data/state.db}}".into())),
            "redis" => Err(("a server without its URL".into(), "write state: {redis: {url: redis://host:6379}}".into())),
            _ => Err(only_word("memory", &[], text)),
        },
        map StateMap => State,
        schema { "const": "memory" };
    Upstream: "a URL, or a mapping with `url`",
        text |url| Ok(Upstream { map: UpstreamMap::bare(url), bare: true }),
        map UpstreamMap => |map| Upstream { map, bare: false },
        schema { "type": "string" };
    Signature: "the word `none`, or a mapping that describes a scheme",
        text |text| match text {
            "none" => Ok(Signature::None),
            _ => Err((
                "not the word `none`".into(),
                "for a preset write `provider: <id>`; for a scheme of your own write a mapping; `none` verifies nothing"
                    .into(),
            )),
        },
        map RawScheme => |spec| Signature::Own(Box::new(spec)),
        schema { "const": "none" };
    Network: "a network such as `203.0.113.0/24`, or a mapping with `file` or `url`",
        text |text| Ok(Network::Cidr(text.to_owned())),
        map NetworkList => Network::List,
        schema { "type": "string" };
    Per: "`client_ip`, `route`, or a mapping with `header`",
        text |text| match text {
            "client_ip" => Ok(Per::ClientIp),
            "route" => Ok(Per::Route),
            _ => Err(("not a word that is known here".into(), "write client_ip, route or {header: X-Name}".into())),
        },
        map PerHeader => |map| Per::Header(map.header),
        schema { "enum": ["client_ip", "route"] };
    EventId: "a place such as `header:X-Event-Id`, a mapping with `header`, `query`, `form`, `json` or `xml`, or the word `body`",
        text |text| EventId::short(text).ok_or_else(|| (
            "names no place".into(),
            "write header:X-Event-Id, query:id, form:Id, json:/event/id or xml:/event/id, or body for its digest".into(),
        )),
        map EventIdPlace => EventId::At,
        schema { "type": "string", "pattern": "^(body|(header|query|form|json|xml):.+)$" };
    Duplicates: "the word `off`, or a mapping",
        text |text| match text {
            "off" => Ok(Duplicates::Off),
            _ => Err(only_word("off", &[], text)),
        },
        map DuplicatesMap => Duplicates::On,
        schema { "const": "off" };
    To: "the name of an upstream, or a mapping with `upstream`",
        text |name| Ok(To { map: ToMap::bare(name), bare: true }),
        map ToMap => |map| To { map, bare: false },
        schema { "type": "string" };
}

impl<'de> Deserialize<'de> for Handshake {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl<'de> Visitor<'de> for Form {
            type Value = Handshake;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`true`, `false`, or a mapping such as {verify_token: {env: NAME}}")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Handshake, E> {
                Ok(if on { Handshake::On } else { Handshake::Off })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Handshake, A::Error> {
                HandshakeMap::deserialize(MapAccessDeserializer::new(map)).map(|map| Handshake::With(Box::new(map)))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Handshake {
    fn schema_name() -> Cow<'static, str> {
        "HandshakeForm".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<HandshakeMap>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, map] })
    }
}

/// One of something, or a list.
#[derive(Debug)]
pub struct OneOrMany<T> {
    /// At least as many as were written.
    pub items: Vec<T>,
    /// Was it a list? Then the places have an index.
    pub list: bool,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Form<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping, or a list of them")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(text.into_deserializer()).map(|item| OneOrMany { items: vec![item], list: false })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let item = T::deserialize(MapAccessDeserializer::new(map))?;
                Ok(OneOrMany { items: vec![item], list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                let items = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(OneOrMany { items, list: true })
            }
        }
        deserializer.deserialize_any(Form(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl JsonSchema for Hidden {
    fn schema_name() -> Cow<'static, str> {
        "Hidden".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { max_ids: 1_000_000, max_buckets: 100_000 }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { max: 20_000, max_per_address: None, http2_streams: 100, http2_requests: 1000, deny: Vec::new() }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Span::secs(10),
            header: Span::secs(10),
            body: Span::secs(30),
            idle: Span::secs(60),
            total: Span::secs(60),
            duplicate_wait: Span::secs(2),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            headers: 100,
            header_bytes: Size(32 << 10),
            uri_bytes: Size(8 << 10),
            max_body: Size(1 << 20),
            body_memory: Size(256 << 20),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { pre_stop: Span::secs(5), grace: Span::secs(20) }
    }
}

impl Default for Fetch {
    fn default() -> Self {
        Self {
            cache: None,
            refresh: Span::secs(3600),
            timeout: Span::secs(10),
            wait: Span::secs(3),
            ca: None,
            signer_ca: None,
            proxy: None,
            allow_private: Vec::new(),
            hosts: BTreeMap::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Auto, requests: LogRequests::All, sample: 1, level: "info".into() }
    }
}

impl EventId {
    /// The same short form that signature schemes have.
    fn short(text: &str) -> Option<Self> {
        if text == "body" {
            return Some(Self::Body);
        }
        let (kind, name) = text.split_once(':')?;
        let mut place = EventIdPlace { header: None, query: None, form: None, json: None, xml: None };
        let slot = match kind {
            "header" => &mut place.header,
            "query" => &mut place.query,
            "form" => &mut place.form,
            "json" => &mut place.json,
            "xml" => &mut place.xml,
            _ => return None,
        };
        *slot = Some(name.to_owned());
        Some(Self::At(place))
    }
}

impl UpstreamMap {
    fn bare(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            timeout: None,
            connect_timeout: None,
            read_timeout: None,
            idle_timeout: None,
            max_idle: None,
            concurrency: None,
            tls: None,
        }
    }
}

impl ToMap {
    fn bare(upstream: &str) -> Self {
        Self {
            events: None,
            upstream: Some(upstream.to_owned()),
            queue: None,
            path: None,
            host: None,
            headers: BTreeMap::new(),
            remove_headers: Vec::new(),
            pass_gone: false,
        }
    }
}

/// A text that is not the one word that would do.
fn only_word(known: &str, later: &[&str], written: &str) -> (String, String) {
    if later.contains(&written) {
        return ("not in this version".into(), format!("only `{known}` is built in so far"));
    }
    (format!("not the word `{known}`"), format!("write `{known}` or a mapping"))
}

/// Reads one of the words.
fn word<'de, D: Deserializer<'de>>(deserializer: D, words: &'static [&'static str]) -> Result<&'static str, D::Error> {
    struct Form(&'static [&'static str]);
    impl Visitor<'_> for Form {
        type Value = &'static str;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a word\u{1f}write {}", one_of(self.0))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<&'static str, E> {
            self.0.iter().find(|word| **word == text).copied().ok_or_else(|| {
                let help = match nearest(text, self.0) {
                    Some(meant) => format!("did you mean `{meant}`? known: {}", one_of(self.0)),
                    None => format!("write {}", one_of(self.0)),
                };
                custom("not a word that is known here", help)
            })
        }
    }
    deserializer.deserialize_any(Form(words))
}
