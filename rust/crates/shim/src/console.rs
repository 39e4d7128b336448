//! The VMM's stdout and stderr: the guest's serial console and the VMM's own complaints.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;

use crate::lines::Splitter;

/// The last lines are kept: when there never was a guest they say why.
const KEPT_LINES: usize = 4;
const KEPT_LENGTH: usize = 400;

#[derive(Debug)]
pub(crate) struct Console {
    pipe: Option<OwnedFd>,
    splitter: Splitter,
    last: VecDeque<String>,
}

impl Console {
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        Ok(Self {
            pipe: Some(pipe),
            splitter: Splitter::new(KEPT_LENGTH),
            last: VecDeque::new(),
        })
    }

    /// What to wait for; nothing once everybody has closed the pipe.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Reads what is there, at most a buffer full; returns how much.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                self.remember(&buffer[..count]);
                return count;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
        0
    }

    fn remember(&mut self, bytes: &[u8]) {
        let last = &mut self.last;
        self.splitter.feed(bytes, |line| {
            if !line.is_empty() {
                last.push_back(String::from_utf8_lossy(line).into_owned());
                if last.len() > KEPT_LINES {
                    last.pop_front();
                }
            }
        });
    }

    /// Returns the last lines in one.
    pub(crate) fn last_words(&self) -> String {
        self.last
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join("; ")
    }
}
