//! The shim as a process, with a fake VMM below and a small agent above.

#![allow(
    clippy::unwrap_used,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::channel::{Decoder, Frame, INITIAL_CREDIT, Kind, encode_into};
use godwit_wire::shim::{Cause, ExitRecord, LogLine, Phase, Source, Status, VmmExit};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);

/// A machine's folder and the shim that runs in it; both go with the test.
struct Machine {
    folder: PathBuf,
    shim: Option<Child>,
}

impl Machine {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("godwit-shim-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, shim: None }
    }

    /// Starts a shim over the fake VMM in this part.
    fn playing(part: &str) -> Self {
        Self::playing_with(part, |_| {})
    }

    fn playing_with(part: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut machine = Self::new();
        let program = std::env::current_exe().unwrap();
        let fake = program
            .parent()
            .unwrap()
            .parent()
            .unwrap()
            .join("examples/fake_vmm");
        let channel = machine.path("channel.sock");
        machine.start(&json!([fake, channel, part]), change);
        machine
    }

    fn start(&mut self, argv: &Value, change: impl FnOnce(&mut Value)) {
        fs::write(
            self.path("run.json"),
            r#"{"machine_id":"m","hostname":"m","process":{"argv":["x"]}}"#,
        )
        .unwrap();
        let mut config = json!({
            "machine_id": "m", "instance_id": "i", "org_id": "o",
            "directory": self.folder, "socket": self.path("shim.sock"),
            "channel_socket": self.path("channel.sock"), "run_spec": self.path("run.json"),
            "boot_deadline_ms": 10_000,
            "vmm": {
                "argv": argv,
                "uid": rustix::process::getuid().as_raw(),
                "gid": rustix::process::getgid().as_raw(),
            },
        });
        change(&mut config);
        fs::write(self.path("shim.json"), config.to_string()).unwrap();
        self.shim = Some(self.shim());
    }

    fn shim(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_godwit-shim"))
            .arg("--config")
            .arg(self.path("shim.json"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.shim.as_ref().unwrap().id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the shim's end and returns the record it left.
    fn ended(&mut self) -> ExitRecord {
        let mut shim = self.shim.take().unwrap();
        let status = eventually(|| shim.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(!self.path("shim.sock").exists());
        serde_json::from_slice(&fs::read(self.path("exit.json")).unwrap()).unwrap()
    }

    fn lines(&self, source: Source) -> Vec<String> {
        let text = fs::read_to_string(self.path("logs/current.jsonl")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
        lines
            .filter(|line| line.s == source)
            .map(|line| line.m)
            .collect()
    }

    fn until_line(&self, source: Source, wanted: &str) {
        eventually(|| {
            self.lines(source)
                .iter()
                .any(|line| line == wanted)
                .then_some(())
        });
    }

    fn agent(&self) -> Agent {
        let path = self.path("shim.sock");
        let socket = eventually(|| UnixStream::connect(&path).ok());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Agent {
            socket,
            decoder: Decoder::default(),
        }
    }

    fn running(&self) -> Agent {
        let mut agent = self.agent();
        agent.tell(&json!({"type": "subscribe"}));
        agent.until_phase(Phase::Running);
        agent
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut shim) = self.shim.take() {
            shim.kill().unwrap();
            shim.wait().unwrap();
        }
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

struct Agent {
    socket: UnixStream,
    decoder: Decoder,
}

impl Agent {
    fn tell(&mut self, body: &Value) {
        self.send(Kind::Message, 0, body.to_string().as_bytes());
    }

    fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, kind, stream, payload);
        self.socket.write_all(&bytes).unwrap();
    }

    fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 65_536];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.feed(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no word from the shim: {error}"),
            }
        }
    }

    fn message(&mut self, kind: &str) -> Value {
        loop {
            let frame = self
                .frame()
                .unwrap_or_else(|| panic!("the shim hung up before {kind}"));
            if frame.kind == Kind::Message {
                let body: Value = serde_json::from_slice(&frame.payload).unwrap();
                if body["type"] == kind {
                    return body;
                }
            }
        }
    }

    fn until_phase(&mut self, phase: Phase) -> Status {
        loop {
            let status: Status = serde_json::from_value(self.message("status")).unwrap();
            if status.phase == phase {
                return status;
            }
        }
    }

    fn exec(&mut self, stream: u32) -> Value {
        self.tell(&json!({"type": "exec", "stream": stream, "argv": ["cat"]}));
        self.message("exec_started")
    }
}

fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_machine_is_followed_from_boot_to_its_record() {
    let mut machine = Machine::playing("exit");
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "subscribe"}));
    let last = agent.until_phase(Phase::Exited);
    let record = machine.ended();
    assert_eq!(last.exit.as_ref(), Some(&record));
    assert_eq!(last.process_pid, Some(77));
    assert_eq!(record.cause, Cause::Guest);
    assert_eq!(record.guest.as_ref().unwrap().exit_code, 3);
    assert_eq!(
        record.vmm,
        VmmExit {
            exit_code: Some(0),
            signal: None
        }
    );
    assert_eq!(machine.lines(Source::Stdout), ["out", "rest"]);
    assert_eq!(machine.lines(Source::Stderr), ["err"]);
    assert_eq!(machine.lines(Source::Console), ["fake console of exit"]);
    assert!(machine.lines(Source::System).is_empty());
    assert!(agent.frame().is_none());
}

