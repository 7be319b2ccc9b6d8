//! `queues:` and `deliver:`: where acknowledged events wait, and how they are delivered in the background.

use super::brokers::{RabbitMqMap, SqsMap};
use super::compile::{Around, Compiler};
use super::destinations::Destinations;
use super::place::Place;
use super::problem::{custom, nearest, one_of};
use super::raw;
use super::secrets::Origin;
use super::units::{Size, Span, duration};
use crate::check::signature::StandardKey;
use crate::check::source::Source;
use crate::policy::{
    Deliver, DeliverMode, Forward, OrderKey, Queue, QueueEngine, Retry, SqliteFile, Statuses, UnknownRoutes,
};
use crate::provider::Provider;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize as De;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A durable queue: exactly one engine.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Queue")]
pub struct QueueMap {
    /// In a file on a local disk; for one process. Needs nothing else.
    pub sqlite: Option<SqliteMap>,
    /// At a RabbitMQ broker; for many processes.
    pub rabbitmq: Option<RabbitMqMap>,
    /// In AWS SQS; for many processes.
    pub sqs: Option<SqsMap>,
    /// The name of another queue, for events that are too large for this one. Without it they get 413.
    pub too_large: Option<String>,
    /// What becomes of events whose route is not in the configuration any more: `dead` (dead letters, which can be
    /// replayed) or `keep` (they wait for the route to come back).
    #[schemars(extend("default" = "dead"))]
    pub unknown_routes: Option<raw::UnknownRoutes>,
    /// The process is not ready (`/readyz`) while this queue cannot store anything. Off: only its own routes answer 503.
    #[serde(default)]
    pub fails_readiness: bool,
}

impl QueueMap {
    /// Are its events delivered from here?
    fn hands_out(&self) -> bool {
        self.rabbitmq.as_ref().is_none_or(|map| map.consume) && self.sqs.as_ref().is_none_or(|map| map.consume)
    }
}

/// A queue in a SQLite file.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "QueueFile")]
pub struct SqliteMap {
    /// The file, made when missing, with its folder. On a local disk that survives the container. Relative to the
    /// configuration file. `state` may keep its event IDs in the same file: then an event and its ID become durable in
    /// one step.
    pub path: String,
    /// Events held at most, dead letters included. Over it, senders get 503 and come again.
    #[serde(default = "max_events")]
    #[schemars(range(min = 1))]
    pub max_events: u64,
    /// Their bytes, roughly.
    #[serde(default = "max_bytes")]
    pub max_bytes: Size,
    /// Bytes that stay free on the file system. With less, senders get 503.
    #[serde(default = "min_free")]
    pub min_free: Size,
    /// What happens at start with a file that is damaged: `refuse` to start, or `set_aside` (rename it, and begin with an
    /// empty one: what was in it is not delivered until somebody looks at it).
    #[schemars(extend("default" = "refuse"))]
    pub if_corrupt: Option<raw::IfCorrupt>,
}

/// Acknowledge at once, deliver in the background.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "Deliver")]
pub struct DeliverMap {
    /// Name of the queue.
    pub queue: String,
    /// Where the events go: the name of an upstream, or a mapping that also changes the request, or a list of mappings
    /// with `events`, as `to` of the route. Left out where the queue has `consume: false`.
    pub to: Option<raw::OneOrMany<raw::To>>,
    /// When the sender is answered. `queue`: as soon as its event is durable. `deadline`: by the backend, unless that
    /// takes too long for the sender; then as soon as the event is durable, and the attempt that runs may still settle
    /// it.
    #[schemars(extend("default" = "queue"))]
    pub mode: Option<raw::Mode>,
    /// For `mode: deadline`: how soon the sender wants its answer.
    #[schemars(extend("x-default" = "the preset's"))]
    pub deadline: Option<Span>,
    /// For `mode: deadline`: this much before the deadline the event is queued.
    #[schemars(extend("x-default" = "a fifth of the deadline, at least 300ms"))]
    pub margin: Option<Span>,
    /// Deliver one after the other, in the order of arrival: `route` (all of the route), or a place such as
    /// `json:/customer/id` whose value names what belongs together. An event that fails holds back those behind it until
    /// it is through or given up.
    pub order: Option<Order>,
    /// How attempts follow each other, and when they end.
    #[serde(default)]
    pub retry: RetryMap,
    /// Sign every attempt with a Standard Webhooks key, so that the backend verifies one scheme whatever its senders
    /// use: the headers webhook-id, webhook-timestamp and webhook-signature.
    pub sign: Option<SignMap>,
}

