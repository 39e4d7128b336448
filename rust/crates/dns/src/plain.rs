//! The usual query, read and answered in place. Pure.
//!
//! What a guest's C library asks is one question for addresses, and perhaps an empty EDNS record.
//! For such a query no message is built: its bytes are read where they are, and the answer is
//! written behind its question. Anything else, however right, is `message`'s; what both can answer
//! they answer alike.

use std::net::Ipv6Addr;

use hickory_proto::rr::RecordType;

use crate::internal::Answer;
use crate::message::{LARGEST_UDP, PLAIN_UDP, TTL};
use crate::names::Zone;

const HEADER: usize = 12;
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: u8 = 63;
const INTERNET: u16 = 1;
const SOA: u16 = 6;
const OPT: u16 = 41;

const RECURSION_DESIRED: u8 = 0x01;
const AUTHORITATIVE_RESPONSE: u8 = 0x84;
const CHECKING_DISABLED: u8 = 0x10;
const AUTHENTIC_DATA: u8 = 0x20;
const RECURSION_AVAILABLE: u8 = 0x80;
const DNSSEC_OK: u16 = 0x8000;
const NO_NAME: u8 = 3;

/// A query that can be answered here.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    /// From the query's first byte to the end of its question.
    asked: &'a [u8],
    /// Lower case, without the last dot.
    pub(crate) name: String,
    pub(crate) kind: RecordType,
    edns: Option<Edns>,
}

#[derive(Clone, Copy, Debug)]
struct Edns {
    payload: u16,
    flags: u16,
}

/// Read a query; `None` for one that is not as usual.
pub(crate) fn read(bytes: &[u8]) -> Option<Plain<'_>> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    // One question and nothing else, but perhaps one additional record.
    let [_, _, flags, more, 0, 1, 0, 0, 0, 0, 0, additional] = *header else {
        return None;
    };
    if flags & !RECURSION_DESIRED != 0 || more & !(CHECKING_DISABLED | AUTHENTIC_DATA) != 0 {
        return None;
    }
    let (name, rest) = name(rest)?;
    let (kind, rest) = number(rest)?;
    let (class, rest) = number(rest)?;
    let kind = RecordType::from(kind);
    if class != INTERNET || !matches!(kind, RecordType::A | RecordType::AAAA) {
        return None;
    }
    let edns = match additional {
        0 if rest.is_empty() => None,
        1 => Some(Edns::read(rest)?),
        _ => return None,
    };
    Some(Plain {
        asked: &bytes[..bytes.len() - rest.len()],
        name,
        kind,
        edns,
    })
}

