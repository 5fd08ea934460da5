//! Every copy of a message that brokers have, and what is needed to read them: delay levels, how far each is delivered, offsets.

use std::collections::{BTreeMap, BTreeSet};

use agena_protocol::bodies::offsets::DelayOffsetSerializeWrapper;
use agena_protocol::bodies::stats::ConsumeStats;
use agena_protocol::command::Command;
use agena_protocol::message_id::OffsetId;
use agena_protocol::properties;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;

use crate::call::Call;
use crate::failure::Failure;
use crate::message::Message;
use crate::pull::{Bound, Queue, TOOLS_GROUP, offset, pull};
use crate::remote::{Question, reader_address};
use crate::track::{TrackType, tracks};

use super::super::broker::config_pairs;
use super::super::cluster::now_millis;
use super::super::query;
use super::super::topic::{all_topics, groups_of};

/// Where a message may wait, whatever its topic.
const WAITING_ROOMS: [&str; 4] = [
    topic::TRANS_HALF,
    topic::TRANS_CHECK_MAX_TIME,
    topic::SCHEDULE,
    topic::TIMER_WHEEL,
];

/// RocketMQ's log files, unless a broker says otherwise.
const LOG_FILE_BYTES: i64 = 1 << 30;

/// Pulls of the op topic that are spent on one half message.
const OP_PULLS_MAX: usize = 300;

/// What one broker says about its delays and files.
#[derive(Debug, Default)]
pub(super) struct BrokerFacts {
    /// How long each level waits, ms, level 1 first.
    levels_ms: Vec<i64>,
    /// The first entry of each level that is not delivered.
    delivered: BTreeMap<i32, i64>,
    log_file_bytes: i64,
}

/// A place in a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) topic: &'a str,
    pub(super) broker_name: &'a str,
    pub(super) queue_id: i32,
    pub(super) queue_offset: i64,
}

/// What a group's offset says about a place; `next` is the next one that it will commit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Passed {
    Committed { next: i64 },
    Filtered { next: i64 },
    Pulled { next: i64 },
    Not { next: i64 },
}

/// All that was found.
pub(super) struct Evidence {
    /// The topic that the producer named.
    pub(super) topic: String,
    /// In the order of time; at least one.
    pub(super) copies: Vec<Message>,
    /// The groups that consume the topic, sorted.
    pub(super) groups: Vec<String>,
    /// Brokers that have the topic: name, and address to ask.
    brokers: BTreeMap<String, String>,
    facts: BTreeMap<String, BrokerFacts>,
    none: BrokerFacts,
}

impl Evidence {
    /// Looks for the message, and for its copies on every broker of its topic.
    pub(super) fn gather(call: &Call, id: &str, wished: Option<&str>) -> Result<Self, Failure> {
        let found = find(call, id, wished)?;
        let topic = topic_of(&found).to_owned();
        let route = call.remote.route(&topic)?;
        let brokers: BTreeMap<String, String> = route
            .broker_datas
            .iter()
            .filter_map(|broker| Some((broker.broker_name.clone(), reader_address(broker)?)))
            .collect();
        let mut groups: BTreeSet<String> = BTreeSet::new();
        for data in &route.broker_datas {
            let mut one = route.clone();
            one.broker_datas = vec![data.clone()];
            groups.extend(groups_of(call, &topic, &one)?);
        }
        let own = topic::group_of_retry(&found.topic).or(topic::group_of_dlq(&found.topic));
        groups.extend(own.map(str::to_owned));
        let mut evidence = Self {
            copies: vec![found],
            groups: groups.into_iter().collect(),
            facts: BTreeMap::new(),
            none: BrokerFacts::default(),
            topic,
            brokers,
        };
        evidence.look_for_copies(call)?;
        evidence.ask_brokers(call);
        Ok(evidence)
    }

    pub(super) fn first(&self) -> &Message {
        &self.copies[0]
    }

    pub(super) fn facts_of(&self, copy: &Message) -> &BrokerFacts {
        self.facts.get(&copy.broker_name).unwrap_or(&self.none)
    }

