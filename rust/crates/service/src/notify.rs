//! Telling the supervisor that this process is ready: the `sd_notify` protocol.
//!
//! Source: systemd's `sd_notify(3)`. Twin of `base/notify.py`.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Send a state such as `READY=1`; returns whether somebody asked to be told.
pub fn notify(state: &str) -> io::Result<bool> {
    let Some(name) = std::env::var("NOTIFY_SOCKET")
        .ok()
        .filter(|name| !name.is_empty())
    else {
        return Ok(false);
    };
    let address = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(true)
}

/// Say that this process is ready; a supervisor that cannot be told is logged.
pub fn ready() {
    if let Err(error) = notify("READY=1") {
        log::warn!("the supervisor could not be told that this is ready: {error}");
    }
}