/// How attempts follow each other, and when they end.
#[derive(Debug, Default, De, JsonSchema)]
#[serde(deny_unknown_fields, default, rename = "Retry")]
pub struct RetryMap {
    /// For one attempt, all of the exchange with the backend.
    #[schemars(extend("x-default" = "as the upstream's `timeout`"))]
    pub timeout: Option<Span>,
    /// Wait after the first failure. It doubles with each one, and chance takes up to a half off.
    #[schemars(extend("default" = "2s"))]
    pub first: Option<Span>,
    /// Longest wait.
    #[schemars(extend("default" = "1h"))]
    pub longest: Option<Span>,
    /// A backend's Retry-After is honoured up to here.
    #[schemars(extend("default" = "1h"))]
    pub retry_after: Option<Span>,
    /// Attempts altogether; then the event becomes a dead letter.
    #[schemars(range(min = 1, max = 100_000), extend("default" = 100))]
    pub max_attempts: Option<u32>,
    /// Age after which an event becomes a dead letter, counted from its arrival.
    #[schemars(extend("default" = "72h"))]
    pub max_age: Option<Span>,
    /// Statuses by which the backend says that it will never take the event: it becomes a dead letter at once. Numbers,
    /// or `4xx` for all of them but 408, 425 and 429.
    #[schemars(extend("x-default" = "[410, 413, 415, 422]"))]
    pub give_up: Option<Vec<StatusSet>>,
}

/// The key that attempts are signed with: exactly one of these.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields, rename = "DeliverSign")]
pub struct SignMap {
    /// `whsec_` and base64: where it is.
    pub secret: SignSecret,
}

/// Where a key is: exactly one of `env` and `file`.
#[derive(Debug, De, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignSecret {
    /// Name of an environment variable.
    pub env: Option<String>,
    /// A file. One line end at its end is not part of the key. Relative to the configuration file.
    pub file: Option<String>,
}

/// What events are delivered one after the other by.
#[derive(Debug)]
pub enum Order {
    /// All of the route.
    Route,
    /// Those with the same value there.
    Value(Source),
}

/// A status, or all of a class.
#[derive(Debug, Clone, Copy)]
pub enum StatusSet {
    /// One.
    One(u16),
    /// `4xx`.
    ClientErrors,
}

fn max_events() -> u64 {
    1_000_000
}

fn max_bytes() -> Size {
    Size(10 << 30)
}

fn min_free() -> Size {
    Size(256 << 20)
}

impl<'de> Deserialize<'de> for Order {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Form;
        impl Visitor<'_> for Form {
            type Value = Order;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the word `route`, or a place such as `json:/customer/id`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Order, E> {
                if text == "route" {
                    return Ok(Order::Route);
                }
                Source::parse(text).map(Order::Value).map_err(|what| custom(what, "write route or json:/customer/id"))
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for Order {
    fn schema_name() -> Cow<'static, str> {
        "Order".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(route|(header|query|form|json|xml):.+)$" })
    }
}

impl<'de> Deserialize<'de> for StatusSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const HELP: &str = "write a status from 400 to 599, or 4xx";
        struct Form;
        impl Visitor<'_> for Form {
            type Value = StatusSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status, or the word `4xx`")
            }

            fn visit_u64<E: de::Error>(self, status: u64) -> Result<StatusSet, E> {
                match u16::try_from(status) {
                    Ok(status @ 400..=599) => Ok(StatusSet::One(status)),
                    _ => Err(custom("not a status of a failure", HELP)),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusSet, E> {
                if text == "4xx" { Ok(StatusSet::ClientErrors) } else { Err(custom("not a set of statuses", HELP)) }
            }
        }
        deserializer.deserialize_any(Form)
    }
}

