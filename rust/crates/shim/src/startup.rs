//! Before anything runs: configuration, the machine's lock, its socket.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use godwit_wire::run_spec::RunSpec;
use godwit_wire::shim::ShimConfig;
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Why the shim could not do its work, and what it exits with.
#[derive(Debug)]
pub(crate) struct Problem {
    message: String,
    pub(crate) exit_code: u8,
}

impl Problem {
    pub(crate) fn new(exit_code: u8, message: impl fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            exit_code,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Everything `serve` starts from. Dropping the lock would let another shim in.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) config: ShimConfig,
    pub(crate) run_spec: Option<Box<RunSpec>>,
    pub(crate) listener: UnixListener,
    pub(crate) lock: File,
}

impl Prepared {
    pub(crate) fn directory(&self) -> PathBuf {
        PathBuf::from(&self.config.directory)
    }
}

/// Reads the configuration, takes the machine, opens the socket.
pub(crate) fn prepare(path: &str) -> Result<Prepared, Problem> {
    rustix::process::umask(Mode::from_raw_mode(0o077));
    keep_out_of_core_dumps()?;
    let config: ShimConfig = read_json(Path::new(path))?;
    if config.vmm.argv.is_empty() {
        return Err(Problem::new(2, format_args!("{path}: vmm.argv is empty")));
    }
    let run_spec = config
        .run_spec
        .as_ref()
        .map(|spec| read_json(Path::new(spec)))
        .transpose()?;
    let lock = take_lock(Path::new(&config.directory))?;
    let listener = listen(&config.socket)
        .map_err(|error| Problem::new(1, format_args!("{}: {error}", config.socket)))?;
    Ok(Prepared {
        config,
        run_spec,
        listener,
        lock,
    })
}

/// Run specs hold secrets: no core dump of this process or of the VMM shows its memory.
fn keep_out_of_core_dumps() -> Result<(), Problem> {
    let wrong = |error| Problem::new(1, format_args!("cannot forgo core dumps: {error}"));
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(wrong)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(wrong)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Problem> {
    let wrong = |error: &dyn fmt::Display| {
        Problem::new(2, format_args!("cannot read {}: {error}", path.display()))
    };
    let text = fs::read(path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&text).map_err(|error| wrong(&error))
}

fn take_lock(directory: &Path) -> Result<File, Problem> {
    let path = directory.join("shim.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| Problem::new(1, format_args!("{}: {error}", path.display())))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::AGAIN) => {
            let message = format_args!("another shim holds {}", directory.display());
            Err(Problem::new(3, message))
        }
        Err(error) => Err(Problem::new(1, format_args!("{}: {error}", path.display()))),
    }
}

/// Listens at `path`; what a dead shim left there is replaced, the lock is ours.
fn listen(path: &str) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
