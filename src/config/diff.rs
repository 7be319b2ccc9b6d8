//! What a new configuration changes, in words, for whoever has to approve it: routes that come and go, and above all
//! every check that becomes weaker.
//!
//! Both texts are compared as they were written, key by key, so that a key added tomorrow is told of without anybody
//! thinking of it here. What a change means for the sender's chances is in one table, [`RULES`]; a change that the table
//! does not know is told without a verdict.

use super::units::{Share, Size, Span};
use serde::Serialize;
use serde_yaml::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Does a change let more through?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Something that was refused may pass.
    Weaker,
    /// Something that passed may be refused.
    Stronger,
    /// Another route, or another rule in place of one; look at it.
    Other,
}

/// One thing that is different.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The route, upstream or queue; empty for what concerns all of them.
    pub subject: String,
    /// The key below it: `signature.timestamp.past`.
    pub key: String,
    /// What happens, in words.
    pub what: String,
    /// For the checks.
    pub effect: Effect,
}

/// How a key's values are compared.
#[derive(Clone, Copy)]
enum Rule {
    /// More of it lets more through. The second value is what an absent key means.
    MoreIsWeaker(&'static str),
    /// Less of it lets more through.
    LessIsWeaker(&'static str),
    /// Words from strict to lax; the first is the default.
    Words(&'static [&'static str]),
    /// A list that opens: each element lets something through. Absent: nothing does.
    OpenList,
    /// The same, but an absent list lets everything through.
    OpenListOrAll,
    /// A list that closes: each element refuses something.
    ClosedList,
    /// A list of rules: fewer of them, or none, lets more through; a changed one is shown.
    Conditions,
}

use Rule::{ClosedList, Conditions, LessIsWeaker, MoreIsWeaker, OpenList, OpenListOrAll, Words};

const NO_YES: Rule = Words(&["false", "true"]);
const YES_NO: Rule = Words(&["true", "false"]);

/// Keys whose direction is known. `*` stands for one step. The first that fits counts.
const RULES: &[(&str, Rule)] = &[
    ("https", Words(&["reject", "redirect", "allow"])),
    ("routes.*.https", Words(&["reject", "redirect", "allow"])),
    ("trusted_proxies", OpenList),
    ("admin.allow_public", NO_YES),
    ("fetch.allow_private", OpenList),
    ("limits.*", MoreIsWeaker("")),
    ("connections.max", MoreIsWeaker("20000")),
    ("connections.max_per_address", MoreIsWeaker("10000000")),
    ("connections.http2_streams", MoreIsWeaker("100")),
    ("connections.http2_requests", MoreIsWeaker("1000")),
    ("connections.deny", ClosedList),
    ("routes.*.client_certificates", OpenListOrAll),
    ("timeouts.duplicate_wait", LessIsWeaker("2s")),
    ("timeouts.*", MoreIsWeaker("")),
    ("routes.*.allow", OpenListOrAll),
    ("routes.*.methods", OpenList),
    ("routes.*.content_types", OpenListOrAll),
    ("routes.*.content_encodings", OpenList),
    ("routes.*.required_headers", ClosedList),
    ("routes.*.variants", OpenListOrAll),
    ("routes.*.observe", OpenList),
    ("routes.*.max_body", MoreIsWeaker("1MiB")),
    ("routes.*.rate_limit", Conditions),
    ("routes.*.rate_limit_verified", Conditions),
    ("routes.*.signature.timestamp.past", MoreIsWeaker("5m")),
    ("routes.*.signature.timestamp.future", MoreIsWeaker("5m")),
    ("routes.*.signature.timestamp.optional", NO_YES),
    ("routes.*.signature.require", Conditions),
    ("routes.*.duplicates.remember", LessIsWeaker("")),
    ("routes.*.duplicates.missing", Words(&["reject", "skip"])),
    ("routes.*.duplicates.replay_guard", YES_NO),
    ("routes.*.on_failure", Words(&["reject", "local", "allow"])),
    ("routes.*.on_failure.*", Words(&["reject", "local", "allow"])),
    ("upstreams.*.tls.insecure_skip_verify", NO_YES),
];

/// What is different between two configuration texts, the weaker things first. Both must be valid YAML; that they are
/// valid configurations is for [`super::load`] to say.
pub fn diff(old: &str, new: &str) -> Result<Vec<Change>, serde_yaml::Error> {
    let read = |text: &str| -> Result<Value, serde_yaml::Error> {
        let mut value: Value = serde_yaml::from_str(text)?;
        value.apply_merge()?;
        Ok(value)
    };
    let (old, new) = (read(old)?, read(new)?);
    let mut changes = Vec::new();
    let (old, new) = (members(&old), members(&new));
    for key in keys(&old, &new) {
        let (before, after) = (old.get(key).copied(), new.get(key).copied());
        match key {
            "routes" => named(&mut changes, "route", &by_name(before), &by_name(after)),
            "upstreams" => named(&mut changes, "upstream", &members_of(before), &members_of(after)),
            "queues" => named(&mut changes, "queue", &members_of(before), &members_of(after)),
            _ => walk(&mut changes, "", key.to_owned(), key.to_owned(), before, after),
        }
    }
    // Stable: within a verdict the order of the file stays.
    changes.sort_by_key(|change| change.effect);
    Ok(changes)
}

type Members<'v> = BTreeMap<&'v str, &'v Value>;

fn members(value: &Value) -> Members<'_> {
    let map = value.as_mapping();
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?, value))).collect()
}

