//! A VMM without a machine: listens where the guest's control port would be and plays a part.
//!
//! `fake_vmm SOCKET PART`; the parts are the arms of `play`. Used by `tests/shim`.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::Duration;

use godwit_wire::channel::{Decoder, Frame, Kind, encode_into, message_into};
use godwit_wire::messages::{Exited, Failed, GuestMessage, Hello, HostMessage, Stats};

struct Guest {
    socket: UnixStream,
    decoder: Decoder,
}

impl Guest {
    fn accept(listener: &UnixListener) -> Self {
        let (socket, _) = listener.accept().expect("a shim");
        Self {
            socket,
            decoder: Decoder::default(),
        }
    }

    fn send(&mut self, kind: Kind, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_into(&mut bytes, kind, stream, payload);
        self.socket.write_all(&bytes).unwrap_or_default();
    }

    fn tell(&mut self, message: &GuestMessage) {
        let mut bytes = Vec::new();
        assert!(message_into(&mut bytes, 0, message));
        self.socket.write_all(&bytes).unwrap_or_default();
    }

    fn hello(&mut self) {
        self.hello_of(1);
    }

    fn hello_of(&mut self, v: u32) {
        let word = |text: &str| text.to_owned();
        let (init_version, kernel, boot_id) = (word("fake"), word("none"), word("b"));
        self.tell(&GuestMessage::Hello(Hello {
            v,
            init_version,
            kernel,
            boot_id,
        }));
    }

    /// Returns the next frame, `None` when the shim hung up.
    fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("an honest shim") {
                return Some(frame);
            }
            let mut buffer = vec![0; 65_536];
            match self.socket.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.feed(&buffer[..count]),
            }
        }
    }

    fn message(&mut self) -> Option<HostMessage> {
        loop {
            let frame = self.next()?;
            if frame.kind == Kind::Message {
                return Some(serde_json::from_slice(&frame.payload).expect("a host message"));
            }
        }
    }

    /// Says hello, takes the run spec, says started.
    fn start(&mut self) {
        self.hello();
        while !matches!(self.message(), Some(HostMessage::Run { .. }) | None) {}
        self.tell(&GuestMessage::Started {
            pid: 77,
            at_ms: 1,
            boot_id: None,
        });
    }

    fn start_as_told(&mut self) {
        self.hello();
        self.tell(&GuestMessage::Started {
            pid: 77,
            at_ms: 1,
            boot_id: Some("own".into()),
        });
    }

    fn exit(&mut self, exit_code: i32) {
        let exited = Exited {
            exit_code,
            signal: None,
            oom_killed: false,
        };
        self.tell(&GuestMessage::Exited(exited));
    }

    /// Waits for the shim to hang up.
    fn farewell(&mut self) {
        while self.next().is_some() {}
    }

    /// Plays a guest that answers: echoes sessions, tells its console what it was asked.
    fn obey(&mut self, overrun: bool) {
        while let Some(frame) = self.next() {
            match frame.kind {
                Kind::Stdin => {
                    self.send(Kind::Credit, frame.stream, &65_536_u32.to_be_bytes());
                    self.send(Kind::Stdout, frame.stream, &frame.payload);
                }
                Kind::Eof => self.exec_exited(frame.stream),
                Kind::Credit => println!("credit {}", frame.stream),
                Kind::Message => {
                    let message = serde_json::from_slice(&frame.payload).expect("a message");
                    if self.answer(message, overrun) {
                        return;
                    }
                }
                Kind::Stdout | Kind::Stderr => panic!("output from the host"),
            }
        }
    }

    fn exec_exited(&mut self, stream: u32) {
        self.tell(&GuestMessage::ExecExited {
            stream,
            exit_code: 0,
            signal: None,
        });
    }

    fn answer(&mut self, message: HostMessage, overrun: bool) -> bool {
        match message {
            HostMessage::Exec(exec) => {
                self.tell(&GuestMessage::ExecStarted {
                    stream: exec.stream,
                    pid: 5,
                });
                for _ in 0..if overrun { 5 } else { 0 } {
                    self.send(Kind::Stdout, exec.stream, &vec![b'x'; 65_536]);
                }
            }
            HostMessage::ExecSignal { stream, signal } => println!("exec {stream} {signal}"),
            HostMessage::Ping { id } => self.tell(&GuestMessage::Pong { id }),
            HostMessage::Stats { id } => {
                self.tell(&GuestMessage::Stats(Stats {
                    id,
                    uptime_ms: 5,
                    ..Stats::default()
                }));
            }
            HostMessage::Stop { signal, timeout_ms } => {
                println!("stop {signal} {timeout_ms}");
                self.exit(0);
                self.farewell();
                return true;
            }
            HostMessage::Signal { signal } => println!("signal {signal}"),
            other => println!("{other:?}"),
        }
        false
    }
}

