//! The doors through which strangers' bytes come in, one function each: whatever the bytes, it must not panic, must not
//! take long, and what it says must hold.
//!
//! Two engines run them. An ordinary test mutates the corpora in `tests/fuzz/corpus` for a bounded count
//! ([`driver`], part of `cargo test`), and `tests/fuzz` holds the same targets for libFuzzer, which finds more in hours.
//! A finding becomes a file in the corpus and a test beside the code that it broke.
//!
//! Built for tests and with the feature `fuzz` only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is what a target tells with")]

#[cfg(test)]
mod driver;

use crate::check::allowlist::{NetSet, parse_list};
use crate::check::client_ip::client_ip;
use crate::check::https::is_secure;
use crate::check::path::PathPattern;
use crate::check::shape;
use crate::check::signature::{PublicKeys, SignatureCheck, Template, Unit};
use crate::check::source::Source;
use crate::config;
use crate::config::scheme::RawScheme;
use crate::delivery::attempt;
use crate::diagnose::{Budget, Captured, LogLine, Subject, diagnose};
use crate::policy::{Limits, Policy};
use crate::port::{rabbitmq, sqs};
use crate::proxy::both;
use crate::proxy::http1::Broken;
use crate::proxy::http1::body::{BodyDecoder, Framing, Step};
use crate::proxy::http1::framing;
use crate::proxy::proxy_protocol;
use crate::proxy::upstream::response;
use crate::proxy::wire;
use crate::request::{Head, Headers, Now, Peer};
use crate::runtime::State;
use crate::secret::Secret;
use crate::telemetry::state::StateMetrics;
use bytes::Bytes;
use std::sync::OnceLock;

/// A target by name. The name is that of its corpus, of its test and of its libFuzzer binary.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("signature_lists", signature_lists),
    ("forwarding_headers", forwarding_headers),
    ("json_member", json_member),
    ("form_and_query", form_and_query),
    ("xml_member", xml_member),
    ("token", token),
    ("signed_url", signed_url),
    ("keys", keys),
    ("config", config),
    ("scheme", scheme),
    ("networks_and_paths", networks_and_paths),
    ("explain", explain),
    ("request_head", request_head),
    ("chunked_body", chunked_body),
    ("response_head", response_head),
    ("both_ways", both_ways),
    ("whole_way", whole_way),
    ("proxy_header", proxy_header),
    ("broker_message", broker_message),
];

/// Runs one target.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    target.unwrap_or_else(|| panic!("no target {name}")).1(data);
}

const NOW: u64 = 1_760_000_000;
const SECRET: &[u8] = b"a-secret-of-some-length";

/// The first byte chooses, the rest is the input.
fn split(data: &[u8]) -> (usize, &[u8]) {
    data.split_first().map_or((0, data), |(first, rest)| (usize::from(*first), rest))
}