    fn look_for_copies(&mut self, call: &Call) -> Result<(), Failure> {
        let Some(key) = self.copies[0]
            .property(properties::UNIQ_KEY)
            .map(str::to_owned)
        else {
            // Without a producer's id there is nothing to find copies by.
            return Ok(());
        };
        let mut topics: Vec<String> = WAITING_ROOMS.iter().map(|&name| name.to_owned()).collect();
        topics.push(self.topic.clone());
        for group in &self.groups {
            topics.push(topic::retry_of(group));
            topics.push(topic::dlq_of(group));
        }
        let mut seen: BTreeSet<(String, i64)> = self.copies.iter().map(place_in_log).collect();
        for (name, address) in &self.brokers {
            for copy in look_up(call, name, address, &topics, &key)? {
                if seen.insert(place_in_log(&copy)) {
                    self.copies.push(copy);
                }
            }
        }
        self.copies
            .sort_by_key(|copy| (copy.store_timestamp, copy.commit_log_offset));
        Ok(())
    }

    /// A broker that does not say leaves times unknown, and the rest of the story as it is.
    fn ask_brokers(&mut self, call: &Call) {
        let names: BTreeSet<&str> = self
            .copies
            .iter()
            .map(|copy| copy.broker_name.as_str())
            .collect();
        let known = names
            .into_iter()
            .filter_map(|name| Some((name, self.brokers.get(name)?)));
        self.facts = known
            .map(|(name, address)| (name.to_owned(), BrokerFacts::ask(call, address)))
            .collect();
    }

    /// Whether an op record names this half message: it is not pending any more.
    pub(super) fn is_decided(&self, call: &Call, half: &Message) -> Result<bool, Failure> {
        let Some(address) = self.brokers.get(&half.broker_name) else {
            return Ok(false);
        };
        let queue = Queue {
            topic: topic::TRANS_OP_HALF.to_owned(),
            broker_name: half.broker_name.clone(),
            queue_id: 0,
            address: address.clone(),
        };
        // An op record is younger than its half.
        let mut next = offset(call, &queue, Bound::At(half.store_timestamp))?;
        let wanted = half.queue_offset.to_string();
        for _ in 0..OP_PULLS_MAX {
            let pulled = pull(call, &queue, TOOLS_GROUP, "*", next, 32)?;
            let names = |op: &Message| op.body.text().split(',').any(|at| at.trim() == wanted);
            if pulled.messages.iter().any(names) {
                return Ok(true);
            }
            if pulled.messages.is_empty() || pulled.next <= next {
                return Ok(false);
            }
            next = pulled.next;
        }
        Err(Failure::Absent(format!(
            "more than {} transactions ended since this one began: whether it did is not known",
            OP_PULLS_MAX * 32
        )))
    }

    /// What a group's offsets say about a place.
    pub(super) fn passed(
        &self,
        call: &Call,
        group: &str,
        place: Place<'_>,
    ) -> Result<Passed, Failure> {
        let unknown = || {
            Failure::Absent(format!(
                "broker {} is not known for topic {}",
                place.broker_name, self.topic
            ))
        };
        let address = self.brokers.get(place.broker_name).ok_or_else(unknown)?;
        let request = Command::request(RequestCode::GetConsumeStats)
            .with_ext("consumerGroup", group)
            .with_ext("topic", place.topic);
        let step = format!("asking for the offsets of group {group}");
        let stats: ConsumeStats = call.remote.ask_for(&step, address, request)?;
        let offsets = stats.offset_table.iter().find(|(queue, _)| {
            queue.queue_id == place.queue_id && queue.broker_name == place.broker_name
        });
        let (next, pulled) = offsets.map_or((0, 0), |(_, offsets)| {
            (offsets.consumer_offset, offsets.pull_offset)
        });
        Ok(if place.queue_offset < next {
            if self.is_filtered(call, group, &place) {
                Passed::Filtered { next }
            } else {
                Passed::Committed { next }
            }
        } else if place.queue_offset < pulled {
            Passed::Pulled { next }
        } else {
            Passed::Not { next }
        })
    }

