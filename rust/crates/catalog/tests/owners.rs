//! A fact is believed from its owner only, and this host's agent above the bus.

mod common;

use common::{OTHER, OWN, app, from_agent, from_bus, host, machine, machine_fact};
use godwit_catalog::{Catalog, Outcome, Skip};
use godwit_wire::facts::Fact;

fn bytes(fact: &Fact) -> Vec<u8> {
    serde_json::to_vec(fact).expect("a fact is JSON")
}

#[test]
fn a_machine_is_believed_from_its_hosts_subject_only() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let fact = machine_fact(machine(OTHER, "m1", "hello", 1, 1));
    for subject in [
        "facts.lcl.machine.cccccccc.m1",
        "facts.lcl.machine.bbbbbbbb.m2",
        "facts.fra.machine.bbbbbbbb.m1",
        "facts.lcl.app.bbbbbbbb.m1",
        "facts.lcl.machine.bbbbbbbb.m1.x",
        "facts.lcl.machine.bbbbbbbb",
    ] {
        let outcome = catalog.apply_bus(subject, &bytes(&fact));
        assert_eq!(outcome, Outcome::Skipped(Skip::Owner), "{subject}");
    }
    assert_eq!(catalog.skips().owner, 6);
    assert_eq!(catalog.view().counts().machines, 0);
}

#[test]
fn a_fact_that_names_another_owner_is_not_believed() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let mut claimed = machine(OTHER, "m1", "hello", 1, 1);
    claimed.owner = "cccccccc".into();
    let outcome = catalog.apply_bus(
        "facts.lcl.machine.bbbbbbbb.m1",
        &bytes(&machine_fact(claimed)),
    );
    assert_eq!(outcome, Outcome::Skipped(Skip::Owner));
    let mut forged = app("hello", 1, 1);
    forged.owner = OTHER.into();
    let outcome = catalog.apply_bus("facts.lcl.app.bbbbbbbb.hello", &bytes(&Fact::App(forged)));
    assert_eq!(outcome, Outcome::Skipped(Skip::Owner));
}

#[test]
fn a_record_with_a_bad_address_is_counted_and_the_next_is_read() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let mut bad = machine(OTHER, "m1", "hello", 1, 1);
    bad.private_ip = "nowhere".into();
    let outcome = from_bus(&mut catalog, &machine_fact(bad));
    assert_eq!(outcome, Outcome::Skipped(Skip::Unreadable));
    let good = machine_fact(machine(OTHER, "m2", "hello", 1, 1));
    assert_eq!(from_bus(&mut catalog, &good), Outcome::Applied);
    assert_eq!(catalog.skips().unreadable, 1);
}

#[test]
fn the_bus_is_believed_about_own_machines_until_the_agent_has_spoken() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let fact = machine_fact(machine(OWN, "m1", "hello", 1, 7));
    assert_eq!(from_bus(&mut catalog, &fact), Outcome::Applied);
    catalog.agent_begins();
    let mut stopped = machine(OWN, "m1", "hello", 1, 3);
    stopped.state = "stopped".into();
    assert_eq!(from_agent(&mut catalog, stopped), Outcome::Applied);
    catalog.agent_synced();
    let newer = machine_fact(machine(OWN, "m1", "hello", 1, 9));
    assert_eq!(from_bus(&mut catalog, &newer), Outcome::Ours);
    assert_eq!(&*catalog.view().machine("m1").unwrap().state, "stopped");
}

#[test]
fn an_older_record_of_the_agent_does_not_replace_its_newer_one() {
    let mut catalog = Catalog::new(OWN, "lcl");
    catalog.agent_begins();
    assert_eq!(
        from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 5)),
        Outcome::Applied
    );
    assert_eq!(
        from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 4)),
        Outcome::Stale
    );
}

#[test]
fn what_the_agent_does_not_announce_again_is_dropped_and_stays_away() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let kept_by_other = machine_fact(machine(OTHER, "m9", "hello", 1, 1));
    from_bus(&mut catalog, &kept_by_other);
    let forgotten = machine_fact(machine(OWN, "m1", "hello", 1, 1));
    from_bus(&mut catalog, &forgotten);
    catalog.agent_begins();
    from_agent(&mut catalog, machine(OWN, "m2", "hello", 1, 1));
    assert_eq!(catalog.agent_synced(), 1);
    assert!(catalog.view().machine("m1").is_none());
    assert!(catalog.view().machine("m2").is_some());
    assert!(catalog.view().machine("m9").is_some());
    assert_eq!(from_bus(&mut catalog, &forgotten), Outcome::Ours);
    catalog.agent_begins();
    assert_eq!(catalog.agent_synced(), 1);
    assert!(catalog.view().machine("m2").is_none());
}

