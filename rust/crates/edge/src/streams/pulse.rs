//! Whether the other end of a connection is still there: it is asked by a ping now and then.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::activity::Activity;

pub(super) struct Pulse {
    pings: PingPong,
    every: Duration,
    within: Duration,
    /// Of a connection on which one that says something, or has nothing to say, is not asked.
    activity: Option<Arc<Activity>>,
    /// Until the next ping, or until the answer to the last one is late.
    sleep: Pin<Box<Sleep>>,
    asked: bool,
}

impl Pulse {
    /// Ask so often, and wait so long for an answer.
    pub(super) fn new(pings: PingPong, every: Duration, within: Duration) -> Self {
        Pulse {
            pings,
            every,
            within,
            activity: None,
            sleep: Box::pin(sleep(every)),
            asked: false,
        }
    }

    /// The same, only after so long a silence while a stream is open.
    pub(super) fn in_silence(self, activity: Arc<Activity>) -> Self {
        Pulse {
            activity: Some(activity),
            ..self
        }
    }

    /// Ready once the other end is gone; `cx` is woken when it has to be asked again.
    pub(super) fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.asked = false;
                        self.sleep.as_mut().reset(Instant::now() + self.every);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if !self.asked
                && let Some(activity) = &self.activity
            {
                let Some(quiet) = activity.quiet_since() else {
                    // Whoever begins a stream wakes the connection's task.
                    return Poll::Pending;
                };
                ready!(self.sleep.as_mut().poll(cx));
                let due = quiet + self.every;
                if due > Instant::now() {
                    self.sleep.as_mut().reset(due);
                    continue;
                }
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.asked || self.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.asked = true;
            self.sleep.as_mut().reset(Instant::now() + self.within);
        }
    }
}
