//! Streams to other hosts' edges: one worker's few connections to each, kept and watched.
//!
//! Every connection is watched by a small question now and then, often while it carries requests:
//! its round trip orders the hosts, and a host that does not answer is doubted, so that what
//! comes goes elsewhere. HTTP/2's own pings end a connection that stays silent; what waited on it
//! is sent elsewhere if it may be.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Request, Uri};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use crate::backhaul::order::{ORDER, Order, Reply};
use crate::backhaul::serve::{CONNECTION_WINDOW, HEADER_LIST, STREAM_WINDOW};
use crate::edge::Edge;
use crate::request::body::Upload;
use crate::streams::{Client, ClientSettings};

/// Streams on each connection before another one is made, while there are few.
const SPREAD: usize = 32;
const SPREAD_OVER: usize = 4;
/// Streams on each connection before another one is made in any case: below what the other edge
/// takes, so that none waits for another to end.
const FULL: usize = 200;
const MOST_LANES: usize = 64;
const SEND_BUFFER: usize = 256 * 1024;
/// Every edge takes more.
const FIRST_STREAMS: usize = 100;

const ASK_EVERY: Duration = Duration::from_millis(500);
const ASK_IDLE_EVERY: Duration = Duration::from_secs(5);
/// A connection without requests is closed after this.
const IDLE: Duration = Duration::from_mins(1);
/// A question waits as long as several round trips, and no less than this.
const SHORTEST_WAIT: Duration = Duration::from_millis(400);
const ROUND_TRIPS: u32 = 4;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const REVIVE_EVERY: Duration = Duration::from_millis(500);
/// Of the silence after which a host is dead, this part passes before it is asked.
const PING_SHARE: u32 = 4;

/// One worker's connections to other edges.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    hosts: Mutex<HashMap<Arc<str>, Arc<Peer>>>,
}

/// Why there is no stream to a host.
#[derive(Clone, Debug)]
pub(crate) enum Unreached {
    /// The catalog does not say where it takes backhaul.
    Unknown,
    /// It did not take a connection.
    Failed(String),
}

/// A place for one request on a connection to another edge.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) client: Client,
    _place: Arc<()>,
}

#[derive(Debug)]
struct Peer {
    id: Arc<str>,
    region: Arc<str>,
    address: SocketAddr,
    lanes: Mutex<Vec<Lane>>,
    /// One connection is made at a time; the last attempt that failed, for those who waited.
    connecting: tokio::sync::Mutex<Option<(Instant, Unreached)>>,
}

/// A connection.
#[derive(Clone, Debug)]
struct Lane {
    client: Client,
    /// Held once here, once by its watch and once by each stream.
    streams: Arc<()>,
}

impl Lane {
    fn load(&self) -> usize {
        Arc::strong_count(&self.streams)
    }

    fn stream(&self) -> Stream {
        Stream {
            client: self.client.clone(),
            _place: self.streams.clone(),
        }
    }
}

impl Peers {
    /// A stream to a host's edge, within the time of one connection attempt.
    pub(crate) async fn stream(
        &self,
        edge: &Arc<Edge>,
        host: &Arc<str>,
    ) -> Result<Stream, Unreached> {
        let peer = self.peer(edge, host)?;
        if let Some(stream) = peer.open() {
            return Ok(stream);
        }
        let begun = Instant::now();
        let mut last = peer.connecting.lock().await;
        if let Some(stream) = peer.open() {
            return Ok(stream);
        }
        if let Some((at, why)) = &*last
            && *at > begun
        {
            return Err(why.clone());
        }
        match peer.connect(edge).await {
            Ok(lane) => {
                *last = None;
                peer.lanes().push(lane.clone());
                tokio::spawn(watch(edge.clone(), peer.clone(), lane.clone()));
                Ok(lane.stream())
            }
            Err(why) => {
                // There may be others, if only crowded.
                if let Some(stream) = peer.least() {
                    return Ok(stream);
                }
                log::debug!("{host} at {} is not reached: {why}", peer.address);
                let why = Unreached::Failed(why.to_string());
                *last = Some((Instant::now(), why.clone()));
                doubt(edge, &peer);
                Err(why)
            }
        }
    }

    /// Have a machine of another host started; returns when that is on its way.
    pub(crate) async fn wake(
        &self,
        edge: &Arc<Edge>,
        host: &Arc<str>,
        machine: &Arc<str>,
    ) -> Result<(), String> {
        let stream = self
            .stream(edge, host)
            .await
            .map_err(|why| why.to_string())?;
        let machine = machine.to_string();
        let reply = ask(&stream.client, &Order::Wake { machine }).await?;
        reply.refusal.map_or(Ok(()), |refused| Err(refused.message))
    }

    /// Ask a host's edge for something other than a request's way; bounded.
    pub(crate) async fn ask(
        &self,
        edge: &Arc<Edge>,
        host: &Arc<str>,
        order: &Order,
    ) -> Result<Reply, String> {
        let stream = self
            .stream(edge, host)
            .await
            .map_err(|why| why.to_string())?;
        let answered = timeout(ANSWER_WITHIN, ask(&stream.client, order)).await;
        answered.unwrap_or_else(|_| Err("it does not answer in time".to_owned()))
    }

    /// Measure the round trip to a host.
    pub(crate) async fn measure(&self, edge: &Arc<Edge>, host: &Arc<str>) {
        if let Ok(stream) = self.stream(edge, host).await
            && let Ok(peer) = self.peer(edge, host)
        {
            peer.ask(edge, &stream.client).await;
        }
    }

