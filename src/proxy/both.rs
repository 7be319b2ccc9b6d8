//! One request both ways, without sockets: what each makes of the same bytes. For the fuzz targets `both_ways` (from the
//! bytes to what the backend would get, without the checks, which are the same code for both) and `whole_way`.

use super::body::BodyMemory;
use super::carrier::{BodyTerms, Carrier};
use super::http1::connection;
use super::timer::Timer;
use super::{forward, gate};
use crate::check::shape;
use crate::pipeline::{self, Trail};
use crate::policy::Policy;
use crate::port::seen::Outcome;
use crate::request::{Now, Peer};
use crate::runtime::State;
use std::io::{self, Cursor};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// What the backend would get: lines in order, names in lower case, since one way keeps fields in a map.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    lines: Vec<String>,
    body: Vec<u8>,
}

/// The lean way, with so many bytes at a time. `None`: refused.
pub(crate) fn lean(wire: &[u8], at_once: usize, policy: &Policy) -> Option<Forwarded> {
    let drip = Drip { wire: wire.to_vec(), at: 0, at_once };
    runtime().block_on(async { forwarded(&mut connection::first(drip, policy).await?, policy).await })
}

/// The complete way.
pub(crate) fn complete(wire: &[u8], policy: &Policy) -> Option<Forwarded> {
    let stream = Box::new(Cursor::new(wire.to_vec()));
    runtime().block_on(async { forwarded(&mut gate::first(stream, policy).await?, policy).await })
}

/// What was let through to the backend.
#[derive(Debug)]
pub(crate) struct Passed {
    /// Was a signature verified?
    pub(crate) verified: bool,
    /// The header of this name, every time that it stands.
    pub(crate) signatures: Vec<Vec<u8>>,
    /// What the backend gets as the body.
    pub(crate) body: Vec<u8>,
}

/// All of the way, with every check: what an exchange does up to the backend, which takes the event. `None`: refused, or
/// answered here.
pub(crate) fn whole(
    wire: &[u8],
    (lean, at_once): (bool, usize),
    (policy, state, now): (&Policy, &State, Now),
    peer: &Peer,
    signature: &str,
) -> Option<Passed> {
    runtime().block_on(async {
        if lean {
            let drip = Drip { wire: wire.to_vec(), at: 0, at_once };
            judged(&mut connection::first(drip, policy).await?, (policy, state, now), peer, signature).await
        } else {
            let stream = Box::new(Cursor::new(wire.to_vec()));
            judged(&mut gate::first(stream, policy).await?, (policy, state, now), peer, signature).await
        }
    })
}

async fn judged<C: Carrier>(
    carrier: &mut C,
    (policy, state, now): (&Policy, &State, Now),
    peer: &Peer,
    signature: &str,
) -> Option<Passed> {
    let mut trail = Trail::default();
    carrier.strict().ok()?;
    let mut screened = pipeline::screen(policy, state, &carrier.head(), peer, now, &mut trail).await.ok()?;
    let terms = BodyTerms {
        declared: screened.declared.length,
        max: screened.route.max_body,
        max_held: policy.limits.body_memory,
        until: Instant::now() + Duration::from_secs(5),
    };
    let memory = BodyMemory::default();
    let (mut held, mut timer) = (memory.hold(), Timer::default());
    carrier.read_body(terms, &mut held, &mut timer, |part| screened.update(part)).await.ok()?;
    let (head, body) = (carrier.head(), carrier.body());
    let authentic = screened.verify(state, &head, body, now, &mut trail).await.ok()?;
    let keys = authentic.keys(&head, body, &mut trail).ok()?;
    let admitted = authentic.admit(state, keys, Duration::ZERO, now, &mut trail).await.ok()?;
    let verified = admitted.verified;
    assert!(admitted.settle(Outcome::Done, now.instant).await, "a claim was lost at once");
    let signatures = head
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case(signature))
        .map(|(_, value)| value.to_vec())
        .collect();
    Some(Passed { verified, signatures, body: body.to_vec() })
}

fn runtime() -> &'static Runtime {
    static RUNTIME: std::sync::OnceLock<Runtime> = std::sync::OnceLock::new();
    #[expect(clippy::expect_used, reason = "nothing can be tried without one")]
    RUNTIME.get_or_init(|| Builder::new_current_thread().enable_all().build().expect("a runtime"))
}

async fn forwarded<C: Carrier>(carrier: &mut C, policy: &Policy) -> Option<Forwarded> {
    carrier.strict().ok()?;
    let (declared, route) = {
        let head = carrier.head();
        let declared = shape::head(&head, &policy.limits).ok()?;
        (declared, policy.routes.find(&head).ok()?.clone())
    };
    shape::size(&declared, &route).ok()?;
    let terms = BodyTerms {
        declared: declared.length,
        max: route.max_body,
        max_held: policy.limits.body_memory,
        until: Instant::now() + Duration::from_secs(5),
    };
    let memory = BodyMemory::default();
    let mut shown = Vec::new();
    let seen = |part: &[u8]| shown.extend_from_slice(part);
    carrier.read_body(terms, &mut memory.hold(), &mut Timer::default(), seen).await.ok()?;
    let (head, body) = (carrier.head(), carrier.body().to_vec());
    assert_eq!(shown, body, "other bytes are hashed than are forwarded");
    let told = forward::Told { request_id: "1", verified: false, body_length: body.len(), own: &[] };
    let upstream = policy.upstreams.get(route.forward(None).upstream)?;
    let mut out = Vec::new();
    forward::head(&mut out, &head, &route, upstream, &Trail::default(), &told);
    let text = out.escape_ascii().to_string();
    let mut lines: Vec<String> = text.split("\\r\\n").map(String::from).collect();
    for line in lines.iter_mut().skip(1) {
        if let Some(name) = line.find(':').and_then(|end| line.get_mut(..end)) {
            name.make_ascii_lowercase();
        }
    }
    if let Some((_, fields)) = lines.split_first_mut() {
        fields.sort();
    }
    Some(Forwarded { lines, body })
}

/// Bytes as they come from a network, and their end.
struct Drip {
    wire: Vec<u8>,
    at: usize,
    at_once: usize,
}

impl AsyncRead for Drip {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let end = me.wire.len().min(me.at + me.at_once.min(buffer.remaining()));
        buffer.put_slice(me.wire.get(me.at..end).unwrap_or_default());
        me.at = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Drip {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_request_goes_both_ways() {
        let text = "listen: [{ address: 127.0.0.1:1 }]\nadmin: off\nhttps: allow\nupstreams: { app: \"http://127.0.0.1:2\" }\n\
                    routes: [{ name: open, path: /*, signature: none, duplicates: off, to: app }]\n";
        let policy = crate::config::parse(text, std::path::Path::new("/nonexistent"), &|_| None).unwrap();
        for body in ["Content-Length: 2\r\n\r\n{}", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"] {
            let wire = format!("POST /a?b HTTP/1.1\r\nHost: c\r\nX-Real-Ip: 1\r\nX-D: e\r\n{body}");
            let lean = lean(wire.as_bytes(), 3, &policy).unwrap();
            assert_eq!(Some(&lean), complete(wire.as_bytes(), &policy).as_ref());
            assert_eq!((&*lean.lines[0], &*lean.body), ("POST /a?b HTTP/1.1", &b"{}"[..]));
            assert!(
                lean.lines.contains(&"x-d: e".to_owned()) && !lean.lines.iter().any(|line| line.starts_with("x-real"))
            );
        }
        assert_eq!(lean(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{", 1, &policy), None);
    }
}
