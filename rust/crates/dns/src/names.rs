//! What a name of the platform's zones asks for (spec/network.md §4). Pure.

use std::borrow::Cow;

use hickory_proto::rr::Name;

/// A name of `.internal` or `.flycast`, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// Addresses of an app's machines.
    Machines {
        app: &'a str,
        of: Selector<'a>,
    },
    /// `vms.<app>.internal` and `all.vms.…`.
    Vms {
        app: &'a str,
        all: bool,
    },
    /// `regions.<app>.internal` and `all.regions.…`.
    Regions {
        app: &'a str,
        all: bool,
    },
    /// `_apps.internal`.
    Apps,
    /// `_instances.internal` and `all._instances.internal`.
    Instances {
        all: bool,
    },
    /// `<app>.flycast`.
    Flycast {
        app: &'a str,
    },
    /// A name between two that exist: no data of its own.
    Between {
        app: Option<&'a str>,
    },
    Nothing,
}

/// Which of an app's machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selector<'a> {
    All,
    Region(&'a str),
    Machine(&'a str),
    Group(&'a str),
    Metadata { key: &'a str, value: Cow<'a, str> },
    Nearest(usize),
}

/// The zone that this server answers for by itself and that a name is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zone {
    Internal,
    Flycast,
    /// Names of private addresses; there are none.
    Reverse,
}

impl Zone {
    pub(crate) fn of(labels: &[&str]) -> Option<Self> {
        match labels {
            [.., "internal"] => Some(Zone::Internal),
            [.., "flycast"] => Some(Zone::Flycast),
            [.., "a", "a", "d", "f", "ip6", "arpa"] => Some(Zone::Reverse),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Zone::Internal => "internal.",
            Zone::Flycast => "flycast.",
            Zone::Reverse => "a.a.d.f.ip6.arpa.",
        }
    }
}

/// The labels of a name, lower case, in the order they are written.
pub(crate) fn labels(name: &Name) -> Vec<String> {
    let lower = |label: &[u8]| String::from_utf8_lossy(label).to_lowercase();
    name.iter().map(lower).collect()
}

/// What the labels of a name in a zone ask for.
pub(crate) fn asked<'a>(zone: Zone, labels: &[&'a str]) -> Asked<'a> {
    let inner = &labels[..labels.len().saturating_sub(1)];
    match (zone, inner) {
        (Zone::Reverse, _) => Asked::Nothing,
        (_, []) => Asked::Between { app: None },
        (Zone::Flycast, [app]) => Asked::Flycast { app },
        (Zone::Flycast, _) => Asked::Nothing,
        (Zone::Internal, inner) => internal(inner),
    }
}

fn internal<'a>(labels: &[&'a str]) -> Asked<'a> {
    match labels {
        ["_apps"] => Asked::Apps,
        ["_instances"] => Asked::Instances { all: false },
        ["all", "_instances"] => Asked::Instances { all: true },
        [app] | ["global", app] => machines(app, Selector::All),
        ["vms", app] => Asked::Vms { app, all: false },
        ["all", "vms", app] => Asked::Vms { app, all: true },
        ["regions", app] => Asked::Regions { app, all: false },
        ["all", "regions", app] => Asked::Regions { app, all: true },
        [id, "vm", app] => machines(app, Selector::Machine(id)),
        [group, "process", app] => machines(app, Selector::Group(group)),
        [top, "nearest", "of", app] => match top.strip_prefix("top").map(str::parse) {
            Some(Ok(count)) => machines(app, Selector::Nearest(count)),
            _ => Asked::Nothing,
        },
        [value @ .., key, "kv", "_metadata", app] if !value.is_empty() => {
            let value = match value {
                [whole] => Cow::Borrowed(*whole),
                parts => Cow::Owned(parts.join(".")),
            };
            machines(app, Selector::Metadata { key, value })
        }
        ["vm" | "process" | "of" | "all" | "_metadata", app]
        | ["nearest", "of", app]
        | ["kv", "_metadata", app]
        | [_, "kv", "_metadata", app] => Asked::Between { app: Some(app) },
        [region, app] => machines(app, Selector::Region(region)),
        _ => Asked::Nothing,
    }
}

