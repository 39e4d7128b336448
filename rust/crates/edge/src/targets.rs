//! An app's machines as the edge can use them at one external port.
//!
//! Built when the app's part of the view changes, used by every request until then.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};

use godwit_catalog::{App, Machine};
use godwit_wire::facts::{Concurrency, Protocol, Service, ServicePort};

use crate::load::{Load, Loads, Queue};
use crate::metrics::{AppMetrics, Metrics};

/// A machine with a service at the port.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) machine_id: Arc<str>,
    pub(crate) address: SocketAddrV4,
    pub(crate) concurrency: Concurrency,
    pub(crate) soft: u32,
    pub(crate) hard: Option<u32>,
    pub(crate) load: Arc<Load>,
}

/// What an app has at an external port.
#[derive(Debug)]
pub(crate) struct Targets {
    app: Arc<App>,
    /// Started, not cordoned, and its service checks pass.
    pub(crate) ready: Vec<Target>,
    /// May be started for a request; the quickest to start first.
    pub(crate) asleep: Vec<Target>,
    pub(crate) besides: Besides,
    /// Requests in plain text are sent to where they are not.
    pub(crate) force_https: bool,
    /// Who waits for a slot.
    pub(crate) queue: Arc<Queue>,
    /// Who waits for a machine.
    pub(crate) waits: Arc<Queue>,
    pub(crate) metrics: Arc<AppMetrics>,
}

/// What else there is when no machine takes a request: decides what the client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a sentence of its own"
)]
pub(crate) struct Besides {
    /// A machine is on its way to `started`, or out of the way for a moment only.
    pub(crate) coming: bool,
    /// A machine is started, and its checks fail.
    pub(crate) failing: bool,
    /// A machine is stopped, and autostart is off.
    pub(crate) stopped: bool,
    /// Machines are on other hosts.
    pub(crate) elsewhere: bool,
}

/// How a client's connection is spoken at a port: which of a machine's services it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Handling {
    /// Requests, in plain text.
    Http,
    /// Requests, by TLS that ends here.
    Https,
    /// Bytes, with or without TLS.
    Bytes,
}

impl Handling {
    /// What these handlers make of a connection.
    pub(crate) fn of(handlers: &[String]) -> Self {
        let has = |name: &str| handlers.iter().any(|handler| handler == name);
        match (has("http"), has("tls")) {
            (true, true) => Handling::Https,
            (true, false) => Handling::Http,
            (false, _) => Handling::Bytes,
        }
    }
}

impl Targets {
    fn build(
        app: &Arc<App>,
        port: u16,
        handling: Handling,
        loads: &Loads,
        metrics: &Metrics,
    ) -> Self {
        let mut besides = Besides::default();
        let (mut ready, mut asleep) = (Vec::new(), Vec::new());
        let mut force_https = false;
        besides.elsewhere = app.machines.len() > app.local.len();
        for machine in app.local.iter().filter(|m| app.is_own(m)) {
            let Some((service, range)) = service_at(machine, port, handling) else {
                continue;
            };
            force_https |= range.force_https && handling == Handling::Http;
            if machine.cordoned || machine.draining {
                besides.coming |= machine.draining;
                continue;
            }
            let target = || target(machine, service, loads);
            match standing(&machine.state) {
                Standing::Up if service.passing => ready.push(target()),
                Standing::Up => besides.failing = true,
                Standing::Down(order) if service.autostart => asleep.push((order, target())),
                Standing::Down(STARTING) | Standing::Back => besides.coming = true,
                Standing::Down(_) => besides.stopped = true,
                Standing::Never => {}
            }
        }
        asleep.sort_by_key(|(order, _)| *order);
        Targets {
            app: app.clone(),
            ready,
            asleep: asleep.into_iter().map(|(_, target)| target).collect(),
            besides,
            force_https,
            queue: loads.queue(&app.name, port),
            waits: loads.waits(&app.name, port),
            metrics: metrics.app(&app.name, org_of(app)),
        }
    }

    pub(crate) fn app_name(&self) -> &Arc<str> {
        &self.app.name
    }

    /// The app's organization, empty while it is not known.
    pub(crate) fn org_id(&self) -> &str {
        org_of(&self.app).map_or("", |org_id| org_id)
    }
}

fn target(machine: &Machine, service: &Service, loads: &Loads) -> Target {
    let address: Ipv4Addr = machine.local_ipv4;
    Target {
        machine_id: machine.key.id.clone(),
        address: SocketAddrV4::new(address, service.internal_port),
        concurrency: service.concurrency,
        soft: service.soft_limit,
        hard: service.hard_limit,
        load: loads.load(&machine.key.id, service.internal_port),
    }
}

fn org_of(app: &App) -> Option<&Arc<str>> {
    let record = app.record.as_ref().map(|record| &record.org_id);
    record.or_else(|| app.local.first().map(|machine| &machine.org_id))
}

