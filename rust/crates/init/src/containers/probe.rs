//! `godwit-init probe`: one question of an HTTP or TCP check, asked beside PID 1.
//!
//! A program of its own, as what answers is the guest's: PID 1 waits for nobody. It asks where the
//! containers listen, at the machine's loopback addresses, and exits with 0 when all is well.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use godwit_wire::containers::{Header, Question};

const MOST_BYTES: usize = 4_096;

/// Asks a question that is no command; tells whether the answer is a good one.
pub(crate) fn ask(question: &Question, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    match question {
        Question::Tcp { port } => connect(*port, deadline).map(|_| true),
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
            Ok(status(&mut stream, deadline)?.is_some_and(|status| (200..300).contains(&status)))
        }
        Question::Exec { .. } => Err(io::ErrorKind::Unsupported.into()),
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

    use super::{ask, request, status_of};

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
        assert!(
            ask(
                &http(answering("HTTP/1.1 204 No Content\r\n\r\n")),
                PATIENCE
            )
            .unwrap()
        );
        assert!(!ask(&http(answering("HTTP/1.1 301 Moved\r\n\r\n")), PATIENCE).unwrap());
        assert!(!ask(&http(answering("HTTP/1.0 500 No\r\n\r\n")), PATIENCE).unwrap());
        assert!(!ask(&http(answering("SSH-2.0-x\r\n")), PATIENCE).unwrap());
    }

    #[test]
    fn nobody_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(ask(&Question::Tcp { port }, PATIENCE).unwrap());
        drop(listener);
        assert!(ask(&Question::Tcp { port }, PATIENCE).is_err());
        assert!(ask(&http(port), PATIENCE).is_err());
    }

    #[test]
    fn a_silent_server_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(ask(&http(port), Duration::from_millis(50)).is_err());
        drop(listener);
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
