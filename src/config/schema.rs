//! The JSON Schema for editors, and the reference for readers: both from the types that read the configuration, so
//! neither can promise a key that does not exist.

use super::raw::Config;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use std::fmt::Write;

const ID: &str = "https://hookmoat.dev/schema/hookmoat.schema.json";
const BEGIN: &str = "<!-- config-reference:begin -->";
const END: &str = "<!-- config-reference:end -->";

/// The JSON Schema (draft 2020-12) of the configuration.
pub fn schema() -> Value {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Config>();
    schema.insert("$id".into(), ID.into());
    schema.insert("title".into(), "Hookmoat configuration".into());
    schema.to_value()
}

/// The same as text, the way `config/hookmoat.schema.json` holds it.
pub fn schema_text() -> String {
    format!("{:#}\n", schema())
}

/// Every key of the configuration as a table in Markdown: key, type, default, meaning.
pub fn reference_markdown() -> String {
    let schema = schema();
    let mut text = String::from("| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for row in rows(&schema) {
        let default = if row.required { "required".into() } else { row.default };
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", row.path, row.kind, default, row.meaning);
    }
    text
}

/// A text whose reference, between its markers, is the current one. `None`: the markers are not there.
pub fn reference_in(text: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n{END}{after}", reference_markdown()))
}

pub(super) struct Row {
    pub(super) path: String,
    kind: String,
    default: String,
    required: bool,
    meaning: String,
}

pub(super) fn rows(schema: &Value) -> Vec<Row> {
    let mut rows = Vec::new();
    walk(schema, schema, "", &mut Vec::new(), &mut rows);
    rows
}

/// Keys of a mapping, each followed by what is inside it. `within`: the mappings around this one.
fn walk<'a>(root: &'a Value, node: &'a Value, prefix: &str, within: &mut Vec<&'a Value>, rows: &mut Vec<Row>) {
    // A scheme may hold schemes: their keys are listed once.
    if within.iter().any(|outer| std::ptr::eq(*outer, node)) {
        return;
    }
    within.push(node);
    keys(root, node, prefix, within, rows);
    within.pop();
}

fn keys<'a>(root: &'a Value, node: &'a Value, prefix: &str, within: &mut Vec<&'a Value>, rows: &mut Vec<Row>) {
    let required: Vec<_> = array(node, "required").iter().filter_map(Value::as_str).collect();
    let Some(properties) = node.get("properties").and_then(Value::as_object) else { return };
    for (key, property) in properties {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let shape = shape(root, property);
        rows.push(Row {
            path: path.clone(),
            kind: one_of(&shape.kinds),
            default: default(property),
            required: required.contains(&key.as_str()),
            meaning: text(property.get("description").or_else(|| resolve(root, property).get("description"))),
        });
        for (suffix, inner) in shape.inside {
            walk(root, inner, &format!("{path}{suffix}"), within, rows);
        }
    }
}

/// Words are listed; kinds are told apart.
fn one_of(kinds: &[String]) -> String {
    let (words, others): (Vec<&str>, Vec<&str>) =
        kinds.iter().map(String::as_str).partition(|kind| kind.starts_with('`'));
    let words = (!words.is_empty()).then(|| words.join(", "));
    words.into_iter().chain(others.into_iter().map(String::from)).collect::<Vec<_>>().join(" or ")
}

/// What a value can be, and the mappings that it can hold.
#[derive(Default)]
struct Shape<'a> {
    kinds: Vec<String>,
    inside: Vec<(String, &'a Value)>,
}

impl<'a> Shape<'a> {
    fn add(&mut self, kind: impl Into<String>) {
        let kind = kind.into();
        if !self.kinds.contains(&kind) {
            self.kinds.push(kind);
        }
    }

    fn take(&mut self, other: Shape<'a>, suffix: &str, list: bool) {
        for kind in other.kinds {
            self.add(if list { format!("list of {kind}") } else { kind });
        }
        for (inner, node) in other.inside {
            // One or many: the keys are listed once.
            if !self.inside.iter().any(|(_, known)| std::ptr::eq(*known, node)) {
                self.inside.push((format!("{suffix}{inner}"), node));
            }
        }
    }
}

