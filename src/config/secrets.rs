//! Secrets come from the environment and from files. A literal is possible for local play and has to say so.
//!
//! Exactly one line end (`\n` or `\r\n`) at the end of a file is not part of the secret, since editors and `echo` add
//! one. Nothing else is trimmed: white space inside a secret is the secret.
//!
//! A secret that is not there, or empty, is no mistake in the file: the route starts, answers 503 and keeps the process
//! unready until the secret arrives (promise 5). A secret that cannot be meant is a problem, and is told by its origin,
//! never by its value.

use super::load::is_env_name;
use crate::request::Now;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// A secret is shorter than this.
const MAX_SECRET: usize = 64 << 10;

/// What the configuration may see of the machine.
pub(super) trait World {
    /// An environment variable.
    fn env(&self, name: &str) -> Option<OsString>;
    /// A path of the configuration: relative ones start at the configuration file's directory.
    fn resolve(&self, path: &str) -> PathBuf;
    /// The same for a file that the process writes itself, so that nobody watches it for changes.
    fn output(&self, path: &str) -> PathBuf;
    /// At most `limit` bytes; an error for a longer file.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// Is there such a file, or a link to one?
    fn is_file(&self, path: &Path) -> bool;
    /// What is said of a path where there is none.
    fn no_file(&self, path: &Path) -> String {
        format!("no such file ({})", path.display())
    }
    /// May every user of the machine read it?
    fn is_readable_by_all(&self, path: &Path) -> bool;
    /// Does somebody look at a terminal?
    fn is_interactive(&self) -> bool;
    /// Seconds since 1970.
    fn unix(&self) -> i64 {
        Now::read().unix_seconds()
    }
    /// Are diagnoses wanted of every route, whether it asks for them or not?
    fn diagnoses(&self) -> bool {
        false
    }
}

/// Where a value is looked for. Exactly one must be set.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    pub(super) env: Option<&'a str>,
    pub(super) file: Option<&'a str>,
    pub(super) literal: Option<&'a str>,
}

/// What was found.
pub(super) enum Found {
    /// The bytes, where they are from, and what deserves a warning: the key of the source, what, the remedy.
    Bytes(Vec<u8>, String, Vec<(&'static str, String, &'static str)>),
    /// Nothing usable; says what is missing.
    Missing(String),
}

/// A source that cannot be meant: the key it stands under, what is wrong, the remedy.
pub(super) type Wrong = (&'static str, String, String);

impl Origin<'_> {
    /// Looks the value up.
    pub(super) fn find(self, world: &dyn World) -> Result<Found, Wrong> {
        let (key, bytes, origin, warnings) = match (self.env, self.file, self.literal) {
            (Some(name), None, None) => {
                if !is_env_name(name) {
                    let help = "write only the variable's name, for instance {env: GITHUB_SECRET}; the value does not belong in this file";
                    return Err(("env", "not the name of an environment variable".into(), help.into()));
                }
                let origin = format!("env {name}");
                let Some(value) = world.env(name) else {
                    return Ok(Found::Missing(format!("environment variable {name} is not set")));
                };
                ("env", value.into_encoded_bytes(), origin, Vec::new())
            }
            (None, Some(file), None) => {
                let path = world.resolve(file);
                let origin = format!("file {}", path.display());
                let mut bytes = match world.read(&path, MAX_SECRET) {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                        let help = "is this the right file? it holds the secret and nothing else".to_owned();
                        return Err(("file", format!("larger than {MAX_SECRET} bytes"), help));
                    }
                    // Waiting makes no file of it.
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        let help =
                            "name a file, or a link to one; where a program makes the secret, let it write a file";
                        return Err(("file", error.to_string(), help.to_owned()));
                    }
                    Err(error) => return Ok(Found::Missing(format!("{origin} cannot be read ({})", plain(&error)))),
                };
                if bytes.last() == Some(&b'\n') {
                    bytes.pop();
                    if bytes.last() == Some(&b'\r') {
                        bytes.pop();
                    }
                }
                let mut warnings = Vec::new();
                if world.is_readable_by_all(&path) {
                    let what = "every user of this machine may read the file".to_owned();
                    warnings.push(("file", what, "chmod 600, or `defaultMode: 0400` for a Kubernetes secret"));
                }
                ("file", bytes, origin, warnings)
            }
            (None, None, Some(text)) => {
                let what = "a secret stands in the configuration itself".to_owned();
                let warnings = vec![("insecure_literal", what, "only for local play: use env or file elsewhere")];
                ("insecure_literal", text.as_bytes().to_vec(), "insecure_literal".to_owned(), warnings)
            }
            (None, None, None) => {
                return Err(("", "says not where the value is".into(), "write {env: NAME} or {file: PATH}".into()));
            }
            _ => return Err(("", "says twice where the value is".into(), "keep one of env and file".into())),
        };
        if bytes.trim_ascii().is_empty() {
            return Ok(Found::Missing(format!("{origin} is empty")));
        }
        if is_placeholder(&bytes) {
            let help = "whatever should have replaced the placeholder did not run; set the value itself";
            return Err((key, format!("{origin} holds a placeholder instead of a value"), help.into()));
        }
        Ok(Found::Bytes(bytes, origin, warnings))
    }
}

