//! Which ports are listened on: those of the configuration always, and on the addresses that are
//! given to apps those that services name, opened and closed as apps come and go.
//!
//! A port that cannot be had is reported and tried again; it keeps nobody from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use godwit_catalog::{PortRange, View, private, ranges_of};
use godwit_wire::components::{EdgeConfig, Listener};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use super::listen::{self, Bound};
use super::worker::{Handle, Order};
use crate::edge::Edge;

/// However often the view changes, ports are not looked at more often.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A port that was taken may have become free.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// A port that nobody wants is closed after this: machines are replaced, catalogs read anew.
const KEEP: Duration = Duration::from_secs(10);

/// What is listened on and what could not be, as the status page shows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) open: Vec<Listener>,
    pub(crate) refused: Vec<NotOpen>,
    /// More ports are wanted than may be listened on.
    pub(crate) beyond_limit: usize,
}

/// A port that is wanted and not listened on.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NotOpen {
    pub(crate) address: SocketAddr,
    pub(crate) reason: String,
}

/// The listening sockets of this process.
#[derive(Debug)]
pub(crate) struct Ports {
    edge: Arc<Edge>,
    workers: Arc<[Handle]>,
    open: BTreeMap<Listener, Open>,
    refused: BTreeMap<Listener, String>,
    beyond_limit: usize,
}

#[derive(Debug)]
struct Open {
    /// Kept beside the workers' own descriptors: closed last, or handed over.
    sockets: Vec<Bound>,
    /// Since when nobody wants it.
    unwanted: Option<Instant>,
}

impl Ports {
    pub(crate) fn new(edge: Arc<Edge>, workers: Arc<[Handle]>) -> Self {
        Ports {
            edge,
            workers,
            open: BTreeMap::new(),
            refused: BTreeMap::new(),
            beyond_limit: 0,
        }
    }

    /// Accept on what a predecessor listened on, as far as this configuration has it.
    ///
    /// # Errors
    /// Files have run out.
    pub(crate) fn inherit(&mut self, inherited: Vec<Bound>) -> io::Result<()> {
        let config = &self.edge.config;
        let known = |at: &Listener| {
            is_configured(config, at) || config.addresses.contains(&at.address.ip())
        };
        let mut ours: BTreeMap<Listener, Vec<Bound>> = BTreeMap::new();
        for bound in inherited.into_iter().filter(|bound| known(&bound.at)) {
            ours.entry(bound.at).or_default().push(bound);
        }
        for (at, mut sockets) in ours {
            let missing = self.workers.len().saturating_sub(sockets.len());
            sockets.extend(listen::bind_each(at, missing)?);
            self.adopt(at, sockets)?;
        }
        Ok(())
    }

    /// Listen on what the configuration names and is not open yet.
    ///
    /// # Errors
    /// A sentence with the address that cannot be had.
    pub(crate) fn open_configured(&mut self) -> Result<(), String> {
        let config = &self.edge.config;
        let configured: Vec<_> = config
            .listeners
            .iter()
            .copied()
            .chain(flycast(config))
            .collect();
        for at in configured {
            if self.open.contains_key(&at) {
                continue;
            }
            let opened = self.open(at);
            opened.map_err(|error| format!("cannot listen on {}: {error}", at.address))?;
            log::info!("serving {} as port {}", at.address, at.port);
        }
        Ok(())
    }

    /// Follow the view for ever.
    pub(crate) async fn follow(&mut self) {
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
        if self.edge.config.addresses.is_empty() {
            return self.report();
        }
        let (wanted, beyond) = wanted(&self.edge.watch.view(), &self.edge.config);
        if beyond > 0 && beyond != self.beyond_limit {
            log::warn!("{beyond} ports of apps are not listened on: there are too many");
        }
        self.beyond_limit = beyond;
        self.refused.retain(|at, _| wanted.contains(at));
        for at in &wanted {
            match self.open.get_mut(at) {
                Some(open) => open.unwanted = None,
                None => self.try_open(*at),
            }
        }
        self.close_unwanted(&wanted);
        self.report();
    }

    fn try_open(&mut self, at: Listener) {
        match self.open(at) {
            Ok(()) => {
                log::info!("listening on {} for apps", at.address);
                self.refused.remove(&at);
            }
            Err(error) => {
                let reason = error.to_string();
                if self.refused.get(&at) != Some(&reason) {
                    log::error!("cannot listen on {} for apps: {reason}", at.address);
                }
                self.refused.insert(at, reason);
            }
        }
    }

