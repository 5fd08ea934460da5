//! What a producer does when a send fails, by its policy, and what then became of the message.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agena_protocol::queue::MessageQueue;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::attempts::{Attempts, By, RetryOn, Unsent, failed, may_retry};
use crate::error::ClientError;
use crate::message::SendResult;
use crate::send::{Prepared, Sender};
use crate::spool::Spool;
use crate::tasks::Tasks;

/// What [`Producer::deliver`](crate::Producer::deliver) does about failures.
///
/// A failure *may pass* if nobody has to change anything for it to go away ([`ClientError::may_pass`]): brokers or name
/// servers that are away, silent or busy, a topic without a route. All policies give other errors back at once: a message
/// that breaks a rule, one that a broker refuses for good, a producer that was shut down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum FaultPolicy {
    /// Another attempt, with another broker where there is one, [`SendSettings::retries`](crate::SendSettings::retries)
    /// times within the timeout; then the error. The default, and what [`Producer::send`](crate::Producer::send) does.
    #[default]
    Failover,
    /// One attempt. Any failure is given back at once: for messages that are worthless late, or that the caller repeats.
    Failfast,
    /// As `Failover`, but failures that may pass are logged and counted and the message is [`Delivery::Dropped`]: for what
    /// may get lost without disturbing the caller.
    Failsafe,
    /// As `Failover`, but on failures that may pass the message waits in memory and is tried again in the background, in
    /// no particular order. It is lost with the process; a spool keeps it.
    Failback(Failback),
    /// To so many queues at once, on different brokers as far as there are, one attempt each; the first success counts.
    /// Consumers see the message as often as it was stored, under one id. Fails with all causes if every attempt fails.
    Forking(usize),
    /// To every broker that has the topic, one queue each, with the attempts of `Failover` on each of them. Succeeds as
    /// [`Delivery::StoredEverywhere`]; otherwise [`ClientError::BroadcastIncomplete`] tells broker by broker.
    Broadcast,
}

/// How [`FaultPolicy::Failback`] tries again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failback {
    /// Messages that may wait; beyond that [`ClientError::RetriesFull`]. Default: 1000.
    pub waiting_max: usize,
    /// Bytes of messages that may wait. Default: 64 MiB.
    pub bytes_max: usize,
    /// The pause before each further try of all that wait. Default: 1 s.
    pub pause: Duration,
    /// Tries in the background after which a message is given up, logged and counted. Default: 60.
    pub tries_max: u32,
}

impl Default for Failback {
    fn default() -> Self {
        Self {
            waiting_max: 1000,
            bytes_max: 64 << 20,
            pause: Duration::from_secs(1),
            tries_max: 60,
        }
    }
}

/// What became of a message that was given to [`Producer::deliver`](crate::Producer::deliver).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Delivery {
    /// A broker has it.
    Stored(SendResult),
    /// Every broker of the topic has it ([`FaultPolicy::Broadcast`]); one result each, sorted by broker.
    StoredEverywhere(Vec<SendResult>),
    /// Nobody has it, and nobody will try again ([`FaultPolicy::Failsafe`]).
    Dropped(ClientError),
    /// It waits in memory to be tried again ([`FaultPolicy::Failback`]).
    Waiting(ClientError),
    /// It is on this machine's disk and is sent when the brokers are back, behind what came before it.
    Spooled {
        /// The id that consumers will see.
        msg_id: String,
    },
}

impl Delivery {
    /// What the broker answered, if one has the message; of several, the first.
    #[must_use]
    pub fn stored(&self) -> Option<&SendResult> {
        match self {
            Self::Stored(result) => Some(result),
            Self::StoredEverywhere(results) => results.first(),
            Self::Dropped(_) | Self::Waiting(_) | Self::Spooled { .. } => None,
        }
    }

    /// As interceptors and traces see it; `None` while it is not known.
    pub(crate) fn outcome(&self) -> Option<Result<SendResult, ClientError>> {
        match self {
            Self::Stored(_) | Self::StoredEverywhere(_) => self.stored().cloned().map(Ok),
            Self::Dropped(error) | Self::Waiting(error) => Some(Err(error.clone())),
            Self::Spooled { .. } => None,
        }
    }
}

