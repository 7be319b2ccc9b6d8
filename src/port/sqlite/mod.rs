//! One SQLite file for what has to survive this process: seen IDs, queued events.
//!
//! [`db`] opens and guards the file and commits for everybody at once; who keeps something in it brings tables
//! ([`db::Schema`]) and closures.

pub mod db;
pub mod queue;
pub mod seen;
mod spare;

use crate::port::seen::Token;
use crate::request::Now;
use rusqlite::Connection;

/// A memory of seen IDs in the file of a queue: the queue makes the claim of an event final in the transaction that
/// stores it, so that no crash can come between the two.
pub trait Finish: Send + Sync + 'static {
    /// Within the writer's transaction: remembers all keys as done. False: the token's lease had ended and somebody else
    /// has them; then nothing was changed.
    fn finish(&self, connection: &Connection, token: &Token, now: Now) -> rusqlite::Result<bool>;

    /// That transaction was committed: lets go of what this process holds of the claim beside the file, and wakes those
    /// who wait for it.
    fn finished(&self, token: Token);
}
