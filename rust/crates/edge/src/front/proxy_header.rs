//! The PROXY protocol, both versions, both directions; no I/O.
//!
//! Source: HAProxy's `proxy-protocol.txt`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use godwit_wire::facts::ProxyVersion;

use super::proxy_text;

pub(crate) const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;
/// Of what follows the fixed part of a v2 header: addresses and TLVs.
const LONGEST: usize = 4096;

/// What a PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The connection is this one's: who connected, and where.
    From(SocketAddr, SocketAddr),
    /// The proxy speaks for itself, or does not know.
    Itself,
}

/// How far the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// A whole header, and how many bytes it has.
    Whole(Said, usize),
    /// So far it may be one.
    More,
    /// It is none.
    Wrong,
}

/// Read a header from the first bytes of a connection.
pub(crate) fn read(bytes: &[u8]) -> Read {
    let shared = bytes.len().min(SIGNATURE.len());
    if bytes[..shared] == SIGNATURE[..shared] && !bytes.is_empty() {
        return read_binary(bytes);
    }
    proxy_text::read(bytes)
}

fn read_binary(bytes: &[u8]) -> Read {
    let Some(fixed) = bytes.get(..FIXED) else {
        return Read::More;
    };
    let (command, family) = (fixed[12], fixed[13]);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command & 0xf0 != 0x20 || command & 0x0f > 1 || length > LONGEST {
        return Read::Wrong;
    }
    let whole = FIXED + length;
    let Some(body) = bytes.get(FIXED..whole) else {
        return Read::More;
    };
    let said = match (command & 0x0f, family) {
        (0, _) => Some(Said::Itself),
        (_, 0x11) => inet4(body),
        (_, 0x21) => inet6(body),
        // Not TCP, or an address that no app could use.
        _ => Some(Said::Itself),
    };
    said.map_or(Read::Wrong, |said| Read::Whole(said, whole))
}

fn inet4(body: &[u8]) -> Option<Said> {
    let body: &[u8; 12] = body.first_chunk()?;
    let address = |at: usize| Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]);
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let pair = |at: usize, port_at: usize| SocketAddr::from((address(at), port(port_at)));
    Some(Said::From(pair(0, 8), pair(4, 10)))
}

fn inet6(body: &[u8]) -> Option<Said> {
    let body: &[u8; 36] = body.first_chunk()?;
    let (source, rest) = body.split_first_chunk::<16>()?;
    let (target, ports) = rest.split_first_chunk::<16>()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Said::From(
        SocketAddr::from((Ipv6Addr::from(*source), port(0))),
        SocketAddr::from((Ipv6Addr::from(*target), port(2))),
    ))
}

/// Write the header for a connection.
pub(crate) fn write(version: ProxyVersion, client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = (canonical(client), canonical(server));
    match version {
        ProxyVersion::V1 => proxy_text::write(client, server),
        ProxyVersion::V2 => write_binary(client, server),
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn write_binary(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    let (family, addresses) = match (client.ip(), server.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (0x11, [a.octets(), b.octets()].concat()),
        (IpAddr::V6(a), IpAddr::V6(b)) => (0x21, [a.octets(), b.octets()].concat()),
        // Told by proxies that mix families: the app learns that it does not know.
        _ => {
            header.extend([0x21, 0x00, 0, 0]);
            return header;
        }
    };
    let length = u16::try_from(addresses.len() + 4).unwrap_or_default();
    header.extend([0x21, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    header.extend(client.port().to_be_bytes());
    header.extend(server.port().to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<(u32, u16)>().prop_map(|(a, port)| (Ipv4Addr::from(a), port).into());
        // Not mapped ones, which are written as what they are.
        let v6 =
            any::<(u128, u16)>().prop_map(|(a, port)| (Ipv6Addr::from(a | 1 << 127), port).into());
        prop_oneof![v4, v6]
    }

    fn version() -> impl Strategy<Value = ProxyVersion> {
        prop_oneof![Just(ProxyVersion::V1), Just(ProxyVersion::V2)]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_part_of_it_is(
            version in version(), client in address(), server in address(), more in any::<Vec<u8>>()
        ) {
            let header = write(version, client, server);
            let said = if client.is_ipv4() == server.is_ipv4() {
                Said::From(client, server)
            } else {
                Said::Itself
            };
            let whole = [header.clone(), more].concat();
            prop_assert_eq!(read(&whole), Read::Whole(said, header.len()));
            for end in 1..header.len() {
                prop_assert_eq!(read(&header[..end]), Read::More);
            }
        }

        #[test]
        fn whatever_comes_is_read_without_panic_and_within_what_came(bytes in any::<Vec<u8>>()) {
            if let Read::Whole(_, length) = read(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn a_damaged_header_never_reads_beyond_itself(
            version in version(), client in address(), server in address(),
            at in 0usize..200, with in any::<u8>()
        ) {
            let mut header = write(version, client, server);
            let at = at % header.len();
            header[at] = with;
            if let Read::Whole(_, length) = read(&header) {
                prop_assert!(length <= header.len());
            }
        }

        #[test]
        fn a_binary_body_of_any_length_is_bounded(
            command in any::<u8>(), family in any::<u8>(), body in any::<Vec<u8>>(), length in any::<u16>()
        ) {
            let mut bytes = SIGNATURE.to_vec();
            bytes.extend([command, family]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(&body);
            match read(&bytes) {
                Read::Whole(_, whole) => prop_assert_eq!(whole, FIXED + usize::from(length)),
                Read::More => prop_assert!(usize::from(length) > body.len()),
                Read::Wrong => {}
            }
        }
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        let mut local = SIGNATURE.to_vec();
        local.extend([0x20, 0x00, 0, 0]);
        assert_eq!(read(&local), Read::Whole(Said::Itself, 16));
        assert_eq!(read(b"GET / HTTP/1.1\r\n"), Read::Wrong);
        assert_eq!(read(b""), Read::More);
    }
}
