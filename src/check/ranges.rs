//! The addresses that a sender publishes, as they are known at this moment.
//!
//! A list comes from the preset (a shipped copy), from the copy kept on disk, or from the network; `fetch` brings the
//! last two. Here is only what a check reads, and the judgement of what came: a list is data of somebody else, and the
//! worst that a wrong one may do is to refuse.

use super::allowlist::{NetSet, parse_list, parse_net};
use crate::fetch::target::Target;
use arc_swap::{ArcSwapOption, Guard};
use ipnet::IpNet;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Networks that one list may hold.
pub const MAX_NETWORKS: usize = 100_000;
/// The widest networks that are believed, as prefix lengths.
const WIDEST: (u8, u8) = (8, 16);
/// The most that a list may cover altogether: a quarter of IPv4, a 256th of IPv6.
const MOST: (u64, u64) = (1 << 30, 1 << 56);

/// The published addresses of one sender.
pub struct Ranges {
    /// The preset's or the route's name; a metric label.
    pub name: Arc<str>,
    /// Where they are published. `None`: the shipped copy is all there is.
    pub url: Option<Target>,
    /// Where the networks stand in what is there.
    pub pick: Pick,
    current: ArcSwapOption<List>,
}

/// A list in force.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// The networks, for the check.
    pub nets: NetSet,
    /// When it was last known to be what the sender publishes, in seconds since 1970. `None`: no date is known.
    pub as_of: Option<i64>,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a list came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The preset.
    Shipped,
    /// The copy on disk.
    Kept,
    /// The network.
    Fetched,
}

/// Where the networks stand in a published text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// One a line, `#` begins a comment.
    Lines,
    /// Members of a JSON text.
    Json(Box<[JsonPath]>),
}

/// Steps from the root of a JSON text to some of its values: `/hooks/*`, `/prefixes/*[service=SNS]/ip_prefix`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Box<[Step]>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(Box<str>),
    /// Every element of an array or member of an object for which all conditions hold.
    Each(Box<[Condition]>),
}

/// Something that a member of an element must be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    member: Box<str>,
    /// Is the text one of the member's elements, rather than all of it?
    contains: bool,
    text: Box<str>,
}

impl Ranges {
    /// Without any list yet, or with the preset's copy.
    pub fn new(name: Arc<str>, url: Option<Target>, pick: Pick, shipped: Option<List>) -> Self {
        Self { name, url, pick, current: ArcSwapOption::from_pointee(shipped) }
    }

    /// The list in force. No lock, no count.
    pub fn current(&self) -> Guard<Option<Arc<List>>> {
        self.current.load()
    }

    /// Puts a list in force.
    pub fn set(&self, list: List) {
        self.current.store(Some(Arc::new(list)));
    }

    /// Takes over what another cell for the same list has in force, where that is more than the preset's copy.
    pub fn continue_from(&self, other: &Self) {
        let before = other.current.load_full();
        if before.as_ref().is_some_and(|list| list.origin != Origin::Shipped) {
            self.current.store(before);
        }
    }

    /// The networks of a published text, if it can be believed for itself. The error follows `the list`.
    pub fn read(&self, text: &[u8]) -> Result<NetSet, String> {
        let nets = self.pick.networks(text)?;
        if nets.is_empty() {
            return Err("holds no network".into());
        }
        if nets.len() > MAX_NETWORKS {
            return Err(format!("holds more than {MAX_NETWORKS} networks"));
        }
        let too_wide = |net: &IpNet| net.prefix_len() < if net.addr().is_ipv4() { WIDEST.0 } else { WIDEST.1 };
        if let Some(net) = nets.iter().find(|net| too_wide(net)) {
            return Err(format!("holds {net}, which is wider than any sender's network"));
        }
        let set = NetSet::new(nets);
        let covered = set.covered();
        if covered.0 > MOST.0 || covered.1 > MOST.1 {
            return Err("covers more addresses than any sender has".into());
        }
        Ok(set)
    }
}

/// May a list take the place of the one in force? Not when it is suddenly much smaller: more likely than a sender that
/// gave most of its addresses up is a list that was cut. The error follows `the list`.
pub fn succeeds(new: &NetSet, old: &NetSet) -> Result<(), String> {
    let (now, before) = (new.covered(), old.covered());
    let halved = |now: u64, before: u64| now < before.div_ceil(2);
    if halved(now.0, before.0) || halved(now.1, before.1) {
        return Err("covers less than half of the addresses of the one in force".into());
    }
    if new.len() < old.len().div_ceil(2) && old.within(new) < old.len().div_ceil(2) {
        return Err("holds less than half of the networks of the one in force".into());
    }
    Ok(())
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ranges({})", self.name)
    }
}

