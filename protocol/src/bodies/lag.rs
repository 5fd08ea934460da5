//! Why a group is behind, queue by queue: answer to our own request 900002. Facts only; words are the reader's.
//!
//! Times are milliseconds since 1970, offsets numbers of messages within a queue. Fields and causes may be added, none is
//! renamed or removed.

use serde::{Deserialize, Serialize};

use super::connections::{MemberExpression, SubscriptionConflict};

/// What one broker knows of a group's progress.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LagExplanation {
    /// The group.
    pub group: String,
    /// The broker that says so.
    pub broker_name: String,
    /// Ids of the connected members.
    pub members: Vec<String>,
    /// Every member gets every message, and keeps its offsets itself.
    pub broadcasting: bool,
    /// Topics that the members do not subscribe alike.
    pub subscription_conflicts: Vec<SubscriptionConflict>,
    /// The queues, by topic and number.
    pub queues: Vec<QueueLag>,
}

/// How far a group is in one queue, and why it is not further.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QueueLag {
    /// The topic.
    pub topic: String,
    /// The queue's number.
    pub queue_id: i32,
    /// First message there is.
    pub min_offset: i64,
    /// Behind the last message.
    pub max_offset: i64,
    /// The next message the group wants; none before its first commit.
    pub committed: Option<i64>,
    /// Messages that are there and not consumed.
    pub lag: i64,
    /// Age of the next message, ms; 0 when there is none.
    pub behind_ms: i64,
    /// Messages that were given out and are not committed.
    pub in_flight: i64,
    /// The last pull.
    pub last_pull: Option<Contact>,
    /// The last commit.
    pub last_commit: Option<Contact>,
    /// The lock of a consumer in order.
    pub lock: Option<OrderLock>,
    /// Messages a second that came, over the last half minute; none while that is not known.
    pub in_per_second: Option<f64>,
    /// Messages a second that were committed, over the last half minute.
    pub out_per_second: Option<f64>,
    /// Why the group is behind, what matters most first. Never empty.
    pub causes: Vec<LagCause>,
}

/// What a client last did at a queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Contact {
    /// When.
    pub at: i64,
    /// Its client id, or its address if it never sent a heartbeat.
    pub by: String,
    /// It is a connected member of the group now.
    pub connected: bool,
    /// The offset it named.
    pub offset: i64,
}

/// Who may consume a queue in order, and until when without renewal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrderLock {
    /// The holder's client id.
    pub client_id: String,
    /// When the lock ends unless it is renewed.
    pub until: i64,
    /// The holder is a connected member of the group now.
    pub connected: bool,
}

