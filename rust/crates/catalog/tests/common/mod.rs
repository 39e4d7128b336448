//! Facts for the tests of this crate.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(
    clippy::unwrap_used,
    reason = "a test ends where its facts cannot be made"
)]

use godwit_catalog::{Catalog, Outcome};
use godwit_wire::facts::{AppFact, Autostop, Fact, HostFact, MachineFact};

pub(crate) const OWN: &str = "aaaaaaaa";
pub(crate) const OTHER: &str = "bbbbbbbb";

pub(crate) fn app(name: &str, network: u32, revision: u64) -> AppFact {
    AppFact {
        v: 1,
        owner: "control".into(),
        epoch: 1,
        revision,
        deleted: false,
        org_id: format!("org_{network}"),
        org_slug: format!("slug-{network}"),
        network_id: format!("net_{network}"),
        network_number: network,
        app_id: format!("app_{name}"),
        app: name.into(),
        hostnames: vec![format!("{name}.godwit.localhost")],
        addresses: Vec::new(),
        shared_udp: Vec::new(),
        replays_across_networks: false,
    }
}

pub(crate) fn machine(
    host: &str,
    id: &str,
    app: &str,
    network: u32,
    revision: u64,
) -> MachineFact {
    MachineFact {
        v: 1,
        owner: host.into(),
        epoch: 1,
        revision,
        deleted: false,
        org_id: format!("org_{network}"),
        network_id: format!("net_{network}"),
        network_number: network,
        app_id: format!("app_{app}"),
        app: app.into(),
        machine_id: id.into(),
        instance_id: format!("01K8RS{revision:020}"),
        name: String::new(),
        host_id: host.into(),
        region: "lcl".into(),
        state: "started".into(),
        cordoned: false,
        draining: false,
        in_dns: true,
        private_ip: format!("fdaa:0:{network:x}:a7b:1:0:5:2"),
        local_ipv4: "172.16.0.5".into(),
        process_group: "app".into(),
        metadata: [].into(),
        services: vec![],
        autostop: Autostop::Off,
        min_running: 0,
        statics: None,
    }
}

pub(crate) fn host(id: &str, revision: u64) -> HostFact {
    HostFact {
        v: 1,
        owner: id.into(),
        epoch: 1,
        revision,
        deleted: false,
        host_id: id.into(),
        region: "lcl".into(),
        zone: "0000".into(),
        backhaul: String::new(),
    }
}

pub(crate) fn from_bus(catalog: &mut Catalog, fact: &Fact) -> Outcome {
    catalog.apply_bus(&fact.subject("lcl"), &serde_json::to_vec(fact).unwrap())
}

/// Take a fact of another region as this region's mirror has it.
pub(crate) fn from_mirror(catalog: &mut Catalog, region: &str, fact: &Fact) -> Outcome {
    let subject = fact.subject(region).replacen("facts", "mirror", 1);
    catalog.apply_bus(&subject, &serde_json::to_vec(fact).unwrap())
}

pub(crate) fn from_agent(catalog: &mut Catalog, fact: MachineFact) -> Outcome {
    catalog.apply_agent(&Fact::Machine(Box::new(fact)))
}

pub(crate) fn machine_fact(fact: MachineFact) -> Fact {
    Fact::Machine(Box::new(fact))
}

/// The records of a view in one order, for comparison.
pub(crate) fn records(catalog: &Catalog) -> Vec<String> {
    let mut lines: Vec<String> = catalog
        .view()
        .facts()
        .map(|fact| serde_json::to_string(&fact).unwrap())
        .collect();
    lines.sort();
    lines
}
