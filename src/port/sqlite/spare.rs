//! Room that is kept for taking events and settling them, which are writes, too: without it a disk that is full to the
//! last byte would hold events for ever that only have to be delivered.
//!
//! A file of some megabytes beside the database. When the disk is full it goes, nothing new is taken in, and it is made
//! again once there is room.

use super::db::free_bytes;
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// As much as the log holds between two of SQLite's checkpoints, twice.
const BYTES: u64 = 8 << 20;
/// A disk that has no more than this is not made smaller.
const LEAST_FREE: u64 = 4 * BYTES;
/// Made again with this much.
const FREE_AGAIN: u64 = 2 * BYTES;

/// See the module.
pub(super) struct Spare {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There.
    Kept,
    /// Given up; something new is taken in again when it is back.
    Spent,
    /// The disk is too small for it, or cannot do it.
    Never,
}

impl Spare {
    /// Makes it beside the database, where there is room.
    pub(super) fn beside(database: &Path) -> Self {
        let mut path = database.as_os_str().to_owned();
        path.push(".spare");
        let spare = Self { path: path.into(), state: Mutex::new(State::Never) };
        // One of an earlier process may have been spent.
        let is_kept = std::fs::metadata(&spare.path).is_ok_and(|file| file.len() >= BYTES) || spare.make(LEAST_FREE);
        *spare.state.lock() = if is_kept { State::Kept } else { State::Never };
        spare
    }

    fn make(&self, least: u64) -> bool {
        if free_bytes(&self.path).is_none_or(|free| free <= least) {
            return false;
        }
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path);
        let made = file.is_ok_and(|file| fallocate(&file, FallocateFlags::empty(), 0, BYTES).is_ok());
        if !made {
            let _ = std::fs::remove_file(&self.path);
        }
        made
    }

    /// The disk is full: gives the room up. False: there was none.
    pub(super) fn spend(&self) -> bool {
        let mut state = self.state.lock();
        let spent = *state == State::Kept && std::fs::remove_file(&self.path).is_ok();
        if spent {
            *state = State::Spent;
        }
        spent
    }

    /// Is what was kept for delivering gone, and not to be had again?
    pub(super) fn is_spent(&self) -> bool {
        let mut state = self.state.lock();
        if *state == State::Spent && self.make(FREE_AGAIN) {
            *state = State::Kept;
        }
        *state == State::Spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_spent_once_and_made_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("queue.db");
        let spare = Spare::beside(&database);
        let file = folder.path().join("queue.db.spare");
        assert_eq!(std::fs::metadata(&file).expect("it is there").len(), BYTES);
        assert!(!spare.is_spent());
        assert!(spare.spend() && !spare.spend());
        assert!(!file.exists());
        // This disk has room.
        assert!(!spare.is_spent() && file.exists());
        // Another process finds it.
        assert!(Spare::beside(&database).spend());
    }
}
