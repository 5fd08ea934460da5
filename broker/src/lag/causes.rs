//! From the facts about a queue to what stands in the way, what matters most first.
//!
//! Straight decisions on values, so that every cause is tested without a clock to wait for.

use agena_protocol::bodies::connections::MemberExpression;
use agena_protocol::bodies::lag::{LagCause, QueueLag};
use agena_protocol::bodies::topic_config::PERM_READ;
use agena_protocol::offset::QueueOffset;

use super::retries::QueueRetries;
use crate::offsets::trail::Recent;

/// An owner with work before it pulls within milliseconds, or has its pull held; one that did neither for so long does
/// not want more.
const SILENT_AFTER_MS: i64 = 5000;

/// Clients commit every five seconds; two of these without a move are no coincidence.
const STALLED_AFTER_MS: i64 = 10_000;

/// A read that went to the device this long ago still counts.
const COLD_FOR_MS: i64 = 60_000;

/// What the causes are told from, beside the numbers that are shown anyway.
pub(super) struct Facts<'a> {
    pub(super) now_ms: i64,
    pub(super) broker_permission: i32,
    pub(super) topic_permission: i32,
    /// The group may not consume.
    pub(super) group_disabled: bool,
    /// The group may not read the topic.
    pub(super) topic_forbidden: bool,
    /// Where the next pull is sent.
    pub(super) reset: Option<QueueOffset>,
    pub(super) broadcasting: bool,
    /// How many are connected.
    pub(super) members: usize,
    /// What the group subscribes of the topic; none without members, or when they do not subscribe it.
    pub(super) subscription: Option<Subscription>,
    /// A pull of the group waits at the queue.
    pub(super) held: bool,
    pub(super) stalled_since_ms: i64,
    pub(super) cold_ms: Option<i64>,
    /// Bytes a second that all readers with a backlog get, if this is one.
    pub(super) paced: Option<f64>,
    pub(super) recent: Recent,
    /// Looks up the id of the first message that is not committed, which reads the log.
    pub(super) first_message_id: &'a dyn Fn() -> Option<String>,
    pub(super) retries: QueueRetries,
}

/// What a group subscribes of a topic.
pub(super) struct Subscription {
    pub(super) expression_type: String,
    pub(super) expression: String,
    /// Why the expression does not parse.
    pub(super) fault: Option<String>,
    /// What each member says, when they do not agree.
    pub(super) conflict: Vec<MemberExpression>,
}

/// What stands in the way; at least [`LagCause::CaughtUp`] or [`LagCause::Consuming`].
pub(super) fn of(lag: &QueueLag, facts: &Facts<'_>) -> Vec<LagCause> {
    let mut causes = Vec::new();
    if lag.lag > 0 {
        settings(facts, &mut causes);
        if let Some(messages) = lag.committed.map(|offset| lag.min_offset - offset)
            && messages > 0
        {
            causes.push(LagCause::ExpiredUnread { messages });
        }
        if facts.broadcasting {
            causes.push(LagCause::Broadcasting);
        } else {
            consumers(lag, facts, &mut causes);
        }
    }
    retries(&facts.retries, &mut causes);
    if causes.is_empty() {
        causes.push(if lag.lag > 0 {
            LagCause::Consuming
        } else {
            LagCause::CaughtUp
        });
    }
    causes
}

/// What an operator has set.
fn settings(facts: &Facts<'_>, causes: &mut Vec<LagCause>) {
    if facts.broker_permission & PERM_READ == 0 {
        let permission = facts.broker_permission;
        causes.push(LagCause::BrokerUnreadable { permission });
    }
    if facts.topic_permission & PERM_READ == 0 {
        let permission = facts.topic_permission;
        causes.push(LagCause::TopicUnreadable { permission });
    }
    if facts.group_disabled {
        causes.push(LagCause::GroupDisabled);
    }
    if facts.topic_forbidden {
        causes.push(LagCause::TopicForbidden);
    }
    if let Some(offset) = facts.reset {
        let offset = offset.wire();
        causes.push(LagCause::ResetPending { offset });
    }
}

/// What the members do or leave undone.
fn consumers(lag: &QueueLag, facts: &Facts<'_>, causes: &mut Vec<LagCause>) {
    if facts.members == 0 {
        causes.push(LagCause::NoMembers);
        causes.extend(locked(lag));
        return;
    }
    let Some(subscription) = &facts.subscription else {
        let members = facts.members;
        causes.push(LagCause::NotSubscribed { members });
        return;
    };
    if let Some(reason) = &subscription.fault {
        causes.push(LagCause::BadExpression {
            expression: subscription.expression.clone(),
            reason: reason.clone(),
        });
    }
    if !subscription.conflict.is_empty() {
        let members = subscription.conflict.clone();
        causes.push(LagCause::SubscriptionConflict { members });
    }
    causes.extend(locked(lag));
    let blocked = !causes.is_empty();
    match &lag.last_pull {
        Some(pull) if pull.connected => owner(lag, facts, causes),
        _ if blocked => {}
        last => causes.push(LagCause::NoOwner {
            members: facts.members,
            since: last.as_ref().map(|pull| pull.at),
            by: last.as_ref().map(|pull| pull.by.clone()),
        }),
    }
}