/// Two inputs, parted by the first zero byte.
fn two(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// The policy of a configuration in which every variable has this value.
fn policy_of(text: &str, variable: Option<&str>) -> Policy {
    let world = |_: &str| variable.map(Into::into);
    config::parse(text, std::path::Path::new("/nonexistent"), &world).unwrap_or_else(|problems| panic!("{problems}"))
}

fn bound(yaml: &str, public_key: Option<&str>) -> SignatureCheck {
    let raw: RawScheme = serde_yaml::from_str(yaml).unwrap();
    let scheme = raw.compile("signature").unwrap_or_else(|problems| panic!("{yaml}: {problems:?}"));
    let secrets = if scheme.needs_secrets() { vec![Secret::always(SECRET.to_vec(), "fuzz")] } else { Vec::new() };
    let public_keys = public_key.map(|key| PublicKeys::parse(key.as_bytes(), "fuzz").unwrap());
    let credentials = crate::check::signature::Credentials {
        secrets,
        public_keys: public_keys.into_iter().collect(),
        public_url: Some("https://hooks.example.com/hook"),
        ..Default::default()
    };
    SignatureCheck::bind(scheme, credentials).unwrap()
}

fn judge(check: &SignatureCheck, headers: &[(&str, &[u8])], query: Option<&str>, body: &[u8]) -> bool {
    let head =
        Head { method: "POST", path: "/hook", query, host: "hooks.example.com", headers: Headers::List(headers) };
    let now = Now::at_unix(NOW);
    let verdict = check.begin(&head, true, now).and_then(|mut verification| {
        // In two parts, as from a socket.
        let (first, second) = body.split_at(body.len() / 2);
        verification.update(first);
        verification.update(second);
        verification.finish(&head, body, now)
    });
    // What people are told never differs from the verdict.
    let steps = check.explain(&head, body, true, now);
    assert_eq!(steps.last().is_some_and(|step| step.ok), verdict.is_ok(), "{steps:?}");
    let _ = check.claimed_time(&head, body);
    verdict.is_ok()
}

/// Signature headers of every grammar: single values with prefixes, named and unnamed lists, all encodings.
pub fn signature_lists(data: &[u8]) {
    static CHECKS: OnceLock<Vec<SignatureCheck>> = OnceLock::new();
    let checks = CHECKS.get_or_init(|| {
        [
            "{ algorithm: hmac-sha256, from: { header: x-sig, prefix: \"sha256=\" }, signed: \"{body}\" }",
            "{ algorithm: hmac-sha1, from: { header: x-sig, encoding: base64 }, signed: \"{body}\" }",
            "{ algorithm: hmac-sha512, from: { header: x-sig, encoding: base64url }, signed: \"{body}\" }",
            "{ algorithm: hmac-sha256, from: { header: x-sig, list: { pairs: \",\", assign: \"=\", key: v1 } },
               signed: \"{timestamp}.{body}\", timestamp: { field: t } }",
            "{ algorithm: hmac-sha256, from: { header: x-sig, encoding: base64, list: { pairs: \" \", assign: \",\", key: v1 } },
               signed: \"{body}\" }",
            "{ algorithm: hmac-sha256, from: { header: x-sig, list: { pairs: \",\" } }, signed: \"{body}\" }",
            "{ algorithm: hmac-sha256, from: { header: x-sig, list: { pairs: \";\", assign: \":\", key: s } },
               signed: \"{field:n}.{body}\" }",
            "{ algorithm: token, from: { header: x-sig, prefix: \"Bearer \" } }",
            "{ algorithm: basic, from: { header: x-sig } }",
        ]
        .iter()
        .map(|yaml| bound(yaml, None))
        .collect()
    });
    let (choice, rest) = split(data);
    let (value, body) = two(rest);
    let check = &checks[choice % checks.len()];
    judge(check, &[("x-sig", value)], None, body);
    // Twice is never once.
    assert!(!judge(check, &[("x-sig", value), ("X-Sig", value)], None, body));
}

/// `X-Forwarded-For`, `Forwarded`, `X-Forwarded-Proto`: never a trusted address as the client, unless all are.
pub fn forwarding_headers(data: &[u8]) {
    let (one, other) = two(data);
    let trusted = NetSet::new(parse_list("10.0.0.0/8").unwrap());
    for (name, value) in [("x-forwarded-for", one), ("forwarded", one), ("x-forwarded-proto", one)] {
        let fields: [(&str, &[u8]); 2] = [(name, value), ("forwarded", other)];
        let headers = Headers::List(if other.is_empty() { &fields[..1] } else { &fields });
        let outside = Peer { address: Some("203.0.113.1".parse().unwrap()), tls: false, identity: None };
        assert_eq!(client_ip(&outside, &headers, &trusted).unwrap().to_string(), "203.0.113.1");
        assert!(!is_secure(&outside, &headers, &trusted), "an outsider said https");
        let proxy = Peer { address: Some("10.0.0.1".parse().unwrap()), tls: false, identity: None };
        let _ = client_ip(&proxy, &headers, &trusted);
        let _ = is_secure(&proxy, &headers, &trusted);
    }
}

/// JSON Pointers into any body: what is read is what another reader of the whole document finds there.
pub fn json_member(data: &[u8]) {
    let (pointer, body) = two(data);
    let Ok(pointer) = std::str::from_utf8(pointer) else { return };
    let Ok(source) = Source::json(pointer) else { return };
    let head = Head { method: "POST", path: "/", query: None, host: "a", headers: Headers::List(&[]) };
    let read = source.read(&head, body);
    // `*` stands for all elements, which the other reader does not know.
    if pointer.split('/').any(|step| step == "*") {
        return;
    }
    if let Ok(Some(value)) = read {
        // The other reader has no room for some numbers that JSON's grammar allows.
        let Ok(whole) = serde_json::from_slice::<serde_json::Value>(body) else {
            serde_json::from_slice::<serde::de::IgnoredAny>(body).expect("read, so it is JSON");
            return;
        };
        // Where a name on the way stands twice, reading is refused; elsewhere the last one wins in the other reader.
        if let Some(found) = whole.pointer(pointer) {
            let expected = match found {
                serde_json::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            assert_eq!(value, expected.as_bytes(), "{pointer}");
        } else {
            panic!("{pointer} is read, but not there");
        }
    }
}

/// Forms and queries.
pub fn form_and_query(data: &[u8]) {
    let (name, text) = two(data);
    let Ok(name) = std::str::from_utf8(name) else { return };
    let query = std::str::from_utf8(text).ok();
    let head = Head { method: "POST", path: "/", query, host: "a", headers: Headers::List(&[]) };
    if let (Ok(form), Ok(query)) = (Source::form(name), Source::query(name)) {
        let in_form = form.read(&head, text);
        if head.query.is_some() {
            assert_eq!(in_form.is_ok(), query.read(&head, b"").is_ok(), "one grammar for both");
        }
    }
    let sorted =
        "{ algorithm: hmac-sha1, from: { header: x-sig, encoding: base64 }, signed: \"{url:twilio}{form_sorted}\" }";
    static CHECK: OnceLock<SignatureCheck> = OnceLock::new();
    let check = CHECK.get_or_init(|| bound(sorted, None));
    judge(check, &[("x-sig", b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=")], query, text);
    // The same as a form in parts, and what stands inside one.
    let kind: &[(&str, &[u8])] = &[("content-type", b"multipart/form-data; boundary=X")];
    let head = Head { headers: Headers::List(kind), ..head };
    let parts = [b"--X\r\n", text].concat();
    for source in [format!("form:{name}"), format!("form:{name}|json:/a"), format!("form:{name}|base64|jwt:/a")] {
        if let Ok(source) = Source::parse(&source) {
            let _ = source.read(&head, &parts);
            let _ = source.read(&head, text);
        }
    }
}

/// Paths into XML bodies.
pub fn xml_member(data: &[u8]) {
    let (path, body) = two(data);
    let Ok(path) = std::str::from_utf8(path) else { return };
    if let Ok(path) = crate::check::xml::XmlPath::parse(path) {
        let _ = path.read(body);
    }
}

/// JSON Web Tokens: none verifies that was not made with the key, and `none` least of all.
pub fn token(data: &[u8]) {
    static CHECKS: OnceLock<Vec<SignatureCheck>> = OnceLock::new();
    let checks = CHECKS.get_or_init(|| {
        let ed25519 = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        [
            ("{ algorithm: jwt, from: { header: authorization, prefix: \"Bearer \" }, token: { algorithms: [HS256, HS512] } }", None),
            ("{ algorithm: jwt, from: { header: authorization, prefix: \"Bearer \" }, token: { algorithms: [EdDSA] } }", Some(ed25519)),
        ]
        .iter()
        .map(|(yaml, key)| bound(yaml, *key))
        .collect()
    });
    let (value, body) = two(data);
    let value = [b"Bearer ", value].concat();
    for check in checks {
        assert!(!judge(check, &[("authorization", &value)], None, body), "a token was forged");
    }
    // One that brings a chain of certificates, of which none leads to the pinned root.
    static BROUGHT: OnceLock<SignatureCheck> = OnceLock::new();
    let brought = BROUGHT.get_or_init(|| {
        let preset = crate::provider::find("apple-app-store").unwrap();
        let fixed = |name: &str| crate::check::signature::FixedClaim { name: name.into(), texts: ["x".into()].into() };
        let claims = vec![fixed("bundleId"), fixed("environment")];
        let credentials = crate::check::signature::Credentials { claims, ..Default::default() };
        SignatureCheck::bind(preset.scheme.clone(), credentials).unwrap()
    });
    let inside = serde_json::json!({ "signedPayload": String::from_utf8_lossy(two(data).0) }).to_string();
    assert!(!judge(brought, &[], None, inside.as_bytes()), "a chain was forged");
}

/// URLs as senders sign them, and templates of signed texts.
pub fn signed_url(data: &[u8]) {
    let (first, second) = two(data);
    let (Ok(url), Ok(query)) = (std::str::from_utf8(first), std::str::from_utf8(second)) else { return };
    for form in ["{url}", "{url:twilio}", "{url:hubspot-v3}", "{url:plivo-v3}", "{public_url}"] {
        let yaml = format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: \"{form}{{body}}\" }}");
        let raw: RawScheme = serde_yaml::from_str(&yaml).unwrap();
        let scheme = raw.compile("signature").unwrap();
        let Ok(check) = SignatureCheck::new(scheme, vec![Secret::always(SECRET.to_vec(), "fuzz")], Some(url)) else {
            continue;
        };
        judge(&check, &[("x-sig", "00".repeat(32).as_bytes())], Some(query), b"a=1&b=%41");
    }
    let _ = Template::parse(url);
}

/// Public keys in all their forms.
pub fn keys(data: &[u8]) {
    if let Ok(keys) = PublicKeys::parse(data, "fuzz") {
        let keys = keys.keys.snapshot();
        assert!(keys.iter().count() <= crate::check::signature::keys::MAX_KEYS, "more keys than are allowed");
        for key in keys.iter() {
            let _ = (key.id(), key.kind(), format!("{key:?}"));
        }
    }
}

/// Configurations: read or refused with places, never both, never a panic.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let folder = std::path::Path::new("/nonexistent");
    match config::parse(text, folder, &|name| name.starts_with('S').then(|| "a-secret-of-some-length".into())) {
        Ok(policy) => assert!(policy.routes.iter().next().is_some(), "a policy without routes"),
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
}

/// Schemes of one's own, judged on a request.
pub fn scheme(data: &[u8]) {
    let (yaml, body) = two(data);
    let Ok(yaml) = std::str::from_utf8(yaml) else { return };
    let Ok(raw) = serde_yaml::from_str::<RawScheme>(yaml) else { return };
    let Ok(scheme) = raw.compile("signature") else { return };
    let secrets = vec![Secret::always(SECRET.to_vec(), "fuzz")];
    let Ok(check) = SignatureCheck::new(scheme, secrets, Some("https://hooks.example.com/hook")) else { return };
    let value = "00".repeat(32);
    judge(&check, &[("x-signature", value.as_bytes()), ("x-timestamp", b"1760000000")], Some("a=1"), body);
    for unit in [Unit::Seconds, Unit::Milliseconds, Unit::SecondsOrMilliseconds, Unit::Rfc3339, Unit::Http] {
        let _ = unit.parse(body);
    }
}

/// Lists of networks and paths of routes, as people write them.
pub fn networks_and_paths(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(networks) = parse_list(text) {
        let set = NetSet::new(networks.iter().copied());
        for network in networks {
            assert!(set.contains(network.addr()), "{network} is not in its own set");
        }
    }
    let _ = PathPattern::parse(text);
    let _ = crate::config::scheme::parse_duration(text);
}

/// Requests under diagnosis: bounded, and no secret told.
pub fn explain(data: &[u8]) {
    let (value, body) = two(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = LogLine::last_of(text);
    }
    let raw = "{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"sha256=\" }, signed: \"{body}\" }";
    let subject = Subject {
        provider: None,
        scheme: serde_yaml::from_str(raw).unwrap(),
        variants: None,
        secrets: vec![Secret::always(SECRET.to_vec(), "fuzz")],
        public_keys: Vec::new(),
        claims: Vec::new(),
        settings: Default::default(),
        public_url: None,
    };
    let request = Captured {
        method: "POST".into(),
        path: "/hook".into(),
        query: None,
        host: "a".into(),
        headers: vec![("X-Signature".into(), value.to_vec())],
        body: Some(Bytes::copy_from_slice(body)),
    };
    // Few: each is a whole verification.
    let found = diagnose(&subject, &[], &request, Now::at_unix(NOW), Budget { attempts: 40, bytes: 1 << 20 });
    assert!(found.tried <= 40);
    let told = format!("{found:?} {}", request.summary());
    assert!(!told.contains("a-secret-of-some-length"), "{told}");
}

/// Heads of requests on the lean way: however they arrive they are the same, and what is accepted is accepted by the
/// strictness over raw bytes that the complete way has as well.
pub fn request_head(data: &[u8]) {
    let (cut, wire) = split(data);
    let limits = Limits { headers: 100, header_bytes: 1 << 10, uri_bytes: 1 << 9, body_memory: 1 << 20 };
    let read = |cut: usize| {
        let (mut scanned, mut fields) = (0, Vec::new());
        for end in (cut..wire.len()).step_by(cut).chain([wire.len()]) {
            if let Some(length) = framing::end_of_head(&wire[..end], &mut scanned, &limits)? {
                return framing::parse(&wire[..length], &limits, &mut fields).map(|head| Some((head, fields)));
            }
        }
        Ok(None)
    };
    let found = read(wire.len().max(1));
    assert_eq!(format!("{found:?}"), format!("{:?}", read(cut + 1)), "it matters how a head arrives");
    let Ok(Some((head, fields))) = found else { return };
    assert!(head.length <= wire.len());
    let view = head.view(wire, &fields);
    assert_eq!(view.headers.iter().count(), fields.len());
    let Ok(framing) = &head.framing else { return };
    assert_eq!(wire::strict(&wire[..head.length]), Ok(()), "laxer than the raw check");
    if let Ok(declared) = shape::head(&view, &limits) {
        let length = if let Framing::Length(length) = framing { Some(*length) } else { None };
        assert_eq!(declared.length, length, "two opinions on the length");
    }
}

/// Chunked bodies: however they arrive they are the same, and no longer than what came.
pub fn chunked_body(data: &[u8]) {
    let (cut, wire) = split(data);
    let decode = |new: fn(Framing) -> BodyDecoder, cut: usize| {
        let (mut decoder, mut at, mut body) = (new(Framing::Chunked), 0, Vec::new());
        for end in (cut..wire.len()).step_by(cut).chain([wire.len()]) {
            loop {
                match decoder.step(&wire[..end], &mut at)? {
                    Step::Data(part) => body.extend_from_slice(&wire[part]),
                    Step::More => break,
                    Step::End => return Ok((body, Some(at))),
                }
            }
            assert_eq!(at, end, "bytes were left lying");
        }
        Ok::<_, Broken>((body, None))
    };
    let found = decode(BodyDecoder::of_answer, wire.len().max(1));
    let parts = decode(BodyDecoder::of_answer, cut + 1);
    // What is broken behind a part that was given out already is broken either way.
    assert_eq!(found, parts, "it matters how a body arrives");
    let asked = decode(BodyDecoder::of_request, cut + 1);
    if asked != Err(Broken("trailer fields")) {
        assert_eq!(found, asked, "a request is read as an answer is, or refused for its trailers");
    }
    if let Ok((body, _)) = found {
        assert!(body.len() <= wire.len());
    }
}

/// Heads of answers: end-to-end fields only, none with a line end, and the same when more follows.
pub fn response_head(data: &[u8]) {
    let (options, wire) = split(data);
    let to_head = options & 1 == 1;
    let (mut at, mut fields) = (0, Vec::new());
    let Ok(Some(head)) = response::take_head(wire, &mut at, to_head, &mut fields) else { return };
    assert!(at <= wire.len() && (200..600).contains(&head.status.as_u16()));
    for field in &fields {
        let (name, value) = field.pair(wire);
        assert!(!name.is_empty() && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        for known in ["connection", "content-length", "transfer-encoding", "upgrade", "keep-alive"] {
            assert!(!name.eq_ignore_ascii_case(known), "{known} passed");
        }
    }
    let (mut again, mut same) = (0, Vec::new());
    let cut = response::take_head(&wire[..at], &mut again, to_head, &mut same);
    assert_eq!((format!("{cut:?}"), again, same), (format!("{:?}", Ok::<_, Broken>(Some(head))), at, fields));
}

/// Whole requests on both ways: each lets through what the other does, and the backend gets the same.
pub fn both_ways(data: &[u8]) {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let text = "listen: [{ address: 127.0.0.1:1 }]\nadmin: off\nhttps: allow\nupstreams: { app: \"http://127.0.0.1:2\" }\n\
                    limits: { headers: 40, header_bytes: 2KiB, uri_bytes: 512B, max_body: 2KiB }\n\
                    routes: [{ name: open, path: /*, signature: none, duplicates: off, to: app }]\n";
        policy_of(text, None)
    });
    let (at_once, wire) = split(data);
    assert_eq!(both::lean(wire, at_once + 1, policy), both::complete(wire, policy), "the ways differ");
}

/// Arbitrary bytes into everything between the socket and the backend: what comes out was signed over exactly the bytes
/// that the backend gets, and comes out once. The first byte chooses the carrier, how the bytes arrive, and whether what
/// stands behind the head is signed as the sender would, so that there is something behind the signature to be found.
pub fn whole_way(data: &[u8]) {
    let (choice, wire) = split(data);
    let mut wire = wire.to_vec();
    if choice & 2 != 0
        && let Some(end) = memchr::memmem::find(&wire, b"\r\n\r\n")
    {
        let line = format!("\r\nX-Signature: {}", hex::encode(signed(wire.get(end + 4..).unwrap_or_default())));
        wire.splice(end..end, line.into_bytes());
    }
    passes(&wire, choice & 1 == 1, choice / 4 + 1);
}

fn signed(body: &[u8]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    ring::hmac::sign(&key, body).as_ref().to_vec()
}

/// Is a request let through to the backend? What must hold of one that is, is asserted.
fn passes(wire: &[u8], lean: bool, at_once: usize) -> bool {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    static METRICS: OnceLock<std::sync::Arc<StateMetrics>> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        let text = "listen: [{ address: 127.0.0.1:1 }]\nadmin: off\ntrusted_proxies: [10.0.0.0/8]\n\
                    upstreams: { app: \"http://127.0.0.1:2\" }\n\
                    limits: { headers: 40, header_bytes: 2KiB, uri_bytes: 512B, max_body: 2KiB }\n\
                    routes:\n- name: signed\n  path: /hook\n  to: app\n  allow: [203.0.113.0/24]\n  secret: { env: SECRET }\n  \
                    event_id: { header: X-Id }\n  duplicates: { missing: skip }\n  \
                    signature: { algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{body}\" }\n";
        policy_of(text, std::str::from_utf8(SECRET).ok())
    });
    let metrics = METRICS.get_or_init(StateMetrics::unread).clone();
    let now = Now::at_unix(NOW);
    let state = State::in_memory(16, 16, metrics, now.instant);
    let peer = |address: &str| Peer { address: address.parse().ok(), tls: true, identity: None };
    let whole = |peer: Peer| both::whole(wire, (lean, at_once), (policy, &state, now), &peer, "x-signature");
    assert!(whole(peer("192.0.2.1")).is_none(), "a stranger's address passed");
    assert!(whole(Peer { tls: false, ..peer("203.0.113.7") }).is_none(), "a request without TLS passed");
    let Some(passed) = whole(peer("203.0.113.7")) else { return false };
    assert!(passed.verified, "unverified, and passed");
    let expected = hex::encode(signed(&passed.body));
    let given: Vec<String> =
        passed.signatures.iter().map(|value| String::from_utf8_lossy(value).trim().to_ascii_lowercase()).collect();
    assert_eq!(given, [expected], "passed under another signature");
    assert!(whole(peer("203.0.113.7")).is_none(), "passed twice");
    true
}

/// PROXY protocol headers: however they arrive they are the same, bounded, and what follows does not matter.
pub fn proxy_header(data: &[u8]) {
    let found = proxy_protocol::read(data);
    if let Ok(proxy_protocol::Read::Whole { length, .. }) = found {
        assert!(length <= data.len() && length <= proxy_protocol::MAX_HEADER);
        assert_eq!(proxy_protocol::read(&data[..length]), found, "it matters what follows");
        for end in 0..length {
            assert_eq!(proxy_protocol::read(&data[..end]), Ok(proxy_protocol::Read::More), "it matters how it arrives");
        }
    }
    if found == Ok(proxy_protocol::Read::More) {
        assert!(data.len() < proxy_protocol::MAX_HEADER, "it never ends");
    }
}

/// Messages as a broker hands them out, whoever wrote them there: what is not given up goes to the backend as one request
/// that our own strictness would let in, with the body that it says it has. The first byte chooses the broker.
pub fn broker_message(data: &[u8]) {
    delivered(data, broker_policy());
}

fn broker_policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let text = "listen: [{ address: 127.0.0.1:1 }]\nadmin: off\nhttps: allow\nupstreams: { app: \"http://127.0.0.1:2\" }\n\
                    routes: [{ name: open, path: /*, signature: none, duplicates: off, to: app }]\n";
        policy_of(text, None)
    })
}

