//! A line of Hookmoat's own log, in either form, and what it says of a request.

use super::{Finding, Holds, changes};
use crate::check::allowlist::Allowlist;
use crate::policy::Route;
use crate::reject::Reason;
use bytes::Bytes;

/// What is read of a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogLine {
    /// `forwarded`, or the reason of the refusal.
    pub outcome: String,
    /// The route's name.
    pub route: Option<String>,
    /// The reason in detail.
    pub detail: Option<String>,
    /// The client's address.
    pub client: Option<String>,
    /// What the proxy found out.
    pub diagnosis: Option<String>,
    /// What the request looked like.
    pub capture: Option<String>,
}

impl LogLine {
    /// The last line of a text that tells of a request. `None`: there is none.
    pub fn last_of(text: &str) -> Option<Self> {
        text.lines().rev().find_map(|line| Self::from_json(line).or_else(|| Self::from_text(line)))
    }

    fn from_json(line: &str) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_str(line.get(line.find('{')?..)?.trim_end()).ok()?;
        let text = |name: &str| value.get(name).and_then(|value| value.as_str()).map(str::to_owned);
        value.get("request_id")?;
        Some(Self {
            outcome: text("outcome")?,
            route: text("route"),
            detail: text("detail"),
            client: text("client"),
            diagnosis: text("diagnosis"),
            capture: text("capture"),
        })
    }

    /// `21:07:23 ✗ 401 signature_mismatch github     no signature … client=127.0.0.1 …`
    fn from_text(line: &str) -> Option<Self> {
        let at = line.find(['✓', '✗', '=']).filter(|at| *at < 20)?;
        let mut words = line.get(at..)?.split_whitespace().skip(1);
        words.next()?.parse::<u16>().ok()?;
        let outcome = words.next()?.to_owned();
        let route = words.next()?.to_owned();
        let field = |name: &str| {
            let start = line.find(&format!(" {name}="))? + name.len() + 2;
            let rest = line.get(start..)?;
            // A field's text may hold spaces; the next field begins with a name and `=`.
            let end = rest.match_indices(' ').find(|(at, _)| {
                let next = rest.get(at + 1..).unwrap_or_default();
                let name = next.split('=').next().unwrap_or_default();
                next.contains('=')
                    && !name.is_empty()
                    && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
            });
            rest.get(..end.map_or(rest.len(), |(at, _)| at)).map(str::to_owned)
        };
        Some(Self {
            outcome,
            route: Some(route).filter(|route| route != "-"),
            detail: None,
            client: field("client"),
            diagnosis: field("diagnosis"),
            capture: field("capture"),
        })
    }

    /// Did the request reach the backend?
    pub fn passed(&self) -> bool {
        self.outcome == "forwarded"
    }

    /// What the line and the route say together.
    pub fn findings(&self, route: &Route) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut add = |step, holds, detail: String| found.push(Finding { step, holds, detail });
        match self.route.as_deref() {
            Some(name) if name == &*route.name => add("route", Holds::Yes, format!("the line is of route {name}")),
            Some(name) => add("route", Holds::No, format!("the line is of route {name}, not of {}", route.name)),
            None => add("route", Holds::No, "no route was found for the request".into()),
        }
        if let Some(client) = self.client.as_deref().and_then(|client| client.parse().ok())
            && let Allowlist::Only(nets) = &route.allow
        {
            let (holds, may) = if nets.contains(client) { (Holds::Yes, "may") } else { (Holds::No, "may not") };
            add("address", holds, format!("client {client} {may} send"));
        }
        let reason = Reason::ALL.iter().find(|reason| reason.label() == self.outcome);
        let detail = self.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        match reason {
            Some(reason) => add("outcome", Holds::No, format!("{}{detail} ({})", self.outcome, reason.row().help)),
            None if self.passed() => add("outcome", Holds::Yes, "the backend got it".into()),
            None => add("outcome", Holds::Unknown, format!("{}{detail}", self.outcome)),
        }
        found
    }

    /// What became of a body on its way: the digest in the line against that of the body as it was sent, and of what
    /// usually happens to bodies.
    pub fn compare(&self, sent: &[u8]) -> Finding {
        let step = "body";
        let arrived = self.capture.as_deref().and_then(|text| text.rsplit_once("sha256 ")).map(|(_, digest)| digest);
        let Some(arrived) = arrived.and_then(|digest| digest.get(..64)) else {
            let detail = "the line holds no digest of the body: set `diagnose: true` at the route and send it again";
            return Finding { step, holds: Holds::Unknown, detail: detail.into() };
        };
        if super::captured::digest(sent) == arrived {
            return Finding { step, holds: Holds::Yes, detail: "arrived as it was sent".into() };
        }
        let changed = changes::bodies(&Bytes::copy_from_slice(sent));
        let found = changed.into_iter().find(|(_, _, made)| super::captured::digest(made) == arrived);
        let detail = match found {
            Some((what, remedy, _)) => {
                format!("another body arrived; it would be what was sent if {what}: {remedy}")
            }
            None => format!("another body arrived: sha256 {arrived}, and in no way that is usual"),
        };
        Finding { step, holds: Holds::No, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::Captured;

    #[test]
    fn lines_of_both_forms_are_read() {
        let json = r#"{"timestamp":"2026-01-31T12:00:00Z","level":"WARN","request_id":"ab","outcome":"signature_mismatch","status":401,"route":"github","client":"127.0.0.1","detail":"no signature matches","diagnosis":"would verify if x","capture":"POST; body of 1 bytes, sha256 00","target":"hookmoat::request"}"#;
        let text = "21:07:23 ✗ 401 signature_mismatch github     no signature matches client=127.0.0.1 bytes=55 \
                    diagnosis=would verify if x capture=POST; body of 1 bytes, sha256 00 total_ms=0.1 request_id=ab";
        let expected = LogLine {
            outcome: "signature_mismatch".into(),
            route: Some("github".into()),
            detail: Some("no signature matches".into()),
            client: Some("127.0.0.1".into()),
            diagnosis: Some("would verify if x".into()),
            capture: Some("POST; body of 1 bytes, sha256 00".into()),
        };
        assert_eq!(LogLine::last_of(json), Some(expected.clone()));
        assert_eq!(LogLine::last_of(&format!("{json}\nsomething else\n")), Some(expected.clone()));
        assert_eq!(LogLine::last_of(text), Some(LogLine { detail: None, ..expected }));
        for other in ["", "POST / HTTP/1.1\r\nHost: a\r\n\r\n{\"outcome\":1}", "{}", "x=1"] {
            assert_eq!(LogLine::last_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_body_is_compared_by_its_digest() {
        let request = |body: &[u8]| Captured {
            method: "POST".into(),
            path: "/".into(),
            query: None,
            host: "a".into(),
            headers: vec![("X-Secret".into(), b"hidden".to_vec()), ("Content-Type".into(), b"text/plain".to_vec())],
            body: Some(Bytes::copy_from_slice(body)),
        };
        let line = LogLine { capture: Some(request(b"{\"a\": 1}\n").summary()), ..LogLine::default() };
        let capture = line.capture.as_deref().unwrap();
        assert!(capture.contains("x-secret: [6 bytes], content-type: text/plain; body of 9 bytes"), "{capture}");
        assert!(!capture.contains("hidden"));
        assert_eq!(line.compare(b"{\"a\": 1}\n").holds, Holds::Yes);
        let finding = line.compare(b"{\"a\": 1}");
        assert_eq!(finding.holds, Holds::No);
        assert!(finding.detail.contains("ended in a line end"), "{}", finding.detail);
        assert!(line.compare(b"other").detail.contains("in no way that is usual"));
        assert_eq!(LogLine::default().compare(b"").holds, Holds::Unknown);
    }
}
