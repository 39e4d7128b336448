//! Answering one stream: what is said before the response, the response, and what follows it.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use httpdate::HttpDate;
use hyper::body::Body;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::oneshot;

use super::hints::Hints;
use super::sending::send;
use super::tunnel::Tunnel;

/// A request to have the stream become a tunnel.
pub(super) struct Connect {
    pub(super) stream: RecvStream,
    /// Told once the answer says that it is one.
    pub(super) opened: oneshot::Sender<Tunnel>,
}

/// Await the answer to a stream's request and send it; who gives the request up ends all of it.
pub(super) async fn respond<F, B>(
    answering: F,
    hints: Arc<Hints>,
    connect: Option<Connect>,
    mut to: SendResponse<Bytes>,
    taken_within: Duration,
) where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let response = {
        let mut answering = pin!(answering);
        let answered = poll_fn(|cx| {
            if let Poll::Ready(response) = answering.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            for head in hints.take() {
                // Of a stream that was reset the next lines hear.
                let _ = to.send_informational(head);
            }
            to.poll_reset(cx).map(|_| None)
        });
        answered.await
    };
    hints.end();
    let Some(response) = response else {
        return;
    };
    let (mut parts, mut body) = response.into_parts();
    date(&mut parts.headers);
    let is_tunnel = connect.is_some() && parts.status.is_success();
    let over = !is_tunnel && body.is_end_stream();
    if !over
        && !is_tunnel
        && let Some(length) = body.size_hint().exact()
    {
        let said = parts.headers.entry(CONTENT_LENGTH);
        said.or_insert_with(|| HeaderValue::from(length));
    }
    let status: StatusCode = parts.status;
    let stream = match to.send_response(Response::from_parts(parts, ()), over) {
        Ok(stream) => stream,
        Err(error) => {
            log::debug!("a response {status} cannot be sent: {error}");
            to.send_reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    match connect {
        Some(connect) if is_tunnel => {
            // Nobody waits for it any more: it ends with this.
            let _ = connect
                .opened
                .send(Tunnel::new(stream, connect.stream, None));
        }
        _ if over => {}
        _ => {
            if let Err(error) = send(&mut body, stream, Some(taken_within)).await {
                log::debug!("a response {status} was not taken to its end: {error}");
            }
        }
    }
}

/// Say when a response came that does not say so itself (RFC 9110 §6.6.1).
fn date(headers: &mut HeaderMap) {
    headers.entry(DATE).or_insert_with(|| {
        let now = HttpDate::from(SystemTime::now()).to_string();
        HeaderValue::from_str(&now).expect("letters, digits and signs")
    });
}
