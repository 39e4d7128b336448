//! What comes from the bus may be anything: of a newer release, damaged, or no fact at all. It is
//! read or skipped and counted, and nothing that was known before goes with it.

mod common;

use common::{OTHER, OWN, from_bus, machine, machine_fact, records};
use godwit_catalog::{Catalog, Outcome};
use proptest::prelude::*;
use serde_json::{Value, json};

const SUBJECT: &str = "facts.lcl.machine.bbbbbbbb.m2";

/// A machine with all that a fact can say.
fn whole() -> Value {
    let fact = machine_fact(machine(OTHER, "m2", "hello", 1, 5));
    let mut whole = serde_json::to_value(fact).unwrap_or_default();
    whole["services"] = json!([{
        "protocol": "tcp", "internal_port": 8080, "passing": true, "autostart": true,
        "concurrency": "requests", "soft_limit": 20, "hard_limit": 25,
        "ports": [{
            "start_port": 443, "end_port": 443, "handlers": ["tls", "http"], "force_https": false,
            "tls_options": {"alpn": ["h2"], "versions": ["TLSv1.3"], "default_self_signed": true},
            "http_options": {
                "compress": true, "h2_backend": true, "idle_timeout": 600, "pristine": true,
                "headers_read_timeout": 5, "remove": ["server"], "add": [["x", "1"]],
                "replay_cache": [{"path_prefix": "/", "ttl_seconds": 60, "type": "cookie",
                                  "name": "sid", "allow_bypass": true}]},
            "proxy_version": "v2"}]}]);
    whole
}

/// A catalog that knows another machine already.
fn known() -> Catalog {
    let mut catalog = Catalog::new(OWN, "lcl");
    let fact = machine_fact(machine(OTHER, "m1", "hello", 1, 1));
    assert_eq!(from_bus(&mut catalog, &fact), Outcome::Applied);
    catalog
}

/// The places of all values within a document.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                places(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// Any small document.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::hash_map("[a-z_]{1,12}", inner, 0..3).prop_map(Value::from_iter),
        ]
    })
}

fn add_to_objects(value: &mut Value, name: &str, more: &Value) {
    match value {
        Value::Object(fields) => {
            for (_, field) in fields.iter_mut() {
                add_to_objects(field, name, more);
            }
            fields.insert(name.to_owned(), more.clone());
        }
        Value::Array(items) => {
            for item in items {
                add_to_objects(item, name, more);
            }
        }
        _ => {}
    }
}

#[test]
fn what_a_newer_release_adds_is_passed_over() {
    let (mut now, mut then) = (known(), known());
    let mut newer = whole();
    assert_eq!(
        now.apply_bus(SUBJECT, newer.to_string().as_bytes()),
        Outcome::Applied
    );
    // Names of metadata are users' own.
    let metadata = newer["metadata"].take();
    add_to_objects(&mut newer, "of_tomorrow", &json!({"a": [1, null]}));
    newer["metadata"] = metadata;
    newer["v"] = json!(99);
    assert_eq!(
        then.apply_bus(SUBJECT, newer.to_string().as_bytes()),
        Outcome::Applied
    );
    assert_eq!(records(&then), records(&now));
}

#[test]
fn what_this_release_does_not_know_leaves_the_former_record() {
    for (place, value) in [
        ("/services/0/protocol", "quic"),
        ("/services/0/concurrency", "bytes"),
        ("/services/0/ports/0/proxy_version", "v3"),
        ("/autostop", "hibernate"),
        ("/kind", "volume"),
    ] {
        let mut catalog = known();
        let mut fact = whole();
        catalog.apply_bus(SUBJECT, fact.to_string().as_bytes());
        let before = records(&catalog);
        fact["revision"] = json!(6);
        if let Some(field) = fact.pointer_mut(place) {
            *field = json!(value);
        }
        let outcome = catalog.apply_bus(SUBJECT, fact.to_string().as_bytes());
        assert!(matches!(outcome, Outcome::Skipped(_)), "{place}");
        assert_eq!(records(&catalog), before, "{place}");
        assert_eq!(catalog.skips().unreadable, 1, "{place}");
    }
}

proptest! {
    #[test]
    fn a_fact_of_which_a_part_is_something_else_harms_no_other(
        place: prop::sample::Index, value in anything(), gone: bool,
    ) {
        let (mut catalog, mut fact) = (known(), whole());
        let before = records(&catalog);
        let mut all = Vec::new();
        places(&fact, "", &mut all);
        let place = &all[place.index(all.len())];
        let (parent, name) = place.rsplit_once('/').unwrap_or(("", ""));
        match fact.pointer_mut(parent) {
            Some(Value::Object(fields)) if gone => {
                fields.remove(name);
            }
            _ => {
                if let Some(field) = fact.pointer_mut(place) {
                    *field = value;
                }
            }
        }
        let outcome = catalog.apply_bus(SUBJECT, fact.to_string().as_bytes());
        let after = records(&catalog);
        prop_assert!(before.iter().all(|record| after.contains(record)));
        let applied = outcome == Outcome::Applied;
        // A part may say that it is deleted, which is a fact as well.
        prop_assert!(after.len() == 1 || applied);
        let skips = catalog.skips();
        let skipped = matches!(outcome, Outcome::Skipped(_));
        prop_assert_eq!(skips.unreadable + skips.owner, u64::from(skipped));
    }

    #[test]
    fn no_message_is_a_surprise(
        subject in "(facts|mirror|x)?\\.?(lcl|fra)?(\\.(app|machine|host|member|[a-z.*>]{0,6})){0,4}",
        payload: Vec<u8>, document in anything(),
    ) {
        let mut catalog = known();
        let before = records(&catalog);
        catalog.apply_bus(&subject, &payload);
        catalog.apply_bus(&subject, document.to_string().as_bytes());
        catalog.apply_bus(SUBJECT, &payload);
        prop_assert_eq!(records(&catalog), before);
    }

    #[test]
    fn a_fact_that_is_cut_short_is_none(length: prop::sample::Index) {
        let mut catalog = known();
        let fact = whole().to_string();
        let cut = &fact.as_bytes()[..length.index(fact.len())];
        let outcome = catalog.apply_bus(SUBJECT, cut);
        prop_assert!(matches!(outcome, Outcome::Skipped(_)));
    }
}
