//! What the order of the checks promises, without sockets.

use super::*;
use crate::config;
use crate::request::Headers;
use crate::telemetry::state::StateMetrics;
use std::path::Path;
use std::task::Poll;

const SECRET: &[u8] = b"a-secret-of-some-length";
const SIGNED: &str = "secret: { env: SECRET }, \
                      signature: { algorithm: hmac-sha256, from: { header: X-Sig }, signed: \"{body}\" }";
const COVERED: &str = "secret: { env: SECRET }, event_id: { header: X-Id }, \
                       signature: { algorithm: hmac-sha256, from: { header: X-Sig }, signed: \"{header:X-Id}.{body}\" }";
const OPEN: &str = "signature: none";
const REMEMBERED: &str = "event_id: { header: X-Id }";
const FORGOTTEN: &str = "duplicates: off";

/// One route at `/hook`, and the state of a process.
struct World {
    policy: Policy,
    state: State,
    now: Now,
}

/// A request, by default one that a route with [`SIGNED`] lets through.
#[derive(Clone)]
struct Ask {
    method: &'static str,
    path: &'static str,
    query: Option<&'static str>,
    from: &'static str,
    tls: bool,
    headers: Vec<(&'static str, String)>,
    body: &'static str,
}

/// What became of a request, and what was noted on the way.
struct Seen {
    became: String,
    retry_after: Option<Duration>,
    keys: Option<NamedKeys>,
    trail: Trail,
}

fn world(route: &[&str]) -> World {
    world_with(16, route)
}

fn world_with(ids: usize, route: &[&str]) -> World {
    let to = if route.iter().any(|part| part.starts_with("to:")) { "" } else { "to: app, " };
    let text = format!(
        "listen: [{{ address: 127.0.0.1:1 }}]\nadmin: off\ntrusted_proxies: [10.0.0.0/8]\nconnections: {{ deny: [198.51.100.0/24] }}\nupstreams: {{ app: \"http://127.0.0.1:2\", other: \"http://127.0.0.1:3\" }}\n\
         routes:\n- {{ name: hook, path: /hook, {to}{} }}\n",
        route.join(", ")
    );
    let secret = |name: &str| (name == "SECRET").then(|| String::from_utf8_lossy(SECRET).into_owned().into());
    let policy =
        config::parse(&text, Path::new("/nonexistent"), &secret).unwrap_or_else(|problems| panic!("{problems}"));
    let now = Now::at_unix(1_700_000_000);
    World { policy, state: State::in_memory(ids, 64, StateMetrics::unread(), now.instant), now }
}

fn mac(text: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET);
    hex::encode(ring::hmac::sign(&key, text.as_bytes()))
}

fn ask(body: &'static str) -> Ask {
    let headers = vec![("Content-Length", body.len().to_string()), ("X-Sig", mac(body)), ("X-Id", "1".to_owned())];
    Ask { method: "POST", path: "/hook", query: None, from: "203.0.113.7", tls: true, headers, body }
}

impl Ask {
    fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.to_owned()));
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self
    }

    fn forged(self) -> Self {
        self.with("X-Sig", &mac("something else"))
    }
}

/// As the carrier does it, up to the claim: what is decided, and what is noted.
async fn claimed<'w>(
    world: &'w World,
    ask: &Ask,
    patience: Duration,
    trail: &mut Trail,
) -> Result<(Admitted<'w>, Option<NamedKeys>), Stop> {
    let list: Vec<(&str, &[u8])> = ask.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let head = Head { method: ask.method, path: ask.path, query: ask.query, host: "h", headers: Headers::List(&list) };
    let peer = Peer { address: ask.from.parse().ok(), tls: ask.tls, identity: None };
    let mut screened = screen(&world.policy, &world.state, &head, &peer, world.now, trail).await?;
    let body = ask.body.as_bytes();
    body.chunks(3).for_each(|chunk| screened.update(chunk));
    let authentic = screened.verify(&world.state, &head, body, world.now, trail).await?;
    let verified = authentic.is_verified();
    let keys = authentic.keys(&head, body, trail)?;
    let admitted = authentic.admit(&world.state, keys.clone(), patience, world.now, trail).await?;
    assert_eq!(admitted.verified, verified);
    Ok((admitted, keys))
}

