//! A connection on which many requests are sent at once, and the task that drives it.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use hyper::body::Body;
use hyper::{HeaderMap, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::activity::Activity;
use super::asking;
use super::body::StreamBody;
use super::pulse::Pulse;
use crate::machines::line::Unanswered;

/// Streams that were reset here for the other end's mistakes: more is a flood.
const ERROR_RESETS: usize = 1024;

/// How a connection is spoken on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSettings {
    /// What may be on its way on one stream before this end has taken it, in bytes.
    pub(crate) stream_window: u32,
    /// The same for all streams together.
    pub(crate) connection_window: u32,
    /// Of one head, in bytes as RFC 9113 §6.5.2 counts them.
    pub(crate) header_list: u32,
    /// What of one stream waits here for the other end to take it, in bytes.
    pub(crate) send_buffer: usize,
    /// Streams that are begun before the other end has said how many it takes.
    pub(crate) first_streams: usize,
    /// With a stream open and nothing heard for so long, the other end is asked by a ping.
    pub(crate) ping_after: Duration,
    pub(crate) pong_within: Duration,
}

/// A handle on a connection, which ends when nobody has one any more and no stream is open.
#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) sender: SendRequest<Bytes>,
    /// Held by who begins a stream, until the other end takes one more: those who wait behind it
    /// have sent nothing yet.
    pub(super) turn: Mutex<()>,
    pub(super) activity: Arc<Activity>,
}

impl ClientSettings {
    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .initial_max_send_streams(self.first_streams)
            .max_header_list_size(self.header_list)
            .max_send_buffer_size(self.send_buffer)
            .max_local_error_reset_streams(Some(ERROR_RESETS))
            .enable_push(false);
        builder
    }
}

impl Client {
    /// Begin to speak on a connection, and have a task of its own drive it, which lets go what is
    /// `held` when it ends.
    ///
    /// # Errors
    /// It broke.
    pub(crate) async fn on<I>(
        stream: I,
        settings: &ClientSettings,
        held: impl Send + 'static,
    ) -> Result<Self, h2::Error>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut connection) = settings.builder().handshake(stream).await?;
        let activity = Activity::new();
        let pulse = connection.ping_pong().map(|pings| {
            let pulse = Pulse::new(pings, settings.ping_after, settings.pong_within);
            pulse.in_silence(activity.clone())
        });
        tokio::spawn(async move {
            drive(connection, pulse).await;
            drop(held);
        });
        Ok(Client(Arc::new(Shared {
            sender,
            turn: Mutex::default(),
            activity,
        })))
    }

    /// Whether it takes no more requests; those that it took may still be answered.
    pub(crate) fn is_closed(&self) -> bool {
        // It has begun no stream that could be waited for, so this is told at once.
        let mut sender = self.0.sender.clone();
        let polled = sender.poll_ready(&mut Context::from_waker(Waker::noop()));
        !matches!(polled, Poll::Ready(Ok(())))
    }

    /// Streams that are open, or about to be.
    pub(crate) fn streams(&self) -> usize {
        self.0.activity.streams()
    }

    /// Whether the other end takes one more stream now, as far as it has said.
    pub(crate) fn has_room(&self) -> bool {
        self.streams() < self.0.sender.current_max_send_streams()
    }

    /// Whether the other end has said that a CONNECT may name a protocol (RFC 8441).
    pub(crate) fn takes_protocols(&self) -> bool {
        self.0.sender.is_extended_connect_protocol_enabled()
    }

    /// Send a request and await its response; what is said before that (1xx) is `told`.
    ///
    /// The rest of the request's body is sent while the response's is read. Who drops this, or
    /// what came of it before its end, has the other end told that nobody wants it any more.
    ///
    /// # Errors
    /// There is no response, and whether the other end may have seen anything of the request.
    pub(crate) async fn ask<B>(
        &self,
        request: Request<B>,
        told: impl FnMut(StatusCode, &HeaderMap),
    ) -> Result<Response<StreamBody>, Unanswered>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        asking::ask(&self.0, request, told).await
    }
}

