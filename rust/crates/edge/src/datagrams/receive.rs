//! What comes to a port: whose flow it is. One socket of each port for every worker; the kernel
//! brings one client's datagrams to the same one.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::flow::Flow;
use super::mouth::LARGEST;
use super::near;
use super::sockets::Bound;
use crate::drain;
use crate::edge::Edge;
use crate::front::worker::Worker;
use crate::metrics::AppMetrics;

/// Datagrams that are taken before others have their turn.
pub(super) const TOGETHER: usize = 64;
/// Machines that have been asked answer for so long after the port was closed here.
pub(super) const PARTING: Duration = Duration::from_secs(1);

/// A port, and who has flows there.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) at: SocketAddr,
    socket: UdpSocket,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
}

/// Where the answers of one flow go.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) clients: Arc<Clients>,
    pub(super) client: SocketAddr,
    /// Of the flow's app, once it is known.
    pub(super) metrics: OnceLock<Arc<AppMetrics>>,
}

impl Clients {
    pub(super) fn flows(&self) -> MutexGuard<'_, HashMap<SocketAddr, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forget a flow that is over, unless the client has begun another.
    pub(super) fn forget(&self, client: SocketAddr, flow: &Arc<Flow>) {
        let mut flows = self.flows();
        if flows
            .get(&client)
            .is_some_and(|held| Arc::ptr_eq(held, flow))
        {
            flows.remove(&client);
        }
    }
}

impl Answers {
    /// Tell the client.
    pub(super) fn give(&self, edge: &Edge, datagram: &[u8]) {
        let socket = SockRef::from(&self.clients.socket);
        if socket.send_to(datagram, &self.client.into()).is_err() {
            edge.datagrams.dropped.add("client");
            return;
        }
        if let Some(metrics) = self.metrics.get() {
            metrics.data_out.fetch_add(datagram.len() as u64, Relaxed);
        }
    }
}

/// Take what comes until the drain begins or nobody wants the port any more; then its flows end.
pub(crate) async fn receive(
    worker: Arc<Worker>,
    bound: Bound,
    mut stopped: oneshot::Receiver<()>,
) {
    let at = bound.at;
    let socket = match UdpSocket::from_std(bound.socket) {
        Ok(socket) => socket,
        Err(error) => {
            log::error!("nothing is taken at {at} by UDP: {error}");
            return;
        }
    };
    let clients = Arc::new(Clients {
        at,
        socket,
        flows: Mutex::default(),
    });
    let mut phases = worker.phases.clone();
    let mut buffer = vec![0; LARGEST];
    loop {
        tokio::select! {
            ready = clients.socket.readable() => if let Err(error) = ready {
                log::error!("nothing more is taken at {at} by UDP: {error}");
                break;
            },
            () = drain::begun(&mut phases) => break,
            _ = &mut stopped => break,
        }
        take_some(&worker, &clients, &mut buffer);
        yield_now().await;
    }
    // What the kernel had for this process is its to pass on.
    while take_some(&worker, &clients, &mut buffer) == TOGETHER {}
    sleep(PARTING).await;
    let flows: Vec<_> = clients.flows().drain().map(|(_, flow)| flow).collect();
    for flow in flows {
        flow.close();
    }
}

/// Take what is there, up to a number; returns how many there were.
fn take_some(worker: &Arc<Worker>, clients: &Arc<Clients>, buffer: &mut [u8]) -> usize {
    for count in 0..TOGETHER {
        // An error is about something that was sent earlier.
        let Ok((length, client)) = clients.socket.try_recv_from(buffer) else {
            return count;
        };
        let datagram = &buffer[..length];
        let flow = clients.flows().get(&client).cloned();
        if !flow.is_some_and(|flow| flow.push(datagram, &worker.edge.datagrams)) {
            near::begin(worker, clients, client, datagram);
        }
    }
    TOGETHER
}
