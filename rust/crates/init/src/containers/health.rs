//! How one container is: its checks' answers, counted against their thresholds. Pure.

use std::time::{Duration, Instant};

use godwit_wire::containers::{self, CheckStanding, HealthCheck, Question};

/// How soon a check is asked again that has not passed yet: whoever waits for it waits no longer
/// than need be.
const EAGER: Duration = Duration::from_secs(1);
/// So long is it, from the end of its grace period.
const EAGER_FOR: Duration = Duration::from_mins(1);

/// One check of one run of a container.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) check: HealthCheck,
    /// Failures before it do not count.
    mature: Instant,
    due: Instant,
    /// When a failure counted last: others within an interval of it are of no account.
    counted: Option<Instant>,
    successes: u32,
    failures: u32,
    standing: CheckStanding,
}

/// What an answer made of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Same,
    Passes,
    Fails,
}

impl Health {
    /// Begins to check a container that was just started.
    pub(crate) fn begin(check: &HealthCheck, now: Instant) -> Self {
        Self {
            check: check.clone(),
            mature: now + Duration::from_secs(check.grace_s),
            due: now,
            counted: None,
            successes: 0,
            failures: 0,
            standing: CheckStanding {
                status: containers::Health::Warning,
                output: "no answer has counted yet".into(),
            },
        }
    }

    /// When it is asked next; `None` when the host does that.
    pub(crate) fn due(&self) -> Option<Instant> {
        (!matches!(self.check.question, Question::Host {})).then_some(self.due)
    }

    /// How long an answer may take.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.check.timeout_s)
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.standing.status == containers::Health::Passing
    }

    /// How it is, and what the answer said that made it so.
    pub(crate) fn standing(&self) -> &CheckStanding {
        &self.standing
    }

    /// Takes an answer, and what it said.
    pub(crate) fn note(&mut self, well: bool, output: String, now: Instant) -> Turn {
        let turn = if well {
            self.note_success()
        } else {
            self.note_failure(now)
        };
        let status = match turn {
            Turn::Same => self.standing.status,
            Turn::Passes => containers::Health::Passing,
            Turn::Fails => containers::Health::Critical,
        };
        if turn != Turn::Same {
            self.standing = CheckStanding { status, output };
        }
        let interval = Duration::from_secs(self.check.interval_s);
        let eager = status != containers::Health::Passing && now < self.mature + EAGER_FOR;
        self.due = now + if eager { interval.min(EAGER) } else { interval };
        turn
    }

    fn note_success(&mut self) -> Turn {
        (self.failures, self.counted) = (0, None);
        self.successes = self.successes.saturating_add(1);
        if self.is_passing() || self.successes < self.check.success_threshold {
            return Turn::Same;
        }
        Turn::Passes
    }

    fn note_failure(&mut self, now: Instant) -> Turn {
        self.successes = 0;
        let interval = Duration::from_secs(self.check.interval_s);
        let again = self.counted.is_some_and(|when| now < when + interval);
        if now < self.mature || again {
            return Turn::Same;
        }
        self.counted = Some(now);
        self.failures = self.failures.saturating_add(1);
        let failed = self.standing.status == containers::Health::Critical;
        if failed || self.failures < self.check.failure_threshold {
            return Turn::Same;
        }
        Turn::Fails
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use godwit_wire::containers::{self, HealthCheck, Question};

    use super::{Health, Turn};

    fn check() -> HealthCheck {
        HealthCheck {
            name: "up".into(),
            question: Question::Tcp { port: 80 },
            interval_s: 10,
            timeout_s: 2,
            grace_s: 5,
            success_threshold: 2,
            failure_threshold: 2,
            stops: true,
        }
    }

    fn note(health: &mut Health, well: bool, now: Instant) -> Turn {
        health.note(well, format!("{well}"), now)
    }

    #[test]
    fn it_passes_and_fails_by_its_thresholds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::begin(&check(), start);
        assert_eq!(health.due(), Some(start));
        assert_eq!(note(&mut health, true, at(10)), Turn::Same);
        assert!(!health.is_passing());
        assert_eq!(note(&mut health, true, at(20)), Turn::Passes);
        assert!(health.is_passing());
        assert_eq!(health.due(), Some(at(30)));
        assert_eq!(note(&mut health, false, at(30)), Turn::Same);
        assert!(health.is_passing(), "one failure is none");
        assert_eq!(note(&mut health, false, at(40)), Turn::Fails);
        assert!(!health.is_passing());
        assert_eq!(note(&mut health, false, at(50)), Turn::Same, "told once");
        let standing = health.standing();
        assert_eq!(standing.status, containers::Health::Critical);
        assert_eq!(standing.output, "false");
    }

    #[test]
    fn failures_in_the_grace_period_do_not_count() {
        let start = Instant::now();
        let mut health = Health::begin(&check(), start);
        for _ in 0..10 {
            let early = start + Duration::from_secs(4);
            assert_eq!(note(&mut health, false, early), Turn::Same);
        }
        let late = |seconds: u64| start + Duration::from_secs(5 + seconds);
        assert_eq!(note(&mut health, false, late(0)), Turn::Same);
        assert_eq!(note(&mut health, false, late(10)), Turn::Fails);
    }

    #[test]
    fn until_it_passes_it_is_asked_often_and_fails_no_sooner_for_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::begin(&check(), start);
        for second in 5..15 {
            assert_eq!(note(&mut health, false, at(second)), Turn::Same);
            assert_eq!(health.due(), Some(at(second + 1)));
        }
        assert_eq!(note(&mut health, false, at(15)), Turn::Fails);
        assert_eq!(note(&mut health, false, at(65)), Turn::Same);
        assert_eq!(health.due(), Some(at(75)), "not for ever");
    }

    #[test]
    fn what_the_host_asks_is_never_due() {
        let question = Question::Host {};
        let check = HealthCheck {
            question,
            ..check()
        };
        let start = Instant::now();
        let mut health = Health::begin(&check, start);
        note(&mut health, true, start);
        assert_eq!(note(&mut health, true, start), Turn::Passes);
        assert_eq!(health.due(), None);
    }
}
