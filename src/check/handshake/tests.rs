//! What is told to whom, and what has to stand in a question for that. The questions of the presets are tried with them.

use super::*;
use crate::config;
use crate::policy::Route;
use crate::request::Headers;
use std::path::Path;
use std::sync::Arc;

const SECRET: &str = "a-secret-of-some-length";
/// 43 letters of base64, as DingTalk and WeCom hand them out.
const AES: &str = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG";

/// A route with these exchanges, and what else stands in its `handshake`.
fn route(settings: &str, exchanges: &[&str]) -> Arc<Route> {
    let text = format!(
        "listen: [{{ address: 127.0.0.1:1 }}]\nadmin: off\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:2\" }}\n\
         routes:\n- name: hook\n  path: /hook\n  to: app\n  duplicates: off\n  public_url: https://hooks.example.com/in\n  \
         secret: {{ env: SECRET }}\n  signature: {{ algorithm: hmac-sha256, from: {{ header: X-Sig }}, signed: \"{{body}}\" }}\n  \
         handshake: {{ {settings}exchanges: [{}] }}\n",
        exchanges.join(", ")
    );
    let value = |name: &str| {
        let value = match name {
            "SECRET" => SECRET,
            "OLD" => "old-token-of-some-length",
            "NEW" => "new-token-of-some-length",
            "AES" => AES,
            _ => return None,
        };
        Some(value.into())
    };
    let policy =
        config::parse(&text, Path::new("/nonexistent"), &value).unwrap_or_else(|problems| panic!("{problems}"));
    policy.routes.iter().next().unwrap().1.clone()
}

fn with<T>(query: Option<&str>, headers: &[(&str, &str)], ask: impl FnOnce(&Head<'_>) -> T) -> T {
    let list: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    ask(&Head { method: "POST", path: "/hook", query, host: "h", headers: Headers::List(&list) })
}

fn text(answer: Result<Option<Reply>, Reject>) -> Result<String, (Reason, Option<u16>)> {
    match answer {
        Ok(Some(reply)) => Ok(String::from_utf8(reply.answer.body.to_vec()).unwrap()),
        Ok(None) => Ok("nothing".to_owned()),
        Err(reject) => Err((reject.reason, reject.status)),
    }
}

/// What a body gets that nobody signed.
fn unsigned(route: &Route, body: &str) -> Result<String, (Reason, Option<u16>)> {
    let handshakes = route.handshakes.as_deref().unwrap();
    with(None, &[], |head| text(handshakes.of_unsigned(head, body.as_bytes(), Now::at_unix(0))))
}

/// What the same gets with a signature.
fn signed(route: &Route, body: &str) -> Result<String, (Reason, Option<u16>)> {
    let handshakes = route.handshakes.as_deref().unwrap();
    with(None, &[], |head| text(handshakes.of_verified(head, body.as_bytes(), Now::at_unix(0))))
}

fn body(value: &str) -> String {
    serde_json::json!({ "challenge": value }).to_string()
}

const REFUSED: Result<String, (Reason, Option<u16>)> = Err((Reason::HandshakeRefused, None));

#[test]
fn nothing_is_computed_for_strangers_over_what_could_be_an_event() {
    let computed = |proof: &str| {
        format!(
            "{{ name: c, when: {{ json: /challenge }}, proof: {proof}, \
             values: [{{ name: m, hmac: sha256, key: secret, over: \"{{json:/challenge}}\", encoding: hex }}], \
             answer: {{ text: \"{{value:m}}\" }} }}"
        )
    };
    let (none, proved) = (route("", &[&computed("none")]), route("", &[&computed("signature")]));
    let mac = |text: &str| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
        Ok(hex::encode(ring::hmac::sign(&key, text.as_bytes())))
    };
    let (longest, longer) = ("a".repeat(256), "a".repeat(257));
    for (challenge, harmless) in [
        ("c-1_~+/=.Z", true),
        (&*longest, true),
        (&*longer, false),
        ("{\"amount\":1}", false),
        ("a b", false),
        ("a:b", false),
        ("a\nb", false),
    ] {
        let expected = if harmless { mac(challenge) } else { REFUSED };
        assert_eq!(unsigned(&none, &body(challenge)), expected, "{challenge}");
        // Who has signed may have anything computed: it is signed already.
        assert_eq!(signed(&proved, &body(challenge)), mac(challenge), "{challenge}");
        assert_eq!(unsigned(&proved, &body(challenge)), Ok("nothing".into()), "{challenge}");
    }
}

