//! From configuration to exit: start, say so, wait for a reason to stop, drain.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use godwit_service::{limits, notify, signals::Termination};
use godwit_watch::Sources;
use godwit_wire::components::EdgeConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::datagrams::sockets::Sockets;
use crate::drain::Phase;
use crate::edge::Edge;
use crate::front::handover::{Offer, Predecessor};
use crate::front::listen;
use crate::front::ports::Ports;
use crate::front::worker::{self, Handle};
use crate::machines::departure;
use crate::machines::load::Loads;
use crate::status;

/// For agent and bus to tell a successor everything.
const AGENT_WITHIN: Duration = Duration::from_secs(3);
const BUS_WITHIN: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Run the edge until it is asked to stop.
pub(crate) fn run(config: EdgeConfig) -> Result<(), String> {
    limits::raise_open_files();
    let status = listen::bind(config.status_address)
        .map_err(|error| format!("cannot listen on {}: {error}", config.status_address))?;
    let loads = Arc::new(Loads::default());
    let watch = godwit_watch::start(sources(&config, loads.clone()));
    let edge = Arc::new(Edge::new(config, watch.clone(), loads)?);
    let phases = watch::Sender::new(Phase::Serving);
    let workers = start_workers(&edge, &phases)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let served = runtime.block_on(attend(&edge, status, &phases, &workers));
    watch.stop();
    served
}

fn sources(config: &EdgeConfig, loads: Arc<Loads>) -> Sources {
    Sources {
        component: "edge",
        host_id: config.host_id.clone(),
        region: config.region.clone(),
        agent_socket: config.agent_socket.clone(),
        bus: config.bus.clone(),
        view_file: config.view_file.clone(),
        flights: Some(loads),
    }
}

fn start_workers(
    edge: &Arc<Edge>,
    phases: &watch::Sender<Phase>,
) -> Result<Arc<[Handle]>, String> {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    let count = if edge.config.workers == 0 {
        cpus()
    } else {
        edge.config.workers
    };
    let start = |number| {
        worker::start(number, edge.clone(), phases.subscribe())
            .map_err(|error| format!("no worker: {error}"))
    };
    (0..count).map(start).collect()
}

/// Serve the status page, keep the ports, and wait for the end.
async fn attend(
    edge: &Arc<Edge>,
    status: std::net::TcpListener,
    phases: &watch::Sender<Phase>,
    workers: &Arc<[Handle]>,
) -> Result<(), String> {
    let said = |error: io::Error| error.to_string();
    let mut termination = Termination::listen().map_err(said)?;
    let status = tokio::net::TcpListener::from_std(status).map_err(said)?;
    // To the end: what is still in flight then is told, too.
    tokio::spawn(departure::follow(edge.clone()));
    let mut ports = Ports::new(edge.clone(), workers.clone());
    let predecessor = inherit(edge, &mut ports).await;
    ports.open_configured()?;
    ports.look();
    let mut sockets = Sockets::new(edge.clone(), workers.clone());
    sockets.look();
    let receiving = tokio::spawn(sockets.follow());
    let serving = tokio::spawn(status::serve(edge.clone(), status, phases.subscribe()));
    let offer = edge.config.handover_socket.as_deref().map(Offer::at);
    let offer = offer.transpose().unwrap_or_else(|error| {
        log::error!("no successor can take the sockets of this process: {error}");
        None
    });
    notify::ready();
    if let Some(predecessor) = predecessor {
        let relieved = predecessor.relieve();
        relieved.unwrap_or_else(|error| log::warn!("the predecessor is gone: {error}"));
    }
    let succeeded = tokio::select! {
        () = termination.asked() => false,
        () = succession(&mut ports, offer.as_ref()) => true,
    };
    if succeeded {
        // What is asked from now on is the successor's to answer.
        serving.abort();
        log::info!("a successor serves");
    } else {
        if let Some(offer) = offer {
            offer.withdraw();
        }
        ports.release();
    }
    receiving.abort();
    drain(edge, phases, workers).await;
    serving.abort();
    Ok(())
}

/// Take over from the process that is there, if any.
async fn inherit(edge: &Edge, ports: &mut Ports) -> Option<Predecessor> {
    let path = edge.config.handover_socket.as_deref()?;
    let taken = async {
        let Some((predecessor, sockets)) = Predecessor::take(path)? else {
            return Ok(None);
        };
        log::info!("{} sockets come from a predecessor", sockets.len());
        know_as_much(edge).await;
        ports.inherit(sockets)?;
        Ok(Some(predecessor))
    };
    taken.await.unwrap_or_else(|error: io::Error| {
        log::error!("nothing comes from the predecessor: {error}");
        None
    })
}

/// Wait until this process knows what its predecessor does, which serves meanwhile; a while for
/// the agent, which answers at once if it runs, and less for the bus.
async fn know_as_much(edge: &Edge) {
    let begun = Instant::now();
    loop {
        let report = edge.watch.report();
        let bus = report.bus_synced && report.mirror_synced;
        let waited = begun.elapsed();
        if waited >= AGENT_WITHIN || (report.agent_synced && (bus || waited >= BUS_WITHIN)) {
            return;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Follow the ports until a successor serves.
async fn succession(ports: &mut Ports, offer: Option<&Offer>) {
    loop {
        let asked = async {
            match offer {
                Some(offer) => offer.asked().await,
                None => std::future::pending().await,
            }
        };
        let successor = tokio::select! {
            successor = asked => successor,
            () = ports.follow() => return,
        };
        let given = async {
            let (successor, sockets) = (successor?, ports.sockets()?);
            let giving = tokio::task::spawn_blocking(move || successor.give(&sockets));
            giving.await.map_err(io::Error::other)?
        };
        match given.await {
            Ok(()) => return,
            Err(error) => log::warn!("this process stays: {error}"),
        }
    }
}

async fn drain(edge: &Edge, phases: &watch::Sender<Phase>, workers: &[Handle]) {
    let begun = Instant::now();
    let within = Duration::from_millis(edge.config.drain_ms);
    log::info!("draining, at most {} ms", within.as_millis());
    while workers.iter().any(|worker| !worker.is_finished()) {
        let due = Phase::due(&edge.config, begun.elapsed());
        phases.send_if_modified(|phase| std::mem::replace(phase, due) != due);
        sleep(LOOK_EVERY).await;
    }
    log::info!("drained in {} ms", begun.elapsed().as_millis());
}
