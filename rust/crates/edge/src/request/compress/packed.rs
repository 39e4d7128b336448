//! A body on its way through an encoder.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::choice::Coding;
use super::encoder::Encoder;

/// Passed on at once.
const PIECE: usize = 16 * 1024;
/// Encoded at once, before others of the thread have their turn.
const TURN: usize = 64 * 1024;

/// A compressed body.
///
/// Whatever the app has said is passed on when it says nothing more for the moment; what comes
/// without a pause is not cut into small pieces.
pub(crate) struct Packed<B> {
    body: B,
    /// `None` at the end of the data.
    encoder: Option<Encoder>,
    /// What follows the data.
    trailers: Option<Frame<Bytes>>,
    state: State,
    /// Of those that there may be at once.
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// All that was written has been passed on.
    Flushed,
    Written,
    /// Nothing more was there; others had a turn, by which it may have come.
    Waited,
}

impl<B> Packed<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    /// # Errors
    /// There is no memory for the encoder: the body.
    pub(crate) fn new(
        body: B,
        coding: Coding,
        place: OwnedSemaphorePermit,
    ) -> Result<Self, (B, io::Error)> {
        match Encoder::new(coding, body.size_hint().exact()) {
            Ok(encoder) => Ok(Packed {
                body,
                encoder: Some(encoder),
                trailers: None,
                state: State::Flushed,
                _place: place,
            }),
            Err(error) => Err((body, error)),
        }
    }

    fn finish(&mut self, trailers: Option<Frame<Bytes>>) -> io::Result<Bytes> {
        self.trailers = trailers;
        let rest = self.encoder.take().map_or(Ok(Vec::new()), Encoder::finish);
        rest.map(Bytes::from)
    }
}

impl<B> Body for Packed<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let mut written = 0;
        loop {
            let Some(encoder) = &mut this.encoder else {
                return Poll::Ready(this.trailers.take().map(Ok));
            };
            let data = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => {
                        let rest = this.finish(Some(trailers))?;
                        return Poll::Ready(Some(Ok(Frame::data(rest))));
                    }
                },
                Poll::Ready(None) => {
                    let rest = this.finish(None)?;
                    return Poll::Ready(Some(Ok(Frame::data(rest))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Pending => {
                    match this.state {
                        State::Flushed => return Poll::Pending,
                        State::Written => {
                            this.state = State::Waited;
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                        State::Waited => encoder.flush()?,
                    }
                    this.state = State::Flushed;
                    return Poll::Ready(Some(Ok(taken(encoder))));
                }
            };
            encoder.write(&data)?;
            this.state = State::Written;
            if encoder.ready().len() >= PIECE {
                return Poll::Ready(Some(Ok(taken(encoder))));
            }
            written += data.len();
            if written >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

impl<B: fmt::Debug> fmt::Debug for Packed<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packed { body, state, .. } = self;
        let mut shown = f.debug_struct("Packed");
        shown.field("body", body).field("state", state);
        shown.finish_non_exhaustive()
    }
}

fn taken(encoder: &mut Encoder) -> Frame<Bytes> {
    Frame::data(std::mem::take(encoder.ready()).into())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::io::Read;
    use std::sync::Arc;
    use std::task::Waker;

    use hyper::HeaderMap;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    /// What an app says; `None` is a pause.
    struct App(VecDeque<Option<Frame<Bytes>>>);

    impl App {
        fn says(pieces: &[Vec<u8>]) -> Self {
            let data = |piece: &Vec<u8>| Some(Frame::data(Bytes::from(piece.clone())));
            App(pieces.iter().map(data).collect())
        }
    }

    impl Body for App {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(None) => Poll::Pending,
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            }
        }
    }

    type Polled = Poll<Option<Frame<Bytes>>>;

    fn poll(packed: &mut Packed<App>) -> Polled {
        let mut cx = Context::from_waker(Waker::noop());
        let polled = Pin::new(packed).poll_frame(&mut cx);
        polled.map(|frame| frame.map(Result::unwrap))
    }

    fn packed(app: App, coding: Coding) -> Packed<App> {
        let places = Arc::new(Semaphore::new(1));
        let place = places.try_acquire_owned().unwrap();
        let packed = Packed::new(app, coding, place);
        packed.map_err(|(_, error)| error).unwrap()
    }

    /// The data to the end, and what followed it.
    fn all(packed: &mut Packed<App>) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut data, mut trailers) = (Vec::new(), None);
        while !packed.is_end_stream() {
            match poll(packed) {
                Poll::Pending => {}
                Poll::Ready(None) => break,
                Poll::Ready(Some(frame)) => match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
            }
        }
        (data, trailers)
    }

    /// What can be read of a body so far.
    fn plain(coding: Coding, data: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        let mut reader: Box<dyn Read> = match coding {
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(data).unwrap()),
            Coding::Brotli => Box::new(brotli::Decompressor::new(data, 4096)),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(data)),
            Coding::Deflate => Box::new(flate2::read::ZlibDecoder::new(data)),
        };
        let mut piece = [0; 4096];
        // One that is not at its end fails where it is cut.
        while let Ok(count @ 1..) = reader.read(&mut piece) {
            plain.extend_from_slice(&piece[..count]);
        }
        plain
    }

    const ALL: [Coding; 4] = [Coding::Zstd, Coding::Brotli, Coding::Gzip, Coding::Deflate];

    #[test]
    fn what_an_app_has_said_is_passed_on_when_it_pauses() {
        for coding in ALL {
            let word = |text: &'static str| Some(Frame::data(Bytes::from(text)));
            let said = [
                word("first "),
                None,
                None,
                word("second "),
                None,
                None,
                None,
            ];
            let mut packed = packed(App(said.into()), coding);
            let mut sent = Vec::new();
            for wanted in ["first ", "first second "] {
                // Others have a turn first.
                assert!(poll(&mut packed).is_pending());
                let Poll::Ready(Some(frame)) = poll(&mut packed) else {
                    panic!("{coding:?}: nothing was passed on");
                };
                sent.extend_from_slice(&frame.into_data().unwrap());
                assert_eq!(plain(coding, &sent), wanted.as_bytes(), "{coding:?}");
            }
            assert!(poll(&mut packed).is_pending());
            sent.extend(all(&mut packed).0);
            assert_eq!(plain(coding, &sent), b"first second ");
        }
    }

    #[test]
    fn trailers_follow_the_data() {
        let mut told = HeaderMap::new();
        told.insert("x-checked", HeaderValue::from_static("yes"));
        let data = Frame::data(Bytes::from_static(b"data"));
        let app = App([Some(data), Some(Frame::trailers(told.clone()))].into());
        let (sent, trailers) = all(&mut packed(app, Coding::Gzip));
        assert_eq!(plain(Coding::Gzip, &sent), b"data");
        assert_eq!(trailers, Some(told));
    }

    #[test]
    fn what_shrinks_a_lot_leaves_others_their_turn() {
        let pieces = vec![vec![0; TURN / 2]; 4];
        let mut packed = packed(App::says(&pieces), Coding::Zstd);
        assert!(poll(&mut packed).is_pending());
        let (sent, _) = all(&mut packed);
        assert_eq!(plain(Coding::Zstd, &sent), vec![0; 2 * TURN]);
    }

    proptest! {
        #[test]
        fn what_was_said_is_read(
            pieces in prop::collection::vec(prop::collection::vec(0_u8..4, 0..20_000), 0..6),
            coding in prop::sample::select(&ALL[..]),
        ) {
            let (sent, _) = all(&mut packed(App::says(&pieces), coding));
            prop_assert_eq!(plain(coding, &sent), pieces.concat());
        }
    }
}
