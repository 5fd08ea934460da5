//! Messages that a producer takes while its brokers are away, kept in a file and sent in order when they are back.
//!
//! While a topic has messages here, new ones of that topic go behind them, so that neither a topic nor a key in it is sent
//! out of order. Topics do not wait for each other.

mod file;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::MessageQueue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use self::file::{SpoolFile, Spooled};
use crate::attempts::{Attempts, By, RetryOn};
use crate::error::ClientError;
use crate::producer_id::Pair;
use crate::send::{Prepared, Sender};
use crate::tasks::Tasks;

/// Where a producer keeps messages while its brokers are away.
///
/// A message is on the device when [`Producer::deliver`](crate::Producer::deliver) answers
/// [`Delivery::Spooled`](crate::Delivery::Spooled); it survives the end of the process and is sent by the next producer
/// that is given the same file. It is sent twice only if its answer, or the note of it, was lost; with
/// [`SendSettings::deduplicate`](crate::SendSettings::deduplicate) and a broker that deduplicates, not even then.
#[derive(Debug, Clone)]
pub struct SpoolSettings {
    /// The file. `<file>.lock` beside it keeps a second owner out, `<file>.refused` has messages that no broker will take.
    pub path: PathBuf,
    /// What the file may hold; beyond that a message is refused with [`ClientError::SpoolFull`]. Default: 64 MiB.
    pub bytes_max: u64,
}

impl SpoolSettings {
    /// In this file, whose directory is made if needed.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            bytes_max: 64 << 20,
        }
    }
}

/// What a spool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Messages that wait to be sent.
    pub waiting: usize,
    /// Bytes of the file.
    pub bytes: u64,
}

/// The spool of one producer.
#[derive(Debug)]
pub(crate) struct Spool {
    settings: SpoolSettings,
    /// Locked on blocking threads, for as long as a sync takes.
    file: Arc<Mutex<SpoolFile>>,
    /// How many messages each topic has here, those on their way into the file included. Locked for moments.
    topics: Arc<Mutex<BTreeMap<String, usize>>>,
    arrived: Arc<Notify>,
}

