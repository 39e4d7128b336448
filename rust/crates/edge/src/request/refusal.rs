//! What a client is told when no machine answers: a status, a code of spec/network.md §1.9 and
//! a sentence.

use hyper::StatusCode;

/// Why a request gets no answer from a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// Empty where the mistake is the client's.
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// Every code that an edge says.
const CODES: [&str; 18] = [
    "PA01", "PA02", "PA03", "PA04", "PA05", "PC01", "PC03", "PC04", "PC05", "PC06", "PM02",
    "PM03", "PM05", "PR01", "PR04", "PR05", "PU02", "PU03",
];

fn refuse(status: StatusCode, code: &'static str, message: impl Into<String>) -> Refusal {
    Refusal {
        status,
        code,
        message: message.into(),
    }
}

pub(crate) fn no_host() -> Refusal {
    refuse(
        StatusCode::BAD_REQUEST,
        "",
        "the request must name one host",
    )
}

pub(crate) fn coding() -> Refusal {
    refuse(
        StatusCode::BAD_REQUEST,
        "",
        "a body may be chunked once, and coded in no other way",
    )
}

pub(crate) fn method(name: &str) -> Refusal {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "",
        format!("{name} is not served here"),
    )
}

/// A tunnel of HTTP/2 for a protocol that is not carried (RFC 8441 §4).
pub(crate) fn protocol(name: &str) -> Refusal {
    refuse(
        StatusCode::NOT_IMPLEMENTED,
        "",
        format!("CONNECT for {name} is not served here"),
    )
}

/// The app answered a client's wish for a WebSocket with a page.
pub(crate) fn not_opened(app: &str) -> Refusal {
    let message = format!("{app} did not open the WebSocket that was asked for");
    refuse(StatusCode::BAD_GATEWAY, "PU02", message)
}

pub(crate) fn unknown_host(host: &str) -> Refusal {
    refuse(
        StatusCode::NOT_FOUND,
        "",
        format!("no app answers for {host}"),
    )
}

pub(crate) fn unhealthy(app: &str) -> Refusal {
    let message = format!("no machine of {app} passes its checks");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR01", message)
}

