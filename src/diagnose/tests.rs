//! Each usual mistake is made on purpose and must be found, under its own name.

use super::*;
use crate::check::signature::{SignOptions, UnsignedRequest};
use crate::provider;

const NOW: u64 = 1_760_000_000;
const URL: &str = "https://hooks.example.com/hook?x=1";
const BODY: &str = "{\"id\": 7, \"name\": \"Zo\u{eb}\", \"url\": \"https://a.example/b\"}";
const SECRET: &str = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=";

fn now() -> Now {
    Now::at_unix(NOW)
}

fn own(yaml: &str) -> RawScheme {
    serde_yaml::from_str(yaml).unwrap()
}

fn hmac() -> RawScheme {
    own("{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"sha256=\" }, signed: \"{body}\" }")
}

fn timed() -> RawScheme {
    own("{ algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{timestamp}.{body}\",
           timestamp: { header: X-Time, unit: seconds } }")
}

/// The sender's side: signed as it signs.
fn signed(scheme: &RawScheme, secret: &[u8], body: &[u8], url: &str) -> Captured {
    let check = SignatureCheck::new(
        scheme.compile("signature").unwrap(),
        vec![Secret::always(secret.to_vec(), "sender")],
        Some(url),
    );
    let mut request = UnsignedRequest {
        method: "POST".into(),
        url: url.into(),
        headers: vec![("Content-Type".into(), b"application/json".to_vec())],
        body: body.to_vec(),
    };
    check.unwrap().sign(&mut request, now(), &SignOptions::default()).unwrap();
    request.with_head(|head| Captured::of(head, Some(request.body.clone().into()))).unwrap()
}

fn subject(scheme: RawScheme, secret: &[u8]) -> Subject {
    let secrets = vec![Secret::always(secret.to_vec(), "env HERE")];
    let (public_keys, claims, settings) = Default::default();
    let public_url = Some(URL.into());
    Subject { provider: None, scheme, variants: None, secrets, public_keys, claims, settings, public_url }
}

fn preset(id: &str, secret: &[u8]) -> Subject {
    let preset = provider::find(id).unwrap();
    Subject { provider: Some(preset.id), ..subject(preset.signature.clone(), secret) }
}

fn found(subject: &Subject, request: &Captured) -> Diagnosis {
    diagnose(subject, &[], request, now(), Budget::PATIENT)
}

/// The explanation that names this, or all that were found.
#[track_caller]
fn expect(subject: &Subject, request: &Captured, what: &str) -> Explanation {
    let found = found(subject, request);
    let by_name = found.explanations.iter().find(|explanation| explanation.changes.join(" and ").contains(what));
    by_name.unwrap_or_else(|| panic!("not found: {what}\n{found:#?}")).clone()
}

#[test]
fn mistakes_with_the_secret_are_found() {
    for (configured, sender, what) in [
        ("topsecret-topsecret\n", "topsecret-topsecret", "no white space at its start or end"),
        ("\"topsecret-topsecret\"", "topsecret-topsecret", "did not stand in quotes"),
        ("SECRET=topsecret-topsecret", "topsecret-topsecret", "behind `=`"),
        ("topsecret-topsecret", "topsecret-topsecret\n", "ended in a line end"),
        ("whsec_topsecret-topsecret", "topsecret-topsecret", "without its prefix"),
        (SECRET, "secret-secret-secret", "decoded from base64"),
        ("746f7073656372657421", "topsecret!", "decoded from hex"),
        ("top%2Bsecret%2Btopsecret", "top+secret+topsecret", "percent-decoded"),
        ("TOPSECRET-TOPSECRET", "topsecret-topsecret", "lower case"),
        ("topsecret-topsecret", "undefined", "the word `undefined`"),
    ] {
        let request = signed(&hmac(), sender.as_bytes(), BODY.as_bytes(), URL);
        let explanation = expect(&subject(hmac(), configured.as_bytes()), &request, what);
        assert_eq!(explanation.secret, "env HERE");
        assert_eq!(explanation.changes.len(), 1, "{explanation:?}");
    }
    let decoding =
        own("{ algorithm: hmac-sha256, key: { encoding: base64 }, from: { header: X-Signature }, signed: \"{body}\" }");
    let text = RawScheme { key: None, ..decoding.clone() };
    let request = signed(&text, SECRET.as_bytes(), BODY.as_bytes(), URL);
    expect(&subject(decoding, SECRET.as_bytes()), &request, "not decoded, but used as it stands");
}

