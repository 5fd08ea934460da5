//! A message's properties on their way into the log: what the producer wrote, plus what the broker adds.
//!
//! The usual message keeps its string as it came and gets the broker's pairs behind it, without being taken apart.

use std::ops::Range;

use agena_protocol::properties::{
    self as names, PROPERTY_SEPARATOR, Properties, PropertiesBuf, push_pair,
};

use crate::config::BrokerConfig;

/// What in a property string decides how its message is treated, found in one pass.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Noticed<'p> {
    pub(super) unique_key: Option<&'p str>,
    pub(super) keys: Option<&'p str>,
    /// A delay level or a timer: the delays decide.
    pub(super) is_delayed: bool,
    pub(super) delay_level: i32,
    pub(super) is_half: bool,
    pub(super) waits: Option<bool>,
    /// With `sequence`, what a repeat is recognised by.
    pub(super) producer_id: Option<&'p str>,
    pub(super) sequence: Option<&'p str>,
    /// A name that the broker owns: the string must be taken apart.
    owned_by_broker: bool,
}

impl<'p> Noticed<'p> {
    pub(super) fn in_string(encoded: &'p [u8]) -> Self {
        let mut noticed = Self::default();
        for (name, value) in Properties::new(encoded).iter() {
            match name {
                names::UNIQ_KEY => noticed.unique_key = Some(value),
                names::KEYS => noticed.keys = Some(value),
                names::DELAY => {
                    noticed.is_delayed = true;
                    noticed.delay_level = value.parse().unwrap_or(0);
                }
                names::TIMER_DELIVER_MS | names::TIMER_DELAY_MS | names::TIMER_DELAY_SEC => {
                    noticed.is_delayed = true;
                }
                names::TRAN_MSG => noticed.is_half = value.eq_ignore_ascii_case("true"),
                names::WAIT => noticed.waits = Some(value.eq_ignore_ascii_case("true")),
                names::PRODUCER_ID => noticed.producer_id = Some(value),
                names::SEQUENCE => noticed.sequence = Some(value),
                names::POP_CK | names::MSG_REGION | names::TRACE_ON | names::CLUSTER => {
                    noticed.owned_by_broker = true;
                }
                _ => {}
            }
        }
        noticed
    }
}

impl Noticed<'_> {
    /// A message that a consumer sends back with a delay; it is past its transaction.
    pub(super) fn is_delayed_retry(&self, reconsume_times: i32) -> bool {
        reconsume_times > 0 && self.delay_level > 0
    }
}

/// Appends the string to store behind `out` and says where it is. `unique_key` is added when the producer gave none.
pub(super) fn complete(
    out: &mut Vec<u8>,
    encoded: &[u8],
    noticed: &Noticed<'_>,
    unique_key: Option<&str>,
    config: &BrokerConfig,
) -> Range<usize> {
    let start = out.len();
    if noticed.owned_by_broker {
        out.extend_from_slice(&without_brokers_names(encoded));
    } else {
        out.extend_from_slice(encoded);
        // Older clients leave the last separator out; what is added must not run into their last value.
        if encoded
            .last()
            .is_some_and(|&last| last != PROPERTY_SEPARATOR)
        {
            out.push(PROPERTY_SEPARATOR);
        }
    }
    push_pair(out, names::MSG_REGION, &config.region_id);
    push_pair(
        out,
        names::TRACE_ON,
        if config.trace_on { "true" } else { "false" },
    );
    push_pair(out, names::CLUSTER, &config.broker_cluster_name);
    if let Some(unique_key) = unique_key {
        push_pair(out, names::UNIQ_KEY, unique_key);
    }
    start..out.len()
}

fn without_brokers_names(encoded: &[u8]) -> Vec<u8> {
    let mut properties = PropertiesBuf::parse(encoded);
    for name in [
        names::POP_CK,
        names::MSG_REGION,
        names::TRACE_ON,
        names::CLUSTER,
    ] {
        properties.remove(name);
    }
    properties.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(encoded: &[u8], unique_key: Option<&str>) -> String {
        let mut out = b"before".to_vec();
        let noticed = Noticed::in_string(encoded);
        let range = complete(
            &mut out,
            encoded,
            &noticed,
            unique_key,
            &BrokerConfig::default(),
        );
        String::from_utf8(out[range].to_vec()).unwrap()
    }

    #[test]
    fn the_brokers_pairs_follow_the_producers() {
        assert_eq!(
            completed(b"KEYS\x01k", Some("U")),
            "KEYS\u{1}k\u{2}MSG_REGION\u{1}DefaultRegion\u{2}TRACE_ON\u{1}true\u{2}CLUSTER\u{1}DefaultCluster\u{2}UNIQ_KEY\u{1}U\u{2}"
        );
    }

    #[test]
    fn a_producer_cannot_forge_what_the_broker_says() {
        let text = completed(b"POP_CK\x01x\x02CLUSTER\x01other\x02a\x01b\x02", None);
        assert!(text.starts_with("a\u{1}b\u{2}MSG_REGION"), "{text}");
        assert!(
            !text.contains("POP_CK") && !text.contains("other"),
            "{text}"
        );
    }

    #[test]
    fn what_decides_is_noticed() {
        let noticed = Noticed::in_string(b"DELAY\x013\x02WAIT\x01false\x02TRAN_MSG\x01true\x02");
        assert!(noticed.is_delayed && noticed.is_half);
        assert_eq!((noticed.delay_level, noticed.waits), (3, Some(false)));
    }
}