/// A lock keeps others away; it stands in the way when its holder does not pull.
fn locked(lag: &QueueLag) -> Option<LagCause> {
    let lock = lag.lock.as_ref()?;
    let puller = lag.last_pull.as_ref().filter(|pull| pull.connected);
    let holder_pulls = puller.is_some_and(|pull| pull.by == lock.client_id);
    (!holder_pulls).then(|| LagCause::Locked {
        holder: lock.client_id.clone(),
        until: lock.until,
        connected: lock.connected,
        puller: puller.map(|pull| pull.by.clone()),
    })
}

/// What the member that pulls this queue does.
fn owner(lag: &QueueLag, facts: &Facts<'_>, causes: &mut Vec<LagCause>) {
    let Some(pull) = &lag.last_pull else {
        return;
    };
    let owner = pull.by.as_str();
    if !facts.held && facts.now_ms - pull.at >= SILENT_AFTER_MS {
        causes.push(LagCause::OwnerSilent {
            owner: owner.to_owned(),
            since: pull.at,
            in_flight: lag.in_flight,
        });
    }
    let stalled_ms = facts.now_ms - facts.stalled_since_ms;
    if lag.in_flight > 0 && stalled_ms >= STALLED_AFTER_MS {
        causes.push(LagCause::NotCommitting {
            owner: owner.to_owned(),
            since: facts.stalled_since_ms,
            in_flight: lag.in_flight,
            offset: lag.max_offset - lag.lag,
            message_id: (facts.first_message_id)(),
        });
    }
    reading(facts, causes);
    causes.extend(pace(lag));
}

/// What the reads themselves meet.
fn reading(facts: &Facts<'_>, causes: &mut Vec<LagCause>) {
    let Recent {
        looked_at, given, ..
    } = facts.recent;
    if let Some(subscription) = &facts.subscription
        && looked_at > given.saturating_mul(2)
    {
        causes.push(LagCause::Filtered {
            expression_type: subscription.expression_type.clone(),
            expression: subscription.expression.clone(),
            looked_at,
            given,
        });
    }
    if let Some(at) = facts.cold_ms
        && facts.now_ms - at < COLD_FOR_MS
    {
        causes.push(LagCause::ColdRead { at });
    }
    if let Some(bytes_per_second) = facts.paced {
        causes.push(LagCause::Paced { bytes_per_second });
    }
}

/// How the race between producers and consumers goes, once both speeds are known.
#[expect(
    clippy::cast_precision_loss,
    reason = "a forecast in seconds, shown to operators"
)]
fn pace(lag: &QueueLag) -> Option<LagCause> {
    let (in_per_second, out_per_second) = (lag.in_per_second?, lag.out_per_second?);
    if out_per_second > in_per_second {
        return Some(LagCause::Draining {
            in_per_second,
            out_per_second,
            empty_in_seconds: lag.lag as f64 / (out_per_second - in_per_second),
        });
    }
    (in_per_second > 0.0).then_some(LagCause::FallingBehind {
        in_per_second,
        out_per_second,
    })
}

fn retries(retries: &QueueRetries, causes: &mut Vec<LagCause>) {
    causes.extend(retries.failing.iter().cloned());
    causes.extend(retries.waiting.clone());
}

#[cfg(test)]
mod tests {
    use agena_protocol::bodies::lag::{Contact, OrderLock};

    use super::*;

    const NOW_MS: i64 = 1_000_000;

    fn no_id() -> Option<String> {
        Some("id".into())
    }

    fn subscribed() -> Subscription {
        Subscription {
            expression_type: "TAG".into(),
            expression: "a".into(),
            fault: None,
            conflict: Vec::new(),
        }
    }

    /// A healthy queue with a lag of 100, whose owner pulled a moment ago.
    fn healthy() -> (QueueLag, Facts<'static>) {
        let lag = QueueLag {
            max_offset: 150,
            committed: Some(50),
            lag: 100,
            last_pull: Some(Contact {
                at: NOW_MS - 10,
                by: "a".into(),
                connected: true,
                offset: 50,
            }),
            ..QueueLag::default()
        };
        let facts = Facts {
            now_ms: NOW_MS,
            broker_permission: 6,
            topic_permission: 6,
            group_disabled: false,
            topic_forbidden: false,
            reset: None,
            broadcasting: false,
            members: 1,
            subscription: Some(subscribed()),
            held: false,
            stalled_since_ms: NOW_MS,
            cold_ms: None,
            paced: None,
            recent: Recent::default(),
            first_message_id: &no_id,
            retries: QueueRetries::default(),
        };
        (lag, facts)
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut QueueLag, &mut Facts<'static>), expected: &[LagCause]) {
        let (mut lag, mut facts) = healthy();
        change(&mut lag, &mut facts);
        assert_eq!(of(&lag, &facts), expected);
    }

