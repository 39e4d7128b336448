//! Which machine of this host has a private address.

mod common;

use std::net::Ipv6Addr;

use common::{OTHER, OWN, from_agent, from_bus, machine, machine_fact};
use godwit_catalog::Catalog;

/// Of every machine that `common` makes in network 1.
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfdaa, 0, 1, 0xa7b, 1, 0, 5, 2);

fn at(catalog: &Catalog) -> Option<String> {
    let found = catalog.view().own_machine(ADDRESS);
    found.map(|machine| machine.key.id.to_string())
}

#[test]
fn a_machine_of_this_host_is_found_while_it_is_there() {
    let mut catalog = Catalog::new(OWN, "lcl");
    assert_eq!(at(&catalog), None);
    from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 1));
    from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 2));
    assert_eq!(at(&catalog).as_deref(), Some("m1"));
    let mut gone = machine(OWN, "m1", "hello", 1, 3);
    gone.deleted = true;
    from_agent(&mut catalog, gone);
    assert_eq!(at(&catalog), None);
    from_agent(&mut catalog, machine(OWN, "m2", "hello", 1, 4));
    assert_eq!(at(&catalog).as_deref(), Some("m2"));
}

#[test]
fn another_hosts_word_of_the_same_address_is_none() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 1)),
    );
    assert_eq!(at(&catalog), None);
}

#[test]
fn of_two_that_claim_one_address_neither_is_believed() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 1));
    from_agent(&mut catalog, machine(OWN, "m2", "other", 1, 2));
    assert_eq!(at(&catalog), None);
    let mut gone = machine(OWN, "m1", "hello", 1, 3);
    gone.deleted = true;
    from_agent(&mut catalog, gone);
    assert_eq!(at(&catalog).as_deref(), Some("m2"));
}

#[test]
fn an_address_that_changes_is_let_go() {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_agent(&mut catalog, machine(OWN, "m1", "hello", 1, 1));
    let mut moved = machine(OWN, "m1", "hello", 1, 2);
    moved.private_ip = "fdaa:0:1:a7b:1:0:6:2".into();
    from_agent(&mut catalog, moved);
    assert_eq!(at(&catalog), None);
}
