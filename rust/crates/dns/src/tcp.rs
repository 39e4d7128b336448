//! Queries over TCP (RFC 7766): several on a connection, one after the other.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::asker;
use crate::server::{Server, Verdict};

const IDLE: Duration = Duration::from_secs(10);
const WRITE_WITHIN: Duration = Duration::from_secs(5);
const MOST: usize = 512;
const MOST_EACH: usize = 16;
const PAUSE: Duration = Duration::from_millis(50);

/// Answer until the process ends.
pub(crate) async fn serve(server: Arc<Server>, listener: TcpListener) {
    let guests = Arc::new(Mutex::new(HashMap::new()));
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        // Who has too many connections already is not told why.
        let Some(seat) = Seat::take(&guests, asker::machine(source.ip())) else {
            continue;
        };
        let server = server.clone();
        tokio::spawn(async move {
            if let Err(error) = converse(&server, stream, source.ip()).await {
                log::debug!("{source}: {error}");
            }
            drop(seat);
        });
    }
}

async fn converse(server: &Server, mut stream: TcpStream, source: IpAddr) -> io::Result<()> {
    loop {
        // Silence and a closed connection end a conversation as they should.
        let Ok(Ok(query)) = timeout(IDLE, read_query(&mut stream)).await else {
            return Ok(());
        };
        let reply = match server.judge(&query, source) {
            Verdict::Drop => return Ok(()),
            Verdict::Reply(reply) => reply,
            Verdict::Outside(outside) => server.ask(outside).await,
        };
        let bytes = reply.for_tcp();
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes(), &bytes[..]].concat();
        timeout(WRITE_WITHIN, stream.write_all(&framed)).await??;
    }
}

async fn read_query(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut query = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

type Guests = Arc<Mutex<HashMap<Ipv6Addr, usize>>>;

/// A connection's place; dropping it makes room.
struct Seat {
    guests: Guests,
    machine: Ipv6Addr,
}

impl Seat {
    fn take(guests: &Guests, machine: Ipv6Addr) -> Option<Self> {
        let mut seated = guests.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = seated.values().sum();
        let each = seated.get(&machine).copied().unwrap_or_default();
        if all >= MOST || each >= MOST_EACH {
            return None;
        }
        seated.insert(machine, each + 1);
        drop(seated);
        Some(Seat {
            guests: guests.clone(),
            machine,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seated = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        match seated.get_mut(&self.machine) {
            Some(each) if *each > 1 => *each -= 1,
            _ => {
                seated.remove(&self.machine);
            }
        }
    }
}
