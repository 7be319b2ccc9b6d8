//! A new configuration in the place of the old one, while requests go on.
//!
//! Looked for on SIGHUP and whenever one of the files that the configuration is made of changes: itself, secrets,
//! network lists, certificates. Folders are watched and not files, so that editors that rename and Kubernetes' exchanged
//! `..data` links are seen. Nothing is done when all files say what they said before.
//!
//! The new one is validated whole, backends included. With any problem the old one stays, a log line says every problem
//! and a counter moves (promise 6). Otherwise it is exchanged in one step: requests that have begun end under the policy
//! that they began with. Seen IDs, buckets, connections to backends that did not change, and everything in flight are
//! not touched.
//!
//! Certificates are judged by themselves: a good one is taken even when the configuration is broken, a broken,
//! mismatched or expired one is not, even when it is in order.

use super::Shared;
use super::live::Live;
use super::tls::Certificate;
use crate::config::diff::{Effect, diff};
use crate::config::{self, Loaded, Problem};
use crate::policy::{Authentication, Policy};
use crate::request::Now;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecursiveMode, Watcher};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long files have to be left alone before they are read: several may belong together.
const QUIET: Duration = Duration::from_millis(150);
/// The longest that a folder that is never left alone is waited for.
const RESTLESS: Duration = Duration::from_secs(2);
/// Between two looks whether the folders are still the same.
const FOLLOWED: Duration = Duration::from_secs(5);
/// Between two lines about the same certificate.
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a file that are looked at to tell whether it changed.
const LOOKED_AT: u64 = 16 << 20;

/// What the process was started from, to be read again.
pub(super) struct Reloader {
    shared: Arc<Shared>,
    certificates: Vec<(SocketAddr, Arc<Certificate>)>,
    source: Mutex<Source>,
}

struct Source {
    path: PathBuf,
    text: String,
    files: Vec<PathBuf>,
    fingerprint: [u8; 32],
}

impl Source {
    fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.path, &self.files)
    }
}

impl Reloader {
    /// For a configuration that is in force already.
    pub(super) fn new(
        shared: Arc<Shared>,
        certificates: Vec<(SocketAddr, Arc<Certificate>)>,
        path: PathBuf,
        text: String,
        files: Vec<PathBuf>,
    ) -> Self {
        let fingerprint = fingerprint(&path, &files);
        Self { shared, certificates, source: Mutex::new(Source { path, text, files, fingerprint }) }
    }

    /// Reloads when there is something new, for as long as the process lives.
    pub(super) async fn run(self: Arc<Self>) {
        let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
        let changed = Arc::new(Notify::new());
        let mut watch = Watch::default();
        let mut blind = false;
        let mut doubts = BTreeMap::new();
        loop {
            self.tell_doubts(&mut doubts);
            match watch.follow(&self.source.lock(), &changed) {
                // What changed before the watch began is found by looking.
                Ok(true) => changed.notify_one(),
                Ok(false) => {}
                Err(_) if blind => {}
                Err(error) => {
                    blind = true;
                    tracing::warn!(target: "hookmoat", %error, "files are not watched; SIGHUP reloads");
                }
            }
            let asked = tokio::select! {
                _ = hangup.recv() => true,
                () = changed.notified() => false,
                // Another folder may stand in the place of the one that is watched, and nobody tells of that.
                () = tokio::time::sleep(FOLLOWED) => continue,
            };
            if !asked {
                settle(&changed).await;
            }
            let me = self.clone();
            // Reads files, and may resolve names.
            let _ = tokio::task::spawn_blocking(move || me.look(asked)).await;
        }
    }

