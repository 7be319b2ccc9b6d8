//! What a change means for a sender's chances: one table of keys, and how their values are compared.
//!
//! A false alarm is better than silence: where it cannot be told which way a rule goes ([`Rule::Unsure`]), a change
//! counts as weaker.

use super::Effect::{self, Other, Stronger, Weaker};
use super::words::{difference, elements, excerpt, measure, plain};
use crate::check::allowlist::{NetSet, parse_net};
use serde_yaml::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// How a key's values are compared. What an absent key means is known before.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// More of it lets more through; without it there is no bound.
    MoreIsWeaker,
    /// Less of it lets more through.
    LessIsWeaker,
    /// Words from strict to lax.
    Words(&'static [&'static str]),
    /// A list that opens: each element lets something through. Absent: nothing does.
    OpenList,
    /// The same, but an absent list lets everything through.
    OpenListOrAll,
    /// A list that closes: each element refuses something.
    ClosedList,
    /// Rate limits, all of which hold.
    Limits,
    /// Something that must hold: without it more passes. Another one in its place is told without a verdict.
    Guard,
    /// Nobody can tell in general: any change counts as weaker.
    Unsure,
    /// How a proof is computed.
    Algorithm,
    /// What is signed: the more, the better.
    Signed,
    /// Where something listens: the fewer can reach it, the better.
    Address,
    /// Where a connection goes, with TLS or without.
    Url,
    /// A path, or all below one.
    Path,
}

use Rule::{
    Address, Algorithm, ClosedList, Guard, LessIsWeaker, Limits, MoreIsWeaker, OpenList, OpenListOrAll, Path, Signed,
    Unsure, Url, Words,
};

const NO_YES: Rule = Words(&["false", "true"]);
const YES_NO: Rule = Words(&["true", "false"]);
const HTTPS: Rule = Words(&["reject", "redirect", "allow"]);
const FAILURE: Rule = Words(&["reject", "local", "allow"]);

