//! A request as it came from a client or from another host's edge, by either version of HTTP.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Request, StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use crate::front::interim::{self, Turn};
use crate::front::relay::Side;
use crate::request::body::Broke;
use crate::request::headers;
use crate::streams::{self, Beside, StreamBody};

/// A request, with what leads back to who asks beside the response.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) request: Request<ClientBody>,
    /// For what is said before the response, where that can be.
    pub(crate) hints: Option<Hints>,
    /// What the stream of a CONNECT becomes.
    pub(crate) tunnel: Option<Opening>,
}

/// Its body.
#[derive(Debug)]
pub(crate) enum ClientBody {
    Line(Incoming),
    Stream(StreamBody),
}

/// What is said before the response, from when a request comes until it is answered.
#[derive(Debug)]
pub(crate) enum Hints {
    Line(Turn),
    Stream(Arc<streams::Hints>),
}

/// Says something to who asks, as long as there is no response.
#[derive(Clone, Debug)]
pub(crate) enum Teller {
    Line(interim::Teller),
    Stream(Arc<streams::Hints>),
}

/// What a connection or a stream becomes a tunnel by, once it is answered so.
#[derive(Debug)]
pub(crate) enum Opening {
    Connection(OnUpgrade),
    Stream(oneshot::Receiver<streams::Tunnel>),
    /// A stream that was asked for, and answered so.
    Asked(Box<streams::Tunnel>),
}

/// Bytes both ways.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

impl Side for Box<dyn Duplex> {}

impl Arrived {
    /// By HTTP/1: `turn` begins to answer it, for a client that can be told something before.
    pub(crate) fn by_line(request: Request<Incoming>, turn: impl FnOnce() -> Turn) -> Self {
        let told = request.version() == Version::HTTP_11;
        Arrived {
            request: request.map(ClientBody::Line),
            hints: told.then(turn).map(Hints::Line),
            tunnel: None,
        }
    }

    /// By HTTP/2.
    pub(crate) fn by_stream(request: Request<StreamBody>, beside: Beside) -> Self {
        Arrived {
            request: request.map(ClientBody::Stream),
            hints: Some(Hints::Stream(beside.hints)),
            tunnel: beside.tunnel.map(Opening::Stream),
        }
    }

    /// What it comes to if it is to become a tunnel.
    pub(crate) fn opening(&mut self) -> Opening {
        let by_line = || Opening::Connection(hyper::upgrade::on(&mut self.request));
        self.tunnel.take().unwrap_or_else(by_line)
    }
}

impl Hints {
    pub(crate) fn teller(&self) -> Teller {
        match self {
            Hints::Line(turn) => Teller::Line(turn.teller()),
            Hints::Stream(hints) => Teller::Stream(hints.clone()),
        }
    }
}

impl Teller {
    /// Pass on what an app answers to a request before its response; `task` is the one that
    /// serves who asks, as another one hears of it.
    pub(crate) fn listen<B>(&self, request: &mut Request<B>, task: Waker) {
        let teller = self.clone();
        hyper::ext::on_informational(request, move |response| {
            if teller.tell(response.status(), response.headers()) {
                task.wake_by_ref();
            }
        });
    }

    /// Have it said; whether that may be. The task that serves who asks has yet to be run.
    pub(crate) fn tell(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        // 100 is the edge's own to say, 101 is a response.
        if !(102..200).contains(&status.as_u16()) {
            return false;
        }
        let mut headers = headers.clone();
        headers::to_interim(&mut headers);
        match self {
            Teller::Line(teller) => teller.say(status, &headers),
            Teller::Stream(hints) => hints.say(status, headers),
        }
    }
}

impl Opening {
    /// The tunnel, once it is open.
    ///
    /// # Errors
    /// The answer opened none, or who asked is gone.
    pub(crate) async fn opened(self) -> io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Opening::Connection(upgrade) => {
                Box::new(TokioIo::new(upgrade.await.map_err(io::Error::other)?))
            }
            Opening::Stream(tunnel) => Box::new(tunnel.await.map_err(io::Error::other)?),
            Opening::Asked(tunnel) => tunnel,
        })
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        fn broke<E: Error + Send + Sync + 'static>(
            frame: Option<Result<Frame<Bytes>, E>>,
        ) -> Option<Result<Frame<Bytes>, Broke>> {
            frame.map(|frame| frame.map_err(Into::into))
        }
        match self.get_mut() {
            ClientBody::Line(body) => Pin::new(body).poll_frame(cx).map(broke),
            ClientBody::Stream(body) => Pin::new(body).poll_frame(cx).map(broke),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ClientBody::Line(body) => body.is_end_stream(),
            ClientBody::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ClientBody::Line(body) => body.size_hint(),
            ClientBody::Stream(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for dyn Duplex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Duplex")
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, LINK};

    use super::*;

    #[test]
    fn only_what_is_neither_the_edges_nor_a_response_is_said() {
        let hints = Arc::<streams::Hints>::default();
        let teller = Hints::Stream(hints.clone()).teller();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (LINK, "</a.css>"),
            (CONTENT_LENGTH, "5"),
            (CONNECTION, "close"),
            (HeaderName::from_static("fly-replay"), "app=other"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        for (status, said) in [
            (100, false),
            (101, false),
            (103, true),
            (199, true),
            (200, false),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(teller.tell(status, &headers), said, "{status}");
        }
        for head in hints.take() {
            assert_eq!(head.headers().len(), 1);
            assert_eq!(head.headers()[LINK], "</a.css>");
        }
    }
}
