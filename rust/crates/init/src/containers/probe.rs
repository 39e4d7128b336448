//! `godwit-init probe`: one question of an HTTP or TCP check, asked beside PID 1.
//!
//! A program of its own, as what answers is the guest's: PID 1 waits for nobody. It asks where the
//! containers listen, at the machine's loopback addresses, and exits with 0 when all is well.
//! `godwit-init carry` is how the host itself asks there: it joins a port and standard streams.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use godwit_wire::containers::{Header, Question};

use crate::sessions::Ended;

const MOST_BYTES: usize = 4_096;
/// What a probe exits with: nobody answered, or not in HTTP; and this more than the first digit
/// of a status that is no success.
const NO_ANSWER: u8 = 1;
const STATUS: u8 = 10;
const CONNECT_S: u64 = 60;
const CHUNK: usize = 16_384;

/// Asks a question that is no command; returns what to exit with.
pub(crate) fn ask(question: &Question, patience: Duration) -> u8 {
    match answer(question, patience) {
        Ok(Some(status)) if (200..300).contains(&status) => 0,
        Ok(Some(status)) => STATUS + u8::try_from(status / 100 % 10).unwrap_or(0),
        Ok(None) | Err(_) => NO_ANSWER,
    }
}

/// Says what a question's program has exited with.
pub(crate) fn in_words(question: &Question, ended: Ended, timeout_s: u64) -> String {
    let late = ended.signal == Some(libc::SIGKILL);
    match (question, u8::try_from(ended.exit_code).unwrap_or(NO_ANSWER)) {
        _ if late => format!("no answer within {timeout_s} s"),
        (Question::Exec { .. }, code) => format!("exit code {code}"),
        (Question::Tcp { port }, 0) => format!("connected to port {port}"),
        (Question::Tcp { port }, _) => format!("port {port} takes no connection"),
        (_, 0) => "HTTP 2xx".into(),
        (_, code) if code > STATUS => format!("HTTP {}xx", code - STATUS),
        _ => "no answer by HTTP".into(),
    }
}

/// Joins a port of the machine's loopback addresses and standard streams, until both ends are over.
pub(crate) fn carry(port: u16) -> io::Result<()> {
    let stream = connect(port, Instant::now() + Duration::from_secs(CONNECT_S))?;
    let towards = stream.try_clone()?;
    // What comes from the host ends with it; the process does when the port has said all.
    std::thread::spawn(move || {
        let _ = copy(io::stdin(), &towards);
        let _ = towards.shutdown(Shutdown::Write);
    });
    copy(stream, io::stdout())
}

fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = [0; CHUNK];
    loop {
        let count = from.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count])?;
        to.flush()?;
    }
}

