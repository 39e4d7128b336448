//! What crosses a process: serde twins of `src/godwit/wire`, held to `contracts/golden`.
#![forbid(unsafe_code)]

pub mod channel;
pub mod components;
pub mod containers;
pub mod facts;
pub mod messages;
pub mod processes;
pub mod run_spec;
pub mod shim;
pub mod statics;
