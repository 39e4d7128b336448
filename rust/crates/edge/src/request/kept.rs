//! The beginning of a body, kept for as long as it may have to be sent again; and how much of
//! bodies the process keeps in all, so that whoever sends many takes no more memory than that.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicU64, AtomicUsize};

use bytes::Bytes;

/// A body that is longer cannot be sent again (spec/network.md §2.3).
const MOST_KEPT: usize = 1024 * 1024;
/// A shorter piece is copied to others: it may hold a much longer buffer that it was read into.
const SMALL: usize = 4096;
/// What is copied makes pieces of this size.
const CHUNK: usize = 16 * 1024;
/// What a piece costs beside its bytes: its handles, and what the allocator adds.
const PIECE: usize = 128;

/// How much of all bodies is kept, and how much may be.
#[derive(Debug)]
pub(crate) struct Budget {
    most: usize,
    used: AtomicUsize,
    unkept: AtomicU64,
}

/// The beginning of one body.
#[derive(Debug)]
pub(crate) struct Kept {
    budget: Arc<Budget>,
    /// What it has taken of the budget.
    taken: usize,
    pieces: Vec<Bytes>,
    /// What came in small pieces after these.
    tail: Vec<u8>,
    bytes: usize,
}

/// How far somebody has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    piece: usize,
    offset: usize,
}

/// Why no more of a body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beyond {
    /// It has grown too long.
    Length,
    /// Others keep as much as may be kept.
    Budget,
}

impl Budget {
    /// A budget of so many bytes.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Budget {
            most,
            used: AtomicUsize::new(0),
            unkept: AtomicU64::new(0),
        })
    }

    /// Bytes that are kept, with what keeping them costs.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Acquire)
    }

    /// Bodies that were not kept for want of room.
    pub(crate) fn unkept(&self) -> u64 {
        self.unkept.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> Result<(), Beyond> {
        let within = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most);
        let taken = self.used.fetch_update(AcqRel, Acquire, within);
        taken.map(drop).map_err(|_| {
            self.unkept.fetch_add(1, Relaxed);
            Beyond::Budget
        })
    }
}

impl Kept {
    pub(crate) fn new(budget: Arc<Budget>) -> Self {
        Kept {
            budget,
            taken: 0,
            pieces: Vec::new(),
            tail: Vec::new(),
            bytes: 0,
        }
    }

    /// Keep what came next.
    ///
    /// # Errors
    /// Why it cannot be; nothing is kept then, and nothing more is to be.
    pub(crate) fn keep(&mut self, data: &Bytes) -> Result<(), Beyond> {
        let kept = if self.bytes + data.len() > MOST_KEPT {
            Err(Beyond::Length)
        } else if data.len() < SMALL {
            self.append(data)
        } else {
            self.push(data)
        };
        match kept {
            Ok(()) => self.bytes += data.len(),
            Err(_) => self.clear(),
        }
        kept
    }

