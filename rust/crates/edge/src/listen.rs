//! Listening sockets: one of each per worker, so that the kernel spreads connections and a
//! restarted edge can listen before the old one has let go.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use godwit_wire::components::Listener;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

const BACKLOG: i32 = 4096;
/// Dead peers are found by the kernel; connections inherit this from their listener.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// A bound socket and the external port it stands for.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: TcpListener,
    pub(crate) port: u16,
}

/// Bind every listener once.
///
/// # Errors
/// A sentence that names the address.
pub(crate) fn bind_all(listeners: &[Listener]) -> Result<Vec<Bound>, String> {
    let bind = |listener: &Listener| match bind(listener.address) {
        Ok(socket) => Ok(Bound {
            socket,
            port: listener.port,
        }),
        Err(error) => Err(format!("cannot listen on {}: {error}", listener.address)),
    };
    listeners.iter().map(bind).collect()
}

/// Bind one address.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
