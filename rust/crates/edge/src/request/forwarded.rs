//! What a forwarder before this edge says of a request's client: an HTTP proxy, a CDN or a load
//! balancer that the configuration trusts. Pure.
//!
//! Each of a chain appends to `X-Forwarded-For` who asked it, so the list is believed from its
//! end: as far as it is forwarders that speak, and one further. What is left of that is a
//! stranger's word (RFC 7239 §8.1 says the same of `Forwarded`, which is not looked at).

use std::net::IpAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use crate::front::prefix::{Prefix, any_has};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What forwarders say of one request's client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forwarded {
    /// The client's address; `None` where only the connection's is known.
    pub(crate) client_ip: Option<HeaderValue>,
    /// Whether the client speaks TLS to the forwarder; `None` where that is not said.
    pub(crate) secure: Option<bool>,
}

impl Forwarded {
    /// Read the headers of a request that came from one of the forwarders; `None` if they say
    /// nothing.
    pub(crate) fn read(headers: &HeaderMap, forwarders: &[Prefix]) -> Option<Self> {
        let address = client(headers, forwarders);
        let forwarded = Forwarded {
            client_ip: address.and_then(|address| address.to_string().parse().ok()),
            secure: secure(headers),
        };
        (forwarded.client_ip.is_some() || forwarded.secure.is_some()).then_some(forwarded)
    }
}

/// The last address of the list that is no forwarder's. What is no address, as an address with a
/// port, ends the search: then, as at the list's beginning, the forwarder to its right is the
/// client.
fn client(headers: &HeaderMap, forwarders: &[Prefix]) -> Option<IpAddr> {
    let mut found = None;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    for entry in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = address(entry) else {
            break;
        };
        found = Some(address);
        if !any_has(forwarders, address) {
            break;
        }
    }
    found
}

fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(entry).ok()?;
    let address: IpAddr = text.trim_matches([' ', '\t']).parse().ok()?;
    Some(address.to_canonical())
}

