//! A body as it comes by a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::CONTENT_LENGTH;

/// The body of a message; what was read of it may be sent anew by the other end.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: Option<RecvStream>,
    /// Bytes that are still to come, where the head says so; h2 holds the other end to it.
    left: Option<u64>,
    has_trailers_only: bool,
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
        }
    }

    pub(crate) fn empty() -> Self {
        StreamBody {
            stream: None,
            left: Some(0),
            has_trailers_only: false,
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
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        if !this.has_trailers_only {
            if let Some(data) = ready!(stream.poll_data(cx)) {
                return Poll::Ready(Some(data.map(|data| {
                    // Of a stream that has ended nothing more can come.
                    let _ = stream.flow_control().release_capacity(data.len());
                    this.left = this.left.map(|left| left.saturating_sub(data.len() as u64));
                    Frame::data(data)
                })));
            }
            this.has_trailers_only = true;
        }
        let trailers = ready!(stream.poll_trailers(cx));
        this.stream = None;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error)),
        })
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
