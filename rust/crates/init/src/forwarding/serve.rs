//! `godwit-init forward`: takes queries, passes them on, brings the answers back.
//!
//! Queries over UDP are served in one loop, each from a socket of its own; while as many wait as
//! may, further ones stay in the kernel's queue. Conversations over TCP are few and have a thread
//! each. Answers are passed on as they came: who asked reads them.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::run_spec::Resolver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::query::{self, Rules};
use crate::daemon::become_nobody;

/// Queries that wait for an answer.
const MOST_OPEN: usize = 128;
/// Conversations over TCP.
const MOST_TALKS: usize = 16;
const LARGEST: usize = 65_535;
/// From one resolver to the next.
const PER_TRY: Duration = Duration::from_millis(1_500);
/// Who asked gives up after five seconds, and asks again.
const WITHIN: Duration = Duration::from_millis(4_500);
/// How often each resolver is asked at most.
const ROUNDS: usize = 2;
const IDLE: Duration = Duration::from_secs(10);

/// A query over UDP that waits for its answer.
#[derive(Debug)]
struct Open {
    socket: UdpSocket,
    from: SocketAddr,
    query: Vec<u8>,
    tries: usize,
    again: Instant,
    end: Instant,
}

/// Forwards until it is killed; its sockets are standard input (UDP) and output (TCP).
pub(crate) fn run(resolver: &str) -> Result<Infallible, String> {
    let resolver: Resolver = serde_json::from_str(resolver).map_err(|error| error.to_string())?;
    let rules = Arc::new(Rules::new(&resolver));
    begin(&rules).map_err(|error| error.to_string())
}

fn begin(rules: &Arc<Rules>) -> io::Result<Infallible> {
    let udp = UdpSocket::from(owned(io::stdin())?);
    let tcp = TcpListener::from(owned(io::stdout())?);
    become_nobody()?;
    serve(&udp, &tcp, rules)
}

fn serve(udp: &UdpSocket, tcp: &TcpListener, rules: &Arc<Rules>) -> io::Result<Infallible> {
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    let talks = Arc::new(AtomicUsize::new(0));
    let mut open: Vec<Open> = Vec::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        wait(udp, tcp, &open);
        bring_back(udp, &mut open, &mut buffer);
        take(udp, rules, &mut open, &mut buffer);
        try_others(udp, rules, &mut open);
        converse(tcp, rules, &talks);
    }
}

fn owned(stream: impl AsFd) -> io::Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned()
}

/// Waits for a query, an answer, or the next try.
fn wait(udp: &UdpSocket, tcp: &TcpListener, open: &[Open]) {
    let mut fds = vec![PollFd::new(tcp, PollFlags::IN)];
    if open.len() < MOST_OPEN {
        fds.push(PollFd::new(udp, PollFlags::IN));
    }
    fds.extend(
        open.iter()
            .map(|one| PollFd::new(&one.socket, PollFlags::IN)),
    );
    let next = open.iter().map(|one| one.again.min(one.end)).min();
    let timeout = next.map(|when| {
        let left = when.saturating_duration_since(Instant::now());
        Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(left.subsec_nanos()),
        }
    });
    // Only a signal interrupts; then the next round waits again.
    let _ = poll(&mut fds, timeout.as_ref());
}

/// Takes new queries and asks the first resolver of each.
fn take(udp: &UdpSocket, rules: &Rules, open: &mut Vec<Open>, buffer: &mut [u8]) {
    while open.len() < MOST_OPEN {
        let Ok((length, from)) = udp.recv_from(buffer) else {
            return;
        };
        let asked = &buffer[..length];
        if !query::is_query(asked) {
            continue;
        }
        let end = Instant::now() + WITHIN;
        let Some((socket, tries)) = ask(rules, asked, 0) else {
            let _ = udp.send_to(&query::failure(asked), from);
            continue;
        };
        open.push(Open {
            socket,
            from,
            query: asked.to_vec(),
            tries,
            again: Instant::now() + PER_TRY,
            end,
        });
    }
}

/// Asks the next resolver that can be asked; returns by which socket, and how many were tried.
fn ask(rules: &Rules, asked: &[u8], tries: usize) -> Option<(UdpSocket, usize)> {
    let servers = rules.asked(asked);
    (0..servers.len()).find_map(|more| {
        let server = servers[(tries + more) % servers.len()];
        Some((send(server, asked).ok()?, tries + more + 1))
    })
}

fn send(server: SocketAddr, asked: &[u8]) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    socket.set_nonblocking(true)?;
    socket.send(asked)?;
    Ok(socket)
}

/// Passes answers on; what nobody will answer is asked of the next resolver at once.
fn bring_back(udp: &UdpSocket, open: &mut Vec<Open>, buffer: &mut [u8]) {
    open.retain_mut(|one| {
        loop {
            match one.socket.recv(buffer) {
                Ok(length) if query::answers(&buffer[..length], &one.query) => {
                    // Who asked may be gone, or takes nothing: then it asks again.
                    let _ = udp.send_to(&buffer[..length], one.from);
                    return false;
                }
                // Somebody else's words: the right answer may still come.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => {
                    // Nobody listens there.
                    one.again = Instant::now();
                    return true;
                }
            }
        }
    });
}

/// Asks the next resolver where one was silent, and says so where none is left.
fn try_others(udp: &UdpSocket, rules: &Rules, open: &mut Vec<Open>) {
    let now = Instant::now();
    open.retain_mut(|one| {
        if now < one.again && now < one.end {
            return true;
        }
        let tried_all = one.tries >= ROUNDS * rules.asked(&one.query).len();
        let next = if now >= one.end || tried_all {
            None
        } else {
            ask(rules, &one.query, one.tries)
        };
        let Some((socket, tries)) = next else {
            let _ = udp.send_to(&query::failure(&one.query), one.from);
            return false;
        };
        one.again = now + PER_TRY;
        (one.socket, one.tries) = (socket, tries);
        true
    });
}