fn shape<'a>(root: &'a Value, node: &'a Value) -> Shape<'a> {
    let mut found = Shape::default();
    let name = node.get("$ref").and_then(Value::as_str).and_then(|path| path.rsplit('/').next());
    if let Some(name @ ("duration" | "size")) = name {
        found.add(name);
        return found;
    }
    let node = resolve(root, node);
    for choice in array(node, "anyOf").iter().chain(array(node, "oneOf")) {
        found.take(shape(root, choice), "", false);
    }
    if let Some(word) = node.get("const") {
        found.add(code(word));
        return found;
    }
    let words = array(node, "enum");
    if !words.is_empty() {
        found.add(words.iter().filter(|word| !word.is_null()).map(code).collect::<Vec<_>>().join(", "));
        return found;
    }
    let kinds: Vec<_> = match node.get("type") {
        Some(Value::String(kind)) => vec![kind.as_str()],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for kind in kinds {
        match kind {
            "array" => {
                if let Some(items) = node.get("items") {
                    found.take(shape(root, items), "[]", true);
                }
            }
            "object" if node.get("properties").is_some() => {
                found.add("mapping");
                found.inside.push((String::new(), node));
            }
            "object" => {
                let values = node.get("additionalProperties").filter(|values| values.is_object());
                let inner = values.map(|values| shape(root, values)).unwrap_or_default();
                found.add("mapping by name");
                found.take(Shape { kinds: Vec::new(), inside: inner.inside }, ".<name>", false);
            }
            "string" => found.add("text"),
            "integer" | "number" => found.add("number"),
            "boolean" => found.add("true or false"),
            _ => {}
        }
    }
    found
}

fn resolve<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let path = node.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    path.and_then(|path| root.pointer(path)).unwrap_or(node)
}

fn array<'a>(node: &'a Value, key: &str) -> &'a [Value] {
    node.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn default(property: &Value) -> String {
    // Where the default is no value but depends on something, the schema has it in words under a key of its own.
    if let Some(words) = property.get("x-default").and_then(Value::as_str) {
        return escape(words);
    }
    match property.get("default") {
        None | Some(Value::Null | Value::Object(_) | Value::Array(_)) => String::new(),
        Some(value) => code(value),
    }
}

fn code(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}

fn text(description: Option<&Value>) -> String {
    escape(description.and_then(Value::as_str).unwrap_or_default())
}

/// On one line, and without a cell's end.
fn escape(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn file(name: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    #[test]
    fn the_committed_schema_is_the_current_one() {
        let path = file("config/hookmoat.schema.json");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, schema_text()).unwrap();
        }
        assert!(
            std::fs::read_to_string(&path).unwrap_or_default() == schema_text(),
            "config/hookmoat.schema.json is out of date: run the tests with UPDATE_GOLDEN=1"
        );
    }

    #[test]
    fn the_written_reference_is_the_current_one() {
        let path = file("config/REFERENCE.md");
        let written = std::fs::read_to_string(&path).unwrap();
        let current = reference_in(&written).expect("markers");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &current).unwrap();
        } else {
            assert!(written == current, "config/REFERENCE.md is out of date: run the tests with UPDATE_GOLDEN=1");
        }
    }

    #[test]
    fn every_key_has_a_meaning_and_stands_in_the_complete_configuration() {
        let complete = std::fs::read_to_string(file("config/hookmoat.yaml")).unwrap();
        for row in rows(&schema()) {
            assert!(!row.meaning.is_empty(), "{} has no doc comment", row.path);
            assert!(!row.kind.is_empty(), "{} has no type", row.path);
            // The scheme language has its own reference; the file only shows an example of it.
            if row.path.starts_with("routes[].signature.")
                || row.path.starts_with("routes[].handshake.exchanges[]")
                || row.path.contains(".source")
            {
                continue;
            }
            let key = row.path.rsplit('.').next().unwrap_or_default();
            assert!(complete.contains(&format!("{key}:")), "{} is not in config/hookmoat.yaml", row.path);
        }
    }

    #[test]
    fn the_reference_replaces_only_what_is_between_its_markers() {
        assert_eq!(reference_in("no markers"), None);
        let text = reference_in(&format!("a\n{BEGIN}\nstale\n{END}\nz\n")).unwrap();
        assert!(text.starts_with("a\n") && text.ends_with("\nz\n") && !text.contains("stale"));
        assert_eq!(reference_in(&text).as_deref(), Some(text.as_str()));
        assert!(text.contains("| `routes[].rate_limit.every` | duration | required |"), "{text}");
        assert!(text.contains("| `timeouts.header` | duration | `10s` |"), "{text}");
    }
}
