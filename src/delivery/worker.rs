//! Taking events from their queues: a lane for each queue and backend, so that a slow or dead backend keeps nobody
//! else's events waiting.
//!
//! A queue whose engine cannot choose by route ([`Abilities::selects`](crate::port::queue::Abilities)) has one lane for
//! everything; what cannot be attempted at once goes back to it.

use super::attempt::{LEASE_MARGIN, attempt};
use super::circuit::Leave;
use super::queues::OpenQueue;
use crate::policy::UnknownRoutes;
use crate::port::queue::{Delivery, Routes, Settlement, Want, lane_of};
use crate::proxy::Shared;
use crate::proxy::live::Live;
use crate::request::Now;
use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How often lanes are looked after: after a reload, the new ones wait no longer than this.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How often gauges are read from the queue.
const GAUGES: Duration = Duration::from_secs(5);
/// How long a lane waits in the queue before it looks at the world again.
const PATIENCE: Duration = Duration::from_secs(2);
/// Events taken at once at most.
const BATCH: usize = 64;
/// Events out at once at most, in a lane for everything.
const EVERYTHING: usize = 256;

/// Says when to stop taking events.
pub(crate) type Stop = watch::Receiver<bool>;

/// Delivers until told to stop. Attempts that run then go on.
pub(crate) async fn run(shared: Arc<Shared>, stop: Stop) {
    let looking_after =
        shared.queues().all().iter().map(|queue| look_after(shared.clone(), queue.clone(), stop.clone()));
    let all: Vec<_> = looking_after.collect();
    futures_util::future::join_all(all).await;
}

/// Which events a lane takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lane {
    /// Those that go to this backend.
    Upstream(Arc<str>),
    /// Those whose route is gone.
    Orphans,
    /// All.
    Everything,
}

impl Lane {
    /// The lanes that a queue needs.
    fn all(queue: &OpenQueue, live: &Live) -> Vec<Self> {
        let abilities = queue.queue.abilities();
        if !abilities.hands_out {
            return Vec::new();
        }
        if !abilities.selects {
            return vec![Self::Everything];
        }
        let mut lanes: Vec<Self> = Vec::new();
        for upstream in live.routes.iter().flat_map(|(_, route)| route.upstreams()) {
            if let Some(upstream) = live.upstreams.get(upstream) {
                let lane = Self::Upstream(upstream.name.clone());
                if !lanes.contains(&lane) {
                    lanes.push(lane);
                }
            }
        }
        if queue.unknown_routes == UnknownRoutes::Dead {
            lanes.push(Self::Orphans);
        }
        lanes
    }

    /// The names of routes, and of their lanes, that it takes (for `Orphans`: that it leaves alone).
    fn routes(&self, live: &Live) -> Vec<Box<str>> {
        match self {
            Self::Upstream(wanted) => names(live, |upstream| *upstream == **wanted),
            Self::Orphans => names(live, |_| true),
            Self::Everything => Vec::new(),
        }
    }
}

/// The names by which events that go to these upstreams are chosen.
fn names(live: &Live, wanted: impl Fn(&str) -> bool) -> Vec<Box<str>> {
    let mut names: Vec<Box<str>> = Vec::new();
    for (_, route) in live.routes.iter() {
        for index in route.upstreams() {
            let upstream = live.upstreams.get(index).filter(|upstream| wanted(&upstream.name));
            let Some(upstream) = upstream else { continue };
            names.push(if index == route.forward.upstream {
                (&*route.name).into()
            } else {
                lane_of(&route.name, &upstream.name)
            });
        }
    }
    names
}

/// Starts the lanes of a queue, and those that a reload brings, and reads its gauges.
async fn look_after(shared: Arc<Shared>, queue: Arc<OpenQueue>, stop: Stop) {
    let mut lanes: HashMap<Lane, JoinHandle<()>> = HashMap::new();
    let gauges = async {
        loop {
            read_gauges(&shared, &queue).await;
            sleep(GAUGES).await;
        }
    };
    let starting = async {
        loop {
            for lane in Lane::all(&queue, &shared.live()) {
                if lanes.get(&lane).is_none_or(JoinHandle::is_finished) {
                    let task = take(shared.clone(), queue.clone(), lane.clone(), stop.clone());
                    lanes.insert(lane, tokio::spawn(task));
                }
            }
            sleep(LOOK_AFTER).await;
        }
    };
    let mut stopped = stop.clone();
    tokio::select! {
        () = gauges => {}
        () = starting => {}
        () = told_to_stop(&mut stopped) => {}
    }
}