#[test]
fn what_is_repeated_is_short_and_harmless() {
    let echo = route(
        "",
        &[
            "{ name: c, when: { json: /challenge }, proof: none, answer: { text: \"{json:/challenge}\" } }",
            "{ name: e, when: { json: /empty }, proof: none, answer: { text: \"{json:/other}\" } }",
        ],
    );
    let (longest, longer) = ("a".repeat(1024), "a".repeat(1025));
    for (value, fine) in [
        ("a b:c\"{}", true),
        (&*longest, true),
        (&*longer, false),
        ("<script>", false),
        ("a>b", false),
        ("a\tb", false),
        ("a\r\nb", false),
        ("\u{e9}", false),
        ("\u{7f}", false),
    ] {
        let expected = if fine { Ok(value.to_owned()) } else { REFUSED };
        assert_eq!(unsigned(&echo, &body(value)), expected, "{value}");
    }
    assert_eq!(unsigned(&echo, &body("")), Ok("nothing".into()));
    assert_eq!(unsigned(&echo, r#"{"empty":"x","other":""}"#), REFUSED);
    assert_eq!(unsigned(&echo, r#"{"empty":"x"}"#), REFUSED);
}

#[test]
fn a_body_that_nobody_signed_is_looked_at_up_to_a_bound() {
    let echo =
        route("", &["{ name: c, when: { json: /challenge }, proof: none, answer: { text: \"{json:/challenge}\" } }"]);
    for (length, expected) in [(MAX_UNSIGNED_BODY, "c"), (MAX_UNSIGNED_BODY + 1, "nothing")] {
        let body = format!("{:<length$}", body("c"));
        assert_eq!((body.len(), unsigned(&echo, &body)), (length, Ok(expected.into())));
    }
    assert_eq!(signed(&echo, &format!("{:<20000}", body("c"))), Ok("c".into()));
}

/// Who may still send a body although no signature holds, and who is answered before any body.
#[test]
fn only_questions_that_may_come_without_a_signature_wait_for_the_body() {
    let head = "{ name: h, when: { query: challenge }, proof: none, answer: { text: \"{query:challenge}\" } }";
    let in_body = "{ name: b, when: { json: /challenge }, proof: none, answer: { text: done } }";
    let in_answer = "{ name: a, when: { header: X-Ask }, proof: none, answer: { text: \"{json:/challenge}\" } }";
    let computed = "{ name: v, when: { header: X-Ask }, proof: none, \
                    values: [{ name: m, digest: sha256, over: \"{json:/challenge}\", encoding: hex }, \
                             { name: n, digest: sha256, over: \"{value:m}\", encoding: hex }], answer: { text: \"{value:n}\" } }";
    let from_head = "{ name: w, when: { header: X-Ask }, proof: none, \
                     values: [{ name: m, digest: sha256, over: \"{header:X-Ask}\", encoding: hex }], answer: { text: \"{value:m}\" } }";
    let of_sender = "{ name: s, when: { json: /challenge }, answer: { text: signed } }";
    let get = "{ name: g, method: GET, when: { json: /challenge }, proof: none, answer: { text: done } }";
    for (exchange, at_head, waits, signed_follows) in [
        (head, true, false, false),
        (from_head, true, false, false),
        (in_body, false, true, false),
        (in_answer, false, true, false),
        (computed, false, true, false),
        (of_sender, false, false, true),
        (get, false, false, false),
    ] {
        let route = route("", &[exchange]);
        let handshakes = route.handshakes.as_deref().unwrap();
        let most = MAX_UNSIGNED_BODY as u64;
        with(Some("challenge=c"), &[("X-Ask", "1")], |head| {
            let now = Now::at_unix(0);
            assert_eq!(handshakes.of_head(head, now).unwrap().is_some(), at_head, "{exchange}");
            assert!(handshakes.of_first_head(head, now).unwrap().is_none(), "{exchange}");
            for (length, bounded) in [(Some(0), true), (Some(most), true), (Some(most + 1), false), (None, true)] {
                assert_eq!(handshakes.may_follow(head, length), waits && bounded, "{exchange} {length:?}");
            }
            assert_eq!(handshakes.may_follow_signed(head), signed_follows, "{exchange}");
            let body = handshakes.of_unsigned(head, br#"{"challenge":"c"}"#, now).unwrap();
            assert_eq!(body.is_some(), waits, "{exchange}");
        });
    }
}

#[test]
fn only_what_brings_the_secret_is_answered_without_one() {
    let bring = |rest: &str| format!("{{ name: f, when: {{ header: X-Secret }}, {rest}answer: {{ text: ok }} }}");
    let over = "hands_over: [\"header:X-Secret\"], ";
    for (rest, kept, answered) in [
        (format!("proof: none, {over}"), "keep: kept, ", true),
        (over.to_owned(), "keep: kept, ", false),
        ("proof: none, ".to_owned(), "", false),
        ("proof: none, hands_over: [\"json:/secret\"], ".to_owned(), "keep: kept, ", false),
    ] {
        let route = route(kept, &[&bring(&rest)]);
        let handshakes = route.handshakes.as_deref().unwrap();
        let answer = with(None, &[("X-Secret", "s")], |head| handshakes.of_first_head(head, Now::at_unix(0)).unwrap());
        assert_eq!(answer.map(|reply| reply.handed.len()), answered.then_some(1), "{rest}");
    }
}

#[test]
fn what_is_handed_over_is_text_of_a_bounded_length() {
    let exchange =
        "{ name: f, when: { header: X-Ask }, proof: none, hands_over: [\"header:X-Secret\"], answer: { text: ok } }";
    let route = route("keep: kept, ", &[exchange]);
    let handshakes = route.handshakes.as_deref().unwrap();
    let (longest, longer) = ([b'a'; MAX_HANDED], [b'a'; MAX_HANDED + 1]);
    for (value, fine) in [
        (&b"s"[..], true),
        (b"", false),
        (&longest, true),
        (&longer, false),
        (b"\xff", false),
        ("\u{e9}".as_bytes(), true),
    ] {
        let list = [("X-Ask", &b"1"[..]), ("X-Secret", value)];
        let head = Head { method: "POST", path: "/hook", query: None, host: "h", headers: Headers::List(&list) };
        let answer = text(handshakes.of_head(&head, Now::at_unix(0)));
        assert_eq!(answer, if fine { Ok("ok".to_owned()) } else { REFUSED }, "{}", value.len());
    }
}

#[test]
fn each_of_the_verify_tokens_is_accepted_and_no_other() {
    let exchange = "{ name: t, when: { query: token }, token: \"query:token\", wrong: 404, answer: { text: ok } }";
    let wrong = Err((Reason::HandshakeRefused, Some(404)));
    for (tokens, old, new) in [
        ("{ env: OLD }", Ok("ok".to_owned()), wrong.clone()),
        ("[{ env: NEW }, { env: OLD }]", Ok("ok".to_owned()), Ok("ok".to_owned())),
        ("[{ env: OLD }, { env: OLD }]", Ok("ok".to_owned()), wrong.clone()),
    ] {
        let route = route(&format!("verify_token: {tokens}, "), &[exchange]);
        let handshakes = route.handshakes.as_deref().unwrap();
        let ask = |token: &str| {
            with(Some(&format!("token={token}")), &[], |head| text(handshakes.of_head(head, Now::at_unix(0))))
        };
        assert_eq!((ask("old-token-of-some-length"), ask("new-token-of-some-length")), (old, new), "{tokens}");
        for bad in ["old-token-of-some-lengt", "OLD-token-of-some-length", "x"] {
            assert_eq!(ask(bad), wrong, "{bad}");
        }
    }
}

#[test]
fn what_is_encrypted_for_the_sender_it_can_read_and_nobody_else() {
    let settings = "encryption_key: { env: AES }, app_id: { value: app-1 }, ";
    let encrypt = "{ name: e, when: { json: /challenge }, \
                   values: [{ name: m, encrypt: wechat, key: encryption_key, over: success, encoding: base64 }], \
                   answer: { text: \"{value:m}\" } }";
    let decrypt = "{ name: d, when: { json: /encrypt }, proof: none, \
                   values: [{ name: m, decrypt: wechat, key: encryption_key, over: \"{json:/encrypt}\" }], \
                   answer: { text: \"{value:m}\" } }";
    let sender = route(settings, &[encrypt, decrypt]);
    let message = signed(&sender, &body("x")).unwrap();
    let read = |route: &Route, message: &str| unsigned(route, &serde_json::json!({ "encrypt": message }).to_string());
    assert_eq!(read(&sender, &message), Ok("success".into()));
    let stranger = route(&settings.replace("app-1", "app-2"), &[decrypt]);
    assert_eq!(read(&stranger, &message), REFUSED);
    let mut changed = message.into_bytes();
    changed[0] ^= 1;
    assert_eq!(read(&sender, std::str::from_utf8(&changed).unwrap()), REFUSED);
    assert!(sender.handshakes.as_deref().unwrap().exchanges[0].needs().eq([Setting::EncryptionKey, Setting::AppId]));
}

fn exchange(answer: &str) -> Result<Exchange, String> {
    let text = format!("{{ name: x, when: {{ header: a }}, answer: {{ {answer} }} }}");
    let raw: config::handshake::RawExchange = serde_yaml::from_str(&text).unwrap();
    let mut problems = Vec::new();
    raw.compile("x", &mut problems).ok_or_else(|| format!("{problems:?}"))
}

#[test]
fn what_an_exchange_needs_and_tells_is_known() {
    for (answer, url, needs) in [
        ("text: ok", false, vec![]),
        ("text: \"{public_url}\"", true, vec![]),
        ("json: { a: { b: \"{public_url}\" } }", true, vec![]),
        ("headers: { X-A: \"{setting:public_key}\" }", false, vec![Setting::PublicKey]),
    ] {
        let exchange = exchange(answer).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!((exchange.answer.tells_secrets(), exchange.needs_public_url()), (false, url), "{answer}");
        assert!(exchange.needs().eq(needs), "{answer}");
    }
    // No answer holds a secret as it is.
    for answer in [
        "text: \"{secret}\"",
        "json: { a: { b: \"{setting:verify_token}\" } }",
        "headers: { X-A: \"{setting:encryption_key}\" }",
        "text: \"{setting:app_id}\"",
    ] {
        assert!(exchange(answer).unwrap_err().contains("a secret must not stand in an answer"), "{answer}");
    }
    for bad in ["{nothing}", "{}", "{", "}", "{setting:x}", "{value:x}", "{secret:x}", "{public_url:x}", "{secrets}"] {
        assert!(Text::parse(bad, &[]).is_err(), "{bad}");
    }
    assert_eq!(Text::parse("{secret}{public_url}", &[]).unwrap().parts(), [Part::Secret, Part::PublicUrl]);
    assert_eq!(Text::parse("{{a}}", &[]).unwrap().parts(), [Part::Literal("{a}".into())]);
}
