//! How many flows there may be: in all, of an app, and from one neighbourhood of addresses. And
//! how many bytes are held for flows whose machine is not ready yet.
//!
//! A client's address costs nothing to forge, so a flow is nobody's by right: who floods an app
//! takes at most that app's share, which is half of what there is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use godwit_wire::components::EdgeLimits;

use crate::front::handshakes::source;

/// Held for all flows together, and for one.
const MOST_HELD: usize = 8 * 1024 * 1024;
const MOST_HELD_OF_FLOW: usize = 64 * 1024;
const MOST_DATAGRAMS_OF_FLOW: usize = 16;

/// The flows of an edge.
#[derive(Debug)]
pub(super) struct Bounds {
    most: usize,
    most_of_source: usize,
    taken: Arc<Mutex<Taken>>,
    held: Arc<AtomicUsize>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_app: HashMap<Arc<str>, usize>,
    by_source: HashMap<IpAddr, usize>,
}

/// A flow's place; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Place {
    app: Arc<str>,
    source: IpAddr,
    taken: Arc<Mutex<Taken>>,
}

/// Datagrams that wait for a machine.
#[derive(Debug)]
pub(super) struct Held {
    datagrams: Vec<Box<[u8]>>,
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Bounds {
    pub(super) fn new(limits: &EdgeLimits) -> Self {
        Bounds {
            most: limits.flows,
            most_of_source: limits.flows_of_source,
            taken: Arc::default(),
            held: Arc::default(),
        }
    }

    pub(super) fn flows(&self) -> usize {
        lock(&self.taken).all
    }

    /// Take a place.
    ///
    /// # Errors
    /// The reason, in a word, why there is none.
    pub(super) fn place(&self, app: &Arc<str>, client: IpAddr) -> Result<Place, &'static str> {
        let source = source(client);
        let mut taken = lock(&self.taken);
        let of_app = taken.by_app.get(app).copied().unwrap_or(0);
        let of_source = taken.by_source.get(&source).copied().unwrap_or(0);
        if taken.all >= self.most {
            return Err("too_many");
        }
        if of_app >= self.most.div_ceil(2) {
            return Err("too_many_of_app");
        }
        if of_source >= self.most_of_source {
            return Err("too_many_of_source");
        }
        taken.all += 1;
        taken.by_app.insert(app.clone(), of_app + 1);
        taken.by_source.insert(source, of_source + 1);
        Ok(Place {
            app: app.clone(),
            source,
            taken: self.taken.clone(),
        })
    }

    pub(super) fn held(&self) -> Held {
        Held {
            datagrams: Vec::new(),
            bytes: 0,
            all: self.held.clone(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all = taken.all.saturating_sub(1);
        leave(&mut taken.by_app, &self.app);
        leave(&mut taken.by_source, &self.source);
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Held {
    /// Hold a datagram; whether there was room.
    pub(super) fn push(&mut self, datagram: &[u8]) -> bool {
        let room = self.datagrams.len() < MOST_DATAGRAMS_OF_FLOW
            && self.bytes + datagram.len() <= MOST_HELD_OF_FLOW;
        let more = |all: usize| {
            let all = all + datagram.len();
            (all <= MOST_HELD).then_some(all)
        };
        if !room || self.all.fetch_update(Relaxed, Relaxed, more).is_err() {
            return false;
        }
        self.bytes += datagram.len();
        self.datagrams.push(datagram.into());
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.datagrams.iter().map(|datagram| &**datagram)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(flows: usize, flows_of_source: usize) -> Bounds {
        Bounds::new(&EdgeLimits {
            flows,
            flows_of_source,
            ..EdgeLimits::default()
        })
    }

    fn from(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn an_app_has_half_and_a_source_its_share_of_the_places() {
        let (bounds, a, b) = (bounds(4, 1), Arc::from("a"), Arc::from("b"));
        let first = bounds.place(&a, from("192.0.2.1")).unwrap();
        let again = bounds.place(&a, from("192.0.2.9"));
        assert_eq!(again.unwrap_err(), "too_many_of_source");
        let _second = bounds.place(&a, from("2001:db8::1")).unwrap();
        let third = bounds.place(&a, from("2001:db8:9::1"));
        assert_eq!(third.unwrap_err(), "too_many_of_app");
        let others: Vec<_> = (1..=2)
            .map(|n| bounds.place(&b, from(&format!("198.51.{n}.1"))).unwrap())
            .collect();
        let more = bounds.place(&Arc::from("c"), from("203.0.113.1"));
        assert_eq!(more.unwrap_err(), "too_many");
        drop((first, others));
        assert!(bounds.place(&a, from("192.0.2.9")).is_ok());
        assert_eq!(bounds.flows(), 1);
        let taken = lock(&bounds.taken);
        assert_eq!((taken.by_app.len(), taken.by_source.len()), (1, 1));
    }

    #[test]
    fn what_is_held_is_bounded_for_each_flow_and_for_all() {
        let bounds = bounds(10, 10);
        let mut one = bounds.held();
        for _ in 0..MOST_DATAGRAMS_OF_FLOW {
            assert!(one.push(&[0; 100]));
        }
        assert!(!one.push(&[0; 1]));
        let piece = vec![0; MOST_HELD_OF_FLOW / 2];
        let mut all: Vec<Held> = Vec::new();
        loop {
            let mut held = bounds.held();
            if !(held.push(&piece) && held.push(&piece)) {
                break;
            }
            assert!(!held.push(&[0; 1]), "more than a flow's");
            all.push(held);
        }
        assert!(bounds.held.load(Relaxed) <= MOST_HELD);
        drop((one, all));
        assert_eq!(bounds.held.load(Relaxed), 0);
    }
}
