//! Messages that become visible together with a local transaction, or not at all.
//!
//! The message is first stored as a half message, which nobody sees; then the local transaction runs; then the broker is
//! told to commit the message or to roll it back. If it is not told, because the outcome is unknown or the producer died,
//! it asks any producer of the group. Apache: `TransactionMQProducer`; spec/semantics.md §6.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::command::Command;
use agena_protocol::headers::transaction::{CheckTransactionStateRequest, EndTransactionRequest};
use agena_protocol::message_id::OffsetId;
use agena_protocol::properties;
use agena_protocol::request_code::RequestCode;
use agena_protocol::sys_flag::TransactionState;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::attempts::RetryOn;
use crate::error::ClientError;
use crate::instance::{BoxFuture, Instance, TransactionCheck, bad_answer};
use crate::message::{Message, ReceivedMessage, SendResult, SendStatus};
use crate::producer::Producer;
use crate::send::Sender;
use crate::tasks::catch_panic;

/// What is known of a local transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// It happened: consumers get the message.
    Commit,
    /// It did not and will not happen: nobody gets the message.
    Rollback,
    /// Not known yet. The broker asks again, after 6 s at the earliest and 15 times by default.
    Unknown,
}

impl Resolution {
    fn wire(self) -> i32 {
        match self {
            Self::Commit => TransactionState::Commit.bits(),
            Self::Rollback => TransactionState::Rollback.bits(),
            Self::Unknown => 0,
        }
    }
}

/// The application's side of transactions.
///
/// ```
/// use agena_client::{Message, ReceivedMessage, Resolution, TransactionListener};
///
/// struct Orders;
///
/// impl TransactionListener for Orders {
///     async fn execute(&self, message: &Message, transaction_id: &str) -> Resolution {
///         // Write the order and `transaction_id` in one transaction of the database.
///         Resolution::Commit
///     }
///
///     async fn check(&self, message: &ReceivedMessage) -> Resolution {
///         // Look the id up, `message.msg_id()`: if it is there, the transaction happened.
///         Resolution::Unknown
///     }
/// }
/// ```
pub trait TransactionListener: Send + Sync + 'static {
    /// Runs the local transaction of a message that is stored as a half message. A panic counts as unknown.
    fn execute(
        &self,
        message: &Message,
        transaction_id: &str,
    ) -> impl Future<Output = Resolution> + Send;

    /// Tells what became of a local transaction that this process or another one of the group has begun. A panic counts
    /// as unknown, and so does a check that takes longer than [`ProducerBuilder::check_timeout`], whose future is
    /// dropped. Up to 64 run at once, and one for each transaction.
    ///
    /// [`ProducerBuilder::check_timeout`]: crate::ProducerBuilder::check_timeout
    fn check(&self, message: &ReceivedMessage) -> impl Future<Output = Resolution> + Send;
}

/// [`TransactionListener`] as an object.
trait Listener: Send + Sync {
    fn execute<'a>(
        &'a self,
        message: &'a Message,
        transaction_id: &'a str,
    ) -> BoxFuture<'a, Resolution>;
    fn check<'a>(&'a self, message: &'a ReceivedMessage) -> BoxFuture<'a, Resolution>;
}

impl<L: TransactionListener> Listener for L {
    fn execute<'a>(
        &'a self,
        message: &'a Message,
        transaction_id: &'a str,
    ) -> BoxFuture<'a, Resolution> {
        Box::pin(TransactionListener::execute(self, message, transaction_id))
    }

    fn check<'a>(&'a self, message: &'a ReceivedMessage) -> BoxFuture<'a, Resolution> {
        Box::pin(TransactionListener::check(self, message))
    }
}

/// Checks that run at once.
const RUNNING_MAX: usize = 64;

/// Checks that run or wait; the original has 2,000 wait. Those beyond are not answered, which a broker counts as much as an
/// answer: enough of that, and the transaction is parked. So a burst of checks after an outage has to find room.
const CHECKS_MAX: usize = RUNNING_MAX + 2_000;

/// A producer's transactions: who decides them, and the checks that are under way.
#[derive(Clone)]
pub(crate) struct Transactions {
    listener: Arc<dyn Listener>,
    check_timeout: Duration,
    running: Arc<Semaphore>,
    /// By transaction, the last time a broker asked.
    asked: Arc<Mutex<HashMap<Asked, TransactionCheck>>>,
}

