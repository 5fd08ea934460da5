//! What retention removes next, when, and who has not read it: request 900001, our own.

use std::collections::HashMap;
use std::sync::Arc;

use agena_protocol::bodies::retention::{
    ExpiringFile, RetentionExplanation, RetentionRules, UnreadCount,
};
use agena_protocol::command::Command;
use agena_protocol::headers::admin::ExplainRetentionRequest;
use agena_remoting::connection::Connection;
use agena_store::{NextFile, Retention};

use super::{Answer, system_error, with_json};
use crate::broker::Broker;
use crate::unread::{self, Survey};

/// Files of one answer.
const FILES_MAX: usize = 16;
/// Groups and topics that are named for each.
const NAMED_MAX: usize = 20;

/// Request 900001.
pub(crate) fn explain(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let header: ExplainRetentionRequest<'_> = request.header()?;
    let topic = header.topic.filter(|topic| !topic.is_empty());
    let outlook = broker.store.retention_outlook(FILES_MAX);
    let outlook = outlook.map_err(|fault| system_error(fault.to_string()))?;
    let places: Vec<u64> = outlook.next.iter().map(|file| file.to).collect();
    let survey = unread::below(broker, &places, topic);
    let next = outlook.next.iter().enumerate();
    Ok(with_json(&RetentionExplanation {
        disk_available: outlook.space.available,
        disk_total: outlook.space.total,
        disk_used_percent: outlook.space.used_percent(),
        files: outlook.files,
        log_bytes: outlook.log_bytes,
        next: next.map(|(at, file)| expiring(file, &survey, at)).collect(),
        now: broker.clock.now_ms(),
        rules: rules(&outlook.retention),
        unread_is_complete: survey.is_complete,
    }))
}

fn rules(retention: &Retention) -> RetentionRules {
    RetentionRules {
        delete_hours: retention.delete_hours.clone(),
        expire_percent: retention.expire_ratio,
        force: retention.force,
        force_percent: retention.force_ratio,
        log_bytes_max: retention.log_bytes_max,
        refuse_percent: retention.refuse_ratio,
        reserved_ms: u64::try_from(retention.reserved.as_millis()).unwrap_or(u64::MAX),
    }
}

/// `at` is the number of the file's place in the survey.
fn expiring(file: &NextFile, survey: &Survey, at: usize) -> ExpiringFile {
    let mut counts: HashMap<(&str, &str), u64> = HashMap::new();
    for unread in &survey.unread {
        let messages = unread.messages.get(at).copied().unwrap_or(0);
        if messages > 0 {
            *counts.entry((&*unread.group, &*unread.topic)).or_default() += messages;
        }
    }
    let mut unread: Vec<UnreadCount> = counts
        .into_iter()
        .map(|((group, topic), messages)| UnreadCount {
            group: group.to_owned(),
            messages,
            topic: topic.to_owned(),
        })
        .collect();
    unread.sort_by(|a, b| {
        let name = |count: &UnreadCount| (count.group.clone(), count.topic.clone());
        b.messages
            .cmp(&a.messages)
            .then_with(|| name(a).cmp(&name(b)))
    });
    let more = unread.split_off(unread.len().min(NAMED_MAX));
    ExpiringFile {
        bytes_left: file.bytes_left,
        due: file.due_ms,
        expires: file.expires_ms,
        file: file.file.display().to_string(),
        from: file.from,
        last_written: file.written_ms,
        more_groups: more.len(),
        more_messages: more.iter().map(|count| count.messages).sum(),
        to: file.to,
        unread,
    }
}