#[test]
fn a_secret_of_another_route_and_one_that_has_ended_are_found() {
    let request = signed(&hmac(), b"another-secret-here", BODY.as_bytes(), URL);
    let here = subject(hmac(), b"topsecret-topsecret");
    let others = [("crm".to_owned(), Secret::always(b"another-secret-here".to_vec(), "env CRM"))];
    let found = diagnose(&here, &others, &request, now(), Budget::PATIENT);
    assert_eq!(found.explanations[0].changes, ["the secret were that of route crm"]);
    assert_eq!(found.explanations[0].secret, "env CRM");
    let mut ended = here;
    ended
        .secrets
        .push(Secret { until: Some(NOW as i64 - 10), ..Secret::always(b"another-secret-here".to_vec(), "file old") });
    let explanation = expect(&ended, &request, "the secret from file old had not ended at 2025-10-09T08:53:10Z");
    assert_eq!(explanation.secret, "file old");
}

#[test]
fn mistakes_with_the_body_are_found() {
    let python = "{\"id\": 7, \"name\": \"Zo\\u00eb\", \"url\": \"https://a.example/b\"}";
    let php = "{\"id\":7,\"name\":\"Zo\\u00eb\",\"url\":\"https:\\/\\/a.example\\/b\"}";
    for (sent, arrived, what) in [
        (BODY.to_owned(), format!("{BODY}\n"), "no line end at its end"),
        (format!("{BODY}\n"), BODY.to_owned(), "ended in a line end"),
        ("a\nb\n".into(), "a\r\nb\r\n".into(), "LF, not CRLF"),
        ("a\r\nb\r\n".into(), "a\nb\n".into(), "CRLF, not LF"),
        ("a\nb".into(), "\u{feff}a\nb".into(), "did not start with a byte order mark"),
        ("\u{feff}a\nb".into(), "a\nb".into(), "started with a byte order mark"),
        (python.into(), BODY.into(), "as Python's json.dumps writes"),
        (php.into(), BODY.into(), "as PHP writes"),
        (BODY.replace(": ", ":").replace(", ", ","), BODY.into(), "the same JSON compact"),
        ("{\"b\":1,\"a\":2}".into(), "{\n  \"b\": 1,\n  \"a\": 2\n}".into(), "the same JSON compact"),
        ("{\"a\":2,\"b\":1}".into(), "{\"b\":1,\"a\":2}".into(), "members sorted"),
        (BODY.into(), serde_json::Value::from(BODY).to_string(), "what its JSON string holds"),
        ("a=1 2&b=x/y".into(), "a=1+2&b=x%2Fy".into(), "the form were decoded"),
        (
            BODY.into(),
            "eyJpZCI6IDcsICJuYW1lIjogIlpvw6siLCAidXJsIjogImh0dHBzOi8vYS5leGFtcGxlL2IifQ==".into(),
            "decoded from base64",
        ),
        ("".into(), BODY.into(), "the body were empty"),
        ("{\"name\":\"Zo\u{eb}\"}".into(), "{\"name\":\"Zo\u{c3}\u{ab}\"}".into(), "in Latin-1, not UTF-8"),
    ] {
        let mut request = signed(&hmac(), b"topsecret-topsecret", sent.as_bytes(), URL);
        request.body = Some(arrived.into());
        let explanation = expect(&subject(hmac(), b"topsecret-topsecret"), &request, what);
        assert_eq!(explanation.changes.len(), 1, "{explanation:?}");
    }
}

