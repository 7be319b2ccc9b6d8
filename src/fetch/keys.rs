//! Keeps senders' public keys fresh: sets by time and when a message names a key that is not among them, certificates
//! and single keys when a message names one, and single keys by time as well, for as long as they count.

use super::api::Api;
use super::certificate;
use super::client::FetchError;
use super::course::Course;
use super::desk::Desk;
use super::target::Target;
use super::{Work, disk};
use crate::check::signature::asked::Asking;
use crate::check::signature::fetched::{CertificateRule, Held, KEEP, KeysAt, Known, Name, Shelf};
use crate::check::signature::keys::{KeySet, MAX_KEY_TEXT};
use crate::request::Now;
use crate::telemetry::fetch::{FetchMetrics, Kind, SourceEvent};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// How long a name that led to something that is no good is not asked for again.
const REFUSED: Duration = Duration::from_secs(600);
/// How long one that could not be fetched is not asked for again.
const FAILED: Duration = Duration::from_secs(10);

/// Puts the copies on disk in force.
pub(super) fn take_kept(work: &Work, shelf: &Shelf, now: Now) {
    let Some(folder) = &work.settings.cache else { return };
    let source = &*shelf.name;
    let unusable = |why: String| {
        tracing::warn!(target: "hookmoat::fetch", kind = "keys", source, why, "a copy on disk cannot be used");
    };
    match &shelf.at {
        KeysAt::Jwks(url) | KeysAt::OpenId(url) => {
            if shelf.held().is_some() {
                return;
            }
            match disk::load(folder, Kind::Keys.label(), source, url, MAX_KEY_TEXT) {
                Ok(Some(copy)) => match KeySet::from_json(&copy.text) {
                    Ok(keys) => shelf.put(Held { keys: Arc::new(keys), fetched: copy.fetched }),
                    Err(what) => unusable(format!("the set {what}")),
                },
                Ok(None) => {}
                Err(error) => unusable(error.to_string()),
            }
        }
        KeysAt::Certificate(rule) => {
            for (name, copy) in disk::load_all(folder, Kind::Keys.label(), source, MAX_KEY_TEXT) {
                // The pins of today count, not those of the day when it was kept.
                if name.id.is_some() || !rule.pins.iter().any(|pin| pin.target(&name.url.to_string()).is_ok()) {
                    continue;
                }
                match certificate::judge(&copy.text, rule, work.signers(), now) {
                    Ok((keys, valid)) => shelf.note(name, Known::Good(Arc::new(keys), valid), now),
                    Err(why) => unusable(format!("the certificate {why}")),
                }
            }
        }
        KeysAt::Asked(asking) => {
            for (name, copy) in disk::load_all(folder, Kind::Keys.label(), &asking.label(), MAX_KEY_TEXT) {
                let Some(id) = name.id.as_deref().filter(|id| asking.target(id).as_ref() == Some(&name.url)) else {
                    continue;
                };
                if shelf.known(&name, now).is_some_and(|known| known.is_good()) {
                    continue;
                }
                match judge_asked(asking, id, &copy.text, copy.fetched, now) {
                    Ok(known) => shelf.note(name, known, now),
                    Err(why) => unusable(format!("the answer {why}")),
                }
            }
        }
    }
}

