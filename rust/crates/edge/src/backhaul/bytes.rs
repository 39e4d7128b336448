//! Streams of bytes between hosts: a machine for one, here or by way of another host's edge.
//!
//! A stream is a CONNECT on the same connections that carry requests. It is open once the other
//! edge has a connection to a machine, so one that could not be had is sent back like a request.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backhaul::answer::{find, patience, told};
use crate::backhaul::order::{Bounce, Carry, ORDER, Order, Reply};
use crate::front::relay::{Side, relay};
use crate::front::worker::Worker;
use crate::machines::departure::departed;
use crate::machines::load::Slot;
use crate::machines::reach::{Patience, Scope, Search};
use crate::machines::reached::{Link, Reached};
use crate::machines::targets::{Handling, Targets};
use crate::machines::upstream::Need;
use crate::machines::wish::Wish;
use crate::metrics::{Connected, count};
use crate::request::arrived::Opening;
use crate::request::body::{Download, Upload};
use crate::request::refusal::{self, Refusal};
use crate::streams::Tunnel;

/// What the other edge has for itself, beside the time to find a machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A stream needs a connection that carried nothing yet.
const NEED: Need<'static> = Need {
    repeatable: false,
    fresh: true,
    path: None,
    becomes: None,
};

/// A machine that takes a stream of bytes.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) slot: Slot,
    pub(crate) stream: Bytes,
    pub(crate) targets: Arc<Targets>,
    /// The machine, where it is this edge's to see whether it is still there.
    pub(crate) here: Option<Arc<str>>,
}

/// A stream of bytes to a machine.
#[derive(Debug)]
pub(crate) enum Bytes {
    Here(TcpStream, #[expect(dead_code, reason = "held")] Connected),
    There(Box<Tunnel>),
}

/// Find a machine for a stream of bytes that came to an external port.
///
/// # Errors
/// No machine took it.
pub(crate) async fn open(
    worker: &Worker,
    port: u16,
    find: impl Fn() -> Result<Arc<Targets>, Refusal>,
) -> Result<Open, Refusal> {
    let patience = Patience::of(&worker.edge.config.limits);
    let at = (port, Handling::Bytes);
    let mut search = Search::new(worker, Wish::default(), at, patience, Scope::Everywhere);
    loop {
        let mut reached = search.next(NEED, &find).await?;
        let stream = match reached.link {
            Link::Bytes(stream, connected) => {
                return Ok(Open {
                    slot: reached.slot,
                    stream: Bytes::Here(stream, connected),
                    targets: reached.targets,
                    here: Some(reached.machine_id),
                });
            }
            // Nothing of the kind is found for bytes.
            Link::Here(_) | Link::Datagrams | Link::Lent => None,
            Link::There { .. } => match ask(worker, port, &mut reached).await {
                Ok(stream) => stream,
                Err((bounce, refusal)) => {
                    search.bounced(&reached, bounce, refusal);
                    continue;
                }
            },
        };
        match stream {
            Some(stream) => {
                return Ok(Open {
                    slot: reached.slot,
                    stream: Bytes::There(Box::new(stream)),
                    targets: reached.targets,
                    here: None,
                });
            }
            None => search.bounced(&reached, Bounce::Unable, refusal::host_broke_off()),
        }
    }
}

/// Ask another host's edge for a stream to a machine of its; nothing if it does not answer.
async fn ask(
    worker: &Worker,
    port: u16,
    reached: &mut Reached,
) -> Result<Option<Tunnel>, (Bounce, Refusal)> {
    let Link::There { stream, queue } = &mut reached.link else {
        return Ok(None);
    };
    count(&worker.edge.metrics.backhaul.sent);
    let carry = Carry {
        app: reached.targets.app_name().to_string(),
        app_id: reached.targets.app_id().to_owned(),
        port,
        handling: Handling::Bytes,
        machine: reached.machine_id.to_string(),
        queue_ms: u64::try_from(queue.as_millis()).unwrap_or(u64::MAX),
        ..Carry::default()
    };
    let mut request = Request::new(Upload::Empty);
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from_static("godwit:80");
    let order = Order::Carry(Box::new(carry)).value();
    request.headers_mut().insert(ORDER, order);
    let within = Duration::from_millis(worker.edge.config.limits.wake_ms) + ANSWER_WITHIN;
    let asked = timeout(within, stream.client.ask(request, |_, _| {})).await;
    let Ok(Ok(mut response)) = asked else {
        return Ok(None);
    };
    let refused = Reply::take(response.headers_mut()).and_then(|reply| reply.refusal);
    if let Some(refused) = refused {
        let bounce = refused.bounce.unwrap_or(Bounce::Unable);
        return Err((bounce, refused.refusal()));
    }
    if response.status() != StatusCode::OK {
        return Ok(None);
    }
    Ok(response.body_mut().tunnel())
}

/// Answer another edge that wants a stream to a machine of this host.
pub(super) async fn answer(
    worker: &Arc<Worker>,
    carry: &Carry,
    opening: Opening,
) -> Response<Download> {
    let at = (carry.port, Handling::Bytes);
    let wish = Wish::default().instance(&carry.machine, carry.only);
    let mut search = Search::new(worker, wish, at, patience(worker, carry), Scope::Here);
    let found = search.next(NEED, || find(worker, carry)).await;
    let reached = match found {
        Ok(reached) => reached,
        Err(refusal) => {
            count(&worker.edge.metrics.backhaul.bounced);
            let reply = Reply::refused(&refusal, Some(search.bounce()));
            return told(StatusCode::MISDIRECTED_REQUEST, &reply);
        }
    };
    let (mut slot, machine_id) = (reached.slot, reached.machine_id);
    let Link::Bytes(mut machine, connected) = reached.link else {
        return told(
            StatusCode::BAD_REQUEST,
            &Reply::refused(&refusal::no_order(), None),
        );
    };
    slot.set_tunnel();
    let reply = Reply {
        machine: machine_id.to_string(),
        active: slot.load().active(),
        ..Reply::default()
    };
    let (edge, alive) = (worker.edge.clone(), worker.alive.clone());
    tokio::spawn(async move {
        if let Ok(mut near) = opening.opened().await {
            // The client's own edge counts.
            let (to_machine, from_machine) = (AtomicU64::new(0), AtomicU64::new(0));
            tokio::select! {
                // Either side may end without a farewell; that is no failure of the edge.
                _ = relay(&mut near, &mut machine, &to_machine, &from_machine) => {}
                () = departed(&edge, &machine_id) => {}
            }
        }
        drop((connected, slot, alive));
    });
    told(StatusCode::OK, &reply)
}

impl Side for Bytes {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Bytes::Here(stream, _) => Some(stream),
            Bytes::There(_) => None,
        }
    }
}

impl AsyncRead for Bytes {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Bytes::Here(stream, _) => Pin::new(stream).poll_read(cx, into),
            Bytes::There(stream) => Pin::new(stream).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Bytes {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Bytes::Here(stream, _) => Pin::new(stream).poll_write(cx, data),
            Bytes::There(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Bytes::Here(stream, _) => Pin::new(stream).poll_flush(cx),
            Bytes::There(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Bytes::Here(stream, _) => Pin::new(stream).poll_shutdown(cx),
            Bytes::There(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