#[test]
fn a_failure_of_init_is_recorded_in_its_words() {
    let record = Machine::playing("fail").ended();
    let failure = record.failure.unwrap();
    assert_eq!(
        (failure.stage.as_str(), failure.message.as_str()),
        ("spawn", "no such program: x")
    );
    assert_eq!((record.cause, record.guest), (Cause::Guest, None));
}

#[test]
fn a_guest_that_never_speaks_is_killed_at_the_deadline() {
    let mut machine = Machine::playing_with("silent", |c| c["boot_deadline_ms"] = json!(300));
    let record = machine.ended();
    assert_eq!(record.cause, Cause::BootDeadline);
    assert_eq!(record.vmm.signal, Some(9));
    assert!(
        record
            .failure
            .unwrap()
            .message
            .contains("fake console of silent")
    );
    assert!(machine.lines(Source::System)[0].contains("did not say hello"));
}

#[test]
fn a_guest_that_says_hello_for_ever_fills_no_log() {
    let mut machine = Machine::playing("stammer");
    assert_eq!(machine.ended().cause, Cause::Guest);
    let said = machine.lines(Source::System);
    let about = said.iter().filter(|line| line.contains("protocol 2"));
    assert_eq!(about.count(), 1);
}

#[test]
fn a_vmm_that_dies_is_recorded_with_its_signal() {
    let mut machine = Machine::playing("die");
    machine.running().until_phase(Phase::Exited);
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.vmm.signal, record.failure),
        (Cause::Vmm, Some(6), None)
    );
}

#[test]
fn a_vmm_that_cannot_be_started_says_why() {
    let mut machine = Machine::new();
    machine.start(&json!(["/no/such/vmm"]), |_| {});
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.vmm.exit_code),
        (Cause::Vmm, Some(125))
    );
    assert!(
        record
            .failure
            .unwrap()
            .message
            .contains("cannot run /no/such/vmm")
    );
}

#[test]
fn the_vmm_starts_in_its_cgroups_with_nothing_of_the_shims() {
    let mut machine = Machine::new();
    let procs = machine.path("cgroup.procs");
    fs::write(&procs, "").unwrap();
    let script = "env; ls /proc/self/fd; grep NoNewPrivs /proc/self/status; cat; exit 6";
    machine.start(&json!(["/bin/sh", "-c", script]), |config| {
        config["vmm"]["cgroup_procs"] = json!([procs]);
    });
    let record = machine.ended();
    assert_eq!(record.vmm.exit_code, Some(6));
    assert_eq!(fs::read_to_string(procs).unwrap(), "0");
    let console = machine.lines(Source::Console);
    assert!(console.contains(&"NoNewPrivs:\t1".to_owned()));
    assert!(console.iter().any(|line| line.starts_with("PATH=")));
    assert!(!console.iter().any(|line| line.starts_with("CARGO")));
    let descriptors: Vec<u32> = console
        .iter()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert!(descriptors.iter().all(|fd| *fd <= 3), "{descriptors:?}");
}

