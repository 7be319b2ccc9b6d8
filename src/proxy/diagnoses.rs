//! Why was a signature refused? For routes that ask (`diagnose: true`), into the log, after the answer went out.
//!
//! A stranger decides how often signatures are refused, so a few diagnoses a minute are made for each route and one at a
//! time for the process, on a thread for such work, within [`Budget::BRIEF`]. The log gets words, names of headers and
//! the body's digest: no secret, no signature, no body.

use crate::check::rate_limit::{Buckets, Limit, LimitKey};
use crate::check::signature::Hash;
use crate::diagnose::{Budget, Captured, diagnose};
use crate::pipeline::Diagnosed;
use crate::policy::Route;
use crate::reject::Reason;
use crate::request::{ClientIp, Head, Now};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One every ten seconds, three at once: six a minute in the long run.
const EVERY: Duration = Duration::from_secs(10);
const AT_ONCE: u32 = 3;
/// Routes whose diagnoses are counted apart; beyond it those that rested longest begin anew.
const MAX_ROUTES: usize = 10_000;

/// Whose turn it is.
pub(super) struct Diagnoses {
    made: Buckets,
    busy: AtomicBool,
}

/// Given back when the diagnosis ends, in whatever way.
struct Turn<'d>(&'d AtomicBool);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Diagnoses {
    pub(super) fn new(now: std::time::Instant) -> Self {
        Self { made: Buckets::new(MAX_ROUTES, now), busy: AtomicBool::new(false) }
    }

    /// What would have made the request verify. `body` is the whole one; `None`: it was not read.
    pub(super) async fn of(
        &self,
        route: &Arc<Route>,
        reason: Reason,
        client: Option<ClientIp>,
        head: &Head<'_>,
        body: Option<&[u8]>,
        now: Now,
    ) -> Option<Box<Diagnosed>> {
        route.subject.as_ref().filter(|_| reason.is_of_signature())?;
        // By the time that is now: a sender could spread the time of its requests.
        let instant = Now::read().instant;
        if self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        let _turn = Turn(&self.busy);
        self.made.take(&limit(route), client?, head, instant).ok()?;
        let request = Captured::of(head, body.map(Bytes::copy_from_slice));
        let route = route.clone();
        let made = tokio::task::spawn_blocking(move || {
            let found = diagnose(route.subject.as_deref()?, &[], &request, now, Budget::BRIEF);
            Some(Box::new(Diagnosed { diagnosis: found.line(), capture: request.summary() }))
        });
        made.await.ok().flatten()
    }
}

/// The same route keeps its count over a reload.
fn limit(route: &Route) -> Limit {
    let digest = Hash::Sha256.digest(route.name.as_bytes());
    let id = digest.as_bytes().iter().take(8).fold(0, |id, byte| id << 8 | u64::from(*byte));
    Limit { key: LimitKey::Route, interval: EVERY, burst: AT_ONCE, id }
}
