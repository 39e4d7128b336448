//! What containers do next: a pure account of which run, wait, rest or have ended for good.
//!
//! Knows no process and no clock. Whoever starts and ends containers notes it here and asks what
//! is due: starts in the order of `depends_on`, restarts by policy, stops in the reverse order,
//! and how the machine ends.

use std::time::{Duration, Instant};

use godwit_wire::containers::{Condition, Container, RestartPolicy, State};

use crate::sessions::Ended;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// One that ran for so long has its retries back.
const STEADY: Duration = Duration::from_mins(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not started yet: for the first time, or again from then on.
    Waiting(Option<Instant>),
    Running(Instant),
    /// Ended for good.
    Over(Ended),
}

/// What becomes of a container that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Again(Duration),
    Over,
}

#[derive(Debug)]
struct Unit {
    waits_for: Vec<(usize, Condition)>,
    restart: RestartPolicy,
    max_retries: u32,
    /// Another one waits for its success: with that its work is done, and the machine goes on.
    prepares: bool,
    phase: Phase,
    ever_started: bool,
    retries: u32,
    asked_to_stop: bool,
}

/// All of a machine's containers, by their place in the run spec.
#[derive(Debug)]
pub(crate) struct Course {
    units: Vec<Unit>,
    /// Whether the machine was asked to stop: then nothing is started any more.
    stopping: bool,
    latest: Option<Ended>,
}

impl Course {
    pub(crate) fn new(containers: &[Container]) -> Self {
        let place = |name: &str| containers.iter().position(|other| other.name == name);
        let succeeds = |name: &str| {
            let mut all = containers.iter().flat_map(|other| &other.depends_on);
            all.any(|one| one.container == name && one.condition == Condition::ExitedSuccessfully)
        };
        let units = containers
            .iter()
            .map(|container| Unit {
                waits_for: container
                    .depends_on
                    .iter()
                    .filter_map(|one| Some((place(&one.container)?, one.condition)))
                    .collect(),
                restart: container.restart,
                max_retries: container.max_retries,
                prepares: succeeds(&container.name),
                phase: Phase::Waiting(None),
                ever_started: false,
                retries: 0,
                asked_to_stop: false,
            })
            .collect();
        Self {
            units,
            stopping: false,
            latest: None,
        }
    }

    pub(crate) fn is_running(&self, at: usize) -> bool {
        matches!(self.units[at].phase, Phase::Running(_))
    }

    pub(crate) fn state(&self, at: usize) -> State {
        match self.units[at].phase {
            Phase::Waiting(None) => State::Created,
            Phase::Waiting(Some(_)) => State::Starting,
            Phase::Running(_) => State::Started,
            Phase::Over(_) => State::Stopped,
        }
    }

    /// Which ones are to be started now, given which are healthy.
    pub(crate) fn due(&self, healthy: &[bool], now: Instant) -> Vec<usize> {
        if self.stopping {
            return Vec::new();
        }
        let due = |unit: &Unit| match unit.phase {
            Phase::Waiting(None) => unit
                .waits_for
                .iter()
                .all(|(other, condition)| self.holds(*other, *condition, healthy)),
            Phase::Waiting(Some(when)) => when <= now,
            _ => false,
        };
        (0..self.units.len())
            .filter(|at| due(&self.units[*at]))
            .collect()
    }

    fn holds(&self, at: usize, condition: Condition, healthy: &[bool]) -> bool {
        let unit = &self.units[at];
        match condition {
            Condition::Started => unit.ever_started,
            Condition::Healthy => self.is_running(at) && healthy[at],
            Condition::ExitedSuccessfully => {
                matches!(unit.phase, Phase::Over(ended) if ended.exit_code == 0)
            }
        }
    }

    /// When the next restart is due.
    pub(crate) fn next_start(&self) -> Option<Instant> {
        let waiting = self.units.iter().filter_map(|unit| match unit.phase {
            Phase::Waiting(when) => when,
            _ => None,
        });
        waiting.min().filter(|_| !self.stopping)
    }

    pub(crate) fn note_start(&mut self, at: usize, now: Instant) {
        let unit = &mut self.units[at];
        unit.phase = Phase::Running(now);
        unit.ever_started = true;
        unit.asked_to_stop = false;
    }

