//! Which machine takes a request. Pure: numbers in, an index out.
//!
//! Three bands (spec/network.md §1.2): below the soft limit, from soft to hard, at the hard
//! limit. What was asked for goes first, then the own region and the nearest one, and within a
//! region the lowest band that has a machine, its nearest host first: soft limits steer within
//! a region, only a hard limit leads out of it. Equals are taken by chance; of this host's own,
//! two are drawn and the less loaded one taken, which spreads better than one.

use rand::{Rng, RngExt};

/// A machine that could take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) active: u32,
    pub(crate) soft: u32,
    pub(crate) hard: Option<u32>,
    /// Its own edge said a moment ago that it is at its hard limit.
    pub(crate) full: bool,
    pub(crate) doubt: Doubt,
    /// How well it fits what was asked for.
    pub(crate) fit: u8,
    /// Round trip to its region in microseconds; 0 for the own one.
    pub(crate) region: u32,
    /// How near its host is; 0 for this one.
    pub(crate) nearness: u8,
}

/// Whether a machine is expected to take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    None,
    /// It refused somebody a moment ago.
    Suspect,
    /// Its host did not answer the last time.
    Silent,
    /// It refused this very request.
    Tried,
}

/// How good a candidate is; less is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Band {
    BelowSoft,
    BelowHard,
    Full,
}

impl Candidate {
    pub(crate) fn band(&self) -> Band {
        if self.full || self.hard.is_some_and(|hard| self.active >= hard) {
            Band::Full
        } else if self.active >= self.soft {
            Band::BelowHard
        } else {
            Band::BelowSoft
        }
    }

    fn rank(&self) -> Rank {
        (
            self.doubt,
            self.fit,
            self.region,
            self.band(),
            self.nearness,
        )
    }

    fn is_best(&self) -> bool {
        self.rank() == (Doubt::None, 0, 0, Band::BelowSoft, 0)
    }
}

type Rank = (Doubt, u8, u32, Band, u8);

/// The machine to try; `None` when every one is full.
///
/// `at` gives the candidate of an index below `count`, of which the first `own` are this host's;
/// nothing for one that will not do. It may be asked twice for one.
pub(crate) fn pick(
    own: usize,
    count: usize,
    at: impl Fn(usize) -> Option<Candidate>,
    random: &mut impl Rng,
) -> Option<(usize, Candidate)> {
    if own > 0 {
        let (first, second) = (random.random_range(0..own), random.random_range(0..own));
        let best = |index| at(index).filter(Candidate::is_best);
        match (best(first), best(second)) {
            (Some(one), Some(other)) if other.active < one.active => return Some((second, other)),
            (Some(one), _) => return Some((first, one)),
            (None, Some(other)) => return Some((second, other)),
            (None, None) => {}
        }
    }
    let open = |index| at(index).filter(|candidate| candidate.band() != Band::Full);
    scan(count, open, random)
}

