//! Requests, and servers that answer them, for tests of the client.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::duplex;
use tokio::sync::mpsc;

use super::client::{Client, ClientSettings};
use crate::machines::line::Unanswered;

pub(super) const SETTINGS: ClientSettings = ClientSettings {
    stream_window: 64 * 1024,
    connection_window: 1024 * 1024,
    header_list: 16 * 1024,
    send_buffer: 64 * 1024,
    first_streams: 100,
    ping_after: Duration::from_secs(20),
    pong_within: Duration::from_secs(20),
};

pub(super) type Piece = Result<Frame<Bytes>, io::Error>;

/// A request's body: what a test says, as it says it.
pub(super) struct Pieces {
    said: mpsc::UnboundedReceiver<Piece>,
    pub(super) length: Option<u64>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.said.poll_recv(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.said.is_closed() && self.said.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

pub(super) fn request(method: Method) -> (mpsc::UnboundedSender<Piece>, Request<Pieces>) {
    let (says, said) = mpsc::unbounded_channel();
    let length = None;
    let mut request = Request::new(Pieces { said, length });
    *request.uri_mut() = match method {
        Method::CONNECT => "a.example:80".parse().unwrap(),
        _ => "http://a.example/".parse().unwrap(),
    };
    *request.method_mut() = method;
    (says, request)
}

pub(super) fn get() -> Request<Pieces> {
    let (_, mut request) = request(Method::GET);
    request.body_mut().length = Some(0);
    request
}

pub(super) fn data(text: &'static [u8]) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text))
}

pub(super) fn head(status: u16) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = StatusCode::from_u16(status).unwrap();
    head
}

/// A client of a server that answers so, each stream by a task of its own.
pub(super) async fn client<A, F>(server: Builder, answer: A) -> Client
where
    A: Fn(Request<RecvStream>, SendResponse<Bytes>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let (near, far) = duplex(256 * 1024);
    tokio::spawn(async move {
        let mut server = server.handshake::<_, Bytes>(far).await.unwrap();
        while let Some(Ok((request, to))) = server.accept().await {
            tokio::spawn(answer(request, to));
        }
    });
    Client::on(near, &SETTINGS, ()).await.unwrap()
}

pub(super) async fn ask(client: &Client, request: Request<Pieces>) -> Result<u16, Unanswered> {
    let response = client.ask(request, |_, _| {}).await?;
    Ok(response.status().as_u16())
}
