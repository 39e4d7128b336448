//! Answers of the platform's zones, from a view of the catalog. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use godwit_catalog::private::{self, Number as Network};
use godwit_catalog::{App, Machine, View, nearness};
use godwit_watch::Distances;
use hickory_proto::rr::RecordType;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::names::{Asked, Selector};

/// What a name has of the type that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Addresses(Vec<Ipv6Addr>),
    Text(String),
    /// The name exists, and has nothing of this type.
    NoData,
    NoName,
}

/// Where this server is, to tell near from far.
#[derive(Clone, Debug)]
pub(crate) struct Here {
    pub(crate) host_id: String,
    pub(crate) region: String,
    /// Round trips to other regions, in ms, for those that nobody has measured.
    pub(crate) region_ms: BTreeMap<String, u32>,
}

/// A server and what it has heard of the others' distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standpoint<'a> {
    pub(crate) here: &'a Here,
    pub(crate) distances: &'a Distances,
}

/// Of a region of which nothing is known at all.
const FAR_MS: u32 = 250;

/// More addresses than this do not fit a message of 64 KiB.
const MOST_ADDRESSES: usize = 2_000;
const MOST_TEXT: usize = 60_000;

/// What the asker's network may know of a name.
pub(crate) fn answer(
    view: &View,
    place: Standpoint<'_>,
    network: Network,
    asked: &Asked,
    kind: RecordType,
    random: &mut impl Rng,
) -> Answer {
    match asked {
        Asked::Nothing => Answer::NoName,
        Asked::Apps => text(kind, || apps(view, network)),
        Asked::Instances { all } => text(kind, || instances(view, network, *all)),
        Asked::Between { app: None } => Answer::NoData,
        Asked::Between { app: Some(app) } => {
            app_of(view, network, app).map_or(Answer::NoName, |_| Answer::NoData)
        }
        Asked::Flycast { app } => flycast(view, network, app, kind),
        Asked::Vms { app, all } => of_app(view, network, app, kind, |app| vms(app, network, *all)),
        Asked::Regions { app, all } => {
            of_app(view, network, app, kind, |app| regions(app, network, *all))
        }
        Asked::Machines { app, of } => match app_of(view, network, app) {
            Some(app) => addresses(app, place, network, of, kind, random),
            None => Answer::NoName,
        },
    }
}

/// The app of this name, if it is in the network.
fn app_of<'a>(view: &'a View, network: Network, name: &str) -> Option<&'a Arc<App>> {
    let app = view.app(name)?;
    let says_control = app.record.as_ref().map(|record| record.network_number);
    let says_a_machine = app.machines.first().map(|machine| machine.network_number);
    // Either puts it on the network's list, which is searched only where they say otherwise.
    let known = [says_control, says_a_machine].contains(&Some(network));
    let listed = || view.network(network).is_some_and(|held| held.has(name));
    (known || listed()).then_some(app)
}

fn of_app(
    view: &View,
    network: Network,
    app: &str,
    kind: RecordType,
    said: impl FnOnce(&App) -> String,
) -> Answer {
    app_of(view, network, app).map_or(Answer::NoName, |app| text(kind, || said(app)))
}

fn text(kind: RecordType, said: impl FnOnce() -> String) -> Answer {
    if kind != RecordType::TXT {
        return Answer::NoData;
    }
    match said() {
        text if text.is_empty() => Answer::NoData,
        text => Answer::Text(text),
    }
}

fn addresses(
    app: &App,
    place: Standpoint<'_>,
    network: Network,
    of: &Selector,
    kind: RecordType,
    random: &mut impl Rng,
) -> Answer {
    let named: Vec<&Machine> = selected(app, network, of).collect();
    let always = matches!(of, Selector::All | Selector::Nearest(_));
    if named.is_empty() && !always {
        return Answer::NoName;
    }
    if kind != RecordType::AAAA {
        return Answer::NoData;
    }
    let mut up: Vec<&Machine> = named
        .into_iter()
        .filter(|machine| machine.is_started() && machine.in_dns)
        .collect();
    up.shuffle(random);
    if let Selector::Nearest(count) = of {
        up.sort_by_cached_key(|machine| place.distance(machine));
        up.truncate(*count);
    }
    up.truncate(MOST_ADDRESSES);
    if up.is_empty() {
        return Answer::NoData;
    }
    Answer::Addresses(up.iter().map(|machine| machine.private_ip).collect())
}

