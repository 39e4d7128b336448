//! Between hosts: requests whose machine lives elsewhere go to that host's edge.
//!
//! ```text
//! near edge                                              far edge (the machine's own host)
//! request/errand ─ peers ══ HTTP/2 on the mesh, a few ══ serve ─ answer ─ request/errand ─ app
//!     ▲              │      connections per host         │
//!     └── standing ◄─┘ round trips, doubts               └ refuses: "take it elsewhere"
//! ```
//! The near edge talks to the client and decides: headers, choice of machine, replays. The far
//! edge alone knows what its machines have to do: it enforces their hard limits, starts them,
//! and never passes anything on to a third host, so nothing goes in circles.

mod answer;
pub(crate) mod bytes;
mod order;
mod peers;
mod probe;
mod serve;
mod standing;

pub(crate) use answer::{find, patience, told};
pub(crate) use order::{Bounce, Carry, ORDER, Order, PREFIX, Reply, Tunnel, Visit, forget};
pub(crate) use peers::{Peers, Stream};
pub(crate) use serve::start;
pub(crate) use standing::{Standing, Standings};