fn play(part: &str, listener: &UnixListener) {
    let mut guest = Guest::accept(listener);
    match part {
        "exit" => {
            guest.start();
            guest.send(Kind::Stdout, 0, b"out\nrest");
            guest.send(Kind::Stderr, 0, b"err\n");
            guest.exit(3);
            guest.farewell();
        }
        "fail" => {
            guest.hello();
            let (stage, message) = ("spawn".to_owned(), "no such program: x".to_owned());
            guest.tell(&GuestMessage::Failed(Failed { stage, message }));
            guest.farewell();
        }
        "stammer" => {
            for _ in 0..1000 {
                guest.hello_of(2);
            }
            guest.start();
            guest.exit(0);
            guest.farewell();
        }
        "silent" => guest.farewell(),
        "die" => {
            guest.start();
            thread::sleep(Duration::from_millis(100));
            std::process::abort();
        }
        "stubborn" => {
            guest.start();
            guest.exit(4);
            thread::sleep(Duration::from_mins(1));
        }
        "obey" => {
            guest.start();
            guest.obey(false);
        }
        "overrun" => {
            guest.start();
            guest.obey(true);
        }
        "flood" => {
            guest.start();
            for _ in 0..1000 {
                guest.send(Kind::Stdout, 0, &b"0123456789abcde\n".repeat(2048));
            }
            guest.obey(false);
        }
        "babble" => babble(guest),
        "garbage" => garbage(guest, listener),
        "copy" => copy(guest, listener),
        "deaf" => {
            guest.start();
            thread::sleep(Duration::from_mins(1));
        }
        other => panic!("no such part: {other}"),
    }
}

/// Says everything about a connection over and over, and sends more on it than it may.
fn babble(mut guest: Guest) {
    guest.start();
    let (stream, credit) = loop {
        match guest.message() {
            Some(HostMessage::Accept { stream, credit }) => break (stream, credit),
            Some(_) => {}
            None => return,
        }
    };
    for _ in 0..100 {
        guest.tell(&GuestMessage::ExecStarted { stream, pid: 5 });
        guest.send(Kind::Credit, stream, &u32::MAX.to_be_bytes());
        guest.send(Kind::Credit, stream, &0_u32.to_be_bytes());
        guest.send(Kind::Eof, stream, b"");
    }
    for _ in 0..=credit {
        guest.send(Kind::Stdout, stream, b"x");
    }
    guest.obey(false);
}

/// Breaks the protocol with a session open, comes back as init would, and ends in peace.
fn garbage(mut guest: Guest, listener: &UnixListener) {
    guest.start();
    while !matches!(guest.message(), Some(HostMessage::Exec(_)) | None) {}
    guest.socket.write_all(&[0xff; 1000]).unwrap_or_default();
    guest.farewell();
    let mut guest = Guest::accept(listener);
    guest.hello();
    guest.tell(&GuestMessage::Started {
        pid: 77,
        at_ms: 1,
        boot_id: None,
    });
    guest.tell(&GuestMessage::Pong { id: 4711 });
    guest.send(Kind::Stdout, 99, b"to nobody");
    guest.send(
        Kind::Message,
        0,
        b"{\"type\":\"started\",\"pid\":\"seven\"}",
    );
    guest.send(Kind::Message, 0, b"nonsense");
    guest.send(Kind::Stdout, 0, b"back again\n");
    guest.obey(false);
}

/// Goes on from a saved state: hears of it first, sleeps when asked to, goes on once more.
fn copy(mut guest: Guest, listener: &UnixListener) {
    let Some(HostMessage::Wake { clock_unix_ns, .. }) = guest.message() else {
        panic!("not woken first");
    };
    let Some(HostMessage::Run { spec }) = guest.message() else {
        panic!("not told what to be at once");
    };
    assert!(spec.clock_unix_ns >= Some(clock_unix_ns));
    assert!(spec.entropy_base64.is_some_and(|text| text.len() > 60));
    guest.start_as_told();
    while !matches!(guest.message(), Some(HostMessage::Sleep {}) | None) {}
    guest.send(Kind::Stdout, 0, b"before\n");
    guest.tell(&GuestMessage::Asleep {});
    guest.farewell();
    let mut guest = Guest::accept(listener);
    assert!(matches!(guest.message(), Some(HostMessage::Wake { .. })));
    guest.start_as_told();
    guest.send(Kind::Stdout, 0, b"after\n");
    guest.obey(false);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let [_, socket, part] = &words[..] else {
        panic!("usage: fake_vmm SOCKET PART")
    };
    let listener = UnixListener::bind(socket).expect("a fresh socket");
    println!("fake console of {part}");
    play(part, &listener);
}
