//! The only unsafe code of Godwit: system calls for which rustix has no safe form.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Blocks SIGCHLD and returns a descriptor that is readable when a child has ended.
pub(crate) fn child_events() -> io::Result<OwnedFd> {
    // SAFETY: `set` is initialised by `sigemptyset` before any other use, and outlives the calls.
    let fd = unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal by number, real-time signals included; a negative `pid` names a group.
pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` takes no pointers.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives the caller namespaces of its own, or its children, if it is one of PIDs.
///
/// Nothing but namespaces: what a process shares with its threads stays shared.
pub(crate) fn unshare(namespaces: libc::c_int) -> io::Result<()> {
    // SAFETY: `unshare` takes no pointers, and no descriptor table is taken apart.
    match unsafe { libc::unshare(namespaces) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has `prepare` run in the child between fork and exec, with no signal blocked.
///
/// `prepare` must not allocate or take locks: it may only make system calls.
pub(crate) fn before_exec<F>(command: &mut Command, prepare: F)
where
    F: Fn() -> io::Result<()> + Send + Sync + 'static,
{
    let in_child = move || {
        // SAFETY: `set` is initialised by `sigemptyset`; both calls are async-signal-safe.
        unsafe {
            let mut set = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&raw mut set);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        }
        prepare()
    };
    // SAFETY: init has one thread, so the child's memory is consistent; the closure makes only
    // system calls, by the contract above.
    unsafe { command.pre_exec(in_child) };
}

/// `linux/swap.h`; a disk that cannot discard is used without.
const SWAP_FLAG_DISCARD: libc::c_int = 0x10000;

/// Has the kernel move memory to a disk that holds a swap area, and give back what it frees of it.
pub(crate) fn swap_on(device: &CStr) -> io::Result<()> {
    // SAFETY: `device` is a string that ends with a NUL byte and outlives the call.
    match unsafe { libc::swapon(device.as_ptr(), SWAP_FLAG_DISCARD) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

const BACKLOG: libc::c_int = 4;

/// Listens on a vsock port, for whoever connects from outside.
pub(crate) fn vsock_listener(port: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `socket` takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_VSOCK, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid `sockaddr_vm`.
    let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_vm>() };
    address.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    address.svm_port = port;
    address.svm_cid = libc::VMADDR_CID_ANY;
    let length = socket_length::<libc::sockaddr_vm>();
    // SAFETY: `address` is a `sockaddr_vm` of that length and outlives the call.
    let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
    // SAFETY: `listen` takes no pointers.
    if bound != 0 || unsafe { libc::listen(fd, BACKLOG) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Takes a waiting connection; returns it with the vsock number it comes from, if it has one.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<u32>)> {
    // SAFETY: all zeros is a valid `sockaddr_vm`.
    let mut address = unsafe { std::mem::zeroed::<libc::sockaddr_vm>() };
    let mut length = socket_length::<libc::sockaddr_vm>();
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: `address` has room for `length` bytes; both outlive the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            (&raw mut address).cast(),
            &raw mut length,
            flags,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let of_vsock = i32::from(address.svm_family) == libc::AF_VSOCK;
    Ok((socket, of_vsock.then_some(address.svm_cid)))
}

fn socket_length<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or_default()
}

const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
/// The kernel's pool takes no more of one call into account.
const ENTROPY_MAX: usize = 512;

#[repr(C)]
struct RandPoolInfo {
    entropy_count: libc::c_int,
    buf_size: libc::c_int,
    buf: [u8; ENTROPY_MAX],
}

/// Credits bytes to the random pool behind `device` and has the generator reseed from it.
pub(crate) fn add_entropy(device: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    let bytes = &bytes[..bytes.len().min(ENTROPY_MAX)];
    let size = i32::try_from(bytes.len()).unwrap_or(0);
    let mut info = RandPoolInfo {
        entropy_count: size * 8,
        buf_size: size,
        buf: [0; ENTROPY_MAX],
    };
    info.buf[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: `info` has the layout of `struct rand_pool_info`, with `buf_size` bytes behind it.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    if added != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this request takes no argument.
    match unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Reads the processor's time stamp counter.
pub(crate) fn time_stamp_counter() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets user space run it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
