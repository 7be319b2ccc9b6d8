//! Does the request have the shape that the route expects?
//!
//! [`head`] holds for every request, before any route is known: bounds, and the rule that a head means one thing only,
//! to us and to everyone behind us. Framing that the carrier has already acted on is judged again here, since not every
//! HTTP library refuses what RFC 9112 tells it to.

use crate::check::client_ip::{is_port, is_token_byte};
use crate::policy::{Limits, Route};
use crate::reject::{Reason, Reject};
use crate::request::Head;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use std::net::Ipv6Addr;

/// What the head says of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    /// The sender waits for `100 Continue`.
    pub expects_continue: bool,
    /// The sender would rather speak another protocol on this connection.
    pub upgrades: bool,
}

/// Fields that belong to one connection and may be named in `Connection`.
const HOP_BY_HOP: [&str; 10] = [
    "close",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "http2-settings",
    "proxy-connection",
    "proxy-authenticate",
];

/// Fields that must never be named in `Connection`, there or not: the next hop would drop what we or it add.
const END_TO_END: [&str; 8] =
    ["host", "content-length", "content-type", "content-encoding", "authorization", "cookie", "forwarded", "via"];

/// Bounds and grammar of the head, before any route is looked for: number and size of fields, target length, exactly
/// one Host, framing that means one thing (RFC 9112 section 6), Expect.
///
/// `head.host` is the `Host` field or `:authority`; where both stand they must agree, and an empty one is missing.
pub fn head(head: &Head<'_>, limits: &Limits) -> Result<Declared, Reject> {
    within_bounds(head, limits)?;
    target(head)?;
    host(head.host)?;

    let mut host_field = false;
    let mut content_type = false;
    let mut length = None;
    let mut chunked = false;
    let mut expects_continue = false;
    let mut upgrades = false;
    let mut nominated = 0;
    let mut underscored = false;
    for (name, value) in head.headers.fields() {
        if name.is_empty() || !name.iter().all(|byte| is_token_byte(*byte)) {
            return malformed("a header name has a character that no token has");
        }
        // To the end, whatever is found: many bytes in one step.
        let controls = |bad, byte: &u8| bad | ((*byte < b' ') & (*byte != b'\t')) | (*byte == 0x7f);
        if value.iter().fold(false, controls) {
            return malformed(format!("header {} has a control byte", name.escape_ascii()));
        }
        // The length tells most fields apart before any letter is compared.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                let differs = !value.trim_ascii().eq_ignore_ascii_case(head.host.as_bytes());
                let again = std::mem::replace(&mut host_field, true);
                refuse_if(differs || again, "Host stands twice or differs from the request's authority")?;
            }
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                refuse_if(std::mem::replace(&mut content_type, true), "Content-Type stands twice")?;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                let again = length.replace(content_length(value)?).is_some();
                refuse_if(again, "Content-Length stands twice")?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                let again = std::mem::replace(&mut chunked, true);
                refuse_if(again || value != b"chunked", "Transfer-Encoding is not exactly one `chunked`")?;
            }
            6 if name.eq_ignore_ascii_case(b"expect") => {
                let again = std::mem::replace(&mut expects_continue, true);
                let known = !again && value.eq_ignore_ascii_case(b"100-continue");
                let refusal = || Reason::ExpectationFailed.because("Expect is not exactly one `100-continue`");
                known.then_some(()).ok_or_else(refusal)?;
            }
            7 if name.eq_ignore_ascii_case(b"upgrade") => upgrades = true,
            10 if name.eq_ignore_ascii_case(b"connection") => connection(head, value, &mut nominated)?,
            _ => {}
        }
        underscored |= name.contains(&b'_');
    }
    if underscored && let Some(name) = twin(head) {
        return malformed(format!("header {} stands with `_` and with `-`", name.escape_ascii()));
    }
    if chunked && length.is_some() {
        return malformed("Content-Length and Transfer-Encoding stand together");
    }
    Ok(Declared { length, expects_continue, upgrades })
}

