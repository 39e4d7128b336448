//! Which replays a port has the edge remember for one client: by a cookie or a header
//! (`http_options.replay_cache`, spec/network.md §2.5). Pure.

use std::sync::Arc;
use std::time::Duration;

use godwit_wire::facts::{ReplayCache, ReplayCacheBy};
use hyper::header::{COOKIE, HeaderMap};

use crate::replay::ask::ttl;

/// Who has a longer value is asked for anew each time.
const LONGEST_VALUE: usize = 1024;

/// Whose requests go the same way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The app that is asked: at an address of its own it may have any host name.
    app: Arc<str>,
    host: Box<str>,
    prefix: Box<str>,
    by: ReplayCacheBy,
    name: Box<str>,
    value: Box<str>,
}

/// What may be remembered for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) key: Key,
    pub(crate) ttl: Duration,
    /// Clients may ask to go by the app all the same.
    pub(crate) bypass: bool,
}

impl Session {
    /// By the longest beginning of the path whose cookie or header the client sends.
    pub(crate) fn of(
        caches: &[ReplayCache],
        app: &Arc<str>,
        host: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Option<Self> {
        let fits = |cache: &&ReplayCache| path.starts_with(prefix(cache));
        let told = |cache| Some((cache, value(cache, headers)?));
        let told = caches.iter().filter(fits).filter_map(told);
        let (cache, value) = told.max_by_key(|(cache, _)| prefix(cache).len())?;
        Some(Session {
            key: Key {
                app: app.clone(),
                host: host.into(),
                prefix: prefix(cache).into(),
                by: cache.by,
                name: cache.name.as_str().into(),
                value: value.into(),
            },
            ttl: ttl(cache.ttl_seconds.into()),
            bypass: cache.allow_bypass,
        })
    }
}

fn prefix(cache: &ReplayCache) -> &str {
    cache.path_prefix.trim_end_matches('*')
}

fn value<'a>(cache: &ReplayCache, headers: &'a HeaderMap) -> Option<&'a str> {
    let value = match cache.by {
        ReplayCacheBy::Header => headers.get(&cache.name)?.to_str().ok()?,
        ReplayCacheBy::Cookie => cookie(&cache.name, headers)?,
    };
    (1..=LONGEST_VALUE).contains(&value.len()).then_some(value)
}

fn cookie<'a>(name: &str, headers: &'a HeaderMap) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter();
    let pairs = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let mut named = pairs.filter(|(key, _)| *key == name);
    named.next().map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn cache(path: &str, by: ReplayCacheBy, name: &str) -> ReplayCache {
        ReplayCache {
            path_prefix: path.to_owned(),
            ttl_seconds: 1,
            by,
            name: name.to_owned(),
            allow_bypass: false,
        }
    }

    fn session(path: &str, lines: &[(&'static str, &str)]) -> Option<Session> {
        let caches = [
            cache("/", ReplayCacheBy::Cookie, "sid"),
            cache("/api/*", ReplayCacheBy::Header, "x-tenant"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        Session::of(&caches, &"app".into(), "a.example", path, &headers)
    }

    #[test]
    fn the_longest_path_of_which_the_client_has_the_value_counts() {
        let both = [("cookie", "a=b; sid=1; sid=2"), ("x-tenant", "acme")];
        let of = |path, lines: &[_]| session(path, lines).map(|found| found.key);
        let api = of("/api/x", &both).unwrap();
        assert_eq!((&*api.prefix, &*api.value), ("/api/", "acme"));
        let page = of("/page", &both).unwrap();
        assert_eq!(
            (&*page.prefix, &*page.name, &*page.value),
            ("/", "sid", "1")
        );
        assert_eq!(of("/api/x", &both[..1]).unwrap().prefix, page.prefix);
        assert_ne!(of("/page", &[("cookie", "sid=2")]).unwrap(), page);
    }

    #[test]
    fn who_has_no_value_or_too_long_a_one_has_no_session() {
        let long = format!("sid={}", "x".repeat(LONGEST_VALUE + 1));
        for cookie in ["", "sid", "sid=", "xsid=1", &long] {
            assert_eq!(session("/", &[("cookie", cookie)]), None, "{cookie}");
        }
        assert_eq!(session("/api/", &[]), None);
    }

    #[test]
    fn a_short_time_is_lengthened() {
        let found = session("/", &[("cookie", "sid=1")]).unwrap();
        assert_eq!(found.ttl, Duration::from_secs(10));
    }

    proptest! {
        #[test]
        fn no_cookie_is_a_surprise(line in "[ -~]{0,80}") {
            let _ = session("/", &[("cookie", &line)]);
        }
    }
}
