//! `hookmoat explain`: a refused request comes in, its mistake comes out, and no secret with it.

use crate::support::proxy::program;
use crate::support::{Moat, post, refusal, sign};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

const SECRET: &str = "a-secret-of-some-length";

const CONFIG: &str = r#"
listen:
  - address: 127.0.0.1:8443
    tls: { certificate: tls.crt, private_key: tls.key, self_signed_if_missing: true }
https: reject
upstreams: { app: "http://127.0.0.1:9" }
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ file: secret.txt }]
    allow: [203.0.113.0/24]
    to: app
  - name: crm
    path: /webhooks/crm
    signature: { algorithm: hmac-sha256, from: { header: X-Signature }, signed: "{body}" }
    event_id: { header: X-Event-Id }
    secrets: [{ insecure_literal: another-secret-of-some-length }]
    to: app
"#;

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn explain(folder: &Path, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = program()
        .arg("explain")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn folder(secret: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("hookmoat.yaml"), CONFIG).expect("a file");
    std::fs::write(folder.path().join("secret.txt"), secret).expect("a file");
    folder
}

fn captured(signature: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /webhooks/github HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Type: application/json\r\n\
         X-GitHub-Delivery: evt-1\r\n{signature}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn github(secret: &str, signed: &str) -> String {
    format!("X-Hub-Signature-256: {}\r\n", sign::github(secret, signed.as_bytes()))
}

#[test]
fn a_good_request_is_walked_through_to_its_end() {
    let folder = folder(SECRET);
    let request = captured(&github(SECRET, "{}"), "{}");
    let ran = explain(folder.path(), &["github", "--from", "203.0.113.7", "--tls"], &request);
    assert_eq!((ran.code, &*ran.err), (Some(0), ""), "{}", ran.out);
    for line in [
        "✓ route      POST /webhooks/github goes to github",
        "✓ https      the sender used https",
        "✓ address    client 203.0.113.7 may send",
        "✓ verdict    verified",
        "? event id   evt-1; whether it was seen before is not known",
    ] {
        assert!(ran.out.contains(line), "{line:?} is not in\n{}", ran.out);
    }
    assert!(!ran.out.contains("would verify"), "{}", ran.out);
    // What a capture does not hold is not guessed.
    let ran = explain(folder.path(), &["github"], &request);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("? https ") && ran.out.contains("? address "), "{}", ran.out);
}

#[test]
fn what_the_head_alone_gets_refused_for_is_named_with_its_remedy() {
    let folder = folder(SECRET);
    let request = captured(&github(SECRET, "{}"), "{}");
    let ran = explain(folder.path(), &["github", "--from", "198.51.100.1", "--plain"], &request);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("✗ https      https_required ("), "{}", ran.out);
    assert!(ran.out.contains("✗ address    address_not_allowed: client 198.51.100.1 ("), "{}", ran.out);
    assert!(ran.out.contains("✓ verdict    verified"), "{}", ran.out);
    let ran = explain(folder.path(), &["crm"], &request);
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("goes to route github, not to crm"), "{}", ran.out);
    assert!(ran.out.contains("header X-Hub-Signature-256 stands, which is read by the presets"), "{}", ran.out);
    assert!(ran.out.contains("✗ event id   event_id_invalid"), "{}", ran.out);
}