/// What the route asks for: media type, encoding, required headers.
pub fn of_route(head: &Head<'_>, route: &Route) -> Result<(), Reject> {
    content_type(head, route)?;
    content_encoding(head, route)?;
    match route.required_headers.iter().find(|name| !head.headers.has(name)) {
        Some(name) => Err(Reason::HeaderMissing.because(format!("header {name} is missing"))),
        None => Ok(()),
    }
}

/// The declared size against the route's `max_body`.
pub fn size(declared: &Declared, route: &Route) -> Result<(), Reject> {
    match declared.length {
        Some(length) if usize::try_from(length).map_or(true, |length| length > route.max_body) => {
            Err(Reason::BodyTooLarge.because(format!("Content-Length {length}, at most {}", route.max_body)))
        }
        _ => Ok(()),
    }
}

fn malformed<T>(detail: impl Into<std::borrow::Cow<'static, str>>) -> Result<T, Reject> {
    Err(Reason::Malformed.because(detail))
}

fn refuse_if(fault: bool, detail: &'static str) -> Result<(), Reject> {
    if fault { malformed(detail) } else { Ok(()) }
}

fn within_bounds(head: &Head<'_>, limits: &Limits) -> Result<(), Reject> {
    let target = head.path.len() + head.query.map_or(0, |query| query.len() + 1);
    if target > limits.uri_bytes {
        return Err(Reason::UriTooLong.because(format!("target of {target} bytes, at most {}", limits.uri_bytes)));
    }
    let (fields, bytes) = head.headers.extent();
    if fields > limits.headers {
        return Err(Reason::HeadersTooLarge.because(format!("{fields} header fields, at most {}", limits.headers)));
    }
    if bytes > limits.header_bytes {
        return Err(
            Reason::HeadersTooLarge.because(format!("{bytes} bytes of headers, at most {}", limits.header_bytes))
        );
    }
    Ok(())
}

/// Method and target. What else a path must not be is judged with the routes.
fn target(head: &Head<'_>) -> Result<(), Reject> {
    // None that is known begins with anything else, and the lean way takes nothing else for a head.
    if !head.method.starts_with(|first: char| first.is_ascii_alphabetic()) || !head.method.bytes().all(is_token_byte) {
        return malformed("the method is no token that begins with a letter");
    }
    // Lower-case spellings too: what is behind us may fold case.
    if ["CONNECT", "TRACE", "TRACK", "PRI"].iter().any(|method| head.method.eq_ignore_ascii_case(method)) {
        return Err(Reason::MethodNotAllowed.because(format!("method {}", head.method.to_ascii_uppercase())));
    }
    // Some parsers refuse these, and so two parties would see two different requests, or one of them none.
    if head.path.bytes().any(|byte| matches!(byte, b'<' | b'>' | b'`')) {
        return malformed("the path has a byte that must be percent-encoded");
    }
    match head.query {
        Some(query)
            if query.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'#' | b'"' | b'<' | b'>')) =>
        {
            malformed("the query has a byte that must be percent-encoded")
        }
        _ => Ok(()),
    }
}

/// A name or address with an optional port; no userinfo, no path, no escapes.
fn host(text: &str) -> Result<(), Reject> {
    let (sane, rest) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
            None => (false, ""),
        },
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
            (plain && (1..=255).contains(&name.len()) && name.bytes().any(|byte| byte != b'.'), rest)
        }
    };
    if sane && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port)) {
        Ok(())
    } else {
        malformed("Host is missing or is not a name or address with an optional port")
    }
}

fn content_length(value: &[u8]) -> Result<u64, Reject> {
    // Nineteen digits always fit; longer ones are no honest length.
    Some(value)
        .filter(|digits| (1..=19).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| Reason::Malformed.because("Content-Length is not one to nineteen digits"))
}

/// What `Connection` may name altogether. Every name is looked for among all fields, and honest senders name one or two.
const MAX_NOMINATED: usize = 16;