/// Which half message a check is about.
///
/// Its place changes, since brokers append it anew for each check; its broker, its id and when it was sent do not. The id
/// alone is not enough: halves of a send that was repeated share it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Asked {
    address: String,
    msg_id: String,
    born_timestamp: i64,
}

impl std::fmt::Debug for Transactions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transactions").finish_non_exhaustive()
    }
}

impl Transactions {
    pub(crate) fn of(listener: impl TransactionListener, check_timeout: Duration) -> Self {
        Self {
            listener: Arc::new(listener),
            check_timeout,
            running: Arc::new(Semaphore::new(RUNNING_MAX)),
            asked: Arc::default(),
        }
    }

    /// Takes a check of the broker, to be [answered](Self::answer). `None` if there is no room, or if one of the same
    /// transaction is under way already: its answer goes to the latest place that was asked about.
    pub(crate) fn admit(&self, check: TransactionCheck) -> Option<Asked> {
        let transaction = Asked {
            address: check.address.clone(),
            msg_id: check.message.msg_id(),
            born_timestamp: check.message.born_timestamp,
        };
        let mut asked = self.asked.lock();
        if let Some(earlier) = asked.get_mut(&transaction) {
            *earlier = check;
            return None;
        }
        if asked.len() >= CHECKS_MAX {
            tracing::warn!(
                broker = %transaction.address, msg_id = %transaction.msg_id,
                "{CHECKS_MAX} transaction checks wait already, one is left unanswered"
            );
            return None;
        }
        asked.insert(transaction.clone(), check);
        Some(transaction)
    }

    /// Runs an admitted check when its turn comes, and tells the broker.
    pub(crate) async fn answer(&self, sender: &Sender, transaction: Asked) {
        let Ok(running) = self.running.acquire().await else {
            return;
        };
        let message = match self.asked.lock().get(&transaction) {
            Some(check) => check.message.clone(),
            None => return,
        };
        let decided = catch_panic(|| self.listener.check(&message));
        let resolution = match tokio::time::timeout(self.check_timeout, decided).await {
            Ok(decided) => decided.unwrap_or(Resolution::Unknown),
            Err(_) => {
                tracing::warn!(
                    group = sender.group(), msg_id = %transaction.msg_id, timeout = ?self.check_timeout,
                    "transaction check not decided in time, it counts as unknown"
                );
                Resolution::Unknown
            }
        };
        drop(running);
        let Some(latest) = self.asked.lock().remove(&transaction) else {
            return;
        };
        if let Err(error) = tell(sender, &latest, resolution).await {
            tracing::warn!(group = sender.group(), %error, "transaction check not answered, the broker will ask again");
        }
    }
}

/// Answers a check.
async fn tell(
    sender: &Sender,
    check: &TransactionCheck,
    resolution: Resolution,
) -> Result<(), ClientError> {
    let code = RequestCode::CheckTransactionState;
    let asked: CheckTransactionStateRequest<'_> = check
        .request
        .header()
        .map_err(|error| bad_answer(&check.address, code, &error))?;
    let msg_id = check.message.msg_id();
    let end = EndTransactionRequest {
        topic: Some(&check.message.topic),
        producer_group: sender.group(),
        // The broker appends the half message anew for each check: these name the copy that it asks about.
        tran_state_table_offset: asked.tran_state_table_offset,
        commit_log_offset: asked.commit_log_offset,
        commit_or_rollback: resolution.wire(),
        from_transaction_check: Some(true),
        msg_id: asked.msg_id.unwrap_or(&msg_id),
        transaction_id: asked.transaction_id,
        bname: asked.bname,
    };
    end_transaction(sender.instance(), &check.address, &end).await
}

/// Sends messages whose visibility depends on local transactions.
///
/// Made by [`ProducerBuilder::start_transactional`](crate::ProducerBuilder::start_transactional).
///
/// ```no_run
/// # use agena_client::{ClientError, Message, Producer, ReceivedMessage, Resolution, TransactionListener};
/// # struct Orders;
/// # impl TransactionListener for Orders {
/// #     async fn execute(&self, _: &Message, _: &str) -> Resolution { Resolution::Commit }
/// #     async fn check(&self, _: &ReceivedMessage) -> Resolution { Resolution::Unknown }
/// # }
/// # async fn example() -> Result<(), ClientError> {
/// let producer = Producer::builder("order-transactions")
///     // Brokers of these topics can ask this process about transactions of one that died.
///     .topics(["orders"])
///     .start_transactional(Orders)
///     .await?;
/// let sent = producer.send(Message::new("orders", "3 pencils")).await?;
/// assert_eq!(sent.resolution, Resolution::Commit);
/// producer.shutdown().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TransactionProducer {
    producer: Producer,
    transactions: Transactions,
}

