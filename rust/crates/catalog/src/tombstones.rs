//! Versions of deleted records, so that an older record does not come back to life.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::record::{MachineKey, Version};

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    App(Arc<str>),
    Machine(MachineKey),
    Host(Arc<str>),
}

/// Deleted subjects; the oldest are forgotten above a bound.
///
/// The bus keeps a machine's tombstone for days and every other for ever, longer than its owner
/// may repeat anything older: what is forgotten here can only come back from an owner that
/// contradicts itself. Who was away for longer than the bus remembers learns of the deletion by
/// silence: see `Catalog::bus_settled`.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    versions: HashMap<Key, Version>,
    order: VecDeque<Key>,
}

const BOUND: usize = 65_536;

impl Tombstones {
    pub(crate) fn version(&self, key: &Key) -> Option<Version> {
        self.versions.get(key).copied()
    }

    pub(crate) fn put(&mut self, key: Key, version: Version) {
        if self.versions.insert(key.clone(), version).is_none() {
            self.order.push_back(key);
        }
        while self.versions.len() > BOUND {
            if let Some(oldest) = self.order.pop_front() {
                self.versions.remove(&oldest);
            }
        }
    }

    pub(crate) fn forget(&mut self, key: &Key) {
        if self.versions.remove(key).is_some() {
            self.order.retain(|held| held != key);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.versions.len()
    }
}
