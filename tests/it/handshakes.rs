//! The questions of senders over the real socket, while no backend is there at all. Each stands in its preset's file
//! with the answer that its sender wants.

use crate::support::{Answer, Connection, PATIENCE, Proxy, proxy::free_addresses, request, within};
use hookmoat::check::handshake::Setting;
use hookmoat::check::signature::UnsignedRequest;
use hookmoat::provider::{self, Provider};
use hookmoat::request::Now;
use hookmoat::vectors::{HandshakeVector, HeaderValues};
use std::borrow::Cow;

#[derive(Clone)]
struct Case {
    name: String,
    provider: &'static Provider,
    vector: Cow<'static, HandshakeVector>,
}

/// Presets of senders that ask before they send; Strava and CloudEvents, which have none, stand in routes further below.
const ASKING: [&str; 19] = [
    "slack",
    "meta",
    "whatsapp",
    "websub",
    "x-twitter",
    "zoom",
    "microsoft-graph",
    "dropbox",
    "asana",
    "okta",
    "twitch-eventsub",
    "ebay",
    "braintree",
    "fitbit",
    "xero",
    "discord",
    "qq-bot",
    "aws-sns",
    "azure-event-grid-entra",
];

fn cases() -> Vec<Case> {
    let of = |provider: &'static Provider| {
        let number = provider.handshake_vectors.iter().enumerate();
        number.map(move |(at, vector)| Case {
            name: format!("{}-{at}", provider.id),
            provider,
            vector: Cow::Borrowed(vector),
        })
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

    /// The same in one chunk, where there is a body.
    fn chunked(&self) -> Option<Vec<u8>> {
        let body = self.request().body;
        let wire = self.wire();
        let head = String::from_utf8(wire[..wire.len() - body.len()].to_vec()).expect("text");
        let head = head.replace(&format!("Content-Length: {}\r\n", body.len()), "Transfer-Encoding: chunked\r\n");
        let whole = || [format!("{head}{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        (!body.is_empty() && head.contains("chunked")).then(whole)
    }
}

fn start(cases: &[Case], handshake: bool) -> Proxy {
    let mut env = Vec::new();
    let routes: String = cases.iter().map(|case| case.route(handshake, &mut env)).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let [nobody] = free_addresses();
    Proxy::start_with(nobody, &format!("routes:\n{routes}"), &env)
}

/// What the sender gets is the documented answer to the byte, and nothing besides: Xero minds a cookie.
fn compare(case: &Case, answer: &Answer) -> Result<(), String> {
    let wanted = &case.vector.answer;
    let fields: Vec<(&str, &str)> = answer.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
    wanted.compare(answer.status, &fields, &answer.body)?;
    if wanted.refused {
        return Ok(());
    }
    // JSON's members have no order: ours are sorted, and nothing stands between them.
    let body = wanted.body.clone().unwrap_or_default();
    let body = serde_json::from_str::<serde_json::Value>(&body).map_or(body, |json| json.to_string());
    if body != answer.text() {
        return Err(format!("got {:?}, byte for byte another body than {body:?}", answer.text()));
    }
    let mut known: Vec<String> = wanted.headers.keys().map(|name| name.to_lowercase()).collect();
    known.extend(["content-length", "cache-control", "date", "x-request-id"].map(String::from));
    if wanted.kind.is_some() {
        known.extend(["content-type", "x-content-type-options"].map(String::from));
    }
    match fields.iter().find(|(name, _)| !known.iter().any(|known| known == name)) {
        None => Ok(()),
        Some((name, value)) => Err(format!("got {name}: {value}, for which nobody asked")),
    }
}

/// What the answer repeats of the question.
fn repeated(case: &Case) -> Vec<String> {
    let wanted = &case.vector.answer;
    let body = wanted.body.clone().unwrap_or_default();
    let mut texts: Vec<String> = wanted.headers.values().cloned().collect();
    match serde_json::from_str::<serde_json::Value>(&body) {
        Ok(serde_json::Value::Object(members)) => {
            texts.extend(members.values().filter_map(|value| value.as_str().map(String::from)));
        }
        _ => texts.push(body),
    }
    let asked = &case.vector.request;
    let asked = format!("{:?} {:?} {:?}", decoded(asked.url.as_deref().unwrap_or_default()), asked.headers, asked.body);
    texts.retain(|text| text.len() > 4 && asked.contains(text.as_str()));
    texts
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let hex = || std::str::from_utf8(behind.get(..2)?).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (byte, used) = match first {
            b'%' => hex().map_or((b'%', 1), |byte| (byte, 3)),
            b'+' => (b' ', 1),
            _ => (*first, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    String::from_utf8(bytes).expect("text")
}

/// The same question with another text in the place of one.
fn with(vector: &HandshakeVector, text: &str, other: &str) -> HandshakeVector {
    let mut changed = vector.clone();
    if let Some(url) = &mut changed.request.url {
        let (path, query) = url.split_once('?').unwrap_or((url, ""));
        let encoded: String = other.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let pairs = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, value)) if decoded(value) == text => format!("{name}={encoded}"),
            _ => pair.to_owned(),
        });
        *url = format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"));
    }
    for value in changed.request.headers.values_mut() {
        if let HeaderValues::One(value) = value
            && value == text
        {
            *value = other.to_owned();
        }
    }
    changed.request.body = changed.request.body.map(|body| body.replace(text, other));
    assert_ne!(changed.request, vector.request, "{text} was not found");
    changed
}

