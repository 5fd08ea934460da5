//! The attempts of one send: to which queue each goes, what a failure teaches, and when it is over.
//!
//! Apache: `DefaultMQProducerImpl.sendDefaultImpl`. Unlike there, a numbered message whose fate is unknown stays with the
//! queue where it may be already: only there its number is known.

use std::time::Duration;

use agena_protocol::properties;
use agena_protocol::queue::MessageQueue;
use agena_protocol::response_code::ResponseCode;
use tokio::time::Instant;

use crate::choose_queue::{hashed, in_turn};
use crate::error::ClientError;
use crate::message::{SendResult, SendStatus};
use crate::send::{Prepared, Sender};

/// Which failures another attempt may mend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RetryOn {
    /// Those of the transport, and the codes that say so.
    TransportAndCodes,
    /// Only those of the transport: asynchronous sends, as in the original.
    Transport,
    /// None: there is one attempt.
    Nothing,
}

/// What the queue of an attempt depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The turn alone.
    Turn,
    /// The hash of the message's sharding key, if it has one; else the turn.
    ShardingKey,
    /// The hash of its sharding key or else of its id: always the same queue while the route stays.
    Id,
}

/// How the attempts of a send go.
#[derive(Debug, Clone)]
pub(crate) struct Attempts {
    /// For all of them together.
    pub(crate) timeout: Duration,
    pub(crate) retry_on: RetryOn,
    pub(crate) by: By,
    /// Where an earlier send may have left the message.
    pub(crate) doubtful: Option<MessageQueue>,
}

/// A send that failed.
#[derive(Debug)]
pub(crate) struct Unsent {
    pub(crate) error: ClientError,
    /// Where the message may be nevertheless, since no answer came.
    pub(crate) doubtful: Option<MessageQueue>,
}

impl From<ClientError> for Unsent {
    fn from(error: ClientError) -> Self {
        Self {
            error,
            doubtful: None,
        }
    }
}

const SAME_BROKER_PAUSE: Duration = Duration::from_millis(100);

/// The most a look at the route may take of the time that the attempts have together.
const ROUTE_REFRESH_MAX: Duration = Duration::from_millis(300);

impl Sender {
    /// Tries broker after broker until one has it or the time is up.
    pub(crate) async fn send(
        &self,
        prepared: &Prepared,
        timeout: Duration,
        retry_on: RetryOn,
    ) -> Result<SendResult, ClientError> {
        let attempts = Attempts {
            timeout,
            retry_on,
            by: By::Turn,
            doubtful: None,
        };
        let sent = self.attempt_all(prepared, attempts).await;
        sent.map_err(|unsent| unsent.error)
    }

    /// Makes all attempts, until one succeeds.
    pub(crate) async fn attempt_all(
        &self,
        prepared: &Prepared,
        plan: Attempts,
    ) -> Result<SendResult, Unsent> {
        let started = Instant::now();
        let settings = self.settings();
        let retries = match plan.retry_on {
            RetryOn::Nothing => 0,
            RetryOn::Transport | RetryOn::TransportAndCodes => settings.retries,
        };
        let mut failures: Vec<(String, ClientError)> = Vec::new();
        let mut doubtful = plan.doubtful.clone();
        let mut partly_stored = None;
        let mut tried: Option<String> = None;
        for attempt in 0..=retries {
            let next = self.next_queue(prepared, &plan, doubtful.as_ref(), tried.as_deref());
            let queue = match next.await {
                Ok(queue) => queue,
                Err(error) => return Err(Unsent { error, doubtful }),
            };
            if tried.as_ref() == Some(&queue.broker_name) {
                // There is no other broker. One that is just restarting needs a moment.
                tokio::time::sleep(SAME_BROKER_PAUSE).await;
            }
            let left = plan.timeout.saturating_sub(started.elapsed());
            if left.is_zero() {
                break;
            }
            let more = attempt < retries;
            let limit = match settings.attempt_timeout {
                Some(limit) if more => left.min(limit),
                _ => left,
            };
            match self.send_to(prepared, &queue, limit).await {
                Ok(result)
                    if result.status != SendStatus::Ok
                        && settings.retry_if_not_stored_ok
                        && more =>
                {
                    doubtful = Some(queue.clone());
                    partly_stored = Some(result);
                }
                Ok(result) => return Ok(result),
                Err(error) => {
                    let again = may_retry(&error, plan.retry_on);
                    tracing::debug!(topic = %prepared.topic, broker = %queue.broker_name, %error, again, "send failed");
                    if error.leaves_doubt() {
                        doubtful = Some(queue.clone());
                    }
                    self.after_failure(&error, &prepared.topic).await;
                    failures.push((queue.broker_name.clone(), error));
                    if !again {
                        break;
                    }
                }
            }
            tried = Some(queue.broker_name);
        }
        // An earlier attempt reached a broker after all: that is worth more than a later one's error.
        if let Some(result) = partly_stored {
            return Ok(result);
        }
        let error = failed(&prepared.topic, failures, started.elapsed(), plan.timeout);
        Err(Unsent { error, doubtful })
    }

