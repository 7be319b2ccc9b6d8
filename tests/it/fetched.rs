//! What comes over the network: fetched from a server that fails, lies and changes, and tried through the socket.

use crate::support::origin::{Origin, Says, json};
use crate::support::{Backend, PATIENCE, Proxy, request, sign, within};
use serde_json::json;
use std::time::Duration;

const LIST: &str = "ranges.example.com";

/// A route that allows what this list publishes; clients are named by a trusted proxy.
fn config(origin: &Origin, more: &str) -> String {
    format!(
        "{}trusted_proxies: [127.0.0.0/8]\nroutes:\n  - name: hooks\n    path: /hooks\n    provider: github\n    \
         secret: {{ insecure_literal: a-secret-of-some-length }}\n    allow:\n      - 198.51.100.7\n      \
         - {{ url: \"https://{LIST}/list\", json_path: /hooks/* }}\n    to: app\n",
        origin.fetch(&[LIST], more)
    )
}

fn networks(networks: &[&str]) -> Says {
    json(&json!({ "hooks": networks }))
}

/// The status for a signed request from this client.
fn status(proxy: &Proxy, client: &str) -> u16 {
    status_at(proxy, "/hooks", client)
}

fn status_at(proxy: &Proxy, path: &str, client: &str) -> u16 {
    let body = format!("{{\"at\":\"{:?}\"}}", std::time::Instant::now());
    let signature = sign::github("a-secret-of-some-length", body.as_bytes());
    let headers = [
        ("Content-Type", "application/json"),
        ("X-Forwarded-For", client),
        ("X-GitHub-Event", "push"),
        ("X-Hub-Signature-256", &signature),
    ];
    proxy.send(&request("POST", path, &headers, body.as_bytes())).status
}

#[track_caller]
fn becomes(proxy: &Proxy, client: &str, expected: u16) {
    assert!(within(PATIENCE, || status(proxy, client) == expected), "{client}\n{}", proxy.log());
}

fn failures(proxy: &Proxy) -> f64 {
    proxy.metric(&format!("hookmoat_fetch_failures_total{{kind=\"ranges\",source=\"{LIST}/list\"}}"))
}

#[track_caller]
fn fails_again(proxy: &Proxy) {
    let before = failures(proxy);
    assert!(within(PATIENCE, || failures(proxy) >= before + 2.0), "{}", proxy.log());
}

#[test]
fn a_route_refuses_until_the_list_is_there_and_never_opens() {
    let origin = Origin::start(&[LIST], |_| Says::Status(503, String::new()));
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &config(&origin, ""));
    fails_again(&proxy);
    assert_eq!(status(&proxy, "192.0.2.1"), 503);
    assert_eq!(status(&proxy, "198.51.100.7"), 200, "what is listed by hand does not wait");
    let ready = proxy.admin("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains(&format!("route hooks has no list of the published addresses of {LIST}/list")));
    assert!(proxy.metric("hookmoat_route_ready{route=\"hooks\"}") == 0.0);
    origin.say(networks(&["192.0.2.0/24"]));
    becomes(&proxy, "192.0.2.1", 200);
    assert_eq!(status(&proxy, "203.0.113.1"), 403);
    assert_eq!(proxy.admin("/readyz").status, 200);
    assert_eq!(proxy.metric(&format!("hookmoat_fetched_entries{{kind=\"ranges\",source=\"{LIST}/list\"}}")), 1.0);
    assert!(
        proxy.metric(&format!(
            "hookmoat_fetch_last_success_timestamp_seconds{{kind=\"ranges\",source=\"{LIST}/list\"}}"
        )) > 0.0
    );
    assert!(proxy.admin("/metrics").text().contains("hookmoat_fetched_age_seconds{kind=\"ranges\""));
    let lines =
        |what: &str| proxy.log().lines().filter(|line| line.contains("hookmoat::fetch") && line.contains(what)).count();
    assert_eq!((lines("cannot be fetched"), lines("fetched again")), (1, 1), "{}", proxy.log());
    proxy.wait_for_event("ranges_unavailable");
    assert!(proxy.log().contains("answered 503"), "{}", proxy.log());
}

