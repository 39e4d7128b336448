//! A stream of bytes that no handler looks into: to a machine and back.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::greeting::Visitor;
use super::plan::Plan;
use super::refused::Refused;
use super::relay::relay;
use super::{proxy_header, worker::Worker};
use crate::departure::departed;
use crate::reach::{Reached, reach_bytes};
use crate::refusal::{self, Refusal};
use crate::targets::{Handling, Targets};

/// Serve a connection to its end.
///
/// # Errors
/// No machine took it, or the one that did broke it off at once.
pub(crate) async fn serve<I: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    who: &Visitor,
    app: &Arc<str>,
    plan: &Plan,
    mut client: I,
) -> Result<(), Refused> {
    let port = who.at.port;
    let text = port.to_string();
    let reaching = reach_bytes(worker, &text, || find(worker, app, port));
    let mut reached = reaching
        .await
        .map_err(|refusal| Refused::NoMachine(refusal.code, refusal.message))?;
    // It has no end that a drain of its machine could wait for.
    reached.slot.set_tunnel();
    if let Some(version) = plan.proxy {
        let header = proxy_header::write(version, who.peer, who.local);
        let told = reached.upstream.write_all(&header).await;
        told.map_err(|_| Refused::Machine)?;
    }
    carry(worker, &mut client, reached).await;
    Ok(())
}

fn find(worker: &Worker, app: &Arc<str>, port: u16) -> Result<Arc<Targets>, Refusal> {
    let edge = &worker.edge;
    let view = edge.watch.view();
    let app = view.app(app).ok_or_else(|| refusal::unknown_host(app))?;
    let at = (port, Handling::Bytes);
    Ok(worker.targets.get(app, at, &edge.loads, &edge.metrics))
}

async fn carry<I: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    client: &mut I,
    mut reached: Reached<TcpStream>,
) {
    let metrics = &reached.targets.metrics;
    let (counted_in, counted_out) = (&metrics.data_in, &metrics.data_out);
    tokio::select! {
        // Either side may end without a farewell; that is no failure of the edge.
        _ = relay(client, &mut reached.upstream, counted_in, counted_out) => {}
        () = departed(&worker.edge.watch, &reached.machine_id) => {}
    }
}
