//! Serving a connection: its streams as they come, pings, and its end.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use hyper::body::Body;
use hyper::header::CONTENT_LENGTH;
use hyper::{Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::body::StreamBody;
use super::hints::Hints;
use super::pulse::Pulse;
use super::respond::{Connect, respond};
use super::tunnel::Tunnel;
use crate::front::aside::aside;

/// How a connection is served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// What may be on its way on one stream before this end has taken it, in bytes.
    pub(crate) stream_window: u32,
    /// The same for all streams together.
    pub(crate) connection_window: u32,
    /// Open at once.
    pub(crate) streams: u32,
    /// Of one head, in bytes as RFC 9113 §6.5.2 counts them.
    pub(crate) header_list: u32,
    /// Streams that the client opened and reset before they were looked at: more is a flood.
    pub(crate) pending_resets: usize,
    /// Streams that were reset here for the client's mistakes: more is a flood.
    pub(crate) error_resets: usize,
    /// Whether CONNECT may name a protocol (RFC 8441).
    pub(crate) protocols: bool,
    pub(crate) ping_every: Duration,
    pub(crate) pong_within: Duration,
    /// A response of which the other end takes nothing for so long is broken off.
    pub(crate) taken_within: Duration,
}

/// What a request has beside itself.
#[derive(Debug)]
pub(crate) struct Beside {
    pub(crate) hints: Arc<Hints>,
    /// What its stream becomes if a CONNECT is answered with success; only CONNECT has it.
    pub(crate) tunnel: Option<oneshot::Receiver<Tunnel>>,
}

impl Settings {
    fn builder(&self) -> Builder {
        let mut builder = Builder::new();
        builder
            .initial_window_size(self.stream_window)
            .initial_connection_window_size(self.connection_window)
            .max_concurrent_streams(self.streams)
            .max_header_list_size(self.header_list)
            .max_pending_accept_reset_streams(self.pending_resets)
            .max_local_error_reset_streams(Some(self.error_resets));
        if self.protocols {
            builder.enable_connect_protocol();
        }
        builder
    }
}

/// Serve a connection to its end, each request by a task of its own; once `close` is ready it
/// takes no more and ends with what it began.
///
/// # Errors
/// The client broke the protocol or its limits, or the connection broke.
pub(crate) async fn serve<I, A, F, B>(
    stream: I,
    settings: &Settings,
    close: impl Future<Output = ()>,
    answer: A,
) -> Result<(), h2::Error>
where
    I: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request<StreamBody>, Beside) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut connection = settings.builder().handshake(stream).await?;
    let pings = connection.ping_pong();
    let mut pulse =
        pings.map(|pings| Pulse::new(pings, settings.ping_every, settings.pong_within));
    let (mut close, mut closing) = (pin!(aside(close)), false);
    loop {
        let next = poll_fn(|cx| {
            if !closing && close.as_mut().poll(cx).is_ready() {
                closing = true;
                connection.graceful_shutdown();
            }
            if let Some(pulse) = &mut pulse
                && pulse.poll_lost(cx).is_ready()
            {
                return Poll::Ready(None);
            }
            connection.poll_accept(cx)
        });
        let Some(next) = next.await else {
            return Ok(());
        };
        let (request, to) = next?;
        take(&answer, request, to, settings.taken_within);
    }
}

/// Have a task answer a request.
fn take<A, F, B>(
    answer: &A,
    request: Request<RecvStream>,
    mut to: SendResponse<Bytes>,
    taken_within: Duration,
) where
    A: Fn(Request<StreamBody>, Beside) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (parts, stream) = request.into_parts();
    if parts
        .headers
        .get_all(CONTENT_LENGTH)
        .iter()
        .nth(1)
        .is_some()
    {
        // h2 holds the body to the first alone (RFC 9113 §8.1.1).
        to.send_reset(Reason::PROTOCOL_ERROR);
        return;
    }
    let hints = Arc::<Hints>::default();
    let (body, connect, tunnel) = if parts.method == Method::CONNECT {
        let (opened, tunnel) = oneshot::channel();
        let connect = Connect { stream, opened };
        (StreamBody::empty(), Some(connect), Some(tunnel))
    } else {
        (StreamBody::new(stream, &parts.headers), None, None)
    };
    let beside = Beside {
        hints: hints.clone(),
        tunnel,
    };
    let answering = answer(Request::from_parts(parts, body), beside);
    tokio::spawn(respond(answering, hints, connect, to, taken_within));
}

