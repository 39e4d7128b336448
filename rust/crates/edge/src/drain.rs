//! Ending without failing a request.
//!
//! Serving → lingering: no new connections; every HTTP/1 response says `Connection: close`,
//! HTTP/2 gets GOAWAY → closing: idle connections are closed → over when the last connection
//! and tunnel has ended, or at the deadline.

use tokio::sync::{mpsc, watch};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Lingering,
    Closing,
}

pub(crate) type Phases = watch::Receiver<Phase>;

/// Held by whatever a drain waits for.
pub(crate) type Alive = mpsc::Sender<()>;

/// Becomes ready when nobody holds an `Alive` any more.
#[derive(Debug)]
pub(crate) struct AllGone(mpsc::Receiver<()>);

/// Return when the drain has begun.
pub(crate) async fn begun(phases: &mut Phases) {
    // Its sender lives as long as the process.
    let _ = phases.wait_for(|phase| *phase != Phase::Serving).await;
}

pub(crate) fn alive() -> (Alive, AllGone) {
    let (alive, gone) = mpsc::channel(1);
    (alive, AllGone(gone))
}

impl AllGone {
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent; the channel closes with its last sender.
        while self.0.recv().await.is_some() {}
    }
}
