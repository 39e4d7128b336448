//! An immutable picture of the catalog, with the indexes that edge and DNS ask.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use godwit_wire::facts::Fact;
use imbl::OrdMap;

use crate::pages::Pages;
use crate::ports::{PortRange, Ports};
use crate::presence::{self, Presence};
use crate::record::{AppRecord, Host, Machine, MachineKey};

/// A picture of the catalog at one moment. Cloning costs a few pointers.
#[derive(Clone, Debug, Default)]
pub struct View {
    machines: OrdMap<MachineKey, Arc<Machine>>,
    /// Machines of this host by their private address; several only where something is wrong.
    own: Pages<Ipv6Addr, Vec<Arc<Machine>>>,
    apps: Pages<Arc<str>, Arc<App>>,
    hostnames: Pages<Arc<str>, Claim>,
    addresses: Pages<IpAddr, Claim>,
    shared_udp: Pages<SocketAddr, Claim>,
    hosts: Pages<Arc<str>, Arc<Host>>,
    /// Counts changes of `hosts`.
    hosts_change: u64,
    networks: Pages<u32, Arc<Network>>,
    ports: Ports,
    controls: Arc<Vec<Control>>,
}

/// Where control answers on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Control {
    host_number: u32,
    host: Arc<str>,
    address: SocketAddr,
}

/// An app: what control says of it, and its machines.
#[derive(Clone, Debug)]
pub struct App {
    pub name: Arc<str>,
    /// `None` while only its machines are known, as on a host cut off from the bus.
    pub record: Option<Arc<AppRecord>>,
    /// Machines of this host, ordered by id.
    pub local: Vec<Arc<Machine>>,
    /// All its machines, ordered by key. A plain list: most apps have a handful, for which a
    /// tree's first node would cost more than all they hold.
    pub machines: Vec<Arc<Machine>>,
    /// Where they are: the first of the two levels, by which a region is chosen.
    pub presence: Vec<Presence>,
}

/// The apps of a private network by name, with the number of records that put each there.
#[derive(Clone, Debug, Default)]
pub struct Network {
    apps: Vec<(Arc<str>, u32)>,
}

/// Sizes of a view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub apps: usize,
    pub machines: usize,
    pub hosts: usize,
    pub hostnames: usize,
    pub networks: usize,
}

/// The apps that claim a host name; more than one only while it moves.
///
/// A pointer, the same for all that one app alone claims: a table has several times as many slots
/// as names, and each is as wide as this.
#[derive(Clone, Debug)]
struct Claim(Arc<Claimants>);

#[derive(Debug)]
enum Claimants {
    One(Arc<str>),
    Many(Box<[Arc<str>]>),
}

impl View {
    /// The app of this name.
    pub fn app(&self, name: &str) -> Option<&Arc<App>> {
        self.apps.get(name)
    }