impl Pick {
    fn networks(&self, text: &[u8]) -> Result<Vec<IpNet>, String> {
        let Self::Json(paths) = self else {
            let text = std::str::from_utf8(text).map_err(|_| "is no text in UTF-8")?;
            return parse_list(text).map_err(|errors| match errors.first() {
                Some((line, _)) => format!("has no network on line {line}"),
                None => "cannot be read".into(),
            });
        };
        let root: Value = serde_json::from_slice(text).map_err(|error| format!("is no JSON: {error}"))?;
        let mut nets = Vec::new();
        for path in paths {
            path.walk(&root, &path.0, &mut |value| {
                let text = value.as_str().ok_or("holds something other than a text where a network belongs")?;
                if nets.len() > MAX_NETWORKS {
                    return Ok(());
                }
                // What the sender wrote is not quoted: it goes to a log.
                nets.push(parse_net(text).map_err(|_| "holds a text that is no network")?);
                Ok(())
            })?;
        }
        Ok(nets)
    }
}

impl JsonPath {
    /// Reads a path. The error follows its text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("does not begin with a slash")?;
        let mut steps = Vec::new();
        // A condition may hold a slash.
        let (mut depth, mut start) = (0_i32, 0);
        for (at, char) in rest.char_indices().chain([(rest.len(), '/')]) {
            match char {
                '[' => depth += 1,
                ']' => depth -= 1,
                '/' if depth == 0 || at == rest.len() => {
                    steps.push(Step::parse(rest.get(start..at).unwrap_or_default())?);
                    start = at + 1;
                }
                _ => {}
            }
        }
        if depth != 0 {
            return Err("has a bracket too many".into());
        }
        if steps.len() > 16 {
            return Err("has more than 16 steps".into());
        }
        Ok(Self(steps.into()))
    }

    fn walk<'v>(
        &self,
        value: &'v Value,
        steps: &[Step],
        found: &mut impl FnMut(&'v Value) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        let Some((step, rest)) = steps.split_first() else { return found(value) };
        match (step, value) {
            (Step::Member(name), Value::Object(members)) => {
                members.get(&**name).map_or(Ok(()), |member| self.walk(member, rest, found))
            }
            (Step::Each(conditions), Value::Array(items)) => items
                .iter()
                .filter(|item| conditions.iter().all(|condition| condition.holds(item)))
                .try_for_each(|item| self.walk(item, rest, found)),
            (Step::Each(conditions), Value::Object(members)) => members
                .values()
                .filter(|item| conditions.iter().all(|condition| condition.holds(item)))
                .try_for_each(|item| self.walk(item, rest, found)),
            _ => Ok(()),
        }
    }
}

impl Step {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('*') else {
            if text.is_empty() || text.contains(['[', ']', '*']) {
                return Err(format!("has the step `{text}`: write a member's name, `*` or `*[member=text]`"));
            }
            return Ok(Self::Member(text.into()));
        };
        if rest.is_empty() {
            return Ok(Self::Each([].into()));
        }
        let inner = rest.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let inner = inner.ok_or_else(|| format!("has the step `{text}`: write `*` or `*[member=text]`"))?;
        let conditions = inner.split(',').map(|one| {
            let one = one.trim();
            let (member, text, contains) = match (one.split_once('='), one.split_once(" contains ")) {
                (Some((member, text)), _) => (member, text, false),
                (None, Some((member, text))) => (member, text, true),
                (None, None) => {
                    return Err(format!("has the condition `{one}`: write member=text or member contains text"));
                }
            };
            Ok(Condition { member: member.trim().into(), contains, text: text.trim().into() })
        });
        Ok(Self::Each(conditions.collect::<Result<_, String>>()?))
    }
}