async fn read_gauges(shared: &Shared, queue: &OpenQueue) {
    let metrics = &shared.metrics().queues;
    let now = Now::read();
    queue.queue.maintain(now).await;
    queue.queue.keep_lanes(&names(&shared.live(), |_| true)).await;
    match queue.queue.stats(now).await {
        Ok(stats) => metrics.show(&queue.name, &stats, queue.queue.trouble().is_none()),
        Err(error) => {
            metrics.up(&queue.name, false);
            tracing::warn!(target: "hookmoat", queue = &*queue.name, %error, "the queue does not tell what it holds");
        }
    }
}

async fn told_to_stop(stop: &mut Stop) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        pending().await
    }
}

/// A lane's life: it ends when a reload leaves it without routes, or when told to stop.
async fn take(shared: Arc<Shared>, queue: Arc<OpenQueue>, lane: Lane, mut stop: Stop) {
    // Events that are out: taken, and not settled yet.
    let mut out: Option<(usize, Arc<Semaphore>)> = None;
    let mut failures = 0u32;
    loop {
        let live = shared.live();
        let routes = lane.routes(&live);
        let (capacity, leave) = match &lane {
            Lane::Upstream(_) if routes.is_empty() => return,
            Lane::Upstream(name) => {
                let Some(upstream) = live.upstreams.iter().find(|upstream| upstream.name == *name) else { return };
                let target = shared.queues().target(upstream);
                let leave = target.circuit.lock().look(Now::read().instant);
                (upstream.concurrency, leave)
            }
            Lane::Orphans => (BATCH, Leave::Go),
            Lane::Everything => (EVERYTHING, Leave::Go),
        };
        let places = match &out {
            Some((known, places)) if *known == capacity => places.clone(),
            _ => out.insert((capacity, Arc::new(Semaphore::new(capacity)))).1.clone(),
        };
        let max = match leave {
            Leave::Go => BATCH,
            Leave::Probe => 1,
            Leave::Wait(time) => {
                tokio::select! {
                    () = sleep(time.min(PATIENCE)) => continue,
                    () = told_to_stop(&mut stop) => return,
                }
            }
        };
        let first = tokio::select! {
            place = places.clone().acquire_owned() => place,
            () = told_to_stop(&mut stop) => return,
        };
        // Closed by nobody.
        let Ok(mut held) = first else { return };
        let more = places.available_permits().min(max - 1);
        if more > 0
            && let Ok(permits) = places.clone().try_acquire_many_owned(u32::try_from(more).unwrap_or(1))
        {
            held.merge(permits);
        }
        let want = Want {
            max: held.num_permits(),
            lease: match &lane {
                Lane::Upstream(_) => lease(&live, &routes),
                Lane::Orphans | Lane::Everything => lease(&live, &names(&live, |_| true)),
            },
            patience: PATIENCE,
            routes: match &lane {
                Lane::Upstream(_) => Routes::Of(&routes),
                Lane::Orphans => Routes::Except(&routes),
                Lane::Everything => Routes::All,
            },
        };
        let mut receiving = pin!(queue.queue.receive(want, Now::read()));
        let taken = tokio::select! {
            taken = &mut receiving => taken,
            () = told_to_stop(&mut stop) => {
                // A file releases what was taken when it is opened next. A broker may be handing out just now, and would
                // wait for the lease's end.
                if !queue.queue.abilities().selects {
                    let _running = shared.queues().start();
                    give_back(&queue, receiving.await.unwrap_or_default()).await;
                }
                return;
            }
        };
        let taken = match taken {
            Ok(taken) => taken,
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(target: "hookmoat", queue = &*queue.name, %error, "no events can be taken; trying on");
                }
                failures = failures.saturating_add(1);
                drop(held);
                sleep(Duration::from_millis(200 << failures.min(5))).await;
                continue;
            }
        };
        failures = 0;
        for delivery in taken {
            let place = held.split(1);
            let (shared, queue) = (shared.clone(), queue.clone());
            let running = shared.queues().start();
            tokio::spawn(async move {
                attempt(&shared, &queue, delivery).await;
                drop((place, running));
            });
        }
    }
}

async fn give_back(queue: &OpenQueue, taken: Vec<Delivery>) {
    for Delivery { receipt, .. } in taken {
        let release = Settlement::Release { after: Duration::ZERO };
        if let Err(error) = queue.queue.settle(receipt, release, Now::read()).await {
            tracing::warn!(target: "hookmoat", queue = &*queue.name, %error, "an event waits for its lease's end");
        }
    }
}

/// Longer than the longest attempt of these routes may take, with its turn and its settlement.
fn lease(live: &Live, routes: &[Box<str>]) -> Duration {
    let timeout = |name: &str| {
        let route = name.split_once('/').map_or(name, |(route, _)| route);
        Some(live.route(route)?.deliver.as_ref()?.retry.timeout)
    };
    let longest = routes.iter().filter_map(|name| timeout(name)).max();
    longest.unwrap_or(crate::policy::Retry::default().timeout) + LEASE_MARGIN
}
