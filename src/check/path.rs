//! Which route does a request belong to?
//!
//! Paths are compared byte for byte, never normalised. What another program could read as a different path (dot
//! segments, `//`, `%2e`, `%2F`, `;`, `\`, a letter written as an escape, bytes that are no UTF-8) is refused before any
//! route is looked for, so that what was matched here and what the backend makes of it cannot differ.
//!
//! The most specific routes decide: an exact path before a prefix, a longer prefix before a shorter, and under the same
//! path a named host before any host. Methods come last: when the routes so found do not take the method, the answer is
//! 405, and no less specific route is tried, since that would let a request slip past the rules of its own path.

use crate::policy::Route;
use crate::reject::{Reason, Reject};
use crate::request::Head;
use ahash::RandomState;
use std::collections::HashMap;
use std::sync::Arc;

/// How a route's path is matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// Byte for byte.
    Exact(Box<str>),
    /// The path itself and everything below it; written `/hooks/*`, kept as `/hooks/`.
    /// Matches `/hooks`, `/hooks/` and `/hooks/a/b`, not `/hooksx`.
    Prefix(Box<str>),
}

/// What one route answers to.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// Lower case, without port; IPv6 in brackets. `None`: any host.
    pub host: Option<Box<str>>,
    /// Its path.
    pub path: PathPattern,
    /// Upper case. Never empty.
    pub methods: Vec<Box<str>>,
}

/// All routes.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Vec<(Matcher, Arc<Route>)>,
    /// Indices into `routes` by whole path.
    exact: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// Indices by prefix without its last slash.
    prefix: HashMap<Box<str>, Vec<usize>, RandomState>,
    /// The lengths that keys of `prefix` have, longest first: a path of a thousand slashes costs no more look-ups.
    lengths: Vec<usize>,
}

impl PathPattern {
    /// A path as people write it: `/webhooks/github`, or `/hooks/*` for everything below. Errors name the remedy.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err(format!("path `{text}` must start with `/`"));
        }
        if text.contains(['?', '#']) {
            return Err(format!("path `{text}`: a query or fragment is not part of a path; leave it out"));
        }
        let path = text.strip_suffix('*').filter(|path| path.ends_with('/'));
        if path.unwrap_or(text).contains('*') {
            return Err(format!("path `{text}`: `*` may only stand alone at the end, as in `/hooks/*`"));
        }
        if text.contains(['{', '}']) {
            return Err(format!(
                "path `{text}`: there are no placeholders; write `/hooks/*` to match everything below"
            ));
        }
        if let Some(fault) = ambiguity(path.unwrap_or(text)) {
            return Err(format!(
                "path `{text}` has {fault}, so no request with it is ever accepted; write the path plainly"
            ));
        }
        Ok(path.map_or_else(|| Self::Exact(text.into()), |path| Self::Prefix(path.into())))
    }
}

impl Matcher {
    /// Is there a request that both would answer to, and neither is the more specific?
    pub fn conflicts(&self, other: &Self) -> bool {
        let same_host = match (&self.host, &other.host) {
            (Some(one), Some(other)) => bare_host(one).eq_ignore_ascii_case(bare_host(other)),
            (one, other) => one.is_none() && other.is_none(),
        };
        same_host && self.path == other.path && self.methods.iter().any(|method| other.methods.contains(method))
    }
}

impl RouteTable {
    /// A table of these routes. Conflicts were refused by `config::compile` with [`Matcher::conflicts`].
    pub fn new(routes: Vec<(Matcher, Arc<Route>)>) -> Self {
        let mut table = Self { routes, ..Self::default() };
        for (index, (matcher, _)) in table.routes.iter().enumerate() {
            let (map, key) = match &matcher.path {
                PathPattern::Exact(path) => (&mut table.exact, &**path),
                PathPattern::Prefix(path) => (&mut table.prefix, path.strip_suffix('/').unwrap_or(path)),
            };
            map.entry(key.into()).or_default().push(index);
        }
        table.lengths = table.prefix.keys().map(|prefix| prefix.len()).collect();
        table.lengths.sort_unstable_by(|one, other| other.cmp(one));
        table.lengths.dedup();
        table
    }

