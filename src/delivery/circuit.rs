//! Is a backend up? One that is down is probed with one event at a time instead of hammered with all of them.

use std::time::{Duration, Instant};

/// Failures in a row after which a backend counts as down.
const FAILURES: u32 = 5;
/// First pause; it doubles with each probe that fails.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two probes.
const LONGEST: Duration = Duration::from_secs(30);
/// A probe that nobody told the end of blocks the next one no longer than this.
const FORGOTTEN: Duration = Duration::from_secs(120);

/// What is known of one backend.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    failures: u32,
    /// Down: nothing before this moment.
    closed_until: Option<Instant>,
    pause: Duration,
    /// A probe that is on its way, until it is forgotten.
    probe: Option<Instant>,
}

/// May an attempt be made now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// The backend is up, as far as is known.
    Go,
    /// It is down: this one attempt is to find out.
    Probe,
    /// Not now; ask again after this time.
    Wait(Duration),
}

impl Circuit {
    /// Asks for leave; a `Probe` is given to one at a time and has to be ended by any of the methods below.
    pub(crate) fn ask(&mut self, now: Instant) -> Leave {
        let leave = self.look(now);
        if leave == Leave::Probe {
            self.probe = Some(now + FORGOTTEN);
        }
        leave
    }

    /// The same answer, for somebody who will ask later.
    pub(crate) fn look(&self, now: Instant) -> Leave {
        let Some(until) = self.closed_until else { return Leave::Go };
        if now < until {
            return Leave::Wait(until - now);
        }
        match self.probe {
            Some(forgotten) if now < forgotten => Leave::Wait(PAUSE),
            _ => Leave::Probe,
        }
    }

    /// The backend answered, whatever it said.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    /// It did not answer, or only to say that it cannot work (5xx). `chance` is from 0 to 1.
    pub(crate) fn failed(&mut self, now: Instant, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        let was_down = self.closed_until.is_some();
        // Those that were on their way when it went down tell nothing new.
        if self.failures < FAILURES || (was_down && self.probe.is_none()) {
            return;
        }
        self.probe = None;
        self.pause = if was_down { (self.pause * 2).min(LONGEST) } else { PAUSE };
        // Several replicas must not probe in step.
        self.closed_until = Some(now + self.pause.mul_f64(0.75 + 0.25 * chance.clamp(0.0, 1.0)));
    }

    /// It asked for a pause itself (Retry-After).
    pub(crate) fn pause(&mut self, now: Instant, time: Duration) {
        let until = now + time.min(LONGEST);
        self.closed_until = Some(self.closed_until.map_or(until, |known| known.max(until)));
        self.pause = self.pause.max(PAUSE);
        self.probe = None;
    }

    /// Is it down?
    pub(crate) fn is_down(&self) -> bool {
        self.closed_until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Now;

    #[test]
    fn a_backend_that_is_down_gets_one_probe_at_a_time_and_longer_pauses() {
        let mut circuit = Circuit::default();
        let mut now = Now::at_unix(0).instant;
        for _ in 0..FAILURES {
            assert_eq!(circuit.ask(now), Leave::Go);
            circuit.failed(now, 1.0);
        }
        for pause in [1, 2, 4, 8, 16, 30, 30] {
            assert_eq!(circuit.ask(now), Leave::Wait(Duration::from_secs(pause)));
            // A straggler changes nothing.
            circuit.failed(now, 1.0);
            assert_eq!(circuit.ask(now), Leave::Wait(Duration::from_secs(pause)));
            now += Duration::from_secs(pause);
            assert_eq!(circuit.look(now), Leave::Probe);
            assert_eq!(circuit.ask(now), Leave::Probe);
            assert_eq!(circuit.ask(now), Leave::Wait(PAUSE));
            circuit.failed(now, 1.0);
        }
        assert!(circuit.is_down());
        now += LONGEST;
        assert_eq!(circuit.ask(now), Leave::Probe);
        circuit.answered();
        assert_eq!(circuit.ask(now), Leave::Go);
        assert!(!circuit.is_down());
    }

    #[test]
    fn a_probe_that_vanishes_is_forgotten() {
        let mut circuit = Circuit::default();
        let mut now = Now::at_unix(0).instant;
        (0..FAILURES).for_each(|_| circuit.failed(now, 0.0));
        now += PAUSE;
        assert_eq!(circuit.ask(now), Leave::Probe);
        now += FORGOTTEN;
        assert_eq!(circuit.ask(now), Leave::Probe);
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_and_ends() {
        let mut circuit = Circuit::default();
        let now = Now::at_unix(0).instant;
        circuit.pause(now, Duration::from_secs(7));
        assert_eq!(circuit.ask(now), Leave::Wait(Duration::from_secs(7)));
        assert_eq!(circuit.ask(now + Duration::from_secs(7)), Leave::Probe);
        circuit.pause(now, Duration::from_secs(7000));
        assert_eq!(circuit.ask(now), Leave::Wait(LONGEST));
    }
}
