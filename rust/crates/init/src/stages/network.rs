//! `lo` and `eth0` by rtnetlink: addresses, MTU, on-link gateways.
//!
//! The requests are plain byte strings, built by pure functions and sent in one batch.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::run_spec::Network;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

use super::{Context, Staged, failed};

const STAGE: &str = "network";
const INTERFACE: &str = "eth0";
const PATIENCE: Duration = Duration::from_secs(5);

/// Configures the guest's network. Without addresses there need not be an `eth0`.
pub(crate) fn configure(network: &Network) -> Staged<()> {
    if network.addresses.is_empty() {
        return Ok(());
    }
    let index = wait_for_interface()?;
    let mac = network.mac.as_deref().map(hardware_address).transpose()?;
    let mut requests = vec![link_up(index, Some(network.mtu), mac)];
    for address in &network.addresses {
        let ip = parse(&address.address)?;
        requests.push(address_add(index, ip, address.prefix));
    }
    for gateway in [&network.gateway_v6, &network.gateway_v4]
        .into_iter()
        .flatten()
    {
        requests.push(default_route(index, parse(gateway)?));
    }
    exchange(&requests)
}

/// Brings `lo` up, which no machine does without.
pub(crate) fn raise_loopback() -> Staged<()> {
    exchange(&[link_up(LOOPBACK, None, None)])
}

fn hardware_address(text: &str) -> Staged<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| failed(STAGE, format_args!("{text:?} is not a hardware address")))
}

fn parse(text: &str) -> Staged<IpAddr> {
    text.parse()
        .stage(STAGE, format_args!("{text:?} is not an IP address"))
}

fn wait_for_interface() -> Staged<u32> {
    let path = Path::new("/sys/class/net").join(INTERFACE).join("ifindex");
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(index) = fs::read_to_string(&path)
            .ok()
            .and_then(|t| t.trim().parse().ok())
        {
            return Ok(index);
        }
        if Instant::now() > deadline {
            return Err(failed(
                STAGE,
                format_args!("there is no interface {INTERFACE}"),
            ));
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The host answers for the address already: no duplicate detection, no router advertisements.
pub(crate) fn quiet_ipv6() {
    for key in ["accept_dad", "accept_ra"] {
        // A kernel without IPv6 has no such file; the addresses then say so in words.
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{key}"), "0");
    }
}

const LOOPBACK: u32 = 1;
const HEADER: usize = 16;
const ERROR: u16 = 2;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
/// REQUEST | ACK | REPLACE | CREATE.
const ENSURE: u16 = 0x1 | 0x4 | 0x100 | 0x400;
const IFF_UP: u32 = 1;
const ADDRESS_NODAD: u8 = 0x02;
const ROUTE_TABLE_MAIN: u8 = 254;
const ROUTE_PROTOCOL_BOOT: u8 = 3;
const ROUTE_UNICAST: u8 = 1;
const ROUTE_ONLINK: u32 = 4;

fn link_up(index: u32, mtu: Option<u32>, mac: Option<[u8; 6]>) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [index, IFF_UP, IFF_UP] {
        body.extend_from_slice(&word.to_ne_bytes());
    }
    if let Some(mtu) = mtu {
        attribute(&mut body, 4, &mtu.to_ne_bytes());
    }
    if let Some(mac) = mac {
        attribute(&mut body, 1, &mac);
    }
    request(NEW_LINK, 0x1 | 0x4, &body)
}

fn address_add(index: u32, ip: IpAddr, prefix: u8) -> Vec<u8> {
    let (family, bytes) = raw(ip);
    let mut body = vec![family, prefix, ADDRESS_NODAD, 0];
    body.extend_from_slice(&index.to_ne_bytes());
    for kind in [1, 2] {
        attribute(&mut body, kind, &bytes);
    }
    request(NEW_ADDRESS, ENSURE, &body)
}

fn default_route(index: u32, gateway: IpAddr) -> Vec<u8> {
    let (family, bytes) = raw(gateway);
    let mut body = vec![family, 0, 0, 0];
    body.extend_from_slice(&[ROUTE_TABLE_MAIN, ROUTE_PROTOCOL_BOOT, 0, ROUTE_UNICAST]);
    body.extend_from_slice(&ROUTE_ONLINK.to_ne_bytes());
    attribute(&mut body, 4, &index.to_ne_bytes());
    attribute(&mut body, 5, &bytes);
    request(NEW_ROUTE, ENSURE, &body)
}

fn raw(ip: IpAddr) -> (u8, Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => (2, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, v6.octets().to_vec()),
    }
}

