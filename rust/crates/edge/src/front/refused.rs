//! Why connections end before a request or a byte of theirs reaches an app.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

const HANDSHAKES: &str = "too_many_handshakes";
const HANDSHAKES_OF_SOURCE: &str = "too_many_of_source";
const HANDSHAKES_OF_APP: &str = "too_many_of_app";
const CONNECTIONS_OF_SOURCE: &str = "too_many_connections_of_source";
const CONNECTIONS_OF_APP: &str = "too_many_connections_of_app";

/// Why a connection is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A trusted proxy sent no PROXY header that can be read.
    ProxyHeader,
    /// Nothing came in time.
    Silent,
    /// The client went away before it said what it wants.
    Left,
    /// The address or the name in the handshake leads to no app.
    NoApp,
    /// It came to where what is for private addresses arrives, and is for none, or comes from
    /// outside the network that has the address.
    NotPrivate,
    /// The app has no service at the port.
    NoService,
    /// What was said does not name an app, and the address is shared.
    Nameless,
    /// What was said is not what the service speaks.
    WrongProtocol,
    /// This edge has no authority for certificates.
    NoTls,
    /// The client did not name a host of the app.
    NoCertificate,
    Handshake(String),
    HandshakeTimeout,
    TooManyHandshakes,
    /// Too many from the neighbourhood of the client.
    TooManyOfSource,
    /// Handshakes for one app.
    TooManyOfApp,
    TooManyConnectionsOfSource,
    TooManyConnectionsOfApp,
    /// A PostgreSQL client that asked for no TLS, or for something that is no start of one.
    Postgres,
    /// No machine took the connection, with the code of spec/network.md §1.9.
    NoMachine(&'static str, String),
    /// The machine's side broke before anything was sent.
    Machine,
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Refused::ProxyHeader => "proxy_header",
            Refused::Silent => "silent",
            Refused::Left => "left",
            Refused::NoApp => "no_app",
            Refused::NotPrivate => "not_private",
            Refused::NoService => "no_service",
            Refused::Nameless => "nameless",
            Refused::WrongProtocol => "wrong_protocol",
            Refused::NoTls => "no_tls",
            Refused::NoCertificate => "no_certificate",
            Refused::Handshake(_) => "handshake",
            Refused::HandshakeTimeout => "handshake_timeout",
            Refused::TooManyHandshakes => HANDSHAKES,
            Refused::TooManyOfSource => HANDSHAKES_OF_SOURCE,
            Refused::TooManyOfApp => HANDSHAKES_OF_APP,
            Refused::TooManyConnectionsOfSource => CONNECTIONS_OF_SOURCE,
            Refused::TooManyConnectionsOfApp => CONNECTIONS_OF_APP,
            Refused::Postgres => "postgres",
            Refused::NoMachine("", _) => "no_machine",
            Refused::NoMachine(code, _) => code,
            Refused::Machine => "machine",
        }
    }

    fn detail(&self) -> &str {
        match self {
            Refused::Handshake(why) | Refused::NoMachine(_, why) => why,
            _ => "",
        }
    }
}

/// How often for which reason.
#[derive(Debug, Default)]
pub(crate) struct RefusedCounts(Mutex<BTreeMap<&'static str, u64>>);

impl RefusedCounts {
    pub(crate) fn count(&self, why: &Refused, port: u16) {
        log::debug!("refused at port {port}: {} {}", why.reason(), why.detail());
        self.add(why.reason());
    }

    /// Count what ended a connection that was being served.
    pub(crate) fn add(&self, reason: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(reason).or_default();
        *count += 1;
        let count = *count;
        drop(counts);
        let dropped = matches!(reason, CONNECTIONS_OF_SOURCE | CONNECTIONS_OF_APP);
        if dropped && is_power_of_ten(count) {
            log::warn!("{count} connections were dropped: {reason}");
        }
    }

    /// The same by the names that dashboards know (spec/network.md §7.1): those, the type of what
    /// was limited if there is more than one, and how many.
    pub(crate) fn limited(&self) -> [(&'static str, &'static str, u64); 5] {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = |reasons: &[&str]| -> u64 {
            reasons.iter().filter_map(|reason| counts.get(reason)).sum()
        };
        let connections = sum(&[CONNECTIONS_OF_SOURCE, CONNECTIONS_OF_APP]);
        let handshakes = [HANDSHAKES, HANDSHAKES_OF_SOURCE, HANDSHAKES_OF_APP];
        [
            ("fly_edge_tcp_connections_drop_count", "", connections),
            (
                "fly_edge_tcp_rate_limited_count",
                "connections",
                connections,
            ),
            ("fly_edge_tcp_rate_limited_count", "tls", sum(&handshakes)),
            (
                "fly_edge_tls_ip_limit_reached_count",
                "",
                sum(&[HANDSHAKES_OF_SOURCE]),
            ),
            (
                "fly_edge_tls_sni_limit_reached_count",
                "",
                sum(&[HANDSHAKES_OF_APP]),
            ),
        ]
    }

    pub(crate) fn all(&self) -> Vec<(&'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .map(|(reason, count)| (*reason, *count))
            .collect()
    }
}

fn is_power_of_ten(count: u64) -> bool {
    count > 0 && 10_u64.pow(count.ilog10()) == count
}
