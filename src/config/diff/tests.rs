use super::*;
use Effect::{Other, Stronger, Weaker};

fn told(old: &str, new: &str) -> Vec<(Effect, String)> {
    diff(old, new).unwrap().into_iter().map(|change| (change.effect, change.to_string())).collect()
}

fn of_route(old: &str, new: &str) -> Vec<(Effect, String)> {
    let route = |keys: &str| format!("routes: [{{ name: a, path: /a{keys} }}]");
    told(&route(old), &route(new))
}

#[test]
fn every_known_key_has_a_direction_and_a_remedy_is_not_needed_for_the_same() {
    for (old, new, effect, text) in [
        ("", ", signature: none", Weaker, "route a: signature: switched off: nothing is verified any more"),
        (", signature: none", ", provider: slack", Stronger, "route a: signature: switched on"),
        (
            "",
            ", duplicates: off",
            Weaker,
            "route a: duplicates: switched off: copies of an event are not told any more",
        ),
        ("", ", https: allow", Weaker, "route a: https: not set → allow"),
        (", https: allow", ", https: redirect", Stronger, "route a: https: allow → redirect"),
        (", allow: [10.0.0.0/8]", "", Weaker, "route a: allow: [10.0.0.0/8] → anything"),
        (", allow: [10.0.0.0/8]", ", allow: [10.0.0.0/8, 192.0.2.1]", Weaker, "route a: allow: 192.0.2.1 added"),
        ("", ", allow: [{ file: x.txt }]", Stronger, "route a: allow: anything → [{file: x.txt}]"),
        ("", ", observe: [signature]", Weaker, "route a: observe: signature added"),
        (", observe: [signature, https]", ", observe: [https]", Stronger, "route a: observe: signature removed"),
        (
            ", observe: [signature]",
            ", enforce: { signature: 10% }",
            Stronger,
            "route a: enforce.signature: 0% → 10% of what it would refuse is refused",
        ),
        (
            "",
            ", enforce: { allow: 50% }",
            Weaker,
            "route a: enforce.allow: 100% → 50% of what it would refuse is refused",
        ),
        (
            ", enforce: { allow: 50% }",
            ", enforce: { allow: 5% }",
            Weaker,
            "route a: enforce.allow: 50% → 5% of what it would refuse is refused",
        ),
        (", required_headers: [X-A]", "", Weaker, "route a: required_headers: X-A removed"),
        ("", ", max_body: 2MiB", Weaker, "route a: max_body: not set → 2MiB"),
        (", max_body: 2MiB", ", max_body: 64KiB", Stronger, "route a: max_body: 2MiB → 64KiB"),
        (
            ", duplicates: { remember: 4h }",
            ", duplicates: { remember: 1h }",
            Weaker,
            "route a: duplicates.remember: 4h → 1h",
        ),
        ("", ", duplicates: { replay_guard: false }", Weaker, "route a: duplicates.replay_guard: not set → false"),
        (
            ", rate_limit: { requests: 1, every: 1s }",
            "",
            Weaker,
            "route a: rate_limit: {requests: 1, every: 1s} → not set",
        ),
        (
            ", rate_limit: { requests: 1, every: 1s }",
            ", rate_limit: { requests: 100, every: 1m }",
            Weaker,
            "route a: rate_limit: {requests: 1, every: 1s} → {requests: 100, every: 1m}",
        ),
        (", provider: slack", ", provider: github", Other, "route a: provider: slack → github: other rules hold"),
        (", to: app", ", to: web", Other, "route a: to: app → web"),
    ] {
        let told = of_route(old, new);
        assert_eq!(told.first(), Some(&(effect, text.to_owned())), "{old} / {new}: {told:?}");
    }
}

#[test]
fn what_means_the_same_is_no_change() {
    for (old, new) in [
        ("", ""),
        (", https: reject", ""),
        (", duplicates: { replay_guard: true }", ""),
        (", duplicates: { remember: 60m }", ", duplicates: { remember: 1h }"),
        (", max_body: 1MiB", ", max_body: 1024KiB"),
        (", methods: [POST, PUT]", ", methods: [PUT, POST]"),
        (", observe: [shape]", ", enforce: { shape: 0%, allow: 100% }"),
    ] {
        assert_eq!(of_route(old, new), [], "{old} / {new}");
    }
    assert_eq!(told("a: &a { b: 1 }\nc: *a", "a: { b: 1 }\nc: { b: 1 }"), []);
}