#[test]
fn the_agent_speaks_for_its_own_host_only() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let skipped = Outcome::Skipped(Skip::Owner);
    assert_eq!(
        from_agent(&mut catalog, machine(OTHER, "m1", "hello", 1, 1)),
        skipped
    );
    assert_eq!(catalog.apply_agent(&Fact::App(app("hello", 1, 1))), skipped);
    assert_eq!(catalog.apply_agent(&Fact::Host(host(OTHER, 1))), skipped);
    assert_eq!(
        catalog.apply_agent(&Fact::Host(host(OWN, 1))),
        Outcome::Applied
    );
}

#[test]
fn machines_of_a_deleted_namesake_are_told_apart() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 1)),
    );
    let mut again = app("hello", 2, 8);
    again.app_id = "app_new".into();
    from_bus(&mut catalog, &Fact::App(again));
    let app = catalog.view().app("hello").unwrap();
    assert!(!app.is_own(app.machine("m1").unwrap()));
    // Each network is whose it says, although both know the name.
    for number in [1, 2] {
        let (org_id, network_id) = catalog.view().tenant(number).unwrap();
        assert_eq!(*org_id, format!("org_{number}"));
        assert_eq!(*network_id, format!("net_{number}"));
    }
    assert!(catalog.view().tenant(3).is_none());
}

#[test]
fn a_host_name_leads_to_its_app_and_moves_with_the_newer_record() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let mut first = app("one", 1, 1);
    first.hostnames = vec!["WWW.example.com".into()];
    from_bus(&mut catalog, &Fact::App(first));
    let named = |catalog: &Catalog| {
        let app = catalog.view().app_of_hostname("www.example.com").cloned();
        app.map(|app| app.record.as_ref().unwrap().name.to_string())
    };
    assert_eq!(named(&catalog).as_deref(), Some("one"));
    let mut second = app("two", 1, 2);
    second.hostnames = vec!["www.example.com".into()];
    from_bus(&mut catalog, &Fact::App(second.clone()));
    assert_eq!(named(&catalog).as_deref(), Some("two"));
    (second.revision, second.deleted) = (3, true);
    from_bus(&mut catalog, &Fact::App(second));
    assert_eq!(named(&catalog).as_deref(), Some("one"));
}

#[test]
fn datagrams_are_of_the_app_that_has_the_address_or_the_port() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let (own, shared): (&str, &str) = ("198.51.100.9", "203.0.113.1");
    let mut first = app("first", 1, 1);
    first.addresses = vec![own.into()];
    first.shared_udp = vec![format!("{shared}:53"), "nowhere".into()];
    let mut second = app("second", 1, 1);
    second.shared_udp = vec![format!("{shared}:54")];
    for fact in [first, second] {
        assert_eq!(from_bus(&mut catalog, &Fact::App(fact)), Outcome::Applied);
    }
    let of = |catalog: &Catalog, at: &str| {
        let view = catalog.view();
        let found = view.app_of_datagrams(at.parse().unwrap());
        found.map(|app| app.name.to_string())
    };
    assert_eq!(of(&catalog, "198.51.100.9:53").as_deref(), Some("first"));
    assert_eq!(of(&catalog, "203.0.113.1:53").as_deref(), Some("first"));
    assert_eq!(of(&catalog, "203.0.113.1:54").as_deref(), Some("second"));
    assert_eq!(of(&catalog, "203.0.113.1:55"), None);
    let mut ports: Vec<_> = catalog.view().shared_udp().map(|at| at.port()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [53, 54]);
    // A port that moves: in either order the newer record has it.
    let mut third = app("second", 1, 9);
    third.shared_udp = vec![format!("{shared}:53")];
    from_bus(&mut catalog, &Fact::App(third));
    assert_eq!(of(&catalog, "203.0.113.1:53").as_deref(), Some("second"));
    from_bus(&mut catalog, &Fact::App(app("first", 1, 10)));
    assert_eq!(of(&catalog, "203.0.113.1:53").as_deref(), Some("second"));
    assert_eq!(of(&catalog, "203.0.113.1:54"), None);
}
