//! What the broker holds and says at the end.

use std::collections::BTreeMap;

use agena_protocol::bodies::names::KVTable;
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::headers::offsets::GetMaxOffsetRequest;
use agena_protocol::headers::pull::{PullMessageRequest, PullMessageResponse};
use agena_protocol::properties;
use agena_protocol::record::records;
use agena_protocol::request_code::RequestCode;

use crate::link::Link;
use crate::producer::{Producer, messages_of};
use crate::{Outcome, QUEUES, TOPIC};

/// Inline subscription, so that no heartbeat is needed.
const SUBSCRIPTION_INLINE: i32 = 4;

/// All messages of the topic: queue and offset of each, by producer id and number.
pub(crate) struct Stored(BTreeMap<(String, u64), Vec<(i32, i64)>>);

impl Stored {
    pub(crate) fn read(address: &str) -> Outcome<Self> {
        let mut link = Link::connect(address)?;
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for queue_id in 0..QUEUES {
            let ask =
                Command::request(RequestCode::GetMaxOffset).with_header(&GetMaxOffsetRequest {
                    topic: TOPIC,
                    queue_id,
                    ..GetMaxOffsetRequest::default()
                });
            let answer = link.call(&ask)?;
            let end: i64 = answer.ext.get("offset").ok_or("no end")?.parse()?;
            let mut next = 0;
            while next < end {
                let pull = PullMessageRequest {
                    consumer_group: "dedup-auditor",
                    topic: TOPIC,
                    queue_id,
                    queue_offset: next,
                    max_msg_nums: 1024,
                    sys_flag: SUBSCRIPTION_INLINE,
                    subscription: Some("*"),
                    ..PullMessageRequest::default()
                };
                let pull = Command::request(RequestCode::PullMessage).with_header(&pull);
                let answer = link.call(&pull)?;
                let found: PullMessageResponse = answer.header()?;
                if found.next_begin_offset <= next {
                    return Err(format!("queue {queue_id} gives nothing at {next}").into());
                }
                next = found.next_begin_offset;
                for record in records(&answer.body) {
                    let record = record?;
                    let place = (queue_id, i64::try_from(record.queue_offset().number())?);
                    let property = |name| {
                        let value = record.properties().get(name);
                        value.ok_or_else(|| format!("{name} is missing at {place:?}"))
                    };
                    let id = property(properties::PRODUCER_ID)?;
                    let number = property(properties::SEQUENCE)?.parse()?;
                    all.entry((id.to_owned(), number)).or_default().push(place);
                }
            }
        }
        Ok(Self(all))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// What is not there once, at the place that its producer knows.
    pub(crate) fn compare(&self, producers: &[Producer]) -> Vec<String> {
        let mut faults = Vec::new();
        let mut known = 0;
        for producer in producers {
            for (number, place) in (0..).zip(&producer.places) {
                known += 1;
                let count = messages_of(number);
                let stored = self.0.get(&(producer.id.clone(), number));
                let stored = stored.map_or(&[][..], Vec::as_slice);
                let answered: Vec<_> = place
                    .iter()
                    .flat_map(|place| (place.offset..).take(count).map(|at| (place.queue, at)))
                    .collect();
                // A kill within the copying leaves a part of a batch, which nobody was answered for.
                let (own, part): (Vec<_>, Vec<(i32, i64)>) = stored
                    .iter()
                    .copied()
                    .partition(|place| answered.contains(place));
                if own != answered || part.len() >= count {
                    faults.push(format!(
                        "{} {number}: answered {answered:?}, stored {stored:?}",
                        producer.id
                    ));
                }
            }
        }
        if known != self.0.len() {
            faults.push(format!(
                "{} messages are stored, {known} were sent",
                self.0.len()
            ));
        }
        faults
    }
}

/// What the broker counts.
pub(crate) fn runtime(address: &str) -> Outcome<BTreeMap<String, String>> {
    let ask = Command::request(RequestCode::GetBrokerRuntimeInfo);
    let answer = Link::connect(address)?.call(&ask)?;
    let table: KVTable = fastjson::from_slice(&answer.body)?;
    Ok(table.table)
}
