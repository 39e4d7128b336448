//! Which UDP ports are open: those that services of an app name, at the addresses that are the
//! app's alone, and at addresses that apps share those that control gave to one of them; on a
//! host that takes what comes there.
//!
//! A port that cannot be had is reported and tried again; it keeps nobody from the others. What
//! was sent to a process that ends is read to its end, so its successor opens ports of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use godwit_catalog::View;
use godwit_wire::components::EdgeConfig;
use godwit_wire::facts::Protocol;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, sleep, timeout};

use crate::edge::Edge;
use crate::front::ports::NotOpen;
use crate::front::worker::{Handle, Order};

/// However often the view changes, ports are not looked at more often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A port that was taken may have become free.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// A port that nobody wants is closed after this: machines are replaced, catalogs read anew.
const KEEP: Duration = Duration::from_secs(10);
/// For datagrams that come while a worker does something else.
const RECEIVE_BUFFER: usize = 1024 * 1024;

/// A bound socket and its address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: UdpSocket,
    pub(crate) at: SocketAddr,
}

/// What is open and what could not be, as the status page shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) open: Vec<SocketAddr>,
    pub(crate) refused: Vec<NotOpen>,
    /// More ports are wanted than may be open.
    pub(crate) beyond_limit: usize,
}

/// The open ports of this process, each with since when nobody wants it.
#[derive(Debug)]
pub(crate) struct Sockets {
    edge: Arc<Edge>,
    workers: Arc<[Handle]>,
    open: BTreeMap<SocketAddr, Option<Instant>>,
    refused: BTreeMap<SocketAddr, String>,
    beyond_limit: usize,
}

impl Sockets {
    pub(crate) fn new(edge: Arc<Edge>, workers: Arc<[Handle]>) -> Self {
        Sockets {
            edge,
            workers,
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            beyond_limit: 0,
        }
    }

    /// Follow the view for ever.
    pub(crate) async fn follow(mut self) {
        let mut changes = self.edge.watch.changes();
        loop {
            self.look();
            sleep(LOOK_EVERY).await;
            // Changed or not, it looks again.
            let _ = timeout(TRY_AGAIN, changes.changed()).await;
        }
    }

    /// Open what is wanted and close what has not been for a while.
    pub(crate) fn look(&mut self) {
        let (wanted, beyond) = wanted(&self.edge.watch.view(), &self.edge.config);
        if beyond > 0 && beyond != self.beyond_limit {
            log::warn!("{beyond} UDP ports of apps are not open: there are too many");
        }
        self.beyond_limit = beyond;
        self.refused.retain(|at, _| wanted.contains(at));
        for at in &wanted {
            match self.open.get_mut(at) {
                Some(unwanted) => *unwanted = None,
                None => self.open(*at),
            }
        }
        self.close_unwanted(&wanted);
        let refused = self.refused.iter().map(|(at, reason)| NotOpen {
            address: *at,
            reason: reason.clone(),
        });
        let report = Report {
            open: self.open.keys().copied().collect(),
            refused: refused.collect(),
            beyond_limit: beyond,
        };
        let open = &self.edge.datagrams.open;
        *open.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }

    fn open(&mut self, at: SocketAddr) {
        let sockets: io::Result<Vec<_>> = self.workers.iter().map(|_| bind(at)).collect();
        match sockets {
            Ok(sockets) => {
                log::info!("taking datagrams at {at} for an app");
                for (socket, worker) in sockets.into_iter().zip(self.workers.iter()) {
                    worker.order(Order::Receive(Bound { socket, at }));
                }
                self.open.insert(at, None);
                self.refused.remove(&at);
            }
            Err(error) => {
                let reason = error.to_string();
                if self.refused.get(&at) != Some(&reason) {
                    log::error!("cannot take datagrams at {at} for an app: {reason}");
                }
                self.refused.insert(at, reason);
            }
        }
    }

    fn close_unwanted(&mut self, wanted: &BTreeSet<SocketAddr>) {
        let now = Instant::now();
        let workers = &self.workers;
        self.open.retain(|at, unwanted| {
            let keep = wanted.contains(at) || *unwanted.get_or_insert(now) + KEEP > now;
            if !keep {
                log::info!("no app takes datagrams at {at} any more");
                for worker in workers.iter() {
                    worker.order(Order::Cease(*at));
                }
            }
            keep
        });
    }
}

/// What is to be open, and how many ports are beyond the limit.
fn wanted(view: &View, config: &EdgeConfig) -> (BTreeSet<SocketAddr>, usize) {
    let taken = |address: &IpAddr| {
        let same = |own: &IpAddr| own.is_unspecified() && own.is_ipv4() == address.is_ipv4();
        config
            .addresses
            .iter()
            .any(|own| own == address || same(own))
    };
    let may_be = |port: &u16| *port != 0 && !config.reserved_ports.contains(port);
    let mut named: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for (address, app) in view.addresses().filter(|(address, _)| taken(address)) {
        let machines = app.machines.iter().filter(|machine| app.is_own(machine));
        let services = machines.flat_map(|machine| machine.services.iter());
        let udp = services.filter(|service| service.protocol == Protocol::Udp);
        let ports = udp.flat_map(|service| service.ports.iter());
        let ports = ports.flat_map(|port| port.start_port..=port.end_port);
        named
            .entry(address)
            .or_default()
            .extend(ports.filter(may_be));
    }
    for at in view.shared_udp().filter(|at| taken(&at.ip())) {
        let ports = named.entry(at.ip()).or_default();
        ports.extend(Some(at.port()).filter(may_be));
    }
    let (mut wanted, mut beyond) = (BTreeSet::new(), 0);
    for (address, ports) in named {
        beyond += ports.len().saturating_sub(config.limits.ports);
        let some = ports.into_iter().take(config.limits.ports);
        wanted.extend(some.map(|port| SocketAddr::new(address, port)));
    }
    (wanted, beyond)
}

/// Bind an address, whether it is this host's yet or not.
pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
        // Never "don't fragment", and no forged ICMP makes this host fragment.
        set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::OMIT)?;
    }
    socket.set_reuse_port(true)?;
    // As much of it as the kernel's limit lets have.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