/// Why a group is behind in a queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "SCREAMING_SNAKE_CASE",
    rename_all_fields = "camelCase"
)]
pub enum LagCause {
    /// It is not behind.
    CaughtUp,
    /// The broker gives nothing to read.
    BrokerUnreadable {
        /// `brokerPermission`.
        permission: i32,
    },
    /// The topic has no read permission.
    TopicUnreadable {
        /// Its permission bits.
        permission: i32,
    },
    /// The group may not consume (`consumeEnable=false`).
    GroupDisabled,
    /// The group is forbidden for the topic.
    TopicForbidden,
    /// Every member keeps its own offsets: the broker's say nothing.
    Broadcasting,
    /// A reset waits for the next pull.
    ResetPending {
        /// Where the pull will be sent.
        offset: i64,
    },
    /// Messages were deleted before they were consumed.
    ExpiredUnread {
        /// How many.
        messages: i64,
    },
    /// No member is connected.
    NoMembers,
    /// Members are connected, and none subscribes the topic.
    NotSubscribed {
        /// How many are connected.
        members: usize,
    },
    /// The group's expression does not parse, so that its pulls are refused.
    BadExpression {
        /// The expression.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Members of the group subscribe differently: each takes the others' messages away.
    SubscriptionConflict {
        /// What each says.
        members: Vec<MemberExpression>,
    },
    /// The lock of a consumer in order is held by one that does not pull.
    Locked {
        /// The holder's client id.
        holder: String,
        /// When the lock ends unless it is renewed.
        until: i64,
        /// The holder is connected.
        connected: bool,
        /// Who pulls instead, if anybody does.
        puller: Option<String>,
    },
    /// Members are connected, and none of them pulls this queue.
    NoOwner {
        /// How many are connected.
        members: usize,
        /// When anybody pulled it last.
        since: Option<i64>,
        /// Who that was.
        by: Option<String>,
    },
    /// The owner is connected and does not ask for more: it was suspended, or has as much as it may hold.
    OwnerSilent {
        /// Its client id.
        owner: String,
        /// When it pulled last.
        since: i64,
        /// What it was given and has not committed.
        in_flight: i64,
    },
    /// The owner was given messages and commits none: its handler hangs, is slow, or fails.
    NotCommitting {
        /// Its client id.
        owner: String,
        /// Since when nothing moved.
        since: i64,
        /// What it was given and has not committed.
        in_flight: i64,
        /// The first message that is not committed.
        offset: i64,
        /// That message's id.
        message_id: Option<String>,
    },
    /// The filter rejects most of what there is: the group reads on without being given anything.
    Filtered {
        /// `TAG` or `SQL92`.
        expression_type: String,
        /// The expression.
        expression: String,
        /// Messages looked at over the last half minute.
        looked_at: u64,
        /// Those of them that were given out.
        given: u64,
    },
    /// The messages are no longer in memory and are read from the device.
    ColdRead {
        /// When one was last.
        at: i64,
    },
    /// The reader is far behind, and shares a limit with all others that are, while messages come in.
    Paced {
        /// What all of them get.
        bytes_per_second: f64,
    },
    /// A message fails again and again.
    FailingAgain {
        /// Topic of the original message.
        topic: String,
        /// Its queue, while the log has it.
        queue_id: Option<i32>,
        /// Its offset, while the log has it.
        offset: Option<i64>,
        /// Its id.
        message_id: String,
        /// How often it was sent back.
        times: i32,
    },
    /// Messages wait for their next try.
    WaitingForRetry {
        /// How many.
        messages: usize,
        /// When the first is due.
        first_due: i64,
        /// When the last is due.
        last_due: i64,
        /// There were too many delayed messages to look at all: there may be more of this group.
        at_least: bool,
    },
    /// It consumes faster than messages come.
    Draining {
        /// Messages a second that come.
        in_per_second: f64,
        /// Messages a second that are committed.
        out_per_second: f64,
        /// Seconds until nothing is left, if it goes on so.
        empty_in_seconds: f64,
    },
    /// Messages come at least as fast as it consumes.
    FallingBehind {
        /// Messages a second that come.
        in_per_second: f64,
        /// Messages a second that are committed.
        out_per_second: f64,
    },
    /// It is being consumed; how fast is not known yet.
    Consuming,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fastjson::{self, KeyStyle};

    #[test]
    fn causes_are_named_and_survive_the_wire() {
        let queue = QueueLag {
            topic: "T".into(),
            committed: Some(3),
            out_per_second: Some(2.5),
            causes: vec![
                LagCause::NoOwner {
                    members: 2,
                    since: None,
                    by: None,
                },
                LagCause::WaitingForRetry {
                    messages: 1,
                    first_due: 5,
                    last_due: 6,
                    at_least: false,
                },
                LagCause::Consuming,
            ],
            ..QueueLag::default()
        };
        let text = fastjson::to_vec(&queue, KeyStyle::Bare);
        let shown = String::from_utf8(text.clone()).unwrap();
        assert!(shown.contains(r#""kind":"WAITING_FOR_RETRY""#), "{shown}");
        assert!(shown.contains(r#""firstDue":5"#), "{shown}");
        let again: QueueLag = fastjson::from_slice(&text).unwrap();
        assert_eq!(again, queue);
    }
}
