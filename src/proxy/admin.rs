//! `/metrics`, `/healthz`, `/readyz`.

use super::Shared;
use async_trait::async_trait;
use http::{Response, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use std::sync::Arc;

/// The application of the admin listener.
pub(super) struct Admin(pub(super) Arc<Shared>);

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let read = matches!(request.method, http::Method::GET | http::Method::HEAD);
        let (status, kind, body) = match request.uri.path() {
            _ if !read => (405, "text/plain", b"only GET\n".to_vec()),
            "/healthz" => (200, "text/plain", b"ok\n".to_vec()),
            "/readyz" => match self.0.not_ready() {
                None => (200, "text/plain", b"ready\n".to_vec()),
                Some(why) => (503, "text/plain", format!("{why}\n").into_bytes()),
            },
            "/metrics" => (200, "text/plain; version=0.0.4", self.0.render_metrics()),
            _ => (404, "text/plain", b"/metrics /healthz /readyz\n".to_vec()),
        };
        // Pingora keeps every connection; a client of HTTP/1.0 waits for its end.
        if request.version == http::Version::HTTP_10 {
            session.set_keepalive(None);
        }
        let mut response = Response::new(body);
        *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
        let length = response.body().len();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
        headers.insert(header::CONTENT_LENGTH, http::HeaderValue::from(length));
        if status == 405 {
            headers.insert(header::ALLOW, http::HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
