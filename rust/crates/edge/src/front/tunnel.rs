//! After an upgrade: bytes both ways until one side ends (WebSocket and its like), or until the
//! machine is gone without a farewell. Both sides of a WebSocket get one from the edge then.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::sleep;

use super::farewell::Farewell;
use super::relay::relay;
use crate::drain::Alive;
use crate::edge::Edge;
use crate::machines::departure::departed;
use crate::request::arrived::Opening;
use crate::request::ending::Ending;

/// In the time that nothing may be said, so often it is looked.
const LOOKS: u32 = 8;

/// Where a tunnel leads.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) edge: Arc<Edge>,
    pub(crate) machine_id: Arc<str>,
    /// How long neither side may say anything, if there is an end to that.
    pub(crate) idle: Option<Duration>,
    /// Of a WebSocket: how it is ended, where that is this edge's to do.
    pub(crate) farewell: Option<Farewell>,
}

/// Join client and app; `alive` keeps a drain waiting.
pub(crate) async fn run(
    client: Opening,
    app: Opening,
    far: Far,
    mut ending: Ending,
    alive: Alive,
) {
    let (mut client, mut app) = match tokio::try_join!(client.opened(), app.opened()) {
        Ok(both) => both,
        Err(error) => {
            log::debug!("an upgrade was not completed: {error}");
            return;
        }
    };
    let (from_client, to_client) = (AtomicU64::new(0), AtomicU64::new(0));
    let gone = departed(&far.edge, &far.machine_id);
    let joining = async {
        if let Some(farewell) = far.farewell {
            let told = (&from_client, &to_client);
            return farewell.relay(client, app, told, gone).await;
        }
        tokio::select! {
            joined = relay(&mut client, &mut app, &from_client, &to_client) => joined,
            () = gone => Err(io::ErrorKind::NotConnected.into()),
        }
    };
    let whole = tokio::select! {
        // Either side may end without a farewell; that is no failure of the edge.
        joined = joining => joined.is_ok(),
        () = silent(far.idle, || from_client.load(Relaxed) + to_client.load(Relaxed)) => false,
    };
    ending.came(from_client.into_inner());
    ending.sent(to_client.into_inner());
    if whole {
        ending.complete();
    }
    drop(alive);
}

/// Return once what was said, as `told` counts it, has stayed the same for so long.
async fn silent(within: Option<Duration>, told: impl Fn() -> u64) {
    let Some(within) = within else {
        return std::future::pending().await;
    };
    let (mut before, mut looks) = (told(), 0);
    while looks < LOOKS {
        sleep(within / LOOKS).await;
        let now = told();
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
    }
}
