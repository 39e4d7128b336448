//! A request's legs: where it goes first, and where apps send it from there.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use godwit_catalog::{App, View};
use http_body_util::{BodyExt, Limited};
use hyper::Uri;
use hyper::body::Body;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;

use crate::edge::Edge;
use crate::machines::app_body::AppBody;
use crate::machines::reach::Patience;
use crate::machines::reached::Link;
use crate::machines::targets::Targets;
use crate::machines::wish::Wish;
use crate::metrics::count;
use crate::replay::ask::{Fallback, Remember, Replay};
use crate::replay::cache::Remembered;
use crate::replay::json;
use crate::replay::session::Session;
use crate::request::errand::{Answer, Errand};
use crate::request::headers::Seen;
use crate::request::refusal::{self, Refusal};

const MOST_REPLAYS: u32 = 10;
/// For a replay's document, of which the head is there already.
const DOCUMENT_WITHIN: Duration = Duration::from_secs(10);
const SOURCE: HeaderName = HeaderName::from_static("fly-replay-src");
const FAILED: HeaderName = HeaderName::from_static("fly-replay-failed");
const CACHE_STATUS: HeaderName = HeaderName::from_static("fly-replay-cache-status");
const CACHE_CONTROL: HeaderName = HeaderName::from_static("fly-replay-cache-control");

/// Where a request goes next.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    /// `None` for the app that the client named.
    pub(crate) app: Option<Arc<str>>,
    pub(crate) wish: Wish,
    pub(crate) patience: Patience,
}

/// What an app's answer is.
pub(crate) enum Said {
    Answer(Box<Answer>),
    Replay(Box<Replay>, Origin),
}

/// The machine that asked for a replay.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    app: Arc<str>,
    machine: Arc<str>,
    targets: Arc<Targets>,
}

/// The legs of one request so far.
#[derive(Debug)]
pub(crate) struct Chain<'a> {
    edge: &'a Edge,
    /// The app that is asked first, and by which name.
    asked: Arc<str>,
    host: &'a str,
    /// As the client asked for it.
    uri: Uri,
    replays: u32,
    /// What may be remembered for this client alone.
    session: Option<Session>,
    /// This leg was remembered.
    cached: bool,
    /// Where this leg may go back to, and since when it is under way.
    back: Option<Back>,
    /// This leg went back already.
    is_back: bool,
}

#[derive(Debug)]
struct Back {
    origin: Origin,
    fallback: Fallback,
    begun: Instant,
    timeout: Option<Duration>,
    wanted: Replay,
}