    /// Where the next attempt goes: `doubtful` is where an earlier one may have left the message, `tried` the broker of
    /// the last one.
    pub(crate) async fn next_queue(
        &self,
        prepared: &Prepared,
        plan: &Attempts,
        doubtful: Option<&MessageQueue>,
        tried: Option<&str>,
    ) -> Result<MessageQueue, ClientError> {
        let route = self.route(&prepared.topic).await?;
        let queues = route.publish_queues();
        if let Some(queue) = doubtful
            && prepared.numbered
            && queues.contains(queue)
        {
            return Ok(queue.clone());
        }
        let key = || prepared.property(properties::SHARDING_KEY);
        let by_key = match plan.by {
            By::Turn => None,
            By::ShardingKey => key(),
            By::Id => key().or(Some(prepared.msg_id.as_str())),
        };
        let chosen = match by_key {
            Some(key) => hashed(queues, key),
            None => in_turn(queues, &route.turn, tried, self.health.as_ref()),
        };
        chosen.cloned().ok_or_else(|| ClientError::NoWritableQueue {
            topic: prepared.topic.clone(),
        })
    }

    /// What a failure teaches for the next attempt.
    pub(crate) async fn after_failure(&self, error: &ClientError, topic: &str) {
        let code = error.broker_code().and_then(ResponseCode::from_number);
        if let (Some(ResponseCode::GoAway), ClientError::Broker(broker)) = (code, error) {
            self.instance().close_connection(&broker.address);
        }
        let route_is_stale = matches!(
            code,
            Some(ResponseCode::TopicNotExist | ResponseCode::NoPermission | ResponseCode::GoAway)
        );
        if route_is_stale || matches!(error, ClientError::Connect { .. }) {
            // Should the name server not answer in time either, the known route is all we have.
            let refresh = self.instance().refresh_route(topic);
            let _ = tokio::time::timeout(ROUTE_REFRESH_MAX, refresh).await;
        }
    }
}

pub(crate) fn may_retry(error: &ClientError, retry_on: RetryOn) -> bool {
    match (error, retry_on) {
        (_, RetryOn::Nothing) => false,
        (ClientError::Broker(broker), RetryOn::TransportAndCodes) => {
            ResponseCode::from_number(broker.code).is_some_and(ResponseCode::producer_retries)
        }
        (ClientError::UnknownBroker { .. }, _) => true,
        (other, _) => other.is_transport(),
    }
}

pub(crate) fn failed(
    topic: &str,
    mut attempts: Vec<(String, ClientError)>,
    elapsed: Duration,
    timeout: Duration,
) -> ClientError {
    match attempts.len() {
        0 => ClientError::SendTimeout {
            topic: topic.to_owned(),
            timeout,
        },
        1 => attempts.remove(0).1,
        _ => ClientError::SendFailed {
            topic: topic.to_owned(),
            attempts,
            elapsed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_refusals_are_worth_another_attempt() {
        let refusal = |code| {
            ClientError::Broker(crate::error::BrokerError {
                address: "a".into(),
                request: "SEND_MESSAGE_V2",
                code,
                remark: String::new(),
            })
        };
        for code in [17, 14, 1, 2, 16, 204, 205, 1500] {
            assert!(
                may_retry(&refusal(code), RetryOn::TransportAndCodes),
                "{code}"
            );
            assert!(!may_retry(&refusal(code), RetryOn::Transport), "{code}");
        }
        for code in [13, 26, 29, 12345] {
            assert!(
                !may_retry(&refusal(code), RetryOn::TransportAndCodes),
                "{code}"
            );
        }
        let refused = ClientError::Connect {
            address: "a".into(),
            reason: "refused".into(),
        };
        assert!(may_retry(&refused, RetryOn::Transport));
        assert!(!may_retry(&refused, RetryOn::Nothing));
    }
}