#[test]
fn mistakes_are_found_and_neither_secret_nor_signature_is_shown() {
    let python = "{\"a\": [1, 2]}";
    for (secret, request, what) in [
        (format!("{SECRET} "), captured(&github(SECRET, "{}"), "{}"), "the secret had no white space"),
        (SECRET.into(), captured(&github(SECRET, "{}"), "{}\n"), "the body had no line end at its end"),
        (
            SECRET.into(),
            captured(&github(SECRET, python), "{\"a\":[1,2]}"),
            "the body were the same JSON with a space behind `,` and `:`, as Python's json.dumps writes",
        ),
        (
            SECRET.into(),
            captured(&github("another-secret-of-some-length", "{}"), "{}"),
            "the secret were that of route crm",
        ),
        (
            format!("\"{SECRET}\""),
            captured(&github(SECRET, python), "{\"a\":[1,2]}"),
            "the secret did not stand in quotes,\n  and the body were the same JSON",
        ),
    ] {
        let folder = folder(&secret);
        let ran = explain(folder.path(), &["github"], &request);
        assert_eq!(ran.code, Some(1), "{}", ran.err);
        assert!(ran.out.contains("✗ match      none of the secrets"), "{}", ran.out);
        assert!(ran.out.contains(&format!("It would verify if {what}")), "{what:?} is not in\n{}", ran.out);
        assert!(ran.out.contains("possibilities tried."), "{}", ran.out);
        let json = explain(folder.path(), &["github", "--json"], &request);
        assert_eq!(json.code, Some(1));
        let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
        assert_eq!(value["passes"], false);
        assert!(value["explanations"][0]["if"][0].is_string() && value["tried"].as_u64() > Some(0), "{value}");
        for hidden in [SECRET, "another-secret", sign::github(SECRET, b"{}").trim_start_matches("sha256=")] {
            let all = [&ran.out, &ran.err, &json.out, &json.err].map(|text| text.contains(hidden));
            assert_eq!(all, [false; 4], "{hidden} in {}", ran.out);
        }
    }
}

#[test]
fn a_check_that_only_observes_lets_the_request_pass_and_is_explained_all_the_same() {
    let folder = folder(SECRET);
    let config = CONFIG.replace("    allow:", "    observe: [signature]\n    allow:");
    std::fs::write(folder.path().join("hookmoat.yaml"), config).expect("a file");
    let ran = explain(folder.path(), &["github"], &captured(&github(SECRET, "{}"), "{}\n"));
    assert_eq!(ran.code, Some(0), "{}", ran.out);
    assert!(ran.out.contains("? match      none of the secrets (the check only observes)"), "{}", ran.out);
    assert!(ran.out.contains("It would verify if the body had no line end at its end"), "{}", ran.out);
}

#[test]
fn a_preset_stands_in_for_a_route_and_another_senders_request_is_recognised() {
    let folder = folder(SECRET);
    let arguments = ["-p", "slack", "--secret-file", "secret.txt", "--request", "-"];
    let ran = explain(folder.path(), &arguments, &captured(&github(SECRET, "{}"), "{}"));
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("It would verify if the sender were GitHub."), "{}", ran.out);
    assert!(ran.out.contains("      provider: github\n"), "{}", ran.out);
    // Its URL is signed and nobody said which one it is.
    let arguments = ["-p", "twilio", "--secret-file", "secret.txt"];
    let ran = explain(folder.path(), &arguments, &captured("X-Twilio-Signature: x\r\n", ""));
    assert_eq!(ran.code, Some(1));
    assert!(ran.out.contains("give it with --public-url URL"), "{}", ran.out);
}

#[test]
fn a_line_of_the_log_is_understood() {
    let folder = folder(SECRET);
    let line = r#"{"timestamp":"2026-01-31T12:00:00Z","level":"WARN","request_id":"ab12","outcome":"address_not_allowed","status":403,"route":"github","client":"198.51.100.1","detail":"client 198.51.100.1"}"#;
    let ran = explain(folder.path(), &["github"], format!("noise\n{line}\n").as_bytes());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.contains("✗ address    client 198.51.100.1 may not send"), "{}", ran.out);
    assert!(ran.out.contains("✗ outcome    address_not_allowed: client 198.51.100.1 ("), "{}", ran.out);
    let ran = explain(folder.path(), &["crm"], line.as_bytes());
    assert!(ran.out.contains("the line is of route github, not of crm"), "{}", ran.out);
}

