//! A waker of one's own, for what a task looks after beside other things.
//!
//! It tells whether there is anything to do at all, so that the rest of the task's turns cost
//! nothing; and while its owner is at it, it wakes nobody: what comes up meanwhile is done in the
//! same turn.

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

const QUIET: u8 = 0;
const RUNG: u8 = 1;
/// Somebody is at it.
const ATTENDED: u8 = 2;

/// What is done in one turn before others have theirs.
const ROUNDS: usize = 4;

/// Rung by whatever its waker is given to, heard by one task at a time.
#[derive(Debug)]
pub(crate) struct Bell {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Bell {
    /// A bell that is rung already: what it is for begins with a first look.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Bell {
            state: AtomicU8::new(RUNG),
            task: Mutex::new(Waker::noop().clone()),
        })
    }

    /// Have it wake this task from now on, and no other.
    pub(crate) fn heard_by(&self, waker: &Waker) {
        self.task().clone_from(waker);
    }

    /// Do what it was rung for, and what it is rung for meanwhile; whether it was rung at all.
    pub(crate) fn attend(&self, mut work: impl FnMut()) -> bool {
        let begun = self.state.compare_exchange(RUNG, ATTENDED, AcqRel, Acquire);
        if begun.is_err() {
            return false;
        }
        for _ in 0..ROUNDS {
            work();
            let over = self
                .state
                .compare_exchange(ATTENDED, QUIET, AcqRel, Acquire);
            if over.is_ok() {
                return true;
            }
            self.state.swap(ATTENDED, AcqRel);
        }
        self.state.store(RUNG, Release);
        self.task().wake_by_ref();
        true
    }

    fn task(&self) -> MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.fetch_or(RUNG, AcqRel) == QUIET {
            self.task().wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn a_task_is_woken_once_for_what_it_has_not_looked_at() {
        let (bell, task) = (Bell::new(), Arc::new(Woken::default()));
        bell.heard_by(&Waker::from(task.clone()));
        let ringer = Waker::from(bell.clone());
        assert!(bell.attend(|| {}) && !bell.attend(|| {}));
        ringer.wake_by_ref();
        ringer.wake_by_ref();
        assert_eq!(task.0.load(Relaxed), 1);
        assert!(bell.attend(|| {}) && !bell.attend(|| {}));
    }

    #[test]
    fn what_comes_up_meanwhile_is_done_in_the_same_turn() {
        let (bell, task) = (Bell::new(), Arc::new(Woken::default()));
        bell.heard_by(&Waker::from(task.clone()));
        let ringer = Waker::from(bell.clone());
        let mut rounds = 0;
        bell.attend(|| {
            rounds += 1;
            if rounds < ROUNDS {
                ringer.wake_by_ref();
            }
        });
        assert_eq!((rounds, task.0.load(Relaxed)), (ROUNDS, 0));
        assert!(!bell.attend(|| {}));
    }

    #[test]
    fn who_never_ends_comes_back_in_another_turn() {
        let (bell, task) = (Bell::new(), Arc::new(Woken::default()));
        bell.heard_by(&Waker::from(task.clone()));
        let ringer = Waker::from(bell.clone());
        bell.attend(|| ringer.wake_by_ref());
        assert_eq!(task.0.load(Relaxed), 1);
        assert!(bell.attend(|| {}));
    }
}
