//! From the run spec to the running process: the stages in their order.

use std::path::PathBuf;

use godwit_wire::messages::{Failed, TerminalSize};
use godwit_wire::run_spec::RunSpec;

use crate::stages::spawn::{self, Child, Program};
use crate::stages::{Staged, clock, identity, modules, mounts, network, root};

/// A main process with a terminal has this size; nobody is attached who could say.
const TERMINAL: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// What came of a run spec.
#[derive(Debug)]
pub(crate) struct Booted {
    pub(crate) child: Child,
    /// Where volumes are mounted, first mounted first.
    pub(crate) volumes: Vec<PathBuf>,
}

/// Turns the booted kernel into the machine. Called once; there is no way back.
pub(crate) fn enter(spec: &RunSpec) -> Staged<Booted> {
    clock::entropy(spec.entropy_base64.as_deref())?;
    clock::set(spec.clock_unix_ns)?;
    modules::load(modules::When::Run)?;
    root::join(&spec.root)?;
    root::switch()?;
    mounts::late()?;
    let volumes = root::mount_volumes(&spec.mounts)?;
    identity::assume(spec)?;
    network::configure(&spec.network)?;
    let child = start(spec)?;
    Ok(Booted { child, volumes })
}

fn start(spec: &RunSpec) -> Staged<Child> {
    let process = &spec.process;
    let program = Program {
        argv: &process.argv,
        env: &process.env,
        user: &process.user,
        working_directory: &process.working_directory,
        open_files: process.open_files,
        tty: process.tty.then_some(TERMINAL),
        stdin: false,
    };
    spawn::spawn(&program).map_err(|refusal| Failed {
        stage: refusal.stage().into(),
        message: refusal.into_message(),
    })
}
