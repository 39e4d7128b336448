//! A worker: one thread with its own runtime, listening sockets, pool and cache.
//!
//! A current-thread runtime per CPU instead of one that steals work: a request stays on the
//! core that accepted it, so nothing it touches is moved or locked against other cores except
//! the loads of machines, which must be exact across workers.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use godwit_wire::components::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::greeting;
use super::listen::Bound;
use super::plan::Plans;
use crate::alarm::Alarms;
use crate::autostop;
use crate::backhaul::{self, Peers};
use crate::datagrams::sockets;
use crate::datagrams::{Lines, receive};
use crate::drain::{self, Alive, Phases};
use crate::edge::Edge;
use crate::machines::targets::TargetCache;
use crate::machines::upstream::Pool;

const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// After an accept that failed, as when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) edge: Arc<Edge>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) targets: TargetCache,
    pub(crate) peers: Arc<Peers>,
    /// Datagrams to and from other hosts.
    pub(crate) lines: Lines,
    pub(crate) plans: Plans,
    pub(crate) phases: Phases,
    pub(crate) alive: Alive,
    /// For what its requests wait for.
    pub(crate) alarms: Alarms,
}

/// A worker as it is spoken to.
#[derive(Debug)]
pub(crate) struct Handle {
    thread: JoinHandle<()>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What a worker is to listen on.
#[derive(Debug)]
pub(crate) enum Order {
    Open(Bound),
    Close(Listener),
    /// Take datagrams.
    Receive(sockets::Bound),
    Cease(SocketAddr),
}

impl Handle {
    /// Tell the worker; one that has ended hears nothing.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Start a worker; it ends when it is drained, or `drain_ms` after the drain began.
pub(crate) fn start(number: usize, edge: Arc<Edge>, phases: Phases) -> io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (orders, heard) = mpsc::unbounded_channel();
    let body = move || runtime.block_on(run(edge, heard, phases));
    let thread = thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(body)?;
    Ok(Handle { thread, orders })
}

async fn run(edge: Arc<Edge>, orders: mpsc::UnboundedReceiver<Order>, phases: Phases) {
    let within = Duration::from_millis(edge.config.drain_ms);
    let (alive, mut all_gone) = drain::alive();
    let pool = Arc::new(Pool::default());
    let sweeping = tokio::spawn(sweep(pool.clone()));
    let worker = Arc::new(Worker {
        edge,
        pool,
        targets: TargetCache::default(),
        peers: Arc::default(),
        lines: Lines::default(),
        plans: Plans::default(),
        phases,
        alive,
        alarms: Alarms::default(),
    });
    backhaul::start(&worker);
    autostop::start(&worker);
    let mut accepting = listen(worker, orders).await;
    let ending = async {
        // An acceptor that panicked accepts nothing more, which is what is waited for.
        while accepting.join_next().await.is_some() {}
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

/// Follow the orders until the drain begins; returns what is still accepting then.
async fn listen(worker: Arc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) -> JoinSet<()> {
    let mut phases = worker.phases.clone();
    let mut accepting = JoinSet::new();
    let mut open: HashMap<Listener, Vec<oneshot::Sender<()>>> = HashMap::new();
    let mut receiving: HashMap<SocketAddr, oneshot::Sender<()>> = HashMap::new();
    loop {
        tokio::select! {
            // One port at a time, whatever else waits; what was ordered before a drain counts.
            biased;
            Some(order) = orders.recv() => match order {
                Order::Open(bound) => {
                    let (stop, stopped) = oneshot::channel();
                    open.entry(bound.at).or_default().push(stop);
                    accepting.spawn(accept(worker.clone(), bound, stopped));
                }
                // Dropping its end tells the acceptor.
                Order::Close(at) => drop(open.remove(&at)),
                Order::Receive(bound) => {
                    let (stop, stopped) = oneshot::channel();
                    receiving.insert(bound.at, stop);
                    accepting.spawn(receive(worker.clone(), bound, stopped));
                }
                Order::Cease(at) => drop(receiving.remove(&at)),
            },
            () = drain::begun(&mut phases) => return accepting,
            Some(_) = accepting.join_next() => {}
        }
    }
}

/// Accept until the drain begins or nobody wants the port any more.
async fn accept(worker: Arc<Worker>, bound: Bound, mut stopped: oneshot::Receiver<()>) {
    let at = bound.at;
    let listener = match TcpListener::from_std(bound.socket) {
        Ok(listener) => listener,
        Err(error) => {
            log::error!("{} is not listened on: {error}", at.address);
            return;
        }
    };
    let mut phases = worker.phases.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => take(&worker, stream, peer, at),
                Err(error) => {
                    log::warn!("a connection could not be accepted: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            () = drain::begun(&mut phases) => break,
            _ = &mut stopped => break,
        }
    }
    // Take the connections that the kernel has already answered: closing would reset them.
    while let Ok(Ok((stream, peer))) = timeout(Duration::ZERO, listener.accept()).await {
        take(&worker, stream, peer, at);
    }
}

fn take(worker: &Arc<Worker>, stream: TcpStream, peer: SocketAddr, at: Listener) {
    let alive = worker.alive.clone();
    tokio::spawn(greeting::serve(worker.clone(), alive, stream, peer, at));
}

async fn sweep(pool: Arc<Pool>) {
    let mut ticks = interval(SWEEP_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        pool.sweep();
    }
}