#[test]
fn a_secret_is_never_shown() {
    let old = ", secrets: [{ insecure_literal: hunter2-hunter2 }]";
    let new = ", secrets: [{ insecure_literal: other-secret-text }]";
    assert_eq!(of_route(old, new), [(Other, "route a: secrets: changed".into())]);
    let told = told(
        "state: { redis: { url: 'redis://u:hunter2@x' } }",
        "state: { redis: { url: 'redis://u:hunter3@x', password: hunter4 } }",
    );
    assert!(!format!("{told:?}").contains("hunter"), "{told:?}");
    let added = of_route("", ", signature: { secrets: [hunter2], key: { secret: hunter2 } }");
    assert!(!format!("{added:?}").contains("hunter"), "{added:?}");
}

#[test]
fn routes_come_and_go_and_an_unlocked_one_is_weaker() {
    let old = "routes: [{ name: a, path: /a }, { name: b, path: /b }]";
    let new = "routes: [{ name: b, path: /b }, { name: c, path: /c, signature: none }, { name: d, path: /d }]";
    let expected = [
        (Weaker, "route c: added at /c, and nothing is verified on it"),
        (Other, "route a: removed"),
        (Other, "route d: added at /d"),
    ];
    assert_eq!(told(old, new), expected.map(|(effect, text)| (effect, text.to_owned())));
}

#[test]
fn what_concerns_everything_is_told_too() {
    let told = told(
        "https: reject\ntrusted_proxies: [10.0.0.0/8]\nlimits: { headers: 50 }",
        "https: allow\ntrusted_proxies: [10.0.0.0/8, 0.0.0.0/0]\nlimits: { headers: 20 }\nnew_key: { a: 1 }",
    );
    let expected = [
        (Weaker, "https: reject → allow"),
        (Weaker, "trusted_proxies: 0.0.0.0/0 added"),
        (Stronger, "limits.headers: 50 → 20"),
        (Other, "new_key.a: not set → 1"),
    ];
    assert_eq!(told, expected.map(|(effect, text)| (effect, text.to_owned())));
}

#[test]
fn what_is_not_written_means_what_stands_for_it() {
    for (old, new, effect, text) in [
        (", provider: twilio, methods: [POST]", ", provider: twilio", Weaker, "methods: GET added"),
        (
            ", provider: ko-fi",
            ", provider: ko-fi, content_types: [application/x-www-form-urlencoded, text/plain]",
            Weaker,
            "content_types: text/plain added",
        ),
        (
            ", provider: github, duplicates: { missing: reject }",
            ", provider: github",
            Weaker,
            "duplicates.missing: reject → not set",
        ),
        (
            ", provider: standard-webhooks",
            ", provider: standard-webhooks, duplicates: { remember: 1h }",
            Weaker,
            "duplicates.remember: not set (4d) → 1h",
        ),
        (", host: a.example", "", Weaker, "host: a.example → not set"),
        (", claims: { aud: x }", "", Weaker, "claims.aud: x → anything"),
        (", claims: { aud: x }", ", claims: { aud: [x, y] }", Weaker, "claims.aud: y added"),
        (
            ", provider: github",
            ", provider: gitlab",
            Weaker,
            "provider: github → gitlab: other rules hold, and a weaker proof is enough",
        ),
        (
            ", on_failure: { duplicates: reject }",
            ", on_failure: { duplicates: allow }",
            Weaker,
            "on_failure.duplicates: reject → allow",
        ),
        (
            ", handshake: { verify_token: { env: T }, keep: f }",
            ", handshake: { keep: f }",
            Weaker,
            "handshake.verify_token: {env: T} → not set",
        ),
        (
            ", handshake: { exchanges: [{ name: p }] }",
            ", handshake: { exchanges: [{ name: p, proof: none }] }",
            Weaker,
            "handshake.exchanges[p].proof: not set → none",
        ),
        (
            ", handshake: { exchanges: [{ name: p }] }",
            ", handshake: { exchanges: [{ name: p }, { name: q, proof: none }] }",
            Weaker,
            "handshake.exchanges[q]: added: {name: q, proof: none}",
        ),
    ] {
        let told = of_route(old, new);
        assert_eq!(told.first(), Some(&(effect, format!("route a: {text}"))), "{old} / {new}: {told:?}");
    }
    for (old, new) in [
        ("", ", methods: [POST]"),
        (", provider: twilio", ", provider: twilio, methods: [GET, POST]"),
        (", provider: github", ", provider: github, duplicates: { missing: skip }"),
        (", provider: github", ", provider: github, content_encodings: []"),
        ("", ", handshake: false"),
        (", signature: none", ", signature: none, duplicates: off"),
    ] {
        assert_eq!(of_route(old, new), [], "{old} / {new}");
    }
}

