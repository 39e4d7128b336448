//! What agents ask for: status, and most of it of the guest.

use std::time::Instant;

use godwit_wire::channel::{Frame, INITIAL_CREDIT, Kind};
use godwit_wire::messages::{Exec, GuestMessage, HostMessage};
use godwit_wire::run_spec::RunSpec;
use godwit_wire::shim::{AgentMessage, Cause, Phase, ShimMessage};

use crate::relay::ConnectionId;
use crate::serve::Shim;

impl Shim {
    pub(crate) fn hear_agents(&mut self, now: Instant) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let frames = self.agents.read(&mut buffer);
        self.buffer = buffer;
        for (from, frame) in frames {
            if frame.kind == Kind::Message {
                self.handle_agent_message(from, &frame.payload, now);
            } else {
                self.pass_to_guest(from, &frame);
            }
        }
    }

    pub(crate) fn pass_to_guest(&mut self, from: ConnectionId, frame: &Frame) {
        // A session that just ended may still be spoken to.
        let Some(guest) = self.relay.guest_stream(from, frame.stream) else {
            return;
        };
        match frame.kind {
            Kind::Credit => self.relay.grant_output(guest, frame.credit().unwrap_or(0)),
            Kind::Stdin if !self.relay.input(guest, frame.payload.len()) => {
                return self.agents.drop_connection(from);
            }
            Kind::Stdin | Kind::Eof => {}
            Kind::Stdout | Kind::Stderr | Kind::Message => {
                return self.agents.drop_connection(from);
            }
        }
        if !self.channel.put(frame.kind, guest, &frame.payload) {
            self.fail_session(guest, "the guest does not read its control channel");
        }
    }

    pub(crate) fn handle_agent_message(
        &mut self,
        from: ConnectionId,
        payload: &[u8],
        now: Instant,
    ) {
        let message = match serde_json::from_slice(payload) {
            Ok(message) => message,
            Err(error) => return self.refuse(from, &type_of(payload), None, &error.to_string()),
        };
        match message {
            AgentMessage::Status {} => self.tell_status(from),
            AgentMessage::Subscribe {} => {
                self.agents.subscribe(from);
                self.tell_status(from);
            }
            AgentMessage::Kill {} => self.kill(Cause::Killed),
            AgentMessage::Sleep {} => self.lull(from),
            AgentMessage::Wake {} => self.rouse(now),
            AgentMessage::Run { spec } => self.take_run_spec(from, spec),
            AgentMessage::Stop { signal, timeout_ms } => {
                self.stop(HostMessage::Stop { signal, timeout_ms });
            }
            AgentMessage::Signal { signal } => {
                self.ask_guest(from, "signal", &HostMessage::Signal { signal });
            }
            AgentMessage::Ping { id } => {
                let id = self.relay.ask(from, id);
                self.ask_guest(from, "ping", &HostMessage::Ping { id });
            }
            AgentMessage::Stats { id } => {
                let id = self.relay.ask(from, id);
                self.ask_guest(from, "stats", &HostMessage::Stats { id });
            }
            AgentMessage::Exec(exec) => self.exec(from, exec),
            AgentMessage::ExecSignal { stream, signal } => {
                if let Some(stream) = self.relay.guest_stream(from, stream) {
                    let message = HostMessage::ExecSignal { stream, signal };
                    self.ask_guest(from, "exec_signal", &message);
                }
            }
            AgentMessage::Resize { stream, rows, cols } => {
                if let Some(stream) = self.relay.guest_stream(from, stream) {
                    self.ask_guest(from, "resize", &HostMessage::Resize { stream, rows, cols });
                }
            }
            AgentMessage::Accept { stream, credit } => self.accept(from, stream, credit),
            AgentMessage::Answer(answer) => {
                self.ask_guest(from, "answer", &HostMessage::Answer(answer));
            }
            AgentMessage::Unknown => {
                self.refuse(
                    from,
                    &type_of(payload),
                    None,
                    "this shim does not know that message",
                );
            }
        }
        self.keep_deadlines(now);
    }

    pub(crate) fn refuse(
        &mut self,
        to: ConnectionId,
        regarding: &str,
        stream: Option<u32>,
        why: &str,
    ) {
        let error = ShimMessage::Error {
            message: why.into(),
            regarding: regarding.into(),
            stream,
        };
        self.agents.tell(to, 0, &error);
    }

    pub(crate) fn ask_guest(
        &mut self,
        from: ConnectionId,
        regarding: &str,
        message: &HostMessage,
    ) {
        if !self.channel.tell(message) {
            self.refuse(from, regarding, None, "the guest cannot be reached");
        }
    }

    /// Passes a stop on, or keeps it until there is something to stop.
    pub(crate) fn stop(&mut self, stop: HostMessage) {
        if self.machine.phase == Phase::Running && self.channel.tell(&stop) {
            return;
        }
        if !self.machine.is_over() {
            self.pending_stop = Some(stop);
        }
    }

    pub(crate) fn take_run_spec(&mut self, from: ConnectionId, spec: Box<RunSpec>) {
        if self.run_spec.is_some() {
            return self.refuse(from, "run", None, "this machine has its run spec already");
        }
        self.run_spec = Some(spec);
        if self.machine.phase == Phase::Ready {
            self.send_run_spec();
        }
    }

    pub(crate) fn exec(&mut self, from: ConnectionId, exec: Exec) {
        let stream = exec.stream;
        if self.machine.phase != Phase::Running {
            return self.refuse(from, "exec", Some(stream), "the machine is not running");
        }
        match self.relay.open(from, stream, INITIAL_CREDIT) {
            Ok(guest) => {
                if !self.channel.tell(&HostMessage::Exec(Exec {
                    stream: guest,
                    ..exec
                })) {
                    self.relay.close(guest);
                    self.refuse(from, "exec", Some(stream), "the guest cannot be reached");
                }
            }
            Err(message) => {
                self.agents
                    .tell(from, 0, &GuestMessage::ExecFailed { stream, message });
            }
        }
    }

    /// An agent serves the next connection to the guest's API socket.
    pub(crate) fn accept(&mut self, from: ConnectionId, stream: u32, credit: u32) {
        if self.machine.phase != Phase::Running {
            return self.refuse(from, "accept", Some(stream), "the machine is not running");
        }
        match self.relay.open(from, stream, credit) {
            Ok(guest) => {
                let stream_there = HostMessage::Accept {
                    stream: guest,
                    credit,
                };
                if !self.channel.tell(&stream_there) {
                    self.relay.close(guest);
                    self.refuse(from, "accept", Some(stream), "the guest cannot be reached");
                }
            }
            Err(why) => self.refuse(from, "accept", Some(stream), &why),
        }
    }

    pub(crate) fn abandon(&mut self, connection: ConnectionId) {
        for guest in self.relay.forget(connection) {
            self.end_in_guest(guest);
        }
        self.channel.flush();
    }
}

/// Returns the `type` of a message that could not be read.
fn type_of(payload: &[u8]) -> String {
    serde_json::from_slice::<serde_json::Value>(payload)
        .ok()
        .and_then(|body| Some(body.get("type")?.as_str()?.chars().take(64).collect()))
        .unwrap_or_default()
}
