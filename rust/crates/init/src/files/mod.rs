//! Files that clients are given without the app: `statics` of a machine's config.
//!
//! A machine with statics has a file server at its local IPv4, which its host alone reaches: the
//! edge asks it first for what is below a prefix, and hands on to the app what it has no file for.
//! It speaks as much HTTP/1.1 as that takes. The program (`/proc/1/exe files`) reads what the
//! config names and nobody's else; PID 1 holds its socket, see [`Daemon`].

use std::net::{SocketAddrV4, TcpListener};

use godwit_wire::run_spec::Statics;

use crate::daemon::{Daemon, Program};
use crate::stages::{Context, Staged};

mod answer;
mod kinds;
mod place;
mod serve;

pub(crate) use serve::run;

const STAGE: &str = "statics";

/// Listens and starts the program.
pub(crate) fn begin(statics: &Statics) -> Staged<Daemon> {
    let at: SocketAddrV4 = statics.listen.parse().stage(STAGE, "their address")?;
    let socket = TcpListener::bind(at).stage(STAGE, format_args!("cannot listen on {at}"))?;
    Ok(Daemon::begin(Program {
        word: "files",
        argument: serde_json::to_string(statics).stage(STAGE, "their paths")?,
        name: "godwit-files",
        first: socket.into(),
        second: None,
    }))
}
