//! How long the hot steps take: split a frame, read a send's and a pull's header, write the answer's head.
//!
//! `cargo bench -p agena-protocol [-- part of a step's name]`. Frames are the captured ones of `tests/fixtures/wire`. Without `--bench` (as
//! `cargo test` runs it) each step runs once, which only proves that it still works.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop at a missing file")]
#![expect(clippy::print_stdout, reason = "the numbers are the output")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use agena_protocol::frame::{self, Frame, RawFrame, SerializeType, Split};
use agena_protocol::frame_writer::FrameWriter;
use agena_protocol::headers::pull::{PullMessageRequest, PullMessageResponse};
use agena_protocol::headers::send::{SendMessageRequest, SendMessageResponse};
use agena_protocol::headers::{DecodeHeader, Header};
use agena_protocol::request_code::RequestCode;

fn main() {
    let (flags, names): (Vec<_>, Vec<_>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with('-'));
    let measured = flags.iter().any(|flag| flag == "--bench");
    let check = Check {
        only: names.into_iter().next().unwrap_or_default(),
        time: if measured {
            Duration::from_millis(500)
        } else {
            Duration::ZERO
        },
    };
    for (form, send, pull) in [
        (
            "json",
            "000310_send_message_v2_01_req_json.bin",
            "000011_pull_message_01_req_json.bin",
        ),
        (
            "binary",
            "000310_send_message_v2_32_req_bin.bin",
            "000011_pull_message_24_req_bin.bin",
        ),
    ] {
        let send = fixture(send);
        let pull = fixture(pull);
        check.step(&format!("split {form}"), || {
            raw(black_box(&send)).header.len()
        });
        check.step(&format!("send header {form}"), || {
            Frame::decode(raw(black_box(&send))).unwrap().ext.len()
        });
        check.step(&format!("send request {form}"), || {
            let frame = Frame::decode(raw(black_box(&send))).unwrap();
            let header = SendMessageRequest::read(RequestCode::SendMessageV2, &frame.ext).unwrap();
            header.topic.len() + header.properties.map_or(0, str::len)
        });
        check.step(&format!("pull request {form}"), || {
            let frame = Frame::decode(raw(black_box(&pull))).unwrap();
            let header = PullMessageRequest::decode(&frame.ext).unwrap();
            header.topic.len()
        });
    }
    answers(&check);
}

fn answers(check: &Check) {
    let sent = SendMessageResponse {
        msg_id: "7F0000020000597F00000000000001FE",
        queue_id: 3,
        queue_offset: 123_456,
        transaction_id: Some("7F00000104E85FFD2B276749487400"),
        msg_region: Some("DefaultRegion"),
        trace_on: Some(true),
        ..SendMessageResponse::default()
    };
    let pulled = PullMessageResponse {
        next_begin_offset: 123_488,
        max_offset: 234_567,
        topic_sys_flag: Some(0),
        group_sys_flag: Some(0),
        ..PullMessageResponse::default()
    };
    let mut out = Vec::with_capacity(4096);
    for (form, serialize) in [
        ("json", SerializeType::Json),
        ("binary", SerializeType::Rocketmq),
    ] {
        check.step(&format!("send answer {form}"), || {
            answer(&mut out, serialize, &sent, None)
        });
        check.step(&format!("pull answer {form}"), || {
            answer(&mut out, serialize, &pulled, Some("FOUND"))
        });
    }
}

fn answer(
    out: &mut Vec<u8>,
    serialize: SerializeType,
    header: &impl Header,
    remark: Option<&str>,
) -> usize {
    out.clear();
    let mut writer = FrameWriter::response(out, serialize, 0, black_box(77), remark);
    header.write(&mut writer);
    writer.finish(0);
    out.len()
}

struct Check {
    only: String,
    time: Duration,
}

impl Check {
    /// Runs a step again and again and prints the best mean of a round, which is the least disturbed one.
    fn step(&self, name: &str, mut step: impl FnMut() -> usize) {
        const ROUND: u32 = 1000;
        if !name.contains(&self.only) {
            return;
        }
        if self.time.is_zero() {
            black_box(step());
            return;
        }
        let start = Instant::now();
        let mut best = Duration::MAX;
        while start.elapsed() < self.time {
            let round = Instant::now();
            for _ in 0..ROUND {
                black_box(step());
            }
            best = best.min(round.elapsed());
        }
        println!("{name:24} {:>6} ns", best.as_nanos() / u128::from(ROUND));
    }
}

fn raw(bytes: &[u8]) -> RawFrame<'_> {
    match frame::split(bytes) {
        Ok(Split::Whole(raw, _)) => raw,
        other => panic!("not a frame: {other:?}"),
    }
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire");
    std::fs::read(folder.join(name)).unwrap()
}
