//! What release 0.1 wrote is read by this one: its contract lies in `tests/data/release-0.1`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use godwit_wire::facts::{Fact, LocalFrame};
use godwit_wire::messages::{GuestMessage, HostMessage};
use godwit_wire::run_spec::RunSpec;
use godwit_wire::shim::{AgentMessage, ExitRecord, LogLine, ShimConfig, Status};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn former(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../../tests/data/release-0.1/golden")
        .join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn read<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_value(former(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn its_records_are_read() {
    let spec: RunSpec = read("run_spec.json");
    assert_eq!(spec.machine_id, "148ed193b95948");
    read::<ShimConfig>("shim_config.json");
    read::<ExitRecord>("shim_exit.json");
    read::<LogLine>("shim_log_line.json");
    read::<Status>("shim_status.json");
    for name in ["fact_app.json", "fact_machine.json", "fact_host.json"] {
        read::<Fact>(name);
    }
    assert_eq!(read::<Vec<LocalFrame>>("local_frames.json").len(), 4);
}

#[test]
fn its_messages_are_known() {
    for document in former("messages.json").as_array().unwrap() {
        let to_guest: HostMessage = serde_json::from_value(document.clone()).unwrap();
        let to_host: GuestMessage = serde_json::from_value(document.clone()).unwrap();
        assert!(
            to_guest != HostMessage::Unknown || to_host != GuestMessage::Unknown,
            "nobody knows {document}"
        );
        if to_guest != HostMessage::Unknown {
            let from_agent: AgentMessage = serde_json::from_value(document.clone()).unwrap();
            assert_ne!(from_agent, AgentMessage::Unknown);
        }
    }
}
