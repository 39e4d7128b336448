//! One copy of each text, service list, metadata map and the like that many machines share.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use godwit_wire::facts::{Service, Statics};

/// A set of shared values that forgets those nobody else holds.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized + Eq + Hash> {
    held: HashSet<Arc<T>>,
    sweep_at: usize,
}

const FIRST_SWEEP: usize = 1024;

impl<T: ?Sized + Eq + Hash> Default for Interner<T> {
    fn default() -> Self {
        Interner {
            held: HashSet::new(),
            sweep_at: FIRST_SWEEP,
        }
    }
}

impl<T: ?Sized + Eq + Hash> Interner<T> {
    fn share(&mut self, value: &T, own: impl FnOnce(&T) -> Arc<T>) -> Arc<T> {
        if let Some(held) = self.held.get(value) {
            return held.clone();
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.sweep_at = (self.held.len() * 2).max(FIRST_SWEEP);
        }
        let shared = own(value);
        self.held.insert(shared.clone());
        shared
    }
}

/// Everything the catalog shares between records.
#[derive(Debug, Default)]
pub(crate) struct Interners {
    texts: Interner<str>,
    services: Interner<[Service]>,
    metadata: Interner<BTreeMap<String, String>>,
    statics: Interner<Statics>,
}

impl Interners {
    pub(crate) fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.share(text, |text| Arc::from(text))
    }

    pub(crate) fn services(&mut self, services: &[Service]) -> Arc<[Service]> {
        self.services.share(services, |list| Arc::from(list))
    }

    pub(crate) fn statics(&mut self, statics: &Statics) -> Arc<Statics> {
        self.statics.share(statics, |told| Arc::new(told.clone()))
    }

    pub(crate) fn metadata(
        &mut self,
        metadata: &BTreeMap<String, String>,
    ) -> Arc<BTreeMap<String, String>> {
        self.metadata.share(metadata, |map| Arc::new(map.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_allocation() {
        let mut interners = Interners::default();
        let (a, b) = (interners.text("hello"), interners.text("hello"));
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[test]
    fn texts_nobody_holds_are_forgotten() {
        let mut interners = Interners::default();
        let kept = interners.text("kept");
        for i in 0..10 * FIRST_SWEEP {
            interners.text(&format!("passing-{i}"));
        }
        assert!(interners.texts.held.len() <= 2 * FIRST_SWEEP);
        assert!(Arc::ptr_eq(&kept, &interners.text("kept")));
    }
}
