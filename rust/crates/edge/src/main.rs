//! `godwit-edge`: brings the public's connections to machines.
#![forbid(unsafe_code)]

mod alarm;
mod autostop;
mod backhaul;
mod bell;
mod controls;
mod datagrams;
mod drain;
mod edge;
mod front;
mod machines;
mod metrics;
mod replay;
mod request;
mod run;
mod status;
mod streams;

use std::process::ExitCode;

use godwit_service::{config, log};
use mimalloc::MiMalloc;

/// Why this one: docs/decisions/0040.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    log::set_up("edge");
    match config::from_args(std::env::args_os()).and_then(run::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            ::log::error!("{why}");
            ExitCode::FAILURE
        }
    }
}
