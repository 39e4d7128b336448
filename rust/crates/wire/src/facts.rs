//! The catalog's facts and the agent's local catalog socket: twins of `wire/facts.py`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The record version this release writes; it reads the same and older ones.
pub const VERSION: u32 = 1;

/// The version of the local catalog socket that `Hello` tells; 2 is the first with `Count`.
pub const LOCAL_VERSION: u32 = 2;

/// An app as edges and DNS need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppFact {
    #[serde(default = "one")]
    pub v: u32,
    #[serde(default = "control")]
    pub owner: String,
    pub epoch: u64,
    pub revision: u64,
    #[serde(default)]
    pub deleted: bool,
    pub org_id: String,
    /// What people call the organization; empty where control is of a former release.
    #[serde(default)]
    pub org_slug: String,
    pub network_id: String,
    pub network_number: u32,
    pub app_id: String,
    pub app: String,
    /// Full names the edge answers for, lower case.
    #[serde(default)]
    pub hostnames: Vec<String>,
    /// IP addresses that are this app's alone, on every edge that has them.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// UDP ports that are this app's alone at addresses that apps share, `ip:port`.
    #[serde(default)]
    pub shared_udp: Vec<String>,
    /// It may replay requests to apps of its organization's other networks.
    #[serde(default)]
    pub replays_across_networks: bool,
}

/// A machine as edges, DNS and control's view need it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a sentence of its own"
)]
pub struct MachineFact {
    #[serde(default = "one")]
    pub v: u32,
    pub owner: String,
    pub epoch: u64,
    pub revision: u64,
    #[serde(default)]
    pub deleted: bool,
    pub org_id: String,
    pub network_id: String,
    pub network_number: u32,
    pub app_id: String,
    pub app: String,
    pub machine_id: String,
    pub instance_id: String,
    pub name: String,
    pub host_id: String,
    pub region: String,
    pub state: String,
    /// Takes no traffic from the edge.
    #[serde(default)]
    pub cordoned: bool,
    /// It takes none for a moment only: what it has in flight ends, then it is replaced.
    #[serde(default)]
    pub draining: bool,
    /// False with `dns.skip_registration`.
    #[serde(default = "yes")]
    pub in_dns: bool,
    /// Its 6PN address.
    pub private_ip: String,
    /// On which its own host reaches it; means nothing elsewhere.
    pub local_ipv4: String,
    #[serde(default = "app_group")]
    pub process_group: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub services: Vec<Service>,
    /// What is done with it when there are more than the load needs.
    #[serde(default)]
    pub autostop: Autostop,
    /// So many of its group are left running in its region whatever the load.
    #[serde(default)]
    pub min_running: u32,
    /// Which requests its own file server may have a file for.
    #[serde(default)]
    pub statics: Option<Statics>,
}

/// The file server in a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Statics {
    /// Where it listens, at the machine's local IPv4.
    pub port: u16,
    /// Paths of requests below these are asked of it first.
    pub prefixes: Vec<String>,
}

/// A host: where it is and where its edge takes backhaul.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFact {
    #[serde(default = "one")]
    pub v: u32,
    pub owner: String,
    pub epoch: u64,
    pub revision: u64,
    #[serde(default)]
    pub deleted: bool,
    pub host_id: String,
    pub region: String,
    pub zone: String,
    /// `address:port` on the mesh; empty when its edge takes none.
    #[serde(default)]
    pub backhaul: String,
}

/// What control says of a server of the cluster, as far as readers of machines need it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Membership {
    pub owner: String,
    pub host_id: String,
    pub state: MemberState,
    #[serde(default)]
    pub host_number: u32,
    /// Where other hosts reach what runs there, by role.
    #[serde(default)]
    pub services: BTreeMap<String, String>,
}

/// What may be done with a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It has no rights any more, and whatever it said is void.
    Removed,
    /// It belongs; only those who place machines ask for more.
    #[serde(other)]
    Belongs,
}

/// One service of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    #[serde(default)]
    pub protocol: Protocol,
    pub internal_port: u16,
    #[serde(default)]
    pub ports: Vec<ServicePort>,
    /// Whether its service checks let traffic through (true when it has none).
    #[serde(default = "yes")]
    pub passing: bool,
    /// Whether the edge may start the machine for a request.
    #[serde(default = "yes")]
    pub autostart: bool,
    #[serde(default)]
    pub concurrency: Concurrency,
    /// Load from which others are preferred.
    #[serde(default = "twenty")]
    pub soft_limit: u32,
    /// Load at which nothing more is sent.
    #[serde(default)]
    pub hard_limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autostop {
    #[default]
    Off,
    Stop,
    Suspend,
}