    /// Every app.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.values()
    }

    /// The app that a full, lower-case host name leads to.
    pub fn app_of_hostname(&self, hostname: &str) -> Option<&Arc<App>> {
        self.claimant(self.hostnames.get(hostname)?)
    }

    /// The app that an address belongs to.
    pub fn app_of_address(&self, address: IpAddr) -> Option<&Arc<App>> {
        self.claimant(self.addresses.get(&address)?)
    }

    /// Every address that is an app's alone, and that app.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, &Arc<App>)> {
        self.addresses
            .iter()
            .filter_map(|(address, claim)| Some((*address, self.claimant(claim)?)))
    }

    /// The app whose datagrams arrive at an address and port: its own address, or its port at
    /// one that apps share.
    pub fn app_of_datagrams(&self, at: SocketAddr) -> Option<&Arc<App>> {
        self.app_of_address(at.ip())
            .or_else(|| self.claimant(self.shared_udp.get(&at)?))
    }

    /// Every UDP port that is one app's at an address that apps share.
    pub fn shared_udp(&self) -> impl Iterator<Item = SocketAddr> {
        self.shared_udp.keys().copied()
    }

    /// The external TCP ports that services claim.
    pub fn port_ranges(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.ports.ranges()
    }

    fn claimant(&self, claim: &Claim) -> Option<&Arc<App>> {
        match &*claim.0 {
            Claimants::One(app) => self.apps.get(app),
            Claimants::Many(apps) => apps
                .iter()
                .filter_map(|name| self.apps.get(name))
                .max_by_key(|app| app.record.as_ref().map(|r| (r.version, r.name.clone()))),
        }
    }

    /// The machine of this id; the newest instance while it moves between hosts.
    pub fn machine(&self, id: &str) -> Option<&Arc<Machine>> {
        let first = MachineKey {
            id: Arc::from(id),
            host: Arc::from(""),
        };
        newest(self.machines.range(first..).map(|(_, machine)| machine), id)
    }

    /// The machine of this host that has a private address; `None` also where two claim it.
    pub fn own_machine(&self, address: Ipv6Addr) -> Option<&Arc<Machine>> {
        match self.own.get(&address)?.as_slice() {
            [machine] => Some(machine),
            _ => None,
        }
    }

    /// The record of a machine as one host tells it.
    pub fn machine_record(&self, key: &MachineKey) -> Option<&Arc<Machine>> {
        self.machines.get(key)
    }

    /// A host.
    pub fn host(&self, id: &str) -> Option<&Arc<Host>> {
        self.hosts.get(id)
    }

    /// Differs from what it was once a host has come, changed or gone.
    pub fn hosts_change(&self) -> u64 {
        self.hosts_change
    }

    /// Every host.
    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.hosts.values()
    }

    /// Where control answers, the oldest host first: it has the registry.
    pub fn controls(&self) -> impl Iterator<Item = SocketAddr> {
        self.controls.iter().map(|control| control.address)
    }

    /// Note where control answers on a host, or that it does not; whether that is anything new.
    pub(crate) fn set_control(&mut self, host: &Arc<str>, at: Option<(u32, SocketAddr)>) -> bool {
        let others = self.controls.iter().filter(|control| control.host != *host);
        let mut controls: Vec<Control> = others.cloned().collect();
        controls.extend(at.map(|(host_number, address)| Control {
            host_number,
            host: host.clone(),
            address,
        }));
        controls.sort_by(|a, b| (a.host_number, &a.host).cmp(&(b.host_number, &b.host)));
        let changed = controls != *self.controls;
        if changed {
            self.controls = Arc::new(controls);
        }
        changed
    }

    /// A private network, if anything is in it.
    pub fn network(&self, number: u32) -> Option<&Arc<Network>> {
        self.networks.get(&number)
    }

    /// Whose a private network is, `(org_id, network_id)`, if anything is in it.
    pub fn tenant(&self, number: u32) -> Option<(Arc<str>, Arc<str>)> {
        let (name, _) = self.networks.get(&number)?.apps.first()?;
        let app = self.apps.get(name)?;
        let record = app
            .record
            .iter()
            .map(|r| (r.network_number, &r.org_id, &r.network_id));
        let machines = app.machines.iter();
        record
            .chain(machines.map(|m| (m.network_number, &m.org_id, &m.network_id)))
            .find(|(of, _, _)| *of == number)
            .map(|(_, org_id, network_id)| (org_id.clone(), network_id.clone()))
    }

    /// How much is known.
    pub fn counts(&self) -> Counts {
        Counts {
            apps: self.apps.len(),
            machines: self.machines.len(),
            hosts: self.hosts.len(),
            hostnames: self.hostnames.len(),
            networks: self.networks.len(),
        }
    }

    /// Every record as a fact, hosts and apps before machines.
    pub fn facts(&self) -> impl Iterator<Item = Fact> + '_ {
        let hosts = self.hosts.values().map(|host| host.fact());
        let apps = self
            .apps
            .values()
            .filter_map(|app| Some(app.record.as_ref()?.fact()));
        hosts
            .chain(apps)
            .chain(self.machines.values().map(|machine| machine.fact()))
    }

    pub(crate) fn put_machine(&mut self, machine: Arc<Machine>, own_host: &str) {
        self.take_machine(&machine.key);
        self.machines.insert(machine.key.clone(), machine.clone());
        self.enter_network(machine.network_number, &machine.app);
        self.ports.enter(&machine.services);
        let app = self.app_entry(&machine.app);
        if &*machine.key.host == own_host {
            insert(&mut app.local, machine.clone());
            let at = self.own.get_or_insert_with(machine.private_ip, Vec::new);
            at.push(machine.clone());
        }
        let app = self.app_entry(&machine.app);
        presence::enter(&mut app.presence, &machine);
        insert(&mut app.machines, machine);
    }

    pub(crate) fn take_machine(&mut self, key: &MachineKey) -> Option<Arc<Machine>> {
        let machine = self.machines.remove(key)?;
        self.leave_network(machine.network_number, &machine.app);
        self.ports.leave(&machine.services);
        if let Some(app) = self.apps.get_mut(&machine.app) {
            let app = Arc::make_mut(app);
            presence::leave(&mut app.presence, &machine);
            app.machines.retain(|held| held.key != *key);
            app.local.retain(|held| held.key != *key);
        }
        self.drop_app_if_empty(&machine.app);
        self.leave_address(&machine);
        Some(machine)
    }

    pub(crate) fn put_app(&mut self, record: &Arc<AppRecord>) {
        self.take_app(&record.name);
        let own = Claim::of(record.name.clone());
        for hostname in record.hostnames.iter() {
            claim(&mut self.hostnames, hostname, &own, &record.name);
        }
        for address in record.addresses.iter() {
            claim(&mut self.addresses, address, &own, &record.name);
        }
        for at in record.shared_udp.iter() {
            claim(&mut self.shared_udp, at, &own, &record.name);
        }
        self.enter_network(record.network_number, &record.name);
        self.app_entry(&record.name).record = Some(record.clone());
    }

    pub(crate) fn take_app(&mut self, name: &str) -> Option<Arc<AppRecord>> {
        let app = Arc::make_mut(self.apps.get_mut(name)?);
        let record = app.record.take()?;
        for hostname in record.hostnames.iter() {
            unclaim(&mut self.hostnames, hostname, name);
        }
        for address in record.addresses.iter() {
            unclaim(&mut self.addresses, address, name);
        }
        for at in record.shared_udp.iter() {
            unclaim(&mut self.shared_udp, at, name);
        }
        self.leave_network(record.network_number, name);
        self.drop_app_if_empty(name);
        Some(record)
    }

    pub(crate) fn put_host(&mut self, host: Arc<Host>) {
        self.hosts_change += 1;
        self.hosts.insert(host.id.clone(), host);
    }

    pub(crate) fn take_host(&mut self, id: &str) -> Option<Arc<Host>> {
        self.hosts_change += 1;
        self.hosts.remove(id)
    }

    /// Keys of the machines that a host tells of.
    pub(crate) fn keys_of_host(&self, host: &str) -> Vec<MachineKey> {
        self.machines
            .keys()
            .filter(|key| &*key.host == host)
            .cloned()
            .collect()
    }

    fn app_entry(&mut self, name: &Arc<str>) -> &mut App {
        let new = || {
            let name = name.clone();
            Arc::new(App {
                name,
                record: None,
                local: Vec::new(),
                machines: Vec::new(),
                presence: Vec::new(),
            })
        };
        Arc::make_mut(self.apps.get_or_insert_with(name.clone(), new))
    }

    fn drop_app_if_empty(&mut self, name: &str) {
        let empty = |app: &Arc<App>| app.record.is_none() && app.machines.is_empty();
        if self.apps.get(name).is_some_and(empty) {
            self.apps.remove(name);
        }
    }

    fn leave_address(&mut self, machine: &Machine) {
        let Some(at) = self.own.get_mut(&machine.private_ip) else {
            return;
        };
        at.retain(|held| held.key != machine.key);
        if at.is_empty() {
            self.own.remove(&machine.private_ip);
        }
    }

    fn enter_network(&mut self, number: u32, app: &Arc<str>) {
        let network = Arc::make_mut(self.networks.get_or_insert_with(number, Arc::default));
        match network.position(app) {
            Ok(at) => network.apps[at].1 += 1,
            Err(at) => network.apps.insert(at, (app.clone(), 1)),
        }
    }

    fn leave_network(&mut self, number: u32, app: &str) {
        let Some(network) = self.networks.get_mut(&number) else {
            return;
        };
        let network = Arc::make_mut(network);
        if let Ok(at) = network.position(app) {
            network.apps[at].1 -= 1;
            if network.apps[at].1 == 0 {
                network.apps.remove(at);
            }
        }
        if network.apps.is_empty() {
            self.networks.remove(&number);
        }
    }
}

