//! The kernel's own file systems: in the initramfs first, then as a machine's programs expect.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::{Context, Staged, ensure_directory};

const STAGE: &str = "mounts";

/// Mounts what init itself needs: /dev, /proc, /sys.
pub(crate) fn early() -> Staged<()> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC;
    attach("devtmpfs", "/dev", MountFlags::NOSUID, "mode=0755")?;
    attach("proc", "/proc", safe | MountFlags::NODEV, "")?;
    attach("sysfs", "/sys", safe | MountFlags::NODEV, "")
}

/// Mounts what goes along into every machine's root: pseudo-terminals, shared memory, queues,
/// cgroups.
///
/// What the kernel lacks is left out: only devpts is needed for certain.
pub(crate) fn devices() -> Staged<()> {
    let safe = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let files = MountFlags::NOSUID | MountFlags::NODEV;
    let terminals = MountFlags::NOSUID | MountFlags::NOEXEC;
    attach(
        "devpts",
        "/dev/pts",
        terminals,
        "gid=5,mode=620,ptmxmode=666",
    )?;
    for (kind, path, flags, options) in [
        ("tmpfs", "/dev/shm", files, "mode=1777"),
        ("mqueue", "/dev/mqueue", safe, ""),
        ("cgroup2", "/sys/fs/cgroup", safe, "nsdelegate"),
    ] {
        if let Err(error) = attach(kind, path, flags, options) {
            eprintln!("godwit-init: {}", error.message);
        }
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        match symlink(target, Path::new("/dev").join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).stage(STAGE, format_args!("/dev/{name}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts /dev/shm of a container, in place of the machine's.
pub(crate) fn shared_memory() -> Staged<()> {
    let files = MountFlags::NOSUID | MountFlags::NODEV;
    attach("tmpfs", "/dev/shm", files, "mode=1777")
}

/// Mounts /run in the machine's root.
pub(crate) fn run() -> Staged<()> {
    let kept = directories_below(Path::new("/run"));
    let files = MountFlags::NOSUID | MountFlags::NODEV;
    attach("tmpfs", "/run", files, "mode=0755")?;
    restore(&kept).stage(STAGE, "cannot prepare /run")
}

/// Ensures one pseudo file system is mounted, its directory made if need be.
fn attach(kind: &str, path: &str, flags: MountFlags, options: &str) -> Staged<()> {
    ensure_directory(STAGE, path)?;
    let options = std::ffi::CString::new(options).stage(STAGE, "mount options")?;
    match mount(kind, path, kind, flags, options.as_c_str()) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(error).stage(STAGE, format_args!("cannot mount {kind} on {path}")),
    }
}

/// A directory an image keeps below /run, with its owner and mode.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    mode: u32,
    uid: u32,
    gid: u32,
}

/// Images make directories like /run/mysqld for daemons that do not make them: they are made
/// again in the fresh /run. A few levels are enough for any of them.
const KEPT_DEPTH: usize = 4;
const KEPT_MOST: usize = 256;

fn directories_below(top: &Path) -> Vec<Kept> {
    let mut found = Vec::new();
    let mut level = vec![top.to_owned()];
    for _ in 0..KEPT_DEPTH {
        let mut below = Vec::new();
        for entry in level
            .iter()
            .filter_map(|path| fs::read_dir(path).ok())
            .flatten()
            .flatten()
        {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() && found.len() < KEPT_MOST {
                let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
                found.push(Kept {
                    path: entry.path(),
                    mode,
                    uid,
                    gid,
                });
                below.push(entry.path());
            }
        }
        level = below;
    }
    found
}

fn restore(kept: &[Kept]) -> io::Result<()> {
    for directory in kept {
        fs::create_dir(&directory.path)?;
        chown(&directory.path, Some(directory.uid), Some(directory.gid))?;
        fs::set_permissions(&directory.path, fs::Permissions::from_mode(directory.mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::{directories_below, restore};

    #[test]
    fn directories_of_run_come_back_with_their_modes() {
        let run = std::env::temp_dir().join(format!("godwit-run-{}", std::process::id()));
        fs::create_dir_all(run.join("mysqld/deep")).unwrap();
        fs::set_permissions(run.join("mysqld"), fs::Permissions::from_mode(0o1770)).unwrap();
        fs::write(run.join("mysqld/pid"), "1").unwrap();
        let kept = directories_below(&run);
        fs::remove_dir_all(&run).unwrap();
        fs::create_dir(&run).unwrap();
        restore(&kept).unwrap();
        let mode = fs::metadata(run.join("mysqld"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o1770);
        assert!(run.join("mysqld/deep").is_dir());
        assert!(!run.join("mysqld/pid").exists());
        fs::remove_dir_all(run).unwrap();
    }
}
