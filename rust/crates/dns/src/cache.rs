//! Answers from outside, kept as long as they say and no longer. The caller gives the time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// What makes two questions the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) name: Name,
    pub(crate) kind: RecordType,
    pub(crate) class: DNSClass,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
}

#[derive(Debug)]
struct Kept {
    message: Message,
    size: usize,
    at: Instant,
    until: Instant,
    number: u64,
}

/// A bounded cache; the oldest entry leaves first.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    kept: HashMap<Key, Kept>,
    order: VecDeque<(u64, Key)>,
    bytes: usize,
    next: u64,
}

const MOST_ENTRIES: usize = 8_192;
const MOST_BYTES: usize = 8 << 20;
/// A single answer greater than this is not worth the room.
const MOST_PER_ENTRY: usize = 16 << 10;
const LONGEST: Duration = Duration::from_hours(1);
const LONGEST_NEGATIVE: Duration = Duration::from_mins(5);

impl Cache {
    /// A kept answer, its times to live reduced by its age.
    pub(crate) fn get(&mut self, key: &Key, now: Instant) -> Option<Message> {
        let kept = self.kept.get(key)?;
        if now >= kept.until {
            self.remove(key);
            return None;
        }
        let age = now.saturating_duration_since(kept.at).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut message = kept.message.clone();
        for record in sections_mut(&mut message) {
            record.decrement_ttl(age);
        }
        Some(message)
    }

    /// Keep an answer of `size` bytes, if it says that it may be kept.
    pub(crate) fn put(&mut self, key: Key, message: Message, size: usize, now: Instant) {
        let Some(life) = lifetime(&message).filter(|life| !life.is_zero()) else {
            return;
        };
        if size > MOST_PER_ENTRY {
            return;
        }
        self.remove(&key);
        self.next += 1;
        let number = self.next;
        self.bytes += size;
        self.order.push_back((number, key.clone()));
        self.kept.insert(
            key,
            Kept {
                message,
                size,
                at: now,
                until: now + life,
                number,
            },
        );
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.kept.len() > MOST_ENTRIES
            || self.bytes > MOST_BYTES
            || self.order.len() > 2 * MOST_ENTRIES
        {
            let Some((number, key)) = self.order.pop_front() else {
                return;
            };
            if self
                .kept
                .get(&key)
                .is_some_and(|kept| kept.number == number)
            {
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(kept) = self.kept.remove(key) {
            self.bytes -= kept.size;
        }
    }
}

/// How long an answer may be kept (RFC 2181 §5.2, RFC 2308 §5); `None` if it may not.
fn lifetime(message: &Message) -> Option<Duration> {
    if message.metadata.truncation {
        return None;
    }
    let seconds = |ttl: u32| Duration::from_secs(u64::from(ttl));
    match message.metadata.response_code {
        ResponseCode::NoError if !message.answers.is_empty() => {
            let least = message
                .answers
                .iter()
                .chain(&message.authorities)
                .map(|r| r.ttl)
                .min();
            least.map(|ttl| seconds(ttl).min(LONGEST))
        }
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let soa = message
                .authorities
                .iter()
                .find_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                });
            soa.map(|ttl| seconds(ttl).min(LONGEST_NEGATIVE))
        }
        _ => None,
    }
}

fn sections_mut(message: &mut Message) -> impl Iterator<Item = &mut Record> {
    let Message {
        answers,
        authorities,
        additionals,
        ..
    } = message;
    answers.iter_mut().chain(authorities).chain(additionals)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, SOA};

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: Name::from_str(name).unwrap(),
            kind: RecordType::A,
            class: DNSClass::IN,
            dnssec_ok: false,
            checking_disabled: false,
        }
    }

    fn positive(ttl: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        let data = RData::A(A::new(192, 0, 2, 1));
        message.add_answer(Record::from_rdata(Name::root(), ttl, data));
        message
    }

    fn negative(ttl: u32, minimum: u32) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        message.metadata.response_code = ResponseCode::NXDomain;
        let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
        message.add_authority(Record::from_rdata(Name::root(), ttl, RData::SOA(soa)));
        message
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a.example."), positive(60), 100, now);
        let aged = cache
            .get(&key("A.Example."), now + Duration::from_secs(20))
            .unwrap();
        assert_eq!(aged.answers[0].ttl, 40);
        assert!(
            cache
                .get(&key("a.example."), now + Duration::from_mins(1))
                .is_none()
        );
        assert_eq!(cache.bytes, 0);
    }

    #[test]
    fn a_negative_answer_lives_as_its_soa_says() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.put(key("a.example."), negative(60, 10), 100, now);
        assert!(
            cache
                .get(&key("a.example."), now + Duration::from_secs(9))
                .is_some()
        );
        assert!(
            cache
                .get(&key("a.example."), now + Duration::from_secs(10))
                .is_none()
        );
    }

    #[test]
    fn what_may_not_be_kept_is_not() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let mut failed = positive(60);
        failed.metadata.response_code = ResponseCode::ServFail;
        let mut cut = positive(60);
        cut.metadata.truncation = true;
        let bare = Message::response(1, OpCode::Query);
        for message in [positive(0), failed, cut, bare] {
            cache.put(key("a.example."), message, 100, now);
            assert!(cache.get(&key("a.example."), now).is_none());
        }
        cache.put(key("a.example."), positive(60), MOST_PER_ENTRY + 1, now);
        assert!(cache.get(&key("a.example."), now).is_none());
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * MOST_ENTRIES {
            cache.put(key(&format!("n{number}.example.")), positive(60), 100, now);
            cache.put(key("same.example."), positive(60), 100, now);
        }
        assert!(cache.kept.len() <= MOST_ENTRIES);
        assert!(cache.order.len() <= 2 * MOST_ENTRIES);
        for number in 0..2 * MOST_BYTES / MOST_PER_ENTRY {
            let name = format!("big{number}.example.");
            cache.put(key(&name), positive(60), MOST_PER_ENTRY, now);
        }
        assert!(cache.bytes <= MOST_BYTES);
    }
}
