//! What an app asks for with `fly-replay`: the header's grammar, and what makes no sense. Pure.

use std::time::Duration;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};

const REPLAY: HeaderName = HeaderName::from_static("fly-replay");
const CACHE: HeaderName = HeaderName::from_static("fly-replay-cache");
const CACHE_TTL: HeaderName = HeaderName::from_static("fly-replay-cache-ttl-secs");
const CACHE_BYPASS: HeaderName = HeaderName::from_static("fly-replay-cache-allow-bypass");

const MOST_FIELDS: usize = 32;
const MOST_HEADERS: usize = 64;
/// A shorter time to live is lengthened to this.
const SHORTEST_TTL: Duration = Duration::from_secs(10);
const LONGEST_TTL: Duration = Duration::from_hours(24);
/// Names that an app may not set for the next: they say who sends what, or how it is framed.
const NOT_SETTABLE: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "expect",
    "via",
    "x-forwarded-for",
];

/// A mistake in what an app asks for, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong(pub(crate) String);

/// What to do when no machine is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Back to the machine that asked, and no other.
    ForceSelf,
    /// Back to that machine, or any of its app.
    PreferSelf,
}

/// What is to be remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remember {
    /// Requests whose host and path begin like this go the same way.
    Prefix {
        /// `None` for the host of the request.
        host: Option<String>,
        path: String,
        ttl: Duration,
        bypass: bool,
    },
    /// What is remembered for this request is forgotten.
    Forget,
}

/// Changes of the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transform {
    pub(crate) path: Option<String>,
    pub(crate) delete: Vec<HeaderName>,
    pub(crate) set: Vec<(HeaderName, HeaderValue)>,
}

/// A replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replay {
    pub(crate) app: Option<String>,
    pub(crate) regions: Option<String>,
    pub(crate) instance: Option<String>,
    pub(crate) prefer_instance: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) elsewhere: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) fallback: Option<Fallback>,
    pub(crate) transform: Transform,
    pub(crate) remember: Option<Remember>,
}

impl Replay {
    /// What a response asks for with its headers; `None` if it asks for nothing.
    pub(crate) fn of_headers(headers: &HeaderMap) -> Option<Result<Self, Wrong>> {
        let value = headers.get(REPLAY)?;
        Some(Replay::read(value, headers))
    }

    fn read(value: &HeaderValue, headers: &HeaderMap) -> Result<Self, Wrong> {
        let text = value.to_str().map_err(|_| wrong("it is not text"))?;
        let mut replay = parse(text)?;
        let word = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(pattern) = word(CACHE) {
            let ttl = word(CACHE_TTL).map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| wrong(format!("cache ttl {text:?}")))
            });
            let bypass = word(CACHE_BYPASS).is_some_and(is_yes);
            replay.remember = Some(remember(pattern.trim(), ttl.transpose()?, bypass)?);
        }
        replay.judged()
    }

    /// The replay, if it can be followed.
    pub(crate) fn judged(self) -> Result<Self, Wrong> {
        if self.instance.is_some() && self.prefer_instance.is_some() {
            return Err(wrong("instance and prefer_instance contradict each other"));
        }
        if self.instance.is_some() && self.elsewhere {
            return Err(wrong("instance and elsewhere contradict each other"));
        }
        let leads = self.app.is_some()
            || self.regions.is_some()
            || self.instance.is_some()
            || self.prefer_instance.is_some()
            || self.elsewhere;
        if !leads {
            return Err(wrong("it names no app, region, instance or elsewhere"));
        }
        Ok(self)
    }

    /// Whether the same may be done for other requests without asking the app again.
    pub(crate) fn is_plain(&self) -> bool {
        self.state.is_none()
            && self.timeout.is_none()
            && self.fallback.is_none()
            && self.transform == Transform::default()
    }

    /// Set one field by its name.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let text = || Some(value.to_owned());
        match name {
            _ if value.is_empty() => return Err(wrong(format!("{name} is empty"))),
            "app" => self.app = text(),
            "region" => self.regions = text(),
            "instance" => self.instance = text(),
            "prefer_instance" => self.prefer_instance = text(),
            "state" => self.state = text(),
            "elsewhere" => self.elsewhere = boolean(name, value)?,
            "timeout" => self.timeout = Some(duration(value)?),
            "fallback" => self.fallback = Some(fallback(value)?),
            _ => return Err(wrong(format!("{name} is no field of it"))),
        }
        Ok(())
    }
}

