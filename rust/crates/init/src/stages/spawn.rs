//! Starting a program: finding it, its user, its terminal or pipes, its limits.
//!
//! Everything that can be checked is checked before the fork, so that a mistake is told in the
//! words of the person who made it and not as an error number.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use godwit_wire::messages::TerminalSize;
use godwit_wire::run_spec::Process;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::environment::{self, Environment};
use super::users::{self, User};
use crate::containers::housing::Inside;
use crate::sys;

/// A machine's own process with a terminal has this size; nobody is attached who could say.
const TERMINAL: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// What to run, as the host asked for it.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    pub(crate) argv: &'a [String],
    pub(crate) env: &'a BTreeMap<String, String>,
    pub(crate) env_base64: &'a BTreeMap<String, String>,
    pub(crate) user: &'a str,
    pub(crate) working_directory: &'a str,
    pub(crate) open_files: u64,
    pub(crate) tty: Option<TerminalSize>,
    /// Whether it gets an input; /dev/null otherwise.
    pub(crate) stdin: bool,
    /// Whether what it writes goes nowhere.
    pub(crate) silent: bool,
    /// The container it runs in; the machine's own root and namespaces otherwise.
    pub(crate) inside: Option<&'a Inside>,
}

impl<'a> Program<'a> {
    /// Returns a process of the run spec, in the machine itself.
    pub(crate) fn of(process: &'a Process) -> Self {
        Self {
            argv: &process.argv,
            env: &process.env,
            env_base64: &process.env_base64,
            user: &process.user,
            working_directory: &process.working_directory,
            open_files: process.open_files,
            tty: process.tty.then_some(TERMINAL),
            stdin: false,
            silent: false,
            inside: None,
        }
    }
}

/// A running child and this side of its streams.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) streams: Streams,
}

#[derive(Debug)]
pub(crate) enum Streams {
    None,
    Terminal(OwnedFd),
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
}

/// Why a program was not started: a sentence and the stage it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    User(String),
    Spawn(String),
}

impl Refusal {
    pub(crate) fn stage(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Spawn(_) => "spawn",
        }
    }

    pub(crate) fn into_message(self) -> String {
        match self {
            Self::User(message) | Self::Spawn(message) => message,
        }
    }
}

/// Starts a program in a session of its own.
pub(crate) fn spawn(program: &Program<'_>) -> Result<Child, Refusal> {
    let (path, env, user) = match program.inside {
        Some(inside) => inside
            .look(|| found(program))
            .map_err(|error| Refusal::Spawn(format!("its root: {}", plain(&error))))?,
        None => found(program),
    }?;
    start(program, &path, &env, &user).map_err(|error| Refusal::Spawn(explain(&path, &error)))
}

/// Finds a program and its user in the root that is in place.
fn found(program: &Program<'_>) -> Result<(PathBuf, Environment, User), Refusal> {
    let read = |path| fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
    let passwd = read("/etc/passwd").unwrap_or_default();
    let group = read("/etc/group").unwrap_or_default();
    let user = users::resolve(program.user, &passwd, &group).map_err(Refusal::User)?;
    let given = environment::join(program.env, program.env_base64).map_err(|name| {
        Refusal::Spawn(format!(
            "environment variable {name:?} is not given in base64"
        ))
    })?;
    let env = environment::complete(given, &user.home, program.tty.is_some());
    let path = checked(program, &env, &user).map_err(Refusal::Spawn)?;
    Ok((path, env, user))
}

fn checked(program: &Program<'_>, env: &Environment, user: &User) -> Result<PathBuf, String> {
    let name = program
        .argv
        .first()
        .ok_or("nothing to run: the command is empty")?;
    if program.argv.iter().any(|argument| argument.contains('\0')) {
        return Err("an argument contains a NUL byte".into());
    }
    if let Some((name, _)) = env.iter().find(|(k, v)| !environment::is_valid(k, v)) {
        return Err(format!("environment variable {name:?} cannot be set"));
    }
    let directory = Path::new(program.working_directory);
    match fs::metadata(directory) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => {
            return Err(format!(
                "working directory {} is not a directory",
                quote(directory)
            ));
        }
        Err(error) => {
            return Err(format!(
                "working directory {}: {}",
                quote(directory),
                plain(&error)
            ));
        }
    }
    let path = find(
        name,
        directory,
        env.get("PATH").and_then(|path| path.to_str()).unwrap_or(""),
    )?;
    fit_to_run(&path, user)?;
    Ok(path)
}

/// Finds a program as a shell would: by its path if there is a slash in it, else in PATH.
fn find(name: &str, directory: &Path, search: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = directory.join(name);
        return match fs::metadata(&path) {
            Ok(found) if found.is_dir() => Err(format!("{} is a directory", quote(&path))),
            Ok(_) => Ok(path),
            Err(_) => Err(format!("no such program: {name}")),
        };
    }
    let candidates = search
        .split(':')
        .filter(|part| !part.is_empty())
        .map(|part| Path::new(part).join(name));
    let files: Vec<PathBuf> = candidates.filter(|path| path.is_file()).collect();
    let executable = |path: &&PathBuf| fs::metadata(path).is_ok_and(|m| m.mode() & 0o111 != 0);
    match files.iter().find(executable).or(files.first()) {
        Some(path) => Ok(directory.join(path)),
        None if name.is_empty() => Err("nothing to run: the command is empty".into()),
        None => Err(format!(
            "no such program: {name}; the image's PATH is {search}"
        )),
    }
}