/// Messages that are looked up at once.
const ROUND_MAX: usize = 256;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Spool {
    pub(crate) async fn open(settings: SpoolSettings) -> Result<Self, ClientError> {
        let (path, bytes_max) = (settings.path.clone(), settings.bytes_max);
        let file = blocking(&settings, move || SpoolFile::open(&path, bytes_max)).await?;
        let topics = file.topics();
        let (waiting, bytes) = file.size();
        if waiting > 0 {
            tracing::info!(spool = %settings.path.display(), waiting, bytes, "messages of an earlier run wait to be sent");
        }
        Ok(Self {
            settings,
            file: Arc::new(Mutex::new(file)),
            topics: Arc::new(Mutex::new(topics)),
            arrived: Arc::new(Notify::new()),
        })
    }

    /// Something of this topic waits, so new messages have to go behind it.
    pub(crate) fn holds(&self, topic: &str) -> bool {
        self.topics.lock().contains_key(topic)
    }

    pub(crate) async fn status(&self) -> Result<SpoolStatus, ClientError> {
        let file = Arc::clone(&self.file);
        let (waiting, bytes) = blocking(&self.settings, move || Ok(file.lock().size())).await?;
        Ok(SpoolStatus { waiting, bytes })
    }

    /// Takes a message. It is on the device when this returns.
    pub(crate) async fn keep(
        &self,
        prepared: &mut Prepared,
        doubtful: Option<MessageQueue>,
    ) -> Result<(), ClientError> {
        prepared.set_waiting(doubtful.is_some());
        let kept = prepared.to_kept();
        let topic = kept.topic.clone();
        // Counted first: whoever comes after this message goes behind it.
        *self.topics.lock().entry(topic.clone()).or_default() += 1;
        let (file, topics) = (Arc::clone(&self.file), Arc::clone(&self.topics));
        let arrived = Arc::clone(&self.arrived);
        // All of it there, since the caller may stop to wait.
        let taken = blocking(&self.settings, move || {
            let taken = file.lock().append(kept, doubtful.as_ref());
            if taken.is_err() {
                count_down(&topics, &topic);
            }
            arrived.notify_one();
            taken
        });
        taken.await.map(drop)
    }

    /// Sends what is here and what comes, until the producer stops.
    pub(crate) async fn drain(&self, sender: &Sender, tasks: &Tasks) {
        let mut pause = PAUSE_MIN;
        while !tasks.is_stopping() {
            match self.drain_once(sender, tasks).await {
                Ok(Round::Empty) => {
                    pause = PAUSE_MIN;
                    tokio::select! {
                        () = tasks.stopping() => return,
                        () = self.arrived.notified() => {}
                    }
                    // A broker that refused the message an instant ago gets a moment.
                    tasks.sleep(PAUSE_MIN).await;
                }
                Ok(Round::Blocked { sent }) => {
                    if sent > 0 {
                        pause = PAUSE_MIN;
                    }
                    tasks.sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => {
                    tracing::error!(%error, "what is spooled cannot be sent");
                    tasks.sleep(PAUSE_MAX).await;
                }
            }
        }
    }

    async fn drain_once(&self, sender: &Sender, tasks: &Tasks) -> Result<Round, ClientError> {
        let mut blocked: HashSet<String> = HashSet::new();
        let mut sent = 0;
        loop {
            let numbers = self.next_numbers(&blocked).await?;
            if numbers.is_empty() {
                return Ok(if blocked.is_empty() {
                    Round::Empty
                } else {
                    Round::Blocked { sent }
                });
            }
            for number in numbers {
                if tasks.is_stopping() {
                    return Ok(Round::Blocked { sent });
                }
                let file = Arc::clone(&self.file);
                let read = blocking(&self.settings, move || file.lock().read(number)).await?;
                let Some(spooled) = read else { continue };
                if blocked.contains(&spooled.message.topic) {
                    continue;
                }
                match self.send(sender, number, spooled).await? {
                    None => sent += 1,
                    Some(topic) => {
                        blocked.insert(topic);
                    }
                }
            }
        }
    }

    async fn next_numbers(&self, blocked: &HashSet<String>) -> Result<Vec<u64>, ClientError> {
        let (file, blocked) = (Arc::clone(&self.file), blocked.clone());
        let numbers = move || {
            let file = file.lock();
            Ok(file.waiting(ROUND_MAX, |topic| !blocked.contains(topic)))
        };
        blocking(&self.settings, numbers).await
    }

    /// Sends one message. Gives its topic if that cannot be sent to now.
    async fn send(
        &self,
        sender: &Sender,
        number: u64,
        spooled: Spooled,
    ) -> Result<Option<String>, ClientError> {
        let Spooled {
            message,
            doubtful,
            pair,
        } = spooled;
        let topic = message.topic.clone();
        let mut prepared = Prepared::from_kept(message);
        // Numbered only now, if it was not sent yet: a broker remembers the last numbers of a producer and no others.
        let pair = sender.number(&mut prepared).await.or(pair);
        let was_doubtful = doubtful.is_some();
        let mut attempts = Attempts {
            timeout: sender.settings().timeout,
            retry_on: RetryOn::TransportAndCodes,
            by: By::ShardingKey,
            doubtful,
        };
        if prepared.numbered && !was_doubtful {
            // Noted before it leaves: whoever goes on after the end of this process has to ask the same queue.
            match sender.next_queue(&prepared, &attempts, None, None).await {
                Ok(queue) => attempts.doubtful = Some(queue),
                Err(_) => return Ok(Some(topic)),
            }
            let queue = attempts.doubtful.clone();
            self.note_doubt(number, queue, pair.clone()).await?;
        }
        match sender.attempt_all(&prepared, attempts).await {
            Ok(_) => {}
            Err(unsent) if unsent.error.may_pass() => {
                tracing::debug!(topic, error = %unsent.error, "spooled messages wait on");
                if !was_doubtful && !unsent.error.leaves_doubt() {
                    self.note_doubt(number, None, None).await?;
                } else if let Some(queue) = unsent.doubtful {
                    self.note_doubt(number, Some(queue), pair).await?;
                }
                return Ok(Some(topic));
            }
            Err(unsent) => {
                let error = unsent.error;
                tracing::error!(topic, msg_id = %prepared.msg_id, %error, "spooled message set aside: no broker will take it");
                let (path, max) = (self.settings.path.clone(), self.settings.bytes_max);
                let kept = prepared.to_kept();
                let aside = move || file::set_aside(&path, &kept, max);
                blocking(&self.settings, aside).await?;
            }
        }
        let (file, topics) = (Arc::clone(&self.file), Arc::clone(&self.topics));
        let noted = blocking(&self.settings, move || {
            let noted = file.lock().sent(number);
            count_down(&topics, &topic);
            noted
        });
        noted.await?;
        Ok(None)
    }
}

impl Spool {
    async fn note_doubt(
        &self,
        number: u64,
        queue: Option<MessageQueue>,
        pair: Option<Pair>,
    ) -> Result<(), ClientError> {
        let file = Arc::clone(&self.file);
        let note = move || file.lock().doubt(number, queue.as_ref(), pair);
        blocking(&self.settings, note).await
    }
}

enum Round {
    /// Nothing waits any more.
    Empty,
    /// Some topics cannot be sent to now.
    Blocked { sent: usize },
}

fn count_down(topics: &Mutex<BTreeMap<String, usize>>, topic: &str) {
    let mut topics = topics.lock();
    if let Some(count) = topics.get_mut(topic) {
        *count -= 1;
        if *count == 0 {
            topics.remove(topic);
        }
    }
}

async fn blocking<T: Send + 'static>(
    settings: &SpoolSettings,
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        Err(ClientError::Spool {
            path: settings.path.clone(),
            reason: panic.to_string(),
        })
    })
}
