//! The engine as a whole: what is promised about signatures, one test for each promise.

use super::*;
use crate::check::source::MAX_FIELDS;
use crate::config::scheme::{RawAlgorithm, RawScheme};
use crate::provider;
use crate::request::Headers;
use proptest::prelude::*;

const NOW: u64 = 1_700_000_000;

fn scheme(yaml: &str) -> Scheme {
    let raw: RawScheme = serde_yaml::from_str(yaml).unwrap();
    raw.compile("signature").unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn check_with(yaml: &str, secrets: &[&str]) -> SignatureCheck {
    let secrets =
        secrets.iter().enumerate().map(|(at, text)| Secret::always(text.as_bytes().to_vec(), &format!("env S{at}")));
    SignatureCheck::new(scheme(yaml), secrets.collect(), Some("https://hooks.example.com/in")).unwrap()
}

fn check(yaml: &str) -> SignatureCheck {
    check_with(yaml, &["0123456789abcdef0123"])
}

fn request(body: &[u8]) -> UnsignedRequest {
    UnsignedRequest {
        method: "POST".into(),
        url: "https://hooks.example.com/in".into(),
        headers: Vec::new(),
        body: body.to_vec(),
    }
}

fn signed(check: &SignatureCheck, body: &[u8]) -> UnsignedRequest {
    let mut request = request(body);
    check.sign(&mut request, Now::at_unix(NOW), &SignOptions::default()).unwrap();
    request
}

fn verify_at(check: &SignatureCheck, request: &UnsignedRequest, at: u64) -> Result<Verified, Reason> {
    let now = Now::at_unix(at);
    request
        .with_head(|head| {
            let mut verification = check.begin(head, true, now)?;
            for chunk in request.body.chunks(7) {
                verification.update(chunk);
            }
            verification.finish(head, &request.body, now)
        })
        .unwrap()
        .map_err(|reject| reject.reason)
}

fn verify(check: &SignatureCheck, request: &UnsignedRequest) -> Result<(), Reason> {
    verify_at(check, request, NOW).map(drop)
}

fn begin(check: &SignatureCheck, request: &UnsignedRequest) -> Result<(), Reason> {
    request
        .with_head(|head| check.begin(head, true, Now::at_unix(NOW)).map(drop).map_err(|reject| reject.reason))
        .unwrap()
}

fn header<'r>(request: &'r mut UnsignedRequest, name: &str) -> &'r mut Vec<u8> {
    &mut request.headers.iter_mut().find(|(known, _)| known == name).unwrap().1
}

const PLAIN: &str = r#"{ algorithm: hmac-sha256, from: { header: x-sig, prefix: "sha256=" }, signed: "{body}" }"#;
const TIMED: &str = r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{header:x-id}.{timestamp}.{body}",
                         timestamp: { header: x-time, past: 5m, future: 1m } }"#;
const LISTED: &str = r#"{ algorithm: hmac-sha256, from: { header: x-sig, list: { pairs: ",", assign: "=", key: v1 } },
                          signed: "{field:t}.{body}", timestamp: { field: t, past: 5m } }"#;
const TOKEN: &str = r#"{ algorithm: token, from: { header: x-token } }"#;

#[test]
fn a_signed_request_verifies_and_a_changed_one_does_not() {
    let check = check(PLAIN);
    let mut request = signed(&check, b"\xff\x00not text");
    assert_eq!(verify(&check, &request), Ok(()));
    for body in [&b"\xff\x00not texu"[..], b"\xff\x00not text\n", b"", b"\xef\xbb\xbf\xff\x00not text"] {
        request.body = body.to_vec();
        assert_eq!(verify(&check, &request), Err(Reason::SignatureMismatch));
    }
}

#[test]
fn an_empty_body_is_signed_like_any_other() {
    let check = check(PLAIN);
    assert_eq!(verify(&check, &signed(&check, b"")), Ok(()));
}

#[test]
fn the_head_decides_before_the_body_is_read() {
    let timed = check(TIMED);
    let good = signed(&timed, b"{}");
    for (name, value, reason) in [
        ("x-sig", None, Reason::SignatureMissing),
        ("x-sig", Some("zz"), Reason::SignatureMalformed),
        ("x-time", None, Reason::TimestampInvalid),
        ("x-time", Some("1e9"), Reason::TimestampInvalid),
        ("x-time", Some("1699999699"), Reason::TimestampTooOld),
        ("x-time", Some("1700000061"), Reason::TimestampInFuture),
        ("x-id", None, Reason::SignatureMalformed),
        ("x-id", Some("a.b"), Reason::SignatureMalformed),
    ] {
        let mut request = good.clone();
        request.headers.retain(|(known, _)| known != name);
        request.headers.extend(value.map(|value| (name.to_owned(), value.as_bytes().to_vec())));
        assert_eq!(begin(&timed, &request), Err(reason), "{name} {value:?}");
    }
    let token = check(TOKEN);
    let mut request = signed(&token, b"");
    *header(&mut request, "x-token") = b"wrong".to_vec();
    assert_eq!(begin(&token, &request), Err(Reason::SignatureMismatch));
    let jwt = r#"{ algorithm: jwt, from: { header: x-jwt }, token: { algorithms: [HS256] } }"#;
    let jwt = (check(jwt), signed(&check_with(jwt, &["another-0123456789abcdef"]), b""));
    assert_eq!(begin(&jwt.0, &jwt.1), Err(Reason::SignatureMismatch));
}

