//! When a machine is gone under what it has in flight.
//!
//! A process that ends closes its connections, which is all that is needed. A machine whose VM
//! vanished sends nothing any more, so what waits for it is told by the catalog. A machine on its
//! way down still speaks: its app finishes what it has, and bids its tunnels farewell.

use std::sync::Arc;
use std::time::Duration;

use godwit_catalog::Machine;
use godwit_watch::Watch;
use tokio::time::sleep;

/// What a machine sent in its last moment is on its way for no longer.
const PARTING: Duration = Duration::from_secs(1);
/// However often the view changes, nobody looks more often than this.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Return a moment after the boot that a machine is in has ended.
pub(crate) async fn departed(watch: &Watch, machine_id: &Arc<str>) {
    let mut changes = watch.changes();
    let mut stay = Stay::default();
    while !stay.is_over(watch.view().machine(machine_id)) {
        sleep(LOOK_EVERY).await;
        if changes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
    sleep(PARTING).await;
}

/// What was seen of a boot so far.
#[derive(Debug, Default)]
struct Stay {
    instance_id: Option<Box<str>>,
    leaving: bool,
}

impl Stay {
    fn is_over(&mut self, machine: Option<&Arc<Machine>>) -> bool {
        let Some(machine) = machine else {
            return true;
        };
        let first = self.instance_id.get_or_insert(machine.instance_id.clone());
        if **first != *machine.instance_id {
            return true;
        }
        let leaving = std::mem::replace(&mut self.leaving, !machine.is_started());
        match &*machine.state {
            "started" => leaving,
            "stopped" | "suspended" | "failed" | "destroyed" => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::Fact;
    use serde_json::json;

    use super::*;

    fn machine(instance_id: &str, state: &str) -> Arc<Machine> {
        let document = json!({
            "owner": "own", "epoch": 1, "revision": 1, "org_id": "org_1", "network_id": "net_1",
            "network_number": 1, "app_id": "app_1", "app": "hello", "machine_id": "m1",
            "instance_id": instance_id, "name": "n", "host_id": "own", "region": "lcl",
            "state": state, "private_ip": "fdaa:0:1::2", "local_ipv4": "172.16.0.5",
        });
        let mut catalog = Catalog::new("own", "lcl");
        catalog.apply_kept(&Fact::Machine(serde_json::from_value(document).unwrap()));
        catalog.view().machine("m1").unwrap().clone()
    }

    fn over(seen: &[(&str, &str)]) -> Vec<bool> {
        let mut stay = Stay::default();
        seen.iter()
            .map(|(instance, state)| stay.is_over(Some(&machine(instance, state))))
            .collect()
    }

    #[test]
    fn a_boot_is_over_once_its_machine_rests_or_has_begun_another() {
        let down = [("a", "started"), ("a", "stopping"), ("a", "stopped")];
        assert_eq!(over(&down), [false, false, true]);
        let again = [("a", "started"), ("a", "restarting"), ("a", "started")];
        assert_eq!(over(&again), [false, false, true]);
        let updated = [("a", "started"), ("b", "started")];
        assert_eq!(over(&updated), [false, true]);
        let seen_late = [("a", "replacing"), ("a", "replacing"), ("b", "replacing")];
        assert_eq!(over(&seen_late), [false, false, true]);
        assert!(Stay::default().is_over(None));
    }
}