#[cfg(test)]
mod tests {
    use hyper::header::{DATE, HeaderValue, LINK};
    use hyper::{HeaderMap, StatusCode, Uri};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Notify;

    use super::*;
    use crate::request::body::Download;

    const SETTINGS: Settings = Settings {
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
        streams: 8,
        header_list: 16 * 1024,
        pending_resets: 20,
        error_resets: 20,
        protocols: true,
        ping_every: Duration::from_secs(20),
        pong_within: Duration::from_secs(20),
        taken_within: Duration::from_secs(20),
    };

    fn page(text: &str) -> Response<Download> {
        Response::new(Download::page(text.into(), None))
    }

    /// A client of a server that answers so.
    async fn client<A, F>(
        settings: Settings,
        close: Arc<Notify>,
        answer: A,
    ) -> (
        h2::client::SendRequest<Bytes>,
        tokio::task::JoinHandle<Result<(), h2::Error>>,
    )
    where
        A: Fn(Request<StreamBody>, Beside) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Download>> + Send + 'static,
    {
        let (near, far) = duplex(256 * 1024);
        let serving =
            tokio::spawn(async move { serve(far, &settings, close.notified(), answer).await });
        (speak(near).await, serving)
    }

    async fn speak(near: DuplexStream) -> h2::client::SendRequest<Bytes> {
        let (sender, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        sender.ready().await.unwrap()
    }

    fn request(method: Method) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = Uri::from_static("http://a.example/");
        request
    }

