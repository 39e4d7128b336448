//! Putting machines to rest that the load does not need (spec/network.md §1.4).
//!
//! Now and then, for every app, region and process group: `decide` says which machine is one too
//! many, if any, and its own host's agent drains and stops or suspends it. Each machine says
//! itself whether it may be, and how; one that may not takes its part of the load. Only one edge
//! decides for a group: that of the host which has its first started machine. What machines of
//! other hosts have to do their edges say; one that does not say it is held for busy.

mod decide;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use godwit_catalog::{App, Machine};
use godwit_wire::facts::Autostop;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval_at};

use crate::backhaul::Order;
use crate::drain;
use crate::edge::Edge;
use crate::front::worker::Worker;
use decide::{Candidate, decide};

/// What a machine has to do, over all its services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Busy {
    pub(crate) active: u32,
    /// A service is at or over its soft limit.
    pub(crate) over: bool,
    /// How many requests and connections it ever got here.
    pub(crate) taken: u64,
}

/// What is not known to be idle.
const UNKNOWN: Busy = Busy {
    active: u32::MAX,
    over: true,
    taken: u64::MAX,
};

/// What the last look saw: the boot of each machine, and what it had got.
type Seen = HashMap<Arc<str>, (Box<str>, u64)>;

/// Look for machines that are not needed, on one worker of the process.
pub(crate) fn start(worker: &Arc<Worker>) {
    if !worker.edge.stopping.swap(true, Relaxed) {
        tokio::spawn(run(worker.clone()));
    }
}

async fn run(worker: Arc<Worker>) {
    let mut phases = worker.phases.clone();
    let every = Duration::from_millis(worker.edge.config.limits.autostop_ms.max(1));
    let mut ticks = interval_at(tokio::time::Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looks = async {
        let mut seen = Seen::new();
        loop {
            ticks.tick().await;
            let mut now = Seen::new();
            for app in apps(&worker.edge) {
                for group in groups(&worker.edge, &app) {
                    look(&worker, &app, &group, &seen, &mut now).await;
                }
            }
            seen = now;
        }
    };
    tokio::select! {
        () = looks => {}
        () = drain::begun(&mut phases) => {}
    }
}

/// Apps with machines of this host, of which some may be stopped, here or elsewhere.
fn apps(edge: &Edge) -> Vec<Arc<App>> {
    let view = edge.watch.view();
    let stops = |app: &&Arc<App>| {
        app.local.iter().any(|machine| serves(machine))
            && app.machines.iter().any(|machine| may_rest(machine))
    };
    view.apps().filter(stops).cloned().collect()
}

/// The app's process groups that this edge decides for: started machines of the own region, of
/// which at least one may rest.
fn groups(edge: &Edge, app: &App) -> Vec<Vec<Arc<Machine>>> {
    let mut groups: HashMap<Arc<str>, Vec<Arc<Machine>>> = HashMap::new();
    for machine in app.machines.iter().filter(|machine| app.is_own(machine)) {
        if *machine.region == *edge.config.region && serves(machine) {
            let group = groups.entry(machine.process_group.clone()).or_default();
            group.push(machine.clone());
        }
    }
    let decided = groups.into_values().filter(|group| {
        let first = group.iter().min_by(|a, b| a.key.cmp(&b.key));
        let is_here = first.is_some_and(|first| *first.key.host == *edge.config.host_id);
        is_here && group.iter().any(|machine| may_rest(machine))
    });
    decided.collect()
}

/// Whether a machine takes part in the load.
fn serves(machine: &Machine) -> bool {
    machine.is_started() && !machine.cordoned && !machine.draining && !machine.services.is_empty()
}

/// Whether a machine is put to rest when it is not needed.
fn may_rest(machine: &Machine) -> bool {
    machine.autostop != Autostop::Off
}

/// Look at one group, and put one machine to rest if it is one too many.
async fn look(
    worker: &Arc<Worker>,
    app: &App,
    group: &[Arc<Machine>],
    seen: &Seen,
    now: &mut Seen,
) {
    let loads = loads(worker, group).await;
    let candidates: Vec<Candidate> = group
        .iter()
        .zip(&loads)
        .map(|(machine, busy)| {
            let (boot, taken) = (machine.instance_id.clone(), busy.taken);
            let before = seen.get(&machine.key.id).filter(|(held, _)| *held == boot);
            now.insert(machine.key.id.clone(), (boot, taken));
            Candidate {
                active: busy.active,
                over: busy.over,
                may_rest: may_rest(machine) && before.is_some(),
                quiet: before.is_some_and(|(_, held)| *held == taken),
            }
        })
        .collect();
    let least = group.iter().map(|machine| machine.min_running).max();
    let least = usize::try_from(least.unwrap_or(0)).unwrap_or(usize::MAX);
    let Some(chosen) = decide(&candidates, least) else {
        return;
    };
    let machine = &group[chosen];
    log::info!(
        org_id = &*machine.org_id, machine_id = &*machine.key.id;
        "App {} has excess capacity, autostopping machine {}. {} out of {} machines left running \
         (region={}, process group={})",
        app.name,
        machine.key.id,
        group.len() - 1,
        group.len(),
        machine.region,
        machine.process_group,
    );
    if let Err(why) = rest(worker, machine).await {
        log::warn!(machine_id = &*machine.key.id; "{} is not stopped: {why}", machine.key.id);
    }
}

async fn rest(worker: &Arc<Worker>, machine: &Machine) -> Result<(), String> {
    let edge = &worker.edge;
    let suspend = machine.autostop == Autostop::Suspend;
    if *machine.key.host == *edge.config.host_id {
        let asked = edge.waker.stop(&machine.key.id, suspend).await;
        return asked.map_err(|why| why.to_string());
    }
    let order = Order::Stop {
        machine: machine.key.id.to_string(),
        suspend,
    };
    worker
        .peers
        .ask(edge, &machine.key.host, &order)
        .await
        .map(|_| ())
}

/// What each machine of a group has to do.
async fn loads(worker: &Arc<Worker>, group: &[Arc<Machine>]) -> Vec<Busy> {
    let edge = &worker.edge;
    let mut loads = vec![UNKNOWN; group.len()];
    let mut elsewhere: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
    for (index, machine) in group.iter().enumerate() {
        if *machine.key.host == *edge.config.host_id {
            loads[index] = busy_at(edge, machine);
        } else {
            elsewhere
                .entry(machine.key.host.clone())
                .or_default()
                .push(index);
        }
    }
    for (host, indexes) in elsewhere {
        let machines = indexes.iter().map(|index| group[*index].key.id.to_string());
        let order = Order::Loads {
            machines: machines.collect(),
        };
        if let Ok(reply) = worker.peers.ask(edge, &host, &order).await {
            for (index, busy) in indexes.into_iter().zip(reply.loads) {
                loads[index] = busy;
            }
        }
    }
    loads
}

/// What a machine of this host has to do.
pub(crate) fn busy(edge: &Edge, machine_id: &str) -> Busy {
    let view = edge.watch.view();
    let own = view
        .machine(machine_id)
        .filter(|m| *m.key.host == *edge.config.host_id);
    own.map_or(UNKNOWN, |machine| busy_at(edge, machine))
}

fn busy_at(edge: &Edge, machine: &Machine) -> Busy {
    let mut busy = Busy::default();
    for service in machine.services.iter() {
        let (port, protocol) = (service.internal_port, service.protocol);
        let load = edge.loads.load(&machine.key.id, port, protocol);
        busy.active += load.active();
        busy.over |= load.active() >= service.soft_limit;
        busy.taken = busy.taken.wrapping_add(load.taken());
    }
    busy
}