/// Whatever of the signed text stands in the head is missed there, though the rest comes with the body.
#[test]
fn a_part_of_the_head_is_missed_before_the_body_is_read() {
    let time = "timestamp: { json: /t, past: 5m }";
    let field = "from: { json: /sig, list: { pairs: \",\", assign: \"=\", key: v1 } }";
    for yaml in [
        "algorithm: hmac-sha256, from: { header: x-sig }, signed: \"{body}.{header:x-id}\"".to_owned(),
        "algorithm: hmac-sha256, from: { header: x-sig }, signed: \"{json:/a}.{header:x-id}\"".to_owned(),
        "algorithm: hmac-sha256, from: { header: x-sig }, signed: \"{body_digest:sha256:hex}.{header:x-id}\""
            .to_owned(),
        format!("algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: \"{{timestamp}}.{{header:x-id}}\", {time}"),
        format!("algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: \"{{json:/t}}.{{header:x-id}}\", {time}"),
    ] {
        let check = check(&format!("{{ {yaml} }}"));
        let mut request = signed(&check, b"{\"a\":\"b\"}");
        assert_eq!((begin(&check, &request), verify(&check, &request)), (Ok(()), Ok(())), "{yaml}");
        request.headers.retain(|(name, _)| name != "x-id");
        assert_eq!(begin(&check, &request), Err(Reason::SignatureMalformed), "{yaml}");
    }
    // Values that are sorted among each other come with the body all the same.
    let sorted = check(r#"{ algorithm: sha1, from: { header: x-sig }, signed: "{sorted:secret,json:/a}" }"#);
    let request = signed(&sorted, b"{\"a\":\"b\"}");
    assert_eq!((begin(&sorted, &request), verify(&sorted, &request)), (Ok(()), Ok(())));
    let listed = check(&format!(
        "{{ algorithm: hmac-sha256, {field}, signed: \"{{field:t}}.{{json:/a}}\", timestamp: {{ field: t }} }}"
    ));
    let request = signed(&listed, b"{\"a\":\"b\"}");
    assert_eq!((begin(&listed, &request), verify(&listed, &request)), (Ok(()), Ok(())));
}

#[test]
fn what_only_the_operator_knows_is_asked_for_by_its_name() {
    let yaml = r#"{ algorithm: jwt, from: { header: x-jwt }, token: { algorithms: [HS256], configured: [aud] } }"#;
    let claim = |name: &str, texts: &[&str]| FixedClaim {
        name: name.into(),
        texts: texts.iter().map(|text| (*text).into()).collect(),
    };
    for (claims, fine) in [
        (vec![claim("aud", &["me"])], true),
        (vec![claim("other", &["me"]), claim("aud", &["me"])], true),
        (vec![claim("aud", &[])], false),
        (vec![claim("other", &["me"])], false),
        (vec![], false),
    ] {
        let secrets = vec![Secret::always(b"0123456789abcdef".to_vec(), "env X")];
        let credentials = Credentials { secrets, claims: claims.clone(), ..Credentials::default() };
        assert_eq!(SignatureCheck::bind(scheme(yaml), credentials).is_ok(), fine, "{claims:?}");
    }
}

#[test]
fn keys_that_the_route_gives_take_the_place_of_published_ones() {
    let jwks = r#"{ algorithm: jwt, from: { header: x-jwt }, keys: { jwks: "https://keys.example.com/" }, token: { algorithms: [ES256] } }"#;
    for given in [false, true] {
        let key = || PublicKeys::parse(test_keys().pairs[0][0].public.as_bytes(), "x").unwrap();
        let public_keys = given.then(key).into_iter().collect();
        let check = SignatureCheck::bind(scheme(jwks), Credentials { public_keys, ..Credentials::default() }).unwrap();
        assert_eq!(check.shelves().count(), usize::from(!given));
    }
}

#[test]
fn a_header_that_stands_twice_is_refused_whichever_is_good() {
    let check = check(TIMED);
    let good = signed(&check, b"{}");
    for (name, reason) in [
        ("x-sig", Reason::SignatureMalformed),
        ("x-id", Reason::SignatureMalformed),
        ("x-time", Reason::TimestampInvalid),
    ] {
        for first in [true, false] {
            let mut request = good.clone();
            let bad = (name.to_uppercase(), b"x".to_vec());
            let same = (name.to_uppercase(), header(&mut request, name).clone());
            for extra in [bad, same] {
                let mut request = request.clone();
                request.headers.insert(if first { 0 } else { request.headers.len() }, extra);
                assert_eq!(verify(&check, &request), Err(reason), "{name}");
            }
        }
    }
}

#[test]
fn both_header_storages_are_read_alike() {
    let check = check(TIMED);
    let request = signed(&check, b"{}");
    let mut map = http::HeaderMap::new();
    for (name, value) in &request.headers {
        map.append(HeaderName::try_from(name.as_str()).unwrap(), http::HeaderValue::from_bytes(value).unwrap());
    }
    let head = Head { method: "POST", path: "/in", query: None, host: "h", headers: Headers::Map(&map) };
    let now = Now::at_unix(NOW);
    assert!(check.begin(&head, true, now).unwrap().finish(&head, b"{}", now).is_ok());
}

#[test]
fn the_time_window_has_two_ends() {
    let check = check(TIMED);
    let request = signed(&check, b"{}");
    assert!(verify_at(&check, &request, NOW + 300).is_ok());
    assert_eq!(verify_at(&check, &request, NOW + 301).unwrap_err(), Reason::TimestampTooOld);
    assert!(verify_at(&check, &request, NOW - 60).is_ok());
    assert_eq!(verify_at(&check, &request, NOW - 61).unwrap_err(), Reason::TimestampInFuture);
}

#[test]
fn a_fresh_time_does_not_fit_an_old_signature() {
    for yaml in [TIMED, LISTED] {
        let check = check(yaml);
        let mut request = signed(&check, b"{}");
        let name = if yaml == TIMED { "x-time" } else { "x-sig" };
        let value = String::from_utf8(header(&mut request, name).clone()).unwrap().replace("1700000000", "1700009000");
        *header(&mut request, name) = value.into_bytes();
        assert_eq!(verify_at(&check, &request, NOW + 9000).unwrap_err(), Reason::SignatureMismatch);
    }
}

#[test]
fn two_times_in_one_signature_are_refused() {
    let check = check(LISTED);
    let mut request = signed(&check, b"{}");
    let value = header(&mut request, "x-sig");
    *value = [b"t=1700000000,", &value[..]].concat();
    assert_eq!(verify(&check, &request), Err(Reason::TimestampInvalid));
}

#[test]
fn one_good_signature_in_a_list_is_enough_and_decoys_never_count() {
    let check = check(LISTED);
    let good = signed(&check, b"{}");
    let value = String::from_utf8(good.headers[0].1.clone()).unwrap();
    let other = "ab".repeat(32);
    for (value, expected) in [
        (format!("{value},v1={other}"), Ok(())),
        (value.replace(",v1=", &format!(",v1={other},v1=")), Ok(())),
        (value.replace(",v1=", ",v1=short,v1="), Ok(())),
        (value.replace(",v1=", &format!(",v1={other},v0=")), Err(Reason::SignatureMismatch)),
        (value.replace(",v1=", ",v0="), Err(Reason::SignatureMalformed)),
        (value.replace(",v1=", &format!("{},v1=", format!(",v1={other}").repeat(15))), Ok(())),
        (value.replace(",v1=", &format!("{},v1=", format!(",v1={other}").repeat(16))), Err(Reason::SignatureMismatch)),
    ] {
        let mut request = good.clone();
        request.headers[0].1 = value.clone().into_bytes();
        assert_eq!(verify(&check, &request), expected, "{value}");
    }
}

#[test]
fn a_body_that_does_not_belong_to_what_was_hashed_is_never_verified() {
    // The last one's time comes with the body, and is no part of the signed text.
    let late =
        r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{body}", timestamp: { json: /t, past: 5m } }"#;
    for yaml in [PLAIN, TIMED, LISTED, late] {
        let check = check(yaml);
        let request = signed(&check, b"{}");
        request
            .with_head(|head| {
                let now = Now::at_unix(NOW);
                let mut verification = check.begin(head, true, now).unwrap();
                verification.update(b"hashed");
                let other: &[u8] = if yaml == late { br#"{"t":1700000000,"a":1}"# } else { b"other bytes" };
                assert_eq!(verification.finish(head, other, now).unwrap_err().reason, Reason::Internal, "{yaml}");
                // Without any update the whole body is hashed at the end.
                let verification = check.begin(head, true, now).unwrap();
                assert!(verification.finish(head, &request.body, now).is_ok(), "{yaml}");
            })
            .unwrap();
    }
}

#[test]
fn every_active_secret_is_tried_and_no_other() {
    let secret = |text: &str, from, until| Secret { from, until, ..Secret::always(text.as_bytes().to_vec(), text) };
    let now = i64::try_from(NOW).unwrap();
    let check = SignatureCheck::new(
        scheme(PLAIN),
        vec![
            secret("expired-0123456789", None, Some(now)),
            secret("old-0123456789abcdef", None, Some(now + 1)),
            secret("new-0123456789abcdef", Some(now), None),
            secret("future-0123456789", Some(now + 1), None),
        ],
        None,
    )
    .unwrap();
    for (text, expected) in [
        ("expired-0123456789", Err(Reason::SignatureMismatch)),
        ("old-0123456789abcdef", Ok(())),
        ("new-0123456789abcdef", Ok(())),
        ("future-0123456789", Err(Reason::SignatureMismatch)),
    ] {
        assert_eq!(verify(&check, &signed(&check_with(PLAIN, &[text]), b"x")), expected, "{text}");
    }
    assert!(check.has_active_secret(Now::at_unix(NOW)));
    let request = signed(&check, b"x");
    assert_eq!(verify_at(&check, &request, NOW).unwrap().content().len(), 2);
    assert_eq!(verify_at(&check, &request, NOW + 1).unwrap_err(), Reason::SignatureMismatch);
}

#[test]
fn without_a_secret_that_counts_now_nothing_passes() {
    let secret = Secret { until: Some(10), ..Secret::always(b"0123456789abcdef".to_vec(), "env X") };
    for yaml in [PLAIN, TOKEN] {
        let check = SignatureCheck::new(scheme(yaml), vec![secret.clone()], None).unwrap();
        assert!(!check.has_active_secret(Now::at_unix(NOW)));
        assert_eq!(begin(&check, &request(b"")), Err(Reason::SecretMissing));
    }
}

#[test]
fn secrets_that_cannot_be_meant_are_refused_without_being_shown() {
    let base64 = r#"{ algorithm: hmac-sha256, key: { encoding: base64, strip_prefix: whsec_ }, from: { header: x }, signed: "{body}" }"#;
    let hex = r#"{ algorithm: hmac-sha256, key: { encoding: hex }, from: { header: x }, signed: "{body}" }"#;
    for (yaml, text, what) in [
        (PLAIN, "", "empty"),
        (PLAIN, " \t\n", "white space"),
        (PLAIN, "${SECRET_NAME}", "not substituted"),
        (PLAIN, "{{ secret_name }}", "not substituted"),
        (PLAIN, "$(SECRET_NAME)", "not substituted"),
        (TOKEN, "", "empty"),
        (base64, "whsec_", "empty behind"),
        (base64, "whsec_topsecret!", "not base64"),
        (hex, "topsecret", "not hex"),
    ] {
        let secret = Secret::always(text.as_bytes().to_vec(), "env MY_SECRET");
        let errors = SignatureCheck::new(scheme(yaml), vec![secret], None).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains("env MY_SECRET") && errors[0].contains(what), "{text}: {errors:?}");
        assert!(!errors[0].contains("topsecret") && !errors[0].contains("SECRET_NAME"), "{errors:?}");
    }
    assert!(SignatureCheck::new(scheme(PLAIN), vec![], None).is_err());
    for fine in ["${a secret", "a secret}", "{{a secret}", "$(a secret", "a secret)"] {
        assert!(SignatureCheck::new(scheme(PLAIN), vec![Secret::always(fine.into(), "env X")], None).is_ok(), "{fine}");
    }
}

#[test]
fn short_secrets_are_a_warning() {
    assert!(check_with(PLAIN, &["0123456789abcdef"]).warnings().is_empty());
    let warnings = check_with(PLAIN, &["0123456789abcde"]);
    assert!(warnings.warnings()[0].contains("env S0") && !warnings.warnings()[0].contains("0123456789"));
}

#[test]
fn the_prefix_of_a_secret_means_what_the_scheme_says() {
    let text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let stripped = r#"{ algorithm: hmac-sha256, key: { encoding: base64, strip_prefix: whsec_ }, from: { header: x-sig, prefix: "sha256=" }, signed: "{body}" }"#;
    let with = check_with(stripped, &[text]);
    assert_eq!(verify(&with, &signed(&check_with(stripped, &[&text[6..]]), b"x")), Ok(()));
    assert_eq!(verify(&with, &signed(&check_with(PLAIN, &[text]), b"x")), Err(Reason::SignatureMismatch));
}

#[test]
fn a_sender_that_signs_the_url_needs_a_public_url() {
    let yaml = r#"{ algorithm: hmac-sha256, from: { header: x }, signed: "{url}{body}" }"#;
    let secrets = || vec![Secret::always(b"0123456789abcdef".to_vec(), "env X")];
    assert!(scheme(yaml).needs_public_url() && !scheme(PLAIN).needs_public_url());
    assert!(SignatureCheck::new(scheme(yaml), secrets(), None).unwrap_err()[0].contains("public_url"));
    assert!(
        SignatureCheck::new(scheme(yaml), secrets(), Some("hooks.example.com")).unwrap_err()[0].contains("public_url")
    );
    assert!(
        SignatureCheck::new(scheme(yaml), secrets(), Some("https://hooks.example.com")).unwrap().needs_public_url()
    );
    assert!(!check(PLAIN).needs_public_url());
}

#[test]
fn content_is_one_mac_for_each_active_secret_and_nothing_for_tokens() {
    let two = check_with(PLAIN, &["0123456789abcdef0", "0123456789abcdef1"]);
    let first = signed(&check_with(PLAIN, &["0123456789abcdef0"]), b"x");
    let second = signed(&check_with(PLAIN, &["0123456789abcdef1"]), b"x");
    let content = |request: &UnsignedRequest| verify_at(&two, request, NOW).unwrap().content().to_vec();
    assert_ne!(content(&first), content(&signed(&two, b"y")));
    // The same bytes are the same content whichever secret signed them.
    assert_eq!(content(&first), content(&second));
    assert_eq!(content(&first).len(), 2);
    let token = check(TOKEN);
    assert!(verify_at(&token, &signed(&token, b"x"), NOW).unwrap().content.is_empty());
    let sha1 = check(r#"{ algorithm: hmac-sha1, from: { header: x-sig }, signed: "{body}" }"#);
    let content = verify_at(&sha1, &signed(&sha1, b"x"), NOW).unwrap().content;
    assert!(content[0][..20] != [0; 20] && content[0][20..] == [0; 12]);
    // Two spellings of the signed text are tried, one stands for the request.
    let ports = check(r#"{ algorithm: hmac-sha1, from: { header: x-sig }, signed: "{url:twilio}{body}" }"#);
    assert_eq!(verify_at(&ports, &signed(&ports, b"x"), NOW).unwrap().content.len(), 1);
}

/// Whatever its signature leaves open: otherwise a copy would be forwarded again for each spelling.
#[test]
fn a_copy_that_is_spelled_otherwise_has_the_same_content() {
    for (signed_text, first, copies, other) in [
        ("{url:twilio}{body}", ("?a=x%20y", "x"), [("?a=x+y", "x"), ("?a=x%20y", "x")], ("?a=x+z", "x")),
        ("{any_case:query:id}.{body}", ("?id=ab-c", "x"), [("?id=AB-C", "x"), ("?id=aB-c", "x")], ("?id=AB-D", "x")),
        ("{form_pairs:-sign,-type?}", ("", "a=1"), [("", "a=1&type=t"), ("", "type=u&a=1")], ("", "a=1&kind=t")),
    ] {
        for algorithm in ["hmac-sha1", "ed25519"] {
            let yaml = format!("{{ algorithm: {algorithm}, from: {{ header: x-sig }}, signed: \"{signed_text}\" }}");
            let check = check_with_all(&scheme(&yaml), "0123456789abcdef0123", 0);
            let spelled = |mut request: UnsignedRequest, (query, body): (&str, &str)| {
                request.url = format!("https://hooks.example.com/in{query}");
                request.body = body.into();
                request
            };
            let mut request = spelled(request(b""), first);
            sign_with_any(&check, &mut request, &SignOptions::default(), 0).unwrap();
            let content = |request: &UnsignedRequest| verify_at(&check, request, NOW).unwrap().content;
            for copy in copies {
                let copied = spelled(request.clone(), copy);
                assert_eq!(content(&copied), content(&request), "{signed_text} {algorithm} {copy:?}");
            }
            let other = spelled(request, other);
            assert_eq!(verify(&check, &other), Err(Reason::SignatureMismatch), "{signed_text} {algorithm}");
        }
    }
}

#[test]
fn whichever_spelling_is_signed_a_request_has_one_content() {
    for (signed_text, spellings, query, body) in [
        ("{url:twilio}{body}", ["{url}{body}", "https://hooks.example.com:443/in?a=b{body}"], "?a=b", "x"),
        ("{any_case:query:id}.{body}", ["{query:id}.{body}", "ab-c.{body}"], "?id=AB-C", "x"),
        ("{form_pairs:-sign,-type?}", ["{form_pairs:-sign}", "{form_pairs:-sign,-type}"], "", "a=1&type=t"),
    ] {
        for algorithm in ["hmac-sha1", "ed25519"] {
            let over = |signed_text: &str| {
                let rest = format!("from: {{ header: x-sig }}, signed: \"{signed_text}\"");
                check_with_all(&scheme(&format!("{{ algorithm: {algorithm}, {rest} }}")), "0123456789abcdef0123", 0)
            };
            let requests = spellings.map(|spelling| {
                let mut request = request(body.as_bytes());
                request.url += query;
                sign_with_any(&over(spelling), &mut request, &SignOptions::default(), 0).unwrap();
                request
            });
            assert_ne!(requests[0].headers, requests[1].headers, "{signed_text} {algorithm}");
            let [one, other] = requests.map(|request| verify_at(&over(signed_text), &request, NOW).unwrap().content);
            assert_eq!(one, other, "{signed_text} {algorithm}");
        }
    }
}

#[test]
fn every_spelling_of_a_url_is_tried_with_every_secret() {
    for signed_text in ["{url:twilio}{body}", "{body}{url:twilio}"] {
        let yaml = format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: {signed_text:?} }}");
        let check = check_with(&yaml, &["0123456789abcdef0", "0123456789abcdef1"]);
        for (query, spelled) in [("", ""), ("", ":443"), ("?a='", "?a=%27"), ("?a=%7E", "?a=~")] {
            for secret in ["0123456789abcdef0", "0123456789abcdef1"] {
                let (port, spelled) = if spelled.starts_with(':') { (spelled, query) } else { (":443", spelled) };
                for port in ["", port] {
                    let url = format!("https://hooks.example.com{port}/in{spelled}");
                    let text = signed_text.replace("{url:twilio}", &url).replace("{body}", "x");
                    let mut request = request(b"x");
                    request.url += query;
                    let key = mac::HmacKeys::new(std::iter::once(Hash::Sha256), secret.as_bytes()).unwrap();
                    let tag = key.mac(Hash::Sha256, text.as_bytes()).unwrap();
                    request.headers.push(("x-sig".into(), hex::encode(tag.as_bytes()).into_bytes()));
                    assert_eq!(verify(&check, &request), Ok(()), "{text} {secret}");
                }
            }
        }
    }
}

#[test]
fn a_secret_within_the_text_is_hashed_where_it_stands() {
    let secret = "0123456789abcdef0123";
    for (algorithm, signed_text) in
        [("hmac-sha256", "{secret}.{body}"), ("hmac-sha256", "{body}"), ("sha256", "{body}{secret}")]
    {
        let check = check(&format!("{{ algorithm: {algorithm}, from: {{ header: x-sig }}, signed: {signed_text:?} }}"));
        let text = signed_text.replace("{secret}", secret).replace("{body}", "x");
        let key = mac::HmacKeys::new(std::iter::once(Hash::Sha256), secret.as_bytes()).unwrap();
        let tag = match algorithm {
            "sha256" => Hash::Sha256.digest(text.as_bytes()),
            _ => key.mac(Hash::Sha256, text.as_bytes()).unwrap(),
        };
        let mut request = request(b"x");
        request.headers.push(("x-sig".into(), hex::encode(tag.as_bytes()).into_bytes()));
        assert_eq!(verify(&check, &request), Ok(()), "{algorithm} {signed_text}");
    }
}

#[test]
fn only_a_token_that_is_bound_to_its_body_names_an_event() {
    for (rest, names) in [
        ("payload: body", true),
        ("claims: [{ name: d, body_digest: { hash: sha256, encoding: hex } }]", true),
        ("claims: [{ name: u, url: true }]", false),
        ("require: [exp]", false),
    ] {
        let check = check(&format!(
            "{{ algorithm: jwt, from: {{ header: x-jwt }}, token: {{ algorithms: [HS256], {rest} }} }}"
        ));
        let request = signed(&check, b"{}");
        assert_eq!(verify_at(&check, &request, NOW).unwrap().content().len(), usize::from(names), "{rest}");
    }
}

/// Which headers of a request count is the request's own matter, but not that the needed ones are among them, nor where
/// one value ends and the next begins.
#[test]
fn headers_that_a_request_names_as_signed_stand_apart() {
    let yaml = r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{signed_headers}.{body}",
        signed_headers: { header: x-signed, separator: ";", join: "|", require: [x-a] } }"#;
    let check = check(yaml);
    let many = (0..33).map(|at| format!("h{at}")).collect::<Vec<_>>();
    let all = |count: usize| {
        ["x-a".to_owned()].into_iter().chain(many[..count].iter().cloned()).collect::<Vec<_>>().join(";")
    };
    for (names, a, b, fine) in [
        ("x-a", "1", "2", true),
        ("x-a;x-b", "1", "2", true),
        ("x-b;x-a", "1", "2", true),
        ("x-b", "1", "2", false),
        ("", "1", "2", false),
        ("x-a;x-a", "1", "2", false),
        ("x-a;X-A", "1", "2", false),
        ("x-a;x-b;x-b", "1", "2", false),
        ("x-a;x-c", "1", "2", false),
        ("x-a;x-b", "1|2", "3", false),
        ("x-b;x-a", "1", "2|3", false),
        // The last one ends with the text.
        ("x-a;x-b", "1", "2|3", true),
        ("x-a", "1|2", "3", true),
        (&*all(31), "1", "2", true),
        (&*all(32), "1", "2", false),
    ] {
        let mut request = request(b"x");
        let mut values = vec![("x-signed", names), ("x-a", a), ("x-b", b)];
        values.extend(many.iter().map(|name| (&**name, "v")));
        request.headers =
            values.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect();
        let text: Vec<&str> = names
            .split(';')
            .map(|name| match &*name.to_ascii_lowercase() {
                "x-a" => a,
                "x-b" => b,
                _ => "v",
            })
            .collect();
        let key = mac::HmacKeys::new(std::iter::once(Hash::Sha256), b"0123456789abcdef0123").unwrap();
        let tag = key.mac(Hash::Sha256, format!("{}.x", text.join("|")).as_bytes()).unwrap();
        request.headers.push(("x-sig".into(), hex::encode(tag.as_bytes()).into_bytes()));
        let verdict = verify(&check, &request);
        assert_eq!(verdict, if fine { Ok(()) } else { Err(Reason::SignatureMalformed) }, "{names} {a} {b}");
    }
}

