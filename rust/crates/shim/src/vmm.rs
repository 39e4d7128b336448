//! The VMM process: started through the launcher, watched by a pidfd, killed when need be.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use godwit_wire::shim::{Vmm, VmmExit};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::console::Console;
use crate::launch;

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    ends: OwnedFd,
}

/// Starts the VMM, its output on a pipe of its own.
///
/// Descriptors of `vmm.inherit` came to the shim open across exec and so reach the VMM; the
/// shim's own are all closed on exec.
pub(crate) fn start(vmm: &Vmm) -> io::Result<(Process, Console)> {
    let (reader, writer) = io::pipe()?;
    // Not `current_exe`: the program may have been replaced by a newer one since.
    let child = Command::new("/proc/self/exe")
        .args(launch::arguments(vmm, std::process::id()))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the VMM has no pid"))?;
    let ends = pidfd_open(pid, PidfdFlags::empty())?;
    Ok((Process { child, ends }, Console::new(reader.into())?))
}

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the process has ended.
    pub(crate) fn ends(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }

    /// Returns how it ended, if it has.
    pub(crate) fn ended(&mut self) -> io::Result<Option<VmmExit>> {
        let status = self.child.try_wait()?;
        Ok(status.map(|status| VmmExit {
            exit_code: status.code(),
            signal: status.signal(),
        }))
    }

    /// Ends it at once; that it has ended already is fine.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
    }
}