/// `Connection: X-Hub-Signature-256` would make the next hop drop the signature: no sender means that.
fn connection(head: &Head<'_>, value: &[u8], nominated: &mut usize) -> Result<(), Reject> {
    for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
        let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
        *nominated += 1;
        refuse_if(*nominated > MAX_NOMINATED, "Connection names too much")?;
        if !token.iter().copied().all(is_token_byte) {
            return malformed("Connection has a character that no token has");
        }
        if HOP_BY_HOP.iter().any(|name| is(name)) {
            continue;
        }
        let forwarding = token.get(..12).is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"));
        if forwarding || END_TO_END.iter().any(|name| is(name)) || head.headers.iter().any(|(name, _)| is(name)) {
            return malformed("Connection names an end-to-end header");
        }
    }
    Ok(())
}

/// A header beside which there is one of the same name but for `_` and `-`: CGI-like backends cannot tell the two apart.
/// Sorted, since comparing all with all would make long names dear.
fn twin<'a>(head: &Head<'a>) -> Option<&'a [u8]> {
    let folded = |byte: &u8| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    let mut names: Vec<(Vec<u8>, Vec<u8>, &[u8])> = head
        .headers
        .fields()
        .map(|(name, _)| (name.iter().map(folded).collect(), name.to_ascii_lowercase(), name))
        .collect();
    names.sort_unstable();
    names.windows(2).find_map(|pair| match pair {
        [(one, lower, _), (other, other_lower, name)] if one == other && lower != other_lower => Some(*name),
        _ => None,
    })
}

fn content_type(head: &Head<'_>, route: &Route) -> Result<(), Reject> {
    if route.content_types.is_empty() {
        return Ok(());
    }
    let refused = |detail: String| Err(Reason::ContentTypeNotAllowed.because(detail));
    let Ok(value) = head.headers.one(&CONTENT_TYPE) else { return refused("Content-Type stands twice".to_owned()) };
    let Some(value) = value else {
        return if carries_body(head) { refused("Content-Type is missing".to_owned()) } else { Ok(()) };
    };
    let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let accepted = route.content_types.iter().any(|accepted| match accepted.strip_suffix('*') {
        Some(family) if family.ends_with('/') => media_type
            .split_at_checked(family.len())
            .is_some_and(|(start, subtype)| start.eq_ignore_ascii_case(family.as_bytes()) && !subtype.is_empty()),
        _ => media_type.eq_ignore_ascii_case(accepted.as_bytes()),
    });
    if accepted { Ok(()) } else { refused(format!("Content-Type {}", media_type.escape_ascii())) }
}

/// By its method, or by what the head declares.
fn carries_body(head: &Head<'_>) -> bool {
    !matches!(head.method, "GET" | "HEAD" | "DELETE" | "OPTIONS")
        || head.headers.has(&TRANSFER_ENCODING)
        || head.headers.all(&CONTENT_LENGTH).any(|value| value != b"0")
}

