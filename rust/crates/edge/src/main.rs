//! `godwit-edge`: brings the public's HTTP to machines of this host.
#![forbid(unsafe_code)]

mod balance;
mod body;
mod connection;
mod departure;
mod drain;
mod edge;
mod ending;
mod exchange;
mod headers;
mod listen;
mod load;
mod metrics;
mod reach;
mod refusal;
mod request_id;
mod route;
mod run;
mod status;
mod targets;
mod tunnel;
mod upstream;
mod worker;

use std::process::ExitCode;

use godwit_service::{config, log};

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
