//! What becomes of a message that is not to be delivered at once: under which topic it waits, with which properties.
//!
//! Source: spec/semantics.md §5.1.1, §5.2.1–3; Apache `HookUtils.handleScheduleMessage`.

use agena_protocol::properties::{self, Properties, PropertiesBuf};
use agena_protocol::queue::QueueId;
use agena_protocol::topic;
use thiserror::Error;

use super::levels::clamp_level;
use super::timers::{TimerRules, out_ms};

/// What sends are allowed to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendRules {
    /// How many delay levels there are.
    pub levels: usize,
    /// `timerWheelEnable`: messages may name a time of their own.
    pub timers_enabled: bool,
    /// `timerMaxDelaySec`, in ms: how far ahead that time may lie.
    pub timer_delay_max_ms: i64,
    /// The grid of stored times.
    pub timers: TimerRules,
}

/// Where a message waits instead of being delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// The system topic it is stored under.
    pub topic: &'static str,
    /// The queue of that topic.
    pub queue_id: QueueId,
    /// Its encoded properties, the real topic and queue among them.
    pub properties: Vec<u8>,
    /// The time that stands in the recall handle of the answer; `None` when the message cannot be recalled.
    pub recall_ms: Option<i64>,
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DelayRefused {
    /// Code 13.
    #[error(
        "timer message illegal, the delay time should not be bigger than the max delay {max_ms}ms; or if set del msg, the delay time should be bigger than the current time"
    )]
    Illegal {
        /// How far ahead a time may lie.
        max_ms: i64,
    },
    /// Code 1.
    #[error("accurate timer message is not enabled, timerWheelEnable is false")]
    TimersDisabled,
}

/// Whether any of the properties asks for a delay. Cheap; most messages end here.
pub fn asks_for_delay(properties: Properties<'_>) -> bool {
    properties.pairs().any(|(name, _)| {
        name == properties::DELAY.as_bytes()
            || name == properties::TIMER_DELIVER_MS.as_bytes()
            || name == properties::TIMER_DELAY_MS.as_bytes()
            || name == properties::TIMER_DELAY_SEC.as_bytes()
    })
}

/// Decides where a message for `real_topic` and `real_queue` goes: `None` when it is delivered at once.
///
/// # Errors
/// [`DelayRefused`].
pub fn redirect(
    properties: Properties<'_>,
    real_topic: &str,
    real_queue: QueueId,
    now_ms: i64,
    rules: SendRules,
) -> Result<Option<Redirect>, DelayRefused> {
    let level = properties
        .get(properties::DELAY)
        .and_then(|text| text.trim().parse().ok())
        .and_then(|level| clamp_level(level, rules.levels));
    if let Some(level) = level {
        return Ok(Some(to_level(properties, real_topic, real_queue, level)));
    }
    match wished_time(properties, now_ms) {
        None => Ok(None),
        // A message that comes with a place in the wheel was there before; it is delivered now.
        Some(_) if properties.get(properties::TIMER_OUT_MS).is_some() => Ok(None),
        Some(_) if real_topic == topic::TIMER_WHEEL => Ok(None),
        Some(_) if !rules.timers_enabled => Err(DelayRefused::TimersDisabled),
        Some(due_ms) => to_timer(properties, real_topic, real_queue, due_ms, now_ms, rules),
    }
}

fn to_level(
    properties: Properties<'_>,
    real_topic: &str,
    real_queue: QueueId,
    level: usize,
) -> Redirect {
    let mut waiting = PropertiesBuf::parse(properties.encoded());
    for timer in [
        properties::TIMER_DELIVER_MS,
        properties::TIMER_DELAY_MS,
        properties::TIMER_DELAY_SEC,
    ] {
        waiting.remove(timer);
    }
    waiting.set(properties::DELAY, level.to_string());
    Redirect {
        topic: topic::SCHEDULE,
        queue_id: QueueId::new(u32::try_from(level - 1).unwrap_or(u32::MAX)),
        properties: with_real(waiting, real_topic, real_queue),
        recall_ms: None,
    }
}

fn to_timer(
    properties: Properties<'_>,
    real_topic: &str,
    real_queue: QueueId,
    due_ms: Result<i64, ()>,
    now_ms: i64,
    rules: SendRules,
) -> Result<Option<Redirect>, DelayRefused> {
    let illegal = DelayRefused::Illegal {
        max_ms: rules.timer_delay_max_ms,
    };
    let due_ms = due_ms.map_err(|()| illegal)?;
    if due_ms <= now_ms {
        let is_recall = properties.get(properties::TIMER_DEL_UNIQKEY).is_some();
        return if is_recall { Err(illegal) } else { Ok(None) };
    }
    if due_ms.saturating_sub(now_ms) > rules.timer_delay_max_ms {
        return Err(illegal);
    }
    let out_ms = out_ms(due_ms, rules.timers);
    let mut waiting = PropertiesBuf::parse(properties.encoded());
    waiting.set(properties::TIMER_OUT_MS, out_ms.to_string());
    Ok(Some(Redirect {
        topic: topic::TIMER_WHEEL,
        queue_id: QueueId::new(0),
        properties: with_real(waiting, real_topic, real_queue),
        // One more than the step, so that a recall, rounded the same way, meets the same step.
        recall_ms: (!topic::is_retry(real_topic)).then_some(out_ms + 1),
    }))
}

