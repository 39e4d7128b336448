//! Disks by their virtio serial: `vdX` names depend on the order of devices, serials do not.
//!
//! A VMM that gives disks no serials says their order on the kernel's command line instead:
//! `godwit.disks=root,scratch` calls `vda` root and `vdb` scratch.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::run_spec::Swap;

use super::{Context, Staged, failed};
use crate::sys;

const ORDER: &str = "godwit.disks=";
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(1);
const SYS_BLOCK: &str = "/sys/block";
const SWAP: &str = "swap";

/// Sectors of a template's disks, which nothing is behind: a copy's have another size as soon as
/// its VMM has told the driver.
const NOTHING: u64 = 2047;

/// Which disks there were before anything was known of the machine: name and serial.
#[derive(Debug)]
pub(crate) struct Known {
    disks: Vec<(String, String)>,
}

impl Known {
    /// Looks at the disks that have met their driver.
    pub(crate) fn look() -> Self {
        Self {
            disks: list_in(Path::new(SYS_BLOCK)),
        }
    }

    /// Returns the device node of the disk with this serial, waiting a little for it to appear.
    pub(crate) fn find(&self, serial: &str) -> Staged<PathBuf> {
        let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let known = self.disks.iter().find(|(_, found)| found == serial);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sys_block = Path::new(SYS_BLOCK);
            let ordered =
                in_order(&arguments, serial).filter(|name| sys_block.join(name).exists());
            let name = known.map(|(name, _)| name.clone()).or(ordered);
            if let Some(name) = name.or_else(|| find_in(sys_block, serial))
                && sectors(sys_block, &name) != Some(NOTHING)
            {
                return Ok(Path::new("/dev").join(name));
            }
            if Instant::now() > deadline {
                return Err(failed(
                    "disks",
                    format_args!("no disk with the serial {serial:?}"),
                ));
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Lets the kernel move memory to the machine's swap disk.
pub(crate) fn swap_on(swap: &Swap, disks: &Known) -> Staged<()> {
    let device = disks.find(&swap.device)?;
    let path = CString::new(device.as_os_str().as_encoded_bytes()).stage(SWAP, "its name")?;
    sys::swap_on(&path).stage(SWAP, format_args!("cannot use {}", device.display()))
}

fn sectors(sys_block: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(sys_block.join(name).join("size")).ok()?;
    text.trim().parse().ok()
}

/// Returns what the kernel calls the disk of this name, if the command line says their order.
fn in_order(arguments: &str, name: &str) -> Option<String> {
    let at = listed(arguments).position(|listed| listed == name)?;
    let letter = (b'a'..=b'z').nth(at)?;
    Some(format!("vd{}", char::from(letter)))
}

fn find_in(sys_block: &Path, serial: &str) -> Option<String> {
    list_in(sys_block)
        .into_iter()
        .find(|(_, found)| found == serial)
        .map(|(name, _)| name)
}

/// Returns what the kernel calls every disk that has a name of ours, and that name.
pub(crate) fn list() -> Vec<(String, String)> {
    let arguments = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let ordered: Vec<_> = listed(&arguments)
        .filter_map(|name| Some((in_order(&arguments, name)?, name.to_owned())))
        .collect();
    if ordered.is_empty() {
        return list_in(Path::new("/sys/block"));
    }
    ordered
}

fn listed(arguments: &str) -> impl Iterator<Item = &str> {
    arguments
        .split_whitespace()
        .find_map(|word| word.strip_prefix(ORDER))
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
}

/// Returns name and serial of every disk that has one.
fn list_in(sys_block: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(sys_block) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let serial = fs::read_to_string(entry.path().join("serial")).ok()?;
            Some((
                entry.file_name().into_string().ok()?,
                serial.trim().to_owned(),
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{find_in, in_order};

    #[test]
    fn the_command_line_may_say_the_order() {
        let arguments = "console=ttyS0 godwit.disks=root,scratch,volume pci=off\n";
        assert_eq!(in_order(arguments, "root").as_deref(), Some("vda"));
        assert_eq!(in_order(arguments, "volume").as_deref(), Some("vdc"));
        assert_eq!(in_order(arguments, "swap"), None);
        assert_eq!(in_order("console=ttyS0", "root"), None);
    }

    #[test]
    fn a_disk_is_found_by_its_serial_alone() {
        let sys = std::env::temp_dir().join(format!("godwit-disks-{}", std::process::id()));
        for (name, serial) in [("vda", "scratch\n"), ("vdb", "root"), ("loop0", "")] {
            fs::create_dir_all(sys.join(name)).unwrap();
            fs::write(sys.join(name).join("serial"), serial).unwrap();
        }
        fs::create_dir_all(sys.join("ram0")).unwrap();
        assert_eq!(find_in(&sys, "root").as_deref(), Some("vdb"));
        assert_eq!(find_in(&sys, "scratch").as_deref(), Some("vda"));
        assert_eq!(find_in(&sys, "volume"), None);
        fs::remove_dir_all(sys).unwrap();
    }
}
