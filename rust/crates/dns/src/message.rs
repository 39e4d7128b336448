//! Reading queries and writing responses.

use std::net::Ipv6Addr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{AAAA, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::names::Zone;

/// Time to live of the platform's answers, negative ones too.
pub(crate) const TTL: u32 = 5;
/// What a UDP response may have without asking for more (RFC 1035 §4.2.1).
pub(crate) const PLAIN_UDP: u16 = 512;
/// What a UDP response may have at most: no fragments on a path of IPv6's least MTU.
pub(crate) const LARGEST_UDP: u16 = 1232;
const HEADER: usize = 12;
const TEXT_PIECE: usize = 255;

/// A query that this server works on.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) metadata: Metadata,
    pub(crate) query: Query,
    pub(crate) edns: Option<Edns>,
}

/// What to do with bytes that are no such query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    Ignore,
    Reply(Vec<u8>),
}

/// Read a query.
pub(crate) fn read(bytes: &[u8]) -> Result<Asking, Unread> {
    let Some(id) = query_id(bytes) else {
        return Err(Unread::Ignore);
    };
    let Ok(message) = Message::from_vec(bytes) else {
        return Err(Unread::Reply(bare(
            id,
            opcode(bytes),
            ResponseCode::FormErr,
        )));
    };
    let refuse = |code| Err(Unread::Reply(bare(id, message.metadata.op_code, code)));
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0)
    {
        return refuse(ResponseCode::BADVERS);
    }
    match <[Query; 1]>::try_from(message.queries) {
        Ok([query]) if message.answers.is_empty() && message.authorities.is_empty() => {
            Ok(Asking {
                metadata: message.metadata,
                query,
                edns: message.edns,
            })
        }
        _ => Err(Unread::Reply(bare(
            id,
            message.metadata.op_code,
            ResponseCode::FormErr,
        ))),
    }
}

/// The id of what claims to be a query; responses are answered by nobody.
fn query_id(bytes: &[u8]) -> Option<u16> {
    let header = bytes.get(..HEADER)?;
    let is_response = header[2] & 0x80 != 0;
    (!is_response).then(|| u16::from_be_bytes([header[0], header[1]]))
}

fn opcode(bytes: &[u8]) -> OpCode {
    OpCode::from_u8(bytes[2] >> 3 & 0x0f)
}

fn bare(id: u16, opcode: OpCode, code: ResponseCode) -> Vec<u8> {
    let mut message = Message::response(id, opcode);
    message.metadata.response_code = code;
    if code == ResponseCode::BADVERS {
        message.set_edns(our_edns(false));
    }
    message.to_vec().unwrap_or_default()
}

fn our_edns(dnssec_ok: bool) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(LARGEST_UDP)
        .set_version(0)
        .set_dnssec_ok(dnssec_ok);
    edns
}

impl Asking {
    pub(crate) fn dnssec_ok(&self) -> bool {
        self.edns
            .as_ref()
            .is_some_and(|edns| edns.flags().dnssec_ok)
    }

    /// What a UDP response to this may have.
    pub(crate) fn udp_limit(&self) -> usize {
        let wanted = self.edns.as_ref().map_or(PLAIN_UDP, Edns::max_payload);
        usize::from(wanted.clamp(PLAIN_UDP, LARGEST_UDP))
    }

