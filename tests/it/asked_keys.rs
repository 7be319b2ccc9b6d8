//! Public keys that senders give out one by one to those who have credentials: the presets of Plaid and eBay through the
//! socket, against a server that fails, lies, is slow and is asked for more than it should be.

use crate::support::origin::{Asked, Origin, Says, json};
use crate::support::{Moat, PATIENCE, refusal, request, within};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

const PLAID: &str = "production.plaid.com";
const EBAY: &str = "api.ebay.com";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}

fn key() -> rcgen::KeyPair {
    rcgen::KeyPair::generate().expect("a key")
}

/// An event that was never sent before.
fn event() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{{\"webhook_code\":\"X\",\"n\":{}}}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn sign(algorithm: &'static ring::signature::EcdsaSigningAlgorithm, key: &rcgen::KeyPair, text: &[u8]) -> Vec<u8> {
    let random = ring::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, key.serialized_der(), &random).expect("a key");
    pair.sign(&random, text).expect("a signature").as_ref().to_vec()
}

/// What Plaid sends, signed with the key of this name.
fn plaid(id: &str, key: &rcgen::KeyPair) -> Vec<u8> {
    plaid_at(id, key, now())
}

fn plaid_at(id: &str, key: &rcgen::KeyPair, time: u64) -> Vec<u8> {
    let body = event();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "iat": time, "request_body_sha256": hex::encode(Sha256::digest(&body)) });
    let input = format!("{}.{}", part(json!({ "alg": "ES256", "kid": id, "typ": "JWT" })), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(&ECDSA_P256_SHA256_FIXED_SIGNING, key, input.as_bytes()));
    let token = format!("{input}.{signature}");
    let headers = [("Content-Type", "application/json"), ("Plaid-Verification", token.as_str())];
    request("POST", "/in", &headers, body.as_bytes())
}

/// Plaid's answer with this key.
fn jwk(id: &str, key: &rcgen::KeyPair, expired: Option<u64>) -> Says {
    let point = key.public_key_raw();
    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
    let key = json!({ "alg": "ES256", "created_at": 1, "crv": "P-256", "expired_at": expired, "kid": id, "kty": "EC",
        "use": "sig", "x": part(1..33), "y": part(33..65) });
    json(&json!({ "key": key, "request_id": "x" }))
}

fn plaid_route(origin: &Origin, more: &str) -> String {
    let fetch = origin.fetch(&[PLAID, "sandbox.plaid.com"], more).replace("refresh: 100ms", "refresh: 1h");
    format!(
        "{fetch}routes:\n  - name: in\n    path: /in\n    provider: plaid\n    public_keys: [{{ ask: {{ client_id: {{ value: \
         us }}, secret: {{ value: our-secret }} }} }}]\n    to: app\n"
    )
}

/// The name of the key that a question of Plaid's form is for.
fn asked_for(asked: &Asked) -> String {
    let body: serde_json::Value = serde_json::from_str(asked.body.as_deref().expect("a POST")).expect("JSON");
    assert_eq!((&body["client_id"], &body["secret"]), (&json!("us"), &json!("our-secret")));
    assert_eq!(asked.target, "/webhook_verification_key/get");
    body["key_id"].as_str().expect("a name").to_owned()
}

