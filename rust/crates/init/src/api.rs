//! `/.fly/api`: where the machine's own processes talk to the platform.
//!
//! The host offers streams one by one (`accept`), and whoever connects next is on the oldest of
//! them: so no more connections are taken than somebody is ready to serve. The others wait in the
//! socket's queue, which the kernel bounds. What is said here is the host's to understand.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use godwit_wire::channel::Kind;
use godwit_wire::messages::GuestMessage;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType};

use crate::link::Link;

const DIRECTORY: &str = "/.fly";
const NAME: &str = "api";
/// Connections that wait for the host to take one more.
const WAITING: i32 = 64;
/// Offers that are kept; hosts make one at a time.
const MOST_OFFERS: usize = 64;
/// The most kept for a process that does not read: twice what honest hosts can send.
const INPUT_MOST: usize = 524_288;
const CHUNK: usize = 16_384;

/// A stream the host is ready to serve, and how much may be sent on it at first.
#[derive(Debug)]
struct Offer {
    stream: u32,
    credit: u32,
}

/// The socket, and the connections that are on a stream.
#[derive(Debug, Default)]
pub(crate) struct Api {
    listener: Option<OwnedFd>,
    offers: VecDeque<Offer>,
    talks: BTreeMap<u32, Talk>,
}

impl Api {
    /// Listens in the machine's root. Without room for that a machine runs all the same.
    pub(crate) fn listen() -> Self {
        match listen_in(Path::new(DIRECTORY)) {
            Ok(listener) => Self {
                listener: Some(listener),
                ..Self::default()
            },
            Err(error) => {
                eprintln!("godwit-init: there is no {DIRECTORY}/{NAME}: {error}");
                Self::default()
            }
        }
    }

    /// Descriptors worth waiting for, given whether the host takes more.
    pub(crate) fn interests(&self, room: bool) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::new();
        if room && !self.offers.is_empty() {
            wanted.extend(self.listener.iter().map(|fd| (fd.as_fd(), PollFlags::IN)));
        }
        for talk in self.talks.values() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, room && talk.may_speak());
            flags.set(PollFlags::OUT, !talk.input.is_empty());
            if !flags.is_empty() {
                wanted.push((talk.socket.as_fd(), flags));
            }
        }
        wanted
    }

    pub(crate) fn uses(&self, stream: u32) -> bool {
        self.talks.contains_key(&stream) || self.offers.iter().any(|offer| offer.stream == stream)
    }

    /// Takes one more connection on that stream, now or when there is one.
    pub(crate) fn offer(&mut self, stream: u32, credit: u32) -> Result<(), String> {
        if self.listener.is_none() {
            return Err(format!("there is no {DIRECTORY}/{NAME}"));
        }
        if self.offers.len() >= MOST_OFFERS {
            return Err(format!("there are {MOST_OFFERS} offers already"));
        }
        self.offers.push_back(Offer { stream, credit });
        Ok(())
    }

    pub(crate) fn add_credit(&mut self, stream: u32, bytes: u32) {
        if let Some(talk) = self.talks.get_mut(&stream) {
            talk.credit = talk.credit.saturating_add(bytes);
        }
    }

    /// Queues what the host says; a host that sent far more than it was granted is hung up on.
    pub(crate) fn feed(&mut self, stream: u32, bytes: &[u8]) {
        if let Some(talk) = self.talks.get_mut(&stream) {
            talk.input.extend(bytes);
            talk.over |= talk.input.len() > INPUT_MOST;
        }
    }

    /// The host has said all: the connection ends when that is written.
    pub(crate) fn end(&mut self, stream: u32) {
        if let Some(talk) = self.talks.get_mut(&stream) {
            talk.closing = true;
        }
    }

    /// Hangs up on a stream, or takes back its offer.
    pub(crate) fn hang_up(&mut self, stream: u32, link: &mut Link) {
        self.offers.retain(|offer| offer.stream != stream);
        self.talks.remove(&stream);
        tell_end(link, stream);
    }

    /// Nobody is left who serves: what was still to be written is, as far as it is taken at once.
    pub(crate) fn drop_all(&mut self) {
        for talk in self.talks.values_mut() {
            talk.write();
        }
        self.offers.clear();
        self.talks.clear();
    }

    /// Takes connections, and moves a chunk of each in both directions.
    pub(crate) fn pump(&mut self, link: &mut Link, buffer: &mut [u8]) {
        self.take_connections(link);
        let mut over = Vec::new();
        for (stream, talk) in &mut self.talks {
            talk.pump_output(*stream, link, buffer);
            let taken = talk.write();
            if taken > 0 {
                link.grant(*stream, taken);
            }
            if talk.closing && talk.input.is_empty() {
                talk.say_goodbye(buffer);
            }
            if talk.over {
                over.push(*stream);
            }
        }
        for stream in over {
            self.talks.remove(&stream);
            tell_end(link, stream);
        }
    }

    fn take_connections(&mut self, link: &mut Link) {
        let Some(listener) = &self.listener else {
            return;
        };
        while link.room() > 0
            && let Some(offer) = self.offers.front()
        {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = net::accept_with(listener, flags) else {
                return;
            };
            let pid = net::sockopt::socket_peercred(&socket)
                .map_or(0, |peer| peer.pid.as_raw_nonzero().get());
            let stream = offer.stream;
            self.talks.insert(stream, Talk::new(socket, offer.credit));
            self.offers.pop_front();
            link.tell(&GuestMessage::ExecStarted { stream, pid });
        }
    }
}