fn members_of(value: Option<&Value>) -> Members<'_> {
    value.map(members).unwrap_or_default()
}

fn by_name(value: Option<&Value>) -> Members<'_> {
    let list = value.and_then(Value::as_sequence);
    list.into_iter().flatten().filter_map(|route| Some((route.get("name")?.as_str()?, route))).collect()
}

fn keys<'v>(old: &Members<'v>, new: &Members<'v>) -> Vec<&'v str> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).copied().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Things with names: routes, upstreams, queues.
fn named(changes: &mut Vec<Change>, kind: &str, old: &Members<'_>, new: &Members<'_>) {
    for name in keys(old, new) {
        let subject = format!("{kind} {name}");
        let mut tell = |what: String, effect| {
            changes.push(Change { subject: subject.clone(), key: String::new(), what, effect });
        };
        match (old.get(name), new.get(name)) {
            (None, Some(added)) => {
                // A new door without a lock is what a reader must not miss.
                let open = kind == "route" && added.get("signature").and_then(Value::as_str) == Some("none");
                let how = if open { ", and nothing is verified on it" } else { "" };
                let place = added.get("path").and_then(Value::as_str).unwrap_or_default();
                let place = if place.is_empty() { String::new() } else { format!(" at {place}") };
                tell(format!("added{place}{how}"), if open { Effect::Weaker } else { Effect::Other });
            }
            (Some(_), None) => tell("removed".into(), Effect::Other),
            (Some(before), Some(after)) if kind == "route" && (ramped(before) || ramped(after)) => {
                let (old, new) = (refused(before), refused(after));
                for (check, share) in &new {
                    let before = old.get(check).copied().unwrap_or(100);
                    if before != *share {
                        let what = format!("{before}% → {share}% of what it would refuse is refused");
                        let effect = if *share < before { Effect::Weaker } else { Effect::Stronger };
                        changes.push(Change {
                            subject: subject.clone(),
                            key: format!("enforce.{check}"),
                            what,
                            effect,
                        });
                    }
                }
                let (before, after) = (without_shares(before), without_shares(after));
                walk_members(changes, &subject, "routes.*", "", Some(&before), Some(&after));
            }
            (Some(before), Some(after)) => {
                let path = format!("{kind}s.*");
                walk_members(changes, &subject, &path, "", Some(before), Some(after));
            }
            (None, None) => {}
        }
    }
}

/// Does the route say how much some check refuses?
fn ramped(route: &Value) -> bool {
    route.get("enforce").is_some()
}

/// How much of what each check would refuse it refuses, in percent: `observe` and `enforce` say it together.
fn refused(route: &Value) -> BTreeMap<&'static str, u64> {
    let observed = elements(route.get("observe"));
    let share = |check: &'static str| {
        let written =
            route.get("enforce").and_then(|enforce| enforce.get(check)).and_then(|share| measure(&plain(share)));
        (check, if observed.iter().any(|one| one == check) { 0 } else { written.unwrap_or(100) })
    };
    ["https", "allow", "rate_limit", "shape", "signature", "duplicates"].into_iter().map(share).collect()
}

fn without_shares(route: &Value) -> Value {
    let mut route = route.clone();
    if let Some(keys) = route.as_mapping_mut() {
        keys.remove("observe");
        keys.remove("enforce");
    }
    route
}

fn walk_members(
    changes: &mut Vec<Change>,
    subject: &str,
    path: &str,
    key: &str,
    old: Option<&Value>,
    new: Option<&Value>,
) {
    let (old, new) = (members_of(old), members_of(new));
    for name in keys(&old, &new) {
        let key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        walk(changes, subject, format!("{path}.{name}"), key, old.get(name).copied(), new.get(name).copied());
    }
}

