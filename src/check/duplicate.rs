//! Which events count as the same?

use crate::check::source::Source;
use std::time::Duration;

/// What a route remembers of its events.
#[derive(Debug)]
pub struct Duplicates {
    /// Where the event's ID stands; the first that is there counts.
    pub id: EventId,
    /// What happens when none is there.
    pub missing: MissingId,
    /// How long a delivered event is remembered.
    pub remember: Duration,
    /// How long a claim holds without being settled.
    pub lease: Duration,
    /// Remember what was signed as well, where the signature does not cover the ID.
    pub replay_guard: bool,
}

/// Where an event's ID stands.
#[derive(Debug)]
pub enum EventId {
    /// The first of these that is there.
    Sources(Vec<Source>),
    /// SHA-256 of the body.
    BodyDigest,
}

/// What happens to an event without an ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingId {
    /// Refused with `event_id_invalid`.
    Reject,
    /// Passes and is not remembered under an ID (the replay guard still holds).
    Skip,
}
