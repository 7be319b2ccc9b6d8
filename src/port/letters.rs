//! Looking at the dead letters of a broker that only hands out: they are taken one after the other, and all that are still
//! there go back in the end. What differs from broker to broker is behind [`Letters`]; the walk is here.

use super::inspect::{Action, Filter, LOOKED_AT, Listing, Page, Progress, Summary, Sweep};
use super::queue::{Event, EventUid, QueueError};
use crate::request::Now;
use async_trait::async_trait;
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// A list ends after this time, with what it found.
const LISTING: Duration = Duration::from_secs(30);

/// A dead letter that was handed out.
pub(super) struct Letter<H> {
    /// By which it is answered for.
    pub(super) handle: H,
    pub(super) summary: Summary,
    /// Without a route when it is not ours.
    pub(super) event: Event,
    pub(super) ours: bool,
}

/// Dead letters that nobody else has meanwhile.
#[async_trait]
pub(super) trait Letters: Send + Sized {
    type Handle: Send;

    async fn next(&mut self) -> Result<Option<Letter<Self::Handle>>, QueueError>;

    /// It stays a dead letter.
    fn keep(&mut self, letter: Letter<Self::Handle>);

    /// How many are held that go back in the end.
    fn held(&self) -> usize;

    /// Sends it once more where that is asked for, and then takes it away: a crash in between makes a second copy, never
    /// none.
    async fn take_away(&mut self, letter: Letter<Self::Handle>, action: Action) -> Result<(), QueueError>;

    /// All that are held go back to where they were.
    async fn give_back(self);
}

pub(super) async fn list(
    mut letters: impl Letters,
    filter: &Filter,
    after: Option<EventUid>,
    limit: usize,
    now: Now,
) -> Result<Listing, QueueError> {
    let mut page = Page::new(after, limit);
    let until = Instant::now() + LISTING;
    let found = loop {
        match letters.next().await {
            Ok(Some(letter)) => {
                if filter.fits(&letter.summary, now) {
                    page.add(letter.summary.clone());
                }
                letters.keep(letter);
            }
            Ok(None) => break Ok(true),
            Err(error) => break Err(error),
        }
        if letters.held() >= LOOKED_AT || Instant::now() > until {
            break Ok(false);
        }
    };
    letters.give_back().await;
    found.map(|complete| page.listing(complete))
}

pub(super) async fn show(mut letters: impl Letters, uid: EventUid) -> Result<Option<(Summary, Event)>, QueueError> {
    let found = loop {
        match letters.next().await {
            Ok(Some(letter)) => {
                let found = (letter.summary.uid == uid).then(|| (letter.summary.clone(), letter.event.clone()));
                letters.keep(letter);
                if found.is_some() || letters.held() >= LOOKED_AT {
                    break Ok(found);
                }
            }
            Ok(None) => break Ok(None),
            Err(error) => break Err(error),
        }
    };
    letters.give_back().await;
    found
}

pub(super) async fn sweep(
    mut letters: impl Letters,
    sweep: &Sweep,
    progress: &Progress,
    now: Now,
) -> Result<(), QueueError> {
    let ended = sweep_all(&mut letters, sweep, progress, now).await;
    letters.give_back().await;
    ended
}

async fn sweep_all(letters: &mut impl Letters, sweep: &Sweep, progress: &Progress, now: Now) -> Result<(), QueueError> {
    let mut moved = HashSet::new();
    while let Some(letter) = letters.next().await? {
        let uid = letter.summary.uid;
        // What is not ours would come back as a dead letter at once; what was moved and came back stays.
        let fits = sweep.filter.fits(&letter.summary, now)
            && (letter.ours || sweep.action == Action::Purge)
            && !moved.contains(&uid);
        if fits && !sweep.dry_run {
            letters.take_away(letter, sweep.action).await?;
            moved.insert(uid);
        } else {
            letters.keep(letter);
        }
        progress.add(1, u64::from(fits));
        if letters.held() >= LOOKED_AT {
            let why = format!("stopped behind {LOOKED_AT} dead letters that do not fit: replay or purge these first");
            return Err(QueueError::Unavailable(why));
        }
    }
    Ok(())
}
