//! All that init needs to turn a booted kernel into a machine.
//!
//! Twin of the records in `src/godwit/wire/guest.py`, whose docstrings are normative.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::containers::{Container, SharedVolume};

/// The root: a read-only image under a writable scratch disk, joined by overlayfs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Root {
    /// Virtio serial of the image's disk.
    pub image: String,
    pub image_filesystem: String,
    /// Virtio serial of the scratch disk.
    pub scratch: String,
    pub scratch_filesystem: String,
    /// The scratch disk is used again: the machine's end is told once it is synced.
    pub lasting: bool,
}

impl Default for Root {
    fn default() -> Self {
        Self {
            image: "root".into(),
            image_filesystem: "erofs".into(),
            scratch: "scratch".into(),
            scratch_filesystem: "ext4".into(),
            lasting: false,
        }
    }
}

/// A disk that the kernel may move memory to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Swap {
    /// Virtio serial of the disk.
    pub device: String,
}

impl Default for Swap {
    fn default() -> Self {
        Self {
            device: "swap".into(),
        }
    }
}

/// A further disk and where it is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub device: String,
    pub path: String,
    #[serde(default = "ext4")]
    pub filesystem: String,
    /// Of its root, set at every mount; without one it keeps what it has.
    #[serde(default)]
    pub mode: Option<u32>,
}

fn ext4() -> String {
    "ext4".into()
}

/// An address of the guest's interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    pub address: String,
    pub prefix: u8,
}

/// The guest's one interface, `eth0`, and its ways out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Network {
    pub mtu: u32,
    /// Hardware address; without one the interface keeps what its device says.
    pub mac: Option<String>,
    pub addresses: Vec<Address>,
    pub gateway_v4: Option<String>,
    pub gateway_v6: Option<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            mtu: 1420,
            mac: None,
            addresses: Vec::new(),
            gateway_v4: None,
            gateway_v6: None,
        }
    }
}

/// Names that are asked of a resolver of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Itself and all below it.
    pub basename: String,
    /// `ADDRESS`, `IPV4:PORT` or `[IPV6]:PORT`.
    pub address: String,
}

/// What /etc/resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resolver {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
    /// With any, resolv.conf names a forwarder of the guest's own, which asks these for their
    /// names and the name servers for all others.
    pub forwards: Vec<Forward>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            nameservers: vec!["fdaa::3".into()],
            searches: Vec::new(),
            options: Vec::new(),
            forwards: Vec::new(),
        }
    }
}

/// One line of /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostsEntry {
    pub address: String,
    pub names: Vec<String>,
}

/// Files of the machine that its file server hands out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statics {
    /// `IPV4:PORT`, on which the host alone reaches it.
    pub listen: String,
    /// What is part of every file's tag: another image's file of the same date is another file.
    #[serde(default)]
    pub revision: String,
    pub directories: Vec<Directory>,
}

/// A directory of files, and where clients find them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    pub guest_path: String,
    pub url_prefix: String,
    /// What a directory is answered with; empty for nothing.
    #[serde(default)]
    pub index_document: String,
}

/// A file put into the root before the process starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    pub path: String,
    pub content_base64: String,
    #[serde(default = "default_mode")]
    pub mode: u32,
}

fn default_mode() -> u32 {
    0o644
}

/// The machine's main process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub argv: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Further variables whose values are not UTF-8, in base64.
    #[serde(default)]
    pub env_base64: BTreeMap<String, String>,
    #[serde(default = "slash")]
    pub working_directory: String,
    #[serde(default)]
    pub user: String,
    #[serde(default)]
    pub tty: bool,
    #[serde(default = "default_open_files")]
    pub open_files: u64,
}

pub(crate) fn slash() -> String {
    "/".into()
}

fn default_open_files() -> u64 {
    10_240
}

/// See `godwit.wire.guest.RunSpec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    #[serde(default = "version")]
    pub v: u32,
    pub machine_id: String,
    pub hostname: String,
    #[serde(default)]
    pub clock_unix_ns: Option<i64>,
    #[serde(default)]
    pub entropy_base64: Option<String>,
    #[serde(default)]
    pub root: Root,
    #[serde(default)]
    pub swap: Option<Swap>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    #[serde(default)]
    pub network: Network,
    #[serde(default)]
    pub resolver: Resolver,
    #[serde(default)]
    pub hosts: Vec<HostsEntry>,
    #[serde(default)]
    pub files: Vec<File>,
    #[serde(default)]
    pub statics: Option<Statics>,
    /// The main process; a machine of containers has none.
    #[serde(default)]
    pub process: Option<Process>,
    /// Processes beside it: the machine ends with whichever ends first.
    #[serde(default)]
    pub beside: Vec<Process>,
    /// The main one first among those that end in the same moment.
    #[serde(default)]
    pub containers: Vec<Container>,
    #[serde(default)]
    pub volumes: Vec<SharedVolume>,
}

fn version() -> u32 {
    1
}
