//! JSON read for the sake of a signature: written again as JavaScript's `JSON.stringify` writes it, for senders that
//! sign what they parsed instead of what they sent, and cut into the items that are signed one by one.
//!
//! Numbers keep no spelling but JavaScript's, names stand once, depth and number of values are bounded. What is forwarded
//! is never this text but the body as it came.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The deepest nesting that is read.
const MAX_DEPTH: usize = 64;

/// The most values that are read, objects and arrays among them. Events of senders that sign what they parsed have tens
/// of them, an order of a thousand lines about as many as this. Anybody may send a value in two bytes, and here it takes
/// some seventy: with this bound all of them together stay about as large as the default `max_body`.
pub(crate) const MAX_VALUES: usize = 20_000;

/// A value with the bytes that it was read from.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) span: &'a [u8],
    kind: Kind<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
    Array(Vec<Node<'a>>),
    Text(Cow<'a, str>),
    Number(&'a str),
    /// `true`, `false`, `null`.
    Word(&'a str),
}

/// How a value is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Members as they came.
    AsSent,
    /// Members in the order of their names, at every level.
    Sorted,
}

/// Reads a whole JSON text. The error says what is wrong and quotes nothing.
pub(crate) fn parse(text: &[u8]) -> Result<Node<'_>, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8")?;
    let mut reader = Reader { text, at: 0, left: MAX_VALUES };
    reader.skip();
    let node = reader.value(0)?;
    reader.skip();
    if reader.at == text.len() { Ok(node) } else { Err("has something behind its end") }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Values that may still be read.
    left: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a [u8] {
        self.text.as_bytes().get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self) {
        while matches!(self.rest().first(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.rest().first() == Some(&byte);
        self.at += usize::from(there);
        there
    }

    fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>, &'static str> {
        if depth > MAX_DEPTH {
            return Err("is nested too deep");
        }
        self.left = self.left.checked_sub(1).ok_or("has too many values")?;
        let start = self.at;
        let kind = match self.rest().first() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.array(depth)?,
            Some(b'"') => Kind::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => self.word()?,
            None => return Err("ends too early"),
        };
        Ok(Node { span: self.since(start).as_bytes(), kind })
    }

    fn object(&mut self, depth: usize) -> Result<Kind<'a>, &'static str> {
        let mut members: Vec<(Cow<'a, str>, Node<'a>)> = Vec::new();
        self.take(b'{');
        self.skip();
        if self.take(b'}') {
            return Ok(Kind::Object(members));
        }
        loop {
            self.skip();
            let name = self.string()?;
            self.skip();
            if !self.take(b':') {
                return Err("has a name without a value");
            }
            self.skip();
            members.push((name, self.value(depth + 1)?));
            self.skip();
            if self.take(b',') {
                continue;
            }
            if !self.take(b'}') {
                return Err("has an object without an end");
            }
            let mut names: Vec<&str> = members.iter().map(|(name, _)| &**name).collect();
            names.sort_unstable();
            if names.windows(2).any(|pair| matches!(pair, [a, b] if a == b)) {
                return Err("has a member twice");
            }
            return Ok(Kind::Object(members));
        }
    }

    fn array(&mut self, depth: usize) -> Result<Kind<'a>, &'static str> {
        let mut items = Vec::new();
        self.take(b'[');
        self.skip();
        if self.take(b']') {
            return Ok(Kind::Array(items));
        }
        loop {
            self.skip();
            items.push(self.value(depth + 1)?);
            self.skip();
            if self.take(b',') {
                continue;
            }
            return if self.take(b']') { Ok(Kind::Array(items)) } else { Err("has an array without an end") };
        }
    }

    fn string(&mut self) -> Result<Cow<'a, str>, &'static str> {
        const BROKEN: &str = "has a broken string";
        let start = self.at;
        if !self.take(b'"') {
            return Err("has a name that is no string");
        }
        loop {
            match self.rest().first() {
                Some(b'"') => {
                    self.at += 1;
                    break;
                }
                // The next byte belongs to the escape, whatever it is; serde_json judges it below.
                Some(b'\\') => self.at += 2,
                Some(0..=0x1f) | None => return Err(BROKEN),
                Some(_) => self.at += 1,
            }
        }
        let quoted = self.text.get(start..self.at).ok_or(BROKEN)?;
        match quoted.contains('\\') {
            true => serde_json::from_str::<String>(quoted).map(Cow::Owned).map_err(|_| BROKEN),
            false => quoted.get(1..quoted.len() - 1).map(Cow::Borrowed).ok_or(BROKEN),
        }
    }

    fn number(&mut self) -> Result<Kind<'a>, &'static str> {
        let start = self.at;
        while matches!(self.rest().first(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        let text = self.since(start);
        // JSON's grammar is serde_json's matter.
        match serde_json::from_str::<serde_json::Number>(text) {
            Ok(_) if text.len() <= 400 => Ok(Kind::Number(text)),
            _ => Err("has a broken number"),
        }
    }

    fn word(&mut self) -> Result<Kind<'a>, &'static str> {
        for word in ["true", "false", "null"] {
            if self.rest().starts_with(word.as_bytes()) {
                let start = self.at;
                self.at += word.len();
                return Ok(Kind::Word(self.since(start)));
            }
        }
        Err("is no JSON")
    }
}

impl<'a> Node<'a> {
    /// What a pointer leads to; `*` stands for every element of an array.
    pub(crate) fn find<'n>(&'n self, pointer: &str, most: usize) -> Result<Vec<&'n Node<'a>>, &'static str> {
        let mut found = vec![self];
        for name in pointer.split('/').skip(1) {
            let mut next = Vec::new();
            for node in found {
                match &node.kind {
                    Kind::Array(items) if name == "*" => next.extend(items),
                    Kind::Array(items) => next.extend(name.parse::<usize>().ok().and_then(|at| items.get(at))),
                    Kind::Object(members) => {
                        let name = name.replace("~1", "/").replace("~0", "~");
                        next.extend(members.iter().find(|(known, _)| *known == name).map(|(_, node)| node));
                    }
                    _ => {}
                }
                if next.len() > most {
                    return Err("holds too many items");
                }
            }
            found = next;
        }
        Ok(found)
    }

    /// How many elements the array at a pointer's first `*` has.
    pub(crate) fn count(&self, pointer: &str) -> usize {
        let before = pointer.split("/*").next().unwrap_or_default();
        let array = self.find(before, 1).ok().and_then(|found| found.first().map(|node| &node.kind));
        match array {
            Some(Kind::Array(items)) => items.len(),
            _ => 0,
        }
    }

    /// Written without white space.
    pub(crate) fn write(&self, order: Order, out: &mut String) {
        match &self.kind {
            Kind::Word(word) => out.push_str(word),
            Kind::Number(text) => out.push_str(&number(text)),
            Kind::Text(text) => quote(text, out),
            Kind::Array(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write(order, out);
                }
                out.push(']');
            }
            Kind::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                if order == Order::Sorted {
                    // As JavaScript sorts: by UTF-16 units.
                    members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                }
                out.push('{');
                for (at, (name, node)) in members.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    quote(name, out);
                    out.push(':');
                    node.write(order, out);
                }
                out.push('}');
            }
        }
    }
}

