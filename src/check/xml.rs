//! One value out of an XML body: SOAP messages (Salesforce), chat messages (WeChat).
//!
//! ```text
//! /Envelope/Body/notifications/OrganizationId             the text of an element that stands exactly once
//! /Envelope/Body/notifications/Notification[1]/Id         of the first of several
//! /Envelope/Body/notifications/Notification[*]/Id         of all of them
//! /Envelope/Body/notifications/Notification[1]/sObject/@type   an attribute
//! ```
//!
//! Names are local: prefixes and namespaces are not looked at, so that an element of the same name under another
//! namespace counts as a second one and is refused where one is wanted. What two parsers could read differently is
//! refused as well: document types (and with them entities of one's own), processing instructions, other encodings than
//! UTF-8, a comment or an element within a text. The body is walked once and nothing is built of it.

use super::source::join;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::borrow::Cow;
use std::fmt;

/// The deepest element that a body may hold.
const MAX_DEPTH: usize = 64;

/// The most attributes of an element whose attribute is asked for: each name is compared with those before it.
const MAX_ATTRIBUTES: usize = 256;

/// A path to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XmlPath {
    written: Box<str>,
    steps: Box<[Step]>,
    /// `None`: the element's text.
    attribute: Option<Box<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    name: Box<str>,
    which: Which,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// The only one of its name.
    Only,
    /// Counted from one.
    Nth(usize),
    /// Every one.
    All,
}

impl XmlPath {
    /// Reads the written form; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("`{text}` is not a path into XML: {what}"));
        let Some(rest) = text.strip_prefix('/') else { return wrong("it starts with `/`, as in /Envelope/Body/Id") };
        let mut parts: Vec<&str> = rest.split('/').collect();
        let attribute = match parts.last().and_then(|last| last.strip_prefix('@')) {
            Some(name) if is_name(name) => Some(name.into()),
            Some(_) => return wrong("the attribute has no name"),
            None => None,
        };
        if attribute.is_some() {
            parts.pop();
        }
        let mut steps = Vec::new();
        for part in parts {
            let (name, which) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
                None => (part, Which::Only),
                Some((name, "*")) => (name, Which::All),
                Some((name, digits)) => match digits.parse() {
                    Ok(nth) if nth > 0 && !digits.starts_with(['0', '+']) => (name, Which::Nth(nth)),
                    _ => return wrong("in brackets stands `*` or a number from 1"),
                },
            };
            if !is_name(name) {
                return wrong("between two `/` stands the name of an element, without a prefix");
            }
            steps.push(Step { name: name.into(), which });
        }
        if steps.is_empty() || steps.len() > MAX_DEPTH {
            return wrong("it names at least one element and at most 64");
        }
        Ok(Self { written: text.into(), steps: steps.into(), attribute })
    }

    /// The value. `Ok(None)`: it does not stand there, or the body is no XML at all.
    pub fn read(&self, body: &[u8]) -> Result<Option<String>, String> {
        let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        if text.trim_ascii_start().first() != Some(&b'<') {
            return Ok(None);
        }
        let text = std::str::from_utf8(text).map_err(|_| "the XML is not UTF-8")?;
        let mut reader = Reader::from_str(text);
        reader.config_mut().check_comments = true;
        let mut walk = Walk { path: self, depth: 0, matched: 0, counts: vec![0; self.steps.len()], values: Vec::new() };
        let mut ended = false;
        loop {
            match reader.read_event().map_err(|_| "the XML is broken")? {
                Event::Decl(declared) => {
                    if let Some(encoding) = declared.encoding() {
                        let encoding = encoding.map_err(|_| "the XML declaration is broken")?;
                        if !encoding.eq_ignore_ascii_case(b"utf-8") {
                            return Err("the XML declares another encoding than UTF-8".into());
                        }
                    }
                }
                Event::Start(_) | Event::Empty(_) if ended => return Err("the XML has a second root".into()),
                Event::Start(element) => {
                    walk.open(&element)?;
                    if walk.depth > MAX_DEPTH {
                        return Err(format!("the XML is deeper than {MAX_DEPTH} elements"));
                    }
                }
                Event::Empty(element) => {
                    walk.open(&element)?;
                    walk.close();
                    ended = walk.depth == 0;
                }
                Event::End(_) => {
                    walk.close();
                    ended = walk.depth == 0;
                }
                Event::Text(part) => {
                    let part = part.decode().map_err(|_| "the XML is not UTF-8")?;
                    if walk.depth == 0 && !part.trim().is_empty() {
                        return Err("text stands outside the XML's root".into());
                    }
                    walk.text(&part);
                }
                Event::CData(part) => {
                    let part = part.decode().map_err(|_| "the XML is not UTF-8")?;
                    walk.text(&part);
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|_| "the XML is not UTF-8")?;
                    match reference.resolve_char_ref() {
                        Ok(Some(letter)) if is_char(letter) => walk.text(letter.encode_utf8(&mut [0; 4])),
                        Ok(None) => {
                            walk.text(resolve_predefined_entity(&name).ok_or("the XML holds an unknown entity")?)
                        }
                        _ => return Err("the XML holds a broken character reference".into()),
                    }
                }
                Event::Comment(_) if walk.in_text() => {
                    return Err("a comment stands within the text that was asked for".into());
                }
                Event::Comment(_) => {}
                Event::DocType(_) => return Err("the XML has a document type, which is never read".into()),
                Event::PI(_) => return Err("the XML has a processing instruction".into()),
                Event::Eof if ended => break,
                Event::Eof => return Err("the XML is not whole".into()),
            }
        }
        let several = self.steps.iter().any(|step| step.which == Which::All);
        if several { Ok(join(walk.values)) } else { Ok(walk.values.pop()) }
    }
}

