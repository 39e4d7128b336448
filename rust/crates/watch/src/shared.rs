//! What the following thread and its readers share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use arc_swap::ArcSwap;
use godwit_catalog::View;
use tokio::sync::watch;

use crate::status::Status;
use crate::waker::Waker;

/// How far other hosts and regions are by the agent's word: round trips in microseconds.
#[derive(Debug, Default)]
pub struct Distances {
    pub hosts: BTreeMap<String, u32>,
    pub regions: BTreeMap<String, u32>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) view: ArcSwap<View>,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) status: Status,
    pub(crate) waker: Waker,
    pub(crate) distances: ArcSwap<Distances>,
    /// Which start of the following may publish; the watchdog counts it up.
    incarnation: AtomicU64,
    /// Moves while the owner's loop does.
    pub(crate) beat: AtomicU64,
    pub(crate) stop: watch::Sender<bool>,
    /// True once the following has ended for good.
    pub(crate) ended: watch::Sender<bool>,
}

impl Shared {
    pub(crate) fn new(view: View) -> Self {
        Shared {
            view: ArcSwap::from_pointee(view),
            changes: watch::Sender::new(0),
            status: Status::default(),
            waker: Waker::default(),
            distances: ArcSwap::default(),
            incarnation: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            stop: watch::Sender::new(false),
            ended: watch::Sender::new(false),
        }
    }

    pub(crate) fn next_incarnation(&self) -> u64 {
        self.incarnation.fetch_add(1, Release) + 1
    }

    /// Show a view to readers, unless the watchdog has given this incarnation up.
    pub(crate) fn publish(&self, incarnation: u64, view: View) {
        if self.incarnation.load(Acquire) == incarnation {
            self.view.store(Arc::new(view));
            self.changes.send_modify(|change| *change += 1);
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}
