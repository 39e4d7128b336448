//! Answering another host's edge: its request goes to a machine of this host, or back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use godwit_catalog::App;
use hyper::body::Body;
use hyper::header::HeaderValue;
use hyper::{Method, Response, StatusCode, Uri};

use crate::autostop;
use crate::backhaul::bytes;
use crate::backhaul::order::{Carry, Order, Reply, Tunnel};
use crate::datagrams;
use crate::front::tunnel::{self, Far};
use crate::front::worker::Worker;
use crate::machines::reach::{Patience, Scope, Search};
use crate::machines::targets::{Ground, Handling, Targets};
use crate::machines::wish::Wish;
use crate::metrics::count;
use crate::request::arrived::{Arrived, Hints, Opening};
use crate::request::body::Download;
use crate::request::ending::Ending;
use crate::request::errand::{Answer, Errand};
use crate::request::headers::{self, Seen};
use crate::request::paced::Paced;
use crate::request::refusal::{self, Refusal};
use crate::request::source::Source;

/// Answer a request of another edge; what goes wrong is a reply too.
pub(crate) async fn answer(
    worker: Arc<Worker>,
    host: Arc<str>,
    mut arrived: Arrived,
) -> Response<Download> {
    let order = Order::take(arrived.request.headers_mut());
    let member = worker.edge.watch.view().host(&host).is_some();
    match order {
        _ if !member => told(StatusCode::FORBIDDEN, &refused(&refusal::no_member())),
        None => told(StatusCode::BAD_REQUEST, &refused(&refusal::no_order())),
        Some(Order::Ping {}) => told(StatusCode::NO_CONTENT, &Reply::default()),
        Some(Order::Wake { machine }) => {
            wake(&worker, &machine);
            told(StatusCode::ACCEPTED, &Reply::default())
        }
        Some(Order::Stop { machine, suspend }) => {
            // Whether it rests is told by its fact.
            let _ = worker.edge.waker.stop(&machine.into(), suspend).await;
            told(StatusCode::ACCEPTED, &Reply::default())
        }
        Some(Order::Loads { machines }) => {
            let loads = machines.iter().map(|id| autostop::busy(&worker.edge, id));
            let reply = Reply {
                loads: loads.collect(),
                ..Reply::default()
            };
            told(StatusCode::OK, &reply)
        }
        Some(Order::Carry(carry)) => take(&worker, *carry, &host, arrived).await,
    }
}

fn refused(refusal: &Refusal) -> Reply {
    Reply::refused(refusal, None)
}

/// Have a machine started, beside whatever the other edge does meanwhile.
fn wake(worker: &Arc<Worker>, machine: &str) {
    let (edge, id): (_, Arc<str>) = (worker.edge.clone(), machine.into());
    tokio::spawn(async move {
        let within = Duration::from_millis(edge.config.limits.wake_ms);
        let waking = tokio::time::timeout(within, edge.waker.wake(&id));
        if let Ok(Err(error)) = waking.await {
            log::warn!(machine_id = &*id; "{id} cannot start for another host: {error}");
        }
    });
}

async fn take(
    worker: &Arc<Worker>,
    carry: Carry,
    host: &str,
    mut arrived: Arrived,
) -> Response<Download> {
    let metrics = &worker.edge.metrics.backhaul;
    count(&metrics.taken);
    if carry.handling == Handling::Bytes {
        return bytes::answer(worker, &carry, arrived.opening()).await;
    }
    if carry.handling == Handling::Datagrams {
        return datagrams::answer(worker, &carry, host).await;
    }
    let client = carry.tunnel.is_some().then(|| arrived.opening());
    let mut errand = match errand(worker, &carry, arrived) {
        Ok(errand) => errand,
        Err(refusal) => return told(StatusCode::BAD_REQUEST, &refused(&refusal)),
    };
    let wish = Wish::default().instance(&carry.machine, carry.only);
    let at = (carry.port, carry.handling);
    let mut search = Search::new(worker, wish, at, patience(worker, &carry), Scope::Here);
    let find = || find(worker, &carry);
    match errand.run(worker, &mut search, |_| {}, find).await {
        Ok(answer) => {
            if let Some(source) = &errand.source {
                source.settle();
            }
            respond(worker, *answer, client)
        }
        Err(refusal) => {
            let bounce = (!errand.touched).then(|| search.bounce());
            if bounce.is_some() {
                count(&metrics.bounced);
            }
            told(
                StatusCode::MISDIRECTED_REQUEST,
                &Reply::refused(&refusal, bounce),
            )
        }
    }
}

