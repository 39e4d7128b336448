//! Where a connection's last request led.
//!
//! Nearly all requests of a connection name the same host, and the view seldom changes between
//! two of them: then nothing is taken apart, hashed or looked up.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use godwit_catalog::View;

use crate::machines::targets::Targets;

/// A host that a request named, and what its app has at the connection's port.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Normalised.
    pub(crate) host: Arc<str>,
    pub(crate) targets: Arc<Targets>,
}

/// What the last request named, for the next one.
#[derive(Debug, Default)]
pub(crate) struct Last(Mutex<Option<Held>>);

/// Weak, so that a connection without requests holds no view and no targets that are replaced.
#[derive(Debug)]
struct Held {
    authority: Box<[u8]>,
    host: Arc<str>,
    /// As long as this is here no other view has its address.
    view: Weak<View>,
    targets: Weak<Targets>,
}

impl Last {
    /// Where an authority leads, if the last request named the same by the same view.
    pub(crate) fn get(&self, authority: &[u8], view: &Arc<View>) -> Option<Named> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = last.as_ref()?;
        if held.view.as_ptr() != Arc::as_ptr(view) || *held.authority != *authority {
            return None;
        }
        Some(Named {
            host: held.host.clone(),
            targets: held.targets.upgrade()?,
        })
    }

    /// Keep where an authority leads by this view, or by a newer one.
    pub(crate) fn keep(&self, authority: &[u8], view: &Arc<View>, named: &Named) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (view, targets) = (Arc::downgrade(view), Arc::downgrade(&named.targets));
        match &mut *last {
            Some(held) if *held.authority == *authority => {
                (held.view, held.targets) = (view, targets);
            }
            other => {
                *other = Some(Held {
                    authority: authority.into(),
                    host: named.host.clone(),
                    view,
                    targets,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use godwit_catalog::Catalog;
    use godwit_wire::facts::Fact;
    use serde_json::json;

    use super::*;
    use crate::backhaul::Standings;
    use crate::machines::load::Loads;
    use crate::machines::targets::{Ground, Handling, TargetCache};
    use crate::machines::upstream::Pool;
    use crate::metrics::Metrics;

    fn view(revision: u64) -> Arc<View> {
        let fact: Fact = serde_json::from_value(json!({
            "kind": "app", "owner": "control", "epoch": 1, "revision": revision,
            "org_id": "org_1", "network_id": "net_1", "network_number": 1,
            "app_id": "app_1", "app": "hello",
        }))
        .unwrap();
        let mut catalog = Catalog::new("own", "lcl");
        catalog.apply_kept(&fact);
        Arc::new(catalog.view().clone())
    }

    fn named(view: &View) -> Named {
        let (loads, pool) = (Loads::default(), Pool::default());
        let (standings, metrics) = (Standings::default(), Metrics::default());
        let ground = Ground {
            view,
            host_id: "own",
            region: "lcl",
            loads: &loads,
            pool: &pool,
            standings: &standings,
            metrics: &metrics,
        };
        let app = view.app("hello").unwrap();
        Named {
            host: "hello.example".into(),
            targets: TargetCache::default().get(app, (80, Handling::Http), ground),
        }
    }

    fn led(last: &Last, authority: &str, view: &Arc<View>) -> Option<(Arc<str>, Arc<Targets>)> {
        let named = last.get(authority.as_bytes(), view)?;
        Some((named.host, named.targets))
    }

    #[test]
    fn it_is_for_the_same_words_and_the_same_view() {
        let (last, before, after) = (Last::default(), view(1), view(1));
        let first = named(&before);
        assert!(led(&last, "Hello.example", &before).is_none());
        last.keep(b"Hello.example", &before, &first);
        let (host, targets) = led(&last, "Hello.example", &before).unwrap();
        assert_eq!(&*host, "hello.example");
        assert!(Arc::ptr_eq(&targets, &first.targets));
        assert!(led(&last, "other.example", &before).is_none());
        assert!(led(&last, "Hello.example", &after).is_none());

        let second = named(&after);
        last.keep(b"Hello.example", &after, &second);
        let (_, targets) = led(&last, "Hello.example", &after).unwrap();
        assert!(Arc::ptr_eq(&targets, &second.targets));
        last.keep(b"hello.example:80", &after, &second);
        assert!(led(&last, "Hello.example", &after).is_none());
        assert!(led(&last, "hello.example:80", &after).is_some());
    }

    #[test]
    fn it_holds_nothing_that_others_have_let_go() {
        let (last, view) = (Last::default(), view(1));
        let named = named(&view);
        last.keep(b"hello.example", &view, &named);
        let targets = Arc::downgrade(&named.targets);
        drop(named);
        assert!(targets.upgrade().is_none());
        assert!(led(&last, "hello.example", &view).is_none());
    }
}
