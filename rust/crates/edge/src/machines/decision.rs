//! What a search does next, by what its app has and what came of the search so far.

use crate::machines::balance::{self, Band, Candidate, Doubt};
use crate::machines::reach::{Scope, Search};
use crate::machines::targets::{Place, Target, Targets, There};
use crate::machines::wish::Wish;
use crate::request::refusal::{self, Refusal};

/// Machines tried for one request (spec/network.md §1.3).
const MOST_ATTEMPTS: u32 = 90;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Connect to this one of the ready.
    Try(usize),
    /// Have this one of the sleepers started, and wait.
    Wake(usize),
    /// Wait for a slot.
    Queue,
    /// Wait for a slot at this one of the ready, which is another host's.
    QueueThere(usize),
    /// Wait for a change.
    Pause,
    /// Wait for a machine that comes back by itself.
    Await,
    Refuse(Refusal),
}

impl Search<'_> {
    pub(super) fn decide(&self, targets: &Targets) -> Verdict {
        if self.attempts >= MOST_ATTEMPTS {
            let none = || refusal::not_reachable_in_time(targets.app_name());
            return Verdict::Refuse(self.last_refusal.clone().unwrap_or_else(none));
        }
        let own = targets.own > 0;
        let everywhere = self.scope == Scope::Everywhere;
        if self.ticket.is_none() && everywhere && is_behind(&self.wish, targets) {
            // Who came before goes before.
            return Verdict::Queue;
        }
        let sleeper = self.sleeper(targets);
        let count = match self.scope {
            Scope::Everywhere => targets.ready.len(),
            Scope::Here => targets.own,
        };
        let random = &mut rand::rng();
        let at = |index: usize| self.candidate(&targets.ready[index]);
        let picked = balance::pick(targets.own, count, at, random);
        match (picked, sleeper) {
            (Some((_, candidate)), Some(sleeper)) if candidate.doubt == Doubt::Tried => {
                Verdict::Wake(sleeper)
            }
            (Some((_, candidate)), None) if candidate.doubt == Doubt::Tried => Verdict::Pause,
            (Some((index, candidate)), sleeper) => {
                if let Some(sleeper) = sleeper.filter(|_| candidate.band() != Band::BelowSoft) {
                    self.wake_beside(&targets.asleep[sleeper], targets);
                }
                Verdict::Try(index)
            }
            (None, sleeper) => match balance::scan(count, at, random) {
                Some((full, _)) => {
                    if let Some(sleeper) = sleeper {
                        self.wake_beside(&targets.asleep[sleeper], targets);
                    }
                    if own && self.scope_has_own(targets) {
                        Verdict::Queue
                    } else {
                        Verdict::QueueThere(full)
                    }
                }
                None => match sleeper {
                    Some(sleeper) => Verdict::Wake(sleeper),
                    None => self.without_machine(targets),
                },
            },
        }
    }

    /// Whether a machine of this host would do, were it not full.
    fn scope_has_own(&self, targets: &Targets) -> bool {
        targets.ready[..targets.own]
            .iter()
            .any(|target| self.candidate(target).is_some())
    }

    /// A ready machine as the choice sees it; nothing if it will not do.
    fn candidate(&self, target: &Target) -> Option<Candidate> {
        let fit = self.wish.rank(&target.machine_id, &target.region)?;
        let load = &target.load;
        let mut doubt = if self.tried.contains(&target.machine_id) {
            Doubt::Tried
        } else if load.is_suspect() {
            Doubt::Suspect
        } else {
            Doubt::None
        };
        let Target { soft, hard, .. } = *target;
        let mut candidate = Candidate {
            active: load.known(),
            soft,
            hard,
            full: load.is_full(),
            doubt,
            fit,
            region: 0,
            nearness: 0,
        };
        if let Place::There(there) = &target.place {
            if there.standing.is_doubted() {
                doubt = doubt.max(Doubt::Silent);
            }
            candidate.doubt = doubt;
            candidate.region = there.region_micros();
            candidate.nearness = there.standing.nearness();
        }
        Some(candidate)
    }

    fn without_machine(&self, targets: &Targets) -> Verdict {
        let (app, besides) = (targets.app_name(), targets.besides);
        if self.woke {
            return Verdict::Pause;
        }
        // What another host's edge cannot have at once it looks for elsewhere.
        if self.scope == Scope::Everywhere
            && let Some(verdict) = hope(&self.wish, targets)
        {
            return verdict;
        }
        Verdict::Refuse(match &self.last_refusal {
            Some(refusal) => refusal.clone(),
            None if self.wish.is_forced() => refusal::no_such_machine(app),
            None if besides.stopped => refusal::stopped(app),
            None if besides.elsewhere => refusal::elsewhere(app),
            None => refusal::nothing(app, self.at.0),
        })
    }

    /// The sleeper to start: the best by what was asked for, then the nearest.
    fn sleeper(&self, targets: &Targets) -> Option<usize> {
        let sleepers = targets.asleep.iter().enumerate().filter(|(_, target)| {
            !self.unwakeable.contains(&target.machine_id)
                && (self.scope == Scope::Everywhere || target.is_here())
        });
        let distance = |target: &Target| match &target.place {
            Place::Here(_) => (false, 0, 0),
            Place::There(there) => {
                let far = there.region_micros();
                (there.standing.is_doubted(), far, there.standing.nearness())
            }
        };
        let rank = |(index, target): (usize, &Target)| {
            let fit = self.wish.rank(&target.machine_id, &target.region)?;
            Some((fit, distance(target), index))
        };
        sleepers.filter_map(rank).min().map(|(_, _, index)| index)
    }
}

