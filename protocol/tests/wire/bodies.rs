//! Typed bodies.

use agena_protocol::batch;
use agena_protocol::bodies::access::*;
use agena_protocol::bodies::assignment::*;
use agena_protocol::bodies::batch_ack::*;
use agena_protocol::bodies::cold_data::*;
use agena_protocol::bodies::connections::*;
use agena_protocol::bodies::consume_queue::*;
use agena_protocol::bodies::data_version::*;
use agena_protocol::bodies::heartbeat::*;
use agena_protocol::bodies::names::*;
use agena_protocol::bodies::offsets::*;
use agena_protocol::bodies::queue_locks::*;
use agena_protocol::bodies::register_broker::*;
use agena_protocol::bodies::replication::*;
use agena_protocol::bodies::route::*;
use agena_protocol::bodies::running_info::*;
use agena_protocol::bodies::static_topic::*;
use agena_protocol::bodies::stats::*;
use agena_protocol::bodies::subscription::*;
use agena_protocol::bodies::subscription_group::*;
use agena_protocol::bodies::topic_config::*;
use agena_protocol::command::Command;
use agena_protocol::fastjson::{self, KeyStyle};
use agena_protocol::headers::namesrv::RegisterBrokerRequest;
use agena_protocol::headers::send::SendMessageRequest;
use agena_protocol::properties_text;
use agena_protocol::record;
use agena_protocol::request_code::RequestCode;
use agena_protocol::{compression, sys_flag};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fixtures::{self, Fixture};

/// What a body is.
pub(crate) enum Body {
    /// JSON of a type.
    Json(Json),
    /// A broker's registration, plain or compressed.
    Registration,
    /// Records of the log.
    Records,
    /// A message's own body, maybe compressed; or a batch.
    Message,
    /// `key=value` lines.
    Properties,
    /// Words or numbers that only its request knows.
    Opaque,
}

/// A type of JSON bodies.
pub(crate) struct Json {
    /// Reads a text and writes it again.
    pub(crate) rewrite: fn(&[u8]) -> Result<Vec<u8>, fastjson::JsonError>,
    /// What missing members are read as.
    default: fn() -> Vec<u8>,
}

fn json<T: DeserializeOwned + Serialize + Default>() -> Body {
    Body::Json(Json {
        rewrite: |text| {
            let value: T = fastjson::from_slice(text)?;
            Ok(fastjson::to_vec(&value, KeyStyle::Bare))
        },
        default: || fastjson::to_vec(&T::default(), KeyStyle::Bare),
    })
}

pub(crate) fn request(code: RequestCode) -> Option<Body> {
    use RequestCode as C;
    Some(match code {
        C::UpdateAndCreateTopicList => json::<CreateTopicListRequestBody>(),
        C::HeartBeat => json::<HeartbeatData>(),
        C::LockBatchMq => json::<LockBatchRequestBody>(),
        C::UnlockBatchMq => json::<UnlockBatchRequestBody>(),
        C::CheckClientConfig => json::<CheckClientRequestBody>(),
        C::RegisterBroker => Body::Registration,
        C::QueryDataVersion => json::<DataVersion>(),
        C::UpdateAndCreateSubscriptiongroup => json::<SubscriptionGroupConfig>(),
        C::UpdateAndCreateSubscriptiongroupList => json::<SubscriptionGroupList>(),
        C::RegisterTopicInNamesrv => json::<TopicRouteData>(),
        C::QueryAssignment => json::<QueryAssignmentRequestBody>(),
        C::SetMessageRequestMode => json::<SetMessageRequestModeRequestBody>(),
        C::UpdateAndCreateStaticTopic => json::<TopicQueueMappingDetail>(),
        C::ControllerAlterSyncStateSet | C::NotifyBrokerRoleChanged => json::<SyncStateSet>(),
        C::ControllerGetSyncStateData => json::<Vec<String>>(),
        C::AuthCreateUser | C::AuthUpdateUser => json::<UserInfo>(),
        C::AuthCreateAcl | C::AuthUpdateAcl => json::<AclInfo>(),
        C::BatchAckMessage => json::<BatchAckMessageRequestBody>(),
        C::CheckTransactionState | C::ConsumeMessageDirectly => Body::Records,
        C::SendMessage
        | C::SendMessageV2
        | C::SendBatchMessage
        | C::SendReplyMessage
        | C::SendReplyMessageV2
        | C::PushReplyMessageToClient => Body::Message,
        C::UpdateBrokerConfig | C::UpdateNamesrvConfig | C::UpdateColdDataFlowCtrConfig => {
            Body::Properties
        }
        C::RemoveColdDataFlowCtrConfig => Body::Opaque,
        _ => return None,
    })
}

