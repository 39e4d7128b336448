//! Entropy and time, set before anything else of a machine runs.

use std::fs::File;
use std::os::fd::AsFd;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::time::{ClockId, Timespec, clock_settime};

use super::{Context, Staged};
use crate::sys;

/// Credits the host's bytes to the random pool and forces a reseed.
pub(crate) fn entropy(base64: Option<&str>) -> Staged<()> {
    let Some(text) = base64 else { return Ok(()) };
    let bytes = STANDARD
        .decode(text)
        .stage("entropy", "the run spec's entropy")?;
    let device = File::options()
        .write(true)
        .open("/dev/random")
        .stage("entropy", "cannot open /dev/random")?;
    sys::add_entropy(device.as_fd(), &bytes).stage("entropy", "cannot credit entropy")
}

/// Sets the clock; without a time the guest keeps what its RTC said.
pub(crate) fn set(unix_ns: Option<i64>) -> Staged<()> {
    let Some(ns) = unix_ns else { return Ok(()) };
    let time = Timespec {
        tv_sec: ns.div_euclid(1_000_000_000),
        tv_nsec: ns.rem_euclid(1_000_000_000),
    };
    clock_settime(ClockId::Realtime, time).stage("clock", "cannot set the clock")
}
