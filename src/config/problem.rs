//! What is wrong with a configuration, said so that the reader can put it right without asking anybody.

use super::place::Position;
use serde::Serialize;
use std::fmt;

/// One thing that is wrong: where, what, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `routes[2].secrets[0].env`; empty where the whole file is meant.
    pub path: String,
    /// Line in the file, counted from 1, where one is known.
    pub line: Option<usize>,
    /// Column in that line, counted from 1.
    pub column: Option<usize>,
    /// What stands there, shortened. Never a secret.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub help: String,
}

/// All that is wrong with a configuration, in the order of its lines. `Display` writes it for people.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Problems {
    /// The file, as it was named.
    pub file: String,
    /// Never empty in an `Err`.
    pub problems: Vec<Problem>,
}

impl Problem {
    /// Without its line and column, which are known only where the text is at hand.
    pub(crate) fn new(path: impl fmt::Display, what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { path: path.to_string(), line: None, column: None, value: None, problem: what.into(), help: help.into() }
    }

    pub(super) fn at(mut self, position: Option<Position>) -> Self {
        self.line = position.map(|position| position.line);
        self.column = position.map(|position| position.column);
        self
    }

    /// One line without the file's name and the remedy: `routes[0].to: no upstream has this name: web`.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        if !self.path.is_empty() {
            text.push_str(&self.path);
            text.push_str(": ");
        }
        text.push_str(&self.problem);
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        text
    }
}

impl Problems {
    /// Sorted by line; the same thing is said once.
    pub(super) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| (a.line, a.column, &a.path, &a.problem).cmp(&(b.line, b.column, &b.path, &b.problem)));
        problems.dedup();
        Self { file: file.to_owned(), problems }
    }

    /// The same as an object for programs: `{"file": …, "problems": [{"path", "line", "column", "value", "problem", "help"}]}`.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "file": self.file, "problems": self.problems })
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.problems {
            match problem.line {
                Some(line) => writeln!(f, "{}:{line}: {}", self.file, problem.summary())?,
                None => writeln!(f, "{}: {}", self.file, problem.summary())?,
            }
            writeln!(f, "  help: {}", problem.help)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Parts a message from its remedy inside a deserializer's error, which is only one text.
const PART: char = '\u{1f}';

/// A deserializer's error with a remedy.
pub(super) fn custom<E: serde::de::Error>(what: impl fmt::Display, help: impl fmt::Display) -> E {
    E::custom(format_args!("{what}{PART}{help}"))
}

/// What a deserializer's error means.
pub(super) enum Meaning {
    /// A key that is not known here, and those that are.
    UnknownKey(String, Vec<String>),
    /// A key that must be there.
    MissingKey(String),
    /// Anything else: what is wrong, and the remedy.
    Wrong(String, String),
}

/// Reads a deserializer's error. Values that the texts quote are left out: they may be secrets.
pub(super) fn meaning(text: &str) -> Meaning {
    if let Some((key, rest)) = text.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        return Meaning::UnknownKey(key.to_owned(), quoted(rest));
    }
    if let Some(key) = text.strip_prefix("missing field `") {
        return Meaning::MissingKey(key.trim_end_matches('`').to_owned());
    }
    if let Some(rest) = text.strip_prefix("unknown variant `") {
        // The variant may hold backticks; the known ones come last.
        let known = rest.rfind("`, expected ").map(|at| quoted(&rest[at + 1..])).unwrap_or_default();
        return Meaning::Wrong("not a word that is known here".into(), format!("write {}", one_of(&known)));
    }
    let kinds = ["invalid type: ", "invalid value: ", "invalid length "];
    if let Some(rest) = kinds.iter().find_map(|kind| text.strip_prefix(kind)) {
        let (found, expected) = rest.rsplit_once(", expected ").unwrap_or((rest, "something else"));
        let found = match found.split(['`', '"']).next().unwrap_or_default().trim() {
            "unit value" => "nothing",
            "map" => "a mapping",
            "sequence" => "a list",
            "string" => "a text",
            "boolean" => "true or false",
            "integer" if found.contains("`-") => "a negative number",
            "integer" => "a number",
            "floating point" => "a number with a fraction",
            _ => "something else",
        };
        let (expected, help) = expected.split_once(PART).unwrap_or((expected, ""));
        let (expected, mut help) = (plain_words(expected), help.to_owned());
        if help.is_empty() {
            help = match (found, expected.as_str()) {
                ("a number" | "true or false" | "a number with a fraction", "a text") => "put it in quotes".into(),
                ("true or false", expected) if expected.contains("`off`") => {
                    format!("write {expected} here; Helm makes `false` of an `off` that stands without quotes: \"off\"")
                }
                ("a text", "a whole number") => "write a whole number, without quotes".into(),
                ("a mapping" | "a text", "a list") => "begin each element with `- `, also if there is only one".into(),
                _ => format!("write {expected} here"),
            };
        }
        return Meaning::Wrong(format!("{found} where {expected} belongs"), help);
    }
    match text.split_once(PART) {
        Some((what, help)) => Meaning::Wrong(what.to_owned(), help.to_owned()),
        None => Meaning::Wrong(text.to_owned(), "see the configuration reference".into()),
    }
}

/// `a`, `b` or `c`.
pub(super) fn one_of<S: AsRef<str>>(words: &[S]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match quoted.split_last() {
        None => "nothing".into(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// The known word that somebody who wrote this most likely meant.
pub(crate) fn nearest<'a, S: AsRef<str>>(written: &str, known: &'a [S]) -> Option<&'a str> {
    // Long texts are not typing errors, and the comparison is quadratic.
    if written.len() > 64 {
        return None;
    }
    let folded = fold(written);
    known
        .iter()
        .map(|word| (distance(&folded, &fold(word.as_ref())), word.as_ref()))
        .filter(|(far, word)| *far <= (word.len().min(written.len()) / 3).max(1))
        .min_by_key(|(far, _)| *far)
        .map(|(_, word)| word)
}

/// `rateLimit`, `rate-limit` and `rate_limit` are the same to somebody who looks for the right spelling.
fn fold(word: &str) -> Vec<char> {
    word.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// Levenshtein's, with a swap of neighbours counted once.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What Rust's types are called by people who write YAML.
fn plain_words(expected: &str) -> String {
    match expected {
        "a string" => "a text".into(),
        "a sequence" => "a list".into(),
        "a map" => "a mapping".into(),
        "a boolean" => "`true` or `false`".into(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number".into(),
        "a Value::Tag enum" => "a word".into(),
        _ if expected.starts_with("struct ") => "a mapping".into(),
        _ => expected.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_what_was_meant() {
        let known = ["rate_limit", "rate_limit_verified", "to", "path", "provider"];
        for (written, meant) in [
            ("rateLimit", Some("rate_limit")),
            ("rate-limits", Some("rate_limit")),
            ("ratelimit_verified", Some("rate_limit_verified")),
            ("provder", Some("provider")),
            ("porvider", Some("provider")),
            ("pth", Some("path")),
            ("queue", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, &known), meant, "{written}");
        }
    }

    #[test]
    fn values_in_a_deserializers_error_are_left_out() {
        for text in [
            "invalid type: string \"s3cret, expected x\", expected a map",
            "invalid type: integer `99`, expected a string",
            "unknown variant `s3cret`, expected `a` or `b`",
        ] {
            let Meaning::Wrong(what, help) = meaning(text) else { panic!("{text}") };
            assert!(!format!("{what}{help}").contains("s3cret") && !what.contains("99"), "{what} {help}");
        }
    }
}