#[test]
fn tokens_are_compared_whole_wherever_they_stand() {
    for yaml in [
        TOKEN,
        r#"{ algorithm: token, from: { header: authorization, prefix: "Bearer " } }"#,
        r#"{ algorithm: token, from: { query: token } }"#,
        r#"{ algorithm: token, from: { form: token } }"#,
        r#"{ algorithm: basic }"#,
    ] {
        let good = check_with(yaml, &["user:0123456789abcdef"]);
        let request = signed(&good, b"");
        assert_eq!(verify(&good, &request), Ok(()), "{yaml}");
        for other in ["user:0123456789abcde", "user:0123456789abcdef0", "User:0123456789abcdef"] {
            let request = signed(&check_with(yaml, &[other]), b"");
            assert_eq!(verify(&good, &request), Err(Reason::SignatureMismatch), "{yaml} {other}");
        }
    }
    let json = check(r#"{ algorithm: token, from: { json: /auth } }"#);
    assert_eq!(verify(&json, &signed(&json, b"{\"a\":1}")), Ok(()));
    assert_eq!(verify(&json, &request(b"{\"a\":1}")), Err(Reason::SignatureMissing));
    let basic = check(r#"{ algorithm: basic }"#);
    let mut request = signed(&basic, b"");
    let value = String::from_utf8(header(&mut request, "authorization").clone()).unwrap();
    *header(&mut request, "authorization") = value.replace("Basic ", "bAsIc ").into_bytes();
    assert_eq!(verify(&basic, &request), Ok(()));
    *header(&mut request, "authorization") = b"Basic".to_vec();
    assert_eq!(verify(&basic, &request), Err(Reason::SignatureMalformed));
}

#[test]
fn a_better_proof_is_never_judged_by_the_weaker_one() {
    let yaml = r#"
any_of:
  - { name: strong, when: { header: x-strong }, algorithm: hmac-sha256, from: { header: x-strong }, signed: "{body}" }
  - { name: weak, when: { header: x-version, is: "1" }, algorithm: sha256, from: { header: x-weak }, signed: "{secret}{body}" }
"#;
    let check = check(yaml);
    let with = |variant: &str| {
        let mut request = request(b"x");
        let options = SignOptions { variant: Some(variant.into()), ..SignOptions::default() };
        check.sign(&mut request, Now::at_unix(NOW), &options).unwrap();
        request
    };
    assert_eq!(verify(&check, &with("strong")), Ok(()));
    assert_eq!(verify(&check, &with("weak")), Ok(()));
    let mut both = with("weak");
    both.headers.push(("x-strong".into(), b"ab".repeat(32)));
    assert_eq!(verify(&check, &both), Err(Reason::SignatureMismatch));
    *header(&mut both, "x-strong") = b"".to_vec();
    assert_eq!(verify(&check, &both), Err(Reason::SignatureMalformed));
    let mut neither = with("weak");
    *header(&mut neither, "x-version") = b"2".to_vec();
    assert_eq!(verify(&check, &neither), Err(Reason::SignatureMissing));
    // A route can give the weaker one up.
    let only = scheme(yaml).only(&["strong"]).unwrap();
    let only = SignatureCheck::new(only, vec![Secret::always(b"0123456789abcdef0123".to_vec(), "x")], None).unwrap();
    assert_eq!(verify(&only, &with("strong")), Ok(()));
    assert_eq!(verify(&only, &with("weak")), Err(Reason::SignatureMissing));
    assert_eq!(scheme(yaml).only(&["nope"]), Err("nope"));
}

#[test]
fn requirements_hold_besides_the_signature() {
    let yaml = r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{header:digest}",
        require: [ { header: digest, body_digest: { hash: sha256, encoding: base64 } }, { header: x-kind, is: event } ] }"#;
    let check = check(yaml);
    let good = signed(&check, b"x");
    assert_eq!(verify(&check, &good), Ok(()));
    let mut body = good.clone();
    body.body = b"y".to_vec();
    assert_eq!(verify(&check, &body), Err(Reason::SignatureMismatch));
    let mut kind = good.clone();
    *header(&mut kind, "x-kind") = b"other".to_vec();
    assert_eq!(begin(&check, &kind), Err(Reason::SignatureMismatch));
    kind.headers.retain(|(name, _)| name != "x-kind");
    assert_eq!(begin(&check, &kind), Err(Reason::SignatureMalformed));
}

#[test]
fn what_the_signature_covers_is_known() {
    let source = |text: &str| Source::parse(text).unwrap();
    for (yaml, covered, open) in [
        (PLAIN, vec!["json:/id", "form:id"], vec!["header:x-id", "query:id", "header:x-sig"]),
        (TIMED, vec!["json:/id", "header:x-id", "header:x-time"], vec!["query:id", "header:x-other"]),
        (TOKEN, vec![], vec!["json:/id", "header:x-token"]),
        (
            r#"{ algorithm: hmac-sha1, from: { header: x }, signed: "{url}{form_sorted}" }"#,
            vec!["query:id", "form:id"],
            vec!["json:/id"],
        ),
        (
            r#"{ algorithm: hmac-sha1, from: { header: x }, signed: "{public_url}{body}" }"#,
            vec!["json:/id"],
            vec!["query:id"],
        ),
        (
            r#"{ algorithm: hmac-sha1, from: { header: x }, signed: "{url}", require: [ { query: h, body_digest: { hash: sha256, encoding: hex } } ] }"#,
            vec!["query:h", "json:/id"],
            vec!["header:x"],
        ),
        (
            r#"{ algorithm: hmac-sha256, from: { json: /sig }, each: /items/*, signed: "{json:/id}{json:/b?}" }"#,
            vec!["json:/items/*/id", "json:/items/*/b"],
            vec!["json:/id", "json:/items/*/c", "json:/items/*id", "header:x-id"],
        ),
        (
            r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{header:x-kind}",
                 require: [ { header: x-kind, is: event }, { header: x-other, body_digest: { hash: sha256, encoding: hex } } ] }"#,
            vec!["header:x-kind"],
            vec!["json:/id", "form:id", "header:x-other"],
        ),
        (
            r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{json:/id}:{open:json:/b?}:{json:/c}" }"#,
            vec!["json:/id", "json:/b", "json:/c"],
            vec!["json:/x", "header:b"],
        ),
        (
            r#"{ algorithm: hmac-sha256, from: { form: sig }, signed: "{form_pairs:-sig}" }"#,
            vec!["form:id"],
            vec!["form:sig", "json:/id"],
        ),
        (
            r#"{ algorithm: jwt, from: { header: x-jwt }, token: { algorithms: [HS256] } }"#,
            vec!["header:x-jwt|jwt:/jti"],
            vec!["header:x-jwt", "query:id", "json:/id", "header:x-other|jwt:/jti"],
        ),
        (
            r#"{ algorithm: jwt, from: { header: x-jwt }, token: { algorithms: [HS256], claims: [{ name: u, url: true }] } }"#,
            vec!["query:id"],
            vec!["header:x-id", "json:/id"],
        ),
        (
            r#"{ algorithm: jwt, from: { header: x-jwt }, token: { algorithms: [HS256], payload: body } }"#,
            vec!["json:/id", "form:id"],
            vec!["header:x-id", "query:id"],
        ),
        (
            r#"{ algorithm: http-message-signature, message: { algorithm: hmac-sha256, require: ["@query", x-id] } }"#,
            vec!["query:id", "header:x-id"],
            vec!["json:/id", "header:x-other"],
        ),
        (
            r#"{ algorithm: http-message-signature, message: { algorithm: hmac-sha256, require: [content-digest] } }"#,
            vec!["json:/id"],
            vec!["query:id", "header:x-id"],
        ),
        (
            r#"{ algorithm: hmac-sha1, from: { json: /sig }, signed: "{json:/id}" }"#,
            vec!["json:/id"],
            vec!["json:/other"],
        ),
    ] {
        let scheme = scheme(yaml);
        covered.iter().for_each(|text| assert!(scheme.covers(&source(text)), "{yaml} {text}"));
        open.iter().for_each(|text| assert!(!scheme.covers(&source(text)), "{yaml} {text}"));
        let check = check(yaml);
        let all = covered.iter().chain(&open).map(|text| check.covers(&source(text)));
        assert_eq!(all.filter(|covered| *covered).count(), covered.len(), "{yaml}");
        assert_eq!(check.covers_body(), scheme.covers_body(), "{yaml}");
    }
    let digest = r#"{ algorithm: hmac-sha1, from: { header: x }, signed: "{header:h}", require: [ { header: h, body_digest: { hash: sha256, encoding: hex } } ] }"#;
    let member = r#"{ algorithm: hmac-sha1, from: { json: /sig }, signed: "{json:/id}" }"#;
    let each = r#"{ algorithm: hmac-sha1, from: { json: /sig }, each: /items/*, signed: "{json:/id}" }"#;
    for (yaml, whole) in [(PLAIN, true), (TIMED, true), (digest, true), (TOKEN, false), (member, false), (each, false)]
    {
        assert_eq!(check(yaml).covers_body(), whole, "{yaml}");
    }
}

