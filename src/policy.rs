//! What we run on: the compiled configuration, immutable, one for each request from its first byte to its log line.
//!
//! Made only by `config::compile`. Nothing here is optional in the sense of "not set": defaults have been filled in and
//! impossible combinations refused.

mod deliver;

pub use deliver::*;

use crate::answer::Answer;
use crate::check::allowlist::{Allowlist, NetSet};
use crate::check::client_certificate::Rule;
use crate::check::duplicate::Duplicates;
use crate::check::event_type::{EventTypes, Patterns};
use crate::check::handshake::Handshakes;
use crate::check::path::RouteTable;
use crate::check::rate_limit::Limit;
use crate::check::signature::SignatureCheck;
use crate::diagnose::Subject;
use crate::port::seen::Group;
use crate::request::HeaderName;
use crate::secret::SecretBytes;
use bytes::Bytes;
use http::HeaderValue;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything a process runs on.
#[derive(Debug)]
pub struct Policy {
    /// Digest of the configuration file's text, shown in metrics and logs. Not a secret, not a security measure.
    pub version: Box<str>,
    /// Public listeners. Fixed for the life of the process.
    pub listeners: Vec<Listener>,
    /// `/metrics`, `/healthz`, `/readyz`. Fixed for the life of the process.
    pub admin: Option<SocketAddr>,
    /// Requests that the status page remembers; 0: there is no such page. Fixed for the life of the process.
    pub history: usize,
    /// Who may read there.
    pub admin_access: AdminAccess,
    /// Peers whose X-Forwarded-For, Forwarded and X-Forwarded-Proto are believed.
    pub trusted_proxies: NetSet,
    /// Deadlines towards senders.
    pub timeouts: Timeouts,
    /// Bounds of heads, bodies and memory.
    pub limits: Limits,
    /// Who may connect, and how often at once.
    pub connections: Connections,
    /// How the process ends.
    pub shutdown: Shutdown,
    /// Where seen IDs and buckets are kept.
    pub state: State,
    /// How published networks and keys are fetched.
    pub fetch: FetchSettings,
    /// Backends by index; routes refer to them.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Queues by index; routes refer to them. Fixed for the life of the process.
    pub queues: Vec<Queue>,
    /// Routes by host, path and method.
    pub routes: RouteTable,
    /// Worker threads; `None`: one for each core.
    pub workers: Option<usize>,
    /// May HTTP/1.1 take the lean way? Fixed for the life of the process.
    pub fast_path: bool,
    /// Where traces go; `None`: nothing is traced. Fixed for the life of the process.
    pub tracing: Option<Arc<Tracing>>,
    /// How events are written.
    pub log: Log,
    /// Things that are allowed but deserve a line at start, for instance a literal secret.
    pub warnings: Vec<String>,
}

impl Policy {
    /// The keys whose values could not be taken over while the process runs.
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let fixed = [
            ("listen", is_like(&self.listeners, &new.listeners)),
            ("admin", (self.admin, &self.admin_access.tls) == (new.admin, &new.admin_access.tls)),
            ("admin.history", self.history == new.history),
            ("queues", self.queues == new.queues),
            ("workers", self.workers == new.workers),
            ("fast_path", self.fast_path == new.fast_path),
            ("state", self.state.is_like(&new.state)),
            ("tracing", format!("{:?}", self.tracing) == format!("{:?}", new.tracing)),
            ("log.format", self.log.format == new.log.format),
            ("log.level", self.log.level == new.log.level),
        ];
        fixed.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }
}

/// Could the one be taken over for the other? Only whose PROXY headers are believed may differ.
fn is_like(these: &[Listener], those: &[Listener]) -> bool {
    let fixed = |listener: &Listener| (listener.address, listener.tls.clone(), listener.proxy_protocol.is_some());
    these.iter().map(fixed).eq(those.iter().map(fixed))
}

/// A public listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// Own TLS, or plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Every connection begins with a PROXY header of one of these peers; others are closed.
    pub proxy_protocol: Option<NetSet>,
}

/// Who may connect, and how often at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// Open at once altogether, as far as the limit of open files allows.
    pub max: usize,
    /// Open at once of one address (IPv6: a /64). Trusted proxies are not counted.
    pub max_per_address: Option<usize>,
    /// Closed before a byte is read.
    pub deny: NetSet,
    /// Requests at once on one HTTP/2 connection.
    pub http2_streams: u32,
    /// Requests a second that one HTTP/2 connection may begin.
    pub http2_requests: u32,
}

