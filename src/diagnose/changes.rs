//! The usual mistakes, as changes that can be tried: to secrets, to the body, to the URL, to the scheme.

use super::{Captured, Checks, Explanation, Subject, Trial, at, json};
use crate::check::source::decode_component;
use crate::config::scheme::{RawAlgorithm, RawEncoding, RawPlace, RawScheme, RawUnit};
use crate::provider;
use crate::reject::Reason;
use crate::request::Now;
use crate::secret::{Secret, SecretBytes};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Lengths of a MAC in bytes: SHA-1, SHA-256, SHA-384, SHA-512.
const TAGS: [usize; 4] = [20, 32, 48, 64];

/// What a change is made to. Two changes are tried together only where their kinds differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What the secret is.
    Secret,
    /// What was signed of the body.
    Body,
    /// What was signed of the URL.
    Url,
    /// How it was signed.
    Scheme,
    /// Who signed.
    Provider,
}

impl Kind {
    /// Which kinds are tried together, the likelier first. A scheme is put in place before a secret is read by it.
    pub(super) const PAIRS: [(Self, Self); 9] = [
        (Self::Secret, Self::Body),
        (Self::Scheme, Self::Secret),
        (Self::Url, Self::Secret),
        (Self::Url, Self::Body),
        (Self::Scheme, Self::Body),
        (Self::Provider, Self::Secret),
        (Self::Scheme, Self::Url),
        (Self::Provider, Self::Url),
        (Self::Provider, Self::Body),
    ];
}

/// One mistake that may have been made.
pub(super) struct Change {
    pub(super) kind: Kind,
    /// Ends "it would verify if …".
    pub(super) what: String,
    /// What to do about it.
    pub(super) remedy: String,
    /// What to write into the configuration.
    pub(super) yaml: Option<String>,
    pub(super) edit: Edit,
}

/// What is done to the copy.
pub(super) enum Edit {
    Body(Bytes),
    /// Other secrets, read as the scheme says.
    Secrets(Vec<(String, SecretBytes)>),
    /// Other keys, taken as they stand.
    Keys(Vec<(String, SecretBytes)>),
    /// Another scheme, and a signature header that fits it.
    Scheme(Box<RawScheme>, Option<(String, Vec<u8>)>),
    /// Another sender's scheme.
    Provider(Box<RawScheme>, Option<String>),
    PublicUrl(String),
    Target {
        path: String,
        query: Option<String>,
        host: String,
    },
}

impl Edit {
    pub(super) fn apply(&self, trial: &mut Trial) {
        match self {
            Self::Body(body) => trial.request.body = Some(body.clone()),
            Self::Secrets(secrets) => trial.secrets.clone_from(secrets),
            Self::Keys(keys) => {
                trial.secrets.clone_from(keys);
                for one in each_mut(&mut trial.scheme) {
                    one.key = None;
                }
            }
            Self::Scheme(scheme, header) => {
                trial.scheme = (**scheme).clone();
                if let Some((name, value)) = header {
                    trial.request.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
                    trial.request.headers.push((name.clone(), value.clone()));
                }
            }
            Self::Provider(scheme, url) => {
                trial.scheme = (**scheme).clone();
                if trial.public_url.is_none() {
                    trial.public_url.clone_from(url);
                }
            }
            Self::PublicUrl(url) => trial.public_url = Some(url.clone()),
            Self::Target { path, query, host } => {
                trial.request.path.clone_from(path);
                trial.request.query.clone_from(query);
                trial.request.host.clone_from(host);
            }
        }
    }
}

/// The alternatives of a scheme, or the scheme itself.
fn each(scheme: &RawScheme) -> &[RawScheme] {
    scheme.any_of.as_deref().unwrap_or(std::slice::from_ref(scheme))
}

fn each_mut(scheme: &mut RawScheme) -> &mut [RawScheme] {
    if scheme.any_of.is_some() {
        return scheme.any_of.as_deref_mut().unwrap_or_default();
    }
    std::slice::from_mut(scheme)
}

/// A copy with every alternative changed. `None`: none was.
fn edited(scheme: &RawScheme, edit: impl Fn(&mut RawScheme) -> bool) -> Option<Box<RawScheme>> {
    let mut copy = scheme.clone();
    // All of them, not only up to the first that changes.
    let changed = each_mut(&mut copy).iter_mut().map(edit).filter(|changed| *changed).count();
    (changed > 0).then(|| Box::new(copy))
}

/// Everything that is tried, the likelier first.
pub(super) fn all(subject: &Subject, others: &[(String, Secret)], base: &Trial) -> Vec<Change> {
    let mut all = Vec::new();
    secrets(base, &mut all);
    foreign(base, others, &mut all);
    scheme(subject, base, &mut all);
    body(base, &mut all);
    url(subject, base, &mut all);
    providers(subject, base, &mut all);
    all
}

// Secrets -------------------------------------------------------------------------------------------------------------

