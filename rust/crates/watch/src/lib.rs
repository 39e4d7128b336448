//! Following the catalog: from the agent's socket, from the bus, from the last view on disk.
//!
//! `start` returns at once with what the disk holds; agent and bus may both be gone. One thread
//! with its own runtime follows them, so a burst of facts never holds up a request or a query.
//!
//! ```text
//! agent socket ─ agent.rs ─┐
//!                          ├─ events ─ owner.rs (owns the Catalog) ─ shared.rs ─ readers
//! bus stream ──── bus.rs ──┘                       └─ view file, debounced
//! watchdog.rs starts all of it again when it ends or does not move
//! ```
#![forbid(unsafe_code)]

mod agent;
mod backoff;
mod bus;
mod event;
mod flights;
mod owner;
mod shared;
mod status;
mod waker;
mod watchdog;

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::Guard;
use godwit_catalog::{Catalog, View, disk};
use godwit_wire::components::BusClient;
use tokio::sync::watch;

pub use flights::{Flights, InFlight};
pub use status::Report;
pub use waker::{WakeError, Waker};

pub use shared::Distances;
use shared::Shared;

/// Where the catalog comes from, and whose it is.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What the bus sees this process as: `edge` or `dns`.
    pub component: &'static str,
    pub host_id: String,
    pub region: String,
    pub agent_socket: PathBuf,
    pub bus: BusClient,
    pub view_file: PathBuf,
    /// Told to the agent when it asks; `None` for who sends nothing to machines.
    pub flights: Option<Arc<dyn Flights>>,
}

/// The catalog as it is now, kept up to date in the background.
#[derive(Clone, Debug)]
pub struct Watch {
    shared: Arc<Shared>,
}

/// Load the last view and begin to follow agent and bus.
pub fn start(sources: Sources) -> Watch {
    let mut catalog = Catalog::new(&sources.host_id, &sources.region);
    match disk::load(&sources.view_file, &mut catalog) {
        Ok(Some(loaded)) => log::info!(
            "start from {} facts of {}, {} skipped",
            loaded.facts,
            sources.view_file.display(),
            loaded.skipped
        ),
        Ok(None) => log::info!("start with nothing: no {}", sources.view_file.display()),
        // A bad file must not keep an edge down: agent and bus fill the view.
        Err(error) => log::error!(
            "start with nothing: {}: {error}",
            sources.view_file.display()
        ),
    }
    let shared = Arc::new(Shared::new(catalog.view().clone()));
    watchdog::start(Arc::new(sources), shared.clone(), catalog);
    Watch { shared }
}

impl Watch {
    /// The view of this moment, for as long as a decision takes.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.shared.view.load()
    }

    /// A receiver that is told of every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// How far others are, as far as the agent has said so.
    pub fn distances(&self) -> Guard<Arc<Distances>> {
        self.shared.distances.load()
    }

    /// Asks this host's agent to start machines.
    pub fn waker(&self) -> Waker {
        self.shared.waker.clone()
    }

    /// How the following goes.
    pub fn report(&self) -> Report {
        self.shared.status.report(&self.shared.view.load())
    }

    /// Keep the view on disk and end; bounded to a few seconds.
    pub fn stop(&self) {
        watchdog::stop(&self.shared);
    }
}
