//! Is this one of the requests that a check already refuses, where `enforce` says that it shall be some of a hundred?
//!
//! A sender's retry must meet the same judgement: the draw is a hash of the event's ID where that stands in the head, else
//! of the client's address, and of the route's name. It is the same in every process and at every time, and whoever is
//! among the first ten of a hundred is among the first fifty as well.

use super::duplicate::EventId;
use crate::policy::Route;
use crate::request::{ClientIp, Head};
use sha2::{Digest, Sha256};

/// A number from 0 to 99. A check that refuses so many of a hundred refuses those below.
pub fn draw(route: &Route, head: &Head<'_>, client: Option<ClientIp>) -> u8 {
    let mut digest = Sha256::new();
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    part(route.name.as_bytes());
    match event_id(route, head) {
        Some(id) => part(&id),
        None => part(client.map(|client| client.to_string()).unwrap_or_default().as_bytes()),
    }
    let digest: [u8; 32] = digest.finalize().into();
    let number = digest.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    u8::try_from(number % 100).unwrap_or_default()
}

fn event_id(route: &Route, head: &Head<'_>) -> Option<Vec<u8>> {
    let Some(EventId::Sources(sources)) = route.duplicates.as_ref().map(|duplicates| &duplicates.id) else {
        return None;
    };
    let read = |source: &super::source::Source| source.read(head, b"").ok().flatten().map(|id| id.into_owned());
    sources.iter().filter(|source| !source.needs_body()).find_map(read).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::duplicate::{Duplicates, MissingId};
    use crate::check::source::Source;
    use crate::policy::{Observable, Observed};
    use crate::request::Headers;
    use std::time::Duration;

    fn of(route: &Route, id: Option<&str>, client: &str) -> u8 {
        let fields: Vec<(&str, &[u8])> = id.iter().map(|id| ("X-Id", id.as_bytes())).collect();
        let head = Head { method: "POST", path: "/", query: None, host: "h", headers: Headers::List(&fields) };
        draw(route, &head, Some(ClientIp::new(client.parse().unwrap())))
    }

    fn route(name: &str) -> Route {
        let id = EventId::Sources(vec![Source::json("/id").unwrap(), Source::header("X-Id").unwrap()]);
        let (remember, lease) = (Duration::from_secs(1), Duration::from_secs(1));
        let duplicates =
            Duplicates { id, id_repeats: false, missing: MissingId::Skip, remember, lease, replay_guard: false };
        Route { duplicates: Some(duplicates), ..crate::check::tests::route(name) }
    }

    #[test]
    fn an_event_draws_the_same_wherever_it_comes_from_and_one_without_an_id_draws_for_its_client() {
        let a = route("a");
        assert_eq!(of(&a, Some("evt-1"), "192.0.2.1"), of(&a, Some("evt-1"), "2001:db8::1"));
        assert_eq!(of(&a, None, "192.0.2.1"), of(&a, Some(""), "192.0.2.1"));
        let ids: Vec<String> = (0..1000).map(|number| format!("evt-{number}")).collect();
        let differs = |other: &dyn Fn(&str) -> u8| ids.iter().any(|id| other(id) != of(&a, Some(id), "192.0.2.1"));
        assert!(differs(&|id| of(&route("b"), Some(id), "192.0.2.1")));
        assert!(differs(&|_| of(&a, None, "192.0.2.1")));
        // Fixed for ever: another process, another version, the same draw.
        assert_eq!([of(&a, Some("evt-1"), "192.0.2.1"), of(&a, None, "192.0.2.1")], [40, 89]);
    }

    #[test]
    fn a_tenth_is_a_tenth_and_part_of_every_larger_one() {
        let a = route("a");
        let draws: Vec<u8> = (0..10_000).map(|number| of(&a, Some(&format!("evt-{number}")), "192.0.2.1")).collect();
        let refused = |percent: u8| {
            let observed = Observed::default().with(Observable::Signature, 100 - percent);
            let refuses = |draw: &u8| !observed.lets_pass(Observable::Signature, *draw);
            draws.iter().map(refuses).collect::<Vec<bool>>()
        };
        let count = |percent| refused(percent).iter().filter(|refused| **refused).count();
        assert_eq!((count(0), count(100)), (0, 10_000));
        assert!((850..1150).contains(&count(10)), "{}", count(10));
        assert!(refused(10).iter().zip(refused(50)).all(|(tenth, half)| !tenth || half));
    }
}
