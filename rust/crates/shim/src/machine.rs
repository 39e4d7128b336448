//! What the shim knows of its machine, and what it makes of it in the end. Pure.

use godwit_wire::containers::Standing;
use godwit_wire::messages::{Exited, Failed, Hello};
use godwit_wire::shim::{Cause, ExitRecord, Phase, ShimConfig, StartKind, Status, VmmExit};

/// What the guest says of itself is kept this short.
const MAX_WORD: usize = 128;
const MAX_SENTENCE: usize = 2048;
/// More containers than a machine may have, and more checks than one of them.
const MAX_CONTAINERS: usize = 64;
const MAX_CHECKS: usize = 32;
const MAX_OUTPUT: usize = 256;

#[derive(Debug)]
pub(crate) struct Machine {
    id: String,
    instance_id: String,
    vmm_pid: u32,
    start_kind: StartKind,
    pub(crate) phase: Phase,
    /// The guest was asked to sleep and has said so.
    pub(crate) asleep: bool,
    pub(crate) hello: Option<Hello>,
    process_pid: Option<i32>,
    started_at_ms: Option<u64>,
    containers: Vec<Standing>,
    guest: Option<Exited>,
    failure: Option<Failed>,
    /// Why the shim killed the VMM, if it did.
    killed: Option<Cause>,
    exit: Option<ExitRecord>,
}

impl Machine {
    pub(crate) fn new(config: &ShimConfig, vmm_pid: u32) -> Self {
        Self {
            id: config.machine_id.clone(),
            instance_id: config.instance_id.clone(),
            vmm_pid,
            start_kind: config.start_kind,
            phase: Phase::Booting,
            asleep: false,
            hello: None,
            process_pid: None,
            started_at_ms: None,
            containers: Vec::new(),
            guest: None,
            failure: None,
            killed: None,
            exit: None,
        }
    }

    /// Whether the guest has said its last word.
    pub(crate) fn is_over(&self) -> bool {
        self.guest.is_some() || self.failure.is_some()
    }

    /// The guest said hello; returns whether for the first time.
    pub(crate) fn greet(&mut self, mut hello: Hello) -> bool {
        for word in [
            &mut hello.init_version,
            &mut hello.kernel,
            &mut hello.boot_id,
        ] {
            shorten(word, MAX_WORD);
        }
        if self.phase == Phase::Booting {
            self.phase = Phase::Ready;
        }
        self.hello.replace(hello).is_none()
    }

    /// The main process runs; returns whether that is news.
    pub(crate) fn started(&mut self, pid: i32, boot_id: Option<String>, now_ms: u64) -> bool {
        let news = self.phase == Phase::Ready;
        if news {
            if let (Some(hello), Some(mut boot_id)) = (&mut self.hello, boot_id) {
                shorten(&mut boot_id, MAX_WORD);
                hello.boot_id = boot_id;
            }
            self.phase = Phase::Running;
            self.process_pid = Some(pid);
            self.started_at_ms = Some(now_ms);
        }
        news
    }

    /// What the containers do now; returns whether that is news.
    pub(crate) fn containers(&mut self, mut standing: Vec<Standing>) -> bool {
        standing.truncate(MAX_CONTAINERS);
        for one in &mut standing {
            shorten(&mut one.name, MAX_WORD);
            if let Some(checks) = &mut one.checks {
                checks.truncate(MAX_CHECKS);
                for check in checks {
                    shorten(&mut check.output, MAX_OUTPUT);
                }
            }
        }
        let news = self.containers != standing;
        self.containers = standing;
        news
    }

    /// The main process ended. The first last word counts.
    pub(crate) fn exited(&mut self, exited: Exited) {
        if !self.is_over() {
            self.guest = Some(exited);
        }
    }

    /// The main process could not be started.
    pub(crate) fn failed(&mut self, mut failure: Failed) {
        if !self.is_over() {
            shorten(&mut failure.stage, MAX_WORD);
            shorten(&mut failure.message, MAX_SENTENCE);
            self.failure = Some(failure);
        }
    }

