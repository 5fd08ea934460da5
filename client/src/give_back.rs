//! Messages that a listener failed on go back to their broker, to come again later or to end as dead letters.
//!
//! Apache: `DefaultMQPushConsumerImpl.sendMessageBack`.

use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::headers::send::ConsumerSendMsgBackRequest;
use agena_protocol::properties;
use agena_protocol::request_code::RequestCode;
use agena_protocol::topic;

use crate::attempts::RetryOn;
use crate::error::ClientError;
use crate::instance::Instance;
use crate::message::{Message, ReceivedMessage};
use crate::send::Sender;

/// When a message comes again, as the broker's 36 understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetryDelay {
    /// Longer with every failure: 10 s, 30 s, 1 min, 2 min … 2 h. The default.
    #[default]
    Ladder,
    /// By this delay level of the broker (1 is 1 s, 18 is 2 h).
    Level(u8),
    /// Not at all: it becomes a dead letter.
    DeadLetter,
}

impl RetryDelay {
    fn wire(self) -> i32 {
        match self {
            Self::Ladder => 0,
            Self::Level(level) => i32::from(level),
            Self::DeadLetter => -1,
        }
    }
}

const SEND_BACK_TIMEOUT: Duration = Duration::from_secs(5);

/// The first delay of the ladder is level 3.
const LADDER_START: i32 = 3;

/// Gives messages of one group back.
#[derive(Debug)]
pub(crate) struct GiveBack {
    sender: Sender,
    group: String,
    /// Failures after which a message becomes a dead letter.
    max_reconsume_times: i32,
}

impl GiveBack {
    pub(crate) fn new(sender: Sender, group: &str, max_reconsume_times: i32) -> Self {
        Self {
            sender,
            group: group.to_owned(),
            max_reconsume_times,
        }
    }

    /// The broker keeps a copy of the message for later. If it cannot be asked, a copy is sent like any other message.
    pub(crate) async fn send_back(
        &self,
        message: &ReceivedMessage,
        delay: RetryDelay,
    ) -> Result<(), ClientError> {
        match self.ask_broker(message, delay).await {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(
                    group = %self.group, queue = %message.queue, offset = message.queue_offset, %error,
                    "message not taken back, a copy is sent instead"
                );
                self.send_copy(message).await
            }
        }
    }

    async fn ask_broker(
        &self,
        message: &ReceivedMessage,
        delay: RetryDelay,
    ) -> Result<(), ClientError> {
        let instance: &Instance = self.sender.instance();
        let code = RequestCode::ConsumerSendMsgBack;
        let address = instance.routes().master(&message.queue.broker_name)?;
        let msg_id = message.msg_id();
        let request = Command::request(code).with_header(&ConsumerSendMsgBackRequest {
            offset: message.physical_offset,
            group: &self.group,
            delay_level: delay.wire(),
            origin_msg_id: Some(&msg_id),
            origin_topic: Some(&message.topic),
            unit_mode: Some(false),
            max_reconsume_times: Some(self.max_reconsume_times),
            bname: Some(&message.queue.broker_name),
        });
        let answer = instance.call(&address, request, SEND_BACK_TIMEOUT).await?;
        Instance::success(&address, code, answer).map(drop)
    }

    /// Sends a copy to the group's retry topic. Beyond the maximum the broker makes it a dead letter.
    pub(crate) async fn send_copy(&self, message: &ReceivedMessage) -> Result<(), ClientError> {
        let copy = self.copy_of(message);
        let prepared = self.sender.prepare(copy).await?;
        let timeout = self.sender.settings().timeout;
        self.sender
            .send(&prepared, timeout, RetryOn::TransportAndCodes)
            .await
            .map(drop)
    }

    fn copy_of(&self, message: &ReceivedMessage) -> Message {
        let times = message.reconsume_times;
        let mut copy = Message::new(topic::retry_of(&self.group), message.body.clone())
            .with_flag(message.flag);
        for (name, value) in message.properties().iter() {
            copy.properties.set(name, value);
        }
        copy.properties.remove(properties::TRAN_MSG);
        // It is a message of its own: under the number of the first one a broker would take it for that one sent twice.
        copy.properties.remove(properties::PRODUCER_ID);
        copy.properties.remove(properties::SEQUENCE);
        if copy.property(properties::RETRY_TOPIC).is_none() {
            copy = copy.with_property(properties::RETRY_TOPIC, message.topic.clone());
        }
        if copy.property(properties::ORIGIN_MESSAGE_ID).is_none() {
            copy = copy.with_property(properties::ORIGIN_MESSAGE_ID, message.msg_id());
        }
        copy.with_property(properties::RECONSUME_TIME, (times + 1).to_string())
            .with_property(
                properties::MAX_RECONSUME_TIMES,
                self.max_reconsume_times.to_string(),
            )
            .with_delay_level(LADDER_START + times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;
    use crate::send::SendSettings;

    #[tokio::test]
    async fn a_copy_tells_where_it_comes_from_and_how_often_it_failed() {
        let instance = Instance::start(ClientConfig::new("127.0.0.1:9")).unwrap();
        let sender = Sender::new(instance, "p", SendSettings::default());
        let give_back = GiveBack::new(sender, "g", 1);
        let mut failed = ReceivedMessage::for_test("T", 5, "x")
            .with_test_property("UNIQ_KEY", "U")
            .with_test_property("TRAN_MSG", "true")
            .with_test_property("AGENA_PRODUCER_ID", "p")
            .with_test_property("AGENA_SEQUENCE", "7")
            .with_test_property("mine", "1");
        failed.reconsume_times = 1;
        let copy = give_back.copy_of(&failed);
        assert_eq!(copy.topic(), "%RETRY%g");
        for (name, value) in [
            (properties::RETRY_TOPIC, Some("T")),
            (properties::ORIGIN_MESSAGE_ID, Some("U")),
            (properties::RECONSUME_TIME, Some("2")),
            (properties::MAX_RECONSUME_TIMES, Some("1")),
            (properties::DELAY, Some("4")),
            (properties::TRAN_MSG, None),
            (properties::PRODUCER_ID, None),
            (properties::SEQUENCE, None),
            ("mine", Some("1")),
        ] {
            assert_eq!(copy.property(name), value, "{name}");
        }
    }
}
