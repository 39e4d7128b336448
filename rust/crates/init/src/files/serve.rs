//! `godwit-init files`: one loop over all connections, and no more memory than they need.
//!
//! A connection is in one of two phases: its request's head comes, or its answer goes. Files go by
//! `sendfile`, as far as who reads them takes it, and never through this process. There are so
//! many connections at most; whoever comes then waits in the kernel's queue until one ends, and
//! one that stands still gives way: first those that ask for nothing, then the slow.

use std::convert::Infallible;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use godwit_wire::run_spec::Statics;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, sendfile};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::thread::{
    CapabilitySet, CapabilitySets, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

use super::answer::{Answer, Asked};
use super::place::{Look, Places};
use crate::daemon::become_nobody;

const MOST: usize = 256;
/// A head is the edge's own: a path, and a few conditions.
const LONGEST_HEAD: usize = 16_384;
const MOST_HEADERS: usize = 32;
/// Of a file at a time, so that the others have their turn.
const CHUNK: usize = 262_144;
/// What the kernel may hold for one connection.
const SEND_BUFFER: usize = 131_072;
/// One that stood still for so long gives way to who waits.
const STILL: Duration = Duration::from_secs(10);
/// While all stand still and none gives way yet.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Serves until it is killed; the listening socket is standard input.
pub(crate) fn run(statics: &str) -> Result<Infallible, String> {
    let statics: Statics = serde_json::from_str(statics).map_err(|error| error.to_string())?;
    begin(&statics).map_err(|error| error.to_string())
}

fn begin(statics: &Statics) -> io::Result<Infallible> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let places = Places::below(root, statics);
    only_read()?;
    Server::new(listener, places)?.serve()
}

