//! Values in words: what a reader is shown, what counts as the same, and what is never shown.

use crate::config::units::{Share, Size, Span};
use serde_yaml::Value;

/// The longest value that is shown whole.
const SHOWN: usize = 120;

/// Of a longer one, what is shown before the place where two of them differ.
const BEFORE: usize = 20;

/// `old → new`; of long values the part from where they differ.
pub(super) fn difference(old: &str, new: &str) -> String {
    // What differs is hidden.
    if old == new {
        return "changed".into();
    }
    let long = old.chars().count().max(new.chars().count()) > SHOWN;
    let alike = old.chars().zip(new.chars()).take_while(|(a, b)| a == b).count();
    let start = if long { alike.saturating_sub(BEFORE) } else { 0 };
    format!("{} → {}", excerpt(old, start), excerpt(new, start))
}

/// At most so much of a text as is shown, from a place on.
pub(super) fn excerpt(text: &str, start: usize) -> String {
    let before = if start > 0 { "…" } else { "" };
    let part: String = text.chars().skip(start).take(SHOWN).collect();
    let after = if text.chars().count() > start + SHOWN { "…" } else { "" };
    format!("{before}{part}{after}")
}

/// Milliseconds of a duration, bytes of a size, percent, or the number itself.
pub(super) fn measure(text: &str) -> Option<u64> {
    let span = Span::parse(text).and_then(|span| u64::try_from(span.0.as_millis()).ok());
    let percent = || Share::parse(text).map(|share| u64::from(share.0));
    span.or_else(|| Size::parse(text).map(|size| size.0 as u64)).or_else(percent).or_else(|| text.parse().ok())
}

/// Equal for whoever reads it: `60s` and `1m` are.
pub(super) fn same(old: Option<&Value>, new: Option<&Value>) -> bool {
    let scalar = |value: &Value| !matches!(value, Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_));
    match (old, new) {
        (Some(a), Some(b)) if scalar(a) && scalar(b) => {
            let (a, b) = (plain(a), plain(b));
            a == b || measure(&a).is_some_and(|amount| measure(&b) == Some(amount))
        }
        (a, b) => a == b,
    }
}

/// What a list holds; a single value is a list of one.
pub(super) fn elements(value: Option<&Value>) -> Vec<Value> {
    match value {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Sequence(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    }
}

/// May the values under this key be secrets?
pub(super) fn hidden(path: &str) -> bool {
    let hiding = ["secret", "secrets", "insecure_literal", "password", "headers"];
    // Brokers' and stores' URLs may hold a password, backends' may not. `limits.headers` is a number.
    path != "limits.headers"
        && path.split('.').any(|step| hiding.contains(&step) || (step == "url" && !path.starts_with("upstreams.")))
}

/// A value in one line, secrets left out.
pub(super) fn plain(value: &Value) -> String {
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
                let open = !hidden(&key) || (key == "url" && is_public(value));
                let value = if open { plain(value) } else { "…".to_owned() };
                format!("{key}: {value}")
            });
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Tagged(tagged) => plain(&tagged.value),
    }
}

/// The URL of something that is published, with no place for a password or a token.
fn is_public(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with("https://") && !text.contains(['@', '?', '#']))
}
