//! From text to raw types, with every problem on the way and not only the first.
//!
//! A deserializer stops at the first error. So the offending node is taken out of the data and the rest is tried again
//! until it passes. What was taken out is remembered: a problem that is only there because something is gone is not
//! told.

use super::place::{Place, Position, Positions, Step};
use super::problem::{Meaning, Problem, meaning, nearest, one_of};
use super::raw::Config;
use serde_path_to_error::Segment;
use serde_yaml::Value;
use std::collections::HashMap;

/// A configuration larger than this is a mistake.
const MAX_TEXT: usize = 8 << 20;

/// Brackets open at once.
const MAX_BRACKETS: usize = 500;

/// After so many problems nobody reads on.
const MAX_PROBLEMS: usize = 100;

/// Keys that later versions will have. Better to say so than to guess at a typing error.
const LATER: &[&str] = &["events", "proxy_protocol", "client_ca"];

/// A configuration file: its data, where everything stands in it, and what could not be read.
pub(super) struct Document {
    positions: Positions,
    written: Value,
    /// Elements taken out of each list, in terms of what was written.
    gaps: HashMap<Place, Vec<usize>>,
    /// Places whose value could not be used.
    damaged: Vec<Place>,
    /// What was wrong so far.
    pub(super) problems: Vec<Problem>,
}

/// Reads a text. `None`: it is not YAML, or nothing of it could be used.
pub(super) fn read(text: &str) -> (Document, Option<Config>) {
    let positions = match bracket_bomb(text) {
        _ if text.len() > MAX_TEXT => Positions::default(),
        Some(position) => Positions { too_deep: Some(position), ..Positions::default() },
        None => Positions::of(text),
    };
    let mut document =
        Document { positions, written: Value::Null, gaps: HashMap::new(), damaged: Vec::new(), problems: Vec::new() };
    let Some(mut value) = document.data(text) else { return (document, None) };
    document.written = value.clone();
    document.plain(&mut value, &Place::default());
    let config = document.config(value);
    (document, config)
}

impl Document {
    /// The place in the file of a place in the data that was left.
    pub(super) fn written_place(&self, place: &Place) -> Place {
        let mut written = Place::default();
        for step in &place.0 {
            let step = match step {
                Step::Key(key) => Step::Key(key.clone()),
                Step::Index(index) => {
                    let mut index = *index;
                    for gap in self.gaps.get(&written).into_iter().flatten() {
                        if *gap <= index {
                            index += 1;
                        }
                    }
                    Step::Index(index)
                }
            };
            written.0.push(step);
        }
        written
    }

    /// Was this, or something that it stands in, taken out?
    pub(super) fn is_damaged(&self, place: &Place) -> bool {
        let written = self.written_place(place);
        self.damaged.iter().any(|damaged| written.starts_with(damaged))
    }

    /// Was something in there taken out?
    pub(super) fn has_damage(&self, place: &Place) -> bool {
        let written = self.written_place(place);
        self.damaged.iter().any(|damaged| damaged.starts_with(&written))
    }

