//! Names that go to resolvers of their own: `dns_forward_rules` of a machine's config.
//!
//! A machine with rules has a forwarder at [`ADDRESS`], the one name server of its resolv.conf: a
//! query goes to the resolver of the longest rule that its name falls under, every other to the
//! name servers of the machine. It asks from inside, as the machine itself would, and so reaches
//! what the machine may reach and nothing else.
//!
//! PID 1 holds the sockets and reads nothing from them: the forwarder is a program of its own
//! (`/proc/1/exe forward`), as nobody, that is started again when it ends. Meanwhile queries wait.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use godwit_wire::run_spec::Resolver;

use crate::stages::{Context, Staged};
use crate::sys;

mod query;
mod serve;

pub(crate) use serve::run;

/// Where the guest's programs ask: a server of the machine's own has every other address.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 83);
const PORT: u16 = 53;
const PROGRAM: &str = "/proc/1/exe";
const NAME: &str = "godwit-forward";
const STAGE: &str = "resolver";
/// One that cannot run at all is not started in a circle.
const PAUSE: Duration = Duration::from_secs(1);

/// The sockets, and the process that serves them.
#[derive(Debug)]
pub(crate) struct Forwarder {
    udp: OwnedFd,
    tcp: OwnedFd,
    resolver: String,
    pid: Option<i32>,
    again: Instant,
}

impl Forwarder {
    /// Listens and starts the program; `None` for a machine without rules.
    pub(crate) fn begin(resolver: &Resolver) -> Staged<Option<Self>> {
        if resolver.forwards.is_empty() {
            return Ok(None);
        }
        let doing = format_args!("cannot listen on {ADDRESS}");
        let mut made = Self {
            udp: UdpSocket::bind((ADDRESS, PORT)).stage(STAGE, doing)?.into(),
            tcp: TcpListener::bind((ADDRESS, PORT))
                .stage(STAGE, doing)?
                .into(),
            resolver: serde_json::to_string(resolver).stage(STAGE, "its rules")?,
            pid: None,
            again: Instant::now(),
        };
        made.tend();
        Ok(Some(made))
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
        match self.start() {
            Ok(pid) => self.pid = Some(pid),
            Err(error) => {
                eprintln!("godwit-init: names cannot be forwarded: {error}");
                self.again = Instant::now() + PAUSE;
            }
        }
    }

    fn start(&self) -> io::Result<i32> {
        use std::os::unix::process::CommandExt;

        let mut command = Command::new(PROGRAM);
        command
            .arg0(NAME)
            .args(["forward", &self.resolver])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(self.udp.try_clone()?))
            .stdout(Stdio::from(self.tcp.try_clone()?))
            .stderr(Stdio::null());
        sys::before_exec(&mut command, || {
            rustix::process::setsid().map(|_| ()).map_err(Into::into)
        });
        Ok(i32::try_from(command.spawn()?.id()).unwrap_or(0))
    }
}
