//! The control channel: the virtio port `godwit.control`, framed, with messages before output.
//!
//! The port's events are watched edge-triggered: while the host is away the port would be
//! readable for ever (`read` returns 0). Host and guest find together again after a break by
//! the guest's second hello, see `supervise`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::channel::{self, BadFrame, Decoder, Frame, Kind};
use godwit_wire::messages::GuestMessage;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::stages::{Context, Staged, failed};

const NAME: &str = "godwit.control";
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(1);
/// Output waiting to be sent; above it the processes that write are made to wait.
const DATA_ROOM: usize = 65_536;
/// Messages waiting to be sent; above it answers are dropped: the host asks without reading.
const CONTROL_ROOM: usize = 1_048_576;
/// One write is one buffer of the port's ring: small ones keep messages quick behind output.
const WRITE: usize = 16_384;
const READ: usize = 32_768;

/// What a look at the port showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Frame(Frame),
    /// The host came (back): say hello.
    Connected,
    /// The host went away; what it asked for on this connection is void.
    Lost,
    /// The host sent what is not the protocol: say hello and go on from there.
    Garbage(BadFrame),
}

#[derive(Debug)]
pub(crate) struct Link {
    port: OwnedFd,
    watch: OwnedFd,
    decoder: Decoder,
    sending: Vec<u8>,
    sent: usize,
    control: Vec<u8>,
    data: Vec<u8>,
    host_present: bool,
    look_again: bool,
    blocked: bool,
    buffer: Vec<u8>,
}

impl Link {
    /// Finds and opens the port; its name arrives a moment after the driver.
    pub(crate) fn open() -> Staged<Self> {
        let deadline = Instant::now() + PATIENCE;
        let node = loop {
            if let Some(node) = find_in(Path::new("/sys/class/virtio-ports")) {
                break node;
            }
            if Instant::now() > deadline {
                return Err(failed(
                    "link",
                    format_args!("there is no virtio port named {NAME}"),
                ));
            }
            thread::sleep(PAUSE);
        };
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let port = rustix::fs::open(&node, flags, Mode::empty())
            .stage("link", format_args!("cannot open {}", node.display()))?;
        Self::over(port).stage("link", "cannot watch the control port")
    }

    /// Speaks over any descriptor that behaves like the port.
    fn over(port: OwnedFd) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&watch, &port, epoll::EventData::new_u64(0), events)?;
        Ok(Self {
            port,
            watch,
            decoder: Decoder::default(),
            sending: Vec::new(),
            sent: 0,
            control: Vec::new(),
            data: Vec::new(),
            host_present: false,
            look_again: true,
            blocked: false,
            buffer: vec![0; READ],
        })
    }

    /// Readable when there may be something to do here.
    pub(crate) fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Whether there is more to read without waiting.
    pub(crate) fn look_again(&self) -> bool {
        self.look_again
    }

    /// Whether something waits to be sent and the port took no more.
    pub(crate) fn blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn host_present(&self) -> bool {
        self.host_present
    }

    /// How many bytes of output may be added now.
    pub(crate) fn room(&self) -> usize {
        if self.host_present {
            DATA_ROOM.saturating_sub(self.data.len())
        } else {
            0
        }
    }

    /// Whether everything has been handed to the port.
    pub(crate) fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.control.is_empty() && self.data.is_empty()
    }

    /// Queues a message. It overtakes output that was queued before it.
    pub(crate) fn tell(&mut self, message: &GuestMessage) {
        if self.host_present && self.control.len() < CONTROL_ROOM {
            channel::message_into(&mut self.control, 0, message);
        }
    }

    /// Queues a message behind all output queued so far.
    pub(crate) fn tell_last(&mut self, message: &GuestMessage) {
        if self.host_present {
            channel::message_into(&mut self.data, 0, message);
        }
    }

    /// Queues output or the like; the caller minds [`Link::room`].
    pub(crate) fn put(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        channel::encode_into(&mut self.data, kind, stream, payload);
    }

    /// Grants the host more bytes on a stream.
    pub(crate) fn grant(&mut self, stream: u32, bytes: u32) {
        channel::credit_into(&mut self.control, stream, bytes);
    }

    /// Looks at the port once: what came and went, at most one buffer's worth.
    pub(crate) fn look(&mut self) -> Vec<Event> {
        let mut edges = Vec::with_capacity(1);
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let waited = epoll::wait(
            &self.watch,
            rustix::buffer::spare_capacity(&mut edges),
            Some(&now),
        );
        if waited.is_ok_and(|count| count > 0) {
            self.blocked = false;
            self.look_again = true;
        }
        let mut events = Vec::new();
        if !self.look_again {
            return events;
        }
        self.note_presence(&mut events);
        self.read(&mut events);
        events
    }

    fn note_presence(&mut self, events: &mut Vec<Event>) {
        let present = !self.hung_up();
        if present && !self.host_present {
            self.host_present = true;
            events.push(Event::Connected);
        } else if !present && self.host_present {
            self.forget_host();
            events.push(Event::Lost);
        }
    }

    fn hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.port, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    fn forget_host(&mut self) {
        self.host_present = false;
        self.decoder.reset();
        self.sending.clear();
        self.sent = 0;
        self.control.clear();
        self.data.clear();
    }

    fn read(&mut self, events: &mut Vec<Event>) {
        match rustix::io::read(&self.port, self.buffer.as_mut_slice()) {
            Ok(0) => {
                self.look_again = false;
                if self.host_present {
                    self.forget_host();
                    events.push(Event::Lost);
                }
            }
            Ok(length) => {
                self.decoder.feed(&self.buffer[..length]);
                self.decode(events);
            }
            Err(Errno::INTR) => {}
            Err(_) => self.look_again = false,
        }
    }

    fn decode(&mut self, events: &mut Vec<Event>) {
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => events.push(Event::Frame(frame)),
                Ok(None) => return,
                Err(bad) => {
                    self.decoder.reset();
                    events.push(Event::Garbage(bad));
                    return;
                }
            }
        }
    }

    /// Sends what the port takes: the frame begun, then messages, then output.
    pub(crate) fn flush(&mut self) {
        while self.host_present && !self.blocked && self.refill() {
            let end = self.sending.len().min(self.sent + WRITE);
            match rustix::io::write(&self.port, &self.sending[self.sent..end]) {
                Ok(length) => self.sent += length,
                Err(Errno::INTR) => {}
                Err(_) => self.blocked = true,
            }
        }
    }

    fn refill(&mut self) -> bool {
        if self.sent < self.sending.len() {
            return true;
        }
        self.sending.clear();
        self.sent = 0;
        let next = if self.control.is_empty() {
            &mut self.data
        } else {
            &mut self.control
        };
        std::mem::swap(&mut self.sending, next);
        !self.sending.is_empty()
    }

    /// Tries again to send although the port said nothing since.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }
}

