//! Asking on one stream: the request, what is said before its response, the response.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;
use hyper::header::{CONTENT_LENGTH, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::sync::oneshot;

use super::activity::Open;
use super::body::{Asked, StreamBody};
use super::client::Shared;
use super::sending::send;
use crate::machines::line::Unanswered;

type Upload = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Send a request on a connection and await its response.
pub(super) async fn ask<B>(
    connection: &Shared,
    request: Request<B>,
    mut told: impl FnMut(StatusCode, &HeaderMap),
) -> Result<Response<StreamBody>, Unanswered>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let (parts, body) = request.into_parts();
    let mut request = Request::from_parts(parts, ());
    say_length(&mut request, &body);
    let is_connect = *request.method() == Method::CONNECT;
    let over = !is_connect && body.is_end_stream();
    let open = connection.activity.open();
    let (mut response, stream) = {
        let _turn = connection.turn.lock().await;
        let mut sender = connection.sender.clone();
        let begun = sender.send_request(request, over).map_err(unsent)?;
        // What became of a stream that was not begun its response tells.
        let _ = poll_fn(|cx| sender.poll_ready(cx)).await;
        begun
    };
    let (mut upload, sends) = match (is_connect, over) {
        (true, _) => (None, Some(stream)),
        (false, true) => (None, None),
        (false, false) => (Some(upload(body, stream)), None),
    };
    let mut heard = false;
    let response = poll_fn(|cx| {
        upload.take_if(|upload| upload.as_mut().poll(cx).is_ready());
        while let Poll::Ready(Some(said)) = response.poll_informational(cx) {
            let said = said?;
            heard = true;
            open.heard();
            told(said.status(), said.headers());
        }
        Pin::new(&mut response).poll(cx)
    });
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return Err(unanswered(error, heard)),
    };
    open.heard();
    let asked = Asked {
        upload: upload.map(|upload| go_on(upload, connection.activity.open())),
        sends: sends.filter(|_| response.status().is_success()),
        open,
    };
    let (parts, stream) = response.into_parts();
    let body = StreamBody::of_response(stream, &parts.headers, asked);
    Ok(Response::from_parts(parts, body))
}

/// Say how long a body is that says so itself, where a length means something (RFC 9110 §8.6).
fn say_length(request: &mut Request<()>, body: &impl Body) {
    let Some(length) = body.size_hint().exact() else {
        return;
    };
    let seldom = [Method::GET, Method::HEAD, Method::DELETE, Method::CONNECT];
    if length > 0 || !seldom.contains(request.method()) {
        let said = request.headers_mut().entry(CONTENT_LENGTH);
        said.or_insert_with(|| HeaderValue::from(length));
    }
}

fn upload<B>(body: B, stream: SendStream<Bytes>) -> Upload
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Box::pin(async move {
        if let Err(error) = send(body, stream, None).await {
            // As by one that has answered and needs no more of it.
            log::debug!("a request's body was not taken to its end: {error}");
        }
    })
}

/// Have a task send the rest of a body, until it is over or the one who has this is gone, unless
/// that was told that there is no more to be had for it.
fn go_on(mut upload: Upload, open: Open) -> oneshot::Sender<()> {
    let (answered, is_answered) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            () = &mut upload => {}
            answered = is_answered => if answered.is_ok() {
                upload.await;
            },
        }
        drop(open);
    });
    answered
}

fn unsent(error: h2::Error) -> Unanswered {
    Unanswered {
        unsent: true,
        error: error.into(),
    }
}

