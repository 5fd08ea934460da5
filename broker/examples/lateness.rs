//! How late delayed messages come: sends timers that become due at a steady rate, waits, and reads when each was stored.
//!
//! `cargo run --release -p agena-broker --example lateness -- 127.0.0.1:10911 10000 50000 [timer|level]`: address, messages due per
//! second, messages in all. With `level` all go to delay level 2 (5 s) as fast as they can be sent, and the rate is what comes of it.

use std::io::{Error, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agena_protocol::command::Command;
use agena_protocol::frame::{Frame, Split, split};
use agena_protocol::headers::offsets::GetMaxOffsetRequest;
use agena_protocol::headers::pull::{PullMessageRequest, PullMessageResponse};
use agena_protocol::headers::send::SendMessageRequestV2;
use agena_protocol::record::records;
use agena_protocol::request_code::RequestCode;

const SENDERS: usize = 4;
/// Requests that a sender has under way.
const WINDOW: usize = 64;
/// The delay of level 2.
const LEVEL_MS: i64 = 5000;

type Failure = Box<dyn std::error::Error + Send + Sync>;

struct Wire {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Wire {
    fn connect(address: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let read = Vec::new();
        Ok(Self { stream, read })
    }

    fn answer(&mut self) -> Result<Command, Failure> {
        loop {
            if let Split::Whole(raw, used) = split(&self.read)? {
                let answer = Frame::decode(raw)?.to_command();
                self.read.drain(..used);
                return Ok(answer);
            }
            let mut more = [0; 262_144];
            let count = self.stream.read(&mut more)?;
            if count == 0 {
                return Err(Error::other("the broker closed the connection").into());
            }
            self.read.extend_from_slice(&more[..count]);
        }
    }

    fn call(&mut self, request: &Command) -> Result<Command, Failure> {
        self.stream.write_all(&request.encode())?;
        self.answer()
    }

    fn max_offset(&mut self, topic: &str) -> Result<i64, Failure> {
        let header = GetMaxOffsetRequest {
            topic,
            ..GetMaxOffsetRequest::default()
        };
        let request = Command::request(RequestCode::GetMaxOffset).with_header(&header);
        let answer = self.call(&request)?;
        Ok(answer.ext.parsed("offset")?.unwrap_or(0))
    }
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_millis()).unwrap_or(i64::MAX))
}

/// One message; its body is the time at which it is due, in ms.
fn message(topic: &str, due_ms: i64, by_level: bool) -> Command {
    let wish = if by_level {
        "DELAY\u{1}2\u{2}".to_owned()
    } else {
        format!("TIMER_DELIVER_MS\u{1}{due_ms}\u{2}")
    };
    let header = SendMessageRequestV2 {
        producer_group: "lateness",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 1,
        properties: Some(&wish),
        ..SendMessageRequestV2::default()
    };
    Command::request(RequestCode::SendMessageV2)
        .with_header(&header)
        .with_body(due_ms.to_string().into_bytes())
}

fn send(address: SocketAddr, topic: &str, due: &[i64], by_level: bool) -> Result<(), Failure> {
    let mut wire = Wire::connect(address)?;
    for window in due.chunks(WINDOW) {
        let mut bytes = Vec::new();
        for due_ms in window {
            let due_ms = if by_level {
                now_ms() + LEVEL_MS
            } else {
                *due_ms
            };
            bytes.extend(message(topic, due_ms, by_level).encode());
        }
        wire.stream.write_all(&bytes)?;
        for _ in window {
            let answer = wire.answer()?;
            if !answer.is_success() {
                return Err(Error::other(format!("{}: {:?}", answer.code, answer.remark)).into());
            }
        }
    }
    Ok(())
}

/// Milliseconds between due and stored, of every message, ascending.
fn lateness(wire: &mut Wire, topic: &str, count: i64) -> Result<Vec<i64>, Failure> {
    let mut late = Vec::new();
    let mut next = 0;
    while next < count {
        let header = PullMessageRequest {
            consumer_group: "lateness",
            topic,
            queue_offset: next,
            max_msg_nums: 32,
            sys_flag: 4,
            subscription: Some("*"),
            ..PullMessageRequest::default()
        };
        let answer = wire.call(&Command::request(RequestCode::PullMessage).with_header(&header))?;
        next = answer.header::<PullMessageResponse>()?.next_begin_offset;
        for record in records(&answer.body) {
            let record = record?;
            let due_ms: i64 = std::str::from_utf8(record.body())?.parse()?;
            late.push(record.store_timestamp() - due_ms);
        }
    }
    late.sort_unstable();
    Ok(late)
}

#[expect(clippy::print_stdout, reason = "the figures are the program's result")]
fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, rate, count, rest @ ..] = arguments.as_slice() else {
        return Err(Error::other("address, rate and count, please").into());
    };
    let (address, rate, count): (SocketAddr, i64, i64) =
        (address.parse()?, rate.parse()?, count.parse()?);
    let by_level = rest.first().is_some_and(|kind| kind == "level");
    let topic = format!("lateness-{}", now_ms());
    let mut wire = Wire::connect(address)?;
    send(address, &topic, &[0], false)?;
    let first = now_ms() + 10_000;
    let due: Vec<i64> = (0..count)
        .map(|number| first + number * 1000 / rate)
        .collect();
    std::thread::scope(|scope| {
        let parts = due.chunks(due.len().div_ceil(SENDERS));
        let topic = topic.as_str();
        let sending: Vec<_> = parts
            .map(|part| scope.spawn(move || send(address, topic, part, by_level)))
            .collect();
        sending.into_iter().try_for_each(|sender| {
            sender
                .join()
                .map_err(|_| Error::other("a sender panicked"))?
        })
    })?;
    println!("sent {count}, the first due in {} ms", first - now_ms());
    while wire.max_offset(&topic)? <= count {
        std::thread::sleep(Duration::from_millis(100));
    }
    let late = lateness(&mut wire, &topic, count + 1)?;
    // The message that made the topic is due at the beginning of time.
    let late = &late[..late.len() - 1];
    let at = |thousandth: usize| late[(late.len() - 1) * thousandth / 1000];
    let early = late.iter().filter(|late| **late < 0).count();
    println!(
        "{} messages, {early} early; late by ms: min {} p50 {} p99 {} p99.9 {} max {}",
        late.len(),
        at(0),
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    Ok(())
}
