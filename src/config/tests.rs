//! The configuration as a whole: the shipped files, the golden cases, and texts that nobody would write.

use super::*;
use crate::policy::{Authentication, UpstreamAddress};
use proptest::prelude::*;
use serde_yaml::Value;
use std::fmt::Write;

const SECRET: &str = "a-secret-of-more-than-sixteen-bytes";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Variables that every test may use. `*_UNSET` is not set.
fn env(name: &str) -> Option<OsString> {
    match name {
        "EMPTY" => Some("".into()),
        "BACKEND_KEY" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
        "PLACEHOLDER" => Some("${GITHUB_SECRET}".into()),
        "WITH_LINE_END" => Some(format!("{SECRET}\n").into()),
        _ if name.ends_with("_UNSET") => None,
        _ => Some(SECRET.into()),
    }
}

fn parsed(text: &str) -> Result<Policy, Problems> {
    parse(text, &root().join("tests/golden/config"), &env)
}

fn shipped(name: &str) -> Policy {
    let path = root().join("config").join(name);
    match parse(&fs::read_to_string(path).unwrap(), &root().join("config"), &env) {
        Ok(policy) => policy,
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn the_minimal_configuration_loads() {
    let policy = shipped("minimal.yaml");
    assert_eq!((policy.listeners.len(), policy.upstreams.len(), policy.routes.iter().count()), (1, 1, 1));
    assert_eq!(policy.admin, Some("127.0.0.1:9901".parse().unwrap()));
    assert_eq!(policy.upstreams[0].address, UpstreamAddress::Socket("127.0.0.1:3000".parse().unwrap()));
    assert_eq!(policy.warnings, Vec::<String>::new());
}

#[test]
fn the_complete_configuration_loads_and_shows_the_defaults() {
    let complete = shipped("hookmoat.yaml");
    assert_eq!(complete.routes.iter().count(), 6);
    let minimal = shipped("minimal.yaml");
    assert_eq!(complete.timeouts, minimal.timeouts);
    assert_eq!(complete.limits, minimal.limits);
    assert_eq!(complete.shutdown, minimal.shutdown);
    let bounds = |policy: &Policy| (policy.state.max_ids, policy.state.max_buckets);
    assert_eq!(bounds(&complete), bounds(&minimal));
    assert!(matches!(complete.state.store, crate::policy::Store::Memory));
    assert_eq!(complete.log, minimal.log);
    assert_eq!(complete.admin, minimal.admin);
    let (a, b) = (&complete.upstreams[0], &minimal.upstreams[0]);
    assert_eq!(
        (a.timeout, a.connect_timeout, a.read_timeout, a.idle_timeout, a.max_idle),
        (b.timeout, b.connect_timeout, b.read_timeout, b.idle_timeout, b.max_idle)
    );
    let duplicates = |policy: &Policy| {
        let duplicates = policy.routes.iter().next().and_then(|(_, route)| route.duplicates.as_ref()).unwrap();
        (duplicates.lease, duplicates.replay_guard)
    };
    assert_eq!(duplicates(&complete), duplicates(&minimal));
    assert_ne!(complete.version, minimal.version);
}

#[test]
fn the_configurations_of_all_overlays_load() {
    let mut count = 0;
    for overlay in fs::read_dir(root().join("k8s/overlays")).unwrap() {
        let directory = overlay.unwrap().path();
        let text = fs::read_to_string(directory.join("hookmoat.yaml")).unwrap();
        let problems = parse(&text, &directory, &env).err().unwrap_or_default();
        // The certificate is mounted where it runs, and is the only thing that may be missing here.
        assert!(problems.problems.iter().all(|problem| problem.path.starts_with("listen[0].tls.")), "{problems}");
        count += 1;
    }
    assert!(count > 0);
}

/// Each file: a configuration, a line of dashes, and what `hookmoat check` says of it. `UPDATE_GOLDEN=1` rewrites.
#[test]
fn golden_cases_say_what_they_should() {
    const LINE: &str = "\n--------------------\n";
    let (mut wrong, mut cases) = (String::new(), 0);
    for entry in fs::read_dir(root().join("tests/golden/config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let whole = fs::read_to_string(&path).unwrap();
        let (text, expected) = whole.split_once(LINE).unwrap_or((&whole, ""));
        let text = format!("{text}\n");
        let said = match parsed(&text) {
            Ok(policy) => {
                policy.warnings.iter().fold("ok\n".to_owned(), |said, warning| said + "warning: " + warning + "\n")
            }
            Err(problems) => problems.to_string(),
        };
        let said = said.replace(&format!("{}/", root().display()), "");
        assert!(!said.contains(SECRET), "{}: a secret is shown:\n{said}", path.display());
        if said != expected {
            if std::env::var_os("UPDATE_GOLDEN").is_some() {
                fs::write(&path, format!("{}{LINE}{said}", text.trim_end_matches('\n'))).unwrap();
            }
            let _ = writeln!(wrong, "== {}\n{said}", path.display());
        }
    }
    assert!(cases > 0);
    assert!(wrong.is_empty(), "not what the golden files expect (UPDATE_GOLDEN=1 rewrites):\n{wrong}");
}

#[test]
fn a_missing_secret_closes_the_route_instead_of_opening_it() {
    let text = |secrets: &str| {
        format!(
            "listen: [{{address: 0.0.0.0:80}}]\nhttps: allow\nupstreams: {{app: http://127.0.0.1:1}}\n\
             routes: [{{name: a, path: /a, provider: github, secrets: {secrets}, to: app}}]"
        )
    };
    for secrets in ["[{env: X_UNSET}]", "[{env: EMPTY}]", "[{file: nowhere}]", "[{env: EMPTY}, {file: nowhere}]"] {
        let policy = parsed(&text(secrets)).unwrap();
        let (_, route) = policy.routes.iter().next().unwrap();
        assert!(matches!(&route.authentication, Authentication::NoSecret(what) if !what.is_empty()), "{secrets}");
        assert!(!policy.warnings.is_empty());
    }
    let policy = parsed(&text("[{env: X_UNSET}, {env: X}]")).unwrap();
    let (_, route) = policy.routes.iter().next().unwrap();
    assert!(matches!(route.authentication, Authentication::Signature(_)));
    assert_eq!(policy.warnings.len(), 1, "{:?}", policy.warnings);
}

#[test]
fn a_secret_file_is_read_beside_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hookmoat.yaml");
    fs::write(directory.path().join("secret"), format!("{SECRET}\n")).unwrap();
    fs::write(directory.path().join("nets"), "10.0.0.0/8 # office\n\n2001:db8::/32\n").unwrap();
    fs::write(
        &path,
        "listen: [{address: 0.0.0.0:80}]\nhttps: allow\nupstreams: {app: unix:app.sock}\nroutes:\n\
         - {name: a, path: /a, provider: github, secret: {file: secret}, allow: [{file: nets}], to: app}\n",
    )
    .unwrap();
    let loaded = load(&path).unwrap();
    let (_, route) = loaded.policy.routes.iter().next().unwrap();
    assert!(matches!(route.authentication, Authentication::Signature(_)));
    assert_eq!(loaded.policy.upstreams[0].address, UpstreamAddress::Unix(directory.path().join("app.sock")));
    for name in ["secret", "nets"] {
        assert!(loaded.files.contains(&directory.path().join(name)), "{:?}", loaded.files);
    }
}

#[test]
fn what_cannot_be_read_is_one_problem() {
    let directory = tempfile::tempdir().unwrap();
    let missing = load(&directory.path().join("none.yaml")).unwrap_err();
    assert_eq!(missing.problems.len(), 1);
    let path = directory.path().join("latin1.yaml");
    fs::write(&path, b"listen: []\nroutes: [\xe4]\n").unwrap();
    let problems = load(&path).unwrap_err().problems;
    assert_eq!((problems.len(), problems[0].line), (1, Some(2)));
}

#[test]
fn a_byte_order_mark_is_not_part_of_the_text() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hookmoat.yaml");
    let text = "listen: [{address: 0.0.0.0:80}]\nhttps: allow\nupstreams: {app: http://127.0.0.1:1}\n\
                routes: [{name: a, path: /a, signature: none, duplicates: off, to: app}]\n";
    fs::write(&path, format!("\u{feff}{text}")).unwrap();
    match load(&path) {
        Ok(loaded) => assert_eq!(loaded.text, text),
        Err(problems) => panic!("{problems}"),
    }
}

/// A pipe into which nobody writes would hold the start up for ever.
#[test]
fn only_regular_files_are_opened() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    // Kubernetes puts links there.
    std::os::unix::fs::symlink(&pipe, directory.path().join("link")).unwrap();
    let path = directory.path().join("hookmoat.yaml");
    for name in ["pipe", "link", "/dev/zero"] {
        let text = format!(
            "listen: [{{address: 0.0.0.0:80, tls: {{certificate: {name}, private_key: {name}}}}}]\n\
             upstreams: {{app: {{url: 'https://127.0.0.1:1', tls: {{ca: {name}}}}}}}\n\
             routes: [{{name: a, path: /a, provider: github, secret: {{file: {name}}}, allow: [{{file: {name}}}], to: app}}]\n"
        );
        fs::write(&path, text).unwrap();
        let problems = load(&path).unwrap_err();
        for place in [
            "listen[0].tls.certificate",
            "listen[0].tls.private_key",
            "upstreams.app.tls.ca",
            "routes[0].secret.file",
            "routes[0].allow[0].file",
        ] {
            let told = |problem: &Problem| problem.path == place && problem.problem.contains("not a regular file");
            assert!(problems.problems.iter().any(told), "{name}: {place}\n{problems}");
        }
    }
}

