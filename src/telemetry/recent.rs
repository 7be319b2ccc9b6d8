//! The last requests, for the status page.
//!
//! A ring of fixed size, all of it allocated at start: noting a request copies a few short texts into a slot that nobody
//! else writes to at that moment, which takes about 30 ns. Longer texts are cut. Nothing here is counted; that is what
//! metrics are for.

use super::event::{Ending, RequestEvent};
use crate::pipeline::How;
use crate::reject::Reason;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module.
pub struct Recent {
    slots: Box<[Mutex<Slot>]>,
    /// Requests noted so far.
    count: AtomicU64,
}

/// What became of a request, for whoever only glances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// It went where it belongs.
    #[default]
    Accepted,
    /// Known already, or of a type that nobody wants.
    Dropped,
    /// By a check.
    Refused,
    /// Nothing was wrong with it, but something behind the checks did not work.
    Failed,
}

impl Verdict {
    /// All of them.
    pub const ALL: &'static [Self] = &[Self::Accepted, Self::Dropped, Self::Refused, Self::Failed];

    /// Of a refusal.
    fn of_reason(reason: Reason) -> Self {
        match reason {
            Reason::Duplicate | Reason::DuplicateInFlight | Reason::Replayed => Self::Dropped,
            reason if reason.status() >= 500 => Self::Failed,
            _ => Self::Refused,
        }
    }

    fn of(ending: &Ending) -> Self {
        match ending {
            Ending::Refused { reject, .. } => Self::of_reason(reject.reason),
            Ending::Answered { how: How::Ignored, .. } => Self::Dropped,
            ending if ending.is_delivery() => Self::Accepted,
            Ending::Forwarded { .. } | Ending::Answered { .. } => Self::Failed,
        }
    }

    /// By the value of the `outcome` label, which does not tell what a backend answered.
    pub fn of_outcome(outcome: &str) -> Self {
        if outcome == How::Ignored.label() {
            return Self::Dropped;
        }
        let reason = Reason::ALL.iter().find(|reason| reason.label() == outcome);
        reason.map_or(Self::Accepted, |reason| Self::of_reason(*reason))
    }

    /// As shown.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Dropped => "dropped",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// One request. A `number` of 0 is none.
#[derive(Default)]
struct Slot {
    number: u64,
    arrived: Duration,
    took: Duration,
    verdict: Verdict,
    outcome: &'static str,
    status: u16,
    client: Option<IpAddr>,
    id: Text<16>,
    route: Text<64>,
    event_id: Text<64>,
    event_type: Text<40>,
    detail: Text<120>,
}

/// At most `N` bytes of text, in place.
struct Text<const N: usize> {
    length: u8,
    bytes: [u8; N],
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { length: 0, bytes: [0; N] }
    }
}

impl<const N: usize> Text<N> {
    fn set(&mut self, text: &str) {
        let mut length = text.len().min(N).min(usize::from(u8::MAX));
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        if let (Some(to), Some(from)) = (self.bytes.get_mut(..length), text.as_bytes().get(..length)) {
            to.copy_from_slice(from);
            self.length = u8::try_from(length).unwrap_or(0);
        }
    }

    fn get(&self) -> &str {
        std::str::from_utf8(self.bytes.get(..usize::from(self.length)).unwrap_or_default()).unwrap_or_default()
    }
}

impl Recent {
    /// Room for so many requests; `None` for none.
    pub fn new(size: usize) -> Option<Self> {
        let slots = std::iter::repeat_with(Mutex::default).take(size).collect();
        (size > 0).then_some(Self { slots, count: AtomicU64::new(0) })
    }

    /// Notes a request.
    pub fn note(&self, event: &RequestEvent<'_>) {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(slot) = self.slots.get((number % self.slots.len() as u64) as usize) else { return };
        let mut slot = slot.lock();
        let (outcome, status, detail) = event.ending.told();
        slot.number = number;
        slot.arrived = event.arrived;
        slot.took = event.total;
        slot.verdict = Verdict::of(&event.ending);
        slot.outcome = outcome;
        slot.status = status;
        slot.client = event.trail.client.map(|client| client.ip());
        slot.id.set(event.id);
        slot.route.set(event.trail.route.as_deref().map_or("", |route| &route.name));
        slot.event_id.set(event.trail.event_id.as_deref().unwrap_or_default());
        slot.event_type.set(event.trail.event_type.as_deref().unwrap_or_default());
        slot.detail.set(detail);
    }

    /// Requests that it has room for.
    pub fn size(&self) -> usize {
        self.slots.len()
    }

