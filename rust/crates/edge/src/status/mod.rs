//! The status page: `/status`, `/ready`, `/metrics`, `/view`, `/ports`, `/distances`.

mod overview;
mod page;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use godwit_catalog::View;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use overview::Overview;

use crate::datagrams::sockets;
use crate::drain::{Phase, Phases};
use crate::edge::Edge;
use crate::front::ports;
use crate::metrics::{escaped, head, labels, line};

/// What `/ports` shows.
#[derive(Serialize)]
struct AllPorts<'a> {
    #[serde(flatten)]
    tcp: &'a ports::Report,
    udp: &'a sockets::Report,
}

/// What `/distances` shows: round trips, in microseconds, of what was measured or is assumed.
#[derive(Serialize)]
struct Distances {
    hosts: BTreeMap<String, Distance>,
    regions: BTreeMap<String, u32>,
}

/// `silent` is a host that did not answer the last time.
#[derive(Serialize)]
struct Distance {
    micros: u32,
    silent: bool,
}

const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A reader is served no longer than this.
const SERVE_WITHIN: Duration = Duration::from_mins(1);

/// Serve the status page until the process ends.
pub(crate) async fn serve(edge: Arc<Edge>, listener: TcpListener, phases: Phases) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (edge, phases) = (edge.clone(), phases.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(&edge, &phases, &request);
            std::future::ready(Ok::<_, Infallible>(response))
        });
        tokio::spawn(async move {
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .serve_connection(TokioIo::new(stream), service);
            // A reader who goes away early has what it wanted.
            let _ = timeout(SERVE_WITHIN, serving).await;
        });
    }
}

fn answer(edge: &Edge, phases: &Phases, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let plain = "text/plain; charset=utf-8";
    match request.uri().path() {
        "/status" => status(edge, phases, request),
        "/ready" if *phases.borrow() == Phase::Serving => {
            page(StatusCode::OK, plain, "ready\n".into())
        }
        "/ready" => page(StatusCode::SERVICE_UNAVAILABLE, plain, "draining\n".into()),
        "/metrics" => {
            let view = edge.watch.view();
            edge.metrics.forget(&view);
            let text = edge.metrics.page(&view, &gauges(edge, &view));
            page(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                text,
            )
        }
        "/view" => {
            let json = serde_json::to_string(&edge.watch.report()).unwrap_or_default();
            page(StatusCode::OK, "application/json", json + "\n")
        }
        "/ports" => {
            let ports = edge.front.ports.lock();
            let ports = ports.unwrap_or_else(PoisonError::into_inner);
            let udp = edge.datagrams.open.lock();
            let udp = udp.unwrap_or_else(PoisonError::into_inner);
            let all = AllPorts {
                tcp: &ports,
                udp: &udp,
            };
            let json = serde_json::to_string(&all).unwrap_or_default();
            page(StatusCode::OK, "application/json", json + "\n")
        }
        "/distances" => {
            let host = |(id, micros, silent): (Arc<str>, u32, bool)| {
                (id.to_string(), Distance { micros, silent })
            };
            let region = |(code, micros): (Arc<str>, u32)| (code.to_string(), micros);
            let distances = Distances {
                hosts: edge.standings.hosts().into_iter().map(host).collect(),
                regions: edge.standings.regions().into_iter().map(region).collect(),
            };
            let json = serde_json::to_string(&distances).unwrap_or_default();
            page(StatusCode::OK, "application/json", json + "\n")
        }
        _ => page(
            StatusCode::NOT_FOUND,
            plain,
            "/status /ready /metrics /view /ports /distances
"
            .into(),
        ),
    }
}

