//! Datagrams: UDP services, with the client's address kept: at addresses that are an app's alone,
//! and at ports that are its alone of addresses that apps share.
//!
//! ```text
//! sockets ─ which are open ─ receive: whose flow is it?
//!    known ── flow: its way is known, the datagram goes
//!    new ──── bounds ─ near: a machine, as for a connection (machines/reach)
//!               ├ here:  mouth ── the machine sees the client's own address
//!               └ there: trunk ══ frames to the machine's host's edge ══ trunk ─ far ─ mouth
//! ```
//! A flow is one client's port and one port of an app. It counts as a connection, has one machine
//! for as long as it lives, and ends when nothing was said for a while, or with its machine.

mod bounds;
mod far;
mod flow;
mod frame;
mod mouth;
mod near;
mod receive;
pub(crate) mod sockets;
mod trunk;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use godwit_wire::components::EdgeLimits;

use crate::front::refused::RefusedCounts;
use bounds::Bounds;

pub(crate) use far::answer;
pub(crate) use receive::receive;
pub(crate) use trunk::Lines;

/// What all flows of an edge share.
#[derive(Debug)]
pub(crate) struct Datagrams {
    bounds: Bounds,
    /// Flows that were begun.
    pub(crate) begun: AtomicU64,
    /// Flows that were not, or ended for a reason that is not the client's.
    pub(crate) refused: RefusedCounts,
    /// Datagrams that were not passed on.
    pub(crate) dropped: RefusedCounts,
    pub(crate) open: Mutex<sockets::Report>,
}

impl Datagrams {
    pub(crate) fn new(limits: &EdgeLimits) -> Self {
        Datagrams {
            bounds: Bounds::new(limits),
            begun: AtomicU64::new(0),
            refused: RefusedCounts::default(),
            dropped: RefusedCounts::default(),
            open: Mutex::default(),
        }
    }

    /// How many flows there are.
    pub(crate) fn flows(&self) -> usize {
        self.bounds.flows()
    }
}
