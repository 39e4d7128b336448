//! Connections to machines: made fresh, or taken from the worker's pool.
//!
//! Only `requests` concurrency pools (spec/network.md §1.2); a pooled connection is kept about
//! four seconds, which is less than common app servers keep theirs. An app that speaks HTTP/2
//! (`h2_backend`) has one connection of each worker for all requests.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::front::gather::Gather;
use crate::machines::targets::{Place, Target};
use crate::request::body::Upload;

pub(crate) const KEEP: Duration = Duration::from_secs(4);
/// A request that must not be sent twice takes only a connection used a moment ago: the app
/// could be closing an older one right now.
const KEEP_UNREPEATABLE: Duration = Duration::from_secs(1);
const KEPT_PER_MACHINE: usize = 256;

/// A machine that vanished under an idle tunnel or a stream is found by the kernel.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(20);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
const PONG_WITHIN: Duration = Duration::from_secs(15);
/// What an app's HTTP/2 may have on its way, for each stream and for all.
const WINDOW: u32 = 512 * 1024;
const SHARE: u32 = 128;

type Key = (Arc<str>, u16);

/// A connection on which one request may be sent now.
#[derive(Debug)]
pub(crate) struct Upstream {
    sender: Sender,
    /// Where it goes when the response is at its end; `None` for a connection per request.
    home: Option<(Arc<Pool>, Key)>,
}

/// A connection by its protocol.
#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Upload>),
    Two(http2::SendRequest<Upload>),
}

/// Idle connections of one worker, and those that carry many requests at once.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<Key, Vec<Idle>>>,
    shared: Mutex<HashMap<Key, http2::SendRequest<Upload>>>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Upload>,
    since: Instant,
}

/// Connect to a machine.
pub(crate) async fn connect(
    target: &Target,
    within: Duration,
    pool: Option<&Arc<Pool>>,
) -> io::Result<Upstream> {
    let stream = dial(target, within).await?;
    if target.h2 {
        return connect_h2(stream, target, pool).await;
    }
    let sender = Sender::One(speak(stream).await?);
    let home = pool.map(|pool| (pool.clone(), key(target)));
    Ok(Upstream { sender, home })
}

/// Begin to speak HTTP on a connection.
pub(crate) async fn speak(stream: TcpStream) -> io::Result<http1::SendRequest<Upload>> {
    let handshake = http1::Builder::new().handshake(TokioIo::new(Gather(stream)));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // Whoever sends on it is told of its end.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

async fn connect_h2(
    stream: TcpStream,
    target: &Target,
    pool: Option<&Arc<Pool>>,
) -> io::Result<Upstream> {
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
    if let Some(pool) = pool {
        let mut shared = pool.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.insert(key(target), sender.clone());
    }
    Ok(Upstream {
        sender: Sender::Two(sender),
        home: None,
    })
}

/// Connect to a machine of this host, for bytes of any kind.
pub(crate) async fn dial(target: &Target, within: Duration) -> io::Result<TcpStream> {
    let Place::Here(address) = target.place else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    dial_at(SocketAddr::V4(address), within).await
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

fn key(target: &Target) -> Key {
    (target.machine_id.clone(), target.internal_port)
}

impl Upstream {
    /// Whether the app speaks HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        matches!(self.sender, Sender::Two(_))
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        match &mut self.sender {
            Sender::One(sender) => sender.try_send_request(request).await,
            Sender::Two(sender) => sender.try_send_request(request).await,
        }
    }

    /// The response is at its end: keep the connection for the next request.
    pub(crate) fn give_back(self) {
        if let (Some((pool, key)), Sender::One(sender)) = (self.home, self.sender) {
            pool.put(key, sender);
        }
    }
}

impl Pool {
    /// Take an idle connection to a machine.
    pub(crate) fn take(self: &Arc<Self>, target: &Target, repeatable: bool) -> Option<Upstream> {
        let keep = if repeatable { KEEP } else { KEEP_UNREPEATABLE };
        let key = key(target);
        if target.h2 {
            let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            let open = shared.get(&key).filter(|sender| !sender.is_closed())?;
            return Some(Upstream {
                sender: Sender::Two(open.clone()),
                home: None,
            });
        }
        let mut pool = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = newest(pool.get_mut(&key)?, keep)?;
        Some(Upstream {
            sender: Sender::One(sender),
            home: Some((self.clone(), key)),
        })
    }

    fn put(&self, key: Key, sender: http1::SendRequest<Upload>) {
        let mut pool = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = pool.entry(key).or_default();
        if !sender.is_closed() && idle.len() < KEPT_PER_MACHINE {
            idle.push(Idle {
                sender,
                since: Instant::now(),
            });
        }
    }

    /// Close what has been idle too long.
    pub(crate) fn sweep(&self) {
        let mut pool = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        pool.retain(|_, idle| {
            idle.retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < KEEP);
            !idle.is_empty()
        });
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.retain(|_, sender| !sender.is_closed());
    }
}

/// Take the connection used last, which is the least likely to be closed by the app.
///
/// No more of them are looked at than that: with many, to walk them all for each request would be
/// most of what a request costs. The sweep finds those that are closed.
fn newest(idle: &mut Vec<Idle>, keep: Duration) -> Option<http1::SendRequest<Upload>> {
    let now = Instant::now();
    for index in (0..idle.len()).rev() {
        let Idle { sender, since } = &idle[index];
        if now.duration_since(*since) >= keep {
            return None;
        }
        if sender.is_closed() {
            idle.remove(index);
        } else if sender.is_ready() {
            return Some(idle.remove(index).sender);
        }
    }
    None
}
