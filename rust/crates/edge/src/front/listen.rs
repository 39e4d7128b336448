//! Listening sockets: one of each per worker, so that the kernel spreads connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use godwit_wire::components::Listener;
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

const BACKLOG: i32 = 4096;
/// Dead peers are found by the kernel; connections inherit this from their listener.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// A bound socket and what it stands for.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: TcpListener,
    pub(crate) at: Listener,
}

impl Bound {
    /// Another descriptor of the same socket.
    pub(crate) fn again(&self) -> io::Result<Self> {
        Ok(Bound {
            socket: self.socket.try_clone()?,
            at: self.at,
        })
    }
}

/// Bind an address so many times.
pub(crate) fn bind_each(at: Listener, count: usize) -> io::Result<Vec<Bound>> {
    let bind = |_| {
        let socket = bind(at.address)?;
        Ok(Bound { socket, at })
    };
    (0..count).map(bind).collect()
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
        // The agent may give the host its private addresses later than this.
        socket.set_freebind_v6(true)?;
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