/// A name without pointers whose labels are ASCII and have no dots, and what follows it.
fn name(bytes: &[u8]) -> Option<(String, &[u8])> {
    let mut name = String::with_capacity(64);
    let mut rest = bytes;
    loop {
        let (length, following) = rest.split_first()?;
        if *length == 0 {
            let is_short = bytes.len() - following.len() <= LONGEST_NAME;
            return is_short.then_some((name, following));
        }
        if *length > LONGEST_LABEL {
            return None;
        }
        let (label, following) = following.split_at_checked(usize::from(*length))?;
        let label = str::from_utf8(label).ok()?;
        if !label.is_ascii() || label.contains('.') {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        let begins = name.len();
        name.push_str(label);
        name[begins..].make_ascii_lowercase();
        rest = following;
    }
}

fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

impl Edns {
    /// Read the record that a query ends with: of version 0, with nothing in it.
    fn read(bytes: &[u8]) -> Option<Self> {
        let [
            0,
            kind_high,
            kind_low,
            high,
            low,
            0,
            0,
            flags_high,
            flags_low,
            0,
            0,
        ] = *bytes
        else {
            return None;
        };
        (u16::from_be_bytes([kind_high, kind_low]) == OPT).then_some(Edns {
            payload: u16::from_be_bytes([high, low]),
            flags: u16::from_be_bytes([flags_high, flags_low]),
        })
    }
}

impl Plain<'_> {
    /// The response; `None` where it is not written here, or not whole in a datagram.
    pub(crate) fn answered(&self, zone: Zone, answer: &Answer) -> Option<Vec<u8>> {
        let (code, addresses): (u8, &[Ipv6Addr]) = match answer {
            Answer::Addresses(addresses) => (0, addresses),
            Answer::NoData => (0, &[]),
            Answer::NoName => (NO_NAME, &[]),
            Answer::Text(_) => return None,
        };
        let limit = self.edns.map_or(PLAIN_UDP, |edns| edns.payload);
        let limit = usize::from(limit.clamp(PLAIN_UDP, LARGEST_UDP));
        let mut bytes = Vec::with_capacity(limit);
        bytes.extend_from_slice(self.asked);
        bytes[2] = AUTHORITATIVE_RESPONSE | self.asked[2] & RECURSION_DESIRED;
        bytes[3] = RECURSION_AVAILABLE | self.asked[3] & CHECKING_DISABLED | code;
        let records = u16::try_from(addresses.len()).ok()?;
        bytes[6..8].copy_from_slice(&records.to_be_bytes());
        for address in addresses {
            record(
                &mut bytes,
                HEADER,
                RecordType::AAAA.into(),
                &address.octets(),
            )?;
        }
        if addresses.is_empty() {
            bytes[9] = 1;
            self.nothing(&mut bytes, zone)?;
        }
        if let Some(edns) = self.edns {
            let mut record = [0; 11];
            record[1..3].copy_from_slice(&OPT.to_be_bytes());
            record[3..5].copy_from_slice(&LARGEST_UDP.to_be_bytes());
            record[7..9].copy_from_slice(&(edns.flags & DNSSEC_OK).to_be_bytes());
            bytes.extend_from_slice(&record);
        }
        // The header's count of additional records, none or one, is the query's.
        (bytes.len() <= limit).then_some(bytes)
    }

    /// Say for how long there is nothing (RFC 2308), as `message` does.
    fn nothing(&self, bytes: &mut Vec<u8>, zone: Zone) -> Option<()> {
        if matches!(zone, Zone::Reverse) {
            return None;
        }
        // The zone is the question's last label; its length, the name's end, type and class.
        let at = self.asked.len() - zone.name().len() - 5;
        let zone = pointer(at)?;
        let mut data = Vec::with_capacity(64);
        data.extend_from_slice(&zone);
        data.extend_from_slice(b"\x0ahostmaster");
        data.extend_from_slice(&zone);
        for number in [1, 60, 60, 60, TTL] {
            data.extend_from_slice(&number.to_be_bytes());
        }
        record(bytes, at, SOA, &data)
    }
}

