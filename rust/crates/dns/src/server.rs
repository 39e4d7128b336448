//! What becomes of a query: by whom, about what, from where the answer comes.
//!
//! ```text
//! bytes ─ too many? drop ─ unreadable? FORMERR ─ no network? REFUSED ─┬ our zones: the view
//!                                                                    └ others: cache, upstream
//! ```
//!
//! The usual query about a name of ours takes the same way without a message being built (`plain`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use godwit_catalog::private;
use godwit_watch::Watch;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::asker;
use crate::cache::{Cache, Key};
use crate::internal::{self, Answer, Here, Standpoint};
use crate::limiter::{Limiter, Rate};
use crate::message::{self, Asking, Unread};
use crate::names::{self, Zone};
use crate::plain;
use crate::upstream::Upstreams;

/// All queries of a machine.
const QUERIES: Rate = Rate {
    per_second: 1_000.0,
    burst: 2_000.0,
};
/// Those that go outside.
const OUTSIDE: Rate = Rate {
    per_second: 200.0,
    burst: 400.0,
};
/// Questions to upstreams that may be open, of everybody and of one machine.
const MOST_OPEN: usize = 1_024;
const MOST_OPEN_EACH: usize = 64;

/// Everything a query needs.
#[derive(Debug)]
pub(crate) struct Server {
    watch: Watch,
    here: Here,
    upstreams: Upstreams,
    queries: Mutex<Limiter>,
    outside: Mutex<Limiter>,
    cache: Mutex<Cache>,
    open: Arc<Mutex<Open>>,
    dropped: AtomicU64,
}

/// What to do about a query.
#[derive(Debug)]
pub(crate) enum Verdict {
    Drop,
    Reply(Reply),
    /// Ask outside with this, then reply.
    Outside(Box<Outside>),
}

/// A response, and what it may have over UDP.
#[derive(Debug)]
pub(crate) struct Reply {
    body: Body,
    udp_limit: usize,
}

#[derive(Debug)]
enum Body {
    Message(Box<Message>),
    Bytes(Vec<u8>),
}

/// A question for outside.
#[derive(Debug)]
pub(crate) struct Outside {
    asking: Asking,
    key: Key,
    _place: Place,
}

/// Questions that are open outside, by machine.
#[derive(Debug, Default)]
struct Open {
    all: usize,
    each: HashMap<Ipv6Addr, usize>,
}

/// One open question; dropping it makes room.
#[derive(Debug)]
struct Place {
    open: Arc<Mutex<Open>>,
    machine: Ipv6Addr,
}

