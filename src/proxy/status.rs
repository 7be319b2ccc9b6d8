//! The status page: what an operator looks at first. `/status` is one HTML file that needs nothing from anywhere else,
//! `/status.json` the data behind it. Both are only ever read.
//!
//! The page shows texts that strangers chose (event IDs, addresses, details of refusals): it puts them into text nodes,
//! and its policy (CSP) lets no other script run than the one in the file.

use super::{Shared, lacks};
use crate::policy::{Policy, Route, UpstreamAddress};
use crate::request::Now;
use crate::telemetry::recent::Verdict;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::proto::{Metric, MetricFamily, MetricType};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The page.
pub(super) const PAGE: &str = include_str!("status.html");

/// What the page may do: run its own script and style, and ask its own origin. No frame may hold it.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let inside = PAGE.split_once(&format!("<{tag}>")).and_then(|(_, rest)| rest.split_once(&format!("</{tag}>")));
        let digest = Sha256::digest(inside.map_or("", |(inside, _)| inside).as_bytes());
        format!("'sha256-{}'", STANDARD.encode(digest))
    };
    format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("script"),
        hash("style"),
    )
});

/// May whoever asked under this name see the page of an admin port on a loopback address? A page of the web that lets
/// its own name lead to this machine comes with that name.
pub(super) fn is_local_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

/// The number after which requests are asked for: `after=17`.
pub(super) fn after(query: Option<&str>) -> u64 {
    let pairs = query.unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.strip_prefix("after=")?.parse().ok()).next().unwrap_or(0)
}

/// All that the page shows, with the requests after this one.
pub(super) fn json(shared: &Shared, after: u64) -> Vec<u8> {
    let now = Now::read();
    let live = shared.live.load();
    let families = Families(shared.gather());
    let (newest, requests) = shared.recent.as_ref().map(|recent| recent.after(after)).unwrap_or_default();
    let why = shared.not_ready();
    let whole = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": now.unix.as_millis() as u64,
        "ready": why.is_none(),
        "not_ready": why,
        "config": {
            "version": live.version,
            "loaded": families.number("hookmoat_config_loaded_timestamp_seconds"),
            "reload_ok": families.number("hookmoat_config_last_reload_successful") == Some(1.0),
        },
        "in_flight": families.number("hookmoat_requests_in_flight"),
        "body_memory": families.number("hookmoat_body_memory_bytes"),
        "body_memory_max": live.limits.body_memory,
        "state": {
            "up": families.number("hookmoat_state_up") == Some(1.0),
            "ids": families.number("hookmoat_seen_ids"),
            "buckets": families.number("hookmoat_rate_limit_buckets"),
        },
        "routes": live.routes.iter().map(|(_, route)| route_json(route, &live, &families, now)).collect::<Vec<_>>(),
        "no_route": verdicts(&families.by("hookmoat_requests_total", &[("route", "")], "outcome")),
        "upstreams": upstreams(&live, &families),
        "queues": queues(&live, &families),
        "published": published(&families, now),
        "certificates": families.rows("hookmoat_certificate_not_after_seconds", &["listener"], "not_after"),
        "newest": newest,
        "history": shared.recent.as_ref().map_or(0, |recent| recent.size()),
        "requests": requests,
    });
    whole.to_string().into_bytes()
}

fn route_json(route: &Route, live: &Policy, families: &Families, now: Now) -> Value {
    let this = [("route", &*route.name)];
    let queue = route.deliver.as_ref().and_then(|deliver| live.queues.get(deliver.queue));
    let outcomes = families.by("hookmoat_requests_total", &this, "outcome");
    json!({
        "name": &*route.name,
        "provider": route.provider.as_deref(),
        "lacks": lacks(route, now),
        "upstream": live.upstreams.get(route.forward.upstream).map(|upstream| &*upstream.name),
        "queue": queue.map(|queue| &*queue.name),
        "verdicts": verdicts(&outcomes),
        "outcomes": outcomes,
        "backend": families.by("hookmoat_backend_responses_total", &this, "code"),
        "attempts": families.by("hookmoat_delivery_attempts_total", &this, "result"),
    })
}

/// Counts of outcomes as counts of verdicts, every one of which is there.
fn verdicts(outcomes: &Map<String, Value>) -> Map<String, Value> {
    let count = |verdict: Verdict| {
        let own = outcomes.iter().filter(|(outcome, _)| Verdict::of_outcome(outcome) == verdict);
        own.filter_map(|(_, count)| count.as_f64()).fold(0.0, |sum, count| sum + count)
    };
    Verdict::ALL.iter().map(|verdict| (verdict.label().to_owned(), json!(count(*verdict)))).collect()
}

fn upstreams(live: &Policy, families: &Families) -> Vec<Value> {
    let one = |upstream: &std::sync::Arc<crate::policy::Upstream>| {
        let address = match &upstream.address {
            UpstreamAddress::Socket(address) => address.to_string(),
            UpstreamAddress::Name(name, port) => format!("{name}:{port}"),
            UpstreamAddress::Unix(path) => format!("unix:{}", path.display()),
        };
        let down = families.labelled("hookmoat_upstream_down", &[("upstream", &upstream.name)]) == Some(1.0);
        json!({ "name": &*upstream.name, "address": address, "down": down })
    };
    live.upstreams.iter().map(one).collect()
}

