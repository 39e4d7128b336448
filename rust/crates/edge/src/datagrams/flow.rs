//! A flow: the way that a client's datagrams go, once it is known, and when it is over.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use godwit_wire::components::EdgeLimits;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Datagrams;
use super::bounds::Held;
use super::mouth::Mouth;
use super::trunk::Line;
use crate::metrics::AppMetrics;

/// Another host's edge that is sent datagrams says something within this, or is asked anew.
const SILENT_AFTER_MS: u64 = 10_000;

#[derive(Debug)]
pub(super) struct Flow {
    way: Mutex<Way>,
    over: watch::Sender<bool>,
    /// When something was last said, either way.
    used_ms: AtomicU64,
    answered: AtomicBool,
    /// Since when the other host's edge owes a sign of life; 0 when it does not.
    unheard_since_ms: AtomicU64,
}

#[derive(Debug)]
enum Way {
    /// A machine is being looked for.
    Sought(Held),
    /// A machine of this host. What was said is kept until it answers: its app may not listen yet.
    Here {
        mouth: Arc<Mouth>,
        kept: Option<Held>,
        metrics: Option<Arc<AppMetrics>>,
    },
    There {
        line: Arc<Line>,
        metrics: Arc<AppMetrics>,
    },
    /// No machine takes it; it is not asked again at once.
    Refused,
    Over,
}

impl Flow {
    pub(super) fn new(held: Held) -> Arc<Self> {
        Arc::new(Flow {
            way: Mutex::new(Way::Sought(held)),
            over: watch::Sender::new(false),
            used_ms: AtomicU64::new(now_ms()),
            answered: AtomicBool::new(false),
            unheard_since_ms: AtomicU64::new(0),
        })
    }

    /// Pass on what the client said; false when the flow is over, and another is to be begun.
    pub(super) fn push(&self, datagram: &[u8], datagrams: &Datagrams) -> bool {
        self.used_ms.store(now_ms(), Relaxed);
        let mut way = self.way();
        let passed = match &mut *way {
            Way::Sought(held) => held.push(datagram).then_some(()).ok_or("held"),
            Way::Here {
                mouth,
                kept,
                metrics,
            } => {
                if let Some(metrics) = metrics {
                    metrics.data_in.fetch_add(datagram.len() as u64, Relaxed);
                }
                if let Some(kept) = kept {
                    // What is not kept is not said again, no more.
                    let _ = kept.push(datagram);
                }
                mouth.say(datagram).then_some(()).ok_or("full")
            }
            Way::There { line, metrics } => {
                if self.is_unheard() {
                    *way = Way::Over;
                    drop(way);
                    datagrams.refused.add("silent_host");
                    self.close();
                    return false;
                }
                metrics.data_in.fetch_add(datagram.len() as u64, Relaxed);
                line.data(datagram).then_some(()).ok_or("full")
            }
            Way::Refused => Err("refused"),
            Way::Over => return false,
        };
        drop(way);
        if let Err(reason) = passed {
            datagrams.dropped.add(reason);
        }
        true
    }

    /// A machine of this host has it from now on.
    pub(super) fn open_here(&self, mouth: &Arc<Mouth>, metrics: Option<&Arc<AppMetrics>>) {
        self.open(|held| {
            for datagram in held.iter() {
                count_in(metrics, datagram);
                // What there is no room for now is said again when nobody listened.
                let _ = mouth.say(datagram);
            }
            Way::Here {
                mouth: mouth.clone(),
                kept: Some(held),
                metrics: metrics.cloned(),
            }
        });
    }

    /// Another host's edge has it from now on.
    pub(super) fn open_there(&self, line: &Arc<Line>, metrics: &Arc<AppMetrics>) {
        self.open(|held| {
            for datagram in held.iter() {
                count_in(Some(metrics), datagram);
                let _ = line.data(datagram);
            }
            Way::There {
                line: line.clone(),
                metrics: metrics.clone(),
            }
        });
    }

    fn open(&self, opened: impl FnOnce(Held) -> Way) {
        let mut way = self.way();
        *way = match std::mem::replace(&mut *way, Way::Over) {
            Way::Sought(held) => opened(held),
            other => other,
        };
    }

    /// Say again what was said so far; false when nothing is kept.
    pub(super) fn say_again(&self) -> bool {
        match &*self.way() {
            Way::Here {
                mouth,
                kept: Some(kept),
                ..
            } => {
                for datagram in kept.iter() {
                    let _ = mouth.say(datagram);
                }
                kept.iter().next().is_some()
            }
            _ => false,
        }
    }

    /// Keep nothing any more: the machine's app listens.
    pub(super) fn forget(&self) {
        if let Way::Here { kept, .. } = &mut *self.way() {
            *kept = None;
        }
    }

    /// The machine has said something.
    pub(super) fn answer(&self) {
        self.used_ms.store(now_ms(), Relaxed);
        self.alive();
        if !self.answered.swap(true, Relaxed) {
            self.forget();
        }
    }

    /// The other host's edge has said that it is there.
    pub(super) fn alive(&self) {
        self.unheard_since_ms.store(0, Relaxed);
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// No machine takes it.
    pub(super) fn refuse(&self) {
        let mut way = self.way();
        if !matches!(*way, Way::Over) {
            *way = Way::Refused;
        }
    }

    pub(super) fn close(&self) {
        *self.way() = Way::Over;
        self.over.send_replace(true);
    }

    /// Return once it is closed.
    pub(super) async fn closed(&self) {
        // The sender is this flow's own.
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Return once nothing was said for as long as is kept for a flow.
    pub(super) async fn idle(&self, limits: &EdgeLimits) {
        loop {
            let patience = if self.is_answered() {
                limits.flow_ms
            } else {
                limits.flow_unanswered_ms
            };
            let unused = now_ms().saturating_sub(self.used_ms.load(Relaxed));
            if unused >= patience {
                return;
            }
            sleep(Duration::from_millis(patience - unused)).await;
        }
    }

    /// Whether the other host's edge should have said something by now.
    fn is_unheard(&self) -> bool {
        let now = now_ms();
        let since = self
            .unheard_since_ms
            .compare_exchange(0, now, Relaxed, Relaxed);
        since.is_err_and(|since| now.saturating_sub(since) > SILENT_AFTER_MS)
    }

    fn way(&self) -> MutexGuard<'_, Way> {
        self.way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_in(metrics: Option<&Arc<AppMetrics>>, datagram: &[u8]) {
    if let Some(metrics) = metrics {
        metrics.data_in.fetch_add(datagram.len() as u64, Relaxed);
    }
}

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Milliseconds of a clock that only goes forward; never 0.
pub(super) fn now_ms() -> u64 {
    u64::try_from(BEGUN.elapsed().as_millis())
        .unwrap_or(u64::MAX)
        .saturating_add(1)
}
