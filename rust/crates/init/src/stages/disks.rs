//! Disks by their virtio serial: `vdX` names depend on the order of devices, serials do not.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Staged, failed};

const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);

/// Returns the device node of the disk with this serial, waiting a little for it to appear.
pub(crate) fn find(serial: &str) -> Staged<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(name) = find_in(Path::new("/sys/block"), serial) {
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

fn find_in(sys_block: &Path, serial: &str) -> Option<String> {
    list_in(sys_block)
        .into_iter()
        .find(|(_, found)| found == serial)
        .map(|(name, _)| name)
}

/// Returns name and serial of every disk that has one.
pub(crate) fn list_in(sys_block: &Path) -> Vec<(String, String)> {
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

    use super::find_in;

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