fn find_in(ports: &Path) -> Option<PathBuf> {
    fs::read_dir(ports).ok()?.flatten().find_map(|entry| {
        let name = fs::read_to_string(entry.path().join("name")).ok()?;
        (name.trim() == NAME).then(|| Path::new("/dev").join(entry.file_name()))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use godwit_wire::channel::{Kind, encode_into};
    use godwit_wire::messages::GuestMessage;

    use super::{Event, Link};

    fn linked() -> (Link, UnixStream) {
        let (host, port) = UnixStream::pair().unwrap();
        port.set_nonblocking(true).unwrap();
        let mut link = Link::over(port.into()).unwrap();
        assert_eq!(link.look(), [Event::Connected]);
        (link, host)
    }

    #[test]
    fn frames_arrive_and_the_rest_waits() {
        let (mut link, mut host) = linked();
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Kind::Stdin, 3, b"abc");
        host.write_all(&bytes[..5]).unwrap();
        assert_eq!(link.look(), []);
        host.write_all(&bytes[5..]).unwrap();
        let events = link.look();
        assert!(matches!(&events[..], [Event::Frame(f)] if f.payload == b"abc"));
    }

    #[test]
    fn messages_overtake_output() {
        let (mut link, mut host) = linked();
        link.put(Kind::Stdout, 0, b"first written");
        link.tell(&GuestMessage::Pong { id: 1 });
        link.flush();
        assert!(link.is_flushed());
        let mut seen = [0; 5];
        host.read_exact(&mut seen).unwrap();
        assert_eq!(seen[4], Kind::Message as u8);
    }

    #[test]
    fn the_last_word_waits_for_output() {
        let (mut link, mut host) = linked();
        link.put(Kind::Stdout, 0, b"out");
        link.tell_last(&GuestMessage::Pong { id: 1 });
        link.flush();
        let mut seen = [0; 5];
        host.read_exact(&mut seen).unwrap();
        assert_eq!(seen[4], Kind::Stdout as u8);
    }

    #[test]
    fn garbage_is_told_and_reading_goes_on() {
        let (mut link, mut host) = linked();
        host.write_all(&[0xff; 64]).unwrap();
        assert!(matches!(link.look()[..], [Event::Garbage(_)]));
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Kind::Eof, 1, b"");
        host.write_all(&bytes).unwrap();
        assert!(matches!(link.look()[..], [Event::Frame(_)]));
    }

    #[test]
    fn a_host_that_went_away_leaves_nothing_queued() {
        let (mut link, host) = linked();
        link.put(Kind::Stdout, 0, b"lost");
        drop(host);
        assert!(link.look().contains(&Event::Lost));
        assert!(link.is_flushed());
        assert_eq!(link.room(), 0);
    }
}
