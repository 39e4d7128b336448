//! A connection to a machine that speaks HTTP/1.1, and who keeps it going.
//!
//! Whoever waits for a response drives the connection in its own turns: a task of the connection's
//! own would be woken for every request, and wake its client in turn. While it is idle nobody
//! drives it; whether it was closed meanwhile is looked at when it is taken. A request with a body
//! must go on while its response is stuck, and what becomes a tunnel has its connection to itself:
//! those have it driven by a task, from then on for good.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::unconstrained;

use crate::alarm::Alarm;
use crate::bell::Bell;
use crate::front::gather::Gather;
use crate::request::body::Upload;

type Driven = Connection<TokioIo<Gather<TcpStream>>, Upload>;

/// One connection; it carries one request at a time.
#[derive(Debug)]
pub(crate) struct Line {
    sender: SendRequest<Upload>,
    /// `None` when it is at its end, or a task drives it.
    connection: Option<Box<Driven>>,
    /// Rung when there is something to do on it.
    bell: Arc<Bell>,
    waker: Waker,
    /// For what its requests wait for.
    pub(crate) alarm: Alarm,
}

impl Line {
    /// Begin to speak HTTP on a connection.
    pub(crate) async fn on(stream: TcpStream) -> io::Result<Self> {
        let handshake = http1::Builder::new().handshake(TokioIo::new(Gather(stream)));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        let bell = Bell::new();
        Ok(Line {
            sender,
            connection: Some(Box::new(connection)),
            alarm: Alarm::of(Waker::from(bell.clone())),
            waker: Waker::from(bell.clone()),
            bell,
        })
    }

    /// Give the connection to a task of its own.
    pub(crate) fn set_going(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.alarm = Alarm::default();
            tokio::spawn(async move {
                // Whoever sends on it is told of its end.
                let _ = connection.with_upgrades().await;
            });
        }
    }

    /// Send a request, and wait for its response.
    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        let sending = self.sender.try_send_request(request);
        if self.connection.is_none() {
            return sending.await;
        }
        // Nobody would wake it if tokio made it wait for the task's next turn.
        let mut sending = pin!(unconstrained(sending));
        poll_fn(|cx| {
            drive(&mut self.connection, &self.bell, &self.waker, cx.waker());
            // It comes from the connection alone, which was looked after right now.
            sending.as_mut().poll(&mut nobody())
        })
        .await
    }

    /// Read the response's body.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.connection.is_none() {
            return Pin::new(body).poll_frame(cx);
        }
        // What this rings for is looked at right here.
        self.bell.heard_by(Waker::noop());
        // Twice, for who waits for more may have the connection read more.
        for _ in 0..2 {
            let polled = Pin::new(&mut *body).poll_frame(&mut nobody());
            if polled.is_ready() || !self.drive(cx.waker()) {
                return polled;
            }
        }
        Pin::new(body).poll_frame(&mut nobody())
    }

    /// Nobody waits for anything on it any more.
    pub(crate) fn rest(&mut self) {
        self.bell.heard_by(Waker::noop());
        if !self.is_ready() {
            // The end of the response may have brought the end of the connection.
            self.look();
        }
    }

    /// Look whether anything happened to it while nobody drove it.
    pub(crate) fn look(&mut self) {
        self.drive(Waker::noop());
    }

    /// Whether a request may be sent on it now, as far as was seen.
    pub(crate) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn drive(&mut self, task: &Waker) -> bool {
        drive(&mut self.connection, &self.bell, &self.waker, task)
    }
}

/// Do what there is to do on a connection, and have the task woken when there is more; whether
/// there was any.
fn drive(connection: &mut Option<Box<Driven>>, bell: &Bell, waker: &Waker, task: &Waker) -> bool {
    bell.heard_by(task);
    bell.attend(|| {
        if let Some(driven) = connection {
            let polled = Pin::new(driven).poll(&mut Context::from_waker(waker));
            if polled.is_ready() {
                *connection = None;
            }
        }
    })
}

fn nobody() -> Context<'static> {
    Context::from_waker(Waker::noop())
}