#[test]
fn mistakes_with_the_url_are_found() {
    let scheme = own("{ algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{url}{body}\" }");
    for (sender, configured, what) in [
        ("http://hooks.example.com/hook", "https://hooks.example.com/hook", "with http"),
        ("https://hooks.example.com/hook", "https://hooks.example.com:8443/hook", "without its port"),
        ("https://hooks.example.com:443/hook", "https://hooks.example.com/hook", "with a port"),
        ("https://hooks.example.com/hook/", "https://hooks.example.com/hook", "with a slash at its end"),
        ("https://hooks.example.com/hook", "https://hooks.example.com/hook/", "without the slash"),
        ("https://hooks.example.com/hook", "https://inner.example/other", "as the request says"),
    ] {
        let mut request = signed(&scheme, b"topsecret-topsecret", BODY.as_bytes(), sender);
        request.host = "hooks.example.com".into();
        let here = Subject { public_url: Some(configured.into()), ..subject(scheme.clone(), b"topsecret-topsecret") };
        let explanation = expect(&here, &request, what);
        assert_eq!(explanation.yaml.unwrap(), format!("public_url: {sender}"), "{what}");
    }
    let missing = Subject { public_url: None, ..preset("twilio", b"topsecret-topsecret") };
    let twilio = &provider::find("twilio").unwrap().signature;
    let request = signed(twilio, b"topsecret-topsecret", b"a=1", "https://hooks.example.com/hook");
    expect(&missing, &request, "as the request says");
}

#[test]
fn mistakes_with_the_scheme_are_found() {
    let variants: [(&str, &str, &str); 9] = [
        (
            "algorithm",
            "{ algorithm: hmac-sha1, from: { header: X-Signature, prefix: \"sha256=\" }, signed: \"{body}\" }",
            "the hash were sha1",
        ),
        (
            "algorithm",
            "{ algorithm: hmac-sha512, from: { header: X-Signature, prefix: \"sha256=\" }, signed: \"{body}\" }",
            "the hash were sha512",
        ),
        (
            "base64",
            "{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"sha256=\", encoding: base64 }, signed: \"{body}\" }",
            "read as base64",
        ),
        (
            "base64url",
            "{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"sha256=\", encoding: base64url }, signed: \"{body}\" }",
            "read as base64url",
        ),
        (
            "prefix",
            "{ algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{body}\" }",
            "the signature had no prefix",
        ),
        (
            "prefix",
            "{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"hmac=\" }, signed: \"{body}\" }",
            "prefix were `hmac=`",
        ),
        (
            "header",
            "{ algorithm: hmac-sha256, from: { header: X-Other }, signed: \"{body}\" }",
            "stood in header x-other",
        ),
        (
            "header",
            "{ algorithm: hmac-sha256, from: { header: X-Other, encoding: base64, prefix: \"v1=\" }, signed: \"{body}\" }",
            "stood in header x-other",
        ),
        (
            "text",
            "{ algorithm: hmac-sha256, from: { header: X-Signature, prefix: \"sha256=\" }, signed: \"{method}{path}{body}\" }",
            "`{method}{path}{body}`",
        ),
    ];
    for (_, sender, what) in variants {
        let request = signed(&own(sender), b"topsecret-topsecret", BODY.as_bytes(), URL);
        let explanation = expect(&subject(hmac(), b"topsecret-topsecret"), &request, what);
        assert!(explanation.yaml.is_some(), "{explanation:?}");
    }
    // Digits in base64, quotes around the value.
    let mut request = signed(&hmac(), b"topsecret-topsecret", BODY.as_bytes(), URL);
    let value = String::from_utf8(request.header("x-signature").unwrap().to_vec()).unwrap();
    let digits = value.trim_start_matches("sha256=").to_owned();
    let mut put = |value: String| {
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-signature"));
        request.headers.push(("X-Signature".into(), value.into_bytes()));
        request.clone()
    };
    let here = subject(hmac(), b"topsecret-topsecret");
    expect(&here, &put(format!("\"{value}\"")), "no white space or quotes");
    use base64::Engine as _;
    expect(&here, &put(base64::engine::general_purpose::STANDARD.encode(digits)), "hex digits in base64");
}

