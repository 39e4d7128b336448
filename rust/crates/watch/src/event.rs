//! What the followers tell the catalog's owner.

use async_nats::Subject;
use bytes::Bytes;
use godwit_catalog::Book;
use godwit_wire::facts::Fact;
use tokio::sync::oneshot;

/// One thing that happened outside.
#[derive(Debug)]
pub(crate) enum Event {
    /// The agent's socket was reached; everything it owns follows.
    AgentBegins,
    AgentFact(Box<Fact>),
    /// A line of the agent that is no frame of this release.
    AgentUnreadable,
    AgentSynced,
    /// Tell when readers see everything that came before this.
    Shown(oneshot::Sender<()>),
    /// A watch of a stream of the bus begins with everything that is in it.
    BusBegins(Book),
    /// That watch has told everything, long enough ago for every owner to have spoken.
    BusSettled(Book),
    BusFact {
        subject: Subject,
        payload: Bytes,
    },
}

/// How many events may wait for the owner; beyond it the followers wait.
pub(crate) const CAPACITY: usize = 4096;
