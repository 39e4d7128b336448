//! Log lines on stderr, as the Python components write them.

use std::io::Write;
use std::time::SystemTime;

use ::log::{LevelFilter, Log, Metadata, Record};

use crate::utc;

struct Stderr {
    component: &'static str,
}

/// Send this process's log lines to stderr, prefixed by its component.
///
/// `GODWIT_LOG` may name another level than `info`.
pub fn set_up(component: &'static str) {
    let level = std::env::var("GODWIT_LOG")
        .ok()
        .and_then(|level| level.parse().ok());
    ::log::set_max_level(level.unwrap_or(LevelFilter::Info));
    // It fails only when a logger is set already, as when a test sets up twice.
    let _ = ::log::set_boxed_logger(Box::new(Stderr { component }));
}

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = format!(
            "{} {} {} {}: {}\n",
            utc::timestamp(SystemTime::now()),
            self.component,
            record.level(),
            record.target(),
            record.args(),
        );
        // Nobody is left to be told that stderr is closed.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}
