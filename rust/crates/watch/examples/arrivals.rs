//! For `tools/bench_catalog.py`: follows a region's bus as edge and DNS do, and says on standard
//! output, for every record of a machine that a reader can see, how old it is.
//!
//! `arrivals CONFIG` with a DNS server's configuration; the records carry when they were told in
//! their metadata, `at_us`, in microseconds since 1970. A line is `<machine> <revision> <µs>`.

use std::collections::HashMap;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use godwit_watch::{Sources, Watch};
use godwit_wire::components::DnsConfig;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let path = std::env::args().nth(1).expect("a configuration");
    let text = std::fs::read_to_string(path).expect("the configuration can be read");
    let config: DnsConfig = serde_json::from_str(&text).expect("a configuration");
    let watch = godwit_watch::start(Sources {
        component: "dns",
        host_id: config.host_id,
        region: config.region,
        agent_socket: config.agent_socket,
        bus: config.bus,
        view_file: config.view_file,
        flights: None,
    });
    let mut seen = HashMap::new();
    let mut changes = watch.changes();
    while changes.changed().await.is_ok() {
        changes.mark_unchanged();
        tell(&watch, &mut seen);
    }
}

fn tell(watch: &Watch, seen: &mut HashMap<String, u64>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("it is later than 1970").as_micros();
    let mut out = std::io::stdout().lock();
    let view = watch.view();
    for machine in view.app("bench").iter().flat_map(|app| &app.machines) {
        let revision = machine.version.revision;
        if seen.insert(machine.key.id.to_string(), revision) == Some(revision) {
            continue;
        }
        let told = machine
            .metadata
            .get("at_us")
            .and_then(|at| at.parse::<u128>().ok());
        let age = now.saturating_sub(told.unwrap_or(now));
        // Who measures may have gone.
        let _ = writeln!(out, "{} {revision} {age}", machine.key.id);
    }
    let _ = out.flush();
}
