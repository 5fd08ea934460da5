//! Queues that the broker assigns to clients, and whether a group pulls or pops: requests 400, 401 and 402.
//!
//! The assignment covers the queues of this broker. Pop is not served, so a group that is set to it is still told to pull. Source:
//! spec/wire.md §4.5.1, §4.5.2; Apache `QueryAssignmentProcessor`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use agena_protocol::bodies::assignment::{
    MessageQueueAssignment, MessageRequestMode, MessageRequestModeSerializeWrapper,
    QueryAssignmentRequestBody, QueryAssignmentResponseBody, SetMessageRequestModeRequestBody,
};
use agena_protocol::bodies::heartbeat::MessageModel;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::queue::MessageQueue;
use agena_protocol::response_code::ResponseCode;
use agena_protocol::topic;
use agena_remoting::connection::Connection;
use parking_lot::Mutex;

use super::topic::{queue_of, queues};
use super::{Answer, body, system_error, with_json};
use crate::broker::Broker;
use crate::send::Refused;
use crate::snapshot_files::{SnapshotError, SnapshotFile};

/// How groups get their messages, by topic and group (`messageRequestMode.json`).
#[derive(Debug)]
pub(crate) struct RequestModes {
    file: SnapshotFile,
    modes: Mutex<MessageRequestModeSerializeWrapper>,
}

impl RequestModes {
    /// Reads the file.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) fn open(directory: &Path) -> Result<Self, SnapshotError> {
        let file = SnapshotFile::new(directory, "messageRequestMode.json");
        let modes = file.load()?.unwrap_or_default();
        Ok(Self {
            file,
            modes: Mutex::new(modes),
        })
    }

    fn set(&self, mode: SetMessageRequestModeRequestBody) -> Result<(), SnapshotError> {
        let text = {
            let mut modes = self.modes.lock();
            let groups = modes
                .message_request_mode_map
                .entry(mode.topic.clone())
                .or_default();
            groups.insert(mode.consumer_group.clone(), mode);
            fastjson::to_vec(&*modes, KeyStyle::Bare)
        };
        self.file.save(&text)
    }
}

/// Request 401.
pub(crate) fn set_mode(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let mode: SetMessageRequestModeRequestBody = body(request)?;
    if topic::is_retry(&mode.topic) {
        let remark = "retry topic is not allowed to set mode";
        return Err(Refused::new(ResponseCode::NoPermission, remark));
    }
    broker.request_modes.set(mode)?;
    Ok(Command::success())
}

/// Request 402.
pub(crate) fn all_modes(broker: &Arc<Broker>, _: &Arc<Connection>, _: &Command) -> Answer {
    Ok(with_json(&*broker.request_modes.modes.lock()))
}

/// Request 400.
pub(crate) fn query(broker: &Arc<Broker>, _: &Arc<Connection>, request: &Command) -> Answer {
    let asked: QueryAssignmentRequestBody = body(request)?;
    let config = broker.topics.get(&asked.topic);
    let all: Vec<MessageQueue> = config
        .map(|config| {
            let queues = queues(config.read_queue_nums);
            queues
                .map(|queue| queue_of(broker, &asked.topic, queue))
                .collect()
        })
        .unwrap_or_default();
    let mine = match asked.message_model {
        MessageModel::Broadcasting => all,
        MessageModel::Clustering => {
            let members = broker.sessions.consumer_ids(&asked.consumer_group);
            let mut members: Vec<String> = members
                .unwrap_or_default()
                .iter()
                .map(ToString::to_string)
                .collect();
            members.sort();
            share(&asked, &members, all)?
        }
    };
    let assignments = mine
        .into_iter()
        .map(|message_queue| MessageQueueAssignment {
            attachments: None::<BTreeMap<String, String>>,
            message_queue,
            mode: MessageRequestMode::Pull,
        });
    Ok(with_json(&QueryAssignmentResponseBody {
        message_queue_assignments: Some(assignments.collect()),
    }))
}

fn share(
    asked: &QueryAssignmentRequestBody,
    members: &[String],
    all: Vec<MessageQueue>,
) -> Result<Vec<MessageQueue>, Refused> {
    let Ok(at) = members.binary_search(&asked.client_id) else {
        return Ok(Vec::new());
    };
    match asked.strategy_name.as_str() {
        "AVG" => Ok(average(all, members.len(), at)),
        "AVG_BY_CIRCLE" => Ok(all.into_iter().skip(at).step_by(members.len()).collect()),
        other => Err(system_error(format!("strategy {other} is not supported"))),
    }
}

/// The share of member `at` of `members`: consecutive queues, one more for the first ones when they do not come out even.
fn average<Q>(all: Vec<Q>, members: usize, at: usize) -> Vec<Q> {
    let (each, rest) = (all.len() / members, all.len() % members);
    let begin = at * each + at.min(rest);
    let count = each + usize::from(at < rest);
    all.into_iter().skip(begin).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even_and_leave_nothing_out() {
        for (queues, members) in [(8, 3), (2, 5), (7, 7), (0, 2), (16, 1)] {
            let shares = (0..members).map(|at| average((0..queues).collect(), members, at));
            let shares: Vec<Vec<usize>> = shares.collect();
            let all: Vec<usize> = shares.iter().flatten().copied().collect();
            assert_eq!(all, (0..queues).collect::<Vec<_>>());
            let sizes = shares.iter().map(Vec::len);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
