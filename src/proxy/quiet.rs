//! Connections that wait for their peer and could be missed: when no place is left, the one that has waited longest is
//! closed to make room for a new one.
//!
//! A flood that fills all places would else lock everybody out for as long as an unused connection may stay. What it
//! could gain in turn is that others are closed for it. So a connection is closed only when its peer has said nothing for
//! a while, when nothing of a next request is there, and when none of its requests was a verified one: whoever holds a
//! secret keeps its connections, as long as they may stay anyway.
//!
//! Whoever waits comes here only after some time of silence, so nothing of this is on the way of a request.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

/// How long a connection has to be silent before it counts as quiet. A first packet that was lost comes again within it.
pub(super) const SILENCE: Duration = Duration::from_secs(2);

/// Those that wait, the oldest first. No more than there are connections.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    next: AtomicU64,
    waiting: Mutex<BTreeMap<u64, Waker>>,
}

/// The connection has to make room.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Shed;

impl Quiet {
    /// The future's output, unless the connection has to make room first. The future is asked first: what has come is
    /// not thrown away.
    pub(super) async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Shed> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let _place = Waiting { quiet: self, number };
        let (mut future, mut is_new) = (pin!(future), true);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            let mut waiting = self.waiting.lock();
            if is_new {
                is_new = false;
                waiting.insert(number, context.waker().clone());
                return Poll::Pending;
            }
            match waiting.get_mut(&number) {
                Some(waker) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                None => Poll::Ready(Err(Shed)),
            }
        })
        .await
    }

    /// Tells the oldest to make room; false: there is none.
    pub(super) fn shed(&self) -> bool {
        let oldest = self.waiting.lock().pop_first();
        oldest.map(|(_, waker)| waker.wake()).is_some()
    }
}

/// One that waits, however that ends.
struct Waiting<'q> {
    quiet: &'q Quiet,
    number: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.quiet.waiting.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn the_oldest_makes_room_and_what_has_come_is_taken() {
        let quiet = Arc::new(Quiet::default());
        assert!(!quiet.shed());
        let wait = |future| {
            tokio::spawn({
                let quiet = quiet.clone();
                async move { quiet.wait(future).await }
            })
        };
        let (told, hear) = oneshot::channel::<()>();
        let oldest = wait(Box::pin(pending()) as std::pin::Pin<Box<dyn Future<Output = bool> + Send>>);
        let second = wait(Box::pin(async { hear.await.is_ok() }));
        let third = wait(Box::pin(pending()));
        while quiet.waiting.lock().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert!(quiet.shed());
        assert_eq!(oldest.await.unwrap(), Err(Shed));
        // Both at once: it has something to say.
        told.send(()).unwrap();
        assert!(quiet.shed());
        assert_eq!(second.await.unwrap(), Ok(true));
        third.abort();
        assert!(third.await.is_err());
        assert!(quiet.waiting.lock().is_empty());
        assert!(!quiet.shed());
    }
}
