//! From a message to a broker's answer: checked, completed and compressed once, then sent as often as its
//! [attempts](crate::attempts) say. Producers, consumers that give messages back, and traces all send through here.
//!
//! Apache: `DefaultMQProducerImpl.sendKernelImpl`.

use std::sync::Arc;
use std::time::Duration;

use agena_protocol::batch::InnerMessage;
use agena_protocol::command::Command;
use agena_protocol::headers::send::{SendMessageRequestV2, SendMessageResponse};
use agena_protocol::properties::{self, PropertiesBuf};
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::sys_flag::{self, Codec, TransactionState};
use agena_protocol::{compression, topic};
use bytes::Bytes;
use tokio::time::Instant;

use crate::choose_queue::{BrokerHealth, in_turn};
use crate::error::{ClientError, MessageFault};
use crate::instance::{Instance, bad_answer, broker_error};
use crate::message::{Message, SendResult, SendStatus};
use crate::producer_id::{Number, Numbering, Pair, ProducerId};
use crate::route_cache::TopicRoute;

/// How a producer sends. The defaults are RocketMQ's.
#[derive(Debug, Clone)]
pub struct SendSettings {
    /// Time for a send with all its attempts. Default: 3 s.
    pub timeout: Duration,
    /// The most time one attempt may take of that while another one is left. Default: all of it.
    pub attempt_timeout: Option<Duration>,
    /// How often a failed send is tried again, on another broker where there is one. Default: 2.
    pub retries: usize,
    /// A send whose promise is only partly kept ([`SendStatus`] other than `Ok`) is tried again too, which stores the
    /// message twice. Default: no.
    pub retry_if_not_stored_ok: bool,
    /// Bodies from this size on are compressed. Default: 4096 bytes.
    pub compress_from_bytes: usize,
    /// Default: zlib, which consumers of every version know.
    pub codec: Codec,
    /// Default: 5.
    pub compression_level: u8,
    /// Longer bodies are refused. The broker has a limit of its own. Default: 4 MiB.
    pub body_bytes_max: usize,
    /// The topic whose queues a topic gets that does not exist yet. Default: `TBW102`.
    pub template_topic: String,
    /// The most queues such a topic gets on each broker. Default: 4.
    pub template_queues_max: i32,
    /// Brokers that fail or answer slowly are avoided for a while. Default: no.
    pub avoid_slow_brokers: bool,
    /// Messages are numbered under this id, so that a broker that deduplicates stores none of them twice. A message whose
    /// fate is unknown is then tried again only where it may be already, see [`ProducerId`]. Default: no.
    pub deduplicate: Option<ProducerId>,
}

impl Default for SendSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(3),
            attempt_timeout: None,
            retries: 2,
            retry_if_not_stored_ok: false,
            compress_from_bytes: 4096,
            codec: Codec::Zlib,
            compression_level: 5,
            body_bytes_max: 4 << 20,
            template_topic: topic::AUTO_CREATE.to_owned(),
            template_queues_max: 4,
            avoid_slow_brokers: false,
            deduplicate: None,
        }
    }
}

/// A message or batch that was checked and completed: what each attempt sends.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) topic: String,
    pub(crate) msg_id: String,
    body: Bytes,
    properties: String,
    flag: i32,
    sys_flag: i32,
    code: RequestCode,
    reconsume_times: i32,
    max_reconsume_times: Option<i32>,
    /// It, or each message of the batch, has a number by which a broker can deduplicate.
    pub(crate) numbered: bool,
    /// The number, if it is this sender's and the send is under way.
    number: Option<Arc<Number>>,
}

impl Prepared {
    pub(crate) fn into_half_message(mut self) -> Self {
        self.sys_flag = TransactionState::Prepared.in_flag(self.sys_flag);
        self
    }

    pub(crate) fn into_reply(mut self) -> Self {
        self.code = RequestCode::SendReplyMessageV2;
        self
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        properties::Properties::new(self.properties.as_bytes()).get(name)
    }

