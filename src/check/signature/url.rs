//! The URL as the sender called it, in the spellings that senders sign.
//!
//! What arrives here has passed load balancers and proxies, so scheme, host and port are configuration (`public_url`),
//! never what `Host` or a forwarding header says. The query is the request's own: it is signed only if it is what
//! arrived.

use crate::check::source::{decode_component, raw_pairs, sorted_pairs};
use crate::request::Head;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use std::borrow::Cow;

/// How a sender spells the URL that it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlForm {
    /// As configured.
    AsCalled,
    /// Twilio: some of its products sign the URL with the port and some without, also where the port is the scheme's
    /// own, and they differ in how much of the query they escape. As in Twilio's own library any spelling may match.
    /// <https://github.com/twilio/twilio-node/blob/main/src/webhooks/webhooks.ts>
    Twilio,
    /// HubSpot v3: twelve escapes are decoded, all others stay.
    /// <https://developers.hubspot.com/docs/apps/developer-platform/build-apps/authentication/request-validation>
    HubspotV3,
    /// Plivo v3: the query sorted, behind it the fields of a form, sorted as well.
    /// <https://github.com/plivo/plivo-python/blob/0843141a9db3ee39b5edd54fbffefdd14a63f16e/plivo/utils/signature_v3.py>
    PlivoV3,
}

impl UrlForm {
    /// In how many spellings the text is tried.
    pub(crate) fn variants(self) -> usize {
        if self == Self::Twilio { 6 } else { 1 }
    }

    /// The spelling that stands for all of them in the memory of replays: the one that stays the same however a copy
    /// of the request escapes its query.
    pub(crate) fn canonical(self) -> usize {
        if self == Self::Twilio { 4 } else { 0 }
    }
}

/// The configured URL of a route as senders know it.
#[derive(Clone, Debug)]
pub(crate) struct PublicUrl {
    text: Box<str>,
    /// Where its query starts, the `?` included.
    query_at: usize,
    /// No path was given: the request's own is used.
    origin_only: bool,
}

impl PublicUrl {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(|| format!("public_url `{text}` does not start with https:// or http://"))?;
        if text.contains('#') || text.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(format!("public_url `{text}` holds a `#`, a space or a character outside ASCII"));
        }
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.rsplit('@').next().is_none_or(|host| host.is_empty() || host.starts_with(':')) {
            return Err(format!("public_url `{text}` has no host"));
        }
        let query_at = text.find('?').unwrap_or(text.len());
        let path = rest[authority.len()..].split('?').next().unwrap_or_default();
        Ok(Self { text: text.into(), query_at, origin_only: path.is_empty() || path == "/" })
    }

    /// Exactly as configured: what was registered at the sender.
    pub(crate) fn registered(&self) -> &str {
        &self.text
    }

    /// The URL of this request in one of the form's spellings.
    pub(crate) fn called(&self, head: &Head<'_>, form: UrlForm, variant: usize) -> Cow<'_, str> {
        let mut url = Cow::Borrowed(&*self.text);
        if self.origin_only || head.query.is_some() {
            let base = &self.text[..self.query_at];
            let (base, path) = if self.origin_only { (base.trim_end_matches('/'), head.path) } else { (base, "") };
            let mut text = String::with_capacity(base.len() + path.len() + head.query.map_or(0, str::len) + 1);
            text.push_str(base);
            text.push_str(path);
            if let Some(query) = head.query {
                text.push('?');
                text.push_str(query);
            }
            url = Cow::Owned(text);
        }
        match form {
            UrlForm::AsCalled | UrlForm::PlivoV3 => url,
            UrlForm::Twilio => Cow::Owned(with_port(&respelled(&url, variant / 2), variant % 2 == 1)),
            UrlForm::HubspotV3 => Cow::Owned(partly_decoded(&url)),
        }
    }
}

/// The URL without its query, the query's pairs in order and decoded, and the fields of the form in order. The error says
/// what query or form hold that they may not hold.
pub(crate) fn plivo(url: &str, form: &[u8]) -> Result<Vec<u8>, &'static str> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (query, fields) = (sorted_pairs(query.as_bytes())?, sorted_pairs(form)?);
    let mut text = base.as_bytes().to_vec();
    if !query.is_empty() || !fields.is_empty() {
        text.push(b'?');
    }
    let query: Vec<Vec<u8>> = query.into_iter().map(|(name, value)| [&*name, b"=", &*value].concat()).collect();
    text.extend(query.join(&b'&'));
    if !query.is_empty() && !fields.is_empty() {
        text.push(b'.');
    }
    for (name, value) in fields {
        text.extend_from_slice(&name);
        text.extend_from_slice(&value);
    }
    Ok(text)
}

