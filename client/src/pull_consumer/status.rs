//! A pull consumer as its instance and, through the brokers, its operators see it.

use std::sync::Arc;

use agena_protocol::bodies::heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel,
};
use agena_protocol::bodies::running_info::{
    ConsumerRunningInfo, PROP_CLIENT_VERSION, PROP_CONSUME_TYPE, PROP_CONSUMER_START_TIMESTAMP,
    ProcessQueueInfo,
};
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::QueueMap;

use super::reader::Reader;
use crate::instance::{BoxFuture, ConsumerMember};
use crate::message::ReceivedMessage;

impl ConsumerMember for Reader {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            group_name: self.group.clone(),
            consume_type: ConsumeType::ConsumeActively,
            message_model: MessageModel::Clustering,
            consume_from_where: ConsumeFromWhere::ConsumeFromLastOffset,
            subscription_data_set: self.subscriptions.all(),
            unit_mode: false,
        }
    }

    fn topics(&self) -> Vec<String> {
        self.subscriptions.topics()
    }

    fn rebalance_soon(&self) {
        self.rebalance.soon();
    }

    fn reset_offsets(
        self: Arc<Self>,
        topic: String,
        offsets: QueueMap<i64>,
    ) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let of_topic = offsets.iter().filter(|(queue, _)| queue.topic == topic);
            for (queue, offset) in of_topic {
                if let Ok(assigned) = self.assigned(queue) {
                    assigned.seek(*offset);
                }
            }
        })
    }

    fn offsets_of(&self, topic: &str) -> QueueMap<i64> {
        let queues = self.queues.lock();
        queues
            .iter()
            .filter(|(queue, _)| queue.topic == topic)
            .filter_map(|(queue, assigned)| {
                let position = assigned.state.borrow().position?;
                Some((queue.clone(), position))
            })
            .collect()
    }

    fn running_info(&self) -> Vec<u8> {
        let queues = self.queues.lock();
        let info = ConsumerRunningInfo {
            properties: [
                (
                    PROP_CONSUME_TYPE,
                    ConsumeType::ConsumeActively.name().to_owned(),
                ),
                (PROP_CLIENT_VERSION, "V5_3_3".to_owned()),
                (PROP_CONSUMER_START_TIMESTAMP, self.started_ms.to_string()),
                ("consumerGroup", self.group.clone()),
            ]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
            subscription_set: self.subscriptions.all(),
            mq_table: queues
                .iter()
                .map(|(queue, assigned)| {
                    let state = assigned.state.borrow();
                    let info = ProcessQueueInfo {
                        commit_offset: state.committed.unwrap_or(0),
                        cached_msg_count: i32::try_from(state.ahead.len()).unwrap_or(i32::MAX),
                        ..ProcessQueueInfo::default()
                    };
                    (queue.clone(), info)
                })
                .collect(),
            ..ConsumerRunningInfo::default()
        };
        fastjson::to_vec(&info, KeyStyle::Bare)
    }

    fn consume_directly(
        self: Arc<Self>,
        _message: ReceivedMessage,
    ) -> BoxFuture<'static, Option<Vec<u8>>> {
        Box::pin(std::future::ready(None))
    }
}
