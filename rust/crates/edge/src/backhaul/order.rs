//! What two edges say to each other beside a request and its response: one header each way.
//!
//! JSON, so that fields come and go between releases; both ends bound it by HTTP/2's own limit
//! of a header list. Only edges write these headers: what a client or an app sends under their
//! names is dropped.

use std::net::SocketAddr;

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::autostop::Busy;
use crate::machines::targets::Handling;
use crate::request::refusal::{self, Refusal};

/// How the names of both begin.
pub(crate) const PREFIX: &str = "godwit-";
/// From near to far.
pub(crate) const ORDER: HeaderName = HeaderName::from_static("godwit-order");
/// From far to near.
const REPLY: HeaderName = HeaderName::from_static("godwit-reply");

/// What the far edge is asked to do with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Order {
    /// Say that you are there.
    Ping {},
    /// Have this machine started; the answer does not wait for it.
    Wake { machine: String },
    /// Have this machine of yours put to rest.
    Stop { machine: String, suspend: bool },
    /// Tell how much these machines of yours have to do.
    Loads { machines: Vec<String> },
    /// Carry the request to a machine.
    Carry(Box<Carry>),
}

/// A request for one of the far host's machines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Carry {
    pub(crate) app: String,
    /// The id of the app that the near edge means; empty from one that does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) app_id: String,
    /// The external port that the client came to.
    pub(crate) port: u16,
    pub(crate) handling: Handling,
    /// The machine the near edge has in mind.
    pub(crate) machine: String,
    /// No other machine will do.
    pub(crate) only: bool,
    /// It may be sent to a machine a second time.
    pub(crate) repeatable: bool,
    /// How long it may wait for a slot, ms; without it, it goes elsewhere.
    pub(crate) queue_ms: u64,
    /// How long it may wait for a machine to be started, ms, if not as long as the far edge lets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wake_ms: Option<u64>,
    /// Of a stream that becomes a tunnel: what to ask the machine.
    pub(crate) tunnel: Option<Tunnel>,
    /// Of datagrams: whose they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) visit: Option<Visit>,
}

/// A client whose datagrams are brought on the mesh (`datagrams/frame`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Visit {
    pub(crate) client: SocketAddr,
    /// What frames call it.
    pub(crate) flow: u64,
    /// Where the near edge hears.
    pub(crate) port: u16,
}

/// A request whose connection is to become something else, as a WebSocket's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Tunnel {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    /// The value of `Upgrade`.
    pub(crate) protocol: String,
}

/// What the far edge did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Reply {
    /// The machine that answered.
    pub(crate) machine: String,
    /// What that machine has in flight, from wherever it comes.
    pub(crate) active: u32,
    /// The machine's status where HTTP/2 has no room for it: in answers to tunnels.
    pub(crate) status: Option<u16>,
    /// What was asked of machines' loads, in the order of the question.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) loads: Vec<Busy>,
    /// Where datagrams of the flow are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) datagrams: Option<u16>,
    /// There when no machine answered.
    pub(crate) refusal: Option<Refused>,
}

/// Why no machine of the far host answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Refused {
    /// Whether a machine elsewhere may take it; no machine here has seen anything of it.
    pub(crate) bounce: Option<Bounce>,
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) message: String,
}

/// "Take it elsewhere."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bounce {
    /// Every machine that could is at its hard limit.
    Full,
    /// None can at the moment.
    #[serde(other)]
    Unable,
}

impl Order {
    /// The header's value.
    pub(crate) fn value(&self) -> HeaderValue {
        value(self)
    }

    /// Take the order from a request's headers.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        serde_json::from_slice(headers.remove(ORDER)?.as_bytes()).ok()
    }
}