    /// The shim kills the VMM. The first reason counts.
    pub(crate) fn killed(&mut self, why: Cause) {
        self.killed.get_or_insert(why);
    }

    /// The VMM has ended: settles the record.
    pub(crate) fn end(&mut self, vmm: VmmExit, now_ms: u64, console: &str) -> &ExitRecord {
        let cause = match self.killed {
            _ if self.is_over() => Cause::Guest,
            Some(killed) => killed,
            None => Cause::Vmm,
        };
        if self.failure.is_none() && self.hello.is_none() {
            self.failure = explain(cause, console);
        }
        self.phase = Phase::Exited;
        self.exit.insert(ExitRecord {
            v: 1,
            machine_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            exited_at_ms: now_ms,
            start_kind: self.start_kind,
            cause,
            guest: self.guest.clone(),
            failure: self.failure.clone(),
            vmm,
        })
    }

    pub(crate) fn status(&self, dropped_log_bytes: u64) -> Status {
        Status {
            v: 1,
            machine_id: self.id.clone(),
            instance_id: self.instance_id.clone(),
            shim_version: env!("CARGO_PKG_VERSION").into(),
            shim_pid: std::process::id(),
            vmm_pid: (self.phase != Phase::Exited).then_some(self.vmm_pid),
            phase: self.phase,
            start_kind: self.start_kind,
            asleep: self.asleep,
            hello: self.hello.clone(),
            process_pid: self.process_pid,
            started_at_ms: self.started_at_ms,
            containers: self.containers.clone(),
            dropped_log_bytes,
            exit: self.exit.clone(),
        }
    }
}

/// Says why there never was a guest; the console's last words are the best there is.
fn explain(cause: Cause, console: &str) -> Option<Failed> {
    let (stage, message) = match cause {
        Cause::BootDeadline => ("boot", "the guest did not say hello in time"),
        Cause::Vmm => ("vmm", "the VMM ended before the guest said hello"),
        Cause::Guest | Cause::Killed => return None,
    };
    let mut message = message.to_owned();
    if !console.is_empty() {
        message = format!("{message}; it said last: {console}");
    }
    shorten(&mut message, MAX_SENTENCE);
    Some(Failed {
        stage: stage.into(),
        message,
    })
}

fn shorten(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(
            (0..=most)
                .rev()
                .find(|at| text.is_char_boundary(*at))
                .unwrap_or(0),
        );
    }
}

#[cfg(test)]
mod tests {
    use godwit_wire::containers::{CheckStanding, Health, Standing, State};
    use godwit_wire::messages::{Exited, Failed, Hello};
    use godwit_wire::shim::{Cause, LogLimits, Phase, ShimConfig, StartKind, Vmm, VmmExit};

    use super::{Machine, shorten};

    fn machine() -> Machine {
        let config = ShimConfig {
            v: 1,
            machine_id: "m".into(),
            instance_id: "i".into(),
            org_id: "o".into(),
            directory: "/".into(),
            socket: "/s".into(),
            channel_socket: "/c".into(),
            channel_port: None,
            run_spec: None,
            boot_deadline_ms: 1,
            start_kind: StartKind::Cold,
            vmm: Vmm {
                argv: vec![],
                uid: 0,
                gid: 0,
                cgroup_procs: vec![],
                inherit: vec![],
            },
            log: LogLimits::default(),
        };
        Machine::new(&config, 42)
    }

    fn hello() -> Hello {
        Hello {
            v: 1,
            init_version: "1".into(),
            kernel: "k".into(),
            boot_id: "b".repeat(500),
        }
    }

    fn exited(exit_code: i32) -> Exited {
        Exited {
            exit_code,
            signal: None,
            oom_killed: false,
        }
    }