    /// The keys of a mapping as it was written.
    pub(super) fn keys(&self, place: &Place) -> Vec<&str> {
        match find(&self.written, place) {
            Some(Value::Mapping(map)) => map.keys().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The line of a place in the data that was left.
    pub(super) fn line(&self, place: &Place) -> Option<usize> {
        self.positions.find(&self.written_place(place)).map(|position| position.line)
    }

    /// A problem at a place in the data that was left, with what stands there.
    pub(super) fn describe(&self, place: &Place, what: &str, help: &str) -> Problem {
        self.describe_written(&self.written_place(place), what, help)
    }

    fn describe_written(&self, place: &Place, what: &str, help: &str) -> Problem {
        let mut problem = Problem::new(place, what, help).at(self.positions.find(place));
        problem.value = find(&self.written, place).and_then(|value| shown(place, value));
        problem
    }

    /// The YAML data, or the one problem that makes the text unreadable.
    fn data(&mut self, text: &str) -> Option<Value> {
        if text.len() > MAX_TEXT {
            let what = format!("larger than {MAX_TEXT} bytes");
            self.problems.push(Problem::new("", what, "is this the right file? put long lists of networks into files"));
            return None;
        }
        if let Some(position) = self.positions.too_deep {
            let problem = Problem::new("", "nested too deeply", "is this the right file?");
            self.problems.push(problem.at(Some(position)));
            return None;
        }
        if !self.positions.twice.is_empty() {
            for (place, first, second) in &self.positions.twice {
                let what = format!("the key stands twice, first on line {}", first.line);
                let help = "remove one of the two, or join what they hold";
                self.problems.push(Problem::new(place, what, help).at(Some(*second)));
            }
            return None;
        }
        let parsed = serde_yaml::from_str::<Value>(text).and_then(|mut value| {
            value.apply_merge()?;
            Ok(value)
        });
        match parsed {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(syntax(text, &error));
                None
            }
        }
    }

    /// Takes out what has no meaning here: tags, and keys that are not text.
    fn plain(&mut self, value: &mut Value, place: &Place) {
        if let Value::Tagged(tagged) = value {
            let help = "remove the word that begins with `!`";
            let problem = self.describe_written(place, "a YAML tag has no meaning here", help);
            self.problems.push(problem);
            *value = std::mem::take(&mut tagged.value);
        }
        match value {
            Value::Sequence(items) => {
                for (i, item) in items.iter_mut().enumerate() {
                    self.plain(item, &place.index(i));
                }
            }
            Value::Mapping(map) => {
                let odd: Vec<_> = map.keys().filter(|key| !key.is_string()).cloned().collect();
                for key in odd {
                    map.remove(&key);
                    let name = match &key {
                        Value::Number(number) => number.to_string(),
                        Value::Bool(yes) => yes.to_string(),
                        _ => "?".to_owned(),
                    };
                    let place = place.key(name);
                    let problem = self.describe_written(&place, "a key that is not a text", "put the key in quotes");
                    self.problems.push(problem);
                    self.damaged.push(place);
                }
                for (key, item) in map.iter_mut() {
                    self.plain(item, &place.key(key.as_str().unwrap_or_default()));
                }
            }
            _ => {}
        }
    }

    /// The raw types, made of all that can be read.
    fn config(&mut self, mut value: Value) -> Option<Config> {
        if value.is_null() {
            return Some(Config::default());
        }
        if !value.is_mapping() {
            let help = "begin with keys such as `listen:`, `upstreams:` and `routes:`";
            self.problems.push(Problem::new("", "not a mapping of keys to values", help));
            return None;
        }
        loop {
            let error = match serde_path_to_error::deserialize::<_, Config>(&value) {
                Ok(config) => return Some(config),
                Err(error) => error,
            };
            if self.problems.len() >= MAX_PROBLEMS {
                let what = format!("more than {MAX_PROBLEMS} problems; the rest is not shown");
                self.problems.push(Problem::new("", what, "correct these first"));
                return None;
            }
            let place = place(error.path());
            // Each turn takes out at least one node, so the loop ends. What cannot be taken out ends it at once.
            self.record(&place, &error.into_inner().to_string());
            if !self.take_out(&mut value, &place) {
                return None;
            }
        }
    }

    /// Writes an error down.
    fn record(&mut self, place: &Place, text: &str) {
        let written = self.written_place(place);
        match meaning(text) {
            Meaning::UnknownKey(key, known) => {
                let meant = nearest(&key, &known).filter(|_| !LATER.contains(&key.as_str()));
                let help = match meant {
                    _ if LATER.contains(&key.as_str()) => "not in this version; remove it".to_owned(),
                    Some(meant) => format!("did you mean `{meant}`? known here: {}", one_of(&known)),
                    None => format!("known here: {}", one_of(&known)),
                };
                let parent = written.parent().unwrap_or_default();
                if let Some(meant) = meant {
                    self.damaged.push(parent.key(meant));
                }
                // Under `secrets` a stray key may be the secret itself.
                let strange = meant.is_none() && !key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let mut problem = if strange && is_sensitive(&parent) {
                    Problem::new(&parent, "unknown key (not shown: it may be a secret)", help)
                } else {
                    Problem::new(&written, "unknown key", help)
                };
                problem = problem.at(self.positions.find(&written));
                self.problems.push(problem);
                self.damaged.push(written);
            }
            Meaning::MissingKey(key) => {
                let missing = written.key(&key);
                if !self.damaged.iter().any(|damaged| missing.starts_with(damaged)) {
                    let problem = self.describe_written(&missing, "missing", &format!("add `{key}: …`"));
                    self.problems.push(problem);
                }
                self.damaged.push(written);
            }
            Meaning::Wrong(what, help) => {
                let is_text = what.starts_with("a text where ");
                let help = place_of_secret(&written).filter(|_| is_text).map_or(help, str::to_owned);
                let problem = self.describe_written(&written, &what, &help);
                self.problems.push(problem);
                self.damaged.push(written);
            }
        }
    }

    /// Takes a node out of the data. False if there is none.
    fn take_out(&mut self, value: &mut Value, place: &Place) -> bool {
        let (Some(last), Some(parent)) = (place.0.last(), place.parent()) else { return false };
        let written = self.written_place(place);
        let Some(holder) = find_mut(value, &parent) else { return false };
        match (holder, last) {
            (Value::Mapping(map), Step::Key(key)) => map.remove(key.as_str()).is_some(),
            (Value::Sequence(items), Step::Index(index)) if *index < items.len() => {
                items.remove(*index);
                if let (Some(Step::Index(index)), Some(list)) = (written.0.last(), written.parent()) {
                    let gaps = self.gaps.entry(list).or_default();
                    gaps.push(*index);
                    gaps.sort_unstable();
                }
                true
            }
            _ => false,
        }
    }
}

/// Where more brackets are open than in any configuration. Both parsers look ahead from every open bracket, so this is
/// found without them. Brackets in quotes and comments count too: they are rarely hundreds, and rarely unbalanced.
fn bracket_bomb(text: &str) -> Option<Position> {
    let mut open = 0usize;
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_BRACKETS {
            let line = 1 + text.as_bytes()[..i].iter().filter(|b| **b == b'\n').count();
            return Some(Position { line, column: 1 });
        }
    }
    None
}

