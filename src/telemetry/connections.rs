//! Connections that end without an answer: counters, and a line now and then.

use crate::request::Now;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Seconds between two lines about the same thing: a flood of connections must not become one of lines.
const PAUSE: i64 = 10;

macro_rules! closings {
    ($($variant:ident, $label:literal, $help:literal;)+) => {
        /// Why a connection was closed without a word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Closed { $(#[doc = $help] $variant,)+ }

        impl Closed {
            /// All of them, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value of the `reason` label.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// For the operator.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

closings! {
    Denied, "denied", "the address is one of `connections.deny`";
    Full, "max", "as many connections are open as `connections.max`, or the limit of open files, allows";
    FullForAddress, "max_per_address", "the address has as many connections open as `connections.max_per_address` allows";
    Shed, "shed", "as many connections are open as may be, and this one had been quiet for the longest time without ever having carried a verified request";
    AdminFull, "admin_max", "the admin port has as many connections open as it takes, altogether or of one address";
    ProxyProtocol, "proxy_protocol", "the listener wants a PROXY protocol header: the peer is none of those it believes, or sent none, a broken one, or none in time";
    Handshake, "handshake", "the TLS handshake failed";
    HandshakeTimeout, "handshake_timeout", "the TLS handshake took longer than `timeouts.handshake`";
    Http2Flood, "http2_flood", "an HTTP/2 connection was full of frames that ask for nothing, or of requests that it cancelled itself";
    Http2Error, "http2_error", "an HTTP/2 peer broke the protocol";
}

/// See the module.
pub struct ConnectionMetrics {
    /// Connections of senders that are open.
    pub open: IntGauge,
    /// As many as may be.
    pub max: IntGauge,
    closed: Vec<IntCounter>,
    accept_errors: IntCounter,
    streams_reset: IntCounter,
    told: Vec<Told>,
    told_error: Told,
    told_reset: Told,
}

/// When something was last told of, and how often it happened since.
#[derive(Default)]
struct Told {
    at: AtomicI64,
    untold: AtomicU64,
}

impl Told {
    /// How often it happened since the last line; `None`: no line now.
    fn count(&self, now: Now) -> Option<u64> {
        let untold = self.untold.fetch_add(1, Ordering::Relaxed) + 1;
        let (at, now) = (self.at.load(Ordering::Relaxed), now.unix_seconds());
        let due = now.saturating_sub(at) >= PAUSE || now < at;
        let mine = due && self.at.compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        mine.then(|| {
            self.untold.fetch_sub(untold, Ordering::Relaxed);
            untold
        })
    }
}

impl ConnectionMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        macro_rules! register {
            ($metric:expr) => {{
                let metric = $metric?;
                registry.register(Box::new(metric.clone()))?;
                metric
            }};
        }
        let open = register!(IntGauge::new("hookmoat_connections", "Connections of senders that are open."));
        let max =
            register!(IntGauge::new("hookmoat_connections_max", "Connections of senders that may be open at once."));
        let closed = register!(IntCounterVec::new(
            Opts::new(
                "hookmoat_connections_closed_total",
                "Connections closed without an answer, by reason: denied, max, max_per_address, shed, admin_max, proxy_protocol, handshake, handshake_timeout, http2_flood, http2_error."
            ),
            &["reason"]
        ));
        let accept_errors = register!(IntCounter::new(
            "hookmoat_accept_errors_total",
            "Failures to take a connection from the system, for want of file descriptors or memory."
        ));
        let streams_reset = register!(IntCounter::new(
            "hookmoat_http2_streams_reset_total",
            "HTTP/2 requests whose stream was reset without an answer: they broke the protocol, or were more at once than `connections.http2_streams` allows."
        ));
        let told = Closed::ALL.iter().map(|_| Told::default()).collect();
        let closed = Closed::ALL.iter().map(|why| closed.with_label_values(&[why.label()])).collect();
        let (told_error, told_reset) = Default::default();
        Ok(Self { open, max, closed, accept_errors, streams_reset, told, told_error, told_reset })
    }

    /// A connection of this address ends.
    pub fn closed(&self, why: Closed, address: IpAddr, detail: &dyn fmt::Display, now: Now) {
        if let Some(counter) = self.closed.get(why as usize) {
            counter.inc();
        }
        // Scanners and health checks break off handshakes all day long.
        if matches!(why, Closed::Handshake | Closed::HandshakeTimeout) {
            return tracing::debug!(target: "hookmoat", reason = why.label(), %address, %detail, "connection closed");
        }
        if let Some(count) = self.told.get(why as usize).and_then(|told| told.count(now)) {
            tracing::warn!(target: "hookmoat", reason = why.label(), %address, %detail, count, "connection closed: {}", why.help());
        }
    }

    /// A request over HTTP/2 was reset with this code (RFC 9113 section 7). Most never come to be requests here.
    pub fn stream_reset(&self, address: IpAddr, code: u32, now: Now) {
        self.streams_reset.inc();
        if let Some(count) = self.told_reset.count(now) {
            tracing::warn!(
                target: "hookmoat", %address, code, count,
                "HTTP/2 requests were reset: malformed (code 1: fields, lengths, trailers), or too many at once (code 7)"
            );
        }
    }

    /// The system gave no connection.
    pub fn accept_failed(&self, error: &std::io::Error, now: Now) {
        self.accept_errors.inc();
        if let Some(count) = self.told_error.count(now) {
            tracing::error!(
                target: "hookmoat", %error, count,
                "cannot take connections; they wait: raise the limit of open files (LimitNOFILE=, ulimit -n), or lower `connections.max`"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_once_in_a_while_with_its_size() {
        let told = Told::default();
        let counts: Vec<Option<u64>> = (0..5).map(|_| told.count(Now::at_unix(1000))).collect();
        assert_eq!(counts, [Some(1), None, None, None, None]);
        assert_eq!(told.count(Now::at_unix(1009)), None);
        assert_eq!(told.count(Now::at_unix(1010)), Some(6));
        assert_eq!(told.count(Now::at_unix(1010)), None);
        // A clock that was set back does not silence it.
        assert_eq!(told.count(Now::at_unix(5)), Some(2));
    }

    #[test]
    fn labels_are_those_of_the_metrics_help() {
        let metrics = ConnectionMetrics::new(&Registry::new()).unwrap();
        assert_eq!(metrics.closed.len(), Closed::ALL.len());
        for (index, why) in Closed::ALL.iter().enumerate() {
            assert_eq!(*why as usize, index);
        }
    }
}