#[test]
fn problems_are_data_too() {
    let problems = parsed("workers: many\n").unwrap_err();
    let json = problems.to_json();
    let first = json["problems"].as_array().unwrap().iter().find(|one| one["path"] == "workers").unwrap();
    assert_eq!((first["line"].as_u64(), first["value"].as_str()), (Some(1), Some("many")));
    assert!(first["help"].is_string() && first["problem"].is_string());
}

/// A few lines can stand for millions of nodes, and a few bytes for a very deep tree.
#[test]
fn bombs_are_refused_quickly() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let _ = writeln!(bomb, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    for text in [bomb, "[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(50_000), "? ".repeat(50_000)] {
        let began = crate::request::Now::read().instant;
        assert!(!parsed(&text).unwrap_err().problems.is_empty());
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}: {}", began.elapsed(), &text[..20]);
    }
}

/// Every element is wrong: the answer is long, but it ends.
#[test]
fn many_problems_are_cut_off() {
    let text = format!("routes: [{}]", "1, ".repeat(5_000));
    let problems = parsed(&text).unwrap_err().problems;
    assert!((100..=110).contains(&problems.len()), "{}", problems.len());
}

/// Values of any kind, made of the words that mean something here.
fn any_value() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "name",
        "path",
        "/a",
        "/*",
        "to",
        "app",
        "routes",
        "listen",
        "address",
        "0.0.0.0:1",
        "tls",
        "upstreams",
        "url",
        "http://h",
        "unix:",
        "https",
        "reject",
        "allow",
        "10.0.0.0/8",
        "10.0.0.1/8",
        "rate_limit",
        "per",
        "header",
        "requests",
        "every",
        "1s",
        "0s",
        "secrets",
        "secret",
        "env",
        "file",
        "insecure_literal",
        "provider",
        "github",
        "signature",
        "none",
        "duplicates",
        "off",
        "event_id",
        "body",
        "json",
        "/~",
        "observe",
        "limits",
        "max_body",
        "1MiB",
        "<<",
        "state",
        "memory",
        "headers",
        "value",
        "until",
        "2026-01-01T00:00:00Z",
        "",
        "é\u{0}",
        "9999999999d",
    ]);
    let leaf = prop_oneof![
        4 => word.clone().prop_map(Value::from),
        1 => any::<String>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Sequence),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Mapping(pairs.into_iter().map(|(k, v)| (Value::from(k), v)).collect())),
        ]
    })
}

