//! Looking into the queues of a running process: what the admin listener answers below `/queues`.
//!
//! | | |
//! |---|---|
//! | `GET /queues` | every queue: what it holds, what can be seen of it, what is wrong |
//! | `GET /queues/NAME` | one of them |
//! | `GET /queues/NAME/events?state=dead&limit=50` | events that fit, oldest first; filters as on the command line |
//! | `GET /queues/NAME/events/UID` | all of one event |
//! | `POST /queues/NAME/replay`, `…/purge` | `{"filter": {…}, "dry_run": false, "all": false}`; answers 202 and a job |
//! | `GET /queues/NAME/jobs/ID` | how far it is |
//!
//! A replay or purge may take long, so it is a job of the process's own: it goes on when nobody asks any more. One at a
//! time for each queue. Who may ask is the listener's affair.

use super::Queues;
use super::queues::OpenQueue;
use super::view::{self, FilterText};
use crate::check::source::{decode_component, raw_pairs};
use crate::port::inspect::{Action, Progress, Sweep};
use crate::port::queue::QueueError;
use crate::request::Now;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::sync::Arc;

/// Jobs that are remembered.
const JOBS: usize = 32;
/// Events in one list at most.
const MOST: usize = 1000;

/// What is asked.
pub(crate) struct Asked<'a> {
    pub(crate) post: bool,
    /// Behind `/queues`.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
}

/// A status and a JSON value.
pub(crate) type Told = (u16, Value);

/// Jobs of a process, the newest last.
#[derive(Default)]
pub(crate) struct Desk(Mutex<VecDeque<Arc<Job>>>);

struct Job {
    id: String,
    queue: Arc<str>,
    sweep: Sweep,
    progress: Progress,
    ended: Mutex<Option<Result<(), String>>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    filter: FilterText,
    dry_run: bool,
    /// Without a filter: everything is meant.
    all: bool,
}

impl Desk {
    pub(crate) async fn answer(&self, queues: &Queues, asked: Asked<'_>, now: Now) -> Told {
        let mut parts = asked.path.split('/').filter(|part| !part.is_empty());
        let parts = [parts.next(), parts.next(), parts.next(), parts.next()];
        let [name, what, which, None] = parts else { return nothing() };
        let Some(name) = name else {
            if asked.post {
                return only("GET");
            }
            let all = queues.all().iter().map(|queue| about(queue, now));
            let all = futures_util::future::join_all(all).await;
            return (200, json!({ "queues": all }));
        };
        let Some(queue) = queues.by_name(name) else {
            return (404, json!({ "error": format!("no queue {name}") }));
        };
        let action = match what {
            Some("replay") => Some(Action::Replay),
            Some("purge") => Some(Action::Purge),
            _ => None,
        };
        match (asked.post, what, which) {
            (true, _, None) if action.is_some() => match action {
                Some(action) => self.begin(queue, action, asked.body, now),
                None => nothing(),
            },
            (false, _, None) if action.is_some() => only("POST"),
            (true, ..) => only("GET"),
            (false, None, None) => (200, about(queue, now).await),
            (false, Some("events"), None) => list(queue, asked.query, now).await,
            (false, Some("events"), Some(uid)) => show(queue, uid, now).await,
            (false, Some("jobs"), Some(id)) => self.job(&queue.name, id),
            _ => nothing(),
        }
    }

    fn begin(&self, queue: &Arc<OpenQueue>, action: Action, body: &[u8], now: Now) -> Told {
        let order: Order = match serde_json::from_slice(body) {
            Ok(order) => order,
            Err(error) => return (400, json!({ "error": format!("the body: {error}") })),
        };
        let filter = match order.filter.chosen(order.all) {
            Ok(filter) => filter,
            Err(error) => return (400, json!({ "error": error })),
        };
        if queue.queue.inspect().is_none() {
            return blind();
        }
        let job = Arc::new(Job {
            id: hex::encode(getrandom::u64().unwrap_or_default().to_be_bytes()),
            queue: queue.name.clone(),
            sweep: Sweep { action, filter, dry_run: order.dry_run },
            progress: Progress::default(),
            ended: Mutex::new(None),
        });
        {
            let mut jobs = self.0.lock();
            if let Some(other) = jobs.iter().find(|job| job.queue == queue.name && job.ended.lock().is_none()) {
                let error = "another replay or purge of this queue goes on";
                return (409, json!({ "error": error, "job": other.id }));
            }
            if jobs.len() >= JOBS {
                // Those that go on are fewer: one for each queue.
                let oldest = jobs.iter().position(|job| job.ended.lock().is_some());
                let _ = oldest.map(|oldest| jobs.remove(oldest));
            }
            jobs.push_back(job.clone());
        }
        let told = job.told();
        tracing::info!(
            target: "hookmoat", queue = &*queue.name, job = &*job.id, action = action.label(), dry_run = order.dry_run,
            "events are being moved by hand"
        );
        let queue = queue.clone();
        tokio::spawn(async move {
            let ended = match queue.queue.inspect() {
                Some(inspect) => inspect.sweep(&job.sweep, &job.progress, now).await.map_err(|error| error.to_string()),
                None => Err("this queue cannot be looked into".into()),
            };
            tracing::info!(
                target: "hookmoat", queue = &*queue.name, job = &*job.id, action = job.sweep.action.label(),
                events = job.progress.matched(), error = ended.as_ref().err(), "that was all of them"
            );
            *job.ended.lock() = Some(ended);
        });
        (202, told)
    }

