//! One client connection that speaks HTTP: 1.1 or 2, told apart by TLS or by how it begins.

use std::convert::Infallible;
use std::net::Ipv6Addr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use godwit_wire::components::Listener;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::aside::aside;
use super::greeting::Visitor;
use super::interim::{Hints, Interim};
use super::preface;
use super::prefix::any_has;
use super::stall::Stall;
use super::worker::Worker;
use crate::alarm::OneAlarm;
use crate::drain::{Phase, Phases};
use crate::machines::targets::Handling;
use crate::request::arrived::Arrived;
use crate::request::exchange;
use crate::request::introduction::Connected;
use crate::request::last::Last;
use crate::streams::{self, Settings};

/// A request's head, and the greatest piece read at once.
const HEAD_BYTES: u32 = 64 * 1024;
/// The port of HTTPS.
pub(crate) const HTTPS: u16 = 443;
const HTTP_2: Settings = Settings {
    stream_window: 1024 * 1024,
    connection_window: 1024 * 1024,
    streams: 250,
    header_list: HEAD_BYTES,
    pending_resets: 20,
    error_resets: 1024,
    protocols: true,
    ping_every: Duration::from_secs(20),
    pong_within: Duration::from_secs(20),
    taken_within: Duration::MAX,
};

/// How HTTP came to be spoken.
#[derive(Clone, Debug)]
pub(crate) struct Spoken {
    pub(crate) handling: Handling,
    /// The app whose own address this is; otherwise each request's host says which.
    pub(crate) app: Option<Arc<str>>,
    /// HTTP/2 was agreed on, and nothing else is taken; otherwise the client's first bytes say it.
    pub(crate) only_http_2: bool,
    /// Seconds, if the app says so.
    pub(crate) headers_read_timeout: Option<u32>,
}

/// What requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) worker: Arc<Worker>,
    pub(crate) connected: Connected,
    /// It comes from a forwarder, whose word about each request's client counts.
    pub(crate) forwarded: bool,
    /// The external port the client connected to.
    pub(crate) port: u16,
    pub(crate) handling: Handling,
    /// The app whose own address the client connected to.
    pub(crate) app: Option<Arc<str>>,
    /// The private address of the machine that the client is.
    pub(crate) caller: Option<Ipv6Addr>,
    /// Where clients find HTTPS if this is not it.
    pub(crate) https_port: u16,
    /// What is said before responses by HTTP/1.1.
    pub(crate) hints: Arc<Hints>,
    /// Whether the client takes what it gets by HTTP/1.1.
    stall: Arc<Stall>,
    /// Told when it is to end once what it began is answered.
    closing: Notify,
    /// Where the last request led.
    pub(crate) last: Last,
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
        let forwarders = &worker.edge.front.forwarders;
        // What a machine says at a private address is its app's word.
        let forwarded = who.caller.is_none() && any_has(forwarders, peer);
        let connected = Connected::new(peer, local, who.at.port, secure, region);
        Connection {
            https_port: https_port(&worker.edge.config.listeners, who.at),
            worker,
            connected,
            forwarded,
            port: who.at.port,
            handling: spoken.handling,
            app: spoken.app.clone(),
            caller: who.caller,
            hints: Arc::default(),
            stall: Arc::default(),
            closing: Notify::new(),
            last: Last::default(),
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
    // HTTP/2 has no such time of the app's, only the edge's for a first request.
    let first_within = if spoken.only_http_2 {
        Duration::from_millis(limits.header_ms)
    } else {
        head_within
    };
    let speaking = speak(&connection, stream, &spoken, head_within);
    drive(&connection, speaking, first_within).await;
}

/// Speak what the client does, until it ends or is to close once what it began is answered.
async fn speak<I>(
    connection: &Arc<Connection>,
    stream: I,
    spoken: &Spoken,
    head_within: Duration,
) -> Result<(), Broken>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if spoken.only_http_2 {
        return by_http_2(connection, stream).await;
    }
    let hearing = preface::hear(stream);
    let (is_http_2, stream) = tokio::select! {
        heard = hearing => heard.map_err(|_| Broken::Gone)?,
        () = connection.closing.notified() => return Ok(()),
    };
    if is_http_2 {
        by_http_2(connection, stream).await
    } else {
        by_http_1(connection, stream, head_within).await
    }
}

async fn by_http_1<I>(
    connection: &Arc<Connection>,
    stream: I,
    head_within: Duration,
) -> Result<(), Broken>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answering = connection.clone();
    // Boxed: hyper holds room for the answer as long as the connection lives. It alone: what
    // awaits it would hold room for it twice, and 8 KB be filled for every request.
    let service = service_fn(move |request| {
        let arrived = Arrived::by_line(request, || answering.hints.begin());
        let answer = Box::pin(exchange::answer(answering.clone(), arrived));
        async { Ok::<_, Infallible>(answer.await) }
    });
    let (hints, stall) = (connection.hints.clone(), connection.stall.clone());
    let stream = TokioIo::new(Interim::new(stream, hints, stall));
    let serving = http1::Builder::new()
        .timer(OneAlarm::default())
        .header_read_timeout(head_within)
        .max_buf_size(HEAD_BYTES as usize)
        .serve_connection(stream, service)
        .with_upgrades();
    let mut serving = pin!(serving);
    tokio::select! {
        biased;
        served = serving.as_mut() => return served.map_err(Broken::Http1),
        () = aside(connection.closing.notified()) => serving.as_mut().graceful_shutdown(),
    }
    serving.await.map_err(Broken::Http1)
}

