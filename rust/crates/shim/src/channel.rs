//! The control channel as the shim sees it: a Unix socket of the VMM, the guest behind it.
//!
//! Whatever comes through was written by the guest, and the guest's root may be anybody.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use godwit_wire::channel::{self, Decoder, Frame, Kind};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use serde::Serialize;

use crate::rate::Bucket;
use crate::vsock::{self, Call};

/// How often to try until the VMM listens.
const FIRST_TRY: Duration = Duration::from_millis(5);
/// After a break; twice as long each time. Long enough for the guest to see that we are gone.
const BACKOFF_LEAST: Duration = Duration::from_millis(250);
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// Without a break for so long the next one starts from the least again.
const FORGIVEN: Duration = Duration::from_mins(1);
/// Waiting for the guest to read: sessions get no more input above it.
const ROOM: usize = 4_194_304;
const BYTES_PER_SECOND: u64 = 33_554_432;
const BURST: u64 = 67_108_864;

#[derive(Debug)]
enum State {
    Down {
        retry: Instant,
    },
    /// The VMM was asked for the guest's port.
    Calling(Call),
    Up(OwnedFd),
    /// The guest has said its last word, or the last one before it is woken.
    Over,
}

/// What reading showed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Nothing,
    Frames(Vec<Frame>),
    /// The VMM closed its end: it is ending.
    Closed,
    /// The guest does not speak the protocol; the channel was dropped.
    Broken(String),
}

#[derive(Debug)]
pub(crate) struct Channel {
    path: String,
    /// The guest's port, where the socket leads to several.
    port: Option<u32>,
    state: State,
    ever_up: bool,
    backoff: Duration,
    broken_at: Option<Instant>,
    decoder: Decoder,
    sending: Vec<u8>,
    sent: usize,
    budget: Bucket,
}

impl Channel {
    pub(crate) fn new(path: &str, now: Instant) -> Self {
        Self {
            path: path.into(),
            port: None,
            state: State::Down { retry: now },
            ever_up: false,
            backoff: BACKOFF_LEAST,
            broken_at: None,
            decoder: Decoder::default(),
            sending: Vec::new(),
            sent: 0,
            budget: Bucket::new(BYTES_PER_SECOND, BURST, now),
        }
    }

    /// Has the socket be one that multiplexes the guest's ports.
    pub(crate) fn on_port(mut self, port: Option<u32>) -> Self {
        self.port = port;
        self
    }

