//! Queues: the entries of a consume queue, and how queues would be shared out.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::bodies::consume_queue::QueryConsumeQueueResponseBody;
use agena_protocol::command::Command;
use agena_protocol::queue::MessageQueue;
use agena_protocol::request_code::RequestCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;
use crate::pull::readable_queues;
use crate::remote::reader_address;

pub(crate) const QUERY_CQ: SubCommand = SubCommand {
    name: "queryCq",
    about: "Query cq command.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('q', "queue", "queue num, ie. 1").required(),
        value('i', "index", "start queue index.").required(),
        value('c', "count", "how many."),
        value('b', "broker", "broker addr."),
        value('g', "consumer", "consumer group."),
    ],
    examples: &[
        example(
            "-t Orders -q 0 -i 42 -c 2",
            "log offset, size and tag hash of two entries",
        ),
        example(
            "-t Orders -q 0 -i 42 -g Billing",
            "and whether the group's filter takes them",
        ),
    ],
    json: r#"{"topic","queueId","index","minQueueIndex","maxQueueIndex","queueData":[{"physicOffset","physicSize","tagsCode","eval",...}],...}"#,
    run: query_cq,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entries {
    topic: String,
    queue_id: i32,
    index: i64,
    #[serde(flatten)]
    body: QueryConsumeQueueResponseBody,
}

const BAR: &str = "======================================";

impl Display for Entries {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(data) = &self.body.subscription_data {
            writeln!(
                f,
                "Subscription data: \n{} {}\n{BAR}",
                data.topic, data.sub_string
            )?;
        }
        if let Some(data) = &self.body.filter_data {
            writeln!(f, "Filter data: \n{data}\n{BAR}")?;
        }
        writeln!(
            f,
            "Queue data: \nmax: {}, min: {}",
            self.body.max_queue_index, self.body.min_queue_index
        )?;
        writeln!(f, "{BAR}")?;
        for (index, entry) in (self.index..).zip(&self.body.queue_data) {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "null".to_owned());
            writeln!(f, "idx: {index}")?;
            writeln!(
                f,
                "ConsumeQueueData{{physicOffset={}, physicSize={}, tagsCode={}, extendDataJson='{}', bitMap='{}', eval={}, msg='{}'}}",
                entry.physic_offset,
                entry.physic_size,
                entry.tags_code,
                text(&entry.extend_data_json),
                text(&entry.bit_map),
                entry.eval,
                text(&entry.msg)
            )?;
            writeln!(f, "{BAR}")?;
        }
        Ok(())
    }
}

fn query_cq(call: &mut Call) -> Result<(), Failure> {
    let options = &call.options;
    let topic = options.required("topic")?.to_owned();
    let queue_id: i32 = options.number("queue")?.unwrap_or(0);
    let index: i64 = options.number("index")?.unwrap_or(0);
    let count: i32 = options.number("count")?.unwrap_or(10);
    let address = match options.get("broker") {
        Some(address) => address.to_owned(),
        None => call
            .remote
            .route(&topic)?
            .broker_datas
            .iter()
            .find_map(reader_address)
            .ok_or_else(|| Failure::Absent(format!("topic {topic} is on no broker")))?,
    };
    let mut request = Command::request(RequestCode::QueryConsumeQueue)
        .with_ext("topic", &topic)
        .with_ext("queueId", queue_id)
        .with_ext("index", index)
        .with_ext("count", count);
    if let Some(group) = call.options.get("consumer") {
        request = request.with_ext("consumerGroup", group);
    }
    let body = call.remote.ask_for(
        &format!("asking for entries of queue {queue_id}"),
        &address,
        request,
    )?;
    call.out.show(&Entries {
        topic,
        queue_id,
        index,
        body,
    })
}

pub(crate) const ALLOCATE_MQ: SubCommand = SubCommand {
    name: "allocateMQ",
    about: "Allocate MQ.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('i', "ipList", "ipList").required(),
    ],
    examples: &[example(
        "-t Orders -i 10.0.0.1,10.0.0.2",
        "which member of a group would get which queue, by average",
    )],
    json: r#"{"result":{"10.0.0.1":[{"brokerName","queueId","topic"}]}}, the text too"#,
    run: allocate_mq,
};

#[derive(Serialize)]
struct Allocation {
    result: BTreeMap<String, Vec<MessageQueue>>,
}

impl Display for Allocation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self).map_err(|_| fmt::Error)?;
        writeln!(f, "{text}")
    }
}

fn allocate_mq(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let members: Vec<&str> = call
        .options
        .required("ipList")?
        .split(',')
        .map(str::trim)
        .collect();
    let queues: Vec<MessageQueue> = readable_queues(call, &topic, &topic)?
        .into_iter()
        .map(|queue| MessageQueue::new(queue.topic, queue.broker_name, queue.queue_id))
        .collect();
    let result = by_average(&queues, &members);
    call.out.show(&Allocation { result })
}

/// Runs of neighbours, the first members having one more where it does not come out even.
fn by_average(queues: &[MessageQueue], members: &[&str]) -> BTreeMap<String, Vec<MessageQueue>> {
    let (each, more) = (queues.len() / members.len(), queues.len() % members.len());
    let mut rest = queues;
    let mut result = BTreeMap::new();
    for (index, member) in members.iter().enumerate() {
        let (own, others) = rest.split_at(each + usize::from(index < more));
        result.insert((*member).to_owned(), own.to_vec());
        rest = others;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_out_evenly_in_runs() {
        let queues: Vec<MessageQueue> = (0..4)
            .map(|number| MessageQueue::new("T", "b", number))
            .collect();
        let shares = by_average(&queues, &["x", "y", "z"]);
        let numbers = |member: &str| {
            shares[member]
                .iter()
                .map(|queue| queue.queue_id)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            (numbers("x"), numbers("y"), numbers("z")),
            (vec![0, 1], vec![2], vec![3])
        );
    }
}
