//! The questions of senders over the real socket, while no backend is there at all. Each stands in its preset's file
//! with the answer that its sender wants.

use crate::support::{Answer, Connection, Proxy, proxy::free_addresses, request, within};
use hookmoat::check::handshake::Setting;
use hookmoat::check::signature::UnsignedRequest;
use hookmoat::provider::{self, Provider};
use hookmoat::request::Now;
use hookmoat::vectors::HandshakeVector;
use std::time::Duration;

struct Case {
    name: String,
    provider: &'static Provider,
    vector: &'static HandshakeVector,
}

fn cases() -> Vec<Case> {
    let of = |provider: &'static Provider| {
        let number = provider.handshake_vectors.iter().enumerate();
        number.map(move |(at, vector)| Case { name: format!("{}-{at}", provider.id), provider, vector })
    };
    provider::all().iter().flat_map(|provider| of(provider)).collect()
}

impl Case {
    fn route(&self, handshake: bool, env: &mut Vec<(String, String)>) -> String {
        let mut variable = |kind: &str, at: usize, value: &str| {
            let name = format!("{kind}_{}_{at}", self.name.replace('-', "_").to_uppercase());
            env.push((name.clone(), value.to_owned()));
            format!("{{ env: {name} }}")
        };
        let secrets = self.vector.secrets.iter().enumerate();
        let secrets: Vec<String> = secrets.map(|(at, secret)| variable("SECRET", at, secret)).collect();
        let (settings, signed): (Vec<_>, Vec<_>) =
            self.vector.settings.iter().partition(|(name, _)| Setting::named(name).is_some());
        let settings = settings.into_iter().enumerate();
        let mut settings: Vec<String> =
            settings.map(|(at, (name, value))| format!("{name}: {}", variable("SETTING", at, value))).collect();
        if self.provider.handshakes.iter().any(|exchange| !exchange.hands_over.is_empty() || exchange.visit.is_some()) {
            settings.push(format!("keep: kept-{}", self.name));
        }
        let settings = if settings.is_empty() { "true".into() } else { format!("{{ {} }}", settings.join(", ")) };
        let handshake = if handshake { format!("    handshake: {settings}\n") } else { String::new() };
        let mut keys = match secrets.is_empty() {
            true => String::new(),
            false => format!("    secrets: [{}]\n", secrets.join(", ")),
        };
        if let Some(key) = &self.vector.public_key {
            keys += &format!("    public_keys: [{{ value: {key:?} }}]\n");
        }
        if !self.vector.claims.is_empty() {
            keys += &format!("    claims: {}\n", serde_json::to_string(&self.vector.claims).expect("JSON"));
        }
        if !signed.is_empty() {
            let signed: std::collections::BTreeMap<_, _> = signed.into_iter().collect();
            keys += &format!("    settings: {}\n", serde_json::to_string(&signed).expect("JSON"));
        }
        let public = self.vector.request.url.as_deref().map(|url| url.split('?').next().unwrap_or(url));
        let public = public.map_or(String::new(), |url| format!("    public_url: {url:?}\n"));
        format!(
            "  - name: {name}\n    host: {name}.test\n    path: {path:?}\n    provider: {provider}\n{keys}\
             {public}{handshake}    to: app\n",
            name = self.name,
            path = self.target().split('?').next().unwrap_or_default(),
            provider = self.provider.id,
        )
    }

    fn request(&self) -> UnsignedRequest {
        self.vector.request(self.provider, Now::read()).expect("a request").0
    }

    fn target(&self) -> String {
        let url = self.request().url;
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        rest.find('/').map_or("/", |at| &rest[at..]).to_owned()
    }

    fn wire(&self) -> Vec<u8> {
        let made = self.request();
        let host = format!("{}.test", self.name);
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("headers of vectors are text");
        let headers: Vec<(String, String)> =
            made.headers.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let mut headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        headers.push(("Host", &host));
        request(&made.method, &self.target(), &headers, &made.body)
    }
}

