//! A producer that sends every message twice and compares the answers.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::frame::SerializeType;
use agena_protocol::headers::send::{SendMessageRequest, SendMessageRequestV2};
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::link::Link;
use crate::pace::Pace;
use crate::{LIMIT, Outcome, QUEUES, TOPIC};

/// Messages of one write.
const ROUND: u64 = 64;

/// A second send comes so many numbers after the first at most: half of what a broker remembers by default.
const LATE_MAX: u64 = 500;

const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Every so many numbers, one is a batch,
const BATCH_EVERY: u64 = 16;

/// of so many messages.
const BATCH: usize = 5;

/// How many messages a number stands for.
pub(crate) fn messages_of(number: u64) -> usize {
    if number.is_multiple_of(BATCH_EVERY) {
        BATCH
    } else {
        1
    }
}

/// What an answer says: that it is well, and where the message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    code: i32,
    msg_id: String,
    transaction_id: Option<String>,
    pub(crate) queue: i32,
    pub(crate) offset: i64,
}

pub(crate) struct Producer {
    pub(crate) id: String,
    address: String,
    link: Option<Link>,
    chance: fastrand::Rng,
    /// Where each message is, by its number.
    pub(crate) places: Vec<Option<Place>>,
    /// Requests that were sent so far.
    pub(crate) requests: u64,
    faults: Vec<String>,
}

impl Producer {
    pub(crate) fn new(number: u64, address: &str, seed: u64) -> Self {
        Self {
            id: format!("producer-{number}"),
            address: address.to_owned(),
            link: None,
            chance: fastrand::Rng::with_seed(seed.wrapping_mul(1_000) + number),
            places: Vec::new(),
            requests: 0,
            faults: Vec::new(),
        }
    }

    pub(crate) fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// Sends so many messages, each at least twice, and counts those that are done.
    pub(crate) fn send_all(&mut self, count: u64, pace: &Pace) -> Outcome<()> {
        let mut late: BTreeSet<u64> = BTreeSet::new();
        let mut next = 0;
        while next < count || !late.is_empty() {
            pace.wait();
            let round: Vec<u64> = (next..count.min(next + ROUND)).collect();
            next += ROUND;
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for &number in &round {
                self.places.push(None);
                first.push(number);
                match self.chance.u8(..4) {
                    0 => first.push(number),
                    1 => second.push(number),
                    _ => drop(late.insert(number)),
                }
            }
            let was_lost = self.deliver(&first)?;
            // The broker is another process now: what the one before answered is asked of it.
            if was_lost || next >= count {
                second.extend(std::mem::take(&mut late));
            } else {
                let kept = late.split_off(&(next + ROUND).saturating_sub(LATE_MAX));
                second.extend(std::mem::replace(&mut late, kept));
            }
            if self.deliver(&second)? {
                // Some of these were the first that the new process heard of their producer.
                self.deliver(&first)?;
            }
            pace.did(u64::try_from(round.len())?);
        }
        Ok(())
    }

    /// Sends the latest messages once more.
    pub(crate) fn repeat_latest(&mut self) -> Outcome<()> {
        self.link = None;
        let count = u64::try_from(self.places.len())?;
        let latest: Vec<u64> = (count.saturating_sub(LATE_MAX)..count).collect();
        for round in latest.chunks(usize::try_from(ROUND)?) {
            self.deliver(round)?;
        }
        Ok(())
    }

    /// Sends these in one write and again until all are answered. Tells whether a connection was lost on the way.
    fn deliver(&mut self, numbers: &[u64]) -> Outcome<bool> {
        let mut open: Vec<u64> = numbers.to_vec();
        let mut was_lost = false;
        let deadline = Instant::now() + LIMIT;
        while !open.is_empty() {
            if Instant::now() > deadline {
                return Err(format!("{}: no answers any more", self.id).into());
            }
            let known = self.link.take();
            let Ok(mut link) = known.map_or_else(|| Link::connect(&self.address), Ok) else {
                std::thread::sleep(RECONNECT_PAUSE);
                continue;
            };
            match self.exchange(&mut link, &mut open) {
                Ok(()) => self.link = Some(link),
                Err(_) => was_lost = true,
            }
        }
        Ok(was_lost)
    }

