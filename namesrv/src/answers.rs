//! Encoded route answers, kept until what they say changes: a route request then costs a look-up.

use std::collections::HashMap;

use agena_protocol::fastjson::KeyStyle;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::tables::Touched;

/// Answers by topic, in both dialects. Only topics that exist have answers, so there are no more than those.
///
/// Changed only under the lock of the tables that the answers are made from: put while it is held for reading,
/// forgotten while it is held for writing. So no answer outlives the state it was made from.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    by_topic: RwLock<HashMap<String, Dialects>>,
}

#[derive(Debug, Default)]
struct Dialects {
    quoted: Option<Bytes>,
    bare: Option<Bytes>,
}

impl Answers {
    pub(crate) fn get(&self, topic: &str, keys: KeyStyle) -> Option<Bytes> {
        let by_topic = self.by_topic.read();
        let dialects = by_topic.get(topic)?;
        match keys {
            KeyStyle::Quoted => dialects.quoted.clone(),
            KeyStyle::Bare => dialects.bare.clone(),
        }
    }

    pub(crate) fn put(&self, topic: &str, keys: KeyStyle, answer: Bytes) {
        let mut by_topic = self.by_topic.write();
        let dialects = by_topic.entry(topic.to_owned()).or_default();
        match keys {
            KeyStyle::Quoted => dialects.quoted = Some(answer),
            KeyStyle::Bare => dialects.bare = Some(answer),
        }
    }

    pub(crate) fn forget(&self, touched: &Touched) {
        match touched {
            Touched::Nothing => {}
            Touched::Topics(topics) => {
                let mut by_topic = self.by_topic.write();
                for topic in topics {
                    by_topic.remove(topic);
                }
            }
            Touched::Everything => *self.by_topic.write() = HashMap::new(),
        }
    }
}