/// A string as `JSON.stringify` writes it.
pub(crate) fn quote(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(letter));
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// A number as JavaScript writes it (ECMA-262, Number::toString).
fn number(text: &str) -> Cow<'_, str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.len() <= 15 {
        return if digits == "0" { "0".into() } else { text.into() };
    }
    let Some(value) = text.parse::<f64>().ok().filter(|value| value.is_finite()) else { return "null".into() };
    if value == 0.0 {
        return "0".into();
    }
    // Rust and JavaScript agree on the shortest digits that lead back to the value.
    let written = format!("{:e}", value.abs());
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let digits = digits.replace('.', "");
    let point = exponent.parse::<i32>().unwrap_or_default() + 1;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    let (start, end) = digits.split_at(usize::try_from(point).unwrap_or_default().min(digits.len()));
    let magnitude = if count <= point && point <= 21 {
        format!("{digits}{}", zeros(point - count))
    } else if 0 < point && point <= 21 {
        format!("{start}.{end}")
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else {
        let sign = if point > 0 { '+' } else { '-' };
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        format!("{first}{dot}{rest}e{sign}{}", (point - 1).abs())
    };
    if value < 0.0 { format!("-{magnitude}").into() } else { magnitude.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str, order: Order) -> Result<String, &'static str> {
        let mut out = String::new();
        parse(text.as_bytes())?.write(order, &mut out);
        Ok(out)
    }

    /// What Node prints for `JSON.stringify(JSON.parse(text))`.
    #[test]
    fn values_are_written_as_javascript_writes_them() {
        for (text, expected) in [
            ("1", "1"),
            ("-0", "0"),
            ("0.0", "0"),
            ("1.0", "1"),
            ("10.50", "10.5"),
            ("1e3", "1000"),
            ("1E+2", "100"),
            ("1e21", "1e+21"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
            ("100000000000000000000", "100000000000000000000"),
            ("9007199254740993", "9007199254740992"),
            ("0.000001", "0.000001"),
            ("0.0000001", "1e-7"),
            ("1.5e-9", "1.5e-9"),
            ("-1.25", "-1.25"),
            ("3.9e-05", "0.000039"),
            ("0.5", "0.5"),
            ("12.5", "12.5"),
            ("123456789012345680000.5", "123456789012345680000"),
            (r#" [ 1 , "a" , true , null , {} , [] ] "#, r#"[1,"a",true,null,{},[]]"#),
            (r#"{"b":1,"a":2}"#, r#"{"b":1,"a":2}"#),
            (r#""\u00e9\/\u0041\t\u001f\u007f\"\\""#, "\"é/A\\t\\u001f\u{7f}\\\"\\\\\""),
            (r#""\ud83d\ude00""#, "\"😀\""),
        ] {
            assert_eq!(written(text, Order::AsSent).as_deref(), Ok(expected), "{text}");
        }
        let nested = r#"{ "b": {"z":1,"y":[{"d":1,"c":2}]}, "a": "x", "B": 1, "ä": 0 }"#;
        assert_eq!(
            written(nested, Order::Sorted).as_deref(),
            Ok(r#"{"B":1,"a":"x","b":{"y":[{"c":2,"d":1}],"z":1},"ä":0}"#)
        );
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "01",
            "1.",
            ".5",
            "+1",
            "0x1",
            "NaN",
            "1 2",
            "'a'",
            "\"a",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"a\nb\"",
            "{a:1}",
            "tru",
            "\u{feff}1",
        ] {
            assert!(written(text, Order::Sorted).is_err(), "{text:?}");
        }
        let deep = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let objects = |depth: usize| "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        for (depth, fine) in [(60, true), (MAX_DEPTH, true), (MAX_DEPTH + 2, false), (100_000, false)] {
            assert_eq!(written(&deep(depth), Order::Sorted).is_ok(), fine, "{depth}");
            assert_eq!(written(&objects(depth), Order::Sorted).is_ok(), fine, "{depth}");
        }
        for (length, fine) in [(400, true), (401, false)] {
            assert_eq!(parse(format!("0.{}", "1".repeat(length - 2)).as_bytes()).is_ok(), fine, "{length}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }

    #[test]
    fn values_are_read_up_to_a_bound() {
        let array = |count: usize| format!("[{}]", vec!["1"; count - 1].join(","));
        let object = |count: usize| {
            let members: Vec<String> = (1..count).rev().map(|at| format!("\"m{at}\":1")).collect();
            format!("{{{}}}", members.join(","))
        };
        let nested = |count: usize| format!("[{}1]", "[1],".repeat(count / 2 - 1));
        for text in [array(MAX_VALUES), object(MAX_VALUES), nested(MAX_VALUES)] {
            assert_eq!(parse(text.as_bytes()).err(), None, "{}", &text[..20]);
        }
        for text in [array(MAX_VALUES + 1), object(MAX_VALUES + 1), nested(MAX_VALUES + 2), array(500_000)] {
            assert_eq!(parse(text.as_bytes()).err(), Some("has too many values"), "{}", &text[..20]);
        }
    }

    #[test]
    fn items_are_cut_out_as_they_stand() {
        let node = parse(br#"{"items":[ {"Item": {"a" : 1}}, {"Item":{"a":2}} ],"x":[]}"#).unwrap();
        let spans = |pointer: &str, most| {
            node.find(pointer, most)
                .map(|found| found.iter().map(|node| String::from_utf8_lossy(node.span)).collect::<Vec<_>>())
        };
        assert_eq!(spans("/items/*/Item", 9).unwrap(), [r#"{"a" : 1}"#, r#"{"a":2}"#]);
        assert_eq!(spans("/items/1/Item/a", 9).unwrap(), ["2"]);
        assert!(spans("/items/*/Item", 1).is_err());
        assert!(spans("/x/*", 9).unwrap().is_empty() && spans("/y/*", 9).unwrap().is_empty());
        assert_eq!((node.count("/items/*/Item"), node.count("/y/*")), (2, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&text);
        }

        #[test]
        fn json_like_text_is_read_without_panic(text in r#"[\[\]{}:,"a\\u0-9eE.+\- ]{0,80}"#) {
            let _ = written(&text, Order::Sorted);
        }

        #[test]
        fn what_is_written_reads_the_same(value in any::<f64>().prop_filter("finite", |value| value.is_finite()), text in "\\PC{0,20}") {
            let json = serde_json::json!({ "n": value, "t": text }).to_string();
            let written = written(&json, Order::Sorted).unwrap();
            let node = parse(written.as_bytes()).unwrap();
            let span = |name| std::str::from_utf8(node.find(name, 1).unwrap()[0].span).unwrap().to_owned();
            // serde_json reads floats a little less exactly than they are written.
            prop_assert_eq!(span("/n").parse::<f64>().ok(), Some(if value == 0.0 { 0.0 } else { value }));
            prop_assert_eq!(serde_json::from_str::<String>(&span("/t")).unwrap(), text);
        }
    }
}