    /// Bytes that it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.body.len() + self.properties.len() + self.topic.len() + self.msg_id.len()
    }

    /// It waits from now on, for who knows how long, and others need not wait for it.
    ///
    /// Unless a broker may have it already, its number goes: so late, a broker might refuse it as too old. The next try
    /// has a new one ([`Sender::number`]).
    pub(crate) fn set_waiting(&mut self, is_doubtful: bool) {
        let own = self.number.take();
        if own.is_some() && !is_doubtful {
            let mut all = PropertiesBuf::parse(self.properties.as_bytes());
            all.remove(properties::PRODUCER_ID);
            all.remove(properties::SEQUENCE);
            self.set_properties(&all);
            self.numbered = false;
        }
    }

    fn set_properties(&mut self, all: &PropertiesBuf) {
        // Made of strings, so it is one.
        self.properties = String::from_utf8_lossy(&all.encode()).into_owned();
    }

    /// What of an ordinary message has to be kept to send it after all, much later.
    pub(crate) fn to_kept(&self) -> Kept {
        Kept {
            topic: self.topic.clone(),
            msg_id: self.msg_id.clone(),
            body: self.body.to_vec(),
            properties: self.properties.clone(),
            flag: self.flag,
            sys_flag: self.sys_flag,
        }
    }

    pub(crate) fn from_kept(kept: Kept) -> Self {
        let properties = properties::Properties::new(kept.properties.as_bytes());
        Self {
            numbered: properties.get(properties::SEQUENCE).is_some(),
            topic: kept.topic,
            msg_id: kept.msg_id,
            body: kept.body.into(),
            properties: kept.properties,
            flag: kept.flag,
            sys_flag: kept.sys_flag,
            code: RequestCode::SendMessageV2,
            reconsume_times: 0,
            max_reconsume_times: None,
            number: None,
        }
    }
}

/// A [`Prepared`] message in a file: ids and compressed body as they were first sent.
#[derive(Debug, Clone, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(crate) struct Kept {
    pub(crate) topic: String,
    pub(crate) msg_id: String,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: String,
    pub(crate) flag: i32,
    pub(crate) sys_flag: i32,
}

impl Kept {
    pub(crate) fn set_pair(&mut self, pair: &Pair) {
        let mut all = PropertiesBuf::parse(self.properties.as_bytes());
        pair.write(&mut all);
        self.properties = String::from_utf8_lossy(&all.encode()).into_owned();
    }
}

/// Sends for one producer group.
#[derive(Debug)]
pub(crate) struct Sender {
    instance: Arc<Instance>,
    group: String,
    settings: SendSettings,
    pub(crate) health: Option<BrokerHealth>,
    numbering: Option<Arc<Numbering>>,
}

impl Sender {
    pub(crate) fn new(instance: Arc<Instance>, group: &str, settings: SendSettings) -> Self {
        let health = settings
            .avoid_slow_brokers
            .then(|| BrokerHealth::new(Arc::clone(&instance.config().clock)));
        Self {
            numbering: None,
            instance,
            group: group.to_owned(),
            settings,
            health,
        }
    }

    /// [`Sender::new`], with numbers on its messages if the settings have it so.
    ///
    /// # Errors
    /// [`ClientError::ProducerIdInUse`].
    pub(crate) fn numbered(
        instance: Arc<Instance>,
        group: &str,
        settings: SendSettings,
    ) -> Result<Self, ClientError> {
        let mut sender = Self::new(instance, group, settings);
        if let Some(id) = sender.settings.deduplicate.clone() {
            let numbering = Numbering::start(id, sender.instance.now_ms())?;
            sender.numbering = Some(Arc::new(numbering));
        }
        Ok(sender)
    }

