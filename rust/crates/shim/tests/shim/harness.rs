//! A shim in a folder of its own, over a VMM that plays a part, and an agent to talk to it.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::channel::{Decoder, Frame, Kind, encode_into};
use godwit_wire::shim::{ExitRecord, LogLine, Phase, Source, Status};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_mins(1);

/// A machine's folder and the shim that runs in it; both go with the test.
pub(crate) struct Machine {
    pub(crate) folder: PathBuf,
    pub(crate) shim: Option<Child>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("godwit-shim-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, shim: None }
    }

    /// Starts a shim over the fake VMM in this part.
    pub(crate) fn playing(part: &str) -> Self {
        Self::playing_with(part, |_| {})
    }

    pub(crate) fn playing_with(part: &str, change: impl FnOnce(&mut Value)) -> Self {
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

    pub(crate) fn start(&mut self, argv: &Value, change: impl FnOnce(&mut Value)) {
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

    pub(crate) fn shim(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_godwit-shim"))
            .arg("--config")
            .arg(self.path("shim.json"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.shim.as_ref().unwrap().id()).unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the shim's end and returns the record it left.
    pub(crate) fn ended(&mut self) -> ExitRecord {
        let mut shim = self.shim.take().unwrap();
        let status = eventually(|| shim.try_wait().unwrap());
        assert!(status.success(), "{status}");
        assert!(!self.path("shim.sock").exists());
        serde_json::from_slice(&fs::read(self.path("exit.json")).unwrap()).unwrap()
    }

    pub(crate) fn lines(&self, source: Source) -> Vec<String> {
        let text = fs::read_to_string(self.path("logs/current.jsonl")).unwrap_or_default();
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<LogLine>(line).ok());
        lines
            .filter(|line| line.s == source)
            .map(|line| line.m)
            .collect()
    }

    pub(crate) fn until_line(&self, source: Source, wanted: &str) {
        eventually(|| {
            self.lines(source)
                .iter()
                .any(|line| line == wanted)
                .then_some(())
        });
    }

    pub(crate) fn agent(&self) -> Agent {
        let path = self.path("shim.sock");
        let socket = eventually(|| UnixStream::connect(&path).ok());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Agent {
            socket,
            decoder: Decoder::default(),
        }
    }

    pub(crate) fn running(&self) -> Agent {
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

pub(crate) struct Agent {
    pub(crate) socket: UnixStream,
    decoder: Decoder,
}

impl Agent {
    pub(crate) fn tell(&mut self, body: &Value) {
        self.send(Kind::Message, 0, body.to_string().as_bytes());
    }

    pub(crate) fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, kind, stream, payload);
        self.socket.write_all(&bytes).unwrap();
    }

    pub(crate) fn frame(&mut self) -> Option<Frame> {
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

    pub(crate) fn message(&mut self, kind: &str) -> Value {
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

    pub(crate) fn until_phase(&mut self, phase: Phase) -> Status {
        loop {
            let status: Status = serde_json::from_value(self.message("status")).unwrap();
            if status.phase == phase {
                return status;
            }
        }
    }

    pub(crate) fn exec(&mut self, stream: u32) -> Value {
        self.tell(&json!({"type": "exec", "stream": stream, "argv": ["cat"]}));
        self.message("exec_started")
    }
}

pub(crate) fn eventually<T>(mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < deadline, "it never happened");
        thread::sleep(Duration::from_millis(5));
    }
}
