//! Which machine takes a request, and the connection to it.
//!
//! ```text
//! reach (try, wait) ─ decision (what next) ─ targets (an app's machines at a port)
//!   │                                      ├ wish (what was asked for)
//!   │                                      └ balance (which)
//!   └ upstream (a machine here; files: what it has without its app) | backhaul (another host's edge)
//!       └ line (a request without a body) ─ framing (where its response ends) ─ app_body
//! ```
//! `load` has the exact counts of this host's machines, and what this process has at others.

pub(crate) mod app_body;
pub(crate) mod balance;
mod decision;
pub(crate) mod departure;
pub(crate) mod files;
mod framing;
mod heard;
pub(crate) mod line;
pub(crate) mod load;
pub(crate) mod reach;
pub(crate) mod reached;
pub(crate) mod targets;
pub(crate) mod upstream;
pub(crate) mod wish;
