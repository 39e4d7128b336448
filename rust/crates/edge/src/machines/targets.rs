//! An app's machines as the edge can use them at one external port.
//!
//! Built when the app's part of the view changes, used by every request until then.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_catalog::{App, Machine, View};
use godwit_wire::facts::{Concurrency, HttpOptions, Protocol, Service, ServicePort};
use serde::{Deserialize, Serialize};

use crate::backhaul::{Standing, Standings};
use crate::front::worker::Worker;
use crate::machines::files::Files;
use crate::machines::load::{Load, Loads, Queue};
use crate::machines::upstream::{Kept, Pool};
use crate::metrics::{AppMetrics, MachineMetrics, Metrics};

/// A machine with a service at the port.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) machine_id: Arc<str>,
    pub(crate) region: Arc<str>,
    pub(crate) internal_port: u16,
    pub(crate) place: Place,
    pub(crate) concurrency: Concurrency,
    pub(crate) soft: u32,
    pub(crate) hard: Option<u32>,
    /// The app speaks HTTP/2 without TLS.
    pub(crate) h2: bool,
    pub(crate) load: Arc<Load>,
}

/// Where a machine is.
#[derive(Debug)]
pub(crate) enum Place {
    Here(Here),
    There(There),
}

/// A machine of this host.
#[derive(Debug)]
pub(crate) struct Here {
    pub(crate) address: SocketAddrV4,
    /// The worker's connections there.
    pub(crate) kept: Arc<Kept>,
    /// Its file server, if it has one.
    pub(crate) files: Option<Box<Files>>,
    pub(crate) metrics: Arc<MachineMetrics>,
}

/// A machine on another host.
#[derive(Debug)]
pub(crate) struct There {
    pub(crate) host: Arc<str>,
    pub(crate) standing: Arc<Standing>,
    /// `None` in this edge's own region.
    pub(crate) abroad: Option<Arc<Standing>>,
}

/// What an app has at an external port.
#[derive(Debug)]
pub(crate) struct Targets {
    app: Arc<App>,
    hosts_change: u64,
    /// Started, not cordoned, and its service checks pass; this host's first.
    pub(crate) ready: Vec<Target>,
    /// How many of the ready are this host's.
    pub(crate) own: usize,
    /// May be started for a request; this host's first, then the quickest to start.
    pub(crate) asleep: Vec<Target>,
    /// On their way to `started`, or out of the way for a moment only.
    pub(crate) coming: Vec<Target>,
    /// Started, and their checks fail.
    pub(crate) failing: Vec<Target>,
    pub(crate) besides: Besides,
    /// Requests in plain text are sent to where they are not.
    pub(crate) force_https: bool,
    /// How its port wants responses, as its newest machine has it.
    pub(crate) http: Option<Box<HttpOptions>>,
    /// Who waits for a slot.
    pub(crate) queue: Arc<Queue>,
    /// Who waits for a machine.
    pub(crate) waits: Arc<Queue>,
    pub(crate) metrics: Arc<AppMetrics>,
}

/// What else there is when no machine takes a request: decides what the client is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Besides {
    /// A machine is stopped, and autostart is off.
    pub(crate) stopped: bool,
    /// Machines are on other hosts, whose edges are not known to take backhaul.
    pub(crate) elsewhere: bool,
}

/// How a client's connection is spoken at a port: which of a machine's services it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Handling {
    /// Requests, in plain text.
    #[default]
    Http,
    /// Requests, by TLS that ends here.
    Https,
    /// Bytes, with or without TLS.
    Bytes,
    /// Datagrams.
    Datagrams,
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

    fn protocol(self) -> Protocol {
        match self {
            Handling::Datagrams => Protocol::Udp,
            Handling::Http | Handling::Https | Handling::Bytes => Protocol::Tcp,
        }
    }
}

/// An external port, and how connections to it are spoken.
pub(crate) type At = (u16, Handling);

/// What targets are built from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ground<'a> {
    pub(crate) view: &'a View,
    pub(crate) host_id: &'a str,
    pub(crate) region: &'a str,
    pub(crate) loads: &'a Loads,
    pub(crate) pool: &'a Pool,
    pub(crate) standings: &'a Standings,
    pub(crate) metrics: &'a Metrics,
}