    /// Whether the group's subscription, while it is online, leaves the message out.
    fn is_filtered(&self, call: &Call, group: &str, place: &Place<'_>) -> bool {
        if place.topic != self.topic {
            return false;
        }
        let stored = self.copies.iter().find(|copy| copy.topic == self.topic);
        let tracks = stored.and_then(|copy| tracks(call, copy).ok());
        tracks.into_iter().flatten().any(|track| {
            track.consumer_group == group && track.track_type == TrackType::ConsumedButFiltered
        })
    }
}

fn place_in_log(copy: &Message) -> (String, i64) {
    (copy.broker_name.clone(), copy.commit_log_offset)
}

/// The topic that the producer named, of whatever copy.
fn topic_of(copy: &Message) -> &str {
    let is_own = !WAITING_ROOMS.contains(&copy.topic.as_str())
        && !topic::is_retry(&copy.topic)
        && !topic::is_dlq(&copy.topic);
    if is_own {
        return &copy.topic;
    }
    // A retry that waits has both: the retry topic is only where it goes next.
    copy.property(properties::RETRY_TOPIC)
        .or_else(|| copy.property(properties::REAL_TOPIC))
        .unwrap_or(&copy.topic)
}

/// Any copy of the message.
fn find(call: &Call, id: &str, wished: Option<&str>) -> Result<Message, Failure> {
    let clusters = call.remote.clusters()?;
    let mut addresses = clusters
        .broker_addr_table
        .values()
        .flat_map(|broker| broker.broker_addrs.values());
    // A client's id of 32 digits reads like a place as well, but not like one on a broker that is there.
    let place = OffsetId::parse(id)
        .filter(|place| addresses.any(|known| *known == place.store_host.to_string()));
    if let Some(place) = place {
        match query::view(call, wished.unwrap_or_default(), &place) {
            Err(failure) if failure.refusal().is_some() => {}
            other => return other,
        }
    }
    let mut topics: Vec<String> = match wished {
        Some(name) => vec![name.to_owned()],
        None => all_topics(call)?,
    };
    topics.extend(WAITING_ROOMS.iter().map(|&name| name.to_owned()));
    for broker in clusters.broker_addr_table.values() {
        let Some(address) = reader_address(broker) else {
            continue;
        };
        let found = look_up(call, &broker.broker_name, &address, &topics, id)?;
        let mut found = found.into_iter();
        // A copy whose topic is the producer's own says most.
        if let Some(copy) = found.next() {
            return Ok(copy);
        }
    }
    Err(Failure::Absent(match wished {
        Some(name) => format!("no message of topic {name} has the id {id}"),
        None => format!("no message has the id {id}"),
    }))
}

/// The messages with this unique key in each of the topics, on one broker.
fn look_up(
    call: &Call,
    broker_name: &str,
    address: &str,
    topics: &[String],
    key: &str,
) -> Result<Vec<Message>, Failure> {
    let questions = topics.iter().map(|topic| Question {
        step: format!("looking for {key} in topic {topic}"),
        address: address.to_owned(),
        request: Command::request(RequestCode::QueryMessage)
            .with_ext("topic", topic)
            .with_ext("key", key)
            .with_ext("maxNum", 64)
            .with_ext("beginTimestamp", 0)
            .with_ext("endTimestamp", i64::MAX)
            .with_ext("_UNIQUE_KEY_QUERY", true),
    });
    let mut copies = Vec::new();
    for (topic, answer) in topics.iter().zip(call.remote.ask_all(questions.collect())) {
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) if failure.refusal() == Some(ResponseCode::QueryNotFound) => continue,
            Err(failure) => return Err(failure),
        };
        let read = Message::read_all(&answer.body, broker_name);
        let read = read.map_err(|error| Failure::Garbled {
            step: "reading messages".to_owned(),
            address: address.to_owned(),
            cause: error.to_string(),
        })?;
        // The index knows hashes, so that others may be among them.
        let same = |copy: &Message| {
            copy.topic == *topic && copy.property(properties::UNIQ_KEY) == Some(key)
        };
        copies.extend(read.into_iter().filter(same));
    }
    Ok(copies)
}