#[test]
fn plaid_is_asked_once_for_each_key_and_never_for_what_is_no_name() {
    let (old, new, stranger) = (key(), key(), key());
    let (keys, other) = ([("old-1", jwk("old-1", &old, None)), ("new_2", jwk("new_2", &new, None))], key());
    let lies = [
        ("ended", jwk("ended", &other, Some(now() - 1))),
        ("swapped", jwk("old-1", &other, None)),
        ("html", Says::Body(b"<html>".to_vec(), String::new())),
        ("large", Says::Body(vec![b' '; 300 << 10], String::new())),
        ("moved", Says::Status(302, "Location: https://evil.example/key\r\n".into())),
        ("broken", Says::Status(500, String::new())),
    ];
    let known: Vec<_> = keys.into_iter().chain(lies).collect();
    let origin = Origin::start(&[PLAID, "sandbox.plaid.com", "evil.example"], move |asked| {
        let id = asked_for(asked);
        known.iter().find(|(known, _)| **known == id).map_or(Says::Status(400, String::new()), |(_, says)| says.clone())
    });
    let moat = Moat::new(&plaid_route(&origin, ""));
    assert_eq!(moat.proxy.admin("/readyz").status, 200, "nothing is fetched before a message names it");
    let long = "a".repeat(129);
    for bad in ["", ".", "..", "../x", "a/b", "a%2fb", "a?b=c", "a#b", "a b", "a\r\nb", "\"", "ä", &long] {
        moat.refuses(bad, &plaid(bad, &old), refusal(401, "in", "signature_"));
    }
    moat.refuses("too old", &plaid_at("old-1", &old, now() - 600), refusal(401, "in", ""));
    assert_eq!(origin.connections(), 0, "asked for nothing");

    moat.accepts("known", &plaid("old-1", &old));
    moat.accepts("known, again", &plaid("old-1", &old));
    assert_eq!(origin.asked().len(), 1);
    moat.refuses("another's key", &plaid("old-1", &stranger), refusal(401, "in", "signature_mismatch"));
    assert_eq!(origin.asked().len(), 1);
    moat.accepts("rotated", &plaid("new_2", &new));
    moat.accepts("the old one as well", &plaid("old-1", &old));
    assert_eq!(origin.asked().len(), 2);

    for (id, status) in
        [("ended", 401), ("swapped", 401), ("html", 401), ("large", 503), ("moved", 503), ("broken", 503)]
    {
        let answer = moat.proxy.send(&plaid(id, &other));
        assert_eq!(answer.status, status, "{id}\n{}", moat.proxy.log());
        let asked = origin.asked().len();
        assert_eq!(moat.proxy.send(&plaid(id, &other)).status, status, "{id}, again");
        assert_eq!(origin.asked().len(), asked, "{id} is not asked for again");
    }
    // However many are named, only a few are asked for, and the honest sender goes on.
    for n in 0..60 {
        let answer = moat.proxy.send(&plaid(&format!("forged-{n}"), &stranger));
        assert!(matches!(answer.status, 401 | 503), "{}", answer.status);
    }
    assert!(origin.asked().len() < 30, "{} questions", origin.asked().len());
    assert!(origin.asked().iter().all(|asked| asked.host == PLAID), "{:?}", origin.asked());
    moat.accepts("after all that", &plaid("new_2", &new));
    assert!(!moat.proxy.log().contains("our-secret"), "{}", moat.proxy.log());
    let metric = "hookmoat_fetched_entries{kind=\"keys\",source=\"production.plaid.com/webhook_verification_key/get\"}";
    assert_eq!(moat.proxy.metric(metric), 2.0);
}

#[test]
fn wrong_credentials_make_the_sender_come_again_and_a_key_taken_back_ends() {
    let ours = key();
    let origin = Origin::start(&[PLAID, "sandbox.plaid.com"], |_| Says::Status(400, String::new()));
    let fetch = plaid_route(&origin, "").replace("refresh: 1h", "refresh: 200ms");
    let moat = Moat::new(&fetch.replace(" } }]", " }, host: sandbox.plaid.com }]"));
    // 400 is what Plaid says to wrong credentials as well: no event may be lost for it.
    moat.refuses("not let in", &plaid("a", &ours), refusal(503, "in", "keys_unavailable"));
    origin.say(jwk("a", &ours, None));
    assert!(within(PATIENCE, || moat.proxy.send(&plaid("a", &ours)).status == 200), "{}", moat.proxy.log());
    // It is asked for again while it counts; a sender that fails meanwhile takes nothing back.
    origin.say(Says::Status(503, String::new()));
    let asked = origin.asked().len();
    assert!(within(PATIENCE, || origin.asked().len() > asked + 2));
    moat.accepts("while the sender's API is away", &plaid("a", &ours));
    origin.say(jwk("a", &ours, Some(now())));
    assert!(within(PATIENCE, || moat.proxy.send(&plaid("a", &ours)).status == 401), "{}", moat.proxy.log());
    assert!(origin.asked().iter().all(|asked| asked.host == "sandbox.plaid.com"));
}

/// What eBay sends.
fn ebay(id: &str, key: &rcgen::KeyPair) -> Vec<u8> {
    let body = event();
    let signature = STANDARD.encode(sign(&ECDSA_P256_SHA256_ASN1_SIGNING, key, body.as_bytes()));
    let header = json!({ "alg": "ecdsa", "kid": id, "signature": signature, "digest": "SHA256" });
    let header = STANDARD.encode(header.to_string());
    let headers = [("Content-Type", "application/json"), ("X-EBAY-SIGNATURE", header.as_str())];
    request("POST", "/in", &headers, body.as_bytes())
}

fn ebay_route(origin: &Origin, more: &str) -> String {
    let fetch = origin.fetch(&[EBAY], more).replace("refresh: 100ms", "refresh: 1h");
    format!(
        "{fetch}routes:\n  - name: in\n    path: /in\n    provider: ebay\n    public_keys: [{{ ask: {{ client_id: {{ value: us \
         }}, client_secret: {{ value: our-secret }} }} }}]\n    to: app\n"
    )
}

/// eBay's API: gives a token, and the key to who has the newest one.
struct Api {
    tokens: Arc<AtomicUsize>,
    broken: Arc<Mutex<Option<Says>>>,
}