    /// One write and its answers. What stays in `open` was not answered, or not for good.
    fn exchange(&mut self, link: &mut Link, open: &mut Vec<u64>) -> io::Result<()> {
        let mut under_way: BTreeMap<i32, u64> = BTreeMap::new();
        let mut frames = Vec::new();
        for (at, &number) in open.iter().enumerate() {
            let mut request = self.request(number, at);
            // The attempts of a message come in all forms.
            if self.chance.bool() {
                request.serialize = SerializeType::Rocketmq;
            }
            request.opaque = i32::try_from(at).unwrap_or(i32::MAX);
            under_way.insert(request.opaque, number);
            frames.extend(request.encode());
        }
        self.requests += u64::try_from(open.len()).unwrap_or(0);
        link.write(&frames)?;
        while !under_way.is_empty() {
            let answer = link.answer()?;
            if let Some(number) = under_way.remove(&answer.opaque)
                && self.learn(number, &answer)
                && let Some(at) = open.iter().position(|&other| other == number)
            {
                open.swap_remove(at);
            }
        }
        Ok(())
    }

    /// Compares an answer with those before it. False if the message has to be sent again.
    fn learn(&mut self, number: u64, answer: &Command) -> bool {
        let code = answer.response_code();
        // The last is stored, and said to be in memory only: a repeat is answered when it is on the device.
        if matches!(
            code,
            Some(
                ResponseCode::SystemBusy
                    | ResponseCode::ServiceNotAvailable
                    | ResponseCode::FlushDiskTimeout
            )
        ) {
            return false;
        }
        let field = |name: &str| answer.ext.get(name);
        let place = || {
            Some(Place {
                code: answer.code,
                msg_id: field("msgId")?.to_owned(),
                transaction_id: field("transactionId").map(str::to_owned),
                queue: field("queueId")?.parse().ok()?,
                offset: field("queueOffset")?.parse().ok()?,
            })
        };
        let Some(place) = place() else {
            let remark = &answer.remark;
            self.faults.push(format!(
                "{} {number} is refused: {} {remark:?}",
                self.id, answer.code
            ));
            return true;
        };
        let ids = place.msg_id.split(',').count();
        if ids != messages_of(number) {
            self.faults.push(format!("{} {number}: {ids} ids", self.id));
        }
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(known) = self.places.get_mut(index) {
            match known {
                None => *known = Some(place),
                Some(first) if *first == place => {}
                Some(first) => self.faults.push(format!(
                    "{} {number}: first {first:?}, then {place:?}",
                    self.id
                )),
            }
        }
        true
    }

    /// The message of this number, or the batch. `turn` changes the queue that is asked for: a repeat need not ask for the
    /// first one.
    fn request(&mut self, number: u64, turn: usize) -> Command {
        let mut all = PropertiesBuf::new();
        all.set(properties::PRODUCER_ID, self.id.as_str());
        all.set(properties::SEQUENCE, number.to_string());
        all.set(properties::UNIQ_KEY, format!("{}-{number}", self.id));
        let properties = String::from_utf8_lossy(&all.encode()).into_owned();
        let queue_id = i32::try_from(turn).unwrap_or(0) % QUEUES;
        let is_batch = messages_of(number) > 1;
        let body = if is_batch {
            self.batch(number)
        } else {
            format!("{} {number}", self.id).into_bytes()
        };
        if !is_batch && self.chance.bool() {
            let header = SendMessageRequest {
                producer_group: "dedup-producers",
                topic: TOPIC,
                default_topic: "TBW102",
                default_topic_queue_nums: QUEUES,
                queue_id,
                properties: Some(&properties),
                ..SendMessageRequest::default()
            };
            return Command::request(RequestCode::SendMessage)
                .with_header(&header)
                .with_body(body);
        }
        let header = SendMessageRequestV2 {
            producer_group: "dedup-producers",
            topic: TOPIC,
            default_topic: "TBW102",
            default_topic_queue_nums: QUEUES,
            queue_id,
            properties: Some(&properties),
            batch: Some(is_batch),
            ..SendMessageRequestV2::default()
        };
        let code = match is_batch {
            true => RequestCode::SendBatchMessage,
            false => RequestCode::SendMessageV2,
        };
        Command::request(code).with_header(&header).with_body(body)
    }

    fn batch(&self, number: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for part in 0..messages_of(number) {
            let text = format!("{} {number} {part}", self.id);
            let part = InnerMessage {
                flag: 0,
                body: text.as_bytes(),
                properties: b"",
            };
            // It is short enough for the lengths of a batch.
            let _ = part.write(&mut body);
        }
        body
    }
}
