//! How queues and their events are asked for and shown: the same on the command line and at the admin listener.

use crate::config::units::Span;
use crate::port::inspect::{EventState, Filter, Reach, Summary};
use crate::port::queue::{Event, EventUid, Stats};
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// A [`Filter`] as people write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct FilterText {
    /// This event alone
    #[arg(long, value_name = "UID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    /// Of this route
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    /// From this preset
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    /// Of this type, as the sender calls it
    #[arg(long = "type", value_name = "TYPE")]
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    /// With this sender's ID
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<String>,
    /// ready, scheduled, in_flight or dead
    #[arg(long, value_name = "STATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// Accepted at least so long ago, for instance 30d
    #[arg(long, value_name = "AGE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    older_than: Option<String>,
    /// Accepted at most so long ago, for instance 2h
    #[arg(long, value_name = "AGE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    newer_than: Option<String>,
}

impl FilterText {
    /// What it means, or what is wrong with it.
    pub(crate) fn read(&self) -> Result<Filter, String> {
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let age = |text: &Option<String>| text.as_deref().map(span).transpose();
        Ok(Filter {
            uid: self.uid.as_deref().map(uid).transpose()?,
            route: text(&self.route),
            provider: text(&self.provider),
            event_type: text(&self.event_type),
            event_id: text(&self.event_id),
            state: self.state.as_deref().map(state).transpose()?,
            older_than: age(&self.older_than)?,
            newer_than: age(&self.newer_than)?,
        })
    }

    /// The same for something that moves events: everything at once has to be meant.
    pub(crate) fn chosen(&self, all: bool) -> Result<Filter, String> {
        let filter = self.read()?;
        if filter == Filter::default() && !all {
            return Err("which events? Give a filter, or say that you mean all".into());
        }
        Ok(filter)
    }
}

/// Reads a UID.
pub(crate) fn uid(text: &str) -> Result<EventUid, String> {
    EventUid::parse(text).ok_or_else(|| format!("{text} is no UID: write the 32 digits that `queue list` shows"))
}

fn span(text: &str) -> Result<Duration, String> {
    let span = Span::parse(text).ok_or_else(|| format!("{text} is no age: write for instance 90m, 2h or 30d"))?;
    Ok(span.0)
}

fn state(text: &str) -> Result<EventState, String> {
    let known = EventState::ALL.iter().copied().find(|state| state.label() == text);
    known.ok_or_else(|| match text {
        "delivered" | "done" => "delivered events are not kept: a queue holds what is still to be delivered".into(),
        _ => format!("{text} is no state: write ready, scheduled, in_flight or dead"),
    })
}

/// What a queue holds, and what can be seen of it.
pub(crate) fn stats(stats: &Stats, reach: Option<&Reach>) -> Value {
    json!({
        "engine": reach.map(|reach| reach.engine),
        "ready": stats.ready,
        "scheduled": stats.scheduled,
        "in_flight": stats.in_flight,
        "dead": stats.dead,
        "bytes": stats.bytes,
        "oldest_seconds": stats.oldest.map(|age| age.as_secs_f64()),
        "lists": reach.map(|reach| reach.states.iter().map(|state| state.label()).collect::<Vec<_>>()),
        "cannot": reach.map(|reach| reach.cannot),
    })
}

/// An event as it stands in a list.
pub(crate) fn summary(summary: &Summary) -> Value {
    json!({
        "uid": summary.uid.to_string(),
        "route": summary.route,
        "provider": summary.provider,
        "event_id": summary.event_id,
        "event_type": summary.event_type,
        "state": summary.state.label(),
        "received_unix": summary.received.as_secs_f64(),
        "due_unix": summary.due.as_secs_f64(),
        "attempts": summary.attempts,
        "body_bytes": summary.body_bytes,
        "status": summary.failure.as_ref().and_then(|failure| failure.status),
        "failure": summary.failure.as_ref().map(|failure| &failure.message),
        "dead": summary.dead,
    })
}

/// All of an event.
pub(crate) fn event(about: &Summary, event: &Event) -> Value {
    let target = match &event.query {
        Some(query) => format!("{}?{query}", event.path),
        None => event.path.to_string(),
    };
    let mut value = summary(about);
    value["method"] = json!(event.method);
    value["target"] = json!(target);
    value["host"] = json!(event.host);
    value["request_id"] = json!(event.request_id);
    value["client"] = json!(event.client.map(|client| client.to_string()));
    value["verified"] = json!(event.verified);
    let headers = event.headers.iter().map(|(name, value)| json!([name, String::from_utf8_lossy(value)]));
    value["headers"] = headers.collect();
    value["body_base64"] = json!(base64::engine::general_purpose::STANDARD.encode(&event.body));
    value
}
