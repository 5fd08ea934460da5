//! Order configuration: which brokers have how many queues of an ordered topic, kept in the name servers' namespace
//! `ORDER_TOPIC_CONFIG`.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use serde::Serialize;

use crate::call::Call;
use crate::command::{SubCommand, example, value};
use crate::failure::Failure;

use super::kv;

const NAMESPACE: &str = "ORDER_TOPIC_CONFIG";

pub(crate) const UPDATE_ORDER_CONF: SubCommand = SubCommand {
    name: "updateOrderConf",
    about: "Create or update or delete order conf.",
    options: &[
        value('t', "topic", "topic name").required(),
        value('m', "method", "option type [eg. put|get|delete").required(),
        value(
            'v',
            "orderConf",
            "set order conf [eg. brokerName1:num;brokerName2:num]",
        ),
    ],
    examples: &[
        example(
            "-t Steps -m put -v 'broker-a:4;broker-b:4'",
            "says where the topic's queues are, and how many",
        ),
        example("-t Steps -m get", "shows it"),
        example("-t Steps -m delete", "forgets it"),
    ],
    json: r#"{"method":"put|get|delete","topic","orderConf":"broker-a:4" or null}"#,
    run: update_order_conf,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OrderConf {
    method: &'static str,
    topic: String,
    order_conf: Option<String>,
}

impl Display for OrderConf {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let topic = &self.topic;
        match (&self.order_conf, self.method) {
            (Some(conf), "get") => writeln!(
                f,
                "get orderConf success. topic=[{topic}], orderConf=[{conf}] "
            ),
            (Some(conf), _) => writeln!(
                f,
                "update orderConf success. topic=[{topic}], orderConf=[{conf}]"
            ),
            (None, _) => writeln!(f, "delete orderConf success. topic=[{topic}]"),
        }
    }
}

fn update_order_conf(call: &mut Call) -> Result<(), Failure> {
    let topic = call.options.required("topic")?.to_owned();
    let (method, order_conf) = match call.options.required("method")? {
        "get" => ("get", Some(kv::get(call, NAMESPACE, &topic)?)),
        "delete" => {
            kv::tell_all(call, RequestCode::DeleteKvConfig, NAMESPACE, &topic, None)?;
            ("delete", None)
        }
        "put" => {
            let conf = call.options.required("orderConf")?.to_owned();
            kv::tell_all(
                call,
                RequestCode::PutKvConfig,
                NAMESPACE,
                &topic,
                Some(&conf),
            )?;
            ("put", Some(conf))
        }
        other => {
            return Err(Failure::Input(format!(
                "-m takes put, get or delete, not '{other}'"
            )));
        }
    };
    call.out.show(&OrderConf {
        method,
        topic,
        order_conf,
    })
}

/// What was written about a topic.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    order_conf: String,
    #[serde(skip)]
    scope: &'static str,
}

impl Display for Written {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { order_conf, scope } = self;
        writeln!(
            f,
            "set {scope} orderConf. isOrder=true, orderConf=[{order_conf}]"
        )
    }
}

/// Writes the queue numbers of the brokers at `addresses`; a single broker's is added to what stands there.
pub(super) fn write(
    call: &Call,
    topic: &str,
    queues: i32,
    addresses: &[String],
) -> Result<Written, Failure> {
    let clusters = call.remote.clusters()?;
    let names = clusters
        .broker_addr_table
        .values()
        .filter(|broker| {
            broker
                .broker_addrs
                .values()
                .any(|address| addresses.contains(address))
        })
        .map(|broker| broker.broker_name.clone());
    let mut entries: BTreeMap<String, String> = BTreeMap::new();
    let single = call.options.get("brokerAddr").is_some();
    if single {
        entries = parse(&standing(call, topic)?);
    }
    entries.extend(names.map(|name| (name, queues.to_string())));
    let parts: Vec<String> = entries
        .iter()
        .map(|(name, number)| format!("{name}:{number}"))
        .collect();
    let order_conf = parts.join(";");
    kv::tell_all(
        call,
        RequestCode::PutKvConfig,
        NAMESPACE,
        topic,
        Some(&order_conf),
    )?;
    let scope = if single { "broker" } else { "cluster" };
    Ok(Written { order_conf, scope })
}

fn standing(call: &Call, topic: &str) -> Result<String, Failure> {
    match kv::get(call, NAMESPACE, topic) {
        Err(failure) if failure.refusal() == Some(ResponseCode::QueryNotFound) => Ok(String::new()),
        other => other,
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    text.split(';')
        .filter_map(|part| part.split_once(':'))
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .collect()
}
