//! Waiting for a reason to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT, taken from the moment this is made.
#[derive(Debug)]
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Begin to take the signals; needs a tokio runtime.
    pub fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Termination {
            terminate,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Return when this process is asked to stop.
    pub async fn asked(&mut self) {
        std::future::poll_fn(|cx| {
            let asked = self.terminate.poll_recv(cx).is_ready();
            if asked || self.interrupt.poll_recv(cx).is_ready() {
                return std::task::Poll::Ready(());
            }
            std::task::Poll::Pending
        })
        .await;
    }
}
