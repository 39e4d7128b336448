//! The machine's root: image below, scratch disk above, overlayfs joining them; then volumes.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use godwit_wire::run_spec::{Mount, Root};
use rustix::mount::{MountFlags, mount, mount_move};

use super::{Context, Staged, disks, ensure_directory, failed};

const STAGE: &str = "root";
pub(crate) const IMAGE: &str = "/image";
pub(crate) const SCRATCH: &str = "/scratch";
pub(crate) const JOINED: &str = "/joined";
/// Images of containers that are not the machine's own.
const IMAGES: &str = "/images";

/// Joins the root at [`JOINED`].
///
/// `write_below` puts files into the upper layer before there is an overlay in the way; it is
/// given the image's root and the upper layer's.
pub(crate) fn join(
    root: &Root,
    disks: &disks::Known,
    write_below: impl FnOnce(&Path, &Path) -> Staged<()>,
) -> Staged<()> {
    let image = disks.find(&root.image)?;
    attach(
        &image,
        IMAGE,
        &root.image_filesystem,
        MountFlags::RDONLY,
        STAGE,
    )?;
    let scratch = disks.find(&root.scratch)?;
    attach(
        &scratch,
        SCRATCH,
        &root.scratch_filesystem,
        MountFlags::empty(),
        STAGE,
    )?;
    overlay(
        Path::new(IMAGE),
        Path::new(SCRATCH),
        Path::new(JOINED),
        write_below,
    )
}

/// Mounts the image of a container and returns where.
pub(crate) fn attach_image(
    serial: &str,
    filesystem: &str,
    disks: &disks::Known,
) -> Staged<PathBuf> {
    let image = disks.find(serial)?;
    let path = format!("{IMAGES}/{serial}");
    attach(&image, &path, filesystem, MountFlags::RDONLY, STAGE)?;
    Ok(PathBuf::from(path))
}

/// Mounts an empty disk, which is empty then.
pub(crate) fn attach_disk(
    serial: &str,
    filesystem: &str,
    place: &Path,
    disks: &disks::Known,
) -> Staged<()> {
    let device = disks.find(serial)?;
    let path = place.to_string_lossy();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    attach(&device, &path, filesystem, flags, STAGE)?;
    // Of no use on a disk that nobody ever checks.
    let _ = fs::remove_dir(place.join("lost+found"));
    Ok(())
}

/// Joins an image and a directory that takes what is written, at a place that is made.
pub(crate) fn overlay(
    image: &Path,
    layers: &Path,
    joined: &Path,
    write_below: impl FnOnce(&Path, &Path) -> Staged<()>,
) -> Staged<()> {
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    ensure_directory(STAGE, &work)?;
    upper_like_image(image, &upper).stage(STAGE, "cannot prepare the scratch disk")?;
    write_below(image, &upper)?;
    ensure_directory(STAGE, joined)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        image.display(),
        upper.display(),
        work.display()
    );
    let options = CString::new(options).stage(STAGE, "overlay options")?;
    mount(
        "overlay",
        joined,
        "overlay",
        MountFlags::empty(),
        options.as_c_str(),
    )
    .stage(STAGE, "cannot join image and scratch disk by overlayfs")
}

/// The joined root takes owner and mode from the upper layer: give it the image's.
fn upper_like_image(image: &Path, upper: &Path) -> std::io::Result<()> {
    let image = fs::metadata(image)?;
    fs::create_dir_all(upper)?;
    chown(upper, Some(image.uid()), Some(image.gid()))?;
    fs::set_permissions(upper, fs::Permissions::from_mode(image.mode() & 0o7777))
}

/// Makes the joined root `/`.
pub(crate) fn switch() -> Staged<()> {
    for name in ["dev", "proc", "sys"] {
        let target = format!("{JOINED}/{name}");
        ensure_directory(STAGE, &target)?;
        mount_move(format!("/{name}"), &target)
            .stage(STAGE, format_args!("cannot move {name}"))?;
    }
    std::env::set_current_dir(JOINED).stage(STAGE, "cannot enter the root")?;
    mount_move(".", "/").stage(STAGE, "cannot move the root into place")?;
    rustix::process::chroot(".").stage(STAGE, "cannot change into the root")?;
    std::env::set_current_dir("/").stage(STAGE, "cannot enter the root")
}

/// Mounts the further disks and returns where, in the order they were mounted.
pub(crate) fn mount_volumes(mounts: &[Mount], disks: &disks::Known) -> Staged<Vec<PathBuf>> {
    let mut mounted = Vec::new();
    for wanted in mounts {
        if !wanted.path.starts_with('/') || wanted.path.split('/').any(|part| part == "..") {
            let message = format_args!("{:?} is no place to mount a volume", wanted.path);
            return Err(failed("volumes", message));
        }
        let device = disks.find(&wanted.device)?;
        let flags = MountFlags::NODEV;
        attach(&device, &wanted.path, &wanted.filesystem, flags, "volumes")?;
        if let Some(mode) = wanted.mode {
            let doing = format_args!("the mode of {}", wanted.path);
            fs::set_permissions(&wanted.path, fs::Permissions::from_mode(mode))
                .stage("volumes", doing)?;
        }
        mounted.push(PathBuf::from(&wanted.path));
    }
    Ok(mounted)
}

fn attach(
    device: &Path,
    path: &str,
    filesystem: &str,
    flags: MountFlags,
    stage: &str,
) -> Staged<()> {
    ensure_directory(stage, path)?;
    mount(device, path, filesystem, flags, None).stage(
        stage,
        format_args!("cannot mount {} ({filesystem}) on {path}", device.display()),
    )
}
