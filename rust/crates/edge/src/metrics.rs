//! What the edge counts, and its page in Prometheus' text form (spec/network.md §7.1).

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

/// Upper bounds of the response time histogram, in microseconds, and as printed.
const BOUNDS: [(u64, &str); 12] = [
    (1_000, "0.001"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
];

const REFUSALS: &str = "godwit_edge_refused_requests_count";

/// Everything counted by this process.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    apps: Mutex<HashMap<Arc<str>, Arc<AppMetrics>>>,
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
    responses: RwLock<BTreeMap<u16, Arc<Responses>>>,
    pub(crate) data_in: AtomicU64,
    pub(crate) data_out: AtomicU64,
    /// Connections made to its machines.
    pub(crate) upstream_connects: AtomicU64,
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

#[derive(Debug, Default)]
struct Responses {
    count: AtomicU64,
    micros: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
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

    /// The page of `/metrics`; `more` is appended.
    pub(crate) fn page(&self, more: &str) -> String {
        let mut page = String::new();
        let apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let mut apps: Vec<_> = apps.values().cloned().collect();
        apps.sort_by(|a, b| a.app.cmp(&b.app));
        responses(&mut page, &apps);
        for (name, read) in PER_APP {
            head(&mut page, name, "counter");
            for app in &apps {
                line(&mut page, name, &app.labels(), read(app));
            }
        }
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
}

type Read = fn(&AppMetrics) -> u64;

const PER_APP: [(&str, Read); 9] = [
    ("fly_edge_data_in", |app| app.data_in.load(Relaxed)),
    ("fly_edge_data_out", |app| app.data_out.load(Relaxed)),
    ("fly_app_tcp_connects_count", |app| {
        app.upstream_connects.load(Relaxed)
    }),
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
        let responses = self.of_status(status);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        count(&responses.count);
        responses.micros.fetch_add(micros, Relaxed);
        let bucket = BOUNDS.iter().position(|(bound, _)| micros <= *bound);
        if let Some(bucket) = bucket {
            count(&responses.buckets[bucket]);
        }
    }

    fn of_status(&self, status: u16) -> Arc<Responses> {
        let held = self
            .responses
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(responses) = held.get(&status) {
            return responses.clone();
        }
        drop(held);
        let mut held = self
            .responses
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        held.entry(status).or_default().clone()
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
        responses: RwLock::default(),
        data_in: AtomicU64::new(0),
        data_out: AtomicU64::new(0),
        upstream_connects: AtomicU64::new(0),
        upstream_failures: AtomicU64::new(0),
        retries: AtomicU64::new(0),
        wakes: AtomicU64::new(0),
        queued: AtomicU64::new(0),
        files: AtomicU64::new(0),
        replays: AtomicU64::new(0),
    })
}

fn responses(page: &mut String, apps: &[Arc<AppMetrics>]) {
    const COUNT: &str = "fly_edge_http_responses_count";
    const TIME: &str = "fly_edge_http_response_time_seconds";
    let (mut counts, mut times) = (String::new(), String::new());
    for app in apps {
        let held = app.responses.read().unwrap_or_else(PoisonError::into_inner);
        for (status, responses) in held.iter() {
            let labels = format!("{},status=\"{status}\"", app.labels());
            let total = responses.count.load(Relaxed);
            line(&mut counts, COUNT, &labels, total);
            histogram(&mut times, TIME, &labels, responses, total);
        }
    }
    head(page, COUNT, "counter");
    page.push_str(&counts);
    head(page, TIME, "histogram");
    page.push_str(&times);
}

fn histogram(page: &mut String, name: &str, labels: &str, responses: &Responses, total: u64) {
    let bucket = format!("{name}_bucket");
    let mut sum = 0;
    for (held, (_, bound)) in responses.buckets.iter().zip(BOUNDS) {
        sum += held.load(Relaxed);
        line(page, &bucket, &format!("{labels},le=\"{bound}\""), sum);
    }
    line(
        page,
        &bucket,
        &format!("{labels},le=\"+Inf\""),
        total.max(sum),
    );
    let seconds = Duration::from_micros(responses.micros.load(Relaxed)).as_secs_f64();
    // Writing to a String does not fail.
    let _ = writeln!(page, "{name}_sum{{{labels}}} {seconds}");
    line(page, &format!("{name}_count"), labels, total.max(sum));
}

pub(crate) fn head(page: &mut String, name: &str, kind: &str) {
    let _ = writeln!(page, "# TYPE {name} {kind}");
}

pub(crate) fn line(page: &mut String, name: &str, labels: &str, value: u64) {
    let _ = match labels {
        "" => writeln!(page, "{name} {value}"),
        labels => writeln!(page, "{name}{{{labels}}} {value}"),
    };
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
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
        let page = metrics.page("more 1\n");
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

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