/// What the nearest forwarder says, which is the last word if others spoke before.
fn secure(headers: &HeaderMap) -> Option<bool> {
    let line = headers.get_all(FORWARDED_PROTO).iter().next_back()?;
    let scheme = line.as_bytes().rsplit(|byte| *byte == b',').next()?;
    let scheme = scheme.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"https") {
        Some(true)
    } else {
        scheme.eq_ignore_ascii_case(b"http").then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn forwarders() -> Vec<Prefix> {
        ["192.0.2.0/24", "2001:db8:f::/48"]
            .map(|text| text.parse().unwrap())
            .to_vec()
    }

    fn told(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let lines = lines.iter().map(|line| line.parse().unwrap());
        lines.map(|value| (name.clone(), value)).collect()
    }

    fn client_of(lines: &[&str]) -> Option<String> {
        let read = Forwarded::read(&told(&FORWARDED_FOR, lines), &forwarders())?;
        Some(read.client_ip?.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_last_that_is_no_forwarder_is_the_client() {
        for (lines, client) in [
            (&["203.0.113.9"][..], "203.0.113.9"),
            (&["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
            (&["198.51.100.1,203.0.113.9,192.0.2.7"], "203.0.113.9"),
            // Lines are one list.
            (
                &["198.51.100.1", "203.0.113.9, 192.0.2.7", "192.0.2.8"],
                "203.0.113.9",
            ),
            (&["2001:db8::1,\t2001:db8:f::2"], "2001:db8::1"),
            (&["::ffff:203.0.113.9, ::ffff:192.0.2.7"], "203.0.113.9"),
            // Nobody but forwarders: the first of them asks for itself.
            (&["192.0.2.9, 192.0.2.7"], "192.0.2.9"),
        ] {
            assert_eq!(client_of(lines).as_deref(), Some(client), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        for entry in [
            "",
            " ",
            "unknown",
            "_hidden",
            "203.0.113.9:4711",
            "[2001:db8::1]",
            "[2001:db8::1]:80",
            "203.0.113",
            "203.0.113.256",
            "fe80::1%eth0",
            "for=203.0.113.9",
            "\"203.0.113.9\"",
            "203.0.113.9 203.0.113.8",
        ] {
            assert_eq!(client_of(&[entry]), None, "{entry}");
            let line = format!("203.0.113.9, {entry}, 192.0.2.7, 192.0.2.8");
            assert_eq!(client_of(&[&line]).as_deref(), Some("192.0.2.7"), "{entry}");
            let line = format!("{entry}, 203.0.113.9, 192.0.2.8");
            assert_eq!(
                client_of(&[&line]).as_deref(),
                Some("203.0.113.9"),
                "{entry}"
            );
        }
        let mut headers = told(&FORWARDED_FOR, &["203.0.113.9"]);
        headers.append(FORWARDED_FOR, HeaderValue::from_bytes(b"\xff").unwrap());
        assert_eq!(Forwarded::read(&headers, &forwarders()), None);
    }

    #[test]
    fn the_scheme_is_the_nearest_forwarders_last_word() {
        for (lines, secure) in [
            (&["https"][..], Some(true)),
            (&["HTTP"], Some(false)),
            (&["https, http"], Some(false)),
            (&["http", "https"], Some(true)),
            (&["wss"], None),
            (&["https,"], None),
            (&["https http"], None),
            (&[], None),
        ] {
            let read = Forwarded::read(&told(&FORWARDED_PROTO, lines), &forwarders());
            assert_eq!(read.and_then(|read| read.secure), secure, "{lines:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Entry {
        Forwarder(IpAddr),
        Stranger(IpAddr),
        Nonsense(String),
    }

    fn entry() -> impl Strategy<Value = Entry> {
        prop_oneof![
            3 => any::<u8>().prop_map(|low| Entry::Forwarder(Ipv4Addr::new(192, 0, 2, low).into())),
            1 => any::<u16>().prop_map(|low| {
                Entry::Forwarder(Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 0, 0, 0, low).into())
            }),
            2 => any::<u16>().prop_map(|low| {
                Entry::Stranger(Ipv4Addr::from(0xcb00_0000 | u32::from(low)).into())
            }),
            1 => any::<u16>().prop_map(|low| {
                Entry::Stranger(Ipv6Addr::new(0x2001, 0xdb8, 0xe, 0, 0, 0, 0, low).into())
            }),
            1 => "[ -+g-~]{0,12}".prop_map(Entry::Nonsense),
        ]
    }

    proptest! {
        #[test]
        fn however_the_list_is_cut_into_lines_nobody_speaks_but_by_forwarders(
            entries in proptest::collection::vec((entry(), any::<bool>(), " {0,2}"), 0..8),
        ) {
            let mut headers = HeaderMap::new();
            let mut line = Vec::<String>::new();
            for (entry, cut, space) in &entries {
                let text = match entry {
                    Entry::Forwarder(address) | Entry::Stranger(address) => address.to_string(),
                    Entry::Nonsense(text) => text.clone(),
                };
                line.push(format!("{space}{text}{space}"));
                if *cut {
                    headers.append(FORWARDED_FOR, line.join(",").parse().unwrap());
                    line.clear();
                }
            }
            if !line.is_empty() {
                headers.append(FORWARDED_FOR, line.join(",").parse().unwrap());
            }
            // From the end: forwarders as long as there are some, then who asked the last of them.
            let mut wanted = None;
            for (entry, ..) in entries.iter().rev() {
                match entry {
                    Entry::Forwarder(address) => wanted = Some(*address),
                    Entry::Stranger(address) => {
                        wanted = Some(*address);
                        break;
                    }
                    Entry::Nonsense(_) => break,
                }
            }
            prop_assert_eq!(client(&headers, &forwarders()), wanted);
        }

        #[test]
        fn nothing_breaks_it(lines in proptest::collection::vec("[ -~]{0,40}", 0..4)) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            for name in [FORWARDED_FOR, FORWARDED_PROTO] {
                let _ = Forwarded::read(&told(&name, &lines), &forwarders());
            }
        }
    }
}
