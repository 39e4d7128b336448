//! A machine's containers: what PID 1 does for them in its one loop.
//!
//! `course` decides what is started, started again and stopped, `health` how a container is,
//! `housing` makes roots and namespaces, `probe` is the program that asks HTTP and TCP checks.
//! Here all of it meets processes: a container's own is a session like the main process of other
//! machines, so its output and end come the same way; checks are children that end in time.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use godwit_wire::channel::Kind;
use godwit_wire::containers::{Container, Question, Standing, State};
use godwit_wire::messages::{Answer, Failed, GuestMessage};
use godwit_wire::run_spec::RunSpec;

use crate::link::Link;
use crate::sessions::{Ended, Session};
use crate::stages::spawn::{self, Program};
use crate::stages::{Context, Staged, failed};
use crate::{signals, stats, sys};

mod course;
mod health;
pub(crate) mod housing;
pub(crate) mod probe;

use course::{After, Course};
use health::{Health, Turn};
use housing::{Home, Inside};

/// From the second signal of a stop to the last.
const TERM_GRACE: Duration = Duration::from_secs(1);
/// How often to look whether one that is to start again has been heard out.
const RETRY: Duration = Duration::from_millis(50);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
const KILLED: i32 = 128 + SIGKILL;
/// What a container reports that could not be started.
const NOT_STARTED: i32 = 127;
const DEFAULT_SIGNAL: i32 = 2;
const PROGRAM: &str = "/proc/1/exe";
const STAGE: &str = "containers";

/// The sessions of all, by key; containers' begin at the key they were made with.
pub(crate) type Sessions = BTreeMap<u32, Session>;

#[derive(Debug)]
pub(crate) struct Containers {
    specs: Vec<Container>,
    homes: Vec<Home>,
    course: Course,
    runs: Vec<Option<Run>>,
    /// How often each was started.
    starts: Vec<u32>,
    /// Key of the first one's session, and the stream that their output goes to.
    first_key: u32,
    stream: u32,
    stop_signal: i32,
    /// What the host was last told of their states; empty when it has to hear all of them.
    told: Vec<State>,
    /// Whether a check has turned since.
    turned: bool,
    /// Whether one had to be killed in its stop: then a kill is no lack of memory.
    pub(crate) killed_by_stop: bool,
}

/// One run of a container.
#[derive(Debug)]
struct Run {
    inside: Inside,
    checks: Vec<(Health, Option<Asked>)>,
    /// Signals still to be sent, the next one last.
    escalation: Vec<(Instant, i32)>,
    /// Whether it is ended because a check failed.
    unhealthy: bool,
    oom_kills_before: u64,
}

/// A question that is being asked.
#[derive(Debug)]
struct Asked {
    pid: i32,
    until: Instant,
}

impl Containers {
    /// Prepares every container's root; `None` for a machine without containers.
    pub(crate) fn prepare(spec: &RunSpec, first_key: u32, stream: u32) -> Staged<Option<Self>> {
        if spec.containers.is_empty() {
            return Ok(None);
        }
        housing::found()?;
        let homes = spec.containers.iter().map(housing::furnish);
        Ok(Some(Self {
            homes: homes.collect::<Staged<_>>()?,
            course: Course::new(&spec.containers),
            runs: spec.containers.iter().map(|_| None).collect(),
            starts: vec![0; spec.containers.len()],
            specs: spec.containers.clone(),
            first_key,
            stream,
            stop_signal: DEFAULT_SIGNAL,
            told: Vec::new(),
            turned: false,
            killed_by_stop: false,
        }))
    }

    /// Starts those that wait for nobody; returns the pid of the first.
    pub(crate) fn begin(&mut self, sessions: &mut Sessions) -> Staged<i32> {
        let now = Instant::now();
        let mut first = None;
        for at in self.course.due(&self.healthy(), now) {
            let pid = self.start(at, sessions, now)?;
            first.get_or_insert(pid);
        }
        first.ok_or_else(|| failed(STAGE, "every container waits for another one"))
    }

