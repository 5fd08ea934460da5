//! A message that its producer sends again: nothing is stored, and the answer is that to the first ([`crate::dedup`]).

use std::sync::Arc;

use agena_protocol::command::Command;
use agena_protocol::headers::send::SendMessageResponse;
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties;
use agena_protocol::record::RecordView;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::ReplyTo;
use agena_store::Appended;

use super::check::Accepted;
use super::{OwnedAnswer, Refused, answer_flushed, region};
use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::dedup::{self, First, Now, Reservation, topic_sum};
use crate::pool::Turn;

/// What is to be done with a message.
pub(super) enum Begun {
    /// Store it; with a reservation, say where it went.
    First(Option<Reservation>),
    /// It was answered, or will be.
    Repeat,
}

/// Decides whether `message` is to be stored.
pub(super) fn begin(
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    connection: &Arc<Connection>,
    message: &Accepted<'_, '_>,
) -> Begun {
    let Some(identity) = message.identity else {
        return Begun::First(None);
    };
    let now = Now {
        wall_ms: broker.clock.now_ms(),
        log_end: broker.store.log_end(),
        idle: config.dedup_producer_idle,
    };
    let answer = || -> dedup::Answer {
        let repeat = Repeat::of(broker, config, connection, message);
        Box::new(move |first| repeat.answer(first))
    };
    let count = u32::try_from(message.count()).unwrap_or(u32::MAX);
    let of = (message.asked_topic, count);
    match broker.dedup.begin(identity, of, now, answer) {
        dedup::Begun::First(reservation) => Begun::First(Some(reservation)),
        dedup::Begun::Repeat => Begun::Repeat,
    }
}

/// Says where the messages with reservations went; with each the place of its message in `pushed`.
pub(super) fn stored(
    reserved: Vec<(usize, Reservation)>,
    pushed: &[&Accepted<'_, '_>],
    appended: &Appended,
) {
    let (mut before, mut placed) = (0, appended.placed.as_slice());
    for (number, reservation) in reserved {
        let skipped: usize = pushed[before..number]
            .iter()
            .map(|message| message.count())
            .sum();
        let message = pushed[number];
        let (own, rest) = placed[skipped..].split_at(message.count());
        (before, placed) = (number + 1, rest);
        let Some(place) = own.first() else {
            continue;
        };
        let bytes = own
            .iter()
            .map(|placed| placed.bytes)
            .fold(0, u32::saturating_add);
        let first = First {
            physical: place.physical_offset,
            queue_offset: place.queue_offset,
            queue: message.queue,
            bytes,
            count: u32::try_from(own.len()).unwrap_or(u32::MAX),
            topic_sum: topic_sum(message.asked_topic),
        };
        reservation.stored(first, place.store_timestamp);
    }
}

/// A repeat that is to be answered.
struct Repeat {
    broker: Arc<Broker>,
    reply_to: ReplyTo,
    /// The answer but for what the first result says.
    answer: OwnedAnswer,
    waits: bool,
}

impl Repeat {
    fn of(
        broker: &Arc<Broker>,
        config: &BrokerConfig,
        connection: &Arc<Connection>,
        message: &Accepted<'_, '_>,
    ) -> Self {
        let answer = SendMessageResponse {
            transaction_id: Some(message.unique_id()),
            recall_handle: message.recall_handle.as_deref(),
            ..SendMessageResponse::default()
        };
        Self {
            broker: broker.clone(),
            reply_to: ReplyTo::of(connection, message.frame),
            answer: OwnedAnswer::of(&answer, config),
            waits: broker.waits_for_device && message.waits,
        }
    }

    /// Answers as the first was answered, or refuses.
    fn answer(self, first: Result<First, Refused>) {
        if self.reply_to.is_one_way() {
            return;
        }
        match first {
            // The id that the first had is in its record; of a recent one, in memory.
            Ok(first) if first.count == 1 && self.broker.store.is_resident(first.physical) => {
                self.read_and_answer(first);
            }
            Ok(first) => self.read_aside(first),
            Err(refused) => {
                let config = self.broker.config.get();
                let remark = Some(refused.remark.as_str());
                self.reply_to
                    .reply(refused.code, remark, &region(&config), []);
            }
        }
    }

    /// Reads the log on a thread that may wait for it.
    fn read_aside(self, first: First) {
        let broker = self.broker.clone();
        broker.clerks.run(move |turn| match turn {
            Turn::Run => self.read_and_answer(first),
            Turn::Full => {
                let remark = "too many requests wait for a thread".to_owned();
                let busy = Command::response(ResponseCode::SystemBusy, remark);
                self.reply_to.send(busy);
            }
        });
    }

    fn read_and_answer(mut self, first: First) {
        if first.count == 1
            && let Some(record) = self.broker.store.record_at(first.physical)
            && let Ok(record) = RecordView::parse(&record)
            && let Some(unique_id) = record.properties().get(properties::UNIQ_KEY)
        {
            self.answer.transaction_id = Some(unique_id.to_owned());
        }
        let ids = self.message_ids(first);
        self.answer_with(first, ids);
    }

    fn message_id(&self, offset: PhysicalOffset) -> String {
        let mut id = String::new();
        OffsetId {
            store_host: self.broker.identity.advertised,
            offset,
        }
        .write(&mut id);
        id
    }

    /// Every message of a batch has an id; where they are is known from the log alone.
    fn message_ids(&self, first: First) -> String {
        if first.count == 1 {
            return self.message_id(first.physical);
        }
        let mut ids = Vec::new();
        let mut at = first.physical;
        while at < first.end() {
            ids.push(self.message_id(at));
            let record = self.broker.store.record_at(at);
            let bytes =
                record.and_then(|record| Some(RecordView::parse(&record).ok()?.bytes().len()));
            let Some(bytes) = bytes.and_then(|bytes| u64::try_from(bytes).ok()) else {
                // Retention took it; the first id stays true.
                break;
            };
            at = PhysicalOffset::new(at.number() + bytes);
        }
        ids.join(",")
    }

    fn answer_with(mut self, first: First, message_id: String) {
        self.answer.message_id = message_id;
        self.answer.queue_id = first.queue.wire();
        self.answer.queue_offset = first.queue_offset.wire();
        let connection = self.reply_to.connection().clone();
        let waiting = [(self.reply_to, self.answer)];
        if self.waits {
            let ack = self.broker.store.ack_below(first.end());
            let then = move |flushed| answer_flushed(&connection, &waiting, flushed);
            self.broker.store.when_durable(ack, Box::new(then));
        } else {
            answer_flushed(&connection, &waiting, Ok(()));
        }
    }
}