    async fn read(mut body: RecvStream) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            all.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        all
    }

    #[tokio::test]
    async fn a_hint_comes_before_the_response_and_a_late_one_not_at_all() {
        let go = Arc::new(Notify::new());
        let (asked, late) = (go.clone(), Arc::new(std::sync::Mutex::new(None)));
        let kept = late.clone();
        let answer = move |_, beside: Beside| {
            let go = asked.clone();
            *kept.lock().unwrap() = Some(beside.hints.clone());
            async move {
                let mut headers = HeaderMap::new();
                headers.insert(LINK, HeaderValue::from_static("</a.css>"));
                assert!(
                    beside
                        .hints
                        .say(StatusCode::from_u16(103).unwrap(), headers)
                );
                go.notified().await;
                page("page")
            }
        };
        let (mut sender, _) = client(SETTINGS, Arc::default(), answer).await;
        let (mut response, _) = sender.send_request(request(Method::GET), true).unwrap();
        let hint = poll_fn(|cx| response.poll_informational(cx)).await;
        let hint = hint.unwrap().unwrap();
        assert_eq!(hint.status().as_u16(), 103);
        assert_eq!(hint.headers()[LINK], "</a.css>");
        go.notify_one();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert!(response.headers().contains_key(DATE));
        assert_eq!(response.headers()[CONTENT_LENGTH], "4");
        assert_eq!(read(response.into_body()).await, b"page");
        let hints = late.lock().unwrap().take().unwrap();
        assert!(!hints.say(StatusCode::from_u16(103).unwrap(), HeaderMap::new()));
    }

    #[tokio::test]
    async fn a_body_that_is_longer_than_any_window_comes_whole_both_ways() {
        let answer = |mut request: Request<StreamBody>, _| async move {
            let mut all = Vec::new();
            while let Some(frame) =
                poll_fn(|cx| std::pin::Pin::new(request.body_mut()).poll_frame(cx)).await
            {
                all.extend_from_slice(frame.unwrap().data_ref().unwrap());
            }
            page(std::str::from_utf8(&all).unwrap())
        };
        let (mut sender, _) = client(SETTINGS, Arc::default(), answer).await;
        let (response, mut body) = sender.send_request(request(Method::POST), false).unwrap();
        let sent = "x".repeat(3_000_000);
        body.send_data(Bytes::from(sent.clone()), true).unwrap();
        let came = read(response.await.unwrap().into_body()).await;
        assert!(came == sent.as_bytes());
    }

    #[tokio::test]
    async fn an_upload_that_is_broken_off_is_no_shorter_one() {
        let (told, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let answer = move |mut request: Request<StreamBody>, _| {
            let told = told.clone();
            async move {
                // Kept beyond the request, as by the machine's connection.
                tokio::spawn(async move {
                    loop {
                        let body = request.body_mut();
                        let frame = poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx));
                        match frame.await {
                            Some(Ok(_)) => {}
                            ended => return told.send(ended.map(|frame| frame.is_err())),
                        }
                    }
                });
                std::future::pending().await
            }
        };
        let (mut sender, _) = client(SETTINGS, Arc::default(), answer).await;
        let (_response, mut body) = sender.send_request(request(Method::POST), false).unwrap();
        body.send_data(Bytes::from_static(b"half"), false).unwrap();
        body.send_reset(Reason::CANCEL);
        assert_eq!(ends.recv().await, Some(Some(true)));
    }

    #[tokio::test]
    async fn a_connect_that_is_answered_with_success_is_a_tunnel() {
        let answer = |_, beside: Beside| {
            let tunnel = beside.tunnel.unwrap();
            tokio::spawn(async move {
                let (mut reads, mut writes) = tokio::io::split(tunnel.await.unwrap());
                tokio::io::copy(&mut reads, &mut writes).await.unwrap();
                writes.shutdown().await.unwrap();
            });
            async { page("") }
        };
        let (mut sender, _) = client(SETTINGS, Arc::default(), answer).await;
        let mut asked = request(Method::CONNECT);
        *asked.uri_mut() = Uri::from_static("a.example:80");
        let (response, mut body) = sender.send_request(asked, false).unwrap();
        let response = response.await.unwrap();
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
        let said = vec![7; 500_000];
        body.send_data(said.clone().into(), true).unwrap();
        assert!(read(response.into_body()).await == said);
    }

    #[tokio::test]
    async fn a_connect_that_is_refused_has_a_response_like_any_other() {
        let answer = |_, _| async {
            let mut response = page("no");
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            response
        };
        let (mut sender, _) = client(SETTINGS, Arc::default(), answer).await;
        let mut asked = request(Method::CONNECT);
        *asked.uri_mut() = Uri::from_static("a.example:80");
        let (response, _) = sender.send_request(asked, false).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(read(response.into_body()).await, b"no");
    }

    #[tokio::test]
    async fn two_lengths_are_refused() {
        let (mut sender, _) = client(SETTINGS, Arc::default(), |_, _| async { page("") }).await;
        let mut asked = request(Method::POST);
        for length in ["4", "5"] {
            let length = HeaderValue::from_static(length);
            asked.headers_mut().append(CONTENT_LENGTH, length);
        }
        let (response, _) = sender.send_request(asked, false).unwrap();
        let error = response.await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR));
    }

    #[tokio::test]
    async fn what_was_begun_is_answered_before_the_end() {
        let (close, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let begun = Arc::new(Notify::new());
        let asked = (begun.clone(), go.clone());
        let answer = move |_, _| {
            let (begun, go) = asked.clone();
            async move {
                begun.notify_one();
                go.notified().await;
                page("page")
            }
        };
        let (mut sender, serving) = client(SETTINGS, close.clone(), answer).await;
        let (response, _) = sender.send_request(request(Method::GET), true).unwrap();
        begun.notified().await;
        close.notify_one();
        // The client is told, and asks for nothing more on this connection.
        while poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        let response = response.await.unwrap();
        assert_eq!(read(response.into_body()).await, b"page");
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_response_that_is_not_taken_is_broken_off() {
        let settings = Settings {
            taken_within: Duration::from_millis(20),
            ..SETTINGS
        };
        let long = "x".repeat(1024 * 1024);
        let answer = move |_, _| std::future::ready(page(&long));
        let (mut sender, _) = client(settings, Arc::default(), answer).await;
        let (response, _) = sender.send_request(request(Method::GET), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        // What comes is read, and no more of it is asked for.
        let broken = loop {
            match body.data().await.unwrap() {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(broken.reason(), Some(Reason::CANCEL));
        // Others on the connection are served.
        let (response, _) = sender.send_request(request(Method::HEAD), true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_client_that_answers_no_ping_is_left() {
        let (near, far) = duplex(64 * 1024);
        let settings = Settings {
            ping_every: Duration::from_millis(10),
            pong_within: Duration::from_millis(10),
            ..SETTINGS
        };
        let serving = tokio::spawn(async move {
            let never = std::future::pending();
            serve(far, &settings, never, |_, _| async { page("") }).await
        });
        // Whoever drives the client's connection stands still, and its socket stays open.
        let client = h2::client::handshake(near).await.unwrap();
        serving.await.unwrap().unwrap();
        drop(client);
    }
}