/// What a message becomes, unless it is given up.
fn delivered(data: &[u8], policy: &Policy) -> Option<Vec<u8>> {
    let (choice, text) = split(data);
    let event = match choice & 1 {
        0 => sqs::wire::decode(std::str::from_utf8(text).ok()?).ok()?,
        _ => rabbitmq::wire::from_text(text)?,
    };
    if attempt::fault(&event).is_some() {
        return None;
    }
    let (_, route) = policy.routes.iter().next().unwrap();
    let head = attempt::head_of(&event, route, None, &policy.upstreams[0], 1, None);
    let limits = Limits { headers: 1 << 16, header_bytes: 1 << 20, uri_bytes: 1 << 20, body_memory: 1 << 20 };
    let (mut scanned, mut fields) = (0, Vec::new());
    let whole = framing::end_of_head(&head, &mut scanned, &limits).unwrap();
    assert_eq!(whole, Some(head.len()), "more than one head");
    let parsed = framing::parse(&head, &limits, &mut fields).unwrap();
    assert_eq!(wire::strict(&head), Ok(()));
    let view = parsed.view(&head, &fields);
    assert_eq!((view.method, view.path, view.query), (&*event.method, &*event.path, event.query.as_deref()));
    let declared = shape::head(&view, &limits).unwrap();
    assert_eq!(declared.length, Some(event.body.len() as u64));
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signed_request_goes_the_whole_way_and_a_forged_one_does_not() {
        let tag = hex::encode(signed(b"{}"));
        let request = |path: &str, tag: &str, rest: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nX-Signature: {tag}\r\n{rest}").into_bytes()
        };
        let length = "Content-Length: 2\r\n\r\n{}";
        let chunked = "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n";
        for (passing, wire) in [
            (true, request("/hook", &tag, length)),
            (true, request("/hook?a=b", &tag, &format!("X-Id: 1\r\n{length}"))),
            (true, request("/hook", &tag, chunked)),
            (false, request("/hook", &"0".repeat(64), length)),
            (false, request("/hook", &tag, "Content-Length: 2\r\n\r\n[]")),
            (false, request("/hook", &tag, &format!("X-Signature: {tag}\r\n{length}"))),
            (
                false,
                request("/hook", &tag, &format!("X-Forwarded-For: 203.0.113.7\r\nTransfer-Encoding: x\r\n{length}")),
            ),
            (false, request("/other", &tag, length)),
        ] {
            for (lean, at_once) in [(true, 1), (true, 4096), (false, 1)] {
                assert_eq!(passes(&wire, lean, at_once), passing, "{lean} {}", wire.escape_ascii());
            }
        }
    }
    #[test]
    fn a_broker_s_message_becomes_one_request_or_none() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/broker_message");
        for (name, sound) in [
            ("sqs", true),
            ("sqs-short", true),
            ("sqs-line-ends", false),
            ("amqp", true),
            ("amqp-line-ends", false),
            ("amqp-method", false),
        ] {
            let data = std::fs::read(folder.join(name)).unwrap();
            assert_eq!(delivered(&data, broker_policy()).is_some(), sound, "{name}");
        }
    }
}