impl<'a> Chain<'a> {
    /// The chain of a request, and its first leg.
    pub(crate) fn new(
        edge: &'a Edge,
        host: &'a str,
        targets: &Targets,
        wish: Wish,
        seen: Seen,
        errand: &mut Errand<'_>,
    ) -> (Self, Leg) {
        let app = targets.app();
        let http = targets.http.as_deref();
        let caches = http.map_or(&[][..], |http| &http.replay_cache);
        if !caches.is_empty() {
            // By any header a client may be known.
            errand.introduce();
        }
        let (path, headers) = (errand.uri.path(), &errand.headers);
        let mut chain = Chain {
            edge,
            asked: app.name.clone(),
            host,
            uri: errand.uri.clone(),
            replays: 0,
            session: Session::of(caches, &app.name, host, path, headers),
            cached: false,
            back: None,
            is_back: false,
        };
        let mut leg = Leg {
            app: None,
            wish,
            patience: Patience::of(&edge.config.limits),
        };
        let control = seen.fly.then(|| errand.headers.remove(CACHE_CONTROL));
        let control = control.flatten();
        // Who insists on a machine of the app that is asked is taken there, which may replay it.
        if let Some(held) = (!leg.wish.is_forced())
            .then(|| chain.remembered())
            .flatten()
        {
            let skip = control.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"skip"));
            if held.bypass && skip {
                say(&mut errand.headers, CACHE_STATUS, "bypass");
            } else if chain.permits(app, &held.app).is_ok() {
                say(&mut errand.headers, CACHE_STATUS, "hit");
                leg.app = Some(held.app);
                leg.wish = held.wish;
                chain.cached = true;
            }
        }
        (chain, leg)
    }

    /// No machine of a leg took the request: the leg to try in its place.
    pub(crate) fn failed(
        &mut self,
        refusal: Refusal,
        errand: &mut Errand<'_>,
    ) -> Result<Leg, Refusal> {
        if errand.touched {
            return Err(refusal);
        }
        if std::mem::take(&mut self.cached) {
            self.forget();
            errand.headers.remove(CACHE_STATUS);
            return Ok(self.leg(None, Wish::default(), None));
        }
        let Some(back) = self.back.take() else {
            return Err(refusal);
        };
        self.is_back = true;
        say(&mut errand.headers, FAILED, &failure(&back, &refusal));
        let forced = back.fallback == Fallback::ForceSelf;
        let wish = Wish::default().instance(&back.origin.machine, forced);
        Ok(self.leg(Some(back.origin.app), wish, None))
    }

    /// Follow what an app asks for.
    pub(crate) fn follow(
        &mut self,
        replay: Replay,
        origin: Origin,
        errand: &mut Errand<'_>,
    ) -> Result<Leg, Refusal> {
        count(&origin.targets.metrics.replays);
        self.replays += 1;
        if self.is_back {
            return Err(refusal::bad_replay(
                "a request that fell back is replayed once more",
            ));
        }
        if self.replays > MOST_REPLAYS {
            return Err(refusal::too_many_replays());
        }
        if !errand.is_whole() {
            let source = errand.source.as_ref();
            let no_room = source.is_some_and(|source| source.found_no_room());
            let no_room = no_room.then(refusal::no_room_to_replay);
            return Err(no_room.unwrap_or_else(refusal::too_long_to_replay));
        }
        let target = self.target(&replay, &origin)?;
        let region = self.region_of(&origin);
        let aliases = &self.edge.config.region_aliases;
        let mut wish = Wish::default();
        if let Some(id) = &replay.instance {
            wish = wish.instance(id, true);
        } else if let Some(id) = &replay.prefer_instance {
            wish = wish.instance(id, false);
        }
        if let Some(regions) = &replay.regions {
            wish = wish.regions(regions, true, aliases);
        }
        // The app may have any of them changed.
        errand.introduce();
        self.remember(&replay, &target, &wish, errand);
        if replay.elsewhere {
            wish.not = Some(origin.machine.clone());
        }
        let source = source(&origin.machine, &region, replay.state.as_deref());
        say(&mut errand.headers, SOURCE, &source);
        errand.headers.remove(FAILED);
        transform(&replay, errand);
        errand.touched = false;
        self.cached = false;
        let patience = replay.timeout;
        self.back = replay.fallback.map(|fallback| Back {
            origin,
            fallback,
            begun: Instant::now(),
            timeout: replay.timeout,
            wanted: replay,
        });
        Ok(self.leg(Some(target), wish, patience))
    }

    fn leg(&self, app: Option<Arc<str>>, wish: Wish, within: Option<Duration>) -> Leg {
        let mut patience = Patience::of(&self.edge.config.limits);
        if let Some(within) = within {
            patience.reach = patience.reach.min(within);
            patience.queue = patience.queue.min(within);
            patience.wake = patience.wake.min(within);
        }
        Leg {
            app,
            wish,
            patience,
        }
    }

    /// The app that a replay leads to, if it may.
    fn target(&self, replay: &Replay, origin: &Origin) -> Result<Arc<str>, Refusal> {
        let Some(name) = &replay.app else {
            return Ok(origin.app.clone());
        };
        let view = self.edge.watch.view();
        let app = view
            .app(name)
            .ok_or_else(|| refusal::no_replay_target(name))?;
        let from = view
            .app(&origin.app)
            .ok_or_else(|| refusal::no_replay_target(name))?;
        self.permits(from, &app.name)?;
        Ok(app.name.clone())
    }

    /// Whether an app may send requests to another (spec/network.md §2.4).
    fn permits(&self, from: &Arc<App>, to: &Arc<str>) -> Result<(), Refusal> {
        let view: &View = &self.edge.watch.view();
        let other = view.app(to).ok_or_else(|| refusal::no_replay_target(to))?;
        let across = from
            .record
            .as_ref()
            .is_some_and(|own| own.replays_across_networks);
        let allowed = from.name == other.name
            || matches!((tenant(from), tenant(other)), (Some(one), Some(same))
                if one.0 == same.0 && (one.1 == same.1 || across));
        allowed
            .then_some(())
            .ok_or_else(|| refusal::replay_forbidden(&from.name, to))
    }

    fn region_of(&self, origin: &Origin) -> String {
        let view = self.edge.watch.view();
        let machine = view.machine(&origin.machine);
        machine.map_or_else(String::new, |machine| machine.region.to_string())
    }

    /// Keep the replay for others if the app says so and it can be.
    fn remember(&self, replay: &Replay, target: &Arc<str>, wish: &Wish, errand: &mut Errand<'_>) {
        match &replay.remember {
            Some(Remember::Forget) => self.forget(),
            Some(Remember::Prefix {
                host,
                path,
                ttl,
                bypass,
            }) if replay.is_plain() && !replay.elsewhere => {
                let of_this = host.as_ref().is_none_or(|host| host == self.host)
                    && self.uri.path().starts_with(path.as_str());
                if of_this {
                    let remembered = Remembered {
                        app: target.clone(),
                        wish: wish.clone(),
                        until: Instant::now() + *ttl,
                        bypass: *bypass,
                    };
                    let replays = &self.edge.replays;
                    replays.put(&self.asked, self.host, path, remembered);
                    say_missed(&mut errand.headers);
                }
            }
            Some(Remember::Prefix { .. }) => {}
            None => self.remember_session(replay, target, wish, errand),
        }
    }

    /// Keep the replay for this client if its port says so and it is the app's that was asked.
    fn remember_session(
        &self,
        replay: &Replay,
        target: &Arc<str>,
        wish: &Wish,
        errand: &mut Errand<'_>,
    ) {
        let first = self.replays == 1 && !self.cached;
        let Some(session) = self.session.as_ref().filter(|_| first) else {
            return;
        };
        if replay.is_plain() && !replay.elsewhere {
            let remembered = Remembered {
                app: target.clone(),
                wish: wish.clone(),
                until: Instant::now() + session.ttl,
                bypass: session.bypass,
            };
            let key = session.key.clone();
            self.edge.replays.put_session(key, remembered);
            say_missed(&mut errand.headers);
        }
    }

    /// What is remembered for the request: for its client, or for all.
    fn remembered(&self) -> Option<Remembered> {
        let replays = &self.edge.replays;
        let own = self.session.as_ref();
        own.and_then(|session| replays.find_session(&session.key))
            .or_else(|| replays.find(&self.asked, self.host, self.uri.path()))
    }

    fn forget(&self) {
        let replays = &self.edge.replays;
        replays.forget(&self.asked, self.host, self.uri.path());
        if let Some(session) = &self.session {
            replays.forget_session(&session.key);
        }
    }
}

