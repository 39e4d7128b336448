//! One request's way, as the edge that the client came to sees it.
//!
//! ```text
//! answer ─ find (host → app → targets) ─ errand (a machine, here or there) ─ respond
//!            └ refuse                       └ refuse     └ replay: the next leg, another errand
//! ```

mod control;

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Body;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::response::Parts;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};

use crate::front::connection::{Connection, HTTPS};
use crate::front::farewell::Farewell;
use crate::front::tunnel::{self, Far};
use crate::machines::reach::{Scope, Search};
use crate::machines::reached::Reached;
use crate::machines::targets::{Ground, Targets};
use crate::machines::wish::Wish;
use crate::metrics::{AppMetrics, count};
use crate::replay::chain::{self, Chain, Leg, Said};
use crate::request::arrived::{Arrived, ClientBody, Hints, Opening};
use crate::request::body::Download;
use crate::request::compress::{self, Accepted, Packed};
use crate::request::ending::{AccessLine, Ending, Held};
use crate::request::errand::{Answer, Errand};
use crate::request::forwarded::Forwarded;
use crate::request::headers::{self, Seen};
use crate::request::introduction::Introduction;
use crate::request::last::Named;
use crate::request::paced::Paced;
use crate::request::refusal::{self, Refusal};
use crate::request::source::Source;
use crate::request::{request_id, route, websocket};