    pub(crate) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Connects when it is time to try; returns whether it just did.
    pub(crate) fn connect(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Down { retry } if *retry <= now => {}
            State::Calling(call) => match call.is_accepted() {
                Ok(true) => return self.accepted(),
                Ok(false) => return false,
                Err(_) => return self.try_later(now),
            },
            _ => return false,
        }
        let opened = match self.port {
            None => open(&self.path).map(State::Up),
            Some(port) => vsock::call(&self.path, port).map(State::Calling),
        };
        let Ok(state) = opened else {
            return self.try_later(now);
        };
        self.state = state;
        self.ever_up |= self.is_up();
        self.is_up()
    }

    fn accepted(&mut self) -> bool {
        match std::mem::replace(&mut self.state, State::Over) {
            State::Calling(call) => {
                self.state = State::Up(call.into_socket());
                self.ever_up = true;
                true
            }
            other => {
                self.state = other;
                false
            }
        }
    }

    fn try_later(&mut self, now: Instant) -> bool {
        let pause = if self.ever_up {
            BACKOFF_LEAST
        } else {
            FIRST_TRY
        };
        self.state = State::Down { retry: now + pause };
        false
    }

    /// What to wait for, and for how long at most.
    pub(crate) fn wants(
        &mut self,
        now: Instant,
    ) -> (Option<(BorrowedFd<'_>, PollFlags)>, Option<Duration>) {
        let refill = self.budget.time_until(1, now);
        match &self.state {
            State::Over => (None, None),
            State::Down { retry } => (None, Some(retry.saturating_duration_since(now))),
            State::Calling(call) => (Some((call.answer(), PollFlags::IN)), None),
            State::Up(socket) => {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, refill.is_zero());
                flags.set(PollFlags::OUT, self.sent < self.sending.len());
                let patience = (!refill.is_zero()).then_some(refill.max(FIRST_TRY));
                (
                    (!flags.is_empty()).then(|| (socket.as_fd(), flags)),
                    patience,
                )
            }
        }
    }

    /// Reads once.
    pub(crate) fn read(&mut self, buffer: &mut [u8], now: Instant) -> Read {
        let State::Up(socket) = &self.state else {
            return Read::Nothing;
        };
        if self.budget.level(now) == 0 {
            return Read::Nothing;
        }
        match rustix::io::read(socket, &mut *buffer) {
            Ok(0) => self.closed(now),
            Ok(count) => {
                self.budget.drain(count as u64, now);
                self.decoder.feed(&buffer[..count]);
                self.decode(now)
            }
            Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
            Err(_) => self.closed(now),
        }
    }

    fn decode(&mut self, now: Instant) -> Read {
        let mut frames = Vec::new();
        loop {
            match self.decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return Read::Frames(frames),
                Err(bad) => return self.broken(&bad.to_string(), now),
            }
        }
    }

    /// Drops the connection of a guest that does not keep to the protocol.
    pub(crate) fn broken(&mut self, why: &str, now: Instant) -> Read {
        let quiet = self
            .broken_at
            .is_none_or(|at| now.duration_since(at) > FORGIVEN);
        self.backoff = if quiet {
            BACKOFF_LEAST
        } else {
            (self.backoff * 2).min(BACKOFF_MOST)
        };
        self.broken_at = Some(now);
        self.drop_connection(State::Down {
            retry: now + self.backoff,
        });
        Read::Broken(format!(
            "the guest does not speak the control protocol ({why}): channel dropped, \
             next try in {:.2} s",
            self.backoff.as_secs_f32()
        ))
    }

    fn closed(&mut self, now: Instant) -> Read {
        self.drop_connection(State::Down {
            retry: now + BACKOFF_LEAST,
        });
        Read::Closed
    }

    /// Connects again after having hung up.
    pub(crate) fn call_again(&mut self, now: Instant) {
        if matches!(self.state, State::Over) {
            self.state = State::Down { retry: now };
        }
    }

    /// Hangs up for good: the guest's sign that its last word was heard.
    pub(crate) fn hang_up(&mut self) {
        self.drop_connection(State::Over);
    }

    fn drop_connection(&mut self, next: State) {
        self.state = next;
        self.decoder.reset();
        self.sending.clear();
        self.sent = 0;
    }

    /// Queues a message; false when there is no guest to hear it or it reads nothing.
    pub(crate) fn tell<T: Serialize>(&mut self, message: &T) -> bool {
        self.has_room() && channel::long_message_into(&mut self.sending, 0, message)
    }

    /// Queues a frame; false when there is no guest to take it or it reads nothing.
    pub(crate) fn put(&mut self, kind: Kind, stream: u32, payload: &[u8]) -> bool {
        let room = self.has_room();
        if room {
            channel::encode_into(&mut self.sending, kind, stream, payload);
        }
        room
    }

    fn has_room(&self) -> bool {
        self.is_up() && self.sending.len() - self.sent < ROOM
    }

    /// Sends what the VMM takes.
    pub(crate) fn flush(&mut self) {
        let State::Up(socket) = &self.state else {
            return;
        };
        while self.sent < self.sending.len() {
            match rustix::net::send(socket, &self.sending[self.sent..], NO_SIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                // A broken pipe shows as the end of reading, too.
                Err(_) => break,
            }
        }
        if self.sent == self.sending.len() {
            self.sending.clear();
            self.sent = 0;
        } else if self.sent > ROOM / 4 {
            self.sending.drain(..self.sent);
            self.sent = 0;
        }
    }
}

const NO_SIGNAL: rustix::net::SendFlags = rustix::net::SendFlags::NOSIGNAL;