fn place(path: &serde_path_to_error::Path) -> Place {
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Place(steps.collect())
}

fn find<'a>(value: &'a Value, place: &Place) -> Option<&'a Value> {
    place.0.iter().try_fold(value, |value, step| match (untagged(value), step) {
        (Value::Mapping(map), Step::Key(key)) => map.get(key.as_str()),
        (Value::Sequence(items), Step::Index(index)) => items.get(*index),
        _ => None,
    })
}

fn untagged(mut value: &Value) -> &Value {
    while let Value::Tagged(tagged) = value {
        value = &tagged.value;
    }
    value
}

fn find_mut<'a>(value: &'a mut Value, place: &Place) -> Option<&'a mut Value> {
    place.0.iter().try_fold(value, |value, step| match (value, step) {
        (Value::Mapping(map), Step::Key(key)) => map.get_mut(key.as_str()),
        (Value::Sequence(items), Step::Index(index)) => items.get_mut(*index),
        _ => None,
    })
}

/// Can what stands here be a secret, or hold one?
fn is_sensitive(place: &Place) -> bool {
    const WORDS: [&str; 9] = [
        "secret",
        "secrets",
        "insecure_literal",
        "password",
        "sentinel_password",
        "token",
        "verify_token",
        "encryption_key",
        "sign",
    ];
    let key = |step: &Step, words: &[&str]| matches!(step, Step::Key(key) if words.contains(&key.as_str()));
    let headers =
        place.0.iter().any(|step| key(step, &["headers"])) && !place.0.iter().any(|step| key(step, &["limits"]));
    headers || place.0.iter().any(|step| key(step, &WORDS))
}