/// Write a record whose name is at an offset of the message.
fn record(bytes: &mut Vec<u8>, name_at: usize, kind: u16, data: &[u8]) -> Option<()> {
    bytes.extend_from_slice(&pointer(name_at)?);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    bytes.extend_from_slice(&TTL.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(data);
    Some(())
}

/// A name that is at an offset of the message (RFC 1035 §4.1.4).
fn pointer(at: usize) -> Option<[u8; 2]> {
    let at = u16::try_from(at).ok().filter(|at| *at < 0x4000)?;
    Some((0xc000 | at).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, ResponseCode};
    use proptest::prelude::*;

    use super::*;
    use crate::message;

    const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03Web\x08Internal\0\0\x1c\0\x01";
    const OPT_1232: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";

    fn with_edns(query: &[u8]) -> Vec<u8> {
        let mut bytes = [query, OPT_1232].concat();
        bytes[11] = 1;
        bytes
    }

    /// What `message` answers the same query, as a reader sees it.
    fn otherwise(query: &[u8], zone: Zone, answer: &Answer) -> Message {
        let asking = message::read(query).unwrap();
        let message = match answer {
            Answer::Addresses(addresses) => asking.addresses(addresses),
            Answer::Text(text) => asking.text(text),
            Answer::NoData => asking.nothing(zone, ResponseCode::NoError),
            Answer::NoName => asking.nothing(zone, ResponseCode::NXDomain),
        };
        Message::from_vec(&message::encode(&message, asking.udp_limit())).unwrap()
    }

    fn answers() -> impl Strategy<Value = Answer> {
        let some = prop::collection::vec(any::<u128>().prop_map(Ipv6Addr::from_bits), 1..50);
        prop_oneof![
            some.prop_map(Answer::Addresses),
            Just(Answer::NoData),
            Just(Answer::NoName),
        ]
    }

    fn queries() -> impl Strategy<Value = (Vec<u8>, Zone)> {
        let labels = prop::collection::vec("[A-Za-z0-9_-]{1,20}", 0..5);
        let zone = prop_oneof![Just(Zone::Internal), Just(Zone::Flycast)];
        let kind = prop_oneof![Just(1u8), Just(28u8)];
        let flags = (any::<bool>(), any::<bool>(), any::<bool>());
        (any::<u16>(), labels, zone, kind, flags).prop_map(|(id, labels, zone, kind, flags)| {
            let (recursion, checking_disabled, edns) = flags;
            let mut bytes = id.to_be_bytes().to_vec();
            bytes.extend([u8::from(recursion), u8::from(checking_disabled) << 4]);
            bytes.extend([0, 1, 0, 0, 0, 0, 0, 0]);
            let last = zone.name().trim_end_matches('.').to_owned();
            for label in labels.iter().chain([&last]) {
                bytes.push(u8::try_from(label.len()).unwrap());
                bytes.extend(label.bytes());
            }
            bytes.extend([0, 0, kind, 0, 1]);
            (if edns { with_edns(&bytes) } else { bytes }, zone)
        })
    }

    #[test]
    fn a_name_is_read_in_lower_case_and_answered_as_it_was_written() {
        let query = with_edns(QUERY);
        let plain = read(&query).unwrap();
        assert_eq!(
            (plain.name.as_str(), plain.kind),
            ("web.internal", RecordType::AAAA)
        );
        let bytes = plain.answered(Zone::Internal, &Answer::NoName).unwrap();
        assert_eq!(bytes[HEADER..QUERY.len()], QUERY[HEADER..]);
    }

    #[test]
    fn what_is_not_as_usual_is_left_to_others() {
        let mut unusual = vec![QUERY[..11].to_vec(), [QUERY, b"\0"].concat()];
        for (at, value) in [
            (2, 0x81), // a response
            (2, 0x29), // an update
            (2, 0x03), // truncated
            (3, 0x40), // a reserved flag
            (5, 2),
            (7, 1),
            (11, 1), // a record that is not there
            (11, 2),
            (12, 0xc0), // a pointer
            (12, 64),
            (13, b'.'),
            (13, 0xc3),
            (27, 16), // TXT
            (29, 3),  // Chaos
        ] {
            let mut bytes = QUERY.to_vec();
            bytes[at] = value;
            unusual.push(bytes);
        }
        let edns = with_edns(QUERY);
        for (at, value) in [(0, 1), (2, 40), (5, 1), (6, 1), (10, 1)] {
            let mut bytes = edns.clone();
            bytes[QUERY.len() + at] = value;
            unusual.push(bytes);
        }
        unusual.push([&edns[..], b"\0"].concat());
        for bytes in unusual {
            assert!(read(&bytes).is_none(), "{bytes:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_to_who_can_cut() {
        let addresses = |count| Answer::Addresses(vec![Ipv6Addr::LOCALHOST; count]);
        let fits = |query: &[u8], count| {
            let plain = read(query).unwrap();
            plain.answered(Zone::Internal, &addresses(count)).is_some()
        };
        assert!(fits(QUERY, 17) && !fits(QUERY, 18));
        let edns = with_edns(QUERY);
        assert!(fits(&edns, 42) && !fits(&edns, 43));
        let plain = read(QUERY).unwrap();
        assert!(
            plain
                .answered(Zone::Internal, &Answer::Text("t".into()))
                .is_none()
        );
        assert!(plain.answered(Zone::Reverse, &Answer::NoName).is_none());
    }

    proptest! {
        #[test]
        fn the_answer_is_what_a_built_message_says(
            (query, zone) in queries(), answer in answers()
        ) {
            let plain = read(&query).unwrap();
            let other = otherwise(&query, zone, &answer);
            match plain.answered(zone, &answer) {
                Some(bytes) => prop_assert_eq!(Message::from_vec(&bytes).unwrap(), other),
                None => prop_assert!(other.metadata.truncation),
            }
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = read(&bytes);
        }

        #[test]
        fn what_is_read_here_is_read_there_alike(at in 0usize..41, value in any::<u8>()) {
            let mut bytes = with_edns(QUERY);
            bytes[at] = value;
            if let Some(plain) = read(&bytes) {
                let asking = message::read(&bytes).unwrap();
                let labels = crate::names::labels(&asking.query.name);
                prop_assert_eq!(plain.name, labels.join("."));
                prop_assert_eq!(plain.kind, asking.query.query_type);
            }
        }
    }
}