#[test]
fn every_question_gets_the_answer_that_its_sender_wants_while_the_backend_is_down() {
    let cases = cases();
    assert!(cases.len() > 40, "{}", cases.len());
    for id in ASKING {
        let id = provider::find(id).expect("a preset").id;
        assert!(cases.iter().any(|case| case.provider.id == id && !case.vector.answer.refused), "{id}");
    }
    let proxy = start(&cases, true);
    let mut chunked = 0;
    for case in &cases {
        let answer = Connection::open(proxy.http).send(&case.wire()).answer_to(&case.vector.request.method);
        if let Err(why) = compare(case, &answer) {
            panic!("{} ({}): {why}\n{answer:?}\n{}", case.name, case.vector.exchange, proxy.log());
        }
        if case.vector.answer.refused {
            continue;
        }
        let series = format!("hookmoat_requests_total{{outcome=\"handshake\",route=\"{}\"}}", case.name);
        assert!(within(PATIENCE, || proxy.metric(&series) == 1.0), "{}: not counted", case.name);
        if answer.header("content-type").is_some() {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{}", case.name);
        }
        if let Some(wire) = case.chunked() {
            chunked += 1;
            let answer = Connection::open(proxy.http).send(&wire).answer_to(&case.vector.request.method);
            compare(case, &answer)
                .unwrap_or_else(|why| panic!("{}, chunked: {why}\n{answer:?}\n{}", case.name, proxy.log()));
        }
        if case.provider.manners.empty_unauthorized {
            let mut forged = case.wire();
            let last = forged.len() - 1;
            forged[last] = b' ';
            let answer = proxy.send(&forged);
            assert_eq!((answer.status, &*answer.text()), (401, ""), "{}", case.name);
        }
    }
    assert!(chunked > 10, "{chunked}");
    // What is larger than such a question is read no further, and is refused as any forgery.
    let asks = cases.iter().find(|case| case.provider.id == "monday" && !case.vector.answer.refused).expect("a case");
    let head = String::from_utf8(asks.chunked().expect("a body")).expect("text");
    let head = head.split("\r\n\r\n").next().expect("a head");
    let large = format!("{head}\r\n\r\n5000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x5000));
    let answer = proxy.send(large.as_bytes());
    assert_eq!(answer.status, 401, "{answer:?}\n{}", proxy.log());
    assert_eq!(proxy.metric("hookmoat_backend_responses_total{code=\"2xx\",route=\"slack-0\"}"), 0.0);
}

#[test]
fn nothing_is_repeated_that_is_long_or_that_a_browser_would_run_and_nothing_to_strangers() {
    let cases: Vec<Case> = cases().into_iter().filter(|case| !case.vector.answer.refused).collect();
    let proxy = start(&cases, true);
    let ask = |case: &Case, vector: HandshakeVector, what: &str, never: &str| {
        let changed = Case { vector: Cow::Owned(vector), ..case.clone() };
        let answer = Connection::open(proxy.http).send(&changed.wire()).answer_to(&changed.vector.request.method);
        let said = format!("{:?} {}", answer.headers, answer.text());
        assert!(
            [400, 401, 403, 404, 405].contains(&answer.status) && !said.contains(never),
            "{}: {what}: {said}",
            case.name
        );
    };
    let (mut repeats, mut signed) = (0, 0);
    for case in &cases {
        for text in repeated(case) {
            for other in ["x".repeat(1025), "<script>alert(1)</script>".into(), "caf\u{e9}-caf\u{e9}".into()] {
                ask(case, with(&case.vector, &text, &other), &other, &other);
            }
            repeats += 1;
        }
        if case.vector.sign && case.vector.private_key.is_none() {
            let mut stranger = case.vector.clone().into_owned();
            let ours = stranger.secrets.iter().find(|secret| secret.len() > 4).cloned().expect("a secret");
            stranger.secrets = vec![ours.chars().rev().collect()];
            // Some repeat their secret in the body: that one is not known to a stranger either.
            stranger.request.body = stranger.request.body.map(|body| body.replace(&ours, &stranger.secrets[0]));
            ask(case, stranger, "signed by a stranger", "\u{0}");
            signed += 1;
        }
    }
    assert!(repeats >= 20 && signed >= 12, "{repeats} repeat something, {signed} are signed");
}

#[test]
fn a_route_that_does_not_ask_answers_no_questions() {
    let cases = cases();
    let proxy = start(&cases, false);
    for case in cases.iter().filter(|case| !case.vector.answer.refused) {
        let answer = Connection::open(proxy.http).send(&case.wire()).answer_to(&case.vector.request.method);
        // Signed ones are events like others, whose backend is not there; the rest is refused.
        assert!([401, 405, 502].contains(&answer.status), "{}: {answer:?}", case.name);
        let said = format!("{:?} {}", answer.headers, answer.text());
        let told = repeated(case).into_iter().find(|text| said.contains(text.as_str()));
        assert_eq!(told, None, "{}: {answer:?}", case.name);
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
            headers: { Allow: POST, WebHook-Allowed-Origin: "{header:WebHook-Request-Origin}", WebHook-Allowed-Rate: "*" }
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
    assert_eq!(answer.header("allow"), Some("POST"));
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

/// What looks like a question and is none of those that the sender asks.
#[test]
fn whoever_asks_in_another_way_hears_nothing() {
    let config = "routes:
  - { name: websub, path: /websub, provider: websub, secret: { env: SECRET }, handshake: true, to: app }
  - { name: meta, path: /meta, provider: meta, secret: { env: SECRET }, handshake: { verify_token: { env: TOKEN } }, to: app }
  - { name: x, path: /x, provider: x-twitter, secret: { env: SECRET }, handshake: true, to: app }
  - { name: graph, path: /graph, provider: microsoft-graph, secret: { env: SECRET }, handshake: true, to: app }
  - { name: dropbox, path: /dropbox, provider: dropbox, secret: { env: SECRET }, handshake: true, to: app }
  - { name: okta, path: /okta, provider: okta, secret: { env: SECRET }, handshake: true, to: app }
";
    let [nobody] = free_addresses();
    let proxy = Proxy::start_with(nobody, config, &[("SECRET", "kQ7-b2Xw9_tZ4mLr1VnYc8Hs"), ("TOKEN", "token-0123")]);
    let (topic, challenge) = ("hub.topic=https%3A%2F%2Fexample.com%2F", "hub.challenge=6157562011371087");
    for (method, target) in [
        // The end of a subscription, which anybody may ask a hub for.
        ("GET", format!("/websub?hub.mode=unsubscribe&{topic}&{challenge}")),
        ("GET", format!("/websub?hub.mode=subscribe&{topic}")),
        ("GET", format!("/websub?hub.mode=subscribe&{challenge}")),
        ("GET", format!("/websub?hub.mode=subscribe&{topic}&{challenge}&{challenge}")),
        ("GET", format!("/websub?hub.mode=subscribe&hub.mode=unsubscribe&{topic}&{challenge}")),
        ("POST", format!("/websub?hub.mode=subscribe&{topic}&{challenge}")),
        ("GET", format!("/meta?hub.mode=unsubscribe&{challenge}&hub.verify_token=token-0123")),
        ("GET", format!("/meta?{challenge}&hub.verify_token=token-0123")),
        ("GET", format!("/meta?hub.mode=subscribe&{challenge}&hub.verify_token=")),
        ("POST", format!("/meta?hub.mode=subscribe&{challenge}&hub.verify_token=token-0123")),
        ("GET", "/x?crc_token=".into()),
        ("GET", "/x?crc_token=6157562011371087&crc_token=6157562011371087".into()),
        ("POST", "/x?crc_token=6157562011371087".into()),
        ("GET", "/graph?validationToken=6157562011371087".into()),
        ("POST", "/graph?validationToken=".into()),
        ("POST", "/dropbox?challenge=6157562011371087".into()),
        ("GET", "/okta".into()),
        ("HEAD", "/dropbox?challenge=6157562011371087".into()),
    ] {
        let answer = Connection::open(proxy.http).send(&request(method, &target, &[], b"")).answer_to(method);
        assert!([401, 403, 404, 405].contains(&answer.status), "{method} {target}: {answer:?}");
        assert!(!answer.text().contains("6157562011371087"), "{method} {target}: {answer:?}");
    }
    // A header that stands twice could be read in two ways.
    let twice = [("X-Okta-Verification-Challenge", "615756"), ("X-Okta-Verification-Challenge", "201137")];
    let answer = proxy.send(&request("GET", "/okta", &twice, b""));
    assert!([400, 403, 405].contains(&answer.status) && !answer.text().contains("615756"), "{answer:?}");
}