/// Where this network's machines reach an app through the edge, whatever state its own are in;
/// the app may be of another network.
fn flycast(view: &View, network: Network, name: &str, kind: RecordType) -> Answer {
    let given: Vec<Ipv6Addr> = view
        .app(name)
        .and_then(|app| app.record.as_ref())
        .into_iter()
        .flat_map(|record| record.addresses.iter())
        .filter(|address| private::network_of_app(**address) == Some(network))
        .filter_map(|address| match address {
            IpAddr::V6(address) => Some(*address),
            IpAddr::V4(_) => None,
        })
        .collect();
    match kind {
        RecordType::AAAA if !given.is_empty() => Answer::Addresses(given),
        _ if !given.is_empty() || app_of(view, network, name).is_some() => Answer::NoData,
        _ => Answer::NoName,
    }
}

/// Machines of the app, in whatever state, that the name is about.
fn selected<'a>(
    app: &'a App,
    network: Network,
    of: &'a Selector<'a>,
) -> impl Iterator<Item = &'a Machine> {
    let by_id = |id: &'a str| app.machine(id).map(AsRef::as_ref).into_iter();
    let (one, many) = match of {
        Selector::Machine(id) => (Some(by_id(id)), None),
        _ => (None, Some(app.machines.iter().map(AsRef::as_ref))),
    };
    let candidates = one.into_iter().flatten().chain(many.into_iter().flatten());
    candidates.filter(move |machine| belongs(app, machine, network) && fits(machine, of))
}

fn fits(machine: &Machine, of: &Selector) -> bool {
    match of {
        Selector::All | Selector::Nearest(_) | Selector::Machine(_) => true,
        Selector::Region(region) => machine.region.eq_ignore_ascii_case(region),
        Selector::Group(group) => machine.process_group.eq_ignore_ascii_case(group),
        Selector::Metadata { key, value } => machine.metadata.iter().any(|(held_key, held)| {
            held_key.eq_ignore_ascii_case(key) && held.eq_ignore_ascii_case(value)
        }),
    }
}

fn belongs(app: &App, machine: &Machine, network: Network) -> bool {
    machine.network_number == network && app.is_own(machine)
}

impl Standpoint<'_> {
    /// Less is nearer: this host, this region, elsewhere; within these by the round trip.
    fn distance(&self, machine: &Machine) -> (u8, u8) {
        let Standpoint { here, distances } = self;
        let host = distances.hosts.get(&*machine.key.host).copied();
        match () {
            () if *machine.key.host == *here.host_id => (0, 0),
            () if *machine.region == *here.region => (1, host.map_or(u8::MAX, nearness)),
            () => {
                let region = || self.region_micros(&machine.region);
                (2, nearness(host.unwrap_or_else(region)))
            }
        }
    }

    fn region_micros(&self, region: &str) -> u32 {
        let assumed = || self.here.region_ms.get(region).copied().unwrap_or(FAR_MS) * 1_000;
        let measured = self.distances.regions.get(region).copied();
        measured.unwrap_or_else(assumed)
    }
}

fn told(app: &App, network: Network, all: bool) -> impl Iterator<Item = &Machine> {
    let machines = app.machines.iter().map(AsRef::as_ref);
    machines.filter(move |machine| belongs(app, machine, network) && (all || machine.is_started()))
}

fn vms(app: &App, network: Network, all: bool) -> String {
    let each = told(app, network, all).map(|m| format!("{} {}", m.key.id, m.region));
    joined(each, ",")
}

fn regions(app: &App, network: Network, all: bool) -> String {
    let regions: BTreeSet<&str> = told(app, network, all).map(|m| &*m.region).collect();
    joined(regions.into_iter().map(str::to_owned), ",")
}

fn apps(view: &View, network: Network) -> String {
    let apps = view
        .network(network)
        .into_iter()
        .flat_map(|network| network.apps());
    joined(apps.map(ToString::to_string), ",")
}