/// Whose an app is: organization and network.
fn tenant(app: &App) -> Option<(Arc<str>, Arc<str>)> {
    if let Some(record) = &app.record {
        return Some((record.org_id.clone(), record.network_id.clone()));
    }
    let machine = app.machines.first()?;
    Some((machine.org_id.clone(), machine.network_id.clone()))
}

/// Tell a replay from an answer for the client, whose headers were `seen`.
pub(crate) async fn said(answer: Box<Answer>, seen: Seen) -> Result<Said, Refusal> {
    let headers = answer.response.headers();
    let replay = seen.fly.then(|| Replay::of_headers(headers));
    let replay = match replay.flatten() {
        Some(replay) => replay,
        None if is_document(headers) => return Box::pin(document(*answer)).await,
        None => return Ok(Said::Answer(answer)),
    };
    let replay = replay.map_err(|wrong| refusal::bad_replay(&wrong.0))?;
    let (origin, _) = taken(*answer);
    Ok(Said::Replay(Box::new(replay), origin))
}

fn is_document(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.is_some_and(|kind| {
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii()
            .eq_ignore_ascii_case(json::CONTENT_TYPE.as_bytes())
    })
}

async fn document(answer: Answer) -> Result<Said, Refusal> {
    let (origin, body) = taken(answer);
    let reading = Limited::new(body, json::MOST_BYTES).collect();
    let read = timeout(DOCUMENT_WITHIN, reading).await;
    let collected = match read {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) => return Err(refusal::bad_replay(&format!("its document: {error}"))),
        Err(_) => return Err(refusal::bad_replay("its document does not come to its end")),
    };
    let document: &Bytes = &collected;
    let replay = json::read(document).map_err(|wrong| refusal::bad_replay(&wrong.0))?;
    Ok(Said::Replay(Box::new(replay), origin))
}

