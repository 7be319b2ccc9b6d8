//! The admin listener's calls that show events or move them. They are for an operator at this machine, and for no web
//! page that his browser has open.

use super::Shared;
use super::status::is_local_name;
use crate::delivery::desk::{Asked, Told};
use crate::request::Now;
use pingora::protocols::http::ServerSession;
use serde_json::json;
use std::time::Duration;

/// Filters are short.
const LONGEST: usize = 64 << 10;
/// For the body.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers `/queues…`.
pub(super) async fn queues(shared: &Shared, session: &mut ServerSession) -> Told {
    if let Some(why) = stranger(session) {
        return (403, json!({ "error": why }));
    }
    let request = session.req_header();
    let uri = request.uri.clone();
    let post = request.method == http::Method::POST;
    if !post && request.method != http::Method::GET {
        return (405, json!({ "error": "only GET and POST" }));
    }
    let body = match tokio::time::timeout(PATIENCE, read(session, post)).await {
        Ok(Ok(body)) => body,
        Ok(Err(told)) => return told,
        Err(_) => return (408, json!({ "error": "the body came too slowly" })),
    };
    let path = uri.path().strip_prefix("/queues").unwrap_or_default();
    let asked = Asked { post, path, query: uri.query().unwrap_or_default(), body: &body };
    shared.desk.answer(shared.queues(), asked, Now::read()).await
}

async fn read(session: &mut ServerSession, post: bool) -> Result<Vec<u8>, Told> {
    let mut body = Vec::new();
    if !post {
        return Ok(body);
    }
    loop {
        match session.read_request_body().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > LONGEST => {
                session.set_keepalive(None);
                return Err((413, json!({ "error": "a longer body than any filter needs" })));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(_) => return Err((400, json!({ "error": "the body broke off" }))),
        }
    }
}

/// Why this request gets nothing of the queues: the one place that says who may. Events are the senders' private words,
/// and a purge cannot be undone, so neither is for everybody who may read the metrics.
fn stranger(session: &ServerSession) -> Option<&'static str> {
    let peer = session.client_addr().and_then(|address| address.as_inet());
    if !peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback()) {
        return Some("queues are shown on this machine alone: ask from there (kubectl port-forward, ssh)");
    }
    let request = session.req_header();
    let text = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // Browsers say where a call comes from. A name that somebody pointed to 127.0.0.1 is no name of ours.
    let from_a_page = text("origin").is_some() || text("sec-fetch-site").is_some_and(|site| site != "none");
    let host = text("host").or(request.uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
    if from_a_page || !is_local_name(host) {
        return Some("not from a web page");
    }
    let json = text("content-type").is_some_and(|kind| kind.split(';').next() == Some("application/json"));
    if request.method == http::Method::POST && !json {
        return Some("a POST needs Content-Type: application/json");
    }
    None
}
