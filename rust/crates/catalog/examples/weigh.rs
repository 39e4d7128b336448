//! For `tools/bench_edge_view.py`: what the catalog costs, in memory and in looking things up.
//!
//! `weigh machines|names COUNT` says how many bytes of memory one more of them takes, with the
//! edge's allocator; `weigh lookups NAMES COUNT` looks so many of the names up, for a tool that
//! counts instructions.

use std::hint::black_box;

use godwit_catalog::Catalog;
use godwit_wire::facts::Fact;
use mimalloc::MiMalloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An app has so many machines.
const MACHINES: usize = 4;
/// An app has so many names, besides the one that it always has.
const NAMES: usize = 10;
/// So many names are looked up again and again.
const ASKED: usize = 1_000;

fn main() {
    let told: Vec<String> = std::env::args().skip(1).collect();
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<usize>().expect("a number");
    match told.as_slice() {
        ["machines", count] => println!("{}", machines(number(count))),
        ["names", count] => println!("{}", names(number(count))),
        ["lookups", names, count] => lookups(number(names), number(count)),
        _ => panic!("weigh machines|names COUNT, or weigh lookups NAMES COUNT"),
    }
}

/// Bytes for each machine beyond its app.
fn machines(count: usize) -> usize {
    let mut catalog = Catalog::new("own", "lcl");
    for app in 0..count / MACHINES {
        take(&mut catalog, app_fact(app, 1, 0));
    }
    let before = resident();
    for number in 0..count {
        take(&mut catalog, machine_fact(number));
    }
    (resident() - before) / count
}

/// Bytes for each name beyond an app's first.
fn names(count: usize) -> usize {
    let mut catalog = Catalog::new("own", "lcl");
    for app in 0..count / NAMES {
        take(&mut catalog, app_fact(app, 1, 0));
    }
    let before = resident();
    for app in 0..count / NAMES {
        take(&mut catalog, app_fact(app, 2, NAMES));
    }
    (resident() - before) / count
}

fn lookups(names: usize, count: usize) {
    let mut catalog = Catalog::new("own", "lcl");
    for app in 0..names {
        take(&mut catalog, app_fact(app, 1, 0));
    }
    let asked: Vec<String> = (0..ASKED)
        .map(|number| host_name(number * names / ASKED, 0))
        .collect();
    for name in asked.iter().cycle().take(count) {
        assert!(black_box(catalog.view().app_of_hostname(name)).is_some());
    }
}

fn take(catalog: &mut Catalog, fact: Value) {
    let fact: Fact = serde_json::from_value(fact).expect("a fact");
    catalog.apply_kept(&fact);
}

fn app_name(number: usize) -> String {
    format!("shop-{number:06}")
}

fn host_name(app: usize, number: usize) -> String {
    format!("www{number}.{}.example", app_name(app))
}

fn app_fact(number: usize, revision: u64, more: usize) -> Value {
    let names: Vec<String> = (0..=more).map(|n| host_name(number, n)).collect();
    json!({
        "kind": "app", "owner": "control", "epoch": 1, "revision": revision,
        "org_id": format!("org_{number}"), "network_id": format!("net_{number}"),
        "network_number": number, "app_id": format!("app_{number}"), "app": app_name(number),
        "hostnames": names,
    })
}

fn machine_fact(number: usize) -> Value {
    let app = number / MACHINES;
    let host = format!("{:08x}", number % 1_000);
    json!({
        "kind": "machine", "owner": host, "epoch": 1, "revision": 1,
        "org_id": format!("org_{app}"), "network_id": format!("net_{app}"),
        "network_number": app, "app_id": format!("app_{app}"), "app": app_name(app),
        "machine_id": format!("{number:014x}"), "instance_id": format!("01K8RS{number:020}"),
        "name": "quiet-sea", "host_id": host, "region": "lcl", "state": "started",
        "private_ip": format!("fdaa:0:1:a7b:1:0:{:x}:2", number % 65_536),
        "local_ipv4": "172.16.0.5", "process_group": "app",
        "services": [{"internal_port": 8080, "ports": [
            {"start_port": 80, "end_port": 80, "handlers": ["http"]},
            {"start_port": 443, "end_port": 443, "handlers": ["tls", "http"]}]}],
    })
}

/// What the process has in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.expect("a size") * 1024
}
