//! Responses are made smaller for clients that take them so (spec/network.md §1.5).
//!
//! At the edge that the client came to, and as they come: what an app has said so far is never
//! held back for what it says next.

mod choice;
mod encoder;
mod packed;

pub(crate) use choice::{Accepted, choose, declare, opt_out};
pub(crate) use packed::Packed;

/// So many responses at once; each takes a megabyte, as long as its client reads.
pub(crate) const MOST_AT_ONCE: usize = 512;
