//! What can go wrong between an application and its brokers: one variant for each step, so that a log line alone
//! tells which one failed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use agena_protocol::response_code::ResponseCode;
use thiserror::Error;

/// Why a client call failed.
#[derive(Debug, Clone, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// A setting makes no sense; nothing was started.
    #[error("the setting {setting} is not usable: {reason}")]
    Config {
        /// The setting's name in [`ClientConfig`](crate::ClientConfig) or a builder.
        setting: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The group is already used by another producer or consumer of the same instance.
    #[error("the group {group} has been created before, specify another name")]
    GroupTaken {
        /// The group.
        group: String,
    },
    /// The message was refused before anything was sent.
    #[error("message refused before sending: {0}")]
    Message(#[from] MessageFault),
    /// No name server could be asked.
    #[error("no name server is reachable: {}", Listed(.tried))]
    NoNameServer {
        /// Each address and what happened there.
        tried: Vec<(String, String)>,
    },
    /// The name servers were reached and know no route of the topic.
    #[error("no route info of the topic {topic}")]
    NoRoute {
        /// The topic.
        topic: String,
    },
    /// The topic has a route, but no queue with a live master that may be written.
    #[error("no queue of the topic {topic} can be written")]
    NoWritableQueue {
        /// The topic.
        topic: String,
    },
    /// The broker is in no route that this client knows.
    #[error("the broker {broker} is not in any known route")]
    UnknownBroker {
        /// Name of the broker.
        broker: String,
    },
    /// No connection could be made.
    #[error("cannot connect to {address}: {reason}")]
    Connect {
        /// Host and port.
        address: String,
        /// The system's reason.
        reason: String,
    },
    /// The request was sent, or was waiting to be, when the connection broke. Whether it took effect is unknown.
    #[error("the connection to {address} was lost during {request}: {reason}")]
    ConnectionLost {
        /// Host and port.
        address: String,
        /// The request's name.
        request: &'static str,
        /// What the transport said.
        reason: String,
    },
    /// No answer in time. Whether the request took effect is unknown.
    #[error("{address} did not answer {request} within {after:?}")]
    Timeout {
        /// Host and port.
        address: String,
        /// The request's name.
        request: &'static str,
        /// How long we waited.
        after: Duration,
    },
    /// The peer answered with an error of its own.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The answer is not what the protocol says.
    #[error("the answer of {address} to {request} does not parse: {reason}")]
    BadAnswer {
        /// Host and port.
        address: String,
        /// The request's name.
        request: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Every attempt to send failed; the last one's cause is the source.
    #[error("sending to {topic} failed after {} attempts in {elapsed:?}: {}", .attempts.len(), Attempts(.attempts))]
    SendFailed {
        /// The topic.
        topic: String,
        /// Broker and cause of each attempt, in order.
        attempts: Vec<(String, ClientError)>,
        /// Time since the call.
        elapsed: Duration,
    },
    /// The time for the whole send was used up before the first attempt.
    #[error("sending to {topic} used up its {timeout:?} before a broker was asked")]
    SendTimeout {
        /// The topic.
        topic: String,
        /// The budget.
        timeout: Duration,
    },
    /// As many sends as allowed are waiting for their answers.
    #[error("too many sends are in flight (limit {limit})")]
    TooManyInFlight {
        /// The limit.
        limit: usize,
    },
    /// Nobody answered the request message in time.
    #[error("no reply to the request on {topic} within {after:?}")]
    NoReply {
        /// The topic.
        topic: String,
        /// How long we waited.
        after: Duration,
    },
    /// An offset outside of what the queue holds.
    #[error("offset {offset} is outside of {queue}, which holds {min}..={max}")]
    OffsetOutOfRange {
        /// The queue.
        queue: String,
        /// What was asked for.
        offset: i64,
        /// First offset that is there.
        min: i64,
        /// Next offset to be written.
        max: i64,
    },
    /// The queue is not assigned to this consumer.
    #[error("{queue} is not assigned to this consumer")]
    NotAssigned {
        /// The queue.
        queue: String,
    },
    /// A store of consumer offsets given by the application failed.
    #[error("the offset store failed: {reason}")]
    OffsetStore {
        /// What it said.
        reason: String,
    },
    /// A broadcast send reached some of the topic's brokers only.
    #[error("sending to all brokers of {topic} reached {} of {}: {}", .stored.len(), .stored.len() + .failed.len(), Attempts(.failed))]
    BroadcastIncomplete {
        /// The topic.
        topic: String,
        /// What those answered that have it.
        stored: Vec<crate::SendResult>,
        /// Broker and cause of each of the others.
        failed: Vec<(String, ClientError)>,
    },
    /// As many failed sends as allowed wait for being tried again; the cause is that of the one that found no place.
    #[error("{waiting} failed sends wait already for another try (limit {limit}): {cause}")]
    RetriesFull {
        /// How many messages wait.
        waiting: usize,
        /// The most that may.
        limit: usize,
        /// Why this message could not be sent.
        cause: Box<ClientError>,
    },
    /// The producer's spool has no room for the message, which was not taken.
    #[error("the spool {} is full: {bytes} of {max} bytes, {wanted} more are wanted", .path.display())]
    SpoolFull {
        /// The spool's file.
        path: PathBuf,
        /// What it holds.
        bytes: u64,
        /// What this message needs.
        wanted: u64,
        /// What it may hold.
        max: u64,
    },
    /// The spool belongs to another producer, of this process or another.
    #[error("the spool {} is in use by another producer", .path.display())]
    SpoolInUse {
        /// The spool's file.
        path: PathBuf,
    },
    /// The spool's file cannot be read or written. After a failed write or sync it stays so until the producer starts anew.
    #[error("the spool {} is not usable: {reason}", .path.display())]
    Spool {
        /// The spool's file.
        path: PathBuf,
        /// What the system said, or what is damaged where.
        reason: String,
    },
    /// Another producer of this process numbers its messages under this id.
    #[error("the producer id {id} is in use by another producer of this process")]
    ProducerIdInUse {
        /// The id.
        id: crate::ProducerId,
    },
    /// The store of an outbox failed.
    #[error("the outbox store failed: {reason}")]
    Outbox {
        /// What it said.
        reason: String,
    },
    /// The client was shut down.
    #[error("the client was shut down")]
    Stopped,
}

impl ClientError {
    /// The code that the peer answered with, if it was the peer that refused.
    #[must_use]
    pub fn broker_code(&self) -> Option<i32> {
        match self {
            Self::Broker(error) => Some(error.code),
            Self::SendFailed { attempts, .. } => attempts.last()?.1.broker_code(),
            _ => None,
        }
    }

    /// The same send may succeed later without anybody changing it: brokers or name servers are away, busy, or do not
    /// know the topic yet.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::NoNameServer { .. }
            | Self::NoRoute { .. }
            | Self::NoWritableQueue { .. }
            | Self::UnknownBroker { .. }
            | Self::SendTimeout { .. } => true,
            Self::Broker(error) => {
                ResponseCode::from_number(error.code).is_some_and(ResponseCode::producer_retries)
            }
            Self::SendFailed { attempts, .. } => {
                attempts.last().is_some_and(|(_, error)| error.may_pass())
            }
            other => other.is_transport(),
        }
    }

    /// The request may have taken effect although it failed.
    pub(crate) fn leaves_doubt(&self) -> bool {
        match self {
            Self::ConnectionLost { .. } | Self::Timeout { .. } | Self::BadAnswer { .. } => true,
            Self::SendFailed { attempts, .. } => {
                attempts.iter().any(|(_, error)| error.leaves_doubt())
            }
            _ => false,
        }
    }

    /// The peer was not reached or did not answer, so another one may do better.
    #[must_use]
    pub fn is_transport(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. } | Self::ConnectionLost { .. } | Self::Timeout { .. }
        )
    }
}

