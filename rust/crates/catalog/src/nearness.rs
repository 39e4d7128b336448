//! Round trips in steps, so that what is equally near is chosen by chance or by load.

/// Four steps per doubling above a quarter of a millisecond: within a fifth it is the same one.
#[must_use]
pub fn nearness(micros: u32) -> u8 {
    const FLOOR: u32 = 250;
    let times = (micros / FLOOR).max(1);
    let doublings = times.ilog2();
    let quarter = ((times - (1 << doublings)) * 4) >> doublings;
    u8::try_from(1 + doublings * 4 + quarter).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nearer_is_never_said_to_be_farther(one: u32, other: u32) {
            let (near, far) = (one.min(other), one.max(other));
            prop_assert!(nearness(near) <= nearness(far));
            prop_assert!(nearness(far) < u8::MAX);
            if far / 2 > near.max(250) {
                prop_assert!(nearness(near) < nearness(far));
            }
        }
    }
}
