//! Topic names: what is allowed, what is reserved, and the names derived from groups.
//!
//! Remarks are the original's, word for word, since tools show them. Source: spec/semantics.md §2.2, §2.3; Apache
//! `TopicValidator`, `MixAll`, `KeyBuilder`.

use thiserror::Error;

/// Longest topic name in characters, prefixes included.
pub const TOPIC_CHARS_MAX: usize = 127;

/// Prefix of a group's retry topic.
pub const RETRY_PREFIX: &str = "%RETRY%";

/// Prefix of a group's dead letter topic.
pub const DLQ_PREFIX: &str = "%DLQ%";

/// Prefix of light queues.
pub const LMQ_PREFIX: &str = "%LMQ%";

/// Prefix of topics that the system made for itself.
pub const SYSTEM_PREFIX: &str = "rmq_sys_";

/// The template that topics are created from on first send.
pub const AUTO_CREATE: &str = "TBW102";
/// Where delayed messages wait, one queue a level.
pub const SCHEDULE: &str = "SCHEDULE_TOPIC_XXXX";
/// The topic of the benchmark tools.
pub const BENCHMARK: &str = "BenchmarkTest";
/// Prepared messages of open transactions.
pub const TRANS_HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Which prepared messages are settled.
pub const TRANS_OP_HALF: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Prepared messages whose checks were all in vain.
pub const TRANS_CHECK_MAX_TIME: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Message traces.
pub const TRACE: &str = "RMQ_SYS_TRACE_TOPIC";
/// The topic of self tests.
pub const SELF_TEST: &str = "SELF_TEST_TOPIC";
/// Events about moved offsets.
pub const OFFSET_MOVED_EVENT: &str = "OFFSET_MOVED_EVENT";
/// Reserved by the original for checkpoints.
pub const CHECKPOINT: &str = "CHECKPOINT_TOPIC";
/// Where timer messages wait.
pub const TIMER_WHEEL: &str = "rmq_sys_wheel_timer";

/// Prefix of the topic that pop receipts are kept in; the cluster's name follows.
pub const REVIVE_LOG_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
/// Prefix of the topic whose route names a broker's group members; the broker's name follows.
pub const SYNC_BROKER_MEMBER_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";
/// Suffix of the topic that replies go to; the cluster's name precedes.
pub const REPLY_POSTFIX: &str = "REPLY_TOPIC";

/// Names that are reserved on every broker; each broker adds its own name, its cluster's and those derived of them.
pub const SYSTEM_TOPICS: [&str; 10] = [
    AUTO_CREATE,
    SCHEDULE,
    BENCHMARK,
    TRANS_HALF,
    TRACE,
    TRANS_OP_HALF,
    TRANS_CHECK_MAX_TIME,
    SELF_TEST,
    OFFSET_MOVED_EVENT,
    CHECKPOINT,
];

/// Topics no client may send to.
pub const NOT_SENDABLE: [&str; 6] = [
    SCHEDULE,
    TRANS_HALF,
    TRANS_OP_HALF,
    TRANS_CHECK_MAX_TIME,
    SELF_TEST,
    OFFSET_MOVED_EVENT,
];

/// Why a name is no topic name. The text is the remark of the answer (code 29).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TopicFault {
    /// Empty, or nothing but white space.
    #[error("The specified topic is blank.")]
    Blank,
    /// A character outside the allowed ones.
    #[error("The specified topic contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacters,
    /// Over [`TOPIC_CHARS_MAX`].
    #[error("The specified topic is longer than topic max length.")]
    TooLong,
}

/// Whether `name` consists of allowed characters only: `%`, `|`, `_`, `-`, letters and digits of ASCII.
#[must_use]
pub fn has_legal_characters(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'_' | b'-'))
}

/// Checks a topic's name as the original does before it creates or sends.
///
/// # Errors
/// The first [`TopicFault`], in the original's order.
pub fn check(topic: &str) -> Result<(), TopicFault> {
    if topic.trim().is_empty() {
        return Err(TopicFault::Blank);
    }
    if !has_legal_characters(topic) {
        return Err(TopicFault::IllegalCharacters);
    }
    if topic.len() > TOPIC_CHARS_MAX {
        return Err(TopicFault::TooLong);
    }
    Ok(())
}