    pub(crate) fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }

    pub(crate) fn group(&self) -> &str {
        &self.group
    }

    pub(crate) fn settings(&self) -> &SendSettings {
        &self.settings
    }

    /// Checks and completes a message. With numbers it waits while those under way are too far apart, and fails when that
    /// takes longer than a send may.
    pub(crate) async fn prepare(&self, mut message: Message) -> Result<Prepared, ClientError> {
        check_topic(&message.topic)?;
        self.check_body(message.body.len())?;
        check_properties(&message)?;
        let msg_id = self.give_id(&mut message);
        let mut sys_flag = 0;
        let mut body = message.body.clone();
        if body.len() >= self.settings.compress_from_bytes {
            let codec = self.settings.codec;
            match compression::compress(codec, self.settings.compression_level, &body) {
                Ok(compressed) => {
                    body = compressed.into();
                    sys_flag |= sys_flag::COMPRESSED | codec.bits();
                }
                // The message can still be sent as it is.
                Err(error) => tracing::warn!(topic = %message.topic, %error, "body not compressed"),
            }
        }
        let own_number = self.give_number(&mut message).await?;
        let number = |name| message.property(name).and_then(|text| text.parse().ok());
        let is_retry = topic::is_retry(&message.topic);
        Ok(Prepared {
            msg_id,
            body,
            numbered: message.property(properties::SEQUENCE).is_some(),
            properties: encoded_properties(&message)?,
            flag: message.flag,
            sys_flag,
            code: RequestCode::SendMessageV2,
            reconsume_times: number(properties::RECONSUME_TIME)
                .filter(|_| is_retry)
                .unwrap_or(0),
            max_reconsume_times: number(properties::MAX_RECONSUME_TIMES).filter(|_| is_retry),
            topic: message.topic,
            number: own_number,
        })
    }

    /// Checks and completes messages that travel and are stored together.
    pub(crate) async fn prepare_batch(
        &self,
        messages: Vec<Message>,
    ) -> Result<Prepared, ClientError> {
        let first = messages.first().ok_or(MessageFault::EmptyBatch)?;
        let (topic, wait) = (first.topic.clone(), waits(first));
        check_topic(&topic)?;
        let mut body = Vec::new();
        let mut msg_ids = Vec::with_capacity(messages.len());
        for (index, mut message) in messages.into_iter().enumerate() {
            check_batch_member(index, &message, &topic, wait)?;
            self.check_body(message.body.len())?;
            check_properties(&message)?;
            msg_ids.push(self.give_id(&mut message));
            let properties = encoded_properties(&message)?;
            let inner = InnerMessage {
                flag: message.flag,
                body: &message.body,
                properties: properties.as_bytes(),
            };
            // Both lengths were checked just now.
            inner
                .write(&mut body)
                .map_err(|_| MessageFault::BodyTooLarge {
                    bytes: message.body.len(),
                    max: self.settings.body_bytes_max,
                })?;
        }
        self.check_body(body.len())?;
        let mut envelope = Message::new(topic, body).wait_until_stored(wait);
        self.give_id(&mut envelope);
        // One number for all: they are stored together or not at all.
        let number = self.give_number(&mut envelope).await?;
        Ok(Prepared {
            msg_id: msg_ids.join(","),
            numbered: self.numbering.is_some(),
            body: envelope.body.clone(),
            properties: encoded_properties(&envelope)?,
            flag: 0,
            sys_flag: 0,
            code: RequestCode::SendBatchMessage,
            reconsume_times: 0,
            max_reconsume_times: None,
            topic: envelope.topic,
            number,
        })
    }

    fn check_body(&self, bytes: usize) -> Result<(), MessageFault> {
        let max = self.settings.body_bytes_max;
        match bytes {
            0 => Err(MessageFault::EmptyBody),
            _ if bytes > max => Err(MessageFault::BodyTooLarge { bytes, max }),
            _ => Ok(()),
        }
    }

    /// An id that all attempts share, so that a message that was stored twice can be recognised.
    fn give_id(&self, message: &mut Message) -> String {
        if let Some(id) = message.property(properties::UNIQ_KEY) {
            return id.to_owned();
        }
        let id = self.instance.unique_id();
        message.properties.set(properties::UNIQ_KEY, id.clone());
        if message.property(properties::WAIT).is_none() {
            message.properties.set(properties::WAIT, "true");
        }
        id
    }

    /// A number of its own, unless it has one from an earlier life. Waiting for one takes of the time of the send.
    async fn give_number(&self, message: &mut Message) -> Result<Option<Arc<Number>>, ClientError> {
        let has_one = message.property(properties::SEQUENCE).is_some();
        let Some(numbering) = self.numbering.as_ref().filter(|_| !has_one) else {
            return Ok(None);
        };
        let timeout = self.settings.timeout;
        let number = tokio::time::timeout(timeout, numbering.next()).await;
        let number = number.map_err(|_| ClientError::SendTimeout {
            topic: message.topic.clone(),
            timeout,
        })?;
        number.pair().write(&mut message.properties);
        Ok(Some(Arc::new(number)))
    }

    /// Gives a number to a message that waited without one, and tells which.
    pub(crate) async fn number(&self, prepared: &mut Prepared) -> Option<Pair> {
        if prepared.numbered {
            return None;
        }
        let number = self.numbering.as_ref()?.next().await;
        let pair = number.pair();
        let mut all = PropertiesBuf::parse(prepared.properties.as_bytes());
        pair.write(&mut all);
        prepared.set_properties(&all);
        prepared.numbered = true;
        prepared.number = Some(Arc::new(number));
        Some(pair)
    }

    pub(crate) async fn route(&self, topic: &str) -> Result<Arc<TopicRoute>, ClientError> {
        let settings = &self.settings;
        let route = self
            .instance
            .route_to_publish(
                topic,
                &settings.template_topic,
                settings.template_queues_max,
            )
            .await?;
        if route.publish_queues().is_empty() {
            return Err(ClientError::NoWritableQueue {
                topic: topic.to_owned(),
            });
        }
        Ok(route)
    }

    /// One attempt, to one queue.
    pub(crate) async fn send_to(
        &self,
        prepared: &Prepared,
        queue: &MessageQueue,
        timeout: Duration,
    ) -> Result<SendResult, ClientError> {
        let address = self.instance.routes().master(&queue.broker_name)?;
        let request = self.request(prepared, queue);
        let started = Instant::now();
        let outcome = self.instance.call(&address, request, timeout).await;
        if let Some(health) = &self.health {
            match &outcome {
                Ok(_) => health.answered(&queue.broker_name, started.elapsed()),
                Err(_) => health.failed(&queue.broker_name),
            }
        }
        read_answer(prepared, queue, &address, &outcome?)
    }

    /// Sends without an answer: nobody will know whether it arrived.
    pub(crate) async fn send_one_way(
        &self,
        prepared: &Prepared,
        queue: Option<&MessageQueue>,
    ) -> Result<(), ClientError> {
        let route;
        let queue = if let Some(queue) = queue {
            queue
        } else {
            route = self.route(&prepared.topic).await?;
            in_turn(
                route.publish_queues(),
                &route.turn,
                None,
                self.health.as_ref(),
            )
            .ok_or_else(|| ClientError::NoWritableQueue {
                topic: prepared.topic.clone(),
            })?
        };
        let address = self.instance.routes().master(&queue.broker_name)?;
        let request = self.request(prepared, queue);
        self.instance.one_way(&address, request).await
    }

    fn request(&self, prepared: &Prepared, queue: &MessageQueue) -> Command {
        let header = SendMessageRequestV2 {
            producer_group: &self.group,
            topic: &prepared.topic,
            default_topic: &self.settings.template_topic,
            default_topic_queue_nums: self.settings.template_queues_max,
            queue_id: queue.queue_id,
            sys_flag: prepared.sys_flag,
            born_timestamp: self.instance.now_ms(),
            flag: prepared.flag,
            properties: Some(&prepared.properties),
            reconsume_times: Some(prepared.reconsume_times),
            unit_mode: Some(false),
            max_reconsume_times: prepared.max_reconsume_times,
            batch: Some(prepared.code == RequestCode::SendBatchMessage),
            bname: Some(&queue.broker_name),
        };
        Command::request(prepared.code)
            .with_header(&header)
            .with_body(prepared.body.clone())
    }
}

