//! What a search does next, by what its app has and what came of the search so far.

use crate::machines::balance::{self, Band, Candidate, Doubt};
use crate::machines::reach::{Scope, Search};
use crate::machines::targets::{Place, Target, Targets, There};
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
        if self.ticket.is_none() && targets.queue.waiting() > 0 && own && self.wish.is_any() {
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
        if !self.wish.is_any() && self.last_refusal.is_none() && !self.woke {
            return Verdict::Refuse(refusal::no_such_machine(app));
        }
        if self.woke {
            return Verdict::Pause;
        }
        if besides.coming {
            return Verdict::Await;
        }
        if besides.failing {
            return Verdict::Pause;
        }
        Verdict::Refuse(match &self.last_refusal {
            Some(refusal) => refusal.clone(),
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

impl There {
    /// Round trip to its region; 0 for this edge's own.
    fn region_micros(&self) -> u32 {
        let abroad = self.abroad.as_ref();
        abroad.map_or(0, |region| region.micros().max(1))
    }
}
