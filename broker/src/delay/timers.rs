//! Messages with a time of their own: which wait, and until when.
//!
//! Each waits in the queue of `rmq_sys_wheel_timer` in the order of arrival; the index in memory has 16 bytes for each, in the order
//! in which they are due. Beyond [`TIMERS_IN_MEMORY_MAX`] only the nearest are held, and the rest is read again from the queue when its
//! time comes near. Source: spec/semantics.md §5.2, spec/store.md §6.4.
//!
//! RocketMQ rounds the time down to a second (`TIMER_OUT_MS`) and delivers a second later. Here a message is due at the very
//! millisecond that its producer asked for, which still stands in the properties.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use agena_protocol::properties::{self, Properties};

/// Timers held in memory: 16 MB.
pub const TIMERS_IN_MEMORY_MAX: usize = 1_000_000;

/// A timer is read again from the queue this long before it is due.
const READ_AGAIN_MS: i64 = 60_000;

/// How timers are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerRules {
    /// `timerPrecisionMs`: the grid of `TIMER_OUT_MS`.
    pub precision_ms: i64,
    /// `timerRollWindowSlot` times the precision: a message that waits longer is stored anew after that time, so that it does not
    /// grow too old for the log's retention.
    pub roll_window_ms: i64,
}

impl Default for TimerRules {
    fn default() -> Self {
        Self {
            precision_ms: 1000,
            roll_window_ms: 172_800_000,
        }
    }
}

/// What a timer message says about its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerTimes {
    /// When it shall be delivered.
    pub due_ms: i64,
    /// When something is to be done with it: delivered, or stored anew.
    pub act_ms: i64,
}

/// Reads the times of a record of the timer topic; `None` when it names none, and so is due at once.
pub fn times_of(
    properties: Properties<'_>,
    store_ms: i64,
    rules: TimerRules,
) -> Option<TimerTimes> {
    let number = |name| {
        properties
            .get(name)
            .and_then(|text| text.trim().parse::<i64>().ok())
    };
    let out_ms = number(properties::TIMER_OUT_MS);
    // A message that was stored anew counts its relative delay no second time.
    let rolled = properties.get(properties::TIMER_ROLL_TIMES).is_some();
    let relative = |name, unit: i64| {
        let count = number(name).filter(|_| !rolled)?;
        Some(store_ms.saturating_add(count.saturating_mul(unit)))
    };
    let due_ms = relative(properties::TIMER_DELAY_SEC, 1000)
        .or_else(|| relative(properties::TIMER_DELAY_MS, 1))
        .or_else(|| number(properties::TIMER_DELIVER_MS))
        .or_else(|| Some(out_ms?.saturating_add(rules.precision_ms)))?;
    // The wheel's time bounds what the request says: the exact time lies within one step behind it.
    let due_ms = out_ms.map_or(due_ms, |out| {
        due_ms.clamp(
            out,
            out.saturating_add(rules.precision_ms.saturating_mul(2)),
        )
    });
    let wait = due_ms.saturating_sub(store_ms);
    let window = rules.roll_window_ms;
    let act_ms = if wait < window {
        due_ms
    } else if wait - window < window / 3 {
        store_ms + window / 2
    } else {
        store_ms + window
    };
    Some(TimerTimes { due_ms, act_ms })
}

/// `TIMER_OUT_MS` of a message that is due at `due_ms`: the step of the grid before it.
pub fn out_ms(due_ms: i64, rules: TimerRules) -> i64 {
    let precision = rules.precision_ms.max(1);
    if due_ms % precision == 0 {
        due_ms - precision
    } else {
        due_ms / precision * precision
    }
}

/// How far timers are done: each entry before `read` whose time to act is not behind `acted_ms` is settled, and so is each
/// before `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimerProgress {
    /// Everything before is settled.
    pub low: u64,
    /// Everything before was read from the queue.
    pub read: u64,
    /// What was read and due by then is settled.
    pub acted_ms: i64,
}

