//! Which addresses are trusted: single ones, and prefixes.

use std::net::IpAddr;
use std::str::FromStr;

/// An address with the number of its bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    address: IpAddr,
    bits: u32,
}

/// Read a list of the configuration.
///
/// # Errors
/// A sentence about the first that is no prefix.
pub(crate) fn all(texts: &[String]) -> Result<Vec<Prefix>, String> {
    texts.iter().map(|text| text.parse()).collect()
}

/// Whether one of them has an address.
pub(crate) fn any_has(prefixes: &[Prefix], address: IpAddr) -> bool {
    prefixes.iter().any(|prefix| prefix.has(address))
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no address and no prefix such as 192.0.2.0/24");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most {
            return Err(wrong());
        }
        Ok(Prefix { address, bits })
    }
}

impl Prefix {
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        let differs =
            |a: u128, b: u128, width: u32| self.bits > 0 && (a ^ b) >> (width - self.bits) != 0;
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                !differs(u128::from(a.to_bits()), u128::from(b.to_bits()), 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => !differs(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(prefix: &str, address: &str) -> bool {
        let prefix: Prefix = prefix.parse().unwrap();
        prefix.has(address.parse().unwrap())
    }

    #[test]
    fn a_prefix_has_the_addresses_that_begin_so() {
        assert!(has("192.0.2.0/24", "192.0.2.255"));
        assert!(has("192.0.2.7", "::ffff:192.0.2.7"));
        assert!(!has("192.0.2.0/24", "192.0.3.0"));
        assert!(has("0.0.0.0/0", "255.1.2.3"));
        assert!(!has("0.0.0.0/0", "2001:db8::1"));
        assert!(has("2001:db8::/32", "2001:db8:ffff::1"));
        assert!(!has("2001:db8::1", "2001:db8::2"));
    }

    #[test]
    fn what_is_no_prefix_is_said() {
        for text in [
            "",
            "a",
            "192.0.2.0/33",
            "192.0.2.0/x",
            "2001:db8::/129",
            "/8",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }
}
