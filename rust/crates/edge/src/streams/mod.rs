//! HTTP/2 by the h2 crate, as a server: a connection's streams, each with a request and its answer.
//!
//! ```text
//! serving: accept ─ a task for each stream: respond ─ hints, head, then body (sending) or tunnel
//! ```
//! hyper has a server of this kind, which can say nothing before a response (docs/decisions/0052).
//! What a request means is not known here: the front and the backhaul answer. h2 does the parsing,
//! and sees to flow control, to what peers may not do and to its limits.

mod body;
mod hints;
mod pulse;
mod respond;
mod sending;
mod serving;
mod tunnel;

pub(crate) use body::StreamBody;
pub(crate) use hints::Hints;
pub(crate) use serving::{Beside, Settings, serve};
pub(crate) use tunnel::Tunnel;
