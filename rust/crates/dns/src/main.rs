//! `godwit-dns`: names for guests, at `fdaa::3` of their own host.
#![forbid(unsafe_code)]

mod asker;
mod bind;
mod cache;
mod internal;
mod limiter;
mod message;
mod names;
mod plain;
mod run;
mod server;
mod tcp;
mod udp;
mod upstream;

use std::process::ExitCode;

use godwit_service::{config, log};

fn main() -> ExitCode {
    log::set_up("dns");
    match config::from_args(std::env::args_os()).and_then(|config| run::run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            ::log::error!("{why}");
            ExitCode::FAILURE
        }
    }
}