impl Targets {
    fn build(app: &Arc<App>, at: At, ground: Ground<'_>) -> Self {
        let mut besides = Besides::default();
        let (mut ready, mut asleep) = (Vec::new(), Vec::new());
        let (mut coming, mut failing) = (Vec::new(), Vec::new());
        let (port, handling) = at;
        let protocol = handling.protocol();
        let mut force_https = false;
        let mut newest: Option<(&str, &ServicePort)> = None;
        let own = app.local.iter();
        let others = app
            .machines
            .iter()
            .filter(|m| *m.key.host != *ground.host_id);
        for machine in own.chain(others).filter(|m| app.is_own(m)) {
            let Some((service, range)) = service_at(machine, at) else {
                continue;
            };
            if newest.is_none_or(|(instance, _)| *machine.instance_id > *instance) {
                newest = Some((&machine.instance_id, range));
            }
            force_https |= range.force_https && handling == Handling::Http;
            let Some(place) = ground.place(machine, service) else {
                besides.elsewhere = true;
                continue;
            };
            let target = || ground.target(machine, service, range, place);
            if machine.cordoned || machine.draining {
                if machine.draining {
                    coming.push(target());
                }
                continue;
            }
            match condition(&machine.state) {
                Condition::Up if service.passing => ready.push(target()),
                Condition::Up => failing.push(target()),
                Condition::Down(order) if service.autostart => asleep.push((order, target())),
                Condition::Down(STARTING) | Condition::Back => coming.push(target()),
                Condition::Down(_) => besides.stopped = true,
                Condition::Never => {}
            }
        }
        asleep.sort_by_key(|(order, target)| (!target.is_here(), *order));
        let own = ready.iter().filter(|target| target.is_here()).count();
        Targets {
            app: app.clone(),
            hosts_change: ground.view.hosts_change(),
            ready,
            own,
            asleep: asleep.into_iter().map(|(_, target)| target).collect(),
            coming,
            failing,
            besides,
            force_https,
            http: newest.and_then(|(_, range)| range.http_options.clone()),
            queue: ground.loads.queue(&app.name, port, protocol),
            waits: ground.loads.waits(&app.name, port, protocol),
            metrics: ground.metrics.app(&app.name, org_of(app)),
        }
    }

    pub(crate) fn app(&self) -> &Arc<App> {
        &self.app
    }

    pub(crate) fn app_name(&self) -> &Arc<str> {
        &self.app.name
    }

    /// Whether a machine that was started a moment ago will take its part of the load soon: until
    /// it is known to be of no use, no other is started beside the requests (spec/network.md §1.3).
    pub(crate) fn is_growing(&self) -> bool {
        let mut failing = self.failing.iter();
        failing.any(|Target { load, .. }| load.waking.load(Relaxed) || load.is_fresh())
    }

    /// Whether its port wants responses to be compressed for clients that take them so.
    pub(crate) fn compresses(&self) -> bool {
        let said = self.http.as_ref().and_then(|http| http.compress);
        said.unwrap_or(true)
    }

    /// How long a connection to the app may be idle, if its port says so.
    pub(crate) fn idle(&self) -> Option<Duration> {
        let seconds = self.http.as_ref()?.idle_timeout?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// What the app is known by for ever, whoever has its name; empty while it is not known.
    pub(crate) fn app_id(&self) -> &str {
        self.app.id().map_or("", |id| id)
    }

    /// The app's organization, empty while it is not known.
    pub(crate) fn org_id(&self) -> &str {
        org_of(&self.app).map_or("", |org_id| org_id)
    }
}

impl Target {
    pub(crate) fn is_here(&self) -> bool {
        matches!(self.place, Place::Here(_))
    }

    /// The file server of a machine of this host.
    pub(crate) fn files(&self) -> Option<&Files> {
        match &self.place {
            Place::Here(here) => here.files.as_deref(),
            Place::There(_) => None,
        }
    }
}

impl<'a> Ground<'a> {
    pub(crate) fn of(worker: &'a Worker, view: &'a View) -> Self {
        let edge = &worker.edge;
        Ground {
            view,
            host_id: &edge.config.host_id,
            region: &edge.config.region,
            loads: &edge.loads,
            pool: &worker.pool,
            standings: &edge.standings,
            metrics: &edge.metrics,
        }
    }

    /// Where a machine is; `None` when no way leads there.
    fn place(&self, machine: &Machine, service: &Service) -> Option<Place> {
        if *machine.key.host == *self.host_id {
            let (id, port) = (&machine.key.id, service.internal_port);
            return Some(Place::Here(Here {
                address: SocketAddrV4::new(machine.local_ipv4, port),
                kept: self.pool.of(id, port),
                files: machine.statics.as_ref().map(|told| {
                    let at = SocketAddrV4::new(machine.local_ipv4, told.port);
                    Box::new(Files::new(at, told, self.pool.of(id, told.port)))
                }),
                metrics: self.metrics.machine(id),
            }));
        }
        self.view.host(&machine.key.host)?.backhaul?;
        let abroad = *machine.region != *self.region;
        Some(Place::There(There {
            host: machine.key.host.clone(),
            standing: self.standings.host(&machine.key.host),
            abroad: abroad.then(|| self.standings.region(&machine.region)),
        }))
    }