impl XmlPath {
    /// The body with this text at the path, in place of one that stands there; elements that are missing are made. For
    /// signing as the sender does. `None`: the body is another XML, or the path leads to an attribute.
    pub(crate) fn put(&self, body: &[u8], value: &str) -> Option<Vec<u8>> {
        let value = quick_xml::escape::escape(value);
        let tags = |steps: &[Step]| {
            let open: String = steps.iter().map(|step| format!("<{}>", step.name)).collect();
            let close: String = steps.iter().rev().map(|step| format!("</{}>", step.name)).collect();
            format!("{open}{value}{close}")
        };
        if self.attribute.is_some() {
            return None;
        }
        if body.trim_ascii_start().first() != Some(&b'<') {
            return Some(tags(&self.steps).into_bytes());
        }
        let text = std::str::from_utf8(body).ok()?;
        let mut reader = Reader::from_str(text);
        let mut walk = Walk { path: self, depth: 0, matched: 0, counts: vec![0; self.steps.len()], values: Vec::new() };
        // Where the deepest element on the way ends, and where its text begins.
        let (mut best, mut begun): (Option<(usize, usize)>, usize) = (None, 0);
        loop {
            let before = usize::try_from(reader.buffer_position()).ok()?;
            match reader.read_event().ok()? {
                Event::Start(element) => {
                    walk.open(&element).ok()?;
                    begun = usize::try_from(reader.buffer_position()).ok()?;
                }
                Event::End(_) => {
                    if walk.depth == walk.matched && best.is_none_or(|(depth, _)| depth < walk.depth) {
                        best = Some((walk.depth, before));
                        if walk.matched == self.steps.len() {
                            return Some([text.get(..begun)?, &value, text.get(before..)?].concat().into_bytes());
                        }
                    }
                    walk.close();
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let (depth, at) = best?;
        Some([text.get(..at)?, &tags(self.steps.get(depth..)?), text.get(at..)?].concat().into_bytes())
    }
}

/// As written.
impl fmt::Display for XmlPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

struct Walk<'p> {
    path: &'p XmlPath,
    /// Elements that are open.
    depth: usize,
    /// How many of them, from the root on, the path names.
    matched: usize,
    /// How many elements of a step's name its parent had so far.
    counts: Vec<usize>,
    /// Texts of the elements that the path names in full; the last one is still being read while it is open.
    values: Vec<String>,
}

impl Walk<'_> {
    /// Is the innermost open element the one whose text is wanted?
    fn in_text(&self) -> bool {
        self.path.attribute.is_none() && self.matched == self.path.steps.len() && self.depth == self.matched
    }

    fn open(&mut self, element: &BytesStart<'_>) -> Result<(), String> {
        if self.in_text() {
            return Err(format!("an element stands in {}, where plain text was expected", self.path));
        }
        let at = self.depth;
        self.depth += 1;
        if self.matched != at {
            return Ok(());
        }
        let Some(step) = self.path.steps.get(at) else { return Ok(()) };
        if element.local_name().as_ref() != step.name.as_bytes() {
            return Ok(());
        }
        let Some(count) = self.counts.get_mut(at) else { return Ok(()) };
        *count += 1;
        match step.which {
            Which::Only if *count > 1 => return Err(format!("element {} stands more than once", step.name)),
            Which::Nth(nth) if nth != *count => return Ok(()),
            _ => {}
        }
        self.matched = self.depth;
        if let Some(below) = self.counts.get_mut(self.depth) {
            *below = 0;
        }
        if self.matched == self.path.steps.len() {
            match &self.path.attribute {
                None => self.values.push(String::new()),
                Some(name) => self.values.extend(attribute(element, name)?),
            }
        }
        Ok(())
    }

    fn close(&mut self) {
        if self.matched == self.depth {
            self.matched = self.matched.saturating_sub(1);
        }
        self.depth = self.depth.saturating_sub(1);
    }

    fn text(&mut self, part: &str) {
        if self.in_text()
            && let Some(value) = self.values.last_mut()
        {
            value.push_str(part);
        }
    }
}

/// The value of an attribute by its local name. Of a name with a prefix (`xsi:type="sf:Lead"`), which is what typed
/// attributes hold, the part behind it.
fn attribute(element: &BytesStart<'_>, name: &str) -> Result<Option<String>, String> {
    let mut found = None;
    for (before, attribute) in element.attributes().enumerate() {
        if before == MAX_ATTRIBUTES {
            return Err(format!("an element has more than {MAX_ATTRIBUTES} attributes"));
        }
        let attribute = attribute.map_err(|_| "the XML has a broken attribute")?;
        if attribute.key.local_name().as_ref() != name.as_bytes() {
            continue;
        }
        if found.is_some() {
            return Err(format!("attribute {name} stands more than once"));
        }
        let value: Cow<'_, str> =
            attribute.normalized_value(XmlVersion::Implicit1_0).map_err(|_| "the XML has a broken attribute")?;
        found = Some(match value.split_once(':') {
            Some((prefix, local)) if is_name(prefix) && is_name(local) => local.to_owned(),
            _ => value.into_owned(),
        });
    }
    Ok(found)
}

/// An element's local name. XML allows more; no sender's names need it.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

/// Char of XML 1.0, section 2.2.
fn is_char(letter: char) -> bool {
    matches!(letter, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(path: &str, body: &str) -> Result<Option<String>, String> {
        XmlPath::parse(path).unwrap().read(body.as_bytes())
    }

    const MESSAGE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <soapenv:Body><notifications xmlns="http://soap.sforce.com/2005/09/outbound">
  <OrganizationId>00D000000000001AAA</OrganizationId><SessionId xsi:nil="true"/><!-- no session -->
  <Notification><Id>04l1</Id><sObject xsi:type="sf:Lead" xmlns:sf="urn:x"><sf:Id>00Q1</sf:Id><sf:Name>A &amp; B</sf:Name></sObject></Notification>
  <Notification><Id>04l2</Id><sObject xsi:type="sf:Lead" xmlns:sf="urn:x"><sf:Id>00Q2</sf:Id></sObject></Notification>
 </notifications></soapenv:Body></soapenv:Envelope>
"#;

    #[test]
    fn values_are_found_by_the_names_on_their_way() {
        let base = "/Envelope/Body/notifications";
        for (path, expected) in [
            ("OrganizationId", Some("00D000000000001AAA")),
            ("SessionId", Some("")),
            ("SessionId/@nil", Some("true")),
            ("Notification[1]/Id", Some("04l1")),
            ("Notification[2]/Id", Some("04l2")),
            ("Notification[3]/Id", None),
            ("Notification[*]/Id", Some("04l1,04l2")),
            ("Notification[1]/sObject/@type", Some("Lead")),
            ("Notification[1]/sObject/Name", Some("A & B")),
            ("Notification[1]/sObject/@other", None),
            ("Nothing", None),
            ("OrganizationId/Id", None),
        ] {
            assert_eq!(read(&format!("{base}/{path}"), MESSAGE), Ok(expected.map(str::to_owned)), "{path}");
        }
        assert!(read(&format!("{base}/Notification/Id"), MESSAGE).unwrap_err().contains("more than once"));
        assert!(read(base, MESSAGE).unwrap_err().contains("plain text"));
    }

    #[test]
    fn texts_are_put_together_and_references_resolved() {
        for (body, expected) in [
            ("<xml><a><![CDATA[x<y]]></a></xml>", "x<y"),
            ("<xml><a>x<![CDATA[y]]>&#65;&#x42;&lt;&quot;</a></xml>", "xyAB<\""),
            ("\u{feff}<xml><a>\u{e9}</a></xml>\n", "\u{e9}"),
            (" <xml ><a > x </a ></xml >", " x "),
            ("<xml><b><a>no</a></b><a/></xml>", ""),
        ] {
            assert_eq!(read("/xml/a", body), Ok(Some(expected.into())), "{body}");
        }
        for body in ["", "{}", "a=1", "<xml><b>1</b></xml>", "<other><a>1</a></other>"] {
            assert_eq!(read("/xml/a", body), Ok(None), "{body}");
        }
    }

    #[test]
    fn xml_that_could_be_read_two_ways_is_refused() {
        for body in [
            "<xml><a>1</a><a>2</a></xml>",
            "<xml><a>1</a><x:a>2</x:a></xml>",
            "<xml><a>1<!-- --></a></xml>",
            "<xml><a>1<b/></a></xml>",
            "<xml><a>&x;</a></xml>",
            "<xml><a>&#0;</a></xml>",
            "<xml><a>&#xd800;</a></xml>",
            "<xml><a>& </a></xml>",
            "<xml><a>1</a></xml><xml/>",
            "<xml><a>1</a></xml><other/>",
            "<xml><a>1</a></xml><other></other>",
            "<other/><xml><a>1</a></xml>",
            "<xml><a>&#1;</a></xml>",
            "<xml><a>&#xfffe;</a></xml>",
            "<xml><a>1</a></xml>x",
            "<xml><a>1</a>",
            "<xml><a>1</b></xml>",
            "<xml><a>1</a></xml",
            "<!DOCTYPE xml [<!ENTITY x \"1\">]><xml><a>&x;</a></xml>",
            "<!DOCTYPE xml SYSTEM \"file:///etc/passwd\"><xml><a>1</a></xml>",
            "<xml><?php x ?><a>1</a></xml>",
            "<?xml version=\"1.0\" encoding=\"utf-7\"?><xml><a>1</a></xml>",
            "<xml><!-- a -- b --><a>1</a></xml>",
            "<",
            "<xml",
        ] {
            assert!(read("/xml/a", body).is_err(), "{body}");
        }
        assert!(XmlPath::parse("/xml/a").unwrap().read(b"<xml><a>\xff</a></xml>").is_err());
        assert!(read("/xml/a/@b", "<xml><a b='1' b='2'/></xml>").is_err());
        assert!(read("/xml/a/@b", "<xml><a b='1' x:b='2'/></xml>").is_err());
    }

    #[test]
    fn depth_is_bounded_and_a_billion_laughs_are_none() {
        let deep = |levels: usize| format!("<xml><a>1</a>{}{}</xml>", "<b>".repeat(levels), "</b>".repeat(levels));
        assert_eq!(read("/xml/a", &deep(63)), Ok(Some("1".into())));
        assert!(read("/xml/a", &deep(64)).unwrap_err().contains("deeper"));
        assert!(read("/xml/a", &deep(200_000)).is_err());
    }

    #[test]
    fn only_a_qualified_name_loses_its_prefix() {
        for (value, expected) in [
            ("sf:Lead", "Lead"),
            ("http://a.example/", "http://a.example/"),
            (":a", ":a"),
            ("a:", "a:"),
            ("1:a", "1:a"),
            ("a:b c", "a:b c"),
        ] {
            let body = format!("<xml><a b='{value}'/></xml>");
            assert_eq!(read("/xml/a/@b", &body), Ok(Some(expected.into())), "{value}");
        }
    }

    #[test]
    fn attributes_are_bounded() {
        let many = |count: usize| {
            let others: String = (1..count).map(|number| format!(" a{number}='1'")).collect();
            format!("<xml><a{others} b='2'/></xml>")
        };
        assert_eq!(read("/xml/a/@b", &many(MAX_ATTRIBUTES)), Ok(Some("2".into())));
        for count in [MAX_ATTRIBUTES + 1, 100_000] {
            assert!(read("/xml/a/@b", &many(count)).unwrap_err().contains("more than 256"), "{count}");
        }
    }

    #[test]
    fn a_value_is_put_where_it_is_read() {
        let path = |text: &str| XmlPath::parse(text).unwrap();
        let mut body = b"{}".to_vec();
        for (at, value) in [("/xml/a/b", "1"), ("/xml/a/c[*]/d", "<2>"), ("/xml/e", "3"), ("/xml/a/b", "4")] {
            body = path(at).put(&body, value).unwrap();
            assert_eq!(path(at).read(&body), Ok(Some(value.into())));
        }
        assert_eq!(String::from_utf8(body).unwrap(), "<xml><a><b>4</b><c><d>&lt;2&gt;</d></c></a><e>3</e></xml>");
        assert_eq!(path("/xml/@a").put(b"<xml/>", "1"), None);
        assert_eq!(path("/xml/a").put(b"<other></other>", "1"), None);
    }

    #[test]
    fn errors_never_quote_the_body() {
        for body in ["<xml><a>topsecret", "<xml><a>&topsecret;</a></xml>", "<xml><a>1</topsecret></xml>"] {
            assert!(!read("/xml/a", body).unwrap_err().contains("topsecret"), "{body}");
        }
    }

    #[test]
    fn paths_that_cannot_be_are_refused() {
        for text in
            ["", "xml", "/", "//a", "/a/", "/a[0]", "/a[01]", "/a[x]", "/a[", "/s:a", "/a/@", "/@a", "/a b", "/@x/a"]
        {
            assert!(XmlPath::parse(text).is_err(), "{text}");
        }
        assert!(XmlPath::parse(&"/a".repeat(65)).is_err() && XmlPath::parse(&"/a".repeat(64)).is_ok());
        assert!(XmlPath::parse("/1a").is_err() && XmlPath::parse("/_a").is_ok());
    }

    proptest! {
        #[test]
        fn reading_never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = XmlPath::parse("/xml/a[*]/@b").unwrap().read(&body);
        }

        #[test]
        fn xml_like_text_never_panics(body in r#"[<>/!?&;#x\[\]a b='"\-]{0,80}"#) {
            let _ = read("/xml/a", &format!("<xml>{body}"));
            let _ = read("/a[2]/@b", &format!("<{body}"));
        }

        #[test]
        fn parsing_a_path_never_panics(text in "\\PC{0,40}") {
            let _ = XmlPath::parse(&text);
        }
    }
}
