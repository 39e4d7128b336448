//! A process whose streams go through the control channel: the main one, or an exec session.
//!
//! Pure bookkeeping around non-blocking descriptors: nothing here waits.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use godwit_wire::channel::Kind;
use godwit_wire::messages::TerminalSize;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::process::WaitStatus;

use crate::link::Link;
use crate::stages::spawn::{self, Child, Streams};

/// How long a terminal may take to report its end after its leader ended.
const TERMINAL_GRACE: Duration = Duration::from_millis(500);
/// A terminal reads this byte as "no more input".
const END_OF_INPUT: u8 = 4;
/// The most input held for a process that does not read: twice what honest hosts can send.
const INPUT_MOST: usize = 524_288;
/// Above this a frame would be no quicker, only longer in the way of others.
const CHUNK: usize = 16_384;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
}

impl Ended {
    pub(crate) fn from_status(status: WaitStatus) -> Self {
        match (status.exit_status(), status.terminating_signal()) {
            (_, Some(signal)) => Self {
                exit_code: 128 + signal,
                signal: Some(signal),
            },
            (code, None) => Self {
                exit_code: code.unwrap_or(-1),
                signal: None,
            },
        }
    }
}

#[derive(Debug)]
struct Input {
    fd: OwnedFd,
    queue: VecDeque<u8>,
    closing: bool,
    terminal: bool,
}

#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    kind: Kind,
    terminal: bool,
    /// The beginning of a line whose end is yet to come.
    begun: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) pid: i32,
    stream: u32,
    ended: Option<(Ended, Instant)>,
    input: Option<Input>,
    outputs: Vec<Output>,
    /// Bytes of output the host still takes; `None` is no limit.
    credit: Option<u32>,
    /// Whether its stream is others', too: only whole lines go there, each behind this label.
    label: Option<String>,
}

impl Session {
    pub(crate) fn new(stream: u32, child: Child, credit: Option<u32>) -> io::Result<Self> {
        let input = |fd, terminal| Input {
            fd,
            queue: VecDeque::new(),
            closing: false,
            terminal,
        };
        let output = |fd, kind, terminal| Output {
            fd,
            kind,
            terminal,
            begun: Vec::new(),
        };
        let (input, outputs) = match child.streams {
            Streams::None => (None, Vec::new()),
            Streams::Terminal(fd) => (
                Some(input(fd.try_clone()?, true)),
                vec![output(fd, Kind::Stdout, true)],
            ),
            Streams::Pipes {
                stdin,
                stdout,
                stderr,
            } => (
                stdin.map(|fd| input(fd, false)),
                vec![
                    output(stdout, Kind::Stdout, false),
                    output(stderr, Kind::Stderr, false),
                ],
            ),
        };
        Ok(Self {
            pid: child.pid,
            stream,
            ended: None,
            input,
            outputs,
            credit,
            label: None,
        })
    }

    /// Has its output go to the host line by line, each behind a label: others write to the same
    /// stream.
    pub(crate) fn share_stream(&mut self, label: &str) {
        self.label = Some(label.into());
    }

    pub(crate) fn note_end(&mut self, ended: Ended) {
        self.ended = Some((ended, Instant::now()));
        self.input = None;
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.ended.map(|(ended, _)| ended)
    }

    /// How it ended, once all it wrote has been taken.
    pub(crate) fn finished(&self) -> Option<Ended> {
        self.ended().filter(|_| self.outputs.is_empty())
    }

    /// Whether its end is known but its terminal has not said the last word.
    pub(crate) fn lingers(&self) -> bool {
        self.ended.is_some() && !self.outputs.is_empty()
    }

    pub(crate) fn add_credit(&mut self, bytes: u32) {
        self.credit = self.credit.map(|credit| credit.saturating_add(bytes));
    }