/// The service that takes connections of this kind at an external port, and its port.
fn service_at(
    machine: &Machine,
    port: u16,
    handling: Handling,
) -> Option<(&Service, &ServicePort)> {
    let fits = |range: &&ServicePort| {
        (range.start_port..=range.end_port).contains(&port)
            && Handling::of(&range.handlers) == handling
    };
    let mut tcp = machine
        .services
        .iter()
        .filter(|s| s.protocol == Protocol::Tcp);
    tcp.find_map(|service| Some((service, service.ports.iter().find(fits)?)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Up,
    /// May be started; the number orders by how long that takes.
    Down(u8),
    /// Comes back without being asked.
    Back,
    Never,
}

const STARTING: u8 = 0;

fn standing(state: &str) -> Standing {
    match state {
        "started" => Standing::Up,
        "starting" => Standing::Down(STARTING),
        "suspended" => Standing::Down(1),
        "suspending" => Standing::Down(2),
        "stopped" => Standing::Down(3),
        "stopping" => Standing::Down(4),
        "restarting" | "replacing" => Standing::Back,
        _ => Standing::Never,
    }
}

/// The targets a worker has built, by app and port.
#[derive(Debug, Default)]
pub(crate) struct TargetCache {
    built: Mutex<Built>,
}

type Built = HashMap<(Arc<str>, u16, Handling), Arc<Targets>>;

/// A worker keeps no more than this many; apps without requests leave sooner or later.
const KEPT: usize = 8192;

impl TargetCache {
    /// The targets of an app as the view has it now.
    pub(crate) fn get(
        &self,
        app: &Arc<App>,
        (port, handling): (u16, Handling),
        loads: &Loads,
        metrics: &Metrics,
    ) -> Arc<Targets> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (app.name.clone(), port, handling);
        if let Some(targets) = built.get(&key)
            && Arc::ptr_eq(&targets.app, app)
        {
            return targets.clone();
        }
        if built.len() >= KEPT {
            built.clear();
        }
        let targets = Arc::new(Targets::build(app, port, handling, loads, metrics));
        built.insert(key, targets.clone());
        targets
    }
}

#[cfg(test)]
mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::{Fact, MachineFact};
    use serde_json::json;

    use super::*;

    fn fact(id: &str, host: &str, state: &str, change: &serde_json::Value) -> MachineFact {
        let mut document = json!({
            "owner": host, "epoch": 1, "revision": 1, "org_id": "org_1", "network_id": "net_1",
            "network_number": 1, "app_id": "app_1", "app": "hello", "machine_id": id,
            "instance_id": "i", "name": "n", "host_id": host, "region": "lcl", "state": state,
            "private_ip": "fdaa:0:1::2", "local_ipv4": "172.16.0.5",
            "services": [{"internal_port": 8080, "ports": [
                {"start_port": 80, "end_port": 80, "handlers": ["http"]},
                {"start_port": 443, "end_port": 443, "handlers": ["tls", "http"]},
                {"start_port": 5432, "end_port": 5432, "handlers": []}]}],
        });
        for (name, value) in change.as_object().unwrap() {
            document[name] = value.clone();
        }
        serde_json::from_value(document).unwrap()
    }

    fn targets(facts: Vec<MachineFact>, port: u16) -> Targets {
        let mut catalog = Catalog::new("own", "lcl");
        for fact in facts {
            catalog.apply_kept(&Fact::Machine(Box::new(fact)));
        }
        let app = catalog.view().app("hello").unwrap();
        let loads = Loads::default();
        Targets::build(app, port, Handling::Http, &loads, &Metrics::default())
    }

    #[test]
    fn only_started_machines_of_this_host_that_take_traffic_are_ready() {
        let none = json!({});
        let failing = json!({"services": [{"internal_port": 1, "passing": false, "ports": [
            {"start_port": 80, "end_port": 90, "handlers": ["http"]}]}]});
        let built = targets(
            vec![
                fact("m1", "own", "started", &none),
                fact("m2", "other", "started", &none),
                fact("m3", "own", "started", &json!({"cordoned": true})),
                fact("m4", "own", "started", &failing),
                fact("m5", "own", "stopped", &none),
                fact("m6", "own", "suspended", &none),
                fact("m7", "own", "created", &none),
            ],
            80,
        );
        let ids = |targets: &[Target]| {
            targets
                .iter()
                .map(|t| t.machine_id.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(&built.ready), ["m1"]);
        assert_eq!(ids(&built.asleep), ["m6", "m5"]);
        let besides = Besides {
            failing: true,
            elsewhere: true,
            ..Besides::default()
        };
        assert_eq!(built.besides, besides);
    }

    #[test]
    fn a_port_without_plain_http_has_no_targets() {
        for port in [443, 5432, 81] {
            let built = targets(vec![fact("m1", "own", "started", &json!({}))], port);
            assert!(built.ready.is_empty(), "{port}");
        }
    }

    #[test]
    fn without_autostart_a_stopped_machine_is_left_alone() {
        let off = json!({"services": [{"internal_port": 1, "autostart": false, "ports": [
            {"start_port": 80, "end_port": 80, "handlers": ["http"]}]}]});
        let built = targets(
            vec![
                fact("m1", "own", "stopped", &off),
                fact("m2", "own", "starting", &off),
            ],
            80,
        );
        assert!(built.asleep.is_empty());
        let besides = Besides {
            stopped: true,
            coming: true,
            ..Besides::default()
        };
        assert_eq!(built.besides, besides);
    }

    #[test]
    fn what_is_away_for_a_moment_is_on_its_way() {
        for (state, change) in [
            ("started", json!({"cordoned": true, "draining": true})),
            ("replacing", json!({})),
            ("restarting", json!({})),
        ] {
            let built = targets(vec![fact("m1", "own", state, &change)], 80);
            assert!(built.ready.is_empty() && built.asleep.is_empty());
            assert!(built.besides.coming, "{state}");
        }
        let away = fact("m1", "own", "replacing", &json!({"cordoned": true}));
        assert!(!targets(vec![away], 80).besides.coming);
    }
}
