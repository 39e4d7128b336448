//! A flow on the side of its client: a machine for it, and its course from then on.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Duration;

use godwit_catalog::App;
use godwit_wire::facts::{Protocol, ServicePort};
use hyper::{Request, Uri};
use tokio::time::{Instant, sleep, timeout};

use super::flow::Flow;
use super::mouth::Mouth;
use super::receive::{Answers, Clients};
use super::trunk::Half;
use crate::backhaul::{Bounce, Carry, ORDER, Order, Reply, Visit};
use crate::edge::Edge;
use crate::front::worker::Worker;
use crate::machines::departure::departed;
use crate::machines::reach::{Patience, Scope, Search};
use crate::machines::reached::{Link, Reached};
use crate::machines::targets::{Ground, Handling, Targets};
use crate::machines::upstream::Need;
use crate::machines::wish::Wish;
use crate::metrics::count;
use crate::request::body::Upload;
use crate::request::refusal::{self, Refusal};

/// A flow that no machine took is not tried again for so long.
const AFTER_REFUSAL: Duration = Duration::from_secs(1);
/// An app that does not listen yet is asked again after this, and later ever more seldom.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const GREATEST_PAUSE: Duration = Duration::from_secs(1);
/// A machine that has not said by then that nobody listens has somebody who does.
const LISTENS_AFTER: Duration = Duration::from_secs(5);
/// What the other edge has for itself, beside the time to find a machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
pub(super) const NEED: Need<'static> = Need {
    repeatable: true,
    fresh: true,
    path: None,
    becomes: None,
};

/// Begin a flow with its first datagram, if that may be.
pub(super) fn begin(
    worker: &Arc<Worker>,
    clients: &Arc<Clients>,
    client: SocketAddr,
    datagram: &[u8],
) {
    let edge = &worker.edge;
    let view = edge.watch.view();
    let refused = |reason| edge.datagrams.refused.add(reason);
    let Some(app) = view.app_of_datagrams(clients.at) else {
        return refused("no_app");
    };
    // Two apps that answer whatever they are told would answer each other for ever.
    let other = view.app_of_datagrams(client);
    if client.port() == 0 || other.is_some_and(|other| answers_at(other, client.port())) {
        return refused("client");
    }
    let app = app.name.clone();
    let place = match edge.datagrams.bounds.place(&app, client.ip()) {
        Ok(place) => place,
        Err(reason) => return refused(reason),
    };
    count(&edge.datagrams.begun);
    let flow = Flow::new(edge.datagrams.bounds.held());
    flow.push(datagram, &edge.datagrams);
    clients.flows().insert(client, flow.clone());
    let (worker, clients, alive) = (worker.clone(), clients.clone(), worker.alive.clone());
    tokio::spawn(async move {
        let answers = Arc::new(Answers {
            clients: clients.clone(),
            client,
            metrics: OnceLock::new(),
        });
        if let Err(refusal) = Box::pin(run(&worker, &app, &flow, &answers)).await {
            let code = if refusal.code.is_empty() {
                "no_machine"
            } else {
                refusal.code
            };
            worker.edge.datagrams.refused.add(code);
            log::debug!("no datagram of {client} goes to {app}: {}", refusal.message);
            flow.refuse();
            tokio::select! {
                () = sleep(AFTER_REFUSAL) => {}
                () = flow.closed() => {}
            }
        }
        flow.close();
        clients.forget(client, &flow);
        drop((place, alive));
    });
}

