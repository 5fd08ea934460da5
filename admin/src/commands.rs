//! Every sub-command, in the original's order, and the original's that we do not have.

use crate::command::SubCommand;

pub(crate) mod broker;
pub(crate) mod cluster;
pub(crate) mod connection;
pub(crate) mod dlq;
pub(crate) mod export;
pub(crate) mod group;
pub(crate) mod kv;
pub(crate) mod lag;
pub(crate) mod namesrv;
pub(crate) mod offset;
pub(crate) mod order_conf;
pub(crate) mod print;
pub(crate) mod progress;
pub(crate) mod query;
pub(crate) mod queue;
pub(crate) mod retention;
pub(crate) mod send;
pub(crate) mod stats;
pub(crate) mod store;
pub(crate) mod story;
pub(crate) mod topic;
pub(crate) mod trace;
pub(crate) mod transactions;
pub(crate) mod undo_reset;

/// The table. Lists and look-ups come from here and nowhere else.
const ALL: &[&SubCommand] = &[
    &topic::UPDATE_TOPIC,
    &topic::DELETE_TOPIC,
    &group::UPDATE_SUB_GROUP,
    &group::SET_CONSUME_MODE,
    &group::DELETE_SUB_GROUP,
    &broker::UPDATE_BROKER_CONFIG,
    &topic::UPDATE_TOPIC_PERM,
    &topic::TOPIC_ROUTE,
    &topic::TOPIC_STATUS,
    &topic::TOPIC_CLUSTER_LIST,
    &broker::BROKER_STATUS,
    &query::QUERY_BY_ID,
    &query::QUERY_BY_KEY,
    &query::QUERY_BY_UNIQUE_KEY,
    &query::QUERY_BY_OFFSET,
    &trace::QUERY_TRACE,
    &print::PRINT_MSG,
    &print::PRINT_MSG_BY_QUEUE,
    &send::SEND_MSG_STATUS,
    &progress::BROKER_CONSUME_STATS,
    &connection::PRODUCER_CONNECTION,
    &connection::CONSUMER_CONNECTION,
    &progress::CONSUMER_PROGRESS,
    &connection::CONSUMER_STATUS,
    &offset::CLONE_GROUP_OFFSET,
    &connection::PRODUCER,
    &cluster::CLUSTER_LIST,
    &topic::TOPIC_LIST,
    &kv::UPDATE_KV_CONFIG,
    &kv::DELETE_KV_CONFIG,
    &namesrv::WIPE_WRITE_PERM,
    &namesrv::ADD_WRITE_PERM,
    &offset::RESET_OFFSET_BY_TIME,
    &offset::SKIP_ACCUMULATED_MESSAGE,
    &order_conf::UPDATE_ORDER_CONF,
    &broker::CLEAN_EXPIRED_CQ,
    &broker::DELETE_EXPIRED_COMMIT_LOG,
    &broker::CLEAN_UNUSED_TOPIC,
    &stats::STATS_ALL,
    &queue::ALLOCATE_MQ,
    &send::CHECK_MSG_SEND_RT,
    &namesrv::GET_NAMESRV_CONFIG,
    &namesrv::UPDATE_NAMESRV_CONFIG,
    &broker::GET_BROKER_CONFIG,
    &group::GET_CONSUMER_CONFIG,
    &queue::QUERY_CQ,
    &send::SEND_MESSAGE,
    &print::CONSUME_MESSAGE,
    &export::EXPORT_METADATA,
    &broker::HA_STATUS,
    &store::STORE_VERIFY,
    &store::STORE_DUMP,
    &store::STORE_REBUILD,
    &retention::RETENTION_EXPLAIN,
    &transactions::LIST,
    &transactions::SHOW,
    &transactions::RESUME,
    &transactions::RESOLVE,
    &lag::LAG_EXPLAIN,
    &dlq::LIST,
    &dlq::SHOW,
    &dlq::REDRIVE,
    &story::MESSAGE_STORY,
];

