//! What a new configuration changes, in words, for whoever has to approve it: routes that come and go, and above all
//! every check that becomes weaker.
//!
//! Both texts are compared key by key, so that a key added tomorrow is told of without anybody thinking of it here. What
//! a key means that is not written is in `diff/side.rs`: the program's default, what a global key says, or what the
//! route's preset brings. What a change means for the sender's chances is in one table, in `diff/rules.rs`; a change that
//! the table does not know is told without a verdict.

mod rules;
mod side;
mod words;

use rules::{NamedList, Rule};
use serde::Serialize;
use serde_yaml::Value;
use side::{Side, full};
use std::collections::BTreeMap;
use std::fmt;
use words::{difference, elements, excerpt, hidden, measure, plain, same};

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

/// What is different between two configuration texts, the weaker things first. Both must be valid YAML; that they are
/// valid configurations is for [`super::load`] to say.
pub fn diff(old: &str, new: &str) -> Result<Vec<Change>, serde_yaml::Error> {
    let read = |text: &str| -> Result<Value, serde_yaml::Error> {
        let mut value: Value = serde_yaml::from_str(text)?;
        value.apply_merge()?;
        Ok(value)
    };
    let (old, new) = (read(old)?, read(new)?);
    let roots = (&old, &new);
    let mut changes = Vec::new();
    let (before, after) = (members(&old), members(&new));
    for key in keys(&before, &after) {
        let (was, is) = (before.get(key).copied(), after.get(key).copied());
        match key {
            "routes" => routes(&mut changes, roots, &by_name(was), &by_name(is)),
            "upstreams" => named(&mut changes, "upstream", roots, was, is),
            "queues" => named(&mut changes, "queue", roots, was, is),
            _ => Comparison::new(&mut changes, "", roots, None).walk(key, key, was, is),
        }
    }
    // Stable: within a verdict the order of the file stays.
    changes.sort_by_key(|change| change.effect);
    Ok(changes)
}

/// The whole of both configurations.
type Roots<'v> = (&'v Value, &'v Value);

type Members<'v> = BTreeMap<String, &'v Value>;

fn members(value: &Value) -> Members<'_> {
    let map = value.as_mapping();
    map.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value))).collect()
}

fn members_of(value: Option<&Value>) -> Members<'_> {
    value.map(members).unwrap_or_default()
}

fn by_name(value: Option<&Value>) -> Members<'_> {
    let list = value.and_then(Value::as_sequence);
    list.into_iter().flatten().filter_map(|route| Some((route.get("name")?.as_str()?.to_owned(), route))).collect()
}

/// The elements of a list by what names them, or by their places.
fn by_id<'v>(value: Option<&'v Value>, id: &str) -> Members<'v> {
    let mut found = Members::new();
    let list = value.and_then(Value::as_sequence);
    for (i, one) in list.into_iter().flatten().enumerate() {
        let name = one.get(id).and_then(Value::as_str).map_or_else(|| i.to_string(), str::to_owned);
        let name = if found.contains_key(&name) { format!("{name}, {i}") } else { name };
        found.insert(name, one);
    }
    found
}