impl App {
    /// The machine of this id.
    pub fn machine(&self, id: &str) -> Option<&Arc<Machine>> {
        let first = self
            .machines
            .partition_point(|machine| &*machine.key.id < id);
        newest(self.machines[first..].iter(), id)
    }

    /// Its id, which no namesake has; an app of which only machines are known has theirs.
    pub fn id(&self) -> Option<&Arc<str>> {
        match &self.record {
            Some(record) => Some(&record.app_id),
            None => self.machines.first().map(|machine| &machine.app_id),
        }
    }

    /// Whether a machine is of the app that now has this name, not of a deleted namesake.
    pub fn is_own(&self, machine: &Machine) -> bool {
        self.record
            .as_ref()
            .is_none_or(|record| record.app_id == machine.app_id)
    }
}

impl Network {
    /// Names of its apps, in order.
    pub fn apps(&self) -> impl Iterator<Item = &Arc<str>> {
        self.apps.iter().map(|(name, _)| name)
    }

    /// Whether an app is in it.
    pub fn has(&self, app: &str) -> bool {
        self.position(app).is_ok()
    }

    fn position(&self, app: &str) -> Result<usize, usize> {
        self.apps.binary_search_by(|(name, _)| (**name).cmp(app))
    }
}

fn insert(machines: &mut Vec<Arc<Machine>>, machine: Arc<Machine>) {
    let at = machines.partition_point(|held| held.key < machine.key);
    machines.insert(at, machine);
}

