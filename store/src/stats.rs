//! What the store counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a power of two each: 1 µs, 2 µs, … 2^31 µs.
const BUCKETS: usize = 32;

/// How long appends took, in buckets of powers of two.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LatencyHistogram {
    /// `counts[i]` appends took less than 2^i µs, and at least half of that.
    pub counts: [u64; BUCKETS],
}

impl LatencyHistogram {
    /// The time that `fraction` (0 to 1) of all stayed below, to a power of two.
    #[must_use]
    pub fn quantile(&self, fraction: f64) -> Duration {
        let total: u64 = self.counts.iter().sum();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count times a fraction, as a rank"
        )]
        let rank = (total as f64 * fraction.clamp(0.0, 1.0)) as u64;
        let mut seen = 0;
        for (power, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen > rank || (seen == total && total > 0) {
                return Duration::from_micros(1 << power);
            }
        }
        Duration::ZERO
    }
}

/// A view of the store, taken at one moment; the numbers need not fit each other exactly.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// First byte of the log.
    pub log_min: u64,
    /// Behind its last byte.
    pub log_max: u64,
    /// Everything below is on the device.
    pub flushed: u64,
    /// Everything below is dispatched.
    pub dispatched: u64,
    /// Store timestamp of the last record.
    pub last_store_timestamp: i64,
    /// Files of the log.
    pub segments: usize,
    /// Percentage of the log's file system in use.
    pub disk_used_percent: u8,
    /// Messages appended since the store was opened.
    pub put_messages: u64,
    /// Bytes of their records.
    pub put_bytes: u64,
    /// Batches appended.
    pub put_batches: u64,
    /// Appends that failed or were refused.
    pub put_failures: u64,
    /// How long appends took.
    pub put_latency: LatencyHistogram,
    /// Reads that found something.
    pub reads_found: u64,
    /// Reads that did not.
    pub reads_missed: u64,
    /// Messages read.
    pub read_messages: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Records that readers stepped over because they do not hold.
    pub damaged_records: u64,
    /// Queues.
    pub queues: usize,
    /// Index files.
    pub index_files: usize,
}

/// The counters themselves. Relaxed: nobody concludes anything from one about another.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    put_messages: AtomicU64,
    put_bytes: AtomicU64,
    put_batches: AtomicU64,
    put_failures: AtomicU64,
    put_latency: [AtomicU64; BUCKETS],
    reads_found: AtomicU64,
    reads_missed: AtomicU64,
    read_messages: AtomicU64,
    read_bytes: AtomicU64,
    damaged_records: AtomicU64,
}

impl Counters {
    pub(crate) fn appended(&self, messages: u64, bytes: u64, took: Duration) {
        self.put_messages.fetch_add(messages, Ordering::Relaxed);
        self.put_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.put_batches.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let power = usize::try_from(64 - micros.leading_zeros()).unwrap_or(0);
        self.put_latency[power.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn append_failed(&self) {
        self.put_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, messages: usize, bytes: usize) {
        if messages == 0 {
            self.reads_missed.fetch_add(1, Ordering::Relaxed);
        } else {
            self.reads_found.fetch_add(1, Ordering::Relaxed);
            self.read_messages
                .fetch_add(messages as u64, Ordering::Relaxed);
            self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn damaged(&self) {
        self.damaged_records.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fill(&self, stats: &mut StoreStats) {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.put_messages = of(&self.put_messages);
        stats.put_bytes = of(&self.put_bytes);
        stats.put_batches = of(&self.put_batches);
        stats.put_failures = of(&self.put_failures);
        for (count, counter) in stats.put_latency.counts.iter_mut().zip(&self.put_latency) {
            *count = of(counter);
        }
        stats.reads_found = of(&self.reads_found);
        stats.reads_missed = of(&self.reads_missed);
        stats.read_messages = of(&self.read_messages);
        stats.read_bytes = of(&self.read_bytes);
        stats.damaged_records = of(&self.damaged_records);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_from_the_buckets() {
        let counters = Counters::default();
        for micros in [0, 3, 3, 3, 3, 3, 3, 3, 3, 900] {
            counters.appended(1, 1, Duration::from_micros(micros));
        }
        let mut stats = StoreStats::default();
        counters.fill(&mut stats);
        assert_eq!(stats.put_messages, 10);
        assert_eq!(stats.put_latency.quantile(0.5), Duration::from_micros(4));
        assert_eq!(
            stats.put_latency.quantile(0.999),
            Duration::from_micros(1024)
        );
        assert_eq!(LatencyHistogram::default().quantile(0.5), Duration::ZERO);
    }
}
