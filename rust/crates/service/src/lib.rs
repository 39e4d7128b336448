//! What every long-lived Rust component does alike: read its configuration, log, say that it is
//! ready, and hear that it shall stop.
#![forbid(unsafe_code)]

pub mod config;
pub mod limits;
pub mod log;
pub mod notify;
pub mod signals;
pub mod utc;
