//! What a client speaks that agreed on nothing: HTTP/2 begins with words that no request of
//! HTTP/1 begins with (RFC 9113 §3.4).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PREFACE: &[u8; LENGTH] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const LENGTH: usize = 24;

/// A stream whose first bytes were looked at; who reads gets them too.
#[derive(Debug)]
pub(super) struct Begun<S> {
    stream: S,
    said: [u8; LENGTH],
    /// Of those, so many came.
    came: usize,
    /// Of those, so many were read.
    read: usize,
}

/// Wait for as much as tells whether a client speaks HTTP/2.
///
/// # Errors
/// The stream broke.
pub(super) async fn hear<S>(stream: S) -> io::Result<(bool, Begun<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut begun = Begun {
        stream,
        said: [0; LENGTH],
        came: 0,
        read: 0,
    };
    let is_http_2 = poll_fn(|cx| begun.poll_heard(cx)).await?;
    Ok((is_http_2, begun))
}

impl<S: AsyncRead + Unpin> Begun<S> {
    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.came < LENGTH {
            let mut buffer = ReadBuf::new(&mut self.said[self.came..]);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            let count = buffer.filled().len();
            self.came += count;
            if count == 0 || self.said[..self.came] != PREFACE[..self.came] {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.read == this.came {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        let count = buffer.remaining().min(this.came - this.read);
        buffer.put_slice(&this.said[this.read..this.read + count]);
        this.read += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    async fn heard(pieces: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = duplex(1024);
        let hearing = tokio::spawn(hear(server));
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        drop(client);
        let (is_http_2, mut begun) = hearing.await.unwrap().unwrap();
        let mut all = Vec::new();
        begun.read_to_end(&mut all).await.unwrap();
        (is_http_2, all)
    }

    #[tokio::test]
    async fn http_2_is_told_by_its_first_words_and_nothing_said_is_lost() {
        for (pieces, is_http_2) in [
            (&[&PREFACE[..], b"settings"][..], true),
            (&[&PREFACE[..3], &PREFACE[3..]], true),
            (&[&PREFACE[..3]], false),
            (&[b"PRI / HTTP/1.1\r\n", b"Host: a\r\n\r\n"], false),
            (&[b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"], false),
            (&[], false),
        ] {
            let said = pieces.concat();
            assert_eq!(heard(pieces).await, (is_http_2, said.clone()), "{said:?}");
        }
    }
}
