//! Replays that apps let the edge remember: by host and the beginning of a path, for all clients
//! or for one by its cookie or header.
//!
//! Best effort: an edge holds so many, each until its time is over, and asks the app again for
//! what it has not.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::machines::wish::Wish;
use crate::replay::session::Key;

const MOST: usize = 16_384;
const MOST_PER_HOST: usize = 256;

/// Where remembered requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) app: Arc<str>,
    pub(crate) wish: Wish,
    pub(crate) until: Instant,
    /// Clients may ask to go by the app all the same.
    pub(crate) bypass: bool,
}

/// By host, the beginnings of paths.
type Hosts = HashMap<Arc<str>, Vec<(Box<str>, Remembered)>>;

/// All that an edge remembers.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    hosts: Mutex<Hosts>,
    sessions: Mutex<HashMap<Key, Remembered>>,
    /// So that an edge whose apps remember nothing takes no lock.
    held: AtomicUsize,
}

impl Cache {
    /// What is remembered for a request: the longest beginning of its path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Remembered> {
        if self.held.load(Relaxed) == 0 {
            return None;
        }
        let now = Instant::now();
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |(prefix, held): &&(Box<str>, Remembered)| {
            held.until > now && path.starts_with(&**prefix)
        };
        let found = hosts.get(host)?.iter().filter(fits);
        found
            .max_by_key(|(prefix, _)| prefix.len())
            .map(|(_, held)| held.clone())
    }

    /// Remember; what has run out makes room, and without room nothing is remembered.
    pub(crate) fn put(&self, host: &str, prefix: &str, remembered: Remembered) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if self.held.load(Relaxed) >= MOST {
            let now = Instant::now();
            hosts.retain(|_, held| {
                held.retain(|(_, one)| one.until > now);
                !held.is_empty()
            });
            self.count(&hosts);
            if self.held.load(Relaxed) >= MOST {
                return;
            }
        }
        let held = hosts.entry(host.into()).or_default();
        held.retain(|(other, one)| **other != *prefix && one.until > Instant::now());
        if held.len() < MOST_PER_HOST {
            held.push((prefix.into(), remembered));
        }
        self.count(&hosts);
    }

    /// Forget all that is remembered for a request.
    pub(crate) fn forget(&self, host: &str, path: &str) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = hosts.get_mut(host) {
            held.retain(|(prefix, _)| !path.starts_with(&**prefix));
            if held.is_empty() {
                hosts.remove(host);
            }
        }
        self.count(&hosts);
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

    fn count(&self, hosts: &Hosts) {
        self.held.store(hosts.values().map(Vec::len).sum(), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn to(app: &str, seconds: u64) -> Remembered {
        Remembered {
            app: app.into(),
            wish: Wish::default(),
            until: Instant::now() + Duration::from_secs(seconds),
            bypass: false,
        }
    }

    #[test]
    fn the_longest_beginning_counts_and_only_on_its_host() {
        let cache = Cache::default();
        let app = |path| {
            cache
                .find("a.example", path)
                .map(|held| held.app.to_string())
        };
        assert_eq!(app("/a/b"), None);
        cache.put("a.example", "/a/", to("one", 60));
        cache.put("a.example", "/a/b", to("two", 60));
        assert_eq!(app("/a/x").as_deref(), Some("one"));
        assert_eq!(app("/a/b/c").as_deref(), Some("two"));
        assert_eq!(app("/b"), None);
        assert_eq!(cache.find("b.example", "/a/x"), None);
        cache.forget("a.example", "/a/b/c");
        assert_eq!(app("/a/b/c"), None);
    }

    #[test]
    fn what_has_run_out_is_not_there_and_there_is_an_end_to_it() {
        let cache = Cache::default();
        cache.put("a.example", "/", to("one", 0));
        assert_eq!(cache.find("a.example", "/x"), None);
        for number in 0..2 * MOST_PER_HOST {
            cache.put("a.example", &format!("/{number}/"), to("one", 60));
        }
        assert_eq!(cache.held.load(Relaxed), MOST_PER_HOST);
    }
}
