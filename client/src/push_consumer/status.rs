//! A consumer as its instance and, through the brokers, its operators see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use agena_protocol::bodies::heartbeat::{
    ConsumeFromWhere, ConsumeType, ConsumerData, MessageModel,
};
use agena_protocol::bodies::running_info::{
    ConsumerRunningInfo, PROP_CLIENT_VERSION, PROP_CONSUME_ORDERLY, PROP_CONSUME_TYPE,
    PROP_CONSUMER_START_TIMESTAMP, PROP_NAMESERVER_ADDR, PROP_THREADPOOL_CORE_SIZE,
    ProcessQueueInfo,
};
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::QueueMap;

use super::{Consumer, Listener};
use crate::instance::{BoxFuture, ConsumerMember};
use crate::message::ReceivedMessage;
use crate::offset_store::ConsumeFrom;
use crate::process_queue::{ProcessQueue, QueueInfo};
use crate::{consume_concurrently, consume_orderly};

impl ConsumerMember for Consumer {
    fn heartbeat(&self) -> ConsumerData {
        ConsumerData {
            group_name: self.group.clone(),
            consume_type: ConsumeType::ConsumePassively,
            message_model: if self.is_broadcasting() {
                MessageModel::Broadcasting
            } else {
                MessageModel::Clustering
            },
            consume_from_where: consume_from_where(self.settings.consume_from),
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
            for queue in self.owned_queues() {
                let name = queue.queue();
                if name.topic != topic {
                    continue;
                }
                if let Some(offset) = offsets.get(name) {
                    self.begin_anew_at(&queue, *offset).await;
                }
            }
        })
    }

    fn offsets_of(&self, topic: &str) -> QueueMap<i64> {
        self.owned_queues()
            .iter()
            .filter(|queue| queue.queue().topic == topic)
            .filter_map(|queue| Some((queue.queue().clone(), queue.commit_offset()?)))
            .collect()
    }

    fn running_info(&self) -> Vec<u8> {
        let now = self.instance.monotonic();
        let info = ConsumerRunningInfo {
            properties: self.properties(),
            subscription_set: self.subscriptions.all(),
            mq_table: self
                .owned_queues()
                .iter()
                .map(|queue| (queue.queue().clone(), queue_info(queue, &queue.info(now))))
                .collect(),
            status_table: self
                .subscriptions
                .topics()
                .into_iter()
                .map(|topic| {
                    let status = self.stats.status(&topic, now);
                    (topic, status)
                })
                .collect(),
            ..ConsumerRunningInfo::default()
        };
        fastjson::to_vec(&info, KeyStyle::Bare)
    }

    fn consume_directly(
        self: Arc<Self>,
        message: ReceivedMessage,
    ) -> BoxFuture<'static, Option<Vec<u8>>> {
        Box::pin(async move {
            let result = match &self.listener {
                Listener::Concurrent(listener) => {
                    consume_concurrently::consume_directly(&self, listener, message).await
                }
                Listener::Orderly(listener) | Listener::ByKey(listener, _) => {
                    consume_orderly::consume_directly(&self, listener, message).await
                }
            };
            Some(fastjson::to_vec(&result, KeyStyle::Bare))
        })
    }
}

impl Consumer {
    fn properties(&self) -> BTreeMap<String, String> {
        let config = self.instance.config();
        let servers: String = config
            .name_servers
            .iter()
            .map(|it| format!("{it};"))
            .collect();
        let settings = &self.settings;
        [
            (PROP_NAMESERVER_ADDR, servers),
            (
                PROP_CONSUME_TYPE,
                ConsumeType::ConsumePassively.name().to_owned(),
            ),
            (PROP_CONSUME_ORDERLY, self.is_orderly().to_string()),
            (PROP_THREADPOOL_CORE_SIZE, settings.concurrency.to_string()),
            (PROP_CONSUMER_START_TIMESTAMP, self.started_ms.to_string()),
            (PROP_CLIENT_VERSION, "V5_3_3".to_owned()),
            ("consumerGroup", self.group.clone()),
            (
                "messageModel",
                self.heartbeat().message_model.name().to_owned(),
            ),
            (
                "consumeFromWhere",
                consume_from_where(settings.consume_from).name().to_owned(),
            ),
            ("consumeMessageBatchMaxSize", settings.batch_max.to_string()),
            ("pullBatchSize", settings.pull_batch.to_string()),
            (
                "maxReconsumeTimes",
                settings
                    .max_reconsume_times
                    .map_or(-1, i32::from)
                    .to_string(),
            ),
            (
                "allocateMessageQueueStrategy",
                self.rebalance.strategy_name(),
            ),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }
}

fn consume_from_where(from: ConsumeFrom) -> ConsumeFromWhere {
    match from {
        ConsumeFrom::Last => ConsumeFromWhere::ConsumeFromLastOffset,
        ConsumeFrom::First => ConsumeFromWhere::ConsumeFromFirstOffset,
        ConsumeFrom::Timestamp(_) => ConsumeFromWhere::ConsumeFromTimestamp,
    }
}

fn queue_info(queue: &ProcessQueue, info: &QueueInfo) -> ProcessQueueInfo {
    let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let (cached_min, cached_max) = info.waiting_range.unwrap_or_default();
    let (taken_min, taken_max) = info.taken_range.unwrap_or_default();
    ProcessQueueInfo {
        commit_offset: queue.commit_offset().unwrap_or(0),
        cached_msg_count: number(info.waiting),
        cached_msg_min_offset: cached_min,
        cached_msg_max_offset: cached_max,
        cached_msg_size_in_mib: number(info.bytes >> 20),
        transaction_msg_count: number(info.taken),
        transaction_msg_min_offset: taken_min,
        transaction_msg_max_offset: taken_max,
        locked: info.locked,
        try_unlock_times: 0,
        last_lock_timestamp: info.locked_at_ms,
        droped: queue.is_dropped(),
        last_pull_timestamp: info.pulled_at_ms,
        last_consume_timestamp: info.consumed_at_ms,
    }
}
