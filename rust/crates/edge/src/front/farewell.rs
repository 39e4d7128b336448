//! The end of a WebSocket that neither side has asked for: both are told by a Close (1001), and
//! have a moment to answer.
//!
//! For a drain that comes to its end, and for a machine that is gone or suspended. Only the edge
//! that the client came to does it, and only between messages: one that is on its way arrives
//! whole, or nothing is put behind a part of it. Used by `tunnel`.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use super::frames::{Frames, going_away, going_away_masked};
use super::relay::{Side, relay};
use super::worker::Worker;
use crate::drain::{self, Phases};

/// When a WebSocket is ended, and how long that may take.
#[derive(Debug)]
pub(crate) struct Farewell {
    phases: Phases,
    within: Duration,
}

impl Farewell {
    pub(crate) fn of(worker: &Worker) -> Self {
        Farewell {
            phases: worker.phases.clone(),
            within: drain::parting_time(&worker.edge.config),
        }
    }

    /// Join a WebSocket's two sides as `relay` does, until both have ended, or a while after the
    /// process or the machine goes; `gone` is ready when the machine is.
    ///
    /// # Errors
    /// One of them broke, or did not end in time.
    pub(crate) async fn relay<C, A>(
        mut self,
        client: C,
        app: A,
        (from_client, to_client): (&AtomicU64, &AtomicU64),
        gone: impl Future<Output = ()>,
    ) -> io::Result<()>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        A: AsyncRead + AsyncWrite + Unpin,
    {
        let due = AtomicBool::new(false);
        let mut client = Speaker::new(client, &due, going_away_masked(rand::random()));
        let mut app = Speaker::new(app, &due, going_away());
        let mut relaying = pin!(relay(&mut client, &mut app, from_client, to_client));
        tokio::select! {
            joined = relaying.as_mut() => return joined,
            () = drain::parting(&mut self.phases) => {}
            () = gone => {}
        }
        // Both are read anew when this is polled next, which is at once.
        due.store(true, Relaxed);
        timeout(self.within, relaying).await?
    }
}

/// One side of a WebSocket: what it says, and a Close in its name once that is due.
struct Speaker<'a, S> {
    stream: S,
    frames: Frames,
    due: &'a AtomicBool,
    /// What is left to be said of the Close.
    close: Bytes,
    state: State,
}

#[derive(PartialEq)]
enum State {
    /// What it says counts.
    Open,
    /// A Close is said in its name.
    Closing,
    /// What it says until its own Close, or its end, is for nobody.
    Closed,
}

impl<'a, S: AsyncRead + Unpin> Speaker<'a, S> {
    fn new(stream: S, due: &'a AtomicBool, close: Bytes) -> Self {
        Speaker {
            stream,
            frames: Frames::default(),
            due,
            close,
            state: State::Open,
        }
    }

    /// Take what has come since there was so much: all of it, the rest of a message after which
    /// the Close is due, or nothing.
    fn heed(&mut self, into: &mut ReadBuf<'_>, before: usize) {
        let came = &into.filled()[before..];
        let mut counts = 0;
        if self.state == State::Open && !self.due.load(Relaxed) {
            self.frames.pass(came);
            return;
        }
        if self.state == State::Open {
            while counts < came.len() && !self.frames.is_between() && !self.frames.is_closed() {
                counts += self.frames.pass_one(&came[counts..]);
            }
            if self.frames.is_between() {
                self.state = State::Closing;
            }
        }
        // It may have closed by itself behind that.
        self.frames.pass(&came[counts..]);
        into.set_filled(before + counts);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Speaker<'_, S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let due = this.due.load(Relaxed);
            if due && this.state == State::Open && this.frames.is_between() {
                this.state = State::Closing;
            }
            if this.state == State::Closing {
                let count = this.close.len().min(into.remaining());
                into.put_slice(&this.close.split_to(count));
                if this.close.is_empty() {
                    this.state = State::Closed;
                }
                return Poll::Ready(Ok(()));
            }
            if due && this.frames.is_closed() {
                return Poll::Ready(Ok(()));
            }
            let before = into.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
            if into.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            this.heed(into, before);
            if into.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Speaker<'_, S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for Speaker<'_, S> {}
