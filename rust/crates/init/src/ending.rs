//! The end of a guest: kill the rest, flush, unmount, say the last word, power off.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::messages::{Exited, Failed, GuestMessage};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::system::RebootCommand;

use crate::sessions::Ended;
use crate::supervise::Supervisor;
use crate::{stats, sys};

/// For output that was written before the end.
const FLUSH: Duration = Duration::from_secs(2);
/// For the host to hear the last word; it hangs up when it has.
const FAREWELL: Duration = Duration::from_secs(3);
const UNMOUNT_TRIES: u32 = 5;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(750);
const SIGKILL: i32 = 9;
/// What a process reports that was killed, or a shell whose child was.
const KILLED: i32 = 128 + SIGKILL;

/// Ends the machine after its main process ended.
pub(crate) fn of_process(mut supervisor: Supervisor, ended: Ended) -> ! {
    let contained = supervisor.containers.take();
    let killed_by_stop = contained.is_some_and(|containers| containers.killed_by_stop);
    let oom_killed = ended.exit_code == KILLED
        && !(supervisor.machine.killed_by_stop || killed_by_stop)
        && stats::oom_kills() > supervisor.machine.oom_kills_before;
    // They are not started again.
    supervisor.daemons.clear();
    kill_everybody();
    let exited = GuestMessage::Exited(Exited {
        exit_code: ended.exit_code,
        signal: ended.signal,
        oom_killed,
    });
    drain(&mut supervisor);
    for volume in supervisor.machine.volumes.iter().rev() {
        let_go(volume);
    }
    if supervisor.machine.lasting_root {
        rustix::fs::sync();
    }
    say_farewell(supervisor, exited)
}

/// Ends the machine that never came to run its process.
pub(crate) fn of_failure(supervisor: Supervisor, failure: Failed) -> ! {
    eprintln!("godwit-init: {}: {}", failure.stage, failure.message);
    say_farewell(supervisor, GuestMessage::Failed(failure))
}

/// Has the VMM end: under `-no-reboot` a restart is an exit, and quicker than ACPI.
pub(crate) fn power_off() -> ! {
    // There is nobody left to tell why a restart would be refused.
    let _ = rustix::system::reboot(RebootCommand::Restart);
    loop {
        thread::park();
    }
}

fn kill_everybody() {
    // -1 is every process but this one; that there is none is an error to kill(2) only.
    let _ = sys::kill(-1, SIGKILL);
}

/// Serves the loop until the main process's output and every session are through.
fn drain(supervisor: &mut Supervisor) {
    let deadline = Instant::now() + FLUSH;
    while Instant::now() < deadline {
        if supervisor.is_silent() && supervisor.link.is_flushed() {
            break;
        }
        if !supervisor.link.host_present()
            && supervisor
                .sessions
                .values()
                .all(|session| !session.lingers())
        {
            break;
        }
        supervisor.step(Some(deadline));
    }
}

fn let_go(volume: &Path) {
    for attempt in 0..UNMOUNT_TRIES {
        match unmount(volume, UnmountFlags::empty()) {
            Err(Errno::BUSY) if attempt + 1 < UNMOUNT_TRIES => thread::sleep(UNMOUNT_PAUSE),
            Err(Errno::BUSY) => {
                let _ = unmount(volume, UnmountFlags::DETACH);
                rustix::fs::sync();
            }
            _ => return,
        }
    }
}

/// Tells the host, waits until it has hung up on us, powers off.
fn say_farewell(mut supervisor: Supervisor, word: GuestMessage) -> ! {
    let deadline = Instant::now() + FAREWELL;
    supervisor.link.tell_last(&word);
    supervisor.link.flush();
    supervisor.last_word = Some(word);
    let mut told = supervisor.link.host_present();
    while Instant::now() < deadline {
        supervisor.step(Some(deadline));
        let present = supervisor.link.host_present();
        if told && !present {
            break;
        }
        told |= present;
    }
    power_off()
}
