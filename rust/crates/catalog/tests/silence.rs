//! Machines whose tombstone left the stream while nobody here was reading.

mod common;

use common::{OTHER, OWN, from_agent, from_bus, host, machine, machine_fact};
use godwit_catalog::{Book, Catalog};
use godwit_wire::facts::Fact;

fn tell(catalog: &mut Catalog, host_id: &str, id: &str) {
    from_bus(catalog, &machine_fact(machine(host_id, id, "hello", 1, 1)));
}

fn ids(catalog: &Catalog) -> Vec<&str> {
    let known = ["m1", "m2", "m3"];
    let there = |id: &&str| catalog.view().machine(id).is_some();
    known.into_iter().filter(there).collect()
}

#[test]
fn what_a_whole_reading_does_not_tell_is_gone() {
    let mut catalog = Catalog::new(OWN, "lcl");
    tell(&mut catalog, OTHER, "m1");
    tell(&mut catalog, OTHER, "m2");
    catalog.bus_begins(Book::Facts);
    tell(&mut catalog, OTHER, "m2");
    from_bus(&mut catalog, &Fact::Host(host(OTHER, 1)));
    assert_eq!(catalog.bus_settled(Book::Facts), 1);
    assert_eq!(ids(&catalog), ["m2"]);
    assert_eq!(catalog.bus_settled(Book::Facts), 0);
}

#[test]
fn a_stream_that_lost_its_content_takes_nothing() {
    let mut catalog = Catalog::new(OWN, "lcl");
    tell(&mut catalog, OTHER, "m1");
    catalog.bus_begins(Book::Facts);
    assert_eq!(catalog.bus_settled(Book::Facts), 0);
    assert_eq!(ids(&catalog), ["m1"]);
}

#[test]
fn machines_of_a_host_that_the_stream_does_not_tell_of_stay() {
    let mut catalog = Catalog::new(OWN, "lcl");
    tell(&mut catalog, OTHER, "m1");
    tell(&mut catalog, "cccccccc", "m2");
    catalog.bus_begins(Book::Facts);
    from_bus(&mut catalog, &Fact::Host(host("cccccccc", 1)));
    assert_eq!(catalog.bus_settled(Book::Facts), 1);
    assert_eq!(ids(&catalog), ["m1"]);
}

#[test]
fn what_cannot_be_read_is_there_all_the_same() {
    let mut catalog = Catalog::new(OWN, "lcl");
    tell(&mut catalog, OTHER, "m1");
    tell(&mut catalog, OTHER, "m2");
    catalog.bus_begins(Book::Facts);
    catalog.apply_bus("facts.lcl.machine.bbbbbbbb.m1", b"of a later release");
    let mut unreadable = machine(OTHER, "m2", "hello", 1, 2);
    unreadable.private_ip = "nowhere".into();
    from_bus(&mut catalog, &machine_fact(unreadable));
    from_bus(&mut catalog, &Fact::Host(host(OTHER, 1)));
    assert_eq!(catalog.bus_settled(Book::Facts), 0);
    assert_eq!(ids(&catalog), ["m1", "m2"]);
}

#[test]
fn this_hosts_machines_are_its_agents_to_drop() {
    let mut catalog = Catalog::new(OWN, "lcl");
    catalog.agent_begins();
    from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 1));
    catalog.agent_synced();
    catalog.bus_begins(Book::Facts);
    from_bus(&mut catalog, &Fact::Host(host(OWN, 1)));
    assert_eq!(catalog.bus_settled(Book::Facts), 0);
    assert_eq!(ids(&catalog), ["m1"]);
}

#[test]
fn a_machine_that_died_while_away_does_not_come_back_from_the_kept_view() {
    let mut before = Catalog::new(OWN, "lcl");
    tell(&mut before, OTHER, "m1");
    let kept: Vec<Fact> = before.view().facts().collect();
    let mut after = Catalog::new(OWN, "lcl");
    for fact in &kept {
        after.apply_kept(fact);
    }
    assert_eq!(ids(&after), ["m1"]);
    after.bus_begins(Book::Facts);
    from_bus(&mut after, &Fact::Host(host(OTHER, 9)));
    assert_eq!(after.bus_settled(Book::Facts), 1);
    assert!(ids(&after).is_empty());
}