/// Reserved on every broker: a system topic, or any name with the system's prefix.
#[must_use]
pub fn is_system(topic: &str) -> bool {
    SYSTEM_TOPICS.contains(&topic) || topic.starts_with(SYSTEM_PREFIX)
}

/// The remark with which an administrator's change of a system topic is refused (code 29).
#[must_use]
pub fn system_conflict_remark(topic: &str) -> String {
    format!("The topic[{topic}] is conflict with system topic.")
}

/// Whether clients may send to it. The refusal is code 16 with [`not_sendable_remark`].
#[must_use]
pub fn is_sendable(topic: &str) -> bool {
    !NOT_SENDABLE.contains(&topic)
}

/// The remark with which a send to a forbidden topic is refused (code 16).
#[must_use]
pub fn not_sendable_remark(topic: &str) -> String {
    format!("Sending message to topic[{topic}] is forbidden.")
}

/// The topic a group's messages wait in before they are tried again.
#[must_use]
pub fn retry_of(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The topic of the messages a group gave up on.
#[must_use]
pub fn dlq_of(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// The group behind a retry topic.
#[must_use]
pub fn group_of_retry(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// The group behind a dead letter topic.
#[must_use]
pub fn group_of_dlq(topic: &str) -> Option<&str> {
    topic.strip_prefix(DLQ_PREFIX)
}

/// A retry topic, of either kind.
#[must_use]
pub fn is_retry(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

/// A dead letter topic.
#[must_use]
pub fn is_dlq(topic: &str) -> bool {
    topic.starts_with(DLQ_PREFIX)
}

/// The retry topic of a pop consumer for one topic, first form (the default).
#[must_use]
pub fn pop_retry_v1(topic: &str, group: &str) -> String {
    format!("{RETRY_PREFIX}{group}_{topic}")
}

/// The retry topic of a pop consumer for one topic, second form, which can be taken apart.
#[must_use]
pub fn pop_retry_v2(topic: &str, group: &str) -> String {
    format!("{RETRY_PREFIX}{group}+{topic}")
}

/// The topic that replies of a cluster's request-reply exchanges go to.
#[must_use]
pub fn reply_of(cluster: &str) -> String {
    format!("{cluster}_{REPLY_POSTFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_in_the_original_s_order() {
        assert_eq!(check(""), Err(TopicFault::Blank));
        assert_eq!(check(" \t"), Err(TopicFault::Blank));
        assert_eq!(check("a b"), Err(TopicFault::IllegalCharacters));
        assert_eq!(check("größe"), Err(TopicFault::IllegalCharacters));
        assert_eq!(check(&"x".repeat(128)), Err(TopicFault::TooLong));
        assert_eq!(check(&"x".repeat(127)), Ok(()));
        assert_eq!(check("%RETRY%a|b_c-9"), Ok(()));
        let long_and_illegal = "!".repeat(200);
        assert_eq!(check(&long_and_illegal), Err(TopicFault::IllegalCharacters));
    }

    #[test]
    fn derived_names_go_both_ways() {
        assert_eq!(group_of_retry(&retry_of("CG")), Some("CG"));
        assert_eq!(group_of_dlq(&dlq_of("CG")), Some("CG"));
        assert_eq!(group_of_retry("CG"), None);
        assert_eq!(pop_retry_v1("T", "CG"), "%RETRY%CG_T");
        assert_eq!(pop_retry_v2("T", "CG"), "%RETRY%CG+T");
        assert_eq!(reply_of("DefaultCluster"), "DefaultCluster_REPLY_TOPIC");
    }

    #[test]
    fn reserved_and_sendable_are_two_things() {
        assert!(is_system(AUTO_CREATE) && is_sendable(AUTO_CREATE));
        assert!(is_system(SCHEDULE) && !is_sendable(SCHEDULE));
        assert!(is_system("rmq_sys_anything") && is_sendable("rmq_sys_anything"));
        assert!(!is_system("orders"));
    }
}
