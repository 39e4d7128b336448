//! The golden configurations read here as Python wrote them, and write back the same.

use godwit_wire::components::{DnsConfig, EdgeConfig, EdgeLimits};
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = format!(
        "{}/../../../contracts/golden/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    serde_json::from_str(&text).expect("golden files are JSON")
}

#[test]
fn edge_config_writes_back_as_it_was_read() {
    let document = golden("edge_config");
    let config: EdgeConfig = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), document);
}

#[test]
fn dns_config_writes_back_as_it_was_read() {
    let document = golden("dns_config");
    let config: DnsConfig = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap(), document);
}

#[test]
fn an_edge_config_of_an_older_release_takes_the_defaults() {
    let mut document = golden("edge_config");
    let fields = document.as_object_mut().unwrap();
    for name in [
        "v",
        "drain_ms",
        "workers",
        "access_log",
        "limits",
        "backhaul",
        "region_aliases",
        "region_ms",
    ] {
        fields.remove(name);
    }
    let config: EdgeConfig = serde_json::from_value(document).unwrap();
    assert_eq!(config.limits, EdgeLimits::default());
    assert_eq!(
        (config.drain_ms, config.workers, config.access_log),
        (10_000, 0, false)
    );
}