fn queues(live: &Policy, families: &Families) -> Vec<Value> {
    let one = |queue: &crate::policy::Queue| {
        let this = [("queue", &*queue.name)];
        json!({
            "name": &*queue.name,
            "up": families.labelled("hookmoat_queue_up", &this) != Some(0.0),
            "oldest": families.labelled("hookmoat_queue_oldest_seconds", &this),
            "bytes": families.labelled("hookmoat_queue_bytes", &this),
            "events": families.by("hookmoat_queue_events", &this, "state"),
        })
    };
    live.queues.iter().map(one).collect()
}

/// Networks and keys that senders publish.
fn published(families: &Families, now: Now) -> Vec<Value> {
    let mut rows = families.rows("hookmoat_fetched_entries", &["kind", "source"], "entries");
    for row in &mut rows {
        let (kind, source) = (row["kind"].as_str().unwrap_or_default(), row["source"].as_str().unwrap_or_default());
        let this = [("kind", kind), ("source", source)];
        let age = families.labelled("hookmoat_fetched_age_seconds", &this);
        let fetched = families.labelled("hookmoat_fetch_last_success_timestamp_seconds", &this).filter(|at| *at > 0.0);
        let fetched_ago = fetched.map(|at| (now.unix.as_secs_f64() - at).max(0.0));
        let failures = families.labelled("hookmoat_fetch_failures_total", &this);
        if let Some(row) = row.as_object_mut() {
            row.insert("age".into(), json!(age));
            row.insert("fetched_ago".into(), json!(fetched_ago));
            row.insert("failures".into(), json!(failures));
        }
    }
    rows
}

/// All counters and gauges at one moment.
struct Families(Vec<MetricFamily>);

impl Families {
    fn of(&self, name: &str) -> impl Iterator<Item = (&Metric, f64)> {
        let family = self.0.iter().find(|family| family.name() == name);
        family.into_iter().flat_map(|family| {
            let kind = family.get_field_type();
            family.get_metric().iter().map(move |metric| {
                let value = match kind {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    _ => metric.get_gauge().get_value(),
                };
                (metric, value)
            })
        })
    }

    /// The value of the only series.
    fn number(&self, name: &str) -> Option<f64> {
        self.of(name).map(|(_, value)| value).next()
    }

    /// The value of the series with these labels.
    fn labelled(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        self.of(name).find(|(metric, _)| has(metric, labels)).map(|(_, value)| value)
    }

    /// Values that are not zero by one more label.
    fn by(&self, name: &str, labels: &[(&str, &str)], key: &str) -> Map<String, Value> {
        let found = self.of(name).filter(|(metric, value)| *value != 0.0 && has(metric, labels));
        found.map(|(metric, value)| (label(metric, key).to_owned(), json!(value))).collect()
    }

    /// A row for each series, with its labels and its value under this name.
    fn rows(&self, name: &str, labels: &[&str], value_name: &str) -> Vec<Value> {
        let row = |(metric, value): (&Metric, f64)| {
            let told = labels.iter().map(|key| ((*key).to_owned(), json!(label(metric, key))));
            Value::Object(told.chain([(value_name.to_owned(), json!(value))]).collect())
        };
        self.of(name).map(row).collect()
    }
}

fn label<'m>(metric: &'m Metric, name: &str) -> &'m str {
    metric.get_label().iter().find(|pair| pair.name() == name).map_or("", |pair| pair.value())
}

fn has(metric: &Metric, labels: &[(&str, &str)]) -> bool {
    labels.iter().all(|(name, value)| label(metric, name) == *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_one_script_and_one_style_and_asks_nobody_else() {
        assert_eq!((PAGE.matches("<script").count(), PAGE.matches("<style").count()), (1, 1));
        assert!(PAGE.contains("<script>") && PAGE.contains("<style>"));
        for way_in in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=", "onclick=", "//"]
        {
            // Comments in the script are of the other kind, so that an address of somebody else stands out.
            assert!(!PAGE.contains(way_in), "{way_in}");
        }
        assert_eq!(POLICY.matches("'sha256-").count(), 2);
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn a_name_of_the_web_is_not_local() {
        for local in ["127.0.0.1:9901", "127.0.0.1", "localhost:9901", "LOCALHOST", "[::1]:9901", "10.0.0.7:1"] {
            assert!(is_local_name(local), "{local}");
        }
        for name in ["", "example.com", "localhost.example.com:9901", "127.0.0.1.example.com", "[::1", "[x]:1"] {
            assert!(!is_local_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_asked_for_is_read_from_the_query() {
        for (query, number) in
            [(None, 0), (Some(""), 0), (Some("after=7"), 7), (Some("x=1&after=9"), 9), (Some("after=-1"), 0)]
        {
            assert_eq!(after(query), number, "{query:?}");
        }
    }
}