fn ebay_api(origin: &Origin, id: &'static str, key: &rcgen::KeyPair) -> Api {
    let api = Api { tokens: Arc::default(), broken: Arc::default() };
    let (tokens, broken) = (api.tokens.clone(), api.broken.clone());
    let der = STANDARD.encode(rcgen::PublicKeyData::subject_public_key_info(key));
    let pem = format!("-----BEGIN PUBLIC KEY-----{der}-----END PUBLIC KEY-----");
    origin.script(move |asked| {
        if asked.target == "/identity/v1/oauth2/token" {
            assert_eq!(asked.authorization.as_deref(), Some("Basic dXM6b3VyLXNlY3JldA=="));
            let scope = "grant_type=client_credentials&scope=https%3A%2F%2Fapi%2Eebay%2Ecom%2Foauth%2Fapi%5Fscope";
            assert_eq!(asked.body.as_deref(), Some(scope));
            if let Some(says) = &*broken.lock().expect("no panic under the lock") {
                return says.clone();
            }
            let token = format!("t{}", tokens.fetch_add(1, Ordering::SeqCst) + 1);
            return json(
                &json!({ "access_token": token, "expires_in": 7200, "token_type": "Application Access Token" }),
            );
        }
        let newest = format!("Bearer t{}", tokens.load(Ordering::SeqCst));
        match asked.target.strip_prefix("/commerce/notification/v1/public_key/") {
            _ if asked.authorization.as_ref() != Some(&newest) => Says::Status(401, String::new()),
            Some(name) if name.starts_with(id) => {
                json(&json!({ "key": pem, "algorithm": "ECDSA", "digest": "SHA256" }))
            }
            _ => Says::Status(404, String::new()),
        }
    });
    api
}

#[test]
fn ebay_is_asked_with_a_token_that_is_kept_and_renewed() {
    let (ours, stranger) = (key(), key());
    let origin = Origin::start(&[EBAY], |_| Says::Hang);
    let api = ebay_api(&origin, "ours", &ours);
    let moat = Moat::new(&ebay_route(&origin, ""));
    for bad in ["", "..", "a/../b", "a%2fb", "a?x", "a#x"] {
        moat.refuses(bad, &ebay(bad, &ours), refusal(412, "in", "signature_"));
    }
    assert_eq!(origin.connections(), 0);
    moat.accepts("known", &ebay("ours-1", &ours));
    moat.accepts("another", &ebay("ours-2", &ours));
    moat.accepts("known, again", &ebay("ours-1", &ours));
    assert_eq!((api.tokens.load(Ordering::SeqCst), origin.asked().len()), (1, 3));
    moat.refuses("another's", &ebay("ours-1", &stranger), refusal(412, "in", "signature_mismatch"));
    moat.refuses("no key", &ebay("theirs", &stranger), refusal(412, "in", "signature_mismatch"));
    // The token is taken back: who came with it comes again, and finds a new one.
    api.tokens.fetch_add(1, Ordering::SeqCst);
    moat.refuses("token taken back", &ebay("ours-3", &ours), refusal(503, "in", "keys_unavailable"));
    moat.accepts("with a new token", &ebay("ours-4", &ours));
    assert!(!moat.proxy.log().contains("our-secret") && !moat.proxy.log().contains("dXM6"), "{}", moat.proxy.log());
}

#[test]
fn without_a_token_nothing_is_believed_and_copies_on_disk_serve_the_next_start() {
    let ours = key();
    let origin = Origin::start(&[EBAY], |_| Says::Hang);
    let api = ebay_api(&origin, "ours", &ours);
    let folder = tempfile::tempdir().expect("a folder");
    let cache = format!("  cache: {:?}\n", folder.path());
    Moat::new(&ebay_route(&origin, &cache)).accepts("fetched", &ebay("ours-1", &ours));
    let config = ebay_route(&origin, &format!("  wait: 300ms\n  timeout: 1s\n{cache}"));
    let broken = [
        Says::Status(401, String::new()),
        Says::Status(302, "Location: https://evil.example/token\r\n".into()),
        Says::Body(b"{\"access_token\":\"a\\r\\nX: y\",\"expires_in\":7200}".to_vec(), String::new()),
        Says::Body(vec![b' '; 100 << 10], String::new()),
        Says::Drip,
    ];
    for (n, says) in broken.into_iter().enumerate() {
        *api.broken.lock().expect("no panic under the lock") = Some(says.clone());
        let moat = Moat::new(&config);
        moat.refuses("no token", &ebay(&format!("ours-x{n}"), &ours), refusal(503, "in", "keys_unavailable"));
        moat.accepts("kept on disk", &ebay("ours-1", &ours));
    }
    assert!(origin.asked().iter().all(|asked| asked.host == EBAY && !asked.target.contains("ours-x")));
}