    /// The routes in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &(Matcher, Arc<Route>)> {
        self.routes.iter()
    }

    /// The route of a request: exact before prefix, longer prefix first, named host before any.
    /// Ambiguous spellings (`//`, dot segments, `%2e`, `%2F`, `%5c`, `\`, `;`, control bytes …) are refused as malformed.
    /// On a wrong method, the second value lists the methods of the routes that have the path, for `Allow`.
    pub fn find(&self, head: &Head<'_>) -> Result<&Arc<Route>, (Reject, Vec<&str>)> {
        if let Some(fault) = ambiguity(head.path) {
            return Err((Reason::Malformed.because(format!("the path has {fault}")), Vec::new()));
        }
        let exact = self.exact.get(head.path);
        let prefixes = self.lengths.iter().filter_map(|length| {
            let below = head.path.as_bytes().get(*length).is_none_or(|byte| *byte == b'/');
            self.prefix.get(head.path.get(..*length)?).filter(|_| below)
        });
        let host = bare_host(head.host);
        for same_path in exact.into_iter().chain(prefixes) {
            for named in [true, false] {
                let mut found =
                    same_path.iter().filter_map(|index| self.routes.get(*index)).filter(|(matcher, _)| match &matcher
                        .host
                    {
                        Some(name) => named && bare_host(name).eq_ignore_ascii_case(host),
                        None => !named,
                    });
                let Some(first) = found.next() else { continue };
                let mut takes = std::iter::once(first).chain(found.clone());
                return match takes.find(|(matcher, _)| matcher.methods.iter().any(|method| **method == *head.method)) {
                    Some((_, route)) => Ok(route),
                    None => Err(wrong_method(std::iter::once(first).chain(found))),
                };
            }
        }
        Err((Reason::NoRoute.because(format!("host {}, path {}", shown(host), shown(head.path))), Vec::new()))
    }
}

/// A sender's text for the log: its start, on one line.
fn shown(text: &str) -> String {
    const MOST: usize = 100;
    let start = text.char_indices().nth(MOST).and_then(|(end, _)| text.get(..end));
    match start {
        Some(start) => format!("{}…", start.escape_debug()),
        None => text.escape_debug().to_string(),
    }
}

fn wrong_method<'t>(routes: impl Iterator<Item = &'t (Matcher, Arc<Route>)>) -> (Reject, Vec<&'t str>) {
    let mut methods: Vec<&str> =
        routes.flat_map(|(matcher, _)| matcher.methods.iter().map(|method| &**method)).collect();
    methods.sort_unstable();
    methods.dedup();
    (Reason::MethodNotAllowed.into(), methods)
}

/// A host without its port and the root's dot. Brackets stay: they tell `[::1]` from a name.
fn bare_host(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let name = host.get(..end).unwrap_or(host);
    name.strip_suffix('.').unwrap_or(name)
}

/// What makes a path readable in two ways, if anything does.
pub fn ambiguity(path: &str) -> Option<&'static str> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Some("no leading `/`");
    }
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'/' => {
                let rest = bytes.get(at..).unwrap_or_default();
                let dots = rest.iter().take_while(|byte| **byte == b'.').count();
                match rest.get(dots) {
                    Some(b'/') if dots == 0 => return Some("an empty segment (`//`)"),
                    Some(b'/') | None if (1..=2).contains(&dots) => return Some("a dot segment (`/./` or `/../`)"),
                    _ => {}
                }
            }
            b'%' => match escaped(bytes.get(at..).unwrap_or_default()) {
                Ok(length) => at += length,
                Err(fault) => return Some(fault),
            },
            b'\\' => return Some("a backslash"),
            b';' => return Some("a path parameter (`;`)"),
            byte if is_plain(*byte) => {}
            _ => return Some("a byte that must be percent-encoded"),
        }
    }
    None
}

