//! The agent's side: any number of connections, each with a bounded queue of its own.
//!
//! A connection that does not read is closed; nobody else waits for it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use godwit_wire::channel::{self, Decoder, Frame, Kind};
use rustix::event::PollFlags;
use serde::Serialize;

use crate::relay::ConnectionId;

const MAX_CONNECTIONS: usize = 64;
/// Several sessions' full credit; an agent that lets more gather is not reading.
const MAX_QUEUED: usize = 4_194_304;

#[derive(Debug)]
struct Connection {
    socket: UnixStream,
    decoder: Decoder,
    sending: Vec<u8>,
    sent: usize,
    subscribed: bool,
    dead: bool,
}

#[derive(Debug)]
pub(crate) struct Agents {
    listener: UnixListener,
    connections: BTreeMap<ConnectionId, Connection>,
    last: ConnectionId,
}

impl Agents {
    pub(crate) fn new(listener: UnixListener) -> Self {
        Self {
            listener,
            connections: BTreeMap::new(),
            last: 0,
        }
    }

    pub(crate) fn wants(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let listening = (self.listener.as_fd(), PollFlags::IN);
        std::iter::once(listening).chain(self.connections.values().map(|connection| {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, connection.sent < connection.sending.len());
            (connection.socket.as_fd(), flags)
        }))
    }

    /// Takes new connections; beyond the most they are closed at once.
    pub(crate) fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            if self.connections.len() < MAX_CONNECTIONS && socket.set_nonblocking(true).is_ok() {
                self.last += 1;
                let connection = Connection {
                    socket,
                    decoder: Decoder::of_the_host(),
                    sending: Vec::new(),
                    sent: 0,
                    subscribed: false,
                    dead: false,
                };
                self.connections.insert(self.last, connection);
            }
        }
    }

    /// Reads each connection once; returns what came in.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Vec<(ConnectionId, Frame)> {
        let mut frames = Vec::new();
        for (id, connection) in &mut self.connections {
            match connection.socket.read(buffer) {
                Ok(0) => connection.dead = true,
                Ok(count) => connection.decoder.feed(&buffer[..count]),
                Err(error) => connection.dead |= !is_for_later(error.kind()),
            }
            loop {
                match connection.decoder.next_frame() {
                    Ok(Some(frame)) => frames.push((*id, frame)),
                    Ok(None) => break,
                    Err(_) => {
                        connection.dead = true;
                        break;
                    }
                }
            }
        }
        frames
    }

    /// Takes away the connections that ended; returns which.
    pub(crate) fn bury(&mut self) -> Vec<ConnectionId> {
        let dead: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, c)| c.dead)
            .map(|(id, _)| *id)
            .collect();
        self.connections.retain(|_, connection| !connection.dead);
        dead
    }

    /// Ends a connection that broke the rules.
    pub(crate) fn drop_connection(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.dead = true;
        }
    }

    pub(crate) fn subscribe(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.subscribed = true;
        }
    }

    pub(crate) fn subscribers(&self) -> Vec<ConnectionId> {
        self.connections
            .iter()
            .filter(|(_, c)| c.subscribed)
            .map(|(id, _)| *id)
            .collect()
    }

    /// Queues a message. A connection that is gone hears nothing.
    pub(crate) fn tell<T: Serialize>(&mut self, id: ConnectionId, stream: u32, message: &T) {
        self.queue(id, |sending| {
            channel::message_into(sending, stream, message);
        });
    }

    pub(crate) fn put(&mut self, id: ConnectionId, kind: Kind, stream: u32, payload: &[u8]) {
        self.queue(id, |sending| {
            channel::encode_into(sending, kind, stream, payload);
        });
    }

    fn queue(&mut self, id: ConnectionId, add: impl FnOnce(&mut Vec<u8>)) {
        if let Some(connection) = self.connections.get_mut(&id) {
            add(&mut connection.sending);
            connection.dead |= connection.sending.len() - connection.sent > MAX_QUEUED;
        }
    }

    /// Sends what each connection takes.
    pub(crate) fn flush(&mut self) {
        for connection in self.connections.values_mut() {
            while connection.sent < connection.sending.len() {
                match connection
                    .socket
                    .write(&connection.sending[connection.sent..])
                {
                    Ok(count) => connection.sent += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        connection.dead |= !is_for_later(error.kind());
                        break;
                    }
                }
            }
            if connection.sent == connection.sending.len() {
                connection.sending = Vec::new();
                connection.sent = 0;
            }
        }
    }

    /// Whether everybody has been sent everything.
    pub(crate) fn is_flushed(&self) -> bool {
        self.connections
            .values()
            .all(|c| c.dead || c.sending.is_empty())
    }
}

fn is_for_later(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
