//! The front: from an accepted connection to a request or a stream of bytes that is handed on.
//!
//! ```text
//! ports ─ listen, handover ─ worker: accept
//!   └ greeting: PROXY header? ─ whose address? ─ TLS, PostgreSQL or plain? ─ which app, which plan?
//!        ├ connection: HTTP/1.1 and HTTP/2, one exchange for each request
//!        └ bytes: a machine, a PROXY header for it, bytes both ways (relay)
//! ```
//! Whatever ends before that is counted with its reason (`refused`).

pub(crate) mod aside;
pub(crate) mod bytes;
pub(crate) mod certificates;
pub(crate) mod connection;
mod connections;
mod crowd;
pub(crate) mod farewell;
mod frames;
pub(crate) mod gather;
pub(crate) mod greeting;
pub(crate) mod handover;
pub(crate) mod handshakes;
pub(crate) mod interim;
pub(crate) mod listen;
mod pipe;
pub(crate) mod plan;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod preface;
pub(crate) mod prefix;
pub(crate) mod proxy_header;
pub(crate) mod proxy_text;
pub(crate) mod refused;
pub(crate) mod relay;
mod stall;
pub(crate) mod tls;
pub(crate) mod tunnel;
pub(crate) mod worker;

use std::sync::Mutex;

use connections::Connections;
use godwit_wire::components::EdgeConfig;
use handshakes::Handshakes;
use prefix::Prefix;
use refused::RefusedCounts;
use tls::Tls;

/// What all connections of the front share.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) proxies: Vec<Prefix>,
    /// Whose word about their requests' clients counts.
    pub(crate) forwarders: Vec<Prefix>,
    /// `None` where this edge has no authority to make certificates with.
    pub(crate) tls: Option<Tls>,
    pub(crate) refused: RefusedCounts,
    pub(crate) handshakes: Handshakes,
    pub(crate) connections: Connections,
    pub(crate) ports: Mutex<ports::Report>,
}

impl Front {
    /// # Errors
    /// A sentence: a prefix that is none, or an authority that cannot be used.
    pub(crate) fn new(config: &EdgeConfig) -> Result<Self, String> {
        let limits = &config.limits;
        Ok(Front {
            proxies: prefix::all(&config.proxies)?,
            forwarders: prefix::all(&config.forwarders)?,
            tls: config.tls.as_ref().map(Tls::load).transpose()?,
            refused: RefusedCounts::default(),
            handshakes: Handshakes::new(
                limits.handshakes,
                limits.handshakes_of_source,
                limits.handshakes_of_app,
            ),
            connections: Connections::new(limits.connections_of_source, limits.connections_of_app),
            ports: Mutex::default(),
        })
    }
}
