//! The one loop of a running guest: messages, output, input, signals, children.
//!
//! States: *waiting* for a run spec (a template is saved here), *running* until the main process
//! ends, then `ending` takes over. In the first two it may be *asleep*, from `sleep` to `wake`: in
//! between it is saved and goes on, maybe as many copies, and every copy's first deed is to take
//! the host's entropy and time. A host that goes away changes nothing but the exec sessions,
//! which end; when it is back it hears hello and started again.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use godwit_wire::channel::{Frame, INITIAL_CREDIT, Kind};
use godwit_wire::messages::{
    Exec, Failed, GuestMessage, Hello, HostMessage, PROTOCOL_VERSION, TerminalSize,
};
use godwit_wire::run_spec::RunSpec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::WaitOptions;

use crate::api::Api;
use crate::containers::Containers;
use crate::daemon::Daemon;
use crate::link::{Event, Link};
use crate::sessions::{Ended, Session};
use crate::stages::spawn::{self, Program};
use crate::stages::{Context, Staged, clock, failed};
use crate::{boot, ending, signals, stats, sys};

/// The stream of the main process.
const MAIN: u32 = 0;
/// The sessions of the processes beside it, from here on; their output goes to its stream.
const BESIDE: u32 = u32::MAX - 63;
const MAX_SESSIONS: usize = 256;
const OPEN_FILES: u64 = 10_240;
/// From the second signal of a stop to the last.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How long the main process is made to wait for a host that went away before its output is lost.
const AWAY_PATIENCE: Duration = Duration::from_secs(2);
/// How often to try a port that took no more, should its event get lost.
const RETRY: Duration = Duration::from_millis(50);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const CHUNK: usize = 16_384;

/// What is known of the main process.
#[derive(Debug, Default)]
pub(crate) struct Machine {
    pub(crate) started: Option<GuestMessage>,
    pub(crate) volumes: Vec<PathBuf>,
    /// Whether its root is used again after its end.
    pub(crate) lasting_root: bool,
    /// OOM kills of the kernel before it started.
    pub(crate) oom_kills_before: u64,
    /// Whether it was asked to stop: then every process is given its time.
    stopping: bool,
    /// Whether a stop went as far as SIGKILL: then a kill is no lack of memory.
    pub(crate) killed_by_stop: bool,
    /// Signals still to be sent, the next one last.
    escalation: Vec<(Instant, i32)>,
}

#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) link: Link,
    pub(crate) machine: Machine,
    pub(crate) sessions: BTreeMap<u32, Session>,
    api: Api,
    /// Until the machine ends.
    pub(crate) containers: Option<Containers>,
    /// Until the machine ends.
    pub(crate) daemons: Vec<Daemon>,
    /// What the host is told last, once the machine is ending.
    pub(crate) last_word: Option<GuestMessage>,
    ahead: boot::Ahead,
    children: OwnedFd,
    away_since: Option<Instant>,
    lost_output: usize,
    buffer: Vec<u8>,
}

impl Supervisor {
    pub(crate) fn new(link: Link, ahead: boot::Ahead) -> Staged<Self> {
        Ok(Self {
            link,
            ahead,
            machine: Machine::default(),
            sessions: BTreeMap::new(),
            api: Api::default(),
            containers: None,
            daemons: Vec::new(),
            last_word: None,
            children: sys::child_events().stage("supervise", "cannot watch children")?,
            away_since: None,
            lost_output: 0,
            buffer: vec![0; CHUNK],
        })
    }

    /// Serves the host until there is nothing more to serve; never returns.
    pub(crate) fn run(mut self) -> Staged<Infallible> {
        loop {
            if let Some(spec) = self.step(None) {
                match self.boot(&spec) {
                    Ok(()) => {}
                    Err(failure) => ending::of_failure(self, failure),
                }
            }
            if let Some(ended) = self.end_of_machine() {
                ending::of_process(self, ended);
            }
        }
    }

    /// How the machine ends, if it does: with the process that ends first, or, when it was asked
    /// to stop, with the last, and then its main process says how.
    fn end_of_machine(&self) -> Option<Ended> {
        if let Some(containers) = &self.containers {
            return containers.verdict();
        }
        let own = self.sessions.iter().filter(|(key, _)| is_own(**key));
        let mut ends = own.map(|(_, session)| session.ended());
        if self.machine.stopping {
            let main = ends.next().flatten()?;
            return ends.all(|end| end.is_some()).then_some(main);
        }
        ends.flatten().next()
    }

    /// Whether nobody runs any more and all that was written has been taken.
    pub(crate) fn is_silent(&self) -> bool {
        self.sessions
            .iter()
            .all(|(key, session)| is_own(*key) && session.finished().is_some())
    }

