//! Public keys that senders publish: by set, and by certificates that messages name. Tried through the socket against a
//! server that changes, fails and is asked for more than it should be.

use crate::support::origin::{Origin, Says, json};
use crate::support::{Moat, refusal, request, within};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOST: &str = "keys.example.com";
const PATIENCE: Duration = Duration::from_secs(10);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn sign(algorithm: &'static ring::signature::EcdsaSigningAlgorithm, key: &rcgen::KeyPair, text: &[u8]) -> Vec<u8> {
    let random = ring::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.serialized_der(), &random).expect("a key");
    pair.sign(&random, text).expect("a signature").as_ref().to_vec()
}

/// A set of these keys, by name.
fn jwks(keys: &[(&str, &rcgen::KeyPair)]) -> Says {
    let key = |(id, key): &(&str, &rcgen::KeyPair)| {
        let point = key.public_key_raw();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": part(1..33), "y": part(33..65) })
    };
    json(&json!({ "keys": keys.iter().map(key).collect::<Vec<_>>() }))
}

/// A signed request, its event never sent before.
fn bearer(id: &str, key: &rcgen::KeyPair, audience: &str) -> Vec<u8> {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iss": "https://sender.example", "aud": audience, "iat": now(), "exp": now() + 300 });
    let input = format!("{}.{}", part(json!({ "alg": "ES256", "kid": id })), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(&ECDSA_P256_SHA256_FIXED_SIGNING, key, input.as_bytes()));
    let body = format!("{{\"id\":\"{:x}\"}}", rand());
    request("POST", "/in", &[("Authorization", &format!("Bearer {input}.{signature}"))], body.as_bytes())
}

fn rand() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    (now() << 20) + COUNT.fetch_add(1, Ordering::Relaxed)
}

fn token_route(origin: &Origin, keys: &str, more: &str) -> String {
    let fetch = origin.fetch(&[HOST], more).replace("refresh: 100ms", "refresh: 1h");
    format!(
        "{fetch}routes:\n  - name: in\n    path: /in\n    signature:\n      algorithm: jwt\n      from: {{ header: \
         Authorization, prefix: \"Bearer \" }}\n{keys}      token: {{ algorithms: [ES256], require: [exp], claims: [{{ name: \
         iss, is: [\"https://sender.example\"] }}], configured: [aud] }}\n    claims: {{ aud: us }}\n    event_id: json:/id\n    to: app\n"
    )
}

const JWKS: &str = "      keys: { jwks: \"https://keys.example.com/jwks\" }\n";

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}

#[test]
fn a_new_key_is_fetched_when_a_message_names_it_and_a_forged_name_leads_nowhere() {
    let (old, new, stranger) = (key(), key(), key());
    let set = jwks(&[("old", &old)]);
    let origin = Origin::start(&[HOST], move |_| set.clone());
    let moat = Moat::new(&token_route(&origin, JWKS, ""));
    moat.accepts("known", &bearer("old", &old, "us"));
    moat.refuses("another's key", &bearer("old", &stranger, "us"), refusal(401, "in", "signature_mismatch"));
    moat.refuses("for somebody else", &bearer("old", &old, "them"), refusal(401, "in", "signature_mismatch"));
    let asked = origin.asked().len();
    moat.refuses("new name, for somebody else", &bearer("new", &new, "them"), refusal(401, "in", "signature_mismatch"));
    assert_eq!(origin.asked().len(), asked, "fetched for a token that could not hold");
    origin.say(jwks(&[("old", &old), ("new", &new)]));
    moat.accepts("rotated", &bearer("new", &new, "us"));
    moat.accepts("the old one as well", &bearer("old", &old, "us"));
    for n in 0..40 {
        let forged = bearer(&format!("forged-{n}"), &stranger, "us");
        moat.refuses("forged name", &forged, refusal(401, "in", "signature_mismatch"));
    }
    assert!(origin.asked().len() <= 14, "{} fetches", origin.asked().len());
    assert!(origin.asked().iter().all(|asked| asked.target == "/jwks" && asked.host == HOST));
    moat.accepts("after all that", &bearer("new", &new, "us"));
}

