//! Public keys that a sender gives out one by one, to those who have credentials with it, by the name that a message
//! says it was signed with.
//!
//! The scheme says as data how it is asked. A message says no more than the name, and that only where it has the form of
//! one: what could be more than one segment of a path never comes into a URL. What is answered is believed to be that
//! one key, and to nothing else.

use super::keys::{KeySet, MAX_KEY_TEXT};
use crate::fetch::target::Target;
use crate::secret::SecretBytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use zeroize::Zeroizing;

/// The longest name of a key that is asked for, in bytes.
const MAX_NAME: usize = 128;
/// The longest token of a sender's API, in bytes.
const MAX_TOKEN: usize = 16 << 10;
/// What stands for the name of the key, for the host, and for the token of [`KeyQuestion::token`].
const KEY_ID: &str = "key_id";
const HOST: &str = "host";
const TOKEN: &str = "token";

/// How a sender is asked for a key. `{key_id}`, `{token}` and the names of credentials stand for these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyQuestion {
    /// `https://{host}/public_key/{key_id}`.
    url: Box<str>,
    /// The hosts of which a route names one; else it is the first.
    hosts: Box<[Box<str>]>,
    headers: Box<[(HeaderName, Box<str>)]>,
    /// The members of a JSON object, which is posted. `None`: a GET.
    json: Option<BTreeMap<Box<str>, Box<str>>>,
    /// JSON pointer to the key in the answer: a text as people write keys, or a JWK.
    key: Box<str>,
    /// JSON pointer to the time at which the key ends or ended, in seconds since 1970.
    expires: Option<Box<str>>,
    token: Option<TokenQuestion>,
}

/// How a token for the sender's API is come by: the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4), with
/// the credentials `client_id` and `client_secret`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenQuestion {
    /// `https://{host}/token`.
    pub url: Box<str>,
    /// What the token is to be good for.
    pub scope: Option<Box<str>>,
}

/// What is wrong with a question: the field, and what.
pub(crate) type Wrong = (&'static str, String);

impl KeyQuestion {
    /// A question whose parts go together.
    pub(crate) fn new(
        url: &str,
        hosts: &[String],
        headers: &BTreeMap<String, String>,
        json: Option<&BTreeMap<String, String>>,
        key: &str,
        expires: Option<&str>,
        token: Option<TokenQuestion>,
    ) -> Result<Self, Wrong> {
        if hosts.is_empty() {
            return Err(("hosts", "is empty: nobody would be asked".into()));
        }
        for host in hosts {
            let bare =
                Target::parse(&format!("https://{host}/")).map_err(|what| ("hosts", format!("{host} {what}")))?;
            if bare.authority() != *host || !host.contains('.') {
                return Err(("hosts", format!("{host} is not a host name in small letters")));
            }
        }
        let place = |field, url: &str| {
            let rest =
                url.strip_prefix("https://{host}/").ok_or((field, "does not begin with https://{host}/".into()))?;
            let known = |name: &str| (name == KEY_ID).then(|| "x".to_owned());
            let rest = fill(rest, known).map_err(|name| (field, format!("may not hold {{{name}}}")))?;
            Target::parse(&format!("https://example.com/{rest}")).map_err(|what| (field, what))
        };
        place("url", url)?;
        if let Some(token) = &token {
            place("oauth.url", &token.url)?;
        }
        let mut names = Vec::new();
        for (name, value) in headers {
            let name =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| ("headers", format!("{name} is no name")))?;
            names.push((name, value.as_str().into()));
        }
        for pointer in std::iter::once(key).chain(expires) {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(("key", format!("{pointer} is no JSON pointer")));
            }
        }
        let boxed = |(name, value): (&String, &String)| (name.as_str().into(), value.as_str().into());
        let question = Self {
            url: url.into(),
            hosts: hosts.iter().map(|host| host.as_str().into()).collect(),
            headers: names.into(),
            json: json.map(|members| members.iter().map(boxed).collect()),
            key: key.into(),
            expires: expires.map(Into::into),
            token,
        };
        let held = question.holes();
        if !held.contains(KEY_ID) {
            return Err(("url", "neither here nor in `json` stands {key_id}: every key would be the same".into()));
        }
        match (held.contains(TOKEN), &question.token) {
            (true, None) => Err(("oauth", "is missing: nothing says where the {token} is from".into())),
            (false, Some(_)) => Err(("oauth", "gives a {token} that stands nowhere".into())),
            _ => Ok(question),
        }
    }

    /// What has to be filled in.
    fn holes(&self) -> BTreeSet<String> {
        let values = self.headers.iter().map(|(_, value)| value).chain(self.json.iter().flat_map(BTreeMap::values));
        let mut found = BTreeSet::new();
        for text in std::iter::once(&self.url).chain(values) {
            // Filled with nothing, only to hear the names.
            let _ = fill(text, |name| {
                found.insert(name.to_owned());
                Some(String::new())
            });
        }
        found
    }

    /// The credentials that a route has to give.
    pub fn credentials(&self) -> Vec<String> {
        let mut names = self.holes();
        if self.token.is_some() {
            names.extend(["client_id".to_owned(), "client_secret".to_owned()]);
        }
        names.retain(|name| ![KEY_ID, HOST, TOKEN].contains(&name.as_str()));
        names.into_iter().collect()
    }

    /// The hosts of which a route may name one.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.iter().map(|host| &**host)
    }
}

