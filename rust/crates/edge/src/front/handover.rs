//! Listening sockets go from one process of the edge to the next: what the kernel has queued on
//! them is lost to neither, so that no client is refused.
//!
//! A successor connects to the predecessor's Unix socket and is sent every descriptor, some with
//! each line of JSON, and an empty list at the end. It says `serving` once it accepts on them; then the
//! predecessor drains.

use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use godwit_wire::components::Listener;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::net::UnixListener;

use super::listen::Bound;

const SERVING: &[u8] = b"serving";
const TOGETHER: usize = 64;
/// No line is longer, so that it is sent and received whole with its descriptors.
const LINE: usize = 16 * 1024;
/// For the other side to take or to send a line.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a successor asks.
#[derive(Debug)]
pub(crate) struct Offer {
    socket: UnixListener,
    path: PathBuf,
}

/// A successor that has asked.
#[derive(Debug)]
pub(crate) struct Successor(UnixStream);

/// The process that was there before, and waits to hear that this one serves.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Offer {
    /// Be found at a path; whoever was found there before is not any more.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        // Made beside and moved: nobody finds it before it listens.
        let new = path.with_extension("new");
        let _ = fs::remove_file(&new);
        let socket = UnixListener::bind(&new)?;
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        fs::rename(&new, path)?;
        let path = path.to_owned();
        Ok(Offer { socket, path })
    }

    /// Return a successor once there is one.
    pub(crate) async fn asked(&self) -> io::Result<Successor> {
        let (stream, _) = self.socket.accept().await?;
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(Successor(stream))
    }

    /// Be found no more: for a process that ends without a successor.
    pub(crate) fn withdraw(self) {
        // One that cannot be removed is replaced by the next process.
        let _ = fs::remove_file(&self.path);
    }
}

impl Successor {
    /// Hand over and wait until it serves; blocks for a bounded time.
    pub(crate) fn give(mut self, sockets: &[Bound]) -> io::Result<()> {
        patient(&self.0)?;
        for some in sockets.chunks(TOGETHER) {
            let told: Vec<Listener> = some.iter().map(|bound| bound.at).collect();
            let fds: Vec<_> = some.iter().map(|bound| bound.socket.as_fd()).collect();
            give_some(self.0.as_fd(), serde_json::to_vec(&told)?, &fds)?;
        }
        give_some(self.0.as_fd(), b"[]".to_vec(), &[])?;
        let mut said = [0; SERVING.len()];
        self.0.read_exact(&mut said)?;
        if said == *SERVING {
            return Ok(());
        }
        Err(io::Error::other(
            "the successor does not say that it serves",
        ))
    }
}

impl Predecessor {
    /// Take the sockets of the process that is found at a path, if there is one; blocks for a
    /// bounded time.
    pub(crate) fn take(path: &Path) -> io::Result<Option<(Self, Vec<Bound>)>> {
        let socket = match UnixStream::connect(path) {
            Ok(socket) => socket,
            Err(error) if is_nobody(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        patient(&socket)?;
        let mut sockets = Vec::new();
        while let Some(mut some) = take_some(socket.as_fd())? {
            sockets.append(&mut some);
        }
        Ok(Some((Predecessor(socket), sockets)))
    }

    /// Tell it that this process serves, so that it drains.
    pub(crate) fn relieve(mut self) -> io::Result<()> {
        self.0.write_all(SERVING)
    }
}

fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused)
}

fn patient(socket: &UnixStream) -> io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))
}

fn give_some(to: BorrowedFd<'_>, mut line: Vec<u8>, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    let sent = sendmsg(
        to,
        &[IoSlice::new(&line)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent < line.len() {
        return Err(io::Error::other("a line was not sent whole"));
    }
    Ok(())
}

/// The sockets of the next line; `None` for the last.
fn take_some(from: BorrowedFd<'_>) -> io::Result<Option<Vec<Bound>>> {
    let mut told = vec![0; LINE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut told)];
    let got = recvmsg(from, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(some) = message {
            fds.extend(some);
        }
    }
    let line = told[..got.bytes].strip_suffix(b"\n");
    let line = line.ok_or_else(|| io::Error::other("a line was not received whole"))?;
    let listeners: Vec<Listener> = serde_json::from_slice(line)?;
    if listeners.len() != fds.len() {
        return Err(io::Error::other("not as many sockets as were told of"));
    }
    if listeners.is_empty() {
        return Ok(None);
    }
    let bound = |(at, fd)| Bound {
        socket: TcpListener::from(fd),
        at,
    };
    Ok(Some(listeners.into_iter().zip(fds).map(bound).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_and_what_they_stand_for_arrive() {
        let folder = std::env::temp_dir().join(format!("godwit-handover-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        assert!(Predecessor::take(&path).unwrap().is_none());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let sockets: Vec<Bound> = (0..150)
            .map(|port| Bound {
                socket: TcpListener::bind("127.0.0.1:0").unwrap(),
                at: Listener {
                    address: "127.0.0.1:1".parse().unwrap(),
                    port,
                },
            })
            .collect();
        let addresses = |all: &[Bound]| -> Vec<_> {
            all.iter()
                .map(|one| (one.at, one.socket.local_addr().unwrap()))
                .collect()
        };
        let wanted = addresses(&sockets);
        let offer = runtime.block_on(async { Offer::at(&path) }).unwrap();
        let taking = std::thread::spawn({
            let path = path.clone();
            move || {
                let (predecessor, sockets) = Predecessor::take(&path).unwrap().unwrap();
                predecessor.relieve().unwrap();
                sockets
            }
        });
        let successor = runtime.block_on(offer.asked()).unwrap();
        successor.give(&sockets).unwrap();
        assert_eq!(addresses(&taking.join().unwrap()), wanted);
        offer.withdraw();
        assert!(Predecessor::take(&path).unwrap().is_none());
        fs::remove_dir_all(&folder).unwrap();
    }
}