    /// An empty response with a code.
    pub(crate) fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = self.metadata.recursion_desired;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.add_query(self.query.clone());
        if self.edns.is_some() {
            message.set_edns(our_edns(self.dnssec_ok()));
        }
        message
    }

    /// Addresses of the asked name.
    pub(crate) fn addresses(&self, addresses: &[Ipv6Addr]) -> Message {
        let record = |address: &Ipv6Addr| self.record(RData::AAAA(AAAA(*address)));
        self.with_answers(addresses.iter().map(record).collect())
    }

    /// A text of the asked name, cut into the pieces that TXT has.
    pub(crate) fn text(&self, text: &str) -> Message {
        let pieces: Vec<&[u8]> = text.as_bytes().chunks(TEXT_PIECE).collect();
        self.with_answers(vec![self.record(RData::TXT(TXT::from_bytes(pieces)))])
    }

    /// Nothing of this type, or no such name, in a zone of ours.
    pub(crate) fn nothing(&self, zone: Zone, code: ResponseCode) -> Message {
        let mut message = self.response(code);
        message.metadata.authoritative = true;
        let name = Name::from_ascii(zone.name()).unwrap_or_default();
        let rname = name.prepend_label("hostmaster").unwrap_or_default();
        let soa = SOA::new(name.clone(), rname, 1, 60, 60, 60, TTL);
        message.add_authority(Record::from_rdata(name, TTL, RData::SOA(soa)));
        message
    }

    /// An answer from outside, as the answer to this query.
    pub(crate) fn relayed(&self, outside: Message) -> Message {
        let mut message = self.response(outside.metadata.response_code);
        message.metadata.authentic_data = outside.metadata.authentic_data;
        message.metadata.truncation = outside.metadata.truncation;
        message.insert_answers(outside.answers);
        message.insert_authorities(outside.authorities);
        message.insert_additionals(outside.additionals);
        message
    }

    /// The same question for an upstream, under another id.
    pub(crate) fn onward(&self, id: u16) -> Message {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.metadata.checking_disabled;
        message.metadata.authentic_data = self.metadata.authentic_data;
        message.add_query(self.query.clone());
        if self.edns.is_some() {
            message.set_edns(our_edns(self.dnssec_ok()));
        }
        message
    }

    fn with_answers(&self, answers: Vec<Record>) -> Message {
        let mut message = self.response(ResponseCode::NoError);
        message.metadata.authoritative = true;
        message.insert_answers(answers);
        message
    }

    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.query.name.clone(), TTL, data)
    }
}

/// Whether an upstream's message answers the question that was sent.
pub(crate) fn answers(response: &Message, asked: &Message) -> bool {
    let (Some(query), [answered]) = (asked.queries.first(), response.queries.as_slice()) else {
        return false;
    };
    response.metadata.id == asked.metadata.id
        && response.metadata.message_type == MessageType::Response
        && response.metadata.op_code == OpCode::Query
        && answered.name == query.name
        && answered.query_type == query.query_type
        && answered.query_class == query.query_class
}

/// The bytes of a response that may have so many; what does not fit is left out and said to be.
pub(crate) fn encode(message: &Message, limit: usize) -> Vec<u8> {
    let whole = message.to_vec().unwrap_or_default();
    if !whole.is_empty() && whole.len() <= limit {
        return whole;
    }
    let (mut fits, mut too_many) = (0, message.answers.len());
    let mut best = cut(message, 0);
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        let bytes = cut(message, middle);
        if !bytes.is_empty() && bytes.len() <= limit {
            (fits, best) = (middle, bytes);
        } else {
            too_many = middle;
        }
    }
    best
}

fn cut(message: &Message, answers: usize) -> Vec<u8> {
    let mut short = message.truncate();
    short.add_answers(message.answers.iter().take(answers).cloned());
    short.to_vec().unwrap_or_default()
}

/// Whether the class is the Internet's, or any.
pub(crate) fn is_internet(query: &Query) -> bool {
    matches!(query.query_class, DNSClass::IN | DNSClass::ANY)
}

