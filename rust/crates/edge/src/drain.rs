//! Ending without failing a request.
//!
//! Serving → lingering: no new connections; every HTTP/1 response says `Connection: close`,
//! HTTP/2 gets GOAWAY → closing: idle connections are closed → parting: `WebSockets` are told by
//! a Close → over when the last connection and tunnel has ended, or at the deadline.

use std::time::Duration;

use godwit_wire::components::EdgeConfig;
use tokio::sync::{mpsc, watch};

/// Of the time to drain, idle HTTP/1 connections are given this part to hear of it.
const LINGER_SHARE: u32 = 4;
const LONGEST_LINGER: Duration = Duration::from_secs(3);
/// Of the time to drain, `WebSockets` are given this part at most to close.
const PARTING_SHARE: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    Lingering,
    Closing,
    Parting,
}

impl Phase {
    /// What is due so long after a drain has begun.
    pub(crate) fn due(config: &EdgeConfig, since: Duration) -> Self {
        let within = Duration::from_millis(config.drain_ms);
        if since + parting_time(config) >= within {
            Phase::Parting
        } else if since >= (within / LINGER_SHARE).min(LONGEST_LINGER) {
            Phase::Closing
        } else {
            Phase::Lingering
        }
    }
}

pub(crate) type Phases = watch::Receiver<Phase>;

/// Held by whatever a drain waits for.
pub(crate) type Alive = mpsc::Sender<()>;

/// Becomes ready when nobody holds an `Alive` any more.
#[derive(Debug)]
pub(crate) struct AllGone(mpsc::Receiver<()>);

/// Return when the drain has begun.
pub(crate) async fn begun(phases: &mut Phases) {
    // Its sender lives as long as the process.
    let _ = phases.wait_for(|phase| *phase != Phase::Serving).await;
}

/// Return when `WebSockets` are to be closed.
pub(crate) async fn parting(phases: &mut Phases) {
    // Its sender lives as long as the process.
    let _ = phases.wait_for(|phase| *phase == Phase::Parting).await;
}

/// How long both sides of a WebSocket have to close.
pub(crate) fn parting_time(config: &EdgeConfig) -> Duration {
    let within = Duration::from_millis(config.drain_ms);
    Duration::from_millis(config.limits.websocket_close_ms).min(within / PARTING_SHARE)
}

pub(crate) fn alive() -> (Alive, AllGone) {
    let (alive, gone) = mpsc::channel(1);
    (alive, AllGone(gone))
}

impl AllGone {
    pub(crate) async fn wait(&mut self) {
        // Nothing is ever sent; the channel closes with its last sender.
        while self.0.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(drain_ms: u64) -> EdgeConfig {
        let golden = include_str!("../../../../contracts/golden/edge_config.json");
        let mut config: EdgeConfig = serde_json::from_str(golden).unwrap();
        config.drain_ms = drain_ms;
        config
    }

    #[test]
    fn websockets_are_told_before_the_end_however_short_the_time() {
        for (drain_ms, closing, parting) in [
            (10_000, 2_500, 8_500),
            (60_000, 3_000, 58_500),
            (2_000, 500, 1_000),
            (0, 0, 0),
        ] {
            let config = config(drain_ms);
            let mut before = Phase::Lingering;
            for ms in 0..=drain_ms {
                let due = Phase::due(&config, Duration::from_millis(ms));
                let wanted = match ms {
                    _ if ms >= parting => Phase::Parting,
                    _ if ms >= closing => Phase::Closing,
                    _ => Phase::Lingering,
                };
                assert!(due == wanted && due >= before, "{drain_ms} {ms} {due:?}");
                before = due;
            }
        }
    }
}