    /// Waits for something to happen, at most until `deadline`, and handles all that did.
    ///
    /// Returns a run spec when the first one arrived.
    pub(crate) fn step(&mut self, deadline: Option<Instant>) -> Option<Box<RunSpec>> {
        self.wait(deadline);
        self.reap();
        self.daemons.iter_mut().for_each(Daemon::tend);
        self.escalate();
        if let Some(containers) = &mut self.containers {
            containers.tend(&mut self.sessions, &mut self.link);
        }
        let mut spec = None;
        for event in self.link.look() {
            spec = self.handle(event).or(spec);
        }
        self.pump();
        self.link.unblock();
        self.link.flush();
        spec
    }

    fn boot(&mut self, spec: &RunSpec) -> Result<(), Failed> {
        let booted = boot::enter(spec, &self.ahead)?;
        self.machine.volumes = booted.volumes;
        self.api = booted.api;
        self.daemons = booted.daemons;
        self.machine.lasting_root = spec.root.lasting;
        self.machine.oom_kills_before = stats::oom_kills();
        let main = booted.children.first().map(|child| child.pid);
        let shares = booted.children.len() > 1;
        for (key, child) in std::iter::once(MAIN).chain(BESIDE..).zip(booted.children) {
            let mut session =
                Session::new(MAIN, child, None).stage("spawn", "cannot watch the process")?;
            if shares {
                session.share_stream("");
            }
            self.sessions.insert(key, session);
        }
        self.containers = Containers::prepare(spec, BESIDE, MAIN)?;
        let pid = match (&mut self.containers, main) {
            (Some(containers), _) => containers.begin(&mut self.sessions)?,
            (None, Some(pid)) => pid,
            (None, None) => return Err(failed("spawn", "there is nothing to run")),
        };
        let started = GuestMessage::Started {
            pid,
            at_ms: unix_ms(),
            boot_id: Some(boot_id()),
        };
        self.link.tell(&started);
        self.machine.started = Some(started);
        if let Some(containers) = &mut self.containers {
            containers.tell_again(&mut self.link);
        }
        self.link.flush();
        Ok(())
    }

