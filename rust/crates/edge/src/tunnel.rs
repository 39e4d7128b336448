//! After an upgrade: bytes both ways until one side ends (WebSocket and its like).

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use crate::drain::Alive;
use crate::ending::Ending;

/// Join client and app; `alive` keeps a drain waiting.
pub(crate) async fn run(client: OnUpgrade, app: OnUpgrade, mut ending: Ending, alive: Alive) {
    let (client, app) = match tokio::try_join!(client, app) {
        Ok(both) => both,
        Err(error) => {
            log::debug!("an upgrade was not completed: {error}");
            return;
        }
    };
    let (mut client, mut app) = (TokioIo::new(client), TokioIo::new(app));
    // Either side may end without a farewell; that is no failure of the edge.
    if let Ok((_, to_client)) = copy_bidirectional(&mut client, &mut app).await {
        ending.sent(to_client);
        ending.complete();
    }
    drop(alive);
}
