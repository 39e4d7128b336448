//! What is counted of TLS handshakes (spec/network.md §7.1).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use rustls::ProtocolVersion;

use super::histogram::Histogram;
use super::text::{escaped, head, line};

/// Names that are told apart; failures of others are counted together.
const MOST_NAMES: usize = 1_000;

#[derive(Debug, Default)]
pub(crate) struct HandshakeMetrics {
    tls12: Histogram,
    tls13: Histogram,
    /// By names that lead to apps; those of clients that gave none, or any other, have none.
    failed: Mutex<BTreeMap<String, u64>>,
}

impl HandshakeMetrics {
    /// How long those of a version took; `None` for versions that are not spoken here.
    pub(crate) fn of(&self, version: Option<ProtocolVersion>) -> Option<&Histogram> {
        match version? {
            ProtocolVersion::TLSv1_2 => Some(&self.tls12),
            ProtocolVersion::TLSv1_3 => Some(&self.tls13),
            _ => None,
        }
    }

    /// Count one that failed, of a client that wanted such a host of an app.
    pub(crate) fn failed(&self, name: Option<&str>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let name = name.unwrap_or_default();
        let name = if failed.len() < MOST_NAMES || failed.contains_key(name) {
            name
        } else {
            ""
        };
        *failed.entry(name.to_owned()).or_default() += 1;
    }

    pub(super) fn write(&self, page: &mut String) {
        const FAILED: &str = "fly_edge_tls_handshake_errors";
        const TIME: &str = "fly_edge_tls_handshake_time_seconds";
        head(page, FAILED, "counter");
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, count) in &*failed {
            let labels = format!("servername=\"{}\"", escaped(name));
            line(page, FAILED, &labels, *count);
        }
        drop(failed);
        head(page, TIME, "histogram");
        for (version, times) in [("1.2", &self.tls12), ("1.3", &self.tls13)] {
            times.write(page, TIME, &format!("version=\"{version}\""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_names_are_kept_than_an_edge_has_room_for() {
        let metrics = HandshakeMetrics::default();
        for number in 0..2 * MOST_NAMES {
            metrics.failed(Some(&format!("n{number}")));
        }
        metrics.failed(Some("n0"));
        metrics.failed(None);
        let failed = metrics.failed.lock().unwrap();
        assert_eq!(failed["n0"], 2);
        assert_eq!(failed[""], 1 + MOST_NAMES as u64);
        assert_eq!(failed.len(), MOST_NAMES + 1);
    }
}
