//! HTTP/2 by the h2 crate: a connection's streams, each with a request and its answer.
//!
//! ```text
//! serving: accept ─ a task for each stream: respond ─ hints, head, then body (sending) or tunnel
//! client: a task drives it ─ asking: head, body (sending) ─ hints, head, then body or tunnel
//! ```
//! hyper has both, and neither can say or hear anything before a response (docs/decisions/0052,
//! 0054). What a request means is not known here: the front and the backhaul answer, `machines`
//! and the backhaul ask. h2 does the parsing, and sees to flow control, to what peers may not do
//! and to its limits.

mod activity;
mod asking;
mod body;
mod client;
mod hints;
#[cfg(test)]
mod lab;
mod pulse;
mod respond;
mod sending;
mod serving;
mod tunnel;

pub(crate) use body::StreamBody;
pub(crate) use client::{Client, ClientSettings};
pub(crate) use hints::Hints;
pub(crate) use serving::{Beside, Settings, serve};
pub(crate) use tunnel::Tunnel;