/// All nodes of a value, counted; the one with this number is replaced.
fn replace(value: &mut Value, number: &mut usize, with: &Value) {
    if *number == 0 {
        *value = with.clone();
        *number = usize::MAX;
        return;
    }
    *number -= 1;
    match value {
        Value::Sequence(items) => items.iter_mut().for_each(|item| replace(item, number, with)),
        Value::Mapping(map) => map.iter_mut().for_each(|(_, item)| replace(item, number, with)),
        _ => {}
    }
}

fn complete() -> String {
    fs::read_to_string(root().join("config/hookmoat.yaml")).unwrap()
}

/// Whatever it says, it says it in order, with a remedy, and without a secret.
fn sane(result: &Result<Policy, Problems>) {
    if let Err(problems) = result {
        assert!(!problems.problems.is_empty());
        assert!(problems.problems.is_sorted_by_key(|problem| problem.line));
        for problem in &problems.problems {
            assert!(!problem.problem.is_empty() && !problem.help.is_empty(), "{problem:?}");
        }
    }
}

/// No message quotes a secret.
fn discreet(result: &Result<Policy, Problems>) {
    if let Err(problems) = result {
        let said = problems.to_string();
        assert!(!said.contains(SECRET) && !said.contains("local_play_only"), "{said}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_gets_an_answer(text in ".{0,200}") {
        sane(&parsed(&text));
    }

    #[test]
    fn any_punctuation_gets_an_answer(text in r"[-a-c:\[\]{},&*!|>'\x22#%@`? \t\n]{0,80}") {
        sane(&parsed(&text));
    }

    #[test]
    fn any_yaml_gets_an_answer(value in any_value()) {
        let result = parsed(&serde_yaml::to_string(&value).unwrap());
        sane(&result);
        discreet(&result);
    }

    #[test]
    fn any_value_anywhere_gets_an_answer(number in 0usize..160, with in any_value()) {
        let mut value: Value = serde_yaml::from_str(&complete()).unwrap();
        replace(&mut value, &mut { number }, &with);
        let result = parsed(&serde_yaml::to_string(&value).unwrap());
        sane(&result);
        discreet(&result);
    }

    #[test]
    fn any_damage_to_the_text_gets_an_answer(at in any::<prop::sample::Index>(), length in 0usize..40, with in ".{0,8}") {
        let text: Vec<char> = complete().chars().collect();
        let at = at.index(text.len());
        let end = (at + length).min(text.len());
        let damaged: String = text[..at].iter().copied().chain(with.chars()).chain(text[end..].iter().copied()).collect();
        let result = parsed(&damaged);
        sane(&result);
        // A quote that is left open, a line that is joined to the next or a block makes a secret the value of another key.
        if with.chars().chain(text[at..end].iter().copied()).all(|c| c.is_ascii_alphanumeric()) {
            discreet(&result);
        }
    }
}
