//! A worker: one thread with its own runtime, listening sockets, pool and cache.
//!
//! A current-thread runtime per CPU instead of one that steals work: a request stays on the
//! core that accepted it, so nothing it touches is moved or locked against other cores except
//! the loads of machines, which must be exact across workers.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::connection;
use crate::drain::{self, Alive, Phases};
use crate::edge::Edge;
use crate::listen::Bound;
use crate::targets::TargetCache;
use crate::upstream::Pool;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) edge: Arc<Edge>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) targets: TargetCache,
    pub(crate) phases: Phases,
    pub(crate) alive: Alive,
}

/// Start a worker; it ends when it is drained, or `drain_ms` after the drain began.
pub(crate) fn start(
    number: usize,
    edge: Arc<Edge>,
    bound: Vec<Bound>,
    phases: Phases,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let body = move || runtime.block_on(run(edge, bound, phases));
    thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(body)
}

async fn run(edge: Arc<Edge>, bound: Vec<Bound>, mut phases: Phases) {
    let within = Duration::from_millis(edge.config.drain_ms);
    let (alive, mut all_gone) = drain::alive();
    let pool = Arc::new(Pool::default());
    let sweeping = tokio::spawn(sweep(pool.clone()));
    let targets = TargetCache::default();
    let worker = Arc::new(Worker {
        edge,
        pool,
        targets,
        phases: phases.clone(),
        alive,
    });
    let accepting: Vec<_> = bound
        .into_iter()
        .map(|bound| tokio::spawn(accept(worker.clone(), bound)))
        .collect();
    drain::begun(&mut phases).await;
    drop(worker);
    let ending = async {
        for accepting in accepting {
            // An acceptor that panicked accepts nothing more, which is what is waited for.
            let _ = accepting.await;
        }
        all_gone.wait().await;
    };
    if timeout(within, ending).await.is_err() {
        log::warn!(
            "connections were still open {} ms after the drain began",
            within.as_millis()
        );
    }
    sweeping.abort();
}

async fn accept(worker: Arc<Worker>, bound: Bound) {
    let port = bound.port;
    let listener = match TcpListener::from_std(bound.socket) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("port {port} is not listened on: {error}");
            return;
        }
    };
    let mut phases = worker.phases.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(&worker, stream, peer, port),
                Err(error) => {
                    log::warn!("a connection could not be accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = drain::begun(&mut phases) => break,
        }
    }
    accept_rest(&worker, &listener, port).await;
}

/// Take the connections that the kernel has already answered: closing would reset them.
async fn accept_rest(worker: &Arc<Worker>, listener: &TcpListener, port: u16) {
    while let Ok(Ok((stream, peer))) = timeout(Duration::ZERO, listener.accept()).await {
        take(worker, stream, peer, port);
    }
}

fn take(
    worker: &Arc<Worker>,
    stream: tokio::net::TcpStream,
    peer: std::net::SocketAddr,
    port: u16,
) {
    let alive = worker.alive.clone();
    let serving = connection::serve(worker.clone(), stream, peer, port);
    tokio::spawn(async move {
        serving.await;
        drop(alive);
    });
}

async fn sweep(pool: Arc<Pool>) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pool.sweep();
    }
}
