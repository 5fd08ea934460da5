//! Delayed delivery: the 18 levels and messages with a time of their own, by one thread that sleeps until the next is due.
//!
//! Promises: never before its time; late by a few milliseconds while the store keeps up; nothing lost by a restart, a crash or a step of
//! the clock; a message that cannot be delivered is set aside by name and holds up no other. After `kill -9` almost nothing is
//! delivered twice (see [`progress`]). The truth are the queues of `SCHEDULE_TOPIC_XXXX` and `rmq_sys_wheel_timer`; what is in memory is
//! rebuilt from them. Source: spec/semantics.md §5, spec/store.md §6.2, §6.4; Apache `ScheduleMessageService`, `TimerMessageStore`.
//!
//! Locks: `work`, held by the thread while it delivers; within it `progress`, briefly. Senders take neither.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use agena_protocol::clock::Clock;
use agena_protocol::properties::Properties;
use agena_protocol::queue::QueueId;
use agena_protocol::topic;
use parking_lot::Mutex;
use tracing::{debug, error};

use crate::snapshot_files::{Save, Saver, SnapshotError};

mod deliver;
pub mod levels;
mod log;
pub mod on_send;
pub mod progress;
pub mod recall;
mod recalled;
pub mod store_log;
pub mod timers;

pub use log::{DelayLog, LogFault};
pub use on_send::{DelayRefused, SendRules};

use deliver::Work;
use progress::{Progress, ProgressFiles};

/// The wall clock may step while the thread sleeps on the monotonic one; with something pending it looks this often.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// `flushDelayOffsetInterval`: how often RocketMQ's files are brought up to date.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// The settings of delays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelaySettings {
    /// `messageDelayLevel`, level 1 first.
    pub levels: Vec<Duration>,
    /// What sends may ask for.
    pub send: SendRules,
    /// This broker's name, for recall handles.
    pub broker_name: String,
}

/// Where a message waits, as a send stores it and answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The system topic it is stored under.
    pub topic: &'static str,
    /// The queue of that topic.
    pub queue: QueueId,
    /// Its encoded properties.
    pub properties: Vec<u8>,
    /// By which the sender can take the message back.
    pub recall_handle: Option<String>,
}

/// Delayed delivery.
pub struct Delay {
    settings: DelaySettings,
    clock: Arc<dyn Clock>,
    log: Arc<dyn DelayLog>,
    work: Mutex<Work>,
    progress: Mutex<Kept>,
    /// For each level and, last, the timers: set by the thread when it has read everything there is, so that an arrival must wake it.
    caught_up: Vec<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    wake: std::sync::OnceLock<Thread>,
    stopping: AtomicBool,
}

/// Progress with its files.
struct Kept {
    now: Progress,
    /// What RocketMQ's files say.
    saved: Progress,
    files: ProgressFiles,
    noting_failed: bool,
}

impl Delay {
    /// Reads how far everything is delivered. The store is open, and its queues are whole.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn open(
        settings: DelaySettings,
        directory: &Path,
        log: Arc<dyn DelayLog>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, SnapshotError> {
        let count = settings.levels.len();
        let (files, mut progress) = ProgressFiles::open(directory, count, log.end())?;
        for (level, next) in progress.levels.iter_mut().enumerate() {
            let (min, max) = log.bounds(topic::SCHEDULE, queue_of_level(level));
            *next = (*next).clamp(min, max.max(min));
        }
        let (min, max) = log.bounds(topic::TIMER_WHEEL, QueueId::new(0));
        let timers = &mut progress.timers;
        timers.low = timers.low.clamp(min, max.max(min));
        timers.read = timers.read.clamp(timers.low, max.max(timers.low));
        let work = Work::new(&settings, &progress);
        Ok(Arc::new(Self {
            caught_up: (0..=count).map(|_| AtomicBool::new(false)).collect(),
            settings,
            clock,
            log,
            work: Mutex::new(work),
            progress: Mutex::new(Kept {
                saved: progress.clone(),
                now: progress,
                files,
                noting_failed: false,
            }),
            thread: Mutex::default(),
            wake: std::sync::OnceLock::new(),
            stopping: AtomicBool::new(false),
        }))
    }

    /// Starts the thread, which brings RocketMQ's files up to date by `saver`.
    pub fn start(self: &Arc<Self>, saver: &Arc<Saver>) {
        let delay = Arc::clone(self);
        let saver = Arc::clone(saver);
        let thread = std::thread::Builder::new()
            .name("delay".into())
            .spawn(move || delay.run(&saver));
        match thread {
            Ok(thread) => {
                let _ = self.wake.set(thread.thread().clone());
                *self.thread.lock() = Some(thread);
            }
            Err(cause) => error!(%cause, "no thread for delays: nothing is delivered late"),
        }
    }

