//! Which exec session and which question belongs to which agent connection. Pure.
//!
//! Each connection numbers its streams by itself; towards the guest the shim numbers them. The
//! guest is not believed: output beyond its credit, and answers nobody asked for, go nowhere.

use std::collections::BTreeMap;

use godwit_wire::channel::INITIAL_CREDIT;

/// One agent connection.
pub(crate) type ConnectionId = u64;

const MAX_SESSIONS: usize = 256;
const MAX_QUESTIONS: usize = 1024;

#[derive(Debug)]
struct Route {
    connection: ConnectionId,
    stream: u32,
    /// Bytes the guest may still send.
    output: u32,
    /// Bytes the agent may still send.
    input: u32,
    /// Whether the guest has said that it begins.
    begun: bool,
    /// Whether the guest has said that its output is at an end.
    ended: bool,
}

/// Where output of the guest goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    pub(crate) connection: ConnectionId,
    pub(crate) stream: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Relay {
    routes: BTreeMap<u32, Route>,
    last_stream: u32,
    questions: BTreeMap<u64, (ConnectionId, u64)>,
    last_question: u64,
}

impl Relay {
    /// Opens a session on which the guest may send so many bytes at first; returns its number
    /// towards the guest.
    pub(crate) fn open(
        &mut self,
        connection: ConnectionId,
        stream: u32,
        output: u32,
    ) -> Result<u32, String> {
        if stream == 0 || self.guest_stream(connection, stream).is_some() {
            return Err(format!("stream {stream} is in use"));
        }
        if self.routes.len() >= MAX_SESSIONS {
            return Err(format!("there are {MAX_SESSIONS} sessions already"));
        }
        loop {
            self.last_stream = self.last_stream.wrapping_add(1);
            if self.last_stream != 0 && !self.routes.contains_key(&self.last_stream) {
                break;
            }
        }
        let route = Route {
            connection,
            stream,
            output,
            input: INITIAL_CREDIT,
            begun: false,
            ended: false,
        };
        self.routes.insert(self.last_stream, route);
        Ok(self.last_stream)
    }

    /// Returns a connection's stream as the guest knows it.
    pub(crate) fn guest_stream(&self, connection: ConnectionId, stream: u32) -> Option<u32> {
        self.routes
            .iter()
            .find(|(_, route)| route.connection == connection && route.stream == stream)
            .map(|(guest, _)| *guest)
    }

    /// Returns whose session the guest speaks of.
    pub(crate) fn destination(&self, guest: u32) -> Option<Destination> {
        let route = self.routes.get(&guest)?;
        Some(Destination {
            connection: route.connection,
            stream: route.stream,
        })
    }

    /// Notes output of the guest; `None` when it had no leave to send that much.
    pub(crate) fn output(&mut self, guest: u32, bytes: usize) -> Option<Destination> {
        let route = self.routes.get_mut(&guest)?;
        route.output = route.output.checked_sub(u32::try_from(bytes).ok()?)?;
        self.destination(guest)
    }

    /// Notes input of the agent; false when it had no leave to send that much.
    pub(crate) fn input(&mut self, guest: u32, bytes: usize) -> bool {
        let Some(route) = self.routes.get_mut(&guest) else {
            return false;
        };
        let left = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| route.input.checked_sub(bytes));
        route.input = left.unwrap_or(route.input);
        left.is_some()
    }

    /// The agent lets the guest send more.
    pub(crate) fn grant_output(&mut self, guest: u32, bytes: u32) {
        if let Some(route) = self.routes.get_mut(&guest) {
            route.output = route.output.saturating_add(bytes);
        }
    }

    /// The guest lets the agent send more; returns how much more than before that is.
    ///
    /// It is never more than was sent: a guest that grants for ever is not passed on.
    pub(crate) fn grant_input(&mut self, guest: u32, bytes: u32) -> u32 {
        let Some(route) = self.routes.get_mut(&guest) else {
            return 0;
        };
        let granted = bytes.min(INITIAL_CREDIT.saturating_sub(route.input));
        route.input += granted;
        granted
    }

    /// Notes that a session begins; returns whose it is, once.
    pub(crate) fn begin(&mut self, guest: u32) -> Option<Destination> {
        let route = self.routes.get_mut(&guest)?;
        let first = !std::mem::replace(&mut route.begun, true);
        first.then(|| self.destination(guest))?
    }

    /// Notes that a session's output is at an end; returns whether that is news.
    pub(crate) fn end_output(&mut self, guest: u32) -> bool {
        self.routes
            .get_mut(&guest)
            .is_some_and(|route| !std::mem::replace(&mut route.ended, true))
    }

    /// Ends a session; returns whose it was.
    pub(crate) fn close(&mut self, guest: u32) -> Option<Destination> {
        let route = self.routes.remove(&guest)?;
        Some(Destination {
            connection: route.connection,
            stream: route.stream,
        })
    }

    /// Ends every session; returns whose they were.
    pub(crate) fn close_all(&mut self) -> Vec<Destination> {
        std::mem::take(&mut self.routes)
            .into_values()
            .map(|route| Destination {
                connection: route.connection,
                stream: route.stream,
            })
            .collect()
    }

    /// Forgets a connection; returns its sessions as the guest knows them.
    pub(crate) fn forget(&mut self, connection: ConnectionId) -> Vec<u32> {
        self.questions.retain(|_, (asker, _)| *asker != connection);
        let theirs: Vec<u32> = self
            .routes
            .iter()
            .filter(|(_, route)| route.connection == connection)
            .map(|(guest, _)| *guest)
            .collect();
        for guest in &theirs {
            self.routes.remove(guest);
        }
        theirs
    }

    /// Notes a question; returns the number to ask the guest under.
    pub(crate) fn ask(&mut self, connection: ConnectionId, id: u64) -> u64 {
        if self.questions.len() >= MAX_QUESTIONS {
            self.questions.pop_first();
        }
        self.last_question += 1;
        self.questions.insert(self.last_question, (connection, id));
        self.last_question
    }

    /// Returns who asked and under which number of their own; once.
    pub(crate) fn answer(&mut self, number: u64) -> Option<(ConnectionId, u64)> {
        self.questions.remove(&number)
    }
}

