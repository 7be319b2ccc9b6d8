//! Asking a server something, with the client that the proxy has for backends.

use crate::check::signature::UnsignedRequest;
use crate::policy::{Upstream, UpstreamAddress, UpstreamTls};
use crate::proxy::upstream::{Client, ExchangeError, Timer};
use http::HeaderValue;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

/// What a server's certificate is held against.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Instead of the machine's roots, PEM.
    pub(super) ca: Option<PathBuf>,
    pub(super) verify: bool,
}

/// A client for the server of this URL.
pub(super) fn connector(url: &str, trust: Trust, timeout: Duration) -> Result<Arc<Client>, String> {
    let uri: http::Uri = url.parse().map_err(|_| format!("`{url}` is not a url"))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(format!("`{url}` is neither http nor https")),
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let upstream = Upstream {
        name: format!("{host}:{port}").into(),
        address: match host.parse::<std::net::IpAddr>() {
            Ok(address) => UpstreamAddress::Socket((address, port).into()),
            Err(_) => UpstreamAddress::Name(host.clone().into(), port),
        },
        authority: HeaderValue::from_static(""),
        tls: tls.then(|| UpstreamTls {
            server_name: host.into(),
            ca: trust.ca,
            verify: trust.verify,
            client: None,
            files: [0; 32],
        }),
        connect_timeout: timeout,
        read_timeout: timeout,
        timeout,
        idle_timeout: timeout,
        max_idle: 1,
        concurrency: 1,
    };
    Client::new(Arc::new(upstream)).map(Arc::new)
}

/// One request and its answer. `url_flag` is how the command calls the URL.
pub(super) async fn exchange(
    client: &Arc<Client>,
    request: &UnsignedRequest,
    timeout: Duration,
    url_flag: &str,
) -> Result<Answer, String> {
    let uri: http::Uri = request.url.parse().map_err(|_| format!("`{}` is not a url", request.url))?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let given = |name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method).into_bytes();
    if !given("host") {
        head.extend_from_slice(format!("Host: {host}\r\n").as_bytes());
    }
    for (name, value) in &request.headers {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    if !given("content-length") {
        head.extend_from_slice(format!("Content-Length: {}\r\n", request.body.len()).as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let deadline = Instant::now() + timeout;
    let is_head = request.method == "HEAD";
    let mut timer = Timer::default();
    let answered = client.exchange(&head, &request.body, is_head, false, &mut timer, deadline).await;
    let mut response = answered.map_err(|error| explained(&error, url_flag))?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk(&mut timer).await.map_err(|error| error.to_string())? {
        body.extend_from_slice(chunk);
    }
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers = response.fields().map(|(name, value)| (name.to_owned(), text(value))).collect();
    Ok(Answer { status: response.head.status.as_u16(), headers, body })
}

/// Why there is no answer, and what to do about it.
fn explained(error: &ExchangeError, url_flag: &str) -> String {
    let (peer, why) = match error {
        ExchangeError::Unreachable(peer, why) => (peer, why.clone()),
        ExchangeError::Broken(peer, why) => return format!("{peer} gave no valid answer: {why}"),
        ExchangeError::Timeout(peer, what) => {
            return format!("{peer} sent no {what} in time");
        }
    };
    let help = if why.contains("refused") {
        format!("\n  help: does Hookmoat run there? Start it with `hookmoat run`, or name another URL with {url_flag}")
    } else if why.contains("certificate") {
        "\n  help: trust its certificate with --ca FILE, or look away with --insecure".to_owned()
    } else {
        String::new()
    };
    format!("cannot connect to {peer}: {why}{help}")
}