#[test]
fn without_keys_a_route_is_not_ready_and_the_sender_comes_again() {
    let ours = key();
    let origin = Origin::start(&[HOST], |_| Says::Status(500, String::new()));
    let moat = Moat::new(&token_route(&origin, JWKS, "  wait: 300ms\n  timeout: 5s\n"));
    moat.refuses("no keys", &bearer("a", &ours, "us"), refusal(503, "in", "keys_unavailable"));
    let ready = moat.proxy.admin("/readyz");
    assert!(ready.status == 503 && ready.text().contains("route in has no keys of keys.example.com/jwks yet"));
    for says in [
        Says::Body(b"{\"keys\":[]}".to_vec(), String::new()),
        Says::Body(b"<html>".to_vec(), String::new()),
        Says::Body(format!("{{\"keys\":[{}]}}", vec!["{}"; 65].join(",")).into(), String::new()),
        Says::Body(vec![b' '; 300 << 10], String::new()),
        Says::Status(302, "Location: https://elsewhere.example/jwks\r\n".into()),
        Says::Drip,
    ] {
        origin.say(says.clone());
        let answer = moat.proxy.send(&bearer("a", &ours, "us"));
        assert_eq!(answer.status, 503, "{says:?}");
    }
    origin.say(jwks(&[("a", &ours)]));
    assert!(within(PATIENCE, || moat.proxy.send(&bearer("a", &ours, "us")).status == 200), "{}", moat.proxy.log());
    assert_eq!(moat.proxy.admin("/readyz").status, 200);
    assert_eq!(moat.proxy.metric("hookmoat_fetched_entries{kind=\"keys\",source=\"keys.example.com/jwks\"}"), 1.0);
}

#[test]
fn metadata_lead_to_keys_at_their_own_host_only() {
    let ours = key();
    let set = jwks(&[("a", &ours)]);
    for (uri, status) in [
        ("https://keys.example.com/jwks", 200),
        ("https://evil.example/jwks", 503),
        ("http://keys.example.com/jwks", 503),
    ] {
        let set = set.clone();
        let origin = Origin::start(&[HOST, "evil.example"], move |asked| match asked.target.as_str() {
            "/.well-known/openid-configuration" => json(&json!({ "issuer": "x", "jwks_uri": uri })),
            _ => set.clone(),
        });
        let config = token_route(&origin, "", "").replace(
            "    event_id:",
            "    public_keys: [{ openid: \"https://keys.example.com/.well-known/openid-configuration\" }]\n    event_id:",
        );
        let moat = Moat::new(&config);
        assert_eq!(moat.proxy.send(&bearer("a", &ours, "us")).status, status, "{uri}\n{}", moat.proxy.log());
        assert!(origin.asked().iter().all(|asked| asked.host == HOST), "{:?}", origin.asked());
    }
}

#[test]
fn the_keys_on_disk_serve_a_start_without_the_network() {
    let ours = key();
    let set = jwks(&[("a", &ours)]);
    let origin = Origin::start(&[HOST], move |_| set.clone());
    let folder = tempfile::tempdir().expect("a folder");
    let config = token_route(&origin, JWKS, &format!("  cache: {:?}\n", folder.path()));
    Moat::new(&config).accepts("fetched", &bearer("a", &ours, "us"));
    origin.say(Says::Status(500, String::new()));
    let moat = Moat::new(&config);
    moat.accepts("kept", &bearer("a", &ours, "us"));
}

fn certificate_route(origin: &Origin, chain: bool, more: &str) -> String {
    let hosts = ["certs.eu.example.com", "certs.us.example.com"];
    format!(
        "{}routes:\n  - name: in\n    path: /in\n    signature:\n      algorithm: ecdsa-p256-sha256\n      from: {{ header: \
         X-Signature, encoding: base64 }}\n      keys:\n        certificate:\n          url: header:X-Cert-Url\n          pins: \
         [\"https://certs.*.example.com/cert-*.pem\"]\n          names: [signing.example.com]\n          chain: {chain}\n      \
         signed: \"{{timestamp}}.{{body}}\"\n      timestamp: {{ header: X-Time, unit: seconds, past: 5m }}\n    event_id: \
         json:/id\n    to: app\n",
        origin.fetch(&hosts, more)
    )
}