fn start(cases: &[Case], handshake: bool) -> Proxy {
    let mut env = Vec::new();
    let routes: String = cases.iter().map(|case| case.route(handshake, &mut env)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let [nobody] = free_addresses();
    Proxy::start_with(nobody, &format!("routes:\n{routes}"), &env)
}

fn compare(case: &Case, answer: &Answer) -> Result<(), String> {
    let fields: Vec<(&str, &str)> = answer.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    case.vector.answer.compare(answer.status, &fields, &answer.body)
}

#[test]
fn every_question_gets_the_answer_that_its_sender_wants_while_the_backend_is_down() {
    let cases = cases();
    assert!(cases.len() > 40, "{}", cases.len());
    let proxy = start(&cases, true);
    for case in &cases {
        let answer = Connection::open(proxy.http).send(&case.wire()).answer_to(&case.vector.request.method);
        if let Err(why) = compare(case, &answer) {
            panic!("{} ({}): {why}\n{answer:?}\n{}", case.name, case.vector.exchange, proxy.log());
        }
        if case.vector.answer.refused {
            continue;
        }
        let series = format!("hookmoat_requests_total{{outcome=\"handshake\",route=\"{}\"}}", case.name);
        assert!(within(Duration::from_secs(10), || proxy.metric(&series) == 1.0), "{}: not counted", case.name);
        if answer.header("content-type").is_some() {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", case.name);
        }
        if case.provider.manners.empty_unauthorized {
            let mut forged = case.wire();
            let last = forged.len() - 1;
            forged[last] = b' ';
            let answer = proxy.send(&forged);
            assert_eq!((answer.status, &*answer.text()), (401, ""), "{}", case.name);
        }
    }
    assert_eq!(proxy.metric("hookmoat_backend_responses_total{code=\"2xx\",route=\"slack-0\"}"), 0.0);
}

#[test]
fn a_route_that_does_not_ask_answers_no_questions() {
    let cases = cases();
    let proxy = start(&cases, false);
    for case in cases.iter().filter(|case| !case.vector.answer.refused) {
        let answer = Connection::open(proxy.http).send(&case.wire()).answer_to(&case.vector.request.method);
        // Signed ones are events like others, whose backend is not there; the rest is refused.
        assert!([401, 405, 502].contains(&answer.status), "{}: {answer:?}", case.name);
    }
}

#[test]
fn what_a_sender_hands_over_is_kept_for_the_operator_and_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let config = "routes:
  - name: asana
    path: /asana
    provider: asana
    secrets: [{ file: secret }]
    handshake: { keep: handed-over.jsonl }
    to: app
";
    let [nobody] = free_addresses();
    let proxy = Proxy::start(nobody, config);
    // No secret yet: nothing else is taken.
    assert_eq!(proxy.send(&request("POST", "/asana", &[], b"{}")).status, 503);
    let ask = |secret: &str| proxy.send(&request("POST", "/asana", &[("X-Hook-Secret", secret)], b""));
    let answer = ask("b537207f20cbfa02357cf448134da559");
    assert_eq!((answer.status, answer.header("x-hook-secret")), (200, Some("b537207f20cbfa02357cf448134da559")));
    let path = proxy.path().join("handed-over.jsonl");
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("JSON");
    assert_eq!(line["values"]["header x-hook-secret"], "b537207f20cbfa02357cf448134da559");
    assert_eq!((&line["route"], &line["client"]), (&"asana".into(), &"127.0.0.1".into()));
    assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    proxy.wait_for_event("handshake");
    assert!(!proxy.log().contains("b537207f20cbfa02357cf448134da559"), "{}", proxy.log());
    // Anybody may ask: the file does not grow for ever.
    let long = "x".repeat(1000);
    let statuses: Vec<u16> = (0..80).map(|_| ask(&long).status).collect();
    assert_eq!((statuses[0], statuses[79]), (200, 503));
    assert!(std::fs::metadata(&path).expect("a file").len() <= 64 << 10);
}

#[test]
fn questions_of_a_sender_without_a_preset_are_described_in_the_route() {
    let config = r#"routes:
  - name: ebay
    path: /ebay
    provider: stripe
    public_url: https://hooks.example.com/ebay
    secrets: [{ env: SECRET }]
    handshake:
      verify_token: { env: TOKEN }
      exchanges:
        - name: challenge_code
          method: GET
          when: { query: challenge_code }
          proof: none
          values:
            - { name: answer, digest: sha256, over: "{query:challenge_code}{setting:verify_token}{public_url}", encoding: hex }
          answer: { json: { challengeResponse: "{value:answer}" } }
    to: app
  - name: fitbit
    path: /fitbit
    provider: github
    secrets: [{ env: SECRET }]
    handshake:
      verify_token: { env: TOKEN }
      exchanges:
        - { name: verify, method: GET, when: { query: verify }, token: "query:verify", wrong: 404, answer: { status: 204 } }
    to: app
  - name: cloudevents
    path: /cloudevents
    provider: github
    secrets: [{ env: SECRET }]
    handshake:
      exchanges:
        - name: WebHook-Request-Origin
          method: OPTIONS
          when: { header: WebHook-Request-Origin }
          proof: none
          answer:
            headers: { WebHook-Allowed-Origin: "{header:WebHook-Request-Origin}", WebHook-Allowed-Rate: "*" }
    to: app
"#;
    let [nobody] = free_addresses();
    let token = "71745723-d031-455c-bfa5-f90d11b4f20a";
    let proxy = Proxy::start_with(nobody, config, &[("SECRET", "kQ7-b2Xw9_tZ4mLr1VnYc8Hs"), ("TOKEN", token)]);
    let get = |target: &str| proxy.send(&request("GET", target, &[], b""));
    // sha256sum of the three texts joined.
    let answer = get("/ebay?challenge_code=a8628072-3d33-45ee-9004-bee86830a22d");
    let expected = {
        use sha2::{Digest, Sha256};
        let text = format!("a8628072-3d33-45ee-9004-bee86830a22d{token}https://hooks.example.com/ebay");
        hex::encode(Sha256::digest(text))
    };
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.text(), format!("{{\"challengeResponse\":\"{expected}\"}}"));
    assert_eq!(get(&format!("/fitbit?verify={token}")).status, 204);
    for wrong in ["/fitbit?verify=wrong", "/fitbit?verify=", "/fitbit?verify=a&verify=a"] {
        let status = get(wrong).status;
        assert!([404, 405].contains(&status), "{wrong}: {status}");
    }
    assert_eq!(get("/fitbit?verify=wrong").status, 404);
    let origin = [("WebHook-Request-Origin", "eventemitter.example.com")];
    let answer = proxy.send(&request("OPTIONS", "/cloudevents", &origin, b""));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("webhook-allowed-origin"), Some("eventemitter.example.com"));
    assert_eq!(answer.header("webhook-allowed-rate"), Some("*"));
    // The method alone opens nothing.
    for (method, target) in [("OPTIONS", "/cloudevents"), ("GET", "/ebay"), ("GET", "/cloudevents")] {
        assert_eq!(proxy.send(&request(method, target, &[], b"")).status, 405, "{method} {target}");
    }
    for (name, value) in [("a\u{e9}", "x"), ("<b>", "x"), ("", "x")] {
        let answer = proxy.send(&request("OPTIONS", "/cloudevents", &[("WebHook-Request-Origin", name)], b""));
        assert!([403, 405].contains(&answer.status) && !answer.text().contains("<b>"), "{name} {value}: {answer:?}");
    }
}

