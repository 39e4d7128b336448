//! What the edge counts, and its page in Prometheus' text form (spec/network.md §7.1).

mod handshakes;
mod histogram;
mod machines;
mod responses;
mod text;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use godwit_catalog::View;

use handshakes::HandshakeMetrics;
use machines::Machines;
use responses::Responses;

pub(crate) use machines::{Connected, MachineMetrics, Served};
pub(crate) use text::{escaped, head, line};

const REFUSALS: &str = "godwit_edge_refused_requests_count";

/// Everything counted by this process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    apps: Mutex<HashMap<Arc<str>, Arc<AppMetrics>>>,
    machines: Machines,
    pub(crate) handshakes: HandshakeMetrics,
    pub(crate) connects: AtomicU64,
    pub(crate) disconnects: AtomicU64,
    /// Connections of machines to private addresses of apps, of all connects.
    pub(crate) private_connects: AtomicU64,
    /// Requests that led to no app.
    pub(crate) unrouted: AtomicU64,
    pub(crate) backhaul: BackhaulMetrics,
    /// Requests that got no answer of a machine, by status and code.
    refusals: Mutex<BTreeMap<(u16, &'static str), u64>>,
}

/// What is counted of the traffic between hosts.
#[derive(Debug, Default)]
pub(crate) struct BackhaulMetrics {
    /// Requests that were sent to other hosts' edges.
    pub(crate) sent: AtomicU64,
    /// Requests that came from them.
    pub(crate) taken: AtomicU64,
    /// Of those, the ones that were sent back to be taken elsewhere.
    pub(crate) bounced: AtomicU64,
    /// Connections of who is no other host.
    pub(crate) strangers: AtomicU64,
}

/// What is counted per app.
#[derive(Debug)]
pub(crate) struct AppMetrics {
    app: Arc<str>,
    org_id: Arc<str>,
    responses: Responses,
    pub(crate) data_in: AtomicU64,
    pub(crate) data_out: AtomicU64,
    /// Connections its machines did not take.
    pub(crate) upstream_failures: AtomicU64,
    /// Requests sent again on another connection.
    pub(crate) retries: AtomicU64,
    /// Machines started for a request.
    pub(crate) wakes: AtomicU64,
    /// Requests that had to wait for a slot.
    pub(crate) queued: AtomicU64,
    /// Requests that were answered with a file of a machine, by its host's edge.
    pub(crate) files: AtomicU64,
    /// Requests that its machines sent elsewhere.
    pub(crate) replays: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Metrics {
    /// Count a request that gets no answer of a machine.
    pub(crate) fn refused(&self, status: u16, code: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry((status, code)).or_default() += 1;
    }

    /// Requests that got no answer of a machine, by status and code.
    pub(crate) fn refusals(&self) -> BTreeMap<(u16, &'static str), u64> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.clone()
    }

    /// What is counted of an app.
    pub(crate) fn app(&self, app: &Arc<str>, org_id: Option<&Arc<str>>) -> Arc<AppMetrics> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let org_id = org_id.cloned().unwrap_or_else(|| Arc::from(""));
        let held = apps
            .entry(app.clone())
            .or_insert_with(|| new_app(app, &org_id));
        if held.org_id != org_id {
            *held = new_app(app, &org_id);
        }
        held.clone()
    }

    /// What is counted of a machine of this host.
    pub(crate) fn machine(&self, machine_id: &Arc<str>) -> Arc<MachineMetrics> {
        self.machines.of(machine_id)
    }

    /// Forget what is not there any more.
    pub(crate) fn forget(&self, view: &View) {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever holds one counts by it; the API's name is no app's.
        apps.retain(|name, held| view.app(name).is_some() || Arc::strong_count(held) > 1);
        drop(apps);
        self.machines.keep(|id| view.machine(id).is_some());
    }

