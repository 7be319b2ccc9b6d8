//! A machine that misbehaves, for one process: `ill.c` between it and the C library.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// What is wrong with the machine. Well at first.
pub struct Ill {
    folder: tempfile::TempDir,
}

impl Ill {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    /// What the process has to be started with.
    pub fn env(&self) -> [(&'static str, &str); 2] {
        [("LD_PRELOAD", library()), ("TEST_ILL", self.folder.path().to_str().expect("text"))]
    }

    /// The wall clock stands so many seconds ahead of the true time, or behind.
    pub fn clock(&self, seconds: i64) {
        // Exchanged as a whole: a clock is read at any moment.
        let new = self.path("new");
        std::fs::write(&new, seconds.to_string()).expect("a file");
        std::fs::rename(new, self.path("clock")).expect("a file");
    }

    /// From now on nothing can be made durable, or it can again.
    pub fn sync_fails(&self, fails: bool) {
        let path = self.path("sync");
        if fails { std::fs::write(path, "").expect("a file") } else { std::fs::remove_file(path).expect("a file") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Built once for all tests, by the compiler that also links Rust programs.
fn library() -> &'static str {
    static LIBRARY: OnceLock<String> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/ill.c");
        // Several test processes may build it side by side.
        let target = format!("{}/ill.{}.so", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let run =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", &target, source]).output();
        let run = run.expect("cc runs");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        target
    })
}