#[test]
fn mistakes_with_the_time_are_found() {
    let milliseconds = own("{ algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{timestamp}.{body}\",
           timestamp: { header: X-Time, unit: milliseconds } }");
    let request = signed(&milliseconds, b"topsecret-topsecret", BODY.as_bytes(), URL);
    let here = subject(timed(), b"topsecret-topsecret");
    let explanation = expect(&here, &request, "the time were read as milliseconds");
    assert_eq!(explanation.yaml.as_deref(), Some("signature: { timestamp: { unit: milliseconds } }"));
    let hints = found(&here, &request).hints;
    assert!(hints.iter().any(|hint| hint.contains("looks like milliseconds")), "{hints:?}");

    let request = signed(&timed(), b"topsecret-topsecret", BODY.as_bytes(), URL);
    let judged = |at: u64| diagnose(&here, &[], &request, Now::at_unix(at), Budget::PATIENT).explanations;
    assert!(judged(NOW).is_empty());
    let late = &judged(NOW + 301)[0].changes[0];
    assert!(late.contains("signed 301 s ago, accepted are 300 s") && !late.contains("local time"), "{late}");
    assert!(judged(NOW - 400)[0].changes[0].contains("400 s ahead"));
    assert!(judged(NOW + 7200)[0].changes[0].contains("local time"));
    // Wrong and late: both are told.
    let request = signed(&timed(), b"topsecret-topsecret\n", BODY.as_bytes(), URL);
    let both = diagnose(&here, &[], &request, Now::at_unix(NOW + 900), Budget::PATIENT);
    assert_eq!(both.explanations[0].changes.len(), 2, "{both:?}");
    // The body is signed alone here, and the time of the header is not part of it.
    let request = {
        let mut request = signed(&timed(), b"topsecret-topsecret", BODY.as_bytes(), URL);
        let plain = own("{ algorithm: hmac-sha256, from: { header: X-Signature }, signed: \"{body}\" }");
        let other = signed(&plain, b"topsecret-topsecret", BODY.as_bytes(), URL);
        request.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("x-signature"));
        request.headers.push(("x-signature".into(), other.header("x-signature").unwrap().to_vec()));
        request
    };
    expect(&here, &request, "what is signed were `{body}`");
}

#[test]
fn another_sender_and_another_variant_are_found() {
    let slack = &provider::find("slack").unwrap().signature;
    let request = signed(slack, b"topsecret-topsecret", BODY.as_bytes(), URL);
    let explanation = expect(&preset("github", b"topsecret-topsecret"), &request, "the sender were Slack");
    assert_eq!(explanation.yaml.as_deref(), Some("provider: slack"));
    let hints = found(&preset("github", b"x"), &request).hints;
    assert!(hints.iter().any(|hint| hint.contains("X-Slack-Signature") && hint.contains("slack")), "{hints:?}");

    let hubspot = &provider::find("hubspot").unwrap().signature;
    let v1 = RawScheme { when: None, ..hubspot.any_of.as_ref().unwrap()[2].clone() };
    let request = signed(&v1, b"topsecret-topsecret", BODY.as_bytes(), URL);
    expect(&preset("hubspot", b"topsecret-topsecret"), &request, "judged as variant v1");
}

#[test]
fn two_mistakes_of_different_kinds_are_found_together() {
    for (sender, secret, body, what) in [
        (hmac(), "topsecret-topsecret", BODY, ["no white space", "no line end"]),
        (hmac(), "secret-secret-secret", BODY, ["base64", "no line end"]),
    ] {
        let mut request = signed(&sender, secret.as_bytes(), body.as_bytes(), URL);
        request.body = Some(format!("{body}\n").into());
        let configured = if secret.starts_with("top") { format!("{secret} \n") } else { SECRET.to_owned() };
        let explanation = expect(&subject(hmac(), configured.as_bytes()), &request, what[0]);
        assert!(explanation.changes.len() == 2 && explanation.changes[1].contains(what[1]), "{explanation:?}");
    }
}

