//! Log lines on stderr, as the Python components write them.
//!
//! What a line is about follows its words: `… org_id=org_… network_id=net_…`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;

use ::log::kv::{Error, Key, Value, VisitSource};
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
        let line = line(self.component, record, SystemTime::now());
        // Nobody is left to be told that stderr is closed.
        let _ = std::io::stderr().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

fn line(component: &str, record: &Record<'_>, at: SystemTime) -> String {
    let mut line = format!(
        "{} {component} {} {}: {}",
        utc::timestamp(at),
        record.level(),
        record.target(),
        record.args(),
    );
    // Neither writing to a string nor this visitor fails.
    let _ = record.key_values().visit(&mut About(&mut line));
    line.push('\n');
    line
}

/// Writes what a line is about; what is not known says nothing.
struct About<'a>(&'a mut String);

impl<'kvs> VisitSource<'kvs> for About<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
        let text = value.to_string();
        let _ = match text.as_str() {
            "" => Ok(()),
            plain if plain.contains([' ', '"', '=', '\n', '\r', '\t']) => {
                write!(self.0, " {key}={plain:?}")
            }
            plain => write!(self.0, " {key}={plain}"),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use ::log::Level;

    use super::*;

    fn written(pairs: &[(&str, &str)]) -> String {
        let mut builder = Record::builder();
        builder.level(Level::Warn).target("edge::reach");
        builder.key_values(&pairs);
        line(
            "edge",
            &builder.args(format_args!("it cannot start")).build(),
            UNIX_EPOCH + Duration::from_millis(1_767_323_045_678),
        )
    }

    #[test]
    fn a_line_looks_as_those_of_the_python_components() {
        assert_eq!(
            written(&[("org_id", "org_1"), ("machine_id", "m1")]),
            "2026-01-02T03:04:05.678Z edge WARN edge::reach: it cannot start \
             org_id=org_1 machine_id=m1\n"
        );
    }

    #[test]
    fn what_is_not_known_says_nothing_and_odd_values_are_quoted() {
        let line = written(&[("org_id", ""), ("app", "a b\" org_id=x")]);
        assert!(
            line.ends_with("it cannot start app=\"a b\\\" org_id=x\"\n"),
            "{line}"
        );
    }
}
