//! From configuration to exit: start, say so, wait for a reason to stop, drain.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use godwit_service::{limits, notify, signals::Termination};
use godwit_watch::Sources;
use godwit_wire::components::EdgeConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::drain::Phase;
use crate::edge::Edge;
use crate::load::Loads;
use crate::{listen, status, worker};

/// Of the time to drain, idle HTTP/1 connections are given this part to hear of it.
const LINGER_SHARE: u32 = 4;
const LONGEST_LINGER: Duration = Duration::from_secs(3);
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
    served.map_err(|error| error.to_string())
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
) -> Result<Vec<JoinHandle<()>>, String> {
    let cpus = || std::thread::available_parallelism().map_or(1, usize::from);
    let count = if edge.config.workers == 0 {
        cpus()
    } else {
        edge.config.workers
    };
    // All are bound before one accepts: an address in use is found before anything starts.
    let bound: Result<Vec<_>, _> = (0..count)
        .map(|_| listen::bind_all(&edge.config.listeners))
        .collect();
    let start = |(number, bound)| {
        worker::start(number, edge.clone(), bound, phases.subscribe())
            .map_err(|error| format!("no worker: {error}"))
    };
    bound?.into_iter().enumerate().map(start).collect()
}

/// Serve the status page and wait for the end.
async fn attend(
    edge: &Arc<Edge>,
    status: std::net::TcpListener,
    phases: &watch::Sender<Phase>,
    workers: &[JoinHandle<()>],
) -> std::io::Result<()> {
    let mut termination = Termination::listen()?;
    let status = tokio::net::TcpListener::from_std(status)?;
    let serving = tokio::spawn(status::serve(edge.clone(), status, phases.subscribe()));
    for listener in &edge.config.listeners {
        log::info!("serving {} as port {}", listener.address, listener.port);
    }
    notify::ready();
    termination.asked().await;
    drain(edge, phases, workers).await;
    serving.abort();
    Ok(())
}

async fn drain(edge: &Edge, phases: &watch::Sender<Phase>, workers: &[JoinHandle<()>]) {
    let begun = Instant::now();
    let within = Duration::from_millis(edge.config.drain_ms);
    log::info!("draining, at most {} ms", within.as_millis());
    let linger = (within / LINGER_SHARE).min(LONGEST_LINGER);
    phases.send_replace(Phase::Lingering);
    while workers.iter().any(|worker| !worker.is_finished()) {
        if begun.elapsed() >= linger {
            phases.send_if_modified(|phase| {
                std::mem::replace(phase, Phase::Closing) != Phase::Closing
            });
        }
        sleep(LOOK_EVERY).await;
    }
    log::info!("drained in {} ms", begun.elapsed().as_millis());
}
