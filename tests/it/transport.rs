//! What a connection has to pass before anything speaks HTTP with it: PROXY protocol, limits, the deny list, a machine
//! without file descriptors.

use super::support::proxy::LEAN;
use super::support::{Connection, Moat, PATIENCE, Refusal, post, refusal, refusal_and_close, request, sign, within};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

const SECRET: &str = "a-secret-of-some-length";

const LISTEN: &str = r#"
listen:
  - address: {http}
    proxy_protocol: { from: [127.0.0.1] }
  - address: {https}
    tls: { certificate: tls/tls.crt, private_key: tls/tls.key, self_signed_if_missing: true }
    proxy_protocol: { from: [127.0.0.1] }
connections: { deny: [198.51.100.66] }
"#;

const ROUTES: &str = r#"
routes:
  - name: listed
    path: /listed
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    allow: [203.0.113.0/24, "2001:db8::/32"]
    to: app
  - name: open
    path: /open
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    duplicates: off
    to: app
"#;

const NOT_LISTED: Refusal = refusal(403, "listed", "address_not_allowed");

fn signed(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let signature = sign::github(SECRET, b"{}");
    let headers: Vec<_> = [("X-Hub-Signature-256", &*signature)].iter().chain(headers).copied().collect();
    post(path, &headers, b"{}")
}

