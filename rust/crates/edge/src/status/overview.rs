//! What an operator wants to see at a glance: this edge, its machines, other hosts, refusals,
//! ports.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use godwit_catalog::{Machine, View};
use godwit_watch::Report;
use serde::Serialize;

use crate::datagrams::sockets;
use crate::drain::Phase;
use crate::edge::Edge;
use crate::front::ports;

/// Lines of a table; who has more machines asks control.
const MOST: usize = 500;

#[derive(Serialize)]
pub(super) struct Overview {
    pub(super) version: &'static str,
    pub(super) host: String,
    pub(super) region: String,
    pub(super) phase: &'static str,
    pub(super) up_s: u64,
    /// Requests that wait for a slot or for a machine.
    pub(super) waiting: usize,
    pub(super) catalog: Report,
    pub(super) apps: Vec<AppLine>,
    /// Those of this host.
    pub(super) machines: Vec<MachineLine>,
    pub(super) machines_not_shown: usize,
    pub(super) hosts: Vec<HostLine>,
    pub(super) refused_connections: BTreeMap<&'static str, u64>,
    pub(super) refused_requests: Vec<RefusedLine>,
    pub(super) tcp: ports::Report,
    pub(super) udp: sockets::Report,
}

/// An app that has one of the machines.
#[derive(Serialize)]
pub(super) struct AppLine {
    pub(super) name: String,
    /// On all hosts.
    pub(super) machines: usize,
    pub(super) started: usize,
    /// In flight at those of this host.
    pub(super) in_flight: u32,
}

#[derive(Serialize)]
pub(super) struct MachineLine {
    pub(super) id: String,
    pub(super) app: String,
    pub(super) region: String,
    pub(super) state: String,
    pub(super) health: &'static str,
    pub(super) in_flight: u32,
}

#[derive(Serialize)]
pub(super) struct HostLine {
    pub(super) id: String,
    pub(super) region: String,
    /// `None` until somebody asked it.
    pub(super) rtt_us: Option<u32>,
    pub(super) silent: bool,
}

#[derive(Serialize)]
pub(super) struct RefusedLine {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) count: u64,
}

impl Overview {
    pub(super) fn of(edge: &Edge, phase: Phase) -> Self {
        let view = edge.watch.view();
        let (machines, machines_not_shown) = machines(edge, &view);
        let refused = edge.metrics.refusals().into_iter();
        let ports = edge.front.ports.lock();
        let udp = edge.datagrams.open.lock();
        Overview {
            version: env!("CARGO_PKG_VERSION"),
            host: edge.config.host_id.clone(),
            region: edge.config.region.clone(),
            phase: match phase {
                Phase::Serving => "serving",
                Phase::Lingering | Phase::Closing | Phase::Parting => "draining",
            },
            up_s: edge.begun.elapsed().as_secs(),
            waiting: edge.loads.waiting(),
            catalog: edge.watch.report(),
            apps: apps(&view, &machines),
            machines,
            machines_not_shown,
            hosts: hosts(edge, &view),
            refused_connections: edge.front.refused.all().into_iter().collect(),
            refused_requests: refused
                .map(|((status, code), count)| RefusedLine {
                    status,
                    code,
                    count,
                })
                .collect(),
            tcp: ports.unwrap_or_else(PoisonError::into_inner).clone(),
            udp: udp.unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// The busiest first; and how many were left out.
fn machines(edge: &Edge, view: &View) -> (Vec<MachineLine>, usize) {
    let mut in_flight: HashMap<Arc<str>, u32> = HashMap::new();
    for (id, _, active) in edge.loads.active() {
        *in_flight.entry(id).or_default() += active;
    }
    let line = |machine: &Arc<Machine>| MachineLine {
        id: machine.key.id.to_string(),
        app: machine.app.to_string(),
        region: machine.region.to_string(),
        state: machine.state.to_string(),
        health: health(machine),
        in_flight: in_flight.get(&machine.key.id).copied().unwrap_or(0),
    };
    let own = view.apps().flat_map(|app| &app.local);
    let mut lines: Vec<_> = own.map(line).collect();
    lines.sort_by(|one, other| {
        let busier = other.in_flight.cmp(&one.in_flight);
        busier.then_with(|| (&one.app, &one.id).cmp(&(&other.app, &other.id)))
    });
    let left_out = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    (lines, left_out)
}

fn health(machine: &Machine) -> &'static str {
    if machine.cordoned {
        "cordoned"
    } else if !machine.is_started() {
        "-"
    } else if machine.services.iter().all(|service| service.passing) {
        "passing"
    } else {
        "failing"
    }
}

fn apps(view: &View, machines: &[MachineLine]) -> Vec<AppLine> {
    let mut in_flight: BTreeMap<&str, u32> = BTreeMap::new();
    for machine in machines {
        *in_flight.entry(&machine.app).or_default() += machine.in_flight;
    }
    let line = |(name, in_flight): (&str, u32)| {
        let all = &view.app(name)?.machines;
        Some(AppLine {
            name: name.to_owned(),
            machines: all.len(),
            started: all.iter().filter(|machine| machine.is_started()).count(),
            in_flight,
        })
    };
    in_flight.into_iter().filter_map(line).collect()
}

fn hosts(edge: &Edge, view: &View) -> Vec<HostLine> {
    let met: HashMap<_, _> = edge
        .standings
        .hosts()
        .into_iter()
        .map(|(id, micros, doubted)| (id, (micros, doubted)))
        .collect();
    let others = view.hosts().filter(|host| *host.id != *edge.config.host_id);
    let mut lines: Vec<_> = others
        .map(|host| {
            let (micros, silent) = met.get(&host.id).copied().unwrap_or_default();
            HostLine {
                id: host.id.to_string(),
                region: host.region.to_string(),
                rtt_us: (micros > 0).then_some(micros),
                silent,
            }
        })
        .collect();
    lines.sort_by(|one, other| one.id.cmp(&other.id));
    lines.truncate(MOST);
    lines
}
