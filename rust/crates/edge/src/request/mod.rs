//! A request from its head to the last byte of its answer.
//!
//! ```text
//! exchange (the client's side) ─ errand (carry it, send again) ─ machines/reach ─ a machine
//!    │ route, headers, caller,           │ source (a body) ─ kept (while it may be needed again)
//!    │ introduction, forwarded,          │
//!    │ websocket, refusal                │
//!    └ ending (let go, count, log) ◄─────┘ tunnel
//! ```

pub(crate) mod arrived;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod compress;
pub(crate) mod ending;
pub(crate) mod errand;
pub(crate) mod exchange;
pub(crate) mod forwarded;
pub(crate) mod headers;
pub(crate) mod introduction;
pub(crate) mod kept;
pub(crate) mod last;
pub(crate) mod paced;
pub(crate) mod refusal;
pub(crate) mod request_id;
pub(crate) mod route;
pub(crate) mod source;
pub(crate) mod websocket;
