//! The shim as a process, with a fake VMM below and a small agent above.

#![allow(
    clippy::unwrap_used,
    clippy::large_stack_arrays,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use godwit_wire::channel::{INITIAL_CREDIT, Kind, encode_into};
use godwit_wire::shim::{Cause, Phase, Source, StartKind, VmmExit};
use serde_json::{Value, json};

use harness::{Machine, eventually};

mod accept;
mod harness;

#[test]
fn a_machine_is_followed_from_boot_to_its_record() {
    let mut machine = Machine::playing("exit");
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "subscribe"}));
    let last = agent.until_phase(Phase::Exited);
    let record = machine.ended();
    assert_eq!(last.exit.as_ref(), Some(&record));
    assert_eq!(last.process_pid, Some(77));
    assert_eq!(record.cause, Cause::Guest);
    assert_eq!(record.guest.as_ref().unwrap().exit_code, 3);
    assert_eq!(
        record.vmm,
        VmmExit {
            exit_code: Some(0),
            signal: None
        }
    );
    assert_eq!(machine.lines(Source::Stdout), ["out", "rest"]);
    assert_eq!(machine.lines(Source::Stderr), ["err"]);
    assert_eq!(machine.lines(Source::Console), ["fake console of exit"]);
    assert!(machine.lines(Source::System).is_empty());
    assert!(agent.frame().is_none());
}

#[test]
fn a_copy_is_woken_before_all_else_and_sleeps_when_asked_to() {
    let mut machine = Machine::playing_with("copy", |c| c["start_kind"] = json!("warm"));
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "subscribe"}));
    let status = agent.until_phase(Phase::Running);
    assert_eq!(status.start_kind, StartKind::Warm);
    assert_eq!(status.hello.unwrap().boot_id, "own");
    agent.tell(&json!({"type": "sleep"}));
    while !agent.until_phase(Phase::Running).asleep {}
    agent.tell(&json!({"type": "stats", "id": 1}));
    assert_eq!(agent.message("error")["regarding"], "stats");
    agent.tell(&json!({"type": "wake"}));
    while agent.until_phase(Phase::Running).asleep {}
    eventually(|| (machine.lines(Source::Stdout) == ["before", "after"]).then_some(()));
    agent.tell(&json!({"type": "kill"}));
    assert_eq!(machine.ended().start_kind, StartKind::Warm);
}

#[test]
fn a_failure_of_init_is_recorded_in_its_words() {
    let record = Machine::playing("fail").ended();
    let failure = record.failure.unwrap();
    assert_eq!(
        (failure.stage.as_str(), failure.message.as_str()),
        ("spawn", "no such program: x")
    );
    assert_eq!((record.cause, record.guest), (Cause::Guest, None));
}

#[test]
fn a_guest_that_never_speaks_is_killed_at_the_deadline() {
    let mut machine = Machine::playing_with("silent", |c| c["boot_deadline_ms"] = json!(300));
    let record = machine.ended();
    assert_eq!(record.cause, Cause::BootDeadline);
    assert_eq!(record.vmm.signal, Some(9));
    assert!(
        record
            .failure
            .unwrap()
            .message
            .contains("fake console of silent")
    );
    assert!(machine.lines(Source::System)[0].contains("did not say hello"));
}

#[test]
fn a_guest_that_says_hello_for_ever_fills_no_log() {
    let mut machine = Machine::playing("stammer");
    assert_eq!(machine.ended().cause, Cause::Guest);
    let said = machine.lines(Source::System);
    let about = said.iter().filter(|line| line.contains("protocol 2"));
    assert_eq!(about.count(), 1);
}

#[test]
fn a_vmm_that_dies_is_recorded_with_its_signal() {
    let mut machine = Machine::playing("die");
    machine.running().until_phase(Phase::Exited);
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.vmm.signal, record.failure),
        (Cause::Vmm, Some(6), None)
    );
}

#[test]
fn a_vmm_that_cannot_be_started_says_why() {
    let mut machine = Machine::new();
    machine.start(&json!(["/no/such/vmm"]), |_| {});
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.vmm.exit_code),
        (Cause::Vmm, Some(125))
    );
    assert!(
        record
            .failure
            .unwrap()
            .message
            .contains("cannot run /no/such/vmm")
    );
}

