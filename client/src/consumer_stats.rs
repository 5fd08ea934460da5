//! How fast a consumer pulls and consumes, by topic, as status pages show it.

use std::collections::BTreeMap;
use std::time::Duration;

use agena_protocol::bodies::running_info::ConsumeStatus;
use parking_lot::Mutex;

const WINDOW: Duration = Duration::from_secs(60);

/// Counts of one consumer.
#[derive(Debug, Default)]
pub(crate) struct ConsumerStats {
    topics: Mutex<BTreeMap<String, TopicStats>>,
}

#[derive(Debug, Default)]
struct TopicStats {
    pulled: Window,
    pull_ms: Window,
    pulls: Window,
    consumed: Window,
    failed: Window,
    consume_ms: Window,
    batches: Window,
}

/// A sum over about the last minute: that of the minute that runs, and as much of the one before as is missing.
#[derive(Debug, Default)]
struct Window {
    began: Duration,
    current: f64,
    previous: f64,
}

impl Window {
    fn turn(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.began);
        if passed >= WINDOW {
            self.previous = if passed < 2 * WINDOW {
                self.current
            } else {
                0.0
            };
            self.current = 0.0;
            self.began = now;
        }
    }

    fn add(&mut self, now: Duration, value: f64) {
        self.turn(now);
        self.current += value;
    }

    fn sum(&mut self, now: Duration) -> f64 {
        self.turn(now);
        let passed = now.saturating_sub(self.began).as_secs_f64() / WINDOW.as_secs_f64();
        self.current + self.previous * (1.0 - passed)
    }
}

impl ConsumerStats {
    pub(crate) fn pulled(&self, topic: &str, now: Duration, messages: usize, took: Duration) {
        self.with(topic, |stats| {
            stats.pulled.add(now, count(messages));
            stats.pull_ms.add(now, took.as_secs_f64() * 1000.0);
            stats.pulls.add(now, 1.0);
        });
    }

    pub(crate) fn consumed(
        &self,
        topic: &str,
        now: Duration,
        done: usize,
        failed: usize,
        took: Duration,
    ) {
        self.with(topic, |stats| {
            stats.consumed.add(now, count(done));
            stats.failed.add(now, count(failed));
            stats.consume_ms.add(now, took.as_secs_f64() * 1000.0);
            stats.batches.add(now, 1.0);
        });
    }

    fn with(&self, topic: &str, change: impl FnOnce(&mut TopicStats)) {
        let mut topics = self.topics.lock();
        if let Some(stats) = topics.get_mut(topic) {
            change(stats);
        } else {
            change(topics.entry(topic.to_owned()).or_default());
        }
    }

    pub(crate) fn status(&self, topic: &str, now: Duration) -> ConsumeStatus {
        let mut topics = self.topics.lock();
        let Some(stats) = topics.get_mut(topic) else {
            return ConsumeStatus::default();
        };
        let seconds = WINDOW.as_secs_f64();
        let failed = stats.failed.sum(now);
        ConsumeStatus {
            pull_rt: stats.pull_ms.sum(now) / stats.pulls.sum(now).max(1.0),
            pull_tps: stats.pulled.sum(now) / seconds,
            consume_rt: stats.consume_ms.sum(now) / stats.batches.sum(now).max(1.0),
            consume_ok_tps: stats.consumed.sum(now) / seconds,
            consume_failed_tps: failed / seconds,
            #[expect(clippy::cast_possible_truncation, reason = "a count of one minute")]
            consume_failed_msgs: failed.round() as i64,
        }
    }
}

fn count(messages: usize) -> f64 {
    f64::from(u32::try_from(messages).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_minute() {
        let stats = ConsumerStats::default();
        let at = Duration::from_secs;
        stats.consumed("T", at(0), 60, 6, Duration::from_millis(20));
        let status = stats.status("T", at(1));
        assert!((status.consume_ok_tps - 1.0).abs() < 1e-9);
        assert_eq!(status.consume_failed_msgs, 6);
        assert!((status.consume_rt - 20.0).abs() < 1e-9);
        stats.consumed("T", at(60), 0, 0, Duration::ZERO);
        assert!((stats.status("T", at(90)).consume_ok_tps - 0.5).abs() < 1e-9);
        assert!(stats.status("T", at(600)).consume_ok_tps.abs() < 1e-9);
        assert!(stats.status("U", at(1)).pull_tps.abs() < 1e-9);
    }
}
