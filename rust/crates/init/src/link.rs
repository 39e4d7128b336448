//! The control channel: the virtio port `godwit.control`, framed, with messages before output.
//!
//! Where the VMM has a vsock device instead, what is said here of the port goes for the one
//! connection the host has made; see `vsock`.
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
use crate::vsock::{self, Door};

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

/// Whether anything may be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    Free,
    /// The last word before a sleep is said.
    Hushed,
}

#[derive(Debug)]
pub(crate) struct Link {
    port: OwnedFd,
    /// Where the host connects, if it has to: then the port is its newest connection.
    door: Option<Door>,
    watch: OwnedFd,
    decoder: Decoder,
    sending: Vec<u8>,
    sent: usize,
    control: Vec<u8>,
    data: Vec<u8>,
    host_present: bool,
    voice: Voice,
    look_again: bool,
    blocked: bool,
    buffer: Vec<u8>,
}

impl Link {
    /// Finds and opens the port; its name arrives a moment after the driver.
    pub(crate) fn open() -> Staged<Self> {
        if vsock::is_here() {
            let door = Door::open().stage("link", "cannot listen on vsock")?;
            return Self::behind(door).stage("link", "cannot watch for the host");
        }
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

    /// Speaks over whatever connection the host makes.
    fn behind(door: Door) -> io::Result<Self> {
        let mut link = Self::over(vsock::nobody()?)?;
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(
            &link.watch,
            door.listener(),
            epoll::EventData::new_u64(1),
            events,
        )?;
        link.door = Some(door);
        Ok(link)
    }

    /// Speaks over any descriptor that behaves like the port.
    pub(crate) fn over(port: OwnedFd) -> io::Result<Self> {
        let watch = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&watch, &port, epoll::EventData::new_u64(0), port_events())?;
        Ok(Self {
            port,
            door: None,
            watch,
            decoder: Decoder::of_the_host(),
            sending: Vec::new(),
            sent: 0,
            control: Vec::new(),
            data: Vec::new(),
            host_present: false,
            voice: Voice::Free,
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

    /// Says one last word behind all that is queued, then takes no more to send.
    pub(crate) fn hush(&mut self, last_word: &GuestMessage) {
        self.tell_last(last_word);
        self.voice = Voice::Hushed;
    }

    /// Takes words again.
    pub(crate) fn unhush(&mut self) {
        self.voice = Voice::Free;
    }

    pub(crate) fn is_hushed(&self) -> bool {
        self.voice == Voice::Hushed
    }

    /// How many bytes of output may be added now.
    pub(crate) fn room(&self) -> usize {
        if self.takes_words() {
            DATA_ROOM.saturating_sub(self.data.len())
        } else {
            0
        }
    }

    /// Whether everything has been handed to the port.
    pub(crate) fn is_flushed(&self) -> bool {
        self.sending.is_empty() && self.control.is_empty() && self.data.is_empty()
    }

    fn takes_words(&self) -> bool {
        self.host_present && self.voice == Voice::Free
    }

    /// Queues a message. It overtakes output that was queued before it.
    pub(crate) fn tell(&mut self, message: &GuestMessage) {
        if self.takes_words() && self.control.len() < CONTROL_ROOM {
            channel::message_into(&mut self.control, 0, message);
        }
    }

    /// Queues a message behind all output queued so far.
    pub(crate) fn tell_last(&mut self, message: &GuestMessage) {
        if self.takes_words() {
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
        self.answer_door(&mut events);
        self.note_presence(&mut events);
        self.read(&mut events);
        events
    }

    /// Lets a host in that has connected; the connection it had before is void.
    fn answer_door(&mut self, events: &mut Vec<Event>) {
        if let Some(socket) = self.door.as_ref().and_then(Door::answer) {
            self.lose_host(events);
            self.turn_to(socket);
        }
    }

    /// Speaks over another connection from now on. Without room to watch it nobody is there.
    fn turn_to(&mut self, port: OwnedFd) {
        let data = epoll::EventData::new_u64(0);
        if epoll::add(&self.watch, &port, data, port_events()).is_ok() {
            self.port = port;
            self.blocked = false;
            self.look_again = true;
        }
    }

    fn lose_host(&mut self, events: &mut Vec<Event>) {
        if self.host_present {
            self.forget_host();
            events.push(Event::Lost);
        }
        // A connection that has ended stays ended, unlike a port.
        if self.door.is_some()
            && let Ok(nobody) = vsock::nobody()
        {
            self.port = nobody;
        }
    }

    fn note_presence(&mut self, events: &mut Vec<Event>) {
        let present = !self.hung_up();
        if present && !self.host_present {
            self.host_present = true;
            events.push(Event::Connected);
        } else if !present && self.host_present {
            self.lose_host(events);
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
                self.lose_host(events);
            }
            Ok(length) => {
                self.decoder.feed(&self.buffer[..length]);
                self.decode(events);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => self.look_again = false,
            Err(_) => {
                self.look_again = false;
                if self.door.is_some() {
                    self.lose_host(events);
                }
            }
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

fn port_events() -> epoll::EventFlags {
    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET
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
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use godwit_wire::channel::{Kind, encode_into};
    use godwit_wire::messages::GuestMessage;

    use super::{Event, Link};
    use crate::vsock::Door;

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
    fn after_a_hush_nothing_is_said() {
        let (mut link, mut host) = linked();
        link.put(Kind::Stdout, 0, b"before");
        link.hush(&GuestMessage::Asleep {});
        link.tell(&GuestMessage::Pong { id: 1 });
        assert_eq!(link.room(), 0);
        link.flush();
        assert!(link.is_flushed());
        let mut bytes = vec![0; 200];
        let count = host.read(&mut bytes).unwrap();
        let said = String::from_utf8_lossy(&bytes[..count]).into_owned();
        assert!(
            said.contains("before") && said.ends_with("{\"type\":\"asleep\"}"),
            "{said}"
        );
        link.unhush();
        assert!(link.room() > 0);
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

    /// A door's path; the file goes with the test.
    struct Street(PathBuf);

    impl Street {
        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.0).unwrap()
        }
    }

    impl Drop for Street {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    /// A link that the host has to connect to, and where.
    fn behind_a_door(name: &str) -> (Link, Street) {
        let path = std::env::temp_dir().join(format!("godwit-door-{name}-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let link = Link::behind(Door::over(listener.into())).unwrap();
        (link, Street(path))
    }

    #[test]
    fn a_host_that_connects_is_there_until_it_hangs_up() {
        let (mut link, street) = behind_a_door("one");
        assert_eq!(link.look(), []);
        assert!(!link.host_present());
        let mut host = street.connect();
        assert_eq!(link.look(), [Event::Connected]);
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Kind::Stdin, 3, b"abc");
        host.write_all(&bytes).unwrap();
        assert!(matches!(&link.look()[..], [Event::Frame(f)] if f.payload == b"abc"));
        link.put(Kind::Stdout, 0, b"heard");
        link.flush();
        let mut seen = [0; 14];
        host.read_exact(&mut seen).unwrap();
        assert_eq!(&seen[9..], b"heard");
        drop(host);
        assert_eq!(link.look(), [Event::Lost]);
        for _ in 0..3 {
            assert_eq!(link.look(), []);
        }
        let _again = street.connect();
        assert_eq!(link.look(), [Event::Connected]);
    }

    #[test]
    fn the_newest_connection_counts() {
        let (mut link, street) = behind_a_door("two");
        let _first = street.connect();
        assert_eq!(link.look(), [Event::Connected]);
        let mut second = street.connect();
        assert_eq!(link.look(), [Event::Lost, Event::Connected]);
        link.put(Kind::Stdout, 0, b"to you");
        link.flush();
        let mut seen = [0; 15];
        second.read_exact(&mut seen).unwrap();
        assert_eq!(&seen[9..], b"to you");
    }
}