/// An external port, or an inclusive range of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    pub start_port: u16,
    pub end_port: u16,
    #[serde(default)]
    pub handlers: Vec<String>,
    #[serde(default)]
    pub force_https: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_options: Option<Box<TlsOptions>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_options: Option<Box<HttpOptions>>,
    /// Of the PROXY header that the handler `proxy_proto` writes.
    #[serde(default)]
    pub proxy_version: ProxyVersion,
}

/// How the edge speaks TLS at a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TlsOptions {
    /// Protocols it agrees to; empty for those of the handlers.
    pub alpn: Vec<String>,
    /// Empty for all.
    pub versions: Vec<TlsVersion>,
    /// Whether a client that names no host of the app's is shown a certificate that nobody
    /// vouches for, instead of being refused.
    pub default_self_signed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    #[serde(rename = "TLSv1.2")]
    V12,
    #[serde(rename = "TLSv1.3")]
    V13,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyVersion {
    #[default]
    V1,
    V2,
}

/// How the edge speaks HTTP at a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpOptions {
    /// Whether responses are compressed; `None` where the config says nothing.
    pub compress: Option<bool>,
    /// The app speaks HTTP/2 without TLS.
    pub h2_backend: bool,
    /// Seconds that a connection to the app may be idle.
    pub idle_timeout: Option<u32>,
    /// Seconds that a client may take for a request's head.
    pub headers_read_timeout: Option<u32>,
    /// The edge adds no headers of its own to responses.
    pub pristine: bool,
    /// Headers that are taken from responses.
    pub remove: Vec<String>,
    /// Headers that are added to responses, name and value.
    pub add: Vec<(String, String)>,
    pub replay_cache: Vec<ReplayCache>,
}

/// For which requests the edge remembers where they were replayed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReplayCache {
    pub path_prefix: String,
    pub ttl_seconds: u32,
    /// What tells clients apart.
    #[serde(rename = "type")]
    pub by: ReplayCacheBy,
    /// Of that cookie or header.
    pub name: String,
    /// Whether a client may ask for the app itself.
    #[serde(default)]
    pub allow_bypass: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayCacheBy {
    Cookie,
    Header,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

/// What counts as load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Concurrency {
    #[default]
    Connections,
    Requests,
}

/// Any fact, told apart by `kind`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    App(AppFact),
    Machine(Box<MachineFact>),
    Host(HostFact),
}

impl Fact {
    /// The subject this fact is published under.
    pub fn subject(&self, region: &str) -> String {
        match self {
            Fact::App(f) => format!("facts.{region}.app.{}.{}", f.owner, f.app),
            Fact::Machine(f) => format!("facts.{region}.machine.{}.{}", f.owner, f.machine_id),
            Fact::Host(f) => format!("facts.{region}.host.{}.{}", f.owner, f.host_id),
        }
    }
}

/// A line from the agent on its local catalog socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LocalFrame {
    /// A fact of this host.
    Fact { fact: Fact },
    /// Every fact the agent owns has been sent once.
    Synced {},
    /// The machine of this request is started.
    Woken { id: u64 },
    /// Tell what this machine has in flight, once every fact before this line is acted upon;
    /// asked only of who said `Hello`.
    Count { id: u64, machine_id: String },
    /// How far other hosts and regions are, round trips in microseconds; the newest word counts.
    Distances {
        #[serde(default)]
        hosts: BTreeMap<String, u32>,
        #[serde(default)]
        regions: BTreeMap<String, u32>,
    },
    /// The machine of this request cannot be started.
    Error {
        #[serde(default)]
        id: Option<u64>,
        #[serde(default)]
        message: Option<String>,
    },
}

/// A line to the agent on its local catalog socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum LocalRequest {
    /// Start this machine; answered by `Woken` or `Error` with the same id.
    Wake { id: u64, machine_id: String },
    /// This machine is not needed: its requests end, then it rests. Not answered.
    Stop { machine_id: String, suspend: bool },
    /// The first line of who answers `Count`; `v` is `LOCAL_VERSION`.
    Hello { v: u32, component: String },
    /// What a machine has in flight here.
    Counted {
        id: u64,
        requests: u32,
        tunnels: u32,
    },
}

fn one() -> u32 {
    1
}

fn yes() -> bool {
    true
}

fn twenty() -> u32 {
    20
}

fn control() -> String {
    "control".to_owned()
}

fn app_group() -> String {
    "app".to_owned()
}