fn read_answer(
    prepared: &Prepared,
    queue: &MessageQueue,
    address: &str,
    answer: &Command,
) -> Result<SendResult, ClientError> {
    let status = match answer.response_code() {
        Some(ResponseCode::Success) => SendStatus::Ok,
        Some(ResponseCode::FlushDiskTimeout) => SendStatus::FlushDiskTimeout,
        Some(ResponseCode::FlushSlaveTimeout) => SendStatus::FlushSlaveTimeout,
        Some(ResponseCode::SlaveNotAvailable) => SendStatus::SlaveNotAvailable,
        _ => return Err(broker_error(address, prepared.code.name(), answer).into()),
    };
    let header: SendMessageResponse<'_> = answer
        .header()
        .map_err(|error| bad_answer(address, prepared.code, &error))?;
    Ok(SendResult {
        status,
        msg_id: prepared.msg_id.clone(),
        offset_msg_id: header.msg_id.to_owned(),
        queue: MessageQueue::new(&*queue.topic, &*queue.broker_name, header.queue_id),
        queue_offset: header.queue_offset,
        transaction_id: header.transaction_id.map(str::to_owned),
        recall_handle: header.recall_handle.map(str::to_owned),
        region: header
            .msg_region
            .filter(|region| !region.is_empty())
            .unwrap_or("DefaultRegion")
            .to_owned(),
        trace_on: header.trace_on != Some(false),
    })
}

fn check_topic(name: &str) -> Result<(), MessageFault> {
    topic::check(name).map_err(|fault| MessageFault::Topic {
        topic: name.to_owned(),
        reason: fault.to_string(),
    })?;
    if topic::is_sendable(name) {
        Ok(())
    } else {
        Err(MessageFault::TopicReserved {
            topic: name.to_owned(),
        })
    }
}

fn check_properties(message: &Message) -> Result<(), MessageFault> {
    for (name, value) in message.properties.iter() {
        let separates = |text: &str| {
            text.bytes().any(|byte| {
                byte == properties::NAME_VALUE_SEPARATOR || byte == properties::PROPERTY_SEPARATOR
            })
        };
        if separates(name) || separates(value) {
            return Err(MessageFault::PropertyCharacters {
                name: name.to_owned(),
            });
        }
    }
    Ok(())
}

