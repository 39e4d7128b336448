//! Where containers live: a root of each one's own, what is in all of them, and their namespaces.
//!
//! A root is the container's image below a place of its own on the scratch disk, at
//! `/.fly/containers/NAME` of the machine. It outlives the container's restarts; namespaces do not:
//! every run has new ones, which a process of ours holds open. It is the first in its PID
//! namespace, collects orphans, and with its end the kernel ends whatever is left of the run.
//! Network, host name, clock and devices are the machine's, so containers meet at loopback.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use godwit_wire::containers::Container;
use godwit_wire::messages::Failed;
use godwit_wire::run_spec::RunSpec;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind, move_mount,
    open_tree, unmount,
};
use rustix::process::{Pid, PidfdFlags, WaitOptions, chroot, fchdir, pidfd_open, pivot_root};
use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space,
    move_into_thread_name_spaces,
};

use crate::stages::{Context, Staged, disks, ensure_directory, failed, identity, mounts, root};
use crate::sys;

/// What the process that holds a run's namespaces is called; by this name it knows its work.
pub(crate) const HOLDER: &str = "godwit-container";
const PROGRAM: &str = "/proc/1/exe";
const STAGE: &str = "containers";
const HOMES: &str = ".fly/containers";
const VOLUMES: &str = ".fly/volumes";
/// Where the host puts tokens, now or later.
const TOKENS: &str = "/.fly/oidc";
/// What every container finds of the machine, if the machine has it.
const SHARED: [&str; 3] = ["/.fly/api", "/.fly/cache", TOKENS];
/// Of a shared volume: everybody's, like `/tmp`.
const EVERYBODYS: u32 = 0o1777;
const SIGKILL: i32 = 9;

/// A container's root, as PID 1 sees it.
#[derive(Debug)]
pub(crate) struct Home {
    root: OwnedFd,
}

/// The namespaces of one run of a container; with it they end.
#[derive(Debug)]
pub(crate) struct Inside {
    root: OwnedFd,
    holder: i32,
    namespaces: OwnedFd,
}

/// Joins the roots of all containers and makes their volumes; the machine's own is joined already.
pub(crate) fn join(spec: &RunSpec, disks: &disks::Known) -> Staged<()> {
    let mut images = BTreeMap::from([(spec.root.image.as_str(), PathBuf::from(root::IMAGE))]);
    for container in &spec.containers {
        checked(&container.name)?;
        attach_once(&mut images, &container.image, spec, disks)?;
        let layers = Path::new(root::SCRATCH)
            .join("containers")
            .join(&container.name);
        let home = Path::new(root::JOINED).join(HOMES).join(&container.name);
        root::overlay(
            &images[container.image.as_str()],
            &layers,
            &home,
            |image, upper| identity::write_below(spec, image, upper),
        )?;
    }
    for volume in spec.volumes.iter().filter(|one| !one.image.is_empty()) {
        attach_once(&mut images, &volume.image, spec, disks)?;
    }
    make_volumes(spec, &images, disks)
}

/// Has an image mounted, however many live of it.
fn attach_once<'a>(
    images: &mut BTreeMap<&'a str, PathBuf>,
    image: &'a str,
    spec: &RunSpec,
    disks: &disks::Known,
) -> Staged<()> {
    if !images.contains_key(image) {
        let path = root::attach_image(image, &spec.root.image_filesystem, disks)?;
        images.insert(image, path);
    }
    Ok(())
}

fn checked(name: &str) -> Staged<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err(failed(STAGE, format_args!("{name:?} is no name")));
    }
    Ok(())
}

fn make_volumes(
    spec: &RunSpec,
    images: &BTreeMap<&str, PathBuf>,
    disks: &disks::Known,
) -> Staged<()> {
    let on_disk = Path::new(root::SCRATCH).join("volumes");
    // What is left of an earlier boot, on a scratch disk that lasts.
    match fs::remove_dir_all(&on_disk) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).stage(STAGE, "cannot empty the volumes");
        }
        _ => {}
    }
    for volume in &spec.volumes {
        checked(&volume.name)?;
        let place = Path::new(root::JOINED).join(VOLUMES).join(&volume.name);
        ensure_directory(STAGE, &place)?;
        let doing = || format!("cannot make the volume {}", volume.name);
        if let Some(image) = images.get(volume.image.as_str()) {
            // It stays read-only: the file system itself is.
            mount_bind(image, &place).stage(STAGE, doing())?;
            continue;
        }
        if !volume.disk.is_empty() {
            root::attach_disk(&volume.disk, &spec.root.scratch_filesystem, &place, disks)?;
        } else if volume.memory_mb == 0 {
            let kept = on_disk.join(&volume.name);
            ensure_directory(STAGE, &kept)?;
            mount_bind(&kept, &place).stage(STAGE, doing())?;
        } else {
            let size = format!("size={}m", volume.memory_mb);
            let options = std::ffi::CString::new(size).stage(STAGE, doing())?;
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("tmpfs", &place, "tmpfs", flags, options.as_c_str()).stage(STAGE, doing())?;
        }
        let mode = fs::Permissions::from_mode(EVERYBODYS);
        fs::set_permissions(&place, mode).stage(STAGE, doing())?;
    }
    Ok(())
}

/// Makes in the machine's root what containers will find there.
pub(crate) fn found() -> Staged<()> {
    ensure_directory(STAGE, TOKENS)
}

