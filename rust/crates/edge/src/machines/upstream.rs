//! Connections to machines: made fresh, or taken from the worker's pool.
//!
//! Only `requests` concurrency pools (spec/network.md §1.2); a pooled connection is kept about
//! four seconds, which is less than common app servers keep theirs. An app that speaks HTTP/2
//! (`h2_backend`) has one connection of each worker for all requests.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::gather::Gather;
use crate::machines::line::Line;
use crate::machines::load::Shelf;
use crate::machines::targets::{Place, Target};
use crate::request::body::Upload;

pub(crate) const KEEP: Duration = Duration::from_secs(4);
/// A request that must not be sent twice takes only a connection used a moment ago: the app
/// could be closing an older one right now.
const KEEP_UNREPEATABLE: Duration = Duration::from_secs(1);
const KEPT_PER_MACHINE: usize = 256;
/// A connection used so lately is taken without a look: if it was closed all the same, nothing of
/// the request is sent, which then goes by another one.
const FRESH: Duration = Duration::from_millis(10);

/// A machine that vanished under an idle tunnel or a stream is found by the kernel.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const PONG_WITHIN: Duration = Duration::from_secs(15);
/// What an app's HTTP/2 may have on its way, for each stream and for all.
const WINDOW: u32 = 512 * 1024;
const SHARE: u32 = 128;

/// A connection on which one request may be sent now.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: Sender,
    /// Where it goes when the response is at its end; `None` for a connection per request.
    home: Option<Arc<Kept>>,
}

/// A connection by its protocol.
#[derive(Debug)]
enum Sender {
    One(Box<Line>),
    Two(http2::SendRequest<Upload>),
}

/// Connections of one worker to all machines.
#[derive(Debug, Default)]
pub(crate) struct Pool(Shelf<Kept>);

/// Connections of one worker to a machine's port. Targets hold it, so that a request finds it
/// without a look into a table.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    idle: Mutex<Vec<Idle>>,
    /// The one that carries many requests at once.
    shared: Mutex<Option<http2::SendRequest<Upload>>>,
}

#[derive(Debug)]
struct Idle {
    line: Box<Line>,
    since: Instant,
}

/// Connect to a machine.
pub(crate) async fn connect(
    target: &Target,
    within: Duration,
    home: Option<&Arc<Kept>>,
) -> io::Result<Upstream> {
    let stream = dial(target, within).await?;
    if target.h2 {
        return connect_h2(stream, home).await;
    }
    Ok(Upstream {
        sender: Sender::One(Box::new(Line::on(stream).await?)),
        home: home.cloned(),
    })
}

/// Begin to speak HTTP on a connection that a task of its own drives.
pub(crate) async fn speak(stream: TcpStream) -> io::Result<http1::SendRequest<Upload>> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(Gather(stream)));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever sends on it is told of its end.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

async fn connect_h2(stream: TcpStream, home: Option<&Arc<Kept>>) -> io::Result<Upstream> {
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * SHARE)
        .keep_alive_interval(KEEPALIVE_AFTER)
        .keep_alive_timeout(PONG_WITHIN)
        .handshake(TokioIo::new(Gather(stream)));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever sends on it is told of its end.
        let _ = connection.await;
    });
    if let Some(kept) = home {
        *kept.shared() = Some(sender.clone());
    }
    Ok(Upstream {
        sender: Sender::Two(sender),
        home: None,
    })
}

/// Connect to a machine of this host, for bytes of any kind.
pub(crate) async fn dial(target: &Target, within: Duration) -> io::Result<TcpStream> {
    let Place::Here(here) = &target.place else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    dial_at(SocketAddr::V4(here.address), within).await
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
        matches!(self.sender, Sender::Two(_))
    }

    /// The connection if this one request has it to itself.
    pub(crate) fn line(&mut self) -> Option<&mut Line> {
        match &mut self.sender {
            Sender::One(line) => Some(line),
            Sender::Two(_) => None,
        }
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match &mut self.sender {
            Sender::One(line) => line.send(request).await,
            Sender::Two(sender) => sender.try_send_request(request).await,
        }
    }

    /// The response is at its end: keep the connection for the next request.
    pub(crate) fn give_back(self) {
        if let (Some(home), Sender::One(line)) = (self.home, self.sender) {
            home.put(line);
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
    /// Take a connection that is open: one that is idle, or the one for all.
    pub(crate) fn take(self: &Arc<Self>, h2: bool, repeatable: bool) -> Option<Upstream> {
        if h2 {
            let shared = self.shared();
            let open = shared.as_ref().filter(|sender| !sender.is_closed())?;
            return Some(Upstream {
                sender: Sender::Two(open.clone()),
                home: None,
            });
        }
        let keep = if repeatable { KEEP } else { KEEP_UNREPEATABLE };
        let line = newest(&mut self.idle(), keep)?;
        Some(Upstream {
            sender: Sender::One(line),
            home: Some(self.clone()),
        })
    }

    fn put(&self, mut line: Box<Line>) {
        line.rest();
        let mut idle = self.idle();
        if !line.is_closed() && idle.len() < KEPT_PER_MACHINE {
            let since = Instant::now();
            idle.push(Idle { line, since });
        }
    }

    fn sweep(&self) {
        self.idle().retain_mut(|idle| {
            idle.line.look();
            !idle.line.is_closed() && idle.since.elapsed() < KEEP
        });
        self.shared().take_if(|sender| sender.is_closed());
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Option<http2::SendRequest<Upload>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Take the connection used last, which is the least likely to be closed by the app.
///
/// No more of them are looked at than that: with many, to walk them all for each request would be
/// most of what a request costs. The sweep finds those that are closed.
fn newest(idle: &mut Vec<Idle>, keep: Duration) -> Option<Box<Line>> {
    let now = Instant::now();
    for index in (0..idle.len()).rev() {
        let Idle { line, since } = &mut idle[index];
        let idle_for = now.duration_since(*since);
        if idle_for >= keep {
            return None;
        }
        if idle_for >= FRESH {
            line.look();
        }
        if line.is_closed() {
            idle.remove(index);
        } else if line.is_ready() {
            return Some(idle.remove(index).line);
        }
    }
    None
}
