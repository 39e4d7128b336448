//! What the guest says, and what the shim makes of it. The guest is not believed more than need be.

use std::time::{Duration, Instant};

use godwit_wire::channel::{Frame, Kind};
use godwit_wire::messages::{GuestMessage, Hello, HostMessage, PROTOCOL_VERSION};
use godwit_wire::shim::{Phase, Source};

use crate::channel::Read;
use crate::serve::{Shim, unix_ms};
use crate::wake;

/// From the guest's last word to the end of its VMM.
const POWER_OFF: Duration = Duration::from_secs(5);

impl Shim {
    /// Reads the channel once; returns whether anything came.
    pub(crate) fn hear_guest(&mut self, now: Instant) -> bool {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.channel.read(&mut buffer, now);
        self.buffer = buffer;
        match read {
            Read::Nothing => return false,
            Read::Frames(frames) => {
                for frame in frames {
                    self.handle_guest_frame(&frame, now);
                }
            }
            Read::Closed => self.fail_sessions("the control channel was closed"),
            Read::Broken(sentence) => {
                self.log.system(&sentence);
                self.fail_sessions("the control channel broke");
            }
        }
        true
    }

    pub(crate) fn handle_guest_frame(&mut self, frame: &Frame, now: Instant) {
        let source = match frame.kind {
            Kind::Message => return self.handle_guest_message(&frame.payload),
            Kind::Stdout => Source::Stdout,
            Kind::Stderr => Source::Stderr,
            Kind::Credit => {
                let said = frame.credit().unwrap_or(0);
                let bytes = self.relay.grant_input(frame.stream, said);
                if bytes > 0 {
                    let payload = bytes.to_be_bytes().to_vec();
                    self.pass_to_agent(&Frame {
                        payload,
                        ..frame.clone()
                    });
                }
                return;
            }
            Kind::Eof => {
                if self.relay.end_output(frame.stream) {
                    self.pass_to_agent(frame);
                }
                return;
            }
            Kind::Stdin => return,
        };
        if frame.stream == 0 {
            self.log.output(source, &frame.payload, now);
        } else if self.relay.destination(frame.stream).is_some() {
            match self.relay.output(frame.stream, frame.payload.len()) {
                Some(_) => self.pass_to_agent(frame),
                None => self.fail_session(frame.stream, "the guest sent more than it may"),
            }
        }
    }

    pub(crate) fn pass_to_agent(&mut self, frame: &Frame) {
        if let Some(to) = self.relay.destination(frame.stream) {
            self.agents
                .put(to.connection, frame.kind, to.stream, &frame.payload);
        }
    }

    pub(crate) fn handle_guest_message(&mut self, payload: &[u8]) {
        // What cannot be read was meant for another release, or is nonsense.
        let Ok(message) = serde_json::from_slice::<GuestMessage>(payload) else {
            return;
        };
        match message {
            GuestMessage::Hello(hello) => self.hear_hello(hello),
            GuestMessage::Started { pid, boot_id, .. } => {
                if self.machine.started(pid, boot_id, unix_ms()) {
                    self.publish();
                    if let Some(stop) = self.pending_stop.take() {
                        self.channel.tell(&stop);
                    }
                }
            }
            GuestMessage::Containers { containers } => {
                if self.machine.containers(containers) {
                    self.publish();
                }
            }
            GuestMessage::Asleep {} => self.hear_asleep(),
            GuestMessage::Exited(exited) => {
                self.machine.exited(exited);
                self.hear_last_word();
            }
            GuestMessage::Failed(failure) => {
                self.machine.failed(failure);
                self.hear_last_word();
            }
            GuestMessage::ExecStarted { stream, pid } => {
                if let Some(to) = self.relay.begin(stream) {
                    let message = GuestMessage::ExecStarted {
                        stream: to.stream,
                        pid,
                    };
                    self.agents.tell(to.connection, 0, &message);
                }
            }
            GuestMessage::ExecExited {
                stream,
                exit_code,
                signal,
            } => {
                if let Some(to) = self.relay.close(stream) {
                    let stream = to.stream;
                    let message = GuestMessage::ExecExited {
                        stream,
                        exit_code,
                        signal,
                    };
                    self.agents.tell(to.connection, 0, &message);
                }
            }
            GuestMessage::ExecFailed { stream, message } => self.exec_failed(stream, message),
            GuestMessage::Pong { id } => {
                if let Some((asker, id)) = self.relay.answer(id) {
                    self.agents.tell(asker, 0, &GuestMessage::Pong { id });
                }
            }
            GuestMessage::Stats(mut stats) => {
                if let Some((asker, id)) = self.relay.answer(stats.id) {
                    stats.id = id;
                    self.agents.tell(asker, 0, &GuestMessage::Stats(stats));
                }
            }
            GuestMessage::Unknown => {}
        }
    }

    pub(crate) fn hear_hello(&mut self, hello: Hello) {
        let (theirs, ours) = (hello.v, PROTOCOL_VERSION);
        self.deadlines.boot = None;
        self.wake_due = false;
        if self.machine.greet(hello) {
            // Said once: a guest that says hello for ever must not fill the log with it.
            if theirs != ours {
                self.log.system(&format!(
                    "the guest speaks protocol {theirs}, this shim {ours}"
                ));
            }
            self.publish();
        } else {
            self.fail_sessions("the guest's init lost the control channel");
            self.run_sent = false;
        }
        if self.machine.phase == Phase::Ready {
            self.send_run_spec();
        }
    }

    /// Init takes the first one and ignores the rest, so one too many does no harm.
    ///
    /// Time and entropy are of the moment it is sent, not of the one it was written in.
    pub(crate) fn send_run_spec(&mut self) {
        let Some(spec) = &self.run_spec else { return };
        if std::mem::replace(&mut self.run_sent, true) {
            return;
        }
        let mut spec = spec.clone();
        spec.clock_unix_ns = Some(wake::unix_ns());
        spec.entropy_base64 = wake::entropy().or(spec.entropy_base64);
        self.channel.tell(&HostMessage::Run { spec });
    }

    /// Hanging up tells init that it was heard.
    pub(crate) fn hear_last_word(&mut self) {
        self.fail_sessions("the machine ended");
        self.channel.hang_up();
        self.deadlines.boot = None;
        self.deadlines
            .power_off
            .get_or_insert(Instant::now() + POWER_OFF);
    }

    pub(crate) fn exec_failed(&mut self, guest: u32, message: String) {
        if let Some(to) = self.relay.close(guest) {
            let message = GuestMessage::ExecFailed {
                stream: to.stream,
                message,
            };
            self.agents.tell(to.connection, 0, &message);
        }
    }

    /// Ends a session on both sides.
    pub(crate) fn fail_session(&mut self, guest: u32, why: &str) {
        self.exec_failed(guest, why.into());
        self.end_in_guest(guest);
    }

    pub(crate) fn fail_sessions(&mut self, why: &str) {
        for to in self.relay.close_all() {
            let message = GuestMessage::ExecFailed {
                stream: to.stream,
                message: why.into(),
            };
            self.agents.tell(to.connection, 0, &message);
        }
    }

    /// Kills a session nobody listens to; unlimited credit lets what it wrote drain away.
    pub(crate) fn end_in_guest(&mut self, guest: u32) {
        let signal = "SIGKILL".into();
        self.channel.tell(&HostMessage::ExecSignal {
            stream: guest,
            signal,
        });
        self.channel
            .put(Kind::Credit, guest, &u32::MAX.to_be_bytes());
    }
}
