//! The catalog: what edges and DNS know of apps, machines and hosts.
//!
//! Pure: facts go in (`Catalog::apply_*`), immutable views come out (`Catalog::view`). A view is
//! built of persistent maps, so taking one costs a few pointer copies and a change costs a few
//! pages (`pages`) and the depth of a tree, whatever the number of machines. No clock, no socket,
//! no tokio: the tasks that follow the bus and the agent are in `godwit-watch`; `disk` reads and
//! writes one file.
#![forbid(unsafe_code)]

mod catalog;
pub mod disk;
mod intern;
mod nearness;
mod pages;
mod ports;
mod presence;
pub mod private;
mod record;
mod subject;
mod tombstones;
mod view;

pub use catalog::{Catalog, Outcome, Skip, Skips};
pub use nearness::nearness;
pub use ports::{PortRange, ranges_of};
pub use presence::Presence;
pub use record::{AppRecord, Host, Machine, MachineKey, Unreadable, Version};
pub use subject::Book;
pub use view::{App, Counts, Network, View};
