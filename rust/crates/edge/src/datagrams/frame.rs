//! What two edges send each other for a flow: one UDP packet on the mesh for each frame.
//!
//! ```text
//! byte 0      1 ........ 8   9 ...
//!      kind   flow, BE       the datagram, of `Data` alone
//! ```
//! The mesh has encrypted it and has seen to who its sender is.

pub(super) const HEADER: usize = 9;

/// A flow as its two edges call it.
pub(super) type FlowId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// A datagram of the client, or of the machine.
    Data(FlowId, &'a [u8]),
    /// The sender has no such flow, or has none any more.
    End(FlowId),
    /// The flow's datagrams arrive, although the machine has not answered.
    Alive(FlowId),
}

const DATA: u8 = 1;
const END: u8 = 2;
const ALIVE: u8 = 3;

impl<'a> Frame<'a> {
    /// Read a frame; nothing for what is none.
    pub(super) fn read(packet: &'a [u8]) -> Option<Self> {
        let (kind, rest) = packet.split_first()?;
        let (flow, datagram) = rest.split_first_chunk()?;
        let flow = FlowId::from_be_bytes(*flow);
        match (*kind, datagram) {
            (DATA, datagram) => Some(Frame::Data(flow, datagram)),
            (END, []) => Some(Frame::End(flow)),
            (ALIVE, []) => Some(Frame::Alive(flow)),
            _ => None,
        }
    }

    pub(super) fn flow(self) -> FlowId {
        let (Frame::Data(flow, _) | Frame::End(flow) | Frame::Alive(flow)) = self;
        flow
    }

    /// The first bytes of the packet; a datagram comes behind.
    pub(super) fn header(self) -> [u8; HEADER] {
        let kind = match self {
            Frame::Data(..) => DATA,
            Frame::End(_) => END,
            Frame::Alive(_) => ALIVE,
        };
        let mut header = [kind; HEADER];
        header[1..].copy_from_slice(&self.flow().to_be_bytes());
        header
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(frame: Frame<'_>) -> Vec<u8> {
        let mut packet = frame.header().to_vec();
        if let Frame::Data(_, datagram) = frame {
            packet.extend_from_slice(datagram);
        }
        packet
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(flow: u64, datagram: Vec<u8>) {
            for frame in [Frame::Data(flow, &datagram), Frame::End(flow), Frame::Alive(flow)] {
                let packet = written(frame);
                prop_assert_eq!(Frame::read(&packet), Some(frame));
            }
        }

        #[test]
        fn any_packet_is_one_frame_or_none(packet: Vec<u8>) {
            if let Some(frame) = Frame::read(&packet) {
                prop_assert_eq!(written(frame), packet);
            }
        }

        #[test]
        fn what_is_cut_short_is_none(flow: u64, length in 0..HEADER) {
            for frame in [Frame::Data(flow, b""), Frame::End(flow), Frame::Alive(flow)] {
                let packet = written(frame);
                prop_assert_eq!(Frame::read(&packet[..length]), None);
            }
        }
    }
}