    /// Does all that is due: takes in ends, sends signals, asks checks, starts what may start.
    pub(crate) fn tend(&mut self, sessions: &mut Sessions, link: &mut Link) {
        let now = Instant::now();
        for at in 0..self.specs.len() {
            self.take_end(at, sessions, link, now);
        }
        for at in self.course.take_stops() {
            let (signal, timeout) = self.stop_of(at);
            if let Some(run) = &mut self.runs[at] {
                run.escalation = escalation(now, signal, timeout);
            }
        }
        for at in 0..self.specs.len() {
            self.escalate(at, sessions, now);
            self.check(at, link, now);
        }
        for at in self.course.due(&self.healthy(), now) {
            let speaks = |session: &Session| session.finished().is_none();
            if sessions.get(&self.key(at)).is_some_and(speaks) {
                // What it said last is yet to be taken.
                continue;
            }
            if let Err(failure) = self.start(at, sessions, now) {
                say(link, self.stream, &failure.message);
                self.course.note_start(at, now);
                self.note_end(at, not_started(), link, now);
            }
        }
        self.tell_states(link);
    }

    /// Tells a host that may be another one, or have missed some, all states.
    pub(crate) fn tell_again(&mut self, link: &mut Link) {
        self.told.clear();
        self.tell_states(link);
    }

    fn tell_states(&mut self, link: &mut Link) {
        let states = (0..self.specs.len()).map(|at| self.course.state(at));
        let states: Vec<State> = states.collect();
        if states == self.told && !self.turned {
            return;
        }
        let checks = |run: &Run| {
            let checks = run.checks.iter();
            checks
                .map(|(health, _)| health.standing().clone())
                .collect()
        };
        let standing = |at: usize| Standing {
            name: self.specs[at].name.clone(),
            state: states[at],
            run: self.starts[at],
            checks: Some(self.runs[at].as_ref().map_or_else(Vec::new, checks)),
        };
        let containers = (0..self.specs.len()).map(standing).collect();
        link.tell(&GuestMessage::Containers { containers });
        (self.told, self.turned) = (states, false);
    }

    /// Takes what the host was answered by a container, if that still runs.
    pub(crate) fn hear(&mut self, answer: Answer, link: &mut Link) {
        let named = |spec: &Container| spec.name == answer.container;
        let Some(at) = self.specs.iter().position(named) else {
            return;
        };
        let number = answer.check as usize;
        let asked = self.runs[at]
            .as_ref()
            .and_then(|run| run.checks.get(number));
        let told = asked.is_some_and(|(health, _)| health.due().is_none());
        if told && self.starts[at] == answer.run {
            let now = Instant::now();
            self.take_answer(at, number, answer.well, answer.output, link, now);
            self.tell_states(link);
        }
    }

    /// Hears that a process has ended; it may have been a check.
    pub(crate) fn note_exit(&mut self, pid: i32, ended: Ended, link: &mut Link) {
        let asks = |run: &Run| {
            let asked = |(_, asked): &(Health, Option<Asked>)| {
                asked.as_ref().is_some_and(|one| one.pid == pid)
            };
            run.checks.iter().position(asked)
        };
        let found = self.runs.iter().enumerate().find_map(|(at, run)| {
            let number = run.as_ref().and_then(asks)?;
            Some((at, number))
        });
        if let Some((at, number)) = found {
            let health = &self.specs[at].healthchecks[number];
            let output = probe::in_words(&health.question, ended, health.timeout_s);
            let well = ended.exit_code == 0;
            self.take_answer(at, number, well, output, link, Instant::now());
        }
    }

    /// Takes what a check came to; one that has come to fail may end its container.
    fn take_answer(
        &mut self,
        at: usize,
        number: usize,
        well: bool,
        output: String,
        link: &mut Link,
        now: Instant,
    ) {
        let (signal, timeout) = self.stop_of(at);
        let Some(run) = &mut self.runs[at] else {
            return;
        };
        let (health, asked) = &mut run.checks[number];
        *asked = None;
        let turn = health.note(well, output, now);
        self.turned |= turn != Turn::Same;
        if turn != Turn::Fails {
            return;
        }
        let stops = health.check.stops && run.escalation.is_empty();
        if stops {
            run.unhealthy = true;
            run.escalation = escalation(now, signal, timeout);
        }
        let what = if stops { ", it is stopped" } else { "" };
        let (container, check) = (&self.specs[at].name, &health.check.name);
        let word = format!("check {check} of container {container} fails{what}");
        say(link, self.stream, &word);
    }