    /// Reads everything again. Without being asked, only when a file says something else than before.
    fn look(&self, asked: bool) {
        let now = Now::read();
        let mut source = self.source.lock();
        let fingerprint = source.fingerprint();
        if fingerprint == source.fingerprint && !asked {
            return;
        }
        source.fingerprint = fingerprint;
        for (address, certificate) in &self.certificates {
            self.renew(*address, certificate, now);
        }
        let metrics = &self.shared.metrics;
        let mut loaded = self.load(&source.path, now);
        // The fingerprint has to be older than what was read, or a change in between would go unnoticed. So files that
        // the new configuration names for the first time are read once more.
        if let Ok((_, meta)) = &loaded
            && meta.files != source.files
        {
            source.files.clone_from(&meta.files);
            source.fingerprint = source.fingerprint();
            loaded = self.load(&source.path, now);
        }
        match loaded {
            Ok((live, loaded)) => {
                tell_changes(&source.text, &loaded.text);
                tell_warnings(&self.shared.live.load(), &live);
                metrics.install(&live, now.unix.as_secs_f64());
                let (version, routes) = (live.version.clone(), live.routes.iter().count());
                // What was fetched so far is in force in the new policy before a request meets it.
                self.shared.fetching.adopt(&live);
                self.shared.live.store(Arc::new(live));
                source.text = loaded.text;
                source.files = loaded.files;
                tracing::info!(target: "hookmoat", version = &*version, routes, "configuration reloaded");
                metrics.reloaded(true);
            }
            Err(problems) => {
                for problem in &problems {
                    tracing::error!(target: "hookmoat", "not reloaded: {problem}");
                }
                let (count, path) = (problems.len(), source.path.display());
                tracing::error!(target: "hookmoat", problems = count, %path, "the old configuration stays in force");
                // Counted last: who is woken by the number finds the reasons in the log.
                metrics.reloaded(false);
            }
        }
    }

    /// Certificates that are served and out of their time, or nearly: when they come to be, and once a day.
    fn tell_doubts(&self, told: &mut BTreeMap<(SocketAddr, PathBuf), (&'static str, Instant)>) {
        let (now, mut doubts) = (Now::read(), BTreeMap::new());
        for (listener, certificate) in &self.certificates {
            for (path, doubt) in certificate.doubts(now) {
                let key = (*listener, path);
                let before = told
                    .get(&key)
                    .filter(|(known, at)| *known == doubt && now.instant.saturating_duration_since(*at) < DAY);
                let at = before.map(|(_, at)| *at).unwrap_or_else(|| {
                    let path = key.1.display();
                    tracing::warn!(target: "hookmoat", %listener, "the certificate {path} {doubt}");
                    now.instant
                });
                doubts.insert(key, (doubt, at));
            }
        }
        *told = doubts;
    }

    fn load(&self, path: &Path, now: Now) -> Result<(Live, Meta), Vec<String>> {
        let Loaded { policy, files, text, .. } = config::load(path).map_err(|problems| {
            let line = |problem: &Problem| problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
            let said = |problem: &Problem| format!("{}{}; {}", line(problem), problem.summary(), problem.help);
            problems.problems.iter().map(said).collect::<Vec<_>>()
        })?;
        let before = self.shared.live.load_full();
        let mut problems: Vec<String> = before
            .fixed_differences(&policy)
            .into_iter()
            .map(|key| format!("`{key}` is fixed until the next start; restart to change it, or put it back"))
            .collect();
        problems.extend(lost_secrets(&before, &policy, now));
        if !problems.is_empty() {
            return Err(problems);
        }
        let live = Live::new(policy, Some(&before)).map_err(|problem| vec![problem])?;
        Ok((live, Meta { files, text }))
    }

    fn renew(&self, address: SocketAddr, certificate: &Certificate, now: Now) {
        let listener = address.to_string();
        match certificate.renew(now) {
            Ok(None) => {}
            Ok(Some(not_after)) => {
                self.shared.metrics.certificate(&listener, not_after as f64);
                tracing::info!(target: "hookmoat", listener, not_after, "certificate exchanged");
                self.shared.metrics.certificate_renewed(&listener, true);
            }
            Err(error) => {
                tracing::error!(target: "hookmoat", listener, error, "certificate not exchanged, the old one stays");
                self.shared.metrics.certificate_renewed(&listener, false);
            }
        }
    }
}

/// What is kept of a configuration beside its policy.
struct Meta {
    files: Vec<PathBuf>,
    text: String,
}

/// Routes that could verify and could not any more: most often a secret's file that is gone for a moment. Taken over,
/// it would cost deliveries; the old secret keeps verifying meanwhile. To revoke a secret, put another in its place or
/// take it off the list.
fn lost_secrets(before: &Policy, after: &Policy, now: Now) -> Vec<String> {
    let had = |name: &str| {
        before.routes.iter().any(|(_, route)| {
            *route.name == *name
                && matches!(&route.authentication, Authentication::Signature(check) if check.has_active_secret(now))
        })
    };
    let lost = after.routes.iter().filter_map(|(_, route)| match &route.authentication {
        Authentication::NoSecret(missing) if had(&route.name) => {
            Some(format!("route {} would lose its secret: {missing}", route.name))
        }
        _ => None,
    });
    lost.collect()
}

/// One line for each check that becomes weaker: whoever reads the log later asks for exactly that.
fn tell_changes(old: &str, new: &str) {
    for change in diff(old, new).unwrap_or_default() {
        if change.effect == Effect::Weaker {
            tracing::warn!(target: "hookmoat", "weaker: {change}");
        }
    }
}

/// What a start would say of the new configuration, and did not say of the old one.
fn tell_warnings(before: &Policy, after: &Policy) {
    for warning in after.warnings.iter().filter(|warning| !before.warnings.contains(warning)) {
        tracing::warn!(target: "hookmoat", "{warning}");
    }
}

/// Waits until nothing changed for a moment.
async fn settle(changed: &Notify) {
    let quiet = async { while tokio::time::timeout(QUIET, changed.notified()).await.is_ok() {} };
    let _ = tokio::time::timeout(RESTLESS, quiet).await;
}

/// Of all files together. One that cannot be read counts as empty: its coming back is a change.
fn fingerprint(path: &Path, files: &[PathBuf]) -> [u8; 32] {
    use std::io::Read as _;
    let mut hash = Sha256::new();
    for path in std::iter::once(path).chain(files.iter().map(PathBuf::as_path)) {
        let mut bytes = Vec::new();
        if path.is_file()
            && let Ok(file) = std::fs::File::open(path)
        {
            let _ = file.take(LOOKED_AT).read_to_end(&mut bytes);
        }
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(&bytes);
    }
    hash.finalize().into()
}

/// The folders that are watched, and the watcher of the machine.
#[derive(Default)]
struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    /// With device and inode, where there is one: a folder that was moved away takes its watch along.
    folders: BTreeMap<PathBuf, Option<(u64, u64)>>,
    names: BTreeSet<OsString>,
}