/// The timers that wait.
#[derive(Debug)]
pub struct Timers {
    rules: TimerRules,
    /// (when to act, number in the queue), the earliest first.
    pending: BinaryHeap<Reverse<(i64, u64)>>,
    /// What lies behind [`TimerProgress::read`] is not yet looked at.
    read: u64,
    acted_ms: i64,
    /// As last computed; grows only.
    low: u64,
    /// What is not in memory for want of room.
    beyond: Option<Beyond>,
    in_memory_max: usize,
}

/// Timers that are not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beyond {
    /// None of them acts earlier.
    from_ms: i64,
    /// None of them stands before.
    low: u64,
}

impl Timers {
    /// Nothing is read yet; entries that `progress` says are settled will be passed over.
    pub fn new(rules: TimerRules, progress: TimerProgress) -> Self {
        Self {
            rules,
            pending: BinaryHeap::new(),
            read: progress.low,
            acted_ms: progress.acted_ms,
            low: progress.low,
            beyond: None,
            in_memory_max: TIMERS_IN_MEMORY_MAX,
        }
    }

    /// The rules it was made with.
    pub fn rules(&self) -> TimerRules {
        self.rules
    }

    /// The next entry of the queue to be offered.
    pub fn next_to_read(&self) -> u64 {
        self.read
    }

    /// How many wait in memory.
    pub fn held(&self) -> usize {
        self.pending.len()
    }

    /// Takes the entry `offset` in, the next of the queue. `act_ms` is `None` for one that is settled or gone.
    pub fn offer(&mut self, offset: u64, act_ms: Option<i64>) {
        self.read = offset + 1;
        if let Some(act_ms) = act_ms {
            self.insert(offset, act_ms);
        }
    }

    fn insert(&mut self, offset: u64, act_ms: i64) {
        // A clock that was set back brings times that count as settled; better twice than never.
        self.acted_ms = self.acted_ms.min(act_ms.saturating_sub(1));
        match &mut self.beyond {
            Some(beyond) if act_ms >= beyond.from_ms => beyond.low = beyond.low.min(offset),
            _ => self.pending.push(Reverse((act_ms, offset))),
        }
        if self.pending.len() > self.in_memory_max {
            self.forget_later_half();
        }
    }

