//! Where in its frames one side of a WebSocket is (RFC 6455 §5.2). Pure.
//!
//! Only heads of frames are looked at; what they carry passes by. Used by `farewell`.

use bytes::Bytes;

/// The longest head: two bytes, a length of eight and a mask of four.
const HEAD: usize = 14;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
/// Lengths that say that the length follows, in so many bytes.
const LENGTH_OF_2: u8 = 0x7e;
const LENGTH_OF_8: u8 = 0x7f;
const CODE: u8 = 0x0f;
const CLOSE: u8 = 0x08;
/// Frames of these codes and greater ones are no part of a message.
const CONTROL: u8 = 0x08;
/// What a server that goes down says (RFC 6455 §7.4.1).
const GOING_AWAY: [u8; 2] = 1001_u16.to_be_bytes();

/// How far a side has come in what it says.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    head: [u8; HEAD],
    /// So much of a head is there; all of it is where something is left of what the frame carries.
    begun: usize,
    /// What is left of what the frame carries.
    rest: u64,
    /// More frames of a message are to come.
    unfinished: bool,
    closed: bool,
}

impl Frames {
    /// Take what was said next.
    pub(crate) fn pass(&mut self, mut said: &[u8]) {
        while !said.is_empty() {
            said = &said[self.pass_one(said)..];
        }
    }

    /// Take what was said next up to a frame's end; returns how much that is.
    pub(crate) fn pass_one(&mut self, said: &[u8]) -> usize {
        let mut taken = 0;
        while taken < said.len() {
            if self.rest > 0 {
                let left = usize::try_from(self.rest).unwrap_or(usize::MAX);
                let step = left.min(said.len() - taken);
                taken += step;
                self.rest -= step as u64;
            } else {
                self.head[self.begun] = said[taken];
                self.begun += 1;
                taken += 1;
                if self.begun < self.head_length() {
                    continue;
                }
                self.rest = self.length();
            }
            if self.rest == 0 {
                self.end();
                break;
            }
        }
        taken
    }

    /// Whether every message that was begun is there, and another may follow.
    pub(crate) fn is_between(&self) -> bool {
        self.begun == 0 && !self.unfinished && !self.closed
    }

    /// Whether a Close is there, after which nothing is said.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    fn head_length(&self) -> usize {
        if self.begun < 2 {
            return 2;
        }
        let length = match self.head[1] & LENGTH {
            LENGTH_OF_2 => 2,
            LENGTH_OF_8 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & MASKED == 0 { 0 } else { 4 };
        2 + length + mask
    }

    /// How much the frame carries, as its whole head says.
    fn length(&self) -> u64 {
        let follows = match self.head[1] & LENGTH {
            LENGTH_OF_2 => &self.head[2..4],
            LENGTH_OF_8 => &self.head[2..10],
            short => return short.into(),
        };
        let more = |length, byte: &u8| length << 8 | u64::from(*byte);
        follows.iter().fold(0, more)
    }

    fn end(&mut self) {
        self.begun = 0;
        let code = self.head[0] & CODE;
        self.closed |= code == CLOSE;
        if code < CONTROL {
            self.unfinished = self.head[0] & FIN == 0;
        }
    }
}

/// A Close that says 1001, as a server says it.
pub(crate) fn going_away() -> Bytes {
    let [high, low] = GOING_AWAY;
    Bytes::copy_from_slice(&[FIN | CLOSE, 2, high, low])
}

