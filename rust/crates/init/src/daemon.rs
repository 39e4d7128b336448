//! Programs of init's own that serve in the machine: PID 1 holds their sockets and keeps them up.
//!
//! PID 1 reads nothing from the sockets. What does is a program of its own (`/proc/1/exe WORD`)
//! that gives up its rights, and is started again when it ends; meanwhile the kernel queues.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::sys;

const PROGRAM: &str = "/proc/1/exe";
/// One that cannot run at all is not started in a circle.
const PAUSE: Duration = Duration::from_secs(1);
const NOBODY: u32 = 65_534;

/// What is run, and the sockets that it serves.
#[derive(Debug)]
pub(crate) struct Program {
    /// The word by which init knows it.
    pub(crate) word: &'static str,
    pub(crate) argument: String,
    pub(crate) name: &'static str,
    /// Its standard input.
    pub(crate) first: OwnedFd,
    /// Its standard output, if it has another one.
    pub(crate) second: Option<OwnedFd>,
}

/// A program, and the process that runs it.
#[derive(Debug)]
pub(crate) struct Daemon {
    program: Program,
    pid: Option<i32>,
    again: Instant,
}

impl Daemon {
    /// Starts the program.
    pub(crate) fn begin(program: Program) -> Self {
        let mut made = Self {
            program,
            pid: None,
            again: Instant::now(),
        };
        made.tend();
        made
    }

    /// Hears that a process has ended.
    pub(crate) fn note_end(&mut self, pid: i32) {
        if self.pid == Some(pid) {
            self.pid = None;
            self.again = Instant::now() + PAUSE;
        }
    }

    /// When the program is to be started again, if it has ended.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.pid.is_none().then_some(self.again)
    }

    /// Starts the program again once it is time.
    pub(crate) fn tend(&mut self) {
        if self.due().is_none_or(|when| when > Instant::now()) {
            return;
        }
        match self.program.start() {
            Ok(pid) => self.pid = Some(pid),
            Err(error) => {
                eprintln!("godwit-init: {}: {error}", self.program.name);
                self.again = Instant::now() + PAUSE;
            }
        }
    }
}

impl Program {
    fn start(&self) -> io::Result<i32> {
        let second = match &self.second {
            Some(socket) => Stdio::from(socket.try_clone()?),
            None => Stdio::null(),
        };
        let mut command = Command::new(PROGRAM);
        command
            .arg0(self.name)
            .args([self.word, &self.argument])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(self.first.try_clone()?))
            .stdout(second)
            .stderr(Stdio::null());
        sys::before_exec(&mut command, || {
            rustix::process::setsid().map(|_| ()).map_err(Into::into)
        });
        Ok(i32::try_from(command.spawn()?.id()).unwrap_or(0))
    }
}

/// Gives up every right of a user's: what comes from outside is read here.
pub(crate) fn become_nobody() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}
