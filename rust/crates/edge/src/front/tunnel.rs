//! After an upgrade: bytes both ways until one side ends (WebSocket and its like), or until the
//! machine is gone without a farewell.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::relay::relay;
use crate::drain::Alive;
use crate::edge::Edge;
use crate::machines::departure::departed;
use crate::request::ending::Ending;

/// Where a tunnel leads.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) edge: Arc<Edge>,
    pub(crate) machine_id: Arc<str>,
}

/// Join client and app; `alive` keeps a drain waiting.
pub(crate) async fn run(
    client: OnUpgrade,
    app: OnUpgrade,
    far: Far,
    mut ending: Ending,
    alive: Alive,
) {
    let (client, app) = match tokio::try_join!(client, app) {
        Ok(both) => both,
        Err(error) => {
            log::debug!("an upgrade was not completed: {error}");
            return;
        }
    };
    let (mut client, mut app) = (TokioIo::new(client), TokioIo::new(app));
    let (from_client, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    tokio::select! {
        // Either side may end without a farewell; that is no failure of the edge.
        joined = relay(&mut client, &mut app, &from_client, &to_client) => if joined.is_ok() {
            ending.sent(to_client.into_inner());
            ending.complete();
        },
        () = departed(&far.edge.watch, &far.machine_id) => {}
    }
    drop(alive);
}
