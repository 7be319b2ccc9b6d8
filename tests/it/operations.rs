//! What operators see and do: metrics, probes, the log, checks that only observe, starting and ending.

use crate::support::proxy::{free_addresses, program};
use crate::support::{Answer, Backend, Connection, Moat, PATIENCE, Proxy, Reply, post, refusal, request, sign, within};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";

/// One route of GitHub's kind with these lines more, after these lines at the top.
fn route(top: &str, lines: &[&str]) -> String {
    let lines: String = lines.iter().map(|line| format!("    {line}\n")).collect();
    format!(
        "{top}\nroutes:\n  - name: github\n    path: /webhooks/github\n    provider: github\n    \
         secrets: [{{ insecure_literal: \"{SECRET}\" }}]\n    to: app\n{lines}"
    )
}

fn event(id: &str) -> Vec<u8> {
    event_with(id, &[])
}

fn event_with(id: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let body = format!("{{\"id\":\"{id}\"}}");
    let signature = sign::github(SECRET, body.as_bytes());
    let own = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", id)];
    post("/webhooks/github", &own.iter().chain(headers).copied().collect::<Vec<_>>(), body.as_bytes())
}

fn forged(id: &str) -> Vec<u8> {
    let wrong = format!("sha256={:064}", 0);
    post("/webhooks/github", &[("X-Hub-Signature-256", &wrong), ("X-GitHub-Delivery", id)], b"{}")
}

fn duplicate(answer: &Answer) -> bool {
    answer.header("hookmoat-duplicate") == Some("true")
}

