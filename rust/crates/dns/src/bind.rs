//! The sockets: bound to the very address that guests ask, so that answers come from it.
//!
//! `IPV6_FREEBIND` lets a socket be bound before the agent has put the address on the host.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use socket2::{Domain, Protocol, Socket, Type};

const BACKLOG: i32 = 256;
/// Room for the bursts of all guests; the kernel's default holds a few hundred queries.
const RECEIVE_BUFFER: usize = 4 << 20;
/// A server that is still ending lets go of its address in this time.
const WITHIN: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(1);

/// The two sockets of an address.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) udp: UdpSocket,
    pub(crate) tcp: TcpListener,
}

/// Bind an address, trying again while it is not free.
///
/// # Errors
/// A sentence that names the address.
pub(crate) async fn bind(address: SocketAddr) -> Result<Bound, String> {
    let begun = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match try_bind(address) {
            Ok(bound) => return Ok(bound),
            Err(error) => error,
        };
        if begun.elapsed() > WITHIN || !may_pass(&error) {
            return Err(format!("cannot answer on {address}: {error}"));
        }
        if pause == FIRST_PAUSE {
            log::warn!("cannot answer on {address} yet: {error}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(GREATEST_PAUSE);
    }
}

fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable
    )
}

fn try_bind(address: SocketAddr) -> io::Result<Bound> {
    let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
    // Beyond the kernel's limit only root may go.
    if sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER).is_err() {
        udp.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    udp.bind(&address.into())?;
    let tcp = socket(address, Type::STREAM, Protocol::TCP)?;
    tcp.set_reuse_address(true)?;
    tcp.bind(&address.into())?;
    tcp.listen(BACKLOG)?;
    Ok(Bound {
        udp: udp.into(),
        tcp: tcp.into(),
    })
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(socket)
}
