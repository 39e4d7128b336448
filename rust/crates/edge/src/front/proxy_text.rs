//! The PROXY header of version 1: a line of text.

use std::net::{IpAddr, SocketAddr};

use super::proxy_header::{Read, Said};

/// With its line end, as the protocol bounds it.
const LONGEST: usize = 107;
const BEGINS: &[u8] = b"PROXY ";

pub(crate) fn read(bytes: &[u8]) -> Read {
    let shared = bytes.len().min(BEGINS.len());
    if bytes[..shared] != BEGINS[..shared] {
        return Read::Wrong;
    }
    let end = bytes.iter().take(LONGEST).position(|byte| *byte == b'\n');
    let Some(end) = end else {
        return if bytes.len() < LONGEST {
            Read::More
        } else {
            Read::Wrong
        };
    };
    let line = bytes[..end].strip_suffix(b"\r");
    let said = line
        .and_then(|line| std::str::from_utf8(line).ok())
        .and_then(parse);
    said.map_or(Read::Wrong, |said| Read::Whole(said, end + 1))
}

fn parse(line: &str) -> Option<Said> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Said::Itself);
    }
    let (source, target) = (words.next()?, words.next()?);
    let (source_port, target_port) = (words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str, port: &str| {
        let ip: IpAddr = text.parse().ok()?;
        let fits = (family == "TCP4" && ip.is_ipv4()) || (family == "TCP6" && ip.is_ipv6());
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| fits && digits)?;
        Some(SocketAddr::new(ip, port))
    };
    Some(Said::From(
        address(source, source_port)?,
        address(target, target_port)?,
    ))
}

pub(crate) fn write(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let family = match (client.is_ipv4(), server.is_ipv4()) {
        (true, true) => "TCP4",
        (false, false) => "TCP6",
        _ => return b"PROXY UNKNOWN\r\n".to_vec(),
    };
    let (from, to) = (client.ip(), server.ip());
    let ports = (client.port(), server.port());
    format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_connected_where() {
        let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /";
        let said = Said::From(
            "192.0.2.1:56324".parse().unwrap(),
            "198.51.100.2:443".parse().unwrap(),
        );
        assert_eq!(read(line), Read::Whole(said, line.len() - 5));
        let unknown = b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n";
        assert_eq!(read(unknown), Read::Whole(Said::Itself, unknown.len()));
    }

    #[test]
    fn a_line_that_is_none_is_refused() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.2 1 2 3\r\n",
            "PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Read::Wrong, "{line}");
        }
        assert_eq!(
            read(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()),
            Read::Wrong
        );
    }
}
