//! A stream that carries bytes both ways (CONNECT, RFC 9113 §8.5 and RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::activity::Open;
use super::sending::{as_io, poll_room};

/// Written at once.
const PIECE: usize = 64 * 1024;

#[derive(Debug)]
pub(crate) struct Tunnel {
    sends: SendStream<Bytes>,
    receives: RecvStream,
    /// Came, and is not read yet.
    rest: Bytes,
    /// Of one that was asked for here.
    open: Option<Open>,
}

impl Tunnel {
    pub(super) fn new(sends: SendStream<Bytes>, receives: RecvStream, open: Option<Open>) -> Self {
        Tunnel {
            sends,
            receives,
            rest: Bytes::new(),
            open,
        }
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.rest.is_empty() {
            match ready!(this.receives.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => {
                    this.rest = data;
                    if let Some(open) = &this.open {
                        open.heard();
                    }
                }
                // That it wants no more is no failure of a tunnel.
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) =>
                {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(as_io(error))),
            }
        }
        let count = this.rest.len().min(into.remaining());
        into.put_slice(&this.rest[..count]);
        this.rest.advance(count);
        // Of a stream that has ended nothing more can come.
        let _ = this.receives.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sends = &mut self.get_mut().sends;
        let count = ready!(poll_room(sends, bytes.len().min(PIECE), cx)).map_err(as_io)?;
        let piece = Bytes::copy_from_slice(&bytes[..count]);
        Poll::Ready(sends.send_data(piece, false).map(|()| count).map_err(as_io))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's own task writes.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = self.get_mut().sends.send_data(Bytes::new(), true);
        Poll::Ready(ended.map_err(as_io))
    }
}
