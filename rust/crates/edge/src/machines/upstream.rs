//! Connections to machines: made fresh, or taken from the worker's pool.
//!
//! Only `requests` concurrency pools (spec/network.md §1.2); a pooled connection is kept about
//! four seconds, which is less than common app servers keep theirs. An app that speaks HTTP/2
//! (`h2_backend`) has one connection of each worker for all requests, and more when it takes no
//! more of them on that.
//!
//! A connection of HTTP/1.1 is a line as long as it carries nothing but requests without a body.
//! The first that has one, or is to become a tunnel, has hyper drive it from then on.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::{TrySendError, http1};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::gather::Gather;
use crate::machines::app_body::{AppBody, LineBody};
use crate::machines::heard::Heard;
use crate::machines::line::{Asked, Line, Unanswered};
use crate::machines::load::Shelf;
use crate::machines::targets::{Place, Target};
use crate::metrics::Connected;
use crate::request::body::Upload;
use crate::streams::{Client, ClientSettings};

pub(crate) const KEEP: Duration = Duration::from_secs(4);
/// A request that must not be sent twice takes only a connection used a moment ago: the app
/// could be closing an older one right now.
const KEEP_UNREPEATABLE: Duration = Duration::from_secs(1);
const KEPT_PER_MACHINE: usize = 256;
/// By HTTP/2. An app may take few streams at a time on one: some servers take a hundred.
const SHARED_PER_MACHINE: usize = 16;
/// A machine that vanished under an idle tunnel or a stream is found by the kernel.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// What an app's HTTP/2 may have on its way on one stream.
const WINDOW: u32 = 512 * 1024;
const APP: ClientSettings = ClientSettings {
    stream_window: WINDOW,
    connection_window: WINDOW * 128,
    header_list: 16 * 1024,
    send_buffer: 1024 * 1024,
    // Who comes meanwhile has a connection made: on this one it might wait for a long response.
    first_streams: 1,
    ping_after: KEEPALIVE_AFTER,
    pong_within: Duration::from_secs(15),
};

/// A connection on which one request may be sent now.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: Sender,
    /// Where it goes when the response is at its end; `None` for a connection per request.
    home: Option<Arc<Kept>>,
    /// It leads to the machine's file server.
    is_files: bool,
}

/// What a request needs of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    /// It may be sent a second time.
    pub(crate) repeatable: bool,
    /// Only a connection that carried nothing yet will do.
    pub(crate) fresh: bool,
    /// Its path, if it may be for a file.
    pub(crate) path: Option<&'a str>,
    /// What the connection, or a stream of it, is to become.
    pub(crate) becomes: Option<Becomes>,
}

/// What a request with `Upgrade` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Becomes {
    /// HTTP/2 has a way for it, too (RFC 8441).
    WebSocket,
    Other,
}

impl Becomes {
    pub(crate) fn of(protocol: &HeaderValue) -> Self {
        if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
            Becomes::WebSocket
        } else {
            Becomes::Other
        }
    }
}

/// A connection by its protocol, and who drives it.
#[derive(Debug)]
enum Sender {
    /// HTTP/1.1, driven by who has a request.
    Line(Box<Line>),
    /// HTTP/1.1, driven by a task of hyper's.
    Driven(http1::SendRequest<Upload>),
    /// HTTP/2, for many requests at once.
    Shared(Client),
}

/// Connections of one worker to all machines.
#[derive(Debug, Default)]
pub(crate) struct Pool(Shelf<Kept>);

/// Connections of one worker to a machine's port. Targets hold it, so that a request finds it
/// without a look into a table.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    idle: Mutex<Vec<Idle>>,
    /// Those that carry many requests at once: one, and more as long as it has no room.
    shared: Mutex<Vec<Client>>,
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

/// Connect to a machine.
///
/// An app that speaks HTTP/2 is asked for a `WebSocket` that way if it says that it takes them so,
/// and for everything else that a connection can become by HTTP/1.1.
pub(crate) async fn connect(
    target: &Target,
    within: Duration,
    home: Option<&Arc<Kept>>,
    becomes: Option<Becomes>,
) -> io::Result<Upstream> {
    match becomes {
        None if target.h2 => {
            return connect_h2(dial(target, within).await?, home).await;
        }
        Some(Becomes::WebSocket) if target.h2 => {
            if let Some(upstream) = connect_for_websocket(target, within).await? {
                return Ok(upstream);
            }
        }
        _ => {}
    }
    let (stream, connected) = dial(target, within).await?;
    Ok(on_line(
        stream,
        Some(connected),
        home.filter(|_| !target.h2),
    ))
}