fn signed(url: &str, key: &rcgen::KeyPair) -> Vec<u8> {
    let (time, body) = (now().to_string(), format!("{{\"id\":\"{:x}\"}}", rand()));
    let signature = sign(&ECDSA_P256_SHA256_ASN1_SIGNING, key, format!("{time}.{body}").as_bytes());
    let headers = [("X-Cert-Url", url), ("X-Time", &time), ("X-Signature", &STANDARD.encode(signature))];
    request("POST", "/in", &headers, body.as_bytes())
}

#[test]
fn a_certificate_is_fetched_from_the_pinned_places_alone() {
    let origin = Origin::start(&["certs.eu.example.com", "certs.us.example.com"], |_| Says::Status(404, String::new()));
    let (ours, key) = origin.issue(&["signing.example.com"]);
    let (theirs, their_key) = origin.issue(&["signing.example.com.evil.example"]);
    let stranger = Origin::start(&["certs.eu.example.com"], |_| Says::Hang);
    let (foreign, foreign_key) = stranger.issue(&["signing.example.com"]);
    let pem = |certificate: &rcgen::Certificate| Says::Body(certificate.pem().into_bytes(), String::new());
    let (ours, theirs, foreign) = (pem(&ours), pem(&theirs), pem(&foreign));
    origin.script(move |asked| match asked.target.as_str() {
        "/cert-1.pem" => ours.clone(),
        "/cert-theirs.pem" => theirs.clone(),
        "/cert-foreign.pem" => foreign.clone(),
        "/cert-html.pem" => Says::Body(b"<html>".to_vec(), String::new()),
        "/cert-moved.pem" => Says::Status(302, "Location: https://certs.us.example.com/cert-1.pem\r\n".into()),
        "/cert-large.pem" => Says::Body(vec![b'A'; 1 << 20], String::new()),
        "/cert-broken.pem" => Says::Status(500, String::new()),
        _ => Says::Status(404, String::new()),
    });
    let moat = Moat::new(&certificate_route(&origin, true, ""));
    let refused = refusal(401, "in", "signature_");
    // Nowhere but at the pinned places is anything asked for, not even a name resolved.
    for url in [
        "https://evil.example/cert-1.pem",
        "http://certs.eu.example.com/cert-1.pem",
        "https://certs.eu.example.com.evil.example/cert-1.pem",
        "https://certs.eu.evilexample.com/cert-1.pem",
        "https://certs.eu.example.com@evil.example/cert-1.pem",
        "https://certs.eu.example.com:8443/cert-1.pem",
        "https://certs.a.b.example.com/cert-1.pem",
        "https://certs.eu.example.com/x/cert-1.pem",
        "https://certs.eu.example.com/../cert-1.pem",
        "https://certs.eu.example.com/cert-1.pem?x=1",
        "https://127.0.0.1/cert-1.pem",
        "https://169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "",
    ] {
        moat.refuses(url, &signed(url, &key), refused);
    }
    assert_eq!(origin.connections(), 0);
    assert!(
        moat.proxy.log().contains("the URL in header x-cert-url is not at a host that the sender uses"),
        "{}",
        moat.proxy.log()
    );
    let old = signed("https://certs.eu.example.com/cert-1.pem", &key);
    let old = String::from_utf8(old).expect("text").replace("X-Time: 1", "X-Time: 0");
    moat.refuses("of another time", old.as_bytes(), refusal(401, "in", "timestamp_too_old"));
    assert_eq!(origin.connections(), 0, "fetched for a request of the wrong time");

    let good = "https://certs.eu.example.com/cert-1.pem";
    moat.accepts("ours", &signed(good, &key));
    moat.accepts("ours again", &signed(good, &key));
    assert_eq!(origin.asked().len(), 1, "fetched once");
    moat.refuses("not signed with it", &signed(good, &their_key), refused);
    moat.refuses("another name", &signed("https://certs.eu.example.com/cert-theirs.pem", &their_key), refused);
    moat.refuses("another root", &signed("https://certs.eu.example.com/cert-foreign.pem", &foreign_key), refused);
    moat.refuses("not a certificate", &signed("https://certs.eu.example.com/cert-html.pem", &key), refused);
    moat.refuses("not there", &signed("https://certs.us.example.com/cert-2.pem", &key), refused);
    let unavailable = refusal(503, "in", "keys_unavailable");
    moat.refuses("moved", &signed("https://certs.eu.example.com/cert-moved.pem", &key), unavailable);
    moat.refuses("too large", &signed("https://certs.eu.example.com/cert-large.pem", &key), unavailable);
    moat.refuses("broken", &signed("https://certs.eu.example.com/cert-broken.pem", &key), unavailable);
    for what in [
        "is not made out to signing.example.com",
        "leads to no root that is trusted",
        "is no PEM text",
        "redirects are not followed",
    ] {
        assert!(moat.proxy.log().contains(what) || origin.asked().len() > 3, "{what}\n{}", moat.proxy.log());
    }
    // What is known to be no good is not asked for again.
    let asked = origin.asked().len();
    moat.refuses("still no certificate", &signed("https://certs.eu.example.com/cert-html.pem", &key), refused);
    assert_eq!(origin.asked().len(), asked);
    // However many are named, only a few are looked for, and an honest sender goes on.
    for n in 0..60 {
        let answer = moat.proxy.send(&signed(&format!("https://certs.eu.example.com/cert-x{n}.pem"), &key));
        assert!(matches!(answer.status, 401 | 503), "{}", answer.status);
    }
    assert!(origin.asked().len() < 30, "{} fetches", origin.asked().len());
    moat.accepts("after all that", &signed(good, &key));
}

