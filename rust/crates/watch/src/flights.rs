//! What the agent may ask the process about: requests it has at a machine.

use std::fmt::Debug;

/// What a machine has in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight {
    pub requests: u32,
    /// Connections that became something else (WebSocket); they have no end to wait for.
    pub tunnels: u32,
}

/// Whoever sends requests to machines.
pub trait Flights: Debug + Send + Sync {
    /// What a machine has in flight at this moment.
    fn of(&self, machine_id: &str) -> InFlight;
}