    /// Notes how one ended; `failed` when that is no success whatever its exit code says.
    pub(crate) fn note_end(
        &mut self,
        at: usize,
        ended: Ended,
        failed: bool,
        now: Instant,
    ) -> After {
        self.latest = Some(ended);
        let unit = &mut self.units[at];
        let steady = matches!(unit.phase, Phase::Running(since) if now - since >= STEADY);
        if steady {
            unit.retries = 0;
        }
        let again = match unit.restart {
            RestartPolicy::No => false,
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => {
                (failed || ended.exit_code != 0) && unit.retries < unit.max_retries
            }
        };
        if self.stopping || !again {
            unit.phase = Phase::Over(ended);
            return After::Over;
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << unit.retries.min(6));
        let pause = doubled.min(LONGEST_PAUSE);
        unit.retries += 1;
        unit.phase = Phase::Waiting(Some(now + pause));
        After::Again(pause)
    }

    /// How the machine ends, if it does.
    ///
    /// With the first container that ends for good, as it does with the first of its processes; but
    /// one that others waited for, and that succeeded, has only done its work. A machine that was
    /// asked to stop ends with the last of them, and the first in the run spec says how.
    pub(crate) fn verdict(&self) -> Option<Ended> {
        let over = |unit: &Unit| match unit.phase {
            Phase::Over(ended) => Some(ended),
            _ => None,
        };
        if self.stopping {
            if (0..self.units.len()).any(|at| self.is_running(at)) {
                return None;
            }
            let quiet = Ended {
                exit_code: 0,
                signal: None,
            };
            let first = self.units.first().and_then(over);
            return Some(first.or(self.latest).unwrap_or(quiet));
        }
        let ends = self
            .units
            .iter()
            .find_map(|unit| over(unit).filter(|ended| !(unit.prepares && ended.exit_code == 0)));
        let all = self.units.iter().all(|unit| over(unit).is_some());
        ends.or(self.latest.filter(|_| all))
    }