#[test]
fn a_list_changes_with_its_sender() {
    let origin = Origin::start(&[LIST], |_| networks(&["192.0.2.0/24"]));
    let proxy = Proxy::start(Backend::ok().address, &config(&origin, ""));
    becomes(&proxy, "192.0.2.1", 200);
    origin.say(networks(&["203.0.113.0/24", "2001:db8::/32"]));
    becomes(&proxy, "203.0.113.1", 200);
    assert_eq!(status(&proxy, "192.0.2.1"), 403);
    assert_eq!(status(&proxy, "2001:db8::9"), 200);
}

const GOOD: [&str; 4] = ["192.0.2.0/24", "192.0.3.0/24", "192.0.4.0/24", "192.0.5.0/24"];

/// The list that was fetched stays in use through each of these, and the log says why the next one is not taken.
fn the_good_list_outlives(timeout: &str, origin: &Origin, cases: Vec<(&str, Says, &str)>) {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, &config(origin, &format!("  timeout: {timeout}\n")));
    becomes(&proxy, "192.0.2.1", 200);
    for (case, says, why) in cases {
        origin.say(networks(&GOOD));
        let lines = |text: &str| proxy.log().matches(text).count();
        let told = lines("cannot be fetched");
        assert!(within(PATIENCE, || lines("fetched again") == told), "{case}\n{}", proxy.log());
        origin.say(says);
        assert!(within(PATIENCE, || lines("cannot be fetched") > told), "{case}\n{}", proxy.log());
        let log = proxy.log();
        let line = log.lines().rfind(|line| line.contains("cannot be fetched")).expect("a line");
        assert!(line.contains(why) && line.contains("the list fetched last"), "{case}: {line}");
        assert_eq!((status(&proxy, "192.0.2.1"), status(&proxy, "203.0.113.1")), (200, 403), "{case}");
    }
    assert!(origin.asked().iter().all(|asked| asked.target == "/list" && asked.host == LIST));
}

#[test]
fn whatever_the_server_does_the_last_good_list_stays() {
    let origin = Origin::start(&[LIST, "elsewhere.example.com"], |_| networks(&GOOD));
    let elsewhere = Origin::start(&["elsewhere.example.com"], |_| networks(&["203.0.113.0/24"]));
    let redirect = format!("Location: https://elsewhere.example.com:{}/list\r\n", elsewhere.address.port());
    let bad = "{\"hooks\":[\"203.0.113.0/24\"]}";
    let cases = vec![
        ("empty list", networks(&[]), "holds no network"),
        ("no list", json(&json!({ "other": 1 })), "holds no network"),
        ("much smaller", networks(&["192.0.2.0/24"]), "less than half"),
        ("everybody", networks(&["0.0.0.0/0"]), "wider"),
        ("half of everybody", networks(&["192.0.2.0/24", "192.0.3.0/24", "128.0.0.0/1"]), "wider"),
        ("a network that is none", networks(&["192.0.2.0/24", "192.0.3.0/24", "localhost"]), "no network"),
        ("not JSON", Says::Body(b"<html>192.0.2.0/24</html>".to_vec(), String::new()), "no JSON"),
        ("empty body", Says::Body(Vec::new(), String::new()), "no JSON"),
        ("error", Says::Status(500, String::new()), "answered 500"),
        ("gone", Says::Status(404, String::new()), "answered 404"),
        ("unasked 304", Says::Status(304, String::new()), "answered 304"),
        ("redirect", Says::Status(302, redirect.clone()), "redirects are not followed"),
        ("permanent redirect", Says::Status(308, redirect), "redirects are not followed"),
        ("encoded", Says::Body(bad.into(), "Content-Encoding: gzip\r\n".into()), "encoded"),
        ("not HTTP", Says::Raw(b"hello\r\n\r\n".to_vec()), "HTTP"),
        ("nothing", Says::Raw(Vec::new()), ""),
        ("cut", Says::Raw(format!("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{bad}").into()), ""),
        (
            "declared too long",
            Says::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_vec()),
            "longer than",
        ),
        (
            "really too long",
            Says::Raw([&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &vec![b' '; 9 << 20]].concat()),
            "longer than",
        ),
        ("long head", Says::Raw([&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 1 << 20]].concat()), ""),
    ];
    the_good_list_outlives("30s", &origin, cases);
    assert_eq!(elsewhere.connections(), 0, "a redirect was followed");
}

