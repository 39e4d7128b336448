//! One client connection: HTTP/1.1 or HTTP/2, told apart by how it begins.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use hyper::Version;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval};

use crate::drain::{Phase, Phases};
use crate::exchange;
use crate::headers::Connected;
use crate::metrics::count;
use crate::targets::Handling;
use crate::worker::Worker;

/// A request's head, and the greatest piece read at once.
const HEAD_BYTES: usize = 64 * 1024;
const STREAMS: u32 = 250;
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// What requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) connected: Connected,
    /// The external port the client connected to.
    pub(crate) port: u16,
    pub(crate) handling: Handling,
    activity: Activity,
}

/// Whether anybody wants something of the connection.
#[derive(Debug, Default)]
struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
    http2: AtomicBool,
}

/// Held while a request is answered.
#[derive(Debug)]
pub(crate) struct Busy<'a>(&'a Activity);

impl Connection {
    fn new(worker: Arc<Worker>, peer: SocketAddr, local: SocketAddr, port: u16) -> Self {
        let (peer, local) = (peer.ip().to_canonical(), local.ip().to_canonical());
        let connected = Connected {
            client_ip: text(&peer.to_string()),
            forwarded_for: text(&forwarded_for(peer, local)),
            port: text(&port.to_string()),
        };
        Connection {
            worker,
            connected,
            port,
            handling: Handling::Http,
            activity: Activity::default(),
        }
    }

    /// Note that a request is being answered.
    pub(crate) fn busy(&self, version: Version) -> Busy<'_> {
        self.activity.begun.fetch_add(1, Relaxed);
        if version == Version::HTTP_2 {
            self.activity.http2.store(true, Relaxed);
        }
        Busy(&self.activity)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.worker.phases.borrow() != Phase::Serving
    }

    pub(crate) fn port_text(&self) -> &str {
        self.connected.port.to_str().unwrap_or_default()
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

/// Serve a connection to its end.
pub(crate) async fn serve(worker: Arc<Worker>, stream: TcpStream, peer: SocketAddr, port: u16) {
    let Ok(local) = stream.local_addr() else {
        return;
    };
    let edge = worker.edge.clone();
    count(&edge.metrics.connects);
    let connection = Arc::new(Connection::new(worker, peer, local, port));
    let builder = builder(&connection);
    let answering = connection.clone();
    let service = service_fn(move |request| exchange::answer(answering.clone(), request));
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = pin!(serving);
    let mut phases = connection.worker.phases.clone();
    let mut watch = IdleWatch::new(&connection);
    let mut closing = false;
    loop {
        tokio::select! {
            // Clients break off as they like; the access log has what matters of it.
            _ = serving.as_mut() => break,
            verdict = watch.tick() => match verdict {
                Idle::No => {}
                Idle::NeverSpoke => break,
                Idle::TooLong => serving.as_mut().graceful_shutdown(),
            },
            () = should_close(&mut phases, &connection.activity), if !closing => {
                closing = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    }
    count(&edge.metrics.disconnects);
}

fn builder(connection: &Connection) -> Builder<TokioExecutor> {
    let limits = &connection.worker.edge.config.limits;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_ms))
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PONG_WITHIN);
    builder
}

/// Return when the drain asks this connection to close.
///
/// HTTP/2 can be told so without losing a request; HTTP/1 is told with its next response, and
/// closed while idle only at the end.
async fn should_close(phases: &mut Phases, activity: &Activity) {
    let http2 = || activity.http2.load(Relaxed);
    let due = |phase: &Phase| match phase {
        Phase::Serving => false,
        Phase::Lingering => http2(),
        Phase::Closing => true,
    };
    // Its sender lives as long as the process.
    let _ = phases.wait_for(due).await;
}

enum Idle {
    No,
    /// No request in the whole time given for a first one.
    NeverSpoke,
    /// An HTTP/2 connection without requests; HTTP/1 has its own timer in hyper.
    TooLong,
}

/// Looks now and then whether the connection is of use.
struct IdleWatch<'a> {
    activity: &'a Activity,
    first: bool,
    ticks: tokio::time::Interval,
    idle: Duration,
    ended_before: u64,
}

impl<'a> IdleWatch<'a> {
    fn new(connection: &'a Connection) -> Self {
        let limits = &connection.worker.edge.config.limits;
        let mut ticks = interval(Duration::from_millis(limits.header_ms.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        IdleWatch {
            activity: &connection.activity,
            first: true,
            ticks,
            idle: Duration::from_millis(limits.idle_ms.max(1)),
            ended_before: 0,
        }
    }

    async fn tick(&mut self) -> Idle {
        self.ticks.tick().await;
        let (begun, ended) = (
            self.activity.begun.load(Relaxed),
            self.activity.ended.load(Relaxed),
        );
        if self.first {
            self.first = false;
            self.ticks = interval(self.idle);
            self.ticks
                .set_missed_tick_behavior(MissedTickBehavior::Delay);
            self.ticks.reset();
            self.ended_before = ended;
            return if begun == 0 {
                Idle::NeverSpoke
            } else {
                Idle::No
            };
        }
        let before = std::mem::replace(&mut self.ended_before, ended);
        let http2 = self.activity.http2.load(Relaxed);
        if http2 && begun == ended && ended == before {
            Idle::TooLong
        } else {
            Idle::No
        }
    }
}

fn forwarded_for(peer: IpAddr, local: IpAddr) -> String {
    format!("{peer}, {local}")
}

fn text(text: &str) -> HeaderValue {
    // Addresses and numbers are header text.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
