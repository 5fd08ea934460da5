//! Messages that are part of a local transaction: recorded with it in the application's database, sent afterwards until a
//! broker has them.
//!
//! A message is sent if and only if its transaction committed, at least once, within a topic in the order of the commits. Recorded
//! messages have their ids and numbers before they are first sent, so that with a broker that deduplicates, or consumers
//! that ask [`ProcessedKeys`](crate::ProcessedKeys), each takes effect once. See docs/once.md.

#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::MessageQueue;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::attempts::{Attempts, By, RetryOn, Unsent};
use crate::error::ClientError;
use crate::message::{Message, SendResult, SendStatus};
use crate::producer::{Producer, Shared};
use crate::tasks::Tasks;

#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteOutbox;

/// The side of an outbox that is in the application's database. Called on blocking threads, by one [`Outbox`] at a time.
pub trait OutboxStore: Send + Sync + 'static {
    /// Up to `count` messages that wait, the oldest first, none of them before its transaction committed, and none of the
    /// topics `without`, which cannot be sent to now.
    ///
    /// # Errors
    /// Any text; it is logged, and asked again later.
    fn waiting(&self, count: usize, without: &[String]) -> Result<Vec<OutboxMessage>, String>;

    /// A broker has this message: it waits no more.
    ///
    /// # Errors
    /// Any text; it is logged, and this is called again until it succeeds. Until then nothing is sent.
    fn sent(&self, number: i64) -> Result<(), String>;

    /// No broker will take this message: it waits no more and is kept for its operator.
    ///
    /// # Errors
    /// As [`OutboxStore::sent`].
    fn refused(&self, number: i64, reason: &str) -> Result<(), String>;

    /// How many messages there are.
    ///
    /// # Errors
    /// Any text.
    fn status(&self) -> Result<OutboxStatus, String>;
}

/// What an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Messages that wait to be sent. One that stays high is a topic or broker that cannot be sent to.
    pub waiting: u64,
    /// Messages that no broker will take.
    pub refused: u64,
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