/// The same as a client says it (RFC 6455 §5.3).
pub(crate) fn going_away_masked(mask: [u8; 4]) -> Bytes {
    let [a, b, c, d] = mask;
    let [high, low] = GOING_AWAY;
    Bytes::copy_from_slice(&[FIN | CLOSE, MASKED | 2, a, b, c, d, high ^ a, low ^ b])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of any length, with a mask or without.
    fn frame(first: u8, length: usize, masked: bool) -> Vec<u8> {
        let mut all = vec![first];
        let mask = if masked { MASKED } else { 0 };
        match length {
            0..126 => all.push(mask | u8::try_from(length).unwrap()),
            126..65536 => {
                all.push(mask | LENGTH_OF_2);
                all.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                all.push(mask | LENGTH_OF_8);
                all.extend((length as u64).to_be_bytes());
            }
        }
        // What looks like heads, were it read as some.
        all.extend(vec![FIN | CLOSE; length + if masked { 4 } else { 0 }]);
        all
    }

    #[test]
    fn between_messages_is_where_no_frame_and_no_message_is_open() {
        let mut frames = Frames::default();
        assert!(frames.is_between());
        for (bytes, between) in [
            (&[0x81][..], false),
            (&[5, b'h'], false),
            (b"ello", true),
            // Fragments, and a ping among them.
            (&[0x01, 1, b'a'], false),
            (&[0x89, 0], false),
            (&[0x00, 1, b'b'], false),
            (&[0x80, 0], true),
        ] {
            frames.pass(bytes);
            assert_eq!(frames.is_between(), between, "{bytes:?}");
        }
        assert!(!frames.is_closed());
        frames.pass(&going_away_masked([1, 2, 3, 4]));
        assert!(frames.is_closed() && !frames.is_between());
        // It said all it had to.
        frames.pass(&frame(FIN | 1, 5, true));
        assert!(frames.is_closed() && !frames.is_between());
    }

    #[test]
    fn a_close_says_1001_to_either_side() {
        assert_eq!(going_away()[..], [0x88, 2, 0x03, 0xe9]);
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = going_away_masked(mask);
        assert_eq!(masked[..2], [0x88, 0x82]);
        let unmasked = [masked[6] ^ mask[0], masked[7] ^ mask[1]];
        assert_eq!(u16::from_be_bytes(unmasked), 1001);
        for close in [going_away(), masked] {
            let mut frames = Frames::default();
            assert_eq!(frames.pass_one(&close), close.len());
            assert!(frames.is_closed());
        }
    }

    #[test]
    fn a_length_beyond_all_is_never_reached() {
        let mut frames = Frames::default();
        frames.pass(&[0x82, 127]);
        frames.pass(&[0xff; 8]);
        frames.pass(&vec![0; 100_000]);
        assert!(!frames.is_between() && !frames.is_closed());
    }

    proptest! {
        #[test]
        fn however_it_is_cut_frames_end_where_they_end(
            shapes in proptest::collection::vec(
                (
                    // Of text, binary, more of one, ping and pong.
                    prop_oneof![Just(1_u8), Just(2), Just(0), Just(9), Just(10)],
                    any::<bool>(),
                    prop_oneof![0..130_usize, 65_530..65_540_usize],
                    any::<bool>(),
                ),
                0..8,
            ),
            cuts in proptest::collection::vec(1..70_000_usize, 1..40),
        ) {
            let (mut all, mut ends, mut unfinished) = (Vec::new(), vec![(0, true)], false);
            for (code, fin, length, masked) in shapes {
                all.extend(frame(if fin { FIN } else { 0 } | code, length, masked));
                if code < CONTROL {
                    unfinished = !fin;
                }
                ends.push((all.len(), !unfinished));
            }
            let (mut frames, mut at) = (Frames::default(), 0);
            for cut in cuts.iter().cycle() {
                let between = ends.contains(&(at, true));
                prop_assert_eq!(frames.is_between(), between, "{}", at);
                if at == all.len() {
                    break;
                }
                let piece = &all[at..all.len().min(at + cut)];
                // To the next end or the piece's, whichever comes first.
                let next = ends.iter().map(|(end, _)| *end).find(|end| *end > at).unwrap();
                let taken = frames.pass_one(piece);
                prop_assert_eq!(taken, piece.len().min(next - at));
                at += taken;
            }
            let mut whole = Frames::default();
            whole.pass(&all);
            prop_assert_eq!(whole.is_between(), frames.is_between());
            prop_assert!(!whole.is_closed());
        }

        #[test]
        fn nothing_breaks_it(said in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut frames = Frames::default();
            frames.pass(&said);
            let mut other = Frames::default();
            for byte in &said {
                other.pass(&[*byte]);
            }
            prop_assert_eq!(frames.is_between(), other.is_between());
            prop_assert_eq!(frames.is_closed(), other.is_closed());
        }
    }
}
