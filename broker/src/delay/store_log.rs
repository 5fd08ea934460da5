//! The store as delays see it.

use std::sync::Arc;

use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordFields, RecordView};
use agena_store::{NewMessage, Store};
use tracing::error;

use super::levels::Waiting;
use super::log::{DelayLog, LogFault};

/// The broker's store.
#[derive(Debug)]
pub struct StoreLog(pub Arc<Store>);

impl DelayLog for StoreLog {
    fn bounds(&self, topic: &str, queue: QueueId) -> (u64, u64) {
        let min = self.0.min_offset(topic, queue).number();
        (min, self.0.max_offset(topic, queue).number())
    }

    /// The store answers from one file at a time and leaves places without a message out, so an empty answer before the end of the
    /// queue means a gap, which is passed over.
    fn entries(&self, topic: &str, queue: QueueId, from: u64, count: usize) -> Vec<Waiting> {
        let end = self.0.max_offset(topic, queue).number();
        let mut from = from;
        while from < end {
            let found = self.0.entries(topic, queue, QueueOffset::new(from), count);
            if !found.is_empty() {
                let waiting = found.into_iter().map(|entry| Waiting {
                    offset: entry.queue_offset.number(),
                    place: PhysicalOffset::new(entry.physical_offset),
                    tags_code: entry.tags_code,
                });
                return waiting.collect();
            }
            from += u64::try_from(count).unwrap_or(u64::MAX).max(1);
        }
        Vec::new()
    }

    fn look_at(&self, place: PhysicalOffset, look: &mut dyn FnMut(&RecordView<'_>)) -> Option<()> {
        let slice = self.0.record_at(place)?;
        let record = RecordView::parse_unsummed(&slice).ok()?;
        look(&record);
        Some(())
    }

    fn append(&self, messages: &[RecordFields<'_>]) -> Result<PhysicalOffset, LogFault> {
        let mut batch = self.0.batch();
        for fields in messages {
            if let Err(illegal) = batch.push(new_message(fields)) {
                error!(topic = fields.topic, %illegal, "a delayed message cannot be stored, and is set aside");
            }
        }
        if batch.is_empty() {
            return Ok(self.end());
        }
        let appended = self.0.append(&mut batch)?;
        let last = appended.placed.last();
        Ok(last.map_or_else(
            || self.end(),
            |placed| placed.physical_offset.plus(u64::from(placed.bytes)),
        ))
    }

    fn end(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.0.stats().log_max)
    }

    fn flushed(&self) -> PhysicalOffset {
        PhysicalOffset::new(self.0.stats().flushed)
    }
}

/// Delivered messages wait for no device: their progress does.
fn new_message<'a>(fields: &RecordFields<'a>) -> NewMessage<'a> {
    NewMessage {
        topic: fields.topic,
        queue_id: fields.queue_id,
        flag: fields.flag,
        sys_flag: fields.sys_flag,
        born_timestamp: fields.born_timestamp,
        born_host: fields.born_host,
        store_host: fields.store_host,
        reconsume_times: fields.reconsume_times,
        prepared_transaction_offset: fields.prepared_transaction_offset,
        body: fields.body,
        properties: fields.properties,
        wait_for_flush: false,
    }
}
