//! Keeps a sender's published networks fresh.
//!
//! A list takes the place of the one in force only where it can be believed: strictly parsed, not empty, nothing
//! absurdly wide, and not suddenly much smaller ([`crate::check::ranges::succeeds`]). One that is much smaller and has
//! been the same for a day is what the sender means, and is taken. Until then, and while a fetch fails, the last good
//! list stays.

use super::client::FetchError;
use super::course::Course;
use super::{Work, disk};
use crate::check::ranges::{List, Origin, Ranges, succeeds};
use crate::check::signature::fetched::Name;
use crate::request::Now;
use crate::telemetry::fetch::{FetchMetrics, Kind, SourceEvent};
use bytes::Bytes;
use http::HeaderValue;
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// The longest published text. The largest known lists have some 3 MB.
const LIMIT: usize = 8 << 20;
/// How long a source gives a much smaller list before it is believed.
const SETTLED: Duration = Duration::from_secs(24 * 3600);

/// Puts the copy on disk in force, unless there is a newer list already.
pub(super) fn take_kept(work: &Work, ranges: &Ranges) {
    let (Some(folder), Some(url)) = (&work.settings.cache, &ranges.url) else { return };
    let kept = disk::load(folder, Kind::Ranges.label(), &ranges.name, url, LIMIT);
    let judged = kept.map_err(|error| error.to_string()).and_then(|kept| {
        let Some(kept) = kept else { return Ok(None) };
        let nets = ranges.read(&kept.text).map_err(|what| format!("the list {what}"))?;
        Ok(Some(List { nets, as_of: Some(kept.fetched), origin: Origin::Kept }))
    });
    match judged {
        Ok(Some(list)) => {
            let newer = ranges.current().as_ref().is_none_or(|current| current.as_of < list.as_of);
            if newer {
                ranges.set(list);
            }
        }
        Ok(None) => {}
        Err(why) => {
            let source = &*ranges.name;
            tracing::warn!(target: "hookmoat::fetch", kind = "ranges", source, why, "the copy on disk cannot be used");
        }
    }
}

/// Fetches a list again and again.
pub(super) async fn follow(work: Arc<Work>, ranges: Arc<Ranges>, course: Arc<Mutex<Course>>, metrics: FetchMetrics) {
    let Some(url) = &ranges.url else { return };
    let mut course = course.lock().await;
    let (refresh, name) = (work.settings.refresh, &*ranges.name);
    loop {
        course.wait().await;
        // What is asked for "if it is new" is compared with what is in force.
        let etag = course.etag.clone().filter(|_| ranges.current().is_some());
        let result = work.get(url, LIMIT, etag.as_ref()).await;
        let max_age = result.as_ref().ok().and_then(|fetched| fetched.max_age);
        let taken = result.and_then(|fetched| match fetched.body {
            Some(body) => take(&work, &ranges, &mut course, body, fetched.etag),
            None => {
                confirm(&ranges);
                Ok(())
            }
        });
        match taken {
            Ok(()) => {
                metrics.success(Kind::Ranges, name, Now::read().unix.as_secs_f64());
                course.succeeded(Kind::Ranges, name, refresh, max_age);
            }
            Err(error) => {
                let using = match ranges.current().as_ref().map(|list| list.origin) {
                    None => "nothing: the route refuses",
                    Some(Origin::Shipped) => "the shipped list",
                    Some(Origin::Kept) => "the copy on disk",
                    Some(Origin::Fetched) => "the list fetched last",
                };
                course.failed(Kind::Ranges, name, refresh, &error, using, &metrics);
            }
        }
    }
}

/// What is in force is still what the sender publishes.
fn confirm(ranges: &Ranges) {
    if let Some(current) = &*ranges.current() {
        let as_of = Some(Now::read().unix_seconds());
        ranges.set(List { nets: current.nets.clone(), as_of, origin: Origin::Fetched });
    }
}

/// Puts a fetched text in force, if it can be believed.
fn take(
    work: &Work,
    ranges: &Ranges,
    course: &mut Course,
    body: Bytes,
    etag: Option<HeaderValue>,
) -> Result<(), FetchError> {
    let refused = |what: String| FetchError::Content(format!("the list {what}"));
    let nets = ranges.read(&body).map_err(refused)?;
    let before = ranges.current().as_ref().map(|list| list.nets.len());
    let mut changed = true;
    if let Some(current) = &*ranges.current() {
        changed = nets != current.nets;
        if let Err(what) = succeeds(&nets, &current.nets) {
            let digest: [u8; 32] = Sha256::digest(&body).into();
            let since = match course.smaller {
                Some((known, since)) if known == digest => since,
                _ => course.smaller.insert((digest, Instant::now())).1,
            };
            if since.elapsed() < SETTLED {
                return Err(refused(what));
            }
        }
    }
    course.smaller = None;
    let now = Now::read().unix_seconds();
    let entries = nets.len();
    if let (Some(folder), Some(url)) = (&work.settings.cache, &ranges.url) {
        let copy = disk::Copy { text: body.into(), etag: etag.clone(), fetched: now };
        // A few kilobytes, in a thread where no request runs.
        if let Err(error) =
            disk::save(folder, Kind::Ranges.label(), &ranges.name, &Name { url: url.clone(), id: None }, &copy)
        {
            let source = &*ranges.name;
            tracing::warn!(target: "hookmoat::fetch", kind = "ranges", source, %error, "the copy cannot be kept on disk");
        }
    }
    ranges.set(List { nets, as_of: Some(now), origin: Origin::Fetched });
    course.etag = etag;
    if changed {
        SourceEvent::Changed { before, entries }.emit(Kind::Ranges, &ranges.name);
    }
    Ok(())
}