/// The overview: a page, or JSON for who asks for that.
fn status(edge: &Edge, phases: &Phases, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let overview = Overview::of(edge, *phases.borrow());
    let accepted = request.headers().get(ACCEPT);
    let accepted = accepted.and_then(|kinds| kinds.to_str().ok());
    if accepted.is_some_and(|kinds| kinds.contains("application/json")) {
        let json = serde_json::to_string(&overview).unwrap_or_default();
        return page(StatusCode::OK, "application/json", json + "\n");
    }
    let html = page::html(&overview);
    page(StatusCode::OK, "text/html; charset=utf-8", html)
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

type ReadHost = fn(u32, bool) -> u64;

/// What is known of other hosts.
const PER_HOST: [(&str, ReadHost); 2] = [
    ("godwit_edge_backhaul_rtt_microseconds", |micros, _| {
        micros.into()
    }),
    ("godwit_edge_backhaul_silent", |_, doubted| doubted.into()),
];

/// What is so at this moment, and the catalog's counts.
fn gauges(edge: &Edge, view: &View) -> String {
    let mut page = String::new();
    head(&mut page, "fly_app_concurrency", "gauge");
    for (id, port, active) in edge.loads.active() {
        let Some(machine) = labels(view, &id) else {
            continue;
        };
        let labels = format!("{machine},internal_port=\"{port}\"");
        line(&mut page, "fly_app_concurrency", &labels, u64::from(active));
    }
    front(&mut page, edge);
    bodies(&mut page, edge);
    datagrams(&mut page, edge);
    let hosts = edge.standings.hosts();
    for (name, read) in PER_HOST {
        head(&mut page, name, "gauge");
        for (id, micros, doubted) in &hosts {
            let labels = format!("host=\"{}\"", escaped(id));
            line(&mut page, name, &labels, read(*micros, *doubted));
        }
    }
    let report = edge.watch.report();
    let size = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    for (name, kind, value) in [
        ("godwit_edge_waiting", "gauge", size(edge.loads.waiting())),
        ("godwit_catalog_apps", "gauge", size(report.apps)),
        ("godwit_catalog_machines", "gauge", size(report.machines)),
        ("godwit_catalog_hosts", "gauge", size(report.hosts)),
        (
            "godwit_catalog_agent_synced",
            "gauge",
            u64::from(report.agent_synced),
        ),
        (
            "godwit_catalog_bus_synced",
            "gauge",
            u64::from(report.bus_synced),
        ),
        (
            "godwit_catalog_mirror_synced",
            "gauge",
            u64::from(report.mirror_synced),
        ),
        (
            "godwit_catalog_bus_silences_count",
            "counter",
            report.bus_silences,
        ),
        ("godwit_catalog_applied_count", "counter", report.applied),
        (
            "godwit_catalog_skipped_unreadable_count",
            "counter",
            report.skipped_unreadable,
        ),
        (
            "godwit_catalog_skipped_owner_count",
            "counter",
            report.skipped_owner,
        ),
        ("godwit_catalog_restarts_count", "counter", report.restarts),
    ] {
        head(&mut page, name, kind);
        line(&mut page, name, "", value);
    }
    page
}

/// What is listened on, and what was refused before it became a request.
fn front(page: &mut String, edge: &Edge) {
    const REFUSED: &str = "godwit_edge_refused_connections_count";
    head(page, REFUSED, "counter");
    for (reason, count) in edge.front.refused.all() {
        line(page, REFUSED, &format!("reason=\"{reason}\""), count);
    }
    let mut before = "";
    for (name, kind, count) in edge.front.refused.limited() {
        if name != before {
            head(page, name, "counter");
        }
        before = name;
        let labels = match kind {
            "" => String::new(),
            kind => format!("type=\"{kind}\""),
        };
        line(page, name, &labels, count);
    }
    let ports = edge.front.ports.lock();
    let ports = ports.unwrap_or_else(PoisonError::into_inner);
    for (name, count) in [
        ("godwit_edge_ports_open", ports.open.len()),
        ("godwit_edge_ports_refused", ports.refused.len()),
        ("godwit_edge_ports_beyond_limit", ports.beyond_limit),
    ] {
        head(page, name, "gauge");
        line(page, name, "", u64::try_from(count).unwrap_or(u64::MAX));
    }
}

/// How much of requests' bodies is kept, and how many were not for want of room.
fn bodies(page: &mut String, edge: &Edge) {
    const KEPT: &str = "godwit_edge_kept_body_bytes";
    const UNKEPT: &str = "godwit_edge_unkept_bodies_count";
    head(page, KEPT, "gauge");
    let used = u64::try_from(edge.bodies.used()).unwrap_or(u64::MAX);
    line(page, KEPT, "", used);
    head(page, UNKEPT, "counter");
    line(page, UNKEPT, "", edge.bodies.unkept());
}

/// Flows of UDP services, and what did not become one or was not passed on.
fn datagrams(page: &mut String, edge: &Edge) {
    const BEGUN: &str = "godwit_edge_udp_flows_count";
    const FLOWS: &str = "godwit_edge_udp_flows";
    let datagrams = &edge.datagrams;
    head(page, FLOWS, "gauge");
    let flows = u64::try_from(datagrams.flows()).unwrap_or(u64::MAX);
    line(page, FLOWS, "", flows);
    head(page, BEGUN, "counter");
    line(page, BEGUN, "", datagrams.begun.load(Relaxed));
    for (name, counts) in [
        ("godwit_edge_udp_refused_count", &datagrams.refused),
        ("godwit_edge_udp_dropped_count", &datagrams.dropped),
    ] {
        head(page, name, "counter");
        for (reason, count) in counts.all() {
            line(page, name, &format!("reason=\"{reason}\""), count);
        }
    }
    let open = datagrams.open.lock();
    let open = open.unwrap_or_else(PoisonError::into_inner);
    for (name, count) in [
        ("godwit_edge_udp_ports_open", open.open.len()),
        ("godwit_edge_udp_ports_refused", open.refused.len()),
        ("godwit_edge_udp_ports_beyond_limit", open.beyond_limit),
    ] {
        head(page, name, "gauge");
        line(page, name, "", u64::try_from(count).unwrap_or(u64::MAX));
    }
}
