//! One pull: asks a broker for messages of a queue from an offset on, and reads what comes.
//!
//! Apache: `PullAPIWrapper`, `MQClientAPIImpl.processPullResponse`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use agena_protocol::bodies::subscription::SubscriptionData;
use agena_protocol::command::Command;
use agena_protocol::headers::pull::{
    PULL_CLASS_FILTER, PULL_COMMIT_OFFSET, PULL_LITE, PULL_SUBSCRIPTION, PULL_SUSPEND,
    PullMessageRequest, PullMessageResponse,
};
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;

use crate::error::ClientError;
use crate::instance::{Instance, bad_answer, broker_error};
use crate::message::ReceivedMessage;
use crate::route_cache::MASTER_ID;
use crate::subscription::admits;

/// How much a pull may bring and how long the broker may hold it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PullSettings {
    pub(crate) messages_max: i32,
    pub(crate) bytes_max: i32,
    pub(crate) hold: Duration,
    pub(crate) timeout: Duration,
}

/// Asks for messages of one queue.
#[derive(Debug)]
pub(crate) struct Pull<'a> {
    pub(crate) group: &'a str,
    pub(crate) queue: &'a MessageQueue,
    pub(crate) subscription: &'a SubscriptionData,
    pub(crate) offset: i64,
    /// Committed along with the pull.
    pub(crate) commit: Option<i64>,
    /// Pull consumers give their subscription with each pull; those of push consumers is known from their heartbeats.
    pub(crate) with_subscription: bool,
    pub(crate) settings: PullSettings,
}

/// What a pull brought.
#[derive(Debug)]
pub(crate) enum Pulled {
    /// Messages that the subscription admits, perhaps none of those that came.
    Found {
        messages: Vec<Arc<ReceivedMessage>>,
        next: i64,
    },
    /// Nothing for us before `next`.
    Nothing { next: i64 },
    /// The offset is not there (any more), or an operator moved the group: go on at `next`.
    OffsetMoved { next: i64 },
}

/// Which replica of a broker to read a queue from, as the broker last suggested.
#[derive(Debug)]
pub(crate) struct ReadFrom(AtomicI64);

impl Default for ReadFrom {
    fn default() -> Self {
        Self(AtomicI64::new(MASTER_ID))
    }
}

impl Pull<'_> {
    /// Asks the replica that `read_from` says, and lets it say who to ask next.
    pub(crate) async fn ask(
        &self,
        instance: &Instance,
        read_from: &ReadFrom,
    ) -> Result<Pulled, ClientError> {
        let replica = read_from.0.load(Ordering::Relaxed);
        let routes = instance.routes();
        let (address, is_master) = routes.address(&self.queue.broker_name, replica, false)?;
        let request = self.request(is_master);
        let answer = instance
            .call(&address, request, self.settings.timeout)
            .await?;
        let code = RequestCode::PullMessage;
        let found = match answer.response_code() {
            Some(ResponseCode::Success) => true,
            Some(
                ResponseCode::PullNotFound
                | ResponseCode::PullRetryImmediately
                | ResponseCode::PullOffsetMoved,
            ) => false,
            _ => return Err(broker_error(&address, code.name(), &answer).into()),
        };
        let header: PullMessageResponse = answer
            .header()
            .map_err(|error| bad_answer(&address, code, &error))?;
        read_from
            .0
            .store(header.suggest_which_broker_id, Ordering::Relaxed);
        let next = header.next_begin_offset;
        if found {
            let messages = self.read_messages(&address, &answer, &header)?;
            return Ok(Pulled::Found { messages, next });
        }
        if answer.response_code() == Some(ResponseCode::PullOffsetMoved) {
            tracing::info!(
                group = self.group, queue = %self.queue, offset = self.offset, next,
                reason = answer.remark.as_deref().unwrap_or_default(), "offset moved by the broker"
            );
            return Ok(Pulled::OffsetMoved { next });
        }
        Ok(Pulled::Nothing { next })
    }

    fn request(&self, is_master: bool) -> Command {
        let millis = |wait: Duration| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        // Only masters keep offsets.
        let commit = self.commit.filter(|_| is_master);
        let mut flags = 0;
        if commit.is_some() {
            flags |= PULL_COMMIT_OFFSET;
        }
        if !self.settings.hold.is_zero() {
            flags |= PULL_SUSPEND;
        }
        if self.with_subscription {
            flags |= PULL_SUBSCRIPTION;
        }
        if self.subscription.class_filter_mode {
            flags |= PULL_CLASS_FILTER;
        }
        let code = if self.with_subscription {
            flags |= PULL_LITE;
            RequestCode::LitePullMessage
        } else {
            RequestCode::PullMessage
        };
        Command::request(code).with_header(&PullMessageRequest {
            consumer_group: self.group,
            topic: &self.queue.topic,
            queue_id: self.queue.queue_id,
            queue_offset: self.offset,
            max_msg_nums: self.settings.messages_max,
            sys_flag: flags,
            commit_offset: commit.unwrap_or(0),
            suspend_timeout_millis: millis(self.settings.hold),
            subscription: self
                .with_subscription
                .then_some(self.subscription.sub_string.as_str()),
            sub_version: self.subscription.sub_version,
            expression_type: Some(&self.subscription.expression_type),
            max_msg_bytes: Some(self.settings.bytes_max),
            bname: Some(&self.queue.broker_name),
            ..PullMessageRequest::default()
        })
    }

    fn read_messages(
        &self,
        address: &str,
        answer: &Command,
        header: &PullMessageResponse,
    ) -> Result<Vec<Arc<ReceivedMessage>>, ClientError> {
        let (messages, damage) = ReceivedMessage::all_from(&answer.body, &self.queue.broker_name);
        if let Some(reason) = damage {
            // Nothing of it may be used: to go on behind the damage would lose messages in silence.
            return Err(bad_answer(address, RequestCode::PullMessage, &reason));
        }
        let delta = header.offset_delta.unwrap_or(0);
        Ok(messages
            .into_iter()
            .filter(|message| admits(self.subscription, message))
            .map(|message| self.seen_by_group(message, delta))
            .collect())
    }

    fn seen_by_group(&self, mut message: ReceivedMessage, delta: i64) -> Arc<ReceivedMessage> {
        message.queue_offset += delta;
        message.queue = self.queue.clone();
        Arc::new(message.with_original_topic(self.group))
    }
}