#[test]
fn the_vmm_starts_in_its_cgroups_with_nothing_of_the_shims() {
    let mut machine = Machine::new();
    let procs = machine.path("cgroup.procs");
    fs::write(&procs, "").unwrap();
    let script = "env; ls /proc/self/fd; grep NoNewPrivs /proc/self/status; cat; exit 6";
    machine.start(&json!(["/bin/sh", "-c", script]), |config| {
        config["vmm"]["cgroup_procs"] = json!([procs]);
    });
    let record = machine.ended();
    assert_eq!(record.vmm.exit_code, Some(6));
    assert_eq!(fs::read_to_string(procs).unwrap(), "0");
    let console = machine.lines(Source::Console);
    assert!(console.contains(&"NoNewPrivs:\t1".to_owned()));
    assert!(console.iter().any(|line| line.starts_with("PATH=")));
    assert!(!console.iter().any(|line| line.starts_with("CARGO")));
    let descriptors: Vec<u32> = console
        .iter()
        .filter_map(|line| line.parse().ok())
        .collect();
    assert!(descriptors.iter().all(|fd| *fd <= 3), "{descriptors:?}");
}

#[test]
fn a_second_shim_is_refused_and_changes_nothing() {
    let machine = Machine::playing("obey");
    let mut agent = machine.running();
    let mut second = machine.shim();
    assert_eq!(eventually(|| second.try_wait().unwrap()).code(), Some(3));
    let mut said = String::new();
    second.stderr.unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("another shim holds"), "{said}");
    agent.tell(&json!({"type": "ping", "id": 1}));
    assert_eq!(agent.message("pong")["id"], 1);
}

#[test]
fn the_last_boots_record_is_gone_while_this_one_runs() {
    let mut machine = Machine::playing("exit");
    machine.ended();
    assert!(machine.path("exit.json").exists());
    machine.start(&json!(["/bin/sleep", "60"]), |_| {});
    let mut agent = machine.agent();
    agent.tell(&json!({"type": "status"}));
    assert_eq!(agent.until_phase(Phase::Booting).exit, None);
    assert!(!machine.path("exit.json").exists());
    agent.tell(&json!({"type": "kill"}));
    let record = machine.ended();
    assert_eq!((record.cause, record.vmm.signal), (Cause::Killed, Some(9)));
}

#[test]
fn sessions_of_two_agents_do_not_meet() {
    let machine = Machine::playing("obey");
    let (mut one, mut two) = (machine.running(), machine.running());
    for agent in [&mut one, &mut two] {
        assert_eq!(agent.exec(5)["stream"], 5);
    }
    one.send(Kind::Stdin, 5, b"mine");
    two.send(Kind::Stdin, 5, b"yours");
    for (agent, expected) in [(&mut one, b"mine".as_slice()), (&mut two, b"yours")] {
        let frame = std::iter::from_fn(|| agent.frame())
            .find(|f| f.kind == Kind::Stdout)
            .unwrap();
        assert_eq!((frame.stream, frame.payload.as_slice()), (5, expected));
        agent.send(Kind::Eof, 5, b"");
        assert_eq!(agent.message("exec_exited")["stream"], 5);
    }
}

#[test]
fn a_gone_agent_takes_its_sessions_along() {
    let machine = Machine::playing("obey");
    let mut stays = machine.running();
    let mut goes = machine.running();
    goes.exec(1);
    stays.exec(1);
    drop(goes);
    machine.until_line(Source::Console, "exec 1 SIGKILL");
    machine.until_line(Source::Console, "credit 1");
    stays.send(Kind::Eof, 1, b"");
    stays.message("exec_exited");
}

#[test]
fn a_guest_that_sends_without_credit_loses_the_session() {
    let machine = Machine::playing("overrun");
    let mut agent = machine.running();
    agent.exec(1);
    let mut taken = 0;
    let failed = loop {
        let frame = agent.frame().unwrap();
        match frame.kind {
            Kind::Stdout => taken += frame.payload.len(),
            Kind::Message => break serde_json::from_slice::<Value>(&frame.payload).unwrap(),
            _ => {}
        }
    };
    assert_eq!(failed["type"], "exec_failed");
    assert_eq!(taken, INITIAL_CREDIT as usize);
    agent.tell(&json!({"type": "ping", "id": 9}));
    assert_eq!(agent.message("pong")["id"], 9);
}

#[test]
fn garbage_costs_the_channel_and_not_the_machine() {
    let mut machine = Machine::playing("garbage");
    let mut agent = machine.running();
    agent.tell(&json!({"type": "exec", "stream": 1, "argv": ["x"]}));
    let failed = agent.message("exec_failed");
    assert_eq!(
        (&failed["stream"], &failed["message"]),
        (&json!(1), &json!("the control channel broke"))
    );
    machine.until_line(Source::Stdout, "back again");
    agent.tell(&json!({"type": "stats", "id": 8}));
    let stats = agent.message("stats");
    assert_eq!((&stats["id"], &stats["uptime_ms"]), (&json!(8), &json!(5)));
    agent.tell(&json!({"type": "stop", "signal": "SIGINT", "timeout_ms": 1}));
    assert_eq!(machine.ended().cause, Cause::Guest);
    let system = machine.lines(Source::System);
    assert_eq!(system.len(), 1);
    assert!(system[0].contains("does not speak the control protocol"));
}

