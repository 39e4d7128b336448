//! One client connection that speaks HTTP: 1.1 or 2, told apart by TLS or by how it begins.

use std::error::Error;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use godwit_wire::components::Listener;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::{Builder, Connection as Pinned, UpgradeableConnection};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};

use super::aside::aside;
use super::greeting::Visitor;
use super::interim::{Hints, Interim};
use super::worker::Worker;
use crate::alarm::OneAlarm;
use crate::drain::{Phase, Phases};
use crate::machines::targets::Handling;
use crate::request::exchange;
use crate::request::introduction::Connected;

/// A request's head, and the greatest piece read at once.
const HEAD_BYTES: usize = 64 * 1024;
const HTTPS: u16 = 443;
const STREAMS: u32 = 250;
/// Streams that a client opened and reset before they were looked at: more is a flood.
const PENDING_RESETS: usize = 20;
/// Streams that were reset here for the client's mistakes.
const ERROR_RESETS: usize = 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const PONG_WITHIN: Duration = Duration::from_secs(20);

/// How HTTP came to be spoken.
#[derive(Clone, Debug)]
pub(crate) struct Spoken {
    pub(crate) handling: Handling,
    /// The app whose own address this is; otherwise each request's host says which.
    pub(crate) app: Option<Arc<str>>,
    pub(crate) version: Version,
    /// Seconds, if the app says so.
    pub(crate) headers_read_timeout: Option<u32>,
}

/// How it is known what a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// HTTP/2 was agreed on: nothing else is taken.
    Http2,
    /// The client's first bytes say it.
    ByPreface,
}

/// What requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) connected: Connected,
    /// The external port the client connected to.
    pub(crate) port: u16,
    pub(crate) handling: Handling,
    /// The app whose own address the client connected to.
    pub(crate) app: Option<Arc<str>>,
    /// Where clients find HTTPS if this is not it.
    pub(crate) https_port: u16,
    /// What is said before responses by HTTP/1.1.
    pub(crate) hints: Arc<Hints>,
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
    fn new(worker: Arc<Worker>, who: &Visitor, spoken: &Spoken) -> Self {
        let peer = who.peer.ip().to_canonical();
        let local = who.local.ip().to_canonical();
        let secure = spoken.handling == Handling::Https;
        let region = &worker.edge.region;
        let connected = Connected::new(peer, local, who.at.port, secure, region);
        Connection {
            https_port: https_port(&worker.edge.config.listeners, who.at),
            worker,
            connected,
            port: who.at.port,
            handling: spoken.handling,
            app: spoken.app.clone(),
            hints: Arc::default(),
            activity: Activity::default(),
        }
    }

    /// Note that a request is being answered.
    pub(crate) fn busy(&self, version: hyper::Version) -> Busy<'_> {
        self.activity.begun.fetch_add(1, Relaxed);
        if version == hyper::Version::HTTP_2 {
            self.activity.http2.store(true, Relaxed);
        }
        Busy(&self.activity)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.worker.phases.borrow() != Phase::Serving
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

/// Serve a connection to its end.
pub(crate) async fn serve<I>(worker: Arc<Worker>, who: &Visitor, stream: I, spoken: Spoken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Arc::new(Connection::new(worker, who, &spoken));
    let limits = &connection.worker.edge.config.limits;
    let head_within = spoken
        .headers_read_timeout
        .map_or(Duration::from_millis(limits.header_ms), |seconds| {
            Duration::from_secs(seconds.into())
        });
    let builder = builder(head_within);
    let answering = connection.clone();
    // Boxed: hyper holds room for the answer as long as the connection lives.
    let service =
        service_fn(move |request| Box::pin(exchange::answer(answering.clone(), request)));
    match spoken.version {
        // The only one of the two that keeps to HTTP/2; streams of it need nothing to be upgraded.
        Version::Http2 => {
            let builder = builder.http2_only();
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            drive(&connection, serving, Pinned::graceful_shutdown).await;
        }
        Version::ByPreface => {
            let stream = TokioIo::new(Interim::new(stream, connection.hints.clone()));
            let serving = builder.serve_connection_with_upgrades(stream, service);
            drive(
                &connection,
                serving,
                UpgradeableConnection::graceful_shutdown,
            )
            .await;
        }
    }
}

/// Drive what hyper makes of a connection; `close` has it end once what it began is answered.
async fn drive<S>(connection: &Connection, serving: S, close: fn(Pin<&mut S>))
where
    S: Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
{
    let mut serving = pin!(serving);
    let mut phases = connection.worker.phases.clone();
    let mut watch = IdleWatch::new(connection);
    let mut closing = false;
    loop {
        let due = due(&mut watch, &mut phases, !closing);
        let due = tokio::select! {
            biased;
            served = serving.as_mut() => {
                if let Err(error) = served {
                    broke(connection, &*error);
                }
                break;
            }
            due = aside(due) => due,
        };
        match due {
            Due::Look(Idle::No) => {}
            Due::Look(Idle::NeverSpoke) => {
                connection
                    .worker
                    .edge
                    .front
                    .refused
                    .add("http_head_timeout");
                break;
            }
            Due::Look(Idle::TooLong) => close(serving.as_mut()),
            Due::Close => {
                closing = true;
                close(serving.as_mut());
            }
        }
    }
}

/// What a connection is interrupted for.
enum Due {
    Look(Idle),
    /// The drain asks it to close.
    Close,
}

async fn due(watch: &mut IdleWatch<'_>, phases: &mut Phases, may_close: bool) -> Due {
    let activity = watch.activity;
    tokio::select! {
        verdict = watch.tick() => Due::Look(verdict),
        () = should_close(phases, activity), if may_close => Due::Close,
    }
}

/// Count what a client did that ends its connection; that it left is no matter.
fn broke(connection: &Connection, error: &(dyn Error + 'static)) {
    let reason = match error.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_parse_too_large() => "http_too_large",
        Some(error) if error.is_parse() => "http_malformed",
        Some(error) if error.is_timeout() => "http_head_timeout",
        Some(error) if is_protocol(error) => "http2_protocol",
        _ => return,
    };
    log::debug!("a connection to port {} ends: {error}", connection.port);
    connection.worker.edge.front.refused.add(reason);
}

/// Whether HTTP/2's own rules or limits were broken, a flood among them.
fn is_protocol(error: &hyper::Error) -> bool {
    let source = Error::source(error);
    source.is_some_and(|error| {
        error
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.is_go_away() || error.is_library() || error.is_reset())
    })
}

fn builder(head_within: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(OneAlarm::default())
        .header_read_timeout(head_within)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        // WebSockets, RFC 8441.
        .enable_connect_protocol()
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

/// The port at which clients reach what apps have at 443: another one where ports are mapped.
fn https_port(listeners: &[Listener], at: Listener) -> u16 {
    let mapped = listeners.contains(&at);
    let https = listeners.iter().find(|listener| listener.port == HTTPS);
    https
        .filter(|_| mapped)
        .map_or(HTTPS, |listener| listener.address.port())
}