/// Let the machine go that asked for a replay.
fn taken(answer: Answer) -> (Origin, AppBody) {
    let Answer {
        response,
        mut held,
        targets,
        ..
    } = answer;
    let origin = Origin {
        app: targets.app_name().clone(),
        machine: held.machine_id.clone(),
        targets,
    };
    let body = response.into_body();
    // Otherwise its body is read on its own.
    if let Some(Link::Here(upstream)) = held.link.take()
        && body.is_end_stream()
    {
        upstream.give_back();
    }
    (origin, body)
}

fn transform(replay: &Replay, errand: &mut Errand<'_>) {
    let transform = &replay.transform;
    if let Some(uri) = transform
        .path
        .as_ref()
        .and_then(|path| path.parse::<Uri>().ok())
    {
        errand.uri = uri;
    }
    for name in &transform.delete {
        errand.headers.remove(name);
    }
    for (name, value) in &transform.set {
        errand.headers.insert(name.clone(), value.clone());
    }
}

/// `instance=…;region=…;t=…;state=…`, time in microseconds.
fn source(machine: &str, region: &str, state: Option<&str>) -> String {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let time = since.as_micros();
    let mut text = format!("instance={machine};region={region};t={time}");
    if let Some(state) = state {
        text.push_str(";state=");
        text.push_str(state);
    }
    text
}

fn failure(back: &Back, refusal: &Refusal) -> String {
    let elapsed = back.begun.elapsed();
    let late = back.timeout.is_some_and(|within| elapsed >= within);
    let reason = if late {
        "timeout"
    } else if refusal.is_of_a_connection() {
        "retries_exhausted"
    } else {
        "no_candidate"
    };
    let wanted = |value: &Option<String>| value.clone().unwrap_or_default();
    let instance = back
        .wanted
        .instance
        .as_ref()
        .or(back.wanted.prefer_instance.as_ref());
    format!(
        "instance={};app={};region={};replay_source={};reason={reason};elapsed_ms={}",
        instance.cloned().unwrap_or_default(),
        back.wanted.app.as_deref().unwrap_or(&back.origin.app),
        wanted(&back.wanted.regions),
        back.origin.machine,
        elapsed.as_millis()
    )
}

/// Tell the target that it is remembered from now on, unless the client had it so.
fn say_missed(headers: &mut HeaderMap) {
    if !headers.contains_key(CACHE_STATUS) {
        say(headers, CACHE_STATUS, "miss");
    }
}

fn say(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