#[test]
fn a_signature_over_nothing_but_a_time_names_no_event() {
    let time = "timestamp: { header: x-time }";
    for (signed_text, rest, names) in [
        ("{timestamp}", time, false),
        ("v0:{header:x-time}", time, false),
        ("{timestamp}{header:x-id}", time, true),
        ("{timestamp}{body}", time, true),
        ("{header:x-time}", "name: none", true),
    ] {
        let check =
            check(&format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: {signed_text:?}, {rest} }}"));
        let request = signed(&check, b"{}");
        assert_eq!(verify_at(&check, &request, NOW).unwrap().content().len(), usize::from(names), "{signed_text}");
    }
}

#[test]
fn a_scheme_says_what_a_route_needs_for_it() {
    let jwks = r#"{ algorithm: jwt, from: { header: a }, keys: { jwks: "https://keys.example.com/" }, token: { algorithms: [ES256] } }"#;
    let public = r#"{ algorithm: ed25519, from: { header: a }, signed: "{body}" }"#;
    let message = r#"{ algorithm: http-message-signature, message: { algorithm: ed25519, require: ["@authority", x-id], past: 5m, future: 1m } }"#;
    let setting = r#"{ algorithm: hmac-sha256, from: { header: a }, signed: "{setting:id}{inflated_body}" }"#;
    for (yaml, secrets, public_keys, takes, token, url) in [
        (PLAIN, true, false, false, false, false),
        (TOKEN, true, false, false, false, false),
        (jwks, false, false, true, true, false),
        (public, false, true, true, false, false),
        (message, false, true, true, false, true),
        (setting, true, false, false, false, false),
    ] {
        let scheme = scheme(yaml);
        let needs = (scheme.needs_secrets(), scheme.needs_public_keys(), scheme.takes_public_keys());
        assert_eq!(needs, (secrets, public_keys, takes), "{yaml}");
        assert_eq!(
            (scheme.has_token(), scheme.needs_public_url(), scheme.brings_keys()),
            (token, url, false),
            "{yaml}"
        );
    }
    let brings = provider::all().iter().filter(|provider| provider.scheme.brings_keys());
    assert_eq!(brings.map(|provider| provider.id).collect::<Vec<_>>(), ["apple-app-store"]);
    let names = |yaml: &str| scheme(yaml).headers().iter().map(HeaderName::to_string).collect::<Vec<_>>();
    assert_eq!(names(message), ["signature-input", "signature", "content-digest", "x-id"]);
    assert_eq!(names(setting), ["a", "content-encoding"]);
    assert_eq!(scheme(message).replay_window(), Some(Duration::from_secs(360)));
    let secrets = || vec![Secret::always(b"0123456789abcdef".to_vec(), "env X")];
    for (settings, fine) in
        [(vec![("id", "a")], true), (vec![("id", " ")], false), (vec![("other", "a")], false), (vec![], false)]
    {
        let settings = settings.into_iter().map(|(name, text)| (name.into(), text.into())).collect();
        let bound = SignatureCheck::bind(
            scheme(setting),
            Credentials { secrets: secrets(), settings, ..Credentials::default() },
        );
        assert_eq!(bound.is_ok(), fine);
    }
    for (algorithm, text) in [
        (Algorithm::Hmac(Hash::Sha256), "hmac-sha256"),
        (Algorithm::Digest(Hash::Sha1), "sha1"),
        (Algorithm::Public(keys::PublicAlgorithm::Ed25519), "ed25519"),
    ] {
        assert_eq!(algorithm.to_string(), text);
    }
    let redacted = mac::HmacKeys::new(std::iter::once(Hash::Sha256), b"0123456789abcdef").unwrap();
    assert_eq!(format!("{redacted:?}"), "[redacted]");
}

#[test]
fn the_scheme_names_its_headers_and_its_window() {
    let check = check(TIMED);
    let mut names: Vec<_> = check.headers().iter().map(HeaderName::to_string).collect();
    names.sort();
    assert_eq!(names, ["x-id", "x-sig", "x-time"]);
    assert_eq!(check.replay_window(), Some(Duration::from_secs(360)));
    assert_eq!(scheme(PLAIN).replay_window(), None);
}

#[test]
fn signatures_and_times_in_the_body_are_judged_at_the_end() {
    let yaml = r#"{ algorithm: hmac-sha256, from: { json: /sig }, signed: "{timestamp}{json:/token}",
                    timestamp: { json: /time, past: 5m } }"#;
    let check = check(yaml);
    let request = signed(&check, br#"{"token":"t"}"#);
    assert_eq!(begin(&check, &request), Ok(()));
    assert_eq!(verify(&check, &request), Ok(()));
    assert_eq!(verify_at(&check, &request, NOW + 301).unwrap_err(), Reason::TimestampTooOld);
    let mut twice = request.clone();
    let body = String::from_utf8(twice.body).unwrap();
    twice.body = body.replacen('{', r#"{"token":"t","#, 1).into_bytes();
    assert_eq!(verify(&check, &twice), Err(Reason::SignatureMalformed));
    let mut no_json = request.clone();
    no_json.body = b"[".to_vec();
    assert_eq!(verify(&check, &no_json), Err(Reason::SignatureMalformed));
}

#[test]
fn parts_behind_the_body_are_hashed_at_the_end() {
    let yaml = r#"{ algorithm: hmac-sha512, from: { header: x-sig, encoding: base64 }, signed: "{method}{url}{body}{timestamp}|{path}?{query}",
                    timestamp: { header: x-time, unit: milliseconds } }"#;
    let check = check(yaml);
    let mut request = request(b"body");
    request.url = "https://hooks.example.com/in?a=1".into();
    check.sign(&mut request, Now::at_unix(NOW), &SignOptions::default()).unwrap();
    assert_eq!(verify(&check, &request), Ok(()));
    let mut query = request.clone();
    query.url = "https://hooks.example.com/in?a=2".into();
    assert_eq!(verify(&check, &query), Err(Reason::SignatureMismatch));
    request.method = "PUT".into();
    assert_eq!(verify(&check, &request), Err(Reason::SignatureMismatch));
}

