//! A connection to a machine that speaks HTTP/1.1, for requests without a body.
//!
//! Who has such a request writes it and reads the response in its own turns; between requests
//! nobody looks after the connection, only whether it is still open when it is taken. What has a
//! body, or is to become a tunnel, goes by hyper (`upstream`), to which a line can be handed over.

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use hyper::{Method, StatusCode, Uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::machines::framing::{self, Head};
use crate::metrics::Connected;
use crate::request::introduction::{self, Introduction};

/// Read at once, at first; more of what comes without a pause.
const LEAST_READ: usize = 8 * 1024;
const MOST_READ: usize = 256 * 1024;
/// With less room than this no read is begun.
const LEAST_ROOM: usize = 2 * 1024;
/// A request's head that was longer leaves no room behind.
const USUAL_REQUEST: usize = 4 * 1024;

/// One connection; it carries one request at a time.
#[derive(Debug)]
pub(crate) struct Line {
    stream: TcpStream,
    /// Of a machine, not of its host's file server.
    connected: Option<Connected>,
    /// What has come, and is not yet read.
    pub(super) came: BytesMut,
    /// Room for a request.
    request: Vec<u8>,
    read_at_once: usize,
}

/// A request without a body, as a machine gets it.
#[derive(Clone, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a Method,
    /// Path and query.
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
    /// What the headers do not say of its client.
    pub(crate) introduction: Option<&'a Introduction<'a>>,
    /// For this machine alone.
    pub(crate) besides: Option<(HeaderName, HeaderValue)>,
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) struct Unanswered {
    /// Nothing of it was sent, or whoever got it has not looked at it.
    pub(crate) unsent: bool,
    pub(crate) error: Box<dyn Error + Send + Sync>,
}

impl Line {
    pub(crate) fn on(stream: TcpStream, connected: Option<Connected>) -> Self {
        Line {
            stream,
            connected,
            came: BytesMut::new(),
            request: Vec::new(),
            read_at_once: LEAST_READ,
        }
    }

    /// The connection, between requests.
    pub(super) fn into_stream(self) -> (TcpStream, Option<Connected>) {
        (self.stream, self.connected)
    }

    /// Whether, as far as was heard, it is open, and the machine has said nothing unasked.
    pub(super) fn is_open(&self) -> bool {
        if !self.came.is_empty() {
            return false;
        }
        let said = self.stream.try_read(&mut [0]);
        said.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Send a request, and wait for the head of its response; what is said before it is `told`.
    pub(crate) async fn ask(
        &mut self,
        asked: &Asked<'_>,
        told: impl Fn(StatusCode, &HeaderMap),
    ) -> Result<Head, Unanswered> {
        asked.write(&mut self.request);
        let mut sent = 0;
        while let Some(rest @ [_, ..]) = self.request.get(sent..) {
            let unsent = sent == 0;
            sent += match self.stream.write(rest).await {
                Ok(0) => return Err(unanswered(unsent, io::ErrorKind::WriteZero)),
                Ok(count) => count,
                Err(error) => return Err(unanswered(unsent, error)),
            };
        }
        let bodyless = asked.method == Method::HEAD;
        loop {
            match poll_fn(|cx| self.poll_read(cx)).await {
                Ok(0) => return Err(unanswered(false, io::ErrorKind::UnexpectedEof)),
                Ok(_) => {}
                Err(error) => return Err(unanswered(false, error)),
            }
            match framing::head(&mut self.came, bodyless, &told) {
                Ok(None) => {}
                Ok(Some(head)) => return Ok(head),
                Err(error) => {
                    return Err(Unanswered {
                        unsent: false,
                        error: error.into(),
                    });
                }
            }
        }
    }

    /// Read more; 0 bytes are the end of the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let room = |came: &BytesMut| came.capacity() - came.len();
        if room(&self.came) < LEAST_ROOM {
            self.came.reserve(self.read_at_once);
        }
        let whole = room(&self.came);
        let polled = pin!(self.stream.read_buf(&mut self.came)).poll(cx);
        if matches!(polled, Poll::Ready(Ok(count)) if count == whole) {
            self.read_at_once = (self.read_at_once * 2).min(MOST_READ);
        }
        polled
    }

    /// The response was read to its end: let go what only a great one needs.
    pub(super) fn rest(&mut self) {
        self.read_at_once = LEAST_READ;
        self.request.clear();
        self.request.shrink_to(USUAL_REQUEST);
        // What was said unasked stays, for `is_open` to see.
        if self.came.is_empty() && self.came.capacity() > LEAST_READ {
            self.came = BytesMut::new();
        }
    }
}

impl Asked<'_> {
    fn write(&self, out: &mut Vec<u8>) {
        out.clear();
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        for piece in [self.method.as_str(), " ", path, " HTTP/1.1\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
        let besides = self.besides.iter().map(|(name, value)| (name, value));
        for (name, value) in self.headers.iter().chain(besides) {
            // Nothing but an empty body follows, whatever a replay was told to say.
            let framed = name == TRANSFER_ENCODING || (name == CONTENT_LENGTH && value != "0");
            if framed {
                continue;
            }
            introduction::write(out, name, value.as_bytes());
        }
        if let Some(introduction) = self.introduction {
            introduction.write(out);
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn unanswered(unsent: bool, error: impl Into<io::Error>) -> Unanswered {
    Unanswered {
        unsent,
        error: error.into().into(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_is_said_unasked_is_heard_of_when_the_line_is_taken_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for room in [LEAST_READ, 2 * LEAST_READ] {
            let mut line = Line::on(TcpStream::connect(address).await.unwrap(), None);
            let _machine = listener.accept().await.unwrap();
            line.came.reserve(room);
            line.rest();
            assert!(line.is_open());
            line.came.reserve(room);
            line.came.extend_from_slice(b"HTTP/1.1 200 OK");
            line.rest();
            assert!(!line.is_open());
        }
    }

    fn written(headers: &[(&'static str, &'static str)]) -> String {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                let value = HeaderValue::from_static(value);
                (HeaderName::from_static(name), value)
            })
            .collect();
        let besides = HeaderName::from_static("fly-preferred-instance-unavailable");
        let asked = Asked {
            method: &Method::GET,
            uri: &Uri::from_static("/a?b"),
            headers: &headers,
            introduction: None,
            besides: Some((besides, HeaderValue::from_static("m1"))),
        };
        let mut out = b"what was before".to_vec();
        asked.write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_request_is_its_head() {
        assert_eq!(
            written(&[("host", "hello.example"), ("content-length", "0")]),
            "GET /a?b HTTP/1.1\r\nhost: hello.example\r\ncontent-length: 0\r\n\
             fly-preferred-instance-unavailable: m1\r\n\r\n"
        );
    }

    #[test]
    fn nothing_promises_a_body_that_does_not_follow() {
        let lines = written(&[("content-length", "5"), ("transfer-encoding", "chunked")]);
        assert!(!lines.contains("content-length") && !lines.contains("transfer-encoding"));
    }
}