/// Who may read metrics, and how.
#[derive(Clone, Debug, Default)]
pub struct AdminAccess {
    /// What has to be shown; `Err` says what is missing, and then nobody may.
    pub token: Option<Result<SecretBytes, Box<str>>>,
    /// Own TLS.
    pub tls: Option<TlsFiles>,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Never empty. The first is shown to whom asks for the name of none of them.
    pub pairs: Vec<PairFiles>,
    /// Make a self-signed first pair for local play when its files do not exist.
    pub self_signed_if_missing: bool,
    /// Refuse TLS 1.2.
    pub only_tls13: bool,
    /// Ask senders for a certificate.
    pub clients: Option<ClientCertificates>,
}

/// Certificate chain and key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairFiles {
    /// Chain, leaf first.
    pub certificate: PathBuf,
    /// PKCS#8, SEC1 or PKCS#1 key.
    pub private_key: PathBuf,
}

/// How a listener asks for client certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file of the roots that issue them.
    pub ca: PathBuf,
    /// Refuse the handshake without one.
    pub required: bool,
}

/// Deadlines towards senders, each for the whole of its phase, not for a single read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the start of a connection to its first byte of HTTP: PROXY header, TLS handshake, HTTP/2 preface.
    pub handshake: Duration,
    /// From the first byte of a request to the end of its head.
    pub header: Duration,
    /// From the end of the head to the end of the body.
    pub body: Duration,
    /// Between two requests on one connection.
    pub idle: Duration,
    /// For one request altogether, the backend's part included.
    pub total: Duration,
    /// How long a copy of an event in flight waits for the first one's result.
    pub duplicate_wait: Duration,
}

/// Bounds, in bytes unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Number of header fields.
    pub headers: usize,
    /// Names and values of all header fields together.
    pub header_bytes: usize,
    /// Request target.
    pub uri_bytes: usize,
    /// Body bytes held at once by all requests together.
    pub body_memory: usize,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// Not ready but still serving, so that load balancers notice.
    pub pre_stop: Duration,
    /// The longest wait for requests in flight after that.
    pub grace: Duration,
}

/// Where seen IDs and buckets are kept. Fixed for the life of the process.
#[derive(Clone, Debug)]
pub struct State {
    /// Keys of seen events held at most in the memory of the process (an event takes one or two).
    pub max_ids: usize,
    /// Rate-limit buckets held at most in the memory of the process.
    pub max_buckets: usize,
    /// Where else.
    pub store: Store,
}

impl State {
    /// Is it the same but for passwords, which nothing may compare?
    pub fn is_like(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

/// Where seen IDs survive this process.
#[derive(Clone, Debug)]
pub enum Store {
    /// Nowhere.
    Memory,
    /// In a file.
    Sqlite(Sqlite),
    /// In Redis, with the rate limits.
    Redis(Box<Redis>),
}

/// Seen IDs in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sqlite {
    /// The file.
    pub path: PathBuf,
}

/// Seen IDs and rate limits in Redis or Valkey.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Who to ask.
    pub servers: Servers,
    /// ACL user.
    pub username: Option<Box<str>>,
    /// Its password; `Err` says what is missing.
    pub password: Option<Result<SecretBytes, Box<str>>>,
    /// ACL user of the Sentinels.
    pub sentinel_username: Option<Box<str>>,
    /// Their password; `Err` says what is missing.
    pub sentinel_password: Option<Result<SecretBytes, Box<str>>>,
    /// TLS; `None`: plain text.
    pub tls: Option<RedisTls>,
    /// For one command.
    pub timeout: Duration,
    /// For a connection.
    pub connect_timeout: Duration,
    /// What every key begins with.
    pub prefix: Box<str>,
    /// What a server that throws keys away means.
    pub evicting: Evicting,
    /// Is the process ready without it?
    pub readiness: Readiness,
}