/// Of the records of one machine, which come first and together, the one that is up or newest.
fn newest<'a>(
    machines: impl Iterator<Item = &'a Arc<Machine>>,
    id: &str,
) -> Option<&'a Arc<Machine>> {
    machines
        .take_while(|machine| &*machine.key.id == id)
        .max_by_key(|machine| (machine.is_started(), machine.instance_id.clone()))
}

/// Have an app claim a key; `own` is the claim of that app alone.
fn claim<K: Clone + Eq + Hash>(
    claims: &mut Pages<K, Claim>,
    key: &K,
    own: &Claim,
    app: &Arc<str>,
) {
    let claim = claims.get(key).map(|held| held.with(app));
    claims.insert(key.clone(), claim.unwrap_or_else(|| own.clone()));
}

fn unclaim<K: Clone + Eq + Hash>(claims: &mut Pages<K, Claim>, key: &K, app: &str) {
    match claims.get(key).and_then(|held| held.without(app)) {
        Some(claim) => claims.insert(key.clone(), claim),
        None => drop(claims.remove(key)),
    }
}

impl Claim {
    fn of(app: Arc<str>) -> Self {
        Claim(Arc::new(Claimants::One(app)))
    }

    fn apps(&self) -> &[Arc<str>] {
        match &*self.0 {
            Claimants::One(app) => std::slice::from_ref(app),
            Claimants::Many(apps) => apps,
        }
    }

    fn with(&self, app: &Arc<str>) -> Self {
        let mut apps = self.others(app);
        apps.push(app.clone());
        Claim::among(apps).unwrap_or_else(|| Claim::of(app.clone()))
    }

    fn without(&self, app: &str) -> Option<Self> {
        Claim::among(self.others(app))
    }

    fn others(&self, app: &str) -> Vec<Arc<str>> {
        let others = self.apps().iter().filter(|held| &***held != app);
        others.cloned().collect()
    }

    fn among(mut apps: Vec<Arc<str>>) -> Option<Self> {
        match apps.len() {
            0 | 1 => apps.pop().map(Claim::of),
            _ => Some(Claim(Arc::new(Claimants::Many(apps.into())))),
        }
    }
}