fn secrets(base: &Trial, all: &mut Vec<Change>) {
    let decoding = each(&base.scheme).iter().any(|one| one.key.is_some());
    let mut seen: Vec<Vec<u8>> = base.secrets.iter().map(|(_, secret)| secret.expose().to_vec()).collect();
    let mut add = |what: &str, remedy: &str, as_key: bool, make: &dyn Fn(&[u8]) -> Option<Vec<u8>>| {
        let made = base.secrets.iter().filter_map(|(origin, secret)| {
            let bytes = make(secret.expose()).filter(|bytes| !bytes.is_empty())?;
            if as_key && bytes == secret.expose() && !decoding {
                return None;
            }
            if !as_key {
                if seen.contains(&bytes) {
                    return None;
                }
                seen.push(bytes.clone());
            }
            Some((origin.clone(), SecretBytes::new(bytes)))
        });
        let made: Vec<_> = made.collect();
        if !made.is_empty() {
            let edit = if as_key { Edit::Keys(made) } else { Edit::Secrets(made) };
            all.push(Change { kind: Kind::Secret, what: what.into(), remedy: remedy.into(), yaml: None, edit });
        }
    };
    let store = "store the secret exactly as the sender shows it: `printf %s` adds no line end, `echo` does";
    add("the secret had no white space at its start or end", store, false, &|secret| {
        Some(secret.trim_ascii().to_vec())
    });
    add("the secret did not stand in quotes", store, false, &|secret| {
        let text = secret.trim_ascii();
        let inner = |quote: &[u8]| text.strip_prefix(quote)?.strip_suffix(quote).map(<[u8]>::to_vec);
        inner(b"\"").or_else(|| inner(b"'")).or_else(|| inner(b"`"))
    });
    add("only what stands behind `=` were the secret", store, false, &|secret| {
        let at = secret.iter().position(|byte| *byte == b'=')?;
        let (name, value) = secret.split_at_checked(at)?;
        let is_name = name.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_');
        (is_name && at > 2).then(|| value.get(1..).unwrap_or_default().trim_ascii().to_vec())
    });
    let sender = "the sender holds the secret with a line end: enter it there again, without one";
    add("the secret ended in a line end", sender, false, &|secret| Some([secret, b"\n"].concat()));
    let decoded = "the sender uses the decoded bytes as its key: say so with `key: { encoding: … }` in a scheme of your \
                   own, or put the decoded bytes into the secret's file";
    let plain = "the sender uses the text of the secret as its key: take it as it stands";
    add("the secret were not decoded, but used as it stands", plain, true, &|secret| Some(secret.to_vec()));
    add("the secret were used as it stands, without its prefix", plain, true, &|secret| {
        Some(without_prefix(secret)?.to_vec())
    });
    add("the secret were decoded from base64", decoded, true, &|secret| base64_of(secret.trim_ascii()));
    add("the secret were decoded from base64, without its prefix", decoded, true, &|secret| {
        base64_of(without_prefix(secret)?)
    });
    add("the secret were decoded from hex", decoded, true, &|secret| hex::decode(secret.trim_ascii()).ok());
    add("the secret were decoded from hex, without its prefix", decoded, true, &|secret| {
        hex::decode(without_prefix(secret)?).ok()
    });
    add("the secret were decoded from base64 twice", decoded, true, &|secret| {
        base64_of(base64_of(secret.trim_ascii())?.trim_ascii())
    });
    add("the secret were the base64 of what is configured", plain, true, &|secret| {
        Some(STANDARD.encode(secret).into_bytes())
    });
    add("the secret were the hex digits of what is configured", plain, true, &|secret| {
        Some(hex::encode(secret).into_bytes())
    });
    add("the secret were percent-decoded", store, false, &|secret| {
        decode_component(secret).map(|text| text.into_owned())
    });
    add("the secret were in lower case", store, false, &|secret| Some(secret.to_ascii_lowercase()));
    add("the secret were in upper case", store, false, &|secret| Some(secret.to_ascii_uppercase()));
    let unset = "the sender has no secret set: enter it there";
    for word in ["undefined", "null", "None", "nil"] {
        let what = format!("the secret were the word `{word}`");
        add(&what, unset, true, &|_| Some(word.as_bytes().to_vec()));
    }
}

fn foreign(base: &Trial, others: &[(String, Secret)], all: &mut Vec<Change>) {
    for (route, secret) in others {
        if base.secrets.iter().any(|(_, own)| own.expose() == secret.bytes.expose()) {
            continue;
        }
        all.push(Change {
            kind: Kind::Secret,
            what: format!("the secret were that of route {route}"),
            remedy: format!("give this route the secret from {}, or let the sender call route {route}", secret.origin),
            yaml: None,
            edit: Edit::Secrets(vec![(secret.origin.to_string(), secret.bytes.clone())]),
        });
    }
}

