//! Backends: where they are and how they are spoken to.

use super::compile::{Compiler, DAY, is_host, is_name};
use super::place::Place;
use super::raw;
use super::units::duration;
use crate::policy::{Timeouts, Upstream, UpstreamAddress, UpstreamTls};
use http::HeaderValue;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long an upstream may take.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(10);

impl Compiler<'_> {
    pub(super) fn upstreams<'c>(
        &mut self,
        raw: &'c BTreeMap<String, raw::Upstream>,
        timeouts: Timeouts,
    ) -> (Vec<Arc<Upstream>>, HashMap<&'c str, usize>) {
        let (mut upstreams, mut names) = (Vec::new(), HashMap::new());
        for (name, one) in raw {
            let at = Place::default().key("upstreams").key(name);
            if !is_name(name) {
                self.wrong(&at, "not a name", "use letters, digits, `-`, `_` and `.`, at most 64");
            }
            if let Some(upstream) = self.upstream(name, one, &at, timeouts) {
                names.insert(name.as_str(), upstreams.len());
                upstreams.push(Arc::new(upstream));
            }
        }
        (upstreams, names)
    }

    pub(super) fn upstream(
        &mut self,
        name: &str,
        raw: &raw::Upstream,
        at: &Place,
        timeouts: Timeouts,
    ) -> Option<Upstream> {
        let map = &raw.map;
        let (least, most) = (Duration::from_millis(10), Duration::from_secs(3600));
        let timeout = map.timeout.map_or(UPSTREAM_TIMEOUT, |span| span.0);
        let times = [
            ("timeout", map.timeout, UPSTREAM_TIMEOUT),
            ("connect_timeout", map.connect_timeout, timeout.min(Duration::from_secs(2))),
            ("read_timeout", map.read_timeout, timeout),
        ]
        .map(|(key, span, default)| {
            if let Some(span) = span {
                self.within(span, least, most, &at.key(key));
                if span.0 > timeout {
                    let help =
                        format!("the whole exchange may take {}: raise `timeout` or shorten this", duration(timeout));
                    self.wrong(&at.key(key), "longer than `timeout`", help);
                }
            }
            span.map_or(default, |span| span.0)
        });
        if timeout > timeouts.total {
            let what = format!("longer than `timeouts.total`, {}", duration(timeouts.total));
            self.warn(&at.key("timeout"), what, "the request ends at the shorter of the two");
        }
        if let Some(span) = map.idle_timeout {
            self.within(span, Duration::ZERO, DAY, &at.key("idle_timeout"));
        }
        let max_idle = map.max_idle.unwrap_or(128);
        self.number(max_idle, 0, 100_000, &at.key("max_idle"));
        let concurrency = map.concurrency.unwrap_or(16);
        self.number(concurrency, 1, 10_000, &at.key("concurrency"));
        let url_at = if raw.bare { at.clone() } else { at.key("url") };
        let (address, authority, secure) = match self.url(&map.url) {
            Ok(parts) => parts,
            Err((what, help)) => {
                self.wrong(&url_at, what, help);
                return None;
            }
        };
        let tls = self.upstream_tls(map.tls.as_ref(), &address, secure, &at.key("tls"))?;
        Some(Upstream {
            name: name.into(),
            address,
            authority,
            tls,
            timeout: times[0],
            connect_timeout: times[1],
            read_timeout: times[2],
            idle_timeout: map.idle_timeout.map_or(Duration::from_secs(60), |span| span.0),
            max_idle,
            concurrency,
        })
    }

    /// Address, `Host`, and whether TLS is spoken.
    fn url(&self, url: &str) -> Result<(UpstreamAddress, HeaderValue, bool), (&'static str, &'static str)> {
        const FORM: &str = "write http://host:port, https://host:port or unix:/path/to/socket";
        if let Some(path) = url.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            // sun_path holds 108 bytes on Linux, the final zero included.
            if path.is_empty() || path.contains('\0') {
                return Err(("a unix socket without a path", FORM));
            }
            let path = self.world.resolve(path);
            if path.as_os_str().len() > 107 {
                return Err(("the path of a unix socket has at most 107 bytes", "move the socket to a shorter path"));
            }
            return Ok((UpstreamAddress::Unix(path), HeaderValue::from_static("localhost"), false));
        }
        let uri: http::Uri = url.parse().map_err(|_| ("not a URL", FORM))?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(("neither http, https nor unix", FORM)),
        };
        let authority = uri.authority().ok_or(("a URL without a host", FORM))?;
        if authority.as_str().contains('@') {
            let help = "send it as a header: to: {upstream: …, headers: {Authorization: {env: …}}}";
            return Err(("user and password do not belong here", help));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
            return Err((
                "more than scheme, host and port",
                "leave the path out here; a route can set it: to: {upstream: …, path: …}",
            ));
        }
        let port = match (authority.port_u16(), authority.as_str().rsplit_once(':')) {
            (Some(0), _) => return Err(("port 0 is no port", FORM)),
            (Some(port), _) => port,
            // `host:` and `host:99999` have a colon and no port; the colons of an IPv6 address stand in brackets.
            (None, Some((_, tail))) if !tail.ends_with(']') => {
                return Err(("not a port", "name a port from 1 to 65535"));
            }
            (None, _) if secure => 443,
            (None, _) => 80,
        };
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = match bare.parse::<IpAddr>() {
            Ok(ip) => UpstreamAddress::Socket(SocketAddr::new(ip, port)),
            Err(_) if is_host(host) => UpstreamAddress::Name(host.to_ascii_lowercase().into(), port),
            Err(_) => return Err(("not a host name or IP address", FORM)),
        };
        let value = HeaderValue::from_str(authority.as_str()).map_err(|_| ("not a host name", FORM))?;
        Ok((address, value, secure))
    }

    fn upstream_tls(
        &mut self,
        raw: Option<&raw::UpstreamTls>,
        address: &UpstreamAddress,
        secure: bool,
        at: &Place,
    ) -> Option<Option<UpstreamTls>> {
        if !secure {
            if raw.is_some() {
                self.wrong(at, "the URL does not speak TLS", "write https:// in the URL, or remove `tls`");
            }
            return Some(None);
        }
        let host = match address {
            UpstreamAddress::Socket(address) => address.ip().to_string(),
            UpstreamAddress::Name(name, _) => name.to_string(),
            UpstreamAddress::Unix(_) => "localhost".into(),
        };
        let none = raw::UpstreamTls::default();
        let raw = raw.unwrap_or(&none);
        let server_name = raw.server_name.clone().unwrap_or(host);
        if rustls_pki_types::ServerName::try_from(server_name.as_str()).is_err() {
            self.wrong(&at.key("server_name"), "not a name that a certificate can have", "write a host name");
        }
        if raw.insecure_skip_verify {
            let help = "give the backend's roots as `ca` instead";
            self.warn(&at.key("insecure_skip_verify"), "the backend's certificate is not checked", help);
        }
        let (ca, client, files) = self.upstream_files(raw, at);
        let verify = !raw.insecure_skip_verify;
        Some(Some(UpstreamTls { server_name: server_name.into(), ca, verify, client, files }))
    }
}

pub(super) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    is_host(host) && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}