#[test]
fn explaining_shows_each_step_and_never_a_secret_or_an_expected_signature() {
    for yaml in [TIMED, TOKEN, r#"{ algorithm: sha256, from: { header: x-sig }, signed: "{secret}{body}" }"#] {
        let check = check(yaml);
        let good = signed(&check, b"hello");
        let mut bad = good.clone();
        bad.body = b"hellp".to_vec();
        let expected = verify_at(&check, &good, NOW).unwrap().content;
        for (request, at) in [(&good, NOW), (&bad, NOW), (&good, NOW + 1000)] {
            let steps = request.with_head(|head| check.explain(head, &request.body, true, Now::at_unix(at))).unwrap();
            let ok = verify_at(&check, request, at).is_ok();
            assert_eq!(steps.last().map(|step| step.ok), Some(ok), "{steps:?}");
            let text = format!("{steps:?}");
            assert!(!text.contains("0123456789abcdef0123"), "{text}");
            // The text differs where the body was changed, so what would be right for it must not show either.
            assert!(expected.iter().all(|mac| !text.contains(&hex::encode(mac))), "{text}");
        }
    }
    let check = check(TIMED);
    let request = signed(&check, b"hello");
    let steps = request.with_head(|head| check.explain(head, &request.body, true, Now::at_unix(NOW + 1000))).unwrap();
    let names: Vec<_> = steps.iter().map(|step| (step.name, step.ok)).collect();
    assert_eq!(
        names,
        [
            ("scheme", true),
            ("secrets", true),
            ("signature", true),
            ("timestamp", false),
            ("signed", true),
            ("match", true),
            ("verdict", false)
        ]
    );
}

#[test]
fn every_kind_of_proof_is_explained_step_by_step() {
    let steps = |check: &SignatureCheck, request: &UnsignedRequest, at: u64| {
        request.with_head(|head| check.explain(head, &request.body, true, Now::at_unix(at))).unwrap()
    };
    let jwt = |algorithm: &str| {
        format!("{{ algorithm: jwt, from: {{ header: x-jwt }}, token: {{ algorithms: [{algorithm}] }} }}")
    };
    let message = |algorithm: &str| {
        format!(
            "{{ algorithm: http-message-signature, message: {{ algorithm: {algorithm}, require: [\"@method\", content-digest] }} }}"
        )
    };
    let public = "{ algorithm: ed25519, from: { header: x-sig }, signed: \"{body}\" }";
    let base = &["signature", "match"][..];
    for (yaml, kind, word, inside) in [
        (TOKEN, "shared secret", "secret", base),
        (PLAIN, "hmac-sha256", "secret", &["signature", "signed", "match"]),
        (&*jwt("HS256"), "token", "secret", &["signature", "signed", "match", "require"]),
        (&*jwt("ES256"), "token", "key", &["signature", "signed", "match", "require"]),
        (
            &*message("hmac-sha256"),
            "http message signature, hmac-sha256",
            "secret",
            &["signature", "timestamp", "signed", "require", "match"],
        ),
        (
            &*message("ed25519"),
            "http message signature, ed25519",
            "key",
            &["signature", "timestamp", "signed", "require", "match"],
        ),
        (public, "ed25519", "key", &["signature", "signed", "match"]),
    ] {
        let check = check_with_all(&scheme(yaml), "0123456789abcdef0123", 0);
        let other = check_with_all(&scheme(yaml), "3210fedcba9876543210", 1);
        let mut request = request(b"{}");
        sign_with_any(&check, &mut request, &SignOptions::default(), 0).unwrap();
        let good = steps(&check, &request, NOW);
        let names: Vec<&str> = good.iter().map(|step| step.name).collect();
        let mut expected = vec!["scheme", if word == "key" { "keys" } else { "secrets" }];
        expected.extend(inside);
        expected.push("verdict");
        assert_eq!(names, expected, "{yaml}");
        assert!(good.iter().all(|step| step.ok), "{good:?}");
        let detail =
            |steps: &[Step], name: &str| steps.iter().find(|step| step.name == name).unwrap().detail.to_string();
        assert_eq!(detail(&good, "scheme"), kind);
        let origin = if word == "key" { "x" } else { "env X" };
        assert_eq!(detail(&good, "match"), format!("the {word} from {origin}"));
        let bad = steps(&other, &request, NOW);
        let wrong: Vec<&str> = bad.iter().filter(|step| !step.ok).map(|step| step.name).collect();
        assert_eq!(wrong, ["match", "verdict"], "{yaml}");
        assert_eq!(detail(&bad, "match"), format!("none of the {word}s"), "{yaml}");
    }
    let detail = |steps: &[Step], name: &str| {
        steps.iter().find(|step| step.name == name).map(|step| (step.ok, step.detail.to_string()))
    };
    // How old, how much of the text, which key.
    let timed = check(TIMED);
    let aged = steps(&timed, &signed(&timed, b"x"), NOW + 10);
    assert_eq!(detail(&aged, "timestamp"), Some((true, "1700000000 is 10 s old".into())));
    for (length, cut) in [(60, false), (61, true)] {
        let check = check(PLAIN);
        let shown = detail(&steps(&check, &signed(&check, &vec![b'a'; length]), NOW), "signed").unwrap().1;
        assert!(shown.ends_with(&format!(": {}{}", "a".repeat(60), if cut { "…" } else { "" })), "{shown}");
    }
    let ended = Secret { until: Some(10), ..Secret::always(b"0123456789abcdef0123".to_vec(), "env X") };
    let ended = SignatureCheck::new(scheme(PLAIN), vec![ended], None).unwrap();
    let late = steps(&ended, &signed(&check(PLAIN), b"x"), NOW);
    assert_eq!(detail(&late, "secrets"), Some((false, "0 of 1 valid now".into())));
    assert_eq!(detail(&late, "match"), Some((false, "only the secret from env X, which is not valid now".into())));
    let es256 = check_with_all(&scheme(&jwt("ES256")), "0123456789abcdef0123", 0);
    let mut token = request(b"");
    sign_with_any(&es256, &mut token, &SignOptions { key_id: Some("k".into()), ..SignOptions::default() }, 0).unwrap();
    let bound = |yaml: &str, public_keys: Vec<PublicKeys>| {
        SignatureCheck::bind(scheme(yaml), Credentials { public_keys, ..Credentials::default() }).unwrap()
    };
    let named = |id: &str| {
        test_keys().pairs[1]
            .iter()
            .map(|pair| PublicKeys::parse(pair.public.as_bytes(), "x").unwrap().named(id))
            .collect()
    };
    let fetched = jwt("ES256").replace("token:", "keys: { jwks: \"https://explained.example/keys\" }, token:");
    for (check, what) in [
        (bound(&jwt("ES256"), named("k")), "none of the keys"),
        (bound(&jwt("ES256"), named("other")), "the request names the key k, and none of the keys is called that"),
        (bound(&fetched, vec![]), "no key is at hand"),
    ] {
        let (ok, text) = detail(&steps(&check, &token, NOW), "match").unwrap();
        assert!(!ok && text.starts_with(what), "{text}");
    }
}

#[test]
fn a_token_that_brings_its_key_is_explained_by_its_chain() {
    let provider = provider::find("apple-app-store").unwrap();
    let accepted = |vector: &&crate::vectors::Vector| vector.expect == crate::vectors::Expect::Accept;
    for vector in provider.vectors.iter().filter(accepted) {
        let (check, request) = (vector.check(provider).unwrap(), vector.request().unwrap());
        let steps = request.with_head(|head| {
            let claimed = || check.claimed_time(head, &request.body).unwrap_or_default();
            let now = Now { unix: vector.at.map_or_else(claimed, Duration::from_secs), ..Now::at_unix(0) };
            check.explain(head, &request.body, true, now)
        });
        let steps = steps.unwrap();
        let step = |name: &str| steps.iter().find(|step| step.name == name).map(|step| (step.ok, &*step.detail));
        assert!(steps.iter().all(|step| step.ok), "{steps:?}");
        assert!(step("certificate").is_some());
        assert_eq!(step("match"), Some((true, "the key from the sender")));
    }
}

