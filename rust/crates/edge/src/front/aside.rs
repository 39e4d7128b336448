//! Waiting for what hardly ever happens, beside what does all the time.
//!
//! A task that waits for several things polls them all whenever one of them wakes it. What is
//! awaited aside has a waker of its own, and is polled only when that was woken.

use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::bell::Bell;

/// Await a future, and leave it alone while something else wakes the task.
pub(crate) async fn aside<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let bell = Bell::new();
    let waker = Waker::from(bell.clone());
    poll_fn(move |cx| {
        bell.heard_by(cx.waker());
        let mut polled = Poll::Pending;
        bell.attend(|| {
            if polled.is_pending() {
                polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            }
        });
        polled
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_was_woken_and_not_with_its_task() {
        let (polls, happened) = (Cell::new(0), Notify::new());
        let mut notified = pin!(happened.notified());
        let mut waiting = pin!(aside(poll_fn(|cx| {
            polls.set(polls.get() + 1);
            notified.as_mut().poll(cx)
        })));
        let cx = &mut Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(waiting.as_mut().poll(cx).is_pending());
        }
        assert_eq!(polls.get(), 1);
        happened.notify_one();
        waiting.await;
        assert_eq!(polls.get(), 2);
    }
}