/// What does not work at once works elsewhere; only a machine that was started is waited for.
pub(crate) fn patience(worker: &Worker, carry: &Carry) -> Patience {
    let limits = &worker.edge.config.limits;
    let queue = carry.queue_ms.min(limits.queue_ms);
    let wake = carry.wake_ms.unwrap_or(u64::MAX).min(limits.wake_ms);
    Patience {
        reach: Duration::ZERO,
        queue: Duration::from_millis(queue),
        wake: Duration::from_millis(wake),
    }
}

/// The targets of the app that the near edge means: one of the two may not know yet that its name
/// is another app's now.
pub(crate) fn find(worker: &Worker, carry: &Carry) -> Result<Arc<Targets>, Refusal> {
    let view = worker.edge.watch.view();
    let is_meant = |app: &&Arc<App>| {
        carry.app_id.is_empty() || app.id().is_some_and(|id| **id == *carry.app_id)
    };
    let app = view
        .app(&carry.app)
        .filter(is_meant)
        .ok_or_else(|| refusal::nothing(&carry.app, carry.port))?;
    let at = (carry.port, carry.handling);
    Ok(worker.targets.get(app, at, Ground::of(worker, &view)))
}

/// The request as this host's machines get it.
fn errand(worker: &Worker, carry: &Carry, arrived: Arrived) -> Result<Errand<'static>, Refusal> {
    let (parts, body) = arrived.request.into_parts();
    let (method, uri, protocol) = match &carry.tunnel {
        None => (parts.method, parts.uri, None),
        Some(tunnel) => asked_for(tunnel).ok_or_else(refusal::no_order)?,
    };
    let path = uri.path_and_query().cloned();
    Ok(Errand {
        method,
        uri: path.map(Uri::from).unwrap_or_default(),
        headers: parts.headers,
        introduction: None,
        source: (!body.is_end_stream()).then(|| Source::new(body, &worker.edge.bodies)),
        protocol,
        metrics: None,
        hints: arrived.hints.as_ref().map(Hints::teller),
        may_repeat: carry.repeatable,
        touched: false,
    })
}

fn asked_for(tunnel: &Tunnel) -> Option<(Method, Uri, Option<HeaderValue>)> {
    let method = tunnel.method.parse().ok()?;
    let uri = tunnel.path.parse().ok()?;
    let protocol = HeaderValue::from_str(&tunnel.protocol).ok()?;
    Some((method, uri, Some(protocol)))
}

fn respond(worker: &Arc<Worker>, answer: Answer, client: Option<Opening>) -> Response<Download> {
    let Answer {
        response,
        mut held,
        tunnel,
        ..
    } = answer;
    let (mut parts, body) = response.into_parts();
    let seen = Seen::of(&parts.headers);
    headers::drop_hop_by_hop(&mut parts.headers, seen);
    let status = parts.status;
    let reply = Reply {
        machine: held.machine_id.to_string(),
        active: held.slot.load().active(),
        // An answer to CONNECT other than 200 is no tunnel, whatever a machine says.
        status: client.is_some().then(|| status.as_u16()),
        ..Reply::default()
    };
    reply.put(&mut parts.headers);
    if client.is_some() {
        parts.status = StatusCode::MISDIRECTED_REQUEST;
    }
    if let (Some(client), Some(app)) = (client, tunnel) {
        parts.status = StatusCode::OK;
        held.slot.set_tunnel();
        let far = Far {
            edge: worker.edge.clone(),
            machine_id: held.machine_id.clone(),
            // The client's own edge looks, and speaks.
            idle: None,
            farewell: None,
        };
        let ending = ending(status, held);
        tokio::spawn(tunnel::run(client, app, far, ending, worker.alive.clone()));
        return Response::from_parts(parts, Download::page(String::new(), None));
    }
    Response::from_parts(
        parts,
        Download::app(Paced::new(body, None, None), ending(status, held)),
    )
}

/// The client's own edge counts and logs; here only the machine is let go.
fn ending(status: StatusCode, held: crate::request::ending::Held) -> Ending {
    Ending {
        begun: Instant::now(),
        status: status.as_u16(),
        metrics: None,
        held: Some(held),
        log: None,
        bytes: 0,
        whole: false,
    }
}

pub(crate) fn told(status: StatusCode, reply: &Reply) -> Response<Download> {
    let mut response = Response::new(Download::page(String::new(), None));
    *response.status_mut() = status;
    reply.put(response.headers_mut());
    response
}
