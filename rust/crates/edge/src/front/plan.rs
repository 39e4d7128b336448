//! What an app's port does with a connection: its handlers and their options.
//!
//! Machines of one app may differ while a deploy goes on; the newest that is up is followed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use godwit_catalog::{App, Machine};
use godwit_wire::facts::{
    HttpOptions, Protocol, ProxyVersion, ServicePort, TlsOptions, TlsVersion,
};

use crate::machines::targets::Handling;

/// The handlers of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) handling: Handling,
    /// TLS from the first byte.
    pub(crate) tls: bool,
    /// TLS as PostgreSQL's clients ask for it.
    pub(crate) pg_tls: bool,
    pub(crate) proxy: Option<ProxyVersion>,
    pub(crate) profile: Profile,
    pub(crate) self_signed: bool,
    pub(crate) headers_read_timeout: Option<u32>,
}

/// How TLS is spoken: connections of the same profile share a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Profile {
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) tls12: bool,
    pub(crate) tls13: bool,
}

impl Plan {
    fn of(port: &ServicePort) -> Self {
        let has = |name: &str| port.handlers.iter().any(|handler| handler == name);
        let nothing = (TlsOptions::default(), HttpOptions::default());
        let tls = port.tls_options.as_deref().unwrap_or(&nothing.0);
        let http = port.http_options.as_deref().unwrap_or(&nothing.1);
        let speaks = |version| tls.versions.is_empty() || tls.versions.contains(&version);
        Plan {
            handling: Handling::of(&port.handlers),
            tls: has("tls"),
            pg_tls: has("pg_tls"),
            proxy: has("proxy_proto").then_some(port.proxy_version),
            profile: Profile {
                alpn: alpn(tls, has("http"), has("pg_tls")),
                tls12: speaks(TlsVersion::V12),
                tls13: speaks(TlsVersion::V13),
            },
            self_signed: tls.default_self_signed,
            headers_read_timeout: http.headers_read_timeout,
        }
    }
}

fn alpn(options: &TlsOptions, http: bool, postgres: bool) -> Vec<Vec<u8>> {
    let names: Vec<&str> = match (options.alpn.as_slice(), http, postgres) {
        ([], true, _) => vec!["h2", "http/1.1"],
        ([], false, true) => vec!["postgresql"],
        (asked, true, _) => {
            let spoken = |name: &&String| ["h2", "http/1.1"].contains(&name.as_str());
            asked.iter().filter(spoken).map(String::as_str).collect()
        }
        (asked, false, _) => asked.iter().map(String::as_str).collect(),
    };
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// The plan of an app's port, if it has a TCP service there.
pub(crate) fn plan(app: &App, port: u16) -> Option<Plan> {
    let own = app.machines.iter().filter(|machine| app.is_own(machine));
    let at_port = own.filter_map(|machine| Some((machine, port_of(machine, port)?)));
    let newest = at_port.max_by_key(|(machine, _)| {
        let serves = machine.is_started() && !machine.cordoned;
        (serves, machine.instance_id.clone())
    });
    newest.map(|(_, port)| Plan::of(port))
}

fn port_of(machine: &Machine, port: u16) -> Option<&ServicePort> {
    let mut tcp = machine
        .services
        .iter()
        .filter(|s| s.protocol == Protocol::Tcp);
    tcp.find_map(|service| {
        let has = |range: &&ServicePort| (range.start_port..=range.end_port).contains(&port);
        service.ports.iter().find(has)
    })
}

/// The plans a worker has made, by app and port.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    made: Mutex<HashMap<(Arc<str>, u16), Made>>,
}

/// Of which picture of the app a plan was made.
type Made = (Arc<App>, Option<Arc<Plan>>);

/// A worker keeps no more than this many; apps without connections leave sooner or later.
const KEPT: usize = 8192;

impl Plans {
    /// The plan of an app as the view has it now.
    pub(crate) fn get(&self, app: &Arc<App>, port: u16) -> Option<Arc<Plan>> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (app.name.clone(), port);
        if let Some((of, plan)) = made.get(&key)
            && Arc::ptr_eq(of, app)
        {
            return plan.clone();
        }
        if made.len() >= KEPT {
            made.clear();
        }
        let plan = plan(app, port).map(Arc::new);
        made.insert(key, (app.clone(), plan.clone()));
        plan
    }
}