fn keys<'m>(old: &'m Members<'_>, new: &'m Members<'_>) -> Vec<&'m str> {
    let mut keys: Vec<_> = old.keys().chain(new.keys()).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Upstreams and queues.
fn named(changes: &mut Vec<Change>, kind: &str, roots: Roots<'_>, old: Option<&Value>, new: Option<&Value>) {
    let (old, new) = (members_of(old), members_of(new));
    for name in keys(&old, &new) {
        let mut comparison = Comparison::new(changes, &format!("{kind} {name}"), roots, None);
        match (old.get(name).copied(), new.get(name).copied()) {
            (None, Some(_)) => comparison.tell("", "added".into(), Effect::Other),
            (Some(_), None) => comparison.tell("", "removed".into(), Effect::Other),
            (before, after) => comparison.walk(&format!("{kind}s.*"), "", before, after),
        }
    }
}

fn routes(changes: &mut Vec<Change>, roots: Roots<'_>, old: &Members<'_>, new: &Members<'_>) {
    let renamed = renamed(old, new);
    for name in keys(old, new) {
        let subject = format!("route {name}");
        match (old.get(name).copied(), new.get(name).copied()) {
            (Some(before), Some(after)) => route(changes, &subject, roots, before, after),
            (None, Some(after)) => match renamed.get(name).and_then(|was| Some((*was, old.get(*was).copied()?))) {
                Some((was, before)) => {
                    let what = format!("was called {was}");
                    changes.push(Change { subject: subject.clone(), key: String::new(), what, effect: Effect::Other });
                    route(changes, &subject, roots, before, after);
                }
                None => added(changes, &subject, roots.1, after),
            },
            (Some(_), None) if renamed.values().any(|was| *was == name) => {}
            (Some(_), None) => {
                let what = "removed".into();
                changes.push(Change { subject, key: String::new(), what, effect: Effect::Other });
            }
            (None, None) => {}
        }
    }
}

/// New names of routes with the old ones: whoever renames a route must not get around the comparison.
fn renamed<'m>(old: &'m Members<'_>, new: &'m Members<'_>) -> BTreeMap<&'m str, &'m str> {
    let mut pairs: BTreeMap<&'m str, &'m str> = BTreeMap::new();
    for (was, before) in old {
        if new.contains_key(was) {
            continue;
        }
        let mut best: Option<(u8, &'m str)> = None;
        for (name, after) in new {
            let likeness = likeness(before, after);
            let free = !old.contains_key(name) && !pairs.contains_key(name.as_str());
            if free && likeness > best.map_or(0, |(most, _)| most) {
                best = Some((likeness, name.as_str()));
            }
        }
        if let Some((_, name)) = best {
            pairs.insert(name, was.as_str());
        }
    }
    pairs
}

/// How much speaks for two routes being one: above all where requests come in, then their keys, then the sender.
fn likeness(old: &Value, new: &Value) -> u8 {
    let alike = |key: &str| old.get(key).is_some_and(|value| new.get(key) == Some(value));
    let keys = ["secrets", "secret", "public_keys"].into_iter().any(alike);
    4 * u8::from(alike("path")) + 2 * u8::from(keys) + u8::from(alike("provider"))
}

/// A route that was there before.
fn route(changes: &mut Vec<Change>, subject: &str, roots: Roots<'_>, old: &Value, new: &Value) {
    let mut comparison = Comparison::new(changes, subject, roots, Some((old, new)));
    let ramped = ramped(old) || ramped(new);
    if ramped {
        comparison.shares(old, new);
    }
    let keys: &[&str] = if ramped { &["name", "observe", "enforce"] } else { &["name"] };
    comparison.members("routes.*", "", Some(&without(old, keys)), Some(&without(new, keys)));
}

/// A new route: is it weaker than one that says nothing?
fn added(changes: &mut Vec<Change>, subject: &str, root: &Value, added: &Value) {
    let has = |key: &str| added.get(key).is_some();
    let weakness = Side::new(root, Some(added)).preset.and_then(|preset| preset.weakness.as_deref());
    // A new door without a lock is what a reader must not miss.
    let (how, effect) = if added.get("signature").and_then(Value::as_str) == Some("none") {
        (", and nothing is verified on it", Effect::Weaker)
    } else if weakness.is_some() && !has("allow") && !has("client_certificates") {
        (", and its signature alone does not keep strangers out", Effect::Weaker)
    } else {
        ("", Effect::Other)
    };
    let place = added.get("path").and_then(Value::as_str).map(|path| format!(" at {path}")).unwrap_or_default();
    let what = format!("added{place}{how}");
    changes.push(Change { subject: subject.to_owned(), key: String::new(), what, effect });
    let plain_one = without(added, &["https", "observe", "enforce", "duplicates", "on_failure"]);
    let mut found = Vec::new();
    route(&mut found, subject, (root, root), &plain_one, added);
    for change in found.into_iter().filter(|change| change.effect == Effect::Weaker) {
        let what = format!("{}, weaker than the default", change.what);
        changes.push(Change { what, ..change });
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
        (check, if observed.iter().any(|one| one.as_str() == Some(check)) { 0 } else { written.unwrap_or(100) })
    };
    ["https", "allow", "rate_limit", "shape", "signature", "duplicates"].into_iter().map(share).collect()
}

fn without(route: &Value, keys: &[&str]) -> Value {
    let mut route = route.clone();
    if let Some(map) = route.as_mapping_mut() {
        for key in keys {
            map.remove(*key);
        }
    }
    route
}

/// The two sides of one subject, and what was found so far.
struct Comparison<'c, 'v> {
    changes: &'c mut Vec<Change>,
    subject: String,
    old: Side<'v>,
    new: Side<'v>,
}

impl<'c, 'v> Comparison<'c, 'v> {
    fn new(changes: &'c mut Vec<Change>, subject: &str, roots: Roots<'v>, routes: Option<Roots<'v>>) -> Self {
        let (old, new) = (Side::new(roots.0, routes.map(|it| it.0)), Side::new(roots.1, routes.map(|it| it.1)));
        Self { changes, subject: subject.to_owned(), old, new }
    }

    fn tell(&mut self, key: &str, what: String, effect: Effect) {
        self.changes.push(Change { subject: self.subject.clone(), key: key.to_owned(), what, effect });
    }

    /// What each check refuses, where a route refuses only a part.
    fn shares(&mut self, old: &Value, new: &Value) {
        let (old, new) = (refused(old), refused(new));
        for (check, share) in &new {
            let before = old.get(check).copied().unwrap_or(100);
            if before != *share {
                let what = format!("{before}% → {share}% of what it would refuse is refused");
                let effect = if *share < before { Effect::Weaker } else { Effect::Stronger };
                self.tell(&format!("enforce.{check}"), what, effect);
            }
        }
    }

    fn members(&mut self, path: &str, key: &str, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (members_of(old), members_of(new));
        for name in keys(&old, &new) {
            let key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
            // Names such as those of claims may have dots.
            let step = if name.contains('.') { "*" } else { name };
            self.walk(&format!("{path}.{step}"), &key, old.get(name).copied(), new.get(name).copied());
        }
    }

    /// One key, or what is below it. `path` is for the rules, `key` for the reader.
    fn walk(&mut self, path: &str, key: &str, old: Option<&Value>, new: Option<&Value>) {
        let (was, is) = (self.old.means(path, old), self.new.means(path, new));
        // Two names of upstreams are told as such.
        let names = path == "routes.*.to" && [&was, &is].iter().all(|one| matches!(one, Some(Value::String(_))));
        let (was, is) = match names {
            true => (was, is),
            false => (was.map(|was| full(path, was)), is.map(|is| full(path, is))),
        };
        let (was, is) = (was.as_ref(), is.as_ref());
        if same(was, is) {
            return;
        }
        let arrow = match hidden(path) {
            true => "changed".to_owned(),
            false => difference(&self.old.shown(path, old), &self.new.shown(path, new)),
        };
        if self.special(path, key, was, is, &arrow) {
            return;
        }
        if let Some(list) = rules::named_list(path) {
            return self.list(list, key, was, is);
        }
        let maps = was.is_none_or(Value::is_mapping) && is.is_none_or(Value::is_mapping);
        match rules::rule(path) {
            // What stays is compared in its parts.
            Some(Rule::Guard | Rule::Unsure) if maps && was.is_some() && is.is_some() => {
                self.members(path, key, was, is);
            }
            Some(rule) => {
                for (what, effect) in rule.judge(was, is, arrow) {
                    self.tell(key, what, effect);
                }
            }
            None if maps => self.members(path, key, was, is),
            None => self.tell(key, arrow, Effect::Other),
        }
    }

    /// Keys that need words of their own. True: all is told.
    fn special(&mut self, path: &str, key: &str, was: Option<&Value>, is: Option<&Value>, arrow: &str) -> bool {
        let word = |value: Option<&Value>, word: &str| value.and_then(Value::as_str) == Some(word);
        let (what, effect) = match path {
            "routes.*.signature" if word(is, "none") => {
                ("switched off: nothing is verified any more".to_owned(), Effect::Weaker)
            }
            "routes.*.signature" if word(was, "none") => ("switched on".to_owned(), Effect::Stronger),
            "routes.*.duplicates" if word(is, "off") => {
                ("switched off: copies of an event are not told any more".to_owned(), Effect::Weaker)
            }
            "routes.*.duplicates" if word(was, "off") => ("switched on".to_owned(), Effect::Stronger),
            "routes.*.provider" => match (self.old.preset, self.new.preset) {
                // Another name for the same.
                (Some(before), Some(after)) if before.id == after.id => return true,
                (Some(_), Some(_)) if self.is_new_proof_weaker() => {
                    (format!("{arrow}: other rules hold, and a weaker proof is enough"), Effect::Weaker)
                }
                _ => (format!("{arrow}: other rules hold"), Effect::Other),
            },
            "admin" if word(is, "off") => (arrow.to_owned(), Effect::Stronger),
            "admin" if word(was, "off") => (arrow.to_owned(), Effect::Weaker),
            // `client_ca` says it all.
            "listen.*.tls.client_certificate" if was.is_none() || is.is_none() => return true,
            "routes.*.handshake" if was.is_none() || is.is_none() => {
                self.tell(key, arrow.to_owned(), Effect::Other);
                let exchanges = is.and_then(|is| is.get("exchanges"));
                self.walk("routes.*.handshake.exchanges", &format!("{key}.exchanges"), None, exchanges);
                return true;
            }
            "state" => {
                let lasts = |state: Option<&Value>| {
                    state.is_some_and(|state| state.get("sqlite").is_some() || state.get("redis").is_some())
                };
                if lasts(was) && !lasts(is) {
                    self.tell(key, "delivered events are forgotten at a restart".into(), Effect::Weaker);
                } else if lasts(is) && !lasts(was) {
                    self.tell(key, "delivered events outlive a restart".into(), Effect::Stronger);
                }
                return false;
            }
            _ => return false,
        };
        self.tell(key, what, effect);
        true
    }

    /// Does the new preset ask for less than the old one did?
    fn is_new_proof_weaker(&self) -> bool {
        let doubt = |side: &Side<'_>| side.usual("routes.*.signature").map_or(0, |scheme| rules::doubt_of(&scheme));
        let weak = |side: &Side<'_>| side.preset.is_some_and(|preset| preset.weakness.is_some());
        doubt(&self.new) > doubt(&self.old) || (weak(&self.new) && !weak(&self.old))
    }

    /// A list, element by element. One that went and one that came are taken for the same.
    fn list(&mut self, list: &NamedList, key: &str, old: Option<&Value>, new: Option<&Value>) {
        let (old, new) = (by_id(old, list.id), by_id(new, list.id));
        let went: Vec<_> = old.iter().filter(|(name, _)| !new.contains_key(*name)).collect();
        let came: Vec<_> = new.iter().filter(|(name, _)| !old.contains_key(*name)).collect();
        let moved = match (&went[..], &came[..]) {
            ([(_, went)], [_]) => Some(**went),
            _ => None,
        };
        for name in keys(&old, &new) {
            let at = format!("{key}[{name}]");
            match (old.get(name).copied(), new.get(name).copied(), moved) {
                (Some(before), Some(after), _) | (None, Some(after), Some(before)) => {
                    self.walk(list.element, &at, Some(before), Some(after));
                }
                (None, Some(after), None) => {
                    self.tell(&at, format!("added: {}", excerpt(&plain(after), 0)), (list.added)(after));
                }
                (Some(_), None, None) => self.tell(&at, "removed".into(), list.removed),
                (_, None, _) => {}
            }
        }
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
mod tests;