/// Fetches a set again and again.
pub(super) async fn follow_set(
    work: Arc<Work>,
    shelf: Arc<Shelf>,
    desk: Arc<Desk>,
    course: Arc<Mutex<Course>>,
    metrics: FetchMetrics,
) {
    let (KeysAt::Jwks(url) | KeysAt::OpenId(url)) = &shelf.at else { return };
    let mut course = course.lock().await;
    let (refresh, name) = (work.settings.refresh, &*shelf.name);
    loop {
        tokio::select! {
            () = course.wait() => {}
            () = desk.asked.notified() => {}
        }
        desk.begins();
        let etag = course.etag.clone().filter(|_| shelf.held().is_some());
        let result = fetch_set(&work, &shelf.at, etag.as_ref()).await;
        let now = Now::read();
        let max_age = result.as_ref().ok().and_then(|fetched| fetched.max_age);
        let taken = result.and_then(|fetched| {
            let Some(body) = fetched.body else {
                if let Some(held) = shelf.held() {
                    shelf.put(Held { fetched: now.unix_seconds(), ..held });
                }
                return Ok(());
            };
            let keys = KeySet::from_json(&body).map_err(|what| FetchError::Content(format!("the set {what}")))?;
            let before = shelf.held();
            let (entries, changed) = (keys.len(), before.as_ref().is_none_or(|held| *held.keys != keys));
            keep(&work, name, &Name { url: url.clone(), id: None }, body, now);
            shelf.put(Held { keys: Arc::new(keys), fetched: now.unix_seconds() });
            course.etag = fetched.etag;
            if changed {
                SourceEvent::Changed { before: before.map(|held| held.keys.len()), entries }.emit(Kind::Keys, name);
            }
            Ok(())
        });
        match taken {
            Ok(()) => {
                metrics.success(Kind::Keys, name, now.unix.as_secs_f64());
                course.succeeded(Kind::Keys, name, refresh, max_age);
            }
            Err(error) => {
                let using = if shelf.lacks(now) { "nothing: the route refuses" } else { "the keys fetched last" };
                course.failed(Kind::Keys, name, refresh, &error, using, &metrics);
            }
        }
        desk.ended(None);
    }
}

async fn fetch_set(
    work: &Work,
    at: &KeysAt,
    etag: Option<&http::HeaderValue>,
) -> Result<super::client::Fetched, FetchError> {
    /// <https://openid.net/specs/openid-connect-discovery-1_0.html>, section 3.
    #[derive(Deserialize)]
    struct Metadata {
        jwks_uri: String,
    }
    match at {
        KeysAt::Jwks(url) => work.get(url, MAX_KEY_TEXT, etag).await,
        KeysAt::OpenId(url) => {
            let wrong = |what: &str| FetchError::Content(format!("the metadata {what}"));
            let metadata = work.get(url, MAX_KEY_TEXT, None).await?.body.unwrap_or_default();
            let metadata: Metadata = serde_json::from_slice(&metadata).map_err(|_| wrong("name no jwks_uri"))?;
            let keys =
                Target::parse(&metadata.jwks_uri).map_err(|what| wrong(&format!("name a jwks_uri that {what}")))?;
            if !keys.has_origin_of(url) {
                return Err(wrong("name a jwks_uri at another host"));
            }
            work.get(&keys, MAX_KEY_TEXT, None).await
        }
        KeysAt::Certificate(_) | KeysAt::Asked(_) => Err(FetchError::Content("single keys are no set".into())),
    }
}

/// Fetches the certificates and single keys that requests ask for, and asks again for the keys that are in force.
pub(super) async fn follow_single(
    work: Arc<Work>,
    shelf: Arc<Shelf>,
    desk: Arc<Desk>,
    course: Arc<Mutex<Course>>,
    metrics: FetchMetrics,
) {
    let mut course = course.lock().await;
    let api = Api::default();
    let refresh = work.settings.refresh;
    let mut due = Instant::now() + refresh;
    loop {
        let mut names = desk.single();
        if names.is_empty() {
            // A certificate says itself how long it counts; a key may be taken back.
            let again = matches!(shelf.at, KeysAt::Asked(_));
            tokio::select! {
                () = desk.asked.notified() => continue,
                () = sleep_until(due), if again => {
                    names = shelf.names(Now::read());
                    due = Instant::now() + refresh;
                }
            }
        }
        let fetched = join_all(names.into_iter().map(|name| fetch_single(&work, &shelf, &desk, &api, name))).await;
        for result in fetched {
            match result {
                Ok(()) => {
                    metrics.success(Kind::Keys, &shelf.name, Now::read().unix.as_secs_f64());
                    course.succeeded(Kind::Keys, &shelf.name, refresh, None);
                }
                Err(error) => {
                    let using = "the keys fetched before";
                    course.failed(Kind::Keys, &shelf.name, refresh, &error, using, &metrics);
                }
            }
        }
    }
}

