//! Facts of other regions come by the mirror, and only they do.

mod common;

use std::collections::BTreeMap;

use common::{OTHER, OWN, app, from_bus, from_mirror, host, machine, machine_fact, records};
use godwit_catalog::{Book, Catalog, Outcome, Presence, Skip};
use godwit_wire::facts::{Fact, MachineFact};
use proptest::prelude::*;

const FAR: &str = "ffffffff";

fn far(region: &str, id: &str, revision: u64) -> MachineFact {
    let mut fact = machine(FAR, id, "hello", 1, revision);
    fact.region = region.into();
    fact
}

fn tell(catalog: &mut Catalog, fact: MachineFact) -> Outcome {
    let region = fact.region.clone();
    from_mirror(catalog, &region, &machine_fact(fact))
}

#[test]
fn machines_of_all_regions_are_in_one_view() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 1)),
    );
    assert_eq!(tell(&mut catalog, far("fra", "m2", 1)), Outcome::Applied);
    assert_eq!(tell(&mut catalog, far("fra", "m2", 1)), Outcome::Stale);
    let app = catalog.view().app("hello").expect("the app");
    let regions: Vec<&str> = app.machines.iter().map(|m| &*m.region).collect();
    assert_eq!(regions, ["lcl", "fra"]);
}

#[test]
fn each_stream_is_believed_of_its_own_regions_only() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let skipped = Outcome::Skipped(Skip::Owner);
    let foreign = machine_fact(far("fra", "m1", 1));
    let ours = machine_fact(machine(OTHER, "m1", "hello", 1, 1));
    let bytes = |fact: &Fact| serde_json::to_vec(fact).expect("a fact is JSON");
    for (subject, fact) in [
        // Another region's host in this region's stream.
        ("facts.fra.machine.ffffffff.m1", &foreign),
        // This region's host in the mirror.
        ("mirror.lcl.machine.bbbbbbbb.m1", &ours),
        // One region's host under another's name.
        ("mirror.iad.machine.ffffffff.m1", &foreign),
        ("mirror.fra.machine.ffffffff.m2", &foreign),
        ("other.fra.machine.ffffffff.m1", &foreign),
        // Control tells each region itself.
        (
            "mirror.fra.app.control.hello",
            &Fact::App(app("hello", 1, 1)),
        ),
    ] {
        assert_eq!(
            catalog.apply_bus(subject, &bytes(fact)),
            skipped,
            "{subject}"
        );
    }
    assert_eq!(catalog.view().counts().machines, 0);
    assert_eq!(catalog.skips().owner, 6);
}

#[test]
fn kinds_for_others_are_no_mistakes() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let outcome = catalog.apply_bus("facts.lcl.later.control.bbbbbbbb", b"{}");
    assert_eq!(outcome, Outcome::Beside);
    assert_eq!(catalog.skips().unreadable, 0);
}

#[test]
fn a_reading_of_one_stream_takes_nothing_of_the_other() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let near = |id: &str| machine_fact(machine(OTHER, id, "hello", 1, 1));
    from_bus(&mut catalog, &near("m1"));
    tell(&mut catalog, far("fra", "m2", 1));
    tell(&mut catalog, far("fra", "m3", 1));
    catalog.bus_begins(Book::Mirror);
    tell(&mut catalog, far("fra", "m3", 1));
    let mut there = host(FAR, 1);
    there.region = "fra".into();
    from_mirror(&mut catalog, "fra", &Fact::Host(there));
    assert_eq!(catalog.bus_settled(Book::Facts), 0);
    assert_eq!(catalog.bus_settled(Book::Mirror), 1);
    let left: Vec<_> = ["m1", "m2", "m3"]
        .into_iter()
        .filter(|id| catalog.view().machine(id).is_some())
        .collect();
    assert_eq!(left, ["m1", "m3"]);
}

#[test]
fn a_tombstone_of_the_same_version_buries_the_record_for_good() {
    let mut catalog = Catalog::new(OWN, "lcl");
    tell(&mut catalog, far("fra", "m1", 7));
    let mut buried = far("fra", "m1", 7);
    buried.deleted = true;
    assert_eq!(tell(&mut catalog, buried.clone()), Outcome::Applied);
    assert!(catalog.view().machine("m1").is_none());
    assert_eq!(tell(&mut catalog, buried), Outcome::Stale);
    assert_eq!(tell(&mut catalog, far("fra", "m1", 7)), Outcome::Stale);
    assert_eq!(tell(&mut catalog, far("fra", "m1", 8)), Outcome::Applied);
}

/// Where an app is, counted from its machines.
fn counted(catalog: &Catalog) -> BTreeMap<(String, String), (u32, u32)> {
    let mut found = BTreeMap::new();
    let app = catalog.view().app("hello");
    for machine in app.into_iter().flat_map(|app| &app.machines) {
        let key = (
            machine.region.to_string(),
            machine.process_group.to_string(),
        );
        let (all, started) = found.entry(key).or_insert((0, 0));
        *all += 1;
        *started += u32::from(machine.is_started());
    }
    found
}

fn kept(catalog: &Catalog) -> BTreeMap<(String, String), (u32, u32)> {
    let app = catalog.view().app("hello");
    let one = |p: &Presence| {
        let key = (p.region.to_string(), p.process_group.to_string());
        (key, (p.machines, p.started))
    };
    app.into_iter()
        .flat_map(|app| &app.presence)
        .map(one)
        .collect()
}

/// A record of a machine of some region; its content follows from its version.
fn record() -> impl Strategy<Value = MachineFact> {
    let version = (1..3u64, 1..5u64);
    (0..3usize, 0..3u8, version).prop_map(|(region, name, (epoch, revision))| {
        let region = ["fra", "iad", "syd"][region];
        let mut fact = far(region, &format!("m{name}"), revision);
        fact.host_id = format!("host{region}");
        fact.owner.clone_from(&fact.host_id);
        fact.epoch = epoch;
        fact.deleted = revision == 3;
        fact.state = ["started", "stopped"][usize::from(revision % 2 == 0)].into();
        fact.process_group = ["app", "worker"][usize::from(epoch == 2)].into();
        fact
    })
}

proptest! {
    #[test]
    fn whatever_order_and_however_often_the_end_is_the_same(
        facts in proptest::collection::vec(record(), 0..40),
        seed in any::<u64>(),
    ) {
        let mut straight = Catalog::new(OWN, "lcl");
        for fact in &facts {
            tell(&mut straight, fact.clone());
            prop_assert_eq!(kept(&straight), counted(&straight));
        }
        let mut shuffled: Vec<_> = facts.iter().chain(&facts).cloned().collect();
        let mut state = seed | 1;
        for at in (1..shuffled.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let with = usize::try_from(state >> 33).unwrap_or_default() % (at + 1);
            shuffled.swap(at, with);
        }
        let mut other = Catalog::new(OWN, "lcl");
        for fact in shuffled {
            tell(&mut other, fact);
        }
        prop_assert_eq!(records(&straight), records(&other));
        prop_assert_eq!(kept(&straight), kept(&other));
    }
}
