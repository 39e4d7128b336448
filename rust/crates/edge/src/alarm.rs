//! A timer that is set anew for every request and hardly ever goes off.
//!
//! To set and to unset one of tokio's costs as much as to parse a request's head. This one leaves
//! it where it was set to for an earlier request, and moves it when it goes off too soon.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// So many alarms are kept for other waits.
const MOST_IDLE: usize = 256;

/// A timer for one thing at a time.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Whom it wakes when it goes off.
    heard_by: Option<Waker>,
}

impl Alarm {
    /// Await a future for so long.
    pub(crate) async fn within<F: Future>(
        &mut self,
        time: Duration,
        mut future: Pin<&mut F>,
    ) -> Option<F::Output> {
        let due = Instant::now() + time;
        poll_fn(|cx| {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(result));
            }
            self.poll_until(due, cx).map(|()| None)
        })
        .await
    }

    /// Wait until then; `cx` is woken at that time, or sooner.
    pub(crate) fn poll_until(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let due = due.into();
        let new = || Box::pin(tokio::time::sleep_until(due));
        let sleep = self.sleep.get_or_insert_with(new);
        if due < sleep.deadline() {
            sleep.as_mut().reset(due);
            self.heard_by = None;
        }
        let heard = |waker: &Waker| waker.will_wake(cx.waker());
        if !sleep.is_elapsed() && self.heard_by.as_ref().is_some_and(heard) {
            return Poll::Pending;
        }
        self.heard_by = Some(cx.waker().clone());
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= due || tokio::time::Instant::now() >= due {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(due);
        }
    }
}

/// Alarms between two waits, for whoever of a worker waits next.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<Vec<Alarm>>);

impl Alarms {
    pub(crate) fn take(&self) -> Alarm {
        self.idle().pop().unwrap_or_default()
    }

    pub(crate) fn keep(&self, alarm: Alarm) {
        let mut idle = self.idle();
        if idle.len() < MOST_IDLE {
            idle.push(alarm);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Alarm>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An alarm as hyper's timer, for a connection that waits for one thing at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct OneAlarm(Arc<Mutex<Alarm>>);

impl Timer for OneAlarm {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, due: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Waiting {
            alarm: self.clone(),
            due,
        })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, due: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Waiting>() {
            Some(waiting) => waiting.get_mut().due = due,
            None => *sleep = self.sleep_until(due),
        }
    }
}

struct Waiting {
    alarm: OneAlarm,
    due: Instant,
}

impl Future for Waiting {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut alarm = self.alarm.0.lock().unwrap_or_else(PoisonError::into_inner);
        alarm.poll_until(self.due, cx)
    }
}

impl Sleep for Waiting {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_goes_off_when_it_is_due_however_it_was_set_before() {
        let mut alarm = Alarm::default();
        for (left, millis) in [(3_600_000, 20), (5, 60), (3_600_000, 1), (1, 10)] {
            let begun = Instant::now();
            let cx = &mut Context::from_waker(Waker::noop());
            // As for a request that was answered before.
            let _ = alarm.poll_until(begun + Duration::from_millis(left), cx);
            let due = begun + Duration::from_millis(millis);
            poll_fn(|cx| alarm.poll_until(due, cx)).await;
            assert!(Instant::now() >= due);
        }
    }
}
