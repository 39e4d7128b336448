//! From configuration to exit: bind, say so, answer until asked to stop.

use std::sync::Arc;

use godwit_service::{limits, notify, signals::Termination};
use godwit_watch::Sources;
use godwit_wire::components::DnsConfig;
use tokio::net::{TcpListener, UdpSocket};

use crate::internal::Here;
use crate::server::Server;
use crate::{bind, tcp, udp};

/// Run the server until it is asked to stop.
///
/// One thread with a current-thread runtime answers: the platform's own names cost microseconds
/// each, and those from outside are waited for, not worked for.
pub(crate) fn run(config: &DnsConfig) -> Result<(), String> {
    if config.upstreams.is_empty() {
        log::warn!("no upstreams: names outside have no answer");
    }
    limits::raise_open_files();
    let watch = godwit_watch::start(sources(config));
    let here = Here {
        host_id: config.host_id.clone(),
        region: config.region.clone(),
        region_ms: config.region_ms.clone(),
    };
    let server = Arc::new(Server::new(watch.clone(), here, config.upstreams.clone()));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let result = runtime.block_on(serve(config, &server));
    watch.stop();
    result
}

fn sources(config: &DnsConfig) -> Sources {
    Sources {
        component: "dns",
        host_id: config.host_id.clone(),
        region: config.region.clone(),
        agent_socket: config.agent_socket.clone(),
        bus: config.bus.clone(),
        view_file: config.view_file.clone(),
        flights: None,
    }
}

async fn serve(config: &DnsConfig, server: &Arc<Server>) -> Result<(), String> {
    let mut termination = Termination::listen().map_err(|error| error.to_string())?;
    let binding = async {
        for address in &config.addresses {
            let bound = bind::bind(*address).await?;
            let take = |error: std::io::Error| format!("{address}: {error}");
            let socket = UdpSocket::from_std(bound.udp).map_err(take)?;
            let listener = TcpListener::from_std(bound.tcp).map_err(take)?;
            tokio::spawn(udp::serve(server.clone(), Arc::new(socket)));
            tokio::spawn(tcp::serve(server.clone(), listener));
            log::info!("answering on {address}");
        }
        Ok::<_, String>(())
    };
    tokio::select! {
        bound = binding => bound?,
        () = termination.asked() => return Ok(()),
    }
    notify::ready();
    termination.asked().await;
    // A query that gets no answer now is asked again by its resolver, and by then answered.
    Ok(())
}
