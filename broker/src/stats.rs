//! What this broker did, for operators: totals and rates since the start, and counts by topic and group over the last
//! minute, hour and day (requests 28 and 315). One lock of its own per counter, taken once per batch.
//! Apache: `BrokerStats`, `BrokerStatsManager`, `StoreStatsService`.

mod meter;
mod runtime;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agena_protocol::bodies::stats::{BrokerStatsData, BrokerStatsItem};
use agena_protocol::clock::Clock;
use chrono::NaiveDate;
use parking_lot::Mutex;

pub(crate) use meter::Tally;
use meter::{Meter, Rate, Window};

use crate::local_time;
use crate::name_table::NameTable;

/// What consumers got at the start of a day, and of the day before.
#[derive(Debug, Default, Clone, Copy)]
struct Mornings {
    day: Option<NaiveDate>,
    put_today: u64,
    put_yesterday: u64,
    got_today: u64,
    got_yesterday: u64,
}

/// All counters of a broker.
#[derive(Debug)]
pub(crate) struct Stats {
    boot_ms: i64,
    puts: AtomicU64,
    put_failures: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    put_rate: Rate,
    /// Pulls that found something, pulls that found nothing, both, and messages given.
    found_rate: Rate,
    miss_rate: Rate,
    pull_rate: Rate,
    transferred_rate: Rate,
    mornings: Mutex<Mornings>,
    topic_puts: NameTable<Meter>,
    /// By `topic@group`.
    group_gets: NameTable<Meter>,
    sent_back: NameTable<Meter>,
    dead_lettered: NameTable<Meter>,
    broker_puts: Meter,
    broker_gets: Meter,
}

thread_local! {
    /// A key that is put together without allocating.
    static KEY: RefCell<String> = const { RefCell::new(String::new()) };
}

impl Stats {
    /// Counts from now on.
    #[must_use]
    pub(crate) fn new(clock: &dyn Clock) -> Self {
        Self {
            boot_ms: clock.now_ms(),
            puts: AtomicU64::new(0),
            put_failures: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            put_rate: Rate::default(),
            found_rate: Rate::default(),
            miss_rate: Rate::default(),
            pull_rate: Rate::default(),
            transferred_rate: Rate::default(),
            mornings: Mutex::default(),
            topic_puts: NameTable::default(),
            group_gets: NameTable::default(),
            sent_back: NameTable::default(),
            dead_lettered: NameTable::default(),
            broker_puts: Meter::default(),
            broker_gets: Meter::default(),
        }
    }

    /// Messages were stored under `topic`.
    pub(crate) fn put(&self, topic: &str, tally: Tally, now_ms: i64) {
        self.puts.fetch_add(tally.messages, Ordering::Relaxed);
        self.put_bytes.fetch_add(tally.bytes, Ordering::Relaxed);
        self.put_rate.add(now_ms, tally.messages);
        self.broker_puts.add(now_ms, tally);
        meter(&self.topic_puts, topic).add(now_ms, tally);
    }