fn v1(line: &str) -> Vec<u8> {
    format!("PROXY {line}\r\n").into_bytes()
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

fn v2_tcp4(address: [u8; 4]) -> Vec<u8> {
    v2(0x21, 0x11, &[&address[..], &[10, 0, 0, 1, 0xc0, 1, 1, 0xbb]].concat())
}

fn v2_tcp6(address: &str) -> Vec<u8> {
    let address: std::net::Ipv6Addr = address.parse().expect("an address");
    v2(0x21, 0x21, &[&address.octets()[..], &[0; 16], &[0xc0, 1, 1, 0xbb]].concat())
}

/// The headers below, and whether the route with a list of addresses takes who they name.
fn headers() -> Vec<(&'static str, Vec<u8>, &'static str, bool)> {
    let extended = [&[203, 0, 113, 9, 10, 0, 0, 1, 0, 1, 0, 2][..], &[4, 0, 3, 1, 2, 3], &[0xea, 0, 0]].concat();
    vec![
        ("v1, listed", v1("TCP4 203.0.113.9 10.0.0.1 49153 443"), "203.0.113.9", true),
        ("v1, another", v1("TCP4 198.51.100.1 10.0.0.1 49153 443"), "198.51.100.1", false),
        ("v1, IPv6", v1("TCP6 2001:db8::9 ::1 49153 443"), "2001:db8::9", true),
        ("v1, mapped IPv4", v1("TCP6 ::ffff:203.0.113.9 ::1 49153 443"), "203.0.113.9", true),
        ("v1, UNKNOWN", v1("UNKNOWN"), "127.0.0.1", false),
        ("v1, UNKNOWN with addresses", v1("UNKNOWN 203.0.113.9 10.0.0.1 1 2"), "127.0.0.1", false),
        ("v2, listed", v2_tcp4([203, 0, 113, 9]), "203.0.113.9", true),
        ("v2, another", v2_tcp4([198, 51, 100, 1]), "198.51.100.1", false),
        ("v2, IPv6", v2_tcp6("2001:db8::9"), "2001:db8::9", true),
        ("v2, extensions", v2(0x21, 0x11, &extended), "203.0.113.9", true),
        ("v2, LOCAL", v2(0x20, 0, &[]), "127.0.0.1", false),
        ("v2, LOCAL with addresses", v2(0x20, 0x11, &[203, 0, 113, 9, 10, 0, 0, 1, 0, 1, 0, 2]), "127.0.0.1", false),
        ("v2, unspecified", v2(0x21, 0, &[]), "127.0.0.1", false),
    ]
}

#[test]
fn a_proxy_header_names_the_peer_on_plain_and_tls_listeners() {
    let moat = Moat::new(&format!("{LISTEN}{ROUTES}"));
    // Lines of other requests may come later: only those of delivered ones count.
    let delivered = || -> Vec<serde_json::Value> {
        moat.proxy.events().into_iter().filter(|event| event["outcome"] == "forwarded").collect()
    };
    let log_names = |case: &str, client: &str, events: usize| {
        moat.wait_until(case, || delivered().len() > events);
        assert_eq!(delivered()[events]["client"], client, "{case}");
    };
    for (case, header, client, listed) in headers() {
        for tls in [false, true] {
            let case = &format!("{case}{}", if tls { ", TLS" } else { "" });
            let open = |first: &[u8]| match tls {
                true => Connection::open_tls_behind(moat.proxy.https, b"http/1.1", first),
                false => {
                    let mut connection = Connection::open(moat.proxy.http);
                    connection.send(first);
                    connection
                }
            };
            if listed {
                let before = delivered().len();
                assert_eq!(open(&header).send(&signed("/listed", &[])).answer().status, 200, "{case}");
                log_names(case, client, before);
            } else {
                moat.refuses_on(case, open(&header), &signed("/listed", &[]), NOT_LISTED);
                let before = delivered().len();
                assert_eq!(open(&header).send(&signed("/open", &[])).answer().status, 200, "{case}");
                log_names(case, client, before);
            }
        }
    }
}

#[test]
fn what_follows_a_proxy_header_is_not_lost_however_it_arrives() {
    let moat = Moat::new(&format!("{LISTEN}{ROUTES}"));
    for (case, header, _, listed) in headers() {
        if !listed {
            continue;
        }
        // Header, request and a second one in one segment; then byte by byte.
        let both = [&header[..], &signed("/listed", &[]), &signed("/listed", &[])].concat();
        let mut connection = Connection::open(moat.proxy.http);
        connection.send(&both);
        assert_eq!([connection.answer().status, connection.answer().status], [200, 200], "{case}");
        let mut connection = Connection::open(moat.proxy.http);
        for byte in [&header[..], &signed("/listed", &[])].concat() {
            connection.send(&[byte]);
        }
        assert_eq!(connection.answer().status, 200, "{case}, byte by byte");
    }
}

#[test]
fn forwarding_headers_are_read_after_the_peer_that_the_proxy_header_names() {
    let moat = Moat::new(&format!("trusted_proxies: [198.51.100.7]\n{LISTEN}{ROUTES}"));
    let forwarded = signed("/listed", &[("X-Forwarded-For", "203.0.113.9")]);
    let open = |header: &[u8]| {
        let mut connection = Connection::open(moat.proxy.http);
        connection.send(header);
        connection
    };
    let trusted = v1("TCP4 198.51.100.7 10.0.0.1 1 2");
    assert_eq!(open(&trusted).send(&forwarded).answer().status, 200);
    assert_eq!(moat.backend.only().header("x-forwarded-for"), Some("203.0.113.9"));
    let outsider = v1("TCP4 198.51.100.8 10.0.0.1 1 2");
    moat.refuses_on("an outsider's word", open(&outsider), &forwarded, NOT_LISTED);
    // Being believed about the connection is not being believed about its requests.
    moat.refuses_on("the balancer's own", open(&v2(0x20, 0, &[])), &forwarded, NOT_LISTED);
}

#[test]
fn without_a_good_proxy_header_of_a_listed_peer_a_connection_is_closed() {
    let moat = Moat::new(&format!("timeouts: {{ handshake: 1s }}\n{LISTEN}{ROUTES}"));
    let good = v1("TCP4 203.0.113.9 10.0.0.1 1 2");
    let line = |text: &str| text.as_bytes().to_vec();
    let request = signed("/open", &[]);
    let mut cases: Vec<(&str, Vec<u8>)> = vec![
        ("no header", request.clone()),
        ("TLS without a header", vec![0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]),
        ("lower case", line("proxy TCP4 203.0.113.9 10.0.0.1 1 2\r\n")),
        ("a bare line feed", line("PROXY TCP4 203.0.113.9 10.0.0.1 1 2\n")),
        ("two spaces", v1("TCP4  203.0.113.9 10.0.0.1 1 2")),
        ("a word too few", v1("TCP4 203.0.113.9 10.0.0.1 1")),
        ("a word too many", v1("TCP4 203.0.113.9 10.0.0.1 1 2 3")),
        ("leading zeros", v1("TCP4 203.0.113.09 10.0.0.1 1 2")),
        ("a port too large", v1("TCP4 203.0.113.9 10.0.0.1 65536 2")),
        ("a port with a sign", v1("TCP4 203.0.113.9 10.0.0.1 +1 2")),
        ("IPv6 as TCP4", v1("TCP4 2001:db8::1 10.0.0.1 1 2")),
        ("a zone", v1("TCP6 fe80::1%lo ::1 1 2")),
        ("UDP", v1("UDP4 203.0.113.9 10.0.0.1 1 2")),
        ("NUL", v1("TCP4 203.0.113.9\0 10.0.0.1 1 2")),
        ("108 bytes", v1(&format!("UNKNOWN {}", "x".repeat(92)))),
        ("v2, version 1", v2(0x11, 0x11, &[0; 12])),
        ("v2, unknown command", v2(0x22, 0x11, &[0; 12])),
        ("v2, UDP", v2(0x21, 0x12, &[0; 12])),
        ("v2, too short for its addresses", v2(0x21, 0x11, &[0; 11])),
        ("v2, too long", v2(0x21, 0x11, &[0; 5000])),
        ("v2, broken extension", v2(0x21, 0x11, &[&[0; 12][..], &[4, 0, 9, 1]].concat())),
        ("v2, bad signature", line("\r\n\r\n\0\r\nQUIT\r")),
    ];
    cases.iter_mut().for_each(|(_, bytes)| bytes.extend_from_slice(&request));
    let refused = || moat.proxy.metric("hookmoat_connections_closed_total{reason=\"proxy_protocol\"}");
    let closes = |case: &str, open: &dyn Fn() -> Connection, bytes: &[u8]| {
        let before = refused();
        let mut connection = open();
        assert!(connection.send(bytes).read_raw(1).is_empty() && connection.is_closed(), "{case}");
        moat.wait_until(case, || refused() > before);
    };
    for (case, bytes) in &cases {
        for (place, address) in [("", moat.proxy.http), (", TLS listener", moat.proxy.https)] {
            closes(&format!("{case}{place}"), &|| Connection::open(address), bytes);
        }
    }
    // Held back: the deadline is one for all of it.
    for part in [&b""[..], b"P", b"PROXY TCP4 203.0.113.9 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"] {
        closes("slow", &|| Connection::open(moat.proxy.http), part);
    }
    let stranger = [&good[..], &request].concat();
    closes("an unlisted peer", &|| Connection::open_from([127, 0, 0, 2], moat.proxy.http), &stranger);
    // Twice is a header and then no HTTP.
    let mut twice = Connection::open(moat.proxy.http);
    let answer = twice.send(&[&good[..], &good, &request].concat()).try_answer();
    assert!(answer.is_none_or(|answer| answer.status == 400) && twice.is_closed());
    assert!(moat.proxy.events().iter().all(|event| event["outcome"] == "malformed"), "{}", moat.proxy.log());
    assert_eq!(moat.backend.connections(), 0);
    // The deny list holds for whom the header names.
    let mut denied = Connection::open(moat.proxy.http);
    denied.send(&[&v1("TCP4 198.51.100.66 10.0.0.1 1 2")[..], &request].concat());
    assert!(denied.read_raw(1).is_empty() && denied.is_closed(), "denied");
    assert_eq!(moat.proxy.metric("hookmoat_connections_closed_total{reason=\"denied\"}"), 1.0);
    let mut connection = Connection::open(moat.proxy.http);
    assert_eq!(connection.send(&[&good[..], &request].concat()).answer().status, 200);
}

#[test]
fn a_connection_that_says_nothing_ends_soon() {
    let moat = Moat::new(&format!("timeouts: {{ handshake: 1s, idle: 60s }}\n{ROUTES}"));
    assert!(Connection::open(moat.proxy.http).is_closed(), "plain");
    assert!(Connection::open(moat.proxy.https).is_closed(), "TLS, no hello");
    assert!(Connection::open_tls(moat.proxy.https).send(b"").is_closed(), "TLS");
}

fn is_refused(connection: &mut Connection) -> bool {
    connection.send(&request("GET", "/nowhere", &[], b"")).try_answer().is_none()
}

#[test]
fn connections_are_bounded_altogether_and_for_each_address() {
    let config = "connections: { max: 12, max_per_address: 5 }\ntrusted_proxies: [127.0.0.9]\n";
    let moat = Moat::new(&format!("{config}{ROUTES}"));
    let opens = |from: [u8; 4]| {
        let mut connection = Connection::open_from(from, moat.proxy.http);
        (!is_refused(&mut connection)).then_some(connection)
    };
    let closed = |reason| moat.proxy.metric(&format!("hookmoat_connections_closed_total{{reason=\"{reason}\"}}"));
    let mut held: Vec<_> = (0..5).map(|_| opens([127, 0, 0, 2]).expect("one of five")).collect();
    assert!(opens([127, 0, 0, 2]).is_none(), "a sixth");
    moat.wait_until("counted", || closed("max_per_address") == 1.0);
    // Others are not concerned; a trusted proxy speaks for many.
    held.extend((0..6).map(|_| opens([127, 0, 0, 9]).expect("trusted")));
    held.push(opens([127, 0, 0, 3]).expect("another address"));
    moat.wait_until("twelve", || moat.proxy.metric("hookmoat_connections") == 12.0);
    assert!(opens([127, 0, 0, 4]).is_none(), "a thirteenth");
    moat.wait_until("counted", || closed("max") == 1.0);
    assert!(moat.proxy.log().contains("as many connections are open as"));
    // Places that are given back are there for others, and those that are held still work.
    held.remove(0);
    moat.wait_until("eleven", || moat.proxy.metric("hookmoat_connections") == 11.0);
    held.push(opens([127, 0, 0, 2]).expect("a place that was given back"));
    for connection in &mut held {
        assert_eq!(connection.send(&signed("/open", &[])).answer().status, 200);
    }
    drop(held);
    moat.wait_until("none", || moat.proxy.metric("hookmoat_connections") == 0.0);
    moat.accepts("afterwards", &signed("/open", &[]));
}

/// Longer than a connection is silent before it counts as quiet.
const QUIET: Duration = Duration::from_millis(2500);

#[test]
fn a_full_house_makes_room_for_new_connections_but_not_at_the_cost_of_verified_ones() {
    // Between requests only connections of the lean way wait where they can be told to go.
    if !LEAN {
        return;
    }
    let moat = Moat::new(&format!("connections: {{ max: 6 }}\n{ROUTES}"));
    let shed = || moat.proxy.metric("hookmoat_connections_closed_total{reason=\"shed\"}");
    let open = || Connection::open_from([127, 0, 0, 2], moat.proxy.http);
    let verified = || {
        let mut connection = open();
        let answer = connection.send(&signed("/open", &[])).try_answer()?;
        (answer.status == 200).then_some(connection)
    };
    let mut kept = vec![verified().expect("one of six"), verified().expect("one of six")];
    let mut unverified: Vec<_> = (0..3).map(|_| open()).collect();
    for connection in &mut unverified {
        assert_eq!(connection.send(&request("GET", "/nowhere", &[], b"")).answer().status, 404);
    }
    let mut silent = open();
    moat.wait_until("six", || moat.proxy.metric("hookmoat_connections") == 6.0);
    for more in 1..=4 {
        moat.wait_until("room", || verified().map(|connection| kept.push(connection)).is_some());
        assert_eq!(kept.len(), 2 + more);
        // The one that goes may be another worker's, which counts it when it gets to it.
        moat.wait_until("shed", || shed() >= more as f64);
        assert_eq!(shed(), more as f64);
    }
    assert!(unverified.iter_mut().all(Connection::is_closed) && silent.is_closed());
    std::thread::sleep(QUIET);
    assert!(verified().is_none(), "all that are open have shown a signature");
    for connection in &mut kept {
        assert_eq!(connection.send(&signed("/open", &[])).answer().status, 200);
    }
    assert!(moat.proxy.log().contains("without ever having carried a verified request"));
}

#[test]
fn a_connection_that_was_quiet_goes_on() {
    let moat = Moat::new(&format!("timeouts: {{ header: 1s }}\n{ROUTES}"));
    let open = [Connection::open(moat.proxy.http), Connection::open_tls(moat.proxy.https)];
    let [mut plain, mut tls] = open;
    for connection in [&mut plain, &mut tls] {
        assert_eq!(connection.send(&signed("/open", &[])).answer().status, 200);
        std::thread::sleep(QUIET);
        // Two at once, of which the first is refused.
        connection.send(&[request("GET", "/nowhere", &[], b""), signed("/open", &[])].concat());
        assert_eq!([connection.answer().status, connection.answer().status], [404, 200]);
        std::thread::sleep(QUIET);
        // A head that does not end.
        assert_eq!(connection.send(b"POST /open HTT").answer().status, 408);
        assert!(connection.is_closed());
    }
}

#[test]
fn slow_clients_of_the_admin_port_keep_nobody_out() {
    let moat = Moat::new(ROUTES);
    let healthy = || {
        let mut connection = Connection::try_open(moat.proxy.admin)?;
        connection.send(&request("GET", "/healthz", &[("Connection", "close")], b"")).try_answer()
    };
    let kinds: [(&str, Vec<u8>); 4] = [
        ("silent", Vec::new()),
        ("half a head", b"GET /metrics HTTP/1.1\r\nHost: localh".to_vec()),
        ("idle after a request", request("GET", "/healthz", &[], b"")),
        ("not a request", b"\x16\x03\x01".to_vec()),
    ];
    for (case, bytes) in kinds {
        let slow: Vec<_> = (0..300)
            .map(|_| {
                let mut connection = Connection::open(moat.proxy.admin);
                connection.send(&bytes);
                connection
            })
            .collect();
        moat.wait_until(case, || healthy().is_some_and(|answer| answer.status == 200));
        moat.accepts(case, &signed("/open", &[]));
        drop(slow);
    }
    let closed = |reason| {
        moat.wait_until(reason, || healthy().is_some());
        moat.proxy.metric(&format!("hookmoat_connections_closed_total{{reason=\"{reason}\"}}"))
    };
    assert!(closed("admin_max") > 0.0);
    assert!(closed("shed") > 0.0);
}

#[test]
fn who_is_denied_is_closed_at_once_and_the_list_can_be_changed_while_running() {
    let folder = tempfile::tempdir().expect("a folder");
    let list = folder.path().join("deny.txt");
    std::fs::write(&list, "127.0.0.2 # a nuisance\n").expect("a file");
    let moat = Moat::new(&format!("connections: {{ deny: [{{ file: {} }}, 192.0.2.0/24] }}\n{ROUTES}", list.display()));
    let denied = |from: [u8; 4]| {
        [moat.proxy.http, moat.proxy.https].map(|address| {
            let mut connection = Connection::open_from(from, address);
            connection.read_raw(1).is_empty() && connection.is_closed()
        })
    };
    assert_eq!(denied([127, 0, 0, 2]), [true, true]);
    assert!(!is_refused(&mut Connection::open_from([127, 0, 0, 3], moat.proxy.http)));
    let mut kept = Connection::open_from([127, 0, 0, 3], moat.proxy.http);
    assert_eq!(kept.send(&signed("/open", &[])).answer().status, 200);
    std::fs::write(&list, "127.0.0.3\n").expect("a file");
    moat.wait_until("the new list", || is_refused(&mut Connection::open_from([127, 0, 0, 3], moat.proxy.http)));
    assert!(!is_refused(&mut Connection::open_from([127, 0, 0, 2], moat.proxy.http)));
    assert!(moat.proxy.metric("hookmoat_connections_closed_total{reason=\"denied\"}") >= 3.0);
    // Nor does a connection that was open already bring another request.
    moat.refuses_on("kept", kept, &signed("/open", &[]), refusal_and_close(403, "", "address_denied"));
    assert_eq!(moat.proxy.wait_for_event("address_denied")["client"], "127.0.0.3");
    moat.accepts("others", &signed("/open", &[]));
}

/// The number of descriptors that a process holds.
fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a live process").count()
}