/// What to write where a secret itself was written.
fn place_of_secret(place: &Place) -> Option<&'static str> {
    match place.0.as_slice() {
        [.., Step::Key(key)] if key == "secret" => Some(
            "write where the secret is, `secret: {env: NAME}` or `secret: {file: PATH}`, and not the secret itself",
        ),
        [.., Step::Key(key)] if key == "secrets" => Some(
            "write where the secrets are, `secrets: [{env: NAME}]` or `secrets: [{file: PATH}]`, and not a secret itself",
        ),
        [.., Step::Key(key), Step::Index(_)] if key == "secrets" => {
            Some("write where the secret is, `{env: NAME}` or `{file: PATH}`, and not the secret itself")
        }
        _ => None,
    }
}

/// A value the way a message shows it: short, on one line, and never a secret.
fn shown(place: &Place, value: &Value) -> Option<String> {
    let text = match untagged(value) {
        Value::Null => "nothing".to_owned(),
        Value::Bool(yes) => yes.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    // A text there is one that belongs further in.
    let is_handshake = matches!(place.0.as_slice(), [.., Step::Index(_), Step::Key(key)] if key == "handshake");
    if is_handshake && matches!(untagged(value), Value::String(_)) {
        return None;
    }
    if is_sensitive(place) {
        match place.0.last() {
            // A secret is easily pasted where the name of its variable belongs.
            Some(Step::Key(key)) if key == "env" && is_env_name(&text) => {}
            Some(Step::Key(key)) if key == "file" => {}
            // A time, or nearly one.
            Some(Step::Key(key)) if matches!(key.as_str(), "from" | "until") && text.starts_with("20") => {}
            _ => return None,
        }
    }
    Some(on_one_line(&without_secrets(&text)))
}

/// Is this the name of an environment variable, as opposed to a secret or `$NAME`?
pub(super) fn is_env_name(text: &str) -> bool {
    !text.starts_with(|c: char| c.is_ascii_digit())
        && !text.is_empty()
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A URL without its user and its query, where secrets may stand. Other texts as they are.
fn without_secrets(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) => (rest.get(..at).unwrap_or_default(), "?[not shown]"),
        None => (rest, ""),
    };
    let authority = rest.find('/').unwrap_or(rest.len());
    match rest[..authority].rfind('@') {
        Some(at) => format!("{scheme}://[not shown]{}{query}", &rest[at..]),
        None => format!("{scheme}://{rest}{query}"),
    }
}

fn on_one_line(text: &str) -> String {
    let escaped: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    let escaped = escaped.replace("\\\"", "\"").replace("\\'", "'");
    match text.chars().nth(80) {
        Some(_) => format!("{escaped}…"),
        None if escaped.is_empty() => "\"\"".into(),
        None => escaped,
    }
}