impl World {
    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    /// The whole way, and the backend takes what reaches it.
    fn send(&self, ask: &Ask) -> Seen {
        let mut trail = Trail::default();
        let (mut retry_after, mut named) = (None, None);
        let became = self.run(async {
            match claimed(self, ask, Duration::ZERO, &mut trail).await {
                Ok((admitted, keys)) => {
                    named = keys;
                    let passed = if admitted.verified { "verified" } else { "unverified" };
                    assert!(admitted.settle(Outcome::Done, self.now.instant).await);
                    passed.to_owned()
                }
                Err(Stop::Refused(reject)) => {
                    retry_after = reject.retry_after;
                    reject.reason.label().to_owned()
                }
                Err(Stop::Answered(answered)) => {
                    let body = String::from_utf8_lossy(&answered.answer.body).into_owned();
                    format!("{} {body}", answered.how.label()).trim_end().to_owned()
                }
            }
        });
        Seen { became, retry_after, keys: named, trail }
    }

    #[track_caller]
    fn expect(&self, expected: &str, ask: &Ask) -> Trail {
        let seen = self.send(ask);
        assert_eq!(seen.became, expected);
        seen.trail
    }
}

/// A request in which everything is wrong, and what has to be put right one after the other.
type Mend = (&'static str, fn(Ask) -> Ask);
const MENDS: [Mend; 13] = [
    ("address_denied", |ask| Ask { from: "192.0.2.1", ..ask }),
    ("malformed", |ask| Ask { path: "/nothing", ..ask }),
    ("no_route", |ask| Ask { path: "/hook", ..ask }),
    ("method_not_allowed", |ask| Ask { method: "POST", ..ask }),
    ("https_required", |ask| Ask { tls: true, ..ask }),
    ("address_not_allowed", |ask| Ask { from: "203.0.113.9", ..ask }),
    ("rate_limited", |ask| Ask { from: "203.0.113.7", ..ask }),
    ("content_type_not_allowed", |ask| ask.with("Content-Type", "application/json")),
    ("body_too_large", |ask| Ask { body: "{}", ..ask }.with("Content-Length", "2")),
    ("signature_missing", |ask| ask.forged()),
    ("signature_mismatch", |ask| ask.with("X-Sig", &mac("{}"))),
    ("ignored", |ask| ask.with("X-Type", "wanted")),
    ("event_id_invalid", |ask| ask.with("X-Id", "1")),
];

const STRICT: &str = "allow: [203.0.113.0/24], rate_limit: { requests: 20, every: 1h }, max_body: 4B, \
                      content_types: [application/json], event_id: { header: X-Id }, duplicates: { missing: reject }, \
                      event_type: { header: X-Type }, events: [wanted]";

fn hopeless() -> Ask {
    let ask = ask("{     }").without("X-Sig").without("X-Id").with("Content-Type", "text/plain");
    Ask { method: "PUT", path: "/a/../hook", from: "198.51.100.1", tls: false, ..ask }
}

#[test]
fn the_first_check_that_refuses_is_the_one_in_the_order_of_the_file() {
    let world = world(&[SIGNED, STRICT]);
    // Somebody who has used up a limit.
    let greedy = Ask { from: "203.0.113.9", ..ask("{}").without("X-Sig").with("Content-Type", "application/json") };
    for _ in 0..20 {
        world.expect("signature_missing", &greedy);
    }
    let mut ask = hopeless();
    for (reason, mend) in MENDS {
        let trail = world.expect(reason, &ask);
        let methods: &[&str] = if reason == "method_not_allowed" { &["POST"] } else { &[] };
        assert_eq!(trail.allowed_methods, methods, "{reason}");
        ask = mend(ask);
    }
    let trail = world.expect("verified", &ask);
    assert!(trail.secure && trail.observed.is_empty());
    assert_eq!((trail.event_id.as_deref(), trail.event_type.as_deref()), (Some("1"), Some("wanted")));
    assert_eq!(
        (trail.wanted, trail.client.map(|client| client.to_string()).as_deref()),
        (Some(0), Some("203.0.113.7"))
    );
    world.expect("duplicate", &ask);
}

#[test]
fn what_is_only_observed_is_noted_and_passes_and_nothing_else_does() {
    let observe =
        "observe: [https, allow, rate_limit, shape, signature, duplicates], rate_limit: { requests: 1, every: 1h }";
    let world = world(&[SIGNED, &STRICT.replace("rate_limit: { requests: 20, every: 1h }", observe)]);
    let mut ask = hopeless();
    let observed =
        |trail: &Trail| -> Vec<&str> { trail.observed.iter().map(|(_, reject)| reject.reason.label()).collect() };
    for (reason, mend) in MENDS {
        if ["address_denied", "malformed", "no_route", "method_not_allowed", "body_too_large"].contains(&reason) {
            world.expect(reason, &ask);
            ask = mend(ask);
        }
    }
    let ask = ask.with("X-Type", "wanted");
    let every =
        ["https_required", "address_not_allowed", "rate_limited", "content_type_not_allowed", "signature_missing"];
    assert_eq!(observed(&world.expect("unverified", &ask)), every);
    // What nobody vouches for is not remembered.
    let forged = ask.forged().with("X-Id", "1");
    for _ in 0..2 {
        let trail = world.expect("unverified", &forged);
        assert_eq!(observed(&trail)[4], "signature_mismatch");
        assert_eq!(trail.event_id, None);
    }
    let honest = forged.clone().with("X-Sig", &mac("{}"));
    assert_eq!(observed(&world.expect("verified", &honest)).len(), 4);
    assert_eq!(observed(&world.expect("verified", &honest))[4], "duplicate");
    assert_eq!(observed(&world.expect("verified", &honest.without("X-Id")))[4], "event_id_invalid");
}

#[test]
fn another_protocol_is_asked_for_in_vain_where_anything_is_verified() {
    for (authentication, expected) in [(SIGNED, "malformed"), ("signature: none, duplicates: off", "unverified")] {
        world(&[authentication]).expect(expected, &ask("{}").with("Upgrade", "websocket"));
    }
}

#[test]
fn a_check_for_a_part_refuses_the_same_senders_always() {
    let world = world(&[SIGNED, FORGOTTEN, "allow: [198.51.100.1], enforce: { allow: 50% }"]);
    let became = |last: u8| -> Vec<String> {
        let address: &'static str = Box::leak(format!("203.0.113.{last}").into_boxed_str());
        (0..3).map(|_| world.send(&Ask { from: address, ..ask("{}") }).became).collect()
    };
    let all: Vec<Vec<String>> = (0..40).map(became).collect();
    for each in &all {
        assert!(each.iter().all(|one| *one == each[0]), "{each:?}");
    }
    let refused = all.iter().filter(|each| each[0] == "address_not_allowed").count();
    assert!((8..32).contains(&refused), "{refused} of 40");
}

#[test]
fn a_body_that_is_not_the_one_that_arrived_is_not_verified() {
    let world = world(&[SIGNED, FORGOTTEN]);
    let ask = ask("{}");
    let list: Vec<(&str, &[u8])> = ask.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
    let head = Head { method: "POST", path: "/hook", query: None, host: "h", headers: Headers::List(&list) };
    let peer = Peer { address: ask.from.parse().ok(), tls: true, identity: None };
    let mut trail = Trail::default();
    let became = world.run(async {
        let mut screened = screen(&world.policy, &world.state, &head, &peer, world.now, &mut trail).await.unwrap();
        screened.update(b"more than that");
        screened.verify(&world.state, &head, b"{}", world.now, &mut trail).await.map(drop)
    });
    assert!(matches!(became, Err(Stop::Refused(reject)) if reject.reason == Reason::Internal));
}

#[test]
fn strangers_spend_the_limit_before_the_signature_and_never_the_one_behind_it() {
    let per_route = "{ requests: 3, every: 1h, per: route }";
    let before = world(&[SIGNED, FORGOTTEN, &format!("rate_limit: {per_route}")]);
    for expected in ["signature_mismatch", "signature_mismatch", "signature_mismatch", "rate_limited"] {
        before.expect(expected, &ask("{}").forged());
    }
    let seen = before.send(&ask("{}"));
    assert_eq!((&*seen.became, seen.retry_after.is_some()), ("rate_limited", true));
    for (scheme, observe) in [(SIGNED, FORGOTTEN), (SIGNED, "duplicates: off, observe: [signature]"), (OPEN, FORGOTTEN)]
    {
        let world = world(&[scheme, observe, &format!("rate_limit_verified: {per_route}")]);
        if scheme == SIGNED {
            for _ in 0..9 {
                let expected = if observe == FORGOTTEN { "signature_mismatch" } else { "unverified" };
                world.expect(expected, &ask("{}").forged());
            }
        }
        let passed = if scheme == OPEN { "unverified" } else { "verified" };
        for expected in [passed, passed, passed, "rate_limited"] {
            world.expect(expected, &ask("{}"));
        }
    }
}

const EXCHANGES: &str = "handshake: { keep: kept, exchanges: [\
    { name: first, when: { header: X-Hook-Secret }, proof: none, hands_over: [\"header:X-Hook-Secret\"], answer: { text: first } }, \
    { name: head, method: [GET, POST], when: { query: challenge }, proof: none, answer: { text: \"{query:challenge}\" } }, \
    { name: body, when: { json: /challenge }, proof: none, answer: { text: \"{json:/challenge}\" } }, \
    { name: signed, method: [GET, POST, HEAD], when: { header: X-Ping }, answer: { text: pong } }] }";

#[test]
fn questions_are_answered_as_far_as_their_proof_goes() {
    let head = Ask { query: Some("challenge=c1"), ..ask("{}") };
    let body = ask(r#"{"challenge":"c2"}"#);
    let ping = ask("{}").with("X-Ping", "1");
    let by = |method, ask: &Ask| Ask { method, ..ask.clone() };
    let signed = world(&[SIGNED, FORGOTTEN, EXCHANGES]);
    let observed = world(&[SIGNED, FORGOTTEN, EXCHANGES, "observe: [signature]"]);
    let open = world(&[OPEN, FORGOTTEN, EXCHANGES]);
    let bare = world(&["secret: { env: NOT_SET }", &SIGNED["secret: { env: SECRET }, ".len()..], FORGOTTEN, EXCHANGES]);
    for (name, ask, outcomes) in [
        ("first", ask("{}").with("X-Hook-Secret", "s"), ["handshake first"; 4]),
        ("head", head.clone().without("X-Sig"), ["handshake c1", "handshake c1", "handshake c1", "secret_missing"]),
        ("head, forged", head.clone().forged(), ["handshake c1", "handshake c1", "handshake c1", "secret_missing"]),
        ("head, GET", by("GET", &head), ["handshake c1", "handshake c1", "handshake c1", "secret_missing"]),
        (
            "head, HEAD",
            by("HEAD", &head),
            ["method_not_allowed", "method_not_allowed", "method_not_allowed", "secret_missing"],
        ),
        ("body", body.clone().without("X-Sig"), ["handshake c2", "handshake c2", "handshake c2", "secret_missing"]),
        ("body, forged", body.clone().forged(), ["handshake c2", "handshake c2", "handshake c2", "secret_missing"]),
        ("body, signed", body.clone(), ["handshake c2", "handshake c2", "handshake c2", "secret_missing"]),
        (
            "body, HEAD",
            by("HEAD", &body.without("X-Sig")),
            ["signature_missing", "method_not_allowed", "method_not_allowed", "secret_missing"],
        ),
        ("ping", ping.clone(), ["handshake pong", "handshake pong", "handshake pong", "secret_missing"]),
        (
            "ping, unsigned",
            ping.clone().without("X-Sig"),
            ["signature_missing", "unverified", "handshake pong", "secret_missing"],
        ),
        (
            "ping, forged",
            ping.clone().forged(),
            ["signature_mismatch", "unverified", "handshake pong", "secret_missing"],
        ),
        ("ping, HEAD", by("HEAD", &ping), ["handshake pong", "handshake pong", "handshake pong", "secret_missing"]),
        (
            "HEAD, signed",
            by("HEAD", &self::ask("{}")),
            ["method_not_allowed", "method_not_allowed", "method_not_allowed", "secret_missing"],
        ),
        ("an event", self::ask("{}"), ["verified", "verified", "unverified", "secret_missing"]),
        (
            "unsigned",
            self::ask("{}").without("X-Sig"),
            ["signature_missing", "unverified", "unverified", "secret_missing"],
        ),
    ] {
        let became = [&signed, &observed, &open, &bare].map(|world| world.send(&ask).became);
        assert_eq!(became, outcomes, "{name}");
    }
}

#[test]
fn a_method_that_only_a_question_uses_is_refused_for_events() {
    let world = world(&[SIGNED, FORGOTTEN, EXCHANGES]);
    let trail = world.expect("method_not_allowed", &Ask { method: "HEAD", ..ask("{}") });
    assert_eq!(trail.allowed_methods, ["POST"]);
    let all = world.expect("method_not_allowed", &Ask { method: "DELETE", ..ask("{}") }).allowed_methods;
    assert_eq!(all, ["GET", "HEAD", "POST"]);
    // Where the question is over with the head, so is the request.
    let asked = "handshake: { exchanges: [{ name: head, method: GET, when: { query: challenge }, proof: none, answer: { text: ok } }] }";
    let world = self::world(&[SIGNED, FORGOTTEN, asked]);
    let get = Ask { method: "GET", ..ask("{}") };
    world.expect("verified", &ask("{}"));
    world.expect("handshake ok", &Ask { query: Some("challenge=1"), ..get.clone() });
    assert_eq!(world.expect("method_not_allowed", &get).allowed_methods, ["POST"]);
    assert_eq!(world.expect("method_not_allowed", &get.without("X-Sig")).allowed_methods, ["POST"]);
}

#[test]
fn the_body_of_somebody_without_a_signature_is_not_even_read() {
    let in_body =
        "handshake: { exchanges: [{ name: body, when: { json: /challenge }, proof: none, answer: { text: ok } }] }";
    let signed = "handshake: { exchanges: [{ name: ping, when: { json: /challenge }, answer: { text: ok } }] }";
    let nothing = "max_body: 1MiB";
    for (rest, length, read) in
        [(in_body, "20", true), (in_body, "16385", false), (signed, "20", false), (nothing, "20", false)]
    {
        let world = world(&[SIGNED, FORGOTTEN, rest]);
        let ask = ask("{}").without("X-Sig").with("Content-Length", length);
        let list: Vec<(&str, &[u8])> = ask.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let head = Head { method: "POST", path: "/hook", query: None, host: "h", headers: Headers::List(&list) };
        let peer = Peer { address: ask.from.parse().ok(), tls: true, identity: None };
        let mut trail = Trail::default();
        let screened = world.run(screen(&world.policy, &world.state, &head, &peer, world.now, &mut trail));
        assert_eq!(screened.is_ok(), read, "{rest} {length}");
    }
}

#[test]
fn types_decide_where_an_event_goes_and_a_type_in_two_ways_stops_it_where_it_matters() {
    let one = |kind: &str| ask("{}").with("X-Type", kind);
    let mut two = one("a");
    two.headers.push(("X-Type", "b".to_owned()));
    for (rest, branches, twice) in [
        (vec![], [None, None], "verified"),
        (vec!["events: [a, b]"], [None, None], "event_type_invalid"),
        (vec!["to: [{ upstream: other, events: [b] }, { upstream: app }]"], [None, Some(0)], "event_type_invalid"),
    ] {
        let world = world(&[vec![SIGNED, FORGOTTEN, "event_type: { header: X-Type }"], rest].concat());
        assert_eq!(["a", "b"].map(|kind| world.expect("verified", &one(kind)).branch), branches);
        world.expect(twice, &two);
    }
}

#[test]
fn what_names_an_event_is_as_much_as_the_signature_vouches_for() {
    let covered = |id: &str| ask("{}").with("X-Id", id).with("X-Sig", &mac(&format!("{id}.{{}}")));
    let plain = |id: &str| ask("{}").with("X-Id", id);
    for (name, route, asks, outcomes) in [
        // A captured body under a fresh ID.
        (
            "unsigned ID",
            vec![SIGNED, REMEMBERED],
            [plain("1"), plain("1"), plain("2")],
            ["verified", "duplicate", "replayed"],
        ),
        ("signed ID", vec![COVERED], [covered("1"), covered("1"), covered("2")], ["verified", "duplicate", "verified"]),
        (
            "no signature",
            vec![OPEN, REMEMBERED],
            [plain("1"), plain("1"), plain("2")],
            ["unverified", "duplicate", "unverified"],
        ),
    ] {
        let world = world(&route);
        let seen: Vec<Seen> = asks.iter().map(|ask| world.send(ask)).collect();
        assert_eq!(seen.iter().map(|seen| &*seen.became).collect::<Vec<_>>(), outcomes, "{name}");
        let keys = &seen[0].keys.as_ref().unwrap().keys;
        let guarded = name == "unsigned ID";
        assert_eq!((keys.content.len(), keys.group.is_some()), (usize::from(guarded), guarded), "{name}");
        assert_eq!(seen[0].trail.event_id.as_deref(), Some("1"), "{name}");
    }
    let careless = world(&[SIGNED, REMEMBERED, "duplicates: { replay_guard: false }"]);
    let keys = careless.send(&plain("1")).keys.unwrap().keys;
    assert_eq!((keys.content.len(), keys.group), (0, None));
    careless.expect("verified", &plain("2"));
}

#[test]
fn a_claim_ends_with_its_request() {
    let world = world(&[SIGNED, REMEMBERED]);
    let claim = |patience| {
        let world = &world;
        async move {
            let mut trail = Trail::default();
            claimed(world, &ask("{}"), patience, &mut trail).await.map(|(admitted, _)| admitted)
        }
    };
    let reason = |became: Result<Admitted<'_>, Stop>| match became {
        Err(Stop::Refused(reject)) => Some((reject.reason, reject.retry_after)),
        _ => None,
    };
    let long = Duration::from_secs(60);
    world.run(async {
        // Dropped: cancelled, or the backend failed.
        drop(claim(Duration::ZERO).await.unwrap());
        let first = claim(Duration::ZERO).await.unwrap();
        let copy = reason(claim(Duration::ZERO).await);
        assert_eq!(copy, Some((Reason::DuplicateInFlight, Some(BUSY_RETRY))));
        assert!(first.settle(Outcome::Failed, world.now.instant).await);
        // A copy that waits learns what became of the first.
        let first = claim(Duration::ZERO).await.unwrap();
        let mut copy = Box::pin(claim(long));
        let waits = std::future::poll_fn(|context| Poll::Ready(copy.as_mut().poll(context).is_pending())).await;
        assert!(waits, "a copy did not wait");
        assert!(first.settle(Outcome::Done, world.now.instant).await);
        assert_eq!(reason(copy.await), Some((Reason::Duplicate, None)));
    });
}

#[test]
fn a_memory_that_is_full_says_so_and_when_to_come_again() {
    let world = world_with(1, &[COVERED]);
    let full = (0..1000).find_map(|id| {
        let id = id.to_string();
        let seen = world.send(&ask("{}").with("X-Id", &id).with("X-Sig", &mac(&format!("{id}.{{}}"))));
        (seen.became != "verified").then_some(seen)
    });
    let full = full.unwrap();
    assert_eq!((&*full.became, full.retry_after), ("seen_ids_full", Some(BUSY_RETRY)));
}