#[test]
fn what_cannot_be_judged_is_a_fault() {
    let folder = folder(SECRET);
    for (arguments, input, what) in [
        (vec!["nobody"], "", "no route `nobody`"),
        (vec!["github"], "", "the request is empty"),
        (vec!["github"], "hello", "the request ends within its head"),
        (vec!["github", "--request", "no-such-file"], "", "cannot read no-such-file"),
        (vec!["-p", "github"], "", "a preset needs its secret"),
    ] {
        let ran = explain(folder.path(), &arguments, input.as_bytes());
        assert_eq!(ran.code, Some(2), "{arguments:?} {}", ran.out);
        assert!(ran.err.contains(what), "{}", ran.err);
    }
}

const DIAGNOSED: &str = r#"
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    diagnose: true
    to: app
  - name: quiet
    path: /webhooks/quiet
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    to: app
"#;

#[test]
fn the_proxy_diagnoses_into_its_log_a_few_times_only_and_the_command_reads_the_line() {
    let moat = Moat::new(DIAGNOSED);
    let python = "{\"a\": [1, 2]}";
    let compact = "{\"a\":[1,2]}";
    let signature = sign::github(SECRET, python.as_bytes());
    let refused = |path: &str, body: &str| {
        let headers =
            [("Content-Type", "application/json"), ("X-Hub-Signature-256", &*signature), ("Cookie", "hidden=1")];
        moat.refuses(
            path,
            &post(path, &headers, body.as_bytes()),
            refusal(401, if path.ends_with("quiet") { "quiet" } else { "github" }, "signature_mismatch"),
        );
    };
    refused("/webhooks/quiet", compact);
    moat.proxy.wait_for_event("signature_mismatch");
    assert!(!moat.proxy.log().contains("diagnosis"), "{}", moat.proxy.log());
    for _ in 0..8 {
        refused("/webhooks/github", compact);
    }
    let refusals =
        |events: &[serde_json::Value]| events.iter().filter(|event| event["outcome"] == "signature_mismatch").count();
    moat.wait_until("all told", || refusals(&moat.proxy.events()) == 9);
    let events = moat.proxy.events();
    let told: Vec<_> = events.iter().filter(|event| event["diagnosis"].is_string()).collect();
    assert!((1..8).contains(&told.len()), "{} diagnoses of 8", told.len());
    let event = told[0];
    assert_eq!(
        event["diagnosis"],
        "would verify if the body were the same JSON with a space behind `,` and `:`, as Python's json.dumps writes"
    );
    let capture = event["capture"].as_str().expect("a text");
    assert!(capture.contains("content-type: application/json"), "{capture}");
    assert!(capture.contains("x-hub-signature-256: [71 bytes]") && capture.contains("cookie: [8 bytes]"), "{capture}");
    let log = moat.proxy.log();
    for hidden in [SECRET, signature.trim_start_matches("sha256="), "hidden", compact, python, "[1,2]"] {
        assert!(!log.contains(hidden), "{hidden} in\n{log}");
    }
    // The sender learns nothing of it, and accepted requests are not looked at.
    let good = sign::github(SECRET, b"{}");
    moat.accepts(
        "good",
        &post("/webhooks/github", &[("X-Hub-Signature-256", &good), ("X-GitHub-Delivery", "1")], b"{}"),
    );
    assert!(moat.proxy.wait_for_event("forwarded")["diagnosis"].is_null());

    let line = serde_json::to_string(event).expect("JSON");
    std::fs::write(moat.proxy.path().join("sent.json"), python).expect("a file");
    let ran = explain(moat.proxy.path(), &["github", "--sent", "sent.json"], line.as_bytes());
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.contains("✗ outcome    signature_mismatch"), "{}", ran.out);
    assert!(ran.out.contains("would verify if the body were the same JSON"), "{}", ran.out);
    assert!(ran.out.contains("✗ body       another body arrived; it would be what was sent if"), "{}", ran.out);
    assert!(ran.out.contains("the same JSON compact"), "{}", ran.out);
}