/// One key, or the mapping below it.
fn walk(changes: &mut Vec<Change>, subject: &str, path: String, key: String, old: Option<&Value>, new: Option<&Value>) {
    if same(old, new) {
        return;
    }
    let mut tell = |what: String, effect| {
        changes.push(Change { subject: subject.to_owned(), key: key.clone(), what, effect });
    };
    // The two words that switch a check off altogether.
    let is = |value: Option<&Value>, word: &str| value.and_then(Value::as_str) == Some(word);
    match &*path {
        "routes.*.signature" if is(new, "none") => {
            return tell("switched off: nothing is verified any more".into(), Effect::Weaker);
        }
        "routes.*.signature" if is(old, "none") => return tell("switched on".into(), Effect::Stronger),
        "routes.*.duplicates" if is(new, "off") => {
            return tell("switched off: copies of an event are not told any more".into(), Effect::Weaker);
        }
        "routes.*.duplicates" if is(old, "off") => return tell("switched on".into(), Effect::Stronger),
        "routes.*.provider" => {
            let what = format!("{} → {}: other rules hold", shown(old), shown(new));
            return tell(what, Effect::Other);
        }
        _ => {}
    }
    if let Some(rule) = RULES.iter().find(|(pattern, _)| fits(pattern, &path)).map(|(_, rule)| *rule) {
        return judge(rule, old, new, &mut tell);
    }
    let is_map = |value: Option<&Value>| value.is_none_or(Value::is_mapping);
    if is_map(old) && is_map(new) {
        return walk_members(changes, subject, &path, &key, old, new);
    }
    if hidden(&path) {
        return tell("changed".into(), Effect::Other);
    }
    tell(format!("{} → {}", shown(old), shown(new)), Effect::Other);
}

fn fits(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('.'), path.split('.'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

fn judge(rule: Rule, old: Option<&Value>, new: Option<&Value>, tell: &mut dyn FnMut(String, Effect)) {
    let arrow = format!("{} → {}", shown(old), shown(new));
    let by = |weaker: bool| if weaker { Effect::Weaker } else { Effect::Stronger };
    match rule {
        MoreIsWeaker(default) | LessIsWeaker(default) => {
            let amount = |value: Option<&Value>| value.map_or_else(|| measure(default), |value| measure(&plain(value)));
            let effect = match (amount(old), amount(new)) {
                (Some(before), Some(after)) if before != after => {
                    by((after > before) == matches!(rule, MoreIsWeaker(_)))
                }
                _ => Effect::Other,
            };
            tell(arrow, effect);
        }
        Words(words) => {
            let rank = |value: Option<&Value>| {
                value.map_or(Some(0), |value| words.iter().position(|word| *word == plain(value)))
            };
            let effect = match (rank(old), rank(new)) {
                (Some(before), Some(after)) if before == after => return,
                (Some(before), Some(after)) => by(after > before),
                _ => Effect::Other,
            };
            tell(arrow, effect);
        }
        OpenListOrAll if old.is_none() != new.is_none() => match new {
            None => tell(format!("{} → anything", shown(old)), Effect::Weaker),
            Some(_) => tell(format!("anything → {}", shown(new)), Effect::Stronger),
        },
        OpenList | OpenListOrAll | ClosedList => {
            let (old, new) = (elements(old), elements(new));
            let opens = !matches!(rule, ClosedList);
            let list = |these: &[String], those: &[String]| -> String {
                these.iter().filter(|one| !those.contains(one)).cloned().collect::<Vec<_>>().join(", ")
            };
            let (added, removed) = (list(&new, &old), list(&old, &new));
            if !added.is_empty() {
                tell(format!("{added} added"), by(opens));
            }
            if !removed.is_empty() {
                tell(format!("{removed} removed"), by(!opens));
            }
        }
        Conditions => {
            let (count_old, count_new) = (elements(old).len(), elements(new).len());
            if count_old == count_new {
                let effect = match (rate(old), rate(new)) {
                    (Some(before), Some(after)) if before != after => by(after > before),
                    (Some(_), Some(_)) if burst(old) != burst(new) => by(burst(new) > burst(old)),
                    _ => Effect::Other,
                };
                return tell(arrow, effect);
            }
            tell(arrow, by(count_new < count_old));
        }
    }
}

/// The only limit of a list, or the one that stands without a list.
fn limit(value: Option<&Value>) -> Option<&Value> {
    match value? {
        Value::Sequence(list) if list.len() == 1 => list.first(),
        other => Some(other),
    }
}

/// Requests that may come at once.
fn burst(value: Option<&Value>) -> Option<u64> {
    let limit = limit(value)?;
    limit.get("burst").or_else(|| limit.get("requests"))?.as_u64()
}

/// Requests a second.
fn rate(value: Option<&Value>) -> Option<f64> {
    let limit = limit(value)?;
    let requests = limit.get("requests")?.as_f64()?;
    Some(requests / (measure(limit.get("every")?.as_str()?)? as f64 / 1000.0))
}

/// Milliseconds of a duration, bytes of a size, percent, or the number itself.
fn measure(text: &str) -> Option<u64> {
    let span = Span::parse(text).and_then(|span| u64::try_from(span.0.as_millis()).ok());
    let percent = || Share::parse(text).map(|share| u64::from(share.0));
    span.or_else(|| Size::parse(text).map(|size| size.0 as u64)).or_else(percent).or_else(|| text.parse().ok())
}

/// Equal for whoever reads it: `60s` and `1m` are.
fn same(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(Value::String(a)), Some(Value::String(b))) => {
            a == b || measure(a).is_some_and(|amount| measure(b) == Some(amount))
        }
        (a, b) => a == b,
    }
}

