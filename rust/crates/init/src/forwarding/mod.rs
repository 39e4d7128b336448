//! Names that go to resolvers of their own: `dns_forward_rules` of a machine's config.
//!
//! A machine with rules has a forwarder at [`ADDRESS`], the one name server of its resolv.conf: a
//! query goes to the resolver of the longest rule that its name falls under, every other to the
//! name servers of the machine. It asks from inside, as the machine itself would, and so reaches
//! what the machine may reach and nothing else.
//!
//! The program (`/proc/1/exe forward`) has no rights; PID 1 holds its sockets, see [`Daemon`].

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use godwit_wire::run_spec::Resolver;

use crate::daemon::{Daemon, Program};
use crate::stages::{Context, Staged};

mod query;
mod serve;

pub(crate) use serve::run;

/// Where the guest's programs ask: a server of the machine's own has every other address.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 83);
const PORT: u16 = 53;
const STAGE: &str = "resolver";

/// Listens and starts the program; `None` for a machine without rules.
pub(crate) fn begin(resolver: &Resolver) -> Staged<Option<Daemon>> {
    if resolver.forwards.is_empty() {
        return Ok(None);
    }
    let doing = format_args!("cannot listen on {ADDRESS}");
    let udp = UdpSocket::bind((ADDRESS, PORT)).stage(STAGE, doing)?;
    let tcp = TcpListener::bind((ADDRESS, PORT)).stage(STAGE, doing)?;
    Ok(Some(Daemon::begin(Program {
        word: "forward",
        argument: serde_json::to_string(resolver).stage(STAGE, "its rules")?,
        name: "godwit-forward",
        first: udp.into(),
        second: Some(tcp.into()),
    })))
}
