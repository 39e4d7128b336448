//! Which machine of a group is one too many. Pure.
//!
//! Of `n` machines, `over` of them at their soft limit, one more than `over` is enough; the last
//! one rests only when it has nothing to do and got nothing since the last look. What has
//! started since then is left alone: what it was started for may be on its way. One that is to run
//! whatever the load is left, too, and takes its part of the load.

/// A started machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) active: u32,
    /// At or over a soft limit.
    pub(super) over: bool,
    /// It lets itself be put to rest, and was started at the last look already.
    pub(super) may_rest: bool,
    /// It got nothing since the last look.
    pub(super) quiet: bool,
}

/// The machine to put to rest, so that at least so many are left; the least busy one of those that
/// may.
pub(super) fn decide(group: &[Candidate], least: usize) -> Option<usize> {
    let over = group.iter().filter(|machine| machine.over).count();
    if group.len() <= least {
        return None;
    }
    let may = |machine: &Candidate| match group.len() {
        1 => machine.may_rest && machine.quiet && machine.active == 0,
        _ => machine.may_rest && !machine.over,
    };
    if group.len() > 1 && group.len() <= over + 1 {
        return None;
    }
    let fit = group.iter().enumerate().filter(|(_, machine)| may(machine));
    let best =
        fit.min_by_key(|(index, machine)| (machine.active, !machine.quiet, usize::MAX - index));
    best.map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDLE: Candidate = Candidate {
        active: 0,
        over: false,
        may_rest: true,
        quiet: true,
    };

    #[test]
    fn one_more_than_those_over_their_limit_is_enough() {
        let over = Candidate {
            active: 20,
            over: true,
            ..IDLE
        };
        assert_eq!(decide(&[over, IDLE], 0), None);
        assert_eq!(decide(&[over, IDLE, IDLE], 0), Some(2));
        assert_eq!(decide(&[IDLE, IDLE], 0), Some(1));
        let busy = Candidate { active: 3, ..IDLE };
        assert_eq!(decide(&[IDLE, busy], 0), Some(0));
    }

    #[test]
    fn the_last_one_rests_only_without_anything_to_do() {
        assert_eq!(decide(&[IDLE], 0), Some(0));
        for busy in [
            Candidate { active: 1, ..IDLE },
            Candidate {
                quiet: false,
                ..IDLE
            },
            Candidate {
                may_rest: false,
                ..IDLE
            },
        ] {
            assert_eq!(decide(&[busy], 0), None);
        }
    }

    #[test]
    fn one_that_stays_is_counted_and_left() {
        let stays = Candidate {
            may_rest: false,
            ..IDLE
        };
        assert_eq!(decide(&[stays], 0), None);
        assert_eq!(decide(&[stays, stays], 0), None);
        assert_eq!(decide(&[IDLE, stays], 0), Some(0));
        assert_eq!(decide(&[stays, IDLE], 0), Some(1));
        assert_eq!(decide(&[stays, IDLE], 2), None);
        let over = Candidate {
            over: true,
            ..stays
        };
        assert_eq!(decide(&[over, IDLE], 0), None);
    }

    #[test]
    fn so_many_are_left_whatever_the_load() {
        assert_eq!(decide(&[IDLE], 1), None);
        assert_eq!(decide(&[IDLE, IDLE], 2), None);
        assert_eq!(decide(&[IDLE, IDLE, IDLE], 2), Some(2));
        assert_eq!(decide(&[], 0), None);
    }

    proptest! {
        #[test]
        fn never_one_that_is_needed(
            group in proptest::collection::vec(
                (0..3u32, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
                    |(active, over, may_rest, quiet)| Candidate { active, over, may_rest, quiet },
                ), 0..6),
            least in 0..4usize,
        ) {
            if let Some(chosen) = decide(&group, least) {
                let machine = group[chosen];
                let over = group.iter().filter(|m| m.over).count();
                prop_assert!(group.len() > least && machine.may_rest);
                prop_assert!(group.len() == 1 || group.len() - 1 > over);
                prop_assert!(group.len() > 1 || (machine.active == 0 && machine.quiet));
            }
        }
    }
}