#[test]
fn what_nothing_explains_is_told_as_such_and_the_work_is_bounded() {
    let request = signed(&hmac(), b"quite-another-secret", BODY.as_bytes(), URL);
    let here = subject(hmac(), b"topsecret-topsecret");
    let all = found(&here, &request);
    assert!(all.explanations.is_empty() && !all.cut && all.tried > 1000, "{} {}", all.tried, all.cut);
    assert!(all.line().ends_with("explains it"), "{}", all.line());
    let few = diagnose(&here, &[], &request, now(), Budget { attempts: 10, bytes: 1 << 20 });
    assert!(few.cut && few.tried == 10 && few.line().contains("not all that there are"), "{}", few.line());
    let small = diagnose(&here, &[], &request, now(), Budget { attempts: 1000, bytes: 1000 });
    assert!(small.cut && small.tried < 20);
    // Attempts count that come to nothing, here since there is no secret to try with.
    let nothing = Subject { secrets: Vec::new(), ..here.clone() };
    let none = diagnose(&nothing, &[], &request, now(), Budget { attempts: 10, bytes: 1 << 20 });
    assert!(none.cut && none.tried == 10, "{} {}", none.tried, none.cut);
    // Refused before its body was read: nothing can be tried.
    let head = Captured { body: None, ..request };
    assert_eq!(found(&here, &head).tried, 0);
}

#[test]
fn neither_secret_nor_signature_is_told() {
    let request = signed(&hmac(), b"topsecret-topsecret", BODY.as_bytes(), URL);
    let signature = String::from_utf8(request.header("x-signature").unwrap().to_vec()).unwrap();
    let digits = signature.trim_start_matches("sha256=");
    for configured in ["topsecret-topsecret\n", "\"topsecret-topsecret\"", "X=topsecret-topsecret", "other-secret-here"]
    {
        let here = subject(hmac(), configured.as_bytes());
        let found = found(&here, &request);
        let told = format!("{found:?} {} {here:?} {request:?} {}", found.line(), request.summary());
        for hidden in ["topsecret", "other-secret", digits, "Zo"] {
            assert!(!told.contains(hidden), "{hidden} in {told}");
        }
    }
}

#[test]
fn every_symmetric_preset_is_recognised_behind_any_other() {
    // A route for GitHub that gets the requests of every other sender, with the right secret.
    let here = Subject { public_url: None, ..preset("github", SECRET.as_bytes()) };
    let mut unknown = Vec::new();
    for preset in provider::all() {
        let Ok(check) = SignatureCheck::new(
            preset.scheme.clone(),
            vec![Secret::always(SECRET.as_bytes().to_vec(), "sender")],
            Some("https://hooks.example.com/hook"),
        ) else {
            continue;
        };
        let mut request = UnsignedRequest {
            method: "POST".into(),
            url: "https://hooks.example.com/hook".into(),
            headers: Vec::new(),
            body: b"{\"a\":1}".to_vec(),
        };
        // Meta signs as GitHub does.
        if ["github", "meta"].contains(&preset.id) || check.sign(&mut request, now(), &SignOptions::default()).is_err()
        {
            continue;
        }
        let request = request.with_head(|head| Captured::of(head, Some(request.body.clone().into()))).unwrap();
        let verifies = request.with_head(|head| {
            let body = request.body.as_deref().unwrap();
            check.begin(head, true, now()).and_then(|mut verification| {
                verification.update(body);
                verification.finish(head, body, now())
            })
        });
        if verifies.is_err() {
            continue;
        }
        let found = diagnose(&here, &[], &request, now(), Budget { attempts: 600, bytes: 1 << 24 });
        if found.explanations.is_empty() {
            unknown.push(preset.id);
        }
    }
    assert!(unknown.is_empty(), "{unknown:?}");
}