impl Watch {
    /// Watches the folders of all files, also those that links lead to. True: the watch is a new one.
    fn follow(&mut self, source: &Source, changed: &Arc<Notify>) -> notify::Result<bool> {
        let (mut folders, mut names) = (BTreeMap::new(), BTreeSet::new());
        for path in std::iter::once(&source.path).chain(&source.files) {
            for path in [Some(path.clone()), path.canonicalize().ok()].into_iter().flatten() {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                let folder = folder.unwrap_or(Path::new(".")).to_path_buf();
                let identity = std::fs::metadata(&folder).ok().filter(|meta| meta.is_dir());
                folders.insert(folder, identity.map(|meta| (meta.dev(), meta.ino())));
                names.extend(path.file_name().map(ToOwned::to_owned));
            }
        }
        if self.watcher.is_some() && self.folders == folders && self.names == names {
            return Ok(false);
        }
        let (known, changed) = (names.clone(), changed.clone());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error means that events were lost: looking costs little.
            if event.map_or(true, |event| concerns(&event, &known)) {
                changed.notify_one();
            }
        })?;
        for (folder, identity) in &folders {
            if identity.is_some() {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
        }
        (self.watcher, self.folders, self.names) = (Some(watcher), folders, names);
        Ok(true)
    }
}

/// Could one of our files have changed? Kubernetes exchanges a link whose name begins with two dots.
fn concerns(event: &notify::Event, names: &BTreeSet<OsString>) -> bool {
    let written = !matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    written
        && event
            .paths
            .iter()
            .filter_map(|path| path.file_name())
            .any(|name| names.contains(name) || name.to_str().is_some_and(|name| name.starts_with("..")))
}
