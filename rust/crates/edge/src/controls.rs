//! Which control is asked: the first that answers, in an order that all edges share.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One that did not answer is asked last for so long.
const REST: Duration = Duration::from_secs(5);

/// Who did not answer lately.
#[derive(Debug, Default)]
pub(crate) struct Controls {
    resting: Mutex<HashMap<SocketAddr, Instant>>,
}

impl Controls {
    /// Whom to ask, in this order; each once.
    pub(crate) fn order(&self, known: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.retain(|_, since| since.elapsed() < REST);
        let mut order = Vec::new();
        for address in known {
            if !order.contains(&address) {
                order.push(address);
            }
        }
        order.sort_by_key(|address| resting.contains_key(address));
        order
    }

    /// It did not answer.
    pub(crate) fn rest(&self, address: SocketAddr) {
        let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.insert(address, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn who_did_not_answer_is_asked_last_and_everybody_once() {
        let controls = Controls::default();
        let known = [at(1), at(2), at(1), at(3)];
        assert_eq!(controls.order(known.into_iter()), [at(1), at(2), at(3)]);
        controls.rest(at(1));
        assert_eq!(controls.order(known.into_iter()), [at(2), at(3), at(1)]);
    }
}
