//! `godwit-shim guard SHIM VMM`: has a VMM die with its shim where the kernel forgets to.
//!
//! A VMM that starts as root and changes its user itself, as under a jailer, loses the signal at
//! its parent's death on the way. So before it becomes the VMM the launcher starts this small
//! process: it waits for either of the two to end, and if it was the shim it kills the VMM. It
//! knows both by handles taken while they certainly lived.

use std::io;
use std::process::{Command, ExitCode, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};

/// Starts the guard of this process, which is about to become the VMM of `shim`.
pub(crate) fn start(shim: u32) -> io::Result<()> {
    Command::new("/proc/self/exe")
        .args(["guard", &shim.to_string(), &std::process::id().to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map(drop)
}

/// Guards; ends when either process has.
pub(crate) fn run(words: &[String]) -> ExitCode {
    match guard(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("godwit-shim guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(words: &[String]) -> io::Result<()> {
    let usage = || io::Error::other("usage: guard SHIM VMM");
    let [shim, vmm] = words else {
        return Err(usage());
    };
    let pid = |word: &String| word.parse().ok().and_then(Pid::from_raw).ok_or_else(usage);
    let (shim, vmm) = (pid(shim)?, pid(vmm)?);
    let vmm_handle = pidfd_open(vmm, PidfdFlags::empty())?;
    if getppid() != Some(vmm) {
        // It ended before its handle was taken, which may be somebody else's.
        return Ok(());
    }
    let shim_handle = match pidfd_open(shim, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(pidfd_send_signal(&vmm_handle, Signal::KILL)?),
        opened => opened?,
    };
    loop {
        let mut fds = [
            PollFd::new(&shim_handle, PollFlags::IN),
            PollFd::new(&vmm_handle, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !fds[1].revents().is_empty() {
            return Ok(());
        }
        if !fds[0].revents().is_empty() {
            return Ok(pidfd_send_signal(&vmm_handle, Signal::KILL)?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::guard;

    #[test]
    fn it_wants_two_processes() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(guard(&words("1")).is_err());
        assert!(guard(&words("one 2")).is_err());
    }
}