    fn wait(&mut self, deadline: Option<Instant>) {
        let timeout = self.patience(deadline).map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(patience.subsec_nanos()),
        });
        let room = self.link.room() > 0 || self.host_is_away_for_long();
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.children.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.link.watch(), PollFlags::IN),
        ];
        for session in self.sessions.values() {
            let wanted = session.interests(room).into_iter();
            fds.extend(wanted.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        }
        let wanted = self.api.interests(self.link.room() > 0).into_iter();
        fds.extend(wanted.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        // Only a signal interrupts; then the next round waits again.
        let _ = poll(&mut fds, timeout.as_ref());
    }

    /// How long to wait: until the nearest deadline of anybody.
    fn patience(&self, deadline: Option<Instant>) -> Option<Duration> {
        if self.link.look_again() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let lingering = self.sessions.values().any(Session::lingers);
        [
            deadline,
            self.machine.escalation.last().map(|(when, _)| *when),
            self.daemons.iter().filter_map(Daemon::due).min(),
            self.containers.as_ref().and_then(Containers::due),
            self.away_since
                .map(|since| since + AWAY_PATIENCE)
                .filter(|when| *when > now),
            (self.link.blocked() || lingering).then(|| now + RETRY),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|when| when.saturating_duration_since(now))
    }

    fn host_is_away_for_long(&self) -> bool {
        self.away_since
            .is_some_and(|since| since.elapsed() >= AWAY_PATIENCE)
    }

    /// Collects every ended child, orphans included.
    fn reap(&mut self) {
        // The descriptor only wakes the loop; what happened is asked of the kernel.
        while rustix::io::read(&self.children, &mut [0_u8; 1024]).is_ok() {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            for daemon in &mut self.daemons {
                daemon.note_end(pid);
            }
            let ended = Ended::from_status(status);
            let alive = |session: &&mut Session| session.pid == pid && session.ended().is_none();
            if let Some(session) = self.sessions.values_mut().find(alive) {
                session.note_end(ended);
            } else if let Some(containers) = &mut self.containers {
                containers.note_exit(pid, ended, &mut self.link);
            }
        }
    }

    fn escalate(&mut self) {
        while let Some((_, signal)) = self
            .machine
            .escalation
            .pop_if(|(when, _)| *when <= Instant::now())
        {
            self.machine.killed_by_stop |= signal == SIGKILL;
            self.signal_own(signal);
        }
    }

    fn handle(&mut self, event: Event) -> Option<Box<RunSpec>> {
        match event {
            // A host that is back after a sleep says so itself.
            Event::Connected | Event::Garbage(_) if self.link.is_hushed() => {}
            Event::Connected => self.greet(),
            Event::Garbage(_) => {
                self.drop_sessions();
                self.greet();
            }
            Event::Lost => {
                if !self.link.is_hushed() {
                    self.away_since = Some(Instant::now());
                }
                self.drop_sessions();
            }
            Event::Frame(frame) => return self.handle_frame(&frame),
        }
        None
    }

    /// Says who this is and how far it has come: to a new host and after every break.
    fn greet(&mut self) {
        self.away_since = None;
        // The kernel makes it when it is first read, and a template's copies must not share it.
        let boot_id = self
            .machine
            .started
            .as_ref()
            .map_or(String::new(), |_| boot_id());
        self.link.tell(&GuestMessage::Hello(Hello {
            v: PROTOCOL_VERSION,
            init_version: env!("CARGO_PKG_VERSION").into(),
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            boot_id,
        }));
        for message in self.machine.started.iter().chain(&self.last_word) {
            self.link.tell(message);
        }
        if let Some(containers) = &mut self.containers {
            containers.tell_again(&mut self.link);
        }
        if self.lost_output > 0 {
            let lost = std::mem::take(&mut self.lost_output);
            let word =
                format!("godwit-init: {lost} bytes of output were lost: no host to take them\n");
            self.link.put(Kind::Stderr, MAIN, word.as_bytes());
        }
    }

    /// Ends every session: nobody is left who asked for it.
    fn drop_sessions(&mut self) {
        self.api.drop_all();
        let streams: Vec<u32> = self
            .sessions
            .keys()
            .copied()
            .filter(|key| !is_own(*key))
            .collect();
        for stream in streams {
            self.signal(stream, SIGKILL);
            self.sessions.remove(&stream);
        }
    }

    fn handle_frame(&mut self, frame: &Frame) -> Option<Box<RunSpec>> {
        let session = self
            .sessions
            .get_mut(&frame.stream)
            .filter(|_| !is_own(frame.stream));
        match (frame.kind, session) {
            (Kind::Message, _) => {
                // What cannot be read was meant for another release.
                let message = serde_json::from_slice(&frame.payload).ok()?;
                return self.handle_message(message);
            }
            (Kind::Credit, Some(session)) => session.add_credit(frame.credit().unwrap_or(0)),
            (Kind::Eof, Some(session)) => session.end_input(),
            (Kind::Stdin, Some(session)) => {
                let within_bounds = session.feed(&frame.payload);
                if !within_bounds {
                    self.signal(frame.stream, SIGKILL);
                }
            }
            (Kind::Credit, None) => {
                let bytes = frame.credit().unwrap_or(0);
                self.api.add_credit(frame.stream, bytes);
            }
            (Kind::Eof, None) => self.api.end(frame.stream),
            (Kind::Stdin, None) => self.api.feed(frame.stream, &frame.payload),
            _ => {}
        }
        None
    }

    fn handle_message(&mut self, message: HostMessage) -> Option<Box<RunSpec>> {
        match message {
            HostMessage::Run { spec } if self.machine.started.is_none() => return Some(spec),
            HostMessage::Stop { signal, timeout_ms } => self.stop(&signal, timeout_ms),
            HostMessage::Signal { signal } => {
                if let Some(number) = signals::number(&signal) {
                    self.signal_own(number);
                }
            }
            HostMessage::Sleep {} => {
                self.drop_sessions();
                self.link.hush(&GuestMessage::Asleep {});
            }
            HostMessage::Wake {
                clock_unix_ns,
                entropy_base64,
            } => self.wake(clock_unix_ns, &entropy_base64),
            HostMessage::Ping { id } => self.link.tell(&GuestMessage::Pong { id }),
            HostMessage::Stats { id } => {
                let stats = stats::gather(id, &self.machine.volumes);
                self.link.tell(&GuestMessage::Stats(stats));
            }
            HostMessage::Exec(exec) => self.exec(&exec),
            HostMessage::Accept { stream, credit } => self.accept(stream, credit),
            HostMessage::Answer(answer) => {
                if let Some(containers) = &mut self.containers {
                    containers.hear(answer, &mut self.link);
                }
            }
            HostMessage::ExecSignal { stream, .. } if self.api.uses(stream) => {
                self.api.hang_up(stream, &mut self.link);
            }
            HostMessage::ExecSignal { stream, signal } if !is_own(stream) => {
                if let Some(number) = signals::number(&signal) {
                    self.signal(stream, number);
                }
            }
            HostMessage::Resize { stream, rows, cols } => {
                if let Some(session) = self.sessions.get(&stream) {
                    session.resize(TerminalSize { rows, cols });
                }
            }
            HostMessage::Run { .. } | HostMessage::ExecSignal { .. } | HostMessage::Unknown => {}
        }
        None
    }

    /// Goes on after a sleep, maybe as one of many copies: what they share goes first.
    fn wake(&mut self, clock_unix_ns: i64, entropy_base64: &str) {
        let renewed = clock::entropy(Some(entropy_base64)).and(clock::set(Some(clock_unix_ns)));
        if let Err(failure) = renewed {
            eprintln!("godwit-init: waking: {}", failure.message);
        }
        self.link.unhush();
        self.greet();
    }

    /// Plans the way down: this signal now, SIGTERM after the timeout, SIGKILL a second later.
    fn stop(&mut self, signal: &str, timeout_ms: u64) {
        self.machine.stopping = true;
        let now = Instant::now();
        let term = now + Duration::from_millis(timeout_ms.min(86_400_000));
        let number = signals::number(signal).unwrap_or(SIGTERM);
        self.machine.escalation = vec![(term + TERM_GRACE, SIGKILL), (term, SIGTERM)];
        match &mut self.containers {
            // Each in its turn, with what it has its own stop say.
            Some(containers) => containers.stop(number),
            None => self.machine.escalation.push((now, number)),
        }
        self.escalate();
    }

    /// Signals the process group of a session whose leader still lives.
    fn signal(&mut self, stream: u32, number: i32) {
        if let Some(session) = self.sessions.get(&stream).filter(|s| s.ended().is_none()) {
            // It can only be gone already, which is what most signals are for.
            let _ = sys::kill(-session.pid, number);
        }
    }

    /// Signals the groups of the machine's own processes.
    fn signal_own(&mut self, number: i32) {
        let keys = self.sessions.keys().copied();
        for key in keys.filter(|key| is_own(*key)).collect::<Vec<_>>() {
            self.signal(key, number);
        }
    }

    fn exec(&mut self, exec: &Exec) {
        let stream = exec.stream;
        match self.try_exec(exec) {
            Ok(pid) => self.link.tell(&GuestMessage::ExecStarted { stream, pid }),
            Err(message) => self
                .link
                .tell(&GuestMessage::ExecFailed { stream, message }),
        }
    }

    fn try_exec(&mut self, exec: &Exec) -> Result<i32, String> {
        if self.machine.started.is_none() || self.last_word.is_some() {
            return Err("the machine is not running".into());
        }
        self.require_free(exec.stream)?;
        if self.sessions.len() > MAX_SESSIONS {
            return Err(format!("there are {MAX_SESSIONS} sessions already"));
        }
        let inside = match (&self.containers, exec.container.as_str()) {
            (_, "") => None,
            (Some(containers), name) => Some(containers.inside(name)?),
            (None, _) => return Err("the machine has no containers".into()),
        };
        let program = Program {
            argv: &exec.argv,
            env: &exec.env,
            env_base64: &exec.env_base64,
            user: &exec.user,
            working_directory: &exec.working_directory,
            open_files: OPEN_FILES,
            tty: exec.tty,
            stdin: true,
            silent: false,
            inside,
        };
        let child = spawn::spawn(&program).map_err(spawn::Refusal::into_message)?;
        let pid = child.pid;
        let session = Session::new(exec.stream, child, Some(INITIAL_CREDIT))
            .map_err(|error| error.to_string())?;
        self.sessions.insert(exec.stream, session);
        Ok(pid)
    }

    fn require_free(&self, stream: u32) -> Result<(), String> {
        if is_own(stream) || self.sessions.contains_key(&stream) || self.api.uses(stream) {
            return Err(format!("stream {stream} is in use"));
        }
        Ok(())
    }

    /// The host serves one more connection to the machine's API socket.
    fn accept(&mut self, stream: u32, credit: u32) {
        let taken = self
            .require_free(stream)
            .and_then(|()| self.api.offer(stream, credit));
        if let Err(message) = taken {
            self.link
                .tell(&GuestMessage::ExecFailed { stream, message });
        }
    }

    /// Moves output and input of every session, and tells of sessions that are through.
    fn pump(&mut self) {
        self.api.pump(&mut self.link, &mut self.buffer);
        let away = self.host_is_away_for_long();
        let mut through = Vec::new();
        for (stream, session) in &mut self.sessions {
            if away {
                self.lost_output += session.discard_output(&mut self.buffer);
            } else {
                session.pump_output(&mut self.link, &mut self.buffer);
            }
            let taken = session.pump_input();
            if taken > 0 {
                self.link.grant(*stream, taken);
            }
            if let Some(ended) = session.finished().filter(|_| !is_own(*stream)) {
                through.push((*stream, ended));
            }
        }
        for (stream, Ended { exit_code, signal }) in through {
            self.sessions.remove(&stream);
            self.link.tell_last(&GuestMessage::ExecExited {
                stream,
                exit_code,
                signal,
            });
        }
    }
}

/// Whether a session is the machine's own process, not a command that somebody runs in it.
fn is_own(key: u32) -> bool {
    key == MAIN || key >= BESIDE
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().into()
}

fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0)
}