/// Path and query as Contentful signs them: the query escaped as a whole, and then all of it as `encodeURI` does, so that
/// what was escaped on the way is escaped a second time.
/// <https://github.com/contentful/node-apps-toolkit/blob/42bf35e/src/requests/utils.ts>
pub(crate) fn escaped(path: &str, query: Option<&str>) -> String {
    /// What `encodeURIComponent` leaves as it is.
    const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'!')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    /// What `encodeURI` leaves as it is.
    const WHOLE: &AsciiSet = &COMPONENT
        .remove(b';')
        .remove(b',')
        .remove(b'/')
        .remove(b'?')
        .remove(b':')
        .remove(b'@')
        .remove(b'&')
        .remove(b'=')
        .remove(b'+')
        .remove(b'$')
        .remove(b'#');
    let encode = |text: &str| percent_encode(text.as_bytes(), WHOLE).to_string();
    match query.filter(|query| !query.is_empty()) {
        None => encode(path),
        Some(query) => encode(&format!("{path}?{}", percent_encode(query.as_bytes(), COMPONENT))),
    }
}

/// The URL with its port (the scheme's own where none stands), or without any.
fn with_port(url: &str, keep: bool) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let host_at = authority.rfind('@').map_or(0, |at| at + 1);
    // An IPv6 address holds colons of its own, inside brackets.
    let port_at = authority[host_at..].rfind(':').map(|at| host_at + at).filter(|at| !authority[*at..].contains(']'));
    match (keep, port_at) {
        (true, Some(_)) => url.to_owned(),
        (true, None) => format!("{scheme}://{authority}:{}{rest}", if scheme == "https" { 443 } else { 80 }),
        (false, at) => format!("{scheme}://{}{rest}", &authority[..at.unwrap_or(authority.len())]),
    }
}

/// The query as it arrived (0), with `'` escaped as browsers do (1), or decoded and escaped anew as Node's
/// `querystring` does (2).
fn respelled(url: &str, spelling: usize) -> Cow<'_, str> {
    /// What `encodeURIComponent` leaves as it is.
    const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~')
        .remove(b'!')
        .remove(b'*')
        .remove(b'\'')
        .remove(b'(')
        .remove(b')');
    let Some((base, query)) = url.split_once('?') else { return Cow::Borrowed(url) };
    match spelling {
        1 if query.contains('\'') => Cow::Owned(format!("{base}?{}", query.replace('\'', "%27"))),
        2 => {
            let anew = |text| decode_component(text).map(|text| percent_encode(&text, ESCAPED).to_string());
            let pairs =
                raw_pairs(query.as_bytes()).map(|(name, value)| Some(format!("{}={}", anew(name)?, anew(value)?)));
            match pairs.collect::<Option<Vec<_>>>() {
                Some(pairs) => Cow::Owned(format!("{base}?{}", pairs.join("&"))),
                None => Cow::Borrowed(url),
            }
        }
        _ => Cow::Borrowed(url),
    }
}