/// Connects without ever waiting, also to a VMM that does not accept.
fn open(path: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write};
    use std::os::unix::net::UnixListener;
    use std::time::{Duration, Instant};

    use godwit_wire::channel::{Kind, encode_into};

    use super::{Channel, Read};

    /// A socket's path; the file goes with the test.
    struct Place(String);

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn listener(name: &str) -> (UnixListener, Place) {
        let path = std::env::temp_dir().join(format!("godwit-ch-{name}-{}", std::process::id()));
        let place = Place(path.to_str().unwrap().to_owned());
        (UnixListener::bind(&path).unwrap(), place)
    }

    #[test]
    fn it_waits_for_the_vmm_to_listen() {
        let now = Instant::now();
        let mut channel = Channel::new("/no/such/socket", now);
        channel.connect(now);
        assert!(!channel.is_up());
        assert_eq!(channel.wants(now).1, Some(Duration::from_millis(5)));
        assert!(!channel.put(Kind::Stdin, 1, b"x"));
    }

    #[test]
    fn frames_pass_both_ways() {
        let (listener, place) = listener("both");
        let now = Instant::now();
        let mut channel = Channel::new(&place.0, now);
        channel.connect(now);
        let (mut guest, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        encode_into(&mut bytes, Kind::Stdout, 0, b"hi");
        guest.write_all(&bytes).unwrap();
        let Read::Frames(frames) = channel.read(&mut [0; 100], now) else {
            panic!()
        };
        assert_eq!(frames[0].payload, b"hi");
        assert!(channel.put(Kind::Stdin, 4, b"there"));
        channel.flush();
        let mut seen = [0; 14];
        guest.read_exact(&mut seen).unwrap();
        assert_eq!(&seen[9..], b"there");
    }

    #[test]
    fn garbage_costs_the_channel_longer_every_time() {
        let (listener, place) = listener("garbage");
        let mut now = Instant::now();
        let mut channel = Channel::new(&place.0, now);
        for expected in [250, 500, 1000] {
            channel.connect(now);
            let (mut guest, _) = listener.accept().unwrap();
            guest.write_all(&[0xff; 20]).unwrap();
            assert!(matches!(channel.read(&mut [0; 100], now), Read::Broken(_)));
            let wait = channel.wants(now).1.unwrap();
            assert_eq!(wait, Duration::from_millis(expected));
            channel.connect(now);
            assert!(!channel.is_up());
            now += wait;
        }
        now += Duration::from_secs(61);
        channel.connect(now);
        assert!(channel.is_up());
        channel.broken("again", now);
        assert_eq!(channel.wants(now).1, Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_guest_that_reads_nothing_is_given_no_more() {
        let (listener, place) = listener("deaf");
        let now = Instant::now();
        let mut channel = Channel::new(&place.0, now);
        channel.connect(now);
        let (_guest, _) = listener.accept().unwrap();
        let payload = vec![0; 65_536];
        let accepted = (0..1000)
            .take_while(|_| {
                channel.flush();
                channel.put(Kind::Stdin, 1, &payload)
            })
            .count();
        assert!((60..200).contains(&accepted), "{accepted} frames");
    }

    #[test]
    fn a_multiplexed_socket_is_up_once_the_guest_has_accepted() {
        let (listener, place) = listener("ports");
        let link = Place(format!("{}.link", place.0));
        std::os::unix::fs::symlink(&place.0, &link.0).unwrap();
        let now = Instant::now();
        let mut channel = Channel::new(&link.0, now).on_port(Some(1024));
        assert!(!channel.connect(now));
        let (first, _) = listener.accept().unwrap();
        drop(first);
        assert!(!channel.connect(now));
        assert_eq!(channel.wants(now).1, Some(Duration::from_millis(5)));
        let later = now + Duration::from_millis(5);
        assert!(!channel.connect(later));
        let (mut guest, _) = listener.accept().unwrap();
        assert!(channel.wants(later).0.is_some());
        assert!(!channel.put(Kind::Stdin, 1, b"too soon"));
        let mut bytes = b"OK 1073741824\n".to_vec();
        encode_into(&mut bytes, Kind::Stdout, 0, b"hi");
        guest.write_all(&bytes).unwrap();
        assert!(channel.connect(later));
        assert!(channel.is_up());
        let Read::Frames(frames) = channel.read(&mut [0; 100], later) else {
            panic!()
        };
        assert_eq!(frames[0].payload, b"hi");
    }
}
