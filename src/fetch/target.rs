//! What may be fetched: a URL that the configuration or a preset fixes, or a pattern that a URL in a message must fit.
//!
//! A URL is read in one way only, and refused where two readers could differ: no user, no fragment, no dot segments, no
//! backslash, no escape in the host, no address in place of a name. A message never says more than which of the places
//! behind its sender's own pattern is meant.

use std::fmt;

/// The longest URL that is looked at, in bytes.
const MAX_URL: usize = 2048;

/// An https URL that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    host: Box<str>,
    port: u16,
    /// Path and query, from the first slash.
    path: Box<str>,
}

impl Target {
    /// Reads a URL. The error follows its text.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.len() > MAX_URL {
            return Err(format!("is longer than {MAX_URL} bytes"));
        }
        let rest = url.strip_prefix("https://").ok_or("is not an https:// URL")?;
        if let Some(odd) = rest.bytes().find(|byte| !byte.is_ascii_graphic() || b"\"#<>\\^`{|}".contains(byte)) {
            return Err(format!("holds the character {:?}", char::from(odd)));
        }
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("names a user".into());
        }
        let (host, port) = match authority.split_once(':') {
            None => (authority, 443),
            Some((host, port)) => (host, digits(port).ok_or("has no port from 1 to 65535")?),
        };
        if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Self::parse(&format!("https://{}{}", authority.to_ascii_lowercase(), path));
        }
        host_name(host)?;
        let path = match path.as_bytes().first() {
            None => "/",
            Some(b'/') => path,
            Some(_) => return Err("has no path".into()),
        };
        plain_path(path.split('?').next().unwrap_or_default())?;
        Ok(Self { host: host.into(), port, path: path.into() })
    }

    /// The name that is asked for, resolved, and that the certificate must have. Lower case.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// 443 unless the URL says otherwise.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Host and port as `Host` has them.
    pub fn authority(&self) -> String {
        if self.port == 443 { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Is it at the same place, another path aside?
    pub fn has_origin_of(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.path)
    }
}

/// A pattern for URLs that messages name: `https://sns.*.amazonaws.com/SimpleNotificationService-*.pem`.
///
/// `*` stands for one label of the host, for letters, digits, `-` and `_` of one segment of the path, and for anything
/// in the query. There is at least one character for each. The port is always 443.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pin {
    host: Box<str>,
    path: Box<str>,
    query: Option<Box<str>>,
}

impl Pin {
    /// Reads a pattern. The error follows its text.
    pub fn parse(pattern: &str) -> Result<Self, String> {
        // With a letter in place of the stars it must be a URL like any other.
        let target = Target::parse(&pattern.replace('*', "x"))?;
        if target.port != 443 {
            return Err("names a port: only 443 can be pinned".into());
        }
        let rest = pattern.strip_prefix("https://").ok_or("is not an https:// URL")?;
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let host = host.strip_suffix(":443").unwrap_or(host);
        let labels: Vec<_> = host.split('.').collect();
        let fixed = labels.iter().rev().take_while(|label| !label.contains('*')).count();
        if fixed < 2 {
            return Err("leaves the end of the host open: the last two labels must be written out".into());
        }
        if labels.iter().any(|label| label.contains('*') && *label != "*") {
            return Err("has a star beside other characters of a label".into());
        }
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (path, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self { host: host.to_ascii_lowercase().into(), path: path.into(), query })
    }

    /// The URL, if it fits. The error follows its text and never quotes it.
    pub fn target(&self, url: &str) -> Result<Target, String> {
        let target = Target::parse(url)?;
        let (path, query) = match target.path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*target.path, None),
        };
        let query_fits = match (&self.query, query) {
            (None, None) => true,
            (Some(pattern), Some(query)) => fits(pattern, query, |byte| byte.is_ascii_graphic()),
            _ => false,
        };
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if target.port != 443 || !fits(&self.host, &target.host, label) {
            return Err("is not at a host that the sender uses".into());
        }
        if !fits(&self.path, path, word) || !query_fits {
            return Err("does not have the form that the sender uses".into());
        }
        Ok(target)
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.host, self.path)?;
        self.query.as_ref().map_or(Ok(()), |query| write!(f, "?{query}"))
    }
}

/// Does a text fit a pattern? Looks at each pair of characters once, whatever the text.
pub(super) fn fits(pattern: &str, text: &str, wild: impl Fn(u8) -> bool) -> bool {
    // The lengths of text that the pattern read so far stands for.
    let mut ends = vec![false; text.len() + 1];
    ends[0] = true;
    for part in pattern.bytes() {
        let mut next = vec![false; text.len() + 1];
        for (at, byte) in text.bytes().enumerate() {
            next[at + 1] = match part {
                b'*' => (ends[at] || next[at]) && wild(byte),
                _ => ends[at] && byte == part,
            };
        }
        ends = next;
    }
    ends.last().copied().unwrap_or(false)
}

fn digits(text: &str) -> Option<u16> {
    let plain = !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn host_name(host: &str) -> Result<(), String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.len() > 253 || !host.split('.').all(label) {
        return Err("has no plain host name".into());
    }
    // A last label of digits makes it an address, in one of the spellings that resolvers take.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.starts_with(|first: char| first.is_ascii_digit()) {
        return Err("names an address instead of a host: certificates are checked by name".into());
    }
    Ok(())
}

