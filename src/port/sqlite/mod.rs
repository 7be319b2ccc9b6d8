//! One SQLite file for what has to survive this process: seen IDs, queued events.
//!
//! [`db`] opens and guards the file and commits for everybody at once; who keeps something in it brings tables
//! ([`db::Schema`]) and closures.

pub mod db;