/// A question with the credentials of one route.
#[derive(Clone)]
pub struct Asking {
    question: KeyQuestion,
    host: Box<str>,
    credentials: BTreeMap<Box<str>, SecretBytes>,
    /// Tells credentials apart without comparing them.
    print: [u8; 32],
}

impl PartialEq for Asking {
    fn eq(&self, other: &Self) -> bool {
        self.question == other.question && self.host == other.host && self.print == other.print
    }
}

impl Eq for Asking {}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asking({})", self.label())
    }
}

/// What is sent.
pub struct Request {
    /// Where to.
    pub target: Target,
    /// Besides those that every request has. They may hold secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Posted; `None`: a GET.
    pub body: Option<Zeroizing<Vec<u8>>>,
}

impl Asking {
    /// The error is what is missing or cannot be sent: it names no secret.
    pub fn new(
        question: &KeyQuestion,
        host: Option<&str>,
        credentials: BTreeMap<Box<str>, SecretBytes>,
    ) -> Result<Self, String> {
        let host = match host {
            None => question.hosts.first().cloned().unwrap_or_default(),
            Some(host) => question.hosts.iter().find(|known| ***known == *host).cloned().ok_or_else(|| {
                format!("`{host}` is none of the hosts that are asked: {}", question.hosts.join(", "))
            })?,
        };
        for name in question.credentials() {
            let Some(value) = credentials.get(name.as_str()) else { return Err(format!("`{name}` is missing")) };
            // They go into headers and JSON: what is no plain text is a mistake, or an attempt to write another header.
            let text = std::str::from_utf8(value.expose()).unwrap_or_default();
            if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(format!("`{name}` is not made of plain letters"));
            }
        }
        let mut hash = Sha256::new();
        for (name, value) in &credentials {
            for part in [name.as_bytes(), value.expose()] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        Ok(Self { question: question.clone(), host, credentials, print: hash.finalize().into() })
    }

    /// What is asked, for metrics and logs: host and path, as written.
    pub fn label(&self) -> String {
        self.question.url.trim_start_matches("https://").replacen("{host}", &self.host, 1)
    }

