//! What goes on on a connection's streams: whether any is open, and when one last heard something.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use tokio::time::Instant;

/// Of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    since: Instant,
    open: AtomicUsize,
    /// When a stream was begun or heard something, in ms since the connection was made.
    heard: AtomicU64,
}

/// A stream that is open, for as long as somebody holds this.
#[derive(Debug)]
pub(super) struct Open(Arc<Activity>);

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Activity {
            since: Instant::now(),
            open: AtomicUsize::new(0),
            heard: AtomicU64::new(0),
        })
    }

    /// Begin a stream, or hold one that is begun once more.
    pub(super) fn open(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Relaxed);
        let open = Open(self.clone());
        open.heard();
        open
    }

    /// How many are open.
    pub(super) fn streams(&self) -> usize {
        self.open.load(Relaxed)
    }

    /// Since when nothing was heard; `None` while no stream is open.
    pub(super) fn quiet_since(&self) -> Option<Instant> {
        let heard = Duration::from_millis(self.heard.load(Relaxed));
        (self.open.load(Relaxed) > 0).then(|| self.since + heard)
    }
}

impl Open {
    /// Something came on it.
    pub(super) fn heard(&self) {
        let now = self.0.since.elapsed().as_millis();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        self.0.heard.store(now, Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
