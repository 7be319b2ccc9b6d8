//! One of the two configurations, as far as it says what a key means that is not written: the program's default, what a
//! global key says, or what the route's preset brings.

use super::rules::fits;
use super::words::plain;
use crate::config::raw::{Limits, Timeouts};
use crate::config::units::duration;
use crate::provider::{self, Provider};
use serde_yaml::{Mapping, Value};
use std::time::Duration;

/// A configuration, and the route of it that is looked at.
#[derive(Clone, Copy)]
pub(super) struct Side<'v> {
    root: &'v Value,
    route: Option<&'v Value>,
    pub(super) preset: Option<&'static Provider>,
}

/// How long events are remembered without a preset.
const REMEMBER: Duration = Duration::from_secs(72 * 3600);

/// What keys mean that are not written, where that depends on nothing else.
const DEFAULTS: &[(&str, &str)] = &[
    ("https", "reject"),
    ("admin", "127.0.0.1:9901"),
    ("admin.allow_public", "false"),
    ("state", "memory"),
    ("state.redis.evicting", "refuse"),
    ("connections.max", "20000"),
    ("connections.http2_streams", "100"),
    ("connections.http2_requests", "1000"),
    ("listen.*.tls.min_version", "TLSv1.2"),
    ("listen.*.tls.self_signed_if_missing", "false"),
    ("upstreams.*.tls.insecure_skip_verify", "false"),
    ("routes.*.handshake.exchanges.*.proof", "signature"),
    ("routes.*.on_failure.rate_limit", "local"),
    ("routes.*.on_failure.duplicates", "reject"),
    ("routes.*.signature.timestamp.optional", "false"),
    ("routes.*.signature.message.key_id", "false"),
    ("routes.*.signature.token.leeway", "1m"),
];

impl<'v> Side<'v> {
    pub(super) fn new(root: &'v Value, route: Option<&'v Value>) -> Self {
        let preset = route.and_then(|route| route.get("provider")).and_then(Value::as_str).and_then(provider::find);
        Self { root, route, preset }
    }

    /// What a value means, or its absence. `None`: nothing is set, and nothing stands for it.
    pub(super) fn means(&self, path: &str, written: Option<&Value>) -> Option<Value> {
        match (path, written) {
            ("routes.*.handshake", Some(Value::Bool(on))) => on.then(|| Value::Mapping(Mapping::new())),
            ("routes.*.content_types", Some(Value::Sequence(list))) if list.is_empty() => None,
            (_, Some(Value::Sequence(list))) if list.is_empty() => self.usual(path),
            (_, None | Some(Value::Null)) => self.usual(path),
            (_, Some(value)) => Some(value.clone()),
        }
    }

    /// A value for a reader. What stands for an absent one is told where it is not simply the default.
    pub(super) fn shown(&self, path: &str, written: Option<&Value>) -> String {
        match written {
            Some(value) if !value.is_null() => plain(value),
            _ => {
                let bare = Side { root: &Value::Null, route: None, preset: None };
                match self.usual(path) {
                    Some(usual) if Some(&usual) != bare.usual(path).as_ref() => format!("not set ({})", plain(&usual)),
                    _ => "not set".into(),
                }
            }
        }
    }

    /// What stands for a key that is not written.
    pub(super) fn usual(&self, path: &str) -> Option<Value> {
        match path {
            "routes.*.https" => {
                let written = self.root.get("https").filter(|https| !https.is_null()).cloned();
                written.or_else(|| self.usual("https"))
            }
            "routes.*.max_body" => {
                let written = self.root.get("limits").and_then(|limits| limits.get("max_body")).cloned();
                written.or_else(|| self.usual("limits.max_body"))
            }
            "routes.*.methods" => match self.preset {
                Some(preset) => Some(Value::from(preset.methods.clone())),
                None => Some(Value::from(vec!["POST"])),
            },
            "routes.*.content_types" => list(&self.preset?.content_types),
            "routes.*.content_encodings" => list(&self.preset?.content_encodings),
            "routes.*.signature" => serde_yaml::to_value(&self.preset?.signature).ok(),
            "routes.*.duplicates" => {
                let off = self.is_unverified() && self.written("event_id").is_none();
                off.then(|| Value::from("off"))
            }
            "routes.*.duplicates.remember" => {
                let window = self.preset.and_then(|preset| preset.scheme.replay_window()).unwrap_or_default();
                let remember = self.preset.map_or(REMEMBER, |preset| preset.remember).max(window);
                Some(Value::from(duration(remember)))
            }
            "routes.*.duplicates.replay_guard" => Some(Value::from(!self.is_unverified())),
            // As `compile` has it: what was signed is remembered for requests without the preset's ID.
            "routes.*.duplicates.missing" => {
                let own_id = self.written("event_id").is_none();
                let nothing = own_id && self.preset.is_none_or(|preset| preset.event_id.is_empty());
                Some(Value::from(if nothing || (own_id && self.has_replay_guard()) { "skip" } else { "reject" }))
            }
            _ => match path.split_once('.') {
                Some(("limits", key)) => serde_yaml::to_value(Limits::default()).ok()?.get(key).cloned(),
                Some(("timeouts", key)) => serde_yaml::to_value(Timeouts::default()).ok()?.get(key).cloned(),
                _ => {
                    let known = DEFAULTS.iter().find(|(pattern, _)| fits(pattern, path));
                    known.map(|(_, text)| Value::from(*text))
                }
            },
        }
    }

    fn written(&self, key: &str) -> Option<&'v Value> {
        self.route?.get(key).filter(|value| !value.is_null())
    }

    fn is_unverified(&self) -> bool {
        self.written("signature").and_then(Value::as_str) == Some("none")
    }

    fn has_replay_guard(&self) -> bool {
        let written = self.written("duplicates").and_then(|duplicates| duplicates.get("replay_guard"));
        written.and_then(Value::as_bool).unwrap_or(!self.is_unverified())
    }
}

/// The long form of what may be written short, so that the two can be compared.
pub(super) fn full(path: &str, mut value: Value) -> Value {
    let short = value.is_string();
    match path {
        "upstreams.*" if short => return one("url", value),
        "admin" if short && value.as_str() != Some("off") => return one("address", value),
        "routes.*.to" if short => return one("upstream", value),
        "state" if short => return one("memory", Value::Mapping(Mapping::new())),
        _ => {}
    }
    if let Some(map) = value.as_mapping_mut() {
        match path {
            "routes.*.signature.timestamp" | "routes.*.signature.message" => {
                let past = map.get("past").cloned().unwrap_or_else(|| "5m".into());
                for key in ["past", "future"] {
                    if !map.contains_key(key) {
                        map.insert(key.into(), past.clone());
                    }
                }
            }
            "listen.*.tls" if map.contains_key("client_ca") && !map.contains_key("client_certificate") => {
                map.insert("client_certificate".into(), "required".into());
            }
            _ => {}
        }
    }
    value
}

fn one(key: &str, value: Value) -> Value {
    let mut map = Mapping::new();
    map.insert(key.into(), value);
    Value::Mapping(map)
}

/// A preset's list; an empty one says nothing.
fn list(texts: &[String]) -> Option<Value> {
    (!texts.is_empty()).then(|| Value::from(texts.to_vec()))
}
