//! Which external TCP ports services claim: counted as machines come and go, so that an edge
//! knows what to listen on without looking at every machine.

use godwit_wire::facts::{Protocol, Service};
use imbl::OrdMap;

/// An external port or an inclusive range of them, as services claim it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    pub start: u16,
    pub end: u16,
    /// What a client says there names its app (HTTP, TLS): apps can share an address.
    pub named: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Ports {
    claims: OrdMap<PortRange, u32>,
}

impl Ports {
    pub(crate) fn ranges(&self) -> impl Iterator<Item = PortRange> + '_ {
        self.claims.keys().copied()
    }

    pub(crate) fn enter(&mut self, services: &[Service]) {
        for range in ranges_of(services) {
            *self.claims.entry(range).or_insert(0) += 1;
        }
    }

    pub(crate) fn leave(&mut self, services: &[Service]) {
        for range in ranges_of(services) {
            match self.claims.get_mut(&range) {
                Some(count) if *count > 1 => *count -= 1,
                _ => drop(self.claims.remove(&range)),
            }
        }
    }
}

/// What services claim of external TCP ports.
pub fn ranges_of(services: &[Service]) -> impl Iterator<Item = PortRange> + '_ {
    let tcp = |service: &&Service| service.protocol == Protocol::Tcp;
    let ports = services.iter().filter(tcp).flat_map(|s| &s.ports);
    ports.map(|port| PortRange {
        start: port.start_port,
        end: port.end_port,
        named: port.handlers.iter().any(|h| NAMING.contains(&h.as_str())),
    })
}

const NAMING: [&str; 3] = ["http", "tls", "pg_tls"];