/// The best of all, full or not.
pub(crate) fn scan(
    count: usize,
    at: impl Fn(usize) -> Option<Candidate>,
    random: &mut impl Rng,
) -> Option<(usize, Candidate)> {
    let mut best: Option<(usize, Candidate)> = None;
    let mut equals = 0u32;
    for index in 0..count {
        let Some(candidate) = at(index) else {
            continue;
        };
        let order = best.map(|(_, held)| candidate.rank().cmp(&held.rank()));
        match order {
            None | Some(std::cmp::Ordering::Less) => {
                (best, equals) = (Some((index, candidate)), 1);
            }
            Some(std::cmp::Ordering::Equal) => {
                equals += 1;
                if random.random_range(0..equals) == 0 {
                    best = Some((index, candidate));
                }
            }
            Some(std::cmp::Ordering::Greater) => {}
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn free(active: u32) -> Candidate {
        Candidate {
            active,
            soft: 20,
            hard: Some(25),
            full: false,
            doubt: Doubt::None,
            fit: 0,
            region: 0,
            nearness: 0,
        }
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let doubt = prop_oneof![Just(Doubt::None), Just(Doubt::Suspect), Just(Doubt::Tried)];
        let limits = (
            0..6u32,
            0..6u32,
            proptest::option::of(0..6u32),
            any::<bool>(),
        );
        (limits, doubt, 0..3u8, 0..3u32, 0..3u8).prop_map(
            |((active, soft, hard, full), doubt, fit, region, nearness)| Candidate {
                active,
                soft,
                hard,
                full,
                doubt,
                fit,
                region,
                nearness,
            },
        )
    }

    proptest! {
        #[test]
        fn the_best_rank_is_always_taken(
            candidates in proptest::collection::vec(proptest::option::of(any_candidate()), 0..12),
            own in 0..12usize,
            seed in any::<u64>(),
        ) {
            let mut random = SmallRng::seed_from_u64(seed);
            let (own, count) = (own.min(candidates.len()), candidates.len());
            let picked = pick(own, count, |i| candidates[i], &mut random);
            let fit = candidates.iter().flatten();
            let best = fit.filter(|c| c.band() != Band::Full).map(Candidate::rank).min();
            prop_assert_eq!(picked.map(|(_, candidate)| candidate.rank()), best);
            prop_assert!(picked.is_none_or(|(i, candidate)| candidates[i] == Some(candidate)));
        }
    }

    #[test]
    fn equals_share_the_load() {
        let mut random = SmallRng::seed_from_u64(1);
        for (own, active) in [(3, 0), (3, 22), (0, 0)] {
            let mut taken = [0u32; 3];
            for _ in 0..3000 {
                let (index, _) = pick(own, 3, |_| Some(free(active)), &mut random).unwrap();
                taken[index] += 1;
            }
            assert!(taken.iter().all(|&n| (800..1200).contains(&n)), "{taken:?}");
        }
    }

    #[test]
    fn a_machine_at_its_hard_limit_takes_nothing() {
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(pick(2, 2, |_| Some(free(25)), &mut random), None);
        assert_eq!(pick(0, 0, |_| Some(free(0)), &mut random), None);
        let told = Candidate {
            full: true,
            ..free(0)
        };
        assert_eq!(pick(1, 1, |_| Some(told), &mut random), None);
        let one_open = |i| Some(free(if i == 1 { 24 } else { 25 }));
        assert_eq!(pick(3, 3, one_open, &mut random), Some((1, free(24))));
    }

    fn first_of(candidates: &[Candidate]) -> usize {
        let mut random = SmallRng::seed_from_u64(1);
        pick(1, candidates.len(), |i| Some(candidates[i]), &mut random)
            .unwrap()
            .0
    }

    #[test]
    fn a_soft_limit_steers_within_the_region_and_a_hard_limit_leads_out_of_it() {
        let beside = Candidate {
            nearness: 5,
            ..free(0)
        };
        let abroad = Candidate {
            region: 90_000,
            nearness: 40,
            ..free(0)
        };
        assert_eq!(first_of(&[free(19), beside, abroad]), 0);
        assert_eq!(first_of(&[free(20), beside, abroad]), 1);
        assert_eq!(first_of(&[free(20), abroad]), 0);
        assert_eq!(first_of(&[free(25), abroad]), 1);
        let unhealthy = Candidate {
            doubt: Doubt::Suspect,
            ..free(0)
        };
        assert_eq!(first_of(&[unhealthy, abroad]), 1);
    }

    #[test]
    fn the_nearest_region_goes_before_the_least_loaded_and_a_wish_before_both() {
        let near = Candidate {
            region: 20_000,
            ..free(24)
        };
        let far = Candidate {
            region: 90_000,
            ..free(0)
        };
        assert_eq!(first_of(&[free(25), far, near]), 2);
        let wished = |candidate: Candidate, fit| Candidate { fit, ..candidate };
        assert_eq!(first_of(&[wished(free(0), 1), far, wished(near, 1)]), 1);
    }
}
