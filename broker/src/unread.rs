//! Which messages below a place of the log groups have not read: what is lost when the log is cut there.
//!
//! A group counts where it has committed an offset. Looking ends after [`LOOK_MAX`]: there may be many groups on many
//! queues, and retention waits meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use agena_protocol::queue::QueueId;
use agena_store::Going;

use crate::broker::Broker;

/// For how long groups are looked at.
const LOOK_MAX: Duration = Duration::from_secs(3);

/// Lines about one file that goes unread; what is left is in one line more.
const LINES_MAX: usize = 50;

/// What one group has not read of one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unread {
    pub(crate) group: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) queue: QueueId,
    /// Messages that there still are and whose records lie below each of the places that were asked for.
    pub(crate) messages: Vec<u64>,
}

/// What was found, in no order.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(crate) unread: Vec<Unread>,
    /// Whether there was time for all.
    pub(crate) is_complete: bool,
}

/// What groups have not read below each of `places`, ascending offsets of the log; of one topic, or of all.
pub(crate) fn below(broker: &Broker, places: &[u64], topic: Option<&str>) -> Survey {
    let store = &broker.store;
    let deadline = broker.clock.monotonic() + LOOK_MAX;
    let mut survey = Survey {
        unread: Vec::new(),
        is_complete: true,
    };
    // Groups share queues: each is searched once.
    let mut known: HashMap<(Arc<str>, QueueId), Vec<u64>> = HashMap::new();
    broker.offsets.visit(topic, |group, topic, committed| {
        for (queue, committed) in committed {
            if broker.clock.monotonic() > deadline {
                survey.is_complete = false;
                return false;
            }
            // Nearly everybody is through.
            if *committed >= store.max_offset(topic, *queue) {
                continue;
            }
            let ends = known.entry((Arc::clone(topic), *queue)).or_insert_with(|| {
                let end = |place: &u64| store.offset_at(topic, *queue, *place).number();
                places.iter().map(end).collect()
            });
            let from = store.min_offset(topic, *queue).max(*committed).number();
            let messages: Vec<u64> = ends.iter().map(|end| end.saturating_sub(from)).collect();
            if messages.iter().any(|messages| *messages > 0) {
                survey.unread.push(Unread {
                    group: Arc::clone(group),
                    topic: Arc::clone(topic),
                    queue: *queue,
                    messages,
                });
            }
        }
        true
    });
    survey
}

/// Names in the log who loses what with a file that goes before its time.
pub(crate) fn say_lost(broker: &Broker, going: &Going) {
    let mut survey = below(broker, &[going.to], None);
    let lost = |unread: &Unread| unread.messages.first().copied().unwrap_or(0);
    survey
        .unread
        .sort_by_key(|unread| std::cmp::Reverse(lost(unread)));
    let total: u64 = survey.unread.iter().map(lost).sum();
    for unread in survey.unread.iter().take(LINES_MAX) {
        tracing::warn!(
            group = &*unread.group,
            topic = &*unread.topic,
            queue = unread.queue.number(),
            messages = lost(unread),
            "a group loses messages that it has not read"
        );
    }
    if !survey.unread.is_empty() || !survey.is_complete {
        tracing::warn!(
            file = %going.file.display(),
            why = ?going.why,
            messages = total,
            queues = survey.unread.len(),
            all_groups_looked_at = survey.is_complete,
            "a log file goes before its time, with messages that groups have not read"
        );
    }
}
