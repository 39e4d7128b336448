//! What is let go, counted and logged when a response is at its end.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use hyper::header::HeaderValue;

use crate::machines::load::Slot;
use crate::machines::reached::Link;
use crate::metrics::{AppMetrics, Served};

/// Hangs on a response's body; dropping it means that the response broke off.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) begun: Instant,
    pub(crate) status: u16,
    pub(crate) metrics: Option<Arc<AppMetrics>>,
    pub(crate) held: Option<Held>,
    /// There only with the access log.
    pub(crate) log: Option<Box<AccessLine>>,
    pub(crate) bytes: u64,
    pub(crate) whole: bool,
}

/// The machine's side of an exchange.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) slot: Slot,
    pub(crate) machine_id: Arc<str>,
    /// `None` when the response's body has it, or it carries something else now.
    pub(crate) link: Option<Link>,
    /// Of a machine of this host.
    pub(crate) _served: Option<Served>,
}

/// What the access log says besides the outcome.
#[derive(Debug)]
pub(crate) struct AccessLine {
    pub(crate) id: HeaderValue,
    pub(crate) client: HeaderValue,
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) machine: Option<Arc<str>>,
    pub(crate) org_id: String,
}

impl Ending {
    /// So many bytes went to the client.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
        if let Some(metrics) = &self.metrics {
            metrics.data_out.fetch_add(bytes, Relaxed);
        }
    }

    /// So many bytes came from a client whose connection is a tunnel.
    pub(crate) fn came(&self, bytes: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.data_in.fetch_add(bytes, Relaxed);
        }
    }

    /// The whole response went to the client.
    pub(crate) fn complete(mut self) {
        self.whole = true;
        let Some(Held { slot, link, .. }) = self.held.take() else {
            return;
        };
        // In this order, so that who waits for the slot finds the connection.
        if let Some(Link::Here(upstream)) = link {
            upstream.give_back();
        }
        drop(slot);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let took = self.begun.elapsed();
        if let Some(metrics) = &self.metrics {
            metrics.response(self.status, took);
        }
        if let Some(line) = &self.log {
            log::info!(
                target: "access",
                org_id = line.org_id.as_str();
                "{} {} {} {}{} {} {} bytes {:.1} ms machine {}{}",
                line.id.to_str().unwrap_or_default(),
                line.client.to_str().unwrap_or_default(),
                line.method,
                line.host,
                line.path,
                self.status,
                self.bytes,
                took.as_secs_f64() * 1000.0,
                line.machine.as_deref().unwrap_or("-"),
                if self.whole { "" } else { " broken off" },
            );
        }
    }
}
