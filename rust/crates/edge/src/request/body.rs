//! Bodies on their way: streamed as they come, counted, and tied to what ends with them.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::metrics::AppMetrics;
use crate::request::compress::Packed;
use crate::request::ending::Ending;
use crate::request::paced::Paced;
use crate::request::source::{Broken, Reading};

/// A client's body towards an app.
#[derive(Debug)]
pub(crate) enum Upload {
    Empty,
    Client {
        reading: Reading,
        /// Counted at the edge that the client came to.
        metrics: Option<Arc<AppMetrics>>,
    },
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let Upload::Client { reading, metrics } = self.get_mut() else {
            return Poll::Ready(None);
        };
        let frame = ready!(reading.poll(cx));
        if let (Some(Ok(frame)), Some(metrics)) = (&frame, metrics) {
            metrics.data_in.fetch_add(length(frame), Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Upload::Empty => true,
            Upload::Client { reading, .. } => reading.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Upload::Empty => SizeHint::with_exact(0),
            Upload::Client { reading, .. } => reading
                .left()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// A body towards a client.
#[derive(Debug)]
pub(crate) enum Download {
    /// The edge's own words.
    Page {
        text: Option<Bytes>,
        ending: Option<Ending>,
    },
    /// An app's body.
    App { body: Paced, ending: Option<Ending> },
    /// An app's body, compressed.
    Packed {
        body: Box<Packed<Paced>>,
        ending: Option<Ending>,
    },
}

/// What ends a body before its end.
pub(crate) type Broke = Box<dyn Error + Send + Sync>;

impl Download {
    /// The edge's own words; nothing for an empty text.
    pub(crate) fn page(text: String, ending: Option<Ending>) -> Self {
        let text = (!text.is_empty()).then(|| Bytes::from(text));
        Download::Page { text, ending }
    }

    /// An app's body; what hangs on it is let go when it is at its end.
    pub(crate) fn app(body: Paced, ending: Ending) -> Self {
        let mut download = Download::App {
            body,
            ending: Some(ending),
        };
        download.end_if_over();
        download
    }

    /// An app's body, compressed.
    pub(crate) fn packed(body: Packed<Paced>, ending: Ending) -> Self {
        Download::Packed {
            body: Box::new(body),
            ending: Some(ending),
        }
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        let (Download::Page { ending, .. }
        | Download::App { ending, .. }
        | Download::Packed { ending, .. }) = self;
        ending
    }

    fn end_if_over(&mut self) {
        if self.is_end_stream()
            && let Some(ending) = self.ending().take()
        {
            ending.complete();
        }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = Broke;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
        let this = self.get_mut();
        let frame = match this {
            Download::Page { text, .. } => text.take().map(|text| Ok(Frame::data(text))),
            Download::App { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
            Download::Packed { body, .. } => ready!(Pin::new(body).poll_frame(cx)),
        };
        match (&frame, this.ending()) {
            (Some(Ok(frame)), Some(ending)) => ending.sent(length(frame)),
            (None, ending) => {
                if let Some(ending) = ending.take() {
                    ending.complete();
                }
            }
            _ => {}
        }
        this.end_if_over();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Download::Page { text, .. } => text.is_none(),
            Download::App { body, .. } => body.is_end_stream(),
            Download::Packed { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Download::Page { text, .. } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
            Download::App { body, .. } => body.size_hint(),
            Download::Packed { .. } => SizeHint::default(),
        }
    }
}

fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}
