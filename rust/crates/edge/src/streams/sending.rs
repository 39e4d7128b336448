//! Sending a body on a stream, no faster than the other end takes it.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;
use tokio::time::timeout;

/// Send a body to its end; one that breaks off resets the stream, and so does an other end that
/// takes nothing of it for so long, if there is an end to that.
///
/// # Errors
/// The other end wants no more of it, or is gone.
pub(super) async fn send<B>(
    mut body: B,
    mut stream: SendStream<Bytes>,
    taken_within: Option<Duration>,
) -> Result<(), h2::Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(reset.map_or_else(|error| error, Into::into)));
            }
            Pin::new(&mut body).poll_frame(cx).map(Ok)
        });
        let frame = match frame.await? {
            None => return stream.send_data(Bytes::new(), true),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                let error = error.into();
                log::debug!("a body broke off: {error}");
                stream.send_reset(reason_of(&*error));
                return Ok(());
            }
        };
        match frame.into_data() {
            Ok(data) => {
                let over = body.is_end_stream();
                if !send_piece(data, over, &mut stream, taken_within).await? {
                    log::debug!("a body is not taken");
                    stream.send_reset(Reason::CANCEL);
                    return Ok(());
                }
                if over {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    return stream.send_trailers(trailers);
                }
            }
        }
    }
}

/// Send a piece of a body, as the other end takes it; whether it does within a time.
async fn send_piece(
    mut piece: Bytes,
    over: bool,
    stream: &mut SendStream<Bytes>,
    taken_within: Option<Duration>,
) -> Result<bool, h2::Error> {
    loop {
        let mut room = 0;
        if !piece.is_empty() {
            // Most have room: for those no clock is read.
            let now = poll_fn(|cx| Poll::Ready(poll_room(stream, piece.len(), cx))).await;
            room = match now {
                Poll::Ready(room) => room?,
                Poll::Pending => {
                    let later = poll_fn(|cx| poll_room(stream, piece.len(), cx));
                    let Some(room) = until(taken_within, later).await else {
                        return Ok(false);
                    };
                    room?
                }
            };
        }
        let part = piece.split_to(room);
        stream.send_data(part, over && piece.is_empty())?;
        if piece.is_empty() {
            return Ok(true);
        }
    }
}

/// What comes within a time, if there is an end to that.
async fn until<F: Future>(within: Option<Duration>, later: F) -> Option<F::Output> {
    match within {
        Some(within) => timeout(within, later).await.ok(),
        None => Some(later.await),
    }
}

/// Ready with the bytes that the other end takes now, at least one; up to so many are wanted.
///
/// Asked only with bytes at hand: what is set aside for one stream is kept from all others.
pub(super) fn poll_room(
    stream: &mut SendStream<Bytes>,
    wanted: usize,
    cx: &mut Context<'_>,
) -> Poll<Result<usize, h2::Error>> {
    stream.reserve_capacity(wanted);
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
        }
    }
    Poll::Ready(Ok(stream.capacity().min(wanted)))
}

/// Why a stream is reset whose body ends so: as an HTTP/2 peer on the other side did, if it did.
///
/// That nobody has looked at the request is not true of one whose body is here.
fn reason_of(error: &(dyn Error + 'static)) -> Reason {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(reason) = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason)
            .filter(|reason| *reason != Reason::REFUSED_STREAM)
        {
            return reason;
        }
        cause = error.source();
    }
    Reason::INTERNAL_ERROR
}

/// How a stream's end reads as that of a connection.
pub(super) fn as_io(error: h2::Error) -> io::Error {
    match error.reason() {
        Some(Reason::STREAM_CLOSED) => io::Error::new(io::ErrorKind::BrokenPipe, error),
        _ if error.is_io() => error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::Other.into()),
        _ => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_is_passed_on_unless_it_says_that_nothing_was_seen() {
        let passed = |reason: Reason| reason_of(&h2::Error::from(reason));
        assert_eq!(passed(Reason::CANCEL), Reason::CANCEL);
        assert_eq!(passed(Reason::REFUSED_STREAM), Reason::INTERNAL_ERROR);
        let other = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(reason_of(&other), Reason::INTERNAL_ERROR);
    }
}
