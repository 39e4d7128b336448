//! Whatever the order in which facts come, the view is the newest record of each subject.

mod common;

use std::collections::BTreeMap;

use common::{OTHER, OWN, app, from_bus, host, machine, machine_fact, records};
use godwit_catalog::{Catalog, Outcome, Version};
use godwit_wire::facts::Fact;
use proptest::prelude::*;

/// A fact whose content follows from its subject and version, as with honest owners.
fn fact() -> impl Strategy<Value = Fact> {
    let version = (1..3u64, 1..4u64, proptest::bool::weighted(0.25));
    (0..3u8, 0..3u8, 0..2u8, version).prop_map(|(kind, name, owner, (epoch, revision, gone))| {
        let deleted = gone && revision == 2;
        let variant = (epoch + revision) % 2;
        match kind {
            0 => {
                let mut fact = app(&format!("app-{name}"), 1 + u32::from(name), revision);
                (fact.epoch, fact.deleted) = (epoch, deleted);
                // Two apps may claim a name while it moves from one to the other.
                fact.hostnames.push(format!("moves-{variant}.example"));
                Fact::App(fact)
            }
            1 => {
                let host = [OTHER, "cccccccc"][usize::from(owner)];
                let app = format!("app-{}", (u64::from(name) + variant) % 3);
                let mut fact = machine(host, &format!("m{name}"), &app, 1, revision);
                (fact.epoch, fact.deleted) = (epoch, deleted);
                fact.state = ["started", "stopped"][usize::from(variant == 0)].into();
                machine_fact(fact)
            }
            _ => {
                let mut fact = host(&format!("h{name}"), revision);
                (fact.epoch, fact.deleted) = (epoch, deleted);
                Fact::Host(fact)
            }
        }
    })
}

fn version(fact: &Fact) -> (Version, bool) {
    let (epoch, revision, deleted) = match fact {
        Fact::App(f) => (f.epoch, f.revision, f.deleted),
        Fact::Machine(f) => (f.epoch, f.revision, f.deleted),
        Fact::Host(f) => (f.epoch, f.revision, f.deleted),
    };
    (Version { epoch, revision }, deleted)
}

fn expected(facts: &[Fact]) -> Vec<String> {
    let mut newest: BTreeMap<String, Fact> = BTreeMap::new();
    for fact in facts {
        let subject = fact.subject("lcl");
        let older = newest
            .get(&subject)
            .is_none_or(|held| version(held).0 < version(fact).0);
        if older {
            newest.insert(subject, fact.clone());
        }
    }
    let live = newest.values().filter(|fact| !version(fact).1);
    let mut lines: Vec<String> = live
        .map(|fact| serde_json::to_string(fact).expect("a fact is JSON"))
        .collect();
    lines.sort();
    lines
}

/// The same subject and version always carry the same content.
fn honest(facts: Vec<Fact>) -> Vec<Fact> {
    let mut said: BTreeMap<(String, Version), Fact> = BTreeMap::new();
    let once = |fact: Fact| {
        let key = (fact.subject("lcl"), version(&fact).0);
        said.entry(key).or_insert(fact).clone()
    };
    facts.into_iter().map(once).collect()
}

proptest! {
    #[test]
    fn any_order_gives_the_newest_records(
        (facts, shuffled) in proptest::collection::vec(fact(), 0..40)
            .prop_map(honest)
            .prop_flat_map(|facts| (Just(facts.clone()), Just(facts).prop_shuffle()))
    ) {
        let wanted = expected(&facts);
        for order in [facts, shuffled] {
            let mut catalog = Catalog::new(OWN, "lcl");
            for fact in &order {
                from_bus(&mut catalog, fact);
            }
            prop_assert_eq!(&records(&catalog), &wanted);
        }
    }

    #[test]
    fn indexes_agree_with_the_records(facts in proptest::collection::vec(fact(), 0..40)) {
        let mut catalog = Catalog::new(OTHER, "lcl");
        for fact in &facts {
            from_bus(&mut catalog, fact);
        }
        let view = catalog.view();
        let mut machines = 0;
        for name in ["app-0", "app-1", "app-2"] {
            let Some(app) = view.app(name) else { continue };
            machines += app.machines.len();
            prop_assert!(app.record.is_some() || !app.machines.is_empty());
            let local: Vec<_> = app.machines.iter().filter(|m| &*m.key.host == OTHER).collect();
            prop_assert_eq!(local, app.local.iter().collect::<Vec<_>>());
            for machine in &app.machines {
                let network = view.network(machine.network_number).unwrap();
                prop_assert!(network.has(name));
                let tenant = view.tenant(machine.network_number);
                let expected = (machine.org_id.clone(), machine.network_id.clone());
                prop_assert_eq!(tenant, Some(expected));
            }
            for hostname in app.record.iter().flat_map(|record| record.hostnames.iter()) {
                let claimed = view.app_of_hostname(hostname).unwrap();
                prop_assert!(claimed.record.as_ref().unwrap().hostnames.contains(hostname));
            }
        }
        prop_assert_eq!(machines, view.counts().machines);
    }

    #[test]
    fn no_message_stops_the_catalog(subject in "\\PC{0,40}", payload in any::<Vec<u8>>()) {
        let mut catalog = Catalog::new(OWN, "lcl");
        let outcome = catalog.apply_bus(&subject, &payload);
        prop_assert!(matches!(outcome, Outcome::Skipped(_)));
        prop_assert_eq!(catalog.view().counts().machines, 0);
    }
}

#[test]
fn a_new_epoch_outranks_any_revision() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(&mut catalog, &Fact::App(app("hello", 1, 900)));
    let mut restored = app("hello", 1, 1);
    restored.epoch = 2;
    assert_eq!(
        from_bus(&mut catalog, &Fact::App(restored)),
        Outcome::Applied
    );
    assert_eq!(
        from_bus(&mut catalog, &Fact::App(app("hello", 1, 901))),
        Outcome::Stale
    );
}

#[test]
fn a_deleted_record_does_not_come_back_from_an_older_one() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let mut gone = machine(OTHER, "m1", "hello", 1, 5);
    gone.deleted = true;
    assert_eq!(
        from_bus(&mut catalog, &machine_fact(gone)),
        Outcome::Applied
    );
    let late = machine_fact(machine(OTHER, "m1", "hello", 1, 4));
    assert_eq!(from_bus(&mut catalog, &late), Outcome::Stale);
    assert!(catalog.view().machine("m1").is_none());
}
