//! Timers that their senders took back before they were due.

use std::collections::HashMap;

use agena_protocol::properties::{self, Properties};

/// Marks by `topic+unique key`, each until a little after the message would have been due.
#[derive(Debug, Default)]
pub(super) struct Recalled {
    marks: HashMap<String, i64>,
}

impl Recalled {
    /// The message `key` is not to be delivered; the mark may go at `forget_ms`.
    pub(super) fn add(&mut self, key: String, forget_ms: i64) {
        self.marks.insert(key, forget_ms);
    }

    /// Whether a message with these properties was taken back.
    pub(super) fn has(&self, properties: Properties<'_>) -> bool {
        if self.marks.is_empty() || properties.get(properties::TIMER_DEL_UNIQKEY).is_some() {
            return false;
        }
        let topic = properties.get(properties::REAL_TOPIC);
        let unique_key = properties.get(properties::UNIQ_KEY);
        match (topic, unique_key) {
            (Some(topic), Some(unique_key)) => self
                .marks
                .contains_key(&super::recall::delete_key(topic, unique_key)),
            _ => false,
        }
    }

    /// Forgets marks whose time is over.
    pub(super) fn forget(&mut self, now_ms: i64) {
        if !self.marks.is_empty() {
            self.marks.retain(|_, forget_ms| *forget_ms > now_ms);
        }
    }
}
