//! A JSON text in the spellings that libraries give it.
//!
//! Serialising is where signatures break: a sender signs `JSON.stringify(event)` and sends something else, or a gateway
//! parses the body and writes it anew. Numbers keep their digits and members their order, so that only the spelling
//! changes.

use std::fmt::Write as _;

/// The deepest text that is taken apart.
const MAX_DEPTH: usize = 64;

/// A value with numbers and words as they stand.
#[derive(Clone, Debug, PartialEq)]
enum Value<'a> {
    Plain(&'a str),
    Text(String),
    List(Vec<Value<'a>>),
    Object(Vec<(String, Value<'a>)>),
}

/// How a library writes JSON.
#[derive(Clone, Copy, Debug, Default)]
struct Style {
    /// Behind `,` and `:` on one line.
    comma: &'static str,
    colon: &'static str,
    /// One level of indentation; none: everything on one line.
    indent: Option<&'static str>,
    /// `\u00e9` for what is not ASCII.
    ascii: bool,
    /// `\/`.
    slashes: bool,
    /// `\u003c` for `<`, `>`, `&`, as Go and Rails write.
    html: bool,
    /// Members in the order of their names.
    sorted: bool,
}

/// The spellings, each with the words that name it: `compact`, `as Python writes it`, …
///
/// `None`: not a JSON object or list, or one that is too deep.
pub(super) fn spellings(body: &[u8]) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let value = parse(std::str::from_utf8(body).ok()?)?;
    let compact = Style::default();
    let python = Style { comma: " ", colon: " ", ascii: true, ..compact };
    let styles = [
        ("compact", compact),
        ("compact with `\\/` for every slash, as PHP writes", Style { slashes: true, ascii: true, ..compact }),
        ("compact with `\\/`, other letters as they are", Style { slashes: true, ..compact }),
        ("compact with \\u escapes for all that is not ASCII", Style { ascii: true, ..compact }),
        ("compact with \\u003c for `<`, `>` and `&`, as Go and Rails write", Style { html: true, ..compact }),
        ("with a space behind `,` and `:`, as Python's json.dumps writes", python),
        ("with a space behind `,` and `:`, other letters as they are", Style { ascii: false, ..python }),
        ("with a space behind `:`", Style { colon: " ", ..compact }),
        ("with its members sorted, compact", Style { sorted: true, ..compact }),
        ("with its members sorted, compact, ASCII only", Style { sorted: true, ascii: true, ..compact }),
        ("with its members sorted, as Python writes with sort_keys", Style { sorted: true, ..python }),
        ("indented by two spaces", Style { indent: Some("  "), colon: " ", ..compact }),
        ("indented by two spaces, ASCII only", Style { indent: Some("  "), colon: " ", ascii: true, ..compact }),
        ("indented by four spaces", Style { indent: Some("    "), colon: " ", ..compact }),
        ("indented by four spaces, ASCII only", Style { indent: Some("    "), colon: " ", ascii: true, ..compact }),
        ("indented by tabs", Style { indent: Some("\t"), colon: " ", ..compact }),
    ];
    let written = styles.into_iter().map(|(name, style)| {
        let mut text = String::with_capacity(body.len());
        style.write(&value, 0, &mut text);
        (name, text.into_bytes())
    });
    Some(written.collect())
}

/// The text inside a JSON string literal: what was serialised twice.
pub(super) fn unquoted(body: &[u8]) -> Option<String> {
    serde_json::from_slice(body.trim_ascii()).ok()
}

/// A text as a JSON string literal.
pub(super) fn quoted(body: &[u8]) -> Option<String> {
    let mut text = String::new();
    Style::default().write_text(std::str::from_utf8(body).ok()?, &mut text);
    Some(text)
}

impl Style {
    fn write(&self, value: &Value<'_>, level: usize, out: &mut String) {
        match value {
            Value::Plain(text) => out.push_str(text),
            Value::Text(text) => self.write_text(text, out),
            Value::List(items) => {
                self.around('[', ']', items, level, out, |style, item, out| style.write(item, level + 1, out));
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if self.sorted {
                    members.sort_by(|one, other| one.0.cmp(&other.0));
                }
                self.around('{', '}', &members, level, out, |style, (name, value), out| {
                    style.write_text(name, out);
                    out.push(':');
                    out.push_str(style.colon);
                    style.write(value, level + 1, out);
                });
            }
        }
    }

    fn around<T>(
        &self,
        open: char,
        close: char,
        items: &[T],
        level: usize,
        out: &mut String,
        write: impl Fn(&Self, &T, &mut String),
    ) {
        let line = |level: usize, out: &mut String| {
            if let Some(indent) = self.indent.filter(|_| !items.is_empty()) {
                out.push('\n');
                out.push_str(&indent.repeat(level));
            }
        };
        out.push(open);
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                out.push(',');
                out.push_str(self.comma);
            }
            line(level + 1, out);
            write(self, item, out);
        }
        line(level, out);
        out.push(close);
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for letter in text.chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '/' if self.slashes => out.push_str("\\/"),
                letter if letter < ' ' || (self.html && "<>&".contains(letter)) => {
                    let _ = write!(out, "\\u{:04x}", u32::from(letter));
                }
                letter if self.ascii && !letter.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in letter.encode_utf16(&mut units) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                letter => out.push(letter),
            }
        }
        out.push('"');
    }
}