fn content_encoding(head: &Head<'_>, route: &Route) -> Result<(), Reject> {
    let mut codings = head.headers.all(&CONTENT_ENCODING).flat_map(|line| line.split(|byte| *byte == b','));
    let is = |coding: &[u8], name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
    let refused = codings.find(|coding| {
        let coding = coding.trim_ascii();
        !is(coding, "identity") && !route.content_encodings.iter().any(|accepted| is(coding, accepted))
    });
    match refused {
        Some(coding) => Err(Reason::ContentEncodingNotAllowed
            .because(format!("Content-Encoding {}", coding.trim_ascii().escape_ascii()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{HeaderName, Headers};

    const LIMITS: Limits = Limits { headers: 20, header_bytes: 1000, uri_bytes: 50, body_memory: 0 };

    type Fields<'a> = &'a [(&'a str, &'a str)];

    fn with<T>(method: &str, target: &str, host: &str, fields: Fields<'_>, ask: impl FnOnce(&Head<'_>) -> T) -> T {
        let list: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        ask(&Head { method, path, query, host, headers: Headers::List(&list) })
    }

    fn reason<T>(answer: Result<T, Reject>) -> Option<Reason> {
        answer.err().map(|reject| reject.reason)
    }

    fn judged(fields: Fields<'_>) -> Option<Reason> {
        let fields: Vec<_> = [("Host", "a.example")].iter().chain(fields).copied().collect();
        with("POST", "/", "a.example", &fields, |it| reason(head(it, &LIMITS)))
    }

    #[test]
    fn a_head_that_asks_for_another_protocol_says_so() {
        for (name, upgrades) in [("Upgrade", true), ("upgrade", true), ("Upgraded", false), ("X-Upgra", false)] {
            let declared = with("POST", "/", "a.example", &[(name, "websocket")], |it| head(it, &LIMITS)).unwrap();
            assert_eq!(declared.upgrades, upgrades, "{name}");
        }
    }

    #[test]
    fn a_plain_head_declares_its_body() {
        let declared = |fields: Fields<'_>| with("POST", "/a?b", "a.example", fields, |it| head(it, &LIMITS)).unwrap();
        for (fields, length, expects_continue) in [
            (&[][..], None, false),
            (&[("content-length", "0")], Some(0), false),
            (&[("Content-Length", "0000000000000000042"), ("Expect", "100-Continue")], Some(42), true),
            (&[("Content-Length", "9999999999999999999")], Some(9_999_999_999_999_999_999), false),
            (&[("Transfer-Encoding", "chunked")], None, false),
        ] {
            assert_eq!(declared(fields), Declared { length, expects_continue, upgrades: false }, "{fields:?}");
        }
    }

    #[test]
    fn framing_that_could_mean_two_things_is_refused() {
        for fields in [
            &[("Content-Length", "")][..],
            &[("Content-Length", "+5")],
            &[("Content-Length", "-5")],
            &[("Content-Length", "5, 5")],
            &[("Content-Length", "5 ")],
            &[("Content-Length", "0x5")],
            &[("Content-Length", "5.0")],
            &[("Content-Length", "99999999999999999999")],
            &[("Content-Length", "٥")],
            &[("Content-Length", "5"), ("content-length", "5")],
            &[("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "chunked"), ("Content-Length", "5")],
            &[("Transfer-Encoding", "")],
            &[("Transfer-Encoding", "Chunked")],
            &[("Transfer-Encoding", "chunked, chunked")],
            &[("Transfer-Encoding", "gzip, chunked")],
            &[("Transfer-Encoding", "identity")],
            &[("Transfer-Encoding", "xchunked")],
            &[("Transfer-Encoding", "chunked\t")],
            &[("Transfer-Encoding", "chunked;q=1")],
            &[("Transfer-Encoding", "\"chunked\"")],
            &[("Transfer-Encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("Content-Type", "a/b"), ("content-type", "a/b")],
            &[("Content-Length", "5"), ("Content_Length", "6")],
            &[("transfer_encoding", "x"), ("Transfer-Encoding", "chunked")],
            &[("X_Hub-Signature_256", "a"), ("X-Hub-Signature-256", "b")],
            &[("X_Y-Z", "a"), ("x-y_z", "b")],
            &[("X-A", "a\rb")],
            &[("X-A", "a\nb")],
            &[("X-A", "a\0b")],
            &[("X-A", "a\u{7f}b")],
            // Two faults do not make up for each other.
            &[("X-A", "a\0\0b")],
            &[("X-A", "a\0b\u{7f}")],
            &[("X-A", "\u{7f}\u{7f}")],
            &[("X-A ", "a")],
            &[("X A", "a")],
            &[("X-A:", "a")],
            &[("", "a")],
            &[("X\u{e9}", "a")],
            &[("Host", "a.example")],
            &[("Connection", "close, X-Hub-Signature-256"), ("x-hub-signature-256", "x")],
            &[("Connection", "Content-Length")],
            &[("Connection", "host")],
            &[("Connection", "X-Forwarded-For")],
            &[("Connection", "authorization,")],
            &[("Connection", "a b")],
            &[("Connection", &"a,".repeat(17))],
            &[("Connection", &"a,".repeat(9)), ("Connection", &"close,".repeat(8))],
            &[("X_A", "1"), ("X-B", "1"), ("x_a", "1"), ("X-A", "1")],
        ] {
            assert_eq!(judged(fields), Some(Reason::Malformed), "{fields:?}");
        }
        for fields in [
            &[("Connection", "close")][..],
            &[("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "x")],
            &[("Connection", "keep-alive, x-not-there")],
            &[("Connection", "TE"), ("TE", "trailers")],
            &[("Connection", "")],
            &[("Connection", &"a,".repeat(16))],
            &[("X_A", "1"), ("x_a", "1"), ("X_A", "2"), ("X-A_", "1")],
            // As long as the names of fields that may stand once only, or that are read.
            &[("X-Ab", "b.example"), ("X-Ab", "c")],
            &[("X-Six1", "x"), ("X-Six1", "y")],
            &[("X-Ten-Abcd", "host"), ("X-Ten-Abcd", "via")],
            &[("X-Twelve-Abc", "x"), ("X-Twelve-Abc", "y")],
            &[("X-Fourteen-Abc", "x"), ("X-Fourteen-Abc", "y")],
            &[("X-Seventeen-Abcd", "x"), ("X-Seventeen-Abcde", "y")],
            &[("X_A", "1"), ("X_B", "2"), ("X-C", "tab\tand \u{e9}")],
        ] {
            assert_eq!(judged(fields), None, "{fields:?}");
        }
    }

    #[test]
    fn there_is_exactly_one_sane_host() {
        for (host, field, sane) in [
            ("a.example", Some("a.example"), true),
            ("a.example:8443", Some("a.example:8443"), true),
            ("A.example", Some("a.EXAMPLE"), true),
            ("a.example.", None, true),
            ("my_service", None, true),
            ("[2001:db8::1]:80", None, true),
            ("192.0.2.1", None, true),
            ("a.example", Some("b.example"), false),
            ("a.example", Some("a.example:80"), false),
            ("a.example", Some(""), false),
            ("", None, false),
            ("", Some(""), false),
            (".", None, false),
            (":80", None, false),
            ("a.example:", None, false),
            ("a.example:x", None, false),
            ("a.example:65536", None, false),
            ("a.example:80:80", None, false),
            ("u@a.example", None, false),
            ("a.example/x", None, false),
            ("a.example, b.example", None, false),
            ("a example", None, false),
            ("a%2eexample", None, false),
            ("é.example", None, false),
            ("[::1", None, false),
            ("[::1]x", None, false),
            ("[fe80::1%25eth0]", None, false),
            ("[v1.x]", None, false),
            ("::1", None, false),
        ] {
            let fields: Vec<_> = field.iter().map(|field| ("Host", *field)).collect();
            let answer = with("POST", "/", host, &fields, |it| reason(head(it, &LIMITS)));
            assert_eq!(answer, (!sane).then_some(Reason::Malformed), "{host} {field:?}");
        }
    }

    #[test]
    fn methods_targets_and_sizes_have_bounds() {
        let judged = |method: &str, target: &str, fields: Fields<'_>| {
            with(method, target, "a.example", fields, |it| reason(head(it, &LIMITS)))
        };
        for method in ["CONNECT", "TRACE", "trace", "PRI"] {
            assert_eq!(judged(method, "/", &[]), Some(Reason::MethodNotAllowed), "{method}");
        }
        for method in ["", "PO ST", "POST\0", "'OST", "!POST", "1"] {
            assert_eq!(judged(method, "/", &[]), Some(Reason::Malformed), "{method:?}");
        }
        for query in ["/?a b", "/?a\0", "/?é", "/?a#b", "/?\t"] {
            assert_eq!(judged("POST", query, &[]), Some(Reason::Malformed), "{query:?}");
        }
        let fits = format!("/{}?{}", "a".repeat(24), "b".repeat(24));
        assert_eq!(judged("POST", &fits, &[]), None);
        assert_eq!(judged("POST", &format!("{fits}b"), &[]), Some(Reason::UriTooLong));
        assert_eq!(judged("POST", "/", &[("X", "1"); 20]), None);
        assert_eq!(judged("POST", "/", &[("X", "1"); 21]), Some(Reason::HeadersTooLarge));
        assert_eq!(judged("POST", "/", &[("X", &"1".repeat(999))]), None);
        assert_eq!(judged("POST", "/", &[("X", &"1".repeat(1000))]), Some(Reason::HeadersTooLarge));
        for expect in ["200-ok", "100-continue, x", ""] {
            assert_eq!(judged("POST", "/", &[("Expect", expect)]), Some(Reason::ExpectationFailed), "{expect}");
        }
        assert_eq!(judged("POST", "/", &[("Expect", "100-continue"); 2]), Some(Reason::ExpectationFailed));
    }

    #[test]
    fn a_route_takes_only_the_types_and_encodings_it_names() {
        let mut route = crate::check::tests::route("shape");
        let judged = |route: &Route, method: &str, fields: Fields<'_>| {
            with(method, "/", "a.example", fields, |it| reason(of_route(it, route)))
        };
        assert_eq!(judged(&route, "POST", &[("Content-Type", "text/html")]), None);
        assert_eq!(judged(&route, "POST", &[]), None);
        route.content_types = vec!["application/json".into(), "text/*".into()];
        route.content_encodings = vec!["gzip".into()];
        route.required_headers = vec![HeaderName::from_static("x-event")];
        let (kind, coding) = (Some(Reason::ContentTypeNotAllowed), Some(Reason::ContentEncodingNotAllowed));
        let present = ("X-Event", "");
        let json = ("Content-Type", "application/json");
        for (method, fields, expected) in [
            ("POST", &[json, present][..], None),
            ("POST", &[("content-type", "Application/JSON ; charset=utf-8"), present], None),
            ("POST", &[("Content-Type", "text/plain"), present], None),
            ("POST", &[("Content-Type", "text/"), present], kind),
            ("POST", &[("Content-Type", "textual/plain"), present], kind),
            ("POST", &[("Content-Type", "application/json5"), present], kind),
            ("POST", &[("Content-Type", ""), present], kind),
            ("POST", &[json, json, present], kind),
            ("POST", &[present], kind),
            ("GET", &[present], None),
            ("GET", &[present, ("Content-Length", "0")], None),
            ("GET", &[present, ("Content-Length", "1")], kind),
            ("GET", &[present, ("Transfer-Encoding", "chunked")], kind),
            ("GET", &[("Content-Type", "image/png"), present], kind),
            ("POST", &[json, ("Content-Encoding", "GZIP"), present], None),
            ("POST", &[json, ("Content-Encoding", "identity, gzip"), present], None),
            ("POST", &[json, ("Content-Encoding", "br"), present], coding),
            ("POST", &[json, ("Content-Encoding", "gzip"), ("Content-Encoding", "br"), present], coding),
            ("POST", &[json, ("Content-Encoding", ""), present], coding),
            ("POST", &[json], Some(Reason::HeaderMissing)),
        ] {
            assert_eq!(judged(&route, method, fields), expected, "{method} {fields:?}");
        }
        // A star is no family without the slash before it.
        route.content_types = vec!["application*".into(), "*".into()];
        assert_eq!(judged(&route, "POST", &[json, present]), kind);
    }

    #[test]
    fn a_declared_size_over_the_limit_is_refused() {
        let mut route = crate::check::tests::route("size");
        route.max_body = 10;
        for (length, fits) in
            [(None, true), (Some(0), true), (Some(10), true), (Some(11), false), (Some(u64::MAX), false)]
        {
            let declared = Declared { length, expects_continue: false, upgrades: false };
            assert_eq!(reason(size(&declared, &route)), (!fits).then_some(Reason::BodyTooLarge), "{length:?}");
        }
    }
}
