//! How many of something there are at once, by whom they belong to.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Nobody has more than so many at a time.
#[derive(Debug)]
pub(super) struct Crowd<K: Hash + Eq> {
    most: usize,
    held: Arc<Held<K>>,
}

#[derive(Debug)]
struct Held<K>(Mutex<HashMap<K, usize>>);

/// One of them; dropping it makes room.
#[derive(Debug)]
pub(super) struct Place<K: Hash + Eq> {
    whose: K,
    held: Arc<Held<K>>,
}

impl<K: Hash + Eq + Clone> Crowd<K> {
    pub(super) fn of(most: usize) -> Self {
        let held = Arc::new(Held(Mutex::default()));
        Crowd { most, held }
    }

    /// A place for one more, if there is any.
    pub(super) fn enter(&self, whose: &K) -> Option<Place<K>> {
        let mut held = self.held.lock();
        match held.get_mut(whose) {
            Some(count) if *count >= self.most => return None,
            Some(count) => *count += 1,
            None if self.most == 0 => return None,
            None => drop(held.insert(whose.clone(), 1)),
        }
        drop(held);
        Some(Place {
            whose: whose.clone(),
            held: self.held.clone(),
        })
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.held.lock().is_empty()
    }
}

impl<K> Held<K> {
    fn lock(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        match held.get_mut(&self.whose) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.whose)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_what_it_may_and_nothing_is_kept_of_who_left() {
        let crowd = Crowd::of(2);
        let (one, two) = (crowd.enter(&"a").unwrap(), crowd.enter(&"a").unwrap());
        assert!(crowd.enter(&"a").is_none());
        assert!(crowd.enter(&"b").is_some());
        drop(one);
        let three = crowd.enter(&"a").unwrap();
        drop((two, three));
        assert!(crowd.is_empty());
        assert!(Crowd::of(0).enter(&"a").is_none());
    }
}
