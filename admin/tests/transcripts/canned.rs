//! A server that answers as the name server and broker of the transcripts did.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use agena_protocol::command::Command;
use agena_protocol::frame::Frame;
use agena_protocol::offset::{PhysicalOffset, QueueOffset};
use agena_protocol::properties::PropertiesBuf;
use agena_protocol::queue::QueueId;
use agena_protocol::record::{RecordEncoder, RecordFields};
use agena_protocol::request_code::RequestCode;
use agena_protocol::response_code::ResponseCode;
use agena_remoting::connection::Connection;
use agena_remoting::reply::Replies;
use agena_remoting::server::{Server, ServerConfig, Service};
use tokio::runtime::Runtime;

use crate::fixture;

/// The captured broker's place in ids and records.
const BROKER: &str = "127.0.0.1:25911";

/// The running server; gone when dropped.
pub(crate) struct Canned {
    address: SocketAddr,
    _server: Server,
    _runtime: Runtime,
}

struct Answers {
    address: OnceLock<SocketAddr>,
}

impl Canned {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let answers = Arc::new(Answers {
            address: OnceLock::new(),
        });
        let config = ServerConfig {
            address: ([127, 0, 0, 1], 0).into(),
            ..ServerConfig::default()
        };
        let server = runtime
            .block_on(Server::bind(config, answers.clone()))
            .unwrap();
        let address = server.local_addr();
        answers.address.set(address).unwrap();
        Self {
            address,
            _server: server,
            _runtime: runtime,
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Service for Answers {
    fn requests(&self, _connection: &Arc<Connection>, frames: &[Frame<'_>], replies: &mut Replies) {
        let address = self.address.get().unwrap().to_string();
        for frame in frames {
            let request = frame.to_command();
            replies.push_command(frame, answer(&request, &address));
        }
    }
}

fn refuse(code: ResponseCode, remark: &str) -> Command {
    Command::response(code, remark.to_owned())
}

fn json(text: &str, address: &str) -> Command {
    Command::success().with_body(text.replace(BROKER, address).into_bytes())
}

fn answer(request: &Command, address: &str) -> Command {
    let field = |name: &str| request.ext.get(name).unwrap_or_default();
    match RequestCode::from_number(request.code).unwrap() {
        RequestCode::GetBrokerClusterInfo => json(
            r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:25911"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#,
            address,
        ),
        RequestCode::GetRouteinfoByTopic => route(field("topic"), address),
        RequestCode::GetBrokerRuntimeInfo => figures(),
        RequestCode::GetTopicStatsInfo => json(&topic_stats(), address),
        RequestCode::GetConsumeStats => json(
            &consume_stats(field("consumerGroup"), field("topic")),
            address,
        ),
        RequestCode::GetBrokerConsumeStats => json(&broker_consume_stats(), address),
        RequestCode::GetConsumerConnectionList => connections(field("consumerGroup")),
        RequestCode::GetProducerConnectionList => json(
            r#"{"connectionSet":[{"clientAddr":"127.0.0.1:45800","clientId":"192.0.2.2@28839#1498910842503","language":"JAVA","version":479}]}"#,
            address,
        ),
        RequestCode::GetConsumerRunningInfo => json(&running_info(), address),
        RequestCode::QueryTopicConsumeByWho => json(groups_of(field("topic")), address),
        RequestCode::GetAllTopicListFromNameserver => json(&topic_list(), address),
        RequestCode::GetAllSubscriptiongroupConfig => json(
            r#"{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":1},"forbiddenTable":{},"subscriptionGroupTable":{"CG_new":{"attributes":{},"brokerId":0,"consumeBroadcastEnable":false,"consumeEnable":true,"consumeFromMinEnable":false,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"CG_new","groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}}}"#,
            address,
        ),
        RequestCode::GetBrokerHaStatus => json(
            r#"{"haClientRuntimeInfo":{"lastReadTimestamp":0,"lastWriteTimestamp":0,"masterFlushOffset":0,"maxOffset":0,"transferredByteInSecond":0},"haConnectionInfo":[],"inSyncSlaveNums":0,"master":true,"masterCommitLogMaxOffset":56197}"#,
            address,
        ),
        RequestCode::QueryConsumeQueue => json(
            r#"{"maxQueueIndex":10,"minQueueIndex":0,"queueData":[{"eval":false,"physicOffset":551,"physicSize":276,"tagsCode":2598919},{"eval":false,"physicOffset":1654,"physicSize":275,"tagsCode":2598919}]}"#,
            address,
        ),
        // What it answers to a code that it does not know.
        RequestCode::ExplainLag => refuse(
            ResponseCode::RequestCodeNotSupported,
            " request type 900002 not supported",
        ),
        RequestCode::ViewBrokerStatsData => {
            refuse(ResponseCode::SystemError, "The stats not exist")
        }
        RequestCode::GetTopicConfig => json(
            r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":4,"topicFilterType":"SINGLE_TAG","topicName":"TopicNew","topicSysFlag":0,"writeQueueNums":4}"#,
            address,
        ),
        RequestCode::InvokeBrokerToResetOffset => json(&reset(request), address),
        RequestCode::GetKvConfig => Command::success().with_ext("value", "broker-a:2"),
        RequestCode::WipeWritePermOfBroker => Command::success().with_ext("wipeTopicCount", 24),
        RequestCode::AddWritePermOfBroker => Command::success().with_ext("addTopicCount", 24),
        RequestCode::QueryMessage => Command::success().with_body(key1()),
        RequestCode::PullMessage => pull(request),
        RequestCode::GetMinOffset => Command::success().with_ext("offset", 0),
        RequestCode::GetMaxOffset => {
            Command::success().with_ext("offset", if field("topic") == "TopicNew" { 1 } else { 10 })
        }
        RequestCode::ExplainRetention if field("topic") == "OfTheOriginal" => refuse(
            ResponseCode::RequestCodeNotSupported,
            " request type 900001 not supported",
        ),
        RequestCode::ExplainRetention => Command::success().with_body(retention().into_bytes()),
        // Everything that changes something.
        _ => Command::success(),
    }
}

fn groups_of(topic: &str) -> &'static str {
    match topic {
        "TopicDemo" => r#"{"groupList":["TopicDemo","CG_order","CG_demo"]}"#,
        "TopicDelay" => r#"{"groupList":["TopicDelay","CG_delay"]}"#,
        "TopicTx" => r#"{"groupList":["TopicTx","CG_delay"]}"#,
        "RMQ_SYS_TRANS_HALF_TOPIC" | "RMQ_SYS_TRANS_OP_HALF_TOPIC" => {
            r#"{"groupList":["CID_RMQ_SYS_TRANS"]}"#
        }
        _ => r#"{"groupList":[]}"#,
    }
}

fn route(topic: &str, address: &str) -> Command {
    let queues = match topic {
        "NoSuchTopic" => {
            let remark = format!(
                "No topic route info in name server for the topic: {topic}\nSee elsewhere."
            );
            return refuse(ResponseCode::TopicNotExist, &remark);
        }
        "%RETRY%TopicDemo" => return refuse(ResponseCode::TopicNotExist, "No topic route info"),
        name if name.starts_with("%RETRY%") => 1,
        _ => 4,
    };
    let text = format!(
        r#"{{"brokerDatas":[{{"brokerAddrs":{{"0":"127.0.0.1:25911"}},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}}],"filterServerTable":{{}},"queueDatas":[{{"brokerName":"broker-a","perm":6,"readQueueNums":{queues},"topicSysFlag":0,"writeQueueNums":{queues}}}]}}"#
    );
    json(&text, address)
}

fn figures() -> Command {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    let earliest = now - 72_000;
    let text = format!(
        r#"{{"table":{{"brokerVersionDesc":"V5_3_3","brokerActive":"true","putTps":"0.0 0.08 ","getTransferredTps":"0.0 0.1 ","sendThreadPoolQueueSize":"0","sendThreadPoolQueueHeadWaitTimeMills":"0","pullThreadPoolQueueSize":"0","pullThreadPoolQueueHeadWaitTimeMills":"0","ackThreadPoolQueueSize":"0","ackThreadPoolQueueHeadWaitTimeMills":"0","pageCacheLockTimeMills":"0","earliestMessageTimeStamp":"{earliest}","commitLogDiskRatio":"0.16","timerReadBehind":"0","timerOffsetBehind":"0","timerCongestNum":"0","timerEnqueueTps":"0.0","timerDequeueTps":"0.0","msgPutTotalYesterdayMorning":"0","msgPutTotalTodayMorning":"0","msgPutTotalTodayNow":"47","msgGetTotalYesterdayMorning":"0","msgGetTotalTodayMorning":"0","msgGetTotalTodayNow":"67"}}}}"#
    );
    Command::success().with_body(text.into_bytes())
}

/// A broker with a full day behind it: one file past its time, one that is not.
fn retention() -> String {
    let day = 86_400_000;
    let (now, hour) = (at("01:18:00,000"), at("04:00:00,000"));
    format!(
        r#"{{"diskAvailable":60129542144,"diskTotal":107374182400,"diskUsedPercent":44,"files":3,"logBytes":3221225472,"next":[{{"bytesLeft":1073741824,"due":{hour},"expires":{},"file":"/store/commitlog/00000000000000000000","from":0,"lastWritten":{},"moreGroups":3,"moreMessages":17,"to":1073741824,"unread":[{{"group":"Billing","messages":1200,"topic":"Orders"}},{{"group":"Audit","messages":1,"topic":"Orders"}}]}},{{"bytesLeft":2147483648,"due":{},"expires":{},"file":"/store/commitlog/00000000001073741824","from":1073741824,"lastWritten":{},"moreGroups":0,"moreMessages":0,"to":2147483648,"unread":[]}}],"now":{now},"rules":{{"deleteHours":[4],"expirePercent":75,"force":true,"forcePercent":85,"logBytesMax":4294967296,"refusePercent":90,"reservedMs":259200000}},"unreadIsComplete":true}}"#,
        now - 60_000,
        now - 60_000 - 3 * day,
        hour + day,
        now + day,
        now - 2 * day,
    )
}

/// Milliseconds of a time of the captured day, `01:18:09,172`.
fn at(time: &str) -> i64 {
    let text = format!("2026-11-21 {time}");
    let parsed = chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S,%3f").unwrap();
    parsed.and_utc().timestamp_millis()
}

fn queue(topic: &str, number: i32) -> String {
    format!(r#"{{"brokerName":"broker-a","queueId":{number},"topic":"{topic}"}}"#)
}

fn topic_stats() -> String {
    let times = [
        "01:18:09,172",
        "01:18:09,180",
        "01:18:09,156",
        "01:18:09,165",
    ];
    let entries: Vec<String> = (0..)
        .zip(times)
        .map(|(number, time)| {
            let (name, updated) = (queue("TopicDemo", number), at(time));
            format!(r#"{name}:{{"lastUpdateTimestamp":{updated},"maxOffset":10,"minOffset":0}}"#)
        })
        .collect();
    format!(
        r#"{{"offsetTable":{{{}}},"topicPutTps":0.0}}"#,
        entries.join(",")
    )
}

/// One queue of a group; `time` is that of the last consumed message.
#[derive(Clone)]
struct Row {
    topic: &'static str,
    number: i32,
    broker: i64,
    consumer: i64,
    time: String,
}

fn row(topic: &'static str, number: i32, broker: i64, consumer: i64, time: &str) -> Row {
    Row {
        topic,
        number,
        broker,
        consumer,
        time: format!("{time},000"),
    }
}

fn demo() -> Vec<Row> {
    (0..4)
        .map(|number| row("TopicDemo", number, 10, 10, "01:18:09"))
        .collect()
}

fn retry() -> Row {
    row("%RETRY%CG_demo", 0, 2, 2, "01:19:00")
}

fn stats(tps: f64, rows: &[Row]) -> String {
    let entries: Vec<String> = rows
        .iter()
        .map(|row| {
            let (name, last) = (queue(row.topic, row.number), at(&row.time));
            let (broker, consumer) = (row.broker, row.consumer);
            format!(
                r#"{name}:{{"brokerOffset":{broker},"consumerOffset":{consumer},"lastTimestamp":{last},"pullOffset":{consumer}}}"#
            )
        })
        .collect();
    format!(
        r#"{{"consumeTps":{tps:?},"offsetTable":{{{}}}}}"#,
        entries.join(",")
    )
}

fn consume_stats(group: &str, topic: &str) -> String {
    match (group, topic) {
        // The original's broker takes the topic itself for a group that never consumed.
        ("TopicDemo", _) => {
            let rows: Vec<Row> = demo()
                .into_iter()
                .map(|row| Row { consumer: 0, ..row })
                .collect();
            stats(0.0, &rows)
        }
        ("CG_demo" | "CG_order", "TopicDemo") => stats(0.02, &demo()),
        ("CG_demo", "") => stats(0.02, &[demo(), vec![retry()]].concat()),
        _ => stats(0.0, &[]),
    }
}

/// Built from the transcript's own rows, each of which is topic, group, broker, queue, three numbers and a time.
fn broker_consume_stats() -> String {
    let captured = fixture("brokerConsumeStats");
    let rows = captured
        .lines()
        .skip(2)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    let list: Vec<String> = rows
        .filter(|cells| cells.len() == 9)
        .map(|cells| {
            let number = |index: usize| cells[index].parse().unwrap();
            let topic: &'static str = cells[0].to_owned().leak();
            let consumer = cells[5].parse().unwrap();
            let row = row(
                topic,
                cells[3].parse().unwrap(),
                number(4),
                consumer,
                cells[8],
            );
            format!(r#"{{"{}":[{}]}}"#, cells[1], stats(0.0, &[row]))
        })
        .collect();
    format!(
        r#"{{"consumeStatsList":[{}],"totalDiff":1,"totalInflightDiff":0}}"#,
        list.join(",")
    )
}

fn connections(group: &str) -> Command {
    if group == "TOOLS_CONSUMER" || group == "TopicDemo" {
        return refuse(
            ResponseCode::ConsumerNotOnline,
            "the consumer group not online",
        );
    }
    let subscription = |topic: &str| {
        format!(
            r#""{topic}":{{"classFilterMode":false,"codeSet":[],"expressionType":"TAG","subString":"*","subVersion":1,"tagsSet":[],"topic":"{topic}"}}"#
        )
    };
    let text = format!(
        r#"{{"connectionSet":[{{"clientAddr":"127.0.0.1:58738","clientId":"192.0.2.2@28839#1502029365671","language":"JAVA","version":479}}],"consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","subscriptionTable":{{{},{}}}}}"#,
        subscription("TopicDemo"),
        subscription("%RETRY%CG_demo")
    );
    Command::success().with_body(text.into_bytes())
}

fn running_info() -> String {
    let queues: Vec<String> = [demo(), vec![retry()]]
        .concat()
        .iter()
        .map(|row| format!(r#"{}:{{"droped":false}}"#, queue(row.topic, row.number)))
        .collect();
    format!(
        r#"{{"mqTable":{{{}}},"properties":{{}},"subscriptionSet":[]}}"#,
        queues.join(",")
    )
}

/// The topics of the transcript of `topicList -c`, and a retry topic for each group of `consumerProgress`.
fn topic_list() -> String {
    let with_groups = fixture("topicList_cluster");
    let plain = with_groups
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().nth(1));
    let groups = fixture("consumerProgress");
    let retries = groups
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().next());
    let mut topics: Vec<String> = plain.map(str::to_owned).collect();
    topics.extend(retries.map(|group| format!("%RETRY%{group}")));
    topics.sort();
    topics.dedup();
    let quoted: Vec<String> = topics.iter().map(|topic| format!("\"{topic}\"")).collect();
    format!(r#"{{"topicList":[{}]}}"#, quoted.join(","))
}

fn reset(request: &Command) -> String {
    let topic = request.ext.get("topic").unwrap();
    if request.ext.get("queueId") == Some("0") {
        return format!(r#"{{"offsetTable":{{{}:0}}}}"#, queue(topic, 0));
    }
    let entries: Vec<String> = (0..4)
        .map(|number| format!("{}:10", queue(topic, number)))
        .collect();
    format!(r#"{{"offsetTable":{{{}}}}}"#, entries.join(","))
}

/// A record of the transcripts.
struct Stored {
    unique: &'static str,
    topic: &'static str,
    color: &'static str,
    key: &'static str,
    body: &'static str,
    queue: u32,
    log: u64,
    born: &'static str,
    stored: &'static str,
}

impl Stored {
    fn bytes(&self) -> Vec<u8> {
        let mut properties = PropertiesBuf::new();
        for (name, value) in [
            ("KEYS", self.key),
            ("UNIQ_KEY", self.unique),
            ("WAIT", "true"),
            ("TAGS", "TagA"),
            ("color", self.color),
            ("CLUSTER", "DefaultCluster"),
            ("MSG_REGION", "DefaultRegion"),
            ("TRACE_ON", "true"),
        ] {
            properties.set(name, value);
        }
        let properties = properties.encode();
        let fields = RecordFields {
            topic: self.topic,
            queue_id: QueueId::new(self.queue),
            flag: 0,
            sys_flag: 0,
            born_timestamp: at(self.born),
            born_host: "127.0.0.1:45800".parse().unwrap(),
            store_host: BROKER.parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: self.body.as_bytes(),
            properties: &properties,
        };
        let mut encoder = RecordEncoder::new(fields, false).unwrap();
        let mut bytes = vec![0; encoder.total_bytes()];
        encoder.write(
            &mut bytes,
            QueueOffset::new(0),
            PhysicalOffset::new(self.log),
            at(self.stored),
        );
        bytes
    }
}

fn key1() -> Vec<u8> {
    let stored = Stored {
        unique: "FD00000000000000000000000000000270A730946E096746B9D90002",
        topic: "TopicDemo",
        color: "red",
        key: "key1",
        body: "hello 1",
        queue: 3,
        log: 276,
        born: "01:18:08,345",
        stored: "01:18:08,355",
    };
    stored.bytes()
}

/// The first message of queue 0, as the transcripts have it to the byte.
fn hello2(topic: &'static str) -> Vec<u8> {
    let stored = Stored {
        unique: "FD00000000000000000000000000000270A730946E096746B9EF0004",
        topic,
        color: "blue",
        key: "key2",
        body: "hello 2",
        queue: 0,
        log: 551,
        born: "01:18:08,367",
        stored: "01:18:08,375",
    };
    stored.bytes()
}

fn pull(request: &Command) -> Command {
    let answered = |next: i64, max: i64, body: Vec<u8>| {
        Command::success()
            .with_ext("suggestWhichBrokerId", 0)
            .with_ext("nextBeginOffset", next)
            .with_ext("minOffset", 0)
            .with_ext("maxOffset", max)
            .with_body(body)
    };
    let field = |name: &str| request.ext.get(name).unwrap_or_default();
    match (field("topic"), field("queueId"), field("queueOffset")) {
        ("TopicNew", "1", "0") => answered(1, 1, hello2("TopicNew")),
        ("TopicDemo", "0", "0") => answered(10, 10, hello2("TopicDemo")),
        _ => {
            let mut answer = answered(10, 10, Vec::new());
            answer.code = ResponseCode::PullRetryImmediately.number();
            answer
        }
    }
}