/// Whether others wait that a request may not overtake: whatever it prefers, all machines of the
/// app would do. One for which some will not do is not held up by those.
fn is_behind(wish: &Wish, targets: &Targets) -> bool {
    targets.own > 0
        && targets.queue.waiting() > 0
        && targets.ready.iter().all(|target| fits(wish, target))
}

/// What to wait for while no machine can be tried: one that would do and is on its way.
fn hope(wish: &Wish, targets: &Targets) -> Option<Verdict> {
    let some = |of: &[Target]| of.iter().any(|target| fits(wish, target));
    if some(&targets.coming) {
        Some(Verdict::Await)
    } else if some(&targets.failing) {
        Some(Verdict::Pause)
    } else {
        None
    }
}

/// Whether a machine would do.
pub(super) fn fits(wish: &Wish, target: &Target) -> bool {
    wish.rank(&target.machine_id, &target.region).is_some()
}

impl There {
    /// Round trip to its region; 0 for this edge's own.
    fn region_micros(&self) -> u32 {
        let abroad = self.abroad.as_ref();
        abroad.map_or(0, |region| region.micros().max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::machines::targets::tests::{fact, targets};

    fn region(list: &str, forced: bool) -> Wish {
        Wish::default().regions(list, forced, &BTreeMap::new())
    }

    fn machine(id: &str, forced: bool) -> Wish {
        Wish::default().instance(id, forced)
    }

    #[test]
    fn a_machine_that_will_be_back_is_waited_for_if_it_is_one_that_would_do() {
        let none = json!({});
        let failing = json!({"services": [{"internal_port": 1, "passing": false, "ports": [
            {"start_port": 80, "end_port": 80, "handlers": ["http"]}]}]});
        let coming = targets(vec![fact("m1", "own", "restarting", &none)], 80);
        let ailing = targets(vec![fact("m1", "own", "started", &failing)], 80);
        for wish in [
            Wish::default(),
            region("lcl", false),
            region("zzz", false),
            region("lcl", true),
            region("zzz,any", true),
            machine("m1", false),
            machine("m2", false),
            machine("m1", true),
        ] {
            assert_eq!(hope(&wish, &coming), Some(Verdict::Await), "{wish:?}");
            assert_eq!(hope(&wish, &ailing), Some(Verdict::Pause), "{wish:?}");
        }
        let mut elsewhere = Wish::default();
        elsewhere.not = Some("m1".into());
        for wish in [region("zzz", true), machine("m2", true), elsewhere] {
            assert_eq!(hope(&wish, &coming), None, "{wish:?}");
            assert_eq!(hope(&wish, &ailing), None, "{wish:?}");
        }
    }

    #[test]
    fn only_who_cannot_do_with_every_machine_goes_before_those_that_wait() {
        let none = json!({});
        let abroad = json!({"region": "fra"});
        let one = || fact("m1", "own", "started", &none);
        let all = vec![one(), fact("m2", "other", "started", &abroad)];
        let (one, all) = (targets(vec![one()], 80), targets(all, 80));
        let any = [
            Wish::default(),
            region("zzz", false),
            region("lcl", false),
            machine("m1", false),
            machine("gone", false),
        ];
        for wish in &any {
            assert!(!is_behind(wish, &all), "{wish:?}");
        }
        let _tickets = (one.queue.join(1), all.queue.join(1));
        for wish in &any {
            assert!(is_behind(wish, &one) && is_behind(wish, &all), "{wish:?}");
        }
        for wish in [region("lcl", true), machine("m1", true)] {
            assert!(is_behind(&wish, &one), "{wish:?}");
            assert!(!is_behind(&wish, &all), "{wish:?}");
        }
    }
}