/// Whoever sends requests must not be able to make keys be fetched for nothing.
#[test]
fn a_key_is_only_fetched_for_what_it_could_verify() {
    let signed_yaml = r#"{ algorithm: ed25519, keys: { jwks: "https://wanted.example/keys" }, from: { header: x-sig },
        signed: "{timestamp}{json:/a}", timestamp: { json: /t, past: 5m }, require: [ { json: /kind, is: event } ] }"#;
    let token_yaml = |from: &str| {
        format!(
            "{{ algorithm: jwt, keys: {{ jwks: \"https://wanted.example/keys\" }}, from: {{ {from} }}, token: {{ algorithms: [EdDSA], require: [exp] }} }}"
        )
    };
    let bound = |yaml: &str| SignatureCheck::bind(scheme(yaml), Credentials::default()).unwrap();
    let token = |header: &str, exp: u64| {
        let encode = |text: &str| Encoding::Base64Url.encode(text.as_bytes());
        format!("{}.{}.AAAA", encode(header), encode(&format!("{{\"exp\":{exp}}}")))
    };
    let (good, old) = (token(r#"{"alg":"EdDSA"}"#, NOW + 9), token(r#"{"alg":"EdDSA"}"#, NOW - 999));
    let other = token(r#"{"alg":"none"}"#, NOW + 9);
    let json = |text: &str| format!(r#"{{"jwt":"{text}"}}"#);
    let (signed_check, in_body, in_head) =
        (bound(signed_yaml), bound(&token_yaml("json: /jwt")), bound(&token_yaml("header: x-jwt")));
    for (check, header, body, wanted) in [
        (&signed_check, "ab", r#"{"a":"b","t":1700000000,"kind":"event"}"#.to_owned(), true),
        (&signed_check, "ab", r#"{"a":"b","t":1600000000,"kind":"event"}"#.to_owned(), false),
        (&signed_check, "ab", r#"{"a":"b","kind":"event"}"#.to_owned(), false),
        (&signed_check, "ab", r#"{"a":"b","t":1700000000,"kind":"other"}"#.to_owned(), false),
        (&signed_check, "ab", r#"{"t":1700000000,"kind":"event"}"#.to_owned(), false),
        (&signed_check, "zz", r#"{"a":"b","t":1700000000,"kind":"event"}"#.to_owned(), false),
        (&in_body, "", json(&good), true),
        (&in_body, "", json(&old), false),
        (&in_body, "", json(&other), false),
        (&in_body, "", "{}".to_owned(), false),
        (&in_head, &good, String::new(), true),
        (&in_head, &old, String::new(), false),
        (&in_head, &other, String::new(), false),
    ] {
        let mut request = request(body.as_bytes());
        request.headers = vec![("x-sig".into(), header.into()), ("x-jwt".into(), header.into())];
        let now = Now::at_unix(NOW);
        let found = request.with_head(|head| {
            Some(check.begin(head, true, now).ok()?.wanted(head, &request.body, now)?.single.is_none())
        });
        assert_eq!(found.unwrap(), wanted.then_some(true), "{header} {body}");
    }
    // What the route knows by itself is not fetched, nor is a secret.
    let plain = check(PLAIN);
    let request = signed(&plain, b"x");
    let now = Now::at_unix(NOW);
    assert!(request.with_head(|head| plain.begin(head, true, now).unwrap().wanted(head, b"x", now).is_none()).unwrap());
}

#[test]
fn debug_output_of_a_check_holds_no_secret() {
    for yaml in [PLAIN, TOKEN, r#"{ algorithm: sha256, from: { header: x-sig }, signed: "{secret}{body}" }"#] {
        let text = format!("{:?}", check_with(yaml, &["topsecrettopsecret"]));
        assert!(!text.contains("topsecret") && !text.contains("116, 111, 112"), "{text}");
    }
}

/// Keys of all kinds, two of each, made with OpenSSL.
#[derive(serde::Deserialize)]
struct TestKeys {
    pairs: Vec<Vec<TestPair>>,
}

#[derive(serde::Deserialize)]
struct TestPair {
    private: String,
    public: String,
}

fn test_keys() -> &'static TestKeys {
    static KEYS: std::sync::OnceLock<TestKeys> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/public-keys.json"));
        serde_json::from_str(text).unwrap()
    })
}

/// A key of the same kind.
pub(crate) fn another_public_key(public: &str) -> String {
    let kind = |text: &str| KeySet::parse(text.as_bytes()).unwrap().iter().next().unwrap().kind();
    let other = test_keys().pairs[1].iter().find(|pair| kind(&pair.public)[..3] == kind(public)[..3]);
    other.unwrap().public.clone()
}

/// A check with everything that any scheme may need: a secret, and public keys of all kinds of one of the sets.
fn check_with_all(scheme: &Scheme, secret: &str, set: usize) -> SignatureCheck {
    let public = |pair: &TestPair| PublicKeys::parse(pair.public.as_bytes(), "x").unwrap();
    let claim = |name: &str| FixedClaim { name: name.into(), texts: ["configured".into()].into() };
    let credentials = Credentials {
        secrets: vec![Secret::always(secret.as_bytes().to_vec(), "env X")],
        public_keys: test_keys().pairs[set].iter().map(public).collect(),
        public_url: Some("https://hooks.example.com/in"),
        claims: scheme.configured_claims().into_iter().map(claim).collect(),
        settings: scheme.settings().into_iter().map(|name| (name.into(), "arn:or-id".into())).collect(),
    };
    SignatureCheck::bind(scheme.clone(), credentials).unwrap()
}

/// Signs with whatever key of a set fits.
fn sign_with_any(
    check: &SignatureCheck,
    request: &mut UnsignedRequest,
    options: &SignOptions,
    set: usize,
) -> Result<Signing, SignError> {
    let private = |pair: &TestPair| Some(Arc::new(PrivateKey::parse(pair.private.as_bytes()).unwrap()));
    let keys = std::iter::once(None).chain(test_keys().pairs[set].iter().map(private));
    let mut last = None;
    for private_key in keys {
        let options = SignOptions { private_key, ..options.clone() };
        let mut signed = request.clone();
        match check.sign(&mut signed, Now::at_unix(NOW), &options) {
            Ok(signing) => {
                *request = signed;
                return Ok(signing);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap())
}

/// Every preset signs as its sender does, in each of its variants, and what it signed verifies; a copy with another
/// secret, body or time does not.
#[test]
fn every_preset_signs_what_it_verifies() {
    for provider in provider::all() {
        let variants: Vec<Option<String>> =
            match provider.scheme.variants().map(|name| Some(name.to_owned())).collect::<Vec<_>>() {
                none if none.is_empty() => vec![None],
                some => some,
            };
        for variant in variants {
            let scheme = match &variant {
                Some(name) => provider.scheme.clone().only(&[name]).unwrap(),
                None => provider.scheme.clone(),
            };
            // Fit to be text, hex and base64.
            let check = check_with_all(&scheme, "4d664b51397238474b597172547a6a55", 0);
            let other = check_with_all(&scheme, "5d664b51397238474b597172547a6a55", 1);
            let form = provider.id == "twilio" && variant.as_deref() == Some("form");
            let mut request = request(if form { b"a=1&b=2" } else { b"{\"a\":1}" });
            let options = SignOptions { variant: variant.clone(), ..SignOptions::default() };
            let signing = match sign_with_any(&check, &mut request, &options, 0) {
                Ok(signing) => signing,
                // Nobody should make these any more, ring included.
                Err(_) if provider.signature.algorithm == Some(RawAlgorithm::RsaSha1) => continue,
                Err(_) if provider.signature.each.is_some() => continue,
                Err(error) => panic!("{}: {error}", provider.id),
            };
            assert_eq!(signing.secret, if provider.scheme.needs_secrets() { "env X" } else { "x" });
            let what = format!("{} {variant:?} {signing:?}", provider.id);
            assert_eq!(verify(&check, &request), Ok(()), "{what}");
            assert_eq!(verify(&other, &request), Err(Reason::SignatureMismatch), "{what}");
            if let Some(rule) = check.claimed_time_rule_for_tests(&request) {
                let late = NOW + rule.past.as_secs() + 1;
                assert_eq!(verify_at(&check, &request, late).unwrap_err(), Reason::TimestampTooOld, "{what}");
                let early = NOW - rule.future.as_secs() - 1;
                assert_eq!(verify_at(&check, &request, early).unwrap_err(), Reason::TimestampInFuture, "{what}");
            }
            if provider.scheme.covers(&Source::json("/a").unwrap()) || form {
                let last = request.body.len() - 2;
                request.body[last] ^= 1;
                assert!(verify(&check, &request).is_err(), "{what}");
            }
        }
    }
}

impl SignatureCheck {
    fn claimed_time_rule_for_tests(&self, request: &UnsignedRequest) -> Option<TimestampRule> {
        let alternative = request.with_head(|head| self.choose(head).ok().map(|(index, _)| index)).unwrap()?;
        match &self.scheme.alternatives[alternative].proof {
            Proof::Signed(scheme) => scheme.timestamp.clone(),
            Proof::Shared(_) | Proof::Token(_) | Proof::Message(_) => None,
        }
    }
}

/// Senders with two keys sign twice, and either is enough; what stands beside in another form is not.
#[test]
fn a_signature_in_any_of_several_headers_is_enough() {
    let yaml = "{ algorithm: hmac-sha256, from: { header: x-one, also: [x-two, x-three] }, signed: \"{body}\" }";
    let old = check_with(yaml, &["0123456789abcdef0123"]);
    let new = check_with(yaml, &["fedcba98765432100123"]);
    let (one, other) = (signed(&old, b"body"), signed(&new, b"body"));
    let with = |headers: &[(&str, &UnsignedRequest)]| {
        let mut request = request(b"body");
        request.headers = headers.iter().map(|(name, from)| ((*name).to_owned(), from.headers[0].1.clone())).collect();
        request
    };
    for headers in [
        vec![("x-one", &one)],
        vec![("x-two", &one)],
        vec![("x-three", &one)],
        vec![("x-one", &other), ("x-two", &one)],
        vec![("x-one", &one), ("x-two", &other), ("x-three", &other)],
    ] {
        assert_eq!(verify(&old, &with(&headers)), Ok(()), "{headers:?}");
    }
    let mut request = with(&[("x-one", &other), ("x-three", &one)]);
    request.headers[0].1 = b"nonsense".to_vec();
    assert_eq!(verify(&old, &request), Ok(()));
    request.headers.truncate(1);
    assert_eq!(begin(&old, &request), Err(Reason::SignatureMalformed));
    assert_eq!(verify(&old, &with(&[("x-one", &other), ("x-two", &other)])), Err(Reason::SignatureMismatch));
    assert_eq!(begin(&old, &with(&[("x-four", &one)])), Err(Reason::SignatureMissing));
    let mut second = with(&[("x-two", &one)]);
    second.headers[0].1 = b"nonsense".to_vec();
    assert_eq!(begin(&old, &second), Err(Reason::SignatureMalformed));
    assert_eq!(old.headers().len(), 3);
}

#[test]
fn a_time_that_may_be_left_out_is_judged_where_it_stands() {
    let yaml = "{ algorithm: hmac-sha256, from: { header: x-sig }, signed: \"{body}\", \
                 timestamp: { json: /time_ms, unit: milliseconds, past: 5m, optional: true } }";
    let check = check(yaml);
    let signed = |body: &[u8]| {
        let mut request = request(body);
        // The sender's own time stands in the body already; another one is not put there.
        let strict = check_with(&yaml.replace(", optional: true", ""), &["0123456789abcdef0123"]);
        let without = check_with(
            "{ algorithm: hmac-sha256, from: { header: x-sig }, signed: \"{body}\" }",
            &["0123456789abcdef0123"],
        );
        without.sign(&mut request, Now::at_unix(NOW), &SignOptions::default()).unwrap();
        (verify(&check, &request), verify(&strict, &request))
    };
    assert_eq!(signed(b"{}"), (Ok(()), Err(Reason::TimestampInvalid)));
    assert_eq!(signed(b"{\"time_ms\":1700000000000}"), (Ok(()), Ok(())));
    assert_eq!(signed(b"{\"time_ms\":1600000000000}").0, Err(Reason::TimestampTooOld));
    assert_eq!(signed(b"{\"time_ms\":\"x\"}").0, Err(Reason::TimestampInvalid));
    assert_eq!(signed(b"{\"time_ms\":1,\"time_ms\":1}").0, Err(Reason::TimestampInvalid));
}

#[test]
fn a_list_without_names_holds_signatures_only() {
    let yaml = "{ algorithm: hmac-sha256, from: { header: x-one, list: { pairs: \",\" }, also: [x-two] }, signed: \"{body}\" }";
    let (check, other) = (check(yaml), check_with(yaml, &["fedcba98765432100123"]));
    let (good, bad) = (signed(&check, b"body"), signed(&other, b"body"));
    let text = |request: &UnsignedRequest| String::from_utf8(request.headers[0].1.clone()).unwrap();
    let with = |name: &str, value: String| {
        let mut request = request(b"body");
        request.headers = vec![(name.to_owned(), value.into_bytes())];
        verify(&check, &request)
    };
    assert_eq!(verify(&check, &good), Ok(()));
    for value in [format!("{},{}", text(&bad), text(&good)), format!("{},x", text(&good)), format!(",{}", text(&good))]
    {
        assert_eq!(with("x-one", value.clone()), Ok(()), "{value}");
        assert_eq!(with("x-two", value.clone()), Ok(()), "{value}");
    }
    assert_eq!(with("x-one", format!("{0},{0}", text(&bad))), Err(Reason::SignatureMismatch));
    assert_eq!(with("x-one", "x,y".into()), Err(Reason::SignatureMalformed));
}

#[test]
fn every_part_of_a_text_stands_for_what_it_says() {
    let form = "b=2&a=1&c=x%26y";
    let json = r#"{ "b": 1, "a": [1, 2] }"#;
    for (part, body, expected) in [
        ("{method}", "", Some("POST")),
        ("{path}", "", Some("/in")),
        ("{query}", "", Some("b=2&a=1")),
        ("{path_and_query}", "", Some("/in?b=2&a=1")),
        ("{path_and_query:contentful}", "", Some("/in?b%253D2%2526a%253D1")),
        ("{host}", "", Some("hooks.example.com")),
        ("{url}", "", Some("https://hooks.example.com/in?b=2&a=1")),
        ("{public_url}", "", Some("https://hooks.example.com/in")),
        ("{query_sorted}", "", Some("a=1&b=2")),
        ("{header:x-id}", "", Some("7")),
        ("{header:x-no}", "", None),
        ("{header:x-no?}", "", Some("")),
        ("{query:a}", "", Some("1")),
        ("{query:z}", "", None),
        ("{form:a}", form, Some("1")),
        ("{json:/b}", json, Some("1")),
        ("{json:/c}", json, None),
        ("{json:/c?}", json, Some("")),
        ("{header:x-id}:{open:json:/b}:", json, Some("7:1:")),
        ("{header:x-id}:{open:json:/c?}:", json, Some("7::")),
        ("{header:x-id}:{open:json:/c}:", json, None),
        ("{xml:/a/b}", "<a><b>1</b></a>", Some("1")),
        ("{form_sorted}", form, Some("a1b2cx&y")),
        ("{form_pairs}", form, Some("a=1&b=2&c=x&y")),
        ("{form_pairs:-b,-c}", form, Some("a=1")),
        ("{form_pairs}", "a=1&a=2", None),
        ("{form_pairs:-a}", "a=1&a=2&b=3", Some("b=3")),
        ("{form_pairs}", "a=%zz", None),
        ("{form_listed}", form, Some("&a=1&b=2&c=x_y")),
        ("{form_listed:-a,-c}", form, Some("&b=2")),
        ("{body}", "{}", Some("{}")),
        ("{body_crc32}", "{}", Some("2745614147")),
        ("{body_as_json_string}", "a\"b", Some("\"a\\\"b\"")),
        ("{inflated_body}", "{}", Some("{}")),
        ("{json_compact}", json, Some(r#"{"b":1,"a":[1,2]}"#)),
        ("{json_sorted}", json, Some(r#"{"a":[1,2],"b":1}"#)),
        ("{json_sorted}", "{", None),
        ("{json_lines:b,c?}", json, Some("b\n1\n")),
        ("{json_lines:c?,b}", json, Some("b\n1\n")),
        ("{json_lines:b,c}", json, None),
        ("{body_digest:md5:hex}", "", Some("d41d8cd98f00b204e9800998ecf8427e")),
        ("{body_digest:sha1:base64}", "", Some("2jmj7l5rSw0yVb/vlWAYkK/YBwk=")),
        ("{body_digest:sha1:base64url}", "", Some("2jmj7l5rSw0yVb_vlWAYkK_YBwk")),
    ] {
        let check = check(&format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: {part:?} }}"));
        let Proof::Signed(scheme) = &check.scheme.alternatives[0].proof else { unreachable!() };
        let mut request = request(body.as_bytes());
        request.url += "?b=2&a=1";
        request.headers.push(("x-id".into(), b"7".to_vec()));
        let text = request.with_head(|head| {
            let inputs = check.inputs(head, body.as_bytes(), scheme, &[]);
            super::text(scheme, &inputs, 0).map(Cow::into_owned).ok()
        });
        let text = text.unwrap().map(|text| String::from_utf8(text).unwrap());
        assert_eq!(text.as_deref(), expected, "{part} {body}");
    }
}

/// A forged body costs no more than its MAC because what is in it is refused before it is put in order.
#[test]
fn what_is_taken_apart_for_a_signature_is_bounded() {
    fn same(count: usize) -> String {
        vec!["a"; count].join("&")
    }
    fn fields(count: usize) -> String {
        (0..count).map(|at| format!("f{at}=1")).collect::<Vec<_>>().join("&")
    }
    fn values(count: usize) -> String {
        format!("[{}]", vec!["1"; count - 1].join(","))
    }
    type Made = fn(usize) -> String;
    let cases = [
        ("{url:twilio}{form_sorted}", same as Made, MAX_FIELDS),
        ("{url:twilio}{form_sorted}", fields, MAX_FIELDS),
        ("{form_pairs:-sign,-type?}", fields, MAX_FIELDS),
        ("{form_listed:-sign}", fields, MAX_FIELDS),
        ("{url:plivo-v3}", same, MAX_FIELDS),
        ("{json_sorted}", values, json::MAX_VALUES),
        ("{json_compact}", values, json::MAX_VALUES),
    ];
    for (part, body, most) in cases {
        let check = check(&format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: {part:?} }}"));
        for (count, reason) in [(most, Reason::SignatureMismatch), (most + 1, Reason::SignatureMalformed)] {
            let mut request = request(body(count).as_bytes());
            request.headers.push(("x-sig".into(), "00".repeat(32).into_bytes()));
            assert_eq!(verify(&check, &request), Err(reason), "{part} {count}");
        }
        assert_eq!(verify(&check, &signed(&check, body(most).as_bytes())), Ok(()), "{part}");
    }
}

#[test]
fn a_body_is_decompressed_up_to_a_bound() {
    let check = check(r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{inflated_body}" }"#);
    let most = usize::try_from(template::MAX_INFLATED).unwrap();
    for (size, reason) in [(most, Reason::SignatureMismatch), (most + 1, Reason::SignatureMalformed)] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &vec![0; size]).unwrap();
        let mut request = request(&gzip.finish().unwrap());
        request.headers.push(("content-encoding".into(), b"gzip".to_vec()));
        request.headers.push(("x-sig".into(), "00".repeat(32).into_bytes()));
        assert_eq!(verify(&check, &request), Err(reason), "{size}");
    }
}

/// The parts of a text are read once for all secrets and spellings; each of them still counts.
#[test]
fn every_secret_counts_in_every_spelling() {
    let secrets = ["0123456789abcdef0", "0123456789abcdef1", "0123456789abcdef2"];
    for (parts, spellings) in [
        ("{url:twilio}{form_sorted}", 6),
        ("{form_sorted}{url:twilio}", 6),
        ("{url:twilio}{body}{method}", 6),
        ("{method}{any_case:query:id}.{body_digest:sha256:hex}", 2),
        ("{method}{form_pairs:-sign,-type?}", 2),
        ("{secret}{method}{form_sorted}{secret}", 1),
        ("{sorted:secret,query:id,form:a}{body}", 1),
    ] {
        let yaml = format!("{{ algorithm: sha256, from: {{ header: x-sig }}, signed: \"{parts}{{secret}}\" }}");
        let check = check_with(&yaml, &secrets);
        let Proof::Signed(scheme) = &check.scheme.alternatives[0].proof else { unreachable!() };
        assert_eq!(scheme.signed.variants(), spellings, "{parts}");
        let mut request = request(b"type=t&b=2&a=x%20y");
        request.url += "?id=It's&c=x+y";
        let mut content = Vec::new();
        for (at, variant) in (0..secrets.len()).flat_map(|at| (0..spellings).map(move |variant| (at, variant))) {
            let Some(Credential::Secret(key)) = &check.keys[0][at] else { unreachable!() };
            let tag = request.with_head(|head| {
                let inputs = check.inputs(head, &request.body, scheme, &[]);
                let mut state = key.start();
                feed(scheme, 0..usize::MAX, &inputs, variant, &mut state).unwrap();
                state.finish()
            });
            request.headers = vec![("x-sig".into(), hex::encode(tag.unwrap().as_bytes()).into_bytes())];
            let verified = verify_at(&check, &request, NOW);
            content.push(verified.unwrap_or_else(|reason| panic!("{parts} {at} {variant}: {reason:?}")).content);
        }
        // Whichever it was, the request is remembered under one name for each secret.
        assert!(content.iter().all(|known| *known == content[0] && known.len() == secrets.len()), "{parts}");
    }
}

/// The end of a form could be taken for the start of what follows.
#[test]
fn a_value_behind_the_body_cannot_take_from_it() {
    for text in ["{form_sorted}.{header:x-nonce}", "{body}.{header:x-nonce}", "{url:plivo-v3}.{header:x-nonce}"] {
        let check = check(&format!("{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: \"{text}\" }}"));
        let mut request = request(b"pay=1.50");
        request.headers.push(("x-nonce".into(), b"77".to_vec()));
        check.sign(&mut request, Now::at_unix(NOW), &SignOptions::default()).unwrap();
        assert_eq!(verify(&check, &request), Ok(()), "{text}");
        request.body = b"pay=1".to_vec();
        request.headers[0].1 = b"50.77".to_vec();
        assert_eq!(verify(&check, &request), Err(Reason::SignatureMalformed), "{text}");
    }
}

#[test]
fn a_field_cannot_take_from_the_body() {
    let yaml = r#"{ algorithm: hmac-sha256, from: { header: x-sig, list: { pairs: ",", assign: "=", key: v1 } },
                    signed: "{field:n}.{body}" }"#;
    let check = check(yaml);
    for (field, body, verdict) in [("a", "b.c", Ok(())), ("a.b", "c", Err(Reason::SignatureMalformed))] {
        let mut request = request(body.as_bytes());
        let key = mac::HmacKeys::new(std::iter::once(Hash::Sha256), b"0123456789abcdef0123").unwrap();
        let tag = key.mac(Hash::Sha256, format!("{field}.{body}").as_bytes()).unwrap();
        request.headers.push(("x-sig".into(), format!("n={field},v1={}", hex::encode(tag.as_bytes())).into_bytes()));
        assert_eq!(verify(&check, &request), verdict, "{field}");
    }
}

#[test]
fn a_digest_of_the_body_stands_for_the_body() {
    for form in ["sha256:raw", "sha256:hex", "sha1:base64", "sha512:base64url", "sha384:hex"] {
        let yaml = format!(
            "{{ algorithm: hmac-sha256, from: {{ header: x-sig }}, signed: \"{{method}} {{body_digest:{form}}}\" }}"
        );
        let check = check(&yaml);
        assert!(check.covers(&Source::json("/a").unwrap()) && check.covers(&Source::form("a").unwrap()));
        let mut request = signed(&check, b"body");
        assert_eq!(verify(&check, &request), Ok(()), "{form}");
        request.body[0] ^= 1;
        assert_eq!(verify(&check, &request), Err(Reason::SignatureMismatch), "{form}");
    }
}

#[test]
fn members_deep_in_a_body_are_put_where_they_belong() {
    for (body, pointer, expected) in [
        ("{}", "/a/b", r#"{"a":{"b":7}}"#),
        (r#"{"a":{"c":1}}"#, "/a/b", r#"{"a":{"b":7,"c":1}}"#),
        ("{}", "/value/0/x", r#"{"value":[{"x":7}]}"#),
        (r#"{"a":{"b":1}}"#, "/a/b", r#"{"a":{"b":7}}"#),
    ] {
        let mut request = request(body.as_bytes());
        request.put(&Source::json(pointer).unwrap(), b"7").unwrap();
        let value: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(value, serde_json::from_str::<serde_json::Value>(expected).unwrap(), "{body}");
    }
    for (body, pointer) in [("[]", "/a/b"), ("7", "/a/b"), (r#"{"a":1}"#, "/a/b"), ("x", "/a/b")] {
        assert!(request(body.as_bytes()).put(&Source::json(pointer).unwrap(), b"7").is_err(), "{body}");
    }
}

#[test]
fn what_is_put_into_a_request_for_a_trial_stands_where_a_sender_puts_it() {
    let kind = ("content-type".to_owned(), b"multipart/form-data; boundary=X".to_vec());
    let part = |value: &str| format!("--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{value}\r\n--X--\r\n");
    for (body, source, value, expected) in [
        ("{}", "json:/a/*/b", "7", r#"{"a":[{"b":7}]}"#.to_owned()),
        ("{ \"b\": 1 }", "json:/a", "7", "{\"a\":7, \"b\": 1 }".to_owned()),
        ("{ }", "json:/a", "x", "{\"a\":\"x\" }".to_owned()),
        ("{}", "json:/a", "123456789012345678", r#"{"a":123456789012345678}"#.to_owned()),
        ("{}", "json:/a", "1234567890123456789", r#"{"a":"1234567890123456789"}"#.to_owned()),
        ("{}", "json:/a", "", r#"{"a":""}"#.to_owned()),
        ("b=1&a=2", "form:a", "x y", "b=1&a=x%20y".to_owned()),
        ("", "form:data.id", "1", "data.id=1".to_owned()),
        ("", "form:a b", "1", "a%20b=1".to_owned()),
        (&*part("1"), "form:a", "2", part("2")),
    ] {
        let mut request = request(body.as_bytes());
        if body.starts_with("--") {
            request.headers.push(kind.clone());
        }
        request.put(&Source::parse(source).unwrap(), value.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(request.body).unwrap(), expected, "{body} {source}");
    }
    let ids = ["a", "b"].map(|body| {
        let request = signed(&check(TIMED), body.as_bytes());
        String::from_utf8(request.headers.iter().find(|(name, _)| name == "x-id").unwrap().1.clone()).unwrap()
    });
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("msg_")), "{ids:?}");
    let lines = r#"{ algorithm: hmac-sha256, from: { header: x-sig }, signed: "{json_lines:a,b?}" }"#;
    let body: serde_json::Value = serde_json::from_slice(&signed(&check(lines), b"{}").body).unwrap();
    assert!(body.get("a").is_some() && body.get("b").is_none());
}

#[test]
fn a_token_for_a_trial_says_what_a_sender_would() {
    let digest = "claims: [{ name: d, body_digest: { hash: sha256, encoding: hex }, unless_empty: true }]";
    for (rest, body, typ, has_digest) in [
        ("require: [exp]", "", true, false),
        (digest, "", true, false),
        (digest, "x", true, true),
        ("payload: body", "x", false, false),
    ] {
        let check = check(&format!(
            "{{ algorithm: jwt, from: {{ header: x-jwt }}, token: {{ algorithms: [HS256], {rest} }} }}"
        ));
        let mut request = signed(&check, body.as_bytes());
        assert_eq!(verify(&check, &request), Ok(()), "{rest}");
        let token = String::from_utf8(header(&mut request, "x-jwt").clone()).unwrap();
        let parts: Vec<serde_json::Value> = token
            .split('.')
            .map(|part| {
                serde_json::from_slice(&Encoding::Base64Url.decode_all(part.as_bytes()).unwrap()).unwrap_or_default()
            })
            .collect();
        assert_eq!(parts[0].get("typ").is_some(), typ, "{rest}");
        assert_eq!(parts[1].get("d").is_some(), has_digest, "{rest}");
        if typ {
            assert_eq!((&parts[1]["iat"], &parts[1]["exp"]), (&NOW.into(), &(NOW + 60).into()));
        }
    }
}

#[test]
fn a_message_for_a_trial_is_signed_by_whoever_has_the_private_key() {
    let yaml = |rest: &str| {
        format!(
            "{{ algorithm: http-message-signature, message: {{ algorithm: ed25519, require: [\"@method\"]{rest} }} }}"
        )
    };
    for (rest, key_id, named) in [("", None, false), ("", Some("k"), true), (", key_id: true", None, true)] {
        let check = check_with_all(&scheme(&yaml(rest)), "0123456789abcdef0123", 0);
        let options = SignOptions { key_id: key_id.map(str::to_owned), ..SignOptions::default() };
        let mut request = request(b"x");
        let error = check.sign(&mut request.clone(), Now::at_unix(NOW), &options).unwrap_err();
        assert!(error.to_string().contains("only the sender can sign"), "{error}");
        sign_with_any(&check, &mut request, &options, 0).unwrap();
        assert_eq!(verify(&check, &request), Ok(()));
        let input = String::from_utf8(header(&mut request, "signature-input").clone()).unwrap();
        assert_eq!(input.contains(";keyid="), named, "{input}");
    }
}

/// A scheme out of everything that the language has.
fn any_scheme() -> impl Strategy<Value = String> {
    let algorithm =
        prop::sample::select(vec!["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512", "sha256", "sha512"]);
    let encoding = prop::sample::select(vec!["hex", "base64", "base64url", "base64url-padded"]);
    let prefix = prop::sample::select(vec!["", "sha256=", "v0="]);
    let time = prop::sample::select(vec!["", "header: x-time", "query: time", "field: t"]);
    let unit = prop::sample::select(vec!["seconds", "milliseconds", "rfc3339"]);
    let list = prop::sample::select(vec![None, Some((";", "=")), Some((" ", ",")), Some((",", "="))]);
    let part = prop::sample::select(vec![
        "{method}",
        "{url}",
        "{url:twilio}",
        "{path}",
        "{query}",
        "{host}",
        "{header:x-id}",
        "{body_digest:sha256:hex}",
        "{query:q}",
        "|",
        ".",
        "v0:",
        "{{",
        "{public_url}",
    ]);
    let parts = prop::collection::vec(part, 0..4);
    (algorithm, encoding, prefix, time, unit, list, parts.clone(), parts).prop_filter_map(
        "no such scheme",
        |(algorithm, encoding, prefix, time, unit, list, before, after)| {
            if time == "field: t" && list.is_none() {
                return None;
            }
            let mut text = [before.concat(), "{body}".to_owned(), after.concat()].concat();
            if !time.is_empty() {
                text.push_str("{timestamp}");
            }
            if algorithm.starts_with("sha") {
                text.push_str("{secret}");
            }
            if text.matches("{url").count() > 1 {
                return None;
            }
            let list = list.map_or(String::new(), |(pairs, assign)| {
                format!(", list: {{ pairs: {pairs:?}, assign: {assign:?}, key: v1 }}")
            });
            let time = if time.is_empty() {
                String::new()
            } else {
                format!(", timestamp: {{ {time}, unit: {unit}, past: 5m, future: 1m }}")
            };
            Some(format!(
                "{{ algorithm: {algorithm}, from: {{ header: x-sig, prefix: {prefix:?}, encoding: {encoding}{list} }}, signed: {text:?}{time} }}"
            ))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_any_scheme_signs_verifies_and_any_flipped_bit_fails(
        yaml in any_scheme(),
        body in prop::collection::vec(any::<u8>(), 1..80),
        secret in prop::collection::vec(1_u8.., 16..40),
        bit in any::<prop::sample::Index>(),
    ) {
        // Only a placeholder or white space could be refused here; both are vanishingly rare.
        let make = |secret: &[u8]| {
            let secrets = vec![Secret::always(secret.to_vec(), "x")];
            SignatureCheck::new(scheme(&yaml), secrets, Some("https://hooks.example.com/in"))
        };
        let Ok(check) = make(&secret) else { return Ok(()) };
        let good = signed(&check, &body);
        prop_assert_eq!(verify(&check, &good), Ok(()), "{}", yaml);

        let mut flipped = good.clone();
        let at = bit.index(body.len() * 8);
        flipped.body[at / 8] ^= 1 << (at % 8);
        prop_assert_eq!(verify(&check, &flipped), Err(Reason::SignatureMismatch), "body, {}", yaml);

        let Proof::Signed(signed) = &check.scheme.alternatives[0].proof else { unreachable!() };
        let (Algorithm::Hmac(hash) | Algorithm::Digest(hash)) = signed.algorithm else { unreachable!() };
        let len = hash.output_len();
        let spelled = signed.from.encoding.encode(&vec![0; len]).len();
        let mut flipped = good.clone();
        let value = header(&mut flipped, "x-sig");
        let start = value.len() - spelled;
        let mut tag = signed.from.encoding.decode_all(&value[start..]).unwrap();
        let at = bit.index(len * 8);
        tag[at / 8] ^= 1 << (at % 8);
        let tag = signed.from.encoding.encode(&tag);
        value.splice(start.., tag.into_bytes());
        prop_assert_eq!(verify(&check, &flipped), Err(Reason::SignatureMismatch), "signature, {}", yaml);

        let mut other = secret.clone();
        let at = bit.index(secret.len() * 8);
        other[at / 8] ^= 1 << (at % 8);
        if let Ok(other) = make(&other) {
            prop_assert_eq!(verify(&other, &good), Err(Reason::SignatureMismatch), "secret, {}", yaml);
        }

        // A second more than the signed one is still in the window, but is not what was signed.
        let mut moved = good.clone();
        let written = |at| signed.timestamp.as_ref().map(|rule| rule.unit.write(Duration::from_secs(at)));
        if let (Some(old), Some(new)) = (written(NOW), written(NOW - 1)) {
            let replace = |text: &[u8]| String::from_utf8_lossy(text).replace(&old, &new);
            moved.headers.iter_mut().for_each(|(_, value)| *value = replace(value).into_bytes());
            let encoded = |text: &str| percent_encoding::percent_encode(text.as_bytes(), percent_encoding::NON_ALPHANUMERIC).to_string();
            moved.url = moved.url.replace(&encoded(&old), &encoded(&new));
            prop_assert_ne!(&moved, &good);
            prop_assert_eq!(verify(&check, &moved), Err(Reason::SignatureMismatch), "time, {}", yaml);
        }
    }

    #[test]
    fn any_request_is_judged_without_panic(
        at in any::<prop::sample::Index>(),
        value in prop::collection::vec(any::<u8>(), 0..120),
        body in prop::collection::vec(any::<u8>(), 0..120),
        query in "\\PC{0,40}",
    ) {
        let provider = &provider::all()[at.index(provider::all().len())];
        let check = check_with_all(&provider.scheme, "4d664b51397238474b597172547a6a55", 0);
        let names: Vec<String> = check.headers().iter().map(HeaderName::to_string).collect();
        let list: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), value.as_slice())).collect();
        let head = Head { method: "POST", path: "/", query: Some(&query), host: "h", headers: Headers::List(&list) };
        let now = Now::at_unix(NOW);
        if let Ok(mut verification) = check.begin(&head, true, now) {
            verification.update(&body);
            prop_assert!(verification.finish(&head, &body, now).is_err());
        }
        let _ = check.explain(&head, &body, true, now);
    }
}