impl Condition {
    fn holds(&self, item: &Value) -> bool {
        match item.get(&*self.member) {
            Some(Value::String(text)) if !self.contains => **text == *self.text,
            Some(Value::Array(items)) if self.contains => items.iter().any(|item| item.as_str() == Some(&self.text)),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(paths: &[&str]) -> Ranges {
        let paths = paths.iter().map(|path| JsonPath::parse(path).unwrap()).collect();
        Ranges::new("x".into(), None, Pick::Json(paths), None)
    }

    fn set(nets: &[&str]) -> NetSet {
        NetSet::new(nets.iter().map(|net| parse_net(net).unwrap()))
    }

    #[test]
    fn networks_are_picked_out_of_what_senders_publish() {
        for (paths, text, nets) in [
            (
                &["/hooks/*"][..],
                r#"{"hooks":["192.30.252.0/22","2a0a:a440::/29"],"web":["1.2.3.4"]}"#,
                &["192.30.252.0/22", "2a0a:a440::/29"][..],
            ),
            (&["/*"], r#"["1.2.3.4","1.2.3.5/32"]"#, &["1.2.3.4", "1.2.3.5"]),
            (
                &["/*/ip_ranges/*"],
                r#"{"a":{"ip_ranges":["1.0.0.0/24"]},"b":{"ip_ranges":["2.0.0.0/24"]},"c":{}}"#,
                &["1.0.0.0/24", "2.0.0.0/24"],
            ),
            (
                &["/items/*[product contains bitbucket, direction contains egress]/cidr"],
                r#"{"items":[{"cidr":"1.0.0.0/24","product":["jira","bitbucket"],"direction":["egress"]},
                    {"cidr":"2.0.0.0/24","product":["jira"],"direction":["egress"]},
                    {"cidr":"3.0.0.0/24","product":["bitbucket"],"direction":["ingress"]}]}"#,
                &["1.0.0.0/24"],
            ),
            (
                &["/prefixes/*[service=SNS]/ip_prefix", "/ipv6_prefixes/*[service=SNS]/ipv6_prefix"],
                r#"{"prefixes":[{"ip_prefix":"1.0.0.0/24","service":"SNS"},{"ip_prefix":"2.0.0.0/24","service":"EC2"}],
                    "ipv6_prefixes":[{"ipv6_prefix":"2600::/40","service":"SNS"}]}"#,
                &["1.0.0.0/24", "2600::/40"],
            ),
        ] {
            assert_eq!(json(paths).read(text.as_bytes()).unwrap(), set(nets), "{paths:?}");
        }
        let lines = Ranges::new("x".into(), None, Pick::Lines, None);
        assert_eq!(
            lines.read(b"# Telegram\n149.154.160.0/20\n\n2001:67c:4e8::/48\n").unwrap(),
            set(&["149.154.160.0/20", "2001:67c:4e8::/48"])
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_whole() {
        let ranges = json(&["/hooks/*"]);
        for (text, hint) in [
            (r#"{"hooks":[]}"#, "no network"),
            (r#"{"other":["1.2.3.4"]}"#, "no network"),
            (r#"[]"#, "no network"),
            ("", "no JSON"),
            ("<html>", "no JSON"),
            (r#"{"hooks":["1.2.3.4"]"#, "no JSON"),
            (r#"{"hooks":["1.2.3.4", 5]}"#, "other than a text"),
            (r#"{"hooks":["1.2.3.4", "example.com"]}"#, "no network"),
            (r#"{"hooks":["1.2.3.4/8"]}"#, "no network"),
            (r#"{"hooks":["0.0.0.0/0"]}"#, "wider"),
            (r#"{"hooks":["1.2.3.4","128.0.0.0/1"]}"#, "wider"),
            (r#"{"hooks":["2000::/3"]}"#, "wider"),
        ] {
            let error = ranges.read(text.as_bytes()).unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
        let eights: Vec<_> = (1..=65).map(|n| format!("{}.0.0.0/8", n * 3)).collect();
        let text = serde_json::json!({ "hooks": eights }).to_string();
        assert!(ranges.read(text.as_bytes()).unwrap_err().contains("covers more"));
        // Exactly as much as may be, of either kind, and one more.
        let four: Vec<_> = (1..=64).map(|n| format!("{}.0.0.0/8", n * 3)).collect();
        let six: Vec<_> = (0..=256).map(|n| format!("{:x}::/16", 0x2000 + 2 * n)).collect();
        for (nets, fine) in [(&four[..], true), (&six[..256], true), (&six[..], false)] {
            let text = serde_json::json!({ "hooks": nets }).to_string();
            assert_eq!(ranges.read(text.as_bytes()).is_ok(), fine, "{}", nets.len());
        }
        let many: Vec<_> =
            (0..=MAX_NETWORKS + 5).map(|n| format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255)).collect();
        let text = serde_json::json!({ "hooks": many[..MAX_NETWORKS] }).to_string();
        assert!(ranges.read(text.as_bytes()).is_ok());
        let text = serde_json::json!({ "hooks": many }).to_string();
        assert!(ranges.read(text.as_bytes()).unwrap_err().contains("more than"));
    }

    #[test]
    fn a_list_that_is_suddenly_much_smaller_does_not_succeed() {
        for (old, new, fits) in [
            (&["1.0.0.0/24"][..], &["2.0.0.0/24"][..], true),
            (&["1.0.0.0/24", "3.0.0.0/24"], &["1.0.0.0/24"], true),
            (&["1.0.0.0/24", "3.0.0.0/24", "5.0.0.0/24"], &["1.0.0.0/24"], false),
            (&["1.0.0.0/24"], &["1.0.0.1"], false),
            (&["1.0.0.0/24", "2600::/40"], &["1.0.0.0/24"], false),
            (&["1.0.0.0/25", "1.0.1.0/25", "1.0.2.0/25"], &["1.0.0.0/22"], true),
            (&["1.0.0.0/8", "3.0.0.1", "5.0.0.1", "7.0.0.1"], &["1.0.0.0/8"], false),
            (&["1.0.0.0/25", "1.0.1.0/25", "3.0.0.0/25", "5.0.0.0/25"], &["1.0.0.0/23"], true),
            (&["1.0.0.0/24"], &["1.0.0.0/24", "2.0.0.0/24", "2600::/40"], true),
        ] {
            assert_eq!(succeeds(&set(new), &set(old)).is_ok(), fits, "{old:?} {new:?}");
        }
    }

    #[test]
    fn a_condition_looks_at_the_kind_that_it_says() {
        let text = r#"{"items":[{"at":"1.0.0.0/24","k":"a/b"},{"at":"2.0.0.0/24","k":["a/b"]},{"at":"3.0.0.0/24"},{"at":"4.0.0.0/24","k":7}]}"#;
        for (path, nets) in [
            ("/items/*[k=a/b]/at", &["1.0.0.0/24"][..]),
            ("/items/*[k contains a/b]/at", &["2.0.0.0/24"]),
            ("/items/*/at", &["1.0.0.0/24", "2.0.0.0/24", "3.0.0.0/24", "4.0.0.0/24"]),
        ] {
            assert_eq!(json(&[path]).read(text.as_bytes()).unwrap(), set(nets), "{path}");
        }
        assert!(JsonPath::parse(&"/a".repeat(16)).is_ok() && JsonPath::parse(&"/a".repeat(17)).is_err());
    }

    #[test]
    fn a_list_outlives_its_cell_unless_it_is_the_shipped_one() {
        let list = |net: &str, origin| List { nets: set(&[net]), as_of: None, origin };
        let cell = |list| Ranges::new("sender".into(), None, Pick::Lines, list);
        let held = |cell: &Ranges| cell.current().as_ref().map(|list| list.nets.clone());
        for (origin, continues) in [(Origin::Shipped, false), (Origin::Kept, true), (Origin::Fetched, true)] {
            let (old, new) = (cell(Some(list("1.0.0.0/24", origin))), cell(Some(list("2.0.0.0/24", Origin::Shipped))));
            new.continue_from(&old);
            let expected = if continues { "1.0.0.0/24" } else { "2.0.0.0/24" };
            assert_eq!(held(&new), Some(set(&[expected])), "{origin:?}");
        }
        let empty = cell(None);
        empty.continue_from(&cell(None));
        assert_eq!(held(&empty), None);
        empty.set(list("3.0.0.0/24", Origin::Fetched));
        assert_eq!(held(&empty), Some(set(&["3.0.0.0/24"])));
        assert_eq!(format!("{empty:?}"), "Ranges(sender)");
    }

    #[test]
    fn a_path_that_cannot_be_meant_is_refused() {
        for text in ["", "hooks", "/", "/a//b", "/*[", "/*[a]", "/a[b=c]", "/*]", "/*x"] {
            assert!(JsonPath::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(path in "/[a*/\\[\\]=, ]{0,20}", text in "[\\[\\]{}\":,a0-9./]{0,40}") {
            if let Ok(path) = JsonPath::parse(&path) {
                let _ = Ranges::new("x".into(), None, Pick::Json([path].into()), None).read(text.as_bytes());
            }
            let _ = Ranges::new("x".into(), None, Pick::Lines, None).read(text.as_bytes());
        }
    }
}