    /// When there is something to do, whatever else happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        let runs = self.runs.iter().flatten();
        let of_run = |run: &Run| {
            let checks = run.checks.iter().filter_map(|(health, asked)| {
                asked
                    .as_ref()
                    .map_or(health.due(), |asked| Some(asked.until))
            });
            let signal = run.escalation.last().map(|(when, _)| *when);
            checks.chain(signal).min()
        };
        // One whose last words are not taken yet is looked at again, not all the time.
        let soon = Instant::now() + RETRY;
        let start = self.course.next_start().map(|when| when.max(soon));
        runs.filter_map(of_run).chain(start).min()
    }

    /// Begins the machine's stop: one after the other, by what depends on what.
    pub(crate) fn stop(&mut self, signal: i32) {
        self.stop_signal = signal;
        self.course.stop();
    }

    /// How the machine ends, if it does.
    pub(crate) fn verdict(&self) -> Option<Ended> {
        self.course.verdict()
    }

    /// Returns where the programs of a running container run.
    pub(crate) fn inside(&self, name: &str) -> Result<&Inside, String> {
        let at = self.specs.iter().position(|spec| spec.name == name);
        let at = at.ok_or_else(|| format!("the machine has no container {name}"))?;
        let run = self.runs[at].as_ref();
        run.map(|run| &run.inside)
            .ok_or_else(|| format!("container {name} is not running"))
    }

    fn key(&self, at: usize) -> u32 {
        self.first_key + u32::try_from(at).unwrap_or(0)
    }

    fn healthy(&self) -> Vec<bool> {
        let healthy = |run: &Run| run.checks.iter().all(|(health, _)| health.is_passing());
        self.runs
            .iter()
            .map(|run| run.as_ref().is_some_and(healthy))
            .collect()
    }

    fn start(&mut self, at: usize, sessions: &mut Sessions, now: Instant) -> Staged<i32> {
        let spec = &self.specs[at];
        let inside = self.homes[at]
            .enter()
            .stage(STAGE, format_args!("cannot isolate {}", spec.name))?;
        let started = spawn::spawn(&Program {
            inside: Some(&inside),
            ..Program::of(&spec.process)
        });
        let child = started.map_err(|refusal| {
            inside.end();
            Failed {
                stage: refusal.stage().into(),
                message: format!("container {}: {}", spec.name, refusal.into_message()),
            }
        })?;
        let pid = child.pid;
        let mut session =
            Session::new(self.stream, child, None).stage("spawn", "cannot watch the process")?;
        session.share_stream(&format!("{} | ", spec.name));
        let checks = spec.healthchecks.iter();
        self.runs[at] = Some(Run {
            inside,
            checks: checks
                .map(|check| (Health::begin(check, now), None))
                .collect(),
            escalation: Vec::new(),
            unhealthy: false,
            oom_kills_before: stats::oom_kills(),
        });
        sessions.insert(self.key(at), session);
        self.starts[at] = self.starts[at].saturating_add(1);
        self.course.note_start(at, now);
        Ok(pid)
    }

    fn take_end(&mut self, at: usize, sessions: &Sessions, link: &mut Link, now: Instant) {
        if !self.course.is_running(at) {
            return;
        }
        if let Some(ended) = sessions.get(&self.key(at)).and_then(Session::ended) {
            self.note_end(at, ended, link, now);
        }
    }

    fn note_end(&mut self, at: usize, ended: Ended, link: &mut Link, now: Instant) {
        let run = self.runs[at].take();
        let unhealthy = run.as_ref().is_some_and(|run| run.unhealthy);
        let starved = run.as_ref().is_some_and(|run| {
            let asked = run.escalation.is_empty() && !unhealthy;
            ended.exit_code == KILLED && asked && stats::oom_kills() > run.oom_kills_before
        });
        if let Some(run) = run {
            let asked = run.checks.iter().filter_map(|(_, asked)| asked.as_ref());
            asked.for_each(|asked| kill_group(asked.pid, SIGKILL));
            run.inside.end();
        }
        let next = match self.course.note_end(at, ended, unhealthy, now) {
            After::Again(pause) => format!(", starts again in {} s", pause.as_secs()),
            After::Over => String::new(),
        };
        let why = if starved { ", out of memory" } else { "" };
        let name = &self.specs[at].name;
        let word = format!(
            "container {name} exited with code {}{why}{next}",
            ended.exit_code
        );
        say(link, self.stream, &word);
    }

    fn stop_of(&self, at: usize) -> (i32, Duration) {
        let spec = &self.specs[at];
        let signal = signals::number(&spec.stop_signal).unwrap_or(self.stop_signal);
        (
            signal,
            Duration::from_millis(spec.stop_timeout_ms.min(86_400_000)),
        )
    }

    fn escalate(&mut self, at: usize, sessions: &Sessions, now: Instant) {
        let key = self.key(at);
        let Some(run) = &mut self.runs[at] else {
            return;
        };
        while let Some((_, signal)) = run.escalation.pop_if(|(when, _)| *when <= now) {
            self.killed_by_stop |= signal == SIGKILL;
            if let Some(session) = sessions.get(&key).filter(|one| one.ended().is_none()) {
                kill_group(session.pid, signal);
            }
        }
    }

    /// Asks the checks that are due, and gives up on answers that do not come.
    fn check(&mut self, at: usize, link: &mut Link, now: Instant) {
        let spec = &self.specs[at];
        let Some(run) = &mut self.runs[at] else {
            return;
        };
        let mut unasked = Vec::new();
        for (number, (health, asked)) in run.checks.iter_mut().enumerate() {
            match asked {
                // What is killed has ended, and that is its answer.
                Some(one) if one.until <= now => {
                    kill_group(one.pid, SIGKILL);
                    one.until = now + health.patience();
                }
                None if health.due().is_some_and(|due| due <= now) => {
                    let until = now + health.patience();
                    match ask(spec, &run.inside, health) {
                        Ok(pid) => *asked = Some(Asked { pid, until }),
                        Err(message) => {
                            eprintln!("godwit-init: container {}: {message}", spec.name);
                            unasked.push((number, message));
                        }
                    }
                }
                _ => {}
            }
        }
        for (number, message) in unasked {
            self.take_answer(at, number, false, message, link, now);
        }
    }
}