#[test]
fn a_slow_server_holds_nobody_for_long() {
    let origin = Origin::start(&["certs.eu.example.com"], |_| Says::Drip);
    let moat = Moat::new(&certificate_route(&origin, true, "  wait: 200ms\n  timeout: 1s\n"));
    let key = key();
    let url = "https://certs.eu.example.com/cert-1.pem";
    moat.refuses("slow", &signed(url, &key), refusal(503, "in", "keys_unavailable"));
    // All who miss the same wait for one fetch.
    std::thread::scope(|scope| {
        let sent: Vec<_> = (0..16).map(|_| scope.spawn(|| moat.proxy.send(&signed(url, &key)).status)).collect();
        assert!(sent.into_iter().all(|status| status.join().expect("an answer") == 503));
    });
    assert!(origin.connections() <= 3, "{} connections", origin.connections());
    assert!(within(PATIENCE, || moat.proxy.log().contains("no whole answer within 1s")), "{}", moat.proxy.log());
}

#[test]
fn a_certificate_without_a_chain_counts_where_the_scheme_says_so() {
    let origin = Origin::start(&["certs.eu.example.com"], |_| Says::Status(404, String::new()));
    let stranger = Origin::start(&["x.example.com"], |_| Says::Hang);
    let (foreign, key) = stranger.issue(&["signing.example.com"]);
    origin.say(Says::Body(foreign.pem().into_bytes(), String::new()));
    let folder = tempfile::tempdir().expect("a folder");
    let config = certificate_route(&origin, false, &format!("  cache: {:?}\n", folder.path()));
    let moat = Moat::new(&config);
    moat.accepts("by its host", &signed("https://certs.eu.example.com/cert-1.pem", &key));
    drop(moat);
    origin.say(Says::Status(500, String::new()));
    Moat::new(&config).accepts("kept on disk", &signed("https://certs.eu.example.com/cert-1.pem", &key));
}
