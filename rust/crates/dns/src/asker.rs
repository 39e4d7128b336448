//! Who asks: the source address says, and nothing else does. Its network is what
//! `godwit_catalog::private::network` finds in it.

use std::net::{IpAddr, Ipv6Addr};

/// A machine owns a /112, so that much of an address tells machines apart.
const MACHINE_BITS: u32 = 112;

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
