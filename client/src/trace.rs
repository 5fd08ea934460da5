//! Message traces: who sent and who consumed what, written as messages to `RMQ_SYS_TRACE_TOPIC`, where RocketMQ's tools
//! look for them. Opt in.
//!
//! ```text
//! record = field 0x01 field 0x01 … 0x02
//! Pub       time region group topic msgId tags keys storeHost bodyLength cost msgType offsetMsgId success
//! SubBefore time region group requestId msgId retryTimes keys
//! SubAfter  requestId msgId cost success keys contextCode time group
//! ```
//! Traces are collected and sent together, never in the way of what they tell about; when they cannot be sent they are
//! dropped. Source: spec/semantics.md §10.2, Apache `AsyncTraceDispatcher`, `TraceDataEncoder`.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::message_id::OffsetId;
use agena_protocol::{properties, topic};
use parking_lot::Mutex;

use crate::attempts::RetryOn;
use crate::error::ClientError;
use crate::instance::Instance;
use crate::message::{Batch, Message, SendResult};
use crate::send::{SendSettings, Sender};
use crate::tasks::Tasks;

const FIELD_END: char = '\u{1}';
const RECORD_END: char = '\u{2}';

/// Records that travel in one message.
const RECORDS_MAX: usize = 10;

/// Records are sent after so long even if they are fewer.
const LINGER: Duration = Duration::from_secs(5);

/// Characters of one trace message.
const TEXT_MAX: usize = 128_000;

/// Records that wait. Beyond, new ones are dropped: a trace is worth no memory.
const WAITING_MAX: usize = 2048;

/// Collects records and sends them.
#[derive(Debug)]
pub(crate) struct Tracer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sender: Sender,
    waiting: Mutex<Vec<Record>>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Record {
    text: String,
    keys: Vec<String>,
}

/// What is known of a message before it is sent.
#[derive(Debug)]
pub(crate) struct Publication {
    began_ms: i64,
    group: String,
    topic: String,
    tags: String,
    keys: String,
    body_bytes: usize,
    kind: MessageKind,
}

#[derive(Debug, Clone, Copy)]
enum MessageKind {
    Normal = 0,
    Half = 1,
    Delayed = 3,
}

/// What is known of a batch before its listener runs.
#[derive(Debug)]
pub(crate) struct Consumption {
    request_id: String,
    began_ms: i64,
}

/// How a listener ended, by the numbers of the original's `ConsumeReturnType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListenerEnd {
    Success = 0,
    Panicked = 2,
    Failed = 4,
}

impl Tracer {
    pub(crate) fn new(instance: &Arc<Instance>, group: &str) -> Self {
        let settings = SendSettings {
            timeout: Duration::from_secs(5),
            ..SendSettings::default()
        };
        let group = format!("_INNER_TRACE_PRODUCER-{group}");
        Self {
            shared: Arc::new(Shared {
                sender: Sender::new(Arc::clone(instance), &group, settings),
                waiting: Mutex::default(),
                tasks: Tasks::new(),
            }),
        }
    }

    pub(crate) fn publication(&self, group: &str, message: &Message) -> Publication {
        let property = |name| message.property(name).unwrap_or_default().to_owned();
        Publication {
            began_ms: self.now_ms(),
            group: group.to_owned(),
            topic: message.topic.clone(),
            tags: property(properties::TAGS),
            keys: property(properties::KEYS),
            body_bytes: message.body.len(),
            kind: if message.property(properties::TRAN_MSG) == Some("true") {
                MessageKind::Half
            } else if message.is_delayed() {
                MessageKind::Delayed
            } else {
                MessageKind::Normal
            },
        }
    }

    pub(crate) fn published(&self, before: &Publication, result: &Result<SendResult, ClientError>) {
        let Ok(result) = result else {
            // Without an answer there is no id that a trace could be found by.
            return;
        };
        if !result.trace_on || before.topic == topic::TRACE {
            return;
        }
        let store_host = OffsetId::parse(&result.offset_msg_id)
            .map_or_else(String::new, |id| id.store_host.to_string());
        let cost_ms = self.now_ms() - before.began_ms;
        let text = record(&[
            "Pub",
            &before.began_ms.to_string(),
            &result.region,
            &before.group,
            &before.topic,
            &result.msg_id,
            &before.tags,
            &before.keys,
            &store_host,
            &before.body_bytes.to_string(),
            &cost_ms.to_string(),
            &(before.kind as u8).to_string(),
            &result.offset_msg_id,
            "true",
        ]);
        let keys = keys_of(&result.msg_id, &before.keys);
        self.collect(Record { text, keys });
    }

