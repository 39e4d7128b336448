//! The golden facts read here as Python wrote them, and write back the same.

use godwit_wire::facts::{Fact, LOCAL_VERSION, LocalFrame, LocalRequest, MemberState, Membership};
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
fn facts_write_back_as_they_were_read() {
    for name in ["fact_app", "fact_machine", "fact_host"] {
        let document = golden(name);
        let fact: Fact = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fact).unwrap(), document, "{name}");
    }
}

#[test]
fn a_member_belongs_until_it_is_removed() {
    let mut document = golden("fact_member");
    let read: Membership = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(
        (read.host_id.as_str(), read.owner.as_str(), read.state),
        ("a1b2c3d4", "control", MemberState::Belongs)
    );
    document["state"] = "removed".into();
    let read: Membership = serde_json::from_value(document).unwrap();
    assert_eq!(read.state, MemberState::Removed);
}

#[test]
fn subjects_are_those_of_the_contract() {
    let subject = |name| {
        let fact: Fact = serde_json::from_value(golden(name)).unwrap();
        fact.subject("lcl")
    };
    assert_eq!(subject("fact_app"), "facts.lcl.app.control.hello");
    assert_eq!(
        subject("fact_machine"),
        "facts.lcl.machine.a1b2c3d4.148ed193b95948"
    );
    assert_eq!(subject("fact_host"), "facts.lcl.host.a1b2c3d4.a1b2c3d4");
}

#[test]
fn a_fact_of_a_newer_release_is_still_read() {
    for name in ["fact_app", "fact_machine", "fact_host"] {
        let document = golden(name);
        let mut newer = document.clone();
        newer["added_later"] = serde_json::json!({"x": 1});
        let read: Fact = serde_json::from_value(newer).unwrap();
        assert_eq!(read, serde_json::from_value::<Fact>(document).unwrap());
    }
}

#[test]
fn a_fact_of_an_older_release_takes_the_defaults() {
    let mut document = golden("fact_machine");
    let fields = document.as_object_mut().unwrap();
    for name in [
        "v",
        "deleted",
        "cordoned",
        "draining",
        "in_dns",
        "process_group",
        "metadata",
        "services",
    ] {
        fields.remove(name);
    }
    let Fact::Machine(read) = serde_json::from_value(document).unwrap() else {
        panic!()
    };
    assert!(read.in_dns && !read.cordoned && !read.draining && !read.deleted);
    assert_eq!(
        (read.process_group.as_str(), read.services.len()),
        ("app", 0)
    );
}

#[test]
fn local_frames_are_read() {
    let frames: Vec<LocalFrame> = serde_json::from_value(golden("local_frames")).unwrap();
    assert!(matches!(&frames[0], LocalFrame::Fact { fact: Fact::Machine(m) } if m.app == "hello"));
    assert_eq!(frames[1], LocalFrame::Synced {});
    assert_eq!(frames[2], LocalFrame::Woken { id: 3 });
    let machine_id = "148ed193b95948".to_owned();
    assert_eq!(frames[3], LocalFrame::Count { id: 5, machine_id });
    let message = Some("no room".to_owned());
    assert_eq!(
        frames[4],
        LocalFrame::Error {
            id: Some(4),
            message
        }
    );
    let hosts = [("a1b2c3d4".to_owned(), 45_000)].into();
    let regions = [("iad".to_owned(), 90_000)].into();
    assert_eq!(frames[5], LocalFrame::Distances { hosts, regions });
}

#[test]
fn lines_to_the_agent_are_those_of_the_contract() {
    let documents = golden("local_requests");
    let requests: Vec<LocalRequest> = serde_json::from_value(documents.clone()).unwrap();
    let wanted = [
        LocalRequest::Hello {
            v: LOCAL_VERSION,
            component: "edge".to_owned(),
        },
        LocalRequest::Wake {
            id: 7,
            machine_id: "148ed193b95948".to_owned(),
        },
        LocalRequest::Counted {
            id: 5,
            requests: 3,
            tunnels: 1,
        },
        LocalRequest::Stop {
            machine_id: "148ed193b95948".to_owned(),
            suspend: true,
        },
    ];
    assert_eq!(requests, wanted);
    assert_eq!(serde_json::to_value(&requests).unwrap(), documents);
}
