//! One timer for a whole connection, whatever it waits for.
//!
//! Nearly everything that has a deadline is over long before it. So a deadline costs nothing until something has to be
//! waited for, and then only where the timer would otherwise ring too late: it is set to ring within a second at
//! first, and to the deadline itself once it has rung for the same deadline before. A busy connection sets it about once
//! a second, an unused one twice in all.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// Longest wait until the first look at a new deadline.
const LOOK: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The deadline that was waited for when the timer was last set.
    set_for: Option<Instant>,
}

/// The deadline came first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl Timer {
    /// The future's output, unless `until` comes first. The future is asked first.
    pub(crate) async fn within<F: Future>(&mut self, until: Instant, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            self.poll_due(context, until).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Ready once `until` has come; else the task is woken in time to ask again.
    pub(crate) fn poll_due(&mut self, context: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleep = match &mut self.sleep {
            Some(sleep) if sleep.deadline() <= until => sleep,
            Some(sleep) => {
                sleep.as_mut().reset(until.min(Instant::now() + LOOK));
                self.set_for = Some(until);
                sleep
            }
            none => {
                self.set_for = Some(until);
                none.insert(Box::pin(sleep_until(until.min(Instant::now() + LOOK))))
            }
        };
        while sleep.as_mut().poll(context).is_ready() {
            let now = Instant::now();
            if now >= until {
                return Poll::Ready(());
            }
            let again = self.set_for.replace(until) == Some(until);
            sleep.as_mut().reset(if again { until } else { until.min(now + LOOK) });
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_met_to_the_millisecond_whatever_came_before() {
        let mut timer = Timer::default();
        for milliseconds in [1u64, 60_000, 10, 999, 1000, 1001, 5000, 60_000, 3, 0] {
            let begun = Instant::now();
            let until = begun + Duration::from_millis(milliseconds);
            assert_eq!(timer.within(until, pending::<()>()).await, Err(Elapsed));
            let over = (begun.elapsed() - Duration::from_millis(milliseconds)).as_millis();
            assert!(over <= 2, "{milliseconds} ms: {over} ms too late");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_in_time_is_returned() {
        let mut timer = Timer::default();
        let late = Duration::from_secs(50);
        for _ in 0..3 {
            let until = Instant::now() + late;
            assert_eq!(timer.within(until, std::future::ready(7)).await, Ok(7));
            assert_eq!(timer.within(until, tokio::time::sleep(late / 2)).await, Ok(()));
        }
        // The deadline has passed, but so has the wait for something else.
        assert_eq!(timer.within(Instant::now(), std::future::ready(7)).await, Ok(7));
    }
}
