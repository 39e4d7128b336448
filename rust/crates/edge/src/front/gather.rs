//! A stream that writes small pieces as one: a head and a short body are copied together, which
//! is cheaper than to have the kernel gather them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From so many bytes on the kernel gathers.
const SMALL: usize = 2048;
/// Most are no longer than this; room for more takes longer to be emptied than to be filled.
const USUAL: usize = 512;

/// A stream whose small pieces are gathered here.
#[derive(Debug)]
pub(crate) struct Gather<S>(pub(crate) S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.0);
        if let [piece] = pieces {
            return stream.poll_write(cx, piece);
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        if length > SMALL {
            stream.poll_write_vectored(cx, pieces)
        } else if length > USUAL {
            stream.poll_write(cx, joined(pieces, &mut [0; SMALL]))
        } else {
            stream.poll_write(cx, joined(pieces, &mut [0; USUAL]))
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Pieces as one, in a place that has room for all of them.
fn joined<'a>(pieces: &[IoSlice<'_>], place: &'a mut [u8]) -> &'a [u8] {
    let mut length = 0;
    for piece in pieces {
        place[length..][..piece.len()].copy_from_slice(piece);
        length += piece.len();
    }
    &place[..length]
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes whatever it gets, and notes in how many pieces.
    #[derive(Default)]
    struct Taker {
        calls: Vec<usize>,
        bytes: Vec<u8>,
    }

    impl AsyncWrite for Taker {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.calls.push(pieces.len());
            for piece in pieces {
                self.bytes.extend_from_slice(piece);
            }
            Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_become_one_and_great_ones_stay_as_they_are() {
        let (long, great) = (vec![b'y'; USUAL], vec![b'x'; SMALL]);
        let mut stream = Gather(Taker::default());
        let cx = &mut Context::from_waker(Waker::noop());
        for body in [b"body".as_slice(), &long, &great] {
            let pieces = [IoSlice::new(b"head"), IoSlice::new(body)];
            let written = Pin::new(&mut stream).poll_write_vectored(cx, &pieces);
            assert!(matches!(written, Poll::Ready(Ok(count)) if count == 4 + body.len()));
        }
        assert_eq!(stream.0.calls, [1, 1, 2]);
        assert_eq!(
            stream.0.bytes,
            [&b"headbodyhead"[..], &long, b"head", &great].concat()
        );
    }
}
