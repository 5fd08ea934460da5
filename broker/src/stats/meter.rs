//! Counts per time window that cost nothing while nobody counts: a bucket is made by the first event that falls into it,
//! and no task samples anything. Apache: `StatsItem`, `StatsSnapshot`, which sample every item every ten seconds.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// What is counted together, since it always happens together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests or calls.
    pub times: u64,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.times += other.times;
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// A window behind now, with the steps it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// Six steps of ten seconds.
    Minute,
    /// Six steps of ten minutes.
    Hour,
    /// Twenty-four steps of an hour.
    Day,
}

impl Window {
    fn step_s(self) -> u64 {
        match self {
            Self::Minute => 10,
            Self::Hour => 600,
            Self::Day => 3600,
        }
    }

    fn steps(self) -> u64 {
        match self {
            Self::Minute | Self::Hour => 6,
            Self::Day => 24,
        }
    }
}

/// What fell into a window, and how long that window really was: shorter than its name while counting is young.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    /// The events.
    pub tally: Tally,
    /// Seconds they are spread over, at least one.
    pub seconds: f64,
}

impl Sum {
    /// `count` a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate shown to operators")]
    pub(super) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.seconds.max(1.0)
    }
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Number of the step since 1970.
    step: u64,
    tally: Tally,
}

/// Buckets of one window, oldest first; those that are empty do not exist.
#[derive(Debug, Default)]
struct Ring {
    buckets: VecDeque<Bucket>,
}

impl Ring {
    fn add(&mut self, window: Window, now_s: u64, tally: Tally) {
        let step = now_s / window.step_s();
        match self.buckets.back_mut() {
            // A clock that was set back counts into the newest bucket instead of making a mess of the order.
            Some(bucket) if bucket.step >= step => bucket.tally.add(tally),
            _ => {
                while self.buckets.len() as u64 > window.steps() {
                    self.buckets.pop_front();
                }
                self.buckets.push_back(Bucket { step, tally });
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of at most a day")]
    fn sum(&self, window: Window, now_s: u64) -> Sum {
        let first = (now_s / window.step_s()).saturating_sub(window.steps());
        let mut tally = Tally::default();
        let recent = self.buckets.iter().filter(|bucket| bucket.step > first);
        recent.for_each(|bucket| tally.add(bucket.tally));
        let begin_s = (first + 1) * window.step_s();
        Sum {
            tally,
            seconds: now_s.saturating_sub(begin_s).max(1) as f64,
        }
    }
}

#[derive(Debug, Default)]
struct Rings {
    minute: Ring,
    hour: Ring,
    day: Ring,
}

/// Counts over the last minute, hour and day.
#[derive(Debug, Default)]
pub(super) struct Meter {
    rings: Mutex<Rings>,
}

impl Meter {
    /// Counts what happened at `now_ms`.
    pub(super) fn add(&self, now_ms: i64, tally: Tally) {
        let now_s = seconds(now_ms);
        let mut rings = self.rings.lock();
        rings.minute.add(Window::Minute, now_s, tally);
        rings.hour.add(Window::Hour, now_s, tally);
        rings.day.add(Window::Day, now_s, tally);
    }

    /// What fell into `window`.
    pub(super) fn sum(&self, window: Window, now_ms: i64) -> Sum {
        let now_s = seconds(now_ms);
        let rings = self.rings.lock();
        match window {
            Window::Minute => rings.minute.sum(window, now_s),
            Window::Hour => rings.hour.sum(window, now_s),
            Window::Day => rings.day.sum(window, now_s),
        }
    }
}

/// The longest span of a [`Rate`].
const RATE_SECONDS_MAX: u64 = 600;

/// Events a second over the last 10, 60 and 600 seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    seconds: Mutex<VecDeque<(u64, u64)>>,
}

impl Rate {
    /// Counts `count` events at `now_ms`.
    pub(super) fn add(&self, now_ms: i64, count: u64) {
        let now_s = seconds(now_ms);
        let mut ring = self.seconds.lock();
        match ring.back_mut() {
            Some((second, sum)) if *second >= now_s => *sum += count,
            _ => {
                ring.push_back((now_s, count));
                while ring
                    .front()
                    .is_some_and(|(second, _)| second + RATE_SECONDS_MAX < now_s)
                {
                    ring.pop_front();
                }
            }
        }
    }

    /// The three averages as the original prints them; those of spans longer than `uptime_s` are left out.
    #[expect(clippy::cast_precision_loss, reason = "a rate shown to operators")]
    pub(super) fn text(&self, now_ms: i64, uptime_s: u64) -> String {
        let now_s = seconds(now_ms);
        let ring = self.seconds.lock();
        let average = |span: u64| {
            // The running second is left out: it is not over.
            let counted = ring
                .iter()
                .filter(|(second, _)| *second < now_s && second + span >= now_s)
                .map(|(_, count)| count);
            counted.sum::<u64>() as f64 / span as f64
        };
        [10, 60, RATE_SECONDS_MAX]
            .map(|span| {
                if uptime_s >= span {
                    format!("{:?}", average(span))
                } else {
                    String::new()
                }
            })
            .join(" ")
    }
}

fn seconds(ms: i64) -> u64 {
    u64::try_from(ms / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(count: u64) -> Tally {
        Tally {
            times: 1,
            messages: count,
            bytes: 10 * count,
        }
    }

    #[test]
    fn a_window_forgets_what_is_older() {
        let meter = Meter::default();
        meter.add(1_000_000, messages(5));
        meter.add(1_030_000, messages(7));
        assert_eq!(meter.sum(Window::Minute, 1_040_000).tally.messages, 12);
        assert_eq!(meter.sum(Window::Minute, 1_070_000).tally.messages, 7);
        assert_eq!(meter.sum(Window::Minute, 1_200_000).tally.messages, 0);
        assert_eq!(meter.sum(Window::Hour, 1_200_000).tally.messages, 12);
    }

    #[test]
    fn buckets_are_bounded() {
        let meter = Meter::default();
        for second in 0..100_000 {
            meter.add(second * 1000, messages(1));
        }
        let rings = meter.rings.lock();
        assert!(rings.minute.buckets.len() <= 7 && rings.day.buckets.len() <= 25);
    }

    #[test]
    fn rates_are_averages_of_whole_seconds() {
        let rate = Rate::default();
        for second in 1000..1100 {
            rate.add(second * 1000, 50);
        }
        assert_eq!(rate.text(1_100_000, 100), "50.0 50.0 ");
        assert_eq!(rate.text(1_105_000, 9), "  ");
        assert_eq!(rate.text(1_105_000, 100), "25.0 45.833333333333336 ");
    }
}
