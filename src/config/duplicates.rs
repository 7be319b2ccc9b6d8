//! What tells one event from another, and for how long that is remembered.

use super::compile::{Around, Compiler, DAY};
use super::place::Place;
use super::raw;
use super::units::{Span, duration};
use crate::check::duplicate::{Duplicates, EventId, MissingId};
use crate::check::signature::Scheme;
use crate::check::source::Source;
use crate::provider::Provider;
use std::time::Duration;

/// How long a delivered event is remembered if neither route nor preset says.
const REMEMBER: Duration = Duration::from_secs(72 * 3600);

/// A claim must outlive its request; this much is left for settling it.
const LEASE_MARGIN: Duration = Duration::from_secs(30);

/// A claim that is renewed while its owner is alive blocks an event for so long once the owner is not.
const RENEWED_LEASE: Duration = Duration::from_secs(30);

impl Compiler<'_> {
    pub(super) fn duplicates(
        &mut self,
        raw: &raw::Route,
        provider: Option<&Provider>,
        scheme: Option<&Scheme>,
        around: &Around<'_>,
        at: &Place,
    ) -> Option<Duplicates> {
        let id_at = at.key("event_id");
        let written = raw.event_id.as_ref().map(|written| self.event_id(written, &id_at));
        let unverified = matches!(raw.signature, Some(raw::Signature::None));
        let at = at.key("duplicates");
        let none = raw::DuplicatesMap::default();
        let map = match &raw.duplicates {
            Some(raw::Duplicates::Off) => {
                if raw.event_id.is_some() {
                    self.wrong(&id_at, "an event ID that nothing uses", "remove it, or remove `duplicates: off`");
                }
                return None;
            }
            Some(raw::Duplicates::On(map)) => map,
            // Whoever can send unverified requests could have IDs remembered before the real sender uses them.
            None if unverified && written.is_none() => return None,
            None => &none,
        };
        let own_id = written.is_none();
        let id = match (written, provider) {
            (Some(id), _) => id,
            (None, Some(provider)) => EventId::Sources(provider.event_id.clone()),
            (None, None) => EventId::Sources(Vec::new()),
        };
        let nothing = matches!(&id, EventId::Sources(sources) if sources.is_empty());
        let replay_guard = map.replay_guard.unwrap_or(!unverified);
        if replay_guard && unverified {
            let help = "without a signature there is nothing to remember but an ID: remove it";
            self.wrong(&at.key("replay_guard"), "nothing is signed", help);
        }
        if nothing && !self.document.has_damage(&id_at) {
            if unverified || !replay_guard {
                let help = "add `event_id: {header: …}` or `event_id: body`, or write `duplicates: off`";
                self.wrong(&id_at, "missing: nothing tells one event from another", help);
            } else if provider.is_none() {
                let help = "add `event_id: {header: …}`, or `event_id: body`";
                self.warn(&id_at, "missing: only exact copies of what was signed are recognised", help);
            }
        }
        let window = scheme.and_then(Scheme::replay_window);
        let horizon = provider.and_then(|provider| provider.retry_horizon);
        let remember = match map.remember {
            None => provider.map_or(REMEMBER, |provider| provider.remember).max(window.unwrap_or_default()),
            Some(Span(remember)) => {
                let at = at.key("remember");
                self.within(Span(remember), Duration::from_secs(1), 400 * DAY, &at);
                if let Some(window) = window.filter(|window| *window > remember) {
                    let window = duration(window);
                    let what = format!(
                        "forgotten sooner than a signature expires ({window}), so a captured request could be sent again"
                    );
                    self.wrong(&at, what, format!("remember for {window} or longer"));
                } else if let Some(horizon) = horizon.filter(|horizon| *horizon > remember) {
                    let what = format!("this sender tries again for {}", duration(horizon));
                    self.warn(&at, what, "a late retry of a delivered event would be delivered again: remember longer");
                }
                remember
            }
        };
        // Redis is told again and again that an owner is alive; elsewhere a lease has to outlive the whole request.
        let renewed = around.config.state.0.redis.is_some();
        let lease = match map.lease {
            None if renewed => RENEWED_LEASE,
            None => around.timeouts.total.saturating_add(LEASE_MARGIN),
            Some(Span(lease)) => {
                if lease <= around.timeouts.total && !renewed {
                    let help = format!("make it longer than `timeouts.total`, {}", duration(around.timeouts.total));
                    let what = "a copy could be delivered while the first one is still on its way";
                    self.wrong(&at.key("lease"), what, help);
                }
                self.within(Span(lease), Duration::from_secs(1), DAY, &at.key("lease"));
                lease
            }
        };
        let missing = match map.missing {
            Some(raw::Missing::Reject) => MissingId::Reject,
            Some(raw::Missing::Skip) => MissingId::Skip,
            // Presets name places that not all of a sender's requests have (handshakes have no event). Such a request
            // cannot be repeated either, since what was signed is remembered.
            None if nothing || (own_id && replay_guard) => MissingId::Skip,
            None => MissingId::Reject,
        };
        if nothing && map.missing == Some(raw::Missing::Reject) {
            self.wrong(
                &at.key("missing"),
                "every event would be refused: no `event_id` is known",
                "add `event_id`, or write skip",
            );
        }
        let id_repeats = own_id && provider.is_some_and(|provider| provider.ids_repeat);
        Some(Duplicates { id, id_repeats, missing, remember, lease, replay_guard })
    }

    pub(super) fn event_id(&mut self, written: &raw::OneOrMany<raw::EventId>, at: &Place) -> EventId {
        if written.items.is_empty() && !self.document.has_damage(at) {
            self.wrong(at, "no place to look at", "name one, or leave the key out");
        }
        let mut sources = Vec::new();
        for (i, one) in written.items.iter().enumerate() {
            let at = if written.list { at.index(i) } else { at.clone() };
            match one {
                raw::EventId::Body if written.items.len() == 1 => return EventId::BodyDigest,
                raw::EventId::Body => {
                    self.wrong(
                        &at,
                        "the body is always there, so other places make no sense",
                        "keep `body` alone, or remove it",
                    );
                }
                raw::EventId::At(place) => sources.extend(self.event_id_place(place, &at)),
            }
        }
        EventId::Sources(sources)
    }

    fn event_id_place(&mut self, place: &raw::EventIdPlace, at: &Place) -> Option<Source> {
        let named: Vec<_> = [
            ("header", &place.header),
            ("query", &place.query),
            ("form", &place.form),
            ("json", &place.json),
            ("xml", &place.xml),
        ]
        .into_iter()
        .filter_map(|(key, name)| Some((key, name.as_deref()?)))
        .collect();
        let [(key, name)] = named[..] else {
            if !self.document.has_damage(at) {
                self.wrong(
                    at,
                    "not exactly one place",
                    "write one of header, query, form, json and xml; for several use a list",
                );
            }
            return None;
        };
        match Source::parse(&format!("{key}:{name}")) {
            Ok(source) => Some(source),
            Err(what) => {
                self.told(
                    &at.key(key),
                    what,
                    "write for instance {header: X-Event-Id}, {query: id} or {json: /event/id}",
                );
                None
            }
        }
    }
}
