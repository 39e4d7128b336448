//! A flow on the side of its machine, for another host's edge that has the client.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper::{Response, StatusCode};
use tokio::time::sleep;

use super::flow::Flow;
use super::mouth::Mouth;
use super::near::{NEED, address, listens_within, talk};
use super::receive::PARTING;
use super::trunk::Half;
use crate::backhaul::{Carry, Reply, find, patience, told};
use crate::drain;
use crate::front::worker::Worker;
use crate::machines::reach::{Scope, Search};
use crate::machines::targets::Handling;
use crate::machines::wish::Wish;
use crate::metrics::count;
use crate::request::body::Download;
use crate::request::refusal::{self, Refusal};

/// Answer another edge that wants a flow to go to a machine of this host.
pub(crate) async fn answer(worker: &Arc<Worker>, carry: &Carry, host: &str) -> Response<Download> {
    let at = (carry.port, Handling::Datagrams);
    let wish = Wish::default().instance(&carry.machine, carry.only);
    let mut search = Search::new(worker, wish, at, patience(worker, carry), Scope::Here);
    let taken = take(worker, carry, host, &mut search).await;
    match taken {
        Ok(reply) => told(StatusCode::OK, &reply),
        Err(refusal) => {
            count(&worker.edge.metrics.backhaul.bounced);
            let reply = Reply::refused(&refusal, Some(search.bounce()));
            told(StatusCode::MISDIRECTED_REQUEST, &reply)
        }
    }
}

async fn take(
    worker: &Arc<Worker>,
    carry: &Carry,
    host: &str,
    search: &mut Search<'_>,
) -> Result<Reply, Refusal> {
    let edge = &worker.edge;
    let visit = carry.visit.as_ref().ok_or_else(refusal::no_order)?;
    let mesh = edge.watch.view().host(host).and_then(|host| host.backhaul);
    let near = SocketAddr::new(mesh.ok_or_else(refusal::no_member)?.ip(), visit.port);
    let mut reached = search.next(NEED, || find(worker, carry)).await?;
    let failed = |error| refusal::connect_failed(reached.internal_port, &error);
    let bounds = &edge.datagrams.bounds;
    let place = bounds.place(reached.targets.app_name(), visit.client.ip());
    let place = place.map_err(|reason| {
        edge.datagrams.refused.add(reason);
        refusal::overloaded(&carry.app)
    })?;
    let trunk = worker.lines.trunk(edge).map_err(failed)?;
    let machine = address(edge, &reached, visit.client)
        .ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    let mouth = Arc::new(Mouth::open(machine, visit.client).map_err(failed)?);
    let flow = Flow::new(bounds.held());
    let line = trunk.line(near, visit.flow);
    let half = Half::Far {
        flow: flow.clone(),
        line: line.clone(),
    };
    let known = trunk.know(&line, half).ok_or_else(refusal::no_order)?;
    count(&edge.datagrams.begun);
    reached.slot.set_tunnel();
    // The client's own edge counts the bytes.
    flow.open_here(&mouth, None);
    let reply = Reply {
        machine: reached.machine_id.to_string(),
        active: reached.slot.load().active(),
        datagrams: Some(trunk.port),
        ..Reply::default()
    };
    let listens = listens_within(edge, search);
    let (edge, alive) = (edge.clone(), worker.alive.clone());
    let mut phases = worker.phases.clone();
    tokio::spawn(async move {
        let give = |datagram: &[u8]| {
            if !line.data(datagram) {
                edge.datagrams.dropped.add("full");
            }
        };
        let drained = async {
            drain::begun(&mut phases).await;
            sleep(PARTING).await;
        };
        tokio::select! {
            () = talk(&edge, &flow, &mouth, &reached, listens, give) => {}
            // The other edge asks this one's successor.
            () = drained => {}
        }
        flow.close();
        line.end();
        drop((known, place, alive));
    });
    Ok(reply)
}