/// Gives up every right but to read files, whosever they are: the config names them.
fn only_read() -> io::Result<()> {
    set_keep_capabilities(true)?;
    become_nobody()?;
    let read = CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets {
        effective: read,
        permitted: read,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    Ok(set_no_new_privs(true)?)
}

#[derive(Debug)]
struct Server {
    listener: TcpListener,
    places: Places,
    connections: Vec<Connection>,
}

#[derive(Debug)]
struct Connection {
    socket: TcpStream,
    /// Of the next request, as far as it came.
    input: Vec<u8>,
    sending: Option<Sending>,
    /// When something last came or went.
    moved: Instant,
    over: bool,
}

/// An answer on its way.
#[derive(Debug)]
struct Sending {
    head: Vec<u8>,
    sent: usize,
    file: Option<Rest>,
    closes: bool,
}

/// What is still to be sent of a file.
#[derive(Debug)]
struct Rest {
    file: OwnedFd,
    at: u64,
    end: u64,
}

impl Rest {
    fn is_left(&self) -> bool {
        self.at < self.end
    }
}

impl Server {
    fn new(listener: TcpListener, places: Places) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            places,
            connections: Vec::new(),
        })
    }

    fn serve(mut self) -> io::Result<Infallible> {
        loop {
            self.turn(None);
        }
    }

    /// Waits for something to do, at most so long, and does it.
    fn turn(&mut self, patience: Option<Duration>) {
        let (takes, ready) = self.wait(patience);
        for (connection, ready) in self.connections.iter_mut().zip(ready) {
            if ready {
                connection.go_on(&self.places);
            }
        }
        self.connections.retain(|connection| !connection.over);
        if takes {
            self.take();
        }
    }

    /// Waits; returns whether somebody may have connected, and which connections are ready.
    fn wait(&self, patience: Option<Duration>) -> (bool, Vec<bool>) {
        let is_full = self.connections.len() >= MOST && self.who_gives_way().is_none();
        let patience = if is_full { Some(LOOK_AGAIN) } else { patience };
        let mut fds: Vec<PollFd<'_>> = self
            .connections
            .iter()
            .map(|one| PollFd::new(&one.socket, one.waits_for()))
            .collect();
        if !is_full {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        let patience = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(patience.subsec_nanos()),
        });
        // Only a signal interrupts; then the next turn waits again.
        if poll(&mut fds, patience.as_ref()).is_err() {
            return (false, Vec::new());
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let takes = !is_full && ready.pop().unwrap_or(false);
        (takes, ready)
    }

    /// Takes everybody who has connected, as far as there is room or room can be made.
    fn take(&mut self) {
        loop {
            let is_full = self.connections.len() >= MOST;
            let goes = self.who_gives_way().filter(|_| is_full);
            if is_full && goes.is_none() {
                return;
            }
            match self.listener.accept() {
                Ok((socket, _)) => {
                    goes.map(|index| self.connections.swap_remove(index));
                    self.connections.extend(Connection::new(socket));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// The connection that has stood still the longest, of those that may be ended for another.
    fn who_gives_way(&self) -> Option<usize> {
        let candidates = self.connections.iter().enumerate();
        candidates
            .filter(|(_, one)| one.is_idle() || one.moved.elapsed() >= STILL)
            .min_by_key(|(_, one)| (!one.is_idle(), one.moved))
            .map(|(index, _)| index)
    }
}

impl Connection {
    /// A connection that has just been made; `None` when it is broken already.
    fn new(socket: TcpStream) -> Option<Self> {
        socket.set_nonblocking(true).ok()?;
        socket.set_nodelay(true).ok()?;
        set_socket_send_buffer_size(&socket, SEND_BUFFER).ok()?;
        Some(Self {
            socket,
            input: Vec::new(),
            sending: None,
            moved: Instant::now(),
            over: false,
        })
    }

    fn waits_for(&self) -> PollFlags {
        match self.sending {
            Some(_) => PollFlags::OUT,
            None => PollFlags::IN,
        }
    }

    /// Nothing is asked on it.
    fn is_idle(&self) -> bool {
        self.sending.is_none() && self.input.is_empty()
    }

    /// Reads or sends what can be, one chunk at most.
    fn go_on(&mut self, places: &Places) {
        if self.sending.is_none() {
            self.read();
            self.answer_next(places);
        }
        if self.sending.is_none() {
            return;
        }
        match self.send() {
            Ok(true) => {
                self.over |= self.sending.take().is_some_and(|done| done.closes);
                // One that was sent behind it already.
                self.answer_next(places);
            }
            Ok(false) => {}
            Err(_) => self.over = true,
        }
    }

    fn read(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(&self.socket, &mut buffer) {
            Ok(0) => self.over = true,
            Ok(count) => {
                self.input.extend_from_slice(&buffer[..count]);
                self.moved = Instant::now();
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.over = true,
        }
    }

    /// Begins to answer the next request, if all of its head is there.
    fn answer_next(&mut self, places: &Places) {
        if self.over || self.input.is_empty() {
            return;
        }
        let mut room = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut room);
        let read = match request.parse(&self.input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.input.len() < LONGEST_HEAD => return,
            // What comes next of it would be no request.
            _ => {
                let refused = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\
                               connection: close\r\n\r\n";
                return self.sending = Some(Sending::last(refused));
            }
        };
        self.sending = Some(answer(&request, places));
        self.input.drain(..read);
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = Vec::new();
        }
    }

    /// Sends on; returns whether the answer has gone.
    fn send(&mut self) -> rustix::io::Result<bool> {
        let Some(sending) = &mut self.sending else {
            return Ok(true);
        };
        let count = match sending.send(&self.socket) {
            Err(Errno::AGAIN | Errno::INTR) => 0,
            other => other?,
        };
        if count > 0 {
            self.moved = Instant::now();
        }
        Ok(sending.is_gone())
    }
}

fn answer(request: &httparse::Request<'_, '_>, places: &Places) -> Sending {
    let mut asked = Asked::of(request);
    let target = request.path.unwrap_or_default();
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    if asked.has_body || !matches!(request.method, Some("GET" | "HEAD")) {
        // A body would be taken for a request.
        asked.closes = true;
        let refused = asked.without_file("405 Method Not Allowed", "allow: GET, HEAD\r\n");
        return Sending::of(refused, None, true);
    }
    let (told, file) = match places.look(path) {
        Look::File(found) => (asked.file(&found.facts), Some(found.file)),
        Look::Directory => {
            let location = format!("location: {path}/{query}\r\n");
            (asked.without_file("301 Moved Permanently", &location), None)
        }
        Look::Nothing => (asked.without_file("404 Not Found", ""), None),
        Look::Trouble => (asked.without_file("500 Internal Server Error", ""), None),
    };
    Sending::of(told, file, asked.closes)
}

impl Sending {
    fn of(answer: Answer, file: Option<OwnedFd>, closes: bool) -> Self {
        let rest = |(file, part): (_, std::ops::Range<u64>)| Rest {
            file,
            at: part.start,
            end: part.end,
        };
        Self {
            head: answer.head.into_bytes(),
            sent: 0,
            file: file.zip(answer.part).map(rest),
            closes,
        }
    }

    fn last(head: &str) -> Self {
        Self {
            head: head.into(),
            sent: 0,
            file: None,
            closes: true,
        }
    }

    fn is_gone(&self) -> bool {
        self.sent == self.head.len() && !self.file.as_ref().is_some_and(Rest::is_left)
    }

    /// Sends a chunk; returns how much of it was taken.
    fn send(&mut self, socket: &TcpStream) -> rustix::io::Result<usize> {
        let mut count = 0;
        if self.sent < self.head.len() {
            let mut flags = SendFlags::NOSIGNAL;
            flags.set(
                SendFlags::MORE,
                self.file.as_ref().is_some_and(Rest::is_left),
            );
            count = rustix::net::send(socket, &self.head[self.sent..], flags)?;
            self.sent += count;
        }
        let head_is_gone = self.sent == self.head.len();
        let rest = self
            .file
            .as_mut()
            .filter(|rest| head_is_gone && rest.is_left());
        let Some(rest) = rest else {
            return Ok(count);
        };
        let left = usize::try_from(rest.end - rest.at).unwrap_or(CHUNK);
        match sendfile(socket, &rest.file, Some(&mut rest.at), left.min(CHUNK)) {
            // It became shorter: what was promised cannot be kept.
            Ok(0) => Err(Errno::IO),
            Ok(sent) => Ok(count + sent),
            Err(Errno::AGAIN) if count > 0 => Ok(count),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use super::{MOST, STILL, Server};
    use crate::files::place::tests::Root;

    const SOON: Option<Duration> = Some(Duration::from_millis(5));

    /// A server in this thread, over a root of its own.
    struct Here {
        server: Server,
        root: Root,
    }

    impl Here {
        fn new(name: &str) -> Self {
            let root = Root::new(name);
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let server = Server::new(listener, root.places()).unwrap();
            Self { server, root }
        }

        fn connect(&mut self) -> TcpStream {
            let stream = TcpStream::connect(self.server.listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            self.server.turn(SOON);
            stream
        }

        /// Reads until so much has come, or the end; the server turns meanwhile.
        fn read(&mut self, stream: &mut TcpStream, least: usize) -> String {
            let (mut found, mut buffer) = (Vec::new(), vec![0; 65_536]);
            let by = Instant::now() + Duration::from_secs(30);
            while found.len() < least {
                assert!(Instant::now() < by, "only {} bytes came", found.len());
                self.server.turn(SOON);
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    // Closed with some of the request unread.
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                    Ok(count) => found.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
                }
            }
            String::from_utf8(found).unwrap()
        }

        fn ask(&mut self, request: &str) -> String {
            let mut stream = self.connect();
            stream.write_all(request.as_bytes()).unwrap();
            self.read(&mut stream, usize::MAX)
        }
    }

    fn get(path: &str) -> String {
        format!("GET {path} HTTP/1.1\r\n\r\n")
    }

    #[test]
    fn requests_are_answered_one_after_the_other_on_one_connection() {
        let mut here = Here::new("kept");
        let mut stream = here.connect();
        let several = [
            get("/static/style.css?v=1"),
            get("/static/missing"),
            "HEAD /static/img/a.png HTTP/1.1\r\n\r\n".into(),
            get("/static/docs/sub?a=b"),
            "GET /static/docs/ HTTP/1.1\r\nconnection: close\r\n\r\n".into(),
        ];
        // In pieces, as a network may bring them.
        for piece in several.concat().as_bytes().chunks(7) {
            stream.write_all(piece).unwrap();
            here.server.turn(SOON);
        }
        let all = here.read(&mut stream, usize::MAX);
        let found: Vec<&str> = all.split("HTTP/1.1 ").skip(1).collect();
        assert!(found[0].starts_with("200 OK\r\n") && found[0].ends_with("\r\n\r\nbody{}"));
        assert!(found[1].starts_with("404 ") && found[1].ends_with("\r\n\r\n"));
        assert!(found[2].contains("content-length: 3\r\n") && found[2].ends_with("\r\n\r\n"));
        assert!(found[3].contains("location: /static/docs/sub/?a=b\r\n"));
        assert!(found[4].ends_with("\r\n\r\ndocs"));
        assert_eq!(found.len(), 5);
    }

    #[test]
    fn what_is_no_request_for_a_file_ends_its_connection() {
        let mut here = Here::new("refused");
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(20_000));
        for (request, status) in [
            (
                "POST /static/style.css HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
                "405",
            ),
            (
                "GET /static/style.css HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "405",
            ),
            ("DELETE /static/style.css HTTP/1.1\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
            (&long, "400"),
        ] {
            let answer = here.ask(request);
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{answer}"
            );
            assert!(answer.contains("connection: close\r\n"), "{answer}");
        }
        let answer = here.ask("GET /static/style.css HTTP/1.0\r\n\r\n");
        assert!(answer.ends_with("body{}"), "{answer}");
    }

    #[test]
    fn a_file_goes_as_far_as_it_is_read_and_others_meanwhile() {
        let mut here = Here::new("slow");
        let size = 20 << 20;
        let file = fs::File::create(here.root.0.join("app/public/big")).unwrap();
        file.set_len(size).unwrap();
        let mut slow = here.connect();
        slow.write_all(get("/static/big").as_bytes()).unwrap();
        for _ in 0..50 {
            here.server.turn(SOON);
        }
        let rest = here.server.connections[0].sending.as_ref().unwrap();
        let gone = rest.file.as_ref().unwrap().at;
        assert!(gone > 0 && gone < size / 2, "{gone}");
        let mut quick = here.connect();
        quick
            .write_all(get("/static/style.css").as_bytes())
            .unwrap();
        assert!(here.read(&mut quick, 1).contains("body{}"));
        let all = here.read(&mut slow, usize::try_from(size).unwrap());
        assert!(all.starts_with("HTTP/1.1 200 "));
    }

    #[test]
    fn a_file_that_becomes_shorter_is_broken_off() {
        let mut here = Here::new("shorter");
        let path = here.root.0.join("app/public/big");
        let file = fs::File::create(&path).unwrap();
        file.set_len(20 << 20).unwrap();
        let mut stream = here.connect();
        stream.write_all(get("/static/big").as_bytes()).unwrap();
        for _ in 0..50 {
            here.server.turn(SOON);
        }
        file.set_len(0).unwrap();
        let found = here.read(&mut stream, usize::MAX);
        assert!(found.len() < 20 << 20);
        assert!(here.server.connections.is_empty());
    }

    #[test]
    fn who_asks_for_nothing_gives_way_and_who_reads_does_not() {
        let mut here = Here::new("full");
        let size = 20 << 20;
        let file = fs::File::create(here.root.0.join("app/public/big")).unwrap();
        file.set_len(size).unwrap();
        let mut busy: Vec<TcpStream> = (1..MOST).map(|_| here.connect()).collect();
        for stream in &mut busy {
            stream.write_all(get("/static/big").as_bytes()).unwrap();
        }
        let mut idle = here.connect();
        here.server.turn(SOON);
        here.server.turn(SOON);
        assert_eq!(here.server.connections.len(), MOST);
        let mut next = here.connect();
        assert_eq!(here.read(&mut idle, 1), "", "it gave way");
        next.write_all(get("/static/style.css").as_bytes()).unwrap();
        assert!(here.read(&mut next, 1).contains("body{}"));
        next.write_all(get("/static/big").as_bytes()).unwrap();
        here.server.turn(SOON);
        here.server.turn(SOON);

        // All are busy: the next one waits, until one has not moved for long.
        let _waits = here.connect();
        assert!(here.server.who_gives_way().is_none());
        assert_eq!(here.server.connections.len(), MOST);
        let long_ago = Instant::now().checked_sub(STILL).unwrap();
        here.server.connections[5].moved = long_ago;
        assert_eq!(here.server.who_gives_way(), Some(5));
        here.server.turn(SOON);
        let fresh = |one: &super::Connection| one.is_idle();
        assert_eq!(
            here.server
                .connections
                .iter()
                .filter(|one| fresh(one))
                .count(),
            1
        );
    }
}
