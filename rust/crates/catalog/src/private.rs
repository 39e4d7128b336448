//! Addresses of the private networks (spec/network.md §3.1): `fdaa`, 32 bits of network, 32 of
//! host. Machines are on hosts; what apps are reached at through the edge is on host 1, which no
//! host is.

use std::net::IpAddr;

/// A private network's number: the 32 bits after `fdaa`.
pub type Number = u32;

const PRIVATE: u16 = 0xfdaa;
/// In the place of a host.
const OF_APPS: u32 = 1;

/// The network that an address is in; `None` for one that is in none.
pub fn network(address: IpAddr) -> Option<Number> {
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [prefix, high, low, ..] = address.segments();
    let number = u32::from(high) << 16 | u32::from(low);
    // Number 0 holds the platform's own addresses, `fdaa::3` among them.
    (prefix == PRIVATE && number != 0).then_some(number)
}

/// The network whose machines reach an app at this address, if it is one that apps are given.
pub fn network_of_app(address: IpAddr) -> Option<Number> {
    let number = network(address)?;
    let IpAddr::V6(address) = address else {
        return None;
    };
    let [_, _, _, high, low, ..] = address.segments();
    (u32::from(high) << 16 | u32::from(low) == OF_APPS).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> (Option<Number>, Option<Number>) {
        let address = address.parse().unwrap();
        (network(address), network_of_app(address))
    }

    #[test]
    fn a_private_address_names_its_network() {
        assert_eq!(of("fdaa:0:1:a7b:1:0:5:2"), (Some(1), None));
        assert_eq!(of("fdaa:2:45b:a7b:174:db43:d3c6:2"), (Some(0x2_045b), None));
        assert_eq!(of("fdaa:ffff:ffff::2"), (Some(u32::MAX), None));
    }

    #[test]
    fn an_apps_is_where_no_host_is() {
        assert_eq!(of("fdaa:0:22b7:0:1::3"), (Some(0x22b7), Some(0x22b7)));
        assert_eq!(of("fdaa:0:22b7:1:1::3"), (Some(0x22b7), None));
        assert_eq!(of("fdaa:0:0:0:1::3"), (None, None));
    }

    #[test]
    fn everything_else_is_in_no_network() {
        for address in [
            "::1",
            "127.0.0.1",
            "fdaa::3",
            "fdab:0:1:0:1::2",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(of(address), (None, None), "{address}");
        }
    }
}