pub(crate) fn response(code: RequestCode) -> Option<Body> {
    use RequestCode as C;
    Some(match code {
        C::GetAllTopicConfig => json::<TopicConfigAndMappingSerializeWrapper>(),
        C::GetBrokerRuntimeInfo | C::RegisterBroker | C::GetKvlistByNamespace => json::<KVTable>(),
        C::GetConsumerListByGroup => json::<GetConsumerListByGroupResponseBody>(),
        C::LockBatchMq => json::<LockBatchResponseBody>(),
        C::GetAllConsumerOffset => json::<ConsumerOffsetSerializeWrapper>(),
        C::GetAllDelayOffset => json::<DelayOffsetSerializeWrapper>(),
        C::GetTimerMetrics => json::<TimerMetricsSerializeWrapper>(),
        C::GetRouteinfoByTopic => json::<TopicRouteData>(),
        C::GetBrokerClusterInfo => json::<ClusterInfo>(),
        C::GetAllSubscriptiongroupConfig => json::<SubscriptionGroupWrapper>(),
        C::GetTopicStatsInfo => json::<TopicStatsTable>(),
        C::GetConsumerConnectionList => json::<ConsumerConnection>(),
        C::GetProducerConnectionList => json::<ProducerConnection>(),
        C::GetAllTopicListFromNameserver
        | C::GetTopicsByCluster
        | C::GetSystemTopicListFromNs
        | C::GetSystemTopicListFromBroker
        | C::GetUnitTopicList
        | C::GetHasUnitSubTopicList
        | C::GetHasUnitSubUnunitTopicList
        | C::QueryTopicsByConsumer => json::<TopicList>(),
        C::GetConsumeStats => json::<ConsumeStats>(),
        C::GetConsumerStatusFromClient | C::InvokeBrokerToGetConsumerStatus => {
            json::<GetConsumerStatusBody>()
        }
        C::InvokeBrokerToResetOffset => json::<ResetOffsetBody>(),
        C::QueryTopicConsumeByWho => json::<GroupList>(),
        C::QueryConsumeTimeSpan => json::<QueryConsumeTimeSpanBody>(),
        C::GetConsumerRunningInfo => json::<ConsumerRunningInfo>(),
        C::QueryCorrectionOffset => json::<QueryCorrectionOffsetBody>(),
        C::ConsumeMessageDirectly => json::<ConsumeMessageDirectlyResult>(),
        C::ViewBrokerStatsData => json::<BrokerStatsData>(),
        C::GetBrokerConsumeStats => json::<ConsumeStatsList>(),
        C::QueryConsumeQueue => json::<QueryConsumeQueueResponseBody>(),
        C::QueryDataVersion => json::<DataVersion>(),
        C::GetAllProducerInfo => json::<ProducerTableInfo>(),
        C::QuerySubscriptionByConsumer => json::<QuerySubscriptionResponseBody>(),
        C::GetTopicConfig => json::<TopicConfigAndQueueMapping>(),
        C::GetSubscriptiongroupConfig => json::<SubscriptionGroupConfig>(),
        C::UpdateAndGetGroupForbidden => json::<GroupForbidden>(),
        C::CheckRocksdbCqWriteProgress => json::<CheckRocksdbCqWriteResult>(),
        C::QueryAssignment => json::<QueryAssignmentResponseBody>(),
        C::GetAllMessageRequestMode => json::<MessageRequestModeSerializeWrapper>(),
        C::GetBrokerMemberGroup => json::<GetBrokerMemberGroupResponseBody>(),
        C::GetBrokerHaStatus => json::<HARuntimeInfo>(),
        C::ControllerElectMaster => json::<ElectMasterResponseBody>(),
        C::ControllerAlterSyncStateSet
        | C::ControllerRegisterBroker
        | C::ControllerGetReplicaInfo => json::<SyncStateSet>(),
        C::ControllerGetSyncStateData => json::<BrokerReplicasInfo>(),
        C::GetBrokerEpochCache => json::<EpochEntryCache>(),
        C::GetColdDataFlowCtrInfo => json::<ColdDataFlowCtrInfo>(),
        C::AuthGetUser => json::<UserInfo>(),
        C::AuthListUser => json::<Vec<UserInfo>>(),
        C::AuthGetAcl => json::<AclInfo>(),
        C::AuthListAcl => json::<Vec<AclInfo>>(),
        C::PullMessage
        | C::LitePullMessage
        | C::QueryMessage
        | C::ViewMessageById
        | C::PopMessage
        | C::PeekMessage => Body::Records,
        C::GetBrokerConfig | C::GetNamesrvConfig | C::GetControllerConfig => Body::Properties,
        C::GetTimerCheckPoint => Body::Opaque,
        _ => return None,
    })
}

