//! Bytes from one socket to another by way of a pipe: the kernel passes pages on, nobody copies.
//!
//! Only `relay` uses it, where much flows. What is in a pipe is the kernel's memory that no limit
//! of a socket counts, so there are few; who gets none copies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Held by one pipe: pages of a page's size, or fewer of greater ones.
const ROOM: usize = 1024 * 1024;
/// Of the whole process.
const MOST: usize = 64;
/// Kept for the next who needs one.
const SPARE: usize = 16;

static MADE: AtomicUsize = AtomicUsize::new(0);
static KEPT: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty one, if one is to be had.
    pub(super) fn take() -> Option<Self> {
        kept().pop().or_else(Self::new)
    }

    fn new() -> Option<Self> {
        if MADE.fetch_add(1, Relaxed) >= MOST {
            MADE.fetch_sub(1, Relaxed);
            return None;
        }
        let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC);
        let sized = pipe.and_then(|(reader, writer)| {
            fcntl_setpipe_size(&writer, ROOM).map(|_| (reader, writer))
        });
        match sized {
            Ok((reader, writer)) => Some(Pipe {
                reader,
                writer,
                held: 0,
            }),
            Err(error) => {
                // The kernel grants users only so many pages of pipes.
                log::debug!("no pipe of {ROOM} bytes is to be had: {error}");
                MADE.fetch_sub(1, Relaxed);
                None
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Leave it, empty, to the next.
    pub(super) fn give_back(self) {
        let mut kept = kept();
        if self.is_empty() && kept.len() < SPARE {
            kept.push(self);
        }
    }

    /// Take in, when it is empty, what has come; 0 bytes are the end.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || moved(from, &self.writer, ROOM));
            if let Some(moved) = unless_blocked(moved) {
                return Poll::Ready(moved.inspect(|count| self.held += count));
            }
        }
    }

    /// Give all of it away.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<()>> {
        while self.held > 0 {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || moved(&self.reader, to, self.held));
            match unless_blocked(moved) {
                None => {}
                Some(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Some(moved) => self.held -= moved?,
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        MADE.fetch_sub(1, Relaxed);
    }
}

fn kept() -> MutexGuard<'static, Vec<Pipe>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn moved(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    Ok(splice(from, None, to, None, most, flags)?)
}

/// What was moved, or why not; nothing if it has to be tried again once the socket is ready.
fn unless_blocked(moved: io::Result<usize>) -> Option<io::Result<usize>> {
    match moved {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            ) =>
        {
            None
        }
        moved => Some(moved),
    }
}