    const DONE: VmmExit = VmmExit {
        exit_code: Some(0),
        signal: None,
    };

    #[test]
    fn phases_follow_the_guests_words() {
        let mut machine = machine();
        assert!(
            !machine.started(7, Some("b".into()), 100),
            "nothing starts before hello"
        );
        assert!(machine.greet(hello()));
        assert_eq!(machine.phase, Phase::Ready);
        assert!(machine.started(7, Some("b".into()), 100));
        assert!(!machine.started(8, None, 200), "started counts once");
        assert!(!machine.greet(hello()));
        assert_eq!(machine.phase, Phase::Running);
        let status = machine.status(5);
        assert_eq!(
            (status.process_pid, status.started_at_ms),
            (Some(7), Some(100))
        );
        assert_eq!(status.hello.unwrap().boot_id.len(), 128);
    }

    #[test]
    fn containers_are_news_only_when_they_do_something_else() {
        let mut machine = machine();
        let check = |output| CheckStanding {
            status: Health::Critical,
            output,
        };
        let told = |state| Standing {
            name: "db".repeat(500),
            state,
            run: 1,
            checks: Some(vec![check("says".repeat(500)); 500]),
        };
        assert!(machine.containers(vec![told(State::Created); 500]));
        assert!(!machine.containers(vec![told(State::Created); 500]));
        assert!(machine.containers(vec![told(State::Started)]));
        let status = machine.status(0);
        assert_eq!(status.containers.len(), 1);
        assert_eq!(status.containers[0].state, State::Started);
        assert_eq!(status.containers[0].name.len(), 128);
        let checks = status.containers[0].checks.as_ref().unwrap();
        assert_eq!((checks.len(), checks[0].output.len()), (32, 256));
    }

    #[test]
    fn the_guests_word_outranks_every_other_cause() {
        let mut machine = machine();
        machine.greet(hello());
        machine.started(7, None, 1);
        machine.exited(exited(3));
        machine.exited(exited(4));
        machine.killed(Cause::Killed);
        let record = machine
            .end(
                VmmExit {
                    exit_code: None,
                    signal: Some(9),
                },
                9,
                "",
            )
            .clone();
        assert_eq!(
            (record.cause, record.guest.unwrap().exit_code),
            (Cause::Guest, 3)
        );
        assert_eq!(machine.status(0).vmm_pid, None);
    }

    #[test]
    fn every_other_end_has_its_cause() {
        let mut killed = machine();
        killed.greet(hello());
        killed.killed(Cause::Killed);
        killed.killed(Cause::BootDeadline);
        let record = killed.end(DONE, 9, "noise");
        assert_eq!((record.cause, &record.failure), (Cause::Killed, &None));
        let mut silent = machine();
        silent.killed(Cause::BootDeadline);
        let record = silent.end(DONE, 9, "");
        assert_eq!(record.failure.as_ref().unwrap().stage, "boot");
        let mut broken = machine();
        let record = broken.end(DONE, 9, "qemu: no such device");
        assert_eq!(record.cause, Cause::Vmm);
        assert!(
            record
                .failure
                .as_ref()
                .unwrap()
                .message
                .ends_with("qemu: no such device")
        );
        let mut panicked = machine();
        panicked.greet(hello());
        assert_eq!(panicked.end(DONE, 9, "panic").failure, None);
    }

    #[test]
    fn a_failure_of_init_is_passed_on() {
        let mut machine = machine();
        machine.greet(hello());
        machine.failed(Failed {
            stage: "spawn".into(),
            message: "ä".repeat(5000),
        });
        let record = machine.end(DONE, 9, "");
        assert_eq!(record.cause, Cause::Guest);
        assert_eq!(record.failure.as_ref().unwrap().message.len(), 2048);
    }

    #[test]
    fn text_is_shortened_between_characters() {
        let mut text = "aää".to_owned();
        shorten(&mut text, 2);
        assert_eq!(text, "a");
    }
}
