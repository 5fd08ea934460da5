//! What `brokerStatus` and `clusterList` show (request 28): keys and text forms as the original has them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

use agena_protocol::bodies::names::KVTable;
use agena_protocol::command::VERSION_5_3_3;

use super::Stats;
use crate::broker::Broker;

/// The pools that the original shows; there are none of them here, so nothing ever waits in one.
const POOLS: [(&str, &str); 5] = [
    ("send", "10000"),
    ("pull", "100000"),
    ("query", "20000"),
    ("litePull", "100000"),
    ("ack", "100000"),
];

impl Stats {
    /// The table of request 28.
    #[must_use]
    pub(crate) fn runtime_table(&self, broker: &Broker) -> KVTable {
        let mut table = BTreeMap::new();
        self.add_totals(broker, &mut table);
        add_store(broker, &mut table);
        for (pool, capacity) in POOLS {
            table.insert(format!("{pool}ThreadPoolQueueSize"), "0".to_owned());
            table.insert(
                format!("{pool}ThreadPoolQueueCapacity"),
                capacity.to_owned(),
            );
            table.insert(
                format!("{pool}ThreadPoolQueueHeadWaitTimeMills"),
                "0".to_owned(),
            );
        }
        add_transactions(broker, &mut table);
        add_dedup(broker, &mut table);
        table.insert("heldPulls".to_owned(), broker.hold.len().to_string());
        let mut set = |key: &str, value: &str| table.insert(key.to_owned(), value.to_owned());
        set("EndTransactionQueueSize", "0");
        set("EndTransactionThreadPoolQueueCapacity", "100000");
        set("timerReadBehind", "0");
        set("timerOffsetBehind", "0");
        set("timerCongestNum", "0");
        set("timerEnqueueTps", "0.0");
        set("timerDequeueTps", "0.0");
        KVTable { table }
    }

    fn add_totals(&self, broker: &Broker, table: &mut BTreeMap<String, String>) {
        let now_ms = broker.clock.now_ms();
        let uptime = u64::try_from((now_ms - self.boot_ms) / 1000).unwrap_or(0);
        let puts = self.puts.load(Ordering::Relaxed);
        let mornings = *self.mornings.lock();
        let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
        set("brokerVersion", VERSION_5_3_3.to_string());
        set("brokerVersionDesc", "V5_3_3".to_owned());
        set("brokerActive", "true".to_owned());
        set("bootTimestamp", self.boot_ms.to_string());
        set("runtime", runtime_text(Duration::from_secs(uptime)));
        set(
            "msgPutTotalYesterdayMorning",
            mornings.put_yesterday.to_string(),
        );
        set("msgPutTotalTodayMorning", mornings.put_today.to_string());
        set("msgPutTotalTodayNow", puts.to_string());
        set(
            "msgGetTotalYesterdayMorning",
            mornings.got_yesterday.to_string(),
        );
        set("msgGetTotalTodayMorning", mornings.got_today.to_string());
        set(
            "msgGetTotalTodayNow",
            self.gets.load(Ordering::Relaxed).to_string(),
        );
        set("putTps", self.put_rate.text(now_ms, uptime));
        set("getFoundTps", self.found_rate.text(now_ms, uptime));
        set("getMissTps", self.miss_rate.text(now_ms, uptime));
        set("getTotalTps", self.pull_rate.text(now_ms, uptime));
        set(
            "getTransferredTps",
            self.transferred_rate.text(now_ms, uptime),
        );
        set("putMessageTimesTotal", puts.to_string());
        set(
            "putMessageFailedTimes",
            self.put_failures.load(Ordering::Relaxed).to_string(),
        );
        let bytes = self.put_bytes.load(Ordering::Relaxed);
        set("putMessageSizeTotal", bytes.to_string());
        set("putMessageAverageSize", average(bytes, puts));
        set(
            "startAcceptSendRequestTimeStamp",
            broker
                .config
                .get()
                .start_accept_send_request_time_stamp
                .to_string(),
        );
    }
}

