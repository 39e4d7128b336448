//! Replays that apps let the edge remember: by the app that is asked, host and the beginning of a
//! path, for all clients or for one by its cookie or header.
//!
//! Best effort: an edge holds so many, each until its time is over, and asks the app again for
//! what it has not. What one app is asked never leads another's requests anywhere: at an address of
//! its own it may be asked by any host name. Nor does it take all the room.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::machines::wish::Wish;
use crate::replay::session::Key;

const MOST: usize = 16_384;
/// Of these of one app that is asked, and of one of its hosts.
const MOST_OF_APP: usize = 4_096;
const MOST_PER_HOST: usize = 256;
/// Room is made by looking at everything, which is not done for each that finds none.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Where remembered requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) app: Arc<str>,
    pub(crate) wish: Wish,
    pub(crate) until: Instant,
    /// Clients may ask to go by the app all the same.
    pub(crate) bypass: bool,
}

/// What paths begin with, and where such requests go.
type Prefixes = Vec<(Box<str>, Remembered)>;

/// What is remembered of the paths of one app that is asked first.
#[derive(Debug, Default)]
struct Paths {
    hosts: HashMap<Box<str>, Prefixes>,
    held: usize,
}

#[derive(Debug, Default)]
struct Apps {
    asked: HashMap<Arc<str>, Paths>,
    held: usize,
    swept: Option<Instant>,
}

/// All that an edge remembers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    apps: Mutex<Apps>,
    sessions: Mutex<HashMap<Key, Remembered>>,
    /// So that an edge whose apps remember nothing takes no lock.
    held: AtomicUsize,
}