#[test]
fn a_second_shim_is_refused_and_changes_nothing() {
    let machine = Machine::playing("obey");
    let mut agent = machine.running();
    let mut second = machine.shim();
    assert_eq!(eventually(|| second.try_wait().unwrap()).code(), Some(3));
    let mut said = String::new();
    second.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("another shim holds"), "{said}");
    agent.tell(&json!({"type": "ping", "id": 1}));
    assert_eq!(agent.message("pong")["id"], 1);
}

#[test]
fn the_last_boots_record_is_gone_while_this_one_runs() {
    let mut machine = Machine::playing("exit");
    machine.ended();
    assert!(machine.path("exit.json").exists());
    machine.start(&json!(["/bin/sleep", "60"]), |_| {});
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "status"}));
    assert_eq!(agent.until_phase(Phase::Booting).exit, None);
    assert!(!machine.path("exit.json").exists());
    agent.tell(&json!({"type": "kill"}));
    let record = machine.ended();
    assert_eq!((record.cause, record.vmm.signal), (Cause::Killed, Some(9)));
}

#[test]
fn sessions_of_two_agents_do_not_meet() {
    let machine = Machine::playing("obey");
    let (mut one, mut two) = (machine.running(), machine.running());
    for agent in [&mut one, &mut two] {
        assert_eq!(agent.exec(5)["stream"], 5);
    }
    one.send(Kind::Stdin, 5, b"mine");
    two.send(Kind::Stdin, 5, b"yours");
    for (agent, expected) in [(&mut one, b"mine".as_slice()), (&mut two, b"yours")] {
        let frame = std::iter::from_fn(|| agent.frame())
            .find(|f| f.kind == Kind::Stdout)
            .unwrap();
        assert_eq!((frame.stream, frame.payload.as_slice()), (5, expected));
        agent.send(Kind::Eof, 5, b"");
        assert_eq!(agent.message("exec_exited")["stream"], 5);
    }
}

#[test]
fn a_gone_agent_takes_its_sessions_along() {
    let machine = Machine::playing("obey");
    let mut stays = machine.running();
    let mut goes = machine.running();
    goes.exec(1);
    stays.exec(1);
    drop(goes);
    machine.until_line(Source::Console, "exec 1 SIGKILL");
    machine.until_line(Source::Console, "credit 1");
    stays.send(Kind::Eof, 1, b"");
    stays.message("exec_exited");
}

#[test]
fn a_guest_that_sends_without_credit_loses_the_session() {
    let machine = Machine::playing("overrun");
    let mut agent = machine.running();
    agent.exec(1);
    let mut taken = 0;
    let failed = loop {
        let frame = agent.frame().unwrap();
        match frame.kind {
            Kind::Stdout => taken += frame.payload.len(),
            Kind::Message => break serde_json::from_slice::<Value>(&frame.payload).unwrap(),
            _ => {}
        }
    };
    assert_eq!(failed["type"], "exec_failed");
    assert_eq!(taken, INITIAL_CREDIT as usize);
    agent.tell(&json!({"type": "ping", "id": 9}));
    assert_eq!(agent.message("pong")["id"], 9);
}

#[test]
fn garbage_costs_the_channel_and_not_the_machine() {
    let mut machine = Machine::playing("garbage");
    let mut agent = machine.running();
    agent.tell(&json!({"type": "exec", "stream": 1, "argv": ["x"]}));
    let failed = agent.message("exec_failed");
    assert_eq!(
        (&failed["stream"], &failed["message"]),
        (&json!(1), &json!("the control channel broke"))
    );
    machine.until_line(Source::Stdout, "back again");
    agent.tell(&json!({"type": "stats", "id": 8}));
    let stats = agent.message("stats");
    assert_eq!((&stats["id"], &stats["uptime_ms"]), (&json!(8), &json!(5)));
    agent.tell(&json!({"type": "stop", "signal": "SIGINT", "timeout_ms": 1}));
    assert_eq!(machine.ended().cause, Cause::Guest);
    let system = machine.lines(Source::System);
    assert_eq!(system.len(), 1);
    assert!(system[0].contains("does not speak the control protocol"));
}

