//! `godwit-shim --config shim.json`: one per VM, and the VMM's parent.
//!
//! It starts the VMM, speaks to the guest's init over the control channel, writes the machine's
//! log, records how it ended, and serves the agent, which may come and go. One thread, one poll
//! loop (`serve`), no unsafe code.
//!
//! Life: take the machine's lock → remove the last boot's exit record → start the VMM → serve
//! until the VMM has ended → write `exit.json` and sync it → tell whoever listens → remove the
//! socket → exit 0.
//!
//! What it decides by itself:
//! - SIGTERM or SIGINT to the shim asks the guest to stop (SIGINT, 5 s); 4 s past that the VMM is
//!   killed. `kill -9` of the shim takes the VMM along, so no VM runs unseen.
//! - A guest that sends garbage loses the channel, not its life: it is connected again after
//!   0.25 s, then twice as long each time up to 30 s; each break is a `system` line. Its exec
//!   sessions fail, its process runs on.
//! - A guest that reported its end and does not power off within 5 s is killed; its report counts.
//! - A guest that goes on from a saved state is woken before anything else is said to it, with the
//!   host's time and entropy of that moment; its run spec follows at once.
//! - The guest may send 32 MiB/s; beyond that it waits. What it logs is written at the configured
//!   rate and dropped above it, and a `system` line says how much.
//!
//! Exit codes: 0 ended and recorded, 1 failed, 2 wrong arguments or configuration, 3 another
//! shim holds the machine.
#![forbid(unsafe_code)]

use std::process::ExitCode;

mod agents;
mod channel;
mod console;
mod exit_record;
mod guard;
mod hear_agents;
mod hear_guest;
mod launch;
mod lines;
mod log;
mod machine;
mod rate;
mod relay;
mod serve;
mod settle;
mod startup;
mod vmm;
mod vsock;
mod wake;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--config", path] => run(path),
        ["launch", ..] => launch::run(&arguments[1..]),
        ["guard", ..] => guard::run(&arguments[1..]),
        ["--version"] => {
            println!("godwit-shim {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: godwit-shim --config shim.json");
            ExitCode::from(2)
        }
    }
}

fn run(path: &str) -> ExitCode {
    match startup::prepare(path)
        .and_then(serve::Shim::start)
        .and_then(serve::Shim::run)
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("godwit-shim: {problem}");
            ExitCode::from(problem.exit_code)
        }
    }
}
