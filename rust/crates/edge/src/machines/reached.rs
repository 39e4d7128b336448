//! What a search comes to: a machine that takes the request, and the way there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::net::TcpStream;

use crate::backhaul::Stream;
use crate::machines::load::Slot;
use crate::machines::targets::{Place, Target, Targets};
use crate::machines::upstream::Upstream;
use crate::metrics::{Connected, MachineMetrics, Served};

/// A machine that takes the request, as far as is known here.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) slot: Slot,
    pub(crate) link: Link,
    pub(crate) targets: Arc<Targets>,
    pub(crate) machine_id: Arc<str>,
    pub(crate) internal_port: u16,
    /// Of a machine of this host.
    metrics: Option<Arc<MachineMetrics>>,
    since: Instant,
}

/// The way to a machine.
#[derive(Debug)]
pub(crate) enum Link {
    Here(Upstream),
    /// For a stream of bytes.
    Bytes(TcpStream, Connected),
    /// For datagrams, which need no connection.
    Datagrams,
    /// What carries the request, or its response, has it.
    Lent,
    There {
        stream: Stream,
        /// How long the request may wait there for a slot.
        queue: Duration,
    },
}

impl Reached {
    pub(super) fn new(slot: Slot, link: Link, targets: &Arc<Targets>, target: &Target) -> Self {
        Reached {
            slot,
            link,
            targets: targets.clone(),
            machine_id: target.machine_id.clone(),
            internal_port: target.internal_port,
            metrics: match &target.place {
                Place::Here(here) => Some(here.metrics.clone()),
                Place::There(_) => None,
            },
            since: Instant::now(),
        }
    }

    /// It responded: what is to be held until the response is at its end.
    pub(crate) fn served(&mut self, status: StatusCode) -> Option<Served> {
        let metrics = self.metrics.take()?;
        Some(Served::new(metrics, self.since, status.as_u16()))
    }
}

impl Link {
    /// Whether it leads to a machine's file server.
    pub(crate) fn is_files(&self) -> bool {
        matches!(self, Link::Here(upstream) if upstream.is_files())
    }

    /// Take it for a request.
    pub(crate) fn lend(&mut self) -> Self {
        std::mem::replace(self, Link::Lent)
    }
}