    /// Is it the name of a key? Nothing that could leave its place in a URL is.
    pub(crate) fn is_name(id: &str) -> bool {
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=MAX_NAME).contains(&id.len()) && id.bytes().all(letter)
    }

    /// Where a key of this name is asked for. `None`: it is no name.
    pub(crate) fn target(&self, id: &str) -> Option<Target> {
        let known = |name: &str| match name {
            HOST => Some(self.host.to_string()),
            KEY_ID => Some(id.to_owned()),
            _ => None,
        };
        Self::is_name(id).then(|| fill(&self.question.url, known).ok())?.and_then(|url| Target::parse(&url).ok())
    }

    /// Does it take a token of the sender's API first?
    pub fn needs_token(&self) -> bool {
        self.question.token.is_some()
    }

    /// The question for the key of this name. `None`: it is no name.
    pub fn request(&self, id: &str, token: Option<&SecretBytes>) -> Option<Request> {
        let target = self.target(id)?;
        let text = |bytes: &SecretBytes| std::str::from_utf8(bytes.expose()).ok().map(str::to_owned);
        let known = |name: &str| match name {
            KEY_ID => Some(id.to_owned()),
            TOKEN => token.and_then(text),
            _ => self.credentials.get(name).and_then(text),
        };
        let mut headers = Vec::new();
        for (name, value) in &self.question.headers {
            let mut value = HeaderValue::from_bytes(&Zeroizing::new(fill(value, known).ok()?.into_bytes())).ok()?;
            value.set_sensitive(true);
            headers.push((name.clone(), value));
        }
        let body = match &self.question.json {
            None => None,
            Some(members) => {
                headers.push((http::header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
                let filled: Option<BTreeMap<&str, String>> =
                    members.iter().map(|(name, value)| Some((&**name, fill(value, known).ok()?))).collect();
                Some(Zeroizing::new(serde_json::to_vec(&filled?).ok()?))
            }
        };
        Some(Request { target, headers, body })
    }

    /// The question for a token.
    pub fn token_request(&self) -> Option<Request> {
        let question = self.question.token.as_ref()?;
        let known = |name: &str| (name == HOST).then(|| self.host.to_string());
        let target = Target::parse(&fill(&question.url, known).ok()?).ok()?;
        let (id, secret) = (self.credentials.get("client_id")?, self.credentials.get("client_secret")?);
        let pair = Zeroizing::new([id.expose(), b":", secret.expose()].concat());
        let pair = Zeroizing::new(format!("Basic {}", STANDARD.encode(&*pair)));
        let mut basic = HeaderValue::from_str(&pair).ok()?;
        basic.set_sensitive(true);
        let mut body = "grant_type=client_credentials".to_owned();
        if let Some(scope) = &question.scope {
            body.push_str(&format!("&scope={}", utf8_percent_encode(scope, NON_ALPHANUMERIC)));
        }
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = vec![(http::header::AUTHORIZATION, basic), (http::header::CONTENT_TYPE, form)];
        Some(Request { target, headers, body: Some(Zeroizing::new(body.into_bytes())) })
    }

    /// The key of an answer, and the last second in which it counts, since 1970. The error follows `the answer`.
    pub fn judge(&self, id: &str, answer: &[u8], now: i64) -> Result<(KeySet, i64), String> {
        if answer.len() > MAX_KEY_TEXT {
            return Err(format!("is longer than {MAX_KEY_TEXT} bytes"));
        }
        let answer: Value = serde_json::from_slice(answer).map_err(|_| "is no JSON".to_owned())?;
        let until = match self.question.expires.as_ref().and_then(|pointer| answer.pointer(pointer)) {
            None | Some(Value::Null) => i64::MAX,
            Some(time) => time.as_i64().ok_or("says in an unknown way when the key ends")?,
        };
        if until <= now {
            return Err("holds a key that has ended".into());
        }
        let found = answer.pointer(&self.question.key).ok_or_else(|| format!("holds no {}", self.question.key))?;
        let keys = match found {
            Value::String(text) => KeySet::parse(text.as_bytes()),
            Value::Object(jwk) => {
                if jwk.get("keys").is_some() {
                    return Err("holds a set where one key is wanted".into());
                }
                KeySet::from_json(found.to_string().as_bytes())
            }
            _ => return Err("holds no key".into()),
        };
        let keys = keys.map_err(|what| format!("holds a key that {what}"))?;
        let another = |name: &str| name != id;
        if keys.len() != 1 || keys.iter().any(|key| key.id().is_some_and(another)) {
            return Err("holds another key than was asked for".into());
        }
        Ok((keys.named(id), until - 1))
    }

    /// The token of an answer, and for how many seconds it is good.
    pub fn judge_token(answer: &[u8]) -> Result<(SecretBytes, u64), String> {
        #[derive(serde::Deserialize)]
        struct Answer {
            access_token: String,
            #[serde(default)]
            expires_in: Option<u64>,
        }
        let answer: Answer = serde_json::from_slice(answer).map_err(|_| "holds no token".to_owned())?;
        let token = Zeroizing::new(answer.access_token);
        if token.is_empty() || token.len() > MAX_TOKEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("holds a token that cannot be sent".into());
        }
        Ok((SecretBytes::new(token.as_bytes().to_vec()), answer.expires_in.unwrap_or(0)))
    }
}

