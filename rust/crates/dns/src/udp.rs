//! Queries over UDP.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::sleep;

use crate::server::{Server, Verdict};

const LARGEST_QUERY: usize = 4096;
const PAUSE: Duration = Duration::from_millis(10);

/// Answer until the process ends.
pub(crate) async fn serve(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; LARGEST_QUERY];
    // Known to be writable once, answers can be sent without waiting.
    if let Err(error) = socket.writable().await {
        log::warn!("a socket cannot be written: {error}");
    }
    loop {
        let (length, source) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // ICMP errors of earlier answers are told here; they end nothing.
                log::debug!("receive: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        match server.judge(&buffer[..length], source.ip()) {
            Verdict::Drop => {}
            Verdict::Reply(reply) => {
                // Never waited for: one guest that takes nothing must not hold up the others.
                if let Err(error) = socket.try_send_to(&reply.for_udp(), source) {
                    log::debug!("{source}: {error}");
                }
            }
            Verdict::Outside(outside) => {
                let (server, socket) = (server.clone(), socket.clone());
                tokio::spawn(async move {
                    let reply = server.ask(outside).await;
                    let _ = socket.send_to(&reply.for_udp(), source).await;
                });
            }
        }
    }
}