    fn job(&self, queue: &str, id: &str) -> Told {
        let found = self.0.lock().iter().find(|job| *job.queue == *queue && job.id == id).cloned();
        found.map_or((404, json!({ "error": "no such job; the last ones alone are remembered" })), |job| {
            (200, job.told())
        })
    }
}

impl Job {
    fn told(&self) -> Value {
        // Before the counts: what is told as the end is the end.
        let ended = self.ended.lock().clone();
        json!({
            "job": self.id,
            "action": self.sweep.action.label(),
            "dry_run": self.sweep.dry_run,
            "done": ended.is_some(),
            "error": ended.and_then(Result::err),
            "looked": self.progress.looked(),
            "events": self.progress.matched(),
        })
    }
}

async fn about(queue: &Arc<OpenQueue>, now: Now) -> Value {
    let reach = queue.queue.inspect().map(|inspect| inspect.reach());
    let (stats, error) = match queue.queue.stats(now).await {
        Ok(stats) => (stats, None),
        Err(error) => (Default::default(), Some(error.to_string())),
    };
    let mut value = view::stats(&stats, reach.as_ref());
    value["name"] = json!(&*queue.name);
    value["trouble"] = json!(queue.queue.trouble().or(error));
    value
}

async fn list(queue: &OpenQueue, query: &str, now: Now) -> Told {
    let Some(inspect) = queue.queue.inspect() else { return blind() };
    let read = || {
        let mut fields = Map::new();
        for (name, value) in raw_pairs(query.as_bytes()) {
            let text = |raw| String::from_utf8(decode_component(raw)?.into_owned()).ok();
            let (Some(name), Some(value)) = (text(name), text(value)) else { return Err("the query: broken".into()) };
            fields.insert(name, Value::String(value));
        }
        let take = |fields: &mut Map<String, Value>, name| match fields.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let limit = take(&mut fields, "limit").map(|limit| limit.parse::<usize>().map_err(|_| "limit: no number"));
        let after = take(&mut fields, "after").map(|after| view::uid(&after)).transpose()?;
        let filter: FilterText =
            serde_json::from_value(Value::Object(fields)).map_err(|error| format!("the query: {error}"))?;
        Ok::<_, String>((filter.read()?, after, limit.transpose()?.unwrap_or(50).min(MOST)))
    };
    let (filter, after, limit) = match read() {
        Ok(read) => read,
        Err(error) => return (400, json!({ "error": error })),
    };
    match inspect.list(&filter, after, limit, now).await {
        Ok(listing) => {
            let events = Value::from_iter(listing.events.iter().map(view::summary));
            (200, json!({ "events": events, "complete": listing.complete, "cannot": inspect.reach().cannot }))
        }
        Err(error) => failed(&error),
    }
}

async fn show(queue: &OpenQueue, uid: &str, now: Now) -> Told {
    let Some(inspect) = queue.queue.inspect() else { return blind() };
    let uid = match view::uid(uid) {
        Ok(uid) => uid,
        Err(error) => return (400, json!({ "error": error })),
    };
    match inspect.show(uid, now).await {
        Ok(Some((summary, event))) => (200, view::event(&summary, &event)),
        Ok(None) => {
            let error = "no such event; it may have been delivered meanwhile";
            (404, json!({ "error": error, "cannot": inspect.reach().cannot }))
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &QueueError) -> Told {
    let status = if matches!(error, QueueError::Unsupported(_)) { 501 } else { 503 };
    (status, json!({ "error": error.to_string() }))
}

fn blind() -> Told {
    (501, json!({ "error": "this queue cannot be looked into" }))
}

fn nothing() -> Told {
    (404, json!({ "error": "nothing here; begin with /queues" }))
}

fn only(method: &str) -> Told {
    (405, json!({ "error": format!("only {method}") }))
}
