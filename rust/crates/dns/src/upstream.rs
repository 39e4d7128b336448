//! Asking the resolvers outside: over UDP, over TCP when cut short, the next when one is silent.
//!
//! Each question goes from a socket of its own, connected to the resolver, with a random port
//! and id; whatever does not answer exactly it is passed over.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::message::{self, Asking};

/// A guest's own resolver gives up after five seconds.
const WITHIN: Duration = Duration::from_millis(4_500);
const PER_TRY: Duration = Duration::from_millis(1_500);
const LARGEST_DATAGRAM: usize = 4096;

/// The resolvers outside; the last good one is asked first.
#[derive(Debug)]
pub(crate) struct Upstreams {
    addresses: Vec<SocketAddr>,
    first: AtomicUsize,
}

impl Upstreams {
    pub(crate) fn new(addresses: Vec<SocketAddr>) -> Self {
        Upstreams {
            addresses,
            first: AtomicUsize::new(0),
        }
    }

    /// The answer to a question and its size; `None` when no resolver has one in time.
    pub(crate) async fn ask(&self, asking: &Asking) -> Option<(Message, usize)> {
        let deadline = Instant::now() + WITHIN;
        let count = self.addresses.len();
        let first = self.first.load(Relaxed);
        let mut refusal = None;
        for number in 0..2 * count {
            let index = (first + number) % count;
            let by = (Instant::now() + PER_TRY).min(deadline);
            let question = asking.onward(rand::random());
            match timeout_at(by, exchange(self.addresses[index], &question)).await {
                Ok(Ok(answer)) if is_final(&answer.0) => {
                    self.first.store(index, Relaxed);
                    return Some(answer);
                }
                Ok(Ok(answer)) => refusal = Some(answer),
                Ok(Err(error)) => log::debug!("{}: {error}", self.addresses[index]),
                Err(_) => log::debug!("{}: no answer", self.addresses[index]),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        refusal
    }
}

/// Whether another resolver would hardly know better.
fn is_final(answer: &Message) -> bool {
    matches!(
        answer.metadata.response_code,
        ResponseCode::NoError | ResponseCode::NXDomain
    )
}

async fn exchange(upstream: SocketAddr, question: &Message) -> io::Result<(Message, usize)> {
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let answer = over_udp(upstream, question, &bytes).await?;
    if answer.0.metadata.truncation {
        return over_tcp(upstream, question, &bytes).await;
    }
    Ok(answer)
}

async fn over_udp(
    upstream: SocketAddr,
    question: &Message,
    bytes: &[u8],
) -> io::Result<(Message, usize)> {
    let any: IpAddr = match upstream {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(upstream).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; LARGEST_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match Message::from_vec(&buffer[..length]) {
            Ok(answer) if message::answers(&answer, question) => return Ok((answer, length)),
            // Somebody else's words, or noise: the right answer may still come.
            _ => {}
        }
    }
}

async fn over_tcp(
    upstream: SocketAddr,
    question: &Message,
    bytes: &[u8],
) -> io::Result<(Message, usize)> {
    let mut stream = timeout(PER_TRY, TcpStream::connect(upstream)).await??;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), bytes].concat())
        .await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match Message::from_vec(&answer) {
        Ok(message) if message::answers(&message, question) => Ok((message, answer.len())),
        Ok(_) => Err(io::Error::other("an answer to something else")),
        Err(error) => Err(io::Error::other(error)),
    }
}