/// The twelve escapes of HubSpot's v3 rule, in either case. `%20`, `%26`, `%3D` and all others stay.
fn partly_decoded(url: &str) -> String {
    const DECODED: &[(&str, char)] = &[
        ("3A", ':'),
        ("2F", '/'),
        ("3F", '?'),
        ("40", '@'),
        ("21", '!'),
        ("24", '$'),
        ("27", '\''),
        ("28", '('),
        ("29", ')'),
        ("2A", '*'),
        ("2C", ','),
        ("3B", ';'),
    ];
    let mut text = String::with_capacity(url.len());
    let mut rest = url;
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let escape = rest.get(at + 1..at + 3);
        let decoded = DECODED.iter().find(|(code, _)| escape.is_some_and(|escape| escape.eq_ignore_ascii_case(code)));
        match decoded {
            Some((_, character)) => {
                text.push(*character);
                rest = &rest[at + 3..];
            }
            None => {
                text.push('%');
                rest = &rest[at + 1..];
            }
        }
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;

    fn called(public: &str, path: &str, query: Option<&str>, form: UrlForm, variant: usize) -> String {
        let head = Head { method: "POST", path, query, host: "other.example", headers: Headers::List(&[]) };
        PublicUrl::parse(public).unwrap().called(&head, form, variant).into_owned()
    }

    #[test]
    fn plivo_signs_query_and_form_in_order() {
        for (url, form, expected) in [
            ("https://a.example/x", "", "https://a.example/x"),
            ("https://a.example/x?b=2&a=1&a=0", "", "https://a.example/x?a=0&a=1&b=2"),
            ("https://a.example/x", "b=2&a=1+1", "https://a.example/x?a1 1b2"),
            ("https://a.example/x?k=%2B1", "b=2&a=", "https://a.example/x?k=+1.ab2"),
        ] {
            assert_eq!(plivo(url, form.as_bytes()).unwrap(), expected.as_bytes(), "{url} {form}");
        }
        for (url, form) in [("https://a.example/?a=%zz", ""), ("https://a.example/", "a=%zz")] {
            assert_eq!(plivo(url, form.as_bytes()), Err("a broken escape"), "{url} {form}");
        }
    }

    /// As the sender's toolkit gives it.
    #[test]
    fn path_and_query_are_escaped_as_contentful_does() {
        assert_eq!(escaped("/hook", None), "/hook");
        assert_eq!(escaped("/a%20b", Some("")), "/a%2520b");
        assert_eq!(escaped("/hook", Some("foo=bar%20baz&x=1")), "/hook?foo%253Dbar%252520baz%2526x%253D1");
    }

    #[test]
    fn a_port_is_told_from_what_stands_before_the_host() {
        for (url, with, without) in [
            ("https://h/x", "https://h:443/x", "https://h/x"),
            ("http://h?x", "http://h:80?x", "http://h?x"),
            ("https://h:8443/x", "https://h:8443/x", "https://h/x"),
            ("https://u:@h/x", "https://u:@h:443/x", "https://u:@h/x"),
            ("https://u:p@h:1/x", "https://u:p@h:1/x", "https://u:p@h/x"),
            ("https://[::1]/x", "https://[::1]:443/x", "https://[::1]/x"),
            ("https://[::1]:1/x", "https://[::1]:1/x", "https://[::1]/x"),
        ] {
            assert_eq!((&*with_port(url, true), &*with_port(url, false)), (with, without), "{url}");
        }
    }

    #[test]
    fn the_url_is_the_configured_one_with_the_query_that_arrived() {
        for (public, path, query, expected) in [
            ("https://a.example/hook", "/in", None, "https://a.example/hook"),
            ("https://a.example/hook", "/in", Some("x=1"), "https://a.example/hook?x=1"),
            ("https://a.example/hook", "/in", Some(""), "https://a.example/hook?"),
            ("https://a.example/hook?a=1", "/in", Some("x=1"), "https://a.example/hook?x=1"),
            ("https://a.example/hook?a=1", "/in", None, "https://a.example/hook?a=1"),
            ("https://a.example", "/in", Some("x=1"), "https://a.example/in?x=1"),
            ("https://a.example/", "/in", None, "https://a.example/in"),
            ("https://a.example?a=1", "/in", None, "https://a.example/in"),
        ] {
            assert_eq!(called(public, path, query, UrlForm::AsCalled, 0), expected, "{public} {path} {query:?}");
        }
    }

    #[test]
    fn ports_are_removed_and_added_without_touching_userinfo_or_ipv6() {
        for (public, without, with) in [
            ("https://a.example/h", "https://a.example/h", "https://a.example:443/h"),
            ("http://a.example/h", "http://a.example/h", "http://a.example:80/h"),
            ("http://a.example:1234/h", "http://a.example/h", "http://a.example:1234/h"),
            ("https://u:p@a.example/h", "https://u:p@a.example/h", "https://u:p@a.example:443/h"),
            ("https://[::1]/h", "https://[::1]/h", "https://[::1]:443/h"),
            ("https://[::1]:8443/h", "https://[::1]/h", "https://[::1]:8443/h"),
        ] {
            assert_eq!(called(public, "/", None, UrlForm::Twilio, 0), without);
            assert_eq!(called(public, "/", None, UrlForm::Twilio, 1), with);
        }
    }

    #[test]
    fn queries_are_tried_as_they_arrived_and_as_twilio_escapes_them() {
        let url = "https://a.example/h?a=it's&b=x+y%2f&c=http://z";
        assert_eq!(respelled(url, 0), url);
        assert_eq!(respelled(url, 1), "https://a.example/h?a=it%27s&b=x+y%2f&c=http://z");
        assert_eq!(respelled(url, 2), "https://a.example/h?a=it's&b=x%20y%2F&c=http%3A%2F%2Fz");
        assert_eq!(respelled("https://a.example/h?a=%zz", 2), "https://a.example/h?a=%zz");
        assert_eq!(respelled("https://a.example/h", 2), "https://a.example/h");
    }

    #[test]
    fn only_the_twelve_escapes_of_hubspot_v3_are_decoded() {
        assert_eq!(
            partly_decoded("https://a/%3a%2F%3F%40%21%24%27%28%29%2A%2C%3B?q=%20%26%3D%25%2f%zz%"),
            "https://a/:/?@!$'()*,;?q=%20%26%3D%25/%zz%"
        );
        // Decoded once, not until nothing is left to decode.
        assert_eq!(partly_decoded("%253A"), "%253A");
    }

    #[test]
    fn public_urls_that_no_sender_could_call_are_refused() {
        for text in [
            "",
            "hooks.example.com",
            "ftp://a",
            "https://",
            "https:///x",
            "https://:443/",
            "https://a/#x",
            "https://a b/",
        ] {
            assert!(PublicUrl::parse(text).is_err(), "{text}");
        }
    }
}
