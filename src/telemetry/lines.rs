//! Lines on their way to standard error: gathered, and written many at once, since a system call for each would be a
//! good part of what a request costs.
//!
//! A line of a request waits 50 ms at most, until enough of them are there, or until a line of another kind comes: those
//! are written at once, with all that stands before them. What ends the process in order writes the rest.

use parking_lot::{Condvar, Mutex};
use std::io::{self, Write as _};
use std::time::Duration;

/// Bytes after which whoever adds a line writes all of them.
const ENOUGH: usize = 32 * 1024;
/// How long a line may wait.
const LONGEST: Duration = Duration::from_millis(50);

/// What waits. Held for as long as it takes to copy a line.
static WAITING: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Held while lines are written, so that they keep their order; empty in between.
static WRITTEN: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// Rung by the first line.
static BELL: Condvar = Condvar::new();

/// Starts the thread that writes what has waited long enough. False: there is none, and lines must not wait.
pub(super) fn start() -> bool {
    let writer = || loop {
        let mut waiting = WAITING.lock();
        while waiting.is_empty() {
            BELL.wait(&mut waiting);
        }
        drop(waiting);
        std::thread::sleep(LONGEST);
        flush();
    };
    std::thread::Builder::new().name("log".into()).spawn(writer).is_ok()
}

/// Adds a line that may wait.
pub(super) fn add(line: &[u8]) {
    let mut waiting = WAITING.lock();
    if waiting.is_empty() {
        BELL.notify_one();
    }
    waiting.extend_from_slice(line);
    let enough = waiting.len() >= ENOUGH;
    drop(waiting);
    if enough {
        flush();
    }
}

/// Writes everything that waits.
pub(super) fn flush() {
    let mut written = WRITTEN.lock();
    std::mem::swap(&mut *written, &mut *WAITING.lock());
    // Nobody is left to be told.
    let _ = io::stderr().write_all(&written);
    written.clear();
}

/// Writes a line at once, behind those that wait.
pub(super) struct AtOnce;

impl io::Write for AtOnce {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WAITING.lock().extend_from_slice(line);
        flush();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