/// Connect to a machine's file server.
pub(crate) async fn connect_files(
    address: SocketAddrV4,
    within: Duration,
    home: &Arc<Kept>,
) -> io::Result<Upstream> {
    let stream = dial_at(SocketAddr::V4(address), within).await?;
    Ok(on_line(stream, None, Some(home)).into_files())
}

fn on_line(stream: TcpStream, connected: Option<Connected>, home: Option<&Arc<Kept>>) -> Upstream {
    Upstream {
        sender: Sender::Line(Box::new(Line::on(stream, connected))),
        home: home.cloned(),
        is_files: false,
    }
}

/// A connection by HTTP/2 on which an app takes a `WebSocket`; `None` if it does not say so.
async fn connect_for_websocket(target: &Target, within: Duration) -> io::Result<Option<Upstream>> {
    let (stream, connected) = dial(target, within).await?;
    let (stream, heard) = Heard::on(Gather(stream));
    let client = Client::on(stream, &APP, connected).await;
    let client = client.map_err(io::Error::other)?;
    // The app's settings come first, and are known when this ends, one way or the other.
    let _ = timeout(within, heard).await?;
    Ok(client.takes_protocols().then(|| shared(client)))
}

fn shared(client: Client) -> Upstream {
    Upstream {
        sender: Sender::Shared(client),
        home: None,
        is_files: false,
    }
}

/// Begin to speak HTTP on a connection that a task of its own drives.
pub(crate) async fn speak(
    stream: TcpStream,
    connected: Option<Connected>,
) -> io::Result<http1::SendRequest<Upload>> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(Gather(stream)));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever sends on it is told of its end.
        let _ = connection.with_upgrades().await;
        drop(connected);
    });
    Ok(sender)
}

async fn connect_h2(
    (stream, connected): (TcpStream, Connected),
    home: Option<&Arc<Kept>>,
) -> io::Result<Upstream> {
    let client = Client::on(Gather(stream), &APP, connected).await;
    let client = client.map_err(io::Error::other)?;
    if let Some(kept) = home {
        kept.share(&client);
    }
    Ok(shared(client))
}

/// Connect to a machine of this host, for bytes of any kind.
pub(crate) async fn dial(target: &Target, within: Duration) -> io::Result<(TcpStream, Connected)> {
    let Place::Here(here) = &target.place else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    let begun = Instant::now();
    let stream = dial_at(SocketAddr::V4(here.address), within).await?;
    Ok((stream, here.metrics.connected(begun.elapsed())))
}

/// Connect to an address, for bytes of any kind.
pub(crate) async fn dial_at(address: SocketAddr, within: Duration) -> io::Result<TcpStream> {
    let stream = timeout(within, TcpStream::connect(address))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
    Ok(stream)
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES)
}

impl Upstream {
    /// Whether the app speaks HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::Shared(_))
    }

    /// Whether it leads to the machine's file server.
    pub(crate) fn is_files(&self) -> bool {
        self.is_files
    }

    /// The same, as one to a file server.
    pub(crate) fn into_files(self) -> Self {
        Upstream {
            is_files: true,
            ..self
        }
    }

    /// Whether it carries requests without a body with nobody's help.
    pub(crate) fn is_line(&self) -> bool {
        matches!(self.sender, Sender::Line(_))
    }

    /// Send a request without a body; its response's body brings the connection back.
    /// What is said before it (1xx) is `told`.
    pub(crate) async fn ask(
        self,
        asked: &Asked<'_>,
        told: impl Fn(StatusCode, &HeaderMap),
    ) -> Result<Response<AppBody>, Unanswered> {
        let Sender::Line(mut line) = self.sender else {
            return Err(unsent(io::ErrorKind::Unsupported));
        };
        let head = line.ask(asked, told).await?;
        let home = self.home.filter(|_| head.reusable);
        let body = LineBody::new(line, head.framing, home);
        Ok(head.response.map(|()| AppBody::Line(body)))
    }

    /// Send a request, and have a task drive a line from now on; the connection is returned too.
    /// What an app by HTTP/2 says before its response (1xx) is `told`.
    pub(crate) async fn send(
        self,
        request: Request<Upload>,
        told: impl Fn(StatusCode, &HeaderMap),
    ) -> Result<(Response<AppBody>, Self), Unanswered> {
        let mut sender = match self.sender {
            Sender::Line(line) => {
                let (stream, connected) = line.into_stream();
                Sender::Driven(speak(stream, connected).await.map_err(unsent)?)
            }
            other => other,
        };
        let response = match &mut sender {
            Sender::Line(_) => return Err(unsent(io::ErrorKind::Unsupported)),
            Sender::Driven(sender) => sender.try_send_request(request).await?.map(AppBody::Hyper),
            Sender::Shared(client) => client.ask(request, told).await?.map(AppBody::Stream),
        };
        let upstream = Upstream {
            sender,
            home: self.home,
            is_files: self.is_files,
        };
        Ok((response, upstream))
    }

    /// The response is at its end: keep the connection for the next request.
    pub(crate) fn give_back(self) {
        if let Some(home) = self.home {
            home.put(self.sender);
        }
    }
}

