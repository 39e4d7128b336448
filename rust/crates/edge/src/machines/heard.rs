//! A stream of which it is told when the other end has said something and that was taken in.
//!
//! Who reads asks for more only when it has worked through what it got: so a connection by HTTP/2
//! knows the other end's settings, which come first, when this tells.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Heard<S> {
    stream: S,
    /// Something came.
    came: bool,
    /// Dropped, with the stream or before, to tell.
    tell: Option<oneshot::Sender<()>>,
}

impl<S> Heard<S> {
    /// The stream, and what ends once something was heard, or nothing will be.
    pub(super) fn on(stream: S) -> (Self, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let (came, tell) = (false, Some(tell));
        (Heard { stream, came, tell }, told)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Heard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.came {
            drop(self.tell.take());
        }
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.came |= polled.is_ready();
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Heard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn it_is_told_once_the_reader_asks_for_more() {
        let (mut stream, mut told) = Heard::on(&b"settings"[..]);
        let mut cx = Context::from_waker(Waker::noop());
        let mut room = [0; 16];
        for empty in [true, false] {
            let mut buffer = ReadBuf::new(&mut room);
            assert_eq!(
                told.try_recv(),
                Err(oneshot::error::TryRecvError::Empty),
                "{empty}"
            );
            assert!(
                Pin::new(&mut stream)
                    .poll_read(&mut cx, &mut buffer)
                    .is_ready()
            );
        }
        assert_eq!(told.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