#[test]
fn a_flood_blocks_nobody_and_is_cut() {
    let small = json!({"bytes_per_second": 50_000, "burst_bytes": 100_000});
    let machine = Machine::playing_with("flood", |config| config["log"] = small);
    let mut idle = machine.agent();
    idle.tell(&json!({"type": "subscribe"}));
    let mut agent = machine.running();
    agent.tell(&json!({"type": "ping", "id": 3}));
    assert_eq!(agent.message("pong")["id"], 3);
    agent.tell(&json!({"type": "status"}));
    let status = agent.until_phase(Phase::Running);
    assert!(
        status.dropped_log_bytes > 30_000_000,
        "{}",
        status.dropped_log_bytes
    );
    eventually(|| {
        let system = machine.lines(Source::System);
        system
            .iter()
            .any(|line| line.contains("left out"))
            .then_some(())
    });
}

#[test]
fn an_agent_that_does_not_read_is_let_go() {
    let machine = Machine::playing("obey");
    let mut deaf = machine.running();
    deaf.socket
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut bytes = Vec::new();
    for _ in 0..40_000 {
        encode_into(&mut bytes, Kind::Message, 0, br#"{"type":"status"}"#);
    }
    let refused = deaf.socket.write_all(&bytes).is_err();
    let mut agent = machine.running();
    agent.tell(&json!({"type": "ping", "id": 3}));
    assert_eq!(agent.message("pong")["id"], 3);
    let gone = refused || std::iter::from_fn(|| deaf.frame()).count() < 40_000;
    assert!(gone, "everything was answered");
}

#[test]
fn a_guest_that_does_not_read_ends_the_session_only() {
    let machine = Machine::playing("deaf");
    let mut agent = machine.running();
    for stream in 1..=40 {
        agent.tell(&json!({"type": "exec", "stream": stream, "argv": ["x"]}));
        for _ in 0..4 {
            agent.send(Kind::Stdin, stream, &[0; 65_536]);
        }
    }
    let refused = agent.message("error");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    agent.tell(&json!({"type": "kill"}));
    agent.until_phase(Phase::Exited);
}

#[test]
fn sigterm_asks_the_guest_first() {
    let mut machine = Machine::playing("obey");
    machine.running();
    machine.signal(rustix::process::Signal::TERM);
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.guest.unwrap().exit_code),
        (Cause::Guest, 0)
    );
    assert!(
        machine
            .lines(Source::Console)
            .contains(&"stop SIGINT 5000".to_owned())
    );
}

#[test]
fn a_guest_that_ended_and_stays_is_killed_and_its_word_counts() {
    let mut machine = Machine::playing("stubborn");
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.guest.unwrap().exit_code),
        (Cause::Guest, 4)
    );
    assert_eq!(record.vmm.signal, Some(9));
}

#[test]
fn no_vmm_outlives_its_shim() {
    let machine = Machine::playing("obey");
    let mut agent = machine.running();
    agent.tell(&json!({"type": "status"}));
    let vmm = agent.until_phase(Phase::Running).vmm_pid.unwrap();
    machine.signal(rustix::process::Signal::KILL);
    let alive = PathBuf::from(format!("/proc/{vmm}/exe"));
    eventually(|| alive.read_link().is_err().then_some(()));
}

#[test]
fn nonsense_from_an_agent_ends_that_connection_only() {
    let machine = Machine::playing("obey");
    let mut good = machine.running();
    let mut bad = machine.running();
    bad.tell(&json!({"type": "teleport"}));
    assert_eq!(bad.message("error")["regarding"], "teleport");
    bad.tell(&json!({"type": "stop"}));
    assert_eq!(bad.message("error")["regarding"], "stop");
    bad.tell(&json!({"type": "run", "spec": {"machine_id": "m", "hostname": "m", "process": {"argv": ["x"]}}}));
    assert_eq!(bad.message("error")["regarding"], "run");
    bad.socket.write_all(&[0xff; 32]).unwrap();
    assert!(bad.frame().is_none());
    good.tell(&json!({"type": "ping", "id": 2}));
    assert_eq!(good.message("pong")["id"], 2);
}

#[test]
fn a_configuration_that_is_wrong_is_told() {
    let run = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit-shim"));
        command.arg("--config").arg(path).output().unwrap()
    };
    let machine = Machine::new();
    assert_eq!(run(&machine.path("nothing.json")).status.code(), Some(2));
    fs::write(machine.path("half.json"), r#"{"machine_id": "m"}"#).unwrap();
    let output = run(&machine.path("half.json"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing field"));
}
