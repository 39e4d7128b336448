//! How one container is: its checks' answers, counted against their thresholds. Pure.

use std::time::{Duration, Instant};

use godwit_wire::containers::HealthCheck;

/// One check of one run of a container.
#[derive(Debug)]
pub(crate) struct Health {
    pub(crate) check: HealthCheck,
    /// Failures before it do not count.
    mature: Instant,
    due: Instant,
    successes: u32,
    failures: u32,
    passing: bool,
    failed: bool,
}

impl Health {
    /// Begins to check a container that was just started.
    pub(crate) fn begin(check: &HealthCheck, now: Instant) -> Self {
        Self {
            check: check.clone(),
            mature: now + Duration::from_secs(check.grace_s),
            due: now,
            successes: 0,
            failures: 0,
            passing: false,
            failed: false,
        }
    }

    /// When it is asked next.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// How long an answer may take.
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs(self.check.timeout_s)
    }

    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// Takes an answer; tells whether the check has come to fail just now.
    pub(crate) fn note(&mut self, well: bool, now: Instant) -> bool {
        self.due = now + Duration::from_secs(self.check.interval_s);
        if well {
            self.failures = 0;
            self.successes = self.successes.saturating_add(1);
            if self.successes >= self.check.success_threshold {
                (self.passing, self.failed) = (true, false);
            }
            return false;
        }
        self.successes = 0;
        if now < self.mature {
            return false;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures < self.check.failure_threshold {
            return false;
        }
        self.passing = false;
        !std::mem::replace(&mut self.failed, true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use godwit_wire::containers::{HealthCheck, Question};

    use super::Health;

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

    #[test]
    fn it_passes_and_fails_by_its_thresholds() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::begin(&check(), start);
        assert_eq!(health.due(), start);
        health.note(true, at(10));
        assert!(!health.is_passing());
        assert_eq!(health.due(), at(20));
        health.note(true, at(20));
        assert!(health.is_passing());
        assert!(!health.note(false, at(30)));
        assert!(health.is_passing(), "one failure is none");
        assert!(health.note(false, at(40)), "it fails");
        assert!(!health.is_passing());
        assert!(!health.note(false, at(50)), "it is told once");
    }

    #[test]
    fn failures_in_the_grace_period_do_not_count() {
        let start = Instant::now();
        let mut health = Health::begin(&check(), start);
        for _ in 0..10 {
            assert!(!health.note(false, start + Duration::from_secs(4)));
        }
        let late = start + Duration::from_secs(5);
        assert!(!health.note(false, late));
        assert!(health.note(false, late));
    }
}