    /// Descriptors worth waiting for, given whether output can be sent on.
    pub(crate) fn interests(&self, room: bool) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::new();
        if room && self.credit != Some(0) {
            wanted.extend(
                self.outputs
                    .iter()
                    .map(|output| (output.fd.as_fd(), PollFlags::IN)),
            );
        }
        if let Some(input) = self.input.as_ref().filter(|input| !input.queue.is_empty()) {
            wanted.push((input.fd.as_fd(), PollFlags::OUT));
        }
        wanted
    }

    /// Moves at most one chunk of each output towards the host.
    pub(crate) fn pump_output(&mut self, link: &mut Link, buffer: &mut [u8]) {
        let (stream, ended) = (self.stream, self.ended);
        let mut outputs = std::mem::take(&mut self.outputs);
        let label = self.label.as_deref();
        outputs.retain_mut(|output| {
            let allowed = self
                .credit
                .map_or(CHUNK, |credit| CHUNK.min(credit as usize));
            let room = link.room().saturating_sub(output.begun.len());
            let most = allowed.min(room).min(buffer.len());
            if most == 0 {
                return true;
            }
            match read_some(output, &mut buffer[..most], ended) {
                Taken::Bytes(count) => {
                    if let Some(label) = label {
                        output.begun.extend_from_slice(&buffer[..count]);
                        let lines = labelled(whole_lines(&mut output.begun), label);
                        lines
                            .chunks(CHUNK)
                            .for_each(|chunk| link.put(output.kind, stream, chunk));
                    } else {
                        link.put(output.kind, stream, &buffer[..count]);
                    }
                    // At most the credit was read.
                    let spent = u32::try_from(count).unwrap_or(u32::MAX);
                    self.credit = self.credit.map(|credit| credit.saturating_sub(spent));
                    true
                }
                Taken::Nothing => true,
                Taken::End => {
                    if !output.begun.is_empty() {
                        output.begun.push(b'\n');
                        let last =
                            labelled(std::mem::take(&mut output.begun), label.unwrap_or(""));
                        link.put(output.kind, stream, &last);
                    }
                    false
                }
            }
        });
        self.outputs = outputs;
    }

    /// Reads and forgets one chunk of each output; returns how many bytes that were.
    pub(crate) fn discard_output(&mut self, buffer: &mut [u8]) -> usize {
        let (ended, mut lost) = (self.ended, 0);
        self.outputs
            .retain(|output| match read_some(output, buffer, ended) {
                Taken::Bytes(count) => {
                    lost += count;
                    true
                }
                Taken::Nothing => true,
                Taken::End => false,
            });
        lost
    }

    /// Queues input. Returns false when the host sent far more than it was granted.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> bool {
        let Some(input) = &mut self.input else {
            return true;
        };
        input.queue.extend(bytes);
        input.queue.len() <= INPUT_MOST
    }

    /// Notes that no more input will come.
    pub(crate) fn end_input(&mut self) {
        if let Some(input) = &mut self.input {
            if input.terminal {
                input.queue.push_back(END_OF_INPUT);
            } else {
                input.closing = true;
            }
        }
    }

    /// Writes queued input; returns how many bytes the host may send instead.
    pub(crate) fn pump_input(&mut self) -> u32 {
        let Some(input) = &mut self.input else {
            return 0;
        };
        let (mut written, mut broken) = (0_u32, false);
        while !input.queue.is_empty() {
            let (front, _) = input.queue.as_slices();
            match rustix::io::write(&input.fd, front) {
                Ok(count) => {
                    input.queue.drain(..count);
                    written += u32::try_from(count).unwrap_or(0);
                }
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        if broken || (input.closing && input.queue.is_empty()) {
            self.input = None;
        }
        written
    }

    /// Sets its terminal's size; without a terminal there is nothing to do.
    pub(crate) fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = self.outputs.iter().find(|output| output.terminal) {
            // A terminal that is just closing has no size any more.
            let _ = spawn::resize(&terminal.fd, size);
        }
    }
}

/// Takes the whole lines out of what was written; all of it when a line has no end for too long.
fn whole_lines(begun: &mut Vec<u8>) -> Vec<u8> {
    match begun.iter().rposition(|byte| *byte == b'\n') {
        Some(at) => {
            let rest = begun.split_off(at + 1);
            std::mem::replace(begun, rest)
        }
        None if begun.len() >= CHUNK => std::mem::take(begun),
        None => Vec::new(),
    }
}

/// Puts a label in front of every line.
fn labelled(lines: Vec<u8>, label: &str) -> Vec<u8> {
    if label.is_empty() {
        return lines;
    }
    let whole = lines.split_inclusive(|byte| *byte == b'\n');
    whole
        .flat_map(|line| [label.as_bytes(), line])
        .flatten()
        .copied()
        .collect()
}

enum Taken {
    Bytes(usize),
    Nothing,
    End,
}

fn read_some(output: &Output, buffer: &mut [u8], ended: Option<(Ended, Instant)>) -> Taken {
    match rustix::io::read(&output.fd, buffer) {
        Ok(0) => Taken::End,
        Ok(count) => Taken::Bytes(count),
        Err(Errno::INTR) => Taken::Nothing,
        Err(Errno::AGAIN) => match ended {
            // Others may hold a pipe open for ever; what the leader wrote is read by now. A
            // terminal delivers late and reports its end by itself.
            Some((_, when)) if !output.terminal || when.elapsed() > TERMINAL_GRACE => Taken::End,
            _ => Taken::Nothing,
        },
        // A terminal without programs reads as EIO.
        Err(_) => Taken::End,
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, labelled, whole_lines};

    #[test]
    fn only_whole_lines_go_to_a_stream_that_others_write_to() {
        let mut begun = b"one\ntwo\nthr".to_vec();
        assert_eq!(whole_lines(&mut begun), b"one\ntwo\n");
        assert_eq!(begun, b"thr");
        assert_eq!(whole_lines(&mut begun), b"");
        begun.extend(b"ee\n");
        assert_eq!(whole_lines(&mut begun), b"three\n");
        assert!(begun.is_empty());
    }

    #[test]
    fn every_line_carries_its_label() {
        let lines = labelled(b"one\n\ntwo".to_vec(), "web | ");
        assert_eq!(lines, b"web | one\nweb | \nweb | two");
        assert_eq!(labelled(b"one\n".to_vec(), ""), b"one\n");
        assert_eq!(labelled(Vec::new(), "web | "), b"");
    }

    #[test]
    fn a_line_without_an_end_is_not_waited_for_for_ever() {
        let mut begun = vec![b'x'; CHUNK];
        assert_eq!(whole_lines(&mut begun).len(), CHUNK);
        assert!(begun.is_empty());
    }
}