#[cfg(test)]
mod tests {
    use godwit_wire::channel::INITIAL_CREDIT;

    use super::{Destination, Relay};

    #[test]
    fn two_connections_may_use_the_same_numbers() {
        let mut relay = Relay::default();
        let (one, two) = (
            relay.open(1, 5, INITIAL_CREDIT).unwrap(),
            relay.open(2, 5, INITIAL_CREDIT).unwrap(),
        );
        assert_ne!(one, two);
        assert_eq!(relay.guest_stream(2, 5), Some(two));
        assert_eq!(
            relay.destination(one),
            Some(Destination {
                connection: 1,
                stream: 5
            })
        );
        assert!(
            relay
                .open(1, 5, INITIAL_CREDIT)
                .unwrap_err()
                .contains("in use")
        );
        assert!(relay.open(1, 0, INITIAL_CREDIT).is_err());
    }

    #[test]
    fn credit_is_kept_for_both_directions() {
        let mut relay = Relay::default();
        let guest = relay.open(1, 1, INITIAL_CREDIT).unwrap();
        let all = INITIAL_CREDIT as usize;
        assert!(relay.output(guest, all).is_some());
        assert!(relay.output(guest, 1).is_none());
        let small = relay.open(1, 2, 5).unwrap();
        assert!(relay.output(small, 6).is_none());
        assert!(relay.output(small, 5).is_some());
        relay.grant_output(guest, 10);
        assert!(relay.output(guest, 11).is_none());
        assert!(relay.output(guest, 10).is_some());
        assert!(relay.input(guest, all));
        assert!(!relay.input(guest, 1));
        assert_eq!(relay.grant_input(guest, 1), 1);
        assert!(relay.input(guest, 1));
        assert_eq!(relay.grant_input(guest, u32::MAX), INITIAL_CREDIT);
        assert_eq!(relay.grant_input(guest, u32::MAX), 0);
        assert!(!relay.input(small + 1, 0));
    }

    #[test]
    fn a_session_begins_and_its_output_ends_once() {
        let mut relay = Relay::default();
        let guest = relay.open(1, 1, INITIAL_CREDIT).unwrap();
        assert!(relay.begin(guest).is_some());
        assert!(relay.begin(guest).is_none());
        assert!(relay.end_output(guest));
        assert!(!relay.end_output(guest));
        assert!(relay.begin(guest + 1).is_none());
        assert!(!relay.end_output(guest + 1));
    }

    #[test]
    fn a_gone_connection_leaves_nothing() {
        let mut relay = Relay::default();
        let mine = relay.open(1, 1, INITIAL_CREDIT).unwrap();
        let theirs = relay.open(2, 1, INITIAL_CREDIT).unwrap();
        let question = relay.ask(1, 7);
        assert_eq!(relay.forget(1), [mine]);
        assert_eq!(relay.answer(question), None);
        assert_eq!(relay.close(mine), None);
        assert!(relay.close(theirs).is_some());
    }

    #[test]
    fn answers_reach_the_asker_once() {
        let mut relay = Relay::default();
        let (a, b) = (relay.ask(1, 7), relay.ask(2, 7));
        assert_eq!(relay.answer(b), Some((2, 7)));
        assert_eq!(relay.answer(b), None);
        assert_eq!(relay.answer(a), Some((1, 7)));
    }

    #[test]
    fn sessions_are_bounded_and_a_break_ends_them_all() {
        let mut relay = Relay::default();
        for stream in 1..=256 {
            relay.open(1, stream, INITIAL_CREDIT).unwrap();
        }
        assert!(
            relay
                .open(1, 257, INITIAL_CREDIT)
                .unwrap_err()
                .contains("256 sessions")
        );
        assert_eq!(relay.close_all().len(), 256);
        assert!(relay.open(1, 257, INITIAL_CREDIT).is_ok());
    }
}