    /// Keeps the nearer half in memory. Timers of one millisecond stay or go together.
    fn forget_later_half(&mut self) {
        let mut all = std::mem::take(&mut self.pending).into_vec();
        // Reverse: the latest to act sorts first.
        all.sort_unstable();
        let middle = all[all.len() / 2].0.0;
        let (near, far): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| entry.0.0 < middle);
        if near.is_empty() {
            // All act at once; there is nothing to gain.
            self.pending = far.into();
            self.in_memory_max = self.in_memory_max.saturating_mul(2);
            return;
        }
        let low = far.iter().map(|entry| entry.0.1).min().unwrap_or(self.read);
        self.beyond = Some(match self.beyond {
            Some(beyond) => Beyond {
                from_ms: middle.min(beyond.from_ms),
                low: low.min(beyond.low),
            },
            None => Beyond {
                from_ms: middle,
                low,
            },
        });
        self.pending = near.into();
    }

    /// From where the queue must be read again because timers that are not in memory come near; the caller then offers every
    /// entry from there up to [`Timers::next_to_read`] to [`Timers::offer_again`].
    pub fn take_beyond(&mut self, now_ms: i64) -> Option<(u64, i64)> {
        let beyond = self.beyond?;
        let near = beyond.from_ms <= now_ms.saturating_add(READ_AGAIN_MS);
        if !near && !self.pending.is_empty() {
            return None;
        }
        self.beyond = None;
        Some((beyond.low, beyond.from_ms))
    }

    /// Takes an entry in that was read before. `from_ms` came from [`Timers::take_beyond`]: what acts earlier is in memory or settled.
    pub fn offer_again(&mut self, offset: u64, act_ms: i64, from_ms: i64) {
        if act_ms >= from_ms {
            self.insert(offset, act_ms);
        }
    }

    /// When to act next.
    pub fn next_act_ms(&self) -> Option<i64> {
        let first = self.pending.peek().map(|entry| entry.0.0);
        let beyond = self.beyond.map(|beyond| beyond.from_ms - READ_AGAIN_MS);
        first.into_iter().chain(beyond).min()
    }

    /// Takes out what is to be done now, at most `count`, in the order of time.
    pub fn take_due(&mut self, now_ms: i64, count: usize) -> Vec<(i64, u64)> {
        let mut due = Vec::new();
        while due.len() < count
            && let Some(Reverse((act_ms, offset))) = self.pending.peek().copied()
            && act_ms <= now_ms
        {
            self.pending.pop();
            due.push((act_ms, offset));
        }
        due
    }

    /// Puts back what could not be done.
    pub fn put_back(&mut self, entries: &[(i64, u64)]) {
        self.pending
            .extend(entries.iter().map(|entry| Reverse(*entry)));
    }

    /// Everything that was due at `now_ms` was taken out and done, but for what is still pending.
    pub fn acted(&mut self, now_ms: i64) {
        let first = self.pending.peek().map(|entry| entry.0.0);
        let beyond = self.beyond.map(|beyond| beyond.from_ms);
        let waiting = first.into_iter().chain(beyond).min();
        let settled = waiting.map_or(now_ms, |waiting| now_ms.min(waiting - 1));
        self.acted_ms = self.acted_ms.max(settled);
    }

    /// How far timers are done, with `low` as last computed.
    pub fn progress(&self) -> TimerProgress {
        TimerProgress {
            low: self.low,
            read: self.read,
            acted_ms: self.acted_ms,
        }
    }

    /// The same with `low` computed anew, which looks at every pending timer.
    pub fn progress_exact(&mut self) -> TimerProgress {
        let pending = self.pending.iter().map(|entry| entry.0.1);
        let beyond = self.beyond.map(|beyond| beyond.low);
        self.low = pending.chain(beyond).min().unwrap_or(self.read);
        self.progress()
    }
}

impl TimerProgress {
    /// Whether the entry `offset`, to be acted on at `act_ms`, is settled.
    pub fn is_settled(&self, offset: u64, act_ms: i64) -> bool {
        offset < self.low || (offset < self.read && act_ms <= self.acted_ms)
    }
}

