//! Messages that are part of a local transaction: recorded with it in the application's database, sent afterwards until a
//! broker has them.
//!
//! A message is sent if and only if its transaction committed, at least once, in the order of the commits. Recorded
//! messages have their ids and numbers before they are first sent, so that with a broker that deduplicates, or consumers
//! that ask [`ProcessedKeys`](crate::ProcessedKeys), each takes effect once. See docs/once.md.

#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::attempts::{Attempts, By, RetryOn};
use crate::error::ClientError;
use crate::message::Message;
use crate::producer::{Producer, Shared};
use crate::tasks::Tasks;

#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteOutbox;

/// The side of an outbox that is in the application's database. Called on blocking threads, by one [`Outbox`] at a time.
pub trait OutboxStore: Send + Sync + 'static {
    /// Up to `count` messages that wait, the oldest first, none of them before its transaction committed.
    ///
    /// # Errors
    /// Any text; it is logged, and asked again later.
    fn waiting(&self, count: usize) -> Result<Vec<OutboxMessage>, String>;

    /// A broker has this message: it waits no more.
    ///
    /// # Errors
    /// Any text; it is logged, and the message is sent again.
    fn sent(&self, number: i64) -> Result<(), String>;

    /// No broker will take this message: it waits no more and is kept for its operator.
    ///
    /// # Errors
    /// Any text; it is logged, and the message is tried again.
    fn refused(&self, number: i64, reason: &str) -> Result<(), String>;
}

/// A recorded message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxMessage {
    /// Its place in the outbox; ascends in the order of the commits.
    pub number: i64,
    /// The message, with an id (`UNIQ_KEY`) and, to be deduplicated, a producer id and sequence that never change.
    pub message: Message,
}

/// Sends what an outbox records, in the background.
///
/// ```no_run
/// # #[cfg(feature = "sqlite")]
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use agena_client::{Message, Outbox, Producer, SqliteOutbox};
///
/// let producer = Producer::builder("order-service").start().await?;
/// let outbox = Outbox::start(&producer, SqliteOutbox::open("orders.db")?);
///
/// let mut database = rusqlite::Connection::open("orders.db")?;
/// let transaction = database.transaction()?;
/// transaction.execute("INSERT INTO orders VALUES (4711)", [])?;
/// SqliteOutbox::record(&transaction, &Message::new("orders", "4711"))?;
/// transaction.commit()?;
/// outbox.wake();
/// # Ok(())
/// # }
/// ```
///
/// Shut it down before its producer. What is not sent then is sent by the next one.
#[derive(Debug)]
pub struct Outbox {
    relay: Arc<Relay>,
}

struct Relay {
    producer: Arc<Shared>,
    store: Arc<dyn OutboxStore>,
    recorded: Notify,
    tasks: Tasks,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").finish_non_exhaustive()
    }
}

const ROUND_MAX: usize = 64;

/// Who records in another process cannot wake us.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Outbox {
    /// Begins to send, through the connections of `producer` and with its settings.
    #[must_use]
    pub fn start(producer: &Producer, store: impl OutboxStore) -> Self {
        let relay = Arc::new(Relay {
            producer: Arc::clone(producer.shared()),
            store: Arc::new(store),
            recorded: Notify::new(),
            tasks: Tasks::new(),
        });
        let this = Arc::clone(&relay);
        relay.tasks.spawn(async move { this.run().await });
        Self { relay }
    }

    /// A transaction with messages has committed. Without this they are found within a second.
    pub fn wake(&self) {
        self.relay.recorded.notify_one();
    }

    /// Ends after the send that is under way.
    pub async fn shutdown(self) {
        let grace = self.relay.producer.sender.settings().timeout + Duration::from_secs(1);
        self.relay.tasks.stop(grace).await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.relay.tasks.abort();
    }
}

impl Relay {
    async fn run(&self) {
        let mut pause = PAUSE_MIN;
        while !self.tasks.is_stopping() {
            match self.send_round().await {
                Ok(count) if count == ROUND_MAX => pause = PAUSE_MIN,
                Ok(_) => {
                    pause = PAUSE_MIN;
                    tokio::select! {
                        () = self.tasks.stopping() => return,
                        () = self.recorded.notified() => {}
                        () = tokio::time::sleep(LOOK_INTERVAL) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "outbox waits");
                    self.tasks.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Sends up to [`ROUND_MAX`] messages, in order, and says how many there were.
    async fn send_round(&self) -> Result<usize, ClientError> {
        let waiting = self.with_store(|store| store.waiting(ROUND_MAX)).await?;
        let count = waiting.len();
        for OutboxMessage { number, message } in waiting {
            if self.tasks.is_stopping() {
                return Ok(0);
            }
            let topic = message.topic().to_owned();
            match self.send(message).await {
                Ok(()) => self.with_store(move |store| store.sent(number)).await?,
                Err(error) if error.may_pass() || is_ours(&error) => return Err(error),
                Err(error) => {
                    let reason = error.to_string();
                    tracing::error!(topic, number, %reason, "message of the outbox set aside: no broker will take it");
                    self.with_store(move |store| store.refused(number, &reason))
                        .await?;
                }
            }
        }
        Ok(count)
    }

    /// The queue depends on nothing that ends with this process, so that a message whose answer was lost is sent again
    /// where it is known.
    async fn send(&self, message: Message) -> Result<(), ClientError> {
        let sender = &self.producer.sender;
        let prepared = sender.prepare(message).await?;
        let attempts = Attempts {
            timeout: sender.settings().timeout,
            retry_on: RetryOn::TransportAndCodes,
            by: By::Id,
            doubtful: None,
        };
        let sent = sender.attempt_all(&prepared, attempts).await;
        sent.map(drop).map_err(|unsent| unsent.error)
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn OutboxStore) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ClientError> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || work(&*store)).await;
        done.unwrap_or_else(|panic| Err(panic.to_string()))
            .map_err(|reason| ClientError::Outbox { reason })
    }
}

/// The producer is gone: that says nothing of the message.
fn is_ours(error: &ClientError) -> bool {
    matches!(error, ClientError::Stopped)
}