/// How Redis is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// One server, or whatever stands behind one name.
    Single {
        /// Where.
        address: RedisAddress,
        /// Number of the database.
        database: u16,
    },
    /// A master and its replicas, watched by Sentinels.
    Sentinel {
        /// Where the Sentinels are.
        sentinels: Vec<RedisAddress>,
        /// The master's name there.
        master: Box<str>,
        /// Number of the database.
        database: u16,
    },
    /// A cluster.
    Cluster {
        /// Some of its nodes, to begin with.
        nodes: Vec<RedisAddress>,
    },
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisAddress {
    /// Name or IP address, and port.
    Host(Box<str>, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisTls {
    /// Roots to trust instead of the machine's, PEM.
    pub ca: Option<PathBuf>,
    /// Certificate and key of this client, PEM.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// What a server that throws keys away for want of memory means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicting {
    /// The process does not start.
    Refuse,
    /// A warning.
    Warn,
}

/// Is the process ready without its store?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ignore,
    /// No.
    Require,
}

/// What a route does while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnFailure {
    /// About its rate limits.
    pub rate_limit: RateLimitFailure,
    /// About event IDs.
    pub duplicates: DuplicateFailure,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { rate_limit: RateLimitFailure::Local, duplicates: DuplicateFailure::Reject }
    }
}

/// Rate limits while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimitFailure {
    /// This process counts for itself.
    Local,
    /// Nothing is counted.
    Allow,
    /// 503.
    Reject,
}

/// Event IDs while the store is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DuplicateFailure {
    /// 503, so that the sender comes again.
    Reject,
    /// Everything passes.
    Allow,
    /// This process remembers for itself.
    Local,
}

/// How published networks and keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSettings {
    /// For one fetch from the look at the name to the last byte.
    pub timeout: Duration,
    /// How often a source is asked for something new. A sender's `Cache-Control` may say later, up to a day.
    pub refresh: Duration,
    /// How long a request waits for a key that has to be fetched first.
    pub wait: Duration,
    /// Folder for the last good copies.
    pub cache: Option<PathBuf>,
    /// Roots to trust instead of the machine's, PEM.
    pub ca: Option<PathBuf>,
    /// Authorities that signers' certificates must lead to, all of them, PEM.
    pub signer_ca: Option<PathBuf>,
    /// Host and port of an HTTP proxy to go through (`CONNECT`).
    pub proxy: Option<(Box<str>, u16)>,
    /// Networks that may be fetched from though they are not public.
    pub allow_private: NetSet,
    /// Fixed addresses of hosts, in place of what their names resolve to.
    pub hosts: BTreeMap<Box<str>, Vec<(IpAddr, Option<u16>)>>,
}

/// Where traces go.
#[derive(Debug)]
pub struct Tracing {
    /// The collector.
    pub collector: Arc<Upstream>,
    /// Where it takes spans.
    pub path: Box<str>,
    /// Further fields of the requests to it.
    pub headers: Vec<(HeaderName, SecretBytes)>,
    /// One request in so many is recorded, unless a verified sender says so itself.
    pub sample: u32,
    /// What all spans have in common: `service.name` and the like.
    pub resource: Vec<(String, String)>,
}

/// How events are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// One JSON object a line, or text for people.
    pub format: LogFormat,
    /// Which requests are written.
    pub requests: LogRequests,
    /// One delivered request in so many is written. At least 1.
    pub sample: u32,
    /// Level or `tracing` filter of everything else.
    pub level: Box<str>,
}

impl Log {
    /// Which lines a request may have that was given this number by chance.
    pub fn requests_of(&self, number: u64) -> LogRequests {
        match self.requests {
            LogRequests::All if self.sample > 1 && !number.is_multiple_of(u64::from(self.sample)) => {
                LogRequests::Refused
            }
            requests => requests,
        }
    }
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For machines.
    Json,
    /// For people; coloured on a terminal.
    Pretty,
}

/// Which requests get a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRequests {
    /// Every one.
    All,
    /// Only those refused or failed.
    Refused,
    /// None.
    Off,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// As configured.
    pub name: Arc<str>,
    /// Where it is.
    pub address: UpstreamAddress,
    /// What goes into `Host` where a route asks for the upstream's.
    pub authority: HeaderValue,
    /// TLS towards the backend.
    pub tls: Option<UpstreamTls>,
    /// From the start of the connection attempt to its end, TLS included.
    pub connect_timeout: Duration,
    /// Between two reads of an answer's body. Its head has to come within `timeout`.
    pub read_timeout: Duration,
    /// For the whole exchange.
    pub timeout: Duration,
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// Unused connections that each worker keeps at most.
    pub max_idle: usize,
    /// Background deliveries at once.
    pub concurrency: usize,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// A fixed address.
    Socket(SocketAddr),
    /// A name, resolved in the background, and a port.
    Name(Box<str>, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that is asked for (SNI) and that the certificate must have.
    pub server_name: Box<str>,
    /// Roots to trust instead of the machine's, PEM.
    pub ca: Option<PathBuf>,
    /// False only where the configuration says `insecure_skip_verify`.
    pub verify: bool,
    /// Shown to a backend that asks for it.
    pub client: Option<PairFiles>,
    /// Digest of what these files held, so that other files are other settings.
    pub files: [u8; 32],
}

