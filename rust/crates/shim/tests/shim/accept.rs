//! Connections to a guest's API socket: offered by agents, told by a guest that is anybody.

use godwit_wire::channel::{INITIAL_CREDIT, Kind};
use serde_json::{Value, json};

use crate::harness::Machine;

const CREDIT: u32 = 1_000;

#[test]
fn what_a_guest_says_of_a_connection_is_passed_on_once() {
    let machine = Machine::playing("babble");
    let mut agent = machine.running();
    agent.tell(&json!({"type": "accept", "stream": 3, "credit": CREDIT}));
    let (mut begun, mut ended, mut granted, mut taken) = (0, 0, 0, 0);
    let failed = loop {
        let frame = agent.frame().unwrap();
        match frame.kind {
            Kind::Eof => ended += 1,
            Kind::Credit => granted += 1,
            Kind::Stdout => taken += frame.payload.len(),
            Kind::Message => {
                let body: Value = serde_json::from_slice(&frame.payload).unwrap();
                if body["type"] != "exec_started" {
                    break body;
                }
                assert_eq!(body["stream"], 3);
                begun += 1;
            }
            Kind::Stdin | Kind::Stderr => panic!("{frame:?}"),
        }
    };
    assert_eq!((begun, ended, granted), (1, 1, 0));
    assert_eq!(taken, CREDIT as usize);
    assert_eq!(
        (&failed["type"], &failed["stream"]),
        (&json!("exec_failed"), &json!(3))
    );
}

#[test]
fn an_agent_may_send_again_what_was_taken_and_no_more() {
    let machine = Machine::playing("obey");
    let mut agent = machine.running();
    agent.exec(1);
    // The guest that obeys grants 65,536 bytes for each frame, however short.
    agent.send(Kind::Stdin, 1, b"12345");
    let granted = std::iter::from_fn(|| agent.frame())
        .find(|frame| frame.kind == Kind::Credit)
        .unwrap();
    assert_eq!(granted.credit(), Some(5));
    assert!(granted.credit() < Some(INITIAL_CREDIT));
}

#[test]
fn a_machine_that_does_not_run_yet_takes_no_connections() {
    let machine = Machine::playing("silent");
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "accept", "stream": 3, "credit": CREDIT}));
    let refused = agent.message("error");
    assert_eq!(
        (&refused["regarding"], &refused["stream"]),
        (&json!("accept"), &json!(3))
    );
}