impl BrokerFacts {
    fn ask(call: &Call, address: &str) -> Self {
        let config = call.remote.ask(
            "asking for the broker's settings",
            address,
            Command::request(RequestCode::GetBrokerConfig),
        );
        let config = config
            .map(|answer| config_pairs(&answer))
            .unwrap_or_default();
        let delays: Result<DelayOffsetSerializeWrapper, _> = call.remote.ask_for(
            "asking how far delay levels are",
            address,
            Command::request(RequestCode::GetAllDelayOffset),
        );
        let levels = config.get("messageDelayLevel");
        Self {
            levels_ms: levels.map_or_else(Vec::new, |text| parse_levels(text)),
            delivered: delays.map(|delays| delays.offset_table).unwrap_or_default(),
            log_file_bytes: config
                .get("mappedFileSizeCommitLog")
                .and_then(|text| text.parse().ok())
                .filter(|bytes| *bytes > 0)
                .unwrap_or(LOG_FILE_BYTES),
        }
    }

    /// The name of the log's file that has this place.
    pub(super) fn file_of(&self, place: i64) -> String {
        let bytes = self.log_file_bytes.max(1);
        format!("{:020}", place - place.rem_euclid(bytes))
    }

    /// When a copy in a waiting room is due.
    pub(super) fn due(&self, copy: &Message) -> Option<i64> {
        match copy.topic.as_str() {
            topic::SCHEDULE => {
                let level = usize::try_from(copy.queue_id).ok()?;
                Some(copy.store_timestamp + self.levels_ms.get(level)?)
            }
            topic::TIMER_WHEEL => timer_due(copy),
            _ => None,
        }
    }

    /// Whether it is still waiting.
    pub(super) fn waits(&self, copy: &Message, due: Option<i64>) -> bool {
        match copy.topic.as_str() {
            topic::SCHEDULE => {
                let delivered = self.delivered.get(&(copy.queue_id + 1));
                delivered.is_some_and(|next| copy.queue_offset >= *next)
            }
            topic::TIMER_WHEEL => due.is_some_and(|due| due > now_millis()),
            _ => false,
        }
    }
}

fn timer_due(copy: &Message) -> Option<i64> {
    let number = |name| -> Option<i64> { copy.property(name)?.parse().ok() };
    if copy.property(properties::TIMER_ROLL_TIMES).is_none() {
        // Relative delays count from the first time it was stored.
        if let Some(seconds) = number(properties::TIMER_DELAY_SEC) {
            return Some(copy.store_timestamp + seconds.saturating_mul(1000));
        }
        if let Some(millis) = number(properties::TIMER_DELAY_MS) {
            return Some(copy.store_timestamp.saturating_add(millis));
        }
    }
    number(properties::TIMER_DELIVER_MS).or_else(|| number(properties::TIMER_OUT_MS))
}

/// `1s 5s 10s …` in ms; a part that does not read ends the list.
fn parse_levels(text: &str) -> Vec<i64> {
    let parts = text.split(' ').map(|part| {
        let unit = match part.chars().last()? {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        let count: i64 = part.get(..part.len() - 1)?.parse().ok()?;
        count.checked_mul(unit)
    });
    parts.map_while(|part| part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_as_brokers_write_them() {
        assert_eq!(
            parse_levels("1s 10m 2h 1d"),
            [1000, 600_000, 7_200_000, 86_400_000]
        );
        assert_eq!(parse_levels("1s x 2s"), [1000]);
        assert!(parse_levels("").is_empty());
    }

    #[test]
    fn a_place_is_in_the_file_of_its_first_byte() {
        let facts = BrokerFacts {
            log_file_bytes: 1000,
            ..BrokerFacts::default()
        };
        assert_eq!(facts.file_of(2999), "00000000000000002000");
        assert_eq!(facts.file_of(3000), "00000000000000003000");
    }
}