impl Server {
    pub(crate) fn new(watch: Watch, here: Here, upstreams: Vec<SocketAddr>) -> Self {
        Server {
            watch,
            here,
            upstreams: Upstreams::new(upstreams),
            queries: Mutex::new(Limiter::new(QUERIES)),
            outside: Mutex::new(Limiter::new(OUTSIDE)),
            cache: Mutex::default(),
            open: Arc::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Judge the bytes that came from a source.
    pub(crate) fn judge(&self, bytes: &[u8], source: IpAddr) -> Verdict {
        let machine = asker::machine(source);
        if !held(&self.queries).admit(machine, Instant::now()) {
            return self.too_many(machine);
        }
        if let Some(bytes) = self.plain(bytes, source) {
            return reply(Body::Bytes(bytes), usize::MAX);
        }
        let asking = match message::read(bytes) {
            Ok(asking) => asking,
            Err(Unread::Ignore) => return Verdict::Drop,
            Err(Unread::Reply(bytes)) => return reply(Body::Bytes(bytes), usize::MAX),
        };
        let Some(network) = private::network(source) else {
            return respond(&asking, asking.response(ResponseCode::Refused));
        };
        if !message::is_internet(&asking.query) || message::is_transfer(&asking.query) {
            return respond(&asking, asking.response(ResponseCode::Refused));
        }
        let labels = names::labels(&asking.query.name);
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match Zone::of(&labels) {
            Some(zone) => respond(&asking, self.inside(&asking, zone, &labels, network)),
            None => self.outside(asking, machine),
        }
    }

    /// The response to a usual query about a name of ours.
    fn plain(&self, bytes: &[u8], source: IpAddr) -> Option<Vec<u8>> {
        let network = private::network(source)?;
        let query = plain::read(bytes)?;
        let labels: Vec<&str> = query.name.split('.').collect();
        let zone = Zone::of(&labels)?;
        query.answered(zone, &self.answer(zone, &labels, query.kind, network))
    }

    fn inside(
        &self,
        asking: &Asking,
        zone: Zone,
        labels: &[&str],
        network: private::Number,
    ) -> Message {
        match self.answer(zone, labels, asking.query.query_type, network) {
            Answer::Addresses(addresses) => asking.addresses(&addresses),
            Answer::Text(text) => asking.text(&text),
            Answer::NoData => asking.nothing(zone, ResponseCode::NoError),
            Answer::NoName => asking.nothing(zone, ResponseCode::NXDomain),
        }
    }

    fn answer(
        &self,
        zone: Zone,
        labels: &[&str],
        kind: RecordType,
        network: private::Number,
    ) -> Answer {
        let asked = names::asked(zone, labels);
        let view = self.watch.view();
        let random = &mut rand::rng();
        let place = Standpoint {
            here: &self.here,
            distances: &self.watch.distances(),
        };
        internal::answer(&view, place, network, &asked, kind, random)
    }

    fn outside(&self, asking: Asking, machine: Ipv6Addr) -> Verdict {
        if !asking.metadata.recursion_desired {
            return respond(&asking, asking.response(ResponseCode::Refused));
        }
        let key = Key {
            name: asking.query.name.to_lowercase(),
            kind: asking.query.query_type,
            class: asking.query.query_class,
            dnssec_ok: asking.dnssec_ok(),
            checking_disabled: asking.metadata.checking_disabled,
        };
        if let Some(kept) = held(&self.cache).get(&key, Instant::now()) {
            return respond(&asking, asking.relayed(kept));
        }
        if !held(&self.outside).admit(machine, Instant::now()) {
            return self.too_many(machine);
        }
        match Place::take(&self.open, machine) {
            Some(place) => Verdict::Outside(Box::new(Outside {
                asking,
                key,
                _place: place,
            })),
            None => respond(&asking, asking.response(ResponseCode::ServFail)),
        }
    }

    /// Ask outside; what comes of it is a response in any case.
    pub(crate) async fn ask(&self, outside: Box<Outside>) -> Reply {
        let Outside { asking, key, .. } = &*outside;
        let response = match self.upstreams.ask(asking).await {
            Some((answer, size)) => {
                held(&self.cache).put(key.clone(), answer.clone(), size, Instant::now());
                asking.relayed(answer)
            }
            None => asking.response(ResponseCode::ServFail),
        };
        Reply {
            body: Body::Message(Box::new(response)),
            udp_limit: asking.udp_limit(),
        }
    }

    fn too_many(&self, machine: Ipv6Addr) -> Verdict {
        let dropped = self.dropped.fetch_add(1, Relaxed) + 1;
        if dropped.is_power_of_two() && dropped >= 64 {
            let network = private::network(machine.into());
            let (org_id, network_id) = network
                .and_then(|number| self.watch.view().tenant(number))
                .unwrap_or_default();
            log::warn!(
                org_id = &*org_id, network_id = &*network_id;
                "{dropped} queries dropped so far; {machine} asks too often"
            );
        }
        Verdict::Drop
    }
}

impl Reply {
    pub(crate) fn for_udp(self) -> Vec<u8> {
        let limit = self.udp_limit;
        self.bytes(limit)
    }

    pub(crate) fn for_tcp(self) -> Vec<u8> {
        self.bytes(usize::from(u16::MAX))
    }

    fn bytes(self, limit: usize) -> Vec<u8> {
        match self.body {
            Body::Message(message) => message::encode(&message, limit),
            Body::Bytes(bytes) => bytes,
        }
    }
}

impl Place {
    fn take(open: &Arc<Mutex<Open>>, machine: Ipv6Addr) -> Option<Self> {
        let mut counts = held(open);
        let each = counts.each.get(&machine).copied().unwrap_or_default();
        if counts.all >= MOST_OPEN || each >= MOST_OPEN_EACH {
            return None;
        }
        counts.all += 1;
        counts.each.insert(machine, each + 1);
        Some(Place {
            open: open.clone(),
            machine,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = held(&self.open);
        counts.all -= 1;
        match counts.each.get_mut(&self.machine) {
            Some(each) if *each > 1 => *each -= 1,
            _ => {
                counts.each.remove(&self.machine);
            }
        }
    }
}

fn respond(asking: &Asking, message: Message) -> Verdict {
    reply(Body::Message(Box::new(message)), asking.udp_limit())
}

fn reply(body: Body, udp_limit: usize) -> Verdict {
    Verdict::Reply(Reply { body, udp_limit })
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_questions_are_bounded_for_each_and_for_all() {
        let open = Arc::new(Mutex::new(Open::default()));
        let machine = Ipv6Addr::from_bits;
        let mut places: Vec<Place> = (0..MOST_OPEN_EACH)
            .map(|_| Place::take(&open, machine(1)).unwrap())
            .collect();
        assert!(Place::take(&open, machine(1)).is_none());
        for number in 0..MOST_OPEN - MOST_OPEN_EACH {
            places.push(Place::take(&open, machine(2 + number as u128)).unwrap());
        }
        assert!(Place::take(&open, machine(0)).is_none());
        places.clear();
        assert!(Place::take(&open, machine(1)).is_some());
        assert_eq!(held(&open).each.len(), 0);
    }
}