/// Messages that [`FaultPolicy::Failsafe`] and [`FaultPolicy::Failback`] dealt with since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// Dropped by `Failsafe`.
    pub dropped: u64,
    /// Wait in memory now.
    pub waiting: u64,
    /// Sent in the background after all.
    pub sent_late: u64,
    /// Given up: tried too often, refused for good, or still waiting at the end.
    pub given_up: u64,
}

/// A policy at work for one producer.
#[derive(Debug)]
pub(crate) struct Deliverer {
    policy: FaultPolicy,
    spool: Option<Spool>,
    retries: Mutex<Retries>,
    retry_due: Notify,
    dropped: AtomicU64,
    sent_late: AtomicU64,
    given_up: AtomicU64,
}

#[derive(Debug, Default)]
struct Retries {
    waiting: VecDeque<Retry>,
    /// All of them, the one that is being tried included.
    count: usize,
    /// Bytes of all of them.
    bytes: usize,
}

#[derive(Debug)]
struct Retry {
    prepared: Prepared,
    doubtful: Option<MessageQueue>,
    tries: u32,
    /// What it counts for in the bound; its own size changes a little with its number.
    bytes: usize,
}

impl Deliverer {
    pub(crate) fn new(policy: FaultPolicy, spool: Option<Spool>) -> Self {
        Self {
            policy,
            spool,
            retries: Mutex::default(),
            retry_due: Notify::new(),
            dropped: AtomicU64::new(0),
            sent_late: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    pub(crate) fn spool(&self) -> Option<&Spool> {
        self.spool.as_ref()
    }

    pub(crate) fn counts(&self) -> FaultCounts {
        let waiting = self.retries.lock().count;
        FaultCounts {
            dropped: self.dropped.load(Ordering::Relaxed),
            waiting: u64::try_from(waiting).unwrap_or(u64::MAX),
            sent_late: self.sent_late.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }

    pub(crate) async fn deliver(
        &self,
        sender: &Arc<Sender>,
        mut prepared: Prepared,
    ) -> Result<Delivery, ClientError> {
        if let Some(spool) = &self.spool
            && spool.holds(prepared.topic())
        {
            spool.keep(&mut prepared, None).await?;
            return Ok(spooled(&prepared));
        }
        let unsent = match self.try_now(sender, &prepared).await {
            Ok(delivery) => return Ok(delivery),
            Err(unsent) if !unsent.error.may_pass() => return Err(unsent.error),
            Err(unsent) => unsent,
        };
        if let Some(spool) = &self.spool {
            tracing::debug!(topic = prepared.topic(), error = %unsent.error, "message spooled");
            spool.keep(&mut prepared, unsent.doubtful).await?;
            return Ok(spooled(&prepared));
        }
        match &self.policy {
            FaultPolicy::Failsafe => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(topic = prepared.topic(), msg_id = %prepared.msg_id, error = %unsent.error, "message dropped");
                Ok(Delivery::Dropped(unsent.error))
            }
            FaultPolicy::Failback(failback) => self.try_later(failback, prepared, unsent),
            FaultPolicy::Failover
            | FaultPolicy::Failfast
            | FaultPolicy::Forking(_)
            | FaultPolicy::Broadcast => Err(unsent.error),
        }
    }

    async fn try_now(&self, sender: &Arc<Sender>, prepared: &Prepared) -> Result<Delivery, Unsent> {
        let retry_on = match &self.policy {
            FaultPolicy::Forking(count) => {
                let first = fork(sender, prepared, *count).await;
                return first.map(Delivery::Stored);
            }
            FaultPolicy::Broadcast => {
                let all = broadcast(sender, prepared).await?;
                return Ok(Delivery::StoredEverywhere(all));
            }
            FaultPolicy::Failfast => RetryOn::Nothing,
            FaultPolicy::Failover | FaultPolicy::Failsafe | FaultPolicy::Failback(_) => {
                RetryOn::TransportAndCodes
            }
        };
        let attempts = attempts(sender, retry_on, None);
        let sent = sender.attempt_all(prepared, attempts).await;
        sent.map(Delivery::Stored)
    }

    fn try_later(
        &self,
        failback: &Failback,
        mut prepared: Prepared,
        unsent: Unsent,
    ) -> Result<Delivery, ClientError> {
        prepared.set_waiting(unsent.doubtful.is_some());
        let mut retries = self.retries.lock();
        let waiting = retries.count;
        let bytes = prepared.bytes();
        let all_bytes = retries.bytes.saturating_add(bytes);
        if waiting >= failback.waiting_max || all_bytes > failback.bytes_max {
            return Err(ClientError::RetriesFull {
                waiting,
                limit: failback.waiting_max,
                cause: Box::new(unsent.error),
            });
        }
        retries.bytes = all_bytes;
        retries.count += 1;
        retries.waiting.push_back(Retry {
            prepared,
            doubtful: unsent.doubtful,
            tries: 0,
            bytes,
        });
        drop(retries);
        self.retry_due.notify_one();
        Ok(Delivery::Waiting(unsent.error))
    }

    /// Tries what waits again and again, until the producer stops.
    pub(crate) async fn keep_retrying(&self, sender: &Sender, tasks: &Tasks) {
        let FaultPolicy::Failback(failback) = &self.policy else {
            return;
        };
        while !tasks.is_stopping() {
            let waiting = self.retries.lock().waiting.len();
            if waiting == 0 {
                tokio::select! {
                    () = tasks.stopping() => break,
                    () = self.retry_due.notified() => continue,
                }
            }
            if !tasks.sleep(failback.pause).await {
                break;
            }
            for _ in 0..waiting {
                if tasks.is_stopping() {
                    break;
                }
                self.try_first(failback, sender).await;
            }
        }
        let lost = self.retries.lock().waiting.len();
        if lost > 0 {
            tracing::error!(
                group = sender.group(),
                lost,
                "messages still waited to be sent at the end and are lost"
            );
            let lost = u64::try_from(lost).unwrap_or(u64::MAX);
            self.given_up.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// Tries the message that waits longest once more. It keeps its place in the bounds meanwhile.
    async fn try_first(&self, failback: &Failback, sender: &Sender) {
        let Some(mut retry) = self.retries.lock().waiting.pop_front() else {
            return;
        };
        sender.number(&mut retry.prepared).await;
        let plan = attempts(sender, RetryOn::Nothing, retry.doubtful.clone());
        let sent = sender.attempt_all(&retry.prepared, plan).await;
        retry.tries += 1;
        let over = match sent {
            Ok(_) => {
                self.sent_late.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(unsent) => {
                let error = unsent.error;
                retry.doubtful = unsent.doubtful;
                retry.prepared.set_waiting(retry.doubtful.is_some());
                let over = !error.may_pass() || retry.tries >= failback.tries_max;
                if over {
                    self.given_up.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(topic = retry.prepared.topic(), msg_id = %retry.prepared.msg_id, tries = retry.tries, %error, "message given up");
                }
                over
            }
        };
        let mut retries = self.retries.lock();
        if over {
            retries.count -= 1;
            retries.bytes = retries.bytes.saturating_sub(retry.bytes);
        } else {
            retries.waiting.push_back(retry);
        }
    }
}

fn spooled(prepared: &Prepared) -> Delivery {
    Delivery::Spooled {
        msg_id: prepared.msg_id.clone(),
    }
}

fn attempts(sender: &Sender, retry_on: RetryOn, doubtful: Option<MessageQueue>) -> Attempts {
    Attempts {
        timeout: sender.settings().timeout,
        retry_on,
        by: By::ShardingKey,
        doubtful,
    }
}

/// Sends to several queues side by side. The first success is the outcome; the others are not waited for.
async fn fork(
    sender: &Arc<Sender>,
    prepared: &Prepared,
    count: usize,
) -> Result<SendResult, Unsent> {
    let began = Instant::now();
    let timeout = sender.settings().timeout;
    let route = sender.route(prepared.topic()).await?;
    let start = route.turn.fetch_add(1, Ordering::Relaxed);
    let mut sends = JoinSet::new();
    for queue in forks(route.publish_queues(), start, count) {
        let (sender, prepared) = (Arc::clone(sender), prepared.clone());
        sends.spawn(async move {
            let sent = sender.send_to(&prepared, &queue, timeout).await;
            (queue, sent)
        });
    }
    let mut failures = Vec::new();
    let mut doubtful = None;
    while let Some(joined) = sends.join_next().await {
        match joined {
            Ok((_, Ok(result))) => return Ok(result),
            Ok((queue, Err(error))) => {
                sender.after_failure(&error, prepared.topic()).await;
                if error.leaves_doubt() {
                    doubtful = Some(queue.clone());
                }
                failures.push((queue.broker_name, error));
            }
            Err(panic) => tracing::error!(%panic, "a send ended early"),
        }
    }
    let error = failed(prepared.topic(), failures, began.elapsed(), timeout);
    Err(Unsent { error, doubtful })
}

/// Queues on different brokers as far as there are, from `start` on.
fn forks(queues: &[MessageQueue], start: usize, count: usize) -> Vec<MessageQueue> {
    let from = start.checked_rem(queues.len()).unwrap_or(0);
    let turned = || queues[from..].iter().chain(&queues[..from]);
    let mut brokers = HashSet::new();
    let (firsts, others): (Vec<_>, Vec<_>) =
        turned().partition(|queue| brokers.insert(queue.broker_name.as_str()));
    let chosen = firsts.into_iter().chain(others);
    chosen.take(count.max(1)).cloned().collect()
}

async fn broadcast(
    sender: &Arc<Sender>,
    prepared: &Prepared,
) -> Result<Vec<SendResult>, ClientError> {
    let route = sender.route(prepared.topic()).await?;
    let turn = route.turn.fetch_add(1, Ordering::Relaxed);
    let mut brokers: BTreeMap<&str, Vec<&MessageQueue>> = BTreeMap::new();
    for queue in route.publish_queues() {
        brokers.entry(&queue.broker_name).or_default().push(queue);
    }
    let mut sends = JoinSet::new();
    for queues in brokers.values() {
        let queue = queues[turn % queues.len()].clone();
        let (sender, prepared) = (Arc::clone(sender), prepared.clone());
        sends.spawn(async move {
            let sent = send_to_one(&sender, &prepared, &queue).await;
            (queue.broker_name, sent)
        });
    }
    let (mut stored, mut failures) = (Vec::new(), Vec::new());
    while let Some(joined) = sends.join_next().await {
        match joined {
            Ok((_, Ok(result))) => stored.push(result),
            Ok((broker, Err(error))) => failures.push((broker, error)),
            Err(panic) => failures.push((panic.to_string(), ClientError::Stopped)),
        }
    }
    if failures.is_empty() {
        stored.sort_by(|a, b| a.queue.broker_name.cmp(&b.queue.broker_name));
        return Ok(stored);
    }
    Err(ClientError::BroadcastIncomplete {
        topic: prepared.topic().to_owned(),
        stored,
        failed: failures,
    })
}

const SAME_BROKER_PAUSE: Duration = Duration::from_millis(100);

/// The attempts of `Failover`, all of them with one queue.
async fn send_to_one(
    sender: &Sender,
    prepared: &Prepared,
    queue: &MessageQueue,
) -> Result<SendResult, ClientError> {
    let deadline = Instant::now() + sender.settings().timeout;
    let mut retries = sender.settings().retries;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match sender.send_to(prepared, queue, left).await {
            Ok(result) => return Ok(result),
            Err(error) => {
                sender.after_failure(&error, prepared.topic()).await;
                let again = retries > 0
                    && may_retry(&error, RetryOn::TransportAndCodes)
                    && Instant::now() + SAME_BROKER_PAUSE < deadline;
                if !again {
                    return Err(error);
                }
                retries -= 1;
                tokio::time::sleep(SAME_BROKER_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_take_different_brokers_first() {
        let queue = |broker: &str, id: i32| MessageQueue::new("T", broker, id);
        let queues = [queue("a", 0), queue("a", 1), queue("b", 0), queue("b", 1)];
        assert_eq!(forks(&queues, 0, 2), [queue("a", 0), queue("b", 0)]);
        assert_eq!(forks(&queues, 3, 2), [queue("b", 1), queue("a", 0)]);
        assert_eq!(
            forks(&queues, 1, 3),
            [queue("a", 1), queue("b", 0), queue("b", 1)]
        );
        assert_eq!(forks(&queues, 0, 9).len(), 4);
        assert_eq!(forks(&queues, 0, 0).len(), 1);
        assert!(forks(&[], 5, 2).is_empty());
    }
}
