//! Typed custom headers.

use agena_protocol::ext_fields::{ExtFields, HeaderError};
use agena_protocol::headers::access::*;
use agena_protocol::headers::admin::*;
use agena_protocol::headers::client::*;
use agena_protocol::headers::group::*;
use agena_protocol::headers::namesrv::*;
use agena_protocol::headers::offsets::*;
use agena_protocol::headers::pop::*;
use agena_protocol::headers::pull::*;
use agena_protocol::headers::query::*;
use agena_protocol::headers::replication::*;
use agena_protocol::headers::send::*;
use agena_protocol::headers::topic::*;
use agena_protocol::headers::transaction::*;
use agena_protocol::headers::{DecodeHeader, Header, NoHeader};
use agena_protocol::request_code::RequestCode;

use crate::fixtures::{self, Fixture};

type Rewrite = fn(&ExtFields<'static>) -> Result<ExtFields<'static>, HeaderError>;

macro_rules! rewrite {
    ($kind:ty) => {
        |ext| {
            let header = <$kind>::decode(ext)?;
            let mut written = ExtFields::new();
            header.write(&mut written);
            Ok(written)
        }
    };
}

/// Reads a request's fields into its type and writes them again.
pub(crate) fn request(code: RequestCode) -> Rewrite {
    use RequestCode as C;
    match code {
        C::SendMessage | C::SendReplyMessage => rewrite!(SendMessageRequest<'_>),
        C::SendMessageV2 | C::SendBatchMessage | C::SendReplyMessageV2 => {
            rewrite!(SendMessageRequestV2<'_>)
        }
        C::PushReplyMessageToClient => rewrite!(PushReplyMessageToClientRequest<'_>),
        C::ConsumerSendMsgBack => rewrite!(ConsumerSendMsgBackRequest<'_>),
        C::RecallMessage => rewrite!(RecallMessageRequest<'_>),
        C::EndTransaction => rewrite!(EndTransactionRequest<'_>),
        C::CheckTransactionState => rewrite!(CheckTransactionStateRequest<'_>),
        C::PullMessage | C::LitePullMessage => rewrite!(PullMessageRequest<'_>),
        C::QueryConsumerOffset => rewrite!(QueryConsumerOffsetRequest<'_>),
        C::UpdateConsumerOffset => rewrite!(UpdateConsumerOffsetRequest<'_>),
        C::GetMaxOffset => rewrite!(GetMaxOffsetRequest<'_>),
        C::GetMinOffset => rewrite!(GetMinOffsetRequest<'_>),
        C::SearchOffsetByTimestamp => rewrite!(SearchOffsetByTimestampRequest<'_>),
        C::GetEarliestMsgStoretime => rewrite!(GetEarliestMsgStoretimeRequest<'_>),
        C::UnregisterClient => rewrite!(UnregisterClientRequest<'_>),
        C::GetConsumerListByGroup => rewrite!(GetConsumerListByGroupRequest<'_>),
        C::NotifyConsumerIdsChanged => rewrite!(NotifyConsumerIdsChangedRequest<'_>),
        C::QueryMessage => rewrite!(QueryMessageRequest<'_>),
        C::ViewMessageById => rewrite!(ViewMessageByIdRequest<'_>),
        C::QueryConsumeQueue => rewrite!(QueryConsumeQueueRequest<'_>),
        C::ResumeCheckHalfMessage => rewrite!(ResumeCheckHalfMessageRequest<'_>),
        C::PopMessage => rewrite!(PopMessageRequest<'_>),
        C::AckMessage => rewrite!(AckMessageRequest<'_>),
        C::ChangeMessageInvisibletime => rewrite!(ChangeMessageInvisibletimeRequest<'_>),
        C::Notification => rewrite!(NotificationRequest<'_>),
        C::PollingInfo => rewrite!(PollingInfoRequest<'_>),
        C::PeekMessage => rewrite!(PeekMessageRequest<'_>),
        C::UpdateAndCreateTopic | C::UpdateAndCreateStaticTopic => {
            rewrite!(UpdateAndCreateTopicRequest<'_>)
        }
        C::GetAllTopicConfig => rewrite!(GetAllTopicConfigRequest<'_>),
        C::GetTopicStatsInfo => rewrite!(GetTopicStatsInfoRequest<'_>),
        C::GetTopicConfig => rewrite!(GetTopicConfigRequest<'_>),
        C::DeleteTopicInBroker => rewrite!(DeleteTopicInBrokerRequest<'_>),
        C::DeleteSubscriptiongroup => rewrite!(DeleteSubscriptiongroupRequest<'_>),
        C::GetSubscriptiongroupConfig => rewrite!(GetSubscriptiongroupConfigRequest<'_>),
        C::UpdateAndGetGroupForbidden => rewrite!(UpdateAndGetGroupForbiddenRequest<'_>),
        C::GetConsumerConnectionList => rewrite!(GetConsumerConnectionListRequest<'_>),
        C::GetProducerConnectionList => rewrite!(GetProducerConnectionListRequest<'_>),
        C::GetConsumeStats => rewrite!(GetConsumeStatsRequest<'_>),
        C::GetBrokerConsumeStats => rewrite!(GetBrokerConsumeStatsRequest),
        C::QueryTopicConsumeByWho => rewrite!(QueryTopicConsumeByWhoRequest<'_>),
        C::QueryTopicsByConsumer => rewrite!(QueryTopicsByConsumerRequest<'_>),
        C::QuerySubscriptionByConsumer => rewrite!(QuerySubscriptionByConsumerRequest<'_>),
        C::QueryConsumeTimeSpan => rewrite!(QueryConsumeTimeSpanRequest<'_>),
        C::CloneGroupOffset => rewrite!(CloneGroupOffsetRequest<'_>),
        C::ViewBrokerStatsData => rewrite!(ViewBrokerStatsDataRequest<'_>),
        C::GetConsumerRunningInfo => rewrite!(GetConsumerRunningInfoRequest<'_>),
        C::ConsumeMessageDirectly => rewrite!(ConsumeMessageDirectlyRequest<'_>),
        C::InvokeBrokerToResetOffset => rewrite!(InvokeBrokerToResetOffsetRequest<'_>),
        C::ResetConsumerClientOffset => rewrite!(ResetConsumerClientOffsetRequest<'_>),
        C::GetConsumerStatusFromClient => rewrite!(GetConsumerStatusFromClientRequest<'_>),
        C::InvokeBrokerToGetConsumerStatus => rewrite!(InvokeBrokerToGetConsumerStatusRequest<'_>),
        C::QueryCorrectionOffset => rewrite!(QueryCorrectionOffsetRequest<'_>),
        C::CheckRocksdbCqWriteProgress => rewrite!(CheckRocksdbCqWriteProgressRequest<'_>),
        C::ExportRocksdbConfigToJson => rewrite!(ExportRocksdbConfigToJsonRequest<'_>),
        C::SetCommitlogReadMode => rewrite!(SetCommitlogReadModeRequest<'_>),
        C::ResetMasterFlushOffset => rewrite!(ResetMasterFlushOffsetRequest),
        C::GetRouteinfoByTopic => rewrite!(GetRouteinfoByTopicRequest<'_>),
        C::RegisterBroker => rewrite!(RegisterBrokerRequest<'_>),
        C::UnregisterBroker => rewrite!(UnregisterBrokerRequest<'_>),
        C::QueryDataVersion => rewrite!(QueryDataVersionRequest<'_>),
        C::BrokerHeartbeat => rewrite!(BrokerHeartbeatRequest<'_>),
        C::GetBrokerMemberGroup => rewrite!(GetBrokerMemberGroupRequest<'_>),
        C::NotifyMinBrokerIdChange => rewrite!(NotifyMinBrokerIdChangeRequest<'_>),
        C::PutKvConfig => rewrite!(PutKvConfigRequest<'_>),
        C::GetKvConfig => rewrite!(GetKvConfigRequest<'_>),
        C::DeleteKvConfig => rewrite!(DeleteKvConfigRequest<'_>),
        C::GetKvlistByNamespace => rewrite!(GetKvlistByNamespaceRequest<'_>),
        C::GetTopicsByCluster => rewrite!(GetTopicsByClusterRequest<'_>),
        C::WipeWritePermOfBroker => rewrite!(WipeWritePermOfBrokerRequest<'_>),
        C::AddWritePermOfBroker => rewrite!(AddWritePermOfBrokerRequest<'_>),
        C::DeleteTopicInNamesrv => rewrite!(DeleteTopicInNamesrvRequest<'_>),
        C::RegisterTopicInNamesrv => rewrite!(RegisterTopicInNamesrvRequest<'_>),
        C::ExchangeBrokerHaInfo => rewrite!(ExchangeBrokerHaInfo<'_>),
        C::ControllerAlterSyncStateSet => rewrite!(ControllerAlterSyncStateSetRequest<'_>),
        C::ControllerElectMaster => rewrite!(ControllerElectMasterRequest<'_>),
        C::ControllerRegisterBroker => rewrite!(ControllerRegisterBrokerRequest<'_>),
        C::ControllerGetReplicaInfo => rewrite!(ControllerGetReplicaInfoRequest<'_>),
        C::NotifyBrokerRoleChanged => rewrite!(NotifyBrokerRoleChangedRequest<'_>),
        C::CleanBrokerData => rewrite!(CleanBrokerDataRequest<'_>),
        C::ControllerGetNextBrokerId => rewrite!(ControllerGetNextBrokerIdRequest<'_>),
        C::ControllerApplyBrokerId => rewrite!(ControllerApplyBrokerIdRequest<'_>),
        C::AuthCreateUser | C::AuthUpdateUser | C::AuthDeleteUser | C::AuthGetUser => {
            rewrite!(AuthUserRequest<'_>)
        }
        C::AuthListUser => rewrite!(AuthListUserRequest<'_>),
        C::AuthCreateAcl | C::AuthUpdateAcl | C::AuthGetAcl => rewrite!(AuthAclRequest<'_>),
        C::AuthDeleteAcl => rewrite!(AuthDeleteAclRequest<'_>),
        C::AuthListAcl => rewrite!(AuthListAclRequest<'_>),
        _ => rewrite!(NoHeader),
    }
}

/// Reads a successful answer's fields into its type and writes them again.
pub(crate) fn response(code: RequestCode) -> Rewrite {
    use RequestCode as C;
    match code {
        C::SendMessage
        | C::SendReplyMessage
        | C::SendMessageV2
        | C::SendBatchMessage
        | C::SendReplyMessageV2 => rewrite!(SendMessageResponse<'_>),
        C::RecallMessage => rewrite!(RecallMessageResponse<'_>),
        C::PullMessage | C::LitePullMessage => rewrite!(PullMessageResponse),
        C::QueryConsumerOffset => rewrite!(QueryConsumerOffsetResponse),
        C::GetMaxOffset => rewrite!(GetMaxOffsetResponse),
        C::GetMinOffset => rewrite!(GetMinOffsetResponse),
        C::SearchOffsetByTimestamp => rewrite!(SearchOffsetByTimestampResponse),
        C::GetEarliestMsgStoretime => rewrite!(GetEarliestMsgStoretimeResponse),
        C::HeartBeat => rewrite!(HeartBeatResponse),
        C::QueryMessage => rewrite!(QueryMessageResponse),
        C::PopMessage | C::PeekMessage => rewrite!(PopMessageResponse<'_>),
        C::ChangeMessageInvisibletime => rewrite!(ChangeMessageInvisibletimeResponse),
        C::Notification => rewrite!(NotificationResponse),
        C::PollingInfo => rewrite!(PollingInfoResponse),
        C::GetBrokerConfig => rewrite!(GetBrokerConfigResponse<'_>),
        C::RegisterBroker => rewrite!(RegisterBrokerResponse<'_>),
        C::QueryDataVersion => rewrite!(QueryDataVersionResponse),
        C::GetKvConfig => rewrite!(GetKvConfigResponse<'_>),
        C::WipeWritePermOfBroker => rewrite!(WipeWritePermOfBrokerResponse),
        C::AddWritePermOfBroker => rewrite!(AddWritePermOfBrokerResponse),
        C::ExchangeBrokerHaInfo => rewrite!(ExchangeBrokerHaInfo<'_>),
        C::ControllerAlterSyncStateSet => rewrite!(ControllerAlterSyncStateSetResponse),
        C::ControllerElectMaster => rewrite!(ControllerElectMasterResponse<'_>),
        C::ControllerRegisterBroker => rewrite!(ControllerRegisterBrokerResponse<'_>),
        C::ControllerGetReplicaInfo => rewrite!(ControllerGetReplicaInfoResponse<'_>),
        C::ControllerGetMetadataInfo => rewrite!(ControllerGetMetadataInfoResponse<'_>),
        C::ControllerGetNextBrokerId => rewrite!(ControllerGetNextBrokerIdResponse<'_>),
        C::ControllerApplyBrokerId => rewrite!(ControllerApplyBrokerIdResponse<'_>),
        _ => rewrite!(NoHeader),
    }
}

/// Fields that any request may carry besides its own: signatures and the marks of the original's base classes.
const COMMON: [&str; 6] = [
    "AccessKey",
    "SecurityToken",
    "Signature",
    "ReqT",
    "bname",
    "lo",
];

fn assert_same_fields(fixture: &Fixture, found: &ExtFields<'_>, written: &ExtFields<'_>) {
    for (name, value) in found.iter() {
        if written.get(name).is_none() && COMMON.contains(&name) {
            continue;
        }
        assert_eq!(
            written.get(name),
            Some(value),
            "{} {name}",
            fixture.entry.file
        );
    }
    for (name, _) in written.iter() {
        assert!(found.get(name).is_some(), "{} {name}", fixture.entry.file);
    }
}

#[test]
fn every_request_s_fields_read_without_loss_unless_the_original_refused_them() {
    let mut read = 0;
    for fixture in fixtures::frames().iter().filter(|f| !f.is_response()) {
        let command = fixture.command();
        if fixture.answered == Some(3) {
            continue;
        }
        let code = fixture.request().unwrap();
        match request(code)(&command.ext) {
            Ok(written) => {
                assert_same_fields(fixture, &command.ext, &written);
                read += 1;
            }
            Err(error) => assert!(
                fixture.answered.is_some_and(|code| code != 0),
                "{}: {error}, but the original answered {:?}",
                fixture.entry.file,
                fixture.answered
            ),
        }
    }
    assert!(read > 400, "{read}");
}

#[test]
fn every_successful_answer_s_fields_read_without_loss() {
    let mut read = 0;
    for fixture in fixtures::frames() {
        if !fixture.is_response() || fixture.entry.code != 0 {
            continue;
        }
        let command = fixture.command();
        let written = response(fixture.request().unwrap())(&command.ext)
            .unwrap_or_else(|error| panic!("{}: {error}", fixture.entry.file));
        assert_same_fields(&fixture, &command.ext, &written);
        read += 1;
    }
    assert!(read > 300, "{read}");
}

#[test]
fn a_pull_that_found_nothing_still_says_where_to_go_on() {
    let mut read = 0;
    for fixture in fixtures::frames() {
        let pull = matches!(
            fixture.request(),
            Some(RequestCode::PullMessage | RequestCode::LitePullMessage)
        );
        if fixture.is_response() && pull && matches!(fixture.entry.code, 19..=21) {
            let command = fixture.command();
            let header: PullMessageResponse = command.header().unwrap();
            assert!(header.next_begin_offset >= 0);
            read += 1;
        }
    }
    assert!(read > 3, "{read}");
}
