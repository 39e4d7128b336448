//! Containers of a machine: several images beside each other in one guest.
//!
//! Twin of the records in `src/godwit/wire/guest_containers.py`, whose docstrings are normative.

use serde::{Deserialize, Serialize};

use crate::run_spec::{File, Process};

/// What a container does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It waits for others, and has not run yet.
    Created,
    /// It has ended, and is started again in a moment.
    Starting,
    Started,
    /// It has ended for good.
    Stopped,
    #[serde(other)]
    Unknown,
}

/// How a health check is, by its thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// It has neither passed nor failed yet.
    Warning,
    Passing,
    Critical,
    #[serde(other)]
    Unknown,
}

/// How a health check of a running container is, and what the answer was that made it so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckStanding {
    pub status: Health,
    #[serde(default)]
    pub output: String,
}

/// A container by its name, and what it does now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub name: String,
    pub state: State,
    /// How often it was started.
    #[serde(default)]
    pub run: u32,
    /// While it runs, in the order of the run spec; `None` is an init that tells of no checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checks: Option<Vec<CheckStanding>>,
}

/// A directory that containers share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedVolume {
    pub name: String,
    /// In memory, at most so much; 0 is a directory on the scratch disk.
    #[serde(default)]
    pub memory_mb: u64,
    /// Serial of the disk of an image that is read here; empty for a directory of its own.
    #[serde(default)]
    pub image: String,
    /// Serial of an empty disk of its own, which bounds it; empty for a directory on the scratch
    /// disk.
    #[serde(default)]
    pub disk: String,
}

/// What a container waits for of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Started,
    Healthy,
    ExitedSuccessfully,
}

/// A container that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub container: String,
    pub condition: Condition,
}

/// A shared volume in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub volume: String,
    pub path: String,
}

/// When a container that has ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    No,
    Always,
    OnFailure,
}

/// A header of a check's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub name: String,
    pub value: String,
}

/// How a check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Question {
    Http {
        port: u16,
        method: String,
        path: String,
        #[serde(default)]
        headers: Vec<Header>,
    },
    Tcp {
        port: u16,
    },
    Exec {
        argv: Vec<String>,
    },
    /// By the host, which tells what the answer was (`HostMessage::Answer`).
    Host {},
}

/// A health check of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    pub name: String,
    pub question: Question,
    pub interval_s: u64,
    pub timeout_s: u64,
    pub grace_s: u64,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// Whether the container is stopped when it fails.
    #[serde(default)]
    pub stops: bool,
}

/// One of a machine's containers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub name: String,
    /// Virtio serial of its image's disk.
    pub image: String,
    pub process: Process,
    #[serde(default)]
    pub files: Vec<File>,
    pub restart: RestartPolicy,
    pub max_retries: u32,
    /// Empty is the signal of the machine's stop.
    #[serde(default)]
    pub stop_signal: String,
    pub stop_timeout_ms: u64,
    #[serde(default)]
    pub depends_on: Vec<Dependency>,
    #[serde(default)]
    pub binds: Vec<Bind>,
    #[serde(default)]
    pub healthchecks: Vec<HealthCheck>,
}