impl Sender {
    fn is_open(&self) -> bool {
        match self {
            Sender::Line(line) => line.is_open(),
            Sender::Driven(sender) => !sender.is_closed(),
            Sender::Shared(client) => !client.is_closed(),
        }
    }

    fn is_ready(&self) -> bool {
        match self {
            Sender::Line(_) | Sender::Shared(_) => true,
            Sender::Driven(sender) => sender.is_ready(),
        }
    }
}

fn unsent(error: impl Into<io::Error>) -> Unanswered {
    Unanswered {
        unsent: true,
        error: error.into().into(),
    }
}

impl<T> From<TrySendError<T>> for Unanswered {
    fn from(mut error: TrySendError<T>) -> Self {
        Unanswered {
            unsent: error.take_message().is_some(),
            error: error.into_error().into(),
        }
    }
}

impl Pool {
    /// What is kept for a machine's port, now or from now on.
    pub(crate) fn of(&self, machine: &Arc<str>, internal_port: u16) -> Arc<Kept> {
        self.0.get((machine.clone(), internal_port))
    }

    /// Close what has been idle too long.
    pub(crate) fn sweep(&self) {
        for (_, kept) in self.0.all() {
            kept.sweep();
        }
    }
}

impl Kept {
    /// Take a connection that is open: one that is idle, or one that has room for one more.
    pub(crate) fn take(self: &Arc<Self>, h2: bool, repeatable: bool) -> Option<Upstream> {
        if h2 {
            return roomy(&mut self.shared()).map(shared);
        }
        let keep = if repeatable { KEEP } else { KEEP_UNREPEATABLE };
        let sender = newest(&mut self.idle(), keep)?;
        Some(Upstream {
            sender,
            home: Some(self.clone()),
            is_files: false,
        })
    }

    /// Keep a line whose last response was read to its end.
    pub(super) fn put_line(&self, mut line: Box<Line>) {
        line.rest();
        self.put(Sender::Line(line));
    }

    fn put(&self, sender: Sender) {
        // Whether it is open is for whoever takes it to see.
        let mut idle = self.idle();
        if idle.len() < KEPT_PER_MACHINE {
            let since = Instant::now();
            idle.push(Idle { sender, since });
        }
    }

    fn share(&self, client: &Client) {
        let mut shared = self.shared();
        // Of many that were made at once each serves at least who made it.
        if shared.len() < SHARED_PER_MACHINE {
            shared.push(client.clone());
        }
    }

    fn sweep(&self) {
        self.idle()
            .retain(|idle| idle.sender.is_open() && idle.since.elapsed() < KEEP);
        let mut first = true;
        self.shared().retain(|client| {
            let needed = std::mem::take(&mut first) || client.streams() > 0;
            needed && !client.is_closed()
        });
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Vec<Client>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first connection on which the app takes one more stream, so that those after it come to
/// rest; once there are as many as there may be, the one with the fewest.
fn roomy(clients: &mut Vec<Client>) -> Option<Client> {
    clients.retain(|client| !client.is_closed());
    let with_room = clients.iter().find(|client| client.has_room());
    let fewest = || clients.iter().min_by_key(|client| client.streams());
    let full = clients.len() >= SHARED_PER_MACHINE;
    with_room.or_else(|| fewest().filter(|_| full)).cloned()
}

/// Take the connection used last, which is the least likely to be closed by the app.
///
/// No more of them are looked at than that: with many, to walk them all for each request would be
/// most of what a request costs. The sweep finds those that are closed.
fn newest(idle: &mut Vec<Idle>, keep: Duration) -> Option<Sender> {
    let now = Instant::now();
    for index in (0..idle.len()).rev() {
        let Idle { sender, since } = &idle[index];
        if now.duration_since(*since) >= keep {
            return None;
        }
        let (open, ready) = (sender.is_open(), sender.is_ready());
        if !open || ready {
            let taken = idle.remove(index);
            if open {
                return Some(taken.sender);
            }
        }
    }
    None
}