/// CPU time in hundredths of a second.
fn cpu(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
    let fields: Vec<_> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}

fn limit(pid: u32, soft: usize) {
    let status = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")]).status();
    assert!(status.expect("prlimit runs").success());
}

#[test]
fn without_file_descriptors_connections_wait_and_nothing_spins() {
    let moat = Moat::new(ROUTES);
    let pid = moat.proxy.pid();
    // Asked over a connection that is there already, since the admin port has none to give either.
    let mut admin = Connection::open(moat.proxy.admin);
    let mut metric = |series: &str| {
        let text = admin.send(&request("GET", "/metrics", &[], b"")).answer().text();
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse::<f64>().expect("a number"))
    };
    assert_eq!(metric("hookmoat_accept_errors_total"), 0.0);
    limit(pid, descriptors(pid));
    let open = |address: SocketAddr| Connection::open(address);
    let mut waiting: Vec<_> = (0..20).map(|_| open(moat.proxy.http)).collect();
    assert!(within(PATIENCE, || metric("hookmoat_accept_errors_total") > 0.0), "no error was counted");
    let before = cpu(pid);
    std::thread::sleep(Duration::from_secs(1));
    let used = cpu(pid) - before;
    assert!(used < 50, "{used} hundredths of CPU time in a second of waiting");
    assert!(moat.proxy.log().contains("cannot take connections"), "{}", moat.proxy.log());
    limit(pid, 1000);
    for connection in &mut waiting {
        assert_eq!(connection.send(&signed("/open", &[])).answer().status, 200);
    }
    moat.accepts("afterwards", &signed("/open", &[]));
}