fn add_store(broker: &Broker, table: &mut BTreeMap<String, String>) {
    let store = broker.store.stats();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    let ratio = format!("{:.2}", f64::from(store.disk_used_percent) / 100.0);
    let config = broker.config.get();
    set(
        &format!("commitLogDiskRatio_{}", config.store_path_commit_log),
        ratio.clone(),
    );
    set("commitLogDiskRatio", ratio.clone());
    set("consumeQueueDiskRatio", ratio);
    set("commitLogMinOffset", store.log_min.to_string());
    set("commitLogMaxOffset", store.log_max.to_string());
    set(
        "dispatchBehindBytes",
        store.log_max.saturating_sub(store.dispatched).to_string(),
    );
    set("dispatchMaxBuffer", "0".to_owned());
    set("remainTransientStoreBufferNumbs", i32::MAX.to_string());
    set(
        "remainHowManyDataToFlush",
        format!("{} B", store.log_max.saturating_sub(store.flushed)),
    );
    set(
        "earliestMessageTimeStamp",
        broker.store.earliest_log_time().unwrap_or(-1).to_string(),
    );
    set("pageCacheLockTimeMills", "0".to_owned());
    let latency = |fraction| {
        format!(
            "{:?}",
            store.put_latency.quantile(fraction).as_secs_f64() * 1000.0
        )
    };
    set("putLatency99", latency(0.99));
    set("putLatency999", latency(0.999));
    set(
        "putMessageEntireTimeMax",
        store.put_latency.quantile(1.0).as_millis().to_string(),
    );
    set("getMessageEntireTimeMax", "0".to_owned());
    set(
        "putMessageDistributeTime",
        distribution(&store.put_latency.counts),
    );
}

/// Groups with pending transactions that are listed, those with most first.
const PENDING_GROUPS_MAX: usize = 100;

/// Not in the original: what is undecided, by producer group with the store time of the oldest.
fn add_transactions(broker: &Broker, table: &mut BTreeMap<String, String>) {
    let totals = broker.transactions.totals();
    let mut set = |key: String, value: String| table.insert(key, value);
    set("transactionsPending".to_owned(), totals.pending.to_string());
    set(
        "transactionsCommitted".to_owned(),
        totals.committed.to_string(),
    );
    set(
        "transactionsRolledBack".to_owned(),
        totals.rolled_back.to_string(),
    );
    set("transactionsParked".to_owned(), totals.parked.to_string());
    set(
        "transactionChecksSent".to_owned(),
        totals.checks_sent.to_string(),
    );
    let oldest = totals.oldest_ms.map_or(0, |stored| {
        broker.clock.now_ms().saturating_sub(stored).max(0)
    });
    set("transactionsOldestAgeMillis".to_owned(), oldest.to_string());
    for group in broker.transactions.groups().iter().take(PENDING_GROUPS_MAX) {
        let value = format!("{},{}", group.pending, group.oldest_ms);
        set(format!("transactionsPending_{}", group.group), value);
    }
}

/// Not in the original: repeats that were recognised, and what is remembered for that.
fn add_dedup(broker: &Broker, table: &mut BTreeMap<String, String>) {
    let totals = broker.dedup.totals();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), value);
    set("dedupProducers", totals.producers.to_string());
    set("dedupSequences", totals.sequences.to_string());
    set("dedupRepeats", totals.repeats.to_string());
    set("dedupRefused", totals.refused.to_string());
}

/// Appends by how long they took, in the original's steps of which those above a second are one here.
fn distribution(counts: &[u64]) -> String {
    // A power of two of microseconds each: below 1 ms are the first eleven, and so on.
    const STEPS: [(&str, usize); 5] = [
        ("<=0ms", 11),
        ("0~10ms", 14),
        ("10~50ms", 16),
        ("50~1000ms", 20),
        ("1s~", usize::MAX),
    ];
    let mut from = 0;
    let mut text = String::new();
    for (name, to) in STEPS {
        let to = to.min(counts.len());
        let sum: u64 = counts.get(from..to).unwrap_or_default().iter().sum();
        let _ = write!(text, "[{name}]:{sum} ");
        from = to;
    }
    text
}

/// Days to seconds, in the original's brackets.
fn runtime_text(uptime: Duration) -> String {
    let seconds = uptime.as_secs();
    format!(
        "[ {} days, {} hours, {} minutes, {} seconds ]",
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[expect(clippy::cast_precision_loss, reason = "an average shown to operators")]
fn average(sum: u64, count: u64) -> String {
    format!("{:?}", sum as f64 / count.max(1) as f64)
}