#[test]
fn a_server_that_is_slow_is_left_in_time() {
    let origin = Origin::start(&[LIST], |_| networks(&GOOD));
    let cases = vec![("dripping", Says::Drip, "within 500ms"), ("silent", Says::Hang, "within 500ms")];
    the_good_list_outlives("500ms", &origin, cases);
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    for names in [&["other.example.com"][..], &["ranges.example.com.evil.example"], &["example.com"]] {
        let origin = Origin::start(names, |_| networks(&["192.0.2.0/24"]));
        let backend = Backend::ok();
        let proxy = Proxy::start(backend.address, &config(&origin, ""));
        fails_again(&proxy);
        assert_eq!(status(&proxy, "192.0.2.1"), 503, "{names:?}");
        assert!(proxy.log().contains("cannot connect: invalid peer certificate"), "{}", proxy.log());
        assert_eq!(origin.asked(), [], "nothing was even asked");
    }
}

#[test]
fn an_unknown_authority_is_refused() {
    let origin = Origin::start(&[LIST], |_| networks(&["192.0.2.0/24"]));
    let stranger = Origin::start(&["stranger.example.com"], |_| Says::Hang);
    let config = config(&origin, "").replace(&format!("{:?}", origin.ca()), &format!("{:?}", stranger.ca()));
    let proxy = Proxy::start(Backend::ok().address, &config);
    fails_again(&proxy);
    assert_eq!((status(&proxy, "192.0.2.1"), origin.asked().len()), (503, 0));
}

