//! Bytes that nobody should send. Whatever they are: a value or an error, no panic.

use agena_protocol::bodies::register_broker::RegisterBrokerBody;
use agena_protocol::command::Command;
use agena_protocol::compression;
use agena_protocol::frame::{self, Frame, RawFrame, Split};
use agena_protocol::header_json;
use agena_protocol::sys_flag::Codec;
use agena_protocol::{batch, properties_text, record};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::bodies::{self, Body};
use crate::fixtures::{self, Fixture};
use crate::headers;

/// Reads everything that can be read of a frame.
fn read_all(fixture: &Fixture, raw: RawFrame<'_>) {
    let Ok(frame) = Frame::decode(raw) else {
        return;
    };
    let command = frame.to_command();
    let Some(code) = fixture.request() else {
        return;
    };
    let _ = headers::request(code)(&command.ext);
    let _ = headers::response(code)(&command.ext);
    let _ = header_json::language_name(frame.language);
    read_body(fixture, &command);
    let _ = command.encode();
}

fn read_body(fixture: &Fixture, command: &Command) {
    let Some(code) = fixture.request() else {
        return;
    };
    let body = if fixture.is_response() {
        bodies::response(code)
    } else {
        bodies::request(code)
    };
    match body {
        Some(Body::Json(json)) => {
            let _ = (json.rewrite)(&command.body);
        }
        Some(Body::Registration) => {
            let _ = RegisterBrokerBody::decode(&command.body, false, 479);
        }
        Some(Body::Records) => read_records(&command.body),
        Some(Body::Message) => {
            assert!(batch::messages(&command.body).count() <= command.body.len())
        }
        Some(Body::Properties) => {
            let _ = properties_text::parse(&String::from_utf8_lossy(&command.body));
        }
        Some(Body::Opaque) | None => {}
    }
}

fn read_records(bytes: &[u8]) {
    for record in record::records(bytes).flatten() {
        let _ = record.check_sums();
        let _ = record.properties().iter().count();
    }
}

#[test]
fn a_header_cut_anywhere_is_a_value_or_an_error() {
    for fixture in fixtures::one_of_each() {
        let raw = fixture.raw();
        for keep in 0..raw.header.len() {
            let header = &raw.header[..keep];
            let decoded = Frame::decode(RawFrame { header, ..raw });
            assert!(decoded.is_err(), "{} {keep}", fixture.entry.file);
        }
    }
}

#[test]
fn a_body_cut_anywhere_is_a_value_or_an_error() {
    for fixture in fixtures::one_of_each() {
        let mut command = fixture.command();
        let body = command.body.clone();
        // Long bodies at every place of their beginning and then at some.
        let places = (0..body.len()).filter(|at| *at < 128 || at % 257 == 0);
        for keep in places {
            command.body = body.slice(..keep);
            read_body(&fixture, &command);
        }
    }
}

#[test]
fn a_small_registration_does_not_become_a_large_one() {
    let bomb = compression::compress(Codec::Zlib, 9, &vec![0; 65 << 20]).unwrap();
    assert!(bomb.len() < 100_000);
    assert!(RegisterBrokerBody::decode(&bomb, true, 479).is_err());
}

fn with_fixtures(test: impl Fn(&[Fixture])) {
    test(&fixtures::one_of_each());
}

#[test]
fn mutated_frames_end_in_a_value_or_an_error() {
    with_fixtures(|fixtures| {
        let mutations = proptest::collection::vec((any::<Index>(), any::<u8>()), 1..6);
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
            cases: 1000,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let strategy = (any::<Index>(), mutations);
        let result = runner.run(&strategy, |(which, mutations)| {
            let fixture = which.get(fixtures);
            let mut bytes = fixture.bytes.clone();
            for (at, byte) in mutations {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Ok(Split::Whole(raw, used)) = frame::split(&bytes) {
                prop_assert!(used <= bytes.len());
                read_all(fixture, raw);
            }
            // The same with the lengths kept right, so that the mutation reaches the header and the body.
            let lengths = fixture.bytes[..8].to_vec();
            bytes[..8].copy_from_slice(&lengths);
            if let Ok(Split::Whole(raw, _)) = frame::split(&bytes) {
                read_all(fixture, raw);
            }
            Ok(())
        });
        result.unwrap();
    });
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn random_bytes_are_no_frame_or_one_within_its_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        match frame::split(&bytes) {
            Ok(Split::Whole(raw, used)) => {
                prop_assert!(used <= bytes.len());
                prop_assert_eq!(raw.header.len() + raw.body.len() + 8, used);
                let _ = Frame::decode(raw);
            }
            Ok(Split::Partial(total)) => prop_assert!(total > bytes.len() && total <= frame::FRAME_BYTES_MAX),
            Err(_) => {}
        }
    }

    #[test]
    fn random_headers_end(
        header in proptest::collection::vec(any::<u8>(), 0..200),
        binary in any::<bool>(),
    ) {
        let serialize = if binary { frame::SerializeType::Rocketmq } else { frame::SerializeType::Json };
        let _ = Frame::decode(RawFrame { serialize, header: &header, body: b"" });
    }

    #[test]
    fn random_json_headers_end(text in r#"[{}\[\]"':,a-z0-9\\ -]{0,120}"#) {
        let serialize = frame::SerializeType::Json;
        let _ = Frame::decode(RawFrame { serialize, header: text.as_bytes(), body: b"" });
    }

    #[test]
    fn random_compressed_bodies_stay_below_the_limit(
        start in 0usize..4,
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        const MAGIC: [&[u8]; 4] = [&[0x78, 0x9c], &[4, 0x22, 0x4d, 0x18], &[0x28, 0xb5, 0x2f, 0xfd], &[]];
        let body = [MAGIC[start], &bytes].concat();
        for codec in [Codec::Zlib, Codec::Lz4, Codec::Zstd] {
            if let Ok(plain) = compression::decompress(codec, &body, 10_000) {
                prop_assert!(plain.len() <= 10_000);
            }
        }
    }

    #[test]
    fn any_command_reads_back_in_both_forms(
        code in any::<i16>(),
        opaque in any::<i32>(),
        flag in 0i32..4,
        language in 0u8..14,
        version in 0i32..1000,
        remark in proptest::option::of(".{1,20}"),
        fields in proptest::collection::btree_map("[a-zA-Z_]{1,12}", ".{1,30}", 0..25),
        body in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        for serialize in [frame::SerializeType::Json, frame::SerializeType::Rocketmq] {
            let mut command = Command::success();
            command.serialize = serialize;
            command.code = code.into();
            command.opaque = opaque;
            command.flag = flag;
            command.language = language;
            command.version = version;
            command.remark = remark.clone();
            for (name, value) in &fields {
                command.ext.push(name.clone(), value.clone());
            }
            command.body = Bytes::from(body.clone());
            let bytes = command.encode();
            let Ok(Split::Whole(raw, used)) = frame::split(&bytes) else {
                panic!("not a frame");
            };
            prop_assert_eq!(used, bytes.len());
            prop_assert_eq!(Frame::decode(raw).unwrap().to_command(), command);
        }
    }
}
