//! A body as it comes by a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_LENGTH;
use tokio::sync::oneshot;

use super::activity::Open;
use super::tunnel::Tunnel;

/// The body of a message; what was read of it may be sent anew by the other end.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: Option<RecvStream>,
    /// Bytes that are still to come, where the head says so; h2 holds the other end to it.
    left: Option<u64>,
    has_trailers_only: bool,
    /// Of a response.
    asked: Option<Asked>,
}

/// What a response has of its request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) open: Open,
    /// Told that the response is over, where the request is not; dropped, that one ends with it.
    pub(super) upload: Option<oneshot::Sender<()>>,
    /// The other way of a CONNECT that was answered with success.
    pub(super) sends: Option<SendStream<Bytes>>,
}

impl StreamBody {
    /// The body of a message that has such a head.
    pub(crate) fn new(stream: RecvStream, head: &HeaderMap) -> Self {
        let said = head
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok());
        StreamBody {
            left: said.and_then(|length| length.parse().ok()),
            stream: Some(stream),
            has_trailers_only: false,
            asked: None,
        }
    }

    /// The body of the response to what was asked here.
    pub(super) fn of_response(stream: RecvStream, head: &HeaderMap, asked: Asked) -> Self {
        let mut body = StreamBody::new(stream, head);
        body.asked = Some(asked);
        body
    }

    pub(crate) fn empty() -> Self {
        StreamBody {
            stream: None,
            left: Some(0),
            has_trailers_only: false,
            asked: None,
        }
    }

    /// Take it as a tunnel, if it is that of a CONNECT that was answered with success.
    pub(crate) fn tunnel(&mut self) -> Option<Tunnel> {
        let sends = self.asked.as_mut()?.sends.take()?;
        let open = self.asked.take().map(|asked| asked.open);
        let receives = self.stream.take()?;
        Some(Tunnel::new(sends, receives, open))
    }

    fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(None);
        };
        if !self.has_trailers_only {
            if let Some(data) = ready!(stream.poll_data(cx)) {
                return Poll::Ready(Some(data.map(|data| {
                    // Of a stream that has ended nothing more can come.
                    let _ = stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    Frame::data(data)
                })));
            }
            self.has_trailers_only = true;
        }
        let trailers = ready!(stream.poll_trailers(cx));
        self.end();
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
    }

    /// Whether what ended it says only that its request need not be sent to its end, which it may
    /// once the response is whole (RFC 9113 §8.1).
    fn is_whole(&self, ended: &h2::Error) -> bool {
        self.asked.is_some()
            && ended.reason() == Some(Reason::NO_ERROR)
            && self.left.is_none_or(|left| left == 0)
    }

    /// Nothing more will come of it.
    fn end(&mut self) {
        self.stream = None;
        if let Some(upload) = self.asked.take().and_then(|asked| asked.upload) {
            // It may have been sent meanwhile.
            let _ = upload.send(());
        }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.end();
        }
    }
}

impl Body for StreamBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        let next = ready!(this.poll_next(cx));
        if let Some(Err(error)) = &next
            && this.is_whole(error)
        {
            this.end();
            return Poll::Ready(None);
        }
        if let Some(asked) = &this.asked {
            asked.open.heard();
        }
        Poll::Ready(next)
    }

    fn is_end_stream(&self) -> bool {
        let over = |stream: &RecvStream| stream.is_end_stream();
        self.stream.as_ref().is_none_or(over)
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() {
            return SizeHint::with_exact(0);
        }
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