/// How long until a moment of the wall clock; never less than zero.
pub fn until(moment_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(moment_ms.saturating_sub(now_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use agena_protocol::properties::PropertiesBuf;

    use super::*;

    const HOUR: i64 = 3_600_000;

    fn times(pairs: &[(&str, i64)], store_ms: i64) -> Option<TimerTimes> {
        let mut buffer = PropertiesBuf::new();
        for (name, value) in pairs {
            buffer.set(name, value.to_string());
        }
        times_of(
            Properties::new(&buffer.encode()),
            store_ms,
            TimerRules::default(),
        )
    }

    #[test]
    fn a_message_is_due_at_the_millisecond_that_was_asked_for() {
        let deliver = [
            (properties::TIMER_DELIVER_MS, 12_345),
            (properties::TIMER_OUT_MS, 12_000),
        ];
        assert_eq!(times(&deliver, 10_000).unwrap().due_ms, 12_345);
        let delay = [
            (properties::TIMER_DELAY_MS, 3_500),
            (properties::TIMER_OUT_MS, 13_000),
        ];
        assert_eq!(times(&delay, 10_001).unwrap().due_ms, 13_501);
        let seconds = [
            (properties::TIMER_DELAY_SEC, 3),
            (properties::TIMER_OUT_MS, 12_000),
        ];
        assert_eq!(times(&seconds, 10_000).unwrap().due_ms, 13_000);
        assert_eq!(
            times(&[(properties::TIMER_OUT_MS, 12_000)], 0)
                .unwrap()
                .due_ms,
            13_000
        );
        assert_eq!(times(&[], 0), None);
    }

    #[test]
    fn out_ms_is_the_step_before_as_the_original_rounds() {
        let rules = TimerRules::default();
        assert_eq!(out_ms(12_345, rules), 12_000);
        assert_eq!(out_ms(12_000, rules), 11_000);
    }

    #[test]
    fn a_long_wait_is_stored_anew_before_it_grows_too_old() {
        let long = [(properties::TIMER_DELIVER_MS, 72 * HOUR)];
        assert_eq!(times(&long, 0).unwrap().act_ms, 48 * HOUR);
        let little_over = [(properties::TIMER_DELIVER_MS, 49 * HOUR)];
        assert_eq!(times(&little_over, 0).unwrap().act_ms, 24 * HOUR);
        let rolled = [
            (properties::TIMER_DELAY_SEC, 72 * 3600),
            (properties::TIMER_OUT_MS, 72 * HOUR - 1000),
            (properties::TIMER_ROLL_TIMES, 1),
        ];
        assert_eq!(times(&rolled, 48 * HOUR).unwrap().due_ms, 72 * HOUR);
    }

    #[test]
    fn timers_come_out_in_the_order_of_time() {
        let mut timers = Timers::new(TimerRules::default(), TimerProgress::default());
        for (offset, act) in [(0, 500), (1, 100), (2, 300)] {
            timers.offer(offset, Some(act));
        }
        assert_eq!(timers.next_act_ms(), Some(100));
        assert_eq!(timers.take_due(99, 10), []);
        assert_eq!(timers.take_due(300, 10), [(100, 1), (300, 2)]);
        timers.acted(300);
        assert_eq!(
            timers.progress_exact(),
            TimerProgress {
                low: 0,
                read: 3,
                acted_ms: 300
            }
        );
        timers.take_due(500, 10);
        timers.acted(600);
        assert_eq!(
            timers.progress_exact(),
            TimerProgress {
                low: 3,
                read: 3,
                acted_ms: 600
            }
        );
    }

    #[test]
    fn what_was_settled_is_known_after_a_restart_and_late_comers_are_not_mistaken_for_it() {
        let mut timers = Timers::new(TimerRules::default(), TimerProgress::default());
        timers.offer(0, Some(9_000));
        timers.offer(1, Some(100));
        timers.take_due(200, 10);
        timers.acted(200);
        let progress = timers.progress_exact();
        assert!(progress.is_settled(1, 100));
        assert!(!progress.is_settled(0, 9_000));
        assert!(
            !progress.is_settled(2, 100),
            "arrived later with an earlier time"
        );
    }

    #[test]
    fn what_could_not_be_done_keeps_progress_back() {
        let mut timers = Timers::new(TimerRules::default(), TimerProgress::default());
        timers.offer(0, Some(100));
        timers.offer(1, Some(200));
        let due = timers.take_due(1000, 10);
        timers.put_back(&due[..1]);
        timers.acted(1000);
        assert_eq!(timers.progress().acted_ms, 99);
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_by_it() {
        let mut timers = Timers::new(TimerRules::default(), TimerProgress::default());
        timers.in_memory_max = 10;
        let act = |offset: u64| i64::try_from((offset * 7919) % 1000).unwrap() * 1000;
        for offset in 0..100 {
            timers.offer(offset, Some(act(offset)));
            assert!(timers.held() <= 10);
        }
        let mut seen = Vec::new();
        let mut now = 0;
        while now <= 1_000_000 {
            if let Some((low, from_ms)) = timers.take_beyond(now) {
                for offset in low..timers.next_to_read() {
                    timers.offer_again(offset, act(offset), from_ms);
                }
            }
            assert!(timers.held() <= 10);
            seen.extend(timers.take_due(now, 100));
            now += 1000;
        }
        assert_eq!(seen.len(), 100);
        assert!(seen.is_sorted_by_key(|(at, _)| *at));
    }
}
