//! Every vector of every preset through the real socket: what is to be accepted reaches the backend byte for byte, and
//! what is to be refused, or differs from an accepted one in a bit, does not reach it at all.
//!
//! Sent verbatim, as published: every vector whose scheme signs no time (GitHub, GitLab, HubSpot v1 and v2, Intercom,
//! LINE, Meta, Shopify, Square, Telegram, Twilio and others). Re-signed for the present, since the program runs on the real clock:
//! every vector whose scheme does (HubSpot v3, Linear, Paddle, Slack, Standard Webhooks, Stripe, Svix, Zendesk and others). Those
//! are verified as published at their own time as well, by `vectors::run`.

use super::support::{Answer, Backend, Proxy, request};
use hookmoat::check::signature::keys::{KeySet, PrivateKey};
use hookmoat::check::signature::{SignOptions, SignatureCheck, UnsignedRequest};
use hookmoat::check::source::Source;
use hookmoat::config::scheme::RawAlgorithm;
use hookmoat::provider::{self, Provider};
use hookmoat::request::Now;
use hookmoat::vectors::{Expect, Vector};
use std::sync::Arc;

/// A vector with the route that is made for it: a host of its own.
struct Case {
    name: String,
    provider: &'static Provider,
    vector: &'static Vector,
    check: Option<SignatureCheck>,
    request: UnsignedRequest,
}

fn cases(expect: Expect) -> Vec<Case> {
    let case = |provider: &'static Provider, at, vector: &'static Vector| Case {
        name: format!("{}-{at}", provider.id),
        provider,
        vector,
        check: vector.check(provider).ok(),
        request: vector.request().expect("a request"),
    };
    provider::all()
        .iter()
        .flat_map(|provider| provider.vectors.iter().enumerate().map(move |(at, vector)| case(provider, at, vector)))
        .filter(|case| case.vector.expect == expect)
        .collect()
}

impl Case {
    /// Two routes: one as the vector wants it, and for signed URLs one that is known by another URL.
    fn routes(&self, env: &mut Vec<(String, String)>) -> String {
        let mut secrets = String::new();
        for (at, secret) in self.vector.secrets.iter().enumerate() {
            let name = format!("SECRET_{}_{at}", self.name.replace('-', "_"));
            secrets += &format!("{}{{ env: {name} }}", if at == 0 { "" } else { ", " });
            env.push((name, secret.clone()));
        }
        let quoted = |text: &str| serde_json::to_string(text).expect("text");
        let mut keys = String::new();
        if let Some(key) = &self.vector.public_key {
            let id = self.vector.key_id.as_deref().map_or(String::new(), |id| format!(", id: {}", quoted(id)));
            keys += &format!("    public_keys: [{{ value: {}{id} }}]\n", quoted(key));
        }
        if !self.vector.claims.is_empty() {
            keys += &format!("    claims: {}\n", serde_json::to_string(&self.vector.claims).expect("JSON"));
        }
        if !self.vector.settings.is_empty() {
            keys += &format!("    settings: {}\n", serde_json::to_string(&self.vector.settings).expect("JSON"));
        }
        if !secrets.is_empty() {
            keys += &format!("    secrets: [{secrets}]\n");
        }
        if let Some(name) = self.vector.variant.as_ref()
            && self.provider.scheme.variants().any(|known| known == name)
        {
            keys += &format!("    variants: [{name}]\n");
        }
        if self.provider.answers.unauthorized.is_some() {
            // Some senders want another status; here all refusals are compared.
            keys += "    answers: { unauthorized: 401 }\n";
        }
        let public = self.vector.request.url.as_deref().map(|url| url.split('?').next().unwrap_or(url).to_owned());
        let mut routes = String::new();
        for (kind, public) in
            [("", public.clone()), ("other-", public.filter(|_| self.signs_url()).map(|url| url + "x"))]
        {
            if kind == "other-" && public.is_none() {
                continue;
            }
            let public = public.map_or(String::new(), |url| format!("    public_url: {url:?}\n"));
            routes += &format!(
                "  - name: {kind}{name}\n    host: {kind}{name}.test\n    path: {path:?}\n    provider: {provider}\n    \
                 max_body: 25MB\n    duplicates: {{ missing: skip }}\n{keys}{public}    to: app\n",
                name = self.name,
                path = self.target().split('?').next().unwrap_or_default(),
                provider = self.provider.id,
            );
        }
        routes
    }

