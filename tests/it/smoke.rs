//! One request of each kind.

use crate::support::{Backend, Proxy, post, sign};

const ROUTE: &str = r#"
routes:
  - name: github
    path: /webhooks/github
    provider: github
    secrets: [{ insecure_literal: "a-secret-of-some-length" }]
    to: app
"#;

fn signed(delivery: &str, body: &[u8]) -> Vec<u8> {
    let signature = sign::github("a-secret-of-some-length", body);
    post("/webhooks/github", &[("X-Hub-Signature-256", &signature), ("X-GitHub-Delivery", delivery)], body)
}

#[test]
fn a_signed_request_arrives_a_forged_one_does_not() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTE);
    let forged = post("/webhooks/github", &[("X-Hub-Signature-256", &format!("sha256={:064}", 0))], b"{}");
    assert_eq!(proxy.send(&forged).status, 401);
    assert_eq!(backend.connections(), 0);
    assert_eq!(proxy.send(&signed("1", b"{\"a\":1}")).status, 200);
    assert_eq!(backend.only().body, b"{\"a\":1}");
    let again = proxy.send(&signed("1", b"{\"a\":1}"));
    assert_eq!((again.status, again.header("hookmoat-duplicate")), (200, Some("true")));
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(proxy.send_tls(&signed("2", b"{\"a\":2}")).status, 200);
}

#[test]
fn a_client_of_http_1_0_gets_its_answer_and_the_end_of_the_connection() {
    use std::io::{Read as _, Write as _};
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTE);
    let mut socket = std::net::TcpStream::connect(proxy.admin).expect("the admin listener");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("a timeout");
    socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").expect("a request");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("an answer and its end");
    assert!(text.ends_with("\r\n\r\nok\n"), "{text}");
}

#[test]
fn the_log_says_which_path_has_no_route_and_keeps_it_short() {
    let backend = Backend::ok();
    let proxy = Proxy::start(backend.address, ROUTE);
    let path = format!("/webhooks/githup/{}?token=private", "x".repeat(3000));
    assert_eq!(proxy.send(&post(&path, &[], b"{}")).status, 404);
    let event = proxy.wait_for_event("no_route");
    let detail = event["detail"].as_str().expect("a detail");
    assert!(detail.contains("path /webhooks/githup/xxx"), "{detail}");
    assert!(detail.len() < 200 && !proxy.log().contains("private"), "{detail}");
}