impl Cache {
    /// What is remembered for a request for which `asked` would be asked first: the longest
    /// beginning of its path.
    pub(crate) fn find(&self, asked: &str, host: &str, path: &str) -> Option<Remembered> {
        if self.held.load(Relaxed) == 0 {
            return None;
        }
        let now = Instant::now();
        let apps = self.apps();
        let fits = |(prefix, held): &&(Box<str>, Remembered)| {
            held.until > now && path.starts_with(&**prefix)
        };
        let found = apps.asked.get(asked)?.hosts.get(host)?.iter().filter(fits);
        found
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, held)| held.clone())
    }

    /// Remember; what has run out makes room, and without room nothing is remembered.
    pub(crate) fn put(&self, asked: &Arc<str>, host: &str, prefix: &str, remembered: Remembered) {
        let now = Instant::now();
        let mut apps = self.apps();
        if !apps.has_room(asked) {
            apps.sweep(now);
        }
        if apps.has_room(asked) {
            let paths = apps.asked.entry(asked.clone()).or_default();
            let held = paths.hosts.entry(host.into()).or_default();
            let before = held.len();
            held.retain(|(other, one)| **other != *prefix && one.until > now);
            if held.len() < MOST_PER_HOST {
                held.push((prefix.into(), remembered));
            }
            let after = held.len();
            paths.held = paths.held - before + after;
            apps.held = apps.held - before + after;
        }
        self.held.store(apps.held, Relaxed);
    }

    /// Forget all that is remembered for a request.
    pub(crate) fn forget(&self, asked: &str, host: &str, path: &str) {
        let mut apps = self.apps();
        let Some(paths) = apps.asked.get_mut(asked) else {
            return;
        };
        let Some(held) = paths.hosts.get_mut(host) else {
            return;
        };
        let before = held.len();
        held.retain(|(prefix, _)| !path.starts_with(&**prefix));
        let (gone, is_empty) = (before - held.len(), held.is_empty());
        paths.held -= gone;
        if is_empty {
            paths.hosts.remove(host);
        }
        if paths.hosts.is_empty() {
            apps.asked.remove(asked);
        }
        apps.held -= gone;
        self.held.store(apps.held, Relaxed);
    }

    fn apps(&self) -> MutexGuard<'_, Apps> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is remembered for a client.
    pub(crate) fn find_session(&self, key: &Key) -> Option<Remembered> {
        let sessions = self.sessions.lock();
        let sessions = sessions.unwrap_or_else(PoisonError::into_inner);
        let held = sessions.get(key)?;
        (held.until > Instant::now()).then(|| held.clone())
    }

    /// Remember for a client; room is made as for others.
    pub(crate) fn put_session(&self, key: Key, remembered: Remembered) {
        let sessions = self.sessions.lock();
        let mut sessions = sessions.unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= MOST {
            let now = Instant::now();
            sessions.retain(|_, held| held.until > now);
        }
        if sessions.len() < MOST || sessions.contains_key(&key) {
            sessions.insert(key, remembered);
        }
    }

    /// Forget what is remembered for a client.
    pub(crate) fn forget_session(&self, key: &Key) {
        let sessions = self.sessions.lock();
        sessions.unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Apps {
    fn has_room(&self, asked: &str) -> bool {
        let of_app = self.asked.get(asked).map_or(0, |paths| paths.held);
        self.held < MOST && of_app < MOST_OF_APP
    }

    /// Drop what has run out, unless that was done a moment ago.
    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|then| now - then < SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        self.asked.retain(|_, paths| {
            paths.hosts.retain(|_, held| {
                held.retain(|(_, one)| one.until > now);
                !held.is_empty()
            });
            paths.held = paths.hosts.values().map(Vec::len).sum();
            paths.held > 0
        });
        self.held = self.asked.values().map(|paths| paths.held).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn to(app: &str, seconds: u64) -> Remembered {
        Remembered {
            app: app.into(),
            wish: Wish::default(),
            until: Instant::now() + Duration::from_secs(seconds),
            bypass: false,
        }
    }

    fn name(app: &str) -> Arc<str> {
        app.into()
    }

    #[test]
    fn the_longest_beginning_counts_and_only_on_its_host() {
        let cache = Cache::default();
        let app = |path| {
            cache
                .find("asked", "a.example", path)
                .map(|held| held.app.to_string())
        };
        assert_eq!(app("/a/b"), None);
        cache.put(&name("asked"), "a.example", "/a/", to("one", 60));
        cache.put(&name("asked"), "a.example", "/a/b", to("two", 60));
        assert_eq!(app("/a/x").as_deref(), Some("one"));
        assert_eq!(app("/a/b/c").as_deref(), Some("two"));
        assert_eq!(app("/b"), None);
        assert_eq!(cache.find("asked", "b.example", "/a/x"), None);
        cache.forget("asked", "a.example", "/a/b/c");
        assert_eq!(app("/a/b/c"), None);
    }

    #[test]
    fn what_one_app_is_asked_by_a_name_says_nothing_of_another_that_has_the_name() {
        let cache = Cache::default();
        let (own, foreign) = (name("own"), name("foreign"));
        cache.put(&foreign, "a.example", "/", to("trap", 60));
        assert_eq!(cache.find("own", "a.example", "/x"), None);
        cache.put(&own, "a.example", "/", to("good", 60));
        cache.put(&foreign, "a.example", "/", to("trap", 60));
        cache.forget("foreign", "a.example", "/");
        let found = cache.find("own", "a.example", "/x");
        assert_eq!(found.map(|held| held.app), Some(name("good")));
    }

    #[test]
    fn an_app_that_floods_the_cache_leaves_room_for_others() {
        let cache = Cache::default();
        for number in 0..2 * MOST {
            let host = format!("{}.example", number / 100);
            cache.put(&name("flood"), &host, &format!("/{number}/"), to("one", 60));
        }
        assert_eq!(cache.held.load(Relaxed), MOST_OF_APP);
        cache.put(&name("own"), "a.example", "/", to("two", 60));
        assert!(cache.find("own", "a.example", "/").is_some());
    }

    #[test]
    fn what_has_run_out_is_not_there_and_there_is_an_end_to_it() {
        let cache = Cache::default();
        let own = name("own");
        cache.put(&own, "a.example", "/", to("one", 0));
        assert_eq!(cache.find("own", "a.example", "/x"), None);
        for number in 0..2 * MOST_PER_HOST {
            cache.put(&own, "a.example", &format!("/{number}/"), to("one", 60));
        }
        assert_eq!(cache.held.load(Relaxed), MOST_PER_HOST);
    }

    #[test]
    fn what_has_run_out_makes_room() {
        let cache = Cache::default();
        for number in 0..MOST_OF_APP {
            let host = format!("{number}.example");
            cache.put(&name("own"), &host, "/", to("one", 0));
        }
        assert_eq!(cache.held.load(Relaxed), MOST_OF_APP);
        cache.put(&name("own"), "a.example", "/", to("one", 60));
        assert!(cache.find("own", "a.example", "/").is_some());
    }

    proptest! {
        #[test]
        fn it_knows_how_many_it_holds(
            steps in proptest::collection::vec((any::<bool>(), 0..3u8, 0..3u8, 0..4u8), 0..60),
        ) {
            let cache = Cache::default();
            for (puts, app, host, path) in steps {
                let (app, host) = (name(&format!("app{app}")), format!("{host}.example"));
                let path = "/a".repeat(path.into());
                if puts {
                    cache.put(&app, &host, &path, to("one", 60));
                } else {
                    cache.forget(&app, &host, &path);
                }
                let apps = cache.apps();
                let counted = |paths: &Paths| paths.hosts.values().map(Vec::len).sum::<usize>();
                for paths in apps.asked.values() {
                    prop_assert_eq!(paths.held, counted(paths));
                }
                let all: usize = apps.asked.values().map(counted).sum();
                prop_assert_eq!((apps.held, cache.held.load(Relaxed)), (all, all));
            }
        }
    }
}