/// Appends a type-length-value, and what fills it to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(4);
    body.extend_from_slice(&length.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(body);
    message
}

/// Sends every request and waits for every answer; the first refusal is the stage's failure.
fn exchange(requests: &[Vec<u8>]) -> Staged<()> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )
    .stage(STAGE, "cannot talk to the kernel")?;
    let kernel = SocketAddrNetlink::new(0, 0);
    sendto(&socket, &requests.concat(), SendFlags::empty(), &kernel)
        .stage(STAGE, "cannot talk to the kernel")?;
    let mut answered = 0;
    let mut buffer = [0_u8; 4096];
    while answered < requests.len() {
        let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())
            .stage(STAGE, "no answer from the kernel")?;
        for code in answers(&buffer[..length]) {
            if code != 0 {
                let error = std::io::Error::from_raw_os_error(-code);
                let what = describe(&requests[answered]);
                return Err(failed(STAGE, format_args!("cannot {what}: {error}")));
            }
            answered += 1;
        }
    }
    Ok(())
}

fn describe(request: &[u8]) -> &'static str {
    match u16::from_ne_bytes([request[4], request[5]]) {
        NEW_LINK => "bring up an interface",
        NEW_ADDRESS => "add an address",
        _ => "add a default route",
    }
}

/// Returns the codes of the acknowledgements in one datagram: 0 or a negative errno.
fn answers(mut datagram: &[u8]) -> Vec<i32> {
    let mut codes = Vec::new();
    while let Some(&[l0, l1, l2, l3, k0, k1, ..]) = datagram.first_chunk::<HEADER>() {
        let length = u32::from_ne_bytes([l0, l1, l2, l3]) as usize;
        if length < HEADER {
            break;
        }
        if u16::from_ne_bytes([k0, k1]) == ERROR {
            let code = datagram
                .get(HEADER..)
                .and_then(|rest| rest.first_chunk::<4>());
            codes.extend(code.map(|bytes| i32::from_ne_bytes(*bytes)));
        }
        datagram = datagram
            .get(length.next_multiple_of(4)..)
            .unwrap_or_default();
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::{address_add, answers, default_route, hardware_address, link_up};

    fn length_is_honest(message: &[u8]) -> bool {
        u32::from_ne_bytes(message[..4].try_into().unwrap()) as usize == message.len()
    }

    #[test]
    fn requests_carry_what_the_kernel_reads() {
        let up = link_up(2, Some(1420), None);
        assert!(length_is_honest(&up));
        assert_eq!(up[up.len() - 4..], 1420_u32.to_ne_bytes());
        let mac = hardware_address("02:67:00:00:00:05").unwrap();
        let named = link_up(2, None, Some(mac));
        assert!(length_is_honest(&named));
        assert_eq!(named[named.len() - 8..], [2, 0x67, 0, 0, 0, 5, 0, 0]);
        assert!(hardware_address("02:67").is_err());
        let v6 = address_add(2, "fdaa::2".parse().unwrap(), 128);
        assert!(length_is_honest(&v6));
        assert_eq!((v6[16], v6[17], v6[18]), (10, 128, 2));
        assert_eq!(v6.len(), 16 + 8 + 2 * 20);
        let route = default_route(2, "172.16.0.1".parse().unwrap());
        assert!(length_is_honest(&route));
        assert_eq!(route[route.len() - 4..], [172, 16, 0, 1]);
    }

    #[test]
    fn every_acknowledgement_of_a_datagram_is_read() {
        let ack = |code: i32| {
            let mut m = 36_u32.to_ne_bytes().to_vec();
            m.extend_from_slice(&2_u16.to_ne_bytes());
            m.extend_from_slice(&[0; 10]);
            m.extend_from_slice(&code.to_ne_bytes());
            m.extend_from_slice(&[0; 16]);
            m
        };
        assert_eq!(answers(&[ack(0), ack(-17)].concat()), [0, -17]);
        assert_eq!(answers(&[]), Vec::<i32>::new());
        assert_eq!(answers(&[0; 64]), Vec::<i32>::new());
    }
}
