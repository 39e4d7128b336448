//! Kernel modules, from `/modules` of the initramfs.
//!
//! `/modules/order` is written with the initramfs: a line `boot NAME.ko` or `run NAME.ko` each,
//! in the order they are loaded.

use std::fs::{self, File};
use std::path::Path;

use rustix::io::Errno;

use super::{Context, Staged};

const STAGE: &str = "modules";
const DIRECTORY: &str = "/modules";

/// The moment a module is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// Before hello: what the control channel needs.
    Boot,
    /// After the run spec arrived: disks, file systems, network.
    Run,
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
            (("boot", name), When::Boot) | (("run", name), When::Run) => Some(name.trim()),
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