/// Find a machine and serve the flow to its end.
async fn run(
    worker: &Arc<Worker>,
    app: &Arc<str>,
    flow: &Arc<Flow>,
    answers: &Arc<Answers>,
) -> Result<(), Refusal> {
    let port = answers.clients.at.port();
    let patience = Patience::of(&worker.edge.config.limits);
    let at = (port, Handling::Datagrams);
    let mut search = Search::new(worker, Wish::default(), at, patience, Scope::Everywhere);
    loop {
        let mut reached = {
            let finding = pin!(search.next(NEED, || find(worker, app, port)));
            tokio::select! {
                reached = finding => reached?,
                () = flow.closed() => return Ok(()),
            }
        };
        // It has no end that a drain of its machine could wait for.
        reached.slot.set_tunnel();
        let _ = answers.metrics.set(reached.targets.metrics.clone());
        if !matches!(reached.link, Link::There { .. }) {
            let listens = listens_within(&worker.edge, &search);
            return here(&worker.edge, reached, listens, flow, answers).await;
        }
        match there(worker, &mut reached, flow, answers).await {
            Ok(()) => return Ok(()),
            Err((bounce, refusal)) => search.bounced(&reached, bounce, refusal),
        }
    }
}

/// Whether an app has a UDP service at an external port.
fn answers_at(app: &App, port: u16) -> bool {
    let machines = app.machines.iter().filter(|machine| app.is_own(machine));
    let mut services = machines.flat_map(|machine| machine.services.iter());
    services.any(|service| {
        let at = |range: &ServicePort| (range.start_port..=range.end_port).contains(&port);
        service.protocol == Protocol::Udp && service.ports.iter().any(at)
    })
}

fn find(worker: &Worker, app: &Arc<str>, port: u16) -> Result<Arc<Targets>, Refusal> {
    let view = worker.edge.watch.view();
    let app = view.app(app).ok_or_else(|| refusal::unknown_host(app))?;
    let at = (port, Handling::Datagrams);
    Ok(worker.targets.get(app, at, Ground::of(worker, &view)))
}

/// Where a machine of this host takes datagrams: by the protocol that the client speaks.
pub(super) fn address(edge: &Edge, reached: &Reached, client: SocketAddr) -> Option<SocketAddr> {
    let view = edge.watch.view();
    let machine = view.machine(&reached.machine_id)?;
    let port = reached.internal_port;
    Some(match client {
        SocketAddr::V4(_) => (machine.local_ipv4, port).into(),
        SocketAddr::V6(_) => (machine.private_ip, port).into(),
    })
}

async fn here(
    edge: &Arc<Edge>,
    reached: Reached,
    listens: Duration,
    flow: &Arc<Flow>,
    answers: &Answers,
) -> Result<(), Refusal> {
    let opened = address(edge, &reached, answers.client)
        .ok_or_else(|| std::io::ErrorKind::NotFound.into())
        .and_then(|machine| Mouth::open(machine, answers.client));
    let mouth = opened.map_err(|error| refusal::connect_failed(reached.internal_port, &error))?;
    let mouth = Arc::new(mouth);
    flow.open_here(&mouth, Some(&reached.targets.metrics));
    let give = |datagram: &[u8]| answers.give(edge, datagram);
    talk(edge, flow, &mouth, &reached, listens, give).await;
    Ok(())
}

/// How long a machine has until its app listens: longer when it was just started.
pub(super) fn listens_within(edge: &Edge, search: &Search<'_>) -> Duration {
    let limits = &edge.config.limits;
    Duration::from_millis(if search.has_woken() {
        limits.wake_ms
    } else {
        limits.reach_ms
    })
}

/// Give away what a machine of this host says, until the flow is over.
pub(super) async fn talk(
    edge: &Edge,
    flow: &Flow,
    mouth: &Mouth,
    reached: &Reached,
    listens: Duration,
    give: impl FnMut(&[u8]),
) {
    let limits = &edge.config.limits;
    tokio::select! {
        () = speak(flow, mouth, listens, give) => {
            reached.slot.load().set_suspect();
            count(&reached.targets.metrics.upstream_failures);
            edge.datagrams.refused.add("not_listening");
        }
        () = flow.idle(limits) => {}
        () = flow.closed() => {}
        () = departed(edge, &reached.machine_id) => {}
    }
}