    /// Begins the machine's stop.
    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }

    /// Which ones are to be asked to end now: those that no running one depends on. Told once.
    pub(crate) fn take_stops(&mut self) -> Vec<usize> {
        if !self.stopping {
            return Vec::new();
        }
        let leaned_on = |at: usize| {
            let mut others = self.units.iter().enumerate();
            others.any(|(other, unit)| {
                self.is_running(other) && unit.waits_for.iter().any(|(on, _)| *on == at)
            })
        };
        let found: Vec<usize> = (0..self.units.len())
            .filter(|at| self.is_running(*at) && !self.units[*at].asked_to_stop && !leaned_on(*at))
            .collect();
        for at in &found {
            self.units[*at].asked_to_stop = true;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use godwit_wire::containers::{Condition, Container, Dependency, RestartPolicy, State};
    use godwit_wire::run_spec::Process;

    use super::{After, Course};
    use crate::sessions::Ended;

    fn container(name: &str, waits_for: &[(&str, Condition)]) -> Container {
        Container {
            name: name.into(),
            image: "root".into(),
            process: Process {
                argv: vec!["true".into()],
                env: BTreeMap::new(),
                env_base64: BTreeMap::new(),
                working_directory: "/".into(),
                user: String::new(),
                tty: false,
                open_files: 1024,
            },
            files: Vec::new(),
            restart: RestartPolicy::OnFailure,
            max_retries: 2,
            stop_signal: String::new(),
            stop_timeout_ms: 5_000,
            depends_on: waits_for
                .iter()
                .map(|(name, condition)| Dependency {
                    container: (*name).into(),
                    condition: *condition,
                })
                .collect(),
            binds: Vec::new(),
            healthchecks: Vec::new(),
        }
    }

    fn code(exit_code: i32) -> Ended {
        Ended {
            exit_code,
            signal: None,
        }
    }

    #[test]
    fn each_condition_holds_a_container_back_until_it_is_met() {
        let now = Instant::now();
        let all = [
            container("db", &[]),
            container("migrate", &[("db", Condition::Healthy)]),
            container("web", &[("migrate", Condition::ExitedSuccessfully)]),
            container("log", &[("web", Condition::Started)]),
        ];
        let mut course = Course::new(&all);
        assert_eq!(course.due(&[false; 4], now), [0]);
        course.note_start(0, now);
        assert!(course.due(&[false; 4], now).is_empty());
        let healthy = [true, false, false, false];
        assert_eq!(course.due(&healthy, now), [1]);
        course.note_start(1, now);
        assert!(course.due(&healthy, now).is_empty());
        assert_eq!(course.note_end(1, code(0), false, now), After::Over);
        assert_eq!(course.verdict(), None, "it has only done its work");
        assert_eq!(course.due(&healthy, now), [2]);
        course.note_start(2, now);
        assert_eq!(course.due(&healthy, now), [3]);
    }

    #[test]
    fn each_is_created_started_starting_again_or_stopped() {
        let now = Instant::now();
        let mut course = Course::new(&[container("db", &[])]);
        assert_eq!(course.state(0), State::Created);
        course.note_start(0, now);
        assert_eq!(course.state(0), State::Started);
        course.note_end(0, code(4), false, now);
        assert_eq!(course.state(0), State::Starting);
        course.note_start(0, now);
        course.note_end(0, code(0), false, now);
        assert_eq!(course.state(0), State::Stopped);
    }

    #[test]
    fn the_machine_ends_with_the_first_that_ends_for_good() {
        let now = Instant::now();
        let all = [container("web", &[]), container("side", &[])];
        let mut course = Course::new(&all);
        course.note_start(0, now);
        course.note_start(1, now);
        assert_eq!(course.verdict(), None);
        assert_eq!(course.note_end(1, code(0), false, now), After::Over);
        assert_eq!(course.verdict(), Some(code(0)));
    }

    #[test]
    fn preparations_that_fail_end_the_machine_and_so_does_the_last_success() {
        let now = Instant::now();
        let waits = [("prepare", Condition::ExitedSuccessfully)];
        let mut first = container("prepare", &[]);
        first.restart = RestartPolicy::No;
        let mut course = Course::new(&[first.clone(), container("web", &waits)]);
        course.note_start(0, now);
        course.note_end(0, code(3), false, now);
        assert_eq!(course.verdict(), Some(code(3)));
    }

    #[test]
    fn retries_wait_longer_each_time_and_come_to_an_end() {
        let now = Instant::now();
        let mut course = Course::new(&[container("web", &[])]);
        course.note_start(0, now);
        let after = course.note_end(0, code(1), false, now);
        assert_eq!(after, After::Again(Duration::from_secs(1)));
        assert_eq!(course.next_start(), Some(now + Duration::from_secs(1)));
        assert!(course.due(&[false], now).is_empty());
        let later = now + Duration::from_secs(1);
        assert_eq!(course.due(&[false], later), [0]);
        course.note_start(0, later);
        let after = course.note_end(0, code(1), false, later);
        assert_eq!(after, After::Again(Duration::from_secs(2)));
        course.note_start(0, later);
        assert_eq!(course.note_end(0, code(1), false, later), After::Over);
        assert_eq!(course.verdict(), Some(code(1)));
    }

    #[test]
    fn one_that_ran_for_long_has_its_retries_back() {
        let now = Instant::now();
        let mut course = Course::new(&[container("web", &[])]);
        for _ in 0..5 {
            course.note_start(0, now);
            let late = now + Duration::from_secs(301);
            let after = course.note_end(0, code(1), false, late);
            assert_eq!(after, After::Again(Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_failed_check_is_a_failure_whatever_the_exit_code() {
        let now = Instant::now();
        let mut course = Course::new(&[container("web", &[])]);
        course.note_start(0, now);
        let after = course.note_end(0, code(0), true, now);
        assert_eq!(after, After::Again(Duration::from_secs(1)));
    }

    #[test]
    fn a_stop_goes_from_those_that_depend_to_those_they_depend_on() {
        let now = Instant::now();
        let waits = [("db", Condition::Started)];
        let all = [container("web", &waits), container("db", &[])];
        let mut course = Course::new(&all);
        course.note_start(0, now);
        course.note_start(1, now);
        assert!(course.take_stops().is_empty());
        course.stop();
        assert_eq!(course.take_stops(), [0]);
        assert!(course.take_stops().is_empty(), "it is told once");
        assert_eq!(course.note_end(0, code(5), false, now), After::Over);
        assert_eq!(course.verdict(), None);
        assert_eq!(course.take_stops(), [1]);
        course.note_end(1, code(7), false, now);
        assert_eq!(course.verdict(), Some(code(5)));
    }

    #[test]
    fn nothing_is_started_in_a_stop() {
        let now = Instant::now();
        let mut course = Course::new(&[container("web", &[])]);
        course.stop();
        assert!(course.due(&[true], now).is_empty());
        assert_eq!(course.verdict(), Some(code(0)));
    }
}