async fn by_http_2<I>(connection: &Arc<Connection>, stream: I) -> Result<(), Broken>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answering = |request, beside| {
        exchange::answer(connection.clone(), Arrived::by_stream(request, beside))
    };
    let closing = connection.closing.notified();
    let limits = &connection.worker.edge.config.limits;
    let settings = Settings {
        taken_within: Duration::from_millis(limits.send_ms),
        ..HTTP_2
    };
    let served = streams::serve(stream, &settings, closing, answering).await;
    served.map_err(Broken::Http2)
}

/// Drive a connection, and have it close when it is time; its first request comes `first_within`.
async fn drive(
    connection: &Connection,
    speaking: impl Future<Output = Result<(), Broken>>,
    first_within: Duration,
) {
    let mut speaking = pin!(speaking);
    let refused = &connection.worker.edge.front.refused;
    let mut phases = connection.worker.phases.clone();
    let mut watch = IdleWatch::new(connection, first_within);
    let mut closing = false;
    loop {
        let due = due(&mut watch, &mut phases, !closing);
        let due = tokio::select! {
            biased;
            spoken = speaking.as_mut() => {
                if let Err(broken) = spoken {
                    broke(connection, &broken);
                }
                break;
            }
            due = aside(due) => due,
        };
        match due {
            Due::Look(Idle::No) => {}
            Due::Look(Idle::NeverSpoke) => {
                refused.add("http_head_timeout");
                break;
            }
            Due::Look(Idle::Stalled) => {
                refused.add("http_client_stalled");
                break;
            }
            Due::Look(Idle::TooLong) => connection.closing.notify_one(),
            Due::Close => {
                closing = true;
                connection.closing.notify_one();
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
    let activity = &watch.connection.activity;
    tokio::select! {
        verdict = watch.tick() => Due::Look(verdict),
        () = should_close(phases, activity), if may_close => Due::Close,
    }
}

/// Why a connection ended that should not have.
#[derive(Debug)]
enum Broken {
    /// The client left before it said what it speaks.
    Gone,
    Http1(hyper::Error),
    Http2(h2::Error),
}

/// Count what a client did that ends its connection; that it left is no matter.
fn broke(connection: &Connection, broken: &Broken) {
    let reason = match broken {
        Broken::Http1(error) if error.is_parse_too_large() => "http_too_large",
        Broken::Http1(error) if error.is_parse() => "http_malformed",
        Broken::Http1(error) if error.is_timeout() => "http_head_timeout",
        // Of the protocol's own rules or limits one was broken, or there was a flood.
        Broken::Http2(error) if error.is_go_away() || error.is_library() || error.is_reset() => {
            "http2_protocol"
        }
        _ => return,
    };
    log::debug!("a connection to port {} ends: {broken:?}", connection.port);
    connection.worker.edge.front.refused.add(reason);
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
        Phase::Closing | Phase::Parting => true,
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
    /// The client takes nothing of what it asked for.
    Stalled,
}

/// Looks now and then whether the connection is of use.
struct IdleWatch<'a> {
    connection: &'a Connection,
    first: bool,
    ticks: tokio::time::Interval,
    /// From one tick to the next, after the first.
    every: Duration,
    /// Ticks in which an HTTP/2 connection was idle, one after the other, and how many end it.
    quiet: u32,
    most_quiet: u32,
    ended_before: u64,
    stalled_before: Option<u64>,
}

impl<'a> IdleWatch<'a> {
    fn new(connection: &'a Connection, first_within: Duration) -> Self {
        let limits = &connection.worker.edge.config.limits;
        let (idle, send) = (limits.idle_ms.max(1), limits.send_ms.max(1));
        let every = idle.min(send);
        IdleWatch {
            connection,
            first: true,
            ticks: ticks(first_within.max(Duration::from_millis(1))),
            every: Duration::from_millis(every),
            quiet: 0,
            most_quiet: u32::try_from(idle.div_ceil(every)).unwrap_or(u32::MAX),
            ended_before: 0,
            stalled_before: None,
        }
    }

    async fn tick(&mut self) -> Idle {
        self.ticks.tick().await;
        let activity = &self.connection.activity;
        let (begun, ended) = (activity.begun.load(Relaxed), activity.ended.load(Relaxed));
        let stalled = self.connection.stall.mark();
        let stalled_before = std::mem::replace(&mut self.stalled_before, stalled);
        let ended_before = std::mem::replace(&mut self.ended_before, ended);
        if std::mem::take(&mut self.first) {
            self.ticks = ticks(self.every);
            return if begun == 0 {
                Idle::NeverSpoke
            } else {
                Idle::No
            };
        }
        if stalled.is_some() && stalled == stalled_before {
            return Idle::Stalled;
        }
        let http2 = activity.http2.load(Relaxed);
        let quiet = http2 && begun == ended && ended == ended_before;
        self.quiet = if quiet { self.quiet + 1 } else { 0 };
        if self.quiet >= self.most_quiet {
            Idle::TooLong
        } else {
            Idle::No
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

/// The port at which clients reach what apps have at 443: another one where ports are mapped.
fn https_port(listeners: &[Listener], at: Listener) -> u16 {
    let mapped = listeners.contains(&at);
    let https = listeners.iter().find(|listener| listener.port == HTTPS);
    https
        .filter(|_| mapped)
        .map_or(HTTPS, |listener| listener.address.port())
}