/// Return when nobody listens in the machine, and nobody has begun to within a time.
async fn speak(flow: &Flow, mouth: &Mouth, within: Duration, mut give: impl FnMut(&[u8])) {
    let begun = Instant::now();
    let (mut pause, mut refused) = (FIRST_PAUSE, false);
    loop {
        let hearing = mouth.hear(|datagram| {
            flow.answer();
            give(datagram);
        });
        let heard = if refused || flow.is_answered() {
            hearing.await
        } else {
            let Ok(heard) = timeout(LISTENS_AFTER, hearing).await else {
                flow.forget();
                continue;
            };
            heard
        };
        if heard.is_ok() {
            continue;
        }
        if flow.is_answered() || begun.elapsed() >= within {
            return;
        }
        refused = true;
        sleep(pause).await;
        pause = (pause * 2).min(GREATEST_PAUSE);
        if !flow.say_again() {
            return;
        }
    }
}

/// Have another host's edge take the flow, and wait for its end.
async fn there(
    worker: &Arc<Worker>,
    reached: &mut Reached,
    flow: &Arc<Flow>,
    answers: &Arc<Answers>,
) -> Result<(), (Bounce, Refusal)> {
    let unable = |refusal| (Bounce::Unable, refusal);
    let edge = &worker.edge;
    let trunk = worker
        .lines
        .trunk(edge)
        .map_err(|error| unable(refusal::host_not_reached(&edge.config.host_id, &error)))?;
    let visit = Visit {
        client: answers.client,
        flow: rand::random(),
        port: trunk.port,
    };
    let id = visit.flow;
    let to = tokio::select! {
        asked = ask(worker, answers.clients.at.port(), visit, reached) => asked?,
        () = flow.closed() => return Ok(()),
    };
    let line = trunk.line(to, id);
    let half = Half::Near {
        flow: flow.clone(),
        answers: answers.clone(),
    };
    let known = trunk.know(&line, half);
    let known = known.ok_or_else(|| unable(refusal::host_broke_off()))?;
    flow.open_there(&line, &reached.targets.metrics);
    tokio::select! {
        () = flow.idle(&edge.config.limits) => {}
        () = flow.closed() => {}
    }
    line.end();
    drop(known);
    Ok(())
}

/// Ask another host's edge to take a flow; where it wants its datagrams.
async fn ask(
    worker: &Worker,
    port: u16,
    visit: Visit,
    reached: &mut Reached,
) -> Result<SocketAddr, (Bounce, Refusal)> {
    let broke_off = || (Bounce::Unable, refusal::host_broke_off());
    let Link::There { stream, queue } = &mut reached.link else {
        return Err(broke_off());
    };
    count(&worker.edge.metrics.backhaul.sent);
    let carry = Carry {
        app: reached.targets.app_name().to_string(),
        app_id: reached.targets.app_id().to_owned(),
        port,
        handling: Handling::Datagrams,
        machine: reached.machine_id.to_string(),
        queue_ms: u64::try_from(queue.as_millis()).unwrap_or(u64::MAX),
        visit: Some(visit),
        ..Carry::default()
    };
    let mut request = Request::new(Upload::Empty);
    *request.uri_mut() = Uri::from_static("http://godwit/");
    let order = Order::Carry(Box::new(carry)).value();
    request.headers_mut().insert(ORDER, order);
    let within = Duration::from_millis(worker.edge.config.limits.wake_ms) + ANSWER_WITHIN;
    let asked = timeout(within, stream.client.ask(request, |_, _| {})).await;
    let Ok(Ok(mut response)) = asked else {
        return Err(broke_off());
    };
    let reply = Reply::take(response.headers_mut()).ok_or_else(broke_off)?;
    if let Some(refused) = reply.refusal {
        let bounce = refused.bounce.unwrap_or(Bounce::Unable);
        return Err((bounce, refused.refusal()));
    }
    let view = worker.edge.watch.view();
    let machine = view.machine(&reached.machine_id);
    let host = machine.and_then(|machine| view.host(&machine.key.host));
    let mesh = host.and_then(|host| host.backhaul);
    match (mesh, reply.datagrams) {
        (Some(mesh), Some(port)) => Ok(SocketAddr::new(mesh.ip(), port)),
        _ => Err(broke_off()),
    }
}