/// Returns the status of an answer; 200 of a port that only has to take a connection.
fn answer(question: &Question, patience: Duration) -> io::Result<Option<u16>> {
    let deadline = Instant::now() + patience;
    match question {
        Question::Tcp { port } => connect(*port, deadline).map(|_| Some(200)),
        Question::Http {
            port,
            method,
            path,
            headers,
        } => {
            let mut stream = connect(*port, deadline)?;
            let request = request(*port, method, path, headers);
            stream.set_write_timeout(Some(left(deadline)?))?;
            stream.write_all(request.as_bytes())?;
            status(&mut stream, deadline)
        }
        Question::Exec { .. } | Question::Host {} => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn connect(port: u16, deadline: Instant) -> io::Result<TcpStream> {
    let at =
        |address: IpAddr| TcpStream::connect_timeout(&(address, port).into(), left(deadline)?);
    let four = at(Ipv4Addr::LOCALHOST.into());
    four.or_else(|_| at(Ipv6Addr::LOCALHOST.into()))
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

fn request(port: u16, method: &str, path: &str, headers: &[Header]) -> String {
    let host = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut lines = vec![
        format!("{method} {path} HTTP/1.1"),
        "Connection: close".to_owned(),
    ];
    let named = |name: &str| {
        headers
            .iter()
            .any(|one| one.name.eq_ignore_ascii_case(name))
    };
    if !named("host") {
        lines.push(format!("Host: {host}"));
    }
    if !named("user-agent") {
        lines.push("User-Agent: godwit-check".to_owned());
    }
    let given = headers.iter();
    lines.extend(given.map(|Header { name, value }| format!("{name}: {value}")));
    lines.join("\r\n") + "\r\n\r\n"
}

/// Reads as far as the status, `None` when what comes is no HTTP.
fn status(stream: &mut TcpStream, deadline: Instant) -> io::Result<Option<u16>> {
    let mut read = Vec::new();
    while read.len() < MOST_BYTES && !read.contains(&b'\n') {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let mut buffer = [0; 512];
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        read.extend_from_slice(&buffer[..count]);
    }
    Ok(status_of(&read))
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_whitespace();
    words.next().filter(|word| word.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;
    use std::time::Duration;

    use godwit_wire::containers::{Header, Question};

    use super::{ask, in_words, request, status_of};
    use crate::sessions::Ended;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn http(port: u16) -> Question {
        Question::Http {
            port,
            method: "GET".into(),
            path: "/up".into(),
            headers: Vec::new(),
        }
    }

    fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 64];
            let count = stream.read(&mut asked).unwrap();
            assert!(asked[..count].starts_with(b"GET /up HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        port
    }

    #[test]
    fn only_a_success_is_a_good_answer() {
        let asked = |answer| ask(&http(answering(answer)), PATIENCE);
        assert_eq!(asked("HTTP/1.1 204 No Content\r\n\r\n"), 0);
        assert_eq!(asked("HTTP/1.1 301 Moved\r\n\r\n"), 13);
        assert_eq!(asked("HTTP/1.0 500 No\r\n\r\n"), 15);
        assert_eq!(asked("SSH-2.0-x\r\n"), 1);
    }

    #[test]
    fn nobody_there_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(&Question::Tcp { port }, PATIENCE), 0);
        drop(listener);
        assert_eq!(ask(&Question::Tcp { port }, PATIENCE), 1);
        assert_eq!(ask(&http(port), PATIENCE), 1);
    }

    #[test]
    fn a_silent_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(ask(&http(port), Duration::from_millis(50)), 1);
        drop(listener);
    }

    #[test]
    fn an_exit_code_is_said_in_words() {
        let ended = |exit_code, signal| Ended { exit_code, signal };
        let said = |question: &Question, ended| in_words(question, ended, 5);
        let exec = Question::Exec { argv: Vec::new() };
        let (http, tcp) = (http(80), Question::Tcp { port: 80 });
        assert_eq!(said(&http, ended(0, None)), "HTTP 2xx");
        assert_eq!(said(&http, ended(15, None)), "HTTP 5xx");
        assert_eq!(said(&http, ended(1, None)), "no answer by HTTP");
        assert_eq!(said(&tcp, ended(1, None)), "port 80 takes no connection");
        assert_eq!(said(&exec, ended(15, None)), "exit code 15");
        assert_eq!(said(&exec, ended(137, Some(9))), "no answer within 5 s");
    }

    #[test]
    fn headers_that_are_given_replace_our_own() {
        let header = Header {
            name: "host".into(),
            value: "app.example".into(),
        };
        let text = request(80, "HEAD", "/", &[header]);
        assert!(text.starts_with("HEAD / HTTP/1.1\r\n") && text.ends_with("\r\n\r\n"));
        assert!(text.contains("host: app.example\r\n") && !text.contains("Host: 127"));
    }

    #[test]
    fn a_status_is_a_number_behind_a_version() {
        assert_eq!(status_of(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_of(b"HTTP/1.1 abc\r\n"), None);
        assert_eq!(status_of(b""), None);
    }
}