    /// The page of `/metrics`; `more` is appended.
    pub(crate) fn page(&self, view: &View, more: &str) -> String {
        let mut page = String::new();
        self.of_apps(&mut page);
        self.machines.write(&mut page, |id| labels(view, id));
        self.handshakes.write(&mut page);
        for (name, value) in [
            ("fly_edge_tcp_connects_count", &self.connects),
            ("fly_edge_tcp_disconnects_count", &self.disconnects),
            ("godwit_edge_private_connects_count", &self.private_connects),
            ("godwit_edge_unrouted_count", &self.unrouted),
            ("godwit_edge_backhaul_sent_count", &self.backhaul.sent),
            ("godwit_edge_backhaul_taken_count", &self.backhaul.taken),
            ("godwit_edge_backhaul_bounced_count", &self.backhaul.bounced),
            (
                "godwit_edge_backhaul_strangers_count",
                &self.backhaul.strangers,
            ),
        ] {
            head(&mut page, name, "counter");
            line(&mut page, name, "", value.load(Relaxed));
        }
        head(&mut page, REFUSALS, "counter");
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        for ((status, code), count) in &*refusals {
            let labels = format!("status=\"{status}\",code=\"{code}\"");
            line(&mut page, REFUSALS, &labels, *count);
        }
        drop(refusals);
        page.push_str(more);
        page
    }

    fn of_apps(&self, page: &mut String) {
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let labelled = apps.values().map(|app| (app.labels(), app.clone()));
        let mut apps: Vec<_> = labelled.collect();
        apps.sort_by(|(a, _), (b, _)| a.cmp(b));
        let each = apps.iter();
        let each = each.map(|(labels, app)| (labels.as_str(), &app.responses));
        responses::write(page, "fly_edge", each);
        for (name, read) in PER_APP {
            head(page, name, "counter");
            for (labels, app) in &apps {
                line(page, name, labels, read(app));
            }
        }
    }
}

/// What is said of a machine.
pub(crate) fn labels(view: &View, machine_id: &str) -> Option<String> {
    let machine = view.machine(machine_id)?;
    Some(format!(
        "app=\"{}\",org_id=\"{}\",region=\"{}\",instance=\"{}\"",
        escaped(&machine.app),
        escaped(&machine.org_id),
        escaped(&machine.region),
        escaped(machine_id),
    ))
}

type Read = fn(&AppMetrics) -> u64;

const PER_APP: [(&str, Read); 8] = [
    ("fly_edge_data_in", |app| app.data_in.load(Relaxed)),
    ("fly_edge_data_out", |app| app.data_out.load(Relaxed)),
    ("godwit_edge_connect_failures_count", |app| {
        app.upstream_failures.load(Relaxed)
    }),
    ("godwit_edge_retries_count", |app| app.retries.load(Relaxed)),
    ("godwit_edge_wakes_count", |app| app.wakes.load(Relaxed)),
    ("godwit_edge_queued_count", |app| app.queued.load(Relaxed)),
    ("godwit_edge_files_count", |app| app.files.load(Relaxed)),
    ("godwit_edge_replays_count", |app| app.replays.load(Relaxed)),
];

impl AppMetrics {
    /// Count a response and how long it took to its end.
    pub(crate) fn response(&self, status: u16, took: Duration) {
        self.responses.observe(status, took);
    }

    fn labels(&self) -> String {
        format!(
            "app=\"{}\",org_id=\"{}\"",
            escaped(&self.app),
            escaped(&self.org_id)
        )
    }
}

fn new_app(app: &Arc<str>, org_id: &Arc<str>) -> Arc<AppMetrics> {
    Arc::new(AppMetrics {
        app: app.clone(),
        org_id: org_id.clone(),
        responses: Responses::default(),
        data_in: AtomicU64::new(0),
        data_out: AtomicU64::new(0),
        upstream_failures: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        wakes: AtomicU64::new(0),
        queued: AtomicU64::new(0),
        files: AtomicU64::new(0),
        replays: AtomicU64::new(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_each_apps_responses_by_status() {
        let metrics = Metrics::default();
        let app = metrics.app(&"hello".into(), Some(&"org_1".into()));
        app.response(200, Duration::from_millis(2));
        app.response(200, Duration::from_mins(1));
        app.response(503, Duration::ZERO);
        let page = metrics.page(&View::default(), "more 1\n");
        for wanted in [
            r#"fly_edge_http_responses_count{app="hello",org_id="org_1",status="200"} 2"#,
            r#"fly_edge_http_response_time_seconds_bucket{app="hello",org_id="org_1",status="200",le="0.005"} 1"#,
            r#"fly_edge_http_response_time_seconds_bucket{app="hello",org_id="org_1",status="200",le="+Inf"} 2"#,
            r#"fly_edge_http_response_time_seconds_sum{app="hello",org_id="org_1",status="200"} 60.002"#,
            r#"fly_edge_http_responses_count{app="hello",org_id="org_1",status="503"} 1"#,
            "more 1",
        ] {
            assert!(page.lines().any(|line| line == wanted), "{wanted}\n{page}");
        }
    }
}