/// Behind `whsec_`, `v1,whsec_`, `Bearer ` and the like.
fn without_prefix(secret: &[u8]) -> Option<&[u8]> {
    let secret = secret.trim_ascii();
    if let Some(rest) = secret.strip_prefix(b"Bearer ").or_else(|| secret.strip_prefix(b"Basic ")) {
        return Some(rest);
    }
    let at = secret.iter().take(16).rposition(|byte| matches!(byte, b'_' | b',' | b':'))?;
    secret.get(at + 1..).filter(|rest| rest.len() >= 8)
}

/// In either alphabet, padded or not.
fn base64_of(text: &[u8]) -> Option<Vec<u8>> {
    let bare = text.strip_suffix(b"==").or_else(|| text.strip_suffix(b"=")).unwrap_or(text);
    STANDARD_NO_PAD.decode(bare).or_else(|_| URL_SAFE_NO_PAD.decode(bare)).ok()
}

// The body ------------------------------------------------------------------------------------------------------------

fn body(base: &Trial, all: &mut Vec<Change>) {
    let body = base.request.body.clone().unwrap_or_default();
    for (what, remedy, made) in bodies(&body) {
        all.push(Change { kind: Kind::Body, what, remedy: remedy.into(), yaml: None, edit: Edit::Body(made) });
    }
}

