//! What the Rust components are told at start: twins of `wire/components.py`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a component reaches the bus: servers and the file with its nkey seed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusClient {
    pub servers: Vec<String>,
    pub seed_file: PathBuf,
}

/// A socket address, and the external port that apps see it as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Listener {
    pub address: SocketAddr,
    pub port: u16,
}

/// How long the edge waits, in milliseconds, and how much it holds back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeLimits {
    /// For a client to send a request's head, or its first on a connection.
    pub header_ms: u64,
    /// A client's HTTP/2 connection without a request is closed after this.
    pub idle_ms: u64,
    /// For a client to take more of a response; by HTTP/1.1 it may be twice as long.
    pub send_ms: u64,
    /// For one connection attempt to a machine.
    pub connect_ms: u64,
    /// For a started machine to take a connection, over all attempts.
    pub reach_ms: u64,
    /// For a slot when every machine is at its hard limit.
    pub queue_ms: u64,
    /// Requests of one app that may wait for a slot, and as many for a machine.
    pub queue_length: usize,
    /// For a stopped machine to be started for a request, its app's first accept included.
    pub wake_ms: u64,
    /// For the head of a machine's response.
    pub response_ms: u64,
    /// Between two looks for machines that the load does not need.
    pub autostop_ms: u64,
    /// For one connection attempt to another host's edge.
    pub backhaul_connect_ms: u64,
    /// A host that owes an answer and says nothing for so long is held for dead.
    pub backhaul_silence_ms: u64,
    /// For all that precedes a client's first request or byte for the app: PROXY, TLS.
    pub handshake_ms: u64,
    /// TLS handshakes under way at once, all clients together.
    pub handshakes: usize,
    /// Of these from one /24 of IPv4 or /48 of IPv6.
    pub handshakes_of_source: usize,
    /// Of these for one app.
    pub handshakes_of_app: usize,
    /// Connections from one /24 of IPv4 or /48 of IPv6.
    pub connections_of_source: usize,
    /// Connections to one app, where an address of its own or a handshake says that they are.
    pub connections_of_app: usize,
    /// Ports listened on for apps.
    pub ports: usize,
    /// Flows of UDP services at once; an app has half of them at most.
    pub flows: usize,
    /// Of these from one /24 of IPv4 or /48 of IPv6.
    pub flows_of_source: usize,
    /// A flow ends when nothing was said for so long.
    pub flow_ms: u64,
    /// As above, of one that the app has not answered.
    pub flow_unanswered_ms: u64,
    /// Bytes of requests' bodies that are kept until they are answered, all together; what is
    /// beyond is passed on, and cannot be sent again.
    pub kept_body_bytes: usize,
    /// For both sides of a WebSocket to close once the edge has told them to; half of `drain_ms` at
    /// most.
    pub websocket_close_ms: u64,
}

impl Default for EdgeLimits {
    fn default() -> Self {
        EdgeLimits {
            header_ms: 30_000,
            idle_ms: 60_000,
            send_ms: 60_000,
            connect_ms: 2_000,
            reach_ms: 10_000,
            queue_ms: 10_000,
            queue_length: 1_024,
            wake_ms: 60_000,
            response_ms: 600_000,
            autostop_ms: 240_000,
            backhaul_connect_ms: 1_000,
            backhaul_silence_ms: 3_000,
            handshake_ms: 10_000,
            handshakes: 4_096,
            handshakes_of_source: 512,
            handshakes_of_app: 1_024,
            connections_of_source: 16_384,
            connections_of_app: 65_536,
            ports: 1_024,
            flows: 8_192,
            flows_of_source: 512,
            flow_ms: 120_000,
            flow_unanswered_ms: 30_000,
            kept_body_bytes: 256 * 1024 * 1024,
            websocket_close_ms: 1_500,
        }
    }
}

/// `edge.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeConfig {
    #[serde(default = "one")]
    pub v: u32,
    pub host_id: String,
    pub region: String,
    pub apps_domain: String,
    pub listeners: Vec<Listener>,
    /// HTTP for `/ready`, `/metrics` and `/view`.
    pub status_address: SocketAddr,
    /// The agent's local catalog socket.
    pub agent_socket: PathBuf,
    pub bus: BusClient,
    /// Where the last view of the catalog is kept across restarts.
    pub view_file: PathBuf,
    #[serde(default = "ten_seconds")]
    pub drain_ms: u64,
    /// Threads that carry requests; 0 for one per CPU.
    #[serde(default)]
    pub workers: usize,
    /// One line per request on stderr.
    #[serde(default)]
    pub access_log: bool,
    #[serde(default)]
    pub limits: EdgeLimits,
    /// On the mesh, where other hosts' edges are answered; `None` for a host that is alone.
    #[serde(default)]
    pub backhaul: Option<SocketAddr>,
    /// What clients and apps may write for several regions at once.
    #[serde(default)]
    pub region_aliases: BTreeMap<String, Vec<String>>,
    /// How far regions are, there and back, where nothing was measured yet.
    #[serde(default)]
    pub region_ms: BTreeMap<String, u32>,
    /// IP addresses on which every port is listened on that a service of an app names.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Ports that are never listened on for an app, by TCP or UDP.
    #[serde(default)]
    pub reserved_ports: Vec<u16>,
    /// Peers that begin with a PROXY header: addresses, or prefixes such as `192.0.2.0/24`.
    #[serde(default)]
    pub proxies: Vec<String>,
    /// Peers whose X-Forwarded-For and X-Forwarded-Proto are believed, written the same way.
    #[serde(default)]
    pub forwarders: Vec<String>,
    /// Without it no TLS is spoken.
    #[serde(default)]
    pub tls: Option<TlsAuthority>,
    /// Where a successor of this process asks for its listening sockets.
    #[serde(default)]
    pub handover_socket: Option<PathBuf>,
    /// Without it the API is not served here.
    #[serde(default)]
    pub api: Option<Api>,
    /// Where the host's packet policy leads what machines send to private addresses of apps.
    #[serde(default)]
    pub flycast: Option<SocketAddr>,
    /// PEM, PKCS #8: the cluster's Ed25519 key, by which apps are told which machine asks them. It
    /// may come later than this; without it they are told nothing.
    #[serde(default)]
    pub fly_src_key_file: Option<PathBuf>,
}

/// How the platform's API is reached through the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Api {
    /// The host name that leads to it, in lower case.
    pub name: String,
    /// Where control answered when this was written; the catalog tells of others.
    pub servers: Vec<SocketAddr>,
}

/// With what the edge makes certificates for apps' names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsAuthority {
    /// PEM: the edge's own authority first, then whoever vouches for it, without the root.
    pub certificate_file: PathBuf,
    /// PEM, PKCS #8: the key of the first.
    pub key_file: PathBuf,
}

/// `dns.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    #[serde(default = "one")]
    pub v: u32,
    pub host_id: String,
    pub region: String,
    /// Where it answers, UDP and TCP.
    pub addresses: Vec<SocketAddr>,
    /// Resolvers for names outside.
    pub upstreams: Vec<SocketAddr>,
    /// The agent's local catalog socket.
    pub agent_socket: PathBuf,
    pub bus: BusClient,
    /// Where the last view of the catalog is kept across restarts.
    pub view_file: PathBuf,
    /// Round trips to other regions, in ms, until some are measured.
    #[serde(default)]
    pub region_ms: BTreeMap<String, u32>,
}

fn one() -> u32 {
    1
}

fn ten_seconds() -> u64 {
    10_000
}