    fn check(&self) -> &SignatureCheck {
        self.check.as_ref().unwrap_or_else(|| panic!("{}: no check", self.name))
    }

    fn signs_url(&self) -> bool {
        self.check.as_ref().is_some_and(SignatureCheck::needs_public_url)
    }

    fn signs_body(&self) -> bool {
        let check = self.check();
        check.covers_body() || check.covers(&Source::form("a").expect("a source"))
    }

    fn options(&self) -> SignOptions {
        let private = self.vector.private_key.as_deref().map(|text| PrivateKey::parse(text.as_bytes()).expect("a key"));
        let known = |name: &String| self.check().scheme().variants().any(|variant| variant == name);
        let variant = self.vector.variant.clone().filter(known);
        SignOptions {
            private_key: private.map(Arc::new),
            key_id: self.vector.key_id.clone(),
            variant,
            ..Default::default()
        }
    }

    /// Can it be sent as it is, or signed anew for the present? Of what senders published the private key is theirs.
    fn can_be_sent(&self) -> bool {
        let check = self.check();
        let claimed = self.request.with_head(|head| check.claimed_time(head, &self.request.body)).expect("a head");
        let ours = self.vector.public_key.is_none() || self.vector.private_key.is_some();
        claimed.is_none() || (ours && !check.scheme().brings_keys())
    }

    fn target(&self) -> String {
        target(&self.request)
    }

    /// The request as it can be sent now, and the time as it stands in it, if there is one.
    fn present(&self) -> (UnsignedRequest, Option<String>) {
        let check = self.check();
        let claimed = self.request.with_head(|head| check.claimed_time(head, &self.request.body)).expect("a head");
        let Some(claimed) = claimed else { return (self.request.clone(), None) };
        assert_eq!(hookmoat::vectors::run(self.vector, self.provider), Ok(()), "{}", self.name);
        let now = Now::read();
        let (millis, seconds) = (claimed.as_millis().to_string(), claimed.as_secs().to_string());
        let mut request = self.request.clone();
        // A time in a header of its own is left out for the signer to fill in, one in the body is replaced.
        let date = |value: &[u8]| value.ends_with(b" GMT") || (value.len() >= 19 && value[10] == b'T');
        request
            .headers
            .retain(|(_, value)| *value != millis.as_bytes() && *value != seconds.as_bytes() && !date(value));
        let fresh = now.unix.as_millis().to_string();
        let fresh_seconds = now.unix.as_secs().to_string();
        let renew = |text: &str| text.replace(&millis, &fresh).replace(&seconds, &fresh_seconds);
        if let Ok(text) = std::str::from_utf8(&request.body) {
            request.body = renew(text).into_bytes();
        }
        request.url = renew(&request.url);
        check.sign(&mut request, now, &self.options()).expect("a signature");
        let written = [fresh, now.unix.as_secs().to_string()].into_iter().find(|time| {
            let inside = |bytes: &[u8]| bytes.windows(time.len()).any(|window| window == time.as_bytes());
            request.headers.iter().any(|(_, value)| inside(value))
                || inside(&request.body)
                || inside(request.url.as_bytes())
        });
        let date = || request.headers.iter().find(|(_, value)| date(value));
        let written = written.or_else(|| date().map(|(_, value)| String::from_utf8_lossy(value).into_owned()));
        // A token holds it inside: each byte of it is changed anyway.
        assert!(written.is_some() || check.scheme().has_token(), "{}: no time in {request:?}", self.name);
        (request, written)
    }
}

fn target(request: &UnsignedRequest) -> String {
    let rest = request.url.split_once("://").map_or("", |(_, rest)| rest);
    rest.find('/').map_or("/", |at| &rest[at..]).to_owned()
}

fn wire(request_: &UnsignedRequest, host: &str) -> Vec<u8> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("headers of vectors are text");
    let headers: Vec<(String, String)> =
        request_.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    headers.push(("Host", host));
    request(&request_.method, &target(request_), &headers, &request_.body)
}

/// Changes one bit.
fn flip(bytes: &mut [u8], at: usize) {
    bytes[at] ^= 1;
}

