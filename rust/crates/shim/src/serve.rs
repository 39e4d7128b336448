//! The loop: one thread that waits for everybody and never for anyone.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use godwit_wire::messages::HostMessage;
use godwit_wire::run_spec::RunSpec;
use godwit_wire::shim::{Cause, ShimMessage, Source, StartKind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::agents::Agents;
use crate::channel::Channel;
use crate::console::Console;
use crate::exit_record::Place;
use crate::log::Log;
use crate::machine::Machine;
use crate::relay::{ConnectionId, Relay};
use crate::startup::{Prepared, Problem};
use crate::vmm::{self, Process};

const BUFFER: usize = 65_536;
/// What SIGTERM asks of the guest, and how long the VMM lives past that.
const STOP_SIGNAL: &str = "SIGINT";
const STOP_TIMEOUT_MS: u64 = 5000;
const STOP_GRACE: Duration = Duration::from_secs(4);

/// When something has to happen although nobody says anything.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    pub(crate) boot: Option<Instant>,
    pub(crate) stop: Option<Instant>,
    pub(crate) power_off: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) socket: String,
    pub(crate) channel_socket: String,
    pub(crate) run_spec: Option<Box<RunSpec>>,
    pub(crate) agents: Agents,
    pub(crate) channel: Channel,
    pub(crate) console: Console,
    pub(crate) vmm: Process,
    pub(crate) machine: Machine,
    pub(crate) relay: Relay,
    pub(crate) log: Log,
    pub(crate) place: Place,
    pub(crate) signals: UnixStream,
    pub(crate) deadlines: Deadlines,
    /// A stop that came before there was a process to stop.
    pub(crate) pending_stop: Option<HostMessage>,
    /// The guest went on from a saved state, or is about to: it is woken before all else.
    pub(crate) wake_due: bool,
    /// The guest was asked to sleep and has yet to answer.
    pub(crate) sleep_due: bool,
    /// The guest that the channel leads to was sent its run spec.
    pub(crate) run_sent: bool,
    pub(crate) buffer: Vec<u8>,
    _lock: fs::File,
}

impl Shim {
    /// Starts the VMM.
    pub(crate) fn start(prepared: Prepared) -> Result<Self, Problem> {
        let now = Instant::now();
        let directory = prepared.directory();
        let fail = |what: &str, error: std::io::Error| {
            Problem::new(
                1,
                format_args!("{what} in {}: {error}", directory.display()),
            )
        };
        let log = Log::open(&directory.join("logs"), prepared.config.log.clone())
            .map_err(|error| fail("cannot open the log", error))?;
        let place = Place::reserve(&directory)
            .map_err(|error| fail("cannot prepare the exit record", error))?;
        let signals = watch_signals().map_err(|error| fail("cannot watch signals", error))?;
        let (vmm, console) = vmm::start(&prepared.config.vmm)
            .map_err(|error| fail("cannot start the VMM", error))?;
        let config = prepared.config;
        let boot = now + Duration::from_millis(config.boot_deadline_ms);
        Ok(Self {
            machine: Machine::new(&config, vmm.pid()),
            channel: Channel::new(&config.channel_socket, now).on_port(config.channel_port),
            socket: config.socket,
            channel_socket: config.channel_socket,
            run_spec: prepared.run_spec,
            agents: Agents::new(prepared.listener),
            console,
            vmm,
            relay: Relay::default(),
            log,
            place,
            signals,
            deadlines: Deadlines {
                boot: Some(boot),
                ..Deadlines::default()
            },
            pending_stop: None,
            wake_due: config.start_kind != StartKind::Cold,
            sleep_due: false,
            run_sent: false,
            buffer: vec![0; BUFFER],
            _lock: prepared.lock,
        })
    }

    /// Serves until the VMM has ended, then settles everything.
    pub(crate) fn run(mut self) -> Result<(), Problem> {
        loop {
            self.wait();
            let ended = self.vmm.ended().map_err(|error| Problem::new(1, error))?;
            self.round();
            if let Some(ended) = ended {
                return self.settle(ended);
            }
        }
    }

    /// Does everything there is to do without waiting.
    pub(crate) fn round(&mut self) {
        let now = Instant::now();
        if self.channel.connect(now) {
            self.meet_guest();
        }
        self.hear_signals(now);
        self.hear_console(now);
        self.hear_guest(now);
        self.agents.accept();
        self.hear_agents(now);
        self.keep_deadlines(now);
        self.log.round(now);
        self.channel.flush();
        self.agents.flush();
        for gone in self.agents.bury() {
            self.abandon(gone);
        }
    }

    pub(crate) fn wait(&mut self) {
        let now = Instant::now();
        let log = self.log.next_round(now);
        let (channel, retry) = self.channel.wants(now);
        let deadlines = [
            self.deadlines.boot,
            self.deadlines.stop,
            self.deadlines.power_off,
        ];
        let timeout = deadlines
            .into_iter()
            .flatten()
            .map(|when| when.saturating_duration_since(now))
            .chain([log, retry].into_iter().flatten())
            .min()
            .map(|patience| Timespec {
                tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(patience.subsec_nanos()),
            });
        let always = [
            (self.vmm.ends(), PollFlags::IN),
            (self.signals.as_fd(), PollFlags::IN),
        ];
        let console = self.console.pipe().map(|pipe| (pipe, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = always
            .into_iter()
            .chain(console)
            .chain(channel)
            .chain(self.agents.wants())
            .map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags))
            .collect();
        // Only a signal interrupts; then the round finds nothing and waits again.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    pub(crate) fn hear_signals(&mut self, now: Instant) {
        if self.signals.read(&mut [0; 64]).is_ok_and(|count| count > 0) {
            self.log
                .system("the shim was told to end: asking the guest to stop");
            self.stop(HostMessage::Stop {
                signal: STOP_SIGNAL.into(),
                timeout_ms: STOP_TIMEOUT_MS,
            });
            let grace = Duration::from_millis(STOP_TIMEOUT_MS) + STOP_GRACE;
            self.deadlines.stop.get_or_insert(now + grace);
        }
    }

    pub(crate) fn hear_console(&mut self, now: Instant) {
        let count = self.console.read(&mut self.buffer);
        self.log.output(Source::Console, &self.buffer[..count], now);
    }

    pub(crate) fn keep_deadlines(&mut self, now: Instant) {
        let past = |when: Option<Instant>| when.is_some_and(|when| when <= now);
        if past(self.deadlines.boot) {
            self.deadlines.boot = None;
            self.log
                .system("the guest did not say hello in time: killing the VMM");
            self.kill(Cause::BootDeadline);
        }
        if past(self.deadlines.stop) {
            self.deadlines.stop = None;
            self.kill(Cause::Killed);
        }
        if past(self.deadlines.power_off) {
            self.deadlines.power_off = None;
            self.log
                .system("the guest ended but did not power off: killing the VMM");
            self.kill(Cause::Guest);
        }
    }

    pub(crate) fn kill(&mut self, why: Cause) {
        self.machine.killed(why);
        self.vmm.kill();
    }

    pub(crate) fn tell_status(&mut self, to: ConnectionId) {
        let status = self.machine.status(self.log.dropped_bytes());
        self.agents
            .tell(to, 0, &ShimMessage::Status(Box::new(status)));
    }

    pub(crate) fn publish(&mut self) {
        for subscriber in self.agents.subscribers() {
            self.tell_status(subscriber);
        }
    }
}

/// A socket that becomes readable with SIGTERM and SIGINT.
fn watch_signals() -> std::io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