/// Keys whose direction is known. `*` stands for one step, `**` for all that follow. The first that fits counts.
const RULES: &[(&str, Rule)] = &[
    ("https", HTTPS),
    ("trusted_proxies", OpenList),
    ("listen.*.address", Address),
    ("listen.*.tls", Guard),
    ("listen.*.tls.client_ca", Guard),
    ("listen.*.tls.client_certificate", Words(&["required", "optional"])),
    ("listen.*.tls.min_version", Words(&["TLSv1.3", "TLSv1.2"])),
    ("listen.*.tls.self_signed_if_missing", NO_YES),
    ("listen.*.proxy_protocol", Unsure),
    ("listen.*.proxy_protocol.from", OpenList),
    ("admin.address", Address),
    ("admin.allow_public", NO_YES),
    ("admin.token", Guard),
    ("admin.tls", Guard),
    ("state.redis.url", Url),
    ("state.redis.evicting", Words(&["refuse", "warn"])),
    ("fetch.allow_private", OpenList),
    ("fetch.signer_ca", Guard),
    ("limits.*", MoreIsWeaker),
    ("connections.max", MoreIsWeaker),
    ("connections.max_per_address", MoreIsWeaker),
    ("connections.http2_streams", MoreIsWeaker),
    ("connections.http2_requests", MoreIsWeaker),
    ("connections.deny", ClosedList),
    ("timeouts.duplicate_wait", LessIsWeaker),
    ("timeouts.*", MoreIsWeaker),
    ("upstreams.*.url", Url),
    ("upstreams.*.tls.ca", Guard),
    ("upstreams.*.tls.insecure_skip_verify", NO_YES),
    ("queues.*.url", Url),
    ("queues.*.*.url", Url),
    ("routes.*.host", Guard),
    ("routes.*.path", Path),
    ("routes.*.https", HTTPS),
    ("routes.*.client_certificates", OpenListOrAll),
    ("routes.*.allow", OpenListOrAll),
    ("routes.*.methods", OpenList),
    ("routes.*.content_types", OpenListOrAll),
    ("routes.*.content_encodings", OpenList),
    ("routes.*.required_headers", ClosedList),
    ("routes.*.variants", OpenListOrAll),
    ("routes.*.public_keys", OpenList),
    ("routes.*.claims.*", OpenListOrAll),
    ("routes.*.observe", OpenList),
    ("routes.*.max_body", MoreIsWeaker),
    ("routes.*.rate_limit", Limits),
    ("routes.*.rate_limit_verified", Limits),
    ("routes.*.handshake.verify_token", Guard),
    ("routes.*.handshake.exchanges.*.token", Guard),
    ("routes.*.handshake.exchanges.*.proof", Words(&["signature", "none"])),
    ("routes.*.handshake.exchanges.*.when", Unsure),
    ("routes.*.duplicates.remember", LessIsWeaker),
    ("routes.*.duplicates.missing", Words(&["reject", "skip"])),
    ("routes.*.duplicates.replay_guard", YES_NO),
    ("routes.*.on_failure.*", FAILURE),
    ("routes.*.signature.algorithm", Algorithm),
    ("routes.*.signature.signed", Signed),
    ("routes.*.signature.timestamp", Guard),
    ("routes.*.signature.timestamp.past", MoreIsWeaker),
    ("routes.*.signature.timestamp.future", MoreIsWeaker),
    ("routes.*.signature.timestamp.optional", NO_YES),
    ("routes.*.signature.require", ClosedList),
    ("routes.*.signature.token.algorithms", OpenList),
    ("routes.*.signature.token.require", ClosedList),
    ("routes.*.signature.token.claims", ClosedList),
    ("routes.*.signature.token.configured", ClosedList),
    ("routes.*.signature.token.leeway", MoreIsWeaker),
    ("routes.*.signature.token.max_age", MoreIsWeaker),
    ("routes.*.signature.message.require", ClosedList),
    ("routes.*.signature.message.past", MoreIsWeaker),
    ("routes.*.signature.message.future", MoreIsWeaker),
    ("routes.*.signature.message.key_id", YES_NO),
    ("routes.*.signature.**", Unsure),
];

/// A list whose elements have names, and are compared by these.
pub(super) struct NamedList {
    /// The list's path.
    at: &'static str,
    /// The key that names an element. Without it, its place does.
    pub(super) id: &'static str,
    /// The path of an element.
    pub(super) element: &'static str,
    /// What one more means.
    pub(super) added: fn(&Value) -> Effect,
    /// What one less means.
    pub(super) removed: Effect,
}

const LISTS: &[NamedList] = &[
    NamedList { at: "listen", id: "address", element: "listen.*", added: |_| Weaker, removed: Stronger },
    NamedList {
        at: "routes.*.signature.any_of",
        id: "name",
        element: "routes.*.signature",
        added: |_| Weaker,
        removed: Stronger,
    },
    NamedList {
        at: "routes.*.handshake.exchanges",
        id: "name",
        element: "routes.*.handshake.exchanges.*",
        added: |one| {
            let anyone = one.get("token").is_none() && one.get("proof").and_then(Value::as_str) == Some("none");
            if anyone { Weaker } else { Other }
        },
        removed: Other,
    },
];

/// The rule for a key.
pub(super) fn rule(path: &str) -> Option<Rule> {
    RULES.iter().find(|(pattern, _)| fits(pattern, path)).map(|(_, rule)| *rule)
}

/// The list at a key, if its elements have names.
pub(super) fn named_list(path: &str) -> Option<&'static NamedList> {
    LISTS.iter().find(|list| list.at == path)
}

