//! Reaching a guest's port through the Unix socket of a VMM that multiplexes its vsock.
//!
//! The host says `CONNECT <port>`, the VMM answers `OK <number>` once the guest has accepted, or
//! hangs up. The socket lies in a directory that the VMM's user may write to, behind a link that
//! is ours: what the link names is looked at before it is connected to, so a link planted there by
//! a VMM that was broken out of leads nowhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat, readlink};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

/// `OK ` and a number of 32 bits.
const LONGEST_ANSWER: usize = 16;

/// A connection that the guest has yet to accept.
#[derive(Debug)]
pub(crate) struct Call {
    socket: OwnedFd,
    heard: Vec<u8>,
}

/// Asks for the guest's port, without ever waiting.
pub(crate) fn call(link: &str, port: u32) -> io::Result<Call> {
    let target = readlink(link, Vec::new())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::open(&target, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&place)?.st_mode) != FileType::Socket {
        return Err(io::Error::other("that is not a socket"));
    }
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let short = format!("/proc/self/fd/{}", place.as_raw_fd());
    connect(&socket, &SocketAddrUnix::new(short)?)?;
    let words = format!("CONNECT {port}\n");
    let sent = rustix::net::send(&socket, words.as_bytes(), rustix::net::SendFlags::NOSIGNAL)?;
    if sent != words.len() {
        return Err(io::Error::other("the VMM takes no words"));
    }
    Ok(Call {
        socket,
        heard: Vec::new(),
    })
}

impl Call {
    /// Readable when there may be an answer.
    pub(crate) fn answer(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Returns whether the guest has accepted; an error when it will not.
    ///
    /// Reads a byte at a time: what comes behind the answer is the guest's.
    pub(crate) fn is_accepted(&mut self) -> io::Result<bool> {
        let mut byte = [0];
        loop {
            match rustix::io::read(&self.socket, &mut byte) {
                Ok(0) => return Err(io::Error::other("the guest does not listen")),
                Ok(_) if byte == *b"\n" => {
                    return if self.heard.starts_with(b"OK ") {
                        Ok(true)
                    } else {
                        Err(io::Error::other("the VMM does not know vsock"))
                    };
                }
                Ok(_) if self.heard.len() < LONGEST_ANSWER => self.heard.push(byte[0]),
                Ok(_) => return Err(io::Error::other("the VMM does not know vsock")),
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The connection, once it is accepted.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use super::call;

    /// A VMM's directory with its socket, and a link to that.
    struct Vmm {
        folder: PathBuf,
        listener: UnixListener,
    }

    impl Vmm {
        fn new(name: &str) -> Self {
            let folder =
                std::env::temp_dir().join(format!("godwit-vsock-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            let listener = UnixListener::bind(folder.join("v.sock")).unwrap();
            symlink(folder.join("v.sock"), folder.join("link")).unwrap();
            Self { folder, listener }
        }

        fn link(&self) -> String {
            self.folder.join("link").to_str().unwrap().to_owned()
        }

        fn hear(&self) -> UnixStream {
            let (mut socket, _) = self.listener.accept().unwrap();
            let mut words = [0; 13];
            socket.read_exact(&mut words).unwrap();
            assert_eq!(&words, b"CONNECT 1024\n");
            socket
        }
    }

    impl Drop for Vmm {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn what_follows_the_answer_is_left_for_the_guest() {
        let vmm = Vmm::new("good");
        let mut asked = call(&vmm.link(), 1024).unwrap();
        let mut guest = vmm.hear();
        assert!(!asked.is_accepted().unwrap());
        guest.write_all(b"OK 10737").unwrap();
        assert!(!asked.is_accepted().unwrap());
        guest.write_all(b"41824\nhello").unwrap();
        assert!(asked.is_accepted().unwrap());
        let mut rest = [0; 5];
        UnixStream::from(asked.into_socket())
            .read_exact(&mut rest)
            .unwrap();
        assert_eq!(&rest, b"hello");
    }

    #[test]
    fn a_guest_that_does_not_listen_and_a_vmm_that_talks_nonsense_are_errors() {
        let vmm = Vmm::new("bad");
        let mut asked = call(&vmm.link(), 1024).unwrap();
        drop(vmm.hear());
        assert!(asked.is_accepted().is_err());
        for nonsense in [&b"NO\n"[..], b"OK 11111111111111111111111"] {
            let mut asked = call(&vmm.link(), 1024).unwrap();
            vmm.hear().write_all(nonsense).unwrap();
            assert!(asked.is_accepted().is_err());
        }
    }

    #[test]
    fn only_a_socket_where_the_link_points_is_connected_to() {
        let vmm = Vmm::new("planted");
        let elsewhere = Vmm::new("elsewhere");
        std::fs::remove_file(vmm.folder.join("v.sock")).unwrap();
        assert!(call(&vmm.link(), 1024).is_err());
        symlink(elsewhere.folder.join("v.sock"), vmm.folder.join("v.sock")).unwrap();
        assert!(call(&vmm.link(), 1024).is_err());
    }
}
