//! Readers with a long way to go, and the pace at which they are served beside others.
//!
//! Whoever replays hours of messages asks for all that a machine has: every core, the whole device. What that costs is the
//! waiting time of producers and of readers at the tail, which on a busy machine is counted in tens of milliseconds. So the
//! pulls of a queue of which more than [`LONG_BYTES`] are left run on the reader threads, whose priority is low, and while
//! messages come in, all of them together get `backlogBytesPerSecond`. That is never less than twice what comes in: a
//! backlog shrinks whatever the limit says. While nothing comes in there is no limit.

use std::time::Duration;

use parking_lot::Mutex;

/// A reader with more bytes than this before it in one queue has a backlog.
const LONG_BYTES: u64 = 16 << 20;

/// No pull waits longer, however many there are: clients give a pull up after some seconds.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// What came in is looked at so often.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Whether a reader of a queue has a backlog that got `messages` of `bytes` and has `left` more before it.
pub(crate) fn is_long(bytes: u64, messages: u64, left: u64) -> bool {
    messages > 0 && left.saturating_mul(bytes / messages) > LONG_BYTES
}

/// The pace of all readers with a backlog.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the next read may begin, on the monotonic clock.
    next: Duration,
    looked: Option<Look>,
    /// Bytes that come in each second; unknown until two looks are a period apart.
    incoming: Option<f64>,
}

/// The end of the log at a moment.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    log_end: u64,
}

/// A read's share of the budget.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// How long the read has to wait for it.
    pub(crate) wait: Duration,
    bytes: u64,
    /// Seconds that a byte takes; 0 without a limit.
    per_byte: f64,
}

impl Pace {
    /// Takes a share for a read of about `bytes`, at `now` with the log's end at `log_end`; `limit` is in bytes a second, 0
    /// for none.
    pub(crate) fn take(&self, bytes: u64, limit: u64, now: Duration, log_end: u64) -> Share {
        let mut state = self.state.lock();
        state.look(now, log_end);
        let per_byte = state.seconds_per_byte(limit);
        let begin = state.next.max(now).min(now + WAIT_MAX);
        state.next = begin + seconds(bytes, per_byte);
        Share {
            wait: begin.saturating_sub(now),
            bytes,
            per_byte,
        }
    }

    /// What all readers with a backlog get now, in bytes a second; `None` without a limit.
    pub(crate) fn bytes_per_second(&self, limit: u64) -> Option<f64> {
        let per_byte = self.state.lock().seconds_per_byte(limit);
        (per_byte > 0.0).then(|| 1.0 / per_byte)
    }

    /// The read gave `bytes`: what it took too much is given back, and what it took too little is owed.
    pub(crate) fn settle(&self, share: &Share, bytes: u64) {
        let mut state = self.state.lock();
        state.next += seconds(bytes.saturating_sub(share.bytes), share.per_byte);
        let unused = seconds(share.bytes.saturating_sub(bytes), share.per_byte);
        state.next = state.next.saturating_sub(unused);
    }
}

impl State {
    fn look(&mut self, now: Duration, log_end: u64) {
        let look = Look { at: now, log_end };
        let Some(last) = self.looked else {
            self.looked = Some(look);
            return;
        };
        let passed = now.saturating_sub(last.at);
        if passed < LOOK_PERIOD {
            return;
        }
        self.looked = Some(look);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let bytes = log_end.saturating_sub(last.log_end) as f64;
        // A look long ago says nothing about now.
        self.incoming = (passed < 2 * LOOK_PERIOD).then(|| bytes / passed.as_secs_f64());
    }

    fn seconds_per_byte(&self, limit: u64) -> f64 {
        if limit == 0 || self.incoming == Some(0.0) {
            return 0.0;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let limit = limit as f64;
        1.0 / limit.max(2.0 * self.incoming.unwrap_or(0.0))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a time")]
fn seconds(bytes: u64, per_byte: f64) -> Duration {
    Duration::from_secs_f64(bytes as f64 * per_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_backlog_is_counted_in_bytes_of_what_was_read() {
        assert!(is_long(32 * 1024, 32, 17 << 10));
        assert!(!is_long(32 * 1024, 32, 15 << 10));
        assert!(!is_long(0, 0, u64::MAX));
    }

    #[test]
    fn reads_begin_one_after_another_at_the_limit() {
        let pace = Pace::default();
        let waits: Vec<_> = (0..4)
            .map(|_| pace.take(MB, 100 * MB, at(5000), 0).wait)
            .collect();
        assert_eq!(waits, [at(0), at(10), at(20), at(30)]);
        assert_eq!(pace.take(MB, 100 * MB, at(5035), 0).wait, at(5));
    }

    #[test]
    fn what_a_read_did_not_take_is_given_back() {
        let pace = Pace::default();
        let share = pace.take(MB, 100 * MB, at(5000), 0);
        pace.settle(&share, 0);
        assert_eq!(pace.take(MB, 100 * MB, at(5000), 0).wait, at(0));
        let share = pace.take(0, 100 * MB, at(5500), 0);
        pace.settle(&share, MB);
        assert_eq!(pace.take(0, 100 * MB, at(5500), 0).wait, at(10));
    }

    #[test]
    fn without_messages_coming_in_there_is_no_limit() {
        let pace = Pace::default();
        for ms in [5000, 6000] {
            pace.take(MB, MB, at(ms), 77);
        }
        // The last read that had to be slow is waited for once.
        pace.take(MB, MB, at(7000), 77);
        for _ in 0..100 {
            assert_eq!(pace.take(MB, MB, at(7100), 77).wait, at(0));
        }
    }

    #[test]
    fn a_backlog_shrinks_whatever_the_limit() {
        let pace = Pace::default();
        for second in 5..8 {
            pace.take(0, MB, at(second * 1000), second * 50 * MB);
        }
        let now = at(7500);
        pace.take(MB, MB, now, 400 * MB);
        assert_eq!(pace.take(MB, MB, now, 400 * MB).wait, at(10));
    }

    #[test]
    fn nobody_waits_for_longer_than_a_second() {
        let pace = Pace::default();
        for _ in 0..1000 {
            assert!(pace.take(MB, MB, at(5000), 0).wait <= WAIT_MAX);
        }
    }
}
