//! A machine's body, read from the connection it comes on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::machines::framing::{Framing, Next};
use crate::machines::line::Line;
use crate::machines::upstream::Kept;
use crate::request::body::Broke;
use crate::streams::{StreamBody, Tunnel};

/// The body of a response.
#[derive(Debug)]
pub(crate) enum AppBody {
    /// By HTTP/1.1, of a request that has a body itself or asked for a tunnel.
    Hyper(Incoming),
    Line(LineBody),
    /// Of another host, or of an app that speaks HTTP/2.
    Stream(StreamBody),
}

/// A body that comes on a line, which it gives back at its end and closes before.
#[derive(Debug)]
pub(crate) struct LineBody {
    line: Option<Box<Line>>,
    framing: Framing,
    /// Where the line goes; `None` if it carries nothing more.
    home: Option<Arc<Kept>>,
}

impl LineBody {
    pub(super) fn new(line: Box<Line>, framing: Framing, home: Option<Arc<Kept>>) -> Self {
        let mut body = LineBody {
            line: Some(line),
            framing,
            home,
        };
        body.end_if_over();
        body
    }

    fn end_if_over(&mut self) {
        if self.framing.is_over()
            && let (Some(line), Some(home)) = (self.line.take(), self.home.take())
        {
            home.put_line(line);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Next, Broke>> {
        let Some(line) = &mut self.line else {
            return Poll::Ready(Ok(Next::Over));
        };
        loop {
            let next = self.framing.next(&mut line.came)?;
            if next != Next::More {
                return Poll::Ready(Ok(next));
            }
            if ready!(line.poll_read(cx))? == 0 {
                return Poll::Ready(match self.framing {
                    Framing::UntilClose => Ok(Next::Over),
                    _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                });
            }
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        let next = ready!(self.poll_next(cx));
        self.end_if_over();
        Poll::Ready(match next {
            Ok(Next::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Next::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Next::Over | Next::More) => {
                self.line = None;
                None
            }
            Err(error) => {
                self.line = None;
                Some(Err(error))
            }
        })
    }
}

impl AppBody {
    /// Take it as a tunnel, if it is that of a stream that has become one.
    pub(crate) fn tunnel(&mut self) -> Option<Tunnel> {
        match self {
            AppBody::Stream(body) => body.tunnel(),
            AppBody::Hyper(_) | AppBody::Line(_) => None,
        }
    }
}

impl Body for AppBody {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        match self.get_mut() {
            AppBody::Hyper(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            AppBody::Line(body) => body.poll_frame(cx),
            AppBody::Stream(body) => {
                let frame = ready!(Pin::new(body).poll_frame(cx));
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            AppBody::Hyper(body) => body.is_end_stream(),
            AppBody::Line(body) => body.line.is_none(),
            AppBody::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            AppBody::Hyper(body) => body.size_hint(),
            AppBody::Line(LineBody { framing, .. }) => match framing {
                Framing::Length(left) => SizeHint::with_exact(*left),
                Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
            },
            AppBody::Stream(body) => body.size_hint(),
        }
    }
}
