//! The last good copies, on disk, for a start without the network.
//!
//! A file holds a line of JSON (the URL, when it was fetched, the ETag) and behind it the text as it came. What is read
//! back goes through the same judgement as what comes over the network: a copy is no better than its source. Who can
//! write the folder can choose keys and networks, so it belongs to Hookmoat alone.

use super::target::Target;
use crate::check::signature::fetched::Name;
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A copy.
pub(super) struct Copy {
    pub(super) text: Vec<u8>,
    pub(super) etag: Option<HeaderValue>,
    /// Seconds since 1970.
    pub(super) fetched: i64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    url: String,
    /// The name of a key that was asked for by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<Box<str>>,
    fetched: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    etag: Option<String>,
}

/// The file of a URL, or of the key of a name at it: called so that it can be told apart by people, and by nothing that a
/// message says.
fn file(folder: &Path, kind: &str, name: &str, what: &Name) -> PathBuf {
    let mut digest = Sha256::new_with_prefix(what.url.to_string());
    if let Some(id) = &what.id {
        digest.update(format!("\n{id}"));
    }
    let digest = digest.finalize();
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "_");
    folder.join(format!("{kind}-{}-{}", name.get(..64).unwrap_or(&name), hex::encode(&digest[..6])))
}

/// The copy of a URL, if there is one that is whole.
pub(super) fn load(folder: &Path, kind: &str, name: &str, target: &Target, limit: usize) -> io::Result<Option<Copy>> {
    let what = Name { url: target.clone(), id: None };
    match read(&file(folder, kind, name, &what), limit) {
        Ok((found, copy)) if found == what => Ok(Some(copy)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a copy of another URL")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The copies of all single things of one source, whole ones only.
pub(super) fn load_all(folder: &Path, kind: &str, name: &str, limit: usize) -> Vec<(Name, Copy)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten().take(MAX_FILES) {
        match read(&entry.path(), limit) {
            Ok((what, copy)) if file(folder, kind, name, &what) == entry.path() => found.push((what, copy)),
            _ => {}
        }
    }
    found
}

/// Files of the folder that are looked at.
const MAX_FILES: usize = 1000;

fn read(path: &Path, limit: usize) -> io::Result<(Name, Copy)> {
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    let most = limit as u64 + 4096;
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or(io::ErrorKind::InvalidData)?;
    let head: Head = serde_json::from_slice(&bytes[..end])?;
    let etag = head.etag.and_then(|etag| HeaderValue::from_str(&etag).ok());
    let url = Target::parse(&head.url).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((Name { url, id: head.id }, Copy { text: bytes.split_off(end + 1), etag, fetched: head.fetched }))
}

/// Keeps a copy, whole or not at all.
pub(super) fn save(folder: &Path, kind: &str, name: &str, what: &Name, copy: &Copy) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let path = file(folder, kind, name, what);
    let etag = copy.etag.as_ref().and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let head = Head { url: what.url.to_string(), id: what.id.clone(), fetched: copy.fetched, etag };
    let unfinished = path.with_extension("new");
    let mut file = private(&unfinished)?;
    serde_json::to_writer(&mut file, &head)?;
    file.write_all(b"\n")?;
    file.write_all(&copy.text)?;
    file.sync_all()?;
    fs::rename(&unfinished, &path)
}

#[cfg(unix)]
fn private(path: &Path) -> io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

#[cfg(not(unix))]
fn private(path: &Path) -> io::Result<fs::File> {
    fs::File::create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_comes_back_as_it_was_kept() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::parse("https://example.com/ranges?x=1").unwrap();
        let at = |target: &Target| Name { url: target.clone(), id: None };
        let get = || load(folder.path(), "ranges", "x", &target, 100);
        assert!(get().unwrap().is_none());
        let etag = Some(HeaderValue::from_static("\"a\\\"b\""));
        for text in [&b"one\ntwo"[..], b"", b"three"] {
            save(
                folder.path(),
                "ranges",
                "x",
                &at(&target),
                &Copy { text: text.into(), etag: etag.clone(), fetched: 7 },
            )
            .unwrap();
            let copy = get().unwrap().unwrap();
            assert_eq!((copy.text.as_slice(), copy.etag.clone(), copy.fetched), (text, etag.clone(), 7));
        }
        let other = Target::parse("https://example.com/other").unwrap();
        fs::copy(file(folder.path(), "ranges", "x", &at(&target)), file(folder.path(), "ranges", "x", &at(&other)))
            .unwrap();
        assert!(load(folder.path(), "ranges", "x", &other, 100).is_err());
        fs::write(file(folder.path(), "ranges", "x", &at(&target)), b"{\"url\":").unwrap();
        assert!(get().is_err());
    }
}