#[test]
fn a_request_refused_before_its_body_is_diagnosed_by_its_head() {
    let moat = Moat::new(DIAGNOSED);
    let headers = [("X-Slack-Signature", "v0=00"), ("X-Slack-Request-Timestamp", "1")];
    moat.refuses("slack", &post("/webhooks/github", &headers, b"{}"), refusal(401, "github", "signature_missing"));
    let event = moat.proxy.wait_for_event("signature_missing");
    assert_eq!(event["diagnosis"], "header X-Slack-Signature stands, which is read by the presets slack");
}

/// Public keys, tokens and claims are explained in their own words.
#[test]
fn what_is_wrong_with_a_key_a_token_or_a_claim_is_said_in_these_words() {
    use hookmoat::provider;
    let folder = tempfile::tempdir().expect("a folder");
    // The vector with this note, or the first.
    let at = |id: &str, note: Option<&str>| {
        let provider = provider::find(id).expect("a preset");
        let is = |vector: &&hookmoat::vectors::Vector| note.is_none() || vector.note.as_deref() == note;
        provider.vectors.iter().find(is).unwrap_or_else(|| panic!("{id} has no vector {note:?}"))
    };
    let key = |id: &str, file: &str| {
        let text = at(id, None).public_key.clone().expect("a key");
        std::fs::write(folder.path().join(file), text).expect("a file");
    };
    key("plaid", "plaid.jwk");
    key("ebay", "ebay.pem");
    let config = "listen: [{ address: 127.0.0.1:8080 }]\nhttps: allow\nupstreams: { app: http://127.0.0.1:9 }\nroutes:
  - { name: plaid, path: /in, provider: plaid, public_keys: [{ file: plaid.jwk }], to: app }
  - name: ebay
    path: /ebay
    provider: ebay
    public_keys: [{ file: ebay.pem, id: 9936261a-7d7b-4621-a0f1-96ccb428af49 }]
    to: app
  - { name: apple, path: /apple, provider: apple-app-store, claims: { bundleId: com.example, environment: Sandbox }, to: app }
  - { name: chat, path: /chat, provider: google-chat, claims: { aud: us }, to: app }
";
    std::fs::write(folder.path().join("hookmoat.yaml"), config).expect("a file");
    for (route, id, note, lines) in [
        ("plaid", "plaid", None, &["keys       1 of 1", "✓ match      the key from file", "✓ verdict    verified"][..]),
        (
            "plaid",
            "plaid",
            Some("a key that is not known"),
            &["the request names the key another, and none of the keys"],
        ),
        ("plaid", "plaid", Some("another body"), &["✗ require", "request_body_sha256 is not the digest of the body"]),
        ("ebay", "ebay", Some("another key named"), &["the request names the key another, and none of the keys"]),
        (
            "apple",
            "apple-app-store",
            None,
            &[
                "✓ certificate",
                "✓ match      the key from the sender",
                "bundleId is not the one",
                "The signature itself holds",
            ],
        ),
        ("chat", "google-chat", None, &["no key is at hand", "name the file under `public_keys`"]),
    ] {
        let vector = at(id, note);
        let request = vector.request().expect("a request");
        let path = if route == "plaid" { "/in".to_owned() } else { format!("/{route}") };
        let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: hooks.example.com\r\n").into_bytes();
        for (name, value) in &request.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(format!("Content-Length: {}\r\n\r\n", request.body.len()).into_bytes());
        bytes.extend(&request.body);
        let time = vector.at.map(|at| at.to_string());
        let mut arguments = vec![route];
        arguments.extend(time.iter().flat_map(|time| ["--at", time]));
        let ran = explain(folder.path(), &arguments, &bytes);
        for line in lines {
            assert!(ran.out.contains(line), "{line:?} is not in\n{}{}", ran.out, ran.err);
        }
        assert!(!ran.out.contains("secret"), "{}", ran.out);
    }
}