/// Drive a connection to its end, of which those are told who have streams on it.
async fn drive<I>(mut connection: Connection<I, Bytes>, mut pulse: Option<Pulse>)
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    let ended = poll_fn(|cx| {
        if let Some(pulse) = &mut pulse
            && pulse.poll_lost(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        Pin::new(&mut connection).poll(cx).map(Some)
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => log::debug!("a connection by HTTP/2 broke: {error}"),
        None => log::debug!("the other end of a connection by HTTP/2 answers no ping"),
    }
}

#[cfg(test)]
mod tests {
    use h2::server::Connection as Server;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::{Notify, mpsc};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::streams::lab::{self, ask, client, get, head};

    const SOON: Duration = Duration::from_millis(10);
    const AT_LAST: Duration = Duration::from_secs(5);
    const SETTINGS: ClientSettings = ClientSettings {
        ping_after: SOON,
        pong_within: SOON,
        ..lab::SETTINGS
    };

    async fn both(server: &h2::server::Builder) -> (Client, Server<DuplexStream, Bytes>) {
        let (near, far) = duplex(64 * 1024);
        let (client, server) =
            tokio::join!(Client::on(near, &SETTINGS, ()), server.handshake(far));
        (client.unwrap(), server.unwrap())
    }

    #[tokio::test]
    async fn a_connection_ends_when_nobody_has_a_handle_and_no_stream_is_open() {
        let (client, mut server) = both(&h2::server::Builder::new()).await;
        let other = client.clone();
        let asking = tokio::spawn(async move { other.ask(get(), |_, _| {}).await });
        let (_, mut to) = server.accept().await.unwrap().unwrap();
        let mut stream = to.send_response(Response::new(()), false).unwrap();
        let serving = tokio::spawn(async move { server.accept().await.is_none() });
        let response = asking.await.unwrap().unwrap();
        drop(client);
        sleep(2 * SOON).await;
        assert!(!serving.is_finished());
        stream.send_data(Bytes::new(), true).unwrap();
        drop(response);
        assert!(timeout(AT_LAST, serving).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn one_that_answers_no_ping_is_left_once_something_is_asked() {
        let (client, server) = both(&h2::server::Builder::new()).await;
        // Whoever drives the server's connection stands still, and its socket stays open.
        sleep(10 * SOON).await;
        assert!(!client.is_closed(), "it has nothing to say");
        let asking = client.ask(get(), |_, _| {});
        let unanswered = timeout(AT_LAST, asking).await.unwrap().unwrap_err();
        assert!(!unanswered.unsent);
        assert!(client.is_closed());
        drop(server);
    }

    #[tokio::test]
    async fn one_that_answers_pings_may_be_silent() {
        let (client, mut server) = both(&h2::server::Builder::new()).await;
        let serving = tokio::spawn(async move {
            let (_, mut to) = server.accept().await.unwrap().unwrap();
            let respond = async {
                sleep(10 * SOON).await;
                to.send_response(Response::new(()), true).unwrap();
            };
            tokio::join!(respond, server.accept());
        });
        client.ask(get(), |_, _| {}).await.unwrap();
        drop(client);
        timeout(AT_LAST, serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn it_is_known_whether_the_other_end_takes_protocols() {
        for takes in [true, false] {
            let mut builder = h2::server::Builder::new();
            if takes {
                builder.enable_connect_protocol();
            }
            let (client, mut server) = both(&builder).await;
            let serving = tokio::spawn(async move {
                let (_, mut to) = server.accept().await.unwrap().unwrap();
                to.send_response(Response::new(()), true).unwrap();
                server.accept().await.is_none()
            });
            client.ask(get(), |_, _| {}).await.unwrap();
            assert_eq!(client.takes_protocols(), takes);
            drop(client);
            assert!(serving.await.unwrap());
        }
    }

    /// A server by hand: it has heard the heads of so many requests.
    async fn heard_heads(far: &mut DuplexStream, count: usize) {
        far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut preface = [0; 24];
        far.read_exact(&mut preface).await.unwrap();
        let mut heads = 0;
        while heads < count {
            let mut frame = [0; 9];
            far.read_exact(&mut frame).await.unwrap();
            let length = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]);
            let mut payload = vec![0; length as usize];
            far.read_exact(&mut payload).await.unwrap();
            heads += usize::from(frame[3] == 1);
        }
    }

    #[tokio::test]
    async fn what_is_beyond_the_last_stream_of_a_goaway_was_as_good_as_not_sent() {
        let (near, mut far) = duplex(64 * 1024);
        let client = Client::on(near, &lab::SETTINGS, ()).await.unwrap();
        let asking = async {
            tokio::join!(
                ask(&client, get()),
                ask(&client, get()),
                ask(&client, get())
            )
        };
        let answering = async {
            heard_heads(&mut far, 3).await;
            // GOAWAY: of streams 1, 3 and 5 the last that was looked at is 3; and 200 on 1.
            far.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x03\0\0\0\0")
                .await
                .unwrap();
            far.write_all(b"\0\0\x01\x01\x05\0\0\0\x01\x88")
                .await
                .unwrap();
            // Written before the end, and no answer to 3.
            tokio::task::yield_now().await;
            drop(far);
        };
        let ((first, second, third), ()) = tokio::join!(asking, answering);
        assert_eq!(first.unwrap(), 200);
        assert!(!second.unwrap_err().unsent);
        assert!(third.unwrap_err().unsent);
        assert!(client.is_closed());
        assert!(ask(&client, get()).await.unwrap_err().unsent);
    }

    #[tokio::test]
    async fn who_waits_behind_another_for_a_stream_has_sent_nothing() {
        let go = Arc::new(Notify::new());
        let (asked, mut begun) = mpsc::unbounded_channel();
        let let_go = go.clone();
        let mut server = h2::server::Builder::new();
        server.max_concurrent_streams(1);
        let client = client(server, move |_, mut to| {
            let (go, asked) = (let_go.clone(), asked.clone());
            async move {
                asked.send(()).unwrap();
                tokio::select! {
                    biased;
                    _ = poll_fn(|cx| to.poll_reset(cx)) => return,
                    () = go.notified() => {}
                }
                to.send_response(head(200), true).unwrap();
            }
        })
        .await;
        go.notify_one();
        ask(&client, get()).await.unwrap();
        begun.recv().await.unwrap();
        let asking = || {
            let client = client.clone();
            tokio::spawn(async move { ask(&client, get()).await })
        };
        let first = asking();
        begun.recv().await.unwrap();
        // One whose stream waits to be begun is given up: those behind it are no worse for it.
        let given_up = asking();
        tokio::task::yield_now().await;
        let third = asking();
        tokio::task::yield_now().await;
        given_up.abort();
        go.notify_one();
        assert_eq!(first.await.unwrap().unwrap(), 200);
        go.notify_one();
        assert_eq!(third.await.unwrap().unwrap(), 200);
    }

    #[tokio::test]
    async fn who_waited_for_a_turn_when_the_connection_broke_has_sent_nothing() {
        let (near, mut far) = duplex(64 * 1024);
        let client = Client::on(near, &lab::SETTINGS, ()).await.unwrap();
        // SETTINGS: one stream at once.
        far.write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x01")
            .await
            .unwrap();
        let breaking = async {
            heard_heads(&mut far, 1).await;
            drop(far);
        };
        let asking = async {
            tokio::join!(
                ask(&client, get()),
                ask(&client, get()),
                ask(&client, get())
            )
        };
        // Its settings are known before anything is asked.
        sleep(2 * SOON).await;
        let ((first, _, third), ()) = tokio::join!(asking, breaking);
        assert!(!first.unwrap_err().unsent);
        assert!(third.unwrap_err().unsent);
    }
}
