//! Bytes both ways between two streams, until both are at their end.
//!
//! What is read is written at once from a buffer that all connections of a thread share; only
//! what a slow reader does not take is kept with the connection. So one that is idle holds none.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Read at once.
const PIECE: usize = 128 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// Join two streams; an end of one is told to the other, whose own bytes go on. The counters are
/// told what `near` said and what it was told.
///
/// # Errors
/// One of them broke.
pub(crate) async fn relay<A, B>(
    near: &mut A,
    far: &mut B,
    from_near: &AtomicU64,
    to_near: &AtomicU64,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let one = there.poll(cx, Pin::new(&mut *near), Pin::new(&mut *far), from_near)?;
        let other = back.poll(cx, Pin::new(&mut *far), Pin::new(&mut *near), to_near)?;
        if one.is_ready() && other.is_ready() {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    })
    .await
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Read and not yet written.
    kept: Vec<u8>,
    written: usize,
    unflushed: bool,
    state: State,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Open,
    /// The reader is at its end, the writer is to be told.
    Ending,
    Over,
}

impl Way {
    fn poll<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        counted: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        if self.state == State::Over {
            return Poll::Ready(Ok(()));
        }
        ready!(self.write_kept(cx, to.as_mut()))?;
        while self.state == State::Open {
            let step = SHARED.with_borrow_mut(|shared| {
                self.step(cx, from.as_mut(), to.as_mut(), shared, counted)
            });
            if step?.is_pending() {
                if self.unflushed && to.as_mut().poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        ready!(to.as_mut().poll_flush(cx))?;
        ready!(to.as_mut().poll_shutdown(cx))?;
        self.state = State::Over;
        Poll::Ready(Ok(()))
    }

    fn write_kept<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        mut to: Pin<&mut W>,
    ) -> Poll<io::Result<()>> {
        while self.written < self.kept.len() {
            self.written += ready!(wrote(
                to.as_mut().poll_write(cx, &self.kept[self.written..])
            ))?;
        }
        if !self.kept.is_empty() {
            (self.kept, self.written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Read a piece and write it; ready if there may be more.
    fn step<R: AsyncRead, W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        from: Pin<&mut R>,
        mut to: Pin<&mut W>,
        shared: &mut [u8],
        counted: &AtomicU64,
    ) -> io::Result<Poll<()>> {
        let mut piece = ReadBuf::new(shared);
        if from.poll_read(cx, &mut piece)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let piece = piece.filled();
        if piece.is_empty() {
            self.state = State::Ending;
            return Ok(Poll::Ready(()));
        }
        counted.fetch_add(piece.len() as u64, Relaxed);
        self.unflushed = true;
        let mut written = 0;
        while written < piece.len() {
            match wrote(to.as_mut().poll_write(cx, &piece[written..]))? {
                Poll::Ready(count) => written += count,
                Poll::Pending => {
                    self.kept.extend_from_slice(&piece[written..]);
                    return Ok(Poll::Pending);
                }
            }
        }
        Ok(Poll::Ready(()))
    }
}

/// A writer that takes nothing takes nothing for ever.
fn wrote(polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
    polled.map(|count| match count {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        count => count,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn one_sides_end_leaves_the_other_speaking() {
        run(async {
            let (mut client, mut near) = duplex(16);
            let (mut app, mut far) = duplex(16);
            let (sent, got) = (AtomicU64::new(0), AtomicU64::new(0));
            let talk = async {
                client.write_all(&[7; 1000]).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, [9; 500]);
            };
            let serve = async {
                let mut asked = Vec::new();
                app.read_to_end(&mut asked).await.unwrap();
                assert_eq!(asked, [7; 1000]);
                app.write_all(&[9; 500]).await.unwrap();
                drop(app);
            };
            let relaying = relay(&mut near, &mut far, &sent, &got);
            let (relayed, (), ()) = tokio::join!(relaying, talk, serve);
            relayed.unwrap();
            assert_eq!((sent.into_inner(), got.into_inner()), (1000, 500));
        });
    }

    #[test]
    fn a_reader_that_takes_nothing_holds_no_more_than_a_piece() {
        run(async {
            let (mut client, mut near) = duplex(1 << 20);
            let (_app, mut far) = duplex(16);
            let counts = (AtomicU64::new(0), AtomicU64::new(0));
            client.write_all(&vec![1; 1 << 20]).await.unwrap();
            let mut relaying = Box::pin(relay(&mut near, &mut far, &counts.0, &counts.1));
            assert!(futures_poll(&mut relaying).await.is_none());
            drop(relaying);
            assert!(counts.0.into_inner() <= PIECE as u64);
        });
    }

    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        poll_fn(|cx| match Pin::new(&mut *future).poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}