/// No segment that another reader would resolve away.
fn plain_path(path: &str) -> Result<(), String> {
    let lower = path.to_ascii_lowercase();
    if ["%2e", "%2f", "%5c", "%00"].iter().any(|escape| lower.contains(escape)) {
        return Err("hides a dot, slash or zero behind an escape".into());
    }
    if path.split('/').any(|segment| segment == "." || segment == "..") || path.contains("//") {
        return Err("has an empty or dot segment in its path".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_url_is_read_in_one_way_only() {
        for (url, read) in [
            ("https://api.github.com/meta", Ok("https://api.github.com/meta")),
            ("https://API.GitHub.com:443/Meta?a=B", Ok("https://api.github.com/Meta?a=B")),
            ("https://mirror.internal:8443/x", Ok("https://mirror.internal:8443/x")),
            ("https://example.com", Ok("https://example.com/")),
            ("http://example.com/", Err("not an https")),
            ("HTTPS://example.com/", Err("not an https")),
            ("https://a@example.com/", Err("user")),
            ("https://example.com@evil.example/", Err("user")),
            ("https://example.com\\@evil.example/", Err("character")),
            ("https://example.com/#x", Err("character")),
            ("https://example.com/ x", Err("character")),
            ("https://example.com/\r\nHost: x", Err("character")),
            ("https://exa\u{fe0f}mple.com/", Err("character")),
            ("https://127.0.0.1/", Err("address")),
            ("https://2130706433/", Err("address")),
            ("https://0x7f.1/", Err("address")),
            ("https://[::1]/", Err("port")),
            ("https://example.com./", Err("host name")),
            ("https://-a.example/", Err("host name")),
            ("https://ex%61mple.com/", Err("host name")),
            ("https:///x", Err("host name")),
            ("https://example.com:0/", Err("port")),
            ("https://example.com:0443/", Err("port")),
            ("https://example.com:99999/", Err("port")),
            ("https://example.com:/", Err("port")),
            ("https://example.com?x", Err("no path")),
            ("https://example.com/a/../b", Err("dot segment")),
            ("https://example.com/a/%2E%2e/b", Err("escape")),
            ("https://example.com//b", Err("empty")),
        ] {
            match (Target::parse(url), read) {
                (Ok(target), Ok(read)) => assert_eq!(target.to_string(), read),
                (Err(what), Err(hint)) => assert!(what.contains(hint), "{url}: {what}"),
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
        assert!(Target::parse(&format!("https://example.com/{}", "a".repeat(3000))).is_err());
    }

    const SNS: &str = "https://sns.*.amazonaws.com/SimpleNotificationService-*.pem";

    #[test]
    fn a_message_names_only_what_the_pattern_holds() {
        let pin = Pin::parse(SNS).unwrap();
        assert_eq!(pin.to_string(), SNS);
        for (url, fits) in [
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem", true),
            ("https://sns.us-east-1.amazonaws.com:443/SimpleNotificationService-a.pem", true),
            ("https://SNS.us-east-1.amazonaws.com/SimpleNotificationService-a.pem", true),
            ("http://sns.us-east-1.amazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-a.pem", false),
            ("https://sns..amazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://sns.a.b.amazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-a.pem", false),
            ("https://evil-sns.us-east-1.amazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.evilamazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://bucket.s3.amazonaws.com/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.amazonaws.com@evil.example/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.amazonaws.com/evil/SimpleNotificationService-a.pem", false),
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-/../a.pem", false),
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-.pem", false),
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-a.pem?x=1", false),
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-a.pem.exe", false),
            ("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-a%2f.pem", false),
            ("https://10.0.0.1/SimpleNotificationService-a.pem", false),
            ("", false),
        ] {
            assert_eq!(pin.target(url).is_ok(), fits, "{url}: {:?}", pin.target(url));
        }
        let confirm = Pin::parse("https://sns.*.amazonaws.com/?Action=ConfirmSubscription&*").unwrap();
        let url = "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn:aws:sns:x&Token=1";
        assert!(confirm.target(url).is_ok());
        assert!(confirm.target("https://sns.eu-west-1.amazonaws.com/?Action=DeleteTopic&a").is_err());
        assert!(confirm.target("https://sns.eu-west-1.amazonaws.com/").is_err());
    }

    #[test]
    fn patterns_that_leave_too_much_open_are_refused() {
        for (pattern, hint) in [
            ("https://*.com/x", "last two labels"),
            ("https://*/x", "last two labels"),
            ("https://sns-*.example.com/x", "beside other"),
            ("http://example.com/x", "https"),
            ("https://example.com:8443/x", "443"),
        ] {
            let what = Pin::parse(pattern).unwrap_err();
            assert!(what.contains(hint), "{pattern}: {what}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_fits_is_at_the_pinned_host(url in "https://[-a-z.@:/?#%*0-9\\\\\\[\\]]{0,40}") {
            let _ = Target::parse(&url);
            let pin = Pin::parse("https://*.example.com/a-*").unwrap();
            if let Ok(target) = pin.target(&url) {
                prop_assert!(target.host().ends_with(".example.com") && target.port() == 443);
            }
            if let Ok(pin) = Pin::parse(&url) {
                let _ = pin.target(&url);
            }
        }
    }
}