/// Types that ask for more than an answer.
pub(crate) fn is_transfer(query: &Query) -> bool {
    matches!(query.query_type, RecordType::AXFR | RecordType::IXFR)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proptest::prelude::*;

    use super::*;

    fn query(name: &str, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(
            Name::from_str(name).unwrap(),
            RecordType::AAAA,
        ));
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn code(unread: Unread) -> ResponseCode {
        let Unread::Reply(bytes) = unread else {
            panic!("ignored")
        };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.metadata.id, 7);
        message.metadata.response_code
    }

    #[test]
    fn what_is_no_query_gets_its_code_or_nothing() {
        let good = query("web.internal.", None);
        assert!(read(&good).is_ok());
        let mut response = good.clone();
        response[2] |= 0x80;
        assert_eq!(read(&response).unwrap_err(), Unread::Ignore);
        assert_eq!(read(&good[..11]).unwrap_err(), Unread::Ignore);
        assert_eq!(
            code(read(&good[..good.len() - 1]).unwrap_err()),
            ResponseCode::FormErr
        );
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(read(&update).unwrap_err()), ResponseCode::NotImp);
        let mut no_question = good.clone();
        no_question[5] = 0;
        no_question.truncate(HEADER);
        assert_eq!(code(read(&no_question).unwrap_err()), ResponseCode::FormErr);
    }

    #[test]
    fn a_response_says_what_was_asked_and_how() {
        let asking = read(&query("Web.Internal.", Some(4096))).unwrap();
        let addresses = [Ipv6Addr::LOCALHOST];
        let message = Message::from_vec(&encode(&asking.addresses(&addresses), 512)).unwrap();
        assert!(
            message.queries[0]
                .name
                .eq_case(&Name::from_str("Web.Internal.").unwrap())
        );
        assert!(message.metadata.authoritative && message.metadata.recursion_available);
        assert_eq!(message.answers[0].ttl, TTL);
        assert_eq!(message.edns.unwrap().max_payload(), LARGEST_UDP);
        assert_eq!(asking.udp_limit(), 1232);
        assert_eq!(
            read(&query("web.internal.", None)).unwrap().udp_limit(),
            512
        );
        assert_eq!(
            read(&query("web.internal.", Some(100)))
                .unwrap()
                .udp_limit(),
            512
        );
    }

    #[test]
    fn what_does_not_fit_is_cut_and_said_to_be() {
        let asking = read(&query("web.internal.", None)).unwrap();
        let many: Vec<Ipv6Addr> = (0..100u128).map(Ipv6Addr::from_bits).collect();
        let whole = asking.addresses(&many);
        for limit in [40, 512, 1232] {
            let bytes = encode(&whole, limit);
            assert!(bytes.len() <= limit);
            let message = Message::from_vec(&bytes).unwrap();
            assert!(message.metadata.truncation);
            assert!(bytes.len() + 28 > limit, "{} of {limit}", bytes.len());
        }
        let all = Message::from_vec(&encode(&whole, 65_535)).unwrap();
        assert!(!all.metadata.truncation);
        assert_eq!(all.answers.len(), 100);
    }

    #[test]
    fn a_long_text_is_cut_into_pieces() {
        let asking = read(&query("vms.web.internal.", None)).unwrap();
        let message = asking.text(&"x".repeat(600));
        let RData::TXT(text) = &message.answers[0].data else {
            panic!()
        };
        assert_eq!(
            text.txt_data
                .iter()
                .map(|piece| piece.len())
                .collect::<Vec<_>>(),
            [255, 255, 90]
        );
        assert!(message.to_vec().is_ok());
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let asking = read(&query("a.example.", None)).unwrap();
        let sent = asking.onward(99);
        let mut good = Message::response(99, OpCode::Query);
        good.add_query(Query::query(
            Name::from_str("A.EXAMPLE.").unwrap(),
            RecordType::AAAA,
        ));
        assert!(answers(&good, &sent));
        let mut other_id = good.clone();
        other_id.metadata.id = 98;
        let mut no_response = good.clone();
        no_response.metadata.message_type = MessageType::Query;
        let mut other_name = Message::response(99, OpCode::Query);
        other_name.add_query(Query::query(
            Name::from_str("b.example.").unwrap(),
            RecordType::AAAA,
        ));
        let mut other_type = Message::response(99, OpCode::Query);
        other_type.add_query(Query::query(
            Name::from_str("a.example.").unwrap(),
            RecordType::A,
        ));
        let without = Message::response(99, OpCode::Query);
        for wrong in [other_id, no_response, other_name, other_type, without] {
            assert!(!answers(&wrong, &sent));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_break_the_reader(bytes in any::<Vec<u8>>()) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_damage_breaks_the_reader(at in 0usize..40, value in any::<u8>()) {
            let mut bytes = query("web.internal.", Some(1232));
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(asking) = read(&bytes) {
                encode(&asking.nothing(Zone::Internal, ResponseCode::NXDomain), 512);
            }
        }
    }
}
