//! What all parts of the edge share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use godwit_watch::{Waker, Watch};
use godwit_wire::components::EdgeConfig;
use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use crate::backhaul::Standings;
use crate::controls::Controls;
use crate::datagrams::Datagrams;
use crate::front::Front;
use crate::machines::departure::Departures;
use crate::machines::load::Loads;
use crate::metrics::Metrics;
use crate::replay::cache::Cache;
use crate::request::caller::Callers;
use crate::request::compress;
use crate::request::kept::Budget;

#[derive(Debug)]
pub(crate) struct Edge {
    pub(crate) config: EdgeConfig,
    pub(crate) region: HeaderValue,
    pub(crate) begun: Instant,
    pub(crate) watch: Watch,
    pub(crate) waker: Waker,
    pub(crate) loads: Arc<Loads>,
    pub(crate) metrics: Metrics,
    pub(crate) front: Front,
    pub(crate) datagrams: Datagrams,
    /// Other hosts and regions, as far as they were met.
    pub(crate) standings: Standings,
    /// Who waits for the end of machines.
    pub(crate) departures: Departures,
    /// What apps let the edge remember.
    pub(crate) replays: Cache,
    /// Machines that ask, and how apps are told of them.
    pub(crate) callers: Callers,
    /// Room for requests' bodies that may have to be sent again.
    pub(crate) bodies: Arc<Budget>,
    /// Room for responses that are being compressed.
    pub(crate) encoders: Arc<Semaphore>,
    /// A worker measures the regions.
    pub(crate) probing: AtomicBool,
    /// A worker looks for machines that are not needed.
    pub(crate) stopping: AtomicBool,
    pub(crate) controls: Controls,
}

impl Edge {
    /// # Errors
    /// The configuration has a region that no header can carry, or what the front cannot use.
    pub(crate) fn new(
        config: EdgeConfig,
        watch: Watch,
        loads: Arc<Loads>,
    ) -> Result<Self, String> {
        let region = HeaderValue::from_str(&config.region)
            .map_err(|_| format!("region {:?} is not a word", config.region))?;
        let waker = watch.waker();
        let metrics = Metrics::default();
        let estimates = config.region_ms.iter();
        let standings = Standings::new(estimates.map(|(region, ms)| (region.clone(), *ms)));
        let front = Front::new(&config)?;
        let datagrams = Datagrams::new(&config.limits);
        let bodies = Budget::new(config.limits.kept_body_bytes);
        let callers = Callers::new(config.fly_src_key_file.clone());
        Ok(Edge {
            config,
            region,
            begun: Instant::now(),
            watch,
            waker,
            loads,
            metrics,
            front,
            datagrams,
            standings,
            departures: Departures::default(),
            replays: Cache::default(),
            callers,
            bodies,
            encoders: Arc::new(Semaphore::new(compress::MOST_AT_ONCE)),
            probing: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            controls: Controls::default(),
        })
    }
}
