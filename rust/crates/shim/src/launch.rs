//! `godwit-shim launch`: the last steps of becoming a VMM, in the child of the shim.
//!
//! The shim starts itself with this word, so that joining cgroups and dropping rights need no
//! code between fork and exec: `launch PARENT UID GID KEEP CGROUP_PROCS… -- ARGV…`, where KEEP
//! are the descriptors the VMM inherits, with commas. Whatever fails is said on stderr, which is
//! the console pipe, and ends in exit code 125. A VMM that is to run as root is a jailer, which
//! becomes another user by itself: it gets a `guard`.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Gid, Pid, Signal, Uid, set_parent_process_death_signal};
use rustix::thread::{
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::guard;

/// What the launcher exits with when the VMM was not started.
pub(crate) const NOT_STARTED: u8 = 125;

/// Returns the arguments that make the launcher start `argv`.
pub(crate) fn arguments(vmm: &godwit_wire::shim::Vmm, parent: u32) -> Vec<String> {
    let mut words = vec!["launch".to_owned(), parent.to_string()];
    let keep: Vec<String> = vmm.inherit.iter().map(i32::to_string).collect();
    words.extend([vmm.uid.to_string(), vmm.gid.to_string(), keep.join(",")]);
    words.extend(vmm.cgroup_procs.iter().cloned());
    words.push("--".into());
    words.extend(vmm.argv.iter().cloned());
    words
}

/// Becomes the VMM; returns only if that failed.
pub(crate) fn run(words: &[String]) -> ExitCode {
    let Err(message) = become_vmm(words);
    eprintln!("godwit-shim launch: {message}");
    ExitCode::from(NOT_STARTED)
}

fn become_vmm(words: &[String]) -> Result<std::convert::Infallible, String> {
    let usage = || "usage: launch PARENT UID GID KEEP CGROUP_PROCS… -- ARGV…".to_owned();
    let at = words
        .iter()
        .position(|word| word == "--")
        .ok_or_else(usage)?;
    let (options, argv) = (&words[..at], &words[at + 1..]);
    let [parent, uid, gid, keep, cgroups @ ..] = options else {
        return Err(usage());
    };
    let number = |word: &String| word.parse::<u32>().map_err(|_| usage());
    let (program, arguments) = argv.split_first().ok_or_else(usage)?;
    if number(uid)? == 0 {
        guard::start(number(parent)?).map_err(|error| format!("cannot start a guard: {error}"))?;
    }
    for procs in cgroups {
        join(procs).map_err(|error| format!("cannot join {procs}: {error}"))?;
    }
    drop_rights(number(uid)?, number(gid)?)
        .map_err(|error| format!("cannot become user {uid}: {error}"))?;
    die_with(number(parent)?)?;
    close_all_but(keep)?;
    let error = Command::new(program).args(arguments).exec();
    Err(format!("cannot run {program}: {error}"))
}

fn join(procs: &str) -> std::io::Result<()> {
    OpenOptions::new().write(true).open(procs)?.write_all(b"0")
}

/// Whatever else the shim was started with must not reach the VMM.
fn close_all_but(keep: &str) -> Result<(), String> {
    let numbers = keep
        .split(',')
        .filter(|word| !word.is_empty())
        .map(str::parse);
    let numbers: Result<Vec<i32>, _> = numbers.collect();
    let numbers = numbers.map_err(|_| format!("not descriptors: {keep}"))?;
    close_fds::set_fds_cloexec(3, &numbers);
    Ok(())
}

/// Leaves every group and right behind; without being root only the present user is possible.
fn drop_rights(uid: u32, gid: u32) -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    if rustix::process::geteuid().is_root() {
        set_thread_groups(&[])?;
        set_thread_res_gid(gid, gid, gid)?;
    }
    set_thread_res_uid(uid, uid, uid)
}

/// Asks the kernel for SIGKILL when the shim dies; set last, because changing user resets it.
fn die_with(parent: u32) -> Result<(), String> {
    let say = |error: &dyn Display| format!("cannot tie the VMM to its shim: {error}");
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| say(&error))?;
    let ours = rustix::process::getppid().map_or(0, Pid::as_raw_pid);
    if u32::try_from(ours) == Ok(parent) {
        Ok(())
    } else {
        Err(say(&"the shim is gone"))
    }
}

#[cfg(test)]
mod tests {
    use godwit_wire::shim::Vmm;

    use super::{arguments, become_vmm};

    #[test]
    fn arguments_keep_the_vmms_own_apart() {
        let vmm = Vmm {
            argv: vec!["qemu".into(), "--".into(), "-M".into()],
            uid: 7,
            gid: 8,
            cgroup_procs: vec!["/cg".into()],
            inherit: vec![5, 9],
        };
        let words = arguments(&vmm, 42);
        assert_eq!(
            words,
            [
                "launch", "42", "7", "8", "5,9", "/cg", "--", "qemu", "--", "-M"
            ]
        );
    }

    #[test]
    fn mistakes_are_told() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(
            become_vmm(&words("1 2 3 4"))
                .unwrap_err()
                .starts_with("usage")
        );
        assert!(
            become_vmm(&words("1 2 3 --"))
                .unwrap_err()
                .starts_with("usage")
        );
        let error = become_vmm(&words("1 0 0 3 /no/such/procs -- true")).unwrap_err();
        assert!(error.starts_with("cannot join /no/such/procs"), "{error}");
    }
}