/// The one problem of a text that is not YAML.
fn syntax(text: &str, error: &serde_yaml::Error) -> Problem {
    let position = error.location().map(|at| Position { line: at.line(), column: at.column() });
    let whole = error.to_string();
    let what = whole.split(" at line ").next().unwrap_or(&whole);
    let line = position.and_then(|at| text.lines().nth(at.line.saturating_sub(1))).unwrap_or_default();
    let tab = line.bytes().take_while(u8::is_ascii_whitespace).any(|b| b == b'\t');
    let help = if tab {
        "YAML is indented with spaces: replace the tab"
    } else if whole.contains("more than one document") {
        "keep one document: remove the line `---` and what follows it"
    } else if whole.contains("mapping values are not allowed") {
        "check the indentation of this line, and put a value that holds `: ` in quotes"
    } else if whole.contains("cannot start any token") {
        "put a value that begins with one of % @ ` in quotes"
    } else if whole.contains("anchor") {
        "an alias `*name` needs an anchor `&name` before it; put a value that begins with `*` in quotes"
    } else {
        "check the indentation and the quotes of this line and the one before"
    };
    Problem::new("", format!("not valid YAML: {what}"), help).at(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_what_is_taken_out() {
        let mut value: Value = serde_yaml::from_str("a: [0, 1, 2, 3, 4, 5]").unwrap();
        let (mut document, _) = read("");
        let at = |index| Place::default().key("a").index(index);
        for (taken, written) in [(2, 2), (1, 1), (2, 4)] {
            assert_eq!(document.written_place(&at(taken)), at(written));
            assert!(document.take_out(&mut value, &at(taken)));
        }
        assert_eq!(value["a"], serde_yaml::from_str::<Value>("[0, 3, 5]").unwrap());
        assert_eq!([0, 1, 2].map(|index| document.written_place(&at(index))), [0, 3, 5].map(at));
    }

    #[test]
    fn secrets_and_passwords_are_not_shown() {
        let text = Value::from("topsecret");
        for path in ["routes[0].secret", "routes[0].secrets[1].insecure_literal", "routes[0].to.headers.X", "a.env"] {
            let place = Place::default().path(path);
            assert_eq!(shown(&place, &text).is_some(), path == "a.env", "{path}");
        }
        let env = Place::default().path("routes[0].secrets[0].env");
        assert_eq!(shown(&env, &Value::from("GITHUB_SECRET")).as_deref(), Some("GITHUB_SECRET"));
        assert_eq!(shown(&env, &Value::from("whsec_abc+/=")), None);
        let url = Place::default().path("upstreams.app.url");
        for (written, expected) in [
            ("http://u:p@ss@h/", "http://[not shown]@h/"),
            ("http://h/a?token=topsecret", "http://h/a?[not shown]"),
            ("http://u:p@h?x@y", "http://[not shown]@h?[not shown]"),
            ("http://h/a@b", "http://h/a@b"),
        ] {
            assert_eq!(shown(&url, &Value::from(written)).as_deref(), Some(expected));
        }
        let until = Place::default().path("routes[0].secrets[0].until");
        assert_eq!((shown(&until, &text), shown(&until, &Value::from("2030"))), (None, Some("2030".into())));
    }

    /// What the configuration's schema says of each place: whoever may write a secret there may write it wrongly.
    fn places_of_secrets(schema: &serde_json::Value, at: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        if path.matches(['.', '[']).count() > 8 {
            return;
        }
        let at = match at["$ref"].as_str().and_then(|name| schema.pointer(name.trim_start_matches('#'))) {
            Some(named) => named,
            None => at,
        };
        for choice in ["anyOf", "oneOf", "allOf"].iter().filter_map(|name| at[*name].as_array()).flatten() {
            places_of_secrets(schema, choice, path, found);
        }
        for (key, inner) in at["properties"].as_object().into_iter().flatten() {
            if key == "insecure_literal" {
                found.push(path.to_owned());
            }
            places_of_secrets(schema, inner, format!("{path}.{key}").trim_start_matches('.'), found);
        }
        places_of_secrets_in(schema, &at["additionalProperties"], format!("{path}.any"), found);
        places_of_secrets_in(schema, &at["items"], format!("{path}[0]"), found);
    }

    fn places_of_secrets_in(schema: &serde_json::Value, at: &serde_json::Value, path: String, found: &mut Vec<String>) {
        if at.is_object() {
            places_of_secrets(schema, at, &path, found);
        }
    }

    #[test]
    fn no_place_that_may_hold_a_secret_is_shown() {
        let schema = crate::config::schema::schema();
        let mut found = Vec::new();
        places_of_secrets(&schema, &schema, "", &mut found);
        assert!(found.len() >= 5, "{found:?}");
        let others = [
            "admin.token",
            "state.redis.password",
            "state.redis.sentinel_password",
            "tracing.otlp.headers.any",
            "queues.any.rabbitmq.password",
            "routes[0].deliver.sign",
            "routes[0].to.headers.any",
            "routes[0].handshake",
        ];
        for path in found.iter().map(String::as_str).chain(others) {
            assert_eq!(shown(&Place::default().path(path), &Value::from("topsecret")), None, "{path}");
        }
        assert!(shown(&Place::default().path("limits.headers"), &Value::from(5)).is_some());
    }
}