pub(crate) fn elsewhere(app: &str) -> Refusal {
    let message = format!("the machines of {app} are on other hosts, which take no backhaul");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn stopped(app: &str) -> Refusal {
    let message = format!("the machines of {app} are stopped, and autostart is off");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

/// An app asks for a replay that makes no sense.
pub(crate) fn bad_replay(what: &str) -> Refusal {
    let message = format!("the app's fly-replay cannot be followed: {what}");
    refuse(StatusCode::BAD_GATEWAY, "PA03", message)
}

pub(crate) fn too_many_replays() -> Refusal {
    let message = "the request was replayed 10 times, and once more was asked for";
    refuse(StatusCode::BAD_GATEWAY, "PA02", message)
}

pub(crate) fn too_long_to_replay() -> Refusal {
    let message = "a request with a body of more than 1 MB cannot be replayed";
    refuse(StatusCode::BAD_GATEWAY, "PA01", message)
}

pub(crate) fn no_room_to_replay() -> Refusal {
    let message = "the request cannot be replayed: the edge keeps as much of bodies as it may";
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PA01", message)
}

pub(crate) fn no_replay_target(app: &str) -> Refusal {
    let message = format!("the request is replayed to {app}, which is no app");
    refuse(StatusCode::BAD_GATEWAY, "PA04", message)
}

/// The apps are of different organizations or networks.
pub(crate) fn replay_forbidden(from: &str, to: &str) -> Refusal {
    let message = format!("{from} may not replay requests to {to}");
    refuse(StatusCode::BAD_GATEWAY, "PA05", message)
}

/// Who asks is no host of the cluster any more.
pub(crate) fn no_member() -> Refusal {
    refuse(
        StatusCode::FORBIDDEN,
        "",
        "only members of the cluster are answered",
    )
}

/// Another edge asks for something that this one does not understand.
pub(crate) fn no_order() -> Refusal {
    refuse(
        StatusCode::BAD_REQUEST,
        "",
        "this edge does not understand the other one",
    )
}

/// The edge of a machine's host was not reached.
pub(crate) fn host_not_reached(host: &str, why: &impl std::fmt::Display) -> Refusal {
    let message = format!("the host {host} is not reached: {why}");
    refuse(StatusCode::BAD_GATEWAY, "PU03", message)
}

/// The edge of a machine's host broke off.
pub(crate) fn host_broke_off() -> Refusal {
    let message = "the machine's host ended the connection without a response";
    refuse(StatusCode::BAD_GATEWAY, "PU03", message)
}

/// What another edge says in its place.
pub(crate) fn of_another_edge(status: u16, code: &str, message: &str) -> Refusal {
    let known = CODES.iter().find(|known| **known == code);
    let status = StatusCode::from_u16(status).ok();
    let status = status.filter(|status| status.is_client_error() || status.is_server_error());
    let status = status.unwrap_or(StatusCode::BAD_GATEWAY);
    refuse(status, known.copied().unwrap_or_default(), message)
}

/// No machine is what the client or a replay demands.
pub(crate) fn no_such_machine(app: &str) -> Refusal {
    let message = format!("{app} has no machine such as was asked for that takes requests");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn nothing(app: &str, port: u16) -> Refusal {
    let message = format!("{app} has no machine that takes HTTP on port {port}");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn overloaded(app: &str) -> Refusal {
    let message = format!("every machine of {app} is at its hard limit");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn crowded(app: &str) -> Refusal {
    let message = format!("too many requests wait for a machine of {app} to be ready");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn not_reachable_in_time(app: &str) -> Refusal {
    let message = format!("no machine of {app} was ready in time");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PR04", message)
}

pub(crate) fn wake_failed(app: &str, why: &str) -> Refusal {
    let message = format!("a machine of {app} could not be started: {why}");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PM02", message)
}

pub(crate) fn wake_timeout(app: &str) -> Refusal {
    let message = format!("a machine of {app} did not start in time");
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PM03", message)
}

/// A machine has started, and then its app could not be reached.
pub(crate) fn started_in_vain(app: &str, why: &Refusal) -> Refusal {
    let message = format!("a machine of {app} has started, but {}", why.message);
    refuse(StatusCode::SERVICE_UNAVAILABLE, "PM05", message)
}

pub(crate) fn connect_failed(port: u16, error: &std::io::Error) -> Refusal {
    use std::io::ErrorKind;
    let (status, code, what) = match error.kind() {
        ErrorKind::ConnectionRefused => {
            (StatusCode::BAD_GATEWAY, "PC01", "refused the connection")
        }
        ErrorKind::ConnectionReset => (StatusCode::BAD_GATEWAY, "PC03", "reset the connection"),
        ErrorKind::ConnectionAborted => {
            (StatusCode::BAD_GATEWAY, "PC04", "aborted the connection")
        }
        ErrorKind::TimedOut => (
            StatusCode::GATEWAY_TIMEOUT,
            "PC05",
            "did not take the connection in time",
        ),
        _ => (StatusCode::BAD_GATEWAY, "PC06", "could not be connected to"),
    };
    refuse(status, code, format!("the app {what} on port {port}"))
}

pub(crate) fn broken(port: u16) -> Refusal {
    let message = format!("the app on port {port} ended the connection without a response");
    refuse(StatusCode::BAD_GATEWAY, "PU02", message)
}

/// The machine's file server was not reached, or has no answer.
pub(crate) fn no_statics(why: &impl std::fmt::Display) -> Refusal {
    let message = format!("the machine's file server failed: {why}");
    refuse(StatusCode::BAD_GATEWAY, "PR05", message)
}

pub(crate) fn no_control() -> Refusal {
    let message = "the platform's API is not reached: no control answers; apps are served on";
    refuse(StatusCode::SERVICE_UNAVAILABLE, "", message)
}

pub(crate) fn control_broke_off() -> Refusal {
    let message = "control ended the connection without a response; look whether it was done";
    refuse(StatusCode::BAD_GATEWAY, "", message)
}

pub(crate) fn control_is_late() -> Refusal {
    let message = "control did not respond in time";
    refuse(StatusCode::GATEWAY_TIMEOUT, "", message)
}

pub(crate) fn client_broke_off() -> Refusal {
    refuse(StatusCode::BAD_REQUEST, "", "the request's body broke off")
}

pub(crate) fn no_response(port: u16) -> Refusal {
    let message = format!("the app on port {port} did not respond in time");
    refuse(StatusCode::GATEWAY_TIMEOUT, "PU02", message)
}

impl Refusal {
    /// Whether a machine did not take a connection.
    pub(crate) fn is_of_a_connection(&self) -> bool {
        self.code.starts_with("PC")
    }

    /// The body for a person, with the id to ask about.
    pub(crate) fn page(&self, id: &str) -> String {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let code = match self.code {
            "" => String::new(),
            code => format!("[{code}] "),
        };
        format!(
            "{} {reason}\n\n{code}{}\nrequest {id}\n",
            self.status.as_u16(),
            self.message
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_status_code_sentence_and_id() {
        let error = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let page = connect_failed(8080, &error).page("01K8-lcl");
        let wanted = "502 Bad Gateway\n\n[PC01] the app refused the connection on port 8080\n\
                      request 01K8-lcl\n";
        assert_eq!(page, wanted);
        assert!(
            unknown_host("x.example")
                .page("i")
                .contains("\n\nno app answers for x.example\n")
        );
    }
}