impl Transform {
    /// Set a header on the request.
    pub(crate) fn set_header(&mut self, name: &str, value: &str) -> Result<(), Wrong> {
        let name = settable(name)?;
        let value = HeaderValue::from_str(value)
            .map_err(|_| wrong(format!("the value of the header {name}")))?;
        if self.set.len() >= MOST_HEADERS {
            return Err(wrong("too many headers"));
        }
        self.set.push((name, value));
        Ok(())
    }

    /// Delete a header of the request.
    pub(crate) fn delete_header(&mut self, name: &str) -> Result<(), Wrong> {
        let name = settable(name)?;
        if self.delete.len() >= MOST_HEADERS {
            return Err(wrong("too many headers"));
        }
        self.delete.push(name);
        Ok(())
    }

    /// Rewrite path and query.
    pub(crate) fn set_path(&mut self, path: &str) -> Result<(), Wrong> {
        let fits = path.starts_with('/') && path.parse::<hyper::Uri>().is_ok();
        if !fits {
            return Err(wrong(format!("transform.path {path:?} is no path")));
        }
        self.path = Some(path.to_owned());
        Ok(())
    }
}

fn settable(name: &str) -> Result<HeaderName, Wrong> {
    let parsed: HeaderName = name
        .parse()
        .map_err(|_| wrong(format!("the header {name:?}")))?;
    let text = parsed.as_str();
    let ours = text.starts_with("fly-") || text.starts_with("godwit-");
    if ours || NOT_SETTABLE.contains(&text) {
        return Err(wrong(format!(
            "the header {text} is not an app's to change"
        )));
    }
    Ok(parsed)
}

/// What to remember of a replay.
pub(crate) fn remember(
    pattern: &str,
    ttl_s: Option<u64>,
    bypass: bool,
) -> Result<Remember, Wrong> {
    if pattern == "invalidate" {
        return Ok(Remember::Forget);
    }
    let (host, path) = match pattern.find('/') {
        Some(0) => (None, pattern),
        Some(at) => (Some(pattern[..at].to_ascii_lowercase()), &pattern[at..]),
        None => return Err(wrong(format!("cache pattern {pattern:?} has no path"))),
    };
    if host.as_ref().is_some_and(|host| host.contains(':')) {
        return Err(wrong("a cache pattern's host has no port"));
    }
    let ttl_s = ttl_s.ok_or_else(|| wrong("a cache needs its time to live"))?;
    Ok(Remember::Prefix {
        host,
        path: path.trim_end_matches('*').to_owned(),
        ttl: ttl(ttl_s),
        bypass,
    })
}

/// So long something is remembered that is to be for so many seconds.
pub(crate) fn ttl(seconds: u64) -> Duration {
    Duration::from_secs(seconds).clamp(SHORTEST_TTL, LONGEST_TTL)
}

/// `key=value;key="value, value"`.
fn parse(text: &str) -> Result<Replay, Wrong> {
    let mut replay = Replay::default();
    for (number, field) in fields(text)?.into_iter().enumerate() {
        if number >= MOST_FIELDS {
            return Err(wrong("it has too many fields"));
        }
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| wrong(format!("{field:?} is no key=value")))?;
        replay.set(name.trim(), unquoted(value.trim())?)?;
    }
    Ok(replay)
}

/// Split at semicolons outside of quotes; empty fields are left out.
fn fields(text: &str) -> Result<Vec<&str>, Wrong> {
    let (mut found, mut begun, mut quoted) = (Vec::new(), 0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b';' if !quoted => {
                found.push(text[begun..at].trim());
                begun = at + 1;
            }
            _ => {}
        }
    }
    if quoted {
        return Err(wrong("a quote is not closed"));
    }
    found.push(text[begun..].trim());
    found.retain(|field| !field.is_empty());
    Ok(found)
}

fn unquoted(value: &str) -> Result<&str, Wrong> {
    let inner = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let inner = inner.unwrap_or(value);
    if inner.contains('"') {
        return Err(wrong(format!("the quotes of {value:?}")));
    }
    Ok(inner.trim())
}