fn instances(view: &View, network: Network, all: bool) -> String {
    let names = view
        .network(network)
        .into_iter()
        .flat_map(|network| network.apps());
    let apps = names.filter_map(|name| view.app(name));
    let machines = apps.flat_map(|app| told(app, network, all));
    let each = machines.map(|m| {
        format!(
            "instance={},app={},ip={},region={}",
            m.key.id, m.app, m.private_ip, m.region
        )
    });
    joined(each, ";")
}

/// As many items as fit a message.
fn joined(items: impl Iterator<Item = String>, separator: &str) -> String {
    let mut text = String::new();
    for item in items {
        if text.len() + item.len() + separator.len() > MOST_TEXT {
            break;
        }
        let separator = if text.is_empty() { "" } else { separator };
        // Writing to a String does not fail.
        let _ = write!(text, "{separator}{item}");
    }
    text
}

#[cfg(test)]
mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::Fact;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::{Value, json};

    use super::*;
    use crate::names::{self, Zone};

    const STARTED: &str = "started";
    const PUBLIC: &str = "2001:db8::7";
    /// Given to an app of network 1: for its own network, for 2, and only for 2.
    const IDLE: &str = "fdaa:0:1:0:1::1";
    const IDLE_TO_OTHERS: &str = "fdaa:0:2:0:1::1";
    const LENT: &str = "fdaa:0:2:0:1::2";

    fn machine(id: &str, app: &str, network: u32, state: &str, change: &Value) -> Fact {
        let mut document = json!({
            "kind": "machine", "owner": "here", "epoch": 1, "revision": 1, "org_id": "org",
            "network_id": "net", "network_number": network, "app_id": format!("app_{app}"),
            "app": app, "machine_id": id, "instance_id": "i", "name": "n", "host_id": "here",
            "region": "lcl", "state": state, "local_ipv4": "172.16.0.5",
            "private_ip": format!("fdaa:0:{network:x}:a7b:1:0:{}:2", &id[1..]),
        });
        for (name, value) in change.as_object().unwrap() {
            document[name] = value.clone();
        }
        serde_json::from_value(document).unwrap()
    }

    fn app(name: &str, network: u32, addresses: &[&str]) -> Fact {
        serde_json::from_value(json!({
            "kind": "app", "epoch": 1, "revision": 1, "org_id": "org", "network_id": "net",
            "network_number": network, "app_id": format!("app_{name}"), "app": name,
            "addresses": addresses,
        }))
        .unwrap()
    }

    fn view() -> View {
        let mut catalog = Catalog::new("here", "lcl");
        let far = json!({"owner": "there", "host_id": "there"});
        let abroad = json!({"owner": "fra1", "host_id": "fra1", "region": "fra"});
        let tagged = json!({"metadata": {"Role": "Primary"}, "process_group": "worker"});
        for fact in [
            app("web", 1, &[]),
            app("idle", 1, &[PUBLIC, IDLE, IDLE_TO_OTHERS]),
            app("lent", 1, &[LENT]),
            machine("m1", "web", 1, STARTED, &tagged),
            machine("m2", "web", 1, STARTED, &far),
            machine("m3", "web", 1, STARTED, &abroad),
            machine(
                "m4",
                "web",
                1,
                "stopped",
                &json!({"metadata": {"Role": "old"}}),
            ),
            machine("m5", "web", 1, STARTED, &json!({"in_dns": false})),
            machine("m6", "theirs", 2, STARTED, &json!({})),
            // Of a deleted app of the same name: not the app's.
            machine("m7", "web", 1, STARTED, &json!({"app_id": "app_before"})),
        ] {
            catalog.apply_kept(&fact);
        }
        catalog.view().clone()
    }

    fn ask(network: u32, name: &str, kind: RecordType) -> Answer {
        let labels: Vec<&str> = name.split('.').collect();
        let asked = names::asked(Zone::of(&labels).unwrap(), &labels);
        let mut random = SmallRng::seed_from_u64(1);
        let (here, distances) = (here(), Distances::default());
        let place = Standpoint {
            here: &here,
            distances: &distances,
        };
        super::answer(&view(), place, network, &asked, kind, &mut random)
    }

    fn here() -> Here {
        Here {
            host_id: "here".into(),
            region: "lcl".into(),
            region_ms: [("fra".to_owned(), 90), ("iad".to_owned(), 20)].into(),
        }
    }

    /// Where machines of these hosts and regions come when what is measured says so.
    fn nearest(machines: &[(&str, &str)], hosts: &[(&str, u32)]) -> Vec<String> {
        let here = here();
        let distances = Distances {
            hosts: hosts
                .iter()
                .map(|(id, us)| ((*id).to_owned(), *us))
                .collect(),
            regions: [("nrt".to_owned(), 150_000)].into(),
        };
        let place = Standpoint {
            here: &here,
            distances: &distances,
        };
        let mut catalog = Catalog::new("here", "lcl");
        catalog.apply_kept(&app("web", 1, &[]));
        for (number, (host, region)) in machines.iter().enumerate() {
            let change = json!({"owner": host, "host_id": host, "region": region});
            let id = format!("m{number}");
            catalog.apply_kept(&machine(&id, "web", 1, STARTED, &change));
        }
        let view = catalog.view().clone();
        let labels = ["top9", "nearest", "of", "web", "internal"];
        let asked = names::asked(Zone::of(&labels).unwrap(), &labels);
        let mut random = SmallRng::seed_from_u64(1);
        let found = super::answer(&view, place, 1, &asked, RecordType::AAAA, &mut random);
        let Answer::Addresses(addresses) = found else {
            panic!("{found:?}")
        };
        let number = |ip: &Ipv6Addr| machines[usize::from(ip.segments()[6])].0.to_owned();
        addresses.iter().map(number).collect()
    }

    /// The machines whose addresses are the answer.
    fn machines(name: &str) -> Vec<String> {
        match ask(1, name, RecordType::AAAA) {
            Answer::Addresses(addresses) => {
                let id = |ip: &Ipv6Addr| format!("m{:x}", ip.segments()[6]);
                addresses.iter().map(id).collect()
            }
            other => panic!("{name}: {other:?}"),
        }
    }

    fn sorted(name: &str) -> Vec<String> {
        let mut machines = machines(name);
        machines.sort();
        machines
    }

    fn text(network: u32, name: &str) -> String {
        match ask(network, name, RecordType::TXT) {
            Answer::Text(text) => text,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn an_apps_name_has_its_started_machines() {
        assert_eq!(sorted("web.internal"), ["m1", "m2", "m3"]);
        assert_eq!(sorted("global.web.internal"), ["m1", "m2", "m3"]);
        assert_eq!(sorted("lcl.web.internal"), ["m1", "m2"]);
        assert_eq!(machines("fra.web.internal"), ["m3"]);
        assert_eq!(machines("m2.vm.web.internal"), ["m2"]);
        assert_eq!(machines("worker.process.web.internal"), ["m1"]);
        assert_eq!(machines("primary.role.kv._metadata.web.internal"), ["m1"]);
    }

    #[test]
    fn the_nearest_come_first() {
        assert_eq!(machines("top1.nearest.of.web.internal"), ["m1"]);
        assert_eq!(machines("top9.nearest.of.web.internal"), ["m1", "m2", "m3"]);
    }

    #[test]
    fn what_is_measured_says_which_hosts_are_near() {
        let machines = [
            ("fra1", "fra"),
            ("iad1", "iad"),
            ("there", "lcl"),
            ("other", "lcl"),
            ("here", "lcl"),
        ];
        let assumed = nearest(&machines, &[("other", 500)]);
        assert_eq!(assumed, ["here", "other", "there", "iad1", "fra1"]);
        let told = [
            ("other", 900),
            ("there", 300),
            ("iad1", 80_000),
            ("fra1", 15_000),
        ];
        let measured = nearest(&machines, &told);
        assert_eq!(measured, ["here", "there", "other", "fra1", "iad1"]);
    }

    #[test]
    fn a_region_is_as_far_as_it_was_measured_else_as_far_as_the_map_says() {
        let machines = [
            ("nrt1", "nrt"),
            ("xyz1", "xyz"),
            ("fra1", "fra"),
            ("iad1", "iad"),
        ];
        assert_eq!(nearest(&machines, &[]), ["iad1", "fra1", "nrt1", "xyz1"]);
    }

    #[test]
    fn a_name_that_exists_without_data_is_told_from_one_that_does_not() {
        for name in [
            "idle.internal",
            "m4.vm.web.internal",
            "old.role.kv._metadata.web.internal",
            "web.flycast",
            "vm.web.internal",
            "internal",
            "vms.web.internal",
            "m5.vm.web.internal",
            "top0.nearest.of.web.internal",
        ] {
            assert_eq!(ask(1, name, RecordType::AAAA), Answer::NoData, "{name}");
        }
        for name in [
            "none.internal",
            "ams.web.internal",
            "m9.vm.web.internal",
            "x.y.z.internal",
            "cron.process.web.internal",
            "none.flycast",
            "vms.none.internal",
            "m7.vm.web.internal",
        ] {
            assert_eq!(ask(1, name, RecordType::AAAA), Answer::NoName, "{name}");
        }
        assert_eq!(ask(1, "web.internal", RecordType::A), Answer::NoData);
        assert_eq!(ask(1, "web.internal", RecordType::TXT), Answer::NoData);
    }

    #[test]
    fn texts_list_what_there_is() {
        assert_eq!(text(1, "vms.web.internal"), "m1 lcl,m2 lcl,m3 fra,m5 lcl");
        assert_eq!(
            text(1, "all.vms.web.internal"),
            "m1 lcl,m2 lcl,m3 fra,m4 lcl,m5 lcl"
        );
        assert_eq!(text(1, "regions.web.internal"), "fra,lcl");
        assert_eq!(text(1, "_apps.internal"), "idle,lent,web");
        let instances = text(2, "_instances.internal");
        assert_eq!(
            instances,
            "instance=m6,app=theirs,ip=fdaa:0:2:a7b:1:0:6:2,region=lcl"
        );
        assert_eq!(text(1, "all._instances.internal").split(';').count(), 5);
    }

    #[test]
    fn no_answer_crosses_to_another_network() {
        for name in [
            "web.internal",
            "m1.vm.web.internal",
            "lcl.web.internal",
            "web.flycast",
            "top3.nearest.of.web.internal",
            "primary.role.kv._metadata.web.internal",
        ] {
            assert_eq!(ask(2, name, RecordType::AAAA), Answer::NoName, "{name}");
        }
        for name in [
            "vms.web.internal",
            "all.vms.web.internal",
            "regions.web.internal",
        ] {
            assert_eq!(ask(2, name, RecordType::TXT), Answer::NoName, "{name}");
        }
        assert_eq!(text(2, "_apps.internal"), "theirs");
        assert_eq!(ask(3, "_apps.internal", RecordType::TXT), Answer::NoData);
    }

    #[test]
    fn a_private_address_is_told_to_its_network_alone() {
        let asked = |network, name| ask(network, name, RecordType::AAAA);
        let is = |address: &str| Answer::Addresses(vec![address.parse().unwrap()]);
        // Whether anything runs or not.
        assert_eq!(asked(1, "idle.flycast"), is(IDLE));
        assert_eq!(asked(2, "idle.flycast"), is(IDLE_TO_OTHERS));
        assert_eq!(asked(3, "idle.flycast"), Answer::NoName);
        assert_eq!(asked(2, "lent.flycast"), is(LENT));
        assert_eq!(asked(1, "lent.flycast"), Answer::NoData);
        assert_eq!(asked(2, "lent.internal"), Answer::NoName);
        assert_eq!(ask(2, "lent.flycast", RecordType::A), Answer::NoData);
    }

    #[test]
    fn a_list_ends_where_a_message_does() {
        let many = (0..10_000).map(|number| format!("item-{number:010}"));
        let text = joined(many, ",");
        assert!(text.len() <= MOST_TEXT && text.len() > MOST_TEXT - 20);
        assert!(text.split(',').all(|item| item.len() == 15));
    }
}
