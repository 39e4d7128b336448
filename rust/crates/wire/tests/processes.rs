//! The golden process list reads here as Python wrote it, and writes back the same.

use godwit_wire::processes::GuestProcesses;
use serde_json::Value;

#[test]
fn processes_write_back_as_they_were_read() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../contracts/golden/processes.json"
    );
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let read: GuestProcesses = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(read.processes[0].listen_sockets.len(), 2);
    assert_eq!(serde_json::to_value(&read).unwrap(), document);
}
