//! Where control answers: on the hosts whose members' records say so, the oldest first.

mod common;

use common::{OTHER, OWN};
use godwit_catalog::{Catalog, Outcome};
use serde_json::json;

fn told(catalog: &mut Catalog, host: &str, number: u32, state: &str, at: Option<&str>) -> Outcome {
    let services = at.map_or_else(|| json!({}), |at| json!({"control": at}));
    let record = json!({
        "kind": "member", "v": 1, "owner": "control", "epoch": 1, "revision": 9, "host_id": host,
        "host_number": number, "region": "lcl", "zone": "0000", "roles": [], "keys": {},
        "services": services, "state": state,
    });
    let subject = format!("facts.lcl.member.control.{host}");
    catalog.apply_bus(&subject, record.to_string().as_bytes())
}

fn known(catalog: &Catalog) -> Vec<String> {
    let controls = catalog.view().controls();
    controls.map(|address| address.to_string()).collect()
}

#[test]
fn the_oldest_host_comes_first_whoever_was_told_first() {
    let mut catalog = Catalog::new(OWN, "lcl");
    let (first, second) = ("[fdaa::1:1:0:0:1]:4280", "[fdaa::1:2:0:0:1]:4280");
    let applied = told(&mut catalog, OTHER, 65_538, "active", Some(second));
    assert_eq!(applied, Outcome::Applied);
    told(&mut catalog, OWN, 65_537, "active", Some(first));
    assert_eq!(known(&catalog), [first, second]);
    let again = told(&mut catalog, OTHER, 65_538, "draining", Some(second));
    assert_eq!(again, Outcome::Beside);
}

#[test]
fn who_has_none_or_was_removed_is_not_among_them() {
    let mut catalog = Catalog::new(OWN, "lcl");
    assert_eq!(
        told(&mut catalog, OWN, 65_537, "active", None),
        Outcome::Beside
    );
    told(
        &mut catalog,
        OTHER,
        65_538,
        "active",
        Some("not an address"),
    );
    assert_eq!(known(&catalog), [""; 0]);
    told(&mut catalog, OTHER, 65_538, "active", Some("10.0.0.2:4280"));
    assert_eq!(known(&catalog), ["10.0.0.2:4280"]);
    told(
        &mut catalog,
        OTHER,
        65_538,
        "removed",
        Some("10.0.0.2:4280"),
    );
    assert_eq!(known(&catalog), [""; 0]);
}