/// The error that a broker or name server answered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{address} answered {request} with code {code}: {remark}")]
pub struct BrokerError {
    /// Host and port of who answered.
    pub address: String,
    /// The request's name.
    pub request: &'static str,
    /// The response code; see [`agena_protocol::response_code::ResponseCode`].
    pub code: i32,
    /// The peer's words.
    pub remark: String,
}

/// What is wrong with a message, found before anything is sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MessageFault {
    /// The topic's name breaks the naming rules.
    #[error("topic {topic:?}: {reason}")]
    Topic {
        /// As given.
        topic: String,
        /// The rule.
        reason: String,
    },
    /// The topic belongs to the broker.
    #[error("sending to the topic {topic} is forbidden")]
    TopicReserved {
        /// As given.
        topic: String,
    },
    /// No bytes.
    #[error("the message body is empty")]
    EmptyBody,
    /// Over the producer's limit.
    #[error("the message body of {bytes} bytes is over max value, MAX: {max}")]
    BodyTooLarge {
        /// Bytes of the body, or of the encoded batch.
        bytes: usize,
        /// The producer's limit.
        max: usize,
    },
    /// Over what a record can hold.
    #[error("the properties take {bytes} bytes, at most {max} are possible")]
    PropertiesTooLarge {
        /// Bytes of the encoded properties.
        bytes: usize,
        /// The format's limit.
        max: usize,
    },
    /// A name or value contains a separator of the encoding.
    #[error("the property {name:?} contains a control character that separates properties")]
    PropertyCharacters {
        /// Name of the property.
        name: String,
    },
    /// No message in the batch.
    #[error("the batch is empty")]
    EmptyBatch,
    /// Messages that cannot travel in one batch.
    #[error("message {index} cannot be part of the batch: {reason}")]
    Batch {
        /// Position in the batch.
        index: usize,
        /// The rule.
        reason: &'static str,
    },
}

struct Listed<'a>(&'a [(String, String)]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none is configured");
        }
        for (at, (address, reason)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {reason}")?;
        }
        Ok(())
    }
}

struct Attempts<'a>(&'a [(String, ClientError)]);

impl fmt::Display for Attempts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (broker, error)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{broker}: {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_every_step_that_failed() {
        let error = ClientError::SendFailed {
            topic: "T".into(),
            attempts: vec![
                (
                    "broker-a".into(),
                    ClientError::Connect {
                        address: "10.0.0.1:10911".into(),
                        reason: "Connection refused".into(),
                    },
                ),
                (
                    "broker-b".into(),
                    ClientError::Broker(BrokerError {
                        address: "10.0.0.2:10911".into(),
                        request: "SEND_MESSAGE_V2",
                        code: 14,
                        remark: "service not available now.".into(),
                    }),
                ),
            ],
            elapsed: Duration::from_millis(12),
        };
        assert_eq!(
            error.to_string(),
            "sending to T failed after 2 attempts in 12ms: \
             broker-a: cannot connect to 10.0.0.1:10911: Connection refused; \
             broker-b: 10.0.0.2:10911 answered SEND_MESSAGE_V2 with code 14: service not available now."
        );
        assert_eq!(error.broker_code(), Some(14));
    }

    #[test]
    fn a_client_without_name_servers_says_so() {
        let error = ClientError::NoNameServer { tried: Vec::new() };
        assert_eq!(
            error.to_string(),
            "no name server is reachable: none is configured"
        );
    }
}
