//! A client's body, kept from its beginning for as long as it may have to be sent again.

use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame};

use crate::request::arrived::ClientBody;
use crate::request::headers;
use crate::request::kept::{Beyond, Budget, Kept, Place};

/// Why a body does not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The client broke it off.
    Client,
    /// It is being sent somewhere else.
    Elsewhere,
}

/// The body, shared by the attempts to send it; only the newest gets it.
#[derive(Debug)]
pub(crate) struct Source {
    held: Mutex<Held>,
    /// Its length, where that is known from the start.
    pub(crate) length: Option<u64>,
    /// Bytes that came from the client, for whoever waits for a response.
    pub(crate) came: AtomicU64,
}

#[derive(Debug)]
struct Held {
    body: ClientBody,
    kept: Kept,
    trailers: Option<HeaderMap>,
    /// How much of the client's body there is still to come.
    rest: Rest,
    keeping: Keeping,
    attempt: u32,
    /// So many bytes the newest attempt has read.
    read: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    More,
    None,
    BrokenOff,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeping {
    All,
    /// It could not be kept.
    LetGo(Beyond),
    /// Nobody will ask for it again.
    Settled,
}

/// Where one attempt is in the body.
#[derive(Debug)]
pub(crate) struct Reading {
    source: Arc<Source>,
    attempt: u32,
    next: Place,
    bytes: u64,
    trailers_read: bool,
}

impl Source {
    /// A body of which no more is kept than the budget has room for.
    pub(crate) fn new(body: ClientBody, budget: &Arc<Budget>) -> Arc<Self> {
        let length = body.size_hint().exact();
        Arc::new(Source {
            held: Mutex::new(Held {
                body,
                kept: Kept::new(budget.clone()),
                trailers: None,
                rest: Rest::More,
                keeping: Keeping::All,
                attempt: 0,
                read: 0,
            }),
            length,
            came: AtomicU64::new(0),
        })
    }

    /// Read it from its beginning; attempts before this one get no more of it.
    pub(crate) fn read(self: &Arc<Self>) -> Reading {
        let mut held = self.held();
        held.attempt += 1;
        held.read = 0;
        Reading {
            source: self.clone(),
            attempt: held.attempt,
            next: Place::default(),
            bytes: 0,
            trailers_read: false,
        }
    }

    /// Whether all of it that was sent is still there.
    pub(crate) fn can_repeat(&self) -> bool {
        let held = self.held();
        held.keeping == Keeping::All && held.rest != Rest::BrokenOff
    }

    /// Whether it was let go because others keep as much as may be kept.
    pub(crate) fn found_no_room(&self) -> bool {
        self.held().keeping == Keeping::LetGo(Beyond::Budget)
    }

    pub(crate) fn client_broke_off(&self) -> bool {
        self.held().rest == Rest::BrokenOff
    }

    /// It will not be sent again: keep no more of it.
    pub(crate) fn settle(&self) {
        let mut held = self.held();
        held.keeping = Keeping::Settled;
        held.let_go_if_read();
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn keep(&mut self, data: &Bytes, next: &mut Place) {
        if self.keeping != Keeping::All {
            return;
        }
        match self.kept.keep(data) {
            Ok(()) => *next = self.kept.end(),
            Err(beyond) => self.keeping = Keeping::LetGo(beyond),
        }
    }

    /// What nobody will ask for again is kept until the newest attempt has it.
    fn let_go_if_read(&mut self) {
        if self.keeping == Keeping::Settled && self.read >= self.kept.bytes() as u64 {
            self.kept.clear();
        }
    }
}

impl Reading {
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let source = &self.source;
        let mut held = source.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.attempt != self.attempt {
            return Poll::Ready(Some(Err(Broken::Elsewhere)));
        }
        if let Some(kept) = held.kept.read(&mut self.next) {
            self.bytes += kept.len() as u64;
            held.read = self.bytes;
            held.let_go_if_read();
            return Poll::Ready(Some(Ok(Frame::data(kept))));
        }
        match held.rest {
            Rest::BrokenOff => return Poll::Ready(Some(Err(Broken::Client))),
            Rest::None if self.trailers_read => return Poll::Ready(None),
            Rest::None => {
                self.trailers_read = true;
                let trailers = held.trailers.clone();
                return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
            }
            Rest::More => {}
        }
        let mut frame = match ready!(Pin::new(&mut held.body).poll_frame(cx)) {
            None => {
                held.rest = Rest::None;
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                log::debug!("a client's body broke off: {error}");
                held.rest = Rest::BrokenOff;
                return Poll::Ready(Some(Err(Broken::Client)));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            source.came.fetch_add(data.len() as u64, Relaxed);
            held.keep(data, &mut self.next);
            self.bytes += data.len() as u64;
            held.read = self.bytes;
        } else if let Some(trailers) = frame.trailers_mut() {
            headers::drop_claims(trailers);
            held.trailers = Some(trailers.clone());
            held.rest = Rest::None;
            self.trailers_read = true;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    pub(crate) fn is_over(&self) -> bool {
        let held = self.source.held();
        let over = match held.rest {
            Rest::More => held.body.is_end_stream(),
            Rest::None => held.trailers.is_none() || self.trailers_read,
            Rest::BrokenOff => false,
        };
        over && held.attempt == self.attempt && self.bytes >= held.kept.bytes() as u64
    }

    /// What is left of it, if its length is known.
    pub(crate) fn left(&self) -> Option<u64> {
        Some(self.source.length?.saturating_sub(self.bytes))
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Broken::Client => "the client broke its body off",
            Broken::Elsewhere => "the body is sent elsewhere",
        })
    }
}

impl std::error::Error for Broken {}
