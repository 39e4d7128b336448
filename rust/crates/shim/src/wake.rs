//! Sleep and wake: a guest is silent while it is saved, and its copies begin with fresh entropy.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use godwit_wire::messages::HostMessage;
use godwit_wire::shim::Phase;
use rustix::rand::{GetRandomFlags, getrandom};

use crate::relay::ConnectionId;
use crate::serve::Shim;

const ENTROPY_BYTES: usize = 64;

impl Shim {
    /// The channel leads to a guest: one that was saved is woken, a copy told what it is, at once.
    pub(crate) fn meet_guest(&mut self) {
        self.run_sent = false;
        if self.wake_due {
            self.tell_to_wake();
            self.send_run_spec();
        }
    }

    /// An agent wants to save the guest: it shall fall silent. Its answer shows in the status.
    pub(crate) fn lull(&mut self, from: ConnectionId) {
        if self.machine.asleep {
            return self.tell_status(from);
        }
        if self.machine.phase != Phase::Running || self.machine.is_over() {
            return self.refuse(from, "sleep", None, "the machine is not running");
        }
        self.fail_sessions("the machine is being suspended");
        self.ask_guest(from, "sleep", &HostMessage::Sleep {});
        self.wake_due = true;
        self.sleep_due = true;
    }

    /// The guest said its last word: whatever comes now would be lost in between.
    pub(crate) fn hear_asleep(&mut self) {
        if std::mem::take(&mut self.sleep_due) {
            self.channel.hang_up();
            self.machine.asleep = true;
            self.publish();
        }
    }

    /// The guest was not saved, or goes on all the same.
    pub(crate) fn rouse(&mut self, now: Instant) {
        self.sleep_due = false;
        if self.machine.asleep {
            self.machine.asleep = false;
            self.channel.call_again(now);
            self.publish();
        } else if self.wake_due {
            self.tell_to_wake();
        }
    }

    fn tell_to_wake(&mut self) {
        let Some(entropy_base64) = entropy() else {
            return self
                .log
                .system("the host has no entropy to wake the guest with");
        };
        self.channel.tell(&HostMessage::Wake {
            clock_unix_ns: unix_ns(),
            entropy_base64,
        });
    }
}

/// Returns fresh random bytes of this host.
pub(crate) fn entropy() -> Option<String> {
    let mut bytes = [0; ENTROPY_BYTES];
    let count = getrandom(bytes.as_mut_slice(), GetRandomFlags::empty()).ok()?;
    (count == ENTROPY_BYTES).then(|| STANDARD.encode(bytes))
}

/// Returns this host's time.
pub(crate) fn unix_ns() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