fn with_real(mut waiting: PropertiesBuf, real_topic: &str, real_queue: QueueId) -> Vec<u8> {
    waiting.set(properties::REAL_TOPIC, real_topic);
    waiting.set(properties::REAL_QID, real_queue.to_string());
    waiting.encode()
}

/// The time that a message names, the first of three ways that it uses; an error when that is no number.
fn wished_time(properties: Properties<'_>, now_ms: i64) -> Option<Result<i64, ()>> {
    let number = |text: &str| text.parse::<i64>().map_err(drop);
    if let Some(text) = properties.get(properties::TIMER_DELAY_SEC) {
        let ahead = number(text).map(|seconds| seconds.saturating_mul(1000));
        return Some(ahead.map(|ahead| now_ms.saturating_add(ahead)));
    }
    if let Some(text) = properties.get(properties::TIMER_DELAY_MS) {
        return Some(number(text).map(|ahead| now_ms.saturating_add(ahead)));
    }
    properties.get(properties::TIMER_DELIVER_MS).map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_500;

    fn rules() -> SendRules {
        SendRules {
            levels: 18,
            timers_enabled: true,
            timer_delay_max_ms: 259_200_000,
            timers: TimerRules::default(),
        }
    }

    fn send(pairs: &[(&str, &str)]) -> Result<Option<Redirect>, DelayRefused> {
        send_with(pairs, rules())
    }

    fn send_with(
        pairs: &[(&str, &str)],
        rules: SendRules,
    ) -> Result<Option<Redirect>, DelayRefused> {
        let mut buffer = PropertiesBuf::new();
        for (name, value) in pairs {
            buffer.set(name, *value);
        }
        let encoded = buffer.encode();
        let properties = Properties::new(&encoded);
        assert_eq!(
            asks_for_delay(properties),
            pairs.iter().any(|(name, _)| {
                *name == "DELAY" || (name.starts_with("TIMER_DE") && *name != "TIMER_DEL_UNIQKEY")
            })
        );
        redirect(properties, "T", QueueId::new(2), NOW, rules)
    }

    #[test]
    fn a_level_waits_in_its_queue_and_beats_timers() {
        let waiting = send(&[("DELAY", "3"), ("TIMER_DELAY_SEC", "9"), ("a", "b")])
            .unwrap()
            .unwrap();
        assert_eq!(
            (waiting.topic, waiting.queue_id),
            ("SCHEDULE_TOPIC_XXXX", QueueId::new(2))
        );
        let properties = Properties::new(&waiting.properties);
        assert_eq!(properties.get("TIMER_DELAY_SEC"), None);
        assert_eq!(properties.get("REAL_TOPIC"), Some("T"));
        assert_eq!(properties.get("REAL_QID"), Some("2"));
        assert_eq!(properties.get("a"), Some("b"));
        assert_eq!(waiting.recall_ms, None);
    }

    #[test]
    fn a_level_beyond_the_last_becomes_the_last() {
        let waiting = send(&[("DELAY", "99")]).unwrap().unwrap();
        assert_eq!(waiting.queue_id, QueueId::new(17));
        assert_eq!(
            Properties::new(&waiting.properties).get("DELAY"),
            Some("18")
        );
        assert_eq!(send(&[("DELAY", "0")]), Ok(None));
        assert_eq!(send(&[("DELAY", "-1")]), Ok(None));
    }

    #[test]
    fn a_timer_keeps_its_request_and_gets_the_step_before() {
        let waiting = send(&[("TIMER_DELAY_MS", "3500")]).unwrap().unwrap();
        assert_eq!(
            (waiting.topic, waiting.queue_id),
            ("rmq_sys_wheel_timer", QueueId::new(0))
        );
        let properties = Properties::new(&waiting.properties);
        assert_eq!(properties.get("TIMER_OUT_MS"), Some("1700000003000"));
        assert_eq!(properties.get("TIMER_DELAY_MS"), Some("3500"));
        assert_eq!(waiting.recall_ms, Some(1_700_000_003_001));
    }

    #[test]
    fn a_time_in_the_past_is_now_and_one_too_far_is_refused() {
        assert_eq!(send(&[("TIMER_DELIVER_MS", "1700000000500")]), Ok(None));
        assert!(send(&[("TIMER_DELAY_SEC", "259200")]).unwrap().is_some());
        let refused = send(&[("TIMER_DELAY_SEC", "259201")]).unwrap_err();
        assert!(refused.to_string().starts_with("timer message illegal, the delay time should not be bigger than the max delay 259200000ms; "));
        assert!(send(&[("TIMER_DELIVER_MS", "soon")]).is_err());
        let late_recall = [("TIMER_DELIVER_MS", "5"), ("TIMER_DEL_UNIQKEY", "T+u")];
        assert!(send(&late_recall).is_err());
    }

    #[test]
    fn disabled_timers_are_refused_by_name() {
        let disabled = SendRules {
            timers_enabled: false,
            ..rules()
        };
        assert_eq!(
            send_with(&[("TIMER_DELAY_SEC", "1")], disabled),
            Err(DelayRefused::TimersDisabled)
        );
        assert!(send_with(&[("DELAY", "1")], disabled).unwrap().is_some());
    }
}
