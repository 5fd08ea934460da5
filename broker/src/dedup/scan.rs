//! The log as the windows' source: which records are a producer's own messages, and which of them are one batch.

use agena_protocol::offset::PhysicalOffset;
use agena_protocol::properties;
use agena_protocol::properties::{PRODUCER_ID, SEQUENCE};
use agena_protocol::queue::QueueId;
use agena_protocol::record::RecordView;
use agena_protocol::topic;
use agena_store::Store;

use super::{Dedup, First, Identity, topic_sum};

/// The property of a half that an operator made of a parked one.
const RESUMED_FROM: &str = "AGENA_RESUMED_FROM";

/// Takes what the log has from `from` on into the windows.
pub(super) fn scan(dedup: &Dedup, store: &Store, from: PhysicalOffset) {
    let end = store.log_end();
    let mut scan = Scan { dedup, run: None };
    let mut at = from;
    loop {
        at = store.scan(at, |record| scan.record(record));
        scan.finish();
        if at >= end {
            return;
        }
        // Damage that is too short to be set aside stays in the log.
        let damage = store.damage().iter();
        let behind = damage
            .filter(|damage| damage.from <= at.number() && at.number() < damage.to)
            .map(|damage| damage.to)
            .max();
        let Some(behind) = behind else {
            tracing::warn!(
                at = at.number(),
                "the log was not read to its end for the windows of producers: a repeat may be stored twice"
            );
            return;
        };
        at = PhysicalOffset::new(behind);
    }
}

/// Goes over the log.
struct Scan<'d> {
    dedup: &'d Dedup,
    /// Records of one identity that stand one behind the other.
    run: Option<Run>,
}

struct Run {
    producer: Box<str>,
    sequence: u64,
    first: First,
    stored_ms: i64,
    /// It waits under another topic, where there are no batches.
    is_single: bool,
}

impl Run {
    /// Whether a record is the next of the same batch. All records of one append have one time: with another time it is
    /// the batch once more, behind what a crash left of it.
    fn goes_on(&self, record: &RecordView<'_>, identity: Identity<'_>) -> bool {
        let first = &self.first;
        !self.is_single
            && (&*self.producer, self.sequence) == (identity.producer, identity.sequence)
            && (first.end(), first.queue) == (record.physical_offset(), record.queue_id())
            && self.stored_ms == record.store_timestamp()
            && first.topic_sum == topic_sum(record.topic())
    }
}

impl Scan<'_> {
    fn record(&mut self, record: &RecordView<'_>) {
        let Some(identity) = identity_of(record) else {
            return self.finish();
        };
        let bytes = u32::try_from(record.bytes().len()).unwrap_or(u32::MAX);
        match &mut self.run {
            Some(run) if run.goes_on(record, identity) => {
                run.first.bytes = run.first.bytes.saturating_add(bytes);
                run.first.count = run.first.count.saturating_add(1);
            }
            _ => {
                self.finish();
                self.run = Some(Run {
                    producer: identity.producer.into(),
                    sequence: identity.sequence,
                    first: First {
                        physical: record.physical_offset(),
                        queue_offset: record.queue_offset(),
                        queue: real_queue(record),
                        bytes,
                        count: 1,
                        topic_sum: topic_sum(real_topic(record)),
                    },
                    stored_ms: record.store_timestamp(),
                    is_single: waits_elsewhere(record),
                });
            }
        }
    }

    /// The run is whole.
    fn finish(&mut self) {
        let Some(run) = self.run.take() else {
            return;
        };
        let identity = Identity {
            producer: &run.producer,
            sequence: run.sequence,
        };
        let mut table = self.dedup.table.lock();
        table.found(identity, run.first, run.stored_ms);
    }
}

/// Delayed and half messages are stored under a topic of the broker's until their time comes.
fn waits_elsewhere(record: &RecordView<'_>) -> bool {
    matches!(
        record.topic(),
        topic::TRANS_HALF | topic::SCHEDULE | topic::TIMER_WHEEL
    )
}

/// The topic that a record's producer asked for.
pub(crate) fn real_topic<'r>(record: &RecordView<'r>) -> &'r str {
    let properties = record.properties();
    let real = properties.get(properties::REAL_TOPIC);
    real.filter(|_| waits_elsewhere(record))
        .unwrap_or(record.topic())
}