/// Public and private key of a kind, made for tests.
fn another_pair(public: &str) -> (String, String) {
    let kind = |text: &str| KeySet::parse(text.as_bytes()).expect("keys").iter().next().expect("a key").kind();
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/public-keys.json"));
    let golden: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let pairs = golden["pairs"][1].as_array().expect("a list");
    let text = |pair: &serde_json::Value, name: &str| pair[name].as_str().expect("PEM").to_owned();
    let pair = pairs.iter().find(|pair| kind(&text(pair, "public"))[..3] == kind(public)[..3]).expect("a pair");
    (text(pair, "public"), text(pair, "private"))
}

/// Copies of a good request that differ in one thing each.
fn tampered(case: &Case, good: &UnsignedRequest, time: Option<&str>) -> Vec<(String, UnsignedRequest)> {
    let mut copies = Vec::new();
    let mut copy = |what: String, change: &dyn Fn(&mut UnsignedRequest)| {
        let mut changed = good.clone();
        change(&mut changed);
        copies.push((what, changed));
    };
    if case.signs_body() {
        for at in [0, good.body.len() / 2, good.body.len().saturating_sub(1)] {
            if at < good.body.len() {
                copy(format!("byte {at} of the body"), &|request| flip(&mut request.body, at));
            }
        }
        copy("a byte more".into(), &|request| request.body.push(b' '));
    }
    for name in case.check().headers() {
        // It chooses between forms, and is refused as what it is: 415.
        if ["content-type", "content-encoding"].contains(&name.as_str()) {
            continue;
        }
        let known = |header: &String| header.eq_ignore_ascii_case(name.as_str());
        let Some(index) = good.headers.iter().position(|(header, _)| known(header)) else { continue };
        let length = good.headers[index].1.len();
        for at in [0, length / 2, length.saturating_sub(2)] {
            copy(format!("byte {at} of {name}"), &|request| flip(&mut request.headers[index].1, at));
        }
        copy(format!("without {name}"), &|request| drop(request.headers.remove(index)));
    }
    if let Some(time) = time {
        let change = |bytes: &mut Vec<u8>| {
            if let Some(at) = bytes.windows(time.len()).position(|window| window == time.as_bytes()) {
                // The last digit: still within the window, so that it is the signature that tells.
                let last = bytes[at..at + time.len()].iter().rposition(u8::is_ascii_digit).unwrap_or_default();
                flip(bytes, at + last);
            }
        };
        copy("the time".into(), &|request| {
            request.headers.iter_mut().for_each(|(_, value)| change(value));
            change(&mut request.body);
            let mut url = request.url.clone().into_bytes();
            change(&mut url);
            request.url = String::from_utf8(url).expect("text");
        });
    }
    if case.signs_url() && good.url.contains('?') {
        copy("the query".into(), &|request| request.url.push('x'));
    }
    let mut other = case.vector.clone();
    for secret in &mut other.secrets {
        // The first letter behind the prefix: base64 and text alike become another key.
        let first = usize::from(secret.starts_with("whsec_")) * 6;
        let letter = if secret[first..].starts_with('0') { "1" } else { "0" };
        secret.replace_range(first..=first, letter);
    }
    let mut options = case.options();
    if let Some(public) = &other.public_key {
        // The route keeps its key: whoever signs with another one is a stranger.
        let (other_public, private) = another_pair(public);
        other.public_key = Some(other_public);
        options.private_key = Some(Arc::new(PrivateKey::parse(private.as_bytes()).expect("a key")));
    }
    let other = other.check(case.provider).expect("a check");
    let anew = |request: &mut UnsignedRequest| {
        // A signature in a further header would still be the right one.
        let names = other.headers();
        request.headers.retain(|(header, _)| !names.iter().any(|name| header.eq_ignore_ascii_case(name.as_str())));
        other.sign(request, Now::read(), &options)
    };
    // RSA with SHA-1 is nothing that is made any more, and items of a batch are not signed here one by one.
    if anew(&mut good.clone()).is_ok() {
        copy("another secret".into(), &|request| drop(anew(request).expect("a signature")));
    } else {
        let scheme = &case.provider.signature;
        assert!(scheme.algorithm == Some(RawAlgorithm::RsaSha1) || scheme.each.is_some(), "{}", case.name);
    }
    for (what, changed) in &copies {
        assert_ne!(changed, good, "{}: {what}", case.name);
    }
    copies
}

