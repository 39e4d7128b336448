//! Who asks: the source address names the network, and nothing else does (spec/network.md §3.1).

use std::net::{IpAddr, Ipv6Addr};

/// A private network's number: the 32 bits after `fdaa`.
pub(crate) type Network = u32;

const PRIVATE: u16 = 0xfdaa;
/// A machine owns a /112, so that much of an address tells machines apart.
const MACHINE_BITS: u32 = 112;

/// The network of a source; `None` for a source that is in none.
pub(crate) fn network(source: IpAddr) -> Option<Network> {
    let IpAddr::V6(source) = source else {
        return None;
    };
    let [prefix, high, low, ..] = source.segments();
    let number = u32::from(high) << 16 | u32::from(low);
    // Number 0 holds the platform's own addresses, `fdaa::3` among them.
    (prefix == PRIVATE && number != 0).then_some(number)
}

/// What tells one machine's queries from another's.
pub(crate) fn machine(source: IpAddr) -> Ipv6Addr {
    let IpAddr::V6(source) = source.to_canonical() else {
        return Ipv6Addr::UNSPECIFIED;
    };
    Ipv6Addr::from_bits(source.to_bits() >> (128 - MACHINE_BITS) << (128 - MACHINE_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(source: &str) -> Option<Network> {
        network(source.parse().unwrap())
    }

    #[test]
    fn a_private_address_names_its_network() {
        assert_eq!(of("fdaa:0:1:a7b:1:0:5:2"), Some(1));
        assert_eq!(of("fdaa:2:45b:a7b:174:db43:d3c6:2"), Some(0x2_045b));
        assert_eq!(of("fdaa:ffff:ffff::2"), Some(u32::MAX));
    }

    #[test]
    fn everybody_else_is_in_no_network() {
        for source in [
            "::1",
            "127.0.0.1",
            "fdaa::3",
            "fdab:0:1::2",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(of(source), None, "{source}");
        }
    }

    #[test]
    fn all_addresses_of_a_machine_are_one() {
        let machine_of = |source: &str| machine(source.parse().unwrap());
        assert_eq!(
            machine_of("fdaa:0:1:a7b:1:0:5:2"),
            machine_of("fdaa:0:1:a7b:1:0:5:ffff")
        );
        assert_ne!(
            machine_of("fdaa:0:1:a7b:1:0:5:2"),
            machine_of("fdaa:0:1:a7b:1:0:6:2")
        );
    }
}
