//! `godwit-edge`: brings the public's connections to machines.
#![forbid(unsafe_code)]

mod balance;
mod body;
mod departure;
mod drain;
mod edge;
mod ending;
mod exchange;
mod front;
mod headers;
mod load;
mod metrics;
mod reach;
mod refusal;
mod request_id;
mod route;
mod run;
mod status;
mod targets;
mod upstream;

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
