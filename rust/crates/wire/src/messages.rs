//! What the host tells a machine's init, and what it hears back.
//!
//! Twin of the table in `src/godwit/wire/guest.py`. A type this build does not know reads as
//! `Unknown` and is ignored: the other side may be one release newer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::containers::Standing;
use crate::run_spec::{RunSpec, slash};

/// The protocol that [`GuestMessage::Hello`] speaks of.
pub const PROTOCOL_VERSION: u32 = 1;

/// The size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub cols: u16,
}

/// One command to run beside the main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    pub stream: u32,
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Further variables whose values are not UTF-8, in base64.
    #[serde(default)]
    pub env_base64: BTreeMap<String, String>,
    #[serde(default)]
    pub user: String,
    #[serde(default = "slash")]
    pub working_directory: String,
    #[serde(default)]
    pub tty: Option<TerminalSize>,
    /// The container to run it in; empty is the machine itself.
    #[serde(default)]
    pub container: String,
}

/// Host to guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum HostMessage {
    /// Once per boot, after hello.
    Run {
        spec: Box<RunSpec>,
    },
    /// End the main process: signal, wait, SIGTERM for at most 1 s, SIGKILL.
    Stop {
        signal: String,
        timeout_ms: u64,
    },
    Signal {
        signal: String,
    },
    /// Be saved soon: fall silent, answer `asleep` as the last word.
    Sleep {},
    /// Go on, maybe as somebody else's copy: hello is said again.
    Wake {
        clock_unix_ns: i64,
        entropy_base64: String,
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
    /// Serve the next connection to `/.fly/api` on that stream, as a session without a process.
    Accept {
        stream: u32,
        credit: u32,
    },
    Answer(Answer),
    #[serde(other)]
    Unknown,
}

/// What a health check came to that the host has asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub container: String,
    /// The run of the container that was asked; another one hears nothing of it.
    pub run: u32,
    /// Its place among the container's checks.
    pub check: u32,
    pub well: bool,
    #[serde(default)]
    pub output: String,
}

/// What the guest's init says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub v: u32,
    pub init_version: String,
    pub kernel: String,
    /// Empty until there was a run spec: a template must not have one.
    #[serde(default)]
    pub boot_id: String,
}

/// How the machine's main process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    pub exit_code: i32,
    #[serde(default)]
    pub signal: Option<i32>,
    #[serde(default)]
    pub oom_killed: bool,
}

/// Why init could not start the process: the stage it was in and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub stage: String,
    pub message: String,
}

/// Guest to host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The first word after boot, and again whenever the channel was broken.
    Hello(Hello),
    Started {
        pid: i32,
        at_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
    },
    /// What all containers do now: whenever one does something else, and after hello.
    Containers {
        containers: Vec<Standing>,
    },
    /// The answer to `sleep`; nothing more is said until `wake`.
    Asleep {},
    Exited(Exited),
    Failed(Failed),
    ExecStarted {
        stream: u32,
        pid: i32,
    },
    ExecExited {
        stream: u32,
        exit_code: i32,
        signal: Option<i32>,
    },
    ExecFailed {
        stream: u32,
        message: String,
    },
    Pong {
        id: u64,
    },
    Stats(Stats),
    #[serde(other)]
    Unknown,
}

/// The guest's counters; bytes unless the name says otherwise, all since boot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    pub id: u64,
    pub uptime_ms: u64,
    pub memory: Memory,
    /// One, five and fifteen minutes.
    pub load: [f64; 3],
    pub processes: u32,
    pub cpus: Vec<Cpu>,
    pub disks: Vec<Disk>,
    pub networks: Vec<Interface>,
    pub filesystems: Vec<Filesystem>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub available: u64,
    pub buffers: u64,
    pub cached: u64,
    pub swap_total: u64,
    pub swap_free: u64,
}

/// One virtual CPU's time, in centiseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cpu {
    pub user: u64,
    pub nice: u64,
    pub system: u64,
    pub idle: u64,
    pub iowait: u64,
    pub irq: u64,
    pub softirq: u64,
    pub steal: u64,
}

/// A disk, named by its virtio serial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    pub name: String,
    pub reads: u64,
    pub read_bytes: u64,
    pub writes: u64,
    pub written_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    pub name: String,
    pub received_bytes: u64,
    pub received_packets: u64,
    pub received_errors: u64,
    pub received_drops: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub sent_errors: u64,
    pub sent_drops: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filesystem {
    pub path: String,
    pub size: u64,
    pub free: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}