/// Serves new conversations over TCP, each in a thread; one too many is hung up on.
fn converse(tcp: &TcpListener, rules: &Arc<Rules>, talks: &Arc<AtomicUsize>) {
    while let Ok((stream, _)) = tcp.accept() {
        if talks.load(SeqCst) >= MOST_TALKS {
            continue;
        }
        talks.fetch_add(1, SeqCst);
        let (rules, counted) = (rules.clone(), talks.clone());
        let talking = thread::Builder::new().spawn(move || {
            // Whatever ends it, the other side sees the end.
            let _ = talk(stream, &rules);
            counted.fetch_sub(1, SeqCst);
        });
        if talking.is_err() {
            talks.fetch_sub(1, SeqCst);
        }
    }
}

/// Serves one connection, query by query.
fn talk(mut stream: TcpStream, rules: &Rules) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    patient(&stream)?;
    loop {
        let asked = read(&mut stream)?;
        if !query::is_query(&asked) {
            return Ok(());
        }
        let servers = rules.asked(&asked).iter();
        let answer = servers
            .copied()
            .find_map(|server| exchange(server, &asked).ok());
        write(
            &mut stream,
            &answer.unwrap_or_else(|| query::failure(&asked)),
        )?;
    }
}

fn exchange(server: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, PER_TRY)?;
    patient(&stream)?;
    write(&mut stream, asked)?;
    read(&mut stream)
}

fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))
}

/// Reads one message, after its length (RFC 1035, §4.2.2).
fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use godwit_wire::run_spec::{Forward, Resolver};

    use super::super::query::Rules;
    use super::{read, serve, write};

    const PATIENCE: Duration = Duration::from_secs(20);
    /// `a.test`, asked for its address.
    const QUERY: &[u8] = b"\x07\x09\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x01\0\x01";
    const FAILED: u8 = 0x82;

    fn answer(query: &[u8]) -> Vec<u8> {
        let mut made = query.to_vec();
        made[2] |= 0x80;
        made.extend(b"an answer");
        made
    }

    /// Starts a forwarder that asks these resolvers for names below `test`.
    fn forwarder(resolvers: &[SocketAddr]) -> (SocketAddr, SocketAddr) {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let forwards = resolvers.iter().map(|address| Forward {
            basename: "test".into(),
            address: address.to_string(),
        });
        let rules = Arc::new(Rules::new(&Resolver {
            forwards: forwards.collect(),
            ..Resolver::default()
        }));
        thread::spawn(move || serve(&udp, &tcp, &rules));
        addresses
    }

    fn resolver() -> UdpSocket {
        let made = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        made.set_read_timeout(Some(PATIENCE)).unwrap();
        made
    }

    /// An address where nobody listens.
    fn nobody() -> SocketAddr {
        resolver().local_addr().unwrap()
    }

    fn ask(forwarder: SocketAddr) -> UdpSocket {
        let client = resolver();
        client.connect(forwarder).unwrap();
        client.send(QUERY).unwrap();
        client
    }

    fn hear(client: &UdpSocket) -> io::Result<Vec<u8>> {
        let mut buffer = [0; 512];
        let length = client.recv(&mut buffer)?;
        Ok(buffer[..length].to_vec())
    }

    #[test]
    fn an_answer_comes_back_to_who_asked_and_noise_does_not() {
        let upstream = resolver();
        let (udp, _) = forwarder(&[upstream.local_addr().unwrap()]);
        let client = ask(udp);
        let mut buffer = [0; 512];
        let (length, from) = upstream.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], QUERY);
        let mut another = answer(QUERY);
        another[0] ^= 1;
        upstream.send_to(b"noise", from).unwrap();
        upstream.send_to(&another, from).unwrap();
        upstream.send_to(&answer(QUERY), from).unwrap();
        assert_eq!(hear(&client).unwrap(), answer(QUERY));
    }

    #[test]
    fn where_nobody_listens_the_next_is_asked() {
        let upstream = resolver();
        let (udp, _) = forwarder(&[nobody(), upstream.local_addr().unwrap()]);
        let client = ask(udp);
        let mut buffer = [0; 512];
        let (_, from) = upstream.recv_from(&mut buffer).unwrap();
        upstream.send_to(&answer(QUERY), from).unwrap();
        assert_eq!(hear(&client).unwrap(), answer(QUERY));
    }

    #[test]
    fn what_nobody_answers_is_said_to_have_failed() {
        let (udp, tcp) = forwarder(&[nobody()]);
        assert_eq!(hear(&ask(udp)).unwrap()[3], FAILED);
        let mut client = TcpStream::connect(tcp).unwrap();
        write(&mut client, QUERY).unwrap();
        assert_eq!(read(&mut client).unwrap()[3], FAILED);
    }

    #[test]
    fn a_conversation_over_tcp_is_passed_on_query_by_query() {
        let upstream = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let (_, tcp) = forwarder(&[nobody(), upstream.local_addr().unwrap()]);
        let mut client = TcpStream::connect(tcp).unwrap();
        for _ in 0..2 {
            write(&mut client, QUERY).unwrap();
            let (mut asked, _) = upstream.accept().unwrap();
            assert_eq!(read(&mut asked).unwrap(), QUERY);
            write(&mut asked, &answer(QUERY)).unwrap();
            assert_eq!(read(&mut client).unwrap(), answer(QUERY));
        }
    }
}
