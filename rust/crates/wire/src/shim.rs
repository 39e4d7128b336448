//! Between agent and shim: configuration, status, exit record, log lines, messages.
//!
//! Twin of `src/godwit/wire/shim.py`, whose docstrings are normative.

use serde::{Deserialize, Serialize};

use crate::containers::Standing;
use crate::messages::{Answer, Exec, Exited, Failed, Hello};
use crate::run_spec::RunSpec;

/// How far the machine has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Booting,
    /// The guest has said hello.
    Ready,
    /// The main process runs.
    Running,
    Exited,
}

/// How a guest came to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartKind {
    #[default]
    Cold,
    /// As a copy of a template.
    Warm,
    /// From its own saved state.
    Resumed,
}

/// How the VMM is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vmm {
    pub argv: Vec<String>,
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub cgroup_procs: Vec<String>,
    #[serde(default)]
    pub inherit: Vec<i32>,
}

/// Bounds of one machine's log files and of the rate they are written at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLimits {
    pub max_file_bytes: u64,
    pub max_files: u32,
    pub bytes_per_second: u64,
    pub burst_bytes: u64,
    pub max_line_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            max_file_bytes: 5_242_880,
            max_files: 4,
            bytes_per_second: 1_048_576,
            burst_bytes: 4_194_304,
            max_line_bytes: 65_536,
        }
    }
}

/// `shim.json`, written by the agent before it starts the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    #[serde(default = "one")]
    pub v: u32,
    pub machine_id: String,
    pub instance_id: String,
    pub org_id: String,
    pub directory: String,
    pub socket: String,
    pub channel_socket: String,
    #[serde(default)]
    pub channel_port: Option<u32>,
    pub run_spec: Option<String>,
    #[serde(default = "boot_deadline")]
    pub boot_deadline_ms: u64,
    #[serde(default)]
    pub start_kind: StartKind,
    pub vmm: Vmm,
    #[serde(default)]
    pub log: LogLimits,
}

fn one() -> u32 {
    1
}

fn boot_deadline() -> u64 {
    60_000
}

/// How the VMM process ended; exactly one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmExit {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
}

/// Why a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    Guest,
    Killed,
    BootDeadline,
    Vmm,
}

/// `exit.json`: written and synced by the shim before it tells anybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    #[serde(default = "one")]
    pub v: u32,
    pub machine_id: String,
    pub instance_id: String,
    pub exited_at_ms: u64,
    #[serde(default)]
    pub start_kind: StartKind,
    pub cause: Cause,
    pub guest: Option<Exited>,
    pub failure: Option<Failed>,
    pub vmm: VmmExit,
}

/// What the shim knows of its machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    #[serde(default = "one")]
    pub v: u32,
    pub machine_id: String,
    pub instance_id: String,
    pub shim_version: String,
    pub shim_pid: u32,
    pub vmm_pid: Option<u32>,
    pub phase: Phase,
    #[serde(default)]
    pub start_kind: StartKind,
    #[serde(default)]
    pub asleep: bool,
    pub hello: Option<Hello>,
    pub process_pid: Option<i32>,
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub containers: Vec<Standing>,
    #[serde(default)]
    pub dropped_log_bytes: u64,
    pub exit: Option<ExitRecord>,
}

/// Where a log line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    Stdout,
    Stderr,
    Console,
    /// The platform's own word.
    System,
}

/// A line of the machine's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub t: u64,
    pub s: Source,
    pub m: String,
}

/// Agent to shim.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentMessage {
    Status {},
    Subscribe {},
    Kill {},
    Sleep {},
    Wake {},
    Run {
        spec: Box<RunSpec>,
    },
    Stop {
        signal: String,
        timeout_ms: u64,
    },
    Signal {
        signal: String,
    },
    Ping {
        id: u64,
    },
    Stats {
        id: u64,
    },
    Exec(Exec),
    ExecSignal {
        stream: u32,
        signal: String,
    },
    Resize {
        stream: u32,
        rows: u16,
        cols: u16,
    },
    Accept {
        stream: u32,
        credit: u32,
    },
    Answer(Answer),
    #[serde(other)]
    Unknown,
}

/// Shim to agent, beside what is passed on from the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ShimMessage {
    Status(Box<Status>),
    Error {
        message: String,
        /// The `type` of the message it answers.
        regarding: String,
        /// The exec stream it is about, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stream: Option<u32>,
    },
}