    fn open(&mut self, at: Listener) -> io::Result<()> {
        let sockets = listen::bind_each(at, self.workers.len())?;
        self.adopt(at, sockets)
    }

    /// Have the workers accept on sockets, however many there are.
    fn adopt(&mut self, at: Listener, sockets: Vec<Bound>) -> io::Result<()> {
        for (bound, worker) in sockets.iter().zip(self.workers.iter().cycle()) {
            worker.order(Order::Open(bound.again()?));
        }
        let unwanted = None;
        self.open.insert(at, Open { sockets, unwanted });
        Ok(())
    }

    fn close_unwanted(&mut self, wanted: &BTreeSet<Listener>) {
        let config = &self.edge.config;
        let now = Instant::now();
        let mut closed = Vec::new();
        for (at, open) in &mut self.open {
            if wanted.contains(at) || is_configured(config, at) {
                continue;
            }
            if *open.unwanted.get_or_insert(now) + KEEP <= now {
                closed.push(*at);
            }
        }
        for at in closed {
            log::info!("no app is at {} any more", at.address);
            self.open.remove(&at);
            for worker in self.workers.iter() {
                worker.order(Order::Close(at));
            }
        }
    }

    /// Descriptors of everything that is listened on, for a successor.
    pub(crate) fn sockets(&self) -> io::Result<Vec<Bound>> {
        let all = self.open.values().flat_map(|open| &open.sockets);
        all.map(Bound::again).collect()
    }

    /// Let go of the descriptors that are kept here: the workers' are the last then.
    pub(crate) fn release(&mut self) {
        self.open.clear();
    }

    fn report(&self) {
        let refused = self.refused.iter().map(|(at, reason)| NotOpen {
            address: at.address,
            reason: reason.clone(),
        });
        let report = Report {
            open: self.open.keys().copied().collect(),
            refused: refused.collect(),
            beyond_limit: self.beyond_limit,
        };
        let ports = &self.edge.front.ports;
        *ports.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

/// Where connections to private addresses of apps arrive, whatever port they are to.
pub(crate) fn flycast(config: &EdgeConfig) -> Option<Listener> {
    config.flycast.map(|address| Listener { address, port: 0 })
}

fn is_configured(config: &EdgeConfig, at: &Listener) -> bool {
    config.listeners.contains(at) || flycast(config) == Some(*at)
}

/// What is to be listened on for apps, and how many ports are beyond the limit.
fn wanted(view: &View, config: &EdgeConfig) -> (BTreeSet<Listener>, usize) {
    let (mut wanted, mut beyond) = (BTreeSet::new(), 0);
    for address in &config.addresses {
        let mut ports = BTreeSet::new();
        for range in ranges_at(view, *address) {
            ports
                .extend((range.start..=range.end).filter(|port| is_free(config, *address, *port)));
        }
        beyond += ports.len().saturating_sub(config.limits.ports);
        let listeners = ports
            .into_iter()
            .take(config.limits.ports)
            .map(|port| Listener {
                address: SocketAddr::new(*address, port),
                port,
            });
        wanted.extend(listeners);
    }
    (wanted, beyond)
}

/// The ports of apps that can be reached at an address: one app's own, every address, or one that
/// apps share.
fn ranges_at(view: &View, address: IpAddr) -> Vec<PortRange> {
    let of_app = |app: &godwit_catalog::App| -> Vec<PortRange> {
        let own = app.machines.iter().filter(|machine| app.is_own(machine));
        own.flat_map(|machine| ranges_of(&machine.services))
            .collect()
    };
    if let Some(app) = view.app_of_address(address) {
        return of_app(app);
    }
    let mut ranges: Vec<_> = view.port_ranges().filter(|range| range.named).collect();
    if address.is_unspecified() {
        // At private addresses nothing is opened: the host leads what is for them to one place.
        let same = |(own, _): &(IpAddr, _)| {
            own.is_ipv4() == address.is_ipv4() && private::network_of_app(*own).is_none()
        };
        ranges.extend(
            view.addresses()
                .filter(same)
                .flat_map(|(_, app)| of_app(app)),
        );
    }
    ranges
}

/// Whether a port is neither the platform's nor one that the configuration gives a meaning.
fn is_free(config: &EdgeConfig, address: IpAddr, port: u16) -> bool {
    let overlaps = |other: IpAddr| {
        let any = other.is_unspecified() || address.is_unspecified();
        other.is_ipv4() == address.is_ipv4() && (other == address || any)
    };
    let mut listeners = config.listeners.iter();
    !config.reserved_ports.contains(&port)
        && !listeners.any(|l| l.address.port() == port && overlaps(l.address.ip()))
}