/// While one token takes another's place, and in each form in which senders repeat it.
#[test]
fn each_of_several_verify_tokens_is_accepted_and_nothing_else() {
    let tokens = "[{ env: NEW }, { env: OLD }]";
    let config = format!(
        r#"routes:
  - {{ name: meta, path: /meta, provider: meta, secret: {{ env: SECRET }}, handshake: {{ verify_token: {tokens} }}, to: app }}
  - {{ name: fitbit, path: /fitbit, provider: fitbit, secret: {{ env: SECRET }}, handshake: {{ verify_token: {tokens} }}, to: app }}
  - name: strava
    path: /strava
    signature: none
    handshake:
      verify_token: {tokens}
      exchanges:
        - name: hub.challenge
          method: GET
          when: [{{ query: hub.challenge }}, {{ query: hub.mode, is: subscribe }}]
          token: query:hub.verify_token
          answer: {{ json: {{ hub.challenge: "{{query:hub.challenge}}" }} }}
    to: app
"#
    );
    let [nobody] = free_addresses();
    let env = [("SECRET", "kQ7-b2Xw9_tZ4mLr1VnYc8Hs"), ("NEW", "new-token-1"), ("OLD", "old-token-0")];
    let proxy = Proxy::start_with(nobody, &config, &env);
    let get = |target: &str| proxy.send(&request("GET", target, &[], b""));
    let hub = "hub.mode=subscribe&hub.challenge=15f7d1a91c1f40f8a748fd134752feb3&hub.verify_token=";
    for (path, query, status, kind, body, refused) in [
        ("/meta", hub, 200, Some("text/plain"), "15f7d1a91c1f40f8a748fd134752feb3", 403),
        (
            "/strava",
            hub,
            200,
            Some("application/json"),
            "{\"hub.challenge\":\"15f7d1a91c1f40f8a748fd134752feb3\"}",
            403,
        ),
        ("/fitbit", "verify=", 204, None, "", 404),
    ] {
        for token in ["new-token-1", "old-token-0"] {
            let answer = get(&format!("{path}?{query}{token}"));
            let said = answer.header("content-type").map(|kind| kind.split(';').next().unwrap_or_default());
            assert_eq!(
                (answer.status, said, answer.text().as_str()),
                (status, kind, body),
                "{path} {token}: {answer:?}"
            );
        }
        let name = query.rsplit('&').next().unwrap_or_default();
        let twice = format!("{path}?{query}new-token-1&{name}old-token-0");
        for wrong in ["new-token-", "new-token-10", "NEW-TOKEN-1", "old-token-0new-token-1"] {
            assert_eq!(get(&format!("{path}?{query}{wrong}")).status, refused, "{path} {wrong}");
        }
        assert!([403, 404, 405].contains(&get(&twice).status), "{path}: a token that stands twice");
        for none in [query, query.trim_end_matches(name)] {
            let without = get(&format!("{path}?{none}")).status;
            assert!([403, 404, 405].contains(&without), "{path}: no token: {without}");
        }
    }
}

#[test]
fn every_setting_has_its_key() {
    for setting in Setting::ALL {
        assert_eq!(Setting::named(setting.name()), Some(setting));
    }
}