/// Starts what asks a check's question; it answers by its exit code.
fn ask(spec: &Container, inside: &Inside, health: &Health) -> Result<i32, String> {
    if let Question::Exec { argv } = &health.check.question {
        let program = Program {
            argv,
            tty: None,
            silent: true,
            inside: Some(inside),
            ..Program::of(&spec.process)
        };
        let child = spawn::spawn(&program).map_err(spawn::Refusal::into_message)?;
        return Ok(child.pid);
    }
    ask_aside(&health.check.question, health.patience()).map_err(|error| error.to_string())
}

fn ask_aside(question: &Question, patience: Duration) -> io::Result<i32> {
    let question = serde_json::to_string(question)?;
    let mut command = Command::new(PROGRAM);
    command
        .args(["probe", &question, &patience.as_secs().to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    sys::before_exec(&mut command, || {
        rustix::process::setsid().map(|_| ()).map_err(Into::into)
    });
    command.arg0("godwit-probe");
    Ok(i32::try_from(command.spawn()?.id()).unwrap_or(0))
}

fn escalation(now: Instant, signal: i32, timeout: Duration) -> Vec<(Instant, i32)> {
    let term = now + timeout;
    vec![(term + TERM_GRACE, SIGKILL), (term, SIGTERM), (now, signal)]
}

fn kill_group(leader: i32, signal: i32) {
    // It can only be gone already, which is what most signals are for.
    let _ = sys::kill(-leader, signal);
}

fn not_started() -> Ended {
    Ended {
        exit_code: NOT_STARTED,
        signal: None,
    }
}

/// Says something of a container in the machine's log.
fn say(link: &mut Link, stream: u32, word: &str) {
    if link.room() > 0 {
        link.put(
            Kind::Stderr,
            stream,
            format!("godwit-init: {word}\n").as_bytes(),
        );
    } else {
        eprintln!("godwit-init: {word}");
    }
}