fn real_queue(record: &RecordView<'_>) -> QueueId {
    let properties = record.properties();
    let real = properties.get(properties::REAL_QID);
    real.filter(|_| waits_elsewhere(record))
        .and_then(|text| text.parse().ok())
        .map_or(record.queue_id(), QueueId::new)
}

/// The identity of a message as a producer sent it; copies that the broker made of it have none.
pub(crate) fn identity_of<'r>(record: &RecordView<'r>) -> Option<Identity<'r>> {
    let is_copy = record.prepared_transaction_offset() != 0
        || record.reconsume_times() > 0
        || record.topic() == topic::TRANS_CHECK_MAX_TIME
        || record.topic().starts_with(topic::RETRY_PREFIX)
        || record.topic().starts_with(topic::DLQ_PREFIX);
    if is_copy {
        return None;
    }
    let (mut producer, mut sequence) = (None, None);
    let (mut real_topic, mut real_queue) = (None, None);
    let mut is_younger = false;
    for (name, value) in record.properties().iter() {
        match name {
            PRODUCER_ID => producer = Some(value),
            SEQUENCE => sequence = Some(value),
            properties::REAL_TOPIC => real_topic = Some(value),
            properties::REAL_QID => real_queue = value.parse().ok().map(QueueId::new),
            // A timer that waits on, and a half that waits again.
            properties::TIMER_ROLL_TIMES | RESUMED_FROM => is_younger = true,
            _ => {}
        }
    }
    // What was delivered still says where it waited for. A consumer that forwards its properties with a message of its own
    // says so too, and has another topic, or by chance not this queue.
    let is_delivered = !waits_elsewhere(record)
        && (real_topic, real_queue) == (Some(record.topic()), Some(record.queue_id()));
    if is_delivered || (is_younger && waits_elsewhere(record)) {
        return None;
    }
    Identity::of(producer, sequence).ok().flatten()
}

#[cfg(test)]
mod tests {
    use agena_protocol::offset::QueueOffset;
    use agena_protocol::properties::PropertiesBuf;
    use agena_protocol::record::{RecordEncoder, RecordFields};

    use super::*;

    fn has_identity(
        topic: &str,
        pairs: &[(&str, &str)],
        change: impl Fn(&mut RecordFields<'_>),
    ) -> bool {
        let mut properties = PropertiesBuf::new();
        for (name, value) in [(PRODUCER_ID, "p"), (SEQUENCE, "1")].iter().chain(pairs) {
            properties.set(name, *value);
        }
        let properties = properties.encode();
        let host = "127.0.0.1:10911".parse().unwrap();
        let mut fields = RecordFields {
            topic,
            queue_id: QueueId::new(3),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            properties: &properties,
        };
        change(&mut fields);
        let mut encoder = RecordEncoder::new(fields, false).unwrap();
        let mut bytes = vec![0; encoder.total_bytes()];
        let place = (QueueOffset::new(0), PhysicalOffset::new(0));
        encoder.write(&mut bytes, place.0, place.1, 0);
        identity_of(&RecordView::parse(&bytes).unwrap()).is_some()
    }

    #[test]
    fn copies_that_the_broker_made_have_no_identity() {
        let real = [("REAL_TOPIC", "T"), ("REAL_QID", "3")];
        let rolled = [real[0], real[1], ("TIMER_ROLL_TIMES", "1")];
        let resumed = [real[0], real[1], (RESUMED_FROM, "100")];
        for (topic, pairs, is_sent) in [
            ("T", &[][..], true),
            (topic::TRANS_HALF, &real[..], true),
            (topic::SCHEDULE, &real, true),
            (topic::TIMER_WHEEL, &real, true),
            // A consumer that forwards all that it got.
            ("Other", &real, true),
            ("T", &resumed[1..], true),
            // What was delivered in its time, what waits on, and what an operator asks for again.
            ("T", &real, false),
            (topic::TIMER_WHEEL, &rolled, false),
            (topic::TRANS_HALF, &resumed, false),
            (topic::TRANS_CHECK_MAX_TIME, &real, false),
            ("%RETRY%G", &[], false),
            ("%DLQ%G", &[], false),
        ] {
            let has = has_identity(topic, pairs, |_| {});
            assert_eq!(has, is_sent, "{topic} {pairs:?}");
        }
        assert!(!has_identity("T", &[], |fields| fields.reconsume_times = 1));
        let committed = |fields: &mut RecordFields<'_>| fields.prepared_transaction_offset = 7;
        assert!(!has_identity("T", &[], committed));
    }
}
