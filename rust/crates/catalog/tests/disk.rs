//! A view comes back from its file; a damaged file costs the damaged lines.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{OTHER, OWN, app, from_agent, from_bus, host, machine, machine_fact, records};
use godwit_catalog::{Catalog, disk};
use godwit_wire::facts::Fact;

fn scratch(name: &str) -> PathBuf {
    let folder =
        std::env::temp_dir().join(format!("godwit-catalog-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder.join("view.json")
}

fn filled() -> Catalog {
    let mut catalog = Catalog::new(OWN, "lcl");
    from_bus(&mut catalog, &Fact::App(app("hello", 1, 1)));
    from_bus(&mut catalog, &Fact::Host(host(OTHER, 1)));
    from_bus(
        &mut catalog,
        &machine_fact(machine(OTHER, "m1", "hello", 1, 1)),
    );
    from_agent(&mut catalog, machine(OWN, "m2", "hello", 1, 1));
    catalog
}

fn reload(path: &std::path::Path) -> (Catalog, disk::Loaded) {
    let mut catalog = Catalog::new(OWN, "lcl");
    let loaded = disk::load(path, &mut catalog)
        .expect("a good file")
        .expect("a file");
    (catalog, loaded)
}

#[test]
fn a_kept_view_comes_back_whole() {
    let path = scratch("whole");
    let catalog = filled();
    disk::save(&path, OWN, catalog.view()).unwrap();
    let (again, loaded) = reload(&path);
    assert_eq!((loaded.facts, loaded.skipped), (4, 0));
    assert_eq!(records(&again), records(&catalog));
    assert_eq!(again.view().app("hello").unwrap().local.len(), 1);
    let document: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(document["v"], 1);
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_damaged_line_costs_one_fact() {
    let path = scratch("damaged");
    disk::save(&path, OWN, filled().view()).unwrap();
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"kind\":\"app\"", "\"kind\":\"ap");
    fs::write(&path, text).unwrap();
    let (_, loaded) = reload(&path);
    assert_eq!((loaded.facts, loaded.skipped), (3, 1));
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn a_file_cut_short_gives_what_is_there() {
    let path = scratch("short");
    disk::save(&path, OWN, filled().view()).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut catalog = Catalog::new(OWN, "lcl");
        // Cut within its first line the file is refused; after it, read as far as it goes.
        let _ = disk::load(&path, &mut catalog);
        assert!(catalog.view().counts().machines <= 2);
    }
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn files_of_another_host_or_a_later_format_are_refused() {
    let path = scratch("refused");
    disk::save(&path, OTHER, filled().view()).unwrap();
    let mut catalog = Catalog::new(OWN, "lcl");
    assert!(
        disk::load(&path, &mut catalog)
            .unwrap_err()
            .to_string()
            .contains(OTHER)
    );
    fs::write(&path, r#"{"v":2,"host_id":"aaaaaaaa","facts":["#).unwrap();
    assert!(
        disk::load(&path, &mut catalog)
            .unwrap_err()
            .to_string()
            .contains("too new")
    );
    fs::write(&path, "").unwrap();
    assert!(disk::load(&path, &mut catalog).is_err());
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn no_file_is_no_error() {
    let mut catalog = Catalog::new(OWN, "lcl");
    assert_eq!(disk::load(&scratch("absent"), &mut catalog).unwrap(), None);
}
