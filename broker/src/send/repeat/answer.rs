//! What a repeat is answered. Most of it stands in the first's record, which also says whether it is a repeat at all.

use std::sync::Arc;

use agena_protocol::headers::send::SendMessageResponse;
use agena_protocol::message_id::OffsetId;
use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties;
use agena_protocol::record::{RecordView, crc31};
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use agena_remoting::reply::ReplyTo;
use smallvec::SmallVec;

use crate::broker::Broker;
use crate::config::BrokerConfig;
use crate::dedup::{self, First, Identity, topic_sum};
use crate::delay::recall;
use crate::pool::Turn;
use crate::send::check::{Accepted, Body};
use crate::send::{OwnedAnswer, Refused, answer_flushed, region};

/// A repeat that is to be answered.
pub(super) struct Repeat {
    broker: Arc<Broker>,
    reply_to: ReplyTo,
    /// The answer but for what the first result says.
    answer: OwnedAnswer,
    waits: bool,
    producer: Box<str>,
    sequence: u64,
    /// Of the bodies, as records have them.
    sums: SmallVec<[u32; 1]>,
    topic: Box<str>,
    is_half: bool,
    /// Stored under its own topic.
    is_plain: bool,
}

impl Repeat {
    pub(super) fn of(
        broker: &Arc<Broker>,
        config: &BrokerConfig,
        connection: &Arc<Connection>,
        message: &Accepted<'_, '_>,
        identity: Identity<'_>,
    ) -> Self {
        let answer = SendMessageResponse {
            transaction_id: Some(message.unique_id()),
            ..SendMessageResponse::default()
        };
        let sums = match &message.body {
            Body::One { body, .. } => SmallVec::from_buf([crc31(body)]),
            Body::Many(parts) => parts.iter().map(|part| crc31(part.body)).collect(),
        };
        Self {
            broker: broker.clone(),
            reply_to: ReplyTo::of(connection, message.frame),
            answer: OwnedAnswer::of(&answer, config),
            waits: broker.waits_for_device && message.waits,
            producer: identity.producer.into(),
            sequence: identity.sequence,
            sums,
            topic: message.asked_topic.into(),
            is_half: message.topic.as_str() == topic::TRANS_HALF,
            is_plain: message.topic.as_str() == message.asked_topic,
        }
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            producer: &self.producer,
            sequence: self.sequence,
        }
    }

    /// Answers as the first was answered, or refuses.
    pub(super) fn answer(self, first: Result<First, Refused>) {
        if self.reply_to.is_one_way() {
            return;
        }
        match first {
            // A recent record is in memory.
            Ok(first) if first.count == 1 && self.broker.store.is_resident(first.physical) => {
                self.read_and_answer(first);
            }
            Ok(first) => self.read_aside(first),
            Err(refused) => self.refuse(&refused),
        }
    }

    fn refuse(self, refused: &Refused) {
        let config = self.broker.config.get();
        let remark = Some(refused.remark.as_str());
        self.reply_to
            .reply(refused.code, remark, &region(&config), []);
    }

    /// Reads the log on a thread that may wait for it.
    fn read_aside(self, first: First) {
        let broker = self.broker.clone();
        broker.clerks.run(move |turn| match turn {
            Turn::Run => self.read_and_answer(first),
            Turn::Full => self.answer_unread(first),
        });
    }

    /// "Busy" would send the client to another broker, where the message would be stored once more: it gets what is known
    /// without the record, which is the place of the first.
    fn answer_unread(self, first: First) {
        match self.half_fault(self.is_half, first) {
            Some(refused) => self.refuse_known(&refused),
            None => {
                let id = self.message_id(first.physical);
                self.answer_with(first, id);
            }
        }
    }

    fn read_and_answer(mut self, first: First) {
        let mut ids = Vec::new();
        let mut at = first.physical;
        while at < first.end() {
            let Some(bytes) = self.broker.store.record_at(at) else {
                if ids.is_empty() && self.should_be_there(first) {
                    return self.forget(first);
                }
                break;
            };
            let Ok(record) = RecordView::parse(&bytes) else {
                break;
            };
            if !self.is_there(&record, first) {
                return self.forget(first);
            }
            if let Some(refused) = self.fault(&record, ids.len(), first) {
                return self.refuse_known(&refused);
            }
            if first.count == 1 {
                self.learn(&record);
            }
            ids.push(self.message_id(at));
            let bytes = u64::try_from(record.bytes().len()).unwrap_or(u64::MAX);
            at = PhysicalOffset::new(at.number().saturating_add(bytes));
        }
        if ids.is_empty() {
            // Retention took the file; the place stays true.
            ids.push(self.message_id(first.physical));
        }
        self.answer_with(first, ids.join(","));
    }

    /// Whether a record is what the window takes it for, and in a queue that there still is: a topic that was deleted and
    /// made again begins anew.
    fn is_there(&self, record: &RecordView<'_>, first: First) -> bool {
        let topic = dedup::real_topic(record);
        let behind = self
            .broker
            .store
            .next_offset(record.topic(), record.queue_id());
        dedup::identity_of(record) == Some(self.identity())
            && topic_sum(topic) == first.topic_sum
            && record.queue_offset() < behind
    }

    /// Whether the queue begins in front of the first, so that retention did not take it.
    fn should_be_there(&self, first: First) -> bool {
        let begin = || self.broker.store.min_offset(&self.topic, first.queue);
        self.is_plain && first.queue_offset >= begin()
    }

    /// Nothing is lost by "busy": here it is not stored, and whichever broker the client tries next stores it.
    fn forget(self, first: First) {
        tracing::warn!(
            producer = &*self.producer,
            sequence = self.sequence,
            place = first.physical.number(),
            "what was known of a message is not in the log and is forgotten"
        );
        self.broker.dedup.forget(self.identity(), first);
        let remark = "the first message with this sequence is gone, send it again";
        self.refuse(&Refused::new(ResponseCode::SystemBusy, remark));
    }

    /// Why a message is none that may be answered like the first, whose `number`-th record this is.
    fn fault(&self, record: &RecordView<'_>, number: usize, first: First) -> Option<Refused> {
        let is_half = record.topic() == topic::TRANS_HALF;
        if self.sums.get(number) != Some(&record.body_crc()) || is_half != self.is_half {
            return Some(Refused::new(
                ResponseCode::MessageIllegal,
                format!(
                    "sequence {} of producer {} was used for another message, of another body or kind",
                    self.sequence, self.producer
                ),
            ));
        }
        self.half_fault(is_half, first)
    }

    /// A half that is decided is no longer what its producer takes it for: it would run its local transaction, and its
    /// commit would come too late.
    fn half_fault(&self, is_half: bool, first: First) -> Option<Refused> {
        let transactions = &self.broker.transactions;
        let is_decided = is_half && !transactions.is_undecided(first.queue_offset, first.physical);
        is_decided.then(|| {
            Refused::new(
                ResponseCode::MessageIllegal,
                "the transaction of this message was decided meanwhile; what is sent now is another one",
            )
        })
    }

    fn refuse_known(self, refused: &Refused) {
        self.broker.dedup.count_refused();
        self.refuse(refused);
    }

    /// Takes from the first's record what its answer had of it.
    fn learn(&mut self, record: &RecordView<'_>) {
        let properties = record.properties();
        let Some(unique_id) = properties.get(properties::UNIQ_KEY) else {
            return;
        };
        self.answer.transaction_id = Some(unique_id.to_owned());
        let due_ms = properties
            .get(properties::TIMER_OUT_MS)
            .and_then(|text| text.parse::<i64>().ok());
        if record.topic() == topic::TIMER_WHEEL
            && let Some(due_ms) = due_ms
        {
            let topic = dedup::real_topic(record);
            let broker = &self.broker.identity.name;
            // One more than the step, as the first was told.
            let handle = recall::handle(topic, broker, due_ms.saturating_add(1), unique_id);
            self.answer.recall_handle = Some(handle);
        }
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
