//! The command line as people use it, mistakes included.

use crate::support::proxy::program;
use crate::support::{Backend, Proxy};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a command printed, and its exit code.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(command: &mut Command, input: &[u8]) -> Ran {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writing = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    let _ = writing.join();
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn hookmoat(folder: &Path, arguments: &[&str]) -> Ran {
    ran(program().args(arguments).current_dir(folder), b"")
}

const SECRET: &str = "a-secret-of-some-length";

const ROUTES: &str = r#"
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    to: app
  - name: own
    path: /webhooks/own/*
    signature:
      algorithm: hmac-sha512
      from: { header: X-Signature, encoding: base64 }
      signed: "{timestamp}.{body}"
      timestamp: { header: X-Timestamp, unit: seconds, past: 5m, future: 1m }
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    event_id: { header: X-Event-Id }
    to: app
  - name: slack
    path: /webhooks/slack
    provider: slack
    secrets: [{ env: NO_SUCH_SECRET }]
    to: app
  - name: open
    path: /open
    signature: none
    duplicates: off
    to: app
"#;

#[test]
fn send_shows_the_answer_and_its_exit_code_says_whether_it_was_accepted() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    let send = |arguments: &[&str]| hookmoat(proxy.path(), &[&["send"], arguments].concat());
    let url = |path: &str| format!("http://localhost:{}{path}", proxy.http.port());

    let accepted = send(&["github", "--id", "evt-1"]);
    assert_eq!((accepted.code, &*accepted.err), (Some(0), ""));
    assert_eq!(accepted.out, format!("POST {} → 200 OK\n  ok\n", url("/webhooks/github")));
    assert_eq!(backend.only().header("x-github-delivery"), Some("evt-1"));

    let again = send(&["github", "--id", "evt-1"]);
    assert_eq!(again.code, Some(0));
    assert_eq!(again.out, format!("POST {} → 200 OK  hookmoat-duplicate: true\n", url("/webhooks/github")));

    let forged = send(&["github", "--tamper"]);
    assert_eq!(forged.code, Some(1));
    assert!(forged.out.contains("→ 401 Unauthorized\n  {\"type\":\"about:blank\""), "{forged:?}");
    assert_eq!(backend.requests().len(), 1);

    let many = send(&["own", "-n", "3"]);
    assert_eq!(many.code, Some(0));
    assert_eq!(many.out, "   1  200 OK\n   2  200 OK\n   3  200 OK\n3 sent: 3 × 200 OK\n");
    assert_eq!(backend.requests().len(), 4);

    let copies = send(&["own", "-n", "2", "--id", "same", "--json"]);
    assert_eq!(copies.code, Some(0));
    let answers: Vec<serde_json::Value> =
        copies.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(answers.len(), 2);
    assert!(
        answers[1]["headers"].as_array().expect("a list").contains(&serde_json::json!(["hookmoat-duplicate", "true"]))
    );
    assert_eq!(backend.requests().len(), 5);

    let old = send(&["own", "--at", "2020-01-31T12:00:00Z"]);
    assert_eq!(old.code, Some(1));
    proxy.wait_for_event("timestamp_too_old");

    let other = send(&["github", "-H", "Content-Type: text/plain", "--data", "héllo", "-X", "put"]);
    assert!(other.out.contains("→ 405 Method Not Allowed  allow: POST"), "{other:?}");
}

#[test]
fn send_reaches_https_with_the_certificate_that_the_configuration_made() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    let url = format!("https://127.0.0.1:{}/webhooks/github", proxy.https.port());
    let sent = hookmoat(proxy.path(), &["send", "github", "-u", &url]);
    assert_eq!(sent.code, Some(0), "{sent:?}");
    assert_eq!(backend.only().header("x-forwarded-proto"), Some("https"));
    // A preset knows no configuration, so somebody has to say whom to trust.
    std::fs::write(proxy.path().join("secret"), format!("{SECRET}\n")).expect("a file");
    let preset = ["send", "-p", "github", "--secret-file", "secret", "-u", &url];
    let stranger = hookmoat(proxy.path(), &preset);
    assert_eq!(stranger.code, Some(2));
    assert!(stranger.err.contains("--ca FILE") && stranger.err.contains("--insecure"), "{stranger:?}");
    assert_eq!(hookmoat(proxy.path(), &[&preset[..], &["-k"]].concat()).code, Some(0));
    assert_eq!(hookmoat(proxy.path(), &[&preset[..], &["--ca", "tls/tls.crt"]].concat()).code, Some(0));
}

#[test]
fn a_printed_curl_command_sends_exactly_what_was_signed() {
    assert!(Command::new("curl").arg("--version").output().is_ok(), "this test needs curl: apt-get install curl");
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    let mut bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"@/etc/passwd".to_vec(),
        b"it's \"quoted\" $HOME `id` 100% \\n \\\\ !".to_vec(),
        b"line one\nline two\r\nand no end".to_vec(),
        b"\n".to_vec(),
        b"-n starts with a dash\0and 7\x01".to_vec(),
        "tëxt ✓".into(),
        (0..=255).collect(),
    ];
    bodies.push(b"a".repeat(200_000));
    for (at, body) in bodies.iter().enumerate() {
        let file = proxy.path().join("body");
        std::fs::write(&file, body).expect("a file");
        let signed = hookmoat(proxy.path(), &["sign", "own", "--data-file", "body", "-H", "X-Empty:"]);
        assert_eq!((signed.code, &*signed.err), (Some(0), ""));
        let sent = ran(Command::new("sh").args(["-s"]).current_dir(proxy.path()), signed.out.as_bytes());
        assert!(
            sent.out.starts_with("HTTP/1.1 200") || sent.out.contains("\nHTTP/1.1 200"),
            "{at}: {signed:?} {sent:?}"
        );
        let got = backend.requests();
        assert_eq!(got.len(), at + 1);
        assert!(got[at].body == *body, "{at}: {:?}", got[at].body.get(..80));
    }
    // HTTPS with the certificate that the configuration made; a preset's own route.
    let url = format!("https://localhost:{}/webhooks/github", proxy.https.port());
    let signed = hookmoat(proxy.path(), &["sign", "github", "-u", &url]);
    assert!(signed.out.contains("--cacert"), "{signed:?}");
    let sent = ran(Command::new("sh").args(["-s"]).current_dir(proxy.path()), signed.out.as_bytes());
    assert!(sent.out.starts_with("HTTP/2 200"), "{sent:?}");
}

#[test]
fn sign_prints_the_same_for_the_same_time_and_never_the_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("secret"), "It's a Secret to Everybody\n").expect("a file");
    let preset = ["-p", "github", "--secret-file", "secret", "-u", "http://127.0.0.1:1/x"];
    let sign = |more: &[&str]| hookmoat(folder.path(), &[&["sign"], &preset[..], more].concat());
    let signed = sign(&["-d", "Hello, World!", "--id", "1", "--at", "1700000000"]);
    assert_eq!(signed.code, Some(0));
    assert_eq!(
        signed.out,
        "curl -i http://127.0.0.1:1/x \\\n  -H 'x-github-delivery: 1' \\\n  -H 'x-hub-signature-256: \
         sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17' \\\n  -H 'Content-Type:' \\\n  \
         --data-raw 'Hello, World!'\n"
    );
    let signed = sign(&["-d", "Hello, World!", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&signed.out).expect("JSON");
    assert_eq!(value["body"], "Hello, World!");
    assert_eq!(value["secret"], "file secret");
    assert!(!signed.out.contains("Everybody"));
    let typed = |more: &[&str]| {
        let value: serde_json::Value = serde_json::from_str(&sign(more).out).expect("JSON");
        let headers = value["headers"].as_array().cloned().unwrap_or_default();
        let own = headers.iter().find(|header| header[0] == "Content-Type");
        own.and_then(|header| header[1].as_str()).map(str::to_owned)
    };
    assert_eq!(typed(&["--json", "-d", "{\"a\": 1}"]).as_deref(), Some("application/json"));
    let other = ["--json", "-d", "{\"a\": 1}", "-H", "Content-Type: text/plain"];
    assert_eq!(typed(&other).as_deref(), Some("text/plain"));
    assert_eq!(typed(&["--json", "-d", "a=1"]), None);
    std::fs::write(folder.path().join("body"), [0xff, 0]).expect("a file");
    let signed = sign(&["--data-file", "body", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&signed.out).expect("JSON");
    assert_eq!((value["body_base64"].as_str(), value.get("body")), (Some("/wA="), None));
}

fn captured(head: &str, body: &[u8]) -> Vec<u8> {
    [head.replace('\n', "\r\n").as_bytes(), b"\r\n", body].concat()
}

const HELLO: &str = "POST /webhooks/github HTTP/1.1\nHost: x\nX-Hub-Signature-256: \
                     sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17\n";

fn verify(more: &[&str], input: &[u8]) -> Ran {
    let mut command = program();
    command.args(["verify", "-p", "github", "--secret-env", "THE_SECRET"]).args(more);
    ran(command.env("THE_SECRET", "It's a Secret to Everybody"), input)
}

#[test]
fn verify_shows_every_step_and_never_a_secret() {
    let good = verify(&[], &captured(HELLO, b"Hello, World!"));
    assert_eq!((good.code, &*good.err), (Some(0), ""));
    assert_eq!(
        good.out,
        "✓ scheme     hmac-sha256\n✓ secrets    1 of 1 valid now\n✓ signature  header x-hub-signature-256 holds 1 of 32 \
         bytes\n✓ signed     13 bytes, sha256 dffd6021bb2bd5b0af676290809ec3a53191dd81c7f70a4b28688a362182986f: Hello, \
         World!\n✓ match      the secret from env THE_SECRET\n✓ verdict    verified\n"
    );
    let bad = verify(&[], &captured(HELLO, b"Hello, world!"));
    assert_eq!(bad.code, Some(1));
    assert!(bad.out.contains("✗ match      none of the secrets\n✗ verdict    signature_mismatch"), "{bad:?}");
    let json = verify(&["--json"], &captured(HELLO, b"Hello, World!"));
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value["verified"], true);
    assert_eq!(value["steps"][0]["name"], "scheme");
    // The right signature of a wrong body would be a gift to a forger.
    for ran in [good, bad, json] {
        assert!(!ran.out.contains("Everybody") && !ran.err.contains("Everybody"));
        assert!(!ran.out.contains("757107ea"), "{}", ran.out);
    }
}

#[test]
fn verify_reads_what_people_have() {
    // An editor's line ends, and one at the end of the body.
    let edited = [HELLO.as_bytes(), b"\nHello, World!\n"].concat();
    let untrimmed = verify(&[], &edited);
    assert_eq!(untrimmed.code, Some(1));
    assert!(untrimmed.err.contains("--trim"), "{untrimmed:?}");
    assert_eq!(verify(&["--trim"], &edited).code, Some(0));
    // As a proxy is asked, and chunked as it came.
    let head = HELLO.replace("POST /", "POST http://x/") + "Transfer-Encoding: chunked\n";
    assert_eq!(verify(&[], &captured(&head, b"7\r\nHello, \r\n6;x=y\r\nWorld!\r\n0\r\n\r\n")).code, Some(0));
    assert_eq!(verify(&[], &captured(&head, b"Hello, World!")).code, Some(0));
    // A wrong length is worth a note.
    let noted = verify(&[], &captured(&(HELLO.to_owned() + "Content-Length: 14\n"), b"Hello, World!"));
    assert_eq!(noted.code, Some(0));
    assert!(noted.err.contains("Content-Length says 14 bytes, the body here has 13"), "{noted:?}");
    for (input, why) in [
        (&b""[..], "the request is empty"),
        (b"POST / HTTP/1.1\r\nA: b\r\n", "an empty line has to stand"),
        (b"{\"json\":true}\n\n", "begins with a line like"),
        (b"=> Send header, 3 bytes (0x3)\n0000: POST / HTTP/1.1\n", "not --trace-ascii"),
        (b"== Info: Trying\n", "no request in this trace"),
    ] {
        let ran = verify(&[], input);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.err.contains(why), "{ran:?}");
    }
}

#[test]
fn verify_reads_a_trace_of_curl_and_judges_at_a_given_time() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    let signed = hookmoat(proxy.path(), &["sign", "own", "-d", "some body", "--at", "2026-01-31T12:00:00Z"]);
    for trace in ["--trace t", "--trace t --trace-time"] {
        let command = signed.out.replacen("curl -i", &format!("curl -i {trace}"), 1);
        ran(Command::new("sh").args(["-s"]).current_dir(proxy.path()), command.as_bytes());
        let verify = |more: &[&str]| hookmoat(proxy.path(), &[&["verify", "own", "--request", "t"], more].concat());
        let now = verify(&[]);
        assert_eq!(now.code, Some(1), "{now:?}");
        assert!(now.out.contains("✗ timestamp  ") && now.out.contains("✓ match      "), "{now:?}");
        let then = verify(&["--at", "1769860860"]);
        assert_eq!(then.code, Some(0), "{then:?}");
        assert!(then.out.contains("✓ timestamp  1769860800 is 60 s old"), "{then:?}");
    }
}

#[test]
fn the_vectors_of_every_preset_pass_by_the_names_of_their_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/providers");
    let mut command = program();
    command.arg("vectors");
    let mut files = 0;
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        command.arg(entry.expect("an entry").path());
        files += 1;
    }
    let all = ran(&mut command, b"");
    assert_eq!(all.code, Some(0), "{all:?}");
    let last = all.out.lines().last().expect("a last line");
    let count = all.out.lines().filter(|line| line.starts_with("ok    ")).count();
    assert_eq!(last, format!("{count} passed, 0 failed"));
    assert!(count > 3 * files, "{last}");
}

#[test]
fn vectors_says_which_one_failed_and_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let vector = |provider: &str, expect: &str| {
        format!(
            "- {provider}secrets: [\"It's a Secret to Everybody\"]\n  note: a note\n  request: {{ method: POST, url: null, \
             headers: {{ X-Hub-Signature-256: \
             sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17 }}, body: 'Hello, World!' }}\n  \
             expect: {expect}\n"
        )
    };
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
    write("some.yaml", format!("vectors:\n{}", vector("provider: github\n  ", "accept")));
    let good = hookmoat(folder.path(), &["vectors", "some.yaml"]);
    assert_eq!((good.code, &*good.out), (Some(0), "ok    github [0] accept  a note\n1 passed, 0 failed\n"));
    write("github.yaml", vector("", "accept") + &vector("", "reject"));
    let mixed = hookmoat(folder.path(), &["vectors", "some.yaml", "github.yaml"]);
    assert_eq!(mixed.code, Some(1));
    assert!(mixed.out.contains("FAIL  github [1] reject  a note: was to be rejected, but verified\n"), "{mixed:?}");
    assert!(mixed.out.ends_with("\n2 passed, 1 failed\n"), "{mixed:?}");
    let json = hookmoat(folder.path(), &["vectors", "--json", "some.yaml", "github.yaml"]);
    let passed: Vec<_> = json
        .out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["passed"].clone())
        .collect();
    assert_eq!(passed, [true, true, false]);
    assert_eq!((json.code, json.err.trim_end()), (Some(1), "2 passed, 1 failed"));
    write("nameless.yaml", vector("", "accept"));
    let nameless = hookmoat(folder.path(), &["vectors", "nameless.yaml"]);
    assert_eq!(nameless.code, Some(1));
    assert!(nameless.out.contains("add `provider: ID`"), "{nameless:?}");
    write("other.yaml", format!("{}- {{ expect: 3 }}\n{0}", vector("provider: github\n  ", "perhaps")));
    let other = hookmoat(folder.path(), &["vectors", "other.yaml", "some.yaml"]);
    assert_eq!(other.code, Some(1));
    assert!(
        other.out.contains("FAIL  github [0] other  a note: `expect` is neither accept, reject nor handshake"),
        "{other:?}"
    );
    assert!(other.out.contains("FAIL  - [1] -: vectors[1]"), "{other:?}");
    assert!(other.out.ends_with("\n1 passed, 3 failed\n"), "{other:?}");
    write("broken.yaml", "vectors: 3".into());
    for name in ["broken.yaml", "missing.yaml"] {
        let broken = hookmoat(folder.path(), &["vectors", "some.yaml", name]);
        assert_eq!(broken.code, Some(2));
        assert!(broken.err.contains(name) && broken.out.ends_with("1 passed, 0 failed\n"), "{broken:?}");
    }
}

#[test]
fn providers_are_listed_and_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = hookmoat(folder.path(), &["providers"]);
    assert_eq!(list.code, Some(0));
    for id in ["github", "line", "slack", "standard-webhooks", "stripe", "twilio"] {
        assert!(list.out.lines().any(|line| line.starts_with(&format!("{id} "))), "{id}: {}", list.out);
    }
    let json = hookmoat(folder.path(), &["providers", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!(value.as_array().map(Vec::len), Some(list.out.lines().count() - 1));
    let one = hookmoat(folder.path(), &["providers", "stripe"]);
    assert!(one.code == Some(0) && one.out.contains("name: Stripe\n"), "{one:?}");
    assert!(one.out.contains("provider: stripe\n") && one.out.contains("secrets: [{ env: STRIPE_SECRET }]"), "{one:?}");
    let found = hookmoat(folder.path(), &["providers", "--search", "ZoHo"]);
    assert!(found.code == Some(0) && found.out.contains("zoho-crm ") && !found.out.contains("github"), "{found:?}");
    let chat = hookmoat(folder.path(), &["providers", "--category", "chat", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&chat.out).expect("JSON");
    let list = value.as_array().expect("a list");
    assert!(list.len() > 5 && list.iter().all(|preset| preset["category"] == "chat"), "{chat:?}");
    let slack = list.iter().find(|preset| preset["id"] == "slack").expect("Slack");
    assert!(slack["recipe"]["secret"].as_str().is_some_and(|text| text.contains("Signing Secret")), "{slack}");
    let none = hookmoat(folder.path(), &["providers", "--search", "no such sender"]);
    assert!(none.code == Some(1) && none.err.contains("no preset fits"), "{none:?}");
    let unknown = hookmoat(folder.path(), &["providers", "--category", "chats"]);
    assert!(unknown.code == Some(2) && unknown.err.contains("there are: accounting, "), "{unknown:?}");
    let wrong = hookmoat(folder.path(), &["providers", "strip"]);
    assert_eq!(wrong.code, Some(2));
    assert_eq!(wrong.err, "error: no preset `strip`; did you mean `stripe`? `hookmoat providers` lists them\n");
}

#[test]
fn check_finds_the_configuration_and_says_what_is_wrong() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = hookmoat(folder.path(), &["check"]);
    assert_eq!((missing.code, missing.err.is_empty() && missing.out.is_empty()), (Some(2), false));
    let text = format!("{}{}", missing.out, missing.err);
    assert!(text.contains("hookmoat.yaml: cannot be read") && text.contains("--config"), "{text}");
    let config = "listen: [{ address: 127.0.0.1:1 }]\nhttps: allow\nupstreams: { app: \"http://127.0.0.1:2\" }\nroutes:\n  \
                  - { name: a, path: /a, signature: none, to: app, rate_limt: 3 }\n";
    std::fs::write(folder.path().join("hookmoat.yaml"), config).expect("a file");
    let wrong = hookmoat(folder.path(), &["check"]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.out.contains("hookmoat.yaml:5: routes[0].rate_limt") && wrong.out.contains("  help: "), "{wrong:?}");
    let json = hookmoat(folder.path(), &["check", "--json"]);
    let value: serde_json::Value = serde_json::from_str(&json.out).expect("JSON");
    assert_eq!((json.code, &value["ok"]), (Some(2), &false.into()));
    assert_eq!((&value["file"], &value["problems"][0]["line"]), (&"hookmoat.yaml".into(), &5u64.into()), "{json:?}");
    std::fs::write(folder.path().join("other.yaml"), config.replace(", rate_limt: 3", "")).expect("a file");
    let named = ran(program().arg("check").current_dir(&folder).env("HOOKMOAT_CONFIG", "other.yaml"), b"");
    assert_eq!(named.code, Some(0), "{named:?}");
    assert!(named.out.ends_with("other.yaml: ok, 1 route\n"), "{named:?}");
}

#[test]
fn a_comparison_says_what_becomes_weaker() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |route: &str| {
        format!(
            "listen: [{{ address: 127.0.0.1:1 }}]\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:2\" }}\nroutes:\n  \
             - {{ name: a, path: /a, provider: github, secrets: [{{ insecure_literal: {SECRET} }}], to: app{route} }}\n"
        )
    };
    let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
    write("old.yaml", config(", allow: [192.0.2.0/24]"));
    write("new.yaml", config(", allow: [192.0.2.0/24, 198.51.100.7], max_body: 64KiB"));
    write("broken.yaml", config(", allow: 7"));
    let weaker = hookmoat(folder.path(), &["check", "--diff", "old.yaml", "new.yaml"]);
    let expected = "weaker    route a: allow: 198.51.100.7 added\nstronger  route a: max_body: not set → 64KiB\n";
    assert_eq!((weaker.code, &*weaker.out), (Some(1), expected));
    let back = hookmoat(folder.path(), &["check", "--json", "--diff", "new.yaml", "new.yaml"]);
    let value: serde_json::Value = serde_json::from_str(&back.out).expect("JSON");
    assert_eq!((back.code, &value["ok"], &value["changes"]), (Some(0), &true.into(), &serde_json::json!([])));
    let broken = hookmoat(folder.path(), &["check", "--diff", "old.yaml", "broken.yaml"]);
    assert_eq!(broken.code, Some(2));
    assert!(broken.out.contains("broken.yaml:5: routes[0].allow"), "{broken:?}");
    let broken = hookmoat(folder.path(), &["check", "--json", "--diff", "old.yaml", "broken.yaml"]);
    let value: serde_json::Value = serde_json::from_str(&broken.out).expect("JSON");
    assert_eq!((&value["file"], &value["problems"][0]["line"]), (&"broken.yaml".into(), &5u64.into()), "{broken:?}");
}

#[test]
fn completions_are_scripts_that_their_shell_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let script = hookmoat(folder.path(), &["completions", shell]);
        assert_eq!(script.code, Some(0));
        for word in ["explain", "providers", "--secret-env"] {
            assert!(script.out.contains(word) || script.out.contains(word.trim_start_matches('-')), "{shell}: {word}");
        }
    }
    let script = hookmoat(folder.path(), &["completions", "bash"]).out;
    let read = ran(Command::new("bash").arg("-n"), script.as_bytes());
    assert_eq!((read.code, &*read.err), (Some(0), ""));
}

#[test]
fn schema_prints_the_committed_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = hookmoat(folder.path(), &["schema"]);
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/hookmoat.schema.json");
    assert_eq!(schema.code, Some(0));
    assert_eq!(schema.out, std::fs::read_to_string(committed).expect("the schema"));
}

#[test]
fn a_reader_who_goes_away_ends_a_command_quietly() {
    // Both are longer than what waits in a pipe.
    for line in ["schema", "providers --json"] {
        let mut command = program();
        command.args(line.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(141), ""), "{line}");
    }
}

#[test]
fn drain_signals_nobody_but_hookmoat() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut stranger = Command::new("sleep").arg("60").spawn().expect("it starts");
    let number = stranger.id().to_string();
    let refused = hookmoat(folder.path(), &["drain", "--pid", &number]);
    let goes_on = stranger.try_wait().expect("a status").is_none();
    let _ = stranger.kill();
    let _ = stranger.wait();
    assert!(goes_on, "{refused:?}");
    assert_eq!(refused.code, Some(1), "{refused:?}");
    for word in [&*number, "no hookmoat", "nothing was sent", "--pid"] {
        assert!(refused.err.contains(word), "{refused:?}");
    }
}

#[test]
fn check_reads_a_pipe_and_a_byte_order_mark_and_names_the_place_of_a_secret() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = |secret: &str| {
        format!(
            "\u{feff}listen: [{{ address: 127.0.0.1:1 }}]\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:2\" }}\nroutes:\n  \
             - {{ name: a, path: /a, provider: github, {secret}, to: app }}\n"
        )
    };
    let check = |text: &str| {
        let mut command = program();
        command.args(["check", "--config", "/dev/stdin"]).current_dir(folder.path());
        ran(&mut command, text.as_bytes())
    };
    let good = check(&config(&format!("secret: {{ insecure_literal: {SECRET} }}")));
    assert_eq!(good.code, Some(0), "{good:?}");
    for secret in [format!("secret: {SECRET}"), format!("secrets: {SECRET}"), format!("secrets: [{SECRET}]")] {
        let wrong = check(&config(&secret));
        assert_eq!(wrong.code, Some(2), "{wrong:?}");
        assert!(wrong.out.contains("{env: NAME}") && !wrong.out.contains(SECRET), "{wrong:?}");
    }
}

#[test]
fn a_mistake_gets_its_remedy_and_exit_code_2() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTES);
    std::fs::write(proxy.path().join("empty"), "\n").expect("a file");
    let preset = "-p github --secret-env HOME";
    for (line, said) in [
        ("send nope", "no route `nope` in hookmoat.yaml; it has: github, own, slack, open"),
        ("send stripe", "help: for the preset stripe write `--provider stripe`"),
        ("send github -c nope.yaml", "nope.yaml: cannot be read"),
        ("send slack", "route slack has no usable secret: environment variable NO_SUCH_SECRET is not set"),
        ("send open", "route open has no signature"),
        ("send -p githbu --secret-env HOME -u http://127.0.0.1:1/", "did you mean `github`?"),
        ("send -p github -u http://127.0.0.1:1/", "--secret-env NAME or --secret-file FILE"),
        ("send -p github --secret-env NO_SUCH_SECRET -u http://127.0.0.1:1/", "NO_SUCH_SECRET is not set"),
        ("send -p github --secret-file nope -u http://127.0.0.1:1/", "cannot read nope"),
        ("send -p github --secret-file empty -u http://127.0.0.1:1/", "empty is empty"),
        (&format!("sign {preset}"), "a preset needs --url URL"),
        (&format!("sign {preset} -u 127.0.0.1:1/x"), "`127.0.0.1:1/x` is not a URL like http://"),
        (&format!("sign {preset} -u ftp://x/"), "`ftp://x/` is not a URL like http://"),
        (&format!("send {preset} -u http://127.0.0.1:1/"), "does Hookmoat run there?"),
        ("sign -p twilio --secret-env HOME -u http://127.0.0.1:1/", "--public-url URL"),
        ("sign github -H nocolon", "not of the form `Name: value`"),
        ("sign github -H Na\u{ef}ve:x", "characters that no header may have"),
        ("sign github --variant v9", "no variant `v9`"),
        ("sign github --at yesterday", "seconds since 1970 or a time like 2026-01-31T12:00:00Z"),
        ("sign github --data-file nope", "cannot read nope"),
        ("send github -n 0", "0 is not in 1.."),
        ("verify github --request nope", "cannot read nope"),
        ("vectors", "<FILE>"),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        let ran = hookmoat(proxy.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
        assert!(ran.err.contains(said), "{line}: {ran:?}");
        assert!(!ran.err.contains(SECRET), "{line}: {ran:?}");
    }
    assert_eq!(backend.connections(), 0);
}
