//! From YAML to [`Policy`]: text → raw types ([`raw`]) → compiled policy, with every problem at once.
//!
//! ```text
//! load.rs     the text as data, where everything stands, and raw types made of all that can be read
//! raw.rs      what people write; its comments are the reference
//! compile.rs  what may stand together; the only place that makes a `Policy`
//! fetched.rs  what comes over the network
//! secrets.rs  where secrets come from
//! diff.rs     what a new text changes, and which checks become weaker
//! queues.rs   where events wait, brokers.rs for many machines
//! state.rs    where event IDs are kept
//! schema.rs   the JSON Schema and the reference, from the same types
//! ```
//!
//! A configuration with problems makes no policy at all (promise 6). Warnings are in [`Policy::warnings`].

mod admin;
mod backend_tls;
pub mod brokers;
mod compile;
mod connections;
mod destinations;
pub mod diff;
mod duplicates;
mod exchanges;
mod fetched;
pub mod handshake;
mod listeners;
mod load;
mod observed;
mod place;
mod problem;
pub mod queues;
mod rate_limits;
pub mod raw;
mod routes;
mod schema;
pub mod scheme;
mod secrets;
mod signatures;
pub mod state;
pub mod units;
mod upstreams;

pub(crate) use problem::nearest;
pub use problem::{Problem, Problems};
pub use schema::{reference_in, reference_markdown, schema, schema_text};

use crate::policy::Policy;
use secrets::World;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};

/// A configuration that was read from a file.
#[derive(Debug)]
pub struct Loaded {
    /// What we run on.
    pub policy: Policy,
    /// Every file that it refers to (secrets, networks, certificates), for whoever watches for changes.
    pub files: Vec<PathBuf>,
    /// Where it was read from.
    pub path: PathBuf,
    /// As it was written, for comparisons.
    pub text: String,
}

/// Reads a configuration file, the environment, and the files that it names.
pub fn load(path: &Path) -> Result<Loaded, Problems> {
    load_file(path, false)
}

/// The same for the command line's diagnoses: every route keeps what they need.
pub fn load_for_diagnoses(path: &Path) -> Result<Loaded, Problems> {
    load_file(path, true)
}

fn load_file(path: &Path, diagnoses: bool) -> Result<Loaded, Problems> {
    let name = path.display().to_string();
    // A pipe is fine here: `--config <(…)`.
    let text = fs::read(path).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "make it readable for the user that hookmoat runs as, or name another file with `--config PATH`"
            }
            io::ErrorKind::IsADirectory => "name a file in it with `--config PATH`",
            _ => "name an existing file with `--config PATH`",
        };
        Problems::new(&name, vec![Problem::new("", format!("cannot be read ({})", secrets::plain(&error)), help)])
    })?;
    let text = String::from_utf8(text).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        let problem = Problem::new("", "not text in UTF-8", "save the file as UTF-8");
        Problems::new(&name, vec![problem.at(Some(place::Position { line, column: 1 }))])
    })?;
    // Some editors put a byte order mark first, which a YAML parser takes for a document of its own.
    let text = text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text);
    let base = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let env = |name: &str| std::env::var_os(name);
    let machine = Machine { base, env: &env, files: RefCell::default(), diagnoses };
    let policy = policy(&name, &text, &machine)?;
    Ok(Loaded { policy, files: machine.files.into_inner().into_iter().collect(), path: path.to_owned(), text })
}

/// Compiles a text. Relative paths start at `base`; variables come from `env`.
pub fn parse(text: &str, base: &Path, env: &dyn Fn(&str) -> Option<OsString>) -> Result<Policy, Problems> {
    policy("configuration", text, &Machine { base, env, files: RefCell::default(), diagnoses: false })
}

fn policy(name: &str, text: &str, world: &dyn World) -> Result<Policy, Problems> {
    let (mut document, config) = load::read(text);
    let policy = config.and_then(|config| compile::compile(&config, &mut document, version(text), world));
    policy.ok_or_else(|| Problems::new(name, document.problems))
}

/// Enough of a digest to tell two versions apart.
fn version(text: &str) -> String {
    hex::encode(&Sha256::digest(text)[..6])
}

/// What is said of pipes, devices and sockets.
const NO_REGULAR_FILE: &str = "not a regular file, but a pipe, device or socket";

/// The machine that this runs on.
struct Machine<'a> {
    base: &'a Path,
    env: &'a dyn Fn(&str) -> Option<OsString>,
    files: RefCell<BTreeSet<PathBuf>>,
    diagnoses: bool,
}

impl World for Machine<'_> {
    fn env(&self, name: &str) -> Option<OsString> {
        (self.env)(name)
    }

    fn resolve(&self, path: &str) -> PathBuf {
        let path = self.base.join(path);
        self.files.borrow_mut().insert(path.clone());
        path
    }

    fn output(&self, path: &str) -> PathBuf {
        self.base.join(path)
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        // Before it is opened: a pipe would wait for somebody who writes, and a device may do anything.
        let found = fs::metadata(path)?;
        if found.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, NO_REGULAR_FILE));
        }
        // The limit holds for what is read, not for what a size says: files of /proc say 0.
        let mut bytes = Vec::new();
        File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > limit { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
    }

    fn is_file(&self, path: &Path) -> bool {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
    }

    fn no_file(&self, path: &Path) -> String {
        let what = match fs::metadata(path) {
            Ok(found) if found.is_dir() => "a directory",
            Ok(_) => NO_REGULAR_FILE,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => "no permission to look at it",
            Err(_) => "no such file",
        };
        format!("{what} ({})", path.display())
    }

    #[cfg(unix)]
    fn is_readable_by_all(&self, path: &Path) -> bool {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }

    #[cfg(not(unix))]
    fn is_readable_by_all(&self, _: &Path) -> bool {
        false
    }

    fn is_interactive(&self) -> bool {
        io::stdout().is_terminal()
    }

    fn diagnoses(&self) -> bool {
        self.diagnoses
    }
}

#[cfg(test)]
mod tests;