/// Puts into a container's root what its programs find there.
pub(crate) fn furnish(container: &Container) -> Staged<Home> {
    let path = Path::new("/").join(HOMES).join(&container.name);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty())
        .stage(STAGE, format_args!("cannot open {}", path.display()))?;
    let kernels = [tree("/dev")?, tree("/sys")?];
    let shared = SHARED
        .into_iter()
        .filter(|path| Path::new(path).exists())
        .map(|path| Ok((path, Path::new(path).is_dir(), tree(path)?)))
        .collect::<Staged<Vec<_>>>()?;
    let volumes = container
        .binds
        .iter()
        .map(|bind| {
            checked(&bind.volume)?;
            Ok((&bind.path, tree(&format!("/{VOLUMES}/{}", bind.volume))?))
        })
        .collect::<Staged<Vec<_>>>()?;
    within(&root, || {
        for (path, tree) in ["/dev", "/sys"].into_iter().zip(kernels) {
            attach(&tree, path, true)?;
        }
        mounts::shared_memory()?;
        ensure_directory(STAGE, "/proc")?;
        mounts::run()?;
        for (path, is_directory, tree) in shared {
            attach(&tree, path, is_directory)?;
        }
        for (path, tree) in volumes {
            attach(&tree, path, true)?;
        }
        identity::put_files(&container.files)
    })
    .stage(STAGE, "cannot enter its root")?
    .map_err(|failure| Failed {
        message: format!("container {}: {}", container.name, failure.message),
        ..failure
    })?;
    Ok(Home { root })
}

/// Returns what is mounted at a path and below it, to be attached elsewhere.
fn tree(path: &str) -> Staged<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags).stage(STAGE, format_args!("cannot take {path} along"))
}

fn attach(tree: &OwnedFd, path: &str, is_directory: bool) -> Staged<()> {
    let doing = || format!("cannot mount {path}");
    if is_directory {
        ensure_directory(STAGE, path)?;
    } else {
        if let Some(parent) = Path::new(path).parent() {
            ensure_directory(STAGE, parent)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        options.open(path).stage(STAGE, doing())?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(tree, "", CWD, path, flags).stage(STAGE, doing())
}

/// Does something with another root in place of this one; only for PID 1, which has one thread.
fn within<T>(root: &OwnedFd, work: impl FnOnce() -> T) -> io::Result<T> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/", flags, Mode::empty())?;
    fchdir(root)?;
    chroot(".")?;
    let done = work();
    fchdir(&own)?;
    chroot(".")?;
    Ok(done)
}

impl Home {
    /// Makes the namespaces of a run, and who holds them.
    pub(crate) fn enter(&self) -> io::Result<Inside> {
        let mut command = Command::new(PROGRAM);
        command
            .arg0(HOLDER)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let root = self.root.try_clone()?;
        sys::before_exec(&mut command, move || {
            // First, for a descriptor stays with the mounts of its own namespace.
            fchdir(&root)?;
            sys::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC)?;
            let safe = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
            mount(c"proc", c"proc", c"proc", safe, c"")?;
            pivot_root(c".", c".")?;
            unmount(c".", UnmountFlags::DETACH)?;
            rustix::process::chdir(c"/")?;
            rustix::process::setsid()?;
            Ok(())
        });
        let spawned = next_child(|| sys::unshare(libc::CLONE_NEWPID), || command.spawn())?;
        let holder = i32::try_from(spawned.id()).unwrap_or(0);
        let pid = Pid::from_raw(holder).ok_or(io::ErrorKind::NotFound)?;
        Ok(Inside {
            root: self.root.try_clone()?,
            holder,
            namespaces: pidfd_open(pid, PidfdFlags::empty())?,
        })
    }
}

impl Inside {
    /// Does something with the container's root in place of the machine's.
    pub(crate) fn look<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        within(&self.root, work)
    }

    /// Has a command started there; [`Arrival::arrive`] is what is left to its child.
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<std::process::Child> {
        let pids = ThreadNameSpaceType::PROCESS_ID;
        next_child(
            || Ok(move_into_thread_name_spaces(self.namespaces.as_fd(), pids)?),
            || command.spawn(),
        )
    }

    pub(crate) fn arrival(&self) -> io::Result<Arrival> {
        Ok(Arrival {
            namespaces: self.namespaces.try_clone()?,
        })
    }

    /// Ends all that is left of the run.
    pub(crate) fn end(&self) {
        // It is gone already when the kernel had to end it.
        let _ = sys::kill(self.holder, SIGKILL);
    }
}

/// What takes a fresh child into a container.
#[derive(Debug)]
pub(crate) struct Arrival {
    namespaces: OwnedFd,
}

impl Arrival {
    /// Runs in the child. System calls only.
    pub(crate) fn arrive(&self) -> io::Result<()> {
        let others = ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION;
        Ok(move_into_thread_name_spaces(
            self.namespaces.as_fd(),
            others,
        )?)
    }
}

/// Has the next child be in a PID namespace that is not ours, and no later one.
fn next_child<T>(
    go: impl FnOnce() -> io::Result<()>,
    spawn: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/ns/pid", flags, Mode::empty())?;
    go()?;
    let spawned = spawn();
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ProcessID))?;
    spawned
}

/// What the holder of a run's namespaces does: collect orphans, until it is killed.
pub(crate) fn hold() -> ExitCode {
    let Ok(children) = sys::child_events() else {
        return ExitCode::FAILURE;
    };
    loop {
        let mut fds = [PollFd::new(&children, PollFlags::IN)];
        // Only a signal interrupts; then the next round waits again.
        let _ = poll(&mut fds, None);
        while rustix::io::read(&children, &mut [0_u8; 1024]).is_ok() {}
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}