fn start(backend: &Backend, cases: &[Case]) -> Proxy {
    let mut env = Vec::new();
    let routes: String = cases.iter().map(|case| case.routes(&mut env)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    Proxy::start_with(backend.address, &format!("routes:\n{routes}"), &env)
}

/// All that a sender gets to see of a refused signature, but for the name of its request.
fn seen(answer: &Answer) -> (u16, Vec<String>, serde_json::Value) {
    let mut body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let id = body.as_object_mut().and_then(|body| body.remove("request_id"));
    assert_eq!(id.as_ref().and_then(serde_json::Value::as_str), answer.header("x-request-id"));
    // What becomes of the connection is the same for all, and each way has its own habit of saying it.
    let names = answer.headers.iter().map(|(name, _)| name.clone()).filter(|name| name != "connection");
    (answer.status, names.collect(), body)
}

fn the_one_refusal() -> (u16, Vec<String>, serde_json::Value) {
    let names = ["content-length", "x-request-id", "content-type", "cache-control", "date"];
    let body = serde_json::json!({ "type": "about:blank", "title": "Unauthorized", "status": 401 });
    (401, names.map(String::from).to_vec(), body)
}

#[track_caller]
fn assert_refused(answer: &Answer, provider: &Provider, what: &str) {
    assert_eq!(answer.status, 401, "{what}");
    if provider.manners.empty_unauthorized {
        assert_eq!((answer.text(), answer.header("content-type")), (String::new(), None), "{what}");
        return;
    }
    let (mut seen, mut expected) = (seen(answer), the_one_refusal());
    seen.1.sort();
    expected.1.sort();
    assert_eq!(seen, expected, "{what}");
}

#[test]
fn every_accepted_vector_arrives_byte_for_byte_and_no_tampered_copy_arrives_at_all() {
    let backend = Backend::ok();
    let mut cases = cases(Expect::Accept);
    assert!(cases.len() > 30, "{}", cases.len());
    cases.retain(|case| {
        let sent = case.can_be_sent();
        if !sent {
            assert_eq!(hookmoat::vectors::run(case.vector, case.provider), Ok(()), "{}", case.name);
        }
        sent
    });
    let proxy = start(&backend, &cases);
    let mut refused = 0;
    for case in &cases {
        let (good, time) = case.present();
        let host = format!("{}.test", case.name);
        for (what, copy) in tampered(case, &good, time.as_deref()) {
            assert_refused(&proxy.send(&wire(&copy, &host)), case.provider, &format!("{}: {what}", case.name));
            refused += 1;
        }
        if case.signs_url() {
            let answer = proxy.send(&wire(&good, &format!("other-{host}")));
            assert_refused(&answer, case.provider, &format!("{}: another public_url", case.name));
        }
    }
    assert!(refused > 5 * cases.len(), "{refused}");
    assert_eq!((backend.connections(), backend.requests().len()), (0, 0));
    for (count, case) in cases.iter().enumerate() {
        let (good, _) = case.present();
        let answer = proxy.send(&wire(&good, &format!("{}.test", case.name)));
        assert_eq!((answer.status, answer.text()), (200, "ok".into()), "{}\n{}", case.name, proxy.log());
        let requests = backend.requests();
        assert_eq!(requests.len(), count + 1, "{}", case.name);
        let got = &requests[count];
        assert_eq!(
            (&*got.method, &got.target, &got.body),
            (&*good.method, &target(&good), &good.body),
            "{}",
            case.name
        );
        assert_eq!(got.header("hookmoat-verified"), Some("true"), "{}", case.name);
        for (name, value) in &good.headers {
            let name = name.to_ascii_lowercase();
            let sent = Some(std::str::from_utf8(value).expect("text"));
            assert_eq!((got.header(&name), got.count(&name)), (sent, 1), "{}: {name}", case.name);
        }
    }
}

#[test]
fn every_rejected_vector_is_refused_before_any_connection_to_the_backend() {
    let backend = Backend::ok();
    let cases = cases(Expect::Reject);
    assert!(cases.len() > 20, "{}", cases.len());
    let proxy = start(&backend, &cases);
    for case in &cases {
        assert_eq!(hookmoat::vectors::run(case.vector, case.provider), Ok(()), "{}", case.name);
        let what = format!("{}: {}", case.name, case.vector.note.as_deref().unwrap_or_default());
        assert_refused(&proxy.send(&wire(&case.request, &format!("{}.test", case.name))), case.provider, &what);
    }
    assert_eq!(backend.connections(), 0);
}