    fn peer(&self, edge: &Edge, host: &Arc<str>) -> Result<Arc<Peer>, Unreached> {
        let view = edge.watch.view();
        let known = view.host(host).ok_or(Unreached::Unknown)?;
        let address = known.backhaul.ok_or(Unreached::Unknown)?;
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = hosts.get(host).filter(|peer| peer.address == address) {
            return Ok(peer.clone());
        }
        let peer = Arc::new(Peer {
            id: host.clone(),
            region: known.region.clone(),
            address,
            lanes: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        });
        hosts.retain(|id, _| view.host(id).is_some());
        hosts.insert(host.clone(), peer.clone());
        Ok(peer)
    }
}

impl Peer {
    fn lanes(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on a connection; `None` when it is time for another one.
    fn open(&self) -> Option<Stream> {
        let mut lanes = self.lanes();
        lanes.retain(|lane| !lane.client.is_closed());
        let least = lanes.iter().min_by_key(|lane| lane.load())?;
        let enough = if lanes.len() < SPREAD_OVER {
            SPREAD
        } else {
            FULL
        };
        (least.load() < enough || lanes.len() >= MOST_LANES).then(|| least.stream())
    }

    fn least(&self) -> Option<Stream> {
        let lanes = self.lanes();
        let open = lanes.iter().filter(|lane| !lane.client.is_closed());
        open.min_by_key(|lane| lane.load()).map(Lane::stream)
    }

    async fn connect(&self, edge: &Edge) -> io::Result<Lane> {
        let limits = &edge.config.limits;
        let within = Duration::from_millis(limits.backhaul_connect_ms);
        let making = async {
            let stream = dial(edge.config.backhaul, self.address).await?;
            let silence = Duration::from_millis(limits.backhaul_silence_ms);
            let ping_after = silence / PING_SHARE;
            let settings = ClientSettings {
                stream_window: STREAM_WINDOW,
                connection_window: CONNECTION_WINDOW,
                header_list: HEADER_LIST,
                send_buffer: SEND_BUFFER,
                first_streams: FIRST_STREAMS,
                ping_after,
                pong_within: silence.saturating_sub(ping_after),
            };
            let client = Client::on(stream, &settings, ()).await;
            Ok(Lane {
                client: client.map_err(io::Error::other)?,
                streams: Arc::default(),
            })
        };
        let made = timeout(within, making).await;
        made.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Ask whether it is there and note how long the answer took; returns whether it answered.
    async fn ask(&self, edge: &Arc<Edge>, client: &Client) -> bool {
        let held = Duration::from_micros(edge.standings.host(&self.id).micros().into());
        let within = (held * ROUND_TRIPS).max(SHORTEST_WAIT);
        let begun = Instant::now();
        let answered = timeout(within, ask(client, &Order::Ping {})).await;
        let answered = matches!(answered, Ok(Ok(_)));
        if answered {
            edge.standings
                .measured(&self.id, &self.region, begun.elapsed());
        }
        answered
    }
}

/// Ask about a connection for as long as it is there; close it when nobody needs it.
async fn watch(edge: Arc<Edge>, peer: Arc<Peer>, lane: Lane) {
    /// Held by the list of connections, and here.
    const NOBODY: usize = 2;
    let mut used = Instant::now();
    let mut asked: Option<Instant> = None;
    while !lane.client.is_closed() {
        let busy = lane.load() > NOBODY;
        if busy {
            used = Instant::now();
        } else if used.elapsed() > IDLE {
            break;
        }
        let due = if busy { ASK_EVERY } else { ASK_IDLE_EVERY };
        if asked.is_none_or(|at| at.elapsed() >= due) {
            asked = Some(Instant::now());
            if !peer.ask(&edge, &lane.client).await && !lane.client.is_closed() {
                doubt(&edge, &peer);
            }
        }
        sleep(ASK_EVERY).await;
    }
    let is_this = |other: &Lane| Arc::ptr_eq(&other.streams, &lane.streams);
    peer.lanes().retain(|other| !is_this(other));
}

/// Hold a host for silent until it answers again.
fn doubt(edge: &Arc<Edge>, peer: &Arc<Peer>) {
    let standing = edge.standings.host(&peer.id);
    if !standing.doubt() {
        return;
    }
    log::warn!("{} does not answer at {}", peer.id, peer.address);
    let (edge, peer) = (edge.clone(), peer.clone());
    tokio::spawn(async move {
        let here = || {
            let view = edge.watch.view();
            let known = view.host(&peer.id).and_then(|host| host.backhaul);
            known == Some(peer.address)
        };
        // Whoever else hears of it clears the doubt as well.
        while standing.is_doubted() && here() {
            sleep(REVIVE_EVERY).await;
            if let Ok(lane) = peer.connect(&edge).await {
                peer.ask(&edge, &lane.client).await;
            }
        }
        log::info!("{} is no longer doubted", peer.id);
    });
}

async fn ask(client: &Client, order: &Order) -> Result<Reply, String> {
    let request = Request::get(Uri::from_static("http://godwit/"))
        .header(ORDER, order.value())
        .body(Upload::Empty)
        .map_err(|error| error.to_string())?;
    let answered = client.ask(request, |_, _| {}).await;
    let mut response = answered.map_err(|unanswered| unanswered.error.to_string())?;
    let reply = Reply::take(response.headers_mut());
    reply.ok_or_else(|| "what answers is no edge".to_owned())
}

/// Connect from the address that the other edge knows this one by.
async fn dial(own: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = if to.is_ipv6() {
        TcpSocket::new_v6()?
    } else {
        TcpSocket::new_v4()?
    };
    if let Some(own) = own {
        socket.bind(SocketAddr::new(own.ip(), 0))?;
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreached::Unknown => f.write_str("it is not known where it takes backhaul"),
            Unreached::Failed(why) => f.write_str(why),
        }
    }
}