/// Does a pattern stand for a path?
pub(super) fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('.'), path.split('.'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("**"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

impl Rule {
    /// What a change means, in words; empty: nothing. The values stand for themselves, `arrow` for what was written.
    pub(super) fn judge(self, was: Option<&Value>, is: Option<&Value>, arrow: String) -> Vec<(String, Effect)> {
        let effect = match self {
            MoreIsWeaker | LessIsWeaker => {
                let more = matches!(self, MoreIsWeaker);
                let absent = if more { u64::MAX } else { 0 };
                let amount = |value: Option<&Value>| value.map_or(Some(absent), |value| measure(&plain(value)));
                match (amount(was), amount(is)) {
                    (Some(before), Some(after)) if before == after => return Vec::new(),
                    (Some(before), Some(after)) => weaker_if((after > before) == more),
                    _ => Other,
                }
            }
            Words(words) => {
                let rank = |value: Option<&Value>| {
                    let value = plain(value?);
                    words.iter().position(|word| *word == value)
                };
                match (rank(was), rank(is)) {
                    (Some(before), Some(after)) => by_rank(before, after),
                    _ => Other,
                }
            }
            OpenListOrAll if was.is_some() && is.is_none() => {
                let was = was.map(plain).unwrap_or_default();
                return vec![(format!("{} → anything", excerpt(&was, 0)), Weaker)];
            }
            OpenListOrAll if was.is_none() && is.is_some() => {
                let is = is.map(plain).unwrap_or_default();
                return vec![(format!("anything → {}", excerpt(&is, 0)), Stronger)];
            }
            OpenList | OpenListOrAll => return lists(&elements(was), &elements(is), true),
            ClosedList => return lists(&elements(was), &elements(is), false),
            Limits => match (limits(was), limits(is)) {
                (Some(old), Some(new)) => match (hold(&new, &old), hold(&old, &new)) {
                    (true, true) => return Vec::new(),
                    (kept, _) => weaker_if(!kept),
                },
                _ => Other,
            },
            Guard => match (was, is) {
                (Some(_), None) => Weaker,
                (None, Some(_)) => Stronger,
                _ => Other,
            },
            Unsure => Weaker,
            Algorithm => {
                let doubt = |value: Option<&Value>| value.and_then(Value::as_str).map_or(0, doubt);
                by_rank(doubt(was), doubt(is))
            }
            Signed => {
                let (old, new) = (signed(was), signed(is));
                weaker_if(!(new.len() > old.len() && old.is_subset(&new)))
            }
            Address => match (reach(was), reach(is)) {
                (Some(before), Some(after)) => by_rank(before, after),
                _ => Other,
            },
            Url => by_rank(usize::from(is_bare(was)), usize::from(is_bare(is))),
            Path => {
                let text = |value: Option<&Value>| value.map(plain).unwrap_or_default();
                let (old, new) = (text(was), text(is));
                match (takes(&new, &old), takes(&old, &new)) {
                    (true, _) => Weaker,
                    (false, true) => Stronger,
                    (false, false) => Other,
                }
            }
        };
        vec![(arrow, effect)]
    }
}

fn weaker_if(weaker: bool) -> Effect {
    if weaker { Weaker } else { Stronger }
}

/// Ranks from strict to lax; things of one rank are only others.
fn by_rank(before: usize, after: usize) -> Effect {
    if before == after { Other } else { weaker_if(after > before) }
}

/// Lists that open or close with each element. A network inside another adds nothing to it.
fn lists(old: &[Value], new: &[Value], opens: bool) -> Vec<(String, Effect)> {
    let (added, removed) = (lacking(new, old), lacking(old, new));
    let (more, less) = (outside(&added, old), outside(&removed, new));
    let mut told = Vec::new();
    if !more.is_empty() {
        let grown = less.is_empty() && !removed.is_empty();
        let text =
            if grown { difference(&listed(&removed), &listed(&added)) } else { format!("{} added", listed(&more)) };
        told.push((text, weaker_if(opens)));
    }
    if !less.is_empty() {
        let shrunk = more.is_empty() && !added.is_empty();
        let text =
            if shrunk { difference(&listed(&removed), &listed(&added)) } else { format!("{} removed", listed(&less)) };
        told.push((text, weaker_if(!opens)));
    }
    told
}

fn listed(values: &[Value]) -> String {
    values.iter().map(plain).collect::<Vec<_>>().join(", ")
}

fn lacking(these: &[Value], those: &[Value]) -> Vec<Value> {
    these.iter().filter(|one| !those.contains(one)).cloned().collect()
}

/// Those that are no networks within the others.
fn outside(these: &[Value], those: &[Value]) -> Vec<Value> {
    let net = |value: &Value| value.as_str().and_then(|text| parse_net(text).ok());
    let whole = NetSet::new(those.iter().filter_map(net));
    let inside = |one: &Value| net(one).is_some_and(|net| NetSet::new([net]).within(&whole) == 1);
    these.iter().filter(|one| !inside(one)).cloned().collect()
}

/// A rate limit.
struct Limit {
    per: String,
    requests: u128,
    every: u128,
    burst: u128,
}

fn limits(value: Option<&Value>) -> Option<Vec<Limit>> {
    let written = elements(value);
    written.iter().map(limit).collect()
}

fn limit(value: &Value) -> Option<Limit> {
    let number = |key: &str| value.get(key).and_then(Value::as_u64).map(u128::from);
    let requests = number("requests")?;
    Some(Limit {
        per: value.get("per").map_or_else(|| "client_ip".to_owned(), plain),
        requests,
        every: u128::from(measure(value.get("every")?.as_str()?)?),
        burst: number("burst").unwrap_or(requests),
    })
}

/// Does each of those limits hold because of one of these?
fn hold(these: &[Limit], those: &[Limit]) -> bool {
    those.iter().all(|that| these.iter().any(|this| this.is_within(that)))
}

impl Limit {
    /// Whatever passes this one passes the other too. What a whole route may send, none of its clients exceeds.
    fn is_within(&self, other: &Self) -> bool {
        let per = self.per == other.per || self.per == "route";
        per && self.burst <= other.burst && self.requests * other.every <= other.requests * self.every
    }
}

/// How doubtful a scheme's proof is, with the most doubtful of several.
pub(super) fn doubt_of(scheme: &Value) -> usize {
    let own = scheme.get("algorithm").and_then(Value::as_str).map_or(0, doubt);
    let several = scheme.get("any_of").and_then(Value::as_sequence);
    several.into_iter().flatten().map(doubt_of).max().unwrap_or(0).max(own)
}

/// How doubtful an algorithm is: none, an old hash or a plain one, a broken hash, the secret itself.
fn doubt(algorithm: &str) -> usize {
    match algorithm {
        "token" | "basic" => 3,
        _ if algorithm.contains("md5") => 2,
        "sha256" | "sha512" => 1,
        _ if algorithm.contains("sha1") => 1,
        _ => 0,
    }
}

/// The parts of what is signed: `{body}`, `{header:X-Timestamp}`.
fn signed(value: Option<&Value>) -> BTreeSet<&str> {
    let text = value.and_then(Value::as_str).unwrap_or_default();
    text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).collect()
}

/// Who can reach an address: this machine, a network, anybody.
fn reach(value: Option<&Value>) -> Option<usize> {
    let address = value?.as_str()?.parse::<SocketAddr>().ok()?.ip();
    Some(if address.is_loopback() { 0 } else { 1 + usize::from(address.is_unspecified()) })
}

/// Does everything to this URL go in the clear?
fn is_bare(url: Option<&Value>) -> bool {
    let bare = ["http://", "redis://", "redis-sentinel://", "redis-cluster://", "amqp://"];
    url.and_then(Value::as_str).is_some_and(|url| bare.iter().any(|scheme| url.starts_with(*scheme)))
}

/// Does a path with `/*` take all that the other takes?
fn takes(wide: &str, narrow: &str) -> bool {
    let below = |prefix: &str| narrow.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    wide.strip_suffix("/*").is_some_and(below)
}