    /// Those after the one with this number, the newest first, and the newest one's number.
    pub fn after(&self, number: u64) -> (u64, Vec<Value>) {
        let newest = self.count.load(Ordering::Relaxed);
        let oldest = newest.saturating_sub(self.slots.len() as u64).max(number);
        let mut found = Vec::new();
        for wanted in (oldest.saturating_add(1)..=newest).rev() {
            let Some(slot) = self.slots.get((wanted % self.slots.len() as u64) as usize) else { continue };
            let slot = slot.lock();
            // Another one is there by now, or this one is not written yet.
            if slot.number == wanted {
                found.push(slot.to_json());
            }
        }
        (newest, found)
    }
}

impl Slot {
    fn to_json(&self) -> Value {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        json!({
            "number": self.number,
            "arrived": self.arrived.as_millis() as u64,
            "took_ms": (self.took.as_secs_f64() * 1e6).round() / 1e3,
            "verdict": self.verdict.label(),
            "outcome": self.outcome,
            "status": self.status,
            "client": self.client.map(|client| client.to_string()),
            "request_id": self.id.get(),
            "route": given(self.route.get()),
            "event_id": given(self.event_id.get()),
            "event_type": given(self.event_type.get()),
            "detail": given(self.detail.get()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Trail;

    fn noted(recent: &Recent, id: &str, ending: Ending, event_id: &str) {
        let trail = Trail { event_id: Some(event_id.into()), ..Trail::default() };
        let event = RequestEvent {
            id,
            arrived: Duration::from_secs(7),
            trace_id: None,
            recorded: false,
            method: "POST",
            http: "1.1",
            trail: &trail,
            ending,
            bytes: 0,
            body: Duration::ZERO,
            backend: None,
            total: Duration::from_micros(1234),
            at: Duration::ZERO,
        };
        recent.note(&event);
    }

    fn forwarded(status: u16) -> Ending {
        Ending::Forwarded { backend: status, sent: status, complete: true }
    }

    fn refused(reason: Reason) -> Ending {
        Ending::Refused { reject: reason.because("why"), status: reason.status() }
    }

    #[test]
    fn the_newest_come_first_and_the_oldest_give_way() {
        let recent = Recent::new(3).unwrap();
        assert_eq!(recent.after(0), (0, Vec::new()));
        for id in ["a", "b", "c", "d"] {
            noted(&recent, id, forwarded(200), "");
        }
        let ids = |after| {
            let (newest, found) = recent.after(after);
            assert_eq!(newest, 4);
            found.iter().map(|one| one["request_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(ids(0), ["d", "c", "b"]);
        assert_eq!(ids(3), ["d"]);
        assert_eq!(ids(4), [""; 0]);
        // A reader that knew another process.
        assert_eq!(ids(u64::MAX), [""; 0]);
        assert!(Recent::new(0).is_none());
    }

    #[test]
    fn a_request_is_told_as_what_it_was() {
        let recent = Recent::new(10).unwrap();
        for (ending, verdict, outcome) in [
            (forwarded(204), "accepted", "forwarded"),
            (forwarded(500), "failed", "forwarded"),
            (refused(Reason::Duplicate), "dropped", "duplicate"),
            (refused(Reason::SignatureMismatch), "refused", "signature_mismatch"),
            (refused(Reason::BackendTimeout), "failed", "backend_timeout"),
            (refused(Reason::RateLimited), "refused", "rate_limited"),
        ] {
            noted(&recent, "a", ending, "");
            let (_, found) = recent.after(0);
            assert_eq!((&found[0]["verdict"], &found[0]["outcome"]), (&json!(verdict), &json!(outcome)));
        }
        let (_, found) = recent.after(5);
        assert_eq!((&found[0]["detail"], &found[0]["took_ms"]), (&json!("why"), &json!(1.234)));
        assert_eq!(found[0]["arrived"], json!(7000));
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_leave_nothing_behind() {
        let recent = Recent::new(1).unwrap();
        noted(&recent, "a", forwarded(200), &"é".repeat(100));
        assert_eq!(recent.after(0).1[0]["event_id"], json!("é".repeat(32)));
        noted(&recent, "a", forwarded(200), &format!("x{}", "é".repeat(100)));
        assert_eq!(recent.after(0).1[0]["event_id"], json!(format!("x{}", "é".repeat(31))));
        noted(&recent, "a", forwarded(200), "short");
        assert_eq!(recent.after(0).1[0]["event_id"], json!("short"));
    }
}
