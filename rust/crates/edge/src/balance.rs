//! Which machine takes a request. Pure: numbers in, an index out.
//!
//! Three bands (spec/network.md §1.2): below the soft limit, from soft to hard, at the hard
//! limit. A request goes to the lowest band that has a machine, to any of them by chance; two
//! are drawn and the less loaded one taken, which spreads better than one.

use rand::{Rng, RngExt};

/// A machine that could take the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) active: u32,
    pub(crate) soft: u32,
    pub(crate) hard: Option<u32>,
    pub(crate) doubt: Doubt,
}

/// Whether a machine is expected to take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Doubt {
    None,
    /// It refused somebody a moment ago.
    Suspect,
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
        if self.hard.is_some_and(|hard| self.active >= hard) {
            Band::Full
        } else if self.active >= self.soft {
            Band::BelowHard
        } else {
            Band::BelowSoft
        }
    }

    fn rank(&self) -> (Doubt, Band) {
        (self.doubt, self.band())
    }
}

/// The machine to try; `None` when every one is full.
///
/// `at` gives the candidate of an index below `count`; it may be asked twice for one.
pub(crate) fn pick(
    count: usize,
    at: impl Fn(usize) -> Candidate,
    random: &mut impl Rng,
) -> Option<(usize, Candidate)> {
    if count == 0 {
        return None;
    }
    let (first, second) = (random.random_range(0..count), random.random_range(0..count));
    let (one, other) = (at(first), at(second));
    let best = (Doubt::None, Band::BelowSoft);
    match (one.rank() == best, other.rank() == best) {
        (true, true) if other.active < one.active => Some((second, other)),
        (true, _) => Some((first, one)),
        (false, true) => Some((second, other)),
        (false, false) => scan(count, at, random),
    }
}

/// Look at all of them, as none of the two drawn was in the best band.
fn scan(
    count: usize,
    at: impl Fn(usize) -> Candidate,
    random: &mut impl Rng,
) -> Option<(usize, Candidate)> {
    let mut best: Option<(usize, Candidate)> = None;
    let mut equals = 0u32;
    for index in 0..count {
        let candidate = at(index);
        if candidate.band() == Band::Full {
            continue;
        }
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
            doubt: Doubt::None,
        }
    }

    fn any_candidate() -> impl Strategy<Value = Candidate> {
        let doubt = prop_oneof![Just(Doubt::None), Just(Doubt::Suspect), Just(Doubt::Tried)];
        (0..6u32, 0..6u32, proptest::option::of(0..6u32), doubt).prop_map(
            |(active, soft, hard, doubt)| Candidate {
                active,
                soft,
                hard,
                doubt,
            },
        )
    }

    proptest! {
        #[test]
        fn the_best_rank_is_always_taken(
            candidates in proptest::collection::vec(any_candidate(), 0..12),
            seed in any::<u64>(),
        ) {
            let mut random = SmallRng::seed_from_u64(seed);
            let picked = pick(candidates.len(), |i| candidates[i], &mut random);
            let open = candidates.iter().filter(|c| c.band() != Band::Full);
            let best = open.map(Candidate::rank).min();
            prop_assert_eq!(picked.map(|(i, _)| candidates[i].rank()), best);
            prop_assert!(picked.is_none_or(|(i, candidate)| candidates[i] == candidate));
        }
    }

    #[test]
    fn equals_share_the_load() {
        let mut random = SmallRng::seed_from_u64(1);
        for active in [0, 22] {
            let mut taken = [0u32; 3];
            for _ in 0..3000 {
                let (index, _) = pick(3, |_| free(active), &mut random).unwrap();
                taken[index] += 1;
            }
            assert!(taken.iter().all(|&n| (800..1200).contains(&n)), "{taken:?}");
        }
    }

    #[test]
    fn a_machine_at_its_hard_limit_takes_nothing() {
        let mut random = SmallRng::seed_from_u64(1);
        assert_eq!(pick(2, |_| free(25), &mut random), None);
        assert_eq!(pick(0, |_| free(0), &mut random), None);
        let one_open = |i| free(if i == 1 { 24 } else { 25 });
        assert_eq!(pick(3, one_open, &mut random), Some((1, free(24))));
    }
}
