//! The twins of channel, messages, run spec and shim read and write what Python does.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;

use godwit_wire::channel::{Decoder, Frame, Kind, encode_into};
use godwit_wire::messages::{GuestMessage, HostMessage};
use godwit_wire::run_spec::RunSpec;
use godwit_wire::shim::{AgentMessage, ExitRecord, LogLine, ShimConfig, Status};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../contracts/golden");
    serde_json::from_str(&fs::read_to_string(path.join(name)).unwrap()).unwrap()
}

fn reads_back<T: Serialize + DeserializeOwned>(name: &str) {
    let document = golden(name);
    let read: T = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(read).unwrap(), document, "{name}");
}

#[test]
fn records_read_back_as_themselves() {
    reads_back::<RunSpec>("run_spec.json");
    reads_back::<RunSpec>("run_spec_containers.json");
    reads_back::<ShimConfig>("shim_config.json");
    reads_back::<ExitRecord>("shim_exit.json");
    reads_back::<LogLine>("shim_log_line.json");
    reads_back::<Status>("shim_status.json");
}

#[test]
fn every_message_has_a_side_that_knows_it() {
    for document in golden("messages.json").as_array().unwrap() {
        let to_guest: HostMessage =
            serde_json::from_value(document.clone()).unwrap_or(HostMessage::Unknown);
        let to_host: GuestMessage =
            serde_json::from_value(document.clone()).unwrap_or(GuestMessage::Unknown);
        let written = match (&to_guest, &to_host) {
            (HostMessage::Unknown, GuestMessage::Unknown) => panic!("nobody knows {document}"),
            (HostMessage::Unknown, known) => serde_json::to_value(known).unwrap(),
            (known, _) => serde_json::to_value(known).unwrap(),
        };
        assert_eq!(&written, document);
        if to_guest != HostMessage::Unknown {
            let from_agent: AgentMessage = serde_json::from_value(document.clone()).unwrap();
            assert_ne!(from_agent, AgentMessage::Unknown);
        }
    }
}

#[test]
fn messages_of_a_newer_release_read_as_unknown() {
    let newer = r#"{"type":"teleport","where":"anywhere"}"#;
    assert_eq!(
        serde_json::from_str::<HostMessage>(newer).unwrap(),
        HostMessage::Unknown
    );
    assert_eq!(
        serde_json::from_str::<GuestMessage>(newer).unwrap(),
        GuestMessage::Unknown
    );
    assert_eq!(
        serde_json::from_str::<AgentMessage>(newer).unwrap(),
        AgentMessage::Unknown
    );
    let field = r#"{"type":"ping","id":3,"colour":"red"}"#;
    assert_eq!(
        serde_json::from_str::<HostMessage>(field).unwrap(),
        HostMessage::Ping { id: 3 }
    );
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

fn golden_frames() -> Vec<(Frame, Vec<u8>)> {
    let document = golden("channel.json");
    let entries = document.as_array().unwrap().iter();
    entries
        .map(|entry| {
            let kind = match entry["kind"].as_str().unwrap() {
                "MESSAGE" => Kind::Message,
                "STDIN" => Kind::Stdin,
                "STDOUT" => Kind::Stdout,
                "STDERR" => Kind::Stderr,
                "CREDIT" => Kind::Credit,
                "EOF" => Kind::Eof,
                other => panic!("{other}"),
            };
            let stream = u32::try_from(entry["stream"].as_u64().unwrap()).unwrap();
            let payload = hex(entry["payload_hex"].as_str().unwrap());
            let bytes = hex(entry["frame_hex"].as_str().unwrap());
            (
                Frame {
                    kind,
                    stream,
                    payload,
                },
                bytes,
            )
        })
        .collect()
}

#[test]
fn frames_are_the_bytes_python_writes() {
    for (frame, bytes) in golden_frames() {
        let mut out = Vec::new();
        encode_into(&mut out, frame.kind, frame.stream, &frame.payload);
        assert_eq!(out, bytes);
    }
}

#[test]
fn frames_come_out_whole_however_the_bytes_are_cut() {
    let frames = golden_frames();
    let all: Vec<u8> = frames.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
    for piece in 1..=all.len() {
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for part in all.chunks(piece) {
            decoder.feed(part);
            while let Some(frame) = decoder.next_frame().unwrap() {
                seen.push(frame);
            }
        }
        assert!(
            seen.iter().eq(frames.iter().map(|(frame, _)| frame)),
            "pieces of {piece}"
        );
    }
}

#[test]
fn a_length_or_kind_outside_the_protocol_is_refused() {
    for bytes in [
        "0001000101000000ff",
        "000000000700000000",
        "000000000000000000",
    ] {
        let mut decoder = Decoder::default();
        decoder.feed(&hex(bytes));
        assert!(decoder.next_frame().is_err(), "{bytes}");
    }
}

/// A few thousand pseudo-random byte strings: the decoder refuses or waits, never panics, and
/// never holds more than it was given.
#[test]
fn garbage_never_breaks_the_decoder() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..4000 {
        let mut decoder = Decoder::default();
        for _ in 0..random() % 8 {
            let mut data: Vec<u8> = (0..random() % 40)
                .map(|_| random().to_be_bytes()[0])
                .collect();
            if random() % 2 == 0 {
                data.splice(0..0, [0, 0, 0, (random() % 9).to_be_bytes()[7], 1]);
            }
            decoder.feed(&data);
            while let Ok(Some(frame)) = decoder.next_frame() {
                assert!(frame.payload.len() <= 320);
            }
        }
    }
}