/// What usually happens to a body: words for it, the remedy, and the body as it then is.
pub(super) fn bodies(body: &Bytes) -> Vec<(String, &'static str, Bytes)> {
    let mut all: Vec<(String, &'static str, Bytes)> = Vec::new();
    let mut add = |what: String, remedy: &'static str, made: Vec<u8>| {
        if made != *body && all.iter().all(|(_, _, known)| *known != made) {
            all.push((what, remedy, made.into()));
        }
    };
    let ends = "something changed line ends after the body was signed: `curl -d` and editors do (`--data-binary` does \
                not), and so do relays that read a body as text";
    let without_end = body.strip_suffix(b"\n").map(|rest| rest.strip_suffix(b"\r").unwrap_or(rest));
    if let Some(without) = without_end {
        add("the body had no line end at its end".into(), ends, without.to_vec());
    }
    add("the body ended in a line end".into(), ends, [&body[..], b"\n"].concat());
    add("the body ended in CRLF".into(), ends, [&body[..], b"\r\n"].concat());
    add("the body's white space at its start and end were gone".into(), ends, body.trim_ascii().to_vec());
    let lf = replaced(body, b"\r\n", b"\n");
    add("the body's lines ended in LF, not CRLF".into(), ends, lf.clone());
    add("the body's lines ended in CRLF, not LF".into(), ends, replaced(&lf, b"\n", b"\r\n"));
    add("the body had no line ends at all".into(), ends, replaced(&lf, b"\n", b""));
    let mark = "a byte order mark came or went on the way: send the bytes that were signed";
    if let Some(rest) = body.strip_prefix(b"\xef\xbb\xbf") {
        add("the body did not start with a byte order mark".into(), mark, rest.to_vec());
    } else {
        add("the body started with a byte order mark".into(), mark, [b"\xef\xbb\xbf", &body[..]].concat());
    }
    let anew = "JSON was written anew after it was signed, by the sender's own code or by something in between: sign and \
                send the very same bytes, and let no gateway parse the body";
    for (name, text) in json::spellings(body).unwrap_or_default() {
        let with_end = [&text[..], b"\n"].concat();
        add(format!("the body were the same JSON {name}"), anew, text);
        add(format!("the body were the same JSON {name}, with a line end"), anew, with_end);
    }
    let twice = "the body is encoded once more, or once less, than what was signed: sign the bytes that are sent";
    if let Some(text) = json::unquoted(body) {
        add("the body were what its JSON string holds".into(), twice, text.into_bytes());
    }
    if let Some(text) = json::quoted(body) {
        add("the body were itself a JSON string".into(), twice, text.into_bytes());
    }
    if let Some(bytes) = base64_of(body.trim_ascii()).filter(|_| body.len() > 3) {
        add("the body were decoded from base64".into(), twice, bytes);
    }
    add("the body were in base64".into(), twice, STANDARD.encode(body).into_bytes());
    if let Some(text) = decode_component(body) {
        add("the form were decoded".into(), twice, text.into_owned());
    }
    if let Some(text) = percent_decoded(body) {
        add("the form's escapes were decoded and its plus signs kept".into(), twice, text);
    }
    if let Some(inner) = form_payload(body) {
        add("the body were the form's only value, decoded".into(), twice, inner);
    }
    add("the body's spaces were `%20`, not `+`".into(), twice, replaced(body, b"+", b"%20"));
    let charset = "the body's characters were written in another encoding: let it be UTF-8 all the way";
    if let Ok(text) = std::str::from_utf8(body)
        && !text.is_ascii()
    {
        let latin: Option<Vec<u8>> = text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect();
        if let Some(latin) = latin {
            add("the body were in Latin-1, not UTF-8".into(), charset, latin);
        }
    } else if !body.is_ascii() {
        let text: String = body.iter().map(|byte| char::from(*byte)).collect();
        add("the body were in UTF-8, not Latin-1".into(), charset, text.into_bytes());
    }
    let empty = "the sender signs before it has a body: sign the bytes that are sent";
    add("the body were empty".into(), empty, Vec::new());
    add("the body were `{}`".into(), empty, b"{}".to_vec());
    all
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memmem::find(rest, from) {
        let (before, behind) = rest.split_at_checked(at).unwrap_or((rest, &[]));
        out.extend_from_slice(before);
        out.extend_from_slice(to);
        rest = behind.get(from.len()..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out
}

/// Escapes decoded, `+` kept.
fn percent_decoded(body: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'%', body)?;
    decode_component(&replaced(body, b"+", b"%2B")).map(|text| text.into_owned())
}

/// What `payload=…` holds, as Slack and GitHub send it.
fn form_payload(body: &[u8]) -> Option<Vec<u8>> {
    let at = memchr::memchr(b'=', body).filter(|at| *at < 40)?;
    let value = body.get(at + 1..)?;
    if memchr::memchr(b'&', value).is_some() {
        return None;
    }
    decode_component(value).map(|text| text.into_owned())
}

// The URL -------------------------------------------------------------------------------------------------------------

fn url(subject: &Subject, base: &Trial, all: &mut Vec<Change>) {
    let signed = |what: &[&str]| {
        let texts = each(&base.scheme).iter().filter_map(|one| one.signed.as_deref());
        texts.into_iter().any(|text| what.iter().any(|part| text.contains(part)))
    };
    let request = &base.request;
    if signed(&["{url", "{public_url"]) {
        let mut seen: Vec<String> = subject.public_url.iter().cloned().collect();
        for (what, url) in urls(subject.public_url.as_deref(), request) {
            if seen.contains(&url) {
                continue;
            }
            seen.push(url.clone());
            all.push(Change {
                kind: Kind::Url,
                what: format!("the URL that the sender signs were {}, {what}", shown(&url)),
                remedy: "set `public_url` to the URL exactly as the sender was given it".into(),
                yaml: Some(format!("public_url: {url}")),
                edit: Edit::PublicUrl(url),
            });
        }
    }
    if signed(&["{url", "{query", "{path", "{host"]) {
        let proxy = "a proxy in front changes what the sender signed: let it pass path, query and Host on as they came";
        let mut add = |what: String, path: &str, query: Option<&str>, host: &str| {
            all.push(Change {
                kind: Kind::Url,
                what,
                remedy: proxy.into(),
                yaml: None,
                edit: Edit::Target { path: path.into(), query: query.map(Into::into), host: host.into() },
            });
        };
        let (path, query, host) = (&*request.path, request.query.as_deref(), &*request.host);
        if query.is_some() {
            add("the query were not part of the URL".into(), path, None, host);
        }
        if signed(&["{path"]) {
            let slash = path.strip_suffix('/').filter(|rest| !rest.is_empty());
            match slash {
                Some(rest) => add("the path had no slash at its end".into(), rest, query, host),
                None => add("the path ended in a slash".into(), &format!("{path}/"), query, host),
            }
            if let Some(registered) = subject.public_url.as_deref().and_then(path_of) {
                add("the path were that of `public_url`".into(), registered, query, host);
            }
            if let Some(at) = path.get(1..).and_then(|rest| rest.find('/')) {
                let rest = path.get(at + 1..).unwrap_or(path);
                add(format!("the path were {}, without its first part", shown(rest)), rest, query, host);
            }
        }
        if signed(&["{host"]) {
            let other = request.header("x-forwarded-host").and_then(|host| std::str::from_utf8(host).ok());
            if let Some(other) = other {
                add(format!("the host were {}, as X-Forwarded-Host says", shown(other)), path, query, other);
            }
            if let Some((name, _)) = host.rsplit_once(':') {
                add("the host had no port".into(), path, query, name);
            }
        }
    }
}

/// URLs that the sender may have been given.
fn urls(configured: Option<&str>, request: &Captured) -> Vec<(&'static str, String)> {
    let mut urls = Vec::new();
    let hosts =
        [Some(&*request.host), request.header("x-forwarded-host").and_then(|host| std::str::from_utf8(host).ok())];
    let called = hosts.into_iter().flatten().filter(|host| !host.is_empty());
    let called: Vec<String> = called.map(|host| format!("https://{host}{}", request.path)).collect();
    for (known, base) in configured.map(|url| (true, url)).into_iter().chain(called.iter().map(|url| (false, &**url))) {
        if !known {
            urls.push(("as the request says", base.to_owned()));
        }
        let Some((scheme, rest)) = base.split_once("://") else { continue };
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, format!("?{query}")),
            None => (target, String::new()),
        };
        let other = if scheme == "https" { "http" } else { "https" };
        let bare = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        let bare = bare.map_or(authority, |(host, _)| host);
        urls.push((if other == "http" { "with http" } else { "with https" }, format!("{other}://{rest}")));
        if bare != authority {
            urls.push(("without its port", format!("{scheme}://{bare}{target}")));
            urls.push(("without its port, with the other scheme", format!("{other}://{bare}{target}")));
        }
        for port in [443, 80, 8443, 8080] {
            urls.push(("with a port", format!("{scheme}://{bare}:{port}{target}")));
        }
        match path.strip_suffix('/') {
            Some(path) if !path.is_empty() => {
                urls.push(("without the slash at its end", format!("{scheme}://{authority}{path}{query}")));
            }
            _ => urls.push(("with a slash at its end", format!("{scheme}://{authority}{path}/{query}"))),
        }
        if !query.is_empty() {
            urls.push(("without its query", format!("{scheme}://{authority}{path}")));
        } else if let Some(query) = &request.query {
            urls.push(("with the request's query", format!("{scheme}://{authority}{path}?{query}")));
        }
        match bare.strip_prefix("www.") {
            Some(name) => urls.push(("without `www.`", format!("{scheme}://{name}{target}"))),
            None => urls.push(("with `www.`", format!("{scheme}://www.{authority}{target}"))),
        }
        if path != request.path {
            urls.push(("with the request's path", format!("{scheme}://{authority}{}{query}", request.path)));
        }
    }
    urls
}