#[test]
fn metrics_are_a_valid_exposition_and_count_what_happened() {
    let moat = Moat::new(&route("", &["rate_limit: { per: client_ip, requests: 100, every: 1m }"]));
    let metric = |series: &str| moat.proxy.metric(series);
    assert_eq!(moat.proxy.send(&event("1")).status, 200);
    assert_eq!(moat.proxy.send(&event("2")).status, 200);
    assert!(duplicate(&moat.proxy.send(&event("1"))));
    assert_eq!(moat.proxy.send(&forged("3")).status, 401);
    assert_eq!(moat.proxy.send(&post("/nowhere", &[], b"")).status, 404);
    let counted = || moat.count("github", "") + moat.count("", "");
    moat.wait_until("counted", || counted() == 5.0 && metric("hookmoat_requests_in_flight") == 0.0);
    for (series, value) in [
        ("hookmoat_requests_total{outcome=\"forwarded\",route=\"github\"}", 2.0),
        ("hookmoat_requests_total{outcome=\"duplicate\",route=\"github\"}", 1.0),
        ("hookmoat_requests_total{outcome=\"signature_mismatch\",route=\"github\"}", 1.0),
        ("hookmoat_requests_total{outcome=\"no_route\",route=\"\"}", 1.0),
        ("hookmoat_backend_responses_total{code=\"2xx\",route=\"github\"}", 2.0),
        ("hookmoat_request_duration_seconds_count{route=\"github\",stage=\"total\"}", 4.0),
        ("hookmoat_request_duration_seconds_count{route=\"github\",stage=\"checks\"}", 4.0),
        ("hookmoat_request_duration_seconds_count{route=\"github\",stage=\"body\"}", 4.0),
        ("hookmoat_request_duration_seconds_count{route=\"github\",stage=\"backend\"}", 2.0),
        ("hookmoat_request_body_bytes_total{route=\"github\"}", 3.0 * 10.0 + 2.0),
        ("hookmoat_requests_in_flight", 0.0),
        ("hookmoat_body_memory_bytes", 0.0),
        // Two events, each by its ID and by what was signed.
        ("hookmoat_seen_ids", 4.0),
        ("hookmoat_rate_limit_buckets", 1.0),
        ("hookmoat_route_ready{route=\"github\"}", 1.0),
        ("hookmoat_claims_lost_total", 0.0),
        (&format!("hookmoat_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
    ] {
        assert_eq!(metric(series), value, "{series}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
    assert!(metric(&format!("hookmoat_certificate_not_after_seconds{{listener=\"{}\"}}", moat.proxy.https)) > now);
    assert!((now - metric("hookmoat_config_loaded_timestamp_seconds")).abs() < 600.0);

    let answer = moat.proxy.admin("/metrics");
    assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain; version=0.0.4")));
    let text = answer.text();
    assert!(text.contains("hookmoat_config_info{version=\""));
    // Each series belongs to a family that has a HELP and a TYPE, stands once, and has a number.
    let mut families = Vec::new();
    let mut series = std::collections::HashSet::new();
    for line in text.lines() {
        match line.strip_prefix("# ").map(|comment| comment.splitn(3, ' ').collect::<Vec<_>>()).as_deref() {
            Some(["HELP", name, help]) => {
                assert!(!help.is_empty(), "{line}");
                families.push((name.to_string(), None));
            }
            Some(["TYPE", name, kind]) => {
                let last = families.last_mut().expect("HELP comes first");
                assert_eq!(last.0, *name, "{line}");
                last.1 = Some(kind.to_string());
            }
            Some(_) => panic!("{line}"),
            None => {
                let (name, value) = line.rsplit_once(' ').expect("a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(series.insert(name.to_string()), "twice: {line}");
                let (family, kind) = families.last().expect("a family first");
                let own = name.split('{').next().expect("a name");
                let own = match kind.as_deref() {
                    Some("histogram") => {
                        ["_bucket", "_sum", "_count"].iter().find_map(|end| own.strip_suffix(end)).expect("a part")
                    }
                    _ => own,
                };
                assert_eq!(own, family, "{line}");
            }
        }
    }
}

#[test]
fn requests_in_flight_are_seen_and_go_back_to_none() {
    let backend = Backend::with(|_, _| Reply::After(Duration::from_millis(1500), Box::new(Reply::Status(200, "ok"))));
    let moat = Moat::with_backend(backend, &route("", &[]));
    let mut connections: Vec<Connection> = (0..3).map(|_| Connection::open(moat.proxy.http)).collect();
    for (number, connection) in connections.iter_mut().enumerate() {
        connection.send(&event(&number.to_string()));
    }
    moat.wait_until("three", || moat.proxy.metric("hookmoat_requests_in_flight") == 3.0);
    for connection in &mut connections {
        assert_eq!(connection.answer().status, 200);
    }
    moat.wait_until("none", || moat.proxy.metric("hookmoat_requests_in_flight") == 0.0);
}

#[test]
fn a_route_without_its_secret_answers_503_and_the_process_is_not_ready() {
    let backend = Backend::ok();
    let config = route("", &[])
        + "  - name: waiting\n    path: /webhooks/waiting\n    provider: github\n    secrets: [{ env: NOT_SET_ANYWHERE }]\n    to: app\n\
           \x20 - name: empty\n    path: /webhooks/empty\n    provider: github\n    secrets: [{ env: EMPTY }]\n    to: app\n";
    let proxy = Proxy::start_with(backend.address, &config, &[("EMPTY", "")]);
    assert_eq!((proxy.admin("/healthz").status, proxy.admin("/healthz").text().trim()), (200, "ok"));
    let ready = proxy.admin("/readyz");
    assert_eq!(ready.status, 503);
    for part in ["waiting", "NOT_SET_ANYWHERE", "empty", "EMPTY"] {
        assert!(ready.text().contains(part), "{}", ready.text());
    }
    assert!(!ready.text().contains("route github"), "{}", ready.text());
    let moat = Moat { backend, proxy };
    for (path, name) in [("/webhooks/waiting", "waiting"), ("/webhooks/empty", "empty")] {
        let signature = sign::github("", b"{}");
        for headers in [&[][..], &[("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", "1")]] {
            let answer = moat.refuses(name, &post(path, headers, b"{}"), refusal(503, name, "secret_missing"));
            assert!(answer.header("retry-after").is_some());
            assert!(!answer.text().contains("secret"), "{}", answer.text());
        }
        assert_eq!(moat.proxy.metric(&format!("hookmoat_route_ready{{route=\"{name}\"}}")), 0.0);
    }
    assert_eq!(moat.proxy.send(&event("1")).status, 200);
}

#[test]
fn readyz_is_200_when_every_route_has_its_secret() {
    let moat = Moat::new(&route("", &[]));
    assert_eq!((moat.proxy.admin("/readyz").status, moat.proxy.admin("/readyz").text().trim()), (200, "ready"));
}

#[test]
fn every_request_ends_with_one_event_whose_id_the_answer_and_the_backend_have() {
    let moat = Moat::new(&route("", &[]));
    let answers = [event("1"), event("1"), forged("2"), post("/x", &[], b""), b"junk\r\n\r\n".to_vec()]
        .map(|bytes| moat.proxy.send(&bytes));
    moat.wait_until("five events", || moat.proxy.events().len() == 5);
    let events = moat.proxy.events();
    // A line is written after its answer, so that two of them may change places.
    let of =
        |answer: &Answer| events.iter().find(|event| event["request_id"].as_str() == answer.header("x-request-id"));
    for (answer, outcome) in
        answers.iter().zip(["forwarded", "duplicate", "signature_mismatch", "no_route", "malformed"])
    {
        let event = of(answer).unwrap_or_else(|| panic!("no event for {answer:?}"));
        assert_eq!(
            (event["outcome"].as_str(), event["status"].as_u64()),
            (Some(outcome), Some(answer.status.into())),
            "{event}"
        );
        if answer.status >= 400 {
            let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem");
            assert_eq!(
                (&problem["request_id"], problem["status"].as_u64()),
                (&event["request_id"], Some(answer.status.into()))
            );
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
    }
    let first = of(&answers[0]).expect("found above");
    assert_eq!(moat.backend.only().header("x-request-id"), first["request_id"].as_str());
    for (key, value) in [
        ("route", "github"),
        ("provider", "github"),
        ("client", "127.0.0.1"),
        ("method", "POST"),
        ("http", "1.1"),
        ("event_id", "1"),
    ] {
        assert_eq!(first[key], value, "{key}");
    }
    assert_eq!(first["bytes"], 10);
    for key in ["total_ms", "backend_ms", "body_ms"] {
        assert!(first[key].as_f64().is_some_and(|time| time >= 0.0), "{key}: {}", first);
    }
    assert!(first["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')));
    let mut ids: Vec<_> = events.iter().map(|event| event["request_id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    // Whoever collects the log finds nothing else in it.
    for line in moat.proxy.log().lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

#[test]
fn the_log_is_as_long_and_as_pretty_as_asked_for() {
    for (log, lines) in [
        ("log: { format: pretty }", &["200 forwarded", "401 signature_mismatch"][..]),
        ("log: { format: pretty, requests: refused }", &["401 signature_mismatch"]),
        ("log: { format: pretty, requests: off }", &[]),
        ("log: { format: json, requests: refused }", &["\"outcome\":\"signature_mismatch\""]),
        ("log: { format: json, requests: off }", &[]),
    ] {
        let moat = Moat::new(&route(log, &[]));
        assert_eq!([moat.proxy.send(&event("1")).status, moat.proxy.send(&forged("2")).status], [200, 401]);
        moat.wait_until("counted", || moat.count("github", "signature") == 1.0);
        // The line follows the counters.
        moat.wait_until(log, || lines.iter().all(|line| moat.proxy.log().contains(line)));
        let told = moat
            .proxy
            .log()
            .lines()
            .filter(|line| line.contains("forwarded") || line.contains("signature_mismatch"))
            .count();
        assert_eq!(told, lines.len(), "{log}:\n{}", moat.proxy.log());
    }
}

#[test]
fn an_event_that_the_backend_did_not_take_is_told_among_the_refused() {
    let backend = Backend::with(|_, count| Reply::Status(if count == 0 { 500 } else { 200 }, "x"));
    let moat = Moat::with_backend(backend, &route("log: { format: json, requests: refused }", &[]));
    assert_eq!([moat.proxy.send(&event("1")).status, moat.proxy.send(&event("1")).status], [500, 200]);
    let told = moat.proxy.wait_for_event("forwarded");
    assert_eq!((told["status"].as_u64(), told["level"].as_str()), (Some(500), Some("WARN")));
    // Behind what would have been told of the second.
    assert_eq!(moat.proxy.send(&forged("2")).status, 401);
    moat.proxy.wait_for_event("signature_mismatch");
    assert_eq!(moat.proxy.events().len(), 2, "{}", moat.proxy.log());
}

#[test]
fn an_observed_check_lets_pass_and_tells_what_it_would_have_refused() {
    let wrong = format!("sha256={:064}", 0);
    for (check, lines, bytes, reason, verified) in [
        (
            "signature",
            &[][..],
            post("/webhooks/github", &[("X-Hub-Signature-256", &wrong), ("X-GitHub-Delivery", "1")], b"{}"),
            "signature_mismatch",
            "false",
        ),
        (
            "signature",
            &[],
            post("/webhooks/github", &[("X-GitHub-Delivery", "1")], b"{}"),
            "signature_missing",
            "false",
        ),
        ("allow", &["allow: [203.0.113.0/24]"], event("1"), "address_not_allowed", "true"),
        ("https", &["https: reject"], event("1"), "https_required", "true"),
        ("shape", &["content_types: [application/json]"], event("1"), "content_type_not_allowed", "true"),
        ("shape", &["required_headers: [X-GitHub-Event]"], event("1"), "header_missing", "true"),
    ] {
        let observe = format!("observe: [{check}]");
        let moat = Moat::new(&route("", &[lines, &[&observe]].concat()));
        let answer = moat.proxy.send(&bytes);
        assert_eq!(answer.status, 200, "{check} {reason}");
        assert_eq!(moat.backend.only().header("hookmoat-verified"), Some(verified), "{check} {reason}");
        let event = moat.proxy.wait_for_event("forwarded");
        let told = event["observed"].as_str().unwrap_or_default();
        assert!(told.starts_with(&format!("{check} would refuse: {reason}")), "{event}");
        let series = format!("hookmoat_observed_total{{check=\"{check}\",reason=\"{reason}\",route=\"github\"}}");
        assert_eq!(moat.proxy.metric(&series), 1.0, "{series}");
        // The same without `observe` refuses.
        Moat::new(&route("", lines)).refuses(reason, &bytes, refusal(answer_of(reason), "github", reason));
    }
}

fn answer_of(reason: &str) -> u16 {
    match reason {
        "address_not_allowed" | "https_required" => 403,
        "content_type_not_allowed" => 415,
        "header_missing" => 400,
        _ => 401,
    }
}

#[test]
fn observed_limits_and_duplicates_pass_too() {
    let moat = Moat::new(&route(
        "",
        &["rate_limit: { per: route, requests: 1, every: 1h }", "observe: [rate_limit, duplicates]"],
    ));
    for _ in 0..3 {
        let answer = moat.proxy.send(&event("1"));
        assert_eq!((answer.status, duplicate(&answer)), (200, false));
    }
    assert_eq!(moat.backend.requests().len(), 3);
    for series in [
        "hookmoat_observed_total{check=\"rate_limit\",reason=\"rate_limited\",route=\"github\"}",
        "hookmoat_observed_total{check=\"duplicates\",reason=\"duplicate\",route=\"github\"}",
    ] {
        moat.wait_until(series, || moat.proxy.metric(series) == 2.0);
    }
    let none =
        moat.proxy.send(&post("/webhooks/github", &[("X-Hub-Signature-256", &sign::github(SECRET, b"x"))], b"x"));
    assert_eq!(none.status, 200, "an event without an ID");
}

#[test]
fn an_observed_signature_that_fails_remembers_no_id_and_spends_no_verified_limit() {
    let moat =
        Moat::new(&route("", &["rate_limit_verified: { per: route, requests: 1, every: 1h }", "observe: [signature]"]));
    for _ in 0..3 {
        let answer = moat.proxy.send(&forged("1"));
        assert_eq!((answer.status, duplicate(&answer)), (200, false));
    }
    assert_eq!(moat.proxy.metric("hookmoat_seen_ids"), 0.0);
    let answer = moat.proxy.send(&event("1"));
    assert_eq!((answer.status, duplicate(&answer)), (200, false));
    let seen = moat.backend.requests();
    let verified: Vec<_> = seen.iter().map(|request| request.header("hookmoat-verified").unwrap_or_default()).collect();
    assert_eq!(verified, ["false", "false", "false", "true"]);
    assert_eq!(seen[0].header("hookmoat-event-id"), None);
    assert_eq!(seen[3].header("hookmoat-event-id"), Some("1"));
}

#[test]
fn a_secret_that_is_missing_is_503_even_where_the_signature_is_only_observed() {
    let backend = Backend::ok();
    let config = route("", &["observe: [signature]"])
        .replace(&format!("insecure_literal: \"{SECRET}\""), "env: NOT_SET_ANYWHERE");
    let proxy = Proxy::start(backend.address, &config);
    Moat { backend, proxy }.refuses("no secret", &event("1"), refusal(503, "github", "secret_missing"));
}

#[test]
fn plain_http_is_refused_redirected_or_allowed() {
    let fields = [("Host", "hooks.example:8080")];
    let rejecting = Moat::new(&route("https: reject", &[]));
    rejecting.refuses("reject", &event("1"), refusal(403, "github", "https_required"));
    assert_eq!(rejecting.proxy.send_tls(&event("1")).status, 200);
    assert_eq!(rejecting.backend.only().header("x-forwarded-proto"), Some("https"));

    let redirecting = Moat::new(&route("https: redirect", &[]));
    let bytes = String::from_utf8(event_with("1", &fields))
        .expect("text")
        .replace("/webhooks/github ", "/webhooks/github?a=b ");
    let answer = redirecting.refuses("redirect", bytes.as_bytes(), refusal(308, "github", "https_required"));
    assert_eq!(answer.header("location"), Some("https://hooks.example/webhooks/github?a=b"));
    assert_eq!(redirecting.proxy.send_tls(&event("1")).status, 200);

    let allowing = Moat::new(&route("https: allow", &[]));
    assert_eq!(allowing.proxy.send(&event_with("1", &[("X-Forwarded-Proto", "https")])).status, 200);
    assert_eq!(allowing.backend.only().header("x-forwarded-proto"), Some("http"));

    let differing = Moat::new(&route("https: allow", &["https: reject"]));
    differing.refuses("by route", &event("1"), refusal(403, "github", "https_required"));

    let behind = Moat::new(&route("https: reject\ntrusted_proxies: [127.0.0.0/8]", &[]));
    assert_eq!(behind.proxy.send(&event_with("1", &[("X-Forwarded-Proto", "https")])).status, 200);
    behind.refuses(
        "plain before the proxy",
        &event_with("2", &[("X-Forwarded-Proto", "http")]),
        refusal(403, "github", "https_required"),
    );
    behind.refuses("a silent proxy", &event("2"), refusal(403, "github", "https_required"));
}

#[test]
fn allowed_networks_and_trusted_proxies_come_from_files_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let networks: String =
        (0..100_000).map(|number| format!("10.{}.{}.{}/32\n", number >> 16, number >> 8 & 255, number & 255)).collect();
    let allowed = at("allowed.txt", &format!("# ours\n\n203.0.113.0/24 # two\n  2001:db8::/32\r\n{networks}"));
    let proxies = at("proxies.txt", "127.0.0.0/8\n");
    let moat = Moat::new(&route(
        &format!("trusted_proxies: [{{ file: \"{proxies}\" }}]"),
        &[&format!("allow: [192.0.2.1, {{ file: \"{allowed}\" }}]")],
    ));
    for (number, address) in
        ["192.0.2.1", "203.0.113.255", "::ffff:203.0.113.1", "2001:db8:1::1", "10.1.134.159"].iter().enumerate()
    {
        assert_eq!(
            moat.proxy.send(&event_with(&number.to_string(), &[("X-Forwarded-For", address)])).status,
            200,
            "{address}"
        );
    }
    for address in ["192.0.2.2", "203.0.114.0", "2001:db9::1", "10.1.134.160", "::ffff:192.0.2.2"] {
        moat.refuses(
            address,
            &event_with("x", &[("X-Forwarded-For", address)]),
            refusal(403, "github", "address_not_allowed"),
        );
    }
    let event = moat.proxy.wait_for_event("address_not_allowed");
    assert_eq!(event["client"], "192.0.2.2");
}

#[test]
fn limits_count_by_client_route_or_header_and_say_when_to_come_again() {
    for (per, other, together) in [
        ("client_ip", &[("X-Forwarded-For", "192.0.2.2")][..], &[("X-Tenant", "b")][..]),
        ("{ header: X-Tenant }", &[("X-Tenant", "b")], &[("X-Forwarded-For", "192.0.2.2")]),
        ("route", &[], &[("X-Forwarded-For", "192.0.2.2"), ("X-Tenant", "b")]),
    ] {
        let limit = format!("rate_limit: {{ per: {per}, requests: 2, every: 1h }}");
        let moat = Moat::new(&route("trusted_proxies: [127.0.0.1]", &[&limit]));
        let with = |id: &str, fields: &[(&str, &str)]| {
            let all = [("X-Forwarded-For", "192.0.2.1"), ("X-Tenant", "a")];
            let kept = all.into_iter().filter(|(name, _)| !fields.iter().any(|(other, _)| name == other));
            event_with(id, &kept.chain(fields.iter().copied()).collect::<Vec<_>>())
        };
        assert_eq!(
            [moat.proxy.send(&with("1", &[])).status, moat.proxy.send(&with("2", &[])).status],
            [200, 200],
            "{per}"
        );
        for fields in [&[][..], together] {
            let answer = moat.refuses(per, &with("3", fields), refusal(429, "github", "rate_limited"));
            let wait: u32 = answer.header("retry-after").expect("a time").parse().expect("seconds");
            assert!((1700..=1800).contains(&wait), "{per}: {wait}");
        }
        if !other.is_empty() {
            assert_eq!(moat.proxy.send(&with("3", other)).status, 200, "{per}");
        }
        assert_eq!(moat.proxy.metric("hookmoat_seen_ids"), if other.is_empty() { 4.0 } else { 6.0 });
    }
}

#[test]
fn room_comes_back_after_the_time_that_was_named() {
    let moat = Moat::new(&route("", &["rate_limit: { per: route, requests: 2, every: 2s, burst: 1 }"]));
    assert_eq!(moat.proxy.send(&event("1")).status, 200);
    let answer = moat.proxy.send(&event("2"));
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    // Refused requests cost nothing: knocking does not put the time off.
    assert!(within(PATIENCE, || moat.proxy.send(&event("2")).status == 200));
    assert!(!duplicate(&moat.proxy.send(&event("3"))));
}

#[test]
fn the_limit_of_verified_requests_is_not_spent_by_forgers() {
    let moat = Moat::new(&route(
        "",
        &["rate_limit_verified: { per: route, requests: 1, every: 1h }", "answers: { rate_limited: 503 }"],
    ));
    for _ in 0..20 {
        assert_eq!(moat.proxy.send(&forged("1")).status, 401);
    }
    assert_eq!(moat.proxy.metric("hookmoat_rate_limit_buckets"), 0.0);
    assert_eq!(moat.proxy.send(&event("1")).status, 200);
    let answer = moat.refuses("second", &event("2"), refusal(503, "github", "rate_limited"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(moat.proxy.send(&forged("3")).status, 401);
}

#[test]
fn any_secret_counts_within_its_time_and_a_files_line_end_is_no_part_of_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("secret");
    std::fs::write(&file, "secret-in-a-file-1234\n").expect("a file");
    let config = route("", &[]).replace(
        &format!("secrets: [{{ insecure_literal: \"{SECRET}\" }}]"),
        &format!(
            "secrets:\n      - {{ env: CURRENT }}\n      - {{ file: \"{}\" }}\n      \
             - {{ insecure_literal: secret-that-is-over-1, until: 2020-01-01T00:00:00Z }}\n      \
             - {{ insecure_literal: secret-not-yet-here-1, from: 2999-01-01T00:00:00Z }}\n      \
             - {{ insecure_literal: secret-of-this-time-1, from: 2020-01-01T00:00:00Z, until: 2999-01-01T00:00:00Z }}",
            file.display()
        ),
    );
    let backend = Backend::ok();
    let proxy = Proxy::start_with(backend.address, &config, &[("CURRENT", "secret-of-the-env-123")]);
    for (number, (secret, status)) in [
        ("secret-of-the-env-123", 200),
        ("secret-in-a-file-1234", 200),
        ("secret-in-a-file-1234\n", 401),
        ("secret-of-this-time-1", 200),
        ("secret-that-is-over-1", 401),
        ("secret-not-yet-here-1", 401),
        ("", 401),
    ]
    .into_iter()
    .enumerate()
    {
        let body = format!("{number}");
        let signature = sign::github(secret, body.as_bytes());
        let headers = [("X-Hub-Signature-256", &*signature), ("X-GitHub-Delivery", &*body)];
        assert_eq!(proxy.send(&post("/webhooks/github", &headers, body.as_bytes())).status, status, "{secret:?}");
    }
}

#[test]
fn a_route_whose_secrets_are_all_out_of_time_is_503_and_not_ready() {
    use time::format_description::well_known::Rfc3339;
    let soon = time::OffsetDateTime::now_utc() + Duration::from_secs(15);
    let soon = soon.format(&Rfc3339).expect("a time");
    for window in ["until: 2020-01-01T00:00:00Z", "from: 2999-01-01T00:00:00Z", &format!("until: {soon}")] {
        let secret = format!("insecure_literal: \"{SECRET}\", {window}");
        let moat = Moat::new(&route("", &[]).replace(&format!("insecure_literal: \"{SECRET}\""), &secret));
        if window.ends_with(&soon) {
            assert_eq!((moat.proxy.admin("/readyz").status, moat.proxy.send(&event("0")).status), (200, 200));
            // Nothing is loaded anew: time alone passes.
            assert!(within(PATIENCE, || moat.proxy.admin("/readyz").status == 503));
        } else {
            let word = if window.starts_with("until") { "any more" } else { "yet" };
            let warned = format!("the secret does not count {word}");
            assert!(moat.proxy.log().contains(&warned), "{}", moat.proxy.log());
        }
        moat.refuses(window, &event("1"), refusal(503, "github", "secret_missing"));
        let ready = moat.proxy.admin("/readyz");
        assert!(ready.status == 503 && ready.text().contains("github"), "{window}: {} {}", ready.status, ready.text());
        assert_eq!(moat.proxy.metric("hookmoat_route_ready{route=\"github\"}"), 0.0, "{window}");
    }
}

// ---- starting and ending ----------------------------------------------------------------------------------------------

/// A backend that answers after a while, and a request that waits for it.
fn slow_request(top: &str) -> (Moat, Connection) {
    let backend = Backend::with(|_, _| Reply::After(Duration::from_secs(2), Box::new(Reply::Status(200, "ok"))));
    let moat = Moat::with_backend(backend, &route(top, &[]));
    let mut connection = Connection::open(moat.proxy.http);
    connection.send(&event("slow"));
    moat.backend.wait_for(1);
    (moat, connection)
}

#[test]
fn sigterm_is_unready_then_finishes_what_is_in_flight_and_exits_with_0() {
    let (mut moat, mut slow) = slow_request("shutdown: { pre_stop: 4s, grace: 300s }");
    let mut idle = Connection::open(moat.proxy.http);
    assert_eq!(idle.send(&forged("0")).answer().status, 401);
    moat.proxy.signal("TERM");
    moat.wait_until("unready", || {
        let ready = moat.proxy.admin("/readyz");
        ready.status == 503 && ready.text().contains("draining")
    });
    // Still serving, so that load balancers can notice first.
    assert_eq!(moat.proxy.admin("/healthz").status, 200);
    let mut late = Connection::open(moat.proxy.http);
    late.send(&event("late"));
    assert_eq!((slow.answer().status, late.answer().status), (200, 200));
    // One that begins within the pre-stop time and ends after it.
    let mut last = None;
    moat.wait_until("closed", || match TcpStream::connect(moat.proxy.http) {
        Ok(_) => {
            if last.is_none() {
                let mut connection = Connection::open(moat.proxy.http);
                connection.send(&event("last"));
                last = Some(connection);
            }
            false
        }
        Err(_) => true,
    });
    assert_eq!(last.expect("it was open").try_answer().map(|answer| answer.status), Some(200));
    assert!(idle.is_closed());
    let mut status = None;
    assert!(within(PATIENCE, || !moat.proxy.is_running()), "still running:\n{}", moat.proxy.log());
    status.replace(moat.proxy.wait());
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", moat.proxy.log());
    assert!(moat.proxy.log().contains("drained"));
}

#[test]
fn no_line_is_lost_at_the_end() {
    let mut moat = Moat::new(&route("", &[]));
    let mut connection = Connection::open(moat.proxy.http);
    for id in 0..150 {
        assert_eq!(connection.send(&event(&id.to_string())).answer().status, 200);
    }
    moat.proxy.signal("TERM");
    assert!(within(PATIENCE, || !moat.proxy.is_running()), "still running:\n{}", moat.proxy.log());
    let ids: Vec<_> = moat.proxy.events().iter().map(|event| event["event_id"].as_str().map(str::to_owned)).collect();
    assert_eq!(ids, (0..150).map(|id| Some(id.to_string())).collect::<Vec<_>>());
    // In the order in which things happened, whatever waited and whatever did not.
    assert!(moat.proxy.log().lines().last().is_some_and(|line| line.contains("drained")), "{}", moat.proxy.log());
}

#[test]
fn a_process_that_is_told_to_drain_serves_on_and_keeps_no_connection() {
    let mut moat = Moat::new(&route("", &[]));
    let mut kept = Connection::open(moat.proxy.http);
    assert_eq!(kept.send(&event("before")).answer().status, 200);
    let told = program().args(["drain", "--pid", &moat.proxy.pid().to_string()]).status().expect("it runs");
    assert!(told.success());
    moat.wait_until("unready", || moat.proxy.admin("/readyz").text().contains("draining"));
    assert_eq!(moat.proxy.admin("/healthz").status, 200);
    assert_eq!(kept.send(&event("on the kept one")).answer().status, 200);
    assert!(kept.is_closed());
    for id in ["a", "b"] {
        let mut fresh = Connection::open(moat.proxy.http);
        let answer = fresh.send(&event(id)).answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(fresh.is_closed());
    }
    assert!(moat.proxy.is_running());
    moat.proxy.signal("TERM");
    assert_eq!(moat.proxy.wait().code(), Some(0), "{}", moat.proxy.log());
    let nobody = program().args(["drain", "--pid", &moat.proxy.pid().to_string()]).status().expect("it runs");
    assert_eq!(nobody.code(), Some(1));
    assert_eq!(program().args(["drain", "--pid", "0"]).status().expect("it runs").code(), Some(2));
}

#[test]
fn sigint_ends_at_once_but_for_what_is_in_flight() {
    let (mut moat, mut slow) = slow_request("shutdown: { pre_stop: 300s, grace: 300s }");
    moat.proxy.signal("INT");
    assert_eq!(slow.answer().status, 200);
    assert!(within(PATIENCE, || !moat.proxy.is_running()), "still running:\n{}", moat.proxy.log());
    assert_eq!(moat.proxy.wait().code(), Some(0));
}

#[test]
fn what_does_not_end_within_the_grace_is_cut() {
    let backend = Backend::with(|_, _| Reply::Hang);
    let mut moat = Moat::with_backend(backend, &route("shutdown: { pre_stop: 0s, grace: 1s }", &[]));
    let mut hanging = Connection::open(moat.proxy.http);
    hanging.send(&event("1"));
    moat.backend.wait_for(1);
    moat.proxy.signal("TERM");
    assert!(within(PATIENCE, || !moat.proxy.is_running()), "still running:\n{}", moat.proxy.log());
    assert_eq!(moat.proxy.wait().code(), Some(0));
    assert!(hanging.try_answer().is_none_or(|answer| answer.status >= 500));
    let log = moat.proxy.log();
    assert!(log.contains("cutting what is not done") && log.contains("\"requests\":1"), "{log}");
}

/// What the program says with this configuration, and its exit code.
fn said(arguments: &[&str], path: &std::path::Path) -> (Option<i32>, String) {
    let done = program().args(arguments).arg(path).output().expect("it runs");
    (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
}

#[test]
fn a_taken_address_ends_the_start_and_is_named() {
    let moat = Moat::new(&route("", &[]));
    let config = std::fs::read_to_string(moat.proxy.config()).expect("the file");
    let [free, other] = free_addresses();
    for (taken, config) in [
        (moat.proxy.http, config.clone()),
        (
            moat.proxy.admin,
            config
                .replace(&moat.proxy.http.to_string(), &free.to_string())
                .replace(&moat.proxy.https.to_string(), &other.to_string()),
        ),
    ] {
        let path = moat.proxy.path().join("second.yaml");
        std::fs::write(&path, config).expect("a file");
        let (code, text) = said(&["run", "--config"], &path);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(&format!("cannot listen on {taken}")), "{text}");
    }
    assert_eq!(moat.proxy.send(&event("1")).status, 200, "the first one goes on");
}

#[test]
fn a_broken_configuration_ends_the_start_with_every_problem() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hookmoat.yaml");
    let broken = "listen:\n  - address: nowhere\nadmin: 0.0.0.0:1\nhttps: maybe\ntimeouts: { header: 5 }\nupstreams: { app: \"ftp://x\" }\n\
                  routes:\n  - name: a\n    path: x\n    provider: githob\n    to: nobody\n  - name: a\n    pth: /y\n    provider: github\n    to: app\n";
    std::fs::write(&path, broken).expect("a file");
    for command in ["run", "check"] {
        let (code, text) = said(&[command, "--config"], &path);
        assert_eq!(code, Some(2), "{text}");
        for (line, part) in [
            (2, "nowhere"),
            (3, "allow_public"),
            (4, "maybe"),
            (5, "timeouts.header"),
            (6, "ftp"),
            (9, "routes[0].path"),
            (10, "githob"),
            (11, "nobody"),
            (13, "pth"),
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
            assert!(text.contains(&format!("hookmoat.yaml:{line}:")), "line {line}:\n{text}");
        }
    }
    for (text, part) in
        [("", "routes"), ("a: [", "hookmoat.yaml:"), ("[]", "hookmoat.yaml"), ("listen: &a [*a]", "hookmoat.yaml")]
    {
        std::fs::write(&path, text).expect("a file");
        let (code, said) = said(&["run", "--config"], &path);
        assert!(code == Some(2) && said.contains(part), "{text:?}: {code:?} {said}");
    }
    let (code, text) = said(&["run", "--config"], &folder.path().join("not-there.yaml"));
    assert_eq!(code, Some(2));
    assert!(text.contains("not-there.yaml") && text.to_lowercase().contains("no such file"), "{text}");
}

#[test]
fn a_certificate_that_cannot_be_used_ends_the_start_and_is_named() {
    let moat = Moat::new(&route("", &[]));
    let config = std::fs::read_to_string(moat.proxy.config()).expect("the file");
    let addresses: [_; 3] = free_addresses();
    let old = [moat.proxy.http, moat.proxy.https, moat.proxy.admin];
    let config =
        old.iter().zip(&addresses).fold(config, |text, (old, new)| text.replace(&old.to_string(), &new.to_string()));
    let other = Moat::new(&route("", &[]));
    let key = other.proxy.path().join("tls/tls.key");
    for (key, part) in [
        (key.display().to_string(), "does not belong to"),
        ("tls/tls.crt".into(), "private key"),
        ("tls/none.key".into(), "none.key"),
    ] {
        let path = moat.proxy.path().join("second.yaml");
        std::fs::write(&path, config.replace("tls/tls.key", &key)).expect("a file");
        let (code, text) = said(&["run", "--config"], &path);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(part) && !text.contains("BEGIN"), "{part}: {text}");
        let (code, text) = said(&["check", "--json", "--config"], &path);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((code, &value["ok"]), (Some(2), &false.into()), "{text}");
        let problem = &value["problems"][0];
        assert!(problem["path"].as_str().is_some_and(|path| path.starts_with("listen[1].tls")), "{text}");
        assert!(problem["problem"].as_str().is_some_and(|what| what.contains(part)), "{text}");
        assert!(problem["help"].is_string(), "{text}");
    }
}

#[test]
fn no_admin_listener_where_none_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hookmoat.yaml");
    let [address] = free_addresses();
    let config = route(
        &format!(
            "listen: [{{ address: \"{address}\" }}]\nadmin: off\nhttps: allow\nupstreams: {{ app: \"http://127.0.0.1:9\" }}"
        ),
        &[],
    );
    std::fs::write(&path, config).expect("a file");
    let mut child =
        program().args(["run", "--config"]).arg(&path).stderr(std::process::Stdio::null()).spawn().expect("it starts");
    assert!(within(PATIENCE, || TcpStream::connect(address).is_ok()));
    let answer = Connection::open(address).send(&request("GET", "/metrics", &[], b"")).answer();
    assert_eq!(answer.status, 404);
    child.kill().expect("it runs");
    child.wait().expect("a status");
}

// ---- memory -----------------------------------------------------------------------------------------------------------

#[test]
fn memory_is_small_idle_and_comes_back_after_a_hundred_megabytes_of_bodies() {
    const MIB: u64 = 1 << 20;
    let backend = Backend::with(|_, _| Reply::After(Duration::from_millis(500), Box::new(Reply::Status(200, "ok"))));
    let moat = Arc::new(Moat::with_backend(backend, &route("limits: { max_body: 2MiB }", &[])));
    assert_eq!(moat.proxy.send(&event("first")).status, 200);
    let idle = moat.proxy.rss();
    let senders: Vec<_> = (0..100)
        .map(|number| {
            let moat = moat.clone();
            std::thread::spawn(move || {
                let body = vec![u8::try_from(number).expect("small"); 1 << 20];
                let (signature, id) = (sign::github(SECRET, &body), number.to_string());
                let bytes =
                    post("/webhooks/github", &[("X-Hub-Signature-256", &signature), ("X-GitHub-Delivery", &id)], &body);
                let mut connection = Connection::open(moat.proxy.http);
                // All but the last byte, so that all bodies are held at once.
                connection.send(&bytes[..bytes.len() - 1]);
                while moat.proxy.metric("hookmoat_body_memory_bytes") < 100.0 * f64::from(1 << 20) - 100.0
                    && moat.backend.requests().len() < 2
                {
                    std::thread::sleep(Duration::from_millis(100));
                }
                connection.send(&bytes[bytes.len() - 1..]).answer().status
            })
        })
        .collect();
    let mut peak = idle;
    while senders.iter().any(|sender| !sender.is_finished()) {
        peak = peak.max(moat.proxy.rss());
        std::thread::sleep(Duration::from_millis(20));
    }
    for sender in senders {
        assert_eq!(sender.join().expect("no panic"), 200);
    }
    assert_eq!(moat.backend.requests().len(), 101);
    let back = within(PATIENCE, || moat.proxy.rss() < idle + 24 * MIB);
    let after = moat.proxy.rss();
    eprintln!(
        "memory in MiB: idle {}, with 100 bodies of 1 MiB {}, afterwards {}",
        idle / MIB,
        peak / MIB,
        after / MIB
    );
    assert!(idle < 60 * MIB, "idle {} MiB", idle / MIB);
    assert!(peak > idle + 90 * MIB, "the bodies were not held at once: {} MiB", peak / MIB);
    assert!(peak < 200 * MIB, "peak {} MiB", peak / MIB);
    assert!(back, "afterwards {} MiB, idle {} MiB", after / MIB, idle / MIB);
}

#[test]
fn health_asks_the_running_process() {
    let moat = Moat::new(&route("", &[]));
    let health = |arguments: &[&str]| {
        let output =
            program().arg("health").args(arguments).arg("-c").arg(moat.proxy.config()).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(health(&[]), (Some(0), "ready\n".into()));
    assert_eq!(health(&["--live"]), (Some(0), "ok\n".into()));
    // The file names another port now, where nobody is.
    let text = std::fs::read_to_string(moat.proxy.config()).expect("the configuration");
    let [nobody] = free_addresses();
    let moved = text.replace(&moat.proxy.admin.to_string(), &nobody.to_string());
    let elsewhere = moat.proxy.path().join("elsewhere.yaml");
    std::fs::write(&elsewhere, &moved).expect("a file");
    let output = program().args(["health", "-c"]).arg(&elsewhere).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no answer from"));
    std::fs::write(&elsewhere, moved.replace(&format!("admin: {nobody}"), "admin: off")).expect("a file");
    let output = program().args(["health", "-c"]).arg(&elsewhere).output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
}