    /// Ends the thread. To be called while the store is open.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        if let Some(thread) = self.wake.get() {
            thread.unpark();
        }
        if let Some(thread) = self.thread.lock().take() {
            // A panic in the thread was reported by the panic hook; there is nothing to add.
            let _ = thread.join();
        }
    }

    /// Writes RocketMQ's files at the end. To be called when the store is closed, and so has everything on the device.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn save_at_stop(&self) -> Result<(), SnapshotError> {
        self.write_files()
    }

    /// Where a message goes that asks for a delay; `None` when it is delivered at once.
    ///
    /// # Errors
    /// [`DelayRefused`].
    pub fn on_send(
        &self,
        properties: Properties<'_>,
        topic: &str,
        queue: QueueId,
        now_ms: i64,
    ) -> Result<Option<Redirect>, DelayRefused> {
        let redirect = on_send::redirect(properties, topic, queue, now_ms, self.settings.send)?;
        Ok(redirect.map(|redirect| Redirect {
            topic: redirect.topic,
            queue: redirect.queue_id,
            recall_handle: redirect.recall_ms.and_then(|due_ms| {
                let unique_key = properties.get(agena_protocol::properties::UNIQ_KEY)?;
                let broker = &self.settings.broker_name;
                Some(recall::handle(topic, broker, due_ms, unique_key))
            }),
            properties: redirect.properties,
        }))
    }

    /// A message was dispatched to a queue of one of the two topics. Cheap: an atomic, and a wake-up only if the thread sleeps.
    pub fn arrived(&self, topic: &str, queue: QueueId) {
        let at = match topic {
            topic::SCHEDULE => queue.index(),
            topic::TIMER_WHEEL => self.settings.levels.len(),
            _ => return,
        };
        // SeqCst pairs with the thread's, which sets its mark before it looks at the queue's end once more: either it sees this
        // entry, or this sees its mark.
        let waits = self.caught_up.get(at);
        if waits.is_some_and(|waits| waits.swap(false, Ordering::SeqCst))
            && let Some(thread) = self.wake.get()
        {
            thread.unpark();
        }
    }

    /// How far each level that was ever used is: its number, the next offset, and the end of its queue.
    pub fn level_offsets(&self) -> Vec<(usize, u64, u64)> {
        let levels = self.progress.lock().now.levels.clone();
        let used = levels.into_iter().enumerate().filter_map(|(level, next)| {
            let (_, max) = self.log.bounds(topic::SCHEDULE, queue_of_level(level));
            (max > 0).then_some((level + 1, next, max))
        });
        used.collect()
    }

    /// What the file `timercheck` holds in its first 56 bytes.
    pub fn timer_check_point(&self) -> Vec<u8> {
        progress::timer_check_point(self.progress.lock().now.timers)
    }

    /// Entries of the timer topic that are not yet read.
    pub fn timer_backlog(&self) -> u64 {
        let (_, max) = self.log.bounds(topic::TIMER_WHEEL, QueueId::new(0));
        max.saturating_sub(self.progress.lock().now.timers.read)
    }

    /// Delivers what is due and says how long nothing will be, unless something arrives.
    pub fn deliver_due(&self) -> Duration {
        let mut work = self.work.lock();
        loop {
            let pass = work.pass(&*self.log, &*self.clock, &self.caught_up);
            if let Some(delivered) = pass.delivered {
                self.note(delivered);
            }
            if let Some(fault) = pass.fault {
                let pause = work.pause_after_fault();
                error!(%fault, ?pause, "delayed messages wait for the store");
                return pause;
            }
            if !pass.more || self.stopping.load(Ordering::Acquire) {
                return match pass.idle_for {
                    Duration::MAX => Duration::MAX,
                    idle_for => idle_for.min(SLEEP_MAX),
                };
            }
        }
    }

    fn run(self: &Arc<Self>, saver: &Arc<Saver>) {
        let _ = self.wake.set(std::thread::current());
        while !self.stopping.load(Ordering::Acquire) {
            let pause = self.deliver_due();
            if self.is_behind() {
                let itself: Arc<dyn Save> = Arc::clone(self) as Arc<dyn Save>;
                saver.schedule(Arc::downgrade(&itself), SAVE_INTERVAL);
            }
            if pause == Duration::MAX {
                std::thread::park();
            } else {
                std::thread::park_timeout(pause);
            }
        }
        debug!("delays are stopped");
    }

    fn note(&self, delivered: Progress) {
        let mut kept = self.progress.lock();
        kept.now = delivered;
        let Kept { now, files, .. } = &mut *kept;
        match files.note(now) {
            Ok(()) => kept.noting_failed = false,
            Err(cause) => {
                if !std::mem::replace(&mut kept.noting_failed, true) {
                    error!(%cause, "progress of delays is not noted; a crash repeats up to ten seconds of them");
                }
            }
        }
    }

    fn is_behind(&self) -> bool {
        let kept = self.progress.lock();
        kept.now != kept.saved
    }

    fn write_files(&self) -> Result<(), SnapshotError> {
        let mut work = self.work.lock();
        let mut kept = self.progress.lock();
        kept.now.timers = work.exact_timer_progress();
        drop(work);
        if kept.now == kept.saved {
            return Ok(());
        }
        kept.files.save(&kept.now, self.clock.now_ms())?;
        kept.saved = kept.now.clone();
        Ok(())
    }
}

impl Save for Delay {
    /// Files that outlive a loss of power say no more than what the device has: the rest waits for the next round.
    fn save(&self) -> Result<(), SnapshotError> {
        if self.progress.lock().now.log_end > self.log.flushed() {
            return Ok(());
        }
        self.write_files()
    }
}

impl std::fmt::Debug for Delay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delay")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// The queue in which messages of a level wait; levels count from zero here.
fn queue_of_level(level: usize) -> QueueId {
    QueueId::new(u32::try_from(level).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
