//! Keeps senders' public keys fresh: sets by time and when a message names a key that is not among them, certificates
//! when a message names one.

use super::certificate;
use super::client::FetchError;
use super::course::Course;
use super::desk::Desk;
use super::target::Target;
use super::{Work, disk};
use crate::check::signature::fetched::{Certificate, CertificateRule, Held, KeysAt, Shelf};
use crate::check::signature::keys::{KeySet, MAX_KEY_TEXT};
use crate::request::Now;
use crate::telemetry::fetch::{FetchMetrics, Kind, SourceEvent};
use bytes::Bytes;
use futures_util::future::join_all;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a URL that led to something that is no good is not asked for again.
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
            for (url, copy) in disk::load_all(folder, Kind::Keys.label(), source, MAX_KEY_TEXT) {
                // The pins of today count, not those of the day when it was kept.
                if !rule.pins.iter().any(|pin| pin.target(&url.to_string()).is_ok()) {
                    continue;
                }
                match certificate::judge(&copy.text, rule, work.signers(), now) {
                    Ok((keys, valid)) => shelf.note(url, Certificate::Good(Arc::new(keys), valid), now),
                    Err(why) => unusable(format!("the certificate {why}")),
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
            keep(&work, name, url, body, now);
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
        KeysAt::Certificate(_) => Err(FetchError::Content("certificates are no set".into())),
    }
}

/// Fetches the certificates that requests ask for.
pub(super) async fn follow_certificates(
    work: Arc<Work>,
    shelf: Arc<Shelf>,
    desk: Arc<Desk>,
    course: Arc<Mutex<Course>>,
    metrics: FetchMetrics,
) {
    let KeysAt::Certificate(rule) = &shelf.at else { return };
    let mut course = course.lock().await;
    loop {
        let asked = desk.certificates();
        if asked.is_empty() {
            desk.asked.notified().await;
            continue;
        }
        let fetched = join_all(asked.into_iter().map(|url| fetch_certificate(&work, &shelf, rule, &desk, url))).await;
        for result in fetched {
            match result {
                Ok(()) => {
                    metrics.success(Kind::Keys, &shelf.name, Now::read().unix.as_secs_f64());
                    course.succeeded(Kind::Keys, &shelf.name, work.settings.refresh, None);
                }
                Err(error) => {
                    let using = "the certificates fetched before";
                    course.failed(Kind::Keys, &shelf.name, work.settings.refresh, &error, using, &metrics);
                }
            }
        }
    }
}

async fn fetch_certificate(
    work: &Work,
    shelf: &Shelf,
    rule: &CertificateRule,
    desk: &Desk,
    url: Target,
) -> Result<(), FetchError> {
    let result = work.get(&url, MAX_KEY_TEXT, None).await;
    let now = Now::read();
    let judged = match result {
        Ok(fetched) => {
            let text = fetched.body.unwrap_or_default();
            match certificate::judge(&text, rule, work.signers(), now) {
                Ok((keys, valid)) => {
                    keep(work, &shelf.name, &url, text, now);
                    shelf.note(url.clone(), Certificate::Good(Arc::new(keys), valid), now);
                    SourceEvent::Changed { before: None, entries: shelf.len() }.emit(Kind::Keys, &shelf.name);
                    Ok(())
                }
                Err(why) => {
                    shelf.note(url.clone(), Certificate::Refused(now.instant + REFUSED), now);
                    Err(FetchError::Content(format!("the certificate {why}")))
                }
            }
        }
        Err(error) => {
            let gone = matches!(error, FetchError::Status(400..=499, _));
            let (refused, failed) = (now.instant + REFUSED, now.instant + FAILED.min(work.settings.refresh));
            let note = if gone { Certificate::Refused(refused) } else { Certificate::Failed(failed) };
            shelf.note(url.clone(), note, now);
            Err(error)
        }
    };
    desk.ended(Some(&url));
    judged
}

fn keep(work: &Work, source: &str, url: &Target, text: Bytes, now: Now) {
    let Some(folder) = &work.settings.cache else { return };
    let copy = disk::Copy { text: text.into(), etag: None, fetched: now.unix_seconds() };
    // A few kilobytes, in a thread where no request runs.
    if let Err(error) = disk::save(folder, Kind::Keys.label(), source, url, &copy) {
        tracing::warn!(target: "hookmoat::fetch", kind = "keys", source, %error, "the copy cannot be kept on disk");
    }
}
