//! Bytes both ways between two streams, until both are at their end.
//!
//! What is read is written at once from a buffer that all connections of a thread share; only
//! what a slow reader does not take is kept with the connection. So one that is idle holds none.
//! Where much flows from one socket to another it goes by a `pipe`, and is not copied.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::pipe::Pipe;

/// Read at once.
const PIECE: usize = 128 * 1024;
/// After so much at once more is likely to follow.
const MUCH: usize = 16 * 1024;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; PIECE]);
}

/// One of two streams that are joined.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The socket that it is, if what is said by it is what the socket carries.
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl Side for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for TlsStream<S> {}

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
    A: Side,
    B: Side,
{
    let (mut there, mut back) = (Way::default(), Way::default());
    poll_fn(|cx| {
        let one = there.poll(cx, near, far, from_near)?;
        let other = back.poll(cx, far, near, to_near)?;
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
    /// By which much goes; at rest there is none.
    pipe: Option<Pipe>,
    much: bool,
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
    fn poll<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        counted: &AtomicU64,
    ) -> Poll<io::Result<()>> {
        if self.state == State::Over {
            return Poll::Ready(Ok(()));
        }
        ready!(self.write_kept(cx, to))?;
        while self.state == State::Open {
            if self.step(cx, from, to, counted)?.is_pending() {
                self.rest();
                if self.unflushed && Pin::new(&mut *to).poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
        }
        self.rest();
        ready!(Pin::new(&mut *to).poll_flush(cx))?;
        ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
        self.state = State::Over;
        Poll::Ready(Ok(()))
    }

    fn write_kept<W: Side>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        if let (Some(pipe), Some(to)) = (&mut self.pipe, to.socket()) {
            ready!(pipe.poll_drain(cx, to))?;
        }
        while self.written < self.kept.len() {
            let rest = &self.kept[self.written..];
            self.written += ready!(wrote(Pin::new(&mut *to).poll_write(cx, rest)))?;
        }
        if !self.kept.is_empty() {
            (self.kept, self.written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Read a piece and write it; ready if there may be more.
    fn step<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        counted: &AtomicU64,
    ) -> io::Result<Poll<()>> {
        if self.much
            && let (Some(from), Some(to)) = (from.socket(), to.socket())
            && let Some(pipe) = self.pipe.take().or_else(Pipe::take)
        {
            return self.pass(cx, from, to, pipe, counted);
        }
        SHARED.with_borrow_mut(|shared| self.copy(cx, from, to, shared, counted))
    }

    fn pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        mut pipe: Pipe,
        counted: &AtomicU64,
    ) -> io::Result<Poll<()>> {
        let mut passed = pipe
            .poll_fill(cx, from)?
            .map(|count| self.came(count, counted));
        if passed.is_ready() {
            passed = pipe.poll_drain(cx, to)?;
        }
        self.pipe = Some(pipe);
        Ok(passed)
    }

    fn copy<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        shared: &mut [u8],
        counted: &AtomicU64,
    ) -> io::Result<Poll<()>> {
        let mut piece = ReadBuf::new(shared);
        if Pin::new(from).poll_read(cx, &mut piece)?.is_pending() {
            return Ok(Poll::Pending);
        }
        let mut rest = piece.filled();
        self.came(rest.len(), counted);
        while !rest.is_empty() {
            match wrote(Pin::new(&mut *to).poll_write(cx, rest))? {
                Poll::Ready(count) => rest = &rest[count..],
                Poll::Pending => {
                    self.kept.extend_from_slice(rest);
                    return Ok(Poll::Pending);
                }
            }
        }
        Ok(Poll::Ready(()))
    }

    /// So many bytes were read; none are the end.
    fn came(&mut self, count: usize, counted: &AtomicU64) {
        if count == 0 {
            self.state = State::Ending;
            return;
        }
        counted.fetch_add(count as u64, Relaxed);
        self.much = count >= MUCH;
        self.unflushed = true;
    }

    /// Hold a pipe no longer than there is something in it.
    fn rest(&mut self) {
        if let Some(pipe) = self.pipe.take_if(|pipe| pipe.is_empty()) {
            pipe.give_back();
        }
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    impl Side for DuplexStream {}

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
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

    /// Both ends of a connection.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (one, other) = tokio::join!(TcpStream::connect(address), listener.accept());
        (one.unwrap(), other.unwrap().0)
    }

    /// Bytes of which no two stretches are alike.
    fn many() -> Vec<u8> {
        let mut state = 1_u64;
        let word = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 32) as u32
        };
        let words = std::iter::repeat_with(word).take(2 << 20);
        words.flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn much_goes_between_sockets_as_it_was_said() {
        run(async {
            let (mut client, mut near) = connection().await;
            let (mut app, mut far) = connection().await;
            let counts = (AtomicU64::new(0), AtomicU64::new(0));
            let sent = many();
            let talk = async {
                let (mut reads, mut writes) = client.split();
                let say = async {
                    writes.write_all(&sent).await.unwrap();
                    writes.shutdown().await.unwrap();
                };
                let mut got = Vec::new();
                let (_, ()) = tokio::join!(reads.read_to_end(&mut got), say);
                assert!(got == sent);
            };
            let echo = async {
                let (mut reads, mut writes) = app.split();
                tokio::io::copy(&mut reads, &mut writes).await.unwrap();
                writes.shutdown().await.unwrap();
            };
            let relaying = relay(&mut near, &mut far, &counts.0, &counts.1);
            let (relayed, (), ()) = tokio::join!(relaying, talk, echo);
            relayed.unwrap();
            let length = sent.len() as u64;
            assert_eq!(
                (counts.0.into_inner(), counts.1.into_inner()),
                (length, length)
            );
        });
    }

    #[test]
    fn a_socket_that_is_read_late_gets_all_of_it() {
        run(async {
            let (mut client, mut near) = connection().await;
            let (mut app, mut far) = connection().await;
            let counts = (AtomicU64::new(0), AtomicU64::new(0));
            let sent = many();
            let say = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
            };
            let hear = async {
                let mut got = Vec::new();
                // Not before nothing more goes: all that lies between is full.
                let mut before = u64::MAX;
                while before != counts.0.load(Relaxed) {
                    before = counts.0.load(Relaxed);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                assert!(before < sent.len() as u64);
                app.read_to_end(&mut got).await.unwrap();
                assert!(got == sent);
                drop(app);
            };
            let relaying = relay(&mut near, &mut far, &counts.0, &counts.1);
            let (relayed, (), ()) = tokio::join!(relaying, say, hear);
            relayed.unwrap();
        });
    }

    #[test]
    fn a_connection_at_rest_holds_no_pipe() {
        run(async {
            let (mut client, mut near) = connection().await;
            let (mut app, mut far) = connection().await;
            let (mut way, counted) = (Way::default(), AtomicU64::new(0));
            for _ in 0..8 {
                client.write_all(&vec![7; MUCH]).await.unwrap();
                let mut got = vec![0; MUCH];
                let passing = poll_fn(|cx| way.poll(cx, &mut near, &mut far, &counted));
                tokio::select! {
                    _ = passing => panic!("it is not over"),
                    read = app.read_exact(&mut got) => read.unwrap(),
                };
                assert!(way.pipe.is_none());
            }
            assert_eq!(counted.into_inner(), 8 * MUCH as u64);
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