#[test]
fn a_flood_blocks_nobody_and_is_cut() {
    let small = json!({"bytes_per_second": 50_000, "burst_bytes": 100_000});
    let machine = Machine::playing_with("flood", |config| config["log"] = small);
    let mut idle = machine.agent();
    idle.tell(&json!({"type": "subscribe"}));
    let mut agent = machine.running();
    agent.tell(&json!({"type": "ping", "id": 3}));
    assert_eq!(agent.message("pong")["id"], 3);
    agent.tell(&json!({"type": "status"}));
    let status = agent.until_phase(Phase::Running);
    assert!(
        status.dropped_log_bytes > 30_000_000,
        "{}",
        status.dropped_log_bytes
    );
    eventually(|| {
        let system = machine.lines(Source::System);
        system
            .iter()
            .any(|line| line.contains("left out"))
            .then_some(())
    });
}

#[test]
fn an_agent_that_does_not_read_is_let_go() {
    let machine = Machine::playing("obey");
    let mut deaf = machine.running();
    deaf.socket
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut bytes = Vec::new();
    for _ in 0..40_000 {
        encode_into(&mut bytes, Kind::Message, 0, br#"{"type":"status"}"#);
    }
    let refused = deaf.socket.write_all(&bytes).is_err();
    let mut agent = machine.running();
    agent.tell(&json!({"type": "ping", "id": 3}));
    assert_eq!(agent.message("pong")["id"], 3);
    let gone = refused || std::iter::from_fn(|| deaf.frame()).count() < 40_000;
    assert!(gone, "everything was answered");
}

#[test]
fn a_guest_that_does_not_read_ends_the_session_only() {
    let machine = Machine::playing("deaf");
    let mut agent = machine.running();
    for stream in 1..=40 {
        agent.tell(&json!({"type": "exec", "stream": stream, "argv": ["x"]}));
        for _ in 0..4 {
            agent.send(Kind::Stdin, stream, &[0; 65_536]);
        }
    }
    let refused = agent.message("error");
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("cannot be reached")
    );
    agent.tell(&json!({"type": "kill"}));
    agent.until_phase(Phase::Exited);
}

#[test]
fn sigterm_asks_the_guest_first() {
    let mut machine = Machine::playing("obey");
    machine.running();
    machine.signal(rustix::process::Signal::TERM);
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.guest.unwrap().exit_code),
        (Cause::Guest, 0)
    );
    assert!(
        machine
            .lines(Source::Console)
            .contains(&"stop SIGINT 5000".to_owned())
    );
}

#[test]
fn a_guest_that_ended_and_stays_is_killed_and_its_word_counts() {
    let mut machine = Machine::playing("stubborn");
    let record = machine.ended();
    assert_eq!(
        (record.cause, record.guest.unwrap().exit_code),
        (Cause::Guest, 4)
    );
    assert_eq!(record.vmm.signal, Some(9));
}

#[test]
fn no_vmm_outlives_its_shim() {
    let machine = Machine::playing("obey");
    let mut agent = machine.running();
    agent.tell(&json!({"type": "status"}));
    let vmm = agent.until_phase(Phase::Running).vmm_pid.unwrap();
    machine.signal(rustix::process::Signal::KILL);
    let alive = PathBuf::from(format!("/proc/{vmm}/exe"));
    eventually(|| alive.read_link().is_err().then_some(()));
}

#[test]
fn nonsense_from_an_agent_ends_that_connection_only() {
    let machine = Machine::playing("obey");
    let mut good = machine.running();
    let mut bad = machine.running();
    bad.tell(&json!({"type": "teleport"}));
    assert_eq!(bad.message("error")["regarding"], "teleport");
    bad.tell(&json!({"type": "stop"}));
    assert_eq!(bad.message("error")["regarding"], "stop");
    bad.tell(&json!({"type": "run", "spec": {"machine_id": "m", "hostname": "m", "process": {"argv": ["x"]}}}));
    assert_eq!(bad.message("error")["regarding"], "run");
    bad.socket.write_all(&[0xff; 32]).unwrap();
    assert!(bad.frame().is_none());
    good.tell(&json!({"type": "ping", "id": 2}));
    assert_eq!(good.message("pong")["id"], 2);
}

#[test]
fn a_configuration_that_is_wrong_is_told() {
    let run = |path: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_godwit-shim"));
        command.arg("--config").arg(path).output().unwrap()
    };
    let machine = Machine::new();
    assert_eq!(run(&machine.path("nothing.json")).status.code(), Some(2));
    fs::write(machine.path("half.json"), r#"{"machine_id": "m"}"#).unwrap();
    let output = run(&machine.path("half.json"));
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing field"));
}
