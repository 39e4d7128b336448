//! A stream of bytes that no handler looks into: to a machine and back.

use std::sync::Arc;

use tokio::io::AsyncWriteExt;

use super::greeting::Visitor;
use super::plan::Plan;
use super::refused::Refused;
use super::relay::{Side, relay};
use super::{proxy_header, worker::Worker};
use crate::backhaul::bytes::{self, Open};
use crate::machines::departure::departed;
use crate::machines::targets::{Ground, Handling, Targets};
use crate::request::refusal::{self, Refusal};

/// Who sends bytes, and what of them was read before it was known where they go.
#[derive(Debug)]
pub(crate) struct Client<'a, I> {
    pub(crate) said: &'a [u8],
    pub(crate) stream: I,
}

/// Serve a connection to its end.
///
/// # Errors
/// No machine took it, or the one that did broke it off at once.
pub(crate) async fn serve<I: Side>(
    worker: &Worker,
    who: &Visitor,
    app: &Arc<str>,
    plan: &Plan,
    mut client: Client<'_, I>,
) -> Result<(), Refused> {
    let port = who.at.port;
    let opening = bytes::open(worker, port, || find(worker, app, port));
    let mut open = opening
        .await
        .map_err(|refusal| Refused::NoMachine(refusal.code, refusal.message))?;
    // It has no end that a drain of its machine could wait for.
    open.slot.set_tunnel();
    if let Some(version) = plan.proxy {
        let header = proxy_header::write(version, who.peer, who.local);
        let told = open.stream.write_all(&header).await;
        told.map_err(|_| Refused::Machine)?;
    }
    if !client.said.is_empty() {
        let told = open.stream.write_all(client.said).await;
        told.map_err(|_| Refused::Machine)?;
    }
    carry(worker, &mut client.stream, open).await;
    Ok(())
}

fn find(worker: &Worker, app: &Arc<str>, port: u16) -> Result<Arc<Targets>, Refusal> {
    let view = worker.edge.watch.view();
    let app = view.app(app).ok_or_else(|| refusal::unknown_host(app))?;
    let at = (port, Handling::Bytes);
    Ok(worker.targets.get(app, at, Ground::of(worker, &view)))
}

async fn carry<I: Side>(worker: &Worker, client: &mut I, mut open: Open) {
    let metrics = &open.targets.metrics;
    let (counted_in, counted_out) = (&metrics.data_in, &metrics.data_out);
    let gone = async {
        match &open.here {
            Some(machine_id) => departed(&worker.edge, machine_id).await,
            // Its own host's edge sees to it.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        // Either side may end without a farewell; that is no failure of the edge.
        _ = relay(client, &mut open.stream, counted_in, counted_out) => {}
        () = gone => {}
    }
}
