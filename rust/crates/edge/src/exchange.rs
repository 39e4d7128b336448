//! One request's way: which app, which machine, there and back.
//!
//! ```text
//! answer ─ find (host → app → targets) ─ reach (a machine, a connection) ─ send ─ respond
//!            └ refuse                       └ refuse                         ├ again: reach
//!                                                                            └ refuse
//! ```

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::time::{sleep, timeout};

use crate::body::{Download, Upload};
use crate::departure::departed;
use crate::ending::{AccessLine, Ending, Held};
use crate::front::connection::Connection;
use crate::front::tunnel::{self, Far};
use crate::metrics::count;
use crate::reach::{Reached, Wish, reach};
use crate::refusal::{self, Refusal};
use crate::request_id;
use crate::targets::Targets;
use crate::{headers, route};

/// A request is sent so many times at most.
const SENDS: usize = 3;
/// A response that takes longer is worth looking whether its machine is still there.
const USUALLY_WITHIN: Duration = Duration::from_secs(1);

/// Answer a request; what goes wrong is an answer too.
pub(crate) async fn answer(
    connection: Arc<Connection>,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let _busy = connection.busy(request.version());
    let mut exchange = Exchange::new(&connection, &request);
    let mut response = match exchange.carry(request).await {
        Ok(response) => response,
        Err(refusal) => exchange.refuse(&refusal),
    };
    if connection.is_draining() && exchange.version != Version::HTTP_2 {
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if !upgraded {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    Ok(response)
}

struct Exchange<'a> {
    connection: &'a Connection,
    id: HeaderValue,
    version: Version,
    begun: Instant,
    /// Known once the app is.
    targets: Option<Arc<Targets>>,
    log: Option<Box<AccessLine>>,
}

/// A request as it will be sent, and whether it may be sent again.
struct Outbound {
    request: Request<Upload>,
    /// It has no body and means no harm twice.
    repeatable: bool,
    upgrade: Option<OnUpgrade>,
    body_sent: Arc<AtomicU64>,
}

enum Sent {
    Response(Box<Response<Incoming>>, Held),
    /// Nothing was answered; here is the request again, and whether it was on its way already.
    Again(Request<Upload>, bool),
}

/// How the wait for a response ended.
enum Outcome<T> {
    Answered(T),
    /// The machine was taken away without a word.
    Gone,
    Late,
}

impl<'a> Exchange<'a> {
    fn new(connection: &'a Connection, request: &Request<Incoming>) -> Self {
        let edge = &connection.worker.edge;
        let id = request_id::new(&edge.config.region);
        let log = edge.config.access_log.then(|| {
            Box::new(AccessLine {
                id: id.clone(),
                client: connection.connected.client_ip.clone(),
                method: request.method().to_string(),
                host: route::host(request.uri(), request.headers())
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
            targets: None,
            log,
        }
    }

    async fn carry(&mut self, request: Request<Incoming>) -> Result<Response<Download>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(refusal::method("CONNECT"));
        }
        let host = route::host(request.uri(), request.headers());
        let host = host.map_err(|_| refusal::no_host())?.into_owned();
        let targets = self.find(&host)?;
        self.targets = Some(targets.clone());
        if targets.force_https {
            return Ok(self.redirect(&host, request.uri()));
        }
        let mut outbound = self.outbound(request, &targets);
        drop(targets);
        let mut broke = None;
        for send in 1.. {
            let wish = Wish {
                repeatable: outbound.repeatable,
                fresh: send > 1 || outbound.upgrade.is_some(),
                not_at: broke.take(),
            };
            let port = self.connection.port_text();
            let reached = reach(&self.connection.worker, wish, port, || self.find(&host)).await?;
            self.note(&reached);
            let (port, machine_id) = (reached.port, reached.machine_id.clone());
            match self.send(&mut outbound, reached).await? {
                Sent::Response(response, held) => {
                    return Ok(self.respond(*response, held, outbound.upgrade));
                }
                Sent::Again(..) if send >= SENDS => return Err(refusal::broken(port)),
                Sent::Again(request, on_its_way) => {
                    // A kept connection that was closed says nothing of its machine.
                    broke = (on_its_way || send > 1).then_some(machine_id);
                    outbound.request = request;
                }
            }
        }
        unreachable!("a range without end")
    }

    fn find(&self, host: &str) -> Result<Arc<Targets>, Refusal> {
        let worker = &self.connection.worker;
        let edge = &worker.edge;
        let view = edge.watch.view();
        let named = || route::app(&view, host, &edge.config.apps_domain);
        let own = self.connection.app.as_ref();
        let Some(app) = own.map_or_else(named, |name| view.app(name)) else {
            count(&edge.metrics.unrouted);
            return Err(refusal::unknown_host(host));
        };
        let at = (self.connection.port, self.connection.handling);
        Ok(worker.targets.get(app, at, &edge.loads, &edge.metrics))
    }

    fn note(&mut self, reached: &Reached) {
        self.targets = Some(reached.targets.clone());
        if let Some(line) = &mut self.log {
            line.machine = Some(reached.machine_id.clone());
            reached.targets.org_id().clone_into(&mut line.org_id);
        }
    }

    /// Turn the client's request into the app's.
    fn outbound(&self, mut request: Request<Incoming>, targets: &Targets) -> Outbound {
        let protocol = headers::upgrade_of(request.version(), request.headers());
        let upgrade = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        let (mut parts, body) = request.into_parts();
        let authority = parts.uri.authority().map(ToString::to_string);
        let host = authority.and_then(|authority| HeaderValue::from_str(&authority).ok());
        headers::to_app(
            &mut parts.headers,
            &self.connection.connected,
            &self.connection.worker.edge.region,
            &self.id,
            self.version,
            host,
        );
        if let Some(protocol) = protocol {
            headers::set_upgrade(&mut parts.headers, protocol);
        }
        parts.uri = origin_form(&parts.uri);
        parts.version = Version::HTTP_11;
        let body_sent = Arc::new(AtomicU64::new(0));
        let empty = body.is_end_stream();
        let upload = if empty {
            Upload::Empty
        } else {
            let metrics = targets.metrics.clone();
            Upload::Client {
                body,
                sent: body_sent.clone(),
                metrics,
            }
        };
        let repeatable = empty && parts.method.is_idempotent();
        Outbound {
            request: Request::from_parts(parts, upload),
            repeatable,
            upgrade,
            body_sent,
        }
    }

    async fn send(&self, outbound: &mut Outbound, reached: Reached) -> Result<Sent, Refusal> {
        let Reached {
            slot,
            mut upstream,
            targets,
            machine_id,
            port,
        } = reached;
        let request = std::mem::replace(&mut outbound.request, Request::new(Upload::Empty));
        let copy = outbound.repeatable.then(|| head_of(&request));
        let sending = upstream.sender.try_send_request(request);
        let outcome = self
            .outcome(sending, &outbound.body_sent, &machine_id)
            .await;
        let (unsent, refusal) = match outcome {
            Outcome::Answered(Ok(response)) => {
                let held = Held {
                    slot,
                    machine_id,
                    upstream: Some(upstream),
                };
                return Ok(Sent::Response(Box::new(response), held));
            }
            Outcome::Answered(Err(mut error)) => {
                let unsent = error.take_message();
                let error = error.into_error();
                log::debug!(org_id = targets.org_id(); "{}: {error}", targets.app_name());
                let refusal = if error.is_user() {
                    refusal::client_broke_off()
                } else {
                    refusal::broken(port)
                };
                (unsent, refusal)
            }
            Outcome::Gone => (None, refusal::broken(port)),
            Outcome::Late => return Err(refusal::no_response(port)),
        };
        let on_its_way = unsent.is_none();
        let again = unsent.or_else(|| Some(Request::from_parts(copy?, Upload::Empty)));
        let Some(request) = again else {
            return Err(refusal);
        };
        count(&targets.metrics.retries);
        Ok(Sent::Again(request, on_its_way))
    }

    /// Wait for the response as long as the body moves, and then the time of the limit; no longer
    /// than the machine lives.
    async fn outcome<T>(
        &self,
        sending: impl Future<Output = T>,
        sent: &AtomicU64,
        machine_id: &Arc<str>,
    ) -> Outcome<T> {
        let edge = &self.connection.worker.edge;
        let within = Duration::from_millis(edge.config.limits.response_ms);
        let mut sending = std::pin::pin!(sending);
        let soon = USUALLY_WITHIN.min(within);
        if let Ok(result) = timeout(soon, sending.as_mut()).await {
            return Outcome::Answered(result);
        }
        let mut gone = std::pin::pin!(departed(&edge.watch, machine_id));
        let mut within = within.saturating_sub(soon);
        loop {
            let before = sent.load(Relaxed);
            tokio::select! {
                result = sending.as_mut() => return Outcome::Answered(result),
                () = gone.as_mut() => return Outcome::Gone,
                () = sleep(within) => {}
            }
            if sent.load(Relaxed) == before {
                return Outcome::Late;
            }
            within = Duration::from_millis(edge.config.limits.response_ms);
        }
    }

    fn respond(
        &mut self,
        mut response: Response<Incoming>,
        mut held: Held,
        upgrade: Option<OnUpgrade>,
    ) -> Response<Download> {
        let status = response.status();
        let upgraded = match upgrade {
            Some(client) if status == StatusCode::SWITCHING_PROTOCOLS => {
                let protocol = headers::upgrade_of(Version::HTTP_11, response.headers());
                Some((client, hyper::upgrade::on(&mut response), protocol))
            }
            _ => None,
        };
        let (mut parts, body) = response.into_parts();
        parts.version = self.version;
        headers::to_client(&mut parts.headers, &self.id, self.version);
        if let Some((client, app, protocol)) = upgraded {
            if let Some(protocol) = protocol {
                headers::set_upgrade(&mut parts.headers, protocol);
            }
            held.upstream = None;
            held.slot.set_tunnel();
            let worker = &self.connection.worker;
            let far = Far {
                edge: worker.edge.clone(),
                machine_id: held.machine_id.clone(),
            };
            let guard = worker.alive.clone();
            let ending = self.ending(status, Some(held));
            tokio::spawn(tunnel::run(client, app, far, ending, guard));
            return Response::from_parts(parts, Download::page(String::new(), None));
        }
        Response::from_parts(parts, Download::app(body, self.ending(status, Some(held))))
    }

    /// Send the client to where it is answered by TLS.
    fn redirect(&mut self, host: &str, uri: &Uri) -> Response<Download> {
        let location = route::https(host, self.connection.https_port, uri);
        let mut response = self.page(StatusCode::MOVED_PERMANENTLY, format!("{location}\n"));
        if let Ok(location) = HeaderValue::from_str(&location) {
            response.headers_mut().insert(LOCATION, location);
        }
        response
    }

    fn refuse(&mut self, refusal: &Refusal) -> Response<Download> {
        let text = refusal.page(self.id.to_str().unwrap_or_default());
        self.page(refusal.status, text)
    }

    fn page(&mut self, status: StatusCode, text: String) -> Response<Download> {
        let mut response = Response::new(Download::Page {
            text: None,
            ending: None,
        });
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

fn origin_form(uri: &Uri) -> Uri {
    let path = uri.path_and_query().cloned();
    path.map(Uri::from).unwrap_or_default()
}

fn head_of(request: &Request<Upload>) -> Parts {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy.into_parts().0
}