    pub(crate) fn consuming(&self, group: &str, batch: &Batch) -> Consumption {
        let request_id = self.shared.sender.instance().unique_id();
        let began_ms = self.now_ms();
        for message in batch {
            if message.property(properties::TRACE_ON) == Some("false") {
                continue;
            }
            let msg_id = message.msg_id();
            let message_keys = message.property(properties::KEYS).unwrap_or_default();
            let text = record(&[
                "SubBefore",
                &began_ms.to_string(),
                message.property(properties::MSG_REGION).unwrap_or("null"),
                group,
                &request_id,
                &msg_id,
                &message.reconsume_times.to_string(),
                message_keys,
            ]);
            let keys = keys_of(&msg_id, message_keys);
            self.collect(Record { text, keys });
        }
        Consumption {
            request_id,
            began_ms,
        }
    }

    pub(crate) fn consumed(
        &self,
        group: &str,
        batch: &Batch,
        before: &Consumption,
        end: ListenerEnd,
    ) {
        let count = i64::try_from(batch.len().max(1)).unwrap_or(i64::MAX);
        let now_ms = self.now_ms();
        let cost_ms = (now_ms - before.began_ms) / count;
        for message in batch {
            if message.property(properties::TRACE_ON) == Some("false") {
                continue;
            }
            let msg_id = message.msg_id();
            let message_keys = message.property(properties::KEYS).unwrap_or_default();
            let text = record(&[
                "SubAfter",
                &before.request_id,
                &msg_id,
                &cost_ms.to_string(),
                if end == ListenerEnd::Success {
                    "true"
                } else {
                    "false"
                },
                message_keys,
                &(end as u8).to_string(),
                &now_ms.to_string(),
                group,
            ]);
            let keys = keys_of(&msg_id, message_keys);
            self.collect(Record { text, keys });
        }
    }

    /// Sends what waits and ends.
    pub(crate) async fn stop(&self) {
        let rest = std::mem::take(&mut *self.shared.waiting.lock());
        self.shared.send(rest).await;
        self.shared
            .tasks
            .stop(self.shared.sender.settings().timeout)
            .await;
    }

    /// Ends without sending what waits.
    pub(crate) fn abort(&self) {
        self.shared.tasks.abort();
    }

    fn now_ms(&self) -> i64 {
        self.shared.sender.instance().now_ms()
    }

    fn collect(&self, record: Record) {
        let full = {
            let mut waiting = self.shared.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return;
            }
            waiting.push(record);
            match waiting.len() {
                1 => None,
                RECORDS_MAX => Some(std::mem::take(&mut *waiting)),
                _ => return,
            }
        };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            let records = match full {
                Some(records) => records,
                None if shared.tasks.sleep(LINGER).await => {
                    std::mem::take(&mut *shared.waiting.lock())
                }
                None => return,
            };
            shared.send(records).await;
        });
    }
}

impl Shared {
    async fn send(&self, records: Vec<Record>) {
        let mut text = String::new();
        let mut keys: Vec<String> = Vec::new();
        for record in records {
            if !text.is_empty() && text.len() + record.text.len() > TEXT_MAX {
                self.send_one(std::mem::take(&mut text), std::mem::take(&mut keys))
                    .await;
            }
            text.push_str(&record.text);
            keys.extend(record.keys);
        }
        if !text.is_empty() {
            self.send_one(text, keys).await;
        }
    }

    async fn send_one(&self, text: String, mut keys: Vec<String>) {
        keys.sort();
        keys.dedup();
        let message = Message::new(topic::TRACE, text).with_key(&keys.join(" "));
        let timeout = self.sender.settings().timeout;
        let result = match self.sender.prepare(message).await {
            Ok(prepared) => {
                self.sender
                    .send(&prepared, timeout, RetryOn::Transport)
                    .await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            tracing::debug!(%error, "message traces dropped");
        }
    }
}

fn keys_of(msg_id: &str, keys: &str) -> Vec<String> {
    let ids = msg_id.split(',');
    ids.chain(keys.split(' '))
        .filter(|key| !key.is_empty())
        .map(str::to_owned)
        .collect()
}

fn record(fields: &[&str]) -> String {
    let mut text = String::new();
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            text.push(FIELD_END);
        }
        // A separator inside of a value would shift all that follows.
        text.extend(
            field
                .chars()
                .filter(|c| *c != FIELD_END && *c != RECORD_END),
        );
    }
    text.push(RECORD_END);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_records_end_with_their_bytes() {
        assert_eq!(
            record(&["Pub", "1", "", "a\u{2}b"]),
            "Pub\u{1}1\u{1}\u{1}ab\u{2}"
        );
        assert_eq!(keys_of("A,B", "k1  k2"), ["A", "B", "k1", "k2"]);
    }
}
