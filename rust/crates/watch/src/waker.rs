//! Asking this host's agent to start a machine for a request, and to stop one without any.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};

/// Why a machine was not started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WakeError {
    /// The agent is not there, or went away before it answered; it may be back soon.
    Away,
    /// The agent cannot start the machine.
    Refused(String),
}

/// One request to the agent, and where its answer goes.
#[derive(Debug)]
pub(crate) struct Wake {
    pub(crate) machine_id: Arc<str>,
    pub(crate) answer: Answer,
}

/// What is asked of the agent.
#[derive(Debug)]
pub(crate) enum Ask {
    Wake(Wake),
    Stop { machine_id: Arc<str>, suspend: bool },
}

pub(crate) type Answer = oneshot::Sender<Result<(), WakeError>>;

const CAPACITY: usize = 1024;

/// A handle on the agent; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Waker {
    connected: Arc<Mutex<Option<mpsc::Sender<Ask>>>>,
}

impl Waker {
    /// Return once the machine is started.
    ///
    /// Requests for one machine share one question. The caller sets the deadline by dropping
    /// this future.
    pub async fn wake(&self, machine_id: &Arc<str>) -> Result<(), WakeError> {
        let sender = self.slot().clone().ok_or(WakeError::Away)?;
        let (answer, answered) = oneshot::channel();
        let wake = Wake {
            machine_id: machine_id.clone(),
            answer,
        };
        let asked = sender.send(Ask::Wake(wake)).await;
        asked.map_err(|_| WakeError::Away)?;
        answered.await.unwrap_or(Err(WakeError::Away))
    }

    /// Have a machine stopped or suspended once its requests have ended.
    ///
    /// # Errors
    /// The agent is away.
    pub async fn stop(&self, machine_id: &Arc<str>, suspend: bool) -> Result<(), WakeError> {
        let sender = self.slot().clone().ok_or(WakeError::Away)?;
        let machine_id = machine_id.clone();
        let asked = sender
            .send(Ask::Stop {
                machine_id,
                suspend,
            })
            .await;
        asked.map_err(|_| WakeError::Away)
    }

    /// The agent is there: wakes go to the returned receiver.
    pub(crate) fn connect(&self) -> mpsc::Receiver<Ask> {
        let (sender, receiver) = mpsc::channel(CAPACITY);
        *self.slot() = Some(sender);
        receiver
    }

    /// The agent is gone: wakes fail at once.
    pub(crate) fn disconnect(&self) {
        *self.slot() = None;
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Sender<Ask>>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for WakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WakeError::Away => f.write_str("the host's agent is away"),
            WakeError::Refused(message) => f.write_str(message),
        }
    }
}