/// The most topics that are held back one by one; with more of them everything waits.
const HELD_MAX: usize = 1_000;

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

    /// How many messages wait, and how many were set aside.
    ///
    /// # Errors
    /// [`ClientError::Outbox`].
    pub async fn status(&self) -> Result<OutboxStatus, ClientError> {
        self.relay.with_store(|store| store.status()).await
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

/// What the relay knows beyond its store, and forgets with the process.
#[derive(Default)]
struct Memory {
    /// What became of a message, if it could not be noted yet. Nothing is sent before that: the message would be sent again.
    due: Option<Note>,
    held: HashMap<String, Held>,
    /// Brokers that were seen to store again what they have.
    forgetful: BTreeSet<String>,
}

#[derive(Clone)]
enum Note {
    Sent(i64),
    Refused(i64, String),
}

/// A topic whose oldest message could not be sent. Those behind it wait too, or they would not be in order.
struct Held {
    until: Instant,
    pause: Duration,
    /// Which message it is. Should somebody take it away, what is known of it says nothing of the next.
    number: i64,
    /// Where that message may be already: it is tried there again, as long as the route has the queue.
    doubtful: Option<MessageQueue>,
    /// Its broker and place, if it was stored without all that the broker promises.
    unconfirmed: Option<(String, String)>,
}

impl Memory {
    /// When the next topic may be tried again.
    fn next_try(&self, now: Instant) -> Option<Instant> {
        let times = self.held.values().map(|held| held.until);
        times.filter(|until| *until > now).min()
    }

    fn topics_held(&self, now: Instant) -> Vec<String> {
        let held = self.held.iter().filter(|(_, held)| held.until > now);
        held.map(|(topic, _)| topic.clone()).collect()
    }

    /// What an earlier try of this message taught.
    fn earlier(&self, topic: &str, number: i64) -> Option<&Held> {
        self.held.get(topic).filter(|held| held.number == number)
    }

    fn hold(
        &mut self,
        topic: &str,
        number: i64,
        doubtful: Option<MessageQueue>,
        unconfirmed: Option<(String, String)>,
    ) {
        let pause = match self.held.get(topic) {
            Some(held) => (held.pause * 2).min(PAUSE_MAX),
            None => PAUSE_MIN,
        };
        let held = Held {
            until: Instant::now() + pause,
            pause,
            number,
            doubtful,
            unconfirmed,
        };
        self.held.insert(topic.to_owned(), held);
    }

    /// Whether the answer settles the matter. Else the broker has the message without having flushed or replicated it in
    /// time, and it is sent again: a broker that deduplicates answers from the same place until it is safe. One that
    /// stores it another time will always do so: its word counts as it is, or there would be no end of copies.
    fn is_settled(&mut self, topic: &str, number: i64, result: &SendResult) -> bool {
        let broker = &result.queue.broker_name;
        if result.status == SendStatus::Ok || self.forgetful.contains(broker) {
            return true;
        }
        let earlier = self.earlier(topic, number);
        let earlier = earlier.and_then(|it| it.unconfirmed.as_ref());
        let is_copy =
            earlier.is_some_and(|(there, place)| there == broker && *place != result.offset_msg_id);
        if is_copy {
            tracing::warn!(broker, status = ?result.status, "this broker does not deduplicate: its unconfirmed answers count as sent");
            self.forgetful.insert(broker.clone());
        }
        is_copy
    }
}

impl Relay {
    async fn run(&self) {
        let mut memory = Memory::default();
        let mut pause = PAUSE_MIN;
        while !self.tasks.is_stopping() {
            match self.send_round(&mut memory).await {
                Ok(count) if count == ROUND_MAX => pause = PAUSE_MIN,
                Ok(_) => {
                    pause = PAUSE_MIN;
                    let look = Instant::now() + LOOK_INTERVAL;
                    let next_try = memory.next_try(Instant::now()).unwrap_or(look);
                    tokio::select! {
                        () = self.tasks.stopping() => {}
                        () = self.recorded.notified() => {}
                        () = tokio::time::sleep_until(look.min(next_try)) => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "outbox waits");
                    self.tasks.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
        // Once more: what is not noted now, the next process sends again.
        if let Err(error) = self.note(&mut memory).await {
            tracing::warn!(%error, "what became of a message of the outbox is not noted");
        }
    }

    /// Sends up to [`ROUND_MAX`] messages, in order, and says how many there were.
    async fn send_round(&self, memory: &mut Memory) -> Result<usize, ClientError> {
        self.note(memory).await?;
        let held = memory.topics_held(Instant::now());
        if held.len() >= HELD_MAX {
            return Ok(0);
        }
        let skipped: BTreeSet<String> = held.iter().cloned().collect();
        let waiting = self
            .with_store(move |store| store.waiting(ROUND_MAX, &held))
            .await?;
        let count = waiting.len();
        if count < ROUND_MAX {
            // All there is: what was held back and is not in it any more was taken away by somebody.
            memory.held.retain(|topic, _| {
                skipped.contains(topic) || waiting.iter().any(|it| it.message.topic == *topic)
            });
        }
        let mut failed: BTreeSet<String> = BTreeSet::new();
        for OutboxMessage { number, message } in waiting {
            if self.tasks.is_stopping() {
                return Ok(0);
            }
            let topic = message.topic().to_owned();
            if failed.contains(&topic) {
                continue;
            }
            let earlier = memory.earlier(&topic, number);
            let doubtful = earlier.and_then(|it| it.doubtful.clone());
            match self.send(message, doubtful).await {
                Ok(result) if !memory.is_settled(&topic, number, &result) => {
                    tracing::warn!(topic, number, status = ?result.status, "message of the outbox is stored but not safe yet");
                    let place = (result.queue.broker_name.clone(), result.offset_msg_id);
                    memory.hold(&topic, number, Some(result.queue), Some(place));
                    failed.insert(topic);
                    continue;
                }
                Ok(_) => memory.due = Some(Note::Sent(number)),
                // The producer is gone: that says nothing of the message.
                Err(unsent) if matches!(unsent.error, ClientError::Stopped) => {
                    return Err(unsent.error);
                }
                Err(Unsent { error, doubtful }) if error.may_pass() || error.leaves_doubt() => {
                    if !memory.held.contains_key(&topic) {
                        tracing::warn!(topic, number, %error, "messages of this topic wait in the outbox");
                    }
                    let earlier = memory.earlier(&topic, number);
                    let unconfirmed = earlier.and_then(|it| it.unconfirmed.clone());
                    memory.hold(&topic, number, doubtful, unconfirmed);
                    failed.insert(topic);
                    continue;
                }
                Err(Unsent { error, .. }) => {
                    tracing::error!(topic, number, %error, "message of the outbox set aside: no broker will take it");
                    memory.due = Some(Note::Refused(number, error.to_string()));
                }
            }
            memory.held.remove(&topic);
            self.note(memory).await?;
        }
        Ok(count)
    }

    /// Tells the store what became of the last message.
    async fn note(&self, memory: &mut Memory) -> Result<(), ClientError> {
        let Some(note) = memory.due.clone() else {
            return Ok(());
        };
        self.with_store(move |store| match note {
            Note::Sent(number) => store.sent(number),
            Note::Refused(number, reason) => store.refused(number, &reason),
        })
        .await?;
        memory.due = None;
        Ok(())
    }

    /// The queue depends on nothing that ends with this process, so that a message whose answer was lost is sent again
    /// where it is known.
    async fn send(
        &self,
        message: Message,
        doubtful: Option<MessageQueue>,
    ) -> Result<SendResult, Unsent> {
        let sender = &self.producer.sender;
        let (observation, prepared) = self.producer.observe(message).await?;
        let attempts = Attempts {
            timeout: sender.settings().timeout,
            retry_on: RetryOn::TransportAndCodes,
            by: By::Id,
            doubtful,
        };
        let sent = sender.attempt_all(&prepared, attempts).await;
        let result = match &sent {
            Ok(result) => Ok(result.clone()),
            Err(unsent) => Err(unsent.error.clone()),
        };
        self.producer.observed_as(observation, &result);
        sent
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_place_is_a_copy_only_of_the_same_message() {
        let unconfirmed = |place: &str| SendResult {
            status: SendStatus::FlushDiskTimeout,
            msg_id: String::new(),
            offset_msg_id: place.to_owned(),
            queue: MessageQueue::new("T", "a", 0),
            queue_offset: 0,
            transaction_id: None,
            recall_handle: None,
            region: String::new(),
            trace_on: true,
        };
        let mut memory = Memory::default();
        assert!(!memory.is_settled("T", 1, &unconfirmed("here")));
        memory.hold("T", 1, None, Some(("a".to_owned(), "here".to_owned())));
        assert!(!memory.is_settled("T", 1, &unconfirmed("here")));
        assert!(!memory.is_settled("T", 2, &unconfirmed("there")));
        assert!(memory.is_settled("T", 1, &unconfirmed("there")));
        assert!(memory.is_settled("T", 3, &unconfirmed("anywhere")));
    }
}
