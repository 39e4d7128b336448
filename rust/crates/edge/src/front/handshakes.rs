//! How many TLS handshakes are under way: in all, and from one neighbourhood of addresses.
//!
//! One that is not finished costs memory and a deadline's wait; who opens many gets no more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::crowd::{Crowd, Place};
use super::refused::Refused;

/// Bits of an address that a source is known by: what one customer of a network commonly has.
const V4_BITS: u32 = 24;
const V6_BITS: u32 = 48;

/// The handshakes of an edge.
#[derive(Debug)]
pub(crate) struct Handshakes {
    all: Crowd<()>,
    of_source: Crowd<IpAddr>,
    of_app: Crowd<Arc<str>>,
}

/// Held until a handshake is over.
#[derive(Debug)]
pub(super) struct Handshake {
    _of_all: Place<()>,
    _of_source: Place<IpAddr>,
}

impl Handshakes {
    pub(super) fn new(most: usize, most_of_source: usize, most_of_app: usize) -> Self {
        Handshakes {
            all: Crowd::of(most),
            of_source: Crowd::of(most_of_source),
            of_app: Crowd::of(most_of_app),
        }
    }

    /// Begin one.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn begin(&self, client: IpAddr) -> Result<Handshake, Refused> {
        let of_all = self.all.enter(&()).ok_or(Refused::TooManyHandshakes)?;
        let of_source = self.of_source.enter(&source(client));
        Ok(Handshake {
            _of_all: of_all,
            _of_source: of_source.ok_or(Refused::TooManyOfSource)?,
        })
    }

    /// One that was begun turns out to be for an app: held as well.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn to(&self, app: &Arc<str>) -> Result<Place<Arc<str>>, Refused> {
        self.of_app.enter(app).ok_or(Refused::TooManyOfApp)
    }
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
        let handshakes = Handshakes::new(10, 2, 1);
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
        let handshakes = Handshakes::new(3, 2, 1);
        let held: Vec<_> = (0..3)
            .map(|n| handshakes.begin(from(&format!("2001:db8:{n}::1"))).unwrap())
            .collect();
        let more = handshakes.begin(from("198.51.100.1"));
        assert_eq!(more.unwrap_err(), Refused::TooManyHandshakes);
        drop(held);
        assert!(handshakes.all.is_empty() && handshakes.of_source.is_empty());
    }

    #[test]
    fn an_app_has_no_more_than_its_part() {
        let (one, other) = (Arc::from("one"), Arc::from("other"));
        let handshakes = Handshakes::new(10, 10, 1);
        let _held = handshakes.to(&one).unwrap();
        assert_eq!(handshakes.to(&one).unwrap_err(), Refused::TooManyOfApp);
        assert!(handshakes.to(&other).is_ok());
    }
}