async fn fetch_single(work: &Work, shelf: &Shelf, desk: &Desk, api: &Api, name: Name) -> Result<(), FetchError> {
    let result = match (&shelf.at, name.id.as_deref()) {
        (KeysAt::Asked(asking), Some(id)) => api.key(work, asking, id).await,
        _ => work.get(&name.url, MAX_KEY_TEXT, None).await,
    };
    let now = Now::read();
    let (refused, failed) = (now.instant + REFUSED, now.instant + FAILED.min(work.settings.refresh));
    let before = shelf.known(&name, now).filter(Known::is_good);
    let judged = match result {
        Ok(fetched) => {
            let text = fetched.body.unwrap_or_default();
            match judge_single(work, shelf, &name, &text, now) {
                Ok(known) => {
                    keep(work, &label(shelf), &name, text, now);
                    shelf.note(name.clone(), known, now);
                    if before.is_none() {
                        SourceEvent::Changed { before: None, entries: shelf.len() }.emit(Kind::Keys, &shelf.name);
                    }
                    Ok(())
                }
                Err(why) => {
                    shelf.note(name.clone(), Known::Refused(refused), now);
                    Err(FetchError::Content(why))
                }
            }
        }
        Err(error) => {
            let gone = match (&shelf.at, &error) {
                // Who never got a key with these credentials cannot tell whether it is the name or they that are wrong.
                (KeysAt::Asked(_), FetchError::Status(400 | 404 | 410, _)) => shelf.knows_host(name.url.host()),
                (KeysAt::Asked(_), _) => false,
                (_, FetchError::Status(400..=499, _)) => true,
                _ => false,
            };
            // What is in force stays so, unless its sender says that there is no such key any more.
            if gone || before.is_none() {
                let note = if gone { Known::Refused(refused) } else { Known::Failed(failed) };
                shelf.note(name.clone(), note, now);
            }
            Err(error)
        }
    };
    desk.ended(Some(&name));
    judged
}

/// What a text is worth. The error is a sentence.
fn judge_single(work: &Work, shelf: &Shelf, name: &Name, text: &[u8], now: Now) -> Result<Known, String> {
    match (&shelf.at, name.id.as_deref()) {
        (KeysAt::Certificate(rule), _) => judge_certificate(work, rule, text, now),
        (KeysAt::Asked(asking), Some(id)) => {
            judge_asked(asking, id, text, now.unix_seconds(), now).map_err(|why| format!("the answer {why}"))
        }
        _ => Err("nothing is wanted here".into()),
    }
}

fn judge_certificate(work: &Work, rule: &CertificateRule, text: &[u8], now: Now) -> Result<Known, String> {
    let judged = certificate::judge(text, rule, work.signers(), now);
    judged.map(|(keys, valid)| Known::Good(Arc::new(keys), valid)).map_err(|why| format!("the certificate {why}"))
}

/// It counts until its end, but no longer than keys may be used that cannot be asked for again.
fn judge_asked(asking: &Asking, id: &str, text: &[u8], fetched: i64, now: Now) -> Result<Known, String> {
    let (keys, until) = asking.judge(id, text, now.unix_seconds())?;
    let until = until.min(fetched.saturating_add(KEEP.as_secs() as i64 - 1));
    Ok(Known::Good(Arc::new(keys), 0..=until))
}

/// What copies on disk are called: not the shelf's own name, which depends on what other shelves there are.
fn label(shelf: &Shelf) -> String {
    match &shelf.at {
        KeysAt::Asked(asking) => asking.label(),
        _ => shelf.name.to_string(),
    }
}

fn keep(work: &Work, source: &str, name: &Name, text: Bytes, now: Now) {
    let Some(folder) = &work.settings.cache else { return };
    let copy = disk::Copy { text: text.into(), etag: None, fetched: now.unix_seconds() };
    // A few kilobytes, in a thread where no request runs.
    if let Err(error) = disk::save(folder, Kind::Keys.label(), source, name, &copy) {
        tracing::warn!(target: "hookmoat::fetch", kind = "keys", source, %error, "the copy cannot be kept on disk");
    }
}
