//! Of a host that control removed nothing is left, and nothing it says brings anything back.

mod common;

use common::{OTHER, OWN, from_bus, from_mirror, host, machine, machine_fact, records};
use godwit_catalog::{Catalog, Outcome, Skip};
use godwit_wire::facts::Fact;

fn told(catalog: &mut Catalog, subject: &str, owner: &str, state: &str) -> Outcome {
    let record = serde_json::json!({
        "kind": "member", "v": 1, "owner": owner, "epoch": 1, "revision": 9, "host_id": OTHER,
        "host_number": 65_538, "region": "lcl", "zone": "0000", "roles": [], "keys": {},
        "state": state,
    });
    catalog.apply_bus(subject, record.to_string().as_bytes())
}

fn member(catalog: &mut Catalog, state: &str) -> Outcome {
    let subject = format!("facts.lcl.member.control.{OTHER}");
    told(catalog, &subject, "control", state)
}

fn one_host() -> Catalog {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(&mut catalog, &Fact::Host(host(OTHER, 1)));
    from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 1)),
    );
    catalog
}

#[test]
fn a_removed_host_is_gone_with_its_machines() {
    let mut catalog = one_host();
    assert_eq!(member(&mut catalog, "draining"), Outcome::Beside);
    assert_eq!(records(&catalog).len(), 2);
    assert_eq!(member(&mut catalog, "removed"), Outcome::Applied);
    assert!(records(&catalog).is_empty());
    assert_eq!(member(&mut catalog, "removed"), Outcome::Stale);
}

#[test]
fn nothing_it_says_later_counts_wherever_it_comes_from() {
    let mut catalog = one_host();
    member(&mut catalog, "removed");
    let newer = machine(OTHER, "m1", "hello", 1, 9);
    let mut far = newer.clone();
    far.region = "fra".into();
    assert_eq!(from_bus(&mut catalog, &machine_fact(newer)), Outcome::Stale);
    assert_eq!(
        from_mirror(&mut catalog, "fra", &machine_fact(far)),
        Outcome::Stale
    );
    assert_eq!(
        from_bus(&mut catalog, &Fact::Host(host(OTHER, 9))),
        Outcome::Stale
    );
    assert!(records(&catalog).is_empty());
}

#[test]
fn a_restored_database_takes_a_removal_back() {
    let mut catalog = one_host();
    member(&mut catalog, "removed");
    member(&mut catalog, "active");
    let outcome = from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 9)),
    );
    assert_eq!(outcome, Outcome::Applied);
}

#[test]
fn nobody_but_control_removes_a_host_and_only_in_this_region_s_stream() {
    let mut catalog = one_host();
    for (subject, owner) in [
        (format!("facts.lcl.member.{OTHER}.{OTHER}"), OTHER),
        (format!("facts.fra.member.control.{OTHER}"), "control"),
        (format!("mirror.lcl.member.control.{OTHER}"), "control"),
    ] {
        assert_eq!(
            told(&mut catalog, &subject, owner, "removed"),
            Outcome::Beside
        );
    }
    let subject = format!("facts.lcl.member.control.{OTHER}");
    let outcome = told(&mut catalog, &subject, OTHER, "removed");
    assert_eq!(outcome, Outcome::Skipped(Skip::Owner));
    assert_eq!(records(&catalog).len(), 2);
}