/// What became of a message that was sent in a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionResult {
    /// Where the half message is.
    pub half: SendResult,
    /// What the broker was told. [`Resolution::Rollback`] without [`TransactionListener::execute`] having run if the half
    /// message was not stored as promised.
    pub resolution: Resolution,
}

impl TransactionProducer {
    pub(crate) fn new(producer: Producer, transactions: Transactions) -> Self {
        Self {
            producer,
            transactions,
        }
    }

    /// For messages without a transaction.
    #[must_use]
    pub fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Stores the half message, runs the local transaction, and tells the broker of its outcome.
    ///
    /// # Errors
    /// As [`Producer::send`], before the local transaction has run. A half message that was stored although its answer
    /// got lost is checked by the broker.
    pub async fn send(&self, mut message: Message) -> Result<TransactionResult, ClientError> {
        let (shared, sender) = (self.producer.shared(), self.producer.sender());
        // In front of the rest: the listener sees the message that is sent, and nobody takes away what makes it a half.
        shared.intercept(&mut message);
        let mut message = message
            .with_property(properties::TRAN_MSG, "true")
            .with_property(properties::PGROUP, sender.group());
        // A half message cannot be delayed: it waits for its transaction.
        message.properties.remove(properties::DELAY);
        // The id is given here so that the listener sees it.
        if message.property(properties::UNIQ_KEY).is_none() {
            let id = sender.instance().unique_id();
            message = message.with_property(properties::UNIQ_KEY, id);
        }
        let begin = Instant::now();
        let (observation, prepared) = shared.observe_intercepted(message.clone()).await?;
        let prepared = prepared.into_half_message();
        let left = sender.settings().timeout.saturating_sub(begin.elapsed());
        let half = sender
            .send(&prepared, left, RetryOn::TransportAndCodes)
            .await;
        shared.observed_as(observation, &half);
        let half = half?;
        // Its number is not under way any more: the local transaction may take its time, and send messages itself.
        drop(prepared);
        let transaction_id = half.transaction_id.as_deref().unwrap_or(&half.msg_id);
        let resolution = if half.status == SendStatus::Ok {
            let listener = &self.transactions.listener;
            catch_panic(|| listener.execute(&message, transaction_id))
                .await
                .unwrap_or(Resolution::Unknown)
        } else {
            // It could get lost: the local transaction must not happen without its message.
            Resolution::Rollback
        };
        if let Err(error) = resolve(sender, &message, &half, resolution).await {
            tracing::warn!(
                group = sender.group(), msg_id = %half.msg_id, %error,
                "outcome of a transaction not told, the broker will ask for it"
            );
        }
        Ok(TransactionResult { half, resolution })
    }

    /// As [`Producer::shutdown`]. Transactions that are still unknown are asked about elsewhere or later.
    pub async fn shutdown(self) {
        self.producer.shutdown().await;
    }
}

async fn resolve(
    sender: &Sender,
    message: &Message,
    half: &SendResult,
    resolution: Resolution,
) -> Result<(), ClientError> {
    let broker = &half.queue.broker_name;
    let address = sender.instance().routes().master(broker)?;
    let code = RequestCode::SendMessageV2;
    let place = OffsetId::parse(&half.offset_msg_id)
        .ok_or_else(|| bad_answer(&address, code, &"the offset id does not parse"))?;
    let end = EndTransactionRequest {
        topic: Some(message.topic()),
        producer_group: sender.group(),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: place.offset.wire(),
        commit_or_rollback: resolution.wire(),
        from_transaction_check: Some(false),
        msg_id: &half.msg_id,
        transaction_id: half.transaction_id.as_deref(),
        bname: Some(broker),
    };
    end_transaction(sender.instance(), &address, &end).await
}

/// One way, as in the original: what gets lost is asked about.
async fn end_transaction(
    instance: &Instance,
    address: &str,
    end: &EndTransactionRequest<'_>,
) -> Result<(), ClientError> {
    let request = Command::request(RequestCode::EndTransaction).with_header(end);
    instance.one_way(address, request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolutions_have_the_original_s_numbers() {
        assert_eq!(Resolution::Commit.wire(), 8);
        assert_eq!(Resolution::Rollback.wire(), 12);
        assert_eq!(Resolution::Unknown.wire(), 0);
    }
}
