//! The framed, multiplexed byte stream between guest, shim and agent.
//!
//! Twin of `src/godwit/wire/channel.py`, whose docstring is normative: a frame is
//! `length: u32 | kind: u8 | stream: u32 | payload`, big endian.

use std::fmt;

use serde::Serialize;

/// The longest payload one frame carries.
pub const MAX_PAYLOAD: usize = 65_536;
/// The longest message towards the guest: run specs and commands carry environment and files.
pub const MAX_MESSAGE: usize = 1_048_576;
/// Bytes each side of a session may send before it is granted more.
pub const INITIAL_CREDIT: u32 = 262_144;
/// Length, kind and stream.
pub const HEADER: usize = 9;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A JSON object with a `type`.
    Message = 1,
    Stdin = 2,
    Stdout = 3,
    Stderr = 4,
    /// A u32: so many more bytes may be sent on this stream.
    Credit = 5,
    /// The sender's data on this stream is at its end.
    Eof = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Message,
            2 => Self::Stdin,
            3 => Self::Stdout,
            4 => Self::Stderr,
            5 => Self::Credit,
            6 => Self::Eof,
            _ => return None,
        })
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Returns the number of bytes a CREDIT frame grants.
    pub fn credit(&self) -> Option<u32> {
        let bytes: [u8; 4] = self.payload.as_slice().try_into().ok()?;
        Some(u32::from_be_bytes(bytes))
    }
}

/// The peer does not speak this protocol; the connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadFrame(String);

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadFrame {}

/// Appends one frame to `out`.
///
/// # Panics
/// If the payload is over [`MAX_PAYLOAD`]: senders cut their data.
pub fn encode_into(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8]) {
    encode_within(out, kind, stream, payload, MAX_PAYLOAD);
}

fn encode_within(out: &mut Vec<u8>, kind: Kind, stream: u32, payload: &[u8], most: usize) {
    assert!(payload.len() <= most, "payload of {} bytes", payload.len());
    out.reserve(HEADER + payload.len());
    // The assertion above keeps this within u32.
    #[allow(clippy::cast_possible_truncation)]
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.push(kind as u8);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a MESSAGE frame to `out`; returns false, writing nothing, if it would be too long.
pub fn message_into<T: Serialize + ?Sized>(out: &mut Vec<u8>, stream: u32, body: &T) -> bool {
    message_within(out, stream, body, MAX_PAYLOAD)
}

/// Appends a MESSAGE frame towards the guest, of at most [`MAX_MESSAGE`]; false if it is longer.
pub fn long_message_into<T: Serialize + ?Sized>(out: &mut Vec<u8>, stream: u32, body: &T) -> bool {
    message_within(out, stream, body, MAX_MESSAGE)
}

fn message_within<T: Serialize + ?Sized>(
    out: &mut Vec<u8>,
    stream: u32,
    body: &T,
    most: usize,
) -> bool {
    match serde_json::to_vec(body) {
        Ok(json) if json.len() <= most => {
            encode_within(out, Kind::Message, stream, &json, most);
            true
        }
        _ => false,
    }
}

/// Appends a CREDIT frame to `out`.
pub fn credit_into(out: &mut Vec<u8>, stream: u32, bytes: u32) {
    encode_into(out, Kind::Credit, stream, &bytes.to_be_bytes());
}

/// Takes bytes as they come, gives whole frames. Does no I/O.
#[derive(Debug)]
pub struct Decoder {
    buffer: Vec<u8>,
    consumed: usize,
    longest_message: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            consumed: 0,
            longest_message: MAX_PAYLOAD,
        }
    }
}

impl Decoder {
    /// Returns one for what comes from the host's side, whose messages may be long.
    pub fn of_the_host() -> Self {
        Self {
            longest_message: MAX_MESSAGE,
            ..Self::default()
        }
    }

    /// Adds bytes; take the frames they complete with [`Decoder::next_frame`].
    pub fn feed(&mut self, data: &[u8]) {
        if self.consumed > 0 {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(data);
    }

    /// Returns the next whole frame, `None` when more bytes are needed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, BadFrame> {
        let rest = &self.buffer[self.consumed..];
        let Some((header, body)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, s0, s1, s2, s3] = *header;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let parsed = Kind::from_byte(kind);
        let most = match parsed {
            Some(Kind::Message) => self.longest_message,
            _ => MAX_PAYLOAD,
        };
        if length > most {
            return Err(BadFrame(format!("payload of {length} bytes")));
        }
        let kind = parsed.ok_or(BadFrame(format!("unknown kind {kind}")))?;
        let Some(payload) = body.get(..length) else {
            return Ok(None);
        };
        let frame = Frame {
            kind,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            payload: payload.to_vec(),
        };
        self.consumed += HEADER + length;
        Ok(Some(frame))
    }

    /// Forgets everything fed so far, as after a break of the connection.
    pub fn reset(&mut self) {
        self.buffer = Vec::new();
        self.consumed = 0;
    }
}