impl Reply {
    /// Put the reply into a response's headers.
    pub(crate) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(REPLY, value(self));
    }

    /// Take the reply from a response's headers.
    pub(crate) fn take(headers: &mut HeaderMap) -> Option<Self> {
        serde_json::from_slice(headers.remove(REPLY)?.as_bytes()).ok()
    }

    /// That no machine answers.
    pub(crate) fn refused(refusal: &Refusal, bounce: Option<Bounce>) -> Self {
        Reply {
            refusal: Some(Refused {
                bounce,
                status: refusal.status.as_u16(),
                code: refusal.code.to_owned(),
                message: refusal.message.clone(),
            }),
            ..Reply::default()
        }
    }
}

impl Refused {
    /// The refusal as the near edge tells it.
    pub(crate) fn refusal(&self) -> Refusal {
        refusal::of_another_edge(self.status, &self.code, &self.message)
    }
}

/// Drop what only edges may say to each other.
pub(crate) fn forget(headers: &mut HeaderMap) {
    headers.remove(ORDER);
    headers.remove(REPLY);
}

fn value(said: &impl Serialize) -> HeaderValue {
    let json = serde_json::to_string(said).unwrap_or_default();
    let visible = json.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    let ascii = if visible { json } else { escaped(&json) };
    HeaderValue::from_str(&ascii).unwrap_or_else(|_| HeaderValue::from_static("{}"))
}

/// JSON with everything beyond ASCII as `\u` escapes; control characters are escaped already.
fn escaped(json: &str) -> String {
    use std::fmt::Write;
    let mut all = String::with_capacity(json.len());
    for char in json.chars() {
        if (' '..='~').contains(&char) {
            all.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a String does not fail.
                let _ = write!(all, "\\u{unit:04x}");
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_is_read_as_it_was_written(
            app in "\\PC{0,30}", machine in "[0-9a-f]{14}", path in "\\PC{0,60}", port: u16,
            only: bool, queue_ms: u64, tunnel: bool,
        ) {
            let tunnel = tunnel.then(|| Tunnel {
                method: "GET".into(), path, protocol: "websocket".into(),
            });
            let (app_id, wake_ms) = (machine.clone(), only.then_some(queue_ms));
            let carry = Carry {
                app, app_id, port, machine, only, queue_ms, wake_ms, tunnel, ..Carry::default()
            };
            let order = Order::Carry(Box::new(carry));
            let mut headers = HeaderMap::from_iter([(ORDER, order.value())]);
            prop_assert_eq!(Order::take(&mut headers), Some(order));
            prop_assert!(headers.is_empty());
        }

        #[test]
        fn no_header_of_another_edge_is_a_surprise(text in "[ -~]{0,80}") {
            let held = HeaderValue::from_str(&text).unwrap();
            let mut headers = HeaderMap::from_iter([(ORDER, held.clone()), (REPLY, held)]);
            let _ = (Order::take(&mut headers), Reply::take(&mut headers));
            prop_assert!(headers.is_empty());
        }
    }

    #[test]
    fn an_order_of_another_release_is_read() {
        let said = r#"{"kind":"carry","app":"hello","port":80,"queue_ms":5,"news":[1]}"#;
        let mut headers = HeaderMap::from_iter([(ORDER, HeaderValue::from_static(said))]);
        let Some(Order::Carry(carry)) = Order::take(&mut headers) else {
            panic!("no order");
        };
        assert_eq!((&*carry.app, &*carry.app_id), ("hello", ""));
        assert_eq!((carry.queue_ms, carry.wake_ms), (5, None));
        // Nor does it say what it has not to say.
        let value = Order::Carry(carry).value();
        let said = value.to_str().unwrap();
        assert!(
            !said.contains("app_id") && !said.contains("wake_ms"),
            "{said}"
        );
    }

    #[test]
    fn a_reply_of_another_release_is_read() {
        let said = r#"{"machine":"m1","news":[1],"refusal":{"bounce":"later","status":503}}"#;
        let mut headers = HeaderMap::from_iter([(REPLY, HeaderValue::from_static(said))]);
        let reply = Reply::take(&mut headers).unwrap();
        assert_eq!(reply.machine, "m1");
        assert_eq!(reply.refusal.unwrap().bounce, Some(Bounce::Unable));
    }
}