/// Tells the host that a connection is over, behind all that came from it.
fn tell_end(link: &mut Link, stream: u32) {
    link.tell_last(&GuestMessage::ExecExited {
        stream,
        exit_code: 0,
        signal: None,
    });
}

/// One connection.
#[derive(Debug)]
struct Talk {
    socket: OwnedFd,
    /// Bytes the host still takes.
    credit: u32,
    /// Whether the process may say more.
    speaking: bool,
    input: VecDeque<u8>,
    closing: bool,
    over: bool,
}

impl Talk {
    fn new(socket: OwnedFd, credit: u32) -> Self {
        Self {
            socket,
            credit,
            speaking: true,
            input: VecDeque::new(),
            closing: false,
            over: false,
        }
    }

    fn may_speak(&self) -> bool {
        self.speaking && self.credit > 0
    }

    fn pump_output(&mut self, stream: u32, link: &mut Link, buffer: &mut [u8]) {
        let most = CHUNK
            .min(self.credit as usize)
            .min(link.room())
            .min(buffer.len());
        if !self.speaking || most == 0 {
            return;
        }
        match rustix::io::read(&self.socket, &mut buffer[..most]) {
            Ok(0) => {
                self.speaking = false;
                link.put(Kind::Eof, stream, b"");
            }
            Ok(count) => {
                link.put(Kind::Stdout, stream, &buffer[..count]);
                // At most the credit was read.
                self.credit -= u32::try_from(count).unwrap_or(self.credit);
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.over = true,
        }
    }

    /// Writes what is queued; returns how many bytes the host may send instead.
    fn write(&mut self) -> u32 {
        let mut written = 0;
        while !self.input.is_empty() {
            let (front, _) = self.input.as_slices();
            match rustix::io::write(&self.socket, front) {
                Ok(count) => {
                    self.input.drain(..count);
                    written += u32::try_from(count).unwrap_or(0);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.over = true;
                    break;
                }
            }
        }
        written
    }

    /// Closes. What lies there unread would make of the end an error for who reads the answer.
    fn say_goodbye(&mut self, buffer: &mut [u8]) {
        let _ = net::shutdown(&self.socket, Shutdown::Write);
        let _ = rustix::io::read(&self.socket, buffer);
        self.over = true;
    }
}

/// Listens for everybody in the machine, whoever its process runs as.
fn listen_in(directory: &Path) -> io::Result<OwnedFd> {
    fs::create_dir_all(directory)?;
    let path = directory.join(NAME);
    // A root that was kept has the former boot's.
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    net::bind(&listener, &SocketAddrUnix::new(&path)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
    net::listen(&listener, WAITING)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;

    use godwit_wire::channel::{Decoder, Frame, Kind};
    use godwit_wire::messages::GuestMessage;

    use super::{Api, listen_in};
    use crate::link::Link;

    /// A socket in a directory of its own, a link, and the host at its other end.
    struct Guest {
        api: Api,
        link: Link,
        host: UnixStream,
        decoder: Decoder,
        directory: PathBuf,
    }

    impl Guest {
        fn new(name: &str) -> Self {
            let directory =
                std::env::temp_dir().join(format!("godwit-api-{name}-{}", std::process::id()));
            let (host, port) = UnixStream::pair().unwrap();
            port.set_nonblocking(true).unwrap();
            host.set_nonblocking(true).unwrap();
            let mut link = Link::over(port.into()).unwrap();
            link.look();
            Self {
                api: Api {
                    listener: Some(listen_in(&directory).unwrap()),
                    ..Api::default()
                },
                link,
                host,
                decoder: Decoder::default(),
                directory,
            }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(self.directory.join("api")).unwrap()
        }

        fn turn(&mut self) -> Vec<Frame> {
            self.api.pump(&mut self.link, &mut [0; 16_384]);
            self.link.flush();
            let mut buffer = vec![0; 65_536];
            if let Ok(count) = self.host.read(&mut buffer) {
                self.decoder.feed(&buffer[..count]);
            }
            std::iter::from_fn(|| self.decoder.next_frame().unwrap()).collect()
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }

    fn message(frame: &Frame) -> GuestMessage {
        serde_json::from_slice(&frame.payload).unwrap()
    }

    #[test]
    fn a_connection_waits_until_the_host_offers_a_stream() {
        let mut guest = Guest::new("waits");
        let mut process = guest.connect();
        process.write_all(b"GET /").unwrap();
        assert_eq!(guest.turn(), []);
        assert!(guest.api.interests(true).is_empty());
        guest.api.offer(7, 3).unwrap();
        let frames = guest.turn();
        let here = i32::try_from(std::process::id()).unwrap();
        assert_eq!(
            message(&frames[0]),
            GuestMessage::ExecStarted {
                stream: 7,
                pid: here
            }
        );
        assert_eq!(
            (frames[1].kind, &frames[1].payload[..]),
            (Kind::Stdout, &b"GET"[..])
        );
        assert_eq!(guest.turn(), [], "no more than the credit");
        guest.api.add_credit(7, 100);
        assert_eq!(guest.turn()[0].payload, b" /");
    }

    #[test]
    fn an_answer_is_written_whole_before_the_connection_ends() {
        let mut guest = Guest::new("answers");
        guest.api.offer(7, 100).unwrap();
        let mut process = guest.connect();
        process.write_all(b"unread by the host").unwrap();
        guest.turn();
        guest.api.feed(7, b"HTTP/1.1 200 OK\r\n\r\n");
        guest.api.end(7);
        let frames = guest.turn();
        assert!(frames.iter().any(|frame| frame.kind == Kind::Credit));
        assert!(matches!(
            message(frames.last().unwrap()),
            GuestMessage::ExecExited { stream: 7, .. }
        ));
        let mut answer = String::new();
        process.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\n");
        assert!(!guest.api.uses(7));
    }

    #[test]
    fn a_process_that_says_no_more_is_still_answered() {
        let mut guest = Guest::new("half");
        guest.api.offer(7, 100).unwrap();
        let mut process = guest.connect();
        process.shutdown(Shutdown::Write).unwrap();
        let frames = guest.turn();
        assert_eq!(frames[1].kind, Kind::Eof);
        assert!(guest.api.interests(true).is_empty(), "it would spin");
        guest.api.feed(7, b"answer");
        guest.api.end(7);
        guest.turn();
        let mut answer = String::new();
        process.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
    }

    #[test]
    fn a_process_that_went_away_ends_the_stream() {
        let mut guest = Guest::new("gone");
        guest.api.offer(7, 100).unwrap();
        drop(guest.connect());
        guest.turn();
        guest.api.feed(7, b"nobody reads this");
        let frames = guest.turn();
        assert!(matches!(
            message(frames.last().unwrap()),
            GuestMessage::ExecExited { stream: 7, .. }
        ));
    }

    #[test]
    fn a_host_that_goes_away_leaves_the_rest_for_the_next() {
        let mut guest = Guest::new("next");
        guest.api.offer(7, 100).unwrap();
        let mut first = guest.connect();
        guest.turn();
        guest.api.feed(7, b"said before");
        guest.api.offer(8, 100).unwrap();
        guest.api.drop_all();
        let mut rest = String::new();
        first.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "said before");
        let _second = guest.connect();
        assert_eq!(guest.turn(), [], "the offer went with its host");
        guest.api.offer(9, 100).unwrap();
        assert!(matches!(
            message(&guest.turn()[0]),
            GuestMessage::ExecStarted { stream: 9, .. }
        ));
    }

    #[test]
    fn an_offer_can_be_taken_back_and_offers_are_bounded() {
        let mut guest = Guest::new("offers");
        for stream in 1..=64 {
            guest.api.offer(stream, 1).unwrap();
        }
        assert!(guest.api.offer(65, 1).is_err());
        guest.api.hang_up(1, &mut guest.link);
        let frames = guest.turn();
        assert!(matches!(
            message(&frames[0]),
            GuestMessage::ExecExited { stream: 1, .. }
        ));
        guest.api.offer(65, 1).unwrap();
    }

    #[test]
    fn the_socket_of_a_former_boot_is_replaced() {
        let guest = Guest::new("former");
        let again = listen_in(&guest.directory).unwrap();
        assert!(UnixStream::connect(guest.directory.join("api")).is_ok());
        drop(again);
    }
}
