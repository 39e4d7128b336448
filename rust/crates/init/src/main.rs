//! PID 1 of every microVM: turns a booted kernel into the machine its run spec describes.
//!
//! The order of a boot, each step a module that can be called and tested alone:
//!
//! 1. `stages::mounts::early`   devtmpfs, proc, sysfs in the initramfs
//! 2. `stages::modules`         the control channel's driver; the others', without their devices
//! 3. `link`                    find the port named `godwit.control`, say hello
//! 4. `supervise`               wait for `run`; from here one poll loop, never more than one thread
//! 5. `boot`                    the stages from disks to the running process
//! 6. `supervise`               output, exec sessions, signals, reaping, until the main process ends
//! 7. `ending`                  kill the rest, flush, unmount, report, power off
//!
//! What depends on the machine is done in step 5 and not before, so that a template saved while
//! waiting in step 4 can become any; what does not is done ahead, because every copy would have to
//! do it again.

use std::convert::Infallible;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

mod api;
mod boot;
mod containers;
mod daemon;
mod ending;
mod files;
mod forwarding;
mod link;
mod processes;
mod sessions;
mod signals;
mod stages;
mod stats;
mod supervise;
mod sys;
mod tsc;
mod vsock;

fn main() -> ExitCode {
    // The first of a container's processes has the same number.
    if std::env::args_os()
        .next()
        .is_some_and(|name| name == containers::housing::HOLDER)
    {
        return containers::housing::hold();
    }
    if std::process::id() != 1 {
        return on_a_host();
    }
    let error = match start() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("godwit-init: {}: {}", error.stage, error.message);
    ending::power_off()
}

fn start() -> Result<Infallible, godwit_wire::messages::Failed> {
    stages::mounts::early()?;
    stages::modules::load(stages::modules::When::Boot)?;
    if vsock::is_here() {
        stages::modules::load(stages::modules::When::Vsock)?;
    }
    let ahead = boot::Ahead::prepare()?;
    let link = link::Link::open()?;
    supervise::Supervisor::new(link, ahead)?.run()
}

/// What the same program does when it is not PID 1: measure what a guest must be told, or, inside
/// one, tell of its processes, or forward its names.
fn on_a_host() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("tsc-khz") => {
            println!("{}", tsc::measure_khz());
            ExitCode::SUCCESS
        }
        Some("ps") => print_processes(),
        Some("files") => serve("files", files::run),
        Some("forward") => serve("forward", forwarding::run),
        Some("probe") => probe(),
        Some("carry") => carry(),
        Some("put") => put(),
        Some("version") => {
            println!("{}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!(
                "godwit-init runs as PID 1 of a microVM; elsewhere: \
                 carry | files | forward | probe | ps | put | tsc-khz | version"
            );
            ExitCode::from(2)
        }
    }
}

/// Runs one of the programs that PID 1 keeps up.
fn serve(word: &str, run: fn(&str) -> Result<Infallible, String>) -> ExitCode {
    match run(&std::env::args().nth(2).unwrap_or_default()) {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("godwit-init: {word}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> ExitCode {
    let word = |at| std::env::args().nth(at).unwrap_or_default();
    let (Ok(question), Ok(seconds)) = (serde_json::from_str(&word(2)), word(3).parse()) else {
        return ExitCode::from(2);
    };
    // The exit code is all that anybody reads.
    containers::probe::ask(&question, Duration::from_secs(seconds)).into()
}

fn put() -> ExitCode {
    let path = std::env::args_os().nth(2).unwrap_or_default();
    match stages::identity::put_input(path.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::FAILURE
        }
    }
}

fn carry() -> ExitCode {
    let Some(Ok(port)) = std::env::args().nth(2).map(|word| word.parse()) else {
        return ExitCode::from(2);
    };
    match containers::probe::carry(port) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_processes() -> ExitCode {
    let mut out = std::io::stdout().lock();
    let printed = serde_json::to_writer(&mut out, &processes::gather())
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more, or the memory is out: there is nobody to tell.
        Err(_) => ExitCode::FAILURE,
    }
}
