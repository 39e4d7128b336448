//! Datagrams between hosts: a worker's one socket on the mesh, and the flows that go by it.
//!
//! A packet that is lost is lost, and none waits for another; what is larger than the mesh carries
//! goes in fragments. Frames count only from the host that a flow is shared with.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::task::yield_now;

use super::flow::{Flow, now_ms};
use super::frame::{FlowId, Frame};
use super::mouth::LARGEST;
use super::receive::{Answers, TOGETHER};
use super::sockets;
use crate::edge::Edge;

/// Who receives says so this often, while the machine says nothing.
const ALIVE_EVERY_MS: u64 = 2_000;

/// A worker's trunk, once it is needed.
#[derive(Debug, Default)]
pub(crate) struct Lines(OnceLock<Arc<Trunk>>);

#[derive(Debug)]
pub(super) struct Trunk {
    socket: UdpSocket,
    /// Where this end hears.
    pub(super) port: u16,
    flows: Mutex<HashMap<Key, Half>>,
}

/// The other host, and the flow.
type Key = (IpAddr, FlowId);

/// This side of a flow.
#[derive(Clone, Debug)]
pub(super) enum Half {
    /// The client's.
    Near {
        flow: Arc<Flow>,
        answers: Arc<Answers>,
    },
    /// The machine's.
    Far { flow: Arc<Flow>, line: Arc<Line> },
}

/// The way of a flow to its other half.
#[derive(Debug)]
pub(super) struct Line {
    trunk: Arc<Trunk>,
    to: SocketAddr,
    flow: FlowId,
    told_ms: AtomicU64,
}

/// Held while a trunk knows a flow.
#[derive(Debug)]
pub(super) struct Known {
    trunk: Arc<Trunk>,
    key: Key,
}

impl Lines {
    /// The trunk of a worker; to be asked on its thread.
    ///
    /// # Errors
    /// The mesh is not there, or this host is alone.
    pub(super) fn trunk(&self, edge: &Arc<Edge>) -> io::Result<Arc<Trunk>> {
        if let Some(trunk) = self.0.get() {
            return Ok(trunk.clone());
        }
        let own = edge
            .config
            .backhaul
            .ok_or(io::ErrorKind::AddrNotAvailable)?;
        let socket = sockets::bind(SocketAddr::new(own.ip(), 0))?;
        let port = socket.local_addr()?.port();
        let trunk = Arc::new(Trunk {
            socket: UdpSocket::from_std(socket)?,
            port,
            flows: Mutex::default(),
        });
        tokio::spawn(read(trunk.clone(), edge.clone()));
        Ok(self.0.get_or_init(|| trunk).clone())
    }
}

impl Trunk {
    pub(super) fn line(self: &Arc<Self>, to: SocketAddr, flow: FlowId) -> Arc<Line> {
        Arc::new(Line {
            trunk: self.clone(),
            to,
            flow,
            told_ms: AtomicU64::new(0),
        })
    }

    /// Know a flow; nothing if there is one of that name.
    pub(super) fn know(self: &Arc<Self>, line: &Line, half: Half) -> Option<Known> {
        let key = (line.to.ip(), line.flow);
        let mut flows = self.flows();
        if flows.contains_key(&key) {
            return None;
        }
        flows.insert(key, half);
        let trunk = self.clone();
        Some(Known { trunk, key })
    }

    fn flows(&self) -> MutexGuard<'_, HashMap<Key, Half>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, edge: &Edge, from: SocketAddr, packet: &[u8]) {
        let Some(frame) = Frame::read(packet) else {
            return edge.datagrams.dropped.add("frame");
        };
        let half = self.flows().get(&(from.ip(), frame.flow())).cloned();
        match (frame, half) {
            (Frame::Data(_, datagram), Some(Half::Near { flow, answers })) => {
                flow.answer();
                answers.give(edge, datagram);
            }
            (Frame::Data(_, datagram), Some(Half::Far { flow, line })) => {
                flow.push(datagram, &edge.datagrams);
                line.alive();
            }
            (Frame::Data(flow, _), None) => {
                self.send(from, Frame::End(flow), &[]);
            }
            (Frame::Alive(_), Some(Half::Near { flow, .. })) => flow.alive(),
            (Frame::End(_), Some(Half::Near { flow, .. } | Half::Far { flow, .. })) => {
                flow.close();
            }
            (Frame::Alive(_) | Frame::End(_), _) => {}
        }
    }

    /// Whether the kernel had room for it.
    fn send(&self, to: SocketAddr, frame: Frame<'_>, datagram: &[u8]) -> bool {
        let header = frame.header();
        let parts = [IoSlice::new(&header), IoSlice::new(datagram)];
        let sent = SockRef::from(&self.socket).send_to_vectored(&parts, &to.into());
        sent.is_ok()
    }
}

async fn read(trunk: Arc<Trunk>, edge: Arc<Edge>) {
    let mut buffer = vec![0; LARGEST];
    loop {
        if let Err(error) = trunk.socket.readable().await {
            log::error!("datagrams of other hosts are not taken: {error}");
            return;
        }
        for _ in 0..TOGETHER {
            match trunk.socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => trunk.take(&edge, from, &buffer[..length]),
                Err(_) => break,
            }
        }
        yield_now().await;
    }
}

impl Line {
    /// Send a datagram to the other half; whether the kernel had room for it.
    pub(super) fn data(&self, datagram: &[u8]) -> bool {
        self.told_ms.store(now_ms(), Relaxed);
        let frame = Frame::Data(self.flow, datagram);
        self.trunk.send(self.to, frame, datagram)
    }

    /// Say that this half is over.
    pub(super) fn end(&self) {
        self.trunk.send(self.to, Frame::End(self.flow), &[]);
    }

    /// Say that datagrams arrive here, unless something was said just now.
    fn alive(&self) {
        let now = now_ms();
        if now.saturating_sub(self.told_ms.load(Relaxed)) >= ALIVE_EVERY_MS {
            self.told_ms.store(now, Relaxed);
            self.trunk.send(self.to, Frame::Alive(self.flow), &[]);
        }
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.trunk.flows().remove(&self.key);
    }
}
