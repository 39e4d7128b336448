//! The first of the catalog's two levels: in which regions an app is, with how many machines.
//!
//! Kept beside the machines and as they change, so that a region is chosen in as many steps as
//! the app has regions, however many machines.

use std::sync::Arc;

use crate::record::Machine;

/// Machines of one process group of an app in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presence {
    pub region: Arc<str>,
    pub process_group: Arc<str>,
    /// Tells the app from a deleted one of the same name.
    pub app_id: Arc<str>,
    pub machines: u32,
    /// Those of them that are started.
    pub started: u32,
}

impl Presence {
    fn is_of(&self, machine: &Machine) -> bool {
        self.region == machine.region
            && self.process_group == machine.process_group
            && self.app_id == machine.app_id
    }
}

pub(crate) fn enter(all: &mut Vec<Presence>, machine: &Machine) {
    let started = u32::from(machine.is_started());
    if let Some(one) = all.iter_mut().find(|one| one.is_of(machine)) {
        one.machines += 1;
        one.started += started;
        return;
    }
    all.push(Presence {
        region: machine.region.clone(),
        process_group: machine.process_group.clone(),
        app_id: machine.app_id.clone(),
        machines: 1,
        started,
    });
}

pub(crate) fn leave(all: &mut Vec<Presence>, machine: &Machine) {
    if let Some(at) = all.iter().position(|one| one.is_of(machine)) {
        all[at].machines -= 1;
        all[at].started -= u32::from(machine.is_started());
        if all[at].machines == 0 {
            all.swap_remove(at);
        }
    }
}