#[test]
fn rate_limits_and_networks_are_compared_by_what_passes_them() {
    for (old, new, effect, text) in [
        (
            ", rate_limit: { requests: 1, every: 1s }",
            ", rate_limit: [{ requests: 100, every: 1s }, { requests: 1000, every: 1s }]",
            Weaker,
            "rate_limit: {requests: 1, every: 1s} → [{requests: 100, every: 1s}, {requests: 1000, every: 1s}]",
        ),
        (
            ", rate_limit: { requests: 10, every: 1s }",
            ", rate_limit: { requests: 9, every: 1s, burst: 100000 }",
            Weaker,
            "rate_limit: {requests: 10, every: 1s} → {requests: 9, every: 1s, burst: 100000}",
        ),
        (
            ", rate_limit: [{ requests: 1, every: 1s }, { requests: 9, every: 1m }]",
            ", rate_limit: [{ requests: 2, every: 1s }, { requests: 99, every: 1m }]",
            Weaker,
            "rate_limit: [{requests: 1, every: 1s}, {requests: 9, every: 1m}] → [{requests: 2, every: 1s}, \
             {requests: 99, every: 1m}]",
        ),
        (
            ", rate_limit: { per: route, requests: 5, every: 1s }",
            ", rate_limit: { per: { header: X-A }, requests: 5, every: 1s }",
            Weaker,
            "rate_limit: {per: route, requests: 5, every: 1s} → {per: {header: X-A}, requests: 5, every: 1s}",
        ),
        (
            ", rate_limit: { requests: 5, every: 1s }",
            ", rate_limit: { per: route, requests: 5, every: 1s }",
            Stronger,
            "rate_limit: {requests: 5, every: 1s} → {per: route, requests: 5, every: 1s}",
        ),
        (", allow: [10.0.0.0/8]", ", allow: [10.0.0.0/16]", Stronger, "allow: 10.0.0.0/8 → 10.0.0.0/16"),
        (", allow: [10.0.0.0/16]", ", allow: [10.0.0.0/8]", Weaker, "allow: 10.0.0.0/16 → 10.0.0.0/8"),
        (
            ", allow: [{ url: 'https://a.example/x' }]",
            ", allow: [{ url: 'https://b.example/x' }]",
            Weaker,
            "allow: {url: https://b.example/x} added",
        ),
        (
            ", public_keys: [{ file: k.pem }]",
            ", public_keys: [{ file: k.pem }, { jwks: 'https://b.example/k' }]",
            Weaker,
            "public_keys: {jwks: https://b.example/k} added",
        ),
    ] {
        let told = of_route(old, new);
        assert_eq!(told.first(), Some(&(effect, format!("route a: {text}"))), "{old} / {new}: {told:?}");
    }
    for (old, new) in [
        (", rate_limit: { requests: 5, every: 1s }", ", rate_limit: [{ requests: 5, every: 1s, burst: 5 }]"),
        (", allow: [10.0.0.0/8]", ", allow: [10.0.0.0/9, 10.128.0.0/9]"),
    ] {
        assert_eq!(of_route(old, new), [], "{old} / {new}");
    }
}