impl JsonSchema for StatusSet {
    fn schema_name() -> Cow<'static, str> {
        "StatusSet".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 400, "maximum": 599 }, { "const": "4xx" }] })
    }
}

/// Below this an attempt is hardly one.
const LEAST: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_secs(86_400);

impl Compiler<'_> {
    pub(super) fn queues<'c>(&mut self, raw: &'c BTreeMap<String, QueueMap>) -> (Vec<Queue>, HashMap<&'c str, usize>) {
        let (mut queues, mut names) = (Vec::new(), HashMap::new());
        let mut paths = HashMap::new();
        for (name, one) in raw {
            let at = Place::default().key("queues").key(name);
            if !super::compile::is_name(name) {
                self.wrong(&at, "not a name", "use letters, digits, `-`, `_` and `.`, at most 64");
            }
            let Some(engine) = self.engine(name, one, &at) else { continue };
            if let QueueEngine::Sqlite(file) = &engine
                && let Some(other) = paths.insert(file.path.clone(), name)
            {
                let what = format!("the file of queue {other}");
                self.wrong(&at.key("sqlite").key("path"), what, "give each queue a file of its own");
            }
            names.insert(name.as_str(), queues.len());
            let too_large = self.too_large(name, one, raw, &at.key("too_large"));
            queues.push(Queue {
                too_large,
                name: name.as_str().into(),
                engine,
                unknown_routes: match one.unknown_routes {
                    None | Some(raw::UnknownRoutes::Dead) => UnknownRoutes::Dead,
                    Some(raw::UnknownRoutes::Keep) => UnknownRoutes::Keep,
                },
                fails_readiness: one.fails_readiness,
            });
        }
        (queues, names)
    }

    fn engine(&mut self, name: &str, raw: &QueueMap, at: &Place) -> Option<QueueEngine> {
        let sqlite = match (&raw.sqlite, &raw.rabbitmq, &raw.sqs) {
            (Some(sqlite), None, None) => sqlite,
            (None, Some(rabbitmq), None) => {
                let settings = self.rabbitmq(name, rabbitmq, &at.key("rabbitmq"))?;
                return Some(QueueEngine::RabbitMq(Box::new(settings)));
            }
            (None, None, Some(sqs)) => {
                return Some(QueueEngine::Sqs(Box::new(self.sqs(name, sqs, &at.key("sqs")))));
            }
            (None, None, None) => {
                let help = "say where events are kept, for instance {sqlite: {path: data/inbox.db}}";
                self.wrong(at, "a queue without an engine", help);
                return None;
            }
            _ => {
                self.wrong(at, "a queue with several engines", "keep one of sqlite, rabbitmq and sqs");
                return None;
            }
        };
        let at = at.key("sqlite");
        if sqlite.path.trim().is_empty() {
            self.wrong(&at.key("path"), "no file", "write a path, for instance data/inbox.db");
        }
        if sqlite.max_events == 0 {
            self.wrong(&at.key("max_events"), "too small", "write at least 1");
        }
        self.size(sqlite.max_bytes, Size(1 << 20), Size(1 << 50), &at.key("max_bytes"));
        self.size(sqlite.min_free, Size(0), Size(1 << 50), &at.key("min_free"));
        Some(QueueEngine::Sqlite(SqliteFile {
            path: self.world.output(&sqlite.path),
            max_events: sqlite.max_events,
            max_bytes: sqlite.max_bytes.0 as u64,
            min_free: sqlite.min_free.0 as u64,
            set_aside: sqlite.if_corrupt == Some(raw::IfCorrupt::SetAside),
        }))
    }

    /// The queue for what is too large for this one. It has none of its own: nothing goes round in circles.
    fn too_large(
        &mut self,
        name: &str,
        one: &QueueMap,
        all: &BTreeMap<String, QueueMap>,
        at: &Place,
    ) -> Option<Arc<str>> {
        let wanted = one.too_large.as_deref()?;
        let known: Vec<&str> = all.keys().map(String::as_str).filter(|known| *known != name).collect();
        match all.get(wanted) {
            _ if wanted == name => self.wrong(at, "the queue itself", "name another queue"),
            None => {
                let help = match nearest(wanted, &known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "add it under `queues`, for instance {sqlite: {path: data/large.db}}".into(),
                };
                self.wrong(at, "no queue has this name", help);
            }
            Some(other) if other.too_large.is_some() => {
                self.wrong(at, "a queue that passes events on itself", "name a queue without `too_large`");
            }
            Some(other) if other.hands_out() != one.hands_out() => {
                let help = "both deliver from here, or both have `consume: false`";
                self.wrong(at, "one of the two queues is for consumers of your own", help);
            }
            Some(_) => {}
        }
        Some(wanted.into())
    }

    /// Where a route's clean requests go, at once or through a queue.
    pub(super) fn destination(
        &mut self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        around: &Around<'_>,
        at: &Place,
    ) -> Option<(Destinations, Option<Deliver>)> {
        let Some(deliver) = &raw.deliver else {
            return Some((self.destinations(raw.to.as_ref(), around, None, &at.key("to"))?, None));
        };
        let at_deliver = at.key("deliver");
        if raw.to.is_some() {
            let help = "keep `to` (verify and forward) or `deliver` (acknowledge, then deliver in the background)";
            self.wrong(&at.key("to"), "stands beside `deliver`, which says where events go itself", help);
        }
        let destinations = if deliver.to.is_none() && !self.hands_out(&deliver.queue, around) {
            Some(Destinations::nowhere())
        } else {
            self.destinations(deliver.to.as_ref(), around, Some(&deliver.queue), &at_deliver.key("to"))
        };
        let others = deliver.to.iter().flat_map(|to| &to.items).filter_map(|to| to.map.queue.as_ref());
        let names: BTreeSet<&String> = others.chain([&deliver.queue]).collect();
        for queue in names.into_iter().filter_map(|name| around.config.queues.get(name)) {
            self.able(deliver, queue, &at_deliver);
        }
        let rest_queue = destinations.as_ref().and_then(|destinations| destinations.rest_queue);
        let forward = destinations.as_ref().map(|destinations| &destinations.forward);
        let mut deliver = self.deliver(deliver, provider, around, forward, &at_deliver)?;
        deliver.queue = rest_queue.unwrap_or(deliver.queue);
        Some((destinations?, Some(deliver)))
    }

    /// Are events of this queue delivered from here? One that is not there is told elsewhere.
    pub(super) fn hands_out(&self, name: &str, around: &Around<'_>) -> bool {
        around.config.queues.get(name).is_none_or(QueueMap::hands_out)
    }

    fn deliver(
        &mut self,
        raw: &DeliverMap,
        provider: Option<&Provider>,
        around: &Around<'_>,
        forward: Option<&Forward>,
        at: &Place,
    ) -> Option<Deliver> {
        let queue = self.queue_index(&raw.queue, around, &at.key("queue"));
        let mode = self.mode(raw, provider, around, at);
        let retry = self.retry(&raw.retry, forward, around, &at.key("retry"));
        let order = raw.order.as_ref().map(|order| match order {
            Order::Route => OrderKey::Route,
            Order::Value(source) => OrderKey::Value(source.clone()),
        });
        let sign = raw.sign.as_ref().and_then(|sign| self.sign(sign, &at.key("sign").key("secret")));
        Some(Deliver { queue: queue?, mode, order, retry, sign })
    }

    /// Can the queue's engine do what the route wants of it?
    fn able(&mut self, deliver: &DeliverMap, queue: &QueueMap, at: &Place) {
        let fifo = queue.sqs.as_ref().is_some_and(|sqs| sqs.queue.ends_with(".fifo"));
        if deliver.order.is_some() && (queue.rabbitmq.is_some() || (queue.sqs.is_some() && !fifo)) {
            let help = "use a queue in SQLite or a FIFO queue of SQS, or remove `order`";
            self.wrong(&at.key("order"), "the queue keeps no order", help);
        }
        let deadline = deliver.mode == Some(raw::Mode::Deadline);
        if deadline && (fifo || !queue.hands_out()) {
            let what = if fifo { "a FIFO queue holds nothing back" } else { "nothing is delivered from this queue" };
            self.wrong(&at.key("mode"), what, "remove it, or name another queue");
        }
        if deliver.sign.is_some() && !queue.hands_out() {
            self.wrong(&at.key("sign"), "nothing is delivered from this queue", "remove it");
        }
    }

    pub(super) fn queue_index(&mut self, name: &str, around: &Around<'_>, at: &Place) -> Option<usize> {
        if let Some(index) = around.queues.get(name) {
            return Some(*index);
        }
        let root = Place::default().key("queues");
        let known: Vec<&str> = around.config.queues.keys().map(String::as_str).collect();
        if !known.contains(&name) && !self.is_damaged(&root) {
            let help = match (nearest(name, &known), known.is_empty()) {
                (Some(meant), _) => format!("did you mean `{meant}`?"),
                (None, true) => format!("add it: queues: {{{name}: {{sqlite: {{path: data/{name}.db}}}}}}"),
                (None, false) => format!("known: {}; or add it under `queues`", one_of(&known)),
            };
            self.wrong(at, "no queue has this name", help);
        }
        None
    }

    fn mode(&mut self, raw: &DeliverMap, provider: Option<&Provider>, around: &Around<'_>, at: &Place) -> DeliverMode {
        if raw.mode != Some(raw::Mode::Deadline) {
            for (key, there) in [("deadline", raw.deadline.is_some()), ("margin", raw.margin.is_some())] {
                if there {
                    self.wrong(&at.key(key), "is for `mode: deadline`", "add that, or remove this");
                }
            }
            return DeliverMode::Queue;
        }
        let preset = provider.and_then(|provider| provider.ack_deadline);
        let Some(deadline) = raw.deadline.map(|span| span.0).or(preset) else {
            let help = "add `deadline: …`, how soon the sender wants its answer: its documentation says";
            self.wrong(&at.key("mode"), "the sender's deadline is not known", help);
            return DeliverMode::Queue;
        };
        if let Some(span) = raw.deadline {
            self.within(span, Duration::from_millis(200), DAY, &at.key("deadline"));
        }
        let margin = raw.margin.map_or((deadline / 5).max(Duration::from_millis(300)), |span| span.0);
        let place = if raw.margin.is_some() { at.key("margin") } else { at.key("deadline") };
        let wait = deadline.saturating_sub(margin);
        if wait.is_zero() {
            let what = format!("the margin leaves nothing of the deadline, {}", duration(deadline));
            self.wrong(&place, what, "make the margin shorter");
        }
        if wait >= around.timeouts.total {
            let what = format!("longer than `timeouts.total`, {}", duration(around.timeouts.total));
            self.wrong(&at.key("mode"), what, "raise timeouts.total, or set a shorter `deadline`");
        }
        if raw.order.is_some() {
            let help = "remove one of the two: an event that is forwarded at once overtakes those that wait";
            self.wrong(&at.key("order"), "not together with `mode: deadline`", help);
        }
        DeliverMode::Deadline(wait)
    }

    fn retry(&mut self, raw: &RetryMap, forward: Option<&Forward>, around: &Around<'_>, at: &Place) -> Retry {
        let default = Retry::default();
        let upstream = forward.and_then(|forward| around.upstream_timeout(forward.upstream));
        let month = DAY * 31;
        let mut take = |key: &str, span: Option<Span>, default: Duration, most: Duration| {
            if let Some(span) = span {
                self.within(span, LEAST, most, &at.key(key));
            }
            span.map_or(default, |span| span.0)
        };
        let timeout = take("timeout", raw.timeout, upstream.unwrap_or(default.timeout), DAY / 24);
        let longest = take("longest", raw.longest, default.longest, DAY);
        let retry = Retry {
            timeout,
            first: take("first", raw.first, default.first.min(longest), DAY),
            longest,
            retry_after: take("retry_after", raw.retry_after, default.retry_after, DAY),
            max_age: take("max_age", raw.max_age, default.max_age, month),
            max_attempts: raw.max_attempts.unwrap_or(default.max_attempts),
            give_up: match &raw.give_up {
                None => default.give_up,
                Some(sets) => Statuses(sets.iter().flat_map(|set| set.ranges()).collect()),
            },
        };
        if let (Some(timeout), Some(upstream)) = (raw.timeout, upstream)
            && timeout.0 > upstream
        {
            let what = format!("longer than the upstream's `timeout`, {}", duration(upstream));
            self.wrong(&at.key("timeout"), what, "the exchange ends at the shorter of the two: raise the upstream's");
        }
        if retry.first > retry.longest {
            let what = format!("longer than `longest`, {}", duration(retry.longest));
            self.wrong(&at.key("first"), what, "begin with a shorter wait, or raise `longest`");
        }
        if !(1..=100_000).contains(&retry.max_attempts) {
            self.wrong(&at.key("max_attempts"), "out of range", "write something from 1 to 100000");
        }
        retry
    }

    fn sign(&mut self, raw: &SignMap, at: &Place) -> Option<StandardKey> {
        let origin = Origin { env: raw.secret.env.as_deref(), file: raw.secret.file.as_deref(), literal: None };
        // A key that is missing is told by `missing_sign_key`: the route answers 503.
        let (bytes, _) = self.find(origin, at)?.ok()?;
        match StandardKey::new(&bytes) {
            Ok(key) => Some(key),
            Err(what) => {
                let help = "make one: printf 'whsec_%s' \"$(head -c 32 /dev/urandom | base64)\"";
                self.wrong(at, what, help);
                None
            }
        }
    }

    /// Events that the backend could not verify must not be accepted.
    pub(super) fn missing_sign_key(&mut self, raw: &raw::Route, at: &Place) -> Option<String> {
        use super::secrets::Found;
        let secret = &raw.deliver.as_ref()?.sign.as_ref()?.secret;
        let origin = Origin { env: secret.env.as_deref(), file: secret.file.as_deref(), literal: None };
        let Ok(Found::Missing(what)) = origin.find(self.world) else { return None };
        let help = "the route answers 503 and the process is not ready until a restart or reload finds it";
        self.warn(&at.key("deliver").key("sign").key("secret"), &what, help);
        Some(format!("key that attempts are signed with: {what}"))
    }

    /// What a queue is good for needs event IDs that are remembered for as long as the queue holds events.
    pub(super) fn unused_queues(&mut self, config: &raw::Config) {
        for name in config.queues.keys() {
            let names = |deliver: &DeliverMap| {
                let others = deliver.to.iter().flat_map(|to| &to.items);
                deliver.queue == *name || others.filter_map(|to| to.map.queue.as_ref()).any(|other| other == name)
            };
            let used = config.routes.iter().any(|route| route.deliver.as_ref().is_some_and(names))
                || config.queues.values().any(|queue| queue.too_large.as_deref() == Some(name));
            if !used && !self.has_damage(&Place::default().key("routes")) {
                self.warn(
                    &Place::default().key("queues").key(name),
                    "no route delivers through it",
                    "remove it, or name it in a route's `deliver`; events that are left in it are delivered meanwhile",
                );
            }
        }
    }
}

impl StatusSet {
    fn ranges(self) -> Vec<(u16, u16)> {
        match self {
            Self::One(status) => vec![(status, status)],
            // 408, 425 and 429 ask for another try.
            Self::ClientErrors => vec![(400, 407), (409, 424), (426, 428), (430, 499)],
        }
    }
}