/// Answer a request; what goes wrong is an answer too.
pub(crate) async fn answer(connection: Arc<Connection>, arrived: Arrived) -> Response<Download> {
    let _busy = connection.busy(arrived.request.version());
    let mut exchange = Exchange::new(&connection, &arrived.request);
    let request = &arrived.request;
    // What others may see more requests in is none, and nothing after it is read.
    let is_framed =
        request.body().is_end_stream() || headers::is_plainly_chunked(request.headers());
    let carried = if is_framed {
        exchange.carry(arrived).await
    } else {
        Err(refusal::coding())
    };
    let mut response = carried.unwrap_or_else(|refusal| exchange.refuse(&refusal));
    let is_last = !is_framed || connection.is_draining();
    if is_last && exchange.version != Version::HTTP_2 {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !upgraded {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

struct Exchange<'a> {
    connection: &'a Connection,
    id: HeaderValue,
    version: Version,
    begun: Instant,
    /// What a forwarder says of the client.
    forwarded: Option<Box<Forwarded>>,
    /// With what the answer may be compressed.
    accepted: Accepted,
    /// Known once the app is.
    targets: Option<Arc<Targets>>,
    log: Option<Box<AccessLine>>,
    /// For what the app says before its response, where the client can be told.
    hints: Option<Hints>,
}

impl<'a> Exchange<'a> {
    fn new(connection: &'a Connection, request: &Request<ClientBody>) -> Self {
        let edge = &connection.worker.edge;
        let id = request_id::new(&edge.config.region);
        let forwarded = connection
            .forwarded
            .then(|| Forwarded::read(request.headers(), &edge.front.forwarders))
            .flatten()
            .map(Box::new);
        let client = || forwarded.as_ref().and_then(|said| said.client_ip.clone());
        let log = edge.config.access_log.then(|| {
            Box::new(AccessLine {
                id: id.clone(),
                client: client().unwrap_or_else(|| connection.connected.client_ip.clone()),
                method: request.method().to_string(),
                host: route::authority(request.uri(), request.headers())
                    .and_then(route::host)
                    .map_or_else(|_| String::new(), std::borrow::Cow::into_owned),
                path: request.uri().path().to_owned(),
                machine: None,
                org_id: String::new(),
            })
        });
        let (version, begun) = (request.version(), Instant::now());
        Exchange {
            connection,
            id,
            version,
            begun,
            forwarded,
            accepted: Accepted::default(),
            targets: None,
            log,
            hints: None,
        }
    }

    async fn carry(&mut self, mut arrived: Arrived) -> Result<Response<Download>, Refusal> {
        self.hints = arrived.hints.take();
        let request = &mut arrived.request;
        let by_http_2 = match *request.method() {
            Method::CONNECT => Some(websocket::from_http_2(request)?),
            _ => None,
        };
        let connection = self.connection;
        let worker = &*connection.worker;
        let Some(Named { host, targets }) = self.named(request)? else {
            return Box::pin(self.ask_control(arrived.request)).await;
        };
        self.targets = Some(targets.clone());
        if targets.force_https && !self.is_secure_before() {
            return Ok(self.redirect(&host, request.uri()));
        }
        let seen = Seen::of(request.headers());
        if seen.accepts_coding {
            self.accepted = Accepted::of(request.headers());
        }
        let aliases = &worker.edge.config.region_aliases;
        let wish = if seen.fly {
            Wish::of_client(request.headers(), aliases)
        } else {
            Wish::default()
        };
        let protocol =
            by_http_2.or_else(|| headers::upgrade_of(request.version(), request.headers(), seen));
        let upgrade = protocol.is_some().then(|| arrived.opening());
        let mut errand = self.errand(arrived.request, seen, &targets.metrics, protocol);
        let (mut chain, mut leg) =
            Chain::new(&worker.edge, &host, &targets, wish, seen, &mut errand);
        let mut found = Some(targets);
        let at = (connection.port, connection.handling);
        loop {
            let Leg {
                app,
                wish,
                patience,
            } = leg;
            let find = || match &app {
                None => find(connection, &host),
                Some(app) => find_named(connection, app),
            };
            let mut search = Search::new(worker, wish, at, patience, Scope::Everywhere);
            search.found = found.take().filter(|_| app.is_none());
            let note = |reached: &Reached| self.note(reached);
            let answer = match errand.run(worker, &mut search, note, find).await {
                Ok(answer) => answer,
                Err(refusal) => {
                    leg = chain.failed(refusal, &mut errand)?;
                    continue;
                }
            };
            let seen = Seen::of(answer.response.headers());
            leg = match chain::said(answer, seen).await? {
                Said::Answer(answer) => {
                    if let Some(source) = &errand.source {
                        source.settle();
                    }
                    return Ok(self.respond(*answer, seen, errand.source.as_ref(), upgrade));
                }
                Said::Replay(replay, origin) => chain.follow(*replay, origin, &mut errand)?,
            };
        }
    }

    /// Where the host that a request names leads; `None` for the platform's own API.
    fn named(&self, request: &Request<ClientBody>) -> Result<Option<Named>, Refusal> {
        let connection = self.connection;
        let authority = route::authority(request.uri(), request.headers());
        let authority = authority.map_err(|_| refusal::no_host())?;
        let view = connection.worker.edge.watch.view();
        if let Some(named) = connection.last.get(authority, &view) {
            return Ok(Some(named));
        }
        let host = route::host(authority).map_err(|_| refusal::no_host())?;
        if self.is_of_control(&host) {
            return Ok(None);
        }
        let named = Named {
            targets: find(connection, &host)?,
            host: host.into(),
        };
        connection.last.keep(authority, &view, &named);
        Ok(Some(named))
    }

    fn note(&mut self, reached: &Reached) {
        self.targets = Some(reached.targets.clone());
        if let Some(line) = &mut self.log {
            reached.targets.org_id().clone_into(&mut line.org_id);
        }
    }

    /// Turn the client's request into the app's.
    fn errand(
        &self,
        request: Request<ClientBody>,
        seen: Seen,
        metrics: &Arc<AppMetrics>,
        protocol: Option<HeaderValue>,
    ) -> Errand<'a> {
        let (mut parts, body) = request.into_parts();
        let authority = parts.uri.authority().map(ToString::to_string);
        let host = authority.and_then(|authority| HeaderValue::from_str(&authority).ok());
        headers::to_app(&mut parts.headers, seen, self.version, host);
        if let Some(caller) = self.connection.caller {
            let edge = &self.connection.worker.edge;
            let view = edge.watch.view();
            edge.callers.introduce(&view, caller, &mut parts.headers);
        }
        let introduction = Introduction {
            connected: &self.connection.connected,
            forwarded: self.forwarded.clone(),
            id: self.id.clone(),
            version: self.version,
        };
        let mut errand = Errand {
            method: parts.method,
            uri: origin_form(parts.uri),
            headers: parts.headers,
            introduction: Some(introduction),
            source: (!body.is_end_stream())
                .then(|| Source::new(body, &self.connection.worker.edge.bodies)),
            protocol,
            metrics: Some(metrics.clone()),
            hints: self.hints.as_ref().map(Hints::teller),
            may_repeat: false,
            touched: false,
        };
        if seen.introduced() {
            errand.introduce();
        }
        errand
    }

    /// Turn the app's response, whose headers were `seen`, into the client's.
    fn respond(
        &mut self,
        answer: Answer,
        seen: Seen,
        source: Option<&Arc<Source>>,
        upgrade: Option<Opening>,
    ) -> Response<Download> {
        let Answer {
            response,
            mut held,
            targets,
            tunnel,
        } = answer;
        self.targets = Some(targets.clone());
        if let Some(line) = &mut self.log {
            line.machine = Some(held.machine_id.clone());
        }
        let status = response.status();
        let (mut parts, body) = response.into_parts();
        parts.version = self.version;
        let protocol = headers::upgrade_of(Version::HTTP_11, &parts.headers, seen);
        let wanted = targets.http.as_deref();
        headers::to_client(&mut parts.headers, seen, &self.id, self.version, wanted);
        let opted_out = seen.coded && compress::opt_out(&mut parts.headers);
        let by_http_2 = upgrade.is_some() && self.version == Version::HTTP_2;
        if by_http_2 && tunnel.is_none() && status.is_success() {
            // To this client any success says that its WebSocket is open.
            return self.refuse(&refusal::not_opened(&targets.app().name));
        }
        if let (Some(client), Some(app)) = (upgrade, tunnel) {
            let is_websocket = protocol.as_ref().is_some_and(websocket::is_asked);
            if by_http_2 {
                websocket::opened(&mut parts);
            } else if let Some(protocol) = protocol {
                headers::set_upgrade(&mut parts.headers, protocol);
            }
            held.slot.set_tunnel();
            let worker = &self.connection.worker;
            let far = Far {
                edge: worker.edge.clone(),
                machine_id: held.machine_id.clone(),
                idle: targets.idle(),
                farewell: is_websocket.then(|| Farewell::of(worker)),
            };
            let guard = worker.alive.clone();
            let ending = self.ending(status, Some(held));
            tokio::spawn(tunnel::run(client, app, far, ending, guard));
            return Response::from_parts(parts, Download::page(String::new(), None));
        }
        let ending = self.ending(status, Some(held));
        let body = Paced::new(body, targets.idle(), source);
        if opted_out || self.accepted == Accepted::default() || !targets.compresses() {
            return Response::from_parts(parts, Download::app(body, ending));
        }
        self.pack(parts, body, ending)
    }

    /// Compress a response if that does it good.
    fn pack(&self, mut parts: Parts, body: Paced, ending: Ending) -> Response<Download> {
        let Parts {
            status, headers, ..
        } = &mut parts;
        let coding = compress::choose(self.accepted, self.version, *status, headers);
        let Some(coding) = coding.filter(|_| !body.is_end_stream()) else {
            return Response::from_parts(parts, Download::app(body, ending));
        };
        let encoders = &self.connection.worker.edge.encoders;
        let Ok(place) = encoders.clone().try_acquire_owned() else {
            return Response::from_parts(parts, Download::app(body, ending));
        };
        let body = match Packed::new(body, coding, place) {
            Ok(packed) => {
                compress::declare(headers, coding);
                Download::packed(packed, ending)
            }
            Err((body, error)) => {
                log::warn!("a response is not compressed: {error}");
                Download::app(body, ending)
            }
        };
        Response::from_parts(parts, body)
    }

    /// Whether the client speaks TLS to a forwarder.
    fn is_secure_before(&self) -> bool {
        let forwarded = self.forwarded.as_ref();
        forwarded.and_then(|forwarded| forwarded.secure) == Some(true)
    }

    /// Send the client to where it is answered by TLS: at a forwarder that it came to, by the port
    /// that everybody knows.
    fn redirect(&mut self, host: &str, uri: &Uri) -> Response<Download> {
        let port = self
            .forwarded
            .as_ref()
            .map_or(self.connection.https_port, |_| HTTPS);
        let location = route::https(host, port, uri);
        let mut response = self.page(StatusCode::MOVED_PERMANENTLY, format!("{location}\n"));
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    fn refuse(&mut self, refusal: &Refusal) -> Response<Download> {
        let metrics = &self.connection.worker.edge.metrics;
        metrics.refused(refusal.status.as_u16(), refusal.code);
        let text = refusal.page(self.id.to_str().unwrap_or_default());
        self.page(refusal.status, text)
    }

    fn page(&mut self, status: StatusCode, text: String) -> Response<Download> {
        let mut response = Response::new(Download::page(String::new(), None));
        *response.status_mut() = status;
        *response.version_mut() = self.version;
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, plain);
        headers::platform(response.headers_mut(), &self.id, self.version);
        let ending = self.ending(status, None);
        *response.body_mut() = Download::page(text, Some(ending));
        response
    }

    fn ending(&mut self, status: StatusCode, held: Option<Held>) -> Ending {
        Ending {
            begun: self.begun,
            status: status.as_u16(),
            metrics: self.targets.as_ref().map(|targets| targets.metrics.clone()),
            held,
            log: self.log.take(),
            bytes: 0,
            whole: false,
        }
    }
}

/// The targets of the app that a connection is for, or a request's host name leads to.
fn find(connection: &Connection, host: &str) -> Result<Arc<Targets>, Refusal> {
    let worker = &connection.worker;
    let edge = &worker.edge;
    let view = edge.watch.view();
    let named = || route::app(&view, host, &edge.config.apps_domain);
    let own = connection.app.as_ref();
    let Some(app) = own.map_or_else(named, |name| view.app(name)) else {
        count(&edge.metrics.unrouted);
        return Err(refusal::unknown_host(host));
    };
    let at = (connection.port, connection.handling);
    Ok(worker.targets.get(app, at, Ground::of(worker, &view)))
}

/// The targets of an app to which a request is replayed: its service at the same port.
fn find_named(connection: &Connection, name: &str) -> Result<Arc<Targets>, Refusal> {
    let worker = &connection.worker;
    let view = worker.edge.watch.view();
    let app = view
        .app(name)
        .ok_or_else(|| refusal::no_replay_target(name))?;
    let at = (connection.port, connection.handling);
    Ok(worker.targets.get(app, at, Ground::of(worker, &view)))
}

fn origin_form(uri: Uri) -> Uri {
    if uri.authority().is_none() {
        return uri;
    }
    let path = uri.into_parts().path_and_query;
    path.map(Uri::from).unwrap_or_default()
}