    #[test]
    fn a_healthy_queue_is_consumed_or_caught_up() {
        check(|_, _| {}, &[LagCause::Consuming]);
        check(|lag, _| lag.lag = 0, &[LagCause::CaughtUp]);
    }

    #[test]
    fn an_owner_that_stopped_pulling_is_silent_unless_its_pull_is_held() {
        let silent = |lag: &mut QueueLag| lag.last_pull.as_mut().unwrap().at = NOW_MS - 5000;
        let expected = LagCause::OwnerSilent {
            owner: "a".into(),
            since: NOW_MS - 5000,
            in_flight: 0,
        };
        check(|lag, _| silent(lag), &[expected]);
        let held = |lag: &mut QueueLag, facts: &mut Facts<'static>| {
            silent(lag);
            facts.held = true;
        };
        check(held, &[LagCause::Consuming]);
    }

    #[test]
    fn an_owner_that_commits_nothing_for_ten_seconds_is_named_with_the_message() {
        let stalled = |since: i64| {
            move |lag: &mut QueueLag, facts: &mut Facts<'static>| {
                lag.in_flight = 32;
                facts.stalled_since_ms = since;
            }
        };
        check(stalled(NOW_MS - 9999), &[LagCause::Consuming]);
        let expected = LagCause::NotCommitting {
            owner: "a".into(),
            since: NOW_MS - 10_000,
            in_flight: 32,
            offset: 50,
            message_id: Some("id".into()),
        };
        check(stalled(NOW_MS - 10_000), &[expected]);
    }

    #[test]
    fn a_lock_stands_in_the_way_when_its_holder_does_not_pull() {
        let lock = |holder: &str| {
            Some(OrderLock {
                client_id: holder.into(),
                until: NOW_MS + 1,
                connected: false,
            })
        };
        check(|lag, _| lag.lock = lock("a"), &[LagCause::Consuming]);
        let expected = LagCause::Locked {
            holder: "b".into(),
            until: NOW_MS + 1,
            connected: false,
            puller: Some("a".into()),
        };
        check(|lag, _| lag.lock = lock("b"), &[expected]);
    }

    #[test]
    fn a_filter_that_rejects_more_than_half_is_named() {
        let recent = |looked_at, given| Recent {
            rates: None,
            looked_at,
            given,
        };
        check(
            |_, facts| facts.recent = recent(100, 50),
            &[LagCause::Consuming],
        );
        let expected = LagCause::Filtered {
            expression_type: "TAG".into(),
            expression: "a".into(),
            looked_at: 100,
            given: 49,
        };
        check(|_, facts| facts.recent = recent(100, 49), &[expected]);
    }

    #[test]
    fn cold_reads_count_for_a_minute() {
        check(
            |_, facts| facts.cold_ms = Some(NOW_MS - 60_000),
            &[LagCause::Consuming],
        );
        let at = NOW_MS - 59_999;
        check(
            |_, facts| facts.cold_ms = Some(at),
            &[LagCause::ColdRead { at }],
        );
    }

    #[test]
    fn the_forecast_is_lag_over_the_difference_of_speeds() {
        let speeds = |came: f64, went: f64| {
            move |lag: &mut QueueLag, _: &mut Facts<'static>| {
                (lag.in_per_second, lag.out_per_second) = (Some(came), Some(went));
            }
        };
        let draining = LagCause::Draining {
            in_per_second: 5.0,
            out_per_second: 30.0,
            empty_in_seconds: 4.0,
        };
        check(speeds(5.0, 30.0), &[draining]);
        let falling = LagCause::FallingBehind {
            in_per_second: 30.0,
            out_per_second: 30.0,
        };
        check(speeds(30.0, 30.0), &[falling]);
        check(speeds(0.0, 0.0), &[LagCause::Consuming]);
    }

    #[test]
    fn what_was_deleted_before_it_was_read_is_counted() {
        check(
            |lag, _| lag.min_offset = 60,
            &[LagCause::ExpiredUnread { messages: 10 }],
        );
    }

    #[test]
    fn without_members_nothing_is_said_of_an_owner() {
        check(
            |lag, facts| {
                facts.members = 0;
                facts.subscription = None;
                lag.last_pull = None;
            },
            &[LagCause::NoMembers],
        );
    }
}
