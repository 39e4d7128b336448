//! What an app says before its response, such as early hints, for a client by HTTP/1.1.
//!
//! hyper's server sends nothing of the kind, so it is put between what hyper writes. That is safe
//! where hyper asks for a flush while a request is being answered: all that was to be written of
//! the response before has been given to this stream then, and nothing of the next one is there.
//! What could not be written until the response begins is left out, as RFC 8297 allows.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use hyper::{HeaderMap, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stall::Stall;

/// Of all that is said before one response.
const MOST_BYTES: usize = 16 * 1024;

/// What is to be said on a connection; one request is answered at a time.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    waiting: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    /// Counts requests; odd while one is being answered.
    turn: u64,
    /// Not written yet.
    bytes: Vec<u8>,
    /// Of this request, written or not.
    length: usize,
}

/// A request is being answered: it may be told of before its response.
#[derive(Debug)]
pub(crate) struct Turn {
    hints: Arc<Hints>,
    number: u64,
}

/// Says something to the client of one request, as long as that has no response.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    hints: Arc<Hints>,
    turn: u64,
}

impl Hints {
    /// Begin to answer a request.
    pub(crate) fn begin(self: &Arc<Self>) -> Turn {
        let mut said = self.said();
        said.turn += 1;
        said.length = 0;
        Turn {
            number: said.turn,
            hints: self.clone(),
        }
    }

    fn take(&self) -> Vec<u8> {
        self.waiting.store(false, Release);
        std::mem::take(&mut self.said().bytes)
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    pub(crate) fn teller(&self) -> Teller {
        Teller {
            hints: self.hints.clone(),
            turn: self.number,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut said = self.hints.said();
        said.turn += 1;
        said.bytes = Vec::new();
    }
}

impl Teller {
    /// Have it said; whether that may be. The client's own task has yet to be run.
    pub(crate) fn say(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let head = head(status, headers);
        let mut said = self.hints.said();
        if said.turn != self.turn || said.length + head.len() > MOST_BYTES {
            return false;
        }
        said.length += head.len();
        said.bytes.extend_from_slice(&head);
        self.hints.waiting.store(true, Release);
        true
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A client's stream, with what is said between what hyper writes.
#[derive(Debug)]
pub(crate) struct Interim<S> {
    stream: S,
    hints: Arc<Hints>,
    stall: Arc<Stall>,
    /// Begun to be written.
    rest: Vec<u8>,
    written: usize,
}

impl<S: AsyncWrite + Unpin> Interim<S> {
    pub(crate) fn new(stream: S, hints: Arc<Hints>, stall: Arc<Stall>) -> Self {
        Interim {
            stream,
            hints,
            stall,
            rest: Vec::new(),
            written: 0,
        }
    }

    /// Bring what was begun to its end.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.rest.len() {
            let left = &self.rest[self.written..];
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        (self.rest, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn has_rest(&self) -> bool {
        !self.rest.is_empty()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Interim<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Interim<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.has_rest() {
            ready!(self.poll_rest(cx))?;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.stall.heed(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.has_rest() {
            ready!(self.poll_rest(cx))?;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, pieces);
        self.stall.heed(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_rest() {
            ready!(self.poll_rest(cx))?;
        }
        if self.hints.waiting.load(Acquire) {
            self.rest = self.hints.take();
            ready!(self.poll_rest(cx))?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_rest() {
            ready!(self.poll_rest(cx))?;
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use hyper::header::{HeaderValue, LINK};

    use super::*;

    const HINT: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";

    /// Takes a few bytes at a time, and none where it is told to wait.
    #[derive(Debug, Default)]
    struct Taker {
        bytes: Vec<u8>,
        most: usize,
        room: usize,
    }

    impl AsyncWrite for Taker {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let count = bytes.len().min(self.most).min(self.room);
            if count == 0 {
                return Poll::Pending;
            }
            self.room -= count;
            self.bytes.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn stream() -> (Interim<Taker>, Arc<Hints>) {
        let hints = Arc::new(Hints::default());
        let taker = Taker {
            most: 7,
            room: usize::MAX,
            ..Taker::default()
        };
        (Interim::new(taker, hints.clone(), Arc::default()), hints)
    }

    fn hint(teller: &Teller) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(LINK, HeaderValue::from_static("</a.css>"));
        teller.say(StatusCode::from_u16(103).unwrap(), &headers)
    }

    fn cx() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn flush(stream: &mut Interim<Taker>) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_flush(&mut cx())
    }

    fn write(stream: &mut Interim<Taker>, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Poll::Ready(Ok(count)) = Pin::new(&mut *stream).poll_write(&mut cx(), bytes)
            else {
                panic!("no room");
            };
            bytes = &bytes[count..];
        }
    }

    #[test]
    fn a_hint_is_written_when_all_else_is() {
        let (mut stream, hints) = stream();
        let turn = hints.begin();
        assert!(hint(&turn.teller()));
        // The end of the response before.
        write(&mut stream, b"before");
        assert!(flush(&mut stream).is_ready());
        drop(turn);
        write(&mut stream, b"response");
        assert!(flush(&mut stream).is_ready());
        assert_eq!(stream.stream.bytes, [b"before", HINT, b"response"].concat());
    }

    #[test]
    fn what_was_begun_is_ended_before_anything_else() {
        let (mut stream, hints) = stream();
        let turn = hints.begin();
        assert!(hint(&turn.teller()));
        stream.stream.room = 10;
        assert!(flush(&mut stream).is_pending());
        drop(turn);
        assert!(
            Pin::new(&mut stream)
                .poll_write(&mut cx(), b"x")
                .is_pending()
        );
        stream.stream.room = usize::MAX;
        write(&mut stream, b"response");
        assert_eq!(stream.stream.bytes, [HINT, b"response"].concat());
    }

    #[test]
    fn what_comes_too_late_is_left_out() {
        let (mut stream, hints) = stream();
        let turn = hints.begin();
        let teller = turn.teller();
        assert!(hint(&teller));
        drop(turn);
        assert!(!hint(&teller));
        // Nor is it the next request's.
        let next = hints.begin();
        assert!(!hint(&teller));
        write(&mut stream, b"response");
        assert!(flush(&mut stream).is_ready());
        assert_eq!(stream.stream.bytes, b"response");
        drop(next);
    }

    #[test]
    fn no_more_is_said_than_a_client_should_take_in() {
        let (_, hints) = stream();
        let turn = hints.begin();
        let teller = turn.teller();
        let most = MOST_BYTES / HINT.len();
        assert!((0..most).all(|_| hint(&teller)));
        assert!(!hint(&teller));
        assert_eq!(hints.take().len(), most * HINT.len());
        assert!(!hint(&teller), "what is written counts too");
    }
}