/// A route: what is accepted under one path, and where it goes.
#[derive(Debug)]
pub struct Route {
    /// Unique; the only name that ever becomes a metric label.
    pub name: Arc<str>,
    /// Preset that the signature came from.
    pub provider: Option<Arc<str>>,
    /// What plain HTTP gets.
    pub https: Https,
    /// Where the path also takes the methods of handshakes: those that other requests may have. Never empty.
    pub methods: Option<Vec<Box<str>>>,
    /// Networks that may send.
    pub allow: Allowlist,
    /// Limits before the signature is checked; keys may be chosen by anybody.
    pub limits_before: Vec<Limit>,
    /// Limits that only verified requests count for.
    pub limits_after: Vec<Limit>,
    /// Media types accepted, lower case, without parameters. Empty: any.
    pub content_types: Vec<Box<str>>,
    /// Content-Encodings accepted besides none. The body is never decoded.
    pub content_encodings: Vec<Box<str>>,
    /// Client certificates that may send; one rule has to hold. Empty: not asked.
    pub client_certificates: Vec<Rule>,
    /// Headers that must stand.
    pub required_headers: Vec<HeaderName>,
    /// Largest body in bytes.
    pub max_body: usize,
    /// How a request proves where it is from.
    pub authentication: Authentication,
    /// What is answered here when the sender asks whether the URL is right. `None`: the backend's matter.
    pub handshakes: Option<Box<Handshakes>>,
    /// Where the event's type stands, and which types are wanted.
    pub event_types: EventTypes,
    /// Which events count as the same, and for how long. `None`: switched off in words.
    pub duplicates: Option<Duplicates>,
    /// Keeps what belongs together in one place of a store that is spread over several servers.
    pub group: Group,
    /// What happens while the store of events and limits is away.
    pub on_failure: OnFailure,
    /// Where clean requests go.
    pub forward: Forward,
    /// Through a queue, and how. `None`: at once, and the backend answers.
    pub deliver: Option<Deliver>,
    /// Where events of some types go instead; the first that fits counts.
    pub branches: Vec<Branch>,
    /// Checks that only report.
    pub observed: Observed,
    /// Statuses that differ from the table's.
    pub answers: Answers,
    /// What a diagnosis of refused signatures needs. `None` unless the route, or the command line, asks for it.
    pub subject: Option<Box<Subject>>,
    /// What this sender understands besides statuses.
    pub manners: Manners,
}

impl Route {
    /// The branch that events of this type go by.
    pub fn branch_of(&self, event_type: Option<&str>) -> Option<usize> {
        self.branches.iter().position(|branch| branch.events.find(event_type).is_some())
    }

    /// The queue that an event waits in, by the number of its branch: an index into [`Policy::queues`].
    pub fn queue(&self, branch: Option<usize>) -> Option<usize> {
        let own = branch.and_then(|index| self.branches.get(index)?.queue);
        own.or(Some(self.deliver.as_ref()?.queue))
    }

    /// Every upstream that its events go to, each once, the one of most events first.
    pub fn upstreams(&self) -> Vec<usize> {
        let mut upstreams = vec![self.forward.upstream];
        for branch in &self.branches {
            if !upstreams.contains(&branch.forward.upstream) {
                upstreams.push(branch.forward.upstream);
            }
        }
        upstreams
    }

    /// Where an event goes, by the number of its branch.
    pub fn forward(&self, branch: Option<usize>) -> &Forward {
        branch.and_then(|index| self.branches.get(index)).map_or(&self.forward, |branch| &branch.forward)
    }
}

/// Where events of some types go.
#[derive(Clone, Debug)]
pub struct Branch {
    /// The types.
    pub events: Patterns,
    /// Where.
    pub forward: Forward,
    /// Through another queue than the rest: an index into [`Policy::queues`].
    pub queue: Option<usize>,
}

/// What a sender understands besides statuses; data of its preset.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// How soon it wants its answer.
    pub deadline: Option<Duration>,
    /// The body of an answer that says "taken", where it wants a certain one.
    pub success: Option<(HeaderValue, Bytes)>,
    /// Fields that tell it not to send this request again.
    pub no_retry: Vec<(Box<str>, Box<str>)>,
    /// A refused signature is answered without a body.
    pub empty_unauthorized: bool,
}

