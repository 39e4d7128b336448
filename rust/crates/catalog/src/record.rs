//! Facts as the view keeps them: addresses parsed, what repeats shared.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use godwit_wire::facts::{self, AppFact, Autostop, Fact, HostFact, MachineFact, Service, Statics};

use crate::intern::Interners;

/// Orders the records of one subject: epoch first, then revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub epoch: u64,
    pub revision: u64,
}

/// Which record of a machine: while it moves, two hosts tell of the same id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineKey {
    pub id: Arc<str>,
    pub host: Arc<str>,
}

/// A value in a fact that does not parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub key: MachineKey,
    pub version: Version,
    pub org_id: Arc<str>,
    pub network_id: Arc<str>,
    pub network_number: u32,
    pub app_id: Arc<str>,
    pub app: Arc<str>,
    pub instance_id: Box<str>,
    pub region: Arc<str>,
    pub state: Arc<str>,
    pub cordoned: bool,
    pub draining: bool,
    pub in_dns: bool,
    pub private_ip: Ipv6Addr,
    pub local_ipv4: Ipv4Addr,
    pub process_group: Arc<str>,
    pub metadata: Arc<BTreeMap<String, String>>,
    pub services: Arc<[Service]>,
    pub autostop: Autostop,
    pub min_running: u32,
    pub statics: Option<Arc<Statics>>,
}

/// What control says of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppRecord {
    pub name: Arc<str>,
    pub version: Version,
    pub org_id: Arc<str>,
    /// Empty where it was not told.
    pub org_slug: Arc<str>,
    pub network_id: Arc<str>,
    pub network_number: u32,
    pub app_id: Arc<str>,
    pub hostnames: Arc<[Arc<str>]>,
    /// Addresses that are this app's alone; what is none was left out.
    pub addresses: Arc<[IpAddr]>,
    /// UDP ports that are this app's alone at addresses that apps share.
    pub shared_udp: Arc<[SocketAddr]>,
    /// It may replay requests to apps of its organization's other networks.
    pub replays_across_networks: bool,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub id: Arc<str>,
    pub version: Version,
    pub region: Arc<str>,
    pub zone: Arc<str>,
    /// Where its edge takes backhaul; `None` when it takes none.
    pub backhaul: Option<SocketAddr>,
}

impl Machine {
    pub(crate) fn read(fact: &MachineFact, names: &mut Interners) -> Result<Self, Unreadable> {
        Ok(Machine {
            key: MachineKey {
                id: names.text(&fact.machine_id),
                host: names.text(&fact.host_id),
            },
            version: Version {
                epoch: fact.epoch,
                revision: fact.revision,
            },
            org_id: names.text(&fact.org_id),
            network_id: names.text(&fact.network_id),
            network_number: fact.network_number,
            app_id: names.text(&fact.app_id),
            app: names.text(&fact.app),
            instance_id: fact.instance_id.as_str().into(),
            region: names.text(&fact.region),
            state: names.text(&fact.state),
            cordoned: fact.cordoned,
            draining: fact.draining,
            in_dns: fact.in_dns,
            private_ip: parse(&fact.private_ip, "private_ip")?,
            local_ipv4: parse(&fact.local_ipv4, "local_ipv4")?,
            process_group: names.text(&fact.process_group),
            metadata: names.metadata(&fact.metadata),
            services: names.services(&fact.services),
            autostop: fact.autostop,
            min_running: fact.min_running,
            statics: fact.statics.as_ref().map(|told| names.statics(told)),
        })
    }

    pub(crate) fn fact(&self) -> Fact {
        Fact::Machine(Box::new(MachineFact {
            v: facts::VERSION,
            owner: self.key.host.to_string(),
            epoch: self.version.epoch,
            revision: self.version.revision,
            deleted: false,
            org_id: self.org_id.to_string(),
            network_id: self.network_id.to_string(),
            network_number: self.network_number,
            app_id: self.app_id.to_string(),
            app: self.app.to_string(),
            machine_id: self.key.id.to_string(),
            instance_id: self.instance_id.to_string(),
            // Neither edge nor DNS uses it, and a view holds 100,000 machines.
            name: String::new(),
            host_id: self.key.host.to_string(),
            region: self.region.to_string(),
            state: self.state.to_string(),
            cordoned: self.cordoned,
            draining: self.draining,
            in_dns: self.in_dns,
            private_ip: self.private_ip.to_string(),
            local_ipv4: self.local_ipv4.to_string(),
            process_group: self.process_group.to_string(),
            metadata: (*self.metadata).clone(),
            services: self.services.to_vec(),
            autostop: self.autostop,
            min_running: self.min_running,
            statics: self.statics.as_deref().cloned(),
        }))
    }

    /// Whether its process runs.
    pub fn is_started(&self) -> bool {
        &*self.state == "started"
    }
}

impl AppRecord {
    pub(crate) fn read(fact: &AppFact, names: &mut Interners) -> Self {
        let lower = fact.hostnames.iter().map(|name| name.to_ascii_lowercase());
        AppRecord {
            name: names.text(&fact.app),
            version: Version {
                epoch: fact.epoch,
                revision: fact.revision,
            },
            org_id: names.text(&fact.org_id),
            org_slug: names.text(&fact.org_slug),
            network_id: names.text(&fact.network_id),
            network_number: fact.network_number,
            app_id: names.text(&fact.app_id),
            hostnames: lower.map(Arc::from).collect(),
            addresses: fact.addresses.iter().flat_map(|a| a.parse()).collect(),
            shared_udp: fact.shared_udp.iter().flat_map(|a| a.parse()).collect(),
            replays_across_networks: fact.replays_across_networks,
        }
    }

    pub(crate) fn fact(&self) -> Fact {
        Fact::App(AppFact {
            v: facts::VERSION,
            owner: crate::subject::CONTROL.to_owned(),
            epoch: self.version.epoch,
            revision: self.version.revision,
            deleted: false,
            org_id: self.org_id.to_string(),
            org_slug: self.org_slug.to_string(),
            network_id: self.network_id.to_string(),
            network_number: self.network_number,
            app_id: self.app_id.to_string(),
            app: self.name.to_string(),
            hostnames: self.hostnames.iter().map(ToString::to_string).collect(),
            addresses: self.addresses.iter().map(ToString::to_string).collect(),
            shared_udp: self.shared_udp.iter().map(ToString::to_string).collect(),
            replays_across_networks: self.replays_across_networks,
        })
    }
}

impl Host {
    pub(crate) fn read(fact: &HostFact, names: &mut Interners) -> Self {
        Host {
            id: names.text(&fact.host_id),
            version: Version {
                epoch: fact.epoch,
                revision: fact.revision,
            },
            region: names.text(&fact.region),
            zone: names.text(&fact.zone),
            backhaul: fact.backhaul.parse().ok(),
        }
    }

    pub(crate) fn fact(&self) -> Fact {
        Fact::Host(HostFact {
            v: facts::VERSION,
            owner: self.id.to_string(),
            epoch: self.version.epoch,
            revision: self.version.revision,
            deleted: false,
            host_id: self.id.to_string(),
            region: self.region.to_string(),
            zone: self.zone.to_string(),
            backhaul: self.backhaul.map_or_else(String::new, |at| at.to_string()),
        })
    }
}

fn parse<T: std::str::FromStr>(text: &str, field: &str) -> Result<T, Unreadable> {
    text.parse()
        .map_err(|_| Unreadable(format!("{field} is {text:?}")))
}
