//! Kernel modules, from `/modules` of the initramfs.
//!
//! `/modules/order` is written with the initramfs: a line `boot NAME.ko`, `vsock NAME.ko` or
//! `run NAME.ko` each, in the order they are loaded. All are loaded before a template is saved.
//! Where the VMM tells copies that their disks are others than the template's (`godwit.devices=early`
//! on the kernel's command line), devices meet their drivers by then, too: finding out about a
//! device takes a guest longer than anything else it does. Elsewhere devices wait without a driver.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

use super::{Context, Staged};

const STAGE: &str = "modules";
const DIRECTORY: &str = "/modules";

/// The moment a module is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// What the control channel needs.
    Boot,
    /// What it needs beside that in a VM with a vsock device.
    Vsock,
    /// What a machine needs beside it: disks, file systems, network.
    Run,
}

const BUS: &str = "/sys/bus/virtio";
const EARLY: &str = "godwit.devices=early";

/// Virtio devices whose drivers are loaded but do not know of them yet.
#[derive(Debug)]
pub(crate) struct Idle {
    devices: Vec<String>,
}

/// Loads what a machine needs, and lets it drive nothing unless the VMM can cope.
pub(crate) fn load_rest() -> Staged<Idle> {
    let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    if arguments.split_whitespace().any(|word| word == EARLY) {
        load(When::Run)?;
        return Ok(Idle {
            devices: Vec::new(),
        });
    }
    tell_bus("drivers_autoprobe", "0")?;
    load(When::Run)?;
    let mut devices: Vec<String> = fs::read_dir(format!("{BUS}/devices"))
        .stage(STAGE, "cannot list the virtio devices")?
        .flatten()
        .filter(|entry| !entry.path().join("driver").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    devices.sort_unstable();
    Ok(Idle { devices })
}

/// Frees what the initramfs holds; everything is loaded.
pub(crate) fn discard() -> Staged<()> {
    fs::remove_dir_all(DIRECTORY).stage(STAGE, "cannot free the modules")?;
    fs::remove_file("/init").stage(STAGE, "cannot free the program")
}

impl Idle {
    /// Whether every device has met its driver.
    pub(crate) fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Has every device driven.
    pub(crate) fn awaken(&self) -> Staged<()> {
        if self.is_empty() {
            return Ok(());
        }
        tell_bus("drivers_autoprobe", "1")?;
        self.devices
            .iter()
            .try_for_each(|device| tell_bus("drivers_probe", device))
    }
}

fn tell_bus(file: &str, word: &str) -> Staged<()> {
    fs::write(format!("{BUS}/{file}"), word)
        .stage(STAGE, format_args!("cannot write {word} to {BUS}/{file}"))
}

/// Loads the modules of one moment. One that is loaded already is fine.
pub(crate) fn load(when: When) -> Staged<()> {
    let directory = Path::new(DIRECTORY);
    let order = fs::read_to_string(directory.join("order"))
        .stage(STAGE, "cannot read the initramfs's /modules/order")?;
    for name in wanted(&order, when) {
        let file = File::open(directory.join(name)).stage(STAGE, format_args!("{name}"))?;
        match rustix::system::finit_module(&file, c"", 0) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).stage(STAGE, format_args!("cannot load {name}")),
        }
    }
    Ok(())
}

fn wanted(order: &str, when: When) -> impl Iterator<Item = &str> {
    order
        .lines()
        .filter_map(move |line| match (line.split_once(' ')?, when) {
            (("boot", name), When::Boot)
            | (("vsock", name), When::Vsock)
            | (("run", name), When::Run) => Some(name.trim()),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::{When, wanted};

    #[test]
    fn each_moment_has_its_modules_in_order() {
        let order = "boot virtio_ring.ko\nboot virtio.ko\nrun virtio_blk.ko\n\nnonsense\n";
        let boot: Vec<_> = wanted(order, When::Boot).collect();
        let run: Vec<_> = wanted(order, When::Run).collect();
        assert_eq!(boot, ["virtio_ring.ko", "virtio.ko"]);
        assert_eq!(run, ["virtio_blk.ko"]);
    }
}