fn parse(text: &str) -> Option<Value<'_>> {
    // Judged as a whole first: what follows may then trust the grammar.
    serde_json::from_str::<serde::de::IgnoredAny>(text).ok()?;
    if !text.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let mut rest = text;
    value(&mut rest, 0)
}

fn value<'a>(rest: &mut &'a str, depth: usize) -> Option<Value<'a>> {
    if depth > MAX_DEPTH {
        return None;
    }
    *rest = rest.trim_start();
    match rest.as_bytes().first()? {
        b'"' => string(rest).map(Value::Text),
        b'[' => {
            let mut items = Vec::new();
            list(rest, ']', |rest| {
                items.push(value(rest, depth + 1)?);
                Some(())
            })?;
            Some(Value::List(items))
        }
        b'{' => {
            let mut members = Vec::new();
            list(rest, '}', |rest| {
                let name = string(rest)?;
                *rest = rest.trim_start().strip_prefix(':')?;
                members.push((name, value(rest, depth + 1)?));
                Some(())
            })?;
            Some(Value::Object(members))
        }
        _ => {
            let end = rest.find([',', ']', '}', ' ', '\n', '\r', '\t']).unwrap_or(rest.len());
            let (plain, behind) = rest.split_at_checked(end)?;
            *rest = behind;
            Some(Value::Plain(plain))
        }
    }
}

fn list<'a>(rest: &mut &'a str, close: char, mut item: impl FnMut(&mut &'a str) -> Option<()>) -> Option<()> {
    *rest = rest.get(1..)?.trim_start();
    loop {
        if let Some(behind) = rest.strip_prefix(close) {
            *rest = behind;
            return Some(());
        }
        item(rest)?;
        *rest = rest.trim_start();
        *rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
}

fn string(rest: &mut &str) -> Option<String> {
    let bytes = rest.as_bytes();
    let mut end = 1;
    while *bytes.get(end)? != b'"' {
        end += if bytes.get(end) == Some(&b'\\') { 2 } else { 1 };
    }
    let (literal, behind) = rest.split_at_checked(end + 1)?;
    *rest = behind;
    serde_json::from_str(literal).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spelled(body: &str, name: &str) -> String {
        let all = spellings(body.as_bytes()).unwrap();
        let found = all.into_iter().find(|(known, _)| *known == name);
        String::from_utf8(found.unwrap_or_else(|| panic!("no spelling `{name}`")).1).unwrap()
    }

    #[test]
    fn the_spellings_are_those_of_the_libraries() {
        let body = r#" {"b": 1.50, "a":["é","a/b",{}, []],"c":"<\ud83d\ude00>","n":null} "#;
        for (name, expected) in [
            ("compact", r#"{"b":1.50,"a":["é","a/b",{},[]],"c":"<😀>","n":null}"#),
            (
                "compact with `\\/` for every slash, as PHP writes",
                r#"{"b":1.50,"a":["\u00e9","a\/b",{},[]],"c":"<\ud83d\ude00>","n":null}"#,
            ),
            (
                "with a space behind `,` and `:`, as Python's json.dumps writes",
                r#"{"b": 1.50, "a": ["\u00e9", "a/b", {}, []], "c": "<\ud83d\ude00>", "n": null}"#,
            ),
            ("with its members sorted, compact", r#"{"a":["é","a/b",{},[]],"b":1.50,"c":"<😀>","n":null}"#),
            (
                "compact with \\u003c for `<`, `>` and `&`, as Go and Rails write",
                r#"{"b":1.50,"a":["é","a/b",{},[]],"c":"\u003c😀\u003e","n":null}"#,
            ),
        ] {
            assert_eq!(spelled(body, name), expected, "{name}");
        }
        assert_eq!(
            spelled(r#"{"a":[1,{"b":2}],"c":{},"d":[]}"#, "indented by two spaces"),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"c\": {},\n  \"d\": []\n}"
        );
    }

    #[test]
    fn what_is_no_object_or_list_has_no_spellings() {
        let deep = "[".repeat(70) + &"]".repeat(70);
        for body in ["", "x", "1", "\"a\"", "{", "{} {}", "{\"a\":01}", &deep] {
            assert!(spellings(body.as_bytes()).is_none(), "{body}");
        }
        assert!(spellings(b"{\"a\":\"\xff\"}").is_none());
        assert_eq!(unquoted(br#" "{\"a\":1}" "#).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(quoted(br#"{"a":1}"#).as_deref(), Some(r#""{\"a\":1}""#));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\",:\\\\u0-9a é]{0,60}") {
            let _ = (spellings(&body), spellings(text.as_bytes()), unquoted(&body), quoted(&body));
        }

        #[test]
        fn every_spelling_says_the_same(text in "[ -~é😀]{0,20}", number in any::<i64>()) {
            let value = serde_json::json!({ "t": text, "n": [number, { "x": text }], text.clone(): null });
            for (name, spelling) in spellings(value.to_string().as_bytes()).unwrap() {
                prop_assert_eq!(&serde_json::from_slice::<serde_json::Value>(&spelling).unwrap(), &value, "{}", name);
            }
        }
    }
}
