//! How many TLS handshakes are under way: in all, and from one neighbourhood of addresses.
//!
//! One that is not finished costs memory and a deadline's wait; who opens many gets no more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::refused::Refused;

/// Bits of an address that a source is known by: what one customer of a network commonly has.
const V4_BITS: u32 = 24;
const V6_BITS: u32 = 48;

/// The handshakes of an edge.
#[derive(Debug)]
pub(crate) struct Handshakes {
    most: usize,
    most_of_source: usize,
    under_way: Arc<Mutex<UnderWay>>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// Held until a handshake is over.
#[derive(Debug)]
pub(crate) struct Handshake {
    source: IpAddr,
    under_way: Arc<Mutex<UnderWay>>,
}

impl Handshakes {
    pub(crate) fn new(most: usize, most_of_source: usize) -> Self {
        Handshakes {
            most,
            most_of_source,
            under_way: Arc::default(),
        }
    }

    /// Begin one.
    ///
    /// # Errors
    /// There are too many.
    pub(crate) fn begin(&self, client: IpAddr) -> Result<Handshake, Refused> {
        let source = source(client);
        let mut under_way = lock(&self.under_way);
        let of_source = under_way.by_source.get(&source).copied().unwrap_or(0);
        if under_way.all >= self.most {
            return Err(Refused::TooManyHandshakes);
        }
        if of_source >= self.most_of_source {
            return Err(Refused::TooManyOfSource);
        }
        under_way.all += 1;
        under_way.by_source.insert(source, of_source + 1);
        let under_way = self.under_way.clone();
        Ok(Handshake { source, under_way })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        under_way.all = under_way.all.saturating_sub(1);
        match under_way.by_source.get_mut(&self.source) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(under_way.by_source.remove(&self.source)),
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The neighbourhood of an address.
pub(crate) fn source(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => {
            let mask = u32::MAX << (32 - V4_BITS);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX << (128 - V6_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> IpAddr {
        address.parse().unwrap()
    }

    #[test]
    fn neighbours_share_what_one_source_may_have() {
        let handshakes = Handshakes::new(10, 2);
        let first = handshakes.begin(from("192.0.2.1")).unwrap();
        let _second = handshakes.begin(from("::ffff:192.0.2.200")).unwrap();
        let third = handshakes.begin(from("192.0.2.3"));
        assert_eq!(third.unwrap_err(), Refused::TooManyOfSource);
        assert!(handshakes.begin(from("192.0.3.1")).is_ok());
        drop(first);
        assert!(handshakes.begin(from("192.0.2.3")).is_ok());
    }

    #[test]
    fn all_sources_share_what_there_may_be_and_nothing_is_kept_of_those_that_ended() {
        let handshakes = Handshakes::new(3, 2);
        let held: Vec<_> = (0..3)
            .map(|n| handshakes.begin(from(&format!("2001:db8:{n}::1"))).unwrap())
            .collect();
        let more = handshakes.begin(from("198.51.100.1"));
        assert_eq!(more.unwrap_err(), Refused::TooManyHandshakes);
        drop(held);
        let under_way = lock(&handshakes.under_way);
        assert_eq!((under_way.all, under_way.by_source.len()), (0, 0));
    }
}
