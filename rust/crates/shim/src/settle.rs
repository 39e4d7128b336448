//! After the VMM's end: its last words, the record, the news, the socket.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use godwit_wire::shim::{Source, VmmExit};

use crate::serve::{Shim, unix_ms};
use crate::startup::Problem;

/// For the agent to read the last status.
const LAST_FLUSH: Duration = Duration::from_secs(2);
const FLUSH_PAUSE: Duration = Duration::from_millis(10);
/// A record that cannot be written is tried so often, half a second apart.
const RECORD_TRIES: u32 = 20;
const RECORD_PAUSE: Duration = Duration::from_millis(500);

impl Shim {
    /// After the VMM's end: its last words, the record, the news, the socket.
    pub(crate) fn settle(mut self, ended: VmmExit) -> Result<(), Problem> {
        self.read_what_is_left();
        let last_words = self.console.last_words();
        self.log.finish(Instant::now());
        let record = self.machine.end(ended, unix_ms(), &last_words).clone();
        let mut recorded = self.place.record(&record);
        for _ in 1..RECORD_TRIES {
            if recorded.is_ok() {
                break;
            }
            thread::sleep(RECORD_PAUSE);
            recorded = self.place.record(&record);
        }
        self.publish();
        let deadline = Instant::now() + LAST_FLUSH;
        self.agents.flush();
        while !self.agents.is_flushed() && Instant::now() < deadline {
            thread::sleep(FLUSH_PAUSE);
            self.agents.flush();
        }
        for socket in [&self.socket, &self.channel_socket] {
            // Whoever starts the machine next replaces what is left.
            let _ = fs::remove_file(socket);
        }
        recorded.map_err(|error| Problem::new(1, format_args!("cannot record the exit: {error}")))
    }

    /// The VMM is gone, but what it wrote may still be on its way through pipe and socket.
    pub(crate) fn read_what_is_left(&mut self) {
        let deadline = Instant::now() + LAST_FLUSH;
        while self.channel.is_up() && self.hear_guest(Instant::now()) && Instant::now() < deadline
        {
        }
        while Instant::now() < deadline {
            let count = self.console.read(&mut self.buffer);
            if count == 0 {
                break;
            }
            self.log
                .output(Source::Console, &self.buffer[..count], Instant::now());
        }
    }
}