/// Tells what is wrong with a file that is there but cannot be run.
fn fit_to_run(path: &Path, user: &User) -> Result<(), String> {
    let meta = fs::metadata(path).map_err(|error| explain(path, &error))?;
    if !may_execute(meta.mode(), meta.uid(), meta.gid(), user) {
        let mode = meta.mode() & 0o7777;
        let who = user.uid;
        return Err(format!(
            "permission denied: {} is not executable for uid {who} (its mode is {mode:04o})",
            quote(path)
        ));
    }
    let mut head = [0_u8; 128];
    let length = File::open(path)
        .and_then(|mut file| file.read(&mut head))
        .unwrap_or(0);
    wrong_format(&head[..length]).map_or(Ok(()), |why| Err(format!("{} {why}", quote(path))))
}

fn may_execute(mode: u32, owner: u32, group: u32, user: &User) -> bool {
    if user.uid == 0 {
        return mode & 0o111 != 0;
    }
    let bits = if owner == user.uid {
        mode >> 6
    } else if group == user.gid || user.groups.contains(&group) {
        mode >> 3
    } else {
        mode
    };
    bits & 1 != 0
}

/// Returns what is wrong with a program that begins like this, if anything is.
fn wrong_format(head: &[u8]) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_whitespace().next().unwrap_or_default();
        let dos = line.ends_with('\r');
        let name = interpreter.trim_end();
        return match (Path::new(name).exists(), dos) {
            (true, false) => None,
            (_, true) => Some("has Windows line endings: save it with Unix ones".into()),
            (false, false) => Some(format!("wants the interpreter {name}, which is missing")),
        };
    }
    let machine = head
        .strip_prefix(b"\x7fELF")
        .and_then(|rest| rest.get(14..16))?;
    (machine != [62, 0]).then(|| "is built for another processor, not x86-64".into())
}

fn start(program: &Program<'_>, path: &Path, env: &Environment, user: &User) -> io::Result<Child> {
    let mut command = Command::new(path);
    command
        .arg0(&program.argv[0])
        .args(&program.argv[1..])
        .env_clear()
        .envs(env);
    let directory = CString::new(program.working_directory)?;
    let arrival = program.inside.map(Inside::arrival).transpose()?;
    let streams = match program.tty {
        _ if program.silent => silence(&mut command),
        Some(size) => terminal(&mut command, size, user)?,
        None => pipes(&mut command, program.stdin, user)?,
    };
    let (user, open_files) = (user.clone(), program.open_files);
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let tty = program.tty.is_some();
    sys::before_exec(&mut command, move || {
        if let Some(arrival) = &arrival {
            arrival.arrive()?;
        }
        rustix::process::chdir(directory.as_c_str())?;
        become_user(&user, &groups, open_files, tty)
    });
    let child = match program.inside {
        Some(inside) => inside.spawn(&mut command)?,
        None => command.spawn()?,
    };
    let pid = i32::try_from(child.id()).unwrap_or(0);
    Ok(Child { pid, streams })
}

/// Runs in the child: session, terminal, limits, identity. System calls only.
fn become_user(user: &User, groups: &[Gid], open_files: u64, tty: bool) -> io::Result<()> {
    rustix::process::setsid()?;
    if tty {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    let limit = Rlimit {
        current: Some(open_files),
        maximum: Some(open_files),
    };
    setrlimit(Resource::Nofile, limit)?;
    set_thread_groups(groups)?;
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

fn terminal(command: &mut Command, size: TerminalSize, user: &User) -> io::Result<Streams> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    resize(&ours, size)?;
    owned_by(&theirs, user)?;
    nonblocking(&ours)?;
    command
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    Ok(Streams::Terminal(ours))
}

/// Sets the size of a terminal; the kernel tells its programs.
pub(crate) fn resize(terminal: impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = Winsize {
        ws_row: size.rows,
        ws_col: size.cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(terminal, size)?)
}

fn pipes(command: &mut Command, with_stdin: bool, user: &User) -> io::Result<Streams> {
    let (stdout, their_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, their_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    // Programs open /dev/stdout and /dev/stderr anew, which needs permission.
    owned_by(&their_stdout, user)?;
    owned_by(&their_stderr, user)?;
    nonblocking(&stdout)?;
    nonblocking(&stderr)?;
    command.stdout(their_stdout).stderr(their_stderr);
    let stdin = if with_stdin {
        let (their_stdin, stdin) = pipe_with(PipeFlags::CLOEXEC)?;
        owned_by(&their_stdin, user)?;
        nonblocking(&stdin)?;
        command.stdin(their_stdin);
        Some(stdin)
    } else {
        command.stdin(Stdio::null());
        None
    };
    Ok(Streams::Pipes {
        stdin,
        stdout,
        stderr,
    })
}

fn silence(command: &mut Command) -> Streams {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Streams::None
}

fn owned_by(fd: impl AsFd, user: &User) -> io::Result<()> {
    Ok(rustix::fs::fchown(fd, Some(Uid::from_raw(user.uid)), None)?)
}

fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, OFlags::NONBLOCK)?)
}