/// `800ms`, `10s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let number: Option<u64> = number.parse().ok().filter(|number| *number <= 86_400_000);
    match (number, unit) {
        (Some(number), "ms") => Ok(Duration::from_millis(number)),
        (Some(number), "s") => Ok(Duration::from_secs(number)),
        (Some(number), "m") => Ok(Duration::from_secs(number * 60)),
        _ => Err(wrong(format!(
            "{text:?} is no duration such as 800ms or 10s"
        ))),
    }
}

fn fallback(text: &str) -> Result<Fallback, Wrong> {
    match text {
        "force_self" => Ok(Fallback::ForceSelf),
        "prefer_self" => Ok(Fallback::PreferSelf),
        _ => Err(wrong(format!(
            "fallback {text:?} is neither force_self nor prefer_self"
        ))),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(wrong(format!("{name} is true or false, not {text:?}"))),
    }
}

fn is_yes(text: &str) -> bool {
    ["yes", "true"].contains(&text.trim().to_ascii_lowercase().as_str())
}

pub(crate) fn wrong(what: impl Into<String>) -> Wrong {
    Wrong(what.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(lines: &[(&'static str, &'static str)]) -> Result<Replay, Wrong> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        Replay::of_headers(&headers).unwrap()
    }

    #[test]
    fn every_field_is_read() {
        let text = r#"app=other; region="fra, eu,any";prefer_instance=m1;state=a=b c;
            timeout=800ms;fallback=prefer_self;elsewhere=true;"#;
        let replay = parse(text).unwrap();
        let wanted = Replay {
            app: Some("other".into()),
            regions: Some("fra, eu,any".into()),
            prefer_instance: Some("m1".into()),
            state: Some("a=b c".into()),
            elsewhere: true,
            timeout: Some(Duration::from_millis(800)),
            fallback: Some(Fallback::PreferSelf),
            ..Replay::default()
        };
        assert_eq!(replay, wanted);
        assert!(!replay.is_plain());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "state=x",
            "app=",
            "app",
            "instance=a;prefer_instance=b",
            "instance=a;elsewhere=true",
            "elsewhere=maybe",
            "timeout=10",
            "timeout=1h",
            "fallback=other",
            "region=\"fra",
            "region=f\"r\"a",
            "machine=m1",
        ] {
            let value = HeaderValue::from_str(text).unwrap();
            assert!(Replay::read(&value, &HeaderMap::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_path_may_be_remembered() {
        let lines = [
            ("fly-replay", "app=other"),
            ("fly-replay-cache", "Example.com/a/*"),
            ("fly-replay-cache-ttl-secs", "5"),
            ("fly-replay-cache-allow-bypass", "yes"),
        ];
        let wanted = Remember::Prefix {
            host: Some("example.com".into()),
            path: "/a/".into(),
            ttl: SHORTEST_TTL,
            bypass: true,
        };
        assert_eq!(of(&lines).unwrap().remember, Some(wanted));
        assert!(of(&lines[..2]).is_err());
        let forget = [("fly-replay", "app=a"), ("fly-replay-cache", "invalidate")];
        assert_eq!(of(&forget).unwrap().remember, Some(Remember::Forget));
    }

    #[test]
    fn headers_of_the_platform_are_not_an_apps_to_change() {
        let mut transform = Transform::default();
        assert!(transform.set_header("X-Mine", "1").is_ok());
        for name in [
            "fly-client-ip",
            "Host",
            "content-length",
            "godwit-order",
            "a b",
        ] {
            assert!(transform.set_header(name, "1").is_err(), "{name}");
            assert!(transform.delete_header(name).is_err(), "{name}");
        }
        assert!(transform.set_header("x", "a\nb").is_err());
        assert!(transform.set_path("no/path").is_err() && transform.set_path("/a b").is_err());
        assert!(transform.set_path("/a?b=c").is_ok());
    }

    proptest! {
        #[test]
        fn nothing_an_app_says_is_a_surprise(text in "\\PC{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn what_was_written_is_read(
            app in "[a-z0-9-]{1,20}", region in "[a-z]{3}(,[a-z]{3}){0,3}", state in "[!#-:<-~]{1,40}",
        ) {
            let text = format!("app={app};region=\"{region}\";state={state}");
            let replay = parse(&text).unwrap();
            prop_assert_eq!(replay.app, Some(app));
            prop_assert_eq!(replay.regions, Some(region));
            prop_assert_eq!(replay.state, Some(state));
        }
    }
}