#[test]
fn every_body_is_of_a_known_type_and_written_again_means_the_same() {
    let mut read = 0;
    for fixture in fixtures::frames() {
        let command = fixture.command();
        if command.body.is_empty() {
            continue;
        }
        let code = fixture.request().unwrap();
        let body = if code == RequestCode::ResetConsumerClientOffset {
            // Maps for most clients, lists for those in C++.
            Some(match command.body.get(15) {
                Some(b'[') => json::<ResetOffsetBodyForC>(),
                _ => json::<ResetOffsetBody>(),
            })
        } else if fixture.is_response() {
            response(code)
        } else {
            request(code)
        };
        let body = body.unwrap_or_else(|| panic!("{} has a body", fixture.entry.file));
        check(&fixture, &command, &body);
        read += 1;
    }
    assert!(read > 240, "{read}");
}

fn check(fixture: &Fixture, command: &Command, body: &Body) {
    let file = &fixture.entry.file;
    match body {
        Body::Json(json) => {
            let written =
                (json.rewrite)(&command.body).unwrap_or_else(|error| panic!("{file}: {error}"));
            let default = meaning(&(json.default)());
            assert_same_meaning(file, &meaning(&command.body), &meaning(&written), &default);
        }
        Body::Registration => check_registration(fixture, command),
        Body::Records => {
            for record in record::records(&command.body) {
                let record = record.unwrap_or_else(|error| panic!("{file}: {error}"));
                record
                    .check_sums()
                    .unwrap_or_else(|error| panic!("{file}: {error}"));
            }
        }
        Body::Message => check_message(fixture, command),
        Body::Properties => {
            let text = std::str::from_utf8(&command.body).unwrap();
            let pairs = properties_text::parse(text);
            let borrowed = pairs
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str()));
            assert_eq!(properties_text::write(borrowed), text, "{file}");
        }
        Body::Opaque => {}
    }
}