    fn target(
        &self,
        machine: &Machine,
        service: &Service,
        range: &ServicePort,
        place: Place,
    ) -> Target {
        let (id, port) = (&machine.key.id, service.internal_port);
        let load = match place {
            Place::Here(_) => self.loads.load(id, port, service.protocol),
            Place::There(_) => self.loads.abroad(id, port, service.protocol),
        };
        Target {
            machine_id: id.clone(),
            region: machine.region.clone(),
            internal_port: port,
            place,
            concurrency: service.concurrency,
            soft: service.soft_limit,
            hard: service.hard_limit,
            h2: range
                .http_options
                .as_ref()
                .is_some_and(|http| http.h2_backend),
            load,
        }
    }
}

fn org_of(app: &App) -> Option<&Arc<str>> {
    let record = app.record.as_ref().map(|record| &record.org_id);
    record.or_else(|| app.machines.first().map(|machine| &machine.org_id))
}

/// The service that takes connections of this kind at an external port, and its port.
fn service_at(machine: &Machine, (port, handling): At) -> Option<(&Service, &ServicePort)> {
    let protocol = handling.protocol();
    let fits = |range: &&ServicePort| {
        (range.start_port..=range.end_port).contains(&port)
            && (protocol == Protocol::Udp || Handling::of(&range.handlers) == handling)
    };
    let mut services = machine.services.iter().filter(|s| s.protocol == protocol);
    services.find_map(|service| Some((service, service.ports.iter().find(fits)?)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Up,
    /// May be started; the number orders by how long that takes.
    Down(u8),
    /// Comes back without being asked.
    Back,
    Never,
}

const STARTING: u8 = 0;

fn condition(state: &str) -> Condition {
    match state {
        "started" => Condition::Up,
        "starting" => Condition::Down(STARTING),
        "suspended" => Condition::Down(1),
        "suspending" => Condition::Down(2),
        "stopped" => Condition::Down(3),
        "stopping" => Condition::Down(4),
        "restarting" | "replacing" => Condition::Back,
        _ => Condition::Never,
    }
}

/// The targets a worker has built, by app and port.
#[derive(Debug, Default)]
pub(crate) struct TargetCache {
    built: Mutex<Built>,
}

type Built = HashMap<(Arc<str>, At), Arc<Targets>>;

/// A worker keeps no more than this many; apps without requests leave sooner or later.
const KEPT: usize = 8192;

impl TargetCache {
    /// The targets of an app as the view has it now.
    pub(crate) fn get(&self, app: &Arc<App>, at: At, ground: Ground<'_>) -> Arc<Targets> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (app.name.clone(), at);
        if let Some(targets) = built.get(&key)
            && Arc::ptr_eq(&targets.app, app)
            && targets.hosts_change == ground.view.hosts_change()
        {
            return targets.clone();
        }
        if built.len() >= KEPT {
            built.clear();
        }
        let targets = Arc::new(Targets::build(app, at, ground));
        built.insert(key, targets.clone());
        targets
    }
}

#[cfg(test)]
pub(super) mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::{Fact, MachineFact};
    use serde_json::json;

    use super::*;

    pub(in crate::machines) fn fact(
        id: &str,
        host: &str,
        state: &str,
        change: &serde_json::Value,
    ) -> MachineFact {
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

    pub(in crate::machines) fn targets(facts: Vec<MachineFact>, port: u16) -> Targets {
        let mut catalog = Catalog::new("own", "lcl");
        for fact in facts {
            catalog.apply_kept(&Fact::Machine(Box::new(fact)));
        }
        let host = json!({
            "kind": "host", "owner": "other", "epoch": 1, "revision": 1, "host_id": "other",
            "region": "lcl", "zone": "0000", "backhaul": "[fdaa:0:0:2::1]:4282",
        });
        catalog.apply_kept(&serde_json::from_value(host).unwrap());
        let app = catalog.view().app("hello").unwrap();
        let ground = Ground {
            view: catalog.view(),
            host_id: "own",
            region: "lcl",
            loads: &Loads::default(),
            pool: &Pool::default(),
            standings: &Standings::default(),
            metrics: &Metrics::default(),
        };
        Targets::build(app, (port, Handling::Http), ground)
    }

    #[test]
    fn only_started_machines_that_take_traffic_are_ready() {
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
                fact("m8", "unknown", "started", &none),
                fact("m9", "other", "suspended", &none),
            ],
            80,
        );
        let ids = |targets: &[Target]| {
            targets
                .iter()
                .map(|t| t.machine_id.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (ids(&built.ready), built.own),
            (vec!["m1".into(), "m2".into()], 1)
        );
        assert_eq!(ids(&built.asleep), ["m6", "m5", "m9"]);
        let besides = Besides {
            stopped: false,
            elsewhere: true,
        };
        assert_eq!(built.besides, besides);
        assert_eq!(ids(&built.failing), ["m4"]);
        assert!(built.coming.is_empty() && !built.is_growing());
        built.failing[0].load.set_fresh();
        assert!(built.is_growing());
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
        assert!(built.besides.stopped);
        assert_eq!(&*built.coming[0].machine_id, "m2");
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
            assert_eq!(built.coming.len(), 1, "{state}");
        }
        let away = fact("m1", "own", "replacing", &json!({"cordoned": true}));
        assert!(targets(vec![away], 80).coming.is_empty());
    }
}