impl Manners {
    /// Tells the sender that its event was taken, with this status. The one place for all such answers of our own: what
    /// is not wanted, what was delivered before, what is safe in a queue.
    pub fn acknowledge(&self, status: u16) -> Answer {
        let answer = Answer::new(status);
        match &self.success {
            Some((kind, body)) if status != 204 => {
                let kind = String::from_utf8_lossy(kind.as_bytes()).into_owned();
                Answer { body: body.clone(), ..answer.with("content-type", kind) }
            }
            _ => answer,
        }
    }
}

/// How a request proves where it is from.
#[derive(Debug)]
pub enum Authentication {
    /// A signature or shared secret.
    Signature(Box<SignatureCheck>),
    /// Wanted, but there is no usable secret: the route answers 503 (promise 5). Says what is missing.
    NoSecret(Box<str>),
    /// Switched off in words (`signature: none`).
    None,
}

/// What plain HTTP gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Https {
    /// 403.
    Reject,
    /// 308 to the same URL under https.
    Redirect,
    /// Passes.
    Allow,
}

/// Where clean requests go, and how they are changed for a backend that expects something else.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Index into [`Policy::upstreams`].
    pub upstream: usize,
    /// Path sent instead of the request's. The query is kept.
    pub path: Option<Box<str>>,
    /// What `Host` becomes.
    pub host: HostHeader,
    /// Headers set, in place of any that came with the request.
    pub set_headers: Vec<(HeaderName, SecretBytes)>,
    /// Headers not forwarded.
    pub remove_headers: Vec<HeaderName>,
    /// Pass 410 on. Off by default: 410 makes senders remove the endpoint.
    pub pass_gone: bool,
}

impl Forward {
    /// For events that stay in their queue: no backend has this number.
    pub fn nowhere() -> Self {
        Self {
            upstream: usize::MAX,
            path: None,
            host: HostHeader::Keep,
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
            pass_gone: false,
        }
    }
}

/// What `Host` becomes on the way to the backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostHeader {
    /// As the sender wrote it.
    Keep,
    /// The upstream's own.
    Upstream,
    /// A fixed value.
    Fixed(HeaderValue),
}

/// Checks of a route that can be observed instead of enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Observable {
    /// HTTPS enforcement.
    Https,
    /// IP allowlist.
    Allow,
    /// Both kinds of rate limit.
    RateLimit,
    /// Content-Type, Content-Encoding, required headers.
    Shape,
    /// Signature and timestamp.
    Signature,
    /// Event IDs and replays.
    Duplicates,
}

/// How much of what each check would refuse it only observes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Percent of the requests, by check.
    shares: [u8; 6],
}

impl Observed {
    /// The check only observes that many of a hundred requests.
    #[must_use]
    pub fn with(mut self, check: Observable, percent: u8) -> Self {
        if let Some(share) = self.shares.get_mut(check as usize) {
            *share = percent.min(100);
        }
        self
    }

    /// Does the check refuse nothing at all?
    pub fn has(self, check: Observable) -> bool {
        self.share(check) == 100
    }

    /// Does the check only observe a request with this [draw](crate::check::ramp::draw)?
    pub fn lets_pass(self, check: Observable, draw: u8) -> bool {
        // What is refused at a tenth is still refused at a half.
        draw >= 100 - self.share(check)
    }

    /// Does it depend on the request?
    pub fn is_ramped(self) -> bool {
        self.shares.iter().any(|share| !matches!(share, 0 | 100))
    }

    fn share(self, check: Observable) -> u8 {
        self.shares.get(check as usize).copied().unwrap_or_default()
    }
}

/// Statuses that a preset or route may choose, since senders differ in what they make of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// All failures of a signature: 401.
    pub unauthorized: u16,
    /// Duplicates and replays of a delivered event: 200.
    pub duplicate: u16,
    /// A copy of an event still in flight: 503, 429 or 409.
    pub busy: u16,
    /// Over a limit: 429, or 503 for senders that lose events on 429.
    pub rate_limited: u16,
    /// Nothing can be taken now: 503, or 429 for senders that lose events on 503.
    pub overload: u16,
    /// Events that are taken without the backend's word: 200, 202 or 204.
    pub accepted: u16,
}

impl Default for Answers {
    fn default() -> Self {
        Self { unauthorized: 401, duplicate: 200, busy: 503, rate_limited: 429, overload: 503, accepted: 200 }
    }
}