    /// Messages could not be stored.
    pub(crate) fn put_failed(&self, messages: usize) {
        self.put_failures
            .fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// `group` was given messages of `topic`.
    pub(crate) fn got(&self, group: &str, topic: &str, tally: Tally, now_ms: i64) {
        self.gets.fetch_add(tally.messages, Ordering::Relaxed);
        self.found_rate.add(now_ms, 1);
        self.pull_rate.add(now_ms, 1);
        self.transferred_rate.add(now_ms, tally.messages);
        self.broker_gets.add(now_ms, tally);
        by_group(&self.group_gets, topic, group, |meter| {
            meter.add(now_ms, tally)
        });
    }

    /// A pull found nothing.
    pub(crate) fn missed(&self, now_ms: i64) {
        self.miss_rate.add(now_ms, 1);
        self.pull_rate.add(now_ms, 1);
    }

    /// `group` sent a message of `topic` back for another try.
    pub(crate) fn sent_back(&self, group: &str, topic: &str, now_ms: i64) {
        by_group(&self.sent_back, topic, group, |meter| {
            meter.add(now_ms, ONE)
        });
    }

    /// A message of `topic` is dead for `group`.
    pub(crate) fn dead_lettered(&self, group: &str, topic: &str, now_ms: i64) {
        by_group(&self.dead_lettered, topic, group, |meter| {
            meter.add(now_ms, ONE)
        });
    }

    /// Messages a second stored under `topic`, over the last minute.
    #[must_use]
    pub(crate) fn topic_put_tps(&self, topic: &str, now_ms: i64) -> f64 {
        self.topic_puts.get(topic).map_or(0.0, |meter| {
            let sum = meter.sum(Window::Minute, now_ms);
            sum.per_second(sum.tally.messages)
        })
    }

    /// Messages a second of `topic` given to `group`, over the last minute.
    #[must_use]
    pub(crate) fn group_get_tps(&self, group: &str, topic: &str, now_ms: i64) -> f64 {
        self.group_gets
            .get(&format!("{topic}@{group}"))
            .map_or(0.0, |meter| {
                let sum = meter.sum(Window::Minute, now_ms);
                sum.per_second(sum.tally.messages)
            })
    }

    /// The counter that request 315 names, if it has counted anything yet.
    #[must_use]
    pub(crate) fn view(&self, name: &str, key: &str, now_ms: i64) -> Option<BrokerStatsData> {
        let view = |meter: Option<Arc<Meter>>, count: fn(&Tally) -> u64| {
            meter.map(|meter| view_of(&meter, count, now_ms))
        };
        let messages: fn(&Tally) -> u64 = |tally| tally.messages;
        let bytes: fn(&Tally) -> u64 = |tally| tally.bytes;
        match name {
            "TOPIC_PUT_NUMS" => view(self.topic_puts.get(key), messages),
            "TOPIC_PUT_SIZE" => view(self.topic_puts.get(key), bytes),
            "GROUP_GET_NUMS" => view(self.group_gets.get(key), messages),
            "GROUP_GET_SIZE" => view(self.group_gets.get(key), bytes),
            "SNDBCK_PUT_NUMS" => view(self.sent_back.get(key), messages),
            "DLQ_PUT_NUMS" => view(self.dead_lettered.get(key), messages),
            "BROKER_PUT_NUMS" => Some(view_of(&self.broker_puts, messages, now_ms)),
            "BROKER_GET_NUMS" => Some(view_of(&self.broker_gets, messages, now_ms)),
            _ => None,
        }
    }

    /// Forgets a topic that was deleted.
    pub(crate) fn remove_topic(&self, topic: &str) {
        self.topic_puts.remove(topic);
        let ours = |key: &str| key.split_once('@').is_some_and(|(of, _)| of == topic);
        self.forget(ours);
    }

    /// Forgets a group that was deleted.
    pub(crate) fn remove_group(&self, group: &str) {
        self.forget(|key| key.split_once('@').is_some_and(|(_, of)| of == group));
    }

    fn forget(&self, unwanted: impl Fn(&str) -> bool) {
        for table in [&self.group_gets, &self.sent_back, &self.dead_lettered] {
            for (key, _) in table.entries() {
                if unwanted(&key) {
                    table.remove(&key);
                }
            }
        }
    }

    /// Notes the totals at the first call of each local day.
    pub(crate) fn turn_of_day(&self, now_ms: i64) {
        let day = local_time::day(now_ms);
        let mut mornings = self.mornings.lock();
        if mornings.day == day {
            return;
        }
        *mornings = Mornings {
            day,
            put_today: self.puts.load(Ordering::Relaxed),
            put_yesterday: mornings.put_today,
            got_today: self.gets.load(Ordering::Relaxed),
            got_yesterday: mornings.got_today,
        };
    }
}

const ONE: Tally = Tally {
    times: 1,
    messages: 1,
    bytes: 0,
};

fn meter(table: &NameTable<Meter>, key: &str) -> Arc<Meter> {
    table.get_or_insert_with(key, Arc::default)
}

fn by_group(table: &NameTable<Meter>, topic: &str, group: &str, count: impl FnOnce(&Meter)) {
    KEY.with_borrow_mut(|key| {
        key.clear();
        key.push_str(topic);
        key.push('@');
        key.push_str(group);
        count(&meter(table, key));
    });
}

#[expect(clippy::cast_precision_loss, reason = "an average shown to operators")]
fn view_of(meter: &Meter, count: fn(&Tally) -> u64, now_ms: i64) -> BrokerStatsData {
    let item = |window| {
        let sum = meter.sum(window, now_ms);
        let counted = count(&sum.tally);
        BrokerStatsItem {
            sum: i64::try_from(counted).unwrap_or(i64::MAX),
            tps: sum.per_second(counted),
            avgpt: counted as f64 / sum.tally.times.max(1) as f64,
        }
    };
    BrokerStatsData {
        stats_minute: item(Window::Minute),
        stats_hour: item(Window::Hour),
        stats_day: item(Window::Day),
    }
}
