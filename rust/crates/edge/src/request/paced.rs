//! An app's body that may be idle no longer than its port says (`http_options.idle_timeout`).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::machines::app_body::AppBody;
use crate::request::body::Broke;
use crate::request::source::Source;

/// A body as an app says it.
#[derive(Debug)]
pub(crate) struct Paced {
    body: AppBody,
    /// `None` where the port says nothing.
    idle: Option<Box<Idle>>,
}

/// How long nothing was said.
#[derive(Debug)]
struct Idle {
    within: Duration,
    sleep: Pin<Box<Sleep>>,
    /// The clock runs: the client waits for the app. While it does not read, nothing is asked.
    running: bool,
    /// The client's body, which may move meanwhile.
    source: Option<Arc<Source>>,
    came: u64,
}

impl Paced {
    /// `source` is the body of the request.
    pub(crate) fn new(
        body: AppBody,
        within: Option<Duration>,
        source: Option<&Arc<Source>>,
    ) -> Self {
        let idle = within.map(|within| {
            Box::new(Idle {
                within,
                sleep: Box::pin(sleep(within)),
                running: false,
                source: source.cloned(),
                came: 0,
            })
        });
        Paced { body, idle }
    }
}

impl Idle {
    /// Ready once neither side has said anything for so long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.running {
            self.begin();
        }
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if self.came() == self.came {
                return Poll::Ready(());
            }
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.running = true;
        self.came = self.came();
        self.sleep.as_mut().reset(Instant::now() + self.within);
    }

    fn came(&self) -> u64 {
        let source = self.source.as_ref();
        source.map_or(0, |source| source.came.load(Relaxed))
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(idle) = &mut this.idle else {
            return polled;
        };
        if polled.is_ready() {
            idle.running = false;
            return polled;
        }
        ready!(idle.poll(cx));
        Poll::Ready(Some(Err("the app was idle for too long".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
