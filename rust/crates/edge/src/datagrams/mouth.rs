//! A socket that speaks to a machine of this host in a client's name: bound to the client's own
//! address, which is not this host's (`IP_TRANSPARENT`). What the machine answers to that address
//! is caught by the host's packet policy and brought back to the socket.
//!
//! A client that cannot be shown, as one on this host itself, is seen as the host.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// The mark of what is said in a client's name; `agent.network.rules` knows it.
const MARK: u32 = 0x6776;
/// The largest datagram, and more.
pub(super) const LARGEST: usize = 65_536;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGEST]);
}

#[derive(Debug)]
pub(super) struct Mouth {
    socket: UdpSocket,
    machine: SocketAddr,
    /// The machine's kernel has said that nobody listens.
    refused: AtomicBool,
    stirred: Notify,
}

impl Mouth {
    /// # Errors
    /// Files have run out, or the edge may not speak in others' names.
    pub(super) fn open(machine: SocketAddr, client: SocketAddr) -> io::Result<Self> {
        let shown = if can_be_shown(client.ip()) {
            match in_the_name_of(client, machine) {
                // It is this host's own.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
                shown => Some(shown?),
            }
        } else {
            None
        };
        let socket = match shown {
            Some(socket) => socket,
            None => socket(machine)?,
        };
        socket.connect(&machine.into())?;
        Ok(Mouth {
            socket: UdpSocket::from_std(socket.into())?,
            machine,
            refused: AtomicBool::new(false),
            stirred: Notify::new(),
        })
    }

    /// Say something; whether the kernel had room for it.
    pub(super) fn say(&self, datagram: &[u8]) -> bool {
        let socket = SockRef::from(&self.socket);
        let sent = match socket.send(datagram) {
            // That is about an earlier one.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.refused.store(true, Relaxed);
                self.stirred.notify_one();
                socket.send(datagram)
            }
            sent => sent,
        };
        sent.is_ok()
    }

    /// Wait until the machine has answered, and give each answer away; or until it is known that
    /// nobody listens.
    ///
    /// # Errors
    /// Nobody does.
    pub(super) async fn hear(&self, mut give: impl FnMut(&[u8])) -> io::Result<()> {
        tokio::select! {
            ready = self.socket.readable() => ready?,
            failed = self.socket.ready(Interest::ERROR) => {
                failed?;
            }
            () = self.stirred.notified() => {}
        }
        while self.hear_one(&mut give)? {}
        if self.refused.swap(false, Relaxed) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let failed = self.socket.try_io(Interest::ERROR, || {
            let error = self.socket.take_error()?;
            Err::<(), _>(error.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
        });
        match failed {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(()),
        }
    }

    /// Give one answer away; whether there was one.
    fn hear_one(&self, give: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        let heard = BUFFER.with_borrow_mut(|buffer| {
            self.socket.try_io(Interest::READABLE, || {
                let flags = RecvFlags::DONTWAIT;
                let (length, _, from) = recvfrom(&self.socket, &mut buffer[..], flags)?;
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                // Others may have said something before the socket was connected.
                if from == Some(self.machine) {
                    give(&buffer[..length]);
                }
                Ok(())
            })
        });
        match heard {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn socket(to: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn in_the_name_of(client: SocketAddr, machine: SocketAddr) -> io::Result<Socket> {
    let socket = socket(machine)?;
    if client.is_ipv6() {
        socket.set_ip_transparent_v6(true)?;
    } else {
        socket.set_ip_transparent_v4(true)?;
    }
    // One client may have flows to several machines.
    socket.set_reuse_address(true)?;
    socket.set_mark(MARK)?;
    socket.bind(&client.into())?;
    Ok(socket)
}

/// Whether a machine may be told of an address: not of one that means something else to it, as
/// those of other machines and of the platform do.
fn can_be_shown(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let of_machines = v4.octets()[0] == 172 && v4.octets()[1] & 0xf0 == 16;
            !(of_machines || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified())
        }
        IpAddr::V6(v6) => {
            let of_platform = v6.segments()[0] & 0xfffe == 0xfdaa;
            let mapped = v6.to_ipv4_mapped().is_some();
            let local = v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified();
            !(of_platform || mapped || local)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_machines_and_of_the_host_itself_are_not_shown() {
        let shown = |text: &str| can_be_shown(text.parse().unwrap());
        for hidden in [
            "127.0.0.1",
            "172.16.0.9",
            "172.31.255.1",
            "169.254.1.1",
            "0.0.0.0",
            "::1",
            "fe80::2",
            "fdaa:0:1::2",
            "fdab::1",
            "::ffff:192.0.2.1",
            "::",
        ] {
            assert!(!shown(hidden), "{hidden}");
        }
        for one in [
            "192.0.2.1",
            "172.15.0.1",
            "172.32.0.1",
            "10.0.0.1",
            "2001:db8::1",
            "fdac::1",
        ] {
            assert!(shown(one), "{one}");
        }
    }
}