fn path_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let target = rest.get(rest.find('/')?..)?;
    target.split('?').next()
}

// The scheme ----------------------------------------------------------------------------------------------------------

fn scheme(subject: &Subject, base: &Trial, all: &mut Vec<Change>) {
    let own = subject.provider.is_none();
    let fixed = match subject.provider {
        Some(id) => format!("this is not how the preset {id} says that its sender signs: is it the right preset?"),
        None => "describe the scheme as the sender signs".to_owned(),
    };
    let mut add = |what: String, yaml: Option<String>, scheme: Option<Box<RawScheme>>, header| {
        if let Some(scheme) = scheme {
            let yaml = yaml.filter(|_| own).map(|yaml| format!("signature: {{ {yaml} }}"));
            let remedy = fixed.clone();
            all.push(Change { kind: Kind::Scheme, what, remedy, yaml, edit: Edit::Scheme(scheme, header) });
        }
    };
    // One alternative at a time, whatever calls for it.
    if let Some(list) = &subject.scheme.any_of {
        for one in list {
            let name = one.name.as_deref().unwrap_or("without a name");
            let alone = RawScheme { when: None, name: None, ..one.clone() };
            add(format!("it were judged as variant {name}"), None, Some(Box::new(alone)), None);
        }
    }
    for (encoding, name) in [
        (RawEncoding::Hex, "hex"),
        (RawEncoding::Base64, "base64"),
        (RawEncoding::Base64Url, "base64url"),
        (RawEncoding::Base64UrlPadded, "base64url-padded"),
    ] {
        let scheme = edited(&base.scheme, |one| {
            let from = one.from.get_or_insert_default();
            let changed = from.encoding != Some(encoding) && is_signed(one.algorithm);
            from.encoding = if changed { Some(encoding) } else { from.encoding };
            changed
        });
        let yaml = Some(format!("from: {{ encoding: {name} }}"));
        add(format!("the signature were read as {name}"), yaml, scheme, None);
    }
    for (algorithm, digest, name) in HASHES {
        let scheme = edited(&base.scheme, |one| {
            let other = match one.algorithm {
                Some(known) if HASHES.iter().any(|(hmac, _, _)| *hmac == known) => Some(algorithm),
                Some(known) if HASHES.iter().any(|(_, plain, _)| *plain == Some(known)) => digest,
                _ => None,
            };
            let changed = other.is_some() && one.algorithm != other;
            one.algorithm = if changed { other } else { one.algorithm };
            changed
        });
        add(format!("the hash were {name}"), Some(format!("algorithm: hmac-{name}")), scheme, None);
    }
    for (unit, name) in
        [(RawUnit::Seconds, "seconds"), (RawUnit::Milliseconds, "milliseconds"), (RawUnit::Rfc3339, "rfc3339")]
    {
        let scheme = edited(&base.scheme, |one| match &mut one.timestamp {
            Some(time) if time.unit != unit => {
                time.unit = unit;
                true
            }
            _ => false,
        });
        add(
            format!("the time were read as {}", if name == "rfc3339" { "a date of RFC 3339" } else { name }),
            Some(format!("timestamp: {{ unit: {name} }}")),
            scheme,
            None,
        );
    }
    signature_value(base, &mut add);
    if own {
        templates(base, &mut add);
    }
}

/// HMACs, and the plain digests of the same hash.
const HASHES: [(RawAlgorithm, Option<RawAlgorithm>, &str); 4] = [
    (RawAlgorithm::HmacSha256, Some(RawAlgorithm::Sha256), "sha256"),
    (RawAlgorithm::HmacSha1, Some(RawAlgorithm::Sha1), "sha1"),
    (RawAlgorithm::HmacSha512, Some(RawAlgorithm::Sha512), "sha512"),
    (RawAlgorithm::HmacSha384, None, "sha384"),
];