fn elements(value: Option<&Value>) -> Vec<String> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(list)) => list.iter().map(plain).collect(),
        Some(one) => vec![plain(one)],
    }
}

/// May the values under this key be secrets?
fn hidden(path: &str) -> bool {
    let hiding = ["secret", "secrets", "insecure_literal", "password", "headers"];
    // Brokers' and stores' URLs may hold a password, backends' may not.
    path.split('.').any(|step| hiding.contains(&step) || (step == "url" && !path.starts_with("upstreams.")))
}

/// A value in one line, secrets left out.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Bool(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Sequence(list) => {
            let list: Vec<_> = list.iter().map(plain).collect();
            format!("[{}]", list.join(", "))
        }
        Value::Mapping(map) => {
            let members = map.iter().map(|(key, value)| {
                let key = plain(key);
                let value = if hidden(&key) { "…".to_owned() } else { plain(value) };
                format!("{key}: {value}")
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Tagged(tagged) => plain(&tagged.value),
    }
}

/// The longest value that is shown whole.
const SHOWN: usize = 120;

fn shown(value: Option<&Value>) -> String {
    let Some(value) = value else { return "not set".into() };
    let text = plain(value);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.subject, &self.key] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Effect::{Other, Stronger, Weaker};

    fn told(old: &str, new: &str) -> Vec<(Effect, String)> {
        diff(old, new).unwrap().into_iter().map(|change| (change.effect, change.to_string())).collect()
    }

    fn of_route(old: &str, new: &str) -> Vec<(Effect, String)> {
        let route = |keys: &str| format!("routes: [{{ name: a, path: /a{keys} }}]");
        told(&route(old), &route(new))
    }

    #[test]
    fn every_known_key_has_a_direction_and_a_remedy_is_not_needed_for_the_same() {
        for (old, new, effect, text) in [
            ("", ", signature: none", Weaker, "route a: signature: switched off: nothing is verified any more"),
            (", signature: none", ", provider: slack", Stronger, "route a: signature: switched on"),
            (
                "",
                ", duplicates: off",
                Weaker,
                "route a: duplicates: switched off: copies of an event are not told any more",
            ),
            ("", ", https: allow", Weaker, "route a: https: not set → allow"),
            (", https: allow", ", https: redirect", Stronger, "route a: https: allow → redirect"),
            (", allow: [10.0.0.0/8]", "", Weaker, "route a: allow: [10.0.0.0/8] → anything"),
            (", allow: [10.0.0.0/8]", ", allow: [10.0.0.0/8, 192.0.2.1]", Weaker, "route a: allow: 192.0.2.1 added"),
            ("", ", allow: [{ file: x.txt }]", Stronger, "route a: allow: anything → [{file: x.txt}]"),
            ("", ", observe: [signature]", Weaker, "route a: observe: signature added"),
            (", observe: [signature, https]", ", observe: [https]", Stronger, "route a: observe: signature removed"),
            (
                ", observe: [signature]",
                ", enforce: { signature: 10% }",
                Stronger,
                "route a: enforce.signature: 0% → 10% of what it would refuse is refused",
            ),
            (
                "",
                ", enforce: { allow: 50% }",
                Weaker,
                "route a: enforce.allow: 100% → 50% of what it would refuse is refused",
            ),
            (
                ", enforce: { allow: 50% }",
                ", enforce: { allow: 5% }",
                Weaker,
                "route a: enforce.allow: 50% → 5% of what it would refuse is refused",
            ),
            (", required_headers: [X-A]", "", Weaker, "route a: required_headers: X-A removed"),
            ("", ", max_body: 2MiB", Weaker, "route a: max_body: not set → 2MiB"),
            (", max_body: 2MiB", ", max_body: 64KiB", Stronger, "route a: max_body: 2MiB → 64KiB"),
            (
                ", duplicates: { remember: 4h }",
                ", duplicates: { remember: 1h }",
                Weaker,
                "route a: duplicates.remember: 4h → 1h",
            ),
            ("", ", duplicates: { replay_guard: false }", Weaker, "route a: duplicates.replay_guard: not set → false"),
            (
                ", rate_limit: { requests: 1, every: 1s }",
                "",
                Weaker,
                "route a: rate_limit: {requests: 1, every: 1s} → not set",
            ),
            (
                ", rate_limit: { requests: 1, every: 1s }",
                ", rate_limit: { requests: 100, every: 1m }",
                Weaker,
                "route a: rate_limit: {requests: 1, every: 1s} → {requests: 100, every: 1m}",
            ),
            (", provider: slack", ", provider: github", Other, "route a: provider: slack → github: other rules hold"),
            (", to: app", ", to: web", Other, "route a: to: app → web"),
        ] {
            let told = of_route(old, new);
            assert_eq!(told.first(), Some(&(effect, text.to_owned())), "{old} / {new}: {told:?}");
        }
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        for (old, new) in [
            ("", ""),
            (", https: reject", ""),
            (", duplicates: { replay_guard: true }", ""),
            (", duplicates: { remember: 60m }", ", duplicates: { remember: 1h }"),
            (", max_body: 1MiB", ", max_body: 1024KiB"),
            (", methods: [POST, PUT]", ", methods: [PUT, POST]"),
            (", observe: [shape]", ", enforce: { shape: 0%, allow: 100% }"),
        ] {
            assert_eq!(of_route(old, new), [], "{old} / {new}");
        }
        assert_eq!(told("a: &a { b: 1 }\nc: *a", "a: { b: 1 }\nc: { b: 1 }"), []);
    }

    #[test]
    fn a_secret_is_never_shown() {
        let old = ", secrets: [{ insecure_literal: hunter2-hunter2 }]";
        let new = ", secrets: [{ insecure_literal: other-secret-text }]";
        assert_eq!(of_route(old, new), [(Other, "route a: secrets: changed".into())]);
        let told = told(
            "state: { redis: { url: 'redis://u:hunter2@x' } }",
            "state: { redis: { url: 'redis://u:hunter3@x', password: hunter4 } }",
        );
        assert!(!format!("{told:?}").contains("hunter"), "{told:?}");
        let added = of_route("", ", signature: { secrets: [hunter2], key: { secret: hunter2 } }");
        assert!(!format!("{added:?}").contains("hunter"), "{added:?}");
    }

    #[test]
    fn routes_come_and_go_and_an_unlocked_one_is_weaker() {
        let old = "routes: [{ name: a, path: /a }, { name: b, path: /b }]";
        let new = "routes: [{ name: b, path: /b }, { name: c, path: /c, signature: none }, { name: d, path: /d }]";
        let expected = [
            (Weaker, "route c: added at /c, and nothing is verified on it"),
            (Other, "route a: removed"),
            (Other, "route d: added at /d"),
        ];
        assert_eq!(told(old, new), expected.map(|(effect, text)| (effect, text.to_owned())));
    }

    #[test]
    fn what_concerns_everything_is_told_too() {
        let told = told(
            "https: reject\ntrusted_proxies: [10.0.0.0/8]\nlimits: { headers: 50 }",
            "https: allow\ntrusted_proxies: [10.0.0.0/8, 0.0.0.0/0]\nlimits: { headers: 20 }\nnew_key: { a: 1 }",
        );
        let expected = [
            (Weaker, "https: reject → allow"),
            (Weaker, "trusted_proxies: 0.0.0.0/0 added"),
            (Stronger, "limits.headers: 50 → 20"),
            (Other, "new_key.a: not set → 1"),
        ];
        assert_eq!(told, expected.map(|(effect, text)| (effect, text.to_owned())));
    }
}