#[test]
fn private_addresses_are_not_spoken_to_unless_the_configuration_says_so() {
    let origin = Origin::start(&[LIST], |_| networks(&["192.0.2.0/24"]));
    for (allow, addresses) in [
        ("", format!("\"{}\"", origin.address)),
        ("10.0.0.0/8", format!("\"{}\"", origin.address)),
        // A name that also leads somewhere public.
        ("10.0.0.0/8", format!("\"10.0.0.1:1\", \"{}\"", origin.address)),
        ("", "\"169.254.169.254\"".into()),
        ("", "\"[::ffff:127.0.0.1]:1\"".into()),
    ] {
        let config = config(&origin, "").replace("[127.0.0.0/8]\n  hosts", &format!("[{allow}]\n  hosts"));
        let config = config.replace(&format!("[\"{}\"]", origin.address), &format!("[{addresses}]"));
        let proxy = Proxy::start(Backend::ok().address, &config);
        fails_again(&proxy);
        assert!(proxy.log().contains("not a public address"), "{}", proxy.log());
        assert_eq!(status(&proxy, "192.0.2.1"), 503);
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_copy_on_disk_serves_a_start_without_the_network() {
    let origin = Origin::start(&[LIST], |_| networks(&["192.0.2.0/24"]));
    let folder = tempfile::tempdir().expect("a folder");
    let backend = Backend::ok();
    let config = config(&origin, &format!("  cache: {:?}\n", folder.path().join("kept")));
    let start = || Proxy::start(backend.address, &config);
    becomes(&start(), "192.0.2.1", 200);
    origin.say(Says::Status(500, String::new()));
    let proxy = start();
    fails_again(&proxy);
    assert_eq!((status(&proxy, "192.0.2.1"), status(&proxy, "203.0.113.1")), (200, 403));
    assert_eq!(proxy.admin("/readyz").status, 200);
    assert!(proxy.log().contains("the copy on disk"), "{}", proxy.log());
    // The rule holds over a restart, too, and so do the sender's changes.
    origin.say(networks(&["192.0.2.1"]));
    fails_again(&proxy);
    assert_eq!(status(&proxy, "192.0.2.2"), 200);
    drop(proxy);
    // A copy that somebody else wrote over opens nothing.
    for entry in std::fs::read_dir(folder.path().join("kept")).expect("a folder") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::write(&path, text.replace("192.0.2.0/24", "0.0.0.0/0")).expect("a file");
    }
    origin.say(Says::Status(500, String::new()));
    let proxy = start();
    fails_again(&proxy);
    assert_eq!(status(&proxy, "192.0.2.1"), 503);
    assert!(proxy.log().contains("the copy on disk cannot be used"), "{}", proxy.log());
}

#[test]
fn an_unchanged_list_is_not_sent_again() {
    let origin = Origin::start(&[LIST], |asked| match &asked.etag {
        Some(etag) if etag == "\"one\"" => Says::Status(304, "ETag: \"one\"\r\n".into()),
        _ => Says::Body(b"{\"hooks\":[\"192.0.2.0/24\"]}".to_vec(), "ETag: \"one\"\r\n".into()),
    });
    let proxy = Proxy::start(Backend::ok().address, &config(&origin, ""));
    assert!(within(PATIENCE, || origin.asked().len() >= 4));
    let asked = origin.asked();
    assert_eq!(asked[0].etag, None);
    assert!(asked[1..].iter().all(|asked| asked.etag.as_deref() == Some("\"one\"")), "{asked:?}");
    assert_eq!((status(&proxy, "192.0.2.1"), failures(&proxy)), (200, 0.0));
}

#[test]
fn the_sender_s_word_on_freshness_holds() {
    let fresh = "Cache-Control: public, max-age=600\r\n".to_owned();
    let origin = Origin::start(&[LIST], move |_| Says::Body(b"{\"hooks\":[\"192.0.2.0/24\"]}".to_vec(), fresh.clone()));
    let proxy = Proxy::start(Backend::ok().address, &config(&origin, ""));
    becomes(&proxy, "192.0.2.1", 200);
    // Ten times what the configuration alone would wait.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(origin.asked().len(), 1);
}

#[test]
fn a_preset_s_list_comes_from_its_own_host_and_works_offline_where_it_is_shipped() {
    let origin = Origin::start(&["api.github.com"], |_| networks(&["192.0.2.0/24", "198.51.100.0/24"]));
    let routes = "trusted_proxies: [127.0.0.0/8]\nroutes:\n  - name: github\n    path: /github\n    provider: github\n    \
         secret: { insecure_literal: a-secret-of-some-length }\n    allow: [provider, 203.0.113.9]\n    to: app\n";
    let backend = Backend::ok();
    let away = "fetch: { hosts: { api.github.com: [\"127.0.0.1:1\"] } }\n";
    let proxy = Proxy::start(backend.address, &format!("{away}{routes}"));
    assert!(within(PATIENCE, || proxy.log().contains("the shipped list")), "{}", proxy.log());
    for (client, expected) in [("140.82.112.1", 200), ("203.0.113.9", 200), ("192.0.2.1", 403)] {
        assert_eq!(status_at(&proxy, "/github", client), expected, "{client}");
    }
    assert_eq!(proxy.admin("/readyz").status, 200);
    // A list much smaller than the shipped one is not believed either.
    let proxy = Proxy::start(backend.address, &format!("{}{routes}", origin.fetch(&["api.github.com"], "")));
    assert!(within(PATIENCE, || proxy.log().contains("less than half")), "{}", proxy.log());
    assert_eq!(status_at(&proxy, "/github", "140.82.112.1"), 200);
    let many: Vec<_> =
        (0..64).map(|n| format!("140.{n}.0.0/16")).chain(["2600:50c0::/28".into(), "2a0a:a440::/29".into()]).collect();
    origin.say(json(&json!({ "hooks": many, "web": ["192.0.2.0/24"] })));
    assert!(within(PATIENCE, || status_at(&proxy, "/github", "140.1.1.1") == 200), "{}", proxy.log());
    assert_eq!(status_at(&proxy, "/github", "192.0.2.1"), 403);
    assert!(origin.asked().iter().all(|asked| asked.target == "/meta" && asked.host == "api.github.com"));
}

/// A proxy for CONNECT, which notes where it was asked to connect.
#[test]
fn fetches_go_through_the_configured_proxy() {
    use std::io::{Read, Write};
    let origin = Origin::start(&[LIST], |_| networks(&["192.0.2.0/24"]));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, target) = (listener.local_addr().expect("an address"), origin.address);
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a head");
                head.push(byte[0]);
            }
            let _ = sender.send(String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned());
            let mut upstream = std::net::TcpStream::connect(target).expect("the origin");
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").expect("an answer");
            let (mut from, mut to) = (stream.try_clone().expect("a handle"), upstream.try_clone().expect("a handle"));
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            std::thread::spawn(move || std::io::copy(&mut upstream, &mut stream));
        }
    });
    let config = config(&origin, &format!("  proxy: http://{address}\n"));
    let proxy = Proxy::start(Backend::ok().address, &config);
    becomes(&proxy, "192.0.2.1", 200);
    assert_eq!(asked.recv().expect("one"), format!("CONNECT {LIST}:443 HTTP/1.1"));
}
