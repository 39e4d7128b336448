//! From the run spec to the running process: the stages in their order.

use std::path::PathBuf;

use godwit_wire::messages::Failed;
use godwit_wire::run_spec::{Process, RunSpec};

use crate::api::Api;
use crate::containers::housing;
use crate::daemon::Daemon;
use crate::files;
use crate::forwarding;
use crate::stages::spawn::{self, Child, Program};
use crate::stages::{Staged, clock, disks, identity, modules, mounts, network, root};

/// What came of a run spec.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The main process and those beside it; none in a machine of containers.
    pub(crate) children: Vec<Child>,
    /// Where volumes are mounted, first mounted first.
    pub(crate) volumes: Vec<PathBuf>,
    pub(crate) api: Api,
    /// What serves in the machine for the platform.
    pub(crate) daemons: Vec<Daemon>,
}

/// What is done before anything is known of the machine, and so once for all copies of a template.
#[derive(Debug)]
pub(crate) struct Ahead {
    idle: modules::Idle,
    disks: disks::Known,
}

impl Ahead {
    /// Loads what a machine needs and prepares what is the same for all.
    pub(crate) fn prepare() -> Staged<Self> {
        let idle = modules::load_rest()?;
        modules::discard()?;
        mounts::devices()?;
        network::raise_loopback()?;
        if idle.is_empty() {
            network::quiet_ipv6();
        }
        Ok(Self {
            idle,
            disks: disks::Known::look(),
        })
    }
}

/// Turns the booted kernel into the machine. Called once; there is no way back.
pub(crate) fn enter(spec: &RunSpec, ahead: &Ahead) -> Staged<Booted> {
    clock::entropy(spec.entropy_base64.as_deref())?;
    clock::set(spec.clock_unix_ns)?;
    if !ahead.idle.is_empty() {
        ahead.idle.awaken()?;
        network::quiet_ipv6();
    }
    root::join(&spec.root, &ahead.disks, |image, upper| {
        identity::write_below(spec, image, upper)
    })?;
    housing::join(spec, &ahead.disks)?;
    root::switch()?;
    mounts::run()?;
    if let Some(swap) = &spec.swap {
        disks::swap_on(swap, &ahead.disks)?;
    }
    let volumes = root::mount_volumes(&spec.mounts, &ahead.disks)?;
    identity::assume(spec)?;
    network::configure(&spec.network)?;
    // Before the process, which may talk to it at once.
    let api = Api::listen();
    let forwarder = forwarding::begin(&spec.resolver)?;
    let server = spec.statics.as_ref().map(files::begin).transpose()?;
    let own = spec.process.iter().chain(&spec.beside);
    Ok(Booted {
        children: own.map(start).collect::<Staged<_>>()?,
        volumes,
        api,
        daemons: forwarder.into_iter().chain(server).collect(),
    })
}

fn start(process: &Process) -> Staged<Child> {
    spawn::spawn(&Program::of(process)).map_err(|refusal| Failed {
        stage: refusal.stage().into(),
        message: refusal.into_message(),
    })
}