fn is_signed(algorithm: Option<RawAlgorithm>) -> bool {
    HASHES.iter().any(|(hmac, plain, _)| algorithm.is_some() && (Some(*hmac) == algorithm || *plain == algorithm))
}

type AddScheme<'a> = dyn FnMut(String, Option<String>, Option<Box<RawScheme>>, Option<(String, Vec<u8>)>) + 'a;

/// The signature's place and spelling as they stand in this request.
fn signature_value(base: &Trial, add: &mut AddScheme<'_>) {
    for (at, one) in each(&base.scheme).iter().enumerate() {
        let Some(from) = one.from.as_ref().filter(|from| from.list.is_none()) else { continue };
        let Some(wanted) = from.header.as_deref() else { continue };
        // In its own header, with another prefix, in quotes, encoded twice.
        if let Some(value) = base.request.header(wanted) {
            let bare = value.trim_ascii();
            let bare = bare.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(bare);
            if bare != value {
                let what = format!("header {wanted} held no white space or quotes around its value");
                add(what, None, Some(Box::new(base.scheme.clone())), Some((wanted.to_owned(), bare.to_vec())));
            }
            let (prefix, rest) = prefixed(bare);
            if from.prefix.as_deref().unwrap_or_default() != prefix {
                let what = match prefix {
                    "" => "the signature had no prefix".to_owned(),
                    prefix => format!("the signature's prefix were {}", shown(prefix)),
                };
                let scheme = with_place(&base.scheme, at, |place| {
                    place.prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
                });
                let yaml = format!("from: {{ prefix: \"{prefix}\" }}");
                add(what, Some(yaml), Some(scheme), Some((wanted.to_owned(), bare.to_vec())));
            }
            if let Some(inner) = base64_of(rest).filter(|inner| tag_of(inner).is_some()) {
                let scheme = with_place(&base.scheme, at, |place| {
                    (place.prefix, place.encoding) = (None, Some(RawEncoding::Hex));
                });
                let what = "the signature were hex digits in base64, decoded once".to_owned();
                add(what, None, Some(scheme), Some((wanted.to_owned(), inner)));
            }
            continue;
        }
        // In another header.
        for (name, value) in &base.request.headers {
            let (prefix, rest) = prefixed(value.trim_ascii());
            let Some(encoding) = tag_of(rest).filter(|_| is_signed(one.algorithm)) else { continue };
            let scheme = with_place(&base.scheme, at, |place| {
                place.header = Some(name.clone());
                place.encoding = Some(encoding);
                place.prefix = (!prefix.is_empty()).then(|| prefix.to_owned());
            });
            let yaml = format!("from: {{ header: {name}, prefix: \"{prefix}\" }}");
            add(format!("the signature stood in header {name}"), Some(yaml), Some(scheme), None);
        }
    }
}

/// Other texts that senders sign, for schemes of one's own.
fn templates(base: &Trial, add: &mut AddScheme<'_>) {
    const TEXTS: [&str; 14] = [
        "{body}",
        "{timestamp}.{body}",
        "{timestamp}:{body}",
        "{timestamp}{body}",
        "{timestamp}\n{body}",
        "{body}{timestamp}",
        "{body}.{timestamp}",
        "v0:{timestamp}:{body}",
        "{method}{path}{body}",
        "{timestamp}{method}{path}{body}",
        "{method}{path}{timestamp}{body}",
        "{body_digest:sha256:hex}",
        "{secret}{body}",
        "{body}{secret}",
    ];
    for text in TEXTS {
        let scheme = edited(&base.scheme, |one| {
            let plain = HASHES.iter().any(|(_, plain, _)| one.algorithm.is_some() && *plain == one.algorithm);
            let has_time = text.contains("{timestamp}");
            if one.signed.as_deref() == Some(text)
                || plain != text.contains("{secret}")
                || !is_signed(one.algorithm)
                || (has_time && one.timestamp.is_none())
            {
                return false;
            }
            one.signed = Some(text.to_owned());
            // A time that is not signed proves nothing.
            one.timestamp = one.timestamp.take().filter(|_| has_time);
            true
        });
        let shown = text.escape_debug();
        add(format!("what is signed were `{shown}`"), Some(format!("signed: \"{shown}\"")), scheme, None);
    }
}

fn with_place(scheme: &RawScheme, at: usize, edit: impl Fn(&mut RawPlace)) -> Box<RawScheme> {
    let mut copy = scheme.clone();
    if let Some(place) = each_mut(&mut copy).get_mut(at).and_then(|one| one.from.as_mut()) {
        edit(place);
    }
    Box::new(copy)
}