    /// The next part after a place, which moves behind it.
    pub(crate) fn read(&self, place: &mut Place) -> Option<Bytes> {
        while let Some(piece) = self.pieces.get(place.piece) {
            let rest = piece.slice(place.offset..);
            *place = Place {
                piece: place.piece + 1,
                offset: 0,
            };
            if !rest.is_empty() {
                return Some(rest);
            }
        }
        let rest = self.tail.get(place.offset..)?;
        place.offset = self.tail.len();
        (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest))
    }

    /// Behind all that is kept.
    pub(crate) fn end(&self) -> Place {
        Place {
            piece: self.pieces.len(),
            offset: self.tail.len(),
        }
    }

    /// How many bytes are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keep nothing more.
    pub(crate) fn clear(&mut self) {
        self.pieces = Vec::new();
        self.tail = Vec::new();
        self.bytes = 0;
        let taken = std::mem::take(&mut self.taken);
        self.budget.used.fetch_sub(taken, AcqRel);
    }

    fn push(&mut self, data: &Bytes) -> Result<(), Beyond> {
        self.take(PIECE + data.len())?;
        self.close();
        self.pieces.push(data.clone());
        Ok(())
    }

    fn append(&mut self, data: &Bytes) -> Result<(), Beyond> {
        if self.tail.len() + data.len() > CHUNK {
            self.close();
        }
        let (wanted, capacity) = (self.tail.len() + data.len(), self.tail.capacity());
        if wanted > capacity {
            let grown = wanted.max((2 * capacity).min(CHUNK));
            let piece = if capacity == 0 { PIECE } else { 0 };
            self.take(piece + grown - capacity)?;
            self.tail.reserve_exact(grown - self.tail.len());
        }
        self.tail.extend_from_slice(data);
        Ok(())
    }

    /// Make a piece of what came in small ones.
    fn close(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push(std::mem::take(&mut self.tail).into());
        }
    }

    fn take(&mut self, bytes: usize) -> Result<(), Beyond> {
        self.budget.take(bytes)?;
        self.taken += bytes;
        Ok(())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(kept: &Kept, mut place: Place) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some(part) = kept.read(&mut place) {
            read.extend_from_slice(&part);
        }
        assert_eq!(kept.read(&mut place), None);
        read
    }

    /// What the pieces of a body hold, as it was allocated.
    fn held(kept: &Kept) -> usize {
        let pieces: usize = kept.pieces.iter().map(Bytes::len).sum();
        pieces + kept.tail.capacity()
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_the_same_is_read_from_every_place(
            lengths in proptest::collection::vec(
                prop_oneof![0..20usize, 0..SMALL, SMALL..3 * SMALL], 0..60),
            seed in any::<u8>(),
        ) {
            let budget = Budget::new(usize::MAX);
            let mut kept = Kept::new(budget.clone());
            let (mut body, mut places) = (Vec::new(), Vec::new());
            // One who reads what comes, as it comes.
            let (mut follower, mut followed) = (Place::default(), Vec::new());
            for (number, length) in lengths.into_iter().enumerate() {
                let data: Vec<u8> = (0..length)
                    .map(|at| seed ^ u8::try_from((at + number) % 251).unwrap())
                    .collect();
                kept.keep(&data.clone().into()).unwrap();
                body.extend(data);
                places.push((kept.end(), body.len()));
                if number % 3 == 0 {
                    while let Some(part) = kept.read(&mut follower) {
                        followed.extend_from_slice(&part);
                    }
                }
                prop_assert_eq!(budget.used(), kept.taken);
                prop_assert!(budget.used() >= held(&kept));
            }
            prop_assert_eq!(kept.bytes(), body.len());
            prop_assert_eq!(&all(&kept, Place::default()), &body);
            followed.extend(all(&kept, follower));
            prop_assert_eq!(&followed, &body);
            for (place, read) in places {
                prop_assert_eq!(&all(&kept, place), &body[read..]);
            }
            drop(kept);
            prop_assert_eq!(budget.used(), 0);
        }
    }

    #[test]
    fn a_body_in_single_bytes_costs_little_more_than_its_bytes() {
        let budget = Budget::new(usize::MAX);
        let mut kept = Kept::new(budget.clone());
        // Each is a part of a buffer that it would hold.
        let buffer = Bytes::from(vec![7; 100_000]);
        for at in 0..buffer.len() {
            kept.keep(&buffer.slice(at..=at)).unwrap();
        }
        let cost = budget.used();
        assert!((100_000..120_000).contains(&cost), "{cost}");
        assert!(kept.pieces.len() <= 100_000 / CHUNK);
        assert_eq!(all(&kept, Place::default()), buffer);
    }

    #[test]
    fn what_does_not_fit_is_let_go_with_all_that_was_kept_of_it() {
        let budget = Budget::new(3 * SMALL);
        let large = Bytes::from(vec![1; SMALL]);
        let small = Bytes::from_static(b"abc");
        let mut first = Kept::new(budget.clone());
        first.keep(&large).unwrap();
        let own = budget.used();
        assert_eq!(own, PIECE + SMALL);
        for piece in [&large, &small] {
            let mut second = Kept::new(budget.clone());
            second.keep(&small).unwrap();
            let beyond = loop {
                if let Err(beyond) = second.keep(piece) {
                    break beyond;
                }
            };
            assert_eq!((beyond, second.bytes()), (Beyond::Budget, 0));
            assert_eq!(budget.used(), own);
        }
        assert_eq!(budget.unkept(), 2);
        assert_eq!(all(&first, Place::default()), large);
        first.clear();
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_that_grows_too_long_is_let_go() {
        let budget = Budget::new(usize::MAX);
        let mut kept = Kept::new(budget.clone());
        kept.keep(&vec![1; MOST_KEPT].into()).unwrap();
        let one_more = kept.keep(&Bytes::from_static(b"x"));
        assert_eq!(one_more, Err(Beyond::Length));
        assert_eq!((budget.used(), budget.unkept()), (0, 0));
        assert_eq!(
            kept.read(&mut Place {
                piece: 1,
                offset: 0
            }),
            None
        );
    }
}
