//! The admin port: `/metrics`, `/healthz`, `/readyz`, the status page with its data, and the operator's `/queues`. A small
//! router; what stands behind a path is elsewhere.

use super::admin_access::{self, Denied};
use super::gate::{self, HeadRead, Overseen, read_head};
use super::quiet::{SILENCE, Shed};
use super::{Shared, operator, status};
use crate::request::Now;
use crate::telemetry::connections::Closed;
use crate::telemetry::openmetrics;
use async_trait::async_trait;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use pingora::apps::{HttpServerApp, ReusedHttpStream};
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What a client gets to take an answer in.
const ANSWERING: Duration = Duration::from_secs(10);

/// The application of the admin listener.
pub(super) struct Admin(pub(super) Arc<Shared>);

/// An answer before its framing.
struct Reply {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Reply {
    fn text(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, kind: "text/plain", body: body.into(), fields: Vec::new() }
    }

    fn of(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind, body: body.into(), fields: Vec::new() }
    }

    fn with(mut self, name: HeaderName, value: &str) -> Self {
        self.fields.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }

    /// For a browser and nobody's cache.
    fn private(self) -> Self {
        self.with(header::CACHE_CONTROL, "no-store")
            .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
            .with(header::REFERRER_POLICY, "no-referrer")
            .with(HeaderName::from_static("cross-origin-resource-policy"), "same-origin")
    }
}

impl Admin {
    fn answer(&self, method: &Method, path: &str, query: Option<&str>, host: &str, accept: &str) -> Reply {
        let shared = &self.0;
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Reply::text(405, "only GET\n").with(header::ALLOW, "GET, HEAD");
        }
        match path {
            "/healthz" => Reply::text(200, "ok\n"),
            "/readyz" => match shared.not_ready() {
                None => Reply::text(200, "ready\n"),
                Some(why) => Reply::text(503, format!("{why}\n")),
            },
            "/metrics" if accept.contains(openmetrics::ACCEPTED) => {
                Reply::of(openmetrics::CONTENT_TYPE, shared.render_openmetrics())
            }
            "/metrics" => Reply::of("text/plain; version=0.0.4", shared.render_metrics()),
            "/" | "/status" | "/status.json" if shared.recent.is_none() => {
                Reply::text(404, "the status page is off (admin.history is 0)\n")
            }
            "/" => Reply::text(303, "").with(header::LOCATION, "/status"),
            "/status" | "/status.json" if !shared.is_for(host) => {
                Reply::text(403, "ask by address or as localhost: this port is for this machine\n")
            }
            "/status" => Reply::of("text/html; charset=utf-8", status::PAGE)
                .with(header::CONTENT_SECURITY_POLICY, &status::POLICY)
                .private(),
            "/status.json" => Reply::of("application/json", status::json(shared, status::after(query))).private(),
            _ => Reply::text(404, "/status /metrics /healthz /readyz /queues\n"),
        }
    }
}

impl Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let path = request.uri.path();
        // Probes have no token, and learn nothing that a sender could not try out.
        let access = match path {
            "/healthz" | "/readyz" => Ok(()),
            _ => admin_access::check(&self.0.live.load().admin_access, &request.headers),
        };
        let reply = match access {
            Ok(()) if path == "/queues" || path.starts_with("/queues/") => {
                let (status, value) = operator::queues(&self.0, session).await;
                Reply { status, ..Reply::of("application/json", format!("{value:#}\n")) }.private()
            }
            Ok(()) => {
                let text = |name| request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
                let (host, accept) = (text(header::HOST), text(header::ACCEPT));
                self.answer(&request.method, path, request.uri.query(), host, accept)
            }
            Err(Denied::Unauthorized) => Reply::text(401, "the token, please\n")
                .with(header::WWW_AUTHENTICATE, "Bearer, Basic realm=\"hookmoat\""),
            Err(Denied::Unavailable) => Reply::text(503, "no token here\n"),
        };
        // Pingora keeps every connection; a client of HTTP/1.0 waits for its end.
        if session.req_header().version == http::Version::HTTP_10 {
            session.set_keepalive(None);
        }
        let mut response = Response::new(reply.body);
        *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or_default();
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.extend(reply.fields);
        response
    }
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let timeouts = self.0.live.load().timeouts;
        let overseen = Overseen::next_of(&session);
        let read = {
            let mut reading = pin!(read_head(&mut session, &overseen, timeouts));
            match timeout(SILENCE, &mut reading).await {
                Ok(read) => Ok(read),
                // Who is slow here makes room for others, too.
                Err(_) => self.0.admin_quiet.wait(reading).await,
            }
        };
        if !matches!(read, Ok(HeadRead::Whole)) {
            if let (Err(Shed), Some(address)) = (read, session.client_addr().and_then(|address| address.as_inet())) {
                let address = address.ip().to_canonical();
                self.0.metrics.connections.closed(Closed::Shed, address, &"on the admin port", Now::read());
            }
            session.shutdown().await;
            return None;
        }
        let keep = !*shutdown.borrow();
        session.set_keepalive(keep.then(|| timeouts.idle.as_secs().max(1)));
        let (parts, body) = self.response(&mut session).await.into_parts();
        let writing = async {
            session.write_response_header(Box::new(parts.into())).await?;
            if !body.is_empty() {
                session.write_response_body(body.into(), true).await?;
            }
            Ok::<_, Box<pingora::Error>>(())
        };
        if !matches!(timeout(ANSWERING, writing).await, Ok(Ok(()))) {
            session.set_keepalive(None);
            session.shutdown().await;
            return None;
        }
        gate::finish(session).await
    }
}
