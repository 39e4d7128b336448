//! What `godwit-init ps` prints inside a guest: its processes.
//!
//! Twin of `GuestProcesses` in `src/godwit/wire/host_rpc.py`.

use serde::{Deserialize, Serialize};

/// The form this build writes.
pub const VERSION: u32 = 1;

/// The processes of a guest; `cut` when there are more than are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProcesses {
    pub v: u32,
    pub processes: Vec<GuestProcess>,
    #[serde(default)]
    pub cut: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestProcess {
    pub pid: u32,
    pub command: String,
    pub directory: String,
    /// Percent of one CPU, on average since it began.
    pub cpu: u64,
    /// Bytes in memory.
    pub rss: u64,
    /// Seconds since it began.
    pub rtime: u64,
    /// When it began, in Unix seconds.
    pub stime: u64,
    pub listen_sockets: Vec<ListenSocket>,
}

/// A socket that takes connections or datagrams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListenSocket {
    pub proto: String,
    pub address: String,
}