/// Bytes that stand for themselves in a path (`pchar` of RFC 3986 without `;` and `%`).
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// How many bytes after a `%` belong to the character that it begins, which must be one that has to be escaped, in its
/// one spelling.
fn escaped(rest: &[u8]) -> Result<usize, &'static str> {
    let hex = |at: usize| -> Option<u8> {
        let digit = |at: usize| rest.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
    };
    let first = hex(0).ok_or("a broken percent escape")?;
    match first {
        b'/' | b'\\' => return Err("an escaped slash or backslash"),
        b'.' | b';' | b'%' | b'?' | b'#' => return Err("an escaped `.`, `;`, `%`, `?` or `#`"),
        0..=0x1f | 0x7f => return Err("an escaped control character"),
        b'-' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => return Err("an escape of a plain character"),
        0x20..=0x7e => return Ok(2),
        0x80..=0xff => {}
    }
    let length = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err("an escape that is not UTF-8"),
    };
    let mut character = [first, 0, 0, 0];
    for (index, byte) in character.iter_mut().enumerate().take(length).skip(1) {
        *byte =
            hex(index * 3).filter(|_| rest.get(index * 3 - 1) == Some(&b'%')).ok_or("an escape that is not UTF-8")?;
    }
    match character.get(..length).map(std::str::from_utf8) {
        // U+0080 to U+009F are control characters as well.
        Some(Ok(text)) if !text.chars().any(char::is_control) => Ok(length * 3 - 1),
        _ => Err("an escape that is not UTF-8"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;

    fn matcher(text: &str) -> Matcher {
        let mut parts = text.split(' ').rev();
        let path = PathPattern::parse(parts.next().unwrap()).unwrap();
        let host = parts.next().filter(|host| *host != "-").map(Into::into);
        Matcher { host, path, methods: parts.next().unwrap_or("POST").split('|').map(Into::into).collect() }
    }

    /// Routes are named after their text: `[methods] [host or -] path`, last first.
    fn table(routes: &[&str]) -> RouteTable {
        RouteTable::new(routes.iter().map(|text| (matcher(text), Arc::new(crate::check::tests::route(text)))).collect())
    }

    fn found(table: &RouteTable, method: &str, host: &str, path: &str) -> String {
        let head = Head { method, path, query: None, host, headers: Headers::List(&[]) };
        match table.find(&head) {
            Ok(route) => route.name.to_string(),
            Err((reject, methods)) => format!("{} {}", reject.reason.label(), methods.join(",")).trim().to_owned(),
        }
    }

    #[test]
    fn the_most_specific_route_answers() {
        let table = table(&[
            "/hooks/*",
            "/hooks/github",
            "/hooks/github/*",
            "a.example /hooks/*",
            "a.example /hooks/github",
            "GET - /hooks/github",
            "GET|POST [::1] /six",
            "/caf%C3%A9/a%20b",
            "a.example /only",
        ]);
        for (method, host, path, expected) in [
            ("POST", "b.example", "/hooks/github", "/hooks/github"),
            ("GET", "b.example", "/hooks/github", "GET - /hooks/github"),
            ("PUT", "b.example", "/hooks/github", "method_not_allowed GET,POST"),
            ("POST", "a.example", "/hooks/github", "a.example /hooks/github"),
            ("POST", "A.EXAMPLE:8443", "/hooks/github", "a.example /hooks/github"),
            ("POST", "a.example.", "/hooks/github", "a.example /hooks/github"),
            ("POST", "a.example.:80", "/hooks/github", "a.example /hooks/github"),
            ("GET", "a.example", "/hooks/github", "method_not_allowed POST"),
            ("POST", "a.example", "/hooks/github/x", "/hooks/github/*"),
            ("POST", "a.example", "/hooks/other", "a.example /hooks/*"),
            ("POST", "b.example", "/hooks/other", "/hooks/*"),
            ("POST", "b.example", "/hooks", "/hooks/*"),
            ("POST", "b.example", "/hooks/", "/hooks/*"),
            ("POST", "b.example", "/hooks/github/", "/hooks/github/*"),
            ("GET", "b.example", "/hooks/other", "method_not_allowed POST"),
            ("POST", "b.example", "/hooksx", "no_route"),
            ("POST", "b.example", "/Hooks/github", "no_route"),
            ("POST", "b.example", "/", "no_route"),
            ("POST", "b.example", "/only", "no_route"),
            ("POST", "a.example", "/only/", "no_route"),
            ("POST", "[::1]:443", "/six", "GET|POST [::1] /six"),
            ("POST", "[::2]", "/six", "no_route"),
            ("POST", "x", "/caf%C3%A9/a%20b", "/caf%C3%A9/a%20b"),
            ("POST", "x", "/caf%c3%a9/a%20b", "no_route"),
            ("post", "b.example", "/hooks/github", "method_not_allowed GET,POST"),
        ] {
            assert_eq!(found(&table, method, host, path), expected, "{method} {host} {path}");
        }
    }

    #[test]
    fn spellings_that_could_mean_another_path_are_refused_even_below_a_prefix() {
        let table = table(&["/*", "/hooks/github"]);
        for path in [
            "",
            "*",
            "hooks",
            "http://a/hooks",
            "//",
            "//hooks/github",
            "/hooks//github",
            "/hooks/github//",
            "/.",
            "/..",
            "/./hooks/github",
            "/hooks/./github",
            "/hooks/x/../github",
            "/hooks/github/.",
            "/hooks/github/..",
            "/hooks/%2e/github",
            "/hooks/%2E%2E/github",
            "/hooks/.%2e/github",
            "/hooks%2fgithub",
            "/hooks%2Fgithub",
            "/hooks%5cgithub",
            "/hooks\\github",
            "/hooks/github;x=1",
            "/hooks;/github",
            "/hooks/github%3bx",
            "/hooks/..;/github",
            "/hooks/github%00",
            "/hooks/github%0a",
            "/hooks/github%7f",
            "/hooks/github\0",
            "/hooks/github\t",
            "/hooks/github ",
            "/hooks/github%252e",
            "/hooks/github%25",
            "/hooks/%67ithub",
            "/hooks/%5fx",
            "/hooks/%7Ex",
            "/hooks/github%",
            "/hooks/github%2",
            "/hooks/github%zz",
            "/hooks/github%u002f",
            "/hooks/github#x",
            "/hooks/github%23",
            "/hooks/github%3f",
            "/hooks/é",
            "/hooks/%c0%ae%c0%ae/x",
            "/hooks/%c0%afx",
            "/hooks/%e0%80%af",
            "/hooks/%ff",
            "/hooks/%c3",
            "/hooks/%c3x",
            "/hooks/%c3%28",
            "/hooks/%ed%a0%80",
            "/hooks/%f5%80%80%80",
            // What follows an escape is looked at like everything else.
            "/hooks/a%20/../github",
            "/hooks/a%20%2f",
            "/hooks/long/enough%20/../github",
            "/hooks/%C3%A9/../github",
            "/hooks/%E2%82%AC/../github",
            "/hooks/%F0%9F%A6%80/../github",
            "/hooks/%c2%85",
            "/hooks/a|b",
            "/hooks/<x>",
            "/hooks/\"x\"",
            "/hooks/[x]",
            "/hooks/`x`",
            "/hooks/{x}",
            "/hooks/^",
        ] {
            assert_eq!(found(&table, "POST", "x", path), "malformed", "{path:?}");
        }
        for path in [
            "/",
            "/...",
            "/.well-known/x",
            "/a/..b",
            "/a/b.",
            "/a.b/c~d",
            "/a@b:c,d!e",
            "/a%20b",
            "/%C3%A9",
            "/%E2%82%AC",
            "/%F0%9F%A6%80",
            "/a%2Bb",
        ] {
            assert_eq!(found(&table, "POST", "x", path), "/*", "{path:?}");
        }
    }

    #[test]
    fn the_log_says_what_was_asked_for_on_one_short_line() {
        let table = table(&["/only"]);
        for (path, shown) in [
            ("/nope", "host x, path /nope".to_owned()),
            (&*format!("/{}", "a".repeat(99)), format!("host x, path /{}", "a".repeat(99))),
            (&*format!("/{}", "a".repeat(100)), format!("host x, path /{}…", "a".repeat(99))),
        ] {
            let head = Head { method: "POST", path, query: None, host: "x", headers: Headers::List(&[]) };
            assert_eq!(table.find(&head).unwrap_err().0.detail, shown);
        }
        assert_eq!(super::shown("a\nb"), "a\\nb");
    }

    #[test]
    fn only_paths_that_a_request_can_have_are_accepted_in_a_route() {
        for (text, hint) in [
            ("hooks", "must start with `/`"),
            ("/hooks?x=1", "query"),
            ("/hooks/*/github", "at the end"),
            ("/hooks*", "at the end"),
            ("/hooks/{id}", "/hooks/*"),
            ("/a//b", "empty segment"),
            ("/a/../b", "dot segment"),
            ("/a/./*", "dot segment"),
            ("/a%2Fb", "slash"),
            ("/a b", "percent-encoded"),
            ("/a\\b", "backslash"),
            ("/a;b", "path parameter"),
            ("/caf\u{e9}", "percent-encoded"),
        ] {
            let error = PathPattern::parse(text).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert_eq!(PathPattern::parse("/hooks/*"), Ok(PathPattern::Prefix("/hooks/".into())));
        assert_eq!(PathPattern::parse("/*"), Ok(PathPattern::Prefix("/".into())));
        assert_eq!(PathPattern::parse("/hooks/"), Ok(PathPattern::Exact("/hooks/".into())));
    }

    #[test]
    fn routes_conflict_where_neither_is_more_specific() {
        for (one, other, conflict) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a/*", "/a", false),
            ("/a/*", "/a/b/*", false),
            ("GET - /a", "POST - /a", false),
            ("GET|POST - /a", "POST - /a", true),
            ("x.example /a", "/a", false),
            ("x.example /a", "X.example. /a", true),
            ("x.example /a", "y.example /a", false),
        ] {
            let (one, other) = (matcher(one), matcher(other));
            assert_eq!((one.conflicts(&other), other.conflicts(&one)), (conflict, conflict), "{one:?} {other:?}");
        }
    }

    #[test]
    fn a_path_of_many_slashes_costs_few_look_ups() {
        let table = table(&["/a/*", "/b/*", "/a/a/*"]);
        assert_eq!(table.lengths, [4, 2]);
        assert_eq!(found(&table, "POST", "x", &"/a".repeat(10_000)), "/a/a/*");
    }
}