fn machines<'a>(app: &'a str, of: Selector<'a>) -> Asked<'a> {
    Asked::Machines { app, of }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn is(name: &str, wanted: &Asked) {
        let labels = labels(&Name::from_str(name).unwrap());
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        assert_eq!(
            asked(Zone::of(&labels).unwrap(), &labels),
            *wanted,
            "{name}"
        );
    }

    #[test]
    fn every_name_of_the_table_is_understood() {
        let app = || "web";
        let selected = |of| Asked::Machines { app: app(), of };
        for (name, wanted) in [
            ("web.internal.", selected(Selector::All)),
            ("WEB.Internal.", selected(Selector::All)),
            ("global.web.internal.", selected(Selector::All)),
            ("fra.web.internal.", selected(Selector::Region("fra"))),
            (
                "top3.nearest.of.web.internal.",
                selected(Selector::Nearest(3)),
            ),
            (
                "148ed1.vm.web.internal.",
                selected(Selector::Machine("148ed1")),
            ),
            (
                "worker.process.web.internal.",
                selected(Selector::Group("worker")),
            ),
            (
                "vms.web.internal.",
                Asked::Vms {
                    app: app(),
                    all: false,
                },
            ),
            (
                "all.vms.web.internal.",
                Asked::Vms {
                    app: app(),
                    all: true,
                },
            ),
            (
                "regions.web.internal.",
                Asked::Regions {
                    app: app(),
                    all: false,
                },
            ),
            (
                "all.regions.web.internal.",
                Asked::Regions {
                    app: app(),
                    all: true,
                },
            ),
            ("_apps.internal.", Asked::Apps),
            ("_instances.internal.", Asked::Instances { all: false }),
            ("all._instances.internal.", Asked::Instances { all: true }),
            ("web.flycast.", Asked::Flycast { app: app() }),
            ("vm.web.internal.", Asked::Between { app: Some(app()) }),
            ("internal.", Asked::Between { app: None }),
            ("x.vm.y.web.internal.", Asked::Nothing),
            ("topx.nearest.of.web.internal.", Asked::Nothing),
            ("a.web.flycast.", Asked::Nothing),
        ] {
            is(name, &wanted);
        }
    }

    #[test]
    fn a_metadata_value_may_have_dots() {
        let of_metadata = |key: &'static str, value: &'static str| {
            let value = value.into();
            let of = Selector::Metadata { key, value };
            Asked::Machines { app: "web", of }
        };
        is(
            "v1.release.kv._metadata.web.internal.",
            &of_metadata("release", "v1"),
        );
        is(
            "1.2.3.v.kv._metadata.web.internal.",
            &of_metadata("v", "1.2.3"),
        );
    }

    #[test]
    fn only_the_platforms_zones_are_answered_here() {
        let zone = |name: &str| {
            let labels = labels(&Name::from_str(name).unwrap());
            Zone::of(&labels.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert_eq!(zone("example.com."), None);
        assert_eq!(zone("internal.example.com."), None);
        assert_eq!(zone("."), None);
        assert_eq!(zone("2.0.a.a.d.f.ip6.arpa."), Some(Zone::Reverse));
        assert_eq!(zone("2.0.a.b.d.f.ip6.arpa."), None);
    }

    proptest! {
        #[test]
        fn any_labels_are_understood_as_something(
            inner in proptest::collection::vec("[a-z0-9_]{1,12}", 0..8)
        ) {
            let mut labels: Vec<&str> = inner.iter().map(String::as_str).collect();
            labels.push("internal");
            asked(Zone::Internal, &labels);
        }
    }
}