/// The text with its `{name}`s filled in. The error is a name that is not known. A brace that begins no name is itself;
/// what was filled in is not looked at again.
fn fill(text: &str, mut known: impl FnMut(&str) -> Option<String>) -> Result<String, String> {
    let (mut filled, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('{') {
        let (before, hole) = rest.split_at(at);
        filled.push_str(before);
        let name = hole[1..].split_once('}').map(|(name, _)| name);
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        match name.filter(|name| !name.is_empty() && name.bytes().all(letter)) {
            Some(name) => {
                filled.push_str(&known(name).ok_or_else(|| name.to_owned())?);
                rest = &hole[name.len() + 2..];
            }
            None => {
                filled.push('{');
                rest = &hole[1..];
            }
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(pairs: &[(&str, &str)]) -> BTreeMap<Box<str>, SecretBytes> {
        pairs.iter().map(|(name, value)| ((*name).into(), SecretBytes::new(value.as_bytes().to_vec()))).collect()
    }

    fn posted() -> KeyQuestion {
        let json = [("who", "{who}"), ("key_id", "{key_id}")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let hosts = ["api.example.com".to_owned(), "test.example.com".to_owned()];
        let end = Some("/key/expired_at");
        KeyQuestion::new("https://{host}/get", &hosts, &BTreeMap::new(), Some(&json.into()), "/key", end, None).unwrap()
    }

    fn gotten() -> KeyQuestion {
        let headers = [("Authorization".to_owned(), "Bearer {token}".to_owned())].into();
        let token = TokenQuestion { url: "https://{host}/token".into(), scope: Some("a b".into()) };
        let hosts = ["api.example.com".to_owned()];
        KeyQuestion::new("https://{host}/key/{key_id}", &hosts, &headers, None, "/key", None, Some(token)).unwrap()
    }

    #[test]
    fn what_is_sent_is_what_the_question_says() {
        assert_eq!(posted().credentials(), ["who"]);
        let asking = Asking::new(&posted(), Some("test.example.com"), credentials(&[("who", "a\"{key_id}")])).unwrap();
        let request = asking.request("k-1", None).unwrap();
        assert_eq!(request.target.to_string(), "https://test.example.com/get");
        assert_eq!(request.body.unwrap().as_slice(), br#"{"key_id":"k-1","who":"a\"{key_id}"}"#);
        assert_eq!(asking.label(), "test.example.com/get");

        assert_eq!(gotten().credentials(), ["client_id", "client_secret"]);
        let pair = credentials(&[("client_id", "Aladdin"), ("client_secret", "open-sesame")]);
        let asking = Asking::new(&gotten(), None, pair).unwrap();
        let token = SecretBytes::new(b"t".to_vec());
        let request = asking.request("k_1", Some(&token)).unwrap();
        assert_eq!(request.target.to_string(), "https://api.example.com/key/k_1");
        assert_eq!(request.headers[0].1, "Bearer t");
        assert!(request.body.is_none() && asking.request("k_1", None).is_none());
        let request = asking.token_request().unwrap();
        assert_eq!(request.headers[0].1, "Basic QWxhZGRpbjpvcGVuLXNlc2FtZQ==");
        assert_eq!(request.body.unwrap().as_slice(), b"grant_type=client_credentials&scope=a%20b");
        assert!(!format!("{asking:?} {:?}", request.headers).contains("QWxh"));
    }

    #[test]
    fn only_the_form_of_a_name_comes_into_a_url() {
        let pair = credentials(&[("client_id", "a"), ("client_secret", "b")]);
        let asking = Asking::new(&gotten(), None, pair).unwrap();
        let long = "a".repeat(MAX_NAME);
        for good in ["a", "6c5516e1-92dc-479e-a8ff-5a51992e0001", "A_b", &long] {
            assert!(asking.target(good).is_some(), "{good}");
        }
        let long = "a".repeat(MAX_NAME + 1);
        for bad in
            ["", ".", "..", "a/b", "../x", "a%2fb", "%2e%2e", "a?b", "a#b", "a\\b", "a b", "a@b", "ä", "a\r\nb", &long]
        {
            assert!(asking.target(bad).is_none() && asking.request(bad, None).is_none(), "{bad}");
        }
    }

    #[test]
    fn an_answer_is_the_key_that_was_asked_for_or_nothing() {
        let asking = Asking::new(&posted(), None, credentials(&[("who", "a")])).unwrap();
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let jwk = |more: &str| format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"{more}}}"#);
        let judge = |answer: &str| asking.judge("k", answer.as_bytes(), 100).map(|(keys, until)| (keys.len(), until));
        for (answer, until) in [
            (format!(r#"{{"key":{}}}"#, jwk("")), i64::MAX - 1),
            (format!(r#"{{"key":{}}}"#, jwk(r#","kid":"k","expired_at":null"#)), i64::MAX - 1),
            (format!(r#"{{"key":{}}}"#, jwk(r#","expired_at":101"#)), 100),
            (r#"{"key":"d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"}"#.to_owned(), i64::MAX - 1),
        ] {
            assert_eq!(judge(&answer), Ok((1, until)), "{answer}");
        }
        for answer in [
            String::new(),
            "<html>".into(),
            "{}".into(),
            "null".into(),
            r#"{"key":null}"#.into(),
            r#"{"key":[]}"#.into(),
            r#"{"key":""}"#.into(),
            format!(r#"{{"key":{}}}"#, jwk(r#","kid":"other""#)),
            format!(r#"{{"key":{}}}"#, jwk(r#","expired_at":100"#)),
            format!(r#"{{"key":{}}}"#, jwk(r#","expired_at":"soon""#)),
            format!(r#"{{"key":{{"keys":[{}]}}}}"#, jwk("")),
            format!(r#"{{"key":"{}"}}"#, "A".repeat(MAX_KEY_TEXT)),
        ] {
            assert!(judge(&answer).is_err(), "{answer:.200}");
        }
        // As long as an answer may be, and a byte longer.
        let good = format!(r#"{{"key":{}}}"#, jwk(""));
        let padded = |length: usize| format!("{good}{}", " ".repeat(length - good.len()));
        for (length, fine) in [(MAX_KEY_TEXT, true), (MAX_KEY_TEXT + 1, false)] {
            assert_eq!(judge(&padded(length)).is_ok(), fine, "{length}");
        }
        for (answer, good) in [
            (r#"{"access_token":"t","expires_in":7200}"#, true),
            (r#"{"access_token":"t"}"#, true),
            (r#"{"access_token":""}"#, false),
            (r#"{"access_token":"a\r\nb","expires_in":1}"#, false),
            (&format!(r#"{{"access_token":"{}"}}"#, "a".repeat(MAX_TOKEN)), true),
            (&format!(r#"{{"access_token":"{}"}}"#, "a".repeat(MAX_TOKEN + 1)), false),
            ("{}", false),
            ("<html>", false),
        ] {
            assert_eq!(Asking::judge_token(answer.as_bytes()).is_ok(), good, "{answer}");
        }
    }

    #[test]
    fn a_question_whose_parts_do_not_go_together_is_none() {
        let hosts = ["api.example.com".to_owned()];
        let none = BTreeMap::new();
        let new = |url: &str, hosts: &[String], key: &str| KeyQuestion::new(url, hosts, &none, None, key, None, None);
        assert!(new("https://{host}/{key_id}", &hosts, "").is_ok());
        for (url, hosts, key) in [
            ("https://{host}/x", &hosts[..], "/key"),
            ("https://{key_id}.example.com/x", &hosts, "/key"),
            ("http://{host}/{key_id}", &hosts, "/key"),
            ("https://{host}/{secret}/{key_id}", &hosts, "/key"),
            ("https://{host}/../{key_id}", &hosts, "/key"),
            ("https://{host}/{key_id}", &[], "/key"),
            ("https://{host}/{key_id}", &["127.0.0.1".to_owned()], "/key"),
            ("https://{host}/{key_id}", &["a.example.com/x".to_owned()], "/key"),
            ("https://{host}/{key_id}", &["A.example.com".to_owned()], "/key"),
            ("https://{host}/{key_id}", &hosts, "key"),
        ] {
            assert!(new(url, hosts, key).is_err(), "{url} {hosts:?} {key}");
        }
        for (host, pairs) in [
            (None, &[][..]),
            (None, &[("who", "")]),
            (None, &[("who", "a\r\nX: y")]),
            (Some("evil.example"), &[("who", "a")]),
        ] {
            assert!(Asking::new(&posted(), host, credentials(pairs)).is_err(), "{host:?} {pairs:?}");
        }
        let [one, same, other] = ["a", "a", "b"].map(|who| Asking::new(&posted(), None, credentials(&[("who", who)])));
        assert!(one == same && one != other);
        assert!(one != Asking::new(&posted(), Some("test.example.com"), credentials(&[("who", "a")])));
        let elsewhere =
            Asking::new(&gotten(), None, credentials(&[("client_id", "a"), ("client_secret", "b")])).unwrap();
        assert!(elsewhere.needs_token() && !one.as_ref().unwrap().needs_token() && elsewhere != one.unwrap());
        assert!(format!("{elsewhere:?}").starts_with("Asking(api.example.com"));
        for (text, filled) in [
            ("{a}{b}", Ok("12".to_owned())),
            ("{a", Ok("{a".to_owned())),
            ("{}{A}{a1}{\"a\"}{a}", Ok("{}{A}{a1}{\"a\"}1".to_owned())),
            ("{c}", Err("c".to_owned())),
        ] {
            let known = |name: &str| ["a", "b"].iter().position(|known| *known == name).map(|at| (at + 1).to_string());
            assert_eq!(fill(text, known), filled, "{text}");
        }
    }
}