/// `sha256=` and the like, and what stands behind it. A `=` of base64 is none: it ends the text.
fn prefixed(value: &[u8]) -> (&str, &[u8]) {
    let at = value.iter().take(16).position(|byte| *byte == b'=').map(|at| at + 1).filter(|at| *at + 8 < value.len());
    let prefix = at.and_then(|at| std::str::from_utf8(value.get(..at)?).ok()).unwrap_or_default();
    let plain = prefix.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_=".contains(&byte));
    let prefix = if plain { prefix } else { "" };
    (prefix, value.get(prefix.len()..).unwrap_or_default())
}

/// How a text that has the length of a MAC is written.
fn tag_of(text: &[u8]) -> Option<RawEncoding> {
    if hex::decode(text).is_ok_and(|bytes| TAGS.contains(&bytes.len())) {
        return Some(RawEncoding::Hex);
    }
    let long = |bytes: Vec<u8>| TAGS.contains(&bytes.len());
    if STANDARD.decode(text).is_ok_and(long) {
        Some(RawEncoding::Base64)
    } else if URL_SAFE_NO_PAD.decode(text).is_ok_and(long) {
        Some(RawEncoding::Base64Url)
    } else {
        None
    }
}

// Other senders -------------------------------------------------------------------------------------------------------

fn providers(subject: &Subject, base: &Trial, all: &mut Vec<Change>) {
    let called = format!("https://{}{}", base.request.host, base.request.path);
    for preset in provider::all() {
        if Some(preset.id) == subject.provider || !stands(&preset.signature, &base.request) {
            continue;
        }
        all.push(Change {
            kind: Kind::Provider,
            what: format!("the sender were {}", preset.name),
            remedy: format!("take the preset {}", preset.id),
            yaml: Some(format!("provider: {}", preset.id)),
            edit: Edit::Provider(Box::new(preset.signature.clone()), Some(called.clone())),
        });
    }
}

/// The header of a place that goes on inside its value.
fn outermost(name: &str) -> &str {
    name.split('|').next().unwrap_or(name)
}

/// Does the request hold a value where the scheme reads its signature?
fn stands(scheme: &RawScheme, request: &Captured) -> bool {
    each(scheme).iter().any(|one| match one.from.as_ref() {
        None => request.header("authorization").is_some(),
        Some(RawPlace { header: Some(name), .. }) => request.header(outermost(name)).is_some(),
        // In the query or the body: seen when it is tried.
        Some(_) => true,
    })
}

// What can be seen without trying -------------------------------------------------------------------------------------

/// What stands out in the head.
pub(super) fn hints(subject: &Subject, request: &Captured, now: Now) -> Vec<String> {
    let mut hints = Vec::new();
    let header = |one: &'_ RawScheme| one.from.as_ref()?.header.as_deref().map(|name| outermost(name).to_owned());
    let wanted: Vec<String> = each(&subject.scheme).iter().filter_map(header).collect();
    for name in &wanted {
        let folded = |text: &str| text.replace('_', "-").to_ascii_lowercase();
        let twin = request.headers.iter().find(|(known, _)| known.contains('_') && folded(known) == folded(name));
        if let Some((twin, _)) = twin {
            hints.push(format!("header {} stands for {name}: something in front writes `_` for `-`", shown(twin)));
        }
    }
    if !wanted.is_empty() && wanted.iter().all(|name| request.header(name).is_none()) {
        let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
        for preset in provider::all() {
            let headers = each(&preset.signature).iter().filter_map(|one| one.from.as_ref()?.header.as_deref());
            for header in headers.map(outermost) {
                if header.eq_ignore_ascii_case("authorization") || request.header(header).is_none() {
                    continue;
                }
                match found.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(header)) {
                    Some((_, ids)) if ids.contains(&preset.id) => {}
                    Some((_, ids)) => ids.push(preset.id),
                    None => found.push((header, vec![preset.id])),
                }
            }
        }
        for (header, ids) in found.iter().take(3) {
            let more = if ids.len() > 4 { ", …" } else { "" };
            let ids: Vec<&str> = ids.iter().take(4).copied().collect();
            hints.push(format!("header {header} stands, which is read by the presets {}{more}", ids.join(", ")));
        }
        if found.is_empty() {
            let mut likely =
                request.headers.iter().filter(|(_, value)| tag_of(prefixed(value.trim_ascii()).1).is_some());
            if let Some((name, _)) = likely.next() {
                hints.push(format!("header {} holds what may be a signature", shown(name)));
            } else {
                hints.push("no header holds anything like a signature: the request may not be the sender's".into());
            }
        }
    }
    for one in each(&subject.scheme) {
        let Some(time) = &one.timestamp else { continue };
        let written = time.header.as_deref().and_then(|name| request.header(name));
        if let Some(hint) = written.and_then(|written| unit_hint(written, time.unit, now)) {
            hints.push(hint);
        }
    }
    if let Some(coding) = request.header("content-encoding").filter(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    {
        let coding = String::from_utf8_lossy(coding);
        hints.push(format!("the body is in {}: signatures are checked over the bytes as they came", shown(&coding)));
    }
    hints.sort();
    hints.dedup();
    hints
}

