//! Questions with answers: a message is sent, and whoever consumes it sends a reply that comes back to the sender.
//!
//! The reply is pushed by the broker over the asker's connection, not consumed from a topic; so the broker must know the
//! asker by its heartbeat. Apache: `DefaultMQProducer.request`, `MessageUtil.createReplyMessage`.

use std::collections::HashMap;
use std::time::Duration;

use agena_protocol::{properties, topic};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::attempts::RetryOn;
use crate::error::ClientError;
use crate::message::{Message, ReceivedMessage, SendResult};
use crate::producer::Producer;

/// What was answered to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The body, decompressed.
    pub body: Bytes,
    /// The replier's properties and the broker's.
    pub properties: Vec<(String, String)>,
}

/// Questions of an instance that wait for their answers, by correlation id.
#[derive(Debug, Default)]
pub(crate) struct AwaitedReplies {
    waiting: Mutex<HashMap<String, oneshot::Sender<Reply>>>,
}

impl AwaitedReplies {
    fn expect(&self, correlation_id: &str) -> oneshot::Receiver<Reply> {
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .insert(correlation_id.to_owned(), sender);
        receiver
    }

    fn give_up(&self, correlation_id: &str) {
        self.waiting.lock().remove(correlation_id);
    }

    /// A reply came. False if nobody waits for it (any more).
    pub(crate) fn arrived(&self, correlation_id: &str, reply: Reply) -> bool {
        let waiting = self.waiting.lock().remove(correlation_id);
        waiting.is_some_and(|waiting| waiting.send(reply).is_ok())
    }
}

/// Forgets the question however the asking ends, a dropped future included.
struct Awaited<'a> {
    replies: &'a AwaitedReplies,
    correlation_id: &'a str,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.replies.give_up(self.correlation_id);
    }
}

impl Producer {
    /// Sends a message and waits for a reply to it, `timeout` for both together.
    ///
    /// # Errors
    /// As [`Producer::send`]; [`ClientError::NoReply`].
    pub async fn request(&self, message: Message, timeout: Duration) -> Result<Reply, ClientError> {
        let instance = self.instance();
        let topic = message.topic.clone();
        let correlation_id = instance.unique_id();
        let message = message
            .with_property(properties::CORRELATION_ID, correlation_id.clone())
            .with_property(properties::REPLY_TO_CLIENT, instance.client_id())
            .with_property(properties::TTL, timeout.as_millis().to_string());
        let reply = instance.replies().expect(&correlation_id);
        let _awaited = Awaited {
            replies: instance.replies(),
            correlation_id: &correlation_id,
        };
        let exchange = async {
            // Brokers that do not know this client could not push the reply to it.
            self.sender().route(&topic).await?;
            instance.heartbeat_unless_known(&topic).await;
            let prepared = self.sender().prepare(message).await?;
            self.sender()
                .send(&prepared, timeout, RetryOn::TransportAndCodes)
                .await?;
            drop(prepared);
            Ok(reply.await.ok())
        };
        match tokio::time::timeout(timeout, exchange).await {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Err(error)) => Err(error),
            Ok(Ok(None)) | Err(_) => Err(ClientError::NoReply {
                topic,
                after: timeout,
            }),
        }
    }

    /// Answers a message that was sent with [`Producer::request`].
    ///
    /// # Errors
    /// [`ClientError::Config`] if the message asks for no answer; as [`Producer::send`].
    pub async fn reply(
        &self,
        to: &ReceivedMessage,
        body: impl Into<Bytes>,
    ) -> Result<SendResult, ClientError> {
        let required = |name: &'static str| {
            to.property(name).ok_or_else(|| ClientError::Config {
                setting: "message",
                reason: format!("it asks for no reply: {name} is missing"),
            })
        };
        let topic = topic::reply_of(required(properties::CLUSTER)?);
        let mut reply = Message::new(topic, body).with_property(properties::MSG_TYPE, "reply");
        for name in [
            properties::CORRELATION_ID,
            properties::REPLY_TO_CLIENT,
            properties::TTL,
        ] {
            reply = reply.with_property(name, required(name)?);
        }
        let prepared = self.sender().prepare(reply).await?.into_reply();
        let timeout = self.sender().settings().timeout;
        self.sender()
            .send(&prepared, timeout, RetryOn::TransportAndCodes)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reply_reaches_who_asked_and_nobody_else() {
        let replies = AwaitedReplies::default();
        let waiting = replies.expect("1");
        let reply = Reply {
            body: Bytes::from_static(b"yes"),
            properties: Vec::new(),
        };
        assert!(!replies.arrived("2", reply.clone()));
        assert!(replies.arrived("1", reply.clone()));
        assert_eq!(waiting.await, Ok(reply.clone()));
        assert!(!replies.arrived("1", reply));
    }

    #[test]
    fn a_question_that_was_given_up_is_forgotten() {
        let replies = AwaitedReplies::default();
        let _receiver = replies.expect("1");
        drop(Awaited {
            replies: &replies,
            correlation_id: "1",
        });
        assert!(replies.waiting.lock().is_empty());
    }
}