fn explain(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!(
            "cannot run {}: the program loader it was built for is not in the image",
            quote(path)
        ),
        _ => format!("cannot run {}: {}", quote(path), plain(error)),
    }
}

fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => error.to_string(),
    }
}

fn quote(path: &Path) -> std::path::Display<'_> {
    path.display()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use super::{Program, checked, environment, find, may_execute, wrong_format};
    use crate::stages::users::User;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: "/".into(),
        }
    }

    #[test]
    fn names_are_looked_up_in_path_and_paths_are_not() {
        let search = "/nowhere::/usr/bin:/bin";
        let env = find("env", Path::new("/"), search).unwrap();
        assert!([PathBuf::from("/usr/bin/env"), PathBuf::from("/bin/env")].contains(&env));
        assert_eq!(
            find("bin/env", Path::new("/usr"), "").unwrap(),
            Path::new("/usr/bin/env")
        );
        let missing = find("godwit-ghost", Path::new("/"), search).unwrap_err();
        assert_eq!(
            missing,
            format!("no such program: godwit-ghost; the image's PATH is {search}")
        );
        assert!(
            find("/usr/ghost", Path::new("/"), "")
                .unwrap_err()
                .contains("/usr/ghost")
        );
        assert!(
            find("/usr/", Path::new("/"), "")
                .unwrap_err()
                .contains("is a directory")
        );
    }

    #[test]
    fn permission_follows_owner_group_and_others() {
        let app = user(1000, 1000, &[33]);
        assert!(may_execute(0o100_700, 1000, 0, &app));
        assert!(!may_execute(0o100_077, 1000, 1000, &app));
        assert!(may_execute(0o100_710, 0, 33, &app));
        assert!(may_execute(0o100_755, 0, 0, &app));
        assert!(!may_execute(0o100_644, 0, 0, &app));
        assert!(may_execute(0o100_100, 7, 7, &user(0, 0, &[])));
        assert!(!may_execute(0o100_644, 0, 0, &user(0, 0, &[])));
    }

    #[test]
    fn programs_for_nobody_here_are_recognised() {
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(18, 0);
        elf.extend_from_slice(&[183, 0]);
        assert_eq!(wrong_format(b"\x7fELF\x02\x01"), None);
        elf[18] = 183;
        assert!(wrong_format(&elf).unwrap().contains("another processor"));
        elf[18] = 62;
        assert_eq!(wrong_format(&elf), None);
        assert!(
            wrong_format(b"#!/no/such/shell -e\n")
                .unwrap()
                .contains("/no/such/shell")
        );
        assert!(
            wrong_format(b"#!/bin/sh\r\necho\r\n")
                .unwrap()
                .contains("Windows")
        );
        assert_eq!(wrong_format(b"#!/bin/sh\necho\n"), None);
        assert_eq!(wrong_format(b"echo no shebang\n"), None);
    }

    #[test]
    fn mistakes_are_told_before_anything_is_started() {
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let none = BTreeMap::new();
        let try_with = |argv: &[&str], directory: &str, env: &BTreeMap<String, String>| {
            let argv: Vec<String> = argv.iter().map(|a| (*a).to_owned()).collect();
            let program = Program {
                argv: &argv,
                env,
                env_base64: &none,
                user: "",
                working_directory: directory,
                open_files: 1024,
                tty: None,
                stdin: false,
                silent: false,
                inside: None,
            };
            let given = environment::join(env, &none).unwrap();
            checked(&program, &given, &user(0, 0, &[]))
        };
        assert!(try_with(&["env"], "/", &env).is_ok());
        assert!(try_with(&[], "/", &env).unwrap_err().contains("empty"));
        assert!(try_with(&["a\0b"], "/", &env).unwrap_err().contains("NUL"));
        let error = try_with(&["env"], "/no/such", &env).unwrap_err();
        assert_eq!(error, "working directory /no/such: does not exist");
        assert!(
            try_with(&["env"], "/etc/passwd", &env)
                .unwrap_err()
                .contains("not a directory")
        );
        let broken = BTreeMap::from([("A=B".to_owned(), String::new())]);
        assert!(
            try_with(&["env"], "/", &broken)
                .unwrap_err()
                .contains("\"A=B\"")
        );
        let error = try_with(&["/etc/passwd"], "/", &env).unwrap_err();
        assert!(
            error.contains("not executable for uid 0 (its mode is 0644)"),
            "{error}"
        );
    }
}