/// Is the time written in another unit than the scheme's?
fn unit_hint(written: &[u8], unit: RawUnit, now: Now) -> Option<String> {
    let text = std::str::from_utf8(written).ok()?;
    let near = |seconds: u64| now.unix.as_secs().abs_diff(seconds) < 400 * 86_400;
    let is = match text.parse::<u64>() {
        Ok(number) if near(number) => "seconds",
        Ok(number) if near(number / 1000) => "milliseconds",
        Ok(number) if near(number / 1_000_000) => "microseconds",
        Ok(_) => return None,
        Err(_) if OffsetDateTime::parse(text, &Rfc3339).is_ok() => "a date of RFC 3339",
        Err(_) => return None,
    };
    let read = match unit {
        RawUnit::Seconds => "seconds",
        RawUnit::Milliseconds => "milliseconds",
        RawUnit::Rfc3339 => "a date of RFC 3339",
        RawUnit::Utc => "a date without an offset",
        RawUnit::SecondsOrMilliseconds if is == "milliseconds" => is,
        RawUnit::SecondsOrMilliseconds => "seconds",
        RawUnit::Http => "a date as HTTP writes it",
    };
    (is != read).then(|| format!("the time looks like {is}, and the scheme reads {read}"))
}

// Time ----------------------------------------------------------------------------------------------------------------

/// The signature holds; what is wrong is its time or the secret's.
pub(super) fn of_time(
    subject: &Subject,
    base: &Trial,
    origin: String,
    request: &Captured,
    now: Now,
) -> Vec<Explanation> {
    let mut found = Vec::new();
    let unix = now.unix_seconds();
    let secret = subject.secrets.iter().find(|secret| *secret.origin == *origin);
    if let Some(secret) = secret.filter(|secret| !secret.active(unix)) {
        let date = |seconds: i64| {
            OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(|time| time.format(&Rfc3339).ok())
        };
        let what = match (secret.until.filter(|until| unix >= *until), secret.from) {
            (Some(until), _) => {
                format!("the secret from {origin} had not ended at {}", date(until).unwrap_or_default())
            }
            (None, from) => {
                format!(
                    "the secret from {origin} had begun before {}",
                    date(from.unwrap_or_default()).unwrap_or_default()
                )
            }
        };
        found.push(Explanation {
            changes: vec![what],
            remedy: vec!["the sender still, or already, signs with this secret: move its `until` or `from`".into()],
            yaml: None,
            secret: origin.clone(),
        });
    }
    let (checks, _) = base.with(&[]);
    if let Some((what, remedy)) = checks.and_then(|checks| lateness(&checks, request, now)) {
        found.push(Explanation { changes: vec![what], remedy: vec![remedy], yaml: None, secret: origin });
    }
    found
}

/// How far off the signed time is, where that alone is a reason to refuse.
pub(super) fn lateness(checks: &Checks, request: &Captured, now: Now) -> Option<(String, String)> {
    let body = request.body.as_deref().unwrap_or_default();
    request.with_head(|head| {
        let judged = |check: &crate::check::signature::SignatureCheck, now: Now| {
            let mut verification = check.begin(head, true, now)?;
            verification.update(body);
            verification.finish(head, body, now).map(drop)
        };
        for (_, check) in checks {
            let Some(claimed) = check.claimed_time(head, body) else { continue };
            if judged(check, at(Some(claimed), now)).is_err() {
                continue;
            }
            let reject = judged(check, now).err()?;
            let apart = now.unix.abs_diff(claimed);
            let zone = time_zone(apart.as_secs());
            return match reject.reason {
                Reason::TimestampTooOld => Some((
                    format!("it had come in time: {}{zone}", reject.detail),
                    "a request that is sent again as it was captured stays refused (judge it with `--at TIME`); if all \
                     of the sender's are too old, this machine's clock is ahead or something in front holds them back"
                        .into(),
                )),
                Reason::TimestampInFuture => Some((
                    format!("it were not signed ahead of time: {}{zone}", reject.detail),
                    "this machine's clock is behind, or the sender's ahead: compare both with a time server".into(),
                )),
                _ => None,
            };
        }
        None
    })
}

/// Whole or half hours apart is a time zone, not a clock.
fn time_zone(seconds: u64) -> &'static str {
    let off = seconds % 1800;
    let close = off.min(1800 - off) < 30;
    if close && (1800..=14 * 3600 + 30).contains(&seconds) {
        " (whole or half hours: one side may write local time)"
    } else {
        ""
    }
}

/// A stranger's text in a sentence.
pub(super) fn shown(text: &str) -> String {
    const MOST: usize = 120;
    let start: String = text.chars().take(MOST).collect();
    let more = if start.len() < text.len() { "…" } else { "" };
    format!("`{}{more}`", start.escape_debug())
}
