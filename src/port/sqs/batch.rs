//! Many calls in one: SQS takes up to ten messages in a request, and bills requests.
//!
//! A call that finds nothing under way goes at once, alone. Those that come while as many requests are under way as may be
//! wait, and go together.

use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Messages in a request.
const MOST: usize = 10;

/// What waits to be sent.
pub(super) struct Item<T> {
    pub(super) what: T,
    /// Its share of the largest request.
    pub(super) bytes: usize,
    pub(super) answer: oneshot::Sender<Result<(), Fault>>,
}

/// Why one of them, or the whole request, failed.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) why: String,
    /// The message itself is at fault, or its state: another try is of no use.
    pub(super) final_: bool,
}

/// Gathers items and hands them to `send` in groups, `at_once` groups at a time. Ends when nobody can add any more.
pub(super) async fn run<T, F>(
    mut items: mpsc::Receiver<Item<T>>,
    most_bytes: usize,
    at_once: usize,
    send: impl Fn(Vec<Item<T>>) -> F,
) where
    T: Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(at_once));
    let mut left: Option<Item<T>> = None;
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let first = match left.take() {
            Some(item) => item,
            None => match items.recv().await {
                Some(item) => item,
                None => return,
            },
        };
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < MOST {
            let Ok(item) = items.try_recv() else { break };
            if bytes + item.bytes > most_bytes {
                left = Some(item);
                break;
            }
            bytes += item.bytes;
            group.push(item);
        }
        let sent = send(group);
        tokio::spawn(async move {
            sent.await;
            drop(permit);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn items_that_wait_go_together_within_both_bounds() {
        let (sender, receiver) = mpsc::channel(100);
        let groups: Arc<Mutex<Vec<Vec<u32>>>> = Arc::default();
        let mut answers = Vec::new();
        for what in 0..25u32 {
            let (answer, answered) = oneshot::channel();
            let bytes = if what == 3 { 95 } else { 1 };
            sender.send(Item { what, bytes, answer }).await.expect("room");
            answers.push(answered);
        }
        drop(sender);
        let seen = groups.clone();
        run(receiver, 96, 1, move |group| {
            let seen = seen.clone();
            async move {
                seen.lock().push(group.iter().map(|item| item.what).collect());
                tokio::task::yield_now().await;
                for item in group {
                    let _ = item.answer.send(Ok(()));
                }
            }
        })
        .await;
        for answered in answers {
            answered.await.expect("an answer").expect("good");
        }
        let expected = [vec![0, 1, 2], vec![3, 4], (5..15).collect(), (15..25).collect()];
        assert_eq!(*groups.lock(), expected);
    }
}
