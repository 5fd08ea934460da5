//! Frames and their fixed fields.

use agena_protocol::command::Command;
use agena_protocol::frame::{self, Frame, SerializeType, Split};
use agena_protocol::header_json::language_name;

use crate::fixtures::{self, Fixture};

#[test]
fn every_frame_says_what_the_index_says() {
    for fixture in fixtures::frames() {
        let entry = &fixture.entry;
        let frame = fixture.frame();
        let file = &entry.file;
        assert_eq!(frame.code, entry.code, "{file}");
        assert_eq!(frame.opaque, entry.opaque, "{file}");
        assert_eq!(frame.flag, entry.flag, "{file}");
        assert_eq!(frame.version, entry.version, "{file}");
        assert_eq!(frame.remark.as_deref(), entry.remark.as_deref(), "{file}");
        assert_eq!(frame.body.len(), entry.body_length, "{file}");
        assert_eq!(fixture.bytes.len(), entry.frame_length, "{file}");
        assert_eq!(frame.is_response(), fixture.is_response(), "{file}");
        assert_eq!(
            frame.is_one_way(),
            entry.kind == "oneway-request" && entry.flag & 2 != 0,
            "{file}"
        );
        let serialize = match frame.serialize {
            SerializeType::Json => "JSON",
            SerializeType::Rocketmq => "ROCKETMQ",
        };
        assert_eq!(Some(serialize), entry.serialize_type.as_deref(), "{file}");
        match &entry.language {
            serde_json::Value::String(name) => {
                assert_eq!(language_name(frame.language), name, "{file}");
            }
            serde_json::Value::Number(code) => {
                assert_eq!(Some(i64::from(frame.language)), code.as_i64(), "{file}");
            }
            other => panic!("{file}: language {other}"),
        }
        let expected: Vec<_> = entry
            .ext_fields
            .iter()
            .flatten()
            .filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
            .collect();
        let mut found: Vec<_> = frame.ext.iter().collect();
        found.sort_unstable();
        assert_eq!(found, expected, "{file}");
    }
}

#[test]
fn every_frame_written_again_says_the_same() {
    for fixture in fixtures::frames() {
        let command = fixture.command();
        let in_its_form = decode(&command.encode());
        assert_eq!(in_its_form, command, "{}", fixture.entry.file);
        // The binary form leaves no choice, up to the order of the fields.
        if command.serialize == SerializeType::Rocketmq {
            assert_eq!(command.encode().len(), fixture.bytes.len());
        }
        let mut other_form = command.clone();
        other_form.serialize = match command.serialize {
            SerializeType::Json => SerializeType::Rocketmq,
            SerializeType::Rocketmq => SerializeType::Json,
        };
        if fits_binary(&other_form) {
            let decoded = decode(&other_form.encode());
            assert_eq!(decoded, other_form, "{}", fixture.entry.file);
        }
    }
}

/// The binary form has 16 bits for the code and no empty texts.
fn fits_binary(command: &Command) -> bool {
    i16::try_from(command.code).is_ok()
        && command.ext.iter().all(|(_, value)| !value.is_empty())
        && command.remark.as_deref() != Some("")
}

fn decode(bytes: &[u8]) -> Command {
    let Ok(Split::Whole(raw, used)) = frame::split(bytes) else {
        panic!("not a frame")
    };
    assert_eq!(used, bytes.len());
    Frame::decode(raw).unwrap().to_command()
}

#[test]
fn every_cut_frame_asks_for_exactly_what_is_missing() {
    for fixture in fixtures::one_of_each() {
        let whole = &fixture.bytes;
        for keep in 0..whole.len() {
            let expected = if keep < 4 { 4 } else { whole.len() };
            assert_eq!(
                frame::split(&whole[..keep]),
                Ok(Split::Partial(expected)),
                "{} cut at {keep}",
                fixture.entry.file
            );
        }
    }
}

#[test]
fn a_stream_of_frames_comes_apart_where_it_was_joined() {
    let fixtures = fixtures::frames();
    let stream: Vec<u8> = fixtures.iter().flat_map(|f| f.bytes.clone()).collect();
    let mut rest = stream.as_slice();
    for Fixture { entry, bytes, .. } in &fixtures {
        let Ok(Split::Whole(raw, used)) = frame::split(rest) else {
            panic!("{}", entry.file)
        };
        assert_eq!(used, bytes.len());
        assert_eq!(raw.body.len(), entry.body_length);
        rest = &rest[used..];
    }
    assert!(rest.is_empty());
}