#[test]
fn an_own_scheme_gets_weaker_by_every_change_that_does_not_make_it_stronger() {
    let scheme = |signed: &str, algorithm: &str, rest: &str| {
        format!(", signature: {{ algorithm: {algorithm}, signed: '{signed}'{rest} }}")
    };
    let full = "{header:T}.{body}";
    let timed = ", timestamp: { header: T, past: 5m }";
    for (old, new, effect, text) in [
        (
            scheme(full, "hmac-sha256", ""),
            scheme("{header:T}", "hmac-sha256", ""),
            Weaker,
            "signed: {header:T}.{body} → {header:T}",
        ),
        (
            scheme("{body}", "hmac-sha256", ""),
            scheme(full, "hmac-sha256", ""),
            Stronger,
            "signed: {body} → {header:T}.{body}",
        ),
        (scheme(full, "hmac-sha256", ""), scheme(full, "hmac-sha1", ""), Weaker, "algorithm: hmac-sha256 → hmac-sha1"),
        (scheme(full, "hmac-sha256", ""), scheme(full, "hmac-md5", ""), Weaker, "algorithm: hmac-sha256 → hmac-md5"),
        (
            scheme(full, "hmac-sha1", ""),
            scheme(full, "hmac-sha256", ""),
            Stronger,
            "algorithm: hmac-sha1 → hmac-sha256",
        ),
        (scheme(full, "hmac-sha256", ""), scheme(full, "token", ""), Weaker, "algorithm: hmac-sha256 → token"),
        (
            scheme(full, "hmac-sha256", timed),
            scheme(full, "hmac-sha256", ""),
            Weaker,
            "timestamp: {header: T, past: 5m} → not set",
        ),
        (
            scheme(full, "hmac-sha256", timed),
            scheme(full, "hmac-sha256", ", timestamp: { header: T, past: 5m, future: 5h }"),
            Weaker,
            "timestamp.future: 5m → 5h",
        ),
        (
            scheme(full, "hmac-sha256", timed),
            scheme(full, "hmac-sha256", ", timestamp: { header: U, past: 5m }"),
            Weaker,
            "timestamp.header: T → U",
        ),
        (
            ", signature: { any_of: [{ name: v1, timestamp: { past: 5m, future: 1m } }] }".into(),
            ", signature: { any_of: [{ name: v1, timestamp: { past: 5h, future: 1m } }] }".into(),
            Weaker,
            "any_of[v1].timestamp.past: 5m → 5h",
        ),
        (
            ", signature: { any_of: [{ name: v1 }] }".into(),
            ", signature: { any_of: [{ name: v1 }, { name: v2 }] }".into(),
            Weaker,
            "any_of[v2]: added: {name: v2}",
        ),
        (
            ", signature: { token: { max_age: 5m } }".into(),
            ", signature: { token: { max_age: 5h } }".into(),
            Weaker,
            "token.max_age: 5m → 5h",
        ),
        (
            ", signature: { token: { max_age: 5m } }".into(),
            ", signature: { token: { require: [exp] } }".into(),
            Weaker,
            "token.max_age: 5m → not set",
        ),
        (
            ", signature: { token: { require: [exp, iat] } }".into(),
            ", signature: { token: { require: [exp] } }".into(),
            Weaker,
            "token.require: iat removed",
        ),
        (
            ", signature: { token: { claims: [{ name: h, body_digest: { hash: sha256 } }] } }".into(),
            ", signature: { token: {} }".into(),
            Weaker,
            "token.claims: {name: h, body_digest: {hash: sha256}} removed",
        ),
    ] {
        let told = of_route(&old, &new);
        assert_eq!(told.first(), Some(&(effect, format!("route a: signature.{text}"))), "{old} / {new}: {told:?}");
    }
}