fn encoded_properties(message: &Message) -> Result<String, MessageFault> {
    let encoded = message.properties.encode();
    if encoded.len() > properties::PROPERTIES_BYTES_MAX {
        return Err(MessageFault::PropertiesTooLarge {
            bytes: encoded.len(),
            max: properties::PROPERTIES_BYTES_MAX,
        });
    }
    // Made of strings, so it is one.
    Ok(String::from_utf8_lossy(&encoded).into_owned())
}

fn waits(message: &Message) -> bool {
    message.property(properties::WAIT) != Some("false")
}

fn check_batch_member(
    index: usize,
    message: &Message,
    topic: &str,
    wait: bool,
) -> Result<(), MessageFault> {
    let fault = |reason| Err(MessageFault::Batch { index, reason });
    if message.topic != topic {
        return fault("its topic is not that of the first message");
    }
    if topic::is_retry(topic) {
        return fault("a retry topic takes no batches");
    }
    if message.is_delayed() {
        return fault("delayed messages travel alone");
    }
    if waits(message) != wait {
        return fault("it waits for storage where the first one does not, or the other way round");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientConfig;
    use agena_protocol::properties::Properties;

    fn sender(settings: SendSettings) -> Sender {
        let instance = Instance::start(ClientConfig::new("127.0.0.1:9")).unwrap();
        Sender::new(instance, "g", settings)
    }

    fn fault(result: Result<Prepared, ClientError>) -> MessageFault {
        match result.unwrap_err() {
            ClientError::Message(fault) => fault,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn what_no_broker_would_take_is_refused_before_sending() {
        let sender = sender(SendSettings {
            body_bytes_max: 10,
            ..SendSettings::default()
        });
        let fault_of = async |topic: &str, body: &'static str| {
            fault(sender.prepare(Message::new(topic, body)).await)
        };
        assert_eq!(fault_of("T", "").await, MessageFault::EmptyBody);
        assert_eq!(
            fault_of("T", "0123456789a").await,
            MessageFault::BodyTooLarge { bytes: 11, max: 10 }
        );
        assert!(matches!(
            fault_of("a b", "x").await,
            MessageFault::Topic { .. }
        ));
        assert!(matches!(
            fault_of("", "x").await,
            MessageFault::Topic { .. }
        ));
        assert!(matches!(
            fault_of(topic::SCHEDULE, "x").await,
            MessageFault::TopicReserved { .. }
        ));
        let message = Message::new("T", "x").with_property("a\u{1}", "v");
        assert!(matches!(
            fault(sender.prepare(message).await),
            MessageFault::PropertyCharacters { .. }
        ));
        let message = Message::new("T", "x").with_property("a", "v".repeat(40_000));
        assert!(matches!(
            fault(sender.prepare(message).await),
            MessageFault::PropertiesTooLarge { .. }
        ));
    }

    #[tokio::test]
    async fn bodies_from_the_limit_on_are_compressed() {
        let sender = sender(SendSettings::default());
        let small = sender
            .prepare(Message::new("T", "x".repeat(4095)))
            .await
            .unwrap();
        assert_eq!((small.sys_flag, small.body.len()), (0, 4095));
        let large = sender
            .prepare(Message::new("T", "x".repeat(4096)))
            .await
            .unwrap();
        assert_eq!(large.sys_flag, 0x301);
        assert!(large.body.starts_with(&[0x78]) && large.body.len() < 100);
    }

    #[tokio::test]
    async fn an_id_is_given_once() {
        let sender = sender(SendSettings::default());
        let prepared = sender.prepare(Message::new("T", "x")).await.unwrap();
        let properties = Properties::new(prepared.properties.as_bytes());
        assert_eq!(
            properties.get(properties::UNIQ_KEY),
            Some(&*prepared.msg_id)
        );
        let message = Message::new("T", "x").with_property(properties::UNIQ_KEY, "mine");
        assert_eq!(sender.prepare(message).await.unwrap().msg_id, "mine");
    }

    #[tokio::test]
    async fn batch_members_agree() {
        let sender = sender(SendSettings::default());
        let message = || Message::new("T", "x");
        assert_eq!(
            fault(sender.prepare_batch(vec![]).await),
            MessageFault::EmptyBatch
        );
        for other in [
            Message::new("U", "x"),
            message().with_delay_level(1),
            message().wait_until_stored(false),
        ] {
            let fault = fault(sender.prepare_batch(vec![message(), other]).await);
            assert!(
                matches!(fault, MessageFault::Batch { index: 1, .. }),
                "{fault}"
            );
        }
        let batch = sender
            .prepare_batch(vec![message(), message()])
            .await
            .unwrap();
        assert_eq!(batch.msg_id.split(',').count(), 2);
        assert_eq!(batch.code, RequestCode::SendBatchMessage);
    }
}
