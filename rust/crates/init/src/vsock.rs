//! The control channel over vsock: init listens, the host connects, one connection at a time.
//!
//! Under a VMM with a vsock device in place of a virtio port. Listening sockets outlive a saved
//! guest, connections do not: the host simply connects again.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::sys;

/// Where init listens; twin of `CHANNEL_PORT` in `godwit/agent/vmm/firecracker/config.py`.
const PORT: u32 = 1024;
/// The kind of a vsock device on the virtio bus.
const DEVICE: &str = "0x0013";
const DEVICES: &str = "/sys/bus/virtio/devices";
/// The host's number on a guest's vsock: nobody else is let in.
const HOST: u32 = 2;

/// Whether this guest has a vsock device.
pub(crate) fn is_here() -> bool {
    is_among(Path::new(DEVICES))
}

fn is_among(devices: &Path) -> bool {
    fs::read_dir(devices)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("device")).ok())
        .any(|kind| kind.trim() == DEVICE)
}

/// Where the host connects.
#[derive(Debug)]
pub(crate) struct Door {
    listener: OwnedFd,
}

impl Door {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self {
            listener: sys::vsock_listener(PORT)?,
        })
    }

    /// Readable when somebody waits.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Returns the newest connection of the host, if there is a new one.
    pub(crate) fn answer(&self) -> Option<OwnedFd> {
        let mut newest = None;
        while let Ok((socket, from)) = sys::accept(self.listener()) {
            if from.is_none_or(|from| from == HOST) {
                newest = Some(socket);
            }
        }
        newest
    }

    #[cfg(test)]
    pub(crate) fn over(listener: OwnedFd) -> Self {
        Self { listener }
    }
}

/// A connection with nobody at the other end.
pub(crate) fn nobody() -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    drop(theirs);
    Ok(ours.into())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Door, is_among};

    #[test]
    fn the_device_is_told_by_its_kind() {
        let bus = std::env::temp_dir().join(format!("godwit-vsock-{}", std::process::id()));
        for (name, kind) in [("virtio0", "0x0001\n"), ("virtio1", "0x0002\n")] {
            fs::create_dir_all(bus.join(name)).unwrap();
            fs::write(bus.join(name).join("device"), kind).unwrap();
        }
        assert!(!is_among(&bus));
        fs::write(bus.join("virtio1").join("device"), "0x0013\n").unwrap();
        assert!(is_among(&bus));
        fs::remove_dir_all(&bus).unwrap();
        assert!(!is_among(&bus));
    }

    #[test]
    fn a_door_opens_where_the_kernel_has_vsock() {
        match Door::open() {
            Ok(door) => assert!(door.answer().is_none()),
            Err(error) => assert!(
                matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRINUSE)
                ),
                "{error}"
            ),
        }
    }
}