#[test]
fn doors_and_neighbours_of_the_whole_process() {
    let listen = |keys: &str| format!("listen: [{{ address: '0.0.0.0:1'{keys} }}]");
    let tls = |keys: &str| listen(&format!(", tls: {{ certificate: c{keys} }}"));
    let route = |globals: &str, keys: &str| format!("{globals}\nroutes: [{{ name: a, path: /a{keys} }}]");
    let text = str::to_owned;
    for (old, new, effect, line) in [
        (
            text("upstreams: { u: 'https://a' }"),
            text("upstreams: { u: 'http://a' }"),
            Weaker,
            "upstream u: url: https://a → http://a",
        ),
        (
            text("upstreams: { u: 'http://a' }"),
            text("upstreams: { u: { url: 'http://b' } }"),
            Other,
            "upstream u: url: http://a → http://b",
        ),
        (
            route("https: allow", ", https: reject"),
            route("https: allow", ""),
            Weaker,
            "route a: https: reject → not set (allow)",
        ),
        (
            route("https: allow", ", https: redirect"),
            route("https: allow", ""),
            Weaker,
            "route a: https: redirect → not set (allow)",
        ),
        (
            route("limits: { max_body: 64KiB }", ""),
            route("limits: { max_body: 64KiB }", ", max_body: 512KiB"),
            Weaker,
            "route a: max_body: not set (64KiB) → 512KiB",
        ),
        (text("limits: { max_body: 64KiB }"), text("limits: {}"), Weaker, "limits.max_body: 64KiB → not set"),
        (text("limits: {}"), text("limits: { max_body: 25MB }"), Weaker, "limits.max_body: not set → 25MB"),
        (text("timeouts: {}"), text("timeouts: { total: 5m }"), Weaker, "timeouts.total: not set → 5m"),
        (
            text("connections: { max_per_address: 9 }"),
            text("connections: {}"),
            Weaker,
            "connections.max_per_address: 9 → not set",
        ),
        (
            text("connections: { deny: [10.0.0.0/16] }"),
            text("connections: { deny: [10.0.0.0/8] }"),
            Stronger,
            "connections.deny: 10.0.0.0/16 → 10.0.0.0/8",
        ),
        (tls(", min_version: TLSv1.3"), tls(""), Weaker, "listen[0.0.0.0:1].tls.min_version: TLSv1.3 → not set"),
        (tls(", client_ca: r"), tls(""), Weaker, "listen[0.0.0.0:1].tls.client_ca: r → not set"),
        (tls(", client_ca: r"), tls(", client_ca: s"), Other, "listen[0.0.0.0:1].tls.client_ca: r → s"),
        (
            tls(", client_ca: r"),
            tls(", client_ca: r, client_certificate: optional"),
            Weaker,
            "listen[0.0.0.0:1].tls.client_certificate: required → optional",
        ),
        (tls(""), listen(""), Weaker, "listen[0.0.0.0:1].tls: {certificate: c} → not set"),
        (
            listen(", proxy_protocol: { from: [10.0.0.0/8] }"),
            listen(", proxy_protocol: { from: [0.0.0.0/0] }"),
            Weaker,
            "listen[0.0.0.0:1].proxy_protocol.from: 10.0.0.0/8 → 0.0.0.0/0",
        ),
        (
            text("listen: [{ address: '127.0.0.1:1' }]"),
            listen(""),
            Weaker,
            "listen[0.0.0.0:1].address: 127.0.0.1:1 → 0.0.0.0:1",
        ),
        (
            listen(""),
            text("listen: [{ address: '0.0.0.0:1' }, { address: '0.0.0.0:2' }]"),
            Weaker,
            "listen[0.0.0.0:2]: added: {address: 0.0.0.0:2}",
        ),
        (
            text("admin: '127.0.0.1:9'"),
            text("admin: { address: '0.0.0.0:9', allow_public: true }"),
            Weaker,
            "admin.address: 127.0.0.1:9 → 0.0.0.0:9",
        ),
        (
            text("admin: { address: '127.0.0.1:9', token: { env: T } }"),
            text("admin: '127.0.0.1:9'"),
            Weaker,
            "admin.token: {env: T} → not set",
        ),
        (
            text("state: { sqlite: { path: x } }"),
            text("state: memory"),
            Weaker,
            "state: delivered events are forgotten at a restart",
        ),
        (text("fetch: { signer_ca: x }"), text("fetch: {}"), Weaker, "fetch.signer_ca: x → not set"),
        (
            text("routes: [{ name: a, path: /a/b }]"),
            text("routes: [{ name: a, path: '/a/*' }]"),
            Weaker,
            "route a: path: /a/b → /a/*",
        ),
        (
            text("routes: [{ name: a, path: /a/b }]"),
            text("routes: [{ name: a, path: /a/c }]"),
            Other,
            "route a: path: /a/b → /a/c",
        ),
    ] {
        let told = told(&old, &new);
        assert_eq!(told.first(), Some(&(effect, line.to_owned())), "{old} / {new}: {told:?}");
    }
    for (old, new) in [
        ("upstreams: { u: 'http://a' }", "upstreams: { u: { url: 'http://a' } }"),
        ("admin: '127.0.0.1:9901'", "admin: { address: '127.0.0.1:9901' }"),
        ("state: memory", "limits: { max_body: 1MiB }"),
    ] {
        assert_eq!(told(old, new), [], "{old} / {new}");
    }
}

#[test]
fn a_new_name_hides_nothing() {
    let expected = |lines: &[(Effect, &str)]| -> Vec<(Effect, String)> {
        lines.iter().map(|(effect, text)| (*effect, (*text).to_owned())).collect()
    };
    let old = "routes: [{ name: a, path: /a, provider: github }]";
    let renamed = "routes: [{ name: b, path: /a, provider: github, observe: [signature], https: allow }]";
    assert_eq!(
        told(old, renamed),
        expected(&[
            (Weaker, "route b: https: not set → allow"),
            (Weaker, "route b: observe: signature added"),
            (Other, "route b: was called a"),
        ])
    );
    let more = "routes: [{ name: a, path: /a, provider: github }, \
                { name: c, path: /c, observe: [signature], duplicates: off, https: allow }]";
    assert_eq!(
        told(old, more),
        expected(&[
            (
                Weaker,
                "route c: duplicates: switched off: copies of an event are not told any more, weaker than the default"
            ),
            (Weaker, "route c: https: not set → allow, weaker than the default"),
            (Weaker, "route c: observe: signature added, weaker than the default"),
            (Other, "route c: added at /c"),
        ])
    );
}

#[test]
fn long_values_are_shown_where_they_differ() {
    let long = |end: &str| format!("{}{end}", "x".repeat(200));
    let before = "x".repeat(20);
    assert_eq!(difference(&long("a"), &long("b")), format!("…{before}a → …{before}b"));
    assert_eq!(difference("a", &"b".repeat(121)), format!("a → {}…", "b".repeat(120)));
}
