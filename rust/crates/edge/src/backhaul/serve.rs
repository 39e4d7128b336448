//! Taking what other hosts' edges send: who may, and how much at once.
//!
//! `WireGuard` has seen to it that a packet's sender is the host whose mesh address it bears; here
//! only addresses are let in that the catalog names as another member's, and only as long as it
//! does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::backhaul::{answer, probe};
use crate::drain;
use crate::edge::Edge;
use crate::front::listen;
use crate::front::worker::Worker;
use crate::metrics::count;
use crate::request::arrived::Arrived;
use crate::streams::{self, Settings};

/// What may be on its way on one stream before the other end has taken it.
pub(crate) const STREAM_WINDOW: u32 = 512 * 1024;
const STREAMS: u32 = 250;
/// As much as all streams together, so that none that is read slowly holds up another.
pub(crate) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS;
/// More than a client may send, with what edges add.
pub(crate) const HEADER_LIST: u32 = 192 * 1024;

const SETTINGS: Settings = Settings {
    stream_window: STREAM_WINDOW,
    connection_window: CONNECTION_WINDOW,
    streams: STREAMS,
    header_list: HEADER_LIST,
    pending_resets: 20,
    error_resets: 1024,
    protocols: false,
    ping_every: Duration::from_secs(5),
    pong_within: Duration::from_secs(10),
    taken_within: Duration::MAX,
};
/// The edge that a client came to breaks off what it does not take; this is for when it does not.
const SLACK: u32 = 3;
/// The mesh may not be there yet, as on a host that is alone.
const BIND_AGAIN: Duration = Duration::from_secs(2);
/// After an accept that failed, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Begin to take backhaul on a worker, where the configuration says so.
pub(crate) fn start(worker: &Arc<Worker>) {
    let Some(address) = worker.edge.config.backhaul else {
        return;
    };
    tokio::spawn(serve(worker.clone(), address));
    if !worker.edge.probing.swap(true, Relaxed) {
        tokio::spawn(probe::run(worker.clone()));
    }
}

async fn serve(worker: Arc<Worker>, address: SocketAddr) {
    let mut phases = worker.phases.clone();
    tokio::select! {
        () = accept(&worker, address) => {}
        () = drain::begun(&mut phases) => {}
    }
}

async fn accept(worker: &Arc<Worker>, address: SocketAddr) {
    let listener = loop {
        match listen::bind(address).and_then(TcpListener::from_std) {
            Ok(listener) => break listener,
            Err(error) => log::debug!("no backhaul on {address} yet: {error}"),
        }
        sleep(BIND_AGAIN).await;
    };
    log::info!("taking backhaul on {address}");
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(host) = member(&worker.edge, peer.ip()) {
                    tokio::spawn(carry(worker.clone(), stream, host));
                } else {
                    count(&worker.edge.metrics.backhaul.strangers);
                    log::warn!("{peer} is no member's address: it is not served");
                }
            }
            Err(error) => {
                log::warn!("a backhaul connection could not be accepted: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The other host that has this address in the mesh.
fn member(edge: &Edge, ip: IpAddr) -> Option<Arc<str>> {
    let view = edge.watch.view();
    let has = |at: Option<SocketAddr>| at.is_some_and(|at| at.ip() == ip);
    let mut others = view.hosts().filter(|host| *host.id != *edge.config.host_id);
    others
        .find(|host| has(host.backhaul))
        .map(|host| host.id.clone())
}

/// Serve one connection of another edge to its end.
async fn carry(worker: Arc<Worker>, stream: TcpStream, host: Arc<str>) {
    let alive = worker.alive.clone();
    let mut phases = worker.phases.clone();
    let answering = |request, beside| {
        let arrived = Arrived::by_stream(request, beside);
        answer::answer(worker.clone(), host.clone(), arrived)
    };
    let closing = drain::begun(&mut phases);
    // The other edge is told by the connection's end.
    let limits = &worker.edge.config.limits;
    let settings = Settings {
        taken_within: Duration::from_millis(limits.send_ms) * SLACK,
        ..SETTINGS
    };
    let _ = streams::serve(stream, &settings, closing, answering).await;
    drop(alive);
}