fn check_registration(fixture: &Fixture, command: &Command) {
    let file = &fixture.entry.file;
    let header: RegisterBrokerRequest<'_> = command.header().unwrap();
    let compressed = header.compressed == Some(true);
    let body = RegisterBrokerBody::decode(&command.body, compressed, command.version)
        .unwrap_or_else(|error| panic!("{file}: {error}"));
    if let Some(sum) = header.body_crc32.filter(|sum| *sum != 0) {
        let right = u32::try_from(sum) == Ok(record::crc31(&command.body));
        assert!(right || fixture.answered == Some(1), "{file}");
    }
    let topics = &body.topic_config_serialize_wrapper.topic_config_table;
    if command.body.first() == Some(&b'{') {
        assert_same_meaning(
            file,
            &meaning(&command.body),
            &meaning(&body.encode()),
            &Value::Null,
        );
    }
    let again = body.encode_compressed().unwrap();
    let again = RegisterBrokerBody::decode(&again, true, command.version).unwrap();
    let again = again.topic_config_serialize_wrapper.topic_config_table;
    assert!(again.keys().eq(topics.keys()), "{file}");
}

/// A body that says it is compressed decompresses; one that says it is a batch comes apart, or was refused.
fn check_message(fixture: &Fixture, command: &Command) {
    let file = &fixture.entry.file;
    let Ok(header) = SendMessageRequest::read(fixture.request().unwrap(), &command.ext) else {
        return;
    };
    if header.is_batch() {
        let messages: Result<Vec<_>, _> = batch::messages(&command.body).collect();
        let well_formed = command.body.starts_with(&[0, 0]);
        assert_eq!(messages.is_ok(), well_formed, "{file}: {messages:?}");
        if let Ok(messages) = messages {
            let mut written = Vec::new();
            for message in &messages {
                message.write(&mut written).unwrap();
            }
            assert_eq!(written, command.body, "{file}");
        }
    } else if let Some(codec) = sys_flag::compression(header.sys_flag) {
        let plain = compression::decompress(codec.unwrap(), &command.body, 4 << 20).unwrap();
        assert!(plain.len() > command.body.len(), "{file}");
    }
}

/// Any JSON of the dialect as a plain value; object keys become their text.
fn meaning(text: &[u8]) -> Value {
    fastjson::from_slice(text).unwrap_or_else(|error| {
        panic!("{}: {error}", String::from_utf8_lossy(text));
    })
}

/// Members that are sets in the original, so their order says nothing.
const SETS: [&str; 3] = ["tagsSet", "codeSet", "syncStateSet"];

/// Tables whose values are sets.
const TABLES_OF_SETS: [&str; 2] = ["groupTopicMap", "clusterAddrTable"];

fn assert_same_meaning(file: &str, original: &Value, ours: &Value, default: &Value) {
    match (original, ours) {
        (Value::Object(original), Value::Object(ours)) => {
            for (name, value) in original {
                let Some(own) = ours.get(name) else {
                    panic!("{file}: {name} is lost");
                };
                if SETS.contains(&name.as_str()) {
                    assert_eq!(sorted(value), sorted(own), "{file} {name}");
                } else if TABLES_OF_SETS.contains(&name.as_str()) {
                    for (key, set) in value.as_object().into_iter().flatten() {
                        assert_eq!(sorted(set), sorted(&own[key]), "{file} {name} {key}");
                    }
                } else {
                    assert_same_meaning(file, value, own, &default[name]);
                }
            }
            for (name, value) in ours {
                assert!(
                    original.contains_key(name) || is_empty(value) || *value == default[name],
                    "{file}: {name} is not in the original"
                );
            }
        }
        (Value::Array(original), Value::Array(ours)) => {
            assert_eq!(original.len(), ours.len(), "{file}");
            for (original, ours) in original.iter().zip(ours) {
                assert_same_meaning(file, original, ours, &Value::Null);
            }
        }
        _ => assert_eq!(original, ours, "{file}"),
    }
}

fn sorted(set: &Value) -> Vec<String> {
    let mut texts: Vec<_> = set
        .as_array()
        .unwrap()
        .iter()
        .map(Value::to_string)
        .collect();
    texts.sort_unstable();
    texts
}

/// What a reader takes for missing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.values().all(is_empty),
    }
}