/// Commands of the original that we do not have, and why or what to do instead.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("updateTopicList", "call updateTopic once per topic"),
    ("updateSubGroupList", "call updateSubGroup once per group"),
    (
        "addBroker",
        "there are no broker containers: start a second mqbroker",
    ),
    (
        "removeBroker",
        "there are no broker containers: stop the mqbroker",
    ),
    ("resetMasterFlushOffset", "replication is not there yet"),
    (
        "startMonitoring",
        "use consumerProgress --json from your monitoring",
    ),
    ("clusterRT", "use checkMsgSendRT for a topic"),
    ("updateStaticTopic", "static topics are not there yet"),
    ("remappingStaticTopic", "static topics are not there yet"),
    (
        "exportConfigs",
        "use getBrokerConfig --json and getNamesrvConfig --json",
    ),
    (
        "exportMetrics",
        "use brokerStatus --json and brokerConsumeStats --json",
    ),
    (
        "exportMetadataInRocksDB",
        "there is no RocksDB: settings are in JSON files",
    ),
    ("exportPopRecord", "pop consumers are not there yet"),
    ("getSyncStateSet", "controllers are not there yet"),
    ("getBrokerEpoch", "controllers are not there yet"),
    ("getControllerMetaData", "controllers are not there yet"),
    ("getControllerConfig", "controllers are not there yet"),
    ("updateControllerConfig", "controllers are not there yet"),
    ("electMaster", "controllers are not there yet"),
    ("cleanBrokerMetadata", "controllers are not there yet"),
    ("dumpCompactionLog", "compaction topics are not there yet"),
    (
        "getColdDataFlowCtrInfo",
        "cold reads have their own threads and need no flow control",
    ),
    (
        "updateColdDataFlowCtrGroupConfig",
        "cold reads have their own threads and need no flow control",
    ),
    (
        "removeColdDataFlowCtrGroupConfig",
        "cold reads have their own threads and need no flow control",
    ),
    (
        "setCommitLogReadAheadMode",
        "the store chooses its read-ahead itself",
    ),
    ("createUser", "access control is not there yet"),
    ("updateUser", "access control is not there yet"),
    ("deleteUser", "access control is not there yet"),
    ("getUser", "access control is not there yet"),
    ("listUser", "access control is not there yet"),
    ("copyUser", "access control is not there yet"),
    ("createAcl", "access control is not there yet"),
    ("updateAcl", "access control is not there yet"),
    ("deleteAcl", "access control is not there yet"),
    ("getAcl", "access control is not there yet"),
    ("listAcl", "access control is not there yet"),
    ("copyAcl", "access control is not there yet"),
    (
        "rocksDBConfigToJson",
        "there is no RocksDB: settings are in JSON files",
    ),
    (
        "checkRocksdbCqWriteProgress",
        "there is no RocksDB: queues are files",
    ),
];

/// The sub-command of a name, whatever its case.
pub(crate) fn find(name: &str) -> Option<&'static SubCommand> {
    ALL.iter()
        .copied()
        .find(|command| command.name.eq_ignore_ascii_case(name))
}

/// Whether `name` alone is no command but the first word of some, as in `dlq list`.
pub(crate) fn is_first_word(name: &str) -> bool {
    let mut first_words = ALL
        .iter()
        .filter_map(|command| command.name.split_once(' '));
    first_words.any(|(first, _)| first.eq_ignore_ascii_case(name))
}

/// The lines of the commands with this first word.
pub(crate) fn family(first_word: &str) -> String {
    let mut text = String::new();
    for command in ALL {
        let first = command.name.split_once(' ').map(|(first, _)| first);
        if first.is_some_and(|first| first.eq_ignore_ascii_case(first_word)) {
            text.push_str(&format!("   {:<35} {}\n", command.name, command.about));
        }
    }
    text
}

/// The original's spelling of a command that we do not have, and a word about it.
pub(crate) fn unsupported(name: &str) -> Option<(&'static str, &'static str)> {
    UNSUPPORTED
        .iter()
        .copied()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// Every sub-command, for the manual.
#[cfg(test)]
pub(crate) fn all() -> &'static [&'static SubCommand] {
    ALL
}

/// What we do not have, for the manual.
#[cfg(test)]
pub(crate) fn all_unsupported() -> &'static [(&'static str, &'static str)] {
    UNSUPPORTED
}

/// The list that `mqadmin` alone prints.
pub(crate) fn list() -> String {
    let mut text = "The most commonly used mqadmin commands are:\n".to_owned();
    for command in ALL {
        text.push_str(&format!("   {:<35} {}\n", command.name, command.about));
    }
    text.push_str("\nSee 'mqadmin help <command>' for more information on a specific command.\n");
    text
}