/// An error of the file system without its number.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        io::ErrorKind::IsADirectory => "a directory".into(),
        io::ErrorKind::FileTooLarge => "too large".into(),
        _ => error.to_string(),
    }
}

/// `${NAME}`, `$(NAME)`, `{{ name }}`, `<name>`: what a template leaves behind when nothing filled it in.
fn is_placeholder(bytes: &[u8]) -> bool {
    let text = bytes.trim_ascii();
    [(&b"${"[..], &b"}"[..]), (b"$(", b")"), (b"{{", b"}}"), (b"<", b">")]
        .iter()
        .any(|(begin, end)| text.starts_with(begin) && text.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    struct Fake(HashMap<&'static str, &'static [u8]>);

    impl World for Fake {
        fn env(&self, name: &str) -> Option<OsString> {
            self.0.get(name).map(|value| String::from_utf8_lossy(value).into_owned().into())
        }
        fn resolve(&self, path: &str) -> PathBuf {
            path.into()
        }
        fn output(&self, path: &str) -> PathBuf {
            path.into()
        }
        fn read(&self, path: &Path, _: usize) -> io::Result<Vec<u8>> {
            let name = path.to_str().unwrap();
            self.0.get(name).map(|bytes| bytes.to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        }
        fn is_file(&self, _: &Path) -> bool {
            true
        }
        fn is_readable_by_all(&self, path: &Path) -> bool {
            path.ends_with("open")
        }
        fn is_interactive(&self) -> bool {
            false
        }
    }

    fn env(name: &str) -> Origin<'_> {
        Origin { env: Some(name), file: None, literal: None }
    }

    fn file(name: &str) -> Origin<'_> {
        Origin { env: None, file: Some(name), literal: None }
    }

    #[test]
    fn one_line_end_of_a_file_is_not_part_of_the_secret() {
        for (content, secret) in [
            (&b"s"[..], &b"s"[..]),
            (b"s\n", b"s"),
            (b"s\r\n", b"s"),
            (b"s\n\n", b"s\n"),
            (b"s\r", b"s\r"),
            (b" s ", b" s "),
            (b"\xff\x00\n", b"\xff\x00"),
        ] {
            let world = Fake(HashMap::from([("f", content)]));
            let Ok(Found::Bytes(bytes, origin, _)) = file("f").find(&world) else { panic!("{content:?}") };
            assert_eq!((bytes.as_slice(), origin.as_str()), (secret, "file f"));
        }
    }

    #[test]
    fn the_environment_is_taken_as_it_is() {
        let world = Fake(HashMap::from([("X", &b"s\n"[..])]));
        let Ok(Found::Bytes(bytes, ..)) = env("X").find(&world) else { panic!() };
        assert_eq!(bytes, b"s\n");
    }

    #[test]
    fn an_empty_secret_counts_as_missing() {
        let world = Fake(HashMap::from([("E", &b""[..]), ("W", b" \t\n"), ("f", b"\n")]));
        for origin in [env("E"), env("W"), env("UNSET"), file("f"), file("unset")] {
            assert!(matches!(origin.find(&world), Ok(Found::Missing(_))));
        }
    }

    #[test]
    fn a_placeholder_is_told_by_its_origin_and_never_by_its_value() {
        let world =
            Fake(HashMap::from([("P", &b"${GITHUB_SECRET}"[..]), ("Q", b"{{ s3 }}\n"), ("f", b"<paste here>\n")]));
        for origin in [env("P"), env("Q"), file("f")] {
            let Err((_, what, help)) = origin.find(&world) else { panic!() };
            assert!(what.contains("placeholder"), "{what}");
            assert!(!format!("{what}{help}").contains("s3") && !what.contains("GITHUB") && !what.contains("paste"));
        }
        for name in ["$GITHUB_SECRET", "${GITHUB_SECRET}", "", "a b", "whsec_x/y="] {
            assert!(matches!(env(name).find(&world), Err(("env", ..))), "{name}");
        }
    }

    #[test]
    fn a_file_that_everybody_may_read_is_warned_of() {
        let world = Fake(HashMap::from([("open", &b"s"[..]), ("closed", b"s")]));
        for (name, expected) in [("open", 1), ("closed", 0)] {
            let Ok(Found::Bytes(_, _, warnings)) = file(name).find(&world) else { panic!() };
            assert_eq!(warnings.len(), expected, "{name}");
        }
    }
}
