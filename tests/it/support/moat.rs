//! A proxy with its backend, and the one way to say what a refusal is.

use super::{Answer, Backend, Connection, Proxy, Reply};
use std::time::{Duration, Instant};

/// A proxy in front of a recording backend.
pub struct Moat {
    pub backend: Backend,
    pub proxy: Proxy,
}

/// What a refused request must get.
#[derive(Clone, Copy, Debug)]
pub struct Refusal {
    pub status: u16,
    /// The `route` label.
    pub route: &'static str,
    /// The `outcome` label, or its beginning: `signature_` stands for all failures of a signature.
    pub outcome: &'static str,
    /// Must the connection end with the answer? Else it may go on, in step.
    pub closes: bool,
}

pub const fn refusal(status: u16, route: &'static str, outcome: &'static str) -> Refusal {
    Refusal { status, route, outcome, closes: false }
}

pub const fn refusal_and_close(status: u16, route: &'static str, outcome: &'static str) -> Refusal {
    Refusal { closes: true, ..refusal(status, route, outcome) }
}

impl Moat {
    pub fn new(config: &str) -> Self {
        Self::with_backend(Backend::ok(), config)
    }

    pub fn answering(config: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Self {
        Self::with_backend(Backend::with(move |_, _| reply()), config)
    }

    pub fn with_backend(backend: Backend, config: &str) -> Self {
        let proxy = Proxy::start(backend.address, config);
        Self { backend, proxy }
    }

    /// The request is refused as said, the backend hears nothing of it, the counter moves by one, and nothing of the
    /// request is ever answered as a second one.
    #[track_caller]
    pub fn refuses(&self, case: &str, bytes: &[u8], expected: Refusal) -> Answer {
        self.refuses_on(case, Connection::open(self.proxy.http), bytes, expected)
    }

    /// The same over the given connection.
    #[track_caller]
    pub fn refuses_on(&self, case: &str, mut connection: Connection, bytes: &[u8], expected: Refusal) -> Answer {
        let connections = self.backend.connections();
        let before = self.count(expected.route, expected.outcome);
        let answer = connection.send(bytes).try_answer();
        let answer = answer.unwrap_or_else(|| panic!("{case}: no answer\n{}", self.proxy.log()));
        assert_eq!(answer.status, expected.status, "{case}: {answer:?}\n{}", self.proxy.log());
        self.wait_until(case, || self.count(expected.route, expected.outcome) == before + 1.0);
        if expected.closes {
            assert!(connection.is_closed(), "{case}: still open");
        } else {
            // Closed, or in step: what comes next is the answer to what is asked next.
            let before = self.count("", "no_route");
            if let Some(next) = connection.send(&super::request("GET", "/in-step", &[], b"")).try_answer() {
                assert_eq!(next.status, 404, "{case}: out of step");
                // Counters follow answers: this one must not be taken for the next case's.
                self.wait_until(case, || self.count("", "no_route") == before + 1.0);
            }
        }
        assert_eq!(self.backend.connections(), connections, "{case}: the backend heard of it");
        answer
    }

    /// The request is answered with 200 and reaches the backend once.
    #[track_caller]
    pub fn accepts(&self, case: &str, bytes: &[u8]) -> super::backend::Recorded {
        let before = self.backend.requests().len();
        let counted = self.sum(&["outcome=\"forwarded\""]);
        let answer = self.proxy.send(bytes);
        assert_eq!(answer.status, 200, "{case}: {answer:?}\n{}", self.proxy.log());
        assert_eq!(answer.header("hookmoat-duplicate"), None, "{case}");
        let mut requests = self.backend.requests();
        assert_eq!(requests.len(), before + 1, "{case}");
        // Counters follow answers: this one must not be taken for the next case's.
        self.wait_until(case, || self.sum(&["outcome=\"forwarded\""]) >= counted + 1.0);
        requests.pop().expect("one")
    }

    /// `hookmoat_requests_total` of a route, over all outcomes that begin like this.
    pub fn count(&self, route: &str, outcome: &str) -> f64 {
        self.sum(&[&format!("outcome=\"{outcome}"), &format!("route=\"{route}\"")])
    }

    /// `hookmoat_requests_total` over all series whose labels hold these texts.
    pub fn sum(&self, wanted: &[&str]) -> f64 {
        let text = self.proxy.admin("/metrics").text();
        let series = text.lines().filter_map(|line| line.strip_prefix("hookmoat_requests_total")?.split_once("} "));
        series
            .filter(|(labels, _)| wanted.iter().all(|text| labels.contains(text)))
            .map(|(_, value)| value.parse::<f64>().expect("a number"))
            .sum()
    }

    /// Waits for what happens beside the answer. A failure after a minute, not a measure of time.
    #[track_caller]
    pub fn wait_until(&self, case: &str, holds: impl FnMut() -> bool) {
        assert!(within(PATIENCE, holds), "{case}: never came true\n{}", self.proxy.log());
    }
}

/// How long a test waits for what must come, on the busiest machine; never a measure of time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Does it come true in this time?
pub fn within(time: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    holds()
}