/// What the other end says that it has not looked at was as good as not sent (RFC 9113 §8.7):
/// h2 tells of a connection's end by GOAWAY only streams that are beyond the last one it names.
fn unanswered(error: h2::Error, heard: bool) -> Unanswered {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    let unseen = error.is_remote() && (refused || error.is_go_away());
    Unanswered {
        unsent: unseen && !heard,
        error: error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use h2::RecvStream;
    use h2::server::{Builder, SendResponse};
    use hyper::body::Frame;
    use hyper::header::LINK;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::{Notify, mpsc};

    use super::*;
    use crate::streams::Client;
    use crate::streams::lab::{ask, client, data, get, head, request};

    fn trailers() -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", HeaderValue::from_static("1"));
        trailers
    }

    async fn next(body: &mut StreamBody) -> Option<Result<Frame<Bytes>, h2::Error>> {
        poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    async fn read(mut body: StreamBody) -> (Vec<u8>, Option<HeaderMap>) {
        let (mut all, mut trailers) = (Vec::new(), None);
        while let Some(frame) = next(&mut body).await {
            match frame.unwrap().into_data() {
                Ok(data) => all.extend_from_slice(&data),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        (all, trailers)
    }

    /// Say back what comes, trailers included.
    async fn echo(mut request: Request<RecvStream>, mut to: SendResponse<Bytes>) {
        let mut stream = to.send_response(head(200), false).unwrap();
        let body = request.body_mut();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            stream.send_data(data, false).unwrap();
        }
        match body.trailers().await.unwrap() {
            Some(trailers) => stream.send_trailers(trailers).unwrap(),
            None => stream.send_data(Bytes::new(), true).unwrap(),
        }
    }

    #[tokio::test]
    async fn what_is_said_before_the_response_is_heard_at_once_and_in_order() {
        let go = Arc::new(Notify::new());
        let let_go = go.clone();
        let client = client(Builder::new(), move |_, mut to| {
            let go = let_go.clone();
            async move {
                for (status, link) in [(103, "</a.css>"), (199, "</b.css>"), (103, "</c.css>")] {
                    let mut said = head(status);
                    said.headers_mut()
                        .insert(LINK, HeaderValue::from_static(link));
                    to.send_informational(said).unwrap();
                }
                go.notified().await;
                to.send_response(head(200), true).unwrap();
            }
        })
        .await;
        let heard = Mutex::new(Vec::new());
        let told = |status: StatusCode, headers: &HeaderMap| {
            let mut heard = heard.lock().unwrap();
            heard.push((status.as_u16(), headers[LINK].to_str().unwrap().to_owned()));
            if heard.len() == 3 {
                go.notify_one();
            }
        };
        let response = client.ask(get(), told).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let heard = heard.into_inner().unwrap();
        let expected = [(103, "</a.css>"), (199, "</b.css>"), (103, "</c.css>")];
        assert_eq!(
            heard,
            expected.map(|(status, link)| (status, link.to_owned()))
        );
    }

    #[tokio::test]
    async fn bodies_and_trailers_come_whole_both_ways() {
        let client = client(Builder::new(), echo).await;
        let (says, request) = request(Method::POST);
        let sent = vec![b'x'; 3_000_000];
        for piece in sent.chunks(100_000) {
            says.send(Ok(Frame::data(Bytes::copy_from_slice(piece))))
                .unwrap();
        }
        says.send(Ok(Frame::trailers(trailers()))).unwrap();
        drop(says);
        let response = client.ask(request, |_, _| {}).await.unwrap();
        let (came, with) = read(response.into_body()).await;
        assert!(came == sent);
        assert_eq!(with, Some(trailers()));
    }

    #[tokio::test]
    async fn a_length_is_said_where_it_means_something() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let client = client(
            Builder::new(),
            move |request: Request<RecvStream>, mut to| {
                let length = request.headers().get(CONTENT_LENGTH).cloned();
                tell.send(length).unwrap();
                to.send_response(head(200), true).unwrap();
                async {}
            },
        )
        .await;
        for (method, length, expected) in [
            (Method::GET, Some(0), None),
            (Method::POST, Some(0), Some("0")),
            (Method::GET, Some(4), Some("4")),
            (Method::POST, None, None),
        ] {
            let (says, mut request) = request(method.clone());
            request.body_mut().length = length;
            if length != Some(0) {
                says.send(Ok(data(b"body"))).unwrap();
            }
            drop(says);
            ask(&client, request).await.unwrap();
            let told = told.recv().await.unwrap();
            let expected = expected.map(HeaderValue::from_static);
            assert_eq!(told, expected, "{method} {length:?}");
        }
    }

    #[tokio::test]
    async fn what_was_refused_was_as_good_as_not_sent_unless_something_was_heard() {
        for (reason, hinted, unsent) in [
            (Reason::REFUSED_STREAM, false, true),
            (Reason::REFUSED_STREAM, true, false),
            (Reason::INTERNAL_ERROR, false, false),
            (Reason::CANCEL, false, false),
        ] {
            let client = client(Builder::new(), move |_, mut to| async move {
                if hinted {
                    to.send_informational(head(103)).unwrap();
                    // Beyond what is on its way, so that the hint is not taken back.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                to.send_reset(reason);
            })
            .await;
            let refused = ask(&client, get()).await.unwrap_err();
            assert_eq!(refused.unsent, unsent, "{reason} {hinted}: {refused:?}");
            assert!(!client.is_closed());
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_shorter_one() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let client = client(
            Builder::new(),
            move |mut request: Request<RecvStream>, _to| {
                let tell = tell.clone();
                async move {
                    let body = request.body_mut();
                    assert_eq!(body.data().await.unwrap().unwrap(), "half");
                    tell.send(None).unwrap();
                    let broken = body.data().await.unwrap().unwrap_err();
                    tell.send(broken.reason()).unwrap();
                }
            },
        )
        .await;
        let (says, request) = request(Method::POST);
        says.send(Ok(data(b"half"))).unwrap();
        let breaking = async {
            assert_eq!(told.recv().await, Some(None));
            says.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
            told.recv().await
        };
        let (answer, reason) = tokio::join!(ask(&client, request), breaking);
        assert!(!answer.unwrap_err().unsent);
        assert_eq!(reason, Some(Some(Reason::INTERNAL_ERROR)));
    }

    /// A server that begins a response, of which it is said when and why nobody wants it any more.
    async fn unwanted() -> (Client, mpsc::UnboundedReceiver<Option<Reason>>) {
        let (tell, told) = mpsc::unbounded_channel();
        let answer = move |request: Request<RecvStream>, mut to: SendResponse<Bytes>| {
            let tell = tell.clone();
            async move {
                let mut stream = to.send_response(head(200), false).unwrap();
                stream
                    .send_data(Bytes::from_static(b"page"), false)
                    .unwrap();
                let reset = poll_fn(|cx| stream.poll_reset(cx)).await;
                tell.send(reset.ok()).unwrap();
                drop(request);
            }
        };
        (client(Builder::new(), answer).await, told)
    }

    #[tokio::test]
    async fn a_response_that_nobody_reads_to_its_end_is_cancelled_with_its_request() {
        let (client, mut told) = unwanted().await;
        let bare = client.ask(get(), |_, _| {}).await.unwrap();
        drop(bare);
        assert_eq!(told.recv().await, Some(Some(Reason::CANCEL)));
        let (says, request) = request(Method::POST);
        says.send(Ok(data(b"half"))).unwrap();
        let response = client.ask(request, |_, _| {}).await.unwrap();
        let mut body = response.into_body();
        assert!(next(&mut body).await.unwrap().is_ok());
        drop(body);
        assert_eq!(told.recv().await, Some(Some(Reason::CANCEL)));
        says.closed().await;
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_is_cancelled() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let begun = Arc::new(Notify::new());
        let is_begun = begun.clone();
        let client = client(Builder::new(), move |_, mut to| {
            let tell = tell.clone();
            begun.notify_one();
            async move {
                let reset = poll_fn(|cx| to.poll_reset(cx)).await;
                tell.send(reset.ok()).unwrap();
            }
        })
        .await;
        let (says, request) = request(Method::POST);
        tokio::select! {
            _ = ask(&client, request) => panic!("it is not answered"),
            () = is_begun.notified() => {}
        }
        assert_eq!(told.recv().await, Some(Some(Reason::CANCEL)));
        assert!(says.is_closed());
    }

    #[tokio::test]
    async fn a_body_goes_on_after_its_response() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let client = client(
            Builder::new(),
            move |mut request: Request<RecvStream>, mut to| {
                let tell = tell.clone();
                async move {
                    to.send_response(head(200), true).unwrap();
                    let mut all = Vec::new();
                    while let Some(data) = request.body_mut().data().await {
                        all.extend_from_slice(&data.unwrap());
                    }
                    tell.send(all).unwrap();
                }
            },
        )
        .await;
        let (says, request) = request(Method::POST);
        says.send(Ok(data(b"before "))).unwrap();
        let response = client.ask(request, |_, _| {}).await.unwrap();
        assert!(read(response.into_body()).await.0.is_empty());
        says.send(Ok(data(b"after"))).unwrap();
        drop(says);
        assert_eq!(told.recv().await.unwrap(), b"before after");
    }

    #[tokio::test]
    async fn a_response_is_whole_though_its_request_was_not_wanted_to_its_end() {
        let client = client(Builder::new(), |request, mut to| async move {
            let mut stream = to.send_response(head(200), false).unwrap();
            stream.send_data(Bytes::from_static(b"page"), true).unwrap();
            // With which h2 says NO_ERROR.
            drop(request);
        })
        .await;
        let (says, request) = request(Method::POST);
        says.send(Ok(data(b"half"))).unwrap();
        let response = client.ask(request, |_, _| {}).await.unwrap();
        says.closed().await;
        assert_eq!(read(response.into_body()).await.0, b"page");
    }

    #[tokio::test]
    async fn a_connect_that_is_answered_with_success_is_a_tunnel() {
        let client = client(Builder::new(), echo).await;
        let (_says, request) = request(Method::CONNECT);
        let mut response = client.ask(request, |_, _| {}).await.unwrap();
        let tunnel = response.body_mut().tunnel().unwrap();
        let (mut reads, mut writes) = tokio::io::split(tunnel);
        let (sent, mut came) = (vec![7; 500_000], Vec::new());
        let saying = async {
            writes.write_all(&sent).await.unwrap();
            writes.shutdown().await.unwrap();
        };
        let (read, ()) = tokio::join!(reads.read_to_end(&mut came), saying);
        read.unwrap();
        assert!(came == sent);
    }

    #[tokio::test]
    async fn a_connect_that_is_refused_is_a_response_like_any_other() {
        let client = client(
            Builder::new(),
            |_, mut to: SendResponse<Bytes>| async move {
                let mut stream = to.send_response(head(405), false).unwrap();
                stream.send_data(Bytes::from_static(b"no"), true).unwrap();
            },
        )
        .await;
        let (_says, request) = request(Method::CONNECT);
        let mut response = client.ask(request, |_, _| {}).await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(response.body_mut().tunnel().is_none());
        assert_eq!(read(response.into_body()).await.0, b"no");
    }
}
